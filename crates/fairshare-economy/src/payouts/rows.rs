//! How many bytes went from which neighbour to which: the measure by which money that only passes through is shared
//! out.
//= spec/payouts.md#32-price

use super::config::{RATE_HIDDEN, RATE_SEEDER_SIDE, RELAY_KEEPS, ROWS_MAX};
use super::output::CarriedEnd;
use fairshare_crypto::PublicKey;
use fairshare_wire::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Bytes for which no money was shared out in that time are forgotten: the IOUs for them came long ago, or they were no
/// bytes of a hidden swarm.
const WINDOW: Duration = Duration::from_secs(1800);
/// Parts of the window that are kept apart.
const SLOT: Duration = Duration::from_secs(60);

type Ends = (Option<PublicKey>, Option<PublicKey>);

/// One pair of links.
#[derive(Clone, Debug)]
struct Row {
    rendezvous: bool,
    /// What the neighbour towards the originator was charged for each byte.
    rate: u64,
    slots: VecDeque<Slot>,
}

/// Bytes of a part of the window, for which no money was shared out yet.
#[derive(Clone, Copy, Debug)]
struct Slot {
    since: Instant,
    /// On its way to the rendezvous.
    forth: u64,
    /// On its way to the seeder.
    back: u64,
}

impl Row {
    fn add(&mut self, now: Instant, bytes: u64) {
        self.forget(now);
        match self.slots.back_mut().filter(|slot| now.since(slot.since) < SLOT) {
            Some(slot) => {
                slot.forth = slot.forth.saturating_add(bytes);
                slot.back = slot.back.saturating_add(bytes);
            }
            None => self.slots.push_back(Slot { since: now, forth: bytes, back: bytes }),
        }
    }

    fn forget(&mut self, now: Instant) {
        while self.slots.front().is_some_and(|slot| now.since(slot.since) > WINDOW) {
            self.slots.pop_front();
        }
    }

    fn room(&self, of: impl Fn(&Slot) -> u64) -> u64 {
        self.slots.iter().fold(0, |sum, slot| sum.saturating_add(of(slot)))
    }

    /// Uses up bytes, the oldest first.
    fn take(&mut self, mut bytes: u64, of: impl Fn(&mut Slot) -> &mut u64) {
        for slot in &mut self.slots {
            let left = of(slot);
            let used = bytes.min(*left);
            *left -= used;
            bytes -= used;
        }
    }
}

/// All pairs of links with traffic.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows(BTreeMap<Ends, Row>);

/// A part of what an IOU of classes 2 and 3 promises, for one neighbour on the way to the seeder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Back {
    /// Who is next; `None` = we are the seeder.
    pub(super) to: Option<PublicKey>,
    /// Class 2 used up.
    pub(super) seeder: u64,
    /// Class 3 used up.
    pub(super) relays: u64,
    /// Class 3 that goes on.
    pub(super) relays_on: u64,
    /// What `to` was charged for these bytes and need not pay.
    pub(super) returned: u64,
}

impl Rows {
    /// Bytes between two links.
    pub(super) fn note(&mut self, now: Instant, ends: Ends, end: CarriedEnd, rate: u64, bytes: u64) {
        if !matches!(end, CarriedEnd::Elsewhere | CarriedEnd::Rendezvous) || ends.1.is_none() {
            return;
        }
        if self.0.len() >= ROWS_MAX && !self.0.contains_key(&ends) {
            self.0.retain(|_, row| {
                row.forget(now);
                !row.slots.is_empty()
            });
            if self.0.len() >= ROWS_MAX {
                return;
            }
        }
        let rendezvous = end == CarriedEnd::Rendezvous;
        let row = self.0.entry(ends).or_insert(Row { rendezvous, rate, slots: VecDeque::new() });
        (row.rendezvous, row.rate) = (rendezvous, rate);
        row.add(now, bytes);
    }

    /// Shares out money of class 1 that `from` promised: first to circuits that are joined here, the rest to all
    /// that pass. Returns per neighbour: who, how much, whether it is on the seeder's side of a rendezvous here.
    pub(super) fn share_forth(&mut self, from: &PublicKey, mut amount: u64) -> Vec<(PublicKey, u64, bool)> {
        let mut out = Vec::new();
        for rendezvous in [true, false] {
            let mut rows: Vec<_> = self
                .0
                .iter_mut()
                .filter(|((owner, _), row)| *owner == Some(*from) && row.rendezvous == rendezvous)
                .collect();
            let room: u64 =
                rows.iter().fold(0, |sum, (_, row)| sum.saturating_add(row.room(|slot| slot.forth)));
            let give = amount.min(room.saturating_mul(RATE_HIDDEN));
            let (mut given, mut before) = (0, 0u64);
            for ((_, to), row) in &mut rows {
                before = before.saturating_add(row.room(|slot| slot.forth));
                let part = proportion(give, before, room).saturating_sub(given);
                given += part;
                row.take(part.div_ceil(RATE_HIDDEN), |slot| &mut slot.forth);
                if let (Some(to), 1..) = (to, part) {
                    out.push((*to, part, rendezvous));
                }
            }
            amount -= given;
        }
        out
    }

    /// Shares out money of classes 2 and 3 that `to`, on the way to the rendezvous, promised.
    pub(super) fn share_back(&mut self, to: &PublicKey, seeder: u64, relays: u64) -> Vec<Back> {
        let mut rows: Vec<_> =
            self.0.iter_mut().filter(|((_, end), row)| *end == Some(*to) && !row.rendezvous).collect();
        let room: u64 = rows.iter().fold(0, |sum, (_, row)| sum.saturating_add(row.room(|slot| slot.back)));
        let give = seeder.min(room);
        let (mut given, mut before) = (0, 0u64);
        let mut out = Vec::new();
        for ((from, _), row) in &mut rows {
            before = before.saturating_add(row.room(|slot| slot.back));
            let part = proportion(give, before, room).saturating_sub(given);
            if part == 0 {
                continue;
            }
            given += part;
            row.take(part, |slot| &mut slot.back);
            let fees = proportion(relays, part, seeder).min(part.saturating_mul(RATE_SEEDER_SIDE));
            let relays_on = fees.saturating_sub(part.saturating_mul(RELAY_KEEPS));
            let returned = part.saturating_mul(row.rate);
            out.push(Back { to: *from, seeder: part, relays: fees, relays_on, returned });
        }
        out
    }

    /// The part of money of class 1 that goes on to the seeder's side: what the seeder has, and what the relays have.
    pub(super) const fn at_rendezvous(amount: u64) -> (u64, u64) {
        let bytes = amount / RATE_HIDDEN;
        (bytes, bytes * RATE_SEEDER_SIDE)
    }
}

/// amount * part / whole, rounded down; 0 of nothing.
fn proportion(amount: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(amount) * u128::from(part);
    product.checked_div(u128::from(whole)).map_or(0, |share| u64::try_from(share).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::{Rng, SecretKey};

    fn key(seed: u8) -> PublicKey {
        SecretKey::generate(&mut Rng::from_seed([seed; 32])).public()
    }

    fn rows(list: &[(Option<u8>, u8, bool, u64, u64)]) -> Rows {
        let mut rows = Rows::default();
        for (from, to, rendezvous, rate, bytes) in list {
            let end = if *rendezvous { CarriedEnd::Rendezvous } else { CarriedEnd::Elsewhere };
            rows.note(Instant::START, (from.map(key), Some(key(*to))), end, *rate, *bytes);
        }
        rows
    }

    //= spec/payouts.md#32-price
    #[test]
    fn the_surcharge_of_a_hidden_download_passes_whole_and_in_proportion() {
        let mut rows =
            rows(&[(Some(1), 2, false, 5, 300), (Some(1), 3, false, 5, 100), (Some(4), 3, false, 3, 999)]);
        let mut shares = rows.share_forth(&key(1), 6 * 200);
        shares.sort_by_key(|(_, amount, _)| *amount);
        assert_eq!(shares, vec![(key(3), 300, false), (key(2), 900, false)]);
        let rest: u64 = rows.share_forth(&key(1), 1 << 40).iter().map(|(_, amount, _)| amount).sum();
        assert_eq!(rest, 6 * 200, "never more than six for each byte");
    }

    //= spec/payouts.md#32-price
    #[test]
    fn what_is_joined_here_comes_first_and_five_of_six_go_on() {
        let mut rows = rows(&[(Some(1), 2, false, 3, 1000), (Some(1), 9, true, 1, 100)]);
        let shares = rows.share_forth(&key(1), 600);
        assert_eq!(shares, vec![(key(9), 600, true)]);
        assert_eq!(Rows::at_rendezvous(600), (100, 400));
    }

    //= spec/payouts.md#32-price
    #[test]
    fn each_relay_on_the_seeders_side_keeps_two_and_returns_its_charge() {
        // The middle: 4 for relays and 1 for the seeder come in, it keeps 2, and takes back the 3 it charged.
        let mut middle = rows(&[(Some(1), 7, false, 3, 100)]);
        let back = middle.share_back(&key(7), 100, 400);
        let one = Back { to: Some(key(1)), seeder: 100, relays: 400, relays_on: 200, returned: 300 };
        assert_eq!(back, vec![one]);
        // The seeder's guard has 2 and 1, keeps 2, and takes back its 5; with one relay less the surplus goes on.
        let mut guard = rows(&[(Some(1), 7, false, 5, 200)]);
        let back = guard.share_back(&key(7), 100, 200);
        assert_eq!((back[0].relays_on, back[0].returned), (0, 500));
        assert_eq!(guard.share_back(&key(7), 100, 400)[0].relays_on, 200);
        assert!(guard.share_back(&key(7), 100, 400).is_empty(), "no bytes are left to be paid for");
        // What a successor promises beyond four for each byte stays here.
        let mut liar = rows(&[(Some(1), 7, false, 5, 100)]);
        assert_eq!(liar.share_back(&key(7), 10, 1 << 40)[0].relays, 40);
    }
}
