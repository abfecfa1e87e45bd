//! Messages of discovery: which communities a peer is in, and whether it still lives.
//= spec/overlay.md#6-discoverycommunity

use fairshare_wire::{CommunityId, ReadError, Reader, Writer, read_ip4, write_ip4};
use std::net::SocketAddrV4;

const ID_LEN: usize = 20;

/// "These are my communities; which are yours?"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimilarityRequest {
    /// Echoed by the response.
    pub identifier: u16,
    /// The sender in its own network.
    pub lan: SocketAddrV4,
    /// The sender from outside.
    pub wan: SocketAddrV4,
    /// The communities of the signing key.
    pub communities: Vec<CommunityId>,
}

impl SimilarityRequest {
    /// Writes the payload; the connection type is sent as unknown, like everybody does.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u16(self.identifier);
        write_ip4(&mut out, self.lan);
        write_ip4(&mut out, self.wan);
        out.u8(0);
        for community in &self.communities {
            out.bytes(&community.0);
        }
        out.finish()
    }

    /// Reads a payload. A last id that is cut short is ignored, as in the field.
    pub fn decode(payload: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(payload);
        let identifier = input.u16()?;
        let lan = read_ip4(&mut input)?;
        let wan = read_ip4(&mut input)?;
        input.u8()?;
        Ok(Self { identifier, lan, wan, communities: ids(input.rest()) })
    }
}

/// "These are mine."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimilarityResponse {
    /// That of the request.
    pub identifier: u16,
    /// The communities of the signing key.
    pub communities: Vec<CommunityId>,
}

impl SimilarityResponse {
    /// Writes the payload; the overlap list at its end stays empty, like everybody leaves it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        let count = u16::try_from(self.communities.len()).expect("a node is in few communities");
        out.u16(self.identifier).u16(count);
        for community in &self.communities {
            out.bytes(&community.0);
        }
        out.finish()
    }

    /// Reads a payload; overlap entries behind the list are ignored.
    pub fn decode(payload: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(payload);
        let identifier = input.u16()?;
        let count = usize::from(input.u16()?);
        let communities = ids(input.take(count * ID_LEN)?);
        Ok(Self { identifier, communities })
    }
}

/// The payload of a ping or pong.
pub(crate) fn encode_identifier(identifier: u16) -> Vec<u8> {
    identifier.to_be_bytes().to_vec()
}

/// Reads the payload of a ping or pong.
pub(crate) fn decode_identifier(payload: &[u8]) -> Result<u16, ReadError> {
    let mut input = Reader::new(payload);
    let identifier = input.u16()?;
    input.end()?;
    Ok(identifier)
}

fn ids(bytes: &[u8]) -> Vec<CommunityId> {
    bytes.as_chunks::<ID_LEN>().0.iter().copied().map(CommunityId).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_wire::UNKNOWN_V4;
    use proptest::prelude::*;

    //= spec/overlay.md#6-discoverycommunity
    #[test]
    fn a_last_id_that_is_cut_short_is_ignored() {
        let request = SimilarityRequest {
            identifier: 3,
            lan: UNKNOWN_V4,
            wan: UNKNOWN_V4,
            communities: vec![CommunityId([1; 20])],
        };
        let mut bytes = request.encode();
        bytes.extend_from_slice(&[9; 19]);
        assert_eq!(SimilarityRequest::decode(&bytes), Ok(request));
    }

    #[test]
    fn a_count_beyond_the_payload_is_an_error() {
        assert!(SimilarityResponse::decode(&[0, 1, 0xff, 0xff, 1, 2, 3]).is_err());
    }

    proptest! {
        #[test]
        fn a_response_is_read_back(identifier: u16, ids in prop::collection::vec(any::<[u8; 20]>(), 0..8)) {
            let communities = ids.into_iter().map(CommunityId).collect();
            let response = SimilarityResponse { identifier, communities };
            prop_assert_eq!(SimilarityResponse::decode(&response.encode()), Ok(response));
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = SimilarityRequest::decode(&bytes);
            let _ = SimilarityResponse::decode(&bytes);
            let _ = decode_identifier(&bytes);
        }
    }
}
