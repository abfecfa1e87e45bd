//! The directed weighted graph that all engines read: an edge from u to v says how many bytes u received from v.

use crate::NodeId;
use crate::adjacency::OutEdges;
use fairshare_crypto::Rng;
use std::collections::BTreeMap;

/// Nodes of a graph. A node costs about 80 bytes whether it has edges or not, so that one wild number must not make
/// the graph large; interned keys never come near.
pub const NODES_MAX: usize = 1 << 24;

/// The weight of one edge changed.
//= spec/trust.md#2-3-netting
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeChange {
    /// Who received, and so vouches.
    pub from: NodeId,
    /// Who gave.
    pub to: NodeId,
    /// The weight before. Told for readers; an engine goes by the weight that it holds.
    pub old: u64,
    /// The weight from now on; 0 removes the edge.
    pub new: u64,
}

/// Nodes 0, 1, 2 ... and the edges between them. No edge leads from a node to itself.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<OutEdges>,
    edges: usize,
}

impl Graph {
    /// A graph without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The graph of a list of edges `(from, to, weight)`: edges of the same pair add up, edges from a node to itself
    /// are dropped, and so are those of a node beyond [`NODES_MAX`].
    pub fn from_edges(edges: &[(NodeId, NodeId, u64)]) -> Self {
        let mut graph = Self::new();
        let valid = |edge: &&(NodeId, NodeId, u64)| edge.0.max(edge.1) < NODES_MAX as NodeId;
        let size = edges.iter().filter(valid).map(|(from, to, _)| from.max(to) + 1).max().unwrap_or(0);
        let mut degrees = vec![0u32; size as usize];
        edges.iter().filter(valid).for_each(|(from, ..)| degrees[*from as usize] += 1);
        graph.nodes.resize_with(size as usize, OutEdges::default);
        for (node, degree) in graph.nodes.iter_mut().zip(degrees) {
            node.reserve(degree as usize);
        }
        for (from, to, weight) in edges {
            let sum = graph.weight(*from, *to).saturating_add(*weight);
            graph.set(*from, *to, sum);
        }
        graph
    }

    /// How many nodes there are: one more than the highest number that an edge names.
    pub const fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// How many edges there are.
    pub const fn edge_count(&self) -> usize {
        self.edges
    }

    /// The weight of an edge; 0 if there is none.
    pub fn weight(&self, from: NodeId, to: NodeId) -> u64 {
        self.node(from).map_or(0, |node| node.weight(to))
    }

    /// The weight of all edges out of a node.
    pub fn total(&self, from: NodeId) -> u64 {
        self.node(from).map_or(0, OutEdges::total)
    }

    /// How many edges lead out of a node.
    pub fn degree(&self, from: NodeId) -> usize {
        self.node(from).map_or(0, OutEdges::len)
    }

    /// The edges out of a node: target and weight.
    pub fn edges(&self, from: NodeId) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.node(from).into_iter().flat_map(OutEdges::iter)
    }

    /// Gives an edge a weight; 0 removes it. Returns the weights before and after, or `None` if the graph can hold no
    /// such edge: from a node to itself, or of a node beyond [`NODES_MAX`]. The weight is cut so that the sum over the
    /// edges out of one node fits 64 bits.
    //= spec/trust.md#2-2-vertices-and-edges
    pub fn set(&mut self, from: NodeId, to: NodeId, weight: u64) -> Option<(u64, u64)> {
        let high = from.max(to) as usize;
        if from == to || high >= NODES_MAX {
            return None;
        }
        if weight > 0 && high >= self.nodes.len() {
            self.nodes.resize_with(high + 1, OutEdges::default);
        }
        let Some(node) = self.nodes.get_mut(from as usize) else { return Some((0, 0)) };
        let before = node.len();
        let change = node.set(to, weight);
        self.edges = self.edges + node.len() - before;
        Some(change)
    }

    /// A random target of an edge out of `from`, by weight; `None` if there is no edge.
    #[inline]
    pub fn sample(&self, from: NodeId, rng: &mut Rng) -> Option<NodeId> {
        let node = self.node(from)?;
        if node.total() == 0 {
            return None;
        }
        node.at_point(rng.below(node.total()))
    }

    /// Bytes held in memory.
    pub fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<OutEdges>()
            + self.nodes.iter().map(OutEdges::heap_bytes).sum::<usize>()
    }

    /// The likeliest way of a walk from `from` to `to`, both included, as probabilities of the steps tell; `None` if
    /// there is none among the first `edges_max` edges in the order of their likelihood.
    pub fn likeliest_path(&self, from: NodeId, to: NodeId, edges_max: usize) -> Option<Vec<NodeId>> {
        let mut reached: BTreeMap<NodeId, NodeId> = BTreeMap::new();
        // The key: how unlikely, then the node. Costs are not negative, so their bits are in their order.
        let mut front: BTreeMap<(u64, NodeId), NodeId> = BTreeMap::from([((0, from), from)]);
        let mut looked_at = 0;
        while let Some(((cost, node), parent)) = front.pop_first() {
            if reached.contains_key(&node) {
                continue;
            }
            reached.insert(node, parent);
            if node == to {
                return Some(way_back(&reached, from, to));
            }
            looked_at += self.degree(node);
            if looked_at > edges_max {
                return None;
            }
            let total = self.total(node) as f64;
            for (next, weight) in self.edges(node).filter(|(next, _)| !reached.contains_key(next)) {
                let step = (total / weight as f64).ln().max(0.0);
                front.insert(((f64::from_bits(cost) + step).to_bits(), next), node);
            }
        }
        None
    }

    fn node(&self, node: NodeId) -> Option<&OutEdges> {
        self.nodes.get(node as usize)
    }
}

fn way_back(parents: &BTreeMap<NodeId, NodeId>, from: NodeId, to: NodeId) -> Vec<NodeId> {
    let mut path = vec![to];
    let mut here = to;
    while here != from
        && let Some(parent) = parents.get(&here)
    {
        here = *parent;
        path.push(here);
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_of_one_pair_add_up_and_edges_to_oneself_are_dropped() {
        let graph = Graph::from_edges(&[(0, 1, 5), (0, 1, 6), (2, 2, 9), (1, 2, u64::MAX), (1, 2, 1)]);
        assert_eq!((graph.node_count(), graph.edge_count()), (3, 2));
        assert_eq!((graph.weight(0, 1), graph.weight(2, 2), graph.total(1)), (11, 0, u64::MAX));
    }

    //= spec/trust.md#12-test-procedure
    #[test]
    fn a_node_beyond_the_bound_is_refused_and_costs_no_memory() {
        let mut graph = Graph::from_edges(&[(0, u32::MAX, 5), (u32::MAX, 1, 5), (0, 1, 1)]);
        assert_eq!(graph.set(0, u32::MAX, 1), None);
        assert_eq!(graph.set(NODES_MAX as u32, 0, 1), None);
        assert_eq!(graph.set(0, 0, 1), None);
        assert_eq!((graph.node_count(), graph.edge_count()), (2, 1));
    }

    #[test]
    fn removing_what_is_not_there_changes_nothing() {
        let mut graph = Graph::new();
        assert_eq!(graph.set(7, 8, 0), Some((0, 0)));
        assert_eq!(graph.node_count(), 0);
        assert_eq!(graph.sample(7, &mut Rng::from_seed([0; 32])), None);
    }

    #[test]
    fn the_likeliest_path_is_not_the_shortest() {
        let graph = Graph::from_edges(&[(0, 1, 99), (0, 3, 1), (1, 2, 99), (1, 0, 1), (2, 3, 5)]);
        assert_eq!(graph.likeliest_path(0, 3, 100), Some(vec![0, 1, 2, 3]));
        assert_eq!(graph.likeliest_path(3, 0, 100), None);
        assert_eq!(graph.likeliest_path(0, 3, 2), None);
        assert_eq!(graph.likeliest_path(0, 0, 0), Some(vec![0]));
    }
}
