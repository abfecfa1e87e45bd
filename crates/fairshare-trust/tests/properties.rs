//! What must hold on every graph: the bounds on what invented nodes gain, walks that are right after any changes, and no
//! panic and no number that is none, whatever the edges.

use fairshare_crypto::Rng;
use fairshare_trust::{EdgeChange, EngineKind, Graph, NODES_MAX, NodeId, ReputationEngine, Settings, build};
use proptest::prelude::*;

const EGO: NodeId = 0;
const ATTACKER: NodeId = 1;
/// Honest nodes, ego and the attacker among them.
const HONEST: NodeId = 12;
const SYBILS: NodeId = 10;
const WALKS: u32 = 20_000;

type Edges = Vec<(NodeId, NodeId, u64)>;

fn engine(kind: EngineKind, edges: &[(NodeId, NodeId, u64)], seed: u8) -> Box<dyn ReputationEngine> {
    let settings = Settings { walks: WALKS, ..Settings::default() };
    let rng = Rng::from_seed([seed; 32]);
    build(kind, settings, Graph::from_edges(edges), EGO, rng).expect("fine settings, small graph")
}

fn value(kind: EngineKind, edges: &[(NodeId, NodeId, u64)], node: NodeId) -> f64 {
    engine(kind, edges, 0).score(node).value
}

fn sum_over_sybils(kind: EngineKind, edges: &[(NodeId, NodeId, u64)]) -> f64 {
    let engine = engine(kind, edges, 0);
    (HONEST..HONEST + SYBILS).map(|sybil| engine.score(sybil).value).sum()
}

/// Weights of any magnitude.
fn weight() -> impl Strategy<Value = u64> {
    (0u32..44, 1u64..16).prop_map(|(bits, digits)| digits << bits)
}

/// Edges between honest nodes. The attacker is honest so far: ego may trust it.
fn honest() -> impl Strategy<Value = Edges> {
    prop::collection::vec((0..HONEST, 0..HONEST, weight()), 10..60)
}

/// Edges that the attacker can sign: out of itself and out of its nodes, to anybody, and from nobody else.
fn attack() -> impl Strategy<Value = Edges> {
    let sybil = HONEST..HONEST + SYBILS;
    let own = prop_oneof![Just(ATTACKER), sybil];
    prop::collection::vec((own, 0..HONEST + SYBILS, weight()), 1..60)
}

fn joined(honest: &Edges, attack: &Edges) -> Edges {
    honest.iter().chain(attack).copied().collect()
}

/// Changes to any weight, often to none.
fn changes() -> impl Strategy<Value = Edges> {
    let weight = prop_oneof![2 => weight(), 1 => Just(0)];
    prop::collection::vec((0..HONEST, 0..HONEST, weight), 1..200)
}

fn apply(engine: &mut dyn ReputationEngine, changes: &[(NodeId, NodeId, u64)]) {
    let change =
        |(from, to, new): &(NodeId, NodeId, u64)| EdgeChange { from: *from, to: *to, old: 0, new: *new };
    engine.apply(&changes.iter().map(change).collect::<Vec<_>>());
}

/// Each score lies within five standard errors of the exact one. A rare node's count is no normal variable: three more
/// or fewer walks prove nothing.
fn assert_as_exact(
    walks: &dyn ReputationEngine,
    exact: &dyn ReputationEngine,
    nodes: NodeId,
) -> Result<(), TestCaseError> {
    for node in 0..nodes {
        let (came, wanted) = (walks.score(node).value, exact.score(node).value);
        let r = f64::from(WALKS);
        let tolerance = 5.0 * (wanted * (1.0 - wanted) / r).max(0.0).sqrt() + 3.0 / r;
        prop_assert!((came - wanted).abs() <= tolerance, "node {node}: wanted {wanted}, came {came}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    //= spec/trust.md#6-what-is-proven-about-sybils
    #[test]
    fn nobody_lifts_itself_by_hitting(honest in honest(), attack in attack()) {
        let before = value(EngineKind::HittingExact, &honest, ATTACKER);
        let after = value(EngineKind::HittingExact, &joined(&honest, &attack), ATTACKER);
        prop_assert!((before - after).abs() < 1e-12, "{before} became {after}");
    }

    //= spec/trust.md#6-what-is-proven-about-sybils
    #[test]
    fn all_invented_nodes_together_are_hit_at_most_four_times_as_often_as_their_gateway(
        honest in honest(),
        attack in attack(),
    ) {
        let edges = joined(&honest, &attack);
        let alpha = Settings::default().continue_prob;
        let gateway = value(EngineKind::HittingExact, &edges, ATTACKER);
        let sum = sum_over_sybils(EngineKind::HittingExact, &edges);
        prop_assert!(sum <= gateway * alpha / (1.0 - alpha) + 1e-12, "{sum} behind {gateway}");
    }

    //= spec/trust.md#6-what-is-proven-about-sybils
    #[test]
    fn by_merit_all_invented_nodes_together_stay_below_their_gateway(honest in honest(), attack in attack()) {
        let edges = joined(&honest, &attack);
        let Settings { continue_prob: alpha, discount: beta, .. } = Settings::default();
        let gateway = value(EngineKind::HittingExact, &edges, ATTACKER);
        let sum = sum_over_sybils(EngineKind::MeritExact, &edges);
        prop_assert!(sum <= gateway * (1.0 - beta) * alpha / (1.0 - alpha) + 1e-12, "{sum} behind {gateway}");
        let merit = engine(EngineKind::MeritExact, &edges, 0);
        for sybil in (HONEST..HONEST + SYBILS).filter(|sybil| merit.score(*sybil).value > 0.0) {
            prop_assert!((merit.bottleneck(sybil).share - 1.0).abs() < 1e-9);
        }
    }

    //= spec/trust.md#6-what-is-proven-about-sybils
    //= spec/trust.md#8-how-scores-are-used
    #[test]
    fn the_shares_of_all_others_add_up_to_at_most_one(edges in honest(), attack in attack()) {
        let edges = joined(&edges, &attack);
        for kind in EngineKind::ALL {
            let engine = engine(kind, &edges, 1);
            let sum: f64 = (1..HONEST + SYBILS).map(|node| engine.share(node)).sum();
            prop_assert!(sum <= 1.0 + 1e-9, "{kind}: {sum}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    //= spec/trust.md#5-2-exact-update-of-one-edge-u-v-w-w-w-w-w-w
    #[test]
    fn after_any_changes_the_walks_are_as_fresh_ones(edges in honest(), changes in changes(), seed: u8) {
        for kind in [EngineKind::Hitting, EngineKind::Ppr] {
            let mut walks = engine(kind, &edges, seed);
            let mut exact = engine(kind.exact(), &edges, 0);
            apply(walks.as_mut(), &changes);
            apply(exact.as_mut(), &changes);
            assert_as_exact(walks.as_ref(), exact.as_ref(), HONEST)?;
        }
    }

    //= spec/trust.md#12-test-procedure
    #[test]
    fn what_is_inserted_and_deleted_leaves_no_trace(edges in honest(), more in attack(), seed: u8) {
        let exact = engine(EngineKind::HittingExact, &edges, 0);
        let mut walks = engine(EngineKind::Hitting, &edges, seed);
        let graph = Graph::from_edges(&edges);
        apply(walks.as_mut(), &more);
        let back: Edges = more.iter().map(|(from, to, _)| (*from, *to, graph.weight(*from, *to))).collect();
        apply(walks.as_mut(), &back);
        assert_as_exact(walks.as_ref(), exact.as_ref(), HONEST + SYBILS)?;
        prop_assert_eq!(walks.stats().edges, graph.edge_count());
    }

    //= spec/trust.md#12-test-procedure
    #[test]
    fn the_order_of_changes_of_different_edges_means_nothing(
        edges in honest(),
        changes in changes(),
        seed: u8,
    ) {
        let mut last_of_each = std::collections::BTreeMap::new();
        for (from, to, weight) in &changes {
            last_of_each.insert((*from, *to), *weight);
        }
        let mut shuffled: Edges = last_of_each.into_iter().map(|((from, to), weight)| (from, to, weight)).collect();
        let ordered = shuffled.clone();
        Rng::from_seed([seed; 32]).shuffle(&mut shuffled);
        let mut one = engine(EngineKind::HittingExact, &edges, 0);
        let mut other = engine(EngineKind::HittingExact, &edges, 0);
        apply(one.as_mut(), &ordered);
        apply(other.as_mut(), &shuffled);
        for node in 0..HONEST {
            prop_assert!((one.score(node).value - other.score(node).value).abs() < 1e-12);
        }
        let mut walks = engine(EngineKind::Hitting, &edges, seed);
        apply(walks.as_mut(), &shuffled);
        assert_as_exact(walks.as_ref(), one.as_ref(), HONEST)?;
    }

    //= spec/trust.md#9-fraud-evidence
    #[test]
    fn a_fraudster_is_worth_nothing_and_lifts_nobody(edges in honest(), frauds in prop::collection::vec(1..HONEST, 1..4)) {
        for kind in [EngineKind::Hitting, EngineKind::Ppr] {
            let mut walks = engine(kind, &edges, 3);
            let mut exact = engine(kind.exact(), &edges, 0);
            for fraud in &frauds {
                let before: Vec<_> = (0..HONEST).map(|node| exact.score(node).value).collect();
                walks.mark_fraudster(*fraud);
                exact.mark_fraudster(*fraud);
                for node in 0..HONEST {
                    let raised = exact.score(node).value - before[node as usize];
                    // Only ego's share of the visits may rise, when walks end earlier than they did.
                    prop_assert!(kind == EngineKind::Ppr || raised < 1e-12, "{kind}: node {node} rose by {raised}");
                }
                prop_assert_eq!((exact.score(*fraud).value, walks.score(*fraud).value), (0.0, 0.0));
            }
            // Its later word counts as little.
            apply(walks.as_mut(), &[(frauds[0], 2, 1 << 50)]);
            assert_as_exact(walks.as_ref(), exact.as_ref(), HONEST)?;
        }
    }

    //= spec/trust.md#12-test-procedure
    #[test]
    fn no_edges_make_an_engine_panic_or_give_what_is_no_number(
        edges in prop::collection::vec((0..20u32, 0..20u32, any::<u64>()), 0..40),
        changes in prop::collection::vec((prop_oneof![9 => 0..20u32, 1 => NODES_MAX as u32..], 0..20u32, any::<u64>()), 0..40),
        frauds in prop::collection::vec(any::<u32>(), 0..3),
    ) {
        for kind in EngineKind::ALL {
            let settings = Settings { walks: 200, ..Settings::default() };
            let mut engine = build(kind, settings, Graph::from_edges(&edges), EGO, Rng::from_seed([1; 32])).expect("fine");
            for change in changes.chunks(7) {
                apply(engine.as_mut(), change);
                frauds.iter().for_each(|node| engine.mark_fraudster(node % 24));
                for node in (0..25).chain([u32::MAX]) {
                    let score = engine.score(node);
                    prop_assert!(score.value.is_finite() && score.std_err.is_finite(), "{kind}: {score:?}");
                    prop_assert!(engine.share(node).is_finite());
                    prop_assert!(engine.explain(node).path.first().is_none_or(|first| *first == EGO));
                }
                let top = engine.top(5);
                prop_assert!(top.len() <= 5 && top.is_sorted_by(|(_, x), (_, y)| x.value >= y.value));
            }
        }
    }
}

//= spec/trust.md#7-engine-interface
#[test]
fn the_best_of_a_costly_engine_are_those_of_all_scores() {
    let mut rng = Rng::from_seed([9; 32]);
    let mut node = || rng.below(200) as NodeId;
    let mut edges: Edges = (0..1500).map(|number| (node(), node(), 1 << (number % 20))).collect();
    edges.push((EGO, 5, 1 << 20));
    for kind in [EngineKind::Merit, EngineKind::MeritExact, EngineKind::Hitting, EngineKind::HittingExact] {
        let engine = engine(kind, &edges, 2);
        let mut all: Vec<_> =
            (0..200).map(|node| engine.score(node).value).filter(|value| *value > 0.0).collect();
        all.sort_by(|x, y| y.total_cmp(x));
        for count in [0, 1, 7, 1000] {
            let top: Vec<_> = engine.top(count).iter().map(|(_, score)| score.value).collect();
            assert_eq!(top, all[..count.min(all.len())]);
        }
    }
}

//= spec/trust.md#5-5-randomness
#[test]
fn one_seed_gives_one_result() {
    let edges = [(0, 1, 5), (1, 2, 6), (2, 0, 7), (0, 2, 3)];
    let scores = |seed| {
        let mut engine = engine(EngineKind::Merit, &edges, seed);
        apply(engine.as_mut(), &[(0, 1, 50), (1, 2, 0), (1, 3, 4)]);
        engine.top(10)
    };
    assert_eq!(scores(1), scores(1));
    assert_ne!(scores(1), scores(2));
}

//= spec/trust.md#1-decision-in-short-d
//= spec/trust.md#13-traps
#[test]
fn engines_are_chosen_by_name_and_settings_have_ranges() {
    for kind in EngineKind::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
        assert_eq!(engine(kind, &[(0, 1, 5)], 0).name(), kind.name());
    }
    let unknown = "pagerank".parse::<EngineKind>().expect_err("no such engine").to_string();
    assert!(unknown.contains("pagerank") && unknown.contains("temporal-ppr"));
    for settings in [
        Settings { continue_prob: f64::NAN, ..Settings::default() },
        Settings { continue_prob: 1.0, ..Settings::default() },
        Settings { discount: 1.5, ..Settings::default() },
        Settings { threshold: 1.0, ..Settings::default() },
        Settings { walks: 0, ..Settings::default() },
        Settings { netflow_divisor: 0, ..Settings::default() },
    ] {
        assert!(build(EngineKind::Merit, settings, Graph::new(), EGO, Rng::from_seed([0; 32])).is_err());
    }
}
