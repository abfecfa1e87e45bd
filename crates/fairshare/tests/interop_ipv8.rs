//! Against living py-ipv8 nodes: 2.3.0 with a TrustChain of its own, and 3.2.1, the newest overlay.

mod support;

use serde_json::{Value, json};
use std::env;
use std::path::Path;
use std::time::Duration;
use support::{Node, Process, SOON, configure, living_peer, living_peers, wait_for};

/// Signatures each way, unless `FAIRSHARE_INTEROP_SIGNATURES` asks for more.
const SIGNATURES: usize = 20;

/// A py-ipv8 node.
struct Ipv8 {
    process: Process,
    key: String,
    listen: String,
    last_id: u64,
}

impl Ipv8 {
    fn start(peers: &Path, name: &str, folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder of this test");
        let process = Process::start(living_peer(peers, name, "ipv8_peer.py").arg("--dir").arg(folder));
        let ready = process.event("ready", SOON);
        let text = |name: &str| ready[name].as_str().expect("the script says it").to_owned();
        Self { key: text("public_key"), listen: text("listen"), process, last_id: 0 }
    }

    fn ask(&mut self, mut command: Value) -> Value {
        self.last_id += 1;
        command["id"] = json!(self.last_id);
        self.process.write_line(&command);
        let answer = self.process.next_json("an answer of py-ipv8", SOON);
        assert_eq!(answer["id"], self.last_id, "{answer}");
        assert!(answer.get("error").is_none(), "{answer}");
        answer
    }

    fn knows(&mut self, key: &str) -> bool {
        self.ask(json!({"do": "peers"}))["peers"].as_array().expect("a list").iter().any(|known| known == key)
    }

    /// (number, hash) of the blocks of `key` that this node holds.
    fn chain(&mut self, key: &str) -> Vec<(u64, String)> {
        numbers_and_hashes(&self.ask(json!({"do": "blocks", "key": key}))["blocks"])
    }
}

fn numbers_and_hashes(blocks: &Value) -> Vec<(u64, String)> {
    let blocks = blocks.as_array().expect("a list of blocks");
    let number_and_hash = |block: &Value| {
        (
            block["sequence_number"].as_u64().expect("a number"),
            block["hash"].as_str().expect("text").to_owned(),
        )
    };
    blocks.iter().map(number_and_hash).collect()
}

fn signatures() -> usize {
    env::var("FAIRSHARE_INTEROP_SIGNATURES").map_or(SIGNATURES, |text| text.parse().expect("a number"))
}

//= spec/trustchain.md#5-messages
//= spec/overlay.md#5-messages-of-every-community
#[test]
fn py_ipv8_is_discovered_and_both_countersign_the_proposals_of_the_other() {
    let Some(peers) = living_peers("interop_ipv8") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut other = Ipv8::start(&peers, "ipv8-2.3", &folder.path().join("ipv8"));
    let data = folder.path().join("node");
    configure(&data, "[ledger]\ncountersign = [\"test\"]\n");
    let node = Node::start(&data, &["--peer", &other.listen]);

    wait_for("py-ipv8 among our peers", SOON, || node.knows(&other.key).then_some(()));
    wait_for("us among the peers of py-ipv8", SOON, || other.knows(&node.key).then_some(()));

    let count = signatures();
    for number in 0..count {
        propose_to(&node, &other.key, number);
    }
    for number in 0..count {
        let transaction = json!({"number": number, "text": "from py-ipv8"});
        let proposal =
            json!({"do": "propose", "to": node.key, "address": node.listen, "transaction": transaction});
        let pair = other.ask(proposal);
        assert_eq!(pair["agreement"]["link_sequence_number"], pair["proposal"]["sequence_number"]);
    }
    both_hold_the_same_pairs(&node, &mut other, count);
    println!("py-ipv8 2.3.0: {count} proposals each way, all countersigned, both chains equal at both");
}

fn propose_to(node: &Node, key: &str, number: usize) {
    let transaction = json!({"number": number, "text": "from fairshare"}).to_string();
    let wait = SOON.as_secs().to_string();
    let arguments =
        ["chain", "propose", "--to", key, "--type", "test", "--transaction", &transaction, "--wait", &wait];
    let pair = node.command(&arguments);
    assert_eq!(pair["proposal"]["link_public_key"], key, "{pair}");
    assert_eq!(pair["agreement"]["public_key"], key, "{pair}");
    assert_eq!(pair["agreement"]["link_sequence_number"], pair["proposal"]["sequence_number"], "{pair}");
}

/// Each chain has a proposal and an agreement for each signature, and both nodes hold both chains, block for block.
fn both_hold_the_same_pairs(node: &Node, other: &mut Ipv8, count: usize) {
    for key in [node.key.clone(), other.key.clone()] {
        let ours = wait_for("the whole chain at ours", SOON, || {
            let ours = node.command(&["chain", "show", &key]);
            (ours.as_array().expect("a list of blocks").len() == 2 * count).then_some(ours)
        });
        let of_type_test =
            ours.as_array().expect("checked above").iter().all(|block| block["type"] == "test");
        assert!(of_type_test, "{ours}");
        let ours = numbers_and_hashes(&ours);
        let theirs = wait_for("the whole chain at py-ipv8", SOON, || {
            let theirs = other.chain(&key);
            (theirs.len() == 2 * count).then_some(theirs)
        });
        assert_eq!(ours, theirs);
        assert!(ours.iter().zip(1..).all(|((number, _), wanted)| *number == wanted), "numbers without gap");
    }
}

//= spec/overlay.md#1-what-interoperates-with-what
#[test]
fn the_newest_py_ipv8_is_discovered_and_discovers_us() {
    let Some(peers) = living_peers("interop_ipv8") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = Node::start(&folder.path().join("node"), &[]);
    let mut other = Ipv8::start(&peers, "ipv8-3.2", &folder.path().join("ipv8"));
    other.ask(json!({"do": "introduce", "address": node.listen}));
    wait_for("us among the peers of py-ipv8", SOON, || other.knows(&node.key).then_some(()));
    wait_for("py-ipv8 among our peers", Duration::from_secs(90), || node.knows(&other.key).then_some(()));
}
