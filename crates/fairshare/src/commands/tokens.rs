//! `fairshare tokens balance|history|payouts`.

use super::{amount, lines, short, text, tokens_of};
use crate::api::Client;
use crate::cli::Tokens;
use crate::failure::Outcome;
use crate::{print, show};
use serde_json::Value as Json;

pub(crate) fn run(command: &Tokens) -> Outcome {
    match command {
        Tokens::Balance(options) => {
            let tokens = Client::find(options)?.get("/api/v1/tokens")?;
            print::one(options.json, &tokens, || balance(&tokens));
        }
        Tokens::History(args) => {
            let history = history(&Client::find(&args.client)?, args.limit)?;
            print::one(args.client.json, &history, || lines(&history, payment, "nothing was paid yet"));
        }
        Tokens::Payouts(options) => {
            let payouts = Client::find(options)?.get("/api/v1/tokens/payouts")?;
            print::one(options.json, &payouts, || {
                lines(&payouts, payout, "no circuit of anybody was carried yet")
            });
        }
    }
    Ok(())
}

/// The newest `limit` payments. The API gives pages; a page that is empty is the end.
fn history(client: &Client, limit: usize) -> Outcome<Json> {
    let mut payments: Vec<Json> = Vec::new();
    while payments.len() < limit {
        let after =
            payments.last().map_or_else(String::new, |last| format!("&after={}", last["sequence_number"]));
        let page = client.get(&format!("/api/v1/tokens/history?limit={}{after}", limit - payments.len()))?;
        match page.as_array() {
            Some(page) if !page.is_empty() => payments.extend(page.iter().cloned()),
            _ => break,
        }
    }
    Ok(Json::Array(payments))
}

fn balance(tokens: &Json) -> String {
    let account = |account: &Json| {
        let key = text(account, "peer");
        format!(
            "  {}  gave it {}, took {}, may claim {} tokens, it may claim {}",
            key.get(key.len().saturating_sub(8)..).unwrap_or(key),
            show::bytes(amount(account, "given_bytes")),
            show::bytes(amount(account, "taken_bytes")),
            tokens_of(account, "claim_on_peer_bytes"),
            tokens_of(account, "claim_of_peer_bytes"),
        )
    };
    format!(
        "{} tokens: gave {}, took {}\n{}",
        tokens_of(tokens, "balance_bytes"),
        show::bytes(amount(tokens, "given_bytes")),
        show::bytes(amount(tokens, "taken_bytes")),
        lines(&tokens["accounts"], account, "  no account with anybody"),
    )
}

fn payout(payout: &Json) -> String {
    let who = match (payout["peer"].as_str(), payout["tunnel_key"].as_str()) {
        (Some(key), _) => short(key),
        (None, Some(key)) => short(key),
        (None, None) => "?",
    };
    format!(
        "{who}  owes us {}, we owe it {}; ever got {}, paid {}; may leave {} unpaid, {}",
        show::bytes(amount(payout, "owes_us_bytes")),
        show::bytes(amount(payout, "we_owe_bytes")),
        show::bytes(amount(payout, "received_bytes")),
        show::bytes(amount(payout, "paid_bytes")),
        show::bytes(amount(payout, "limit_bytes")),
        text(payout, "state"),
    )
}

fn payment(payment: &Json) -> String {
    let key = text(payment, "peer");
    let (word, bytes) = match amount(payment, "up_bytes") {
        0 => ("paid", amount(payment, "down_bytes")),
        up => ("got ", up),
    };
    let signed = if payment["both_signed"] == true { "both signed" } else { "not answered yet" };
    let end = key.get(key.len().saturating_sub(8)..).unwrap_or(key);
    format!("{}  {word} {} {end}  {signed}", text(payment, "at"), show::bytes(bytes))
}
