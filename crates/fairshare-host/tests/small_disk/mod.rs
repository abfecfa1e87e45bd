//! A test that needs a disk that is full soon: it runs once more in a process with its own mounts, on a small tmpfs.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Set in the inner process: the folder of the small disk.
const SMALL_DISK: &str = "FAIRSHARE_TEST_SMALL_DISK";
const SCRIPT: &str =
    "mount -t tmpfs -o size=\"$1\" none \"$2\" || exit 77; exec \"$3\" \"$4\" --exact --nocapture";

/// The folder of the small disk, inside. Outside: runs `test`, the full name of the caller, inside, and gives `None`.
pub(crate) fn enter(test: &str, size: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os(SMALL_DISK) {
        return Some(PathBuf::from(dir));
    }
    let dir = tempfile::tempdir().expect("temporary folder");
    let status = Command::new("unshare")
        .args(["-m", "sh", "-c", SCRIPT, "sh", size])
        .args([dir.path().as_os_str(), std::env::current_exe().expect("a running test").as_os_str()])
        .arg(test)
        .env(SMALL_DISK, dir.path())
        // The counts of the inner run are not those of this one; its panics come by the other stream.
        .stdout(Stdio::null())
        .status();
    match status.map(|status| status.code()) {
        Ok(Some(0)) => {}
        Ok(Some(101)) => panic!("{test} failed inside the small disk"),
        other => skip(test, &format!("mounting a small disk needs root ({other:?})")),
    }
    None
}

/// Says loudly that a test skips itself, or fails where nothing may be skipped.
fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("FAIRSHARE_REQUIRE_ALL").is_none(), "{test}: {reason}");
    // Straight to the stream, past the capture of the harness, so that it is seen and counted.
    std::io::stdout().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes()).expect("somebody listens");
}
