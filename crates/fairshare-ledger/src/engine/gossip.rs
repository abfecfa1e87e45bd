//! Sending: own blocks when they are on disk, again while nobody answers, and broadcasts of others once.

use super::Ledger;
use super::journal::Unreleased;
use super::timers::Timer;
use crate::block::{BLOCK_LEN_MAX, BlockHash, HalfBlock};
use crate::output::{LedgerCommunity, LedgerEvent, LedgerOutput, Recipient, Source};
use crate::store::{ChainStore, StoreError};
use crate::wire::{OwnMessage, TrustChainMessage};
use fairshare_wire::{Instant, Now, SIGNED_OVERHEAD};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Peers that get a broadcast.
//= spec/trustchain.md#9-settings
const FAN_OUT: usize = 25;
/// Broadcasts remembered, so that none is sent twice.
const HEARD_MAX: usize = 100_000;
/// Hops of our own broadcasts.
const TTL: u32 = 1;
/// The most hops that a relayed broadcast may still ask for: 25 copies a hop reach any network in three.
const TTL_MAX: u32 = 3;
/// Wait before an unanswered proposal is sent again.
const RESEND_WAIT: Duration = Duration::from_secs(10);
/// Resends until it is reported: one hour.
const RESENDS: u32 = 360;
/// Resends of a proposal that was older than an hour when the ledger started.
const RESENDS_OLD: u32 = 3;
/// Wait between resends after the report.
const RESEND_WAIT_RARE: Duration = Duration::from_secs(6 * 3600);
/// Own proposals that may be outstanding; older ones are left to their counterparties.
const OUTSTANDING_MAX: usize = 4096;
/// Between the first resends after a start: no burst.
const RESUME_SPACING: Duration = Duration::from_millis(50);
/// The longest payload that fits a datagram with the frame of a signed message around it.
const PAYLOAD_MAX: usize = BLOCK_LEN_MAX - SIGNED_OVERHEAD;
/// Own blocks read at once when the ledger starts.
const PAGE: usize = 512;

/// An own proposal that nobody agreed to yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) block: Arc<HalfBlock>,
    /// Resends until it is reported; 0 afterwards.
    left: u32,
}

/// Which broadcasts were seen, by the first bytes of their hashes.
#[derive(Debug, Default)]
pub(super) struct Heard {
    order: VecDeque<[u8; 8]>,
    known: BTreeSet<[u8; 8]>,
}

impl Heard {
    /// Whether the block was not broadcast before; remembers it.
    fn is_new(&mut self, hash: &BlockHash) -> bool {
        let mut name = [0; 8];
        name.copy_from_slice(&hash.0[..8]);
        if !self.known.insert(name) {
            return false;
        }
        self.order.push_back(name);
        if self.order.len() > HEARD_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

impl<S: ChainStore> Ledger<S> {
    pub(super) fn send(&mut self, to: Recipient, message: &TrustChainMessage) {
        self.send_payload(LedgerCommunity::TrustChain, to, message.id(), message.to_bytes());
    }

    pub(super) fn send_own(&mut self, to: Recipient, message: &OwnMessage) {
        self.send_payload(LedgerCommunity::Own, to, message.id(), message.to_bytes());
    }

    fn send_payload(
        &mut self,
        community: LedgerCommunity,
        to: Recipient,
        (id, signed): (u8, bool),
        payload: Vec<u8>,
    ) {
        // Two blocks that came one by one may be too long for one datagram; single ones still travel.
        if payload.len() <= PAYLOAD_MAX {
            self.out.push_back(LedgerOutput::Send { community, to, id, signed, payload });
        }
    }

    /// An own block is on disk: it leaves.
    //= spec/trustchain.md#4-creating-blocks
    pub(super) fn release(&mut self, now: Now, own: Unreleased) {
        let Unreleased { block, answer_to, .. } = own;
        self.emit(LedgerEvent::Signed(Arc::clone(&block)));
        self.heard.is_new(&block.hash());
        let everybody = Recipient::Random(FAN_OUT);
        if block.is_source() {
            return self.send(everybody, &TrustChainMessage::Broadcast { block, ttl: TTL });
        }
        let to = answer_to.map_or(Recipient::Key(block.link_owner), |asker| answer_address(asker, &block));
        self.send(to, &TrustChainMessage::HalfBlock(Arc::clone(&block)));
        if block.is_proposal() {
            self.watch(&block, now.mono + RESEND_WAIT, RESENDS);
            self.send(everybody, &TrustChainMessage::Broadcast { block, ttl: TTL });
        } else if let Ok(Some(first)) = self.view().get(&block.link_owner, block.link_sequence) {
            self.send(everybody, &TrustChainMessage::PairBroadcast { first, second: block, ttl: TTL });
        }
    }

    /// Gives the agreement that exists already to whoever sent its proposal again.
    pub(super) fn answer_again(&mut self, from: Source, agreement: &Arc<HalfBlock>) {
        let to = answer_address(from, agreement);
        if matches!(from, Source::Connection(_)) {
            self.emit(LedgerEvent::Resent(Arc::clone(agreement)));
        }
        self.send(to, &TrustChainMessage::HalfBlock(Arc::clone(agreement)));
    }

    /// Hands a valid broadcast on, once.
    //= spec/trustchain.md#5-1-receiving
    pub(super) fn relay(&mut self, first: &HalfBlock, ttl: u32, message: impl Fn(u32) -> TrustChainMessage) {
        if self.heard.is_new(&first.hash()) && ttl > 1 {
            self.send(Recipient::Random(FAN_OUT), &message((ttl - 1).min(TTL_MAX)));
        }
    }

    /// Sends an unanswered proposal again, unchanged.
    pub(super) fn resend(&mut self, now: Now, sequence: u32) {
        let Some(outstanding) = self.outstanding.get_mut(&sequence) else { return };
        let block = Arc::clone(&outstanding.block);
        let reports = outstanding.left == 1;
        outstanding.left = outstanding.left.saturating_sub(1);
        let wait = if outstanding.left > 0 { RESEND_WAIT } else { RESEND_WAIT_RARE };
        self.timers.set(Timer::Resend(sequence), now.mono + wait);
        if reports {
            self.emit(LedgerEvent::ProposalExpired(Arc::clone(&block)));
        }
        self.emit(LedgerEvent::Resent(Arc::clone(&block)));
        self.send(Recipient::Key(block.link_owner), &TrustChainMessage::HalfBlock(block));
    }

    /// An agreement to `proposal` arrived: nothing is resent any more.
    pub(super) fn settle(&mut self, agreement: &HalfBlock) -> bool {
        let answered = self.outstanding.get(&agreement.link_sequence);
        let ours = agreement.link_owner == self.me() && !agreement.is_proposal();
        if !ours || answered.is_none_or(|own| own.block.link_owner != agreement.owner) {
            return false;
        }
        self.outstanding.remove(&agreement.link_sequence);
        self.timers.clear(Timer::Resend(agreement.link_sequence));
        true
    }

    /// Finds own proposals without an agreement and resends them soon: they may never have left.
    pub(super) fn resume_outstanding(&mut self, now: Now) -> Result<(), StoreError> {
        let me = self.me();
        let mut from = 1;
        let mut first = now.mono;
        loop {
            let page = self.store.range(&me, from, u32::MAX, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            let next = last.sequence.checked_add(1);
            for block in page.iter().filter(|block| block.is_proposal() && !block.is_source()) {
                let agreements = self.store.links_to(&me, block.sequence)?;
                if !agreements.iter().any(|agreement| agreement.owner == block.link_owner) {
                    let hour_ms = u64::from(RESENDS) * RESEND_WAIT.as_millis() as u64;
                    let old = now.unix_ms.saturating_sub(block.timestamp_ms) > hour_ms;
                    self.watch(block, first, if old { RESENDS_OLD } else { RESENDS });
                    first = first + RESUME_SPACING;
                }
            }
            let Some(next) = next else { return Ok(()) };
            from = next;
        }
    }

    /// Sends an own proposal again from `first` on, until it is answered.
    fn watch(&mut self, block: &Arc<HalfBlock>, first: Instant, left: u32) {
        if self.outstanding.len() >= OUTSTANDING_MAX
            && let Some((oldest, _)) = self.outstanding.pop_first()
        {
            self.timers.clear(Timer::Resend(oldest));
        }
        self.outstanding.insert(block.sequence, Outstanding { block: Arc::clone(block), left });
        self.timers.set(Timer::Resend(block.sequence), first);
    }
}

/// Where an agreement goes: the address its proposal came from, or wherever the overlay finds the proposer.
fn answer_address(asker: Source, agreement: &HalfBlock) -> Recipient {
    match asker {
        Source::Address(address) => Recipient::Address(address),
        Source::Connection(_) => Recipient::Key(agreement.link_owner),
    }
}
