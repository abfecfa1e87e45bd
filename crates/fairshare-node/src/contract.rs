//! The contract between a node and whoever drives it: the host with real sockets and disks, or the simulator.
//! Values go in, values come out; a driver calls [`handle`](crate::Node::handle), then drains
//! [`poll`](crate::Node::poll) until it is empty, and comes back at [`next_timeout`](crate::Node::next_timeout).

use crate::anonymous::Route;
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_economy::payouts::{PayoutView, PayoutsEvent};
use fairshare_economy::{AccountView, EconomyEvent};
use fairshare_ledger::{Batch, BlockType, ChainReport, ForkProof, HalfBlock, LedgerEvent};
use fairshare_overlay::PeerInfo;
use fairshare_swarm::{
    AddTorrent, Completion, ConnectionStatus, InfoHash, Request, StreamId, SwarmEvent, TorrentStatus,
};
use fairshare_trust::Score;
use fairshare_tunnel::{
    CircuitId, CircuitStatus, ExitId, Flags, GroupId, GroupSpec, JoinedStatus, TunnelEvent,
};
use fairshare_wire::Address;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// One program in front of a SOCKS server. The host numbers them and never uses a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssociationId(pub u64);

/// What happened outside the node.
#[derive(Debug)]
pub enum Input<'a> {
    /// A UDP datagram arrived.
    Datagram(SocketAddr, &'a [u8]),
    /// A stream was accepted; its id is odd and was never used before.
    Accepted(StreamId, SocketAddr),
    /// A stream that the node asked for is connected.
    Connected(StreamId),
    /// Bytes arrived on a stream.
    Data(StreamId, Bytes),
    /// So many written bytes left for the network: write credit for the node.
    Drained(StreamId, usize),
    /// The stream ended, or could not be opened.
    Closed(StreamId),
    /// The batch with this ticket is on disk.
    Persisted(u64),
    /// The batch with this ticket could not be written; nothing of it is on disk, nor of any batch that the node
    /// handed out after it and before it heard of the failure: those fail too.
    PersistFailed(u64, String),
    /// The answer to the request with this ticket.
    Completed(u64, Completion),
    /// A datagram arrived at the sockets of an exit.
    ExitDatagram(ExitId, SocketAddr, &'a [u8]),
    /// A program wants its datagrams carried over circuits of so many hops.
    Associated(AssociationId, u8),
    /// It sends one to this destination.
    AssociationDatagram(AssociationId, Address, &'a [u8]),
    /// It is gone.
    Dissociated(AssociationId),
    /// Somebody in front of the node wants something; answered by a reply with the same number.
    Command(u64, Command),
    /// The time that the node asked to be woken at has come.
    Timeout,
}

/// What the node wants done outside.
#[derive(Debug)]
pub enum Output {
    /// Send a UDP datagram.
    Transmit(SocketAddr, Bytes),
    /// Open a stream; its id is even and new. Answer: `Connected` or `Closed`.
    Connect(StreamId, SocketAddr),
    /// Write to a stream, in order.
    Write(StreamId, Bytes),
    /// Close a stream after what was written to it.
    Close(StreamId),
    /// Put a batch on disk, whole or not at all. Answer: `Persisted` or `PersistFailed`.
    Persist(u64, Batch),
    /// File and tracker work. Answer: `Completed`.
    Request(u64, Request),
    /// Open the sockets of an exit. There is no answer: if they cannot be opened, what is sent there is lost.
    ExitOpen(ExitId),
    /// Send a datagram from the sockets of an exit.
    ExitSend(ExitId, SocketAddr, Bytes),
    /// Close the sockets of an exit.
    ExitClose(ExitId),
    /// Hand a datagram from this origin to the program in front of a SOCKS server.
    AssociationData(AssociationId, Address, Bytes),
    /// The answer to a command.
    Reply(u64, Reply),
    /// Something worth knowing: the only source of logs, metrics and pages.
    Event(Event),
}

/// What a person or program in front of the node can ask for.
#[derive(Debug)]
pub enum Command {
    /// Take up a torrent. Reply: `Added`.
    Add {
        /// What it is and where it goes.
        torrent: AddTorrent,
        /// How its traffic goes.
        route: Route,
    },
    /// Stop a torrent's traffic. Reply: `Done`.
    Pause(InfoHash),
    /// Start it again. Reply: `Done`.
    Resume(InfoHash),
    /// Forget a torrent, with or without its data. Reply: `Done`.
    Remove {
        /// The torrent.
        torrent: InfoHash,
        /// Whether the files go too.
        delete_data: bool,
    },
    /// Addresses where a torrent's peers may be. Reply: `Done`.
    AddTorrentPeers(InfoHash, Vec<SocketAddr>),
    /// Walk to this overlay address. Reply: `Done`.
    AddPeer(SocketAddr),
    /// Serve others or not. Reply: `Done`.
    SetUpload(bool),
    /// Pay everything that is owed and can be paid. Reply: `Done`.
    SettleAll,
    /// End all circuits and tell the neighbours: the node stops. Reply: `Done`.
    LeaveCircuits,
    /// Have an exit carry out one HTTP exchange, over a circuit of so many hops. Reply: `Fetched`.
    HttpThroughExit {
        /// Relays between us and the target, the exit included.
        hops: u8,
        /// The web server.
        target: Address,
        /// The whole request, as it goes to the server.
        request: Bytes,
    },
    /// Let circuits of others pass or not, and leave here or not. Reply: `Done`.
    SetRelay {
        /// Pass.
        relay: bool,
        /// Leave.
        exit: bool,
    },
    /// Build circuits and keep them. Reply: `Group`.
    OpenCircuits(GroupSpec),
    /// End circuits that were opened by command. Reply: `Done`.
    CloseCircuits(GroupId),
    /// End one circuit. Reply: `Done`.
    CloseCircuit(CircuitId),
    /// Measure a circuit of a group by so many bytes from its far end. Reply: `Tested`.
    TestCircuits(GroupId, u64),
    /// Own circuits. Reply: `Circuits`.
    Circuits,
    /// What passes here for others. Reply: `Relaying`.
    Relaying,
    /// What is owed for circuits, by neighbour. Reply: `Payouts`.
    Payouts,
    /// The keys that stand best, at most so many. Reply: `Reputations`.
    Reputations(usize),
    /// Why a key stands as it does. Reply: `Reason`.
    Explain(PublicKey),
    /// Sign a proposal. Reply: `Proposed`.
    Propose {
        /// The counterparty.
        to: PublicKey,
        /// The type of the block.
        kind: BlockType,
        /// Its encoded transaction.
        transaction: Bytes,
    },
    /// Who and what this node is. Reply: `Status`.
    Status,
    /// All torrents. Reply: `Torrents`.
    Torrents,
    /// All connections. Reply: `Connections`.
    Connections,
    /// All pair accounts. Reply: `Accounts`.
    Accounts,
    /// All overlay peers. Reply: `Peers`.
    Peers,
    /// Blocks of one chain, ascending, at most 1,000. Reply: `Blocks`.
    Chain {
        /// Whose chain.
        owner: PublicKey,
        /// First number.
        from: u32,
        /// Last number.
        to: u32,
    },
    /// The newest stored blocks. Reply: `Blocks`.
    RecentBlocks(usize),
    /// The block that answers this one, or that it answers. Reply: `Blocks` with at most one.
    Linked {
        /// Owner of the block.
        owner: PublicKey,
        /// Its number.
        sequence: u32,
    },
    /// Judge a chain as far as it is stored. Reply: `Verified`.
    VerifyChain(PublicKey),
    /// All proofs of forks. Reply: `Proofs`.
    Proofs,
}

/// The answer to a [`Command`].
#[derive(Debug)]
pub enum Reply {
    /// The torrent's hash, or why it was not taken.
    Added(Result<InfoHash, String>),
    /// Done, or why not.
    Done(Result<(), String>),
    /// The signed proposal, which is on disk, or why nothing was signed.
    Proposed(Result<Arc<HalfBlock>, String>),
    /// The whole answer of a web server, or why there is none.
    Fetched(Result<Bytes, String>),
    /// The group of circuits that was opened.
    Group(GroupId),
    /// What a test of a circuit gave, or why nothing.
    Tested(Result<Speed, String>),
    /// Own circuits.
    Circuits(Vec<CircuitStatus>),
    /// What passes here for others.
    Relaying(Box<Relaying>),
    /// What is owed for circuits, by neighbour.
    Payouts(Vec<PayoutView>),
    /// How keys stand, best first.
    Reputations(Vec<Reputation>),
    /// Why a key stands as it does.
    Reason(Box<Reason>),
    /// Who and what this node is.
    Status(Box<NodeStatus>),
    /// All torrents with the way that each goes.
    Torrents(Vec<(TorrentStatus, Route)>),
    /// All connections.
    Connections(Vec<ConnectionStatus>),
    /// All pair accounts.
    Accounts(Vec<AccountView>),
    /// All overlay peers.
    Peers(Vec<PeerInfo>),
    /// Blocks, or why the store could not give them.
    Blocks(Result<Vec<Arc<HalfBlock>>, String>),
    /// What the chain is worth.
    Verified(Result<ChainReport, String>),
    /// All proofs of forks.
    Proofs(Vec<ForkProof>),
}

/// How fast a circuit carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// Bytes that came back.
    pub received: u64,
    /// In this time.
    pub took: Duration,
    /// Shortest time from a request to its answer.
    pub round_trip: Option<Duration>,
}

/// What a node does for circuits of others.
#[derive(Clone, Debug)]
pub struct Relaying {
    /// Its tunnel identity.
    pub tunnel_key: PublicKey,
    /// What it offers.
    pub flags: Flags,
    /// Nodes that may become hops, with what they offer.
    pub candidates: Vec<(PublicKey, SocketAddr, Flags)>,
    /// Circuits that pass here or end here.
    pub joined: Vec<JoinedStatus>,
}

/// How one key stands with this node.
#[derive(Clone, Debug)]
pub struct Reputation {
    /// Whose standing it is.
    pub key: PublicKey,
    /// The score with its error.
    pub score: Score,
    /// Its fork is proved: it scores nothing.
    pub forker: bool,
}

/// Why a key stands as it does.
#[derive(Clone, Debug)]
pub struct Reason {
    /// The standing.
    pub reputation: Reputation,
    /// The engine that computed it.
    pub engine: &'static str,
    /// Bytes that this node received from the key.
    pub direct: u64,
    /// The likeliest way of trust to it, this node and the key included; empty if there is none.
    pub path: Vec<PublicKey>,
    /// The node that most ways pass, and their share.
    pub bottleneck: Option<(PublicKey, f64)>,
}

/// Who and what a node is.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// The node's identity.
    pub public_key: PublicKey,
    /// Its identity in circuits.
    pub tunnel_key: PublicKey,
    /// Number of its newest own block, 0 if there is none.
    pub chain_length: u32,
    /// Bytes given, by its own newest bandwidth block.
    pub total_up: u64,
    /// Bytes taken, by the same.
    pub total_down: u64,
    /// Half blocks stored, own and foreign.
    pub stored_blocks: u64,
    /// Verified overlay peers.
    pub peers: usize,
    /// Open stream connections.
    pub connections: usize,
    /// Whether others are served.
    pub uploading: bool,
    /// Why nothing can be signed now: what the disk said about a batch that is tried again every few seconds.
    pub stalled: Option<String>,
    /// The price now: charged bytes for 65,536 real bytes.
    pub price: u32,
    /// What was refused or dropped, by reason.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Payload and other bytes moved since start.
    pub traffic: Traffic,
}

/// Bytes moved since the node started, to compare accounting with payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Everything written to streams.
    pub stream_out: u64,
    /// Everything read from streams.
    pub stream_in: u64,
    /// Everything sent as datagrams.
    pub datagram_out: u64,
    /// Everything received as datagrams.
    pub datagram_in: u64,
}

/// Something that happened inside one of the engines.
#[derive(Clone, Debug)]
pub enum Event {
    /// In the swarm engine.
    Swarm(SwarmEvent),
    /// In the economy.
    Economy(EconomyEvent),
    /// In the ledger.
    Ledger(LedgerEvent),
    /// In the circuits. What they carry is not among these.
    Tunnel(TunnelEvent),
    /// In the payments to relays.
    Payouts(PayoutsEvent),
    /// A verified peer appeared in the overlay.
    PeerFound(PublicKey, SocketAddr),
    /// A peer left the overlay.
    PeerLost(PublicKey),
    /// The disk did not take a batch: the node signs nothing more until it does.
    StoreFailed(String),
}
