//! Two ports, a virtual clock, and a path between them that delays, loses, doubles and overtakes.

use super::*;
use crate::utp::packet::HEADER_LEN;
use fairshare_crypto::Rng;
use proptest::prelude::*;

/// A path between two ports, the same both ways.
#[derive(Clone, Copy, Debug)]
struct Path {
    /// One way.
    delay: Duration,
    /// Datagrams lost of a thousand.
    loss: u64,
    /// Datagrams doubled of a thousand.
    doubled: u64,
    /// Datagrams that take up to this much longer, each for itself: they overtake each other.
    jitter: Duration,
    /// Bytes per second, if it is limited; what would wait for longer than `queue` is dropped.
    rate: Option<u64>,
    queue: Duration,
    /// Longer datagrams are dropped.
    mtu: usize,
    /// The masks of acknowledgements are cut to 32 packets, as some implementations do.
    short_masks: bool,
}

const CLEAN: Path = Path {
    delay: Duration::from_millis(25),
    loss: 0,
    doubled: 0,
    jitter: Duration::ZERO,
    rate: None,
    queue: Duration::from_secs(1),
    mtu: 1_400,
    short_masks: false,
};

/// What a side has seen.
#[derive(Debug, Default)]
struct Seen {
    bytes: Vec<u8>,
    connected: Vec<StreamId>,
    accepted: Vec<StreamId>,
    closed: Vec<StreamId>,
    drained: usize,
    datagrams: usize,
}

struct Pair {
    now: Now,
    ports: [Utp; 2],
    seen: [Seen; 2],
    path: Path,
    rng: Rng,
    under_way: BTreeMap<(Instant, u64), (usize, Bytes)>,
    sequence: u64,
    line_free: [Instant; 2],
    /// Nothing reaches the port and nothing leaves it.
    frozen: [bool; 2],
}

const CLIENT: usize = 0;
const SERVER: usize = 1;
const STREAM: StreamId = StreamId(2);
const ACCEPTED: StreamId = StreamId(1);

fn address(side: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, side as u8 + 1], 6881))
}

fn content(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    Rng::from_seed([9; 32]).fill(&mut bytes);
    bytes.into()
}

fn with_short_mask(datagram: Bytes) -> Bytes {
    let packet = Packet::parse(&datagram).expect("our own");
    match packet.mask.get(..4) {
        Some(short) => encode(&packet.header, short, packet.payload),
        None => datagram,
    }
}

impl Pair {
    fn new(path: Path, congestion: Congestion, seed: u8) -> Self {
        let now = Now { mono: Instant::from_micros(u64::from(u32::MAX) - 3_000_000), unix_ms: 0 };
        let config = UtpConfig { congestion, ..UtpConfig::default() };
        let port = |side: u8| Utp::new(config.clone(), Rng::from_seed([seed ^ side; 32]), now);
        Self {
            now,
            ports: [port(0), port(128)],
            seen: Default::default(),
            path,
            rng: Rng::from_seed([seed; 32]).fork("path"),
            under_way: BTreeMap::new(),
            sequence: 0,
            line_free: [now.mono; 2],
            frozen: [false; 2],
        }
    }

    fn connected(path: Path, congestion: Congestion, seed: u8) -> Self {
        let mut pair = Self::new(path, congestion, seed);
        pair.ports[CLIENT].connect(pair.now, STREAM, address(SERVER));
        pair.write(CLIENT, STREAM, content(1));
        pair.run_until(Duration::from_secs(60), |pair| !pair.seen[SERVER].bytes.is_empty());
        pair.seen[SERVER].bytes.clear();
        pair
    }

    fn write(&mut self, side: usize, id: StreamId, bytes: Bytes) {
        self.ports[side].write(self.now, id, bytes);
        self.drain(side);
    }

    fn send(&mut self, from: usize, datagram: Bytes) {
        let path = self.path;
        self.seen[from].datagrams += 1;
        if self.frozen[from] || datagram.len() > path.mtu || self.rng.chance(path.loss, 1_000) {
            return;
        }
        let datagram = if path.short_masks { with_short_mask(datagram) } else { datagram };
        let mut leaves = self.now.mono;
        if let Some(rate) = path.rate {
            let start = self.line_free[from].max(leaves);
            if start.since(leaves) > path.queue {
                return;
            }
            leaves = start + Duration::from_micros((datagram.len() as u64 + 28) * 1_000_000 / rate);
            self.line_free[from] = leaves;
        }
        let copies = 1 + u64::from(self.rng.chance(path.doubled, 1_000));
        for _ in 0..copies {
            let jitter = self.rng.below(path.jitter.as_micros() as u64 + 1);
            self.sequence += 1;
            let at = leaves + path.delay + Duration::from_micros(jitter);
            self.under_way.insert((at, self.sequence), (1 - from, datagram.clone()));
        }
    }

    fn drain(&mut self, side: usize) {
        while let Some(output) = self.ports[side].poll() {
            let seen = &mut self.seen[side];
            match output {
                UtpOutput::Transmit(to, datagram) => {
                    assert_eq!(to, address(1 - side));
                    self.send(side, datagram);
                }
                UtpOutput::Data(_, bytes) => seen.bytes.extend_from_slice(&bytes),
                UtpOutput::Connected(id) => seen.connected.push(id),
                UtpOutput::Accepted(id, _) => seen.accepted.push(id),
                UtpOutput::Closed(id) => seen.closed.push(id),
                UtpOutput::Drained(_, len) => seen.drained += len,
            }
        }
    }

    /// One step of time; false when nothing is left to happen.
    fn step(&mut self, end: Instant) -> bool {
        let datagram = self.under_way.keys().next().map(|(at, _)| *at);
        let timers = self.ports.iter().filter_map(Utp::next_timeout);
        let Some(at) = timers.chain(datagram).min().filter(|at| *at <= end) else {
            self.now.mono = end;
            return false;
        };
        self.now.mono = self.now.mono.max(at);
        while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= self.now.mono) {
            let (side, datagram) = entry.remove();
            if !self.frozen[side] {
                self.ports[side].handle_datagram(self.now, address(1 - side), &datagram);
                self.drain(side);
            }
        }
        for side in [CLIENT, SERVER] {
            if self.ports[side].next_timeout().is_some_and(|at| at <= self.now.mono) {
                self.ports[side].handle_timeout(self.now);
                assert!(self.ports[side].next_timeout().is_none_or(|at| at > self.now.mono));
                self.drain(side);
            }
        }
        true
    }

    fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now.mono;
        while !done(self) {
            assert!(self.step(start + limit), "not done in {limit:?}: {:?}", self.figures());
        }
        self.now.mono.since(start)
    }

    fn run_for(&mut self, span: Duration) {
        let end = self.now.mono + span;
        while self.step(end) {}
    }

    /// Sends bytes from the client to the server, and tells how long it took.
    fn transfer(&mut self, bytes: &Bytes) -> Duration {
        self.write(CLIENT, STREAM, bytes.clone());
        let len = bytes.len();
        let took = self.run_until(Duration::from_secs(3_600), |pair| pair.seen[SERVER].bytes.len() >= len);
        assert!(self.seen[SERVER].bytes == *bytes, "the bytes arrive as they were written");
        took
    }

    fn figures(&self) -> impl std::fmt::Debug {
        let refusals = [CLIENT, SERVER].map(|side| self.ports[side].refusals().collect::<Vec<_>>());
        (self.ports[CLIENT].status(STREAM), self.seen[SERVER].bytes.len(), refusals)
    }
}

/// Whole MB/s of a transfer.
fn rate(len: usize, took: Duration) -> u64 {
    (len as u128 / took.as_micros().max(1)) as u64
}

//= spec/swarm.md#11-transports
#[test]
fn bytes_arrive_exactly_over_paths_that_lose_double_and_overtake() {
    for congestion in [Congestion::Ledbat, Congestion::Loss] {
        for (number, loss) in [0, 10, 50, 100, 200].into_iter().enumerate() {
            let path = Path { loss, doubled: 20, jitter: Duration::from_millis(8), ..CLEAN };
            let mut pair = Pair::connected(path, congestion, number as u8);
            let bytes = content(if loss < 100 { 2 << 20 } else { 256 << 10 });
            let took = pair.transfer(&bytes);
            println!("{congestion:?}, loss {loss}/1000, overtaking: {took:?} {:?}", pair.figures());
        }
    }
}

//= spec/swarm.md#11-transports
#[test]
fn the_window_grows_on_a_long_path_without_loss() {
    for congestion in [Congestion::Ledbat, Congestion::Loss] {
        let mut pair = Pair::connected(CLEAN, congestion, 1);
        let bytes = content(16 << 20);
        let took = pair.transfer(&bytes);
        println!("{congestion:?}, 50 ms, no loss: {} MB/s {:?}", rate(bytes.len(), took), pair.figures());
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(pair.seen[CLIENT].drained, bytes.len() + 1);
    }
}

#[test]
fn a_narrow_line_is_filled_and_its_queue_is_kept_short_by_delay() {
    let path = Path { rate: Some(2_000_000), ..CLEAN };
    let bytes = content(15 << 20);
    let mut pair = Pair::connected(path, Congestion::Ledbat, 1);
    let took = pair.transfer(&bytes);
    let round_trip = pair.ports[CLIENT].status(STREAM).expect("open").round_trip;
    println!("Ledbat on 2 MB/s: {took:?}, {round_trip:?}");
    assert!(took < Duration::from_secs(11), "the line allows 8 s: {took:?}");
    assert!(round_trip < Duration::from_millis(50 + 130), "50 ms, and 100 ms in the queue: {round_trip:?}");
}

#[test]
fn a_path_that_overtakes_does_not_slow_the_window_by_loss() {
    for (millis, jitter) in [(5, 3), (10, 10), (25, 10)] {
        let path = Path {
            delay: Duration::from_millis(millis),
            jitter: Duration::from_millis(jitter),
            rate: Some(20_000_000),
            queue: Duration::from_millis(200),
            ..CLEAN
        };
        let mut pair = Pair::connected(path, Congestion::Loss, 1);
        let bytes = content(15 << 20);
        let took = pair.transfer(&bytes);
        println!("Loss on 20 MB/s, {millis} ms, {jitter} ms overtaking: {took:?} {:?}", pair.figures());
        assert!(took < Duration::from_millis(1_800), "the line allows 0.8 s: {took:?}");
    }
}

#[test]
fn the_loss_of_most_of_a_burst_costs_no_timeout_even_where_masks_are_short() {
    // The line holds 60 packets: the slow start loses whole bursts.
    let (rate, queue) = (Some(40_000_000), Duration::from_millis(2));
    let delay = Duration::from_micros(200);
    let path = Path { rate, queue, delay, short_masks: true, ..CLEAN };
    let mut pair = Pair::connected(path, Congestion::Ledbat, 2);
    let took = pair.transfer(&content(8 << 20));
    let status = pair.ports[CLIENT].status(STREAM).expect("open");
    assert!(status.repeated > 50, "{status:?}");
    assert_eq!(status.timeouts, 0, "{took:?}");
}

#[test]
fn short_queues_on_a_long_path_are_not_overrun_before_it_is_full() {
    // A path of 50 MB/s and 30 ms takes 1.5 MB; its queue holds 70 packets.
    let (rate, queue) = (Some(50_000_000), Duration::from_millis(2));
    for congestion in [Congestion::Ledbat, Congestion::Loss] {
        let mut pair =
            Pair::connected(Path { rate, queue, delay: Duration::from_millis(15), ..CLEAN }, congestion, 3);
        let took = pair.transfer(&content(15 << 20));
        println!("{congestion:?}, 50 MB/s, 30 ms, short queue: {took:?} {:?}", pair.figures());
        let status = pair.ports[CLIENT].status(STREAM).expect("open");
        assert!(status.highest_window > 1_000_000, "{status:?}");
        assert!(took < Duration::from_millis(1_200), "the line allows 0.32 s: {took:?}");
    }
}

#[test]
fn connections_of_an_address_that_cannot_be_reached_end_at_once() {
    let mut pair = Pair::connected(CLEAN, Congestion::Loss, 12);
    let elsewhere = SocketAddr::from(([192, 0, 2, 77], 6881));
    pair.ports[CLIENT].unreachable(pair.now, elsewhere);
    pair.drain(CLIENT);
    assert!(pair.seen[CLIENT].closed.is_empty());
    pair.ports[CLIENT].unreachable(pair.now, address(SERVER));
    pair.drain(CLIENT);
    assert_eq!((&pair.seen[CLIENT].closed, pair.ports[CLIENT].connections()), (&vec![STREAM], 0));
}

#[test]
fn a_closed_connection_delivers_what_was_written_and_both_ends_hear_of_the_end_once() {
    let path = Path { loss: 100, ..CLEAN };
    let mut pair = Pair::connected(path, Congestion::Ledbat, 3);
    let bytes = content(100_000);
    pair.write(CLIENT, STREAM, bytes.clone());
    pair.ports[CLIENT].close(pair.now, STREAM);
    pair.drain(CLIENT);
    pair.run_for(Duration::from_secs(200));
    assert!(pair.seen[SERVER].bytes == bytes);
    assert_eq!((&pair.seen[CLIENT].connected, &pair.seen[SERVER].accepted), (&vec![STREAM], &vec![ACCEPTED]));
    assert_eq!((&pair.seen[CLIENT].closed, &pair.seen[SERVER].closed), (&vec![STREAM], &vec![ACCEPTED]));
    assert_eq!([pair.ports[CLIENT].connections(), pair.ports[SERVER].connections()], [0, 0]);
    assert_eq!([pair.ports[CLIENT].next_timeout(), pair.ports[SERVER].next_timeout()], [None, None]);
}

#[test]
fn an_end_in_order_takes_one_round_trip() {
    let mut pair = Pair::connected(CLEAN, Congestion::Ledbat, 3);
    pair.ports[CLIENT].close(pair.now, STREAM);
    pair.drain(CLIENT);
    let took = pair.run_until(Duration::from_secs(9), |pair| pair.seen[CLIENT].closed == [STREAM]);
    assert!(took <= Duration::from_millis(51), "{took:?}");
}

#[test]
fn both_ends_may_close_at_once() {
    let mut pair = Pair::connected(CLEAN, Congestion::Ledbat, 3);
    for (side, id) in [(CLIENT, STREAM), (SERVER, ACCEPTED)] {
        pair.ports[side].close(pair.now, id);
        pair.drain(side);
    }
    pair.run_for(Duration::from_secs(20));
    assert_eq!((pair.seen[CLIENT].closed.len(), pair.seen[SERVER].closed.len()), (1, 1));
    assert_eq!([pair.ports[CLIENT].connections(), pair.ports[SERVER].connections()], [0, 0]);
}

#[test]
fn a_connect_to_nobody_fails_in_time_and_one_to_a_port_that_refuses_fails_too() {
    let mut pair = Pair::new(CLEAN, Congestion::Ledbat, 4);
    pair.frozen[SERVER] = true;
    pair.ports[CLIENT].connect(pair.now, STREAM, address(SERVER));
    pair.drain(CLIENT);
    let took = pair.run_until(Duration::from_secs(60), |pair| !pair.seen[CLIENT].closed.is_empty());
    assert_eq!(took, UtpConfig::default().connect_timeout);
    assert!(pair.seen[CLIENT].datagrams >= 4, "the opening packet was repeated");
    assert_eq!(pair.ports[CLIENT].connections(), 0);
}

#[test]
fn an_end_that_vanished_is_noticed_and_a_reset_ends_at_once() {
    let mut pair = Pair::connected(CLEAN, Congestion::Ledbat, 5);
    pair.frozen[SERVER] = true;
    pair.write(CLIENT, STREAM, content(10_000));
    pair.run_until(Duration::from_secs(90), |pair| pair.seen[CLIENT].closed == [STREAM]);
    // The other end comes back from its sleep and learns that nobody knows it any more.
    pair.frozen[SERVER] = false;
    pair.write(SERVER, ACCEPTED, content(1));
    let took = pair.run_until(Duration::from_secs(5), |pair| pair.seen[SERVER].closed == [ACCEPTED]);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn an_opening_packet_alone_tells_nobody_and_is_forgotten() {
    let mut pair = Pair::new(CLEAN, Congestion::Ledbat, 6);
    let syn = |connection: u16| {
        let header =
            Header { kind: Kind::Syn, connection, sent_at: 0, delay: 0, window: 1_000, seq: 5, ack: 0 };
        encode(&header, &[], &[])
    };
    for name in 0..1_000 {
        pair.ports[SERVER].handle_datagram(pair.now, address(CLIENT), &syn(name * 2));
    }
    assert_eq!(pair.ports[SERVER].connections(), MAX_HALF_OPEN);
    while let Some(output) = pair.ports[SERVER].poll() {
        assert!(matches!(output, UtpOutput::Transmit(..)), "{output:?}");
    }
    pair.run_for(Duration::from_secs(11));
    assert_eq!(pair.ports[SERVER].connections(), 0);
    assert!(pair.seen[SERVER].closed.is_empty());
}

#[test]
fn a_reader_that_does_not_read_closes_the_window_and_reading_opens_it() {
    let mut pair = Pair::connected(CLEAN, Congestion::Loss, 7);
    let bytes = content(8 << 20);
    pair.write(CLIENT, STREAM, bytes.clone());
    // The server's outputs are left lying, so that nothing it received counts as read.
    let end = pair.now.mono + Duration::from_secs(20);
    let mut held = Vec::new();
    while pair.now.mono < end {
        let Some(at) = pair
            .under_way
            .keys()
            .next()
            .map(|(at, _)| *at)
            .into_iter()
            .chain(pair.ports.iter().filter_map(Utp::next_timeout))
            .min()
        else {
            break;
        };
        pair.now.mono = pair.now.mono.max(at);
        while let Some(entry) = pair.under_way.first_entry().filter(|entry| entry.key().0 <= pair.now.mono) {
            let (side, datagram) = entry.remove();
            pair.ports[side].handle_datagram(pair.now, address(1 - side), &datagram);
        }
        pair.ports.iter_mut().for_each(|port| port.handle_timeout(pair.now));
        pair.drain(CLIENT);
        // Only the datagrams leave.
        let port = &mut pair.ports[SERVER];
        while let Some(id) = port.touched.pop_first() {
            port.flush(id);
        }
        let (datagrams, rest): (Vec<_>, Vec<_>) =
            port.out.drain(..).partition(|output| matches!(output, UtpOutput::Transmit(..)));
        held.extend(rest);
        for output in datagrams {
            let UtpOutput::Transmit(_, datagram) = output else { continue };
            pair.send(SERVER, datagram);
        }
    }
    let len = |outputs: &[UtpOutput]| -> usize {
        outputs
            .iter()
            .map(|output| if let UtpOutput::Data(_, bytes) = output { bytes.len() } else { 0 })
            .sum()
    };
    let received = len(&held);
    assert!((receiving::WINDOW / 2..=receiving::WINDOW + 1_400).contains(&received), "{received}");
    let status = pair.ports[CLIENT].status(STREAM).expect("open");
    assert!(status.timeouts > 1 && status.window > 1_000_000, "a closed window is no congestion: {status:?}");
    pair.ports[SERVER].out.extend(held);
    pair.drain(SERVER);
    let took = pair.run_until(Duration::from_secs(60), |pair| pair.seen[SERVER].bytes.len() >= 8 << 20);
    assert!(pair.seen[SERVER].bytes == bytes);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

//= spec/swarm.md#11-transports
#[test]
fn an_idle_connection_says_that_it_is_alive() {
    let mut pair = Pair::connected(CLEAN, Congestion::Ledbat, 8);
    pair.run_for(Duration::from_secs(1));
    let before = pair.seen[CLIENT].datagrams;
    pair.run_for(Duration::from_secs(100));
    assert_eq!(pair.seen[CLIENT].datagrams - before, 3);
    pair.transfer(&content(1_000));
}

#[test]
fn no_datagram_is_longer_than_the_port_allows() {
    let path = Path { mtu: 576, loss: 50, jitter: Duration::from_millis(5), ..CLEAN };
    let mut pair = Pair::new(path, Congestion::Loss, 9);
    for port in &mut pair.ports {
        port.config.max_payload = 576;
    }
    pair.ports[CLIENT].connect(pair.now, STREAM, address(SERVER));
    pair.transfer(&content(300_000));
}

#[test]
fn many_connections_share_a_port() {
    let mut pair = Pair::new(CLEAN, Congestion::Ledbat, 10);
    let each = content(20_000);
    for number in 1..=200 {
        pair.ports[CLIENT].connect(pair.now, StreamId(number * 2), address(SERVER));
        pair.write(CLIENT, StreamId(number * 2), each.clone());
    }
    pair.run_until(Duration::from_secs(30), |pair| pair.seen[SERVER].bytes.len() == 200 * each.len());
    assert_eq!(pair.seen[SERVER].accepted.len(), 200);
}

#[test]
fn bytes_with_an_acknowledgement_of_what_was_not_sent_are_not_taken() {
    let mut pair = Pair::connected(CLEAN, Congestion::Ledbat, 14);
    let connection = pair.ports[SERVER].connections.get(&ACCEPTED).expect("open");
    let (name, seq) = (connection.receive_id, connection.receiving.ack().wrapping_add(1));
    let (newest, none) = (connection.sending.next_seq().wrapping_sub(1), pair.seen[SERVER].bytes.len());
    for ack in [newest.wrapping_add(1), newest.wrapping_add(30_000), newest.wrapping_sub(3_000)] {
        let header = Header { kind: Kind::Data, connection: name, sent_at: 0, delay: 0, window: 9, seq, ack };
        pair.ports[SERVER].handle_datagram(pair.now, address(CLIENT), &encode(&header, &[], b"forged"));
        pair.drain(SERVER);
        assert_eq!(pair.seen[SERVER].bytes.len(), none);
    }
    assert_eq!(pair.ports[SERVER].refusals().map(|(_, count)| count).sum::<u64>(), 3);
    pair.transfer(&content(10_000));
}

#[test]
fn in_a_full_port_connections_that_are_ending_give_way() {
    let mut pair = Pair::connected(CLEAN, Congestion::Ledbat, 13);
    pair.ports[SERVER].config.max_connections = 1;
    let second = StreamId(4);
    pair.ports[CLIENT].connect(pair.now, second, address(SERVER));
    pair.write(CLIENT, second, content(1));
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.seen[SERVER].accepted, [ACCEPTED], "an open one does not");
    pair.ports[SERVER].close(pair.now, ACCEPTED);
    pair.drain(SERVER);
    pair.run_for(Duration::from_secs(3));
    assert_eq!(pair.seen[SERVER].accepted, [ACCEPTED, StreamId(3)]);
    assert_eq!(pair.seen[SERVER].closed, [ACCEPTED]);
}

#[test]
fn a_reset_that_names_no_packet_under_way_ends_nothing() {
    let mut pair = Pair::connected(CLEAN, Congestion::Ledbat, 11);
    let name = pair.ports[CLIENT].connections.get(&STREAM).expect("open").receive_id;
    let next = pair.ports[CLIENT].connections.get(&STREAM).expect("open").sending.next_seq();
    for ack in 0..=u16::MAX {
        if next.wrapping_sub(ack) > 100 {
            let header =
                Header { kind: Kind::Reset, connection: name, sent_at: 0, delay: 0, window: 0, seq: 0, ack };
            pair.ports[CLIENT].handle_datagram(pair.now, address(SERVER), &encode(&header, &[], &[]));
        }
    }
    pair.transfer(&content(10_000));
    assert!(pair.seen[CLIENT].closed.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_datagrams_never_panic_and_do_not_kill_a_connection(
        seed in any::<u8>(),
        hostile in prop::collection::vec((0usize..5, any::<[u8; 24]>(), any::<bool>(), 0usize..80), 1..200),
    ) {
        let mut pair = Pair::connected(CLEAN, Congestion::Ledbat, seed);
        let bytes = content(200_000);
        pair.write(CLIENT, STREAM, bytes.clone());
        let name = pair.ports[SERVER].connections.get(&ACCEPTED).expect("open").receive_id;
        for (kind, fields, known, len) in hostile {
            let mut datagram = vec![(kind as u8) << 4 | 1, 0];
            datagram.extend_from_slice(&if known { name.to_be_bytes() } else { [fields[0], fields[1]] });
            datagram.extend_from_slice(&fields[2..18]);
            datagram.extend_from_slice(&vec![fields[19]; len]);
            datagram[1] = fields[20] % 4;
            // What an observer of the path could forge is not guarded against: an end or bytes at the right place.
            let near = |a: u16, b: u16| a.wrapping_sub(b).wrapping_add(2_100) < 4_200;
            let server = pair.ports[SERVER].connections.get(&ACCEPTED).expect("open");
            let [seq, ack] = [[datagram[16], datagram[17]], [datagram[18], datagram[19]]].map(u16::from_be_bytes);
            let forged = near(seq, server.receiving.ack()) || near(ack, server.sending.next_seq());
            if datagram.len() >= HEADER_LEN && (!known || !forged) {
                pair.ports[SERVER].handle_datagram(pair.now, address(CLIENT), &datagram);
                while let Some(output) = pair.ports[SERVER].poll() {
                    if let UtpOutput::Data(ACCEPTED, data) = output {
                        pair.seen[SERVER].bytes.extend_from_slice(&data);
                    }
                }
            }
            pair.step(pair.now.mono + Duration::from_secs(1));
        }
        let len = bytes.len();
        pair.run_until(Duration::from_secs(60), |pair| pair.seen[SERVER].bytes.len() >= len);
        prop_assert!(pair.seen[SERVER].bytes == bytes);
    }

    #[test]
    fn any_datagrams_never_panic(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..100)) {
        let mut pair = Pair::connected(CLEAN, Congestion::Loss, 1);
        for (number, mut datagram) in datagrams.into_iter().enumerate() {
            if let Some(first) = datagram.first_mut() {
                *first = (*first % 5) << 4 | 1;
            }
            let name = pair.ports[SERVER].connections.values().next().map_or(0, |open| open.receive_id);
            if number % 2 == 0 && datagram.len() > 3 {
                datagram[2..4].copy_from_slice(&name.to_be_bytes());
            }
            pair.ports[SERVER].handle_datagram(pair.now, address(CLIENT), &datagram);
            while pair.ports[SERVER].poll().is_some() {}
            pair.now = pair.now.after(Duration::from_millis(20));
            pair.ports[SERVER].handle_timeout(pair.now);
        }
    }
}
