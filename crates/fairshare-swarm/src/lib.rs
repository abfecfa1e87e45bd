//! BitTorrent with an economy: peers proven to own an identity, counts that both sides agree on, and uploads that
//! the economy admits.
//!
//! Floor 2. Codecs and decisions only: no sockets, no disk, no clock, no knowledge of accounts or blocks. The host
//! moves bytes and answers [`Request`]s.
//!
//! [`Swarm`] is the engine. Feed it streams, completions and the economy's verbs, then drain [`Swarm::poll`] and come
//! back at [`Swarm::next_timeout`]:
//!
//! ```
//! use fairshare_crypto::Rng;
//! use fairshare_swarm::{AddTorrent, Source, Swarm, SwarmConfig, SwarmOutput};
//! use fairshare_wire::Now;
//!
//! let now = Now::default();
//! let mut swarm = Swarm::new(SwarmConfig::default(), Rng::from_seed([1; 32]), now);
//! let link = "magnet:?xt=urn:btih:aabbccddeeff00112233445566778899aabbccdd&x.pe=192.0.2.7:6881";
//! let source = Source::Magnet(link.parse()?);
//! swarm.add(now, AddTorrent { source, root: "downloads".into(), seed: false, peers: Vec::new() })?;
//! let Some(SwarmOutput::Connect(_, address)) = swarm.poll() else { panic!("the peer of the link is called") };
//! assert_eq!(address.to_string(), "192.0.2.7:6881");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod addresses;
pub mod allowed_fast;
mod announcing;
pub mod bencode;
pub mod bitfield;
mod candidates;
mod choker;
mod config;
mod connection;
mod context;
mod dealing;
mod download;
mod duplicates;
mod event;
mod exchange;
pub mod extension;
mod geometry;
mod giving;
pub mod identity;
mod lifecycle;
pub mod magnet;
mod metadata;
pub mod metainfo;
mod negotiation;
pub mod node_id;
mod open_piece;
mod outbox;
pub mod peer_wire;
mod picker;
mod proving;
mod rarity;
mod rate;
pub mod request;
mod rounds;
mod swarm;
mod taking;
mod timed_set;
mod torrent;
pub mod tracker;
mod upload;
pub mod utp;

pub use addresses::AddressSource;
pub use bitfield::Bitfield;
pub use config::{AddTorrent, Anonymity, Source, SwarmConfig};
pub use event::{
    CloseReason, ConnectionStatus, StreamId, SwarmEvent, SwarmOutput, TorrentState, TorrentStatus, Verdict,
};
pub use geometry::BLOCK_LEN;
pub use identity::{GrantMessage, Refusal, RefusalDetails, RefusalReason};
pub use magnet::Magnet;
pub use metainfo::{FileEntry, InfoHash, Metainfo};
pub use request::{Completion, DiskError, Request};
pub use swarm::{AddError, Swarm, UnknownTorrent};
