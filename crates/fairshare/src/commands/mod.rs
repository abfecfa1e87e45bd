//! The commands that talk to a running node: each a few calls of the API and one printed value.

mod chain;
mod circuits;
mod one_shot;
mod tokens;
mod torrents;
mod trust;

pub(crate) use one_shot::{get, seed};

use crate::api::Client;
use crate::cli::{self, ConfigCommand};
use crate::config::Layered;
use crate::failure::Outcome;
use crate::folder::Folder;
use crate::{print, show};
use serde_json::Value as Json;

/// `fairshare status`.
pub(crate) fn status(options: &cli::Client) -> Outcome {
    let node = Client::find(options)?.get("/api/v1/node")?;
    print::one(options.json, &node, || {
        format!(
            "key      {}\nlisten   {}\nchain    {} blocks, {} peers, {} connections\ngiven    {}\ntaken    {}\nbalance  {} tokens\nprice    {} charged bytes per 65536\nserving  {}",
            text(&node, "public_key"),
            text(&node, "listen"),
            node["chain_length"],
            node["peers"],
            node["connections"],
            show::bytes(amount(&node, "given_bytes")),
            show::bytes(amount(&node, "taken_bytes")),
            tokens_of(&node, "balance_bytes"),
            node["price"],
            if node["uploading"] == true { "yes" } else { "no" },
        )
    });
    Ok(())
}

/// `fairshare peers list`.
pub(crate) fn peers(command: &cli::Peers) -> Outcome {
    let cli::Peers::List(options) = command;
    let peers = Client::find(options)?.get("/api/v1/peers")?;
    print::one(options.json, &peers, || {
        let line = |peer: &Json| format!("{}  {}", text(peer, "public_key"), text(peer, "address"));
        lines(&peers, line, "no verified peer yet")
    });
    Ok(())
}

/// `fairshare config show|check`.
pub(crate) fn config(command: &ConfigCommand) -> Outcome {
    let (ConfigCommand::Show(args) | ConfigCommand::Check(args)) = command;
    let file = match &args.config {
        Some(file) => file.clone(),
        None => Folder::find(args.data.clone())?.config(),
    };
    let layered = Layered::load(&file, |name| std::env::var(name).ok(), &[])?;
    match command {
        ConfigCommand::Show(_) => print::one(args.json, &layered.to_json(), || layered.to_text()),
        ConfigCommand::Check(_) if args.json => print::line(r#"{"ok":true}"#),
        ConfigCommand::Check(_) => {}
    }
    Ok(())
}

pub(crate) use chain::run as chain;
pub(crate) use circuits::{relay, run as circuits};
pub(crate) use tokens::run as tokens;
pub(crate) use torrents::{add, list, pause, remove, resume};
pub(crate) use trust::run as trust;

/// A text field of an answer.
fn text<'a>(json: &'a Json, name: &str) -> &'a str {
    json[name].as_str().unwrap_or("")
}

/// A 64-bit amount, which travels as text.
fn amount(json: &Json, name: &str) -> u64 {
    json[name].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn tokens_of(json: &Json, name: &str) -> String {
    show::tokens(json[name].as_str().and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// The end of a key: its start is the same for all.
fn short(key: &str) -> &str {
    key.get(key.len().saturating_sub(8)..).unwrap_or(key)
}

/// One line for each item of a list, or a word when it is empty.
fn lines(list: &Json, line: impl Fn(&Json) -> String, none: &str) -> String {
    match list.as_array().map(Vec::as_slice) {
        None | Some([]) => none.to_owned(),
        Some(items) => items.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}
