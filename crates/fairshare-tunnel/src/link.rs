//! Settlement links: circuits of one hop between neighbours, over which they exchange messages about payment.
//= spec/payouts.md#31-parties-and-accounts

use crate::circuit::Purpose;
use crate::engine::Tunnel;
use crate::output::TunnelEvent;
use crate::path::Wish;
use crate::wire::{CircuitId, Flags, Message};
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_wire::{Instant, Now};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Neighbours with links at once.
const LINKS_MAX: usize = 500;
/// Messages that wait for a link.
const WAITING_MAX: usize = 16;
/// A link without messages for so long is closed.
const UNUSED: Duration = Duration::from_secs(120);

/// All links.
#[derive(Debug, Default)]
pub(crate) struct Links {
    own: BTreeMap<PublicKey, OwnLink>,
    /// The newest circuit that each neighbour opened to us and spoke over.
    theirs: BTreeMap<PublicKey, CircuitId>,
}

#[derive(Debug)]
struct OwnLink {
    circuit: Option<CircuitId>,
    waiting: VecDeque<(u8, Bytes)>,
    used: Instant,
    /// The last circuit came not to stand.
    failed: bool,
}

impl Links {
    pub(crate) fn came_in(&mut self, neighbour: PublicKey, circuit: CircuitId) {
        if self.theirs.len() < LINKS_MAX || self.theirs.contains_key(&neighbour) {
            self.theirs.insert(neighbour, circuit);
        }
    }
}

impl Tunnel {
    /// Sends a message about payment to a neighbour: over a circuit of our own, whose key exchange proves who is there.
    /// If `reply`, a neighbour that answers no CREATE is answered over the circuit that it opened to us. Messages may be
    /// lost like all datagrams.
    pub fn link_send(&mut self, now: Now, neighbour: &PublicKey, reply: bool, id: u8, body: Bytes) {
        let message = Message::Settlement { id, body };
        let theirs = self.links.theirs.get(neighbour).copied();
        if let Some(circuit) = theirs.filter(|_| reply && !self.can_be_met(neighbour)) {
            return self.end_send(circuit, &message);
        }
        self.own_link_send(now, neighbour, message);
    }

    /// Whether a link of ours to the neighbour stands, or is likely to: whoever names its key when it opens a circuit to
    /// us has not proved it.
    fn can_be_met(&self, neighbour: &PublicKey) -> bool {
        let relays = self
            .candidates
            .get(neighbour)
            .is_some_and(|one| one.offers.values().any(|flags| *flags != Flags::NONE));
        match self.links.own.get(neighbour) {
            Some(link) => {
                let stands = |id| self.own.get(&id).is_some_and(|one| one.is_ready());
                link.circuit.is_some_and(stands) || relays && !link.failed
            }
            None => relays,
        }
    }

    /// Whether the neighbour may know messages about payment: one that is in other communities alone does not, and should
    /// not be told who we are on the ledger.
    //= spec/payouts.md#31-parties-and-accounts
    fn settles(&self, neighbour: &PublicKey) -> bool {
        let (one, ours) = (self.candidates.get(neighbour), self.config.communities.first());
        one.zip(ours).is_none_or(|(one, ours)| one.offers.contains_key(ours))
    }

    fn own_link_send(&mut self, now: Now, neighbour: &PublicKey, message: Message) {
        let Message::Settlement { id, body } = message else { return };
        if !self.settles(neighbour) {
            return self.refuse("settlement with a neighbour of another community");
        }
        if self.links.own.len() >= LINKS_MAX && !self.links.own.contains_key(neighbour) {
            return self.refuse("too many settlement links");
        }
        let new = || OwnLink { circuit: None, waiting: VecDeque::new(), used: now.mono, failed: false };
        let link = self.links.own.entry(*neighbour).or_insert_with(new);
        link.used = now.mono;
        if let Some(circuit) = link.circuit
            && self.own.get(&circuit).is_some_and(|one| one.is_ready())
        {
            return self.own_send(circuit, &Message::Settlement { id, body });
        }
        if link.waiting.len() >= WAITING_MAX {
            link.waiting.pop_front();
        }
        link.waiting.push_back((id, body));
        if link.circuit.is_none() {
            self.open_link(now, neighbour);
        }
    }

    fn open_link(&mut self, now: Now, neighbour: &PublicKey) {
        let wish = Wish { forced: Some(vec![*neighbour]), ..Wish::new(1, Flags::NONE) };
        let circuit = self.build(now, Purpose::Settlement(*neighbour), &wish);
        if circuit.is_none() {
            self.refuse("settlement with a neighbour that is not here");
        }
        if let Some(link) = self.links.own.get_mut(neighbour) {
            link.circuit = circuit;
        }
    }

    pub(crate) fn link_stands(&mut self, neighbour: PublicKey, circuit: CircuitId) {
        let Some(link) = self.links.own.get_mut(&neighbour) else { return };
        link.circuit = Some(circuit);
        link.failed = false;
        for (id, body) in std::mem::take(&mut link.waiting) {
            self.own_send(circuit, &Message::Settlement { id, body });
        }
    }

    pub(crate) fn link_gone(&mut self, neighbour: &PublicKey, circuit: CircuitId, stood: bool) {
        if let Some(link) = self.links.own.get_mut(neighbour)
            && link.circuit == Some(circuit)
        {
            link.circuit = None;
            link.failed = !stood;
        }
    }

    pub(crate) fn link_message_in(&mut self, circuit: CircuitId, id: u8, body: Bytes) {
        let Some(Purpose::Settlement(neighbour)) = self.purpose(circuit) else {
            return self.refuse("settlement over a circuit for something else");
        };
        self.event(TunnelEvent::LinkMessage { neighbour, outgoing: true, id, body });
    }

    /// Closes what nobody used for long, and forgets neighbours whose circuits are gone.
    pub(crate) fn tidy_links(&mut self, now: Now) {
        let joined = &self.joined;
        self.links.theirs.retain(|_, circuit| joined.contains_key(circuit));
        let unused: Vec<_> = self
            .links
            .own
            .iter()
            .filter(|(_, link)| now.mono.since(link.used) >= UNUSED)
            .map(|(neighbour, link)| (*neighbour, link.circuit))
            .collect();
        for (neighbour, circuit) in unused {
            self.links.own.remove(&neighbour);
            if let Some(circuit) = circuit {
                self.close_own(now, circuit, "not used", Some(crate::wire::DestroyReason::UNNEEDED));
            }
        }
    }

    /// Whether some link still wants its circuit kept.
    pub(crate) fn has_links(&self) -> bool {
        !self.links.own.is_empty()
    }
}
