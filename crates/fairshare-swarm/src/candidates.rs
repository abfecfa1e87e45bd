//! Addresses a torrent may connect to: who told them, how dialling them went, and when to try again.
//= spec/swarm.md#55-peer-selection-for-connecting

use crate::addresses::{AddressSource, may_dial};
use fairshare_wire::Instant;
use indexmap::IndexMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Addresses kept per torrent.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const MAX_CANDIDATES: usize = 2_000;
/// First pause after a failure; it doubles each time.
const BACK_OFF: Duration = Duration::from_secs(60);
/// First pause for an address that the user gave: somebody waits for it.
const BACK_OFF_USER: Duration = Duration::from_secs(2);
/// Pause after a connection that had worked was lost.
const RECONNECT: Duration = Duration::from_secs(5);
/// A connection that lasted so long had worked.
const PROVEN: Duration = Duration::from_secs(30);
/// An address whose peer we are connected with by another way is left alone for this long.
const DUPLICATE_PAUSE: Duration = Duration::from_secs(300);
/// An address that turned out to be our own is left alone for this long.
//= spec/swarm.md#2-handshake-bep-3
const SELF_PAUSE: Duration = Duration::from_secs(3600);
/// A seed is left alone by a seed for this long.
const USELESS_PAUSE: Duration = Duration::from_secs(1800);
/// An address with which there are too many connections already waits for this long.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(30);
/// After so many failures in a row the address is forgotten; the user's are kept.
const MAX_FAILURES: u32 = 6;

/// Addresses taken from one source per window.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const BUDGET: usize = 200;
const BUDGET_WINDOW: Duration = Duration::from_secs(600);

/// How many addresses one source may still tell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    since: Instant,
    used: usize,
}

impl Budget {
    /// How many of `wanted` addresses are taken; they are counted.
    pub(crate) fn take(&mut self, now: Instant, wanted: usize) -> usize {
        if now.since(self.since) >= BUDGET_WINDOW {
            *self = Self { since: now, used: 0 };
        }
        let taken = wanted.min(BUDGET - self.used);
        self.used += taken;
        taken
    }
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    source: AddressSource,
    failures: u32,
    next_try: Instant,
    /// Whether a connection to it exists or is being made.
    busy: bool,
}

/// The candidates of one torrent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidates {
    known: IndexMap<SocketAddr, Candidate>,
}

impl Candidates {
    /// Takes an address in, unless it may not be dialled or there is no room.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        address: SocketAddr,
        source: AddressSource,
        local_source: bool,
    ) -> bool {
        if !may_dial(&address, source, local_source) {
            return false;
        }
        if let Some(known) = self.known.get_mut(&address) {
            if matches!(source, AddressSource::User | AddressSource::Circuit) {
                // The user asks again: earlier failures no longer count.
                (known.source, known.failures, known.next_try) = (source, 0, now);
            }
            return true;
        }
        if self.known.len() >= MAX_CANDIDATES {
            return false;
        }
        self.known.insert(address, Candidate { source, failures: 0, next_try: now, busy: false });
        true
    }

    /// The next address to dial now, the user's first; whoever dials it calls [`connected`](Self::connected).
    pub(crate) fn due(&self, now: Instant) -> Option<SocketAddr> {
        let due = self.known.iter().filter(|(_, known)| !known.busy && known.next_try <= now);
        due.min_by_key(|(_, known)| (known.failures, known.source)).map(|(address, _)| *address)
    }

    /// A connection to the address stands or is being made.
    pub(crate) fn connected(&mut self, address: &SocketAddr) {
        if let Some(known) = self.known.get_mut(address) {
            known.busy = true;
        }
    }

    /// A connection that had come as far as a handshake ended after `lived`. One that ended soon counts as a
    /// failure: whoever hangs up on us again and again is not called every few seconds.
    pub(crate) fn lost(&mut self, now: Instant, address: &SocketAddr, lived: Duration) {
        if lived < PROVEN {
            return self.failed(now, address);
        }
        if let Some(known) = self.known.get_mut(address) {
            *known = Candidate { failures: 0, next_try: now + RECONNECT, busy: false, ..*known };
        }
    }

    /// Dialling failed, or no handshake came.
    pub(crate) fn failed(&mut self, now: Instant, address: &SocketAddr) {
        let Some(known) = self.known.get_mut(address) else { return };
        known.failures += 1;
        if known.failures > MAX_FAILURES {
            if known.source != AddressSource::User {
                self.known.swap_remove(address);
                return;
            }
            known.failures = MAX_FAILURES;
        }
        let waited_for = matches!(known.source, AddressSource::User | AddressSource::Circuit);
        let first = if waited_for { BACK_OFF_USER } else { BACK_OFF };
        known.next_try = now + first * (1 << (known.failures - 1));
        known.busy = false;
    }

    /// The address is our own.
    pub(crate) fn is_self(&mut self, now: Instant, address: &SocketAddr) {
        self.pause(now, address, SELF_PAUSE);
    }

    /// The address leads to a peer that we are connected with by another way.
    pub(crate) fn is_duplicate(&mut self, now: Instant, address: &SocketAddr) {
        self.pause(now, address, DUPLICATE_PAUSE);
    }

    /// Neither end has anything that the other needs.
    pub(crate) fn is_useless(&mut self, now: Instant, address: &SocketAddr) {
        self.pause(now, address, USELESS_PAUSE);
    }

    /// There is no room for a connection with this address now.
    pub(crate) fn postpone(&mut self, now: Instant, address: &SocketAddr) {
        self.pause(now, address, NO_ROOM_PAUSE);
    }

    fn pause(&mut self, now: Instant, address: &SocketAddr, span: Duration) {
        if let Some(known) = self.known.get_mut(address) {
            (known.next_try, known.busy) = (now + span, false);
        }
    }

    /// How many addresses are known.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u16) -> SocketAddr {
        SocketAddr::from(([8, 8, (last >> 8) as u8, last as u8], 6881))
    }

    //= spec/swarm.md#55-peer-selection-for-connecting
    #[test]
    fn failures_back_off_and_are_forgotten_after_six() {
        let mut candidates = Candidates::default();
        let mut now = Instant::START;
        candidates.add(now, address(1), AddressSource::Tracker, false);
        for failure in 0..7 {
            assert_eq!(candidates.due(now), Some(address(1)), "try {failure}");
            candidates.connected(&address(1));
            assert_eq!(candidates.due(now), None);
            candidates.failed(now, &address(1));
            let pause = Duration::from_secs(60 << failure);
            assert_eq!(candidates.due(now + pause - Duration::from_secs(1)), None);
            now = now + pause;
        }
        assert_eq!(candidates.len(), 0);
    }

    #[test]
    fn a_connection_that_worked_is_made_again_soon_and_one_that_did_not_later() {
        let mut candidates = Candidates::default();
        candidates.add(Instant::START, address(1), AddressSource::Tracker, false);
        candidates.connected(&address(1));
        candidates.lost(Instant::START, &address(1), PROVEN);
        assert_eq!(candidates.due(Instant::START + RECONNECT), Some(address(1)));
        candidates.connected(&address(1));
        candidates.lost(Instant::START, &address(1), Duration::from_secs(1));
        assert_eq!(candidates.due(Instant::START + RECONNECT), None);
        assert_eq!(candidates.due(Instant::START + BACK_OFF), Some(address(1)));
    }

    //= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
    #[test]
    fn one_source_tells_two_hundred_addresses_in_ten_minutes() {
        let mut budget = Budget::default();
        assert_eq!(budget.take(Instant::START, 150), 150);
        assert_eq!(budget.take(Instant::START, 150), 50);
        assert_eq!(budget.take(Instant::START, 1), 0);
        assert_eq!(budget.take(Instant::START + BUDGET_WINDOW, 1000), 200);
    }

    #[test]
    fn the_number_of_candidates_is_bounded() {
        let mut candidates = Candidates::default();
        for last in 0..3000 {
            candidates.add(Instant::START, address(last), AddressSource::Exchange, false);
        }
        assert_eq!(candidates.len(), MAX_CANDIDATES);
    }

    #[test]
    fn the_user_asking_again_clears_the_back_off() {
        let mut candidates = Candidates::default();
        candidates.add(Instant::START, address(1), AddressSource::Tracker, false);
        candidates.connected(&address(1));
        candidates.failed(Instant::START, &address(1));
        assert_eq!(candidates.due(Instant::START), None);
        candidates.add(Instant::START, address(1), AddressSource::User, false);
        assert_eq!(candidates.due(Instant::START), Some(address(1)));
    }
}
