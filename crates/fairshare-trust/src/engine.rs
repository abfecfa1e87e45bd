//! What every engine does, and the values that it takes and gives.

use crate::kind::EngineKind;
use crate::{Bottleneck, EdgeChange, Graph, NodeId};

/// Edges that are looked at to find the likeliest path of an explanation: a question must not cost more than a moment.
const PATH_EDGES_MAX: usize = 200_000;

/// A score with what is known about its error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// The value: 0 to 1 for engines of walks, bytes for `netflow`, -1 to 1 for `bartercast`. Never NaN.
    pub value: f64,
    /// Standard error of the value; 0 where it is exact.
    pub std_err: f64,
    /// Whether ego itself received from the node.
    pub direct: bool,
    /// How many walks, or for exact engines how many direct observations, the value rests on; 0 for an unknown node.
    pub samples: u32,
}

/// Why a node has its score.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// Bytes that ego received from the node.
    pub direct: u64,
    /// The likeliest way of trust from ego to the node, both included; empty if there is none.
    pub path: Vec<NodeId>,
    /// Which node most of the trust passes, where the engine knows it.
    pub bottleneck: Bottleneck,
}

/// What became of a list of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyStats {
    /// Changes that were made.
    pub applied: usize,
    /// Changes that were not, by reason.
    pub refused: EdgeRefusals,
    /// Walks that were cut and continued.
    pub walks: usize,
}

/// Why changes of edges were not made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeRefusals {
    /// From a node to itself, or a node beyond [`crate::NODES_MAX`].
    pub form: usize,
    /// The graph has outgrown what an exact engine can compute with.
    pub full: usize,
    /// Out of a proven fraudster, whose word vouches for nothing.
    pub fraudster: usize,
}

/// Sizes of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Nodes of the graph.
    pub nodes: usize,
    /// Edges of the graph.
    pub edges: usize,
    /// Bytes held in memory, graph included.
    pub bytes: usize,
    /// Walks kept; 0 for exact engines.
    pub walks: u32,
    /// Changes made since the engine exists.
    pub changes: u64,
}

/// A completed interaction with its places in both chains, for the engine that keeps the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interaction {
    /// Who signed first.
    pub requester: NodeId,
    /// Number of its half block.
    pub requester_sequence: u32,
    /// Who agreed.
    pub responder: NodeId,
    /// Number of its half block.
    pub responder_sequence: u32,
    /// The amount of the first asset that was transferred.
    pub contribution: u64,
}

/// A reputation engine over the graph of one ego.
//= spec/trust.md#7-engine-interface
pub trait ReputationEngine: Send {
    /// Which engine it is.
    fn kind(&self) -> EngineKind;

    /// The name under which it is chosen.
    fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// Changes edges.
    fn apply(&mut self, changes: &[EdgeChange]) -> ApplyStats;

    /// Adds a completed interaction. Only `temporal-ppr` reads it; all others read edges.
    fn interaction(&mut self, _interaction: &Interaction) {}

    /// Takes all trust from a node that signed twice what it may sign once. Cannot be undone; ego is never marked.
    fn mark_fraudster(&mut self, node: NodeId);

    /// The score of a node; an unknown node has value 0 and no samples.
    fn score(&self, node: NodeId) -> Score;

    /// The scores of several nodes, which for some engines costs less than one after the other.
    fn scores(&self, nodes: &[NodeId]) -> Vec<Score> {
        nodes.iter().map(|node| self.score(*node)).collect()
    }

    /// Which other node most of the trust in a node passes, where the engine knows it.
    fn bottleneck(&self, _node: NodeId) -> Bottleneck {
        Bottleneck::default()
    }

    /// At most `count` nodes with a value other than 0, best first, ego among them; equals in the order of the bytes
    /// that ego received from them, then by number.
    fn top(&self, count: usize) -> Vec<(NodeId, Score)>;

    /// Why a node has its score.
    fn explain(&self, node: NodeId) -> Explanation;

    /// Sizes.
    fn stats(&self) -> EngineStats;

    /// The node's share of all that ego may risk: over all others the shares add up to at most 1. Always 0 for engines
    /// whose values are no shares.
    fn share(&self, _node: NodeId) -> f64 {
        0.0
    }
}

/// Bytes and path of an explanation.
pub(crate) fn explain(graph: &Graph, ego: NodeId, node: NodeId, bottleneck: Bottleneck) -> Explanation {
    let path = graph.likeliest_path(ego, node, PATH_EDGES_MAX).unwrap_or_default();
    Explanation { direct: graph.weight(ego, node), path, bottleneck }
}

/// Orders scored nodes: best first, then by bytes that ego received, then by number; at most `count` of them.
//= spec/trust.md#7-engine-interface
pub(crate) fn best(
    graph: &Graph,
    ego: NodeId,
    count: usize,
    scored: impl Iterator<Item = (NodeId, Score)>,
) -> Vec<(NodeId, Score)> {
    let mut all: Vec<_> = scored.filter(|(_, score)| score.value != 0.0).collect();
    all.sort_by(|(a, x), (b, y)| {
        let bytes = || graph.weight(ego, *b).cmp(&graph.weight(ego, *a));
        y.value.total_cmp(&x.value).then_with(bytes).then(a.cmp(b))
    });
    all.truncate(count);
    all
}

/// As [`best`], for values that are costly and never higher than a bound that is cheap: `bounds` comes best first.
pub(crate) fn best_bounded(
    graph: &Graph,
    ego: NodeId,
    count: usize,
    mut bounds: Vec<(NodeId, f64)>,
    score: impl Fn(NodeId) -> Score,
) -> Vec<(NodeId, Score)> {
    bounds.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
    let mut found: Vec<(NodeId, Score)> = Vec::new();
    for chunk in bounds.chunks(count.max(1)) {
        let worst = found.get(count.saturating_sub(1)).map_or(0.0, |(_, score)| score.value);
        if found.len() >= count && chunk.first().is_none_or(|(_, bound)| *bound < worst) {
            break;
        }
        found.extend(chunk.iter().map(|(node, _)| (*node, score(*node))));
        found = best(graph, ego, count, found.into_iter());
    }
    found
}

/// `part / whole`, and 0 where that is no number.
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
    let ratio = part / whole;
    if ratio.is_finite() { ratio } else { 0.0 }
}
