//! Maximum flows, and the engines `netflow` and `bartercast` that rest on them.

use crate::engine::{self, ApplyStats, EdgeRefusals, EngineStats, Explanation, ReputationEngine, Score};
use crate::exact::Marked;
use crate::kind::{EngineKind, Settings, SettingsError};
use crate::{Bottleneck, EdgeChange, Graph, NodeId};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

/// Edges of a graph on which flows are computed: each score needs up to two flows for every node on the way.
pub(crate) const FLOW_EDGES_MAX: usize = 200_000;
/// More than any flow: sums of 64-bit weights times a 32-bit divisor stay far below.
const UNLIMITED: u128 = 1 << 120;

/// A network of capacities, each edge beside its reverse.
#[derive(Clone, Debug, Default)]
struct Network {
    /// Edges out of each node, by number.
    out: Vec<Vec<u32>>,
    targets: Vec<u32>,
    /// Edge 2k and its reverse 2k + 1.
    capacities: Vec<u128>,
}

impl Network {
    fn new(nodes: usize) -> Self {
        Self { out: vec![Vec::new(); nodes], ..Self::default() }
    }

    fn add(&mut self, from: usize, to: usize, capacity: u128) {
        for (from, to, capacity) in [(from, to, capacity), (to, from, 0)] {
            self.out[from].push(self.targets.len() as u32);
            self.targets.push(to as u32);
            self.capacities.push(capacity);
        }
    }

    /// The greatest flow between two nodes, by Dinic's algorithm. The network is as before afterwards.
    fn max_flow(&self, source: usize, sink: usize) -> u128 {
        let mut left = self.capacities.clone();
        let mut flow = 0;
        while source != sink
            && let Some(levels) = self.levels(&left, source, sink)
        {
            let mut next = vec![0usize; self.out.len()];
            while let Some(pushed) = self.push_path(&mut left, &levels, &mut next, source, sink) {
                flow += pushed;
            }
        }
        flow
    }

    /// Distance from the source over edges with capacity left; `None` if the sink is out of reach.
    fn levels(&self, left: &[u128], source: usize, sink: usize) -> Option<Vec<u32>> {
        let mut levels = vec![u32::MAX; self.out.len()];
        levels[source] = 0;
        let mut queue = VecDeque::from([source]);
        while let Some(node) = queue.pop_front() {
            if node == sink {
                return Some(levels);
            }
            for edge in &self.out[node] {
                let to = self.targets[*edge as usize] as usize;
                if left[*edge as usize] > 0 && levels[to] == u32::MAX {
                    levels[to] = levels[node] + 1;
                    queue.push_back(to);
                }
            }
        }
        None
    }

    /// Finds one path that rises level by level and fills it. `next` remembers which edges of a node are used up.
    fn push_path(
        &self,
        left: &mut [u128],
        levels: &[u32],
        next: &mut [usize],
        source: usize,
        sink: usize,
    ) -> Option<u128> {
        let mut path: Vec<u32> = Vec::new();
        let mut here = source;
        while here != sink {
            let usable = |edge: &u32| {
                let to = self.targets[*edge as usize] as usize;
                left[*edge as usize] > 0 && levels[to] == levels[here].saturating_add(1)
            };
            match self.out[here][next[here]..].iter().position(usable) {
                Some(skipped) => {
                    next[here] += skipped;
                    let edge = self.out[here][next[here]];
                    path.push(edge);
                    here = self.targets[edge as usize] as usize;
                }
                None => {
                    // A dead end: back over the edge that led here, which is of no use any more.
                    next[here] = self.out[here].len();
                    let back = path.pop()?;
                    here = self.targets[back as usize ^ 1] as usize;
                    next[here] += 1;
                }
            }
        }
        let pushed = path.iter().map(|edge| left[*edge as usize]).min()?;
        for edge in path {
            left[edge as usize] -= pushed;
            left[edge as usize ^ 1] += pushed;
        }
        Some(pushed)
    }
}

/// What each node of a graph may pass in `netflow`, in bytes, by number.
//= spec/trust.md#4-5-netflow-limited-contribution-accounting
pub fn netflow_capacities(settings: Settings, graph: Graph, ego: NodeId) -> Result<Vec<f64>, SettingsError> {
    let flows = Flows::new(EngineKind::NetFlow, settings, graph, ego)?;
    let mut capacities = vec![0.0; flows.marked.graph.node_count()];
    for node in flows.nodes.iter().filter(|node| **node != ego) {
        capacities[*node as usize] = flows.limit(*node) as f64 / flows.divisor() as f64;
    }
    Ok(capacities)
}

/// Ego and all nodes with an edge, ascending.
fn with_edges(marked: &Marked) -> Vec<NodeId> {
    let mut nodes = vec![marked.ego];
    for from in 0..marked.graph.node_count() as NodeId {
        let before = nodes.len();
        nodes.extend(marked.graph.edges(from).map(|(to, _)| to));
        if nodes.len() > before {
            nodes.push(from);
        }
    }
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// One of the two.
pub(crate) struct Flows {
    kind: EngineKind,
    settings: Settings,
    marked: Marked,
    /// Ego and all nodes with an edge, ascending: their places are their numbers in the networks. Others, of which a graph
    /// of few edges may have millions, cost nothing.
    nodes: Vec<NodeId>,
    /// The network of all edges, since the last change.
    network: RefCell<Option<Network>>,
    /// The network in which no node passes more than its limit, since the last change.
    limited: RefCell<Option<Network>>,
    /// What flows from ego to a node less what flows back, in units of 1/A byte.
    surplus: RefCell<BTreeMap<NodeId, i128>>,
}

impl Flows {
    pub(crate) fn new(
        kind: EngineKind,
        settings: Settings,
        graph: Graph,
        ego: NodeId,
    ) -> Result<Self, SettingsError> {
        let found = graph.edge_count();
        if found > FLOW_EDGES_MAX {
            return Err(SettingsError::TooLarge { found, limit: FLOW_EDGES_MAX });
        }
        let marked = Marked::new(graph, ego);
        Ok(Self {
            nodes: with_edges(&marked),
            kind,
            settings,
            marked,
            network: RefCell::new(None),
            limited: RefCell::new(None),
            surplus: RefCell::default(),
        })
    }

    /// What ego's own edges are divided by: all others are multiplied by it instead, so that all stay whole numbers.
    const fn divisor(&self) -> u128 {
        if matches!(self.kind, EngineKind::NetFlow) { self.settings.netflow_divisor as u128 } else { 1 }
    }

    /// The number of a node in the networks.
    fn number(&self, node: NodeId) -> Option<usize> {
        self.nodes.binary_search(&node).ok()
    }

    /// All edges with the numbers of their ends.
    fn edges(&self) -> impl Iterator<Item = (usize, usize, u128)> + '_ {
        self.nodes.iter().enumerate().flat_map(move |(number, from)| {
            let edges = self.marked.graph.edges(*from);
            edges.filter_map(move |(to, weight)| {
                Some((number, self.number(to)?, self.capacity(*from, weight)))
            })
        })
    }

    fn capacity(&self, from: NodeId, weight: u64) -> u128 {
        let factor = if from == self.marked.ego { 1 } else { self.divisor() };
        u128::from(weight) * factor
    }

    /// Contribution less consumption of a node, as ego sees both.
    //= spec/trust.md#4-5-netflow-limited-contribution-accounting
    fn surplus(&self, node: NodeId) -> i128 {
        if let Some(known) = self.surplus.borrow().get(&node) {
            return *known;
        }
        let (Some(ego), Some(other)) = (self.number(self.marked.ego), self.number(node)) else { return 0 };
        let mut slot = self.network.borrow_mut();
        let network = slot.get_or_insert_with(|| {
            let mut network = Network::new(self.nodes.len());
            self.edges().for_each(|(from, to, capacity)| network.add(from, to, capacity));
            network
        });
        let surplus = network.max_flow(ego, other) as i128 - network.max_flow(other, ego) as i128;
        self.surplus.borrow_mut().insert(node, surplus);
        surplus
    }

    /// What a node may pass, in units of 1/A byte.
    //= spec/trust.md#9-fraud-evidence
    fn limit(&self, node: NodeId) -> u128 {
        if self.marked.frauds.contains(&node) { 0 } else { self.surplus(node).max(0).unsigned_abs() }
    }

    /// The network of limits: each node k becomes two, k to enter and k + n to leave.
    fn limited_network(&self) -> Network {
        let size = self.nodes.len();
        let mut network = Network::new(2 * size);
        for (number, node) in self.nodes.iter().enumerate() {
            let limit = if *node == self.marked.ego { UNLIMITED } else { self.limit(*node) };
            network.add(number, number + size, limit);
        }
        self.edges().for_each(|(from, to, capacity)| network.add(from + size, to, capacity));
        network
    }

    /// The flow from ego to a node when no node passes more than its limit.
    fn limited_flow(&self, node: NodeId) -> u128 {
        let (Some(ego), Some(other)) = (self.number(self.marked.ego), self.number(node)) else { return 0 };
        let mut slot = self.limited.borrow_mut();
        slot.get_or_insert_with(|| self.limited_network()).max_flow(ego, other + self.nodes.len())
    }

    fn value(&self, node: NodeId) -> f64 {
        if node == self.marked.ego {
            return 0.0;
        }
        match self.kind {
            EngineKind::NetFlow if self.limit(node) == 0 => 0.0,
            EngineKind::NetFlow => self.limited_flow(node) as f64 / self.divisor() as f64,
            //= spec/trust.md#4-6-bartercast
            _ => {
                let units = self.surplus(node) as f64 / self.settings.bartercast_unit as f64;
                units.atan() / std::f64::consts::FRAC_PI_2
            }
        }
    }

    fn forget(&mut self) {
        *self.network.get_mut() = None;
        *self.limited.get_mut() = None;
        self.surplus.get_mut().clear();
        self.nodes = with_edges(&self.marked);
    }
}

impl ReputationEngine for Flows {
    fn kind(&self) -> EngineKind {
        self.kind
    }

    fn apply(&mut self, changes: &[EdgeChange]) -> ApplyStats {
        // A graph that has outgrown the engine keeps what it has.
        if self.marked.graph.edge_count() > FLOW_EDGES_MAX {
            let refused = EdgeRefusals { full: changes.len(), ..EdgeRefusals::default() };
            return ApplyStats { refused, ..ApplyStats::default() };
        }
        let stats = self.marked.apply(changes);
        self.forget();
        stats
    }

    fn mark_fraudster(&mut self, node: NodeId) {
        if self.marked.mark(node) {
            self.forget();
        }
    }

    fn score(&self, node: NodeId) -> Score {
        self.marked.score(node, self.value(node))
    }

    fn top(&self, count: usize) -> Vec<(NodeId, Score)> {
        let all = self.nodes.iter().map(|node| (*node, self.score(*node)));
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

    #[test]
    fn a_node_with_a_high_number_costs_no_more_than_another() {
        let graph = Graph::from_edges(&[(7, 9_000_000, 10), (9_000_000, 3, 4), (3, 7, 1)]);
        let flows = Flows::new(EngineKind::NetFlow, Settings::default(), graph, 7).expect("small");
        assert_eq!(flows.nodes, [3, 7, 9_000_000]);
        let values = flows.top(9).into_iter().map(|(node, score)| (node, score.value));
        assert_eq!(values.collect::<Vec<_>>(), [(9_000_000, 4.0), (3, 3.0)]);
        assert_eq!(flows.score(8).value, 0.0);
    }

    #[test]
    fn a_flow_takes_back_what_an_earlier_path_took_wrongly() {
        let mut network = Network::new(4);
        for (from, to, capacity) in [(0, 1, 3), (0, 2, 2), (1, 2, 5), (1, 3, 2), (2, 3, 3)] {
            network.add(from, to, capacity);
        }
        assert_eq!((network.max_flow(0, 3), network.max_flow(3, 0), network.max_flow(1, 1)), (5, 0, 0));
        // A dead end behind the source.
        network.out.push(Vec::new());
        network.add(0, 4, 9);
        assert_eq!(network.max_flow(0, 3), 5);
        // The shortest path, 0 1 3 7, must give way to two longer ones.
        let mut network = Network::new(8);
        for (from, to) in [(0, 1), (0, 2), (1, 3), (3, 7), (1, 4), (4, 5), (5, 7), (2, 6), (6, 3)] {
            network.add(from, to, 1);
        }
        assert_eq!(network.max_flow(0, 7), 2);
    }
}
