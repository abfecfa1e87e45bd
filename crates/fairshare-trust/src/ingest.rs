//! From halves of interactions to edges: what counts, once, in which direction, gross or netted, with or without age.
//!
//! This part knows numbers instead of keys and amounts instead of blocks.

use crate::{EdgeChange, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Pairs of nodes whose sums are kept: two edges each, ten million edges. Own pairs are kept beyond it.
//= spec/trust.md#2-5-bounds-on-what-is-kept
const PAIRS_MAX: usize = 5_000_000;
/// Words of 64 numbers in which it is noted what was counted. As many as pairs, for one pair may need two of them, but
/// chains are dense.
const WORDS_MAX: usize = 10_000_000;
/// A decayed sum beyond this is brought down, with all others, by [`RESCALE_BITS`] bits.
//= spec/trust.md#2-4-age
const DECAYED_MAX: f64 = 1_152_921_504_606_846_976.0;
/// Bits by which all decayed weights are shifted at once.
const RESCALE_BITS: u16 = 16;
/// Half-lives from the epoch that are told apart; times beyond count as that, which only false clocks reach.
const HALF_LIVES_MAX: f64 = 400.0;

/// Which weights the edges carry.
//= spec/trust.md#2-3-netting
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// What each of two nodes received from the other, both edges.
    Gross,
    /// What one of the two received more than it gave, one edge.
    #[default]
    Netted,
}

/// Forward decay: an interaction at a time weighs 2^((time - epoch)/half-life).
//= spec/trust.md#2-4-age
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decay {
    /// In milliseconds, not 0.
    pub half_life_ms: u64,
    /// The time, in milliseconds since 1970, at which a byte weighs one byte.
    pub epoch_ms: u64,
}

impl Decay {
    fn factor(self, time_ms: u64) -> f64 {
        let lives = (time_ms as f64 - self.epoch_ms as f64) / self.half_life_ms.max(1) as f64;
        lives.clamp(-HALF_LIVES_MAX, HALF_LIVES_MAX).exp2()
    }
}

/// One party's signed record of an interaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    /// Who signed.
    pub owner: NodeId,
    /// Its number in the owner's chain.
    pub sequence: u32,
    /// Whom it names.
    pub counterparty: NodeId,
    /// The number in the counterparty's chain that it answers; 0 in a proposal.
    pub link_sequence: u32,
    /// Bytes that the owner gave.
    pub up: u64,
    /// Bytes that the owner took.
    pub down: u64,
    /// When, as far as it may be believed.
    pub time_ms: u64,
}

/// Why an interaction adds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IngestError {
    /// Both parties are the same.
    Alone,
    /// The two halves do not answer each other.
    Unlinked,
    /// What one gave is not what the other took.
    Inconsistent,
    /// One of the halves was counted before.
    Counted,
    /// The graph is full, and ego takes no part.
    Full,
    /// It is no half of ego that ego proposed.
    NotOwn,
}

impl IngestError {
    /// A fixed text, for counting.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Alone => "interaction of a node with itself",
            Self::Unlinked => "halves are not linked",
            Self::Inconsistent => "halves do not mirror each other",
            Self::Counted => "interaction is counted already",
            Self::Full => "graph is full",
            Self::NotOwn => "not an own proposal",
        }
    }
}

impl fmt::Display for IngestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for IngestError {}

/// What the lower and the higher node of a pair received from the other. With decay the bits of floating point
/// numbers, else bytes: above 2^53 the former would not be exact.
type Sums = [u64; 2];

/// The sums of all pairs, and what was counted in them.
#[derive(Clone, Debug)]
pub struct Ingest {
    ego: NodeId,
    weights: Weights,
    decay: Option<Decay>,
    /// How far all decayed weights were shifted down so far, in bits.
    shift: u16,
    pairs: BTreeMap<(NodeId, NodeId), Sums>,
    pairs_max: usize,
    /// Counted halves: owner and number / 64 to one bit for each number.
    counted: BTreeMap<(NodeId, u32), u64>,
    /// Own proposals of which only what ego received is counted.
    early: BTreeSet<u32>,
    changes: Vec<EdgeChange>,
}

impl Ingest {
    /// Nothing counted yet.
    pub const fn new(ego: NodeId, weights: Weights, decay: Option<Decay>) -> Self {
        Self {
            ego,
            weights,
            decay,
            shift: 0,
            pairs: BTreeMap::new(),
            pairs_max: PAIRS_MAX,
            counted: BTreeMap::new(),
            early: BTreeSet::new(),
            changes: Vec::new(),
        }
    }

    /// An own proposal that nobody has agreed to yet: what ego received counts at once, what it claims to have given
    /// does not.
    //= spec/trust.md#2-2-vertices-and-edges
    pub fn own(&mut self, half: &Half) -> Result<(), IngestError> {
        if half.owner != self.ego || half.link_sequence != 0 {
            return Err(IngestError::NotOwn);
        }
        if half.owner == half.counterparty {
            return Err(IngestError::Alone);
        }
        if self.is_counted(half) || !self.early.insert(half.sequence) {
            return Err(IngestError::Counted);
        }
        self.grow(half.owner, half.counterparty, half.down, 0, half.time_ms);
        Ok(())
    }

    /// Both halves of an interaction exist.
    //= spec/trust.md#2-2-vertices-and-edges
    pub fn pair(&mut self, proposal: &Half, agreement: &Half) -> Result<(), IngestError> {
        let (a, b) = (proposal.owner, proposal.counterparty);
        if a == b {
            return Err(IngestError::Alone);
        }
        let linked = agreement.owner == b && agreement.counterparty == a;
        if !linked || agreement.link_sequence != proposal.sequence {
            return Err(IngestError::Unlinked);
        }
        if proposal.up != agreement.down || proposal.down != agreement.up {
            return Err(IngestError::Inconsistent);
        }
        if self.is_counted(proposal) || self.is_counted(agreement) {
            return Err(IngestError::Counted);
        }
        let own = a == self.ego || b == self.ego;
        let full = self.counted.len() >= WORDS_MAX
            || (self.pairs.len() >= self.pairs_max && !self.pairs.contains_key(&ordered(a, b)));
        if full && !own {
            return Err(IngestError::Full);
        }
        self.count(proposal);
        self.count(agreement);
        let early = a == self.ego && self.early.remove(&proposal.sequence);
        let received = if early { 0 } else { proposal.down };
        self.grow(a, b, received, proposal.up, proposal.time_ms.max(agreement.time_ms));
        Ok(())
    }

    /// The changes of edges since the last call, in an order that an engine may apply.
    pub fn take_changes(&mut self) -> Vec<EdgeChange> {
        std::mem::take(&mut self.changes)
    }

    /// All edges with their weights, for an engine that reads them so.
    pub fn edges(&self, weights: Weights) -> Vec<(NodeId, NodeId, u64)> {
        let mut edges = Vec::new();
        for (pair, sums) in &self.pairs {
            let of_pair = self.pair_edges(*pair, *sums, weights);
            edges.extend(of_pair.into_iter().filter(|(.., weight)| *weight > 0));
        }
        edges
    }

    /// What one node received from another, all together; with decay in bytes of the epoch.
    pub fn received(&self, by: NodeId, from: NodeId) -> f64 {
        let sums = self.pairs.get(&ordered(by, from)).copied().unwrap_or_default();
        let sum = sums[usize::from(by > from)];
        if self.decay.is_some() { f64::from_bits(sum) } else { sum as f64 }
    }

    /// How many pairs of nodes have sums.
    pub fn pair_count(&self) -> usize {
        self.pairs.len()
    }

    fn is_counted(&self, half: &Half) -> bool {
        let word = self.counted.get(&(half.owner, half.sequence / 64)).copied().unwrap_or(0);
        word >> (half.sequence % 64) & 1 == 1
    }

    fn count(&mut self, half: &Half) {
        *self.counted.entry((half.owner, half.sequence / 64)).or_default() |= 1 << (half.sequence % 64);
    }

    /// Adds what `a` and `b` received from each other, and notes which edges change.
    fn grow(&mut self, a: NodeId, b: NodeId, a_received: u64, b_received: u64, time_ms: u64) {
        if a_received == 0 && b_received == 0 {
            return;
        }
        let pair = ordered(a, b);
        let more = if a < b { [a_received, b_received] } else { [b_received, a_received] };
        let before = self.pairs.get(&pair).copied().unwrap_or_default();
        let after = [0, 1].map(|side| self.sum(before[side], more[side], time_ms));
        self.pairs.insert(pair, after);
        let highest = |sums: Sums| f64::from_bits(sums[0]).max(f64::from_bits(sums[1]));
        if self.decay.is_some() && self.scaled(highest(after)) > DECAYED_MAX {
            return self.rescale(pair, before);
        }
        self.note(self.pair_edges(pair, before, self.weights), self.pair_edges(pair, after, self.weights));
    }

    fn sum(&self, sum: u64, more: u64, time_ms: u64) -> u64 {
        match self.decay {
            None => sum.saturating_add(more),
            Some(decay) => (f64::from_bits(sum) + more as f64 * decay.factor(time_ms)).to_bits(),
        }
    }

    fn scaled(&self, sum: f64) -> f64 {
        sum * (-f64::from(self.shift)).exp2()
    }

    /// All weights become smaller by a power of two, which changes no probability. `changed` had other sums before.
    //= spec/trust.md#2-4-age
    fn rescale(&mut self, changed: (NodeId, NodeId), sums_before: Sums) {
        let before = |ingest: &Self| -> Vec<_> {
            let sums = ingest
                .pairs
                .iter()
                .map(|(pair, sums)| (*pair, if *pair == changed { sums_before } else { *sums }));
            sums.map(|(pair, sums)| ingest.pair_edges(pair, sums, ingest.weights)).collect()
        };
        let before = before(self);
        let highest = self.pairs.values().flatten().map(|sum| f64::from_bits(*sum)).fold(0.0, f64::max);
        while self.scaled(highest) > DECAYED_MAX {
            self.shift += RESCALE_BITS;
        }
        let after: Vec<_> =
            self.pairs.iter().map(|(pair, sums)| self.pair_edges(*pair, *sums, self.weights)).collect();
        for (before, after) in before.into_iter().zip(after) {
            self.note(before, after);
        }
    }

    /// The two edges of a pair, the one of the lower node first.
    //= spec/trust.md#2-3-netting
    fn pair_edges(
        &self,
        (low, high): (NodeId, NodeId),
        sums: Sums,
        weights: Weights,
    ) -> [(NodeId, NodeId, u64); 2] {
        let weight = |sum: u64| match self.decay {
            None => sum,
            Some(_) => self.scaled(f64::from_bits(sum)) as u64,
        };
        let [by_low, by_high] = sums.map(weight);
        match weights {
            Weights::Gross => [(low, high, by_low), (high, low, by_high)],
            Weights::Netted => {
                [(low, high, by_low.saturating_sub(by_high)), (high, low, by_high.saturating_sub(by_low))]
            }
        }
    }

    /// Notes what changed; what falls comes first, so that a flip of the balance is a fall and then a rise.
    fn note(&mut self, before: [(NodeId, NodeId, u64); 2], after: [(NodeId, NodeId, u64); 2]) {
        let both = before.into_iter().zip(after);
        let mut changes: Vec<EdgeChange> = both
            .map(|((from, to, old), (.., new))| EdgeChange { from, to, old, new })
            .filter(|change| change.old != change.new)
            .collect();
        changes.sort_by_key(|change| change.new > change.old);
        self.changes.extend(changes);
    }
}

const fn ordered(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    if a < b { (a, b) } else { (b, a) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(a: NodeId, a_sequence: u32, b: NodeId, b_sequence: u32, up: u64, down: u64) -> (Half, Half) {
        let time_ms = 0;
        let proposal =
            Half { owner: a, sequence: a_sequence, counterparty: b, link_sequence: 0, up, down, time_ms };
        let agreement = Half {
            owner: b,
            sequence: b_sequence,
            counterparty: a,
            link_sequence: a_sequence,
            up: down,
            down: up,
            time_ms,
        };
        (proposal, agreement)
    }

    //= spec/trust.md#2-2-vertices-and-edges
    #[test]
    fn each_interaction_counts_once_and_only_if_both_say_the_same() {
        let mut ingest = Ingest::new(0, Weights::Gross, None);
        let (p, a) = pair(1, 1, 2, 1, 5, 7);
        assert_eq!(ingest.pair(&p, &a), Ok(()));
        assert_eq!(ingest.pair(&p, &a), Err(IngestError::Counted));
        assert_eq!(ingest.pair(&a, &Half { link_sequence: 1, ..p }), Err(IngestError::Counted));
        let (p, a) = pair(1, 2, 2, 2, 5, 7);
        assert_eq!(ingest.pair(&p, &Half { up: 8, ..a }), Err(IngestError::Inconsistent));
        assert_eq!(ingest.pair(&p, &Half { link_sequence: 3, ..a }), Err(IngestError::Unlinked));
        assert_eq!(ingest.pair(&p, &Half { owner: 3, ..a }), Err(IngestError::Unlinked));
        let (p, a) = pair(4, 1, 4, 2, 5, 7);
        assert_eq!(ingest.pair(&p, &a), Err(IngestError::Alone));
        assert_eq!(ingest.edges(Weights::Gross), [(1, 2, 7), (2, 1, 5)]);
        assert_eq!(ingest.edges(Weights::Netted), [(1, 2, 2)]);
    }

    //= spec/trust.md#2-2-vertices-and-edges
    #[test]
    fn what_ego_received_counts_at_once_and_the_rest_when_the_other_half_comes() {
        let mut ingest = Ingest::new(0, Weights::Gross, None);
        let (p, a) = pair(0, 1, 2, 1, 5, 7);
        assert_eq!(ingest.own(&p), Ok(()));
        assert_eq!(ingest.own(&p), Err(IngestError::Counted));
        assert_eq!(ingest.own(&a), Err(IngestError::NotOwn));
        assert_eq!(ingest.take_changes(), [EdgeChange { from: 0, to: 2, old: 0, new: 7 }]);
        assert_eq!(ingest.pair(&p, &a), Ok(()));
        assert_eq!(ingest.take_changes(), [EdgeChange { from: 2, to: 0, old: 0, new: 5 }]);
        assert_eq!(ingest.own(&p), Err(IngestError::Counted));
    }

    //= spec/trust.md#2-5-bounds-on-what-is-kept
    #[test]
    fn a_full_graph_takes_only_what_is_known_or_egos() {
        let mut ingest = Ingest { pairs_max: 1, ..Ingest::new(0, Weights::Gross, None) };
        let mut add = |a, number, b| {
            let (p, a) = pair(a, number, b, number, 0, 5);
            ingest.pair(&p, &a)
        };
        assert_eq!(add(1, 1, 2), Ok(()));
        assert_eq!(add(1, 2, 3), Err(IngestError::Full));
        assert_eq!(add(2, 3, 1), Ok(()));
        assert_eq!(add(0, 4, 3), Ok(()));
        // What was refused was not counted: it may come again when there is room.
        assert_eq!(add(1, 2, 3), Err(IngestError::Full));
    }

    //= spec/trust.md#2-3-netting
    #[test]
    fn a_flip_of_the_balance_is_a_fall_and_then_a_rise() {
        let mut ingest = Ingest::new(0, Weights::Netted, None);
        let (p, a) = pair(1, 1, 2, 1, 0, 10);
        ingest.pair(&p, &a).expect("new");
        let (p, a) = pair(2, 2, 1, 2, 0, 25);
        ingest.pair(&p, &a).expect("new");
        let changes = ingest.take_changes();
        assert_eq!(
            changes[1..],
            [EdgeChange { from: 1, to: 2, old: 10, new: 0 }, EdgeChange { from: 2, to: 1, old: 0, new: 15 }]
        );
    }

    #[test]
    fn sums_saturate() {
        let mut ingest = Ingest::new(0, Weights::Gross, None);
        for number in 1..=3 {
            let (p, a) = pair(1, number, 2, number, 0, u64::MAX / 2);
            ingest.pair(&p, &a).expect("new");
        }
        assert_eq!(ingest.edges(Weights::Gross), [(1, 2, u64::MAX)]);
    }

    //= spec/trust.md#2-4-age
    #[test]
    fn decayed_weights_stay_in_range_and_keep_their_proportions() {
        let decay = Decay { half_life_ms: 1000, epoch_ms: 0 };
        let mut ingest = Ingest::new(0, Weights::Gross, Some(decay));
        let mut told = BTreeMap::new();
        for number in 1..=200u32 {
            let (mut p, mut a) = pair(1, number, 2 + number % 2, number, 0, 1 << 30);
            (p.time_ms, a.time_ms) = (u64::from(number) * 1000, 0);
            ingest.pair(&p, &a).expect("new");
            for change in ingest.take_changes() {
                assert_eq!(told.insert((change.from, change.to), change.new).unwrap_or(0), change.old);
            }
        }
        let (even, odd) = (told[&(1, 2)], told[&(1, 3)]);
        assert!(even < 1 << 61 && odd > 1 << 40);
        // The sums are 2^200 + 2^198 .. and 2^199 + 2^197 ..
        assert!((even as f64 / odd as f64 - 2.0).abs() < 1e-6);
    }
}
