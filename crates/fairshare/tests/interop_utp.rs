//! uTP against a living libtorrent without TCP: the swarm engine over our uTP over one socket, files both ways. Nothing
//! of the node or the host takes part.

mod support;

use bytes::Bytes;
use fairshare_crypto::{Rng, sha1};
use fairshare_swarm::metainfo::TorrentBuilder;
use fairshare_swarm::utp::{Congestion, Utp, UtpConfig, UtpOutput};
use fairshare_swarm::{
    AddTorrent, Bitfield, Completion, Metainfo, Request, Source, Swarm, SwarmConfig, SwarmEvent, SwarmOutput,
};
use fairshare_wire::{Instant, Now};
use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use support::{Process, SOON, living_peer, living_peers};

const FILE_BYTES: usize = 16 << 20;
const PIECE_BYTES: usize = 256 << 10;
const NAME: &str = "film.bin";
/// Limit of one transfer, which takes seconds.
const TRANSFER: Duration = Duration::from_secs(120);
/// The longest wait for a datagram.
const WAIT: Duration = Duration::from_millis(50);

fn content() -> Bytes {
    let mut bytes = vec![0; FILE_BYTES];
    Rng::from_seed([7; 32]).fill(&mut bytes);
    bytes.into()
}

fn described(content: &Bytes) -> Arc<Metainfo> {
    let builder = TorrentBuilder::file(NAME, content.len() as u64).expect("a good name");
    let mut builder = builder.piece_len(PIECE_BYTES as u32);
    content.chunks(PIECE_BYTES).for_each(|piece| builder.push_hash(sha1(piece)));
    Arc::new(builder.finish().expect("a good torrent"))
}

/// A peer of ours: engines, a socket, pieces in memory.
struct OurPeer {
    swarm: Swarm,
    utp: Utp,
    socket: UdpSocket,
    start: std::time::Instant,
    metainfo: Arc<Metainfo>,
    pieces: BTreeMap<u32, Bytes>,
    finished: bool,
}

impl OurPeer {
    fn new(
        metainfo: &Arc<Metainfo>,
        congestion: Congestion,
        held: Option<&Bytes>,
        peer: Option<SocketAddr>,
    ) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        let now = Now::default();
        let listen_port = socket.local_addr().expect("bound above").port();
        let config = SwarmConfig { listen_port, ..SwarmConfig::default() };
        let mut swarm = Swarm::new(config, Rng::from_seed([1; 32]), now);
        let pieces = held.iter().flat_map(|content| content.chunks(PIECE_BYTES));
        let pieces = pieces.zip(0..).map(|(piece, number)| (number, Bytes::copy_from_slice(piece))).collect();
        let source = Source::Metainfo(metainfo.clone());
        let add =
            AddTorrent { source, root: NAME.into(), seed: held.is_some(), peers: peer.into_iter().collect() };
        swarm.add(now, add).expect("a new torrent");
        let utp = Utp::new(UtpConfig { congestion, ..UtpConfig::default() }, Rng::from_seed([2; 32]), now);
        let start = std::time::Instant::now();
        Self { swarm, utp, socket, start, metainfo: metainfo.clone(), pieces, finished: false }
    }

    fn now(&self) -> Now {
        let micros = u64::try_from(self.start.elapsed().as_micros()).expect("a short test");
        Now { mono: Instant::from_micros(micros), unix_ms: 0 }
    }

    /// Carries out what both engines want.
    fn drain(&mut self, now: Now) {
        loop {
            let mut idle = true;
            while let Some(output) = self.swarm.poll() {
                idle = false;
                self.on_swarm(now, output);
            }
            while let Some(output) = self.utp.poll() {
                idle = false;
                match output {
                    UtpOutput::Transmit(to, datagram) => {
                        // A full socket loses the datagram, as the network may.
                        let _ = self.socket.send_to(&datagram, to);
                    }
                    UtpOutput::Connected(id) => self.swarm.stream_connected(now, id),
                    UtpOutput::Accepted(id, from) => self.swarm.stream_incoming(now, id, from),
                    UtpOutput::Data(id, bytes) => self.swarm.stream_data(now, id, bytes),
                    UtpOutput::Drained(id, len) => self.swarm.stream_drained(now, id, len),
                    UtpOutput::Closed(id) => self.swarm.stream_closed(now, id),
                }
            }
            if idle {
                return;
            }
        }
    }

    fn on_swarm(&mut self, now: Now, output: SwarmOutput) {
        match output {
            SwarmOutput::Connect(id, to) => self.utp.connect(now, id, to),
            SwarmOutput::Write(id, bytes) => self.utp.write(now, id, bytes),
            SwarmOutput::Close(id) => self.utp.close(now, id),
            SwarmOutput::Request { ticket, request } => {
                let completion = self.answer(request);
                self.swarm.completed(now, ticket, completion);
            }
            SwarmOutput::Event(SwarmEvent::Finished(_)) => self.finished = true,
            SwarmOutput::Event(_) | SwarmOutput::TrackerSend { .. } => {}
        }
    }

    fn answer(&mut self, request: Request) -> Completion {
        match request {
            Request::Open { metainfo, .. } => {
                let mut held = Bitfield::new(metainfo.piece_count());
                self.pieces.keys().for_each(|piece| {
                    held.set(*piece);
                });
                Completion::Opened(Ok(held))
            }
            Request::Store { piece, blocks, .. } => {
                let whole = Bytes::from(blocks.concat());
                let good = Some(sha1(&whole)) == self.metainfo.piece_hash(piece);
                if good {
                    self.pieces.insert(piece, whole);
                }
                Completion::Stored(Ok(good))
            }
            Request::Read { piece, begin, len, .. } => {
                let piece = self.pieces.get(&piece).expect("only what is held is read");
                Completion::Data(Ok(piece.slice(begin as usize..(begin + len) as usize)))
            }
            Request::Save { .. } | Request::Close { .. } => Completion::Saved(Ok(())),
            other => panic!("nothing else is asked for: {other:?}"),
        }
    }

    /// One wait for datagrams or time.
    fn step(&mut self) {
        let now = self.now();
        self.drain(now);
        let next = self.utp.next_timeout().into_iter().chain(self.swarm.next_timeout()).min();
        let wait = next.map_or(WAIT, |at| at.since(now.mono)).clamp(Duration::from_micros(100), WAIT);
        self.socket.set_read_timeout(Some(wait)).expect("a wait above zero");
        let mut buffer = [0; 2_048];
        let mut received = self.socket.recv_from(&mut buffer);
        self.socket.set_nonblocking(true).expect("a socket");
        let now = self.now();
        while let Ok((len, from)) = received {
            self.utp.handle_datagram(now, from, &buffer[..len]);
            received = self.socket.recv_from(&mut buffer);
        }
        self.socket.set_nonblocking(false).expect("a socket");
        let now = self.now();
        if self.utp.next_timeout().is_some_and(|at| at <= now.mono) {
            self.utp.handle_timeout(now);
        }
        if self.swarm.next_timeout().is_some_and(|at| at <= now.mono) {
            self.swarm.handle_timeout(now);
        }
        self.drain(now);
    }

    /// Serves until `done`.
    fn serve(&mut self, done: &AtomicBool) {
        while !done.load(Ordering::Relaxed) {
            self.step();
        }
    }

    fn refusals(&self) -> Vec<(&'static str, u64)> {
        self.utp.refusals().collect()
    }
}

/// Ends the seeder, however its test ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn torrent_file(folder: &Path, metainfo: &Metainfo) -> String {
    let path = folder.join("film.torrent");
    fs::write(&path, metainfo.to_torrent()).expect("a folder of this test");
    path.to_string_lossy().into_owned()
}

fn megabytes_per_second(took: Duration) -> f64 {
    FILE_BYTES as f64 / 1e6 / took.as_secs_f64()
}

//= spec/swarm.md#11-transports
#[test]
fn libtorrent_without_tcp_downloads_from_us_over_utp() {
    let Some(peers) = living_peers("interop_utp") else { return };
    for congestion in [Congestion::Ledbat, Congestion::Loss] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let content = content();
        let metainfo = described(&content);
        let torrent = torrent_file(folder.path(), &metainfo);
        let mut ours = OurPeer::new(&metainfo, congestion, Some(&content), None);
        let address = ours.socket.local_addr().expect("bound").to_string();
        let done = AtomicBool::new(false);
        let took = thread::scope(|scope| {
            scope.spawn(|| ours.serve(&done));
            // The scope waits for the seeder, whatever happens here.
            let _end = SetOnDrop(&done);
            let mut command = living_peer(&peers, "libtorrent", "libtorrent_peer.py");
            command.args(["get", &torrent, "--utp", "--peer", &address, "--dir"]).arg(folder.path());
            let mut process = Process::start(&mut command);
            let finished = process.event("finished", TRANSFER);
            assert!(process.wait(SOON), "libtorrent ends well");
            Duration::from_secs_f64(finished["seconds"].as_f64().expect("the script says it"))
        });
        assert!(fs::read(folder.path().join(NAME)).expect("written") == content, "byte by byte");
        println!("{congestion:?}: libtorrent got 16 MiB from us with {:.1} MB/s", megabytes_per_second(took));
        println!("refused: {:?}", ours.refusals());
    }
}

//= spec/swarm.md#11-transports
#[test]
fn we_download_from_libtorrent_without_tcp_over_utp() {
    let Some(peers) = living_peers("interop_utp") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let content = content();
    fs::write(folder.path().join(NAME), &content).expect("a folder of this test");
    let metainfo = described(&content);
    let torrent = torrent_file(folder.path(), &metainfo);
    let mut command = living_peer(&peers, "libtorrent", "libtorrent_peer.py");
    command.args(["seed", &torrent, "--utp", "--dir"]).arg(folder.path());
    let process = Process::start(&mut command);
    let ready = process.event("ready", SOON);
    process.event("finished", SOON);
    let address = ready["listen"].as_str().expect("the script says it").parse().expect("an address");
    let mut ours = OurPeer::new(&metainfo, Congestion::Ledbat, None, Some(address));
    let start = std::time::Instant::now();
    while !ours.finished {
        ours.step();
        assert!(start.elapsed() < TRANSFER, "{} pieces, {:?}", ours.pieces.len(), ours.refusals());
    }
    let took = start.elapsed();
    let got: Vec<u8> = ours.pieces.values().flat_map(|piece| piece.iter().copied()).collect();
    assert!(got == content, "byte by byte");
    println!("we got 16 MiB from libtorrent with {:.1} MB/s", megabytes_per_second(took));
    println!("refused: {:?}", ours.refusals());
}
