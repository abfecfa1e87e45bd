//! Tasks of the project, `cargo xtask NAME`: what a person runs and what CI runs are the same commands.
//!
//! Nothing here is part of the product. Each task prints what it does and ends with an honest exit code:
//! 0 when everything it promises held, 1 when something did not, 2 when it was called wrongly.

mod arguments;
mod bench;
mod campaign;
mod counts;
mod setup;
mod test;
mod tidy;
mod vectors;
mod workspace;

use arguments::Arguments;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK [options]

  setup [--yes]                       install what the tests need, once, into the user's cache folder
  test [GROUP]... [--require-all]     run all groups or the named ones; a skip fails with --require-all
  tidy [--report]                     layers, purity, file and function length, banned words, spec anchors
  vectors [--dir D]                   check the vector files of a folder (default tests/vectors)
  bench NAME [--json]                 figures and ratios of one run (first-light, trust, tunnel)
  campaign NAME                       the full counts of a test that `test` runs at a tenth
                                      (kill, sim, interop, payouts, tunnel)";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_environment();
    let outcome = match arguments.word().as_deref() {
        Some("setup") => setup::run(arguments),
        Some("test") => test::run(arguments),
        Some("tidy") => tidy::run(arguments),
        Some("vectors") => vectors::run(arguments),
        Some("bench") => bench::run(arguments),
        Some("campaign") => campaign::run(arguments),
        Some("help") => {
            println!("{USAGE}");
            Ok(true)
        }
        Some(other) => Err(format!("no task is called {other}\n\n{USAGE}")),
        None => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
