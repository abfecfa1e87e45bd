//! One machine of the world: the node that runs on it, and what is left when the node crashes.

use crate::disk::Disk;
use crate::journal::Journal;
use crate::scenario::{Adversary, MachinePlan, Role};
use crate::world::LinkId;
use fairshare_crypto::{PublicKey, SecretKey};
use fairshare_ledger::{BlockHash, MemoryStore};
use fairshare_node::Node;
use fairshare_swarm::StreamId;
use fairshare_wire::{Instant, Now};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// A machine, switched on or off.
pub(crate) struct Machine {
    pub(crate) role: Role,
    pub(crate) key: SecretKey,
    pub(crate) address: SocketAddr,
    pub(crate) made: usize,
    pub(crate) wants: Vec<usize>,
    pub(crate) by_magnet: bool,
    /// Nothing while it is off.
    pub(crate) node: Option<Node<MemoryStore>>,
    /// Counts the starts, so that what was meant for an earlier one is dropped.
    pub(crate) incarnation: u32,
    /// What is on the disk of the ledger.
    pub(crate) durable: MemoryStore,
    pub(crate) journal: Journal,
    /// The store takes nothing any more.
    pub(crate) store_fails: bool,
    /// It stops while its next own block is written, and is down for so long.
    pub(crate) crash_at_signing: Option<Duration>,
    pub(crate) disk: Disk,
    /// When the node is woken next.
    pub(crate) wake: Option<Instant>,
    /// Open streams of the node.
    pub(crate) streams: BTreeMap<StreamId, LinkId>,
    pub(crate) accepted: u64,
    /// When the uplink has sent everything that was written.
    pub(crate) uplink_free: Instant,
    /// Own blocks of which the node was told that they are on disk.
    pub(crate) acknowledged: BTreeMap<u32, BlockHash>,
    uplink: u64,
    clock_ahead_ms: u64,
    booted: Instant,
}

/// Wall clock when the world begins.
const WORLD_BEGINS_MS: u64 = 1_700_000_000_000;
/// No monotonic clock begins at its own zero.
const BOOT: Instant = Instant::from_micros(1_000_000);

impl Machine {
    pub(crate) fn new(plan: &MachinePlan) -> Self {
        Self {
            role: plan.role,
            key: plan.key.clone(),
            address: plan.address,
            made: plan.made,
            wants: plan.wants.clone(),
            by_magnet: plan.by_magnet,
            crash_at_signing: None,
            node: None,
            incarnation: 0,
            durable: MemoryStore::new(),
            journal: Journal::default(),
            store_fails: false,
            disk: Disk::default(),
            wake: None,
            streams: BTreeMap::new(),
            accepted: 0,
            uplink_free: Instant::START,
            acknowledged: BTreeMap::new(),
            uplink: plan.uplink,
            clock_ahead_ms: plan.clock_ahead_ms,
            booted: Instant::START,
        }
    }

    pub(crate) const fn public(&self) -> PublicKey {
        self.key.public()
    }

    pub(crate) fn is_honest(&self) -> bool {
        self.role == Role::Honest
    }

    pub(crate) fn breaks(&self, rule: Adversary) -> bool {
        self.role == Role::Breaks(rule)
    }

    /// Whether its chain is in order and its answers come: a free-rider's are and do.
    pub(crate) fn signs_honestly(&self) -> bool {
        !self.breaks(Adversary::Forker) && !self.breaks(Adversary::Defaulter)
    }

    /// Its clocks at a time of the world. The monotonic one begins with each start.
    pub(crate) fn now(&self, world: Instant) -> Now {
        let wall = world.as_micros() / 1_000 + WORLD_BEGINS_MS + self.clock_ahead_ms;
        Now { mono: BOOT + world.since(self.booted), unix_ms: wall }
    }

    /// The time of the world at a time of its monotonic clock.
    pub(crate) fn world_time(&self, mono: Instant) -> Instant {
        self.booted + mono.since(BOOT)
    }

    /// Everything that begins anew with a start.
    pub(crate) fn boot(&mut self, world: Instant, node: Node<MemoryStore>) {
        self.booted = world;
        self.node = Some(node);
        self.wake = None;
        self.accepted = 0;
        self.uplink_free = world;
        self.store_fails = false;
    }

    /// The clocks of a node that is about to start.
    pub(crate) fn boot_time(&self, world: Instant) -> Now {
        let wall = world.as_micros() / 1_000 + WORLD_BEGINS_MS + self.clock_ahead_ms;
        Now { mono: BOOT, unix_ms: wall }
    }

    /// An id for a stream that arrives.
    pub(crate) fn accept(&mut self) -> StreamId {
        self.accepted += 1;
        StreamId(2 * self.accepted - 1)
    }

    /// Puts bytes on the uplink; when the last of them has left.
    pub(crate) fn send(&mut self, world: Instant, bytes: usize) -> Instant {
        let micros = (bytes as u64 * 1_000_000).div_ceil(self.uplink);
        self.uplink_free = self.uplink_free.max(world) + Duration::from_micros(micros);
        self.uplink_free
    }
}
