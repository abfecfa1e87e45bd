//! Reputation: what a new block costs, how long walks take from scratch, and how much memory a graph holds, on graphs
//! with the shape of a network and on a real web of trust.
//!
//! The tasks are built for quick compiling; this one runs itself again as a release build. Means are those of the time
//! that the thread had a processor, where the system tells: other work on the machine then does not count.

use crate::vectors;
use crate::workspace;
use fairshare_crypto::Rng;
use fairshare_trust::{EdgeChange, EngineKind, Graph, NodeId, ReputationEngine, Settings, build, read_edges};
use serde_json::{Value, json};
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Edges of the made graphs, ten for each node.
const SIZES: [u32; 2] = [100_000, 1_000_000];
const EDGES_OF_A_NODE: u32 = 10;
/// The exponent of the degrees is 2.7; the place of a node among all is then a power of a uniform number.
const PLACE_POWER: f64 = 2.43;
/// Blocks whose cost is measured, each two changes of edges.
const BLOCKS: usize = 200_000;
const OWN_CHANGES: usize = 20_000;
const TARGETS: usize = 60;
/// Cold builds.
const BUILDS: u8 = 16;
/// The system counts the time on a processor in ticks of some milliseconds: shorter spans are taken from the clock.
const TICKS: Duration = Duration::from_millis(40);
/// What is promised: of a block at the largest size in microseconds, and of walks from scratch in milliseconds.
const BLOCK_PROMISED_US: f64 = 5.0;
const COLD_PROMISED_MS: f64 = 20.0;
/// What the specification wants: of a block, of an own edge in microseconds, of the replay in seconds.
const BLOCK_WANTED_US: f64 = 2.0;
const OWN_WANTED_US: f64 = 30.0;
const REPLAY_WANTED_S: f64 = 0.5;
/// The ego of the real graph, one of those in the vectors.
const REAL_EGO: NodeId = 31_930;

/// Costs of many equal acts.
struct Costs {
    mean_us: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Costs {
    fn of(mut each: Vec<Duration>, together: Duration) -> Self {
        each.sort_unstable();
        let at = |part: usize| each.get(each.len() * part / 100).copied().unwrap_or_default();
        let micros = |span: Duration| span.as_secs_f64() * 1e6;
        let mean_us = micros(together) / each.len().max(1) as f64;
        Self { mean_us, p50_us: micros(at(50)), p99_us: micros(at(99)) }
    }

    fn json(&self) -> Value {
        json!({ "mean_us": self.mean_us, "p50_us": self.p50_us, "p99_us": self.p99_us })
    }
}

/// Measures `acts` one by one and together.
fn measure<T>(acts: impl IntoIterator<Item = T>, mut act: impl FnMut(T)) -> Costs {
    let mut each = Vec::new();
    let (began, on_processor) = (Instant::now(), processor_time());
    for one in acts {
        let began = Instant::now();
        act(one);
        each.push(began.elapsed());
    }
    let together = match (on_processor, processor_time()) {
        (Some(before), Some(after)) if began.elapsed() >= TICKS => after.saturating_sub(before),
        _ => each.iter().sum(),
    };
    Costs::of(each, together)
}

/// How long this thread has had a processor.
fn processor_time() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// Figures of one made graph.
struct Made {
    edges: usize,
    load_s: f64,
    bytes_of_edge: f64,
    walk_bytes: usize,
    cold_ms: f64,
    block: Costs,
    own: Costs,
    bottleneck: Costs,
    score: Costs,
}

impl Made {
    fn json(&self) -> Value {
        json!({
            "edges": self.edges, "load_s": self.load_s, "bytes_of_edge": self.bytes_of_edge,
            "walk_bytes": self.walk_bytes, "cold_build_ms": self.cold_ms, "block": self.block.json(),
            "own_edge": self.own.json(), "bottleneck": self.bottleneck.json(), "score": self.score.json(),
        })
    }

    fn print(&self) {
        println!("{} edges, {} walks, merit", self.edges, Settings::default().walks);
        let load = self.edges as f64 / self.load_s / 1e6;
        println!("  load                {load:8.1} million edges/s, {:.1} bytes an edge", self.bytes_of_edge);
        println!(
            "  walks from scratch  {:8.1} ms, {:.1} MB with their index",
            self.cold_ms,
            self.walk_bytes as f64 / 1e6
        );
        for (name, costs) in [
            ("block, two edges", &self.block),
            ("own edge", &self.own),
            ("bottleneck", &self.bottleneck),
            ("score, kept", &self.score),
        ] {
            let Costs { mean_us, p50_us, p99_us } = costs;
            println!("  {name:18}  {mean_us:8.2} us mean, {p50_us:.2} p50, {p99_us:.2} p99");
        }
    }
}

/// The bench.
pub(super) fn run(json: bool) -> Result<bool, String> {
    if cfg!(debug_assertions) {
        return again_as_release(json);
    }
    let made = SIZES.map(made);
    let (replay, replay_s) = replay()?;
    let largest = made.last().ok_or("no size")?;
    let kept = largest.block.mean_us <= BLOCK_PROMISED_US && largest.cold_ms <= COLD_PROMISED_MS;
    if json {
        let made: Vec<_> = made.iter().map(Made::json).collect();
        let replay = json!({ "seconds": replay_s, "edge": replay.json() });
        println!("{}", json!({ "bench": "trust", "graphs": made, "replay": replay, "kept": kept }));
        return Ok(kept);
    }
    made.iter().for_each(Made::print);
    let Costs { mean_us, p50_us, p99_us } = replay;
    println!(
        "real graph, edge by edge: {replay_s:.2} s; an edge {mean_us:.2} us mean, {p50_us:.2} p50, {p99_us:.2} p99"
    );
    let block = largest.block.mean_us;
    println!(
        "promised at {} edges: block {block:.2} of {BLOCK_PROMISED_US} us, from scratch {:.1} of {COLD_PROMISED_MS} ms: {}",
        largest.edges,
        largest.cold_ms,
        if kept { "kept" } else { "NOT kept" }
    );
    let wants = [
        ("block", block, BLOCK_WANTED_US),
        ("own edge", largest.own.mean_us, OWN_WANTED_US),
        ("replay, seconds", replay_s, REPLAY_WANTED_S),
    ];
    for (what, came, wanted) in wants {
        println!("wanted: {what} {came:.2} of {wanted}: {}", if came <= wanted { "met" } else { "not met" });
    }
    Ok(kept)
}

fn again_as_release(json: bool) -> Result<bool, String> {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--release", "--locked", "--quiet", "--package", "xtask", "--", "bench", "trust"]);
    cargo.args(json.then_some("--json"));
    Ok(cargo.status().map_err(|error| error.to_string())?.success())
}

/// Where the ends of edges and of blocks fall: few nodes have many.
struct Shape {
    nodes: u32,
    /// Number of the node at each place, so that numbers say nothing about degrees.
    numbers: Vec<NodeId>,
}

impl Shape {
    fn new(nodes: u32, rng: &mut Rng) -> Self {
        let mut numbers: Vec<_> = (0..nodes).collect();
        rng.shuffle(&mut numbers);
        Self { nodes, numbers }
    }

    fn node(&self, rng: &mut Rng) -> NodeId {
        let uniform = (rng.next_u64() >> 11) as f64 / 9_007_199_254_740_992.0;
        let place = (f64::from(self.nodes) * uniform.powf(PLACE_POWER)) as usize;
        self.numbers[place.min(self.numbers.len() - 1)]
    }

    fn pair(&self, rng: &mut Rng) -> (NodeId, NodeId) {
        loop {
            let (from, to) = (self.node(rng), self.node(rng));
            if from != to {
                return (from, to);
            }
        }
    }
}

fn made(edges: u32) -> Made {
    let mut rng = Rng::from_seed([11; 32]);
    let shape = Shape::new(edges / EDGES_OF_A_NODE, &mut rng);
    let bytes = |rng: &mut Rng| 1 << 20 << rng.below(12);
    let list: Vec<_> = (0..edges)
        .map(|_| {
            let (from, to) = shape.pair(&mut rng);
            (from, to, bytes(&mut rng))
        })
        .collect();
    let began = Instant::now();
    let graph = Graph::from_edges(&list);
    let load_s = began.elapsed().as_secs_f64();
    let bytes_of_edge = graph.memory_bytes() as f64 / graph.edge_count() as f64;
    // A node like most that take part: 20 edges.
    let ego = (0..shape.nodes).find(|node| graph.degree(*node) == 20).unwrap_or(0);
    let graphs: Vec<_> = (0..BUILDS).map(|seed| (graph.clone(), seed)).collect();
    let mut built = Vec::new();
    let cold = measure(graphs, |(graph, seed)| built.push(black_box(engine_of(graph, ego, seed))));
    let cold_ms = cold.mean_us / 1e3;
    drop(built);
    let mut engine = engine_of(graph.clone(), ego, 0);
    let walk_bytes = engine.stats().bytes - graph.memory_bytes();
    let edges = graph.edge_count();
    let mut follower = Follower(graph);
    let blocks: Vec<_> = (0..BLOCKS)
        .map(|_| {
            let (a, b) = shape.pair(&mut rng);
            let more = bytes(&mut rng);
            [follower.change(a, b, more), follower.change(b, a, more >> 3)]
        })
        .collect();
    let block = measure(&blocks, |changes| {
        black_box(engine.apply(changes));
    });
    let friends: Vec<_> = follower.0.edges(ego).map(|(friend, _)| friend).collect();
    let own: Vec<_> = (0..OWN_CHANGES)
        .map(|number| follower.change(ego, friends[number % friends.len()], bytes(&mut rng)))
        .collect();
    let own = measure(&own, |change| {
        black_box(engine.apply(std::slice::from_ref(change)));
    });
    let best = engine.top(TARGETS);
    // The list knows the bottlenecks by now; an engine that was not asked yet does not.
    let engine = engine_of(follower.0, ego, 1);
    let bottleneck = measure(&best, |(node, _)| {
        black_box(engine.score(*node));
    });
    let score = measure(&best, |(node, _)| {
        black_box(engine.score(*node));
    });
    Made { edges, load_s, bytes_of_edge, walk_bytes, cold_ms, block, own, bottleneck, score }
}

fn engine_of(graph: Graph, ego: NodeId, seed: u8) -> Box<dyn ReputationEngine> {
    let rng = Rng::from_seed([seed; 32]);
    build(EngineKind::Merit, Settings::default(), graph, ego, rng).expect("the default settings are fine")
}

/// The graph as it will be, for making changes beforehand.
struct Follower(Graph);

impl Follower {
    fn change(&mut self, from: NodeId, to: NodeId, more: u64) -> EdgeChange {
        let sum = self.0.weight(from, to) + more;
        let (old, new) = self.0.set(from, to, sum).expect("nodes of the graph");
        EdgeChange { from, to, old, new }
    }
}

/// The real graph, from nothing, in the order of time.
fn replay() -> Result<(Costs, f64), String> {
    let path = vectors::default_folder().join("trust_graph_pgp.bin");
    let bytes = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let edges = read_edges(&bytes).map_err(|error| error.to_string())?;
    let mut engine = engine_of(Graph::new(), REAL_EGO, 0);
    let costs = measure(&edges, |(from, to, weight)| {
        let change = EdgeChange { from: *from, to: *to, old: 0, new: *weight };
        black_box(engine.apply(&[change]));
    });
    let seconds = costs.mean_us * edges.len() as f64 / 1e6;
    Ok((costs, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_told_by_their_mean_and_their_ranks() {
        let each: Vec<_> = (1..=100).rev().map(Duration::from_micros).collect();
        let costs = Costs::of(each, Duration::from_micros(5_050));
        assert!((costs.mean_us - 50.5).abs() < 1e-9);
        assert!((costs.p50_us - 51.0).abs() < 1e-9 && (costs.p99_us - 100.0).abs() < 1e-9);
    }
}
