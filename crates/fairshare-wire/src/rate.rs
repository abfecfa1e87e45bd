//! Rates: how often something may happen, overall and per source.

use crate::time::Instant;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// How much of something is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once, after a pause.
    pub burst: u32,
}

impl Rate {
    /// Whether `amount` more is allowed when everything up to `spent` is used up, and what is used up then.
    fn next(self, spent: Instant, now: Instant, amount: u32) -> Option<Instant> {
        let spent = spent.max(now);
        let cost = Duration::from_secs(1).saturating_mul(amount) / self.per_second.max(1);
        let room = Duration::from_secs(1).saturating_mul(self.burst) / self.per_second.max(1);
        (spent.since(now) + cost <= room).then(|| spent + cost)
    }
}

/// One limited thing.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    rate: Rate,
    spent: Instant,
}

impl Limit {
    /// Nothing taken yet.
    pub const fn new(rate: Rate) -> Self {
        Self { rate, spent: Instant::START }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.take_many(now, 1)
    }

    /// Takes `amount`, if there is so much.
    pub fn take_many(&mut self, now: Instant, amount: u32) -> bool {
        self.rate.next(self.spent, now, amount).map(|spent| self.spent = spent).is_some()
    }
}

/// Sources remembered at once: one that is idle is forgotten first, and a flood of more busy ones than this is a
/// flood of forged addresses.
const SOURCES_MAX: usize = 4_096;

/// The same limit for each source address on its own.
#[derive(Clone, Debug)]
pub struct SourceLimit {
    rate: Rate,
    spent: BTreeMap<IpAddr, Instant>,
    swept: Instant,
}

impl SourceLimit {
    /// How often at most the idle sources are looked for: it costs a walk over all.
    const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

    /// Nobody took anything yet.
    pub const fn new(rate: Rate) -> Self {
        Self { rate, spent: BTreeMap::new(), swept: Instant::START }
    }

    /// Takes one for `source`, if it has one.
    pub fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        let before = self.spent.get(&source).copied();
        if before.is_none() && !self.has_room(now) {
            return false;
        }
        let Some(next) = self.rate.next(before.unwrap_or(Instant::START), now, 1) else { return false };
        self.spent.insert(source, next);
        true
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.spent.len() >= SOURCES_MAX {
            self.sweep(now);
        }
        self.spent.len() < SOURCES_MAX
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept == Instant::START || now.since(self.swept) >= Self::SWEEP_INTERVAL {
            self.swept = now;
            self.spent.retain(|_, spent| *spent > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1_000)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut limit = Limit::new(RATE);
        let passed = |limit: &mut Limit, millis| (0..10).filter(|_| limit.take(at(millis))).count();
        assert_eq!(passed(&mut limit, 1_000), 3);
        assert_eq!(passed(&mut limit, 1_100), 1);
        assert_eq!(passed(&mut limit, 9_000), 3);
        assert!(!limit.take_many(at(20_000), 4) && limit.take_many(at(20_000), 3));
    }

    #[test]
    fn one_source_does_not_use_up_what_another_has() {
        let mut limit = SourceLimit::new(RATE);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        while limit.take(at(5), a) {}
        assert!(limit.take(at(5), b));
    }

    #[test]
    fn more_busy_sources_than_can_be_remembered_are_refused_until_some_are_idle() {
        let mut limit = SourceLimit::new(RATE);
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        let full = u32::try_from(SOURCES_MAX).expect("small");
        assert!((0..full).all(|n| limit.take(at(5), source(n))));
        assert!(!limit.take(at(6), source(full)));
        assert!(limit.take(at(2_000), source(full)));
        assert!(limit.spent.len() <= SOURCES_MAX);
    }
}
