//! What the ledger reads from its store, and what it asks its host to write.

use crate::block::{BlockHash, BlockType, HalfBlock};
use crate::fork::ForkProof;
use fairshare_crypto::PublicKey;
use std::sync::Arc;
use thiserror::Error;

/// Why the store could not answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// The medium failed.
    #[error("store cannot be read: {reason}")]
    Read {
        /// What the medium said.
        reason: String,
    },
    /// What was read is not what was written.
    #[error("store is damaged: {what}")]
    Damaged {
        /// Where.
        what: String,
    },
}

/// Journal entries of one engine: key and value.
pub type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads of the chain store, called directly by the engine.
///
/// A store keeps the first block that it was given for a place (owner, number) for ever: a batch that brings
/// another block for a taken place, or the same one again, changes nothing there. Everything else follows from the
/// batches in the order in which they were applied.
pub trait ChainStore {
    /// The block at a place.
    fn get(&self, owner: &PublicKey, sequence: u32) -> Result<Option<Arc<HalfBlock>>, StoreError>;

    /// The block of `owner` with the highest number.
    fn newest(&self, owner: &PublicKey) -> Result<Option<Arc<HalfBlock>>, StoreError>;

    /// The stored block of `owner` with the highest number below `sequence`.
    fn before(&self, owner: &PublicKey, sequence: u32) -> Result<Option<Arc<HalfBlock>>, StoreError>;

    /// The stored block of `owner` with the lowest number above `sequence`.
    fn after(&self, owner: &PublicKey, sequence: u32) -> Result<Option<Arc<HalfBlock>>, StoreError>;

    /// The agreements that link to `(owner, sequence)`, in the order in which they were stored. `sequence` is not 0.
    fn links_to(&self, owner: &PublicKey, sequence: u32) -> Result<Vec<Arc<HalfBlock>>, StoreError>;

    /// At most `limit` blocks of `owner` with numbers in `from..=to`, ascending.
    fn range(
        &self,
        owner: &PublicKey,
        from: u32,
        to: u32,
        limit: usize,
    ) -> Result<Vec<Arc<HalfBlock>>, StoreError>;

    /// The block with this hash.
    fn by_hash(&self, hash: &BlockHash) -> Result<Option<Arc<HalfBlock>>, StoreError>;

    /// The block of `owner` and type `kind` with the highest number, below `below` if given.
    fn newest_of_kind(
        &self,
        owner: &PublicKey,
        kind: &BlockType,
        below: Option<u32>,
    ) -> Result<Option<Arc<HalfBlock>>, StoreError>;

    /// The block of `owner` and type `kind` with the lowest number above `above`.
    fn next_of_kind(
        &self,
        owner: &PublicKey,
        kind: &BlockType,
        above: u32,
    ) -> Result<Option<Arc<HalfBlock>>, StoreError>;

    /// All fork proofs, oldest first: one for each accused key and kind, the first that was stored, at most
    /// [`crate::PROOFS_MAX`]; beyond that the oldest are gone.
    fn proofs(&self) -> Result<Vec<ForkProof>, StoreError>;

    /// The newest `limit` stored blocks, newest first.
    fn recent(&self, limit: usize) -> Result<Vec<Arc<HalfBlock>>, StoreError>;

    /// At most `limit` stored blocks in the order in which they were stored, each with a number that names its place in
    /// that order: those with numbers above `after`. Numbers begin above 0, rise, and stay the same.
    fn stored_after(&self, after: u64, limit: usize) -> Result<Vec<(u64, Arc<HalfBlock>)>, StoreError>;

    /// How many blocks are stored.
    fn block_count(&self) -> Result<u64, StoreError>;

    /// The lowest number from 1 on at which no block of `owner` is stored.
    fn lowest_unknown(&self, owner: &PublicKey) -> Result<u32, StoreError>;

    /// All records of a kind, ascending by key.
    fn records(&self, kind: RecordKind) -> Result<Entries, StoreError>;

    /// The stored block that is linked with `block`, either way; the oldest by timestamp if there are several.
    //= spec/trustchain.md#6-validation
    fn linked(&self, block: &HalfBlock) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        let mut found = self.links_to(&block.owner, block.sequence)?;
        if !block.is_proposal() {
            found.extend(self.get(&block.link_owner, block.link_sequence)?);
        }
        Ok(found.into_iter().min_by_key(|other| (other.timestamp_ms, other.hash())))
    }
}

/// What the host writes as one transaction: all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Blocks for the chains.
    pub blocks: Vec<Arc<HalfBlock>>,
    /// Second blocks for a taken place: evidence, never part of a chain.
    pub conflicts: Vec<Arc<HalfBlock>>,
    /// New fork proofs.
    pub proofs: Vec<ForkProof>,
    /// Journal entries of other engines.
    pub records: Vec<Record>,
    /// Own block or money: a small synced transaction of its own, at once. Else the host may group it.
    pub urgent: bool,
}

impl Batch {
    /// Whether nothing is to be written.
    pub const fn is_empty(&self) -> bool {
        self.blocks.is_empty()
            && self.conflicts.is_empty()
            && self.proofs.is_empty()
            && self.records.is_empty()
    }
}

/// One journal entry of another engine; the store does not look inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose entry.
    pub kind: RecordKind,
    /// Its name.
    pub key: Vec<u8>,
    /// Its new value; `None` deletes it.
    pub value: Option<Vec<u8>>,
}

/// Which engine's journal a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKind(pub u8);
