//! `tribler_bandwidth`: the block type that settles bytes, with our optional keys.

mod rules;

pub(crate) use rules::check;

use crate::block::HalfBlock;
use crate::transaction::{self, TransactionError, Value};
use bytes::Bytes;
use fairshare_crypto::{KEY_LEN, PublicKey};
use thiserror::Error;

/// The largest amount of one field: what living peers can store.
pub const AMOUNT_MAX: u64 = i64::MAX as u64;
/// The most entries of `via` that are read.
pub const VIA_MAX: usize = 16;
/// The longest transaction of a block of ours, in bytes.
//= spec/blocks.md#1-common-rules
pub const TRANSACTION_LEN_MAX: usize = 4096;

/// The transaction of a bandwidth block.
//= spec/blocks.md#2-types
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes the owner gave to the counterparty.
    pub up: u64,
    /// Bytes the owner took from the counterparty.
    pub down: u64,
    /// Sum of `up` over the owner's whole chain, this block included.
    pub total_up: u64,
    /// Sum of `down` over the owner's whole chain, this block included.
    pub total_down: u64,
    /// The keys of the direct account; `None` in blocks of old peers and of the tunnel account.
    pub settlement: Option<Settlement>,
    /// Why the optional keys, although there are some, make no settlement. Such a block is valid for the chain and
    /// never countersigned; if both halves exist all the same, it counts as `charge` = `down` without `via`.
    pub fault: Option<SettlementFault>,
}

/// The keys of the direct account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settlement {
    /// All that this payer ever paid to this counterparty by blocks with this key, this one included.
    pub cum: u64,
    /// Names the pair session.
    pub ctx: [u8; 8],
    /// What the bytes cost at the granted prices; `None` = as many as bytes.
    pub charge: Option<u64>,
    /// Receipts of the payer on others that pay part of the charge, ascending by key.
    pub via: Vec<(PublicKey, u64)>,
}

/// What is wrong with the optional keys.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettlementFault {
    /// One of `cum` and `ctx` without the other, or `charge` or `via` without them.
    #[error("cum, ctx, charge and via do not stand together as they must")]
    Missing,
    /// A value of the wrong type, length or range.
    #[error("{0} has a wrong form")]
    Form(&'static str),
    /// The whole transaction is longer than our blocks may be.
    #[error("transaction is longer than 4096 bytes")]
    TooLong,
}

/// Why a transaction is no bandwidth transaction.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BandwidthError {
    /// It cannot be decoded.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A field is missing, no number, or out of range.
    #[error("{0} is missing or no amount of bytes")]
    Field(&'static str),
}

impl Bandwidth {
    /// Reads a transaction. Keys are taken as bytes or as text, others are ignored.
    pub fn decode(transaction: &[u8]) -> Result<Self, BandwidthError> {
        let (value, _) = transaction::decode(transaction)?;
        let amount = |name: &'static str| {
            let number = value.field(name).and_then(Value::as_u64).filter(|number| *number <= AMOUNT_MAX);
            number.ok_or(BandwidthError::Field(name))
        };
        let mut bandwidth = Self {
            up: amount("up")?,
            down: amount("down")?,
            total_up: amount("total_up")?,
            total_down: amount("total_down")?,
            ..Self::default()
        };
        match Settlement::of(&value, bandwidth.up.max(bandwidth.down)) {
            _ if transaction.len() > TRANSACTION_LEN_MAX => bandwidth.fault = Some(SettlementFault::TooLong),
            Ok(settlement) => bandwidth.settlement = settlement,
            Err(fault) => bandwidth.fault = Some(fault),
        }
        Ok(bandwidth)
    }

    /// Reads the transaction of a block; `via` may name neither of its two parties.
    pub fn of(block: &HalfBlock) -> Result<Self, BandwidthError> {
        let mut bandwidth = Self::decode(&block.transaction)?;
        let party = |key: &PublicKey| *key == block.owner || *key == block.link_owner;
        let names_party = |settlement: &Settlement| settlement.via.iter().any(|(key, _)| party(key));
        if bandwidth.settlement.as_ref().is_some_and(names_party) {
            bandwidth.settlement = None;
            bandwidth.fault = Some(SettlementFault::Form("via"));
        }
        Ok(bandwidth)
    }

    /// Writes the transaction: bytes keys, in the order of the table of block types.
    pub fn encode(&self) -> Bytes {
        let mut pairs = vec![
            pair("up", self.up.into()),
            pair("down", self.down.into()),
            pair("total_up", self.total_up.into()),
            pair("total_down", self.total_down.into()),
        ];
        if let Some(settlement) = &self.settlement {
            settlement.write(&mut pairs);
        }
        transaction::encode(&Value::Dict(pairs)).into()
    }
}

impl Settlement {
    /// The settlement in a transaction that moves `amount` bytes; `Ok(None)` if there is no trace of one.
    //= spec/blocks.md#3-rules-per-type
    fn of(transaction: &Value, amount: u64) -> Result<Option<Self>, SettlementFault> {
        let [cum, ctx, charge, via] = ["cum", "ctx", "charge", "via"].map(|name| transaction.field(name));
        let (cum, ctx) = match (cum, ctx) {
            (None, None) if charge.is_none() && via.is_none() => return Ok(None),
            (Some(cum), Some(ctx)) => (cum, ctx),
            _ => return Err(SettlementFault::Missing),
        };
        let cum = cum.as_u64().filter(|cum| *cum <= AMOUNT_MAX).ok_or(SettlementFault::Form("cum"))?;
        let ctx = ctx.as_bytes().and_then(|ctx| ctx.try_into().ok()).ok_or(SettlementFault::Form("ctx"))?;
        let in_range = |charge: &Value| charge.as_u64().filter(|charge| *charge <= amount);
        let charge =
            charge.map(|charge| in_range(charge).ok_or(SettlementFault::Form("charge"))).transpose()?;
        let via = match (charge, via) {
            (_, None) => Vec::new(),
            (None, Some(_)) => return Err(SettlementFault::Missing),
            (Some(charge), Some(via)) => read_via(via, charge).ok_or(SettlementFault::Form("via"))?,
        };
        Ok(Some(Self { cum, ctx, charge, via }))
    }

    fn write(&self, pairs: &mut Vec<(Value, Value)>) {
        pairs.push(pair("cum", self.cum.into()));
        pairs.push(pair("ctx", Value::Bytes(self.ctx.to_vec())));
        if let Some(charge) = self.charge {
            pairs.push(pair("charge", charge.into()));
        }
        if !self.via.is_empty() {
            let entry = |(key, amount): &(PublicKey, u64)| {
                Value::List(vec![Value::Bytes(key.as_bytes().to_vec()), (*amount).into()])
            };
            pairs.push(pair("via", Value::List(self.via.iter().map(entry).collect())));
        }
    }
}

/// 1 to 16 entries, keys ascending, amounts of at least 1 that add up to at most `charge`.
fn read_via(via: &Value, charge: u64) -> Option<Vec<(PublicKey, u64)>> {
    let entries = via.as_list().filter(|entries| (1..=VIA_MAX).contains(&entries.len()))?;
    let mut out: Vec<(PublicKey, u64)> = Vec::with_capacity(entries.len());
    let mut sum = 0u64;
    for entry in entries {
        let [key, amount] = entry.as_list()? else { return None };
        let key: [u8; KEY_LEN] = key.as_bytes()?.try_into().ok()?;
        let key = PublicKey::from_bytes(key);
        let amount = amount.as_u64().filter(|amount| *amount > 0)?;
        sum = sum.checked_add(amount).filter(|sum| *sum <= charge)?;
        if !key.is_valid() || out.last().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        out.push((key, amount));
    }
    Some(out)
}

fn pair(name: &str, value: Value) -> (Value, Value) {
    (Value::Bytes(name.as_bytes().to_vec()), value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::{Rng, SecretKey};

    fn key(seed: u8) -> PublicKey {
        SecretKey::generate(&mut Rng::from_seed([seed; 32])).public()
    }

    fn settled(charge: Option<u64>, via: Vec<(PublicKey, u64)>) -> Bandwidth {
        let settlement = Some(Settlement { cum: 70, ctx: [5; 8], charge, via });
        Bandwidth { down: 50, total_up: 1, total_down: 50, settlement, ..Bandwidth::default() }
    }

    fn sorted(mut via: Vec<(PublicKey, u64)>) -> Vec<(PublicKey, u64)> {
        via.sort();
        via
    }

    //= spec/blocks.md#1-common-rules
    #[test]
    fn a_transaction_of_more_than_four_kilobytes_settles_nothing() {
        let plain = settled(None, Vec::new()).encode();
        let six_pairs = plain.strip_prefix(b"a6d").expect("six keys");
        let with_unknown_key = |len: usize| {
            let transaction = [format!("a7d1bx{len}b").as_bytes(), &vec![0; len], six_pairs].concat();
            (transaction.len(), Bandwidth::decode(&transaction).expect("valid for the chain").fault)
        };
        let overhead = with_unknown_key(1000).0 - 1000;
        let longest = TRANSACTION_LEN_MAX - overhead;
        assert_eq!(with_unknown_key(longest), (TRANSACTION_LEN_MAX, None));
        assert_eq!(with_unknown_key(longest + 1).1, Some(SettlementFault::TooLong));
    }

    //= spec/blocks.md#2-types
    //= spec/blocks.md#3-rules-per-type
    #[test]
    fn what_is_written_is_read_back() {
        let via = sorted((1..=8).map(|seed| (key(seed), u64::from(seed))).collect());
        for bandwidth in [
            Bandwidth { down: 1, total_down: 1, ..Bandwidth::default() },
            settled(None, Vec::new()),
            settled(Some(0), Vec::new()),
            settled(Some(36), via),
        ] {
            assert_eq!(Bandwidth::decode(&bandwidth.encode()), Ok(bandwidth));
        }
        let plain = Bandwidth { up: 2, down: 1, total_up: 3, total_down: 4, ..Bandwidth::default() };
        assert_eq!(&plain.encode()[..], b"a4d2bup1i24bdown1i18btotal_up1i310btotal_down1i4");
    }

    //= spec/blocks.md#3-rules-per-type
    #[test]
    fn a_settlement_of_a_wrong_form_is_a_fault_and_no_tunnel_account() {
        let via = |entries| settled(Some(20), entries);
        let unsorted: Vec<_> = sorted(vec![(key(1), 1), (key(2), 1)]).into_iter().rev().collect();
        let many = sorted((1..=17).map(|seed| (key(seed), 1)).collect());
        for bandwidth in [
            settled(Some(51), Vec::new()),
            settled(None, vec![(key(1), 1)]),
            via(vec![(key(1), 21)]),
            via(vec![(key(1), 0)]),
            via(vec![(key(1), 1), (key(1), 1)]),
            via(vec![(crate::ANY, 1)]),
            via(unsorted),
            via(many),
        ] {
            let read = Bandwidth::decode(&bandwidth.encode()).expect("valid for the chain");
            assert!(read.settlement.is_none() && read.fault.is_some(), "{bandwidth:?}");
        }
        let alone = b"a5d2bup1i04bdown1i18btotal_up1i010btotal_down1i13bcum1i1";
        assert_eq!(Bandwidth::decode(alone).map(|read| read.fault), Ok(Some(SettlementFault::Missing)));
    }

    #[test]
    fn text_keys_are_read_and_bytes_keys_win() {
        let text = b"a4d2sup1i24sdown1i18stotal_up1i310stotal_down1i4";
        let read = Bandwidth::decode(text).expect("readable");
        assert_eq!((read.up, read.down, read.total_up, read.total_down), (2, 1, 3, 4));
        let both = b"a5d2sup1i92bup1i24bdown1i18btotal_up1i310btotal_down1i4";
        assert_eq!(Bandwidth::decode(both).map(|read| read.up), Ok(2));
        assert_eq!(Bandwidth::decode(b"a1d2bup1i1"), Err(BandwidthError::Field("down")));
        let negative = b"a4d2bup2i-14bdown1i18btotal_up1i310btotal_down1i4";
        assert_eq!(Bandwidth::decode(negative), Err(BandwidthError::Field("up")));
    }
}
