//! uTP (BEP 29): streams over the datagrams of one port, which yield to other traffic or, over circuits, do not.
//!
//! [`Utp`] holds all connections of one port. It is fed with datagrams and with what its owner writes; the owner drains
//! [`Utp::poll`] after each call and comes back at [`Utp::next_timeout`]:
//!
//! ```
//! use bytes::Bytes;
//! use fairshare_crypto::Rng;
//! use fairshare_swarm::StreamId;
//! use fairshare_swarm::utp::{Utp, UtpConfig, UtpOutput};
//! use fairshare_wire::Now;
//!
//! let now = Now::default();
//! let [mut ours, mut theirs] = [1, 2].map(|seed| Utp::new(UtpConfig::default(), Rng::from_seed([seed; 32]), now));
//! let [our_address, their_address] = ["192.0.2.1:6881".parse()?, "192.0.2.2:6881".parse()?];
//! ours.connect(now, StreamId(2), their_address);
//! ours.write(now, StreamId(2), Bytes::from_static(b"hello"));
//! let mut heard = Vec::new();
//! for _ in 0..3 {
//!     while let Some(output) = ours.poll() {
//!         if let UtpOutput::Transmit(_, datagram) = output {
//!             theirs.handle_datagram(now, our_address, &datagram);
//!         }
//!     }
//!     while let Some(output) = theirs.poll() {
//!         match output {
//!             UtpOutput::Transmit(_, datagram) => ours.handle_datagram(now, their_address, &datagram),
//!             UtpOutput::Data(_, bytes) => heard.extend_from_slice(&bytes),
//!             _ => {}
//!         }
//!     }
//! }
//! assert_eq!(heard, b"hello");
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//= spec/swarm.md#11-transports

mod congestion;
mod connection;
mod pacing;
mod packet;
mod receiving;
mod sending;
#[cfg(test)]
mod tests;
mod timing;

pub use congestion::Congestion;

use crate::StreamId;
use bytes::Bytes;
use connection::{Connection, Stage};
use fairshare_crypto::Rng;
use fairshare_wire::{Instant, Now};
use packet::{Header, Kind, Packet, encode};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// Opening packets answered and not confirmed: their senders may not exist. Beyond this the oldest is forgotten.
const MAX_HALF_OPEN: usize = 256;
/// Bytes out of order over all connections: beyond this only the next packet of each is taken.
const MAX_WAITING: usize = 64 << 20;
/// Bytes written and not sent on one connection, before it is given up: its owner writes by credit.
const MAX_QUEUED: usize = 16 << 20;
/// Answers to packets of unknown connections per second, so that nobody makes us a source of packets.
const MAX_RESETS: u32 = 100;
/// Draws of a connection number before a connect fails: with few connections to one address the first succeeds.
const MAX_DRAWS: usize = 100;

/// Settings of a port.
#[derive(Clone, Debug)]
pub struct UtpConfig {
    /// Longest datagram that is sent, header included.
    pub max_payload: usize,
    /// What limits the packets under way.
    pub congestion: Congestion,
    /// Whether others may open connections.
    pub accept: bool,
    /// Number of the first stream that others open; odd. The next ones follow by steps of two.
    pub first_stream: u64,
    /// Connections at once, those that are ending included.
    pub max_connections: usize,
    /// A connect must succeed within this time.
    pub connect_timeout: Duration,
}

impl Default for UtpConfig {
    fn default() -> Self {
        Self {
            max_payload: 1_400,
            congestion: Congestion::Ledbat,
            accept: true,
            first_stream: 1,
            max_connections: 1_000,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl UtpConfig {
    /// Settings for a circuit whose cells carry `max_payload` bytes: the path is ours and slow to answer.
    pub fn circuit(max_payload: usize) -> Self {
        let connect_timeout = Duration::from_secs(60);
        Self { max_payload, congestion: Congestion::Loss, connect_timeout, ..Self::default() }
    }
}

/// What a port wants done, or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UtpOutput {
    /// Send a datagram.
    Transmit(SocketAddr, Bytes),
    /// The connection that was asked for stands.
    Connected(StreamId),
    /// Another end opened a connection.
    Accepted(StreamId, SocketAddr),
    /// Bytes came, in order.
    Data(StreamId, Bytes),
    /// So many written bytes were sent for the first time.
    Drained(StreamId, usize),
    /// The connection is no more; it was told once for each that was connected to or accepted.
    Closed(StreamId),
}

/// A connection as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UtpStatus {
    /// Bytes that may be under way.
    pub window: u64,
    /// The most that this ever was.
    pub highest_window: u64,
    /// The smoothed round trip.
    pub round_trip: Duration,
    /// Bytes written and not sent.
    pub queued: usize,
    /// Bytes sent that are neither acknowledged nor known to be lost.
    pub under_way: u64,
    /// Bytes that the other end can still take.
    pub their_window: u64,
    /// Packets sent more than once.
    pub repeated: u64,
    /// Timeouts.
    pub timeouts: u64,
}

/// All uTP connections of one datagram port.
#[derive(Debug)]
pub struct Utp {
    config: UtpConfig,
    rng: Rng,
    connections: BTreeMap<StreamId, Connection>,
    /// By the other end's address and the number that its packets carry.
    names: BTreeMap<(SocketAddr, u16), StreamId>,
    /// Accepted and not told, oldest first.
    half_open: BTreeSet<StreamId>,
    timers: BTreeSet<(Instant, StreamId)>,
    /// Connections that may have something to send.
    touched: BTreeSet<StreamId>,
    waiting_bytes: usize,
    out: VecDeque<UtpOutput>,
    next_stream: u64,
    now: Instant,
    resets: (Instant, u32),
    refusals: BTreeMap<&'static str, u64>,
}

impl Utp {
    /// A port without connections.
    pub fn new(config: UtpConfig, rng: Rng, now: Now) -> Self {
        Self {
            next_stream: config.first_stream,
            config,
            rng,
            connections: BTreeMap::new(),
            names: BTreeMap::new(),
            half_open: BTreeSet::new(),
            timers: BTreeSet::new(),
            touched: BTreeSet::new(),
            waiting_bytes: 0,
            out: VecDeque::new(),
            now: now.mono,
            resets: (now.mono, 0),
            refusals: BTreeMap::new(),
        }
    }

    /// Whether a datagram looks like one of uTP: what tells it from the other protocols of a port.
    pub fn is_utp(datagram: &[u8]) -> bool {
        Packet::is_utp(datagram)
    }

    // ---- what the owner wants ----

    /// Opens a connection. It may be written to at once. Answer: `Connected` or `Closed`.
    pub fn connect(&mut self, now: Now, id: StreamId, address: SocketAddr) {
        self.now = now.mono;
        if self.connections.contains_key(&id) {
            return self.refuse("stream number used twice");
        }
        let room = self.make_room();
        let Some(name) = self.draw_name(address).filter(|_| room) else {
            self.refuse("too many connections");
            return self.out.push_back(UtpOutput::Closed(id));
        };
        let seq = self.rng.next_u16();
        let (connection, syn) = Connection::open(&self.config, self.now, address, name, seq);
        self.names.insert((address, name), id);
        self.connections.insert(id, connection);
        self.out.push_back(UtpOutput::Transmit(address, syn));
        self.file(id);
    }

    /// Writes to a connection, in order. Answer, in parts: `Drained`.
    pub fn write(&mut self, now: Now, id: StreamId, bytes: Bytes) {
        self.now = now.mono;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !matches!(connection.stage, Stage::Connecting { .. } | Stage::Open) {
            return;
        }
        connection.sending.push(bytes);
        if connection.sending.queued() > MAX_QUEUED {
            self.refuse("more written than is sent");
            return self.abort(id);
        }
        self.touched.insert(id);
    }

    /// Closes a connection after what was written to it. Answer: `Closed`, when the other end has everything.
    pub fn close(&mut self, now: Now, id: StreamId) {
        self.now = now.mono;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.close(self.now);
        self.after(id);
    }

    /// Nothing reaches an address any more: its circuit is gone. Its connections end at once.
    pub fn unreachable(&mut self, now: Now, address: SocketAddr) {
        self.now = now.mono;
        let ids: Vec<StreamId> =
            self.names.range((address, 0)..=(address, u16::MAX)).map(|(_, id)| *id).collect();
        for id in ids {
            self.hand_out(id);
            self.remove(id);
        }
    }

    // ---- what comes ----

    /// A datagram came.
    pub fn handle_datagram(&mut self, now: Now, from: SocketAddr, datagram: &[u8]) {
        self.now = now.mono;
        let Ok(packet) = Packet::parse(datagram) else { return self.refuse("malformed packet") };
        let header = &packet.header;
        let Some(id) = self.find(from, header) else {
            return match header.kind {
                Kind::Syn => self.accept(from, header),
                Kind::Reset => self.refuse("reset of an unknown connection"),
                Kind::Data | Kind::Fin | Kind::State => self.unknown(from, header),
            };
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (stage, waiting) = (connection.stage, connection.receiving.waiting_bytes());
        let taken = connection.handle(self.now, &packet, self.waiting_bytes < MAX_WAITING);
        self.waiting_bytes = self.waiting_bytes + connection.receiving.waiting_bytes() - waiting;
        let (opened, address) = (connection.stage == Stage::Open, connection.remote);
        match stage {
            Stage::Connecting { .. } if opened => self.out.push_back(UtpOutput::Connected(id)),
            Stage::Accepting { .. } if opened => {
                self.half_open.remove(&id);
                self.out.push_back(UtpOutput::Accepted(id, address));
            }
            _ => {}
        }
        if let Err(reason) = taken {
            self.refuse(reason);
        }
        self.after(id);
    }

    /// The time asked for by [`next_timeout`](Self::next_timeout) has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now.mono;
        let due: Vec<StreamId> =
            self.timers.iter().take_while(|(at, _)| *at <= self.now).map(|(_, id)| *id).collect();
        for id in due {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let address = connection.remote;
            if let Some(datagram) = connection.handle_timeout(self.now) {
                self.out.push_back(UtpOutput::Transmit(address, datagram));
            }
            self.after(id);
            self.flush(id);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next output, until there is none.
    pub fn poll(&mut self) -> Option<UtpOutput> {
        while self.out.is_empty() {
            let id = self.touched.pop_first()?;
            self.flush(id);
        }
        let output = self.out.pop_front();
        if let Some(UtpOutput::Data(id, bytes)) = &output
            && let Some(connection) = self.connections.get_mut(id)
            && connection.receiving.read(bytes.len())
        {
            connection.receiving.acknowledge_now();
            self.touched.insert(*id);
        }
        output
    }

    // ---- queries ----

    /// A connection's figures.
    pub fn status(&self, id: StreamId) -> Option<UtpStatus> {
        self.connections.get(&id).map(|connection| connection.sending.status())
    }

    /// Connections, those that are ending included.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// What was refused, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.refusals.iter().map(|(reason, count)| (*reason, *count))
    }

    // ---- the way of a packet ----

    /// The connection that a packet belongs to. A reset may name it by the number of either direction.
    fn find(&self, from: SocketAddr, header: &Header) -> Option<StreamId> {
        let name = header.connection;
        if header.kind == Kind::Syn {
            return self.names.get(&(from, name.wrapping_add(1))).copied();
        }
        let found = self.names.get(&(from, name)).copied();
        if header.kind != Kind::Reset || found.is_some() {
            return found;
        }
        let beside = [name.wrapping_add(1), name.wrapping_sub(1)];
        let mut ids = beside.iter().filter_map(|name| self.names.get(&(from, *name)).copied());
        ids.find(|id| self.connections.get(id).is_some_and(|connection| connection.is_named(name)))
    }

    fn accept(&mut self, from: SocketAddr, syn: &Header) {
        if !self.config.accept {
            return self.refuse("opening packet although nothing is accepted");
        }
        if self.half_open.len() >= MAX_HALF_OPEN
            && let Some(oldest) = self.half_open.first().copied()
        {
            self.refuse("too many half-open connections");
            self.remove(oldest);
        }
        if !self.make_room() {
            return self.refuse("too many connections");
        }
        let id = StreamId(self.next_stream);
        self.next_stream += 2;
        let seq = self.rng.next_u16();
        let connection = Connection::accept(&self.config, self.now, from, syn, seq);
        self.names.insert((from, connection.receive_id), id);
        self.connections.insert(id, connection);
        self.half_open.insert(id);
        self.after(id);
    }

    /// Whether one more connection has room; one that is ending gives way.
    fn make_room(&mut self) -> bool {
        if self.connections.len() < self.config.max_connections {
            return true;
        }
        let ending =
            self.connections.iter().filter_map(|(id, connection)| Some((connection.dispensable()?, *id)));
        let Some((_, id)) = ending.min() else { return false };
        self.abort(id);
        true
    }

    /// Tells the sender of a packet that there is no such connection.
    fn unknown(&mut self, from: SocketAddr, header: &Header) {
        self.refuse("packet of an unknown connection");
        if self.now.since(self.resets.0) >= Duration::from_secs(1) {
            self.resets = (self.now, 0);
        }
        if self.resets.1 >= MAX_RESETS {
            return;
        }
        self.resets.1 += 1;
        let reset = Header {
            kind: Kind::Reset,
            connection: header.connection,
            sent_at: self.now.as_micros() as u32,
            delay: 0,
            window: 0,
            seq: self.rng.next_u16(),
            ack: header.seq,
        };
        self.out.push_back(UtpOutput::Transmit(from, encode(&reset, &[], &[])));
    }

    /// A number that no connection with this address uses, in either direction.
    fn draw_name(&mut self, address: SocketAddr) -> Option<u16> {
        (0..MAX_DRAWS).map(|_| self.rng.next_u16()).find(|name| {
            let near = [name.wrapping_sub(1), *name, name.wrapping_add(1)];
            near.iter().all(|name| !self.names.contains_key(&(address, *name)))
        })
    }

    // ---- after each event ----

    /// Notes that there may be something to tell or to send.
    fn after(&mut self, id: StreamId) {
        let Some(connection) = self.connections.get(&id) else { return };
        if connection.stage == Stage::Gone {
            self.hand_out(id);
            return self.remove(id);
        }
        self.touched.insert(id);
        self.file(id);
    }

    /// Hands out what came since the last time.
    fn hand_out(&mut self, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.wants_data() {
            self.out.extend(connection.receiving.take().map(|bytes| UtpOutput::Data(id, bytes)));
        } else {
            connection.receiving.discard();
        }
    }

    /// Tells what came, and sends what may be sent.
    fn flush(&mut self, id: StreamId) {
        self.hand_out(id);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.settle(self.now) {
            self.out.push_back(UtpOutput::Closed(id));
        }
        let (address, out) = (connection.remote, &mut self.out);
        connection.flush(self.now, |datagram| out.push_back(UtpOutput::Transmit(address, datagram)));
        let drained = connection.sending.take_drained();
        if drained > 0 {
            self.out.push_back(UtpOutput::Drained(id, drained));
        }
        self.file(id);
    }

    /// Files the connection under its next timer.
    fn file(&mut self, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let next = connection.next_timeout();
        if next == connection.timer {
            return;
        }
        if let Some(old) = std::mem::replace(&mut connection.timer, next) {
            self.timers.remove(&(old, id));
        }
        self.timers.extend(next.map(|at| (at, id)));
    }

    /// Ends a connection without ceremony.
    fn abort(&mut self, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (address, reset) = (connection.remote, connection.reset_datagram(self.now));
        self.out.push_back(UtpOutput::Transmit(address, reset));
        self.remove(id);
    }

    /// Forgets a connection; its owner is told, if it knows of it and was not told before.
    fn remove(&mut self, id: StreamId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.names.remove(&(connection.remote, connection.receive_id));
        if let Some(at) = connection.timer {
            self.timers.remove(&(at, id));
        }
        self.touched.remove(&id);
        self.waiting_bytes -= connection.receiving.waiting_bytes();
        let untold = self.half_open.remove(&id);
        if !untold && !connection.ended {
            self.out.push_back(UtpOutput::Closed(id));
        }
    }

    fn refuse(&mut self, reason: &'static str) {
        *self.refusals.entry(reason).or_default() += 1;
    }
}
