//! What makes a bandwidth block invalid, as in living peers.
//!
//! The reference counts in numbers of any size. Here they are 128 bits wide; what does not fit is no amount.
//= spec/trustchain.md#10-tribler-bandwidth-tokens-7-1-7-5

use crate::block::{GENESIS_HASH, HalfBlock};
use crate::store::{ChainStore, StoreError};
use crate::transaction::{self, Value};
use crate::validation::ValidationError as E;

/// Checks `block` against the block `known` at its place, the block `link` it is linked with, and its neighbours of
/// the same type, gaps allowed.
pub(crate) fn check<S: ChainStore>(
    store: &S,
    block: &HalfBlock,
    known: Option<&HalfBlock>,
    link: Option<&HalfBlock>,
    errors: &mut Vec<E>,
) -> Result<(), StoreError> {
    let Some(own) = Amounts::of(block) else {
        errors.push(E::FieldMissing);
        return Ok(());
    };
    let mut fail = |broken: bool, error: E| {
        if broken {
            errors.push(error);
        }
    };
    own.check_alone(block, &mut fail);
    if let Some(known) = known.and_then(Amounts::of) {
        fail(known.up != own.up, E::UpUnlikeKnown);
        fail(known.down != own.down, E::DownUnlikeKnown);
        fail(known.total_up != own.total_up, E::TotalUpUnlikeKnown);
        fail(known.total_down != own.total_down, E::TotalDownUnlikeKnown);
    }
    if let Some(link) = link {
        let link = Amounts::of(link);
        fail(link.as_ref().map(|link| link.down) != Some(own.up), E::UpUnlikeLinked);
        fail(link.as_ref().map(|link| link.up) != Some(own.down), E::DownUnlikeLinked);
    }
    let previous = store.newest_of_kind(&block.owner, &block.kind, Some(block.sequence))?;
    if let Some(previous) = previous.as_deref().and_then(Amounts::of) {
        fail(previous.total_up.saturating_add(own.up) > own.total_up, E::TotalUpTooLow);
        fail(previous.total_down.saturating_add(own.down) > own.total_down, E::TotalDownTooLow);
    }
    let next = store.next_of_kind(&block.owner, &block.kind, block.sequence)?;
    if let Some(next) = next.as_deref().and_then(Amounts::of) {
        fail(own.total_up.saturating_add(next.up) > next.total_up, E::TotalUpTooHigh);
        fail(own.total_down.saturating_add(next.down) > next.total_down, E::TotalDownTooHigh);
    }
    Ok(())
}

struct Amounts {
    up: i128,
    down: i128,
    total_up: i128,
    total_down: i128,
}

impl Amounts {
    fn of(block: &HalfBlock) -> Option<Self> {
        let (value, _) = transaction::decode(&block.transaction).ok()?;
        let amount = |name| match value.field(name)? {
            Value::Int(number) => number.to_i128(),
            _ => None,
        };
        Some(Self {
            up: amount("up")?,
            down: amount("down")?,
            total_up: amount("total_up")?,
            total_down: amount("total_down")?,
        })
    }

    fn check_alone(&self, block: &HalfBlock, fail: &mut impl FnMut(bool, E)) {
        fail(self.up < 0, E::UpNegative);
        fail(self.down < 0, E::DownNegative);
        fail(self.up == 0 && self.down == 0, E::NothingMoved);
        fail(self.total_up < 0, E::TotalUpNegative);
        fail(self.total_down < 0, E::TotalDownNegative);
        if block.sequence == 1 || block.previous_hash == GENESIS_HASH {
            fail(self.total_up != self.up, E::GenesisTotalUp);
            fail(self.total_down != self.down, E::GenesisTotalDown);
        }
    }
}
