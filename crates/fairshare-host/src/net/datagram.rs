//! Datagrams: received in batches, sent straight from the node's thread.

use crate::inbox::{Inbox, Message};
use bytes::Bytes;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::net::UdpSocket;

/// No datagram is longer.
const DATAGRAM_MAX: usize = 65_535;
/// Datagrams handed over together: one lock and one wake-up for all.
const BATCH_MAX: usize = 64;
/// Datagrams that may wait for the node; later ones are dropped, as a full kernel buffer would.
const WAITING_MAX: usize = 4_096;

/// What both directions count.
#[derive(Debug, Default)]
pub(crate) struct DatagramCounts {
    /// Received, not yet handled by the node.
    pub(crate) waiting: AtomicUsize,
    /// Dropped on the way in or out.
    pub(crate) dropped: AtomicU64,
}

/// Receives until the task is aborted.
pub(crate) async fn receive_datagrams(socket: UdpSocket, inbox: Arc<Inbox>, counts: Arc<DatagramCounts>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX {
            match socket.try_recv_from(&mut buffer) {
                Ok((len, from)) => {
                    let bytes = buffer.get(..len).map(Bytes::copy_from_slice).unwrap_or_default();
                    batch.push((from, bytes));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // What an earlier send brought back (an unreachable port) concerns nobody here.
                Err(_) => {}
            }
        }
        hand_over(batch, &inbox, &counts);
    }
}

fn hand_over(mut batch: Vec<(SocketAddr, Bytes)>, inbox: &Inbox, counts: &DatagramCounts) {
    let waiting = counts.waiting.load(Ordering::Relaxed);
    let room = WAITING_MAX.saturating_sub(waiting);
    let dropped = batch.len().saturating_sub(room);
    batch.truncate(room);
    counts.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
    if !batch.is_empty() {
        counts.waiting.fetch_add(batch.len(), Ordering::Relaxed);
        inbox.push(Message::Datagrams(batch));
    }
}

/// The sending side.
pub(crate) struct DatagramSender {
    socket: std::net::UdpSocket,
    counts: Arc<DatagramCounts>,
}

impl DatagramSender {
    pub(crate) const fn new(socket: std::net::UdpSocket, counts: Arc<DatagramCounts>) -> Self {
        Self { socket, counts }
    }

    /// Sends one datagram, or drops it: loss is normal here, waiting would stop the node.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) {
        if self.socket.send_to(bytes, to).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The node took `count` datagrams off the queue.
    pub(crate) fn handled(&self, count: usize) {
        self.counts.waiting.fetch_sub(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_beyond_the_limit_are_dropped_and_counted() {
        let (inbox, counts) = (Inbox::default(), DatagramCounts::default());
        let from: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        for _ in 0..(WAITING_MAX / BATCH_MAX + 2) {
            hand_over(vec![(from, Bytes::new()); BATCH_MAX], &inbox, &counts);
        }
        assert_eq!(counts.waiting.load(Ordering::Relaxed), WAITING_MAX);
        assert_eq!(counts.dropped.load(Ordering::Relaxed), 2 * BATCH_MAX as u64);
    }
}
