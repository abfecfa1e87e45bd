//! TrustChain: half blocks, the transaction codec, validation, links, fork proofs, crawls, and the engine that
//! keeps the own chain.
//!
//! Floor 1: this crate opens no socket and no file and asks no clock. It reads a [`ChainStore`] directly, asks its
//! host to write by [`LedgerOutput::Persist`], and lets no own block leave before the host says it is on disk.
//! It is not the policy: which bandwidth proposals deserve an agreement is decided by the economy.
//!
//! ```
//! use bytes::Bytes;
//! use fairshare_crypto::{Rng, SecretKey};
//! use fairshare_ledger::{BlockHash, BlockType, Draft, GENESIS_HASH, HalfBlock};
//!
//! let mut rng = Rng::from_seed([1; 32]);
//! let (alice, bob) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
//! let block = HalfBlock::sign(&alice, Draft {
//!     sequence: 1,
//!     link_owner: bob.public(),
//!     link_sequence: 0,
//!     previous_hash: GENESIS_HASH,
//!     kind: BlockType::new(b"test"),
//!     transaction: Bytes::from_static(b"a0d"),
//!     timestamp_ms: 0,
//! });
//! assert!(block.verify());
//! assert_eq!(HalfBlock::parse(&block.to_bytes()).as_ref(), Ok(&block));
//! ```

pub mod bandwidth;
mod block;
pub mod conformance;
mod crawl;
mod engine;
mod fork;
mod interactions;
mod memory;
mod output;
mod report;
mod store;
pub mod transaction;
mod validation;
pub mod wire;

pub use block::{
    ANY, BLOCK_LEN_MAX, BlockError, BlockHash, BlockId, BlockType, Draft, GENESIS_HASH, HalfBlock,
    TIMESTAMP_MS_MAX,
};
pub use crawl::{CRAWL_BATCH, CrawlLimits, crawl, effective_range};
pub use engine::Ledger;
pub use fork::{ForkError, ForkKind, ForkProof, PROOFS_MAX};
pub use interactions::{Interactions, NAMES_MAX, ScanEnd, bandwidth_pairs};
pub use memory::MemoryStore;
pub use output::{
    DeclineReason, LedgerCommunity, LedgerConfig, LedgerEvent, LedgerOutput, MessageError, ProposeError,
    Recipient, Source,
};
pub use report::{ChainReport, verify_chain};
pub use store::{Batch, ChainStore, Entries, Record, RecordKind, StoreError};
pub use validation::{Level, Rules, Validation, ValidationError, validate};
