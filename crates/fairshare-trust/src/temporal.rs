//! The engine `temporal-ppr`: PageRank over states, a state being a key at a number of its chain. Trust flows only to
//! later states, so what is bought late does not lift what came before.

use crate::engine::{
    self, ApplyStats, EngineStats, Explanation, Interaction, ReputationEngine, Score, ratio,
};
use crate::linear::Steps;
use crate::{Bottleneck, EdgeChange, EngineKind, Graph, NODES_MAX, NodeId};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Interactions that are kept; each makes up to four states. Later ones are refused.
const INTERACTIONS_MAX: usize = 1 << 20;

/// Scores over the states of all chains.
pub(crate) struct TemporalPpr {
    ego: NodeId,
    alpha: f64,
    interactions: Vec<Interaction>,
    frauds: BTreeSet<NodeId>,
    /// Scores since the last interaction.
    scores: RefCell<Option<BTreeMap<NodeId, f64>>>,
}

impl TemporalPpr {
    pub(crate) const fn new(ego: NodeId, alpha: f64) -> Self {
        Self { ego, alpha, interactions: Vec::new(), frauds: BTreeSet::new(), scores: RefCell::new(None) }
    }

    /// States and the edges between them; states of fraudsters are left out.
    //= spec/trust.md#4-2-temporal-ppr-market-reputation-of-2017-to-2019-exactly-r
    fn states(&self) -> (Vec<NodeId>, Vec<(NodeId, NodeId, u64)>) {
        let mut numbers: BTreeMap<(NodeId, u32), u32> = BTreeMap::new();
        let mut owners = Vec::new();
        let mut edges: BTreeMap<(NodeId, NodeId), u64> = BTreeMap::new();
        let mut state = |owner: NodeId, sequence: u32| {
            *numbers.entry((owner, sequence)).or_insert_with(|| {
                owners.push(owner);
                owners.len() as u32 - 1
            })
        };
        for seen in &self.interactions {
            let parties = [seen.requester, seen.responder];
            let p = seen.requester_sequence;
            let r = seen.responder_sequence;
            if parties.iter().any(|party| self.frauds.contains(party)) {
                continue;
            }
            let now = [state(parties[0], p), state(parties[1], r)];
            let then = [state(parties[0], p.saturating_add(1)), state(parties[1], r.saturating_add(1))];
            for (from, to) in [(now[0], then[0]), (now[0], then[1]), (now[1], then[1]), (now[1], then[0])] {
                // An edge that is written twice keeps the last weight.
                edges.insert((from, to), seen.contribution);
            }
        }
        let edges = edges.into_iter().map(|((from, to), weight)| (from, to, weight)).collect();
        (owners, edges)
    }

    fn compute(&self) -> BTreeMap<NodeId, f64> {
        let (owners, edges) = self.states();
        let roots: Vec<_> =
            (0..owners.len() as u32).filter(|state| owners[*state as usize] == self.ego).collect();
        let graph = Graph::from_edges(&edges);
        let steps = Steps::within_reach(&graph, &roots, &BTreeSet::new(), NODES_MAX).unwrap_or_default();
        let mut start = vec![0.0; steps.len()];
        start[..roots.len().min(steps.len())].fill(1.0 / roots.len().max(1) as f64);
        let visits = steps.visits(&start, self.alpha);
        let all: f64 = visits.iter().sum();
        let mut scores = BTreeMap::new();
        for (state, visits) in steps.nodes.iter().zip(visits) {
            *scores.entry(owners[*state as usize]).or_insert(0.0) += ratio(visits, all);
        }
        scores
    }

    fn value(&self, node: NodeId) -> f64 {
        self.scores.borrow_mut().get_or_insert_with(|| self.compute()).get(&node).copied().unwrap_or(0.0)
    }

    fn plain(&self, node: NodeId) -> Score {
        let direct = self.interactions.iter().any(|seen| {
            let parties = [seen.requester, seen.responder];
            parties.contains(&self.ego) && parties.contains(&node) && node != self.ego
        });
        let value = self.value(node);
        Score { value, std_err: 0.0, direct, samples: u32::from(value > 0.0) }
    }
}

impl ReputationEngine for TemporalPpr {
    fn kind(&self) -> EngineKind {
        EngineKind::TemporalPpr
    }

    /// Edges have no time.
    fn apply(&mut self, _changes: &[EdgeChange]) -> ApplyStats {
        ApplyStats::default()
    }

    fn interaction(&mut self, interaction: &Interaction) {
        let highest = interaction.requester.max(interaction.responder) as usize;
        if self.interactions.len() < INTERACTIONS_MAX && highest < NODES_MAX {
            self.interactions.push(*interaction);
            *self.scores.get_mut() = None;
        }
    }

    fn mark_fraudster(&mut self, node: NodeId) {
        if node != self.ego && self.frauds.insert(node) {
            *self.scores.get_mut() = None;
        }
    }

    fn score(&self, node: NodeId) -> Score {
        self.plain(node)
    }

    fn top(&self, count: usize) -> Vec<(NodeId, Score)> {
        self.value(self.ego);
        let nodes: Vec<_> = self.scores.borrow().iter().flatten().map(|(node, _)| *node).collect();
        let scored = nodes.into_iter().map(|node| (node, self.plain(node)));
        engine::best(&Graph::new(), self.ego, count, scored)
    }

    fn explain(&self, _node: NodeId) -> Explanation {
        Explanation { bottleneck: Bottleneck::default(), ..Explanation::default() }
    }

    fn stats(&self) -> EngineStats {
        let (states, edges) = self.states();
        EngineStats {
            nodes: states.len(),
            edges: edges.len(),
            bytes: self.interactions.capacity() * size_of::<Interaction>(),
            walks: 0,
            changes: self.interactions.len() as u64,
        }
    }

    //= spec/trust.md#8-how-scores-are-used
    fn share(&self, node: NodeId) -> f64 {
        if node == self.ego { 0.0 } else { ratio(self.value(node), 1.0 - self.value(self.ego)) }
    }
}
