//! Rates as sums over the last seconds, in integers: cheap to feed thousands of times a second.

use fairshare_wire::Instant;

/// Seconds that a [`RateMeter`] remembers.
const SECONDS: usize = 20;
/// Length of one bucket of a [`CapacityMeter`], in seconds.
const SPAN_SECS: u64 = 20;
/// Buckets of a [`CapacityMeter`]: ten minutes.
const SPANS: usize = 30;
/// What a line without limit and without history is taken to carry, in bytes per second.
//= spec/economy.md#52-price-and-charge
const CAPACITY_MIN: u64 = 10 << 20;

/// Bytes per slot of time, for the newest `N` slots.
#[derive(Clone, Debug)]
struct Ring<const N: usize> {
    slots: [u64; N],
    /// Number of the newest slot since the start of the clock.
    newest: u64,
}

impl<const N: usize> Ring<N> {
    const fn new() -> Self {
        Self { slots: [0; N], newest: 0 }
    }

    fn add(&mut self, slot: u64, bytes: u64) {
        if slot > self.newest {
            let passed = slot - self.newest;
            for step in 1..=passed.min(N as u64) {
                self.slots[index::<N>(self.newest + step)] = 0;
            }
            self.newest = slot;
        }
        let place = &mut self.slots[index::<N>(slot)];
        *place = place.saturating_add(bytes);
    }

    /// The sum over the slots `slot`, `slot - 1` and so on, `count` of them.
    fn sum(&self, slot: u64, count: u64) -> u64 {
        let oldest = (slot + 1).saturating_sub(count).max((self.newest + 1).saturating_sub(N as u64));
        (oldest..=slot.min(self.newest))
            .fold(0, |sum: u64, slot| sum.saturating_add(self.slots[index::<N>(slot)]))
    }
}

fn index<const N: usize>(slot: u64) -> usize {
    (slot % N as u64) as usize
}

/// Bytes of each of the last twenty seconds. Takes no memory before the first byte: most pair accounts are at rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct RateMeter(Option<Box<Ring<SECONDS>>>);

impl RateMeter {
    pub(crate) fn add(&mut self, now: Instant, bytes: u64) {
        self.0.get_or_insert_with(|| Box::new(Ring::new())).add(second(now), bytes);
    }

    /// Bytes in the last `seconds` seconds, the running one included; at most twenty.
    pub(crate) fn sum(&self, now: Instant, seconds: u64) -> u64 {
        self.0.as_ref().map_or(0, |ring| ring.sum(second(now), seconds))
    }
}

fn second(now: Instant) -> u64 {
    now.as_micros() / 1_000_000
}

/// The capacity of the line: the limit if one is set, else the best 20 s average of the last ten minutes.
#[derive(Clone, Debug)]
pub(crate) struct CapacityMeter {
    limit: Option<u64>,
    spans: Ring<SPANS>,
}

impl CapacityMeter {
    pub(crate) const fn new(limit: Option<u64>) -> Self {
        Self { limit, spans: Ring::new() }
    }

    pub(crate) fn sent(&mut self, now: Instant, bytes: u64) {
        self.spans.add(second(now) / SPAN_SECS, bytes);
    }

    pub(crate) fn bytes_per_second(&self) -> u64 {
        let best = self.spans.slots.iter().max().map_or(0, |most| most / SPAN_SECS);
        self.limit.unwrap_or_else(|| best.max(CAPACITY_MIN)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn old_seconds_fall_out_of_the_sum() {
        let mut meter = RateMeter::default();
        let at = |secs| Instant::START + Duration::from_secs(secs);
        meter.add(at(100), 5);
        meter.add(at(101), 7);
        assert_eq!(meter.sum(at(101), 10), 12);
        assert_eq!(meter.sum(at(110), 10), 7);
        assert_eq!(meter.sum(at(111), 10), 0);
        meter.add(at(500), 1);
        assert_eq!(meter.sum(at(500), 20), 1);
    }

    #[test]
    fn capacity_is_the_best_twenty_seconds() {
        let mut meter = CapacityMeter::new(None);
        assert_eq!(meter.bytes_per_second(), CAPACITY_MIN);
        meter.sent(Instant::START + Duration::from_secs(41), 20 * 50 * (1 << 20));
        assert_eq!(meter.bytes_per_second(), 50 << 20);
        meter.sent(Instant::START + Duration::from_secs(700), 1);
        assert_eq!(meter.bytes_per_second(), CAPACITY_MIN);
        assert_eq!(CapacityMeter::new(Some(7)).bytes_per_second(), 7);
    }
}
