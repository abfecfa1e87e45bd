//! Two parties and everything that lies between them: connections that keep order and break, datagrams that get
//! lost, come twice or in another order, disks that write late, processes that die. The ledger is the smallest
//! possible: own chain, one agreement per proposal, nothing leaves before it is durable.

use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_economy::{
    AccountView, DeclineReason, Economy, EconomyConfig, EconomyEvent, EconomyOutput, Grant, Judgement,
    Refusal, SessionId, Verdict,
};
use fairshare_ledger::bandwidth::{Bandwidth, Settlement};
use fairshare_ledger::{BlockType, Draft, GENESIS_HASH, HalfBlock, Record, RecordKind};
use fairshare_wire::Now;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
/// Bounds of a connection: what may be under way, and what may be unverified.
pub(crate) const EXPOSURE: u64 = 4 * MIB;
pub(crate) const UNVERIFIED: u64 = 16 * MIB;
/// The most that is sent in one step.
const LUMP: u64 = 512 * KIB;

type Pair = (Arc<HalfBlock>, Option<Arc<HalfBlock>>);

/// What travels on a connection.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Data(u64),
    Count { accepted: u64, verified: u64 },
    Grant(Grant),
    Freed(u32, u64),
    Refused(Refusal),
    Block(Arc<HalfBlock>),
    Close,
}

/// A write that is not durable yet.
#[derive(Clone, Debug)]
enum Pending {
    Economy(u64, Vec<Record>),
    /// An own block, with the proposal that it answers.
    Own(Arc<HalfBlock>, Option<Arc<HalfBlock>>, Vec<Record>),
    /// The answer to an own proposal.
    Answer(Arc<HalfBlock>, Arc<HalfBlock>),
}

/// One direction of a connection, as the swarms at its two ends see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flow {
    pub(crate) sent: u64,
    pub(crate) limit: u64,
    pub(crate) served: bool,
    /// The taker wants nothing now.
    pub(crate) sated: bool,
    pub(crate) acked: (u64, u64),
    pub(crate) received: u64,
    pub(crate) verified: u64,
    pub(crate) wasted: u64,
}

pub(crate) struct Connection {
    pub(crate) id: SessionId,
    pub(crate) open: [bool; 2],
    /// `queues[x]` = what x sent.
    pub(crate) queues: [VecDeque<Message>; 2],
    /// `flows[x]` = payload that x gives.
    pub(crate) flows: [Flow; 2],
}

pub(crate) struct Party {
    pub(crate) key: SecretKey,
    pub(crate) config: EconomyConfig,
    pub(crate) economy: Economy,
    chain: Vec<Arc<HalfBlock>>,
    pairs: Vec<Pair>,
    records: BTreeMap<(RecordKind, Vec<u8>), Vec<u8>>,
    pending: VecDeque<Pending>,
    /// Newest own block, durable or not, and totals up to it.
    head: Option<Arc<HalfBlock>>,
    totals: (u64, u64),
    pub(crate) events: Vec<EconomyEvent>,
    pub(crate) declined: Vec<DeclineReason>,
    pub(crate) refusals: Vec<Refusal>,
    /// Verified bytes that died with the process before they were recorded.
    pub(crate) forgotten: u64,
}

pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) rng: Rng,
    pub(crate) parties: [Party; 2],
    pub(crate) connections: Vec<Connection>,
    /// Half blocks on their way as datagrams, to a party.
    pub(crate) datagrams: Vec<(usize, Arc<HalfBlock>)>,
    /// Own blocks that left a party, to see that no number is ever used twice.
    pub(crate) left: [BTreeMap<u32, Arc<HalfBlock>>; 2],
    next_session: u64,
}

impl World {
    pub(crate) fn new(seed: u64, configs: [EconomyConfig; 2]) -> Self {
        let mut rng = Rng::from_seed([7; 32]).fork(&seed.to_string());
        let now = Now { unix_ms: 1_700_000_000_000, ..Now::default() };
        let parties = configs.map(|config| {
            let key = SecretKey::generate(&mut rng);
            let economy =
                Economy::new(config.clone(), key.public(), vec![], vec![], rng.fork("economy"), now);
            Party {
                key,
                config,
                economy,
                chain: vec![],
                pairs: vec![],
                records: BTreeMap::new(),
                pending: VecDeque::new(),
                head: None,
                totals: (0, 0),
                events: vec![],
                declined: vec![],
                refusals: vec![],
                forgotten: 0,
            }
        });
        let left = [BTreeMap::new(), BTreeMap::new()];
        Self { now, rng, parties, connections: vec![], datagrams: vec![], left, next_session: 1 }
    }

    pub(crate) fn key(&self, party: usize) -> PublicKey {
        self.parties[party].key.public()
    }

    /// The account that `party` keeps with the other.
    pub(crate) fn account(&self, party: usize) -> AccountView {
        let account = self.parties[party].economy.account(self.now, &self.key(1 - party));
        account.expect("they have met")
    }

    pub(crate) fn open(&mut self) -> usize {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        self.connections.push(Connection {
            id,
            open: [true; 2],
            queues: Default::default(),
            flows: Default::default(),
        });
        for party in 0..2 {
            let (now, key) = (self.now, self.key(1 - party));
            let address = format!("127.0.0.{}", 2 - party).parse().expect("address");
            self.parties[party].economy.session_opened(now, id, key, address);
            self.resend(party);
            self.drain(party);
        }
        self.connections.len() - 1
    }

    /// One end closes in order: what it sent before still arrives.
    pub(crate) fn close(&mut self, connection: usize, party: usize) {
        let (id, now) = (self.connections[connection].id, self.now);
        if !std::mem::take(&mut self.connections[connection].open[party]) {
            return;
        }
        self.count(connection, party);
        self.connections[connection].queues[1 - party].clear();
        self.connections[connection].queues[party].push_back(Message::Close);
        self.parties[party].economy.session_closed(now, id);
        self.drain(party);
    }

    /// The connection breaks: nothing more arrives.
    pub(crate) fn cut(&mut self, connection: usize) {
        for party in 0..2 {
            self.connections[connection].queues[party].clear();
            self.connections[connection].queues[party].push_back(Message::Close);
        }
    }

    /// The process dies and starts again from its disk.
    pub(crate) fn crash(&mut self, party: usize) {
        for index in 0..self.connections.len() {
            let keeps = self.rng.chance(1, 2);
            let connection = &mut self.connections[index];
            connection.open[party] = false;
            connection.queues[1 - party].clear();
            if !keeps {
                connection.queues[party].clear();
            }
            connection.queues[party].push_back(Message::Close);
        }
        let (now, rng) = (self.now, self.rng.fork("restart"));
        let before =
            self.parties[party].economy.account(now, &self.key(1 - party)).map_or(0, |view| view.recv);
        let key = self.key(1 - party);
        let it = &mut self.parties[party];
        it.pending.clear();
        it.head = it.chain.last().cloned();
        it.totals = it.head.as_deref().map_or((0, 0), totals);
        let records = it.records.iter().map(|((kind, key), value)| (*kind, key.clone(), value.clone()));
        let me = it.key.public();
        it.economy = Economy::new(it.config.clone(), me, records.collect(), it.pairs.clone(), rng, now);
        let after = it.economy.account(now, &key).map_or(0, |view| view.recv);
        it.forgotten += before.saturating_sub(after);
        self.drain(party);
    }

    /// Lets time pass, timers included.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now.after(span);
        loop {
            let next = self.parties.iter().filter_map(|party| party.economy.next_timeout()).min();
            let Some(at) = next.filter(|at| *at <= end.mono) else { break };
            self.now = self.now.after(at.since(self.now.mono));
            for party in 0..2 {
                let now = self.now;
                self.parties[party].economy.handle_timeout(now);
                self.drain(party);
            }
        }
        self.now = end;
    }

    /// The choker of `party` looks at a connection on which the other wants something.
    pub(crate) fn choke_round(&mut self, connection: usize, party: usize) -> Option<Verdict> {
        let it = &self.connections[connection];
        if !it.open[party] || it.flows[party].sated {
            return None;
        }
        let (now, id) = (self.now, it.id);
        let verdict = self.parties[party].economy.verdict(now, id, 0);
        let serve = matches!(verdict, Verdict::Serve { .. } | Verdict::Pool);
        self.connections[connection].flows[party].served = serve;
        if serve {
            self.parties[party].economy.grant_wanted(now, id, 0);
        } else if let Verdict::Refuse(refusal) = verdict {
            self.connections[connection].queues[party].push_back(Message::Refused(refusal));
        }
        self.drain(party);
        Some(verdict)
    }

    /// The taker wants nothing more for now, and the choker of `party` takes its slot away.
    pub(crate) fn choke(&mut self, connection: usize, party: usize) {
        let (now, id) = (self.now, self.connections[connection].id);
        self.connections[connection].flows[party].served = false;
        self.parties[party].economy.choked(now, id);
        self.drain(party);
    }

    /// `party` sends what it may on a connection, at most a lump; answers how much.
    pub(crate) fn send(&mut self, connection: usize, party: usize) -> u64 {
        let it = &mut self.connections[connection];
        let flow = &mut it.flows[party];
        if !it.open[party] || !flow.served {
            return 0;
        }
        let exposed = (flow.acked.0 + EXPOSURE).saturating_sub(flow.sent);
        let unverified = (flow.acked.1 + UNVERIFIED).saturating_sub(flow.sent);
        let bytes = flow.limit.saturating_sub(flow.sent).min(exposed).min(unverified).min(LUMP);
        if bytes == 0 {
            return 0;
        }
        flow.sent += bytes;
        let total = flow.sent;
        it.queues[party].push_back(Message::Data(bytes));
        let (now, id) = (self.now, it.id);
        self.parties[party].economy.sent(now, id, total);
        self.drain(party);
        bytes
    }

    /// The taker on the connection hashes up to `bytes` of what it has; `waste` of it has the wrong hash.
    pub(crate) fn verify(&mut self, connection: usize, taker: usize, bytes: u64, waste: u64) {
        let it = &mut self.connections[connection];
        if !it.open[taker] {
            return;
        }
        let flow = &mut it.flows[1 - taker];
        let here = bytes.min(flow.received - flow.verified - flow.wasted);
        let wasted = waste.min(here);
        flow.wasted += wasted;
        flow.verified += here - wasted;
        let (now, id, total) = (self.now, it.id, flow.verified);
        self.parties[taker].economy.verified(now, id, total);
        self.drain(taker);
    }

    /// The taker tells its counts.
    pub(crate) fn count(&mut self, connection: usize, taker: usize) {
        let it = &mut self.connections[connection];
        let flow = &it.flows[1 - taker];
        let message = Message::Count { accepted: flow.received, verified: flow.verified };
        it.queues[taker].push_back(message);
    }

    /// Delivers the oldest message that `from` sent on a connection.
    pub(crate) fn deliver(&mut self, connection: usize, from: usize) -> bool {
        let Some(message) = self.connections[connection].queues[from].pop_front() else { return false };
        let to = 1 - from;
        if !self.connections[connection].open[to] {
            return true;
        }
        let (now, id) = (self.now, self.connections[connection].id);
        let economy = &mut self.parties[to].economy;
        match message {
            Message::Data(bytes) => self.connections[connection].flows[from].received += bytes,
            Message::Count { accepted, verified } => {
                self.connections[connection].flows[to].acked = (accepted, verified);
                economy.acknowledged(now, id, accepted, verified);
            }
            Message::Grant(grant) => economy.grant_received(now, id, grant),
            Message::Freed(number, used) => economy.grant_freed(now, id, number, used),
            Message::Refused(refusal) => {
                economy.refused_by(now, id, refusal);
                self.parties[to].refusals.push(refusal);
            }
            Message::Block(block) => self.receive(to, &block),
            Message::Close => self.close(connection, to),
        }
        self.drain(to);
        true
    }

    /// A half block arrives at a party.
    pub(crate) fn receive(&mut self, party: usize, block: &Arc<HalfBlock>) {
        let block = Arc::new(HalfBlock::parse(&block.to_bytes()).expect("own encoding"));
        let me = self.key(party);
        if block.is_proposal() {
            self.judge(party, block);
        } else if block.link_owner == me {
            let it = &mut self.parties[party];
            let known = |pair: &&mut Pair| pair.0.sequence == block.link_sequence && pair.0.owner == me;
            let waiting = it.pairs.iter_mut().find(known).filter(|pair| pair.1.is_none());
            if let Some((proposal, _)) = waiting {
                it.pending.push_back(Pending::Answer(proposal.clone(), block));
            }
        }
        self.drain(party);
    }

    fn judge(&mut self, party: usize, proposal: Arc<HalfBlock>) {
        let now = self.now;
        let it = &mut self.parties[party];
        let answered = it.pairs.iter().find(|pair| pair.0.hash() == proposal.hash());
        if let Some((_, Some(agreement))) = answered {
            let agreement = agreement.clone();
            return self.transmit(party, &agreement);
        }
        let pending =
            |write: &Pending| matches!(write, Pending::Own(_, Some(p), _) if p.hash() == proposal.hash());
        if it.pending.iter().any(pending) {
            return;
        }
        match it.economy.judge(now, &proposal) {
            Judgement::Decline(reason) => it.declined.push(reason),
            Judgement::Sign { records } => {
                let bandwidth = Bandwidth::decode(&proposal.transaction).expect("judged");
                let settlement = bandwidth.settlement.expect("judged");
                let block =
                    self.sign(party, Some(&proposal), self.key(1 - party), bandwidth.down, settlement);
                self.parties[party].pending.push_back(Pending::Own(block, Some(proposal), records));
            }
        }
    }

    fn sign(
        &mut self,
        party: usize,
        proposal: Option<&HalfBlock>,
        to: PublicKey,
        bytes: u64,
        settlement: Settlement,
    ) -> Arc<HalfBlock> {
        let timestamp_ms = self.now.unix_ms;
        let it = &mut self.parties[party];
        let (up, down) = if proposal.is_some() { (bytes, 0) } else { (0, bytes) };
        it.totals = (it.totals.0 + up, it.totals.1 + down);
        let (total_up, total_down) = it.totals;
        let settlement = Some(settlement);
        let bandwidth = Bandwidth { up, down, total_up, total_down, settlement, fault: None };
        let draft = Draft {
            sequence: it.head.as_ref().map_or(1, |head| head.sequence + 1),
            link_owner: to,
            link_sequence: proposal.map_or(0, |proposal| proposal.sequence),
            previous_hash: it.head.as_ref().map_or(GENESIS_HASH, |head| head.hash()),
            kind: BlockType::BANDWIDTH,
            transaction: bandwidth.encode(),
            timestamp_ms,
        };
        let block = Arc::new(HalfBlock::sign(&it.key, draft));
        it.head = Some(block.clone());
        block
    }

    /// The oldest write of a party becomes durable.
    pub(crate) fn write(&mut self, party: usize) -> bool {
        let now = self.now;
        let it = &mut self.parties[party];
        let Some(pending) = it.pending.pop_front() else { return false };
        match pending {
            Pending::Economy(ticket, records) => {
                it.keep(records);
                it.economy.persisted(now, ticket);
            }
            Pending::Own(block, proposal, records) => {
                it.keep(records);
                it.chain.push(block.clone());
                match proposal {
                    Some(proposal) => {
                        it.pairs.push((proposal.clone(), Some(block.clone())));
                        it.economy.paired(now, &proposal, &block);
                    }
                    None => it.pairs.push((block.clone(), None)),
                }
                self.transmit(party, &block);
            }
            Pending::Answer(proposal, agreement) => {
                let pair = it.pairs.iter_mut().find(|pair| pair.0.hash() == proposal.hash());
                let half = &mut pair.expect("own proposal").1;
                if half.is_none() {
                    *half = Some(agreement.clone());
                    it.economy.paired(now, &proposal, &agreement);
                }
            }
        }
        self.drain(party);
        true
    }

    /// An own durable block leaves: on a connection if there is one, and as a datagram.
    fn transmit(&mut self, party: usize, block: &Arc<HalfBlock>) {
        let known = self.left[party].entry(block.sequence).or_insert_with(|| block.clone());
        assert_eq!(known.hash(), block.hash(), "a second block at number {}", block.sequence);
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.open[party]) {
            connection.queues[party].push_back(Message::Block(block.clone()));
        }
        self.datagrams.push((1 - party, block.clone()));
    }

    /// The ledger of a party sends its unanswered proposals again.
    pub(crate) fn resend(&mut self, party: usize) {
        let me = self.key(party);
        let unanswered =
            self.parties[party].pairs.iter().filter(|pair| pair.1.is_none() && pair.0.owner == me);
        for block in unanswered.map(|pair| pair.0.clone()).collect::<Vec<_>>() {
            self.transmit(party, &block);
        }
    }

    /// Carries out what a party's economy wants.
    pub(crate) fn drain(&mut self, party: usize) {
        while let Some(output) = self.parties[party].economy.poll() {
            match output {
                EconomyOutput::Persist { ticket, records } => {
                    self.parties[party].pending.push_back(Pending::Economy(ticket, records));
                }
                EconomyOutput::Propose { to, down, settlement, records } => {
                    let block = self.sign(party, None, to, down, settlement);
                    self.parties[party].pending.push_back(Pending::Own(block.clone(), None, records));
                    let now = self.now;
                    self.parties[party].economy.proposed(now, &block);
                }
                EconomyOutput::Grant { session, grant } => self.post(party, session, Message::Grant(grant)),
                EconomyOutput::Freed { session, number, used } => {
                    self.post(party, session, Message::Freed(number, used));
                }
                EconomyOutput::ServeLimit { session, total } => {
                    if let Some(index) = self.find(party, session) {
                        self.connections[index].flows[party].limit = total;
                    }
                }
                EconomyOutput::Refuse { session, refusal } => {
                    self.post(party, session, Message::Refused(refusal));
                }
                EconomyOutput::Rejudge { session } => {
                    if let Some(index) = self.find(party, session) {
                        self.choke_round(index, party);
                    }
                }
                EconomyOutput::Event(event) => self.parties[party].events.push(event),
            }
        }
    }

    fn find(&self, party: usize, session: SessionId) -> Option<usize> {
        self.connections.iter().position(|connection| connection.id == session && connection.open[party])
    }

    fn post(&mut self, party: usize, session: SessionId, message: Message) {
        if let Some(index) = self.find(party, session) {
            self.connections[index].queues[party].push_back(message);
        }
    }

    /// Delivers and writes everything until nothing moves; no payload is sent.
    pub(crate) fn settle_down(&mut self) {
        for _ in 0..100_000 {
            let mut moved = false;
            for party in 0..2 {
                moved |= self.write(party);
                for connection in 0..self.connections.len() {
                    moved |= self.deliver(connection, party);
                }
            }
            if let Some((to, block)) = self.datagrams.pop() {
                self.receive(to, &block);
                moved = true;
            }
            if !moved {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// `taker` takes up to `bytes` over a connection, everything in order; answers what it got.
    pub(crate) fn take(&mut self, connection: usize, taker: usize, bytes: u64) -> u64 {
        let giver = 1 - taker;
        let before = self.connections[connection].flows[giver].verified;
        let mut idle = 0;
        while idle < 40 {
            let got = self.connections[connection].flows[giver].verified - before;
            if got >= bytes {
                break;
            }
            let mut sent = self.send(connection, giver);
            if sent == 0 {
                // A slot is free, or requests wait for room.
                self.choke_round(connection, giver);
                self.settle_down();
                sent = self.send(connection, giver);
            }
            self.settle_down();
            self.verify(connection, taker, u64::MAX, 0);
            self.count(connection, taker);
            self.settle_down();
            self.pass(Duration::from_millis(100));
            idle = if sent == 0 { idle + 1 } else { 0 };
        }
        self.connections[connection].flows[giver].verified - before
    }
}

impl Party {
    fn keep(&mut self, records: Vec<Record>) {
        for record in records {
            let key = (record.kind, record.key);
            match record.value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
    }

    /// Durable pairs with both halves in which the party paid (`true`) or was paid.
    pub(crate) fn complete_pairs(&self, paid: bool) -> impl Iterator<Item = (Bandwidth, u64)> {
        let me = self.key.public();
        self.pairs.iter().filter_map(move |(proposal, agreement)| {
            let bandwidth = Bandwidth::decode(&proposal.transaction).expect("own block");
            let cum = bandwidth.settlement.as_ref().expect("direct account").cum;
            (agreement.is_some() && (proposal.owner == me) == paid).then_some((bandwidth, cum))
        })
    }

    /// The totals that the own chain says.
    pub(crate) fn chain_totals(&self) -> (u64, u64) {
        self.chain.last().map_or((0, 0), |head| totals(head))
    }

    /// The transactions of the own chain.
    pub(crate) fn transactions(&self) -> Vec<Bandwidth> {
        let decode = |block: &Arc<HalfBlock>| Bandwidth::decode(&block.transaction).expect("own block");
        self.chain.iter().map(decode).collect()
    }
}

fn totals(block: &HalfBlock) -> (u64, u64) {
    let bandwidth = Bandwidth::decode(&block.transaction).expect("own block");
    (bandwidth.total_up, bandwidth.total_down)
}
