//! What neighbours must know to pay each other: what was carried, and a link for their messages.

use crate::world::{HOST, OURS, World, datagram, exit, plain, spec, user};
use bytes::Bytes;
use fairshare_tunnel::{Allowance, Carried, CircuitEnd, GroupSpec, TunnelConfig, TunnelEvent};
use std::time::Duration;

fn carried(world: &World, node: usize) -> Vec<Carried> {
    let told = |event: &TunnelEvent| match event {
        TunnelEvent::Carried(carried) => Some(*carried),
        _ => None,
    };
    world.nodes[node].events.iter().filter_map(told).collect()
}

fn sum(all: &[Carried], what: impl Fn(&Carried) -> u64) -> u64 {
    all.iter().map(what).sum()
}

//= spec/payouts.md#32-price
#[test]
fn both_ends_of_a_link_count_the_same_bytes() {
    let quick = |config: TunnelConfig| TunnelConfig { metering: Duration::from_secs(10), ..config };
    let mut world = World::new(vec![
        quick(user(&[OURS])),
        quick(plain(&[OURS])),
        quick(plain(&[OURS])),
        quick(exit(&[OURS])),
    ]);
    let path = [1, 2, 3].map(|node| world.key(node)).to_vec();
    world.open(GroupSpec { path: Some(path), ..spec(3) });
    for number in 0..100 {
        assert!(world.echoed(&datagram(number, 1_000)));
    }
    let group = crate::world::GROUP;
    world.nodes[0].tunnel.close_group(world.now, group);
    world.drain(0);
    world.run(Duration::from_secs(40));
    let told: Vec<Vec<Carried>> = (0..4).map(|node| carried(&world, node)).collect();
    assert!(sum(&told[0], |one| one.to_bytes) > 200_000);
    for link in 0..3 {
        let (here, there) =
            (sum(&told[link], |one| one.to_bytes), sum(&told[link + 1], |one| one.from_bytes));
        assert_eq!(here, there, "the link after node {link}");
        assert!(told[link].iter().all(|one| one.to == Some(world.key(link + 1))));
        assert!(told[link + 1].iter().all(|one| one.from == Some(world.key(link))));
    }
    assert!(told[0].iter().all(|one| one.from.is_none() && one.hops == 3 && !one.hidden));
    assert!(told[1].iter().all(|one| one.from_originator) && told[2].iter().all(|one| !one.from_originator));
    assert!(told[3].iter().any(|one| one.end == CircuitEnd::Exit && one.to.is_none()));
}

//= spec/payouts.md#31-parties-and-accounts
#[test]
fn neighbours_exchange_messages_over_a_link_and_the_opener_knows_who_answers() {
    let mut world = World::town(2, 0);
    let (a, b) = (world.key(1), world.key(2));
    let body = Bytes::from(vec![3; 512]);
    world.nodes[1].tunnel.link_send(world.now, &b, false, 40, body.clone());
    world.drain(1);
    world.run(Duration::from_secs(2));
    let got = TunnelEvent::LinkMessage { neighbour: a, outgoing: false, id: 40, body: body.clone() };
    assert!(world.nodes[2].events.contains(&got), "{:?}", world.nodes[2].events);
    world.nodes[2].tunnel.link_send(world.now, &a, true, 41, body.clone());
    world.drain(2);
    world.run(Duration::from_secs(2));
    let answered = TunnelEvent::LinkMessage { neighbour: b, outgoing: true, id: 41, body };
    assert!(world.nodes[1].events.contains(&answered), "{:?}", world.nodes[1].events);
}

//= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
#[test]
fn a_neighbour_that_owes_too_much_begins_nothing_new_then_is_slowed_then_cut() {
    let mut world = World::new(vec![user(&[OURS]), plain(&[OURS]), exit(&[OURS])]);
    let debtor = world.key(0);
    let path = vec![world.key(1), world.key(2)];
    let spec = GroupSpec { path: Some(path), ..spec(2) };
    world.open(spec.clone());
    let set = |world: &mut World, allowance| {
        world.nodes[1].tunnel.set_allowance(&debtor, allowance);
        world.drain(1);
    };
    set(&mut world, Allowance::NoNewCircuits);
    assert!(world.echoed(&datagram(1, 100)), "the old circuit goes on");
    world.nodes[0].tunnel.open_group(world.now, fairshare_tunnel::GroupId(9), spec);
    world.drain(0);
    world.run(Duration::from_secs(15));
    let other = |event: &TunnelEvent| matches!(event, TunnelEvent::GroupReady(group) if group.0 == 9);
    assert!(!world.saw(0, other));
    set(&mut world, Allowance::Slow);
    let before = world.left.len();
    for number in 0..400 {
        world.send(HOST, &datagram(number, 1_000));
        world.run(Duration::from_millis(10));
    }
    let passed = world.left.len() - before;
    assert!((1..=100).contains(&passed), "{passed} of 400");
    set(&mut world, Allowance::Cut);
    world.run(Duration::from_secs(1));
    assert!(world.saw(0, |event| matches!(event, TunnelEvent::CircuitClosed { .. })));
    set(&mut world, Allowance::Open);
    world.run(Duration::from_secs(60));
    assert!(world.saw(0, other) && world.echoed(&datagram(2, 100)));
}
