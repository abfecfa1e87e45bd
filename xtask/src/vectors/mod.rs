//! `vectors --dir D`: runs every case of the vector files of a folder. A file is known by its name; its form is
//! described in `tests/vectors/README.md`.

mod addresses;
mod dht;
mod keys;
mod ledger;
mod swarm;
mod trust;
mod tunnels;

use crate::arguments::Arguments;
use crate::counts::Counts;
use crate::workspace;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// What became of each case of a file, in order.
type Cases = Vec<Result<(), String>>;

/// Who checks a file of a folder: `None` when the name is not theirs.
type Check = fn(&str, &Value, &Path) -> Option<Cases>;

/// The parts that are built.
const CHECKS: [Check; 7] = [
    |name, file, _| keys::check(name, file),
    |name, file, _| addresses::check(name, file),
    |name, file, _| dht::check(name, file),
    ledger::check,
    |name, file, _| swarm::check(name, file),
    |name, file, _| tunnels::check(name, file),
    trust::check,
];

/// Vector files whose part is not built yet: named, and counted neither way.
const NOT_BUILT: [&str; 8] = [
    "bandwidth_tx.json",
    "dht_ipv8_2.3.json",
    "market.json",
    "packets_ipv8_2.3.json",
    "packets_ipv8_3.2.json",
    "packets_reject_2.3.json",
    "packets_reject_3.2.json",
    "wallets.json",
];

/// Failed cases printed for one file; more are only counted.
const FAILURES_SHOWN: usize = 20;

/// The task.
pub(crate) fn run(mut arguments: Arguments) -> Result<bool, String> {
    let folder = arguments.value("--dir")?.map_or_else(default_folder, PathBuf::from);
    arguments.finish()?;
    let counts = check_folder(&folder)?;
    println!("{counts}");
    Ok(counts.is_good(false))
}

/// The folder of the vectors in the work tree.
pub(crate) fn default_folder() -> PathBuf {
    workspace::root().join("tests").join("vectors")
}

/// Checks all vector files of `folder`.
pub(crate) fn check_folder(folder: &Path) -> Result<Counts, String> {
    let unreadable = |error| format!("cannot read {}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        names.push(entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let mut counts = Counts::default();
    for name in names.iter().filter(|name| name.as_str() != "README.md") {
        counts += check_file(name, &folder.join(name));
    }
    Ok(counts)
}

fn check_file(name: &str, path: &Path) -> Counts {
    if NOT_BUILT.contains(&name) {
        println!("not built: {name}");
        return Counts::default();
    }
    match read(name, path) {
        Ok(cases) => report(name, &cases),
        Err(reason) => {
            println!("{name}: {reason}");
            Counts::one(false)
        }
    }
}

fn read(name: &str, path: &Path) -> Result<Cases, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    // Names are looked at first, so that an unknown file is called unknown and not malformed.
    let value = if name.ends_with(".json") { serde_json::from_slice(&text) } else { Ok(Value::Null) };
    let value = value.map_err(|error| format!("not readable as JSON: {error}"))?;
    let folder = path.parent().unwrap_or(path);
    CHECKS.iter().find_map(|check| check(name, &value, folder)).ok_or_else(|| "unknown file name".to_owned())
}

fn report(name: &str, cases: &Cases) -> Counts {
    let mut counts = Counts::default();
    for (number, case) in cases.iter().enumerate() {
        counts += Counts::one(case.is_ok());
        if let Err(reason) = case
            && counts.failed as usize <= FAILURES_SHOWN
        {
            println!("{name}: case {number}: {reason}");
        }
    }
    println!("{name}: {} of {} cases", counts.passed, cases.len());
    counts
}

/// The cases of the common form: an object with a list `cases`, each judged by itself.
pub(crate) fn each_case(file: &Value, judge: impl Fn(&Value) -> Result<(), String>) -> Cases {
    match file.get("cases").and_then(Value::as_array) {
        None => vec![Err("no list of cases".to_owned())],
        Some(cases) => cases.iter().map(|case| judge(case).map_err(|reason| named(case, &reason))).collect(),
    }
}

fn named(case: &Value, reason: &str) -> String {
    match case.get("id").and_then(Value::as_str) {
        Some(id) => format!("{id}: {reason}"),
        None => reason.to_owned(),
    }
}

/// The bytes of a field in hexadecimal.
pub(crate) fn bytes_of(case: &Value, field: &str) -> Result<Vec<u8>, String> {
    let text = case.get(field).and_then(Value::as_str).ok_or_else(|| format!("no text field {field}"))?;
    hex::decode(text).map_err(|error| format!("{field} is not hexadecimal: {error}"))
}

/// `Ok` when both are equal, else what was wanted and what came, shortened.
pub(crate) fn expect_bytes(what: &str, wanted: &[u8], came: &[u8]) -> Result<(), String> {
    if wanted == came {
        Ok(())
    } else {
        Err(format!("{what}: wanted {}, came {}", short(wanted), short(came)))
    }
}

fn short(bytes: &[u8]) -> String {
    let text = hex::encode(bytes);
    if text.len() <= 64 { text } else { format!("{}.. ({} bytes)", &text[..64], bytes.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_fail_and_parts_not_built_count_as_neither() {
        let missing = Path::new("nowhere");
        assert_eq!(check_file("surprise.json", missing), Counts::one(false));
        assert_eq!(check_file(NOT_BUILT[0], missing), Counts::default());
    }

    #[test]
    fn the_vectors_of_the_work_tree_hold() {
        let counts = check_folder(&default_folder()).expect("the folder is part of the work tree");
        assert!(counts.is_good(true), "{counts}");
    }
}
