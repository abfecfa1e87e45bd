//! How connections begin, end and are limited.

mod world;

use fairshare_crypto::{Rng, SecretKey};
use fairshare_swarm::{AddError, CloseReason, Magnet, Source, SwarmEvent, SwarmOutput, TorrentState};
use std::time::Duration;
use world::{Economy, TestTorrent, World};

const MINUTE: Duration = Duration::from_secs(60);

fn closed(world: &World, node: usize, wanted: CloseReason) -> usize {
    world.count(node, |event| matches!(event, SwarmEvent::Disconnected { reason, .. } if *reason == wanted))
}

fn sessions(world: &World, node: usize) -> usize {
    world.count(node, |event| matches!(event, SwarmEvent::SessionOpened { .. }))
}

//= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
#[test]
fn two_seeds_part_after_ten_seconds_and_leave_each_other_alone() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.seed(seed, &torrent);
    world.leech(leecher, &torrent, &[seed]);
    assert!(world.run_until(MINUTE, |world| world.finished(leecher)));
    world.run(Duration::from_secs(9));
    assert_eq!(world.nodes[seed].swarm.connections().len(), 1);
    world.run(Duration::from_secs(4));
    assert_eq!(world.nodes[seed].swarm.connections().len(), 0);
    assert!(
        closed(&world, seed, CloseReason::Redundant) + closed(&world, leecher, CloseReason::Redundant) > 0
    );
    world.run(10 * MINUTE);
    assert_eq!(sessions(&world, seed), 1, "no second call");
}

//= spec/swarm.md#2-handshake-bep-3
#[test]
fn a_node_that_calls_itself_notices_and_does_not_try_again_soon() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let mut world = World::new();
    let node = world.node();
    world.leech(node, &torrent, &[node]);
    world.run(10 * MINUTE);
    assert_eq!(world.nodes[node].swarm.connections().len(), 0);
    assert_eq!(world.nodes[node].dialled, 1);
}

//= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r
#[test]
fn two_nodes_with_one_key_part() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let key = SecretKey::generate(&mut Rng::from_seed([5; 32]));
    let mut world = World::new();
    let seed = world.node_with(|config| config.identity = Some(key.clone()));
    let leecher = world.node_with(|config| config.identity = Some(key.clone()));
    world.seed(seed, &torrent);
    world.leech(leecher, &torrent, &[seed]);
    world.run(MINUTE);
    assert_eq!(sessions(&world, seed) + sessions(&world, leecher), 0);
    assert!(closed(&world, seed, CloseReason::OwnIdentity) >= 1);
}

//= spec/swarm.md#2-handshake-bep-3
#[test]
fn a_peer_that_was_restarted_takes_the_place_of_its_dead_connection() {
    let torrent = TestTorrent::new(4 << 20, 64 << 10);
    let key = SecretKey::generate(&mut Rng::from_seed([5; 32]));
    let mut world = World::new();
    let seed = world.node();
    let before = world.node_with(|config| config.identity = Some(key.clone()));
    world.nodes[seed].economy = Economy::Allowance(1 << 20);
    world.seed(seed, &torrent);
    world.leech(before, &torrent, &[seed]);
    world.run(Duration::from_secs(5));
    assert_eq!(sessions(&world, seed), 1);

    // The process is gone, and nobody told the seed: its connection hangs.
    let hanging = world.nodes[seed].swarm.connections()[0].id;
    world.freeze(before);
    let after = world.node_with(|config| config.identity = Some(key.clone()));
    world.leech(after, &torrent, &[seed]);
    world.run(Duration::from_secs(5));
    assert_eq!(sessions(&world, seed), 2);
    let connections = world.nodes[seed].swarm.connections();
    assert_eq!(connections.len(), 1);
    assert_ne!(connections[0].id, hanging);
    assert_eq!(closed(&world, seed, CloseReason::Duplicate), 1);
}

#[test]
fn a_paused_torrent_has_no_connections_and_resumes_where_it_was() {
    let torrent = TestTorrent::new(8 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.nodes[seed].line = Some(1 << 20);
    world.seed(seed, &torrent);
    world.leech(leecher, &torrent, &[seed]);
    assert!(world.run_until(MINUTE, |world| world.nodes[leecher].disk.stored > 20));
    world.act(leecher, |swarm, now| swarm.pause(now, &torrent.info_hash()).expect("known"));
    world.run(2 * MINUTE);
    let status = &world.nodes[leecher].swarm.torrents()[0];
    assert_eq!((&status.state, status.peers), (&TorrentState::Paused, 0));
    let (have, finished) = &world.nodes[leecher].disk.saved[&torrent.info_hash()];
    assert!(have.count() == world.nodes[leecher].disk.stored && !finished, "what was reached is recorded");
    world.act(leecher, |swarm, now| swarm.resume(now, &torrent.info_hash()).expect("known"));
    assert!(world.run_until(2 * MINUTE, |world| world.finished(leecher)));
    assert_eq!(world.nodes[leecher].disk.content(&torrent), torrent.content);
}

#[test]
fn a_removed_torrent_leaves_nothing_behind() {
    let torrent = TestTorrent::new(8 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.nodes[seed].line = Some(1 << 20);
    world.seed(seed, &torrent);
    world.leech(leecher, &torrent, &[seed]);
    assert!(world.run_until(MINUTE, |world| world.nodes[leecher].disk.stored > 20));
    world.act(leecher, |swarm, now| swarm.remove(now, &torrent.info_hash(), true).expect("known"));
    world.run(Duration::from_secs(5));
    let node = &world.nodes[leecher];
    assert!(node.swarm.torrents().is_empty() && node.swarm.connections().is_empty());
    assert!(node.disk.content(&torrent).is_empty());
    assert_eq!(node.swarm.next_timeout(), None, "a node without torrents sleeps");
}

#[test]
fn what_cannot_be_added_is_refused() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let mut world = World::new();
    let node = world.node();
    let add = |source, seed| fairshare_swarm::AddTorrent {
        source,
        root: "downloads".into(),
        seed,
        peers: Vec::new(),
    };
    let magnet = || Source::Magnet(Magnet::new(torrent.info_hash()));
    world.act(node, |swarm, now| {
        assert_eq!(swarm.add(now, add(magnet(), true)), Err(AddError::SeedWithoutDescription));
        assert_eq!(swarm.add(now, add(magnet(), false)), Ok(torrent.info_hash()));
        let again = swarm.add(now, add(Source::Metainfo(torrent.metainfo.clone()), false));
        assert_eq!(again, Err(AddError::Duplicate(torrent.info_hash())));
        assert!(swarm.pause(now, &fairshare_swarm::InfoHash([0; 20])).is_err());
    });
}

#[test]
fn files_to_seed_that_are_incomplete_are_an_error() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let mut world = World::new();
    let node = world.node();
    world.nodes[node].disk.fill_pieces(&torrent, 0..15);
    world.add(node, Source::Metainfo(torrent.metainfo.clone()), true, &[]);
    world.run(Duration::from_secs(1));
    let TorrentState::Failed(reason) = &world.nodes[node].swarm.torrents()[0].state else { panic!("failed") };
    assert_eq!(reason, "1 of 16 pieces of the files to seed are wrong or missing");
}

//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
#[test]
fn dialling_keeps_to_its_rate_and_to_the_half_open_limit() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let mut world = World::new();
    let node = world.node();
    world.leech(node, &torrent, &[]);
    let addresses: Vec<_> =
        (1..=200).map(|last: u8| format!("8.8.{last}.1:6881").parse().expect("address")).collect();
    let mut dialled = 0;
    let mut dials = |world: &mut World| {
        let now = world.now;
        let swarm = &mut world.nodes[node].swarm;
        swarm.add_peers(now, &torrent.info_hash(), &addresses).expect("known");
        while let Some(output) = swarm.poll() {
            dialled += usize::from(matches!(output, SwarmOutput::Connect(..)));
        }
        dialled
    };
    assert_eq!(dials(&mut world), 30);
    assert_eq!(dials(&mut world), 30);
    world.now = world.now.after(Duration::from_secs(1));
    assert_eq!(dials(&mut world), 60);
    world.now = world.now.after(Duration::from_secs(1));
    assert_eq!(dials(&mut world), 64, "no more than 64 under way");
}
