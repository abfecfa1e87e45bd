//! The story, in chapters that run side by side and wait for each other only where the plot demands it.

use crate::demo::Narrator;
use crate::demo::fork;
use crate::demo::receipt::Promise;
use crate::demo::scenario::{FORKER, FREE_RIDER, KILLED, Role, STRANGER_BYTES, STRANGER_REAL_BYTES};
use crate::demo::stage::{Player, Stage};
use crate::failure::{Failure, Outcome};
use crate::show;
use fairshare_crypto::PublicKey;
use fairshare_ledger::{HalfBlock, LedgerEvent};
use fairshare_node::{Command, Event};
use fairshare_overlay::community;
use fairshare_swarm::{InfoHash, RefusalReason};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// The killed node must have this much at stake before it is killed.
const AT_STAKE: u64 = 16 << 20;
/// A kill may come a moment too late, after the answer; then the next payment is taken.
const KILLS_MAX: usize = 20;
/// The free-rider is refused for good when it gets nothing and this many providers said why, or when it got nothing
/// for so long that each provider's choker had its round.
const REFUSING: usize = 3;
const STUCK: Duration = Duration::from_secs(2);
const STUCK_MAX: Duration = Duration::from_secs(12);
/// So long the forker is watched after it was cut off.
const WATCHED: Duration = Duration::from_secs(3);
/// A pause between steps that the page should have time to show.
const BEAT: Duration = Duration::from_millis(500);

/// Tries until `look` gives something.
async fn until<T, F>(mut look: impl FnMut() -> F) -> Outcome<T>
where
    F: Future<Output = Outcome<Option<T>>>,
{
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn hashes(stage: &Stage, indices: &[usize]) -> Vec<InfoHash> {
    indices.iter().map(|index| stage.players[*index].share.torrent.info_hash()).collect()
}

/// Trade among honest strangers: from the first pair of signatures to the last file.
pub(crate) async fn trade(stage: &Stage, say: &Narrator) -> Outcome<Vec<Promise>> {
    let pair = until(|| first_pair(stage)).await?;
    let (payer, provider) = (stage.name(&pair.owner), stage.name(&pair.link_owner));
    say.line(&format!(
        "both signed: {payer} took from {provider} and pays; both halves of the block are on disk"
    ));
    say.line(&format!("balances move: {}", balances(stage, [&pair.owner, &pair.link_owner]).await?));
    let start = Instant::now();
    let mut done = Vec::new();
    for player in stage.with(Role::Honest) {
        let wants = hashes(stage, &player.actor.wants);
        until(async || Ok(player.has(&wants).await?.then_some(()))).await?;
        done.push(player.actor.name);
        say.line(&format!("{} has everything it wanted", player.actor.name));
    }
    let detail =
        format!("{}, {:.1} s after the first payment", done.join(", "), start.elapsed().as_secs_f64());
    Ok(vec![Promise::new("honest nodes finish", true, detail)])
}

/// What these nodes gave less what they took, in tokens, by their own newest blocks.
async fn balances<'a>(stage: &Stage, keys: impl IntoIterator<Item = &'a PublicKey>) -> Outcome<String> {
    let mut parts = Vec::new();
    for key in keys {
        let Some(player) = stage.players.iter().find(|player| player.public_key() == *key) else { continue };
        let status = player.status().await?;
        let balance = i128::from(status.total_up) - i128::from(status.total_down);
        parts.push(format!("{} {}", player.actor.name, show::tokens(balance)));
    }
    Ok(parts.join(", "))
}

async fn first_pair(stage: &Stage) -> Outcome<Option<Arc<HalfBlock>>> {
    for player in stage.with(Role::Honest) {
        for block in player.chain(1).await.unwrap_or_default() {
            if block.is_proposal() && player.linked(block.sequence).await.unwrap_or_default().is_some() {
                return Ok(Some(block));
            }
        }
    }
    Ok(None)
}

/// The free-rider: allowance, refusal with the numbers, giving, service again.
pub(crate) async fn free_rider(stage: &Stage, say: &Narrator) -> Outcome<Vec<Promise>> {
    let rick = &stage.players[FREE_RIDER];
    let refusing = refused_for_good(stage, rick).await?;
    let allowance = allowance(stage, rick).await?;
    let (provider, need) =
        refusing.iter().next().map(|(key, need)| (stage.name(key), *need)).unwrap_or_default();
    say.line(&format!(
        "{} took {} as a newcomer and is refused by {} providers; {provider} says: receipts for {}, or give it {}",
        rick.actor.name,
        show::bytes(rick.held().await?),
        refusing.len(),
        show::bytes(need),
        show::bytes(need.div_ceil(fairshare_economy::MU)),
    ));
    tokio::time::sleep(BEAT).await;
    let before = rick.held().await?;
    let wants = hashes(stage, &rick.actor.wants);
    let unfinished = !rick.has(&wants).await?;
    rick.tell(Command::SetUpload(true)).await?;
    say.line(&format!("{} begins to give", rick.actor.name));
    let grown = until(async || Ok(Some(rick.held().await?).filter(|held| *held > before))).await?;
    say.line(&format!("{} is served again: {} more", rick.actor.name, show::bytes(grown - before)));
    until(async || Ok(rick.has(&wants).await?.then_some(()))).await?;
    say.line(&format!("{} has everything it wanted, by giving", rick.actor.name));
    Ok(vec![
        allowance,
        Promise::new(
            "the free-rider is refused with the numbers",
            unfinished && !refusing.is_empty() && refusing.values().all(|need| *need > 0),
            format!("{} providers; the first wants {} in receipts", refusing.len(), show::bytes(need)),
        ),
        Promise::new(
            "whoever gives is served again",
            true,
            format!("{} after giving", show::bytes(grown - before)),
        ),
    ])
}

/// Waits until the free-rider has been without progress for a while and knows why: who refuses, and what each wants.
async fn refused_for_good(stage: &Stage, rick: &Player) -> Outcome<BTreeMap<PublicKey, u64>> {
    let wants = hashes(stage, &rick.actor.wants);
    let (mut held, mut since) = (0, Instant::now());
    loop {
        let now = rick.held().await?;
        if now != held {
            (held, since) = (now, Instant::now());
        }
        let refusing: BTreeMap<PublicKey, u64> = wants
            .iter()
            .flat_map(|torrent| rick.face.refusing(torrent))
            .filter(|(_, why)| matches!(why.reason, RefusalReason::Balance | RefusalReason::StrangerLimit))
            .map(|(provider, why)| (provider, why.details.map_or(0, |details| details.need)))
            .collect();
        let stuck = since.elapsed();
        let told = stuck >= STUCK && refusing.len() >= REFUSING || stuck >= STUCK_MAX && !refusing.is_empty();
        if held > 0 && told {
            return Ok(refusing);
        }
        if rick.has(&wants).await? {
            return Err(Failure::failed("demo", "the free-rider finished without giving anything"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// No provider charged the free-rider more than a stranger gets.
async fn allowance(stage: &Stage, rick: &Player) -> Outcome<Promise> {
    let mut most = (0, 0, "nobody");
    for provider in stage.players.iter().filter(|player| player.actor.role != Role::FreeRider) {
        if let Some(view) = provider.accounts().await?.get(&rick.public_key()) {
            let charged = view.account.theirs.charged + view.account.theirs.h_own;
            most = most.max((charged, view.verified, provider.actor.name));
        }
    }
    let (charged, real, who) = most;
    let detail = format!(
        "at most {} charged, {} real, at {who}; allowed are {} charged, {} real",
        show::bytes(charged),
        show::bytes(real),
        show::bytes(STRANGER_BYTES),
        show::bytes(STRANGER_REAL_BYTES),
    );
    Ok(Promise::new(
        "a newcomer gets its allowance and no more",
        charged > 0 && charged <= STRANGER_BYTES,
        detail,
    ))
}

/// One node dies in the middle of a payment and comes back.
pub(crate) async fn crash(stage: &Stage, say: &Narrator) -> Outcome<Vec<Promise>> {
    let dina = &stage.players[KILLED];
    until(async || Ok((dina.held().await? >= AT_STAKE).then_some(()))).await?;
    for kill in 1..=KILLS_MAX {
        let proposal = kill_at_the_next_payment(dina).await?;
        tokio::time::sleep(BEAT).await;
        dina.start_again(&stage.log).await?;
        let interrupted = dina.linked(proposal.sequence).await?.is_none();
        let same =
            dina.chain(proposal.sequence).await?.first().map(|block| block.hash()) == Some(proposal.hash());
        stage.open_torrents(KILLED).await?;
        if !same {
            let detail =
                format!("block {} is not the one that was signed before the crash", proposal.sequence);
            return Ok(vec![Promise::new("killed in the middle of a payment", false, detail)]);
        }
        if !interrupted {
            continue;
        }
        let name = dina.actor.name;
        say.line(&format!(
            "{name} was killed after it signed payment {} to {} and before the answer; it is back with the same chain",
            proposal.sequence,
            stage.name(&proposal.link_owner),
        ));
        until(async || dina.linked(proposal.sequence).await).await?;
        say.line(&format!("the same block was sent again and answered: {name} paid once"));
        let detail = format!("{name}, block {}, answered after the restart (kill {kill})", proposal.sequence);
        return Ok(vec![Promise::new("killed in the middle of a payment", true, detail)]);
    }
    let detail = format!("{KILLS_MAX} kills, each after the answer");
    Ok(vec![Promise::new("killed in the middle of a payment", false, detail)])
}

/// Kills the node as soon as one of its payments is on disk.
async fn kill_at_the_next_payment(player: &Player) -> Outcome<Arc<HalfBlock>> {
    let node = player.face.node().ok_or_else(|| Failure::failed("demo", "the node is not running"))?;
    let mut events = node.events();
    player.moved().await;
    loop {
        match events.next().await {
            Some(Event::Ledger(LedgerEvent::Signed(block))) if block.is_proposal() => {
                node.kill().await;
                drop(node);
                player.kill().await;
                return Ok(block);
            }
            Some(_) => {}
            None => return Err(Failure::failed("demo", "the node stopped by itself")),
        }
    }
}

/// The forker: it signs twice, is proved, and is cut off everywhere.
pub(crate) async fn forker(stage: &Stage, say: &Narrator) -> Outcome<Vec<Promise>> {
    let zoe = &stage.players[FORKER];
    let own = [zoe.share.torrent.info_hash()];
    let wants = hashes(stage, &zoe.actor.wants);
    until(async || {
        for player in stage.with(Role::Honest) {
            if !player.has(&own).await? {
                return Ok(None);
            }
        }
        Ok(zoe.has(&wants).await?.then_some(()))
    })
    .await?;
    let first = until(async || newest_answered(zoe).await).await?;
    let second = fork::second_block(zoe.secret_key(), &first);
    let partner = stage.players.iter().position(|player| player.public_key() == first.link_owner);
    let witness = (0..stage.players.len()).find(|index| Some(*index) != partner && *index != FORKER);
    let to: Vec<_> = partner.into_iter().chain(witness).map(|index| stage.address(index)).collect();
    let start = Instant::now();
    fork::send(&second, community::TRUSTCHAIN, zoe.actor.address, &to)
        .map_err(|error| Failure::failed("demo", format!("the second block was not sent: {error}")))?;
    say.line(&format!(
        "{} signed a second block with number {} and sent it to two nodes",
        zoe.actor.name, first.sequence
    ));
    let others: Vec<_> = stage.players.iter().filter(|player| player.actor.role != Role::Forker).collect();
    until(async || {
        for player in &others {
            if !player.proofs().await?.iter().any(|proof| *proof.accused() == zoe.public_key()) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    let spread = start.elapsed().as_secs_f64();
    say.line(&format!(
        "both blocks are proof enough: all {} other nodes know after {spread:.1} s",
        others.len()
    ));
    let proved = Promise::new(
        "the fork is proved to everybody",
        true,
        format!("{} nodes in {spread:.1} s", others.len()),
    );
    Ok(vec![proved, cut_off(stage, say).await?])
}

/// The newest own proposal, once it is answered: the forker leaves no debts when it forks.
async fn newest_answered(player: &Player) -> Outcome<Option<Arc<HalfBlock>>> {
    let newest = player.chain(1).await?.into_iter().rfind(|block| block.is_proposal());
    let Some(block) = newest else { return Ok(None) };
    Ok(player.linked(block.sequence).await?.map(|_| block))
}

/// The proved forker wants one more file and gets nothing of it.
async fn cut_off(stage: &Stage, say: &Narrator) -> Outcome<Promise> {
    let zoe = &stage.players[FORKER];
    let held = zoe.held().await?;
    for whose in zoe.actor.wants_later.clone() {
        stage.want(FORKER, whose).await?;
    }
    let later = hashes(stage, &zoe.actor.wants_later);
    tokio::time::sleep(WATCHED).await;
    let refusals: Vec<_> = later.iter().flat_map(|torrent| zoe.face.refusing(torrent)).collect();
    let fraud = refusals.iter().filter(|(_, why)| why.reason == RefusalReason::Fraud).count();
    let after = zoe.held().await?;
    say.line(&format!(
        "{} asks for one more file: {fraud} providers answer \"fraud\", nobody serves it",
        zoe.actor.name
    ));
    let detail = format!(
        "refused for fraud by {fraud} providers, {} after the proof",
        show::bytes(after.saturating_sub(held))
    );
    Ok(Promise::new("the forker is cut off", after == held && fraud > 0, detail))
}
