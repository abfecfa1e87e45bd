//! What every [`ChainStore`] must answer, checked against a list that is searched from end to end. For the tests of
//! each store; nothing in the product calls it.

use crate::block::{BlockType, Draft, GENESIS_HASH, HalfBlock};
use crate::fork::{ForkKind, ForkProof};
use crate::store::{Batch, ChainStore, Record, RecordKind};
use crate::transaction::{self, Value};
use fairshare_crypto::{Rng, SecretKey};
use std::collections::BTreeMap;
use std::sync::Arc;

const OWNERS: usize = 3;
const NUMBERS: u32 = 12;
const BATCHES: usize = 12;
const KINDS: [&str; 2] = ["tribler_bandwidth", "test"];

/// Applies random batches to a store and compares every read with the list after each.
///
/// # Panics
/// If the store answers anything else than the list.
pub fn check_store<S: ChainStore>(seed: [u8; 32], mut store: S, mut apply: impl FnMut(&mut S, &Batch)) {
    let mut world = World::new(Rng::from_seed(seed));
    for _ in 0..BATCHES {
        let batch = world.batch();
        apply(&mut store, &batch);
        world.apply(&batch);
        // The same batch again, as after a failure that was none, changes nothing.
        if world.rng.chance(1, 4) {
            apply(&mut store, &batch);
        }
        world.compare_chains(&store);
        world.compare_rest(&store);
    }
}

struct World {
    rng: Rng,
    keys: Vec<SecretKey>,
    /// In the order of arrival.
    blocks: Vec<Arc<HalfBlock>>,
    proofs: Vec<ForkProof>,
    records: BTreeMap<(RecordKind, Vec<u8>), Vec<u8>>,
}

impl World {
    fn new(mut rng: Rng) -> Self {
        let keys = (0..OWNERS).map(|_| SecretKey::generate(&mut rng)).collect();
        Self { rng, keys, blocks: Vec::new(), proofs: Vec::new(), records: BTreeMap::new() }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let index = self.rng.index(from.len()).expect("never asked to pick from nothing");
        from[index].clone()
    }

    fn block(&mut self) -> Arc<HalfBlock> {
        let key = self.pick(&self.keys.clone());
        let link_owner = self.pick(&self.keys.clone()).public();
        let number = |rng: &mut Rng| u32::try_from(rng.below(u64::from(NUMBERS))).expect("below 12");
        let draft = Draft {
            sequence: 1 + number(&mut self.rng),
            link_owner,
            link_sequence: if self.rng.chance(1, 2) { 0 } else { 1 + number(&mut self.rng) },
            previous_hash: GENESIS_HASH,
            kind: BlockType::from(self.pick(&KINDS)),
            transaction: transaction::encode(&Value::from(self.rng.below(3))).into(),
            timestamp_ms: self.rng.below(5),
        };
        Arc::new(HalfBlock::sign(&key, draft))
    }

    fn batch(&mut self) -> Batch {
        let mut batch = Batch { urgent: self.rng.chance(1, 2), ..Batch::default() };
        for _ in 0..self.rng.below(6) {
            let block = self.block();
            let taken = self.find(&block).filter(|known| known.hash() != block.hash());
            if let Some(proof) =
                taken.and_then(|known| ForkProof::new(ForkKind::DoubleSign, known, Arc::clone(&block)).ok())
            {
                batch.conflicts.push(Arc::clone(&block));
                batch.proofs.push(proof);
            }
            batch.blocks.push(block);
        }
        for _ in 0..self.rng.below(4) {
            let [kind, key, value] = self.rng.bytes();
            let value = Some(vec![value; 3]).filter(|_| value % 3 != 0);
            batch.records.push(Record { kind: RecordKind(kind % 2), key: vec![key % 4; 2], value });
        }
        batch
    }

    fn find(&self, like: &HalfBlock) -> Option<Arc<HalfBlock>> {
        self.blocks.iter().find(|block| block.place() == like.place()).cloned()
    }

    fn apply(&mut self, batch: &Batch) {
        for block in &batch.blocks {
            if self.find(block).is_none() {
                self.blocks.push(Arc::clone(block));
            }
        }
        for proof in &batch.proofs {
            let name = |proof: &ForkProof| (*proof.accused(), proof.kind());
            if self.proofs.iter().all(|known| name(known) != name(proof)) {
                self.proofs.push(proof.clone());
            }
        }
        for Record { kind, key, value } in &batch.records {
            match value {
                Some(value) => self.records.insert((*kind, key.clone()), value.clone()),
                None => self.records.remove(&(*kind, key.clone())),
            };
        }
    }

    /// The blocks of one owner that `wanted` takes, ascending.
    fn chain(&self, key: &SecretKey, wanted: impl Fn(&HalfBlock) -> bool) -> Vec<Arc<HalfBlock>> {
        let mut chain: Vec<_> =
            self.blocks.iter().filter(|block| block.owner == key.public()).cloned().collect();
        chain.retain(|block| wanted(block));
        chain.sort_by_key(|block| block.sequence);
        chain
    }

    fn compare_chains<S: ChainStore>(&self, store: &S) {
        for key in &self.keys {
            let owner = &key.public();
            let all = self.chain(key, |_| true);
            assert_eq!(store.newest(owner), Ok(all.last().cloned()));
            let unknown = (1..).find(|number| all.iter().all(|block| block.sequence != *number));
            assert_eq!(store.lowest_unknown(owner).ok(), unknown);
            for n in 0..=NUMBERS + 1 {
                let below = self.chain(key, |block| block.sequence < n);
                let above = self.chain(key, |block| block.sequence > n);
                let at = all.iter().find(|block| block.sequence == n).cloned();
                assert_eq!(store.get(owner, n), Ok(at));
                assert_eq!(store.before(owner, n), Ok(below.last().cloned()));
                assert_eq!(store.after(owner, n), Ok(above.first().cloned()));
                let range = self.chain(key, |block| (n..=n + 4).contains(&block.sequence));
                assert_eq!(store.range(owner, n, n + 4, 3), Ok(range.into_iter().take(3).collect()));
                self.compare_kinds(store, key, n);
                let links = self.blocks.iter().filter(|block| block.link_owner == *owner);
                let links = links.filter(|block| n > 0 && block.link_sequence == n);
                if n > 0 {
                    assert_eq!(store.links_to(owner, n), Ok(links.cloned().collect()));
                }
            }
            assert_eq!(store.range(owner, 5, 4, 3), Ok(Vec::new()));
        }
    }

    fn compare_kinds<S: ChainStore>(&self, store: &S, key: &SecretKey, n: u32) {
        let owner = &key.public();
        for kind in KINDS.map(BlockType::from) {
            let of_kind = self.chain(key, |block| block.kind == kind);
            let below = of_kind.iter().rfind(|block| block.sequence < n).cloned();
            let above = of_kind.iter().find(|block| block.sequence > n).cloned();
            assert_eq!(store.newest_of_kind(owner, &kind, None), Ok(of_kind.last().cloned()));
            assert_eq!(store.newest_of_kind(owner, &kind, Some(n)), Ok(below));
            assert_eq!(store.next_of_kind(owner, &kind, n), Ok(above));
        }
    }

    fn compare_pages<S: ChainStore>(&self, store: &S) {
        let (mut after, mut found) = (0, Vec::new());
        loop {
            let page = store.stored_after(after, 3).expect("readable");
            let Some((last, _)) = page.last() else { break };
            assert!(
                page.len() <= 3
                    && page.iter().all(|(number, _)| *number > after)
                    && page.is_sorted_by_key(|(number, _)| *number)
            );
            after = *last;
            found.extend(page.into_iter().map(|(_, block)| block));
        }
        assert_eq!(found, self.blocks);
    }

    fn compare_rest<S: ChainStore>(&self, store: &S) {
        for block in &self.blocks {
            assert_eq!(store.by_hash(&block.hash()), Ok(Some(Arc::clone(block))));
            let linked = self.blocks.iter().filter(|other| {
                (!block.is_proposal() && other.place() == block.link())
                    || (!other.is_proposal() && other.link() == block.place())
            });
            let oldest = linked.min_by_key(|other| (other.timestamp_ms, other.hash())).cloned();
            assert_eq!(store.linked(block), Ok(oldest));
        }
        assert_eq!(store.by_hash(&GENESIS_HASH), Ok(None));
        assert_eq!(store.block_count(), Ok(self.blocks.len() as u64));
        self.compare_pages(store);
        assert_eq!(store.recent(5), Ok(self.blocks.iter().rev().take(5).cloned().collect()));
        assert_eq!(store.proofs(), Ok(self.proofs.clone()));
        for kind in [RecordKind(0), RecordKind(1), RecordKind(9)] {
            let of_kind = self.records.iter().filter(|((of, _), _)| *of == kind);
            let entries = of_kind.map(|((_, key), value)| (key.clone(), value.clone())).collect();
            assert_eq!(store.records(kind), Ok(entries));
        }
    }
}
