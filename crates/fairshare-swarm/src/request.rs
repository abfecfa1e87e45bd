//! What the engine asks of its host, and what the host answers. File bytes never pass through an engine's own
//! hands: it decides, the host reads, writes and hashes.

use crate::bitfield::Bitfield;
use crate::metainfo::{InfoHash, Metainfo};
use bytes::Bytes;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// A request to the host. Each is answered by exactly one [`Completion`] with the same ticket.
#[derive(Clone, Debug)]
pub enum Request {
    /// Prepare the files of a torrent below `root`, or find them there. Pieces that the resume data vouches for
    /// count as held; without resume data everything that exists is hashed. Answer: [`Completion::Opened`].
    Open {
        /// The torrent.
        metainfo: Arc<Metainfo>,
        /// The folder that holds the torrent's file or folder.
        root: PathBuf,
        /// Whether files may be created (a seeder's must exist already and are never written).
        create: bool,
    },
    /// Hash the blocks of a whole piece and, if the hash is right, write them. Answer: [`Completion::Stored`].
    Store {
        /// The torrent.
        torrent: InfoHash,
        /// Index of the piece.
        piece: u32,
        /// All blocks of the piece in order.
        blocks: Vec<Bytes>,
    },
    /// Read from a piece that was verified. Answer: [`Completion::Data`].
    Read {
        /// The torrent.
        torrent: InfoHash,
        /// Index of the piece.
        piece: u32,
        /// First byte inside the piece.
        begin: u32,
        /// Bytes to read.
        len: u32,
    },
    /// Sync written data, then record `have` in the resume file; when `finished`, also give the files their final
    /// names. Answer: [`Completion::Saved`].
    Save {
        /// The torrent.
        torrent: InfoHash,
        /// The pieces held when the request was made.
        have: Bitfield,
        /// Whether every wanted piece is held.
        finished: bool,
    },
    /// Forget the open files of a torrent. Answer: [`Completion::Saved`].
    Close {
        /// The torrent.
        torrent: InfoHash,
        /// Whether to delete data and resume file too.
        delete: bool,
    },
    /// Fetch a page over HTTP, at most 1 MiB. Answer: [`Completion::Page`].
    HttpGet {
        /// The whole address.
        url: String,
    },
    /// Ask the system's resolver for the addresses of a host. Answer: [`Completion::Resolved`].
    Resolve {
        /// The host's name.
        host: String,
        /// The port that the addresses are to carry.
        port: u16,
    },
    /// One HTTP exchange as the exit of a circuit: connect, write the request as it is, read the answer, at most
    /// 1 MiB of body. Whoever asks has judged the target. Answer: [`Completion::Fetched`].
    HttpFetch {
        /// The web server.
        target: SocketAddr,
        /// The whole request.
        request: Bytes,
    },
}

/// The answer to one [`Request`].
#[derive(Clone, Debug)]
pub enum Completion {
    /// The files are open and these pieces are held.
    Opened(Result<Bitfield, DiskError>),
    /// The piece was hashed: `true` = right and written, `false` = wrong and dropped.
    Stored(Result<bool, DiskError>),
    /// The bytes read.
    Data(Result<Bytes, DiskError>),
    /// Synced and recorded.
    Saved(Result<(), DiskError>),
    /// The body of the page, or why there is none.
    Page(Result<Bytes, String>),
    /// The addresses of the host, at least one, IPv4 first; or why there are none.
    Resolved(Result<Vec<SocketAddr>, String>),
    /// The answer with its header, or why there is none.
    Fetched(Result<Bytes, String>),
}

/// What a disk can do to us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// No space is left.
    #[error("no space left on the disk that holds {0}")]
    Full(String),
    /// The file of a seeded torrent is missing or has another size.
    #[error("{0} is missing or has another size than the torrent says")]
    Missing(String),
    /// Anything else, in the operating system's words.
    #[error("{path}: {reason}")]
    Other {
        /// The file or folder.
        path: String,
        /// The operating system's words.
        reason: String,
    },
}
