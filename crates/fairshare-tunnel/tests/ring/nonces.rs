//! No key ever seals twice with one counter, whatever the roles do; and what was sent once leaves the exit once.

use crate::world::{GROUP, HOST, World, datagram, spec};
use fairshare_tunnel::GroupSpec;
use std::time::Duration;

/// Cells of each hop and direction in the normal test; the campaign sets `FAIRSHARE_TUNNEL_CELLS`.
const CELLS: u64 = 100_000;

//= spec/tunnels.md#4-encryption-of-a-layer
#[test]
fn no_key_seals_twice_with_one_counter() {
    let wanted =
        std::env::var("FAIRSHARE_TUNNEL_CELLS").ok().and_then(|text| text.parse().ok()).unwrap_or(CELLS);
    let mut world = World::town(4, 2);
    let mut number = 0;
    // Three hops seal forward for the originator, and backward for themselves.
    while world.tap.layers < 6 * wanted {
        // Circuits come and go, so that handshakes are among the cells, also interrupted ones.
        world.nodes[0].events.clear();
        world.loss_per_mille = 0;
        world.open(GroupSpec { circuits: 2, ..spec(3) });
        world.loss_per_mille = 20;
        for _ in 0..400 {
            number += 1;
            world.send(HOST, &datagram(number, 60));
            if number % 16 == 0 {
                world.run(Duration::from_millis(20));
            }
        }
        world.run(Duration::from_secs(1));
        world.nodes[0].tunnel.close_group(world.now, GROUP);
        world.drain(0);
        world.run(Duration::from_secs(6));
        world.nodes[0].received.clear();
        world.left.clear();
    }
    assert!(world.tap.repeated.is_empty(), "{:?}", world.tap.repeated.first());
}

//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
#[test]
fn a_replayed_cell_leaves_the_exit_once_and_reaches_the_originator_once() {
    let mut world = World::town(3, 1);
    world.open(spec(3));
    world.tap.recording = true;
    for number in 0..20 {
        assert!(world.echoed(&datagram(number, 100)));
    }
    let (left, recorded) = (world.left.len(), std::mem::take(&mut world.tap.datagrams));
    world.tap.recording = false;
    for (from, to, bytes) in &recorded {
        for _ in 0..2 {
            world.inject(*from, *to, bytes.clone());
        }
    }
    world.run(Duration::from_secs(2));
    assert_eq!(world.left.len(), left, "no datagram leaves again");
    assert!(world.nodes[0].received.is_empty(), "no answer comes again");
    assert!(world.echoed(&datagram(99, 100)), "the circuit lives");
}
