//! What all torrents of the engine share: settings, outputs, tickets of open requests, and the limits that count
//! across torrents.

use crate::addresses::AddressSource;
use crate::config::{Anonymity, SwarmConfig};
use crate::event::{StreamId, SwarmEvent, SwarmOutput};
use crate::metainfo::InfoHash;
use crate::request::Request;
use crate::tracker::{TrackerId, UdpTrackers, is_http};
use fairshare_crypto::{PublicKey, Rng};
use fairshare_wire::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// Blocks held in memory or asked for, whose pieces are not verified: beyond this nothing is requested.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
pub(crate) const MAX_UNVERIFIED_BYTES: u64 = 256 << 20;

/// Proofs of identity begun per second with peers of one /24 or /48; each costs us signatures. The number of networks
/// counted at once is bounded by the number of connections.
//= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r
const MAX_PROOFS: u32 = 20;

/// What a request was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Open,
    Store { piece: u32 },
    Read { id: StreamId },
    Save { finished: bool },
    Close,
    Announce { tracker: TrackerId },
}

/// Shared by all torrents; handed to each of their verbs.
#[derive(Debug)]
pub(crate) struct Context {
    /// The settings.
    pub(crate) config: SwarmConfig,
    /// The public half of the identity, if there is one.
    pub(crate) own_key: Option<PublicKey>,
    /// Randomness that belongs to no torrent.
    pub(crate) rng: Rng,
    /// Outputs in order.
    pub(crate) out: VecDeque<SwarmOutput>,
    /// Connections with messages that were not put out yet.
    pub(crate) unflushed: BTreeSet<(InfoHash, StreamId)>,
    /// Sessions whose totals changed since they were last told.
    pub(crate) changed: BTreeSet<(InfoHash, StreamId)>,
    /// Streams that we closed and the engine's table still lists.
    pub(crate) closed: Vec<StreamId>,
    /// Whether nobody is called and no tracker asked for the moment: there is no way out.
    pub(crate) held: bool,
    /// When an evaluation of some choker is due, apart from the tick.
    pub(crate) wake: Option<Instant>,
    /// Bytes held or asked for in unverified pieces, over all torrents.
    pub(crate) unverified_bytes: u64,
    /// Announcements over UDP.
    pub(crate) udp: UdpTrackers,
    tickets: BTreeMap<u64, (InfoHash, Purpose)>,
    next_ticket: u64,
    next_stream: u64,
    dials: DialRate,
    proofs: ProofRate,
}

impl Context {
    /// A context without any torrent.
    pub(crate) fn new(config: SwarmConfig, rng: Rng) -> Self {
        //= spec/swarm.md#13-anonymous-torrents
        let identity = config.identity.filter(|_| config.anonymity == Anonymity::Clear);
        let config = SwarmConfig { identity, ..config };
        Self {
            own_key: config.identity.as_ref().map(fairshare_crypto::SecretKey::public),
            dials: DialRate { per_second: config.max_dials_per_second, ..DialRate::default() },
            config,
            udp: UdpTrackers::new(rng.fork("udp trackers")),
            rng,
            out: VecDeque::new(),
            unflushed: BTreeSet::new(),
            changed: BTreeSet::new(),
            closed: Vec::new(),
            held: false,
            wake: None,
            unverified_bytes: 0,
            tickets: BTreeMap::new(),
            next_ticket: 0,
            next_stream: 0,
            proofs: ProofRate::default(),
        }
    }

    /// Whether peers see our address.
    pub(crate) fn is_clear(&self) -> bool {
        self.config.anonymity == Anonymity::Clear
    }

    /// Whether peers have no address.
    pub(crate) fn is_hidden(&self) -> bool {
        self.config.anonymity == Anonymity::Hidden
    }

    /// The trackers that may be asked: none while hidden, and pages behind an exit only if the host fetches them there.
    //= spec/swarm.md#13-anonymous-torrents
    pub(crate) fn usable_trackers(&self, tiers: &[Vec<String>]) -> Vec<Vec<String>> {
        let usable = |url: &&String| match self.config.anonymity {
            Anonymity::Clear => true,
            Anonymity::Exit => self.config.pages_through_exit || !is_http(url),
            Anonymity::Hidden => false,
        };
        tiers.iter().map(|tier| tier.iter().filter(usable).cloned().collect()).collect()
    }

    /// What addresses are that the host gives us.
    pub(crate) fn given_source(&self) -> AddressSource {
        if self.is_hidden() { AddressSource::Circuit } else { AddressSource::User }
    }

    /// Puts an event out.
    pub(crate) fn event(&mut self, event: SwarmEvent) {
        self.out.push_back(SwarmOutput::Event(event));
    }

    /// Closes a stream after what was written to it.
    pub(crate) fn close(&mut self, id: StreamId) {
        self.closed.push(id);
        self.out.push_back(SwarmOutput::Close(id));
    }

    /// Asks to be woken at `at`.
    pub(crate) fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Puts a request out and remembers what it is for.
    pub(crate) fn request(&mut self, torrent: InfoHash, purpose: Purpose, request: Request) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.tickets.insert(ticket, (torrent, purpose));
        self.out.push_back(SwarmOutput::Request { ticket, request });
        ticket
    }

    /// What the ticket was for; it is used up.
    pub(crate) fn take_ticket(&mut self, ticket: u64) -> Option<(InfoHash, Purpose)> {
        self.tickets.remove(&ticket)
    }

    /// A number for a stream that we open: even, never used before.
    pub(crate) fn new_stream(&mut self) -> StreamId {
        self.next_stream += 2;
        StreamId(self.next_stream)
    }

    /// Whether one more proof of identity may be begun with a peer of this network; counts it.
    pub(crate) fn may_prove(&mut self, now: Instant, network: IpAddr) -> bool {
        self.proofs.take(now, network)
    }

    /// Whether one more connection may be begun in this second; counts it if so.
    pub(crate) fn may_dial(&mut self, now: Instant) -> bool {
        self.dials.take(now)
    }
}

/// Proofs of identity begun in the current second, by network.
#[derive(Clone, Debug, Default)]
struct ProofRate {
    since: Instant,
    begun: BTreeMap<IpAddr, u32>,
}

impl ProofRate {
    fn take(&mut self, now: Instant, network: IpAddr) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, begun: BTreeMap::new() };
        }
        let begun = self.begun.entry(network).or_default();
        *begun += 1;
        *begun <= MAX_PROOFS
    }
}

/// Connections begun in the current second.
#[derive(Clone, Copy, Debug, Default)]
struct DialRate {
    per_second: u32,
    since: Instant,
    begun: u32,
}

impl DialRate {
    fn take(&mut self, now: Instant) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            (self.since, self.begun) = (now, 0);
        }
        let free = self.begun < self.per_second;
        self.begun += u32::from(free);
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r
    #[test]
    fn one_network_begins_twenty_proofs_a_second() {
        let mut proofs = ProofRate::default();
        let [one, other]: [IpAddr; 2] = [[8, 8, 8, 0].into(), [9, 9, 9, 0].into()];
        assert_eq!((0..40).filter(|_| proofs.take(Instant::START, one)).count(), 20);
        assert!(proofs.take(Instant::START, other));
        assert!(proofs.take(Instant::START + Duration::from_secs(1), one));
    }
}
