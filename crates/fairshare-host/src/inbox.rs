//! The way into the node: one queue that sockets, disks and callers fill and the node thread empties in one go.
//!
//! The queue itself has no limit, because every source has its own: a connection stops reading at its byte budget,
//! datagrams beyond a count are dropped, disk and store only answer what they were asked, callers hold permits.
//! So a full queue of one source never stops another, and the node thread is woken once per batch.

use crate::net::Lane;
use crate::socks::{AssociationPort, Sent};
use crate::store::SqliteStore;
use bytes::Bytes;
use fairshare_node::{AssociationId, Command, ExitId, Node, Reply};
use fairshare_swarm::{Completion, StreamId};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// A question to the node, run on its thread.
pub(crate) type Query = Box<dyn FnOnce(&Node<SqliteStore>) + Send>;

/// What happened outside the node.
pub(crate) enum Message {
    /// Datagrams that arrived together.
    Datagrams(Vec<(SocketAddr, Bytes)>),
    /// Datagrams that arrived together at an exit, and the lane they hold places in.
    ExitDatagrams(ExitId, Vec<(SocketAddr, Bytes)>, Arc<Lane>),
    /// A program wants circuits of so many hops.
    Associated(AssociationId, u8, Box<AssociationPort>),
    /// It sent datagrams, which hold places in the lane.
    AssociationDatagrams(AssociationId, Sent, Arc<Lane>),
    /// It is gone.
    Dissociated(AssociationId),
    /// A stream was accepted; the node thread gives it its id.
    Accepted(TcpStream, SocketAddr),
    /// A stream that the node asked for is connected.
    Connected(StreamId, TcpStream),
    /// Bytes arrived.
    Data(StreamId, Bytes),
    /// Bytes left.
    Drained(StreamId, usize),
    /// The stream ended.
    Closed(StreamId),
    /// These batches are on disk.
    Persisted(Vec<u64>),
    /// This batch is not, and nothing of it.
    PersistFailed(u64, String),
    /// Answers of disk and trackers.
    Completed(Vec<(u64, Completion)>),
    /// Somebody wants something.
    Command(Box<Command>, oneshot::Sender<Reply>),
    /// Somebody wants to look.
    Query(Query),
    /// The node thread shall end.
    Stop,
}

/// The queue.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    /// Whether the node thread waits for a message: only then a push wakes it.
    waiting: bool,
    /// Set when nobody will ever read again; what is pushed then is dropped.
    closed: bool,
}

impl Inbox {
    /// Adds a message.
    pub(crate) fn push(&self, message: Message) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.messages.push(message);
        if std::mem::take(&mut state.waiting) {
            self.arrived.notify_one();
        }
    }

    /// Swaps everything that arrived into `batch`, which is empty. Waits up to `patience` if there is nothing.
    pub(crate) fn take(&self, batch: &mut Vec<Message>, patience: Duration) {
        let mut state = self.lock();
        if state.messages.is_empty() && !patience.is_zero() {
            state.waiting = true;
            let wait = self.arrived.wait_timeout_while(state, patience, |state| state.messages.is_empty());
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting = false;
        }
        std::mem::swap(&mut state.messages, batch);
    }

    /// Drops what is queued and everything that comes later.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        // Dropped after the lock is released: a message may own something that pushes when it goes.
        let rest = std::mem::take(&mut state.messages);
        drop(state);
        drop(rest);
    }

    /// A thread that panics leaves the queue whole: every change is a single push or swap.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_together_and_in_order() {
        let inbox = Inbox::default();
        for ticket in 0..3 {
            inbox.push(Message::Persisted(vec![ticket]));
        }
        let mut batch = Vec::new();
        inbox.take(&mut batch, Duration::from_secs(10));
        let tickets: Vec<_> = batch
            .iter()
            .map(|message| if let Message::Persisted(tickets) = message { tickets[0] } else { u64::MAX })
            .collect();
        assert_eq!(tickets, [0, 1, 2]);
    }

    #[test]
    fn a_push_wakes_the_waiting_reader() {
        let inbox = Arc::new(Inbox::default());
        let reader = std::thread::spawn({
            let inbox = inbox.clone();
            move || {
                let mut batch = Vec::new();
                inbox.take(&mut batch, Duration::from_secs(30));
                batch.len()
            }
        });
        std::thread::sleep(Duration::from_millis(20));
        inbox.push(Message::Stop);
        assert_eq!(reader.join().expect("no panic"), 1);
    }

    #[test]
    fn a_closed_inbox_keeps_nothing() {
        let inbox = Inbox::default();
        inbox.push(Message::Stop);
        inbox.close();
        inbox.push(Message::Stop);
        let mut batch = Vec::new();
        inbox.take(&mut batch, Duration::ZERO);
        assert!(batch.is_empty());
    }
}
