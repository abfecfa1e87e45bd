//! What happens by the clock: walking to new addresses, asking known peers for more, and dropping silent peers.
//= spec/overlay.md#7-peer-list-walking-timing

use crate::community::DISCOVERY;
use crate::overlay::{Overlay, OverlayEvent};
use crate::peers::{Peer, ROUND_TRIPS_MAX};
use crate::wire::known;
use fairshare_crypto::{PublicKey, Rng};
use fairshare_wire::{CommunityId, Instant, Now};
use indexmap::IndexMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// How often each community takes a step.
const TICK: Duration = Duration::from_millis(500);
/// Walks of one community under way at once.
const UNANSWERED_MAX: usize = 5;
/// After this long a walked address that did not answer is forgotten.
const WALK_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a step asks a known peer although unwalked addresses are known: 50 of 256.
const ASK_CHANCE: (u64, u64) = (50, 256);
/// How often such a question goes to a bootstrap server: 1 of 20.
const BOOTSTRAP_CHANCE: (u64, u64) = (1, 20);
/// How often at most the bootstrap servers are asked, per community.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(30);
/// Bootstrap servers asked at once: enough that one of them lives.
const BOOTSTRAPS_AT_ONCE: usize = 3;
/// Addresses a community knows and has not walked to; five a second at most can be tried.
const CANDIDATES_MAX: usize = 500;
/// Addresses given by the user.
const PINS_MAX: usize = 256;
/// How often an address given by the user is tried until a peer answers there.
const PIN_INTERVAL: Duration = Duration::from_secs(5);
/// Peers looked at in one step.
const CHURN_SAMPLE: usize = 8;
/// A peer silent for this long is pinged.
const SILENCE_PINGED: Duration = Duration::from_millis(27_500);
/// A pinged peer silent for this long is dropped.
const SILENCE_DROPPED: Duration = Duration::from_millis(57_500);
/// How often one peer is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How often a random peer is asked for its communities.
const SIMILARITY_INTERVAL: Duration = Duration::from_secs(1);

/// What a community knows of addresses that are no peers yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Walk {
    candidates: IndexMap<SocketAddr, Candidate>,
    bootstrapped: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    new_style: bool,
    walked: Option<Instant>,
}

/// An address that the user gave: tried again and again, not once like those heard of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pin {
    tried: Option<Instant>,
    /// Who answered there.
    key: Option<PublicKey>,
}

impl Walk {
    pub(crate) fn is_new_style(&self, address: &SocketAddr) -> bool {
        self.candidates.get(address).is_some_and(|candidate| candidate.new_style)
    }

    fn forget_unanswered(&mut self, now: Instant) {
        self.candidates
            .retain(|_, candidate| candidate.walked.is_none_or(|walked| now.since(walked) < WALK_TIMEOUT));
    }

    /// A random address not walked to yet; it counts as walked from now on.
    fn take_unwalked(&mut self, now: Instant, rng: &mut Rng) -> Option<SocketAddr> {
        let unwalked: Vec<SocketAddr> = self
            .candidates
            .iter()
            .filter(|(_, candidate)| candidate.walked.is_none())
            .map(|(address, _)| *address)
            .collect();
        let address = *unwalked.get(rng.index(unwalked.len())?)?;
        self.candidates.get_mut(&address)?.walked = Some(now);
        Some(address)
    }

    fn has_unwalked(&self) -> bool {
        self.candidates.values().any(|candidate| candidate.walked.is_none())
    }
}

/// Overlays started at one moment do not all tick at one moment.
pub(crate) fn first_tick(rng: &mut Rng) -> Duration {
    let micros = u64::try_from(TICK.as_micros()).expect("half a second");
    Duration::from_micros(rng.below(micros))
}

impl Overlay {
    /// Walks to an address that the user gave, in all communities, until a peer answers there; and again when it is
    /// lost.
    pub fn add_address(&mut self, now: Now, address: SocketAddr) {
        if !self.can_walk_to(&address) || self.bootstrap.contains(&address) || self.pins.len() >= PINS_MAX {
            return;
        }
        self.pins.entry(address).or_default();
        self.retry_pins(now.mono);
    }

    /// Walks once to an address where another overlay of this node met a peer, in all communities.
    pub fn suggest(&mut self, address: SocketAddr) {
        for community in self.communities.keys().copied().collect::<Vec<_>>() {
            self.add_candidate(community, address, true);
        }
    }

    pub(crate) fn tick_if_due(&mut self, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.requests.expire(now);
        for community in self.communities.keys().copied().collect::<Vec<_>>() {
            self.step(now, community);
        }
        self.retry_pins(now);
        self.churn(now);
        self.ask_for_communities(now);
    }

    /// Remembers an address as one to walk to, if it can be one.
    pub(crate) fn add_candidate(&mut self, community: CommunityId, address: SocketAddr, new_style: bool) {
        if !self.can_walk_to(&address) || self.bootstrap.contains(&address) {
            return;
        }
        let Some(membership) = self.communities.get_mut(&community) else {
            return;
        };
        let candidates = &mut membership.walk.candidates;
        if candidates.len() >= CANDIDATES_MAX && !candidates.contains_key(&address) {
            // Who fills the table with inventions does not keep it: the next address pushes out a random one.
            if let Some(index) = self.rng.index(candidates.len()) {
                candidates.swap_remove_index(index);
            }
        }
        let candidate = candidates.entry(address).or_insert(Candidate { new_style, walked: None });
        candidate.new_style |= new_style;
    }

    /// An address answered: it is a peer now, or a bootstrap server, and no candidate any more.
    pub(crate) fn answered(&mut self, community: CommunityId, address: SocketAddr) {
        if let Some(membership) = self.communities.get_mut(&community) {
            membership.walk.candidates.swap_remove(&address);
        }
    }

    /// Whether a datagram to `address` makes sense: our socket is IPv4, and we do not talk to ourselves.
    pub(crate) fn can_walk_to(&self, address: &SocketAddr) -> bool {
        let SocketAddr::V4(v4) = address else {
            return false;
        };
        let ip = v4.ip();
        known(address)
            && !ip.is_multicast()
            && !ip.is_broadcast()
            && *v4 != self.config.lan
            && self.wan.elected() != Some(*v4)
    }

    /// One step of the random walk of a community.
    fn step(&mut self, now: Instant, community: CommunityId) {
        let members = self.peers.members(community).count();
        let unanswered = self.requests.introductions_since(community, now - WALK_TIMEOUT);
        let Some(membership) = self.communities.get_mut(&community) else {
            return;
        };
        membership.walk.forget_unanswered(now);
        if members >= self.config.target_peers || unanswered >= UNANSWERED_MAX {
            return;
        }
        let ask = self.rng.chance(ASK_CHANCE.0, ASK_CHANCE.1) || !membership.walk.has_unwalked();
        if ask {
            self.ask_for_introduction(now, community);
        } else if let Some(address) = membership.walk.take_unwalked(now, &mut self.rng) {
            self.request_introduction(now, community, address);
        }
    }

    /// Asks a random peer, seldom or for want of one a bootstrap server.
    fn ask_for_introduction(&mut self, now: Instant, community: CommunityId) {
        let member = |peer: &Peer| peer.communities.contains_key(&community);
        let chosen = self.peers.sample(&mut self.rng, 1, member);
        let peer = chosen.first().and_then(|key| self.address_of(key));
        match peer {
            Some(address) if !self.rng.chance(BOOTSTRAP_CHANCE.0, BOOTSTRAP_CHANCE.1) => {
                self.request_introduction(now, community, address);
            }
            _ => self.ask_bootstrap(now, community),
        }
    }

    fn ask_bootstrap(&mut self, now: Instant, community: CommunityId) {
        let Some(membership) = self.communities.get_mut(&community) else {
            return;
        };
        let walk = &mut membership.walk;
        let lately = walk.bootstrapped.is_some_and(|at| now.since(at) < BOOTSTRAP_INTERVAL);
        if lately || self.bootstrap.is_empty() {
            return;
        }
        walk.bootstrapped = Some(now);
        let mut servers: Vec<SocketAddr> = self.bootstrap.iter().copied().collect();
        self.rng.shuffle(&mut servers);
        for server in servers.into_iter().take(BOOTSTRAPS_AT_ONCE) {
            self.request_introduction(now, community, server);
        }
    }

    /// Tries the user's addresses in those communities where their peer is not known.
    fn retry_pins(&mut self, now: Instant) {
        let due = |pin: &Pin| pin.tried.is_none_or(|at| now.since(at) >= PIN_INTERVAL);
        let addresses: Vec<SocketAddr> =
            self.pins.iter().filter(|(_, pin)| due(pin)).map(|(address, _)| *address).collect();
        for address in addresses {
            let answered_by = self.peers.at(&address).map(|peer| peer.key);
            let Some(pin) = self.pins.get_mut(&address) else {
                continue;
            };
            pin.tried = Some(now);
            pin.key = answered_by.or(pin.key);
            let joined = pin
                .key
                .and_then(|key| self.peers.get(&key))
                .map(|peer| peer.communities.keys().copied().collect::<BTreeSet<_>>())
                .unwrap_or_default();
            for community in self.communities.keys().copied().collect::<Vec<_>>() {
                if !joined.contains(&community) {
                    self.request_introduction(now, community, address);
                }
            }
        }
    }

    /// Pings some peers that are silent or not measured yet, drops those that stay silent.
    fn churn(&mut self, now: Instant) {
        for key in self.peers.sample(&mut self.rng, CHURN_SAMPLE, |_| true) {
            let Some(peer) = self.peers.get_mut(&key) else {
                continue;
            };
            let silence = now.since(peer.last_seen);
            let pinged_since = peer.pinged.is_some_and(|at| at > peer.last_seen);
            if silence >= SILENCE_DROPPED && pinged_since {
                self.peers.remove(&key);
                self.event(OverlayEvent::PeerLost { key });
                continue;
            }
            let wanted = silence >= SILENCE_PINGED || peer.round_trips.len() < ROUND_TRIPS_MAX;
            let lately = peer.pinged.is_some_and(|at| now.since(at) < PING_INTERVAL);
            if !wanted || lately {
                continue;
            }
            peer.pinged = Some(now);
            let address = peer.address;
            let in_discovery = peer.communities.contains_key(&DISCOVERY);
            let elsewhere = peer.communities.keys().copied().find(|community| *community != DISCOVERY);
            match elsewhere {
                // Who is not in discovery does not know the ping; an introduction is a sign of life too.
                Some(community) if !in_discovery => self.request_introduction(now, community, address),
                _ => self.ping(now, key, address),
            }
        }
    }

    fn ask_for_communities(&mut self, now: Instant) {
        if self.similarity_sent.is_some_and(|at| now.since(at) < SIMILARITY_INTERVAL) {
            return;
        }
        let in_discovery = |peer: &Peer| peer.communities.contains_key(&DISCOVERY);
        let chosen = self.peers.sample(&mut self.rng, 1, in_discovery);
        if let Some(address) = chosen.first().and_then(|key| self.address_of(key)) {
            self.similarity_sent = Some(now);
            self.request_similarity(now, address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::community::TRUSTCHAIN;
    use crate::{Community, OverlayConfig, OverlayOutput};
    use fairshare_crypto::SecretKey;

    fn overlay() -> Overlay {
        let mut rng = Rng::from_seed([1; 32]);
        let key = SecretKey::generate(&mut rng);
        let config = OverlayConfig {
            communities: vec![Community::trustchain()],
            ..OverlayConfig::at("20.0.0.1:8090".parse().expect("literal"))
        };
        Overlay::new(config, key, rng, Now::default())
    }

    fn stranger(number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([30, 0, high, low], 8090))
    }

    fn known(overlay: &Overlay) -> usize {
        overlay.communities[&TRUSTCHAIN].walk.candidates.len()
    }

    //= spec/overlay.md#13-where-we-must-be-better-than-the-reference
    #[test]
    fn addresses_heard_of_are_bounded_and_the_newest_finds_room() {
        let mut overlay = overlay();
        for number in 0..2_000 {
            overlay.add_candidate(TRUSTCHAIN, stranger(number), false);
        }
        assert_eq!(known(&overlay), CANDIDATES_MAX);
        assert!(overlay.communities[&TRUSTCHAIN].walk.candidates.contains_key(&stranger(1_999)));
    }

    #[test]
    fn addresses_that_no_datagram_can_reach_are_not_kept() {
        let mut overlay = overlay();
        for text in
            ["20.0.0.1:8090", "0.0.0.0:5", "1.2.3.4:0", "224.0.0.1:5", "255.255.255.255:5", "[2001:db8::1]:5"]
        {
            overlay.add_candidate(TRUSTCHAIN, text.parse().expect("literal"), false);
        }
        assert_eq!(known(&overlay), 0);
    }

    //= spec/overlay.md#7-peer-list-walking-timing
    #[test]
    fn at_most_five_walks_are_under_way_and_those_not_answered_are_forgotten() {
        let mut overlay = overlay();
        for number in 0..20 {
            overlay.add_candidate(TRUSTCHAIN, stranger(number), false);
        }
        let mut now = Now::default();
        for _ in 0..80 {
            now = now.after(TICK);
            overlay.handle_timeout(now);
            let since = now.mono - WALK_TIMEOUT;
            assert!(overlay.requests.introductions_since(TRUSTCHAIN, since) <= UNANSWERED_MAX);
        }
        assert_eq!(known(&overlay), 0);
        let walked = std::iter::from_fn(|| overlay.poll())
            .filter(|output| matches!(output, OverlayOutput::Transmit { .. }))
            .count();
        assert_eq!(walked, 20, "each address is tried once");
    }
}
