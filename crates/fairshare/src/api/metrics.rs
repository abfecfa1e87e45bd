//! `/metrics`: counters in the text form of Prometheus.

use crate::api::downloads::torrents;
use crate::api::node::status_of;
use crate::api::problem::Problem;
use crate::api::server::Api;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use fairshare_node::NodeStatus;
use std::fmt::Write as _;
use std::sync::Arc;

type Read = fn(&NodeStatus) -> u64;

const NODE: [(&str, &str, Read); 10] = [
    ("fairshare_chain_blocks", "gauge", |status| u64::from(status.chain_length)),
    ("fairshare_stored_blocks", "gauge", |status| status.stored_blocks),
    ("fairshare_given_bytes", "counter", |status| status.total_up),
    ("fairshare_taken_bytes", "counter", |status| status.total_down),
    ("fairshare_overlay_peers", "gauge", |status| status.peers as u64),
    ("fairshare_connections", "gauge", |status| status.connections as u64),
    ("fairshare_price", "gauge", |status| u64::from(status.price)),
    ("fairshare_stream_out_bytes", "counter", |status| status.traffic.stream_out),
    ("fairshare_datagram_out_bytes", "counter", |status| status.traffic.datagram_out),
    ("fairshare_datagram_in_bytes", "counter", |status| status.traffic.datagram_in),
];

/// All counters of all running nodes.
pub(crate) async fn show(State(api): State<Arc<Api>>) -> Result<impl IntoResponse, Problem> {
    let mut nodes = Vec::new();
    for face in api.faces.iter().filter(|face| face.node().is_some()) {
        nodes.push((face.name.clone(), status_of(face).await?, torrents(face).await?));
    }
    let mut text = String::new();
    for (name, kind, read) in NODE {
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for (node, status, _) in &nodes {
            let _ = writeln!(text, "{name}{{node=\"{node}\"}} {}", read(status));
        }
    }
    text.push_str("# TYPE fairshare_rejected counter\n");
    for (node, status, _) in &nodes {
        for (reason, count) in &status.refusals {
            let _ = writeln!(text, "fairshare_rejected{{node=\"{node}\",reason=\"{reason}\"}} {count}");
        }
    }
    text.push_str("# TYPE fairshare_payload_bytes counter\n");
    for (node, _, torrents) in &nodes {
        let sum = |read: fn(&fairshare_swarm::TorrentStatus) -> u64| {
            torrents.iter().map(|(torrent, _)| read(torrent)).sum::<u64>()
        };
        for (way, bytes) in [("in", sum(|one| one.downloaded)), ("out", sum(|one| one.uploaded))] {
            let _ = writeln!(text, "fairshare_payload_bytes{{node=\"{node}\",way=\"{way}\"}} {bytes}");
        }
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}
