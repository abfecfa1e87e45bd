//! Spreading packets over the round trip. A window that leaves in one burst overflows the short queues on the way,
//! those of relays first, long before the path is full.
//= spec/swarm.md#11-transports

use fairshare_wire::Instant;
use std::time::Duration;

/// Round trips shorter than this are not divided: timers are not that fine, and acknowledgements come often enough.
const SHORTEST: Duration = Duration::from_millis(4);
/// What a burst may hold: what is due in this time, within bounds in packets.
const BURST: Duration = Duration::from_millis(2);
const BURST_MIN: u64 = 10;
const BURST_MAX: u64 = 40;
/// The shortest wait.
const WAIT_MIN: Duration = Duration::from_micros(500);

/// How fast a connection may send now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The window, in bytes.
    pub(super) window: u64,
    /// Whether the window may double within a round trip.
    pub(super) starting: bool,
    pub(super) round_trip: Duration,
    /// Bytes of a packet.
    pub(super) packet: u64,
}

/// The bytes that may leave at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pacer {
    /// Below zero after a packet that was longer than what was left.
    credit: i64,
    counted_at: Instant,
}

impl Pacer {
    /// Whether a packet may leave now; if not, when one may.
    pub(super) fn ask(&mut self, now: Instant, pace: Pace) -> Result<(), Instant> {
        if pace.round_trip < SHORTEST {
            *self = Self { credit: 0, counted_at: now };
            return Ok(());
        }
        let rate = pace.bytes_per_second();
        let due = |span: Duration| {
            i64::try_from(span.as_micros() * u128::from(rate) / 1_000_000).unwrap_or(i64::MAX)
        };
        let most = due(BURST).clamp((BURST_MIN * pace.packet) as i64, (BURST_MAX * pace.packet) as i64);
        let elapsed = now.since(self.counted_at).min(pace.round_trip);
        self.credit = self.credit.saturating_add(due(elapsed)).min(most);
        self.counted_at = now;
        if self.credit > 0 {
            return Ok(());
        }
        let missing = self.credit.unsigned_abs() + 1;
        let wait = Duration::from_micros(missing.saturating_mul(1_000_000) / rate.max(1));
        Err(now + wait.clamp(WAIT_MIN, pace.round_trip))
    }

    /// A packet leaves.
    pub(super) fn sent(&mut self, len: usize) {
        self.credit = self.credit.saturating_sub(len as i64);
    }
}

impl Pace {
    /// The window in each round trip, and a little more so that pauses are made up for; twice as much while the
    /// window may double.
    fn bytes_per_second(self) -> u64 {
        let quarters = if self.starting { 8 } else { 5 };
        let micros = self.round_trip.as_micros().max(1);
        u64::try_from(u128::from(self.window) * quarters * 250_000 / micros).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace =
        Pace { window: 1_000_000, starting: false, round_trip: Duration::from_millis(50), packet: 1_000 };

    /// Bytes that leave within a time, when as much is sent as may be.
    fn sent_in(pace: Pace, span: Duration) -> u64 {
        let (mut pacer, mut now, mut sent) = (Pacer::default(), Instant::from_micros(9_000_000), 0);
        let end = now + span;
        while now < end {
            match pacer.ask(now, pace) {
                Ok(()) => {
                    pacer.sent(1_000);
                    sent += 1_000;
                }
                Err(at) => {
                    assert!(at > now);
                    now = at;
                }
            }
            if sent > 100_000_000 {
                break;
            }
        }
        sent
    }

    #[test]
    fn a_window_and_a_quarter_leaves_in_each_round_trip_and_two_while_it_may_double() {
        let per_trip = sent_in(PACE, Duration::from_secs(2)) / 40;
        assert!((1_230_000..=1_270_000).contains(&per_trip), "{per_trip}");
        let per_trip = sent_in(Pace { starting: true, ..PACE }, Duration::from_secs(2)) / 40;
        assert!((1_950_000..=2_050_000).contains(&per_trip), "{per_trip}");
    }

    #[test]
    fn bursts_are_short_and_short_round_trips_are_not_divided() {
        assert_eq!(sent_in(PACE, Duration::from_micros(1)), 40_000);
        assert_eq!(sent_in(Pace { window: 10_000, ..PACE }, Duration::from_micros(1)), 10_000);
        assert!(
            sent_in(Pace { round_trip: Duration::from_millis(3), ..PACE }, Duration::from_micros(1))
                > 100_000_000
        );
    }
}
