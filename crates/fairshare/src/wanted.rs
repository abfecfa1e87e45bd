//! What a person names on the command line: a magnet link or a .torrent file, checked before any node is asked.

use crate::cli::Way;
use crate::failure::{Failure, Outcome};
use fairshare_swarm::{Magnet, Metainfo};
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The largest .torrent file that is read.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const TORRENT_MAX: u64 = 64 << 20;

/// A torrent that somebody wants.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// A link.
    Magnet(String),
    /// The bytes of a .torrent file that can be read.
    Torrent(Vec<u8>),
}

impl Wanted {
    /// Reads a link or a file.
    pub(crate) fn read(given: &str) -> Outcome<Self> {
        if given.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("magnet:")) {
            let magnet: Result<Magnet, _> = given.parse();
            return magnet.map(|_| Self::Magnet(given.to_owned())).map_err(|error| {
                Failure::bad_use("magnet", format!("the magnet link cannot be read: {error}"))
                    .hint("copy the whole link, in quotes")
            });
        }
        let path = Path::new(given);
        let meta = std::fs::metadata(path).map_err(|error| Failure::io(path, &error))?;
        let unreadable = |why: String| {
            Failure::bad_use("torrent", format!("{given} is no torrent: {why}"))
                .hint("download the .torrent file again")
        };
        if meta.len() > TORRENT_MAX {
            return Err(unreadable("it is larger than 64 MiB".to_owned()));
        }
        let bytes = std::fs::read(path).map_err(|error| Failure::io(path, &error))?;
        Metainfo::from_torrent(&bytes).map_err(|error| unreadable(error.to_string()))?;
        Ok(Self::Torrent(bytes))
    }

    /// What the API is asked for. Paths are made absolute, because the node runs elsewhere.
    pub(crate) fn request(
        &self,
        to: Option<&Path>,
        seed: bool,
        peers: &[SocketAddr],
        way: Way,
    ) -> Outcome<Json> {
        let mut body = match self {
            Self::Magnet(link) => json!({ "magnet": link }),
            Self::Torrent(bytes) => json!({ "torrent": hex::encode(bytes) }),
        };
        if let Some(to) = to {
            let absolute = std::path::absolute(to).map_err(|error| Failure::io(to, &error))?;
            body["folder"] = json!(text(absolute)?);
        }
        body["seed"] = seed.into();
        if let Some(hops) = way.hops {
            body["hops"] = hops.into();
        }
        body["hidden"] = way.hidden.into();
        body["peers"] = json!(peers.iter().map(ToString::to_string).collect::<Vec<_>>());
        Ok(body)
    }
}

fn text(path: PathBuf) -> Outcome<String> {
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::bad_use("name", format!("{} is not UTF-8", Path::new(&path).display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_files_are_checked_before_a_node_is_asked() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("x.torrent");
        std::fs::write(&path, b"d4:infode").expect("written");
        let failure = Wanted::read(&path.to_string_lossy()).expect_err("corrupt");
        assert_eq!((failure.code.as_ref(), failure.exit as i32), ("torrent", 2));
        assert_eq!(Wanted::read("magnet:?xt=urn:btih:zz").expect_err("cut off").code, "magnet");
        assert_eq!(Wanted::read("/no/such/file").expect_err("absent").code, "io");
        let link = "MAGNET:?xt=urn:btih:aabbccddeeff00112233445566778899aabbccdd";
        let request = Wanted::read(link)
            .expect("a link")
            .request(Some(Path::new("x")), false, &[], Way::default())
            .expect("a request");
        assert_eq!(request["magnet"], link);
        assert!(request["folder"].as_str().is_some_and(|folder| folder.starts_with('/')));
    }
}
