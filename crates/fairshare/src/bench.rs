//! `fairshare bt-bench`: the engine against others. The node that runs is the product's, without overlay peers and with
//! everybody served, so that only the engine is measured.
//= spec/interfaces.md#41-contract-for-scripts-stable-from-the-first-release-tests-rely-on-it

use crate::cli::{BenchArgs, BtBench, Way};
use crate::config::Layered;
use crate::failure::{Failure, Outcome};
use crate::folder::write_whole;
use crate::process::Interrupt;
use crate::standing::{Setup, Standing};
use crate::wanted::Wanted;
use std::path::Path;
use std::time::Duration;

/// Pause between two looks: what it adds to a measured time is small against the time of a transfer.
const LOOK: Duration = Duration::from_millis(5);

pub(crate) fn run(command: &BtBench) -> Outcome {
    let (args, seed) = match command {
        BtBench::Seed(args) => (args, true),
        BtBench::Down(args) => (args, false),
    };
    let wanted = Wanted::read(&args.torrent.to_string_lossy())?;
    let request = wanted.request(Some(&args.dir), seed, &[], Way::default())?;
    let interrupt = Interrupt::listen()?;
    let standing = start(args)?;
    standing.watch(&interrupt);
    let end = standing
        .client()
        .post("/api/v1/downloads", &request)
        .and_then(|added| complete(&standing, added["infohash"].as_str().unwrap_or_default(), &interrupt))
        .and_then(|complete| if complete { write_whole(&args.ready, b"ready\n", 0o644) } else { Ok(()) });
    if let Err(failure) = end {
        standing.stop();
        return Err(failure);
    }
    interrupt.wait();
    standing.end()
}

fn start(args: &BenchArgs) -> Outcome<Standing> {
    let flags = [
        ("listen", args.listen.to_string()),
        ("api", "127.0.0.1:0".to_owned()),
        ("bootstrap", String::new()),
        ("economy.policy", "none".to_owned()),
        ("swarm.utp_only", args.utp_only.to_string()),
    ];
    let layered = Layered::load(Path::new("/dev/null"), |_| None, &flags)?;
    Standing::start(Setup { data: None, layered, peers: Vec::new(), passphrase: None })
}

/// Waits until every piece is held and written; `false` if somebody asked us to end before.
fn complete(standing: &Standing, hash: &str, interrupt: &Interrupt) -> Outcome<bool> {
    let (client, path) = (standing.client(), format!("/api/v1/downloads/{hash}"));
    while !interrupt.came() {
        let download = client.get(&path)?;
        if download["complete"] == true {
            return Ok(true);
        }
        if download["state"] == "failed" {
            return Err(Failure::failed(
                "download",
                download["error"].as_str().unwrap_or_default().to_owned(),
            ));
        }
        std::thread::sleep(LOOK);
    }
    Ok(false)
}
