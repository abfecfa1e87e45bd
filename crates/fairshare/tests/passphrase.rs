//! The built binary with an identity under a passphrase: it stays the same identity, and only the passphrase opens it.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use support::{Node, Process, SOON, fairshare};

const RUN: [&str; 7] = ["run", "--no-bootstrap", "--api", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--data"];

/// Runs a node whose passphrase comes from standard input until it ends by itself.
fn attempt(data: &Path, descriptor: &str, input: &str) -> Output {
    let mut command = fairshare();
    command.args(RUN).arg(data).args(["--json", "--passphrase-fd", descriptor]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program can be started");
    // The program may end before it reads.
    let _ = child.stdin.take().expect("piped above").write_all(input.as_bytes());
    child.wait_with_output().expect("a child of this test")
}

/// Runs a node whose passphrase is a file on descriptor 3, stops it, and returns its key.
fn key_of_run(data: &Path, passphrase: &Path) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", "passphrase=$1; shift; exec \"$@\" 3<\"$passphrase\"", "sh"]).arg(passphrase);
    command.arg(support::binary()).args(RUN).arg(data).args(["--json", "--passphrase-fd", "3"]);
    let mut process = Process::start(&mut command);
    let ready = process.event("ready", SOON);
    assert!(process.stop(Duration::from_secs(20)), "an orderly end");
    ready["public_key"].as_str().expect("a key").to_owned()
}

fn failure(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

//= spec/interfaces.md#41-contract-for-scripts-stable-from-the-first-release-tests-rely-on-it
#[test]
fn an_identity_under_a_passphrase_opens_with_it_only() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, file) = (folder.path().join("data"), folder.path().join("passphrase"));
    fs::write(&file, "correct horse\n").expect("writable");
    let key = key_of_run(&data, &file);
    let identity = data.join("identity");
    let made = fs::read(&identity).expect("made by the first run");
    assert!(made.starts_with(b"age-encryption.org/v1\n-> scrypt "), "a standard age file with a passphrase");
    assert_eq!(fs::metadata(&identity).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(key_of_run(&data, &file), key);

    let error = failure(&attempt(&data, "0", "wrong horse\n"), 1);
    assert!(
        error.contains("the passphrase does not open") && error.contains("was encrypted with"),
        "{error}"
    );
    let output = fairshare().args(RUN).arg(&data).output().expect("the program can be started");
    let error = failure(&output, 1);
    assert!(error.contains("none was given") && error.contains("--passphrase-fd"), "{error}");
    assert_eq!(fs::read(&identity).expect("still there"), made, "a refused start changes nothing");
}

#[test]
fn a_plain_identity_is_encrypted_by_the_first_run_with_a_passphrase() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, file) = (folder.path().join("data"), folder.path().join("passphrase"));
    fs::write(&file, "correct horse").expect("writable");
    let mut node = Node::start(&data, &[]);
    assert!(node.process.stop(Duration::from_secs(20)), "an orderly end");
    assert_eq!(fs::metadata(data.join("identity")).expect("there").len(), 74);
    assert_eq!(key_of_run(&data, &file), node.key);
    assert!(fs::read(data.join("identity")).expect("there").starts_with(b"age-encryption.org/v1\n"));
}

#[test]
fn a_passphrase_that_cannot_be_used_is_bad_use_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    for (descriptor, input, reason) in [
        ("0", "", "empty"),
        ("0", "\nsecond line", "empty"),
        ("0", &*"x".repeat(1_025), "longer"),
        ("999", "right", "descriptor 999"),
        ("three", "right", "--passphrase-fd"),
    ] {
        let error = failure(&attempt(&data, descriptor, input), 2);
        assert!(error.contains(reason), "{error}");
        assert!(!data.exists(), "nothing was made");
    }
}
