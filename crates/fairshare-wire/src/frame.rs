//! The IPv8 packet frame: prefix, message id, and either a signed or an unsigned body.
//= spec/overlay.md#3-packet-frame

use crate::cursor::{ReadError, Reader, Writer};
use fairshare_crypto::{KEY_LEN, PublicKey, SIGNATURE_LEN, SecretKey, Signature};
use std::fmt;
use thiserror::Error;

/// Bytes in front of the message id: zero, version, community id.
pub const PREFIX_LEN: usize = 22;
/// What the frame of a signed message with global time adds to its payload, in bytes.
pub const SIGNED_OVERHEAD: usize = PREFIX_LEN + 1 + 2 + KEY_LEN + 8 + SIGNATURE_LEN;
/// What the frame of an unsigned message with global time adds to its payload, in bytes.
pub const UNSIGNED_OVERHEAD: usize = PREFIX_LEN + 1 + 8;

const VERSION: u8 = 2;

/// The 20 bytes that name a community.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommunityId(pub [u8; 20]);

impl fmt::Debug for CommunityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Why a datagram is no packet.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The first two bytes are not those of IPv8, version 2.
    #[error("not an IPv8 packet of version 2")]
    Prefix,
    /// A field is cut off or malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The key field is not exactly one Curve25519 key.
    #[error("the key field is not a Curve25519 key of 74 bytes")]
    Key,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Signature,
}

/// A datagram taken apart as far as the message id; the body is not yet judged.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The community it is for.
    pub community: CommunityId,
    /// The message id inside the community.
    pub message_id: u8,
    packet: &'a [u8],
}

/// The body of a packet whose signature, if it has one, was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The signer; `None` for an unsigned message.
    pub sender: Option<PublicKey>,
    /// The sender's Lamport clock: no meaning, kept for tests.
    pub global_time: u64,
    /// The message's own fields.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the prefix and the message id: cheap, for demultiplexing.
    pub fn parse(packet: &'a [u8]) -> Result<Self, FrameError> {
        let mut input = Reader::new(packet);
        if input.array()? != [0, VERSION] {
            return Err(FrameError::Prefix);
        }
        let community = CommunityId(input.array()?);
        Ok(Self { community, message_id: input.u8()?, packet })
    }

    /// Reads the body as an unsigned message.
    pub fn unsigned(&self) -> Result<Packet<'a>, FrameError> {
        let mut input = self.body();
        let global_time = input.u64()?;
        Ok(Packet { sender: None, global_time, payload: input.rest() })
    }

    /// Reads the body as a signed message and checks the signature, last and only if all else is well formed.
    pub fn signed(&self) -> Result<Packet<'a>, FrameError> {
        let (sender, mut input, signature) = self.signed_parts()?;
        let global_time = input.u64()?;
        let covered = &self.packet[..self.packet.len() - SIGNATURE_LEN];
        if !sender.verify(covered, &signature) {
            return Err(FrameError::Signature);
        }
        Ok(Packet { sender: Some(sender), global_time, payload: input.rest() })
    }

    /// The signer named in a signed packet, before its signature is checked.
    pub fn claimed_sender(&self) -> Result<PublicKey, FrameError> {
        self.signed_parts().map(|(sender, ..)| sender)
    }

    fn signed_parts(&self) -> Result<(PublicKey, Reader<'a>, Signature), FrameError> {
        let mut input = self.body();
        let key = input.var16()?;
        let sender = PublicKey::try_from(key).map_err(|_| FrameError::Key)?;
        let left = input.left();
        let body_len =
            left.checked_sub(SIGNATURE_LEN).ok_or(ReadError::Short { wanted: SIGNATURE_LEN, left })?;
        let body = input.take(body_len)?;
        Ok((sender, Reader::new(body), Signature(input.array()?)))
    }

    fn body(&self) -> Reader<'a> {
        Reader::new(&self.packet[PREFIX_LEN + 1..])
    }
}

/// Builds a signed packet.
pub fn sign_packet(
    key: &SecretKey,
    community: CommunityId,
    message_id: u8,
    global_time: u64,
    payload: &[u8],
) -> Vec<u8> {
    let mut out = start(community, message_id, SIGNED_OVERHEAD + payload.len());
    out.var16(key.public().as_bytes()).u64(global_time).bytes(payload);
    let signature = key.sign(out.as_slice());
    out.bytes(&signature.0).finish()
}

/// Builds an unsigned packet.
pub fn unsigned_packet(community: CommunityId, message_id: u8, global_time: u64, payload: &[u8]) -> Vec<u8> {
    start(community, message_id, UNSIGNED_OVERHEAD + payload.len()).u64(global_time).bytes(payload).finish()
}

fn start(community: CommunityId, message_id: u8, len: usize) -> Writer {
    let mut out = Writer::with_capacity(len);
    out.u8(0).u8(VERSION).bytes(&community.0).u8(message_id);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;

    const COMMUNITY: CommunityId = CommunityId([9; 20]);

    #[test]
    fn a_signed_packet_is_read_back() {
        let key = SecretKey::generate(&mut Rng::from_seed([1; 32]));
        let packet = sign_packet(&key, COMMUNITY, 246, 5, b"payload");
        assert_eq!(packet.len(), SIGNED_OVERHEAD + 7);
        let frame = Frame::parse(&packet).expect("frame");
        assert_eq!((frame.community, frame.message_id), (COMMUNITY, 246));
        let expected = Packet { sender: Some(key.public()), global_time: 5, payload: b"payload" };
        assert_eq!(frame.signed(), Ok(expected));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let key = SecretKey::generate(&mut Rng::from_seed([1; 32]));
        let packet = sign_packet(&key, COMMUNITY, 246, 5, b"payload");
        for at in 0..packet.len() {
            let mut changed = packet.clone();
            changed[at] ^= 1;
            assert!(
                Frame::parse(&changed).and_then(|frame| frame.signed().map(|_| ())).is_err(),
                "byte {at}"
            );
        }
        for len in 0..packet.len() {
            assert!(Frame::parse(&packet[..len]).and_then(|frame| frame.signed().map(|_| ())).is_err());
        }
    }

    #[test]
    fn an_unsigned_packet_is_read_back() {
        let packet = unsigned_packet(COMMUNITY, 3, 8, &[1, 2]);
        let frame = Frame::parse(&packet).expect("frame");
        assert_eq!(frame.unsigned(), Ok(Packet { sender: None, global_time: 8, payload: &[1, 2] }));
    }
}
