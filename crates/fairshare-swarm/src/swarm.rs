//! The engine's public face: torrents and streams, and the way from a stream to its torrent.

use crate::addresses::prefix;
use crate::config::{AddTorrent, Source, SwarmConfig};
use crate::connection::Greeting;
use crate::context::{Context, Purpose};
use crate::event::{CloseReason, ConnectionStatus, StreamId, SwarmOutput, TorrentStatus, Verdict};
use crate::identity::{GrantMessage, Refusal};
use crate::metainfo::InfoHash;
use crate::outbox::Outbox;
use crate::peer_wire::{Decoder, Handshake, Incoming, Reserved};
use crate::request::{Completion, Request};
use crate::torrent::Torrent;
use crate::tracker::UdpStep;
use bytes::Bytes;
use fairshare_crypto::Rng;
use fairshare_wire::{Address, Instant, Now};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use thiserror::Error;

/// Torrents at once.
const MAX_TORRENTS: usize = 10_000;
/// A connect must succeed within this time.
//= spec/swarm.md#2-handshake-bep-3
const CONNECT_TIMEOUT: Duration = Duration::from_secs(7);
/// The same through circuits: each end may have to build one first.
const CONNECT_TIMEOUT_CIRCUIT: Duration = Duration::from_secs(60);
/// A handshake must be complete within this time after the connect.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HANDSHAKE_TIMEOUT_CIRCUIT: Duration = Duration::from_secs(20);
/// Incoming connections of one /24 or /48 that wait for their handshake.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const MAX_WAITING_PER_PREFIX: usize = 4;
/// All timers that are no matter of milliseconds are looked at this often.
const TICK: Duration = Duration::from_secs(1);

/// Why a torrent was not taken up.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddError {
    /// It is here already.
    #[error("torrent {0} was added before")]
    Duplicate(InfoHash),
    /// A magnet cannot be seeded.
    #[error("a magnet link has no description to seed by")]
    SeedWithoutDescription,
    /// There are too many torrents.
    #[error("more than {MAX_TORRENTS} torrents")]
    TooMany,
}

/// No such torrent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("torrent {0} is not known")]
pub struct UnknownTorrent(pub InfoHash);

/// How far a stream has come.
#[derive(Debug)]
enum Stage {
    /// We asked for it.
    Dialling { torrent: InfoHash },
    /// The handshake is under way.
    Greeting(Box<HalfGreeting>),
    /// It is a connection of this torrent.
    Open { torrent: InfoHash },
}

#[derive(Debug)]
struct HalfGreeting {
    incoming: bool,
    torrent: Option<InfoHash>,
    reserved: Option<Reserved>,
    decoder: Decoder,
    outbox: Outbox,
}

#[derive(Debug)]
struct Stream {
    address: SocketAddr,
    since: Instant,
    stage: Stage,
}

/// The swarm engine: all torrents and connections of one network.
#[derive(Debug)]
pub struct Swarm {
    cx: Context,
    torrents: BTreeMap<InfoHash, Torrent>,
    streams: BTreeMap<StreamId, Stream>,
    next_tick: Option<Instant>,
    now: Now,
}

impl Swarm {
    /// An engine without torrents.
    pub fn new(config: SwarmConfig, rng: Rng, now: Now) -> Self {
        Self {
            cx: Context::new(config, rng),
            torrents: BTreeMap::new(),
            streams: BTreeMap::new(),
            next_tick: None,
            now,
        }
    }

    // ---- torrents ----

    /// Takes a torrent up.
    ///
    /// # Errors
    /// It is here already, is to be seeded without a description, or there are too many.
    pub fn add(&mut self, now: Now, add: AddTorrent) -> Result<InfoHash, AddError> {
        self.arm(now);
        let mut add = add;
        let info_hash = match &add.source {
            Source::Metainfo(metainfo) => metainfo.info_hash(),
            Source::Magnet(_) if add.seed => return Err(AddError::SeedWithoutDescription),
            Source::Magnet(magnet) => {
                add.peers.extend(&magnet.peers);
                magnet.info_hash
            }
        };
        if self.torrents.contains_key(&info_hash) {
            return Err(AddError::Duplicate(info_hash));
        }
        if self.torrents.len() >= MAX_TORRENTS {
            return Err(AddError::TooMany);
        }
        let mut torrent = Torrent::new(&mut self.cx, now, info_hash, add);
        torrent.tick_announces(&mut self.cx, now);
        self.torrents.insert(info_hash, torrent);
        self.dial(now);
        Ok(info_hash)
    }

    /// Forgets a torrent, with or without its data.
    ///
    /// # Errors
    /// It is not known.
    pub fn remove(
        &mut self,
        now: Now,
        info_hash: &InfoHash,
        delete_data: bool,
    ) -> Result<(), UnknownTorrent> {
        let torrent = self.torrents.get_mut(info_hash).ok_or(UnknownTorrent(*info_hash))?;
        torrent.stop(&mut self.cx, now);
        torrent.forget(&mut self.cx);
        self.torrents.remove(info_hash);
        let request = Request::Close { torrent: *info_hash, delete: delete_data };
        self.cx.request(*info_hash, Purpose::Close, request);
        Ok(())
    }

    /// Stops a torrent's traffic.
    ///
    /// # Errors
    /// It is not known.
    pub fn pause(&mut self, now: Now, info_hash: &InfoHash) -> Result<(), UnknownTorrent> {
        let torrent = self.torrents.get_mut(info_hash).ok_or(UnknownTorrent(*info_hash))?;
        torrent.pause(&mut self.cx, now);
        Ok(())
    }

    /// Starts a torrent again after a pause or an error.
    ///
    /// # Errors
    /// It is not known.
    pub fn resume(&mut self, now: Now, info_hash: &InfoHash) -> Result<(), UnknownTorrent> {
        self.arm(now);
        let torrent = self.torrents.get_mut(info_hash).ok_or(UnknownTorrent(*info_hash))?;
        torrent.resume(&mut self.cx, now);
        self.dial(now);
        Ok(())
    }

    /// Addresses where a torrent's peers may be, from the user; hidden: names of circuits with peers, from the host.
    ///
    /// # Errors
    /// The torrent is not known.
    pub fn add_peers(
        &mut self,
        now: Now,
        info_hash: &InfoHash,
        addresses: &[SocketAddr],
    ) -> Result<(), UnknownTorrent> {
        self.arm(now);
        let torrent = self.torrents.get_mut(info_hash).ok_or(UnknownTorrent(*info_hash))?;
        torrent.add_addresses(now.mono, addresses, self.cx.given_source(), true);
        self.dial(now);
        Ok(())
    }

    /// Calls nobody and asks no tracker while `held`: the way out does not stand yet. What it took up goes on.
    pub fn hold(&mut self, now: Now, held: bool) {
        self.cx.held = held;
        if held {
            return;
        }
        self.arm(now);
        for torrent in self.torrents.values_mut() {
            torrent.tick_announces(&mut self.cx, now);
        }
        self.dial(now);
    }

    /// Serves others from now on, or nobody any more.
    pub fn set_upload(&mut self, now: Now, allowed: bool) {
        self.cx.config.allow_upload = allowed;
        for torrent in self.torrents.values_mut() {
            if allowed {
                torrent.want_evaluation(&mut self.cx, now.mono);
            } else {
                torrent.choke_all(&mut self.cx);
            }
        }
    }

    // ---- streams ----

    /// The host accepted a stream.
    pub fn stream_incoming(&mut self, now: Now, id: StreamId, address: SocketAddr) {
        self.arm(now);
        if self.streams.contains_key(&id) || !self.has_room_for(address) {
            self.cx.out.push_back(SwarmOutput::Close(id));
            return;
        }
        self.make_room_to_wait(now, address);
        let greeting = HalfGreeting {
            incoming: true,
            torrent: None,
            reserved: None,
            decoder: Decoder::new(),
            outbox: Outbox::new(id, now.mono),
        };
        let stage = Stage::Greeting(Box::new(greeting));
        self.streams.insert(id, Stream { address, since: now.mono, stage });
    }

    /// A stream that the engine asked for is connected.
    pub fn stream_connected(&mut self, now: Now, id: StreamId) {
        self.arm(now);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Stage::Dialling { torrent } = stream.stage else { return };
        let wanted = self.torrents.get(&torrent).filter(|torrent| torrent.wants_connections(&self.cx));
        let Some(peer_id) = wanted.map(|torrent| torrent.peer_id) else {
            return self.drop_stream(now, id);
        };
        let mut outbox = Outbox::new(id, now.mono);
        outbox.push_raw(&Handshake { reserved: Reserved::OURS, info_hash: torrent, peer_id }.to_bytes());
        outbox.flush(now.mono, &mut self.cx.out);
        let greeting = HalfGreeting {
            incoming: false,
            torrent: Some(torrent),
            reserved: None,
            decoder: Decoder::new(),
            outbox,
        };
        stream.stage = Stage::Greeting(Box::new(greeting));
        stream.since = now.mono;
    }

    /// Bytes arrived on a stream.
    pub fn stream_data(&mut self, now: Now, id: StreamId, bytes: Bytes) {
        self.arm(now);
        match self.streams.get(&id).map(|stream| &stream.stage) {
            Some(Stage::Open { torrent }) => {
                if let Some(torrent) = self.torrents.get_mut(torrent) {
                    torrent.data(&mut self.cx, now, id, bytes);
                }
            }
            Some(Stage::Greeting(_)) => self.greet(now, id, bytes),
            Some(Stage::Dialling { .. }) | None => {}
        }
    }

    /// The transport took `bytes` of what was written to a stream.
    pub fn stream_drained(&mut self, now: Now, id: StreamId, bytes: usize) {
        self.arm(now);
        if let Some(Stage::Greeting(greeting)) = self.streams.get_mut(&id).map(|stream| &mut stream.stage) {
            greeting.outbox.drained(now.mono, bytes);
        }
        self.with_connection(id, |torrent, cx| torrent.drained(cx, now, id, bytes));
    }

    /// A stream ended, or could not be opened.
    pub fn stream_closed(&mut self, now: Now, id: StreamId) {
        self.arm(now);
        let Some(stream) = self.streams.remove(&id) else { return };
        match stream.stage {
            Stage::Open { torrent } => {
                if let Some(torrent) = self.torrents.get_mut(&torrent) {
                    torrent.gone(&mut self.cx, now, id, CloseReason::Remote);
                }
            }
            Stage::Dialling { torrent } => self.dial_failed(now, &torrent, &stream.address),
            Stage::Greeting(greeting) => {
                if let Some(torrent) = greeting.torrent.filter(|_| !greeting.incoming) {
                    self.dial_failed(now, &torrent, &stream.address);
                }
            }
        }
        self.dial(now);
    }

    /// The host answered a request.
    pub fn completed(&mut self, now: Now, ticket: u64, completion: Completion) {
        self.arm(now);
        let Some((info_hash, purpose)) = self.cx.take_ticket(ticket) else { return };
        let Some(torrent) = self.torrents.get_mut(&info_hash) else { return };
        let cx = &mut self.cx;
        match (purpose, completion) {
            (Purpose::Open, Completion::Opened(result)) => torrent.on_opened(cx, now, result),
            (Purpose::Store { piece }, Completion::Stored(result)) => {
                torrent.on_stored(cx, now, piece, result)
            }
            (Purpose::Read { id }, Completion::Data(result)) => torrent.on_read(cx, now, id, ticket, result),
            (Purpose::Save { finished }, Completion::Saved(result)) => {
                torrent.on_saved(cx, now, finished, result)
            }
            (Purpose::Announce { tracker }, Completion::Page(page)) => {
                torrent.on_page(cx, now, tracker, page)
            }
            // An answer of the wrong kind is a bug of the host; nothing sensible can be done with it here.
            _ => {}
        }
        if matches!(purpose, Purpose::Announce { .. } | Purpose::Open) {
            self.dial(now);
        }
    }

    /// A datagram came that may be a tracker's answer; whether it was one that was waited for.
    pub fn tracker_datagram(&mut self, now: Now, from: &Address, datagram: &[u8]) -> bool {
        self.arm(now);
        let Some(step) = self.cx.udp.datagram(now.mono, from, datagram) else { return false };
        let done = matches!(step, UdpStep::Done { .. });
        self.on_udp_step(now, step);
        if done {
            self.dial(now);
        }
        true
    }

    fn on_udp_step(&mut self, now: Now, step: UdpStep) {
        let (UdpStep::Send { torrent, .. } | UdpStep::Done { torrent, .. }) = &step;
        match (self.torrents.get_mut(torrent), step) {
            (Some(torrent), step) => torrent.on_udp_step(&mut self.cx, now, step),
            // A farewell: its torrent is gone.
            (None, UdpStep::Send { torrent, to, bytes }) => {
                self.cx.out.push_back(SwarmOutput::TrackerSend { torrent, to, bytes });
            }
            (None, UdpStep::Done { .. }) => {}
        }
    }

    // ---- verbs of the economy, through the node ----

    /// The place of a session's peer among all that the reputation knows, in 1/1000 from the bottom: 0 if unknown.
    pub fn set_rank(&mut self, _now: Now, id: StreamId, per_mille: u32) {
        self.with_connection(id, |torrent, _| {
            if let Some(connection) = torrent.connections.get_mut(&id) {
                connection.rank = per_mille;
            }
        });
    }

    /// The economy's verdict about the peer of a session.
    pub fn verdict(&mut self, now: Now, id: StreamId, verdict: Verdict) {
        self.with_connection(id, |torrent, cx| torrent.verdict(cx, now, id, verdict));
    }

    /// The economy may judge the peer differently now: its verdict is asked for again.
    pub fn rejudge(&mut self, now: Now, id: StreamId) {
        self.with_connection(id, |torrent, cx| torrent.rejudge(cx, now, id));
    }

    /// The economy reserved room: the peer is told and served.
    pub fn grant(&mut self, now: Now, id: StreamId, grant: GrantMessage) {
        self.with_connection(id, |torrent, cx| torrent.grant(cx, now, id, grant));
    }

    /// The economy released the unused rest of a grant.
    pub fn freed(&mut self, _now: Now, id: StreamId, number: u32, used: u64) {
        self.with_connection(id, |torrent, cx| torrent.freed(cx, id, number, used));
    }

    /// Payload bytes of this session that may be sent, all in all.
    pub fn serve_limit(&mut self, now: Now, id: StreamId, total: u64) {
        self.with_connection(id, |torrent, cx| torrent.serve_limit(cx, now, id, total));
    }

    /// The economy refuses the peer.
    pub fn refuse(&mut self, now: Now, id: StreamId, refusal: Refusal) {
        self.with_connection(id, |torrent, cx| torrent.refuse(cx, now, id, refusal));
    }

    /// Sends a half block over a session.
    pub fn send_block(&mut self, _now: Now, id: StreamId, block: Bytes) {
        self.with_connection(id, |torrent, cx| torrent.send_block(cx, id, block));
    }

    /// Closes a connection.
    pub fn disconnect(&mut self, now: Now, id: StreamId) {
        self.with_connection(id, |torrent, cx| torrent.close(cx, now, id, CloseReason::Command));
    }

    // ---- time and outputs ----

    /// The time asked for by [`next_timeout`](Self::next_timeout) has come.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        if self.cx.wake.is_some_and(|at| at <= now.mono) {
            self.cx.wake = None;
            for torrent in self.torrents.values_mut() {
                torrent.evaluate_if_due(&mut self.cx, now);
            }
        }
        if self.next_tick.is_some_and(|at| at <= now.mono) {
            self.next_tick = None;
            self.tick(now);
            self.arm(now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.next_tick.into_iter().chain(self.cx.wake).min()
    }

    /// The next output, until there is none.
    pub fn poll(&mut self) -> Option<SwarmOutput> {
        if self.cx.out.is_empty() {
            self.put_out();
        }
        self.cx.out.pop_front()
    }

    // ---- queries ----

    /// One torrent.
    pub fn status(&self, info_hash: &InfoHash) -> Option<TorrentStatus> {
        self.torrents.get(info_hash).map(|torrent| torrent.status(self.now.mono))
    }

    /// All torrents.
    pub fn torrents(&self) -> Vec<TorrentStatus> {
        self.torrents.values().map(|torrent| torrent.status(self.now.mono)).collect()
    }

    /// All connections.
    pub fn connections(&self) -> Vec<ConnectionStatus> {
        self.torrents.values().flat_map(|torrent| torrent.connection_status(self.now.mono)).collect()
    }

    // ---- the way from a stream to its torrent ----

    fn with_connection(&mut self, id: StreamId, act: impl FnOnce(&mut Torrent, &mut Context)) {
        let Some(Stage::Open { torrent }) = self.streams.get(&id).map(|stream| &stream.stage) else { return };
        if let Some(torrent) = self.torrents.get_mut(torrent) {
            act(torrent, &mut self.cx);
        }
    }

    /// Reads the handshake of a stream; the rest of the bytes belongs to the connection.
    fn greet(&mut self, now: Now, id: StreamId, mut input: Bytes) {
        loop {
            let Some(stream) = self.streams.get_mut(&id) else { return };
            let Stage::Greeting(greeting) = &mut stream.stage else { return };
            match greeting.decoder.decode(&mut input) {
                Ok(None) => return,
                Ok(Some(Incoming::Opening { reserved, info_hash })) => {
                    if !self.opening(now, id, reserved, info_hash) {
                        return self.drop_stream(now, id);
                    }
                }
                Ok(Some(Incoming::PeerId(peer_id))) => {
                    let address = stream.address;
                    let stage =
                        std::mem::replace(&mut stream.stage, Stage::Dialling { torrent: InfoHash([0; 20]) });
                    let Stage::Greeting(half) = stage else { return };
                    let HalfGreeting { incoming, torrent, reserved, decoder, outbox } = *half;
                    let (Some(torrent), Some(reserved)) = (torrent, reserved) else { return };
                    stream.stage = Stage::Open { torrent };
                    let Some(torrent) = self.torrents.get_mut(&torrent) else {
                        return self.drop_stream(now, id);
                    };
                    let greeting = Greeting { id, address, incoming, reserved, peer_id, decoder, outbox };
                    torrent.greeted(&mut self.cx, now, greeting);
                    if !input.is_empty() {
                        torrent.data(&mut self.cx, now, id, input);
                    }
                    return;
                }
                Ok(Some(Incoming::Message(_))) | Err(_) => return self.drop_stream(now, id),
            }
        }
    }

    /// The first 48 bytes are here: an accepted stream is answered, if its torrent is one of ours.
    //= spec/swarm.md#2-handshake-bep-3
    fn opening(&mut self, now: Now, id: StreamId, reserved: Reserved, info_hash: InfoHash) -> bool {
        let Some(torrent) = self.torrents.get(&info_hash) else { return false };
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let Stage::Greeting(greeting) = &mut stream.stage else { return false };
        greeting.reserved = Some(reserved);
        if let Some(expected) = greeting.torrent {
            return expected == info_hash;
        }
        if !torrent.wants_connections(&self.cx) || torrent.is_banned_address(now.mono, stream.address) {
            return false;
        }
        greeting.torrent = Some(info_hash);
        let handshake = Handshake { reserved: Reserved::OURS, info_hash, peer_id: torrent.peer_id };
        greeting.outbox.push_raw(&handshake.to_bytes());
        greeting.outbox.flush(now.mono, &mut self.cx.out);
        true
    }

    /// Closes a stream that is no connection yet.
    fn drop_stream(&mut self, now: Now, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.cx.out.push_back(SwarmOutput::Close(id));
        let torrent = match stream.stage {
            Stage::Dialling { torrent } | Stage::Open { torrent } => Some(torrent),
            Stage::Greeting(greeting) => greeting.torrent.filter(|_| !greeting.incoming),
        };
        if let Some(torrent) = torrent {
            self.dial_failed(now, &torrent, &stream.address);
        }
    }

    // ---- limits and dialling ----

    /// Whether one more connection with this address is within the limits. On this machine all peers share one
    /// address, and whoever runs here needs no flood of connections to do harm: only the total counts.
    //= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
    fn has_room_for(&self, address: SocketAddr) -> bool {
        let config = &self.cx.config;
        let (ip, network) = (address.ip().to_canonical(), prefix(address.ip()));
        let others = || self.streams.values().map(|stream| stream.address.ip());
        // Names of circuits are no addresses: what looks like a network is none.
        if self.streams.len() >= config.max_connections || ip.is_loopback() || self.cx.is_hidden() {
            return self.streams.len() < config.max_connections;
        }
        others().filter(|other| other.to_canonical() == ip).count() < config.max_connections_per_address
            && others().filter(|other| prefix(*other) == network).count() < config.max_connections_per_prefix
    }

    /// Drops the oldest of the waiting handshakes where there are too many.
    fn make_room_to_wait(&mut self, now: Now, address: SocketAddr) {
        let network = prefix(address.ip());
        let waits = |stream: &Stream| matches!(&stream.stage, Stage::Greeting(greeting) if greeting.incoming);
        let mut waiting: Vec<(Instant, StreamId, SocketAddr)> = self
            .streams
            .iter()
            .filter(|(_, stream)| waits(stream))
            .map(|(id, stream)| (stream.since, *id, stream.address))
            .collect();
        waiting.sort_unstable_by_key(|(since, id, _)| (*since, *id));
        let near: Vec<StreamId> = waiting
            .iter()
            .filter(|(.., other)| prefix(other.ip()) == network)
            .map(|(_, id, _)| *id)
            .collect();
        if near.len() >= MAX_WAITING_PER_PREFIX && !network.is_loopback() && !self.cx.is_hidden() {
            near.first().copied().into_iter().for_each(|id| self.drop_stream(now, id));
        } else if waiting.len() >= self.cx.config.max_waiting_handshakes {
            waiting.first().map(|(_, id, _)| *id).into_iter().for_each(|id| self.drop_stream(now, id));
        }
    }

    /// Opens connections to candidates, as far as limits allow.
    fn dial(&mut self, now: Now) {
        if self.cx.held {
            return;
        }
        let dialling = |stream: &&Stream| matches!(stream.stage, Stage::Dialling { .. });
        let mut half_open = self.streams.values().filter(dialling).count();
        let torrents: Vec<InfoHash> = self.torrents.keys().copied().collect();
        for info_hash in torrents {
            while half_open < self.cx.config.max_half_open
                && self.streams.len() < self.cx.config.max_connections
            {
                let Some(torrent) = self.torrents.get_mut(&info_hash) else { break };
                if !torrent.wants_connections(&self.cx) {
                    break;
                }
                let Some(address) = torrent.candidates.due(now.mono) else { break };
                let room = self.has_room_for(address);
                let Some(torrent) = self.torrents.get_mut(&info_hash) else { break };
                if !room {
                    torrent.candidates.postpone(now.mono, &address);
                    continue;
                }
                if !self.cx.may_dial(now.mono) {
                    break;
                }
                torrent.candidates.connected(&address);
                let id = self.cx.new_stream();
                let stage = Stage::Dialling { torrent: info_hash };
                self.streams.insert(id, Stream { address, since: now.mono, stage });
                self.cx.out.push_back(SwarmOutput::Connect(id, address));
                half_open += 1;
            }
        }
    }

    fn dial_failed(&mut self, now: Now, torrent: &InfoHash, address: &SocketAddr) {
        if let Some(torrent) = self.torrents.get_mut(torrent) {
            torrent.candidates.failed(now.mono, address);
        }
    }

    // ---- ticking ----

    fn tick(&mut self, now: Now) {
        let (connect, handshake) = if self.cx.is_clear() {
            (CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT)
        } else {
            (CONNECT_TIMEOUT_CIRCUIT, HANDSHAKE_TIMEOUT_CIRCUIT)
        };
        let overdue = |stream: &Stream| match stream.stage {
            Stage::Dialling { .. } => now.mono.since(stream.since) >= connect,
            Stage::Greeting(_) => now.mono.since(stream.since) >= handshake,
            Stage::Open { .. } => false,
        };
        let late: Vec<StreamId> =
            self.streams.iter().filter(|(_, stream)| overdue(stream)).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.drop_stream(now, id));
        for torrent in self.torrents.values_mut() {
            torrent.tick(&mut self.cx, now);
        }
        for step in self.cx.udp.tick(now.mono) {
            self.on_udp_step(now, step);
        }
        self.dial(now);
    }

    /// Notes the time, and makes sure that the next tick comes while there is anything to tick for.
    fn arm(&mut self, now: Now) {
        self.now = now;
        if self.next_tick.is_none()
            && !(self.torrents.is_empty() && self.streams.is_empty() && self.cx.udp.is_empty())
        {
            self.next_tick = Some(now.mono + TICK);
        }
    }

    /// Turns what was gathered since the last time into outputs: messages of connections, totals of sessions.
    fn put_out(&mut self) {
        for id in std::mem::take(&mut self.cx.closed) {
            self.streams.remove(&id);
        }
        for (torrent, id) in std::mem::take(&mut self.cx.unflushed) {
            let connection =
                self.torrents.get_mut(&torrent).and_then(|torrent| torrent.connections.get_mut(&id));
            if let Some(connection) = connection {
                connection.outbox.flush(self.now.mono, &mut self.cx.out);
            }
        }
        for (torrent, id) in std::mem::take(&mut self.cx.changed) {
            if let Some(torrent) = self.torrents.get_mut(&torrent) {
                torrent.report_totals(&mut self.cx, id);
            }
        }
    }
}
