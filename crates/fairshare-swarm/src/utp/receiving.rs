//! The receiving half of a connection: packets in any order in, bytes in order out, and what is to be acknowledged.
//= spec/swarm.md#11-transports

use super::packet::MAX_MASK_LEN;
use bytes::{Bytes, BytesMut};
use fairshare_wire::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes that may wait here, out of order or not taken: what the other end is told as our window.
pub(super) const WINDOW: usize = 2 << 20;
/// Packets beyond the next one that may wait: what the mask can tell.
const MAX_AHEAD: u16 = MAX_MASK_LEN as u16 * 8;
/// Packets that are acknowledged together.
const ACK_EVERY: u32 = 2;
/// An acknowledgement is held back for this long at the most.
const ACK_DELAY: Duration = Duration::from_millis(10);

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is kept, or its bytes are ready.
    New,
    /// It was here before.
    Again,
    /// It lies beyond what was allowed.
    Beyond,
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Receiving {
    /// Number of the next packet in order, in 64 bits.
    next: u64,
    waiting: BTreeMap<u64, Bytes>,
    waiting_bytes: usize,
    /// Number of the other end's last packet.
    fin: Option<u64>,
    /// Bytes in order that were not handed out.
    ready: BytesMut,
    /// Bytes in order that nobody has read, `ready` included.
    unread: usize,
    unacknowledged: u32,
    acknowledge_at: Option<Instant>,
    told_window: usize,
}

impl Receiving {
    /// The half whose first packet will have the number `seq`.
    pub(super) fn new(seq: u16) -> Self {
        Self {
            next: u64::from(seq) + 0x1_0000,
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            fin: None,
            ready: BytesMut::new(),
            unread: 0,
            unacknowledged: 0,
            acknowledge_at: None,
            told_window: WINDOW,
        }
    }

    /// Takes a packet in. `may_keep`: whether there is memory for one out of order.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        seq: u16,
        payload: &[u8],
        is_fin: bool,
        may_keep: bool,
    ) -> Taken {
        let ahead = seq.wrapping_sub(self.next as u16);
        let number = self.next + u64::from(ahead);
        if ahead > u16::MAX / 2 || self.waiting.contains_key(&number) {
            self.acknowledge_now();
            return Taken::Again;
        }
        let beyond_end = self.fin.is_some_and(|fin| number > fin || is_fin && number != fin);
        let no_room = self.waiting_bytes + self.unread + payload.len() > WINDOW;
        // The next packet in order is taken even when those behind it fill the window: it makes room.
        let refused = if ahead == 0 { self.unread >= WINDOW } else { no_room || !may_keep };
        if ahead > MAX_AHEAD || beyond_end || refused {
            self.acknowledge_now();
            return Taken::Beyond;
        }
        if is_fin {
            self.fin = Some(number);
        }
        if ahead > 0 {
            self.waiting_bytes += payload.len();
            self.waiting.insert(number, Bytes::copy_from_slice(payload));
            self.acknowledge_now();
            return Taken::New;
        }
        let filled_a_gap = !self.waiting.is_empty();
        self.in_order(payload);
        while let Some(payload) = self.waiting.remove(&self.next) {
            self.waiting_bytes -= payload.len();
            self.in_order(&payload);
        }
        self.unacknowledged += 1;
        self.acknowledge_at.get_or_insert(now + ACK_DELAY);
        if filled_a_gap || self.is_ended() {
            self.acknowledge_now();
        }
        Taken::New
    }

    fn in_order(&mut self, payload: &[u8]) {
        self.ready.extend_from_slice(payload);
        self.unread += payload.len();
        self.next += 1;
    }

    /// The bytes that are ready.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        (!self.ready.is_empty()).then(|| std::mem::take(&mut self.ready).freeze())
    }

    /// Drops what is ready: nobody will read it.
    pub(super) fn discard(&mut self) {
        self.unread -= self.ready.len();
        self.ready.clear();
    }

    /// Bytes were read. Whether the other end should hear of the room at once.
    pub(super) const fn read(&mut self, len: usize) -> bool {
        self.unread = self.unread.saturating_sub(len);
        self.told_window < WINDOW / 4 && self.window() > WINDOW / 2
    }

    /// Whether everything up to the end has arrived.
    pub(super) fn is_ended(&self) -> bool {
        self.fin.is_some_and(|fin| self.next > fin)
    }

    /// Bytes that wait out of order.
    pub(super) const fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Number of the last packet in order.
    pub(super) const fn ack(&self) -> u16 {
        (self.next - 1) as u16
    }

    /// Bytes that may still come.
    pub(super) const fn window(&self) -> usize {
        WINDOW.saturating_sub(self.waiting_bytes + self.unread)
    }

    /// The mask of packets that wait out of order.
    pub(super) fn mask(&self) -> Vec<u8> {
        let Some(last) = self.waiting.keys().next_back() else { return Vec::new() };
        // Bit 0 stands for the packet after the next one.
        let bits = usize::try_from(last - self.next).unwrap_or(0);
        let mut mask = vec![0; (bits.div_ceil(32) * 4).min(MAX_MASK_LEN)];
        for number in self.waiting.keys() {
            let bit = usize::try_from(number - self.next - 1).unwrap_or(usize::MAX);
            if let Some(byte) = mask.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
        mask
    }

    // ---- acknowledgements ----

    /// The next packet out must be soon.
    pub(super) const fn acknowledge_now(&mut self) {
        self.unacknowledged = ACK_EVERY;
    }

    /// Whether an acknowledgement must go out now.
    pub(super) fn must_acknowledge(&self, now: Instant) -> bool {
        self.unacknowledged >= ACK_EVERY || self.acknowledge_at.is_some_and(|at| at <= now)
    }

    /// When an acknowledgement that is held back must go out.
    pub(super) const fn acknowledge_at(&self) -> Option<Instant> {
        self.acknowledge_at
    }

    /// A packet with the acknowledgement goes out. Without the mask it does not tell everything.
    pub(super) fn acknowledged(&mut self, with_mask: bool) {
        self.told_window = self.window();
        if with_mask || self.waiting.is_empty() {
            (self.unacknowledged, self.acknowledge_at) = (0, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(half: &mut Receiving, seq: u16, payload: &[u8]) -> Taken {
        half.receive(Instant::START, seq, payload, false, true)
    }

    #[test]
    fn bytes_come_out_in_order_over_the_turn_of_the_numbers() {
        let mut half = Receiving::new(65_534);
        assert_eq!(receive(&mut half, 0, b"c"), Taken::New);
        assert_eq!(receive(&mut half, 65_535, b"b"), Taken::New);
        assert_eq!((half.ack(), half.mask()), (65_533, vec![3, 0, 0, 0]));
        assert_eq!(half.take(), None);
        assert_eq!(receive(&mut half, 65_534, b"a"), Taken::New);
        assert_eq!(half.take().as_deref(), Some(b"abc".as_slice()));
        assert_eq!((half.ack(), half.mask()), (0, vec![]));
        assert_eq!(receive(&mut half, 65_535, b"b"), Taken::Again);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut half = Receiving::new(1);
        let payload = vec![0; 60_000];
        let kept = (3..100).filter(|seq| receive(&mut half, *seq, &payload) == Taken::New).count();
        assert_eq!((kept, half.window()), (WINDOW / payload.len(), WINDOW % payload.len()));
        assert_eq!(receive(&mut half, 2 + MAX_AHEAD, b""), Taken::Beyond);
        assert_eq!(receive(&mut half, 1 + MAX_AHEAD, b""), Taken::New);
        assert_eq!(half.mask().len(), MAX_MASK_LEN);
    }

    #[test]
    fn nothing_comes_after_the_end() {
        let mut half = Receiving::new(1);
        assert_eq!(half.receive(Instant::START, 2, b"", true, true), Taken::New);
        assert_eq!(receive(&mut half, 3, b"x"), Taken::Beyond);
        assert!(!half.is_ended());
        receive(&mut half, 1, b"a");
        assert!(half.is_ended());
    }
}
