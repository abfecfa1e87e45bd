//! The engines without chance over edges: `merit-exact`, `hitting-exact`, `ppr-exact` and `eigentrust` by linear
//! algebra. They compute when they are asked and keep the answer until an edge changes.

use crate::engine::{self, ApplyStats, EngineStats, Explanation, ReputationEngine, Score, ratio};
use crate::kind::{EngineKind, Settings, SettingsError};
use crate::linear::Steps;
use crate::monte_carlo::discounted;
use crate::{Bottleneck, EdgeChange, Graph, NodeId};
use std::cell::{Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// Nodes for which a dense matrix is inverted: 2,048 cost 32 MiB and some seconds.
pub(crate) const DENSE_MAX: usize = 2_048;

/// A graph as exact engines hold it: with ego and the marked nodes.
pub(crate) struct Marked {
    pub(crate) graph: Graph,
    pub(crate) ego: NodeId,
    pub(crate) frauds: BTreeSet<NodeId>,
    changes: u64,
}

impl Marked {
    pub(crate) const fn new(graph: Graph, ego: NodeId) -> Self {
        Self { graph, ego, frauds: BTreeSet::new(), changes: 0 }
    }

    pub(crate) fn apply(&mut self, changes: &[EdgeChange]) -> ApplyStats {
        let mut stats = ApplyStats::default();
        for change in changes {
            if self.frauds.contains(&change.from) {
                stats.refused.fraudster += 1;
            } else if self.graph.set(change.from, change.to, change.new).is_some() {
                stats.applied += 1;
            } else {
                stats.refused.form += 1;
            }
        }
        self.changes += stats.applied as u64;
        stats
    }

    /// Takes away the out-edges. False if nothing is to be done.
    //= spec/trust.md#9-fraud-evidence
    pub(crate) fn mark(&mut self, node: NodeId) -> bool {
        if node == self.ego || !self.frauds.insert(node) {
            return false;
        }
        let edges: Vec<NodeId> = self.graph.edges(node).map(|(to, _)| to).collect();
        for to in edges {
            self.graph.set(node, to, 0);
        }
        true
    }

    /// A score without error.
    pub(crate) fn score(&self, node: NodeId, value: f64) -> Score {
        let value = if value.is_finite() && !self.frauds.contains(&node) { value } else { 0.0 };
        let direct = self.graph.weight(self.ego, node) > 0;
        Score { value, std_err: 0.0, direct, samples: u32::from(value != 0.0) }
    }

    pub(crate) fn stats(&self) -> EngineStats {
        EngineStats {
            nodes: self.graph.node_count(),
            edges: self.graph.edge_count(),
            bytes: self.graph.memory_bytes(),
            walks: 0,
            changes: self.changes,
        }
    }
}

/// What was computed since the last change.
#[derive(Default)]
struct Computed {
    steps: Steps,
    /// Where each node stands in `steps`.
    numbers: BTreeMap<NodeId, usize>,
    /// Expected visits from ego, or from the trusted nodes.
    visits: Vec<f64>,
    /// Values known, and bottlenecks where they belong to them.
    values: BTreeMap<NodeId, (f64, Bottleneck)>,
}

/// One of the four.
pub(crate) struct Exact {
    kind: EngineKind,
    settings: Settings,
    marked: Marked,
    computed: RefCell<Option<Computed>>,
}

impl Exact {
    pub(crate) fn new(
        kind: EngineKind,
        settings: Settings,
        graph: Graph,
        ego: NodeId,
    ) -> Result<Self, SettingsError> {
        let exact = Self { kind, settings, marked: Marked::new(graph, ego), computed: RefCell::new(None) };
        if kind == EngineKind::MeritExact {
            let found = exact.reach(usize::MAX).len();
            if found > DENSE_MAX {
                return Err(SettingsError::TooLarge { found, limit: DENSE_MAX });
            }
        }
        Ok(exact)
    }

    /// Where walks begin.
    fn roots(&self) -> Vec<NodeId> {
        let trusted = self.settings.pretrusted.iter().copied().collect::<BTreeSet<_>>();
        if self.kind == EngineKind::EigenTrust && !trusted.is_empty() {
            trusted.into_iter().collect()
        } else {
            vec![self.marked.ego]
        }
    }

    //= spec/trust.md#4-7-eigentrust
    fn alpha(&self) -> f64 {
        if self.kind == EngineKind::EigenTrust {
            1.0 - self.settings.return_prob
        } else {
            self.settings.continue_prob
        }
    }

    /// Nothing at all if more nodes than `limit` are within reach.
    fn reach(&self, limit: usize) -> Steps {
        Steps::within_reach(&self.marked.graph, &self.roots(), &self.marked.frauds, limit).unwrap_or_default()
    }

    fn computed(&self) -> Ref<'_, Computed> {
        if self.computed.borrow().is_none() {
            let computed = self.compute();
            *self.computed.borrow_mut() = Some(computed);
        }
        Ref::map(self.computed.borrow(), |computed| computed.as_ref().expect("computed above"))
    }

    fn compute(&self) -> Computed {
        // The values of `merit` need every pair; a graph that has outgrown that has none.
        let limit = if self.kind == EngineKind::MeritExact { DENSE_MAX } else { usize::MAX };
        let steps = self.reach(limit);
        let roots = self.roots().len().min(steps.len());
        let mut start = vec![0.0; steps.len()];
        start[..roots].fill(1.0 / roots.max(1) as f64);
        let visits = steps.visits(&start, self.alpha());
        let numbers = steps.nodes.iter().enumerate().map(|(number, node)| (*node, number)).collect();
        let mut computed = Computed { steps, numbers, visits, values: BTreeMap::new() };
        computed.values = match self.kind {
            EngineKind::MeritExact => self.merit(&computed),
            EngineKind::HittingExact if computed.steps.len() <= DENSE_MAX => self.hitting(&computed),
            EngineKind::HittingExact => BTreeMap::new(),
            _ => self.pagerank(&computed),
        };
        computed
    }

    /// Visits divided by all visits; what is burnt at fraudsters counts as visits of nobody.
    //= spec/trust.md#4-1-ppr-personalised-pagerank
    //= spec/trust.md#9-fraud-evidence
    fn pagerank(&self, computed: &Computed) -> BTreeMap<NodeId, (f64, Bottleneck)> {
        let alpha = self.alpha();
        let of = |node: &NodeId| computed.numbers.get(node).map_or(0.0, |number| computed.visits[*number]);
        let burnt: f64 = self.marked.frauds.iter().map(of).sum();
        let all = computed.visits.iter().sum::<f64>() + burnt * alpha / (1.0 - alpha);
        let nodes = computed.steps.nodes.iter().zip(&computed.visits);
        nodes.map(|(node, visits)| (*node, (ratio(*visits, all), Bottleneck::default()))).collect()
    }

    /// Visits divided by the visits of a walk that begins there.
    //= spec/trust.md#4-3-hitting-personalised-hitting-probability
    fn hitting(&self, computed: &Computed) -> BTreeMap<NodeId, (f64, Bottleneck)> {
        let all = computed.steps.all_visits(self.alpha(), None);
        let nodes = computed.steps.nodes.iter().enumerate();
        nodes
            .map(|(at, node)| (*node, (ratio(all.at(0, at), all.at(at, at)), Bottleneck::default())))
            .collect()
    }

    //= spec/trust.md#4-4-merit-default-hitting-probability-with-connectivity-discount
    fn merit(&self, computed: &Computed) -> BTreeMap<NodeId, (f64, Bottleneck)> {
        let hitting = self.hitting(computed);
        // Walks that do not come back to ego, which is number 0.
        let all = computed.steps.all_visits(self.alpha(), Some(0));
        let size = computed.steps.len();
        let reach = |x: usize, y: usize| ratio(all.at(x, y), all.at(y, y));
        let share = |u: usize, v: usize| {
            let (u_to_v, v_to_u) = (reach(u, v), reach(v, u));
            let first = (reach(0, u) - reach(0, v) * v_to_u) / (1.0 - u_to_v * v_to_u);
            ratio(first * u_to_v, reach(0, v)).clamp(0.0, 1.0)
        };
        let bottleneck = |v: usize| {
            let passed = (1..size).filter(|u| *u != v).map(|u| (share(u, v), u));
            let most = passed.max_by(|(x, a), (y, b)| x.total_cmp(y).then(b.cmp(a)));
            most.filter(|(share, _)| *share > 0.0).map_or_else(Bottleneck::default, |(share, u)| Bottleneck {
                node: Some(computed.steps.nodes[u]),
                share,
            })
        };
        let value = |(number, (node, (hit, _))): (usize, (NodeId, (f64, Bottleneck)))| {
            let bottleneck = if number == 0 { Bottleneck::default() } else { bottleneck(number) };
            (node, (hit * discounted(&self.settings, bottleneck.share), bottleneck))
        };
        let numbered = hitting.into_iter().map(|(node, hit)| (computed.numbers[&node], (node, hit)));
        numbered.map(value).collect()
    }

    fn value(&self, node: NodeId) -> (f64, Bottleneck) {
        let computed = self.computed();
        if let Some(known) = computed.values.get(&node) {
            return *known;
        }
        let Some(number) = computed.numbers.get(&node).copied() else { return (0.0, Bottleneck::default()) };
        // `hitting` of a large graph: one system for each node that is asked for.
        let returns = computed.steps.returns(&[number], self.alpha());
        let value = ratio(computed.visits[number], returns.first().copied().unwrap_or(0.0));
        drop(computed);
        self.keep(node, value);
        (value, Bottleneck::default())
    }

    fn keep(&self, node: NodeId, value: f64) {
        if let Some(computed) = self.computed.borrow_mut().as_mut() {
            computed.values.insert(node, (value, Bottleneck::default()));
        }
    }

    /// Computes what a list of nodes needs at once, which costs less than one after the other.
    fn prepare(&self, nodes: &[NodeId]) {
        let computed = self.computed();
        let number = |node: &NodeId| computed.numbers.get(node).copied();
        let missing: Vec<_> = nodes
            .iter()
            .filter(|node| !computed.values.contains_key(node))
            .filter_map(|node| Some((*node, number(node)?)))
            .collect();
        let numbers: Vec<usize> = missing.iter().map(|(_, number)| *number).collect();
        let returns = computed.steps.returns(&numbers, self.alpha());
        let values: Vec<_> =
            numbers.iter().zip(returns).map(|(at, own)| ratio(computed.visits[*at], own)).collect();
        drop(computed);
        for ((node, _), value) in missing.into_iter().zip(values) {
            self.keep(node, value);
        }
    }
}

impl ReputationEngine for Exact {
    fn kind(&self) -> EngineKind {
        self.kind
    }

    fn apply(&mut self, changes: &[EdgeChange]) -> ApplyStats {
        *self.computed.get_mut() = None;
        self.marked.apply(changes)
    }

    fn mark_fraudster(&mut self, node: NodeId) {
        if self.marked.mark(node) {
            *self.computed.get_mut() = None;
        }
    }

    fn score(&self, node: NodeId) -> Score {
        if self.marked.frauds.contains(&node) {
            return self.marked.score(node, 0.0);
        }
        self.marked.score(node, self.value(node).0)
    }

    fn scores(&self, nodes: &[NodeId]) -> Vec<Score> {
        self.prepare(nodes);
        nodes.iter().map(|node| self.score(*node)).collect()
    }

    fn bottleneck(&self, node: NodeId) -> Bottleneck {
        if self.marked.frauds.contains(&node) { Bottleneck::default() } else { self.value(node).1 }
    }

    fn top(&self, count: usize) -> Vec<(NodeId, Score)> {
        let computed = self.computed();
        let known = computed.values.len() == computed.steps.len();
        // A node is hit at most as often as it is visited.
        let bound = |(node, visits): (&NodeId, &f64)| (*node, if known { 2.0 } else { *visits });
        let mut bounds: Vec<_> = computed.steps.nodes.iter().zip(&computed.visits).map(bound).collect();
        drop(computed);
        let (graph, ego) = (&self.marked.graph, self.marked.ego);
        if known {
            return engine::best(
                graph,
                ego,
                count,
                bounds.into_iter().map(|(node, _)| (node, self.score(node))),
            );
        }
        bounds.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
        let likely: Vec<_> = bounds.iter().take(count).map(|(node, _)| *node).collect();
        self.prepare(&likely);
        engine::best_bounded(graph, ego, count, bounds, |node| self.score(node))
    }

    fn explain(&self, node: NodeId) -> Explanation {
        engine::explain(&self.marked.graph, self.marked.ego, node, self.bottleneck(node))
    }

    fn stats(&self) -> EngineStats {
        self.marked.stats()
    }

    //= spec/trust.md#8-how-scores-are-used
    fn share(&self, node: NodeId) -> f64 {
        if node == self.marked.ego {
            return 0.0;
        }
        let value = self.score(node).value;
        match self.kind {
            EngineKind::HittingExact | EngineKind::MeritExact => value * (1.0 - self.alpha()) / self.alpha(),
            _ => ratio(value, 1.0 - self.score(self.marked.ego).value),
        }
    }
}
