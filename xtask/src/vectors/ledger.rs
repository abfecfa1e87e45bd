//! The vectors of transactions and of TrustChain: transaction_*.json and trustchain_*.json.

use super::{Cases, bytes_of, each_case, expect_bytes};
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_ledger::transaction::{self, Float, Integer, Value as Typed};
use fairshare_ledger::{
    Batch, ChainStore, CrawlLimits, Draft, ForkKind, ForkProof, HalfBlock, MemoryStore, Rules, crawl,
    effective_range, validate,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// The signature of a block that nobody signed.
const NO_SIGNATURE: [u8; 64] = [b'0'; 64];
/// Orders in which a long chain is fed.
const ORDERS: u64 = 20;

/// Checks a file of this part.
pub(super) fn check(name: &str, file: &Value, folder: &Path) -> Option<Cases> {
    match name {
        "transaction_encode.json" => Some(each_case(file, encode)),
        "transaction_decode.json" => Some(each_case(file, decode)),
        "trustchain_blocks.json" => Some(each_case(file, |case| block(file, case))),
        "trustchain_validation.json" => Some(each_case(file, |case| validation(file, case))),
        "trustchain_long_chain.json" => Some(long_chain(file)),
        "trustchain_crawl.json" => Some(crawls(file, folder)),
        _ => None,
    }
}

//= spec/trustchain.md#3-transaction-encoding
fn encode(case: &Value) -> Result<(), String> {
    let value = typed(field(case, "value")?)?;
    let encoded = bytes_of(case, "encoded")?;
    // Sets may stand in any order: their bytes are compared through what they mean.
    if !has_large_set(&value) {
        expect_bytes("encoded", &encoded, &transaction::encode(&value))?;
    }
    let (decoded, consumed) = transaction::decode(&encoded).map_err(|error| error.to_string())?;
    if consumed != encoded.len() {
        return Err(format!("read {consumed} of {} bytes", encoded.len()));
    }
    expect_value(&value, &decoded)
}

//= spec/trustchain.md#3-transaction-encoding
fn decode(case: &Value) -> Result<(), String> {
    let expected = field(case, "expected")?;
    let decoded = transaction::decode(&bytes_of(case, "input")?);
    match (text_of(expected, "result")?, decoded) {
        ("error", Err(_)) => Ok(()),
        ("error", Ok((value, _))) => Err(format!("must be refused, came {value:?}")),
        ("ok", Err(error)) => Err(format!("must be read, came: {error}")),
        ("ok", Ok((value, consumed))) => {
            expect_value(&typed(field(expected, "value")?)?, &value)?;
            expect_number("consumed", number_of(expected, "consumed")?, consumed as u64)
        }
        (other, _) => Err(format!("unknown result {other}")),
    }
}

//= spec/trustchain.md#2-half-block-layout
fn block(file: &Value, case: &Value) -> Result<(), String> {
    let fields = field(case, "block")?;
    let block = parse(&bytes_of(fields, "wire")?)?;
    expect_bytes("wire", &bytes_of(fields, "wire")?, &block.to_bytes())?;
    expect_bytes("signed bytes", &bytes_of(fields, "signed_bytes")?, &block.signed_bytes())?;
    expect_bytes("hash", &bytes_of(fields, "hash")?, &block.hash().0)?;
    expect_bytes("type", &bytes_of(fields, "type")?, block.kind.as_bytes())?;
    expect_bytes("transaction", &bytes_of(fields, "transaction")?, &block.transaction)?;
    expect_bytes("public key", &bytes_of(fields, "public_key")?, block.owner.as_bytes())?;
    expect_bytes("link key", &bytes_of(fields, "link_public_key")?, block.link_owner.as_bytes())?;
    expect_bytes("previous hash", &bytes_of(fields, "previous_hash")?, &block.previous_hash.0)?;
    expect_bytes("signature", &bytes_of(fields, "signature")?, &block.signature.0)?;
    expect_number("number", number_of(fields, "sequence_number")?, block.sequence.into())?;
    expect_number("link number", number_of(fields, "link_sequence_number")?, block.link_sequence.into())?;
    expect_number("timestamp", number_of(fields, "timestamp")?, block.timestamp_ms)?;
    expect_number("crawl id", number_of(fields, "crawl_id_number")?, block.crawl_number().into())?;
    expect_text("block id", text_of(fields, "block_id")?, &block.id())?;
    expect_text("linked block id", text_of(fields, "linked_block_id")?, &block.link().to_string())?;
    expect_bool("is_genesis", field(fields, "is_genesis")?, block.is_genesis())?;
    let (value, _) = transaction::decode(&block.transaction).map_err(|error| error.to_string())?;
    expect_value(&typed(field(fields, "transaction_value")?)?, &value)?;
    sign_again(file, text_of(fields, "owner")?, &block)
}

/// The same content signed with the owner's key gives the same bytes.
fn sign_again(file: &Value, owner: &str, block: &HalfBlock) -> Result<(), String> {
    if block.signature.0 == NO_SIGNATURE {
        return Ok(());
    }
    let key = bytes_of(field(field(file, "keys")?, owner)?, "private_key")?;
    let key = SecretKey::try_from(key.as_slice()).map_err(|error| error.to_string())?;
    let draft = Draft {
        sequence: block.sequence,
        link_owner: block.link_owner,
        link_sequence: block.link_sequence,
        previous_hash: block.previous_hash,
        kind: block.kind.clone(),
        transaction: block.transaction.clone(),
        timestamp_ms: block.timestamp_ms,
    };
    expect_bytes("signed again", block.packed(), HalfBlock::sign(&key, draft).packed())
}

//= spec/trustchain.md#6-validation
fn validation(file: &Value, case: &Value) -> Result<(), String> {
    let mut store = MemoryStore::new();
    for known in list_of(case, "known")? {
        store.apply(&Batch { blocks: vec![wire(known)?], ..Batch::default() });
    }
    let rules = match case.get("validator").and_then(Value::as_str) {
        None => Rules::Base,
        Some("tribler_bandwidth") => Rules::Typed,
        Some(other) => return Err(format!("unknown validator {other}")),
    };
    let block = wire(field(case, "block")?)?;
    expect_bytes("hash", &bytes_of(field(case, "block")?, "hash")?, &block.hash().0)?;
    let found = validate(&store, &block, rules).map_err(|error| error.to_string())?;
    let is_known = store.get(&block.owner, block.sequence).map_err(|error| error.to_string())?.is_some();

    let expected = Expected::of(case)?;
    expect_text("result", &expected.result, found.level.name())?;
    let errors: Vec<&str> = found.errors.iter().map(|error| error.text()).collect();
    expect_text("errors", &expected.errors.join("; "), &errors.join("; "))?;
    if expected.persist != (!found.is_invalid() && !is_known) {
        return Err(format!("wanted persist = {}", expected.persist));
    }
    let accused = found.double_sign.as_ref().map(|known| key_name(file, &known.owner)).into_iter();
    expect_text(
        "double spenders",
        &expected.double_spenders.join(" "),
        &accused.collect::<Vec<_>>().join(" "),
    )?;
    match found.double_sign {
        Some(known) => match ForkProof::new(ForkKind::DoubleSign, known, block) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("a double sign makes no proof: {error}")),
        },
        None => Ok(()),
    }
}

/// What a validation case demands, our intended difference applied.
struct Expected {
    result: String,
    errors: Vec<String>,
    double_spenders: Vec<String>,
    persist: bool,
}

impl Expected {
    fn of(case: &Value) -> Result<Self, String> {
        let expected = field(case, "expected")?;
        let texts = |name| -> Result<Vec<String>, String> {
            let texts = list_of(expected, name)?.iter();
            texts
                .map(|text| {
                    text.as_str().map(str::to_owned).ok_or_else(|| format!("{name} is no list of texts"))
                })
                .collect()
        };
        let mut out = Self {
            result: text_of(expected, "result")?.to_owned(),
            errors: texts("errors")?,
            double_spenders: texts("double_spenders")?,
            persist: field(expected, "persist")?.as_bool().ok_or("persist is no bool")?,
        };
        if case.get("note").and_then(Value::as_str) == Some("reference defect") {
            out.skip_rule_13(case)?;
        }
        Ok(out)
    }

    /// Rule 13 does not apply to source blocks: the result comes from the other rules.
    fn skip_rule_13(&mut self, case: &Value) -> Result<(), String> {
        self.errors.retain(|error| error != "Known link public key does not match this block");
        if self.errors.is_empty() {
            // Level and storing as for the same block without the agreements to it.
            let block = wire(field(case, "block")?)?;
            let mut store = MemoryStore::new();
            for known in list_of(case, "known")? {
                let known = wire(known)?;
                if known.owner == block.owner {
                    store.apply(&Batch { blocks: vec![known], ..Batch::default() });
                }
            }
            let found = validate(&store, &block, Rules::Base).map_err(|error| error.to_string())?;
            self.result = found.level.name().to_owned();
            self.persist = store.block_count() == Ok(0) || store.by_hash(&block.hash()) == Ok(None);
        }
        Ok(())
    }
}

/// In order each block has its result; in any order the same set is stored.
fn long_chain(file: &Value) -> Cases {
    let mut store = MemoryStore::new();
    let mut blocks = Vec::new();
    let mut cases = each_case_mut(file, |case| {
        let block = wire(case)?;
        expect_bytes("hash", &bytes_of(case, "hash")?, &block.hash().0)?;
        let found = validate(&store, &block, Rules::Base).map_err(|error| error.to_string())?;
        expect_text("result", text_of(case, "expected_in_order")?, found.level.name())?;
        blocks.push(Arc::clone(&block));
        store.apply(&Batch { blocks: vec![block], ..Batch::default() });
        Ok(())
    });
    if let Some(last) = cases.last_mut()
        && let Err(error) = same_set_in_any_order(&blocks)
        && last.is_ok()
    {
        *last = Err(error);
    }
    cases
}

fn same_set_in_any_order(blocks: &[Arc<HalfBlock>]) -> Result<(), String> {
    let mut rng = Rng::from_seed([13; 32]);
    for order in 0..ORDERS {
        let mut shuffled = blocks.to_vec();
        rng.shuffle(&mut shuffled);
        let mut store = MemoryStore::new();
        for block in shuffled {
            let found = validate(&store, &block, Rules::Base).map_err(|error| error.to_string())?;
            if !found.is_invalid() {
                store.apply(&Batch { blocks: vec![block], ..Batch::default() });
            }
        }
        let stored = store.block_count().map_err(|error| error.to_string())?;
        let wanted: BTreeSet<_> = blocks.iter().map(|block| block.hash()).collect();
        expect_number(&format!("stored in order {order}"), wanted.len() as u64, stored)?;
    }
    Ok(())
}

//= spec/trustchain.md#5-1-receiving
fn crawls(file: &Value, folder: &Path) -> Cases {
    let chain = text_of(file, "chain_file").and_then(|name| read_chain(&folder.join(name)));
    let (chain, store) = match chain {
        Ok(chain) => chain,
        Err(error) => return vec![Err(format!("chain file: {error}"))],
    };
    each_case(file, |case| crawl_case(&chain, &store, case))
}

fn crawl_case(chain: &Value, store: &MemoryStore, case: &Value) -> Result<(), String> {
    let key = bytes_of(field(field(chain, "keys")?, text_of(case, "chain")?)?, "public_key")?;
    let owner = PublicKey::try_from(key.as_slice()).map_err(|error| error.to_string())?;
    let signed = |name| field(case, name)?.as_i64().ok_or_else(|| format!("{name} is no number"));
    let (start, end) = effective_range(store, &owner, signed("start")?, signed("end")?)
        .map_err(|error| error.to_string())?;
    // Ours clamps a start of 0 to 1: the same blocks.
    expect_number("effective start", number_of(case, "effective_start")?.max(1), start.into())?;
    expect_number("effective end", number_of(case, "effective_end")?, end.into())?;

    let batch = number_of(case, "max_batch")? as usize;
    let limits = CrawlLimits { blocks: batch, agreements: batch, proposals: false };
    let answer = crawl(store, &owner, start, end, limits).map_err(|error| error.to_string())?;
    expect_number("response count", number_of(case, "response_count")?, answer.len() as u64)?;
    let all = store.range(&owner, start, end, batch + 1).map_err(|error| error.to_string())?;
    if all.len() > batch {
        return Ok(());
    }
    let came: BTreeSet<String> =
        answer.iter().map(|block| format!("{} {}", key_name(chain, &block.owner), block.sequence)).collect();
    let mut wanted = BTreeSet::new();
    for place in list_of(case, "response_blocks")? {
        let owner = place.get(0).and_then(Value::as_str).ok_or("no owner of a block")?;
        let number = place.get(1).and_then(Value::as_u64).ok_or("no number of a block")?;
        wanted.insert(format!("{owner} {number}"));
    }
    expect_text("response blocks", &format!("{wanted:?}"), &format!("{came:?}"))
}

fn read_chain(path: &Path) -> Result<(Value, MemoryStore), String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let chain: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let mut store = MemoryStore::new();
    for case in list_of(&chain, "cases")? {
        store.apply(&Batch { blocks: vec![wire(case)?], ..Batch::default() });
    }
    Ok((chain, store))
}

/// A value in the notation of the vectors.
fn typed(value: &Value) -> Result<Typed, String> {
    let Some((tag, body)) = value.as_object().and_then(|object| object.iter().next()) else {
        return Err(format!("no typed value: {value}"));
    };
    let text = || body.as_str().ok_or_else(|| format!("{tag} without text"));
    let all = || -> Result<Vec<Typed>, String> {
        body.as_array().ok_or_else(|| format!("{tag} without members"))?.iter().map(typed).collect()
    };
    match tag.as_str() {
        "int" => Integer::parse(text()?.as_bytes()).map(Typed::Int).map_err(|error| error.to_string()),
        "float" => Float::parse(text()?.as_bytes()).map(Typed::Float).map_err(|error| error.to_string()),
        "str" => Ok(Typed::Text(text()?.to_owned())),
        "bytes" => hex::decode(text()?).map(Typed::Bytes).map_err(|error| error.to_string()),
        "list" => all().map(Typed::List),
        "tuple" => all().map(Typed::Tuple),
        "set" => all().map(Typed::Set),
        "bool" => body.as_bool().map(Typed::Bool).ok_or_else(|| "bool without a bool".to_owned()),
        "none" => Ok(Typed::None),
        "dict" => {
            let pairs = body.as_array().ok_or("dict without pairs")?.iter();
            let pair = |pair: &Value| match pair.as_array().map(Vec::as_slice) {
                Some([key, value]) => Ok((typed(key)?, typed(value)?)),
                _ => Err("dict with something that is no pair".to_owned()),
            };
            pairs.map(pair).collect::<Result<_, _>>().map(Typed::Dict)
        }
        other => Err(format!("unknown kind of value {other}")),
    }
}

fn has_large_set(value: &Typed) -> bool {
    match value {
        Typed::Set(members) => members.len() > 1,
        Typed::List(values) | Typed::Tuple(values) => values.iter().any(has_large_set),
        Typed::Dict(pairs) => pairs.iter().any(|(key, value)| has_large_set(key) || has_large_set(value)),
        _ => false,
    }
}

/// The value with the members of every set in one order.
fn sorted(value: &Typed) -> Typed {
    let all = |values: &[Typed]| values.iter().map(sorted).collect::<Vec<_>>();
    match value {
        Typed::Set(members) => {
            let mut members = all(members);
            members.sort_by_key(transaction::encode);
            Typed::Set(members)
        }
        Typed::List(values) => Typed::List(all(values)),
        Typed::Tuple(values) => Typed::Tuple(all(values)),
        Typed::Dict(pairs) => {
            Typed::Dict(pairs.iter().map(|(key, value)| (sorted(key), sorted(value))).collect())
        }
        other => other.clone(),
    }
}

fn expect_value(wanted: &Typed, came: &Typed) -> Result<(), String> {
    if sorted(wanted) == sorted(came) { Ok(()) } else { Err(format!("wanted {wanted:?}, came {came:?}")) }
}

fn expect_number(what: &str, wanted: u64, came: u64) -> Result<(), String> {
    if wanted == came { Ok(()) } else { Err(format!("{what}: wanted {wanted}, came {came}")) }
}

fn expect_text(what: &str, wanted: &str, came: &str) -> Result<(), String> {
    if wanted == came { Ok(()) } else { Err(format!("{what}: wanted {wanted:?}, came {came:?}")) }
}

fn expect_bool(what: &str, wanted: &Value, came: bool) -> Result<(), String> {
    if wanted.as_bool() == Some(came) { Ok(()) } else { Err(format!("{what}: wanted {wanted}, came {came}")) }
}

fn each_case_mut(file: &Value, mut judge: impl FnMut(&Value) -> Result<(), String>) -> Cases {
    let judge = std::cell::RefCell::new(&mut judge);
    each_case(file, |case| (judge.borrow_mut())(case))
}

fn wire(case: &Value) -> Result<Arc<HalfBlock>, String> {
    parse(&bytes_of(case, "wire")?).map(Arc::new)
}

fn parse(bytes: &[u8]) -> Result<HalfBlock, String> {
    HalfBlock::parse(bytes).map_err(|error| error.to_string())
}

fn field<'a>(value: &'a Value, name: &str) -> Result<&'a Value, String> {
    value.get(name).ok_or_else(|| format!("no field {name}"))
}

fn text_of<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    field(value, name)?.as_str().ok_or_else(|| format!("{name} is no text"))
}

fn number_of(value: &Value, name: &str) -> Result<u64, String> {
    field(value, name)?.as_u64().ok_or_else(|| format!("{name} is no number"))
}

fn list_of<'a>(value: &'a Value, name: &str) -> Result<&'a [Value], String> {
    let list = field(value, name)?.as_array().ok_or_else(|| format!("{name} is no list"))?;
    Ok(list)
}

/// The name of a key in the file's table, or the key itself.
fn key_name(file: &Value, key: &PublicKey) -> String {
    let text = key.to_string();
    let keys = file.get("keys").and_then(Value::as_object).into_iter().flatten();
    let mut named =
        keys.filter(|(_, entry)| entry.get("public_key").and_then(Value::as_str) == Some(text.as_str()));
    named.next().map_or_else(|| text.clone(), |(name, _)| name.clone())
}
