//! Seeders and takers who never learn each other's address.

use crate::world::{GROUP, HOST, OURS, STOCK, World, datagram, exit, plain, user};
use fairshare_tunnel::{GroupId, TunnelConfig, TunnelEvent};
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
