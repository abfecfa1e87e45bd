//! Why a node did not start, and what the user can do about it.

use std::net::SocketAddr;
use std::path::PathBuf;
use thiserror::Error;

/// Why a node did not start. Nothing on disk was changed by the attempt, apart from an empty data folder.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another program uses the port.
    #[error("port {} of {} is in use", .address.port(), .address.ip())]
    PortInUse {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// The operating system's words.
        source: std::io::Error,
    },
    /// The data folder cannot be used.
    #[error("cannot use {}: {source}", .path.display())]
    DataDir {
        /// The folder, or the file in it.
        path: PathBuf,
        /// The operating system's words.
        source: std::io::Error,
    },
    /// The identity file holds no key.
    #[error("{} is no identity file: {reason}", .path.display())]
    WrongKeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The identity is under another passphrase.
    #[error("the passphrase does not open {}", .path.display())]
    WrongPassphrase {
        /// The identity file.
        path: PathBuf,
    },
    /// The identity is under a passphrase, and none was given.
    #[error("{} is under a passphrase and none was given", .path.display())]
    PassphraseMissing {
        /// The identity file.
        path: PathBuf,
    },
    /// Another process works with this data folder.
    #[error("{} is in use by another process{}", .path.display(), .pid.map_or_else(String::new, |pid| format!(" (number {pid})")))]
    Locked {
        /// The data folder.
        path: PathBuf,
        /// The process, if its number could be read.
        pid: Option<u32>,
    },
    /// The ledger cannot be used.
    #[error("cannot use {}: {reason}", .path.display())]
    Store {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is an identity that may have signed before, and no ledger.
    #[error("{} is missing, although this folder has an identity", .path.display())]
    LedgerMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes: {0}")]
    Entropy(String),
}

impl StartError {
    /// What to do about it, in one sentence for the user.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::PortInUse { .. } => "stop the other program, or choose another port with --listen IP:PORT",
            Self::Listen { .. } => "choose an address of this machine with --listen IP:PORT",
            Self::DataDir { .. } => {
                "check the path, its owner and the space left, or choose another with --data DIR"
            }
            Self::WrongKeyFile { .. } => {
                "put back the identity file from a backup; without it the tokens of this folder are out of reach"
            }
            Self::WrongPassphrase { .. } => {
                "give the passphrase this file was encrypted with; nothing was changed"
            }
            Self::PassphraseMissing { .. } => {
                "start it with fairshare run --passphrase-fd N, and let descriptor N give the passphrase"
            }
            Self::Locked { .. } => "stop the other process; two with one key would sign a fork",
            Self::Store { .. } => {
                "put back identity and ledger.sqlite from one backup, or start with an empty data folder"
            }
            Self::LedgerMissing { .. } => {
                "put it back from a backup; a key that signed before must not begin its chain anew"
            }
            Self::Thread(_) => "close other programs or raise the limit on threads",
            Self::Entropy(_) => "check that this system provides getrandom",
        }
    }
}
