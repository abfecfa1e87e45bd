//! The driver around one node: sockets, clock, disks, threads, and the store on disk.
//!
//! Floor 4. Nothing is decided here: a node is a sans-IO engine, and this crate carries its values to the world and
//! back. The node runs on a thread of its own, fed by one queue in batches; sockets are tokio tasks; files, hashes,
//! tracker pages and the ledger have small pools of plain threads.
//!
//! [`NodeHandle::start`] gives a running node; [`NodeHandle::command`] talks to it, [`NodeHandle::events`] listens.
//! It ends by [`NodeHandle::shutdown`], or by [`NodeHandle::kill`] as it would in a power failure.
//!
//! ```no_run
//! use fairshare_host::{HostConfig, NodeHandle};
//! use fairshare_node::{Command, NodeConfig, Reply};
//!
//! async fn length_of_chain(node: NodeConfig) -> Option<u32> {
//!     let listen = "127.0.0.1:0".parse().ok()?;
//!     let config = HostConfig {
//!         data_dir: "node".into(),
//!         listen,
//!         node,
//!         socks: Vec::new(),
//!         fresh_ledger: false,
//!         passphrase: None,
//!     };
//!     let node = NodeHandle::start(config).await.ok()?;
//!     let Ok(Reply::Status(status)) = node.command(Command::Status).await else { return None };
//!     node.shutdown().await;
//!     Some(status.chain_length)
//! }
//! ```

mod clock;
mod disk;
mod driver;
mod error;
mod exit;
mod handle;
mod http;
mod identity;
mod inbox;
mod lock;
mod net;
mod sealed;
mod socks;
pub mod store;

pub use error::StartError;
pub use handle::{Events, HostConfig, NodeHandle, Stopped};
pub use identity::{IdentityForm, identity_path, load_identity};
pub use sealed::Passphrase;
pub use store::{SqliteStore, ledger_path};

use fairshare_swarm::Completion;
use std::sync::Arc;

/// Where a pool sends its answers: tickets with completions.
pub(crate) type Answer = Arc<dyn Fn(Vec<(u64, Completion)>) + Send + Sync>;
