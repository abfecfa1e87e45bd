//! Slots for the circuits of others: a quarter for anybody, the rest for neighbours with credit.
//!
//! While there are free slots everybody gets one. When there are none, those without credit make room among themselves,
//! and hold no more than their quarter against those with credit; among these the one that owes most for its limit goes
//! first.
//= spec/payouts.md#35-the-circuits-themselves

use crate::engine::Tunnel;
use crate::joined::{Joined, Role};
use crate::wire::{CircuitId, DestroyReason};
use fairshare_crypto::PublicKey;
use fairshare_wire::Instant;
use std::time::Duration;

/// One of so many slots is anybody's.
const ANYBODYS_SHARE: usize = 4;
/// A circuit without credit that was silent for so long gives way to another one.
const IDLE: Duration = Duration::from_secs(8);
/// If none was silent, the oldest gives way when it is older than this.
const OLD: Duration = Duration::from_secs(600);
/// Neighbours whose credit is known: more than circuits fit.
const CREDITS_MAX: usize = 4_096;

/// A circuit of somebody else, as far as it competes for slots.
struct Seat {
    circuit: CircuitId,
    slots: usize,
    /// Credit used, in 1/1000 of the limit; `None` = no credit.
    used: Option<u32>,
    since: Instant,
    active: Instant,
}

impl Tunnel {
    /// A neighbour has credit here and used so much of it, in 1/1000 of its limit; `None` = it has none.
    pub fn set_credit(&mut self, neighbour: &PublicKey, used_per_mille: Option<u32>) {
        match used_per_mille {
            None => {
                self.credits.remove(neighbour);
            }
            Some(used) if self.credits.len() < CREDITS_MAX || self.credits.contains_key(neighbour) => {
                self.credits.insert(*neighbour, used);
            }
            Some(_) => self.refuse("too many neighbours with credit"),
        }
    }

    /// Room for one more circuit of this neighbour, by ending another one if there must be.
    pub(crate) fn make_room(&mut self, now: Instant, neighbour: &PublicKey) -> bool {
        if self.joined.len() < self.config.max_joined {
            return true;
        }
        let asker = self.credits.get(neighbour).copied();
        let Some(victim) = victim(now, asker, self.config.max_joined, &self.seats()) else { return false };
        self.end_joined(victim, DestroyReason::PUSHED_OUT);
        true
    }

    /// All but introduction points and those that wait for a taker: they are few, and bounded by themselves.
    fn seats(&self) -> Vec<Seat> {
        let used = |key: &PublicKey| self.credits.get(key).copied();
        let ends = self.joined.values().filter_map(|one| match one {
            Joined::End(end) if matches!(end.role, Role::New | Role::Exiting) => Some(Seat {
                circuit: end.link.circuit,
                slots: 1 + usize::from(end.extending.is_some()),
                used: used(&end.link.key),
                since: end.since,
                active: end.active,
            }),
            _ => None,
        });
        let relays = self.relays.values().map(|relay| Seat {
            circuit: relay.back.circuit,
            slots: 2,
            used: used(&relay.back.key),
            since: relay.since,
            active: relay.active,
        });
        ends.chain(relays).collect()
    }
}

/// Which circuit ends for one more of a neighbour that used this much of its credit.
fn victim(now: Instant, asker: Option<u32>, slots: usize, seats: &[Seat]) -> Option<CircuitId> {
    let anybodys = || seats.iter().filter(|seat| seat.used.is_none());
    let idlest = || anybodys().min_by_key(|seat| (seat.active, seat.circuit));
    let Some(asker) = asker else {
        let idle = idlest().filter(|seat| now.since(seat.active) >= IDLE);
        let oldest = || {
            let oldest = anybodys().min_by_key(|seat| (seat.since, seat.circuit));
            oldest.filter(|seat| now.since(seat.since) >= OLD)
        };
        return idle.or_else(oldest).map(|seat| seat.circuit);
    };
    let taken: usize = anybodys().map(|seat| seat.slots).sum();
    if taken > slots / ANYBODYS_SHARE {
        return idlest().map(|seat| seat.circuit);
    }
    let deepest = seats.iter().filter_map(|seat| Some((seat.used?, seat.circuit))).max();
    deepest.filter(|(used, _)| *used > asker).map(|(_, circuit)| circuit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    fn seat(circuit: u32, used: Option<u32>, since: u64, active: u64) -> Seat {
        Seat { circuit: CircuitId(circuit), slots: 1, used, since: at(since), active: at(active) }
    }

    //= spec/payouts.md#35-the-circuits-themselves
    #[test]
    fn without_credit_the_most_idle_goes_then_the_oldest_and_else_nobody() {
        let seats = [seat(1, None, 0, 995), seat(2, None, 900, 991), seat(3, Some(5_000), 0, 0)];
        assert_eq!(victim(at(1_000), None, 100, &seats), Some(CircuitId(2)));
        assert_eq!(victim(at(998), None, 100, &seats), Some(CircuitId(1)), "it is old");
        assert_eq!(victim(at(599), None, 100, &[seat(1, None, 0, 598)]), None);
    }

    //= spec/payouts.md#35-the-circuits-themselves
    #[test]
    fn who_has_credit_takes_what_is_beyond_anybodys_quarter_then_from_who_owes_more() {
        let seats =
            [seat(1, None, 0, 10), seat(2, None, 0, 9), seat(3, Some(900), 0, 0), seat(4, Some(300), 0, 0)];
        assert_eq!(victim(at(10), Some(100), 4, &seats), Some(CircuitId(2)), "two of four is too much");
        assert_eq!(victim(at(10), Some(100), 8, &seats), Some(CircuitId(3)));
        assert_eq!(victim(at(10), Some(900), 8, &seats), None, "nobody owes more");
    }
}
