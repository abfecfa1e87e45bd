//! What must survive a crash beside the chain: what was promised, what is held, and who is who.
//!
//! Payments are not among it. A payment is a block of the own chain; at start all of them are counted from there, so
//! that there is no instant at which a block and its account could differ.

use super::account::{Account, Payment};
use fairshare_crypto::{KEY_LEN, PublicKey};
use fairshare_ledger::{Record, RecordKind};
use fairshare_wire::{ReadError, Reader, Writer};

const RECORDS: RecordKind = RecordKind(11);
/// The kinds of records to be handed to [`super::Payouts::new`].
pub const PAYOUT_RECORD_KINDS: [RecordKind; 1] = [RECORDS];

const VERSION: u8 = 1;
const KEY_ACCOUNT: u8 = b'a';
const KEY_BINDING: u8 = b'b';
const KEY_UNBOUND: u8 = b'u';

/// Whose record a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKey {
    /// The account with a payment key.
    Account(PublicKey),
    /// The payment key of a tunnel key.
    Binding(PublicKey),
    /// The account with a tunnel key that has no payment key yet.
    Unbound(PublicKey),
}

impl RecordKey {
    pub(super) fn parse(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        let peer = PublicKey::from_bytes(<[u8; KEY_LEN]>::try_from(rest).ok()?);
        match *kind {
            KEY_ACCOUNT => Some(Self::Account(peer)),
            KEY_BINDING => Some(Self::Binding(peer)),
            KEY_UNBOUND => Some(Self::Unbound(peer)),
            _ => None,
        }
    }

    /// The record with this value; `None` deletes it.
    pub(super) fn record(&self, value: Option<Vec<u8>>) -> Record {
        let (kind, peer) = match self {
            Self::Account(peer) => (KEY_ACCOUNT, peer),
            Self::Binding(peer) => (KEY_BINDING, peer),
            Self::Unbound(peer) => (KEY_UNBOUND, peer),
        };
        let key = [&[kind], peer.as_bytes().as_slice()].concat();
        Record { kind: RECORDS, key, value }
    }
}

/// The part of an account that no block shows.
pub(super) fn encode_account(account: &Account) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(VERSION)
        .u64(account.cap)
        .u64(account.peak)
        .u64(account.told)
        .u64(account.claim)
        .u64(account.reported);
    let lists = [&account.extra[..], &account.iou, &account.held, &account.divided];
    for number in lists.into_iter().flatten() {
        out.u64(*number);
    }
    out.u32(account.since.map_or(u32::MAX, |since| since)).u32(account.active);
    out.u32(account.owing_since.map_or(u32::MAX, |since| since)).u8(account.short);
    let agreed = account.agreed.unwrap_or(Payment { epoch: u32::MAX, index: 0, k: 0 });
    out.u32(agreed.epoch).u8(agreed.index).u8(agreed.k);
    out.finish()
}

/// Takes up what was written.
pub(super) fn restore_account(account: &mut Account, bytes: &[u8]) -> Result<(), ReadError> {
    let mut input = Reader::new(bytes);
    if input.u8()? != VERSION {
        return Err(ReadError::Value("version"));
    }
    let mut read = Account {
        cap: input.u64()?,
        peak: input.u64()?,
        told: input.u64()?,
        claim: input.u64()?,
        reported: input.u64()?,
        ..account.clone()
    };
    let Account { extra, iou, held, divided, .. } = &mut read;
    for number in extra.iter_mut().chain(iou).chain(held).chain(divided) {
        *number = input.u64()?;
    }
    read.since = some(input.u32()?);
    read.active = input.u32()?;
    read.owing_since = some(input.u32()?);
    read.short = input.u8()?;
    let agreed = Payment { epoch: input.u32()?, index: input.u8()?, k: input.u8()? };
    read.agreed = (agreed.epoch != u32::MAX).then_some(agreed);
    input.end()?;
    *account = read;
    Ok(())
}

const fn some(epoch: u32) -> Option<u32> {
    if epoch == u32::MAX { None } else { Some(epoch) }
}

/// The payment key behind a tunnel key, and the epoch of its proof.
pub(super) fn encode_binding(peer: &PublicKey, epoch: u32) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(VERSION).bytes(peer.as_bytes()).u32(epoch);
    out.finish()
}

pub(super) fn decode_binding(bytes: &[u8]) -> Result<(PublicKey, u32), ReadError> {
    let mut input = Reader::new(bytes);
    if input.u8()? != VERSION {
        return Err(ReadError::Value("version"));
    }
    let binding = (PublicKey::from_bytes(input.array()?), input.u32()?);
    input.end()?;
    Ok(binding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_account_is_read_back_and_cut_ones_are_not(numbers: [u64; 16], small: [u32; 3], agreed: Option<(u32, u8, u8)>) {
            let [cap, told, claim, reported, a, b, c, d, e, f, g, h, i, j, k, l] = numbers;
            let account = Account {
                cap, told, claim, reported,
                peak: a ^ b,
                extra: [a, b, c], iou: [d, e, f, g], held: [h, i, j, k], divided: [l, 1, 2],
                since: Some(small[0] / 2), active: small[1], owing_since: None, short: 2,
                agreed: agreed.map(|(epoch, index, k)| Payment { epoch: epoch / 2, index, k }),
                ..Account::default()
            };
            let bytes = encode_account(&account);
            let mut read = Account::default();
            prop_assert_eq!(restore_account(&mut read, &bytes), Ok(()));
            prop_assert_eq!(format!("{read:?}"), format!("{account:?}"));
            for cut in 0..bytes.len() {
                prop_assert!(restore_account(&mut read, &bytes[..cut]).is_err());
            }
        }
    }

    #[test]
    fn keys_name_their_record() {
        let peer = PublicKey::from_bytes([3; KEY_LEN]);
        for key in [RecordKey::Account(peer), RecordKey::Binding(peer), RecordKey::Unbound(peer)] {
            assert_eq!(RecordKey::parse(&key.record(None).key), Some(key));
        }
        assert_eq!(RecordKey::parse(b"x"), None);
        assert_eq!(decode_binding(&encode_binding(&peer, 7)), Ok((peer, 7)));
        assert!(decode_binding(&[1; 3]).is_err());
    }
}
