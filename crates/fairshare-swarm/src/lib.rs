//! BitTorrent with an economy: peers proven to own an identity, counts that both sides agree on, and uploads that
//! the economy admits.
//!
//! Floor 2. Codecs and decisions only: no sockets, no disk, no clock, no knowledge of accounts or blocks. The host
//! moves bytes and answers [`Request`]s.

pub mod bencode;
pub mod bitfield;
pub mod extension;
pub mod metainfo;
pub mod peer_wire;
pub mod request;

pub use bitfield::Bitfield;
pub use metainfo::{FileEntry, InfoHash, Metainfo};
pub use request::{Completion, DiskError, Request};
