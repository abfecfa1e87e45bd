//! Discovery: which of our communities a peer is in, and whether it still lives.
//= spec/overlay.md#6-discoverycommunity

use crate::community::DISCOVERY;
use crate::overlay::Overlay;
use crate::refusal::Refusal;
use crate::requests::{Open, Question};
use crate::wire::{SimilarityRequest, SimilarityResponse, decode_identifier, encode_identifier, id};
use fairshare_crypto::PublicKey;
use fairshare_wire::{CommunityId, Frame, Instant};
use std::net::SocketAddr;

impl Overlay {
    /// A message of discovery's own.
    pub(crate) fn on_discovery(
        &mut self,
        now: Instant,
        from: SocketAddr,
        frame: &Frame<'_>,
    ) -> Result<(), Refusal> {
        match frame.message_id {
            id::SIMILARITY_REQUEST => self.on_similarity_request(now, from, frame),
            id::SIMILARITY_RESPONSE => self.on_similarity_response(now, from, frame),
            id::PING => self.on_ping(from, frame),
            id::PONG => self.on_pong(now, from, frame),
            _ => Err(Refusal::UnknownId),
        }
    }

    /// Asks a peer for its communities.
    pub(crate) fn request_similarity(&mut self, now: Instant, to: SocketAddr) {
        let open = Open { community: DISCOVERY, address: to, question: Question::Similarity, asked: now };
        let Some(identifier) = self.requests.ask(&mut self.rng, open) else {
            return;
        };
        let request = SimilarityRequest {
            identifier,
            lan: self.config.lan,
            wan: self.wan(),
            communities: self.communities.keys().copied().collect(),
        };
        self.transmit(DISCOVERY, to, id::SIMILARITY_REQUEST, true, &request.encode());
    }

    /// Asks a peer whether it lives.
    pub(crate) fn ping(&mut self, now: Instant, key: PublicKey, to: SocketAddr) {
        let open = Open { community: DISCOVERY, address: to, question: Question::Ping(key), asked: now };
        if let Some(identifier) = self.requests.ask(&mut self.rng, open) {
            self.transmit(DISCOVERY, to, id::PING, false, &encode_identifier(identifier));
        }
    }

    fn on_similarity_request(
        &mut self,
        now: Instant,
        from: SocketAddr,
        frame: &Frame<'_>,
    ) -> Result<(), Refusal> {
        let (packet, key) = self.signed(now, from, frame)?;
        let request = SimilarityRequest::decode(packet.payload)?;
        // Only from where the peer is verified: elsewhere it may be a replay.
        if self.address_of(&key) == Some(from) {
            self.learn(&key, &request.communities);
        }
        let response = SimilarityResponse {
            identifier: request.identifier,
            communities: self.communities.keys().copied().collect(),
        };
        self.transmit(DISCOVERY, from, id::SIMILARITY_RESPONSE, true, &response.encode());
        Ok(())
    }

    fn on_similarity_response(
        &mut self,
        now: Instant,
        from: SocketAddr,
        frame: &Frame<'_>,
    ) -> Result<(), Refusal> {
        let (packet, key) = self.signed(now, from, frame)?;
        let response = SimilarityResponse::decode(packet.payload)?;
        let fits = |question: &Question| matches!(question, Question::Similarity);
        if self.requests.answer(response.identifier, DISCOVERY, from, fits).is_none() {
            return Err(Refusal::Unrequested);
        }
        if self.address_of(&key) == Some(from) {
            self.learn(&key, &response.communities);
        }
        Ok(())
    }

    /// Remembers which of our communities a peer is in; others are not kept.
    fn learn(&mut self, key: &PublicKey, communities: &[CommunityId]) {
        for community in self.communities.keys().copied().collect::<Vec<_>>() {
            if communities.contains(&community) {
                self.join(community, key);
            }
        }
    }

    fn on_ping(&mut self, from: SocketAddr, frame: &Frame<'_>) -> Result<(), Refusal> {
        let identifier = decode_identifier(frame.unsigned()?.payload)?;
        self.transmit(DISCOVERY, from, id::PONG, false, &encode_identifier(identifier));
        Ok(())
    }

    fn on_pong(&mut self, now: Instant, from: SocketAddr, frame: &Frame<'_>) -> Result<(), Refusal> {
        let identifier = decode_identifier(frame.unsigned()?.payload)?;
        let fits = |question: &Question| matches!(question, Question::Ping(_));
        let open = self.requests.answer(identifier, DISCOVERY, from, fits).ok_or(Refusal::Unrequested)?;
        let Question::Ping(key) = open.question else {
            return Err(Refusal::Unrequested);
        };
        if let Some(peer) = self.peers.get_mut(&key)
            && peer.address == from
        {
            peer.last_seen = now;
            peer.measured(now.since(open.asked));
        }
        Ok(())
    }
}
