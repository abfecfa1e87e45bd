//! The engine: its state, its start from the own chain and the journal, its writes and its clock.

use crate::PRICE_FULL;
use crate::account::PairAccount;
use crate::output::{AccountView, EconomyEvent, EconomyOutput, SessionId};
use crate::pool::{Buckets, PoolRate};
use crate::price::PriceMeter;
use crate::provider::Provider;
use crate::record::{GivenRecord, MeterRecord, RecordKey, TakenRecord};
use crate::schedule::Grant;
use crate::taker::Taker;
use crate::timer::{Timer, Timers};
use crate::verdict::Policy;
use fairshare_crypto::{PublicKey, Rng};
use fairshare_ledger::{BlockHash, HalfBlock, Record, RecordKind};
use fairshare_wire::{Instant, Now};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a stranger may take by default, in charged bytes.
pub const STRANGER_BYTES: u64 = 16 << 20;

/// How long a failed write waits for the next try.
const WRITE_RETRY: Duration = Duration::from_secs(5);
/// Verified bytes are recorded at the latest after this time: a crash of the taker loses no more than that.
pub(crate) const RECORD_DELAY: Duration = Duration::from_millis(200);

/// Settings of the economy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EconomyConfig {
    /// The admission policy.
    pub policy: Policy,
    /// Keys that are always served.
    pub friends: BTreeSet<PublicKey>,
    /// S: what a stranger may take, in charged bytes.
    pub stranger_bytes: u64,
    /// The upload limit in bytes per second, if one is set.
    pub upload_limit: Option<u64>,
}

impl Default for EconomyConfig {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            friends: BTreeSet::new(),
            stranger_bytes: STRANGER_BYTES,
            upload_limit: None,
        }
    }
}

/// Everything between this node and one other key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    pub(crate) account: PairAccount,
    /// What it takes from us.
    pub(crate) give: Provider,
    /// What we take from it.
    pub(crate) take: Taker,
    pub(crate) sessions: BTreeSet<SessionId>,
    /// A proof of fraud stands against it.
    pub(crate) forker: bool,
    /// It was told to ask again because no further grant can be made.
    pub(crate) exhausted: bool,
    /// The newest half block of it that is known from our pairs.
    pub(crate) seen: Option<(u32, BlockHash)>,
    /// Own halves of pairs without `cum`, which count once each.
    pub(crate) uncounted_by_cum: BTreeSet<u32>,
}

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) key: PublicKey,
    pub(crate) address: IpAddr,
    pub(crate) sent: u64,
    pub(crate) verified: u64,
    /// Verified bytes we took over it.
    pub(crate) taken: u64,
    /// What it may have sent in all.
    pub(crate) limit: u64,
    /// The newest grant that was told on it.
    pub(crate) told: u32,
    /// The choker serves it.
    pub(crate) served: bool,
    /// The last request or sent byte.
    pub(crate) active: Instant,
    /// Bytes per second, as the choker sees it.
    pub(crate) rate: u64,
}

impl Session {
    /// What it may still send.
    pub(crate) const fn left(&self) -> u64 {
        self.limit.saturating_sub(self.sent)
    }
}

/// A write under way.
#[derive(Clone, Copy, Debug)]
enum Write {
    Given(PublicKey),
    Taken,
    Meter,
}

/// Pair accounts, admission, grants and settlement of one node.
#[derive(Debug)]
pub struct Economy {
    pub(crate) config: EconomyConfig,
    pub(crate) me: PublicKey,
    pub(crate) rng: Rng,
    pub(crate) meter: PriceMeter,
    pub(crate) buckets: Buckets,
    pub(crate) pool_rate: PoolRate,
    /// Peers that are served out of the pool.
    pub(crate) pool_peers: BTreeSet<PublicKey>,
    /// The pool peer that had its share last.
    pub(crate) pool_turn: Option<PublicKey>,
    pub(crate) peers: BTreeMap<PublicKey, Peer>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) timers: Timers,
    /// Peers whose taken bytes are not all recorded.
    pub(crate) unrecorded: BTreeSet<PublicKey>,
    recording: bool,
    outputs: VecDeque<EconomyOutput>,
    writes: BTreeMap<u64, Write>,
    next_ticket: u64,
}

impl Economy {
    /// The economy of the node `me`. The accounts are folded from the pairs of the own chain, in the order of its
    /// numbers; `records` are the journal entries of all [`crate::RECORD_KINDS`].
    pub fn new(
        config: EconomyConfig,
        me: PublicKey,
        records: Vec<(RecordKind, Vec<u8>, Vec<u8>)>,
        own_pairs: impl IntoIterator<Item = (Arc<HalfBlock>, Option<Arc<HalfBlock>>)>,
        rng: Rng,
        now: Now,
    ) -> Self {
        let meter = PriceMeter::new(now.mono, 0, config.upload_limit);
        let mut economy = Self {
            config,
            me,
            rng,
            meter,
            buckets: Buckets::default(),
            pool_rate: PoolRate::new(now.mono),
            pool_peers: BTreeSet::new(),
            pool_turn: None,
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            timers: Timers::default(),
            unrecorded: BTreeSet::new(),
            recording: false,
            outputs: VecDeque::new(),
            writes: BTreeMap::new(),
            next_ticket: 1,
        };
        for (proposal, agreement) in own_pairs {
            economy.fold(&proposal, agreement.as_deref());
        }
        for (_, key, value) in records {
            economy.restore(now, &key, &value);
        }
        for peer in economy.peers.values_mut() {
            // A chain without its journal: what was signed was verified.
            peer.take.recv = peer.take.recv.max(peer.take.paid);
            peer.give.verified = peer.give.verified.max(peer.give.paid);
            peer.give.sent = peer.give.sent.max(peer.give.paid);
            peer.refresh_hold();
        }
        economy.timers.set(Timer::Price, economy.meter.period_end());
        economy
    }

    /// Takes up one journal entry. One of an unknown form is left alone: what it held is doubtful, not lost, as
    /// the chain holds everything that was settled.
    fn restore(&mut self, now: Now, key: &[u8], value: &[u8]) {
        match RecordKey::parse(key) {
            Some(RecordKey::Meter) => {
                if let Ok(record) = MeterRecord::decode(value) {
                    self.meter = PriceMeter::new(now.mono, record.utilisation, self.config.upload_limit);
                    self.buckets = Buckets::restore(record.drawn);
                }
            }
            Some(RecordKey::Given(peer)) => {
                if let Ok(record) = GivenRecord::decode(value) {
                    self.peers.entry(peer).or_default().give.restore(record);
                }
            }
            Some(RecordKey::Taken(peer)) => {
                if let Ok(record) = TakenRecord::decode(value) {
                    self.peers.entry(peer).or_default().take.restore(now.mono, record);
                }
            }
            None => {}
        }
    }

    /// The next output.
    pub fn poll(&mut self) -> Option<EconomyOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop(now.mono) {
            match timer {
                Timer::Price => self.close_price_period(now),
                Timer::Pool => self.share_pool(now),
                Timer::Record => self.record_taken(),
                Timer::Idle(session) => self.check_idle(now, session),
                Timer::Journal(peer) => self.journal(now, &peer),
                Timer::Unpaid(peer) => self.dun(now, &peer),
                Timer::Settle(peer) => {
                    self.settle_if_due(now, &peer);
                }
                Timer::Reckoning(peer) => self.reckon(now, &peer),
            }
        }
    }

    /// A write is durable.
    pub fn persisted(&mut self, now: Now, ticket: u64) {
        match self.writes.remove(&ticket) {
            Some(Write::Given(peer)) => self.journaled(now, &peer),
            Some(Write::Taken) => {
                self.recording = false;
                self.plan_recording(now);
            }
            Some(Write::Meter) | None => {}
        }
    }

    /// A write failed. What waits for it goes on waiting, and it is tried again.
    pub fn persist_failed(&mut self, now: Now, ticket: u64) {
        match self.writes.remove(&ticket) {
            Some(Write::Given(key)) => {
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.give.journaling = None;
                }
                self.timers.set(Timer::Journal(key), now.mono + WRITE_RETRY);
            }
            Some(Write::Taken) => {
                self.recording = false;
                let owing = self.peers.iter().filter(|(_, peer)| peer.take.recv > peer.take.confirmed);
                self.unrecorded.extend(owing.map(|(key, _)| *key));
                self.timers.set(Timer::Record, now.mono + WRITE_RETRY);
            }
            Some(Write::Meter) | None => {}
        }
    }

    /// The price of new grants, in 1/65536.
    pub fn price(&self) -> u32 {
        match self.config.policy {
            Policy::Receipts => self.meter.price(),
            Policy::None => PRICE_FULL,
        }
    }

    /// All pair accounts.
    pub fn accounts(&self, now: Now) -> Vec<AccountView> {
        self.peers.iter().map(|(key, peer)| self.view(now, key, peer)).collect()
    }

    /// The account with one peer.
    pub fn account(&self, now: Now, key: &PublicKey) -> Option<AccountView> {
        self.peers.get(key).map(|peer| self.view(now, key, peer))
    }

    fn view(&self, now: Now, key: &PublicKey, peer: &Peer) -> AccountView {
        let (give, take) = (&peer.give, &peer.take);
        AccountView {
            peer: *key,
            account: peer.account,
            claim_of_peer: peer.account.theirs.claim(),
            claim_on_peer: peer.account.mine.claim(),
            recv: take.recv,
            sent: give.sent,
            verified: give.verified,
            paid_to: take.paid,
            confirmed_to: take.confirmed,
            paid_from: give.paid,
            window: give.window(now, self.is_friend(key)),
            lost: give.losses.sum(now.unix_ms),
            sessions: peer.sessions.len(),
            friend: self.is_friend(key),
        }
    }

    pub(crate) fn is_friend(&self, key: &PublicKey) -> bool {
        self.config.friends.contains(key)
    }

    pub(crate) fn output(&mut self, output: EconomyOutput) {
        self.outputs.push_back(output);
    }

    pub(crate) fn event(&mut self, event: EconomyEvent) {
        self.output(EconomyOutput::Event(event));
    }

    fn write(&mut self, write: Write, records: Vec<Record>) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.writes.insert(ticket, write);
        self.output(EconomyOutput::Persist { ticket, records });
    }

    /// Writes what a peer takes from us, now or after the write under way.
    pub(crate) fn journal(&mut self, now: Now, key: &PublicKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        if peer.give.journaling.is_some() {
            peer.give.journal_again = true;
            return;
        }
        let record = peer.give.journal(now, !peer.sessions.is_empty());
        self.write(Write::Given(*key), vec![RecordKey::Given(*key).record(record.encode())]);
    }

    fn journaled(&mut self, now: Now, key: &PublicKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let before = peer.give.durable_number;
        peer.give.journaled();
        let durable = peer.give.durable_number;
        let new: Vec<(Grant, bool)> = peer
            .give
            .schedule
            .entries()
            .filter(|entry| (before + 1..=durable).contains(&entry.grant.number))
            .map(|entry| (entry.grant, entry.pool))
            .collect();
        if peer.give.journal_again {
            self.journal(now, key);
        }
        for (grant, pool) in new {
            self.event(EconomyEvent::Granted { peer: *key, grant, pool });
        }
        self.supply(now, key);
    }

    /// Arranges that verified bytes are recorded soon.
    pub(crate) fn plan_recording(&mut self, now: Now) {
        if !self.recording && !self.unrecorded.is_empty() {
            self.timers.set_if_none(Timer::Record, now.mono + RECORD_DELAY);
        }
    }

    /// Writes what we took since the last record, of all peers at once.
    pub(crate) fn record_taken(&mut self) {
        self.timers.cancel(Timer::Record);
        if self.recording {
            return;
        }
        let mut records = Vec::new();
        for key in std::mem::take(&mut self.unrecorded) {
            if let Some(peer) = self.peers.get_mut(&key) {
                records.push(RecordKey::Taken(key).record(peer.take.record().encode()));
            }
        }
        if !records.is_empty() {
            self.recording = true;
            self.write(Write::Taken, records);
        }
    }

    fn close_price_period(&mut self, now: Now) {
        let before = self.price();
        self.meter.close_periods(now.mono);
        self.timers.set(Timer::Price, self.meter.period_end());
        if self.price() != before {
            self.event(EconomyEvent::Price { price: self.price() });
        }
        let drawn = self.buckets.drawn(now.unix_ms).map(|(prefix, drawn)| (*prefix, *drawn)).collect();
        let record = MeterRecord { utilisation: self.meter.utilisation(), drawn };
        self.write(Write::Meter, vec![RecordKey::Meter.record(record.encode())]);
    }
}

impl Peer {
    /// Whether nothing would be lost with this entry: the key connected and neither gave nor took.
    pub(crate) fn is_blank(&self) -> bool {
        let never = self.give.sent == 0 && self.give.number == 0 && self.take.recv == 0;
        never && self.account == PairAccount::default() && self.seen.is_none()
    }

    /// Brings the reservation on the peer's claim up to date.
    pub(crate) fn refresh_hold(&mut self) {
        self.account.theirs.h_own = self.give.hold(!self.sessions.is_empty());
    }
}
