//! `kill -9` of real nodes during paid transfers, at instants of chance: two nodes, friends of each other, each seeds
//! a file the other wants; one of them is killed and restarted again and again until both files have arrived.
//!
//! What must hold: no block number is ever used twice, no block the other side holds is ever lost, every payment is
//! made exactly once, the balances add up to zero, and the files arrive intact.

mod support;

use fairshare_crypto::Rng;
use fairshare_ledger::bandwidth::Bandwidth;
use serde_json::Value;
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use support::{Node, SOON, configure, fairshare, free_address, same_bytes, wait_for, write_random_file};

/// Kills, unless `FAIRSHARE_KILLS` asks for more.
const KILLS: u32 = 10;
/// Bytes of each file of a round: several payments each way, and more time than the next kill leaves.
const FILE_BYTES: u64 = 256 << 20;
/// A kill comes at most so long after both nodes are up.
const KILL_AFTER_MS: u64 = 2_500;
/// Limit of one round with its kills.
const ROUND: Duration = Duration::from_secs(300);
/// A proposal without an answer is sent again each 10 s; this leaves room for several losses.
const PAIRED: Duration = Duration::from_secs(120);

/// One node, up or down.
struct Side {
    folder: PathBuf,
    listen: String,
    node: Option<Node>,
}

impl Side {
    fn new(folder: PathBuf) -> Self {
        Self { folder, listen: free_address(), node: None }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn up(&mut self, other: &str) {
        self.node = Some(Node::start(&self.data(), &["--listen", &self.listen, "--peer", other]));
    }

    fn node(&self) -> &Node {
        self.node.as_ref().expect("up at this point of the test")
    }

    fn kill(&mut self) {
        self.node.take().expect("up at this point of the test").process.kill();
    }

    fn key(&self) -> String {
        self.node().key.clone()
    }

    /// The blocks of `key` as this node tells them.
    fn chain(&self, key: &str) -> Vec<Block> {
        let blocks = self.node().command(&["chain", "show", key]);
        blocks.as_array().expect("a list of blocks").iter().map(Block::read).collect()
    }

    /// Whether every piece of the torrent is verified and written.
    fn is_complete(&self, torrent: &Torrent) -> bool {
        let list = self.node().command(&["list"]);
        let rows = list.as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row.to_string().contains(&torrent.hash));
        row.is_some_and(|row| row["complete"] == true)
    }
}

/// A half block as the command line shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Block {
    owner: String,
    number: u64,
    link_owner: String,
    link_number: u64,
    hash: String,
    previous: String,
    kind: String,
    transaction: Vec<u8>,
}

impl Block {
    fn read(json: &Value) -> Self {
        let text =
            |name: &str| json[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}")).to_owned();
        let number = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("no {name} in {json}"));
        Self {
            owner: text("public_key"),
            number: number("sequence_number"),
            link_owner: text("link_public_key"),
            link_number: number("link_sequence_number"),
            hash: text("hash"),
            previous: text("previous_hash"),
            kind: text("type"),
            transaction: hex::decode(text("transaction")).expect("hexadecimal"),
        }
    }

    fn is_payment(&self) -> bool {
        self.kind == "tribler_bandwidth" && self.link_number == 0
    }

    fn bandwidth(&self) -> Bandwidth {
        Bandwidth::decode(&self.transaction).expect("our own transaction")
    }
}

/// A torrent of one round.
struct Torrent {
    file: PathBuf,
    torrent: PathBuf,
    hash: String,
}

impl Torrent {
    fn new(folder: &Path, name: &str, seed: u8) -> Self {
        std::fs::create_dir_all(folder).expect("a folder of this test");
        let file = folder.join(name);
        write_random_file(&file, FILE_BYTES, seed);
        let torrent = folder.join(format!("{name}.torrent"));
        let mut create = fairshare();
        create.args(["create", "--json", "--out"]).arg(&torrent).arg(&file);
        let output = create.output().expect("the program can be started");
        let made: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        Self { file, torrent, hash: made["infohash"].as_str().expect("the hash").to_owned() }
    }
}

/// Every block ever seen, by (owner, number): a second hash under one number is the fault looked for.
#[derive(Default)]
struct Seen(BTreeMap<(String, u64), Block>);

impl Seen {
    fn see(&mut self, blocks: &[Block]) {
        for block in blocks {
            let known = self.0.entry((block.owner.clone(), block.number)).or_insert_with(|| block.clone());
            assert_eq!(known, block, "a block number was used twice");
        }
    }

    fn chain<'a>(&'a self, owner: &'a str) -> impl Iterator<Item = &'a Block> {
        self.0.values().filter(move |block| block.owner == owner)
    }
}

/// Two nodes, friends of each other.
struct Pair {
    sides: [Side; 2],
    seen: Seen,
    kills: u32,
}

impl Pair {
    fn new(folder: &Path) -> Self {
        let mut sides = ["a", "b"].map(|name| Side::new(folder.join(name)));
        let addresses = sides.each_ref().map(|side| side.listen.clone());
        let mut keys = Vec::new();
        for side in &mut sides {
            // The first start makes the identity.
            side.node = Some(Node::start(&side.data(), &["--listen", &side.listen]));
            keys.push(side.key());
            assert!(side.node.take().expect("started above").process.stop(SOON));
        }
        for (side, friend) in sides.iter().zip([&keys[1], &keys[0]]) {
            configure(&side.data(), &format!("[economy]\nfriends = [\"{friend}\"]\n"));
        }
        for (side, other) in sides.iter_mut().zip([&addresses[1], &addresses[0]]) {
            side.up(other);
        }
        Self { sides, seen: Seen::default(), kills: 0 }
    }

    fn restart(&mut self, which: usize) {
        self.sides[which].kill();
        self.kills += 1;
        let other = self.sides[1 - which].listen.clone();
        self.sides[which].up(&other);
    }

    /// What each holds of both chains; what the other holds of a chain was acknowledged and must be on it.
    fn look(&mut self) {
        for which in 0..2 {
            let (owner, other) = (&self.sides[which], &self.sides[1 - which]);
            let key = owner.key();
            // In this order: what is written between the two looks is on the owner's chain in any case.
            let held = other.chain(&key);
            let own = owner.chain(&key);
            for block in &held {
                assert!(own.contains(block), "block {} was acknowledged and is lost", block.number);
            }
            assert_is_one_chain(&own);
            self.seen.see(&held);
            self.seen.see(&own);
        }
    }

    /// Both take the file of the other, with kills in between until `kills` are reached.
    fn round(&mut self, folder: &Path, number: u8, kills: u32, rng: &mut Rng) {
        let torrents = [0, 1].map(|which: u8| {
            Torrent::new(&folder.join(format!("round-{number}-{which}")), "file", 2 * number + which)
        });
        for (which, torrent) in torrents.iter().enumerate() {
            let (source, taker) = (&self.sides[which], &self.sides[1 - which]);
            give(source, torrent);
            take(taker, torrent, number, &source.listen);
        }
        let start = Instant::now();
        while !self.has_arrived(&torrents) {
            assert!(start.elapsed() < ROUND, "round {number} did not end in {ROUND:?}");
            if self.kills < kills {
                let pause = rng.below(KILL_AFTER_MS);
                thread::sleep(Duration::from_millis(pause));
                self.restart(rng.below(2) as usize);
                self.look();
            } else {
                thread::sleep(Duration::from_millis(100));
            }
        }
        for (torrent, taker) in torrents.iter().zip(self.sides.iter().rev()) {
            let arrived = destination(taker, number).join("file");
            assert!(same_bytes(&torrent.file, &arrived), "the file arrived with other bytes");
        }
    }

    fn has_arrived(&self, torrents: &[Torrent; 2]) -> bool {
        self.sides[1].is_complete(&torrents[0]) && self.sides[0].is_complete(&torrents[1])
    }

    /// Every payment has its one answer at both nodes.
    fn all_is_paired(&self) -> bool {
        let keys = self.sides.each_ref().map(Side::key);
        self.sides.iter().all(|side| {
            let chains = keys.each_ref().map(|key| side.chain(key));
            let payments = chains.iter().flatten().filter(|block| block.is_payment());
            payments.clone().count() > 0
                && payments.into_iter().all(|payment| {
                    let answers = chains.iter().flatten().filter(|block| answers(block, payment));
                    answers.count() == 1
                })
        })
    }
}

/// Numbers from 1 without gap, each with the hash of the one before.
fn assert_is_one_chain(blocks: &[Block]) {
    for (block, number) in blocks.iter().zip(1..) {
        assert_eq!(block.number, number, "the own chain has a gap");
    }
    for pair in blocks.windows(2) {
        assert_eq!(pair[1].previous, pair[0].hash, "the own chain was rewritten");
    }
}

fn answers(block: &Block, payment: &Block) -> bool {
    block.link_owner == payment.owner
        && block.link_number == payment.number
        && block.owner == payment.link_owner
}

fn give(source: &Side, torrent: &Torrent) {
    let folder = torrent.file.parent().expect("made in a folder").to_string_lossy().into_owned();
    source.node().command(&["seed", &torrent.torrent.to_string_lossy(), "--from", &folder]);
}

fn take(taker: &Side, torrent: &Torrent, round: u8, peer: &str) {
    let to = destination(taker, round);
    std::fs::create_dir_all(&to).expect("a folder of this test");
    let torrent = torrent.torrent.to_string_lossy();
    taker.node().command(&["add", &torrent, "--to", &to.to_string_lossy(), "--peer", peer]);
}

fn destination(taker: &Side, round: u8) -> PathBuf {
    taker.folder.join(format!("taken-{round}"))
}

/// Each payment of `payer` continues the sum of the one before, and its answer says the same; the sum of all.
fn assert_paid_once(seen: &Seen, payer: &str, receiver: &str) -> u64 {
    let mut cum = 0;
    for payment in seen.chain(payer).filter(|block| block.is_payment()) {
        let paid = payment.bandwidth();
        let settlement = paid.settlement.clone().expect("a payment of ours carries its sum");
        cum += paid.down;
        assert_eq!(settlement.cum, cum, "payment {} does not continue the sum", payment.number);
        let mut found = seen.chain(receiver).filter(|block| answers(block, payment));
        let answer = found.next().expect("every payment is answered").bandwidth();
        assert!(found.next().is_none(), "payment {} is answered twice", payment.number);
        assert_eq!((answer.up, answer.down), (paid.down, paid.up));
        assert_eq!(answer.settlement.map(|settlement| settlement.cum), Some(cum));
    }
    cum
}

/// What the newest bandwidth block of a chain says was given less what was taken.
fn balance(seen: &Seen, key: &str) -> i128 {
    let newest = seen.chain(key).filter(|block| block.kind == "tribler_bandwidth").last();
    newest.map_or(0, |block| {
        let bandwidth = block.bandwidth();
        i128::from(bandwidth.total_up) - i128::from(bandwidth.total_down)
    })
}

//= spec/economy.md#3-from-bytes-to-a-transaction
#[test]
fn killed_nodes_lose_nothing_pay_nothing_twice_and_finish() {
    let kills = env::var("FAIRSHARE_KILLS").map_or(KILLS, |text| text.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut rng = Rng::from_seed([9; 32]);
    let mut pair = Pair::new(folder.path());
    let mut rounds = 0;
    while pair.kills < kills || rounds == 0 {
        pair.round(folder.path(), rounds, kills, &mut rng);
        rounds += 1;
    }
    wait_for("an answer to every payment", PAIRED, || pair.all_is_paired().then_some(()));
    pair.look();

    let keys = pair.sides.each_ref().map(Side::key);
    let paid =
        [assert_paid_once(&pair.seen, &keys[0], &keys[1]), assert_paid_once(&pair.seen, &keys[1], &keys[0])];
    let balances = keys.each_ref().map(|key| balance(&pair.seen, key));
    assert_eq!(balances.iter().sum::<i128>(), 0, "{balances:?}");
    println!(
        "{} kills in {rounds} rounds: {} blocks, {} and {} MiB paid, balances {balances:?}",
        pair.kills,
        pair.seen.0.len(),
        paid[0] >> 20,
        paid[1] >> 20,
    );
}

/// The checks themselves: each finds a planted fault.
mod checks {
    use super::*;
    use fairshare_ledger::bandwidth::Settlement;
    use std::panic::{UnwindSafe, catch_unwind};

    fn payment(owner: &str, number: u64, down: u64, cum: u64) -> Block {
        let settlement = Some(Settlement { cum, ..Settlement::default() });
        let bandwidth = Bandwidth { down, total_down: cum, settlement, ..Bandwidth::default() };
        Block {
            owner: owner.to_owned(),
            number,
            link_owner: "b".to_owned(),
            link_number: 0,
            hash: format!("{owner}-{number}"),
            previous: format!("{owner}-{}", number - 1),
            kind: "tribler_bandwidth".to_owned(),
            transaction: bandwidth.encode().to_vec(),
        }
    }

    fn answer(payment: &Block, number: u64) -> Block {
        let mut bandwidth = payment.bandwidth();
        (bandwidth.up, bandwidth.down) = (bandwidth.down, bandwidth.up);
        Block {
            owner: payment.link_owner.clone(),
            number,
            link_owner: payment.owner.clone(),
            link_number: payment.number,
            hash: format!("b-{number}"),
            previous: format!("b-{}", number - 1),
            kind: payment.kind.clone(),
            transaction: bandwidth.encode().to_vec(),
        }
    }

    fn paid_once(blocks: &[Block]) -> u64 {
        let mut seen = Seen::default();
        seen.see(blocks);
        assert_paid_once(&seen, "a", "b")
    }

    fn is_found<T>(fault: impl FnOnce() -> T + UnwindSafe) -> bool {
        catch_unwind(fault).is_err()
    }

    #[test]
    fn two_blocks_under_one_number_are_found() {
        let one = payment("a", 1, 5, 5);
        let other = Block { hash: "another".to_owned(), ..one.clone() };
        assert!(is_found(move || Seen::default().see(&[one, other])));
    }

    #[test]
    fn a_gap_and_a_rewritten_chain_are_found() {
        let [one, two, three] = [1, 2, 3].map(|number| payment("a", number, 5, 5 * number));
        assert_is_one_chain(&[one.clone(), two.clone(), three.clone()]);
        let rewritten = Block { previous: "another".to_owned(), ..two };
        let first = one.clone();
        assert!(is_found(move || assert_is_one_chain(&[first, three])));
        assert!(is_found(move || assert_is_one_chain(&[one, rewritten])));
    }

    #[test]
    fn a_payment_twice_an_answer_twice_and_no_answer_are_found() {
        let (one, two) = (payment("a", 1, 5, 5), payment("a", 2, 7, 12));
        let (first, second) = (answer(&one, 1), answer(&two, 2));
        assert_eq!(paid_once(&[one.clone(), two.clone(), first.clone(), second.clone()]), 12);
        let repeated = payment("a", 2, 5, 5);
        let its_answer = answer(&repeated, 2);
        let (a, b) = (one.clone(), first.clone());
        assert!(is_found(move || paid_once(&[a, repeated, b, its_answer])));
        let (a, b, again) = (one.clone(), first, answer(&one, 2));
        assert!(is_found(move || paid_once(&[a, b, again])));
        assert!(is_found(move || paid_once(&[one])));
    }
}
