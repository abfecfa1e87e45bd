//! The overlay's distributed hash table: values stored with the nodes whose ids are nearest to their key.
//!
//! The nodes are the peers that the overlay knows in the DHT's community; all of them are asked about in the order of
//! their distance. That is right for a set of a few hundred; a table with buckets would know fewer of more.
//= spec/overlay.md#9-dht-25-dhtdiscoverycommunity

mod lookup;
mod storage;
mod wire;

pub use wire::{Contact, DhtMessage, DhtPacket, DhtValue, NODES_MAX, VALUE_LEN_MAX, VALUES_MAX, node_id};

use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng, SecretKey, ct_eq, hmac_sha256};
use fairshare_wire::{Instant, Now, Rate, SourceLimit};
use lookup::Lookup;
use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;
use storage::Storage;

/// Nodes that are known at once.
const NODES_KNOWN_MAX: usize = 500;
/// Nodes that a value is stored with, and told in an answer.
const CLOSEST: usize = 8;
/// Queries of one address that are served: ten in five seconds.
const QUERY_RATE: Rate = Rate { per_second: 2, burst: 10 };
/// A token is good for this long: the secret changes every five minutes, and the one before counts too.
const SECRET_AGE: Duration = Duration::from_secs(300);
/// Look-ups and stores of ours at once.
const LOOKUPS_MAX: usize = 256;
/// The engine looks around so often while something is under way.
const TICK: Duration = Duration::from_millis(500);

/// What the engine wants done or tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DhtOutput {
    /// Send a datagram.
    Transmit {
        /// To whom.
        to: SocketAddr,
        /// The whole datagram.
        bytes: Bytes,
    },
    /// A look-up is over.
    Found {
        /// Names it.
        ticket: u64,
        /// What the stored values say.
        values: Vec<Bytes>,
    },
}

/// What a look-up is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Aim {
    /// Its values are wanted.
    Values { ticket: u64 },
    /// A value is to be stored with the nearest nodes.
    Store { value: Vec<u8> },
}

/// The engine.
pub struct Dht {
    key: SecretKey,
    me: PublicKey,
    lan: SocketAddr,
    rng: Rng,
    nodes: BTreeMap<PublicKey, SocketAddr>,
    storage: Storage,
    lookups: BTreeMap<u64, (Lookup, Aim)>,
    next_lookup: u64,
    /// Requests under way: which look-up each belongs to.
    asked: BTreeMap<u32, u64>,
    queries: SourceLimit,
    secrets: [[u8; 32]; 2],
    secret_since: Instant,
    next_tick: Option<Instant>,
    out: VecDeque<DhtOutput>,
    refusals: BTreeMap<&'static str, u64>,
}

impl Dht {
    /// An engine that knows nobody yet.
    pub fn new(key: SecretKey, lan: SocketAddrV4, mut rng: Rng, now: Now) -> Self {
        Self {
            me: key.public(),
            key,
            lan: lan.into(),
            secrets: [rng.bytes(), rng.bytes()],
            secret_since: now.mono,
            rng,
            nodes: BTreeMap::new(),
            storage: Storage::default(),
            lookups: BTreeMap::new(),
            next_lookup: 0,
            asked: BTreeMap::new(),
            queries: SourceLimit::new(QUERY_RATE),
            next_tick: None,
            out: VecDeque::new(),
            refusals: BTreeMap::new(),
        }
    }

    /// A peer was met in the community.
    pub fn node_found(&mut self, _now: Now, key: PublicKey, address: SocketAddr) {
        if key != self.me && (self.nodes.len() < NODES_KNOWN_MAX || self.nodes.contains_key(&key)) {
            self.nodes.insert(key, address);
        }
    }

    /// A peer is gone.
    pub fn node_lost(&mut self, _now: Now, key: &PublicKey) {
        self.nodes.remove(key);
    }

    /// Looks a key up. Answer: [`DhtOutput::Found`] with this ticket.
    pub fn find(&mut self, now: Now, ticket: u64, key: [u8; 20]) {
        self.begin(now, key, Aim::Values { ticket });
    }

    /// Stores a value with the nodes nearest to the key, ourselves among them if we are.
    pub fn store(&mut self, now: Now, key: [u8; 20], value: Vec<u8>) {
        if value.len() >= VALUE_LEN_MAX {
            return self.refuse("dht value that is too long");
        }
        self.begin(now, key, Aim::Store { value: DhtValue::unsigned(&value) });
    }

    fn begin(&mut self, now: Now, key: [u8; 20], aim: Aim) {
        if self.lookups.len() >= LOOKUPS_MAX {
            self.refuse("too many look-ups");
            if let Aim::Values { ticket } = aim {
                self.out.push_back(DhtOutput::Found { ticket, values: Vec::new() });
            }
            return;
        }
        let storing = matches!(aim, Aim::Store { .. });
        let mut lookup = Lookup::new(key, self.closest(&key, CLOSEST), storing);
        lookup.add_values(self.storage.get(now.mono, &key, 0));
        self.next_lookup += 1;
        let number = self.next_lookup;
        self.lookups.insert(number, (lookup, aim));
        self.go_on(now, number);
        self.arm(now.mono);
    }

    /// Asks the next nodes, or ends the look-up when nobody is left.
    fn go_on(&mut self, now: Now, number: u64) {
        loop {
            let Some((lookup, _)) = self.lookups.get_mut(&number) else { return };
            let Some(contact) = lookup.next(now.mono) else { break };
            let find = DhtMessage::Find {
                lan: self.lan,
                target: lookup.target(),
                offset: 0,
                force_nodes: lookup.wants_nodes(),
            };
            let identifier = (self.rng.next_u64() >> 32) as u32;
            self.asked.insert(identifier, number);
            self.send(contact.address, &find, identifier);
        }
        if self.lookups.get(&number).is_some_and(|(lookup, _)| lookup.is_over()) {
            self.end(now, number);
        }
    }

    fn end(&mut self, now: Now, number: u64) {
        let Some((lookup, aim)) = self.lookups.remove(&number) else { return };
        self.asked.retain(|_, of| *of != number);
        match aim {
            Aim::Values { ticket } => {
                let values = lookup.values().iter().filter_map(|value| DhtValue::parse(value).ok());
                let values = values.map(|value| Bytes::copy_from_slice(value.data())).collect();
                self.out.push_back(DhtOutput::Found { ticket, values });
            }
            Aim::Store { value } => self.store_at(now, &lookup, &value),
        }
    }

    fn store_at(&mut self, now: Now, lookup: &Lookup, value: &[u8]) {
        let target = lookup.target();
        let nearest = lookup.answered(CLOSEST);
        let own = distance(&node_id(self.lan.ip(), &self.me.mid().0), &target);
        let nearer = nearest.iter().filter(|(contact, _)| distance_of(contact, &target) < own).count();
        if nearer < CLOSEST {
            self.storage.put(now.mono, target, value.to_vec(), nearer);
        }
        for (contact, token) in nearest {
            let store = DhtMessage::Store { token, target, values: vec![value.to_vec()] };
            let identifier = (self.rng.next_u64() >> 32) as u32;
            self.send(contact.address, &store, identifier);
        }
    }

    /// Takes a datagram of the DHT's community that is no introduction.
    pub fn handle_datagram(&mut self, now: Now, from: SocketAddr, datagram: &[u8]) {
        if !self.is_expected(datagram) && !self.queries.take(now.mono, from.ip()) {
            return self.refuse("too many dht queries of one node");
        }
        let Ok(packet) = DhtPacket::parse(datagram) else { return self.refuse("malformed dht packet") };
        if packet.sender == self.me {
            return self.refuse("own dht packet");
        }
        self.take(now, from, packet);
    }

    /// Whether the identifier at its place is one that we wait for: answers are not counted as queries.
    fn is_expected(&self, datagram: &[u8]) -> bool {
        const IDENTIFIER_AT: usize = 23 + 2 + 74;
        let bytes = datagram.get(IDENTIFIER_AT..IDENTIFIER_AT + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.is_some_and(|bytes| self.asked.contains_key(&u32::from_be_bytes(bytes)))
    }

    fn take(&mut self, now: Now, from: SocketAddr, packet: DhtPacket) {
        let DhtPacket { sender, identifier, message } = packet;
        match message {
            DhtMessage::Ping => self.send(from, &DhtMessage::Pong, identifier),
            DhtMessage::Find { target, offset, force_nodes, .. } => {
                let values = if force_nodes {
                    Vec::new()
                } else {
                    self.storage.get(now.mono, &target, offset as usize)
                };
                let nodes = if values.is_empty() { self.closest(&target, NODES_MAX) } else { Vec::new() };
                let nodes = nodes.into_iter().filter(|contact| contact.key != sender).collect();
                let token = self.token(now.mono, from, &sender, 0);
                self.send(from, &DhtMessage::Found { token, values, nodes }, identifier);
            }
            DhtMessage::Store { token, target, values } => {
                if !self.is_token(now.mono, from, &sender, &token) {
                    return self.refuse("dht store without its token");
                }
                let own = distance(&node_id(self.lan.ip(), &self.me.mid().0), &target);
                let nearer = self.nodes.iter().filter(|(key, address)| {
                    distance_of(&Contact { key: **key, address: **address }, &target) < own
                });
                let nearer = nearer.count();
                for value in values {
                    if value.len() <= VALUE_LEN_MAX && DhtValue::parse(&value).is_ok() {
                        self.storage.put(now.mono, target, value, nearer);
                    } else {
                        self.refuse("dht value that is not stored");
                    }
                }
                self.send(from, &DhtMessage::Stored, identifier);
            }
            DhtMessage::Found { token, values, nodes } => {
                self.found(now, from, &sender, identifier, token, values, &nodes);
            }
            DhtMessage::Pong | DhtMessage::Stored | DhtMessage::PeerStored => {}
            _ => self.refuse("dht message that is not served"),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one message and who sent it")]
    fn found(
        &mut self,
        now: Now,
        from: SocketAddr,
        sender: &PublicKey,
        identifier: u32,
        token: [u8; 20],
        values: Vec<Vec<u8>>,
        nodes: &[Contact],
    ) {
        let Some(number) = self.asked.get(&identifier).copied() else {
            return self.refuse("dht answer that nobody waits for");
        };
        let Some((lookup, _)) = self.lookups.get_mut(&number) else { return };
        if !lookup.answer(Contact { address: from, key: *sender }, token) {
            return self.refuse("dht answer of another node");
        }
        self.asked.remove(&identifier);
        lookup.add_values(values);
        let me = self.me;
        lookup.add_nodes(nodes.iter().filter(|contact| contact.key != me && is_possible(contact)).copied());
        self.go_on(now, number);
    }

    /// The known nodes nearest to a key.
    fn closest(&self, target: &[u8; 20], count: usize) -> Vec<Contact> {
        let mut all: Vec<Contact> =
            self.nodes.iter().map(|(key, address)| Contact { address: *address, key: *key }).collect();
        all.sort_by_key(|contact| distance_of(contact, target));
        all.truncate(count);
        all
    }

    // ---- tokens ----

    fn token(&mut self, now: Instant, from: SocketAddr, sender: &PublicKey, age: usize) -> [u8; 20] {
        if now.since(self.secret_since) >= SECRET_AGE {
            self.secrets = [self.rng.bytes(), self.secrets[0]];
            self.secret_since = now;
        }
        let text = [from.to_string().as_bytes(), sender.as_bytes()].concat();
        let mac = hmac_sha256(&self.secrets[age], &text);
        let mut token = [0; 20];
        token.copy_from_slice(&mac[..20]);
        token
    }

    fn is_token(&mut self, now: Instant, from: SocketAddr, sender: &PublicKey, token: &[u8; 20]) -> bool {
        (0..2).any(|age| ct_eq(&self.token(now, from, sender, age), token))
    }

    // ---- time and outputs ----

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.next_tick.is_none_or(|at| at > now.mono) {
            return;
        }
        self.next_tick = None;
        for number in self.lookups.keys().copied().collect::<Vec<_>>() {
            if let Some((lookup, _)) = self.lookups.get_mut(&number) {
                lookup.give_up_late(now.mono);
            }
            self.go_on(now, number);
        }
        self.storage.expire(now.mono);
        self.arm(now.mono);
    }

    fn arm(&mut self, now: Instant) {
        if !self.lookups.is_empty() {
            self.next_tick = Some(self.next_tick.unwrap_or(now + TICK));
        }
    }

    /// When to come back.
    pub const fn next_timeout(&self) -> Option<Instant> {
        self.next_tick
    }

    /// The next output, until there is none.
    pub fn poll(&mut self) -> Option<DhtOutput> {
        self.out.pop_front()
    }

    /// How often something was refused, by reason.
    pub const fn refusals(&self) -> &BTreeMap<&'static str, u64> {
        &self.refusals
    }

    fn send(&mut self, to: SocketAddr, message: &DhtMessage, identifier: u32) {
        let bytes = message.sign(&self.key, identifier).into();
        self.out.push_back(DhtOutput::Transmit { to, bytes });
    }

    fn refuse(&mut self, reason: &'static str) {
        *self.refusals.entry(reason).or_default() += 1;
    }
}

/// How far two ids are from each other.
fn distance(a: &[u8; 20], b: &[u8; 20]) -> [u8; 20] {
    let mut out = [0; 20];
    for (out, (a, b)) in out.iter_mut().zip(a.iter().zip(b)) {
        *out = a ^ b;
    }
    out
}

/// Whether somebody can answer there: others say where, and we would send.
fn is_possible(contact: &Contact) -> bool {
    let ip = contact.address.ip();
    contact.address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}

fn distance_of(contact: &Contact, target: &[u8; 20]) -> [u8; 20] {
    distance(&node_id(contact.address.ip(), &contact.key.mid().0), target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::SIGNATURE_LEN;

    struct Town {
        nodes: Vec<(Dht, SocketAddr)>,
        now: Now,
        rng: Rng,
        /// Datagrams in a hundred that are lost.
        loss: u64,
    }

    impl Town {
        fn new(count: u8) -> Self {
            let now = Now { mono: Instant::from_micros(1_000_000), unix_ms: 1_700_000_000_000 };
            let nodes: Vec<_> = (1..=count)
                .map(|number| {
                    let key = SecretKey::generate(&mut Rng::from_seed([number; 32]));
                    let at = SocketAddrV4::new([10, number, 3, 4].into(), 7_000);
                    (Dht::new(key, at, Rng::from_seed([number ^ 0x80; 32]), now), SocketAddr::from(at))
                })
                .collect();
            let mut town = Self { nodes, now, rng: Rng::from_seed([1; 32]), loss: 0 };
            let known: Vec<_> = town.nodes.iter().map(|(dht, at)| (dht.me, *at)).collect();
            // Everybody knows a third of the others.
            for (index, (dht, _)) in town.nodes.iter_mut().enumerate() {
                for (other, (key, at)) in known.iter().enumerate() {
                    if (index + other) % 3 == 0 || other == (index + 1) % known.len() {
                        dht.node_found(now, *key, *at);
                    }
                }
            }
            town
        }

        /// Delivers until nothing is under way; what the node with this index found.
        fn settle(&mut self, index: usize) -> Option<Vec<Bytes>> {
            let mut found = None;
            for _ in 0..2_000 {
                let mut flights = Vec::new();
                for (at, (dht, from)) in self.nodes.iter_mut().enumerate() {
                    while let Some(output) = dht.poll() {
                        match output {
                            DhtOutput::Transmit { to, bytes } => flights.push((*from, to, bytes)),
                            DhtOutput::Found { values, .. } if at == index => found = Some(values),
                            DhtOutput::Found { .. } => {}
                        }
                    }
                }
                for (from, to, bytes) in flights {
                    if self.rng.chance(self.loss, 100) {
                        continue;
                    }
                    if let Some((dht, _)) = self.nodes.iter_mut().find(|(_, at)| *at == to) {
                        dht.handle_datagram(self.now, from, &bytes);
                    }
                }
                self.now = self.now.after(Duration::from_millis(100));
                for (dht, _) in &mut self.nodes {
                    dht.handle_timeout(self.now);
                }
            }
            found
        }
    }

    //= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
    #[test]
    fn what_one_node_stores_another_finds_with_loss_too() {
        for loss in [0, 15] {
            let mut town = Town::new(25);
            town.loss = loss;
            let now = town.now;
            town.nodes[0].0.store(now, [7; 20], b"a seeder waits here".to_vec());
            town.settle(0);
            let now = town.now;
            town.nodes[13].0.find(now, 5, [7; 20]);
            assert_eq!(town.settle(13), Some(vec![Bytes::from_static(b"a seeder waits here")]), "{loss} %");
        }
    }

    #[test]
    fn a_key_under_which_nothing_is_stored_is_found_empty() {
        let mut town = Town::new(10);
        let now = town.now;
        town.nodes[3].0.find(now, 5, [9; 20]);
        assert_eq!(town.settle(3), Some(Vec::new()));
    }

    //= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
    #[test]
    fn nobody_stores_without_a_token_of_the_last_minutes() {
        let mut town = Town::new(2);
        let thief = SecretKey::generate(&mut Rng::from_seed([99; 32]));
        let store =
            |token| DhtMessage::Store { token, target: [1; 20], values: vec![DhtValue::unsigned(b"x")] };
        let from: SocketAddr = "10.9.9.9:1".parse().expect("an address");
        let (now, dht) = (town.now, &mut town.nodes[0].0);
        dht.handle_datagram(now, from, &store([0; 20]).sign(&thief, 1));
        assert_eq!(dht.storage.get(now.mono, &[1; 20], 0), Vec::<Vec<u8>>::new());
        let token = dht.token(now.mono, from, &thief.public(), 0);
        let later = now.after(Duration::from_secs(400));
        dht.handle_datagram(later, from, &store(token).sign(&thief, 2));
        assert_eq!(dht.storage.get(later.mono, &[1; 20], 0).len(), 1);
        let much_later = later.after(Duration::from_secs(700));
        dht.token(much_later.mono, from, &thief.public(), 0);
        let last = much_later.after(Duration::from_secs(400));
        assert!(!dht.is_token(last.mono, from, &thief.public(), &token));
    }

    //= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
    #[test]
    fn ten_queries_of_one_address_are_served_at_once_and_answers_do_not_count() {
        let mut town = Town::new(2);
        let asker = SecretKey::generate(&mut Rng::from_seed([99; 32]));
        let from: SocketAddr = "10.9.9.9:1".parse().expect("an address");
        let (now, dht) = (town.now, &mut town.nodes[0].0);
        dht.node_found(now, asker.public(), from);
        dht.find(now, 1, [1; 20]);
        let mut answers = Vec::new();
        while let Some(DhtOutput::Transmit { to, bytes }) = dht.poll() {
            if to == from {
                let asked = DhtPacket::parse(&bytes).expect("ours");
                let found = DhtMessage::Found { token: [1; 20], values: Vec::new(), nodes: Vec::new() };
                answers.push(found.sign(&asker, asked.identifier));
            }
        }
        assert_eq!(answers.len(), 1);
        for identifier in 0..15 {
            dht.handle_datagram(now, from, &DhtMessage::Ping.sign(&asker, identifier));
        }
        dht.handle_datagram(now, from, &answers[0]);
        assert_eq!(dht.refusals(), &BTreeMap::from([("too many dht queries of one node", 5)]));
        assert_eq!(std::iter::from_fn(|| dht.poll()).count(), 10, "pongs");
        let later = now.after(Duration::from_secs(5));
        dht.handle_datagram(later, from, &DhtMessage::Ping.sign(&asker, 1));
        assert!(dht.poll().is_some());
    }

    #[test]
    fn an_answer_counts_only_from_whom_was_asked_and_leads_to_no_impossible_address() {
        let mut town = Town::new(1);
        let [asked, other] = [98, 99].map(|seed| SecretKey::generate(&mut Rng::from_seed([seed; 32])));
        let from: SocketAddr = "10.9.9.9:1".parse().expect("an address");
        let (now, dht) = (town.now, &mut town.nodes[0].0);
        dht.node_found(now, asked.public(), from);
        dht.find(now, 1, [1; 20]);
        let Some(DhtOutput::Transmit { bytes, .. }) = dht.poll() else { panic!("it asks") };
        let identifier = DhtPacket::parse(&bytes).expect("ours").identifier;
        let nodes = ["0.0.0.0:9", "10.1.1.1:0", "239.1.1.1:9"].map(|address| {
            let address = address.parse().expect("an address");
            Contact { address, key: other.public() }
        });
        let values = vec![DhtValue::unsigned(b"x")];
        let found = DhtMessage::Found { token: [1; 20], values, nodes: nodes.to_vec() };
        dht.handle_datagram(now, from, &found.sign(&other, identifier));
        dht.handle_datagram(now, from, &found.sign(&asked, identifier ^ 1));
        assert_eq!(dht.poll(), None);
        dht.handle_datagram(now, from, &found.sign(&asked, identifier));
        let wanted = DhtOutput::Found { ticket: 1, values: vec![Bytes::from_static(b"x")] };
        assert_eq!(std::iter::from_fn(|| dht.poll()).collect::<Vec<_>>(), [wanted]);
    }

    /// Good packets with changed bytes, under a good signature and under a broken one.
    #[test]
    fn changed_packets_make_no_node_fail_and_store_nothing_without_a_token() {
        let mut town = Town::new(3);
        let mut rng = Rng::from_seed([5; 32]);
        let key = SecretKey::generate(&mut rng);
        let node = Contact { address: "10.1.1.1:1".parse().expect("an address"), key: key.public() };
        let lan = node.address;
        let good = [
            DhtMessage::Ping,
            DhtMessage::Store { token: [1; 20], target: [2; 20], values: vec![vec![0, 1]; 8] },
            DhtMessage::Find { lan, target: [2; 20], offset: u32::MAX, force_nodes: false },
            DhtMessage::Found { token: [1; 20], values: vec![vec![1; 160]; 3], nodes: vec![node; 8] },
            DhtMessage::StorePeer { token: [1; 20], target: [2; 20] },
            DhtMessage::ConnectPeer { lan, target: [2; 20] },
            DhtMessage::PeerConnected { nodes: vec![node; 3] },
        ];
        for round in 0..2_000 {
            let message = &good[rng.index(good.len()).expect("not empty")];
            let mut packet = message.sign(&key, round);
            packet.truncate(packet.len() - SIGNATURE_LEN);
            for _ in 0..rng.below(4) {
                let at = 22 + rng.index(packet.len() - 22).expect("not empty");
                packet[at] = u8::try_from(rng.below(256)).expect("a byte");
            }
            packet.truncate(packet.len() - rng.index(20).expect("not empty"));
            let signature = key.sign(&packet);
            packet.extend_from_slice(&signature.0);
            let from = SocketAddr::from((rng.bytes::<4>(), 9));
            let now = town.now;
            town.nodes[0].0.handle_datagram(now, from, &packet);
            town.nodes[0].0.poll();
        }
        assert!(town.nodes[0].0.storage.get(town.now.mono, &[2; 20], 0).is_empty());
        assert!(town.nodes[0].0.refusals().len() > 2);
    }

    #[test]
    fn noise_is_refused_and_counted() {
        let mut town = Town::new(2);
        let mut rng = Rng::from_seed([3; 32]);
        let from: SocketAddr = "10.9.9.9:1".parse().expect("an address");
        for len in 0..300 {
            let mut noise = vec![0; len];
            rng.fill(&mut noise);
            let now = town.now;
            town.nodes[0].0.handle_datagram(now, from, &noise);
        }
        assert_eq!(town.nodes[0].0.refusals().values().sum::<u64>(), 300);
    }
}
