//! The node's own thread: takes what arrived, hands it to the node, carries out what the node wants.
//!
//! Outputs of many inputs are gathered and flushed together, so that a burst of blocks costs one wake-up for each
//! connection and one for the disk, not one for each block.

use crate::clock::Clock;
use crate::disk::DiskPool;
use crate::exit::{Exits, Fetcher, Resolver};
use crate::http::HttpPool;
use crate::inbox::{Inbox, Message};
use crate::lock::DataLock;
use crate::net::{BatchSender, Connection, Lane, dial};
use crate::socks::Associations;
use crate::store::{SqliteStore, StoreWriter};
use fairshare_node::{Event, Input, Node, Output, Reply};
use fairshare_swarm::{Request, StreamId};
use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot};
use tokio::task::AbortHandle;

/// Inputs after which gathered outputs leave, however much is still waiting: bounds the delay they pay for company.
const FLUSH_EVERY: usize = 64;
/// Longest and shortest sleep. The longest only bounds the effect of a forgotten timer; the shortest keeps timers
/// that are already due from turning the thread in circles.
const SLEEP_MAX: Duration = Duration::from_secs(10);
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// The node with everything it acts through. Fields are dropped in this order: the lock of the data folder last.
pub(crate) struct Driver {
    pub(crate) node: Node<SqliteStore>,
    pub(crate) links: Links,
    pub(crate) writer: StoreWriter,
    pub(crate) disk: Arc<DiskPool>,
    pub(crate) http: Arc<HttpPool>,
    pub(crate) resolver: Resolver,
    pub(crate) fetcher: Fetcher,
    /// The node's own socket: its sending side, and the lane of what it received.
    pub(crate) datagrams: BatchSender,
    pub(crate) lane: Arc<Lane>,
    pub(crate) exits: Exits,
    pub(crate) associations: Associations,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) clock: Clock,
    /// Set when the node shall end as if the power had failed.
    pub(crate) killed: Arc<AtomicBool>,
    pub(crate) commands: Commands,
    /// Disk requests since the last flush.
    pub(crate) requests: Vec<(u64, Request)>,
    pub(crate) _lock: DataLock,
}

/// Commands that wait for their replies.
#[derive(Default)]
pub(crate) struct Commands {
    next: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Reply>>,
}

impl Driver {
    /// Runs the node until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut batch = Vec::new();
        self.drain();
        loop {
            self.flush();
            let sleep = self.node.next_timeout().map_or(SLEEP_MAX, |deadline| self.clock.until(deadline));
            self.inbox.take(&mut batch, sleep.clamp(SLEEP_MIN, SLEEP_MAX));
            for (count, message) in batch.drain(..).enumerate() {
                if self.killed.load(Ordering::Acquire) {
                    return self.writer.abandon();
                }
                if matches!(message, Message::Stop) {
                    return self.writer.finish();
                }
                self.take(message);
                if count % FLUSH_EVERY == FLUSH_EVERY - 1 {
                    self.flush();
                    self.wake_if_due();
                }
            }
            self.wake_if_due();
        }
    }

    fn wake_if_due(&mut self) {
        let now = self.clock.now();
        if self.node.next_timeout().is_some_and(|deadline| deadline <= now.mono) {
            self.give(Input::Timeout);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Datagrams(datagrams) => {
                self.lane.handled(datagrams.len());
                for (from, bytes) in &datagrams {
                    self.give(Input::Datagram(*from, bytes));
                }
            }
            Message::ExitDatagrams(exit, datagrams, lane) => {
                if self.exits.handled(&lane, exit, datagrams.len()) {
                    for (from, bytes) in &datagrams {
                        self.give(Input::ExitDatagram(exit, *from, bytes));
                    }
                }
            }
            Message::Associated(id, hops, port) => {
                self.associations.open(id, *port);
                self.give(Input::Associated(id, hops));
            }
            Message::AssociationDatagrams(id, sent, lane) => {
                if self.associations.handled(&lane, id, sent.len()) {
                    for (to, bytes) in sent {
                        self.give(Input::AssociationDatagram(id, to, &bytes));
                    }
                }
            }
            Message::Dissociated(id) => {
                if self.associations.close(id) {
                    self.give(Input::Dissociated(id));
                }
            }
            Message::Accepted(stream, from) => {
                let id = self.links.accepted(stream);
                self.give(Input::Accepted(id, from));
            }
            Message::Connected(id, stream) => {
                if self.links.connected(id, stream) {
                    self.give(Input::Connected(id));
                }
            }
            // What a closed connection left behind in the queue is nothing to the node.
            Message::Data(id, bytes) if self.links.is_open(id) => {
                let len = bytes.len();
                self.give(Input::Data(id, bytes));
                self.links.handled(id, len);
            }
            Message::Drained(id, bytes) if self.links.is_open(id) => self.give(Input::Drained(id, bytes)),
            Message::Closed(id) if self.links.ended(id) => self.give(Input::Closed(id)),
            Message::Data(..) | Message::Drained(..) | Message::Closed(_) | Message::Stop => {}
            Message::Persisted(tickets) => {
                tickets.into_iter().for_each(|ticket| self.give(Input::Persisted(ticket)));
            }
            Message::PersistFailed(ticket, reason) => {
                self.writer.failure_seen(ticket);
                self.give(Input::PersistFailed(ticket, reason));
            }
            Message::Completed(completions) => {
                for (ticket, completion) in completions {
                    self.give(Input::Completed(ticket, completion));
                }
            }
            Message::Command(command, reply) => {
                self.commands.next += 1;
                let id = self.commands.next;
                self.commands.waiting.insert(id, reply);
                self.give(Input::Command(id, *command));
            }
            Message::Query(look) => look(&self.node),
        }
    }

    /// One input, and everything that comes of it.
    fn give(&mut self, input: Input<'_>) {
        self.node.handle(self.clock.now(), input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll() {
            match output {
                Output::Transmit(to, bytes) => self.datagrams.send(to, bytes),
                Output::Connect(id, to) => self.links.connect(id, to),
                Output::Write(id, bytes) => self.links.write(id, bytes),
                Output::Close(id) => self.links.close(id),
                Output::Persist(ticket, batch) => self.writer.write(ticket, batch),
                Output::Request(ticket, Request::HttpGet { url }) => self.http.get(ticket, url),
                Output::Request(ticket, Request::Resolve { host, port }) => {
                    self.resolver.resolve(ticket, host, port);
                }
                Output::Request(ticket, Request::HttpFetch { target, request }) => {
                    self.fetcher.fetch(ticket, target, request);
                }
                Output::Request(ticket, request) => self.requests.push((ticket, request)),
                Output::ExitOpen(exit) => self.exits.open(exit),
                Output::ExitSend(exit, to, bytes) => self.exits.send(exit, to, bytes),
                Output::ExitClose(exit) => self.exits.close(exit),
                Output::AssociationData(id, origin, bytes) => self.associations.send(id, &origin, &bytes),
                Output::Reply(id, reply) => {
                    if let Some(waiting) = self.commands.waiting.remove(&id) {
                        // Whoever asked may have gone away.
                        let _ = waiting.send(reply);
                    }
                }
                // Without a listener an event is nobody's business.
                Output::Event(event) => drop(self.events.send(event)),
            }
        }
    }

    fn flush(&mut self) {
        self.links.flush();
        self.datagrams.flush();
        self.exits.flush();
        self.associations.flush();
        if !self.requests.is_empty() {
            self.disk.submit(std::mem::take(&mut self.requests));
        }
    }
}

/// The TCP connections of a node.
pub(crate) struct Links {
    links: BTreeMap<StreamId, Link>,
    /// Written to since the last flush.
    unflushed: Vec<StreamId>,
    /// Accepted streams get odd numbers, never one twice.
    next_accepted: u64,
    own: SocketAddrV4,
    inbox: Arc<Inbox>,
    runtime: Handle,
}

enum Link {
    Dialing(AbortHandle),
    Open(Connection),
}

impl Links {
    pub(crate) const fn new(own: SocketAddrV4, inbox: Arc<Inbox>, runtime: Handle) -> Self {
        Self { links: BTreeMap::new(), unflushed: Vec::new(), next_accepted: 1, own, inbox, runtime }
    }

    fn accepted(&mut self, stream: TcpStream) -> StreamId {
        let id = StreamId(self.next_accepted);
        self.next_accepted += 2;
        self.open(id, stream);
        id
    }

    fn connect(&mut self, id: StreamId, to: SocketAddr) {
        let dialing = self.runtime.spawn(dial(id, to, self.own, self.inbox.clone()));
        self.links.insert(id, Link::Dialing(dialing.abort_handle()));
    }

    /// A dialled stream is there; `false` if it is not wanted any more.
    fn connected(&mut self, id: StreamId, stream: TcpStream) -> bool {
        let wanted = matches!(self.links.get(&id), Some(Link::Dialing(_)));
        if wanted {
            self.open(id, stream);
        }
        wanted
    }

    fn open(&mut self, id: StreamId, stream: TcpStream) {
        let connection = Connection::start(id, stream, self.inbox.clone(), &self.runtime);
        self.links.insert(id, Link::Open(connection));
    }

    fn write(&mut self, id: StreamId, bytes: bytes::Bytes) {
        if let Some(Link::Open(connection)) = self.links.get_mut(&id)
            && connection.write(bytes)
        {
            self.unflushed.push(id);
        }
    }

    fn close(&mut self, id: StreamId) {
        match self.links.remove(&id) {
            Some(Link::Open(connection)) => connection.close(),
            Some(Link::Dialing(task)) => task.abort(),
            None => {}
        }
    }

    /// The stream ended by itself; `false` if it was closed before.
    fn ended(&mut self, id: StreamId) -> bool {
        self.links.remove(&id).is_some()
    }

    fn is_open(&self, id: StreamId) -> bool {
        matches!(self.links.get(&id), Some(Link::Open(_)))
    }

    fn handled(&self, id: StreamId, bytes: usize) {
        if let Some(Link::Open(connection)) = self.links.get(&id) {
            connection.handled(bytes);
        }
    }

    fn flush(&mut self) {
        for id in self.unflushed.drain(..) {
            if let Some(Link::Open(connection)) = self.links.get_mut(&id) {
                connection.flush();
            }
        }
    }
}
