//! Epochs: who pays whom, when, and what is signed.
//= spec/payouts.md#34-epochs-and-settlement

use super::account::{Account, Payment, Stage};
use super::config::{MIB, POWER_MAX};
use super::engine::{Payouts, Timer, at};
use super::iou::sum;
use super::message::{SettleCode, SettleMessage};
use super::output::{PayoutJudgement, PayoutsEvent, PayoutsOutput};
use fairshare_crypto::PublicKey;
use fairshare_ledger::bandwidth::Bandwidth;
use fairshare_ledger::{BlockType, HalfBlock};
use fairshare_wire::Now;
use std::sync::Arc;

/// Whether a half block is one of the tunnel account, as far as its form tells.
//= spec/blocks.md#3-rules-per-type
fn payment_of(block: &HalfBlock) -> Option<u64> {
    if block.kind != BlockType::BANDWIDTH || !block.is_proposal() {
        return None;
    }
    let paid = Bandwidth::of(block).ok()?;
    let tunnel = paid.settlement.is_none() && paid.fault.is_none();
    (tunnel && paid.up == 0 && paid.down > 0).then_some(paid.down)
}

impl Payouts {
    /// Whether a proposal is judged by this engine and not by the direct account.
    pub fn concerns(proposal: &HalfBlock) -> bool {
        payment_of(proposal).is_some()
    }

    pub(super) fn end_epoch(&mut self, now: Now) {
        let epoch = self.epoch(now);
        let ended = epoch.saturating_sub(1);
        self.reckon(now, ended);
        let peers: Vec<_> = self.accounts.keys().copied().collect();
        self.dummy = self.choose_dummy(ended, &peers);
        for peer in &peers {
            if let Some(account) = self.accounts.get_mut(peer)
                && matches!(account.stage, Stage::Asked(_))
            {
                account.stage = Stage::Idle;
            }
            self.plan_settlement(now, peer);
        }
        self.timers.set(Timer::Epoch, at(now, self.boundary_ms(epoch.saturating_add(1))));
    }

    /// One neighbour that was never paid and is owed nothing: a payment to it hides which relations carry traffic.
    fn choose_dummy(&mut self, ended: u32, peers: &[PublicKey]) -> Option<(u32, PublicKey)> {
        if !self.config.dummy_payments {
            return None;
        }
        let new = |account: &Account| {
            let ripe = account.since.is_some_and(|since| ended > since);
            ripe && account.neighbour.is_some() && account.paid_out == 0 && account.net() <= 0
        };
        let new: Vec<_> = peers.iter().filter(|peer| self.accounts.get(peer).is_some_and(new)).collect();
        let chosen = new.get(self.rng.index(new.len())?)?;
        Some((ended, **chosen))
    }

    /// Sets the moment at which the payment of the epoch that ended last is looked at.
    pub(super) fn plan_settlement(&mut self, now: Now, peer: &PublicKey) {
        let Some(ended) = self.epoch(now).checked_sub(1) else { return };
        let mut due = self.settle_time_ms(ended, peer);
        let past =
            self.accounts.get(peer).is_some_and(|account| account.since.is_some_and(|since| since < ended));
        if due < now.unix_ms && !past {
            due = self.settle_time_ms(ended.saturating_add(1), peer);
        }
        self.settle_at.insert(*peer, due);
        self.timers.set(Timer::Settle(*peer), at(now, due));
    }

    fn is_dummy(&self, epoch: u32, peer: &PublicKey) -> bool {
        self.dummy == Some((epoch, *peer))
    }

    /// Pays what is due, or goes on with a payment under way.
    pub(super) fn settle(&mut self, now: Now, peer: &PublicKey) {
        let Some(ended) = self.epoch(now).checked_sub(1) else { return };
        let dummy = self.is_dummy(ended, peer);
        let retry = now.after(self.config.retry);
        let Some(account) = self.accounts.get_mut(peer) else { return };
        let Some(neighbour) = account.neighbour else { return };
        if account.forker {
            return;
        }
        if !account.unanswered.is_empty() || matches!(account.stage, Stage::Signing(_)) {
            self.pay_again(neighbour, peer);
            return self.look_again(retry, peer);
        }
        let Some(payment) = account.due(&self.config, ended, dummy) else {
            account.stage = Stage::Idle;
            let next = self.settle_time_ms(ended.saturating_add(1), peer);
            self.settle_at.insert(*peer, next);
            return;
        };
        account.stage = Stage::Asked(payment);
        account.followed = false;
        self.send_iou(now, peer);
        let Some(account) = self.accounts.get(peer) else { return };
        let Payment { epoch, index, k } = payment;
        let (debt, credit) = (account.debt(), account.credit());
        let message = SettleMessage::Propose { epoch, index, debt, credit, k, blocks: Vec::new() };
        self.send_durably(neighbour, &message);
        self.look_again(retry, peer);
    }

    fn look_again(&mut self, retry: Now, peer: &PublicKey) {
        self.settle_at.insert(*peer, retry.unix_ms);
        self.timers.set(Timer::Settle(*peer), retry.mono);
    }

    /// Brings payments without an answer again, unchanged.
    fn pay_again(&mut self, neighbour: PublicKey, peer: &PublicKey) {
        let Some(account) = self.accounts.get(peer) else { return };
        let blocks: Vec<_> = account.unanswered.clone();
        for block in blocks {
            self.show_payment(neighbour, peer, &block);
        }
    }

    fn show_payment(&mut self, neighbour: PublicKey, peer: &PublicKey, block: &HalfBlock) {
        let epoch = self.epoch_paid(block.timestamp_ms);
        let (Some(account), Some(down)) = (self.accounts.get(peer), payment_of(block)) else { return };
        let k = super::account::power(i128::from(down)).unwrap_or(0);
        let of_epoch = account.own.get(&epoch).map_or(&[][..], Vec::as_slice);
        let index = of_epoch.iter().position(|own| *own == k).unwrap_or(0);
        let message = SettleMessage::Propose {
            epoch,
            index: u8::try_from(index).unwrap_or(u8::MAX),
            debt: account.debt(),
            credit: account.credit(),
            k,
            blocks: vec![block.clone()],
        };
        self.send(neighbour, &message);
    }

    /// The epoch that a payment with this timestamp is for.
    fn epoch_paid(&self, timestamp_ms: u64) -> u32 {
        let epoch = (timestamp_ms / self.epoch_ms()).saturating_sub(1);
        u32::try_from(epoch).unwrap_or(u32::MAX)
    }

    /// A neighbour wants to pay, or pays.
    pub(super) fn take_proposal(
        &mut self,
        now: Now,
        (neighbour, peer): (&PublicKey, &PublicKey),
        (epoch, index, k): (u32, u8, u8),
        debt: u64,
        blocks: Vec<HalfBlock>,
    ) {
        if let Some(block) = blocks.into_iter().next() {
            if block.owner != *peer || block.link_owner != self.key.public() || payment_of(&block).is_none() {
                return self.refuse("payment between others");
            }
            return self.output(PayoutsOutput::Block { from: *peer, block: Box::new(block) });
        }
        let payment = Payment { epoch, index, k };
        let current = self.epoch(now);
        let Some(account) = self.accounts.get_mut(peer) else { return };
        let held = sum(&account.held).unwrap_or(u64::MAX);
        let timely = epoch < current && current - epoch <= 2;
        let code = match () {
            () if account.forker => SettleCode::Chain,
            () if epoch == current => SettleCode::Busy,
            () if k > POWER_MAX || !timely => SettleCode::Amount,
            () if account.agreed == Some(payment) => SettleCode::Accepted,
            () if debt > held || !account.expects(payment) => SettleCode::Amount,
            () => SettleCode::Accepted,
        };
        if code == SettleCode::Accepted && account.agreed != Some(payment) {
            account.agreed = Some(payment);
            self.dirty.insert(*peer);
        }
        self.send_durably(*neighbour, &SettleMessage::Accept { epoch, index, code, blocks: Vec::new() });
        if code == SettleCode::Amount {
            // What it knows of us may be old: what we owe it, and what we measured.
            self.send_iou(now, peer);
            self.acknowledge(now, neighbour, peer);
        }
    }

    /// The creditor answers.
    pub(super) fn take_answer(
        &mut self,
        now: Now,
        peer: &PublicKey,
        (epoch, index): (u32, u8),
        code: SettleCode,
        blocks: Vec<HalfBlock>,
    ) {
        if let Some(block) = blocks.into_iter().next() {
            if block.owner != *peer || block.link_owner != self.key.public() || block.is_proposal() {
                return self.refuse("payment between others");
            }
            return self.output(PayoutsOutput::Block { from: *peer, block: Box::new(block) });
        }
        let timestamp_ms = self.boundary_ms(epoch.saturating_add(1));
        let ended = self.epoch(now).checked_sub(1);
        let Some(account) = self.accounts.get_mut(peer) else { return };
        let Stage::Asked(payment) = account.stage else { return };
        if (payment.epoch, payment.index) != (epoch, index) {
            return;
        }
        if code != SettleCode::Accepted {
            let reason = format!("the creditor answered {code:?}");
            account.stage = Stage::Idle;
            return self.event(PayoutsEvent::NotPaid { peer: *peer, reason });
        }
        // What was asked may be out of date: paid since, or of an epoch whose time is over.
        let paid = account.own.get(&epoch).map_or(0, Vec::len);
        if ended != Some(epoch) || paid != usize::from(index) || !account.unanswered.is_empty() {
            account.stage = Stage::Idle;
            return;
        }
        account.stage = Stage::Signing(payment);
        let records = Vec::new();
        self.output(PayoutsOutput::Propose { to: *peer, down: payment.amount(), timestamp_ms, records });
    }

    /// The payment that was asked for is signed and being stored: it counts.
    pub fn proposed(&mut self, _now: Now, block: &Arc<HalfBlock>) {
        let peer = block.link_owner;
        if let Some(account) = self.accounts.get_mut(&peer) {
            account.stage = Stage::Idle;
        }
        self.fold(block, None);
        let epoch = self.epoch_paid(block.timestamp_ms);
        let amount = payment_of(block).unwrap_or_default();
        self.event(PayoutsEvent::Paying { peer, amount, epoch });
    }

    /// The payment that was asked for could not be signed; it is tried again.
    pub fn propose_failed(&mut self, _now: Now, to: &PublicKey, reason: &str) {
        if let Some(account) = self.accounts.get_mut(to) {
            account.stage = Stage::Idle;
            self.event(PayoutsEvent::NotPaid { peer: *to, reason: reason.to_owned() });
        }
    }

    /// An own half block of the tunnel account is on disk, or is to be shown again: it goes over the link.
    pub fn signed(&mut self, _now: Now, block: &HalfBlock) {
        let peer = block.link_owner;
        let Some(neighbour) = self.accounts.get(&peer).and_then(|account| account.neighbour) else { return };
        if payment_of(block).is_some() {
            return self.show_payment(neighbour, &peer, block);
        }
        let agreement = block.kind == BlockType::BANDWIDTH && !block.is_proposal();
        let paid = if agreement { Bandwidth::of(block).ok() } else { None };
        if paid.is_some_and(|paid| paid.settlement.is_none() && paid.fault.is_none()) {
            let epoch = self.epoch_paid(block.timestamp_ms);
            let blocks = vec![block.clone()];
            self.send(
                neighbour,
                &SettleMessage::Accept { epoch, index: 0, code: SettleCode::Accepted, blocks },
            );
        }
    }

    /// Judges a payment to us. Only one that was agreed to, or is owed, is signed.
    pub fn judge(&mut self, now: Now, proposal: &HalfBlock) -> PayoutJudgement {
        match self.try_judge(now, proposal) {
            Ok(payment) => {
                if let Some(account) = self.accounts.get_mut(&proposal.owner) {
                    account.judged(payment.epoch, proposal.hash(), payment.k);
                }
                PayoutJudgement::Sign { records: Vec::new() }
            }
            Err(reason) => {
                self.refuse(reason);
                PayoutJudgement::Decline(reason)
            }
        }
    }

    fn try_judge(&self, now: Now, proposal: &HalfBlock) -> Result<Payment, &'static str> {
        let down = payment_of(proposal).ok_or("not a payment of the tunnel account")?;
        if proposal.link_owner != self.key.public() {
            return Err("not a payment to this node");
        }
        let account = self.accounts.get(&proposal.owner).ok_or("payment of a stranger")?;
        if account.forker {
            return Err("the payer has forked its chain");
        }
        let k = super::account::power(i128::from(down)).filter(|k| MIB << k == down);
        let k = k.ok_or("payment that is no power of two in MiB")?;
        let on_boundary = proposal.timestamp_ms.is_multiple_of(self.epoch_ms());
        if !on_boundary || proposal.timestamp_ms > now.unix_ms || proposal.timestamp_ms == 0 {
            return Err("payment whose time is no end of an epoch");
        }
        let epoch = self.epoch_paid(proposal.timestamp_ms);
        let before = account.received.get(&epoch).map_or(&[][..], Vec::as_slice);
        let hash = proposal.hash();
        let place = before.iter().position(|(other, _)| *other == hash).unwrap_or(before.len());
        let index = u8::try_from(place).map_err(|_| "too many payments in an epoch")?;
        let payment = Payment { epoch, index, k };
        let known = place < before.len();
        if known || account.expects(payment) { Ok(payment) } else { Err("payment that is not owed") }
    }

    /// Both halves of a pair are stored, one of them ours.
    pub fn paired(&mut self, now: Now, proposal: &Arc<HalfBlock>, agreement: &Arc<HalfBlock>) {
        let Some(event) = self.fold(proposal, Some(agreement)) else { return };
        let PayoutsEvent::Paid { peer, .. } = event else {
            self.event(event);
            if let Some(tunnel) = self.accounts.get(&proposal.owner).and_then(|account| account.neighbour) {
                self.pass_on(now, &proposal.owner);
                self.weigh(now, &tunnel);
            }
            return;
        };
        self.event(event);
        // A second block may be due.
        let soon = now.after(self.config.retry / 16);
        self.look_again(soon, &peer);
    }

    /// Counts a payment of the own chain, once: ours from our half on, one to us from both halves on.
    pub(super) fn fold(
        &mut self,
        proposal: &Arc<HalfBlock>,
        agreement: Option<&HalfBlock>,
    ) -> Option<PayoutsEvent> {
        let amount = payment_of(proposal)?;
        let epoch = self.epoch_paid(proposal.timestamp_ms);
        let me = self.key.public();
        if proposal.owner == me {
            let peer = proposal.link_owner;
            let account = self.accounts.entry(peer).or_default();
            let new = account.count_own(proposal.sequence, epoch, amount);
            if agreement.is_none() {
                if new {
                    account.unanswered.push(Arc::clone(proposal));
                }
                return None;
            }
            let waited = account.unanswered.len();
            account.unanswered.retain(|waiting| waiting.sequence != proposal.sequence);
            let answered = new || account.unanswered.len() < waited;
            return answered.then_some(PayoutsEvent::Paid { peer, amount });
        }
        let agreement = agreement.filter(|agreement| agreement.owner == me && proposal.link_owner == me)?;
        let peer = proposal.owner;
        let account = self.accounts.entry(peer).or_default();
        let block = (proposal.hash(), amount);
        account
            .count_received(agreement.sequence, epoch, block, proposal.timestamp_ms)
            .then_some(PayoutsEvent::Received { peer, amount })
    }
}
