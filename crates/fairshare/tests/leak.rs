//! What a provider of each host can see, from captures of every wire of an internet that the test makes.

mod support;

use support::capture::Traces;
use support::netns::Internet;
use support::{Node, SOON, fairshare, same_bytes, wait_for, write_random_file};

/// Size of a file that goes over several wires, each captured.
const FILE_BYTES: u64 = 2 << 20;

/// The measure that all other tests of this file rely on: a transfer in clear is seen on the wires of its two ends, by its
/// addresses and by its bytes, and a third wire shows nothing of it.
#[test]
fn a_transfer_in_clear_is_seen_on_its_own_wires_and_on_no_other() {
    let Some(mut internet) = Internet::new("leak") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [seeder, getter, stranger] = ["seeder", "getter", "stranger"].map(|name| internet.host(name));
    let source = folder.path().join("source");
    std::fs::create_dir(&source).expect("a folder of this test");
    let film = source.join("film.bin");
    write_random_file(&film, FILE_BYTES, 1);
    let torrent = folder.path().join("film.torrent");
    let made = fairshare().arg("create").arg(&film).arg("--out").arg(&torrent).output();
    assert!(made.expect("the program can be started").status.success());

    let captures = [&seeder, &getter, &stranger].map(|host| host.capture(folder.path()));
    let giving = Node::start_on(&seeder, &folder.path().join("seeder"), &[]);
    let getting = Node::start_on(&getter, &folder.path().join("getter"), &["--peer", &giving.listen]);
    let idle = Node::start_on(&stranger, &folder.path().join("stranger"), &[]);
    wait_for("the two to meet", SOON, || getting.knows(&giving.key).then_some(()));
    assert!(!idle.knows(&giving.key));
    let (torrent, to) = (torrent.display().to_string(), folder.path().join("to"));
    giving.command(&["seed", &torrent, "--from", &source.display().to_string()]);
    let to_text = to.display().to_string();
    let got =
        getting.command(&["get", &torrent, "--to", &to_text, "--peer", &giving.listen, "--timeout", "60"]);
    assert!(same_bytes(&film, &to.join("film.bin")));

    let traces = Traces::of_torrent(got["infohash"].as_str().expect("a hash"), &film);
    let [at_seeder, at_getter, at_stranger] = captures.map(|capture| capture.finish());
    for (wire, other) in [(&at_seeder, &getter), (&at_getter, &seeder)] {
        assert!(wire.touches(&other.ip));
        assert!(wire.frames_with(&traces) as u64 > FILE_BYTES / 65536, "the bytes of the file are seen");
        assert!(!wire.touches(&stranger.ip));
    }
    assert!(!at_stranger.touches(&seeder.ip) && !at_stranger.touches(&getter.ip));
    assert_eq!(at_stranger.frames_with(&traces), 0);
}
