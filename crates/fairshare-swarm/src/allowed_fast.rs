//! Which pieces a peer may request while it is choked (BEP 6): both ends can compute the set.
//= spec/swarm.md#3-message-framing-and-core-messages

use crate::metainfo::InfoHash;
use fairshare_crypto::sha1;
use std::net::Ipv4Addr;

/// Pieces of the set that we announce.
pub const ALLOWED_FAST_LEN: usize = 10;

/// The first `len` pieces of the set for the peer at `ip`, in order; all pieces if there are no more.
pub fn allowed_fast(ip: Ipv4Addr, info_hash: InfoHash, pieces: u32, len: usize) -> Vec<u32> {
    let len = len.min(pieces as usize);
    let mut set = Vec::with_capacity(len);
    let network = u32::from(ip) & 0xffff_ff00;
    let mut text = network.to_be_bytes().to_vec();
    text.extend_from_slice(&info_hash.0);
    while set.len() < len {
        let hash = sha1(&text);
        for word in hash.chunks_exact(4) {
            let word = u32::from_be_bytes(word.try_into().expect("chunks of four"));
            let piece = word % pieces;
            if set.len() < len && !set.contains(&piece) {
                set.push(piece);
            }
        }
        text = hash.to_vec();
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/swarm.md#3-message-framing-and-core-messages
    #[test]
    fn the_set_is_the_published_one_for_every_address_of_the_network() {
        for last in [0, 200, 255] {
            let set = allowed_fast(Ipv4Addr::new(80, 4, 4, last), InfoHash([0xaa; 20]), 1_313, 7);
            assert_eq!(set, [1_059, 431, 808, 1_217, 287, 376, 1_188]);
        }
    }

    #[test]
    fn a_small_torrent_gives_all_its_pieces_and_an_empty_one_none() {
        let mut set = allowed_fast(Ipv4Addr::LOCALHOST, InfoHash([1; 20]), 4, ALLOWED_FAST_LEN);
        set.sort_unstable();
        assert_eq!(set, [0, 1, 2, 3]);
        assert!(allowed_fast(Ipv4Addr::LOCALHOST, InfoHash([1; 20]), 0, ALLOWED_FAST_LEN).is_empty());
    }
}
