//! trust.json, trust_pgp.json and trust_graph_pgp.bin: every reputation engine against values that were computed by
//! other means, the engines of random walks by the bound of their error.

use super::Cases;
use fairshare_crypto::Rng;
use fairshare_trust::{
    Decay, EdgeChange, EngineKind, Graph, Half, Ingest, Interaction, NodeId, ReputationEngine, Settings,
    Weights, build, netflow_capacities, read_edges,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// What an exact value may differ by.
const EXACT: f64 = 1e-9;
/// What a flow may differ by, in bytes.
const FLOW: f64 = 1.0;
/// Values stand in the files with 13 digits.
const DIGITS: f64 = 1e-13;
/// What a decayed sum may differ by, as a part of it.
const DECAYED: f64 = 1e-9;
/// Walks for a graph, and for a graph whose edges change.
const WALKS: u32 = 50_000;
const WALKS_OF_UPDATES: u32 = 200_000;
/// Fields of trust.json that are no cases.
const ABOUT: [&str; 6] = ["format", "title", "reference", "conventions", "tolerance", "generator"];
/// The graph that trust_pgp.json speaks of.
const PGP: &str = "trust_graph_pgp.bin";

type Edges = Vec<(NodeId, NodeId, u64)>;
type Engine = Box<dyn ReputationEngine>;

/// Checks a file of this part.
pub(super) fn check(name: &str, file: &Value, folder: &Path) -> Option<Cases> {
    match name {
        "trust.json" => Some(check_sections(file)),
        "trust_pgp.json" => Some(check_real_graph(file, folder)),
        PGP => Some(vec![check_form(&folder.join(name))]),
        _ => None,
    }
}

fn check_sections(file: &Value) -> Cases {
    let Some(sections) = file.as_object() else { return vec![Err("not an object".to_owned())] };
    let mut cases = Vec::new();
    for (section, content) in sections.iter().filter(|(section, _)| !ABOUT.contains(&section.as_str())) {
        let list = content.as_array().map(Vec::as_slice).unwrap_or_default();
        if list.is_empty() {
            cases.push(Err(format!("{section} is no list of cases")));
        }
        for case in list {
            let judged = judge(section, case);
            let title = case.get("name").and_then(Value::as_str).unwrap_or_default();
            cases.extend(
                judged.into_iter().map(|case| case.map_err(|why| format!("{section} {title}: {why}"))),
            );
        }
    }
    if cases.is_empty() { vec![Err("no cases".to_owned())] } else { cases }
}

fn judge(section: &str, case: &Value) -> Cases {
    let one = |judged: Result<(), String>| vec![judged];
    match section {
        "graphs" => graph(case).unwrap_or_else(|why| vec![Err(why)]),
        "updates" => updates(case).unwrap_or_else(|why| vec![Err(why)]),
        "temporal" => one(read(case).and_then(|case| temporal(&case))),
        "sybil" => one(read(case).and_then(|case| sybil(&case))),
        "netflow_sybil" => one(read(case).and_then(|case| netflow_sybil(&case))),
        "ingest" => one(read(case).and_then(|case| ingest(&case))),
        _ => one(Err("unknown section".to_owned())),
    }
}

fn read<T: DeserializeOwned>(case: &Value) -> Result<T, String> {
    T::deserialize(case).map_err(|error| format!("unknown form: {error}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GraphCase {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "description", default)]
    _description: String,
    n: NodeId,
    ego: NodeId,
    edges: Edges,
    #[serde(default)]
    fraudsters: Vec<NodeId>,
    expect: Map<String, Value>,
}

/// What one engine says of a graph.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    engine: String,
    alpha: Option<f64>,
    beta: Option<f64>,
    tau: Option<f64>,
    a: Option<f64>,
    pretrusted: Option<Vec<NodeId>>,
    unit_bytes: Option<u64>,
    scores: Option<Vec<f64>>,
    targets: Option<BTreeMap<NodeId, f64>>,
    bottleneck: Option<Vec<f64>>,
    capacity: Option<Vec<f64>>,
}

impl Expected {
    fn kind(&self) -> Result<EngineKind, String> {
        self.engine.parse::<EngineKind>().map_err(|error| error.to_string())
    }

    fn settings(&self) -> Result<Settings, String> {
        let mut settings = Settings::default();
        match (self.alpha, self.engine == "netflow") {
            (Some(divisor), true) => {
                settings.netflow_divisor = Some(divisor as u32)
                    .filter(|whole| f64::from(*whole) == divisor)
                    .ok_or("the divisor of netflow is no whole number")?;
            }
            (Some(alpha), false) => settings.continue_prob = alpha,
            (None, _) => {}
        }
        settings.discount = self.beta.unwrap_or(settings.discount);
        settings.threshold = self.tau.unwrap_or(settings.threshold);
        settings.return_prob = self.a.unwrap_or(settings.return_prob);
        settings.bartercast_unit = self.unit_bytes.unwrap_or(settings.bartercast_unit);
        settings.pretrusted = self.pretrusted.clone().unwrap_or_default();
        Ok(settings)
    }

    /// Nodes and their values.
    fn values(&self) -> Result<Vec<(NodeId, f64)>, String> {
        match (&self.scores, &self.targets) {
            (Some(scores), None) => Ok((0..).zip(scores.iter().copied()).collect()),
            (None, Some(targets)) => Ok(targets.iter().map(|(node, value)| (*node, *value)).collect()),
            _ => Err("unknown form: neither scores nor targets, or both".to_owned()),
        }
    }
}

fn graph(case: &Value) -> Result<Cases, String> {
    let case: GraphCase = read(case)?;
    let judged = |(label, expected): (&String, &Value)| {
        let outcome = read(expected).and_then(|expected| expectation(&case, &expected));
        outcome.map_err(|why| format!("{label}: {why}"))
    };
    Ok(case.expect.iter().map(judged).collect())
}

//= spec/trust.md#3-notation
//= spec/trust.md#4-1-ppr-personalised-pagerank
//= spec/trust.md#4-3-hitting-personalised-hitting-probability
//= spec/trust.md#4-6-bartercast
//= spec/trust.md#4-7-eigentrust
//= spec/trust.md#12-test-procedure
fn expectation(case: &GraphCase, expected: &Expected) -> Result<(), String> {
    let (kind, settings, values) = (expected.kind()?, expected.settings()?, expected.values()?);
    if let Some(stray) = values.iter().find(|(node, _)| *node >= case.n) {
        return Err(format!("node {} of {}", stray.0, case.n));
    }
    let mut exact = engine(kind.exact(), &settings, &case.edges, case.ego)?;
    case.fraudsters.iter().for_each(|node| exact.mark_fraudster(*node));
    let tolerance = if kind == EngineKind::NetFlow { FLOW } else { EXACT };
    near(exact.as_ref(), &values, |_| tolerance)?;
    for (node, share) in (0..).zip(expected.bottleneck.iter().flatten()) {
        close(exact.bottleneck(node).share, *share, EXACT)
            .map_err(|why| format!("bottleneck of {node}: {why}"))?;
    }
    if let Some(wanted) = &expected.capacity {
        capacities(settings.clone(), &case.edges, case.ego, wanted)?;
    }
    by_walks(kind, &settings, case, &values)
}

fn capacities(settings: Settings, edges: &Edges, ego: NodeId, wanted: &[f64]) -> Result<(), String> {
    let found =
        netflow_capacities(settings, Graph::from_edges(edges), ego).map_err(|error| error.to_string())?;
    for (node, wanted) in wanted.iter().enumerate() {
        let capacity = found.get(node).copied().unwrap_or(0.0);
        close(capacity, *wanted, FLOW).map_err(|why| format!("capacity of {node}: {why}"))?;
    }
    Ok(())
}

/// The engine of random walks. Where it gives no unbiased value (`merit`), the probability that it rests on is checked
/// elsewhere; its values are within the error that it states, with room for the choice of the highest share.
fn by_walks(
    kind: EngineKind,
    settings: &Settings,
    case: &GraphCase,
    values: &[(NodeId, f64)],
) -> Result<(), String> {
    if kind.exact() == kind {
        return Ok(());
    }
    twice(|seed, walks| {
        let settings = Settings { walks: walks * WALKS, ..settings.clone() };
        let graph = Graph::from_edges(&case.edges);
        let rng = Rng::from_seed([seed; 32]);
        let mut engine = build(kind, settings, graph, case.ego, rng).map_err(|error| error.to_string())?;
        case.fraudsters.iter().for_each(|node| engine.mark_fraudster(*node));
        if kind != EngineKind::Merit {
            return near(engine.as_ref(), values, |value| spread(value, walks * WALKS));
        }
        for (node, wanted) in values {
            let score = engine.score(*node);
            // Nodes of few walks are judged on the safe side.
            if score.samples >= 1000 {
                close(score.value, *wanted, 6.0 * score.std_err + 1e-3)
                    .map_err(|why| format!("by walks, node {node}: {why}"))?;
            }
        }
        Ok(())
    })
}

/// Thousands of nodes are compared at five standard errors, and rare nodes are no normal variables: what fails with one
/// seed must fail with another and four times the walks too.
fn twice(judge: impl Fn(u8, u32) -> Result<(), String>) -> Result<(), String> {
    judge(1, 1).or_else(|_| judge(2, 4))
}

/// What an estimate from `walks` walks may differ by.
//= spec/trust.md#5-4-error
fn spread(value: f64, walks: u32) -> f64 {
    let walks = f64::from(walks);
    5.0 * (value * (1.0 - value) / walks).max(0.0).sqrt() + 1.0 / walks
}

fn near(
    engine: &dyn ReputationEngine,
    values: &[(NodeId, f64)],
    tolerance: impl Fn(f64) -> f64,
) -> Result<(), String> {
    let nodes: Vec<_> = values.iter().map(|(node, _)| *node).collect();
    for ((node, wanted), score) in values.iter().zip(engine.scores(&nodes)) {
        close(score.value, *wanted, tolerance(*wanted))
            .map_err(|why| format!("{} of node {node}: {why}", engine.name()))?;
    }
    Ok(())
}

fn close(value: f64, wanted: f64, tolerance: f64) -> Result<(), String> {
    // Written so that what is no number fails.
    if (value - wanted).abs() <= tolerance.max(wanted.abs() * DIGITS) {
        Ok(())
    } else {
        Err(format!("wanted {wanted}, came {value}"))
    }
}

fn engine(kind: EngineKind, settings: &Settings, edges: &Edges, ego: NodeId) -> Result<Engine, String> {
    let graph = Graph::from_edges(edges);
    build(kind, settings.clone(), graph, ego, Rng::from_seed([7; 32])).map_err(|error| error.to_string())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdatesCase {
    #[serde(rename = "name")]
    _name: String,
    n: usize,
    ego: NodeId,
    edges: Edges,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    op: String,
    edge: (NodeId, NodeId),
    new_weight: u64,
    #[serde(flatten)]
    scores: BTreeMap<String, Vec<f64>>,
}

//= spec/trust.md#12-test-procedure
fn updates(case: &Value) -> Result<Cases, String> {
    let case: UpdatesCase = read(case)?;
    let labels: BTreeSet<&String> = case.steps.iter().flat_map(|step| step.scores.keys()).collect();
    let mut engines: BTreeMap<&String, [Engine; 2]> = BTreeMap::new();
    for label in labels {
        let (kind, continue_prob) = measure(label)?;
        let settings = Settings { continue_prob, walks: WALKS_OF_UPDATES, ..Settings::default() };
        let both = [kind, kind.exact()].map(|kind| engine(kind, &settings, &case.edges, case.ego));
        let [walks, exact] = both;
        engines.insert(label, [walks?, exact?]);
    }
    let mut graph = Graph::from_edges(&case.edges);
    Ok(case.steps.iter().map(|step| update(&mut graph, &mut engines, step, case.n)).collect())
}

fn update(
    graph: &mut Graph,
    engines: &mut BTreeMap<&String, [Engine; 2]>,
    step: &Step,
    nodes: usize,
) -> Result<(), String> {
    let (from, to) = step.edge;
    let (old, new) = graph.set(from, to, step.new_weight).ok_or("an edge that no graph holds")?;
    let op = match (old, new) {
        (0, _) => "insert",
        (_, 0) => "delete",
        _ if new > old => "increase",
        _ => "decrease",
    };
    for [walks, exact] in engines.values_mut() {
        walks.apply(&[EdgeChange { from, to, old, new }]);
        exact.apply(&[EdgeChange { from, to, old, new }]);
    }
    if op != step.op {
        return Err(format!("{} is called {}", op, step.op));
    }
    for (label, scores) in &step.scores {
        if scores.len() != nodes {
            return Err(format!("{label} has {} values for {nodes} nodes", scores.len()));
        }
        let [walks, exact] = &engines[label];
        let values: Vec<_> = (0..).zip(scores.iter().copied()).collect();
        near(exact.as_ref(), &values, |_| EXACT)?;
        near(walks.as_ref(), &values, |value| spread(value, WALKS_OF_UPDATES))?;
    }
    Ok(())
}

/// The measure and probability of a label such as `hit_a0.8`.
fn measure(label: &str) -> Result<(EngineKind, f64), String> {
    let parts = label.split_once("_alpha").or_else(|| label.split_once("_a"));
    let (name, alpha) = parts.ok_or_else(|| format!("unknown field {label}"))?;
    let kind = match name {
        "hit" => EngineKind::Hitting,
        "ppr" => EngineKind::Ppr,
        _ => return Err(format!("unknown field {label}")),
    };
    Ok((kind, alpha.parse().map_err(|_| format!("unknown field {label}"))?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TemporalCase {
    #[serde(rename = "name")]
    _name: String,
    ego: String,
    alpha: f64,
    fields: Vec<String>,
    interactions: Vec<(String, u32, String, u32, u64)>,
    state_nodes: usize,
    scores: BTreeMap<String, f64>,
}

//= spec/trust.md#4-2-temporal-ppr-market-reputation-of-2017-to-2019-exactly-r
fn temporal(case: &TemporalCase) -> Result<(), String> {
    if case.fields != ["requester", "requester_seq", "responder", "responder_seq", "contribution"] {
        return Err("unknown fields of an interaction".to_owned());
    }
    let mut names = Names::of(&case.ego);
    let settings = Settings { continue_prob: case.alpha, ..Settings::default() };
    let mut engine = engine(EngineKind::TemporalPpr, &settings, &Vec::new(), 0)?;
    for (requester, requester_sequence, responder, responder_sequence, contribution) in &case.interactions {
        engine.interaction(&Interaction {
            requester: names.number(requester),
            requester_sequence: *requester_sequence,
            responder: names.number(responder),
            responder_sequence: *responder_sequence,
            contribution: *contribution,
        });
    }
    let states = engine.stats().nodes;
    if states != case.state_nodes {
        return Err(format!("wanted {} states, came {states}", case.state_nodes));
    }
    let values: Vec<_> = case.scores.iter().map(|(name, value)| (names.number(name), *value)).collect();
    near(engine.as_ref(), &values, |_| EXACT)
}

/// Numbers of names, ego 0.
struct Names(BTreeMap<String, NodeId>);

impl Names {
    fn of(ego: &str) -> Self {
        Self(BTreeMap::from([(ego.to_owned(), 0)]))
    }

    fn number(&mut self, name: &str) -> NodeId {
        let next = self.0.len() as NodeId;
        *self.0.entry(name.to_owned()).or_insert(next)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SybilCase {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "attack")]
    _attack: String,
    #[serde(rename = "n")]
    _nodes: usize,
    #[serde(rename = "honest")]
    _honest: usize,
    ego: NodeId,
    attacker: NodeId,
    sybils: Vec<NodeId>,
    alpha: f64,
    beta: f64,
    tau: f64,
    edges: Edges,
    before: Measured,
    after: After,
    bounds: Bounds,
    gain: Gain,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    hitting: f64,
    ppr: f64,
    merit: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct After {
    hitting_attacker: f64,
    hitting_sybil_sum: f64,
    ppr_attacker: f64,
    ppr_sybil_sum: f64,
    merit_attacker: f64,
    merit_sybil_sum: f64,
    min_sybil_bottleneck: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    hitting_attacker_unchanged: bool,
    hitting_sybil_sum_max: f64,
    merit_sybil_sum_max: f64,
    ppr_attacker_boost_max: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Gain {
    hitting: f64,
    merit_vs_hit: f64,
    ppr_sybils: f64,
    ppr_own: f64,
}

//= spec/trust.md#6-what-is-proven-about-sybils
fn sybil(case: &SybilCase) -> Result<(), String> {
    let sybils: BTreeSet<_> = case.sybils.iter().copied().collect();
    let mut honest = case.edges.clone();
    honest.retain(|(from, to, _)| !sybils.contains(from) && !sybils.contains(to));
    let settings = Settings {
        continue_prob: case.alpha,
        discount: case.beta,
        threshold: case.tau,
        ..Settings::default()
    };
    let of = |kind, edges: &Edges| engine(kind, &settings, edges, case.ego);
    let kinds = [EngineKind::HittingExact, EngineKind::PprExact, EngineKind::MeritExact];
    let mut before = Vec::new();
    let mut attacker = Vec::new();
    let mut sums = Vec::new();
    for kind in kinds {
        let after = of(kind, &case.edges)?;
        before.push(of(kind, &honest)?.score(case.attacker).value);
        attacker.push(after.score(case.attacker).value);
        sums.push(case.sybils.iter().map(|sybil| after.score(*sybil).value).sum::<f64>());
    }
    let merit = of(EngineKind::MeritExact, &case.edges)?;
    let bottleneck =
        case.sybils.iter().map(|sybil| merit.bottleneck(*sybil).share).fold(f64::INFINITY, f64::min);
    let (was, is) = (&case.before, &case.after);
    let pairs = [
        ("hitting before", before[0], was.hitting),
        ("ppr before", before[1], was.ppr),
        ("merit before", before[2], was.merit),
        ("hitting of the attacker", attacker[0], is.hitting_attacker),
        ("ppr of the attacker", attacker[1], is.ppr_attacker),
        ("merit of the attacker", attacker[2], is.merit_attacker),
        ("hitting of the sybils", sums[0], is.hitting_sybil_sum),
        ("ppr of the sybils", sums[1], is.ppr_sybil_sum),
        ("merit of the sybils", sums[2], is.merit_sybil_sum),
        ("bottleneck", bottleneck, is.min_sybil_bottleneck),
        ("gain by hitting", sums[0] / before[0], case.gain.hitting),
        ("gain by merit", sums[2] / before[0], case.gain.merit_vs_hit),
        ("gain of sybils by ppr", sums[1] / before[1], case.gain.ppr_sybils),
        ("gain of the attacker by ppr", attacker[1] / before[1], case.gain.ppr_own),
    ];
    for (what, value, wanted) in pairs {
        // Quotients of values that are exact to 1e-9.
        let tolerance = if what.starts_with("gain") { 1e-7 } else { EXACT };
        close(value, wanted, tolerance).map_err(|why| format!("{what}: {why}"))?;
    }
    let bounds = [
        (
            "hitting of the attacker",
            !case.bounds.hitting_attacker_unchanged || (attacker[0] - before[0]).abs() < EXACT,
        ),
        ("hitting of the sybils", sums[0] <= case.bounds.hitting_sybil_sum_max + EXACT),
        ("merit of the sybils", sums[2] <= case.bounds.merit_sybil_sum_max + EXACT),
        ("ppr of the attacker", attacker[1] <= before[1] * case.bounds.ppr_attacker_boost_max + EXACT),
    ];
    bounds
        .iter()
        .find(|(_, holds)| !holds)
        .map_or(Ok(()), |(what, _)| Err(format!("{what} passes its bound")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetflowCase {
    #[serde(rename = "sybil3_consumed_bytes_from_ego")]
    _consumed: u64,
    #[serde(rename = "n")]
    _nodes: usize,
    ego: NodeId,
    #[serde(rename = "attacker")]
    _attacker: NodeId,
    #[serde(rename = "sybils")]
    _sybils: Vec<NodeId>,
    edges: Edges,
    alpha: u32,
    scores: Vec<f64>,
    capacity: Vec<f64>,
}

//= spec/trust.md#4-5-netflow-limited-contribution-accounting
fn netflow_sybil(case: &NetflowCase) -> Result<(), String> {
    let settings = Settings { netflow_divisor: case.alpha, ..Settings::default() };
    let engine = engine(EngineKind::NetFlow, &settings, &case.edges, case.ego)?;
    let values: Vec<_> = (0..).zip(case.scores.iter().copied()).collect();
    near(engine.as_ref(), &values, |_| FLOW)?;
    capacities(settings, &case.edges, case.ego, &case.capacity)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IngestCase {
    #[serde(rename = "name")]
    _name: String,
    ego: String,
    half_life_ms: u64,
    epoch_ms: u64,
    blocks: Vec<Block>,
    gross: Vec<(String, String, u64)>,
    netted: Vec<(String, String, u64)>,
    gross_forward_decayed: Vec<(String, String, f64)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    owner: String,
    seq: u32,
    link_owner: String,
    link_seq: u32,
    up: u64,
    down: u64,
    timestamp_ms: u64,
    both_halves_valid: bool,
}

//= spec/trust.md#2-2-vertices-and-edges
fn ingest(case: &IngestCase) -> Result<(), String> {
    let mut names = Names::of(&case.ego);
    let decay = Decay { half_life_ms: case.half_life_ms, epoch_ms: case.epoch_ms };
    let mut plain = Ingest::new(0, Weights::Netted, None);
    let mut decayed = Ingest::new(0, Weights::Gross, Some(decay));
    for block in &case.blocks {
        for ingest in [&mut plain, &mut decayed] {
            add(ingest, &mut names, block).map_err(|why| format!("{} {}: {why}", block.owner, block.seq))?;
        }
    }
    let mut numbered = |edges: &[(String, String, u64)]| -> BTreeSet<_> {
        edges.iter().map(|(from, to, weight)| (names.number(from), names.number(to), *weight)).collect()
    };
    for (weights, wanted) in [(Weights::Gross, &case.gross), (Weights::Netted, &case.netted)] {
        let (wanted, found) = (numbered(wanted), plain.edges(weights).into_iter().collect::<BTreeSet<_>>());
        if wanted != found {
            return Err(format!("{weights:?}: wanted {wanted:?}, came {found:?}"));
        }
    }
    // The changes that were told lead to the same edges.
    let mut told = Graph::new();
    for change in plain.take_changes() {
        let before = told.set(change.from, change.to, change.new);
        if before != Some((change.old, change.new)) {
            return Err(format!("{change:?} after {before:?}"));
        }
    }
    let edges = (0..told.node_count() as NodeId)
        .flat_map(|from| told.edges(from).map(move |(to, weight)| (from, to, weight)));
    if edges.collect::<BTreeSet<_>>() != numbered(&case.netted) {
        return Err("the changes lead to other edges".to_owned());
    }
    if decayed.edges(Weights::Gross).len() != case.gross_forward_decayed.len() {
        return Err("another number of decayed edges".to_owned());
    }
    for (from, to, wanted) in &case.gross_forward_decayed {
        let sum = decayed.received(names.number(from), names.number(to));
        close(sum, *wanted, DECAYED * wanted).map_err(|why| format!("decayed {from} {to}: {why}"))?;
    }
    Ok(())
}

fn add(ingest: &mut Ingest, names: &mut Names, block: &Block) -> Result<(), String> {
    let (owner, counterparty) = (names.number(&block.owner), names.number(&block.link_owner));
    let half = Half {
        owner,
        sequence: block.seq,
        counterparty,
        link_sequence: 0,
        up: block.up,
        down: block.down,
        time_ms: block.timestamp_ms,
    };
    if block.both_halves_valid {
        let other = Half {
            owner: counterparty,
            sequence: block.link_seq,
            counterparty: owner,
            link_sequence: block.seq,
            up: block.down,
            down: block.up,
            ..half
        };
        return ingest.pair(&half, &other).map_err(|error| error.to_string());
    }
    // Alone it adds something only if it is ego's.
    match ingest.own(&half) {
        Err(error) if owner == 0 => Err(error.to_string()),
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RealGraph {
    #[serde(rename = "format")]
    _format: u32,
    graph: String,
    #[serde(rename = "layout")]
    _layout: String,
    n: usize,
    m: usize,
    #[serde(rename = "origin")]
    _origin: String,
    dangling_nodes: usize,
    egos: Vec<RealEgo>,
}

#[derive(Deserialize)]
struct RealEgo {
    ego: NodeId,
    out_degree: usize,
    #[serde(flatten)]
    values: BTreeMap<String, Vec<(NodeId, f64)>>,
}

fn check_real_graph(file: &Value, folder: &Path) -> Cases {
    let read = read::<RealGraph>(file).and_then(|about| Ok((load(&about, folder)?, about)));
    let (edges, about) = match read {
        Ok(read) => read,
        Err(why) => return vec![Err(why)],
    };
    let graph = Graph::from_edges(&edges);
    let dangling = (0..about.n as NodeId).filter(|node| graph.degree(*node) == 0).count();
    let mut cases = vec![if dangling == about.dangling_nodes {
        Ok(())
    } else {
        Err(format!("wanted {} nodes without edges, came {dangling}", about.dangling_nodes))
    }];
    for ego in &about.egos {
        let degree = graph.degree(ego.ego);
        if degree != ego.out_degree || ego.values.is_empty() {
            cases.push(Err(format!("ego {}: degree {degree}, {} lists", ego.ego, ego.values.len())));
        }
        for (label, values) in &ego.values {
            let judged = real(&graph, ego.ego, label, values);
            cases.push(judged.map_err(|why| format!("ego {}: {label}: {why}", ego.ego)));
        }
    }
    cases
}

fn load(about: &RealGraph, folder: &Path) -> Result<Edges, String> {
    if about.graph.contains(['/', '\\']) {
        return Err(format!("{} is no name of a file beside this one", about.graph));
    }
    let bytes = fs::read(folder.join(&about.graph)).map_err(|error| format!("{}: {error}", about.graph))?;
    let edges = read_edges(&bytes).map_err(|error| error.to_string())?;
    if edges.len() == about.m { Ok(edges) } else { Err(format!("{} has {} edges", about.graph, edges.len())) }
}

//= spec/trust.md#12-test-procedure
fn real(graph: &Graph, ego: NodeId, label: &str, values: &[(NodeId, f64)]) -> Result<(), String> {
    let (kind, continue_prob) = measure(label.strip_suffix("_top").unwrap_or(label))?;
    let settings = Settings { continue_prob, ..Settings::default() };
    let of = |kind, settings, seed| {
        build(kind, settings, graph.clone(), ego, Rng::from_seed([seed; 32]))
            .map_err(|error| error.to_string())
    };
    let exact = of(kind.exact(), settings.clone(), 0)?;
    near(exact.as_ref(), values, |_| EXACT)?;
    if label.ends_with("_top") {
        // Places of equals may differ; values may not.
        for (place, (found, wanted)) in exact.top(values.len()).iter().zip(values).enumerate() {
            close(found.1.value, wanted.1, EXACT).map_err(|why| format!("place {place}: {why}"))?;
        }
    }
    twice(|seed, walks| {
        let walks = walks * WALKS;
        let engine = of(kind, Settings { walks, ..settings.clone() }, seed)?;
        near(engine.as_ref(), values, |value| spread(value, walks))
    })
}

/// The form of a graph in binary: as long as it says, nodes in range, in the order of time, no edge twice.
fn check_form(path: &Path) -> Result<(), String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let edges = read_edges(&bytes).map_err(|error| error.to_string())?;
    let (header, records) = bytes.split_at_checked(8).ok_or("too short")?;
    let word = |bytes: &[u8], at: usize| {
        let word = bytes.get(at * 4..at * 4 + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_le_bytes)
    };
    if word(header, 1) != u32::try_from(edges.len()).ok() || records.len() != edges.len() * 12 {
        return Err("not as long as it says".to_owned());
    }
    let times: Vec<_> = (0..edges.len()).filter_map(|edge| word(records, edge * 3 + 2)).collect();
    if !times.is_sorted() {
        return Err("not in the order of time".to_owned());
    }
    let pairs: BTreeSet<_> = edges.iter().map(|(from, to, _)| (from, to)).collect();
    if pairs.len() == edges.len() { Ok(()) } else { Err("an edge stands twice".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(name: &str) -> Value {
        let path = super::super::default_folder().join(name);
        let bytes = fs::read(path).expect("the vectors are part of the work tree");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn a_changed_value_fails_and_so_do_unknown_fields_and_sections() {
        let mut small = file("trust.json");
        // Small graphs are enough here.
        small["graphs"].as_array_mut().expect("a list").truncate(9);
        let failures = |file: &Value| check_sections(file).iter().filter(|case| case.is_err()).count();
        assert_eq!(failures(&small), 0);
        let changes = [
            ("/graphs/8/expect/merit/scores/3", json!(0.9), 1),
            ("/graphs/8/expect/merit/bottleneck/3", json!(0.9), 1),
            ("/graphs/8/expect/netflow/capacity/3", json!(9e15), 1),
            ("/graphs/8/expect/hit_a0.8/engine", json!("other"), 1),
            ("/graphs/8/expect/eigentrust/a", json!(0.2), 1),
            ("/updates/0/steps/3/hit_a0.8/1", json!(0.9), 1),
            ("/updates/1/steps/2/op", json!("turn"), 1),
            ("/temporal/0/scores/a", json!(0.9), 1),
            ("/temporal/1/state_nodes", json!(1), 1),
            ("/sybil/2/after/ppr_sybil_sum", json!(0.9), 1),
            ("/netflow_sybil/1/scores/3", json!(7.0), 1),
            ("/ingest/0/netted/0/2", json!(7), 1),
            ("/ingest/1/gross_forward_decayed/4/2", json!(7.0), 1),
        ];
        for (place, value, wanted) in changes {
            let mut changed = small.clone();
            *changed.pointer_mut(place).expect("the field is there") = value;
            assert_eq!(failures(&changed), wanted, "{place}");
        }
        small["surprise"] = json!([{}]);
        small["ingest"][0]["surprise"] = json!(1);
        assert_eq!(failures(&small), 2);
        assert_eq!(failures(&json!({})), 1);
        assert!(check("other.json", &json!({}), Path::new("nowhere")).is_none());
    }

    #[test]
    fn a_real_graph_of_another_form_fails() {
        let folder = super::super::default_folder();
        let mut about = file("trust_pgp.json");
        about["graph"] = json!("nothing.bin");
        assert!(check_real_graph(&about, &folder).iter().all(Result::is_err));
        about["graph"] = json!("../vectors/trust_graph_pgp.bin");
        assert!(check_real_graph(&about, &folder).iter().all(Result::is_err));
        assert!(check_form(&folder.join(PGP)).is_ok());
        assert!(check_form(&folder.join("trust.json")).is_err());
    }
}
