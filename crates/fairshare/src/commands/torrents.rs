//! `fairshare add|list|pause|resume|remove`: torrents of a running node.

use super::{amount, lines, text};
use crate::api::Client;
use crate::cli::{Add, Client as Options, OneTorrent, Remove};
use crate::failure::{Failure, Outcome};
use crate::print;
use crate::show;
use crate::wanted::Wanted;
use serde_json::Value as Json;

pub(crate) fn add(args: &Add) -> Outcome {
    let wanted = Wanted::read(&args.torrent)?;
    let client = Client::find(&args.client)?;
    let request = wanted.request(args.to.as_deref(), false, &args.peers, args.way)?;
    let added = client.post("/api/v1/downloads", &request)?;
    if args.wait {
        let done = super::one_shot::wait(&client, text(&added, "infohash"), None)?;
        print::one(args.client.json, &done, || format!("{} is complete", text(&done, "name")));
    } else {
        print::one(args.client.json, &added, || text(&added, "infohash").to_owned());
    }
    Ok(())
}

pub(crate) fn list(options: &Options) -> Outcome {
    let downloads = Client::find(options)?.get("/api/v1/downloads")?;
    print::one(options.json, &downloads, || lines(&downloads, line, "no torrent"));
    Ok(())
}

fn line(download: &Json) -> String {
    let (held, total) = (amount(download, "held_bytes"), amount(download, "total_bytes"));
    let percent = u128::from(held) * 100 / u128::from(total.max(1));
    format!(
        "{}  {percent:>3} %  {:<12}  down {}/s, up {}/s  {}",
        text(download, "infohash"),
        text(download, "state"),
        show::bytes(amount(download, "down_rate_bytes")),
        show::bytes(amount(download, "up_rate_bytes")),
        text(download, "name"),
    )
}

pub(crate) fn pause(args: &OneTorrent) -> Outcome {
    verb(args, "pause")
}

pub(crate) fn resume(args: &OneTorrent) -> Outcome {
    verb(args, "resume")
}

fn verb(args: &OneTorrent, verb: &str) -> Outcome {
    let hash = hash(&args.torrent)?;
    let answer =
        Client::find(&args.client)?.post(&format!("/api/v1/downloads/{hash}/{verb}"), &Json::Null)?;
    if args.client.json {
        print::line(&answer.to_string());
    }
    Ok(())
}

pub(crate) fn remove(args: &Remove) -> Outcome {
    let hash = hash(&args.torrent)?;
    let path = format!("/api/v1/downloads/{hash}?delete_data={}", args.delete_data);
    let answer = Client::find(&args.client)?.delete(&path)?;
    if args.client.json {
        print::line(&answer.to_string());
    }
    Ok(())
}

fn hash(given: &str) -> Outcome<String> {
    let bytes = hex::decode(given).ok().filter(|bytes| bytes.len() == 20);
    bytes.map(hex::encode).ok_or_else(|| Failure::bad_use("hash", format!("`{given}` is not 40 hex digits")))
}
