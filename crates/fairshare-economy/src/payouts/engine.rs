//! The engine: its state, its start from the own chain and the journal, its writes and its clock.

use super::account::Account;
use super::config::{NEIGHBOURS_MAX, PayoutsConfig};
use super::exposure::Pool;
use super::message::SettleMessage;
use super::metering::Meter;
use super::output::{LinkAllowance, PayoutView, PayoutsEvent, PayoutsOutput};
use super::record::{RecordKey, decode_binding, encode_account, encode_binding, restore_account};
use super::rows::Rows;
use crate::timer::Timers;
use fairshare_crypto::{PublicKey, Rng, SecretKey, hmac_sha256, sha256};
use fairshare_ledger::{HalfBlock, Record, RecordKind};
use fairshare_wire::{Instant, Limit, Now, Rate};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How long a failed write waits for the next try.
const WRITE_RETRY: Duration = Duration::from_secs(5);

/// What is to be looked at when its time comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// An epoch ends.
    Epoch,
    /// Failed writes are tried again.
    Write,
    /// What was metered is to be written.
    Record,
    /// An IOU goes to a payment key.
    Iou(PublicKey),
    /// A payment may be due.
    Settle(PublicKey),
    /// A neighbour over its limit had its time, by tunnel key.
    Watch(PublicKey),
    /// A neighbour did not show its payment key yet, by tunnel key.
    Bind(PublicKey),
}

/// What is known of a neighbour by its tunnel key.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbour {
    /// Its payment key.
    pub(super) peer: Option<PublicKey>,
    /// The epoch of the proof.
    pub(super) epoch: u32,
    /// What is owed while it has none.
    pub(super) unbound: Account,
    /// Bytes on links on which it is towards the originator.
    pub(super) meter_from: Meter,
    /// Bytes on links on which it is away from it.
    pub(super) meter_to: Meter,
    pub(super) allowance: LinkAllowance,
    /// Since when it is over its limit.
    pub(super) over_since: Option<Instant>,
    /// When it was asked for an IOU.
    pub(super) asked: Option<Instant>,
    /// When it was told our payment key.
    pub(super) bound_at: Option<Instant>,
    /// The payment key that is on record; only while something is carried.
    recorded: Option<PublicKey>,
    /// Its messages that are heard.
    heard: Option<Limit>,
    /// It had more than the newcomers' pool holds.
    pub(super) pool_empty: bool,
}

impl Neighbour {
    /// Whether one more message is heard: each may cost a signature and a write.
    pub(super) fn may_speak(&mut self, now: Instant, rate: Rate) -> bool {
        self.heard.get_or_insert_with(|| Limit::new(rate)).take(now)
    }
}

/// A write, and what waits for it.
#[derive(Debug, Default)]
struct Write {
    accounts: BTreeSet<PublicKey>,
    neighbours: BTreeSet<PublicKey>,
    then: Vec<PayoutsOutput>,
}

/// The tunnel accounts of one node.
#[derive(Debug)]
pub struct Payouts {
    pub(super) config: PayoutsConfig,
    pub(super) key: SecretKey,
    pub(super) tunnel: SecretKey,
    pub(super) rng: Rng,
    /// Keeps the moments of payments apart.
    jitter_secret: [u8; 32],
    pub(super) neighbours: BTreeMap<PublicKey, Neighbour>,
    pub(super) accounts: BTreeMap<PublicKey, Account>,
    pub(super) rows: Rows,
    pub(super) pool: Pool,
    /// Keys against which a proof of fraud stands; as many as the ledger keeps proofs.
    pub(super) forkers: BTreeSet<PublicKey>,
    /// The neighbour that gets the dummy payment of an epoch.
    pub(super) dummy: Option<(u32, PublicKey)>,
    pub(super) timers: Timers<Timer>,
    /// When payments are looked at, milliseconds since 1970.
    pub(super) settle_at: BTreeMap<PublicKey, u64>,
    /// Accounts that changed since they were written.
    pub(super) dirty: BTreeSet<PublicKey>,
    /// Neighbours whose payment key, or whose account without one, changed.
    pub(super) dirty_neighbours: BTreeSet<PublicKey>,
    writes: BTreeMap<u64, Write>,
    failed: Vec<Write>,
    next_ticket: u64,
    out: VecDeque<PayoutsOutput>,
    refusals: BTreeMap<&'static str, u64>,
}

impl Payouts {
    /// The payouts of the node whose TrustChain key is `key` and whose tunnel key is `tunnel`. `records` are the journal
    /// entries of all [`super::PAYOUT_RECORD_KINDS`]; `own_pairs` every proposal that the own chain makes or answers, in
    /// the order of its numbers, with its agreement if there is one.
    pub fn new(
        config: PayoutsConfig,
        key: SecretKey,
        tunnel: SecretKey,
        records: Vec<(RecordKind, Vec<u8>, Vec<u8>)>,
        own_pairs: impl IntoIterator<Item = (Arc<HalfBlock>, Option<Arc<HalfBlock>>)>,
        rng: Rng,
        now: Now,
    ) -> Self {
        let jitter_secret = sha256(&[b"settle-jitter", key.to_bytes().as_slice()].concat());
        let pool = Pool::new(config.newcomer_pool, now.mono);
        let mut payouts = Self {
            config,
            key,
            tunnel,
            rng,
            jitter_secret,
            neighbours: BTreeMap::new(),
            accounts: BTreeMap::new(),
            rows: Rows::default(),
            pool,
            forkers: BTreeSet::new(),
            dummy: None,
            timers: Timers::default(),
            settle_at: BTreeMap::new(),
            dirty: BTreeSet::new(),
            dirty_neighbours: BTreeSet::new(),
            writes: BTreeMap::new(),
            failed: Vec::new(),
            next_ticket: 1,
            out: VecDeque::new(),
            refusals: BTreeMap::new(),
        };
        for (_, key, value) in records {
            payouts.restore(&key, &value);
        }
        for (proposal, agreement) in own_pairs {
            payouts.fold(&proposal, agreement.as_deref());
        }
        payouts.start(now);
        payouts
    }

    /// Takes up one journal entry. One of an unknown form is left alone.
    fn restore(&mut self, key: &[u8], value: &[u8]) {
        match RecordKey::parse(key) {
            Some(RecordKey::Account(peer)) => {
                let _ = restore_account(self.accounts.entry(peer).or_default(), value);
            }
            Some(RecordKey::Binding(tunnel)) => {
                if let Ok((peer, epoch)) = decode_binding(value) {
                    let neighbour = self.neighbours.entry(tunnel).or_default();
                    (neighbour.peer, neighbour.epoch) = (Some(peer), epoch);
                    self.accounts.entry(peer).or_default().neighbour = Some(tunnel);
                }
            }
            Some(RecordKey::Unbound(tunnel)) => {
                let _ = restore_account(&mut self.neighbours.entry(tunnel).or_default().unbound, value);
            }
            None => {}
        }
    }

    fn start(&mut self, now: Now) {
        let peers: Vec<_> = self.accounts.keys().copied().collect();
        for peer in peers {
            if let Some(account) = self.accounts.get_mut(&peer) {
                account.forget_settled(now.unix_ms);
                account.followed = true;
                account.allow_for_lost_period();
            }
            self.plan_settlement(now, &peer);
            self.plan_iou(now, &peer);
        }
        let unbound = self.neighbours.iter().filter(|(_, neighbour)| neighbour.peer.is_none());
        let unbound: Vec<_> = unbound.map(|(tunnel, _)| *tunnel).collect();
        for tunnel in unbound {
            self.show_key_soon(now, &tunnel);
        }
        let end = self.boundary_ms(self.epoch(now).saturating_add(1));
        self.timers.set(Timer::Epoch, at(now, end));
    }

    /// The next output; drain until `None` after each verb.
    pub fn poll(&mut self) -> Option<PayoutsOutput> {
        self.out.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop(now.mono) {
            match timer {
                Timer::Epoch => self.end_epoch(now),
                Timer::Write => self.write_again(),
                Timer::Record => self.write_dirty(Vec::new()),
                Timer::Iou(peer) => self.iou_due(now, &peer),
                Timer::Settle(peer) => self.settle(now, &peer),
                Timer::Watch(neighbour) => self.weigh(now, &neighbour),
                Timer::Bind(neighbour) => self.show_key(now, &neighbour),
            }
        }
    }

    /// A write is durable: what waited for it leaves.
    pub fn persisted(&mut self, _now: Now, ticket: u64) {
        if let Some(write) = self.writes.remove(&ticket) {
            self.out.extend(write.then);
        }
    }

    /// A write failed. What waits for it goes on waiting, and it is tried again.
    pub fn persist_failed(&mut self, now: Now, ticket: u64) {
        if let Some(write) = self.writes.remove(&ticket) {
            for tunnel in &write.neighbours {
                if let Some(neighbour) = self.neighbours.get_mut(tunnel) {
                    neighbour.recorded = None;
                }
            }
            self.failed.push(write);
            self.timers.set(Timer::Write, now.mono + WRITE_RETRY);
        }
    }

    /// What was refused, by reason.
    pub const fn refusals(&self) -> &BTreeMap<&'static str, u64> {
        &self.refusals
    }

    /// The neighbours whose payment key is known: tunnel key and TrustChain key.
    pub fn bindings(&self) -> Vec<(PublicKey, PublicKey)> {
        self.neighbours.iter().filter_map(|(tunnel, neighbour)| Some((*tunnel, neighbour.peer?))).collect()
    }

    /// All tunnel accounts, those without a payment key last.
    pub fn views(&self, now: Now) -> Vec<PayoutView> {
        let bound = self.accounts.iter().map(|(peer, account)| self.view(now, Some(*peer), account));
        let unbound = self.neighbours.iter().filter(|(_, neighbour)| neighbour.peer.is_none());
        let unbound = unbound.map(|(tunnel, neighbour)| PayoutView {
            neighbour: Some(*tunnel),
            allowance: neighbour.allowance,
            ..self.view(now, None, &neighbour.unbound)
        });
        bound.chain(unbound).collect()
    }

    fn view(&self, now: Now, peer: Option<PublicKey>, account: &Account) -> PayoutView {
        let neighbour = account.neighbour.and_then(|tunnel| self.neighbours.get(&tunnel));
        let total = |classes: &[u64]| classes.iter().fold(0u64, |sum, class| sum.saturating_add(*class));
        let net = account.net().clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        PayoutView {
            neighbour: account.neighbour,
            peer,
            measured_out: account.cap.saturating_add(total(&account.extra)),
            measured_in: account.claim.saturating_add(total(&account.held[1..])),
            iou_out: total(&account.iou),
            iou_in: total(&account.held),
            paid_out: account.paid_out,
            paid_in: account.paid_in,
            net: i64::try_from(net).expect("clamped"),
            limit: account.limit(&self.config, self.epoch(now)),
            unpaid: account.uncovered(),
            since_epoch: account.since.unwrap_or_default(),
            next_payment_ms: peer.and_then(|peer| self.settle_at.get(&peer).copied()),
            allowance: neighbour.map_or_else(LinkAllowance::default, |neighbour| neighbour.allowance),
        }
    }

    /// The epoch of a moment.
    //= spec/payouts.md#34-epochs-and-settlement
    pub(super) fn epoch(&self, now: Now) -> u32 {
        u32::try_from(now.unix_ms / self.epoch_ms()).unwrap_or(u32::MAX)
    }

    pub(super) fn epoch_ms(&self) -> u64 {
        self.config.epoch_s.max(1).saturating_mul(1000)
    }

    /// When an epoch begins.
    pub(super) fn boundary_ms(&self, epoch: u32) -> u64 {
        self.epoch_ms().saturating_mul(u64::from(epoch))
    }

    /// When payments of the epoch that ended at a boundary are made: later by a part of an epoch that only this node
    /// can foresee.
    //= spec/payouts.md#34-epochs-and-settlement
    pub(super) fn settle_time_ms(&self, epoch: u32, peer: &PublicKey) -> u64 {
        let message = [b"jitter", epoch.to_be_bytes().as_slice(), peer.as_bytes()].concat();
        let [a, b, c, d, e, f, g, h, ..] = hmac_sha256(&self.jitter_secret, &message);
        let random = u128::from(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        let span = u128::from(self.epoch_ms()) * u128::from(self.config.jitter_per_mille.min(1000)) / 1000;
        let late = u64::try_from((span * random) >> 64).expect("less than an epoch");
        self.boundary_ms(epoch.saturating_add(1)).saturating_add(late)
    }

    /// The neighbour, new or known; `None` if there are too many with which something was ever carried.
    pub(super) fn neighbour(&mut self, tunnel: &PublicKey) -> Option<&mut Neighbour> {
        if !self.neighbours.contains_key(tunnel) && self.neighbours.len() >= NEIGHBOURS_MAX {
            self.forget_blank_neighbours();
            if self.neighbours.len() >= NEIGHBOURS_MAX {
                self.refuse("too many neighbours");
                return None;
            }
        }
        Some(self.neighbours.entry(*tunnel).or_default())
    }

    /// Whoever only talked is forgotten: anybody can invent keys.
    fn forget_blank_neighbours(&mut self) {
        self.accounts.retain(|_, account| !account.is_blank());
        let Self { neighbours, accounts, dirty_neighbours, .. } = self;
        neighbours.retain(|tunnel, neighbour| {
            let keep = match neighbour.peer {
                Some(peer) => accounts.contains_key(&peer),
                None => neighbour.unbound.since.is_some(),
            };
            if !keep {
                dirty_neighbours.insert(*tunnel);
            }
            keep
        });
    }

    /// The account of a neighbour: with its payment key, or its own while it has none.
    pub(super) fn account_of(&mut self, tunnel: &PublicKey) -> Option<&mut Account> {
        let neighbour = self.neighbours.get_mut(tunnel)?;
        match neighbour.peer {
            Some(peer) => {
                let account = self.accounts.entry(peer).or_default();
                account.neighbour.get_or_insert(*tunnel);
                Some(account)
            }
            None => Some(&mut neighbour.unbound),
        }
    }

    pub(super) fn peer_of(&self, tunnel: &PublicKey) -> Option<PublicKey> {
        self.neighbours.get(tunnel)?.peer
    }

    pub(super) fn output(&mut self, output: PayoutsOutput) {
        self.out.push_back(output);
    }

    pub(super) fn event(&mut self, event: PayoutsEvent) {
        self.output(PayoutsOutput::Event(event));
    }

    pub(super) fn refuse(&mut self, reason: &'static str) {
        *self.refusals.entry(reason).or_default() += 1;
        self.event(PayoutsEvent::Refused(reason));
    }

    pub(super) fn send(&mut self, neighbour: PublicKey, message: &SettleMessage) {
        self.output(link_send(neighbour, message));
    }

    /// Sends a message as soon as everything that changed is written.
    pub(super) fn send_durably(&mut self, neighbour: PublicKey, message: &SettleMessage) {
        self.write_dirty(vec![link_send(neighbour, message)]);
    }

    /// Arranges that what was metered is written as soon as all reports of this moment are in.
    pub(super) fn record_soon(&mut self, now: Now) {
        if !self.dirty.is_empty() || !self.dirty_neighbours.is_empty() {
            self.timers.set_if_none(Timer::Record, now.mono);
        }
    }

    fn write_dirty(&mut self, then: Vec<PayoutsOutput>) {
        let accounts = std::mem::take(&mut self.dirty);
        let neighbours = std::mem::take(&mut self.dirty_neighbours);
        self.write(Write { accounts, neighbours, then });
    }

    fn write(&mut self, write: Write) {
        let accounts = write.accounts.iter().filter_map(|peer| {
            let account = self.accounts.get(peer).filter(|account| !account.is_blank())?;
            Some(RecordKey::Account(*peer).record(Some(encode_account(account))))
        });
        let neighbours = write.neighbours.iter().flat_map(|tunnel| self.neighbour_records(tunnel));
        let records: Vec<_> = accounts.chain(neighbours).collect();
        for tunnel in &write.neighbours {
            if let Some(neighbour) = self.neighbours.get_mut(tunnel) {
                let carries =
                    |peer: &PublicKey| self.accounts.get(peer).is_some_and(|it: &Account| !it.is_blank());
                neighbour.recorded = neighbour.peer.filter(carries);
            }
        }
        if records.is_empty() {
            // What it depends on may still be on its way to the disk.
            let earlier = self.writes.values_mut().next_back().or_else(|| self.failed.last_mut());
            return match earlier {
                Some(earlier) => earlier.then.extend(write.then),
                None => self.out.extend(write.then),
            };
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.writes.insert(ticket, write);
        self.output(PayoutsOutput::Persist { ticket, records });
    }

    /// What is on record about a neighbour: its payment key as soon as something was carried, or its account while it
    /// has none. Whoever only talks leaves nothing on the disk.
    fn neighbour_records(&self, tunnel: &PublicKey) -> Vec<Record> {
        let neighbour = self.neighbours.get(tunnel);
        let Some((neighbour, peer)) = neighbour.and_then(|it| Some((it, it.peer?))) else {
            let unbound = neighbour.filter(|it| it.unbound.since.is_some());
            return vec![RecordKey::Unbound(*tunnel).record(unbound.map(|it| encode_account(&it.unbound)))];
        };
        let blank = self.accounts.get(&peer).is_none_or(Account::is_blank);
        if blank || neighbour.recorded == Some(peer) {
            return Vec::new();
        }
        let binding = encode_binding(&peer, neighbour.epoch);
        vec![RecordKey::Binding(*tunnel).record(Some(binding)), RecordKey::Unbound(*tunnel).record(None)]
    }

    fn write_again(&mut self) {
        for write in std::mem::take(&mut self.failed) {
            self.write(write);
        }
    }
}

fn link_send(neighbour: PublicKey, message: &SettleMessage) -> PayoutsOutput {
    PayoutsOutput::LinkSend { neighbour, id: message.id(), body: message.write() }
}

/// The monotonic moment of a wall clock time; now if it has passed.
pub(super) fn at(now: Now, unix_ms: u64) -> Instant {
    now.mono + Duration::from_millis(unix_ms.saturating_sub(now.unix_ms))
}
