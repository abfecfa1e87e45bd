//! Events of a node as the API tells them: a stable word and the details. What happens thousands of times a minute is
//! left out; it is in the numbers.

use crate::forms::{amount, block, proof, refusal};
use fairshare_economy::EconomyEvent;
use fairshare_economy::payouts::PayoutsEvent;
use fairshare_ledger::LedgerEvent;
use fairshare_node::Event;
use fairshare_swarm::SwarmEvent;
use fairshare_tunnel::TunnelEvent;
use serde_json::{Value as Json, json};

/// The word and the details of an event, if it is one to tell.
pub(crate) fn of(event: &Event) -> Option<(&'static str, Json)> {
    match event {
        Event::Swarm(event) => swarm(event),
        Event::Economy(event) => economy(event),
        Event::Ledger(event) => ledger(event),
        Event::Tunnel(event) => tunnel(event),
        Event::Payouts(event) => payouts(event),
        Event::PeerFound(key, address) => {
            Some(("peer.found", json!({ "peer": key.to_string(), "address": address.to_string() })))
        }
        Event::PeerLost(key) => Some(("peer.lost", json!({ "peer": key.to_string() }))),
        Event::StoreFailed(reason) => Some(("store.failed", json!({ "reason": reason }))),
    }
}

fn swarm(event: &SwarmEvent) -> Option<(&'static str, Json)> {
    Some(match event {
        SwarmEvent::SessionOpened { id, key, address, incoming, torrent } => (
            "session.opened",
            json!({
                "session": id.0, "peer": key.to_string(), "address": address.to_string(),
                "incoming": incoming, "infohash": torrent.to_string(),
            }),
        ),
        SwarmEvent::SessionClosed { id, key, recv_verified, sent } => (
            "session.closed",
            json!({
                "session": id.0, "peer": key.to_string(),
                "taken_bytes": amount(recv_verified), "sent_bytes": amount(sent),
            }),
        ),
        SwarmEvent::RefusedBy { id, refusal: why } => {
            ("refused", json!({ "session": id.0, "refusal": refusal(why) }))
        }
        SwarmEvent::CountFault { id, fault, choked } => {
            ("count.fault", json!({ "session": id.0, "reason": format!("{fault:?}"), "choked": choked }))
        }
        SwarmEvent::MetadataReady(torrent, metainfo) => {
            ("download.described", json!({ "infohash": torrent.to_string(), "name": metainfo.name() }))
        }
        SwarmEvent::Checked { torrent, held, pieces } => {
            ("download.checked", json!({ "infohash": torrent.to_string(), "held": held, "pieces": pieces }))
        }
        SwarmEvent::Finished(torrent) => ("download.finished", json!({ "infohash": torrent.to_string() })),
        SwarmEvent::Failed { torrent, reason } => {
            ("download.failed", json!({ "infohash": torrent.to_string(), "reason": reason }))
        }
        SwarmEvent::PieceFailed { torrent, piece } => {
            ("piece.failed", json!({ "infohash": torrent.to_string(), "piece": piece }))
        }
        SwarmEvent::PeerBanned { torrent, address, .. } => {
            ("peer.banned", json!({ "infohash": torrent.to_string(), "address": address.to_string() }))
        }
        SwarmEvent::TrackerAnswered { torrent, url, result } => (
            "tracker.answered",
            json!({
                "infohash": torrent.to_string(), "tracker": url, "peers": result.as_ref().ok(),
                "error": result.as_ref().err(),
            }),
        ),
        _ => return None,
    })
}

/// Which circuit serves which torrent is told nowhere.
fn tunnel(event: &TunnelEvent) -> Option<(&'static str, Json)> {
    Some(match event {
        TunnelEvent::CircuitReady { circuit, hops, took, .. } => (
            "circuit.ready",
            json!({ "circuit": circuit.0, "hops": hops, "took_ms": took.as_secs_f64() * 1_000.0 }),
        ),
        TunnelEvent::CircuitClosed { circuit, reason } => {
            ("circuit.closed", json!({ "circuit": circuit.0, "reason": reason }))
        }
        TunnelEvent::HiddenPeer { .. } => ("hidden.peer", json!({})),
        TunnelEvent::HiddenReady(_) => ("hidden.ready", json!({})),
        _ => return None,
    })
}

fn payouts(event: &PayoutsEvent) -> Option<(&'static str, Json)> {
    let paid = |peer: &fairshare_crypto::PublicKey, bytes: &u64| json!({ "peer": peer.to_string(), "bytes": amount(bytes) });
    Some(match event {
        PayoutsEvent::Paid { peer, amount } => ("payout.paid", paid(peer, amount)),
        PayoutsEvent::Received { peer, amount } => ("payout.received", paid(peer, amount)),
        PayoutsEvent::NotPaid { peer, reason } => {
            ("payout.failed", json!({ "peer": peer.to_string(), "reason": reason }))
        }
        PayoutsEvent::Disagreement { peer, measured, acknowledged } => (
            "payout.disagreement",
            json!({
                "peer": peer.to_string(), "measured_bytes": amount(measured),
                "acknowledged_bytes": amount(acknowledged),
            }),
        ),
        PayoutsEvent::Overdue { peer, amount } => ("payout.overdue", paid(peer, amount)),
        _ => return None,
    })
}

fn economy(event: &EconomyEvent) -> Option<(&'static str, Json)> {
    let settled = |peer: &fairshare_crypto::PublicKey, down: &u64, charge: &u64, cum: &u64| {
        json!({
            "peer": peer.to_string(), "bytes": amount(down), "charge_bytes": amount(charge), "cum_bytes": amount(cum),
        })
    };
    Some(match event {
        EconomyEvent::Received { peer, down, charge, cum } => {
            ("tokens.received", settled(peer, down, charge, cum))
        }
        EconomyEvent::Paid { peer, down, charge, cum } => ("tokens.paid", settled(peer, down, charge, cum)),
        EconomyEvent::WindowFull { peer, unpaid, window } => (
            "window.full",
            json!({ "peer": peer.to_string(), "unpaid_bytes": amount(unpaid), "window_bytes": amount(window) }),
        ),
        EconomyEvent::PairIgnored { peer } => ("pair.ignored", json!({ "peer": peer.to_string() })),
        EconomyEvent::Price { price } => ("price.changed", json!({ "price": price })),
        _ => return None,
    })
}

fn ledger(event: &LedgerEvent) -> Option<(&'static str, Json)> {
    Some(match event {
        LedgerEvent::Signed(signed) => ("block.signed", json!({ "block": block(signed) })),
        LedgerEvent::Paired { proposal, agreement } => {
            ("block.paired", json!({ "proposal": block(proposal), "agreement": block(agreement) }))
        }
        LedgerEvent::Declined { proposal, reason } => {
            ("block.declined", json!({ "proposal": block(proposal), "reason": format!("{reason:?}") }))
        }
        LedgerEvent::Rejected { reason, .. } => ("block.rejected", json!({ "reason": reason })),
        LedgerEvent::ForkProved(fork) => ("fork.proved", json!({ "proof": proof(fork) })),
        LedgerEvent::ProposalExpired(expired) => ("proposal.expired", json!({ "proposal": block(expired) })),
        LedgerEvent::OwnChainBehind { seen, held } => ("chain.behind", json!({ "seen": seen, "held": held })),
        _ => return None,
    })
}
