//! A small swarm in one process: engines, a virtual clock, streams as byte queues with latency, disks in memory
//! that hash, and an economy that is a few lines. Every run with the same inputs is the same run.

#![allow(dead_code, reason = "each test file uses a part of the world")]

mod disk;

pub(crate) use disk::Disk;

use bytes::{Bytes, BytesMut};
use fairshare_crypto::{Rng, SecretKey, sha1};
use fairshare_swarm::metainfo::TorrentBuilder;
use fairshare_swarm::{
    AddTorrent, Completion, GrantMessage, InfoHash, Metainfo, Refusal, RefusalReason, Request, Source,
    StreamId, Swarm, SwarmConfig, SwarmEvent, SwarmOutput, Verdict,
};
use fairshare_wire::{Address, Instant, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One way of every stream.
pub(crate) const LATENCY: Duration = Duration::from_millis(5);
/// Until the disk answers.
const DISK_TIME: Duration = Duration::from_micros(200);
/// Events processed in one run at the most: a world that does not come to rest fails instead of hanging.
const MAX_STEPS: u64 = 20_000_000;

/// How a node's economy judges.
#[derive(Clone, Debug)]
pub(crate) enum Economy {
    /// Everybody is served, in grants of so many bytes.
    Serve { room: u64 },
    /// So many bytes for each session, then refusal.
    Allowance(u64),
    /// Nobody is served.
    Refuse,
    /// The verdict is to choke.
    Choke,
}

/// A node of the world.
pub(crate) struct TestNode {
    pub(crate) swarm: Swarm,
    pub(crate) address: SocketAddr,
    pub(crate) disk: Disk,
    pub(crate) economy: Economy,
    pub(crate) events: Vec<SwarmEvent>,
    /// Room granted per session, and number of grants.
    pub(crate) granted: BTreeMap<StreamId, (u64, u32)>,
    /// Bytes written to streams.
    pub(crate) written: u64,
    /// Answers to pages that the node asks for, by prefix of the address.
    pub(crate) pages: BTreeMap<String, Bytes>,
    /// Pages asked for.
    pub(crate) asked_pages: Vec<String>,
    /// Datagrams for UDP trackers.
    pub(crate) tracker_datagrams: Vec<(Address, Bytes)>,
    /// What was written to streams that no other node holds.
    pub(crate) raw: BTreeMap<StreamId, BytesMut>,
    /// Streams that the engine closed.
    pub(crate) closed: BTreeSet<StreamId>,
    /// Bytes per second that leave the node at the most.
    pub(crate) line: Option<u64>,
    /// Connections that the engine asked for.
    pub(crate) dialled: usize,
    /// The process is gone without a word: what comes for it is lost.
    frozen: bool,
    /// Changes payload before it leaves.
    pub(crate) corrupts: bool,
    next_stream: u64,
    /// When the line has sent all that was written.
    line_free: Instant,
    timer: Option<Instant>,
}

enum Happening {
    Timer(usize),
    Connected { from: usize, id: StreamId, to: SocketAddr },
    Data { node: usize, id: StreamId, bytes: Bytes },
    Drained { node: usize, id: StreamId, len: usize },
    Closed { node: usize, id: StreamId },
    Completed { node: usize, ticket: u64, completion: Completion },
}

impl Happening {
    /// The node it happens to.
    const fn node(&self) -> usize {
        match self {
            Self::Timer(node)
            | Self::Connected { from: node, .. }
            | Self::Data { node, .. }
            | Self::Drained { node, .. }
            | Self::Closed { node, .. }
            | Self::Completed { node, .. } => *node,
        }
    }
}

/// The world.
pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) nodes: Vec<TestNode>,
    pub(crate) latency: Duration,
    heap: BTreeMap<(Instant, u64), Happening>,
    sequence: u64,
    /// The other end of each open stream.
    pipes: BTreeMap<(usize, StreamId), (usize, StreamId)>,
    pub(crate) steps: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            now: Now { mono: Instant::from_micros(1_000_000), unix_ms: 1_700_000_000_000 },
            nodes: Vec::new(),
            latency: LATENCY,
            heap: BTreeMap::new(),
            sequence: 0,
            pipes: BTreeMap::new(),
            steps: 0,
        }
    }

    /// A node with an identity that serves everybody.
    pub(crate) fn node(&mut self) -> usize {
        self.node_with(|_| {})
    }

    pub(crate) fn node_with(&mut self, change: impl FnOnce(&mut SwarmConfig)) -> usize {
        let number = self.nodes.len();
        let seed = [u8::try_from(number).expect("a small world") + 1; 32];
        let rng = Rng::from_seed(seed);
        let mut config = SwarmConfig {
            listen_port: 7000,
            identity: Some(SecretKey::generate(&mut rng.fork("identity"))),
            ..SwarmConfig::default()
        };
        change(&mut config);
        self.nodes.push(TestNode {
            swarm: Swarm::new(config, rng.fork("swarm"), self.now),
            address: SocketAddr::from(([10, 0, 0, u8::try_from(number).expect("small") + 1], 7000)),
            disk: Disk::default(),
            economy: Economy::Serve { room: 64 << 20 },
            events: Vec::new(),
            granted: BTreeMap::new(),
            written: 0,
            pages: BTreeMap::new(),
            asked_pages: Vec::new(),
            tracker_datagrams: Vec::new(),
            raw: BTreeMap::new(),
            closed: BTreeSet::new(),
            line: None,
            line_free: Instant::START,
            dialled: 0,
            frozen: false,
            corrupts: false,
            next_stream: 1,
            timer: None,
        });
        number
    }

    /// The node has the whole file and serves it.
    pub(crate) fn seed(&mut self, node: usize, torrent: &TestTorrent) {
        self.nodes[node].disk.fill(torrent);
        self.add(node, Source::Metainfo(torrent.metainfo.clone()), true, &[]);
    }

    /// The node downloads from what it knows of `peers`.
    pub(crate) fn leech(&mut self, node: usize, torrent: &TestTorrent, peers: &[usize]) {
        self.add(node, Source::Metainfo(torrent.metainfo.clone()), false, peers);
    }

    pub(crate) fn add(&mut self, node: usize, source: Source, seed: bool, peers: &[usize]) {
        let peers = peers.iter().map(|peer| self.nodes[*peer].address).collect();
        let add = AddTorrent { source, root: PathBuf::from("downloads"), seed, peers };
        let now = self.now;
        self.nodes[node].swarm.add(now, add).expect("a new torrent");
        self.drain(node);
    }

    /// Calls a verb of a node's engine and carries its outputs out.
    pub(crate) fn act(&mut self, node: usize, verb: impl FnOnce(&mut Swarm, Now)) {
        let now = self.now;
        verb(&mut self.nodes[node].swarm, now);
        self.drain(node);
    }

    /// Opens a stream from outside all engines to a node: its bytes are the test's business.
    pub(crate) fn raw_stream(&mut self, node: usize) -> StreamId {
        let id = StreamId(self.nodes[node].next_stream);
        self.nodes[node].next_stream += 2;
        let address = SocketAddr::from(([10, 9, (id.0 >> 8) as u8, id.0 as u8], 999));
        self.act(node, |swarm, now| swarm.stream_incoming(now, id, address));
        id
    }

    /// Sends bytes to a node over a raw stream.
    pub(crate) fn raw_send(&mut self, node: usize, id: StreamId, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        self.act(node, |swarm, now| swarm.stream_data(now, id, bytes));
    }

    /// One of the verbs that an economy may call at any time, with any numbers.
    pub(crate) fn economy_verb(&mut self, node: usize, id: StreamId, verb: u8, number: u64) {
        self.act(node, |swarm, now| match verb {
            0 => swarm.serve_limit(now, id, number),
            1 => swarm.serve_limit(now, id, number % (2 << 20)),
            2 => swarm.freed(now, id, number as u32 % 8, number),
            3 => swarm.rejudge(now, id),
            4 => swarm.verdict(
                now,
                id,
                Verdict::Serve { priority: number as u32, pool: number.is_multiple_of(2) },
            ),
            5 => swarm.verdict(now, id, Verdict::Refuse),
            6 => swarm.send_block(now, id, Bytes::from(vec![0; (number % 70_000) as usize])),
            _ => {
                let room = number % (1 << 20);
                let number = number as u32 % 8 + 1;
                swarm.grant(
                    now,
                    id,
                    GrantMessage { number, price: 65_536, room, own: room, via: Vec::new() },
                );
            }
        });
    }

    /// Runs until `done` or until `span` has passed; tells whether it was done.
    pub(crate) fn run_until(&mut self, span: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now.mono + span;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                self.now = self.now.after(end.since(self.now.mono));
                return done(self);
            }
        }
    }

    pub(crate) fn run(&mut self, span: Duration) {
        self.run_until(span, |_| false);
    }

    pub(crate) fn finished(&self, node: usize) -> bool {
        self.nodes[node].events.iter().any(|event| matches!(event, SwarmEvent::Finished(_)))
    }

    pub(crate) fn count(&self, node: usize, wanted: impl Fn(&SwarmEvent) -> bool) -> usize {
        self.nodes[node].events.iter().filter(|event| wanted(event)).count()
    }

    /// Breaks all streams of a node, as a crash does.
    pub(crate) fn cut(&mut self, node: usize) {
        let broken: Vec<_> =
            self.pipes.iter().filter(|((end, _), _)| *end == node).map(|(a, b)| (*a, *b)).collect();
        for ((node, id), (peer, peer_id)) in broken {
            self.pipes.remove(&(node, id));
            self.pipes.remove(&(peer, peer_id));
            self.after(self.latency, Happening::Closed { node: peer, id: peer_id });
        }
    }

    /// The process of a node is gone, and nobody at the other ends is told.
    pub(crate) fn freeze(&mut self, node: usize) {
        self.nodes[node].frozen = true;
    }

    fn step(&mut self, end: Instant) -> bool {
        let Some(((at, sequence), _)) = self.heap.first_key_value() else { return false };
        let key = (*at, *sequence);
        if key.0 > end {
            return false;
        }
        let happening = self.heap.remove(&key).expect("just seen");
        self.now = self.now.after(key.0.since(self.now.mono));
        self.steps += 1;
        assert!(self.steps < MAX_STEPS, "the world does not come to rest");
        self.happen(happening);
        true
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        if self.nodes[happening.node()].frozen {
            return;
        }
        match happening {
            Happening::Timer(node) => {
                self.nodes[node].timer = None;
                self.nodes[node].swarm.handle_timeout(now);
                self.drain(node);
            }
            Happening::Connected { from, id, to } => self.connect(from, id, to),
            Happening::Data { node, id, bytes } => {
                if self.pipes.contains_key(&(node, id)) {
                    self.nodes[node].swarm.stream_data(now, id, bytes);
                    self.drain(node);
                }
            }
            Happening::Drained { node, id, len } => {
                self.nodes[node].swarm.stream_drained(now, id, len);
                self.drain(node);
            }
            Happening::Closed { node, id } => {
                self.pipes.remove(&(node, id));
                self.nodes[node].swarm.stream_closed(now, id);
                self.drain(node);
            }
            Happening::Completed { node, ticket, completion } => {
                self.nodes[node].swarm.completed(now, ticket, completion);
                self.drain(node);
            }
        }
    }

    fn connect(&mut self, from: usize, id: StreamId, to: SocketAddr) {
        let now = self.now;
        let Some(peer) = self.nodes.iter().position(|node| node.address == to) else {
            return self.after(self.latency, Happening::Closed { node: from, id });
        };
        let peer_id = StreamId(self.nodes[peer].next_stream);
        self.nodes[peer].next_stream += 2;
        self.pipes.insert((from, id), (peer, peer_id));
        self.pipes.insert((peer, peer_id), (from, id));
        let source =
            SocketAddr::new(self.nodes[from].address.ip(), 40_000 + u16::try_from(id.0).expect("few"));
        self.nodes[peer].swarm.stream_incoming(now, peer_id, source);
        self.drain(peer);
        self.nodes[from].swarm.stream_connected(now, id);
        self.drain(from);
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].swarm.poll() {
            match output {
                SwarmOutput::Connect(id, to) => {
                    self.nodes[node].dialled += 1;
                    self.after(self.latency, Happening::Connected { from: node, id, to });
                }
                SwarmOutput::Write(id, bytes) => self.write(node, id, bytes),
                SwarmOutput::Close(id) => {
                    self.nodes[node].closed.insert(id);
                    if let Some((peer, peer_id)) = self.pipes.remove(&(node, id)) {
                        // What was written before the close still arrives.
                        let left = self.nodes[node].leaves(self.now.mono, 0);
                        self.after(left + self.latency, Happening::Closed { node: peer, id: peer_id });
                    }
                }
                SwarmOutput::Request { ticket, request } => self.answer(node, ticket, request),
                SwarmOutput::TrackerSend { to, bytes, .. } => {
                    self.nodes[node].tracker_datagrams.push((to, bytes));
                }
                SwarmOutput::Event(event) => self.event(node, event),
            }
        }
        self.set_timer(node);
    }

    fn write(&mut self, node: usize, id: StreamId, bytes: Bytes) {
        let state = &mut self.nodes[node];
        state.written += bytes.len() as u64;
        let len = bytes.len();
        let bytes = if state.corrupts && len >= 16_384 { corrupted(&bytes) } else { bytes };
        let left = state.leaves(self.now.mono, len);
        self.after(left, Happening::Drained { node, id, len });
        match self.pipes.get(&(node, id)).copied() {
            Some((peer, peer_id)) => {
                self.after(left + self.latency, Happening::Data { node: peer, id: peer_id, bytes })
            }
            None => self.nodes[node].raw.entry(id).or_default().extend_from_slice(&bytes),
        }
    }

    fn answer(&mut self, node: usize, ticket: u64, request: Request) {
        let state = &mut self.nodes[node];
        let completion = match request {
            Request::HttpGet { url } => {
                let page = state
                    .pages
                    .iter()
                    .find(|(start, _)| url.starts_with(*start))
                    .map(|(_, page)| page.clone());
                state.asked_pages.push(url);
                Completion::Page(page.ok_or_else(|| "no such host".to_owned()))
            }
            other => state.disk.answer(other),
        };
        self.after(DISK_TIME, Happening::Completed { node, ticket, completion });
    }

    fn event(&mut self, node: usize, event: SwarmEvent) {
        let now = self.now;
        let state = &mut self.nodes[node];
        match &event {
            SwarmEvent::VerdictWanted { id, .. } => {
                let granted = state.granted.get(id).map_or(0, |(room, _)| *room);
                let spent =
                    matches!(state.economy, Economy::Allowance(allowed) if state.sent(*id) >= allowed);
                match state.economy {
                    Economy::Refuse => state.refuse(now, *id),
                    Economy::Allowance(_) if spent => state.refuse_when_spent(now, *id, granted),
                    Economy::Choke => state.swarm.verdict(now, *id, Verdict::Choke),
                    _ => state.swarm.verdict(now, *id, Verdict::Serve { priority: 500, pool: false }),
                }
            }
            SwarmEvent::GrantWanted { id, .. } => state.grant_or_refuse(now, *id),
            _ => {}
        }
        state.events.push(event);
    }

    fn set_timer(&mut self, node: usize) {
        let next = self.nodes[node].swarm.next_timeout();
        let Some(at) = next else { return };
        if self.nodes[node].timer.is_none_or(|timer| at < timer) {
            self.nodes[node].timer = Some(at);
            self.sequence += 1;
            self.heap.insert((at.max(self.now.mono), self.sequence), Happening::Timer(node));
        }
    }

    fn after(&mut self, span: Duration, happening: Happening) {
        self.sequence += 1;
        self.heap.insert((self.now.mono + span, self.sequence), happening);
    }
}

impl TestNode {
    /// How long it takes until bytes written now have left the node.
    fn leaves(&mut self, now: Instant, len: usize) -> Duration {
        let Some(line) = self.line else { return Duration::from_micros(50) };
        let span = Duration::from_micros(len as u64 * 1_000_000 / line);
        self.line_free = self.line_free.max(now) + span;
        self.line_free.since(now)
    }

    fn grant_or_refuse(&mut self, now: Now, id: StreamId) {
        let (granted, number) = self.granted.get(&id).copied().unwrap_or_default();
        let room = match self.economy {
            Economy::Serve { room } => room,
            Economy::Allowance(allowed) => allowed.saturating_sub(granted),
            Economy::Refuse | Economy::Choke => 0,
        };
        if room == 0 {
            return self.refuse_when_spent(now, id, granted);
        }
        self.granted.insert(id, (granted + room, number + 1));
        self.swarm.serve_limit(now, id, granted + room);
        let grant =
            GrantMessage { number: number + 1, price: 8_192, room, own: room.div_ceil(8), via: Vec::new() };
        self.swarm.grant(now, id, grant);
    }

    /// An allowance is used to its end before the refusal: the last quarter is still sent.
    fn refuse_when_spent(&mut self, now: Now, id: StreamId, granted: u64) {
        if self.sent(id) >= granted {
            self.refuse(now, id);
        }
    }

    fn sent(&self, id: StreamId) -> u64 {
        self.swarm.connections().iter().find(|peer| peer.id == id).map_or(0, |peer| peer.uploaded)
    }

    fn refuse(&mut self, now: Now, id: StreamId) {
        let refusal = Refusal { reason: RefusalReason::Balance, missing: 1, retry_s: 60, details: None };
        self.swarm.refuse(now, id, refusal);
        self.swarm.verdict(now, id, Verdict::Refuse);
    }
}

/// A torrent with its content.
#[derive(Clone)]
pub(crate) struct TestTorrent {
    pub(crate) metainfo: Arc<Metainfo>,
    pub(crate) content: Bytes,
}

impl TestTorrent {
    pub(crate) fn new(len: usize, piece_len: u32) -> Self {
        Self::built(len, piece_len, |builder| builder)
    }

    pub(crate) fn built(
        len: usize,
        piece_len: u32,
        change: impl FnOnce(TorrentBuilder) -> TorrentBuilder,
    ) -> Self {
        let mut content = vec![0; len];
        Rng::from_seed([77; 32]).fill(&mut content);
        let builder = TorrentBuilder::file("film.mkv", len as u64).expect("a good name").piece_len(piece_len);
        let mut builder = change(builder);
        content.chunks(piece_len as usize).for_each(|piece| builder.push_hash(sha1(piece)));
        Self { metainfo: Arc::new(builder.finish().expect("a good torrent")), content: content.into() }
    }

    pub(crate) fn info_hash(&self) -> InfoHash {
        self.metainfo.info_hash()
    }
}

fn corrupted(bytes: &Bytes) -> Bytes {
    let mut changed = bytes.to_vec();
    changed[0] ^= 0xff;
    changed.into()
}
