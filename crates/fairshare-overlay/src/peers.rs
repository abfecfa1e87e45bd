//! The verified peers: keys that signed something from an address, with what is known of them.

use bytes::Bytes;
use fairshare_crypto::{Mid, PublicKey, Rng};
use fairshare_wire::{CommunityId, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// Round trips of which the median is taken.
//= spec/overlay.md#6-discoverycommunity
pub(crate) const ROUND_TRIPS_MAX: usize = 5;

/// What can be told of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its identity.
    pub key: PublicKey,
    /// Where it answers.
    pub address: SocketAddr,
    /// Those of our communities it is in.
    pub communities: Vec<CommunityId>,
    /// When it last sent something signed, or answered.
    pub last_seen: Instant,
    /// The median of the last round trips, if it was measured.
    pub rtt: Option<Duration>,
}

/// A verified peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) key: PublicKey,
    pub(crate) address: SocketAddr,
    /// What it says its address in its own network is.
    pub(crate) lan: Option<SocketAddr>,
    pub(crate) new_style: bool,
    /// Its communities that are ours too, with the newest extra bytes of each: bounded by the number of ours.
    pub(crate) communities: BTreeMap<CommunityId, Bytes>,
    pub(crate) last_seen: Instant,
    pub(crate) pinged: Option<Instant>,
    /// When it was last asked to prove another address.
    pub(crate) challenged: Option<Instant>,
    pub(crate) round_trips: VecDeque<Duration>,
}

impl Peer {
    pub(crate) const fn new(key: PublicKey, address: SocketAddr, now: Instant) -> Self {
        Self {
            key,
            address,
            lan: None,
            new_style: false,
            communities: BTreeMap::new(),
            last_seen: now,
            pinged: None,
            challenged: None,
            round_trips: VecDeque::new(),
        }
    }

    pub(crate) fn measured(&mut self, round_trip: Duration) {
        if self.round_trips.len() >= ROUND_TRIPS_MAX {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(round_trip);
    }

    fn info(&self) -> PeerInfo {
        let mut sorted: Vec<Duration> = self.round_trips.iter().copied().collect();
        sorted.sort_unstable();
        PeerInfo {
            key: self.key,
            address: self.address,
            communities: self.communities.keys().copied().collect(),
            last_seen: self.last_seen,
            rtt: sorted.get(sorted.len() / 2).copied(),
        }
    }
}

/// All verified peers, by key and by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {
    by_key: BTreeMap<PublicKey, Peer>,
    by_address: BTreeMap<SocketAddr, PublicKey>,
}

impl Peers {
    pub(crate) fn get(&self, key: &PublicKey) -> Option<&Peer> {
        self.by_key.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &PublicKey) -> Option<&mut Peer> {
        self.by_key.get_mut(key)
    }

    /// The peer that was verified last at `address`.
    pub(crate) fn at(&self, address: &SocketAddr) -> Option<&Peer> {
        self.by_address.get(address).and_then(|key| self.by_key.get(key))
    }

    pub(crate) fn by_mid(&self, mid: Mid) -> Option<&Peer> {
        self.by_key.values().find(|peer| peer.key.mid() == mid)
    }

    pub(crate) fn insert(&mut self, peer: Peer) {
        self.by_address.insert(peer.address, peer.key);
        self.by_key.insert(peer.key, peer);
    }

    pub(crate) fn remove(&mut self, key: &PublicKey) -> Option<Peer> {
        let peer = self.by_key.remove(key)?;
        self.forget_address(&peer.address, key);
        Some(peer)
    }

    /// Gives a peer another address, which it proved.
    pub(crate) fn relocate(&mut self, key: &PublicKey, address: SocketAddr) {
        let Some(peer) = self.by_key.get_mut(key) else {
            return;
        };
        let old = std::mem::replace(&mut peer.address, address);
        self.forget_address(&old, key);
        self.by_address.insert(address, *key);
    }

    fn forget_address(&mut self, address: &SocketAddr, key: &PublicKey) {
        if self.by_address.get(address) == Some(key) {
            self.by_address.remove(address);
        }
    }

    pub(crate) fn members(&self, community: CommunityId) -> impl Iterator<Item = &Peer> {
        self.by_key.values().filter(move |peer| peer.communities.contains_key(&community))
    }

    pub(crate) fn is_member(&self, community: CommunityId, address: &SocketAddr) -> bool {
        self.at(address).is_some_and(|peer| peer.communities.contains_key(&community))
    }

    /// Up to `count` different peers out of those `wanted`, in random order.
    pub(crate) fn sample(
        &self,
        rng: &mut Rng,
        count: usize,
        wanted: impl Fn(&Peer) -> bool,
    ) -> Vec<PublicKey> {
        let mut keys: Vec<PublicKey> =
            self.by_key.values().filter(|peer| wanted(peer)).map(|peer| peer.key).collect();
        rng.shuffle(&mut keys);
        keys.truncate(count);
        keys
    }

    pub(crate) fn infos(&self) -> Vec<PeerInfo> {
        self.by_key.values().map(Peer::info).collect()
    }
}
