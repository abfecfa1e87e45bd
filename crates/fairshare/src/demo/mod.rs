//! The demo: sixteen real nodes, real files, real signatures, one story.

mod audit;
mod closing;
mod content;
mod fork;
mod receipt;
mod scenario;
mod stage;
mod story;
mod unseen;

use crate::api::{Api, EventLog, Server};
use crate::cli;
use crate::face::now_ms;
use crate::failure::{Failure, Outcome};
use crate::folder::Temporary;
use crate::print;
use crate::process::Interrupt;
use crate::show;
use crate::standing::token;
use fairshare_crypto::{Rng, sha256};
use receipt::{Promise, Receipt};
use serde_json::json;
use stage::Stage;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The page's port, and how many after it are tried.
const PORT: u16 = 8420;
const PORTS: u16 = 20;
/// A line about progress is told this often while nothing else happens.
const PROGRESS: Duration = Duration::from_secs(5);
/// Time that closing the books may take after the story.
const CLOSING: Duration = Duration::from_secs(30);
const RUNTIME_END: Duration = Duration::from_millis(200);

/// Tells the story on the terminal and in the page's event line.
pub(crate) struct Narrator {
    log: EventLog,
    start: Instant,
    /// With `--json` stdout belongs to the receipt.
    to_stderr: bool,
}

impl Narrator {
    /// Tells one line.
    pub(crate) fn line(&self, text: &str) {
        self.log.push(now_ms(), "story", "", json!({ "text": text }));
        let line = format!("{:6.1} s  {text}", self.start.elapsed().as_secs_f64());
        if self.to_stderr { eprintln!("{line}") } else { print::line(&line) }
    }
}

/// `fairshare demo`.
pub(crate) fn run(args: &cli::Demo) -> Outcome {
    let interrupt = Interrupt::listen()?;
    let temporary = if args.dir.is_none() { Some(Temporary::new("demo")?) } else { None };
    let dir = match (&args.dir, &temporary) {
        (Some(dir), _) => fresh(dir)?,
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => unreachable!("one of the two is there"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("runtime", format!("cannot start threads: {error}")))?;
    let receipt = runtime.block_on(perform(args, &dir, &interrupt));
    runtime.shutdown_timeout(RUNTIME_END);
    let receipt = receipt?;
    print::one(args.json, &receipt.to_json(), || receipt.to_text());
    if receipt.ok() { Ok(()) } else { Err(Failure::failed("promise", "a promise of the demo was broken")) }
}

/// A named folder must be new or empty: the demo never touches what it did not make.
fn fresh(dir: &Path) -> Outcome<PathBuf> {
    std::fs::create_dir_all(dir).map_err(|error| Failure::io(dir, &error))?;
    let mut entries = std::fs::read_dir(dir).map_err(|error| Failure::io(dir, &error))?;
    if entries.next().is_some() {
        return Err(Failure::bad_use("not-empty", format!("{} is not empty", dir.display()))
            .hint("name a folder that is empty or does not exist"));
    }
    std::path::absolute(dir).map_err(|error| Failure::io(dir, &error))
}

async fn perform(args: &cli::Demo, dir: &Path, interrupt: &Interrupt) -> Outcome<Receipt> {
    let start = Instant::now();
    let deadline = start + Duration::from_secs(args.minutes * 60);
    let log = EventLog::new();
    let say = Narrator { log: log.clone(), start, to_stderr: args.json };
    let rng = Rng::from_seed(sha256(format!("fairshare/demo/{}", args.seed).as_bytes()));
    let actors = scenario::actors();
    let shares = {
        let (dir, rng, actors, files) = (dir.to_owned(), rng.clone(), actors.clone(), args.files.clone());
        tokio::task::spawn_blocking(move || content::make(&dir, &actors, &rng, files.as_deref()))
            .await
            .map_err(|error| Failure::failed("demo", error.to_string()))??
    };
    let stage = Arc::new(Stage::start(dir, actors, shares, &rng, log).await?);
    let entry = open_page(&stage, dir).await?;
    say.line(&format!("sixteen nodes run on this machine; watch them at {entry}"));
    if !args.check && !args.no_browser {
        open_browser(&entry);
    }
    let end = tokio::time::Instant::from_std(deadline);
    let told = tokio::select! {
        told = tell(&stage, &say, end) => told?,
        () = interrupted(interrupt) => return Err(Failure::failed("interrupted", "interrupted before the story was over")),
    };
    let receipt = tokio::time::timeout(CLOSING, closing::close(&stage, told, start))
        .await
        .map_err(|_| Failure::failed("demo", "the books could not be closed in time"))??;
    if !args.check {
        say.line(&format!("the story is over; the page stays until {} min are over or Ctrl-C", args.minutes));
        tokio::select! {
            () = tokio::time::sleep_until(end) => {},
            () = interrupted(interrupt) => {},
        }
    }
    stage.stop().await;
    Ok(receipt)
}

/// All chapters side by side. A chapter that does not come to its end in time breaks its promise.
async fn tell(stage: &Arc<Stage>, say: &Narrator, end: tokio::time::Instant) -> Outcome<Vec<Promise>> {
    for index in 0..stage.players.len() {
        stage.open_torrents(index).await?;
    }
    say.line("honest nodes want each other's files; rick only takes; nobody knows anybody");
    let chapters = async {
        tokio::join!(
            in_time("honest nodes finish", end, story::trade(stage, say)),
            in_time(
                "the free-rider is refused, gives, and is served again",
                end,
                story::free_rider(stage, say)
            ),
            in_time("killed in the middle of a payment", end, story::crash(stage, say)),
            in_time("the forker is proved and cut off", end, story::forker(stage, say)),
            in_time("a download over two hops arrives", end, unseen::over_two_hops(stage, say)),
            in_time("a hidden seeder serves and stays hidden", end, unseen::hidden(stage, say)),
            in_time("relays are paid in a later epoch", end, unseen::payouts(stage, say)),
            in_time("standing has its reason", end, unseen::standing(stage, say)),
        )
    };
    tokio::select! {
        (trade, free_rider, crash, forker, hops, hidden, payouts, standing) = chapters => {
            Ok([trade, free_rider, crash, forker, hops, hidden, payouts, standing].concat())
        }
        () = report_progress(stage, say) => unreachable!("progress is told for ever"),
    }
}

async fn in_time(
    name: &'static str,
    end: tokio::time::Instant,
    chapter: impl Future<Output = Outcome<Vec<Promise>>>,
) -> Vec<Promise> {
    match tokio::time::timeout_at(end, chapter).await {
        Ok(Ok(promises)) => promises,
        Ok(Err(failure)) => vec![Promise::new(name, false, failure.what)],
        Err(_) => vec![Promise::new(name, false, "not within the given minutes")],
    }
}

async fn report_progress(stage: &Stage, say: &Narrator) {
    loop {
        tokio::time::sleep(PROGRESS).await;
        let moved = stage.moved().await;
        let mut lines = Vec::new();
        for player in stage.players.iter().filter(|player| player.actor.role.is_open()) {
            let wanted: u64 =
                player.actor.wants.iter().map(|whose| stage.players[*whose].actor.file_bytes).sum();
            let held = player.held().await.unwrap_or(0);
            lines.push(format!("{} {} %", player.actor.name, held * 100 / wanted.max(1)));
        }
        say.line(&format!("{} moved: {}", show::bytes(moved.payload), lines.join(", ")));
    }
}

/// The page over all nodes, at the first free port. Returns the address to open.
async fn open_page(stage: &Stage, dir: &Path) -> Outcome<String> {
    let token = token()?;
    let mut last = None;
    for port in PORT..PORT + PORTS {
        match Server::bind(SocketAddr::from(([127, 0, 0, 1], port)), &token).await {
            Ok(server) => {
                let entry = server.entry();
                server.serve(Arc::new(Api {
                    title: "demo".to_owned(),
                    faces: stage.players.iter().map(|player| player.face.clone()).collect(),
                    log: stage.log.clone(),
                    downloads: dir.join("added"),
                    config: json!({}),
                }));
                return Ok(entry);
            }
            Err(failure) => last = Some(failure),
        }
    }
    Err(last.expect("at least one port was tried"))
}

/// Opens the page where there is a desktop; the address was printed in any case.
fn open_browser(entry: &str) {
    let desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    if desktop {
        let quiet = || std::process::Stdio::null();
        // Without the program there is no desktop worth the name.
        let _ = std::process::Command::new("xdg-open")
            .arg(entry)
            .stdin(quiet())
            .stdout(quiet())
            .stderr(quiet())
            .spawn();
    }
}

async fn interrupted(interrupt: &Interrupt) {
    let waiting = interrupt.clone();
    // The thread ends with the process if nobody interrupts.
    let _ = tokio::task::spawn_blocking(move || waiting.wait()).await;
}
