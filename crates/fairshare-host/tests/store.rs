//! The store on disk must answer every question like the store in memory, survive being opened again, and refuse
//! what it cannot work with.

use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_host::store::{OpenError, Report, SqliteStore, StoreWriter, ledger_path, open_store};
use fairshare_ledger::{
    ANY, Batch, BlockHash, BlockType, ChainStore, Draft, ForkKind, ForkProof, GENESIS_HASH, HalfBlock,
    MemoryStore, Record, RecordKind,
};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const KINDS: [&str; 3] = ["tribler_bandwidth", "test", ""];

fn keys() -> Vec<SecretKey> {
    let mut rng = Rng::from_seed([9; 32]);
    (0..4).map(|_| SecretKey::generate(&mut rng)).collect()
}

/// A block with every field that the store looks at chosen freely; chains need not hang together for that.
fn block(
    keys: &[SecretKey],
    owner: usize,
    sequence: u32,
    link: usize,
    link_sequence: u32,
    salt: u8,
) -> Arc<HalfBlock> {
    let draft = Draft {
        sequence,
        link_owner: keys.get(link).map_or(ANY, SecretKey::public),
        link_sequence,
        previous_hash: GENESIS_HASH,
        kind: BlockType::from(KINDS[usize::from(salt) % KINDS.len()]),
        transaction: Bytes::copy_from_slice(&[salt]),
        timestamp_ms: u64::from(salt),
    };
    Arc::new(HalfBlock::sign(&keys[owner], draft))
}

fn open(dir: &Path, owner: &SecretKey) -> (SqliteStore, StoreWriter, Receiver<Report>) {
    let (sender, reports) = channel();
    let report = move |report| sender.send(report).expect("the test listens");
    let (store, writer) = open_store(&ledger_path(dir), &owner.public(), report).expect("a usable folder");
    (store, writer, reports)
}

/// Writes batches and waits until all are on disk.
fn write(writer: &StoreWriter, reports: &Receiver<Report>, batches: &[Batch]) {
    for (ticket, batch) in batches.iter().enumerate() {
        writer.write(ticket as u64, batch.clone());
    }
    let mut done = Vec::new();
    while done.len() < batches.len() {
        match reports.recv_timeout(Duration::from_secs(20)).expect("a report") {
            Report::Persisted(tickets) => done.extend(tickets),
            Report::Failed { reason, .. } => panic!("refused: {reason}"),
        }
    }
    assert_eq!(done, (0..batches.len() as u64).collect::<Vec<_>>(), "reports come in order");
}

#[derive(Debug)]
struct Chosen {
    blocks: Vec<(usize, u32, usize, u32, u8)>,
    records: Vec<(u8, u8, Option<u8>)>,
    proof: Option<(usize, bool)>,
}

fn batch() -> impl Strategy<Value = Chosen> {
    let block = (0usize..4, 1u32..7, 0usize..5, 0u32..5, any::<u8>());
    let record = (0u8..2, 0u8..4, any::<Option<u8>>());
    let proof = prop::option::of((0usize..4, any::<bool>()));
    (prop::collection::vec(block, 0..6), prop::collection::vec(record, 0..4), proof)
        .prop_map(|(blocks, records, proof)| Chosen { blocks, records, proof })
}

fn build(keys: &[SecretKey], chosen: &Chosen) -> Batch {
    let blocks: Vec<_> = chosen
        .blocks
        .iter()
        // Nobody links to themselves.
        .filter(|(owner, _, link, ..)| owner != link)
        .map(|(owner, sequence, link, link_sequence, salt)| {
            block(keys, *owner, *sequence, *link, *link_sequence, *salt)
        })
        .collect();
    let records = chosen.records.iter().map(|(kind, key, value)| Record {
        kind: RecordKind(*kind),
        key: vec![*key],
        value: value.map(|value| vec![value]),
    });
    let proofs = chosen.proof.iter().map(|(owner, countersign)| proof(keys, *owner, *countersign)).collect();
    Batch { conflicts: blocks.clone(), blocks, proofs, records: records.collect(), urgent: true }
}

fn proof(keys: &[SecretKey], owner: usize, countersign: bool) -> ForkProof {
    let link = (owner + 1) % keys.len();
    let (kind, second) = if countersign {
        (ForkKind::DoubleCountersign, block(keys, owner, 2, link, 9, 2))
    } else {
        (ForkKind::DoubleSign, block(keys, owner, 1, link, 9, 2))
    };
    ForkProof::new(kind, block(keys, owner, 1, link, 9, 1), second).expect("they contradict each other")
}

/// Asks both stores everything.
fn compare(disk: &SqliteStore, memory: &MemoryStore, keys: &[SecretKey]) {
    assert_eq!(disk.block_count(), memory.block_count());
    assert_eq!(disk.proofs(), memory.proofs());
    for limit in [0, 1, 3, usize::MAX] {
        assert_eq!(disk.recent(limit), memory.recent(limit));
    }
    for kind in 0..3 {
        assert_eq!(disk.records(RecordKind(kind)), memory.records(RecordKind(kind)));
    }
    let stranger = SecretKey::generate(&mut Rng::from_seed([1; 32]));
    let owners = keys.iter().chain([&stranger]).map(SecretKey::public).chain([ANY]);
    owners.for_each(|owner| compare_chain(disk, memory, &owner));
    assert_eq!(disk.by_hash(&BlockHash([7; 32])), Ok(None));
}

fn compare_chain(disk: &SqliteStore, memory: &MemoryStore, owner: &PublicKey) {
    assert_eq!(disk.newest(owner), memory.newest(owner));
    assert_eq!(disk.lowest_unknown(owner), memory.lowest_unknown(owner));
    for sequence in [0, 1, 2, 3, 4, 5, 6, 7, u32::MAX] {
        let found = disk.get(owner, sequence);
        assert_eq!(found, memory.get(owner, sequence));
        assert_eq!(disk.before(owner, sequence), memory.before(owner, sequence));
        assert_eq!(disk.after(owner, sequence), memory.after(owner, sequence));
        assert_eq!(disk.range(owner, 1, sequence, 3), memory.range(owner, 1, sequence, 3));
        assert_eq!(disk.range(owner, sequence, 4, usize::MAX), memory.range(owner, sequence, 4, usize::MAX));
        if sequence > 0 {
            assert_eq!(disk.links_to(owner, sequence), memory.links_to(owner, sequence));
        }
        for kind in KINDS.into_iter().chain(["never stored"]).map(BlockType::from) {
            assert_eq!(
                disk.newest_of_kind(owner, &kind, Some(sequence)),
                memory.newest_of_kind(owner, &kind, Some(sequence))
            );
            assert_eq!(
                disk.next_of_kind(owner, &kind, sequence),
                memory.next_of_kind(owner, &kind, sequence)
            );
            assert_eq!(disk.newest_of_kind(owner, &kind, None), memory.newest_of_kind(owner, &kind, None));
        }
        if let Ok(Some(block)) = found {
            assert_eq!(disk.by_hash(&block.hash()), Ok(Some(block.clone())));
            assert_eq!(disk.linked(&block), memory.linked(&block));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_disk_answers_like_memory_before_and_after_a_restart(
        chosen in prop::collection::vec(batch(), 1..8),
    ) {
        let keys = keys();
        // The owner of the file has no blocks here: those of the others need not hang together.
        let owner = SecretKey::generate(&mut Rng::from_seed([8; 32]));
        let dir = tempfile::tempdir().expect("temporary folder");
        let batches: Vec<Batch> = chosen.iter().map(|chosen| build(&keys, chosen)).collect();
        let (store, writer, reports) = open(dir.path(), &owner);
        let mut memory = MemoryStore::new();
        for half in batches.chunks(batches.len().div_ceil(2)) {
            write(&writer, &reports, half);
            half.iter().for_each(|batch| memory.apply(batch));
            compare(&store, &memory, &keys);
        }
        writer.finish();
        drop(store);
        let (store, _writer, _reports) = open(dir.path(), &owner);
        compare(&store, &memory, &keys);
    }
}

fn chain(key: &SecretKey, to: &PublicKey, length: u32) -> Vec<Arc<HalfBlock>> {
    let mut previous_hash = GENESIS_HASH;
    let next = |sequence| {
        let draft = Draft {
            sequence,
            link_owner: *to,
            link_sequence: 0,
            previous_hash,
            kind: BlockType::BANDWIDTH,
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms: 5,
        };
        let block = HalfBlock::sign(key, draft);
        previous_hash = block.hash();
        Arc::new(block)
    };
    (1..=length).map(next).collect()
}

fn one(block: &Arc<HalfBlock>, urgent: bool) -> Batch {
    Batch { blocks: vec![block.clone()], urgent, ..Batch::default() }
}

/// What two batches that can wait and an urgent one were reported as, and what a lone one had to wait.
fn company() -> (Report, Duration) {
    let keys = keys();
    let dir = tempfile::tempdir().expect("temporary folder");
    let (_store, writer, reports) = open(dir.path(), &keys[0]);
    let blocks = chain(&keys[1], &keys[0].public(), 4);
    let next = || reports.recv_timeout(Duration::from_secs(20)).expect("a report");
    writer.write(1, one(&blocks[0], false));
    writer.write(2, one(&blocks[1], false));
    std::thread::sleep(Duration::from_millis(100));
    writer.write(3, one(&blocks[2], true));
    let together = next();
    if together != Report::Persisted(vec![1, 2, 3]) {
        next();
    }
    let start = Instant::now();
    writer.write(4, one(&blocks[3], false));
    assert_eq!(next(), Report::Persisted(vec![4]));
    (together, start.elapsed())
}

#[test]
fn batches_wait_for_company_until_an_urgent_one_comes() {
    // On a busy machine the second that the first two may wait can pass before the third is handed in.
    let tries: Vec<_> = (0..5).map(|_| company()).collect();
    assert!(tries.iter().any(|(together, _)| *together == Report::Persisted(vec![1, 2, 3])), "{tries:?}");
    assert!(tries.iter().all(|(_, waited)| *waited >= Duration::from_millis(900)), "{tries:?}");
    assert!(tries.iter().any(|(_, waited)| *waited < Duration::from_secs(2)), "{tries:?}");
}

#[test]
fn what_was_not_committed_is_gone_after_a_crash_and_the_rest_is_whole() {
    let keys = keys();
    let dir = tempfile::tempdir().expect("temporary folder");
    let (store, writer, reports) = open(dir.path(), &keys[0]);
    let blocks = chain(&keys[0], &keys[1].public(), 3);
    writer.write(1, one(&blocks[0], true));
    assert_eq!(reports.recv_timeout(Duration::from_secs(5)), Ok(Report::Persisted(vec![1])));
    writer.write(2, one(&blocks[1], false));
    writer.abandon();
    drop(store);
    let (store, writer, reports) = open(dir.path(), &keys[0]);
    assert_eq!(store.newest(&keys[0].public()), Ok(Some(blocks[0].clone())));
    assert_eq!(reports.try_recv().ok(), None);
    writer.write(1, one(&blocks[1], false));
    writer.finish();
    assert_eq!(
        store.newest(&keys[0].public()),
        Ok(Some(blocks[1].clone())),
        "an orderly end writes what waits"
    );
}

#[test]
fn the_ledger_of_another_identity_is_refused_and_named() {
    let keys = keys();
    let dir = tempfile::tempdir().expect("temporary folder");
    drop(open(dir.path(), &keys[0]));
    let before = std::fs::read(ledger_path(dir.path())).expect("the file");
    let refused = open_store(&ledger_path(dir.path()), &keys[1].public(), |_| {}).err();
    assert_eq!(refused, Some(OpenError::OtherOwner { owner: keys[0].public() }));
    assert_eq!(std::fs::read(ledger_path(dir.path())).expect("the file"), before);
}

#[test]
fn files_that_are_no_ledger_are_refused_and_not_touched() {
    let keys = keys();
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = ledger_path(dir.path());
    let refusal = || open_store(&path, &keys[0].public(), |_| {}).err();
    std::fs::write(&path, vec![b'x'; 100_000]).expect("writable");
    assert_eq!(refusal(), Some(OpenError::Foreign));
    assert_eq!(std::fs::read(&path).expect("still there"), vec![b'x'; 100_000]);
    std::fs::remove_file(&path).expect("ours");
    let foreign = rusqlite::Connection::open(&path).expect("writable");
    foreign.execute_batch("CREATE TABLE wallet (id INTEGER)").expect("writable");
    drop(foreign);
    assert_eq!(refusal(), Some(OpenError::Foreign));
    std::fs::remove_file(&path).expect("ours");
    drop(open(dir.path(), &keys[0]));
    let later = rusqlite::Connection::open(&path).expect("writable");
    later.pragma_update(None, "user_version", 99).expect("writable");
    drop(later);
    assert_eq!(refusal(), Some(OpenError::TooNew { version: 99 }));
}

#[test]
fn an_own_chain_with_a_missing_or_changed_block_is_not_signed_on() {
    let keys = keys();
    for damage in [
        "DELETE FROM block WHERE seq = 2",
        "DELETE FROM block WHERE seq = 3",
        "DELETE FROM block",
        "UPDATE block SET data = zeroblob(300) WHERE seq = 2",
    ] {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (store, writer, reports) = open(dir.path(), &keys[0]);
        let blocks = chain(&keys[0], &keys[1].public(), 3);
        write(&writer, &reports, &[Batch { blocks, urgent: true, ..Batch::default() }]);
        writer.finish();
        drop(store);
        let file = rusqlite::Connection::open(ledger_path(dir.path())).expect("ours");
        file.execute_batch(damage).expect("writable");
        drop(file);
        let refused = open_store(&ledger_path(dir.path()), &keys[0].public(), |_| {}).err();
        assert!(matches!(refused, Some(OpenError::Damaged(_))), "{damage}: {refused:?}");
    }
}

#[test]
fn own_blocks_that_peers_brought_back_may_have_gaps_between_them() {
    let keys = keys();
    let dir = tempfile::tempdir().expect("temporary folder");
    let (store, writer, reports) = open(dir.path(), &keys[0]);
    let blocks = chain(&keys[0], &keys[1].public(), 5);
    let found = [0, 2, 4].map(|at| blocks[at].clone()).to_vec();
    write(&writer, &reports, &[Batch { blocks: found, urgent: true, ..Batch::default() }]);
    writer.finish();
    drop(store);
    let (store, ..) = open(dir.path(), &keys[0]);
    assert_eq!(store.lowest_unknown(&keys[0].public()), Ok(2), "nothing is signed before it is here");
}

#[test]
fn pages_and_durability_are_as_decided() {
    let keys = keys();
    let dir = tempfile::tempdir().expect("temporary folder");
    drop(open(dir.path(), &keys[0]));
    let file = rusqlite::Connection::open(ledger_path(dir.path())).expect("ours");
    let setting =
        |name: &str| file.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
    assert_eq!(setting("page_size"), Ok(rusqlite::types::Value::Integer(8192)));
    assert_eq!(setting("journal_mode"), Ok(rusqlite::types::Value::Text("wal".to_owned())));
}
