//! `setup`: what the tests need beyond the Rust toolchain, installed once into the user's cache folder and again only
//! when its recipe changes. Nothing is written into the work tree.
//!
//! System packages are installed only when something is missing, and only as root or after asking.

use crate::arguments::Arguments;
use crate::workspace;
use fairshare_crypto::sha256;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Raised when the way of installing changes, so that what older recipes made is made again.
const RECIPE: &str = "1";

/// The interpreter of the peers: py-ipv8 2.3.0 starts on this version and on no newer one.
const PYTHON_VERSION: &str = "3.11";

/// A living peer in a Python environment of its own, pinned by `interop/constraints-NAME.txt`.
const ENVIRONMENTS: [&str; 3] = ["ipv8-2.3", "ipv8-3.2", "libtorrent"];

/// What the tests in network namespaces need of the system: (program, its package).
const NETWORK_TOOLS: [(&str, &str); 2] = [("ip", "iproute2"), ("tcpdump", "tcpdump")];

/// The checker of licences, sources and duplicate versions.
const DENY_VERSION: &str = "0.20.2";

/// The task.
pub(crate) fn run(mut arguments: Arguments) -> Result<bool, String> {
    let yes = arguments.switch("--yes");
    arguments.finish()?;
    let outcomes = [peers(yes).map(|_| ()), network_tools(yes), deny().map(|_| ())];
    for reason in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        eprintln!("setup: {reason}");
    }
    Ok(outcomes.iter().all(Result::is_ok))
}

/// Installs the living peers; the folder that holds one environment for each.
pub(crate) fn peers(yes: bool) -> Result<PathBuf, String> {
    let folder = workspace::cache()?.join("peers");
    fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    for name in ENVIRONMENTS {
        environment(name, &folder, yes)?;
    }
    Ok(folder)
}

/// Installs what makes network namespaces and captures their packets.
pub(crate) fn network_tools(yes: bool) -> Result<(), String> {
    let missing = NETWORK_TOOLS.iter().filter(|(program, _)| !is_installed(program));
    let packages = missing.map(|(_, package)| *package).collect::<Vec<_>>();
    if packages.is_empty() { Ok(()) } else { system_packages(&packages, yes) }
}

/// Whether the search path has `program`, also in the folders that only root searches.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.into_iter().any(|folder| folder.join(program).is_file())
}

/// Installs cargo-deny; the path of the program.
pub(crate) fn deny() -> Result<PathBuf, String> {
    let folder = workspace::cache()?.join("tools");
    let program = folder.join("bin").join("cargo-deny");
    let stamp = Stamp::new(&folder, "cargo-deny", &[DENY_VERSION]);
    if stamp.is_current() && program.exists() {
        return Ok(program);
    }
    println!("setup: building cargo-deny {DENY_VERSION}");
    let mut cargo = workspace::cargo();
    cargo
        .args(["install", "cargo-deny", "--quiet", "--locked", "--version", DENY_VERSION, "--root"])
        .arg(&folder);
    cargo.env("CARGO_TARGET_DIR", folder.join("target"));
    succeed(&mut cargo)?;
    // Only the program is needed again.
    fs::remove_dir_all(folder.join("target")).map_err(|error| error.to_string())?;
    stamp.set()?;
    Ok(program)
}

fn environment(name: &str, folder: &Path, yes: bool) -> Result<(), String> {
    let constraints = workspace::root().join("interop").join(format!("constraints-{name}.txt"));
    let pinned =
        fs::read_to_string(&constraints).map_err(|error| format!("{}: {error}", constraints.display()))?;
    let home = folder.join(name);
    let stamp = Stamp::new(folder, name, &[PYTHON_VERSION, &pinned]);
    if stamp.is_current() && home.join("bin").join("python").exists() {
        return Ok(());
    }
    println!("setup: installing {name}");
    let python = python(yes)?;
    if home.exists() {
        fs::remove_dir_all(&home).map_err(|error| format!("cannot remove {}: {error}", home.display()))?;
    }
    succeed(Command::new(python).args(["-m", "venv"]).arg(&home))?;
    let mut pip = Command::new(home.join("bin").join("python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--requirement",
    ]);
    succeed(pip.arg(&constraints))?;
    stamp.set()
}

/// A Python of the right version that can make environments.
fn python(yes: bool) -> Result<&'static str, String> {
    let works = |program: &&str| {
        let check =
            format!("import sys, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '{PYTHON_VERSION}')");
        let mut command = Command::new(program);
        command.args(["-c", &check]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let candidates = ["python3.11", "python3"];
    if let Some(found) = candidates.iter().find(|program| works(program)) {
        return Ok(found);
    }
    system_packages(&["python3.11", "python3.11-venv"], yes)?;
    candidates
        .into_iter()
        .find(works)
        .ok_or_else(|| format!("no Python {PYTHON_VERSION} with venv, also not after installing it"))
}

/// Installs packages of the system, as root or after a yes.
fn system_packages(names: &[&str], yes: bool) -> Result<(), String> {
    let root =
        fs::metadata("/proc/self").is_ok_and(|process| std::os::unix::fs::MetadataExt::uid(&process) == 0);
    let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
    if !root {
        if !yes && !asked(&format!("install {} with sudo apt-get?", names.join(" "))) {
            return Err(format!("missing: {}", names.join(" ")));
        }
        command.arg("apt-get");
    }
    // A new machine may know no package lists yet; an old list does no harm, so a failed update is not the end.
    let mut update = Command::new(command.get_program());
    update.args(command.get_args()).args(["update", "--quiet"]);
    if let Err(reason) = succeed(&mut update) {
        eprintln!("setup: {reason}");
    }
    command.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(names);
    succeed(command.env("DEBIAN_FRONTEND", "noninteractive"))
}

fn asked(question: &str) -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    print!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdout().flush().is_ok()
        && std::io::stdin().read_line(&mut answer).is_ok()
        && answer.trim().eq_ignore_ascii_case("y")
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status =
        command.stdin(Stdio::null()).status().map_err(|error| format!("cannot start {program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} failed ({status})")) }
}

/// A file that says which recipe made the thing beside it.
struct Stamp {
    path: PathBuf,
    recipe: String,
}

impl Stamp {
    fn new(folder: &Path, name: &str, inputs: &[&str]) -> Self {
        let mut text = RECIPE.to_owned();
        for input in inputs {
            text.push('\0');
            text.push_str(input);
        }
        Self { path: folder.join(format!("{name}.stamp")), recipe: hex::encode(sha256(text.as_bytes())) }
    }

    fn is_current(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|recipe| recipe == self.recipe)
    }

    fn set(&self) -> Result<(), String> {
        fs::write(&self.path, &self.recipe)
            .map_err(|error| format!("cannot write {}: {error}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_current_only_for_the_same_recipe() {
        let folder = workspace::target().join("xtask-stamp-test");
        fs::create_dir_all(&folder).expect("the target folder can be written");
        let old = Stamp::new(&folder, "peer", &["one"]);
        old.set().expect("the target folder can be written");
        assert!(old.is_current());
        assert!(!Stamp::new(&folder, "peer", &["two"]).is_current());
        assert!(!Stamp::new(&folder, "other", &["one"]).is_current());
        fs::remove_dir_all(&folder).expect("made above");
    }

    #[test]
    fn every_environment_is_pinned_exactly() {
        for name in ENVIRONMENTS {
            let file = workspace::root().join("interop").join(format!("constraints-{name}.txt"));
            let pinned = fs::read_to_string(file).expect("committed");
            let mut lines = pinned.lines().filter(|line| !line.starts_with('#'));
            assert!(lines.all(|line| line.contains("==")), "{name}");
        }
    }
}
