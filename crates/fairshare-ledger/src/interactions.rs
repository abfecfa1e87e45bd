//! The bandwidth graph from half blocks: which pairs count, keys as numbers, changes of edges for a reputation engine.

use crate::bandwidth::Bandwidth;
use crate::block::{BlockType, HalfBlock};
use crate::store::{ChainStore, StoreError};
use fairshare_crypto::PublicKey;
use fairshare_trust::{Decay, EdgeChange, Half, Ingest, IngestError, Interaction, NodeId, Weights};
use fairshare_wire::Now;
use indexmap::IndexSet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys that get a number. Each needs a pair that it signed; 4 million keys are about 600 MB with all that hangs on them.
pub const NAMES_MAX: usize = 1 << 22;
/// Changes that wait to be taken before changes of the same edge are made one.
const COALESCE_FROM: usize = 1000;
/// Blocks read at once by a scan.
const PAGE: usize = 256;

/// The newest known time in a chain.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    sequence: u32,
    time_ms: u64,
}

/// What all known keys received from each other, by the signatures of both.
#[derive(Clone, Debug)]
pub struct Interactions {
    me: PublicKey,
    ingest: Ingest,
    /// Number = place; the own key is 0.
    names: IndexSet<PublicKey>,
    reached: BTreeMap<NodeId, Reached>,
    changes: Vec<EdgeChange>,
    /// How many changes may wait until they are looked through for several of one edge.
    coalesce_at: usize,
    refusals: BTreeMap<&'static str, u64>,
}

impl Interactions {
    /// Nothing counted yet. The own key is node 0.
    pub fn new(me: PublicKey, weights: Weights, decay: Option<Decay>) -> Self {
        Self {
            me,
            ingest: Ingest::new(0, weights, decay),
            names: IndexSet::from([me]),
            reached: BTreeMap::new(),
            changes: Vec::new(),
            coalesce_at: COALESCE_FROM,
            refusals: BTreeMap::new(),
        }
    }

    /// The number of a key, if it ever took part in anything that counts.
    pub fn node(&self, key: &PublicKey) -> Option<NodeId> {
        self.names.get_index_of(key).and_then(|at| NodeId::try_from(at).ok())
    }

    /// The number of a key, given now if it has none: for a key that is known for another reason, such as a fork proof.
    /// `None` if there are too many.
    pub fn intern(&mut self, key: &PublicKey) -> Option<NodeId> {
        if self.names.len() >= NAMES_MAX && !self.names.contains(key) {
            return None;
        }
        NodeId::try_from(self.names.insert_full(*key).0).ok()
    }

    /// The key of a number.
    pub fn key(&self, node: NodeId) -> Option<&PublicKey> {
        self.names.get_index(node as usize)
    }

    /// How many keys have a number.
    pub fn node_count(&self) -> usize {
        self.names.len()
    }

    /// An own bandwidth proposal that nobody has agreed to: what the own key took counts at once.
    //= spec/trust.md#2-2-vertices-and-edges
    pub fn own(&mut self, now: Now, block: &HalfBlock) {
        if block.owner == self.me && block.kind == BlockType::BANDWIDTH && !block.is_source() {
            let added =
                self.half(now, block).and_then(|half| self.ingest.own(&half).map_err(IngestError::text));
            self.collect(added);
        }
    }

    /// Both halves of a settlement are known. Returns it with its numbers, for an engine that reads the order of time;
    /// `None` if it does not count.
    //= spec/trust.md#2-2-vertices-and-edges
    pub fn linked(&mut self, now: Now, proposal: &HalfBlock, agreement: &HalfBlock) -> Option<Interaction> {
        let added = self.add_pair(now, proposal, agreement);
        self.collect(added)
    }

    /// The changes of edges since the last call; several of one edge are one. In an order that an engine may apply.
    //= spec/trust.md#5-3-cost
    pub fn take_changes(&mut self) -> Vec<EdgeChange> {
        self.coalesce_at = COALESCE_FROM;
        coalesce(std::mem::take(&mut self.changes))
    }

    /// Whether changes wait to be taken.
    pub const fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// All edges, as an engine of another kind reads them.
    pub fn edges(&self, weights: Weights) -> Vec<(NodeId, NodeId, u64)> {
        self.ingest.edges(weights)
    }

    /// Bytes that one key received from another, by signatures of both (or of us about ourselves); weighed by age if
    /// age counts.
    pub fn received(&self, by: &PublicKey, from: &PublicKey) -> u64 {
        match (self.node(by), self.node(from)) {
            (Some(by), Some(from)) => self.ingest.received(by, from) as u64,
            _ => 0,
        }
    }

    /// What did not count, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.refusals.iter().map(|(reason, count)| (*reason, *count))
    }

    fn add_pair(
        &mut self,
        now: Now,
        proposal: &HalfBlock,
        agreement: &HalfBlock,
    ) -> Result<Interaction, &'static str> {
        if proposal.kind != BlockType::BANDWIDTH || agreement.kind != BlockType::BANDWIDTH {
            return Err("not a bandwidth settlement");
        }
        if !proposal.is_proposal() || proposal.is_source() {
            return Err("first half is no proposal to anybody");
        }
        let (first, second) = (self.half(now, proposal)?, self.half(now, agreement)?);
        self.ingest.pair(&first, &second).map_err(IngestError::text)?;
        self.reach(&first);
        self.reach(&second);
        Ok(Interaction {
            requester: first.owner,
            requester_sequence: first.sequence,
            responder: second.owner,
            responder_sequence: second.sequence,
            contribution: first.up.max(first.down),
        })
    }

    fn half(&mut self, now: Now, block: &HalfBlock) -> Result<Half, &'static str> {
        let bandwidth = Bandwidth::decode(&block.transaction).map_err(|_| "amounts cannot be read")?;
        if block.owner == block.link_owner {
            return Err(IngestError::Alone.text());
        }
        let owner = self.intern(&block.owner).ok_or("too many keys")?;
        let counterparty = self.intern(&block.link_owner).ok_or("too many keys")?;
        Ok(Half {
            owner,
            sequence: block.sequence,
            counterparty,
            link_sequence: block.link_sequence,
            up: bandwidth.up,
            down: bandwidth.down,
            time_ms: self.effective_time(now, owner, block),
        })
    }

    /// The time of a block as far as it may be believed: not before what its chain reached before, not in the future.
    //= spec/trust.md#2-2-vertices-and-edges
    fn effective_time(&self, now: Now, owner: NodeId, block: &HalfBlock) -> u64 {
        let earlier = self.reached.get(&owner).filter(|reached| reached.sequence < block.sequence);
        block.timestamp_ms.max(earlier.map_or(0, |reached| reached.time_ms)).min(now.unix_ms)
    }

    fn reach(&mut self, half: &Half) {
        let reached = self.reached.entry(half.owner).or_default();
        if half.sequence > reached.sequence {
            *reached = Reached { sequence: half.sequence, time_ms: half.time_ms };
        }
    }

    /// Takes over what changed, or counts why nothing did.
    fn collect<T>(&mut self, added: Result<T, &'static str>) -> Option<T> {
        match added {
            Ok(added) => {
                self.changes.extend(self.ingest.take_changes());
                if self.changes.len() >= self.coalesce_at {
                    self.changes = coalesce(std::mem::take(&mut self.changes));
                    // What waits is at most twice what the graph has edges, and the work stays in proportion.
                    self.coalesce_at = (2 * self.changes.len()).max(COALESCE_FROM);
                }
                Some(added)
            }
            Err(reason) => {
                *self.refusals.entry(reason).or_default() += 1;
                None
            }
        }
    }
}

/// One change for each edge, falls before rises, without those that came back to where they were.
fn coalesce(changes: Vec<EdgeChange>) -> Vec<EdgeChange> {
    let mut of_edge: BTreeMap<(NodeId, NodeId), EdgeChange> = BTreeMap::new();
    for change in changes {
        of_edge.entry((change.from, change.to)).and_modify(|known| known.new = change.new).or_insert(change);
    }
    let mut changes: Vec<_> = of_edge.into_values().filter(|change| change.old != change.new).collect();
    changes.sort_by_key(|change| change.new > change.old);
    changes
}

/// How far a scan came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// Everything that is stored was looked at.
    Complete,
    /// As many blocks as allowed were looked at; the scan goes on behind this place.
    More {
        /// What to give as `after` next.
        after: u64,
    },
}

/// Visits the bandwidth pairs of a store, proposal first, each once, in the order in which their agreements were stored:
/// those among the next `blocks_max` blocks behind `after` (0 = from the start).
//= spec/trust.md#2-1-sources
pub fn bandwidth_pairs<S: ChainStore>(
    store: &S,
    after: u64,
    blocks_max: usize,
    mut visit: impl FnMut(&Arc<HalfBlock>, &Arc<HalfBlock>),
) -> Result<ScanEnd, StoreError> {
    let (mut after, mut left) = (after, blocks_max);
    while left > 0 {
        let page = store.stored_after(after, left.min(PAGE))?;
        let Some((last, _)) = page.last() else { return Ok(ScanEnd::Complete) };
        after = *last;
        left = left.saturating_sub(page.len());
        for (_, agreement) in &page {
            if agreement.is_proposal() || agreement.kind != BlockType::BANDWIDTH {
                continue;
            }
            let proposal = store.get(&agreement.link_owner, agreement.link_sequence)?;
            if let Some(proposal) =
                proposal.filter(|first| first.is_proposal() && first.link_owner == agreement.owner)
            {
                visit(&proposal, agreement);
            }
        }
    }
    Ok(ScanEnd::More { after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Draft, GENESIS_HASH};
    use crate::memory::MemoryStore;
    use crate::store::Batch;
    use fairshare_crypto::{Rng, SecretKey};
    use fairshare_wire::Instant;

    const NOW: Now = Now { mono: Instant::START, unix_ms: 1_000_000 };

    fn keys() -> [SecretKey; 3] {
        let mut rng = Rng::from_seed([4; 32]);
        [(); 3].map(|()| SecretKey::generate(&mut rng))
    }

    fn block(key: &SecretKey, sequence: u32, link: (&PublicKey, u32), up: u64, down: u64) -> Arc<HalfBlock> {
        let amounts = Bandwidth { up, down, total_up: up, total_down: down, ..Bandwidth::default() };
        Arc::new(HalfBlock::sign(
            key,
            Draft {
                sequence,
                link_owner: *link.0,
                link_sequence: link.1,
                previous_hash: GENESIS_HASH,
                kind: BlockType::BANDWIDTH,
                transaction: amounts.encode(),
                timestamp_ms: 5,
            },
        ))
    }

    /// `taker` takes `down` bytes from `giver`.
    fn pair(taker: &SecretKey, giver: &SecretKey, number: u32, down: u64) -> [Arc<HalfBlock>; 2] {
        let proposal = block(taker, number, (&giver.public(), 0), 0, down);
        let agreement = block(giver, number, (&taker.public(), number), down, 0);
        [proposal, agreement]
    }

    //= spec/trust.md#2-2-vertices-and-edges
    #[test]
    fn pairs_become_edges_from_who_took_to_who_gave() {
        let [me, bob, carol] = keys();
        let mut graph = Interactions::new(me.public(), Weights::Gross, None);
        let [first, second] = pair(&bob, &carol, 1, 700);
        let interaction = graph.linked(NOW, &first, &second).expect("counts");
        assert_eq!((interaction.requester, interaction.responder, interaction.contribution), (1, 2, 700));
        assert_eq!(graph.take_changes(), [EdgeChange { from: 1, to: 2, old: 0, new: 700 }]);
        assert_eq!(graph.linked(NOW, &first, &second), None);
        assert_eq!((graph.node(&me.public()), graph.key(2)), (Some(0), Some(&carol.public())));
        assert_eq!(graph.received(&bob.public(), &carol.public()), 700);
        assert_eq!(graph.refusals().collect::<Vec<_>>(), [("interaction is counted already", 1)]);
        let [first, _] = pair(&bob, &carol, 2, 700);
        let other = block(&carol, 2, (&bob.public(), 2), 699, 0);
        assert_eq!(graph.linked(NOW, &first, &other), None);
        assert!(!graph.has_changes());
    }

    //= spec/trust.md#2-2-vertices-and-edges
    #[test]
    fn what_i_took_counts_before_anybody_agrees_and_not_again_then() {
        let [me, bob, carol] = keys();
        let mut graph = Interactions::new(me.public(), Weights::Netted, None);
        let [first, second] = pair(&me, &bob, 1, 9);
        graph.own(NOW, &first);
        assert_eq!(graph.take_changes(), [EdgeChange { from: 0, to: 1, old: 0, new: 9 }]);
        assert!(graph.linked(NOW, &first, &second).is_some());
        // Nobody else's lone word counts, nor does mine that I gave.
        graph.own(NOW, &pair(&bob, &carol, 3, 9)[0]);
        graph.own(NOW, &block(&me, 2, (&bob.public(), 0), 50, 0));
        assert_eq!(graph.take_changes(), []);
    }

    //= spec/trust.md#5-3-cost
    #[test]
    fn changes_of_one_edge_are_one() {
        let [me, bob, carol] = keys();
        let mut graph = Interactions::new(me.public(), Weights::Netted, None);
        for number in 1..=3 {
            let [first, second] = pair(&bob, &carol, number, 10);
            graph.linked(NOW, &first, &second);
        }
        assert_eq!(graph.take_changes(), [EdgeChange { from: 1, to: 2, old: 0, new: 30 }]);
        let back = [block(&carol, 4, (&bob.public(), 0), 0, 50), block(&bob, 4, (&carol.public(), 4), 50, 0)];
        graph.linked(NOW, &back[0], &back[1]);
        let flip =
            [EdgeChange { from: 1, to: 2, old: 30, new: 0 }, EdgeChange { from: 2, to: 1, old: 0, new: 20 }];
        assert_eq!(graph.take_changes(), flip);
        assert_eq!(graph.edges(Weights::Gross), [(1, 2, 30), (2, 1, 50)]);
    }

    //= spec/trust.md#5-3-cost
    #[test]
    fn changes_that_nobody_takes_do_not_pile_up() {
        let [me, bob, carol] = keys();
        let mut graph = Interactions::new(me.public(), Weights::Gross, None);
        graph.coalesce_at = 8;
        for number in 1..=9 {
            let [first, second] = pair(&bob, &carol, number, 10);
            graph.linked(NOW, &first, &second);
        }
        assert_eq!((graph.changes.len(), graph.coalesce_at), (2, COALESCE_FROM));
        assert_eq!(graph.take_changes(), [EdgeChange { from: 1, to: 2, old: 0, new: 90 }]);
    }

    //= spec/trust.md#2-2-vertices-and-edges
    #[test]
    fn a_time_is_a_claim_between_what_its_chain_reached_and_now() {
        let [me, bob, carol] = keys();
        let decay = Decay { half_life_ms: 1_000, epoch_ms: 0 };
        let mut graph = Interactions::new(me.public(), Weights::Gross, Some(decay));
        let far = Now { unix_ms: 10_000, ..NOW };
        let [first, second] = pair(&bob, &carol, 1, 8);
        graph.linked(Now { unix_ms: 2, ..NOW }, &first, &second);
        // Claimed 5 ms, but it arrived at 2.
        assert_eq!(graph.reached.get(&1).map(|reached| reached.time_ms), Some(2));
        graph.reached.insert(1, Reached { sequence: 1, time_ms: 5_000 });
        let [first, second] = pair(&bob, &carol, 2, 8);
        graph.linked(far, &first, &second);
        assert_eq!(graph.received(&bob.public(), &carol.public()), 8 + 8 * 32);
    }

    //= spec/trust.md#2-1-sources
    #[test]
    fn a_scan_visits_each_stored_pair_once_however_it_is_divided() {
        let [me, bob, carol] = keys();
        let mut store = MemoryStore::new();
        let mut wanted = Vec::new();
        for number in 1..=4 {
            let [first, second] = pair(&bob, &carol, number, 10);
            store.apply(&Batch { blocks: vec![second.clone(), first.clone()], ..Batch::default() });
            wanted.push((first, second));
        }
        let lone = block(&me, 1, (&bob.public(), 0), 0, 7);
        let stray = block(&carol, 9, (&bob.public(), 77), 7, 0);
        store.apply(&Batch { blocks: vec![lone, stray], ..Batch::default() });
        for step in [1, 3, 100] {
            let (mut found, mut after) = (Vec::new(), 0);
            loop {
                let visit = |first: &Arc<HalfBlock>, second: &Arc<HalfBlock>| {
                    found.push((Arc::clone(first), Arc::clone(second)));
                };
                match bandwidth_pairs(&store, after, step, visit).expect("readable") {
                    ScanEnd::Complete => break,
                    ScanEnd::More { after: next } => after = next,
                }
            }
            assert_eq!(found, wanted);
        }
    }
}
