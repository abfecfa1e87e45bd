//! Two parties in foul weather: loss, repetition, reordering, broken connections and kill -9 at any step, driven
//! by a seed. After every step nothing may be paid twice or taken beyond the bounds; after the storm both ends
//! must agree to the byte.

use crate::world::{EXPOSURE, KIB, MIB, UNVERIFIED, World};
use fairshare_economy::{DeclineReason, EconomyConfig, EconomyEvent};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

/// How bad the weather is.
#[derive(Clone, Copy, Debug)]
struct Weather {
    datagrams: bool,
    breaks: bool,
    crashes: bool,
    waste: bool,
    steps: u32,
}

const CALM: Weather = Weather { datagrams: false, breaks: false, crashes: false, waste: false, steps: 600 };

/// Friends on a line so slow that its price rises with every period, or strangers.
fn config(world: &World, party: usize, friends: bool) -> EconomyConfig {
    if !friends {
        return EconomyConfig::default();
    }
    let friends = [world.key(1 - party)].into();
    EconomyConfig { friends, upload_limit: Some(4 * KIB), ..EconomyConfig::default() }
}

fn start(seed: u64, weather: Weather) -> World {
    let mut world = World::new(seed, [EconomyConfig::default(), EconomyConfig::default()]);
    let friends = world.rng.chance(1, 2);
    for party in 0..2 {
        world.parties[party].config = config(&world, party, friends);
        world.crash(party);
    }
    world.open();
    for step in 0..weather.steps {
        act(&mut world, weather);
        check(&world, step);
        if step % 32 == 0 {
            check_chains(&world, step);
        }
    }
    check_chains(&world, weather.steps);
    world
}

/// One step of anything that can happen.
fn act(world: &mut World, weather: Weather) {
    let party = world.rng.below(2) as usize;
    let open: Vec<usize> =
        (0..world.connections.len()).filter(|at| world.connections[*at].open == [true; 2]).collect();
    let connection = world.rng.index(open.len()).map(|at| open[at]);
    match (world.rng.below(100), connection) {
        (0..=24, Some(connection)) => {
            world.send(connection, party);
        }
        (25..=49, _) => deliver_any(world, weather, party),
        (50..=64, _) => {
            world.write(party);
        }
        (65..=74, Some(connection)) => {
            let bytes = world.rng.below(16) * 64 * KIB;
            let waste = if weather.waste && world.rng.chance(1, 20) { 64 * KIB } else { 0 };
            world.verify(connection, party, bytes, waste);
        }
        (75..=81, Some(connection)) => world.count(connection, party),
        (82..=86, Some(connection)) => {
            world.choke_round(connection, party);
        }
        (87, Some(connection)) => world.choke(connection, party),
        (88..=93, _) => {
            let span = [10, 100, 1000, 20_000][world.rng.below(4) as usize];
            world.pass(Duration::from_millis(span));
        }
        (94, _) => world.pass(Duration::from_secs(601)),
        (95, _) => world.resend(party),
        (96, Some(connection)) if weather.breaks => world.close(connection, party),
        (97, Some(connection)) if weather.breaks => world.cut(connection),
        (98, _) if weather.crashes && world.rng.chance(1, 2) => world.crash(party),
        _ if open.len() < 3 => {
            world.open();
        }
        _ => {}
    }
}

fn deliver_any(world: &mut World, weather: Weather, from: usize) {
    if !world.datagrams.is_empty() && world.rng.chance(1, 6) {
        let at = world.rng.below(world.datagrams.len() as u64) as usize;
        let (to, block) = match world.rng.below(3) {
            0 if weather.datagrams => world.datagrams[at].clone(),
            1 if weather.datagrams => return drop(world.datagrams.swap_remove(at)),
            _ => world.datagrams.swap_remove(at),
        };
        return world.receive(to, &block);
    }
    let busy: Vec<usize> =
        (0..world.connections.len()).filter(|at| !world.connections[*at].queues[from].is_empty()).collect();
    if let Some(at) = world.rng.index(busy.len()) {
        let run = 1 + world.rng.below(8);
        for _ in 0..run {
            world.deliver(busy[at], from);
        }
    }
}

/// What must hold at any moment.
//= spec/economy.md#10-tests
fn check(world: &World, step: u32) {
    for taker in 0..2 {
        let giver = 1 - taker;
        let now = world.now;
        let given = world.parties[giver].economy.account(now, &world.key(taker));
        let taken = world.parties[taker].economy.account(now, &world.key(giver));
        let (Some(given), Some(taken)) = (given, taken) else { continue };
        assert!(taken.confirmed_to <= taken.paid_to && taken.paid_to <= taken.recv, "step {step}");
        assert!(given.paid_from <= taken.paid_to, "step {step}: paid more than was signed");
        assert!(given.paid_from <= given.sent + (256 * KIB).max(given.sent / 100), "step {step}");
        assert_eq!(given.account.mine.given, given.paid_from, "step {step}: each byte is given once");
        // E4: unpaid bytes are bounded.
        let unpaid = given.verified.saturating_sub(given.paid_from);
        assert!(unpaid <= 256 * MIB + UNVERIFIED + EXPOSURE, "step {step}");
        let unexpected = world.parties[giver]
            .declined
            .iter()
            .find(|reason| !matches!(reason, DeclineReason::Duplicate { .. }));
        assert_eq!(unexpected, None, "step {step}: an honest payer was declined");
    }
}

/// What the chains must say at any moment.
fn check_chains(world: &World, step: u32) {
    for party in &world.parties {
        // E3: the pairs of the chain, each counted once, are what the account says.
        let (mut down, mut paid) = (0, 0);
        for (payment, cum) in party.complete_pairs(false) {
            assert!(cum > paid, "step {step}: a cum is paid twice");
            (down, paid) = (down + payment.down, cum);
        }
        assert_eq!(down, paid, "step {step}");
        // E1: the totals of the newest block are the sums over the chain.
        let blocks = party.transactions();
        let sums = blocks.iter().fold((0, 0), |sums, block| (sums.0 + block.up, sums.1 + block.down));
        assert_eq!(party.chain_totals(), sums, "step {step}");
    }
}

/// The weather clears: everything arrives, everything is paid.
fn calm_down(world: &mut World) {
    for at in 0..world.connections.len() {
        for party in 0..2 {
            world.close(at, party);
        }
    }
    world.settle_down();
    for _ in 0..4 {
        let connection = world.open();
        for party in 0..2 {
            world.resend(party);
            let now = world.now;
            world.parties[party].economy.settle_all(now);
            world.drain(party);
        }
        world.settle_down();
        world.close(connection, 0);
        world.settle_down();
    }
}

/// What must hold when nothing moves any more.
fn check_agreement(world: &World) {
    for taker in 0..2 {
        let giver = 1 - taker;
        let (given, taken) = (world.account(giver), world.account(taker));
        assert_eq!(given.paid_from, taken.confirmed_to);
        assert_eq!(taken.paid_to, taken.confirmed_to, "nothing is on its way");
        assert!(taken.recv - taken.paid_to < 64 * KIB, "all that is worth a block is paid");
        // E6: the settled fields are equal at both ends.
        let (mine, theirs) = (given.account.mine, taken.account.theirs);
        assert_eq!((mine.given, mine.bought), (theirs.given, theirs.bought));
        assert_eq!(given.account.theirs.charged, taken.account.mine.charged);
    }
    // E2: over all pairs up and down are equal.
    let ((up_a, down_a), (up_b, down_b)) = (world.parties[0].chain_totals(), world.parties[1].chain_totals());
    assert_eq!((up_a, up_b), (down_b, down_a));
}

/// A process that starts again from its disk knows what it knew.
fn check_restart(world: &mut World) {
    for party in 0..2 {
        let before = world.account(party);
        world.crash(party);
        let after = world.account(party);
        assert_eq!((before.account.mine, before.recv), (after.account.mine, after.recv));
        assert_eq!((before.paid_to, before.paid_from), (after.paid_to, after.paid_from));
        assert_eq!((before.sent, before.verified, before.lost), (after.sent, after.verified, after.lost));
        assert_eq!(before.account.theirs, after.account.theirs);
    }
}

fn weather_the_storm(seed: u64, weather: Weather) -> World {
    let mut world = start(seed, weather);
    calm_down(&mut world);
    check(&world, weather.steps);
    check_chains(&world, weather.steps);
    check_agreement(&world);
    check_restart(&mut world);
    world
}

proptest! {
    // A storm is hundreds of steps: an eighth of the usual number, which PROPTEST_CASES raises.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 8))]

    //= spec/economy.md#52-price-and-charge
    #[test]
    fn both_ends_compute_the_same_charge_in_any_order_of_events(seed in any::<u64>()) {
        let weather = Weather { datagrams: true, waste: true, ..CALM };
        let world = weather_the_storm(seed, weather);
        for party in &world.parties {
            for (payment, _) in party.complete_pairs(true) {
                let charge = payment.settlement.as_ref().and_then(|settlement| settlement.charge);
                prop_assert!(charge.is_some_and(|charge| charge <= payment.down));
            }
        }
    }

    //= spec/economy.md#3-from-bytes-to-a-transaction
    #[test]
    fn broken_connections_lose_no_payment(seed in any::<u64>()) {
        weather_the_storm(seed, Weather { datagrams: true, breaks: true, waste: true, ..CALM });
    }

    //= spec/economy.md#3-from-bytes-to-a-transaction
    #[test]
    fn nothing_is_paid_twice_after_any_crash(seed in any::<u64>()) {
        let weather = Weather { datagrams: true, breaks: true, crashes: true, waste: true, steps: 900 };
        weather_the_storm(seed, weather);
    }
}

#[test]
fn storms_move_bytes_and_money() {
    let (mut settled, mut verified, mut prices) = (0, 0, BTreeSet::new());
    for seed in 0..20 {
        let world = weather_the_storm(seed, Weather { breaks: true, crashes: true, steps: 1500, ..CALM });
        let is_settled = |event: &&EconomyEvent| matches!(event, EconomyEvent::Paid { .. });
        settled += world.parties.iter().flat_map(|party| &party.events).filter(is_settled).count();
        let price = |event: &EconomyEvent| match event {
            EconomyEvent::Granted { grant, .. } => Some(grant.price),
            _ => None,
        };
        prices.extend(world.parties.iter().flat_map(|party| &party.events).filter_map(price));
        verified += (0..2).map(|party| world.account(party).recv).sum::<u64>();
    }
    assert!(prices.len() > 1, "{prices:?}");
    assert!(settled > 40 && verified > 100 * MIB, "{settled} payments, {} MiB", verified / MIB);
}
