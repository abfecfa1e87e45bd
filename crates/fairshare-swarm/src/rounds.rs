//! When the choker is asked, with which candidates, and how its choice is carried out.
//!
//! A regular round comes every ten seconds. Between rounds a single peer can be admitted to a free slot at once,
//! and a slot that became free leads to an extra evaluation. The economy's verdict is asked for each interested
//! identity; the evaluation goes on when the last answer is there.
//= spec/swarm.md#62-rounds-and-slots

use crate::Verdict;
use crate::choker::{Candidate, EXTRA_GAP, ROUND, RoundFacts, Standing};
use crate::connection::{Class, Connection};
use crate::context::Context;
use crate::dealing::serves;
use crate::event::{StreamId, SwarmEvent};
use crate::picker::Picker;
use crate::torrent::Torrent;
use fairshare_wire::{Instant, Now};
use std::collections::BTreeSet;
use std::time::Duration;

/// A refused peer is judged again after this, if nothing makes the economy ask for it earlier.
//= spec/swarm.md#63-verdict-of-the-economy
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// A legacy peer that sends nothing for this long while we download loses its claim to a regular slot.
//= spec/swarm.md#64-order
const SNUB: Duration = Duration::from_secs(60);

/// The timetable of one torrent's choker.
#[derive(Debug)]
pub(crate) struct Rounds {
    next_round: Instant,
    evaluated_at: Option<Instant>,
    /// An extra evaluation is wanted as soon as it is allowed.
    wanted: bool,
    /// Peers whose verdicts the evaluation under way waits for.
    awaiting: BTreeSet<StreamId>,
    /// Payload sent until the last regular round.
    sent_before: u64,
    round_start: Instant,
}

impl Rounds {
    /// The first round comes after one interval.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next_round: now + ROUND,
            evaluated_at: None,
            wanted: false,
            awaiting: BTreeSet::new(),
            sent_before: 0,
            round_start: now,
        }
    }
}

impl Torrent {
    pub(crate) fn on_interested(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.upload.interested = true;
        // At once, but not again and again: each look costs the economy work, and a peer can change its mind at
        // no cost.
        let recent = connection.looked_at.is_some_and(|at| now.mono.since(at) < EXTRA_GAP);
        if recent {
            return self.want_evaluation(cx, now.mono);
        }
        connection.looked_at = Some(now.mono);
        self.consider(cx, now, id);
    }

    pub(crate) fn on_not_interested(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.upload.interested = false;
        let held_slot = connection.serving;
        self.choke(cx, id);
        if held_slot {
            self.want_evaluation(cx, now.mono);
        }
    }

    /// A connection is gone.
    pub(crate) fn slot_may_be_free(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        if self.rounds.awaiting.remove(&id) && self.rounds.awaiting.is_empty() {
            self.finish_evaluation(cx, now);
        }
        self.want_evaluation(cx, now.mono);
    }

    /// Looks at one peer that became interested or whose class became known, without waiting for a round: into a
    /// free slot it comes at once.
    pub(crate) fn consider(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        if !self.may_serve(cx) {
            return;
        }
        let Some(connection) = self.connections.get(&id).filter(|peer| peer.upload.interested) else {
            return;
        };
        match connection.class() {
            Class::Undecided => {}
            Class::Identity => self.ask_verdict(cx, now.mono, id),
            Class::Legacy if connection.serving => {}
            Class::Legacy if self.has_free_slot() && !self.identity_waits() => self.serve(cx, now, id),
            Class::Legacy => self.want_evaluation(cx, now.mono),
        }
    }

    /// The economy may judge differently now.
    pub(crate) fn rejudge(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.refused_at = None;
        }
        self.consider(cx, now, id);
    }

    /// The economy's answer.
    pub(crate) fn verdict(&mut self, cx: &mut Context, now: Now, id: StreamId, verdict: Verdict) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.verdict = Some(verdict);
        if verdict == Verdict::Refuse {
            connection.refused_at = Some(now.mono);
        }
        if self.rounds.awaiting.remove(&id) {
            if self.rounds.awaiting.is_empty() {
                self.finish_evaluation(cx, now);
            }
            return;
        }
        let serving = connection.serving;
        match (verdict, serving) {
            (Verdict::Serve { .. }, false) if self.may_serve(cx) && self.is_eligible(now.mono, id) => {
                if self.has_free_slot() {
                    self.serve(cx, now, id)
                } else {
                    self.want_evaluation(cx, now.mono)
                }
            }
            (Verdict::Serve { .. }, true) => self.demand_room(cx, now, id),
            // Unpaid: nothing more is sent anyway, and a payment may be on its way; the next round takes the slot.
            (Verdict::Serve { .. } | Verdict::Choke, _) => {}
            (Verdict::Refuse, true) => {
                self.choke(cx, id);
                self.want_evaluation(cx, now.mono);
            }
            (Verdict::Refuse, false) => {}
        }
    }

    /// Rounds and extra evaluations that are due.
    pub(crate) fn tick_rounds(&mut self, cx: &mut Context, now: Now) {
        if now.mono >= self.rounds.next_round {
            self.rounds.next_round = now.mono + ROUND;
            self.end_round(now.mono);
            self.start_evaluation(cx, now);
        } else {
            self.evaluate_if_due(cx, now);
        }
    }

    /// The extra evaluation, if one is wanted and allowed.
    pub(crate) fn evaluate_if_due(&mut self, cx: &mut Context, now: Now) {
        let allowed = self.rounds.evaluated_at.is_none_or(|at| now.mono.since(at) >= EXTRA_GAP);
        match (self.rounds.wanted, allowed) {
            (true, true) => self.start_evaluation(cx, now),
            (true, false) => self.want_evaluation(cx, now.mono),
            (false, _) => {}
        }
    }

    /// Chokes everybody, because nobody may be served any more.
    pub(crate) fn choke_all(&mut self, cx: &mut Context) {
        self.rounds.awaiting.clear();
        let ids: Vec<StreamId> = self.connections.keys().copied().collect();
        ids.into_iter().for_each(|id| self.choke(cx, id));
    }

    /// An extra evaluation soon: at once, or a second after the last one.
    pub(crate) fn want_evaluation(&mut self, cx: &mut Context, now: Instant) {
        self.rounds.wanted = true;
        cx.wake_at(self.rounds.evaluated_at.map_or(now, |at| (at + EXTRA_GAP).max(now)));
    }

    fn start_evaluation(&mut self, cx: &mut Context, now: Now) {
        self.rounds.wanted = false;
        self.rounds.evaluated_at = Some(now.mono);
        self.rounds.awaiting.clear();
        if !self.may_serve(cx) {
            return;
        }
        let ids: Vec<StreamId> = self.connections.keys().copied().collect();
        for id in ids {
            let eligible = self.is_eligible(now.mono, id);
            if eligible && self.connections.get(&id).is_some_and(|peer| peer.class() == Class::Identity) {
                self.rounds.awaiting.insert(id);
                self.ask_verdict(cx, now.mono, id);
            }
        }
        if self.rounds.awaiting.is_empty() {
            self.finish_evaluation(cx, now);
        }
    }

    fn finish_evaluation(&mut self, cx: &mut Context, now: Now) {
        if !self.may_serve(cx) {
            return;
        }
        let seeding = self.picker.as_ref().is_some_and(Picker::is_complete);
        let eligible = self.connections.values().filter(|peer| self.is_eligible(now.mono, peer.id));
        let candidates: Vec<Candidate> = eligible.filter_map(|peer| self.candidate(now.mono, peer)).collect();
        let chosen = self.choker.choose(now.mono, seeding, &candidates);
        let ids: Vec<StreamId> = self.connections.keys().copied().collect();
        for id in &ids {
            if !chosen.contains(id) && self.connections.get(id).is_some_and(|peer| peer.serving) {
                self.choke(cx, *id);
            }
        }
        for id in chosen {
            if self.connections.get(&id).is_some_and(|peer| !peer.serving) {
                self.serve(cx, now, id);
            } else {
                self.renew_room(cx, now, id);
            }
        }
    }

    fn ask_verdict(&self, cx: &mut Context, now: Instant, id: StreamId) {
        let Some(connection) = self.connections.get(&id) else { return };
        cx.event(SwarmEvent::VerdictWanted { id, rate: connection.upload.rate.current(now) });
    }

    /// Whether the peer may take part in an evaluation.
    fn is_eligible(&self, now: Instant, id: StreamId) -> bool {
        let Some(peer) = self.connections.get(&id) else { return false };
        let refused = peer.refused_at.is_some_and(|at| now.since(at) < REFUSED_PAUSE);
        let disputed = peer.dealing().is_some_and(|dealing| dealing.given.is_disputed());
        peer.upload.interested && peer.class() != Class::Undecided && !refused && !disputed
    }

    fn candidate(&self, now: Instant, peer: &Connection) -> Option<Candidate> {
        let standing = match (peer.class(), peer.verdict) {
            (Class::Legacy, _) => Standing::Legacy,
            (Class::Identity, Some(Verdict::Serve { pool: true, .. })) => Standing::Stranger,
            (Class::Identity, Some(Verdict::Serve { priority, .. })) => Standing::Known(priority),
            _ => return None,
        };
        let piece_len = self.geometry.map_or(1, |geometry| u64::from(geometry.piece_len)).max(1);
        let silent = peer.download.rate.over(now, 20) == 0 && now.since(peer.opened_at) >= SNUB;
        Some(Candidate {
            id: peer.id,
            standing,
            rank: peer.rank,
            unchoked_at: peer.upload.unchoked_at,
            connected_at: peer.opened_at,
            pieces_since_unchoke: (peer.upload.sent - peer.upload.sent_at_unchoke) / piece_len,
            rate_from: peer.download.rate.over(now, 20),
            rate_to: peer.upload.rate.over(now, 20),
            snubbed: peer.download.interested && silent,
        })
    }

    fn has_free_slot(&self) -> bool {
        self.connections.values().filter(|peer| peer.serving).count() < self.choker.slots()
    }

    /// Whether an identity that would be served waits for a slot.
    fn identity_waits(&self) -> bool {
        let waits = |peer: &Connection| {
            peer.class() == Class::Identity && peer.upload.interested && !peer.serving && serves(peer.verdict)
        };
        self.connections.values().any(waits)
    }

    fn end_round(&mut self, now: Instant) {
        let sent = self.past.uploaded + self.connections.values().map(|peer| peer.upload.sent).sum::<u64>();
        let mut facts =
            RoundFacts { sent: sent - self.rounds.sent_before, rates: Vec::new(), all_busy: true };
        let whole_round = self.rounds.round_start;
        (self.rounds.sent_before, self.rounds.round_start) = (sent, now);
        for peer in self.connections.values_mut() {
            let busy = peer.upload.was_busy(now);
            // A slot that was held for a part of the round says nothing about what slots are worth.
            if peer.upload.unchoked_at.is_some_and(|at| at <= whole_round) {
                facts.all_busy &= busy;
                facts.rates.push(peer.upload.rate.over(now, 10));
            }
        }
        self.choker.end_round(facts);
    }
}
