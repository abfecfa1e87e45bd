//! The schedule of grants of one direction of a pair: which price each byte has. Both ends keep one, from the same
//! GRANT and FREED messages, and so compute the same charge for any number of settled bytes.
//!
//! Positions count the bytes of the direction since the two keys first met; the position that is paid is `cum` of
//! the newest settlement. Grants are numbered per pair and lie one after another on this line, so several
//! connections of one pair share them. A grant is only ever shortened at or behind the last byte that was sent:
//! a settlement that crosses the FREED on its way is computed alike with and without it.
//= spec/economy.md#52-price-and-charge

use crate::price::PRICE_FULL;
use std::collections::VecDeque;

/// The most grants a schedule holds: the largest window in grants of the smallest usual room takes 64.
pub(crate) const GRANTS_MAX: usize = 256;

/// A grant: real bytes at a price that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Number, rising from 1 in each direction of a pair.
    pub number: u32,
    /// Charged bytes for 65,536 real ones.
    pub price: u32,
    /// Real bytes that may be taken under it.
    pub room: u64,
    /// Charged bytes reserved on the taker's own claim.
    pub own: u64,
}

/// A grant in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The grant; its room shrinks when a part is released.
    pub(crate) grant: Grant,
    /// Whether a part was released.
    pub(crate) freed: bool,
    /// Whether it was drawn from the stranger pool (known to the provider only).
    pub(crate) pool: bool,
}

/// Grants in order of number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Where the first entry begins.
    start: u64,
    entries: VecDeque<Entry>,
}

/// A settlement that fits a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// How many of the grants the payer knew when it signed.
    pub(crate) known: usize,
}

impl Schedule {
    /// A schedule as it was stored.
    pub(crate) fn restore(start: u64, entries: VecDeque<Entry>) -> Self {
        Self { start, entries }
    }

    /// Where the first entry begins.
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }

    /// All grants that are not wholly paid, and the last one in any case.
    pub(crate) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        self.entries.iter()
    }

    /// The newest grant.
    pub(crate) fn last(&self) -> Option<&Entry> {
        self.entries.back()
    }

    /// Whether no further grant fits.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= GRANTS_MAX
    }

    /// Where the last grant ends.
    pub(crate) fn end(&self) -> u64 {
        self.end_of(self.entries.len())
    }

    /// Where the last of the grants up to `number` ends.
    pub(crate) fn end_of_number(&self, number: u32) -> u64 {
        self.end_of(self.entries.iter().take_while(|entry| entry.grant.number <= number).count())
    }

    /// Appends a grant. Numbers rise; the caller checks.
    pub(crate) fn push(&mut self, entry: Entry) {
        assert!(self.last().is_none_or(|last| last.grant.number < entry.grant.number), "numbers rise");
        self.entries.push_back(entry);
    }

    /// Releases everything at and behind `at`; answers the grants that became shorter, each as it is now and with
    /// the charge that was released.
    pub(crate) fn cut(&mut self, at: u64) -> Vec<(Entry, u64)> {
        let mut start = self.start;
        let mut cut = Vec::new();
        for entry in &mut self.entries {
            let room = entry.grant.room.min(at.saturating_sub(start));
            if room < entry.grant.room {
                let price = entry.grant.price;
                let released = charge_of(entry.grant.room, price) - charge_of(room, price);
                (entry.grant.room, entry.freed) = (room, true);
                cut.push((*entry, released));
            }
            start = start.saturating_add(room);
        }
        cut
    }

    /// The provider released what grant `number` has beyond `used`. Bytes already taken (up to `taken`) keep it.
    pub(crate) fn shorten(&mut self, number: u32, used: u64, taken: u64) {
        let mut start = self.start;
        for entry in &mut self.entries {
            if entry.grant.number == number {
                let room = used.max(taken.saturating_sub(start));
                if room < entry.grant.room {
                    (entry.grant.room, entry.freed) = (room, true);
                }
                return;
            }
            start = start.saturating_add(entry.grant.room);
        }
    }

    /// What the bytes between two positions cost. Bytes behind all grants have the last one's price.
    pub(crate) fn charge(&self, from: u64, to: u64) -> u64 {
        self.charge_knowing(self.entries.len(), from, to)
    }

    /// The charge of the bytes in `from..to` if the payer knew only the first `known` grants.
    fn charge_knowing(&self, known: usize, from: u64, to: u64) -> u64 {
        self.cost(known, to).saturating_sub(self.cost(known, from))
    }

    /// How a settlement of `from..to` for `charge` can have come about: with all grants known, or with the newest
    /// still on their way to a payer who therefore took no more than `slack` bytes behind those it knew. The payer
    /// says which grant was its newest; what another program writes there may mean nothing, so it only decides
    /// between equal charges.
    pub(crate) fn fit(&self, from: u64, to: u64, charge: u64, newest: u32, slack: u64) -> Option<Fit> {
        let all = self.entries.len();
        let fits = |known: &usize| {
            let plausible = *known == all || to <= self.end_of(*known).saturating_add(slack);
            plausible && self.charge_knowing(*known, from, to) == charge
        };
        let said = self.entries.iter().position(|entry| entry.grant.number == newest).map(|at| at + 1);
        let exact = said.filter(fits).or_else(|| (1..=all).rev().find(fits));
        // Who charges himself more than he must harms nobody else; a block without a charge does the same.
        let generous = || (charge >= self.charge(from, to)).then_some(all);
        exact.or_else(generous).map(|known| Fit { known })
    }

    /// Records that a settlement up to `to` was made under the grants of `fit`: what it took behind them belongs to
    /// the last of them. Answers whether that moved a later grant.
    pub(crate) fn extend(&mut self, fit: Fit, to: u64) -> bool {
        let beyond = to.saturating_sub(self.end_of(fit.known));
        if let Some(entry) = fit.known.checked_sub(1).and_then(|last| self.entries.get_mut(last)) {
            entry.grant.room = entry.grant.room.saturating_add(beyond);
            entry.grant.own = entry.grant.own.max(charge_of(entry.grant.room, entry.grant.price));
        }
        beyond > 0 && fit.known < self.entries.len()
    }

    /// Everything before `paid` is paid: forgets grants that nothing depends on any more. A grant stays until a byte
    /// behind it is paid, because its end may still have to be told again.
    pub(crate) fn advance(&mut self, paid: u64) {
        self.advance_knowing(u32::MAX, paid);
    }

    /// The same, if the payer knew the grants up to number `newest` when it signed.
    pub(crate) fn advance_knowing(&mut self, newest: u32, paid: u64) {
        if self.entries.is_empty() {
            self.start = self.start.max(paid);
        }
        let known = self.entries.iter().take_while(|entry| entry.grant.number <= newest).count();
        self.extend(Fit { known }, paid);
        while let (Some(first), true) = (self.entries.front(), self.entries.len() > 1) {
            let next = self.start.saturating_add(first.grant.room);
            if paid <= next {
                return;
            }
            self.start = next;
            self.entries.pop_front();
        }
    }

    fn end_of(&self, known: usize) -> u64 {
        self.entries.iter().take(known).fold(self.start, |end, entry| end.saturating_add(entry.grant.room))
    }

    /// The charge of everything from the start to `to`, each grant rounded up by itself.
    fn cost(&self, known: usize, to: u64) -> u64 {
        let mut left = to.saturating_sub(self.start);
        if known == 0 {
            return left;
        }
        let mut cost = 0u64;
        for (index, entry) in self.entries.iter().take(known).enumerate() {
            let here = if index + 1 == known { left } else { left.min(entry.grant.room) };
            cost = cost.saturating_add(charge_of(here, entry.grant.price));
            left -= here;
        }
        cost
    }
}

/// ceil(bytes * price / 65536), at most `bytes`, as a price is never above the full one.
pub fn charge_of(bytes: u64, price: u32) -> u64 {
    let charge = (u128::from(bytes) * u128::from(price)).div_ceil(u128::from(PRICE_FULL));
    u64::try_from(charge).unwrap_or(u64::MAX)
}

/// floor(charged * 65536 / price): the real bytes that `charged` pays for.
pub fn room_of(charged: u64, price: u32) -> u64 {
    let room = u128::from(charged) * u128::from(PRICE_FULL) / u128::from(price.max(1));
    u64::try_from(room).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(number: u32, price: u32, room: u64) -> Entry {
        let own = charge_of(room, price);
        Entry { grant: Grant { number, price, room, own }, freed: false, pool: false }
    }

    //= spec/economy.md#52-price-and-charge
    #[test]
    fn each_grant_is_rounded_up_by_itself() {
        let mut schedule = Schedule::default();
        schedule.push(entry(1, 8192, 100));
        schedule.push(entry(2, 65_536, 50));
        assert_eq!(schedule.charge(0, 1), 1);
        assert_eq!(schedule.charge(1, 8), 0, "the first of eight bytes paid for all");
        assert_eq!(schedule.charge(0, 100), 13);
        assert_eq!(schedule.charge(0, 110), 23);
        assert_eq!(schedule.charge(100, 200), 100, "behind all grants: the price of the last");
    }

    #[test]
    fn a_release_at_the_last_sent_byte_changes_no_charge_before_it() {
        let mut whole = Schedule::default();
        whole.push(entry(1, 9000, 1000));
        whole.push(entry(2, 20_000, 1000));
        let mut cut = whole.clone();
        let released = cut.cut(700);
        let released: Vec<_> =
            released.iter().map(|(entry, charge)| (entry.grant.number, entry.grant.room, *charge)).collect();
        assert_eq!(released, [(1, 700, 138 - 97), (2, 0, 306)]);
        for to in 0..=700 {
            assert_eq!(whole.charge(0, to), cut.charge(0, to));
        }
        cut.push(entry(3, 65_536, 10));
        assert_eq!(cut.charge(700, 710), 10);
    }

    #[test]
    fn a_payer_that_does_not_know_the_newest_grant_is_understood() {
        let mut provider = Schedule::default();
        provider.push(entry(1, 8192, 1000));
        provider.push(entry(2, 65_536, 1000));
        // The payer took 100 bytes more than grant 1 has room for, before grant 2 reached it.
        assert_eq!(provider.fit(0, 1100, 138, 0, 256), Some(Fit { known: 1 }));
        assert_eq!(provider.fit(0, 1100, 138, 1, 99), None);
        assert_eq!(provider.fit(0, 1100, 225, 1, 256), Some(Fit { known: 2 }));
        assert_eq!(provider.fit(0, 1100, 224, 2, 256), None);
        assert_eq!(provider.fit(0, 1100, 1100, 2, 256), Some(Fit { known: 2 }), "full price is always right");
        provider.extend(Fit { known: 1 }, 1100);
        assert_eq!(provider.charge(1100, 1110), 10);
        let first = provider.entries().next().expect("two grants").grant;
        assert_eq!((first.room, first.own), (1100, 138), "it can be told again");
    }

    #[test]
    fn between_equal_charges_the_payer_says_what_it_knew() {
        let mut provider = Schedule::default();
        provider.push(entry(1, 8192, 800));
        provider.push(entry(2, 8192, 800));
        assert_eq!(provider.fit(0, 1000, 125, 1, 256), Some(Fit { known: 1 }));
        assert_eq!(provider.fit(0, 1000, 125, 2, 256), Some(Fit { known: 2 }));
        assert_eq!(provider.fit(0, 1000, 125, 77, 256), Some(Fit { known: 2 }));
        assert_eq!(provider.fit(0, 1000, 125, 1, 100), Some(Fit { known: 2 }), "not plausible");
    }

    proptest! {
        //= spec/economy.md#53-verdict-grant-settlement
        #[test]
        fn parts_cost_together_what_the_whole_costs(
            grants in prop::collection::vec((8192u32..=65_536, 0u64..5000), 1..20),
            parts in prop::collection::vec(1u64..4000, 1..30),
        ) {
            let mut schedule = Schedule::default();
            for (index, (price, room)) in grants.iter().enumerate() {
                schedule.push(entry(index as u32 + 1, *price, *room));
            }
            let whole = schedule.clone();
            let (mut paid, mut sum) = (0, 0);
            for part in parts {
                sum += schedule.charge(paid, paid + part);
                paid += part;
                schedule.advance(paid);
            }
            prop_assert_eq!(sum, whole.charge(0, paid));
        }
    }
}
