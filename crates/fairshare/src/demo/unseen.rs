//! The chapters around the circuits: a download over two hops, a hidden seeder, relays that are paid later, and why
//! somebody stands well.

use crate::demo::Narrator;
use crate::demo::receipt::Promise;
use crate::demo::scenario::{ANONYMOUS, END_TO_END, HIDDEN_SEEDER, OVER_TWO_HOPS, Role, SEEDER};
use crate::demo::stage::{EPOCH_S, Player, Stage};
use crate::failure::Outcome;
use crate::show;
use fairshare_tunnel::{CircuitState, CircuitUse};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(20);

/// Otto takes a file of an ordinary seeder, who sees an exit and nobody behind it.
pub(crate) async fn over_two_hops(stage: &Stage, say: &Narrator) -> Outcome<Vec<Promise>> {
    let (otto, sven) = (&stage.players[ANONYMOUS], &stage.players[SEEDER]);
    let start = Instant::now();
    stage.want_unseen(ANONYMOUS, SEEDER, OVER_TWO_HOPS).await?;
    let wanted = [sven.share.torrent.info_hash()];
    let (mut seen, mut path) = (BTreeSet::new(), None);
    while !otto.has(&wanted).await? {
        seen.extend(sven.connections().await?.iter().map(|one| one.address.ip()));
        if path.is_none() {
            path = path_of(stage, otto).await?;
            if let Some(path) = &path {
                say.line(&format!("otto takes sven's file over two hops: otto -> {path} -> sven"));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    let exits: BTreeSet<IpAddr> = addresses(stage, Role::Exit);
    let hidden = !seen.is_empty() && seen.is_subset(&exits);
    let took = start.elapsed().as_secs_f64();
    say.line(&format!("otto has sven's file after {took:.1} s; sven only ever saw the exit"));
    let path = path.unwrap_or_else(|| "two relays".to_owned());
    Ok(vec![
        Promise::new(
            "a download over two hops arrives",
            true,
            format!("otto -> {path} -> sven, {took:.1} s"),
        ),
        Promise::new(
            "its seeder sees the exit and nobody behind it",
            hidden,
            format!("addresses seen: {}", listed(&seen)),
        ),
    ])
}

/// The hops of the first circuit for data that stands, by name.
async fn path_of(stage: &Stage, player: &Player) -> Outcome<Option<String>> {
    let circuits = player.circuits().await?;
    let stands = circuits.iter().find(|one| {
        matches!(one.purpose, CircuitUse::Data(_)) && one.state == CircuitState::Ready && one.path.len() == 2
    });
    let Some(circuit) = stands else { return Ok(None) };
    let mut names = Vec::new();
    for (key, ..) in &circuit.path {
        names.push(stage.tunnel_name(key).await?);
    }
    Ok(Some(names.join(" -> ")))
}

fn addresses(stage: &Stage, role: Role) -> BTreeSet<IpAddr> {
    stage.with(role).map(|player| IpAddr::from(player.actor.address)).collect()
}

fn listed(addresses: &BTreeSet<IpAddr>) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Hana serves without an address, and otto finds her without one.
pub(crate) async fn hidden(stage: &Stage, say: &Narrator) -> Outcome<Vec<Promise>> {
    let (otto, hana) = (&stage.players[ANONYMOUS], &stage.players[HIDDEN_SEEDER]);
    let start = Instant::now();
    stage.want_unseen(ANONYMOUS, HIDDEN_SEEDER, END_TO_END).await?;
    let hash = hana.share.torrent.info_hash();
    let mut seen = BTreeSet::new();
    while !otto.has(&[hash]).await? {
        for player in [hana, otto] {
            let of = player.connections().await?.into_iter().filter(|one| one.torrent == hash);
            seen.extend(of.map(|one| one.address));
        }
        tokio::time::sleep(LOOK).await;
    }
    let real: BTreeSet<IpAddr> = [hana, otto].map(|player| IpAddr::from(player.actor.address)).into();
    let nobody = !seen.is_empty() && seen.iter().all(|address| !real.contains(&address.ip()));
    let took = start.elapsed().as_secs_f64();
    say.line(&format!(
        "otto has hana's file after {took:.1} s; they met at a rendezvous, neither knows where the other is"
    ));
    Ok(vec![Promise::new(
        "a hidden seeder serves and stays hidden",
        nobody,
        format!("{took:.1} s; both saw only names of circuits"),
    )])
}

/// What relays carried is paid at the end of an epoch, together, long after the circuits.
pub(crate) async fn payouts(stage: &Stage, say: &Narrator) -> Outcome<Vec<Promise>> {
    let relays: Vec<&Player> = stage.with(Role::Relay).chain(stage.with(Role::Exit)).collect();
    loop {
        let mut paid = Vec::new();
        for relay in &relays {
            let got: u64 = relay.payouts().await?.iter().map(|view| view.paid_in).sum();
            if got > 0 {
                paid.push(format!("{} got {}", relay.actor.name, show::bytes(got)));
            }
        }
        let spent: u64 = stage.players[ANONYMOUS].payouts().await?.iter().map(|view| view.paid_out).sum();
        if !paid.is_empty() && spent > 0 {
            let detail = format!(
                "{}; otto paid {}, one block for each guard and epoch",
                paid.join(", "),
                show::bytes(spent)
            );
            say.line(&format!("an epoch of {EPOCH_S} s ended and relays are paid: {detail}"));
            return Ok(vec![Promise::new("relays are paid in a later epoch", true, detail)]);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Who stands well with anna, and why.
pub(crate) async fn standing(stage: &Stage, say: &Narrator) -> Outcome<Vec<Promise>> {
    let anna = &stage.players[0];
    loop {
        if let Some(reason) = anna.best_standing().await?
            && reason.direct > 0
            && reason.path.len() >= 2
        {
            let name = stage.name(&reason.reputation.key);
            let way: Vec<_> = reason.path.iter().map(|key| stage.name(key)).collect();
            let detail = format!(
                "{name} {:.2}, because it gave anna {}; way of trust {}",
                reason.reputation.score.value,
                show::bytes(reason.direct),
                way.join(" -> ")
            );
            say.line(&format!("who stands best with anna: {detail}"));
            return Ok(vec![Promise::new("standing has its reason", true, detail)]);
        }
        tokio::time::sleep(LOOK).await;
    }
}
