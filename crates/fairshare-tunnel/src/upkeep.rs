//! What happens by the clock: pings, rotation, dropping what is idle, and reporting what was carried.
//= spec/tunnels.md#6-keeping-and-dropping

use crate::circuit::{Circuit, Purpose};
use crate::engine::Tunnel;
use crate::joined::{End, Joined, Relay, Role};
use crate::output::{Carried, CircuitEnd, TunnelEvent, TunnelOutput};
use crate::wire::{CircuitId, DestroyReason, Message};
use fairshare_wire::{Instant, Now};
use std::time::Duration;

/// The engine looks around so often while it has anything to look after, and so often otherwise.
const TICK: Duration = Duration::from_millis(250);
const IDLE_TICK: Duration = Duration::from_secs(5);
/// A ping that was not answered for so long is missed; the next one follows at once.
//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// A circuit whose far end missed so many pings in a row is gone.
const MISSED_MAX: u8 = 4;
/// A circuit that takes no new destinations is done when its old ones are silent for so long: longer than the two minutes
/// between two signs of life of an idle peer.
const DRAINED: Duration = Duration::from_secs(150);
/// Introduction points are kept for a day.
const INTRODUCTION_AGE: Duration = Duration::from_secs(86_400);

impl Tunnel {
    /// Ends every circuit, our own and those of others, and tells the neighbours: for the end of the node. Nothing is
    /// built or joined afterwards.
    //= spec/tunnels.md#8-destroy
    pub fn shut_down(&mut self, now: Now) {
        self.config.relay = false;
        self.groups.clear();
        for circuit in self.own.keys().copied().collect::<Vec<_>>() {
            self.close_own(now, circuit, "the node stops", Some(DestroyReason::SHUTDOWN));
        }
        while let Some(circuit) = self.joined.keys().next_back().copied() {
            self.end_joined(circuit, DestroyReason::SHUTDOWN);
        }
    }

    /// Sees to it that the next look around comes in time.
    pub(crate) fn arm(&mut self, now: Instant) {
        let busy = !self.own.is_empty()
            || !self.joined.is_empty()
            || !self.groups.is_empty()
            || !self.tests.is_empty()
            || self.has_links()
            || self.has_fetches();
        let at = now + if busy { TICK } else { IDLE_TICK };
        self.next_tick = Some(self.next_tick.map_or(at, |next| next.min(at)));
    }

    pub(crate) fn tick(&mut self, now: Now) {
        for id in self.own.keys().copied().collect::<Vec<_>>() {
            self.tend_own(now, id);
        }
        self.tend_joined(now);
        for id in self.groups.keys().copied().collect::<Vec<_>>() {
            self.keep_group(now, id);
        }
        self.tend_services(now);
        self.tend_tests(now);
        self.tend_fetches(now);
        self.tidy_links(now);
        if self.guards.expire(now.unix_ms) {
            self.save_guards();
        }
        if now.mono >= self.next_report {
            self.next_report = now.mono + self.config.metering;
            self.report_all();
        }
    }

    /// Keeps the record of the guards up to date outside.
    pub(crate) fn save_guards(&mut self) {
        let bytes = self.guards.to_bytes();
        if bytes != self.saved_guards {
            self.saved_guards.clone_from(&bytes);
            self.out.push_back(TunnelOutput::Save(bytes));
        }
    }

    fn tend_own(&mut self, now: Now, id: CircuitId) {
        let Some(circuit) = self.own.get(&id) else { return };
        if !circuit.is_ready() {
            let overdue = circuit
                .pending
                .as_ref()
                .is_some_and(|pending| now.mono.since(pending.sent) >= self.config.hop_timeout);
            if overdue {
                self.hop_failed(now, id);
            }
            return;
        }
        if let Some(reason) = self.end_of(circuit, now.mono) {
            let last = circuit.last();
            if circuit.pings.missed >= MISSED_MAX {
                self.candidates.failed(now.mono, &last.key);
            }
            return self.close_own(now, id, reason, Some(DestroyReason::UNNEEDED));
        }
        self.rotate(now.mono, id);
        self.ping(now, id);
    }

    /// Why a standing circuit is to end, if it is.
    fn end_of(&self, circuit: &Circuit, now: Instant) -> Option<&'static str> {
        let age_max = match circuit.purpose {
            Purpose::Introduction(_) => INTRODUCTION_AGE,
            _ => self.config.age_max,
        };
        if circuit.pings.missed >= MISSED_MAX {
            Some("its far end does not answer")
        } else if now.since(circuit.began) >= age_max {
            Some("it is old")
        } else if circuit.up + circuit.down >= self.config.traffic_max {
            Some("it carried enough")
        } else if circuit.draining && now.since(circuit.used) >= DRAINED {
            Some("another one took its place")
        } else {
            None
        }
    }

    /// Old or much used circuits take no new destinations, so that less can be told from one.
    fn rotate(&mut self, now: Instant, id: CircuitId) {
        let Some(circuit) = self.own.get_mut(&id) else { return };
        let old = now.since(circuit.began) >= self.config.rotate_after
            || circuit.up + circuit.down >= self.config.rotate_bytes;
        if matches!(circuit.purpose, Purpose::Data(_)) && old {
            circuit.draining = true;
        }
    }

    fn ping(&mut self, now: Now, id: CircuitId) {
        let ident = self.rng.next_u16();
        let (interval, idle) = (self.config.ping_interval, self.config.idle_max);
        let Some(circuit) = self.own.get_mut(&id) else { return };
        // A waiting seeder's circuit must not be pinged by us, nor one that is not joined yet; both ends ping a joined one.
        let waits = circuit.purpose.is_hidden() && !circuit.is_linked;
        if waits {
            if now.mono.since(circuit.heard) >= idle * 3 {
                self.close_own(now, id, "nobody came", Some(DestroyReason::UNNEEDED));
            }
            return;
        }
        if let Some((_, sent)) = circuit.pings.open
            && now.mono.since(sent) >= PING_PATIENCE
        {
            circuit.pings.open = None;
            // Whatever came meanwhile says that it lives.
            if circuit.heard < sent {
                circuit.pings.missed += 1;
                circuit.pings.sent = None;
            }
        }
        let (suspect, purpose) = (circuit.is_suspect(), circuit.purpose);
        let due = circuit.pings.sent.is_none_or(|sent| now.mono.since(sent) >= interval);
        if circuit.pings.open.is_none() && due {
            circuit.pings.open = Some((ident, now.mono));
            circuit.pings.sent = Some(now.mono);
            self.own_send(id, &Message::Ping { ident });
        }
        if let Purpose::Data(group) = purpose
            && suspect
        {
            self.unsettle(group, id);
        }
    }

    pub(crate) fn pong(&mut self, _now: Now, id: CircuitId, ident: u16) {
        let Some(circuit) = self.own.get_mut(&id) else { return };
        if circuit.pings.open.is_some_and(|(open, _)| open == ident) {
            circuit.pings.open = None;
            circuit.pings.missed = 0;
        }
    }

    /// Circuits of others end when they are idle, or carried enough.
    fn tend_joined(&mut self, now: Now) {
        let (idle, traffic) = (self.config.idle_max, self.config.traffic_max);
        let mut over = Vec::new();
        for (id, one) in &self.joined {
            let ends = match one {
                Joined::End(end) => {
                    let patience = match end.role {
                        Role::Rendezvous { .. } => idle * 3,
                        _ => idle,
                    };
                    now.mono.since(end.active) >= patience || end.total >= traffic
                }
                Joined::Relay { relay, ahead: false } => self
                    .relays
                    .get(relay)
                    .is_none_or(|relay| now.mono.since(relay.active) >= idle || relay.total >= traffic),
                Joined::Relay { .. } | Joined::Extending(_) => false,
            };
            if ends {
                over.push(*id);
            }
        }
        for id in over {
            self.end_joined(id, DestroyReason::UNNEEDED);
        }
        self.tend_extending(now.mono);
    }

    /// Extensions that nobody answered.
    fn tend_extending(&mut self, now: Instant) {
        let timeout = self.config.hop_timeout;
        let mut late = Vec::new();
        for one in self.joined.values_mut() {
            if let Joined::End(end) = one
                && let Some(extending) = end.extending
                && now.since(extending.sent) >= timeout
            {
                end.extending = None;
                late.push(extending.circuit);
            }
        }
        // It says nothing about the hop that was asked: whoever sent the EXTEND chose its address.
        for circuit in late {
            self.joined.swap_remove(&circuit);
        }
    }

    // ---- metering ----

    fn report_all(&mut self) {
        let mut reports: Vec<Carried> = Vec::new();
        for circuit in self.own.values_mut() {
            reports.extend(own_report(circuit));
            circuit.metered = 0;
        }
        for relay in self.relays.values_mut() {
            reports.push(relay_report(relay));
            (relay.metered_back, relay.metered_ahead) = (0, 0);
        }
        for one in self.joined.values_mut() {
            if let Joined::End(end) = one {
                reports.push(end_report(end));
                end.metered = 0;
            }
        }
        for report in reports {
            self.report(report);
        }
    }

    pub(crate) fn report_own(&mut self, circuit: &Circuit) {
        if let Some(report) = own_report(circuit) {
            self.report(report);
        }
    }

    pub(crate) fn report_relay(&mut self, relay: &Relay) {
        self.report(relay_report(relay));
    }

    pub(crate) fn report_end(&mut self, end: &End) {
        self.report(end_report(end));
    }

    fn report(&mut self, report: Carried) {
        if report.from_bytes + report.to_bytes > 0 {
            self.event(TunnelEvent::Carried(report));
        }
    }
}

/// Settlement itself is not paid for.
//= spec/payouts.md#32-price
fn own_report(circuit: &Circuit) -> Option<Carried> {
    if matches!(circuit.purpose, Purpose::Settlement(_)) {
        return None;
    }
    Some(Carried {
        from: None,
        to: Some(circuit.first().key),
        from_originator: false,
        end: CircuitEnd::Elsewhere,
        hidden: matches!(circuit.purpose, Purpose::Taking(_)),
        hops: u8::try_from(circuit.goal.len()).unwrap_or(u8::MAX),
        from_bytes: 0,
        to_bytes: circuit.metered,
    })
}

fn relay_report(relay: &Relay) -> Carried {
    Carried {
        from: Some(relay.back.key),
        to: Some(relay.ahead.key),
        from_originator: relay.from_originator,
        end: if relay.is_rendezvous() { CircuitEnd::Rendezvous } else { CircuitEnd::Elsewhere },
        hidden: false,
        hops: 0,
        from_bytes: relay.metered_back,
        to_bytes: relay.metered_ahead,
    }
}

fn end_report(end: &End) -> Carried {
    Carried {
        from: Some(end.link.key),
        to: None,
        from_originator: end.from_originator,
        end: end.end(),
        hidden: false,
        hops: 0,
        from_bytes: end.metered,
        to_bytes: 0,
    }
}
