//! Bytes of an enemy: truncated, flipped, forged, flooded. Nothing panics, and circuits that live go on living.

use crate::world::{HOST, OURS, World, datagram, spec};
use bytes::Bytes;
use fairshare_crypto::{Rng, SecretKey};
use fairshare_tunnel::TunnelEvent;
use fairshare_tunnel::wire::{CellHeader, CircuitId, Destroy, DestroyReason, Message};
use std::net::SocketAddr;
use std::time::Duration;

fn recorded(world: &mut World) -> Vec<(SocketAddr, SocketAddr, Bytes)> {
    world.tap.recording = true;
    world.open(spec(3));
    for number in 0..10 {
        assert!(world.echoed(&datagram(number, 200)));
    }
    world.tap.recording = false;
    std::mem::take(&mut world.tap.datagrams)
}

fn closed(world: &World) -> usize {
    world.count(0, |event| matches!(event, TunnelEvent::CircuitClosed { .. }))
}

/// The number of the first circuit on the link between these.
fn circuit_between(recorded: &[(SocketAddr, SocketAddr, Bytes)], a: SocketAddr, b: SocketAddr) -> CircuitId {
    let (.., cell) = recorded.iter().find(|(from, to, _)| (*from, *to) == (a, b)).expect("a cell");
    CellHeader::parse(cell).expect("a cell").0.circuit
}

//= spec/tunnels.md#15-acceptance
#[test]
fn truncated_and_flipped_datagrams_change_nothing() {
    let mut world = World::town(3, 1);
    let recorded = recorded(&mut world);
    let mut rng = Rng::from_seed([5; 32]);
    let left = world.left.len();
    for (from, to, bytes) in &recorded {
        for _ in 0..20 {
            let mut changed = bytes.to_vec();
            match rng.below(3) {
                0 => changed.truncate(rng.index(bytes.len()).expect("not empty")),
                1 => {
                    let at = rng.index(bytes.len()).expect("not empty");
                    changed[at] ^= 1 << rng.below(8);
                }
                _ => {
                    let at = rng.index(bytes.len()).expect("not empty");
                    rng.fill(&mut changed[at..]);
                }
            }
            if changed[..] != bytes[..] {
                world.inject(*from, *to, changed.into());
            }
        }
        world.run(Duration::from_millis(50));
    }
    assert_eq!((world.left.len(), closed(&world)), (left, 0));
    assert!(world.echoed(&datagram(99, 300)));
}

#[test]
fn noise_changes_nothing() {
    let mut world = World::town(3, 1);
    world.open(spec(3));
    let mut rng = Rng::from_seed([6; 32]);
    for round in 0..3_000 {
        let mut noise = vec![0; rng.index(1_500).expect("not empty")];
        rng.fill(&mut noise);
        let head: Vec<u8> =
            [[0, 2].as_slice(), &OURS.0, &[u8::try_from(rng.below(48)).expect("small")]].concat();
        let shared = head.len().min(noise.len());
        noise[..shared].copy_from_slice(&head[..shared]);
        let (from, to) = (rng.index(5).expect("5"), rng.index(5).expect("5"));
        world.inject(world.nodes[from].address, world.nodes[to].address, noise.into());
        if round % 100 == 0 {
            world.run(Duration::from_millis(50));
        }
    }
    assert_eq!(closed(&world), 0);
    assert!(world.echoed(&datagram(99, 300)));
}

//= spec/tunnels.md#8-destroy
#[test]
fn only_the_neighbour_ends_a_circuit() {
    let mut world = World::town(3, 1);
    let recorded = recorded(&mut world);
    let stranger = SecretKey::generate(&mut Rng::from_seed([200; 32]));
    let ends: Vec<(SocketAddr, SocketAddr)> = recorded.iter().map(|(from, to, _)| (*from, *to)).collect();
    for (from, to) in ends {
        let circuit = circuit_between(&recorded, from, to);
        let forged = Destroy::sign(&stranger, OURS, circuit, DestroyReason::UNNEEDED);
        world.inject(from, to, forged.clone().into());
        // The right name, the wrong signature.
        let sender = world.nodes.iter().find(|node| node.address == from).expect("a node").key;
        let mut named = forged;
        named[25..99].copy_from_slice(sender.as_bytes());
        world.inject(from, to, named.into());
    }
    world.run(Duration::from_secs(1));
    assert_eq!(closed(&world), 0);
    assert!(world.echoed(&datagram(99, 300)));
}

//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
#[test]
fn a_flood_of_creates_costs_little_and_takes_no_circuit_in_use() {
    let mut world = World::town(3, 1);
    let recorded = recorded(&mut world);
    let joined: Vec<usize> = (1..=4).map(|node| world.joined(node)).collect();
    let mut rng = Rng::from_seed([7; 32]);
    let key = SecretKey::generate(&mut rng);
    let create = |rng: &mut Rng, circuit: CircuitId| -> Bytes {
        let header = CellHeader { community: OURS, circuit, plaintext: true, relay_early: true };
        let point = fairshare_tunnel::handshake::Initiator::new(rng).point();
        let message = Message::Create { ident: 1, key: key.public(), point };
        [header.to_bytes().as_slice(), &message.to_bytes()].concat().into()
    };
    // Numbers in use, from wherever.
    for (from, to, cell) in &recorded {
        let circuit = CellHeader::parse(cell).expect("a cell").0.circuit;
        let cell = create(&mut rng, circuit);
        world.inject(*from, *to, cell.clone());
        world.inject("203.0.113.1:9".parse().expect("an address"), *to, cell);
    }
    world.run(Duration::from_millis(100));
    assert_eq!((1..=4).map(|node| world.joined(node)).collect::<Vec<_>>(), joined);
    let refused = |node| world.refused(node, "create for a circuit in use");
    assert!((1..=4).map(refused).sum::<u64>() > 0);
    // Fresh numbers from one address: no more than its burst.
    let (from, to) = ("203.0.113.9:9".parse().expect("an address"), world.nodes[1].address);
    let before = world.joined(1);
    for number in 0..1_000 {
        let cell = create(&mut rng, CircuitId(number));
        world.inject(from, to, cell);
    }
    world.run(Duration::from_millis(200));
    assert!(world.joined(1) - before <= 60, "{} circuits", world.joined(1) - before);
    assert!(world.echoed(&datagram(99, 300)));
}

//= spec/tunnels.md#2-cell
#[test]
fn nothing_but_create_and_created_travels_in_the_clear() {
    let mut world = World::town(3, 1);
    let recorded = recorded(&mut world);
    let (user, guard) = (world.nodes[0].address, recorded[0].1);
    let circuit = circuit_between(&recorded, user, guard);
    let left = world.left.len();
    let header = CellHeader { community: OURS, circuit, plaintext: true, relay_early: true };
    let data = fairshare_tunnel::wire::Body {
        destination: fairshare_wire::Address::Ip(HOST),
        origin: fairshare_wire::Address::Ip(fairshare_tunnel::wire::NOWHERE),
        data: Bytes::from(datagram(1, 100)),
    };
    for message in [Message::Data(data), Message::Ping { ident: 1 }, Message::Pong { ident: 1 }] {
        for (from, to) in [(user, guard), (guard, user)] {
            let cell: Bytes = [header.to_bytes().as_slice(), &message.to_bytes()].concat().into();
            world.inject(from, to, cell);
        }
    }
    world.run(Duration::from_millis(300));
    assert_eq!(world.left.len(), left);
    assert!(world.nodes[0].received.is_empty());
    assert!(world.echoed(&datagram(99, 300)));
}

//= spec/tunnels.md#relay_early
#[test]
fn a_path_of_more_than_eight_extensions_is_not_built() {
    let mut world = World::town(10, 1);
    let path = (1..=11).map(|node| world.key(node)).collect();
    let spec = fairshare_tunnel::GroupSpec { path: Some(path), ..spec(11) };
    world.nodes[0].tunnel.open_group(world.now, crate::world::GROUP, spec);
    world.drain(0);
    world.run(Duration::from_secs(30));
    assert!(!world.saw(0, |event| matches!(event, TunnelEvent::GroupReady(_))));
    assert!((10..=11).all(|node| world.joined(node) == 0));
}

#[test]
fn a_hop_that_ends_every_circuit_at_once_is_not_asked_without_pause() {
    let mut world = World::town(1, 1);
    let guard = SecretKey::generate(&mut Rng::from_seed([2; 32]));
    assert_eq!(guard.public(), world.key(1));
    world.nodes[0].tunnel.open_group(world.now, crate::world::GROUP, spec(2));
    world.drain(0);
    let mut ended = 0;
    for _ in 0..600 {
        world.run(Duration::from_millis(100));
        for circuit in world.nodes[0].tunnel.circuits(world.now) {
            let (from, to) = (world.nodes[1].address, world.nodes[0].address);
            let destroy = Destroy::sign(&guard, OURS, circuit.circuit, DestroyReason::UNNEEDED);
            world.inject(from, to, destroy.into());
            ended += 1;
        }
    }
    assert!((4..40).contains(&ended), "{ended} circuits in a minute");
    world.run(Duration::from_secs(60));
    assert!(world.echoed(&datagram(1, 100)), "it is forgiven");
}
