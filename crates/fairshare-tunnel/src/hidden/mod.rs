//! Hidden services: seeders and takers of a torrent who never learn each other's address.
//!
//! A seeder waits at an *introduction point*. A taker finds the point in the overlay's DHT through the end of one of
//! its circuits, and sends its half of a key exchange there. The seeder answers with a *rendezvous point* of its own
//! choice; the taker builds a circuit to it, and both circuits are joined. A further layer lies between both ends.
//= spec/tunnels.md#9-hidden-services

mod point;
mod seeder;
mod taker;

use crate::circuit::{Circuit, Purpose};
use crate::engine::Tunnel;
use crate::group::{GROUPS_MAX, Group};
use crate::hidden_names::{circuit_address, lookup_hash};
use crate::joined::Role;
use crate::output::{GroupId, GroupSpec, TunnelEvent};
use crate::path::Wish;
use crate::wire::{CircuitId, DestroyReason, Flags, Message};
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_wire::{Address, CommunityId, Frame, Instant, Limit, Now, Rate, SourceLimit};
use std::collections::BTreeMap;
use std::time::Duration;

use point::Find;
use seeder::Seeding;
use taker::Taking;

/// A step between two nodes of a hidden service must be done within this time.
pub(crate) const STEP: Duration = Duration::from_secs(10);
/// Key exchanges that an introduction point passes on: of one address, and to all its seeders.
const EXCHANGE_RATE: Rate = Rate { per_second: 5, burst: 20 };
const ALL_EXCHANGES: Rate = Rate { per_second: 100, burst: 200 };
/// Look-ups in the DHT that circuits of others may ask for.
const ALL_FINDS: Rate = Rate { per_second: 20, burst: 60 };

/// What this node does for hidden services of others.
pub(crate) struct Services {
    /// Seeders that are introduced here, by their key for the swarm.
    introductions: BTreeMap<PublicKey, point::Introduced>,
    /// Circuits that wait here to be joined.
    cookies: BTreeMap<[u8; 20], CircuitId>,
    finds: BTreeMap<u64, Find>,
    /// Look-ups for others: each is many packets of ours.
    all_finds: Limit,
    exchanges: SourceLimit,
    all_exchanges: Limit,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            introductions: BTreeMap::new(),
            cookies: BTreeMap::new(),
            finds: BTreeMap::new(),
            all_finds: Limit::new(ALL_FINDS),
            exchanges: SourceLimit::new(EXCHANGE_RATE),
            all_exchanges: Limit::new(ALL_EXCHANGES),
        }
    }
}

impl Services {
    /// A circuit that ended here is gone.
    pub(crate) fn forget_end(&mut self, role: &Role, circuit: CircuitId) {
        match role {
            Role::Introduction { seeder, .. } => {
                if self.introductions.get(seeder).is_some_and(|one| one.circuit == circuit) {
                    self.introductions.remove(seeder);
                }
            }
            Role::Rendezvous { cookie } => {
                if self.cookies.get(cookie) == Some(&circuit) {
                    self.cookies.remove(cookie);
                }
            }
            Role::New | Role::Exiting => {}
        }
    }
}

/// A group's hidden swarm.
pub(crate) struct HiddenGroup {
    /// The name of the swarm here.
    lookup: [u8; 20],
    hops: u8,
    seeding: Option<Seeding>,
    taking: Option<Taking>,
}

impl Tunnel {
    /// Serves a torrent without an address. Takers come over joined circuits; what they send arrives as
    /// [`TunnelEvent::Received`] from an address that stands for the circuit.
    pub fn seed_hidden(&mut self, now: Now, id: GroupId, info_hash: [u8; 20], hops: u8) {
        let key = fairshare_crypto::SecretKey::generate(&mut self.rng);
        let Some(hidden) = self.hidden_group(now, id, info_hash, hops, 0) else { return };
        if hidden.seeding.is_none() {
            hidden.seeding = Some(Seeding::new(key));
        }
        self.tend_seeding(now, id);
        self.arm(now.mono);
    }

    /// Takes a torrent from hidden seeders. Each that is reached is told as [`TunnelEvent::HiddenPeer`].
    pub fn join_hidden(&mut self, now: Now, id: GroupId, info_hash: [u8; 20], hops: u8) {
        let Some(hidden) = self.hidden_group(now, id, info_hash, hops, 1) else { return };
        if hidden.taking.is_none() {
            hidden.taking = Some(Taking::new(now.mono));
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.spec.circuits = 1;
        }
        self.keep_group(now, id);
        self.arm(now.mono);
    }

    /// A group carries hidden traffic or other traffic, never both: who sees one could tell who does the other.
    fn hidden_group(
        &mut self,
        now: Now,
        id: GroupId,
        info_hash: [u8; 20],
        hops: u8,
        circuits: usize,
    ) -> Option<&mut HiddenGroup> {
        let hops = hops.clamp(1, 3);
        let taken = self.groups.get(&id).is_some_and(|group| group.hidden.is_none());
        if taken || !self.groups.contains_key(&id) && self.groups.len() >= GROUPS_MAX {
            self.refuse("hidden swarm in a group that is not free");
            return None;
        }
        let spec = GroupSpec { hops, path: None, need: Flags::RELAY, circuits };
        let group = self.groups.entry(id).or_insert_with(|| Group::new(spec, now.mono));
        let lookup = lookup_hash(&info_hash);
        Some(group.hidden.get_or_insert_with(|| HiddenGroup { lookup, hops, seeding: None, taking: None }))
    }

    /// The community of a packet of the hidden services; `None` for data of a circuit's user. It need not be that of the
    /// circuit: taker and seeder may have found their relays in different ones.
    pub(crate) fn service_community(&self, data: &[u8]) -> Option<CommunityId> {
        let community = Frame::parse(data).ok()?.community;
        self.config.communities.contains(&community).then_some(community)
    }

    fn hidden(&mut self, id: GroupId) -> Option<&mut HiddenGroup> {
        self.groups.get_mut(&id)?.hidden.as_mut()
    }

    /// A circuit for a hidden swarm: to anybody who relays, or to a given last hop.
    fn build_hidden(
        &mut self,
        now: Now,
        purpose: Purpose,
        hops: u8,
        last: Option<crate::path::Hop>,
        community: Option<CommunityId>,
    ) -> Option<CircuitId> {
        let wish = Wish { last, kept_middle: true, community, ..Wish::new(usize::from(hops), Flags::RELAY) };
        self.build(now, purpose, &wish)
    }

    pub(crate) fn hidden_circuit_stands(&mut self, now: Now, circuit: CircuitId) {
        match self.purpose(circuit) {
            Some(Purpose::Introduction(group)) => self.ask_to_be_introduced(now, group, circuit),
            Some(Purpose::Seeding(group)) => self.ask_for_rendezvous(now, group, circuit),
            Some(Purpose::Taking(group)) => self.ask_to_be_joined(now, group, circuit),
            _ => {}
        }
    }

    pub(crate) fn hidden_circuit_gone(&mut self, now: Now, circuit: &Circuit) {
        let Some(group) = circuit.purpose.group() else { return };
        if circuit.is_linked {
            self.event(TunnelEvent::HiddenPeerLost { group, address: circuit_address(circuit.id) });
        }
        let Some(hidden) = self.hidden(group) else { return };
        if let Some(seeding) = &mut hidden.seeding {
            seeding.forget(circuit.id);
        }
        if let Some(taking) = &mut hidden.taking {
            taking.forget(now.mono, circuit.id);
        }
    }

    /// A message of the hidden services over one of our circuits.
    pub(crate) fn hidden_answer(&mut self, now: Now, circuit: CircuitId, message: Message) {
        let Some(purpose) = self.purpose(circuit) else { return };
        match (purpose, message) {
            (Purpose::Introduction(group), Message::IntroEstablished { ident }) => {
                self.introduced(group, circuit, ident);
            }
            (Purpose::Seeding(group), Message::RendezvousEstablished { ident, address }) => {
                self.rendezvous_stands(now, group, circuit, ident, address);
            }
            (Purpose::Taking(group), Message::LinkedE2e { ident }) => self.joined_up(group, circuit, ident),
            (Purpose::Data(group), Message::PeersResponse { ident, info_hash, peers }) => {
                self.points_told(now, group, ident, &info_hash, &peers);
            }
            _ => self.refuse("message that nobody waits for"),
        }
    }

    /// A packet of the hidden services out of one of our circuits.
    pub(crate) fn service_packet(&mut self, now: Now, circuit: CircuitId, origin: &Address, packet: &Bytes) {
        let Some(purpose) = self.purpose(circuit) else { return };
        let Some(community) = self.service_community(packet) else {
            return self.refuse("malformed packet in a circuit");
        };
        match (purpose, crate::wire::read_bare(packet, &community)) {
            (
                Purpose::Introduction(group),
                Ok(Some((Message::CreateE2e { ident, info_hash, seeder, point }, _))),
            ) => {
                let asked =
                    seeder::Asked { ident, info_hash, seeder, point, origin: origin.clone(), community };
                self.taker_asks(now, group, asked);
            }
            (Purpose::Data(group), Ok(Some((Message::CreatedE2e(exchange), _)))) => {
                self.seeder_answers(now, group, &exchange);
            }
            (_, Ok(_)) => self.refuse("packet that nobody waits for"),
            (_, Err(_)) => self.refuse("malformed packet in a circuit"),
        }
    }

    /// The group ends.
    pub(crate) fn forget_service(&mut self, _now: Now, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.hidden = None;
        }
    }

    pub(crate) fn tend_services(&mut self, now: Now) {
        self.tend_points(now);
        for id in self.groups.keys().copied().collect::<Vec<_>>() {
            self.tend_seeding(now, id);
            self.tend_taking(now, id);
        }
    }

    /// A circuit of ours whose step was not done in time.
    fn give_up(&mut self, now: Now, circuit: CircuitId, why: &'static str) {
        self.close_own(now, circuit, why, Some(DestroyReason::UNNEEDED));
    }
}

/// Whether a step that began then is overdue.
fn is_late(now: Instant, since: Instant) -> bool {
    now.since(since) >= STEP
}
