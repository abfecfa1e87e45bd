//! `/downloads`: torrents to take and to serve.

use crate::api::problem::Problem;
use crate::api::server::{Api, Which, unexpected};
use crate::face::Face;
use crate::forms;
use crate::shelf::Entry;
use axum::Json as Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use fairshare_node::{Command, Reply, Route};
use fairshare_swarm::{AddTorrent, InfoHash, Magnet, Metainfo, Source, TorrentStatus};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

type Shared = State<Arc<Api>>;
type Answer = Result<Body<Json>, Problem>;

/// All torrents of the node.
pub(crate) async fn list(State(api): Shared, Query(which): Query<Which>) -> Answer {
    let face = api.face(&which)?;
    Ok(Body(
        torrents(face).await?.iter().map(|(torrent, route)| forms::download(torrent, *route, face)).collect(),
    ))
}

/// The node's torrents.
pub(crate) async fn torrents(face: &Face) -> Result<Vec<(TorrentStatus, Route)>, Problem> {
    match face.ask(Command::Torrents).await? {
        Reply::Torrents(torrents) => Ok(torrents),
        _ => Err(unexpected()),
    }
}

/// One torrent.
pub(crate) async fn show(State(api): Shared, Path(hash): Path<String>, Query(which): Query<Which>) -> Answer {
    let (face, hash) = (api.face(&which)?, parse(&hash)?);
    let torrents = torrents(face).await?;
    let found = torrents.iter().find(|(torrent, _)| torrent.info_hash == hash);
    found.map(|(torrent, route)| Body(forms::download(torrent, *route, face))).ok_or_else(unknown)
}

fn parse(hash: &str) -> Result<InfoHash, Problem> {
    hash.parse().map_err(|_| Problem::bad_request("hash", "a torrent is named by 40 hex digits"))
}

fn unknown() -> Problem {
    Problem::not_found("no such torrent").hint("fairshare list shows the torrents of the node")
}

/// A torrent to take up: a link or the bytes of a .torrent file in hex.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wish {
    magnet: Option<String>,
    torrent: Option<String>,
    folder: Option<PathBuf>,
    #[serde(default)]
    seed: bool,
    #[serde(default)]
    peers: Vec<SocketAddr>,
    /// Relays on the way, 0 = none.
    #[serde(default)]
    hops: u8,
    /// From end to end, to hidden peers.
    #[serde(default)]
    hidden: bool,
}

/// Relays of a hidden torrent's circuits on this side, unless more are wanted.
const HIDDEN_HOPS: u8 = 1;

impl Wish {
    fn route(&self) -> Result<Route, Problem> {
        match (self.hops, self.hidden) {
            (0, false) => Ok(Route::Clear),
            (0, true) => Ok(Route::Hidden { hops: HIDDEN_HOPS }),
            (hops @ 1..=3, true) => Ok(Route::Hidden { hops }),
            (_, false) if self.seed => {
                Err(Problem::bad_request("hops", "nobody finds who serves behind an exit: serve with hidden"))
            }
            (hops @ 1..=3, false) => Ok(Route::Exit { hops }),
            _ => Err(Problem::bad_request("hops", "circuits have 1 to 3 hops")),
        }
    }

    fn source(&self) -> Result<(InfoHash, Source), Problem> {
        match (&self.magnet, &self.torrent) {
            (Some(link), None) => {
                let magnet: Result<Magnet, _> = link.parse();
                let magnet = magnet.map_err(|error| Problem::bad_request("magnet", error.to_string()))?;
                Ok((magnet.info_hash, Source::Magnet(magnet)))
            }
            (None, Some(text)) => {
                let bytes =
                    hex::decode(text).map_err(|error| Problem::bad_request("torrent", error.to_string()))?;
                let metainfo = Metainfo::from_torrent(&bytes)
                    .map_err(|error| Problem::bad_request("torrent", error.to_string()))?;
                Ok((metainfo.info_hash(), Source::Metainfo(Arc::new(metainfo))))
            }
            _ => Err(Problem::bad_request("torrent", "exactly one of magnet and torrent is wanted")),
        }
    }
}

/// Takes up a torrent. One that is there already gets the named peers and nothing else.
pub(crate) async fn add(
    State(api): Shared,
    Query(which): Query<Which>,
    wish: Result<Body<Wish>, JsonRejection>,
) -> Result<(StatusCode, Body<Json>), Problem> {
    let Body(wish) = wish.map_err(|error| Problem::bad_request("body", error.body_text()))?;
    let face = api.face(&which)?;
    let ((hash, source), route) = (wish.source()?, wish.route()?);
    let answer = Body(json!({ "infohash": hash.to_string() }));
    if let Some((_, known)) = torrents(face).await?.iter().find(|(torrent, _)| torrent.info_hash == hash) {
        if *known != route {
            return Err(Problem::conflict("route", "this torrent is here already and travels another way")
                .hint("remove it first: the same torrent both ways would tell who you are"));
        }
        face.ask(Command::AddTorrentPeers(hash, wish.peers)).await?;
        return Ok((StatusCode::OK, answer));
    }
    let root = wish.folder.clone().unwrap_or_else(|| api.downloads.clone());
    let metainfo = if let Source::Metainfo(metainfo) = &source { Some(metainfo.clone()) } else { None };
    let entry =
        Entry { magnet: wish.magnet, root: root.clone(), seed: wish.seed, peers: wish.peers.clone(), route };
    let torrent = AddTorrent { source, root, seed: wish.seed, peers: wish.peers };
    match face.ask(Command::Add { torrent, route }).await? {
        Reply::Added(Ok(_)) => {}
        Reply::Added(Err(why)) => return Err(Problem::conflict("not-added", why)),
        _ => return Err(unexpected()),
    }
    // The download runs; if it cannot be remembered, it must not be taken for remembered either.
    if let Err(failure) = face.shelf.put(hash, entry, metainfo.as_deref()) {
        face.ask(Command::Remove { torrent: hash, delete_data: false }).await?;
        return Err(Problem::conflict("not-remembered", failure.what));
    }
    Ok((StatusCode::CREATED, answer))
}

#[derive(Debug, Deserialize)]
pub(crate) struct Removal {
    #[serde(default)]
    delete_data: bool,
}

/// Forgets a torrent, with or without its files.
pub(crate) async fn remove(
    State(api): Shared,
    Path(hash): Path<String>,
    Query(which): Query<Which>,
    Query(removal): Query<Removal>,
) -> Answer {
    let torrent = parse(&hash)?;
    done(api.ask(&which, Command::Remove { torrent, delete_data: removal.delete_data }).await?)?;
    let face = api.face(&which)?;
    face.shelf.remove(&torrent);
    face.forget(&torrent);
    Ok(Body(json!({ "infohash": hash })))
}

/// Stops a torrent's traffic; what is owed is settled.
pub(crate) async fn pause(
    State(api): Shared,
    Path(hash): Path<String>,
    Query(which): Query<Which>,
) -> Answer {
    done(api.ask(&which, Command::Pause(parse(&hash)?)).await?)?;
    show(State(api), Path(hash), Query(which)).await
}

/// Starts a torrent again.
pub(crate) async fn resume(
    State(api): Shared,
    Path(hash): Path<String>,
    Query(which): Query<Which>,
) -> Answer {
    done(api.ask(&which, Command::Resume(parse(&hash)?)).await?)?;
    show(State(api), Path(hash), Query(which)).await
}

fn done(reply: Reply) -> Result<(), Problem> {
    match reply {
        Reply::Done(Ok(())) => Ok(()),
        Reply::Done(Err(_)) => Err(unknown()),
        _ => Err(unexpected()),
    }
}
