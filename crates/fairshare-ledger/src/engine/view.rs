//! The store with what is signed or accepted but not on disk yet.

use crate::block::{BlockHash, BlockType, HalfBlock};
use crate::fork::ForkProof;
use crate::memory::MemoryStore;
use crate::store::{ChainStore, Entries, RecordKind, StoreError};
use fairshare_crypto::PublicKey;
use std::sync::Arc;

type Found = Result<Option<Arc<HalfBlock>>, StoreError>;

/// Numbers looked at to find the end of blocks that are partly on disk and partly not. Beyond it the answer may be
/// a number that is known, which costs a question too much.
const STEPS_MAX: u32 = 1000;

/// Where the places of what is not on disk begin in the order of what is stored: behind all that is.
const PENDING: u64 = 1 << 62;

/// Reads `pending` first, then `store`.
pub(super) struct View<'a, S> {
    pub(super) pending: &'a MemoryStore,
    pub(super) store: &'a S,
}

impl<S: ChainStore> ChainStore for View<'_, S> {
    fn get(&self, owner: &PublicKey, sequence: u32) -> Found {
        match self.pending.get(owner, sequence)? {
            Some(block) => Ok(Some(block)),
            None => self.store.get(owner, sequence),
        }
    }

    fn newest(&self, owner: &PublicKey) -> Found {
        Ok(higher(self.pending.newest(owner)?, self.store.newest(owner)?))
    }

    fn before(&self, owner: &PublicKey, sequence: u32) -> Found {
        Ok(higher(self.pending.before(owner, sequence)?, self.store.before(owner, sequence)?))
    }

    fn after(&self, owner: &PublicKey, sequence: u32) -> Found {
        Ok(lower(self.pending.after(owner, sequence)?, self.store.after(owner, sequence)?))
    }

    fn links_to(&self, owner: &PublicKey, sequence: u32) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        let mut found = self.store.links_to(owner, sequence)?;
        for block in self.pending.links_to(owner, sequence)? {
            if !found.contains(&block) {
                found.push(block);
            }
        }
        Ok(found)
    }

    fn range(
        &self,
        owner: &PublicKey,
        from: u32,
        to: u32,
        limit: usize,
    ) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        let mut found = self.store.range(owner, from, to, limit)?;
        let pending = self.pending.range(owner, from, to, limit)?;
        if !pending.is_empty() {
            found.extend(pending);
            found.sort_by_key(|block| block.sequence);
            found.dedup_by_key(|block| block.sequence);
            found.truncate(limit);
        }
        Ok(found)
    }

    fn by_hash(&self, hash: &BlockHash) -> Found {
        match self.pending.by_hash(hash)? {
            Some(block) => Ok(Some(block)),
            None => self.store.by_hash(hash),
        }
    }

    fn newest_of_kind(&self, owner: &PublicKey, kind: &BlockType, below: Option<u32>) -> Found {
        let pending = self.pending.newest_of_kind(owner, kind, below)?;
        Ok(higher(pending, self.store.newest_of_kind(owner, kind, below)?))
    }

    fn next_of_kind(&self, owner: &PublicKey, kind: &BlockType, above: u32) -> Found {
        let pending = self.pending.next_of_kind(owner, kind, above)?;
        Ok(lower(pending, self.store.next_of_kind(owner, kind, above)?))
    }

    fn proofs(&self) -> Result<Vec<ForkProof>, StoreError> {
        self.store.proofs()
    }

    fn recent(&self, limit: usize) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        let mut found = self.pending.recent(limit)?;
        for block in self.store.recent(limit)? {
            if !found.contains(&block) {
                found.push(block);
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    fn stored_after(&self, after: u64, limit: usize) -> Result<Vec<(u64, Arc<HalfBlock>)>, StoreError> {
        let mut found = if after < PENDING { self.store.stored_after(after, limit)? } else { Vec::new() };
        let rest = limit.saturating_sub(found.len());
        let pending = self.pending.stored_after(after.saturating_sub(PENDING), rest)?;
        found.extend(pending.into_iter().map(|(number, block)| (PENDING.saturating_add(number), block)));
        Ok(found)
    }

    fn block_count(&self) -> Result<u64, StoreError> {
        Ok(self.store.block_count()?.saturating_add(self.pending.block_count()?))
    }

    fn lowest_unknown(&self, owner: &PublicKey) -> Result<u32, StoreError> {
        let mut number = self.store.lowest_unknown(owner)?;
        for _ in 0..STEPS_MAX {
            match number.checked_add(1) {
                Some(next) if self.get(owner, number)?.is_some() => number = next,
                _ => break,
            }
        }
        Ok(number)
    }

    fn records(&self, kind: RecordKind) -> Result<Entries, StoreError> {
        self.store.records(kind)
    }
}

fn higher(one: Option<Arc<HalfBlock>>, other: Option<Arc<HalfBlock>>) -> Option<Arc<HalfBlock>> {
    one.into_iter().chain(other).max_by_key(|block| block.sequence)
}

fn lower(one: Option<Arc<HalfBlock>>, other: Option<Arc<HalfBlock>>) -> Option<Arc<HalfBlock>> {
    one.into_iter().chain(other).min_by_key(|block| block.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::check_store;
    use crate::store::Batch;

    /// Stores that live as long as the test process: a view borrows what it reads.
    fn view(pending: MemoryStore, store: MemoryStore) -> View<'static, MemoryStore> {
        View { pending: Box::leak(Box::new(pending)), store: Box::leak(Box::new(store)) }
    }

    #[test]
    fn what_is_not_on_disk_yet_is_seen_like_what_is() {
        for seed in 0..8 {
            let mut waiting = Batch::default();
            check_store([seed; 32], view(MemoryStore::new(), MemoryStore::new()), |both, batch| {
                let mut store = both.store.clone();
                store.apply(&std::mem::take(&mut waiting));
                // Proofs and records are read from the store alone.
                store.apply(&Batch { blocks: Vec::new(), ..batch.clone() });
                let mut pending = MemoryStore::new();
                for block in &batch.blocks {
                    if store.get(&block.owner, block.sequence) == Ok(None) {
                        pending.insert(block);
                        waiting.blocks.push(Arc::clone(block));
                    }
                }
                *both = view(pending, store);
            });
        }
    }
}
