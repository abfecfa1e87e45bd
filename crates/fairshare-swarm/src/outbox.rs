//! What goes out on one connection: small messages are gathered into one write, payload goes out without a copy,
//! and what the transport has not taken yet is counted, so that nothing queues without bound.

use crate::event::{StreamId, SwarmOutput};
use crate::peer_wire::{Message, piece_header};
use bytes::Bytes;
use fairshare_wire::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Unsent bytes at which a connection is closed: 4 MiB of payload and 256 KiB of other messages.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const MAX_BACKLOG: usize = (4 << 20) + (256 << 10);
/// A backlog that does not move for this long closes the connection.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The sending side of a connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    id: StreamId,
    pending: Vec<u8>,
    /// Bytes written and not drained.
    backlog: usize,
    /// When the backlog last shrank, or began.
    moved_at: Instant,
    /// When anything was last written.
    pub(crate) written_at: Instant,
}

impl Outbox {
    /// Nothing written yet.
    pub(crate) const fn new(id: StreamId, now: Instant) -> Self {
        Self { id, pending: Vec::new(), backlog: 0, moved_at: now, written_at: now }
    }

    /// Adds a message to the next write.
    pub(crate) fn push(&mut self, message: &Message) {
        message.encode(&mut self.pending);
    }

    /// Adds bytes that are no message: the handshake.
    pub(crate) fn push_raw(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Writes a block: what is pending and the header in one write, the data in another.
    pub(crate) fn payload(
        &mut self,
        now: Instant,
        piece: u32,
        begin: u32,
        data: Bytes,
        out: &mut VecDeque<SwarmOutput>,
    ) {
        let len = u32::try_from(data.len()).expect("a block is at most 128 KiB");
        self.pending.extend_from_slice(&piece_header(piece, begin, len));
        self.flush(now, out);
        self.write(now, data, out);
    }

    /// Writes what is pending.
    pub(crate) fn flush(&mut self, now: Instant, out: &mut VecDeque<SwarmOutput>) {
        if !self.pending.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut self.pending));
            self.write(now, bytes, out);
        }
    }

    /// The transport took `bytes`.
    pub(crate) fn drained(&mut self, now: Instant, bytes: usize) {
        self.backlog = self.backlog.saturating_sub(bytes);
        self.moved_at = now;
    }

    /// Bytes written and not taken by the transport.
    pub(crate) const fn backlog(&self) -> usize {
        self.backlog
    }

    /// Whether the peer does not take what is sent to it.
    pub(crate) fn is_stuck(&self, now: Instant) -> bool {
        let waiting = self.backlog > 0 && now.since(self.moved_at) >= DRAIN_TIMEOUT;
        waiting || self.backlog.saturating_add(self.pending.len()) > MAX_BACKLOG
    }

    fn write(&mut self, now: Instant, bytes: Bytes, out: &mut VecDeque<SwarmOutput>) {
        if self.backlog == 0 {
            self.moved_at = now;
        }
        self.backlog = self.backlog.saturating_add(bytes.len());
        self.written_at = now;
        out.push_back(SwarmOutput::Write(self.id, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_share_a_write_and_payload_is_not_copied() {
        let now = Instant::START;
        let (mut outbox, mut out) = (Outbox::new(StreamId(2), now), VecDeque::new());
        outbox.push(&Message::Unchoke);
        outbox.push(&Message::Have(1));
        let data = Bytes::from(vec![7; 100]);
        outbox.payload(now, 0, 0, data.clone(), &mut out);
        let writes: Vec<Bytes> = out
            .into_iter()
            .filter_map(|output| if let SwarmOutput::Write(_, bytes) = output { Some(bytes) } else { None })
            .collect();
        assert_eq!(writes.iter().map(Bytes::len).collect::<Vec<_>>(), [5 + 9 + 13, 100]);
        assert_eq!(writes[1].as_ptr(), data.as_ptr());
        assert_eq!(outbox.backlog(), 127);
    }

    //= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
    #[test]
    fn a_peer_that_takes_nothing_is_noticed() {
        let now = Instant::START;
        let (mut outbox, mut out) = (Outbox::new(StreamId(2), now), VecDeque::new());
        outbox.push(&Message::Unchoke);
        outbox.flush(now, &mut out);
        assert!(!outbox.is_stuck(now + Duration::from_secs(59)));
        assert!(outbox.is_stuck(now + Duration::from_secs(60)));
        outbox.drained(now + Duration::from_secs(60), 5);
        assert!(!outbox.is_stuck(now + Duration::from_secs(600)));
        outbox.payload(now, 0, 0, Bytes::from(vec![0; MAX_BACKLOG]), &mut out);
        assert!(outbox.is_stuck(now));
    }
}
