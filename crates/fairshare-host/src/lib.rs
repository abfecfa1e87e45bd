//! The driver around one node: sockets, clock, disks, threads, and the store on disk.
//!
//! Floor 4. Nothing is decided here: a node is a sans-IO engine, and this crate carries its values to the world and
//! back. The node runs on a thread of its own, fed by one queue in batches; sockets are tokio tasks; files, hashes,
//! tracker pages and the ledger have small pools of plain threads.

mod disk;
mod error;
mod http;
mod identity;
mod lock;
pub mod store;

pub use error::StartError;
pub use identity::{identity_path, load_identity};
pub use store::{SqliteStore, ledger_path};

use fairshare_swarm::Completion;
use std::sync::Arc;

/// Where a pool sends its answers: tickets with completions.
pub(crate) type Answer = Arc<dyn Fn(Vec<(u64, Completion)>) + Send + Sync>;
