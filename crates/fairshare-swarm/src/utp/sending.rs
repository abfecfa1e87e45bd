//! The sending half of a connection: what waits, what is under way, what was lost.
//!
//! Sequence numbers are counted in 64 bits here; only their last 16 travel. Each transmission has a number of its own
//! as well, in the order of sending: a packet is lost when transmissions that left well after its last one have arrived.
//= spec/swarm.md#11-transports

use super::UtpStatus;
use super::congestion::{Acked, Congestion, Window};
use super::pacing::{Pace, Pacer};
use super::packet::{HEADER_LEN, Header, Kind};
use super::timing::{QueueDelay, RoundTrip};
use bytes::{Bytes, BytesMut};
use fairshare_wire::Instant;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Packets under way at the most: what the mask of an acknowledgement can tell apart.
const MAX_FLIGHT: usize = 2_000;
/// Later transmissions that have to arrive before a packet counts as lost.
const OVERTAKEN: u64 = 3;
/// The same on a path that was seen to change the order, at the most.
const OVERTAKEN_MAX: u64 = 256;
/// Acknowledgements so far behind the newest are taken for late ones, not for forged ones.
const LATE_ACKS: u16 = 2_048;
/// Acknowledgements without news after which the oldest packet is sent again.
const DUPLICATES: u32 = 3;

/// A packet that is not known to have arrived, or stands behind one that is not.
#[derive(Debug)]
struct Sent {
    kind: Kind,
    payload: Bytes,
    sent_at: Instant,
    /// Number of its last transmission.
    transmission: u64,
    times: u32,
    arrived: bool,
    /// Whether it counts as under way: not arrived, not lost.
    under_way: bool,
}

/// A packet to put on the wire now.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) kind: Kind,
    pub(super) seq: u16,
    pub(super) payload: Bytes,
}

/// The sending half.
#[derive(Debug)]
pub(super) struct Sending {
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Bytes that left the queue since this was last told.
    drained: usize,
    /// Longest payload of a packet.
    segment: usize,
    /// Sequence number of the first packet in `flight`.
    first: u64,
    flight: VecDeque<Sent>,
    under_way: u64,
    lost: BTreeSet<u64>,
    /// Transmissions in their order: number and sequence number. Those that are settled are dropped from the front.
    transmissions: VecDeque<(u64, u64)>,
    next_transmission: u64,
    newest_arrived: u64,
    overtaken: u64,
    window: Window,
    round_trip: RoundTrip,
    delay: QueueDelay,
    their_window: u64,
    duplicates: u32,
    repeated: u64,
    timeouts: u64,
    /// Timeouts in a row without an acknowledgement of anything new.
    pub(super) expiries: u32,
    pacer: Pacer,
    /// When the pacer lets the next packet go, if it is the pacer that holds it.
    paced_until: Option<Instant>,
    timeout_at: Option<Instant>,
    probe_at: Option<Instant>,
    /// Whether one packet may go although the other end's window is closed.
    forced: bool,
    /// Whether the window was what stopped the last packet.
    limited: bool,
    fin_wanted: bool,
    fin_sent: bool,
}

impl Sending {
    /// The half whose first packet has the number `seq`.
    pub(super) fn new(rule: Congestion, max_payload: usize, seq: u16) -> Self {
        let segment = max_payload.saturating_sub(HEADER_LEN).max(1);
        Self {
            queue: VecDeque::new(),
            queued: 0,
            drained: 0,
            segment,
            // One turn ahead, so that the number before the first exists.
            first: u64::from(seq) + 0x1_0000,
            flight: VecDeque::new(),
            under_way: 0,
            lost: BTreeSet::new(),
            transmissions: VecDeque::new(),
            next_transmission: 1,
            newest_arrived: 0,
            overtaken: OVERTAKEN,
            window: Window::new(rule, segment),
            round_trip: RoundTrip::default(),
            delay: QueueDelay::default(),
            their_window: segment as u64,
            duplicates: 0,
            repeated: 0,
            timeouts: 0,
            expiries: 0,
            pacer: Pacer::default(),
            paced_until: None,
            timeout_at: None,
            probe_at: None,
            forced: false,
            limited: false,
            fin_wanted: false,
            fin_sent: false,
        }
    }

    // ---- what the owner wants ----

    /// Puts bytes behind what waits.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.queued += bytes.len();
        if !bytes.is_empty() {
            self.queue.push_back(bytes);
        }
    }

    /// Bytes that wait.
    pub(super) const fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes that left the queue since the last call.
    pub(super) const fn take_drained(&mut self) -> usize {
        std::mem::replace(&mut self.drained, 0)
    }

    /// Nothing more will be written: the end follows the queue.
    pub(super) const fn finish(&mut self) {
        self.fin_wanted = true;
    }

    /// Whether the other end has everything, the end included.
    pub(super) fn is_finished(&self) -> bool {
        self.fin_sent && self.flight.is_empty()
    }

    /// The number that the next new packet will have.
    pub(super) fn next_seq(&self) -> u16 {
        self.end() as u16
    }

    /// The figures that people see.
    pub(super) fn status(&self) -> UtpStatus {
        UtpStatus {
            window: self.window.bytes(),
            highest_window: self.window.highest(),
            round_trip: self.round_trip.smoothed(),
            queued: self.queued,
            under_way: self.under_way,
            their_window: self.their_window,
            repeated: self.repeated,
            timeouts: self.timeouts,
        }
    }

    fn end(&self) -> u64 {
        self.first + self.flight.len() as u64
    }

    // ---- what the other end says ----

    /// Whether an acknowledgement is one that this connection can cause: of something under way, or a little late.
    pub(super) fn is_plausible(&self, ack: u16) -> bool {
        let last = self.end().wrapping_sub(1) as u16;
        last.wrapping_sub(ack) <= (self.flight.len() as u16).saturating_add(LATE_ACKS)
    }

    /// Whether the acknowledgement is of the newest packets: what a reset must name.
    pub(super) fn is_recent(&self, ack: u16) -> bool {
        (self.end() as u16).wrapping_sub(ack) <= (self.flight.len() as u16).saturating_add(64)
    }

    /// Takes an acknowledgement in; the caller asked [`is_plausible`](Self::is_plausible).
    pub(super) fn acknowledged(&mut self, now: Instant, header: &Header, mask: &[u8]) {
        let before = self.first - 1;
        let advance = usize::from(header.ack.wrapping_sub(before as u16));
        if advance > self.flight.len() {
            return; // A late one: everything in it is known.
        }
        if header.delay != 0 {
            self.delay.measured(now, header.delay);
        }
        let was_full = self.limited || self.under_way * 4 >= self.window.bytes() * 3;
        let mut news = News::default();
        for _ in 0..advance {
            self.arrived(now, 0, &mut news);
            self.flight.pop_front();
            self.first += 1;
        }
        for (byte, bits) in mask.iter().enumerate().filter(|(_, bits)| **bits != 0) {
            for bit in (0..8).filter(|bit| bits & 1 << bit != 0) {
                self.arrived(now, byte * 8 + bit + 1, &mut news);
            }
        }
        let repeated = header.kind == Kind::State && u64::from(header.window) == self.their_window;
        self.their_window = header.window.into();
        if news.any {
            self.learn(now, &news, was_full);
        } else if advance == 0 && repeated && mask.is_empty() {
            self.repeated(now);
        }
        self.find_lost(now);
    }

    /// A packet arrived, by its place in the flight.
    fn arrived(&mut self, now: Instant, place: usize, news: &mut News) {
        let seq = self.first + place as u64;
        let Some(sent) = self.flight.get_mut(place).filter(|sent| !sent.arrived) else { return };
        sent.arrived = true;
        let len = sent.payload.len() as u64;
        if std::mem::take(&mut sent.under_way) {
            self.under_way -= len;
        }
        self.lost.remove(&seq);
        (news.any, news.bytes) = (true, news.bytes + len);
        let elapsed = now.since(sent.sent_at);
        if sent.times == 1 {
            news.sample = Some(elapsed);
        } else if elapsed < self.round_trip.lowest() * 3 / 4 {
            // Too early for the repetition: it was the original that arrived, only overtaken.
            news.overtaken = true;
            return;
        }
        self.newest_arrived = self.newest_arrived.max(sent.transmission);
    }

    fn learn(&mut self, now: Instant, news: &News, was_full: bool) {
        if let Some(sample) = news.sample {
            self.round_trip.measured(sample);
        }
        if news.overtaken {
            self.overtaken = (self.overtaken * 2).min(OVERTAKEN_MAX);
            self.window.was_no_loss();
        }
        let round_trip = self.round_trip.smoothed();
        // No packet can have waited for longer than its whole round trip took.
        let delay = self.delay.current().map(|delay| news.sample.map_or(delay, |sample| delay.min(sample)));
        self.window.acked(now, Acked { bytes: news.bytes, delay, round_trip, was_full });
        (self.duplicates, self.expiries) = (0, 0);
        self.arm(now);
    }

    fn repeated(&mut self, now: Instant) {
        self.duplicates += 1;
        if self.duplicates == DUPLICATES && self.flight.front().is_some_and(|sent| sent.under_way) {
            self.is_lost(now, self.first);
        }
    }

    /// Looks at the oldest transmissions: they are settled, or lost, or too young to tell.
    fn find_lost(&mut self, now: Instant) {
        let patience = self.round_trip.patience();
        while let Some((transmission, seq)) = self.transmissions.front().copied() {
            let place = seq.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
            let current = place.and_then(|place| self.flight.get(place));
            let open = current.filter(|sent| sent.under_way && sent.transmission == transmission);
            if let Some(sent) = open {
                let overtaken = |by: u64| transmission + by <= self.newest_arrived;
                let late = now.since(sent.sent_at) >= patience;
                if !(overtaken(self.overtaken) || late && overtaken(OVERTAKEN)) {
                    break;
                }
                self.is_lost(now, seq);
            }
            self.transmissions.pop_front();
        }
    }

    fn is_lost(&mut self, now: Instant, seq: u64) {
        let Some(sent) = self.flight.get_mut((seq - self.first) as usize) else { return };
        if std::mem::take(&mut sent.under_way) {
            self.under_way -= sent.payload.len() as u64;
            self.lost.insert(seq);
            self.window.lost(now, sent.sent_at);
        }
    }

    // ---- what goes out ----

    /// The next lost packet that may go again now.
    pub(super) fn next_lost(&mut self, now: Instant) -> Option<Outgoing> {
        self.paced_until = None;
        let seq = self.lost.first().copied()?;
        let len = self.flight.get((seq - self.first) as usize)?.payload.len() as u64;
        if self.under_way > 0 && self.under_way + len > self.window.bytes() {
            return None;
        }
        if !self.may_go(now, len as usize) {
            return None;
        }
        self.lost.remove(&seq);
        self.send_again(now, seq)
    }

    /// Whether the pacer lets a packet go now; it is counted.
    fn may_go(&mut self, now: Instant, len: usize) -> bool {
        let (window, starting) = (self.window.bytes(), self.window.is_starting());
        let Some(round_trip) = self.round_trip.known() else { return true };
        let pace = Pace { window, starting, round_trip, packet: self.segment as u64 };
        self.paced_until = self.pacer.ask(now, pace).err();
        if self.paced_until.is_none() {
            self.pacer.sent(len);
        }
        self.paced_until.is_none()
    }

    /// The next packet that may go now: what was lost before what is new.
    pub(super) fn next_packet(&mut self, now: Instant) -> Option<Outgoing> {
        if !self.lost.is_empty() {
            return self.next_lost(now);
        }
        self.paced_until = None;
        let len = self.queued.min(self.segment);
        let fin = self.queued == 0 && self.fin_wanted && !self.fin_sent;
        if len == 0 && !fin || self.flight.len() >= MAX_FLIGHT {
            self.limited = false;
            return None;
        }
        let wanted = self.under_way + len as u64;
        self.limited = wanted > self.window.bytes();
        if self.under_way > 0 && self.limited || wanted > self.their_window && !self.forced && !fin {
            if self.flight.is_empty() {
                // The window of the other end is closed, and nothing is under way that would bring news of it.
                let after = self.round_trip.timeout(self.expiries);
                self.timeout_at.get_or_insert_with(|| now + after);
            }
            return None;
        }
        if !self.may_go(now, len) {
            return None;
        }
        self.forced = false;
        self.fin_sent |= fin;
        let payload = self.cut(len);
        Some(self.send_new(now, if fin { Kind::Fin } else { Kind::Data }, payload))
    }

    /// Sends the opening packet.
    pub(super) fn send_syn(&mut self, now: Instant) -> Outgoing {
        self.send_new(now, Kind::Syn, Bytes::new())
    }

    fn send_new(&mut self, now: Instant, kind: Kind, payload: Bytes) -> Outgoing {
        let seq = self.end();
        let transmission = self.transmitted(seq);
        self.under_way += payload.len() as u64;
        let sent = Sent {
            kind,
            payload: payload.clone(),
            sent_at: now,
            transmission,
            times: 1,
            arrived: false,
            under_way: true,
        };
        if self.flight.is_empty() {
            self.flight.push_back(sent);
            self.arm(now);
        } else {
            self.flight.push_back(sent);
        }
        Outgoing { kind, seq: seq as u16, payload }
    }

    fn send_again(&mut self, now: Instant, seq: u64) -> Option<Outgoing> {
        let transmission = self.transmitted(seq);
        self.repeated += 1;
        let sent = self.flight.get_mut(usize::try_from(seq - self.first).ok()?)?;
        if !std::mem::replace(&mut sent.under_way, true) {
            self.under_way += sent.payload.len() as u64;
        }
        (sent.sent_at, sent.transmission, sent.times) = (now, transmission, sent.times + 1);
        Some(Outgoing { kind: sent.kind, seq: seq as u16, payload: sent.payload.clone() })
    }

    fn transmitted(&mut self, seq: u64) -> u64 {
        let transmission = self.next_transmission;
        self.next_transmission += 1;
        self.transmissions.push_back((transmission, seq));
        transmission
    }

    /// Takes `len` bytes from the queue, without a copy where they lie in one piece.
    fn cut(&mut self, len: usize) -> Bytes {
        self.queued -= len;
        self.drained += len;
        let Some(front) = self.queue.front_mut() else { return Bytes::new() };
        if front.len() > len {
            return front.split_to(len);
        }
        if front.len() == len {
            return self.queue.pop_front().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(len);
        while whole.len() < len {
            let Some(front) = self.queue.front_mut() else { break };
            let part = front.split_to(front.len().min(len - whole.len()));
            whole.extend_from_slice(&part);
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
        whole.freeze()
    }

    // ---- time ----

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timeout_at.into_iter().chain(self.probe_at).chain(self.paced_until).min()
    }

    /// Time has come: a probe to put on the wire, if one is due. Whatever is lost by now goes out by
    /// [`next_packet`](Self::next_packet).
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Outgoing> {
        if self.timeout_at.is_some_and(|at| at <= now) {
            self.expired(now);
            return None;
        }
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe_at = None;
            // The oldest one: its acknowledgement is told in every packet, that of a newer one only in a mask, which
            // may be short.
            self.lost.remove(&self.first);
            return self.send_again(now, self.first);
        }
        None
    }

    /// Nothing was heard of anything for a whole timeout: all that is under way is lost.
    fn expired(&mut self, now: Instant) {
        self.expiries += 1;
        self.timeouts += 1;
        self.probe_at = None;
        self.timeout_at = None;
        self.duplicates = 0;
        if self.flight.is_empty() {
            // The other end's window is closed; one packet asks whether it still is.
            self.forced = self.queued > 0;
            return;
        }
        for (place, sent) in self.flight.iter_mut().enumerate() {
            if std::mem::take(&mut sent.under_way) {
                self.lost.insert(self.first + place as u64);
            }
        }
        self.under_way = 0;
        self.transmissions.clear();
        // A closed window of the other end says nothing about the path.
        if self.their_window >= self.segment as u64 {
            self.window.timed_out(now, self.expiries == 1);
        }
        self.timeout_at = Some(now + self.round_trip.timeout(self.expiries));
    }

    /// Waits anew, for what is under way.
    fn arm(&mut self, now: Instant) {
        let waiting = !self.flight.is_empty();
        self.timeout_at = waiting.then(|| now + self.round_trip.timeout(self.expiries));
        self.probe_at = self.round_trip.probe_after().filter(|_| waiting).map(|after| now + after);
    }
}

/// What one acknowledgement brought.
#[derive(Debug, Default)]
struct News {
    any: bool,
    bytes: u64,
    sample: Option<Duration>,
    overtaken: bool,
}
