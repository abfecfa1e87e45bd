//! The engine: what goes in and out, and which part answers which message.

use crate::community::{Community, DISCOVERY};
use crate::peers::{Peer, PeerInfo, Peers};
use crate::refusal::Refusal;
use crate::requests::Requests;
use crate::walk::{Pin, Walk};
use crate::wan::WanVotes;
use crate::wire::{Style, id};
use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_wire::{
    CommunityId, Frame, Instant, Limit, Now, Packet, Rate, SIGNED_OVERHEAD, SourceLimit, UNSIGNED_OVERHEAD,
    sign_packet, unsigned_packet,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{SocketAddr, SocketAddrV4};

/// How an overlay is set up.
#[derive(Clone, Debug)]
pub struct OverlayConfig {
    /// Our own address in our network: the interface's, with the bound port.
    pub lan: SocketAddrV4,
    /// The communities we are in.
    pub communities: Vec<Community>,
    /// Whether we are in discovery too. Several overlays of one node share an address, and only one of them may be.
    pub discovery: bool,
    /// Addresses of servers that introduce peers and never become peers.
    pub bootstrap: Vec<SocketAddr>,
    /// With more peers than this in a community, requests of that community are dropped.
    pub max_peers: usize,
    /// A community with fewer peers than this looks for more.
    pub target_peers: usize,
}

impl OverlayConfig {
    /// The defaults of the field, in no community but discovery.
    //= spec/overlay.md#51-behaviour
    pub const fn at(lan: SocketAddrV4) -> Self {
        Self {
            lan,
            communities: Vec::new(),
            discovery: true,
            bootstrap: Vec::new(),
            max_peers: 30,
            target_peers: 20,
        }
    }
}

/// What the overlay wants done or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverlayOutput {
    /// Send a datagram.
    Transmit {
        /// To whom.
        to: SocketAddr,
        /// The whole datagram.
        bytes: Bytes,
    },
    /// Something happened.
    Event(OverlayEvent),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverlayEvent {
    /// A peer was verified in a community; told again with each introduction it gives, because the extra bytes may
    /// have changed.
    PeerFound {
        /// Where it was found.
        community: CommunityId,
        /// Its identity.
        key: PublicKey,
        /// Where it answers.
        address: SocketAddr,
        /// The community's own bytes; empty when not known.
        extra: Bytes,
    },
    /// A peer fell silent and was dropped from all communities.
    PeerLost {
        /// Its identity.
        key: PublicKey,
    },
    /// A message of a community's own.
    Message {
        /// The community.
        community: CommunityId,
        /// Where the datagram came from.
        from: SocketAddr,
        /// Who signed it; `None` for an unsigned message.
        sender: Option<PublicKey>,
        /// The message id.
        id: u8,
        /// The message's fields.
        payload: Bytes,
    },
    /// A datagram was refused, or a message could not be sent.
    Rejected {
        /// Why.
        reason: &'static str,
    },
}

/// Datagrams of one source: far more than any protocol of ours sends, below what one core can read.
const DATAGRAM_RATE: Rate = Rate { per_second: 4_000, burst: 8_000 };
/// Signatures checked for all: a tenth of a core (a check takes about 40 us).
const SIGNATURE_RATE: Rate = Rate { per_second: 2_500, burst: 2_500 };
/// Signatures checked for one source, so that it cannot use up the budget of all.
const SIGNATURE_SOURCE_RATE: Rate = Rate { per_second: 250, burst: 500 };
/// Punctures sent: each answers an unsigned packet, towards an address that the asker names.
//= spec/overlay.md#13-where-we-must-be-better-than-the-reference
const PUNCTURE_RATE: Rate = Rate { per_second: 10, burst: 10 };
/// Punctures sent at the wish of one source.
const PUNCTURE_SOURCE_RATE: Rate = Rate { per_second: 4, burst: 8 };
/// What UDP carries.
//= spec/overlay.md#8-packet-size
const DATAGRAM_LEN_MAX: usize = 65_507;

/// One node's place in the overlay. See the crate's documentation.
pub struct Overlay {
    pub(crate) config: OverlayConfig,
    pub(crate) key: SecretKey,
    pub(crate) rng: Rng,
    pub(crate) communities: BTreeMap<CommunityId, Membership>,
    pub(crate) bootstrap: BTreeSet<SocketAddr>,
    pub(crate) pins: BTreeMap<SocketAddr, Pin>,
    pub(crate) peers: Peers,
    pub(crate) requests: Requests,
    pub(crate) wan: WanVotes,
    pub(crate) limits: Limits,
    pub(crate) next_tick: Instant,
    pub(crate) similarity_sent: Option<Instant>,
    clock: u64,
    outputs: VecDeque<OverlayOutput>,
    refusals: BTreeMap<&'static str, u64>,
}

/// Our side of one community.
pub(crate) struct Membership {
    community: Community,
    pub(crate) extra: Bytes,
    pub(crate) walk: Walk,
}

/// All rates of one overlay.
pub(crate) struct Limits {
    datagrams: SourceLimit,
    signatures: Limit,
    source_signatures: SourceLimit,
    pub(crate) punctures: Limit,
    pub(crate) source_punctures: SourceLimit,
}

impl Overlay {
    /// An overlay that knows nobody yet.
    pub fn new(config: OverlayConfig, key: SecretKey, mut rng: Rng, now: Now) -> Self {
        let discovery = config.discovery.then(Community::discovery);
        let joined = config.communities.iter().copied().chain(discovery);
        let communities = joined
            .map(|community| {
                (community.id, Membership { community, extra: Bytes::new(), walk: Walk::default() })
            })
            .collect();
        let next_tick = now.mono + crate::walk::first_tick(&mut rng);
        Self {
            bootstrap: config.bootstrap.iter().copied().collect(),
            config,
            key,
            rng,
            communities,
            pins: BTreeMap::new(),
            peers: Peers::default(),
            requests: Requests::default(),
            wan: WanVotes::default(),
            limits: Limits::new(),
            next_tick,
            similarity_sent: None,
            clock: 0,
            outputs: VecDeque::new(),
            refusals: BTreeMap::new(),
        }
    }

    /// Takes a datagram.
    pub fn handle_datagram(&mut self, now: Now, from: SocketAddr, datagram: &[u8]) {
        if let Err(refusal) = self.receive(now.mono, from, datagram) {
            self.refuse(refusal);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.tick_if_due(now.mono);
    }

    /// The next thing to do or to hear of.
    pub fn poll(&mut self) -> Option<OverlayOutput> {
        self.outputs.pop_front()
    }

    /// Sets the bytes that our introductions in `community` carry.
    pub fn set_extra(&mut self, community: CommunityId, extra: Vec<u8>) {
        if let Some(membership) = self.communities.get_mut(&community) {
            membership.extra = extra.into();
        }
    }

    /// Sends a message of a community's own.
    pub fn send(
        &mut self,
        _now: Now,
        community: CommunityId,
        to: SocketAddr,
        id: u8,
        signed: bool,
        payload: &[u8],
    ) {
        let overhead = if signed { SIGNED_OVERHEAD } else { UNSIGNED_OVERHEAD };
        if overhead + payload.len() > DATAGRAM_LEN_MAX {
            return self.refuse(Refusal::MessageTooLarge);
        }
        self.transmit(community, to, id, signed, payload);
    }

    /// When to call [`Self::handle_timeout`] next.
    pub const fn next_timeout(&self) -> Option<Instant> {
        Some(self.next_tick)
    }

    /// Where a peer answers.
    pub fn address_of(&self, key: &PublicKey) -> Option<SocketAddr> {
        self.peers.get(key).map(|peer| peer.address)
    }

    /// All verified peers.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.peers.infos()
    }

    /// Up to `count` random verified peers of a community.
    pub fn random_peers(&mut self, community: CommunityId, count: usize) -> Vec<(PublicKey, SocketAddr)> {
        let member = |peer: &Peer| peer.communities.contains_key(&community);
        let keys = self.peers.sample(&mut self.rng, count, member);
        keys.iter().filter_map(|key| Some((*key, self.address_of(key)?))).collect()
    }

    /// Our own address in our network.
    pub const fn lan(&self) -> SocketAddrV4 {
        self.config.lan
    }

    /// Our address as others see it; our own idea of it until they told.
    pub fn wan(&self) -> SocketAddrV4 {
        self.wan.elected().unwrap_or(self.config.lan)
    }

    /// How often something was refused, by reason.
    pub const fn refusals(&self) -> &BTreeMap<&'static str, u64> {
        &self.refusals
    }

    /// Judges a datagram: cheap checks first, the signature last.
    //= spec/overlay.md#13-where-we-must-be-better-than-the-reference
    fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Result<(), Refusal> {
        if from.port() == 0 || from.ip().is_unspecified() || from.ip().is_multicast() {
            return Err(Refusal::SourceAddress);
        }
        if !self.limits.datagrams.take(now, from.ip()) {
            return Err(Refusal::SourceRate);
        }
        let frame = Frame::parse(datagram)?;
        let Some(membership) = self.communities.get(&frame.community) else {
            return Err(Refusal::UnknownCommunity);
        };
        let community = membership.community;
        match frame.message_id {
            id::INTRODUCTION_REQUEST => self.on_request(now, from, &frame, datagram.len(), Style::Old),
            id::NEW_INTRODUCTION_REQUEST => self.on_request(now, from, &frame, datagram.len(), Style::New),
            id::INTRODUCTION_RESPONSE => self.on_response(now, from, &frame, datagram.len(), Style::Old),
            id::NEW_INTRODUCTION_RESPONSE => self.on_response(now, from, &frame, datagram.len(), Style::New),
            id::PUNCTURE_REQUEST => self.on_puncture_request(now, from, &frame, Style::Old),
            id::NEW_PUNCTURE_REQUEST => self.on_puncture_request(now, from, &frame, Style::New),
            // It opened the NAT by arriving, and has no other effect: not worth a signature check.
            id::PUNCTURE | id::NEW_PUNCTURE => Ok(()),
            // 244 to 235 and eight ids above: once used by Dispersy.
            235..=248 | 251..=255 => Err(Refusal::DeprecatedId),
            _ if community.id == DISCOVERY => self.on_discovery(now, from, &frame),
            _ => self.on_message(now, from, &frame, &community),
        }
    }

    /// Passes on a message of a community's own.
    fn on_message(
        &mut self,
        now: Instant,
        from: SocketAddr,
        frame: &Frame<'_>,
        community: &Community,
    ) -> Result<(), Refusal> {
        let packet = if community.signed_ids.contains(&frame.message_id) {
            self.signed(now, from, frame)?.0
        } else if community.unsigned_ids.contains(&frame.message_id) {
            frame.unsigned()?
        } else {
            return Err(Refusal::UnknownId);
        };
        self.event(OverlayEvent::Message {
            community: community.id,
            from,
            sender: packet.sender,
            id: frame.message_id,
            payload: Bytes::copy_from_slice(packet.payload),
        });
        Ok(())
    }

    /// Reads a signed packet. A key that signs from another address than its peer's is asked to prove that one.
    pub(crate) fn signed<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        frame: &Frame<'a>,
    ) -> Result<(Packet<'a>, PublicKey), Refusal> {
        let (packet, key) = self.verified(now, from, frame)?;
        if self.address_of(&key).is_some_and(|address| address != from) {
            self.challenge(now, frame.community, &key, from);
        }
        Ok((packet, key))
    }

    /// Checks a signature: within the budget, and not our own. A peer that signs from its own address lives.
    pub(crate) fn verified<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        frame: &Frame<'a>,
    ) -> Result<(Packet<'a>, PublicKey), Refusal> {
        let claimed = frame.claimed_sender()?;
        //= spec/overlay.md#51-behaviour
        if claimed == self.key.public() {
            return Err(Refusal::OwnKey);
        }
        if !self.limits.source_signatures.take(now, from.ip()) || !self.limits.signatures.take(now) {
            return Err(Refusal::SignatureBudget);
        }
        let packet = frame.signed()?;
        if let Some(peer) = self.peers.get_mut(&claimed)
            && peer.address == from
        {
            peer.last_seen = now;
        }
        Ok((packet, claimed))
    }

    /// Sends a message, whoever's it is.
    pub(crate) fn transmit(
        &mut self,
        community: CommunityId,
        to: SocketAddr,
        id: u8,
        signed: bool,
        payload: &[u8],
    ) {
        // The clock means nothing and saves nothing; everybody counts it up by one per message.
        self.clock += 1;
        let bytes = if signed {
            sign_packet(&self.key, community, id, self.clock, payload)
        } else {
            unsigned_packet(community, id, self.clock, payload)
        };
        self.outputs.push_back(OverlayOutput::Transmit { to, bytes: bytes.into() });
    }

    pub(crate) fn event(&mut self, event: OverlayEvent) {
        self.outputs.push_back(OverlayOutput::Event(event));
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        let reason = refusal.reason();
        *self.refusals.entry(reason).or_default() += 1;
        self.event(OverlayEvent::Rejected { reason });
    }
}

impl Limits {
    const fn new() -> Self {
        Self {
            datagrams: SourceLimit::new(DATAGRAM_RATE),
            signatures: Limit::new(SIGNATURE_RATE),
            source_signatures: SourceLimit::new(SIGNATURE_SOURCE_RATE),
            punctures: Limit::new(PUNCTURE_RATE),
            source_punctures: SourceLimit::new(PUNCTURE_SOURCE_RATE),
        }
    }
}
