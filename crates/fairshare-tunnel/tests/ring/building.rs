//! Circuits come to stand, and carry.

use crate::world::{GROUP, HOST, OURS, STOCK, World, datagram, exit, plain, spec, user};
use fairshare_tunnel::{Flags, GroupSpec, TunnelEvent};
use std::collections::BTreeSet;
use std::time::Duration;

//= spec/tunnels.md#15-acceptance
#[test]
fn datagrams_of_every_size_come_back_over_one_two_and_three_hops() {
    for hops in 1..=3 {
        let mut world = World::town(3, 1);
        world.open(spec(hops));
        for (number, len) in (20..=1_400).step_by(37).chain([1_400]).enumerate() {
            let data = datagram(u32::try_from(number).expect("few"), len);
            assert!(world.echoed(&data), "{len} bytes over {hops} hops");
        }
        assert!(world.paths().iter().all(|path| path.len() == usize::from(hops) && path.last() == Some(&4)));
    }
}

//= spec/tunnels.md#5-building-a-circuit
#[test]
fn nothing_is_sent_before_the_last_hop_is_there() {
    // Every hop would let it out.
    let mut world = World::town(0, 4);
    world.nodes[0].tunnel.open_group(world.now, GROUP, spec(3));
    world.drain(0);
    for _ in 0..5 {
        world.send(HOST, &datagram(1, 100));
        world.run(Duration::from_millis(30));
    }
    assert!(world.left.is_empty());
    world.run(Duration::from_secs(2));
    assert!(world.echoed(&datagram(2, 100)));
}

#[test]
fn circuits_come_to_stand_and_carry_over_a_network_that_loses_one_in_ten() {
    let mut world = World::town(6, 2);
    world.loss_per_mille = 100;
    world.nodes[0].tunnel.open_group(world.now, GROUP, GroupSpec { circuits: 2, ..spec(3) });
    world.drain(0);
    let ready = |world: &World| world.saw(0, |event| matches!(event, TunnelEvent::GroupReady(GROUP)));
    assert!(world.run_until(Duration::from_secs(120), ready));
    let mut came = 0;
    for number in 0..300 {
        came += u32::from(world.echoed(&datagram(number, 500)));
        world.nodes[0].received.clear();
    }
    // Eight links, each of which keeps nine of ten: 43 of 100.
    assert!(came > 60, "{came} of 300");
}

//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
#[test]
fn no_node_stands_twice_on_a_path_and_first_hops_are_few() {
    let mut world = World::town(9, 3);
    let mut firsts = BTreeSet::new();
    for _ in 0..20 {
        world.open(spec(3));
        for path in world.paths() {
            assert_eq!(path.iter().collect::<BTreeSet<_>>().len(), 3, "{path:?}");
            firsts.insert(path[0]);
        }
        world.nodes[0].events.clear();
        world.nodes[0].tunnel.close_group(world.now, GROUP);
        world.drain(0);
        world.run(Duration::from_secs(10));
    }
    assert!(firsts.len() <= 2, "{firsts:?}");
    assert!(world.nodes[0].saved.is_some());
}

#[test]
fn a_forced_path_is_taken_as_it_is() {
    let mut world = World::town(4, 2);
    let path = [3, 1, 6].map(|node| world.key(node)).to_vec();
    world.open(GroupSpec { path: Some(path), ..spec(3) });
    assert!(world.echoed(&datagram(1, 200)));
    assert!(world.paths().iter().all(|path| path == &[3, 1, 6]));
}

#[test]
fn our_community_is_used_where_it_has_a_path_and_the_fields_elsewhere() {
    let both = [OURS, STOCK];
    let mut world = World::new(vec![user(&both), plain(&both), plain(&both), exit(&[STOCK])]);
    world.tap.recording = true;
    world.open(spec(2));
    assert!(world.echoed(&datagram(1, 100)));
    assert!(world.tap.datagrams.iter().all(|(.., bytes)| bytes[2..22] == STOCK.0));

    let mut world = World::new(vec![user(&both), plain(&both), plain(&both), exit(&[STOCK]), exit(&both)]);
    world.tap.recording = true;
    world.open(spec(2));
    assert!(world.echoed(&datagram(1, 100)));
    assert!(world.tap.datagrams.iter().all(|(.., bytes)| bytes[2..22] == OURS.0));
}

//= spec/tunnels.md#1-identities-prefix-peer-flags
#[test]
fn a_cell_under_another_communitys_prefix_is_dropped() {
    let both = [OURS, STOCK];
    let mut world = World::new(vec![user(&both), exit(&both)]);
    world.open(spec(1));
    assert!(world.echoed(&datagram(1, 100)));
    world.tap.recording = true;
    world.nodes[1].offline = true;
    world.send(HOST, &datagram(2, 100));
    world.run(Duration::from_millis(100));
    world.nodes[1].offline = false;
    let (from, to, cell) = world.tap.datagrams.first().expect("the cell").clone();
    let before = world.left.len();
    let mut other = cell.to_vec();
    other[2..22].copy_from_slice(&STOCK.0);
    world.inject(from, to, other.into());
    world.run(Duration::from_millis(100));
    assert_eq!(world.left.len(), before);
    world.inject(from, to, cell);
    world.run(Duration::from_millis(100));
    assert_eq!(world.left.len(), before + 1);
}

#[test]
fn what_no_candidate_offers_gets_no_circuit_until_one_does() {
    let mut world = World::town(3, 1);
    world.nodes[0].tunnel.open_group(world.now, GROUP, GroupSpec { need: Flags(0x40), ..spec(2) });
    world.drain(0);
    world.run(Duration::from_secs(20));
    assert!(world.paths().is_empty());
    let (key, address) = (world.key(4), world.nodes[4].address);
    world.nodes[0].tunnel.candidate_found(world.now, OURS, key, address, Flags(0x4f));
    let ready = |world: &World| world.saw(0, |event| matches!(event, TunnelEvent::GroupReady(GROUP)));
    assert!(world.run_until(Duration::from_secs(40), ready));
}

//= spec/tunnels.md#5-building-a-circuit
#[test]
fn a_hop_that_does_not_answer_is_replaced() {
    let mut world = World::town(6, 2);
    // The user believes that they are there.
    for node in [2, 3, 7] {
        world.nodes[node].offline = true;
    }
    world.nodes[0].tunnel.open_group(world.now, GROUP, spec(3));
    world.drain(0);
    let ready = |world: &World| world.saw(0, |event| matches!(event, TunnelEvent::GroupReady(GROUP)));
    assert!(world.run_until(Duration::from_secs(120), ready));
    assert!(world.echoed(&datagram(1, 300)));
}
