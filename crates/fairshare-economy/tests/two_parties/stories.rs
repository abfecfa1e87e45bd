//! Two parties in fair weather: what the specification promises, told step by step.

use crate::world::{KIB, MIB, World};
use fairshare_economy::{
    EconomyConfig, EconomyEvent, PRICE_IDLE, Policy, RefusalReason, Verdict, charge_of, room_of,
};
use std::time::Duration;

fn config() -> EconomyConfig {
    EconomyConfig::default()
}

fn stingy() -> EconomyConfig {
    EconomyConfig { stranger_bytes: 2 * MIB, ..config() }
}

//= spec/economy.md#54-worked-example-mib-mu--3---stays
#[test]
fn step_one_of_the_worked_example_to_the_field() {
    // k (party 1) takes 16 MiB from j (party 0) out of the pool, at the full price.
    let mut world = World::new(1, [EconomyConfig { policy: Policy::None, ..config() }, config()]);
    let connection = world.open();
    assert_eq!(world.take(connection, 1, 16 * MIB), 16 * MIB);
    world.close(connection, 1);
    world.settle_down();
    let (j, k) = (world.account(0), world.account(1));
    let mib = i128::from(MIB);
    assert_eq!((j.claim_on_peer, j.claim_of_peer), (48 * mib, -16 * mib));
    assert_eq!((k.claim_of_peer, k.claim_on_peer), (48 * mib, -16 * mib));
    assert_eq!((j.account.mine.given, j.account.theirs.charged), (16 * MIB, 16 * MIB));
    assert_eq!((j.account.mine, j.account.theirs), (k.account.theirs, k.account.mine));
    assert_eq!((j.paid_from, k.paid_to, k.confirmed_to), (16 * MIB, 16 * MIB, 16 * MIB));
    let payments = world.parties[1].transactions();
    assert!(payments.iter().all(|payment| payment.up == 0 && payment.total_up == 0));
    let last = payments.last().and_then(|payment| payment.settlement.clone()).expect("a payment");
    assert_eq!((last.cum, last.via), (16 * MIB, vec![]));
    let charges = payments.iter().map(|payment| payment.settlement.as_ref().and_then(|s| s.charge));
    assert_eq!(charges.sum::<Option<u64>>(), Some(16 * MIB));
    assert_eq!(world.parties[0].chain_totals(), (16 * MIB, 0));
    assert_eq!(world.parties[1].chain_totals(), (0, 16 * MIB));
}

//= spec/economy.md#57-refusal-the-way-back-over-spending
#[test]
fn a_free_rider_gets_its_allowance_is_refused_gives_and_is_served_again() {
    let mut world = World::new(2, [stingy(), stingy()]);
    let connection = world.open();
    assert_eq!(world.choke_round(connection, 0), Some(Verdict::Pool));
    // 2 MiB charged at an eighth are 16 real MiB.
    let allowance = world.take(connection, 1, 128 * MIB);
    assert!((16 * MIB - 16 * KIB..=16 * MIB).contains(&allowance), "{allowance}");
    world.settle_down();
    let Some(Verdict::Refuse(refusal)) = world.choke_round(connection, 0) else { panic!("refused") };
    assert_eq!(refusal.reason, RefusalReason::Balance);
    let debt = i64::try_from(charge_of(allowance, PRICE_IDLE)).expect("small");
    assert_eq!((refusal.flow, refusal.need), (-debt, 1 + charge_of(allowance, PRICE_IDLE)));
    assert!(world.parties[1].refusals.iter().any(|refusal| refusal.reason == RefusalReason::Balance));

    // A third of the need in real bytes, and a block more, brings it back.
    let gift = refusal.need / 3 + 16 * KIB;
    assert!(world.take(connection, 0, gift) >= gift);
    world.parties[0].economy.settle_all(world.now);
    world.drain(0);
    world.settle_down();
    assert!(matches!(world.choke_round(connection, 0), Some(Verdict::Serve { .. })));
    let again = world.take(connection, 1, 128 * MIB);
    // In all it took what it gave three times over, and the allowance, at an eighth of the price.
    let worth = room_of(3 * world.account(0).recv + 2 * MIB, PRICE_IDLE);
    assert!((allowance + again).abs_diff(worth) < 16 * KIB, "{allowance} and {again} of {worth}");
    assert_eq!((world.parties[0].declined.len(), world.parties[1].declined.len()), (0, 0));
}

//= spec/economy.md#3-from-bytes-to-a-transaction
#[test]
fn a_taker_that_never_pays_gets_one_window() {
    let mut world = World::new(3, [config(), config()]);
    let connection = world.open();
    world.choke_round(connection, 0);
    let mut counted = 0;
    for _ in 0..200 {
        world.send(connection, 0);
        // Everything is delivered and counted, but the taker's writes, its payments among them, never happen.
        while world.deliver(connection, 0) {}
        world.connections[connection].flows[0].verified = world.connections[connection].flows[0].received;
        world.count(connection, 1);
        while world.deliver(connection, 1) {}
        while world.write(0) {}
        counted = world.connections[connection].flows[0].verified;
        world.pass(Duration::from_millis(200));
    }
    assert!((4 * MIB..=4 * MIB + 512 * KIB).contains(&counted), "{counted}");
    assert!(world.parties[0].events.iter().any(|event| matches!(event, EconomyEvent::WindowFull { .. })));
    assert_eq!(world.choke_round(connection, 0), Some(Verdict::Choke));
    while world.deliver(connection, 0) {}
    assert!(world.parties[1].refusals.iter().any(|refusal| refusal.reason == RefusalReason::Unpaid));
}

//= spec/economy.md#53-verdict-grant-settlement
#[test]
fn friends_move_a_gibibyte_and_settle_it_exactly() {
    let mut world = World::new(4, [config(), config()]);
    for party in 0..2 {
        let friend = world.key(1 - party);
        world.parties[party].config.friends.insert(friend);
        world.crash(party);
    }
    let connection = world.open();
    assert_eq!(world.take(connection, 1, 1 << 30), 1 << 30);
    world.close(connection, 1);
    world.settle_down();
    let (giver, taker) = (world.account(0), world.account(1));
    assert_eq!((giver.paid_from, taker.confirmed_to), (1 << 30, 1 << 30));
    assert_eq!(giver.account.theirs.charged, charge_of(1 << 30, PRICE_IDLE));
    assert_eq!(giver.account.theirs.h_own, 0);
    assert_eq!((giver.window, giver.lost), (16 * MIB, 0));
    let settlements = world.parties[1].transactions().len();
    assert!(settlements <= 40, "{settlements} settlements");
}

#[test]
fn grants_end_with_the_requests_and_return_with_them() {
    let mut world = World::new(5, [config(), config()]);
    let connection = world.open();
    world.take(connection, 1, MIB);
    assert!(world.account(0).account.theirs.h_own > 128 * KIB);
    world.connections[connection].flows[0].sated = true;
    world.pass(Duration::from_secs(61));
    world.settle_down();
    let flow = &world.connections[connection].flows[0];
    assert_eq!(flow.limit, flow.sent, "nothing more may be sent");
    world.parties[1].economy.settle_all(world.now);
    world.drain(1);
    world.settle_down();
    assert_eq!(world.account(0).account.theirs.h_own, 0);
    world.connections[connection].flows[0].sated = false;
    assert_eq!(world.take(connection, 1, 2 * MIB), 2 * MIB);
    assert_eq!(world.parties[0].declined, vec![]);
    world.choke(connection, 0);
    let flow = &world.connections[connection].flows[0];
    assert_eq!(flow.limit, flow.sent);
}

//= spec/economy.md#3-from-bytes-to-a-transaction
#[test]
fn what_is_owed_after_ten_minutes_is_paid_and_a_little_is_carried_over() {
    let mut world = World::new(6, [config(), config()]);
    let connection = world.open();
    world.take(connection, 1, MIB + 64 * KIB);
    assert_eq!(world.account(1).paid_to, 0);
    world.pass(Duration::from_secs(601));
    world.settle_down();
    let paid = world.account(0).paid_from;
    assert!(paid > MIB, "{paid}");
    world.take(connection, 1, 32 * KIB);
    world.connections[connection].flows[0].served = false;
    let recv = world.account(1).recv;
    world.close(connection, 1);
    world.settle_down();
    assert_eq!(world.account(0).paid_from, if recv - paid >= 64 * KIB { recv } else { paid });
}

//= spec/economy.md#53-verdict-grant-settlement
#[test]
fn nothing_is_sent_beyond_a_written_mark_and_its_step() {
    let mut world = World::new(7, [config(), config()]);
    let connection = world.open();
    world.choke_round(connection, 0);
    assert_eq!(world.connections[connection].flows[0].limit, 0, "the grant is not written yet");
    assert_eq!(world.send(connection, 0), 0);
    world.write(0);
    for _ in 0..200 {
        // Everything is acknowledged as accepted and nothing more is written.
        world.send(connection, 0);
        while world.deliver(connection, 0) {}
        world.count(connection, 1);
        while world.deliver(connection, 1) {}
        world.pass(Duration::from_millis(200));
    }
    assert_eq!(world.connections[connection].flows[0].sent, 4 * MIB);
    // The process dies. Whatever was sent counts as used.
    world.crash(0);
    let hold = world.account(0).account.theirs.h_own;
    assert_eq!(hold, charge_of(4 * MIB, PRICE_IDLE));
    while world.write(0) {}
    // The peer pays what it verified; that settles the doubt.
    world.verify(connection, 1, 4 * MIB, 0);
    while world.deliver(connection, 0) {}
    world.settle_down();
    world.close(connection, 1);
    world.settle_down();
    assert_eq!(world.account(0).paid_from, 4 * MIB);
    assert_eq!(world.account(0).account.theirs.h_own, 0);
    assert_eq!(world.parties[0].declined, vec![]);
}

//= spec/economy.md#3-from-bytes-to-a-transaction
#[test]
fn bytes_that_a_taker_forgot_in_a_crash_do_not_fill_its_window_for_ever() {
    let mut world = World::new(8, [config(), config()]);
    let connection = world.open();
    world.take(connection, 1, 8 * MIB);
    // Two lumps are verified and counted, and the process dies before it wrote that down.
    world.send(connection, 0);
    world.send(connection, 0);
    while world.deliver(connection, 0) {}
    world.verify(connection, 1, u64::MAX, 0);
    world.count(connection, 1);
    while world.deliver(connection, 1) {}
    world.crash(1);
    assert!(world.parties[1].forgotten > 256 * KIB, "{}", world.parties[1].forgotten);
    world.settle_down();
    world.open();
    world.settle_down();
    let owed = world.account(0).verified - world.account(0).paid_from;
    assert!(owed >= world.parties[1].forgotten, "{owed}");
    world.pass(Duration::from_secs(61));
    let account = world.account(0);
    assert!(account.verified - account.paid_from < 64 * KIB, "what will never be paid is written off");
    assert!(account.lost >= world.parties[1].forgotten, "and remembered as lost");
}

#[test]
fn a_friend_may_die_every_few_seconds_and_still_gets_everything() {
    let mut world = World::new(9, [config(), config()]);
    for party in 0..2 {
        let friend = world.key(1 - party);
        world.parties[party].config.friends.insert(friend);
        world.crash(party);
    }
    for life in 0..60 {
        let connection = world.open();
        assert!(world.take(connection, 1, 3 * MIB) >= 3 * MIB, "life {life}");
        for _ in 0..4 {
            world.send(connection, 0);
        }
        while world.deliver(connection, 0) {}
        world.verify(connection, 1, u64::MAX, 0);
        world.count(connection, 1);
        while world.deliver(connection, 1) {}
        world.crash(if life % 3 == 2 { 0 } else { 1 });
        world.settle_down();
    }
    assert!(world.parties[1].forgotten > 16 * MIB, "{}", world.parties[1].forgotten);
    assert_eq!(world.parties[0].declined, vec![]);
}
