//! A process that writes to the ledger is killed at random moments: no batch that it reported as persisted may be
//! missing, none may be there by half.

use bytes::Bytes;
use fairshare_crypto::{Rng, SecretKey};
use fairshare_host::store::{Report, ledger_path, open_store};
use fairshare_ledger::{Batch, BlockType, ChainStore, Draft, GENESIS_HASH, HalfBlock, Record, RecordKind};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Set in the process that writes: the folder.
const CHILD: &str = "FAIRSHARE_TEST_STORE_WRITER";
/// Own name of the test below, for running this binary again.
const TEST: &str = "no_acknowledged_batch_is_lost_when_the_writer_is_killed";
const ROUNDS: u64 = 20;
const VALUE_LEN: usize = 512 << 10;
const JOURNAL: RecordKind = RecordKind(1);

fn owner() -> SecretKey {
    SecretKey::generate(&mut Rng::from_seed([3; 32]))
}

#[test]
fn no_acknowledged_batch_is_lost_when_the_writer_is_killed() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return write_for_ever(Path::new(&dir));
    }
    let dir = tempfile::tempdir().expect("temporary folder");
    let mut rng = Rng::from_seed([4; 32]);
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let last = run_and_kill(dir.path(), Duration::from_millis(60 + rng.below(100)));
        acknowledged = acknowledged.max(last);
        let stored = check(dir.path());
        assert!(stored >= acknowledged, "round {round}: {acknowledged} acknowledged, {stored} stored");
    }
    assert!(acknowledged > ROUNDS, "the writers did not get anywhere");
}

/// Lets a child write for a while; returns the last number that it reported.
fn run_and_kill(dir: &Path, patience: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("a running test"))
        .args([TEST, "--exact", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary runs");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let reader = std::thread::spawn(move || {
        let numbers = output.lines().map_while(Result::ok);
        numbers.filter_map(|line| line.strip_prefix("ack ")?.parse().ok()).max().unwrap_or(0)
    });
    std::thread::sleep(patience);
    // SIGKILL: the process gets no chance to do anything.
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    reader.join().expect("no panic")
}

/// The child: one block and one record in each batch, as money does it.
fn write_for_ever(dir: &Path) {
    let key = owner();
    let acknowledge = |report| match report {
        Report::Persisted(tickets) => {
            let mut out = std::io::stdout().lock();
            for ticket in tickets {
                // One write each, so that a kill never cuts a number short.
                out.write_all(format!("ack {ticket}\n").as_bytes()).expect("the parent listens");
            }
            out.flush().expect("the parent listens");
        }
        Report::Failed { reason, .. } => panic!("refused: {reason}"),
    };
    let (store, writer) = open_store(&ledger_path(dir), &key.public(), acknowledge).expect("a sound ledger");
    let newest = store.newest(&key.public()).expect("readable");
    let (mut sequence, mut previous_hash) =
        newest.map_or((0, GENESIS_HASH), |block| (block.sequence, block.hash()));
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while std::time::Instant::now() < end {
        sequence += 1;
        let draft = Draft {
            sequence,
            link_owner: fairshare_ledger::ANY,
            link_sequence: 0,
            previous_hash,
            kind: BlockType::from("test"),
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms: 0,
        };
        let block = Arc::new(HalfBlock::sign(&key, draft));
        previous_hash = block.hash();
        // Long enough for a kill to fall into a commit.
        let mut value = sequence.to_be_bytes().to_vec();
        value.resize(VALUE_LEN, 0);
        let record = Record { kind: JOURNAL, key: b"last".to_vec(), value: Some(value) };
        let batch = Batch {
            blocks: vec![block],
            records: vec![record],
            urgent: sequence % 3 == 0,
            ..Batch::default()
        };
        writer.write(u64::from(sequence), batch);
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// The ledger opens, its chain is whole, and the journal says what the chain says.
fn check(dir: &Path) -> u64 {
    let key = owner().public();
    let (store, _writer) = open_store(&ledger_path(dir), &key, |_| {}).expect("a sound ledger");
    let newest = store.newest(&key).expect("readable").map_or(0, |block| block.sequence);
    assert_eq!(store.lowest_unknown(&key), Ok(newest + 1), "a gap in the chain");
    let journal = store.records(JOURNAL).expect("readable");
    let noted = journal.first().map_or(0, |(_, value)| {
        let number = value.first_chunk().expect("four bytes were written");
        u32::from_be_bytes(*number)
    });
    assert_eq!(noted, newest, "block and record of one batch belong together");
    u64::from(newest)
}
