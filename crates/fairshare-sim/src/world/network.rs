//! The virtual network: what becomes of a datagram, how far machines are from each other, and who is cut off.

use crate::scenario::{between, millis};
use bytes::Bytes;
use fairshare_crypto::Rng;
use fairshare_wire::Instant;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

const LATENCY_MS: RangeInclusive<u64> = 5..=80;
/// Late enough to be overtaken by what was sent afterwards.
const REORDERED_MS: RangeInclusive<u64> = 50..=600;

/// How bad the network is, each as one in so many datagrams; 0 = never.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    lost: u64,
    doubled: u64,
    reordered: u64,
    damaged: u64,
}

/// The network between the machines.
pub(crate) struct Network {
    rng: Rng,
    weather: Weather,
    latency: BTreeMap<(usize, usize), Duration>,
    cuts: BTreeMap<(usize, usize), Instant>,
}

impl Network {
    pub(crate) fn new(mut rng: Rng, machines: usize, faults: bool) -> Self {
        let weather = if faults {
            Weather { lost: between(&mut rng, &(4..=40)), doubled: 20, reordered: 10, damaged: 200 }
        } else {
            Weather::default()
        };
        let mut latency = BTreeMap::new();
        for a in 0..machines {
            for b in a..machines {
                latency.insert((a, b), millis(&mut rng, LATENCY_MS));
            }
        }
        Self { rng, weather, latency, cuts: BTreeMap::new() }
    }

    /// From now on nothing goes wrong.
    pub(crate) fn heal(&mut self) {
        self.weather = Weather::default();
        self.cuts.clear();
    }

    /// Cuts two machines off from each other.
    pub(crate) fn cut(&mut self, between: (usize, usize), until: Instant) {
        self.cuts.insert(pair(between), until);
    }

    pub(crate) fn is_cut(&self, now: Instant, between: (usize, usize)) -> bool {
        self.cuts.get(&pair(between)).is_some_and(|until| now < *until)
    }

    /// The way between two machines, in one direction.
    pub(crate) fn latency(&self, between: (usize, usize)) -> Duration {
        self.latency.get(&pair(between)).copied().unwrap_or_default()
    }

    /// When and how a datagram arrives: never, once, or twice.
    pub(crate) fn deliveries(
        &mut self,
        now: Instant,
        between: (usize, usize),
        bytes: &Bytes,
    ) -> Vec<(Instant, Bytes)> {
        if self.is_cut(now, between) || self.strikes(self.weather.lost) {
            return Vec::new();
        }
        let copies = if self.strikes(self.weather.doubled) { 2 } else { 1 };
        (0..copies).map(|_| self.delivery(now, between, bytes)).collect()
    }

    fn delivery(&mut self, now: Instant, between: (usize, usize), bytes: &Bytes) -> (Instant, Bytes) {
        let latency = self.latency(between);
        let jitter = Duration::from_micros(self.rng.below(3_000));
        let late = if self.strikes(self.weather.reordered) {
            millis(&mut self.rng, REORDERED_MS)
        } else {
            Duration::ZERO
        };
        let damaged = self.strikes(self.weather.damaged);
        let bytes = if damaged { self.damage(bytes) } else { bytes.clone() };
        (now + latency + jitter + late, bytes)
    }

    fn damage(&mut self, bytes: &Bytes) -> Bytes {
        let mut damaged = bytes.to_vec();
        if let Some(at) = self.rng.index(damaged.len()) {
            damaged[at] ^= 1 << self.rng.below(8);
        }
        damaged.into()
    }

    fn strikes(&mut self, one_in: u64) -> bool {
        one_in > 0 && self.rng.chance(1, one_in)
    }
}

fn pair((a, b): (usize, usize)) -> (usize, usize) {
    (a.min(b), a.max(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healed_network_delivers_once_and_whole() {
        let mut network = Network::new(Rng::from_seed([1; 32]), 2, true);
        let bytes = Bytes::from_static(b"datagram");
        let now = Instant::from_micros(10);
        let whole = |network: &mut Network| {
            let deliveries = network.deliveries(now, (0, 1), &bytes);
            deliveries.len() == 1 && deliveries[0].1 == bytes
        };
        assert!(!(0..1_000).all(|_| whole(&mut network)));
        network.cut((1, 0), now + Duration::from_secs(1));
        assert_eq!(network.deliveries(now, (0, 1), &bytes), []);
        network.heal();
        assert!((0..1_000).all(|_| whole(&mut network)));
    }
}
