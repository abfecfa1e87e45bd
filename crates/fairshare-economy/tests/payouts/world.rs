//! A world of nodes that carry circuits for each other: the real ledgers over stores in memory, disks that write late,
//! links that lose messages, processes that die. Blocks travel over settlement links alone.

use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_economy::payouts::{
    Carried, CarriedEnd, LinkAllowance, PAYOUT_RECORD_KINDS, PayoutJudgement, Payouts, PayoutsConfig,
    PayoutsEvent, PayoutsOutput,
};
use fairshare_ledger::bandwidth::Bandwidth;
use fairshare_ledger::{
    Batch, ChainStore, DeclineReason, HalfBlock, Ledger, LedgerConfig, LedgerEvent, LedgerOutput,
    MemoryStore, Source,
};
use fairshare_wire::{Instant, Now};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const MIB: u64 = 1 << 20;
/// Length of an epoch in the tests.
pub(crate) const EPOCH_S: u64 = 600;
/// How often carried bytes are reported.
pub(crate) const PERIOD: Duration = Duration::from_secs(60);
const DISK: Duration = Duration::from_millis(7);

/// Settings in which an epoch is ten minutes.
pub(crate) fn config() -> PayoutsConfig {
    PayoutsConfig {
        epoch_s: EPOCH_S,
        iou_jitter: Duration::from_secs(5),
        retry: Duration::from_secs(20),
        // Traffic of a metering period of a minute, at five times its bytes, is more than the first limit.
        base_limit: 512 * MIB,
        newcomer_pool: 1 << 40,
        ..PayoutsConfig::default()
    }
}

/// A circuit: its nodes from the originator on. With `seeder`, the path goes on at the rendezvous, which is the last
/// of `hops`, over `back` to the seeder, its last node.
#[derive(Clone, Debug)]
pub(crate) struct Circuit {
    pub(crate) originator: usize,
    pub(crate) hops: Vec<usize>,
    /// Relays from the rendezvous to the seeder, the seeder last; empty for an exit circuit.
    pub(crate) back: Vec<usize>,
    pub(crate) bytes: u64,
}

enum Write {
    Ledger(u64, Batch),
    Payouts(u64, Batch),
}

pub(crate) struct Node {
    pub(crate) key: SecretKey,
    pub(crate) tunnel: SecretKey,
    pub(crate) config: PayoutsConfig,
    pub(crate) payouts: Payouts,
    pub(crate) ledger: Ledger<MemoryStore>,
    disk: VecDeque<(Instant, Write)>,
    pub(crate) allowances: BTreeMap<PublicKey, LinkAllowance>,
    pub(crate) events: Vec<PayoutsEvent>,
    pub(crate) declined: u64,
    /// Says nothing over its links any more.
    pub(crate) mute: bool,
    /// Signs no payment of its own.
    pub(crate) defaults: bool,
    /// What the node earned, less what it spent, by what it really carried.
    pub(crate) earned: i64,
}

/// What is reported together: the node, both links, and what the node knows of the circuits.
type Row = (usize, Option<PublicKey>, Option<PublicKey>, CarriedEnd, bool, bool, u8);

pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) rng: Rng,
    pub(crate) nodes: Vec<Node>,
    by_tunnel: BTreeMap<PublicKey, usize>,
    links: BTreeMap<(Instant, u64), (usize, PublicKey, u8, bytes::Bytes)>,
    sent: u64,
    /// Per cent of link messages that are lost.
    pub(crate) loss: u64,
}

impl World {
    pub(crate) fn new(seed: u64, count: usize, config: &PayoutsConfig) -> Self {
        let mut rng = Rng::from_seed([9; 32]).fork(&seed.to_string());
        let unix_ms = 1_700_000_000_000 / (EPOCH_S * 1000) * EPOCH_S * 1000 + 1000;
        let now = Now { unix_ms, ..Now::default() };
        let nodes: Vec<Node> = (0..count)
            .map(|_| {
                let (key, tunnel) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
                let (payouts, ledger) = start(config, &key, &tunnel, MemoryStore::new(), &mut rng, now);
                Node {
                    key,
                    tunnel,
                    config: config.clone(),
                    payouts,
                    ledger,
                    disk: VecDeque::new(),
                    allowances: BTreeMap::new(),
                    events: Vec::new(),
                    declined: 0,
                    mute: false,
                    defaults: false,
                    earned: 0,
                }
            })
            .collect();
        let by_tunnel = nodes.iter().enumerate().map(|(index, node)| (node.tunnel.public(), index)).collect();
        Self { now, rng, nodes, by_tunnel, links: BTreeMap::new(), sent: 0, loss: 0 }
    }

    pub(crate) fn tunnel(&self, node: usize) -> PublicKey {
        self.nodes[node].tunnel.public()
    }

    /// One metering period: what all circuits carried is reported by every node, one row for each pair of links.
    pub(crate) fn carry(&mut self, circuits: &[Circuit]) {
        let mut rows: BTreeMap<Row, Carried> = BTreeMap::new();
        for circuit in circuits {
            for (node, carried) in self.rows_of(circuit) {
                let Carried { from, to, end, hidden, from_originator, hops, .. } = carried;
                let name = (node, from, to, end, hidden, from_originator, hops);
                let row = rows.entry(name).or_insert(Carried { from_bytes: 0, to_bytes: 0, ..carried });
                row.from_bytes += carried.from_bytes;
                row.to_bytes += carried.to_bytes;
            }
            self.note_earned(circuit);
        }
        for ((node, ..), carried) in rows {
            self.nodes[node].payouts.carried(self.now, &carried);
            self.drain(node);
        }
    }

    fn rows_of(&self, circuit: &Circuit) -> Vec<(usize, Carried)> {
        let bytes = circuit.bytes;
        let key = |node: usize| Some(self.tunnel(node));
        let row = |from, to| Carried { from, to, from_bytes: bytes, to_bytes: bytes, ..Carried::default() };
        let (hidden, hops) = (!circuit.back.is_empty(), u8::try_from(circuit.hops.len()).expect("few"));
        let mut out = vec![(circuit.originator, Carried { hidden, hops, ..row(None, key(circuit.hops[0])) })];
        let mut before = circuit.originator;
        for (place, node) in circuit.hops.iter().enumerate() {
            let next = circuit.hops.get(place + 1).or_else(|| circuit.back.first());
            let last = place + 1 == circuit.hops.len();
            let end = match (last, hidden) {
                (false, _) => CarriedEnd::Elsewhere,
                (true, false) => CarriedEnd::Exit,
                (true, true) => CarriedEnd::Rendezvous,
            };
            let to = next.and_then(|next| key(*next));
            out.push((*node, Carried { end, from_originator: place == 0, ..row(key(before), to) }));
            before = *node;
        }
        // The seeder's circuit was built from its end: seen from there, the rendezvous is the last hop.
        let seeders: Vec<usize> = circuit.back.iter().rev().copied().collect();
        let rendezvous = before;
        for (place, node) in seeders.iter().enumerate() {
            let to = key(*seeders.get(place + 1).unwrap_or(&rendezvous));
            let from = place.checked_sub(1).map(|before| seeders[before]);
            let hops = u8::try_from(seeders.len()).expect("few");
            out.push((*node, Carried { from_originator: place == 1, hops, ..row(from.and_then(key), to) }));
        }
        out
    }

    /// What the specification says that each node earns and spends.
    fn note_earned(&mut self, circuit: &Circuit) {
        let bytes = i64::try_from(circuit.bytes).expect("small");
        let hidden = !circuit.back.is_empty();
        let hops = circuit.hops.len();
        let mut earns = |node: usize, rate: i64| self.nodes[node].earned += rate * bytes;
        let surcharge = if hidden { 6 } else { 0 };
        earns(circuit.originator, -(if hops == 1 { 1 } else { 5 } + surcharge));
        for (place, node) in circuit.hops.iter().enumerate() {
            earns(
                *node,
                match (place + 1 == hops, place, hops) {
                    (true, ..) => {
                        if hidden {
                            2
                        } else {
                            1
                        }
                    }
                    // A guard before the last hop has what a middle node would have had.
                    (false, 0, 2) => 4,
                    _ => 2,
                },
            );
        }
        let Some((seeder, relays)) = circuit.back.split_last() else { return };
        for relay in relays {
            earns(*relay, 2);
        }
        // With fewer relays than two the rest is the seeder's.
        earns(*seeder, 5 - 2 * i64::try_from(relays.len()).expect("few"));
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now.mono + span;
        loop {
            let timers = self.nodes.iter().filter_map(|node| {
                let disk = node.disk.front().map(|(at, _)| *at);
                [node.payouts.next_timeout(), node.ledger.next_timeout(), disk].into_iter().flatten().min()
            });
            let next = timers.chain(self.links.keys().next().map(|(at, _)| *at)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.set_time(next.max(self.now.mono));
            self.deliver();
            for node in 0..self.nodes.len() {
                self.tick(node);
            }
        }
        self.set_time(end);
    }

    fn set_time(&mut self, to: Instant) {
        self.now =
            Now { mono: to, unix_ms: self.now.unix_ms + to.since(self.now.mono).as_micros() as u64 / 1000 };
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.links.first_entry() {
            if entry.key().0 > self.now.mono {
                return;
            }
            let (to, from, id, body) = entry.remove();
            if self.nodes[to].mute {
                continue;
            }
            self.nodes[to].payouts.link_message(self.now, &from, id, &body);
            self.drain(to);
        }
    }

    fn tick(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        let mut acted = false;
        while node.disk.front().is_some_and(|(at, _)| *at <= now.mono) {
            let (_, write) = node.disk.pop_front().expect("there is one");
            match write {
                Write::Ledger(ticket, batch) => {
                    node.ledger.store_mut().apply(&batch);
                    node.ledger.persisted(now, ticket);
                }
                Write::Payouts(ticket, batch) => {
                    node.ledger.store_mut().apply(&batch);
                    node.payouts.persisted(now, ticket);
                }
            }
            acted = true;
        }
        if due(node.payouts.next_timeout()) {
            node.payouts.handle_timeout(now);
            acted = true;
        }
        if due(node.ledger.next_timeout()) {
            node.ledger.handle_timeout(now);
            acted = true;
        }
        if acted {
            self.drain(index);
        }
    }

    pub(crate) fn drain(&mut self, index: usize) {
        let now = self.now;
        loop {
            let mut quiet = true;
            while let Some(output) = self.nodes[index].ledger.poll() {
                quiet = false;
                self.nodes[index].on_ledger(now, output);
            }
            while let Some(output) = self.nodes[index].payouts.poll() {
                quiet = false;
                self.on_payouts(index, output);
            }
            if quiet {
                return;
            }
        }
    }

    fn on_payouts(&mut self, index: usize, output: PayoutsOutput) {
        let (now, from) = (self.now, self.tunnel(index));
        let node = &mut self.nodes[index];
        match output {
            PayoutsOutput::LinkSend { neighbour, id, body } => {
                if node.mute || self.rng.chance(self.loss, 100) {
                    return;
                }
                let delay = Duration::from_millis(20 + self.rng.below(400));
                let to = self.by_tunnel[&neighbour];
                self.sent += 1;
                self.links.insert((now.mono + delay, self.sent), (to, from, id, body));
            }
            PayoutsOutput::Propose { to, .. } if node.defaults => {
                node.payouts.propose_failed(now, &to, "no will to pay");
            }
            PayoutsOutput::Propose { to, down, timestamp_ms, records } => {
                match node.ledger.propose_tunnel_payment(now, to, down, timestamp_ms, records) {
                    Ok(block) => node.payouts.proposed(now, &block),
                    Err(error) => node.payouts.propose_failed(now, &to, &error.to_string()),
                }
            }
            PayoutsOutput::Block { from, block } => {
                node.ledger.receive(now, Source::Connection(from), *block)
            }
            PayoutsOutput::Persist { ticket, records } => {
                let batch = Batch { records, urgent: true, ..Batch::default() };
                node.disk.push_back((now.mono + DISK, Write::Payouts(ticket, batch)));
            }
            PayoutsOutput::Allowance { neighbour, allowance } => {
                node.allowances.insert(neighbour, allowance);
            }
            PayoutsOutput::Event(event) => node.events.push(event),
        }
    }

    /// The process dies at this instant and starts from its disk: what was not written is lost.
    pub(crate) fn crash(&mut self, index: usize) {
        let (now, mut rng) = (self.now, self.rng.fork("restart"));
        let node = &mut self.nodes[index];
        node.disk.clear();
        let store = std::mem::take(node.ledger.store_mut());
        (node.payouts, node.ledger) = start(&node.config, &node.key, &node.tunnel, store, &mut rng, now);
        self.drain(index);
    }

    /// Every half block of a node's own chain that pays or agrees.
    pub(crate) fn chain(&self, node: usize) -> Vec<(Arc<HalfBlock>, Bandwidth)> {
        let node = &self.nodes[node];
        let blocks = node.ledger.store().range(&node.key.public(), 1, u32::MAX, usize::MAX).expect("memory");
        blocks
            .into_iter()
            .map(|block| {
                let paid = Bandwidth::of(&block).expect("a payment");
                (block, paid)
            })
            .collect()
    }
}

impl Node {
    fn on_ledger(&mut self, now: Now, output: LedgerOutput) {
        match output {
            LedgerOutput::Persist { ticket, batch } => {
                self.disk.push_back((now.mono + DISK, Write::Ledger(ticket, batch)));
            }
            LedgerOutput::Event(LedgerEvent::Signed(block) | LedgerEvent::Resent(block)) => {
                self.payouts.signed(now, &block);
            }
            LedgerOutput::Event(LedgerEvent::Paired { proposal, agreement }) => {
                self.payouts.paired(now, &proposal, &agreement);
            }
            LedgerOutput::Event(LedgerEvent::AgreementWanted(proposal)) => self.judge(now, &proposal),
            _ => {}
        }
    }

    fn judge(&mut self, now: Now, proposal: &Arc<HalfBlock>) {
        assert!(Payouts::concerns(proposal));
        match self.payouts.judge(now, proposal) {
            PayoutJudgement::Sign { records } => {
                self.ledger.agree_bandwidth(now, proposal, records).expect("nothing is against it");
            }
            PayoutJudgement::Decline(reason) => {
                self.declined += 1;
                self.ledger.decline(now, &proposal.hash(), DeclineReason::Policy(reason.to_owned()));
            }
        }
    }
}

type Pair = (Arc<HalfBlock>, Option<Arc<HalfBlock>>);

/// Every proposal that the chain of `me` makes or answers.
fn own_pairs(store: &MemoryStore, me: &PublicKey) -> Vec<Pair> {
    let blocks = store.range(me, 1, u32::MAX, usize::MAX).expect("memory");
    let pair = |block: Arc<HalfBlock>| {
        if block.is_proposal() {
            let agreements = store.links_to(me, block.sequence).expect("memory");
            let agreement = agreements.into_iter().find(|other| other.owner == block.link_owner);
            return Some((block, agreement));
        }
        let proposal = store.get(&block.link_owner, block.link_sequence).expect("memory")?;
        Some((proposal, Some(block)))
    };
    blocks.into_iter().filter_map(pair).collect()
}

fn start(
    config: &PayoutsConfig,
    key: &SecretKey,
    tunnel: &SecretKey,
    store: MemoryStore,
    rng: &mut Rng,
    now: Now,
) -> (Payouts, Ledger<MemoryStore>) {
    let mut records = Vec::new();
    for kind in PAYOUT_RECORD_KINDS {
        let of_kind = store.records(kind).expect("memory");
        records.extend(of_kind.into_iter().map(|(key, value)| (kind, key, value)));
    }
    let pairs = own_pairs(&store, &key.public());
    let seed = Rng::from_seed(rng.bytes());
    let payouts =
        Payouts::new(config.clone(), key.clone(), tunnel.clone(), records, pairs, seed.fork("payouts"), now);
    let ledger = Ledger::new(LedgerConfig::default(), key.clone(), store, seed.fork("ledger"), now);
    (payouts, ledger.expect("memory"))
}
