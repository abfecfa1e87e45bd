//! Where circuits of others end: one socket of each family for each exit, names, and HTTP exchanges. What may leave
//! was decided by the engine; here it only leaves.
//= spec/tunnels.md#7-exit

mod fetch;
mod resolve;

pub(crate) use fetch::{Fetcher, field, header_len};
pub(crate) use resolve::Resolver;

use crate::inbox::{Inbox, Message};
use crate::net::{
    BatchSender, Lane, ReceiveBuffers, Receiver, SharedBuffers, Total, bind_datagrams, prepare,
};
use bytes::Bytes;
use fairshare_node::ExitId;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// Exits with sockets at the same time: as many circuits as a relay joins by default.
const EXITS_MAX: usize = 2_000;
/// Datagrams of one exit that may wait for the node: what a circuit carries in some tens of milliseconds.
const EXIT_WAITING_MAX: usize = 256;
/// Datagrams of all exits that may wait for the node, about 6 MiB.
const WAITING_MAX: usize = 4_096;
/// Asked of the kernel for each socket of an exit: a tenth of a second of a fast circuit.
const EXIT_BUFFER: usize = 512 << 10;

/// The exits of a node.
pub(crate) struct Exits {
    exits: BTreeMap<ExitId, Exit>,
    /// Sent from since the last flush.
    unflushed: Vec<ExitId>,
    /// Where the sockets are bound.
    own: Ipv4Addr,
    total: Arc<Total>,
    buffers: SharedBuffers,
    inbox: Arc<Inbox>,
    runtime: Handle,
}

/// One exit. Dropped with its tasks.
struct Exit {
    v4: Option<Socket>,
    /// Opened by the first datagram that needs it.
    v6: Option<Socket>,
    lane: Arc<Lane>,
}

impl Exit {
    fn flush(&mut self) {
        self.v4.iter_mut().chain(&mut self.v6).for_each(|socket| socket.sender.flush());
    }
}

struct Socket {
    sender: BatchSender,
    receiving: AbortHandle,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

impl Exits {
    /// Exits whose sockets are bound like the node's own: to one address if that has one, otherwise to all.
    pub(crate) fn new(own: Ipv4Addr, inbox: Arc<Inbox>, runtime: Handle) -> Self {
        Self {
            exits: BTreeMap::new(),
            unflushed: Vec::new(),
            own,
            total: Total::new(WAITING_MAX),
            buffers: Arc::new(Mutex::new(ReceiveBuffers::new())),
            inbox,
            runtime,
        }
    }

    pub(crate) fn open(&mut self, id: ExitId) {
        if self.exits.len() >= EXITS_MAX {
            return;
        }
        let lane = Lane::new(EXIT_WAITING_MAX, &self.total);
        let v4 = self.socket(id, IpAddr::V4(self.own), &lane).ok();
        self.exits.insert(id, Exit { v4, v6: None, lane });
    }

    /// What was sent before leaves; the ports are free when the tasks are gone.
    pub(crate) fn close(&mut self, id: ExitId) {
        if let Some(mut exit) = self.exits.remove(&id) {
            exit.flush();
        }
    }

    /// Sends with the next flush, or drops what has no socket.
    pub(crate) fn send(&mut self, id: ExitId, to: SocketAddr, bytes: Bytes) {
        self.open_v6(id, to);
        let socket = self.exits.get_mut(&id).and_then(|exit| match to {
            SocketAddr::V4(_) => exit.v4.as_mut(),
            SocketAddr::V6(_) => exit.v6.as_mut(),
        });
        let Some(socket) = socket else { return self.total.drop_some(1) };
        if socket.sender.is_empty() {
            self.unflushed.push(id);
        }
        socket.sender.send(to, bytes);
    }

    pub(crate) fn flush(&mut self) {
        for id in self.unflushed.drain(..) {
            if let Some(exit) = self.exits.get_mut(&id) {
                exit.flush();
            }
        }
    }

    /// The node takes datagrams off the queue; `false` if the exit is gone and they are nothing to it.
    pub(crate) fn handled(&self, lane: &Lane, id: ExitId, count: usize) -> bool {
        lane.handled(count);
        self.exits.contains_key(&id)
    }

    /// Datagrams that were dropped here, in and out.
    pub(crate) fn total(&self) -> &Arc<Total> {
        &self.total
    }

    fn open_v6(&mut self, id: ExitId, to: SocketAddr) {
        let Some(exit) = self.exits.get(&id).filter(|exit| to.is_ipv6() && exit.v6.is_none()) else { return };
        let ip = if self.own.is_loopback() { Ipv6Addr::LOCALHOST } else { Ipv6Addr::UNSPECIFIED };
        let socket = self.socket(id, IpAddr::V6(ip), &exit.lane).ok();
        if let Some(exit) = self.exits.get_mut(&id) {
            exit.v6 = socket;
        }
    }

    fn socket(&self, id: ExitId, ip: IpAddr, lane: &Arc<Lane>) -> std::io::Result<Socket> {
        let _inside = self.runtime.enter();
        let socket = bind_datagrams(SocketAddr::new(ip, 0), EXIT_BUFFER)?;
        let state = prepare(&socket)?;
        let sender = BatchSender::new(socket.try_clone()?, state.clone(), self.total.clone());
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let receiver = Receiver { socket, state, buffers: self.buffers.clone() };
        let task = receive(id, receiver, self.inbox.clone(), lane.clone());
        Ok(Socket { sender, receiving: self.runtime.spawn(task).abort_handle() })
    }
}

async fn receive(id: ExitId, receiver: Receiver, inbox: Arc<Inbox>, lane: Arc<Lane>) {
    loop {
        let batch = lane.admit(receiver.receive().await);
        if !batch.is_empty() {
            inbox.push(Message::ExitDatagrams(id, batch, lane.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    const EXIT: ExitId = ExitId(7);
    /// An address of loopback that nobody gets by chance.
    const OWN: Ipv4Addr = Ipv4Addr::new(127, 7, 0, 1);

    fn exits() -> (Exits, Arc<Inbox>) {
        let inbox = Arc::new(Inbox::default());
        (Exits::new(OWN, inbox.clone(), Handle::current()), inbox)
    }

    fn server(ip: IpAddr) -> std::io::Result<(UdpSocket, SocketAddr)> {
        let socket = UdpSocket::bind((ip, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    }

    fn next(inbox: &Inbox) -> Vec<(ExitId, SocketAddr, Bytes)> {
        let mut batch = Vec::new();
        inbox.take(&mut batch, Duration::from_secs(10));
        let parts = batch.into_iter().flat_map(|message| match message {
            Message::ExitDatagrams(id, datagrams, _) => {
                datagrams.into_iter().map(|(from, bytes)| (id, from, bytes)).collect::<Vec<_>>()
            }
            _ => Vec::new(),
        });
        parts.collect()
    }

    fn echo(exits: &mut Exits, inbox: &Inbox, ip: IpAddr, own: IpAddr) {
        // A machine without IPv6 has nothing to show here.
        let Ok((server, address)) = server(ip) else { return };
        exits.send(EXIT, address, Bytes::from_static(b"out"));
        exits.flush();
        let mut bytes = [0; 16];
        let (len, from) = server.recv_from(&mut bytes).expect("it left");
        assert_eq!((&bytes[..len], from.ip()), (b"out".as_slice(), own), "from the node's own address");
        server.send_to(b"back", from).expect("loopback");
        assert_eq!(next(inbox), [(EXIT, address, Bytes::from_static(b"back"))]);
    }

    //= spec/tunnels.md#7-exit
    #[tokio::test(flavor = "multi_thread")]
    async fn datagrams_leave_and_come_back_under_the_number_of_their_exit() {
        let (mut exits, inbox) = exits();
        exits.open(EXIT);
        echo(&mut exits, &inbox, Ipv4Addr::LOCALHOST.into(), OWN.into());
        echo(&mut exits, &inbox, Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_closed_exit_sends_nothing_and_frees_its_port() {
        let (mut exits, _inbox) = exits();
        let (server, address) = server(Ipv4Addr::LOCALHOST.into()).expect("loopback");
        exits.open(EXIT);
        exits.send(EXIT, address, Bytes::from_static(b"x"));
        exits.close(EXIT);
        let from = server.recv_from(&mut [0; 16]).expect("what was sent before the end left").1;
        exits.send(EXIT, address, Bytes::from_static(b"y"));
        exits.flush();
        assert_eq!(exits.total().dropped(), 1);
        // The task lets go of its half when the runtime comes to it.
        while UdpSocket::bind(from).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!exits.handled(&Lane::new(1, exits.total()), EXIT, 0));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn exits_and_what_waits_from_them_are_bounded() {
        let (mut exits, inbox) = exits();
        exits.open(EXIT);
        let (server, address) = server(Ipv4Addr::LOCALHOST.into()).expect("loopback");
        exits.send(EXIT, address, Bytes::from_static(b"x"));
        exits.flush();
        let from = server.recv_from(&mut [0; 16]).expect("it left").1;
        for number in 0..EXIT_WAITING_MAX + 44 {
            server.send_to(&number.to_be_bytes(), from).expect("loopback");
            // The kernel's own buffer shall not be what drops.
            if number % 32 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        while exits.total().dropped() < 44 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(next(&inbox).len(), EXIT_WAITING_MAX);
    }
}
