//! A small internet of pure engines: a clock that jumps from event to event, a network that loses and delays, hosts
//! beyond the exits that echo, and a tap on every link.

use crate::tap::Tap;
use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_tunnel::{ExitId, Flags, GroupId, GroupSpec, Tunnel, TunnelConfig, TunnelEvent, TunnelOutput};
use fairshare_wire::{Address, CommunityId, Instant, Now};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Our community and the field's, as the tests name them.
pub(crate) const OURS: CommunityId = CommunityId([0x70; 20]);
pub(crate) const STOCK: CommunityId = CommunityId([0x81; 20]);
/// The group that most tests use.
pub(crate) const GROUP: GroupId = GroupId(7);
/// A host beyond the exits.
pub(crate) const HOST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4)), 6_881);
/// One way through the network.
pub(crate) const LATENCY: Duration = Duration::from_millis(20);

/// What travels.
enum Parcel {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
    /// From a host outside to the sockets of an exit.
    Back {
        node: usize,
        exit: ExitId,
        from: SocketAddr,
        bytes: Bytes,
    },
}

/// A datagram that left the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) node: usize,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Bytes,
}

/// A node of the world.
pub(crate) struct Member {
    pub(crate) tunnel: Tunnel,
    pub(crate) key: PublicKey,
    pub(crate) address: SocketAddr,
    pub(crate) flags: Flags,
    pub(crate) communities: Vec<CommunityId>,
    /// Datagrams to and from it vanish.
    pub(crate) offline: bool,
    pub(crate) events: Vec<TunnelEvent>,
    pub(crate) received: VecDeque<(GroupId, Address, Bytes)>,
    /// Sockets of exits that are open.
    pub(crate) exits: Vec<ExitId>,
    pub(crate) saved: Option<Vec<u8>>,
}

/// All of it.
pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) nodes: Vec<Member>,
    pub(crate) loss_per_mille: u64,
    /// Hosts outside answer with what they got.
    pub(crate) echo: bool,
    pub(crate) tap: Tap,
    pub(crate) left: Vec<Departure>,
    /// Datagrams that left a circuit for another node.
    pub(crate) crossed: Vec<(SocketAddr, SocketAddr, Bytes)>,
    /// What a name resolves to.
    pub(crate) names: BTreeMap<String, Vec<SocketAddr>>,
    /// What web servers answer.
    pub(crate) web: Result<Bytes, String>,
    /// What the overlay's DHT stores.
    pub(crate) stored: BTreeMap<[u8; 20], Vec<Bytes>>,
    places: BTreeMap<SocketAddr, usize>,
    /// Sockets of exits, by their address.
    sockets: BTreeMap<SocketAddr, (usize, ExitId)>,
    wire: BTreeMap<(Instant, u64), Parcel>,
    sequence: u64,
    rng: Rng,
}

/// The address of a node: each in a /16 of its own, on loopback.
pub(crate) fn address_of(node: usize) -> SocketAddr {
    let second = u8::try_from(node + 1).expect("few nodes");
    SocketAddr::from(([127, second, 0, 1], 7_000))
}

/// The address of an exit's sockets.
fn socket_of(node: SocketAddr, exit: ExitId) -> SocketAddr {
    SocketAddr::new(node.ip(), 20_000 + u16::try_from(exit.0).expect("few exits"))
}

/// Settings of a plain node of these communities.
pub(crate) fn plain(communities: &[CommunityId]) -> TunnelConfig {
    TunnelConfig { communities: communities.to_vec(), relay: true, ..TunnelConfig::default() }
}

/// Settings of an exit.
pub(crate) fn exit(communities: &[CommunityId]) -> TunnelConfig {
    TunnelConfig { exit_bt: true, exit_ipv8: true, exit_http: true, ..plain(communities) }
}

/// Settings of a node that only builds circuits.
pub(crate) fn user(communities: &[CommunityId]) -> TunnelConfig {
    TunnelConfig { relay: false, ..plain(communities) }
}

/// A group of so many hops through an exit for BitTorrent.
pub(crate) fn spec(hops: u8) -> GroupSpec {
    GroupSpec { hops, path: None, need: Flags::EXIT_BT, circuits: 1 }
}

/// A datagram that every exit lets pass: it looks like uTP, and tells its number and length.
pub(crate) fn datagram(number: u32, len: usize) -> Vec<u8> {
    let mut data = vec![0x01, 0x00];
    data.extend_from_slice(&number.to_be_bytes());
    data.resize(len.max(20), u8::try_from(len % 251).expect("below 251"));
    data
}

impl World {
    /// A world of nodes with these settings; the first is usually the user.
    pub(crate) fn new(configs: Vec<TunnelConfig>) -> Self {
        let now = Now { mono: Instant::from_micros(1_000_000), unix_ms: 1_800_000_000_000 };
        let mut world = Self {
            now,
            nodes: Vec::new(),
            loss_per_mille: 0,
            echo: true,
            tap: Tap::default(),
            left: Vec::new(),
            crossed: Vec::new(),
            names: BTreeMap::new(),
            web: Err("no web".into()),
            stored: BTreeMap::new(),
            places: BTreeMap::new(),
            sockets: BTreeMap::new(),
            wire: BTreeMap::new(),
            sequence: 0,
            rng: Rng::from_seed([42; 32]),
        };
        for config in configs {
            world.add(config, None);
        }
        world.introduce();
        world
    }

    /// One user, so many relays, so many exits, all in our community.
    pub(crate) fn town(relays: usize, exits: usize) -> Self {
        let mut configs = vec![user(&[OURS])];
        configs.extend((0..relays).map(|_| plain(&[OURS])));
        configs.extend((0..exits).map(|_| exit(&[OURS])));
        Self::new(configs)
    }

    fn add(&mut self, config: TunnelConfig, saved: Option<&[u8]>) {
        let member = self.member(self.nodes.len(), config, saved);
        self.places.insert(member.address, self.nodes.len());
        self.nodes.push(member);
    }

    /// Starts a node anew, with other settings, and introduces everybody again.
    pub(crate) fn replace(&mut self, number: usize, config: TunnelConfig) {
        let old = self.key(number);
        for node in &mut self.nodes {
            node.tunnel.candidate_lost(self.now, &old);
        }
        self.nodes[number] = self.member(number, config, None);
        self.introduce();
    }

    fn member(&self, number: usize, config: TunnelConfig, saved: Option<&[u8]>) -> Member {
        let seed = u8::try_from(number + 1).expect("few nodes");
        let key = SecretKey::generate(&mut Rng::from_seed([seed; 32]));
        let (flags, communities) = (config.flags(), config.communities.clone());
        let public = key.public();
        let rng = Rng::from_seed([seed; 32]).fork("tunnel");
        let mut tunnel = Tunnel::new(config, key, saved, rng, self.now);
        let address = address_of(number);
        tunnel.set_addresses(vec![address]);
        Member {
            tunnel,
            key: public,
            address,
            flags,
            communities,
            offline: false,
            events: Vec::new(),
            received: VecDeque::new(),
            exits: Vec::new(),
            saved: None,
        }
    }

    /// Tells every node of every other with which it shares a community.
    pub(crate) fn introduce(&mut self) {
        let faces: Vec<_> = self
            .nodes
            .iter()
            .map(|node| (node.key, node.address, node.flags, node.communities.clone(), node.offline))
            .collect();
        for node in &mut self.nodes {
            for (key, address, flags, communities, offline) in &faces {
                for community in communities {
                    if *key != node.key && !offline && node.communities.contains(community) {
                        node.tunnel.candidate_found(self.now, *community, *key, *address, *flags);
                    }
                }
            }
        }
    }

    pub(crate) fn key(&self, node: usize) -> PublicKey {
        self.nodes[node].key
    }

    /// Opens the usual group at node 0 and waits until it can send.
    pub(crate) fn open(&mut self, spec: GroupSpec) {
        self.nodes[0].tunnel.open_group(self.now, GROUP, spec);
        self.drain(0);
        let ready = |world: &Self| world.saw(0, |event| matches!(event, TunnelEvent::GroupReady(GROUP)));
        assert!(self.run_until(Duration::from_secs(60), ready), "the group does not get ready");
    }

    /// Sends one datagram from node 0 through the usual group.
    pub(crate) fn send(&mut self, to: SocketAddr, data: &[u8]) {
        self.send_to(&Address::Ip(to), data);
    }

    pub(crate) fn send_to(&mut self, to: &Address, data: &[u8]) {
        self.nodes[0].tunnel.send(self.now, GROUP, to, data);
        self.drain(0);
    }

    /// Sends and waits for the echo; whether it came as it went.
    pub(crate) fn echoed(&mut self, data: &[u8]) -> bool {
        self.send(HOST, data);
        let came = self.run_until(Duration::from_secs(2), |world| !world.nodes[0].received.is_empty());
        let got = self.nodes[0].received.pop_front();
        came && got == Some((GROUP, Address::Ip(HOST), Bytes::copy_from_slice(data)))
    }

    pub(crate) fn saw(&self, node: usize, wanted: impl Fn(&TunnelEvent) -> bool) -> bool {
        self.nodes[node].events.iter().any(wanted)
    }

    pub(crate) fn count(&self, node: usize, wanted: impl Fn(&TunnelEvent) -> bool) -> usize {
        self.nodes[node].events.iter().filter(|event| wanted(event)).count()
    }

    /// How often a node refused for this reason.
    pub(crate) fn refused(&self, node: usize, reason: &str) -> u64 {
        self.nodes[node]
            .tunnel
            .refusals()
            .iter()
            .filter(|(known, _)| **known == reason)
            .map(|(_, n)| *n)
            .sum()
    }

    /// Circuits of others at a node.
    pub(crate) fn joined(&self, node: usize) -> usize {
        self.nodes[node].tunnel.joined(self.now).len()
    }

    /// The nodes of node 0's circuits, in order.
    pub(crate) fn paths(&self) -> Vec<Vec<usize>> {
        let place = |key: &PublicKey| self.nodes.iter().position(|node| node.key == *key).expect("a node");
        let circuits = self.nodes[0].tunnel.circuits(self.now);
        circuits.iter().map(|one| one.path.iter().map(|(key, ..)| place(key)).collect()).collect()
    }

    /// Puts a datagram on the network as if it came from there; the tap does not see it.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        self.post(LATENCY, Parcel::Datagram { from, to, bytes });
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, span: Duration) {
        self.run_until(span, |_| false);
    }

    /// Lets time pass until something is so; whether it became so.
    pub(crate) fn run_until(&mut self, span: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now.mono + span;
        let mut still = 0;
        while !done(self) {
            let due = self.nodes.iter().filter_map(|node| node.tunnel.next_timeout()).min();
            let parcel = self.wire.keys().next().map(|(at, _)| *at);
            let next = due.into_iter().chain(parcel).min().filter(|at| *at <= end);
            let at = next.unwrap_or(end).max(self.now.mono);
            still = if at > self.now.mono { 0 } else { still + 1 };
            assert!(still < 10_000, "a node asks to be woken again and again at one moment");
            self.now = self.now.after(at.since(self.now.mono));
            if next.is_none() {
                return done(self);
            }
            self.step();
        }
        true
    }

    fn step(&mut self) {
        for number in 0..self.nodes.len() {
            if self.nodes[number].tunnel.next_timeout().is_some_and(|due| due <= self.now.mono) {
                self.nodes[number].tunnel.handle_timeout(self.now);
                self.drain(number);
            }
        }
        while let Some(entry) = self.wire.first_entry() {
            if entry.key().0 > self.now.mono {
                break;
            }
            let parcel = entry.remove();
            self.deliver(parcel);
        }
    }

    fn deliver(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Datagram { from, to, bytes } => {
                if let Some((node, exit)) = self.sockets.get(&to).copied() {
                    return self.deliver(Parcel::Back { node, exit, from, bytes });
                }
                let Some(number) = self.places.get(&to).copied() else {
                    return;
                };
                if !self.nodes[number].offline {
                    self.nodes[number].tunnel.handle_datagram(self.now, from, &bytes);
                    self.drain(number);
                }
            }
            Parcel::Back { node, exit, from, bytes } => {
                self.nodes[node].tunnel.exit_datagram(self.now, exit, from, &bytes);
                self.drain(node);
            }
        }
    }

    /// Carries out what a node wants done.
    pub(crate) fn drain(&mut self, number: usize) {
        while let Some(output) = self.nodes[number].tunnel.poll() {
            self.carry_out(number, output);
        }
    }

    fn carry_out(&mut self, number: usize, output: TunnelOutput) {
        let node = &mut self.nodes[number];
        match output {
            TunnelOutput::Transmit { to, bytes } => self.transmit(number, to, bytes),
            TunnelOutput::ExitOpen(exit) => {
                node.exits.push(exit);
                self.sockets.insert(socket_of(node.address, exit), (number, exit));
            }
            TunnelOutput::ExitClose(exit) => node.exits.retain(|open| *open != exit),
            TunnelOutput::ExitSend { exit, to, bytes } => {
                assert!(node.exits.contains(&exit), "sockets that are not open");
                let from = socket_of(node.address, exit);
                if self.places.contains_key(&to) || self.sockets.contains_key(&to) {
                    self.crossed.push((from, to, bytes.clone()));
                    return self.post(LATENCY, Parcel::Datagram { from, to, bytes });
                }
                self.left.push(Departure { node: number, to, bytes: bytes.clone() });
                if self.echo {
                    self.post(2 * LATENCY, Parcel::Back { node: number, exit, from: to, bytes });
                }
            }
            TunnelOutput::Resolve { ticket, host, .. } => {
                let answer = self.names.get(&host).cloned().ok_or_else(|| "no such host".to_owned());
                node.tunnel.resolved(self.now, ticket, answer);
            }
            TunnelOutput::HttpFetch { ticket, .. } => {
                node.tunnel.http_fetched(self.now, ticket, self.web.clone());
            }
            TunnelOutput::Save(record) => node.saved = Some(record),
            TunnelOutput::Event(TunnelEvent::Received { group, origin, data }) => {
                node.received.push_back((group, origin, data));
            }
            TunnelOutput::Event(event) => node.events.push(event),
            TunnelOutput::DhtStore { key, value } => self.stored.entry(key).or_default().push(value.into()),
            TunnelOutput::DhtFind { ticket, key } => {
                let values = self.stored.get(&key).cloned().unwrap_or_default();
                node.tunnel.dht_found(self.now, ticket, &values);
            }
        }
    }

    fn transmit(&mut self, number: usize, to: SocketAddr, bytes: Bytes) {
        let from = self.nodes[number].address;
        if self.nodes[number].offline {
            return;
        }
        self.tap.saw(from, to, &bytes);
        if self.loss_per_mille == 0 || !self.rng.chance(self.loss_per_mille, 1_000) {
            self.post(LATENCY, Parcel::Datagram { from, to, bytes });
        }
    }

    fn post(&mut self, after: Duration, parcel: Parcel) {
        self.sequence += 1;
        self.wire.insert((self.now.mono + after, self.sequence), parcel);
    }
}
