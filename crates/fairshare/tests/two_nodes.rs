//! Two nodes as processes: a torrent is made, served, fetched and paid, and both books agree.

mod support;

use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};
use support::{Node, SOON, fairshare, same_bytes, wait_for, write_random_file};

const FILE_BYTES: u64 = 24 << 20;

fn bytes(value: &Value, name: &str) -> i128 {
    value[name].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[test]
fn a_file_moves_is_paid_and_both_books_agree() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("source");
    fs::create_dir(&source).expect("a folder of this test");
    write_random_file(&source.join("film.bin"), FILE_BYTES, 7);
    let torrent = folder.path().join("film.torrent");
    let made = fairshare().arg("create").arg(source.join("film.bin")).arg("--out").arg(&torrent).status();
    assert!(made.expect("the program can be started").success());

    let mut anna = Node::start(&folder.path().join("anna"), &[]);
    let mut boris = Node::start(&folder.path().join("boris"), &["--peer", &anna.listen]);
    let torrent = torrent.display().to_string();
    let seeded = anna.command(&["seed", &torrent, "--from", &source.display().to_string()]);
    assert_eq!(seeded["state"], "seeding", "{seeded}");
    let to = folder.path().join("to");
    let done = boris.command(&[
        "get",
        &torrent,
        "--to",
        &to.display().to_string(),
        "--peer",
        &anna.listen,
        "--timeout",
        "60",
    ]);
    assert_eq!(
        (done["complete"].as_bool(), bytes(&done, "held_bytes")),
        (Some(true), FILE_BYTES.into()),
        "{done}"
    );
    assert!(same_bytes(&source.join("film.bin"), &to.join("film.bin")));

    // What is owed is paid when the session ends: pausing settles it.
    boris.command(&["pause", done["infohash"].as_str().expect("a hash")]);
    wait_for("both books to agree", SOON, || {
        let (given, taken) = (anna.command(&["tokens", "balance"]), boris.command(&["tokens", "balance"]));
        let sum = bytes(&given, "balance_bytes") + bytes(&taken, "balance_bytes");
        (sum == 0 && bytes(&given, "given_bytes") > i128::from(FILE_BYTES - (1 << 20))).then_some(())
    });
    check_chains(&anna, &boris);
    check_end(&mut anna);
    check_end(&mut boris);
}

/// Every payment has both halves at both ends, and each chain is sound.
fn check_chains(anna: &Node, boris: &Node) {
    // A payment counts for the payer before the answer to it is here, so equal books may still lack the last one.
    let payments = wait_for("an answer to every payment", SOON, || {
        let payments = boris.command(&["tokens", "history"]).as_array().expect("a list").clone();
        payments.iter().all(|payment| payment["both_signed"] == true).then_some(payments)
    });
    assert!(!payments.is_empty());
    assert!(payments.iter().all(|payment| payment["peer"] == anna.key.as_str()));
    assert_eq!(history_by_pages(boris), payments, "page by page the same as at once");
    for (here, there) in [(anna, boris), (boris, anna)] {
        let own = here.command(&["chain", "show", "me"]);
        assert_eq!(own, there.command(&["chain", "show", &here.key]), "both hold the same blocks");
        let report = there.command(&["chain", "verify", &here.key]);
        assert_eq!(report["ok"], true, "{report}");
        assert_eq!(here.command(&["chain", "proofs"]), serde_json::json!([]));
    }
}

/// The payments in pages of one, each asked for by the last number of the page before.
fn history_by_pages(node: &Node) -> Vec<Value> {
    let read = |name: &str| fs::read_to_string(node.data.join(name)).expect("a running node has it");
    let api: Value = serde_json::from_str(&read("api.json")).expect("JSON");
    let address = api["api"].as_str().expect("an address").to_owned();
    let bearer = format!("Bearer {}", read("api.token").trim());
    let mut payments: Vec<Value> = Vec::new();
    loop {
        let after =
            payments.last().map_or_else(String::new, |last| format!("&after={}", last["sequence_number"]));
        let url = format!("http://{address}/api/v1/tokens/history?limit=1{after}");
        let answer = ureq::get(&url).header("authorization", &bearer).call().expect("the node answers");
        let text = answer.into_body().read_to_string().expect("text");
        let page: Vec<Value> = serde_json::from_str(&text).expect("a list");
        if page.is_empty() {
            return payments;
        }
        assert!(page.len() == 1 && !payments.contains(&page[0]), "{page:?} after {payments:?}");
        payments.extend(page);
    }
}

/// SIGTERM ends a node well and within its ten seconds.
fn check_end(node: &mut Node) {
    let start = Instant::now();
    assert!(node.process.stop(SOON), "exit code 0");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_node_that_is_killed_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = folder.path().join("source");
    fs::create_dir(&source).expect("a folder of this test");
    write_random_file(&source.join("film.bin"), FILE_BYTES, 8);
    let torrent = folder.path().join("film.torrent");
    let made = fairshare().arg("create").arg(source.join("film.bin")).arg("--out").arg(&torrent).status();
    assert!(made.expect("the program can be started").success());
    let torrent = torrent.display().to_string();

    let anna = Node::start(&folder.path().join("anna"), &[]);
    anna.command(&["seed", &torrent, "--from", &source.display().to_string()]);
    let (data, to) = (folder.path().join("boris"), folder.path().join("to"));
    let mut boris = Node::start(&data, &["--peer", &anna.listen]);
    boris.command(&["add", &torrent, "--to", &to.display().to_string(), "--peer", &anna.listen]);
    boris.process.kill();
    let boris = Node::start(&data, &["--peer", &anna.listen]);
    wait_for("the download to end", SOON, || {
        let list = boris.command(&["list"]);
        (list[0]["complete"] == true).then_some(())
    });
    assert!(same_bytes(&source.join("film.bin"), &to.join("film.bin")));
}
