//! The seeder's side: it waits at an introduction point, and goes to a rendezvous point with each taker.
//= spec/tunnels.md#9-hidden-services

use super::is_late;
use crate::circuit::Purpose;
use crate::engine::Tunnel;
use crate::handshake::{Response, hop_keys, respond};
use crate::layer::EndToEnd;
use crate::output::{GroupId, TunnelEvent};
use crate::wire::{CircuitId, Exchange, Ident, Message, RendezvousInfo, write_bare};
use fairshare_crypto::{PublicKey, SecretKey};
use fairshare_wire::{Address, CommunityId, Instant, Now};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// Takers of one swarm at once, those that are on their way included.
const TAKERS_MAX: usize = 15;
/// Swarms of ours that are introduced at once: each holds a circuit for a day.
pub(super) const INTRODUCTIONS_MAX: usize = 10;
/// Points of takers that are remembered, so that nobody makes us build a circuit by sending an old packet again.
const SEEN_MAX: usize = 256;
/// Circuits to introduction points that were built in vain wait for this.
const RETRY: Duration = Duration::from_secs(1);

/// What a taker asked through the introduction point.
pub(crate) struct Asked {
    pub(crate) ident: Ident,
    pub(crate) info_hash: [u8; 20],
    pub(crate) seeder: PublicKey,
    pub(crate) point: [u8; 32],
    pub(crate) origin: Address,
    /// Where the rendezvous is to be: the taker is there.
    pub(crate) community: CommunityId,
}

/// A swarm that is served.
pub(crate) struct Seeding {
    /// The seeder's key for this swarm and this run: nothing else is signed or opened with it.
    key: SecretKey,
    introduction: Option<Introduction>,
    retry_at: Option<Instant>,
    /// Takers on their way, by the circuit to their rendezvous point.
    takers: BTreeMap<CircuitId, Taker>,
    /// The halves of exchanges that were answered, the newest last.
    seen: VecDeque<[u8; 32]>,
}

struct Introduction {
    circuit: CircuitId,
    asked: Option<(Ident, Instant)>,
    stands: bool,
}

struct Taker {
    ident: Ident,
    origin: Address,
    response: Response,
    since: Instant,
    /// Ident and cookie of our request for a rendezvous.
    rendezvous: Option<(Ident, [u8; 20])>,
    answered: bool,
}

impl Seeding {
    pub(super) const fn new(key: SecretKey) -> Self {
        Self { key, introduction: None, retry_at: None, takers: BTreeMap::new(), seen: VecDeque::new() }
    }

    pub(super) fn forget(&mut self, circuit: CircuitId) {
        self.takers.remove(&circuit);
        if self.introduction.as_ref().is_some_and(|one| one.circuit == circuit) {
            self.introduction = None;
        }
    }

    /// Whether an exchange begins that was not begun before; it is remembered.
    fn is_new(&mut self, point: [u8; 32]) -> bool {
        if self.seen.contains(&point) {
            return false;
        }
        if self.seen.len() >= SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(point);
        true
    }

    const fn is_introduced(&self) -> bool {
        self.introduction.is_some()
    }

    /// Whether the key is ours: takers do not connect with themselves.
    pub(super) fn is(&self, key: &PublicKey) -> bool {
        self.key.public() == *key
    }
}

impl Tunnel {
    fn seeding(&mut self, id: GroupId) -> Option<&mut Seeding> {
        self.hidden(id)?.seeding.as_mut()
    }

    /// Sees to it that the seeder is introduced somewhere.
    pub(super) fn tend_seeding(&mut self, now: Now, id: GroupId) {
        let Some(hops) = self.hidden(id).map(|hidden| hidden.hops) else { return };
        let Some(seeding) = self.seeding(id) else { return };
        let late: Vec<CircuitId> = seeding
            .takers
            .iter()
            .filter(|(_, taker)| !taker.answered && is_late(now.mono, taker.since))
            .map(|(circuit, _)| *circuit)
            .collect();
        let unanswered = seeding.introduction.as_ref().and_then(|one| {
            one.asked.filter(|(_, since)| !one.stands && is_late(now.mono, *since)).map(|_| one.circuit)
        });
        let needs = seeding.introduction.is_none() && seeding.retry_at.is_none_or(|at| at <= now.mono);
        for circuit in late.into_iter().chain(unanswered) {
            self.give_up(now, circuit, "a step of a hidden service was not answered");
        }
        if needs && self.introductions() < INTRODUCTIONS_MAX {
            self.seek_introduction(now, id, hops);
        }
    }

    /// Swarms of ours that are introduced, or about to be.
    fn introductions(&self) -> usize {
        let seeding = self.groups.values().filter_map(|group| group.hidden.as_ref()?.seeding.as_ref());
        seeding.filter(|one| one.is_introduced()).count()
    }

    fn seek_introduction(&mut self, now: Now, id: GroupId, hops: u8) {
        let circuit = self.build_hidden(now, Purpose::Introduction(id), hops + 1, None, None);
        let Some(seeding) = self.seeding(id) else { return };
        seeding.retry_at = Some(now.mono + RETRY);
        seeding.introduction = circuit.map(|circuit| Introduction { circuit, asked: None, stands: false });
    }

    pub(super) fn ask_to_be_introduced(&mut self, now: Now, id: GroupId, circuit: CircuitId) {
        let ident = self.rng.next_u16();
        let Some(info_hash) = self.hidden(id).map(|hidden| hidden.lookup) else { return };
        let Some(seeding) = self.seeding(id) else { return };
        let seeder = seeding.key.public();
        if let Some(one) = &mut seeding.introduction {
            one.asked = Some((ident, now.mono));
        }
        self.own_send(circuit, &Message::EstablishIntro { ident, info_hash, seeder });
    }

    pub(super) fn introduced(&mut self, id: GroupId, circuit: CircuitId, ident: Ident) {
        let Some(one) = self.seeding(id).and_then(|seeding| seeding.introduction.as_mut()) else { return };
        if one.circuit == circuit && one.asked.is_some_and(|(asked, _)| asked == ident) && !one.stands {
            one.stands = true;
            self.event(TunnelEvent::HiddenReady(id));
        }
    }

    /// A taker asks: our half of the exchange is computed, and a circuit to a rendezvous point begun.
    pub(super) fn taker_asks(&mut self, now: Now, id: GroupId, asked: Asked) {
        let Some(hidden) = self.hidden(id) else { return };
        let (hops, lookup) = (hidden.hops, hidden.lookup);
        let Some(seeding) = &mut hidden.seeding else { return };
        if !seeding.is(&asked.seeder) || asked.info_hash != lookup {
            return self.refuse("taker that asks for something else");
        }
        if seeding.takers.len() >= TAKERS_MAX {
            return self.refuse("too many takers");
        }
        if !seeding.is_new(asked.point) {
            return self.refuse("taker that asked before");
        }
        let key = seeding.key.clone();
        let Ok(response) = respond(&key, &mut self.rng, &asked.point) else {
            return self.refuse("taker with a weak point");
        };
        let Some(circuit) = self.build_hidden(now, Purpose::Seeding(id), hops, None, Some(asked.community))
        else {
            return self.refuse("no circuit to a rendezvous point");
        };
        let taker = Taker {
            ident: asked.ident,
            origin: asked.origin,
            response,
            since: now.mono,
            rendezvous: None,
            answered: false,
        };
        if let Some(seeding) = self.seeding(id) {
            seeding.takers.insert(circuit, taker);
        }
    }

    pub(super) fn ask_for_rendezvous(&mut self, _now: Now, id: GroupId, circuit: CircuitId) {
        let (ident, cookie) = (self.rng.next_u16(), self.rng.bytes());
        let Some(taker) = self.seeding(id).and_then(|seeding| seeding.takers.get_mut(&circuit)) else {
            return;
        };
        taker.rendezvous = Some((ident, cookie));
        self.own_send(circuit, &Message::EstablishRendezvous { ident, cookie });
    }

    /// The rendezvous point waits: the taker is told where, under the key of both ends.
    pub(super) fn rendezvous_stands(
        &mut self,
        _now: Now,
        id: GroupId,
        circuit: CircuitId,
        ident: Ident,
        address: SocketAddr,
    ) {
        let Some(one) = self.own.get(&circuit) else { return };
        let (point, community) = (one.last(), one.community);
        let Some(seeding) = self.seeding(id) else { return };
        let introduction = seeding.introduction.as_ref().filter(|one| one.stands).map(|one| one.circuit);
        let Some(taker) = seeding.takers.get_mut(&circuit).filter(|taker| !taker.answered) else { return };
        let Some((_, cookie)) = taker.rendezvous.filter(|(asked, _)| *asked == ident) else {
            return self.refuse("answer that nobody waits for");
        };
        taker.answered = true;
        let (asked, origin) = (taker.ident, taker.origin.clone());
        let (y, auth, shared) = (taker.response.point, taker.response.auth, taker.response.shared);
        let mut layer = EndToEnd::seeder(hop_keys(&shared), &mut self.rng);
        // A point that says it answers nowhere is met where we met it.
        let address = if address.ip().is_unspecified() { point.address } else { address };
        let info = RendezvousInfo { address, point: point.key, cookie };
        let candidates = layer.seal_once(&info.to_bytes()).into();
        if let Some(one) = self.own.get_mut(&circuit) {
            one.end_to_end = Some(layer);
        }
        let Some(introduction) = introduction else { return self.refuse("the introduction point is gone") };
        let exchange = Exchange { ident: asked, point: y, auth, candidates };
        let packet = write_bare(community, &Message::CreatedE2e(exchange), None);
        self.send_plain_data(introduction, &origin, &packet);
    }
}
