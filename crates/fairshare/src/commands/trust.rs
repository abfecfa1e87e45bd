//! `fairshare trust show|explain|score|proofs`.

use super::{amount, lines, short, text};
use crate::api::Client;
use crate::cli::{Chain, ChainOf, Trust, TrustScore, TrustShow};
use crate::failure::{Failure, Outcome};
use crate::{print, show};
use fairshare_crypto::{PublicKey, Rng, sha256};
use fairshare_trust::{EngineKind, Graph, NodeId, Score, Settings, build, read_edges};
use serde_json::{Value as Json, json};

/// The largest graph file: some ten million edges as text.
const GRAPH_MAX: u64 = 1 << 30;
/// Nodes that are printed for people; JSON has all.
const SHOWN: usize = 50;

pub(crate) fn run(command: &Trust) -> Outcome {
    match command {
        Trust::Show(args) => best(args),
        Trust::Explain(args) => explain(args),
        Trust::Score(args) => score(args),
        Trust::Proofs(options) => super::chain(&Chain::Proofs(options.clone())),
    }
}

fn best(args: &TrustShow) -> Outcome {
    let best = Client::find(&args.client)?.get(&format!("/api/v1/trust?limit={}", args.limit))?;
    print::one(args.client.json, &best, || {
        lines(&best, line, "nobody is known yet: standing follows from signed pairs")
    });
    Ok(())
}

fn line(one: &Json) -> String {
    let mark = if one["forker"] == true { "  its fork is proved" } else { "" };
    format!("{:.3} +- {:.3}  {}{mark}", number(one, "value"), number(one, "std_err"), text(one, "peer"))
}

fn number(json: &Json, name: &str) -> f64 {
    json[name].as_f64().unwrap_or_default()
}

fn explain(args: &ChainOf) -> Outcome {
    let parsed: Result<PublicKey, _> = args.key.parse();
    let key = parsed.map_err(|error| Failure::bad_use("key", format!("`{}`: {error}", args.key)))?;
    let why = Client::find(&args.client)?.get(&format!("/api/v1/trust/{key}"))?;
    print::one(args.client.json, &why, || reason(&why));
    Ok(())
}

fn reason(why: &Json) -> String {
    let path: Vec<_> =
        why["path"].as_array().into_iter().flatten().filter_map(Json::as_str).map(short).collect();
    let way = if path.is_empty() { "no signed pair leads to it".to_owned() } else { path.join(" -> ") };
    let bottleneck = match why["bottleneck"].as_str() {
        Some(key) => {
            format!("{:.0} % of all ways lead over {}", 100.0 * number(why, "bottleneck_share"), short(key))
        }
        None => "no single node stands between".to_owned(),
    };
    format!(
        "{}\nengine      {}\ndirect      you received {}\nlikeliest   {way}\nbottleneck  {bottleneck}",
        line(why),
        text(why, "engine"),
        show::bytes(amount(why, "direct_bytes")),
    )
}

/// Scores on a graph in a file: for researchers, and for whoever wants to see what a score would be.
//= spec/interfaces.md#41-contract-for-scripts-stable-from-the-first-release-tests-rely-on-it
fn score(args: &TrustScore) -> Outcome {
    let kind = engine(args)?;
    let meta = std::fs::metadata(&args.graph).map_err(|error| Failure::io(&args.graph, &error))?;
    let unreadable = |why: String| {
        Failure::bad_use("graph", format!("{}: {why}", args.graph.display()))
            .hint("one edge a line: u v weight; `#` begins a comment")
    };
    if meta.len() > GRAPH_MAX {
        return Err(unreadable("larger than 1 GiB".to_owned()));
    }
    let bytes = std::fs::read(&args.graph).map_err(|error| Failure::io(&args.graph, &error))?;
    let edges = read_edges(&bytes).map_err(|error| unreadable(error.to_string()))?;
    let engine = build(kind, Settings::default(), Graph::from_edges(&edges), args.ego, rng(args.seed)?)
        .map_err(|error| Failure::bad_use("engine", error.to_string()))?;
    let best: Vec<(NodeId, Score)> = engine.top(args.limit.unwrap_or(usize::MAX));
    let scores: Vec<Json> = best
        .iter()
        .map(|(node, score)| json!({ "node": node, "value": score.value, "std_err": score.std_err }))
        .collect();
    let answer = json!({ "engine": kind.name(), "scores": scores });
    print::one(args.json, &answer, || {
        let rows = best
            .iter()
            .take(SHOWN)
            .map(|(node, score)| format!("{node:>10}  {:.6} +- {:.6}", score.value, score.std_err));
        let more = best.len().saturating_sub(SHOWN);
        let rest = (more > 0).then(|| format!("... and {more} more; --json prints all"));
        rows.chain(rest).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

fn engine(args: &TrustScore) -> Outcome<EngineKind> {
    let name = if args.exact && !args.engine.ends_with("-exact") {
        format!("{}-exact", args.engine)
    } else {
        args.engine.clone()
    };
    let kind: Result<EngineKind, _> = name.parse();
    kind.map_err(|error| Failure::bad_use("engine", error.to_string()))
}

/// Whoever knows the seed can choose edges that the walks miss: it is fixed only on demand.
//= spec/trust.md#5-5-randomness
fn rng(seed: Option<u64>) -> Outcome<Rng> {
    let mut bytes = [0; 32];
    match seed {
        Some(seed) => bytes = sha256(format!("fairshare/trust/{seed}").as_bytes()),
        None => getrandom::fill(&mut bytes).map_err(|error| {
            Failure::failed("entropy", format!("the system gives no random bytes: {error}"))
        })?,
    }
    Ok(Rng::from_seed(bytes))
}
