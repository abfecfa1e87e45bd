//! Whether a half block fits what is stored: the table of levels and the errors, in order and word for word.
//!
//! Every check reads a few neighbours by index; none scans. The caller skips all of it for a block that is stored
//! already with equal bytes.
//= spec/trustchain.md#6-validation

use crate::bandwidth;
use crate::block::{BlockType, GENESIS_HASH, HalfBlock};
use crate::store::{ChainStore, StoreError};
use std::fmt;
use std::sync::Arc;

/// What validation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validation {
    /// How much of the block's surroundings is known, or `Invalid`.
    pub level: Level,
    /// All errors, in the order of the rules.
    pub errors: Vec<ValidationError>,
    /// The stored block at the same place that proves a double sign together with this one.
    pub double_sign: Option<Arc<HalfBlock>>,
    /// The stored agreement that proves a double countersign together with this one.
    pub double_countersign: Option<Arc<HalfBlock>>,
}

impl Validation {
    /// Whether an error was found.
    pub fn is_invalid(&self) -> bool {
        self.level == Level::Invalid
    }
}

/// How well the block's neighbours in its chain are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Both neighbours are stored, or it is the first block and the next is stored.
    Valid,
    /// Neither neighbour is stored, but others of the chain are.
    Partial,
    /// The block before is stored (or it is the first block), the next is not.
    PartialNext,
    /// The next block is stored, the one before is not.
    PartialPrevious,
    /// Nothing of the chain is stored.
    NoInfo,
    /// A rule is broken.
    Invalid,
}

impl Level {
    /// The name of the level in the reference.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Partial => "partial",
            Self::PartialNext => "partial_next",
            Self::PartialPrevious => "partial_previous",
            Self::NoInfo => "no_info",
            Self::Invalid => "invalid",
        }
    }

    /// Whether blocks right before this one are missing.
    pub const fn lacks_previous(self) -> bool {
        matches!(self, Self::Partial | Self::PartialPrevious | Self::NoInfo)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant is documented by its text below")]
pub enum ValidationError {
    UpNegative,
    DownNegative,
    NothingMoved,
    TotalUpNegative,
    TotalDownNegative,
    GenesisTotalUp,
    GenesisTotalDown,
    UpUnlikeKnown,
    DownUnlikeKnown,
    TotalUpUnlikeKnown,
    TotalDownUnlikeKnown,
    UpUnlikeLinked,
    DownUnlikeLinked,
    TotalUpTooLow,
    TotalDownTooLow,
    TotalUpTooHigh,
    TotalDownTooHigh,
    FieldMissing,
    SequencePriorToGenesis,
    KeyNotValid,
    Signature,
    LinkKeyNotValid,
    SelfSigned,
    GenesisHashMissing,
    GenesisHashMisplaced,
    LinkKeyUnlikeKnown,
    LinkSequenceUnlikeKnown,
    PreviousHashUnlikeKnown,
    SignatureUnlikeKnown,
    DoubleSign,
    LinkedKeyMismatch,
    NoLink,
    LinkedPublicKeyMismatch,
    DoubleCountersign,
    PreviousHashMismatch,
    NextHashMismatch,
}

impl ValidationError {
    /// The words of the reference.
    pub const fn text(self) -> &'static str {
        match self {
            Self::UpNegative => "Up field is negative",
            Self::DownNegative => "Down field is negative",
            Self::NothingMoved => "Up and down are zero",
            Self::TotalUpNegative => "Total up field is negative",
            Self::TotalDownNegative => "Total down field is negative",
            Self::GenesisTotalUp => "Genesis block invalid total_up and/or up",
            Self::GenesisTotalDown => "Genesis block invalid total_down and/or down",
            Self::UpUnlikeKnown => "Up does not match known block",
            Self::DownUnlikeKnown => "Down does not match known block",
            Self::TotalUpUnlikeKnown => "Total up does not match known block",
            Self::TotalDownUnlikeKnown => "Total down does not match known block",
            Self::UpUnlikeLinked => "Up/down mismatch on linked block",
            Self::DownUnlikeLinked => "Down/up mismatch on linked block",
            Self::TotalUpTooLow => "Total up is lower than expected compared to the preceding block",
            Self::TotalDownTooLow => "Total down is lower than expected compared to the preceding block",
            Self::TotalUpTooHigh => "Total up is higher than expected compared to the next block",
            Self::TotalDownTooHigh => "Total down is higher than expected compared to the next block",
            Self::FieldMissing => "Transaction lacks a field or has one that is no number",
            Self::SequencePriorToGenesis => "Sequence number is prior to genesis",
            Self::KeyNotValid => "Public key is not valid",
            Self::Signature => "Invalid signature",
            Self::LinkKeyNotValid => "Linked public key is not valid",
            Self::SelfSigned => "Self signed block",
            Self::GenesisHashMissing => "Sequence number implies previous hash should be Genesis ID",
            Self::GenesisHashMisplaced => "Sequence number implies previous hash should not be Genesis ID",
            Self::LinkKeyUnlikeKnown => "Link public key does not match known block",
            Self::LinkSequenceUnlikeKnown => "Link sequence number does not match known block",
            Self::PreviousHashUnlikeKnown => "Previous hash does not match known block",
            Self::SignatureUnlikeKnown => "Signature does not match known block",
            Self::DoubleSign => "Double sign fraud",
            Self::LinkedKeyMismatch => "Known link public key does not match this block",
            Self::NoLink => "No link to linked block",
            Self::LinkedPublicKeyMismatch => "Public key mismatch on linked block",
            Self::DoubleCountersign => "Double countersign fraud",
            Self::PreviousHashMismatch => "Previous hash is not equal to the hash id of the previous block",
            Self::NextHashMismatch => "Next hash is not equal to the hash id of the block",
        }
    }
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// Which rules apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Those of every block, as in living peers.
    Base,
    /// Those of the block's type too, as in living peers.
    Typed,
    /// Those by which a ledger keeps blocks: as `Typed`, but an agreement by a key that was not asked is nobody's
    /// other half. Living peers take it for one if it comes first, so that any stranger can make them refuse a
    /// proposal that it saw coming; and which blocks they keep depends on the order.
    Kept,
}

/// Judges `block` against what `store` holds.
pub fn validate<S: ChainStore>(store: &S, block: &HalfBlock, rules: Rules) -> Result<Validation, StoreError> {
    let near = Neighbours::of(store, block, rules)?;
    let mut errors = Vec::new();
    if rules != Rules::Base && block.kind == BlockType::BANDWIDTH {
        let (known, link) = (near.known.as_deref(), near.link.as_deref());
        bandwidth::check(store, block, known, link, &mut errors)?;
    }
    let unsigned = check_invariants(block, &mut errors);
    let double_sign = check_known(block, near.known, unsigned, &mut errors);
    let mut double_countersign = match &near.link {
        Some(link) => check_link(store, block, link, rules, &mut errors)?,
        None => None,
    };
    check_chain(block, near.previous.as_deref(), near.next.as_deref(), &mut errors);
    if double_countersign.is_none() {
        double_countersign = other_agreement(store, block)?;
    }
    let level = match errors.is_empty() {
        true => level(block, near.previous.as_deref(), near.next.as_deref()),
        false => Level::Invalid,
    };
    Ok(Validation {
        level,
        errors,
        double_sign,
        double_countersign: double_countersign.filter(|_| !unsigned),
    })
}

struct Neighbours {
    known: Option<Arc<HalfBlock>>,
    link: Option<Arc<HalfBlock>>,
    previous: Option<Arc<HalfBlock>>,
    next: Option<Arc<HalfBlock>>,
}

impl Neighbours {
    fn of<S: ChainStore>(store: &S, block: &HalfBlock, rules: Rules) -> Result<Self, StoreError> {
        Ok(Self {
            known: store.get(&block.owner, block.sequence)?,
            link: if rules == Rules::Kept { other_half(store, block)? } else { store.linked(block)? },
            previous: store.before(&block.owner, block.sequence)?,
            next: store.after(&block.owner, block.sequence)?,
        })
    }
}

/// The block at the place that an agreement names, or the agreement of the key that a proposal is for.
pub(crate) fn other_half<S: ChainStore>(
    store: &S,
    block: &HalfBlock,
) -> Result<Option<Arc<HalfBlock>>, StoreError> {
    if !block.is_proposal() {
        return store.get(&block.link_owner, block.link_sequence);
    }
    let agreements = store.links_to(&block.owner, block.sequence)?;
    Ok(agreements.into_iter().find(|agreement| agreement.owner == block.link_owner))
}

fn level(block: &HalfBlock, previous: Option<&HalfBlock>, next: Option<&HalfBlock>) -> Level {
    let genesis = block.is_genesis();
    let gap_before = !previous.is_some_and(|previous| precedes(previous, block));
    let gap_after = !next.is_some_and(|next| precedes(block, next));
    match (previous.is_some(), next.is_some()) {
        (false, false) if !genesis => Level::NoInfo,
        _ => match (gap_before && !genesis, gap_after) {
            (true, true) => Level::Partial,
            (true, false) => Level::PartialPrevious,
            (false, true) => Level::PartialNext,
            (false, false) => Level::Valid,
        },
    }
}

/// Whether `first` stands right before `second`.
fn precedes(first: &HalfBlock, second: &HalfBlock) -> bool {
    first.sequence.checked_add(1) == Some(second.sequence)
}

/// The rules that need no other block. Tells whether the signature does not hold.
fn check_invariants(block: &HalfBlock, errors: &mut Vec<ValidationError>) -> bool {
    if block.sequence < 1 {
        errors.push(ValidationError::SequencePriorToGenesis);
    }
    let before = errors.len();
    if !block.owner.is_valid() {
        errors.push(ValidationError::KeyNotValid);
    } else if !block.verify() {
        errors.push(ValidationError::Signature);
    }
    let unsigned = errors.len() > before;
    if !block.link_owner.is_valid() && !block.is_source() {
        errors.push(ValidationError::LinkKeyNotValid);
    }
    if block.link_owner == block.owner {
        errors.push(ValidationError::SelfSigned);
    }
    match (block.sequence == 1, block.previous_hash == GENESIS_HASH) {
        (true, false) => errors.push(ValidationError::GenesisHashMissing),
        (false, true) => errors.push(ValidationError::GenesisHashMisplaced),
        _ => {}
    }
    unsigned
}

/// The rules against a stored block at the same place; returns it if the two prove fraud.
//= spec/trustchain.md#7-fraud
fn check_known(
    block: &HalfBlock,
    known: Option<Arc<HalfBlock>>,
    unsigned: bool,
    errors: &mut Vec<ValidationError>,
) -> Option<Arc<HalfBlock>> {
    let known = known.filter(|known| known.hash() != block.hash())?;
    if known.link_owner != block.link_owner {
        errors.push(ValidationError::LinkKeyUnlikeKnown);
    }
    if known.link_sequence != block.link_sequence {
        errors.push(ValidationError::LinkSequenceUnlikeKnown);
    }
    if known.previous_hash != block.previous_hash {
        errors.push(ValidationError::PreviousHashUnlikeKnown);
    }
    if known.signature != block.signature {
        errors.push(ValidationError::SignatureUnlikeKnown);
    }
    if unsigned {
        return None;
    }
    errors.push(ValidationError::DoubleSign);
    Some(known)
}

/// The rules against the linked block: the first that applies. Returns the other agreement if there are two.
fn check_link<S: ChainStore>(
    store: &S,
    block: &HalfBlock,
    link: &HalfBlock,
    rules: Rules,
    errors: &mut Vec<ValidationError>,
) -> Result<Option<Arc<HalfBlock>>, StoreError> {
    // A source block is not refused because somebody agreed to it: the reference's defect, fixed here.
    if link.owner != block.link_owner && !block.is_source() {
        errors.push(ValidationError::LinkedKeyMismatch);
    } else if link.link_sequence != block.sequence && link.sequence != block.link_sequence {
        errors.push(ValidationError::NoLink);
    } else if block.owner != link.link_owner && !link.is_source() {
        errors.push(ValidationError::LinkedPublicKeyMismatch);
    } else if !block.is_proposal() && !link.is_source() {
        let other = if rules == Rules::Kept { other_half(store, link)? } else { store.linked(link)? };
        let other = other.filter(|other| other.hash() != block.hash());
        if let Some(other) = other {
            errors.push(ValidationError::DoubleCountersign);
            return Ok(Some(other).filter(|other| contradicts(block, other)));
        }
    }
    Ok(None)
}

/// Another stored agreement of the same key to the same proposal, whether the proposal is stored or not.
fn other_agreement<S: ChainStore>(
    store: &S,
    block: &HalfBlock,
) -> Result<Option<Arc<HalfBlock>>, StoreError> {
    if block.is_proposal() || block.is_source() {
        return Ok(None);
    }
    let agreements = store.links_to(&block.link_owner, block.link_sequence)?;
    Ok(agreements.into_iter().find(|other| contradicts(block, other)))
}

fn contradicts(block: &HalfBlock, other: &HalfBlock) -> bool {
    other.owner == block.owner && other.link() == block.link() && other.sequence != block.sequence
}

fn check_chain(
    block: &HalfBlock,
    previous: Option<&HalfBlock>,
    next: Option<&HalfBlock>,
    errors: &mut Vec<ValidationError>,
) {
    let breaks_before = |previous: &HalfBlock| previous.hash() != block.previous_hash;
    if previous.is_some_and(|previous| precedes(previous, block) && breaks_before(previous)) {
        errors.push(ValidationError::PreviousHashMismatch);
    }
    let breaks_after = |next: &HalfBlock| next.previous_hash != block.hash();
    if next.is_some_and(|next| precedes(block, next) && breaks_after(next)) {
        errors.push(ValidationError::NextHashMismatch);
    }
}
