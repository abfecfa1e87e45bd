//! Stored random walks with an index of every visit, so that the walks that an edge concerns are found at once.

use crate::NodeId;
use std::cell::Cell;

/// Nodes of one walk; at the default probability to go on, 6 of 10 million walks are cut by it.
//= spec/trust.md#5-1-state
pub(crate) const WALK_LEN_MAX: usize = 64;
/// Walks of one engine: number and position of a visit share 32 bits.
pub(crate) const WALKS_MAX: u32 = 1 << 26;

/// One visit: which walk, and at which position of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Visit(u32);

impl Visit {
    const fn new(walk: u32, at: usize) -> Self {
        Self(walk << 6 | at as u32)
    }

    /// The number of the walk.
    pub(crate) const fn walk(self) -> u32 {
        self.0 >> 6
    }

    /// The visit one position before, if this one is not the first of its walk.
    pub(crate) const fn previous(self) -> Option<Self> {
        if self.at() == 0 { None } else { Some(Self(self.0 - 1)) }
    }

    /// The position in the walk, from 0.
    pub(crate) const fn at(self) -> usize {
        (self.0 & (WALK_LEN_MAX as u32 - 1)) as usize
    }
}

/// One step: the node, and where its list of visits names this one.
#[derive(Clone, Copy, Debug)]
struct Step {
    node: NodeId,
    entry: u32,
}

#[derive(Clone, Debug, Default)]
struct Walk {
    steps: Vec<Step>,
    /// The coin said to go on, but no edge led out of the last node.
    dangling: bool,
}

/// What is known of one node.
#[derive(Clone, Debug)]
struct Place {
    visits: Vec<Visit>,
    /// How many walks contain the node.
    walks: u32,
    /// The bottleneck of the node, until one of its walks changes.
    bottleneck: Cell<Option<Bottleneck>>,
}

/// The node that most walks to a target pass, and the share of them that do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bottleneck {
    /// The node; `None` if no walk passes any.
    pub node: Option<NodeId>,
    /// The share, from 0 to 1.
    pub share: f64,
}

/// All walks of an engine, from one start.
#[derive(Clone, Debug)]
pub(crate) struct Walks {
    walks: Vec<Walk>,
    places: Vec<Place>,
    visits: u64,
}

impl Walks {
    /// `count` walks that have only just begun at `start`.
    pub(crate) fn new(count: u32, start: NodeId) -> Self {
        let mut walks = Self {
            walks: vec![Walk::default(); count.min(WALKS_MAX) as usize],
            places: Vec::new(),
            visits: 0,
        };
        for walk in 0..walks.count() {
            walks.push(walk, start);
        }
        walks
    }

    /// How many walks there are.
    pub(crate) const fn count(&self) -> u32 {
        self.walks.len() as u32
    }

    /// How many nodes there is a place for; those beyond were never visited.
    pub(crate) const fn place_count(&self) -> usize {
        self.places.len()
    }

    /// Visits of all walks together.
    pub(crate) const fn visit_count(&self) -> u64 {
        self.visits
    }

    /// How many walks contain a node.
    pub(crate) fn containing(&self, node: NodeId) -> u32 {
        self.places.get(node as usize).map_or(0, |place| place.walks)
    }

    /// All visits of a node.
    pub(crate) fn visits(&self, node: NodeId) -> &[Visit] {
        self.places.get(node as usize).map_or(&[], |place| &place.visits)
    }

    /// The length of a walk in nodes.
    pub(crate) fn len(&self, walk: u32) -> usize {
        self.walks[walk as usize].steps.len()
    }

    /// The node at a position of a walk, if the walk is that long.
    pub(crate) fn node(&self, walk: u32, at: usize) -> Option<NodeId> {
        self.walks[walk as usize].steps.get(at).map(|step| step.node)
    }

    /// The nodes of a walk up to a position, which is left out.
    pub(crate) fn before(&self, visit: Visit) -> impl DoubleEndedIterator<Item = NodeId> + '_ {
        self.walks[visit.walk() as usize].steps.iter().take(visit.at()).map(|step| step.node)
    }

    /// Whether the walk ended because no edge led out of its last node.
    pub(crate) fn is_dangling(&self, walk: u32) -> bool {
        self.walks[walk as usize].dangling
    }

    /// Notes why the walk ended.
    pub(crate) fn set_dangling(&mut self, walk: u32, dangling: bool) {
        self.walks[walk as usize].dangling = dangling;
    }

    /// Adds a node at the end of a walk, which has less than [`WALK_LEN_MAX`].
    pub(crate) fn push(&mut self, walk: u32, node: NodeId) {
        if node as usize >= self.places.len() {
            let place = Place { visits: Vec::new(), walks: 0, bottleneck: Cell::new(None) };
            self.places.resize(node as usize + 1, place);
        }
        let place = &mut self.places[node as usize];
        let steps = &mut self.walks[walk as usize].steps;
        debug_assert!(steps.len() < WALK_LEN_MAX, "a walk is cut before it is too long");
        if steps.iter().all(|step| step.node != node) {
            place.walks += 1;
        }
        place.bottleneck.set(None);
        let entry = place.visits.len() as u32;
        place.visits.push(Visit::new(walk, steps.len()));
        steps.push(Step { node, entry });
        self.visits += 1;
    }

    /// Cuts a walk to its first `len` nodes.
    pub(crate) fn cut(&mut self, walk: u32, len: usize) {
        while self.len(walk) > len {
            self.pop(walk);
        }
        self.set_dangling(walk, false);
    }

    fn pop(&mut self, walk: u32) {
        let steps = &mut self.walks[walk as usize].steps;
        let Some(gone) = steps.pop() else { return };
        let still = steps.iter().any(|step| step.node == gone.node);
        let place = &mut self.places[gone.node as usize];
        place.bottleneck.set(None);
        if !still {
            place.walks -= 1;
        }
        place.visits.swap_remove(gone.entry as usize);
        // The last entry took the free place, unless it was the one that went.
        if let Some(moved) = place.visits.get(gone.entry as usize).copied() {
            self.walks[moved.walk() as usize].steps[moved.at()].entry = gone.entry;
        }
        self.visits -= 1;
    }

    /// The bottleneck that was kept for a node, if its walks are still the same.
    pub(crate) fn kept_bottleneck(&self, node: NodeId) -> Option<Bottleneck> {
        self.places.get(node as usize)?.bottleneck.get()
    }

    /// Keeps the bottleneck of a node until its walks change.
    pub(crate) fn keep_bottleneck(&self, node: NodeId, bottleneck: Bottleneck) {
        if let Some(place) = self.places.get(node as usize) {
            place.bottleneck.set(Some(bottleneck));
        }
    }

    /// Bytes held in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        let steps: usize = self.walks.iter().map(|walk| walk.steps.capacity() * size_of::<Step>()).sum();
        let visits: usize =
            self.places.iter().map(|place| place.visits.capacity() * size_of::<Visit>()).sum();
        self.walks.capacity() * size_of::<Walk>()
            + self.places.capacity() * size_of::<Place>()
            + steps
            + visits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;
    use std::collections::BTreeMap;

    /// What a search through all walks finds: visits of each node, and how many walks contain it.
    fn searched(walks: &Walks) -> BTreeMap<NodeId, (Vec<Visit>, u32)> {
        let mut found: BTreeMap<NodeId, (Vec<Visit>, u32)> = BTreeMap::new();
        for walk in 0..walks.count() {
            for at in 0..walks.len(walk) {
                let node = walks.node(walk, at).expect("within the walk");
                let place = found.entry(node).or_default();
                if place.0.last().is_none_or(|visit| visit.walk() != walk) {
                    place.1 += 1;
                }
                place.0.push(Visit::new(walk, at));
            }
        }
        found
    }

    //= spec/trust.md#5-1-state
    #[test]
    fn the_index_names_each_visit_after_any_number_of_cuts() {
        let mut rng = Rng::from_seed([5; 32]);
        let mut walks = Walks::new(50, 3);
        for _ in 0..20_000 {
            let walk = rng.below(50) as u32;
            if rng.chance(1, 6) || walks.len(walk) == WALK_LEN_MAX {
                walks.cut(walk, 1 + rng.below(4) as usize);
            } else {
                walks.push(walk, rng.below(9) as NodeId);
            }
        }
        let found = searched(&walks);
        assert_eq!(walks.visit_count(), found.values().map(|(visits, _)| visits.len() as u64).sum::<u64>());
        for node in 0..9 {
            let mut visits = walks.visits(node).to_vec();
            visits.sort_unstable();
            assert_eq!(found.get(&node), Some(&(visits, walks.containing(node))));
        }
        assert_eq!(walks.containing(100), 0);
    }
}
