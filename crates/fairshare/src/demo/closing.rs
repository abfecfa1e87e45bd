//! The end of the story: everything is settled, the books are read, the files are compared.

use crate::demo::audit::{self, Report};
use crate::demo::content;
use crate::demo::receipt::{Promise, Receipt};
use crate::demo::scenario::Role;
use crate::demo::stage::{Moved, Player, Stage};
use crate::failure::{Failure, Outcome};
use crate::show;
use fairshare_crypto::PublicKey;
use fairshare_node::{Command, Node};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// So long the last payments may take.
const SETTLE_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// The books are read so often before their sum counts.
const READINGS_MAX: usize = 10;
/// Everything that is not file contents stays below this share of it, in 1/10,000.
const OVERHEAD_MAX: u64 = 100;

/// Settles, reads the books and adds the promises that only the end can show.
pub(crate) async fn close(stage: &Stage, mut promises: Vec<Promise>, start: Instant) -> Outcome<Receipt> {
    settle(stage).await?;
    let report = read_books(stage).await?;
    let moved = stage.moved().await;
    promises.extend(bookkeeping(stage, &report));
    promises.push(overhead(&open_moved(stage).await));
    promises.push(files(stage).await?);
    let mut frauds = BTreeSet::new();
    for player in stage.with(Role::Honest) {
        frauds.extend(player.proofs().await?.iter().map(|proof| *proof.accused()));
    }
    Ok(Receipt {
        promises,
        bytes_moved: moved.payload,
        bytes_paid: report.paid_bytes(),
        balance_sum: report.balance_sum,
        refusals: stage.players.iter().map(|player| player.face.refusals().len()).sum(),
        frauds_proved: frauds.len(),
        wall: start.elapsed(),
    })
}

/// Reads all books. Relays are paid by the clock, also now: a payment that was signed between the readings of its two
/// books is read whole the next time.
async fn read_books(stage: &Stage) -> Outcome<Report> {
    let mut tries = 0;
    loop {
        let mut books = Vec::new();
        for player in &stage.players {
            books.push((player.public_key(), player.books().await?));
        }
        let report = audit::audit(&books);
        tries += 1;
        if report.balance_sum == 0 || tries == READINGS_MAX {
            return Ok(report);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What those moved who trade in the open: in circuits each byte travels several times.
async fn open_moved(stage: &Stage) -> Moved {
    let mut sum = Moved::default();
    for player in stage.players.iter().filter(|player| player.actor.role.is_open()) {
        let one = player.moved().await;
        sum = Moved { sent: sum.sent + one.sent, payload: sum.payload + one.payload };
    }
    sum
}

/// Everybody pays what can be paid; then it waits until all answers are here.
async fn settle(stage: &Stage) -> Outcome {
    let honest: Vec<&Player> =
        stage.players.iter().filter(|player| player.actor.role != Role::Forker).collect();
    for player in &honest {
        player.tell(Command::SettleAll).await?;
    }
    let end = Instant::now() + SETTLE_MAX;
    while Instant::now() < end {
        let mut busy = false;
        for player in &honest {
            let node = player.face.node().ok_or_else(|| Failure::failed("demo", "a node is not running"))?;
            busy |= node.query(Node::has_unfinished_business).await.unwrap_or(true);
        }
        if !busy {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn bookkeeping(stage: &Stage, report: &Report) -> Vec<Promise> {
    let forkers: BTreeSet<_> = stage.with(Role::Forker).map(Player::public_key).collect();
    let honest = |key: &PublicKey| !forkers.contains(key);
    let unanswered =
        report.unanswered().filter(|(payer, provider)| honest(payer) && honest(provider)).count();
    let paid = report.paid().count();
    let faults = if report.faults.is_empty() { "no fault".to_owned() } else { report.faults.join("; ") };
    vec![
        Promise::new(
            "every payment has both signatures",
            paid > 0 && unanswered == 0,
            format!("{paid} payments of {}, {unanswered} unanswered", show::bytes(report.paid_bytes())),
        ),
        Promise::new("nothing is paid twice, no number is used twice", report.faults.is_empty(), faults),
        Promise::new(
            "all balances add up to zero",
            report.balance_sum == 0,
            show::tokens(report.balance_sum),
        ),
    ]
}

/// Headers, signed counts, grants, blocks, gossip: all that is sent and is no file content.
fn overhead(moved: &Moved) -> Promise {
    let rest = moved.sent.saturating_sub(moved.payload);
    let share = u128::from(rest) * 10_000 / u128::from(moved.payload.max(1));
    let detail = format!(
        "{} beside {} of file contents: {}.{:02} %",
        show::bytes(rest),
        show::bytes(moved.payload),
        share / 100,
        share % 100
    );
    Promise::new("accounting costs less than 1 % of the bytes", share < u128::from(OVERHEAD_MAX), detail)
}

/// Every file that was wanted has arrived byte for byte.
async fn files(stage: &Stage) -> Outcome<Promise> {
    let mut wanted = Vec::new();
    for player in &stage.players {
        let unseen = player.actor.wants_unseen.iter().map(|(whose, _)| whose);
        for whose in player.actor.wants.iter().chain(unseen) {
            for (path, hash) in &stage.players[*whose].share.files {
                wanted.push((player.downloads().join(path), *hash));
            }
        }
    }
    let compared = tokio::task::spawn_blocking(move || {
        let right = |(path, hash): &(std::path::PathBuf, [u8; 20])| {
            content::hash_of(path).is_ok_and(|found| found == *hash)
        };
        (wanted.iter().filter(|one| right(one)).count(), wanted.len())
    });
    let (right, all) = compared.await.map_err(|error| Failure::failed("demo", error.to_string()))?;
    Ok(Promise::new("every file arrived intact", right == all, format!("{right} of {all} files")))
}
