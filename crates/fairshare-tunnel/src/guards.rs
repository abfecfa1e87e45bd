//! First hops that are kept for months, so that a hostile one is met rarely and not sooner or later.
//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node

use fairshare_crypto::{KEY_LEN, PublicKey, Rng};
use fairshare_wire::{ReadError, Reader, Writer};

/// Guards that are used, and one more in reserve.
pub(crate) const GUARDS: usize = 2;
const KEPT: usize = 3;
/// More are added only while the others are out of reach.
const KEPT_MAX: usize = 8;
const DAY_MS: u64 = 86_400_000;
/// A guard is kept for a random time between these.
const KEPT_DAYS_MIN: u64 = 60;
const KEPT_DAYS_SPAN: u64 = 61;
/// A guard that was out of reach for so long is replaced.
const UNREACHABLE_MS: u64 = DAY_MS;

const VERSION: u8 = 1;

/// A kept first hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guard {
    key: PublicKey,
    until_ms: u64,
    /// When it was last seen as a candidate, or chosen.
    seen_ms: u64,
}

/// All of them, in the order in which they were chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guards {
    list: Vec<Guard>,
}

impl Guards {
    /// Reads what was kept by an earlier run.
    ///
    /// # Errors
    /// It was written by another version or is damaged.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(bytes);
        if input.u8()? != VERSION {
            return Err(ReadError::Value("version"));
        }
        let count = usize::from(input.u8()?).min(KEPT_MAX);
        let list = (0..count)
            .map(|_| {
                let key = PublicKey::from_bytes(input.array::<KEY_LEN>()?);
                Ok(Guard { key, until_ms: input.u64()?, seen_ms: input.u64()? })
            })
            .collect::<Result<_, ReadError>>()?;
        Ok(Self { list })
    }

    /// The record to keep.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION).u8(u8::try_from(self.list.len()).expect("a handful"));
        for guard in &self.list {
            out.bytes(guard.key.as_bytes()).u64(guard.until_ms).u64(guard.seen_ms);
        }
        out.finish()
    }

    /// A candidate with this key is here.
    pub(crate) fn seen(&mut self, key: &PublicKey, unix_ms: u64) {
        if let Some(guard) = self.list.iter_mut().find(|guard| guard.key == *key) {
            guard.seen_ms = unix_ms;
        }
    }

    /// Drops those whose time is over or that were out of reach for long. `true` if any went.
    pub(crate) fn expire(&mut self, unix_ms: u64) -> bool {
        let before = self.list.len();
        self.list.retain(|guard| {
            guard.until_ms > unix_ms && unix_ms.saturating_sub(guard.seen_ms) < UNREACHABLE_MS
        });
        self.list.len() != before
    }

    /// The guards in order of preference.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.list.iter().map(|guard| &guard.key)
    }

    /// Whether there are enough, in reach or not.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= KEPT
    }

    /// Keeps one more.
    pub(crate) fn add(&mut self, key: PublicKey, unix_ms: u64, rng: &mut Rng) {
        if self.list.len() >= KEPT_MAX || self.keys().any(|known| *known == key) {
            return;
        }
        let days = KEPT_DAYS_MIN + rng.below(KEPT_DAYS_SPAN);
        self.list.push(Guard { key, until_ms: unix_ms.saturating_add(days * DAY_MS), seen_ms: unix_ms });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::SecretKey;

    fn key(seed: u8) -> PublicKey {
        SecretKey::generate(&mut Rng::from_seed([seed; 32])).public()
    }

    //= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
    #[test]
    fn a_guard_stays_for_months_unless_it_is_gone_for_a_day() {
        let mut rng = Rng::from_seed([1; 32]);
        let mut guards = Guards::default();
        guards.add(key(1), 0, &mut rng);
        guards.add(key(2), 0, &mut rng);
        for day in 1..60 {
            guards.seen(&key(1), day * DAY_MS);
            if day < 3 {
                guards.seen(&key(2), day * DAY_MS);
            }
            guards.expire(day * DAY_MS);
        }
        assert_eq!(guards.keys().collect::<Vec<_>>(), [&key(1)]);
        guards.seen(&key(1), 121 * DAY_MS);
        assert!(guards.expire(121 * DAY_MS) && guards.list.is_empty());
    }

    #[test]
    fn guards_outlive_the_process() {
        let mut guards = Guards::default();
        (1..=3).for_each(|seed| guards.add(key(seed), 7, &mut Rng::from_seed([seed; 32])));
        assert!(guards.is_full());
        let bytes = guards.to_bytes();
        assert_eq!(Guards::parse(&bytes), Ok(guards));
        for len in 0..bytes.len() {
            assert!(Guards::parse(&bytes[..len]).is_err());
        }
    }
}
