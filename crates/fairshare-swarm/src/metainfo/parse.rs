//! Reading torrent files and metadata that came from peers.

use super::paths::{PathError, SafePaths, safe_component};
use super::{FileEntry, InfoHash, MAX_PIECES, Metainfo};
use crate::bencode::{BencodeError, Limits, Value};
use bytes::Bytes;
use fairshare_crypto::sha1;
use thiserror::Error;

/// Bytes of the longest torrent file that is read.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const MAX_TORRENT_LEN: usize = 64 << 20;
/// Bytes of the longest metadata that is fetched from peers.
pub const MAX_METADATA_LEN: u32 = 32 << 20;
/// Files of a torrent.
const MAX_FILES: usize = 1_000_000;
const MIN_PIECE_LENGTH: i64 = 16 << 10;
const MAX_PIECE_LENGTH: i64 = 256 << 20;
/// Trackers and web seeds that are kept, each: more than any honest torrent names.
const MAX_ADDRESSES: usize = 200;
/// Bytes of an address of a tracker or web seed, as much as servers commonly take.
const MAX_ADDRESS_LEN: usize = 2_048;

/// Why bytes are no torrent that we can use.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetainfoError {
    /// Not bencoded.
    #[error("not a torrent: {0}")]
    Bencode(#[from] BencodeError),
    /// A key is missing or its value is of the wrong kind.
    #[error("no usable value under {0:?}")]
    Key(&'static str),
    /// Larger than what is accepted.
    #[error("too large: {what} is {got}, at most {max} is accepted")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        got: u64,
        /// The largest that is accepted.
        max: u64,
    },
    /// The piece length is out of range.
    #[error("a piece length of {0} bytes is not between 16 KiB and 256 MiB")]
    PieceLength(i64),
    /// The number of piece hashes does not fit the length of the files.
    #[error("{hashes} bytes of piece hashes do not fit {pieces} pieces")]
    PieceHashes {
        /// Bytes of hashes.
        hashes: usize,
        /// Pieces by the lengths of the files.
        pieces: u64,
    },
    /// The torrent has no bytes.
    #[error("the torrent holds no bytes")]
    Empty,
    /// A file cannot be created under its name.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The torrent has no version 1 half.
    #[error("a torrent of BitTorrent version 2 only: not supported, version 1 and hybrid torrents are")]
    OnlyV2,
    /// Metadata whose hash is not the one that was asked for.
    #[error("metadata of {got}, not of {wanted}")]
    OtherTorrent {
        /// What was asked for.
        wanted: InfoHash,
        /// What came.
        got: InfoHash,
    },
}

impl Metainfo {
    /// Reads a torrent file.
    pub fn from_torrent(file: &[u8]) -> Result<Self, MetainfoError> {
        check_size("the torrent file", file.len() as u64, MAX_TORRENT_LEN as u64)?;
        // Some programs leave a line end behind the dictionary, which is no part of it.
        let (root, _) = Value::parse_prefix(file, Limits::FILE)?;
        let info = root.get("info").ok_or(MetainfoError::Key("info"))?;
        let mut metainfo = Self::from_info_value(info)?;
        metainfo.trackers = trackers(&root);
        metainfo.web_seeds = web_seeds(&root);
        let layers = root.get("piece layers").filter(|layers| layers.dict().is_some());
        metainfo.piece_layers = layers.map(|layers| Bytes::copy_from_slice(layers.raw()));
        let text = |key| root.get(key).and_then(Value::text).map(str::to_owned);
        metainfo.comment = text("comment");
        metainfo.created_by = text("created by");
        metainfo.created_s = root.get("creation date").and_then(Value::int);
        Ok(metainfo)
    }

    /// Reads an info dictionary that peers sent for `wanted`.
    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    pub fn from_info(
        info: &[u8],
        wanted: InfoHash,
        trackers: Vec<Vec<String>>,
    ) -> Result<Self, MetainfoError> {
        let got = InfoHash(sha1(info));
        if got != wanted {
            return Err(MetainfoError::OtherTorrent { wanted, got });
        }
        check_size("the metadata", info.len() as u64, u64::from(MAX_METADATA_LEN))?;
        let mut metainfo = Self::from_info_value(&Value::parse(info, Limits::FILE)?)?;
        metainfo.trackers = trackers;
        Ok(metainfo)
    }

    pub(super) fn from_info_value(info: &Value<'_>) -> Result<Self, MetainfoError> {
        let Some(pieces) = info.get("pieces").and_then(Value::bytes) else {
            let only_v2 = info.get("meta version").is_some();
            return Err(if only_v2 { MetainfoError::OnlyV2 } else { MetainfoError::Key("pieces") });
        };
        let piece_len = piece_len(info)?;
        let name = safe_component(
            utf8_or_plain(info, "name.utf-8", "name").and_then(Value::bytes).unwrap_or_default(),
        )?;
        let files = files(info, &name)?;
        let total_len = total(&files)?;
        let piece_count = piece_count(total_len, piece_len, pieces.len())?;
        Ok(Self {
            info_hash: InfoHash(sha1(info.raw())),
            info: Bytes::copy_from_slice(info.raw()),
            name,
            piece_len,
            piece_count,
            pieces: Bytes::copy_from_slice(pieces),
            files,
            is_multi_file: info.get("files").is_some(),
            total_len,
            is_private: info.get("private").and_then(Value::int) == Some(1),
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            piece_layers: None,
            comment: None,
            created_by: None,
            created_s: None,
        })
    }
}

const fn check_size(what: &'static str, got: u64, max: u64) -> Result<(), MetainfoError> {
    if got > max { Err(MetainfoError::TooLarge { what, got, max }) } else { Ok(()) }
}

fn piece_len(info: &Value<'_>) -> Result<u32, MetainfoError> {
    let length = info.get("piece length").and_then(Value::int).ok_or(MetainfoError::Key("piece length"))?;
    let usable = (MIN_PIECE_LENGTH..=MAX_PIECE_LENGTH).contains(&length).then_some(length);
    usable.and_then(|length| u32::try_from(length).ok()).ok_or(MetainfoError::PieceLength(length))
}

fn piece_count(total: u64, piece_len: u32, hashes: usize) -> Result<u32, MetainfoError> {
    if total == 0 {
        return Err(MetainfoError::Empty);
    }
    let pieces = total.div_ceil(u64::from(piece_len));
    check_size("the number of pieces", pieces, u64::from(MAX_PIECES))?;
    if hashes as u64 != pieces * 20 {
        return Err(MetainfoError::PieceHashes { hashes, pieces });
    }
    Ok(u32::try_from(pieces).expect("bounded by MAX_PIECES above"))
}

/// The value under the key that promises UTF-8, else the one under the plain key.
fn utf8_or_plain<'v, 'a>(dict: &'v Value<'a>, utf8: &str, plain: &str) -> Option<&'v Value<'a>> {
    dict.get(utf8).or_else(|| dict.get(plain))
}

fn files(info: &Value<'_>, name: &str) -> Result<Vec<FileEntry>, MetainfoError> {
    let Some(list) = info.get("files") else {
        let length = length(info)?;
        return Ok(vec![FileEntry { path: vec![name.to_owned()], length, offset: 0, padding: false }]);
    };
    let list = list.list().ok_or(MetainfoError::Key("files"))?;
    check_size("the number of files", list.len() as u64, MAX_FILES as u64)?;
    let mut paths = SafePaths::default();
    let mut files = Vec::with_capacity(list.len());
    let mut offset = 0_u64;
    for entry in list {
        let length = length(entry)?;
        let attributes = entry.get("attr").and_then(Value::bytes).unwrap_or_default();
        // A symbolic link has no bytes of its own and is never made.
        let is_link = attributes.contains(&b'l') && length == 0;
        if !is_link {
            let padding = attributes.contains(&b'p');
            let path = if padding { Vec::new() } else { paths.add(&components(entry)?)? };
            files.push(FileEntry { path, length, offset, padding });
        }
        offset = offset.checked_add(length).ok_or(MetainfoError::Key("length"))?;
    }
    Ok(files)
}

fn length(entry: &Value<'_>) -> Result<u64, MetainfoError> {
    let length = entry.get("length").and_then(Value::int);
    length.and_then(|length| u64::try_from(length).ok()).ok_or(MetainfoError::Key("length"))
}

fn components<'a>(entry: &Value<'a>) -> Result<Vec<&'a [u8]>, MetainfoError> {
    let path = utf8_or_plain(entry, "path.utf-8", "path").and_then(Value::list);
    let components = path.and_then(|path| path.iter().map(Value::bytes).collect::<Option<Vec<_>>>());
    components.filter(|components| !components.is_empty()).ok_or(MetainfoError::Key("path"))
}

fn total(files: &[FileEntry]) -> Result<u64, MetainfoError> {
    let sum = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.length));
    sum.ok_or(MetainfoError::Key("length"))
}

fn trackers(root: &Value<'_>) -> Vec<Vec<String>> {
    let mut left = MAX_ADDRESSES;
    let mut keep = |value: &Value<'_>| {
        let address = address(value).filter(|_| left > 0)?;
        left -= 1;
        Some(address)
    };
    let tiers = root.get("announce-list").and_then(Value::list).unwrap_or_default();
    let tiers =
        tiers.iter().map(|tier| tier.list().unwrap_or_default().iter().filter_map(&mut keep).collect());
    let tiers: Vec<Vec<String>> = tiers.filter(|tier: &Vec<String>| !tier.is_empty()).collect();
    if !tiers.is_empty() {
        return tiers;
    }
    root.get("announce").and_then(address).map(|address| vec![vec![address]]).unwrap_or_default()
}

fn web_seeds(root: &Value<'_>) -> Vec<String> {
    let Some(value) = root.get("url-list") else { return Vec::new() };
    match value.list() {
        Some(list) => list.iter().filter_map(address).take(MAX_ADDRESSES).collect(),
        None => address(value).into_iter().collect(),
    }
}

fn address(value: &Value<'_>) -> Option<String> {
    value.text().map(str::trim).filter(|text| is_address(text)).map(str::to_owned)
}

/// Whether text can be the address of a tracker or web seed: printable ASCII, as it must be to stand in a request.
pub(crate) fn is_address(text: &str) -> bool {
    text.len() <= MAX_ADDRESS_LEN && text.contains("://") && text.bytes().all(|byte| byte.is_ascii_graphic())
}
