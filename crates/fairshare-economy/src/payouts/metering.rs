//! From carried bytes to what is owed.
//= spec/payouts.md#32-price

use super::config::{METER_UNIT, RATE_END, RATE_GUARD, RATE_HIDDEN, RATE_RELAY, RATE_SEEDER_SIDE};
use super::engine::Payouts;
use super::output::{Carried, CarriedEnd};
use super::rows::Rows;
use fairshare_crypto::PublicKey;
use fairshare_wire::{Instant, Now};

/// Bytes of one link in the period under way; a period is what is reported at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    at: Option<Instant>,
    bytes: u64,
}

impl Meter {
    /// The bytes of the period under way, rounded up.
    const fn period(&self) -> u64 {
        round_up(self.bytes)
    }

    /// The metered bytes that `bytes` more make: all of a period together are rounded up.
    pub(super) fn add(&mut self, now: Instant, bytes: u64) -> u64 {
        if self.at != Some(now) {
            *self = Self { at: Some(now), bytes: 0 };
        }
        let before = round_up(self.bytes);
        self.bytes = self.bytes.saturating_add(bytes);
        round_up(self.bytes) - before
    }
}

const fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(METER_UNIT).saturating_mul(METER_UNIT)
}

/// What the neighbour towards the originator owes for each byte, as this node sees its own place.
const fn charge(carried: &Carried) -> u64 {
    match (carried.end, carried.from_originator) {
        (CarriedEnd::Elsewhere, true) => RATE_GUARD,
        (CarriedEnd::Elsewhere, false) => RATE_RELAY,
        // A settlement link, which nobody pays for.
        (CarriedEnd::Other, true) => 0,
        _ => RATE_END,
    }
}

/// What this node owes the next neighbour for each byte at most: it cannot know whether that one passes them on.
const fn cap(carried: &Carried) -> u64 {
    match (carried.from, carried.hops) {
        (Some(_), _) => RATE_RELAY,
        (None, 0 | 1) => RATE_END,
        (None, _) => RATE_GUARD,
    }
}

impl Payouts {
    /// Bytes were carried. What is reported at one moment is one metering period.
    pub fn carried(&mut self, now: Now, carried: &Carried) {
        if let Some(from) = carried.from
            && carried.from_bytes > 0
        {
            self.charge(now, &from, carried);
        }
        if let Some(to) = carried.to
            && carried.to_bytes > 0
        {
            self.owe(now, &to, carried);
        }
        let neighbours = [carried.from, carried.to].into_iter().flatten();
        for neighbour in neighbours {
            self.dirty_neighbours.insert(neighbour);
            if let Some(peer) = self.peer_of(&neighbour) {
                self.dirty.insert(peer);
                self.pass_on(now, &peer);
                self.catch_up(now, &peer);
                self.plan_iou(now, &peer);
            } else {
                self.show_key_soon(now, &neighbour);
            }
        }
        if let Some(from) = carried.from {
            self.weigh(now, &from);
        }
        self.record_soon(now);
    }

    /// The neighbour towards the originator owes for what this node did.
    fn charge(&mut self, now: Now, from: &PublicKey, carried: &Carried) {
        let Some(neighbour) = self.neighbour(from) else { return };
        let bytes = neighbour.meter_from.add(now.mono, carried.from_bytes);
        let amount = bytes.saturating_mul(charge(carried));
        let epoch = self.epoch(now);
        let Some(account) = self.account_of(from) else { return };
        account.claim = account.claim.saturating_add(amount);
        account.touch(epoch);
        if account.is_newcomer()
            && !self.pool.draw(now.mono, amount)
            && let Some(neighbour) = self.neighbours.get_mut(from)
        {
            neighbour.pool_empty = true;
        }
    }

    /// This node owes the next neighbour, or the one on the seeder's side of a rendezvous (there it pays from what the
    /// downloader's side pays in).
    fn owe(&mut self, now: Now, to: &PublicKey, carried: &Carried) {
        let Some(neighbour) = self.neighbour(to) else { return };
        let bytes = neighbour.meter_to.add(now.mono, carried.to_bytes);
        let period = neighbour.meter_to.period();
        let epoch = self.epoch(now);
        let Some(account) = self.account_of(to) else { return };
        account.touch(epoch);
        if carried.end != CarriedEnd::Rendezvous {
            account.cap = account.cap.saturating_add(bytes.saturating_mul(cap(carried)));
            account.peak = account.peak.max(period.saturating_mul(cap(carried)));
            if carried.from.is_none() && carried.hidden {
                let [hidden, ..] = &mut account.extra;
                *hidden = hidden.saturating_add(bytes.saturating_mul(RATE_HIDDEN));
            }
        }
        let rate = if carried.from.is_some() { charge(carried) } else { 0 };
        self.rows.note(now.mono, (carried.from, carried.to), carried.end, rate, bytes);
    }

    /// Shares out what a neighbour's IOUs promise for others, as far as it may owe us that much.
    //= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
    pub(super) fn pass_on(&mut self, now: Now, peer: &PublicKey) {
        let epoch = self.epoch(now);
        let Some(account) = self.accounts.get(peer) else { return };
        let credit = account.limit(&self.config, epoch).saturating_mul(self.config.iou_credit);
        let Some(tunnel) = account.neighbour.filter(|_| account.covered() <= credit) else { return };
        let [_, held @ ..] = account.held;
        let open: [u64; 3] = std::array::from_fn(|class| held[class].saturating_sub(account.divided[class]));
        if open == [0; 3] {
            return;
        }
        let forth = self.pass_forth(&tunnel, open[0]);
        let (seeder, relays) = self.pass_back(&tunnel, open[1], open[2]);
        let Some(account) = self.accounts.get_mut(peer) else { return };
        for (divided, more) in account.divided.iter_mut().zip([forth, seeder, relays]) {
            *divided = divided.saturating_add(more);
        }
        self.dirty.insert(*peer);
    }

    /// Class 1 goes on to the rendezvous; there, all but what the rendezvous earns turns into classes 2 and 3.
    fn pass_forth(&mut self, from: &PublicKey, amount: u64) -> u64 {
        let mut passed = 0u64;
        for (to, part, at_rendezvous) in self.rows.share_forth(from, amount) {
            passed = passed.saturating_add(part);
            let extra = if at_rendezvous {
                let (seeder, relays) = Rows::at_rendezvous(part);
                [0, seeder, relays]
            } else {
                [part, 0, 0]
            };
            self.promise(&to, extra, 0);
        }
        passed
    }

    /// Classes 2 and 3 go on to the seeder.
    fn pass_back(&mut self, to: &PublicKey, seeder: u64, relays: u64) -> (u64, u64) {
        let mut passed = (0u64, 0u64);
        for back in self.rows.share_back(to, seeder, relays) {
            passed = (passed.0.saturating_add(back.seeder), passed.1.saturating_add(back.relays));
            if let Some(next) = back.to {
                self.promise(&next, [0, back.seeder, back.relays_on], back.returned);
            }
        }
        passed
    }

    /// More is owed to a neighbour, and less is asked of it.
    fn promise(&mut self, tunnel: &PublicKey, extra: [u64; 3], returned: u64) {
        if let Some(peer) = self.peer_of(tunnel) {
            self.dirty.insert(peer);
        }
        let Some(account) = self.account_of(tunnel) else { return };
        for (sum, more) in account.extra.iter_mut().zip(extra) {
            *sum = sum.saturating_add(more);
        }
        account.claim = account.claim.saturating_sub(returned);
    }
}

/// What all nodes of a kind earn for a byte adds up to what the downloader pays for it.
const _: () = assert!(
    RATE_GUARD == 2 + RATE_RELAY && RATE_RELAY == 2 + RATE_END && RATE_HIDDEN == 2 + RATE_SEEDER_SIDE
);

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/payouts.md#32-price
    #[test]
    fn a_period_of_a_link_is_rounded_up_once() {
        let mut meter = Meter::default();
        let (first, second) = (Instant::from_micros(1), Instant::from_micros(2));
        assert_eq!(meter.add(first, 1), METER_UNIT);
        assert_eq!(meter.add(first, METER_UNIT - 1), 0);
        assert_eq!(meter.add(first, 1), METER_UNIT);
        assert_eq!(meter.add(second, METER_UNIT), METER_UNIT);
        assert_eq!(meter.add(second, u64::MAX), u64::MAX - METER_UNIT);
    }

    //= spec/payouts.md#32-price
    #[test]
    fn each_place_in_a_circuit_has_its_price() {
        let from = Some(PublicKey::from_bytes([1; 74]));
        let carried = |end, from_originator| Carried { from, end, from_originator, ..Carried::default() };
        for (end, from_originator, price) in [
            (CarriedEnd::Elsewhere, true, 5),
            (CarriedEnd::Elsewhere, false, 3),
            (CarriedEnd::Exit, true, 1),
            (CarriedEnd::Exit, false, 1),
            (CarriedEnd::Rendezvous, false, 1),
            (CarriedEnd::Other, false, 1),
            (CarriedEnd::Other, true, 0),
        ] {
            assert_eq!(charge(&carried(end, from_originator)), price, "{end:?} {from_originator}");
        }
        assert_eq!(cap(&carried(CarriedEnd::Elsewhere, false)), 3);
        for (hops, price) in [(1, 1), (2, 5), (3, 5)] {
            assert_eq!(cap(&Carried { hops, ..Carried::default() }), price, "{hops} hops");
        }
    }
}
