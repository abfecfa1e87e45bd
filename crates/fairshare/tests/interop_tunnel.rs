//! Against living py-ipv8 3.2.1 nodes, over its own UDP endpoint and over that of ipv8-rust-tunnels: circuits of 1 to 3 hops.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::socks::{Association, utp_like};
use support::tunnel::{DESTROYED, Echo, SIZES, TunnelPeer};
use support::{
    Node, Process, SOON, circuit_file_bytes, configure, fairshare, free_port_run, living_peer, living_peers,
    same_bytes, wait_for, write_random_file,
};
use tempfile::TempDir;

/// Flags of a relay and of an exit.
const RELAY: &str = "relay,speed_test";
const EXIT: &str = "relay,exit_bt,exit_ipv8,speed_test";
/// Bytes of a speed test.
const TEST_BYTES: &str = "200000";
/// A file that goes over circuits, and the limit of that.
const NAME: &str = "film.bin";
const TRANSFER: Duration = Duration::from_secs(180);
/// Both kinds of endpoint.
const ENDPOINTS: [&str; 2] = ["python", "rust"];
/// A hop of ours among those of living peers.
const OURS: &str = "ours";
/// Long enough for what is sent and not let through to have come if it were.
const QUIET: Duration = Duration::from_millis(200);

/// The living peers' side of a path: each hop in a /16 of its own, so that the rule against neighbours stays on.
struct Hop {
    key: String,
    listen: String,
    kind: Kind,
}

enum Kind {
    Theirs(TunnelPeer),
    Ours(Node),
}

/// A network of two relays and an exit, each of the kind that is asked for.
struct World {
    folder: TempDir,
    peers: PathBuf,
    hops: Vec<Hop>,
    echo: Echo,
}

impl World {
    /// `kinds`: an endpoint of py-ipv8, or ours. The last is the exit.
    fn new(peers: &Path, kinds: [&str; 3]) -> Self {
        let mut world = Self::empty(peers);
        for (number, kind) in kinds.into_iter().enumerate() {
            world.add_hop(kind, &format!("127.{}.0.1", number + 1), number == 2);
        }
        world.everybody_meets();
        world
    }

    fn empty(peers: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, peers: peers.to_path_buf(), hops: Vec::new(), echo: Echo::start() }
    }

    fn fresh(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).expect("a folder of this test");
        path
    }

    fn add_hop(&mut self, kind: &str, ip: &str, exits: bool) {
        let hop = if kind == OURS {
            let data = self.folder.path().join(ip);
            configure(&data, &format!("[tunnel]\nrelay = true\nexit = {exits}\nexit_loopback = true\n"));
            let node = Node::start(&data, &self.known(&["--listen", &format!("{ip}:0")]));
            // Its key among the relays is another than its key among the traders.
            Hop { key: tunnel_key(&node), listen: node.listen.clone(), kind: Kind::Ours(node) }
        } else {
            let peer = TunnelPeer::start(&self.peers, ip, kind, if exits { EXIT } else { RELAY });
            Hop { key: peer.key.clone(), listen: peer.listen.clone(), kind: Kind::Theirs(peer) }
        };
        self.hops.push(hop);
    }

    /// `first` and then the addresses of all hops so far, as arguments of a node.
    fn known<'a>(&'a self, first: &[&'a str]) -> Vec<&'a str> {
        let addresses = self.hops.iter().flat_map(|hop| ["--peer", hop.listen.as_str()]);
        first.iter().copied().chain(addresses).collect()
    }

    fn everybody_meets(&mut self) {
        let addresses = self.hops.iter().map(|hop| hop.listen.clone()).collect::<Vec<_>>();
        for (number, hop) in self.hops.iter_mut().enumerate() {
            let Kind::Theirs(peer) = &mut hop.kind else { continue };
            let others = addresses.iter().enumerate().filter(|(other, _)| *other != number);
            others.for_each(|(_, address)| peer.introduce(address));
        }
    }

    /// A living originator that knows all hops.
    fn their_originator(&self, endpoint: &str) -> TunnelPeer {
        self.their_peer("127.9.0.1", endpoint)
    }

    fn their_peer(&self, ip: &str, endpoint: &str) -> TunnelPeer {
        let mut originator = TunnelPeer::start(&self.peers, ip, endpoint, "");
        for hop in &self.hops {
            originator.introduce(&hop.listen);
            assert_eq!(originator.wait_for_address(&hop.listen), hop.key);
        }
        originator
    }

    /// The keys of the last `count` hops.
    fn path(&self, count: usize) -> Vec<String> {
        self.hops[self.hops.len() - count..].iter().map(|hop| hop.key.clone()).collect()
    }

    /// Nobody carries a circuit any more, long before an idle one would be given up.
    fn nobody_carries_anything(&mut self) {
        for hop in &mut self.hops {
            match &mut hop.kind {
                Kind::Theirs(peer) => peer.wait_until_it_carries_nothing(),
                Kind::Ours(node) => wait_until_ours_carries_nothing(node),
            }
        }
    }
}

/// A circuit that ends at ours without a datagram leaving it is left out: with those, neighbours pay each other.
fn wait_until_ours_carries_nothing(node: &Node) {
    wait_for("the circuits of others to be gone from ours", DESTROYED, || {
        let status = node.command(&["relay", "status"]);
        let joined = status["joined"].as_array().unwrap_or_else(|| panic!("no list in {status}"));
        joined.iter().all(|one| one["part"] == "end").then_some(())
    });
}

/// The keys of a circuit's hops.
fn keys_of(circuit: &Value) -> Vec<String> {
    let path = circuit["path"].as_array().unwrap_or_else(|| panic!("no path in {circuit}"));
    path.iter().map(|hop| hop["tunnel_key"].as_str().expect("text").to_owned()).collect()
}

fn tunnel_key(node: &Node) -> String {
    node.command(&["relay", "status"])["tunnel_key"].as_str().expect("text").to_owned()
}

/// The measure of the other tests: what they ask of circuits with our nodes works among the living peers alone.
#[test]
fn living_peers_among_themselves_do_what_is_asked_of_us() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    their_originators_reach_through(&peers, ["python", "rust", "python"]);
    their_originators_reach_through(&peers, ["rust", "python", "rust"]);
}

//= spec/tunnels.md#15-acceptance
#[test]
fn living_originators_build_through_our_relays_and_our_exit() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    their_originators_reach_through(&peers, [OURS, OURS, OURS]);
}

#[test]
fn living_originators_build_over_paths_of_theirs_and_ours() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    for kinds in
        [["python", OURS, "rust"], ["rust", OURS, "python"], [OURS, "rust", OURS], [OURS, "python", OURS]]
    {
        their_originators_reach_through(&peers, kinds);
    }
}

/// Originators over both endpoints, circuits of each length: every datagram is echoed, the speed test answered, and the end
/// of the circuit reaches every hop.
fn their_originators_reach_through(peers: &Path, kinds: [&str; 3]) {
    let mut world = World::new(peers, kinds);
    for endpoint in ENDPOINTS {
        let mut originator = world.their_originator(endpoint);
        for count in 1..=3 {
            let circuit = originator.build(&world.path(count));
            originator.echo(circuit, &world.echo, &SIZES);
            originator.speed_test(circuit);
            nothing_forbidden_leaves(&mut originator, circuit, &world.echo);
            originator.destroy(circuit);
            world.nobody_carries_anything();
        }
        println!("{endpoint} originator through {}: 1, 2 and 3 hops", kinds.join(", "));
    }
}

/// What looks like none of the allowed kinds is dropped at the exit, while the circuit goes on.
fn nothing_forbidden_leaves(originator: &mut TunnelPeer, circuit: u64, echo: &Echo) {
    let marks = [
        &b"GET / HTTP/1.1\r\nforbidden"[..],
        b"forbidden: a name query\0\0\x01",
        b"\xff\xff\xff\xffforbidden",
    ];
    marks.iter().for_each(|mark| originator.send(circuit, &echo.address.to_string(), mark));
    originator.echo(circuit, echo, &[20, 1400]);
    std::thread::sleep(QUIET);
    assert!(!echo.has_seen(b"forbidden"));
}

#[test]
fn a_path_that_py_ipv8_picks_itself_leads_through_our_relays() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    let world = World::new(&peers, [OURS, OURS, OURS]);
    let mut originator = world.their_originator("python");
    let exit = world.hops[2].key.clone();
    let (circuit, path) = originator.build_stock(3, &exit);
    assert_eq!(path.last(), Some(&exit));
    originator.echo(circuit, &world.echo, &SIZES);
}

#[test]
fn our_exit_lets_nothing_out_to_addresses_that_are_not_public() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    configure(&folder.path().join("exit"), "[tunnel]\nrelay = true\nexit = true\n");
    let exit = Node::start(&folder.path().join("exit"), &["--listen", "127.1.0.1:0"]);
    let mut originator = TunnelPeer::start(&peers, "127.9.0.1", "python", "");
    originator.introduce(&exit.listen);
    let key = originator.wait_for_address(&exit.listen);
    let circuit = originator.build(&[key]);
    let echo = Echo::start();
    originator.send(circuit, &echo.address.to_string(), &utp_like(100, 1));
    originator.speed_test(circuit);
    std::thread::sleep(QUIET);
    assert!(!echo.has_seen(&utp_like(100, 1)), "loopback is not public");
}

#[test]
fn the_end_of_one_of_our_relays_closes_the_circuits_through_it() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    let mut world = World::new(&peers, ["rust", OURS, "python"]);
    let mut originator = world.their_originator("python");
    let circuit = originator.build(&world.path(3));
    let Kind::Ours(node) = &mut world.hops[1].kind else { panic!("ours") };
    assert!(node.process.stop(SOON));
    originator.wait_until_closed(circuit);
    let Kind::Theirs(exit) = &mut world.hops[2].kind else { panic!("theirs") };
    exit.wait_until_it_carries_nothing();
}

/// Our node as the originator, with SOCKS5 servers for 1, 2 and 3 hops.
struct Originator {
    node: Node,
    socks: u16,
}

impl Originator {
    fn start(world: &World) -> Self {
        let data = world.folder.path().join("originator");
        let socks = free_port_run(3);
        configure(&data, &format!("[tunnel]\nsocks_port = {socks}\n"));
        let node = Node::start(&data, &world.known(&["--listen", "127.9.0.1:0"]));
        Self { node, socks }
    }

    /// All hops of the world are among those that a circuit may be built from.
    fn wait_for_candidates(&self, world: &World) {
        wait_for("the hops among our candidates", SOON, || {
            let known = self.node.command(&["relay", "status"])["candidates"].to_string();
            world.hops.iter().all(|hop| known.contains(&hop.key)).then_some(())
        });
    }

    fn associate(&self, hops: usize) -> Association {
        Association::open(self.socks + u16::try_from(hops).expect("at most 3") - 1)
    }
}

//= spec/tunnels.md#15-acceptance
#[test]
fn our_originator_reaches_through_living_hops() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    for kinds in [["python", "python", "python"], ["rust", "rust", "rust"], ["python", "rust", "python"]] {
        ours_reaches_through(&peers, kinds);
    }
}

#[test]
fn our_originator_reaches_over_paths_of_theirs_and_ours() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    for kinds in [[OURS, "rust", "python"], ["python", OURS, "rust"], ["rust", "python", OURS]] {
        ours_reaches_through(&peers, kinds);
    }
}

/// One association for each length: every datagram is echoed, and when the association ends so do its circuits, at every hop.
fn ours_reaches_through(peers: &Path, kinds: [&str; 3]) {
    let mut world = World::new(peers, kinds);
    let originator = Originator::start(&world);
    for hops in 1..=3 {
        let association = originator.associate(hops);
        association.echo(&world.echo, &SIZES);
        drop(association);
        world.nobody_carries_anything();
    }
    println!("our originator through {}: 1, 2 and 3 hops", kinds.join(", "));
}

#[test]
fn our_speed_test_is_answered_and_our_destroy_reaches_every_living_hop() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    let mut world = World::new(&peers, ["python", "rust", "rust"]);
    let originator = Originator::start(&world);
    originator.wait_for_candidates(&world);
    for count in 1..=3 {
        let path = world.path(count);
        let arguments = ["circuits", "test", "--bytes", TEST_BYTES, "--path", &path.join(",")];
        let tested = originator.node.command(&arguments);
        assert_eq!(keys_of(&tested), path);
        let received = tested["received_bytes"].as_str().and_then(|text| text.parse::<u64>().ok());
        assert!(received >= TEST_BYTES.parse().ok(), "{tested}");
        world.nobody_carries_anything();
    }
}

/// A libtorrent that knows nothing of circuits downloads through the SOCKS5 server for three hops.
#[test]
fn libtorrent_downloads_through_our_socks_server_and_living_hops() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    let world = World::new(&peers, ["python", "rust", "python"]);
    let originator = Originator::start(&world);
    let (source, to) = (world.fresh("source"), world.fresh("to"));
    write_random_file(&source.join(NAME), circuit_file_bytes(), 5);
    let torrent = world.folder.path().join("film.torrent");
    let made = fairshare().arg("create").arg(source.join(NAME)).arg("--out").arg(&torrent).output();
    assert!(made.expect("the program can be started").status.success());

    let libtorrent = |task: &str| {
        let mut command = living_peer(&peers, "libtorrent", "libtorrent_peer.py");
        command.arg(task).arg(&torrent).arg("--utp");
        command
    };
    let seeder = Process::start(libtorrent("seed").arg("--dir").arg(&source));
    let address = seeder.event("ready", SOON)["listen"].as_str().expect("text").to_owned();
    let mut getter = libtorrent("get");
    getter
        .args(["--peer", &address, "--socks", &format!("127.0.0.1:{}", originator.socks + 2), "--dir"])
        .arg(&to);
    let mut getter = Process::start(&mut getter);
    getter.event("finished", TRANSFER);
    assert!(getter.wait(SOON));
    assert!(same_bytes(&source.join(NAME), &to.join(NAME)));
}

//= spec/tunnels.md#15-acceptance
#[test]
fn our_hidden_seeder_and_downloader_meet_at_living_introduction_and_rendezvous_points() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    let mut world = World::empty(&peers);
    for (number, kind) in ["python", "rust", "python", "rust"].into_iter().enumerate() {
        world.add_hop(kind, &format!("127.{}.0.1", number + 1), true);
    }
    world.everybody_meets();
    let (source, to) = (world.fresh("source"), world.fresh("to"));
    write_random_file(&source.join(NAME), circuit_file_bytes(), 6);
    let torrent = world.folder.path().join("film.torrent");
    let made = fairshare().arg("create").arg(source.join(NAME)).arg("--out").arg(&torrent).output();
    assert!(made.expect("the program can be started").status.success());
    let start = |ip: &str| {
        let data = world.folder.path().join(ip);
        configure(&data, "[tunnel]\nlookup_s = 1\n");
        Node::start(&data, &world.known(&["--listen", &format!("{ip}:0")]))
    };
    let (seeder, getter) = (start("127.8.0.1"), start("127.9.0.1"));
    let (torrent, source_text) = (torrent.display().to_string(), source.display().to_string());
    seeder.command(&["seed", &torrent, "--from", &source_text, "--hidden", "--hops", "1"]);
    let limit = TRANSFER.as_secs().to_string();
    let to_text = to.display().to_string();
    getter.command(&["get", &torrent, "--to", &to_text, "--hidden", "--hops", "1", "--timeout", &limit]);
    assert!(same_bytes(&source.join(NAME), &to.join(NAME)));
}

//= spec/tunnels.md#15-acceptance
#[test]
fn a_living_hidden_seeder_and_downloader_meet_at_our_introduction_and_rendezvous_points() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    let mut world = World::empty(&peers);
    for number in 1..=4 {
        world.add_hop(OURS, &format!("127.{number}.0.1"), true);
    }
    let mut seeder = world.their_peer("127.8.0.1", "python");
    let mut downloader = world.their_peer("127.9.0.1", "python");
    let lookup = "5e".repeat(20);
    let point = world.hops[0].key.clone();
    seeder.ask(json!({"do": "seed", "lookup": lookup, "hops": 1, "point": point}));
    downloader.ask(json!({"do": "join", "lookup": lookup, "hops": 1}));
    let linked = downloader.wait_for_link();
    downloader.send(linked, "0.0.0.0:0", b"to the seeder");
    let at_seeder =
        wait_for("what the downloader sent", SOON, || seeder.received_on("RP_SEEDER", b"to the seeder"));
    seeder.send(at_seeder, "0.0.0.0:0", b"to the downloader");
    wait_for("the answer", SOON, || downloader.received_on("RP_DOWNLOADER", b"to the downloader"));
}
