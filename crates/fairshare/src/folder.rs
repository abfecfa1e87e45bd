//! The data folder of a node and what lies in it.

use crate::failure::{Failure, Outcome};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A data folder. Nothing is created before it is needed.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder that was named, or the one of the user.
    pub(crate) fn find(named: Option<PathBuf>) -> Outcome<Self> {
        if let Some(path) = named {
            return Ok(Self(path));
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = set("FAIRSHARE_DATA") {
            return Ok(Self(path));
        }
        let base = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
        base.map(|base| Self(base.join("fairshare"))).ok_or_else(|| {
            Failure::bad_use("data-folder", "no data folder is named and HOME is not set")
                .hint("add --data DIR")
        })
    }

    /// A folder at this path.
    pub(crate) const fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The settings.
    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// The secret that clients of the API show.
    pub(crate) fn token(&self) -> PathBuf {
        self.0.join("api.token")
    }

    /// Copies of the torrents that were added.
    pub(crate) fn torrents(&self) -> PathBuf {
        self.0.join("torrents")
    }

    /// Where downloads go unless another folder is named.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.0.join("downloads")
    }

    fn api(&self) -> PathBuf {
        self.0.join("api.json")
    }

    /// Creates the folder and those inside it.
    pub(crate) fn create(&self) -> Outcome {
        for path in [self.0.clone(), self.torrents(), self.downloads()] {
            std::fs::create_dir_all(&path).map_err(|error| Failure::io(&path, &error))?;
        }
        Ok(())
    }

    /// Writes down where the API of the running node listens.
    pub(crate) fn announce_api(&self, address: SocketAddr) -> Outcome {
        let text = serde_json::json!({ "api": address.to_string(), "pid": std::process::id() }).to_string();
        write_whole(&self.api(), text.as_bytes(), 0o600)
    }

    /// Forgets the address again.
    pub(crate) fn withdraw_api(&self) {
        // Absent is what is wanted: nothing to report if it already is.
        let _ = std::fs::remove_file(self.api());
    }

    /// Where the API of the node that runs on this folder listens, if one said so.
    pub(crate) fn api_address(&self) -> Option<SocketAddr> {
        let text = std::fs::read_to_string(self.api()).ok()?;
        let json: serde_json::Value = serde_json::from_str(&text).ok()?;
        json["api"].as_str()?.parse().ok()
    }
}

/// A folder that goes away with this value.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    /// A new folder that only its owner can read.
    pub(crate) fn new(purpose: &str) -> Outcome<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|error| {
            Failure::failed("entropy", format!("the system gives no random bytes: {error}"))
        })?;
        let path = std::env::temp_dir().join(format!("fairshare-{purpose}-{}", hex::encode(bytes)));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map(|()| Self(path.clone())).map_err(|error| Failure::io(&path, &error))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed is left to the system, which clears its temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes a file whole or not at all: under another name, synced, then renamed.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Outcome {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // The half-written file is of no use to anybody; the first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
        Failure::io(path, &error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_address_of_the_api_is_found_until_it_is_withdrawn() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = Folder::at(dir.path().to_owned());
        assert_eq!(folder.api_address(), None);
        let address = SocketAddr::from(([127, 0, 0, 1], 99));
        folder.announce_api(address).expect("written");
        assert_eq!(folder.api_address(), Some(address));
        folder.withdraw_api();
        assert_eq!(folder.api_address(), None);
    }

    #[test]
    fn a_secret_is_readable_by_its_owner_only_and_a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("secret");
        write_whole(&path, b"x", 0o600).expect("written");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let failure = write_whole(&dir.path().join("no/where"), b"x", 0o600).expect_err("no folder");
        assert!(failure.what.contains("no/where"));
        assert_eq!(std::fs::read_dir(dir.path()).expect("folder").count(), 1);
    }
}
