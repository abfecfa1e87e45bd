//! Form of `ledger.sqlite`: settings of a connection, tables, and the way from older forms to this one.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

/// Marks the file as ours in its header ("fsLG").
pub(super) const APPLICATION_ID: i64 = 0x6673_4c47;
/// The form that this version writes. Older files are brought forward at open; newer ones are refused.
pub(super) const SCHEMA_VERSION: i64 = 1;

/// Statement `n` brings a file of version `n` to version `n + 1`. Never edited once released, only appended to.
const MIGRATIONS: [&str; SCHEMA_VERSION as usize] = [VERSION_1];

/// Keys and block types are interned: composite indices over small integers halve the CPU of appending.
/// `chain.prefix` counts the blocks 1, 2, 3 ... without a gap. `block` is append-only: nothing is ever changed or
/// deleted there, so `max(id)` is also the number of blocks. `block_kind` is there because the rules of bandwidth
/// blocks ask for the last one of its kind: without it, a chain full of other blocks makes each question a long walk.
/// `link_seq` is null in a proposal, which links to nothing: so the index of links holds agreements only.
//= spec/trustchain.md#12-where-we-must-be-better-than-the-reference-each-seen-in-code-or-reproduced
const VERSION_1: &str = "
CREATE TABLE owner (pk BLOB NOT NULL);
CREATE TABLE chain (id INTEGER PRIMARY KEY, pk BLOB NOT NULL UNIQUE, prefix INTEGER NOT NULL DEFAULT 0);
CREATE TABLE kind (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);
CREATE TABLE block (
    id INTEGER PRIMARY KEY,
    chain INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    link_chain INTEGER NOT NULL,
    link_seq INTEGER,
    kind INTEGER NOT NULL,
    h8 INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX block_place ON block (chain, seq);
CREATE INDEX block_link ON block (link_chain, link_seq) WHERE link_seq IS NOT NULL;
CREATE INDEX block_kind ON block (chain, kind, seq);
CREATE INDEX block_hash ON block (h8);
CREATE TABLE conflict (
    id INTEGER PRIMARY KEY,
    chain INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    h8 INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (chain, seq, h8)
);
CREATE TABLE proof (
    id INTEGER PRIMARY KEY,
    chain INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (chain, kind)
);
CREATE TABLE record (
    kind INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
";

/// Settings of every connection, reader or writer.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // Page size counts only before the file has its first page.
    connection.pragma_update(None, "page_size", 8192)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", 8000)?;
    connection.pragma_update(None, "foreign_keys", "off")?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    // The writer checkpoints when it ends in order; a node that is killed leaves the files as a crash would.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// Brings a file of version `from` to [`SCHEMA_VERSION`], in one transaction.
pub(super) fn migrate(connection: &mut Connection, from: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let done = usize::try_from(from).unwrap_or(MIGRATIONS.len());
    for step in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}
