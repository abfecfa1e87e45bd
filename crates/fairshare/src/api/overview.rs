//! `/overview`: everything the page draws, in one answer.

use crate::api::downloads::torrents;
use crate::api::node::{status, status_of};
use crate::api::problem::Problem;
use crate::api::server::{Api, unexpected};
use crate::api::tokens::{blocks, own_blocks};
use crate::face::Face;
use crate::forms::{self, amount};
use crate::show::{self, rfc3339, short_key};
use axum::Json as Body;
use axum::extract::State;
use fairshare_crypto::PublicKey;
use fairshare_economy::payouts::PayoutView;
use fairshare_ledger::HalfBlock;
use fairshare_ledger::bandwidth::Bandwidth;
use fairshare_node::{Command, Reply, Route};
use fairshare_swarm::{ConnectionStatus, TorrentStatus};
use fairshare_tunnel::{CircuitStatus, CircuitUse};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows of each table: what a person looks through, and what keeps the answer small.
const ROWS_MAX: usize = 60;
/// Keys of each node's view of reputation.
const REPUTATIONS_EACH: usize = 4;
/// Newest own blocks that are taken from each node.
const BLOCKS_EACH: u32 = 10;

/// The whole view.
pub(crate) async fn show(State(api): State<Arc<Api>>) -> Result<Body<Json>, Problem> {
    let mut names = Names {
        identities: api.faces.iter().map(|face| (face.public_key, face.name.clone())).collect(),
        tunnels: BTreeMap::new(),
    };
    for face in &api.faces {
        if let Ok(node) = status_of(face).await {
            names.tunnels.insert(node.tunnel_key, face.name.clone());
        }
    }
    let mut view = View::default();
    for face in &api.faces {
        // A node that stops in the middle of this shows as stopped.
        if view.add(face, &names).await.is_err() {
            view.nodes.push(stopped(face));
        }
    }
    view.mark_forkers();
    Ok(Body(view.into_json(&api.title)))
}

/// What the nodes are called: by name in the demo, else by the end of their key.
struct Names {
    identities: BTreeMap<PublicKey, String>,
    /// Only of the nodes behind this API: the demo shows what no real page could know.
    tunnels: BTreeMap<PublicKey, String>,
}

impl Names {
    fn of(&self, key: &PublicKey) -> String {
        self.identities.get(key).filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| short_key(key))
    }

    fn of_tunnel(&self, key: &PublicKey) -> String {
        self.tunnels.get(key).filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| short_key(key))
    }
}

#[derive(Default)]
struct View {
    nodes: Vec<Json>,
    transfers: Vec<(u64, Json)>,
    accounts: Vec<Json>,
    blocks: Vec<(u64, Json)>,
    refusals: Vec<(u64, Json)>,
    circuits: Vec<Json>,
    payouts: Vec<Json>,
    reputation: Vec<Json>,
    forkers: BTreeSet<String>,
    peers: usize,
    given: i128,
    taken: i128,
}

fn stopped(face: &Face) -> Json {
    json!({
        "name": label(face), "state": "down", "public_key": face.public_key.to_string(), "uploading": true,
        "downloads": [], "given_bytes": "0", "taken_bytes": "0", "balance_bytes": "0", "chain_length": 0, "peers": 0,
    })
}

fn label(face: &Face) -> String {
    match (face.name.as_str(), face.role) {
        ("", _) => "this node".to_owned(),
        (name, "") => name.to_owned(),
        (name, role) => format!("{name} ({role})"),
    }
}

impl View {
    async fn add(&mut self, face: &Face, names: &Names) -> Result<(), Problem> {
        let node = status_of(face).await?;
        let torrents = torrents(face).await?;
        let Reply::Connections(connections) = face.ask(Command::Connections).await? else {
            return Err(unexpected());
        };
        let Reply::Accounts(accounts) = face.ask(Command::Accounts).await? else { return Err(unexpected()) };
        let Reply::Proofs(proofs) = face.ask(Command::Proofs).await? else { return Err(unexpected()) };
        let newest = node.chain_length;
        for block in own_blocks(face, newest.saturating_sub(BLOCKS_EACH).max(1), newest).await? {
            let other = Command::Linked { owner: block.owner, sequence: block.sequence };
            let answered = !blocks(face.ask(other).await?)?.is_empty();
            self.blocks.push((block.timestamp_ms, block_row(&block, answered, names)));
        }
        self.forkers.extend(proofs.iter().map(|proof| proof.accused().to_string()));
        self.transfers.extend(transfers(face, &torrents, &connections, names));
        self.accounts.extend(accounts.iter().map(|account| {
            json!({
                "node": names.of(&face.public_key), "peer": names.of(&account.peer),
                "given_bytes": amount(account.account.mine.given), "taken_bytes": amount(account.account.theirs.given),
                "standing_bytes": amount(account.claim_on_peer),
            })
        }));
        self.refusals
            .extend(face.refusals().into_iter().map(|met| (met.at_ms, refusal_row(face, &met, names))));
        (self.given, self.taken) =
            (self.given + i128::from(node.total_up), self.taken + i128::from(node.total_down));
        self.peers += node.peers;
        let mut row = status(face, &node);
        row["name"] = json!(label(face));
        row["state"] = json!("up");
        row["downloads"] =
            torrents.iter().map(|(torrent, route)| forms::download(torrent, *route, face)).collect();
        self.circuits.extend(self.circuit_rows(face, names).await?);
        self.payouts.extend(payout_rows(face, names).await?);
        self.reputation.extend(reputation_rows(face, names).await?);
        self.nodes.push(row);
        Ok(())
    }

    /// The node's circuits as drawn paths, those for payment left out: they have one hop and say nothing.
    async fn circuit_rows(&self, face: &Face, names: &Names) -> Result<Vec<Json>, Problem> {
        let Reply::Circuits(circuits) = face.ask(Command::Circuits).await? else { return Err(unexpected()) };
        let shown = circuits.iter().filter(|one| one.purpose != CircuitUse::Settlement);
        Ok(shown
            .take(ROWS_MAX - self.circuits.len().min(ROWS_MAX))
            .map(|one| circuit_row(one, face, names))
            .collect())
    }

    fn mark_forkers(&mut self) {
        for node in &mut self.nodes {
            if node["public_key"].as_str().is_some_and(|key| self.forkers.contains(key)) {
                node["state"] = json!("forked");
            }
        }
    }

    fn into_json(mut self, title: &str) -> Json {
        let nodes = self.nodes.len();
        let health = if nodes == 1 {
            format!("{} peers, balance {} tokens", self.peers, show::tokens(self.given - self.taken))
        } else {
            format!(
                "{nodes} nodes on this machine, all balances together {} tokens, payments under way included",
                show::tokens(self.given - self.taken)
            )
        };
        json!({
            "title": title, "health": health, "nodes": self.nodes, "accounts": self.accounts,
            "transfers": newest(&mut self.transfers), "blocks": newest(&mut self.blocks),
            "refusals": newest(&mut self.refusals), "circuits": self.circuits, "payouts": self.payouts,
            "reputation": self.reputation,
        })
    }
}

/// The rows with the largest numbers, those first.
fn newest(rows: &mut Vec<(u64, Json)>) -> Vec<Json> {
    rows.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    rows.truncate(ROWS_MAX);
    rows.drain(..).map(|(_, row)| row).collect()
}

fn transfers<'a>(
    face: &'a Face,
    torrents: &'a [(TorrentStatus, Route)],
    connections: &'a [ConnectionStatus],
    names: &'a Names,
) -> impl Iterator<Item = (u64, Json)> + 'a {
    let moving = connections.iter().filter(|one| one.upload_rate > 0 || one.refused && one.peer_interested);
    moving.map(move |one| {
        let torrent =
            torrents.iter().map(|(torrent, _)| torrent).find(|torrent| torrent.info_hash == one.torrent);
        let state = match one {
            one if one.refused => "refused",
            one if one.am_unchoking => "serving",
            _ => "waiting",
        };
        let row = json!({
            "from": names.of(&face.public_key),
            "to": one.key.map_or_else(|| one.address.to_string(), |key| names.of(&key)),
            "torrent": torrent.map_or("", |torrent| torrent.name.as_str()),
            "rate_bytes": amount(one.upload_rate), "bytes": amount(one.uploaded), "state": state,
        });
        (one.upload_rate, row)
    })
}

fn circuit_row(circuit: &CircuitStatus, face: &Face, names: &Names) -> Json {
    let mut row = forms::circuit(circuit);
    let last = circuit.path.len().saturating_sub(1);
    let (own, end) = match circuit.purpose {
        CircuitUse::Introduction(_) => ("hidden seeder", "introduction"),
        CircuitUse::Seeding(_) => ("hidden seeder", "rendezvous"),
        CircuitUse::Taking(_) => ("hidden taker", "rendezvous"),
        CircuitUse::Data(_) | CircuitUse::Settlement => ("you", "exit"),
    };
    let owner = if face.name.is_empty() { "you".to_owned() } else { face.name.clone() };
    let first = json!({ "name": owner, "part": own });
    let hops = circuit.path.iter().enumerate().map(|(at, (key, ..))| {
        let part = if at == last { end } else { "relay" };
        json!({ "name": names.of_tunnel(key), "part": part })
    });
    row["path"] = std::iter::once(first).chain(hops).collect();
    row
}

/// Neighbours with whom anything is or was owed.
async fn payout_rows(face: &Face, names: &Names) -> Result<Vec<Json>, Problem> {
    let Reply::Payouts(views) = face.ask(Command::Payouts).await? else { return Err(unexpected()) };
    let moved = |view: &&PayoutView| view.net != 0 || view.paid_in + view.paid_out > 0;
    let row = |view: &PayoutView| {
        let mut row = forms::payout(view);
        row["node"] = json!(names.of(&face.public_key));
        row["neighbour"] = json!(match (&view.peer, &view.neighbour) {
            (Some(peer), _) => names.of(peer),
            (None, Some(neighbour)) => names.of_tunnel(neighbour),
            (None, None) => String::new(),
        });
        row
    };
    Ok(views.iter().filter(moved).take(ROWS_MAX).map(row).collect())
}

/// The best few, each with its reason.
async fn reputation_rows(face: &Face, names: &Names) -> Result<Vec<Json>, Problem> {
    let Reply::Reputations(best) = face.ask(Command::Reputations(REPUTATIONS_EACH)).await? else {
        return Err(unexpected());
    };
    let mut rows = Vec::new();
    for one in best {
        let Reply::Reason(why) = face.ask(Command::Explain(one.key)).await? else { return Err(unexpected()) };
        let mut row = forms::reason(&why);
        row["node"] = json!(names.of(&face.public_key));
        row["peer"] = json!(names.of(&one.key));
        // As many digits as the error leaves.
        row["score"] = json!(format!("{:.2}", one.score.value));
        row["path"] = why.path.iter().map(|key| json!(names.of(key))).collect();
        row["bottleneck"] = json!(why.bottleneck.map(|(key, _)| names.of(&key)));
        row["bottleneck_percent"] = json!(why.bottleneck.map_or(0.0, |(_, share)| (share * 100.0).round()));
        rows.push(row);
    }
    Ok(rows)
}

fn block_row(block: &HalfBlock, answered: bool, names: &Names) -> Json {
    let bandwidth = Bandwidth::of(block).ok();
    json!({
        "at": rfc3339(block.timestamp_ms), "owner": names.of(&block.owner), "sequence_number": block.sequence,
        "agreement": !block.is_proposal(), "link": names.of(&block.link_owner), "type": block.kind.to_string(),
        "amount_bytes": bandwidth.map(|bandwidth| amount(bandwidth.up.max(bandwidth.down))), "answered": answered,
    })
}

fn refusal_row(face: &Face, met: &crate::face::Met, names: &Names) -> Json {
    let mut row = forms::refusal(&met.refusal);
    row["at"] = json!(rfc3339(met.at_ms));
    row["by"] = json!(names.of(&met.provider));
    row["whom"] = json!(names.of(&face.public_key));
    row
}
