//! Writing: what is handed to the host, in which groups, and what follows when it is on disk.

use super::timers::Timer;
use super::{Ledger, View};
use crate::block::{BlockType, HalfBlock};
use crate::output::{LedgerEvent, LedgerOutput, Source};
use crate::store::{Batch, ChainStore, StoreError};
use fairshare_wire::{Instant, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Foreign blocks wait that long for company: one commit for many.
const GROUP_WAIT: Duration = Duration::from_millis(500);
/// What concerns us waits only as long as blocks of one burst need to arrive.
const GROUP_WAIT_OWN: Duration = Duration::from_millis(20);
/// Foreign blocks in one batch.
const GROUP_MAX: usize = 512;
/// Blocks accepted but not on disk. Beyond it the store is too slow, and foreign blocks are refused.
pub(super) const PENDING_MAX: u64 = 8192;
/// Wait before a batch that failed is written again: a full disk stays full for a while.
const RETRY_WAIT: Duration = Duration::from_secs(5);

/// Batches on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct Journal {
    last_ticket: u64,
    in_flight: BTreeMap<u64, Batch>,
    /// Failed, to be written again.
    failed: BTreeSet<u64>,
    /// Failed, and on their way again.
    again: BTreeSet<u64>,
    group: Batch,
    /// Own blocks that have not left, in order. None leaves before those with lower numbers.
    unreleased: BTreeMap<u32, Unreleased>,
}

/// An own block that has not left yet.
#[derive(Debug)]
pub(super) struct Unreleased {
    pub(super) block: Arc<HalfBlock>,
    /// Who asked for it, if it is an agreement.
    pub(super) answer_to: Option<Source>,
    durable: bool,
}

impl<S: ChainStore> Ledger<S> {
    /// The host wrote the batch of this ticket: its own blocks may leave now.
    pub fn persisted(&mut self, now: Now, ticket: u64) {
        let Some(batch) = self.journal.in_flight.remove(&ticket) else { return };
        self.journal.failed.remove(&ticket);
        self.journal.again.remove(&ticket);
        for block in &batch.blocks {
            self.pending.remove(block);
            let unreleased = self.journal.unreleased.get_mut(&block.sequence);
            if let Some(own) = unreleased.filter(|own| own.block.hash() == block.hash()) {
                own.durable = true;
            }
        }
        self.report_pairs(&batch.blocks);
        while let Some(next) = self.journal.unreleased.first_entry() {
            if !next.get().durable {
                break;
            }
            let own = next.remove();
            self.release(now, own);
        }
    }

    /// The host could not write the batch. It gets it again later, unchanged; nothing is signed meanwhile.
    pub fn persist_failed(&mut self, now: Now, ticket: u64, reason: String) {
        if self.journal.in_flight.contains_key(&ticket) {
            self.journal.again.remove(&ticket);
            self.journal.failed.insert(ticket);
            self.timers.set_earlier(Timer::Retry, now.mono + RETRY_WAIT);
            self.emit(LedgerEvent::PersistFailed { ticket, reason });
        }
    }

    pub(super) fn retry_failed(&mut self) {
        let failed = std::mem::take(&mut self.journal.failed);
        for ticket in &failed {
            if let Some(batch) = self.journal.in_flight.get(ticket) {
                self.out.push_back(LedgerOutput::Persist { ticket: *ticket, batch: batch.clone() });
            }
        }
        self.journal.again.extend(failed);
    }

    /// Whether a batch failed and is not written since. Its records are those of the moment when it was made: newer
    /// ones must not be written before it.
    pub fn is_stalled(&self) -> bool {
        !self.journal.failed.is_empty() || !self.journal.again.is_empty()
    }

    /// Whether something that concerns us is accepted and not on disk yet: own blocks, and the other halves of own
    /// blocks, also while they wait for company. Blocks of others alone do not count: they never cease to come.
    pub fn is_writing(&self) -> bool {
        self.journal.group.urgent || self.journal.in_flight.values().any(|batch| batch.urgent)
    }

    /// Writes an own block at once, together with what it answers and what it stands on (own blocks that peers
    /// brought back), if that is not on its way yet.
    pub(super) fn write_own(&mut self, block: &Arc<HalfBlock>, answer_to: Option<Source>, mut batch: Batch) {
        let link = (block.link_owner, block.link_sequence);
        let group = std::mem::take(&mut self.journal.group.blocks);
        let (needed, others): (Vec<_>, Vec<_>) = group
            .into_iter()
            .partition(|waiting| (waiting.owner, waiting.sequence) == link || waiting.owner == block.owner);
        self.journal.group.blocks = others;
        batch.blocks.extend(needed);
        batch.blocks.push(Arc::clone(block));
        batch.urgent = true;
        self.pending.insert(block);
        let own = Unreleased { block: Arc::clone(block), answer_to, durable: false };
        self.journal.unreleased.insert(block.sequence, own);
        self.write(batch);
    }

    /// Puts an accepted block into the group that is written soon.
    pub(super) fn write_soon(&mut self, now: Instant, block: &Arc<HalfBlock>, concerns_us: bool) {
        self.pending.insert(block);
        self.journal.group.blocks.push(Arc::clone(block));
        self.schedule_flush(now, concerns_us);
    }

    /// The group under way, for evidence; it is written soon.
    pub(super) fn group(&mut self, now: Instant) -> &mut Batch {
        self.schedule_flush(now, true);
        &mut self.journal.group
    }

    /// The group holds the other half of an own block: a commit of its own, synced.
    pub(super) fn hurry(&mut self, now: Instant) {
        if !self.journal.group.is_empty() {
            self.journal.group.urgent = true;
            self.schedule_flush(now, true);
        }
    }

    pub(super) fn flush(&mut self) {
        self.timers.clear(Timer::Flush);
        let group = std::mem::take(&mut self.journal.group);
        if !group.is_empty() {
            self.write(group);
        }
    }

    fn schedule_flush(&mut self, now: Instant, soon: bool) {
        if self.journal.group.blocks.len() >= GROUP_MAX {
            self.flush();
        } else {
            self.timers.set_earlier(Timer::Flush, now + if soon { GROUP_WAIT_OWN } else { GROUP_WAIT });
        }
    }

    fn write(&mut self, batch: Batch) {
        self.journal.last_ticket += 1;
        let ticket = self.journal.last_ticket;
        self.journal.in_flight.insert(ticket, batch.clone());
        self.out.push_back(LedgerOutput::Persist { ticket, batch });
    }

    /// Reports each pair whose second half has just reached the disk: those of bandwidth, and those with a half of ours.
    //= spec/trust.md#2-1-sources
    fn report_pairs(&mut self, written: &[Arc<HalfBlock>]) {
        let me = self.me();
        let mut reported = BTreeSet::new();
        for block in written {
            let own = block.owner == me || block.link_owner == me;
            let linked = block.kind == BlockType::BANDWIDTH;
            if !own && !linked {
                continue;
            }
            let Ok(Some((proposal, agreement))) = pair_of(&self.view(), block) else { continue };
            let waits = |half: &HalfBlock| matches!(self.pending.by_hash(&half.hash()), Ok(Some(_)));
            if waits(&proposal) || waits(&agreement) || !reported.insert(proposal.hash()) {
                continue;
            }
            if linked {
                let (proposal, agreement) = (Arc::clone(&proposal), Arc::clone(&agreement));
                self.emit(LedgerEvent::Linked { proposal, agreement });
            }
            if own {
                self.emit(LedgerEvent::Paired { proposal, agreement });
            }
        }
    }
}

/// Proposal and agreement.
type Pair = (Arc<HalfBlock>, Arc<HalfBlock>);

/// Both halves of the interaction that `block` is part of, proposal first, if both are known. Source blocks make no
/// pairs: an agreement to one means nothing.
fn pair_of<S: ChainStore>(view: &View<'_, S>, block: &Arc<HalfBlock>) -> Result<Option<Pair>, StoreError> {
    if block.is_proposal() {
        let agreements = view.links_to(&block.owner, block.sequence)?;
        let agreement = agreements.into_iter().find(|agreement| agreement.owner == block.link_owner);
        return Ok(agreement.map(|agreement| (Arc::clone(block), agreement)));
    }
    let proposal = view.get(&block.link_owner, block.link_sequence)?;
    let proposal = proposal.filter(|proposal| proposal.is_proposal() && proposal.link_owner == block.owner);
    Ok(proposal.map(|proposal| (proposal, Arc::clone(block))))
}
