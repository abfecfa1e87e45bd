//! A few ledgers on a virtual network and disk, with loss, delay, duplication and crashes, and an economy that
//! agrees to everything.

use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_ledger::{
    Batch, BlockHash, BlockId, ChainStore, HalfBlock, Ledger, LedgerCommunity, LedgerConfig, LedgerEvent,
    LedgerOutput, MemoryStore, Recipient, Source,
};
use fairshare_wire::{Instant, Now};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What can go wrong, each in percent.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    /// Milliseconds a packet takes at most.
    pub(crate) delay_ms: u64,
    /// Milliseconds a write takes at most.
    pub(crate) disk_ms: u64,
    /// Writes that fail.
    pub(crate) disk_failure: u64,
}

enum Arrival {
    Packet { from: usize, to: usize, community: LedgerCommunity, id: u8, signed: bool, payload: Vec<u8> },
    Written { node: usize, life: u32, ticket: u64, batch: Batch },
}

pub(crate) struct Node {
    pub(crate) ledger: Ledger<MemoryStore>,
    pub(crate) key: SecretKey,
    pub(crate) events: Vec<LedgerEvent>,
    /// Whether it agrees to bandwidth proposals.
    pub(crate) agrees: bool,
    life: u32,
    /// The failed write that must succeed before any later one.
    stuck: Option<u64>,
}

pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) nodes: Vec<Node>,
    pub(crate) faults: Faults,
    pub(crate) rng: Rng,
    /// Every block of an honest key that ever left its node.
    pub(crate) left: BTreeMap<BlockId, BlockHash>,
    /// Checked for every block that leaves: it is on its owner's disk.
    pub(crate) honest: bool,
    arrivals: BTreeMap<(Instant, u64), Arrival>,
    counter: u64,
}

pub(crate) fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], u16::try_from(node).expect("few nodes") + 1))
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, faults: Faults) -> Self {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut rng = Rng::from_seed(bytes);
        let now = Now { mono: Instant::START, unix_ms: 1_700_000_000_000 };
        let nodes = (0..nodes).map(|_| {
            let key = SecretKey::generate(&mut rng);
            let ledger = start(&key, MemoryStore::new(), rng.fork("ledger"), now);
            Node { ledger, key, events: Vec::new(), agrees: true, life: 0, stuck: None }
        });
        let nodes = nodes.collect();
        let (left, arrivals) = (BTreeMap::new(), BTreeMap::new());
        Self { now, nodes, faults, rng, left, honest: true, arrivals, counter: 0 }
    }

    pub(crate) fn key(&self, node: usize) -> PublicKey {
        self.nodes[node].key.public()
    }

    /// Kills a node: what is not written is lost. It starts again from its disk.
    pub(crate) fn crash(&mut self, node: usize) {
        let seed = self.rng.bytes();
        let it = &mut self.nodes[node];
        it.life += 1;
        it.stuck = None;
        it.ledger = start(&it.key, it.ledger.store().clone(), Rng::from_seed(seed), self.now);
    }

    /// Carries out everything up to `span` from now.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now.after(span);
        loop {
            for node in 0..self.nodes.len() {
                self.drain(node);
            }
            let timeouts = self.nodes.iter().filter_map(|node| node.ledger.next_timeout());
            let arrival = self.arrivals.keys().next().map(|(at, _)| *at);
            let next = timeouts.chain(arrival).min().filter(|at| *at <= end.mono);
            let Some(at) = next else { break };
            self.now = self.now.after(at.since(self.now.mono));
            while let Some(entry) = self.arrivals.first_entry().filter(|entry| entry.key().0 <= at) {
                let arrival = entry.remove();
                self.arrive(arrival);
            }
            for node in &mut self.nodes {
                node.ledger.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Packet { from, to, community, id, signed, payload } => {
                let sender = signed.then(|| self.key(from));
                let ledger = &mut self.nodes[to].ledger;
                let result = ledger.handle_message(self.now, community, address(from), sender, id, &payload);
                if self.honest {
                    result.expect("honest nodes send nothing that is refused");
                }
                self.drain(to);
            }
            Arrival::Written { node, life, ticket, batch } if life == self.nodes[node].life => {
                // A disk writes in order: after a failure nothing later succeeds first.
                let held_up = self.nodes[node].stuck.is_some_and(|stuck| stuck < ticket);
                let fails = held_up || self.rng.below(100) < self.faults.disk_failure;
                let it = &mut self.nodes[node];
                it.stuck = if !fails {
                    None
                } else if held_up {
                    it.stuck
                } else {
                    Some(ticket)
                };
                let ledger = &mut it.ledger;
                if fails {
                    ledger.persist_failed(self.now, ticket, "disk is full".to_owned());
                } else {
                    ledger.store_mut().apply(&batch);
                    ledger.persisted(self.now, ticket);
                }
                self.drain(node);
            }
            Arrival::Written { .. } => {}
        }
    }

    fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].ledger.poll() {
            match output {
                LedgerOutput::Persist { ticket, batch } => {
                    let life = self.nodes[node].life;
                    let at = self.now.mono + Duration::from_millis(self.faults.disk_ms);
                    self.schedule(at, Arrival::Written { node, life, ticket, batch });
                }
                LedgerOutput::Send { community, to, id, signed, payload } => {
                    self.check_leaving(node, community, id, &payload);
                    for to in self.recipients(node, to) {
                        self.send(node, to, community, id, signed, &payload);
                    }
                }
                LedgerOutput::Event(event) => {
                    if let LedgerEvent::AgreementWanted(proposal) = &event
                        && self.nodes[node].agrees
                    {
                        // Refused while the disk fails; the proposal comes again.
                        let _ = self.nodes[node].ledger.agree_bandwidth(self.now, proposal, Vec::new());
                    }
                    self.nodes[node].events.push(event);
                }
            }
        }
    }

    fn check_leaving(&mut self, node: usize, community: LedgerCommunity, id: u8, payload: &[u8]) {
        if !self.honest || community != LedgerCommunity::TrustChain || !matches!(id, 1 | 3 | 5 | 6) {
            return;
        }
        let mut input = fairshare_wire::Reader::new(payload);
        while let Ok(block) = HalfBlock::read(&mut input) {
            let hash = *self.left.entry(block.place()).or_insert_with(|| block.hash());
            assert_eq!(hash, block.hash(), "a number was used twice");
            if block.owner == self.key(node) {
                let stored = self.nodes[node].ledger.store().by_hash(&hash).expect("memory does not fail");
                assert!(stored.is_some(), "a block left before it was on disk");
            }
        }
    }

    fn recipients(&mut self, node: usize, to: Recipient) -> Vec<usize> {
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != node).collect();
        match to {
            Recipient::Address(to) => vec![usize::from(to.port()) - 1],
            Recipient::Key(key) => others.into_iter().filter(|other| self.key(*other) == key).collect(),
            Recipient::Random(most) => {
                let mut others = others;
                self.rng.shuffle(&mut others);
                others.truncate(most);
                others
            }
        }
    }

    fn send(
        &mut self,
        from: usize,
        to: usize,
        community: LedgerCommunity,
        id: u8,
        signed: bool,
        payload: &[u8],
    ) {
        let copies = if self.rng.below(100) < self.faults.duplication { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.below(100) < self.faults.loss {
                continue;
            }
            let delay = Duration::from_millis(1 + self.rng.below(1 + self.faults.delay_ms));
            let payload = payload.to_vec();
            self.schedule(
                self.now.mono + delay,
                Arrival::Packet { from, to, community, id, signed, payload },
            );
        }
    }

    fn schedule(&mut self, at: Instant, arrival: Arrival) {
        self.counter += 1;
        self.arrivals.insert((at, self.counter), arrival);
    }

    /// Hands a block to a node as if it came over a session.
    pub(crate) fn hand(&mut self, node: usize, from: usize, block: &Arc<HalfBlock>) {
        let source = Source::Connection(self.key(from));
        self.nodes[node].ledger.receive(self.now, source, (**block).clone());
        self.drain(node);
    }
}

fn start(key: &SecretKey, store: MemoryStore, rng: Rng, now: Now) -> Ledger<MemoryStore> {
    let config = LedgerConfig { countersign: vec!["test".into()] };
    Ledger::new(config, key.clone(), store, rng, now).expect("memory does not fail")
}
