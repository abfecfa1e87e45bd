//! The engine at one node, rule by rule.

use super::account::Account;
use super::account::Payment;
use super::config::PayoutsConfig;
use super::engine::Payouts;
use super::iou::Iou;
use super::message::SettleMessage;
use super::message::{Bind, SettleCode};
use super::output::{Carried, CarriedEnd, PayoutJudgement};
use super::output::{LinkAllowance, PayoutsOutput};
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_ledger::HalfBlock;
use fairshare_ledger::bandwidth::Bandwidth;
use fairshare_ledger::{BlockType, Draft, GENESIS_HASH};
use fairshare_wire::Now;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const EPOCH_MS: u64 = 21_600_000;

fn key(seed: u8) -> SecretKey {
    SecretKey::generate(&mut Rng::from_seed([seed; 32]))
}

/// A node at the start of epoch 10, with one neighbour that is bound.
struct Bench {
    payouts: Payouts,
    peer: SecretKey,
    tunnel: SecretKey,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        let now = Now { unix_ms: 10 * EPOCH_MS + 1, ..Now::default() };
        let (config, rng) = (PayoutsConfig::default(), Rng::from_seed([9; 32]));
        let payouts = Payouts::new(config, key(1), key(2), vec![], vec![], rng, now);
        let mut bench = Self { payouts, peer: key(3), tunnel: key(4), now };
        bench.say(&SettleMessage::Bind(Bind::sign(&bench.peer, &bench.tunnel, &key(2).public(), 10)));
        bench
    }

    fn say(&mut self, message: &SettleMessage) {
        self.payouts.link_message(self.now, &self.tunnel.public(), message.id(), &message.write());
    }

    fn refused(&self, reason: &'static str) -> u64 {
        self.payouts.refusals().get(reason).copied().unwrap_or(0)
    }

    /// Everything that is said, with writes done at once.
    fn said(&mut self) -> Vec<SettleMessage> {
        let mut out = Vec::new();
        while let Some(output) = self.payouts.poll() {
            match output {
                PayoutsOutput::Persist { ticket, .. } => self.payouts.persisted(self.now, ticket),
                PayoutsOutput::LinkSend { id, body, .. } => {
                    out.push(SettleMessage::read(id, &body).expect("our own"));
                }
                _ => {}
            }
        }
        out
    }

    fn iou(&mut self, classes: [u64; 4]) {
        let iou = Iou::sign(&self.peer, key(1).public(), 10, 0, classes).expect("small");
        self.say(&SettleMessage::Iou(iou));
    }

    fn account(&self) -> &Account {
        &self.payouts.accounts[&self.peer.public()]
    }

    fn payment(&self, sequence: u32, down: u64, timestamp_ms: u64) -> HalfBlock {
        let paid = Bandwidth { down, total_down: down, ..Bandwidth::default() };
        let draft = Draft {
            sequence,
            link_owner: key(1).public(),
            link_sequence: 0,
            previous_hash: GENESIS_HASH,
            kind: BlockType::BANDWIDTH,
            transaction: paid.encode(),
            timestamp_ms,
        };
        HalfBlock::sign(&self.peer, draft)
    }

    fn verdict(&mut self, down: u64, timestamp_ms: u64) -> Option<&'static str> {
        let block = self.payment(1, down, timestamp_ms);
        match self.payouts.judge(self.now, &block) {
            PayoutJudgement::Sign { .. } => None,
            PayoutJudgement::Decline(reason) => Some(reason),
        }
    }

    fn carry(&mut self, bytes: u64) {
        let carried = Carried {
            from: Some(self.tunnel.public()),
            end: CarriedEnd::Exit,
            from_bytes: bytes,
            ..Carried::default()
        };
        self.payouts.carried(self.now, &carried);
    }
}

//= spec/payouts.md#33-iou
#[test]
fn an_iou_is_written_before_it_is_acknowledged() {
    let mut bench = Bench::new();
    bench.said();
    bench.carry(MIB);
    bench.iou([MIB, 0, 0, 0]);
    let mut written = false;
    while let Some(output) = bench.payouts.poll() {
        match output {
            PayoutsOutput::Persist { ticket, records } => {
                let (name, value) = (records[0].key.clone(), records[0].value.clone().expect("new"));
                let mut again = Payouts::new(
                    PayoutsConfig::default(),
                    key(1),
                    key(2),
                    vec![(records[0].kind, name, value)],
                    vec![],
                    Rng::from_seed([9; 32]),
                    bench.now,
                );
                let view = again.views(bench.now).pop().expect("restored");
                assert_eq!((view.iou_in, view.measured_in), (MIB, MIB));
                assert!(again.poll().is_none());
                written = true;
                bench.payouts.persisted(bench.now, ticket);
            }
            PayoutsOutput::LinkSend { id, body, .. } if id == 41 => {
                assert!(written);
                let ack = SettleMessage::IouAck { epoch: 10, seen: MIB, measured: MIB };
                assert_eq!(SettleMessage::read(id, &body), Ok(ack));
                return;
            }
            _ => {}
        }
    }
    panic!("it was not acknowledged");
}

//= spec/payouts.md#33-iou
#[test]
fn ious_that_are_lower_foreign_or_false_change_nothing() {
    let mut bench = Bench::new();
    bench.iou([5, 0, 0, 0]);
    bench.iou([4, 9, 0, 0]);
    let foreign = Iou::sign(&bench.peer, key(7).public(), 10, 0, [9; 4]).expect("small");
    bench.say(&SettleMessage::Iou(foreign));
    let others = Iou::sign(&key(7), key(1).public(), 10, 0, [9; 4]).expect("small");
    bench.say(&SettleMessage::Iou(others));
    let good = Iou::sign(&bench.peer, key(1).public(), 10, 0, [9; 4]).expect("small");
    bench.say(&SettleMessage::Iou(Iou { settled: 1, ..good.clone() }));
    bench.say(&SettleMessage::Iou(Iou { amount: 1, ..good }));
    assert_eq!(bench.account().held, [5, 0, 0, 0]);
    for (reason, times) in [
        ("IOU that is lower than an older one", 1),
        ("IOU between others", 2),
        ("IOU with a false signature", 1),
        ("IOU whose classes do not add up", 1),
    ] {
        assert_eq!(bench.refused(reason), times, "{reason}");
    }
}

//= spec/payouts.md#31-parties-and-accounts
#[test]
fn nobody_is_paid_under_a_key_that_is_not_proved() {
    let mut bench = Bench::new();
    let victim = key(5);
    let (thief, me) = (key(6), key(2).public());
    let claim = SettleMessage::Bind(Bind::sign(&thief, &key(8), &me, 10));
    bench.payouts.link_message(bench.now, &victim.public(), claim.id(), &claim.write());
    let old = SettleMessage::Bind(Bind::sign(&thief, &victim, &me, 8));
    bench.payouts.link_message(bench.now, &victim.public(), old.id(), &old.write());
    let own = SettleMessage::Bind(Bind::sign(&key(1), &victim, &me, 10));
    bench.payouts.link_message(bench.now, &victim.public(), own.id(), &own.write());
    assert_eq!(bench.payouts.peer_of(&victim.public()), None);
    let ack = SettleMessage::IouAck { epoch: 10, seen: 0, measured: 1 };
    bench.payouts.link_message(bench.now, &victim.public(), ack.id(), &ack.write());
    assert_eq!(bench.refused("settlement message before the payment key"), 1);
    assert_eq!(bench.payouts.peer_of(&bench.tunnel.public()), Some(bench.peer.public()));
}

//= spec/payouts.md#34-epochs-and-settlement
#[test]
fn only_a_payment_that_is_owed_is_signed_and_it_once() {
    let mut bench = Bench::new();
    bench.carry(8 * MIB);
    bench.iou([8 * MIB, 0, 0, 0]);
    let end = 10 * EPOCH_MS;
    assert_eq!(bench.verdict(3 * MIB, end), Some("payment that is no power of two in MiB"));
    assert_eq!(bench.verdict(8 * MIB, end + 1), Some("payment whose time is no end of an epoch"));
    assert_eq!(bench.verdict(8 * MIB, 11 * EPOCH_MS), Some("payment whose time is no end of an epoch"));
    assert_eq!(bench.verdict(8 * MIB, 0), Some("payment whose time is no end of an epoch"));
    assert_eq!(bench.verdict(16 * MIB, end), Some("payment that is not owed"));
    assert_eq!(bench.verdict(4 * MIB, end), None);
    assert_eq!(bench.verdict(4 * MIB, end), None, "the same again");
    let other = bench.payment(2, 8 * MIB, end);
    assert!(matches!(bench.payouts.judge(bench.now, &other), PayoutJudgement::Sign { .. }), "the second");
    let third = bench.payment(3, MIB, end);
    assert!(matches!(bench.payouts.judge(bench.now, &third), PayoutJudgement::Decline(_)));
    let now = bench.now;
    bench.payouts.fork_proved(now, &bench.peer.public());
    assert_eq!(bench.verdict(4 * MIB, end), Some("the payer has forked its chain"));
    let stranger = HalfBlock::sign(
        &key(7),
        Draft {
            sequence: 1,
            link_owner: key(1).public(),
            link_sequence: 0,
            previous_hash: GENESIS_HASH,
            kind: BlockType::BANDWIDTH,
            transaction: bench.payment(1, MIB, end).transaction.clone(),
            timestamp_ms: end,
        },
    );
    let decline = PayoutJudgement::Decline("payment of a stranger");
    assert_eq!(bench.payouts.judge(bench.now, &stranger), decline);
}

//= spec/payouts.md#34-epochs-and-settlement
#[test]
fn a_proposal_gets_the_same_answer_again_and_its_block_is_signed_later() {
    let mut bench = Bench::new();
    bench.carry(8 * MIB);
    bench.iou([8 * MIB, 0, 0, 0]);
    bench.said();
    let ask =
        |epoch, k| SettleMessage::Propose { epoch, index: 0, debt: 8 * MIB, credit: 0, k, blocks: vec![] };
    let answer = |bench: &mut Bench, epoch, k| {
        bench.say(&ask(epoch, k));
        let said = bench.said();
        said.into_iter().find_map(|message| match message {
            SettleMessage::Accept { code, .. } => Some(code),
            _ => None,
        })
    };
    assert_eq!(answer(&mut bench, 9, 4), Some(SettleCode::Amount), "16 MiB are not owed");
    assert_eq!(answer(&mut bench, 10, 3), Some(SettleCode::Busy), "the epoch is not over");
    assert_eq!(answer(&mut bench, 7, 3), Some(SettleCode::Amount), "long ago");
    assert_eq!(answer(&mut bench, 9, 200), Some(SettleCode::Amount));
    for _ in 0..2 {
        assert_eq!(answer(&mut bench, 9, 3), Some(SettleCode::Accepted));
    }
    assert_eq!(bench.account().agreed, Some(Payment { epoch: 9, index: 0, k: 3 }));
    // What was agreed to is signed, whatever is owed by then.
    let peer = bench.peer.public();
    bench.payouts.accounts.get_mut(&peer).expect("bound").claim = 0;
    assert_eq!(bench.verdict(8 * MIB, 10 * EPOCH_MS), None);
}

//= spec/payouts.md#34-epochs-and-settlement
#[test]
fn payments_of_the_own_chain_are_counted_once_whatever_the_journal_says() {
    let bench = Bench::new();
    let (me, peer) = (key(1), bench.peer.public());
    let sign = |sequence, down| {
        let paid = Bandwidth { down, total_down: down, ..Bandwidth::default() };
        let draft = Draft {
            sequence,
            link_owner: peer,
            link_sequence: 0,
            previous_hash: GENESIS_HASH,
            kind: BlockType::BANDWIDTH,
            transaction: paid.encode(),
            timestamp_ms: 10 * EPOCH_MS,
        };
        Arc::new(HalfBlock::sign(&me, draft))
    };
    let (one, two) = (sign(1, 4 * MIB), sign(2, MIB));
    let pairs = vec![(one.clone(), None), (two.clone(), None)];
    let (config, rng) = (PayoutsConfig::default(), Rng::from_seed([9; 32]));
    let mut payouts = Payouts::new(config, key(1), key(2), vec![], pairs, rng, bench.now);
    let account = &payouts.accounts[&peer];
    assert_eq!((account.paid_out, account.unanswered.len()), (5 * MIB, 2));
    payouts.proposed(bench.now, &one);
    assert_eq!(payouts.accounts[&peer].paid_out, 5 * MIB);
    assert_eq!(payouts.accounts[&peer].own[&9], [2, 0]);
}

//= spec/payouts.md#34-epochs-and-settlement
#[test]
fn the_moment_of_a_payment_is_in_the_first_half_of_the_epoch_and_differs_by_peer_and_epoch() {
    let bench = Bench::new();
    let times: BTreeSet<u64> = (0..50)
        .flat_map(|epoch| (0..4).map(move |peer| (epoch, peer)))
        .map(|(epoch, peer)| {
            let late = bench.payouts.settle_time_ms(epoch, &key(peer).public())
                - bench.payouts.boundary_ms(epoch + 1);
            assert!(late < EPOCH_MS / 2);
            late
        })
        .collect();
    assert!(times.len() > 195, "{} different moments", times.len());
    assert!(times.iter().any(|late| *late > EPOCH_MS * 9 / 20));
}

//= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
#[test]
fn the_steps_come_at_half_three_quarters_and_all_of_the_limit() {
    let mut bench = Bench::new();
    bench.payouts.config.base_limit = 100 * MIB;
    bench.payouts.accounts.get_mut(&bench.peer.public()).expect("bound").settled.push_back((u64::MAX, 0));
    let allowance = |bench: &mut Bench, mib: u64, seconds: u64| {
        bench.now = bench.now.after(Duration::from_secs(seconds));
        bench.carry(mib * MIB);
        bench.payouts.handle_timeout(bench.now);
        let asked = bench.said().iter().any(|message| matches!(message, SettleMessage::IouRequest { .. }));
        (bench.payouts.neighbours[&bench.tunnel.public()].allowance, asked)
    };
    // 2 per cent and 1 MiB are tolerated.
    assert_eq!(allowance(&mut bench, 50, 1), (LinkAllowance::Open, false));
    assert_eq!(allowance(&mut bench, 3, 3), (LinkAllowance::Open, true));
    assert_eq!(allowance(&mut bench, 26, 3), (LinkAllowance::NoNewCircuits, true));
    assert_eq!(allowance(&mut bench, 26, 3), (LinkAllowance::NoNewCircuits, true));
    assert_eq!(allowance(&mut bench, 0, 85).0, LinkAllowance::NoNewCircuits);
    assert_eq!(allowance(&mut bench, 0, 6).0, LinkAllowance::Slow);
    assert_eq!(allowance(&mut bench, 0, 31).0, LinkAllowance::Cut);
    bench.iou([40 * MIB, 0, 0, 0]);
    assert_eq!(allowance(&mut bench, 0, 1).0, LinkAllowance::Cut, "more than half is used still");
    bench.iou([100 * MIB, 0, 0, 0]);
    assert_eq!(allowance(&mut bench, 0, 1).0, LinkAllowance::Open);
}

#[test]
fn a_neighbour_that_talks_too_much_is_not_listened_to() {
    let mut bench = Bench::new();
    for amount in 1..100 {
        bench.iou([amount, 0, 0, 0]);
    }
    let held = bench.account().held[0];
    assert!(held < 40, "{held}: each higher IOU costs a write");
    bench.now = bench.now.after(Duration::from_secs(10));
    bench.iou([200, 0, 0, 0]);
    assert_eq!(bench.account().held[0], 200);
}

#[test]
fn invented_neighbours_leave_room_for_real_ones() {
    let mut bench = Bench::new();
    bench.carry(MIB);
    let mut rng = Rng::from_seed([8; 32]);
    let hello = SettleMessage::IouRequest { epoch: 10 };
    for _ in 0..super::config::NEIGHBOURS_MAX + 10 {
        let tunnel = PublicKey::from_bytes(rng.bytes());
        bench.payouts.link_message(bench.now, &tunnel, hello.id(), &hello.write());
    }
    assert!(bench.payouts.neighbours.len() <= super::config::NEIGHBOURS_MAX);
    assert!(bench.payouts.neighbours.contains_key(&bench.tunnel.public()), "there is a debt");
    let real = key(20).public();
    let carried = Carried { to: Some(real), hops: 1, to_bytes: 5, ..Carried::default() };
    bench.payouts.carried(bench.now, &carried);
    assert!(bench.payouts.neighbours.contains_key(&real));
}

/// What a node finds that starts from what was written until a message of this kind left, or until nothing is left to
/// do.
fn after_a_crash(bench: &mut Bench, until: u8) -> Payouts {
    bench.payouts.handle_timeout(bench.now);
    let mut written = std::collections::BTreeMap::new();
    while let Some(output) = bench.payouts.poll() {
        match output {
            PayoutsOutput::Persist { ticket, records } => {
                for record in records {
                    written.insert((record.kind, record.key), record.value);
                }
                bench.payouts.persisted(bench.now, ticket);
            }
            PayoutsOutput::LinkSend { id, .. } if id == until => break,
            _ => {}
        }
    }
    let records = written.into_iter().filter_map(|((kind, key), value)| Some((kind, key, value?))).collect();
    let (config, rng) = (PayoutsConfig::default(), Rng::from_seed([9; 32]));
    Payouts::new(config, key(1), key(2), records, vec![], rng, bench.now)
}

//= spec/payouts.md#33-iou
#[test]
fn what_is_metered_is_on_record_with_each_report() {
    let mut bench = Bench::new();
    bench.payouts.handle_timeout(bench.now);
    bench.said();
    bench.carry(MIB);
    let stranger = key(20).public();
    let carried = Carried { to: Some(stranger), hops: 1, to_bytes: 5, ..Carried::default() };
    bench.payouts.carried(bench.now, &carried);
    let again = after_a_crash(&mut bench, 0);
    let peer = bench.peer.public();
    assert_eq!(again.accounts[&peer].claim, MIB);
    assert_eq!(again.accounts[&peer].neighbour, Some(bench.tunnel.public()));
    assert_eq!(
        again.neighbours[&stranger].unbound.cap,
        super::config::METER_UNIT,
        "without a payment key too"
    );
}

//= spec/payouts.md#34-epochs-and-settlement
#[test]
fn an_agreement_to_a_payment_is_on_record_before_it_is_told() {
    let mut bench = Bench::new();
    bench.carry(8 * MIB);
    bench.iou([8 * MIB, 0, 0, 0]);
    bench.said();
    let ask = SettleMessage::Propose { epoch: 9, index: 0, debt: 8 * MIB, credit: 0, k: 3, blocks: vec![] };
    bench.say(&ask);
    let mut again = after_a_crash(&mut bench, 44);
    let agreed = Some(Payment { epoch: 9, index: 0, k: 3 });
    assert_eq!(again.accounts[&bench.peer.public()].agreed, agreed);
    let block = bench.payment(1, 8 * MIB, 10 * EPOCH_MS);
    assert!(matches!(again.judge(bench.now, &block), PayoutJudgement::Sign { .. }));
}

//= spec/payouts.md#33-iou
#[test]
fn a_debtor_that_measures_later_than_its_holder_promises_as_soon_as_it_can() {
    let mut bench = Bench::new();
    bench.said();
    let carried =
        Carried { to: Some(bench.tunnel.public()), hops: 1, to_bytes: 10 * MIB, ..Carried::default() };
    bench.payouts.carried(bench.now, &carried);
    bench.say(&SettleMessage::IouRequest { epoch: 10 });
    bench.say(&SettleMessage::IouAck { epoch: 10, seen: 0, measured: 100 * MIB });
    let promised = |bench: &mut Bench| {
        let said = bench.said();
        let ious = said.into_iter().filter_map(|message| match message {
            SettleMessage::Iou(iou) => Some(iou.amount),
            _ => None,
        });
        ious.collect::<Vec<_>>()
    };
    let most = |mib: u64| mib * MIB + mib * MIB / 50 + MIB;
    assert_eq!(promised(&mut bench), [0, most(10)]);
    bench.now = bench.now.after(Duration::from_secs(20));
    bench.payouts.carried(bench.now, &Carried { to_bytes: 85 * MIB, ..carried });
    assert_eq!(promised(&mut bench), [most(95)], "without waiting for the next interval");
}

//= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
#[test]
fn what_is_owed_to_a_neighbour_is_not_forgotten_when_its_key_comes_late() {
    let mut bench = Bench::new();
    let late = key(20).public();
    let to = Carried { to: Some(late), hops: 1, to_bytes: 3 * MIB, ..Carried::default() };
    let from = Carried { from: Some(late), end: CarriedEnd::Exit, from_bytes: MIB, ..Carried::default() };
    bench.payouts.carried(bench.now, &to);
    bench.payouts.carried(bench.now, &from);
    let unbound = |bench: &Bench| bench.payouts.neighbours[&late].unbound.clone();
    assert_eq!((unbound(&bench).cap, unbound(&bench).claim), (3 * MIB, MIB));
    for _ in 0..2 {
        bench.now = bench.now.after(Duration::from_millis(EPOCH_MS));
        bench.payouts.handle_timeout(bench.now);
    }
    assert_eq!((unbound(&bench).cap, unbound(&bench).claim), (3 * MIB, 0), "what it owes is written off");
    for _ in 0..6 {
        bench.now = bench.now.after(Duration::from_millis(EPOCH_MS));
        bench.payouts.handle_timeout(bench.now);
    }
    assert_eq!(unbound(&bench).cap, 0, "after a long silence all of it is");
}
