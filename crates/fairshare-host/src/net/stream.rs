//! One TCP connection: a task that reads ahead within a byte budget, a task that writes what the node queued.

use crate::inbox::{Inbox, Message};
use bytes::{Buf, Bytes, BytesMut};
use fairshare_swarm::StreamId;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Room of one read buffer: 16 blocks, so that a fast peer costs few calls and few blocks lie across two buffers.
const READ_BUFFER: usize = 256 << 10;
/// A read buffer with less room left is replaced.
const READ_ROOM_MIN: usize = 64 << 10;
/// Bytes read from one connection that the node has not handled yet; then reading stops, and TCP slows the peer.
const UNHANDLED_MAX: usize = 1 << 20;
/// Pieces of one vectored write: 32 blocks with their headers.
const SLICES_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a closed connection may take to send what is queued, and then to hear the peer's end.
const LINGER: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 5_000 });
/// Pause after a failed accept: the usual cause is a lack of file descriptors, which passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the task is aborted.
pub(crate) async fn accept_streams(listener: TcpListener, inbox: Arc<Inbox>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => inbox.push(Message::Accepted(stream, from)),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Opens a stream and tells the node how it went.
pub(crate) async fn dial(id: StreamId, to: SocketAddr, own: SocketAddrV4, inbox: Arc<Inbox>) {
    let message = match tokio::time::timeout(CONNECT_TIMEOUT, connect(to, own)).await {
        Ok(Ok(stream)) => Message::Connected(id, stream),
        Ok(Err(_)) | Err(_) => Message::Closed(id),
    };
    inbox.push(message);
}

async fn connect(to: SocketAddr, own: SocketAddrV4) -> std::io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A node that listens on one address only shows itself from that address only.
    if to.is_ipv4() && !own.ip().is_unspecified() {
        socket.bind(SocketAddr::new(IpAddr::V4(*own.ip()), 0))?;
    }
    socket.connect(to).await
}

/// The node's end of a connection. Dropping it cuts the connection at once.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// Written by the node since the last flush.
    unflushed: Vec<Bytes>,
    reader: AbortHandle,
    writer: AbortHandle,
}

impl Connection {
    /// Starts both tasks.
    pub(crate) fn start(
        id: StreamId,
        stream: TcpStream,
        inbox: Arc<Inbox>,
        runtime: &tokio::runtime::Handle,
    ) -> Self {
        // Messages are small and answers are waited for; full packets come from vectored writes instead.
        let _ = stream.set_nodelay(true);
        let (read, write) = stream.into_split();
        let shared = Arc::new(Shared {
            id,
            inbox,
            unhandled: AtomicUsize::new(0),
            room: Notify::new(),
            outgoing: Mutex::default(),
            work: Notify::new(),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            peer_ended: Notify::new(),
        });
        let reader = runtime.spawn(read_loop(read, shared.clone())).abort_handle();
        let writer = runtime.spawn(write_loop(write, shared.clone(), reader.clone())).abort_handle();
        Self { shared, unflushed: Vec::new(), reader, writer }
    }

    /// Queues bytes; they leave with the next [`flush`](Self::flush). Tells whether they are the first since the last.
    pub(crate) fn write(&mut self, bytes: Bytes) -> bool {
        self.unflushed.push(bytes);
        self.unflushed.len() == 1
    }

    /// Hands everything queued to the writing task, with one wake-up.
    pub(crate) fn flush(&mut self) {
        if !self.unflushed.is_empty() {
            self.shared.outgoing().extend(self.unflushed.drain(..));
            self.shared.work.notify_one();
        }
    }

    /// The node handled `bytes` of what was read.
    pub(crate) fn handled(&self, bytes: usize) {
        let before = self.shared.unhandled.fetch_sub(bytes, Ordering::AcqRel);
        if before >= UNHANDLED_MAX {
            self.shared.room.notify_one();
        }
    }

    /// Closes the connection after what was written. Nothing more is heard from it.
    pub(crate) fn close(mut self) {
        self.flush();
        self.shared.closing.store(true, Ordering::Release);
        self.shared.work.notify_one();
        self.shared.room.notify_one();
        // The tasks end by themselves now; see `Drop`.
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.shared.closing.load(Ordering::Acquire) {
            self.reader.abort();
            self.writer.abort();
        }
    }
}

/// What the two tasks and the node share.
struct Shared {
    id: StreamId,
    inbox: Arc<Inbox>,
    /// Bytes read and not yet handled by the node.
    unhandled: AtomicUsize,
    /// Told when `unhandled` falls below its limit.
    room: Notify,
    outgoing: Mutex<VecDeque<Bytes>>,
    /// Told when there is something to write, or the connection shall close.
    work: Notify,
    /// The node closed it.
    closing: AtomicBool,
    /// The node was told that it ended.
    ended: AtomicBool,
    /// The peer sends no more.
    peer_ended: Notify,
}

impl Shared {
    fn outgoing(&self) -> MutexGuard<'_, VecDeque<Bytes>> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Tells the node once, and only if it did not close the connection itself.
    fn end(&self) {
        if !self.closing() && !self.ended.swap(true, Ordering::AcqRel) {
            self.inbox.push(Message::Closed(self.id));
        }
    }

    /// Waits until the node has caught up.
    async fn wait_for_room(&self) {
        while self.unhandled.load(Ordering::Acquire) >= UNHANDLED_MAX && !self.closing() {
            self.room.notified().await;
        }
    }

    /// Waits until a closed connection has had all the time it gets for what is queued.
    async fn patience_lost(&self) {
        while !self.closing() {
            self.work.notified().await;
        }
        tokio::time::sleep(LINGER).await;
    }

    /// Waits for something to write; `None` when the connection shall close and nothing is left.
    async fn next_batch(&self) -> Option<VecDeque<Bytes>> {
        loop {
            // Asked first: what was queued before the flag was set must still leave.
            let closing = self.closing();
            let batch = std::mem::take(&mut *self.outgoing());
            if !batch.is_empty() {
                return Some(batch);
            }
            if closing {
                return None;
            }
            self.work.notified().await;
        }
    }
}

async fn read_loop(mut half: OwnedReadHalf, shared: Arc<Shared>) {
    let mut buffer = BytesMut::new();
    loop {
        shared.wait_for_room().await;
        if buffer.capacity() < READ_ROOM_MIN {
            buffer.reserve(READ_BUFFER);
        }
        match half.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            // After the node closed it, what still comes is read only so that our last words get through.
            Ok(_) if shared.closing() => buffer.clear(),
            Ok(len) => {
                shared.unhandled.fetch_add(len, Ordering::AcqRel);
                shared.inbox.push(Message::Data(shared.id, buffer.split().freeze()));
            }
        }
    }
    shared.end();
    shared.peer_ended.notify_one();
}

async fn write_loop(mut half: OwnedWriteHalf, shared: Arc<Shared>, reader: AbortHandle) {
    while let Some(batch) = shared.next_batch().await {
        let result = tokio::select! {
            result = send(&mut half, batch, &shared) => result,
            () = shared.patience_lost() => Err(std::io::ErrorKind::TimedOut.into()),
        };
        if result.is_err() {
            shared.end();
            reader.abort();
            return;
        }
    }
    // Closing with unread bytes in the kernel would reset the connection and lose what was just sent.
    let _ = half.shutdown().await;
    let _ = tokio::time::timeout(LINGER, shared.peer_ended.notified()).await;
    reader.abort();
}

/// Writes a batch and tells the node about each part that left.
async fn send(half: &mut OwnedWriteHalf, mut batch: VecDeque<Bytes>, shared: &Shared) -> std::io::Result<()> {
    while !batch.is_empty() {
        let written = {
            let slices: Vec<IoSlice<'_>> =
                batch.iter().take(SLICES_MAX).map(|part| IoSlice::new(part)).collect();
            half.write_vectored(&slices).await?
        };
        if written == 0 && batch.iter().any(|part| !part.is_empty()) {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        advance(&mut batch, written);
        shared.inbox.push(Message::Drained(shared.id, written));
    }
    Ok(())
}

/// Takes `written` bytes off the front.
fn advance(batch: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(front) = batch.front_mut() {
        if front.len() > written {
            front.advance(written);
            return;
        }
        written -= front.len();
        batch.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_write_leaves_exactly_the_rest() {
        let mut batch: VecDeque<Bytes> = [Bytes::from("abc"), Bytes::new(), Bytes::from("de")].into();
        advance(&mut batch, 2);
        assert_eq!(batch, [Bytes::from("c"), Bytes::new(), Bytes::from("de")]);
        advance(&mut batch, 1);
        assert_eq!(batch, [Bytes::from("de")]);
        advance(&mut batch, 2);
        assert!(batch.is_empty());
    }

    /// A connection of a node to a plain socket.
    async fn pair() -> (Connection, TcpStream, Arc<Inbox>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let inbox = Arc::new(Inbox::default());
        let own = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0);
        let ours = connect(address, own).await.expect("somebody listens");
        let (theirs, _) = listener.accept().await.expect("just connected");
        let runtime = tokio::runtime::Handle::current();
        (Connection::start(StreamId(2), ours, inbox.clone(), &runtime), theirs, inbox)
    }

    fn received(inbox: &Inbox) -> Vec<Message> {
        let mut batch = Vec::new();
        inbox.take(&mut batch, Duration::ZERO);
        batch
    }

    #[tokio::test]
    async fn what_was_written_before_a_close_arrives_although_the_peer_keeps_sending() {
        let (mut connection, theirs, _inbox) = pair().await;
        let (mut hearing, mut talking) = theirs.into_split();
        let talk = tokio::spawn(async move { while talking.write_all(&[1; 65_536]).await.is_ok() {} });
        tokio::time::sleep(Duration::from_millis(50)).await;
        connection.write(Bytes::from(vec![2; 1 << 20]));
        connection.close();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut heard = Vec::new();
        hearing.read_to_end(&mut heard).await.expect("an orderly end, no reset");
        assert_eq!(heard.len(), 1 << 20);
        talk.abort();
    }

    #[tokio::test]
    async fn a_closed_connection_does_not_wait_for_a_peer_that_reads_nothing() {
        let (mut connection, theirs, _inbox) = pair().await;
        let shared = Arc::downgrade(&connection.shared);
        connection.write(Bytes::from(vec![0; 64 << 20]));
        connection.flush();
        // Until the kernel takes no more, and then some.
        tokio::time::sleep(Duration::from_millis(100)).await;
        connection.close();
        let begun = std::time::Instant::now();
        while shared.strong_count() > 0 {
            assert!(begun.elapsed() < 20 * LINGER, "a task is left");
            tokio::time::sleep(LINGER / 10).await;
        }
        drop(theirs);
    }

    #[tokio::test]
    async fn reading_stops_at_the_budget_and_goes_on_when_the_node_catches_up() {
        let (connection, mut theirs, inbox) = pair().await;
        let sender = tokio::spawn(async move {
            // More than all kernel buffers of loopback together would hide.
            for _ in 0..(64 << 20) / READ_BUFFER {
                if theirs.write_all(&[7; READ_BUFFER]).await.is_err() {
                    return;
                }
            }
        });
        let unhandled = || connection.shared.unhandled.load(Ordering::Acquire);
        while unhandled() < UNHANDLED_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(unhandled() < UNHANDLED_MAX + READ_BUFFER, "{}", unhandled());
        let mut total = 0;
        while total < 64 << 20 {
            for message in received(&inbox) {
                if let Message::Data(_, bytes) = message {
                    connection.handled(bytes.len());
                    total += bytes.len();
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        sender.await.expect("no panic");
    }

    #[tokio::test]
    async fn the_end_of_the_peer_is_told_once_and_after_its_data() {
        let (mut connection, mut theirs, inbox) = pair().await;
        theirs.write_all(b"bye").await.expect("open");
        drop(theirs);
        let mut messages = Vec::new();
        while !messages.iter().any(|message| matches!(message, Message::Closed(_))) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            messages.extend(received(&inbox));
        }
        // Writing to it fails now, which is no news any more.
        for _ in 0..3 {
            connection.write(Bytes::from_static(&[0; 1024]));
            connection.flush();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        messages.extend(received(&inbox));
        let ends = messages.iter().filter(|message| matches!(message, Message::Closed(_))).count();
        assert_eq!(ends, 1);
        assert!(matches!(&messages[0], Message::Data(_, bytes) if &bytes[..] == b"bye"));
    }
}
