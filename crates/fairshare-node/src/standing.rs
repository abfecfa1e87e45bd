//! Reputation: what the signed pairs of everybody say about each key, seen from this node. It orders whom the choker
//! serves, weighs which relays are chosen and sizes risks; by itself it never grants a byte.
//= spec/trust.md#8-how-scores-are-used

use crate::contract::{Reason, Reputation};
use fairshare_crypto::{PublicKey, Rng};
use fairshare_ledger::{ChainStore, HalfBlock, Interactions, StoreError, bandwidth_pairs};
use fairshare_trust::{EngineKind, Graph, NodeId, ReputationEngine, Score, Settings, Weights, build};
use fairshare_wire::{Instant, Now};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Changes are gathered for this long before the engine takes them.
//= spec/trust.md#5-3-cost
const BATCH: Duration = Duration::from_millis(250);
/// Blocks of the store that are looked at when a node starts: some seconds of reading.
const SCAN_MAX: usize = 1_000_000;
/// The yardstick of trust while few were dealt with.
//= spec/settlement.md#8-effects-and-the-terms-record
const M90_DEFAULT: f64 = 0.05;
const M90_PARTNERS: usize = 10;
/// Steps of two standard errors within which scores count as equal.
//= spec/trust.md#8-3-choking
const STEP_ERRORS: f64 = 2.0;

/// What is known of the standing of others.
pub(crate) struct Standing {
    me: PublicKey,
    interactions: Interactions,
    engine: Box<dyn ReputationEngine>,
    apply_at: Option<Instant>,
    /// Keys that this node has settled with.
    partners: BTreeSet<PublicKey>,
    forkers: BTreeSet<PublicKey>,
    /// By the scores that were applied last.
    ranks: BTreeMap<PublicKey, u32>,
}

impl Standing {
    /// Everything that the store holds, as an engine of this kind sees it.
    pub(crate) fn new<S: ChainStore>(
        kind: EngineKind,
        me: PublicKey,
        store: &S,
        rng: Rng,
        now: Now,
    ) -> Result<Self, StoreError> {
        let weights = if kind.reads_gross() { Weights::Gross } else { Weights::Netted };
        let mut interactions = Interactions::new(me, weights, None);
        let mut partners = BTreeSet::new();
        bandwidth_pairs(store, 0, SCAN_MAX, |proposal, agreement| {
            interactions.linked(now, proposal, agreement);
            partners.extend(partner(&me, proposal));
        })?;
        interactions.take_changes();
        let edges = interactions.edges(weights);
        let graph = Graph::from_edges(&edges);
        let own = interactions.node(&me).unwrap_or(0);
        let settings = Settings::default();
        // The kinds that the configuration allows build over every graph; the others are for tools.
        let engine = build(kind, settings.clone(), graph, own, rng.clone())
            .or_else(|_| build(EngineKind::Merit, settings, Graph::from_edges(&edges), own, rng))
            .map_err(|error| StoreError::Damaged { what: error.to_string() })?;
        let mut standing = Self {
            me,
            interactions,
            engine,
            apply_at: None,
            partners,
            forkers: BTreeSet::new(),
            ranks: BTreeMap::new(),
        };
        for proof in store.proofs()? {
            standing.fork_proved(proof.accused());
        }
        standing.ranks = standing.ranked_keys();
        Ok(standing)
    }

    /// A pair became complete, of whomever.
    pub(crate) fn linked(&mut self, now: Now, proposal: &HalfBlock, agreement: &HalfBlock) {
        self.interactions.linked(now, proposal, agreement);
        self.partners.extend(partner(&self.me, proposal));
        self.gather(now);
    }

    /// An own payment was signed: what we took counts at once.
    pub(crate) fn own(&mut self, now: Now, block: &HalfBlock) {
        self.interactions.own(now, block);
        self.gather(now);
    }

    fn gather(&mut self, now: Now) {
        if self.interactions.has_changes() {
            self.apply_at = self.apply_at.or(Some(now.mono + BATCH));
        }
    }

    /// The key of a proven forker scores nothing, and vouches for nobody.
    //= spec/trust.md#9-fraud-evidence
    pub(crate) fn fork_proved(&mut self, key: &PublicKey) {
        self.forkers.insert(*key);
        if let Some(node) = self.interactions.intern(key) {
            self.engine.mark_fraudster(node);
        }
    }

    /// Applies what was gathered, if it is time; `true` if scores may have changed.
    pub(crate) fn handle_timeout(&mut self, now: Now) -> bool {
        if self.apply_at.is_none_or(|at| at > now.mono) {
            return false;
        }
        self.apply_at = None;
        let changes = self.interactions.take_changes();
        self.engine.apply(&changes);
        self.ranks = self.ranked_keys();
        true
    }

    pub(crate) const fn next_timeout(&self) -> Option<Instant> {
        self.apply_at
    }

    fn score(&self, key: &PublicKey) -> Score {
        self.interactions.node(key).map_or_else(Score::default, |node| self.engine.score(node))
    }

    /// How the key ranks among all that score, in 1/1000; 0 = unknown.
    pub(crate) fn rank(&self, key: &PublicKey) -> u32 {
        self.ranks.get(key).copied().unwrap_or(0)
    }

    /// The ranks of all that score; those within two standard errors are equal.
    //= spec/trust.md#8-3-choking
    fn ranked_keys(&self) -> BTreeMap<PublicKey, u32> {
        let top: Vec<(NodeId, Score)> = self.ranked(usize::MAX);
        let mut places: Vec<(NodeId, usize)> = Vec::with_capacity(top.len());
        let (mut place, mut anchor) = (0, f64::INFINITY);
        for (node, score) in &top {
            if score.value < anchor - STEP_ERRORS * score.std_err {
                place += 1;
                anchor = score.value;
            }
            places.push((*node, place));
        }
        let count = place.max(1);
        let rank = |place: usize| u32::try_from(1_000 * (count + 1 - place) / count).unwrap_or(0);
        let named = |(node, place): (NodeId, usize)| Some((*self.interactions.key(node)?, rank(place)));
        places.into_iter().filter_map(named).collect()
    }

    fn ranked(&self, count: usize) -> Vec<(NodeId, Score)> {
        let own = self.interactions.node(&self.me);
        let top = self.engine.top(count.saturating_add(1));
        top.into_iter().filter(|(node, _)| Some(*node) != own).take(count).collect()
    }

    /// Trust in a key, in 1/1000: its score over the ninth decile of those that we dealt with, at most 1.
    //= spec/settlement.md#8-effects-and-the-terms-record
    pub(crate) fn trust(&self, key: &PublicKey) -> u32 {
        if self.forkers.contains(key) {
            return 0;
        }
        per_mille(self.score(key).value / self.yardstick())
    }

    fn yardstick(&self) -> f64 {
        let mut scores: Vec<f64> = self.partners.iter().map(|key| self.score(key).value).collect();
        if scores.len() < M90_PARTNERS {
            return M90_DEFAULT;
        }
        scores.sort_by(f64::total_cmp);
        let at = scores.len() * 9 / 10;
        scores.get(at).copied().unwrap_or(M90_DEFAULT).max(f64::MIN_POSITIVE)
    }

    /// The share of all reputation that a key has, in 1/1000: what relays are sampled by.
    //= spec/trust.md#8-4-circuits
    pub(crate) fn share(&self, key: &PublicKey) -> u32 {
        let alpha = Settings::default().continue_prob;
        per_mille(self.score(key).value * (1.0 - alpha) / alpha)
    }

    /// The keys that stand best.
    pub(crate) fn top(&self, count: usize) -> Vec<Reputation> {
        let named = |(node, score): (NodeId, Score)| {
            let key = *self.interactions.key(node)?;
            Some(Reputation { key, score, forker: self.forkers.contains(&key) })
        };
        self.ranked(count).into_iter().filter_map(named).collect()
    }

    /// Why a key stands as it does.
    pub(crate) fn reason(&self, key: &PublicKey) -> Reason {
        let reputation = Reputation { key: *key, score: self.score(key), forker: self.forkers.contains(key) };
        let engine = self.engine.name();
        let Some(node) = self.interactions.node(key) else {
            return Reason { reputation, engine, direct: 0, path: Vec::new(), bottleneck: None };
        };
        let why = self.engine.explain(node);
        let name = |node: &NodeId| self.interactions.key(*node).copied();
        let bottleneck = why.bottleneck.node.as_ref().and_then(name).map(|key| (key, why.bottleneck.share));
        let path = why.path.iter().filter_map(name).collect();
        Reason { reputation, engine, direct: why.direct, path, bottleneck }
    }
}

/// The other party of an own pair.
fn partner(me: &PublicKey, proposal: &HalfBlock) -> Option<PublicKey> {
    if proposal.owner == *me {
        Some(proposal.link_owner)
    } else {
        (proposal.link_owner == *me).then_some(proposal.owner)
    }
}

fn per_mille(value: f64) -> u32 {
    // A float to integer cast saturates, and turns what is no number into 0.
    (value * 1_000.0).clamp(0.0, 1_000.0) as u32
}
