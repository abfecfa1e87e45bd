//! Circuits end: by each role, by age, by silence; and nothing is left behind.

use crate::world::{GROUP, HOST, OURS, World, datagram, exit, plain, spec, user};
use fairshare_tunnel::{Allowance, CircuitState, GroupSpec, TunnelConfig, TunnelEvent};
use fairshare_wire::Address;
use std::time::Duration;

fn forced(world: &World, path: &[usize]) -> GroupSpec {
    let keys = path.iter().map(|node| world.key(*node)).collect();
    GroupSpec { path: Some(keys), ..spec(3) }
}

fn closed(world: &World) -> usize {
    world.count(0, |event| matches!(event, TunnelEvent::CircuitClosed { .. }))
}

//= spec/tunnels.md#8-destroy
#[test]
fn when_the_originator_ends_a_circuit_every_hop_forgets_it() {
    let mut world = World::town(2, 1);
    world.open(forced(&world, &[1, 2, 3]));
    assert!(world.echoed(&datagram(1, 100)));
    assert!((1..=3).all(|node| world.joined(node) >= 1) && world.nodes[3].exits.len() == 1);
    world.nodes[0].tunnel.close_group(world.now, GROUP);
    world.drain(0);
    world.run(Duration::from_secs(8));
    assert!((1..=3).all(|node| world.joined(node) == 0) && world.nodes[3].exits.is_empty());
    assert!(world.paths().is_empty());
}

//= spec/tunnels.md#8-destroy
#[test]
fn when_any_hop_ends_a_circuit_both_sides_learn_it_and_another_is_built() {
    for cutter in 1..=3 {
        let mut world = World::town(2, 1);
        world.open(forced(&world, &[1, 2, 3]));
        assert!(world.echoed(&datagram(1, 100)));
        let before = world.key(cutter - 1);
        world.nodes[cutter].tunnel.set_allowance(&before, Allowance::Cut);
        world.drain(cutter);
        world.run(Duration::from_millis(300));
        assert!(closed(&world) >= 1, "cut by hop {cutter}");
        world.nodes[cutter].tunnel.set_allowance(&before, Allowance::Open);
        world.drain(cutter);
        world.run(Duration::from_secs(40));
        assert!(world.echoed(&datagram(2, 100)), "after the cut by hop {cutter}");
    }
}

//= spec/tunnels.md#8-destroy
#[test]
fn a_node_that_stops_tells_the_neighbours_of_all_its_circuits() {
    for stopping in 0..=3 {
        let mut world = World::town(2, 1);
        world.open(forced(&world, &[1, 2, 3]));
        assert!(world.echoed(&datagram(1, 100)));
        world.nodes[stopping].tunnel.shut_down(world.now);
        world.drain(stopping);
        world.run(Duration::from_millis(300));
        assert_eq!(world.joined(stopping), 0);
        assert!(stopping == 0 || closed(&world) >= 1, "hop {stopping}");
        world.run(Duration::from_secs(5));
        assert!((stopping..=3).all(|node| world.joined(node) == 0), "hop {stopping}");
    }
}

//= spec/tunnels.md#6-keeping-and-dropping
#[test]
fn what_a_vanished_originator_left_is_dropped_after_its_silence() {
    let mut world = World::town(2, 1);
    world.open(forced(&world, &[1, 2, 3]));
    assert!(world.echoed(&datagram(1, 100)));
    world.nodes[0].offline = true;
    world.run(Duration::from_secs(15));
    assert!((1..=3).all(|node| world.joined(node) >= 1));
    world.run(Duration::from_secs(20));
    assert!((1..=3).all(|node| world.joined(node) == 0) && world.nodes[3].exits.is_empty());
}

//= spec/tunnels.md#6-keeping-and-dropping
#[test]
fn a_relay_drops_a_silent_circuit_although_nobody_tells_it() {
    let mut world = World::town(2, 1);
    world.open(forced(&world, &[1, 2, 3]));
    world.nodes[0].offline = true;
    world.nodes[3].offline = true;
    world.run(Duration::from_secs(40));
    assert!((1..=2).all(|node| world.joined(node) == 0));
}

//= spec/tunnels.md#6-keeping-and-dropping
#[test]
fn pings_keep_a_circuit_that_carries_nothing() {
    let mut world = World::town(2, 1);
    world.open(forced(&world, &[1, 2, 3]));
    world.run(Duration::from_secs(120));
    assert_eq!(closed(&world), 0);
    assert!(world.echoed(&datagram(1, 100)));
}

//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
#[test]
fn a_silent_hop_is_noticed_within_seconds_and_destinations_move() {
    let mut world = World::town(5, 2);
    world.open(GroupSpec { circuits: 2, ..spec(2) });
    world.run(Duration::from_secs(5));
    assert!(world.echoed(&datagram(1, 100)));
    let used = world.left.last().expect("it left").node;
    let moved = TunnelEvent::Moved { group: GROUP, destinations: vec![Address::Ip(HOST)] };
    assert!(!world.nodes[0].events.contains(&moved));
    world.nodes[used].offline = true;
    // A ping goes out at most 7.5 s later, is missed after 2 s, and once more.
    assert!(world.run_until(Duration::from_secs(13), |world| world.nodes[0].events.contains(&moved)));
    let circuits = world.nodes[0].tunnel.circuits(world.now);
    assert!(circuits.iter().any(|circuit| circuit.state == CircuitState::Suspect), "it is not given up yet");
    assert!(world.echoed(&datagram(2, 100)));
    assert_ne!(world.left.last().expect("it left").node, used);
}

//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
#[test]
fn a_data_circuit_is_rotated_and_the_old_one_drains() {
    let mut configs = vec![user(&[OURS])];
    configs[0].rotate_after = Duration::from_secs(60);
    configs.extend((0..4).map(|_| plain(&[OURS])));
    configs.push(exit(&[OURS]));
    let mut world = World::new(configs);
    world.open(spec(2));
    assert!(world.echoed(&datagram(1, 100)));
    let first = world.nodes[0].tunnel.circuits(world.now);
    let first: Vec<_> = first.iter().map(|circuit| circuit.circuit).collect();
    for number in 0..50 {
        world.run(Duration::from_secs(2));
        assert!(world.echoed(&datagram(number, 100)), "datagram {number}");
    }
    let later = world.nodes[0].tunnel.circuits(world.now);
    assert!(later.iter().any(|circuit| !first.contains(&circuit.circuit)));
}

//= spec/tunnels.md#6-keeping-and-dropping
#[test]
fn a_circuit_ends_at_its_age_or_when_it_carried_its_share() {
    let limits = TunnelConfig { age_max: Duration::from_secs(100), ..user(&[OURS]) };
    let mut world = World::new(vec![limits, plain(&[OURS]), exit(&[OURS])]);
    world.open(spec(2));
    world.run(Duration::from_secs(130));
    assert!(closed(&world) >= 1);
    assert!(world.echoed(&datagram(1, 100)));

    let limits = TunnelConfig { traffic_max: 100_000, rotate_bytes: 50_000, ..user(&[OURS]) };
    let mut world = World::new(vec![limits, plain(&[OURS]), exit(&[OURS])]);
    world.open(spec(2));
    let mut came = 0;
    for number in 0..200 {
        world.run(Duration::from_millis(200));
        came += u32::from(world.echoed(&datagram(number, 1_000)));
        world.nodes[0].received.clear();
    }
    assert!(closed(&world) >= 1 && came > 150, "{came} of 200");
}

#[test]
fn groups_share_no_circuit() {
    use fairshare_tunnel::GroupId;
    let mut world = World::town(4, 2);
    world.open(spec(2));
    let other = GroupId(8);
    world.nodes[0].tunnel.open_group(world.now, other, spec(2));
    world.drain(0);
    world.run(Duration::from_secs(5));
    world.send(HOST, &datagram(1, 100));
    let to = Address::Ip(HOST);
    world.nodes[0].tunnel.send(world.now, other, &to, &datagram(2, 100));
    world.drain(0);
    world.run(Duration::from_secs(1));
    let got: Vec<_> = world.nodes[0].received.drain(..).collect();
    assert_eq!(got.len(), 2);
    for (group, _, data) in got {
        assert_eq!(data, datagram(if group == GROUP { 1 } else { 2 }, 100));
    }
    let mut uses: Vec<_> = world.nodes[0]
        .tunnel
        .circuits(world.now)
        .iter()
        .map(|circuit| format!("{:?}", circuit.purpose))
        .collect();
    uses.sort();
    uses.dedup();
    assert_eq!(uses.len(), 2, "each circuit belongs to one of two groups");
}
