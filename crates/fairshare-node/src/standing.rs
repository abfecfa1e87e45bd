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
            standing.fork_proved(now, proof.accused());
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
            self.look_again(now);
        }
    }

    fn look_again(&mut self, now: Now) {
        self.apply_at = self.apply_at.or(Some(now.mono + BATCH));
    }

    /// The key of a proven forker scores nothing, and vouches for nobody.
    //= spec/trust.md#9-fraud-evidence
    pub(crate) fn fork_proved(&mut self, now: Now, key: &PublicKey) {
        self.forkers.insert(*key);
        if let Some(node) = self.interactions.intern(key) {
            self.engine.mark_fraudster(node);
            self.look_again(now);
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
        per_mille(self.interactions.node(key).map_or(0.0, |node| self.engine.share(node)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::SecretKey;
    use fairshare_ledger::bandwidth::Bandwidth;
    use fairshare_ledger::{Batch, BlockType, Draft, GENESIS_HASH, MemoryStore};
    use std::sync::Arc;

    const NOW: Now = Now { mono: Instant::START, unix_ms: 1_000_000 };
    const MIB: u64 = 1 << 20;

    struct Town {
        me: SecretKey,
        others: Vec<SecretKey>,
        store: MemoryStore,
        standing: Standing,
    }

    impl Town {
        fn new(others: usize) -> Self {
            let mut rng = Rng::from_seed([5; 32]);
            let me = SecretKey::generate(&mut rng);
            let others = (0..others).map(|_| SecretKey::generate(&mut rng)).collect();
            let store = MemoryStore::new();
            let standing = standing(&me, &store);
            Self { me, others, store, standing }
        }

        fn key(&self, other: usize) -> PublicKey {
            self.others[other].public()
        }

        /// I took so much from one of the others, and both signed.
        fn took(&mut self, from: usize, bytes: u64) {
            let [proposal, agreement] = pair(&self.me, &self.others[from], bytes);
            self.standing.linked(NOW, &proposal, &agreement);
            let blocks = [proposal, agreement].map(Arc::new).to_vec();
            self.store.apply(&Batch { blocks, ..Batch::default() });
        }

        fn settled(&mut self) {
            let later = Now { mono: NOW.mono + BATCH, ..NOW };
            assert!(self.standing.handle_timeout(later), "something was gathered");
        }
    }

    fn standing(me: &SecretKey, store: &MemoryStore) -> Standing {
        let rng = Rng::from_seed([6; 32]);
        Standing::new(EngineKind::Merit, me.public(), store, rng, NOW).expect("readable")
    }

    fn pair(taker: &SecretKey, giver: &SecretKey, bytes: u64) -> [HalfBlock; 2] {
        // Its number only has to be its own: the graph does not read the chain.
        let number = u32::from_be_bytes(*giver.public().as_bytes().last_chunk().expect("longer")) | 1;
        [
            half(taker, number, (giver.public(), 0), 0, bytes),
            half(giver, 1, (taker.public(), number), bytes, 0),
        ]
    }

    fn half(key: &SecretKey, sequence: u32, link: (PublicKey, u32), up: u64, down: u64) -> HalfBlock {
        let amounts = Bandwidth { up, down, total_up: up, total_down: down, ..Bandwidth::default() };
        HalfBlock::sign(
            key,
            Draft {
                sequence,
                link_owner: link.0,
                link_sequence: link.1,
                previous_hash: GENESIS_HASH,
                kind: BlockType::BANDWIDTH,
                transaction: amounts.encode(),
                timestamp_ms: 5,
            },
        )
    }

    //= spec/trust.md#8-3-choking
    #[test]
    fn who_gave_more_ranks_higher_equals_rank_alike_and_strangers_have_none() {
        let mut town = Town::new(4);
        town.took(0, 800 * MIB);
        town.took(1, 100 * MIB);
        town.took(2, 100 * MIB);
        assert_eq!(town.standing.rank(&town.key(0)), 0, "changes are gathered first");
        town.settled();
        let ranks = [0, 1, 2, 3].map(|other| town.standing.rank(&town.key(other)));
        assert_eq!((ranks[0], ranks[3]), (1_000, 0));
        assert!(ranks[1] == ranks[2] && (1..1_000).contains(&ranks[1]), "{ranks:?}");
        assert_eq!(town.standing.rank(&town.me.public()), 0, "nobody ranks himself");
    }

    //= spec/settlement.md#8-effects-and-the-terms-record
    #[test]
    fn trust_is_measured_by_the_ninth_decile_of_partners_once_there_are_ten() {
        let mut town = Town::new(12);
        for other in 0..9 {
            town.took(other, 10 * MIB);
        }
        town.settled();
        assert!((town.standing.yardstick() - M90_DEFAULT).abs() < f64::EPSILON);
        assert_eq!(town.standing.trust(&town.key(11)), 0, "nothing is known of it");
        town.took(9, 300 * MIB);
        town.settled();
        let best = town.standing.score(&town.key(9)).value;
        assert!((town.standing.yardstick() - best).abs() < f64::EPSILON);
        assert_eq!(town.standing.trust(&town.key(9)), 1_000);
        assert!((1..1_000).contains(&town.standing.trust(&town.key(0))));
    }

    //= spec/trust.md#9-fraud-evidence
    #[test]
    fn a_forker_loses_its_rank_its_trust_and_its_share_whatever_it_gave() {
        let mut town = Town::new(2);
        town.took(0, 500 * MIB);
        town.took(1, 5 * MIB);
        town.settled();
        let forker = town.key(0);
        assert!(town.standing.trust(&forker) > 0 && town.standing.share(&forker) > 0);
        town.standing.fork_proved(NOW, &forker);
        assert_eq!((town.standing.trust(&forker), town.standing.share(&forker)), (0, 0));
        assert!(town.standing.reason(&forker).reputation.forker);
        town.settled();
        assert_eq!((town.standing.rank(&forker), town.standing.rank(&town.key(1))), (0, 1_000));
    }

    //= spec/trust.md#8-4-circuits
    #[test]
    fn the_shares_of_all_others_are_at_most_a_whole_whichever_engine_counts_them() {
        let mut town = Town::new(3);
        for (other, mib) in [(0, 40), (1, 400), (2, 4)] {
            town.took(other, mib * MIB);
        }
        for kind in [EngineKind::Merit, EngineKind::Hitting, EngineKind::Ppr] {
            let rng = Rng::from_seed([6; 32]);
            let standing = Standing::new(kind, town.me.public(), &town.store, rng, NOW).expect("readable");
            let shares = [0, 1, 2].map(|other| standing.share(&town.key(other)));
            let sum = shares.iter().sum::<u32>();
            assert!(shares[1] > shares[0] && sum <= 1_000, "{kind:?} {shares:?}");
            // Its values are shares already, of what others than the asker have.
            assert!(kind != EngineKind::Ppr || sum >= 990, "{kind:?} {shares:?}");
        }
    }

    //= spec/trust.md#8-how-scores-are-used
    #[test]
    fn a_node_that_starts_again_thinks_the_same_of_everybody() {
        let mut town = Town::new(3);
        for (other, mib) in [(0, 40), (1, 400), (2, 4)] {
            town.took(other, mib * MIB);
        }
        town.settled();
        let again = standing(&town.me, &town.store);
        let order = |standing: &Standing| standing.top(9).iter().map(|one| one.key).collect::<Vec<_>>();
        assert_eq!(order(&again), order(&town.standing));
        assert_eq!(order(&again), [1, 0, 2].map(|other| town.key(other)));
        let reason = again.reason(&town.key(1));
        assert_eq!((reason.direct, reason.path.len()), (400 * MIB, 2), "from me to it");
    }
}
