//! Peer exchange of one connection: which addresses the other end was told, and how often it tells us.
//= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions

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

/// Peer exchange with one peer.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    told: BTreeMap<SocketAddr, PexFlags>,
    told_at: Option<Instant>,
    heard_at: Option<Instant>,
}

impl Exchange {
    /// Whether it is time to tell something.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.told_at.is_none_or(|at| now.since(at) >= INTERVAL)
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
        self.told_at = Some(now);
        Some(Pex { added, dropped })
    }

    /// Whether a message of the peer with so many addresses may be taken.
    pub(crate) fn may_hear(&mut self, now: Instant, entries: usize) -> bool {
        let too_often = self.heard_at.is_some_and(|at| now.since(at) < INTERVAL_MIN);
        if too_often || entries > MAX_PEX_ENTRIES {
            return false;
        }
        self.heard_at = Some(now);
        true
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
        let mut exchange = Exchange::default();
        assert_eq!(exchange.change(at(0), &BTreeMap::new()), None);
        let mut current: BTreeMap<_, _> = (1..=60).map(|port| (address(port), PexFlags::REACHABLE)).collect();
        assert_eq!(exchange.change(at(0), &current).map(|change| change.added.len()), Some(50));
        assert_eq!(exchange.change(at(59), &current), None);
        current.remove(&address(1));
        let change = exchange.change(at(60), &current).expect("changes");
        assert_eq!((change.added.len(), change.dropped), (10, vec![address(1)]));
        assert_eq!(exchange.change(at(120), &current), None);
    }

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    #[test]
    fn talkative_peers_are_ignored() {
        let mut exchange = Exchange::default();
        assert!(!exchange.may_hear(at(0), 201));
        assert!(exchange.may_hear(at(0), 200));
        assert!(!exchange.may_hear(at(29), 1));
        assert!(exchange.may_hear(at(30), 1));
    }
}
