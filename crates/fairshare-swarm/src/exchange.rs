//! Peer exchange of one connection: which addresses the other end was told, and how often it tells us.
//= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions

use crate::candidates::Budget;
use crate::extension::{MAX_PEX_ENTRIES, Pex, PexFlags, PexPeer};
use fairshare_wire::Instant;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Addresses per message, each way.
const MAX_TOLD: usize = 50;
/// Between two messages of ours, and the least between two of the peer's.
const INTERVAL: Duration = Duration::from_secs(60);
const INTERVAL_MIN: Duration = Duration::from_secs(30);

/// The first message waits this long: when a swarm begins, peers come within a second or two, and the next message
/// may only follow a minute later.
const FIRST_AFTER: Duration = Duration::from_secs(2);

/// Peer exchange with one peer.
#[derive(Debug)]
pub(crate) struct Exchange {
    told: BTreeMap<SocketAddr, PexFlags>,
    next_at: Instant,
    heard_at: Option<Instant>,
    budget: Budget,
}

impl Exchange {
    /// Nothing told yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { told: BTreeMap::new(), next_at: now + FIRST_AFTER, heard_at: None, budget: Budget::default() }
    }

    /// Whether it is time to tell something.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.next_at
    }

    /// What to tell now, if it is time and anything changed.
    pub(crate) fn change(&mut self, now: Instant, current: &BTreeMap<SocketAddr, PexFlags>) -> Option<Pex> {
        if !self.is_due(now) {
            return None;
        }
        let gone = self.told.keys().filter(|address| !current.contains_key(*address));
        let dropped: Vec<SocketAddr> = gone.take(MAX_TOLD).copied().collect();
        dropped.iter().for_each(|address| {
            self.told.remove(address);
        });
        let new = current.iter().filter(|(address, _)| !self.told.contains_key(*address));
        let peer = |(address, flags): (&SocketAddr, &PexFlags)| PexPeer { address: *address, flags: *flags };
        let added: Vec<PexPeer> = new.take(MAX_TOLD).map(peer).collect();
        self.told.extend(added.iter().map(|peer| (peer.address, peer.flags)));
        if added.is_empty() && dropped.is_empty() {
            return None;
        }
        self.next_at = now + INTERVAL;
        Some(Pex { added, dropped })
    }

    /// How many of the addresses in a message of the peer are taken; none, if it talks too much.
    pub(crate) fn hear(&mut self, now: Instant, message: &Pex) -> usize {
        let too_often = self.heard_at.is_some_and(|at| now.since(at) < INTERVAL_MIN);
        if too_often || message.added.len() + message.dropped.len() > MAX_PEX_ENTRIES {
            return 0;
        }
        self.heard_at = Some(now);
        self.budget.take(now, message.added.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([8, 8, 8, 8], port))
    }

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    #[test]
    fn changes_are_told_once_a_minute_fifty_at_a_time() {
        let mut exchange = Exchange::new(at(0));
        let mut current: BTreeMap<_, _> = (1..=60).map(|port| (address(port), PexFlags::REACHABLE)).collect();
        assert_eq!(exchange.change(at(1), &current), None);
        assert_eq!(exchange.change(at(2), &BTreeMap::new()), None);
        assert_eq!(exchange.change(at(3), &current).map(|change| change.added.len()), Some(50));
        assert_eq!(exchange.change(at(62), &current), None);
        current.remove(&address(1));
        let change = exchange.change(at(63), &current).expect("changes");
        assert_eq!((change.added.len(), change.dropped), (10, vec![address(1)]));
        assert_eq!(exchange.change(at(123), &current), None);
    }

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    #[test]
    fn talkative_peers_are_ignored() {
        let mut exchange = Exchange::new(at(0));
        let message = |count: u16| {
            let added =
                (0..count).map(|port| PexPeer { address: address(port), flags: PexFlags(0) }).collect();
            Pex { added, dropped: Vec::new() }
        };
        assert_eq!(exchange.hear(at(0), &message(201)), 0);
        assert_eq!(exchange.hear(at(0), &message(150)), 150);
        assert_eq!(exchange.hear(at(29), &message(1)), 0);
        assert_eq!(exchange.hear(at(30), &message(150)), 50, "the rest of what one source may tell");
    }
}
