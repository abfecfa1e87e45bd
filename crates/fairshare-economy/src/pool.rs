//! The stranger pool: what those may take who have not given yet. Bounded three ways: per key by `stranger_bytes`
//! (in the verdict), per address by a token bucket, and for all together by a share of the capacity.
//= spec/economy.md#53-verdict-grant-settlement

use fairshare_wire::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Charged bytes that one bucket holds, and that flow back into it each day.
pub(crate) const BUCKET: u64 = 16 << 20;
/// The most buckets that are remembered. One that is full again is forgotten; when all are in use, addresses never
/// seen before get nothing until tomorrow.
pub(crate) const BUCKETS_MAX: usize = 65_536;

const DAY_MS: u64 = 86_400_000;
/// Share of the capacity that is always the strangers', in percent.
const RESERVED_PERCENT: u64 = 5;
/// Share of the capacity that strangers may have when nobody with standing wants it, in percent.
const IDLE_PERCENT: u64 = 25;
/// What may have been saved up, at least: a few blocks, so that slow lines serve strangers at all.
const SAVED_MIN: u64 = 256 << 10;

/// Addresses that share a bucket.
//= spec/economy.md#53-verdict-grant-settlement
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prefix {
    /// A public IPv4 network of 24 bits.
    V4([u8; 3]),
    /// A public IPv6 network of 48 bits.
    V6([u8; 6]),
    /// A loopback, private or link-local address stands for itself.
    Single(IpAddr),
}

impl Prefix {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(ip) if is_local_v4(ip) => Self::Single(IpAddr::V4(ip)),
            IpAddr::V6(ip) if is_local_v6(ip) => Self::Single(IpAddr::V6(ip)),
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }
}

const fn is_local_v4(ip: Ipv4Addr) -> bool {
    ip.is_loopback() || ip.is_private() || ip.is_link_local()
}

const fn is_local_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
}

/// How much of a bucket is gone, and since when it refills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drawn {
    pub(crate) charged: u64,
    pub(crate) unix_ms: u64,
}

impl Drawn {
    fn at(self, unix_ms: u64) -> u64 {
        let passed = unix_ms.saturating_sub(self.unix_ms).min(DAY_MS);
        self.charged.saturating_sub(passed * BUCKET / DAY_MS)
    }
}

/// The buckets of all addresses; one that is not listed is full.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buckets(BTreeMap<Prefix, Drawn>);

impl Buckets {
    pub(crate) fn restore(drawn: impl IntoIterator<Item = (Prefix, Drawn)>) -> Self {
        Self(drawn.into_iter().take(BUCKETS_MAX).collect())
    }

    /// The buckets that are not full.
    pub(crate) fn drawn(&mut self, unix_ms: u64) -> impl Iterator<Item = (&Prefix, &Drawn)> {
        self.0.retain(|_, drawn| drawn.at(unix_ms) > 0);
        self.0.iter()
    }

    /// Charged bytes left for `prefix`.
    pub(crate) fn left(&self, prefix: Prefix, unix_ms: u64) -> u64 {
        match self.0.get(&prefix) {
            Some(drawn) => BUCKET.saturating_sub(drawn.at(unix_ms)),
            None if self.0.len() >= BUCKETS_MAX => 0,
            None => BUCKET,
        }
    }

    /// Takes what a grant reserves; the caller has seen that it is there.
    pub(crate) fn take(&mut self, prefix: Prefix, unix_ms: u64, charged: u64) {
        let drawn = self.0.entry(prefix).or_insert(Drawn { charged: 0, unix_ms });
        *drawn = Drawn { charged: drawn.at(unix_ms).saturating_add(charged), unix_ms };
        if self.0.len() >= BUCKETS_MAX {
            self.0.retain(|_, drawn| drawn.at(unix_ms) > 0);
        }
    }

    /// Gives back what a grant reserved and was never sent.
    pub(crate) fn give_back(&mut self, prefix: Prefix, unix_ms: u64, charged: u64) {
        if let Some(drawn) = self.0.get_mut(&prefix) {
            *drawn = Drawn { charged: drawn.at(unix_ms).saturating_sub(charged), unix_ms };
        }
    }
}

/// The strangers' share of the line: real bytes that may be sent to them now.
#[derive(Clone, Debug)]
pub(crate) struct PoolRate {
    saved: u64,
    at: Instant,
}

impl PoolRate {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { saved: SAVED_MIN, at: now }
    }

    /// Bytes that may be sent now. `standing` = bytes sent in the last ten seconds to peers that earned them: what
    /// they leave of the capacity is the strangers', within the two shares.
    pub(crate) fn available(&mut self, now: Instant, capacity: u64, standing: u64) -> u64 {
        let idle = capacity.saturating_sub(standing / 10);
        let rate = idle.min(capacity / 100 * IDLE_PERCENT).max(capacity / 100 * RESERVED_PERCENT);
        let passed = now.since(self.at).min(Duration::from_secs(1)).as_micros();
        let gained = u64::try_from(u128::from(rate) * passed / 1_000_000).unwrap_or(u64::MAX);
        if gained > 0 {
            self.saved = self.saved.saturating_add(gained).min(rate.max(SAVED_MIN));
            self.at = now;
        }
        self.saved
    }

    /// `bytes` of it may be sent by a session from now on.
    pub(crate) fn take(&mut self, bytes: u64) {
        self.saved = self.saved.saturating_sub(bytes);
    }

    /// A session stopped before it used what it had been allowed.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        self.saved = self.saved.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::of(text.parse().expect("address"))
    }

    //= spec/economy.md#53-verdict-grant-settlement
    #[test]
    fn networks_share_a_bucket_and_local_addresses_do_not() {
        assert_eq!(prefix("8.8.8.8"), prefix("8.8.8.200"));
        assert_eq!(prefix("8.8.8.8"), prefix("::ffff:8.8.8.9"));
        assert_ne!(prefix("8.8.8.8"), prefix("8.8.9.8"));
        assert_eq!(prefix("2001:db8:1:2::3"), prefix("2001:db8:1:ffff::"));
        assert_ne!(prefix("2001:db8:1::"), prefix("2001:db8:2::"));
        for (a, b) in [("127.0.0.1", "127.0.0.2"), ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            assert_ne!(prefix(a), prefix(b));
        }
    }

    #[test]
    fn a_bucket_refills_in_a_day() {
        let (mut buckets, home) = (Buckets::default(), prefix("8.8.8.8"));
        assert_eq!(buckets.left(home, 0), BUCKET);
        buckets.take(home, 0, BUCKET);
        assert_eq!(buckets.left(home, 0), 0);
        assert_eq!(buckets.left(prefix("8.8.9.8"), 0), BUCKET);
        assert_eq!(buckets.left(home, DAY_MS / 4), BUCKET / 4);
        buckets.give_back(home, DAY_MS / 4, BUCKET / 2);
        assert_eq!(buckets.left(home, DAY_MS / 2), BUCKET);
        assert_eq!(buckets.drawn(DAY_MS).count(), 0);
    }

    #[test]
    fn unknown_addresses_get_nothing_when_all_buckets_are_in_use() {
        let mut buckets = Buckets::default();
        for n in 0..BUCKETS_MAX as u32 {
            buckets.take(Prefix::of(IpAddr::V4(Ipv4Addr::from(0x0b00_0000 | (n << 8)))), 0, BUCKET);
        }
        let fresh = prefix("9.9.9.9");
        assert_eq!(buckets.left(fresh, 0), 0);
        assert_eq!(buckets.drawn(DAY_MS).count(), 0);
        assert_eq!(buckets.left(fresh, DAY_MS), BUCKET);
    }

    #[test]
    fn strangers_get_a_quarter_of_an_idle_line_and_a_twentieth_of_a_busy_one() {
        let capacity = 100 << 20;
        let second = |n| Instant::START + Duration::from_secs(n);
        let mut rate = PoolRate::new(second(0));
        assert_eq!(rate.available(second(1), capacity, 0), capacity / 4);
        rate.take(capacity / 4);
        assert_eq!(rate.available(second(1), capacity, 0), 0);
        assert_eq!(rate.available(second(2), capacity, capacity * 10), capacity / 20);
        rate.take(capacity / 20);
        assert_eq!(rate.available(second(3), capacity, capacity * 9), capacity / 10);
    }
}
