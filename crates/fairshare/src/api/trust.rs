//! `/trust`: how others stand with this node, and why.

use crate::api::problem::Problem;
use crate::api::server::{Api, Which, unexpected};
use crate::forms;
use axum::Json as Body;
use axum::extract::{Path, Query, State};
use fairshare_crypto::PublicKey;
use fairshare_node::{Command, Reply};
use serde::Deserialize;
use serde_json::Value as Json;
use std::sync::Arc;

type Shared = State<Arc<Api>>;
type Answer = Result<Body<Json>, Problem>;

/// Rows of one answer at the most.
const ROWS_MAX: usize = 1_000;

#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    limit: Option<usize>,
}

/// The keys that stand best.
pub(crate) async fn list(State(api): Shared, Query(which): Query<Which>, Query(page): Query<Page>) -> Answer {
    let limit = page.limit.unwrap_or(20).min(ROWS_MAX);
    let Reply::Reputations(best) = api.ask(&which, Command::Reputations(limit)).await? else {
        return Err(unexpected());
    };
    Ok(Body(best.iter().map(forms::reputation).collect()))
}

/// Why a key stands as it does.
pub(crate) async fn explain(
    State(api): Shared,
    Path(key): Path<String>,
    Query(which): Query<Which>,
) -> Answer {
    let key: PublicKey = key.parse().map_err(|error| Problem::bad_request("key", format!("{error}")))?;
    let Reply::Reason(reason) = api.ask(&which, Command::Explain(key)).await? else {
        return Err(unexpected());
    };
    Ok(Body(forms::reason(&reason)))
}
