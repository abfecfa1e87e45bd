//! The ledger of one key: signs its chain, judges and keeps the blocks of others, answers and asks, spreads and
//! uses fork proofs.
//!
//! An own block is never changed or taken back. It is first written ([`LedgerOutput::Persist`]) and leaves only
//! after [`Ledger::persisted`]; until then every read inside the engine sees it through a view over the store.

mod crawling;
mod forks;
mod gossip;
mod journal;
mod receive;
mod sign;
mod sources;
mod timers;
mod view;

use crate::block::{BlockHash, HalfBlock};
use crate::memory::MemoryStore;
use crate::output::{LedgerConfig, LedgerEvent, LedgerOutput, Source};
use crate::report::{ChainReport, verify_chain};
use crate::store::{ChainStore, StoreError};
use crawling::Crawling;
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_wire::{Instant, Now};
use forks::Proofs;
use gossip::{Heard, Outstanding};
use journal::Journal;
use sources::Sources;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use timers::{Timer, Timers};
use view::View;

/// The engine. Verbs take the time first; then drain [`Ledger::poll`].
#[derive(Debug)]
pub struct Ledger<S> {
    config: LedgerConfig,
    key: SecretKey,
    store: S,
    /// Signed or accepted, not on disk yet.
    pending: MemoryStore,
    journal: Journal,
    head: Option<Arc<HalfBlock>>,
    /// The highest own number ever seen, held or not.
    seen: u32,
    outstanding: BTreeMap<u32, Outstanding>,
    /// Who asked for an agreement that is not decided yet: where to answer.
    asked: BTreeMap<BlockHash, Source>,
    declined: BTreeMap<BlockHash, Instant>,
    crawling: Crawling,
    heard: Heard,
    proofs: Proofs,
    sources: Sources,
    timers: Timers,
    rng: Rng,
    out: VecDeque<LedgerOutput>,
}

impl<S: ChainStore> Ledger<S> {
    /// The ledger of `key` over what `store` holds. Own proposals without an agreement are outstanding again.
    pub fn new(
        config: LedgerConfig,
        key: SecretKey,
        store: S,
        rng: Rng,
        now: Now,
    ) -> Result<Self, StoreError> {
        let me = key.public();
        let held = store.lowest_unknown(&me)?.saturating_sub(1);
        let head = store.get(&me, held)?;
        let seen = store.newest(&me)?.map_or(0, |block| block.sequence);
        let proofs = Proofs::load(store.proofs()?);
        let mut ledger = Self {
            config,
            key,
            store,
            pending: MemoryStore::new(),
            journal: Journal::default(),
            head,
            seen,
            outstanding: BTreeMap::new(),
            asked: BTreeMap::new(),
            declined: BTreeMap::new(),
            crawling: Crawling::default(),
            heard: Heard::default(),
            proofs,
            sources: Sources::new(rng.fork("sources")),
            timers: Timers::default(),
            rng,
            out: VecDeque::new(),
        };
        ledger.resume_outstanding(now)?;
        ledger.schedule_pull(now.mono);
        Ok(ledger)
    }

    /// Runs everything that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.expired(now.mono) {
            match timer {
                Timer::Flush => self.flush(),
                Timer::Retry => self.retry_failed(),
                Timer::Pull => self.announce_proofs(now),
                Timer::Resend(sequence) => self.resend(now, sequence),
                Timer::Crawl(id) => self.crawl_expired(now, id),
            }
        }
    }

    /// When [`Ledger::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next output; drain until `None` after each verb.
    pub fn poll(&mut self) -> Option<LedgerOutput> {
        self.out.pop_front()
    }

    /// The store.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// The store, for hosts that apply batches to it.
    pub const fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// The own key.
    pub fn me(&self) -> PublicKey {
        self.key.public()
    }

    /// The newest own block up to which no number is missing, on disk or not.
    pub const fn head(&self) -> Option<&Arc<HalfBlock>> {
        self.head.as_ref()
    }

    /// How long the own chain is: what introductions of the TrustChain community carry.
    pub fn own_length(&self) -> u32 {
        self.head.as_ref().map_or(0, |head| head.sequence)
    }

    /// The block with this hash, on disk or not.
    pub fn block(&self, hash: &BlockHash) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        self.view().by_hash(hash)
    }

    /// Judges the whole known chain of `owner` again.
    pub fn verify_chain(&self, owner: &PublicKey) -> Result<ChainReport, StoreError> {
        verify_chain(&self.view(), owner)
    }

    /// Own proposals that nobody agreed to yet, ascending by number.
    pub fn outstanding(&self) -> impl Iterator<Item = &Arc<HalfBlock>> {
        self.outstanding.values().map(|outstanding| &outstanding.block)
    }

    const fn view(&self) -> View<'_, S> {
        View { pending: &self.pending, store: &self.store }
    }

    fn emit(&mut self, event: LedgerEvent) {
        self.out.push_back(LedgerOutput::Event(event));
    }

    fn reject(&mut self, from: Source, reason: &'static str, block: Option<Arc<HalfBlock>>) {
        self.emit(LedgerEvent::Rejected { from, reason, block });
    }
}
