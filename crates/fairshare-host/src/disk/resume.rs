//! Resume data: which pieces were synced, and how the files looked then. A file that looks different now is
//! hashed again; one that looks the same is believed.
//= spec/swarm.md#9-storage

use fairshare_swarm::bencode::{Limits, Tree, Value};
use fairshare_swarm::{Bitfield, DiskError, InfoHash};
use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::folder::io_error;

const VERSION: i64 = 1;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// How a file looked: enough to see that somebody wrote to it since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    /// Last change, nanoseconds since 1970.
    pub(super) mtime_ns: i64,
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Self {
        let mtime_ns = meta.mtime().saturating_mul(NANOS_PER_SECOND).saturating_add(meta.mtime_nsec());
        Self { size: meta.len(), mtime_ns }
    }
}

/// The contents of a resume file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resume {
    pub(super) torrent: InfoHash,
    pub(super) have: Bitfield,
    /// One for each file of the torrent, padding included.
    pub(super) files: Vec<Stamp>,
}

impl Resume {
    /// Reads the resume file of a torrent of `pieces` pieces and `files` files. `None` if there is none that fits:
    /// then everything is hashed, so nothing depends on this file being right.
    pub(super) fn load(dir: &Path, torrent: InfoHash, pieces: u32, files: usize) -> Option<Self> {
        let bytes = std::fs::read(path(dir, torrent)).ok()?;
        let resume = Self::decode(&bytes, pieces)?;
        (resume.torrent == torrent && resume.files.len() == files).then_some(resume)
    }

    /// Writes it whole or not at all.
    pub(super) fn save(&self, dir: &Path) -> Result<(), DiskError> {
        let target = path(dir, self.torrent);
        let temporary = target.with_extension("new");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&self.encode())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &target)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| {
            // What is left of the attempt takes space that is perhaps the very thing missing.
            let _ = std::fs::remove_file(&temporary);
            io_error(&target.display().to_string(), &error)
        })
    }

    /// Deletes the resume file of a torrent, if there is one.
    pub(super) fn delete(dir: &Path, torrent: InfoHash) -> Result<(), DiskError> {
        let target = path(dir, torrent);
        match std::fs::remove_file(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io_error(&target.display().to_string(), &error))
            }
            _ => Ok(()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let stamp = |stamp: &Stamp| {
            Tree::dict([
                ("mtime_ns", Tree::Int(stamp.mtime_ns)),
                ("size", Tree::Int(i64::try_from(stamp.size).unwrap_or(i64::MAX))),
            ])
        };
        Tree::dict([
            ("files", Tree::List(self.files.iter().map(stamp).collect())),
            ("info-hash", Tree::Bytes(self.torrent.0.to_vec().into())),
            ("pieces", Tree::Bytes(self.have.to_bytes().into())),
            ("version", Tree::Int(VERSION)),
        ])
        .encode()
    }

    fn decode(bytes: &[u8], pieces: u32) -> Option<Self> {
        let value = Value::parse(bytes, Limits::FILE).ok()?;
        if value.get("version")?.int()? != VERSION {
            return None;
        }
        let torrent = InfoHash(value.get("info-hash")?.bytes()?.try_into().ok()?);
        let have = Bitfield::from_bytes(pieces, value.get("pieces")?.bytes()?).ok()?;
        let stamp = |file: &Value<'_>| {
            let size = u64::try_from(file.get("size")?.int()?).ok()?;
            Some(Stamp { size, mtime_ns: file.get("mtime_ns")?.int()? })
        };
        let files = value.get("files")?.list()?.iter().map(stamp).collect::<Option<_>>()?;
        Some(Self { torrent, have, files })
    }
}

fn path(dir: &Path, torrent: InfoHash) -> PathBuf {
    dir.join(format!("{}.resume", hex::encode(torrent.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Resume {
        let mut have = Bitfield::new(11);
        have.set(3);
        have.set(10);
        let files = vec![Stamp { size: 7, mtime_ns: -5 }, Stamp { size: 0, mtime_ns: i64::MAX }];
        Resume { torrent: InfoHash([9; 20]), have, files }
    }

    #[test]
    fn survives_its_own_bytes() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let resume = sample();
        resume.save(dir.path()).expect("writable");
        assert_eq!(Resume::load(dir.path(), resume.torrent, 11, 2), Some(resume.clone()));
        assert_eq!(Resume::load(dir.path(), resume.torrent, 17, 2), None, "another number of pieces");
        assert_eq!(Resume::load(dir.path(), resume.torrent, 11, 3), None, "another number of files");
        assert_eq!(std::fs::read_dir(dir.path()).expect("folder").count(), 1, "no temporary file is left");
        Resume::delete(dir.path(), resume.torrent).expect("ours");
        assert_eq!(Resume::load(dir.path(), resume.torrent, 11, 2), None);
    }

    #[test]
    fn every_cut_or_changed_file_is_ignored_or_read_as_a_whole() {
        let bytes = sample().encode();
        for len in 0..bytes.len() {
            assert_eq!(Resume::decode(&bytes[..len], 11), None, "cut at {len}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x11;
            // Whatever comes out, nothing panics; a changed hash or version is refused by the caller or here.
            let _ = Resume::decode(&changed, 11);
        }
    }
}
