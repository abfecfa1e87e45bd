//! What neighbours say to each other: who is paid, IOUs and their acknowledgements.

use super::account::Account;
use super::config::{NEIGHBOURS_MAX, RATE_END, RATE_GUARD, RATE_HIDDEN};
use super::engine::{Payouts, Timer};
use super::iou::{Classes, Iou, IouFault, sum};
use super::message::{Bind, SettleMessage};
use super::output::PayoutsEvent;
use fairshare_crypto::PublicKey;
use fairshare_wire::Now;
use std::time::Duration;

/// Own keys are shown to one neighbour at most that often.
const BIND_PAUSE: Duration = Duration::from_secs(2);

impl Payouts {
    /// A message came over a settlement link. Its tunnel key need not be proved: what counts is signed.
    pub fn link_message(&mut self, now: Now, neighbour: &PublicKey, id: u8, body: &[u8]) {
        let Ok(message) = SettleMessage::read(id, body) else {
            return self.refuse("malformed settlement message");
        };
        let rate = self.config.message_rate;
        let Some(known) = self.neighbour(neighbour) else { return };
        if !known.may_speak(now.mono, rate) {
            return self.refuse("too many settlement messages of a neighbour");
        }
        if let SettleMessage::Bind(bind) = &message {
            return self.take_bind(now, neighbour, bind);
        }
        let Some(peer) = self.peer_of(neighbour) else {
            self.show_key_soon(now, neighbour);
            return self.refuse("settlement message before the payment key");
        };
        match message {
            SettleMessage::Iou(iou) => self.take_iou(now, neighbour, &peer, &iou),
            SettleMessage::IouAck { seen, measured, .. } => self.take_ack(now, &peer, seen, measured),
            SettleMessage::IouRequest { .. } => {
                if let Some(account) = self.accounts.get_mut(&peer) {
                    account.followed = false;
                }
                self.send_iou(now, &peer);
            }
            SettleMessage::Propose { epoch, index, debt, k, blocks, .. } => {
                self.take_proposal(now, (neighbour, &peer), (epoch, index, k), debt, blocks);
            }
            SettleMessage::Accept { epoch, index, code, blocks } => {
                self.take_answer(now, &peer, (epoch, index), code, blocks);
            }
            SettleMessage::Policy { limit, .. } => {
                if let Some(account) = self.accounts.get_mut(&peer) {
                    account.told_limit = Some(limit);
                }
            }
            SettleMessage::Bind(_) => {}
        }
    }

    /// Shows our payment key to a neighbour that has not shown its own, now and each time an IOU would be due.
    pub(super) fn show_key_soon(&mut self, now: Now, neighbour: &PublicKey) {
        self.timers.set_if_none(Timer::Bind(*neighbour), now.mono);
    }

    pub(super) fn show_key(&mut self, now: Now, tunnel: &PublicKey) {
        let epoch = self.epoch(now);
        let limit = self.config.base_limit;
        let Some(neighbour) = self.neighbours.get_mut(tunnel) else { return };
        let known = neighbour.peer.is_some();
        if neighbour.bound_at.is_none_or(|at| now.mono.since(at) >= BIND_PAUSE) {
            neighbour.bound_at = Some(now.mono);
            let bind = Bind::sign(&self.key, &self.tunnel, tunnel, epoch);
            self.send(*tunnel, &SettleMessage::Bind(bind));
            let rates = [RATE_GUARD, RATE_GUARD + RATE_HIDDEN, 0, RATE_END];
            let rates = rates.map(|rate| u8::try_from(rate).expect("below 256"));
            let limit = self.account_of(tunnel).map_or(limit, |account| account.limit_now(limit));
            let free = self.config.base_limit;
            self.send(*tunnel, &SettleMessage::Policy { free, rates, limit });
        }
        if !known && self.neighbours.get(tunnel).is_some_and(|neighbour| neighbour.unbound.since.is_some()) {
            self.timers.set(Timer::Bind(*tunnel), now.mono + self.config.iou_interval);
        }
    }

    /// A neighbour proves under which key it is paid.
    //= spec/payouts.md#31-parties-and-accounts
    fn take_bind(&mut self, now: Now, tunnel: &PublicKey, bind: &Bind) {
        let me = self.tunnel.public();
        if bind.key == self.key.public() || *tunnel == me || !bind.key.is_valid() {
            return self.refuse("binding to our own key");
        }
        if self.epoch(now).abs_diff(bind.epoch) > 1 {
            return self.refuse("binding of another epoch");
        }
        if !bind.verify(tunnel, &me) {
            return self.refuse("binding that is not signed by both keys");
        }
        if !self.accounts.contains_key(&bind.key) && self.accounts.len() >= NEIGHBOURS_MAX {
            self.accounts.retain(|_, account| !account.is_blank());
        }
        if !self.accounts.contains_key(&bind.key) && self.accounts.len() >= NEIGHBOURS_MAX {
            return self.refuse("too many neighbours");
        }
        let Some(neighbour) = self.neighbours.get_mut(tunnel) else { return };
        if neighbour.peer != Some(bind.key) {
            let unbound = std::mem::take(&mut neighbour.unbound);
            (neighbour.peer, neighbour.epoch) = (Some(bind.key), bind.epoch);
            let account = self.accounts.entry(bind.key).or_default();
            account.neighbour = Some(*tunnel);
            account.absorb(unbound);
            account.forker = self.forkers.contains(&bind.key);
            self.dirty.insert(bind.key);
            self.dirty_neighbours.insert(*tunnel);
            self.event(PayoutsEvent::Bound { neighbour: *tunnel, peer: bind.key });
            self.plan_settlement(now, &bind.key);
        }
        // It may not know ours: it has restarted, or our message was lost.
        self.show_key(now, tunnel);
        self.plan_iou(now, &bind.key);
        self.record_soon(now);
    }

    /// Arranges for the next IOU: soon if much is new, else after the interval, with a random delay.
    //= spec/payouts.md#33-iou
    pub(super) fn plan_iou(&mut self, now: Now, peer: &PublicKey) {
        let epoch = self.epoch(now);
        let Some(account) = self.accounts.get(peer) else { return };
        if account.neighbour.is_none() || account.since.is_none() {
            return;
        }
        let news = account.news();
        if news == 0 && (!self.config.dummy_ious || account.is_idle(epoch)) {
            return;
        }
        let jitter = self.jitter(self.config.iou_jitter);
        let interval = if news == 0 {
            // Idle: once per interval, half of it sooner or later.
            self.config.iou_interval / 2 + self.jitter(self.config.iou_interval)
        } else if news >= self.config.iou_amount {
            Duration::ZERO
        } else {
            self.config.iou_interval
        };
        let due = now.mono + interval + jitter;
        if news >= self.config.iou_amount {
            self.timers.set_earlier(Timer::Iou(*peer), due);
        } else {
            self.timers.set_if_none(Timer::Iou(*peer), due);
        }
    }

    fn jitter(&mut self, span: Duration) -> Duration {
        let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(if span == 0 { 0 } else { self.rng.below(span) })
    }

    pub(super) fn iou_due(&mut self, now: Now, peer: &PublicKey) {
        if let Some(account) = self.accounts.get_mut(peer) {
            account.followed = false;
        }
        self.send_iou(now, peer);
        self.plan_iou(now, peer);
    }

    /// Sends an IOU for all that is owed, or the last one again.
    pub(super) fn send_iou(&mut self, now: Now, peer: &PublicKey) {
        let epoch = self.epoch(now);
        let Some(account) = self.accounts.get_mut(peer) else { return };
        let Some(neighbour) = account.neighbour else { return };
        let classes = account.next_iou();
        let Some(iou) = Iou::sign(&self.key, *peer, epoch, account.paid_out, classes) else {
            return self.refuse("debt beyond 64 bits");
        };
        account.cap_told = account.cap;
        if account.iou != classes {
            account.iou = classes;
            self.dirty.insert(*peer);
        }
        self.send_durably(neighbour, &SettleMessage::Iou(iou));
    }

    //= spec/payouts.md#33-iou
    fn take_iou(&mut self, now: Now, neighbour: &PublicKey, peer: &PublicKey, iou: &Iou) {
        if iou.issuer != *peer || iou.holder != self.key.public() {
            return self.refuse("IOU between others");
        }
        if let Err(fault) = iou.check() {
            return self.refuse(match fault {
                IouFault::Sum => "IOU whose classes do not add up",
                IouFault::Signature => "IOU with a false signature",
            });
        }
        let interval = self.config.iou_interval;
        let Some(account) = self.accounts.get_mut(peer) else { return };
        let disagreed = account.disagrees();
        match account.hold(now.mono, interval, iou.classes) {
            None => self.refuse("IOU that is lower than an older one"),
            Some(false) => {}
            Some(true) => {
                self.dirty.insert(*peer);
                self.pass_on(now, peer);
            }
        }
        let Some(account) = self.accounts.get_mut(peer) else { return };
        if account.disagrees() && !disagreed {
            let (measured, [acknowledged, ..]) = (account.claim, account.held);
            self.event(PayoutsEvent::Disagreement { peer: *peer, measured, acknowledged });
        }
        self.acknowledge(now, neighbour, peer);
        self.weigh(now, neighbour);
    }

    /// Tells the issuer what is held and measured.
    pub(super) fn acknowledge(&mut self, now: Now, neighbour: &PublicKey, peer: &PublicKey) {
        let epoch = self.epoch(now);
        let Some(account) = self.accounts.get_mut(peer) else { return };
        if account.reported != account.claim {
            account.reported = account.claim;
            self.dirty.insert(*peer);
        }
        let seen = sum(&account.held).unwrap_or(u64::MAX);
        let ack = SettleMessage::IouAck { epoch, seen, measured: account.reported };
        self.send_durably(*neighbour, &ack);
    }

    /// The holder measured more than the IOU says: a second one follows at once, up to what we measured ourselves.
    //= spec/payouts.md#33-iou
    fn take_ack(&mut self, now: Now, peer: &PublicKey, seen: u64, measured: u64) {
        let Some(account) = self.accounts.get_mut(peer) else { return };
        if sum(&account.iou).is_none_or(|own| seen > own) {
            return self.refuse("acknowledgement of more than was promised");
        }
        account.acked = account.acked.max(seen);
        if account.told != measured {
            account.told = measured;
            self.dirty.insert(*peer);
        }
        let [covered, ..] = account.next_iou();
        account.behind = measured > covered;
        if account.next_iou() != account.iou && !account.followed {
            account.followed = true;
            self.send_iou(now, peer);
        }
    }

    /// The holder waits for more than we had measured, and now we have: it hears at once, before its patience ends.
    //= spec/payouts.md#33-iou
    pub(super) fn catch_up(&mut self, now: Now, peer: &PublicKey) {
        let Some(account) = self.accounts.get(peer) else { return };
        if account.behind && account.next_iou() != account.iou {
            self.iou_due(now, peer);
        }
    }
}

impl Account {
    /// What is owed beyond the newest IOU, as far as can be known here.
    fn news(&self) -> u64 {
        let [_, promised @ ..] = self.iou;
        let extra = self.extra.iter().zip(promised).map(|(now, then)| now.saturating_sub(then));
        let classes: Classes = self.next_iou();
        let told = classes[0].saturating_sub(self.iou[0]);
        let grown = self.cap.saturating_sub(self.cap_told).max(told);
        extra.fold(grown, u64::saturating_add)
    }

    /// The limit as it is told: without what changes by the day.
    fn limit_now(&self, base: u64) -> u64 {
        let settled = self.settled.iter().fold(0u64, |sum, (_, down)| sum.saturating_add(*down));
        base.saturating_add(settled / 4)
    }
}
