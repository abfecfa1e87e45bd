//! The built binary in a fresh folder: every bad input ends with a clear error and the right exit code, and changes
//! nothing.

mod support;

use serde_json::Value;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Output;
use support::{Node, SOON, configure, fairshare, free_address, try_command, write_random_file};

fn run(arguments: &[&str], data: &Path) -> Output {
    let mut command = fairshare();
    command.args(arguments).env("FAIRSHARE_DATA", data).current_dir(data.parent().expect("inside a folder"));
    command.output().expect("the program can be started")
}

/// Runs a command that must fail: its error, after checking the exit code.
fn fails(arguments: &[&str], data: &Path, code: i32) -> String {
    let output = run(arguments, data);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(text.starts_with("error: "), "{arguments:?}: {text}");
    text
}

/// Names and sizes of everything below a folder.
fn listing(folder: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let meta = entry.metadata().expect("just listed");
        found.push((entry.path().display().to_string(), if meta.is_dir() { 0 } else { meta.len() }));
        if meta.is_dir() {
            found.extend(listing(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn bad_use_is_told_by_exit_code_two() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    for arguments in [
        &["no-such-command"][..],
        &["get"],
        &["status", "--api", "http://127.0.0.1:1"],
        &["demo", "--minutes", "0"],
        &["run", "--listen", "nowhere"],
    ] {
        assert_eq!(run(arguments, &data).status.code(), Some(2), "{arguments:?}");
    }
    assert!(!data.exists(), "nothing was made");
}

#[test]
fn help_and_version_are_no_errors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for arguments in [&["--help"][..], &["--version"], &["chain", "propose", "--help"]] {
        assert_eq!(run(arguments, &folder.path().join("data")).status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn without_a_node_commands_say_how_to_start_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    for arguments in
        [&["status"][..], &["list"], &["tokens", "balance"], &["chain", "show", "me"], &["peers", "list"]]
    {
        let error = fails(arguments, &data, 1);
        assert!(error.contains("no node runs on") && error.contains("fairshare run --data"), "{error}");
    }
}

#[test]
fn a_corrupt_torrent_is_refused_before_anything_happens() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let content = folder.path().join("film.bin");
    write_random_file(&content, 300_000, 1);
    let torrent = folder.path().join("film.torrent");
    let output = run(&["create", "film.bin", "--out", "film.torrent", "--json"], &data);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
    assert_eq!(made["total_bytes"], "300000");
    assert!(fails(&["create", "film.bin", "--out", "film.torrent"], &data, 1).contains("exists already"));

    let whole = fs::read(&torrent).expect("just made");
    fs::write(&torrent, &whole[..whole.len() / 2]).expect("a file of this test");
    let before = listing(folder.path());
    for arguments in [&["get", "film.torrent"][..], &["seed", "film.torrent", "--from", "."]] {
        assert!(fails(arguments, &data, 2).contains("is no torrent"));
    }
    assert!(fails(&["get", "absent.torrent"], &data, 1).contains("absent.torrent"));
    assert!(fails(&["get", "magnet:?xt=urn:btih:123"], &data, 2).contains("magnet"));
    assert_eq!(listing(folder.path()), before);
}

#[test]
fn files_that_are_not_those_of_the_torrent_are_not_served() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let content = folder.path().join("film.bin");
    write_random_file(&content, 300_000, 1);
    assert!(run(&["create", "film.bin", "--out", "film.torrent"], &data).status.success());
    fs::write(&content, b"something else").expect("a file of this test");
    fails(&["seed", "film.torrent", "--from", "."], &data, 1);
    assert_eq!(fs::read(&content).expect("still there"), b"something else");
}

#[test]
fn a_wrong_key_file_stops_the_node_and_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).expect("a folder of this test");
    fs::write(data.join("identity"), b"not a key").expect("a file of this test");
    let address = free_address();
    let error = fails(&["run", "--listen", &address, "--api", "127.0.0.1:0", "--no-bootstrap"], &data, 1);
    assert!(error.contains("identity") && error.contains("try:"), "{error}");
    assert_eq!(fs::read(data.join("identity")).expect("still there"), b"not a key");
    assert!(!data.join("ledger.sqlite").exists());
}

#[test]
fn a_corrupt_block_stops_the_node_and_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, other) = (folder.path().join("data"), folder.path().join("other"));
    let mut peer = Node::start(&other, &[]);
    let mut node = Node::start(&data, &["--peer", &peer.listen]);
    support::wait_for("the two know each other", SOON, || node.knows(&peer.key).then_some(()));
    let transaction = r#"{"note":"spoil me"}"#;
    node.command(&["chain", "propose", "--to", &peer.key, "--type", "test", "--transaction", transaction]);
    assert!(node.process.stop(SOON) && peer.process.stop(SOON));

    let ledger = data.join("ledger.sqlite");
    let mut bytes = fs::read(&ledger).expect("a node that signed has a ledger");
    let note =
        bytes.windows(8).position(|window| window == b"spoil me").expect("blocks are kept as they are");
    bytes[note] ^= 1;
    fs::write(&ledger, &bytes).expect("a file of this test");
    let arguments = ["run", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--no-bootstrap"];
    let error = fails(&arguments, &data, 1);
    assert!(error.contains("damaged") && error.contains("block") && error.contains("try:"), "{error}");
    assert!(fs::read(&ledger).expect("still there") == bytes, "the damaged ledger is kept for a look");
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let taken = tcp.local_addr().expect("bound above").to_string();
    let error = fails(&["run", "--listen", &taken, "--api", "127.0.0.1:0", "--no-bootstrap"], &data, 1);
    assert!(error.contains(&format!("port {}", tcp.local_addr().expect("bound").port())), "{error}");
    let error = fails(&["run", "--listen", "127.0.0.1:0", "--api", &taken, "--no-bootstrap"], &data, 1);
    assert!(error.contains("in use"), "{error}");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let taken = udp.local_addr().expect("bound above").to_string();
    fails(&["run", "--listen", &taken, "--api", "127.0.0.1:0", "--no-bootstrap"], &data, 1);
    assert!(!data.join("identity").exists(), "a node that never ran has no identity");
}

#[test]
fn a_misspelt_setting_is_named_with_its_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    configure(&data, "[economy]\nfreinds = []\n");
    for arguments in [&["config", "check"][..], &["run", "--api", "127.0.0.1:0"]] {
        let error = fails(arguments, &data, 2);
        assert!(error.contains("line 2") && error.contains("freinds"), "{error}");
    }
    configure(&data, "[economy]\nstranger_bytes = 5\n");
    assert!(run(&["config", "check"], &data).status.success());
    let shown: Value =
        serde_json::from_slice(&run(&["config", "show", "--json"], &data).stdout).expect("one JSON value");
    assert_eq!(shown["economy.stranger_bytes"]["value"], 5);
    assert_eq!(shown["economy.stranger_bytes"]["source"], "file");
    assert_eq!(shown["economy.policy"]["source"], "default");
}

#[test]
fn a_second_node_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = Node::start(&folder.path().join("data"), &[]);
    let error =
        fails(&["run", "--listen", "127.0.0.1:0", "--api", "127.0.0.1:0", "--no-bootstrap"], &node.data, 1);
    assert!(error.contains("in use by another process"), "{error}");
    assert_eq!(node.command(&["status"])["public_key"], node.key);
}

#[test]
fn a_proposal_to_an_unknown_peer_signs_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = Node::start(&folder.path().join("data"), &[]);
    let stranger = format!("{}{}", hex::encode("LibNaCLPK:"), "11".repeat(64));
    let propose = ["chain", "propose", "--to", &stranger, "--type", "test", "--transaction", "{}"];
    let (code, value) = node.try_command(&propose);
    assert_eq!((code, value["error"]["code"].as_str()), (Some(1), Some("unknown-peer")), "{value}");
    for (option, wrong) in [(3, "00"), (7, "[]"), (7, "{")] {
        let mut arguments = propose;
        arguments[option] = wrong;
        assert_eq!(node.try_command(&arguments).0, Some(2), "{arguments:?}");
    }
    let mut payment = propose;
    payment[5] = "tribler_bandwidth";
    assert_eq!(node.try_command(&payment).0, Some(2));
    assert_eq!(node.command(&["chain", "show", "me"]), serde_json::json!([]));
    assert!(node.process.stop(SOON));
}

#[test]
fn a_timeout_ends_a_download_that_nobody_serves() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    write_random_file(&folder.path().join("film.bin"), 300_000, 1);
    assert!(run(&["create", "film.bin", "--out", "film.torrent"], &data).status.success());
    let to = folder.path().join("to");
    let torrent = folder.path().join("film.torrent").display().to_string();
    let (code, value) =
        try_command(&data, &["get", &torrent, "--to", &to.display().to_string(), "--timeout", "1"]);
    assert_eq!((code, value["error"]["code"].as_str()), (Some(1), Some("timeout")), "{value}");
}

/// A command inside a mount namespace of its own, in which `folder` is a disk of one MiB; `None` where the system
/// does not allow that.
fn on_a_small_disk(folder: &Path) -> Option<std::process::Command> {
    let script = "mount -t tmpfs -o size=1m small \"$0\" && exec \"$@\"";
    let command = |options: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(options).args(["sh", "-c", script]).arg(folder);
        command
    };
    let allowed =
        |options: &&[&str]| command(options).arg("true").output().is_ok_and(|output| output.status.success());
    [&["--mount"][..], &["--map-root-user", "--mount"]]
        .into_iter()
        .find(|options| allowed(options))
        .map(command)
}

#[test]
fn a_full_disk_ends_a_download_with_a_clear_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let small = folder.path().join("small");
    fs::create_dir(&small).expect("a folder of this test");
    let Some(mut get) = on_a_small_disk(&small) else {
        support::skip("a_full_disk_ends_a_download_with_a_clear_error", "mounting a small disk needs root");
        return;
    };
    write_random_file(&folder.path().join("film.bin"), 3 << 20, 5);
    let data = folder.path().join("data");
    assert!(run(&["create", "film.bin", "--out", "film.torrent"], &data).status.success());
    let node = Node::start(&data, &[]);
    let torrent = folder.path().join("film.torrent").display().to_string();
    node.command(&["seed", &torrent, "--from", &folder.path().display().to_string()]);
    get.arg(support::binary())
        .args(["get", &torrent, "--peer", &node.listen, "--timeout", "60", "--to"])
        .arg(&small);
    let output =
        get.arg("--data").arg(folder.path().join("other")).output().expect("the program can be started");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no space left"), "{error}");
    assert_eq!(node.command(&["status"])["public_key"], node.key);
}
