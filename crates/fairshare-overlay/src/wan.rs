//! Our address as others see it: the one that most independent networks report, so that one liar moves nothing.
//= spec/overlay.md#13-where-we-must-be-better-than-the-reference

use crate::wire::known_v4;
use fairshare_wire::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

/// Networks whose report is kept: more opinions do not make it surer.
const NETWORKS_MAX: usize = 64;

/// Reports of our address outside, one per /16 network of the reporters.
#[derive(Clone, Debug, Default)]
pub(crate) struct WanVotes {
    votes: BTreeMap<[u8; 2], Vote>,
    elected: Option<SocketAddrV4>,
}

#[derive(Clone, Copy, Debug)]
struct Vote {
    address: SocketAddrV4,
    at: Instant,
}

impl WanVotes {
    /// Takes what `reporter` says our address is; private addresses say nothing.
    //= spec/overlay.md#4-addresses
    pub(crate) fn report(&mut self, now: Instant, reporter: IpAddr, seen: &SocketAddr) {
        let (IpAddr::V4(reporter), Some(address)) = (reporter, known_v4(seen)) else {
            return;
        };
        if is_private(*address.ip()) {
            return;
        }
        let [a, b, ..] = reporter.octets();
        if self.votes.len() >= NETWORKS_MAX && !self.votes.contains_key(&[a, b]) {
            self.forget_oldest();
        }
        self.votes.insert([a, b], Vote { address, at: now });
        self.elect();
    }

    /// The address with the most votes; the present one stays on a tie.
    pub(crate) const fn elected(&self) -> Option<SocketAddrV4> {
        self.elected
    }

    fn elect(&mut self) {
        let mut counts = BTreeMap::<SocketAddrV4, usize>::new();
        for vote in self.votes.values() {
            *counts.entry(vote.address).or_default() += 1;
        }
        let votes_of = |address: Option<SocketAddrV4>| {
            address.and_then(|address| counts.get(&address)).copied().unwrap_or_default()
        };
        let mut best = self.elected;
        for (address, count) in &counts {
            if *count > votes_of(best) {
                best = Some(*address);
            }
        }
        self.elected = best;
    }

    fn forget_oldest(&mut self) {
        let oldest = self.votes.iter().min_by_key(|(_, vote)| vote.at).map(|(network, _)| *network);
        if let Some(network) = oldest {
            self.votes.remove(&network);
        }
    }
}

/// Private: one of the three ranges of RFC 1918. Loopback is not, so that tests on one machine work.
pub(crate) const fn is_private(ip: Ipv4Addr) -> bool {
    ip.is_private()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("literal")
    }

    fn report(votes: &mut WanVotes, reporter: [u8; 4], seen: &str) {
        votes.report(Instant::START, IpAddr::from(reporter), &address(seen));
    }

    //= spec/overlay.md#13-where-we-must-be-better-than-the-reference
    #[test]
    fn one_lying_network_does_not_move_our_address() {
        let mut votes = WanVotes::default();
        report(&mut votes, [10, 1, 0, 1], "1.2.3.4:8090");
        report(&mut votes, [10, 2, 0, 1], "1.2.3.4:8090");
        for host in 0..100 {
            report(&mut votes, [10, 3, 0, host], "6.6.6.6:8090");
        }
        assert_eq!(votes.elected().map(SocketAddr::V4), Some(address("1.2.3.4:8090")));
        report(&mut votes, [10, 4, 0, 1], "6.6.6.6:8090");
        report(&mut votes, [10, 5, 0, 1], "6.6.6.6:8090");
        assert_eq!(votes.elected().map(SocketAddr::V4), Some(address("6.6.6.6:8090")));
    }

    //= spec/overlay.md#4-addresses
    #[test]
    fn a_private_address_says_nothing_but_loopback_does() {
        let mut votes = WanVotes::default();
        for private in ["10.0.0.1:1", "172.16.0.1:1", "192.168.1.1:1", "0.0.0.0:0", "1.2.3.4:0"] {
            report(&mut votes, [9, 9, 9, 9], private);
        }
        assert_eq!(votes.elected(), None);
        report(&mut votes, [127, 0, 0, 2], "127.0.0.1:8090");
        assert_eq!(votes.elected().map(SocketAddr::V4), Some(address("127.0.0.1:8090")));
    }

    #[test]
    fn the_number_of_opinions_is_bounded() {
        let mut votes = WanVotes::default();
        for network in 0..=255 {
            report(&mut votes, [20, network, 0, 1], "1.2.3.4:8090");
        }
        assert_eq!(votes.votes.len(), NETWORKS_MAX);
    }
}
