//! One direction of a pair, seen by who takes and pays.

use crate::rate::RateMeter;
use crate::record::TakenRecord;
use crate::schedule::{Entry, Grant, Schedule};
use crate::window::{FLUSH_MIN, SETTLEMENT_MIN, quantum};
use crate::{PRICE_FULL, PRICE_IDLE};
use fairshare_ledger::bandwidth::AMOUNT_MAX;
use fairshare_wire::Instant;
use std::time::Duration;

/// How long a byte may stay unpaid once a whole settlement is owed.
//= spec/economy.md#3-from-bytes-to-a-transaction
pub(crate) const UNPAID_AGE_MAX: Duration = Duration::from_secs(600);

/// An own proposal without agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unconfirmed {
    /// All that was paid before it.
    pub(crate) before: u64,
    /// All that is paid with it.
    pub(crate) cum: u64,
}

/// What a settlement has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) down: u64,
    pub(crate) cum: u64,
    pub(crate) charge: Option<u64>,
}

/// The taker's side of a direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taker {
    pub(crate) schedule: Schedule,
    /// Verified bytes, ever.
    pub(crate) recv: u64,
    /// All we signed to have taken, confirmed or not: a payment counts against us at once.
    pub(crate) paid: u64,
    /// What the provider signed too.
    pub(crate) confirmed: u64,
    /// How many settlements it signed.
    pub(crate) settled: u64,
    /// At most one settlement is under way, so that they arrive in order.
    pub(crate) unconfirmed: Option<Unconfirmed>,
    /// The newest grant that was known when it was asked for.
    signed_knowing: u32,
    /// Names the pair session.
    pub(crate) ctx: [u8; 4],
    /// Pay everything down to the smallest settlement as soon as possible.
    pub(crate) flush: bool,
    /// When the oldest unpaid byte came.
    pub(crate) unpaid_since: Option<Instant>,
    pub(crate) rate: RateMeter,
    /// `recv` in the newest record that was handed out.
    pub(crate) recorded: u64,
}

impl Taker {
    /// Takes up the record of a former run; what was signed was verified.
    pub(crate) fn restore(&mut self, now: Instant, record: TakenRecord) {
        self.recv = record.recv.max(self.paid);
        self.recorded = self.recv;
        self.schedule = record.schedule;
        self.schedule.advance(self.paid);
        self.unpaid_since = (self.owed() > 0).then_some(now);
    }

    /// The record to be written now.
    pub(crate) fn record(&mut self) -> TakenRecord {
        self.recorded = self.recv;
        TakenRecord { recv: self.recv, schedule: self.schedule.clone() }
    }

    /// Verified and not signed for.
    pub(crate) fn owed(&self) -> u64 {
        self.recv.saturating_sub(self.paid)
    }

    /// `bytes` more were verified.
    pub(crate) fn verified(&mut self, now: Instant, bytes: u64) {
        self.recv = self.recv.saturating_add(bytes);
        self.rate.add(now, bytes);
        self.unpaid_since.get_or_insert(now);
    }

    /// A grant was announced. One that is known already, or malformed, changes nothing; answers whether it is new.
    pub(crate) fn grant(&mut self, grant: Grant) -> bool {
        let newer = self.schedule.last().is_none_or(|last| last.grant.number < grant.number);
        let priced = (PRICE_IDLE..=PRICE_FULL).contains(&grant.price);
        if !newer || !priced || grant.room > AMOUNT_MAX || self.schedule.is_full() {
            return false;
        }
        self.schedule.push(Entry { grant, freed: false, pool: false });
        true
    }

    /// The rest of a grant was released.
    pub(crate) fn freed(&mut self, number: u32, used: u64) {
        self.schedule.shorten(number, used, self.recv);
    }

    /// Whether a settlement is due by amount or age.
    //= spec/economy.md#3-from-bytes-to-a-transaction
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let owed = self.owed();
        let old = self.unpaid_since.is_some_and(|since| now.since(since) >= UNPAID_AGE_MAX);
        owed >= quantum(self.rate.sum(now, 10), self.settled)
            || (old && owed >= SETTLEMENT_MIN)
            || (self.flush && owed >= FLUSH_MIN)
    }

    /// The settlement of everything that is owed, unless one is under way.
    pub(crate) fn settle(&mut self) -> Option<Due> {
        let down = self.owed().min(AMOUNT_MAX);
        if down == 0 || self.unconfirmed.is_some() {
            return None;
        }
        let (before, cum) = (self.paid, self.paid.checked_add(down)?);
        let knows_grants = self.schedule.last().is_some();
        let charge = knows_grants.then(|| self.schedule.charge(before, cum));
        self.signed_knowing = self.newest_grant();
        self.paid = cum;
        self.unconfirmed = Some(Unconfirmed { before, cum });
        self.unpaid_since = None;
        self.flush = false;
        Some(Due { down, cum, charge })
    }

    /// `ctx` of a settlement: the pair session, and the newest grant that is known here, so that the provider
    /// prices by the same grants.
    //= spec/blocks.md#3-rules-per-type
    pub(crate) fn context(&self) -> [u8; 8] {
        (u64::from(u32::from_be_bytes(self.ctx)) << 32 | u64::from(self.newest_grant())).to_be_bytes()
    }

    fn newest_grant(&self) -> u32 {
        self.schedule.last().map_or(0, |last| last.grant.number)
    }

    /// The settlement is signed: what it paid for is behind us. Not before, as it may turn out that it cannot be.
    pub(crate) fn signed(&mut self) {
        if let Some(unconfirmed) = self.unconfirmed {
            self.schedule.advance_knowing(self.signed_knowing, unconfirmed.cum);
        }
    }

    /// The settlement could not be signed: nothing was paid.
    pub(crate) fn unsettle(&mut self, now: Instant) {
        if let Some(unconfirmed) = self.unconfirmed.take() {
            self.paid = unconfirmed.before;
            self.unpaid_since = Some(now);
            self.flush = true;
        }
    }

    /// The provider signed a settlement up to `cum`.
    pub(crate) fn confirm(&mut self, cum: u64) {
        self.confirmed = self.confirmed.max(cum);
        self.settled += 1;
        self.unconfirmed = self.unconfirmed.filter(|unconfirmed| unconfirmed.cum > cum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn grant(number: u32, price: u32) -> Grant {
        Grant { number, price, room: 4 * MIB, own: 4 * MIB }
    }

    //= spec/economy.md#3-from-bytes-to-a-transaction
    #[test]
    fn settles_by_amount_by_age_and_by_order() {
        let mut taker = Taker::default();
        let start = Instant::START;
        taker.verified(start, 2 * MIB - 1);
        assert!(!taker.is_due(start));
        assert!(taker.is_due(start + UNPAID_AGE_MAX));
        taker.verified(start, 1);
        assert!(taker.is_due(start));
        assert_eq!(taker.settle(), Some(Due { down: 2 * MIB, cum: 2 * MIB, charge: None }));
        taker.verified(start, FLUSH_MIN);
        assert!(!taker.is_due(start + UNPAID_AGE_MAX), "too little, however old");
        taker.flush = true;
        assert!(taker.is_due(start));
        assert_eq!(taker.settle(), None, "one at a time");
        taker.confirm(2 * MIB);
        assert_eq!(taker.settle().map(|due| due.cum), Some(2 * MIB + FLUSH_MIN));
    }

    #[test]
    fn a_failed_proposal_pays_nothing() {
        let mut taker = Taker::default();
        taker.verified(Instant::START, MIB);
        assert!(taker.settle().is_some());
        assert_eq!(taker.owed(), 0);
        taker.unsettle(Instant::START);
        assert_eq!((taker.owed(), taker.unconfirmed), (MIB, None));
    }

    //= spec/economy.md#52-price-and-charge
    #[test]
    fn a_settlement_that_could_not_be_signed_costs_the_same_when_it_can() {
        let mut taker = Taker::default();
        assert!(taker.grant(grant(1, PRICE_IDLE)) && taker.grant(grant(2, PRICE_FULL)));
        taker.verified(Instant::START, 5 * MIB);
        let due = taker.settle();
        assert_eq!(due.and_then(|due| due.charge), Some(MIB / 2 + MIB));
        taker.unsettle(Instant::START);
        assert_eq!(taker.settle(), due);
        assert!(taker.grant(grant(3, PRICE_IDLE)));
        taker.signed();
        assert_eq!(taker.schedule.start(), 4 * MIB, "the first grant is paid");
    }

    #[test]
    fn what_was_signed_before_a_crash_was_taken() {
        let mut taker = Taker { paid: 5 * MIB, ..Taker::default() };
        taker.restore(Instant::START, TakenRecord { recv: 3 * MIB, ..TakenRecord::default() });
        assert_eq!((taker.recv, taker.owed(), taker.unpaid_since), (5 * MIB, 0, None));
    }

    #[test]
    fn malformed_and_repeated_grants_change_nothing() {
        let mut taker = Taker::default();
        assert!(!taker.grant(grant(1, PRICE_FULL + 1)));
        assert!(!taker.grant(grant(1, 0)));
        assert!(taker.grant(grant(2, PRICE_IDLE)));
        assert!(!taker.grant(grant(2, PRICE_FULL)));
        assert!(!taker.grant(grant(1, PRICE_FULL)));
        taker.freed(9, 0);
        assert_eq!(taker.schedule.end(), 4 * MIB);
        taker.verified(Instant::START, MIB);
        taker.freed(2, 0);
        assert_eq!(taker.schedule.end(), MIB, "what was taken keeps its price");
    }
}
