//! Datagrams of a socket: received in batches by a task, handed over to the node together.

use super::batch::{Lane, ReceiveBuffers};
use crate::inbox::{Inbox, Message};
use bytes::Bytes;
use quinn_udp::UdpSocketState;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Datagrams handed over together: one lock and one wake-up for all. A call may bring some more.
const BATCH_MAX: usize = 256;
/// Pause after an error that is not about one datagram, so that a broken socket costs no core.
const PAUSE: Duration = Duration::from_millis(5);

/// Buffers that the tasks of several sockets take in turn. Never held across a wait.
pub(crate) type SharedBuffers = Arc<Mutex<ReceiveBuffers>>;

/// The receiving side of a socket.
pub(crate) struct Receiver {
    pub(crate) socket: UdpSocket,
    pub(crate) state: Arc<UdpSocketState>,
    pub(crate) buffers: SharedBuffers,
}

impl Receiver {
    /// Waits for datagrams, and gives all that are there.
    pub(crate) async fn receive(&self) -> Vec<(SocketAddr, Bytes)> {
        loop {
            if self.socket.readable().await.is_err() {
                // The runtime is ending, and this task with it.
                return std::future::pending().await;
            }
            let (batch, failed) = self.take();
            if !batch.is_empty() {
                return batch;
            }
            // What an earlier send brought back (an unreachable port) concerns nobody here.
            if failed {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// What is there, and whether the end was an error instead of an empty socket.
    fn take(&self) -> (Vec<(SocketAddr, Bytes)>, bool) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX {
            let one = || buffers.receive(&self.state, &self.socket, &mut batch);
            if let Err(error) = self.socket.try_io(Interest::READABLE, one) {
                return (batch, error.kind() != ErrorKind::WouldBlock);
            }
        }
        (batch, false)
    }
}

/// Receives for the node's own socket until the task is aborted.
pub(crate) async fn receive_datagrams(receiver: Receiver, inbox: Arc<Inbox>, lane: Arc<Lane>) {
    loop {
        let batch = lane.admit(receiver.receive().await);
        if !batch.is_empty() {
            inbox.push(Message::Datagrams(batch));
        }
    }
}
