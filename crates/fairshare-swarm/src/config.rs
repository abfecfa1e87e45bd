//! What shapes the engine's behaviour, and what a torrent is added with.

use crate::magnet::Magnet;
use crate::metainfo::Metainfo;
use fairshare_crypto::SecretKey;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What is between the engine and its peers.
//= spec/swarm.md#13-anonymous-torrents
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymity {
    /// Nothing: peers see our address, and may prove identities.
    #[default]
    Clear,
    /// Circuits that end at an exit: ordinary peers, who do not learn who we are.
    Exit,
    /// Circuits from end to end: peers without address. They are told by the host, and by nobody else.
    Hidden,
}

/// Settings of the engine; `SwarmConfig::default()` has the values of the specification.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// The TCP port that the host listens on, told to peers and trackers; 0 = not reachable.
    pub listen_port: u16,
    /// The economy identity; without one every peer is a legacy peer.
    pub identity: Option<SecretKey>,
    /// What is between us and the peers of all torrents of this engine. Unless it is `Clear`, there is no identity.
    pub anonymity: Anonymity,
    /// Whether the host fetches pages for an engine behind exits through a circuit too: else its torrents have no HTTP
    /// trackers.
    pub pages_through_exit: bool,
    /// Whether anybody is served at all.
    pub allow_upload: bool,
    /// Connections of the whole engine.
    pub max_connections: usize,
    /// Connections of one torrent.
    pub max_connections_per_torrent: usize,
    /// Connections with one address; local addresses are counted one by one.
    pub max_connections_per_address: usize,
    /// Connections with one /24 (IPv4) or /48 (IPv6).
    pub max_connections_per_prefix: usize,
    /// Outgoing connections under way.
    pub max_half_open: usize,
    /// Outgoing connections begun per second.
    pub max_dials_per_second: u32,
    /// Streams whose handshake is not complete.
    pub max_waiting_handshakes: usize,
    /// Upload slots of one torrent; `None` = automatic.
    pub slots: Option<usize>,
    /// Share of the slots for legacy peers while identities wait, in 1/1000.
    pub legacy_share: u32,
    /// Whether each announcement goes to all trackers of a public torrent instead of the first that answers.
    pub announce_to_all: bool,
}

impl Default for SwarmConfig {
    fn default() -> Self {
        Self {
            listen_port: 0,
            identity: None,
            anonymity: Anonymity::Clear,
            pages_through_exit: false,
            allow_upload: true,
            max_connections: 500,
            max_connections_per_torrent: 100,
            max_connections_per_address: 8,
            max_connections_per_prefix: 16,
            max_half_open: 64,
            max_dials_per_second: 30,
            max_waiting_handshakes: 256,
            slots: None,
            legacy_share: 250,
            announce_to_all: true,
        }
    }
}

/// Where a torrent is known from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A complete description.
    Metainfo(Arc<Metainfo>),
    /// A link; the description is fetched from peers.
    Magnet(Magnet),
}

/// A torrent to take up.
#[derive(Clone, Debug)]
pub struct AddTorrent {
    /// What it is.
    pub source: Source,
    /// The folder that holds its file or folder.
    pub root: PathBuf,
    /// The files exist already and are only served; nothing is created or written.
    pub seed: bool,
    /// Addresses where peers are.
    pub peers: Vec<SocketAddr>,
}
