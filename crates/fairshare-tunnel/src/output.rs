//! What the engine wants done and what it tells.

use crate::wire::{CircuitId, Flags};
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_wire::Address;
use std::net::SocketAddr;
use std::time::Duration;

/// Circuits that only one torrent or one program uses. The caller numbers them and never uses a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// The sockets of one circuit that ends here. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExitId(pub u64);

/// What circuits a group wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Hops of each, 1 to 3.
    pub hops: u8,
    /// The hops themselves, for tests and experiments; the number of hops follows from it.
    pub path: Option<Vec<PublicKey>>,
    /// What the last hop must be willing to do.
    pub need: Flags,
    /// How many are kept ready.
    pub circuits: usize,
}

/// What a neighbour may do, by what it owes. Messages about payment pass in any case.
//= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allowance {
    /// Everything.
    #[default]
    Open,
    /// Go on with the circuits it has.
    NoNewCircuits,
    /// Use a twentieth of them.
    Slow,
    /// Pay, and nothing else: its circuits are ended.
    Cut,
}

/// What the engine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelOutput {
    /// Send a datagram.
    Transmit {
        /// To whom.
        to: SocketAddr,
        /// The whole datagram.
        bytes: Bytes,
    },
    /// Open the sockets of an exit.
    ExitOpen(ExitId),
    /// Send a datagram from them.
    ExitSend {
        /// Which.
        exit: ExitId,
        /// To whom.
        to: SocketAddr,
        /// The datagram.
        bytes: Bytes,
    },
    /// Close them.
    ExitClose(ExitId),
    /// Ask for the addresses of a host. Answer: `resolved`.
    Resolve {
        /// Names the question.
        ticket: u64,
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// Carry out an HTTP exchange. Answer: `http_fetched`.
    HttpFetch {
        /// Names the request.
        ticket: u64,
        /// The web server.
        target: SocketAddr,
        /// The whole request.
        request: Bytes,
    },
    /// Look a key up in the overlay's DHT. Answer: `dht_found`.
    DhtFind {
        /// Names the question.
        ticket: u64,
        /// The key.
        key: [u8; 20],
    },
    /// Store a value there.
    DhtStore {
        /// The key.
        key: [u8; 20],
        /// The value.
        value: Vec<u8>,
    },
    /// The guards changed: keep this record and hand it in at the next start.
    Save(Vec<u8>),
    /// Something happened.
    Event(TunnelEvent),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TunnelEvent {
    /// A circuit stands.
    CircuitReady {
        /// Its number on the first link.
        circuit: CircuitId,
        /// Whose it is, if a group's.
        group: Option<GroupId>,
        /// Its hops.
        hops: usize,
        /// How long it took.
        took: Duration,
    },
    /// A circuit is gone.
    CircuitClosed {
        /// Its number on the first link.
        circuit: CircuitId,
        /// Why.
        reason: &'static str,
    },
    /// The first circuit of a group stands, or stands again.
    GroupReady(GroupId),
    /// Destinations lost their circuit and get another one with the next datagram: they will see another exit, so what is
    /// connected with them is best begun anew.
    Moved {
        /// Whose they are.
        group: GroupId,
        /// Which.
        destinations: Vec<Address>,
    },
    /// A datagram came for a group.
    Received {
        /// Which.
        group: GroupId,
        /// Where it came from.
        origin: Address,
        /// The datagram.
        data: Bytes,
    },
    /// The answer to an HTTP exchange.
    HttpAnswered {
        /// Names the request.
        ticket: u64,
        /// The answer, or why there is none.
        result: Result<Bytes, &'static str>,
    },
    /// A speed test is over.
    SpeedTested {
        /// Names the test.
        ticket: u64,
        /// Bytes that came back.
        received: u64,
        /// In this time.
        took: Duration,
        /// Shortest time from a request to its answer; `None` = none came.
        round_trip: Option<Duration>,
    },
    /// A message between neighbours about payment.
    LinkMessage {
        /// The neighbour's tunnel key. Proved only if `outgoing`.
        neighbour: PublicKey,
        /// We opened the link, so its key exchange proved who is there.
        outgoing: bool,
        /// 40 to 46.
        id: u8,
        /// The message's fields.
        body: Bytes,
    },
    /// What was carried in the last span, for payment.
    Carried(Carried),
    /// A peer of a hidden swarm is at the other end of a circuit.
    HiddenPeer {
        /// The swarm's group.
        group: GroupId,
        /// The address that stands for it.
        address: SocketAddr,
    },
    /// That peer's circuit is gone.
    HiddenPeerLost {
        /// The swarm's group.
        group: GroupId,
        /// The address that stood for it.
        address: SocketAddr,
    },
    /// A hidden seeder can be found.
    HiddenReady(GroupId),
    /// Something was refused.
    Refused(&'static str),
}

/// Where a carried circuit ends, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CircuitEnd {
    /// Not here.
    Elsewhere,
    /// Here, and its traffic leaves.
    Exit,
    /// Here, where two circuits are joined.
    Rendezvous,
    /// Here, as an introduction point or for anything else.
    Other,
}

/// Bytes carried between two neighbours since the last report.
//= spec/payouts.md#32-price
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The neighbour towards the originator; `None` = we are it.
    pub from: Option<PublicKey>,
    /// The neighbour away from it; `None` = the circuit ends here.
    pub to: Option<PublicKey>,
    /// `from` is the originator itself.
    pub from_originator: bool,
    /// Where the circuit ends.
    pub end: CircuitEnd,
    /// Our own circuit to a hidden seeder from which we take.
    pub hidden: bool,
    /// Hops of our own circuit.
    pub hops: u8,
    /// UDP payload of cells on the link with `from`, both directions.
    pub from_bytes: u64,
    /// The same on the link with `to`.
    pub to_bytes: u64,
}

/// What a circuit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitUse {
    /// The datagrams of a group.
    Data(GroupId),
    /// Payment with a neighbour.
    Settlement,
    /// Where a hidden seeder is introduced.
    Introduction(GroupId),
    /// Where a hidden seeder waits for a peer, or talks with it.
    Seeding(GroupId),
    /// To a hidden seeder.
    Taking(GroupId),
}

/// How far a circuit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// Hops are being added.
    Extending,
    /// It carries.
    Ready,
    /// It carries, and both ends are joined.
    Linked,
    /// Its far end does not answer.
    Suspect,
}

/// An own circuit, as people see it.
#[derive(Clone, Debug)]
pub struct CircuitStatus {
    /// Its number on the first link.
    pub circuit: CircuitId,
    /// What it is for.
    pub purpose: CircuitUse,
    /// How far it is.
    pub state: CircuitState,
    /// Every hop that was chosen, and whether it is joined.
    pub path: Vec<(PublicKey, SocketAddr, bool)>,
    /// Since when.
    pub age: Duration,
    /// Bytes of cells sent.
    pub up: u64,
    /// Bytes of cells received.
    pub down: u64,
    /// Whether it lies in the stock community.
    pub stock: bool,
}

/// A circuit of somebody else that passes here or ends here.
#[derive(Clone, Debug)]
pub struct JoinedStatus {
    /// The neighbour towards its originator.
    pub from: (PublicKey, SocketAddr),
    /// The neighbour away from it.
    pub to: Option<(PublicKey, SocketAddr)>,
    /// Where it ends.
    pub end: CircuitEnd,
    /// Since when.
    pub age: Duration,
    /// Bytes of cells on the link with `from`.
    pub bytes: u64,
}
