//! A full disk under the ledger: a clear reason, nothing of the batch on disk, and work goes on when there is room.

mod small_disk;

use bytes::Bytes;
use fairshare_crypto::{Rng, SecretKey};
use fairshare_host::store::{Report, ledger_path, open_store};
use fairshare_ledger::{
    ANY, Batch, BlockHash, BlockType, ChainStore, Draft, GENESIS_HASH, HalfBlock, Record, RecordKind,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_full_disk_refuses_the_batch_in_words_and_whole() {
    if let Some(dir) = small_disk::enter("a_full_disk_refuses_the_batch_in_words_and_whole", "1m") {
        on_a_small_disk(&dir);
    }
}

fn batch(key: &SecretKey, sequence: u32, previous_hash: BlockHash) -> Batch {
    let draft = Draft {
        sequence,
        link_owner: ANY,
        link_sequence: 0,
        previous_hash,
        kind: BlockType::from("test"),
        transaction: Bytes::from(vec![sequence as u8; 20_000]),
        timestamp_ms: 0,
    };
    let record =
        Record { kind: RecordKind(1), key: b"last".to_vec(), value: Some(sequence.to_be_bytes().to_vec()) };
    let block = Arc::new(HalfBlock::sign(key, draft));
    Batch { blocks: vec![block], records: vec![record], urgent: true, ..Batch::default() }
}

fn on_a_small_disk(dir: &Path) {
    let key = SecretKey::generate(&mut Rng::from_seed([6; 32]));
    let me = key.public();
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 400_000]).expect("room");
    let (sender, reports) = channel();
    let report = move |report| sender.send(report).expect("the test listens");
    let (store, mut writer) = open_store(&ledger_path(dir), &me, report).expect("room");
    let (mut sequence, mut previous) = (0, GENESIS_HASH);
    let refused = loop {
        let next = batch(&key, sequence + 1, previous);
        writer.write(u64::from(sequence + 1), next.clone());
        match reports.recv_timeout(PATIENCE).expect("a report") {
            Report::Persisted(_) => (sequence, previous) = (sequence + 1, next.blocks[0].hash()),
            Report::Failed { ticket, reason } => {
                assert_eq!(ticket, u64::from(sequence + 1));
                assert!(reason.starts_with("no space left on the disk that holds "), "{reason}");
                break next;
            }
        }
        assert!(sequence < 1_000, "the disk never fills");
    };
    assert!(sequence > 0);
    let holds = |store: &fairshare_host::SqliteStore, last: u32| {
        assert_eq!(store.newest(&me).expect("readable").map(|block| block.sequence), Some(last));
        let noted = store.records(RecordKind(1)).expect("readable");
        assert_eq!(noted, [(b"last".to_vec(), last.to_be_bytes().to_vec())], "nothing by half");
    };
    holds(&store, sequence);
    std::fs::remove_file(&ballast).expect("ours");
    let failed = u64::from(sequence + 1);
    // Made by somebody who counts on what failed: it must not be there without that.
    let next = batch(&key, sequence + 2, refused.blocks[0].hash());
    writer.write(failed + 1, next.clone());
    let report = reports.recv_timeout(PATIENCE).expect("a report");
    assert!(matches!(report, Report::Failed { ticket, .. } if ticket == failed + 1), "{report:?}");
    writer.failure_seen(failed);
    writer.write(failed + 2, refused.clone());
    let report = reports.recv_timeout(PATIENCE).expect("a report");
    assert!(matches!(report, Report::Failed { ticket, .. } if ticket == failed + 2), "{report:?}");
    holds(&store, sequence);
    writer.failure_seen(failed + 2);
    writer.write(failed + 3, refused);
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(Report::Persisted(vec![failed + 3])));
    holds(&store, sequence + 1);
    writer.abandon();
    drop(store);
    let (store, _writer) = open_store(&ledger_path(dir), &me, |_| {}).expect("sound");
    holds(&store, sequence + 1);
}
