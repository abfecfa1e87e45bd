//! What each source may still send us: rates, and silence for those who brought a false proof.

use crate::output::Source;
use fairshare_crypto::{PublicKey, Rng};
use fairshare_wire::Instant;
use indexmap::IndexMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Blocks and proofs up to this size count as one, longer ones as several: ordinary ones are shorter, and what is kept
/// for ever must not grow faster because somebody makes it as long as a datagram.
const UNIT_LEN: usize = 1024;
/// Sources remembered at once. Forgetting one gives it a new allowance, so there is room for many.
const SOURCES_MAX: usize = 4096;
/// Unknown blocks of one source: a full crawl answer of 50 blocks with counterparts every second, and bursts of a
/// whole chain. 100 signatures are 4 ms of a core.
const BLOCKS: Rate = Rate { burst: 2000, per_second: 100 };
/// Unknown blocks of all sources together that do not concern us: 40 ms of a core each second.
const FOREIGN_BLOCKS: Rate = Rate { burst: 5000, per_second: 1000 };
/// Blocks we hand out to one source in answers to crawls: answers are larger than requests.
const ANSWERS: Rate = Rate { burst: 500, per_second: 50 };
/// New proofs of one source.
//= spec/trustchain.md#13-our-ledger-community
const PROOFS: Rate = Rate { burst: 20, per_second: 20 };
/// For how long nothing more is taken from the bringer of a false proof.
const SILENCE: Duration = Duration::from_secs(600);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// Blocks that were unknown.
    Blocks,
    /// Blocks and proofs in our answers.
    Answers,
    /// Fork proofs that were unknown.
    Proofs,
}

/// What receiving `len` bytes of a block or proof costs.
pub(super) fn cost_of(len: usize) -> u64 {
    len.div_ceil(UNIT_LEN).max(1) as u64
}

/// Allowances of all sources.
#[derive(Debug)]
pub(super) struct Sources {
    known: IndexMap<SourceName, Allowance>,
    foreign: Bucket,
    rng: Rng,
}

impl Sources {
    pub(super) fn new(rng: Rng) -> Self {
        Self { known: IndexMap::new(), foreign: Bucket::new(FOREIGN_BLOCKS), rng }
    }

    /// Whether `source` may have `cost` more of `share`; takes it if so. A cost beyond the burst is taken as debt
    /// as long as anything is left.
    pub(super) fn take(&mut self, now: Instant, source: Source, share: Share, cost: u64) -> bool {
        let allowance = self.allowance(source);
        match share {
            Share::Blocks => allowance.blocks.take(now, cost),
            Share::Answers => allowance.answers.take(now, cost),
            Share::Proofs => allowance.proofs.take(now, cost),
        }
    }

    /// Whether one more block that does not concern us fits the rate of all sources together.
    pub(super) fn take_foreign(&mut self, now: Instant) -> bool {
        self.foreign.take(now, 1)
    }

    /// Takes nothing more from `source` for a while.
    pub(super) fn silence(&mut self, now: Instant, source: Source) {
        self.allowance(source).silent_until = Some(now + SILENCE);
    }

    /// Whether `source` is silenced.
    pub(super) fn is_silenced(&self, now: Instant, source: Source) -> bool {
        let allowance = self.known.get(&SourceName::of(source));
        allowance.and_then(|allowance| allowance.silent_until).is_some_and(|until| now < until)
    }

    fn allowance(&mut self, source: Source) -> &mut Allowance {
        let name = SourceName::of(source);
        if self.known.len() >= SOURCES_MAX && !self.known.contains_key(&name) {
            // A random one goes: whoever fills the table cannot choose which.
            if let Some(index) = self.rng.index(self.known.len()) {
                self.known.swap_remove_index(index);
            }
        }
        self.known.entry(name).or_insert_with(Allowance::new)
    }
}

/// An address without its port, since ports are free; but with it on one machine, where peers share the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SourceName {
    Host(IpAddr),
    Local(SocketAddr),
    Key(PublicKey),
}

impl SourceName {
    const fn of(source: Source) -> Self {
        match source {
            Source::Address(address) if address.ip().is_loopback() => Self::Local(address),
            Source::Address(address) => Self::Host(address.ip()),
            Source::Connection(key) => Self::Key(key),
        }
    }
}

#[derive(Debug)]
struct Allowance {
    blocks: Bucket,
    answers: Bucket,
    proofs: Bucket,
    silent_until: Option<Instant>,
}

impl Allowance {
    const fn new() -> Self {
        Self {
            blocks: Bucket::new(BLOCKS),
            answers: Bucket::new(ANSWERS),
            proofs: Bucket::new(PROOFS),
            silent_until: None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u64,
    per_second: u64,
}

/// A token bucket in millionths, that may go into debt once.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// Millionths of a token; below 0 after a large answer.
    level: i64,
    filled: Option<Instant>,
}

const MILLION: i64 = 1_000_000;

impl Bucket {
    const fn new(rate: Rate) -> Self {
        Self { rate, level: 0, filled: None }
    }

    fn take(&mut self, now: Instant, cost: u64) -> bool {
        self.fill(now);
        if self.level <= 0 {
            return false;
        }
        let cost = i64::try_from(cost).unwrap_or(i64::MAX).saturating_mul(MILLION);
        self.level = self.level.saturating_sub(cost);
        true
    }

    fn fill(&mut self, now: Instant) {
        let full = i64::try_from(self.rate.burst).unwrap_or(i64::MAX).saturating_mul(MILLION);
        let Some(filled) = self.filled.replace(now) else {
            self.level = full;
            return;
        };
        // One token a second is one millionth a microsecond.
        let micros = u64::try_from(now.since(filled).as_micros()).unwrap_or(u64::MAX);
        let gained = i64::try_from(micros.saturating_mul(self.rate.per_second)).unwrap_or(i64::MAX);
        self.level = self.level.saturating_add(gained).min(full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(port: u16) -> Source {
        Source::Address(SocketAddr::from(([9, 9, 9, 9], port)))
    }

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    //= spec/trustchain.md#13-our-ledger-community
    #[test]
    fn a_source_gets_twenty_proofs_a_second_whatever_its_port() {
        let mut sources = Sources::new(Rng::from_seed([1; 32]));
        let mut taken = |second| {
            (0..100).filter(|port| sources.take(at(second), source(*port), Share::Proofs, 1)).count()
        };
        assert_eq!(taken(0), 20);
        assert_eq!(taken(0), 0);
        assert_eq!(taken(1), 20);
        assert_eq!(taken(100), 20);
    }

    #[test]
    fn long_ones_cost_more() {
        assert_eq!([0, 300, 1024, 1025, 65_507].map(cost_of), [1, 1, 1, 2, 64]);
    }

    #[test]
    fn a_silenced_source_is_heard_again_after_ten_minutes() {
        let mut sources = Sources::new(Rng::from_seed([1; 32]));
        sources.silence(at(0), source(1));
        assert!(sources.is_silenced(at(599), source(2)));
        assert!(!sources.is_silenced(at(600), source(1)));
        assert!(!sources.is_silenced(at(0), Source::Address(SocketAddr::from(([9, 9, 9, 8], 1)))));
    }

    #[test]
    fn the_table_of_sources_is_bounded() {
        let mut sources = Sources::new(Rng::from_seed([1; 32]));
        for number in 0..10_000u32 {
            let address = SocketAddr::from((number.to_be_bytes(), 1));
            assert!(sources.take(at(0), Source::Address(address), Share::Blocks, 1));
        }
        assert_eq!(sources.known.len(), SOURCES_MAX);
    }
}
