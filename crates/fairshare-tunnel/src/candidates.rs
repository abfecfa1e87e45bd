//! Nodes that may become hops: what they offer, and how they did.
//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node

use crate::network::neighbourhood;
use crate::wire::Flags;
use fairshare_crypto::PublicKey;
use fairshare_wire::{CommunityId, Instant};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Candidates remembered: many times what any path needs.
const CANDIDATES_MAX: usize = 1_000;
/// Standings remembered, also of keys that are no candidates.
const STANDINGS_MAX: usize = 4_096;
/// Bytes per second that count as ordinary.
const ORDINARY_SPEED: u64 = 1 << 20;
/// Candidates of one /24: a provider's whole range must not fill the table.
const PER_NEIGHBOURHOOD: usize = 2;

/// A node that may become a hop.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Where it answers.
    pub(crate) address: SocketAddr,
    /// What it offers in each community.
    pub(crate) offers: BTreeMap<CommunityId, Flags>,
    /// Circuits that came to stand with it.
    pub(crate) successes: u32,
    /// Circuits that failed at it.
    pub(crate) failures: u32,
    /// When it failed last.
    failed_at: Option<Instant>,
    /// Bytes per second that circuits over it carried.
    speed: Option<u64>,
    /// Its share of reputation, in 1/1000.
    pub(crate) standing: u32,
}

/// Who failed so lately is taken only if there is nobody else.
const LATELY: Duration = Duration::from_secs(60);

impl Candidate {
    /// Whether anything is known of it beyond its own words.
    pub(crate) const fn is_known(&self) -> bool {
        self.successes > 0 || self.standing > 0
    }

    /// Whether a circuit failed at it a moment ago.
    pub(crate) fn failed_lately(&self, now: Instant) -> bool {
        self.failed_at.is_some_and(|at| now.since(at) < LATELY)
    }

    const fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
        if self.failures > 50 {
            self.failures /= 2;
            self.successes /= 2;
        }
    }

    /// How likely it is to be chosen among `count`: measured success times standing, with a floor for the unknown.
    //= spec/trust.md#84-circuits
    pub(crate) fn weight(&self, count: usize) -> u64 {
        let tried = u64::from(self.successes) + u64::from(self.failures) + 2;
        let success = 1_000 * (u64::from(self.successes) + 1) / tried;
        // r + 0.02 / candidates, in millionths.
        let standing = u64::from(self.standing) * 1_000 + 20_000 / (count.max(1) as u64);
        // Half to double, so that one fast node does not take all; unmeasured counts as somewhat slow.
        let speed =
            self.speed.map_or(800, |speed| (speed.saturating_mul(1_000) / ORDINARY_SPEED).clamp(500, 2_000));
        (success * standing * speed / 1_000).max(1)
    }
}

/// All candidates.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    all: BTreeMap<PublicKey, Candidate>,
    /// Standing that was told, also of keys that are not here, or not yet.
    standings: BTreeMap<PublicKey, u32>,
}

impl Candidates {
    /// An introduction told of a node. Its flags replace what it told before. `false` = there is no room for it.
    pub(crate) fn found(
        &mut self,
        community: CommunityId,
        key: PublicKey,
        address: SocketAddr,
        flags: Flags,
        many_per_network: bool,
    ) -> bool {
        if let Some(known) = self.all.get_mut(&key) {
            known.address = address;
            known.offers.insert(community, flags);
            return true;
        }
        let standing = self.standings.get(&key).copied().unwrap_or_default();
        let near = neighbourhood(address.ip());
        let crowd = self.all.values().filter(|other| neighbourhood(other.address.ip()) == near).count();
        if self.all.len() >= CANDIDATES_MAX || crowd >= PER_NEIGHBOURHOOD && !many_per_network {
            return false;
        }
        let offers = BTreeMap::from([(community, flags)]);
        let candidate =
            Candidate { address, offers, successes: 0, failures: 0, failed_at: None, speed: None, standing };
        self.all.insert(key, candidate);
        true
    }

    /// A node left.
    pub(crate) fn lost(&mut self, key: &PublicKey) {
        self.all.remove(key);
    }

    /// What is known of a node.
    pub(crate) fn get(&self, key: &PublicKey) -> Option<&Candidate> {
        self.all.get(key)
    }

    /// Its share of reputation.
    pub(crate) fn set_standing(&mut self, key: &PublicKey, per_mille: u32) {
        if let Some(one) = self.all.get_mut(key) {
            one.standing = per_mille;
        }
        if self.standings.len() < STANDINGS_MAX || self.standings.contains_key(key) {
            self.standings.insert(*key, per_mille);
        }
    }

    /// A circuit over it carried so many bytes per second.
    pub(crate) fn measured(&mut self, key: &PublicKey, speed: u64) {
        if let Some(one) = self.all.get_mut(key) {
            one.speed = Some(one.speed.map_or(speed, |before| before / 2 + speed / 2));
        }
    }

    /// Those that offer all of `flags` in a community.
    pub(crate) fn offering(
        &self,
        community: CommunityId,
        flags: Flags,
    ) -> impl Iterator<Item = (&PublicKey, &Candidate)> {
        self.all
            .iter()
            .filter(move |(_, one)| one.offers.get(&community).is_some_and(|offer| offer.has(flags)))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// A circuit came to stand with it.
    pub(crate) fn succeeded(&mut self, key: &PublicKey) {
        if let Some(one) = self.all.get_mut(key) {
            one.successes = one.successes.saturating_add(1);
            one.failed_at = None;
        }
    }

    /// A circuit could not be extended from it: its fault, or that of the hop that was asked.
    pub(crate) fn suspected(&mut self, key: &PublicKey) {
        if let Some(one) = self.all.get_mut(key) {
            one.fail();
        }
    }

    /// A circuit failed at it. What happened long ago counts less and less.
    pub(crate) fn failed(&mut self, now: Instant, key: &PublicKey) {
        if let Some(one) = self.all.get_mut(key) {
            one.failed_at = Some(now);
            one.fail();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::{Rng, SecretKey};

    const HERE: CommunityId = CommunityId([1; 20]);

    fn key(seed: u8) -> PublicKey {
        SecretKey::generate(&mut Rng::from_seed([seed; 32])).public()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    //= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
    #[test]
    fn one_network_does_not_fill_the_table() {
        let mut table = Candidates::default();
        let mut found = |seed: u8, address: &str, many: bool| {
            table.found(HERE, key(seed), at(address), Flags::RELAY, many)
        };
        assert!(found(1, "8.8.8.1:1", false) && found(2, "8.8.8.2:1", false));
        assert!(!found(3, "8.8.8.3:1", false));
        assert!(found(4, "8.8.9.3:1", false) && found(5, "8.8.8.4:1", true));
    }

    //= spec/trust.md#84-circuits
    #[test]
    fn success_and_standing_raise_the_weight_and_nobody_is_without_any() {
        let mut table = Candidates::default();
        for seed in 1..=3 {
            table.found(HERE, key(seed), at("8.8.8.1:1"), Flags::RELAY, true);
        }
        table.set_standing(&key(1), 100);
        (0..9).for_each(|_| table.failed(Instant::START, &key(3)));
        let weight = |seed: u8| table.get(&key(seed)).expect("here").weight(3);
        assert!(weight(1) > weight(2) && weight(2) > weight(3) && weight(3) > 0);
    }
}
