//! One gibibyte over loopback three times: from libtorrent to libtorrent, between two bare engines of ours, and
//! between two nodes of ours that are friends, with identity, accounting and settlement on.
//!
//! The bench runs in a network namespace of its own, so that the bytes on the loopback interface are exactly those of
//! the transfer. What accounting costs is less than all that is no payload: headers of TCP, requests, counts, grants,
//! blocks, overlay. The demo runs too, and says the same of its own transfers.

use super::peer::{self, Peer};
use super::tracker;
use crate::{setup, workspace};
use fairshare_crypto::Rng;
use serde_json::{Value, json};
use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const PAYLOAD_BYTES: u64 = 1 << 30;
const MIB: f64 = 1_048_576.0;
/// What is promised of two nodes of ours on loopback.
const RATE_PROMISED_MIB_S: f64 = 200.0;
/// What accounting may add to the payload, in percent.
const OVERHEAD_PROMISED_PERCENT: f64 = 1.0;
/// Minutes the demo may take.
const DEMO_MINUTES: &str = "3";
/// How the demo's promise of the same begins.
const DEMO_PROMISE: &str = "accounting costs";
const NAME: &str = "payload.bin";
/// Set in the namespace of the bench.
const ALONE: &str = "FAIRSHARE_BENCH_ALONE";

/// One transfer as measured.
struct Transfer {
    name: &'static str,
    seconds: f64,
    wire_bytes: u64,
    cpu_s: f64,
}

impl Transfer {
    fn rate_mib_s(&self) -> f64 {
        PAYLOAD_BYTES as f64 / MIB / self.seconds
    }

    /// All that went over the wire and is no payload, headers of TCP and IP included.
    fn beside_payload_percent(&self) -> f64 {
        100.0 * (self.wire_bytes as f64 - PAYLOAD_BYTES as f64) / PAYLOAD_BYTES as f64
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "seconds": self.seconds, "mib_per_s": self.rate_mib_s(),
            "wire_bytes": self.wire_bytes.to_string(), "cpu_s": self.cpu_s,
        })
    }
}

/// The bench: prepares what it needs, then measures in a namespace of its own where the system allows one.
pub(super) fn run(json: bool) -> Result<bool, String> {
    if env::var_os(ALONE).is_some() {
        return measure(json);
    }
    let peers = setup::peers(false)?;
    build()?;
    let python = peers.join("libtorrent").join("bin").join("python");
    let alone = workspace::root().join("interop").join("alone.py");
    let namespace = ["--map-root-user", "--net"];
    let allowed =
        Command::new("unshare").args(namespace).arg("true").status().is_ok_and(|status| status.success());
    if !allowed {
        eprintln!("no network namespace for the bench: other traffic on loopback is counted with it");
        return measure(json);
    }
    let this = env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("unshare");
    command.args(namespace).arg(python).arg(alone).arg(this).args(["bench", "first-light"]).env(ALONE, "1");
    command.args(json.then_some("--json"));
    Ok(command.status().map_err(|error| error.to_string())?.success())
}

fn build() -> Result<(), String> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--locked", "--quiet", "--package", "fairshare"]);
    let built = cargo.status().map_err(|error| error.to_string())?;
    if built.success() { Ok(()) } else { Err("the release build failed".to_owned()) }
}

fn measure(json: bool) -> Result<bool, String> {
    let bench = Bench::new()?;
    let outcome = bench.transfers();
    // Gibibytes of random bytes are of no use to anybody.
    fs::remove_dir_all(&bench.folder).map_err(|error| error.to_string())?;
    let report = outcome?;
    if json {
        println!("{}", report.json())
    } else {
        print!("{}", report.text())
    }
    Ok(report.kept())
}

/// The files and programs of one run.
struct Bench {
    folder: PathBuf,
    peers: PathBuf,
    program: PathBuf,
}

impl Bench {
    fn new() -> Result<Self, String> {
        let folder = workspace::target().join("bench-first-light");
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
        }
        let program = workspace::target().join("release").join("fairshare");
        let bench = Self { folder, peers: setup::peers(false)?, program };
        let source = bench.fresh("source")?;
        write_payload(&source.join(NAME)).map_err(|error| format!("cannot write the payload: {error}"))?;
        Ok(bench)
    }

    fn transfers(&self) -> Result<Report, String> {
        let announce = tracker::start()?;
        let tracked = self.create("tracked.torrent", Some(&announce))?;
        let plain = self.create("plain.torrent", None)?;
        let libtorrent = self.libtorrent(&plain)?;
        let engines = self.engines(&tracked)?;
        let (nodes, payments) = self.nodes(&plain)?;
        Ok(Report { transfers: [libtorrent, engines, nodes], payments, demo: self.demo()? })
    }

    /// What the demo says of its own overhead.
    fn demo(&self) -> Result<Demo, String> {
        let receipt =
            peer::run(self.fairshare().args(["demo", "--check", "--json", "--minutes", DEMO_MINUTES]))?;
        let promises = receipt["promises"].as_array().map(Vec::as_slice).unwrap_or_default();
        let named =
            |promise: &&Value| promise["name"].as_str().is_some_and(|name| name.starts_with(DEMO_PROMISE));
        let promise = promises.iter().find(named).ok_or("the demo says nothing of its overhead")?;
        Ok(Demo {
            kept: promise["ok"] == true,
            detail: promise["detail"].as_str().unwrap_or_default().to_owned(),
        })
    }

    fn fresh(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.folder.join(name);
        fs::create_dir_all(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(path)
    }

    fn fairshare(&self) -> Command {
        Command::new(&self.program)
    }

    fn create(&self, name: &str, announce: Option<&str>) -> Result<PathBuf, String> {
        let torrent = self.folder.join(name);
        let mut create = self.fairshare();
        create
            .arg("create")
            .arg(self.folder.join("source").join(NAME))
            .arg("--out")
            .arg(&torrent)
            .arg("--json");
        create.args(announce.map(|url| ["--tracker", url]).iter().flatten());
        peer::run(&mut create)?;
        Ok(torrent)
    }

    fn libtorrent(&self, torrent: &Path) -> Result<Transfer, String> {
        let script = || {
            let mut command = Command::new(self.peers.join("libtorrent").join("bin").join("python"));
            command.arg(workspace::root().join("interop").join("libtorrent_peer.py"));
            command
        };
        let mut seed = script();
        let mut seed =
            Peer::start(seed.arg("seed").arg(torrent).arg("--dir").arg(self.folder.join("source")))?;
        let ready = seed.event("ready")?;
        seed.event("finished")?;
        let address = ready["listen"].as_str().ok_or("libtorrent said no address")?.to_owned();
        // The check of the source is no part of the transfer.
        let (bytes, cpu) = (peer::loopback_bytes()?, seed.cpu_s());
        let mut get = script();
        get.arg("get")
            .arg(torrent)
            .args(["--peer", &address, "--linger", "5", "--dir"])
            .arg(self.fresh("libtorrent")?);
        let mut get = Peer::start(&mut get)?;
        let finished = get.event("finished")?;
        Ok(Transfer {
            name: "libtorrent to libtorrent",
            seconds: finished["seconds"].as_f64().ok_or("libtorrent said no time")?,
            wire_bytes: peer::loopback_bytes()? - bytes,
            cpu_s: seed.cpu_s() - cpu + get.cpu_s(),
        })
    }

    /// Two bare engines: no identity, no overlay, no accounting.
    fn engines(&self, torrent: &Path) -> Result<Transfer, String> {
        let engine = |verb: &str, folder: &Path| {
            let ready = self.folder.join(format!("{verb}.ready"));
            let mut command = self.fairshare();
            command.args(["bt-bench", verb, "--listen", "127.0.0.1:0", "--torrent"]).arg(torrent);
            command.arg("--dir").arg(folder).arg("--ready").arg(&ready);
            (command, ready)
        };
        let (mut seed, serving) = engine("seed", &self.folder.join("source"));
        let seed = Peer::start(&mut seed)?;
        peer::wait_for_file(&serving)?;
        let (bytes, cpu, start) = (peer::loopback_bytes()?, seed.cpu_s(), Instant::now());
        let (mut down, complete) = engine("down", &self.fresh("engine")?);
        let down = Peer::start(&mut down)?;
        peer::wait_for_file(&complete)?;
        Ok(Transfer {
            name: "fairshare, bare engines",
            seconds: start.elapsed().as_secs_f64(),
            wire_bytes: peer::loopback_bytes()? - bytes,
            cpu_s: seed.cpu_s() - cpu + down.cpu_s(),
        })
    }

    /// Two nodes that are friends, the whole product.
    fn nodes(&self, torrent: &Path) -> Result<(Transfer, Payments), String> {
        let (giver, taker) = self.friends()?;
        let source = self.folder.join("source");
        peer::run(giver.command(&["seed"]).arg(torrent).arg("--from").arg(&source))?;
        let (bytes, cpu, start) =
            (peer::loopback_bytes()?, giver.peer.cpu_s() + taker.peer.cpu_s(), Instant::now());
        let mut get = taker.command(&["get"]);
        get.arg(torrent).args(["--peer", &giver.listen, "--to"]).arg(self.fresh("node")?);
        peer::run(&mut get)?;
        let transfer = Transfer {
            name: "fairshare, nodes with accounting",
            seconds: start.elapsed().as_secs_f64(),
            wire_bytes: peer::loopback_bytes()? - bytes,
            cpu_s: giver.peer.cpu_s() + taker.peer.cpu_s() - cpu,
        };
        let payments = Payments::of(&peer::run(&mut taker.command(&["chain", "show", "me"]))?);
        Ok((transfer, payments))
    }

    /// Both keys are needed before either configuration can be written, so each node is started twice.
    fn friends(&self) -> Result<(Node, Node), String> {
        let folders = [self.fresh("giver-data")?, self.fresh("taker-data")?];
        let keys = [
            Node::start(self.fairshare(), &folders[0])?.key,
            Node::start(self.fairshare(), &folders[1])?.key,
        ];
        for (folder, friend) in folders.iter().zip([&keys[1], &keys[0]]) {
            let text = format!("[economy]\nfriends = [\"{friend}\"]\n");
            fs::write(folder.join("config.toml"), text).map_err(|error| error.to_string())?;
        }
        Ok((Node::start(self.fairshare(), &folders[0])?, Node::start(self.fairshare(), &folders[1])?))
    }
}

/// A running node.
struct Node {
    peer: Peer,
    program: PathBuf,
    data: PathBuf,
    key: String,
    listen: String,
}

impl Node {
    fn start(mut command: Command, data: &Path) -> Result<Self, String> {
        let program = PathBuf::from(command.get_program());
        command.args([
            "run",
            "--no-bootstrap",
            "--listen",
            "127.0.0.1:0",
            "--api",
            "127.0.0.1:0",
            "--json",
            "--data",
        ]);
        let mut peer = Peer::start(command.arg(data))?;
        let ready = peer.event("ready")?;
        let text = |name: &str| {
            ready[name].as_str().map(str::to_owned).ok_or_else(|| format!("no {name} in {ready}"))
        };
        Ok(Self {
            key: text("public_key")?,
            listen: text("listen")?,
            peer,
            program,
            data: data.to_path_buf(),
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).arg("--json").arg("--data").arg(&self.data);
        command
    }
}

/// The payments on the taker's chain: a bench with accounting that paid nothing would measure nothing.
struct Payments {
    count: usize,
    bytes: u64,
}

impl Payments {
    fn of(chain: &Value) -> Self {
        let blocks = chain.as_array().map(Vec::as_slice).unwrap_or_default();
        let transactions = blocks.iter().filter(|block| block["type"] == "tribler_bandwidth");
        let transactions = transactions.filter_map(|block| hex::decode(block["transaction"].as_str()?).ok());
        let paid =
            transactions.filter_map(|bytes| fairshare_ledger::bandwidth::Bandwidth::decode(&bytes).ok());
        let paid = paid.map(|bandwidth| bandwidth.down).filter(|down| *down > 0).collect::<Vec<_>>();
        Self { count: paid.len(), bytes: paid.iter().sum() }
    }
}

fn write_payload(path: &Path) -> std::io::Result<()> {
    let mut rng = Rng::from_seed([3; 32]);
    let mut file = File::create(path)?;
    let mut block = vec![0; 1 << 20];
    for _ in 0..PAYLOAD_BYTES / block.len() as u64 {
        rng.fill(&mut block);
        file.write_all(&block)?;
    }
    file.sync_all()
}

/// What the demo says of its own overhead.
struct Demo {
    kept: bool,
    detail: String,
}

/// What was measured, ready to be shown.
struct Report {
    /// libtorrent, bare engines, nodes.
    transfers: [Transfer; 3],
    payments: Payments,
    demo: Demo,
}

impl Report {
    fn nodes(&self) -> &Transfer {
        &self.transfers[2]
    }

    fn rate_beside(&self, other: &Transfer) -> f64 {
        self.nodes().rate_mib_s() / other.rate_mib_s()
    }

    /// What the nodes sent more than the engines. TCP acknowledges as it likes, so this may be below zero.
    fn more_than_engines_percent(&self) -> f64 {
        100.0 * (self.nodes().wire_bytes as f64 - self.transfers[1].wire_bytes as f64) / PAYLOAD_BYTES as f64
    }

    fn kept(&self) -> bool {
        self.nodes().rate_mib_s() >= RATE_PROMISED_MIB_S
            && self.nodes().beside_payload_percent() < OVERHEAD_PROMISED_PERCENT
            && self.payments.count > 0
            && self.demo.kept
    }

    fn json(&self) -> Value {
        json!({
            "bench": "first-light",
            "payload_bytes": PAYLOAD_BYTES.to_string(),
            "transfers": self.transfers.iter().map(Transfer::json).collect::<Vec<_>>(),
            "rate_beside_libtorrent": self.rate_beside(&self.transfers[0]),
            "rate_beside_bare_engines": self.rate_beside(&self.transfers[1]),
            "more_than_bare_engines_percent": self.more_than_engines_percent(),
            "payments": self.payments.count,
            "paid_bytes": self.payments.bytes.to_string(),
            "demo_overhead": self.demo.detail,
            "kept": self.kept(),
        })
    }

    fn text(&self) -> String {
        let mut text =
            format!("{} MiB over loopback, file to file, every piece verified\n", PAYLOAD_BYTES >> 20);
        for transfer in &self.transfers {
            text += &format!(
                "{:34} {:7.2} s {:7.1} MiB/s {:7.2} CPU s   {:.3} % beside the payload\n",
                transfer.name,
                transfer.seconds,
                transfer.rate_mib_s(),
                transfer.cpu_s,
                transfer.beside_payload_percent(),
            );
        }
        text +=
            &format!("nodes with accounting / libtorrent   {:.2}\n", self.rate_beside(&self.transfers[0]));
        text +=
            &format!("nodes with accounting / bare engines {:.2}\n", self.rate_beside(&self.transfers[1]));
        text += &format!(
            "nodes send {:+.3} % of the payload more than bare engines\n",
            self.more_than_engines_percent()
        );
        text += &format!("{} payments of {} MiB in all\n", self.payments.count, self.payments.bytes >> 20);
        text += &format!("the demo: {}\n", self.demo.detail);
        let kept = if self.kept() { "kept" } else { "BROKEN" };
        text += &format!(
            "promised: {RATE_PROMISED_MIB_S} MiB/s, overhead below {OVERHEAD_PROMISED_PERCENT} %: {kept}\n"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node_seconds: f64, beside_payload: u64, count: usize, demo: bool) -> Report {
        let transfer = |name, seconds, beside: u64| Transfer {
            name,
            seconds,
            wire_bytes: PAYLOAD_BYTES + beside,
            cpu_s: 1.0,
        };
        Report {
            transfers: [
                transfer("a", 2.0, 5),
                transfer("b", 3.0, 5),
                transfer("c", node_seconds, beside_payload),
            ],
            payments: Payments { count, bytes: 1 << 20 },
            demo: Demo { kept: demo, detail: String::new() },
        }
    }

    #[test]
    fn a_slow_a_costly_and_an_unpaid_transfer_break_the_promise() {
        assert!(report(4.0, 5_000_000, 5, true).kept());
        assert!(!report(6.0, 5_000_000, 5, true).kept());
        assert!(!report(4.0, 11_000_000, 5, true).kept());
        assert!(!report(4.0, 5_000_000, 0, true).kept());
        assert!(!report(4.0, 5_000_000, 5, false).kept());
    }
}
