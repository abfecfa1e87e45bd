//! Starting and ending: what must be refused is refused in words and leaves everything as it was; what ended leaves
//! ports and files free.

mod world;

use fairshare_host::store::{LEDGER_FILE, ledger_path};
use fairshare_host::{StartError, identity_path, load_identity};
use fairshare_node::Command;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use world::{ANYWHERE, config, start};

/// Every file of a folder with its content.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("readable"));
    let files = entries.filter(|entry| entry.path().is_file());
    files
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).expect("readable"))
        })
        .collect()
}

fn refused(result: Result<fairshare_host::NodeHandle, StartError>) -> StartError {
    match result {
        Ok(_) => panic!("it must not start"),
        Err(error) => {
            assert!(!error.hint().is_empty());
            error
        }
    }
}

#[tokio::test]
async fn a_node_keeps_its_identity_and_frees_its_port_however_it_ended() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let first = start(dir.path(), ANYWHERE).await.expect("a free port");
    let (address, key) = (first.address(), first.public_key());
    assert_ne!(address.port(), 0);
    first.command(Command::Status).await.expect("running");
    first.kill().await;
    assert!(first.command(Command::Status).await.is_err(), "a killed node answers nothing");
    let second = start(dir.path(), address).await.expect("the port is free again");
    assert_eq!((second.address(), second.public_key()), (address, key));
    let begun = Instant::now();
    second.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    second.stopped().await;
    let third = start(dir.path(), address).await.expect("the port is free again");
    assert_eq!(third.public_key(), key);
    let kept = load_identity(dir.path(), None).expect("readable").expect("made at the first start");
    assert_eq!(kept.public(), key);
}

#[tokio::test]
async fn listeners_hear_the_end_of_the_node() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let node = start(dir.path(), ANYWHERE).await.expect("a free port");
    let mut events = node.events();
    node.kill().await;
    while events.next().await.is_some() {}
    assert!(node.events().next().await.is_none());
}

#[tokio::test]
async fn a_data_folder_in_use_is_refused_with_the_holder() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let node = start(dir.path(), ANYWHERE).await.expect("a free port");
    let error = refused(start(dir.path(), ANYWHERE).await);
    assert!(matches!(error, StartError::Locked { pid, .. } if pid == Some(std::process::id())), "{error}");
    node.command(Command::Status).await.expect("the first still runs");
}

#[tokio::test]
async fn a_port_in_use_is_refused_and_no_identity_is_made() {
    let dirs =
        [tempfile::tempdir().expect("temporary folder"), tempfile::tempdir().expect("temporary folder")];
    let node = start(dirs[0].path(), ANYWHERE).await.expect("a free port");
    let error = refused(start(dirs[1].path(), node.address()).await);
    assert!(matches!(error, StartError::PortInUse { .. }), "{error}");
    assert_eq!(contents(dirs[1].path()).keys().collect::<Vec<_>>(), ["lock"]);
}

#[tokio::test]
async fn a_wrong_key_file_is_refused_and_kept() {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(identity_path(dir.path()), b"not a key").expect("writable");
    let error = refused(start(dir.path(), ANYWHERE).await);
    assert!(matches!(error, StartError::WrongKeyFile { .. }), "{error}");
    let left = contents(dir.path());
    assert_eq!(left["identity"], b"not a key");
    assert!(!left.contains_key(LEDGER_FILE));
}

#[tokio::test]
async fn an_identity_without_its_ledger_needs_a_persons_word() {
    let dir = tempfile::tempdir().expect("temporary folder");
    start(dir.path(), ANYWHERE).await.expect("a free port").shutdown().await;
    std::fs::remove_file(ledger_path(dir.path())).expect("ours");
    let error = refused(start(dir.path(), ANYWHERE).await);
    assert!(matches!(error, StartError::LedgerMissing { .. }), "{error}");
    let mut forced = config(dir.path(), ANYWHERE, &[]);
    forced.fresh_ledger = true;
    fairshare_host::NodeHandle::start(forced).await.expect("allowed");
}

#[tokio::test]
async fn the_ledger_of_another_identity_is_refused_and_kept() {
    let dirs =
        [tempfile::tempdir().expect("temporary folder"), tempfile::tempdir().expect("temporary folder")];
    for dir in &dirs {
        start(dir.path(), ANYWHERE).await.expect("a free port").shutdown().await;
    }
    std::fs::copy(ledger_path(dirs[0].path()), ledger_path(dirs[1].path())).expect("writable");
    let before = contents(dirs[1].path());
    let error = refused(start(dirs[1].path(), ANYWHERE).await);
    assert!(matches!(error, StartError::Store { .. }), "{error}");
    assert!(error.to_string().contains("another identity"), "{error}");
    assert_eq!(contents(dirs[1].path())[LEDGER_FILE], before[LEDGER_FILE]);
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_made_is_refused() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let file = dir.path().join("file");
    std::fs::write(&file, b"").expect("writable");
    let error = refused(start(&file.join("data"), ANYWHERE).await);
    assert!(matches!(error, StartError::DataDir { .. }), "{error}");
}

#[tokio::test]
async fn a_panic_on_the_nodes_thread_stops_the_node_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let node = start(dir.path(), ANYWHERE).await.expect("a free port");
    let asked = node.query::<()>(|_| panic!("an invariant is broken (this test breaks it)")).await;
    assert!(asked.is_err());
    node.stopped().await;
    assert!(node.command(Command::Status).await.is_err());
    node.kill().await;
    start(dir.path(), node.address()).await.expect("port and folder are free");
}
