//! Crawls: asked before signing and on introductions, and answered.

use super::Ledger;
use super::sources::Share;
use super::timers::Timer;
use crate::block::{BlockHash, HalfBlock};
use crate::crawl::{CRAWL_BATCH, CrawlLimits, crawl, effective_range};
use crate::output::{LedgerCommunity, MessageError, Recipient, Source};
use crate::store::{ChainStore, StoreError};
use crate::wire::{OwnMessage, TrustChainMessage};
use fairshare_crypto::PublicKey;
use fairshare_wire::{Instant, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Numbers before a proposal that are asked for before it is signed.
//= spec/trustchain.md#9-settings
const VALIDATION_RANGE: u32 = 5;
/// How long an answer is waited for.
const CRAWL_WAIT: Duration = Duration::from_secs(20);
/// How long a signature waits for an answer: the proposer may have no overlay address at all, and what it hides
/// hurts nobody who is paid by it.
const SIGNATURE_WAIT: Duration = Duration::from_secs(2);
/// Wait between two crawls of one peer on introductions.
const INTRODUCTION_PAUSE: Duration = Duration::from_secs(60);
/// Known blocks of a peer beyond which every second introduction leads to no question.
const EAGER_BLOCKS: u32 = 1000;
/// Crawls that may run at once.
const CRAWLS_MAX: usize = 256;
/// Proposals whose crawl is remembered: each is crawled for once.
const CRAWLED_MAX: usize = 4096;
/// Peers whose last crawl or community is remembered.
const PEERS_MAX: usize = 4096;
/// Own blocks in one answer to the complete crawl.
//= spec/trustchain.md#13-our-ledger-community
const COMPLETE_BLOCKS: usize = 50;
/// Bytes of one answer to the complete crawl.
const COMPLETE_BYTES: usize = 64 * 1024;
/// Bytes of one part of it, unless one block is larger.
const PART_BYTES: usize = 1200;
/// Fields of a part in front of its blocks.
const PART_HEAD: usize = 9;

/// Crawls that run, and what is remembered of those that ran.
#[derive(Debug, Default)]
pub(super) struct Crawling {
    running: BTreeMap<u32, Crawl>,
    crawled: BTreeSet<BlockHash>,
    introduced: BTreeMap<PublicKey, Instant>,
    /// Peers of our own ledger community: they answer the complete crawl.
    own_peers: BTreeSet<PublicKey>,
}

#[derive(Debug)]
struct Crawl {
    /// The proposal that waits for it, and who brought that.
    before_signing: Option<(Arc<HalfBlock>, Source)>,
    received: u32,
}

impl<S: ChainStore> Ledger<S> {
    /// The overlay met a peer. Asks it for the lowest unknown block of its own chain, now and then.
    //= spec/trustchain.md#5-2-who-crawls-when
    pub fn peer_introduced(
        &mut self,
        now: Now,
        community: LedgerCommunity,
        key: PublicKey,
        address: SocketAddr,
        chain_length: Option<i32>,
    ) {
        if key == self.me() {
            return;
        }
        match community {
            LedgerCommunity::Own => {
                if self.crawling.own_peers.len() < PEERS_MAX {
                    self.crawling.own_peers.insert(key);
                }
            }
            LedgerCommunity::TrustChain => {
                // A store that cannot be read now is asked again at the next introduction.
                let _ = self.crawl_on_introduction(now, key, address, chain_length);
            }
        }
    }

    fn crawl_on_introduction(
        &mut self,
        now: Now,
        key: PublicKey,
        address: SocketAddr,
        chain_length: Option<i32>,
    ) -> Result<(), StoreError> {
        let introduced = &mut self.crawling.introduced;
        let is_recent = |at: &Instant| now.mono.since(*at) < INTRODUCTION_PAUSE;
        if introduced.len() >= PEERS_MAX {
            introduced.retain(|_, at| is_recent(at));
        }
        if introduced.len() >= PEERS_MAX || introduced.get(&key).is_some_and(is_recent) {
            return Ok(());
        }
        let lowest = self.view().lowest_unknown(&key)?;
        let complete = chain_length.is_some_and(|length| i64::from(length) == i64::from(lowest) - 1);
        if complete || (lowest > EAGER_BLOCKS && !self.rng.chance(1, 2)) {
            return Ok(());
        }
        self.crawling.introduced.insert(key, now.mono);
        let crawl_id = u32::from(self.rng.next_u16()) << 16 | u32::from(self.rng.next_u16());
        if self.start_crawl(now, crawl_id, None, CRAWL_WAIT) {
            let (start, end) = (i64::from(lowest), i64::from(lowest));
            let request = TrustChainMessage::CrawlRequest { owner: key, start, end, crawl_id };
            self.send(Recipient::Address(address), &request);
        }
        Ok(())
    }

    /// Asks the proposer for the blocks before its proposal; false if that was done or cannot be done.
    pub(super) fn crawl_before_signing(&mut self, now: Now, block: &Arc<HalfBlock>, from: Source) -> bool {
        let crawl_id = block.crawl_number();
        if self.crawling.running.contains_key(&crawl_id) {
            return true;
        }
        if block.sequence < 2 || !self.crawling.remember(block.hash()) {
            return false;
        }
        let before_signing = Some((Arc::clone(block), from));
        if !self.start_crawl(now, crawl_id, before_signing, SIGNATURE_WAIT) {
            return false;
        }
        let start = block.sequence.saturating_sub(VALIDATION_RANGE).max(1);
        let (owner, end) = (block.owner, block.sequence - 1);
        let to = match from {
            Source::Address(address) => Recipient::Address(address),
            Source::Connection(_) => Recipient::Key(owner),
        };
        if self.crawling.own_peers.contains(&owner) {
            self.send_own(to, &OwnMessage::CrawlRequest { owner, start, end, crawl_id });
        } else {
            let (start, end) = (i64::from(start), i64::from(end));
            self.send(to, &TrustChainMessage::CrawlRequest { owner, start, end, crawl_id });
        }
        true
    }

    fn start_crawl(
        &mut self,
        now: Now,
        crawl_id: u32,
        before_signing: Option<(Arc<HalfBlock>, Source)>,
        wait: Duration,
    ) -> bool {
        let running = &mut self.crawling.running;
        if running.len() >= CRAWLS_MAX || running.contains_key(&crawl_id) {
            return false;
        }
        running.insert(crawl_id, Crawl { before_signing, received: 0 });
        self.timers.set(Timer::Crawl(crawl_id), now.mono + wait);
        true
    }

    /// Whether an answer with this id is waited for.
    pub(super) fn is_crawling(&self, crawl_id: u32) -> bool {
        self.crawling.running.contains_key(&crawl_id)
    }

    /// One of `total` answers came.
    pub(super) fn crawl_answered(&mut self, now: Now, crawl_id: u32, total: u32) {
        let Some(crawl) = self.crawling.running.get_mut(&crawl_id) else { return };
        crawl.received = crawl.received.saturating_add(1);
        if crawl.received >= total {
            self.end_crawl(now, crawl_id);
        }
    }

    /// The crawl is over, complete or not: what waited for it goes on.
    pub(super) fn end_crawl(&mut self, now: Now, crawl_id: u32) {
        self.timers.clear(Timer::Crawl(crawl_id));
        let crawl = self.crawling.running.remove(&crawl_id);
        if let Some((block, from)) = crawl.and_then(|crawl| crawl.before_signing) {
            self.consider(now, from, &block, None);
        }
    }

    pub(super) fn crawl_expired(&mut self, now: Now, crawl_id: u32) {
        self.end_crawl(now, crawl_id);
    }

    /// Answers a crawl request of living peers.
    //= spec/trustchain.md#5-1-receiving
    pub(super) fn answer_crawl(
        &mut self,
        now: Now,
        from: SocketAddr,
        owner: &PublicKey,
        (start, end): (i64, i64),
        crawl_id: u32,
    ) -> Result<(), MessageError> {
        // Of the own chain the counterpart proposals too; of others stock peers expect agreements only.
        let limits =
            CrawlLimits { blocks: CRAWL_BATCH, agreements: CRAWL_BATCH, proposals: *owner == self.me() };
        let answer = self.durable(owner, (start, end), limits).unwrap_or_default();
        if !self.sources.take(now.mono, Source::Address(from), Share::Answers, 1 + answer.len() as u64) {
            return Err(MessageError::Rate);
        }
        let to = Recipient::Address(from);
        let total = u32::try_from(answer.len()).unwrap_or(u32::MAX);
        if total == 0 {
            self.send(to, &TrustChainMessage::EmptyCrawlResponse { crawl_id });
        }
        for (block, position) in answer.into_iter().zip(1..) {
            self.send(to, &TrustChainMessage::CrawlResponse { block, crawl_id, position, total });
        }
        Ok(())
    }

    /// Answers the complete crawl of our own community.
    //= spec/trustchain.md#13-our-ledger-community
    pub(super) fn answer_complete_crawl(
        &mut self,
        now: Now,
        from: SocketAddr,
        owner: &PublicKey,
        (start, end): (u32, u32),
        crawl_id: u32,
    ) -> Result<(), MessageError> {
        let limits = CrawlLimits { blocks: COMPLETE_BLOCKS, agreements: COMPLETE_BLOCKS, proposals: true };
        let range = (i64::from(start), i64::from(end));
        let mut answer = self.durable(owner, range, limits).unwrap_or_default();
        let mut bytes = 0;
        answer.retain(|block| {
            bytes += block.packed().len();
            bytes <= COMPLETE_BYTES
        });
        if !self.sources.take(now.mono, Source::Address(from), Share::Answers, 1 + answer.len() as u64) {
            return Err(MessageError::Rate);
        }
        let parts = into_parts(answer);
        let total = u16::try_from(parts.len()).expect("64 KiB make fewer than 65,536 parts");
        for (blocks, part) in parts.into_iter().zip(1..) {
            let message = OwnMessage::CrawlAnswer { crawl_id, part, parts: total, blocks };
            self.send_own(Recipient::Address(from), &message);
        }
        Ok(())
    }

    /// From the store alone: own blocks that are not on disk have not left.
    fn durable(
        &self,
        owner: &PublicKey,
        (start, end): (i64, i64),
        limits: CrawlLimits,
    ) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        let (start, end) = effective_range(&self.store, owner, start, end)?;
        crawl(&self.store, owner, start, end, limits)
    }
}

impl Crawling {
    /// Whether no crawl for this block ran before.
    fn remember(&mut self, hash: BlockHash) -> bool {
        if self.crawled.len() >= CRAWLED_MAX {
            self.crawled.pop_first();
        }
        self.crawled.insert(hash)
    }
}

/// Cuts an answer into messages; an empty one is one empty part.
fn into_parts(blocks: Vec<Arc<HalfBlock>>) -> Vec<Vec<Arc<HalfBlock>>> {
    let mut parts = vec![Vec::new()];
    let mut len = PART_HEAD;
    for block in blocks {
        let more = 2 + block.packed().len();
        let last = parts.last_mut().expect("there is always a part");
        if len + more > PART_BYTES && !last.is_empty() {
            parts.push(vec![block]);
            len = PART_HEAD + more;
        } else {
            last.push(block);
            len += more;
        }
    }
    parts
}
