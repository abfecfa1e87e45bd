//! An originator without an engine, which sends whatever a test wants over a circuit of one hop; and what the hop may not
//! be talked into.

use crate::world::{GROUP, HOST, OURS, World, datagram, exit, plain, spec, user};
use bytes::Bytes;
use fairshare_crypto::{Rng, SecretKey};
use fairshare_tunnel::handshake::{HopKeys, Initiator, hop_keys, respond};
use fairshare_tunnel::layer::{HopLayer, OriginatorLayer, Sealer};
use fairshare_tunnel::wire::{Body, CELL_HEADER_LEN, CellHeader, Exchange, Message, NOWHERE};
use fairshare_tunnel::{CircuitId, Flags, GroupSpec, TunnelEvent};
use fairshare_wire::Address;
use std::net::SocketAddr;
use std::time::Duration;

const COUNTER: usize = 8;

struct Puppet {
    key: SecretKey,
    address: SocketAddr,
    hop: usize,
    circuit: CircuitId,
    shared: [u8; 64],
    layer: OriginatorLayer,
    rng: Rng,
    /// Datagrams of the tap that were read.
    read: usize,
}

impl Puppet {
    /// Builds a circuit to a node.
    fn join(world: &mut World, hop: usize) -> Self {
        Self::join_as(world, hop, 0)
    }

    /// The same as one of several originators.
    fn join_as(world: &mut World, hop: usize, number: u8) -> Self {
        world.tap.recording = true;
        let mut rng = Rng::from_seed([99 + number; 32]);
        let key = SecretKey::generate(&mut rng);
        let (initiator, circuit) = (Initiator::new(&mut rng), CircuitId(4_711 + u32::from(number)));
        let address = SocketAddr::from(([198, 51, 100, 7 + number], 7_000));
        let message = Message::Create { ident: 5, key: key.public(), point: initiator.point() };
        let header = CellHeader { community: OURS, circuit, plaintext: true, relay_early: true };
        let cell = [header.to_bytes().as_slice(), &message.to_bytes()].concat();
        world.inject(address, world.nodes[hop].address, cell.into());
        world.run(Duration::from_millis(50));
        let (.., answer) = world.tap.datagrams.iter().find(|(_, to, _)| *to == address).expect("CREATED");
        let (_, message) = CellHeader::parse(answer).expect("a cell");
        let Ok(Some(Message::Created(Exchange { point, auth, .. }))) = Message::parse(message) else {
            panic!("CREATED");
        };
        let shared = initiator.shared_secret(&world.key(hop), &point, &auth).expect("the hop's keys");
        let layer = OriginatorLayer::new(hop_keys(&shared), &mut rng);
        let read = world.tap.datagrams.len();
        Self { key, address, hop, circuit, shared, layer, rng, read }
    }

    fn header(&self, relay_early: bool) -> Vec<u8> {
        CellHeader { community: OURS, circuit: self.circuit, plaintext: false, relay_early }
            .to_bytes()
            .to_vec()
    }

    /// Sends a message and returns the answers.
    fn ask(&mut self, world: &mut World, message: &[u8], early: bool) -> Vec<Message> {
        self.send(world, message, early);
        world.run(Duration::from_millis(200));
        self.answers(world)
    }

    fn send(&mut self, world: &mut World, message: &[u8], early: bool) {
        let mut cell = self.header(early);
        cell.resize(CELL_HEADER_LEN + COUNTER, 0);
        cell.extend_from_slice(message);
        self.layer.seal(&mut cell, CELL_HEADER_LEN);
        world.inject(self.address, world.nodes[self.hop].address, cell.into());
    }

    fn answers(&mut self, world: &World) -> Vec<Message> {
        let new = world.tap.datagrams[self.read..].iter().filter(|(_, to, _)| *to == self.address);
        let cells: Vec<Bytes> = new.map(|(.., bytes)| bytes.slice(CELL_HEADER_LEN..)).collect();
        self.read = world.tap.datagrams.len();
        let opened = cells.iter().map(|cell| self.layer.open(&mut cell.to_vec()).expect("for us").to_vec());
        opened.map(|plain| Message::parse(&plain).expect("well formed").expect("known")).collect()
    }

    fn extend(&mut self, world: &World, to: usize) -> Message {
        Message::Extend {
            ident: 9,
            key: world.key(to),
            point: Initiator::new(&mut self.rng).point(),
            address: world.nodes[to].address,
        }
    }
}

fn data(to: SocketAddr) -> Message {
    let (destination, origin) = (Address::Ip(to), Address::Ip(NOWHERE));
    Message::Data(Body { destination, origin, data: datagram(1, 100).into() })
}

fn town() -> World {
    World::new(vec![plain(&[OURS]), exit(&[OURS]), plain(&[OURS])])
}

fn is_extended(answers: &[Message]) -> bool {
    matches!(answers, [Message::Extended(Exchange { ident: 9, .. })])
}

//= spec/tunnels.md#message-ids-py-ipv8-210--321
#[test]
fn a_ping_is_answered_whatever_stands_behind_it_and_a_test_gets_its_bytes() {
    let mut world = town();
    let mut puppet = Puppet::join(&mut world, 1);
    let mut ping = Message::Ping { ident: 77 }.to_bytes();
    ping.resize(900, 0);
    assert_eq!(puppet.ask(&mut world, &ping, false), [Message::Pong { ident: 77 }]);
    let test = Message::TestRequest { ident: 3, response_size: 1_234, data: Bytes::from_static(b"x") };
    let answers = puppet.ask(&mut world, &test.to_bytes(), false);
    assert!(matches!(&answers[..], [Message::TestResponse { ident: 3, data }] if data.len() == 1_234));
    assert!(puppet.ask(&mut world, &[200, 1, 2, 3], false).is_empty(), "an unknown message is ignored");
}

//= spec/tunnels.md#relay_early
#[test]
fn only_an_early_cell_extends_and_only_to_an_address_that_can_be() {
    let mut world = town();
    let mut puppet = Puppet::join(&mut world, 1);
    let extend = puppet.extend(&world, 2);
    assert!(puppet.ask(&mut world, &extend.to_bytes(), false).is_empty());
    for address in ["0.0.0.0:7000", "127.3.0.1:0", "224.0.0.1:7000", "127.2.0.1:7000"] {
        let Message::Extend { ident, key, point, .. } = extend.clone() else { panic!("EXTEND") };
        let address = address.parse().expect("an address");
        let strange = Message::Extend { ident, key, point, address };
        let before = world.tap.datagrams.len();
        assert!(puppet.ask(&mut world, &strange.to_bytes(), true).is_empty());
        assert_eq!(world.tap.datagrams.len(), before, "{address}");
    }
    assert!(is_extended(&puppet.ask(&mut world, &extend.to_bytes(), true)));
}

//= spec/tunnels.md#14-state-machines
#[test]
fn a_circuit_that_does_something_is_not_extended() {
    let cookie = Message::EstablishRendezvous { ident: 1, cookie: [1; 20] };
    let seeder = SecretKey::generate(&mut Rng::from_seed([3; 32])).public();
    let introduction = Message::EstablishIntro { ident: 1, info_hash: [2; 20], seeder };
    for first in [data(HOST), cookie, introduction] {
        let mut world = town();
        let mut puppet = Puppet::join(&mut world, 1);
        puppet.ask(&mut world, &first.to_bytes(), false);
        let extend = puppet.extend(&world, 2);
        assert!(puppet.ask(&mut world, &extend.to_bytes(), true).is_empty(), "after {first:?}");
        assert_eq!(world.refused(1, "extend of a circuit that does something else"), 1);
    }
}

//= spec/tunnels.md#5-building-a-circuit
#[test]
fn a_circuit_is_extended_within_a_minute_or_not_at_all() {
    for (wait, extended) in [(50, true), (70, false)] {
        let mut world = town();
        let mut puppet = Puppet::join(&mut world, 1);
        for _ in 0..wait / 10 {
            world.run(Duration::from_secs(10));
            puppet.ask(&mut world, &Message::Ping { ident: 1 }.to_bytes(), false);
        }
        let extend = puppet.extend(&world, 2);
        assert_eq!(is_extended(&puppet.ask(&mut world, &extend.to_bytes(), true)), extended, "{wait} s");
    }
}

//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
#[test]
fn only_the_hop_that_was_asked_answers_an_extension() {
    let mut world = town();
    let mut puppet = Puppet::join(&mut world, 1);
    world.nodes[2].offline = true;
    let extend = puppet.extend(&world, 2);
    puppet.ask(&mut world, &extend.to_bytes(), true);
    let (relay, asked) = (world.nodes[1].address, world.nodes[2].address);
    let (.., create) = world.tap.datagrams.iter().rfind(|(_, to, _)| *to == asked).expect("CREATE").clone();
    let (header, message) = CellHeader::parse(&create).expect("a cell");
    let Ok(Some(Message::Create { ident, point, .. })) = Message::parse(message) else { panic!("CREATE") };
    let response = respond(&puppet.key, &mut puppet.rng, &point).expect("a point");
    let answer = |ident, circuit| -> Bytes {
        let exchange = Exchange {
            ident,
            point: response.point,
            auth: response.auth,
            candidates: Bytes::from(vec![0; 25]),
        };
        let header = CellHeader { circuit, ..header };
        [header.to_bytes().as_slice(), &Message::Created(exchange).to_bytes()].concat().into()
    };
    for (from, ident, circuit) in [
        (puppet.address, ident, header.circuit),
        (asked, ident ^ 1, header.circuit),
        (asked, ident, CircuitId(header.circuit.0 ^ 1)),
        (asked, ident, puppet.circuit),
    ] {
        world.inject(from, relay, answer(ident, circuit));
        world.run(Duration::from_millis(100));
        assert!(puppet.answers(&world).is_empty());
    }
    world.inject(asked, relay, answer(ident, header.circuit));
    world.run(Duration::from_millis(100));
    assert!(is_extended(&puppet.answers(&world)));
}

//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
#[test]
fn an_originator_that_repeats_its_counter_is_borne_for_a_while() {
    let mut world = town();
    let mut puppet = Puppet::join(&mut world, 1);
    let mut answered = 0;
    for ident in 0..100 {
        // A key cannot be copied; it is derived anew.
        let HopKeys { forward, .. } = hop_keys(&puppet.shared);
        let mut sealer = Sealer::starting_at(forward, 2);
        let mut cell = puppet.header(false);
        cell.resize(CELL_HEADER_LEN + COUNTER, 0);
        cell.extend_from_slice(&Message::Ping { ident }.to_bytes());
        sealer.seal(&mut cell, CELL_HEADER_LEN);
        world.inject(puppet.address, world.nodes[1].address, cell.into());
        world.run(Duration::from_millis(50));
        answered += puppet.answers(&world).len();
    }
    assert_eq!(answered, 65, "the first, and 64 repeats");
}

/// A message of a random kind: noise, or a good one with some bytes changed.
fn noise(rng: &mut Rng, good: &[Vec<u8>]) -> Vec<u8> {
    if rng.chance(1, 2) {
        let mut message = vec![0; rng.index(400).expect("not empty")];
        rng.fill(&mut message);
        if let Some(id) = message.first_mut() {
            *id = u8::try_from(rng.below(48)).expect("small");
        }
        return message;
    }
    let mut message = good[rng.index(good.len()).expect("not empty")].clone();
    for _ in 0..rng.below(4) {
        let at = rng.index(message.len()).expect("not empty");
        message[at] = u8::try_from(rng.below(256)).expect("a byte");
    }
    message.truncate(message.len() - rng.index(message.len().min(8)).expect("not empty"));
    message
}

fn good_messages(rng: &mut Rng) -> Vec<Vec<u8>> {
    let key = SecretKey::generate(rng).public();
    let (point, some) = (rng.bytes(), Bytes::from(vec![7; 40]));
    let exchange = Exchange { ident: 1, point, auth: rng.bytes(), candidates: some.clone() };
    let host = Address::Host("tracker.example".into(), 6_969);
    [
        data(HOST),
        Message::Data(Body { destination: host.clone(), origin: host.clone(), data: some.clone() }),
        Message::Extend { ident: 1, key, point, address: HOST },
        Message::Extended(exchange.clone()),
        Message::Created(exchange),
        Message::Ping { ident: 1 },
        Message::Pong { ident: 1 },
        Message::EstablishIntro { ident: 1, info_hash: [1; 20], seeder: key },
        Message::IntroEstablished { ident: 1 },
        Message::EstablishRendezvous { ident: 1, cookie: [1; 20] },
        Message::RendezvousEstablished { ident: 1, address: HOST },
        Message::LinkE2e { ident: 1, cookie: [1; 20] },
        Message::LinkedE2e { ident: 1 },
        Message::PeersRequest { ident: 1, info_hash: [1; 20] },
        Message::PeersResponse { ident: 1, info_hash: [1; 20], peers: Vec::new() },
        Message::TestRequest { ident: 1, response_size: 65_535, data: some.clone() },
        Message::TestResponse { ident: 1, data: some.clone() },
        Message::HttpRequest { ident: 1, target: host, request: some.clone() },
        Message::HttpResponse { ident: 1, part: 0, total: 65_535, response: some.clone() },
        Message::Settlement { id: 43, body: some },
    ]
    .iter()
    .map(Message::to_bytes)
    .collect()
}

//= spec/tunnels.md#15-acceptance
#[test]
fn a_hop_bears_whatever_an_originator_sends_under_good_layers() {
    for round in 0..20 {
        let mut world = town();
        let mut puppet = Puppet::join(&mut world, 1);
        let mut rng = Rng::from_seed([round; 32]);
        let good = good_messages(&mut rng);
        for _ in 0..100 {
            let message = noise(&mut rng, &good);
            let early = rng.chance(1, 2);
            puppet.send(&mut world, &message, early);
            world.run(Duration::from_millis(50));
        }
        world.run(Duration::from_secs(70));
        assert_eq!(world.joined(1), 0, "and forgets it");
    }
}

//= spec/tunnels.md#15-acceptance
#[test]
fn an_originator_bears_whatever_a_hop_sends_under_good_layers() {
    let mut world = World::new(vec![user(&[OURS]), exit(&[OURS])]);
    world.tap.recording = true;
    let mut rng = Rng::from_seed([8; 32]);
    let key = SecretKey::generate(&mut rng);
    let (hop, us) = ("127.77.0.1:7000".parse().expect("an address"), world.nodes[0].address);
    world.nodes[0].tunnel.candidate_found(world.now, OURS, key.public(), hop, Flags(0x800f));
    let good = good_messages(&mut rng);
    for _ in 0..20 {
        let read = world.tap.datagrams.len();
        let spec = GroupSpec { path: Some(vec![key.public()]), ..spec(1) };
        world.nodes[0].tunnel.open_group(world.now, GROUP, spec);
        world.drain(0);
        let (.., create) = world.tap.datagrams[read..].iter().find(|(_, to, _)| *to == hop).expect("CREATE");
        let (header, message) = CellHeader::parse(create).expect("a cell");
        let Ok(Some(Message::Create { ident, point, .. })) = Message::parse(message) else {
            panic!("CREATE")
        };
        let response = respond(&key, &mut rng, &point).expect("a point");
        let mut layer = HopLayer::new(hop_keys(&response.shared), &mut rng);
        let candidates = layer.seal_candidates(&mut rng, &[0]).into();
        let exchange = Exchange { ident, point: response.point, auth: response.auth, candidates };
        let created = [header.to_bytes().as_slice(), &Message::Created(exchange).to_bytes()].concat();
        world.inject(hop, us, created.into());
        world.run(Duration::from_millis(50));
        assert!(world.saw(0, |event| matches!(event, TunnelEvent::GroupReady(GROUP))));
        for _ in 0..200 {
            let mut cell = CellHeader { plaintext: false, ..header }.to_bytes().to_vec();
            cell.resize(CELL_HEADER_LEN + COUNTER, 0);
            cell.extend_from_slice(&noise(&mut rng, &good));
            layer.seal(&mut cell, CELL_HEADER_LEN);
            world.inject(hop, us, cell.into());
        }
        world.run(Duration::from_secs(1));
        world.nodes[0].tunnel.close_group(world.now, GROUP);
        world.drain(0);
        world.run(Duration::from_secs(1));
        world.nodes[0].events.clear();
        world.nodes[0].received.clear();
    }
    assert!(world.paths().is_empty());
}

//= spec/tunnels.md#9-hidden-services
#[test]
fn a_cookie_joins_two_circuits_once() {
    let mut world = town();
    let [mut seeder, mut taker, mut thief] = [0, 1, 2].map(|number| Puppet::join_as(&mut world, 1, number));
    let wait = Message::EstablishRendezvous { ident: 1, cookie: [9; 20] }.to_bytes();
    let address = world.nodes[1].address;
    assert_eq!(seeder.ask(&mut world, &wait, false), [Message::RendezvousEstablished { ident: 1, address }]);
    assert!(thief.ask(&mut world, &wait, false).is_empty(), "it waits for one circuit only");
    let link = |ident, cookie| Message::LinkE2e { ident, cookie: [cookie; 20] }.to_bytes();
    assert!(thief.ask(&mut world, &link(2, 8), false).is_empty(), "an unknown cookie");
    assert_eq!(taker.ask(&mut world, &link(3, 9), false), [Message::LinkedE2e { ident: 3 }]);
    assert!(thief.ask(&mut world, &link(4, 9), false).is_empty(), "it is used up");
    assert_eq!(world.refused(1, "unknown cookie"), 2);
    let ping = |ident| Message::Ping { ident }.to_bytes();
    assert_eq!(thief.ask(&mut world, &ping(5), false), [Message::Pong { ident: 5 }], "its circuit stands");
    seeder.read = world.tap.datagrams.len();
    taker.send(&mut world, &ping(6), false);
    world.run(Duration::from_millis(200));
    assert_eq!(seeder.answers(&world), [Message::Ping { ident: 6 }], "it crosses to the other end");
}
