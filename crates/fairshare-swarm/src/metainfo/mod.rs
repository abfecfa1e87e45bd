//! Torrents: what their files are, how they are cut into pieces and what each piece hashes to (version 1; the v1
//! half of hybrid torrents is used too).
//!
//! Everything in a [`Metainfo`] was checked: sizes add up, names are safe to create files under, and the info-hash
//! is that of the exact bytes which were read.

mod builder;
mod parse;
mod paths;

pub use builder::{BuildError, SourceFile, TorrentBuilder, piece_len_for};
pub(crate) use parse::is_address;
pub use parse::{MAX_METADATA_LEN, MetainfoError};

use crate::bencode::Tree;
use bytes::Bytes;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Most pieces of a torrent.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
pub const MAX_PIECES: u32 = 4_194_304;

/// SHA-1 of the exact bytes of an info dictionary: the name of a torrent.
//= spec/swarm.md#1-identifiers
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash(pub [u8; 20]);

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InfoHash({self})")
    }
}

/// Text that is no info-hash.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("an info-hash has 40 hexadecimal digits")]
pub struct InfoHashError;

impl FromStr for InfoHash {
    type Err = InfoHashError;

    fn from_str(text: &str) -> Result<Self, InfoHashError> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InfoHashError)?;
        Ok(Self(bytes))
    }
}

/// One file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its folders and name below the torrent's folder, safe to create. A torrent of a single file has no folder:
    /// there the path is its name alone. Padding has none.
    pub path: Vec<String>,
    /// Bytes in the file.
    pub length: u64,
    /// Where it begins in the bytes of the torrent.
    pub offset: u64,
    /// A padding file: never created, reads as zeros.
    pub padding: bool,
}

/// A torrent.
#[derive(Clone, PartialEq, Eq)]
pub struct Metainfo {
    info_hash: InfoHash,
    info: Bytes,
    name: String,
    piece_len: u32,
    piece_count: u32,
    pieces: Bytes,
    files: Vec<FileEntry>,
    is_multi_file: bool,
    total_len: u64,
    is_private: bool,
    trackers: Vec<Vec<String>>,
    web_seeds: Vec<String>,
    /// The layers of hashes that a hybrid torrent has beside its info dictionary, bencoded.
    piece_layers: Option<Bytes>,
    comment: Option<String>,
    created_by: Option<String>,
    created_s: Option<i64>,
}

impl Metainfo {
    /// The name of the torrent.
    pub const fn info_hash(&self) -> InfoHash {
        self.info_hash
    }

    /// The exact bytes of the info dictionary, as served to peers that came by magnet.
    pub const fn info(&self) -> &Bytes {
        &self.info
    }

    /// The safe name of the file or folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of every piece but the last.
    pub const fn piece_len(&self) -> u32 {
        self.piece_len
    }

    /// Number of pieces.
    pub const fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// Bytes of `piece`; 0 if there is none.
    pub fn piece_size(&self, piece: u32) -> u32 {
        let start = u64::from(piece) * u64::from(self.piece_len);
        let left = self.total_len.saturating_sub(start);
        u32::try_from(left).map_or(self.piece_len, |left| left.min(self.piece_len))
    }

    /// SHA-1 of `piece`.
    pub fn piece_hash(&self, piece: u32) -> Option<[u8; 20]> {
        let start = piece as usize * 20;
        self.pieces.get(start..start + 20)?.try_into().ok()
    }

    /// Bytes of all pieces.
    pub const fn total_len(&self) -> u64 {
        self.total_len
    }

    /// The files in the order of their bytes.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// Whether the files lie in a folder of the torrent's name. If not there is one file, directly.
    pub const fn is_multi_file(&self) -> bool {
        self.is_multi_file
    }

    /// Whether peers may come from the torrent's own trackers only.
    pub const fn is_private(&self) -> bool {
        self.is_private
    }

    /// Addresses of trackers, by tier.
    pub fn trackers(&self) -> &[Vec<String>] {
        &self.trackers
    }

    /// Addresses of web seeds.
    pub fn web_seeds(&self) -> &[String] {
        &self.web_seeds
    }

    /// The author's comment.
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }

    /// The content of a torrent file.
    pub fn to_torrent(&self) -> Vec<u8> {
        let text = |text: &String| Tree::text(text);
        let mut root = vec![("info", Tree::Raw(self.info.clone()))];
        if let Some(first) = self.trackers.first().and_then(|tier| tier.first()) {
            root.push(("announce", text(first)));
        }
        if self.trackers.iter().map(Vec::len).sum::<usize>() > 1 {
            let tier = |tier: &Vec<String>| Tree::List(tier.iter().map(text).collect());
            root.push(("announce-list", Tree::List(self.trackers.iter().map(tier).collect())));
        }
        if !self.web_seeds.is_empty() {
            root.push(("url-list", Tree::List(self.web_seeds.iter().map(text).collect())));
        }
        root.extend(self.piece_layers.clone().map(|layers| ("piece layers", Tree::Raw(layers))));
        root.extend(self.comment.as_ref().map(|comment| ("comment", text(comment))));
        root.extend(self.created_by.as_ref().map(|program| ("created by", text(program))));
        root.extend(self.created_s.map(|seconds| ("creation date", Tree::Int(seconds))));
        Tree::dict(root).encode()
    }
}

impl fmt::Debug for Metainfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { info_hash, name, piece_count, total_len, .. } = self;
        write!(f, "Metainfo({info_hash}, {name:?}, {piece_count} pieces, {total_len} bytes)")
    }
}

#[cfg(test)]
mod tests;
