//! The out-edges of one node: weighted sampling, look-up and change in logarithmic time, twelve bytes an edge.
//!
//! The weights stand in a Fenwick tree, so that a random point of the total finds its edge by descent. The tree lies
//! beside the targets in one allocation: most nodes have few edges, and then a step of a walk costs one cache line.

use crate::NodeId;
use std::collections::HashMap;

/// Edges from which a node gets an index of its targets: fewer are found faster by looking at all of them.
const INDEXED_FROM: usize = 48;

/// One slot: the target, and the sum of the weights that the slot stands for in the tree.
#[derive(Clone, Copy, Debug)]
struct Slot {
    target: NodeId,
    /// Low and high half: two words of 32 bits need no padding behind the target.
    sum: [u32; 2],
}

impl Slot {
    const fn new(target: NodeId, sum: u64) -> Self {
        Self { target, sum: [sum as u32, (sum >> 32) as u32] }
    }

    const fn sum(self) -> u64 {
        (self.sum[1] as u64) << 32 | self.sum[0] as u64
    }
}

/// The out-edges of one node. No edge has weight 0, and the total never passes 64 bits.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutEdges {
    slots: Vec<Slot>,
    total: u64,
    /// Target to slot, for nodes of many edges. Looked up, never iterated. Boxed, because most nodes have none.
    #[expect(clippy::box_collection, reason = "eight bytes instead of 48 in each node")]
    index: Option<Box<HashMap<NodeId, u32>>>,
}

impl OutEdges {
    /// How many edges there are.
    pub(crate) const fn len(&self) -> usize {
        self.slots.len()
    }

    /// The sum of all weights.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// The weight of the edge to `target`; 0 if there is none.
    pub(crate) fn weight(&self, target: NodeId) -> u64 {
        self.find(target).map_or(0, |at| self.weight_at(at))
    }

    /// Targets and weights, in no particular order that anything may depend on but a fixed one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.slots.iter().enumerate().map(|(at, slot)| (slot.target, self.weight_at(at)))
    }

    /// Gives the edge to `target` a weight; 0 removes it. The weight is cut so that the total stays within 64 bits.
    /// Returns the weights before and after.
    //= spec/trust.md#2-2-vertices-and-edges
    pub(crate) fn set(&mut self, target: NodeId, weight: u64) -> (u64, u64) {
        let found = self.find(target);
        let old = found.map_or(0, |at| self.weight_at(at));
        let new = weight.min(u64::MAX - (self.total - old));
        self.total = self.total - old + new;
        match found {
            Some(at) if new == 0 => self.remove(at, old),
            Some(at) => self.add(at, new.wrapping_sub(old)),
            None if new > 0 => self.push(target, new),
            None => {}
        }
        (old, new)
    }

    /// The target whose share of the total holds `point`, which lies below the total.
    #[inline]
    pub(crate) fn at_point(&self, mut point: u64) -> Option<NodeId> {
        let len = self.slots.len();
        let mut passed = 0;
        let mut step = (len + 1).next_power_of_two() >> 1;
        while step > 0 {
            if let Some(slot) = self.slots.get(passed + step - 1)
                && slot.sum() <= point
            {
                point -= slot.sum();
                passed += step;
            }
            step >>= 1;
        }
        self.slots.get(passed).map(|slot| slot.target)
    }

    /// Bytes held on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        let index =
            self.index.as_ref().map_or(0, |index| index.capacity() * 9 + size_of::<HashMap<u32, u32>>());
        self.slots.capacity() * size_of::<Slot>() + index
    }

    /// Makes room for exactly `more` edges.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.slots.reserve_exact(more);
    }

    fn find(&self, target: NodeId) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&target).map(|at| *at as usize),
            None => self.slots.iter().position(|slot| slot.target == target),
        }
    }

    fn sum_at(&self, number: usize) -> u64 {
        self.slots[number - 1].sum()
    }

    /// The weight in slot `at`: what the slot stands for, less what the slots below it stand for.
    fn weight_at(&self, at: usize) -> u64 {
        let number = at + 1;
        let mut weight = self.sum_at(number);
        let end = number - lowest_bit(number);
        let mut below = number - 1;
        while below > end {
            weight -= self.sum_at(below);
            below -= lowest_bit(below);
        }
        weight
    }

    /// Adds `delta`, modulo 2^64, to the weight in slot `at`.
    fn add(&mut self, at: usize, delta: u64) {
        let mut number = at + 1;
        while let Some(slot) = self.slots.get_mut(number - 1) {
            *slot = Slot::new(slot.target, slot.sum().wrapping_add(delta));
            number += lowest_bit(number);
        }
    }

    fn push(&mut self, target: NodeId, weight: u64) {
        let number = self.slots.len() + 1;
        let end = number - lowest_bit(number);
        let mut sum = weight;
        let mut below = number - 1;
        while below > end {
            sum += self.sum_at(below);
            below -= lowest_bit(below);
        }
        if self.slots.len() == self.slots.capacity() {
            // A quarter more, not twice as much: there are many nodes, and memory is what limits the graph.
            self.slots.reserve_exact((self.slots.len() / 4).max(2));
        }
        self.slots.push(Slot::new(target, sum));
        if let Some(index) = &mut self.index {
            index.insert(target, (number - 1) as u32);
        } else if number >= INDEXED_FROM {
            let places = self.slots.iter().enumerate().map(|(at, slot)| (slot.target, at as u32));
            self.index = Some(Box::new(places.collect()));
        }
    }

    /// The last edge moves into the slot that becomes free; the last slot of a Fenwick tree can simply go.
    fn remove(&mut self, at: usize, weight: u64) {
        let last = self.slots.len() - 1;
        let gone = self.slots[at].target;
        if at < last {
            let moved = self.slots[last].target;
            let delta = self.weight_at(last).wrapping_sub(weight);
            self.slots.truncate(last);
            self.add(at, delta);
            self.slots[at].target = moved;
            if let Some(index) = &mut self.index {
                index.insert(moved, at as u32);
            }
        } else {
            self.slots.truncate(last);
        }
        if let Some(index) = &mut self.index {
            index.remove(&gone);
        }
    }
}

const fn lowest_bit(number: usize) -> usize {
    number & number.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;
    use std::collections::BTreeMap;

    #[test]
    fn any_sequence_of_changes_leaves_the_weights_of_a_plain_map() {
        let mut rng = Rng::from_seed([3; 32]);
        let (mut edges, mut plain) = (OutEdges::default(), BTreeMap::new());
        for _ in 0..20_000 {
            let target = rng.below(120) as u32;
            let weight = if rng.chance(1, 3) { 0 } else { 1 + rng.below(1 << 40) };
            let old = plain.insert(target, weight).unwrap_or(0);
            assert_eq!(edges.set(target, weight), (old, weight));
        }
        plain.retain(|_, weight| *weight > 0);
        assert_eq!(edges.iter().collect::<BTreeMap<_, _>>(), plain);
        assert_eq!(edges.total(), plain.values().sum::<u64>());
        // Each edge is found at both ends of its share.
        let mut passed = 0;
        for (target, weight) in edges.iter() {
            assert_eq!(edges.at_point(passed), Some(target));
            assert_eq!(edges.at_point(passed + weight - 1), Some(target));
            passed += weight;
        }
    }

    //= spec/trust.md#2-2-vertices-and-edges
    #[test]
    fn weights_saturate_and_never_wrap() {
        let mut edges = OutEdges::default();
        assert_eq!(edges.set(1, u64::MAX - 5), (0, u64::MAX - 5));
        assert_eq!(edges.set(2, 10), (0, 5));
        assert_eq!(edges.set(3, 1), (0, 0));
        assert_eq!((edges.len(), edges.total()), (2, u64::MAX));
        assert_eq!(edges.at_point(u64::MAX - 1), Some(2));
        assert_eq!(edges.set(1, 7), (u64::MAX - 5, 7));
        assert_eq!(edges.set(2, 10), (5, 10));
        assert_eq!(edges.total(), 17);
    }

    #[test]
    fn nothing_is_found_where_nothing_is() {
        assert_eq!(OutEdges::default().at_point(0), None);
        assert_eq!(OutEdges::default().weight(4), 0);
    }
}
