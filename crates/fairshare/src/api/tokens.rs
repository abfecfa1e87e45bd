//! `/tokens`: the balance, the accounts behind it, and the payments on the own chain.

use crate::api::node::status_of;
use crate::api::problem::Problem;
use crate::api::server::{Api, Which, unexpected};
use crate::face::Face;
use crate::forms::{self, amount};
use crate::show::rfc3339;
use axum::Json as Body;
use axum::extract::{Query, State};
use fairshare_ledger::bandwidth::Bandwidth;
use fairshare_ledger::{BlockType, HalfBlock};
use fairshare_node::{Command, Reply};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::sync::Arc;

/// Payments in one answer at the most.
const HISTORY_MAX: usize = 1_000;
const HISTORY_DEFAULT: usize = 50;
/// Blocks that one look backwards takes.
const PAGE: u32 = 100;

/// What was given and taken, in all and with each peer.
pub(crate) async fn balance(
    State(api): State<Arc<Api>>,
    Query(which): Query<Which>,
) -> Result<Body<Json>, Problem> {
    let face = api.face(&which)?;
    let status = status_of(face).await?;
    let Reply::Accounts(accounts) = face.ask(Command::Accounts).await? else { return Err(unexpected()) };
    Ok(Body(json!({
        "public_key": status.public_key.to_string(),
        "given_bytes": amount(status.total_up),
        "taken_bytes": amount(status.total_down),
        "balance_bytes": amount(i128::from(status.total_up) - i128::from(status.total_down)),
        "price": status.price,
        "accounts": accounts.iter().map(forms::account).collect::<Vec<_>>(),
    })))
}

/// What is owed for circuits, by neighbour.
pub(crate) async fn payouts(
    State(api): State<Arc<Api>>,
    Query(which): Query<Which>,
) -> Result<Body<Json>, Problem> {
    let Reply::Payouts(views) = api.ask(&which, Command::Payouts).await? else { return Err(unexpected()) };
    Ok(Body(views.iter().map(forms::payout).collect()))
}

/// A page of the payments.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    limit: Option<usize>,
    /// Number of the last payment of the page before.
    after: Option<u32>,
}

/// The payments on the own chain, newest first: those that follow `after`, at most `limit`.
pub(crate) async fn history(
    State(api): State<Arc<Api>>,
    Query(which): Query<Which>,
    Query(page): Query<Page>,
) -> Result<Body<Json>, Problem> {
    let face = api.face(&which)?;
    let limit = page.limit.unwrap_or(HISTORY_DEFAULT).min(HISTORY_MAX);
    let newest = status_of(face).await?.chain_length;
    let mut to = page.after.map_or(newest, |after| newest.min(after.saturating_sub(1)));
    let mut payments = Vec::new();
    while to > 0 && payments.len() < limit {
        let from = to.saturating_sub(PAGE - 1).max(1);
        for block in own_blocks(face, from, to).await?.iter().rev() {
            if payments.len() < limit
                && let Some(payment) = payment(face, block).await?
            {
                payments.push(payment);
            }
        }
        to = from - 1;
    }
    Ok(Body(Json::Array(payments)))
}

/// Blocks of the node's own chain.
pub(crate) async fn own_blocks(face: &Face, from: u32, to: u32) -> Result<Vec<Arc<HalfBlock>>, Problem> {
    blocks(face.ask(Command::Chain { owner: face.public_key, from, to }).await?)
}

/// The blocks in a reply.
pub(crate) fn blocks(reply: Reply) -> Result<Vec<Arc<HalfBlock>>, Problem> {
    match reply {
        Reply::Blocks(Ok(blocks)) => Ok(blocks),
        Reply::Blocks(Err(why)) => {
            Err(Problem::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "store", why))
        }
        _ => Err(unexpected()),
    }
}

async fn payment(face: &Face, block: &HalfBlock) -> Result<Option<Json>, Problem> {
    if block.kind != BlockType::BANDWIDTH {
        return Ok(None);
    }
    let Ok(bandwidth) = Bandwidth::of(block) else { return Ok(None) };
    let linked = blocks(face.ask(Command::Linked { owner: block.owner, sequence: block.sequence }).await?)?;
    let settlement = bandwidth.settlement.as_ref();
    Ok(Some(json!({
        "at": rfc3339(block.timestamp_ms),
        "sequence_number": block.sequence,
        "peer": block.link_owner.to_string(),
        "up_bytes": amount(bandwidth.up),
        "down_bytes": amount(bandwidth.down),
        "charge_bytes": settlement.map(|settlement| {
            amount(settlement.charge.unwrap_or_else(|| bandwidth.up.max(bandwidth.down)))
        }),
        "cum_bytes": settlement.map(|settlement| amount(settlement.cum)),
        "total_up_bytes": amount(bandwidth.total_up),
        "total_down_bytes": amount(bandwidth.total_down),
        "both_signed": !linked.is_empty(),
        "hash": block.hash().to_string(),
    })))
}
