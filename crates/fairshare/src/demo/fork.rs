//! The forker's crime, committed outside the product: a second block with the number of its newest proposal, signed
//! with its own key and sent from a plain socket. The product itself has no way to do this.

use bytes::Bytes;
use fairshare_crypto::SecretKey;
use fairshare_ledger::{Draft, HalfBlock};
use fairshare_wire::{CommunityId, unsigned_packet};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// Message 1 of the TrustChain community carries one half block.
//= spec/trustchain.md#5-messages
const HALF_BLOCK: u8 = 1;

/// A block at the same place of the chain that says something else.
pub(crate) fn second_block(key: &SecretKey, first: &HalfBlock) -> HalfBlock {
    assert_eq!(key.public(), first.owner, "only the owner can sign a second block");
    HalfBlock::sign(
        key,
        Draft {
            sequence: first.sequence,
            link_owner: first.link_owner,
            link_sequence: first.link_sequence,
            previous_hash: first.previous_hash,
            kind: first.kind.clone(),
            transaction: Bytes::clone(&first.transaction),
            timestamp_ms: first.timestamp_ms + 1,
        },
    )
}

/// Sends a block as a datagram to each address.
pub(crate) fn send(
    block: &HalfBlock,
    community: CommunityId,
    from: Ipv4Addr,
    to: &[SocketAddr],
) -> std::io::Result<()> {
    let socket = UdpSocket::bind((from, 0))?;
    let packet = unsigned_packet(community, HALF_BLOCK, 1, &block.to_bytes());
    to.iter().try_for_each(|address| socket.send_to(&packet, address).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;
    use fairshare_ledger::{BlockType, ForkKind, ForkProof, GENESIS_HASH};
    use std::sync::Arc;

    //= spec/trustchain.md#7-fraud
    #[test]
    fn the_two_blocks_convict_their_signer() {
        let mut rng = Rng::from_seed([2; 32]);
        let (zoe, anna) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
        let first = HalfBlock::sign(
            &zoe,
            Draft {
                sequence: 1,
                link_owner: anna.public(),
                link_sequence: 0,
                previous_hash: GENESIS_HASH,
                kind: BlockType::from("test"),
                transaction: Bytes::from_static(b"a0d"),
                timestamp_ms: 5,
            },
        );
        let second = second_block(&zoe, &first);
        let proof = ForkProof::new(ForkKind::DoubleSign, Arc::new(first), Arc::new(second)).expect("a proof");
        assert_eq!(*proof.accused(), zoe.public());
    }
}
