//! The tunnel account with one payment key: what is owed both ways, what is paid, and what is left after netting.
//= spec/payouts.md#34-epochs-and-settlement

use super::config::{
    IDLE_EPOCHS, MIB, OVERDUE_EPOCHS, PAYMENTS_PER_EPOCH, POWER_MAX, PayoutsConfig, SETTLED_MS,
};
use super::iou::Classes;
use fairshare_crypto::PublicKey;
use fairshare_ledger::{BlockHash, HalfBlock};
use fairshare_wire::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Epochs whose payments are remembered one by one: later ones are refused by their epoch alone.
const EPOCHS_KEPT: usize = 8;
/// For how many intervals IOUs stay behind what was measured before the neighbour counts as disagreeing.
const SHORT_MAX: u8 = 3;

/// A payment between asking for it and its block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is under way.
    #[default]
    Idle,
    /// The creditor was asked.
    Asked(Payment),
    /// The ledger signs.
    Signing(Payment),
}

/// Names a payment between two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payment {
    /// The epoch that is paid.
    pub(super) epoch: u32,
    /// The first or the second of it.
    pub(super) index: u8,
    /// 2^k MiB.
    pub(super) k: u8,
}

impl Payment {
    pub(super) const fn amount(self) -> u64 {
        MIB << self.k
    }
}

/// Everything between this node and one payment key, or one neighbour that has not shown its key.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// The tunnel key that was last bound to it.
    pub(super) neighbour: Option<PublicKey>,

    /// What we owe at most by our own measure, class 0.
    pub(super) cap: u64,
    /// The most that one metering period added to it.
    pub(super) peak: u64,
    /// What the neighbour says it measured. May fall.
    pub(super) told: u64,
    /// What we owe by classes 1, 2 and 3.
    pub(super) extra: [u64; 3],
    /// Our newest IOU.
    pub(super) iou: Classes,
    /// The highest amount that the neighbour confirmed to hold.
    pub(super) acked: u64,

    /// What we measured that the neighbour owes, class 0, less what the seeder's side gave back.
    pub(super) claim: u64,
    /// Its newest IOU.
    pub(super) held: Classes,
    /// What of its classes 1, 2 and 3 was shared out.
    pub(super) divided: [u64; 3],
    /// The claim that it was told last.
    pub(super) reported: u64,
    /// For how many intervals its IOUs stayed behind.
    pub(super) short: u8,
    pub(super) short_at: Option<Instant>,

    /// Paid by our blocks, answered or not.
    pub(super) paid_out: u64,
    /// Paid by its blocks, both halves stored.
    pub(super) paid_in: u64,
    /// Its payments of the last 30 days: time, bytes.
    pub(super) settled: VecDeque<(u64, u64)>,
    /// Own payments by epoch.
    pub(super) own: BTreeMap<u32, Vec<u8>>,
    /// Payments to us by epoch, signed or about to be.
    pub(super) received: BTreeMap<u32, Vec<(BlockHash, u8)>>,
    /// Own halves that are counted; a few a day.
    pub(super) counted: BTreeSet<u32>,
    /// Own payments without an answer.
    pub(super) unanswered: Vec<Arc<HalfBlock>>,

    /// The epoch in which the relation began.
    pub(super) since: Option<u32>,
    /// The last epoch with traffic.
    pub(super) active: u32,
    /// The last boundary before which nothing was paid although something was owed, and since when.
    pub(super) owing_since: Option<u32>,
    /// The payment to us that was agreed to.
    pub(super) agreed: Option<Payment>,

    pub(super) stage: Stage,
    /// The answer to the last IOU was followed up already.
    pub(super) followed: bool,
    /// The holder measured more than we did, so far: its periods end before ours.
    pub(super) behind: bool,
    /// `cap` at the last IOU.
    pub(super) cap_told: u64,
    /// Trust in per mille of full trust.
    pub(super) trust: u32,
    /// What the neighbour says we may leave unpaid.
    pub(super) told_limit: Option<u64>,
    pub(super) forker: bool,
    pub(super) forgiven: bool,
}

impl Account {
    /// Traffic in this epoch.
    pub(super) fn touch(&mut self, epoch: u32) {
        self.since.get_or_insert(epoch);
        self.active = self.active.max(epoch);
        self.forgiven = false;
    }

    /// A restart loses what was carried in the metering period under way, at most: so much more is believed.
    //= spec/payouts.md#33-iou
    pub(super) fn allow_for_lost_period(&mut self) {
        self.cap = self.cap.saturating_add(self.peak);
    }

    /// What a neighbour without a payment key and we owe each other moves here when it shows one.
    pub(super) fn absorb(&mut self, unbound: Self) {
        self.cap = self.cap.saturating_add(unbound.cap);
        self.peak = self.peak.max(unbound.peak);
        self.claim = self.claim.saturating_add(unbound.claim);
        for (mine, more) in self.extra.iter_mut().zip(unbound.extra) {
            *mine = mine.saturating_add(more);
        }
        if let Some(since) = unbound.since {
            self.touch(since);
            self.active = self.active.max(unbound.active);
        }
    }

    /// Nothing is claimed any more of what was carried up to the end of this epoch. What is owed stays while there is
    /// traffic: the other side may have a longer memory.
    pub(super) fn write_off(&mut self, ended: u32) {
        if (self.cap == 0 && self.extra == [0; 3]) || self.is_idle(ended) {
            *self = Self::default();
        } else {
            (self.claim, self.since) = (0, Some(ended));
        }
    }

    /// The classes of an IOU that says all we owe now. It never says less than the last one.
    //= spec/payouts.md#33-iou
    pub(super) fn next_iou(&self) -> Classes {
        let own = self.cap.saturating_add(tolerance(self.cap));
        let [one, two, three] = self.extra;
        let new = [self.told.min(own), one, two, three];
        std::array::from_fn(|class| new[class].max(self.iou[class]))
    }

    /// What we owe, ever.
    pub(super) fn debt(&self) -> u64 {
        owed(&self.iou, self.told)
    }

    /// What the neighbour owes, ever.
    pub(super) fn credit(&self) -> u64 {
        owed(&self.held, self.claim)
    }

    /// What is left after netting and payments: positive if we owe it.
    pub(super) fn net(&self) -> i128 {
        let out = i128::from(self.debt()) - i128::from(self.paid_out);
        let back = i128::from(self.credit()) - i128::from(self.paid_in);
        out - back
    }

    /// Measured and not covered by an IOU, beyond what is tolerated.
    pub(super) fn uncovered(&self) -> u64 {
        let [covered, ..] = self.held;
        self.claim.saturating_sub(covered).saturating_sub(tolerance(self.claim))
    }

    /// What the neighbour owes by IOU and did not pay.
    pub(super) fn covered(&self) -> u64 {
        u64::try_from((-self.net()).max(0)).unwrap_or(u64::MAX)
    }

    /// Whether it never settled in the last 30 days.
    pub(super) fn is_newcomer(&self) -> bool {
        self.settled.is_empty()
    }

    /// Whether it left something unpaid for too long.
    pub(super) fn is_overdue(&self, epoch: u32) -> bool {
        self.owing_since.is_some_and(|since| epoch.saturating_sub(since) > OVERDUE_EPOCHS)
    }

    /// Whether nothing would be lost with it: nothing was ever carried, promised or paid.
    pub(super) fn is_blank(&self) -> bool {
        let chain = self.counted.is_empty() && self.unanswered.is_empty();
        chain && self.since.is_none() && self.held == [0; 4] && self.iou == [0; 4]
    }

    pub(super) fn disagrees(&self) -> bool {
        self.short >= SHORT_MAX
    }

    pub(super) fn is_idle(&self, epoch: u32) -> bool {
        epoch.saturating_sub(self.active) > IDLE_EPOCHS
    }

    /// L: what it may leave unpaid.
    //= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
    pub(super) fn limit(&self, config: &PayoutsConfig, epoch: u32) -> u64 {
        if self.forker || self.is_overdue(epoch) {
            return 0;
        }
        let settled = self.settled.iter().fold(0u64, |sum, (_, down)| sum.saturating_add(*down));
        let trust = config.trust_limit.saturating_mul(u64::from(self.trust.min(4000))) / 1000;
        let limit = config.base_limit.saturating_add(settled / 4).saturating_add(trust);
        limit.min(config.max_limit) / if self.disagrees() { 4 } else { 1 }
    }

    /// An IOU of the neighbour: higher in every class or the same. `None`: refused.
    pub(super) fn hold(&mut self, now: Instant, interval: Duration, classes: Classes) -> Option<bool> {
        if classes.iter().zip(self.held).any(|(new, old)| *new < old) {
            return None;
        }
        let behind = self.reported.saturating_sub(classes[0]) > tolerance(self.reported);
        if !behind {
            (self.short, self.short_at) = (0, None);
        } else if self.short_at.is_none_or(|at| now.since(at) >= interval) {
            (self.short, self.short_at) = (self.short.saturating_add(1), Some(now));
        }
        let new = classes != self.held;
        self.held = classes;
        Some(new)
    }

    /// A complete or lone payment of ours. False if it is counted already.
    pub(super) fn count_own(&mut self, sequence: u32, epoch: u32, down: u64) -> bool {
        if !self.counted.insert(sequence) {
            return false;
        }
        self.paid_out = self.paid_out.saturating_add(down);
        self.own.entry(epoch).or_default().push(power(i128::from(down)).unwrap_or(0));
        prune(&mut self.own);
        true
    }

    /// A complete payment to us; `sequence` is that of our agreement. False if it is counted already.
    pub(super) fn count_received(
        &mut self,
        sequence: u32,
        epoch: u32,
        block: (BlockHash, u64),
        timestamp_ms: u64,
    ) -> bool {
        if !self.counted.insert(sequence) {
            return false;
        }
        let (hash, down) = block;
        self.paid_in = self.paid_in.saturating_add(down);
        self.settled.push_back((timestamp_ms, down));
        self.judged(epoch, hash, power(i128::from(down)).unwrap_or(0));
        self.owing_since = None;
        true
    }

    /// A payment to us that is signed or about to be.
    pub(super) fn judged(&mut self, epoch: u32, hash: BlockHash, k: u8) {
        let of_epoch = self.received.entry(epoch).or_default();
        if of_epoch.iter().all(|(other, _)| *other != hash) {
            of_epoch.push((hash, k));
        }
        prune(&mut self.received);
    }

    /// Forgets what was settled long ago.
    pub(super) fn forget_settled(&mut self, now_ms: u64) {
        let old = |(at, _): &(u64, u64)| now_ms.saturating_sub(*at) > SETTLED_MS;
        while self.settled.front().is_some_and(old) {
            self.settled.pop_front();
        }
    }

    /// The payment that is due for an epoch that ended: the largest power of two, then a lower one if more than half
    /// of what we may leave unpaid is still left.
    //= spec/payouts.md#34-epochs-and-settlement
    pub(super) fn due(&self, config: &PayoutsConfig, epoch: u32, dummy: bool) -> Option<Payment> {
        if self.since.is_none_or(|since| epoch <= since) || !self.unanswered.is_empty() {
            return None;
        }
        let net = self.net();
        let paid = self.own.get(&epoch).map_or(&[][..], Vec::as_slice);
        match *paid {
            [] => {
                let k = power(net).or(if dummy { Some(0) } else { None })?;
                Some(Payment { epoch, index: 0, k })
            }
            [first] => {
                let limit = self.told_limit.unwrap_or(config.base_limit);
                let k = power(net)?.min(first.checked_sub(1)?);
                (net > i128::from(limit / 2)).then_some(Payment { epoch, index: 1, k })
            }
            _ => None,
        }
    }

    /// Whether a payment to us is one that we expect.
    pub(super) fn expects(&self, payment: Payment) -> bool {
        if self.agreed == Some(payment) {
            return true;
        }
        let before = self.received.get(&payment.epoch).map_or(0, Vec::len);
        if before != usize::from(payment.index) || before >= PAYMENTS_PER_EPOCH || payment.k > POWER_MAX {
            return false;
        }
        let owed = -self.net();
        // The smallest payment may come without a debt: it hides which relations carry anything.
        let dummy = payment.index == 0 && payment.k == 0 && owed > -4 * i128::from(MIB);
        dummy || owed >= i128::from(payment.amount())
    }
}

/// What is owed by an IOU whose holder measured `measured`: of class 0 the smaller of both.
//= spec/payouts.md#33-iou
fn owed(iou: &Classes, measured: u64) -> u64 {
    let [measured_class, rest @ ..] = iou;
    rest.iter().fold(measured.min(*measured_class), |sum, class| sum.saturating_add(*class))
}

/// How far two measures may lie apart.
//= spec/payouts.md#33-iou
pub(super) const fn tolerance(amount: u64) -> u64 {
    amount / 50 + MIB
}

/// The largest k with 2^k MiB within the amount.
pub(super) fn power(net: i128) -> Option<u8> {
    let mib = u64::try_from(net).map_or_else(|_| if net > 0 { u64::MAX } else { 0 }, |net| net / MIB);
    let k = u8::try_from(mib.checked_ilog2()?).unwrap_or(POWER_MAX);
    Some(k.min(POWER_MAX))
}

fn prune<T>(epochs: &mut BTreeMap<u32, T>) {
    while epochs.len() > EPOCHS_KEPT {
        epochs.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn hash(byte: u8) -> BlockHash {
        BlockHash([byte; 32])
    }

    fn owing(amount: u64) -> Account {
        Account { since: Some(1), told: amount, iou: [amount, 0, 0, 0], ..Account::default() }
    }

    //= spec/payouts.md#34-epochs-and-settlement
    #[test]
    fn a_payment_is_the_largest_power_of_two_within_the_debt() {
        let mib = |mib: i128| power(mib << 20);
        assert_eq!([power(-1), power(0), power((1 << 20) - 1)], [None; 3]);
        assert_eq!([mib(1), mib(2), mib(3), mib(1 << 20), mib(1 << 30)], [0, 1, 1, 20, 20].map(Some));
        assert_eq!(power(i128::MAX), Some(20));
    }

    //= spec/payouts.md#34-epochs-and-settlement
    #[test]
    fn a_second_block_comes_only_for_a_large_rest_and_is_smaller() {
        let config = PayoutsConfig::default();
        let mut account = owing(100 * MIB);
        assert_eq!(account.due(&config, 1, false), None, "the epoch in which it began");
        let first = Payment { epoch: 2, index: 0, k: 6 };
        assert_eq!(account.due(&config, 2, false), Some(first));
        assert!(account.count_own(1, 2, 64 * MIB) && !account.count_own(1, 2, 64 * MIB));
        assert_eq!(account.due(&config, 2, false), Some(Payment { epoch: 2, index: 1, k: 5 }));
        assert!(account.count_own(2, 2, 32 * MIB));
        assert_eq!(account.due(&config, 2, false), None, "two blocks an epoch");
        let mut small = owing(60 * MIB);
        small.count_own(1, 2, 32 * MIB);
        assert_eq!(small.due(&config, 2, false).map(|payment| payment.k), Some(4));
        let mut rest = owing(40 * MIB);
        rest.count_own(1, 2, 32 * MIB);
        assert_eq!(rest.due(&config, 2, false), None, "8 MiB are less than half of 32");
    }

    //= spec/payouts.md#33-iou
    #[test]
    fn an_iou_follows_the_holder_up_to_the_own_measure_and_never_falls() {
        let mut account = Account { cap: 100 * MIB, told: 60 * MIB, extra: [1, 2, 3], ..Account::default() };
        assert_eq!(account.next_iou(), [60 * MIB, 1, 2, 3]);
        account.told = 200 * MIB;
        assert_eq!(account.next_iou(), [103 * MIB, 1, 2, 3], "2 per cent and 1 MiB more than measured");
        account.iou = account.next_iou();
        account.told = 50 * MIB;
        assert_eq!(account.next_iou()[0], 103 * MIB);
        assert_eq!(account.debt(), 50 * MIB + 6, "a holder that asks for less is owed less");
    }

    //= spec/payouts.md#33-iou
    #[test]
    fn a_lower_iou_is_refused_class_by_class() {
        let mut account = Account::default();
        assert_eq!(account.hold(Instant::START, MINUTE, [5, 5, 5, 5]), Some(true));
        assert_eq!(account.hold(Instant::START, MINUTE, [5, 5, 5, 5]), Some(false));
        assert_eq!(account.hold(Instant::START, MINUTE, [9, 9, 9, 4]), None);
        assert_eq!(account.held, [5, 5, 5, 5]);
    }

    //= spec/payouts.md#33-iou
    //= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
    #[test]
    fn disagreement_leaves_a_quarter_of_the_limit() {
        let config = PayoutsConfig::default();
        let mut account = Account { claim: 200 * MIB, reported: 200 * MIB, ..Account::default() };
        let full = account.limit(&config, 0);
        let enough = 200 * MIB - 5 * MIB;
        assert_eq!(
            (account.hold(Instant::START, MINUTE, [enough, 0, 0, 0]), account.short),
            (Some(true), 0),
            "2 per cent + 1 MiB"
        );
        account.reported = 300 * MIB;
        for minute in 0..3 {
            for _ in 0..9 {
                assert_eq!(account.limit(&config, 0), full);
                let now = Instant::START + MINUTE * minute;
                account.hold(now, MINUTE, [enough, 0, 0, 0]);
                if minute == 2 {
                    break;
                }
            }
        }
        assert_eq!(account.limit(&config, 0), full / 4);
        account.hold(Instant::START + MINUTE * 4, MINUTE, [300 * MIB, 0, 0, 0]);
        assert_eq!(account.limit(&config, 0), full);
    }

    //= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
    #[test]
    fn the_limit_grows_with_what_was_settled_and_with_trust() {
        let config = PayoutsConfig::default();
        let mut account = Account::default();
        assert_eq!(account.limit(&config, 0), 32 * MIB);
        account.trust = 500;
        assert_eq!(account.limit(&config, 0), 64 * MIB);
        account.trust = u32::MAX;
        assert_eq!(account.limit(&config, 0), (32 + 256) * MIB);
        account.count_received(1, 5, (hash(1), 64 * MIB), 1000);
        assert_eq!(account.limit(&config, 0), (32 + 256 + 16) * MIB);
        account.count_received(2, 6, (hash(2), 1 << 40), 2000);
        assert_eq!(account.limit(&config, 0), 2 << 30);
        account.forget_settled(1001 + SETTLED_MS);
        assert!(!account.is_newcomer());
        account.forget_settled(2001 + SETTLED_MS);
        assert_eq!((account.limit(&config, 0), account.is_newcomer()), ((32 + 256) * MIB, true));
        account.owing_since = Some(7);
        assert_ne!(account.limit(&config, 10), 0);
        assert_eq!(account.limit(&config, 11), 0, "overdue after three epochs");
    }

    //= spec/payouts.md#34-epochs-and-settlement
    #[test]
    fn a_payment_is_expected_once_and_within_the_debt() {
        let mut account = Account { claim: 40 * MIB, held: [40 * MIB, 0, 0, 0], ..Account::default() };
        let payment = |index, k| Payment { epoch: 3, index, k };
        assert!(account.expects(payment(0, 5)) && !account.expects(payment(0, 6)));
        assert!(!account.expects(payment(1, 2)), "the first comes first");
        account.judged(3, hash(1), 5);
        assert!(!account.expects(payment(0, 5)) && account.expects(payment(1, 2)));
        account.judged(3, hash(1), 5);
        account.judged(3, hash(2), 2);
        assert!(!account.expects(payment(2, 0)));
        account.agreed = Some(payment(1, 2));
        assert!(account.expects(payment(1, 2)), "what was agreed to is signed");
        assert!(
            Account::default().expects(payment(0, 0)) && !Account::default().expects(payment(0, 1)),
            "a dummy"
        );
    }
}
