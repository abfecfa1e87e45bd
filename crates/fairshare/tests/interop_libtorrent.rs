//! Against a living libtorrent 2.x client: whole files both ways, found by torrent file and by magnet.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{
    Node, Process, SOON, fairshare, free_address, living_peer, living_peers, same_bytes, try_command,
    write_random_file,
};
use tempfile::TempDir;

/// Size of the file: enough that pipelines, slots and disk queues run full.
const FILE_BYTES: u64 = 256 << 20;
const NAME: &str = "film.bin";
/// Limit of one transfer, which takes seconds on an idle machine.
const TRANSFER: Duration = Duration::from_secs(240);

/// A file, its torrent made by our `create`, and folders for what is downloaded.
struct World {
    folder: TempDir,
    peers: PathBuf,
    torrent: PathBuf,
    info_hash: String,
}

impl World {
    fn new(peers: PathBuf, seed: u8) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = folder.path().join("source");
        fs::create_dir(&source).expect("a folder of this test");
        write_random_file(&source.join(NAME), FILE_BYTES, seed);
        let torrent = folder.path().join("film.torrent");
        let mut create = fairshare();
        create.arg("create").arg(source.join(NAME)).arg("--out").arg(&torrent).arg("--json");
        let output = create.output().expect("the program can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        let info_hash =
            made["infohash"].as_str().unwrap_or_else(|| panic!("no infohash in {made}")).to_owned();
        Self { folder, peers, torrent, info_hash }
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn fresh(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).expect("a folder of this test");
        path
    }

    fn magnet(&self, peer: &str) -> String {
        format!("magnet:?xt=urn:btih:{}&dn={NAME}&x.pe={peer}", self.info_hash)
    }

    fn libtorrent(&self) -> Command {
        living_peer(&self.peers, "libtorrent", "libtorrent_peer.py")
    }

    /// libtorrent gets `what`, from `peer` if it does not name one itself, and the bytes are right.
    fn libtorrent_gets(&self, what: &str, peer: Option<&str>, into: &str) {
        let to = self.fresh(into);
        let mut command = self.libtorrent();
        command.args(["get", what, "--timeout", &TRANSFER.as_secs().to_string(), "--dir"]).arg(&to);
        command.args(peer.map(|peer| ["--peer", peer]).iter().flatten());
        let mut process = Process::start(&mut command);
        let finished = process.event("finished", TRANSFER + SOON);
        assert!(process.wait(SOON));
        println!("libtorrent got {} MiB {into} in {} s", FILE_BYTES >> 20, finished["seconds"]);
        assert!(same_bytes(&self.source().join(NAME), &to.join(NAME)));
    }

    /// Our one-shot `get` gets `what` without a running node, and the bytes are right.
    fn we_get(&self, what: &str, peer: Option<&str>, into: &str) {
        let to = self.fresh(into);
        let data = self.folder.path().join(format!("{into}-data"));
        let (to_text, limit) = (to.to_string_lossy().into_owned(), TRANSFER.as_secs().to_string());
        let mut arguments = vec!["get", what, "--to", &to_text, "--timeout", &limit];
        arguments.extend(peer.map(|peer| ["--peer", peer]).iter().flatten());
        let start = Instant::now();
        let (code, printed) = try_command(&data, &arguments);
        assert_eq!(code, Some(0), "{printed}");
        println!("we got {} MiB {into} in {} s", FILE_BYTES >> 20, start.elapsed().as_secs_f64());
        assert!(same_bytes(&self.source().join(NAME), &to.join(NAME)));
    }
}

/// Our seeder on an address of its own, ready to accept.
fn we_seed(world: &World) -> (Process, String) {
    let address = free_address();
    let mut command = fairshare();
    command.arg("seed").arg(&world.torrent).arg("--from").arg(world.source());
    command.args(["--listen", &address, "--json", "--data"]).arg(world.folder.path().join("seed-data"));
    let process = Process::start(&mut command);
    support::wait_for("our seeder to listen", TRANSFER, || std::net::TcpStream::connect(&address).ok());
    (process, address)
}

fn libtorrent_seeds(world: &World) -> (Process, String) {
    let mut command = world.libtorrent();
    command.arg("seed").arg(&world.torrent).arg("--dir").arg(world.source());
    let process = Process::start(&mut command);
    let ready = process.event("ready", SOON);
    process.event("finished", SOON);
    (process, ready["listen"].as_str().expect("the script says it").to_owned())
}

//= spec/swarm.md#3-message-framing-and-core-messages
#[test]
fn libtorrent_downloads_from_our_seeder_by_file_and_by_magnet() {
    let Some(peers) = living_peers("interop_libtorrent") else { return };
    let world = World::new(peers, 1);
    let (mut seeder, address) = we_seed(&world);
    world.libtorrent_gets(&world.torrent.to_string_lossy(), Some(&address), "by-file");
    world.libtorrent_gets(&world.magnet(&address), None, "by-magnet");
    assert!(seeder.stop(SOON), "the seeder ends well");
}

#[test]
fn we_download_from_libtorrent_by_file_and_by_magnet() {
    let Some(peers) = living_peers("interop_libtorrent") else { return };
    let world = World::new(peers, 2);
    let (_seeder, address) = libtorrent_seeds(&world);
    world.we_get(&world.torrent.to_string_lossy(), Some(&address), "by-file");
    world.we_get(&world.magnet(&address), None, "by-magnet");
}

#[test]
fn a_running_node_downloads_from_libtorrent_and_serves_it_to_another_libtorrent() {
    let Some(peers) = living_peers("interop_libtorrent") else { return };
    let world = World::new(peers, 3);
    let (_seeder, address) = libtorrent_seeds(&world);
    let node = Node::start(&world.folder.path().join("node"), &[]);
    let to = world.fresh("by-node");
    let torrent = world.torrent.to_string_lossy().into_owned();
    let limit = TRANSFER.as_secs().to_string();
    node.command(&["get", &torrent, "--to", &to.to_string_lossy(), "--peer", &address, "--timeout", &limit]);
    assert!(same_bytes(&world.source().join(NAME), &Path::new(&to).join(NAME)));
    world.libtorrent_gets(&torrent, Some(&node.listen), "second-hand");
}
