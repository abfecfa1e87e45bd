//! A small cache of blocks that were read a moment ago. Stored blocks never change, so nothing in it goes stale.

use fairshare_crypto::PublicKey;
use fairshare_ledger::HalfBlock;
use std::collections::HashMap;
use std::sync::Arc;

/// Blocks per generation: two generations of 350-byte blocks stay below 2 MiB.
const GENERATION: usize = 2_048;

/// Two generations: a hit in the old one moves the block to the new one; when the new one is full it becomes the
/// old one, and what was not asked for meanwhile is gone. Never iterated, so a hashed map is safe here.
#[derive(Default)]
pub(super) struct RecentBlocks {
    new: HashMap<(PublicKey, u32), Arc<HalfBlock>>,
    old: HashMap<(PublicKey, u32), Arc<HalfBlock>>,
}

impl RecentBlocks {
    pub(super) fn get(&mut self, owner: &PublicKey, sequence: u32) -> Option<Arc<HalfBlock>> {
        let place = (*owner, sequence);
        if let Some(block) = self.new.get(&place) {
            return Some(block.clone());
        }
        let block = self.old.get(&place)?.clone();
        self.put(block.clone());
        Some(block)
    }

    pub(super) fn put(&mut self, block: Arc<HalfBlock>) {
        if self.new.len() >= GENERATION {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert((block.owner, block.sequence), block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use fairshare_crypto::{Rng, SecretKey};
    use fairshare_ledger::{ANY, BlockType, Draft, GENESIS_HASH};

    fn block(sequence: u32) -> Arc<HalfBlock> {
        let draft = Draft {
            sequence,
            link_owner: ANY,
            link_sequence: 0,
            previous_hash: GENESIS_HASH,
            kind: BlockType::new(b"test"),
            transaction: Bytes::new(),
            timestamp_ms: 0,
        };
        Arc::new(HalfBlock::sign(&SecretKey::generate(&mut Rng::from_seed([1; 32])), draft))
    }

    #[test]
    fn holds_a_bounded_number_and_keeps_what_is_asked_for() {
        let mut recent = RecentBlocks::default();
        let wanted = block(0);
        for sequence in 0..(3 * GENERATION as u32) {
            recent.put(block(sequence));
            assert_eq!(recent.get(&wanted.owner, 0).as_ref(), Some(&wanted), "asked for all the time");
        }
        assert!(recent.new.len() + recent.old.len() <= 2 * GENERATION);
        assert_eq!(recent.get(&wanted.owner, 1), None, "not asked for again");
    }
}
