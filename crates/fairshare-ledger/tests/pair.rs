//! Ledgers that trade with each other over a bad network and bad disks.

mod world;

use bytes::Bytes;
use fairshare_crypto::Rng;
use fairshare_ledger::bandwidth::{Bandwidth, Settlement};
use fairshare_ledger::{
    Batch, BlockType, ChainStore, DeclineReason, Draft, ForkKind, GENESIS_HASH, HalfBlock, LedgerCommunity,
    LedgerEvent, LedgerOutput, Level, ProposeError, Recipient, Rules, Source, validate,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use world::{Faults, World, address};

const TEST: &str = "test";

fn pay(world: &mut World, from: usize, to: usize, bytes: u64) -> Result<Arc<HalfBlock>, ProposeError> {
    let settlement = Settlement { cum: bytes, ctx: [1; 8], charge: None, via: Vec::new() };
    let (now, to) = (world.now, world.key(to));
    world.nodes[from].ledger.propose_bandwidth(now, to, bytes, settlement, Vec::new())
}

fn store(world: &World, node: usize) -> &fairshare_ledger::MemoryStore {
    world.nodes[node].ledger.store()
}

fn totals(world: &World, node: usize) -> (u64, u64) {
    let newest = store(world, node).newest_of_kind(&world.key(node), &BlockType::BANDWIDTH, None);
    let newest = newest.expect("memory does not fail");
    newest.map_or((0, 0), |block| {
        let totals = Bandwidth::of(&block).expect("own blocks can be read");
        (totals.total_up, totals.total_down)
    })
}

/// Every proposal between the nodes has one agreement, and both ends hold the same two blocks.
fn assert_pairs_equal(world: &World, nodes: usize) -> usize {
    let mut pairs = 0;
    for node in 0..nodes {
        let chain = store(world, node).range(&world.key(node), 1, u32::MAX, usize::MAX).expect("memory");
        assert_eq!(chain.len(), world.nodes[node].ledger.own_length() as usize, "no gap in an own chain");
        for (block, number) in chain.iter().zip(1..) {
            assert_eq!(block.sequence, number);
            let other = (0..nodes).find(|other| world.key(*other) == block.link_owner).expect("known");
            let here =
                store(world, node).linked(block).expect("memory").expect("every half has its other half");
            let there = store(world, other).by_hash(&block.hash()).expect("memory");
            assert!(there.is_some(), "the other end holds this half");
            assert!(store(world, other).by_hash(&here.hash()).expect("memory").is_some());
            pairs += usize::from(block.is_proposal());
        }
        assert_eq!(world.nodes[node].ledger.outstanding().count(), 0);
    }
    pairs
}

//= spec/trustchain.md#4-creating-blocks
#[test]
fn a_payment_becomes_a_pair_on_both_sides() {
    let mut world = World::new(1, 2, Faults::default());
    let proposal = pay(&mut world, 0, 1, 5_000_000).expect("signed");
    world.run(Duration::from_secs(2));
    assert_eq!(assert_pairs_equal(&world, 2), 1);
    assert_eq!(totals(&world, 0), (0, 5_000_000));
    assert_eq!(totals(&world, 1), (5_000_000, 0));
    for node in &world.nodes {
        let paired = node.events.iter().filter(|event| matches!(event, LedgerEvent::Paired { .. })).count();
        assert_eq!(paired, 1);
    }
    let agreement = store(&world, 1).newest(&world.key(1)).expect("memory").expect("it agreed");
    let paid = Bandwidth::of(&agreement).expect("readable").settlement.expect("copied");
    assert_eq!((paid.cum, paid.ctx), (5_000_000, [1; 8]));
    assert_eq!(agreement.link(), proposal.place());
}

//= spec/blocks.md#3-rules-per-type
//= spec/payouts.md#34-epochs-and-settlement
#[test]
fn a_tunnel_payment_tells_the_end_of_an_epoch_and_moves_the_totals_only() {
    let mut world = World::new(1, 2, Faults::default());
    pay(&mut world, 0, 1, 5_000_000).expect("signed");
    world.run(Duration::from_secs(2));
    let (now, to, boundary) = (world.now, world.key(1), 21_600_000);
    let ledger = &mut world.nodes[0].ledger;
    let proposal = ledger.propose_tunnel_payment(now, to, 1 << 20, boundary, Vec::new()).expect("signed");
    let before = store(&world, 0).newest(&world.key(0)).expect("memory").expect("the direct payment");
    assert!(before.timestamp_ms > boundary, "times on a chain need not rise");
    world.run(Duration::from_secs(2));
    assert_eq!(assert_pairs_equal(&world, 2), 2);
    assert_eq!((totals(&world, 0), totals(&world, 1)), ((0, 6_048_576), (6_048_576, 0)));
    let agreement = store(&world, 1).newest(&world.key(1)).expect("memory").expect("it agreed");
    assert_eq!([proposal.timestamp_ms, agreement.timestamp_ms], [boundary; 2], "neither half tells a moment");
    for half in [&proposal, &agreement] {
        let paid = Bandwidth::of(half).expect("readable");
        assert_eq!((paid.settlement, paid.fault), (None, None));
        assert!(!half.transaction.windows(3).any(|key| key == b"cum" || key == b"ctx"));
    }
    let report = world.nodes[1].ledger.verify_chain(&world.key(0)).expect("memory");
    assert_eq!((report.gap_count, report.error_count, report.total_down), (0, 0, 6_048_576));
}

//= spec/trustchain.md#4-creating-blocks
#[test]
fn a_tunnel_payment_is_not_old_because_its_epoch_is() {
    let mut world = World::new(1, 1, Faults::default());
    let nobody = fairshare_crypto::SecretKey::generate(&mut Rng::from_seed([77; 32])).public();
    let (now, long_ago) = (world.now, world.now.unix_ms - 7_200_000);
    let paid = world.nodes[0].ledger.propose_tunnel_payment(now, nobody, 1 << 20, long_ago, Vec::new());
    paid.expect("signed");
    let expired = |world: &World| {
        world.nodes[0].events.iter().any(|event| matches!(event, LedgerEvent::ProposalExpired(_)))
    };
    world.run(Duration::from_secs(3000));
    assert!(!expired(&world));
    world.run(Duration::from_secs(1000));
    assert!(expired(&world), "after an hour");
}

//= spec/trust.md#2-1-sources
#[test]
fn a_pair_is_told_as_linked_once_to_its_parties_and_to_who_only_hears_of_it() {
    for (together, agreement_first) in [(true, false), (false, false), (false, true)] {
        let mut world = World::new(3, 3, Faults::default());
        let proposal = pay(&mut world, 0, 1, 5_000_000).expect("signed");
        world.run(Duration::from_secs(2));
        let agreement = store(&world, 1).newest(&world.key(1)).expect("memory").expect("it agreed");
        let mut halves = [Arc::clone(&proposal), Arc::clone(&agreement)];
        if agreement_first {
            halves.reverse();
        }
        // Each half comes twice.
        for half in halves.iter().chain(&halves) {
            let now = world.now;
            world.nodes[2].ledger.receive(now, Source::Address(address(0)), HalfBlock::clone(half));
            if !together {
                world.run(Duration::from_secs(2));
            }
        }
        world.run(Duration::from_secs(2));
        let linked = LedgerEvent::Linked { proposal, agreement };
        for node in &world.nodes {
            assert_eq!(node.events.iter().filter(|event| **event == linked).count(), 1);
        }
        assert!(!world.nodes[2].events.iter().any(|event| matches!(event, LedgerEvent::Paired { .. })));
    }
}

//= spec/trustchain.md#12-where-we-must-be-better-than-the-reference-each-seen-in-code-or-reproduced
#[test]
fn a_payer_is_busy_until_the_answer_to_its_payment_is_on_disk() {
    let mut world = World::new(5, 2, Faults { disk_ms: 5, ..Faults::default() });
    assert!(!world.nodes[0].ledger.is_writing());
    let proposal = pay(&mut world, 0, 1, 1 << 20).expect("signed");
    for _ in 0..500 {
        world.run(Duration::from_millis(1));
        let ledger = &world.nodes[0].ledger;
        let waits = ledger.outstanding().next().is_some();
        if !store(&world, 0).links_to(&proposal.owner, 1).expect("memory").is_empty() {
            return assert!(!waits && !ledger.is_writing());
        }
        assert!(waits || ledger.is_writing(), "at rest without the answer");
    }
    panic!("no answer");
}

//= spec/trustchain.md#12-where-we-must-be-better-than-the-reference-each-seen-in-code-or-reproduced
#[test]
fn no_number_is_used_twice_and_pairs_are_equal_after_loss_reordering_and_crashes() {
    for seed in 0..40 {
        let faults = Faults { loss: 20, duplication: 10, delay_ms: 400, disk_ms: 30, disk_failure: 5 };
        let mut world = World::new(seed, 3, faults);
        let mut wanted = 0;
        for _ in 0..40 {
            let from = world.rng.below(3) as usize;
            let to = (from + 1 + world.rng.below(2) as usize) % 3;
            match world.rng.below(8) {
                0 => world.crash(from),
                1 => {
                    let (now, key) = (world.now, world.key(to));
                    let ledger = &mut world.nodes[from].ledger;
                    // Refused only while the disk fails.
                    let _ = ledger.propose(now, key, TEST.into(), Bytes::from_static(b"a0d"), Vec::new());
                }
                _ => {
                    let amount = 1 + world.rng.below(1000);
                    wanted += usize::from(pay(&mut world, from, to, amount).is_ok());
                }
            }
            let pause = world.rng.below(700);
            world.run(Duration::from_millis(pause));
        }
        world.faults = Faults { delay_ms: 20, ..Faults::default() };
        world.run(Duration::from_secs(60));
        let pairs = assert_pairs_equal(&world, 3);
        // Lost are only those that were not on disk when their signer crashed.
        assert!(pairs * 4 > wanted * 3, "seed {seed}: only {pairs} of {wanted} became pairs");
        let sums = (0..3).map(|node| totals(&world, node)).fold((0, 0), |sum, t| (sum.0 + t.0, sum.1 + t.1));
        assert_eq!(sums.0, sums.1, "seed {seed}: balances add up to zero");
        assert!(world.nodes.iter().all(|node| node.ledger.proofs().is_empty()), "seed {seed}: no fork");
    }
}

#[test]
fn nothing_leaves_while_the_disk_is_silent() {
    let mut world = World::new(2, 2, Faults { disk_ms: 5000, ..Faults::default() });
    pay(&mut world, 0, 1, 1000).expect("signed");
    world.run(Duration::from_secs(4));
    assert!(world.left.is_empty());
    world.run(Duration::from_secs(20));
    assert_eq!(assert_pairs_equal(&world, 2), 1);
}

#[test]
fn a_failed_write_stops_signing_until_it_succeeds() {
    let mut world = World::new(3, 2, Faults { disk_failure: 100, ..Faults::default() });
    pay(&mut world, 0, 1, 1000).expect("signed");
    world.run(Duration::from_secs(1));
    assert_eq!(pay(&mut world, 0, 1, 1000), Err(ProposeError::Stalled));
    assert!(world.left.is_empty());
    world.faults.disk_failure = 0;
    world.run(Duration::from_secs(10));
    pay(&mut world, 0, 1, 1000).expect("the disk works again");
    world.run(Duration::from_secs(10));
    assert_eq!(assert_pairs_equal(&world, 2), 2);
}

//= spec/trustchain.md#4-creating-blocks
#[test]
fn a_proposal_is_resent_every_ten_seconds_for_an_hour_and_then_reported() {
    let mut world = World::new(4, 2, Faults::default());
    world.nodes[1].agrees = false;
    let proposal = pay(&mut world, 0, 1, 1000).expect("signed");
    world.run(Duration::from_secs(3595));
    let resent = |world: &World| {
        let again = LedgerEvent::Resent(Arc::clone(&proposal));
        world.nodes[0].events.iter().filter(|event| **event == again).count()
    };
    assert_eq!(resent(&world), 359);
    assert!(!world.nodes[0].events.contains(&LedgerEvent::ProposalExpired(Arc::clone(&proposal))));
    world.run(Duration::from_secs(60));
    assert_eq!(resent(&world), 360);
    assert!(world.nodes[0].events.contains(&LedgerEvent::ProposalExpired(Arc::clone(&proposal))));
    // It stands: an answer much later still makes the pair.
    world.nodes[1].agrees = true;
    world.run(Duration::from_secs(7 * 3600));
    assert_eq!(assert_pairs_equal(&world, 2), 1);
}

#[test]
fn the_same_proposal_gets_the_first_answer_again() {
    let mut world = World::new(5, 2, Faults::default());
    let proposal = pay(&mut world, 0, 1, 1000).expect("signed");
    world.run(Duration::from_secs(2));
    world.nodes[1].events.clear();
    world.hand(1, 0, &proposal);
    let agreement = store(&world, 1).newest(&world.key(1)).expect("memory").expect("it agreed");
    assert_eq!(world.nodes[1].events, [LedgerEvent::Resent(agreement)]);
    assert_eq!(world.nodes[1].ledger.own_length(), 1);
}

#[test]
fn types_that_nobody_here_knows_are_stored_and_declined() {
    let mut world = World::new(6, 2, Faults::default());
    let (now, to) = (world.now, world.key(1));
    let transaction = Bytes::from_static(b"a0d");
    let strange = world.nodes[0].ledger.propose(now, to, "strange".into(), transaction, Vec::new());
    let strange = strange.expect("signed");
    world.run(Duration::from_secs(2));
    let declined =
        LedgerEvent::Declined { proposal: Arc::clone(&strange), reason: DeclineReason::ForeignType };
    assert!(world.nodes[1].events.contains(&declined));
    assert!(store(&world, 1).by_hash(&strange.hash()).expect("memory").is_some());
    assert_eq!(world.nodes[1].ledger.own_length(), 0);
}

fn fork(world: &World, node: usize, sequence: u32, amount: u8) -> Arc<HalfBlock> {
    let draft = Draft {
        sequence,
        link_owner: world.key(0),
        link_sequence: 0,
        previous_hash: if sequence == 1 { GENESIS_HASH } else { fairshare_ledger::BlockHash([amount; 32]) },
        kind: TEST.into(),
        transaction: Bytes::from(vec![b'a', b'1', b'i', b'0' + amount]),
        timestamp_ms: 5,
    };
    Arc::new(HalfBlock::sign(&world.nodes[node].key, draft))
}

//= spec/trustchain.md#7-fraud
//= spec/trustchain.md#13-our-ledger-community
#[test]
fn a_planted_double_sign_is_proved_to_everybody_and_ends_all_signatures() {
    let mut world = World::new(7, 6, Faults { loss: 20, ..Faults::default() });
    world.honest = false;
    let (one, other) = (fork(&world, 5, 1, 1), fork(&world, 5, 1, 2));
    world.hand(0, 5, &one);
    world.hand(1, 5, &other);
    world.run(Duration::from_secs(1));
    assert_eq!(world.nodes[0].ledger.own_length(), 1, "signed while nothing was known");
    // The two halves meet when somebody shows one of them to the holder of the other.
    world.hand(1, 0, &one);
    world.run(Duration::from_secs(30));
    for node in 0..5 {
        assert!(world.nodes[node].ledger.is_forker(&world.key(5)), "node {node}");
        let proofs = store(&world, node).proofs().expect("memory");
        assert_eq!(proofs.len(), 1);
        assert_eq!(proofs[0].kind(), ForkKind::DoubleSign);
        let told =
            world.nodes[node].events.iter().filter(|event| matches!(event, LedgerEvent::ForkProved(_)));
        assert_eq!(told.count(), 1);
    }
    let next = fork(&world, 5, 2, 3);
    world.hand(0, 5, &next);
    world.run(Duration::from_secs(5));
    assert_eq!(world.nodes[0].ledger.own_length(), 1, "nothing is signed for a forker");
    assert_eq!(pay(&mut world, 0, 5, 10), Err(ProposeError::Forker(world.key(5))));
    // Proofs survive a restart.
    world.crash(0);
    assert!(world.nodes[0].ledger.is_forker(&world.key(5)));
}

//= spec/trustchain.md#13-our-ledger-community
#[test]
fn two_agreements_to_one_proposal_convict_the_agreeing_key() {
    let mut world = World::new(8, 3, Faults::default());
    world.honest = false;
    let agreement = |sequence| {
        let draft = Draft {
            sequence,
            link_owner: world.key(0),
            link_sequence: 4,
            previous_hash: if sequence == 1 { GENESIS_HASH } else { fairshare_ledger::BlockHash([1; 32]) },
            kind: TEST.into(),
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms: 5,
        };
        Arc::new(HalfBlock::sign(&world.nodes[2].key, draft))
    };
    let (one, other) = (agreement(1), agreement(7));
    world.hand(1, 2, &one);
    world.hand(1, 2, &other);
    world.run(Duration::from_secs(1));
    for node in 0..2 {
        assert!(world.nodes[node].ledger.is_forker(&world.key(2)));
        assert!(!world.nodes[node].ledger.is_forker(&world.key(0)));
        assert_eq!(world.nodes[node].ledger.proofs()[0].kind(), ForkKind::DoubleCountersign);
    }
}

//= spec/trustchain.md#13-our-ledger-community
#[test]
fn a_false_proof_silences_its_bringer_for_ten_minutes() {
    let mut world = World::new(9, 2, Faults::default());
    let (one, other) = (fork(&world, 1, 1, 1), fork(&world, 1, 2, 2));
    let mut payload = vec![1];
    let mut pair = [one, other];
    pair.sort_by_key(|block| block.hash());
    for block in pair {
        payload.extend_from_slice(&u16::try_from(block.packed().len()).expect("short").to_be_bytes());
        payload.extend_from_slice(block.packed());
    }
    let tell = |world: &mut World, id: u8, payload: &[u8]| {
        let now = world.now;
        let ledger = &mut world.nodes[0].ledger;
        ledger.handle_message(now, LedgerCommunity::Own, address(1), None, id, payload)
    };
    assert!(tell(&mut world, 1, &payload).is_err());
    assert!(!world.nodes[0].ledger.is_forker(&world.key(1)));
    let silenced = Err(fairshare_ledger::MessageError::Silenced);
    assert_eq!(tell(&mut world, 1, &payload), silenced);
    world.run(Duration::from_secs(599));
    assert_eq!(tell(&mut world, 1, &payload), silenced);
    world.run(Duration::from_secs(1));
    assert_ne!(tell(&mut world, 1, &payload), silenced);
}

//= spec/trustchain.md#5-1-receiving
#[test]
fn blocks_before_a_proposal_are_fetched_before_it_is_signed() {
    let mut world = World::new(10, 3, Faults::default());
    // Node 2 holds payments to node 1 that node 0 has never seen.
    world.faults.loss = 100;
    for _ in 0..8 {
        pay(&mut world, 2, 1, 1000).expect("signed");
        world.run(Duration::from_millis(100));
    }
    world.faults.loss = 0;
    let proposal = pay(&mut world, 2, 0, 1000).expect("signed");
    world.run(Duration::from_millis(500));
    let known = store(&world, 0).range(&world.key(2), 1, 20, 20).expect("memory");
    let numbers: Vec<u32> = known.iter().map(|block| block.sequence).collect();
    assert_eq!(numbers, [4, 5, 6, 7, 8, 9]);
    let validation = validate(store(&world, 0), &proposal, Rules::Typed).expect("memory");
    assert_eq!(validation.level, Level::PartialNext);
    assert_eq!(world.nodes[0].ledger.own_length(), 1);
}

#[test]
fn a_signature_waits_two_seconds_for_a_crawl_that_nobody_answers() {
    let mut world = World::new(11, 2, Faults::default());
    let mut last = None;
    world.faults.loss = 100;
    for _ in 0..3 {
        last = pay(&mut world, 0, 1, 1000).ok();
        world.run(Duration::from_millis(100));
    }
    // A connection without any overlay.
    world.hand(1, 0, &last.expect("signed"));
    world.run(Duration::from_millis(1900));
    assert_eq!(world.nodes[1].ledger.own_length(), 0);
    world.run(Duration::from_millis(200));
    assert_eq!(world.nodes[1].ledger.own_length(), 1);
}

//= spec/trustchain.md#5-2-who-crawls-when
#[test]
fn each_introduction_fetches_the_lowest_unknown_block_once_a_minute() {
    let mut world = World::new(12, 2, Faults::default());
    world.nodes[1].agrees = false;
    world.faults.loss = 100;
    for _ in 0..3 {
        pay(&mut world, 0, 1, 1000).expect("signed");
        world.run(Duration::from_millis(100));
    }
    world.faults.loss = 0;
    let introduce = |world: &mut World, length| {
        let (now, key) = (world.now, world.key(0));
        let community = LedgerCommunity::TrustChain;
        world.nodes[1].ledger.peer_introduced(now, community, key, address(0), length);
        world.run(Duration::from_secs(1));
    };
    introduce(&mut world, Some(0));
    assert_eq!(store(&world, 1).block_count(), Ok(0), "it says that it has none");
    introduce(&mut world, Some(3));
    introduce(&mut world, Some(3));
    assert_eq!(store(&world, 1).lowest_unknown(&world.key(0)), Ok(2));
    assert_eq!(store(&world, 1).block_count(), Ok(1));
}

//= spec/trustchain.md#13-our-ledger-community
#[test]
fn a_complete_crawl_brings_both_halves_in_small_parts() {
    let mut world = World::new(13, 3, Faults::default());
    world.nodes[2].agrees = false;
    for _ in 0..10 {
        pay(&mut world, 0, 1, 1000).expect("signed");
        world.run(Duration::from_millis(300));
    }
    let mut payload = world.key(0).as_bytes().to_vec();
    for number in [1u32, u32::MAX, 77] {
        payload.extend_from_slice(&number.to_be_bytes());
    }
    let (now, asker) = (world.now, world.key(2));
    let ledger = &mut world.nodes[0].ledger;
    ledger.handle_message(now, LedgerCommunity::Own, address(2), Some(asker), 4, &payload).expect("answered");
    let mut found = Vec::new();
    while let Some(output) = ledger.poll() {
        let LedgerOutput::Send { community, to, id: 5, signed: false, payload } = output else {
            panic!("only answers are sent")
        };
        assert_eq!((community, to), (LedgerCommunity::Own, Recipient::Address(address(2))));
        assert!(payload.len() <= 1200);
        let message =
            fairshare_ledger::wire::OwnMessage::parse(5, &payload).expect("known").expect("readable");
        let fairshare_ledger::wire::OwnMessage::CrawlAnswer { crawl_id: 77, blocks, .. } = message else {
            panic!("an answer to the crawl")
        };
        found.extend(blocks);
    }
    let numbers: Vec<(bool, u32)> =
        found.iter().map(|block| (block.owner == world.key(0), block.sequence)).collect();
    let wanted: Vec<(bool, u32)> = (1..=10).flat_map(|number| [(true, number), (false, number)]).collect();
    assert_eq!(numbers, wanted);
}

#[test]
fn own_blocks_from_a_lost_store_stop_signing_until_all_are_back() {
    let mut world = World::new(14, 2, Faults::default());
    for _ in 0..3 {
        pay(&mut world, 0, 1, 1000).expect("signed");
        world.run(Duration::from_secs(1));
    }
    let chain = store(&world, 0).range(&world.key(0), 1, 9, 9).expect("memory");
    // The store is lost, the key is not.
    *world.nodes[0].ledger.store_mut() = fairshare_ledger::MemoryStore::new();
    world.crash(0);
    world.honest = false;
    world.hand(0, 1, &chain[2]);
    assert_eq!(pay(&mut world, 0, 1, 1000), Err(ProposeError::Behind { seen: 3, held: 0 }));
    world.hand(0, 1, &chain[0]);
    world.hand(0, 1, &chain[1]);
    let next = pay(&mut world, 0, 1, 1000).expect("nothing is missing any more");
    assert_eq!((next.sequence, next.previous_hash), (4, chain[2].hash()));
    let written = std::iter::from_fn(|| world.nodes[0].ledger.poll()).find_map(|output| match output {
        LedgerOutput::Persist { batch, .. } => Some(batch.blocks.len()),
        _ => None,
    });
    assert_eq!(written, Some(4), "not on disk before the blocks that it stands on");
}

#[test]
fn records_are_written_with_the_block_and_foreign_blocks_in_groups() {
    let mut world = World::new(15, 2, Faults::default());
    let mut rng = Rng::from_seed([3; 32]);
    let now = world.now;
    let ledger = &mut world.nodes[0].ledger;
    for number in 1..=100u8 {
        let key = fairshare_crypto::SecretKey::generate(&mut rng);
        let draft = Draft {
            sequence: 1,
            link_owner: fairshare_ledger::ANY,
            link_sequence: 0,
            previous_hash: GENESIS_HASH,
            kind: TEST.into(),
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms: u64::from(number),
        };
        ledger.receive(now, Source::Address(address(1)), HalfBlock::sign(&key, draft));
    }
    let batches = |ledger: &mut fairshare_ledger::Ledger<_>| -> Vec<Batch> {
        let outputs = std::iter::from_fn(|| ledger.poll());
        let batch = |output| match output {
            LedgerOutput::Persist { batch, .. } => Some(batch),
            _ => None,
        };
        outputs.filter_map(batch).collect()
    };
    assert_eq!(batches(ledger), []);
    let later = now.after(Duration::from_secs(1));
    ledger.handle_timeout(later);
    let written = batches(ledger);
    assert_eq!(written.len(), 1);
    assert_eq!((written[0].blocks.len(), written[0].urgent), (100, false));

    let record = fairshare_ledger::Record {
        kind: fairshare_ledger::RecordKind(3),
        key: vec![1],
        value: Some(vec![2]),
    };
    let to = world.key(1);
    let ledger = &mut world.nodes[0].ledger;
    let transaction = Bytes::from_static(b"a0d");
    let block = ledger.propose(later, to, TEST.into(), transaction, vec![record.clone()]).expect("signed");
    let expected = Batch { blocks: vec![block], records: vec![record], urgent: true, ..Batch::default() };
    assert_eq!(batches(ledger), [expected]);
}

#[test]
fn one_source_cannot_flood_the_store() {
    let mut world = World::new(16, 2, Faults::default());
    let mut rng = Rng::from_seed([4; 32]);
    let key = fairshare_crypto::SecretKey::generate(&mut rng);
    let now = world.now;
    let ledger = &mut world.nodes[0].ledger;
    let mut stored = BTreeSet::new();
    for number in 0..2100u32 {
        let draft = Draft {
            sequence: 2 + 2 * number,
            link_owner: fairshare_ledger::ANY,
            link_sequence: 0,
            previous_hash: fairshare_ledger::BlockHash([1; 32]),
            kind: TEST.into(),
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms: 1,
        };
        ledger.receive(now, Source::Address(address(1)), HalfBlock::sign(&key, draft));
        while let Some(output) = ledger.poll() {
            match output {
                LedgerOutput::Event(LedgerEvent::Stored(block)) => {
                    stored.insert(block.sequence);
                }
                LedgerOutput::Event(LedgerEvent::Rejected { reason, .. }) => {
                    assert_eq!(reason, "source sends too many blocks");
                }
                _ => {}
            }
        }
    }
    assert_eq!(stored.len(), 2000);
}

/// A source block of a key that is nobody here.
fn stranger(seed: u8) -> Arc<HalfBlock> {
    let key = fairshare_crypto::SecretKey::generate(&mut Rng::from_seed([seed; 32]));
    let draft = Draft {
        sequence: 1,
        link_owner: fairshare_ledger::ANY,
        link_sequence: 0,
        previous_hash: GENESIS_HASH,
        kind: TEST.into(),
        transaction: Bytes::from_static(b"a0d"),
        timestamp_ms: 1,
    };
    Arc::new(HalfBlock::sign(&key, draft))
}

//= spec/trustchain.md#5-1-receiving
#[test]
fn a_valid_broadcast_goes_on_once_and_an_invalid_one_not_at_all() {
    let mut world = World::new(17, 2, Faults::default());
    let now = world.now;
    let mut relayed = |block: &HalfBlock, ttl: u32| {
        let payload = [block.packed(), ttl.to_be_bytes().as_slice()].concat();
        let ledger = &mut world.nodes[0].ledger;
        ledger
            .handle_message(now, LedgerCommunity::TrustChain, address(1), None, 5, &payload)
            .expect("readable");
        let outputs = std::iter::from_fn(|| ledger.poll());
        let sent: Vec<_> = outputs.filter(|output| matches!(output, LedgerOutput::Send { .. })).collect();
        let [LedgerOutput::Send { to: Recipient::Random(25), id: 5, payload, .. }] = sent.as_slice() else {
            assert!(sent.is_empty());
            return None;
        };
        payload.last().copied()
    };
    assert_eq!(relayed(&stranger(1), 1), None, "one hop was meant");
    assert_eq!(relayed(&stranger(2), 2), Some(1));
    assert_eq!(relayed(&stranger(2), 2), None, "heard before");
    assert_eq!(relayed(&stranger(3), u32::MAX), Some(3), "no sender decides how far it floods");
    let mut changed = stranger(4).to_bytes();
    changed[200] ^= 1;
    assert_eq!(relayed(&HalfBlock::parse(&changed).expect("readable"), 2), None);
}

//= spec/trustchain.md#5-1-receiving
#[test]
fn a_broadcast_alone_is_never_signed() {
    let mut world = World::new(18, 2, Faults::default());
    let proposal = pay(&mut world, 1, 0, 1000).expect("signed");
    let payload = [proposal.packed(), [0, 0, 0, 1].as_slice()].concat();
    let now = world.now;
    let ledger = &mut world.nodes[0].ledger;
    ledger.handle_message(now, LedgerCommunity::TrustChain, address(1), None, 5, &payload).expect("readable");
    let wanted = std::iter::from_fn(|| ledger.poll())
        .any(|output| matches!(output, LedgerOutput::Event(LedgerEvent::AgreementWanted(_))));
    assert!(!wanted);
    world.hand(0, 1, &proposal);
    assert_eq!(world.nodes[0].ledger.own_length(), 1, "the proposal itself is");
}

//= spec/trustchain.md#5-1-receiving
//= spec/trustchain.md#9-settings
#[test]
fn crawl_answers_are_bounded_and_an_empty_one_says_so() {
    let mut world = World::new(19, 3, Faults::default());
    for _ in 0..15 {
        pay(&mut world, 0, 1, 1000).expect("signed");
        world.run(Duration::from_millis(300));
    }
    let (now, owner) = (world.now, world.key(0));
    let mut ask = |start: i32, end: i32| {
        let mut payload = owner.as_bytes().to_vec();
        payload.extend_from_slice(&start.to_be_bytes());
        payload.extend_from_slice(&end.to_be_bytes());
        payload.extend_from_slice(&[0, 0, 0, 9]);
        let ledger = &mut world.nodes[1].ledger;
        ledger
            .handle_message(now, LedgerCommunity::TrustChain, address(2), Some(owner), 2, &payload)
            .expect("answered");
        let outputs = std::iter::from_fn(|| ledger.poll());
        let id = |output| match output {
            LedgerOutput::Send { id, .. } => id,
            other => panic!("only answers: {other:?}"),
        };
        outputs.map(id).collect::<Vec<u8>>()
    };
    assert_eq!(ask(1, 3), [3; 6]);
    assert_eq!(ask(1, i32::MAX), [3; 20]);
    assert_eq!(ask(-1, -1), [3; 2]);
    assert_eq!(ask(100, 200), [7]);
    let refused = (0..100).any(|_| {
        let payload = [owner.as_bytes().as_slice(), &[0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 9]].concat();
        let ledger = &mut world.nodes[1].ledger;
        let community = LedgerCommunity::TrustChain;
        let answer = ledger.handle_message(now, community, address(2), Some(owner), 2, &payload);
        while ledger.poll().is_some() {}
        answer == Err(fairshare_ledger::MessageError::Rate)
    });
    assert!(refused, "nobody makes us answer without end");
}

#[test]
fn strangers_cannot_bury_the_agreement_to_a_block_that_is_not_known_yet() {
    let mut world = World::new(20, 3, Faults::default());
    world.honest = false;
    let proposal = fork(&world, 2, 1, 1);
    let agree = |key: &fairshare_crypto::SecretKey| {
        let draft = Draft {
            sequence: 1,
            link_owner: proposal.owner,
            link_sequence: 1,
            previous_hash: GENESIS_HASH,
            kind: TEST.into(),
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms: 1,
        };
        Arc::new(HalfBlock::sign(key, draft))
    };
    let mut rng = Rng::from_seed([5; 32]);
    for _ in 0..100 {
        let key = fairshare_crypto::SecretKey::generate(&mut rng);
        world.hand(1, 2, &agree(&key));
    }
    world.run(Duration::from_secs(1));
    assert_eq!(store(&world, 1).links_to(&proposal.owner, 1).expect("memory").len(), 32);
    world.hand(1, 2, &proposal);
    world.hand(1, 2, &agree(&world.nodes[0].key));
    world.run(Duration::from_secs(1));
    assert_eq!(store(&world, 1).links_to(&proposal.owner, 1).expect("memory").len(), 33);
}
