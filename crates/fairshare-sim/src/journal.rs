//! The virtual store of a machine: batches wait, are written as a group, and only then count. A crash drops what is
//! not written, whole.

use fairshare_ledger::Batch;
use std::mem;

/// Batches on their way to the disk, in order.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    waiting: Vec<(u64, Batch)>,
    writing: Vec<(u64, Batch)>,
}

impl Journal {
    /// Takes a batch.
    pub(crate) fn put(&mut self, ticket: u64, batch: Batch) {
        self.waiting.push((ticket, batch));
    }

    /// Begins to write what waits, unless a group is being written or nothing waits.
    pub(crate) fn begin(&mut self) -> bool {
        if !self.writing.is_empty() || self.waiting.is_empty() {
            return false;
        }
        self.writing = mem::take(&mut self.waiting);
        true
    }

    /// The group that was being written is on the disk.
    pub(crate) fn commit(&mut self) -> Vec<(u64, Batch)> {
        mem::take(&mut self.writing)
    }

    /// What waits will not be written.
    pub(crate) fn give_up(&mut self) -> Vec<(u64, Batch)> {
        mem::take(&mut self.waiting)
    }

    /// Whether something waits that may not wait for company.
    pub(crate) fn is_urgent(&self) -> bool {
        self.waiting.iter().any(|(_, batch)| batch.urgent)
    }

    /// Whether anything is not on the disk yet.
    pub(crate) const fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_empty()
    }
}
