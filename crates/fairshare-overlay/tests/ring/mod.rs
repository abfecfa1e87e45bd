//! A test world: some overlays on loopback addresses, a virtual clock, latency and loss.

#![allow(dead_code, unreachable_pub)] // each test file uses a part of the world

use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_overlay::{Community, Overlay, OverlayConfig, OverlayEvent, OverlayOutput};
use fairshare_wire::{Instant, Now};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// A datagram on its way.
pub struct Flight {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Bytes,
}

/// The world.
pub struct Ring {
    pub nodes: Vec<Overlay>,
    pub keys: Vec<PublicKey>,
    pub now: Now,
    pub events: Vec<Vec<OverlayEvent>>,
    /// Everything ever sent.
    pub sent: Vec<(SocketAddr, SocketAddr, Bytes)>,
    /// One datagram in this many is lost; 0: none.
    pub loss: u64,
    addresses: BTreeMap<SocketAddr, usize>,
    flights: BTreeMap<(Instant, u64), Flight>,
    sequence: u64,
    rng: Rng,
}

const LATENCY: Duration = Duration::from_millis(20);

impl Ring {
    /// `count` nodes that know nobody, in discovery and TrustChain.
    pub fn new(count: u8) -> Self {
        Self::with(count, |_, config| config)
    }

    /// `count` nodes, each with its own configuration.
    pub fn with(count: u8, adapt: impl Fn(u8, OverlayConfig) -> OverlayConfig) -> Self {
        let mut ring = Self {
            nodes: Vec::new(),
            keys: Vec::new(),
            now: Now { mono: Instant::from_micros(1_000_000), unix_ms: 1_700_000_000_000 },
            events: Vec::new(),
            sent: Vec::new(),
            loss: 0,
            addresses: BTreeMap::new(),
            flights: BTreeMap::new(),
            sequence: 0,
            rng: Rng::from_seed([42; 32]),
        };
        for index in 0..count {
            let lan = address_v4(index);
            let config =
                OverlayConfig { communities: vec![Community::trustchain()], ..OverlayConfig::at(lan) };
            ring.join(SecretKey::generate(&mut Rng::from_seed([index; 32])), adapt(index, config));
        }
        ring
    }

    /// Adds a node at the address of its configuration.
    pub fn join(&mut self, key: SecretKey, config: OverlayConfig) -> usize {
        let index = self.nodes.len();
        self.addresses.insert(SocketAddr::V4(config.lan), index);
        self.keys.push(key.public());
        let rng = self.rng.fork(&format!("node {index}"));
        self.nodes.push(Overlay::new(config, key, rng, self.now));
        self.events.push(Vec::new());
        index
    }

    /// Takes a node off the network.
    pub fn silence(&mut self, index: usize) {
        self.addresses.retain(|_, node| *node != index);
    }

    /// Tells a node an address.
    pub fn tell(&mut self, node: usize, address: SocketAddr) {
        self.nodes[node].add_address(self.now, address);
        self.drain(node);
    }

    /// Puts a datagram on its way.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        self.sequence += 1;
        self.flights.insert((self.now.mono + LATENCY, self.sequence), Flight { from, to, bytes });
    }

    /// Lets `span` pass.
    pub fn run(&mut self, span: Duration) {
        let end = self.now.mono + span;
        while let Some(next) = self.next_moment().filter(|next| *next <= end) {
            self.now = self.now.after(next.since(self.now.mono));
            self.step();
        }
        self.now = self.now.after(end.since(self.now.mono));
    }

    /// Whether `node` has verified `other` in `community`.
    pub fn knows(&self, node: usize, other: usize, community: fairshare_wire::CommunityId) -> bool {
        let peers = self.nodes[node].peers();
        peers.iter().any(|peer| peer.key == self.keys[other] && peer.communities.contains(&community))
    }

    pub fn drain(&mut self, node: usize) {
        let from = SocketAddr::V4(self.nodes[node].lan());
        while let Some(output) = self.nodes[node].poll() {
            match output {
                OverlayOutput::Transmit { to, bytes } => {
                    self.sent.push((from, to, bytes.clone()));
                    if self.loss == 0 || !self.rng.chance(1, self.loss) {
                        self.inject(from, to, bytes);
                    }
                }
                OverlayOutput::Event(event) => self.events[node].push(event),
            }
        }
    }

    fn next_moment(&self) -> Option<Instant> {
        let flight = self.flights.keys().next().map(|(at, _)| *at);
        let timeout = self.nodes.iter().filter_map(Overlay::next_timeout).min();
        flight.into_iter().chain(timeout).min()
    }

    fn step(&mut self) {
        while let Some(entry) = self.flights.first_entry().filter(|entry| entry.key().0 <= self.now.mono) {
            let flight = entry.remove();
            if let Some(node) = self.addresses.get(&flight.to).copied() {
                self.nodes[node].handle_datagram(self.now, flight.from, &flight.bytes);
                self.drain(node);
            }
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].handle_timeout(self.now);
            self.drain(node);
        }
    }
}

/// The address of node `index`.
pub fn address(index: u8) -> SocketAddr {
    SocketAddr::V4(address_v4(index))
}

fn address_v4(index: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, index + 1), 8090)
}
