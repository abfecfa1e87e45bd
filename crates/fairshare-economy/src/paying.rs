//! The taker's side: what is owed and when it is settled; and what a complete pair does to the accounts.

use crate::account::{AccountOverflow, add};
use crate::engine::{Economy, Peer};
use crate::output::{EconomyEvent, EconomyOutput, SessionId};
use crate::record::RecordKey;
use crate::schedule::Grant;
use crate::taker::{Due, UNPAID_AGE_MAX, Unconfirmed};
use crate::timer::Timer;
use crate::verdict::{Refusal, RefusalReason};
use crate::window::{FLUSH_MIN, SETTLEMENT_MIN, quantum};
use fairshare_crypto::PublicKey;
use fairshare_ledger::bandwidth::{Bandwidth, Settlement};
use fairshare_ledger::{BlockType, HalfBlock};
use fairshare_wire::Now;
use std::time::Duration;

/// How often a settlement that is large enough but waits for the rate to fall is looked at again.
const RATE_CHECK: Duration = Duration::from_secs(2);
/// How long a settlement that could not be signed waits.
const PROPOSE_RETRY: Duration = Duration::from_secs(5);
/// Verified bytes since the last record that are recorded at once: this many, or the bytes of a sixteenth of a
/// second, so that a fast transfer does not write all the time.
const RECORD_STEP: u64 = 1 << 20;
const RECORD_SHARE: u64 = 16;

impl Economy {
    /// `total` bytes that came over a session since it began are verified.
    pub fn verified(&mut self, now: Now, id: SessionId, total: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let bytes = total.saturating_sub(session.taken);
        if bytes == 0 {
            return;
        }
        session.taken = total;
        let key = session.key;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.take.verified(now.mono, bytes);
        let step = RECORD_STEP.max(peer.take.rate.sum(now.mono, 2) / 2 / RECORD_SHARE);
        let urgent = peer.take.recv.saturating_sub(peer.take.recorded) >= step;
        self.unrecorded.insert(key);
        if !self.settle_if_due(now, &key) {
            if urgent {
                self.record_taken();
            } else {
                self.plan_recording(now);
            }
        }
    }

    /// The provider announced a grant.
    pub fn grant_received(&mut self, now: Now, id: SessionId, grant: Grant) {
        let Some(session) = self.sessions.get(&id) else { return };
        let key = session.key;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.take.grant(grant) {
            self.unrecorded.insert(key);
            self.plan_recording(now);
        }
    }

    /// The provider released the rest of a grant.
    pub fn grant_freed(&mut self, now: Now, id: SessionId, number: u32, used: u64) {
        let Some(session) = self.sessions.get(&id) else { return };
        let key = session.key;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.take.freed(number, used);
        self.unrecorded.insert(key);
        self.plan_recording(now);
    }

    /// The provider refused us; if it wants to be paid first, it is.
    pub fn refused_by(&mut self, now: Now, id: SessionId, refusal: Refusal) {
        let Some(session) = self.sessions.get(&id) else { return };
        if refusal.reason == RefusalReason::Unpaid {
            let key = session.key;
            self.flush(now, &key);
        }
    }

    /// Settles all that is owed, down to the smallest settlement: a download is complete or paused, or the node
    /// stops.
    pub fn settle_all(&mut self, now: Now) {
        let keys: Vec<PublicKey> = self.peers.keys().copied().collect();
        for key in keys {
            self.flush(now, &key);
        }
        self.record_taken();
    }

    /// The settlement that was asked for is signed and being stored. It counts since it was asked for.
    pub fn proposed(&mut self, _now: Now, block: &HalfBlock) {
        let (peer, sequence) = (block.link_owner, block.sequence);
        let Some(take) = self.peers.get_mut(&peer).map(|peer| &mut peer.take) else { return };
        take.signed();
        let Some(Unconfirmed { before, cum }) = take.unconfirmed else { return };
        self.event(EconomyEvent::Settling { peer, sequence, down: cum - before, cum });
    }

    /// The settlement with `to` that was asked for could not be signed; it is tried again.
    pub fn propose_failed(&mut self, now: Now, to: &PublicKey, reason: &str) {
        if let Some(peer) = self.peers.get_mut(to) {
            peer.take.unsettle(now.mono);
            self.timers.set(Timer::Settle(*to), now.mono + PROPOSE_RETRY);
            self.event(EconomyEvent::NotSettled { peer: *to, reason: reason.to_owned() });
            // The record that should have been written with it was not.
            self.unrecorded.insert(*to);
            self.plan_recording(now);
        }
    }

    /// Both halves of a pair are stored, one of them ours.
    pub fn paired(&mut self, now: Now, proposal: &HalfBlock, agreement: &HalfBlock) {
        let Some(event) = self.fold(proposal, Some(agreement)) else { return };
        let key = if proposal.owner == self.me { proposal.link_owner } else { proposal.owner };
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.refresh_hold();
        }
        self.event(event);
        if proposal.owner == self.me {
            self.rejudge_unserved(&key);
            self.settle_if_due(now, &key);
        } else {
            self.check_window(now, &key);
            if self.peers.get(&key).is_some_and(|peer| peer.sessions.is_empty()) {
                // It may have undone a loss.
                self.journal(now, &key);
            }
        }
        self.supply(now, &key);
    }

    /// What we took just raised the peer's claim: sessions that were refused may be served now.
    fn rejudge_unserved(&mut self, key: &PublicKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        peer.exhausted = false;
        for session in peer.sessions.clone() {
            if self.sessions.get(&session).is_some_and(|session| !session.served) {
                self.output(EconomyOutput::Rejudge { session });
            }
        }
    }

    /// Settles down to the smallest settlement as soon as possible.
    pub(crate) fn flush(&mut self, now: Now, key: &PublicKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        peer.take.flush = peer.take.owed() >= FLUSH_MIN || peer.take.unconfirmed.is_some();
        self.settle_if_due(now, key);
    }

    /// Asks for the settlement of all that is owed to a peer, if it is due; whether it was.
    pub(crate) fn settle_if_due(&mut self, now: Now, key: &PublicKey) -> bool {
        let Some(peer) = self.peers.get_mut(key) else { return false };
        let due = if peer.take.is_due(now.mono) { peer.take.settle() } else { None };
        let Some(Due { down, cum, charge }) = due else {
            self.plan_settlement(now, key);
            return false;
        };
        if peer.take.ctx == [0; 4] {
            // No session since the start: what is owed is from before.
            peer.take.ctx = self.rng.bytes();
        }
        let settlement = Settlement { cum, ctx: peer.take.context(), charge, via: Vec::new() };
        let records = vec![RecordKey::Taken(*key).record(peer.take.record().encode())];
        self.unrecorded.remove(key);
        self.timers.cancel(Timer::Settle(*key));
        self.output(EconomyOutput::Propose { to: *key, down, settlement, records });
        true
    }

    fn plan_settlement(&mut self, now: Now, key: &PublicKey) {
        let Some(peer) = self.peers.get(key) else { return };
        let take = &peer.take;
        if take.unconfirmed.is_some() || take.owed() < SETTLEMENT_MIN {
            return;
        }
        if take.owed() >= quantum(0, take.settled) {
            self.timers.set_if_none(Timer::Settle(*key), now.mono + RATE_CHECK);
        } else if let Some(since) = take.unpaid_since {
            self.timers.set_if_none(Timer::Settle(*key), since + UNPAID_AGE_MAX);
        }
    }

    /// Applies a pair of our chain, or our own lone proposal, to the accounts. A payment counts against its payer
    /// at once and for the provider when both halves exist.
    //= spec/blocks.md#3-rules-per-type
    pub(crate) fn fold(
        &mut self,
        proposal: &HalfBlock,
        agreement: Option<&HalfBlock>,
    ) -> Option<EconomyEvent> {
        let ours = proposal.owner == self.me;
        let key = if ours { proposal.link_owner } else { proposal.owner };
        if proposal.kind != BlockType::BANDWIDTH || !proposal.is_proposal() || key == self.me {
            return None;
        }
        if !ours && (proposal.link_owner != self.me || agreement.is_none()) {
            return None;
        }
        let ignored = Some(EconomyEvent::PairIgnored { peer: key });
        let Ok(bandwidth) = Bandwidth::decode(&proposal.transaction) else { return ignored };
        let peer = self.peers.entry(key).or_default();
        if let Some(block) = if ours { agreement } else { Some(proposal) } {
            peer.saw(block);
        }
        let Some(settlement) = &bandwidth.settlement else {
            let agreement = agreement?;
            let number = if ours { proposal.sequence } else { agreement.sequence };
            return match peer.settle_without_cum(ours, number, &bandwidth) {
                Ok(()) => None,
                Err(AccountOverflow) => ignored,
            };
        };
        let charge = settlement.charge.unwrap_or(bandwidth.down);
        let applied = match (ours, agreement) {
            (true, None) => {
                peer.promise(settlement.cum, bandwidth.down);
                return None;
            }
            (true, Some(_)) => peer.settle_taken(settlement, bandwidth.down, charge),
            (false, _) => peer.settle_given(settlement, bandwidth.down, charge),
        };
        match applied {
            Ok(false) => return None,
            Ok(true) => {}
            Err(AccountOverflow) => return ignored,
        }
        self.use_receipts(ours, settlement);
        let (down, cum) = (bandwidth.down, settlement.cum);
        Some(if ours {
            EconomyEvent::Paid { peer: key, down, charge, cum }
        } else {
            EconomyEvent::Received { peer: key, down, charge, cum }
        })
    }

    /// Receipts on third parties that paid a part: the payer spent them, the provider passed them.
    fn use_receipts(&mut self, ours: bool, settlement: &Settlement) {
        for (key, amount) in &settlement.via {
            let account = &mut self.peers.entry(*key).or_default().account;
            let field = if ours { &mut account.mine.spent } else { &mut account.theirs.passed };
            *field = field.saturating_add(*amount);
        }
    }
}

impl Peer {
    fn saw(&mut self, block: &HalfBlock) {
        if self.seen.is_none_or(|(number, _)| number < block.sequence) {
            self.seen = Some((block.sequence, block.hash()));
        }
    }

    /// We signed for `down` bytes, `cum` with them; the provider has not answered yet.
    fn promise(&mut self, cum: u64, down: u64) {
        if cum > self.take.paid {
            self.take.paid = cum;
            self.take.unconfirmed = Some(Unconfirmed { before: cum.saturating_sub(down), cum });
        }
    }

    /// A payment of ours is complete. `false`: it had been counted already.
    fn settle_taken(
        &mut self,
        settlement: &Settlement,
        down: u64,
        charge: u64,
    ) -> Result<bool, AccountOverflow> {
        if settlement.cum <= self.take.confirmed {
            return Ok(false);
        }
        self.account = self.account.settle_taken(down, charge, via_sum(settlement))?;
        self.promise(settlement.cum, down);
        self.take.confirm(settlement.cum);
        Ok(true)
    }

    /// We were paid. `false`: it had been counted already.
    fn settle_given(
        &mut self,
        settlement: &Settlement,
        down: u64,
        charge: u64,
    ) -> Result<bool, AccountOverflow> {
        if settlement.cum <= self.give.paid {
            return Ok(false);
        }
        self.account = self.account.settle_given(down, charge, via_sum(settlement))?;
        self.give.pay(settlement.cum, !self.sessions.is_empty());
        Ok(true)
    }

    /// A pair without `cum`: of the tunnel account, which makes a receipt; or with keys of a wrong form, which
    /// counts at full price. Once for each half block of ours.
    fn settle_without_cum(
        &mut self,
        ours: bool,
        number: u32,
        bandwidth: &Bandwidth,
    ) -> Result<(), AccountOverflow> {
        if self.uncounted_by_cum.contains(&number) {
            return Ok(());
        }
        let down = bandwidth.down;
        match (bandwidth.fault, ours) {
            (None, true) => add(&mut self.account.theirs.bought, down)?,
            (None, false) => add(&mut self.account.mine.bought, down)?,
            (Some(_), true) => self.account = self.account.settle_taken(down, down, 0)?,
            (Some(_), false) => self.account = self.account.settle_given(down, down, 0)?,
        }
        self.uncounted_by_cum.insert(number);
        Ok(())
    }
}

fn via_sum(settlement: &Settlement) -> u64 {
    settlement.via.iter().fold(0, |sum: u64, (_, amount)| sum.saturating_add(*amount))
}
