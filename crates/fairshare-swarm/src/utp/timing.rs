//! What a connection learns about its path: the round trip, and how long packets wait in queues.
//= spec/swarm.md#11-transports

use fairshare_wire::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// A retransmission waits at least this long: the other end may hold an acknowledgement back.
const RTO_MIN: Duration = Duration::from_millis(500);
const RTO_MAX: Duration = Duration::from_secs(15);
/// Before the first measurement.
const RTO_START: Duration = Duration::from_secs(1);
/// The least wait for an acknowledgement that seems overdue, before the oldest packet is sent again.
const PROBE_MIN: Duration = Duration::from_millis(30);
/// The lowest delay is remembered in so many bins of a minute, so that a route that became longer is learnt.
const BINS: usize = 13;
const BIN: Duration = Duration::from_secs(60);
/// The delay is the lowest of so many last samples: one late packet says nothing about a queue.
const FILTER: usize = 4;

/// The round trip of a path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<Duration>,
    variance: Duration,
    lowest: Option<Duration>,
}

impl RoundTrip {
    /// A packet that was sent once was acknowledged after `sample`.
    pub(crate) fn measured(&mut self, sample: Duration) {
        self.lowest = Some(self.lowest.map_or(sample, |lowest| lowest.min(sample)));
        match self.smoothed {
            None => (self.smoothed, self.variance) = (Some(sample), sample / 2),
            Some(smoothed) => {
                self.variance = (self.variance * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
    }

    /// The smoothed round trip, once one was measured.
    pub(crate) const fn known(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The smoothed round trip, a second while unknown.
    pub(crate) fn smoothed(&self) -> Duration {
        self.smoothed.unwrap_or(RTO_START)
    }

    /// The shortest round trip that was seen.
    pub(crate) fn lowest(&self) -> Duration {
        self.lowest.unwrap_or(Duration::ZERO)
    }

    /// How long an acknowledgement is waited for after `expiries` waits in vain.
    pub(crate) fn timeout(&self, expiries: u32) -> Duration {
        let first = self.smoothed.map_or(RTO_START, |smoothed| smoothed + self.variance * 4).max(RTO_MIN);
        (first * (1 << expiries.min(5))).min(RTO_MAX)
    }

    /// A packet that was overtaken and has been under way for this long is lost.
    pub(crate) fn patience(&self) -> Duration {
        let smoothed = self.smoothed();
        smoothed + (self.variance * 4).max(smoothed / 4)
    }

    /// After this silence the oldest packet is sent again, to learn what was lost; `None` while nothing is known.
    pub(crate) fn probe_after(&self) -> Option<Duration> {
        self.smoothed.map(|smoothed| smoothed * 2 + PROBE_MIN)
    }
}

/// How long our packets wait in queues, from delays by two clocks that do not agree.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueueDelay {
    /// The lowest delay of each minute, newest last.
    bins: VecDeque<u32>,
    bin_since: Instant,
    recent: VecDeque<u32>,
}

impl QueueDelay {
    /// The other end said how long a packet of ours was under way, in microseconds that wrap.
    pub(crate) fn measured(&mut self, now: Instant, delay: u32) {
        match self.bins.back_mut() {
            Some(lowest) if now.since(self.bin_since) < BIN => {
                if is_below(delay, *lowest) {
                    *lowest = delay;
                }
            }
            _ => {
                self.bin_since = now;
                self.bins.push_back(delay);
            }
        }
        if self.bins.len() > BINS {
            self.bins.pop_front();
        }
        self.recent.push_back(delay);
        if self.recent.len() > FILTER {
            self.recent.pop_front();
        }
    }

    /// The wait in queues now.
    pub(crate) fn current(&self) -> Option<Duration> {
        let base = self.bins.iter().copied().reduce(|a, b| if is_below(b, a) { b } else { a })?;
        let waits = self.recent.iter().map(|delay| delay.wrapping_sub(base));
        waits.min().map(|wait| Duration::from_micros(wait.into()))
    }
}

/// Order of numbers that wrap.
const fn is_below(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    //= spec/swarm.md#11-transports
    #[test]
    fn the_base_delay_is_the_lowest_of_thirteen_minutes() {
        let mut delay = QueueDelay::default();
        delay.measured(at(0), u32::MAX - 4);
        for minute in 1..=12 {
            for _ in 0..FILTER {
                delay.measured(at(minute * 60), 95);
            }
            assert_eq!(delay.current(), Some(Duration::from_micros(100)), "minute {minute}");
        }
        delay.measured(at(13 * 60), 95);
        assert_eq!(delay.current(), Some(Duration::ZERO), "the old route is forgotten");
    }

    #[test]
    fn one_late_packet_is_no_queue() {
        let mut delay = QueueDelay::default();
        for sample in [10, 10, 10, 9_000] {
            delay.measured(at(0), sample);
        }
        assert_eq!(delay.current(), Some(Duration::ZERO));
    }

    #[test]
    fn timeouts_double_within_bounds() {
        let mut trip = RoundTrip::default();
        assert_eq!(trip.timeout(0), RTO_START);
        (0..100).for_each(|_| trip.measured(Duration::from_millis(50)));
        assert_eq!((trip.timeout(0), trip.timeout(1)), (RTO_MIN, RTO_MIN * 2));
        assert_eq!(trip.timeout(40), RTO_MAX);
    }
}
