//! What neighbours must know to pay each other: what was carried, and a link for their messages.

use crate::world::{HOST, OURS, STOCK, World, datagram, exit, plain, spec, user};
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

/// Whether a node got this message from that neighbour, which proved itself or not.
fn got(world: &World, node: usize, from: usize, outgoing: bool, id: u8, body: &Bytes) -> bool {
    let neighbour = world.key(from);
    let message = TunnelEvent::LinkMessage { neighbour, outgoing, id, body: body.clone() };
    world.nodes[node].events.contains(&message)
}

fn tell(world: &mut World, from: usize, to: usize, id: u8, body: &Bytes) {
    let key = world.key(to);
    world.nodes[from].tunnel.link_send(world.now, &key, true, id, body.clone());
    world.drain(from);
    world.run(Duration::from_secs(2));
}

//= spec/payouts.md#31-parties-and-accounts
#[test]
fn neighbours_exchange_messages_over_links_of_their_own() {
    let mut world = World::town(2, 0);
    let body = Bytes::from(vec![3; 512]);
    tell(&mut world, 1, 2, 40, &body);
    assert!(got(&world, 2, 1, false, 40, &body), "{:?}", world.nodes[2].events);
    tell(&mut world, 2, 1, 41, &body);
    assert!(got(&world, 1, 2, false, 41, &body), "{:?}", world.nodes[1].events);
}

//= spec/payouts.md#31-parties-and-accounts
#[test]
fn a_neighbour_of_the_stock_community_alone_is_never_told_who_pays() {
    let mut world = World::new(vec![user(&[OURS, STOCK]), plain(&[STOCK]), plain(&[OURS, STOCK])]);
    let body = Bytes::from(vec![3; 512]);
    tell(&mut world, 0, 1, 46, &body);
    tell(&mut world, 0, 2, 46, &body);
    assert!(got(&world, 2, 0, false, 46, &body));
    assert!(world.nodes[1].tunnel.joined(world.now).is_empty(), "no link to it");
}

//= spec/payouts.md#31-parties-and-accounts
#[test]
fn who_answers_no_create_is_answered_over_its_own_link() {
    let mut world = World::town(1, 0);
    let body = Bytes::from(vec![3; 512]);
    tell(&mut world, 0, 1, 40, &body);
    tell(&mut world, 1, 0, 41, &body);
    assert!(got(&world, 0, 1, true, 41, &body), "{:?}", world.nodes[0].events);
    // One that says it relays, but cannot be reached from here.
    let (key, address) = (world.key(0), world.nodes[0].address);
    world.nodes[1].tunnel.candidate_found(world.now, OURS, key, address, fairshare_tunnel::Flags::RELAY);
    tell(&mut world, 1, 0, 42, &body);
    assert!(!got(&world, 0, 1, true, 42, &body));
    for _ in 0..5 {
        tell(&mut world, 0, 1, 40, &body);
    }
    tell(&mut world, 1, 0, 43, &body);
    assert!(got(&world, 0, 1, true, 43, &body), "{:?}", world.nodes[0].events);
}

//= spec/payouts.md#31-parties-and-accounts
#[test]
fn an_answer_does_not_wait_for_a_link_that_cannot_stand() {
    let mut world = World::town(1, 0);
    let body = Bytes::from(vec![3; 512]);
    let (key, address) = (world.key(0), world.nodes[0].address);
    // It is known, but relays nothing: it will not answer our CREATE.
    world.nodes[1].tunnel.candidate_found(world.now, OURS, key, address, fairshare_tunnel::Flags::NONE);
    world.nodes[1].tunnel.link_send(world.now, &key, true, 40, body.clone());
    world.drain(1);
    tell(&mut world, 0, 1, 41, &body);
    tell(&mut world, 1, 0, 42, &body);
    assert!(got(&world, 0, 1, true, 42, &body), "{:?}", world.nodes[0].events);
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
        world.run(Duration::from_secs(1));
        // It could not get out of debt if it could not say that it pays.
        let body = Bytes::from(vec![allowance as u8; 512]);
        tell(world, 0, 1, 40, &body);
        assert!(got(world, 1, 0, false, 40, &body), "{allowance:?}");
        tell(world, 1, 0, 41, &body);
        assert!(got(world, 0, 1, true, 41, &body), "{allowance:?}");
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
