//! BitTorrent with an economy: peers proven to own an identity, counts that both sides agree on, and uploads that
//! the economy admits.
//!
//! Floor 2. Codecs and decisions only: no sockets, no disk, no clock, no knowledge of accounts or blocks. The host
//! moves bytes and answers [`Request`]s.
//!
//! ```
//! use fairshare_swarm::magnet::Magnet;
//!
//! let link = "magnet:?xt=urn:btih:aabbccddeeff00112233445566778899aabbccdd&dn=film";
//! let magnet: Magnet = link.parse()?;
//! assert_eq!(magnet.name.as_deref(), Some("film"));
//! # Ok::<(), fairshare_swarm::magnet::MagnetError>(())
//! ```

pub mod allowed_fast;
pub mod bencode;
pub mod bitfield;
pub mod extension;
pub mod identity;
pub mod magnet;
pub mod metainfo;
pub mod node_id;
pub mod peer_wire;
pub mod request;
pub mod tracker;

pub use bitfield::Bitfield;
pub use identity::{GrantMessage, Refusal, RefusalDetails, RefusalReason};
pub use magnet::Magnet;
pub use metainfo::{FileEntry, InfoHash, Metainfo};
pub use request::{Completion, DiskError, Request};
