//! The choice of a path: every hop by ourselves, before the first cell.
//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node

use crate::candidates::{Candidate, Candidates};
use crate::guards::{Guards, Layer};
use crate::network::network;
use crate::output::GroupSpec;
use crate::wire::Flags;
use fairshare_crypto::{PublicKey, Rng};
use fairshare_wire::{CommunityId, Now};
use std::net::{IpAddr, SocketAddr};

/// Last hops tried with the guards before the choice is given up.
const LASTS_MAX: usize = 16;

/// Who is shunned weighs so many times less: next to nothing, but more than nobody.
const SHUNNED: u64 = 1_000;

/// A chosen hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Its tunnel key.
    pub(crate) key: PublicKey,
    /// Where it answers.
    pub(crate) address: SocketAddr,
}

/// What a path must be like.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// How many hops.
    pub(crate) hops: usize,
    /// These very hops.
    pub(crate) forced: Option<Vec<PublicKey>>,
    /// What the last hop must offer.
    pub(crate) need: Flags,
    /// The last hop itself, known or not.
    pub(crate) last: Option<Hop>,
    /// Hops that are taken only if there are no others: they stand on the group's other circuits.
    pub(crate) shun: Vec<PublicKey>,
    /// Middle hops are kept for days: for hidden services, whose circuits somebody else can make us build.
    pub(crate) kept_middle: bool,
    /// Only in this community.
    pub(crate) community: Option<CommunityId>,
}

impl Wish {
    /// So many hops, the last of which offers this.
    pub(crate) const fn new(hops: usize, need: Flags) -> Self {
        Self { hops, forced: None, need, last: None, shun: Vec::new(), kept_middle: false, community: None }
    }

    /// What a group wants.
    pub(crate) fn of(spec: &GroupSpec) -> Self {
        let hops = spec.path.as_ref().map_or_else(|| usize::from(spec.hops), Vec::len);
        Self { forced: spec.path.clone(), ..Self::new(hops.max(1), spec.need) }
    }
}

/// What a choice is made from.
pub(crate) struct Choice<'a> {
    pub(crate) candidates: &'a Candidates,
    pub(crate) guards: &'a mut Guards,
    pub(crate) rng: &'a mut Rng,
    pub(crate) own: &'a [SocketAddr],
    pub(crate) me: &'a PublicKey,
    pub(crate) allow_same_subnet: bool,
    pub(crate) now: Now,
}

impl Choice<'_> {
    /// A path in the first of these communities that has one.
    pub(crate) fn path(
        &mut self,
        communities: &[CommunityId],
        wish: &Wish,
    ) -> Option<(CommunityId, Vec<Hop>)> {
        let wanted = |community: &&CommunityId| wish.community.is_none_or(|only| only == **community);
        communities.iter().filter(wanted).find_map(|community| {
            let path = match &wish.forced {
                Some(keys) => self.forced(*community, keys),
                // One stranger of three hops, and no stranger first, if there are enough others.
                None => self.chosen(*community, wish, true).or_else(|| self.chosen(*community, wish, false)),
            };
            path.map(|path| (*community, path))
        })
    }

    fn forced(&self, community: CommunityId, keys: &[PublicKey]) -> Option<Vec<Hop>> {
        let known = |key: &PublicKey| {
            let one = self.candidates.get(key).filter(|one| one.offers.contains_key(&community))?;
            Some(Hop { key: *key, address: one.address })
        };
        keys.iter().map(known).collect()
    }

    /// From both ends to the middle: exits are rare and guards are given, other relays are many.
    fn chosen(&mut self, community: CommunityId, wish: &Wish, strict: bool) -> Option<Vec<Hop>> {
        let lasts = self.lasts(community, wish);
        if wish.hops <= 1 {
            return lasts.first().map(|last| vec![*last]);
        }
        let guards = self.guards.order(Layer::First, community, self.candidates, self.now.unix_ms, self.rng);
        let firsts: Vec<Hop> = guards.iter().filter_map(|key| self.hop(key)).collect();
        for last in lasts {
            for first in &firsts {
                let unfit = !self.fits(first, &[last]) || strict && self.strangers(&[*first]) > 0;
                if unfit {
                    continue;
                }
                if let Some(path) = self.between(community, wish, [*first, last], strict) {
                    return Some(path);
                }
            }
        }
        None
    }

    /// Puts the middle between both ends.
    fn between(
        &mut self,
        community: CommunityId,
        wish: &Wish,
        ends: [Hop; 2],
        strict: bool,
    ) -> Option<Vec<Hop>> {
        let mut path = ends.to_vec();
        while path.len() < wish.hops {
            let middle = self.middle(community, &path, wish, strict)?;
            path.insert(path.len() - 1, middle);
        }
        (!strict || self.strangers(&path) <= 1).then_some(path)
    }

    fn middle(&mut self, community: CommunityId, path: &[Hop], wish: &Wish, strict: bool) -> Option<Hop> {
        if wish.kept_middle {
            let kept =
                self.guards.order(Layer::Middle, community, self.candidates, self.now.unix_ms, self.rng);
            let mut hops = kept.iter().filter_map(|key| self.hop(key));
            if let Some(hop) = hops.find(|hop| self.fits(hop, path)) {
                return Some(hop);
            }
        }
        let room = !strict || self.strangers(path) == 0;
        let fitting = self.fitting(community, Flags::RELAY, path, wish);
        let known = |hop: &Hop| room || self.strangers(&[*hop]) == 0;
        let pool = fitting.into_iter().filter(|(hop, _)| known(hop)).collect();
        weighted(pool, |(_, weight)| *weight, self.rng).map(|(hop, _)| hop)
    }

    /// Last hops in the order in which they are to be tried.
    fn lasts(&mut self, community: CommunityId, wish: &Wish) -> Vec<Hop> {
        if let Some(last) = wish.last {
            // Somebody else chose it, and may have chosen us.
            return if last.key == *self.me { Vec::new() } else { vec![last] };
        }
        let mut pool = self.fitting(community, wish.need, &[], wish);
        let mut order = Vec::new();
        while order.len() < LASTS_MAX {
            let Some((hop, _)) = weighted(pool.clone(), |(_, weight)| *weight, self.rng) else { break };
            pool.retain(|(other, _)| other.key != hop.key);
            order.push(hop);
        }
        order
    }

    /// Another node for one place of a path whose other hops stand.
    pub(crate) fn one(
        &mut self,
        community: CommunityId,
        flags: Flags,
        others: &[Hop],
        failed: &[PublicKey],
    ) -> Option<Hop> {
        let mut pool = self.fitting(community, flags, others, &Wish::new(1, flags));
        pool.retain(|(hop, _)| !failed.contains(&hop.key));
        weighted(pool, |(_, weight)| *weight, self.rng).map(|(hop, _)| hop)
    }

    /// Candidates that go with a path, with their weights. Backups only if there is nobody else.
    fn fitting(&self, community: CommunityId, flags: Flags, path: &[Hop], wish: &Wish) -> Vec<(Hop, u64)> {
        let count = self.candidates.len();
        let all: Vec<(Hop, u64, bool)> = self
            .candidates
            .offering(community, flags)
            .map(|(key, one)| {
                let backup = one.offers.get(&community).is_some_and(|offer| offer.has(Flags::EXIT_BACKUP));
                let hop = Hop { key: *key, address: one.address };
                let shunned = one.failed_lately(self.now.mono) || wish.shun.contains(key);
                (hop, if shunned { 1 } else { one.weight(count).saturating_mul(SHUNNED) }, backup)
            })
            .filter(|(hop, ..)| self.fits(hop, path))
            .collect();
        let backups = flags == Flags::RELAY || all.iter().all(|(.., backup)| *backup);
        all.into_iter()
            .filter(|(.., backup)| backups || !backup)
            .map(|(hop, weight, _)| (hop, weight))
            .collect()
    }

    fn hop(&self, key: &PublicKey) -> Option<Hop> {
        self.candidates.get(key).map(|one| Hop { key: *key, address: one.address })
    }

    /// Hops of whom nothing is known but their own word.
    fn strangers(&self, path: &[Hop]) -> usize {
        let known = |hop: &Hop| self.candidates.get(&hop.key).is_some_and(Candidate::is_known);
        path.iter().filter(|hop| !known(hop)).count()
    }

    /// Not ourselves, nobody twice, no two of one network.
    fn fits(&self, hop: &Hop, path: &[Hop]) -> bool {
        // Two keys at one address, or with one encryption half, are one operator under two names.
        let same = |other: &Hop| {
            other.address == hop.address || other.key.encryption_half() == hop.key.encryption_half()
        };
        if hop.key == *self.me || path.iter().any(same) {
            return false;
        }
        if self.own.contains(&hop.address) {
            return false;
        }
        let near = |ip: IpAddr| network(ip) == network(hop.address.ip());
        self.allow_same_subnet
            || !path.iter().any(|other| near(other.address.ip()))
                && !self.own.iter().any(|own| near(own.ip()))
    }
}

/// One of several by lot, by weight: never the top of a list, which would gather load and show who chooses.
//= spec/trust.md#84-circuits
pub(crate) fn weighted<T>(pool: Vec<T>, weight: impl Fn(&T) -> u64, rng: &mut Rng) -> Option<T> {
    let total: u64 = pool.iter().map(&weight).sum();
    if total == 0 {
        return None;
    }
    let mut drawn = rng.below(total);
    pool.into_iter().find(|one| {
        let weight = weight(one);
        let hit = drawn < weight;
        drawn = drawn.saturating_sub(weight);
        hit
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::SecretKey;
    use std::collections::BTreeSet;

    const HERE: CommunityId = CommunityId([1; 20]);
    const THERE: CommunityId = CommunityId([2; 20]);

    fn key(seed: u8) -> PublicKey {
        SecretKey::generate(&mut Rng::from_seed([seed; 32])).public()
    }

    struct Town {
        candidates: Candidates,
        guards: Guards,
        rng: Rng,
        same: bool,
    }

    impl Town {
        fn new(nodes: &[(u8, &str, Flags, CommunityId)]) -> Self {
            let mut candidates = Candidates::default();
            for (seed, address, flags, community) in nodes {
                let address = address.parse().expect("an address");
                assert!(candidates.found(*community, key(*seed), address, *flags, true));
            }
            Self { candidates, guards: Guards::default(), rng: Rng::from_seed([9; 32]), same: false }
        }

        fn path(&mut self, hops: usize) -> Option<(CommunityId, Vec<Hop>)> {
            let wish = Wish::new(hops, Flags::EXIT_BT);
            let own = ["9.9.1.1:1".parse().expect("an address")];
            let mut choice = Choice {
                candidates: &self.candidates,
                guards: &mut self.guards,
                rng: &mut self.rng,
                own: &own,
                me: &key(200),
                allow_same_subnet: self.same,
                now: Now::default(),
            };
            choice.path(&[HERE, THERE], &wish)
        }
    }

    const EXIT: Flags = Flags(3);

    //= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
    #[test]
    fn no_two_hops_stand_in_one_network_nor_in_ours() {
        let mut town = Town::new(&[
            (1, "8.1.0.1:1", EXIT, HERE),
            (2, "8.1.9.1:1", Flags::RELAY, HERE),
            (3, "8.2.0.1:1", Flags::RELAY, HERE),
            (4, "8.3.0.1:1", Flags::RELAY, HERE),
            (5, "9.9.0.1:1", Flags::RELAY, HERE),
        ]);
        for _ in 0..50 {
            let (_, path) = town.path(3).expect("there is one");
            let keys: BTreeSet<_> = path.iter().map(|hop| hop.key).collect();
            assert_eq!(keys, BTreeSet::from([key(1), key(3), key(4)]));
            assert_eq!(path[2].key, key(1));
        }
        town.same = true;
        let met: BTreeSet<_> =
            (0..200).flat_map(|_| town.path(3).expect("one").1).map(|hop| hop.key).collect();
        assert!(met.len() >= 4);
    }

    //= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
    #[test]
    fn first_hops_are_few_and_stay() {
        let mut nodes = vec![(1, "7.1.0.1:1".to_owned(), EXIT, HERE)];
        nodes.extend((2..30).map(|seed| (seed, format!("8.{seed}.0.1:1"), Flags::RELAY, HERE)));
        let nodes: Vec<_> = nodes.iter().map(|(a, b, c, d)| (*a, b.as_str(), *c, *d)).collect();
        let mut town = Town::new(&nodes);
        let first: BTreeSet<_> = (0..200).map(|_| town.path(3).expect("one").1[0].key).collect();
        assert_eq!(first.len(), 2);
    }

    #[test]
    fn our_community_is_preferred_when_it_has_the_whole_path() {
        let both = [(1, "8.1.0.1:1", EXIT, THERE), (2, "8.2.0.1:1", Flags::RELAY, THERE)];
        let mut town = Town::new(&both);
        assert_eq!(town.path(2).expect("one").0, THERE);
        let mut town = Town::new(&[both.as_slice(), &[(3, "8.3.0.1:1", EXIT, HERE)]].concat());
        assert_eq!((town.path(1).expect("one").0, town.path(2).expect("one").0), (HERE, THERE));
    }
}
