//! A store that lives in memory: for the simulator, for tests, and for what the engine has not persisted yet.

use crate::block::{BlockHash, BlockType, HalfBlock};
use crate::fork::{ForkKind, ForkProof, PROOFS_MAX};
use crate::store::{Batch, ChainStore, Entries, Record, RecordKind, StoreError};
use fairshare_crypto::PublicKey;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

type Found = Result<Option<Arc<HalfBlock>>, StoreError>;

/// Chains, links and journals in ordered maps.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    chains: BTreeMap<PublicKey, Chain>,
    links: BTreeMap<(PublicKey, u32), Vec<Arc<HalfBlock>>>,
    /// With the number of its arrival.
    by_hash: BTreeMap<BlockHash, (u64, Arc<HalfBlock>)>,
    /// Blocks by the order in which they came.
    arrivals: BTreeMap<u64, BlockHash>,
    arrived: u64,
    conflicts: BTreeMap<BlockHash, Arc<HalfBlock>>,
    proofs: BTreeMap<u64, ForkProof>,
    accused: BTreeMap<(PublicKey, ForkKind), u64>,
    records: BTreeMap<(RecordKind, Vec<u8>), Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
struct Chain {
    blocks: BTreeMap<u32, Arc<HalfBlock>>,
    kinds: BTreeMap<BlockType, BTreeSet<u32>>,
    /// No number from 1 up to here is missing.
    complete_to: u32,
}

impl Chain {
    fn remove(&mut self, block: &HalfBlock) {
        self.blocks.remove(&block.sequence);
        self.complete_to = self.complete_to.min(block.sequence.saturating_sub(1));
        if let Some(numbers) = self.kinds.get_mut(&block.kind) {
            numbers.remove(&block.sequence);
        }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a batch.
    pub fn apply(&mut self, batch: &Batch) {
        for block in &batch.blocks {
            self.insert(block);
        }
        for block in &batch.conflicts {
            self.conflicts.insert(block.hash(), Arc::clone(block));
        }
        for proof in &batch.proofs {
            self.insert_proof(proof);
        }
        for Record { kind, key, value } in &batch.records {
            match value {
                Some(value) => self.records.insert((*kind, key.clone()), value.clone()),
                None => self.records.remove(&(*kind, key.clone())),
            };
        }
    }

    /// Blocks that contradict one in a chain, ascending by hash.
    pub fn conflicts(&self) -> impl Iterator<Item = &Arc<HalfBlock>> {
        self.conflicts.values()
    }

    /// Keys of all chains with at least one block, ascending.
    pub fn owners(&self) -> impl Iterator<Item = &PublicKey> {
        self.chains.keys()
    }

    pub(crate) fn insert(&mut self, block: &Arc<HalfBlock>) {
        let chain = self.chains.entry(block.owner).or_default();
        if chain.blocks.contains_key(&block.sequence) {
            return;
        }
        chain.blocks.insert(block.sequence, Arc::clone(block));
        chain.kinds.entry(block.kind.clone()).or_default().insert(block.sequence);
        while let Some(next) = chain.complete_to.checked_add(1).filter(|next| chain.blocks.contains_key(next))
        {
            chain.complete_to = next;
        }
        if !block.is_proposal() {
            let links = self.links.entry((block.link_owner, block.link_sequence)).or_default();
            links.push(Arc::clone(block));
        }
        self.arrived += 1;
        self.by_hash.insert(block.hash(), (self.arrived, Arc::clone(block)));
        self.arrivals.insert(self.arrived, block.hash());
    }

    /// Forgets a block: for what the engine holds only until the real store has it.
    pub(crate) fn remove(&mut self, block: &HalfBlock) {
        let Some((arrival, _)) = self.by_hash.remove(&block.hash()) else { return };
        self.arrivals.remove(&arrival);
        if let Some(chain) = self.chains.get_mut(&block.owner) {
            chain.remove(block);
            if chain.blocks.is_empty() {
                self.chains.remove(&block.owner);
            }
        }
        let link = (block.link_owner, block.link_sequence);
        if let Some(links) = self.links.get_mut(&link) {
            links.retain(|other| other.hash() != block.hash());
            if links.is_empty() {
                self.links.remove(&link);
            }
        }
    }

    fn insert_proof(&mut self, proof: &ForkProof) {
        let name = (*proof.accused(), proof.kind());
        if self.accused.contains_key(&name) {
            return;
        }
        self.arrived += 1;
        self.accused.insert(name, self.arrived);
        self.proofs.insert(self.arrived, proof.clone());
        if self.proofs.len() > PROOFS_MAX
            && let Some((_, oldest)) = self.proofs.pop_first()
        {
            self.accused.remove(&(*oldest.accused(), oldest.kind()));
        }
    }

    fn chain(&self, owner: &PublicKey) -> Option<&BTreeMap<u32, Arc<HalfBlock>>> {
        self.chains.get(owner).map(|chain| &chain.blocks)
    }
}

impl ChainStore for MemoryStore {
    fn get(&self, owner: &PublicKey, sequence: u32) -> Found {
        Ok(self.chain(owner).and_then(|chain| chain.get(&sequence)).cloned())
    }

    fn newest(&self, owner: &PublicKey) -> Found {
        Ok(self.chain(owner).and_then(|chain| chain.values().next_back()).cloned())
    }

    fn before(&self, owner: &PublicKey, sequence: u32) -> Found {
        Ok(self
            .chain(owner)
            .and_then(|chain| chain.range(..sequence).next_back())
            .map(|(_, b)| Arc::clone(b)))
    }

    fn after(&self, owner: &PublicKey, sequence: u32) -> Found {
        let above = (Excluded(sequence), Unbounded);
        Ok(self.chain(owner).and_then(|chain| chain.range(above).next()).map(|(_, b)| Arc::clone(b)))
    }

    fn links_to(&self, owner: &PublicKey, sequence: u32) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        Ok(self.links.get(&(*owner, sequence)).cloned().unwrap_or_default())
    }

    fn range(
        &self,
        owner: &PublicKey,
        from: u32,
        to: u32,
        limit: usize,
    ) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        let Some(chain) = self.chain(owner).filter(|_| from <= to) else { return Ok(Vec::new()) };
        Ok(chain.range(from..=to).take(limit).map(|(_, block)| Arc::clone(block)).collect())
    }

    fn by_hash(&self, hash: &BlockHash) -> Found {
        Ok(self.by_hash.get(hash).map(|(_, block)| Arc::clone(block)))
    }

    fn newest_of_kind(&self, owner: &PublicKey, kind: &BlockType, below: Option<u32>) -> Found {
        let numbers = (Unbounded, below.map_or(Unbounded, Excluded));
        Ok(self.of_kind(owner, kind, |of_kind| of_kind.range(numbers).next_back().copied()))
    }

    fn next_of_kind(&self, owner: &PublicKey, kind: &BlockType, above: u32) -> Found {
        let numbers = (Excluded(above), Unbounded);
        Ok(self.of_kind(owner, kind, |of_kind| of_kind.range(numbers).next().copied()))
    }

    fn proofs(&self) -> Result<Vec<ForkProof>, StoreError> {
        Ok(self.proofs.values().cloned().collect())
    }

    fn recent(&self, limit: usize) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        let newest = self.arrivals.values().rev().take(limit);
        Ok(newest.filter_map(|hash| self.by_hash.get(hash)).map(|(_, block)| Arc::clone(block)).collect())
    }

    fn stored_after(&self, after: u64, limit: usize) -> Result<Vec<(u64, Arc<HalfBlock>)>, StoreError> {
        let later = self.arrivals.range((Excluded(after), Unbounded)).take(limit);
        let found =
            later.filter_map(|(number, hash)| Some((*number, Arc::clone(&self.by_hash.get(hash)?.1))));
        Ok(found.collect())
    }

    fn block_count(&self) -> Result<u64, StoreError> {
        Ok(self.by_hash.len() as u64)
    }

    fn lowest_unknown(&self, owner: &PublicKey) -> Result<u32, StoreError> {
        Ok(self.chains.get(owner).map_or(1, |chain| chain.complete_to.saturating_add(1)))
    }

    fn records(&self, kind: RecordKind) -> Result<Entries, StoreError> {
        let of_kind = self.records.range((kind, Vec::new())..).take_while(|((of, _), _)| *of == kind);
        Ok(of_kind.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }
}

impl MemoryStore {
    fn of_kind(
        &self,
        owner: &PublicKey,
        kind: &BlockType,
        choose: impl Fn(&BTreeSet<u32>) -> Option<u32>,
    ) -> Option<Arc<HalfBlock>> {
        let chain = self.chains.get(owner)?;
        let sequence = choose(chain.kinds.get(kind)?)?;
        chain.blocks.get(&sequence).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::check_store;

    #[test]
    fn answers_like_a_list_that_is_searched() {
        for seed in 0..8 {
            check_store([seed; 32], MemoryStore::new(), MemoryStore::apply);
        }
    }

    #[test]
    fn what_is_removed_leaves_no_trace() {
        check_store([9; 32], MemoryStore::new(), |store, batch| {
            let passing = Batch { blocks: batch.blocks.clone(), ..Batch::default() };
            let known = store.clone();
            store.apply(&passing);
            for block in &batch.blocks {
                if known.by_hash(&block.hash()).is_ok_and(|found| found.is_none()) {
                    store.remove(block);
                }
            }
            store.apply(batch);
        });
    }
}
