//! `/circuits` and `/relay`: own circuits, and what passes this node for others.

use crate::api::problem::Problem;
use crate::api::server::{Api, Which, unexpected};
use crate::forms;
use axum::Json as Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use fairshare_crypto::PublicKey;
use fairshare_node::{Command, Reply};
use fairshare_tunnel::{CircuitId, Flags, GroupId, GroupSpec};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::sync::Arc;

type Shared = State<Arc<Api>>;
type Answer = Result<Body<Json>, Problem>;

/// The largest test: enough to measure any line, little enough not to fill it for long.
const TEST_MAX: u64 = 1 << 30;

/// Own circuits.
pub(crate) async fn list(State(api): Shared, Query(which): Query<Which>) -> Answer {
    let Reply::Circuits(circuits) = api.ask(&which, Command::Circuits).await? else {
        return Err(unexpected());
    };
    Ok(Body(circuits.iter().map(forms::circuit).collect()))
}

/// Circuits that are wanted: so many hops, or these very ones.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wish {
    hops: Option<u8>,
    path: Option<Vec<String>>,
    #[serde(default = "one")]
    circuits: usize,
}

const fn one() -> usize {
    1
}

impl Wish {
    fn spec(&self) -> Result<GroupSpec, Problem> {
        let path = match &self.path {
            Some(keys) => Some(keys.iter().map(|key| parse_key(key)).collect::<Result<Vec<_>, _>>()?),
            None => None,
        };
        let hops = path.as_ref().map_or_else(|| usize::from(self.hops.unwrap_or(2)), Vec::len);
        let hops = u8::try_from(hops).ok().filter(|hops| (1..=3).contains(hops));
        let hops = hops.ok_or_else(|| Problem::bad_request("hops", "circuits have 1 to 3 hops"))?;
        if !(1..=8).contains(&self.circuits) {
            return Err(Problem::bad_request("circuits", "1 to 8 circuits at once"));
        }
        Ok(GroupSpec { hops, path, need: Flags::EXIT_BT, circuits: self.circuits })
    }
}

fn parse_key(text: &str) -> Result<PublicKey, Problem> {
    text.parse().map_err(|error| Problem::bad_request("path", format!("`{text}`: {error}")))
}

/// Builds circuits and keeps them until their group is closed.
pub(crate) async fn build(
    State(api): Shared,
    Query(which): Query<Which>,
    wish: Result<Body<Wish>, JsonRejection>,
) -> Result<(StatusCode, Body<Json>), Problem> {
    let Body(wish) = wish.map_err(|error| Problem::bad_request("body", error.body_text()))?;
    let Reply::Group(group) = api.ask(&which, Command::OpenCircuits(wish.spec()?)).await? else {
        return Err(unexpected());
    };
    Ok((StatusCode::CREATED, Body(json!({ "group": group.0 }))))
}

/// Ends circuits that were built by command.
pub(crate) async fn close_group(
    State(api): Shared,
    Path(group): Path<u64>,
    Query(which): Query<Which>,
) -> Answer {
    done(api.ask(&which, Command::CloseCircuits(GroupId(group))).await?)
}

/// Ends one circuit.
pub(crate) async fn close(
    State(api): Shared,
    Path(circuit): Path<u32>,
    Query(which): Query<Which>,
) -> Answer {
    done(api.ask(&which, Command::CloseCircuit(CircuitId(circuit))).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Test {
    bytes: u64,
}

/// Measures a circuit of a group.
pub(crate) async fn test(
    State(api): Shared,
    Path(group): Path<u64>,
    Query(which): Query<Which>,
    test: Result<Body<Test>, JsonRejection>,
) -> Answer {
    let Body(test) = test.map_err(|error| Problem::bad_request("body", error.body_text()))?;
    if !(1..=TEST_MAX).contains(&test.bytes) {
        return Err(Problem::bad_request("bytes", "1 byte to 1 GiB is received in a test"));
    }
    match api.ask(&which, Command::TestCircuits(GroupId(group), test.bytes)).await? {
        Reply::Tested(Ok(speed)) => {
            let seconds = speed.took.as_secs_f64();
            let rate = if seconds > 0.0 { speed.received as f64 / seconds } else { 0.0 };
            Ok(Body(json!({
                "received_bytes": forms::amount(speed.received),
                "took_ms": seconds * 1_000.0,
                "rate_bytes": forms::amount(rate as u64),
                "round_trip_ms": speed.round_trip.map(|span| span.as_secs_f64() * 1_000.0),
            })))
        }
        Reply::Tested(Err(why)) => Err(Problem::conflict("test", why)),
        _ => Err(unexpected()),
    }
}

/// What passes this node for others.
pub(crate) async fn relay(State(api): Shared, Query(which): Query<Which>) -> Answer {
    let Reply::Relaying(relaying) = api.ask(&which, Command::Relaying).await? else {
        return Err(unexpected());
    };
    Ok(Body(forms::relaying(&relaying)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    relay: bool,
    #[serde(default)]
    exit: bool,
}

/// Relays and exits, or not any more. What stands goes on.
pub(crate) async fn set_relay(
    State(api): Shared,
    Query(which): Query<Which>,
    part: Result<Body<Part>, JsonRejection>,
) -> Answer {
    let Body(part) = part.map_err(|error| Problem::bad_request("body", error.body_text()))?;
    if part.exit && !part.relay {
        return Err(Problem::bad_request("exit", "an exit is a relay too"));
    }
    let _ = done(api.ask(&which, Command::SetRelay { relay: part.relay, exit: part.exit }).await?)?;
    relay(State(api), Query(which)).await
}

fn done(reply: Reply) -> Answer {
    match reply {
        Reply::Done(Ok(())) => Ok(Body(json!({ "done": true }))),
        Reply::Done(Err(why)) => Err(Problem::not_found(why)),
        _ => Err(unexpected()),
    }
}
