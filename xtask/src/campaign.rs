//! `campaign NAME`: the full counts of what `test` runs at a tenth. The output opens with the date and the commit, so
//! that it can be quoted as it is.

use crate::arguments::Arguments;
use crate::counts::{Counts, stream};
use crate::{test, workspace};
use std::process::Command;

const KILLS: &str = "100";
const SIM_SEEDS: &str = "200";
const SIGNATURES_EACH_WAY: &str = "50";
/// Of a file that goes through circuits.
const CIRCUIT_MIB: &str = "64";
const PAYOUT_EPOCHS: &str = "20";
/// Of each hop and each direction.
const TUNNEL_CELLS: &str = "1000000";

/// The task.
pub(crate) fn run(mut arguments: Arguments) -> Result<bool, String> {
    let name = arguments.word().ok_or("campaign needs a name: kill, sim, interop, payouts or tunnel")?;
    arguments.finish()?;
    let mut command = match name.as_str() {
        "kill" => named_test("fairshare", "kill", &[], ("FAIRSHARE_KILLS", KILLS)),
        "payouts" => {
            let only = ["--release", "fifty_nodes_and_twenty_epochs"];
            named_test("fairshare-economy", "payouts", &only, ("FAIRSHARE_PAYOUT_EPOCHS", PAYOUT_EPOCHS))
        }
        "tunnel" => {
            let only = ["--release", "no_key_seals_twice_with_one_counter"];
            named_test("fairshare-tunnel", "ring", &only, ("FAIRSHARE_TUNNEL_CELLS", TUNNEL_CELLS))
        }
        "sim" => {
            let mut cargo = test::cargo_test(&["--release", "--package", "fairshare-sim", "--tests"], true);
            cargo.args(["--", "--nocapture"]).env("FAIRSHARE_SIM_SEEDS", SIM_SEEDS);
            cargo
        }
        "interop" => {
            let mut cargo = test::interop_command(true, false);
            cargo.arg("--nocapture").env("FAIRSHARE_INTEROP_SIGNATURES", SIGNATURES_EACH_WAY);
            cargo.env("FAIRSHARE_CIRCUIT_MIB", CIRCUIT_MIB);
            cargo
        }
        other => {
            return Err(format!(
                "no campaign is called {other}; there are kill, sim, interop, payouts and tunnel"
            ));
        }
    };
    println!("campaign {name}");
    said(Command::new("date").args(["--utc", "+%Y-%m-%d %H:%M UTC"]));
    said(Command::new("git").current_dir(workspace::root()).args(["log", "-1", "--format=commit %h %s"]));
    let counts = Counts::of_tests(&mut command);
    println!("{counts}");
    Ok(counts.is_good(true))
}

fn named_test(package: &str, test: &str, only: &[&str], (variable, value): (&str, &str)) -> Command {
    let mut cargo = test::cargo_test(&["--package", package, "--test", test], true);
    cargo.args(only).args(["--", "--nocapture"]).env(variable, value);
    cargo
}

/// A line about this run; a machine without the program loses the line and nothing else.
fn said(command: &mut Command) {
    if !stream(command, |_| {}) {
        println!("unknown");
    }
}
