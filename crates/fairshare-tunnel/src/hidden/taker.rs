//! The taker's side: it finds seeders, exchanges keys with each through its introduction point, and has its circuit
//! joined at the rendezvous point.
//= spec/tunnels.md#9-hidden-services

use super::is_late;
use crate::circuit::Purpose;
use crate::engine::Tunnel;
use crate::handshake::Initiator;
use crate::hidden_names::circuit_address;
use crate::layer::EndToEnd;
use crate::output::{GroupId, TunnelEvent};
use crate::path::Hop;
use crate::wire::{CircuitId, Exchange, Ident, IntroductionInfo, Message, RendezvousInfo, write_bare};
use fairshare_crypto::PublicKey;
use fairshare_wire::{Address, CommunityId, Instant, Now};
use std::collections::BTreeMap;
use std::time::Duration;

/// Seeders of one swarm that are met at once.
const CONNECTIONS_MAX: usize = 15;
/// Introduction points that are remembered; one that was not told again for so long is forgotten.
const POINTS_MAX: usize = 50;
const POINT_AGE: Duration = Duration::from_secs(180);
/// While nobody is known the next look follows sooner, but not at once.
const LOOK_SOON: Duration = Duration::from_secs(2);

/// A swarm that is taken from.
pub(crate) struct Taking {
    /// Introduction points by the seeder's key and their own.
    points: BTreeMap<(PublicKey, PublicKey), Point>,
    look_at: Instant,
    looking: Option<Ident>,
    /// Exchanges through introduction points.
    asked: BTreeMap<Ident, Asked>,
    /// Circuits on their way to rendezvous points.
    joining: BTreeMap<CircuitId, Joining>,
    /// Seeders that are met.
    met: BTreeMap<CircuitId, PublicKey>,
}

struct Point {
    info: IntroductionInfo,
    told: Instant,
    /// How often it did not answer, or with what proves nothing.
    silences: u32,
}

struct Asked {
    seeder: PublicKey,
    through: PublicKey,
    initiator: Initiator,
    since: Instant,
    /// Where the exchange goes on: the seeder's rendezvous point is met there.
    community: CommunityId,
}

struct Joining {
    seeder: PublicKey,
    layer: Option<EndToEnd>,
    cookie: [u8; 20],
    ident: Option<Ident>,
    since: Instant,
}

impl Taking {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            points: BTreeMap::new(),
            look_at: now,
            looking: None,
            asked: BTreeMap::new(),
            joining: BTreeMap::new(),
            met: BTreeMap::new(),
        }
    }

    pub(super) fn forget(&mut self, now: Instant, circuit: CircuitId) {
        let lost = self.joining.remove(&circuit).is_some() | self.met.remove(&circuit).is_some();
        if lost {
            self.look_at = self.look_at.min(now + LOOK_SOON);
        }
    }

    fn is_busy_with(&self, seeder: &PublicKey) -> bool {
        self.asked.values().any(|one| one.seeder == *seeder)
            || self.joining.values().any(|one| one.seeder == *seeder)
            || self.met.values().any(|met| met == seeder)
    }

    /// A point that does not answer is asked again only after the others of its seeder.
    fn forget_silent(&mut self, now: Instant) {
        let late = self.asked.values().filter(|one| is_late(now, one.since));
        for (seeder, through) in late.map(|one| (one.seeder, one.through)).collect::<Vec<_>>() {
            self.blame(seeder, through);
        }
        self.asked.retain(|_, one| !is_late(now, one.since));
    }

    fn blame(&mut self, seeder: PublicKey, through: PublicKey) {
        if let Some(point) = self.points.get_mut(&(seeder, through)) {
            point.silences += 1;
        }
    }

    fn remember(&mut self, now: Instant, info: IntroductionInfo) {
        let key = (info.seeder, info.point);
        if self.points.len() < POINTS_MAX || self.points.contains_key(&key) {
            let silences = self.points.get(&key).map_or(0, |known| known.silences);
            self.points.insert(key, Point { info, told: now, silences });
        }
    }

    /// For each seeder that is not met the point that answers best.
    fn wanted(&self) -> Vec<IntroductionInfo> {
        let mut best: BTreeMap<PublicKey, &Point> = BTreeMap::new();
        for point in self.points.values().filter(|point| !self.is_busy_with(&point.info.seeder)) {
            let known = best.entry(point.info.seeder).or_insert(point);
            if point.silences < known.silences {
                *known = point;
            }
        }
        best.values().map(|point| point.info).collect()
    }

    fn connections(&self) -> usize {
        self.asked.len() + self.joining.len() + self.met.len()
    }
}

impl Tunnel {
    fn taking(&mut self, id: GroupId) -> Option<&mut Taking> {
        self.hidden(id)?.taking.as_mut()
    }

    pub(super) fn tend_taking(&mut self, now: Now, id: GroupId) {
        let Some(taking) = self.taking(id) else { return };
        taking.points.retain(|_, point| now.mono.since(point.told) < POINT_AGE);
        taking.forget_silent(now.mono);
        let late: Vec<CircuitId> = taking
            .joining
            .iter()
            .filter(|(_, one)| is_late(now.mono, one.since))
            .map(|(circuit, _)| *circuit)
            .collect();
        let due = taking.look_at <= now.mono;
        for circuit in late {
            self.give_up(now, circuit, "a step of a hidden service was not answered");
        }
        if due {
            self.look_up_service(now, id);
        }
    }

    /// Asks the end of one of the group's circuits who introduces seeders.
    pub(crate) fn look_up_service(&mut self, now: Now, id: GroupId) {
        let lookup = self.config.lookup;
        let Some(info_hash) = self.hidden(id).map(|hidden| hidden.lookup) else { return };
        let Some(taking) = self.taking(id) else { return };
        if taking.look_at > now.mono || taking.connections() >= CONNECTIONS_MAX {
            return;
        }
        let wait = if taking.met.is_empty() { lookup.min(LOOK_SOON) } else { lookup };
        taking.look_at = now.mono + wait;
        let Some(circuit) = self.any_circuit(id) else { return };
        let ident = self.rng.next_u16();
        if let Some(taking) = self.taking(id) {
            taking.looking = Some(ident);
        }
        self.own_send(circuit, &Message::PeersRequest { ident, info_hash });
    }

    pub(super) fn points_told(
        &mut self,
        now: Now,
        id: GroupId,
        ident: Ident,
        info_hash: &[u8; 20],
        peers: &[IntroductionInfo],
    ) {
        let Some(hidden) = self.hidden(id) else { return };
        let wrong = hidden.lookup != *info_hash;
        let own = |key: &PublicKey| hidden.seeding.as_ref().is_some_and(|seeding| seeding.is(key));
        let told: Vec<IntroductionInfo> = peers.iter().filter(|peer| !own(&peer.seeder)).copied().collect();
        let Some(taking) = &mut hidden.taking else { return };
        if wrong || taking.looking != Some(ident) {
            return self.refuse("answer that nobody waits for");
        }
        taking.looking = None;
        for peer in told {
            taking.remember(now.mono, peer);
        }
        for point in taking.wanted() {
            self.ask_seeder(now, id, &point);
        }
    }

    /// Sends our half of an exchange to a seeder, through a circuit and its introduction point.
    fn ask_seeder(&mut self, now: Now, id: GroupId, point: &IntroductionInfo) {
        let Some(circuit) = self.any_circuit(id) else { return };
        let Some(community) = self.own.get(&circuit).map(|one| one.community) else { return };
        let (initiator, ident) = (Initiator::new(&mut self.rng), self.rng.next_u16());
        let Some(hidden) = self.hidden(id) else { return };
        let info_hash = hidden.lookup;
        let Some(taking) = &mut hidden.taking else { return };
        if taking.connections() >= CONNECTIONS_MAX || taking.asked.contains_key(&ident) {
            return;
        }
        let message = Message::CreateE2e { ident, info_hash, seeder: point.seeder, point: initiator.point() };
        let (seeder, through) = (point.seeder, point.point);
        taking.asked.insert(ident, Asked { seeder, through, initiator, since: now.mono, community });
        let packet = write_bare(community, &message, None);
        self.send_data(now, circuit, &Address::Ip(point.address), &packet);
    }

    /// The seeder's half: from now on we share a key with it, and know where it waits.
    pub(super) fn seeder_answers(&mut self, now: Now, id: GroupId, exchange: &Exchange) {
        let Some(hidden) = self.hidden(id) else { return };
        let hops = hidden.hops;
        let Some(taking) = &mut hidden.taking else { return };
        let Some(asked) = taking.asked.remove(&exchange.ident) else {
            return self.refuse("answer that nobody waits for");
        };
        let Ok(keys) = asked.initiator.finish(&asked.seeder, &exchange.point, &exchange.auth) else {
            taking.blame(asked.seeder, asked.through);
            return self.refuse("seeder that does not prove its key");
        };
        let mut layer = EndToEnd::downloader(keys, &mut self.rng);
        let mut sealed = exchange.candidates.to_vec();
        let info = layer.open(&mut sealed).ok().and_then(|plain| RendezvousInfo::parse(plain).ok());
        let Some(info) = info else {
            if let Some(taking) = self.taking(id) {
                taking.blame(asked.seeder, asked.through);
            }
            return self.refuse("rendezvous that does not decrypt");
        };
        let last = Hop { key: info.point, address: info.address };
        let community = Some(asked.community);
        let Some(circuit) = self.build_hidden(now, Purpose::Taking(id), hops + 1, Some(last), community)
        else {
            return self.refuse("no circuit to a rendezvous point");
        };
        let joining = Joining {
            seeder: asked.seeder,
            layer: Some(layer),
            cookie: info.cookie,
            ident: None,
            since: now.mono,
        };
        if let Some(taking) = self.taking(id) {
            taking.joining.insert(circuit, joining);
        }
    }

    pub(super) fn ask_to_be_joined(&mut self, _now: Now, id: GroupId, circuit: CircuitId) {
        let ident = self.rng.next_u16();
        let Some(joining) = self.taking(id).and_then(|taking| taking.joining.get_mut(&circuit)) else {
            return;
        };
        joining.ident = Some(ident);
        let cookie = joining.cookie;
        self.own_send(circuit, &Message::LinkE2e { ident, cookie });
    }

    pub(super) fn joined_up(&mut self, id: GroupId, circuit: CircuitId, ident: Ident) {
        let Some(taking) = self.taking(id) else { return };
        let ours = taking.joining.get(&circuit).is_some_and(|one| one.ident == Some(ident));
        if !ours {
            return self.refuse("answer that nobody waits for");
        }
        let Some(Joining { seeder, layer, .. }) = taking.joining.remove(&circuit) else { return };
        taking.met.insert(circuit, seeder);
        if let Some(one) = self.own.get_mut(&circuit) {
            one.end_to_end = layer;
            one.is_linked = true;
        }
        self.event(TunnelEvent::HiddenPeer { group: id, address: circuit_address(circuit) });
    }
}
