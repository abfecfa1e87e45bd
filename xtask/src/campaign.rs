//! `campaign NAME`: the full counts of what `test` runs at a tenth. The output opens with the date and the commit, so
//! that it can be quoted as it is.

use crate::arguments::Arguments;
use crate::counts::{Counts, stream};
use crate::{test, workspace};
use std::process::Command;

const KILLS: &str = "100";
const SIM_SEEDS: &str = "200";
const SIGNATURES_EACH_WAY: &str = "50";

/// The task.
pub(crate) fn run(mut arguments: Arguments) -> Result<bool, String> {
    let name = arguments.word().ok_or("campaign needs a name: kill, sim or interop")?;
    arguments.finish()?;
    let mut command = match name.as_str() {
        "kill" => named_test("fairshare", "kill", ("FAIRSHARE_KILLS", KILLS)),
        "sim" => {
            let mut cargo = test::cargo_test(&["--release", "--package", "fairshare-sim", "--tests"], true);
            cargo.args(["--", "--nocapture"]).env("FAIRSHARE_SIM_SEEDS", SIM_SEEDS);
            cargo
        }
        "interop" => {
            let mut cargo = test::interop_command(true, false);
            cargo.arg("--nocapture").env("FAIRSHARE_INTEROP_SIGNATURES", SIGNATURES_EACH_WAY);
            cargo
        }
        other => return Err(format!("no campaign is called {other}; there are kill, sim and interop")),
    };
    println!("campaign {name}");
    said(Command::new("date").args(["--utc", "+%Y-%m-%d %H:%M UTC"]));
    said(Command::new("git").current_dir(workspace::root()).args(["log", "-1", "--format=commit %h %s"]));
    let counts = Counts::of_tests(&mut command);
    println!("{counts}");
    Ok(counts.is_good(true))
}

fn named_test(package: &str, test: &str, (variable, value): (&str, &str)) -> Command {
    let mut cargo = test::cargo_test(&["--package", package, "--test", test], true);
    cargo.args(["--", "--nocapture"]).env(variable, value);
    cargo
}

/// A line about this run; a machine without the program loses the line and nothing else.
fn said(command: &mut Command) {
    if !stream(command, |_| {}) {
        println!("unknown");
    }
}
