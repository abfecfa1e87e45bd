//! How much may be under way: by delay, so that others are not disturbed, or by loss, for paths that are ours.
//= spec/swarm.md#11-transports

use fairshare_wire::Instant;
use std::time::Duration;

/// Wait in queues that LEDBAT aims at.
const TARGET: Duration = Duration::from_millis(100);
/// Growth per round trip in an empty queue, bytes.
const GAIN: u64 = 3_000;
/// Beyond this nothing may be under way: sequence numbers have 16 bits, and memory an end.
const WINDOW_MAX: u64 = 4 << 20;
/// Packets that may be under way at the start.
const START_PACKETS: u64 = 10;
/// A wait in queues that ends the slow start by loss: the path is full, although nothing was dropped yet.
const START_DELAY: Duration = Duration::from_millis(50);
/// The window by loss is cut to so many tenths (CUBIC, RFC 9438).
const CUT_TENTHS: u64 = 7;

/// What limits the packets under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// The wait in queues (LEDBAT): yields to all other traffic.
    #[default]
    Ledbat,
    /// Losses (CUBIC): takes its share.
    Loss,
}

/// The window of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    rule: Congestion,
    packet: u64,
    bytes: u64,
    /// Slow start goes on below this.
    threshold: u64,
    cut_at: Option<Instant>,
    /// The window before the last cut, should the loss turn out to be none.
    before_cut: Option<(u64, u64)>,
    cubic: Option<Cubic>,
    highest: u64,
}

/// Where CUBIC stands since the last cut.
#[derive(Clone, Copy, Debug)]
struct Cubic {
    since: Instant,
    /// The window before the cut.
    origin: u64,
    /// The window after it.
    floor: u64,
}

/// What an acknowledgement tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acked {
    pub(crate) bytes: u64,
    /// Wait in queues, where known.
    pub(crate) delay: Option<Duration>,
    pub(crate) round_trip: Duration,
    /// Whether the window was what held the sender back.
    pub(crate) was_full: bool,
}

impl Window {
    /// The window of a connection whose packets have `packet` bytes.
    pub(crate) fn new(rule: Congestion, packet: usize) -> Self {
        let packet = packet as u64;
        let bytes = START_PACKETS * packet;
        let threshold = u64::MAX;
        Self { rule, packet, bytes, threshold, cut_at: None, before_cut: None, cubic: None, highest: bytes }
    }

    /// Bytes that may be under way.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The highest that the window ever was.
    pub(crate) const fn highest(&self) -> u64 {
        self.highest
    }

    /// Packets arrived.
    pub(crate) fn acked(&mut self, now: Instant, acked: Acked) {
        match self.rule {
            Congestion::Ledbat => self.ledbat(acked),
            Congestion::Loss => self.cubic(now, acked),
        }
        self.bytes = self.bytes.clamp(2 * self.packet, WINDOW_MAX);
        self.highest = self.highest.max(self.bytes);
    }

    /// A packet was lost that had been sent at `sent_at`: what is under way is halved, once per round trip.
    pub(crate) fn lost(&mut self, now: Instant, sent_at: Instant) {
        if self.cut_at.is_some_and(|cut_at| sent_at <= cut_at) {
            return;
        }
        self.before_cut = Some((self.bytes, self.threshold));
        self.cut_at = Some(now);
        let origin = self.bytes;
        self.bytes = match self.rule {
            Congestion::Ledbat => self.bytes / 2,
            Congestion::Loss => self.bytes / 10 * CUT_TENTHS,
        };
        self.bytes = self.bytes.max(2 * self.packet);
        self.threshold = self.bytes;
        self.cubic = Some(Cubic { since: now, origin, floor: self.bytes });
    }

    /// The packets that led to the last cut had only been overtaken.
    pub(crate) fn was_no_loss(&mut self) {
        if let Some((bytes, threshold)) = self.before_cut.take() {
            (self.bytes, self.threshold) = (self.bytes.max(bytes), threshold);
            self.cubic = None;
        }
    }

    /// Nothing was heard for a whole timeout: begin again. Only the first of several in a row tells how much the path
    /// took before.
    pub(crate) fn timed_out(&mut self, now: Instant, is_first: bool) {
        if is_first {
            self.threshold = (self.bytes / 2).max(2 * self.packet);
        }
        self.bytes = 2 * self.packet;
        self.cut_at = Some(now);
        self.before_cut = None;
        self.cubic = None;
    }

    /// Whether it may double within a round trip.
    pub(crate) const fn is_starting(&self) -> bool {
        self.bytes < self.threshold
    }

    fn ledbat(&mut self, acked: Acked) {
        let delay = acked.delay.unwrap_or(TARGET).as_micros() as u64;
        let target = TARGET.as_micros() as u64;
        if self.is_starting() {
            if delay * 10 < target * 9 {
                self.bytes += if acked.was_full { acked.bytes } else { 0 };
                return;
            }
            // What is acknowledged now left when the window was half as wide: that was enough for this queue.
            self.bytes = (self.bytes / 2).max(2 * self.packet);
            self.threshold = self.bytes;
        }
        let share = GAIN * acked.bytes.min(self.bytes);
        if delay <= target {
            let grown = share * (target - delay) / target / self.bytes.max(1);
            self.bytes += if acked.was_full { grown } else { 0 };
        } else {
            // The descent is as steep at most as the ascent can be.
            let excess = (delay - target).min(target);
            self.bytes = self.bytes.saturating_sub(share * excess / target / self.bytes.max(1));
        }
    }

    fn cubic(&mut self, now: Instant, acked: Acked) {
        if !acked.was_full {
            return;
        }
        if self.is_starting() {
            if acked.delay.is_none_or(|delay| delay < START_DELAY.max(acked.round_trip / 2)) {
                self.bytes += acked.bytes;
                return;
            }
            self.threshold = self.bytes;
        }
        let cubic = *self.cubic.get_or_insert(Cubic { since: now, origin: self.bytes, floor: self.bytes });
        let aim = cubic.aim(now, acked.round_trip, self.packet).min(self.bytes + self.bytes / 2);
        if aim > self.bytes {
            // The aim is reached within one round trip.
            self.bytes += (aim - self.bytes) * acked.bytes.min(self.bytes) / self.bytes.max(1);
        }
    }
}

impl Cubic {
    /// The window that is due one round trip from now: 0.4 (t - k)^3 packets above the one before the cut, and never
    /// less than a classical sender of the same losses would have.
    fn aim(self, now: Instant, round_trip: Duration, packet: u64) -> u64 {
        let packet = i128::from(packet.max(1));
        let elapsed = now.since(self.since).as_millis() as i128;
        let t = elapsed + round_trip.as_millis() as i128;
        // k^3 = missing / 0.4, in milliseconds.
        let missing = i128::from(self.origin.saturating_sub(self.floor)) / packet;
        let k = i128::from(cube_root((missing * 2_500_000_000) as u64));
        let above = 4 * (t - k).pow(3) * packet / 10_000_000_000;
        let curve = i128::from(self.origin) + above;
        let micros = (round_trip.as_micros() as i128).max(1);
        let classical = i128::from(self.floor) + packet * (elapsed * 1_000 / micros) * 53 / 100;
        u64::try_from(curve.max(classical).max(0)).unwrap_or(u64::MAX)
    }
}

/// The whole part of the cube root.
fn cube_root(value: u64) -> u64 {
    let (mut low, mut high) = (0_u64, 2_642_245);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if middle * middle * middle <= value { low = middle } else { high = middle - 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: usize = 1_000;

    fn at(millis: u64) -> Instant {
        Instant::START + Duration::from_millis(millis)
    }

    fn acked(bytes: u64, delay_ms: u64) -> Acked {
        Acked {
            bytes,
            delay: Some(Duration::from_millis(delay_ms)),
            round_trip: Duration::from_millis(50),
            was_full: true,
        }
    }

    fn after_start(rule: Congestion, window: u64) -> Window {
        let mut after = Window::new(rule, PACKET);
        (after.bytes, after.threshold) = (window, window);
        after
    }

    //= spec/swarm.md#11-transports
    #[test]
    fn ledbat_grows_by_three_thousand_bytes_a_round_trip_and_yields_beyond_its_target() {
        let mut window = after_start(Congestion::Ledbat, 100_000);
        (0..100).for_each(|_| window.acked(at(0), acked(1_000, 0)));
        assert!((102_900..=103_000).contains(&window.bytes()), "{}", window.bytes());
        let before = window.bytes();
        (0..100).for_each(|_| window.acked(at(0), acked(1_000, 100)));
        assert_eq!(window.bytes(), before, "at the target nothing changes");
        (0..100).for_each(|_| window.acked(at(0), acked(1_000, 200)));
        assert!((before - 3_000..before - 2_800).contains(&window.bytes()), "{}", window.bytes());
    }

    //= spec/swarm.md#11-transports
    #[test]
    fn losses_of_one_round_trip_halve_once() {
        let mut window = after_start(Congestion::Ledbat, 100_000);
        window.lost(at(100), at(50));
        window.lost(at(101), at(60));
        window.lost(at(120), at(100));
        assert_eq!(window.bytes(), 50_000);
        window.lost(at(160), at(101));
        assert_eq!(window.bytes(), 25_000);
        window.timed_out(at(200), true);
        assert_eq!(window.bytes(), 2 * PACKET as u64);
    }

    #[test]
    fn a_sender_that_did_not_use_its_window_does_not_widen_it() {
        for rule in [Congestion::Ledbat, Congestion::Loss] {
            let mut window = Window::new(rule, PACKET);
            let before = window.bytes();
            window.acked(at(0), Acked { was_full: false, ..acked(5_000, 0) });
            assert_eq!(window.bytes(), before);
        }
    }

    #[test]
    fn after_a_loss_the_window_by_loss_comes_back_to_where_it_was_and_then_goes_beyond() {
        let mut window = after_start(Congestion::Loss, 1_000_000);
        window.lost(at(0), at(0));
        assert_eq!(window.bytes(), 700_000);
        let mut reached = Vec::new();
        for trip in 1..=400 {
            (0..window.bytes() / 1_000).for_each(|_| window.acked(at(trip * 50), acked(1_000, 0)));
            reached.push(window.bytes());
        }
        // k = cbrt(300 / 0.4) = 9.1 s = 182 round trips.
        assert!(reached[100] < 1_000_000 && reached[100] > 900_000, "{}", reached[100]);
        assert!((980_000..=1_010_000).contains(&reached[182]), "{}", reached[182]);
        assert!(reached[399] > 1_200_000, "{}", reached[399]);
    }

    #[test]
    fn a_loss_that_was_none_is_undone() {
        let mut window = after_start(Congestion::Loss, 100_000);
        window.lost(at(10), at(5));
        window.was_no_loss();
        assert_eq!(window.bytes(), 100_000);
    }

    #[test]
    fn cube_roots_are_whole() {
        for value in [0, 1, 7, 8, 26, 27, 1_000_000_000, u64::MAX] {
            let root = u128::from(cube_root(value));
            assert!(root.pow(3) <= value.into() && (root + 1).pow(3) > value.into());
        }
    }
}
