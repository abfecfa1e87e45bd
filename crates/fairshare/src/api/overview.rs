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
use fairshare_ledger::HalfBlock;
use fairshare_ledger::bandwidth::Bandwidth;
use fairshare_node::{Command, Reply};
use fairshare_swarm::{ConnectionStatus, TorrentStatus};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rows of each table: what a person looks through, and what keeps the answer small.
const ROWS_MAX: usize = 60;
/// Newest own blocks that are taken from each node.
const BLOCKS_EACH: u32 = 10;

/// The whole view.
pub(crate) async fn show(State(api): State<Arc<Api>>) -> Result<Body<Json>, Problem> {
    let names = Names(api.faces.iter().map(|face| (face.public_key, face.name.clone())).collect());
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
struct Names(BTreeMap<PublicKey, String>);

impl Names {
    fn of(&self, key: &PublicKey) -> String {
        self.0.get(key).filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| short_key(key))
    }
}

#[derive(Default)]
struct View {
    nodes: Vec<Json>,
    transfers: Vec<(u64, Json)>,
    accounts: Vec<Json>,
    blocks: Vec<(u64, Json)>,
    refusals: Vec<(u64, Json)>,
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
        row["downloads"] = torrents.iter().map(|torrent| forms::download(torrent, face)).collect();
        self.nodes.push(row);
        Ok(())
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
            "refusals": newest(&mut self.refusals),
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
    torrents: &'a [TorrentStatus],
    connections: &'a [ConnectionStatus],
    names: &'a Names,
) -> impl Iterator<Item = (u64, Json)> + 'a {
    let moving = connections.iter().filter(|one| one.upload_rate > 0 || one.refused && one.peer_interested);
    moving.map(move |one| {
        let torrent = torrents.iter().find(|torrent| torrent.info_hash == one.torrent);
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
