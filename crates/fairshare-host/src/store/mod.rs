//! `ledger.sqlite`: chains, fork proofs and the journal of money, in one file so that a block and the account
//! entry that belongs to it are one transaction.
//!
//! Two connections: [`SqliteStore`] reads, on the node's own thread; [`StoreWriter`] owns the only thread that
//! writes. SQLite in WAL mode lets both work at once, and a reader sees a batch as soon as it is reported.

mod reader;
mod recent;
mod schema;
mod writer;

pub use reader::SqliteStore;
pub use writer::{Report, StoreWriter};

use fairshare_crypto::PublicKey;
use rusqlite::{Connection, ErrorCode, OptionalExtension};
use schema::{APPLICATION_ID, SCHEMA_VERSION};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Name of the file inside the data folder.
pub const LEDGER_FILE: &str = "ledger.sqlite";
/// Files up to this size are checked whole at open (under half a second); larger ones at their own chain only.
const WHOLE_CHECK_MAX: u64 = 64 << 20;

/// Why the ledger file cannot be used. Nothing in it was changed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenError {
    /// The file holds the chains of somebody else.
    #[error("it belongs to another identity ({owner})")]
    OtherOwner {
        /// Whose it is.
        owner: PublicKey,
    },
    /// Something that is no ledger of ours.
    #[error("it is no ledger of fairshare")]
    Foreign,
    /// A later version wrote it.
    #[error("a later version of fairshare wrote it (form {version}, this one reads up to {SCHEMA_VERSION})")]
    TooNew {
        /// Form of the file.
        version: i64,
    },
    /// What is in it contradicts itself.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// The disk is full.
    #[error("no space left on the disk that holds it")]
    Full,
    /// Anything else, in SQLite's words.
    #[error("{0}")]
    Sqlite(String),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Foreign,
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged(error.to_string()),
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sqlite(error.to_string()),
        }
    }
}

/// Where the ledger of a data folder lies.
pub fn ledger_path(dir: &Path) -> PathBuf {
    dir.join(LEDGER_FILE)
}

/// Opens the ledger of `owner`, makes it if there is none, and checks it. `report` hears what became of each batch,
/// in the order in which they were handed in.
///
/// # Errors
/// The file cannot be read or written, is damaged, or belongs to another identity.
pub fn open_store(
    path: &Path,
    owner: &PublicKey,
    report: impl FnMut(Report) + Send + 'static,
) -> Result<(SqliteStore, StoreWriter), OpenError> {
    let mut connection = Connection::open(path)?;
    refuse_foreign(&connection)?;
    schema::configure(&connection)?;
    prepare(&mut connection, owner)?;
    check(&connection, path)?;
    let reader = Connection::open(path)?;
    schema::configure(&reader)?;
    reader.pragma_update(None, "query_only", true)?;
    let store = SqliteStore::new(reader);
    store.check_chain(owner)?;
    let writer =
        StoreWriter::start(connection, path, report).map_err(|error| OpenError::Sqlite(error.to_string()))?;
    Ok((store, writer))
}

/// Looks before anything is changed, settings included.
fn refuse_foreign(connection: &Connection) -> Result<(), OpenError> {
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    let fresh = application == 0 && version == 0 && tables == 0;
    if !fresh && application != APPLICATION_ID {
        return Err(OpenError::Foreign);
    }
    if version > SCHEMA_VERSION {
        return Err(OpenError::TooNew { version });
    }
    Ok(())
}

fn prepare(connection: &mut Connection, owner: &PublicKey) -> Result<(), OpenError> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < SCHEMA_VERSION {
        schema::migrate(connection, version)?;
    }
    let stored: Option<Vec<u8>> =
        connection.query_row("SELECT pk FROM owner", [], |row| row.get(0)).optional()?;
    match stored {
        None => {
            connection.execute("INSERT INTO owner (pk) VALUES (?1)", [owner.as_bytes().as_slice()])?;
            Ok(())
        }
        Some(key) if key == owner.as_bytes() => Ok(()),
        Some(key) => match PublicKey::try_from(key.as_slice()) {
            Ok(owner) => Err(OpenError::OtherOwner { owner }),
            Err(_) => Err(OpenError::Damaged("the owner's key is not readable".to_owned())),
        },
    }
}

/// SQLite's own check of pages and indices, if the file is small enough to read it whole.
fn check(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > WHOLE_CHECK_MAX) {
        return Ok(());
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(OpenError::Damaged(verdict)) }
}

/// The first 8 bytes of a hash as SQLite's signed integer.
fn h8(hash: &fairshare_ledger::BlockHash) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.0[..8]);
    i64::from_be_bytes(first)
}
