//! Two nodes on loopback with everything on: a file moves, is paid for, and survives a kill in the middle.

mod world;

use fairshare_crypto::{PublicKey, Rng, sha1};
use fairshare_host::{NodeHandle, load_identity};
use fairshare_node::{Command, Reply, Route};
use fairshare_swarm::metainfo::TorrentBuilder;
use fairshare_swarm::{AddTorrent, InfoHash, Metainfo, Source, TorrentStatus};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use world::{ANYWHERE, config, start};

const PIECE_LEN: u32 = 1 << 18;
/// What may be open between two friends at a crash: a window, its unverified part, and what lies in buffers.
const UNSETTLED_MAX: u64 = 24 << 20;
/// A provider gives a taker that crashed a minute to remember what it owes, and serves it again then.
const PATIENCE: Duration = Duration::from_secs(150);

/// A folder with a seeder's file, two identities, and the torrent.
struct World {
    dir: tempfile::TempDir,
    content: Vec<u8>,
    metainfo: Arc<Metainfo>,
    keys: [PublicKey; 2],
}

impl World {
    async fn new(len: usize) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut content = vec![0; len];
        Rng::from_seed([len as u8; 32]).fill(&mut content);
        let mut builder = TorrentBuilder::file("film", len as u64).expect("a safe name").piece_len(PIECE_LEN);
        content.chunks(PIECE_LEN as usize).for_each(|piece| builder.push_hash(sha1(piece)));
        let metainfo = Arc::new(builder.finish().expect("all pieces"));
        std::fs::create_dir(dir.path().join("seeds")).expect("writable");
        std::fs::write(dir.path().join("seeds/film"), &content).expect("writable");
        let mut keys = Vec::new();
        for name in ["seeder", "taker"] {
            let node = start(&dir.path().join(name), ANYWHERE).await.expect("a free port");
            keys.push(node.public_key());
            node.shutdown().await;
        }
        Self { dir, content, metainfo, keys: [keys[0], keys[1]] }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    async fn seeder(&self) -> NodeHandle {
        let config = config(&self.path("seeder"), ANYWHERE, &[self.keys[1]]);
        let node = NodeHandle::start(config).await.expect("it ran before");
        self.add(&node, &self.path("seeds"), true, &[]).await;
        node
    }

    async fn taker(&self, seeder: &NodeHandle) -> NodeHandle {
        let config = config(&self.path("taker"), ANYWHERE, &[self.keys[0]]);
        let node = NodeHandle::start(config).await.expect("it ran before");
        self.add(&node, &self.path("downloads"), false, &[seeder.address().into()]).await;
        node
    }

    async fn add(&self, node: &NodeHandle, root: &Path, seed: bool, peers: &[SocketAddr]) {
        let source = Source::Metainfo(self.metainfo.clone());
        let torrent = AddTorrent { source, root: root.to_path_buf(), seed, peers: peers.to_vec() };
        match node.command(Command::Add { torrent, route: Route::Clear }).await.expect("running") {
            Reply::Added(Ok(hash)) => assert_eq!(hash, self.hash()),
            other => panic!("{other:?}"),
        }
    }

    fn hash(&self) -> InfoHash {
        self.metainfo.info_hash()
    }

    /// Waits until the node holds `share` of the pieces, in percent.
    async fn reaches(&self, node: &NodeHandle, share: u32) -> TorrentStatus {
        let begun = Instant::now();
        loop {
            let status = torrent(node).await;
            if status.held.count() * 100 >= self.metainfo.piece_count() * share {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "{status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn is_intact(&self) -> bool {
        std::fs::read(self.path("downloads/film")).is_ok_and(|bytes| bytes == self.content)
    }

    /// Waits until the finished file has its name.
    async fn is_named(&self) {
        let begun = Instant::now();
        while !self.is_intact() {
            assert!(
                begun.elapsed() < PATIENCE,
                "{:?}",
                std::fs::read_dir(self.path("downloads")).map(|d| d.collect::<Vec<_>>())
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn torrent(node: &NodeHandle) -> TorrentStatus {
    match node.command(Command::Torrents).await.expect("running") {
        Reply::Torrents(mut torrents) => torrents.pop().expect("one was added").0,
        other => panic!("{other:?}"),
    }
}

async fn totals(node: &NodeHandle) -> (u32, u64, u64) {
    match node.command(Command::Status).await.expect("running") {
        Reply::Status(status) => (status.chain_length, status.total_up, status.total_down),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_moves_and_is_paid_for() {
    let world = World::new(24 << 20).await;
    let seeder = world.seeder().await;
    let taker = world.taker(&seeder).await;
    world.reaches(&taker, 100).await;
    world.is_named().await;
    taker.shutdown().await;
    let (length, up, _) = totals(&seeder).await;
    seeder.shutdown().await;
    assert!(length > 0, "nothing was signed");
    assert_eq!(up, 24 << 20, "the whole file was paid for at the latest at the end");
    let taker = world.taker(&seeder).await;
    assert_eq!(totals(&taker).await, (length, 0, up), "both ends agree after a restart");
    assert!(world.reaches(&taker, 100).await.downloaded == 0, "the resume file is believed");
    taker.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_either_end_in_the_middle_costs_no_piece_and_no_payment() {
    let world = World::new(96 << 20).await;
    let mut seeder = world.seeder().await;
    for share in [20, 60] {
        let taker = world.taker(&seeder).await;
        world.reaches(&taker, share).await;
        taker.kill().await;
        seeder.kill().await;
        seeder = world.seeder().await;
    }
    let taker = world.taker(&seeder).await;
    world.reaches(&taker, 100).await;
    world.is_named().await;
    taker.shutdown().await;
    let (length, up, _) = totals(&seeder).await;
    seeder.shutdown().await;
    let taker = world.taker(&seeder).await;
    assert_eq!(totals(&taker).await, (length, 0, up), "both ends agree");
    // A crash costs the provider what was served and not settled yet, and the taker what was under way.
    let slack = 2 * UNSETTLED_MAX;
    assert!(((96 << 20) - slack..(96 << 20) + slack).contains(&up), "{up}");
    taker.kill().await;
    for name in ["seeder", "taker"] {
        assert!(load_identity(&world.path(name), None).expect("readable").is_some());
    }
}
