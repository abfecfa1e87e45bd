//! Receiving: blocks are judged, kept, answered; cheap checks first.

use super::Ledger;
use super::journal::PENDING_MAX;
use super::sources::{Share, cost_of};
use crate::bandwidth::Bandwidth;
use crate::block::{BlockType, HalfBlock, TIMESTAMP_MS_MAX};
use crate::fork::ForkKind;
use crate::output::{DeclineReason, LedgerCommunity, LedgerEvent, MessageError, Source};
use crate::store::{ChainStore, StoreError};
use crate::transaction;
use crate::validation::{Level, Rules, Validation, validate};
use crate::wire::{OwnMessage, TrustChainMessage};
use fairshare_crypto::PublicKey;
use fairshare_wire::Now;
use std::net::SocketAddr;
use std::sync::Arc;

/// Agreements kept that link to one place whose proposal is unknown. Anybody may sign such; only one can be right.
const LINKS_MAX: usize = 32;

const UNREADABLE: &str = "store cannot be read";

/// What became of a received block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// It was stored before, with equal bytes.
    Known,
    /// It is stored now; what is known around it.
    New(Level),
    /// It is not stored; the reason was told.
    Refused,
}

impl<S: ChainStore> Ledger<S> {
    /// A half block came, by message or connection.
    //= spec/trustchain.md#5-1-receiving
    pub fn receive(&mut self, now: Now, from: Source, block: HalfBlock) {
        self.take_direct(now, from, &Arc::new(block));
    }

    /// A message of one of the two communities came. `sender` is the signer of a signed one.
    pub fn handle_message(
        &mut self,
        now: Now,
        community: LedgerCommunity,
        from: SocketAddr,
        sender: Option<PublicKey>,
        id: u8,
        payload: &[u8],
    ) -> Result<(), MessageError> {
        if self.sources.is_silenced(now.mono, Source::Address(from)) {
            return Err(MessageError::Silenced);
        }
        match community {
            LedgerCommunity::TrustChain => {
                let message = TrustChainMessage::parse(id, payload).ok_or(MessageError::Unknown(id))??;
                require_sender(message.id(), sender)?;
                self.handle_trustchain(now, from, message)
            }
            LedgerCommunity::Own => {
                let message = OwnMessage::parse(id, payload).ok_or(MessageError::Unknown(id))??;
                require_sender(message.id(), sender)?;
                self.handle_own(now, from, message)
            }
        }
    }

    fn handle_trustchain(
        &mut self,
        now: Now,
        from: SocketAddr,
        message: TrustChainMessage,
    ) -> Result<(), MessageError> {
        let source = Source::Address(from);
        match message {
            TrustChainMessage::HalfBlock(block) => self.take_direct(now, source, &block),
            TrustChainMessage::CrawlRequest { owner, start, end, crawl_id } => {
                return self.answer_crawl(now, from, &owner, (start, end), crawl_id);
            }
            TrustChainMessage::CrawlResponse { block, crawl_id, total, .. } => {
                self.take_direct(now, source, &block);
                self.crawl_answered(now, crawl_id, total);
            }
            TrustChainMessage::EmptyCrawlResponse { crawl_id } => self.end_crawl(now, crawl_id),
            TrustChainMessage::Pair(first, second) => {
                self.take_indirect(now, source, &first);
                self.take_indirect(now, source, &second);
            }
            TrustChainMessage::Broadcast { block, ttl } => {
                if self.take_indirect(now, source, &block) {
                    let again = |ttl| TrustChainMessage::Broadcast { block: Arc::clone(&block), ttl };
                    self.relay(&block, ttl, again);
                }
            }
            TrustChainMessage::PairBroadcast { first, second, ttl } => {
                let fine = self.take_indirect(now, source, &first);
                if self.take_indirect(now, source, &second) && fine {
                    let again = |ttl| TrustChainMessage::PairBroadcast {
                        first: Arc::clone(&first),
                        second: Arc::clone(&second),
                        ttl,
                    };
                    self.relay(&first, ttl, again);
                }
            }
        }
        Ok(())
    }

    //= spec/trustchain.md#13-our-ledger-community
    fn handle_own(&mut self, now: Now, from: SocketAddr, message: OwnMessage) -> Result<(), MessageError> {
        match message {
            OwnMessage::ForkProof(payload) => self.receive_proof(now, from, &payload),
            OwnMessage::ProofsKnown { sample, .. } => {
                self.proofs_known(from, &sample);
                Ok(())
            }
            OwnMessage::ProofsWanted(wanted) => self.proofs_wanted(now, from, &wanted),
            OwnMessage::CrawlRequest { owner, start, end, crawl_id } => {
                self.answer_complete_crawl(now, from, &owner, (start, end), crawl_id)
            }
            OwnMessage::CrawlAnswer { crawl_id, parts, blocks, .. } => {
                // Unlike single answers of living peers, many blocks at once are taken only if asked for.
                if self.is_crawling(crawl_id) {
                    for block in &blocks {
                        self.take_direct(now, Source::Address(from), block);
                    }
                    self.crawl_answered(now, crawl_id, u32::from(parts));
                }
                Ok(())
            }
        }
    }

    /// Keeps the block and signs an answer if it asks for one.
    fn take_direct(&mut self, now: Now, from: Source, block: &Arc<HalfBlock>) {
        match self.take_in(now, from, block) {
            Admission::Known => self.consider(now, from, block, None),
            Admission::New(level) => self.consider(now, from, block, Some(level)),
            Admission::Refused => {}
        }
    }

    /// Keeps the block; never signs. False if it was refused.
    fn take_indirect(&mut self, now: Now, from: Source, block: &Arc<HalfBlock>) -> bool {
        self.take_in(now, from, block) != Admission::Refused
    }

    fn take_in(&mut self, now: Now, from: Source, block: &Arc<HalfBlock>) -> Admission {
        let admission = self.admit(now, from, block).unwrap_or_else(|_| {
            self.reject(from, UNREADABLE, Some(Arc::clone(block)));
            Admission::Refused
        });
        if matches!(admission, Admission::New(_)) && self.settle(block) {
            self.hurry(now.mono);
        }
        admission
    }

    /// Stores the block unless it is known or a rule is against it.
    fn admit(&mut self, now: Now, from: Source, block: &Arc<HalfBlock>) -> Result<Admission, StoreError> {
        let known = self.view().get(&block.owner, block.sequence)?;
        if known.as_ref().is_some_and(|known| known.hash() == block.hash()) {
            return Ok(Admission::Known);
        }
        if let Some(reason) = self.refuse_early(now, from, block, known.is_some()) {
            self.reject(from, reason, Some(Arc::clone(block)));
            return Ok(Admission::Refused);
        }
        let validation = validate(&self.view(), block, Rules::Kept)?;
        self.look_for_fraud(now, block, &validation);
        if let Some(error) = validation.errors.first() {
            self.reject(from, error.text(), Some(Arc::clone(block)));
            return Ok(Admission::Refused);
        }
        if self.is_crowded(block)? {
            self.reject(from, "too many agreements to an unknown block", Some(Arc::clone(block)));
            return Ok(Admission::Refused);
        }
        let me = self.me();
        self.write_soon(now.mono, block, block.owner == me || block.link_owner == me);
        self.note_traffic();
        self.emit(LedgerEvent::Stored(Arc::clone(block)));
        if block.owner == me {
            self.own_block_found(block.sequence)?;
        }
        Ok(Admission::New(validation.level))
    }

    /// What speaks against a block before its signature is looked at.
    fn refuse_early(
        &mut self,
        now: Now,
        from: Source,
        block: &HalfBlock,
        place_taken: bool,
    ) -> Option<&'static str> {
        let concerns_us = block.owner == self.me() || block.link_owner == self.me();
        if self.sources.is_silenced(now.mono, from) {
            Some("source is silenced")
        } else if !self.sources.take(now.mono, from, Share::Blocks, cost_of(block.packed().len())) {
            Some("source sends too many blocks")
        } else if place_taken && self.is_forker(&block.owner) {
            Some("another fork of a proven forker")
        } else if !concerns_us && !self.sources.take_foreign(now.mono) {
            Some("all sources send too many blocks")
        } else if self.pending.block_count().is_ok_and(|count| count >= PENDING_MAX) {
            Some("store is too slow")
        } else if block.timestamp_ms > TIMESTAMP_MS_MAX {
            Some("timestamp does not fit 63 bits")
        } else if transaction::decode(&block.transaction).is_err() {
            Some("transaction cannot be decoded")
        } else {
            None
        }
    }

    fn look_for_fraud(&mut self, now: Now, block: &Arc<HalfBlock>, validation: &Validation) {
        if let Some(known) = &validation.double_sign {
            self.convict(now, ForkKind::DoubleSign, Arc::clone(known), block);
        }
        if let Some(other) = &validation.double_countersign {
            self.convict(now, ForkKind::DoubleCountersign, Arc::clone(other), block);
        }
    }

    /// Whether too many agreements link to the same unknown proposal. With the proposal known, only its
    /// counterparty can agree.
    fn is_crowded(&self, block: &HalfBlock) -> Result<bool, StoreError> {
        if block.is_proposal() {
            return Ok(false);
        }
        let view = self.view();
        let proposal = view.get(&block.link_owner, block.link_sequence)?;
        let expected = proposal.is_some_and(|proposal| proposal.link_owner == block.owner);
        Ok(!expected && view.links_to(&block.link_owner, block.link_sequence)?.len() >= LINKS_MAX)
    }

    /// A block of our own that this store never had: the chain goes on from there, or waits for what is missing.
    //= spec/trustchain.md#12-where-we-must-be-better-than-the-reference-each-seen-in-code-or-reproduced
    fn own_block_found(&mut self, sequence: u32) -> Result<(), StoreError> {
        self.seen = self.seen.max(sequence);
        while let Some(next) = self.own_length().checked_add(1) {
            let Some(block) = self.view().get(&self.me(), next)? else { break };
            self.head = Some(block);
        }
        if self.seen > self.own_length() {
            self.emit(LedgerEvent::OwnChainBehind { seen: self.seen, held: self.own_length() });
        }
        Ok(())
    }

    /// Decides about a stored proposal to us: answer again, decline, crawl first, sign blindly, or ask the economy.
    /// `level` is known if the block was judged just now.
    pub(super) fn consider(&mut self, now: Now, from: Source, block: &Arc<HalfBlock>, level: Option<Level>) {
        if block.link_owner != self.me() || !block.is_proposal() {
            return;
        }
        match self.agreement_to(block) {
            Ok(Some(agreement)) => return self.repeat_agreement(now, from, &agreement),
            Err(_) => return self.reject(from, UNREADABLE, Some(Arc::clone(block))),
            Ok(None) => {}
        }
        // Decided a moment ago, or waiting for a crawl: to bring it again and again costs us no signature check.
        if self.is_declined(now.mono, &block.hash()) || self.is_crawling(block.crawl_number()) {
            return;
        }
        if let Some(reason) = self.decline_reason(block) {
            return self.decline(now, &block.hash(), reason);
        }
        let Some(level) = level.or_else(|| self.judge_again(from, block)) else { return };
        if level.lacks_previous() && self.crawl_before_signing(now, block, from) {
            return;
        }
        self.remember_asker(&block.hash(), from);
        if self.config.countersign.contains(&block.kind) {
            let agreed = self.agree(now, block, block.transaction.clone(), Vec::new());
            if let Err(error) = agreed {
                self.decline(now, &block.hash(), DeclineReason::Policy(error.to_string()));
            }
        } else {
            self.emit(LedgerEvent::AgreementWanted(Arc::clone(block)));
        }
    }

    /// The level of a stored block by what is known now; `None` if it proves to be invalid.
    fn judge_again(&mut self, from: Source, block: &Arc<HalfBlock>) -> Option<Level> {
        let reason = match validate(&self.view(), block, Rules::Kept) {
            Ok(validation) => match validation.errors.first() {
                None => return Some(validation.level),
                Some(error) => error.text(),
            },
            Err(_) => UNREADABLE,
        };
        self.reject(from, reason, Some(Arc::clone(block)));
        None
    }

    /// The answer to a proposal that came again is the first one, unchanged; if it waits for the disk, it leaves then.
    fn repeat_agreement(&mut self, now: Now, from: Source, agreement: &Arc<HalfBlock>) {
        let waits = matches!(self.pending.by_hash(&agreement.hash()), Ok(Some(_)));
        if !waits && self.sources.take(now.mono, from, Share::Answers, 1) {
            self.answer_again(from, agreement);
        }
    }

    fn decline_reason(&self, block: &HalfBlock) -> Option<DeclineReason> {
        if self.is_forker(&block.owner) {
            return Some(DeclineReason::Forker);
        }
        if self.config.countersign.contains(&block.kind) {
            return None;
        }
        if block.kind != BlockType::BANDWIDTH {
            return Some(DeclineReason::ForeignType);
        }
        match Bandwidth::of(block) {
            Err(error) => Some(DeclineReason::Form(error.to_string())),
            Ok(Bandwidth { fault: Some(fault), .. }) => Some(DeclineReason::Form(fault.to_string())),
            Ok(paid) if paid.up != 0 => {
                Some(DeclineReason::Form("the payer proposes with up = 0".to_owned()))
            }
            Ok(_) => None,
        }
    }
}

/// A message that must be signed has a sender.
const fn require_sender((id, signed): (u8, bool), sender: Option<PublicKey>) -> Result<(), MessageError> {
    if signed && sender.is_none() { Err(MessageError::Unsigned(id)) } else { Ok(()) }
}
