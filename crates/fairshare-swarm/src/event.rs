//! What the engine puts out: bytes and connections for the host, requests, events for the node, and the status
//! that people look at.

use crate::bitfield::Bitfield;
use crate::identity::{CountFault, GrantMessage, Refusal, RefusalReason};
use crate::metainfo::{InfoHash, Metainfo};
use crate::request::Request;
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_wire::Address;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A connection, and the identity session on it. Even numbers were opened by the engine, odd ones were accepted
/// by the host; none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What the engine wants done.
#[derive(Clone, Debug)]
pub enum SwarmOutput {
    /// Open a stream. Answer: `stream_connected` or `stream_closed`.
    Connect(StreamId, SocketAddr),
    /// Write to a stream, in order. Answer, in parts: `stream_drained`.
    Write(StreamId, Bytes),
    /// Close a stream after what was written to it.
    Close(StreamId),
    /// File and tracker work. Answer: `completed`.
    Request {
        /// Names the request in its completion.
        ticket: u64,
        /// The work.
        request: Request,
    },
    /// Send a datagram to a UDP tracker. A host name is for whoever sends it to resolve. Answer: `tracker_datagram`.
    TrackerSend {
        /// The torrent that is announced.
        torrent: InfoHash,
        /// The tracker.
        to: Address,
        /// The datagram.
        bytes: Bytes,
    },
    /// Something happened.
    Event(SwarmEvent),
}

/// The economy's answer about one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be served.
    Serve {
        /// Its standing, in 1/1000; 1000 = a friend.
        priority: u32,
        /// Whether it is served from the stranger pool.
        pool: bool,
    },
    /// Its unpaid window is full.
    Choke,
    /// It was refused.
    Refuse,
}

/// Something that happened in the engine.
#[derive(Clone, Debug)]
pub enum SwarmEvent {
    /// A connection with a peer that completed the BitTorrent handshake.
    Connected {
        /// The connection.
        id: StreamId,
        /// The torrent.
        torrent: InfoHash,
        /// The peer's address.
        address: SocketAddr,
    },
    /// Such a connection ended.
    Disconnected {
        /// The connection.
        id: StreamId,
        /// The torrent.
        torrent: InfoHash,
        /// Why.
        reason: CloseReason,
    },
    /// Both ends proved their identity.
    SessionOpened {
        /// The connection.
        id: StreamId,
        /// The peer's identity.
        key: PublicKey,
        /// The peer's address.
        address: SocketAddr,
        /// Whether the peer opened the connection.
        incoming: bool,
        /// The torrent.
        torrent: InfoHash,
    },
    /// The session ended; these are its last counts.
    SessionClosed {
        /// The connection.
        id: StreamId,
        /// The peer's identity.
        key: PublicKey,
        /// Verified bytes that we took.
        recv_verified: u64,
        /// Payload bytes that we handed to the transport.
        sent: u64,
    },
    /// The choker wants the economy's verdict about an interested peer. Answer: `verdict`.
    VerdictWanted {
        /// The session.
        id: StreamId,
        /// Bytes per second to the peer now.
        rate: u64,
    },
    /// The choker wants to serve the peer and needs room for it. Answer: `grant`, now or later.
    GrantWanted {
        /// The session.
        id: StreamId,
        /// Bytes per second to the peer now.
        rate: u64,
    },
    /// The peer lost its slot; nothing is sent to it until it is unchoked again.
    Choked {
        /// The session.
        id: StreamId,
    },
    /// Payload bytes handed to the transport in this session grew to `total`.
    Sent {
        /// The session.
        id: StreamId,
        /// All of them so far.
        total: u64,
    },
    /// The peer's newest counts about what we sent.
    Acknowledged {
        /// The session.
        id: StreamId,
        /// Bytes it accepted.
        accepted: u64,
        /// Bytes of them that were verified.
        verified: u64,
    },
    /// Verified bytes that we took in this session grew to `total`: what we owe.
    Verified {
        /// The session.
        id: StreamId,
        /// All of them so far.
        total: u64,
    },
    /// The provider granted us room.
    GrantReceived {
        /// The session.
        id: StreamId,
        /// The grant.
        grant: GrantMessage,
    },
    /// The provider took the rest of a grant back.
    GrantFreed {
        /// The session.
        id: StreamId,
        /// Number of the grant.
        number: u32,
        /// Real bytes used of it.
        used: u64,
    },
    /// A half block came over the session; not judged in any way.
    BlockReceived {
        /// The session.
        id: StreamId,
        /// Its bytes.
        bytes: Bytes,
    },
    /// The provider refuses to serve us.
    RefusedBy {
        /// The session.
        id: StreamId,
        /// Why.
        refusal: Refusal,
    },
    /// The peer signed a statement of its counts: evidence, worth keeping for 30 days.
    ReceiptReceived {
        /// The session.
        id: StreamId,
        /// The signed message.
        receipt: Bytes,
    },
    /// The peer's counts contradict ours or themselves.
    CountFault {
        /// The session.
        id: StreamId,
        /// What is wrong.
        fault: CountFault,
        /// Whether the peer was choked for it.
        choked: bool,
    },
    /// The description of a magnet's torrent is complete.
    MetadataReady(InfoHash, Arc<Metainfo>),
    /// The files are open.
    Checked {
        /// The torrent.
        torrent: InfoHash,
        /// Pieces held.
        held: u32,
        /// Pieces of the torrent.
        pieces: u32,
    },
    /// A piece arrived, was verified and written.
    PieceVerified {
        /// The torrent.
        torrent: InfoHash,
        /// The piece.
        piece: u32,
    },
    /// A piece arrived and was wrong.
    PieceFailed {
        /// The torrent.
        torrent: InfoHash,
        /// The piece.
        piece: u32,
    },
    /// Every piece is verified, written and synced, and the files have their final names.
    Finished(InfoHash),
    /// The torrent stopped with an error.
    Failed {
        /// The torrent.
        torrent: InfoHash,
        /// Why.
        reason: String,
    },
    /// A peer sent wrong data and is banned from the torrent for a day.
    PeerBanned {
        /// The torrent.
        torrent: InfoHash,
        /// Its address.
        address: IpAddr,
        /// Its identity, if it had proved one.
        key: Option<PublicKey>,
    },
    /// A tracker answered, or did not.
    TrackerAnswered {
        /// The torrent.
        torrent: InfoHash,
        /// The tracker.
        url: String,
        /// Peers it told, or its failure.
        result: Result<usize, String>,
    },
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The other end closed it.
    #[error("closed by the peer")]
    Remote,
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// No bytes for too long.
    #[error("nothing heard for too long")]
    Silent,
    /// What we wrote was not taken.
    #[error("the peer does not take what we send")]
    NotDraining,
    /// A second connection with the same peer.
    #[error("a second connection with the same peer")]
    Duplicate,
    /// The other end is this node.
    #[error("the other end is this node itself")]
    OwnIdentity,
    /// Both ends have everything.
    #[error("neither end needs anything")]
    Redundant,
    /// Neither end wanted anything for long, and others wait.
    #[error("neither end wanted anything for minutes")]
    Idle,
    /// The peer sent nothing although it could.
    #[error("no payload although requested")]
    Stalled,
    /// The peer is banned.
    #[error("the peer is banned")]
    Banned,
    /// A limit on connections was reached.
    #[error("too many connections")]
    TooMany,
    /// We do not have the torrent, or it is stopped.
    #[error("the torrent was stopped or is not known")]
    Stopped,
    /// The node asked for it.
    #[error("closed on command")]
    Command,
}

/// What a torrent is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TorrentState {
    /// The description is being fetched from peers.
    Metadata,
    /// The files are being opened or hashed.
    Checking,
    /// Pieces are missing.
    Downloading,
    /// Every piece is held.
    Seeding,
    /// Stopped on command.
    Paused,
    /// Stopped by an error.
    Failed(String),
}

/// A torrent as people see it.
#[derive(Clone, Debug)]
pub struct TorrentStatus {
    /// Its hash.
    pub info_hash: InfoHash,
    /// Its name, once known.
    pub name: String,
    /// What it is doing.
    pub state: TorrentState,
    /// Bytes of the whole torrent, 0 until known.
    pub total_bytes: u64,
    /// Bytes held and verified.
    pub held_bytes: u64,
    /// The pieces held.
    pub held: Bitfield,
    /// Whether every piece is verified, written and synced, and the files have their final names.
    pub finished: bool,
    /// Payload bytes received, waste included.
    pub downloaded: u64,
    /// Payload bytes sent.
    pub uploaded: u64,
    /// Payload that was of no use.
    pub wasted: u64,
    /// Payload bytes per second received.
    pub download_rate: u64,
    /// Payload bytes per second sent.
    pub upload_rate: u64,
    /// Connected peers.
    pub peers: usize,
    /// Connected peers that have everything.
    pub seeds: usize,
    /// Addresses that could be dialled.
    pub candidates: usize,
    /// Upload slots.
    pub slots: usize,
}

/// A connection as people see it.
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    /// The connection.
    pub id: StreamId,
    /// Its torrent.
    pub torrent: InfoHash,
    /// The other end.
    pub address: SocketAddr,
    /// Whether the peer opened it.
    pub incoming: bool,
    /// The peer's client, in its own words.
    pub client: String,
    /// The peer's identity, once proved.
    pub key: Option<PublicKey>,
    /// Pieces the peer has.
    pub pieces: u32,
    /// Whether we want something of the peer.
    pub am_interested: bool,
    /// Whether the peer wants something of us.
    pub peer_interested: bool,
    /// Whether we serve the peer.
    pub am_unchoking: bool,
    /// Whether the peer serves us.
    pub peer_unchoking: bool,
    /// Payload received.
    pub downloaded: u64,
    /// Payload sent.
    pub uploaded: u64,
    /// Bytes per second received.
    pub download_rate: u64,
    /// Bytes per second sent.
    pub upload_rate: u64,
    /// Requests of ours that are not answered.
    pub requests_out: usize,
    /// Requests of the peer that are not answered.
    pub requests_in: usize,
    /// Whether the peer was refused by the economy.
    pub refused: bool,
    /// Why the peer refuses us, if it does.
    pub refused_by: Option<RefusalReason>,
}
