//! What a node does for hidden services of others: it introduces seeders, joins circuits, and looks seeders up.
//= spec/tunnels.md#9-hidden-services

use super::is_late;
use crate::engine::Tunnel;
use crate::joined::{Joined, Relay, Role};
use crate::output::TunnelOutput;
use crate::wire::{
    CircuitId, Data, Ident, IntroductionInfo, IntroductionSource, IntroductionValue, Message, NOWHERE,
    read_bare, write_bare,
};
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_wire::{Address, CommunityId, Instant, Now};
use std::net::SocketAddr;
use std::time::Duration;

/// Seeders that one node introduces, and circuits that wait there to be joined.
const INTRODUCED_MAX: usize = 500;
const COOKIES_MAX: usize = 500;
/// Look-ups for others at once.
const FINDS_MAX: usize = 200;
/// Introduction points in one answer.
const TOLD_MAX: usize = 7;
/// A stored introduction is renewed so often; the DHT keeps it for an hour.
const RENEW: Duration = Duration::from_secs(20 * 60);
/// The first renewals come sooner: a node that just started knows few others.
const RENEW_SOON: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60)];

/// A seeder that is introduced here.
pub(crate) struct Introduced {
    pub(crate) circuit: CircuitId,
    info_hash: [u8; 20],
    renewals: usize,
    renew_at: Instant,
    last_seen: u32,
}

/// A look-up for somebody else.
pub(crate) struct Find {
    circuit: CircuitId,
    ident: Ident,
    info_hash: [u8; 20],
    since: Instant,
}

impl Tunnel {
    /// A message of the hidden services at the end of somebody else's circuit.
    pub(crate) fn service_request(&mut self, now: Now, circuit: CircuitId, message: Message) {
        match message {
            Message::EstablishIntro { ident, info_hash, seeder } => {
                self.introduce(now, circuit, ident, info_hash, seeder);
            }
            Message::EstablishRendezvous { ident, cookie } => self.wait_here(now, circuit, ident, cookie),
            Message::LinkE2e { ident, cookie } => self.join(now, circuit, ident, cookie),
            Message::PeersRequest { ident, info_hash } => self.find_for(now, circuit, ident, info_hash),
            _ => self.refuse("message that no hop answers"),
        }
    }

    fn is_unused(&self, circuit: CircuitId) -> bool {
        matches!(self.joined.get(&circuit), Some(Joined::End(end)) if end.role == Role::New && end.extending.is_none())
    }

    /// Where takers reach us, as far as we know.
    fn public_address(&self) -> Option<SocketAddr> {
        self.own_addresses.last().copied().filter(|own| !own.ip().is_unspecified() && own.port() != 0)
    }

    fn set_role(&mut self, now: Now, circuit: CircuitId, role: Role) {
        if let Some(Joined::End(end)) = self.joined.get_mut(&circuit) {
            end.role = role;
            end.active = now.mono;
        }
    }

    fn introduce(
        &mut self,
        now: Now,
        circuit: CircuitId,
        ident: Ident,
        info_hash: [u8; 20],
        seeder: PublicKey,
    ) {
        if !self.is_unused(circuit) {
            return self.refuse("introduction over a circuit that does something else");
        }
        if self.public_address().is_none() {
            return self.refuse("introduction, but our address is not known");
        }
        let here = &self.services.introductions;
        if here.contains_key(&seeder) || here.len() >= INTRODUCED_MAX {
            return self.refuse("introduction that is not taken");
        }
        self.set_role(now, circuit, Role::Introduction { info_hash, seeder });
        let introduced = Introduced { circuit, info_hash, renewals: 0, renew_at: now.mono, last_seen: 0 };
        self.services.introductions.insert(seeder, introduced);
        self.end_send(circuit, &Message::IntroEstablished { ident });
        self.tend_points(now);
    }

    fn wait_here(&mut self, now: Now, circuit: CircuitId, ident: Ident, cookie: [u8; 20]) {
        let Some(address) = self.own_addresses.last().copied() else {
            return self.refuse("rendezvous, but our address is not known");
        };
        if !self.is_unused(circuit) {
            return self.refuse("rendezvous over a circuit that does something else");
        }
        let here = &self.services.cookies;
        if here.contains_key(&cookie) || here.len() >= COOKIES_MAX {
            return self.refuse("rendezvous that is not taken");
        }
        self.services.cookies.insert(cookie, circuit);
        self.set_role(now, circuit, Role::Rendezvous { cookie });
        self.end_send(circuit, &Message::RendezvousEstablished { ident, address });
    }

    /// Joins the circuit that shows a cookie with the one that waits for it. A cookie is good for once.
    fn join(&mut self, now: Now, circuit: CircuitId, ident: Ident, cookie: [u8; 20]) {
        if !self.is_unused(circuit) {
            return self.refuse("cookie over a circuit that does something else");
        }
        let Some(waiting) = self.services.cookies.remove(&cookie) else {
            return self.refuse("unknown cookie");
        };
        self.end_send(circuit, &Message::LinkedE2e { ident });
        let (Some(Joined::End(taker)), Some(Joined::End(seeder))) =
            (self.joined.swap_remove(&circuit), self.joined.swap_remove(&waiting))
        else {
            return self.refuse("unknown cookie");
        };
        self.insert_relay(Relay::joining(*taker, *seeder, now.mono));
    }

    // ---- looking up ----

    fn find_for(&mut self, now: Now, circuit: CircuitId, ident: Ident, info_hash: [u8; 20]) {
        self.touch(circuit, now.mono);
        if self.services.finds.len() >= FINDS_MAX || !self.services.all_finds.take(now.mono) {
            return self.refuse("too many look-ups");
        }
        let ticket = self.new_ticket();
        self.services.finds.insert(ticket, Find { circuit, ident, info_hash, since: now.mono });
        self.out.push_back(TunnelOutput::DhtFind { ticket, key: info_hash });
    }

    /// What the DHT holds under a key.
    pub fn dht_found(&mut self, _now: Now, ticket: u64, values: &[Bytes]) {
        let Some(find) = self.services.finds.remove(&ticket) else { return };
        let stored = values.iter().filter_map(|value| IntroductionValue::parse(value).ok());
        let mut peers: Vec<IntroductionInfo> = stored
            .map(|value| IntroductionInfo {
                address: value.address,
                point: value.point,
                seeder: value.seeder,
                source: IntroductionSource::DHT,
            })
            .collect();
        peers.extend(self.introduced_here(&find.info_hash));
        // A seeder that moved, or that somebody lies about, stands at several points: the taker tries one after the other.
        peers.sort_by_key(|peer| (peer.seeder, peer.point));
        peers.dedup_by_key(|peer| (peer.seeder, peer.point));
        self.rng.shuffle(&mut peers);
        peers.truncate(TOLD_MAX);
        let answer = Message::PeersResponse { ident: find.ident, info_hash: find.info_hash, peers };
        self.end_send(find.circuit, &answer);
    }

    fn introduced_here(&self, info_hash: &[u8; 20]) -> Vec<IntroductionInfo> {
        let Some(address) = self.public_address() else { return Vec::new() };
        let ours = self.services.introductions.iter().filter(|(_, one)| one.info_hash == *info_hash);
        ours.map(|(seeder, _)| IntroductionInfo {
            address,
            point: self.me,
            seeder: *seeder,
            source: IntroductionSource::PEX,
        })
        .collect()
    }

    // ---- between takers and seeders ----

    /// A packet of the hidden services that came straight, from the end of some taker's circuit.
    pub(crate) fn bare_packet(
        &mut self,
        now: Now,
        from: SocketAddr,
        community: CommunityId,
        datagram: &[u8],
    ) {
        match read_bare(datagram, &community) {
            Ok(Some((Message::CreateE2e { seeder, .. }, _))) => {
                self.pass_to_seeder(now, from, &seeder, datagram)
            }
            Ok(Some((Message::PeersRequest { ident, info_hash }, circuit))) => {
                if !self.services.exchanges.take(now.mono, from.ip()) {
                    return self.refuse("too many packets of one taker");
                }
                let mut peers = self.introduced_here(&info_hash);
                self.rng.shuffle(&mut peers);
                peers.truncate(TOLD_MAX);
                let answer = Message::PeersResponse { ident, info_hash, peers };
                self.transmit(from, write_bare(community, &answer, circuit).into());
            }
            Ok(_) => self.refuse("packet that nobody waits for"),
            Err(_) => self.refuse("malformed packet"),
        }
    }

    fn pass_to_seeder(&mut self, now: Now, from: SocketAddr, seeder: &PublicKey, packet: &[u8]) {
        let Some(circuit) = self.services.introductions.get(seeder).map(|one| one.circuit) else {
            return self.refuse("taker for an unknown seeder");
        };
        let services = &mut self.services;
        if !services.exchanges.take(now.mono, from.ip()) || !services.all_exchanges.take(now.mono) {
            return self.refuse("too many packets of one taker");
        }
        let Some(Joined::End(end)) = self.joined.get_mut(&circuit) else { return };
        let (nowhere, origin) = (Address::Ip(NOWHERE), Address::Ip(from));
        let cell = end.seal(packet.len() + 64, |out| Data::write(out, &nowhere, &origin, packet));
        let to = end.link.address;
        self.transmit(to, cell);
    }

    /// A seeder answers a taker through its introduction point: only packets of the hidden services pass.
    pub(crate) fn introduction_data(
        &mut self,
        now: Now,
        circuit: CircuitId,
        data: &Data<'_>,
        payload: Bytes,
    ) {
        if self.service_community(&payload).is_none() {
            return self.refuse("datagram that may not leave");
        }
        self.exit_data(now, circuit, data, payload);
    }

    pub(super) fn tend_points(&mut self, now: Now) {
        self.services.finds.retain(|_, find| !is_late(now.mono, find.since));
        let Some(address) = self.public_address() else { return };
        let last_seen = u32::try_from(now.unix_ms / 1000).unwrap_or(u32::MAX);
        let point = self.me;
        for (seeder, one) in &mut self.services.introductions {
            if now.mono < one.renew_at {
                continue;
            }
            one.renew_at = now.mono + RENEW_SOON.get(one.renewals).copied().unwrap_or(RENEW);
            // The first stores are of one value, so that a seeder does not fill the list of the key.
            if one.renewals == 0 || one.renewals > RENEW_SOON.len() {
                one.last_seen = last_seen;
            }
            one.renewals += 1;
            let value = IntroductionValue { address, last_seen: one.last_seen, point, seeder: *seeder };
            self.out.push_back(TunnelOutput::DhtStore { key: one.info_hash, value: value.to_bytes() });
        }
    }
}
