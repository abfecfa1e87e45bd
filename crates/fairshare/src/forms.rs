//! The JSON forms of what a node knows: amounts of 64 bits as decimal text with the unit in the name, keys and hashes
//! in lower-case hex. The API sends them and the command line prints them unchanged.
//= spec/interfaces.md#41-contract-for-scripts-stable-from-the-first-release-tests-rely-on-it

use crate::face::Face;
use fairshare_economy::payouts::{LinkAllowance, PayoutView};
use fairshare_economy::{AccountView, MU};
use fairshare_ledger::{ChainReport, ForkKind, ForkProof, HalfBlock};
use fairshare_node::{Reason, Relaying, Reputation, Route};
use fairshare_swarm::{Refusal, TorrentState, TorrentStatus};
use fairshare_tunnel::{CircuitEnd, CircuitState, CircuitStatus, CircuitUse, Flags};
use serde_json::{Value as Json, json};

/// A half block; every field of bytes in hex.
pub(crate) fn block(block: &HalfBlock) -> Json {
    json!({
        "type": block.kind.to_string(),
        "transaction": hex::encode(&block.transaction),
        "public_key": block.owner.to_string(),
        "sequence_number": block.sequence,
        "link_public_key": block.link_owner.to_string(),
        "link_sequence_number": block.link_sequence,
        "previous_hash": block.previous_hash.to_string(),
        "signature": hex::encode(block.signature.0),
        "timestamp": block.timestamp_ms,
        "hash": block.hash().to_string(),
    })
}

/// A proof that a key signed twice what it may sign once.
pub(crate) fn proof(proof: &ForkProof) -> Json {
    let kind = match proof.kind() {
        ForkKind::DoubleSign => "double-sign",
        ForkKind::DoubleCountersign => "double-countersign",
    };
    json!({
        "kind": kind,
        "accused": proof.accused().to_string(),
        "blocks": [block(proof.first()), block(proof.second())],
    })
}

/// Why a provider does not serve, with the way back: receipts for `need_bytes`, or a third of it given in real bytes.
//= spec/economy.md#57-refusal-the-way-back-over-spending
pub(crate) fn refusal(refusal: &Refusal) -> Json {
    let need = refusal.details.map(|details| details.need);
    json!({
        "reason": refusal.reason.to_string(),
        "missing_bytes": amount(refusal.missing),
        "retry_s": refusal.retry_s,
        "flow_bytes": refusal.details.map(|details| amount(details.flow)),
        "need_bytes": need.map(amount),
        "give_bytes": need.map(|need| amount(need.div_ceil(MU))),
        "seen_number": refusal.details.map(|details| details.seen_number),
    })
}

/// A torrent as the node has it, and as it was added.
pub(crate) fn download(torrent: &TorrentStatus, route: Route, face: &Face) -> Json {
    let entry = face.shelf.get(&torrent.info_hash);
    let (state, error) = match &torrent.state {
        TorrentState::Metadata => ("metadata", None),
        TorrentState::Checking => ("checking", None),
        TorrentState::Downloading => ("downloading", None),
        TorrentState::Seeding => ("seeding", None),
        TorrentState::Paused => ("paused", None),
        TorrentState::Failed(reason) => ("failed", Some(reason)),
    };
    let refusing = face.refusing(&torrent.info_hash);
    let refused_by = refusing.iter().map(|(provider, why)| {
        let mut json = refusal(why);
        json["provider"] = json!(provider.to_string());
        json
    });
    json!({
        "infohash": torrent.info_hash.to_string(),
        "name": torrent.name,
        "state": state,
        "error": error,
        "complete": torrent.finished,
        "seed": entry.as_ref().is_some_and(|entry| entry.seed),
        "folder": entry.map(|entry| entry.root),
        "held_bytes": amount(torrent.held_bytes),
        "total_bytes": amount(torrent.total_bytes),
        "downloaded_bytes": amount(torrent.downloaded),
        "uploaded_bytes": amount(torrent.uploaded),
        "wasted_bytes": amount(torrent.wasted),
        "down_rate_bytes": amount(torrent.download_rate),
        "up_rate_bytes": amount(torrent.upload_rate),
        "peers": torrent.peers,
        "seeds": torrent.seeds,
        "slots": torrent.slots,
        "hops": route.hops(),
        "hidden": matches!(route, Route::Hidden { .. }),
        "refused_by": refused_by.collect::<Vec<_>>(),
    })
}

/// An own circuit with its path.
pub(crate) fn circuit(circuit: &CircuitStatus) -> Json {
    let (purpose, group) = match circuit.purpose {
        CircuitUse::Data(group) => ("data", Some(group)),
        CircuitUse::Settlement => ("settlement", None),
        CircuitUse::Introduction(group) => ("introduction", Some(group)),
        CircuitUse::Seeding(group) => ("seeding", Some(group)),
        CircuitUse::Taking(group) => ("taking", Some(group)),
    };
    let state = match circuit.state {
        CircuitState::Extending => "extending",
        CircuitState::Ready => "ready",
        CircuitState::Linked => "linked",
        CircuitState::Suspect => "suspect",
    };
    let path = circuit.path.iter().map(|(key, address, joined)| {
        json!({ "tunnel_key": key.to_string(), "address": address.to_string(), "joined": joined })
    });
    json!({
        "circuit": circuit.circuit.0,
        "purpose": purpose,
        "group": group.map(|group| group.0),
        "state": state,
        "path": path.collect::<Vec<_>>(),
        "age_s": circuit.age.as_secs(),
        "up_bytes": amount(circuit.up),
        "down_bytes": amount(circuit.down),
        "community": if circuit.stock { "stock" } else { "fairshare" },
    })
}

/// What a node offers to circuits of others.
pub(crate) fn flags(flags: Flags) -> Json {
    let names = [
        (Flags::RELAY, "relay"),
        (Flags::EXIT_BT, "exit"),
        (Flags::EXIT_IPV8, "exit-ipv8"),
        (Flags::EXIT_HTTP, "exit-http"),
        (Flags::SPEED_TEST, "speed-test"),
        (Flags::EXIT_BACKUP, "backup"),
    ];
    names.iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, name)| json!(name)).collect()
}

/// What passes this node for others.
pub(crate) fn relaying(relaying: &Relaying) -> Json {
    let joined = relaying.joined.iter().map(|one| {
        let end = match (one.to, one.end) {
            (_, CircuitEnd::Exit) => "exit",
            (_, CircuitEnd::Rendezvous) => "rendezvous",
            (Some(_), _) => "relay",
            (None, _) => "end",
        };
        json!({
            "from": { "tunnel_key": one.from.0.to_string(), "address": one.from.1.to_string() },
            "to": one.to.map(|(key, address)| json!({ "tunnel_key": key.to_string(), "address": address.to_string() })),
            "part": end, "age_s": one.age.as_secs(), "bytes": amount(one.bytes),
        })
    });
    let candidates = relaying.candidates.iter().map(|(key, address, offered)| {
        json!({ "tunnel_key": key.to_string(), "address": address.to_string(), "offers": flags(*offered) })
    });
    json!({
        "tunnel_key": relaying.tunnel_key.to_string(),
        "offers": flags(relaying.flags),
        "joined": joined.collect::<Vec<_>>(),
        "candidates": candidates.collect::<Vec<_>>(),
    })
}

/// What this node and a neighbour on circuits owe each other.
pub(crate) fn payout(view: &PayoutView) -> Json {
    let state = match view.allowance {
        LinkAllowance::Open => "open",
        LinkAllowance::NoNewCircuits => "no new circuits",
        LinkAllowance::Slow => "slowed",
        LinkAllowance::Cut => "cut off",
    };
    let (we_owe, owes_us) = (view.net.max(0), view.net.saturating_neg().max(0));
    json!({
        "tunnel_key": view.neighbour.map(|key| key.to_string()),
        "peer": view.peer.map(|key| key.to_string()),
        "we_owe_bytes": amount(we_owe),
        "owes_us_bytes": amount(owes_us),
        "measured_in_bytes": amount(view.measured_in),
        "measured_out_bytes": amount(view.measured_out),
        "covered_bytes": amount(view.iou_in),
        "promised_bytes": amount(view.iou_out),
        "received_bytes": amount(view.paid_in),
        "paid_bytes": amount(view.paid_out),
        "unpaid_bytes": amount(view.unpaid),
        "limit_bytes": amount(view.limit),
        "since_epoch": view.since_epoch,
        "next_payment": view.next_payment_ms.map(crate::show::rfc3339),
        "state": state,
    })
}

/// How a key stands.
pub(crate) fn reputation(reputation: &Reputation) -> Json {
    json!({
        "peer": reputation.key.to_string(),
        "value": reputation.score.value,
        "std_err": reputation.score.std_err,
        "direct": reputation.score.direct,
        "samples": reputation.score.samples,
        "forker": reputation.forker,
    })
}

/// Why it does.
pub(crate) fn reason(reason: &Reason) -> Json {
    let mut json = reputation(&reason.reputation);
    json["engine"] = json!(reason.engine);
    json["direct_bytes"] = amount(reason.direct);
    json["path"] = reason.path.iter().map(|key| json!(key.to_string())).collect();
    json["bottleneck"] = json!(reason.bottleneck.map(|(key, _)| key.to_string()));
    json["bottleneck_share"] = json!(reason.bottleneck.map(|(_, share)| share));
    json
}

/// What this node and one peer are to each other.
pub(crate) fn account(view: &AccountView) -> Json {
    json!({
        "peer": view.peer.to_string(),
        "given_bytes": amount(view.account.mine.given),
        "taken_bytes": amount(view.account.theirs.given),
        "charged_to_peer_bytes": amount(view.account.theirs.charged),
        "charged_to_us_bytes": amount(view.account.mine.charged),
        "claim_of_peer_bytes": amount(view.claim_of_peer),
        "claim_on_peer_bytes": amount(view.claim_on_peer),
        "received_bytes": amount(view.recv),
        "sent_bytes": amount(view.sent),
        "verified_bytes": amount(view.verified),
        "paid_to_bytes": amount(view.paid_to),
        "confirmed_to_bytes": amount(view.confirmed_to),
        "paid_from_bytes": amount(view.paid_from),
        "window_bytes": amount(view.window),
        "lost_bytes": amount(view.lost),
        "sessions": view.sessions,
        "friend": view.friend,
    })
}

/// What a chain is worth as far as it is stored.
pub(crate) fn chain_report(report: &ChainReport) -> Json {
    let gaps: Vec<_> = report.gaps.iter().map(|gap| json!([gap.start(), gap.end()])).collect();
    let errors: Vec<_> =
        report.errors.iter().map(|(number, text)| json!({ "number": number, "error": text })).collect();
    json!({
        "ok": report.is_sound(),
        "public_key": report.owner.to_string(),
        "blocks": report.blocks,
        "newest": report.newest,
        "gaps": gaps,
        "gap_count": report.gap_count,
        "errors": errors,
        "error_count": report.error_count,
        "paired": report.paired,
        "unanswered": report.unanswered,
        "total_up_bytes": amount(report.total_up),
        "total_down_bytes": amount(report.total_down),
        "is_forker": report.is_forker,
    })
}

/// A 64-bit amount as text: bytes and tokens do not fit the numbers of a page.
pub(crate) fn amount(value: impl ToString) -> Json {
    Json::String(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use fairshare_crypto::{Rng, SecretKey};
    use fairshare_ledger::{BlockType, Draft, GENESIS_HASH};

    #[test]
    fn a_block_has_exactly_the_fields_that_scripts_rely_on() {
        let mut rng = Rng::from_seed([1; 32]);
        let (alice, bob) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
        let draft = Draft {
            sequence: 1,
            link_owner: bob.public(),
            link_sequence: 0,
            previous_hash: GENESIS_HASH,
            kind: BlockType::from("test"),
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms: 5,
        };
        let json = block(&HalfBlock::sign(&alice, draft));
        let mut names: Vec<_> = json.as_object().expect("an object").keys().cloned().collect();
        names.sort();
        assert_eq!(
            names,
            [
                "hash",
                "link_public_key",
                "link_sequence_number",
                "previous_hash",
                "public_key",
                "sequence_number",
                "signature",
                "timestamp",
                "transaction",
                "type"
            ]
        );
        assert_eq!(json["transaction"], "613064");
        assert_eq!(json["public_key"], alice.public().to_string());
        assert_eq!(json["previous_hash"], "30".repeat(32));
    }
}
