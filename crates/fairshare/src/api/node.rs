//! `/node`, `/nodes`, `/peers`, `/connections`, `/config`, `/readyz`.

use crate::api::problem::Problem;
use crate::api::server::{Api, Which, unexpected};
use crate::face::Face;
use crate::forms::amount;
use axum::Json as Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use fairshare_node::{Command, NodeStatus, Reply};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::sync::Arc;

type Shared = State<Arc<Api>>;
type Answer = Result<Body<Json>, Problem>;

/// Who the node is and how it does.
pub(crate) async fn show(State(api): Shared, Query(which): Query<Which>) -> Answer {
    let face = api.face(&which)?;
    Ok(Body(status(face, &status_of(face).await?)))
}

/// Asks a node for its status.
pub(crate) async fn status_of(face: &Face) -> Result<NodeStatus, Problem> {
    match face.ask(Command::Status).await? {
        Reply::Status(status) => Ok(*status),
        _ => Err(unexpected()),
    }
}

/// The status as JSON.
pub(crate) fn status(face: &Face, status: &NodeStatus) -> Json {
    let balance = i128::from(status.total_up) - i128::from(status.total_down);
    json!({
        "name": face.name,
        "role": face.role,
        "public_key": status.public_key.to_string(),
        "listen": face.listen.to_string(),
        "chain_length": status.chain_length,
        "given_bytes": amount(status.total_up),
        "taken_bytes": amount(status.total_down),
        "balance_bytes": amount(balance),
        "stored_blocks": status.stored_blocks,
        "peers": status.peers,
        "connections": status.connections,
        "uploading": status.uploading,
        "stalled": status.stalled,
        "price": status.price,
        "rejected": status.refusals,
        "traffic": {
            "stream_out_bytes": amount(status.traffic.stream_out),
            "stream_in_bytes": amount(status.traffic.stream_in),
            "datagram_out_bytes": amount(status.traffic.datagram_out),
            "datagram_in_bytes": amount(status.traffic.datagram_in),
        },
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    uploading: bool,
}

/// Serves others from now on, or stops to.
pub(crate) async fn change(
    State(api): Shared,
    Query(which): Query<Which>,
    change: Result<Body<Change>, JsonRejection>,
) -> Answer {
    let Body(change) = change.map_err(|error| Problem::bad_request("body", error.body_text()))?;
    api.ask(&which, Command::SetUpload(change.uploading)).await?;
    show(State(api), Query(which)).await
}

/// The names of the nodes behind this API.
pub(crate) async fn list(State(api): Shared) -> Body<Json> {
    let one = |face: &Arc<Face>| {
        json!({
            "name": face.name, "role": face.role, "public_key": face.public_key.to_string(),
            "listen": face.listen.to_string(), "running": face.node().is_some(),
        })
    };
    Body(api.faces.iter().map(one).collect())
}

/// Every setting with the layer it came from.
pub(crate) async fn config(State(api): Shared) -> Body<Json> {
    Body(api.config.clone())
}

/// The verified peers of the overlay.
pub(crate) async fn peers(State(api): Shared, Query(which): Query<Which>) -> Answer {
    let Reply::Peers(peers) = api.ask(&which, Command::Peers).await? else { return Err(unexpected()) };
    let one = |peer: &fairshare_overlay::PeerInfo| {
        json!({
            "public_key": peer.key.to_string(),
            "address": peer.address.to_string(),
            "communities": peer.communities.iter().map(|id| hex::encode(id.0)).collect::<Vec<_>>(),
            "round_trip_us": peer.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        })
    };
    Ok(Body(peers.iter().map(one).collect()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPeer {
    address: SocketAddr,
}

/// Walks to an overlay address.
pub(crate) async fn add_peer(
    State(api): Shared,
    Query(which): Query<Which>,
    peer: Result<Body<NewPeer>, JsonRejection>,
) -> Result<(StatusCode, Body<Json>), Problem> {
    let Body(peer) = peer.map_err(|error| Problem::bad_request("body", error.body_text()))?;
    api.ask(&which, Command::AddPeer(peer.address)).await?;
    Ok((StatusCode::ACCEPTED, Body(json!({ "address": peer.address.to_string() }))))
}

/// The BitTorrent connections.
pub(crate) async fn connections(State(api): Shared, Query(which): Query<Which>) -> Answer {
    let Reply::Connections(connections) = api.ask(&which, Command::Connections).await? else {
        return Err(unexpected());
    };
    let one = |one: &fairshare_swarm::ConnectionStatus| {
        json!({
            "session": one.id.0,
            "infohash": one.torrent.to_string(),
            "address": one.address.to_string(),
            "incoming": one.incoming,
            "client": one.client,
            "public_key": one.key.map(|key| key.to_string()),
            "pieces": one.pieces,
            "am_interested": one.am_interested,
            "peer_interested": one.peer_interested,
            "am_unchoking": one.am_unchoking,
            "peer_unchoking": one.peer_unchoking,
            "downloaded_bytes": amount(one.downloaded),
            "uploaded_bytes": amount(one.uploaded),
            "down_rate_bytes": amount(one.download_rate),
            "up_rate_bytes": amount(one.upload_rate),
            "requests_out": one.requests_out,
            "requests_in": one.requests_in,
            "refused": one.refused,
            "refused_by": one.refused_by.map(|reason| reason.to_string()),
        })
    };
    Ok(Body(connections.iter().map(one).collect()))
}

/// Whether the nodes answer.
pub(crate) async fn ready(State(api): Shared) -> Result<&'static str, Problem> {
    for face in &api.faces {
        if let Some(reason) = status_of(face).await?.stalled {
            let why = format!("nothing can be signed: {reason}; the node tries again every few seconds");
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stalled", why));
        }
    }
    Ok("ready\n")
}
