//! What a provider of each host can see, from captures of every wire of an internet that the test makes.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::capture::{Capture, Packet, Traces, Wire};
use support::netns::{Host, Internet};
use support::{
    Node, Process, SOON, circuit_file_bytes, configure, fairshare, living_peer, living_peers, same_bytes,
    wait_for, write_random_file,
};
use tempfile::TempDir;

const NAME: &str = "film.bin";
/// Limit of a download through circuits, in seconds.
const TRANSFER_S: u64 = 180;
const RELAY: &str = "[tunnel]\nrelay = true\n";
const EXIT: &str = "[tunnel]\nrelay = true\nexit = true\n";
/// Those who only use circuits and hidden services, which they look for often.
const USER: &str = "[tunnel]\nlookup_s = 1\n";
/// Where the peers that are not ours listen.
const PORT: u16 = 6881;

/// A file with its torrent, an internet, and the captures of all its wires.
struct Stage {
    internet: Internet,
    folder: TempDir,
    torrent: PathBuf,
    info_hash: String,
    captures: BTreeMap<String, Capture>,
}

impl Stage {
    fn new(seed: u8) -> Option<Self> {
        let internet = Internet::new("leak")?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (source, torrent) = (folder.path().join("source"), folder.path().join("film.torrent"));
        fs::create_dir(&source).expect("a folder of this test");
        write_random_file(&source.join(NAME), circuit_file_bytes(), seed);
        let made = fairshare()
            .arg("create")
            .arg(source.join(NAME))
            .arg("--out")
            .arg(&torrent)
            .arg("--json")
            .output();
        let made: Value =
            serde_json::from_slice(&made.expect("the program can be started").stdout).expect("JSON");
        let info_hash = made["infohash"].as_str().expect("a hash").to_owned();
        Some(Self { internet, folder, torrent, info_hash, captures: BTreeMap::new() })
    }

    /// A host whose wire is captured from its first moment.
    fn host(&mut self, name: &str) -> Host {
        let host = self.internet.host(name);
        self.captures.insert(name.to_owned(), host.capture(self.folder.path()));
        host
    }

    /// A host with a node of ours, which knows those at `peers` from the start.
    fn node(&mut self, name: &str, toml: &str, peers: &[&Node]) -> (Host, Node) {
        let host = self.host(name);
        let node = self.node_on(&host, toml, peers);
        (host, node)
    }

    fn node_on(&self, host: &Host, toml: &str, peers: &[&Node]) -> Node {
        let data = self.folder.path().join(&host.name);
        configure(&data, toml);
        let known = peers.iter().flat_map(|peer| ["--peer", peer.listen.as_str()]).collect::<Vec<_>>();
        Node::start_on(host, &data, &known)
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn torrent_text(&self) -> String {
        self.torrent.display().to_string()
    }

    /// Everything that names the torrent, its content, and the greeting of the peer wire.
    fn traces(&self) -> Traces {
        Traces::of_torrent(&self.info_hash, &self.source().join(NAME))
    }

    /// The node downloads `what`, and the bytes are right.
    fn gets(&self, node: &Node, what: &str, options: &[&str]) {
        let to = self.folder.path().join("to");
        let (to_text, limit) = (to.display().to_string(), TRANSFER_S.to_string());
        let mut arguments = vec!["get", what, "--to", &to_text, "--timeout", &limit];
        arguments.extend(options);
        node.command(&arguments);
        assert!(same_bytes(&self.source().join(NAME), &to.join(NAME)));
    }

    /// Ends all captures: what was on each wire.
    fn wires(&mut self) -> BTreeMap<String, Wire> {
        std::mem::take(&mut self.captures)
            .into_iter()
            .map(|(name, capture)| (name, capture.finish()))
            .collect()
    }
}

/// A process that is not ours on a host of its own.
fn start(host: &Host, command: &Command) -> Process {
    Process::start(host.on(command).stdin(Stdio::piped()))
}

/// The whole file is to be seen on this wire; in how many frames.
fn assert_is_plain(wire: &Wire, traces: &Traces) -> usize {
    let seen = wire.frames_with(traces);
    // A frame of segments that the network card would have cut holds many blocks.
    assert!(seen as u64 > circuit_file_bytes() / 65536, "seen in {seen} frames only");
    seen
}

/// The measure that all other tests of this file rely on: a transfer in clear is seen on the wires of its two ends, by its
/// addresses and by its bytes, and a third wire shows nothing of it.
#[test]
fn a_transfer_in_clear_is_seen_on_its_own_wires_and_on_no_other() {
    let Some(mut stage) = Stage::new(1) else { return };
    let (seeder, giving) = stage.node("seeder", "", &[]);
    let (getter, getting) = stage.node("getter", "", &[&giving]);
    let (stranger, idle) = stage.node("stranger", "", &[]);
    wait_for("the two to meet", SOON, || getting.knows(&giving.key).then_some(()));
    assert!(!idle.knows(&giving.key));
    giving.command(&["seed", &stage.torrent_text(), "--from", &stage.source().display().to_string()]);
    stage.gets(&getting, &stage.torrent_text(), &["--peer", &giving.listen]);

    let wires = stage.wires();
    for (own, other) in [("seeder", &getter), ("getter", &seeder)] {
        assert!(wires[own].touches(&other.ip));
        assert_is_plain(&wires[own], &stage.traces());
        assert!(!wires[own].touches(&stranger.ip));
    }
    assert!(!wires["stranger"].touches(&seeder.ip) && !wires["stranger"].touches(&getter.ip));
    assert_eq!(wires["stranger"].frames_with(&stage.traces()), 0);
}

/// Two relays, an exit and who uses them, all ours; and behind the exit a libtorrent seeder that speaks uTP, and a tracker.
struct Exiting {
    stage: Stage,
    hosts: BTreeMap<&'static str, Host>,
    originator: Node,
    _others: Vec<Node>,
    _seeder: Process,
    seeder_address: String,
    tracker: Process,
    tracker_url: String,
}

impl Exiting {
    fn new(peers: &Path, seed: u8, announced: bool) -> Option<Self> {
        let mut stage = Stage::new(seed)?;
        let (relay1, node1) = stage.node("relay1", RELAY, &[]);
        let (relay2, node2) = stage.node("relay2", RELAY, &[&node1]);
        let (exit, node3) = stage.node("exit", EXIT, &[&node1, &node2]);
        let (user, originator) = stage.node("originator", USER, &[&node1, &node2, &node3]);
        let (tracker_host, seeder_host) = (stage.host("tracker"), stage.host("seeder"));
        let mut command = living_peer(peers, "libtorrent", "udp_tracker.py");
        let tracker =
            start(&tracker_host, command.args(["--listen", &tracker_host.port(PORT), "--interval", "5"]));
        tracker.event("ready", SOON);
        let tracker_url = format!("udp://{}/announce", tracker_host.port(PORT));
        let seeder_address = seeder_host.port(PORT);
        let mut command = living_peer(peers, "libtorrent", "libtorrent_peer.py");
        command
            .args(["seed", &stage.torrent_text(), "--utp", "--listen", &seeder_address, "--dir"])
            .arg(stage.source());
        command.args(announced.then_some(["--tracker", &tracker_url]).iter().flatten());
        let seeder = start(&seeder_host, &command);
        seeder.event("finished", SOON);
        let hosts = [
            ("relay1", relay1),
            ("relay2", relay2),
            ("exit", exit),
            ("originator", user),
            ("tracker", tracker_host),
            ("seeder", seeder_host),
        ];
        Some(Self {
            stage,
            hosts: hosts.into(),
            originator,
            _others: vec![node1, node2, node3],
            _seeder: seeder,
            seeder_address,
            tracker,
            tracker_url,
        })
    }

    fn ip(&self, name: &str) -> Ipv4Addr {
        self.hosts[name].ip.parse().expect("an address")
    }

    /// Nothing of the torrent was to be seen but between the exit and what is behind it.
    fn only_the_exit_saw_it(&mut self) {
        let (wires, traces) = (self.stage.wires(), self.stage.traces());
        let (exit, behind) = (self.ip("exit"), [self.ip("seeder"), self.ip("tracker")]);
        for name in ["originator", "relay1", "relay2"] {
            assert_eq!(wires[name].frames_with(&traces), 0, "{name} shows something of the torrent");
            for other in behind {
                assert!(!wires[name].touches(&other.to_string()), "{name} talked to {other}");
            }
        }
        let overlay = ["relay1", "relay2", "exit"].map(|name| self.ip(name));
        for (one, two) in wires["originator"].conversations() {
            let other = if one == self.ip("originator") { two } else { one };
            assert!(overlay.contains(&other), "the originator talked to {other}");
        }
        let outside = |packet: &Packet<'_>| !behind.contains(&packet.from) && !behind.contains(&packet.to);
        assert_eq!(
            wires["exit"].packets().filter(outside).filter(|packet| traces.are_in(packet.bytes)).count(),
            0
        );
        for (one, two) in wires["seeder"].conversations() {
            assert!(
                [exit, behind[1]].iter().any(|allowed| *allowed == one || *allowed == two),
                "{one} and {two}"
            );
        }
        // The control: where it leaves the circuit it is seen, as plainly as without circuits.
        let seen = assert_is_plain(&wires["seeder"], &traces);
        let elsewhere =
            ["originator", "relay1", "relay2"].map(|name| wires[name].frame_count()).iter().sum::<usize>();
        println!(
            "seen in {seen} frames at the seeder, and in none of {elsewhere} at the originator and the relays"
        );
        self.no_identity_went_to_the_seeder(&wires["seeder"]);
    }

    /// The node has two keys; whoever sends files to it must not see them, in bytes or in text, nor its address.
    fn no_identity_went_to_the_seeder(&self, wire: &Wire) {
        let tunnel = self.originator.command(&["relay", "status"])["tunnel_key"].clone();
        for key in [self.originator.key.as_str(), tunnel.as_str().expect("text")] {
            let bytes = hex::decode(key).expect("a key in hexadecimal");
            let (first, second) = bytes[10..].split_at(32);
            let ip = self.ip("originator").octets();
            let words = Traces::of_words([first, second, key.as_bytes(), &ip]);
            let payloads =
                wire.packets().filter(|packet| words.are_in(packet.bytes.get(20..).unwrap_or_default()));
            assert_eq!(payloads.count(), 0);
        }
    }
}

//= spec/tunnels.md#7-exit
//= spec/swarm.md#13-anonymous-torrents
#[test]
fn a_torrent_over_three_hops_is_seen_only_behind_the_exit() {
    let Some(peers) = living_peers("leak") else { return };
    let Some(mut world) = Exiting::new(&peers, 2, false) else { return };
    let (torrent, seeder) = (world.stage.torrent_text(), world.seeder_address.clone());
    world.stage.gets(&world.originator, &torrent, &["--hops", "3", "--peer", &seeder]);
    world.only_the_exit_saw_it();
}

#[test]
fn a_magnet_finds_its_seeder_at_a_tracker_behind_the_exit() {
    let Some(peers) = living_peers("leak") else { return };
    let Some(mut world) = Exiting::new(&peers, 3, true) else { return };
    let first = world.tracker.event("announce", SOON);
    assert_eq!(first["left"], 0, "the seeder is there before anybody asks: {first}");
    let magnet = format!("magnet:?xt=urn:btih:{}&dn={NAME}&tr={}", world.stage.info_hash, world.tracker_url);
    world.stage.gets(&world.originator, &magnet, &["--hops", "3"]);
    let asked = wait_for("our announce at the tracker", SOON, || {
        let asked = world.tracker.event("announce", SOON);
        (asked["from"] != world.seeder_address).then_some(asked)
    });
    let from = asked["from"].as_str().expect("text");
    assert!(from.starts_with(&format!("{}:", world.ip("exit"))), "the exit asks: {asked}");
    world.only_the_exit_saw_it();
}

/// Whether a datagram only asks who is there: an introduction or a puncture of some community. Everything else, cells above
/// all, has a smaller message id.
fn is_walk(datagram: &[u8]) -> bool {
    datagram.starts_with(&[0, 2]) && datagram.get(22).is_some_and(|id| *id >= 231)
}

//= spec/tunnels.md#9-hidden-services
#[test]
fn a_hidden_seeder_and_who_downloads_from_it_never_learn_of_each_other() {
    let Some(mut stage) = Stage::new(4) else { return };
    let mut relays: Vec<Node> = Vec::new();
    for name in ["relay1", "relay2", "relay3", "relay4", "relay5"] {
        let known = relays.iter().collect::<Vec<_>>();
        let (_, node) = stage.node(name, EXIT, &known);
        relays.push(node);
    }
    let known = relays.iter().collect::<Vec<_>>();
    let (seeder, getter) = (stage.host("seeder"), stage.host("getter"));
    stage.internet.part(&seeder, &getter);
    let (giving, getting) = (stage.node_on(&seeder, USER, &known), stage.node_on(&getter, USER, &known));
    let from = stage.source().display().to_string();
    giving.command(&["seed", &stage.torrent_text(), "--from", &from, "--hidden", "--hops", "1"]);
    stage.gets(&getting, &stage.torrent_text(), &["--hidden", "--hops", "1"]);

    let wires = stage.wires();
    for (name, own, other) in [("seeder", &seeder, &getter), ("getter", &getter, &seeder)] {
        // Nothing passes between the two. Their overlays hear of each other from common neighbours and knock.
        assert!(
            wires[name].packets().all(|packet| packet.from.to_string() != other.ip),
            "{name} heard the other"
        );
        let knocks =
            |packet: &Packet<'_>| packet.datagram().is_some_and(is_walk) && packet.from.to_string() == own.ip;
        assert!(wires[name].with(&other.ip).all(|packet| knocks(&packet)), "{name} talked to the other");
    }
    for (name, wire) in &wires {
        assert_eq!(wire.frames_with(&stage.traces()), 0, "{name} shows something of the torrent");
    }
    // The control: that much went through the two.
    for name in ["seeder", "getter"] {
        assert!(wires[name].byte_count() > circuit_file_bytes());
    }
    let frames = wires.values().map(Wire::frame_count).sum::<usize>();
    println!("a hidden torrent of {} MiB: seen in none of {frames} frames", circuit_file_bytes() >> 20);
}
