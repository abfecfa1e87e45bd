//! The choice of a path: every hop by ourselves, before the first cell.
//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node

use crate::candidates::{Candidate, Candidates};
use crate::guards::{GUARDS, Guards};
use crate::limit::network;
use crate::output::GroupSpec;
use crate::wire::Flags;
use fairshare_crypto::{PublicKey, Rng};
use fairshare_wire::CommunityId;
use std::net::{IpAddr, SocketAddr};

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
    /// Hops that failed just now.
    pub(crate) avoid: Vec<PublicKey>,
}

impl Wish {
    pub(crate) fn of(spec: &GroupSpec) -> Self {
        let hops = spec.path.as_ref().map_or(usize::from(spec.hops), Vec::len);
        Self { hops: hops.max(1), forced: spec.path.clone(), need: spec.need, last: None, avoid: Vec::new() }
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
    pub(crate) unix_ms: u64,
}

impl Choice<'_> {
    /// A path in the first of these communities that has one.
    pub(crate) fn path(
        &mut self,
        communities: &[CommunityId],
        wish: &Wish,
    ) -> Option<(CommunityId, Vec<Hop>)> {
        communities.iter().find_map(|community| {
            let path = match &wish.forced {
                Some(keys) => self.forced(*community, keys),
                None => self.chosen(*community, wish),
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

    /// From the end to the beginning: exits are rare, relays are not.
    fn chosen(&mut self, community: CommunityId, wish: &Wish) -> Option<Vec<Hop>> {
        let mut path: Vec<Hop> = Vec::new();
        let last = match wish.last {
            Some(last) => last,
            None => self.last(community, wish)?,
        };
        path.push(last);
        while path.len() < wish.hops {
            let hop = if path.len() + 1 == wish.hops {
                self.guard(community, &path, wish)?
            } else {
                self.middle(community, &path, wish)?
            };
            path.insert(0, hop);
        }
        Some(path)
    }

    fn last(&mut self, community: CommunityId, wish: &Wish) -> Option<Hop> {
        let apart = if wish.hops > 1 { self.apart_from_guards(wish) } else { wish.clone() };
        self.sample(community, wish.need, &[], &apart, |_| true)
            .or_else(|| self.sample(community, wish.need, &[], wish, |_| true))
    }

    /// At most one of three hops may be somebody of whom nothing is known.
    fn middle(&mut self, community: CommunityId, path: &[Hop], wish: &Wish) -> Option<Hop> {
        let stranger =
            |hop: &Hop| self.candidates.get(&hop.key).is_none_or(|candidate| !candidate.is_known());
        let strangers = path.iter().any(stranger);
        let known = |candidate: &Candidate| candidate.is_known() || !strangers;
        // A guard in the middle could not be the first hop of the same path.
        let apart = self.apart_from_guards(wish);
        self.sample(community, Flags::RELAY, path, &apart, known)
            .or_else(|| self.sample(community, Flags::RELAY, path, &apart, |_| true))
            .or_else(|| self.sample(community, Flags::RELAY, path, wish, |_| true))
    }

    fn apart_from_guards(&self, wish: &Wish) -> Wish {
        let mut apart = wish.clone();
        apart.avoid.extend(self.guards.keys());
        apart
    }

    /// A kept first hop, or a new one when there are not enough.
    fn guard(&mut self, community: CommunityId, path: &[Hop], wish: &Wish) -> Option<Hop> {
        let reachable: Vec<Hop> = self
            .guards
            .keys()
            .filter_map(|key| {
                let one = self.candidates.get(key)?;
                let offers = one.offers.get(&community).is_some_and(|flags| flags.has(Flags::RELAY));
                offers.then_some(Hop { key: *key, address: one.address })
            })
            .collect();
        let usable: Vec<Hop> =
            reachable.iter().filter(|hop| self.fits(hop, path, wish)).take(GUARDS).copied().collect();
        if let Some(at) = self.rng.index(usable.len())
            && (reachable.len() >= GUARDS || self.guards.is_full())
        {
            return usable.get(at).copied();
        }
        let new = self
            .sample(community, Flags::RELAY, path, wish, Candidate::is_known)
            .or_else(|| self.sample(community, Flags::RELAY, path, wish, |_| true));
        match new {
            Some(hop) => {
                self.guards.add(hop.key, self.unix_ms, self.rng);
                Some(hop)
            }
            None => usable.first().copied(),
        }
    }

    /// Another node for one place of a path whose other hops stand.
    pub(crate) fn one(
        &mut self,
        community: CommunityId,
        flags: Flags,
        others: &[Hop],
        failed: PublicKey,
    ) -> Option<Hop> {
        let wish = Wish { hops: 1, forced: None, need: flags, last: None, avoid: vec![failed] };
        self.sample(community, flags, others, &wish, |_| true)
    }

    /// By lot, with the weights of the candidates. Backups only if there is nobody else.
    fn sample(
        &mut self,
        community: CommunityId,
        flags: Flags,
        path: &[Hop],
        wish: &Wish,
        suits: impl Fn(&Candidate) -> bool,
    ) -> Option<Hop> {
        let count = self.candidates.len();
        let mut fitting: Vec<(Hop, u64, bool)> = self
            .candidates
            .offering(community, flags)
            .filter(|(_, one)| suits(one))
            .map(|(key, one)| {
                let backup = one.offers.get(&community).is_some_and(|offer| offer.has(Flags::EXIT_BACKUP));
                (Hop { key: *key, address: one.address }, one.weight(count), backup)
            })
            .filter(|(hop, ..)| self.fits(hop, path, wish))
            .collect();
        if flags != Flags::RELAY && fitting.iter().any(|(.., backup)| !backup) {
            fitting.retain(|(.., backup)| !backup);
        }
        let total: u64 = fitting.iter().map(|(_, weight, _)| weight).sum();
        if total == 0 {
            return None;
        }
        let mut drawn = self.rng.below(total);
        fitting.into_iter().find_map(|(hop, weight, _)| {
            let hit = drawn < weight;
            drawn = drawn.saturating_sub(weight);
            hit.then_some(hop)
        })
    }

    /// Not ourselves, nobody twice, no two of one network.
    fn fits(&self, hop: &Hop, path: &[Hop], wish: &Wish) -> bool {
        if hop.key == *self.me
            || path.iter().any(|other| other.key == hop.key)
            || wish.avoid.contains(&hop.key)
        {
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
            let wish = Wish { hops, forced: None, need: Flags::EXIT_BT, last: None, avoid: Vec::new() };
            let own = ["9.9.1.1:1".parse().expect("an address")];
            let mut choice = Choice {
                candidates: &self.candidates,
                guards: &mut self.guards,
                rng: &mut self.rng,
                own: &own,
                me: &key(200),
                allow_same_subnet: self.same,
                unix_ms: 0,
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
        assert_eq!(first.len(), GUARDS);
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
