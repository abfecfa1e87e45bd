//! The engines `merit`, `hitting` and `ppr` by stored random walks. A changed edge repairs the walks that it concerns,
//! so that afterwards all are distributed exactly as fresh ones.

use crate::engine::{self, ApplyStats, EngineStats, Explanation, ReputationEngine, Score, ratio};
use crate::kind::{EngineKind, Settings};
use crate::walks::{Visit, WALK_LEN_MAX, Walks};
use crate::{Bottleneck, EdgeChange, Graph, NodeId};
use fairshare_crypto::Rng;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Fewer walks than that tell nothing about a bottleneck: without an own edge it is taken for complete.
//= spec/trust.md#4-4-merit-default-hitting-probability-with-connectivity-discount
const BOTTLENECK_WALKS_MIN: u32 = 30;
/// 2 to the power 64.
const WHOLE: f64 = 18_446_744_073_709_551_616.0;

/// What is read from the walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Hitting probability with connectivity discount.
    Merit,
    /// Share of the walks that contain the node.
    Hitting,
    /// Share of the visits.
    Ppr,
}

/// An engine of stored walks.
pub(crate) struct MonteCarlo {
    measure: Measure,
    settings: Settings,
    ego: NodeId,
    graph: Graph,
    walks: Walks,
    /// A walk goes on when a random word is below this.
    coin: u64,
    frauds: BTreeSet<NodeId>,
    rng: Rng,
    changes: u64,
    /// Visits that a change concerns; kept for its memory.
    chosen: Vec<Visit>,
    /// Zeros, one for each node, for the count of a bottleneck.
    counts: RefCell<Vec<u32>>,
}

impl MonteCarlo {
    pub(crate) fn new(measure: Measure, settings: Settings, graph: Graph, ego: NodeId, rng: Rng) -> Self {
        let walks = Walks::new(settings.walks, ego);
        let mut engine = Self {
            measure,
            coin: (settings.continue_prob * WHOLE) as u64,
            settings,
            ego,
            graph,
            walks,
            frauds: BTreeSet::new(),
            rng,
            changes: 0,
            chosen: Vec::new(),
            counts: RefCell::default(),
        };
        for walk in 0..engine.walks.count() {
            engine.go_on(walk);
        }
        engine
    }

    /// Continues a walk until its coin, a node without edges, or its greatest length ends it.
    //= spec/trust.md#3-notation
    fn go_on(&mut self, walk: u32) {
        let mut len = self.walks.len(walk);
        let Some(mut here) = len.checked_sub(1).and_then(|last| self.walks.node(walk, last)) else { return };
        // The coin comes first, then the question whether an edge leads on.
        while len < WALK_LEN_MAX && self.rng.next_u64() < self.coin {
            match self.graph.sample(here, &mut self.rng) {
                Some(next) => {
                    self.walks.push(walk, next);
                    here = next;
                    len += 1;
                }
                None => return self.walks.set_dangling(walk, true),
            }
        }
    }

    /// Gives one edge its weight. Returns how many walks changed.
    //= spec/trust.md#5-2-exact-update-of-one-edge-u-v-w-w-w-w-w-w
    fn set_edge(&mut self, from: NodeId, to: NodeId, weight: u64) -> Option<usize> {
        let had_edges = self.graph.total(from) > 0;
        let (old, new) = self.graph.set(from, to, weight)?;
        self.chosen.clear();
        match new.cmp(&old) {
            Ordering::Greater if had_edges => {
                let chance = ratio((new - old) as f64, self.graph.total(from) as f64);
                self.choose(from, chance, |_, _| true);
                Some(self.redirect(|_, _| Some(to)))
            }
            Ordering::Greater => Some(self.leave(from, to)),
            Ordering::Less => {
                self.choose_between(from, to, ratio((old - new) as f64, old as f64));
                Some(self.redirect(|graph, rng| graph.sample(from, rng)))
            }
            Ordering::Equal => Some(0),
        }
    }

    /// The first edge out of a node: walks that ended there because there was none take it. Their coin was won then.
    fn leave(&mut self, from: NodeId, to: NodeId) -> usize {
        let mut chosen = std::mem::take(&mut self.chosen);
        let ended = |visit: &Visit| {
            self.walks.is_dangling(visit.walk()) && visit.at() + 1 == self.walks.len(visit.walk())
        };
        chosen.extend(self.walks.visits(from).iter().filter(|visit| ended(visit)));
        for visit in &chosen {
            self.walks.set_dangling(visit.walk(), false);
            self.walks.push(visit.walk(), to);
            self.go_on(visit.walk());
        }
        let changed = chosen.len();
        self.chosen = chosen;
        changed
    }

    /// Chooses each stored step out of `node` that `wanted` takes with probability `chance`. The gaps between the
    /// chosen ones are drawn, not each one, so that the cost is that of the chosen.
    fn choose(&mut self, node: NodeId, chance: f64, wanted: impl Fn(&Walks, Visit) -> bool) {
        let visits = self.walks.visits(node);
        let mut gaps = Gaps::new(chance);
        let mut at = gaps.next(&mut self.rng);
        while let Some(visit) = visits.get(at) {
            // The last visit of a walk has no step.
            if visit.at() + 1 < self.walks.len(visit.walk()) && wanted(&self.walks, *visit) {
                self.chosen.push(*visit);
            }
            at = at.saturating_add(1).saturating_add(gaps.next(&mut self.rng));
        }
    }

    /// Chooses each stored step from `from` to `to` with probability `chance`, by the shorter of the two lists.
    fn choose_between(&mut self, from: NodeId, to: NodeId, chance: f64) {
        if self.walks.visits(from).len() <= self.walks.visits(to).len() {
            return self
                .choose(from, chance, |walks, visit| walks.node(visit.walk(), visit.at() + 1) == Some(to));
        }
        let visits = self.walks.visits(to);
        let mut gaps = Gaps::new(chance);
        let mut at = gaps.next(&mut self.rng);
        while let Some(visit) = visits.get(at) {
            if let Some(before) = visit.previous()
                && self.walks.node(before.walk(), before.at()) == Some(from)
            {
                self.chosen.push(before);
            }
            at = at.saturating_add(1).saturating_add(gaps.next(&mut self.rng));
        }
    }

    /// Cuts each chosen walk behind its first chosen visit and lets it go on from there: first to `next` without a new
    /// coin, for that one was won, then as every walk does.
    fn redirect(&mut self, next: impl Fn(&Graph, &mut Rng) -> Option<NodeId>) -> usize {
        let mut chosen = std::mem::take(&mut self.chosen);
        // By walk, then by position: the first of each walk is the one that counts.
        chosen.sort_unstable();
        chosen.dedup_by_key(|visit| visit.walk());
        for visit in &chosen {
            let walk = visit.walk();
            self.walks.cut(walk, visit.at() + 1);
            match next(&self.graph, &mut self.rng) {
                Some(node) => {
                    self.walks.push(walk, node);
                    self.go_on(walk);
                }
                None => self.walks.set_dangling(walk, true),
            }
        }
        let changed = chosen.len();
        self.chosen = chosen;
        changed
    }

    /// The share of the walks that contain a node.
    fn hit(&self, node: NodeId) -> f64 {
        f64::from(self.walks.containing(node)) / f64::from(self.walks.count())
    }

    /// The node through which most walks reach `target`, counted between the last visit of ego and the first of it.
    //= spec/trust.md#4-4-merit-default-hitting-probability-with-connectivity-discount
    fn estimate_bottleneck(&self, target: NodeId) -> Bottleneck {
        let walks = self.walks.containing(target);
        if walks < BOTTLENECK_WALKS_MIN && self.graph.weight(self.ego, target) == 0 {
            return Bottleneck { node: None, share: 1.0 };
        }
        if let Some(kept) = self.walks.kept_bottleneck(target) {
            return kept;
        }
        let counted = self.count_between(target);
        let most = counted.iter().max_by_key(|(node, count)| (*count, std::cmp::Reverse(*node)));
        let share = |count: u32| ratio(f64::from(count), f64::from(walks));
        let bottleneck = most.map_or_else(Bottleneck::default, |(node, count)| Bottleneck {
            node: Some(*node),
            share: share(*count),
        });
        self.walks.keep_bottleneck(target, bottleneck);
        bottleneck
    }

    /// Each node on the way to `target` with the number of walks that pass it there.
    fn count_between(&self, target: NodeId) -> Vec<(NodeId, u32)> {
        let mut counts = self.counts.borrow_mut();
        let places = self.walks.place_count().max(counts.len());
        counts.resize(places, 0);
        let mut touched = Vec::new();
        let mut seen: Vec<NodeId> = Vec::with_capacity(WALK_LEN_MAX);
        for visit in self.walks.visits(target) {
            if self.walks.before(*visit).any(|node| node == target) {
                continue;
            }
            seen.clear();
            for node in self.walks.before(*visit).rev().take_while(|node| *node != self.ego) {
                if !seen.contains(&node) {
                    seen.push(node);
                    let count = &mut counts[node as usize];
                    if *count == 0 {
                        touched.push(node);
                    }
                    *count += 1;
                }
            }
        }
        touched.into_iter().map(|node| (node, std::mem::take(&mut counts[node as usize]))).collect()
    }

    /// Value and standard error.
    fn value(&self, node: NodeId) -> (f64, f64) {
        let count = f64::from(self.walks.count());
        let error = |p: f64, n: f64| ratio(p * (1.0 - p), n).max(0.0).sqrt();
        if self.frauds.contains(&node) {
            return (0.0, 0.0);
        }
        match self.measure {
            Measure::Ppr => {
                let value = ratio(self.walks.visits(node).len() as f64, self.all_visits());
                (value, error(value, count))
            }
            _ if node == self.ego => (1.0, 0.0),
            Measure::Hitting => (self.hit(node), error(self.hit(node), count)),
            Measure::Merit => {
                let hit = self.hit(node);
                let share = self.estimate_bottleneck(node).share;
                let factor = discounted(&self.settings, share);
                let slope = hit * self.settings.discount / (1.0 - self.settings.threshold);
                let of_share = slope * error(share, f64::from(self.walks.containing(node)));
                (hit * factor, (factor * error(hit, count)).hypot(of_share))
            }
        }
    }

    /// All visits. A walk that ended at a fraudster counts as if it had gone on: what is burnt raises nobody.
    //= spec/trust.md#9-fraud-evidence
    fn all_visits(&self) -> f64 {
        let burnt: usize = self.frauds.iter().map(|node| self.walks.visits(*node).len()).sum();
        let alpha = self.settings.continue_prob;
        self.walks.visit_count() as f64 + burnt as f64 * alpha / (1.0 - alpha)
    }
}

/// What the bottleneck share leaves of a hitting probability.
//= spec/trust.md#4-4-merit-default-hitting-probability-with-connectivity-discount
pub(crate) fn discounted(settings: &Settings, share: f64) -> f64 {
    let ramp = (share - settings.threshold) / (1.0 - settings.threshold);
    1.0 - settings.discount * ramp.clamp(0.0, 1.0)
}

/// The gaps between successes of independent trials.
struct Gaps {
    /// Logarithm of the probability to fail; 0 if nothing ever succeeds.
    ln_fail: f64,
    always: bool,
}

impl Gaps {
    fn new(chance: f64) -> Self {
        Self { ln_fail: (-chance.clamp(0.0, 1.0)).ln_1p(), always: chance >= 1.0 }
    }

    /// Failures before the next success.
    fn next(&mut self, rng: &mut Rng) -> usize {
        if self.always {
            return 0;
        }
        // Uniform in (0, 1]: the logarithm is finite. A quotient beyond all lists is as good as none.
        let uniform = ((rng.next_u64() >> 11) + 1) as f64 / 9_007_199_254_740_992.0;
        let gap = uniform.ln() / self.ln_fail;
        if gap.is_nan() { usize::MAX } else { gap as usize }
    }
}

impl ReputationEngine for MonteCarlo {
    fn kind(&self) -> EngineKind {
        match self.measure {
            Measure::Merit => EngineKind::Merit,
            Measure::Hitting => EngineKind::Hitting,
            Measure::Ppr => EngineKind::Ppr,
        }
    }

    fn apply(&mut self, changes: &[EdgeChange]) -> ApplyStats {
        let mut stats = ApplyStats::default();
        for change in changes {
            if self.frauds.contains(&change.from) {
                stats.refused.fraudster += 1;
                continue;
            }
            match self.set_edge(change.from, change.to, change.new) {
                Some(walks) => {
                    stats.applied += 1;
                    stats.walks += walks;
                }
                None => stats.refused.form += 1,
            }
        }
        self.changes += stats.applied as u64;
        stats
    }

    //= spec/trust.md#9-fraud-evidence
    fn mark_fraudster(&mut self, node: NodeId) {
        if node == self.ego || !self.frauds.insert(node) {
            return;
        }
        let edges: Vec<NodeId> = self.graph.edges(node).map(|(to, _)| to).collect();
        for to in edges {
            self.graph.set(node, to, 0);
        }
        self.chosen.clear();
        self.choose(node, 1.0, |_, _| true);
        self.redirect(|_, _| None);
    }

    fn score(&self, node: NodeId) -> Score {
        let (value, std_err) = self.value(node);
        let direct = self.graph.weight(self.ego, node) > 0;
        Score { value, std_err, direct, samples: self.walks.containing(node) }
    }

    fn top(&self, count: usize) -> Vec<(NodeId, Score)> {
        let visited = (0..self.walks.place_count() as NodeId).filter(|node| self.walks.containing(*node) > 0);
        match self.measure {
            Measure::Merit => {
                let bounds = visited.map(|node| (node, self.hit(node))).collect();
                engine::best_bounded(&self.graph, self.ego, count, bounds, |node| self.score(node))
            }
            _ => engine::best(&self.graph, self.ego, count, visited.map(|node| (node, self.score(node)))),
        }
    }

    fn bottleneck(&self, node: NodeId) -> Bottleneck {
        if node == self.ego || self.frauds.contains(&node) {
            return Bottleneck::default();
        }
        self.estimate_bottleneck(node)
    }

    fn explain(&self, node: NodeId) -> Explanation {
        engine::explain(&self.graph, self.ego, node, self.bottleneck(node))
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            nodes: self.graph.node_count(),
            edges: self.graph.edge_count(),
            bytes: self.graph.memory_bytes()
                + self.walks.memory_bytes()
                + self.counts.borrow().capacity() * 4,
            walks: self.walks.count(),
            changes: self.changes,
        }
    }

    //= spec/trust.md#8-how-scores-are-used
    fn share(&self, node: NodeId) -> f64 {
        if node == self.ego {
            return 0.0;
        }
        let (value, _) = self.value(node);
        match self.measure {
            Measure::Ppr => ratio(value, 1.0 - self.value(self.ego).0),
            _ => value * (1.0 - self.settings.continue_prob) / self.settings.continue_prob,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::Steps;

    const NODES: u64 = 24;
    const WALKS: u32 = 30_000;

    fn engine(seed: u8) -> MonteCarlo {
        let settings = Settings { walks: WALKS, ..Settings::default() };
        MonteCarlo::new(Measure::Hitting, settings, Graph::new(), 0, Rng::from_seed([seed; 32]))
    }

    /// How many walks end at each node, by coin and for want of an edge.
    fn ends(engine: &MonteCarlo) -> Vec<[f64; 2]> {
        let mut ends = vec![[0.0; 2]; NODES as usize];
        for walk in 0..engine.walks.count() {
            let last = engine.walks.node(walk, engine.walks.len(walk) - 1).expect("a walk has nodes");
            ends[last as usize][usize::from(engine.walks.is_dangling(walk))] += 1.0;
        }
        ends
    }

    /// What [`ends`] is expected to be.
    fn expected(engine: &MonteCarlo) -> Vec<[f64; 2]> {
        let steps = Steps::within_reach(&engine.graph, &[0], &BTreeSet::new(), 100).expect("small");
        let mut start = vec![0.0; steps.len()];
        start[0] = 1.0;
        let alpha = engine.settings.continue_prob;
        let mut ends = vec![[0.0; 2]; NODES as usize];
        for (node, visits) in steps.nodes.iter().zip(steps.visits(&start, alpha)) {
            let ended = visits * f64::from(WALKS);
            let dangling = if engine.graph.total(*node) == 0 { ended * alpha } else { 0.0 };
            ends[*node as usize] = [ended * (1.0 - alpha), dangling];
        }
        ends
    }

    /// Pearson's statistic beyond what chance gives once in a thousand; ends that are expected less than ten times are
    /// taken together.
    fn excess(found: &[[f64; 2]], wanted: &[[f64; 2]]) -> f64 {
        let (mut statistic, mut classes, mut rare) = (0.0, -1.0, (0.0, 0.0));
        let mut class = |found: f64, wanted: f64| {
            statistic += (found - wanted).powi(2) / wanted;
            classes += 1.0;
        };
        for (found, wanted) in found.iter().flatten().zip(wanted.iter().flatten()) {
            if *wanted < 10.0 {
                rare = (rare.0 + found, rare.1 + wanted);
            } else {
                class(*found, *wanted);
            }
        }
        if rare.1 >= 1.0 {
            class(rare.0, rare.1);
        } else {
            assert!(rare.0 <= 8.0, "{} walks end where {} should", rare.0, rare.1);
        }
        // Wilson and Hilferty's approximation of the quantile 0.999.
        let spread = 2.0 / (9.0 * classes);
        statistic - classes * (1.0 - spread + 3.09 * f64::sqrt(spread)).powi(3)
    }

    //= spec/trust.md#5-2-exact-update-of-one-edge-u-v-w-w-w-w-w-w
    #[test]
    fn after_ten_thousand_changes_walks_end_where_fresh_ones_end() {
        for seed in 1..=2 {
            let mut engine = engine(seed);
            let mut rng = Rng::from_seed([seed + 100; 32]);
            let mut reached = 0;
            for change in 0..10_000 {
                let [from, to] = [(); 2].map(|()| rng.below(NODES) as NodeId);
                // Nodes lose all their edges now and then, so that walks end for want of one and go on again.
                if rng.chance(1, 40) {
                    let edges: Vec<_> = engine.graph.edges(from).map(|(to, _)| to).collect();
                    for to in edges {
                        engine.set_edge(from, to, 0);
                    }
                }
                let weight = if rng.chance(2, 3) { 0 } else { 1 << rng.below(20) };
                engine.set_edge(from, to, weight);
                if change % 500 == 499 {
                    let excess = excess(&ends(&engine), &expected(&engine));
                    // Of 40 comparisons one may be as unlikely as one in a thousand.
                    reached += usize::from(excess > 0.0);
                    assert!(excess < 40.0, "after {change} changes with seed {seed}: {excess}");
                }
            }
            assert!(reached <= 1, "{reached} of 20 comparisons with seed {seed}");
        }
    }

    //= spec/trust.md#5-2-exact-update-of-one-edge-u-v-w-w-w-w-w-w
    #[test]
    fn gaps_are_as_long_as_their_chance_says() {
        let mut rng = Rng::from_seed([8; 32]);
        for chance in [0.5, 0.01] {
            let mut gaps = Gaps::new(chance);
            let sum: usize = (0..100_000).map(|_| gaps.next(&mut rng)).sum();
            let mean = sum as f64 / 100_000.0;
            let wanted = (1.0 - chance) / chance;
            assert!((mean - wanted).abs() < 0.02 * (wanted + 1.0), "{chance}: {mean} and not {wanted}");
        }
        assert_eq!(Gaps::new(1.0).next(&mut rng), 0);
        assert!(Gaps::new(0.0).next(&mut rng) > 1 << 40);
        assert!(Gaps::new(f64::MIN_POSITIVE).next(&mut rng) > 1 << 40);
    }

    //= spec/trust.md#4-4-merit-default-hitting-probability-with-connectivity-discount
    #[test]
    fn a_bottleneck_is_kept_until_a_walk_to_the_node_changes() {
        let settings = Settings { walks: 5_000, ..Settings::default() };
        let graph = Graph::from_edges(&[(0, 1, 1), (0, 2, 1), (1, 3, 1), (0, 4, 1)]);
        let mut engine = MonteCarlo::new(Measure::Merit, settings, graph, 0, Rng::from_seed([1; 32]));
        assert_eq!(engine.bottleneck(3), Bottleneck { node: Some(1), share: 1.0 });
        let alone = engine.score(3).value / engine.hit(3);
        assert!((alone - 0.2).abs() < 1e-9);
        engine.set_edge(2, 3, 1);
        assert_eq!(engine.walks.kept_bottleneck(3), None);
        let share = engine.bottleneck(3).share;
        assert!(share > 0.45 && share < 0.55, "{share}");
        // What happens elsewhere does not make it be counted again.
        engine.set_edge(4, 5, 1);
        assert!(engine.walks.kept_bottleneck(3).is_some());
        engine.set_edge(2, 3, 0);
        assert_eq!(engine.bottleneck(3), Bottleneck { node: Some(1), share: 1.0 });
        assert_eq!(engine.bottleneck(77), Bottleneck { node: None, share: 1.0 });
    }
}
