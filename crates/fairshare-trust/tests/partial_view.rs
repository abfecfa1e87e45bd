//! Every node knows a different part of the graph. On a real web of trust this changes little.

use fairshare_crypto::Rng;
use fairshare_trust::{EngineKind, Graph, NodeId, Settings, build, read_edges};
use std::collections::BTreeSet;

/// Egos are nodes with at least that many edges: who hangs on one friend loses what that friend's lost edges led to.
const DEGREE_MIN: usize = 10;
const EGOS: usize = 16;

//= spec/trust.md#10-partial-views
#[test]
fn without_a_tenth_of_the_edges_forty_of_the_best_fifty_stay() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/trust_graph_pgp.bin");
    let file = std::fs::read(path).expect("the vectors are part of the work tree");
    let edges = read_edges(&file).expect("a graph");
    let mut rng = Rng::from_seed([6; 32]);
    let graph = Graph::from_edges(&edges);
    let mut well_connected: Vec<NodeId> =
        (0..graph.node_count() as NodeId).filter(|node| graph.degree(*node) >= DEGREE_MIN).collect();
    rng.shuffle(&mut well_connected);
    let egos = well_connected.into_iter().take(EGOS);
    for ego in egos {
        let best = |edges: &[(NodeId, NodeId, u64)]| -> BTreeSet<NodeId> {
            let (graph, rng) = (Graph::from_edges(edges), Rng::from_seed([0; 32]));
            let engine = build(EngineKind::PprExact, Settings::default(), graph, ego, rng).expect("fine");
            engine.top(50).into_iter().map(|(node, _)| node).collect()
        };
        let known: Vec<_> =
            edges.iter().filter(|(from, ..)| *from == ego || !rng.chance(1, 10)).copied().collect();
        assert!(known.len() < edges.len() * 92 / 100);
        let kept = best(&edges).intersection(&best(&known)).count();
        assert!(kept >= 40, "ego {ego}: {kept} of 50");
    }
}
