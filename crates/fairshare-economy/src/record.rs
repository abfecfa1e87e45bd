//! The journal: what must survive a crash beside the chain, in versioned binary records. Everything that is a sum
//! over signed pairs is left out; it is folded from the own chain at start.

use crate::pool::{Drawn, Prefix};
use crate::schedule::{Entry, GRANTS_MAX, Grant, Schedule};
use crate::window::Losses;
use fairshare_crypto::{KEY_LEN, PublicKey};
use fairshare_ledger::{Record, RecordKind};
use fairshare_wire::{ReadError, Reader, Writer};
use std::collections::VecDeque;
use std::net::IpAddr;

/// The journal entries of the economy.
const RECORDS: RecordKind = RecordKind(10);
/// The kinds of records to be handed to [`crate::Economy::new`].
pub const RECORD_KINDS: [RecordKind; 1] = [RECORDS];

const VERSION: u8 = 1;
const KEY_METER: u8 = b'm';
const KEY_GIVEN: u8 = b'g';
const KEY_TAKEN: u8 = b't';

/// Whose record a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKey {
    /// Utilisation and buckets.
    Meter,
    /// What a peer takes from us.
    Given(PublicKey),
    /// What we take from a peer.
    Taken(PublicKey),
}

impl RecordKey {
    pub(crate) fn parse(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        let peer = || <[u8; KEY_LEN]>::try_from(rest).ok().map(PublicKey::from_bytes);
        match *kind {
            KEY_METER => rest.is_empty().then_some(Self::Meter),
            KEY_GIVEN => peer().map(Self::Given),
            KEY_TAKEN => peer().map(Self::Taken),
            _ => None,
        }
    }

    pub(crate) fn record(&self, value: Vec<u8>) -> Record {
        let key = match self {
            Self::Meter => vec![KEY_METER],
            Self::Given(peer) => [&[KEY_GIVEN], peer.as_bytes().as_slice()].concat(),
            Self::Taken(peer) => [&[KEY_TAKEN], peer.as_bytes().as_slice()].concat(),
        };
        Record { kind: RECORDS, key, value: Some(value) }
    }
}

/// The provider's side of a direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GivenRecord {
    /// Whether sessions were open: then more was sent than is written here.
    pub(crate) open: bool,
    /// Bytes handed to the transport, ever.
    pub(crate) sent: u64,
    /// Bytes acknowledged as verified, ever.
    pub(crate) verified: u64,
    /// Lost with ended sessions, and perhaps verified all the same.
    pub(crate) unresolved: u64,
    /// Perhaps taken before a crash.
    pub(crate) doubtful: u64,
    /// Bytes used of the schedule.
    pub(crate) used: u64,
    /// By now `sent` may be this many, and [`crate::provider::MARK_STEP`] more.
    pub(crate) mark: u64,
    /// Payments at the time the window was last set back.
    pub(crate) window_base: u64,
    /// Sessions since then that ended badly.
    pub(crate) bad_closes: u8,
    /// The newest number that was used.
    pub(crate) number: u32,
    pub(crate) losses: Losses,
    pub(crate) schedule: Schedule,
}

impl GivenRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION).u8(u8::from(self.open)).u64(self.sent).u64(self.verified);
        out.u64(self.unresolved).u64(self.doubtful).u64(self.used).u64(self.mark);
        out.u64(self.window_base).u8(self.bad_closes).u32(self.number);
        out.u8(u8::try_from(self.losses.days().len()).expect("at most 30 days"));
        for (day, bytes) in self.losses.days() {
            out.u64(*day).u64(*bytes);
        }
        write_schedule(&mut out, &self.schedule);
        out.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut input = versioned(bytes)?;
        let open = input.u8()? != 0;
        let (sent, verified) = (input.u64()?, input.u64()?);
        let (unresolved, doubtful) = (input.u64()?, input.u64()?);
        let (used, mark) = (input.u64()?, input.u64()?);
        let (window_base, bad_closes, number) = (input.u64()?, input.u8()?, input.u32()?);
        let days: Result<VecDeque<_>, ReadError> =
            (0..input.u8()?).map(|_| Ok((input.u64()?, input.u64()?))).collect();
        let schedule = read_schedule(&mut input)?;
        input.end()?;
        let losses = Losses::restore(days?);
        Ok(Self {
            open,
            sent,
            verified,
            unresolved,
            doubtful,
            used,
            mark,
            window_base,
            bad_closes,
            number,
            losses,
            schedule,
        })
    }
}

/// The taker's side of a direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TakenRecord {
    /// Verified bytes, ever.
    pub(crate) recv: u64,
    pub(crate) schedule: Schedule,
}

impl TakenRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION).u64(self.recv);
        write_schedule(&mut out, &self.schedule);
        out.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut input = versioned(bytes)?;
        let record = Self { recv: input.u64()?, schedule: read_schedule(&mut input)? };
        input.end()?;
        Ok(record)
    }
}

/// Price and pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MeterRecord {
    pub(crate) utilisation: u64,
    pub(crate) drawn: Vec<(Prefix, Drawn)>,
}

impl MeterRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(VERSION).u64(self.utilisation);
        out.u32(u32::try_from(self.drawn.len()).expect("the number of buckets is bounded"));
        for (prefix, drawn) in &self.drawn {
            match prefix {
                Prefix::V4(net) => out.u8(4).bytes(net),
                Prefix::V6(net) => out.u8(6).bytes(net),
                Prefix::Single(IpAddr::V4(ip)) => out.u8(14).bytes(&ip.octets()),
                Prefix::Single(IpAddr::V6(ip)) => out.u8(16).bytes(&ip.octets()),
            };
            out.u64(drawn.charged).u64(drawn.unix_ms);
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut input = versioned(bytes)?;
        let utilisation = input.u64()?;
        let mut drawn = Vec::new();
        for _ in 0..input.u32()? {
            let prefix = match input.u8()? {
                4 => Prefix::V4(input.array()?),
                6 => Prefix::V6(input.array()?),
                14 => Prefix::Single(IpAddr::from(input.array::<4>()?)),
                16 => Prefix::Single(IpAddr::from(input.array::<16>()?)),
                _ => return Err(ReadError::Value("prefix")),
            };
            drawn.push((prefix, Drawn { charged: input.u64()?, unix_ms: input.u64()? }));
        }
        input.end()?;
        Ok(Self { utilisation, drawn })
    }
}

fn versioned(bytes: &[u8]) -> Result<Reader<'_>, ReadError> {
    let mut input = Reader::new(bytes);
    if input.u8()? == VERSION { Ok(input) } else { Err(ReadError::Value("version")) }
}

fn write_schedule(out: &mut Writer, schedule: &Schedule) {
    out.u64(schedule.start());
    out.u16(u16::try_from(schedule.entries().len()).expect("the number of grants is bounded"));
    for Entry { grant, freed, pool } in schedule.entries() {
        out.u32(grant.number).u32(grant.price).u64(grant.room).u64(grant.own);
        out.u8(u8::from(*freed) | u8::from(*pool) << 1);
    }
}

fn read_schedule(input: &mut Reader<'_>) -> Result<Schedule, ReadError> {
    let start = input.u64()?;
    let len = usize::from(input.u16()?);
    if len > GRANTS_MAX {
        return Err(ReadError::Value("grants"));
    }
    let mut entries = VecDeque::with_capacity(len);
    for _ in 0..len {
        let (number, price) = (input.u32()?, input.u32()?);
        let grant = Grant { number, price, room: input.u64()?, own: input.u64()? };
        let flags = input.u8()?;
        entries.push_back(Entry { grant, freed: flags & 1 != 0, pool: flags & 2 != 0 });
    }
    Ok(Schedule::restore(start, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(grants: Vec<(u32, u64, u64, bool, bool)>) -> Schedule {
        let mut schedule = Schedule::restore(7, VecDeque::new());
        for (index, (price, room, own, freed, pool)) in grants.into_iter().enumerate() {
            schedule.push(Entry { grant: Grant { number: index as u32 + 1, price, room, own }, freed, pool });
        }
        schedule
    }

    proptest! {
        #[test]
        fn records_survive_their_bytes(
            numbers in any::<(u64, u64, u64, u64, u64, u64, u64, u8, u32)>(),
            grants in prop::collection::vec(any::<(u32, u64, u64, bool, bool)>(), 0..20),
            days in prop::collection::vec(any::<(u64, u64)>(), 0..30),
            drawn in prop::collection::vec((any::<IpAddr>(), any::<(u64, u64)>()), 0..20),
        ) {
            let (sent, verified, unresolved, doubtful, used, mark, window_base, bad_closes, number) = numbers;
            let (losses, schedule) = (Losses::restore(days.into()), schedule(grants));
            let taken = TakenRecord { recv: sent, schedule: schedule.clone() };
            let open = sent % 2 == 0;
            let given = GivenRecord {
                open, sent, verified, unresolved, doubtful, used, mark, window_base, bad_closes, number, losses, schedule,
            };
            prop_assert_eq!(GivenRecord::decode(&given.encode()), Ok(given));
            prop_assert_eq!(TakenRecord::decode(&taken.encode()), Ok(taken));
            let drawn = drawn
                .into_iter()
                .map(|(ip, (charged, unix_ms))| (Prefix::of(ip), Drawn { charged, unix_ms }))
                .collect();
            let meter = MeterRecord { utilisation: mark, drawn };
            prop_assert_eq!(MeterRecord::decode(&meter.encode()), Ok(meter));
        }

        #[test]
        fn no_bytes_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let versioned = [&[VERSION], bytes.as_slice()].concat();
            let _ = (GivenRecord::decode(&versioned), TakenRecord::decode(&versioned));
            let _ = (MeterRecord::decode(&versioned), RecordKey::parse(&bytes));
        }
    }

    #[test]
    fn keys_name_their_record() {
        let peer = PublicKey::from_bytes([3; KEY_LEN]);
        for key in [RecordKey::Meter, RecordKey::Given(peer), RecordKey::Taken(peer)] {
            assert_eq!(RecordKey::parse(&key.record(Vec::new()).key), Some(key));
        }
        assert_eq!(RecordKey::parse(b"g123"), None);
    }
}
