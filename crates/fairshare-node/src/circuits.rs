//! Circuits: between the tunnel engine, the overlay of relays, and whoever uses a group of circuits.

use crate::contract::{AssociationId, Event, Output, Reply, Speed};
use crate::node::{Asking, Node, Persisting};
use crate::translate;
use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_economy::payouts::{PayoutsEvent, PayoutsOutput};
use fairshare_ledger::{Batch, ChainStore, Record, RecordKind, Source, StoreError};
use fairshare_overlay::{OverlayEvent, OverlayOutput, community, wire::id};
use fairshare_swarm::{InfoHash, Request};
use fairshare_tunnel::{Flags, GroupId, GroupSpec, TunnelEvent, TunnelOutput};
use fairshare_wire::{Address, CommunityId, Frame, Instant, Now};
use std::net::SocketAddr;
use std::time::Duration;

/// The journal of the circuits: the tunnel identity and its guards.
const TUNNEL_RECORDS: RecordKind = RecordKind(20);
const IDENTITY: &[u8] = b"identity";
const GUARDS: &[u8] = b"guards";
/// Circuits of one program in front of a SOCKS server.
const CIRCUITS_PER_PROGRAM: usize = 2;
/// A circuit for a web request must stand within this time.
const FETCH_PATIENCE: Duration = Duration::from_secs(20);

/// Whom a group of circuits belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// An anonymous torrent.
    Torrent(InfoHash),
    /// A program in front of a SOCKS server.
    Association(AssociationId),
    /// Somebody who asked for circuits by command.
    Command,
    /// A command that wants a page.
    Fetch(PageWish),
}

/// A page that is wanted through an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageWish {
    command: u64,
    target: Address,
    request: Bytes,
    until: Instant,
}

/// What the circuits keep between two runs.
pub(crate) struct Kept {
    pub(crate) key: SecretKey,
    pub(crate) guards: Option<Vec<u8>>,
    /// The identity was made now and is to be written.
    pub(crate) is_new: bool,
}

impl Kept {
    /// Reads it, or draws an identity.
    pub(crate) fn read<S: ChainStore>(store: &S, rng: &Rng) -> Result<Self, StoreError> {
        let records = store.records(TUNNEL_RECORDS)?;
        let value =
            |wanted: &[u8]| records.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.clone());
        let guards = value(GUARDS);
        match value(IDENTITY).map(|bytes| SecretKey::try_from(bytes.as_slice())) {
            Some(Ok(key)) => Ok(Self { key, guards, is_new: false }),
            Some(Err(_)) => Err(StoreError::Damaged { what: "the identity for circuits".to_owned() }),
            None => {
                let key = SecretKey::generate(&mut rng.fork("tunnel identity"));
                Ok(Self { key, guards, is_new: true })
            }
        }
    }

    /// The identity as it is written.
    pub(crate) fn record(&self) -> Record {
        Record { kind: TUNNEL_RECORDS, key: IDENTITY.to_vec(), value: Some(self.key.to_bytes().to_vec()) }
    }
}

/// Which engine a datagram belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Realm {
    /// The overlay of the node's own identity.
    Overlay,
    /// The overlay of the relays.
    Relays,
    /// The circuits.
    Tunnel,
    /// The distributed hash table.
    Dht,
}

impl Realm {
    /// By the community, and in those of the relays by the message.
    pub(crate) fn of(frame: &Frame<'_>) -> Self {
        let walking = id::is_walking(frame.message_id);
        match frame.community {
            community::TUNNEL | community::TUNNEL_STOCK | community::DHT if walking => Self::Relays,
            community::TUNNEL | community::TUNNEL_STOCK => Self::Tunnel,
            community::DHT => Self::Dht,
            _ => Self::Overlay,
        }
    }
}

/// The communities of the relays' overlay.
pub(crate) const RELAY_COMMUNITIES: [CommunityId; 3] =
    [community::TUNNEL, community::TUNNEL_STOCK, community::DHT];

impl<S: ChainStore> Node<S> {
    pub(crate) fn new_group(&mut self, owner: Owner) -> GroupId {
        self.next_group += 1;
        let group = GroupId(self.next_group);
        self.groups.insert(group, owner);
        group
    }

    pub(crate) fn close_group(&mut self, now: Now, group: GroupId) {
        self.groups.remove(&group);
        self.tunnel.close_group(now, group);
    }

    /// What our introductions to relays tell, and where we are.
    pub(crate) fn announce_flags(&mut self) {
        let flags = self.tunnel.flags().to_extra().to_vec();
        for community in [community::TUNNEL, community::TUNNEL_STOCK] {
            self.relays.set_extra(community, flags.clone());
        }
        let (lan, wan) = (self.relays.lan(), self.relays.wan());
        self.tunnel.set_addresses(vec![lan.into(), wan.into()]);
    }

    pub(crate) fn on_relays(&mut self, now: Now, output: OverlayOutput) {
        let event = match output {
            OverlayOutput::Transmit { to, bytes } => return self.transmit(to, bytes),
            OverlayOutput::Event(event) => event,
        };
        match event {
            OverlayEvent::PeerFound { community: community::DHT, key, address, .. } => {
                self.dht.node_found(now, key, address);
            }
            OverlayEvent::PeerFound { community, key, address, extra } => {
                self.announce_flags();
                match Flags::from_extra(&extra) {
                    Some(flags) => self.tunnel.candidate_found(now, community, key, address, flags),
                    None => self.refused("flags of a relay that cannot be read"),
                }
            }
            OverlayEvent::PeerLost { key } => {
                self.tunnel.candidate_lost(now, &key);
                self.dht.node_lost(now, &key);
            }
            _ => {}
        }
    }

    pub(crate) fn on_tunnel(&mut self, now: Now, output: TunnelOutput) {
        match output {
            TunnelOutput::Transmit { to, bytes } => self.transmit(to, bytes),
            TunnelOutput::ExitOpen(exit) => self.push(Output::ExitOpen(exit)),
            TunnelOutput::ExitSend { exit, to, bytes } => self.push(Output::ExitSend(exit, to, bytes)),
            TunnelOutput::ExitClose(exit) => self.push(Output::ExitClose(exit)),
            TunnelOutput::Resolve { ticket, host, port } => {
                let ticket = self.asking.issue(Asking::Tunnel(ticket));
                self.push(Output::Request(ticket, Request::Resolve { host, port }));
            }
            TunnelOutput::HttpFetch { ticket, target, request } => {
                let ticket = self.asking.issue(Asking::Tunnel(ticket));
                self.push(Output::Request(ticket, Request::HttpFetch { target, request }));
            }
            TunnelOutput::DhtFind { ticket, key } => self.dht.find(now, ticket, key),
            TunnelOutput::DhtStore { key, value } => self.dht.store(now, key, value),
            TunnelOutput::Save(guards) => {
                self.keep_tunnel(Record { kind: TUNNEL_RECORDS, key: GUARDS.to_vec(), value: Some(guards) });
            }
            TunnelOutput::Event(event) => self.on_tunnel_event(now, event),
        }
    }

    pub(crate) fn keep_tunnel(&mut self, record: Record) {
        let batch = Batch { records: vec![record], ..Batch::default() };
        self.persist(Persisting::Tunnel, batch);
    }

    fn on_tunnel_event(&mut self, now: Now, event: TunnelEvent) {
        match event {
            TunnelEvent::Received { group, origin, data } => self.group_received(now, group, &origin, data),
            TunnelEvent::GroupReady(group) | TunnelEvent::HiddenReady(group) => {
                self.group_ready(now, group);
                self.event(Event::Tunnel(event));
            }
            TunnelEvent::HiddenPeer { group, address } => {
                self.hidden_peer_met(now, group, address);
                self.event(Event::Tunnel(event));
            }
            TunnelEvent::HttpAnswered { ticket, result } => self.page_came(now, ticket, result),
            TunnelEvent::SpeedTested { ticket, received, took, round_trip } => {
                let result = match received {
                    0 => Err("the far end sent nothing back".to_owned()),
                    _ => Ok(Speed { received, took, round_trip }),
                };
                self.reply(ticket, Reply::Tested(result));
            }
            TunnelEvent::LinkMessage { neighbour, id, body, .. } => {
                self.payouts.link_message(now, &neighbour, id, &body);
            }
            TunnelEvent::Carried(carried) => {
                self.payouts.carried(now, &translate::carried(&carried));
                if let Some(neighbour) = carried.from {
                    self.tunnel.set_credit(&neighbour, self.payouts.credit(now, &neighbour));
                }
            }
            TunnelEvent::Moved { group, destinations } => {
                for to in destinations {
                    self.lost_way(now, group, &to);
                }
            }
            TunnelEvent::HiddenPeerLost { group, address } => {
                self.lost_way(now, group, &Address::Ip(address));
                self.event(Event::Tunnel(event));
            }
            event => self.event(Event::Tunnel(event)),
        }
    }

    fn group_received(&mut self, now: Now, group: GroupId, origin: &Address, data: Bytes) {
        match self.groups.get(&group) {
            Some(Owner::Torrent(hash)) => {
                let hash = *hash;
                self.anonymous_datagram(now, &hash, origin, &data);
            }
            Some(Owner::Association(id)) => {
                let id = *id;
                self.push(Output::AssociationData(id, origin.clone(), data));
            }
            Some(Owner::Command | Owner::Fetch(_)) | None => {}
        }
    }

    fn group_ready(&mut self, now: Now, group: GroupId) {
        match self.groups.get(&group).cloned() {
            Some(Owner::Torrent(hash)) => self.anonymous_ready(now, &hash),
            Some(Owner::Fetch(wish)) => {
                self.tunnel.http(now, wish.command, group, wish.target, wish.request);
            }
            Some(Owner::Association(_) | Owner::Command) | None => {}
        }
    }

    fn hidden_peer_met(&mut self, now: Now, group: GroupId, address: SocketAddr) {
        if let Some(Owner::Torrent(hash)) = self.groups.get(&group) {
            let hash = *hash;
            self.hidden_peer(now, &hash, address);
        }
    }

    /// A peer of a torrent is not reached any more as before: its connections are begun anew.
    fn lost_way(&mut self, now: Now, group: GroupId, to: &Address) {
        if let (Some(Owner::Torrent(hash)), Address::Ip(address)) = (self.groups.get(&group), to) {
            let (hash, address) = (*hash, *address);
            self.anonymous_unreachable(now, &hash, address);
        }
    }

    // ---- payments to relays ----

    pub(crate) fn on_payouts(&mut self, now: Now, output: PayoutsOutput) {
        match output {
            PayoutsOutput::LinkSend { neighbour, id, body } => {
                self.tunnel.link_send(now, &neighbour, true, id, body);
            }
            PayoutsOutput::Propose { to, down, timestamp_ms, records } => {
                match self.ledger.propose_tunnel_payment(now, to, down, timestamp_ms, records) {
                    Ok(block) => self.payouts.proposed(now, &block),
                    Err(error) => self.payouts.propose_failed(now, &to, &error.to_string()),
                }
            }
            PayoutsOutput::Block { from, block } => {
                self.ledger.receive(now, Source::Connection(from), *block)
            }
            // As with the economy: nothing newer may be written before a batch of the ledger that failed.
            PayoutsOutput::Persist { ticket, .. } if self.ledger.is_stalled() => {
                self.payouts.persist_failed(now, ticket);
            }
            PayoutsOutput::Persist { ticket, records } => {
                let batch = Batch { records, urgent: true, ..Batch::default() };
                self.persist(Persisting::Payouts(ticket), batch);
            }
            PayoutsOutput::Allowance { neighbour, allowance } => {
                self.tunnel.set_allowance(&neighbour, translate::allowance(allowance));
            }
            PayoutsOutput::Event(event) => {
                if let PayoutsEvent::Bound { neighbour, peer } = &event {
                    self.weigh_relay(neighbour, peer);
                }
                self.event(Event::Payouts(event));
            }
        }
    }

    // ---- programs in front of SOCKS servers ----

    pub(crate) fn associated(&mut self, now: Now, id: AssociationId, hops: u8) {
        let group = self.new_group(Owner::Association(id));
        self.associations.insert(id, group);
        let spec = GroupSpec { hops, path: None, need: Flags::EXIT_BT, circuits: CIRCUITS_PER_PROGRAM };
        self.tunnel.open_group(now, group, spec);
    }

    pub(crate) fn association_datagram(&mut self, now: Now, id: AssociationId, to: &Address, data: &[u8]) {
        if let Some(group) = self.associations.get(&id).copied() {
            self.tunnel.send(now, group, to, data);
        }
    }

    pub(crate) fn dissociated(&mut self, now: Now, id: AssociationId) {
        if let Some(group) = self.associations.remove(&id) {
            self.close_group(now, group);
        }
    }

    // ---- pages through exits ----

    pub(crate) fn fetch_page(&mut self, now: Now, command: u64, hops: u8, target: Address, request: Bytes) {
        let wish = PageWish { command, target, request, until: now.mono + FETCH_PATIENCE };
        let group = self.new_group(Owner::Fetch(wish));
        let spec = GroupSpec { hops: hops.clamp(1, 3), path: None, need: Flags::EXIT_HTTP, circuits: 1 };
        self.tunnel.open_group(now, group, spec);
    }

    fn page_came(&mut self, now: Now, command: u64, result: Result<Bytes, &'static str>) {
        self.reply(command, Reply::Fetched(result.map_err(str::to_owned)));
        let of = |owner: &Owner| matches!(owner, Owner::Fetch(wish) if wish.command == command);
        let group = self.groups.iter().find(|(_, owner)| of(owner)).map(|(group, _)| *group);
        if let Some(group) = group {
            self.close_group(now, group);
        }
    }

    /// Page wishes whose circuit did not come to stand.
    pub(crate) fn give_up_pages(&mut self, now: Now) {
        let late = |owner: &Owner| match owner {
            Owner::Fetch(wish) if wish.until <= now.mono => Some(wish.command),
            _ => None,
        };
        let late: Vec<u64> = self.groups.values().filter_map(late).collect();
        for command in late {
            self.page_came(now, command, Err("no circuit to an exit that fetches web pages"));
        }
    }

    pub(crate) fn next_page_deadline(&self) -> Option<Instant> {
        let until = |owner: &Owner| if let Owner::Fetch(wish) = owner { Some(wish.until) } else { None };
        self.groups.values().filter_map(until).min()
    }

    /// How a relay stands, by the identity that it is paid under.
    fn weigh_relay(&mut self, tunnel_key: &PublicKey, peer: &PublicKey) {
        self.tunnel.set_standing(tunnel_key, self.standing.share(peer));
        self.payouts.set_trust(peer, self.standing.trust(peer));
    }

    pub(crate) fn weigh_relays(&mut self) {
        for (tunnel_key, peer) in self.payouts.bindings() {
            self.weigh_relay(&tunnel_key, &peer);
        }
    }
}
