//! Hops that are kept: first hops for months, so that a hostile one is met rarely and not sooner or later, and middle
//! hops of hidden services for days.
//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node

use crate::candidates::{Candidate, Candidates};
use crate::path::weighted;
use crate::wire::Flags;
use fairshare_crypto::{KEY_LEN, PublicKey, Rng};
use fairshare_wire::{CommunityId, ReadError, Reader, Writer};

const DAY_MS: u64 = 86_400_000;
/// A kept hop that was out of reach for so long is replaced.
const UNREACHABLE_MS: u64 = DAY_MS;
/// A kept hop that did not answer is left alone for so long, if there are others.
const PAUSE_MS: u64 = 600_000;
/// More than the wanted number are added only while the others are out of reach, and never more than this: who makes
/// our guards fail moves us to few others.
const KEPT_MAX: usize = 8;

/// A guard is judged after so many circuits, and replaced if more than one of so many broke.
const JUDGED_AFTER: u32 = 50;
const BROKEN_MAX: u32 = 5;

const VERSION: u8 = 1;

/// A layer of hops that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    /// First hops: two that are used, and a spare.
    First,
    /// Middle hops of hidden services.
    Middle,
}

impl Layer {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::First),
            1 => Some(Self::Middle),
            _ => None,
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::First => 0,
            Self::Middle => 1,
        }
    }

    /// How many are kept.
    const fn kept(self) -> usize {
        match self {
            Self::First => 3,
            Self::Middle => 6,
        }
    }

    /// How many of them are used while they answer.
    const fn used(self) -> usize {
        match self {
            Self::First => 2,
            Self::Middle => 6,
        }
    }

    /// For how many days: at least, and less than.
    const fn days(self) -> (u64, u64) {
        match self {
            Self::First => (60, 120),
            Self::Middle => (1, 14),
        }
    }
}

/// A kept hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guard {
    layer: Layer,
    key: PublicKey,
    until_ms: u64,
    /// When it was last in reach.
    seen_ms: u64,
    /// It did not answer, and is left alone until then. Not kept for the next run.
    paused_ms: Option<u64>,
    /// Circuits over it, and how many of them it did not extend to their end. Not kept for the next run.
    built: u32,
    broken: u32,
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
        let count = usize::from(input.u8()?).min(2 * KEPT_MAX);
        let list = (0..count).map(|_| read_guard(&mut input)).collect::<Result<_, _>>()?;
        Ok(Self { list })
    }

    /// The record to keep.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION).u8(u8::try_from(self.list.len()).expect("a handful"));
        for guard in &self.list {
            out.u8(guard.layer.number()).bytes(guard.key.as_bytes()).u64(guard.until_ms).u64(guard.seen_ms);
        }
        out.finish()
    }

    /// A candidate with this key is here.
    pub(crate) fn seen(&mut self, key: &PublicKey, unix_ms: u64) {
        for guard in self.list.iter_mut().filter(|guard| guard.key == *key && guard.paused_ms.is_none()) {
            guard.seen_ms = unix_ms;
        }
    }

    /// It became a hop when it was asked, or did not.
    pub(crate) fn answered(&mut self, key: &PublicKey, success: bool, unix_ms: u64) {
        for guard in self.list.iter_mut().filter(|guard| guard.key == *key) {
            if success {
                guard.seen_ms = unix_ms;
            }
            guard.paused_ms = (!success).then(|| unix_ms.saturating_add(PAUSE_MS));
        }
    }

    /// A circuit over it came to stand, or did not although it answered. `true` if it is not kept any more: it takes
    /// too few circuits to their end, by choice or not.
    //= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
    pub(crate) fn built(&mut self, key: &PublicKey, stands: bool) -> bool {
        let before = self.list.len();
        self.list.retain_mut(|guard| {
            if guard.key != *key {
                return true;
            }
            guard.built += 1;
            guard.broken += u32::from(!stands);
            if guard.built < JUDGED_AFTER {
                return true;
            }
            let good = guard.broken * BROKEN_MAX <= guard.built;
            (guard.built, guard.broken) = (0, 0);
            good
        });
        self.list.len() != before
    }

    /// Drops those whose time is over or that were out of reach for long. `true` if any went.
    pub(crate) fn expire(&mut self, unix_ms: u64) -> bool {
        let before = self.list.len();
        self.list.retain(|guard| {
            guard.until_ms > unix_ms && unix_ms.saturating_sub(guard.seen_ms) < UNREACHABLE_MS
        });
        self.list.len() != before
    }

    /// The kept hops that are in reach in a community, in the order in which they are to be tried: those that are used,
    /// by lot, then the spare, then those that did not answer lately. New ones are kept first, if there are not enough.
    pub(crate) fn order(
        &mut self,
        layer: Layer,
        community: CommunityId,
        candidates: &Candidates,
        unix_ms: u64,
        rng: &mut Rng,
    ) -> Vec<PublicKey> {
        self.fill(layer, community, candidates, unix_ms, rng);
        let here = |guard: &&Guard| guard.layer == layer && is_here(candidates, community, &guard.key);
        let (mut answering, silent): (Vec<&Guard>, Vec<&Guard>) = self
            .list
            .iter()
            .filter(here)
            .partition(|guard| guard.paused_ms.is_none_or(|until| until <= unix_ms));
        let used = layer.used().min(answering.len());
        rng.shuffle(&mut answering[..used]);
        answering.iter().chain(&silent).map(|guard| guard.key).collect()
    }

    /// Keeps new ones until there are enough, or enough in reach.
    fn fill(
        &mut self,
        layer: Layer,
        community: CommunityId,
        candidates: &Candidates,
        unix_ms: u64,
        rng: &mut Rng,
    ) {
        loop {
            let kept = self.list.iter().filter(|guard| guard.layer == layer);
            let in_reach = kept.clone().filter(|guard| {
                guard.paused_ms.is_none_or(|until| until <= unix_ms)
                    && is_here(candidates, community, &guard.key)
            });
            let (kept, in_reach) = (kept.count(), in_reach.count());
            if kept >= layer.kept() && in_reach > 0 || kept >= KEPT_MAX {
                return;
            }
            let Some(key) = self.sample(community, candidates, rng) else { return };
            let (least, most) = layer.days();
            let until_ms = unix_ms.saturating_add(least * DAY_MS + rng.below((most - least) * DAY_MS));
            self.list.push(Guard {
                layer,
                key,
                until_ms,
                seen_ms: unix_ms,
                paused_ms: None,
                built: 0,
                broken: 0,
            });
        }
    }

    /// A relay that is not kept yet: one that is known, unless nobody is; one that is no exit, unless all are.
    fn sample(&self, community: CommunityId, candidates: &Candidates, rng: &mut Rng) -> Option<PublicKey> {
        let free: Vec<(&PublicKey, &Candidate)> = candidates
            .offering(community, Flags::RELAY)
            .filter(|(key, _)| !self.list.iter().any(|guard| guard.key == **key))
            .collect();
        let known = narrowed(free, Candidate::is_known);
        let plain =
            narrowed(known, |one| !one.offers.get(&community).is_some_and(|flags| flags.has(Flags::EXIT_BT)));
        let count = candidates.len();
        weighted(plain, |(_, one)| one.weight(count), rng).map(|(key, _)| *key)
    }
}

/// Those that suit, unless none does.
fn narrowed<'a>(
    pool: Vec<(&'a PublicKey, &'a Candidate)>,
    suits: impl Fn(&Candidate) -> bool,
) -> Vec<(&'a PublicKey, &'a Candidate)> {
    let some: Vec<_> = pool.iter().copied().filter(|(_, one)| suits(one)).collect();
    if some.is_empty() { pool } else { some }
}

/// Whether a candidate with this key relays in a community.
fn is_here(candidates: &Candidates, community: CommunityId, key: &PublicKey) -> bool {
    candidates
        .get(key)
        .and_then(|one| one.offers.get(&community))
        .is_some_and(|flags| flags.has(Flags::RELAY))
}

fn read_guard(input: &mut Reader<'_>) -> Result<Guard, ReadError> {
    let layer = Layer::from_number(input.u8()?).ok_or(ReadError::Value("layer"))?;
    let key = PublicKey::from_bytes(input.array::<KEY_LEN>()?);
    Ok(Guard {
        layer,
        key,
        until_ms: input.u64()?,
        seen_ms: input.u64()?,
        paused_ms: None,
        built: 0,
        broken: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::SecretKey;

    const HERE: CommunityId = CommunityId([1; 20]);

    fn key(seed: u8) -> PublicKey {
        SecretKey::generate(&mut Rng::from_seed([seed; 32])).public()
    }

    fn town(count: u8) -> Candidates {
        let mut candidates = Candidates::default();
        for seed in 1..=count {
            let address = format!("{seed}.1.1.1:1").parse().expect("an address");
            assert!(candidates.found(HERE, key(seed), address, Flags::RELAY, true));
        }
        candidates
    }

    fn firsts(guards: &mut Guards, candidates: &Candidates, at: u64) -> Vec<PublicKey> {
        guards.expire(at);
        guards.order(Layer::First, HERE, candidates, at, &mut Rng::from_seed([9; 32]))
    }

    fn see_all(guards: &mut Guards, candidates: &Candidates, at: u64) {
        for (key, _) in candidates.offering(HERE, Flags::NONE) {
            guards.seen(key, at);
        }
    }

    //= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
    #[test]
    fn three_are_kept_for_months_and_survive_a_restart() {
        let (candidates, mut guards) = (town(30), Guards::default());
        let chosen = firsts(&mut guards, &candidates, 0);
        assert_eq!(chosen.len(), 3);
        for day in 1..60 {
            see_all(&mut guards, &candidates, day * DAY_MS);
            guards = Guards::parse(&guards.to_bytes()).expect("as written");
            let mut again = firsts(&mut guards, &candidates, day * DAY_MS);
            again.sort_unstable();
            let mut sorted = chosen.clone();
            sorted.sort_unstable();
            assert_eq!(again, sorted, "day {day}");
        }
        see_all(&mut guards, &candidates, 120 * DAY_MS);
        assert_eq!(firsts(&mut guards, &candidates, 120 * DAY_MS).len(), 3);
        assert!(guards.list.iter().all(|guard| guard.until_ms >= 180 * DAY_MS), "chosen anew");
    }

    //= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
    #[test]
    fn one_that_does_not_answer_is_tried_last_and_replaced_after_a_day() {
        let (candidates, mut guards) = (town(30), Guards::default());
        let chosen = firsts(&mut guards, &candidates, 0);
        guards.answered(&chosen[0], false, 1_000);
        let now = firsts(&mut guards, &candidates, 2_000);
        assert_eq!((now.len(), now.last()), (3, Some(&chosen[0])));
        // That it introduces itself is no proof that it answers.
        see_all(&mut guards, &candidates, DAY_MS - 1);
        assert!(firsts(&mut guards, &candidates, DAY_MS - 1).contains(&chosen[0]));
        assert!(!firsts(&mut guards, &candidates, DAY_MS).contains(&chosen[0]));
        assert!(firsts(&mut guards, &candidates, DAY_MS).contains(&chosen[1]));
    }

    #[test]
    fn however_many_fail_only_a_few_are_ever_kept() {
        let (candidates, mut guards) = (town(40), Guards::default());
        for _ in 0..50 {
            for key in firsts(&mut guards, &candidates, 1_000) {
                guards.answered(&key, false, 1_000);
            }
        }
        assert_eq!(guards.list.len(), KEPT_MAX);
        assert_eq!(firsts(&mut guards, &candidates, 2_000).len(), KEPT_MAX, "the best there is");
    }

    //= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
    #[test]
    fn one_that_takes_too_few_circuits_to_their_end_is_replaced() {
        let (candidates, mut guards) = (town(30), Guards::default());
        let chosen = firsts(&mut guards, &candidates, 0);
        let judged = |guards: &mut Guards, broken: u32| {
            (0..JUDGED_AFTER).any(|number| guards.built(&chosen[0], number >= broken))
        };
        assert!(!judged(&mut guards, 10));
        assert!(judged(&mut guards, 11));
        assert!(!firsts(&mut guards, &candidates, 0).contains(&chosen[0]));
    }

    #[test]
    fn who_is_known_is_kept_before_strangers() {
        let (mut candidates, mut guards) = (town(30), Guards::default());
        for seed in [4, 9, 11] {
            candidates.set_standing(&key(seed), 1);
        }
        let mut chosen = firsts(&mut guards, &candidates, 0);
        chosen.sort_unstable();
        let mut known = [4, 9, 11].map(key);
        known.sort_unstable();
        assert_eq!(chosen, known);
    }

    #[test]
    fn a_record_that_is_cut_off_is_not_read() {
        let (candidates, mut guards) = (town(3), Guards::default());
        firsts(&mut guards, &candidates, 0);
        let bytes = guards.to_bytes();
        assert_eq!(Guards::parse(&bytes), Ok(guards));
        for len in 0..bytes.len() {
            assert!(Guards::parse(&bytes[..len]).is_err());
        }
        assert!(Guards::parse(&[2, 0]).is_err() && Guards::parse(&[1, 1, 7]).is_err());
    }
}
