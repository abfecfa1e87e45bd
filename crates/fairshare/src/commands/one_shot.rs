//! `fairshare get` and `fairshare seed`: through the running node if there is one, else with a node of their own that
//! lives as long as the command.

use super::{amount, text};
use crate::api::Client;
use crate::cli::{Get, Seed};
use crate::config::Layered;
use crate::failure::{Failure, Outcome};
use crate::folder::Folder;
use crate::print::{self, Progress};
use crate::process::Interrupt;
use crate::show;
use crate::standing::{Setup, Standing};
use crate::wanted::Wanted;
use serde_json::{Value as Json, json};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::time::{Duration, Instant};

/// Pause between two looks at a download.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn get(args: &Get) -> Outcome {
    let wanted = Wanted::read(&args.torrent)?;
    let here = Path::new(".");
    let patience = args.timeout.map(Duration::from_secs);
    let done = match running(&args.client)? {
        Some(client) => fetch(&client, &wanted, args.to.as_deref(), args, patience)?,
        None => {
            let standing = temporary(&args.client.data, None, &args.nodes)?;
            let to = args.to.as_deref().unwrap_or(here);
            let done = fetch(&standing.client(), &wanted, Some(to), args, patience);
            standing.stop();
            done?
        }
    };
    print::one(args.client.json, &done, || {
        format!("{}: {} verified and written", text(&done, "name"), show::bytes(amount(&done, "total_bytes")))
    });
    Ok(())
}

fn fetch(
    client: &Client,
    wanted: &Wanted,
    to: Option<&Path>,
    args: &Get,
    patience: Option<Duration>,
) -> Outcome<Json> {
    let added = client.post("/api/v1/downloads", &wanted.request(to, false, &args.peers, args.way)?)?;
    wait(client, text(&added, "infohash"), patience)
}

/// Waits until every piece is verified and written. The download itself goes on if the patience ends first.
pub(super) fn wait(client: &Client, hash: &str, patience: Option<Duration>) -> Outcome<Json> {
    let (start, progress, interrupt) = (Instant::now(), Progress::new(), Interrupt::listen()?);
    loop {
        let download = client.get(&format!("/api/v1/downloads/{hash}"))?;
        if download["complete"] == true {
            progress.clear();
            return Ok(download);
        }
        if text(&download, "state") == "failed" {
            progress.clear();
            return Err(Failure::failed(
                "download",
                format!("the download stopped: {}", text(&download, "error")),
            )
            .hint("remove the cause, then run the same command again: what was verified is kept"));
        }
        progress.show(&progress_line(&download));
        if patience.is_some_and(|patience| start.elapsed() >= patience) {
            progress.clear();
            return Err(given_up(&download));
        }
        if interrupt.came() {
            progress.clear();
            return Err(Failure::failed("interrupted", "interrupted; what was verified is kept"));
        }
        std::thread::sleep(LOOK);
    }
}

fn progress_line(download: &Json) -> String {
    let (held, total, rate) = (
        amount(download, "held_bytes"),
        amount(download, "total_bytes"),
        amount(download, "down_rate_bytes"),
    );
    let percent = u128::from(held) * 100 / u128::from(total.max(1));
    let left = total
        .saturating_sub(held)
        .checked_div(rate)
        .map_or_else(String::new, |left| format!(", {left} s left"));
    let refusing = match refusals(download) {
        [] => String::new(),
        refusals => format!(", {} refuse", refusals.len()),
    };
    format!("{percent:>3} %  {}/s{left}{refusing}  {}", show::bytes(rate), text(download, "name"))
}

fn refusals(download: &Json) -> &[Json] {
    download["refused_by"].as_array().map_or(&[], Vec::as_slice)
}

/// Who refuses, why, and what lifts it.
fn refusal_words(refusal: &Json) -> String {
    let provider = text(refusal, "provider");
    let end = provider.get(provider.len().saturating_sub(8)..).unwrap_or(provider);
    let way = match refusal["give_bytes"].is_null() {
        true => String::new(),
        false => format!(", give it {}", show::bytes(amount(refusal, "give_bytes"))),
    };
    format!("{end} ({}{way})", text(refusal, "reason"))
}

/// Out of patience: refused by policy is another end than nobody there.
fn given_up(download: &Json) -> Failure {
    let what = format!(
        "{} of {} after the given time",
        show::bytes(amount(download, "held_bytes")),
        show::bytes(amount(download, "total_bytes"))
    );
    let refusals: Vec<_> = refusals(download).iter().map(refusal_words).collect();
    if !refusals.is_empty() {
        return Failure::refused("refused", format!("{what}; refused by {}", refusals.join("; ")))
            .hint("give them what they want first: seed something they take");
    }
    Failure::failed("timeout", what)
        .hint("name somebody who has it with --peer IP:PORT, or give it more time")
}

pub(crate) fn seed(args: &Seed) -> Outcome {
    let wanted = Wanted::read(&args.torrent.to_string_lossy())?;
    let request = wanted.request(Some(&args.from), true, &args.peers, args.way)?;
    if let Some(client) = running(&args.client)? {
        let added = client.post("/api/v1/downloads", &request)?;
        let seeding = settle(&client, text(&added, "infohash"), &args.from)?;
        print::one(args.client.json, &seeding, || {
            format!("the running node serves {}", text(&seeding, "name"))
        });
        return Ok(());
    }
    let interrupt = Interrupt::listen()?;
    let standing = temporary(&args.client.data, args.listen, &args.nodes)?;
    let client = standing.client();
    let seeding = client
        .post("/api/v1/downloads", &request)
        .and_then(|added| settle(&client, text(&added, "infohash"), &args.from));
    let seeding = match seeding {
        Ok(seeding) => seeding,
        Err(failure) => {
            standing.stop();
            return Err(failure);
        }
    };
    let ready = json!({
        "event": "ready", "listen": standing.listen().to_string(), "infohash": seeding["infohash"],
        "public_key": standing.public_key().to_string(),
    });
    print::one(args.client.json, &ready, || {
        format!("serving {} at {}", text(&seeding, "name"), standing.listen())
    });
    interrupt.wait();
    standing.stop();
    Ok(())
}

/// Waits until the files of a torrent to serve are checked; they must be whole.
fn settle(client: &Client, hash: &str, from: &Path) -> Outcome<Json> {
    loop {
        let download = client.get(&format!("/api/v1/downloads/{hash}"))?;
        match text(&download, "state") {
            "seeding" => return Ok(download),
            "checking" | "metadata" => std::thread::sleep(LOOK),
            "failed" => {
                // It was added a moment ago and serves nobody: the node forgets it again.
                let _ = client.delete(&format!("/api/v1/downloads/{hash}?delete_data=false"));
                return Err(Failure::failed("seed", text(&download, "error").to_owned()));
            }
            _ => {
                let _ = client.delete(&format!("/api/v1/downloads/{hash}?delete_data=false"));
                return Err(Failure::failed(
                    "incomplete",
                    format!("the files in {} are not those of the torrent", from.display()),
                )
                .hint("name the folder that holds the torrent's file or folder"));
            }
        }
    }
}

/// The running node, if the options name one or one runs on their data folder.
fn running(options: &crate::cli::Client) -> Outcome<Option<Client>> {
    if options.url.is_some() {
        return Client::find(options).map(Some);
    }
    match &options.data {
        Some(_) => Client::running(&Folder::find(options.data.clone())?),
        // Without a name the user's own node is used if it runs, and is not needed if it does not.
        None => Folder::find(None).map_or(Ok(None), |folder| Client::running(&folder)),
    }
}

/// A node for this command alone. Its data folder is a temporary one unless one is named.
fn temporary(
    data: &Option<std::path::PathBuf>,
    listen: Option<SocketAddrV4>,
    nodes: &[SocketAddr],
) -> Outcome<Standing> {
    let listen = listen.unwrap_or(SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0));
    let flags = [("listen", listen.to_string()), ("api", "127.0.0.1:0".to_owned())];
    let file = data.as_ref().map_or_else(|| "/dev/null".into(), |data| Folder::at(data.clone()).config());
    let layered = Layered::load(&file, |name| std::env::var(name).ok(), &flags)?;
    Standing::start(Setup { data: data.clone(), layered, peers: nodes.to_vec(), passphrase: None })
}
