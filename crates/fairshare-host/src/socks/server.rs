//! The server: a task for each program that connects, bounded in number, patience and bytes.
//= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine

use super::association::{AssociationPort, Sent};
use super::codec::{self, Code, GREETING_MAX, Parsed, REQUEST_MAX, Request};
use crate::error::StartError;
use crate::exit::{field, header_len};
use crate::inbox::{Inbox, Message};
use crate::net::{
    BatchSender, Lane, ReceiveBuffers, Receiver, SharedBuffers, Total, bind_datagrams, listen, prepare,
};
use bytes::Bytes;
use fairshare_node::{AssociationId, Command, Reply};
use fairshare_wire::Address;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Programs and requests at the same time, of all servers together.
const CLIENTS_MAX: usize = 256;
/// From the connection to the end of its request, the HTTP request included.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
/// An exit is given ten seconds, the way there and back some more.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// A program that sends nothing for so long has forgotten its association.
const IDLE_MAX: Duration = Duration::from_secs(30 * 60);
/// One buffer, as the specification has it.
const HTTP_REQUEST_MAX: usize = 100 << 10;
const READ_LEN: usize = 4 << 10;
/// Datagrams of one program that may wait for the node.
const CLIENT_WAITING_MAX: usize = 1_024;
/// Datagrams of all programs that may wait for the node.
const WAITING_MAX: usize = 4_096;
const ASSOCIATION_BUFFER: usize = 2 << 20;
/// "No address", in answers that need none.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// What the servers of a node share.
pub(crate) struct Front {
    inbox: Arc<Inbox>,
    next: AtomicU64,
    places: Arc<Semaphore>,
    total: Arc<Total>,
    buffers: SharedBuffers,
}

impl Front {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Arc<Self> {
        Arc::new(Self {
            inbox,
            next: AtomicU64::new(1),
            places: Arc::new(Semaphore::new(CLIENTS_MAX)),
            total: Total::new(WAITING_MAX),
            buffers: Arc::new(Mutex::new(ReceiveBuffers::new())),
        })
    }
}

/// Binds a server. Without authentication it listens to this machine alone.
///
/// # Errors
/// The address is not of loopback, or not free.
pub(crate) fn bind(wanted: SocketAddrV4) -> Result<(std::net::TcpListener, SocketAddrV4), StartError> {
    let refused = |source: std::io::Error| match source.kind() {
        ErrorKind::AddrInUse => StartError::PortInUse { address: wanted.into() },
        _ => StartError::Listen { address: wanted.into(), source },
    };
    if !wanted.ip().is_loopback() {
        let reason = "a SOCKS server without passwords listens to its own machine only";
        return Err(refused(std::io::Error::new(ErrorKind::InvalidInput, reason)));
    }
    let listener = listen(wanted).map_err(refused)?;
    let port = listener.local_addr().map_err(refused)?.port();
    Ok((listener, SocketAddrV4::new(*wanted.ip(), port)))
}

/// Serves until the task is aborted, and everybody it serves with it.
pub(crate) async fn serve(listener: TcpListener, hops: u8, front: Arc<Front>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without a place the connection closes: a program tries again.
                    if let Ok(place) = front.places.clone().try_acquire_owned() {
                        let front = front.clone();
                        clients.spawn(async move {
                            // A client that breaks off is its own affair.
                            let _ = attend(stream, hops, &front).await;
                            drop(place);
                        });
                    }
                }
                // Out of descriptors: they come back.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn attend(mut stream: TcpStream, hops: u8, front: &Front) -> std::io::Result<()> {
    let asked = timeout(REQUEST_PATIENCE, ask(&mut stream)).await??;
    match asked {
        None => Ok(()),
        Some((Request::Associate(given), _)) => associate(stream, hops, front, &given).await,
        Some((Request::Connect(target), rest)) => exchange(stream, hops, front, target, rest).await,
    }
}

/// Greeting and request; `None` if it was refused. With what came after the request.
async fn ask(stream: &mut TcpStream) -> std::io::Result<Option<(Request, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let offered = loop {
        match codec::greeting(&bytes) {
            Parsed::Whole(offered, len) => {
                bytes.drain(..len);
                break offered;
            }
            Parsed::Refused(_) => return Ok(None),
            Parsed::Partial => read_more(stream, &mut bytes, GREETING_MAX).await?,
        }
    };
    stream.write_all(&codec::method(offered)).await?;
    if !offered {
        return Ok(None);
    }
    loop {
        match codec::request(&bytes) {
            Parsed::Whole(request, len) => {
                bytes.drain(..len);
                return Ok(Some((request, bytes)));
            }
            Parsed::Refused(code) => {
                if let Some(code) = code {
                    stream.write_all(&codec::reply(code, NOWHERE)).await?;
                }
                return Ok(None);
            }
            Parsed::Partial => read_more(stream, &mut bytes, REQUEST_MAX).await?,
        }
    }
}

/// Reads what is there; nothing, or more than belongs there, is an error.
async fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>, max: usize) -> std::io::Result<()> {
    let mut part = [0; READ_LEN];
    let len = stream.read(&mut part).await?;
    if len == 0 || bytes.len() >= max {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    bytes.extend_from_slice(part.get(..len).unwrap_or_default());
    Ok(())
}

/// Says that an association is over, however it ended.
struct EndMark<'a> {
    id: AssociationId,
    inbox: &'a Inbox,
}

impl Drop for EndMark<'_> {
    fn drop(&mut self) {
        self.inbox.push(Message::Dissociated(self.id));
    }
}

/// Carries datagrams until the connection closes.
async fn associate(mut stream: TcpStream, hops: u8, front: &Front, given: &Address) -> std::io::Result<()> {
    let ip = stream.local_addr()?.ip();
    let opened = open(front, SocketAddr::new(ip, 0));
    let Ok((receiver, sender)) = opened else {
        return stream.write_all(&codec::reply(Code::Failure, NOWHERE)).await;
    };
    let bound = receiver.socket.local_addr()?;
    let client = Arc::new(OnceLock::new());
    if let Address::Ip(given) = given
        && given.ip().is_loopback()
        && given.port() != 0
    {
        client.get_or_init(|| *given);
    }
    let id = AssociationId(front.next.fetch_add(1, Ordering::Relaxed));
    let port = AssociationPort { sender, client: client.clone(), total: front.total.clone() };
    front.inbox.push(Message::Associated(id, hops, Box::new(port)));
    let _end = EndMark { id, inbox: &front.inbox };
    stream.write_all(&codec::reply(Code::Success, bound)).await?;
    let lane = Lane::new(CLIENT_WAITING_MAX, &front.total);
    loop {
        let batch = tokio::select! {
            batch = timeout(IDLE_MAX, receiver.receive()) => batch?,
            ended = wait_for_end(&mut stream) => return ended,
        };
        let batch = lane.admit(accepted(batch, &client, &front.total));
        if !batch.is_empty() {
            front.inbox.push(Message::AssociationDatagrams(id, batch, lane.clone()));
        }
    }
}

fn open(front: &Front, address: SocketAddr) -> std::io::Result<(Receiver, BatchSender)> {
    let socket = bind_datagrams(address, ASSOCIATION_BUFFER)?;
    let state = prepare(&socket)?;
    let sender = BatchSender::new(socket.try_clone()?, state.clone(), front.total.clone());
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    Ok((Receiver { socket, state, buffers: front.buffers.clone() }, sender))
}

/// The datagrams that are some, of the program that may send them.
fn accepted(batch: Vec<(SocketAddr, Bytes)>, client: &OnceLock<SocketAddr>, total: &Total) -> Sent {
    let count = batch.len();
    let from_client = batch.into_iter().filter(|(from, _)| client.get_or_init(|| *from) == from);
    let sent = from_client.filter_map(|(_, bytes)| codec::datagram(&bytes)).collect::<Sent>();
    total.drop_some(count - sent.len());
    sent
}

/// What is sent on the connection of an association means nothing; that it ends means everything.
async fn wait_for_end(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut ignored = [0; 64];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// One HTTP request, answered by an exit. Not a way for anything else: the connection closes after the answer.
async fn exchange(
    mut stream: TcpStream,
    hops: u8,
    front: &Front,
    target: Address,
    first: Vec<u8>,
) -> std::io::Result<()> {
    stream.write_all(&codec::reply(Code::Success, NOWHERE)).await?;
    let request = timeout(REQUEST_PATIENCE, http_request(&mut stream, first)).await??;
    let (reply, answer) = oneshot::channel();
    let command = Command::HttpThroughExit { hops, target, request: request.into() };
    front.inbox.push(Message::Command(Box::new(command), reply));
    let answer = timeout(ANSWER_PATIENCE, answer).await?;
    // Without an answer the connection closes, as a web server's may.
    if let Ok(Reply::Fetched(Ok(bytes))) = answer {
        timeout(ANSWER_PATIENCE, stream.write_all(&bytes)).await??;
        stream.shutdown().await?;
    }
    Ok(())
}

/// Reads on until the header, and the body that it announces, are there.
async fn http_request(stream: &mut TcpStream, mut bytes: Vec<u8>) -> std::io::Result<Vec<u8>> {
    while !is_whole(&bytes) {
        read_more(stream, &mut bytes, HTTP_REQUEST_MAX).await?;
    }
    if bytes.len() > HTTP_REQUEST_MAX { Err(ErrorKind::InvalidData.into()) } else { Ok(bytes) }
}

fn is_whole(request: &[u8]) -> bool {
    let Some((header, body)) = header_len(request).and_then(|len| request.split_at_checked(len)) else {
        return false;
    };
    let length = field(header, b"content-length").and_then(|value| std::str::from_utf8(value).ok());
    body.len() >= length.and_then(|text| text.parse::<usize>().ok()).unwrap_or(0)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
