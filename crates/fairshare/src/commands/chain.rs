//! `fairshare chain show|verify|propose|proofs`.

use super::{lines, text};
use crate::api::Client;
use crate::cli::{Chain, ChainOf, ChainShow, Propose};
use crate::failure::{Failure, Outcome};
use crate::print;
use crate::transaction::encode_json;
use fairshare_crypto::PublicKey;
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

/// Pause between two looks for an agreement.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn run(command: &Chain) -> Outcome {
    match command {
        Chain::Show(args) => show(args),
        Chain::Verify(args) => verify(args),
        Chain::Propose(args) => propose(args),
        Chain::Proofs(options) => {
            let proofs = Client::find(options)?.get("/api/v1/chain/proofs")?;
            print::one(options.json, &proofs, || {
                let line = |proof: &Json| format!("{}  {}", text(proof, "kind"), text(proof, "accused"));
                lines(&proofs, line, "no fork was ever proved")
            });
            Ok(())
        }
    }
}

/// A key as the API takes it; a typing error is found before anything is asked.
fn key(given: &str) -> Outcome<String> {
    if given == "me" {
        return Ok(given.to_owned());
    }
    let parsed: Result<PublicKey, _> = given.parse();
    parsed.map(|key| key.to_string()).map_err(|error| Failure::bad_use("key", format!("`{given}`: {error}")))
}

fn show(args: &ChainShow) -> Outcome {
    let key = key(&args.key)?;
    let client = Client::find(&args.client)?;
    let (mut from, to) = (args.from.max(1), args.to.unwrap_or(u32::MAX));
    let mut blocks: Vec<Json> = Vec::new();
    // The API gives pages; a page that is empty is the end.
    while from <= to {
        let page = client.get(&format!("/api/v1/chain/{key}?from={from}&to={to}"))?;
        let Some(last) = page.as_array().and_then(|page| page.last()) else { break };
        let last = last["sequence_number"].as_u64().and_then(|last| u32::try_from(last).ok());
        blocks.extend(page.as_array().into_iter().flatten().cloned());
        let Some(next) = last.and_then(|last| last.checked_add(1)) else { break };
        from = next;
    }
    let blocks = Json::Array(blocks);
    print::one(args.client.json, &blocks, || lines(&blocks, block_line, "no block of this key is known"));
    Ok(())
}

fn block_line(block: &Json) -> String {
    let link = text(block, "link_public_key");
    let relation = if block["link_sequence_number"] == 0 {
        "proposes to".to_owned()
    } else {
        format!("agrees to {} of", block["link_sequence_number"])
    };
    let end = link.get(link.len().saturating_sub(8)..).unwrap_or(link);
    format!(
        "{:>6}  {}  {relation} {end}  {}",
        block["sequence_number"],
        text(block, "type"),
        text(block, "hash")
    )
}

fn verify(args: &ChainOf) -> Outcome {
    let key = key(&args.key)?;
    let report = Client::find(&args.client)?.get(&format!("/api/v1/chain/{key}/verify"))?;
    print::one(args.client.json, &report, || report.to_string());
    if report["ok"] == true {
        Ok(())
    } else {
        Err(Failure::failed("chain", "the chain is not sound as far as it is stored"))
    }
}

fn propose(args: &Propose) -> Outcome {
    let (to, transaction) = (key(&args.to)?, encode_json(&args.transaction)?);
    let client = Client::find(&args.client)?;
    let body = json!({ "to": to, "type": args.kind, "transaction": hex::encode(transaction) });
    let proposal = client.post("/api/v1/chain/proposals", &body)?;
    let place = format!("/api/v1/chain/me/{}/linked", proposal["sequence_number"]);
    let end = Instant::now() + Duration::from_secs(args.wait.unwrap_or(0));
    let agreement = loop {
        let linked = client.get(&place)?;
        if !linked.is_null() || Instant::now() >= end {
            break linked;
        }
        std::thread::sleep(LOOK);
    };
    let pair = json!({ "proposal": proposal, "agreement": agreement });
    print::one(args.client.json, &pair, || {
        let answer = if agreement.is_null() { "no agreement yet".to_owned() } else { block_line(&agreement) };
        format!("{}\n{answer}", block_line(&proposal))
    });
    Ok(())
}
