//! The reading side: [`ChainStore`] over one connection, with prepared statements and a cache of recent blocks.

use super::recent::RecentBlocks;
use super::{OpenError, h8};
use fairshare_crypto::PublicKey;
use fairshare_ledger::{
    BlockHash, BlockType, ChainStore, ForkProof, GENESIS_HASH, HalfBlock, RecordKind, StoreError,
};
use rusqlite::{Connection, OptionalExtension, Params, Row};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// Interned keys that are remembered: about 100 bytes each.
const CHAIN_IDS_MAX: usize = 50_000;
/// Own blocks that are checked for their links at open: more than one session writes.
const CHECKED_AT_OPEN: usize = 1_000;

const CHAIN_BY_KEY: &str = "SELECT id FROM chain WHERE pk = ?1";
const KIND_BY_NAME: &str = "SELECT id FROM kind WHERE name = ?1";
const AT: &str = "SELECT h8, data FROM block WHERE chain = ?1 AND seq = ?2";
const NEWEST: &str = "SELECT h8, data FROM block WHERE chain = ?1 ORDER BY seq DESC LIMIT 1";
const BEFORE: &str = "SELECT h8, data FROM block WHERE chain = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT 1";
const AFTER: &str = "SELECT h8, data FROM block WHERE chain = ?1 AND seq > ?2 ORDER BY seq LIMIT 1";
const LINKS: &str = "SELECT h8, data FROM block WHERE link_chain = ?1 AND link_seq = ?2 ORDER BY id";
const RANGE: &str =
    "SELECT h8, data FROM block WHERE chain = ?1 AND seq BETWEEN ?2 AND ?3 ORDER BY seq LIMIT ?4";
const BY_HASH: &str = "SELECT h8, data FROM block WHERE h8 = ?1";
const KIND_BELOW: &str =
    "SELECT h8, data FROM block WHERE chain = ?1 AND kind = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT 1";
const KIND_ABOVE: &str =
    "SELECT h8, data FROM block WHERE chain = ?1 AND kind = ?2 AND seq > ?3 ORDER BY seq LIMIT 1";
const STORED_AFTER: &str = "SELECT id, h8, data FROM block WHERE id > ?1 ORDER BY id LIMIT ?2";
const PREFIX: &str = "SELECT prefix FROM chain WHERE id = ?1";
const RECORDS: &str = "SELECT key, value FROM record WHERE kind = ?1 ORDER BY key";

/// The ledger of one identity, for reading. Stays on the thread of its node.
pub struct SqliteStore {
    connection: Connection,
    /// Rows of `chain` never change their number. Never iterated.
    chains: RefCell<HashMap<PublicKey, i64>>,
    recent: RefCell<RecentBlocks>,
}

impl SqliteStore {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, chains: RefCell::default(), recent: RefCell::default() }
    }

    /// Whether the newest own blocks hang together: a store that lost some of them must not be signed on. Behind the
    /// part without a gap there may be own blocks that peers brought back after a loss; the ledger then signs nothing
    /// until the rest is here too.
    pub(super) fn check_chain(&self, owner: &PublicKey) -> Result<(), OpenError> {
        let damaged = |error: StoreError| OpenError::Damaged(error.to_string());
        let whole = self.lowest_unknown(owner).map_err(damaged)?.saturating_sub(1);
        let newest = self.newest(owner).map_err(damaged)?.map_or(0, |block| block.sequence);
        let first = newest.max(whole).saturating_sub(CHECKED_AT_OPEN as u32 - 1).max(1);
        let blocks = self.range(owner, first, newest, CHECKED_AT_OPEN).map_err(damaged)?;
        let mut expected = first;
        // What comes before the checked part is not known here.
        let mut previous = (first == 1).then_some(GENESIS_HASH);
        for block in &blocks {
            if block.sequence != expected {
                if expected <= whole {
                    break;
                }
                previous = None;
            }
            if previous.is_some_and(|hash| block.previous_hash != hash) || !block.verify() {
                return Err(wrong(block.sequence));
            }
            previous = Some(block.hash());
            expected = block.sequence.saturating_add(1);
        }
        if expected <= whole { Err(wrong(expected)) } else { Ok(()) }
    }

    /// The number of a chain; `None` if nothing is stored about this key.
    fn chain(&self, owner: &PublicKey) -> Result<Option<i64>, StoreError> {
        if let Some(id) = self.chains.borrow().get(owner) {
            return Ok(Some(*id));
        }
        let id: Option<i64> = self.row(CHAIN_BY_KEY, [owner.as_bytes().as_slice()], |row| row.get(0))?;
        if let Some(id) = id {
            let mut chains = self.chains.borrow_mut();
            if chains.len() >= CHAIN_IDS_MAX {
                chains.clear();
            }
            chains.insert(*owner, id);
        }
        Ok(id)
    }

    fn kind(&self, kind: &BlockType) -> Result<Option<i64>, StoreError> {
        self.row(KIND_BY_NAME, [kind.as_bytes()], |row| row.get(0))
    }

    fn row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(unreadable)?;
        statement.query_row(params, read).optional().map_err(unreadable)
    }

    fn rows<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(unreadable)?;
        let rows = statement.query_map(params, read).map_err(unreadable)?;
        rows.collect::<rusqlite::Result<Vec<T>>>().map_err(unreadable)
    }

    /// At most one block; `sql` selects `h8, data`.
    fn block(&self, sql: &str, params: impl Params) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        self.row(sql, params, raw_block)?.map(parse_block).transpose()
    }

    /// Any number of blocks; `sql` selects `h8, data`.
    fn blocks(&self, sql: &str, params: impl Params) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        self.rows(sql, params, raw_block)?.into_iter().map(parse_block).collect()
    }
}

impl ChainStore for SqliteStore {
    fn get(&self, owner: &PublicKey, sequence: u32) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        if let Some(block) = self.recent.borrow_mut().get(owner, sequence) {
            return Ok(Some(block));
        }
        let Some(chain) = self.chain(owner)? else { return Ok(None) };
        let found = self.block(AT, (chain, sequence))?;
        if let Some(block) = &found {
            self.recent.borrow_mut().put(block.clone());
        }
        Ok(found)
    }

    fn newest(&self, owner: &PublicKey) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        let Some(chain) = self.chain(owner)? else { return Ok(None) };
        self.block(NEWEST, [chain])
    }

    fn before(&self, owner: &PublicKey, sequence: u32) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        let Some(chain) = self.chain(owner)? else { return Ok(None) };
        self.block(BEFORE, (chain, sequence))
    }

    fn after(&self, owner: &PublicKey, sequence: u32) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        let Some(chain) = self.chain(owner)? else { return Ok(None) };
        self.block(AFTER, (chain, sequence))
    }

    fn links_to(&self, owner: &PublicKey, sequence: u32) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        let Some(chain) = self.chain(owner)? else { return Ok(Vec::new()) };
        self.blocks(LINKS, (chain, sequence))
    }

    fn range(
        &self,
        owner: &PublicKey,
        from: u32,
        to: u32,
        limit: usize,
    ) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        let Some(chain) = self.chain(owner)? else { return Ok(Vec::new()) };
        self.blocks(RANGE, (chain, from, to, sql_limit(limit)))
    }

    fn by_hash(&self, hash: &BlockHash) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        let candidates = self.blocks(BY_HASH, [h8(hash)])?;
        Ok(candidates.into_iter().find(|block| block.hash() == *hash))
    }

    fn newest_of_kind(
        &self,
        owner: &PublicKey,
        kind: &BlockType,
        below: Option<u32>,
    ) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        let (Some(chain), Some(kind)) = (self.chain(owner)?, self.kind(kind)?) else { return Ok(None) };
        let below = below.map_or(i64::MAX, i64::from);
        self.block(KIND_BELOW, (chain, kind, below))
    }

    fn next_of_kind(
        &self,
        owner: &PublicKey,
        kind: &BlockType,
        above: u32,
    ) -> Result<Option<Arc<HalfBlock>>, StoreError> {
        let (Some(chain), Some(kind)) = (self.chain(owner)?, self.kind(kind)?) else { return Ok(None) };
        self.block(KIND_ABOVE, (chain, kind, above))
    }

    fn proofs(&self) -> Result<Vec<ForkProof>, StoreError> {
        let stored: Vec<Vec<u8>> = self.rows("SELECT data FROM proof ORDER BY id", [], |row| row.get(0))?;
        let parse = |data: &Vec<u8>| {
            ForkProof::parse(data)
                .map_err(|error| StoreError::Damaged { what: format!("a fork proof: {error}") })
        };
        stored.iter().map(parse).collect()
    }

    fn recent(&self, limit: usize) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        self.blocks("SELECT h8, data FROM block ORDER BY id DESC LIMIT ?1", [sql_limit(limit)])
    }

    fn stored_after(&self, after: u64, limit: usize) -> Result<Vec<(u64, Arc<HalfBlock>)>, StoreError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let found = self.rows(STORED_AFTER, (after, sql_limit(limit)), |row| {
            Ok((row.get::<_, u64>(0)?, (row.get(1)?, row.get(2)?)))
        })?;
        found.into_iter().map(|(number, raw)| Ok((number, parse_block(raw)?))).collect()
    }

    fn block_count(&self) -> Result<u64, StoreError> {
        // Blocks are never deleted, so their numbers have no gaps.
        let newest: Option<i64> =
            self.row("SELECT max(id) FROM block", [], |row| row.get::<_, Option<i64>>(0))?.flatten();
        Ok(u64::try_from(newest.unwrap_or(0)).unwrap_or(0))
    }

    fn lowest_unknown(&self, owner: &PublicKey) -> Result<u32, StoreError> {
        let Some(chain) = self.chain(owner)? else { return Ok(1) };
        let prefix: u32 = self.row(PREFIX, [chain], |row| row.get(0))?.unwrap_or(0);
        Ok(prefix.saturating_add(1))
    }

    fn records(&self, kind: RecordKind) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        self.rows(RECORDS, [kind.0], |row| Ok((row.get(0)?, row.get(1)?)))
    }
}

fn wrong(sequence: u32) -> OpenError {
    OpenError::Damaged(format!("block {sequence} of the own chain is missing or wrong"))
}

fn raw_block(row: &Row<'_>) -> rusqlite::Result<(i64, Vec<u8>)> {
    Ok((row.get(0)?, row.get(1)?))
}

/// The block in a row. The start of its hash lies beside it, so that changed bytes are seen.
fn parse_block((stored, data): (i64, Vec<u8>)) -> Result<Arc<HalfBlock>, StoreError> {
    let block = HalfBlock::parse(&data)
        .map_err(|error| StoreError::Damaged { what: format!("a stored block: {error}") })?;
    if h8(&block.hash()) != stored {
        return Err(StoreError::Damaged { what: format!("block {} has changed", block.id()) });
    }
    Ok(Arc::new(block))
}

fn unreadable(error: rusqlite::Error) -> StoreError {
    StoreError::Read { reason: error.to_string() }
}

fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/trustchain.md#12-where-we-must-be-better-than-the-reference-each-seen-in-code-or-reproduced
    #[test]
    fn every_question_is_answered_by_an_index_over_all_its_terms() {
        let mut connection = Connection::open_in_memory().expect("memory");
        super::super::schema::migrate(&mut connection, 0).expect("an empty database");
        let expected = [
            (CHAIN_BY_KEY, "(pk=?)"),
            (KIND_BY_NAME, "(name=?)"),
            (AT, "block_place (chain=? AND seq=?)"),
            (NEWEST, "block_place (chain=?)"),
            (BEFORE, "block_place (chain=? AND seq<?)"),
            (AFTER, "block_place (chain=? AND seq>?)"),
            (LINKS, "block_link (link_chain=? AND link_seq=?)"),
            (RANGE, "block_place (chain=? AND seq>? AND seq<?)"),
            (BY_HASH, "block_hash (h8=?)"),
            (KIND_BELOW, "block_kind (chain=? AND kind=? AND seq<?)"),
            (KIND_ABOVE, "block_kind (chain=? AND kind=? AND seq>?)"),
            (STORED_AFTER, "PRIMARY KEY (rowid>?)"),
            (PREFIX, "PRIMARY KEY (rowid=?)"),
            (RECORDS, "PRIMARY KEY (kind=?)"),
        ];
        for (sql, index) in expected {
            let mut statement =
                connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("well formed");
            let terms = vec![1; statement.parameter_count()];
            let plan: Vec<String> = statement
                .query_map(rusqlite::params_from_iter(terms), |row| row.get(3))
                .and_then(Iterator::collect)
                .expect("a plan");
            assert!(plan.len() == 1 && plan[0].ends_with(index), "{sql}: {plan:?}");
        }
    }
}
