//! Trackers over UDP (BEP 15, 41): the datagrams, and who waits for which answer.
//!
//! One [`UdpTrackers`] serves all torrents of an engine, so that a farewell is still said when its torrent is gone.
//! An answer is believed only with a transaction number that was drawn for it, from where the number was sent to, and
//! an announcement is only made with a number that the tracker gave us.
//= spec/swarm.md#10-discovery

use super::announcer::TrackerId;
use super::reply::{AnnounceError, AnnounceReply, MAX_TRACKER_PEERS};
use super::request::{AnnounceEvent, AnnounceRequest};
use crate::extension::compact_addresses;
use crate::metainfo::InfoHash;
use bytes::Bytes;
use fairshare_crypto::Rng;
use fairshare_wire::{Address, Instant, ReadError, Reader, Writer};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What a request for a connection begins with.
const PROTOCOL: u64 = 0x417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const ERROR: u32 = 3;
/// An option of BEP 41 that carries path and query of the tracker's address.
const URL_DATA: u8 = 2;
/// A connection number is used for this long.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// Waits for an answer: the first is short, because a datagram is lost more easily than a tracker.
const WAITS: [Duration; 4] =
    [Duration::from_secs(3), Duration::from_secs(15), Duration::from_secs(30), Duration::from_secs(60)];
/// Announcements under way in the whole engine, farewells included.
const MAX_ASKED: usize = 4_096;
/// Connection numbers remembered.
const MAX_CONNECTIONS: usize = 1_024;
/// Bytes of a tracker's text that are kept.
const MAX_TEXT_LEN: usize = 512;
/// Bytes of path and query that are told.
const MAX_URL_LEN: usize = 1_020;

/// A tracker's address taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UdpUrl {
    pub(crate) address: Address,
    path: String,
}

impl UdpUrl {
    /// Reads `udp://host:port[/path][?query]`.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("udp") {
            return None;
        }
        let rest = rest.split('#').next().unwrap_or(rest);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let (host, port) = authority.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let address = match literal.parse::<IpAddr>() {
            Ok(ip) => Address::Ip(SocketAddr::new(ip, port)),
            Err(_) if is_name(host) => Address::Host(host.to_ascii_lowercase(), port),
            Err(_) => return None,
        };
        Some(Self { address, path: path.to_owned() })
    }
}

fn is_name(host: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    !host.is_empty() && host.len() <= 253 && host.chars().all(plain)
}

/// What an engine does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UdpStep {
    /// Send a datagram to a tracker.
    Send { torrent: InfoHash, to: Address, bytes: Bytes },
    /// An announcement came to its end. Nothing is told about farewells.
    Done { torrent: InfoHash, tracker: TrackerId, result: Result<AnnounceReply, UdpFailure> },
}

/// Why an announcement failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UdpFailure {
    /// The tracker refused.
    Refused(AnnounceError),
    /// It said nothing that could be used.
    Silent,
    /// There are too many announcements under way.
    Busy,
}

/// An announcement under way.
#[derive(Debug)]
struct Asked {
    torrent: InfoHash,
    tracker: TrackerId,
    farewell: bool,
    address: Address,
    /// The announcement without its first 16 bytes.
    body: Bytes,
    /// The tracker's number for us; until it is known, it is asked for.
    connection: Option<u64>,
    tries: usize,
    next_at: Instant,
}

/// A number that a tracker gave us.
#[derive(Debug)]
struct Connection {
    number: u64,
    /// Where it came from: answers to what is sent with it must come from there too.
    source: Address,
    until: Instant,
}

/// All announcements over UDP.
#[derive(Debug)]
pub(crate) struct UdpTrackers {
    rng: Rng,
    /// By the transaction number of the last datagram.
    asked: BTreeMap<u32, Asked>,
    connections: BTreeMap<Address, Connection>,
}

impl UdpTrackers {
    /// Nothing under way.
    pub(crate) const fn new(rng: Rng) -> Self {
        Self { rng, asked: BTreeMap::new(), connections: BTreeMap::new() }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// Makes an announcement.
    pub(crate) fn announce(
        &mut self,
        now: Instant,
        tracker: TrackerId,
        url: &UdpUrl,
        request: &AnnounceRequest<'_>,
    ) -> UdpStep {
        let torrent = request.info_hash;
        if self.asked.len() >= MAX_ASKED {
            return UdpStep::Done { torrent, tracker, result: Err(UdpFailure::Busy) };
        }
        self.connections.retain(|_, connection| connection.until > now);
        let asked = Asked {
            torrent,
            tracker,
            farewell: request.event == Some(AnnounceEvent::Stopped),
            address: url.address.clone(),
            body: body(request, &url.path),
            connection: self.connections.get(&url.address).map(|connection| connection.number),
            tries: 0,
            next_at: now,
        };
        self.send(now, asked)
    }

    /// A datagram came, perhaps from a tracker; `None` if it is none that was waited for.
    pub(crate) fn datagram(&mut self, now: Instant, from: &Address, bytes: &[u8]) -> Option<UdpStep> {
        let mut input = Reader::new(bytes);
        let (action, transaction) = (input.u32().ok()?, input.u32().ok()?);
        let asked = self.asked.get(&transaction)?;
        if !self.may_come_from(asked, from) {
            return None;
        }
        match (action, asked.connection) {
            (CONNECT, None) => {
                let number = input.u64().ok()?;
                let mut asked = self.asked.remove(&transaction)?;
                self.connected(now, &asked.address, from, number);
                (asked.connection, asked.tries) = (Some(number), 0);
                Some(self.send(now, asked))
            }
            (ANNOUNCE, Some(_)) => {
                let reply = reply(&mut input, from).ok()?;
                let asked = self.asked.remove(&transaction)?;
                asked.done(Ok(reply))
            }
            (ERROR, _) => {
                let asked = self.asked.remove(&transaction)?;
                self.connections.remove(&asked.address);
                let error = AnnounceError::Refused { reason: text(input.rest()), retry: None };
                asked.done(Err(UdpFailure::Refused(error)))
            }
            _ => None,
        }
    }

    /// Repeats what was not answered, and gives up what was repeated often enough.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<UdpStep> {
        let due = self.asked.iter().filter(|(_, asked)| asked.next_at <= now);
        let due: Vec<u32> = due.map(|(transaction, _)| *transaction).collect();
        due.into_iter().filter_map(|transaction| self.overdue(now, transaction)).collect()
    }

    fn overdue(&mut self, now: Instant, transaction: u32) -> Option<UdpStep> {
        let mut asked = self.asked.remove(&transaction)?;
        if asked.tries >= WAITS.len() {
            self.connections.remove(&asked.address);
            return asked.done(Err(UdpFailure::Silent));
        }
        let valid = self.connections.get(&asked.address).filter(|connection| connection.until > now);
        asked.connection = valid.map(|connection| connection.number);
        Some(self.send(now, asked))
    }

    fn connected(&mut self, now: Instant, address: &Address, source: &Address, number: u64) {
        if self.connections.len() >= MAX_CONNECTIONS {
            self.connections.pop_first();
        }
        let connection = Connection { number, source: source.clone(), until: now + CONNECTION_LIFE };
        self.connections.insert(address.clone(), connection);
    }

    /// Sends the next datagram of an announcement, under a transaction number of its own.
    fn send(&mut self, now: Instant, mut asked: Asked) -> UdpStep {
        let mut transaction = self.rng.next_u64() as u32;
        while self.asked.contains_key(&transaction) {
            transaction = transaction.wrapping_add(1);
        }
        let mut out = Writer::with_capacity(16 + asked.body.len());
        match asked.connection {
            None => out.u64(PROTOCOL).u32(CONNECT).u32(transaction),
            Some(number) => out.u64(number).u32(ANNOUNCE).u32(transaction).bytes(&asked.body),
        };
        asked.next_at = now + WAITS.get(asked.tries).copied().unwrap_or_default();
        asked.tries += 1;
        let step =
            UdpStep::Send { torrent: asked.torrent, to: asked.address.clone(), bytes: out.finish().into() };
        self.asked.insert(transaction, asked);
        step
    }

    /// Whether an answer may come from there. Where a host name leads is not known before the first answer.
    fn may_come_from(&self, asked: &Asked, from: &Address) -> bool {
        if matches!(asked.address, Address::Ip(_)) {
            return asked.address == *from;
        }
        let known = asked.connection.and_then(|number| {
            self.connections.get(&asked.address).filter(|connection| connection.number == number)
        });
        known.is_none_or(|connection| connection.source == *from)
    }
}

impl Asked {
    fn done(self, result: Result<AnnounceReply, UdpFailure>) -> Option<UdpStep> {
        let Self { torrent, tracker, farewell, .. } = self;
        (!farewell).then_some(UdpStep::Done { torrent, tracker, result })
    }
}

/// An announcement behind its first 16 bytes.
fn body(request: &AnnounceRequest<'_>, path: &str) -> Bytes {
    let event = match request.event {
        None => 0,
        Some(AnnounceEvent::Completed) => 1,
        Some(AnnounceEvent::Started) => 2,
        Some(AnnounceEvent::Stopped) => 3,
    };
    let mut out = Writer::with_capacity(82);
    out.bytes(&request.info_hash.0).bytes(&request.peer_id.0);
    out.u64(request.downloaded).u64(request.left).u64(request.uploaded).u32(event);
    // The tracker takes the address from the datagram.
    out.u32(0).u32(request.key).u32(request.num_want).u16(request.port);
    let told = path.as_bytes();
    for part in told.get(..MAX_URL_LEN).unwrap_or(told).chunks(255) {
        out.u8(URL_DATA).u8(u8::try_from(part.len()).expect("chunks of 255 bytes")).bytes(part);
    }
    out.finish().into()
}

/// Reads the answer to an announcement behind action and transaction.
fn reply(input: &mut Reader<'_>, from: &Address) -> Result<AnnounceReply, ReadError> {
    let (interval, leechers, seeders) = (input.u32()?, input.u32()?, input.u32()?);
    let entry_len = if matches!(from, Address::Ip(SocketAddr::V6(_))) { 18 } else { 6 };
    let list = input.rest();
    let whole = (list.len() / entry_len).min(MAX_TRACKER_PEERS) * entry_len;
    let peers = compact_addresses(list.get(..whole).unwrap_or_default(), entry_len);
    Ok(AnnounceReply {
        peers: peers.map_err(|_| ReadError::Value("peers"))?,
        interval: Some(Duration::from_secs(interval.into())),
        seeders: Some(seeders.into()),
        leechers: Some(leechers.into()),
        ..AnnounceReply::default()
    })
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..MAX_TEXT_LEN).unwrap_or(bytes));
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer_wire::PeerId;
    use crate::tracker::Announcer;
    use fairshare_crypto::Rng;
    use proptest::prelude::*;

    fn request(event: Option<AnnounceEvent>) -> AnnounceRequest<'static> {
        AnnounceRequest {
            info_hash: InfoHash([0xab; 20]),
            peer_id: PeerId(*b"-FS0100-abcdefghijkl"),
            port: 6_881,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            num_want: 100,
            key: 0xbeef,
            event,
            tracker_id: None,
            ipv4: None,
            ipv6: None,
            supports_encryption: false,
        }
    }

    fn tracker() -> TrackerId {
        let tiers = [vec!["udp://192.0.2.1:80".to_owned()]];
        let rng = Rng::from_seed([1; 32]);
        Announcer::new(&tiers, true, rng).poll(Instant::START).expect("due").tracker
    }

    fn trackers() -> UdpTrackers {
        UdpTrackers::new(Rng::from_seed([2; 32]))
    }

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    fn address(text: &str) -> Address {
        Address::Ip(text.parse().expect("address"))
    }

    fn url(text: &str) -> UdpUrl {
        UdpUrl::parse(text).expect("an address of a tracker")
    }

    fn sent(step: &UdpStep) -> &Bytes {
        let UdpStep::Send { bytes, .. } = step else { panic!("a datagram was due, not {step:?}") };
        bytes
    }

    fn answer(action: u32, to: &[u8], rest: &[u8]) -> Vec<u8> {
        [&action.to_be_bytes(), &to[12..16], rest].concat()
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn a_tracker_is_asked_for_a_number_and_told_with_it() {
        let (mut trackers, home) = (trackers(), address("192.0.2.1:80"));
        let event = Some(AnnounceEvent::Started);
        let step =
            trackers.announce(at(0), tracker(), &url("udp://192.0.2.1:80/announce?k=1"), &request(event));
        assert_eq!(hex::encode(&sent(&step)[..12]), "000004172710198000000000");
        assert_eq!(sent(&step).len(), 16);
        let step = trackers.datagram(at(1), &home, &answer(CONNECT, sent(&step), &[7; 8])).expect("answered");
        let announced = sent(&step).clone();
        let expected = format!(
            "{}00000001{}{}2d4653303130302d6162636465666768696a6b6c{}{}",
            "07".repeat(8),
            hex::encode(&announced[12..16]),
            "ab".repeat(20),
            "0000000000000002000000000000000300000000000000010000000200000000",
            "0000beef000000641ae1020d2f616e6e6f756e63653f6b3d31"
        );
        assert_eq!(hex::encode(&announced), expected);
        let page = [0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 2, 192, 0, 2, 9, 0x1a, 0xe1, 9];
        let done = trackers.datagram(at(2), &home, &answer(ANNOUNCE, &announced, &page)).expect("answered");
        let UdpStep::Done { result: Ok(reply), .. } = done else { panic!("an answer was due, not {done:?}") };
        assert_eq!(reply.peers, ["192.0.2.9:6881".parse().expect("address")]);
        assert_eq!(
            (reply.interval, reply.seeders, reply.leechers),
            (Some(Duration::from_secs(1_800)), Some(2), Some(1))
        );
        assert!(trackers.is_empty());
    }

    #[test]
    fn a_number_holds_for_a_minute() {
        let (mut trackers, home) = (trackers(), address("192.0.2.1:80"));
        let ask = |trackers: &mut UdpTrackers, now| {
            trackers.announce(now, tracker(), &url("udp://192.0.2.1:80"), &request(None))
        };
        let step = ask(&mut trackers, at(0));
        trackers.datagram(at(0), &home, &answer(CONNECT, sent(&step), &[7; 8])).expect("answered");
        assert_eq!(sent(&ask(&mut trackers, at(59))).len(), 98);
        assert_eq!(sent(&ask(&mut trackers, at(60))).len(), 16);
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn silence_is_answered_by_patience_and_then_by_giving_up() {
        let mut trackers = trackers();
        trackers.announce(at(0), tracker(), &url("udp://host:80"), &request(None));
        let mut steps = Vec::new();
        for second in 0..=200 {
            steps.extend(trackers.tick(at(second)).into_iter().map(|step| (second, step)));
        }
        let times: Vec<u64> = steps.iter().map(|(second, _)| *second).collect();
        assert_eq!(times, [3, 18, 48, 108]);
        let last = steps.pop().map(|(_, step)| step);
        assert!(matches!(last, Some(UdpStep::Done { result: Err(UdpFailure::Silent), .. })), "{last:?}");
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn answers_from_elsewhere_or_with_another_number_are_not_believed() {
        let (mut trackers, home) = (trackers(), address("192.0.2.1:80"));
        let step = trackers.announce(at(0), tracker(), &url("udp://192.0.2.1:80"), &request(None));
        let good = answer(CONNECT, sent(&step), &[7; 8]);
        assert_eq!(trackers.datagram(at(0), &address("192.0.2.2:80"), &good), None);
        let mut wrong = good.clone();
        wrong[7] ^= 1;
        assert_eq!(trackers.datagram(at(0), &home, &wrong), None);
        assert_eq!(trackers.datagram(at(0), &home, &answer(ANNOUNCE, sent(&step), &[0; 12])), None);
        assert!(trackers.datagram(at(0), &home, &good).is_some());

        // Behind a host name the place of the first answer is kept.
        let step = trackers.announce(at(0), tracker(), &url("udp://host:80"), &request(None));
        let step = trackers.datagram(at(0), &home, &answer(CONNECT, sent(&step), &[8; 8])).expect("answered");
        let good = answer(ANNOUNCE, sent(&step), &[0; 12]);
        assert_eq!(trackers.datagram(at(0), &address("192.0.2.2:80"), &good), None);
        assert!(trackers.datagram(at(0), &home, &good).is_some());
    }

    #[test]
    fn a_refusal_is_told_in_the_trackers_words_and_its_number_is_forgotten() {
        let (mut trackers, home) = (trackers(), address("192.0.2.1:80"));
        let ask = |trackers: &mut UdpTrackers| {
            trackers.announce(at(0), tracker(), &url("udp://192.0.2.1:80"), &request(None))
        };
        let step = ask(&mut trackers);
        let step = trackers.datagram(at(0), &home, &answer(CONNECT, sent(&step), &[7; 8])).expect("answered");
        let done = trackers.datagram(at(0), &home, &answer(ERROR, sent(&step), b"go\naway")).expect("told");
        let UdpStep::Done { result: Err(UdpFailure::Refused(error)), .. } = done else { panic!("{done:?}") };
        assert_eq!(error.to_string(), "the tracker says: goaway");
        assert_eq!(sent(&ask(&mut trackers)).len(), 16);
    }

    #[test]
    fn a_farewell_is_said_and_nobody_hears_of_its_answer() {
        let (mut trackers, home) = (trackers(), address("192.0.2.1:80"));
        let event = Some(AnnounceEvent::Stopped);
        let step = trackers.announce(at(0), tracker(), &url("udp://192.0.2.1:80"), &request(event));
        let step = trackers.datagram(at(0), &home, &answer(CONNECT, sent(&step), &[7; 8])).expect("answered");
        assert_eq!(sent(&step)[83], 3);
        assert_eq!(trackers.datagram(at(0), &home, &answer(ANNOUNCE, sent(&step), &[0; 12])), None);
        assert!(trackers.is_empty());
    }

    #[test]
    fn addresses_of_trackers_are_taken_apart() {
        let of = |text: &str| UdpUrl::parse(text).map(|url| (url.address, url.path));
        let host = |path: &str| Some((Address::Host("t.example".to_owned(), 80), path.to_owned()));
        assert_eq!(of("udp://T.example:80/a?b#c"), host("/a?b"));
        assert_eq!(of("UDP://t.example:80?b"), host("?b"));
        assert_eq!(of("udp://[::1]:9"), Some((address("[::1]:9"), String::new())));
        for bad in
            ["udp://t", "udp://t:0", "udp://:80", "udp://t:99999", "http://t:80", "udp://a b:80", "udp"]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_datagrams_never_panic(rest in prop::collection::vec(any::<u8>(), 0..80), action in 0u32..5) {
            let (mut trackers, home) = (trackers(), address("[2001:db8::1]:80"));
            let step = trackers.announce(at(0), tracker(), &url("udp://host:80"), &request(None));
            if let Some(UdpStep::Send { bytes, .. }) = trackers.datagram(at(0), &home, &answer(action, sent(&step), &rest)) {
                let _ = trackers.datagram(at(0), &home, &answer(action, &bytes, &rest));
            }
            let _ = trackers.datagram(at(0), &home, &rest);
        }
    }
}
