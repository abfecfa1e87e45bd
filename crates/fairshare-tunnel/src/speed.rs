//! Speed tests: how fast a circuit carries, measured by its far end sending back what is asked for.
//= spec/tunnels.md#7-exit

use crate::engine::Tunnel;
use crate::output::{GroupId, TunnelEvent};
use crate::wire::{CircuitId, Message};
use bytes::Bytes;
use fairshare_wire::{Instant, Now};
use std::collections::BTreeMap;
use std::time::Duration;

/// Tests at once.
const TESTS_MAX: usize = 16;
/// Requests under way at the beginning, and at most.
const WINDOW_START: usize = 16;
const WINDOW_MAX: usize = 512;
/// Bytes of one answer: one cell of the usual size.
const ANSWER: u16 = 1_280;
/// A request that was not answered for so long is lost.
const LOST: Duration = Duration::from_millis(1_000);
/// A test whose circuit carries nothing for so long is over.
const OVER: Duration = Duration::from_secs(5);

/// A running test.
pub(crate) struct SpeedTest {
    circuit: CircuitId,
    wanted: u64,
    received: u64,
    open: BTreeMap<u16, Instant>,
    next: u16,
    window: usize,
    began: Instant,
    heard: Instant,
    round_trip: Option<Duration>,
}

impl Tunnel {
    /// Measures a circuit of the group until `bytes` came back. Answer: [`TunnelEvent::SpeedTested`] with this ticket.
    pub fn speed_test(&mut self, now: Now, ticket: u64, group: GroupId, bytes: u64) {
        let circuit = self.any_circuit(group);
        let Some(circuit) = circuit.filter(|_| self.tests.len() < TESTS_MAX) else {
            let took = Duration::ZERO;
            return self.event(TunnelEvent::SpeedTested { ticket, received: 0, took, round_trip: None });
        };
        let test = SpeedTest {
            circuit,
            wanted: bytes.max(1),
            received: 0,
            open: BTreeMap::new(),
            next: 0,
            window: WINDOW_START,
            began: now.mono,
            heard: now.mono,
            round_trip: None,
        };
        self.tests.insert(ticket, test);
        self.ask_more(now, ticket);
        self.arm(now.mono);
    }

    fn ask_more(&mut self, now: Now, ticket: u64) {
        loop {
            let Some(test) = self.tests.get_mut(&ticket) else { return };
            let under_way = test.open.len() as u64 * u64::from(ANSWER);
            if test.open.len() >= test.window || test.received + under_way >= test.wanted {
                return;
            }
            let (ident, circuit) = (test.next, test.circuit);
            test.next = test.next.wrapping_add(1);
            test.open.insert(ident, now.mono);
            self.own_send(
                circuit,
                &Message::TestRequest { ident, response_size: ANSWER, data: Bytes::new() },
            );
        }
    }

    pub(crate) fn test_answered(&mut self, now: Now, circuit: CircuitId, ident: u16, len: usize) {
        let Some((ticket, test)) = self.tests.iter_mut().find(|(_, test)| test.circuit == circuit) else {
            return self.refuse("answer that nobody waits for");
        };
        let ticket = *ticket;
        if let Some(sent) = test.open.remove(&ident) {
            let took = now.mono.since(sent);
            test.round_trip = Some(test.round_trip.map_or(took, |best| best.min(took)));
            test.window = (test.window + 1).min(WINDOW_MAX);
        }
        test.received += len as u64;
        test.heard = now.mono;
        if test.received >= test.wanted {
            return self.end_test(now, ticket);
        }
        self.ask_more(now, ticket);
    }

    fn end_test(&mut self, _now: Now, ticket: u64) {
        let Some(test) = self.tests.remove(&ticket) else { return };
        let micros = u64::try_from(test.heard.since(test.began).as_micros()).unwrap_or(u64::MAX).max(1);
        let path = self.own.get(&test.circuit).map(|one| one.goal.clone()).unwrap_or_default();
        for hop in path {
            self.candidates.measured(&hop.key, test.received.saturating_mul(1_000_000) / micros);
        }
        self.event(TunnelEvent::SpeedTested {
            ticket,
            received: test.received,
            took: test.heard.since(test.began),
            round_trip: test.round_trip,
        });
    }

    /// Asks again for what was lost, and ends tests whose circuit carries nothing any more.
    pub(crate) fn tend_tests(&mut self, now: Now) {
        for ticket in self.tests.keys().copied().collect::<Vec<_>>() {
            let Some(test) = self.tests.get_mut(&ticket) else { continue };
            let before = test.open.len();
            test.open.retain(|_, sent| now.mono.since(*sent) < LOST);
            if test.open.len() < before {
                test.window = (test.window / 2).max(WINDOW_START);
            }
            if now.mono.since(test.heard) >= OVER {
                self.end_test(now, ticket);
            } else {
                self.ask_more(now, ticket);
            }
        }
    }

    /// The other end of a joined circuit tests it.
    pub(crate) fn linked_test(&mut self, circuit: CircuitId, ident: u16, response_size: u16) {
        let linked = self.own.get(&circuit).is_some_and(|one| one.is_linked);
        if !linked || !self.config.speed_test {
            return self.refuse("speed test that is not answered");
        }
        let data = self.random_bytes(response_size);
        self.own_send(circuit, &Message::TestResponse { ident, data });
    }
}
