//! `/chain`: blocks, their other halves, proposals, proofs.

use crate::api::problem::Problem;
use crate::api::server::{Api, Which, unexpected};
use crate::api::tokens::blocks;
use crate::face::Face;
use crate::forms;
use axum::Json as Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_ledger::{BlockType, transaction};
use fairshare_node::{Command, Reply};
use serde::Deserialize;
use serde_json::Value as Json;
use std::sync::Arc;

type Shared = State<Arc<Api>>;
type Answer = Result<Body<Json>, Problem>;

/// Newest blocks in one answer at the most.
const RECENT_MAX: usize = 1_000;
const RECENT_DEFAULT: usize = 50;

fn parse(face: &Face, key: &str) -> Result<PublicKey, Problem> {
    if key == "me" {
        return Ok(face.public_key);
    }
    key.parse().map_err(|error| Problem::bad_request("key", format!("{error}")))
}

#[derive(Debug, Deserialize)]
pub(crate) struct Range {
    from: Option<u32>,
    to: Option<u32>,
}

/// Blocks of one chain, ascending; at most 1,000 in one answer.
pub(crate) async fn show(
    State(api): Shared,
    Path(key): Path<String>,
    Query(which): Query<Which>,
    Query(range): Query<Range>,
) -> Answer {
    let face = api.face(&which)?;
    let (from, to) = (range.from.unwrap_or(1), range.to.unwrap_or(u32::MAX));
    let found = blocks(face.ask(Command::Chain { owner: parse(face, &key)?, from, to }).await?)?;
    Ok(Body(found.iter().map(|block| forms::block(block)).collect()))
}

#[derive(Debug, Deserialize)]
pub(crate) struct Limit {
    limit: Option<usize>,
}

/// The newest stored blocks of all chains.
pub(crate) async fn recent(
    State(api): Shared,
    Query(which): Query<Which>,
    Query(limit): Query<Limit>,
) -> Answer {
    let limit = limit.limit.unwrap_or(RECENT_DEFAULT).min(RECENT_MAX);
    let found = blocks(api.ask(&which, Command::RecentBlocks(limit)).await?)?;
    Ok(Body(found.iter().map(|block| forms::block(block)).collect()))
}

/// The other half of a block, or null.
pub(crate) async fn linked(
    State(api): Shared,
    Path((key, number)): Path<(String, u32)>,
    Query(which): Query<Which>,
) -> Answer {
    let face = api.face(&which)?;
    let command = Command::Linked { owner: parse(face, &key)?, sequence: number };
    let found = blocks(face.ask(command).await?)?;
    Ok(Body(found.first().map_or(Json::Null, |block| forms::block(block))))
}

/// What a chain is worth as far as it is stored.
pub(crate) async fn verify(
    State(api): Shared,
    Path(key): Path<String>,
    Query(which): Query<Which>,
) -> Answer {
    let face = api.face(&which)?;
    match face.ask(Command::VerifyChain(parse(face, &key)?)).await? {
        Reply::Verified(Ok(report)) => Ok(Body(forms::chain_report(&report))),
        Reply::Verified(Err(why)) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store", why)),
        _ => Err(unexpected()),
    }
}

/// All proofs of forks.
pub(crate) async fn proofs(State(api): Shared, Query(which): Query<Which>) -> Answer {
    let Reply::Proofs(proofs) = api.ask(&which, Command::Proofs).await? else { return Err(unexpected()) };
    Ok(Body(proofs.iter().map(forms::proof).collect()))
}

/// A proposal to sign; the transaction in its encoded form, in hex.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Proposal {
    to: String,
    #[serde(rename = "type")]
    kind: String,
    transaction: String,
}

/// Signs a proposal to a peer that is known; it is on disk before the answer.
pub(crate) async fn propose(
    State(api): Shared,
    Query(which): Query<Which>,
    proposal: Result<Body<Proposal>, JsonRejection>,
) -> Result<(StatusCode, Body<Json>), Problem> {
    let Body(proposal) = proposal.map_err(|error| Problem::bad_request("body", error.body_text()))?;
    let face = api.face(&which)?;
    let to = parse(face, &proposal.to)?;
    if to == face.public_key {
        return Err(Problem::bad_request("key", "a block to oneself is invalid"));
    }
    let kind = BlockType::from(proposal.kind.as_str());
    if kind == BlockType::BANDWIDTH {
        return Err(Problem::bad_request("type", "payments are proposed by settlement alone, never by hand"));
    }
    let transaction = hex::decode(&proposal.transaction)
        .ok()
        .filter(|bytes| transaction::decode(bytes).is_ok())
        .ok_or_else(|| Problem::bad_request("transaction", "the transaction is no encoded value in hex"))?;
    if !is_known(face, &to).await? {
        return Err(Problem::conflict(
            "unknown-peer",
            format!("no peer with the key {to} is known; nothing was signed"),
        )
        .hint("fairshare peers list shows the known ones; fairshare run --peer IP:PORT meets others"));
    }
    let command = Command::Propose { to, kind, transaction: Bytes::from(transaction) };
    match face.ask(command).await? {
        Reply::Proposed(Ok(block)) => Ok((StatusCode::CREATED, Body(forms::block(&block)))),
        Reply::Proposed(Err(why)) => Err(Problem::conflict("not-proposed", why)),
        _ => Err(unexpected()),
    }
}

/// Whether a proposal would reach the peer: over the overlay or over an open connection.
async fn is_known(face: &Face, key: &PublicKey) -> Result<bool, Problem> {
    let Reply::Peers(peers) = face.ask(Command::Peers).await? else { return Err(unexpected()) };
    if peers.iter().any(|peer| peer.key == *key) {
        return Ok(true);
    }
    let Reply::Connections(connections) = face.ask(Command::Connections).await? else {
        return Err(unexpected());
    };
    Ok(connections.iter().any(|connection| connection.key == Some(*key)))
}
