//! Many worlds with faults. `FAIRSHARE_SIM_SEEDS` says how many, `FAIRSHARE_SIM_FROM` with which seed they begin.

use fairshare_sim::{Adversaries, Adversary, Bug, Failure, Report, Scenario, run};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Worlds when nobody says how many.
const SEEDS: u64 = 4;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Shows a failure with everything that is needed to look at it.
fn show(failure: &Failure) -> String {
    format!("{failure}\nthe last events:\n{}", failure.events.join("\n"))
}

/// Runs the seeds on all cores; the reports by seed, or the failures.
fn run_all(from: u64, count: u64, scenario: &Scenario) -> Result<Vec<Report>, Vec<Failure>> {
    let next = AtomicU64::new(from);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<Result<Report, Failure>> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= from + count {
                    return done;
                }
                let outcome = run(seed, scenario.clone());
                if let Ok(report) = &outcome {
                    println!("{report}");
                }
                done.push(outcome);
            }
        };
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("a world panicked")).collect()
    });
    let (reports, failures): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    let failures: Vec<Failure> = failures.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(reports.into_iter().flatten().collect()) } else { Err(failures) }
}

#[test]
fn worlds_with_faults_keep_all_promises() {
    let (from, count) = (setting("FAIRSHARE_SIM_FROM", 1), setting("FAIRSHARE_SIM_SEEDS", SEEDS));
    match run_all(from, count, &Scenario::default()) {
        Ok(reports) => {
            let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
            println!(
                "{} worlds: {} crashes, {} files, {} payments, {} forks proved",
                reports.len(),
                sum(|report| report.crashes.into()),
                sum(|report| report.files.into()),
                sum(|report| report.payments.into()),
                sum(|report| report.forks as u64),
            );
            assert!(sum(|report| report.payments.into()) > 0, "worlds without payments prove nothing");
        }
        Err(failures) => {
            let shown: Vec<String> = failures.iter().map(show).collect();
            panic!("{} of {count} worlds broke a promise\n{}", failures.len(), shown.join("\n\n"));
        }
    }
}

#[test]
fn worlds_without_faults_count_every_byte() {
    let scenario = Scenario { faults: false, ..Scenario::default() };
    if let Err(failures) = run_all(1, 4, &scenario) {
        panic!("{}", failures.iter().map(show).collect::<Vec<_>>().join("\n\n"));
    }
}

/// A window of 4 MiB, 4 MiB in flight, and what a count may be late.
const LOSS_MAX: u64 = 9 << 20;

#[test]
fn who_never_pays_gets_one_window_and_no_more() {
    let scenario = Scenario {
        honest: 2..=2,
        file_bytes: 24 << 20..=24 << 20,
        adversaries: Adversaries::These(vec![Adversary::Defaulter]),
        faults: false,
        ..Scenario::default()
    };
    let report = run(1, scenario).unwrap_or_else(|failure| panic!("{}", show(&failure)));
    println!("{report}");
    assert!((4 << 20..LOSS_MAX).contains(&report.owed_bytes_max), "{report}");
}

#[test]
fn damaged_pieces_reach_no_file() {
    let scenario =
        Scenario { adversaries: Adversaries::These(vec![Adversary::Poisoner; 2]), ..Scenario::default() };
    match run_all(1, 3, &scenario) {
        Ok(reports) => assert!(reports.iter().any(|report| report.failed_pieces > 0), "nothing was damaged"),
        Err(failures) => panic!("{}", failures.iter().map(show).collect::<Vec<_>>().join("\n\n")),
    }
}

#[test]
fn one_seed_gives_one_digest() {
    let digest =
        |seed| run(seed, Scenario::default()).unwrap_or_else(|failure| panic!("{}", show(&failure))).digest;
    assert_eq!(digest(3), digest(3));
    assert_ne!(digest(3), digest(4));
}

#[test]
fn a_block_that_leaves_before_it_is_on_disk_is_seen_at_once() {
    let scenario = Scenario { bug: Some(Bug::SendBeforePersist), ..Scenario::default() };
    let failure = run(1, scenario).expect_err("the planted defect");
    assert!(failure.message.contains("before it was on disk"), "{}", show(&failure));
}

/// Seeds within which the consequences of the planted defect must show.
const SEEDS_TO_FIND: u64 = 20;

#[test]
fn sending_before_persisting_is_found_by_its_consequences_alone() {
    let scenario = Scenario { bug: Some(Bug::SendBeforePersist), watch_order: false, ..Scenario::default() };
    let found = (1..=SEEDS_TO_FIND).find_map(|seed| run(seed, scenario.clone()).err());
    let failure = found.expect("no seed found the planted defect");
    println!("found: {failure}");
    assert!(
        ["is lost", "twice", "convicted", "forker"].iter().any(|word| failure.message.contains(word)),
        "{}",
        show(&failure)
    );
}
