//! Seeders and takers who never learn each other's address.

use crate::world::{GROUP, HOST, OURS, STOCK, World, datagram, exit, plain, user};
use fairshare_crypto::Rng;
use fairshare_tunnel::wire::CellHeader;
use fairshare_tunnel::{CircuitUse, GroupId, TunnelConfig, TunnelEvent};
use fairshare_wire::{Address, CommunityId};
use std::net::SocketAddr;
use std::time::Duration;

const TAKER: usize = 0;
const SEEDER: usize = 1;
const SERVED: GroupId = GroupId(11);
const TORRENT: [u8; 20] = [0xab; 20];

fn town(communities: &[CommunityId]) -> World {
    let local = |config: TunnelConfig| TunnelConfig { exit_loopback: true, ..config };
    let mut configs = vec![user(communities), user(communities)];
    configs.extend((0..8).map(|_| local(plain(communities))));
    configs.push(local(exit(communities)));
    World::new(configs)
}

/// Brings both together: the address that stands for the seeder at the taker.
fn meet(world: &mut World, hops: u8) -> SocketAddr {
    world.nodes[SEEDER].tunnel.seed_hidden(world.now, SERVED, TORRENT, hops);
    world.drain(SEEDER);
    let served = |world: &World| world.saw(SEEDER, |event| *event == TunnelEvent::HiddenReady(SERVED));
    assert!(world.run_until(Duration::from_secs(60), served), "nobody introduces the seeder");
    world.nodes[TAKER].tunnel.join_hidden(world.now, GROUP, TORRENT, hops);
    world.drain(TAKER);
    let met = |world: &World| world.saw(TAKER, |event| matches!(event, TunnelEvent::HiddenPeer { .. }));
    assert!(world.run_until(Duration::from_secs(60), met), "the taker does not reach the seeder");
    let address = |event: &TunnelEvent| match event {
        TunnelEvent::HiddenPeer { address, .. } => Some(*address),
        _ => None,
    };
    world.nodes[TAKER].events.iter().find_map(address).expect("seen above")
}

/// Sends from one to an address, and tells the address from which it came at the other.
fn carried(
    world: &mut World,
    (from, group): (usize, GroupId),
    to: SocketAddr,
    at: usize,
    data: &[u8],
) -> SocketAddr {
    world.nodes[from].tunnel.send(world.now, group, &Address::Ip(to), data);
    world.drain(from);
    world.run_until(Duration::from_secs(2), |world| !world.nodes[at].received.is_empty());
    let (_, origin, got) = world.nodes[at].received.pop_front().expect("it arrives");
    assert_eq!(got, data);
    let Address::Ip(origin) = origin else { panic!("a fake address is an address") };
    origin
}

//= spec/tunnels.md#9-hidden-services
#[test]
fn a_taker_reaches_a_hidden_seeder_and_both_talk() {
    for hops in 1..=2 {
        let mut world = town(&[OURS]);
        let seeder = meet(&mut world, hops);
        for (number, len) in [20, 300, 1_200].into_iter().enumerate() {
            let data = datagram(u32::try_from(number).expect("few"), len);
            let taker = carried(&mut world, (TAKER, GROUP), seeder, SEEDER, &data);
            assert_eq!(carried(&mut world, (SEEDER, SERVED), taker, TAKER, &data), seeder);
        }
        assert!(world.left.is_empty(), "nothing leaves the overlay");
        assert!(world.tap.repeated.is_empty(), "{:?}", world.tap.repeated.first());
    }
}

#[test]
fn it_works_in_the_second_community_when_the_first_has_nobody() {
    let mut world = town(&[OURS, STOCK]);
    for node in 2..world.nodes.len() {
        let config = TunnelConfig { exit_loopback: true, ..exit(&[STOCK]) };
        world.replace(node, config);
    }
    let seeder = meet(&mut world, 1);
    carried(&mut world, (TAKER, GROUP), seeder, SEEDER, &datagram(1, 500));
}

#[test]
fn taker_and_seeder_meet_though_their_relays_are_of_different_communities() {
    let mut world = town(&[OURS, STOCK]);
    // The seeder is introduced in the first; who knows only the second asks there.
    world.replace(TAKER, user(&[STOCK]));
    let seeder = meet(&mut world, 1);
    let taker = carried(&mut world, (TAKER, GROUP), seeder, SEEDER, &datagram(1, 500));
    carried(&mut world, (SEEDER, SERVED), taker, TAKER, &datagram(2, 500));
}

//= spec/tunnels.md#9-hidden-services
#[test]
fn a_joined_circuit_stays_without_traffic_and_its_end_is_told_to_both() {
    let mut world = town(&[OURS]);
    let seeder = meet(&mut world, 1);
    let taker = carried(&mut world, (TAKER, GROUP), seeder, SEEDER, &datagram(1, 100));
    world.run(Duration::from_secs(90));
    carried(&mut world, (SEEDER, SERVED), taker, TAKER, &datagram(2, 100));
    world.nodes[TAKER].tunnel.close_group(world.now, GROUP);
    world.drain(TAKER);
    world.run(Duration::from_secs(30));
    let lost = TunnelEvent::HiddenPeerLost { group: SERVED, address: taker };
    assert!(world.nodes[SEEDER].events.contains(&lost));
}

#[test]
fn a_hidden_group_sends_nothing_to_ordinary_addresses() {
    let mut world = town(&[OURS]);
    meet(&mut world, 1);
    world.send(HOST, &datagram(1, 100));
    world.send_to(&Address::Host("tracker.example".into(), 6_969), &datagram(1, 100));
    world.run(Duration::from_secs(1));
    assert!(world.left.is_empty());
}

/// The node at the end of the taker's joined circuit.
fn rendezvous(world: &World) -> usize {
    let circuits = world.nodes[TAKER].tunnel.circuits(world.now);
    let joined =
        circuits.iter().find(|one| matches!(one.purpose, CircuitUse::Taking(_))).expect("it is joined");
    let (last, ..) = joined.path.last().expect("a hop");
    world.nodes.iter().position(|node| node.key == *last).expect("a node")
}

//= spec/tunnels.md#9-hidden-services
#[test]
fn when_the_rendezvous_point_dies_both_meet_elsewhere() {
    let mut world = town(&[OURS]);
    let first = meet(&mut world, 1);
    let lost = rendezvous(&world);
    world.nodes[lost].offline = true;
    let key = world.key(lost);
    let told = TunnelEvent::HiddenPeerLost { group: GROUP, address: first };
    assert!(world.run_until(Duration::from_secs(60), |world| world.nodes[TAKER].events.contains(&told)));
    // Both notice in time that the node is gone.
    for node in [TAKER, SEEDER] {
        world.nodes[node].tunnel.candidate_lost(world.now, &key);
    }
    let peers = |world: &World| world.count(TAKER, |event| matches!(event, TunnelEvent::HiddenPeer { .. }));
    assert!(world.run_until(Duration::from_secs(12), |world| peers(world) >= 2), "they do not meet again");
    assert_ne!(rendezvous(&world), lost);
    let again = world.nodes[TAKER].events.iter().rev().find_map(|event| match event {
        TunnelEvent::HiddenPeer { address, .. } => Some(*address),
        _ => None,
    });
    carried(&mut world, (TAKER, GROUP), again.expect("seen above"), SEEDER, &datagram(1, 700));
}

//= spec/tunnels.md#9-hidden-services
#[test]
fn when_the_introduction_point_dies_another_one_is_found() {
    let mut world = town(&[OURS]);
    world.nodes[SEEDER].tunnel.seed_hidden(world.now, SERVED, TORRENT, 1);
    world.drain(SEEDER);
    let ready = |world: &World| world.count(SEEDER, |event| *event == TunnelEvent::HiddenReady(SERVED));
    assert!(world.run_until(Duration::from_secs(60), |world| ready(world) == 1));
    world.run(Duration::from_secs(60));
    assert_eq!(ready(&world), 1, "it stays while it lives");
    // The third byte of a stored address tells the node.
    let point = usize::from(world.stored.values().flatten().next().expect("it is stored")[2] - 1);
    world.nodes[point].offline = true;
    let key = world.key(point);
    for node in [TAKER, SEEDER] {
        world.nodes[node].tunnel.candidate_lost(world.now, &key);
    }
    assert!(world.run_until(Duration::from_secs(60), |world| ready(world) == 2));
    // What the lost one stored is found too, for a while.
    world.nodes[TAKER].tunnel.join_hidden(world.now, GROUP, TORRENT, 1);
    world.drain(TAKER);
    let met = |world: &World| world.saw(TAKER, |event| matches!(event, TunnelEvent::HiddenPeer { .. }));
    assert!(world.run_until(Duration::from_secs(60), met));
}

/// How many circuits everybody has, own ones and those of others.
fn circuits(world: &World) -> Vec<(usize, usize)> {
    let count = |node: usize| (world.nodes[node].tunnel.circuits(world.now).len(), world.joined(node));
    (0..world.nodes.len()).map(count).collect()
}

//= spec/tunnels.md#9-hidden-services
#[test]
fn whatever_was_sent_is_in_vain_a_second_time() {
    let mut world = town(&[OURS]);
    world.tap.recording = true;
    let seeder = meet(&mut world, 1);
    carried(&mut world, (TAKER, GROUP), seeder, SEEDER, &datagram(1, 100));
    world.run(Duration::from_secs(1));
    let (sent, crossed) = (world.tap.datagrams.clone(), world.crossed.clone());
    assert!(
        crossed.iter().any(|(.., packet)| packet[22] == 13),
        "CREATE_E2E crosses from an exit to a point"
    );
    assert!(crossed.iter().any(|(.., packet)| packet[22] == 14), "CREATED_E2E crosses back");
    let before = circuits(&world);
    for (from, to, bytes) in sent.into_iter().chain(crossed.iter().cloned()) {
        world.inject(from, to, bytes);
    }
    // From elsewhere too: the address is no part of what makes it new.
    for (_, to, bytes) in crossed {
        world.inject("198.51.100.9:9".parse().expect("an address"), to, bytes);
    }
    world.run(Duration::from_secs(2));
    assert!(world.nodes[SEEDER].received.is_empty() && world.nodes[TAKER].received.is_empty());
    assert_eq!(circuits(&world), before);
    assert_eq!(world.count(TAKER, |event| matches!(event, TunnelEvent::HiddenPeer { .. })), 1);
    assert!(world.refused(SEEDER, "taker that asked before") >= 2);
    carried(&mut world, (TAKER, GROUP), seeder, SEEDER, &datagram(2, 100));
}

//= spec/tunnels.md#9-hidden-services
#[test]
fn the_address_of_neither_side_is_in_what_the_other_could_read() {
    let mut world = town(&[OURS]);
    world.tap.recording = true;
    let seeder = meet(&mut world, 2);
    carried(&mut world, (TAKER, GROUP), seeder, SEEDER, &datagram(1, 100));
    let holds = |bytes: &[u8], node: usize| {
        let (address, key) = (world.nodes[node].address, world.nodes[node].key);
        let SocketAddr::V4(v4) = address else { panic!("an IPv4 world") };
        let ip = v4.ip().octets();
        bytes.windows(4).any(|part| part == ip) || bytes.windows(74).any(|part| part == key.as_bytes())
    };
    // What leaves circuits is everything that either side reads in the clear; the rest they say under their layers.
    for (from, to, packet) in &world.crossed {
        for node in [TAKER, SEEDER] {
            assert!(
                !holds(packet, node)
                    && world.nodes[node].address != *from
                    && world.nodes[node].address != *to
            );
        }
    }
    let stored: Vec<_> = world.stored.values().flatten().collect();
    assert!(!stored.is_empty() && stored.iter().all(|value| !holds(value, SEEDER)));
    // Neither sends to the other, and on no link does the far one's key show.
    let (taker, seeder) = (world.nodes[TAKER].address, world.nodes[SEEDER].address);
    assert!(
        world
            .tap
            .datagrams
            .iter()
            .all(|(from, to, _)| [*from, *to] != [taker, seeder] && [*from, *to] != [seeder, taker])
    );
    for (from, to, bytes) in &world.tap.datagrams {
        let (header, message) = CellHeader::parse(bytes).expect("a cell");
        for (node, address) in [(TAKER, taker), (SEEDER, seeder)] {
            assert!(*from == address || *to == address || !header.plaintext || !holds(message, node));
        }
    }
}

//= spec/tunnels.md#15-acceptance
#[test]
fn points_and_takers_bear_changed_packets() {
    let mut world = town(&[OURS]);
    let seeder = meet(&mut world, 1);
    let crossed = world.crossed.clone();
    let before = circuits(&world);
    let mut rng = Rng::from_seed([3; 32]);
    for round in 0..1_000 {
        let (from, to, packet) = &crossed[rng.index(crossed.len()).expect("not empty")];
        let mut changed = packet.to_vec();
        for _ in 0..rng.below(4) {
            let at = 22 + rng.index(changed.len() - 22).expect("not empty");
            changed[at] = u8::try_from(rng.below(256)).expect("a byte");
        }
        changed[22] = 13 + u8::try_from(rng.below(6)).expect("small");
        changed.truncate(changed.len() - rng.index(20).expect("not empty"));
        world.inject(*from, *to, changed.into());
        if round % 50 == 0 {
            world.run(Duration::from_millis(500));
        }
    }
    world.run(Duration::from_secs(90));
    // A changed half of an exchange is another half: the seeder goes to meet it, in vain, and forgets it.
    assert_eq!(world.nodes[SEEDER].tunnel.circuits(world.now).len(), before[SEEDER].0);
    assert_eq!(world.count(TAKER, |event| matches!(event, TunnelEvent::HiddenPeerLost { .. })), 0);
    carried(&mut world, (TAKER, GROUP), seeder, SEEDER, &datagram(2, 100));
}

//= spec/tunnels.md#9-hidden-services
#[test]
fn nobody_outside_passes_for_a_hidden_peer() {
    let local = |config: TunnelConfig| TunnelConfig { exit_loopback: true, ..config };
    let mut configs = vec![user(&[OURS]), user(&[OURS])];
    configs.extend((0..8).map(|_| local(exit(&[OURS]))));
    let mut world = World::new(configs);
    let seeder = meet(&mut world, 1);
    let asked = world.crossed.iter().find(|(.., packet)| packet[22] == 13).expect("CREATE_E2E");
    let socket = asked.0;
    world.inject(seeder, socket, datagram(1, 100).into());
    world.run(Duration::from_secs(1));
    assert!(world.nodes[TAKER].received.is_empty());
    assert_eq!(world.refused(TAKER, "data over a circuit that carries none"), 1);
}

//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
#[test]
fn a_group_is_hidden_or_not_and_stays_so() {
    let mut world = town(&[OURS]);
    meet(&mut world, 1);
    world.nodes[TAKER].tunnel.open_group(world.now, GROUP, crate::world::spec(1));
    assert_eq!(world.refused(TAKER, "group of a hidden swarm"), 1);
    let other = GroupId(12);
    world.nodes[TAKER].tunnel.open_group(world.now, other, crate::world::spec(1));
    world.nodes[TAKER].tunnel.join_hidden(world.now, other, TORRENT, 1);
    assert_eq!(world.refused(TAKER, "hidden swarm in a group that is not free"), 1);
}

#[test]
fn ten_swarms_are_introduced_at_once() {
    let mut world = town(&[OURS]);
    for number in 0..15 {
        world.nodes[SEEDER].tunnel.seed_hidden(world.now, GroupId(100 + number), [number as u8; 20], 1);
    }
    world.drain(SEEDER);
    world.run(Duration::from_secs(30));
    assert_eq!(world.count(SEEDER, |event| matches!(event, TunnelEvent::HiddenReady(_))), 10);
    world.nodes[SEEDER].tunnel.close_group(world.now, GroupId(100));
    world.run(Duration::from_secs(30));
    assert_eq!(
        world.count(SEEDER, |event| matches!(event, TunnelEvent::HiddenReady(_))),
        11,
        "one takes its place"
    );
}

//= spec/tunnels.md#9-hidden-services
#[test]
fn a_node_that_does_not_know_its_address_introduces_nobody() {
    let mut world = town(&[OURS]);
    let unknown: SocketAddr = "0.0.0.0:7000".parse().expect("an address");
    for node in 6..world.nodes.len() {
        world.nodes[node].tunnel.set_addresses(vec![unknown]);
    }
    meet(&mut world, 1);
    let refused = |node| world.refused(node, "introduction, but our address is not known");
    assert!((6..world.nodes.len()).map(refused).sum::<u64>() > 0, "one was asked");
    // An address begins with its type; the third byte tells the node.
    let points: Vec<u8> = world.stored.values().flatten().map(|value| value[2] - 1).collect();
    assert!(!points.is_empty() && points.iter().all(|point| (2..6).contains(point)), "{points:?}");
}
