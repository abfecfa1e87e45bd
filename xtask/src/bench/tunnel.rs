//! Three hops over loopback: how fast a circuit of ours carries both ways, what a relay pays for it in processor time,
//! and how soon a new one answers. The same over relays of py-ipv8, in the same run.
//!
//! Downstream and the comparison are speed tests of circuits over given hops. Upstream goes as a BitTorrent engine
//! would send: through the SOCKS5 server to a sink behind the exit, which says how much it got.

use super::peer::{self, Peer};
use crate::{setup, workspace};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// What is promised of a circuit of three hops on this machine.
const RATE_PROMISED_MB_S: f64 = 60.0;
const RELAY_PROMISED_MS_PER_MB: f64 = 5.0;
const ANSWER_PROMISED_MS: f64 = 15.0;
const HOPS: u8 = 3;
const MB: f64 = 1e6;
/// A test over relays of ours, and over the slower ones of others.
const BYTES: u64 = 128 << 20;
const BYTES_RUST: u64 = 32 << 20;
const BYTES_PYTHON: u64 = 4 << 20;
/// Time of the upstream measurement.
const UPSTREAM: Duration = Duration::from_secs(4);
/// Destinations upstream: an exit carries so many datagrams a second to one and not more.
const SINKS: usize = 4;
/// Unanswered datagrams to each.
const WINDOW: u64 = 64;
/// A datagram of a full cell that an exit takes for uTP, and how many are answered by one count.
const DATAGRAM_LEN: usize = 1_300;
const COUNT_EVERY: u64 = 16;
/// Circuits that are built for the time to the first answer; the middle one counts.
const BUILDS: usize = 9;
/// What nodes get to find each other.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
/// A lost datagram is given up after this.
const SILENCE: Duration = Duration::from_millis(50);

/// One kind of relays as measured.
struct Measured {
    relays: &'static str,
    rate_mb_s: f64,
    relay_ms_per_mb: f64,
    round_trip_ms: f64,
}

impl Measured {
    fn json(&self) -> Value {
        json!({
            "relays": self.relays, "mb_per_s": self.rate_mb_s, "relay_cpu_ms_per_mb": self.relay_ms_per_mb,
            "round_trip_ms": self.round_trip_ms,
        })
    }
}

/// Everything of one run: the relays of ours first.
struct Report {
    downstream: Vec<Measured>,
    upstream_mb_s: f64,
    upstream_relay_ms_per_mb: f64,
    first_answer_ms: f64,
}

/// The bench.
pub(super) fn run(json: bool) -> Result<bool, String> {
    let peers = setup::peers(false)?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--locked", "--quiet", "--package", "fairshare"]);
    if !cargo.status().map_err(|error| error.to_string())?.success() {
        return Err("the release build failed".to_owned());
    }
    let folder = workspace::target().join("bench-tunnel");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
    }
    let report = measure(&folder, &peers)?;
    fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
    if json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(report.kept())
}

fn measure(folder: &Path, peers: &Path) -> Result<Report, String> {
    let exit = Node::start(folder, "exit", 1, "relay = true\nexit = true\nexit_loopback = true\n", &[])?;
    let mut known = vec![exit.listen.clone()];
    let mut relays = Vec::new();
    for (name, host) in [("one", 2), ("two", 3)] {
        let relay = Node::start(folder, name, host, "relay = true\n", &known)?;
        known.push(relay.listen.clone());
        relays.push(relay);
    }
    let socks = free_ports()?;
    let settings = format!("socks_port = {socks}\nexit_loopback = true\n");
    let user = Node::start(folder, "user", 4, &settings, &known)?;
    user.wait_for_candidates(known.len())?;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, socks + u16::from(HOPS) - 1));
    let first_answer_ms = first_answer(server)?;
    let before = cpu_s(&relays);
    let sent = upstream(server)?;
    let upstream_relay_ms_per_mb = (cpu_s(&relays) - before) * 500.0 / (sent as f64 / MB);
    drop(user);
    let downstream = downstream(folder, peers, &exit, &relays, known)?;
    let upstream_mb_s = sent as f64 / MB / UPSTREAM.as_secs_f64();
    Ok(Report { downstream, upstream_mb_s, upstream_relay_ms_per_mb, first_answer_ms })
}

/// Speed tests from our exit to our originator, over two relays of each kind.
fn downstream(
    folder: &Path,
    peers: &Path,
    exit: &Node,
    relays: &[Node],
    mut known: Vec<String>,
) -> Result<Vec<Measured>, String> {
    let mut stock = Vec::new();
    for (endpoint, host) in [("rust", 5), ("rust", 6), ("python", 7), ("python", 8)] {
        let relay = Stock::start(peers, endpoint, host)?;
        known.push(relay.listen.clone());
        stock.push(relay);
    }
    let user = Node::start(folder, "tester", 9, "", &known)?;
    let keys = user.wait_for_candidates(known.len())?;
    let key_at = |listen: &str| {
        let found = keys.iter().find(|candidate| candidate["address"] == listen);
        found
            .and_then(|candidate| candidate["tunnel_key"].as_str().map(str::to_owned))
            .ok_or("no key of a relay")
    };
    let mut measured = Vec::new();
    let ours = relays.iter().map(|relay| (relay.listen.as_str(), &relay.peer)).collect::<Vec<_>>();
    let (rust, python) = stock.split_at(2);
    let rust = rust.iter().map(|relay| (relay.listen.as_str(), &relay.peer)).collect();
    let python = python.iter().map(|relay| (relay.listen.as_str(), &relay.peer)).collect();
    for (name, relays, bytes) in [
        ("fairshare", ours, BYTES),
        ("ipv8-rust-tunnels", rust, BYTES_RUST),
        ("py-ipv8 3.2.1", python, BYTES_PYTHON),
    ] {
        let mut path = relays.iter().map(|(listen, _)| key_at(listen)).collect::<Result<Vec<_>, _>>()?;
        path.push(key_at(&exit.listen)?);
        let cpu = || relays.iter().map(|(_, peer)| peer.cpu_s()).sum::<f64>();
        let before = cpu();
        let bytes = format!("{bytes} B");
        let tested = user.run(&["circuits", "test", "--bytes", &bytes, "--path", &path.join(",")])?;
        let received = amount(&tested, "received_bytes")? / MB;
        measured.push(Measured {
            relays: name,
            rate_mb_s: amount(&tested, "rate_bytes")? / MB,
            relay_ms_per_mb: (cpu() - before) * 500.0 / received,
            round_trip_ms: tested["round_trip_ms"].as_f64().unwrap_or_default(),
        });
    }
    Ok(measured)
}

fn amount(value: &Value, name: &str) -> Result<f64, String> {
    let text = value[name].as_str().and_then(|text| text.parse().ok());
    text.ok_or_else(|| format!("no {name} in {value}"))
}

fn cpu_s(relays: &[Node]) -> f64 {
    relays.iter().map(|relay| relay.peer.cpu_s()).sum()
}

/// A port with two free ones after it.
fn free_ports() -> Result<u16, String> {
    for _ in 0..100 {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let first = first.map_err(|error| error.to_string())?.port();
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if first < u16::MAX - 2 && (first..first + 3).all(is_free) {
            return Ok(first);
        }
    }
    Err("no three free ports in a row".to_owned())
}

/// A node of ours that runs.
struct Node {
    peer: Peer,
    program: PathBuf,
    data: PathBuf,
    listen: String,
}

impl Node {
    fn start(folder: &Path, name: &str, host: u8, tunnel: &str, known: &[String]) -> Result<Self, String> {
        let data = folder.join(name);
        fs::create_dir_all(&data).map_err(|error| error.to_string())?;
        fs::write(data.join("config.toml"), format!("[tunnel]\n{tunnel}"))
            .map_err(|error| error.to_string())?;
        let program = workspace::target().join("release").join("fairshare");
        let listen = format!("127.{host}.0.1:0");
        let mut command = Command::new(&program);
        command.args([
            "run",
            "--no-bootstrap",
            "--listen",
            &listen,
            "--api",
            "127.0.0.1:0",
            "--json",
            "--data",
        ]);
        command.arg(&data);
        command.args(known.iter().flat_map(|address| ["--peer", address]));
        let mut peer = Peer::start(&mut command)?;
        let ready = peer.event("ready")?;
        let listen = ready["listen"].as_str().ok_or("a node said no address")?.to_owned();
        Ok(Self { peer, program, data, listen })
    }

    fn run(&self, words: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        peer::run(command.args(words).arg("--json").arg("--data").arg(&self.data))
    }

    /// The candidates, when there are `count`.
    fn wait_for_candidates(&self, count: usize) -> Result<Vec<Value>, String> {
        let begun = Instant::now();
        loop {
            let status = self.run(&["relay", "status"])?;
            let candidates = status["candidates"].as_array().cloned().unwrap_or_default();
            if candidates.len() >= count {
                return Ok(candidates);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("only {} of {count} relays were found", candidates.len()));
            }
            thread::sleep(LOOK);
        }
    }
}

/// A relay of py-ipv8.
struct Stock {
    peer: Peer,
    listen: String,
}

impl Stock {
    fn start(peers: &Path, endpoint: &str, host: u8) -> Result<Self, String> {
        let mut command = Command::new(peers.join("ipv8-3.2").join("bin").join("python"));
        command.arg(workspace::root().join("interop").join("tunnel_peer.py"));
        command.args(["--ip", &format!("127.{host}.0.1"), "--endpoint", endpoint, "--flags", "relay"]);
        let mut peer = Peer::start(&mut command)?;
        let ready = peer.event("ready")?;
        let listen = ready["listen"].as_str().ok_or("py-ipv8 said no address")?.to_owned();
        Ok(Self { peer, listen })
    }
}

/// A program in front of the SOCKS5 server.
struct Association {
    /// Closes the association when it goes.
    _control: TcpStream,
    socket: UdpSocket,
}

impl Association {
    fn open(server: SocketAddr) -> std::io::Result<Self> {
        let mut control = TcpStream::connect(server)?;
        control.write_all(&[5, 1, 0])?;
        control.read_exact(&mut [0; 2])?;
        control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0])?;
        let mut reply = [0; 10];
        control.read_exact(&mut reply)?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, u16::from_be_bytes([reply[8], reply[9]])))?;
        Ok(Self { _control: control, socket })
    }
}

/// A datagram for SOCKS5 to `port` of loopback with `len` bytes that look like uTP.
fn framed(port: u16, len: usize) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let mut bytes = vec![0, 0, 0, 1, 127, 0, 0, 1, high, low];
    bytes.extend(utp_like(len));
    bytes
}

fn utp_like(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[0] = 1;
    bytes
}

/// Milliseconds from a new association to the first echo over its circuit: three hops are built in between.
fn first_answer(server: SocketAddr) -> Result<f64, String> {
    let said = |error: std::io::Error| error.to_string();
    let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(said)?;
    let port = echo.local_addr().map_err(said)?.port();
    thread::spawn(move || {
        let mut bytes = [0; 2_048];
        // Ends with the process.
        while let Ok((len, from)) = echo.recv_from(&mut bytes) {
            let _ = echo.send_to(&bytes[..len], from);
        }
    });
    let mut took = Vec::new();
    for _ in 0..BUILDS {
        let begun = Instant::now();
        let association = Association::open(server).map_err(said)?;
        association.socket.set_read_timeout(Some(Duration::from_millis(1))).map_err(said)?;
        let datagram = framed(port, 64);
        while association.socket.recv(&mut [0; 2_048]).is_err() {
            if begun.elapsed() > PATIENCE {
                return Err("no answer over a new circuit".to_owned());
            }
            association.socket.send(&datagram).map_err(said)?;
        }
        took.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    took.sort_by(f64::total_cmp);
    Ok(took[BUILDS / 2])
}

/// One destination behind the exit, as the sender knows it.
struct Sink {
    port: u16,
    datagram: Vec<u8>,
    sent: u64,
    got: u64,
}

impl Sink {
    fn start() -> std::io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = socket.local_addr()?.port();
        thread::spawn(move || sink_counts(&socket));
        Ok(Self { port, datagram: framed(port, DATAGRAM_LEN), sent: 0, got: 0 })
    }

    fn fill(&mut self, socket: &UdpSocket) -> std::io::Result<()> {
        while self.sent.saturating_sub(self.got) < WINDOW {
            socket.send(&self.datagram)?;
            self.sent += 1;
        }
        Ok(())
    }
}

/// Bytes that sinks behind the exit got in [`UPSTREAM`].
fn upstream(server: SocketAddr) -> Result<u64, String> {
    let said = |error: std::io::Error| error.to_string();
    let mut sinks = (0..SINKS).map(|_| Sink::start()).collect::<Result<Vec<_>, _>>().map_err(said)?;
    let association = Association::open(server).map_err(said)?;
    association.socket.set_read_timeout(Some(SILENCE)).map_err(said)?;
    let (mut begun, mut first, mut counted) = (None::<Instant>, 0, [0; 2_048]);
    let all = |sinks: &[Sink]| sinks.iter().map(|sink| sink.got).sum::<u64>();
    while begun.is_none_or(|begun| begun.elapsed() < UPSTREAM) {
        for sink in &mut sinks {
            sink.fill(&association.socket).map_err(said)?;
        }
        if association.socket.recv(&mut counted).is_err() {
            // What is missing by now is lost, or there is no circuit yet.
            sinks.iter_mut().for_each(|sink| sink.sent = sink.got);
            continue;
        }
        let (port, count) = read_count(&counted);
        for sink in sinks.iter_mut().filter(|sink| sink.port == port) {
            sink.got = sink.got.max(count);
        }
        if begun.is_none() {
            (begun, first) = (Some(Instant::now()), all(&sinks));
        }
    }
    Ok((all(&sinks) - first) * DATAGRAM_LEN as u64)
}

/// Origin and count of a sink's answer.
fn read_count(answer: &[u8; 2_048]) -> (u16, u64) {
    let [_, _, _, _, _, _, _, _, high, low, ..] = *answer;
    let count = answer[22..30].try_into().map(u64::from_be_bytes).unwrap_or_default();
    (u16::from_be_bytes([high, low]), count)
}

/// Answers every few datagrams with how many came.
fn sink_counts(sink: &UdpSocket) {
    let (mut count, mut bytes) = (0_u64, [0; 2_048]);
    // Ends with the process.
    while let Ok((_, from)) = sink.recv_from(&mut bytes) {
        count += 1;
        if count.is_multiple_of(COUNT_EVERY) {
            let mut answer = utp_like(40);
            answer[12..20].copy_from_slice(&count.to_be_bytes());
            let _ = sink.send_to(&answer, from);
        }
    }
}

impl Report {
    fn kept(&self) -> bool {
        self.downstream.first().is_some_and(|ours| {
            ours.rate_mb_s >= RATE_PROMISED_MB_S
                && ours.relay_ms_per_mb <= RELAY_PROMISED_MS_PER_MB
                && self.upstream_mb_s >= RATE_PROMISED_MB_S
                && self.upstream_relay_ms_per_mb <= RELAY_PROMISED_MS_PER_MB
                && self.first_answer_ms <= ANSWER_PROMISED_MS
        })
    }

    fn json(&self) -> Value {
        json!({
            "bench": "tunnel",
            "hops": HOPS,
            "downstream": self.downstream.iter().map(Measured::json).collect::<Vec<_>>(),
            "upstream_mb_per_s": self.upstream_mb_s,
            "upstream_relay_cpu_ms_per_mb": self.upstream_relay_ms_per_mb,
            "first_answer_ms": self.first_answer_ms,
            "kept": self.kept(),
        })
    }

    fn text(&self) -> String {
        let mut text = format!("circuits of {HOPS} hops over loopback, one process a hop\n");
        for one in &self.downstream {
            text += &format!(
                "down over relays of {:18} {:7.1} MB/s {:7.2} ms of a relay's CPU for a MB, there and back {:.2} ms\n",
                one.relays, one.rate_mb_s, one.relay_ms_per_mb, one.round_trip_ms,
            );
        }
        text += &format!(
            "up through SOCKS5, relays of fairshare   {:7.1} MB/s {:7.2} ms of a relay's CPU for a MB\n",
            self.upstream_mb_s, self.upstream_relay_ms_per_mb
        );
        text += &format!("first answer over a new circuit          {:7.1} ms\n", self.first_answer_ms);
        let kept = if self.kept() { "kept" } else { "BROKEN" };
        text += &format!(
            "promised: {RATE_PROMISED_MB_S} MB/s, {RELAY_PROMISED_MS_PER_MB} ms, {ANSWER_PROMISED_MS} ms: {kept}\n"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_circuits_and_costly_relays_break_the_promise() {
        let report = |rate_mb_s, relay_ms_per_mb, upstream_mb_s, first_answer_ms| Report {
            downstream: vec![Measured {
                relays: "fairshare",
                rate_mb_s,
                relay_ms_per_mb,
                round_trip_ms: 1.0,
            }],
            upstream_mb_s,
            upstream_relay_ms_per_mb: 2.0,
            first_answer_ms,
        };
        assert!(report(100.0, 2.0, 80.0, 9.0).kept());
        assert!(!report(50.0, 2.0, 80.0, 9.0).kept());
        assert!(!report(100.0, 6.0, 80.0, 9.0).kept());
        assert!(!report(100.0, 2.0, 50.0, 9.0).kept());
        assert!(!report(100.0, 2.0, 80.0, 16.0).kept());
    }

    #[test]
    fn datagrams_of_the_bench_are_framed_for_socks() {
        assert_eq!(framed(258, 20)[..11], [0, 0, 0, 1, 127, 0, 0, 1, 1, 2, 1]);
    }
}
