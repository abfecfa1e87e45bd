//! `fairshare sim`: complete nodes on a virtual network with faults. One seed is one world, and gives one digest.

use crate::cli::Sim;
use crate::failure::{Failure, Outcome};
use crate::print;
use fairshare_sim::{Report, Scenario};
use serde_json::{Value as Json, json};

pub(crate) fn run(args: &Sim) -> Outcome {
    let mut reports = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.worlds) {
        match fairshare_sim::run(seed, Scenario::default()) {
            Ok(report) => {
                if !args.json {
                    print::line(&report.to_string());
                }
                reports.push(report);
            }
            Err(failure) => return Err(broken(&failure, args.from)),
        }
    }
    if args.json {
        print::line(&reports.iter().map(form).collect::<Json>().to_string());
    }
    Ok(())
}

fn form(report: &Report) -> Json {
    json!({
        "seed": report.seed, "digest": format!("{:016x}", report.digest), "virtual_s": report.virtual_seconds,
        "machines": report.machines, "crashes": report.crashes, "files": report.files, "payments": report.payments,
        "paid_bytes": report.paid_bytes.to_string(), "carried_bytes": report.carried_bytes.to_string(),
        "forks": report.forks,
    })
}

/// Tells what happened last, from a virtual second on if one is named, and how to see it again.
fn broken(failure: &fairshare_sim::Failure, from: u64) -> Failure {
    let second = |line: &&String| line.trim().split('.').next().and_then(|text| text.parse::<u64>().ok());
    failure
        .events
        .iter()
        .filter(|line| second(line).is_none_or(|at| at >= from))
        .for_each(|line| eprintln!("{line}"));
    Failure::failed("promise", failure.to_string())
        .hint(format!("fairshare sim --seed {} shows it again, always the same", failure.seed))
}
