//! The choker: who may download from us. It only chooses; the torrent collects the candidates with the economy's
//! verdicts, carries the choice out and asks for grants.
//!
//! Slots go to friends first, then to identities with standing by weight, then to legacy peers inside their share;
//! a few slots rotate at random (optimistic), so that newcomers get a chance.
//= spec/swarm.md#6-uploading-the-choker

use crate::StreamId;
use fairshare_crypto::Rng;
use fairshare_wire::Instant;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// Between two regular rounds.
//= spec/swarm.md#62-rounds-and-slots
pub(crate) const ROUND: Duration = Duration::from_secs(10);
/// An optimistic peer keeps its slot for this long; over circuits, where everything takes longer, for twice as long.
//= spec/swarm.md#64-order
const OPTIMISTIC: Duration = Duration::from_secs(30);
const OPTIMISTIC_CIRCUIT: Duration = Duration::from_secs(60);
/// Extra evaluations happen at most this often.
pub(crate) const EXTRA_GAP: Duration = Duration::from_secs(1);
/// Automatic slot count: start and bounds.
const SLOTS_START: usize = 8;
const SLOTS_MIN: usize = 4;
const SLOTS_MAX: usize = 64;
/// Below this median rate per slot a slot is taken away, bytes/s.
const SLOT_RATE_MIN: u64 = 16 << 10;
/// Rounds whose upload counts for the measured capacity: ten minutes.
const CAPACITY_ROUNDS: usize = 60;
/// A connection younger than this has three tickets in the optimistic draw.
const YOUNG: Duration = Duration::from_secs(60);
const YOUNG_TICKETS: u64 = 3;
/// While seeding, a legacy peer goes to the end of the line after this many pieces or this time.
//= spec/swarm.md#64-order
const QUOTA_PIECES: u64 = 20;
const QUOTA_TIME: Duration = Duration::from_secs(60);
/// Priority of a friend: above everything that standing can reach.
const FRIEND_PRIORITY: u32 = 1000;

/// What the economy said about a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has standing (or is a friend, at 1000), in 1/1000.
    Known(u32),
    /// It would be served from the stranger pool.
    Stranger,
    /// No identity: the classical rules.
    Legacy,
}

/// An interested peer that may be served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Its connection.
    pub(crate) id: StreamId,
    /// Its standing.
    pub(crate) standing: Standing,
    /// Its place among all that the reputation knows, in 1/1000; 0 if unknown.
    pub(crate) rank: u32,
    /// Since when it is unchoked.
    pub(crate) unchoked_at: Option<Instant>,
    /// When the connection was made.
    pub(crate) connected_at: Instant,
    /// Payload we sent it since it was unchoked, in pieces.
    pub(crate) pieces_since_unchoke: u64,
    /// Bytes per second from it, 20 s average.
    pub(crate) rate_from: u64,
    /// Bytes per second to it.
    pub(crate) rate_to: u64,
    /// Whether it has sent nothing for a minute although asked.
    pub(crate) snubbed: bool,
}

/// How the last round went.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoundFacts {
    /// Payload sent in the round.
    pub(crate) sent: u64,
    /// Rates of the peers that were unchoked.
    pub(crate) rates: Vec<u64>,
    /// Whether every unchoked peer had something to send to it for more than half of the time.
    pub(crate) all_busy: bool,
}

/// The choker of one torrent.
#[derive(Debug)]
pub(crate) struct Choker {
    fixed_slots: Option<usize>,
    slots: usize,
    legacy_share: u32,
    rng: Rng,
    optimistic: BTreeMap<StreamId, Instant>,
    optimistic_span: Duration,
    sent: VecDeque<u64>,
}

impl Choker {
    /// A choker with `slots` slots (automatic if absent); `legacy_share` in 1/1000.
    pub(crate) fn new(slots: Option<usize>, legacy_share: u32, rng: Rng) -> Self {
        Self {
            fixed_slots: slots,
            slots: slots.unwrap_or(SLOTS_START),
            legacy_share: legacy_share.min(1000),
            rng,
            optimistic: BTreeMap::new(),
            optimistic_span: OPTIMISTIC,
            sent: VecDeque::new(),
        }
    }

    /// The same for peers at the other ends of circuits.
    pub(crate) const fn over_circuits(mut self) -> Self {
        self.optimistic_span = OPTIMISTIC_CIRCUIT;
        self
    }

    /// How many peers may be unchoked at once.
    pub(crate) const fn slots(&self) -> usize {
        self.slots
    }

    /// Adjusts the number of slots after a regular round.
    //= spec/swarm.md#62-rounds-and-slots
    pub(crate) fn end_round(&mut self, mut facts: RoundFacts) {
        self.sent.push_back(facts.sent);
        if self.sent.len() > CAPACITY_ROUNDS {
            self.sent.pop_front();
        }
        if self.fixed_slots.is_some() || facts.rates.len() < self.slots {
            return;
        }
        facts.rates.sort_unstable();
        let median = facts.rates.get(facts.rates.len() / 2).copied().unwrap_or(0);
        // Two rounds make the 20 s over which the capacity is measured.
        let pairs = self.sent.iter().zip(self.sent.iter().skip(1)).map(|(a, b)| a.saturating_add(*b) / 2);
        let capacity = pairs.max().unwrap_or(facts.sent);
        if median < SLOT_RATE_MIN {
            self.slots = (self.slots - 1).max(SLOTS_MIN);
        } else if facts.all_busy && facts.sent.saturating_mul(10) < capacity.saturating_mul(9) {
            self.slots = (self.slots + 1).min(SLOTS_MAX);
        }
    }

    /// The peers that shall be unchoked now.
    //= spec/swarm.md#64-order
    pub(crate) fn choose(
        &mut self,
        now: Instant,
        seeding: bool,
        candidates: &[Candidate],
    ) -> BTreeSet<StreamId> {
        let mut queues = Queues::sort(now, seeding, candidates);
        let optimistic_slots = self.slots.div_ceil(5).max(1).min(self.slots);
        let regular_slots = self.slots - optimistic_slots;
        let legacy_cap = self.legacy_cap();

        let mut chosen = BTreeSet::new();
        let reserved = legacy_cap.min(queues.legacy.len()).min(regular_slots);
        take(&mut queues.known, regular_slots - reserved, &mut chosen);
        take(&mut queues.legacy, reserved, &mut chosen);
        // Slots that one kind does not use are lent to the other for one round.
        take(&mut queues.known, regular_slots - chosen.len(), &mut chosen);
        take(&mut queues.strangers, regular_slots - chosen.len(), &mut chosen);
        if queues.known.is_empty() && queues.strangers.is_empty() {
            take(&mut queues.legacy, regular_slots - chosen.len(), &mut chosen);
        }
        self.choose_optimistic(now, candidates, legacy_cap, &mut chosen);
        chosen
    }

    /// Slots that legacy peers may hold while identities wait.
    fn legacy_cap(&self) -> usize {
        (self.slots * self.legacy_share as usize).div_ceil(1000)
    }

    /// Fills the slots that are left: first those who hold an optimistic slot and have time left, then by lot.
    fn choose_optimistic(
        &mut self,
        now: Instant,
        candidates: &[Candidate],
        legacy_cap: usize,
        chosen: &mut BTreeSet<StreamId>,
    ) {
        let is_legacy = |candidate: &&Candidate| candidate.standing == Standing::Legacy;
        let mut legacy = candidates.iter().filter(is_legacy).filter(|peer| chosen.contains(&peer.id)).count();
        let mut waiting: Vec<&Candidate> =
            candidates.iter().filter(|peer| !chosen.contains(&peer.id)).collect();
        let previous = std::mem::take(&mut self.optimistic);
        while chosen.len() < self.slots {
            let identity_waits = waiting.iter().any(|peer| peer.standing != Standing::Legacy);
            let mut eligible: Vec<usize> = (0..waiting.len())
                .filter(|at| {
                    waiting[*at].standing != Standing::Legacy || !identity_waits || legacy < legacy_cap
                })
                .collect();
            let stays = |at: &usize| {
                previous
                    .get(&waiting[*at].id)
                    .filter(|since| now.since(**since) < self.optimistic_span)
                    .copied()
            };
            let kept = eligible.iter().find_map(|at| stays(at).map(|since| (*at, since)));
            let (at, since) = match kept {
                Some(kept) => kept,
                None => match self.draw(now, &waiting, &mut eligible) {
                    Some(at) => (at, now),
                    None => break,
                },
            };
            let peer = waiting.swap_remove(at);
            legacy += usize::from(peer.standing == Standing::Legacy);
            self.optimistic.insert(peer.id, since);
            chosen.insert(peer.id);
        }
    }

    /// Draws one of the eligible by lot; young connections have three tickets.
    fn draw(&mut self, now: Instant, waiting: &[&Candidate], eligible: &mut [usize]) -> Option<usize> {
        let young = |at: &usize| now.since(waiting[*at].connected_at) < YOUNG;
        let tickets = |at: &usize| if young(at) { YOUNG_TICKETS } else { 1 };
        let total: u64 = eligible.iter().map(tickets).sum();
        if total == 0 {
            return None;
        }
        let mut drawn = self.rng.below(total);
        eligible.iter().copied().find(|at| {
            let mine = tickets(at);
            let hit = drawn < mine;
            drawn = drawn.saturating_sub(mine);
            hit
        })
    }
}

/// Candidates by kind, each in the order in which they are served.
struct Queues {
    known: VecDeque<StreamId>,
    strangers: VecDeque<StreamId>,
    legacy: VecDeque<StreamId>,
}

impl Queues {
    fn sort(now: Instant, seeding: bool, candidates: &[Candidate]) -> Self {
        let best_rate = candidates.iter().map(|peer| peer.rate_from).max().unwrap_or(0);
        let of = |wanted: fn(Standing) -> bool| candidates.iter().filter(move |peer| wanted(peer.standing));
        let mut known: Vec<_> = of(|standing| matches!(standing, Standing::Known(_))).collect();
        known.sort_by_key(|peer| (Reverse(weight(peer, seeding, best_rate)), peer.id));
        let mut strangers: Vec<_> = of(|standing| standing == Standing::Stranger).collect();
        strangers.sort_by_key(|peer| (peer.unchoked_at.is_none(), peer.connected_at, peer.id));
        let mut legacy: Vec<_> = of(|standing| standing == Standing::Legacy).collect();
        if seeding {
            legacy.sort_by_key(|peer| (quota_used(now, peer), Reverse(peer.rate_to), peer.id));
        } else {
            legacy.retain(|peer| !peer.snubbed);
            legacy.sort_by_key(|peer| (Reverse(peer.rate_from), peer.id));
        }
        let ids = |peers: Vec<&Candidate>| peers.into_iter().map(|peer| peer.id).collect();
        Self { known: ids(known), strangers: ids(strangers), legacy: ids(legacy) }
    }
}

/// Weight of a peer with standing, in 1/10000: a half is the economy's priority, three tenths its rank by reputation,
/// two tenths what it gives us. Friends above all; a holder of a slot counts 1.1 times.
//= spec/swarm.md#63-verdict-of-the-economy
fn weight(peer: &Candidate, seeding: bool, best_rate: u64) -> (bool, u64) {
    let Standing::Known(priority) = peer.standing else { return (false, 0) };
    let given = if seeding || best_rate == 0 {
        0
    } else {
        let share = u128::from(peer.rate_from) * 1000 / u128::from(best_rate);
        u64::try_from(share).unwrap_or(1000).min(1000)
    };
    let weight =
        u64::from(priority.min(FRIEND_PRIORITY)) * 5 + u64::from(peer.rank.min(1000)) * 3 + given * 2;
    let held = if peer.unchoked_at.is_some() { 11 } else { 10 };
    (priority >= FRIEND_PRIORITY, weight * held)
}

/// Whether a legacy peer has had its turn while we seed.
fn quota_used(now: Instant, peer: &Candidate) -> bool {
    let Some(since) = peer.unchoked_at else { return false };
    peer.pieces_since_unchoke >= QUOTA_PIECES || now.since(since) >= QUOTA_TIME
}

fn take(queue: &mut VecDeque<StreamId>, count: usize, chosen: &mut BTreeSet<StreamId>) {
    let count = count.min(queue.len());
    chosen.extend(queue.drain(..count));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: u64, standing: Standing) -> Candidate {
        Candidate {
            id: StreamId(id),
            standing,
            rank: 0,
            unchoked_at: None,
            connected_at: Instant::START,
            pieces_since_unchoke: 0,
            rate_from: 0,
            rate_to: 0,
            snubbed: false,
        }
    }

    fn choker(slots: usize, legacy_share: u32) -> Choker {
        Choker::new(Some(slots), legacy_share, Rng::from_seed([1; 32]))
    }

    fn later(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    //= spec/swarm.md#64-order
    #[test]
    fn friends_come_first_then_the_heaviest() {
        let peers: Vec<Candidate> = (1..=20)
            .map(|id| candidate(id, Standing::Known(if id == 7 { 1000 } else { id as u32 })))
            .collect();
        let chosen = choker(5, 250).choose(later(100), false, &peers);
        assert_eq!(chosen.len(), 5);
        for id in [7, 20, 19, 18] {
            assert!(chosen.contains(&StreamId(id)), "{chosen:?}");
        }
    }

    //= spec/swarm.md#64-order
    #[test]
    fn a_holder_of_a_slot_keeps_it_against_a_slightly_heavier_challenger() {
        let mut holder = candidate(1, Standing::Known(500));
        holder.unchoked_at = Some(later(1));
        let peers = [holder, candidate(2, Standing::Known(540))];
        let choose = |peers: &[Candidate]| Queues::sort(later(20), false, peers).known[0];
        assert_eq!(choose(&peers), StreamId(1));
        assert_eq!(choose(&[holder, candidate(2, Standing::Known(560))]), StreamId(2));
    }

    //= spec/swarm.md#63-verdict-of-the-economy
    #[test]
    fn a_weight_is_half_priority_three_tenths_rank_and_two_tenths_what_is_given() {
        let peer = |priority, rank, rate_from| Candidate {
            rank,
            rate_from,
            ..candidate(1, Standing::Known(priority))
        };
        let of = |peer: Candidate, seeding| weight(&peer, seeding, 800).1 / 10;
        assert_eq!(of(peer(400, 0, 0), false), 2_000);
        assert_eq!(of(peer(400, 500, 0), false), 3_500);
        assert_eq!(of(peer(400, 500, 400), false), 4_500);
        assert_eq!(of(peer(400, 500, 400), true), 3_500, "who has everything is given nothing");
        assert_eq!(of(peer(999, 5_000, 800), false), 4_995 + 3_000 + 2_000, "no rank is above the first");
        // A friend stays above all others.
        let peers = [peer(999, 1_000, 800), Candidate { id: StreamId(2), ..peer(1_000, 0, 0) }];
        assert_eq!(Queues::sort(later(1), false, &peers).known[0], StreamId(2));
    }

    //= spec/swarm.md#62-rounds-and-slots
    #[test]
    fn legacy_peers_keep_to_their_share_while_identities_wait() {
        let mut peers: Vec<Candidate> = (1..=20).map(|id| candidate(id, Standing::Known(5))).collect();
        peers.extend((21..=40).map(|id| candidate(id, Standing::Legacy)));
        for seed in 0..50 {
            let mut choker = Choker::new(Some(8), 250, Rng::from_seed([seed; 32]));
            let chosen = choker.choose(later(100), true, &peers);
            assert_eq!(chosen.len(), 8);
            assert!(chosen.iter().filter(|id| id.0 > 20).count() <= 2, "{chosen:?}");
        }
    }

    //= spec/swarm.md#62-rounds-and-slots
    #[test]
    fn unused_slots_are_lent_to_legacy_peers() {
        let peers: Vec<Candidate> = (1..=20).map(|id| candidate(id, Standing::Legacy)).collect();
        assert_eq!(choker(8, 250).choose(later(100), true, &peers).len(), 8);
    }

    //= spec/swarm.md#62-rounds-and-slots
    #[test]
    fn the_strict_mode_serves_no_legacy_peer_while_an_identity_waits() {
        let mut peers: Vec<Candidate> = (1..=20).map(|id| candidate(id, Standing::Known(5))).collect();
        peers.push(candidate(21, Standing::Legacy));
        assert!(!choker(8, 0).choose(later(100), true, &peers).contains(&StreamId(21)));
    }

    //= spec/swarm.md#63-verdict-of-the-economy
    #[test]
    fn strangers_come_after_everybody_with_standing() {
        let mut peers: Vec<Candidate> = (1..=4).map(|id| candidate(id, Standing::Stranger)).collect();
        peers.extend((5..=8).map(|id| candidate(id, Standing::Known(1))));
        let chosen = choker(5, 250).choose(later(100), true, &peers);
        assert_eq!(chosen.iter().filter(|id| id.0 >= 5).count(), 4, "{chosen:?}");
        assert_eq!(chosen.len(), 5, "the optimistic slot takes a stranger");
    }

    //= spec/swarm.md#62-rounds-and-slots
    #[test]
    fn an_optimistic_peer_keeps_its_slot_for_thirty_seconds_and_over_circuits_for_sixty() {
        let peers: Vec<Candidate> = (1..=40).map(|id| candidate(id, Standing::Stranger)).collect();
        for (mut choker, span) in [(choker(5, 250), 30), (choker(5, 250).over_circuits(), 60)] {
            let first = choker.choose(later(100), true, &peers);
            assert_eq!(choker.choose(later(100 + span - 1), true, &peers), first);
            let mut seen = first.clone();
            for round in 0..20 {
                seen.extend(choker.choose(later(140 + (span + 1) * round), true, &peers));
            }
            assert!(seen.len() > first.len(), "the slot rotates");
        }
    }

    //= spec/swarm.md#64-order
    #[test]
    fn a_legacy_peer_that_had_its_quota_goes_to_the_end_of_the_line() {
        let mut fed = candidate(1, Standing::Legacy);
        (fed.unchoked_at, fed.pieces_since_unchoke, fed.rate_to) = (Some(later(99)), 20, 9_000_000);
        let queues = Queues::sort(later(100), true, &[fed, candidate(2, Standing::Legacy)]);
        assert_eq!(queues.legacy, [StreamId(2), StreamId(1)]);
    }

    //= spec/swarm.md#64-order
    #[test]
    fn while_downloading_legacy_peers_are_ranked_by_what_they_send() {
        let mut giver = candidate(2, Standing::Legacy);
        giver.rate_from = 1000;
        let mut snubbed = candidate(3, Standing::Legacy);
        snubbed.snubbed = true;
        let queues = Queues::sort(later(100), false, &[candidate(1, Standing::Legacy), giver, snubbed]);
        assert_eq!(queues.legacy, [StreamId(2), StreamId(1)]);
    }

    //= spec/swarm.md#62-rounds-and-slots
    #[test]
    fn automatic_slots_stay_between_their_bounds() {
        let mut choker = Choker::new(None, 250, Rng::from_seed([1; 32]));
        assert_eq!(choker.slots(), 8);
        for _ in 0..20 {
            choker.end_round(RoundFacts { sent: 10, rates: vec![1; 64], all_busy: true });
        }
        assert_eq!(choker.slots(), 4);
        choker.end_round(RoundFacts { sent: 1 << 40, rates: vec![1 << 20; 64], all_busy: true });
        for _ in 0..100 {
            choker.end_round(RoundFacts { sent: 1 << 30, rates: vec![1 << 20; 64], all_busy: true });
        }
        assert!((5..=64).contains(&choker.slots()), "{}", choker.slots());
    }
}
