//! The communities: ids that everybody knows, and which messages of a community are signed.
//= spec/overlay.md#12-community-ids

use fairshare_wire::CommunityId;

/// Discovery: finds peers and tells them which communities we are in.
pub const DISCOVERY: CommunityId = id("7e313685c1912a141279f8248fc8db5899c5df5a");
/// TrustChain, as living peers speak it.
pub const TRUSTCHAIN: CommunityId = id("5ad767b05ae592a02488272ca2a86b847d4562e1");
/// Our ledger community: fork proofs and complete crawls.
pub const LEDGER: CommunityId = id("f8cb61b81eb4f61143ffe6a17a0948b16674b5ef");
/// Circuits, as living peers build them.
pub const TUNNEL_STOCK: CommunityId = id("81ded07332bdc775aa5a46f96de9f8f390bbc9f3");
/// Circuits among our nodes.
pub const TUNNEL: CommunityId = id("707ec4fc71d6d0bc28b52d61f77ad0eccf074153");
/// The overlay's distributed hash table.
pub const DHT: CommunityId = id("8d0be1845d74d175f178197cad001591d04d73cc");

/// A community as the overlay sees it: its id and the ids of its own messages. Messages with other ids are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Community {
    /// The 20 bytes on the wire.
    pub id: CommunityId,
    /// Messages that carry a key and a signature.
    pub signed_ids: &'static [u8],
    /// Messages that carry neither.
    pub unsigned_ids: &'static [u8],
}

impl Community {
    /// Discovery. The overlay handles its messages itself.
    //= spec/overlay.md#6-discoverycommunity
    pub const fn discovery() -> Self {
        Self { id: DISCOVERY, signed_ids: &[1, 2], unsigned_ids: &[3, 4] }
    }

    /// TrustChain: of its messages only the crawl request is signed.
    //= spec/trustchain.md#5-messages
    pub const fn trustchain() -> Self {
        Self { id: TRUSTCHAIN, signed_ids: &[2], unsigned_ids: &[1, 3, 4, 5, 6, 7] }
    }

    /// Our ledger community: proofs and crawl answers prove themselves, questions are signed.
    //= spec/trustchain.md#13-our-ledger-community
    pub const fn ledger() -> Self {
        Self { id: LEDGER, signed_ids: &[2, 3, 4], unsigned_ids: &[1, 5] }
    }

    /// A community whose own messages another engine reads: the overlay only introduces.
    pub const fn introductions(id: CommunityId) -> Self {
        Self { id, signed_ids: &[], unsigned_ids: &[] }
    }
}

/// The id written as 40 lower-case hexadecimal digits.
const fn id(text: &str) -> CommunityId {
    let digits = text.as_bytes();
    assert!(digits.len() == 40, "a community id has 20 bytes");
    let mut out = [0; 20];
    let mut at = 0;
    while at < out.len() {
        out[at] = digit(digits[2 * at]) << 4 | digit(digits[2 * at + 1]);
        at += 1;
    }
    CommunityId(out)
}

const fn digit(text: u8) -> u8 {
    match text {
        b'0'..=b'9' => text - b'0',
        b'a'..=b'f' => text - b'a' + 10,
        _ => panic!("a hexadecimal digit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::sha1;

    //= spec/overlay.md#12-community-ids
    #[test]
    fn our_own_ids_are_the_hashes_of_their_names() {
        assert_eq!(LEDGER.0, sha1(b"fairshare/ledger/1"));
        assert_eq!(TUNNEL.0, sha1(b"fairshare/tunnel/1"));
    }

    #[test]
    fn an_id_shows_as_it_is_written() {
        assert_eq!(format!("{TRUSTCHAIN:?}"), "5ad767b05ae592a02488272ca2a86b847d4562e1");
    }
}
