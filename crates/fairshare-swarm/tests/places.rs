//! Where peers are learnt and what they learn: UDP trackers, and torrents whose peers may not know who we are.

mod world;

use bytes::Bytes;
use fairshare_swarm::{AddTorrent, Anonymity, Source, SwarmConfig, SwarmEvent};
use fairshare_wire::Address;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use world::{TestTorrent, World};

const MINUTE: Duration = Duration::from_secs(60);

fn tracked(urls: &[&str]) -> TestTorrent {
    let tiers = vec![urls.iter().map(|url| (*url).to_owned()).collect()];
    TestTorrent::built(1 << 20, 64 << 10, |builder| builder.trackers(tiers))
}

/// Answers the newest datagram of a node as the tracker at `from` would, with `peers`; what it said.
fn answer(world: &mut World, node: usize, from: SocketAddr, peers: &[u8]) -> Bytes {
    let (_, asked) = world.nodes[node].tracker_datagrams.pop().expect("a datagram for the tracker");
    let transaction = asked[12..16].to_vec();
    let reply = if asked.len() == 16 {
        [&[0; 4], transaction.as_slice(), &[5; 8]].concat()
    } else {
        let interval = 1_800_u32.to_be_bytes();
        [&[0, 0, 0, 1], transaction.as_slice(), &interval, &[0; 8], peers].concat()
    };
    world.act(node, |swarm, now| {
        assert!(swarm.tracker_datagram(now, &Address::Ip(from), &reply));
        assert!(!swarm.tracker_datagram(now, &Address::Ip(from), &reply), "each answer counts once");
    });
    asked
}

fn tracker() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 99], 80))
}

//= spec/swarm.md#10-discovery
#[test]
fn a_torrent_is_announced_to_its_udp_tracker_from_the_start_to_the_farewell() {
    let torrent = tracked(&["udp://10.0.0.99:80/announce"]);
    let mut world = World::new();
    let (seed, leecher) = (world.node(), world.node());
    world.seed(seed, &torrent);
    world.leech(leecher, &torrent, &[]);
    world.run(Duration::from_secs(1));
    answer(&mut world, leecher, tracker(), &[]);
    let started = answer(&mut world, leecher, tracker(), &[10, 0, 0, 1, 0x1b, 0x58]);
    assert_eq!((started[83], &started[96..98]), (2, 7000_u16.to_be_bytes().as_slice()));
    assert_eq!(world.nodes[leecher].tracker_datagrams.len(), 0);
    assert!(world.run_until(MINUTE, |world| world.finished(leecher)), "the peer of the answer was called");
    let completed = answer(&mut world, leecher, tracker(), &[]);
    assert_eq!((completed[83], &completed[64..72]), (1, [0; 8].as_slice()), "nothing is missing any more");
    world.run(Duration::from_secs(100));
    let info_hash = torrent.info_hash();
    world.act(leecher, |swarm, now| swarm.remove(now, &info_hash, false).expect("known"));
    answer(&mut world, leecher, tracker(), &[]);
    assert_eq!(world.nodes[leecher].tracker_datagrams.pop().map(|(_, bytes)| bytes[83]), Some(3), "farewell");
    let told = |event: &SwarmEvent| matches!(event, SwarmEvent::TrackerAnswered { result: Ok(_), .. });
    assert_eq!(world.count(leecher, told), 2);
}

//= spec/swarm.md#10-discovery
#[test]
fn a_silent_tracker_is_given_up_and_asked_again_later() {
    let torrent = tracked(&["udp://tracker.example:80"]);
    let mut world = World::new();
    let leecher = world.node();
    world.leech(leecher, &torrent, &[]);
    world.run(2 * MINUTE);
    let silent = |event: &SwarmEvent| matches!(event, SwarmEvent::TrackerAnswered { result: Err(_), .. });
    assert_eq!((world.nodes[leecher].tracker_datagrams.len(), world.count(leecher, silent)), (4, 1));
    assert!(
        world.nodes[leecher]
            .tracker_datagrams
            .iter()
            .all(|(to, _)| *to == Address::Host("tracker.example".to_owned(), 80))
    );
    world.run(MINUTE);
    assert!(world.nodes[leecher].tracker_datagrams.len() > 4);
}

/// What a node writes to a peer without identity that has opened a stream and greeted.
fn introduction(anonymity: Anonymity) -> Vec<u8> {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let mut world = World::new();
    let node = world.node_with(|config| config.anonymity = anonymity);
    world.seed(node, &torrent);
    world.run(Duration::from_secs(1));
    let stream = world.raw_stream(node);
    let greeting = [
        b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04".as_slice(),
        &torrent.info_hash().0,
        b"-XX0000-............",
    ]
    .concat();
    world.raw_send(node, stream, greeting);
    world.run(Duration::from_secs(1));
    world.nodes[node].raw.get(&stream).expect("an answer").to_vec()
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

//= spec/swarm.md#13-anonymous-torrents
#[test]
fn an_anonymous_node_says_nothing_about_itself() {
    let telling = ["-FS", "fairshare", "1:v", "1:pi", "6:yourip", "fs_identity", "fs_v", "complete_ago"];
    let clear = introduction(Anonymity::Clear);
    for part in &telling[..7] {
        assert!(contains(&clear, part), "{part}");
    }
    for anonymity in [Anonymity::Exit, Anonymity::Hidden] {
        let bytes = introduction(anonymity);
        assert!(contains(&bytes, "11:ut_metadata"), "it is an ordinary client otherwise");
        for part in telling {
            assert!(!contains(&bytes, part), "{part} for {anonymity:?}");
        }
        assert_eq!(contains(&bytes, "6:ut_pex"), anonymity == Anonymity::Exit);
    }
}

//= spec/swarm.md#13-anonymous-torrents
#[test]
fn behind_an_exit_only_udp_trackers_are_asked_and_hidden_none() {
    let torrent = tracked(&["http://10.0.0.98/announce", "udp://10.0.0.99:80/announce"]);
    let asked = |change: &dyn Fn(&mut SwarmConfig)| {
        let mut world = World::new();
        let node = world.node_with(change);
        world.leech(node, &torrent, &[]);
        world.run(Duration::from_secs(2));
        let datagrams = world.nodes[node].tracker_datagrams.clone();
        if !datagrams.is_empty() {
            answer(&mut world, node, tracker(), &[]);
            let (_, announced) = world.nodes[node].tracker_datagrams.pop().expect("an announcement");
            let own_port = world.nodes[node].address.port();
            let is_own = announced[96..98] == own_port.to_be_bytes();
            assert_eq!(is_own, world.nodes[node].asked_pages.iter().any(|page| page.contains("port=7000")));
        }
        (world.nodes[node].asked_pages.len(), datagrams.len())
    };
    assert_eq!(asked(&|_| {}), (1, 1));
    assert_eq!(asked(&|config| config.anonymity = Anonymity::Exit), (0, 1));
    assert_eq!(asked(&|config| config.anonymity = Anonymity::Hidden), (0, 0));
    let routed = |config: &mut SwarmConfig| {
        (config.anonymity, config.pages_through_exit) = (Anonymity::Exit, true);
    };
    assert_eq!(asked(&routed), (1, 1));
}

//= spec/swarm.md#13-anonymous-torrents
#[test]
fn hidden_peers_are_met_under_the_names_of_circuits_whatever_their_bits() {
    let torrent = TestTorrent::new(4 << 20, 64 << 10);
    let mut world = World::new();
    let hidden = |config: &mut SwarmConfig| config.anonymity = Anonymity::Hidden;
    let seed = world.node_with(hidden);
    world.seed(seed, &torrent);
    // More than one network may hold, and names that would be no addresses.
    let names: Vec<SocketAddr> = (0..20).map(|last| SocketAddr::from(([0, 0, 7, last], 1024))).collect();
    let leechers: Vec<usize> = (0..20).map(|_| world.node_with(hidden)).collect();
    for (leecher, name) in leechers.iter().zip(names) {
        world.nodes[*leecher].address = name;
    }
    world.nodes[seed].address = SocketAddr::from(([224, 0, 0, 1], 1024));
    for leecher in &leechers {
        let peers = vec![world.nodes[seed].address];
        let source = Source::Metainfo(torrent.metainfo.clone());
        world.act(*leecher, |swarm, now| {
            let add = AddTorrent { source, root: PathBuf::from("downloads"), seed: false, peers: Vec::new() };
            let info_hash = swarm.add(now, add).expect("a new torrent");
            swarm.add_peers(now, &info_hash, &peers).expect("known");
        });
    }
    world.run(Duration::from_secs(5));
    assert_eq!(world.nodes[seed].swarm.connections().len(), leechers.len());
    let all = |world: &World| leechers.iter().all(|leecher| world.finished(*leecher));
    assert!(world.run_until(10 * MINUTE, all));
    let sessions = |event: &SwarmEvent| matches!(event, SwarmEvent::SessionOpened { .. });
    assert_eq!(world.count(seed, sessions), 0, "nobody proved an identity");
}

//= spec/swarm.md#13-anonymous-torrents
#[test]
fn a_circuit_that_leads_nowhere_is_forgotten() {
    let torrent = TestTorrent::new(1 << 20, 64 << 10);
    let mut world = World::new();
    let node = world.node_with(|config| config.anonymity = Anonymity::Hidden);
    world.leech(node, &torrent, &[]);
    let (info_hash, name) = (torrent.info_hash(), SocketAddr::from(([0, 0, 0, 7], 1024)));
    world.act(node, |swarm, now| swarm.add_peers(now, &info_hash, &[name]).expect("known"));
    assert_eq!(world.nodes[node].swarm.status(&info_hash).map(|status| status.candidates), Some(1));
    world.run(10 * MINUTE);
    assert_eq!(world.nodes[node].swarm.status(&info_hash).map(|status| status.candidates), Some(0));
}
