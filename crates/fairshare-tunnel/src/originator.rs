//! Our own circuits: built hop by hop, used, and ended.
//= spec/tunnels.md#5-building-a-circuit

use crate::circuit::{Circuit, Pending, Purpose};
use crate::engine::Tunnel;
use crate::handshake::Initiator;
use crate::hidden_names::circuit_address;
use crate::layer::OriginatorLayer;
use crate::output::TunnelEvent;
use crate::path::{Choice, Hop, Wish};
use crate::wire::{CellHeader, CircuitId, DestroyReason, Exchange, Flags, Message};
use bytes::Bytes;
use fairshare_wire::{Address, Now};
use std::net::SocketAddr;
use std::time::Duration;

/// Hops that are tried in one place before the circuit is given up.
const TRIES_MAX: usize = 6;
/// Why a circuit ended that was as good as any other.
pub(crate) const NOT_NEEDED: &str = "not needed any more";

impl Tunnel {
    /// Begins a circuit. `None` = no path, or too many circuits.
    pub(crate) fn build(&mut self, now: Now, purpose: Purpose, wish: &Wish) -> Option<CircuitId> {
        if self.own.len() >= self.config.max_own {
            self.refuse("too many own circuits");
            return None;
        }
        let communities = self.config.communities.clone();
        let (community, goal) = self.choice(now).path(&communities, wish)?;
        let id = self.new_circuit_id();
        let mut circuit = Circuit::new(id, community, purpose, goal, now.mono);
        circuit.last_is_fixed = wish.last.is_some();
        circuit.is_forced = wish.forced.is_some();
        self.own.insert(id, circuit);
        self.ask_first_hop(now, id);
        self.arm(now.mono);
        self.save_guards();
        Some(id)
    }

    fn choice(&mut self, now: Now) -> Choice<'_> {
        Choice {
            candidates: &self.candidates,
            guards: &mut self.guards,
            rng: &mut self.rng,
            own: &self.own_addresses,
            me: &self.me,
            allow_same_subnet: self.config.allow_same_subnet,
            now,
        }
    }

    fn ask_first_hop(&mut self, now: Now, id: CircuitId) {
        let (pending, me) = (self.new_exchange(now), self.me);
        let Some(circuit) = self.own.get_mut(&id) else { return };
        let create = Message::Create { ident: pending.ident, key: me, point: pending.initiator.point() };
        circuit.pending = Some(pending);
        let cell = circuit.plain(&create.to_bytes());
        let to = circuit.first().address;
        self.transmit(to, cell);
    }

    fn ask_next_hop(&mut self, now: Now, id: CircuitId) {
        let pending = self.new_exchange(now);
        let Some(circuit) = self.own.get_mut(&id) else { return };
        let Some(hop) = circuit.next_hop() else { return };
        let extend = Message::Extend {
            ident: pending.ident,
            key: hop.key,
            point: pending.initiator.point(),
            address: hop.address,
        };
        circuit.pending = Some(pending);
        self.own_send(id, &extend);
    }

    fn new_exchange(&mut self, now: Now) -> Pending {
        Pending { ident: self.rng.next_u16(), initiator: Initiator::new(&mut self.rng), sent: now.mono }
    }

    /// A hop's half of the exchange: in the clear from the first hop (`clear`: the cell's header, sender and length),
    /// under the layers from later ones.
    pub(crate) fn own_created(
        &mut self,
        now: Now,
        clear: Option<(&CellHeader, SocketAddr, usize)>,
        id: CircuitId,
        exchange: &Exchange,
    ) {
        let Some(circuit) = self.own.get_mut(&id) else { return };
        let first = circuit.joined() == 0;
        let elsewhere = clear.is_some_and(|(header, from, _)| {
            from != circuit.first().address || header.community != circuit.community
        });
        if clear.is_some() != first || elsewhere {
            return self.refuse("answer from a hop that was not asked");
        }
        let (Some(hop), Some(pending)) = (circuit.next_hop(), circuit.pending.take()) else {
            return self.refuse("answer that nobody waits for");
        };
        if pending.ident != exchange.ident {
            circuit.pending = Some(pending);
            return self.refuse("answer that nobody waits for");
        }
        let Ok(keys) = pending.initiator.finish(&hop.key, &exchange.point, &exchange.auth) else {
            self.refuse("hop that does not prove its key");
            return self.hop_failed(now, id);
        };
        // Only the keys of the real hop open this: the exchange alone does not prove its static key.
        //= spec/tunnels.md#3-key-exchange
        let layer = OriginatorLayer::new(keys, &mut self.rng);
        if layer.open_candidates(&mut exchange.candidates.to_vec()).is_none() {
            self.refuse("candidates that do not decrypt");
            return self.hop_failed(now, id);
        }
        circuit.join(layer);
        if let Some((.., bytes)) = clear {
            circuit.count_down(now.mono, bytes);
            self.guards.answered(&hop.key, true, now.unix_ms);
        }
        if circuit.next_hop().is_some() {
            self.ask_next_hop(now, id);
        } else {
            self.stands(now, id);
        }
    }

    fn stands(&mut self, now: Now, id: CircuitId) {
        let Some(circuit) = self.own.get_mut(&id) else { return };
        circuit.ready = Some(now.mono);
        circuit.heard = now.mono;
        circuit.used = now.mono;
        let (goal, purpose, began) = (circuit.goal.clone(), circuit.purpose, circuit.began);
        for hop in &goal {
            self.candidates.succeeded(&hop.key);
        }
        self.judge_guard(goal.first(), true);
        self.event(TunnelEvent::CircuitReady {
            circuit: id,
            group: purpose.group(),
            hops: goal.len(),
            took: now.mono.since(began),
        });
        match purpose {
            Purpose::Data(group) => self.data_circuit_stands(now, group),
            Purpose::Settlement(neighbour) => self.link_stands(neighbour, id),
            Purpose::Introduction(_) | Purpose::Seeding(_) | Purpose::Taking(_) => {
                self.hidden_circuit_stands(now, id);
            }
        }
    }

    /// The hop that is being added did not answer, or not rightly: another one takes its place, or the circuit ends.
    pub(crate) fn hop_failed(&mut self, now: Now, id: CircuitId) {
        let Some(circuit) = self.own.get_mut(&id) else { return };
        let Some(hop) = circuit.next_hop() else { return };
        circuit.pending = None;
        circuit.tried.push(hop.key);
        let (place, tries) = (circuit.joined(), circuit.tried.len());
        let before = place.checked_sub(1).and_then(|at| circuit.goal.get(at)).map(|hop| hop.key);
        let fixed = circuit.is_forced || circuit.last_is_fixed && place + 1 == circuit.goal.len();
        self.candidates.failed(now.mono, &hop.key);
        match before {
            // A hop that lets only some extensions succeed would choose our path: it is suspected like the hop it
            // says does not answer.
            Some(before) => self.candidates.suspected(&before),
            None => self.guards.answered(&hop.key, false, now.unix_ms),
        }
        let old = circuit_age(self.own.get(&id), now) >= self.config.build_timeout;
        if place == 0 || fixed || old || tries >= TRIES_MAX {
            return self.close_own(now, id, "a hop did not answer", Some(DestroyReason::UNNEEDED));
        }
        if !self.replace_hop(now, id, place) {
            return self.close_own(now, id, "no other hop is known", Some(DestroyReason::UNNEEDED));
        }
        self.ask_next_hop(now, id);
    }

    /// Chooses another node for a place on the path.
    fn replace_hop(&mut self, now: Now, id: CircuitId, place: usize) -> bool {
        let Some(circuit) = self.own.get(&id) else { return false };
        let group = circuit.purpose.group().and_then(|group| self.groups.get(&group));
        let need = match group {
            Some(group) if place + 1 == circuit.goal.len() => group.spec.need,
            _ => Flags::RELAY,
        };
        let (community, tried) = (circuit.community, circuit.tried.clone());
        let others: Vec<_> =
            circuit.goal.iter().enumerate().filter(|(at, _)| *at != place).map(|(_, hop)| *hop).collect();
        let found = self.choice(now).one(community, need, &others, &tried);
        let (Some(hop), Some(circuit)) = (found, self.own.get_mut(&id)) else { return false };
        circuit.goal[place] = hop;
        true
    }

    /// A message that came over an own circuit and is neither data nor a hop's half of an exchange.
    pub(crate) fn own_answer(&mut self, now: Now, id: CircuitId, message: Message) {
        match message {
            Message::Pong { ident } => self.pong(now, id, ident),
            Message::Ping { ident } => self.linked_ping(id, ident),
            Message::TestRequest { ident, response_size, .. } => self.linked_test(id, ident, response_size),
            Message::TestResponse { ident, data } => self.test_answered(now, id, ident, data.len()),
            Message::HttpResponse { ident, part, total, response } => {
                self.http_part(id, ident, part, total, response);
            }
            Message::Settlement { id: kind, body } => self.link_message_in(id, kind, body),
            message => self.hidden_answer(now, id, message),
        }
    }

    /// The other end of a joined circuit wants to know whether we are there.
    //= spec/tunnels.md#6-keeping-and-dropping
    fn linked_ping(&mut self, id: CircuitId, ident: u16) {
        if self.own.get(&id).is_some_and(|one| one.is_linked) {
            self.own_send(id, &Message::Pong { ident });
        }
    }

    /// Data for whoever uses the circuit.
    pub(crate) fn own_data(&mut self, now: Now, id: CircuitId, origin: Address, payload: Bytes) {
        let is_service_packet = self.service_community(&payload).is_some();
        let Some(circuit) = self.own.get_mut(&id) else { return };
        match circuit.purpose {
            Purpose::Data(group) => {
                if is_service_packet {
                    return self.service_packet(now, id, &origin, &payload);
                }
                if self.groups.get(&group).is_some_and(|group| group.hidden.is_some()) {
                    // Its hop could say that it comes from a peer behind another circuit.
                    return self.refuse("data over a circuit that carries none");
                }
                self.event(TunnelEvent::Received { group, origin, data: payload });
            }
            Purpose::Seeding(group) | Purpose::Taking(group) if circuit.is_linked => {
                circuit.used = now.mono;
                let origin = Address::Ip(circuit_address(id));
                self.event(TunnelEvent::Received { group, origin, data: payload });
            }
            Purpose::Introduction(_) => self.service_packet(now, id, &origin, &payload),
            _ => self.refuse("data over a circuit that carries none"),
        }
    }

    fn judge_guard(&mut self, first: Option<&Hop>, stands: bool) {
        if first.is_some_and(|first| self.guards.built(&first.key, stands)) {
            self.save_guards();
        }
    }

    /// Ends an own circuit; tells its first hop unless that ended it.
    pub(crate) fn close_own(
        &mut self,
        now: Now,
        id: CircuitId,
        reason: &'static str,
        tell: Option<DestroyReason>,
    ) {
        let Some(circuit) = self.own.remove(&id) else { return };
        if let Some(reason) = tell {
            let first = circuit.first();
            self.send_destroy(circuit.community, id, first.address, reason);
        }
        if !circuit.is_ready() && circuit.joined() > 0 && !circuit.is_forced && reason != NOT_NEEDED {
            self.judge_guard(circuit.goal.first(), false);
        }
        self.report_own(&circuit);
        self.event(TunnelEvent::CircuitClosed { circuit: id, reason });
        match circuit.purpose {
            Purpose::Settlement(neighbour) => self.link_gone(&neighbour, id, circuit.is_ready()),
            Purpose::Data(group) => self.data_circuit_gone(now.mono, group, id, circuit.began),
            Purpose::Introduction(_) | Purpose::Seeding(_) | Purpose::Taking(_) => {
                self.hidden_circuit_gone(now, &circuit);
            }
        }
        self.arm(now.mono);
    }
}

fn circuit_age(circuit: Option<&Circuit>, now: Now) -> Duration {
    circuit.map(|circuit| now.mono.since(circuit.began)).unwrap_or_default()
}
