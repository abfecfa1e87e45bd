//! The writing side: one thread, one transaction per group, and a report only after the disk has it.
//!
//! Money does not wait: an urgent batch is committed at once, together with whatever waited before it. Others are
//! gathered for up to a second, because each commit writes most index pages anew.

use super::h8;
use fairshare_crypto::PublicKey;
use fairshare_ledger::{Batch, BlockType, HalfBlock, PROOFS_MAX, Record};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a batch that is not urgent may wait for company.
const PATIENCE: Duration = Duration::from_secs(1);
/// Blocks that are gathered at the most: the size of group at which a block costs least, and 10 MiB of memory.
const GROUP_BLOCKS_MAX: usize = 25_000;

/// Batches that are gathered at the most, however small: bounds the time to the report of the first.
const GROUP_BATCHES_MAX: usize = 5_000;

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// These are on disk, synced, in this order.
    Persisted(Vec<u64>),
    /// This one is not, and nothing of it.
    Failed {
        /// Its ticket.
        ticket: u64,
        /// Why, in words for the user.
        reason: String,
    },
}

enum Job {
    Write(Box<Waiting>),
    /// Write what is waiting, tidy up, end.
    Finish,
}

/// A batch that is to be written.
struct Waiting {
    ticket: u64,
    batch: Batch,
    /// The newest failure that whoever made the batch knew of.
    failure_seen: u64,
}

/// The writer of one ledger. Batches are written in order: after one that failed, all fail that were handed in
/// before [`failure_seen`](Self::failure_seen), so that nothing reaches the disk before what it builds on.
pub struct StoreWriter {
    queue: Sender<Job>,
    failure_seen: u64,
    abandoned: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StoreWriter {
    pub(super) fn start(
        connection: Connection,
        path: &Path,
        report: impl FnMut(Report) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, jobs) = channel();
        let abandoned = Arc::new(AtomicBool::new(false));
        let path = path.to_path_buf();
        let work = Work { connection, path, abandoned: abandoned.clone(), refused: 0, reason: String::new() };
        let thread = std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(move || work.run(&jobs, report))?;
        Ok(Self { queue, failure_seen: 0, abandoned, thread: Some(thread) })
    }

    /// Hands in a batch. Its report comes later, in order. Tickets rise from 1.
    pub fn write(&self, ticket: u64, batch: Batch) {
        // The thread ends only after `finish` or `abandon`, when nobody waits for reports any more.
        let waiting = Waiting { ticket, batch, failure_seen: self.failure_seen };
        let _ = self.queue.send(Job::Write(Box::new(waiting)));
    }

    /// What is handed in from now on is made by somebody who knows that this batch failed.
    pub const fn failure_seen(&mut self, ticket: u64) {
        self.failure_seen = ticket;
    }

    /// Writes everything that was handed in, and waits until it is on disk.
    pub fn finish(mut self) {
        let _ = self.queue.send(Job::Finish);
        self.join();
    }

    /// Ends at once, as a crash would: what is not committed yet never will be.
    pub fn abandon(mut self) {
        self.abandoned.store(true, Ordering::Release);
        let _ = self.queue.send(Job::Finish);
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was reported by its own message; there is nothing left to save here.
            let _ = thread.join();
        }
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.abandoned.store(true, Ordering::Release);
            let _ = self.queue.send(Job::Finish);
            self.join();
        }
    }
}

struct Work {
    connection: Connection,
    path: PathBuf,
    abandoned: Arc<AtomicBool>,
    /// The newest batch that failed, and why it did.
    refused: u64,
    reason: String,
}

impl Work {
    fn run(mut self, jobs: &Receiver<Job>, mut report: impl FnMut(Report)) {
        let mut waiting = Vec::new();
        loop {
            let more = gather(jobs, &mut waiting);
            if self.abandoned.load(Ordering::Acquire) {
                return;
            }
            self.commit(std::mem::take(&mut waiting), &mut report);
            if !more {
                // A failure here costs nothing: the log is read again at the next start.
                let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
                return;
            }
        }
    }

    fn commit(&mut self, waiting: Vec<Waiting>, report: &mut impl FnMut(Report)) {
        let mut group = Vec::new();
        for one in waiting {
            if one.failure_seen < self.refused {
                self.refuse(one.ticket, report);
            } else {
                group.push(one);
            }
        }
        if group.is_empty() {
            return;
        }
        match self.write_group(&group) {
            Ok(()) => report(Report::Persisted(group.into_iter().map(|one| one.ticket).collect())),
            // A bad batch must not take down those before it in its group.
            Err(_) if group.len() > 1 => {
                for one in group {
                    if self.abandoned.load(Ordering::Acquire) {
                        return;
                    }
                    self.commit(vec![one], report);
                }
            }
            Err(error) => {
                self.reason = self.explain(&error);
                for one in group {
                    self.refuse(one.ticket, report);
                }
            }
        }
    }

    fn refuse(&mut self, ticket: u64, report: &mut impl FnMut(Report)) {
        self.refused = ticket;
        report(Report::Failed { ticket, reason: self.reason.clone() });
    }

    fn write_group(&mut self, group: &[Waiting]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for one in group {
            apply(&transaction, &one.batch)?;
        }
        transaction.commit()
    }

    fn explain(&self, error: &rusqlite::Error) -> String {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => {
                format!("no space left on the disk that holds {}", self.path.display())
            }
            _ => format!("{}: {error}", self.path.display()),
        }
    }
}

/// Waits for batches until it is time to write. `false` if these were the last.
fn gather(jobs: &Receiver<Job>, waiting: &mut Vec<Waiting>) -> bool {
    let Ok(first) = jobs.recv() else { return false };
    let deadline = Instant::now() + PATIENCE;
    let mut next = Some(first);
    let mut blocks = 0;
    let mut urgent = false;
    loop {
        match next {
            Some(Job::Finish) => return false,
            Some(Job::Write(one)) => {
                blocks += one.batch.blocks.len();
                urgent |= one.batch.urgent;
                waiting.push(*one);
            }
            None => return true,
        }
        if blocks >= GROUP_BLOCKS_MAX || waiting.len() >= GROUP_BATCHES_MAX {
            return true;
        }
        let left = if urgent { Duration::ZERO } else { deadline.saturating_duration_since(Instant::now()) };
        next = match jobs.recv_timeout(left) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
    }
}

fn apply(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    for block in &batch.blocks {
        insert_block(transaction, block)?;
    }
    for block in &batch.conflicts {
        let chain = chain_id(transaction, &block.owner)?;
        transaction
            .prepare_cached("INSERT OR IGNORE INTO conflict (chain, seq, h8, data) VALUES (?1, ?2, ?3, ?4)")?
            .execute((chain, block.sequence, h8(&block.hash()), &block.packed()[..]))?;
    }
    for proof in &batch.proofs {
        let chain = chain_id(transaction, proof.accused())?;
        transaction
            .prepare_cached("INSERT OR IGNORE INTO proof (chain, kind, data) VALUES (?1, ?2, ?3)")?
            .execute((chain, proof.kind().code(), proof.to_bytes()))?;
    }
    if !batch.proofs.is_empty() {
        // Numbers of proofs have no gaps: the oldest are the only ones that ever go.
        transaction
            .prepare_cached("DELETE FROM proof WHERE id <= (SELECT max(id) FROM proof) - ?1")?
            .execute([PROOFS_MAX as i64])?;
    }
    batch.records.iter().try_for_each(|record| write_record(transaction, record))
}

/// The first block at a place stays for ever.
//= spec/trustchain.md#12-where-we-must-be-better-than-the-reference-each-seen-in-code-or-reproduced
fn insert_block(transaction: &Transaction<'_>, block: &HalfBlock) -> rusqlite::Result<()> {
    let chain = chain_id(transaction, &block.owner)?;
    let link_chain = chain_id(transaction, &block.link_owner)?;
    let kind = kind_id(transaction, &block.kind)?;
    let new = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO block (chain, seq, link_chain, link_seq, kind, h8, data)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute((
            chain,
            block.sequence,
            link_chain,
            Some(block.link_sequence).filter(|sequence| *sequence > 0),
            kind,
            h8(&block.hash()),
            &block.packed()[..],
        ))?;
    if new > 0 { extend_prefix(transaction, chain, block.sequence) } else { Ok(()) }
}

/// Keeps count of the blocks without a gap from number 1 on, so that nobody has to walk a chain to find its lowest gap.
fn extend_prefix(transaction: &Transaction<'_>, chain: i64, sequence: u32) -> rusqlite::Result<()> {
    let prefix: u32 = transaction
        .prepare_cached("SELECT prefix FROM chain WHERE id = ?1")?
        .query_row([chain], |row| row.get(0))?;
    if prefix.checked_add(1) != Some(sequence) {
        return Ok(());
    }
    let mut end = sequence;
    let mut stored = transaction.prepare_cached("SELECT 1 FROM block WHERE chain = ?1 AND seq = ?2")?;
    while let Some(next) = end.checked_add(1) {
        if !stored.exists((chain, next))? {
            break;
        }
        end = next;
    }
    transaction.prepare_cached("UPDATE chain SET prefix = ?2 WHERE id = ?1")?.execute((chain, end))?;
    Ok(())
}

fn write_record(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<()> {
    match &record.value {
        Some(value) => transaction
            .prepare_cached("INSERT OR REPLACE INTO record (kind, key, value) VALUES (?1, ?2, ?3)")?
            .execute((record.kind.0, &record.key, value))?,
        None => transaction
            .prepare_cached("DELETE FROM record WHERE kind = ?1 AND key = ?2")?
            .execute((record.kind.0, &record.key))?,
    };
    Ok(())
}

fn chain_id(transaction: &Transaction<'_>, key: &PublicKey) -> rusqlite::Result<i64> {
    intern(
        transaction,
        "SELECT id FROM chain WHERE pk = ?1",
        "INSERT INTO chain (pk) VALUES (?1)",
        key.as_bytes(),
    )
}

fn kind_id(transaction: &Transaction<'_>, kind: &BlockType) -> rusqlite::Result<i64> {
    intern(
        transaction,
        "SELECT id FROM kind WHERE name = ?1",
        "INSERT INTO kind (name) VALUES (?1)",
        kind.as_bytes(),
    )
}

fn intern(transaction: &Transaction<'_>, find: &str, insert: &str, name: &[u8]) -> rusqlite::Result<i64> {
    let found: Option<i64> =
        transaction.prepare_cached(find)?.query_row([name], |row| row.get(0)).optional()?;
    if let Some(id) = found {
        return Ok(id);
    }
    transaction.prepare_cached(insert)?.execute([name])?;
    Ok(transaction.last_insert_rowid())
}
