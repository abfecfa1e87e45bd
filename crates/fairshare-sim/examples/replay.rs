//! Runs one world again and shows what happened in it: `replay SEED [EVENTS]`. If it breaks a promise, the promise and
//! the last events are printed; else its sums.

use fairshare_sim::{Scenario, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter_map(|text| text.parse::<u64>().ok());
    let Some(seed) = arguments.next() else {
        eprintln!("replay SEED [EVENTS]");
        return ExitCode::FAILURE;
    };
    let mut scenario = Scenario::default();
    if let Some(events) = arguments.next() {
        scenario.events_kept = usize::try_from(events).unwrap_or(usize::MAX);
    }
    match run(seed, scenario) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{}\n{failure}", failure.events.join("\n"));
            ExitCode::FAILURE
        }
    }
}
