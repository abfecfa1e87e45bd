//! Rates of payload: bytes counted by the second, averaged over the last few of them.

use fairshare_wire::Instant;
use std::time::Duration;

/// Seconds remembered: those of the longest average, and the one that is under way.
const SECONDS: usize = 21;
/// No average is taken over less time than this: a first block is no rate yet.
const MIN_SPAN_US: u64 = 250_000;
const SECOND_US: u64 = 1_000_000;

/// Counts bytes of one direction of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    /// Ring of counts; the entry of second `s` is at `s % SECONDS`.
    counts: [u64; SECONDS],
    /// The newest second counted.
    second: u64,
    started: Instant,
    total: u64,
}

impl Rate {
    /// Nothing counted yet.
    pub(crate) const fn new(now: Instant) -> Self {
        Self { counts: [0; SECONDS], second: now.as_micros() / SECOND_US, started: now, total: 0 }
    }

    /// Counts `bytes`.
    pub(crate) fn add(&mut self, now: Instant, bytes: u64) {
        self.advance(now);
        let at = (self.second % SECONDS as u64) as usize;
        self.counts[at] = self.counts[at].saturating_add(bytes);
        self.total = self.total.saturating_add(bytes);
    }

    /// Bytes per second over the last `seconds` whole seconds, at most 20, and the one that is under way.
    pub(crate) fn over(&self, now: Instant, seconds: u64) -> u64 {
        let seconds = seconds.clamp(1, SECONDS as u64 - 1);
        let current = now.as_micros() / SECOND_US;
        let oldest = current.saturating_sub(seconds);
        let first_kept = (self.second + 1).saturating_sub(SECONDS as u64);
        let counted: u64 = (oldest.max(first_kept)..=self.second)
            .map(|second| self.counts[(second % SECONDS as u64) as usize])
            .sum();
        let window = now.as_micros().saturating_sub(oldest * SECOND_US);
        let lifetime = u64::try_from(now.since(self.started).as_micros()).unwrap_or(u64::MAX);
        let span = window.min(lifetime).max(MIN_SPAN_US);
        u64::try_from(u128::from(counted) * u128::from(SECOND_US) / u128::from(span)).unwrap_or(u64::MAX)
    }

    /// The greater of the averages over 2 s and 20 s: quick to rise, slow to fall.
    //= spec/swarm.md#52-request-pipeline
    pub(crate) fn current(&self, now: Instant) -> u64 {
        self.over(now, 2).max(self.over(now, 20))
    }

    /// All bytes ever counted.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    fn advance(&mut self, now: Instant) {
        let current = now.as_micros() / SECOND_US;
        if current <= self.second {
            return;
        }
        let skipped = (current - self.second).min(SECONDS as u64);
        for second in current + 1 - skipped..=current {
            self.counts[(second % SECONDS as u64) as usize] = 0;
        }
        self.second = current;
    }
}

/// An estimate of the time between two blocks of a peer, smoothed over about eight of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Interval {
    last: Option<Instant>,
    mean_us: u64,
}

impl Interval {
    /// Another block arrived.
    pub(crate) fn mark(&mut self, now: Instant) {
        if let Some(last) = self.last {
            let gap = u64::try_from(now.since(last).as_micros()).unwrap_or(u64::MAX);
            self.mean_us = self.mean_us - self.mean_us / 8 + gap / 8;
        }
        self.last = Some(now);
    }

    /// Waiting begins anew: the pause before the next block says nothing about the peer.
    pub(crate) const fn pause(&mut self) {
        self.last = None;
    }

    /// The mean time between two blocks.
    pub(crate) const fn mean(&self) -> Duration {
        Duration::from_micros(self.mean_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(5_000_000 + ms * 1000)
    }

    #[test]
    fn a_steady_stream_has_its_rate_over_any_span() {
        let mut rate = Rate::new(at(0));
        for step in 0..300 {
            rate.add(at(step * 100), 100);
        }
        for seconds in [1, 2, 20, 100] {
            let measured = rate.over(at(30_000), seconds);
            assert!((900..=1100).contains(&measured), "{seconds} s: {measured}");
        }
        assert_eq!(rate.total(), 30_000);
    }

    #[test]
    fn silence_brings_the_rate_to_zero() {
        let mut rate = Rate::new(at(0));
        rate.add(at(0), 1_000_000);
        assert_eq!(rate.over(at(500), 2), 2_000_000, "half a second has passed");
        assert!(rate.current(at(15_000)) > 0, "the long average remembers");
        assert_eq!(rate.over(at(15_000), 2), 0);
        assert_eq!(rate.current(at(60_000)), 0);
        rate.add(at(100_000), 10);
        assert_eq!(rate.over(at(100_000), 20), 0, "ten bytes in twenty seconds");
    }

    #[test]
    fn the_interval_follows_the_blocks() {
        let mut interval = Interval::default();
        for step in 0..100 {
            interval.mark(at(step * 40));
        }
        assert!((30..=40).contains(&interval.mean().as_millis()), "{:?}", interval.mean());
    }
}
