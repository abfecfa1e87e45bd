//! Making torrents. The host lists the files and hashes the pieces; the builder decides the form.

use super::paths::{PathError, SafePaths, safe_component};
use super::{Metainfo, MetainfoError, is_address};
use crate::bencode::{Limits, Tree, Value};
use bytes::Bytes;
use thiserror::Error;

/// Bounds of the piece length that is chosen when the user names none.
//= spec/swarm.md#12-bittorrent-v2-and-hybrid-bep-52
const MIN_CHOSEN: u32 = 64 << 10;
const MAX_CHOSEN: u32 = 16 << 20;
/// Most pieces, as long as the bounds allow.
const PIECES_CHOSEN: u64 = 2_000;

/// The piece length for `total` bytes: a power of two that gives 1,000 to 2,000 pieces, within bounds.
//= spec/swarm.md#12-bittorrent-v2-and-hybrid-bep-52
pub fn piece_len_for(total: u64) -> u32 {
    let wanted = total.div_ceil(PIECES_CHOSEN).clamp(u64::from(MIN_CHOSEN), u64::from(MAX_CHOSEN));
    u32::try_from(wanted.next_power_of_two()).map_or(MAX_CHOSEN, |length| length.min(MAX_CHOSEN))
}

/// A file that goes into a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its path below the torrent's folder.
    pub path: Vec<String>,
    /// Bytes in it.
    pub length: u64,
}

/// Why no torrent can be made.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// A name that could not be created everywhere as it is.
    #[error(
        "{0:?} cannot be shared: some systems do not allow such a file name, or two files differ in case only"
    )]
    Name(String),
    /// A name that is refused altogether.
    #[error(transparent)]
    Path(#[from] PathError),
    /// What no tracker can have as its address.
    #[error("{0:?} is no address of a tracker")]
    Tracker(String),
    /// Not as many hashes as pieces.
    #[error("{got} hashes for {wanted} pieces")]
    Hashes {
        /// Pieces.
        wanted: u64,
        /// Hashes.
        got: usize,
    },
    /// The result would be no torrent that we accept ourselves.
    #[error(transparent)]
    Invalid(#[from] MetainfoError),
}

/// A torrent in the making.
#[derive(Clone, Debug)]
pub struct TorrentBuilder {
    name: String,
    /// `None` for a torrent of a single file.
    files: Option<Vec<SourceFile>>,
    total: u64,
    piece_len: u32,
    is_private: bool,
    trackers: Vec<Vec<String>>,
    comment: Option<String>,
    created: Option<(String, i64)>,
    hashes: Vec<u8>,
}

impl TorrentBuilder {
    /// A torrent of the one file `name`.
    pub fn file(name: &str, length: u64) -> Result<Self, BuildError> {
        Self::new(name, None, Some(length))
    }

    /// A torrent of the folder `name`, with its files in the order of their bytes.
    pub fn folder(name: &str, files: Vec<SourceFile>) -> Result<Self, BuildError> {
        let mut paths = SafePaths::default();
        for file in &files {
            let components: Vec<&[u8]> = file.path.iter().map(String::as_bytes).collect();
            if paths.add(&components)? != file.path {
                return Err(BuildError::Name(file.path.join("/")));
            }
        }
        let total = files.iter().try_fold(0_u64, |total, file| total.checked_add(file.length));
        Self::new(name, Some(files), total)
    }

    fn new(name: &str, files: Option<Vec<SourceFile>>, total: Option<u64>) -> Result<Self, BuildError> {
        if safe_component(name.as_bytes())? != name {
            return Err(BuildError::Name(name.to_owned()));
        }
        let total =
            total.filter(|total| i64::try_from(*total).is_ok()).ok_or(MetainfoError::Key("length"))?;
        if total == 0 {
            return Err(MetainfoError::Empty.into());
        }
        Ok(Self {
            name: name.to_owned(),
            files,
            total,
            piece_len: piece_len_for(total),
            is_private: false,
            trackers: Vec::new(),
            comment: None,
            created: None,
            hashes: Vec::new(),
        })
    }

    /// Another piece length than the chosen one.
    #[must_use]
    pub const fn piece_len(mut self, bytes: u32) -> Self {
        self.piece_len = bytes;
        self
    }

    /// Peers may come from the torrent's own trackers only.
    #[must_use]
    pub const fn private(mut self, is_private: bool) -> Self {
        self.is_private = is_private;
        self
    }

    /// Addresses of trackers, by tier.
    #[must_use]
    pub fn trackers(mut self, tiers: Vec<Vec<String>>) -> Self {
        self.trackers = tiers;
        self
    }

    /// A comment.
    #[must_use]
    pub fn comment(mut self, text: &str) -> Self {
        self.comment = Some(text.to_owned());
        self
    }

    /// Who made the torrent and when, in seconds since 1970.
    #[must_use]
    pub fn created(mut self, by: &str, unix_s: i64) -> Self {
        self.created = Some((by.to_owned(), unix_s));
        self
    }

    /// Bytes of every piece but the last.
    pub const fn chosen_piece_len(&self) -> u32 {
        self.piece_len
    }

    /// Bytes of all pieces.
    pub const fn total_len(&self) -> u64 {
        self.total
    }

    /// How many hashes it takes.
    pub const fn piece_count(&self) -> u64 {
        if self.piece_len == 0 { 0 } else { self.total.div_ceil(self.piece_len as u64) }
    }

    /// The SHA-1 of the next piece.
    pub fn push_hash(&mut self, hash: [u8; 20]) {
        self.hashes.extend_from_slice(&hash);
    }

    /// The torrent.
    pub fn finish(self) -> Result<Metainfo, BuildError> {
        let (wanted, got) = (self.piece_count(), self.hashes.len() / 20);
        if wanted != got as u64 {
            return Err(BuildError::Hashes { wanted, got });
        }
        if let Some(odd) = self.trackers.iter().flatten().find(|tracker| !is_address(tracker)) {
            return Err(BuildError::Tracker(odd.clone()));
        }
        let info = self.info().encode();
        let value = Value::parse(&info, Limits::FILE).map_err(MetainfoError::from)?;
        let mut metainfo = Metainfo::from_info_value(&value)?;
        metainfo.trackers = self.trackers;
        metainfo.comment = self.comment;
        if let Some((by, seconds)) = self.created {
            (metainfo.created_by, metainfo.created_s) = (Some(by), Some(seconds));
        }
        Ok(metainfo)
    }

    fn info(&self) -> Tree {
        let mut info = vec![
            ("name", Tree::text(&self.name)),
            ("piece length", Tree::Int(i64::from(self.piece_len))),
            ("pieces", Tree::Bytes(Bytes::copy_from_slice(&self.hashes))),
        ];
        match &self.files {
            None => info.push(("length", length(self.total))),
            Some(files) => info.push(("files", Tree::List(files.iter().map(SourceFile::to_tree).collect()))),
        };
        if self.is_private {
            info.push(("private", Tree::Int(1)));
        }
        Tree::dict(info)
    }
}

impl SourceFile {
    fn to_tree(&self) -> Tree {
        let path = self.path.iter().map(|component| Tree::text(component)).collect();
        Tree::dict([("length", length(self.length)), ("path", Tree::List(path))])
    }
}

fn length(bytes: u64) -> Tree {
    Tree::Int(i64::try_from(bytes).expect("the total, which is no less, was checked to fit"))
}
