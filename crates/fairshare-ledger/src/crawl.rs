//! What a store answers to a crawl: the blocks of a range and their other halves, in the order of the chain.

use crate::block::HalfBlock;
use crate::store::{ChainStore, StoreError};
use fairshare_crypto::PublicKey;
use std::sync::Arc;

/// Blocks of the crawled chain, and agreements to them, in one answer to the crawl of living peers.
//= spec/trustchain.md#9-settings
pub const CRAWL_BATCH: usize = 10;
/// Numbers looked up for agreements in one answer: an asker may name any range, and answers cost a bounded time.
const NUMBERS_MAX: usize = 200;

/// What an answer may hold.
#[derive(Clone, Copy, Debug)]
pub struct CrawlLimits {
    /// Blocks of the crawled chain.
    pub blocks: usize,
    /// Agreements that link to it.
    pub agreements: usize,
    /// Whether counterpart proposals of its agreements are included.
    pub proposals: bool,
}

/// The numbers that a crawl request means: those below 0 count from the newest stored block.
//= spec/trustchain.md#5-1-receiving
pub fn effective_range<S: ChainStore>(
    store: &S,
    owner: &PublicKey,
    start: i64,
    end: i64,
) -> Result<(u32, u32), StoreError> {
    let newest = store.newest(owner)?.map_or(1, |block| block.sequence);
    let from_end = |number: i64| match number {
        ..0 => i64::from(newest).saturating_add(number).saturating_add(1).max(1),
        _ => number,
    };
    let clamp = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    Ok((clamp(from_end(start).max(1)), clamp(from_end(end))))
}

/// The blocks of `owner` in `from..=to` and their counterparts within the limits; each counterpart stands after its
/// block.
pub fn crawl<S: ChainStore>(
    store: &S,
    owner: &PublicKey,
    from: u32,
    to: u32,
    limits: CrawlLimits,
) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
    let mut chain = store.range(owner, from, to, limits.blocks)?.into_iter().peekable();
    let mut out = Vec::new();
    let mut agreements = 0;
    for number in (from..=to).take(NUMBERS_MAX) {
        if let Some(block) = chain.next_if(|block| block.sequence == number) {
            out.push(Arc::clone(&block));
            if limits.proposals && !block.is_proposal() {
                out.extend(store.get(&block.link_owner, block.link_sequence)?);
            }
        }
        if agreements < limits.agreements {
            let found = store.links_to(owner, number)?;
            out.extend(found.iter().take(limits.agreements - agreements).cloned());
            agreements = limits.agreements.min(agreements + found.len());
        } else if chain.peek().is_none() {
            break;
        }
    }
    // Beyond the numbers that were looked at one by one.
    out.extend(chain);
    Ok(out)
}
