//! One direction: a crate depends only on the floors below its own, and nothing below the host can reach a socket, a
//! clock, a disk or the entropy of the operating system through its dependencies.

use crate::workspace;
use cargo_metadata::MetadataCommand;
use std::process::Command;

/// A crate, the floor it stands on and the highest floor it may depend on.
struct Layer {
    name: &'static str,
    floor: u8,
    below: Option<u8>,
}

const fn layer(name: &'static str, floor: u8, below: Option<u8>) -> Layer {
    Layer { name, floor, below }
}

/// ARCHITECTURE.md draws this table. The crates of later parts stand here already, so that none is placed by chance.
const LAYERS: [Layer; 14] = [
    layer("fairshare-crypto", 0, None),
    layer("fairshare-wire", 0, None),
    layer("fairshare-trust", 0, None),
    layer("fairshare-ledger", 1, Some(0)),
    layer("fairshare-overlay", 2, Some(0)),
    layer("fairshare-tunnel", 2, Some(0)),
    layer("fairshare-swarm", 2, Some(0)),
    layer("fairshare-economy", 2, Some(1)),
    layer("fairshare-market", 2, Some(1)),
    layer("fairshare-node", 3, Some(2)),
    layer("fairshare-host", 4, Some(3)),
    layer("fairshare-sim", 4, Some(3)),
    layer("fairshare", 5, Some(4)),
    layer("xtask", 6, Some(5)),
];

/// The edges inside a floor: an address or a frame holds keys and signatures; random walks need the seeded generator.
const SIDEWAYS: [(&str, &str); 2] =
    [("fairshare-wire", "fairshare-crypto"), ("fairshare-trust", "fairshare-crypto")];

/// The first floor that may touch the world.
const HOST_FLOOR: u8 = 4;

/// Crates that touch the world, or exist only for those that do.
const IMPURE: [&str; 9] =
    ["tokio", "mio", "socket2", "quinn-udp", "rusqlite", "libsqlite3-sys", "ureq", "getrandom", "axum"];

/// The library of the cells' cryptography brings a source of entropy of its own version. It is reached only through
/// `SystemRandom`, a word that no engine may contain.
const UNREACHED: &str = "getrandom v0.2.";

/// The edges between the crates of the workspace, of all kinds of dependency.
pub(super) fn edges() -> Result<Vec<(String, Vec<String>)>, String> {
    let metadata = MetadataCommand::new()
        .current_dir(workspace::root())
        .no_deps()
        .exec()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let names = metadata.packages.iter().map(|package| package.name.to_string()).collect::<Vec<_>>();
    let ours = |name: &str| names.iter().any(|known| known == name);
    Ok(metadata
        .packages
        .iter()
        .map(|package| {
            let targets = package.dependencies.iter().map(|dependency| dependency.name.clone());
            (package.name.to_string(), targets.filter(|name| ours(name)).collect())
        })
        .collect())
}

/// The edges that go upward or sideways, and crates without a floor.
pub(super) fn edge_faults(edges: &[(String, Vec<String>)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, dependencies) in edges {
        let Some(from) = find(name) else {
            faults.push(format!("{name} has no floor: a new crate needs a decision note"));
            continue;
        };
        for dependency in dependencies {
            let allowed =
                find(dependency).is_some_and(|to| from.below.is_some_and(|below| to.floor <= below));
            if !allowed && !SIDEWAYS.contains(&(name.as_str(), dependency.as_str())) {
                faults.push(format!("{name} may not depend on {dependency}"));
            }
        }
    }
    faults
}

fn find(name: &str) -> Option<&'static Layer> {
    LAYERS.iter().find(|layer| layer.name == name)
}

/// Whether `name` is a crate of ours that may not touch the world.
pub(super) fn is_engine(name: &str) -> bool {
    find(name).is_some_and(|layer| layer.floor < HOST_FLOOR)
}

/// The dependencies of the engines that touch the world.
pub(super) fn impure_dependencies() -> Result<Vec<String>, String> {
    let mut faults = Vec::new();
    for (name, _) in edges()?.iter().filter(|(name, _)| is_engine(name)) {
        faults.extend(impure(name, &dependency_tree(name)?));
    }
    Ok(faults)
}

/// All crates that `name` is built with, tests and build scripts left out; the features are those of `name` alone.
fn dependency_tree(name: &str) -> Result<String, String> {
    let mut cargo = workspace::cargo();
    cargo.args(["tree", "--package", name, "--edges", "normal,no-proc-macro", "--prefix", "none"]);
    output(&mut cargo)
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cargo: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn impure(name: &str, tree: &str) -> Vec<String> {
    let reached = tree.lines().filter(|line| !line.starts_with(UNREACHED));
    let mut found = reached.filter_map(|line| line.split(' ').next()).collect::<Vec<_>>();
    found.sort_unstable();
    found.dedup();
    found.retain(|dependency| IMPURE.contains(dependency));
    found.iter().map(|dependency| format!("{name} is built with {dependency}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str) -> Vec<(String, Vec<String>)> {
        vec![(from.to_owned(), vec![to.to_owned()])]
    }

    #[test]
    fn downward_edges_and_the_exceptions_pass() {
        assert!(edge_faults(&edge("fairshare-economy", "fairshare-ledger")).is_empty());
        assert!(edge_faults(&edge("fairshare-wire", "fairshare-crypto")).is_empty());
        assert!(edge_faults(&edge("fairshare-trust", "fairshare-crypto")).is_empty());
        assert!(!edge_faults(&edge("fairshare-trust", "fairshare-wire")).is_empty());
        assert!(edge_faults(&edge("fairshare", "fairshare-sim")).is_empty());
    }

    #[test]
    fn planted_edges_upward_and_sideways_are_found() {
        assert_eq!(edge_faults(&edge("fairshare-ledger", "fairshare-node")).len(), 1);
        assert_eq!(edge_faults(&edge("fairshare-swarm", "fairshare-economy")).len(), 1);
        assert_eq!(edge_faults(&edge("fairshare-swarm", "fairshare-ledger")).len(), 1);
        assert_eq!(edge_faults(&edge("fairshare-host", "fairshare-sim")).len(), 1);
        assert_eq!(edge_faults(&edge("fairshare-crypto", "fairshare-wire")).len(), 1);
    }

    #[test]
    fn a_crate_without_a_floor_is_found() {
        assert_eq!(edge_faults(&edge("fairshare-extra", "fairshare-crypto")).len(), 1);
    }

    #[test]
    fn only_the_entropy_that_no_engine_can_reach_is_let_pass() {
        assert!(impure("fairshare-crypto", "ring v0.17.14\ngetrandom v0.2.17\n").is_empty());
        assert_eq!(impure("fairshare-crypto", "getrandom v0.4.0\n").len(), 1);
    }

    #[test]
    fn a_planted_socket_crate_is_found_once() {
        let tree = "fairshare-swarm v0.1.0 (somewhere)\nbytes v1.0.0\nsocket2 v0.6.0\nsocket2 v0.6.0 (*)\n";
        assert_eq!(impure("fairshare-swarm", tree), ["fairshare-swarm is built with socket2"]);
    }
}
