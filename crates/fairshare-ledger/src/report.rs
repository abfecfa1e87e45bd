//! `chain verify`: one whole chain judged again, block by block.

use crate::bandwidth::Bandwidth;
use crate::block::{BlockType, HalfBlock};
use crate::store::{ChainStore, StoreError};
use crate::validation::{Rules, other_half, validate};
use fairshare_crypto::PublicKey;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Blocks read at once.
const PAGE: usize = 256;
/// Gaps and errors that are listed; more are only counted.
const LISTED_MAX: usize = 1000;

/// What is stored of one chain, and whether it is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainReport {
    /// Whose chain.
    pub owner: PublicKey,
    /// How many blocks are stored.
    pub blocks: u64,
    /// The highest stored number.
    pub newest: u32,
    /// Numbers below it that are missing, the first 1,000 stretches.
    pub gaps: Vec<RangeInclusive<u32>>,
    /// How many stretches are missing.
    pub gap_count: u64,
    /// Number and text of what is wrong, the first 1,000.
    pub errors: Vec<(u32, String)>,
    /// How many errors there are.
    pub error_count: u64,
    /// Blocks whose other half is stored.
    pub paired: u64,
    /// Proposals to a key whose agreement is not stored.
    pub unanswered: u64,
    /// Bytes given, as the newest bandwidth block says.
    pub total_up: u64,
    /// Bytes taken, as the newest bandwidth block says.
    pub total_down: u64,
    /// Whether a fork proof against the owner is stored.
    pub is_forker: bool,
}

impl ChainReport {
    /// Bytes given less bytes taken.
    pub fn balance(&self) -> i128 {
        i128::from(self.total_up) - i128::from(self.total_down)
    }

    /// No gap, no error, no fork.
    pub const fn is_sound(&self) -> bool {
        self.gap_count == 0 && self.error_count == 0 && !self.is_forker
    }

    fn gap(&mut self, missing: RangeInclusive<u32>) {
        self.gap_count += 1;
        if self.gaps.len() < LISTED_MAX {
            self.gaps.push(missing);
        }
    }

    fn error(&mut self, number: u32, text: &str) {
        self.error_count += 1;
        if self.errors.len() < LISTED_MAX {
            self.errors.push((number, text.to_owned()));
        }
    }
}

/// Judges the whole stored chain of `owner` again, signatures included.
pub fn verify_chain<S: ChainStore>(store: &S, owner: &PublicKey) -> Result<ChainReport, StoreError> {
    let is_forker = store.proofs()?.iter().any(|proof| proof.accused() == owner);
    let mut report = ChainReport {
        owner: *owner,
        blocks: 0,
        newest: 0,
        gaps: Vec::new(),
        gap_count: 0,
        errors: Vec::new(),
        error_count: 0,
        paired: 0,
        unanswered: 0,
        total_up: 0,
        total_down: 0,
        is_forker,
    };
    let mut from = 0;
    loop {
        let page = store.range(owner, from, u32::MAX, PAGE)?;
        for block in &page {
            verify_block(store, block, &mut report)?;
        }
        match report.newest.checked_add(1) {
            Some(next) if !page.is_empty() => from = next,
            _ => return Ok(report),
        }
    }
}

fn verify_block<S: ChainStore>(
    store: &S,
    block: &Arc<HalfBlock>,
    report: &mut ChainReport,
) -> Result<(), StoreError> {
    if block.sequence > report.newest.saturating_add(1) {
        report.gap(report.newest + 1..=block.sequence - 1);
    }
    report.blocks += 1;
    report.newest = block.sequence;
    for error in validate(store, block, Rules::Kept)?.errors {
        report.error(block.sequence, error.text());
    }
    if other_half(store, block)?.is_some() {
        report.paired += 1;
    } else if block.is_proposal() && !block.is_source() {
        report.unanswered += 1;
    }
    if block.kind == BlockType::BANDWIDTH {
        verify_totals(block, report);
    }
    Ok(())
}

/// On a chain without gaps totals are not only high enough but exact.
//= spec/trustchain.md#10-tribler-bandwidth-tokens-7-1-7-5
fn verify_totals(block: &HalfBlock, report: &mut ChainReport) {
    let Ok(bandwidth) = Bandwidth::of(block) else {
        return report.error(block.sequence, "amounts are out of range");
    };
    let exact = report.total_up.checked_add(bandwidth.up) == Some(bandwidth.total_up)
        && report.total_down.checked_add(bandwidth.down) == Some(bandwidth.total_down);
    if report.gap_count == 0 && !exact {
        report.error(block.sequence, "totals are not the sums of the chain");
    }
    report.total_up = bandwidth.total_up;
    report.total_down = bandwidth.total_down;
}
