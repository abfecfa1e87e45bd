//! The rules of validation, on chains made here. The cases of living peers are in the vectors.

use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_ledger::bandwidth::Bandwidth;
use fairshare_ledger::{
    ANY, Batch, BlockHash, BlockType, ChainStore, Draft, GENESIS_HASH, HalfBlock, Level, MemoryStore, Rules,
    ValidationError, validate, verify_chain,
};
use proptest::prelude::*;
use std::sync::Arc;

/// Writes chains, one block after the other.
struct Writer {
    keys: Vec<SecretKey>,
    heads: Vec<Option<Arc<HalfBlock>>>,
    totals: Vec<(u64, u64)>,
}

impl Writer {
    fn new(owners: usize) -> Self {
        let mut rng = Rng::from_seed([21; 32]);
        let keys = (0..owners).map(|_| SecretKey::generate(&mut rng)).collect();
        Self { keys, heads: vec![None; owners], totals: vec![(0, 0); owners] }
    }

    fn key(&self, owner: usize) -> PublicKey {
        self.keys[owner].public()
    }

    fn next(
        &mut self,
        owner: usize,
        link: (PublicKey, u32),
        kind: BlockType,
        transaction: Bytes,
    ) -> Arc<HalfBlock> {
        let head = self.heads[owner].as_ref();
        let draft = Draft {
            sequence: head.map_or(1, |head| head.sequence + 1),
            link_owner: link.0,
            link_sequence: link.1,
            previous_hash: head.map_or(GENESIS_HASH, |head| head.hash()),
            kind,
            transaction,
            timestamp_ms: head.map_or(0, |head| head.timestamp_ms) + 1,
        };
        let block = Arc::new(HalfBlock::sign(&self.keys[owner], draft));
        self.heads[owner] = Some(Arc::clone(&block));
        block
    }

    /// A payment: the payer's half and the other.
    fn pay(&mut self, payer: usize, payee: usize, bytes: u64) -> [Arc<HalfBlock>; 2] {
        self.totals[payer].1 += bytes;
        self.totals[payee].0 += bytes;
        let transaction = |(total_up, total_down): (u64, u64), up, down| {
            Bandwidth { up, down, total_up, total_down, ..Bandwidth::default() }.encode()
        };
        let paid = transaction(self.totals[payer], 0, bytes);
        let proposal = self.next(payer, (self.key(payee), 0), BlockType::BANDWIDTH, paid);
        let earned = transaction(self.totals[payee], bytes, 0);
        let link = (proposal.owner, proposal.sequence);
        [Arc::clone(&proposal), self.next(payee, link, BlockType::BANDWIDTH, earned)]
    }

    fn test(&mut self, owner: usize, link: (PublicKey, u32)) -> Arc<HalfBlock> {
        self.next(owner, link, "test".into(), Bytes::from_static(b"a0d"))
    }
}

fn feed(store: &mut MemoryStore, block: &Arc<HalfBlock>) -> Level {
    let validation = validate(store, block, Rules::Kept).expect("memory does not fail");
    if !validation.is_invalid() {
        store.apply(&Batch { blocks: vec![Arc::clone(block)], ..Batch::default() });
    }
    validation.level
}

fn errors(store: &MemoryStore, block: &HalfBlock) -> Vec<ValidationError> {
    validate(store, block, Rules::Kept).expect("memory does not fail").errors
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    //= spec/trustchain.md#6-validation
    #[test]
    fn honest_chains_are_stored_whole_in_any_order(
        payments in prop::collection::vec((0..3usize, 1..3usize, 1..1000u64), 1..12),
        seed in any::<[u8; 32]>(),
    ) {
        let mut writer = Writer::new(3);
        let mut blocks: Vec<_> = payments
            .iter()
            .flat_map(|(payer, step, bytes)| writer.pay(*payer, (payer + step) % 3, *bytes))
            .collect();
        blocks.push(writer.test(0, (ANY, 0)));
        blocks.push(writer.test(1, (blocks[blocks.len() - 1].owner, blocks[blocks.len() - 1].sequence)));
        Rng::from_seed(seed).shuffle(&mut blocks);
        let mut store = MemoryStore::new();
        for block in &blocks {
            prop_assert_ne!(feed(&mut store, block), Level::Invalid);
        }
        prop_assert_eq!(store.block_count(), Ok(blocks.len() as u64));
        for owner in 0..3 {
            let report = verify_chain(&store, &writer.key(owner)).expect("memory");
            prop_assert!(report.is_sound(), "{:?}", report);
            prop_assert_eq!((report.total_up, report.total_down), writer.totals[owner]);
            prop_assert_eq!(report.unanswered, 0);
        }
    }
}

//= spec/trustchain.md#6-validation
#[test]
fn levels_tell_which_neighbours_are_known() {
    let mut writer = Writer::new(2);
    let chain: Vec<_> = (0..5).map(|_| writer.test(0, (ANY, 0))).collect();
    let level = |known: &[usize], block: usize| {
        let mut store = MemoryStore::new();
        for known in known {
            store.apply(&Batch { blocks: vec![Arc::clone(&chain[*known])], ..Batch::default() });
        }
        validate(&store, &chain[block], Rules::Base).expect("memory").level.name()
    };
    assert_eq!(level(&[], 0), "partial_next");
    assert_eq!(level(&[1], 0), "valid");
    assert_eq!(level(&[2], 0), "partial_next");
    assert_eq!(level(&[], 2), "no_info");
    assert_eq!(level(&[1], 2), "partial_next");
    assert_eq!(level(&[0], 2), "partial");
    assert_eq!(level(&[3], 2), "partial_previous");
    assert_eq!(level(&[4], 2), "partial");
    assert_eq!(level(&[1, 3], 2), "valid");
    assert_eq!(level(&[1, 4], 2), "partial_next");
    assert_eq!(level(&[0, 3], 2), "partial_previous");
    assert_eq!(level(&[0, 4], 2), "partial");
}

//= spec/trustchain.md#6-validation
#[test]
fn a_source_block_is_taken_after_its_agreement() {
    let mut writer = Writer::new(2);
    let source = writer.test(0, (ANY, 0));
    let agreement = writer.test(1, (source.owner, source.sequence));
    let mut store = MemoryStore::new();
    assert_eq!(feed(&mut store, &agreement), Level::PartialNext);
    assert_eq!(feed(&mut store, &source), Level::PartialNext);
}

//= spec/trustchain.md#6-validation
#[test]
fn a_chain_must_fit_together_on_both_sides() {
    let mut writer = Writer::new(1);
    let chain: Vec<_> = (0..3).map(|_| writer.test(0, (ANY, 0))).collect();
    let draft = Draft {
        sequence: 2,
        link_owner: ANY,
        link_sequence: 0,
        previous_hash: BlockHash([3; 32]),
        kind: "test".into(),
        transaction: Bytes::from_static(b"a0d"),
        timestamp_ms: 9,
    };
    let stranger = HalfBlock::sign(&writer.keys[0], draft);
    let mut store = MemoryStore::new();
    feed(&mut store, &chain[0]);
    feed(&mut store, &chain[2]);
    assert_eq!(
        errors(&store, &stranger),
        [ValidationError::PreviousHashMismatch, ValidationError::NextHashMismatch]
    );
    assert_eq!(feed(&mut store, &chain[1]), Level::Valid);
}

//= spec/trustchain.md#10-tribler-bandwidth-tokens-7-1-7-5
#[test]
fn totals_may_skip_what_is_unknown_but_never_fall() {
    let mut writer = Writer::new(2);
    let first = writer.pay(0, 1, 100)[0].clone();
    writer.pay(0, 1, 50);
    let third = writer.pay(0, 1, 7)[0].clone();
    let mut store = MemoryStore::new();
    feed(&mut store, &first);
    assert_eq!(feed(&mut store, &third), Level::Partial);
    let mut lower = writer.totals[0];
    lower.1 -= 100;
    writer.totals[0] = lower;
    let fallen = writer.pay(0, 1, 7)[0].clone();
    assert_eq!(errors(&store, &fallen), [ValidationError::TotalDownTooLow]);
}

//= spec/trustchain.md#10-tribler-bandwidth-tokens-7-1-7-5
#[test]
fn on_a_complete_chain_totals_are_judged_exactly() {
    let mut writer = Writer::new(2);
    let mut store = MemoryStore::new();
    for block in writer.pay(0, 1, 100) {
        feed(&mut store, &block);
    }
    writer.totals[0].1 += 5;
    let inflated = writer.pay(0, 1, 7)[0].clone();
    assert_eq!(feed(&mut store, &inflated), Level::PartialNext, "valid for the chain, as in old peers");
    let report = verify_chain(&store, &writer.key(0)).expect("memory");
    assert_eq!(report.errors, [(2, "totals are not the sums of the chain".to_owned())]);
    assert_eq!((report.blocks, report.paired, report.unanswered), (2, 1, 1));
    assert_eq!(report.balance(), -112);
}

#[test]
fn gaps_are_reported_by_their_ends() {
    let mut writer = Writer::new(1);
    let mut store = MemoryStore::new();
    for number in 1..=9 {
        let block = writer.test(0, (ANY, 0));
        if ![1, 5, 6, 9].contains(&number) {
            feed(&mut store, &block);
        }
    }
    let report = verify_chain(&store, &writer.key(0)).expect("memory");
    assert_eq!(report.gaps, [1..=1, 5..=6]);
    assert_eq!((report.newest, report.blocks, report.is_sound()), (8, 5, false));
}

//= spec/trustchain.md#6-validation
#[test]
fn an_agreement_of_a_key_that_was_not_asked_spoils_nothing() {
    let mut writer = Writer::new(3);
    let strange = writer.test(2, (writer.key(0), 1));
    let [proposal, agreement] = writer.pay(0, 1, 100);
    let mut store = MemoryStore::new();
    assert_eq!(feed(&mut store, &strange), Level::PartialNext);
    let reference = validate(&store, &proposal, Rules::Typed).expect("memory");
    assert_eq!(reference.errors[2..], [ValidationError::LinkedKeyMismatch]);
    assert_eq!(feed(&mut store, &proposal), Level::PartialNext);
    let reference = validate(&store, &agreement, Rules::Typed).expect("memory");
    assert_eq!(reference.errors, [ValidationError::DoubleCountersign]);
    assert_eq!(feed(&mut store, &agreement), Level::PartialNext);
    // With the proposal known, the strange one is not even stored.
    let mut store = MemoryStore::new();
    feed(&mut store, &proposal);
    assert_eq!(errors(&store, &strange), [ValidationError::LinkedPublicKeyMismatch]);
}
