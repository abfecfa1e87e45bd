//! How much may be unsettled at once, when the payer settles, and what happens to those whose bytes get lost.
//= spec/economy.md#3-from-bytes-to-a-transaction

use std::collections::VecDeque;

/// The first window of a stranger.
pub(crate) const WINDOW_FIRST: u64 = 4 << 20;
/// The largest window.
pub(crate) const WINDOW_MAX: u64 = 256 << 20;
/// What a window may grow to at any rate, however slow the transfer.
const WINDOW_SLOW: u64 = 16 << 20;
/// Bounds of the payer's quantum.
const QUANTUM_MIN: u64 = 8 << 20;
const QUANTUM_MAX: u64 = 64 << 20;
/// The smallest settlement while a session goes on.
pub(crate) const SETTLEMENT_MIN: u64 = 1 << 20;
/// The smallest settlement at all: the final flush between our nodes.
pub(crate) const FLUSH_MIN: u64 = 64 << 10;
/// What a provider signs for beyond what it knows to have sent, at least.
const TOLERANCE_MIN: u64 = 256 << 10;
/// Unverified bytes of 30 days beyond which a key is refused: not acknowledging must never be a way to take.
//= spec/economy.md#53-verdict-grant-settlement
pub(crate) const LOST_MAX: u64 = 64 << 20;
/// Bytes that may be under way when an honest peer goes away, and so are no disagreement: the unverified bound and
/// the exposure bound of a connection.
//= spec/swarm.md#83-counts-and-exposure
const LOST_HONESTLY: u64 = (16 << 20) + (4 << 20);
/// A session that ends with more than this unverified ends badly; two of them make a stranger again. The longest
/// usual piece: the economy does not know the piece length.
pub(crate) const CLOSE_UNVERIFIED: u64 = 4 << 20;
/// How long lost bytes are remembered.
const LOST_DAYS: u64 = 30;
const DAY_MS: u64 = 86_400_000;

/// The window of a pair after `settled` payments, as both ends compute it.
pub(crate) fn window_after(settled: u64) -> u64 {
    let doublings = u32::try_from(settled).unwrap_or(u32::MAX).min(WINDOW_MAX.ilog2() - WINDOW_FIRST.ilog2());
    WINDOW_FIRST << doublings
}

/// The provider's window: grown by payments, bounded by the bytes of the last 20 s, scaled down by disagreement.
pub(crate) fn window(settled: u64, sent_in_20_s: u64, lost: u64, sent: u64) -> u64 {
    let window = window_after(settled).min(WINDOW_MAX.min(sent_in_20_s.max(WINDOW_SLOW)));
    let disputed = lost.saturating_sub(LOST_HONESTLY);
    if disputed <= TOLERANCE_MIN || disputed <= sent / 100 {
        return window;
    }
    // W * (1 - 10 r), r = disputed / sent.
    let removed = u128::from(window) * 10 * u128::from(disputed) / u128::from(sent.max(1));
    window.saturating_sub(u64::try_from(removed).unwrap_or(u64::MAX))
}

/// The payer settles when it owes this much.
pub(crate) fn quantum(taken_in_10_s: u64, settled: u64) -> u64 {
    taken_in_10_s.clamp(QUANTUM_MIN, QUANTUM_MAX).min(window_after(settled) / 2)
}

/// How much more than it knows to have sent a provider signs for.
pub(crate) fn tolerance(sent: u64) -> u64 {
    TOLERANCE_MIN.max(sent / 100)
}

/// Bytes that were sent and never acknowledged as verified, by day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses(VecDeque<(u64, u64)>);

impl Losses {
    pub(crate) fn restore(days: VecDeque<(u64, u64)>) -> Self {
        Self(days)
    }

    /// The days with losses and the bytes of each, oldest first.
    pub(crate) fn days(&self) -> impl ExactSizeIterator<Item = &(u64, u64)> {
        self.0.iter()
    }

    pub(crate) fn add(&mut self, unix_ms: u64, bytes: u64) {
        let today = unix_ms / DAY_MS;
        self.0.retain(|(day, _)| day + LOST_DAYS > today);
        match self.0.back_mut() {
            Some((day, sum)) if *day >= today => *sum = sum.saturating_add(bytes),
            _ if bytes > 0 => self.0.push_back((today, bytes)),
            _ => {}
        }
    }

    /// Bytes that had been taken for lost were paid after all; the newest losses are the likeliest.
    pub(crate) fn found(&mut self, mut bytes: u64) {
        for (_, sum) in self.0.iter_mut().rev() {
            let here = bytes.min(*sum);
            *sum -= here;
            bytes -= here;
        }
        self.0.retain(|(_, sum)| *sum > 0);
    }

    /// The sum over the last 30 days.
    pub(crate) fn sum(&self, unix_ms: u64) -> u64 {
        let today = unix_ms / DAY_MS;
        let recent = self.0.iter().filter(|(day, _)| day + LOST_DAYS > today);
        recent.fold(0, |sum: u64, (_, bytes)| sum.saturating_add(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    //= spec/economy.md#3-from-bytes-to-a-transaction
    #[test]
    fn the_window_doubles_with_each_payment_within_its_bounds() {
        let grown: Vec<u64> = (0..9).map(|n| window_after(n) / MIB).collect();
        assert_eq!(grown, [4, 8, 16, 32, 64, 128, 256, 256, 256]);
        assert_eq!(window_after(u64::MAX), WINDOW_MAX);
        assert_eq!(window(3, 0, 0, 0), 16 * MIB, "a slow transfer");
        assert_eq!(window(9, 1000 * MIB, 0, 0), WINDOW_MAX);
    }

    #[test]
    fn the_first_settlement_comes_before_the_first_window_is_full() {
        assert_eq!(quantum(0, 0), 2 * MIB);
        assert_eq!(quantum(0, 9), 8 * MIB);
        assert_eq!(quantum(1000 * MIB, 9), 64 * MIB);
    }

    #[test]
    fn disagreement_closes_the_window() {
        let sent = 1000 * MIB;
        assert_eq!(window(9, sent, LOST_HONESTLY + 10 * MIB, sent), WINDOW_MAX, "one percent is ignored");
        assert_eq!(window(9, sent, LOST_HONESTLY + 50 * MIB, sent), WINDOW_MAX / 2);
        assert_eq!(window(9, sent, LOST_HONESTLY + 100 * MIB, sent), 0);
    }

    #[test]
    fn losses_are_forgotten_after_thirty_days_and_undone_by_payment() {
        let mut losses = Losses::default();
        losses.add(0, 5);
        losses.add(DAY_MS, 7);
        assert_eq!(losses.sum(DAY_MS), 12);
        assert_eq!(losses.sum(30 * DAY_MS), 7);
        losses.found(8);
        assert_eq!(losses.sum(DAY_MS), 4);
        losses.add(40 * DAY_MS, 1);
        assert_eq!(losses.days().len(), 1);
    }
}
