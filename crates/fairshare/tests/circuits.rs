//! Nodes as processes with circuits between them: who takes more than a newcomer's credit pays, and goes on.

mod support;

use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use support::{Node, SOON, configure, wait_for};

/// An epoch is over within the test, payments come in the next.
const EPOCH: &str = "[payouts]\nepoch_s = 8\n";
const TEST_BYTES: &str = "32MiB";
/// More than a newcomer may owe to its first hop, which charges it five times.
const BYTES: u128 = 100 << 20;
/// Many epochs.
const PATIENCE: Duration = Duration::from_secs(180);

fn start(folder: &Path, name: &str, ip: &str, tunnel: &str, peers: &[&Node]) -> Node {
    let data = folder.join(name);
    configure(&data, &format!("[tunnel]\nallow_same_subnet = true\nexit_loopback = true\n{tunnel}\n{EPOCH}"));
    let listen = format!("{ip}:0");
    let mut arguments = vec!["--listen", &listen];
    peers.iter().for_each(|peer| arguments.extend(["--peer", peer.listen.as_str()]));
    Node::start(&data, &arguments)
}

fn tunnel_key(node: &Node) -> String {
    let key = &node.command(&["relay", "status"])["tunnel_key"];
    key.as_str().expect("the key of its circuits").to_owned()
}

fn amount(value: &Value) -> u128 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no amount: {value}"))
}

//= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
#[test]
fn who_took_more_than_a_newcomers_credit_pays_and_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let exit = start(folder.path(), "exit", "127.1.0.1", "relay = true\nexit = true", &[]);
    let guard = start(folder.path(), "guard", "127.2.0.1", "relay = true", &[&exit]);
    let user = start(folder.path(), "user", "127.3.0.1", "", &[&exit, &guard]);
    let path = [&guard, &exit].map(tunnel_key).join(",");
    let mut carried = 0;
    wait_for("more than a newcomer's credit through one guard", PATIENCE, || {
        // While too much is owed the guard begins nothing new, and datagrams may be lost.
        let (code, tested) = user.try_command(&["circuits", "test", "--bytes", TEST_BYTES, "--path", &path]);
        if code == Some(0) {
            carried += amount(&tested["received_bytes"]);
        }
        (carried >= BYTES).then_some(())
    });
    let owed = 5 * BYTES;
    wait_for("the guard to be paid", PATIENCE, || {
        (amount(&guard.command(&["tokens", "balance"])["given_bytes"]) * 2 > owed).then_some(())
    });
    wait_for("all books to agree", SOON, || {
        let books = [&exit, &guard, &user].map(|node| node.command(&["tokens", "balance"]));
        let sum = |name: &str| books.iter().map(|book| amount(&book[name])).sum::<u128>();
        (sum("given_bytes") == sum("taken_bytes")).then_some(())
    });
}
