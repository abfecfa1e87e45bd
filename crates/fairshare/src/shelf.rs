//! The torrents a node was given, kept across restarts: one small file for each, beside its .torrent if that is known.

use crate::failure::{Failure, Outcome};
use crate::folder::write_whole;
use fairshare_node::Route;
use fairshare_swarm::{AddTorrent, InfoHash, Magnet, Metainfo, Source};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a torrent was added with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The link, as long as the description is not there.
    pub(crate) magnet: Option<String>,
    /// The folder that holds its file or folder.
    pub(crate) root: PathBuf,
    /// Whether it is only served.
    pub(crate) seed: bool,
    /// Addresses of peers that were named.
    pub(crate) peers: Vec<SocketAddr>,
    /// How its traffic goes. It must never be another way after a restart.
    pub(crate) route: Route,
}

/// A torrent of an earlier run, ready to be added again, and the way that it goes.
pub(crate) type Shelved = (AddTorrent, Route);

/// All torrents of a node.
#[derive(Debug)]
pub(crate) struct Shelf {
    /// `None`: nothing outlives the process.
    dir: Option<PathBuf>,
    entries: Mutex<BTreeMap<InfoHash, Entry>>,
}

impl Shelf {
    /// A shelf that keeps its files in this folder, or keeps none.
    pub(crate) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, entries: Mutex::default() }
    }

    /// Remembers a torrent, on disk first.
    pub(crate) fn put(&self, hash: InfoHash, entry: Entry, metainfo: Option<&Metainfo>) -> Outcome {
        if let Some(dir) = &self.dir {
            if let Some(metainfo) = metainfo {
                write_whole(&dir.join(format!("{hash}.torrent")), &metainfo.to_torrent(), 0o600)?;
            }
            write_whole(&dir.join(format!("{hash}.json")), entry.to_json().to_string().as_bytes(), 0o600)?;
        }
        self.lock().insert(hash, entry);
        Ok(())
    }

    /// Remembers the description of a torrent that was added by its link.
    pub(crate) fn describe(&self, metainfo: &Metainfo) -> Outcome {
        match &self.dir {
            Some(dir) => write_whole(
                &dir.join(format!("{}.torrent", metainfo.info_hash())),
                &metainfo.to_torrent(),
                0o600,
            ),
            None => Ok(()),
        }
    }

    /// What a torrent was added with.
    pub(crate) fn get(&self, hash: &InfoHash) -> Option<Entry> {
        self.lock().get(hash).cloned()
    }

    /// Forgets a torrent.
    pub(crate) fn remove(&self, hash: &InfoHash) {
        self.lock().remove(hash);
        if let Some(dir) = &self.dir {
            for end in ["json", "torrent"] {
                // Absent is what is wanted.
                let _ = std::fs::remove_file(dir.join(format!("{hash}.{end}")));
            }
        }
    }

    /// Reads the torrents of earlier runs, each ready to be added again. What cannot be read is told and skipped.
    pub(crate) fn load(&self) -> Outcome<(Vec<Shelved>, Vec<String>)> {
        let Some(dir) = &self.dir else { return Ok((Vec::new(), Vec::new())) };
        let (mut torrents, mut broken) = (Vec::new(), Vec::new());
        for item in std::fs::read_dir(dir).map_err(|error| Failure::io(dir, &error))? {
            let path = item.map_err(|error| Failure::io(dir, &error))?.path();
            if path.extension().is_some_and(|end| end == "json") {
                match self.read(&path) {
                    Ok(torrent) => torrents.push(torrent),
                    Err(why) => broken.push(format!("{}: {why}", path.display())),
                }
            }
        }
        Ok((torrents, broken))
    }

    fn read(&self, path: &Path) -> Result<Shelved, String> {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let hash: InfoHash = name.parse().map_err(|_| "the name is no hash".to_owned())?;
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let json = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let entry = Entry::from_json(&json).ok_or("a field is missing or wrong")?;
        let source = match (std::fs::read(path.with_extension("torrent")), &entry.magnet) {
            (Ok(bytes), _) => {
                Source::Metainfo(Arc::new(Metainfo::from_torrent(&bytes).map_err(|error| error.to_string())?))
            }
            (Err(_), Some(link)) => {
                Source::Magnet(link.parse::<Magnet>().map_err(|error| error.to_string())?)
            }
            (Err(error), None) => return Err(error.to_string()),
        };
        let torrent =
            AddTorrent { source, root: entry.root.clone(), seed: entry.seed, peers: entry.peers.clone() };
        let route = entry.route;
        self.lock().insert(hash, entry);
        Ok((torrent, route))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InfoHash, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn to_json(&self) -> Json {
        let peers: Vec<_> = self.peers.iter().map(ToString::to_string).collect();
        json!({
            "magnet": self.magnet, "root": self.root, "seed": self.seed, "peers": peers,
            "hops": self.route.hops(), "hidden": matches!(self.route, Route::Hidden { .. }),
        })
    }

    /// Files of earlier versions know no other way than the clear one.
    fn route_from(json: &Json) -> Option<Route> {
        let hops = json
            .get("hops")
            .map_or(Some(0), |hops| hops.as_u64().and_then(|hops| u8::try_from(hops).ok()))?;
        Some(match (hops, json["hidden"] == true) {
            (0, false) => Route::Clear,
            (0, true) => return None,
            (hops, true) => Route::Hidden { hops },
            (hops, false) => Route::Exit { hops },
        })
    }

    fn from_json(json: &Json) -> Option<Self> {
        let peers = json["peers"].as_array()?.iter().map(|peer| peer.as_str()?.parse().ok());
        Some(Self {
            magnet: json["magnet"].as_str().map(str::to_owned),
            root: PathBuf::from(json["root"].as_str()?),
            seed: json["seed"].as_bool()?,
            peers: peers.collect::<Option<_>>()?,
            route: Self::route_from(json)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::create::torrent_of;

    #[test]
    fn torrents_come_back_after_a_restart_until_they_are_removed() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let content = dir.path().join("data");
        std::fs::write(&content, b"some bytes").expect("written");
        let metainfo = torrent_of(&content, None, &[]).expect("made");
        let shelves = dir.path().join("torrents");
        std::fs::create_dir(&shelves).expect("folder");
        let shelf = Shelf::new(Some(shelves.clone()));
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        let entry = Entry {
            magnet: None,
            root: dir.path().to_owned(),
            seed: true,
            peers: vec![peer],
            route: Route::Hidden { hops: 2 },
        };
        shelf.put(metainfo.info_hash(), entry.clone(), Some(&metainfo)).expect("kept");

        let again = Shelf::new(Some(shelves.clone()));
        let (torrents, broken) = again.load().expect("read");
        assert_eq!((torrents.len(), broken.len()), (1, 0));
        let (torrent, route) = &torrents[0];
        assert!(torrent.seed && torrent.peers == [peer] && torrent.root == dir.path());
        assert_eq!(*route, Route::Hidden { hops: 2 });
        assert_eq!(again.get(&metainfo.info_hash()), Some(entry));

        again.remove(&metainfo.info_hash());
        assert_eq!(std::fs::read_dir(&shelves).expect("folder").count(), 0);
    }

    #[test]
    fn a_broken_file_is_told_and_the_rest_is_used() {
        let dir = tempfile::tempdir().expect("temporary folder");
        std::fs::write(dir.path().join("nonsense.json"), b"{}").expect("written");
        let hash = "aabbccddeeff00112233445566778899aabbccdd";
        let link = format!("magnet:?xt=urn:btih:{hash}");
        let shelf = Shelf::new(Some(dir.path().to_owned()));
        let entry =
            Entry { magnet: Some(link), root: "/x".into(), seed: false, peers: vec![], route: Route::Clear };
        shelf.put(hash.parse().expect("a hash"), entry, None).expect("kept");
        let (torrents, broken) = shelf.load().expect("read");
        assert_eq!((torrents.len(), broken.len()), (1, 1));
    }
}
