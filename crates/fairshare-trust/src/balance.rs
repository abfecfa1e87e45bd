//! The engine `balance`: what a node gave less what it took, whoever says so. A control without any defence.

use crate::engine::{self, ApplyStats, EngineStats, Explanation, ReputationEngine, Score};
use crate::exact::Marked;
use crate::{Bottleneck, EdgeChange, EngineKind, Graph, NodeId};

/// Bytes of surplus at which the score is full.
const FULL: f64 = 1e10;

/// Scores by sums of edges.
pub(crate) struct Balance {
    marked: Marked,
    /// Bytes given, by node.
    given: Vec<u128>,
}

impl Balance {
    pub(crate) fn new(graph: Graph, ego: NodeId) -> Self {
        let mut given = vec![0u128; graph.node_count()];
        for from in 0..graph.node_count() as NodeId {
            for (to, weight) in graph.edges(from) {
                given[to as usize] += u128::from(weight);
            }
        }
        Self { marked: Marked::new(graph, ego), given }
    }

    /// Notes that `to` gave `new` instead of `old` bytes.
    fn regard(&mut self, to: NodeId, old: u64, new: u64) {
        if self.given.len() <= to as usize {
            self.given.resize(to as usize + 1, 0);
        }
        let given = &mut self.given[to as usize];
        *given = *given + u128::from(new) - u128::from(old);
    }
}

impl ReputationEngine for Balance {
    fn kind(&self) -> EngineKind {
        EngineKind::Balance
    }

    fn apply(&mut self, changes: &[EdgeChange]) -> ApplyStats {
        let mut stats = ApplyStats::default();
        for change in changes {
            let old = self.marked.graph.weight(change.from, change.to);
            let one = self.marked.apply(std::slice::from_ref(change));
            if one.applied > 0 {
                self.regard(change.to, old, self.marked.graph.weight(change.from, change.to));
            }
            stats.applied += one.applied;
            stats.refused.form += one.refused.form;
            stats.refused.fraudster += one.refused.fraudster;
        }
        stats
    }

    fn mark_fraudster(&mut self, node: NodeId) {
        let edges: Vec<_> = self.marked.graph.edges(node).collect();
        if self.marked.mark(node) {
            for (to, weight) in edges {
                self.regard(to, weight, 0);
            }
        }
    }

    //= spec/trust.md#4-9-balance
    fn score(&self, node: NodeId) -> Score {
        let given = self.given.get(node as usize).copied().unwrap_or(0);
        let taken = self.marked.graph.total(node);
        if given == 0 && taken == 0 {
            return Score::default();
        }
        let value = (given as f64 - taken as f64 + FULL) / (2.0 * FULL);
        self.marked.score(node, value.clamp(0.0, 1.0))
    }

    fn top(&self, count: usize) -> Vec<(NodeId, Score)> {
        let all = (0..self.marked.graph.node_count() as NodeId).map(|node| (node, self.score(node)));
        engine::best(&self.marked.graph, self.marked.ego, count, all)
    }

    fn explain(&self, node: NodeId) -> Explanation {
        engine::explain(&self.marked.graph, self.marked.ego, node, Bottleneck::default())
    }

    fn stats(&self) -> EngineStats {
        self.marked.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/trust.md#4-9-balance
    #[test]
    fn who_gave_as_much_as_he_took_stands_in_the_middle() {
        let mut engine = Balance::new(Graph::from_edges(&[(0, 1, 5_000_000_000), (1, 2, 5_000_000_000)]), 0);
        let values = |engine: &Balance| [0, 1, 2, 3].map(|node| engine.score(node).value);
        assert_eq!(values(&engine), [0.25, 0.5, 0.75, 0.0]);
        engine.apply(&[
            EdgeChange { from: 1, to: 2, old: 0, new: 0 },
            EdgeChange { from: 3, to: 1, old: 0, new: u64::MAX },
        ]);
        assert_eq!(values(&engine), [0.25, 1.0, 0.0, 0.0]);
        engine.mark_fraudster(3);
        assert_eq!(values(&engine), [0.25, 0.75, 0.0, 0.0]);
    }
}
