//! Introductions: who becomes a peer, whom we introduce to whom, and what we learn from answers.
//= spec/overlay.md#51-behaviour

use crate::community::DISCOVERY;
use crate::overlay::{Overlay, OverlayEvent};
use crate::peers::Peer;
use crate::refusal::Refusal;
use crate::requests::{Open, Question};
use crate::wan::is_private;
use crate::wire::{
    IntroductionRequest, IntroductionResponse, Puncture, PunctureRequest, Style, UNKNOWN, known, same_host,
};
use bytes::Bytes;
use fairshare_crypto::{Mid, PublicKey};
use fairshare_wire::{CommunityId, Frame, Instant, SIGNED_OVERHEAD};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How often a peer is asked to prove another address.
const CHALLENGE_INTERVAL: Duration = Duration::from_secs(1);
/// Extra bytes kept of a peer: a chain length has four, the hidden services' lists below 800.
const EXTRA_LEN_MAX: usize = 1_024;

/// What an introduction says about its sender.
struct Sender {
    key: PublicKey,
    address: SocketAddr,
    lan: SocketAddr,
    new_style: bool,
    extra: Bytes,
    /// It answered a fresh question of ours from this address, so it is no replay.
    proved: bool,
}

impl Overlay {
    /// An introduction request: its sender becomes a peer and is introduced to another one.
    pub(crate) fn on_request(
        &mut self,
        now: Instant,
        from: SocketAddr,
        frame: &Frame<'_>,
        len: usize,
        style: Style,
    ) -> Result<(), Refusal> {
        if len < SIGNED_OVERHEAD + style.request_len_min() {
            return Err(Refusal::Malformed);
        }
        if self.peers.members(frame.community).count() > self.config.max_peers {
            return Err(Refusal::PeerLimit);
        }
        let (packet, key) = self.signed(now, from, frame)?;
        let request = if frame.community == DISCOVERY {
            IntroductionRequest::decode_discovery(style, packet.payload)?
        } else {
            IntroductionRequest::decode(style, packet.payload)?
        };
        let sender = Sender {
            key,
            address: from,
            lan: request.source_lan,
            new_style: request.supports_new_style,
            extra: bounded_extra(&request.extra),
            proved: false,
        };
        self.meet(now, frame.community, sender);
        self.introduce(frame.community, &key, from, &request, style);
        Ok(())
    }

    /// An introduction response: only the answer to a fresh question introduces anybody.
    pub(crate) fn on_response(
        &mut self,
        now: Instant,
        from: SocketAddr,
        frame: &Frame<'_>,
        len: usize,
        style: Style,
    ) -> Result<(), Refusal> {
        if len < SIGNED_OVERHEAD + style.response_len_min() {
            return Err(Refusal::Malformed);
        }
        let community = frame.community;
        let (packet, key) = self.verified(now, from, frame)?;
        let response = IntroductionResponse::decode(style, packet.payload)?;
        let asked = self.requests.answer(response.identifier, community, from, |question| {
            matches!(question, Question::Introduction)
        });
        if asked.is_none() {
            self.add_candidate(community, from, response.supports_new_style);
            return Err(Refusal::Unrequested);
        }
        self.wan.report(now, from.ip(), &response.destination);
        self.answered(community, from);
        let sender = Sender {
            key,
            address: from,
            lan: response.source_lan,
            new_style: response.supports_new_style,
            extra: bounded_extra(&response.extra),
            proved: true,
        };
        self.meet(now, community, sender);
        self.record_introduction(community, &response);
        if community == DISCOVERY && self.peers.get(&key).is_some() {
            self.request_similarity(now, from);
        }
        Ok(())
    }

    /// A puncture request: unsigned, so only for peers, and few.
    //= spec/overlay.md#13-where-we-must-be-better-than-the-reference
    pub(crate) fn on_puncture_request(
        &mut self,
        now: Instant,
        from: SocketAddr,
        frame: &Frame<'_>,
        style: Style,
    ) -> Result<(), Refusal> {
        let community = frame.community;
        if !self.peers.is_member(community, &from) && !self.bootstrap.contains(&from) {
            return Err(Refusal::PunctureStranger);
        }
        let request = PunctureRequest::decode(style, frame.unsigned()?.payload)?;
        let inside = same_host(&request.walker_wan, IpAddr::V4(*self.wan().ip()));
        let target = if inside { request.walker_lan } else { request.walker_wan };
        if !self.can_walk_to(&target) {
            return Err(Refusal::PunctureTarget);
        }
        if !self.limits.source_punctures.take(now, from.ip()) || !self.limits.punctures.take(now) {
            return Err(Refusal::PunctureRate);
        }
        let puncture = Puncture {
            source_lan: SocketAddr::V4(self.config.lan),
            // A quirk of living peers: the walker's address, not our own.
            source_wan: request.walker_wan,
            identifier: request.identifier,
        };
        self.transmit(community, target, style.puncture_id(), true, &puncture.encode(style));
        Ok(())
    }

    /// Asks `to` who it is and whom it knows.
    pub(crate) fn request_introduction(&mut self, now: Instant, community: CommunityId, to: SocketAddr) {
        let Some(membership) = self.communities.get(&community) else {
            return;
        };
        let extra = membership.extra.to_vec();
        let known_new =
            self.peers.at(&to).map_or_else(|| membership.walk.is_new_style(&to), |peer| peer.new_style);
        //= spec/overlay.md#52-choosing-the-style-25
        let style = if known_new || to.is_ipv6() { Style::New } else { Style::Old };
        let open = Open { community, address: to, question: Question::Introduction, asked: now };
        let Some(identifier) = self.requests.ask(&mut self.rng, open) else {
            return;
        };
        let request = IntroductionRequest {
            destination: to,
            source_lan: SocketAddr::V4(self.config.lan),
            source_wan: SocketAddr::V4(self.wan()),
            identifier,
            // As 3.x does towards addresses that it knows nothing of.
            supports_new_style: false,
            wanted: None,
            extra,
        };
        self.transmit(community, to, style.request_id(), true, &request.encode(style));
    }

    /// A known key signed something from another address: a replay, or it moved. It must answer there first.
    //= spec/overlay.md#13-where-we-must-be-better-than-the-reference
    pub(crate) fn challenge(
        &mut self,
        now: Instant,
        community: CommunityId,
        key: &PublicKey,
        address: SocketAddr,
    ) {
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        let lately = peer.challenged.is_some_and(|at| now.since(at) < CHALLENGE_INTERVAL);
        if lately || self.requests.asked(community, address, now - CHALLENGE_INTERVAL) {
            return;
        }
        peer.challenged = Some(now);
        self.request_introduction(now, community, address);
    }

    /// Counts a peer of one of our communities in another one, as it told us itself.
    pub(crate) fn join(&mut self, community: CommunityId, key: &PublicKey) {
        if !self.has_room(community) {
            return;
        }
        let Some(peer) = self.peers.get_mut(key) else {
            return;
        };
        if peer.communities.contains_key(&community) {
            return;
        }
        peer.communities.insert(community, Bytes::new());
        let (address, new_style) = (peer.address, peer.new_style);
        self.event(OverlayEvent::PeerFound { community, key: *key, address, extra: Bytes::new() });
        // Its extra bytes of that community come with an introduction.
        self.add_candidate(community, address, new_style);
    }

    fn has_room(&self, community: CommunityId) -> bool {
        self.communities.contains_key(&community)
            && self.peers.members(community).count() <= self.config.max_peers
    }

    /// The sender of an introduction becomes, stays or moves as a peer.
    fn meet(&mut self, now: Instant, community: CommunityId, sender: Sender) {
        if self.bootstrap.contains(&sender.address) {
            return;
        }
        let known_at = self.peers.get(&sender.key).map(|peer| peer.address);
        match known_at {
            Some(address) if address == sender.address => {}
            Some(_) if sender.proved => self.peers.relocate(&sender.key, sender.address),
            // The challenge is on its way; until it is answered the old address stays.
            Some(_) => return,
            None if !self.has_room(community) => return,
            None => self.peers.insert(Peer::new(sender.key, sender.address, now)),
        }
        let room = self.has_room(community);
        let Some(peer) = self.peers.get_mut(&sender.key) else {
            return;
        };
        peer.last_seen = now;
        peer.new_style |= sender.new_style;
        peer.lan = known(&sender.lan).then_some(sender.lan);
        if !room && !peer.communities.contains_key(&community) {
            return;
        }
        let before = peer.communities.insert(community, sender.extra.clone());
        if sender.proved || before.as_ref() != Some(&sender.extra) {
            let Sender { key, address, extra, .. } = sender;
            self.event(OverlayEvent::PeerFound { community, key, address, extra });
        }
    }

    /// Answers a request: with a random peer, which is told to open its NAT.
    fn introduce(
        &mut self,
        community: CommunityId,
        requester: &PublicKey,
        from: SocketAddr,
        request: &IntroductionRequest,
        style: Style,
    ) {
        let introduced = self.choose_introduction(community, requester, request, style);
        let (mut introduced_lan, mut introduced_wan, mut new_style) = (UNKNOWN, UNKNOWN, false);
        if let Some(peer) = introduced {
            let puncture = PunctureRequest {
                // By a quirk of living peers what the requester takes for our address.
                walker_lan: request.destination,
                walker_wan: from,
                identifier: request.identifier,
            };
            new_style = peer.new_style;
            let style = if peer.new_style { Style::New } else { Style::Old };
            (introduced_lan, introduced_wan) = self.introduced_addresses(&peer);
            let id = style.puncture_request_id();
            self.transmit(community, peer.address, id, false, &puncture.encode(style));
        }
        let extra = self.communities.get(&community).map(|membership| membership.extra.to_vec());
        let response = IntroductionResponse {
            destination: from,
            source_lan: SocketAddr::V4(self.config.lan),
            source_wan: SocketAddr::V4(self.wan()),
            introduced_lan,
            introduced_wan,
            identifier: request.identifier,
            supports_new_style: true,
            introduced_supports_new_style: new_style,
            peer_limit: !self.has_room(community),
            extra: extra.unwrap_or_default(),
        };
        self.transmit(community, from, style.response_id(), true, &response.encode(style));
    }

    fn choose_introduction(
        &mut self,
        community: CommunityId,
        requester: &PublicKey,
        request: &IntroductionRequest,
        style: Style,
    ) -> Option<Peer> {
        let fits = |peer: &Peer| {
            peer.key != *requester
                && peer.communities.contains_key(&community)
                && (style == Style::New || peer.address.is_ipv4())
        };
        let wanted = request.wanted.and_then(|mid| self.peers.by_mid(Mid(mid))).filter(|peer| fits(peer));
        if let Some(peer) = wanted {
            return Some(peer.clone());
        }
        let chosen = self.peers.sample(&mut self.rng, 1, fits);
        chosen.first().and_then(|key| self.peers.get(key)).cloned()
    }

    fn introduced_addresses(&self, peer: &Peer) -> (SocketAddr, SocketAddr) {
        match peer.address {
            // A neighbour in our own network: from outside it has our address.
            SocketAddr::V4(inside) if is_private(*inside.ip()) => {
                (peer.address, SocketAddr::from((*self.wan().ip(), inside.port())))
            }
            _ => (peer.lan.unwrap_or(UNKNOWN), peer.address),
        }
    }

    /// Where the introduced peer can be walked to.
    fn record_introduction(&mut self, community: CommunityId, response: &IntroductionResponse) {
        let (lan, wan) = (response.introduced_lan, response.introduced_wan);
        let new_style = response.introduced_supports_new_style;
        let our_wan = IpAddr::V4(*self.wan().ip());
        if known(&wan) && !same_host(&wan, our_wan) {
            self.add_candidate(community, lan, new_style);
            self.add_candidate(community, wan, new_style);
        } else if known(&lan) && same_host(&wan, our_wan) {
            self.add_candidate(community, lan, new_style);
        } else if known(&wan) {
            self.add_candidate(community, wan, new_style);
            let beside_us = SocketAddr::from((*self.config.lan.ip(), wan.port()));
            self.add_candidate(community, beside_us, new_style);
        }
    }
}

fn bounded_extra(extra: &[u8]) -> Bytes {
    Bytes::copy_from_slice(extra.get(..EXTRA_LEN_MAX).unwrap_or(extra))
}
