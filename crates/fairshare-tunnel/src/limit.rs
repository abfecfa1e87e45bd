//! Rates: how often something may happen, overall and per source.

use fairshare_wire::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// How much of something is allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// In the long run.
    pub(crate) per_second: u32,
    /// At once, after a pause.
    pub(crate) burst: u32,
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
pub(crate) struct Limit {
    rate: Rate,
    spent: Instant,
}

impl Limit {
    pub(crate) const fn new(rate: Rate) -> Self {
        Self { rate, spent: Instant::START }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.take_many(now, 1)
    }

    /// Takes `amount`, if there is so much.
    pub(crate) fn take_many(&mut self, now: Instant, amount: u32) -> bool {
        self.rate.next(self.spent, now, amount).map(|spent| self.spent = spent).is_some()
    }
}

/// Sources remembered at once: one that is idle is forgotten first, and a flood of more busy ones than this is a
/// flood of forged addresses.
const SOURCES_MAX: usize = 4_096;
/// How often at most the idle sources are looked for: it costs a walk over all.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The same limit for each source address on its own.
#[derive(Clone, Debug)]
pub(crate) struct SourceLimit {
    rate: Rate,
    spent: BTreeMap<IpAddr, Instant>,
    swept: Instant,
}

impl SourceLimit {
    pub(crate) const fn new(rate: Rate) -> Self {
        Self { rate, spent: BTreeMap::new(), swept: Instant::START }
    }

    /// Takes `amount` for `source`, if it has so much.
    pub(crate) fn take(&mut self, now: Instant, source: IpAddr, amount: u32) -> bool {
        let before = self.spent.get(&source).copied();
        if before.is_none() && !self.has_room(now) {
            return false;
        }
        let Some(next) = self.rate.next(before.unwrap_or(Instant::START), now, amount) else {
            return false;
        };
        self.spent.insert(source, next);
        true
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.spent.len() < SOURCES_MAX {
            return true;
        }
        if self.swept == Instant::START || now.since(self.swept) >= SWEEP_INTERVAL {
            self.swept = now;
            self.spent.retain(|_, spent| *spent > now);
        }
        self.spent.len() < SOURCES_MAX
    }
}

/// The /24 of an IPv4 address, the /48 of an IPv6 address.
pub(crate) fn neighbourhood(ip: IpAddr) -> IpAddr {
    masked(ip, 24, 48)
}

/// The /16 of an IPv4 address, the /32 of an IPv6 address.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    masked(ip, 16, 32)
}

fn masked(ip: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << (32 - v4))).into(),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => masked(ip.into(), v4, v6),
            None => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - v6))).into(),
        },
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
    fn one_source_does_not_use_up_what_another_has_and_the_table_is_bounded() {
        let mut limit = SourceLimit::new(RATE);
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        while limit.take(at(5), source(1), 1) {}
        assert!(limit.take(at(5), source(2), 1));
        for n in 0..2 * u32::try_from(SOURCES_MAX).expect("small") {
            limit.take(at(6), source(n), 1);
        }
        assert_eq!(limit.spent.len(), SOURCES_MAX);
        assert!(limit.take(at(5_000), source(u32::MAX), 1));
    }

    #[test]
    fn networks_are_prefixes_also_of_mapped_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(network(ip("10.1.2.3")), ip("10.1.0.0"));
        assert_eq!(network(ip("::ffff:10.1.2.3")), ip("10.1.0.0"));
        assert_eq!(network(ip("2001:db8:1::1")), ip("2001:db8::"));
        assert_eq!(neighbourhood(ip("10.1.2.3")), ip("10.1.2.0"));
    }
}
