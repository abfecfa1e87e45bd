//! Whole engines against each other: downloads, magnets, grants and refusals, wrong data, resume.

mod world;

use fairshare_swarm::{Magnet, Source, SwarmEvent};
use std::time::Duration;
use world::{Economy, TestTorrent, World};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn one_seed_and_several_leechers_all_complete() {
    let torrent = TestTorrent::new(4 << 20, 64 << 10);
    let mut world = World::new();
    let seed = world.node();
    world.seed(seed, &torrent);
    let leechers: Vec<usize> = (0..5).map(|_| world.node()).collect();
    for leecher in &leechers {
        world.leech(*leecher, &torrent, &[seed]);
    }
    let all = |world: &World| leechers.iter().all(|leecher| world.finished(*leecher));
    assert!(world.run_until(10 * MINUTE, all));
    for leecher in &leechers {
        assert_eq!(world.nodes[*leecher].disk.content(&torrent), torrent.content);
    }
}

//= spec/swarm.md#10-discovery
#[test]
fn a_magnet_alone_is_enough() {
    let torrent = TestTorrent::new(2 << 20, 32 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.seed(seed, &torrent);
    world.add(leecher, Source::Magnet(Magnet::new(torrent.info_hash())), false, &[seed]);
    assert!(world.run_until(MINUTE, |world| world.finished(leecher)));
    assert_eq!(world.nodes[leecher].disk.content(&torrent), torrent.content);
    assert_eq!(world.count(leecher, |event| matches!(event, SwarmEvent::MetadataReady(..))), 1);
}

//= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
#[test]
fn peers_find_each_other_through_peer_exchange() {
    let torrent = TestTorrent::new(8 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, first, second) = (world.node(), world.node(), world.node());
    world.seed(seed, &torrent);
    world.nodes[seed].economy = Economy::Allowance(1 << 20);
    world.leech(first, &torrent, &[seed]);
    world.leech(second, &torrent, &[seed]);
    let met = |world: &World| {
        let address = world.nodes[second].address;
        world.nodes[first].swarm.connections().iter().any(|peer| peer.address.ip() == address.ip())
    };
    assert!(world.run_until(3 * MINUTE, met));
}

//= spec/swarm.md#10-discovery
#[test]
fn a_private_torrent_shows_no_identity_and_exchanges_no_peers() {
    let torrent = TestTorrent::built(1 << 20, 64 << 10, |builder| builder.private(true));
    let mut world = World::new();
    let nodes: Vec<usize> = (0..3).map(|_| world.node()).collect();
    world.seed(nodes[0], &torrent);
    world.leech(nodes[1], &torrent, &[nodes[0]]);
    world.leech(nodes[2], &torrent, &[nodes[0]]);
    assert!(world.run_until(MINUTE, |world| world.finished(nodes[1]) && world.finished(nodes[2])));
    world.run(3 * MINUTE);
    for node in &nodes {
        assert_eq!(world.count(*node, |event| matches!(event, SwarmEvent::SessionOpened { .. })), 0);
    }
    let met = world.count(nodes[1], |event| matches!(event, SwarmEvent::Connected { .. }));
    assert_eq!(met, 1, "only the seed it was told of");
}

//= spec/swarm.md#56-verification-and-blame
#[test]
fn a_sender_of_wrong_blocks_is_banned_and_the_file_still_completes() {
    let torrent = TestTorrent::new(4 << 20, 128 << 10);
    let mut world = World::new();
    let (good, bad, leecher) = (world.node(), world.node(), world.node());
    world.seed(good, &torrent);
    world.seed(bad, &torrent);
    world.nodes[bad].corrupts = true;
    world.leech(leecher, &torrent, &[good, bad]);
    assert!(world.run_until(5 * MINUTE, |world| world.finished(leecher)));
    assert_eq!(world.nodes[leecher].disk.content(&torrent), torrent.content);
    let bad_address = world.nodes[bad].address.ip();
    let banned = |event: &SwarmEvent| matches!(event, SwarmEvent::PeerBanned { address, .. } if *address == bad_address);
    assert_eq!(world.count(leecher, banned), 1);
    assert_eq!(
        world.count(leecher, |event| matches!(event, SwarmEvent::PeerBanned { .. })),
        1,
        "nobody else"
    );
}

//= spec/swarm.md#84-settlement-and-evidence-on-the-connection
#[test]
fn nothing_is_sent_beyond_the_grants_and_then_the_peer_is_refused_once() {
    let torrent = TestTorrent::new(8 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.seed(seed, &torrent);
    world.nodes[seed].economy = Economy::Allowance(3 << 20);
    world.leech(leecher, &torrent, &[seed]);
    world.run(5 * MINUTE);
    let got = world.nodes[leecher].swarm.torrents()[0].downloaded;
    assert!(((3 << 20) - 16_384..=3 << 20).contains(&got), "{got}");
    assert_eq!(world.count(leecher, |event| matches!(event, SwarmEvent::RefusedBy { .. })), 1);
    assert!(world.count(leecher, |event| matches!(event, SwarmEvent::GrantReceived { .. })) >= 1);
    let connection = &world.nodes[leecher].swarm.connections()[0];
    assert!(!connection.peer_unchoking && connection.refused_by.is_some());
}

#[test]
fn a_refused_peer_gets_nothing_at_all() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    for economy in [Economy::Refuse, Economy::Choke] {
        let mut world = World::new();
        let (seed, leecher) = (world.node(), world.node());
        world.seed(seed, &torrent);
        world.nodes[seed].economy = economy;
        world.leech(leecher, &torrent, &[seed]);
        world.run(5 * MINUTE);
        assert_eq!(world.nodes[leecher].swarm.torrents()[0].downloaded, 0);
    }
}

//= spec/swarm.md#63-verdict-of-the-economy
#[test]
fn a_refused_peer_that_is_judged_again_is_served() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.seed(seed, &torrent);
    world.nodes[seed].economy = Economy::Refuse;
    world.leech(leecher, &torrent, &[seed]);
    world.run(Duration::from_secs(20));
    world.nodes[seed].economy = Economy::Serve { room: 1 << 20 };
    let session = world.nodes[seed].swarm.connections()[0].id;
    world.act(seed, |swarm, now| swarm.rejudge(now, session));
    assert!(world.run_until(Duration::from_secs(5), |world| world.finished(leecher)));
}

#[test]
fn a_free_rider_serves_nobody() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node_with(|config| config.allow_upload = false), world.node());
    world.seed(seed, &torrent);
    world.leech(leecher, &torrent, &[seed]);
    world.run(2 * MINUTE);
    assert_eq!(world.nodes[leecher].swarm.torrents()[0].downloaded, 0);
    world.act(seed, |swarm, now| swarm.set_upload(now, true));
    assert!(world.run_until(MINUTE, |world| world.finished(leecher)));
}

#[test]
fn a_node_without_identity_is_served_as_a_legacy_peer() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node_with(|config| config.identity = None));
    world.seed(seed, &torrent);
    world.leech(leecher, &torrent, &[seed]);
    assert!(world.run_until(Duration::from_secs(5), |world| world.finished(leecher)));
    assert_eq!(world.count(seed, |event| matches!(event, SwarmEvent::SessionOpened { .. })), 0);
}

//= spec/swarm.md#83-counts-and-exposure
#[test]
fn both_ends_agree_on_every_byte_at_the_end() {
    let torrent = TestTorrent::new(5 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.seed(seed, &torrent);
    world.leech(leecher, &torrent, &[seed]);
    assert!(world.run_until(MINUTE, |world| world.finished(leecher)));
    world.run(MINUTE);
    let total = torrent.content.len() as u64;
    let last = |node: usize, wanted: fn(&SwarmEvent) -> Option<u64>| {
        world.nodes[node].events.iter().filter_map(wanted).next_back()
    };
    let acknowledged = |event: &SwarmEvent| match event {
        SwarmEvent::Acknowledged { accepted, verified, .. } if accepted == verified => Some(*verified),
        _ => None,
    };
    let sent =
        |event: &SwarmEvent| if let SwarmEvent::Sent { total, .. } = event { Some(*total) } else { None };
    let verified =
        |event: &SwarmEvent| if let SwarmEvent::Verified { total, .. } = event { Some(*total) } else { None };
    assert_eq!(last(seed, acknowledged), Some(total));
    assert_eq!(last(seed, sent), Some(total));
    assert_eq!(last(leecher, verified), Some(total));
    assert_eq!(world.count(seed, |event| matches!(event, SwarmEvent::CountFault { .. })), 0);
    assert!(world.count(seed, |event| matches!(event, SwarmEvent::ReceiptReceived { .. })) >= 1);
}

//= spec/swarm.md#9-storage
#[test]
fn a_download_is_resumed_from_what_the_disk_holds() {
    let torrent = TestTorrent::new(2 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.seed(seed, &torrent);
    world.nodes[leecher].disk.fill_pieces(&torrent, 0..20);
    world.leech(leecher, &torrent, &[seed]);
    assert!(world.run_until(MINUTE, |world| world.finished(leecher)));
    assert_eq!(world.nodes[leecher].disk.stored, 12);
    let (have, finished) = &world.nodes[leecher].disk.saved[&torrent.info_hash()];
    assert!(have.all() && *finished);
}

#[test]
fn a_full_disk_stops_the_torrent_and_resume_goes_on() {
    let torrent = TestTorrent::new(2 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.seed(seed, &torrent);
    world.nodes[leecher].disk.full = true;
    world.leech(leecher, &torrent, &[seed]);
    let failed = |event: &SwarmEvent| matches!(event, SwarmEvent::Failed { .. });
    assert!(world.run_until(MINUTE, |world| world.count(leecher, failed) == 1));
    assert!(world.nodes[leecher].swarm.connections().is_empty());
    world.act(leecher, |swarm, now| swarm.resume(now, &torrent.info_hash()).expect("known"));
    assert!(world.run_until(MINUTE, |world| world.finished(leecher)));
}

#[test]
fn a_lost_seed_is_found_again() {
    let torrent = TestTorrent::new(8 << 20, 64 << 10);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.seed(seed, &torrent);
    world.leech(leecher, &torrent, &[seed]);
    let halfway = |world: &World| world.nodes[leecher].disk.stored > 40;
    assert!(world.run_until(MINUTE, halfway));
    world.cut(seed);
    world.act(seed, |swarm, now| {
        swarm.pause(now, &torrent.info_hash()).expect("known");
        swarm.resume(now, &torrent.info_hash()).expect("known");
    });
    assert!(world.run_until(MINUTE, |world| world.finished(leecher)));
}

//= spec/swarm.md#53-endgame
#[test]
fn the_endgame_wastes_less_than_its_bound() {
    let torrent = TestTorrent::new(16 << 20, 256 << 10);
    let mut world = World::new();
    let seeds: Vec<usize> = (0..4).map(|_| world.node()).collect();
    seeds.iter().for_each(|seed| world.seed(*seed, &torrent));
    let leecher = world.node();
    world.leech(leecher, &torrent, &seeds);
    assert!(world.run_until(MINUTE, |world| world.finished(leecher)));
    assert!(world.nodes[leecher].swarm.torrents()[0].wasted <= 2 << 20);
}

//= spec/swarm.md#10-discovery
#[test]
fn a_tracker_tells_the_peers_and_hears_of_every_step() {
    let torrent = TestTorrent::built(1 << 20, 64 << 10, |builder| {
        builder.trackers(vec![vec!["http://10.1.1.1/announce".to_owned()]])
    });
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    let mut page = b"d8:intervali60e5:peers6:".to_vec();
    page.extend_from_slice(&[10, 0, 0, 1, (7000_u16 >> 8) as u8, (7000_u16 & 0xff) as u8]);
    page.push(b'e');
    world.nodes[leecher].pages.insert("http://10.1.1.1/".to_owned(), page.into());
    world.seed(seed, &torrent);
    world.leech(leecher, &torrent, &[]);
    assert!(world.run_until(MINUTE, |world| world.finished(leecher)));
    world.act(leecher, |swarm, now| swarm.remove(now, &torrent.info_hash(), false).expect("known"));
    let asked = &world.nodes[leecher].asked_pages;
    for (page, event) in asked.iter().zip(["started", "completed", "stopped"]) {
        assert!(page.ends_with(&format!("&event={event}")), "{page}");
    }
    assert_eq!(asked.len(), 3, "{asked:?}");
}

#[test]
fn simultaneous_connections_become_one() {
    let torrent = TestTorrent::new(8 << 20, 64 << 10);
    let mut world = World::new();
    let (first, second) = (world.node(), world.node());
    world.nodes[first].disk.fill_pieces(&torrent, (0..128).filter(|piece| piece % 2 == 0));
    world.nodes[second].disk.fill_pieces(&torrent, (0..128).filter(|piece| piece % 2 == 1));
    world.leech(first, &torrent, &[second]);
    world.leech(second, &torrent, &[first]);
    assert!(world.run_until(MINUTE, |world| world.finished(first) && world.finished(second)));
    world.run(Duration::from_secs(2));
    assert_eq!(world.nodes[first].swarm.connections().len(), 1);
    assert_eq!(world.nodes[second].swarm.connections().len(), 1);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let torrent = TestTorrent::new(2 << 20, 32 << 10);
        let mut world = World::new();
        let seed = world.node();
        world.seed(seed, &torrent);
        let leechers: Vec<usize> = (0..3).map(|_| world.node()).collect();
        leechers.iter().for_each(|leecher| world.leech(*leecher, &torrent, &[seed]));
        world.run(MINUTE);
        let events: Vec<String> =
            world.nodes.iter().map(|node| format!("{} {:?}", node.written, node.events)).collect();
        (world.steps, events)
    };
    assert_eq!(run(), run());
}

//= spec/swarm.md#17-acceptance-tests-minimum
#[test]
fn ten_leechers_on_slow_lines_share_the_work() {
    let line = 1 << 20;
    let torrent = TestTorrent::new(16 << 20, 64 << 10);
    let mut world = World::new();
    let nodes: Vec<usize> = (0..11).map(|_| world.node()).collect();
    nodes.iter().for_each(|node| world.nodes[*node].line = Some(line));
    let (seed, leechers) = nodes.split_first().expect("eleven");
    world.seed(*seed, &torrent);
    leechers.iter().for_each(|leecher| world.leech(*leecher, &torrent, &[*seed]));
    let start = world.now.mono;
    assert!(world.run_until(10 * MINUTE, |world| leechers.iter().all(|leecher| world.finished(*leecher))));
    let took = world.now.mono.since(start);
    // The seed alone would need 160 s, and no way of sharing less than 16 s.
    assert!(took < Duration::from_secs(32), "{took:?}");
    let given = world.nodes[*seed].swarm.torrents()[0].uploaded;
    assert!(given < 2 * torrent.content.len() as u64, "{given}");
}
