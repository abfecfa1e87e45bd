//! `test`: everything that must hold, group by group, with one exit code and one closing line.

use crate::arguments::Arguments;
use crate::counts::{Counts, stream};
use crate::{setup, tidy, vectors, workspace};
use cargo_metadata::MetadataCommand;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// A tenth of the full counts of the campaigns, which `cargo xtask campaign` runs.
const SIM_SEEDS: &str = "20";
const KILLS: &str = "10";
/// Minutes the demo may take before its promises count as broken.
const DEMO_MINUTES: &str = "3";

/// Test targets of the binary that have a group of their own.
const OWN_GROUPS: [&str; 6] =
    ["kill", "interop_ipv8", "interop_libtorrent", "interop_tunnel", "interop_utp", "leak"];

/// The targets of the interop group: against living peers, and in network namespaces.
const INTEROP_TARGETS: [&str; 5] =
    ["interop_ipv8", "interop_libtorrent", "interop_tunnel", "interop_utp", "leak"];

/// Choices that hold for the whole run.
pub(crate) struct Choice {
    require_all: bool,
    yes: bool,
}

type Group = (&'static str, fn(&Choice) -> Counts);

/// Cheap ones first, so that a mistake shows early.
const GROUPS: [Group; 11] = [
    ("fmt", fmt),
    ("tidy", tidy_group),
    ("clippy", clippy),
    ("doc", doc),
    ("vectors", vectors_group),
    ("unit", unit),
    ("sim", sim),
    ("kill", kill),
    ("interop", interop),
    ("demo", demo),
    ("deny", deny),
];

/// The task.
pub(crate) fn run(mut arguments: Arguments) -> Result<bool, String> {
    let choice = Choice { require_all: arguments.switch("--require-all"), yes: arguments.switch("--yes") };
    let wanted = arguments.words();
    arguments.finish()?;
    if let Some(unknown) = wanted.iter().find(|name| GROUPS.iter().all(|(known, _)| known != name)) {
        let known = GROUPS.map(|(name, _)| name).join(" ");
        return Err(format!("no group is called {unknown}; there are: {known}"));
    }
    let chosen =
        GROUPS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| word == name));
    let results = chosen.map(|group| timed(group, &choice)).collect::<Vec<_>>();

    println!();
    let mut total = Counts::default();
    for (name, counts, time) in &results {
        println!("{name:8} {:7.1} s  {counts}", time.as_secs_f64());
        total += *counts;
    }
    // Read by whoever started this: it stands alone and last.
    println!("{total}");
    Ok(total.is_good(choice.require_all))
}

fn timed((name, group): &Group, choice: &Choice) -> (&'static str, Counts, Duration) {
    println!("== {name}");
    let start = Instant::now();
    let counts = group(choice);
    (name, counts, start.elapsed())
}

/// One check that is a command; it shows its own output.
fn command_passes(command: &mut Command) -> Counts {
    Counts::one(stream(command, |_| {}))
}

/// A `cargo test`, told whether a skip is allowed.
pub(crate) fn cargo_test(arguments: &[&str], require_all: bool) -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--locked", "--no-fail-fast"]).args(arguments);
    if require_all {
        cargo.env("FAIRSHARE_REQUIRE_ALL", "1");
    }
    cargo
}

fn fmt(_: &Choice) -> Counts {
    command_passes(workspace::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy(_: &Choice) -> Counts {
    let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
    command_passes(workspace::cargo().args(arguments))
}

fn doc(_: &Choice) -> Counts {
    let arguments = ["doc", "--workspace", "--no-deps", "--locked", "--quiet"];
    command_passes(workspace::cargo().args(arguments).env("RUSTDOCFLAGS", "-D warnings"))
}

fn tidy_group(_: &Choice) -> Counts {
    or_failed(tidy::check(false))
}

fn vectors_group(_: &Choice) -> Counts {
    or_failed(vectors::check_folder(&vectors::default_folder()))
}

fn or_failed(outcome: Result<Counts, String>) -> Counts {
    outcome.unwrap_or_else(|reason| {
        println!("{reason}");
        Counts::one(false)
    })
}

/// Unit tests, properties, documentation examples and the integration tests that have no group of their own.
fn unit(choice: &Choice) -> Counts {
    let targets = match integration_tests() {
        Ok(targets) => targets,
        Err(reason) => return or_failed(Err(reason)),
    };
    let mut arguments = vec!["--workspace", "--exclude", "fairshare-sim", "--lib", "--bins"];
    targets.iter().for_each(|target| arguments.extend(["--test", target.as_str()]));
    let mut counts = Counts::of_tests(&mut cargo_test(&arguments, choice.require_all));
    counts += Counts::of_tests(&mut cargo_test(&["--workspace", "--doc"], choice.require_all));
    counts
}

/// The names of the integration tests for the unit group, as cargo knows them, so that a new one is never forgotten.
fn integration_tests() -> Result<Vec<String>, String> {
    let mut command = MetadataCommand::new();
    let metadata = command.current_dir(workspace::root()).no_deps().exec();
    let metadata = metadata.map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata.packages.iter().filter(|package| package.name.as_str() != "fairshare-sim");
    let targets = packages.flat_map(|package| &package.targets).filter(|target| target.is_test());
    Ok(targets
        .map(|target| target.name.clone())
        .filter(|name| !OWN_GROUPS.contains(&name.as_str()))
        .collect())
}

fn sim(choice: &Choice) -> Counts {
    let mut cargo = cargo_test(&["--package", "fairshare-sim", "--tests"], choice.require_all);
    Counts::of_tests(cargo.env("FAIRSHARE_SIM_SEEDS", SIM_SEEDS))
}

fn kill(choice: &Choice) -> Counts {
    let mut cargo = cargo_test(&["--package", "fairshare", "--test", "kill"], choice.require_all);
    Counts::of_tests(cargo.env("FAIRSHARE_KILLS", KILLS))
}

fn interop(choice: &Choice) -> Counts {
    let mut cargo = interop_command(choice.require_all, choice.yes);
    Counts::of_tests(&mut cargo)
}

/// The tests against living peers, which are installed first.
pub(crate) fn interop_command(require_all: bool, yes: bool) -> Command {
    let mut tests = vec!["--package", "fairshare"];
    INTEROP_TARGETS.iter().for_each(|target| tests.extend(["--test", *target]));
    let mut cargo = cargo_test(&tests, require_all);
    // One at a time: each starts peers of its own and moves hundreds of megabytes.
    cargo.args(["--", "--test-threads=1"]);
    match setup::peers(yes) {
        Ok(folder) => {
            cargo.env("FAIRSHARE_INTEROP_DIR", folder);
        }
        // Without the folder the tests skip themselves, or fail where nothing may be skipped.
        Err(reason) => println!("the living peers cannot be installed: {reason}"),
    }
    if let Err(reason) = setup::network_tools(yes) {
        println!("the tools for network namespaces cannot be installed: {reason}");
    }
    cargo
}

/// The demo once; each of its promises is one check.
fn demo(_: &Choice) -> Counts {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--release", "--locked", "--quiet", "--package", "fairshare", "--"]);
    cargo.args(["demo", "--check", "--json", "--minutes", DEMO_MINUTES]);
    let mut last = String::new();
    let ended_well = stream(&mut cargo, |line| line.clone_into(&mut last));
    let mut counts = demo_promises(&last);
    // The exit code and the promises must tell the same story.
    counts += Counts::one(ended_well);
    counts
}

fn demo_promises(last_line: &str) -> Counts {
    let receipt = serde_json::from_str::<Value>(last_line).unwrap_or_default();
    let Some(promises) = receipt.get("promises").and_then(Value::as_array).filter(|list| !list.is_empty())
    else {
        println!("the demo ended without its receipt");
        return Counts::one(false);
    };
    let mut counts = Counts::one(receipt.get("ok").and_then(Value::as_bool) == Some(true));
    for promise in promises {
        counts += Counts::one(promise.get("ok").and_then(Value::as_bool) == Some(true));
    }
    counts
}

/// Licences, sources and duplicate versions. Advisories need a database that cannot be fetched everywhere, so they
/// are not part of the run.
fn deny(_: &Choice) -> Counts {
    match setup::deny() {
        Ok(program) => {
            let mut command = Command::new(program);
            command.current_dir(workspace::root());
            command_passes(command.args(["check", "bans", "licenses", "sources"]))
        }
        Err(reason) => {
            println!("SKIPPED deny: {reason}");
            Counts::one_skipped()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_promise_of_the_demo_is_a_check_and_a_missing_receipt_is_a_failure() {
        let kept = r#"{"ok":true,"promises":[{"name":"a","ok":true},{"name":"b","ok":true}]}"#;
        assert_eq!(demo_promises(kept).to_string(), "3 passed, 0 failed");
        let broken = r#"{"ok":false,"promises":[{"name":"a","ok":false},{"name":"b","ok":true}]}"#;
        assert_eq!(demo_promises(broken).to_string(), "1 passed, 2 failed");
        assert_eq!(demo_promises("thread panicked"), Counts::one(false));
        assert_eq!(demo_promises(r#"{"ok":true,"promises":[]}"#), Counts::one(false));
    }
}
