//! Circuits of others: answered, extended, ended, passed on.
//= spec/tunnels.md#5-building-a-circuit

use crate::engine::{Tunnel, open_refusal};
use crate::exit::Exit;
use crate::handshake::{hop_keys, respond};
use crate::joined::{End, Extending, Joined, Link, Relay, Role};
use crate::layer::HopLayer;
use crate::output::{Allowance, TunnelEvent, TunnelOutput};
use crate::path::Hop;
use crate::wire::{
    CELL_HEADER_LEN, CandidateList, CellHeader, CircuitId, Data, DestroyReason, Exchange, Flags, Ident,
    Message, NOWHERE, id,
};
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_wire::{CommunityId, Instant, Now};
use std::net::SocketAddr;
use std::time::Duration;

/// A circuit may be extended for so long after its CREATE.
const EXTENDABLE: Duration = Duration::from_secs(60);
/// Candidates of each kind that are told with our half of an exchange.
const CANDIDATES_TOLD: usize = 4;

impl Tunnel {
    /// Somebody asks us to be a hop.
    pub(crate) fn create(
        &mut self,
        now: Now,
        from: SocketAddr,
        header: &CellHeader,
        ident: Ident,
        key: PublicKey,
        point: [u8; 32],
    ) {
        if self.config.flags() == Flags::NONE {
            return self.refuse("create, but we are no relay");
        }
        if self.own.contains_key(&header.circuit) || self.joined.contains_key(&header.circuit) {
            return self.refuse("create for a circuit in use");
        }
        if !self.may_answer_create(now.mono, from) {
            return self.refuse("too many creates");
        }
        if !self.make_room(now.mono, &key) {
            return self.refuse("too many circuits");
        }
        let Ok(response) = respond(&self.key, &mut self.rng, &point) else {
            return self.refuse("create with a weak point");
        };
        let layer = HopLayer::new(hop_keys(&response.shared), &mut self.rng);
        let list = self.told_candidates(header.community, &key);
        let candidates = layer.seal_candidates(&mut self.rng, &list.to_bytes()).into();
        let exchange = Exchange { ident, point: response.point, auth: response.auth, candidates };
        let link = Link { community: header.community, circuit: header.circuit, address: from, key };
        let answer = Message::Created(exchange).to_bytes();
        let head = CellHeader { plaintext: true, relay_early: false, ..*header };
        let cell = [head.to_bytes().as_slice(), &answer].concat();
        let metered = (cell.len() + CELL_HEADER_LEN + 113) as u64;
        self.transmit(from, cell.into());
        let end = End {
            link,
            layer,
            from_originator: header.relay_early,
            since: now.mono,
            active: now.mono,
            total: metered,
            metered,
            role: Role::New,
            // Else who owes too much could never pay: its settlement link begins as any circuit does.
            payments_only: self.allowances.contains_key(&key),
            extending: None,
            exit: Exit::default(),
        };
        self.joined.insert(header.circuit, Joined::End(Box::new(end)));
        self.arm(now.mono);
    }

    /// Hints for originators that let their hops choose; ours do not.
    fn told_candidates(&self, community: CommunityId, asker: &PublicKey) -> CandidateList {
        let mut list = CandidateList::default();
        for (key, one) in self.candidates.offering(community, Flags::RELAY) {
            let exits = one.offers.get(&community).is_some_and(|flags| flags.has(Flags::EXIT_BT));
            let kind = if exits { &mut list.exits } else { &mut list.relays };
            if key != asker && kind.len() < CANDIDATES_TOLD {
                kind.push(*key);
            }
        }
        list
    }

    /// A cell of a circuit that ends here.
    pub(crate) fn end_cell(&mut self, now: Now, header: &CellHeader, message: &[u8]) {
        let circuit = header.circuit;
        let Some(Joined::End(end)) = self.joined.get_mut(&circuit) else { return };
        let plain = match end.open(message) {
            Ok(plain) => plain,
            Err(error) => return self.refuse(open_refusal(error)),
        };
        end.count(CELL_HEADER_LEN + message.len());
        let (neighbour, payments_only) = (end.link.key, end.payments_only);
        let pays = plain.first().is_some_and(|kind| *kind == id::PING || id::SETTLEMENT.contains(kind));
        if !pays && self.allowances.contains_key(&neighbour) {
            if payments_only {
                self.refuse("circuit of a neighbour that does not pay");
                return self.end_joined(circuit, DestroyReason::PUSHED_OUT);
            }
            if self.is_slowed(&neighbour) {
                return self.refuse("cell of a neighbour that does not pay");
            }
        }
        if plain.first() == Some(&id::DATA) {
            let Ok(data) = Data::parse(&plain[1..]) else { return self.refuse("malformed data") };
            let payload = plain.slice(plain.len() - data.data.len()..);
            return self.end_data(now, circuit, &data, payload);
        }
        match Message::parse(&plain) {
            Ok(Some(message)) => self.end_message(now, header, message),
            Ok(None) => {}
            Err(_) => self.refuse("malformed message"),
        }
    }

    fn end_data(&mut self, now: Now, circuit: CircuitId, data: &Data<'_>, payload: Bytes) {
        let Some(Joined::End(end)) = self.joined.get(&circuit) else { return };
        match end.role {
            Role::New | Role::Exiting => self.exit_data(now, circuit, data, payload),
            // The seeder answers a taker through its introduction point.
            Role::Introduction { .. } => self.introduction_data(now, circuit, data, payload),
            Role::Rendezvous { .. } => self.refuse("data before both ends are joined"),
        }
    }

    fn end_message(&mut self, now: Now, header: &CellHeader, message: Message) {
        let circuit = header.circuit;
        match message {
            Message::Extend { ident, key, point, address } => {
                self.extend(now, header, ident, Hop { key, address }, point);
            }
            Message::Ping { ident } => {
                self.touch(circuit, now.mono);
                self.end_send(circuit, &Message::Pong { ident });
            }
            Message::TestRequest { ident, response_size, .. } if self.config.speed_test => {
                self.touch(circuit, now.mono);
                let data = self.random_bytes(response_size);
                self.end_send(circuit, &Message::TestResponse { ident, data });
            }
            Message::HttpRequest { ident, target, request } => {
                self.http_asked(circuit, ident, target, request);
            }
            Message::Settlement { id, body } => {
                self.touch(circuit, now.mono);
                self.link_message_from_end(circuit, id, body);
            }
            message => self.service_request(now, circuit, message),
        }
    }

    pub(crate) fn touch(&mut self, circuit: CircuitId, now: Instant) {
        if let Some(Joined::End(end)) = self.joined.get_mut(&circuit) {
            end.active = now;
        }
    }

    pub(crate) fn random_bytes(&mut self, len: u16) -> Bytes {
        // A response must fit a cell that every path carries.
        let mut data = vec![0; usize::from(len).min(crate::wire::CELL_LEN_MAX - 256)];
        self.rng.fill(&mut data);
        data.into()
    }

    /// The originator wants the circuit to go on from here.
    fn extend(&mut self, now: Now, header: &CellHeader, ident: Ident, hop: Hop, point: [u8; 32]) {
        if !header.relay_early {
            return self.refuse("extend that is not early");
        }
        let known = self.candidates.get(&hop.key).map(|one| one.address);
        let Some(Joined::End(end)) = self.joined.get(&header.circuit) else { return };
        if end.role != Role::New || now.mono.since(end.since) > EXTENDABLE {
            return self.refuse("extend of a circuit that does something else");
        }
        if end.extending.is_some_and(|one| now.mono.since(one.sent) < Duration::from_secs(1)) {
            return self.refuse("extend while another is under way");
        }
        let address = if hop.address == NOWHERE { known } else { Some(hop.address) };
        let Some(address) = address else { return self.refuse("extend to an unknown node") };
        if hop.key == self.me || self.own_addresses.contains(&address) {
            return self.refuse("extend to ourselves");
        }
        if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
            return self.refuse("extend to an impossible address");
        }
        if !self.limits.extends.take(now.mono) {
            return self.refuse("too many extends");
        }
        let hop = Hop { key: hop.key, address };
        let (community, before) = (end.link.community, end.extending);
        if let Some(before) = before {
            self.joined.swap_remove(&before.circuit);
        }
        let new = self.new_circuit_id();
        let sent_ident = self.rng.next_u16();
        let create = Message::Create { ident: sent_ident, key: self.me, point };
        let head = CellHeader { community, circuit: new, plaintext: true, relay_early: false };
        let cell = [head.to_bytes().as_slice(), &create.to_bytes()].concat();
        let metered = cell.len() as u64;
        let extending = Extending { circuit: new, asked: ident, sent_ident, hop, sent: now.mono, metered };
        if let Some(Joined::End(end)) = self.joined.get_mut(&header.circuit) {
            end.extending = Some(extending);
            end.active = now.mono;
        }
        self.joined.insert(new, Joined::Extending(header.circuit));
        self.transmit(address, cell.into());
    }

    /// The next hop answered: the circuit goes on from here.
    pub(crate) fn others_created(
        &mut self,
        now: Now,
        from: SocketAddr,
        header: &CellHeader,
        bytes: usize,
        exchange: &Exchange,
    ) {
        let Some(Joined::Extending(back)) = self.joined.get(&header.circuit) else {
            return self.refuse("answer that nobody waits for");
        };
        let back = *back;
        let Some(Joined::End(end)) = self.joined.get(&back) else { return };
        let Some(extending) = end.extending.filter(|one| {
            one.circuit == header.circuit && one.hop.address == from && one.sent_ident == exchange.ident
        }) else {
            return self.refuse("answer from a hop that was not asked");
        };
        if end.link.community != header.community {
            return self.refuse("cell from elsewhere than its link");
        }
        self.end_send(back, &Message::Extended(Exchange { ident: extending.asked, ..exchange.clone() }));
        let Some(Joined::End(end)) = self.joined.swap_remove(&back) else { return };
        let ahead = Link {
            community: header.community,
            circuit: header.circuit,
            address: from,
            key: extending.hop.key,
        };
        let relay = Relay::extending(*end, ahead, extending.metered + bytes as u64, now.mono);
        self.insert_relay(relay);
    }

    pub(crate) fn insert_relay(&mut self, relay: Relay) {
        self.next_relay += 1;
        let number = self.next_relay;
        self.joined.insert(relay.back.circuit, Joined::Relay { relay: number, ahead: false });
        self.joined.insert(relay.ahead.circuit, Joined::Relay { relay: number, ahead: true });
        self.relays.insert(number, relay);
    }

    /// Drops a circuit of somebody else, whichever of its numbers is given, and tells the side that does not know: all
    /// but the one with this number.
    pub(crate) fn drop_joined(&mut self, circuit: CircuitId, reason: DestroyReason) {
        match self.joined.swap_remove(&circuit) {
            Some(Joined::End(end)) => self.forget_end(&end),
            Some(Joined::Relay { relay, ahead }) => {
                let Some(relay) = self.relays.swap_remove(&relay) else { return };
                self.report_relay(&relay);
                let other = if ahead { relay.back } else { relay.ahead };
                self.joined.swap_remove(&other.circuit);
                self.send_destroy(other.community, other.circuit, other.address, reason);
            }
            Some(Joined::Extending(_)) | None => {}
        }
    }

    /// The same, and the side of that number is told too.
    pub(crate) fn end_joined(&mut self, circuit: CircuitId, reason: DestroyReason) {
        let link = match self.joined.get(&circuit) {
            Some(Joined::End(end)) => Some(end.link),
            Some(Joined::Relay { relay, ahead }) => {
                self.relays.get(relay).map(|relay| if *ahead { relay.ahead } else { relay.back })
            }
            Some(Joined::Extending(_)) | None => None,
        };
        if let Some(link) = link {
            self.send_destroy(link.community, circuit, link.address, reason);
        }
        self.drop_joined(circuit, reason);
    }

    fn forget_end(&mut self, end: &End) {
        if let Some(extending) = end.extending {
            self.joined.swap_remove(&extending.circuit);
        }
        if let Some(exit) = end.exit.sockets {
            self.exits.remove(&exit);
            self.out.push_back(TunnelOutput::ExitClose(exit));
        }
        self.services.forget_end(&end.role, end.link.circuit);
        self.report_end(end);
    }

    /// What a neighbour may do from now on.
    //= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
    pub fn set_allowance(&mut self, neighbour: &PublicKey, allowance: Allowance) {
        if allowance == Allowance::Open {
            self.allowances.remove(neighbour);
            return;
        }
        let before = self.allowances.insert(*neighbour, allowance);
        if allowance == Allowance::Cut && before != Some(Allowance::Cut) {
            for circuit in self.circuits_of(neighbour) {
                self.end_joined(circuit, DestroyReason::PUSHED_OUT);
            }
        }
    }

    /// Circuits that came from this neighbour.
    fn circuits_of(&self, neighbour: &PublicKey) -> Vec<CircuitId> {
        let of = |(id, one): (&CircuitId, &Joined)| match one {
            Joined::End(end) if end.link.key == *neighbour => Some(*id),
            Joined::Relay { relay, ahead: false } => {
                self.relays.get(relay).is_some_and(|relay| relay.back.key == *neighbour).then_some(*id)
            }
            _ => None,
        };
        self.joined.iter().filter_map(of).collect()
    }

    /// A message about payment from whoever opened a circuit of one hop to us.
    fn link_message_from_end(&mut self, circuit: CircuitId, kind: u8, body: Bytes) {
        let Some(Joined::End(end)) = self.joined.get(&circuit) else { return };
        if !end.from_originator {
            return self.refuse("settlement over more than one hop");
        }
        let neighbour = end.link.key;
        self.links.came_in(neighbour, circuit);
        self.event(TunnelEvent::LinkMessage { neighbour, outgoing: false, id: kind, body });
    }
}
