//! Signing: proposals and agreements of the own chain.

use super::Ledger;
use crate::bandwidth::{AMOUNT_MAX, Bandwidth, Settlement, TRANSACTION_LEN_MAX};
use crate::block::{BlockHash, BlockType, Draft, GENESIS_HASH, HalfBlock, TIMESTAMP_MS_MAX};
use crate::output::{DeclineReason, LedgerEvent, ProposeError, Source};
use crate::store::{Batch, ChainStore, Record, StoreError};
use crate::transaction;
use crate::validation::{Level, Rules, validate};
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_wire::{Instant, Now};
use std::sync::Arc;
use std::time::Duration;

/// A declined proposal that comes again is not judged again before that: proposers resend each 10 s.
const DECLINE_PAUSE: Duration = Duration::from_secs(1);
/// Proposals whose decision is open or was just made.
const DECISIONS_MAX: usize = 1024;

/// What is decided about a new own block.
struct Content {
    link_owner: PublicKey,
    link_sequence: u32,
    kind: BlockType,
    transaction: Bytes,
    /// What the block says when it was made; `None` = now.
    timestamp_ms: Option<u64>,
}

impl<S: ChainStore> Ledger<S> {
    /// Signs a proposal to `to`, or a source block if `to` is [`crate::ANY`]. `records` are written with it.
    //= spec/trustchain.md#4-creating-blocks
    pub fn propose(
        &mut self,
        now: Now,
        to: PublicKey,
        kind: BlockType,
        transaction: Bytes,
        records: Vec<Record>,
    ) -> Result<Arc<HalfBlock>, ProposeError> {
        let content = Content { link_owner: to, link_sequence: 0, kind, transaction, timestamp_ms: None };
        self.append(now, content, records, None)
    }

    /// Signs a payment of the tunnel account: `down` bytes without any key of ours, and as time the end of the epoch
    /// that is paid, so that the block tells no moment. Times on a chain need not rise.
    //= spec/payouts.md#34-epochs-and-settlement
    pub fn propose_tunnel_payment(
        &mut self,
        now: Now,
        to: PublicKey,
        down: u64,
        timestamp_ms: u64,
        records: Vec<Record>,
    ) -> Result<Arc<HalfBlock>, ProposeError> {
        let transaction = self.next_bandwidth(0, down, None)?.encode();
        let kind = BlockType::BANDWIDTH;
        let timestamp_ms = Some(timestamp_ms);
        let content = Content { link_owner: to, link_sequence: 0, kind, transaction, timestamp_ms };
        self.append(now, content, records, None)
    }

    /// Signs a proposal that pays for `down` bytes taken from `to`; the totals are those of the own chain.
    //= spec/trustchain.md#10-tribler-bandwidth-tokens-7-1-7-5
    pub fn propose_bandwidth(
        &mut self,
        now: Now,
        to: PublicKey,
        down: u64,
        settlement: Settlement,
        records: Vec<Record>,
    ) -> Result<Arc<HalfBlock>, ProposeError> {
        let transaction = self.next_bandwidth(0, down, Some(settlement))?.encode();
        self.propose(now, to, BlockType::BANDWIDTH, transaction, records)
    }

    /// Signs the agreement to a bandwidth proposal: up and down change places, the totals are the own ones, the rest
    /// is copied; for a payment of the tunnel account its time too.
    //= spec/blocks.md#3-rules-per-type
    pub fn agree_bandwidth(
        &mut self,
        now: Now,
        proposal: &Arc<HalfBlock>,
        records: Vec<Record>,
    ) -> Result<Arc<HalfBlock>, ProposeError> {
        if let Some(agreement) = self.agreement_to(proposal)? {
            return Ok(agreement);
        }
        let paid = Bandwidth::of(proposal).map_err(|error| ProposeError::Invalid(error.to_string()))?;
        if let Some(fault) = paid.fault {
            return Err(ProposeError::Invalid(fault.to_string()));
        }
        let timestamp_ms = paid.settlement.is_none().then_some(proposal.timestamp_ms);
        let transaction = self.next_bandwidth(paid.down, paid.up, paid.settlement)?.encode();
        self.agree_at(now, proposal, transaction, timestamp_ms, records)
    }

    /// Signs an agreement with this transaction. An agreement that exists is returned as it is; `records` are not
    /// written then.
    pub fn agree(
        &mut self,
        now: Now,
        proposal: &Arc<HalfBlock>,
        transaction: Bytes,
        records: Vec<Record>,
    ) -> Result<Arc<HalfBlock>, ProposeError> {
        self.agree_at(now, proposal, transaction, None, records)
    }

    fn agree_at(
        &mut self,
        now: Now,
        proposal: &Arc<HalfBlock>,
        transaction: Bytes,
        timestamp_ms: Option<u64>,
        records: Vec<Record>,
    ) -> Result<Arc<HalfBlock>, ProposeError> {
        let for_us = proposal.link_owner == self.me() || proposal.is_source();
        if !for_us || !proposal.is_proposal() || proposal.owner == self.me() {
            return Err(ProposeError::NotForUs(proposal.hash()));
        }
        if self.block(&proposal.hash())?.is_none() {
            return Err(ProposeError::Unknown(proposal.hash()));
        }
        if let Some(agreement) = self.agreement_to(proposal)? {
            return Ok(agreement);
        }
        let answer_to = self.asked.remove(&proposal.hash());
        let content = Content {
            link_owner: proposal.owner,
            link_sequence: proposal.sequence,
            kind: proposal.kind.clone(),
            transaction,
            timestamp_ms,
        };
        self.append(now, content, records, answer_to)
    }

    /// Does not sign a proposal. It stays stored; when it comes again it is judged again.
    pub fn decline(&mut self, now: Now, proposal: &BlockHash, reason: DeclineReason) {
        self.asked.remove(proposal);
        if self.declined.len() >= DECISIONS_MAX {
            self.declined.retain(|_, at| now.mono.since(*at) < DECLINE_PAUSE);
        }
        if self.declined.len() < DECISIONS_MAX {
            self.declined.insert(*proposal, now.mono);
        }
        if let Ok(Some(proposal)) = self.block(proposal) {
            self.emit(LedgerEvent::Declined { proposal, reason });
        }
    }

    /// Whether the proposal was declined a moment ago.
    pub(super) fn is_declined(&self, now: Instant, proposal: &BlockHash) -> bool {
        self.declined.get(proposal).is_some_and(|at| now.since(*at) < DECLINE_PAUSE)
    }

    /// Remembers where the answer to a proposal goes.
    pub(super) fn remember_asker(&mut self, proposal: &BlockHash, from: Source) {
        if self.asked.len() >= DECISIONS_MAX {
            self.asked.pop_first();
        }
        self.asked.insert(*proposal, from);
    }

    /// The own agreement to a proposal.
    pub(super) fn agreement_to(&self, proposal: &HalfBlock) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        let agreements = self.view().links_to(&proposal.owner, proposal.sequence)?;
        Ok(agreements.into_iter().find(|agreement| agreement.owner == self.me()))
    }

    /// A bandwidth transaction that continues the own totals.
    fn next_bandwidth(
        &self,
        up: u64,
        down: u64,
        settlement: Option<Settlement>,
    ) -> Result<Bandwidth, ProposeError> {
        let newest = self.view().newest_of_kind(&self.me(), &BlockType::BANDWIDTH, None)?;
        let totals = match newest {
            Some(block) => {
                let totals = Bandwidth::decode(&block.transaction);
                totals.map_err(|error| ProposeError::Invalid(error.to_string()))?
            }
            None => Bandwidth::default(),
        };
        let sum = |total: u64, more: u64| total.checked_add(more).filter(|sum| *sum <= AMOUNT_MAX);
        Ok(Bandwidth {
            up,
            down,
            total_up: sum(totals.total_up, up).ok_or(ProposeError::Overflow)?,
            total_down: sum(totals.total_down, down).ok_or(ProposeError::Overflow)?,
            settlement,
            fault: None,
        })
    }

    /// Signs the next own block and hands it to the disk. It is part of the chain from here on, whatever happens.
    //= spec/trustchain.md#12-where-we-must-be-better-than-the-reference-each-seen-in-code-or-reproduced
    fn append(
        &mut self,
        now: Now,
        content: Content,
        records: Vec<Record>,
        answer_to: Option<Source>,
    ) -> Result<Arc<HalfBlock>, ProposeError> {
        self.may_sign(&content)?;
        let (sequence, previous_hash) = match &self.head {
            Some(head) => (head.sequence.checked_add(1).ok_or(ProposeError::Overflow)?, head.hash()),
            None => (1, GENESIS_HASH),
        };
        let draft = Draft {
            sequence,
            link_owner: content.link_owner,
            link_sequence: content.link_sequence,
            previous_hash,
            kind: content.kind,
            transaction: content.transaction,
            timestamp_ms: content.timestamp_ms.unwrap_or(now.unix_ms).min(TIMESTAMP_MS_MAX),
        };
        let block = Arc::new(HalfBlock::sign(&self.key, draft));
        let view = self.view();
        assert!(view.after(&self.me(), sequence - 1)?.is_none(), "an own number is never used twice");
        let validation = validate(&view, &block, Rules::Kept)?;
        if !matches!(validation.level, Level::PartialNext | Level::Valid) {
            let error =
                validation.errors.first().map_or_else(|| validation.level.name(), |error| error.text());
            return Err(ProposeError::Invalid(error.to_owned()));
        }
        self.head = Some(Arc::clone(&block));
        self.seen = self.seen.max(sequence);
        self.write_own(&block, answer_to, Batch { records, ..Batch::default() });
        Ok(block)
    }

    fn may_sign(&self, content: &Content) -> Result<(), ProposeError> {
        for key in [self.me(), content.link_owner] {
            if self.is_forker(&key) {
                return Err(ProposeError::Forker(key));
            }
        }
        let other = content.link_owner.is_valid() && content.link_owner != self.me();
        if !other && content.link_owner != crate::ANY {
            return Err(ProposeError::Counterparty);
        }
        if self.seen > self.own_length() {
            return Err(ProposeError::Behind { seen: self.seen, held: self.own_length() });
        }
        if self.is_stalled() {
            return Err(ProposeError::Stalled);
        }
        let fits = content.transaction.len() <= TRANSACTION_LEN_MAX;
        if !fits || transaction::decode(&content.transaction).is_err() {
            return Err(ProposeError::Transaction);
        }
        Ok(())
    }
}
