//! Programs in front of a server; the test is the node behind it.

use super::*;
use crate::socks::{Associations, codec};
use std::net::UdpSocket;
use std::sync::mpsc;

const HOPS: u8 = 2;

/// A running server and what comes out of it.
struct World {
    address: SocketAddrV4,
    messages: mpsc::Receiver<Message>,
    front: Arc<Front>,
}

impl World {
    fn new() -> Self {
        let (listener, address) = bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let inbox = Arc::new(Inbox::default());
        let front = Front::new(inbox.clone());
        tokio::spawn(serve(TcpListener::from_std(listener).expect("a socket"), HOPS, front.clone()));
        let (told, messages) = mpsc::channel();
        std::thread::spawn(move || {
            loop {
                let mut batch = Vec::new();
                inbox.take(&mut batch, Duration::from_secs(1));
                if batch.into_iter().any(|message| told.send(message).is_err()) {
                    return;
                }
            }
        });
        Self { address, messages, front }
    }

    async fn client(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("a server");
        stream.write_all(&[5, 1, 0]).await.expect("it listens");
        let mut method = [9; 2];
        stream.read_exact(&mut method).await.expect("an answer");
        assert_eq!(method, [5, 0]);
        stream
    }

    fn message(&self) -> Message {
        self.messages.recv_timeout(Duration::from_secs(10)).expect("something came")
    }
}

/// Asks for something at 10.0.0.1:258, and gives the code and the port of the answer.
async fn asked(stream: &mut TcpStream, command: u8, at: [u8; 6]) -> (u8, u16) {
    let mut request = vec![5, command, 0, 1];
    request.extend(at);
    stream.write_all(&request).await.expect("it listens");
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await.expect("an answer");
    (reply[1], u16::from_be_bytes([reply[8], reply[9]]))
}

fn program() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    socket
}

fn framed(part: u8, data: &[u8]) -> Vec<u8> {
    [&[0, 0, part, 1, 10, 0, 0, 1, 1, 2], data].concat()
}

fn there() -> Address {
    Address::Ip(([10, 0, 0, 1], 258).into())
}

//= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine
#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_the_first_sender_pass_both_ways_until_the_connection_closes() {
    let world = World::new();
    let mut stream = world.client().await;
    let (code, port) = asked(&mut stream, 3, [0; 6]).await;
    assert_eq!(code, 0);
    let Message::Associated(id, HOPS, half) = world.message() else { panic!("no association") };
    let mut node = Associations::default();
    node.open(id, *half);
    node.send(id, &there(), b"too early");
    let (one, other) = (program(), program());
    one.send_to(&framed(0, b"out"), (Ipv4Addr::LOCALHOST, port)).expect("loopback");
    match world.message() {
        Message::AssociationDatagrams(by, sent, _) => {
            assert_eq!((by, sent), (id, vec![(there(), Bytes::from_static(b"out"))]));
        }
        _ => panic!("no datagram"),
    }
    other.send_to(&framed(0, b"strange"), (Ipv4Addr::LOCALHOST, port)).expect("loopback");
    one.send_to(&framed(1, b"part"), (Ipv4Addr::LOCALHOST, port)).expect("loopback");
    one.send_to(&framed(0, b"last"), (Ipv4Addr::LOCALHOST, port)).expect("loopback");
    match world.message() {
        Message::AssociationDatagrams(_, sent, _) => assert_eq!(sent[0].1, Bytes::from_static(b"last")),
        _ => panic!("no datagram"),
    }
    assert_eq!(world.front.total.dropped(), 3, "the early, the strange and the part");
    node.send(id, &there(), b"back");
    node.flush();
    let mut bytes = [0; 64];
    let len = one.recv(&mut bytes).expect("it came");
    assert_eq!(bytes[..len], framed(0, b"back"));
    drop(stream);
    assert!(matches!(world.message(), Message::Dissociated(gone) if gone == id));
    assert!(node.close(id) && node.is_empty());
}

//= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine
#[tokio::test(flavor = "multi_thread")]
async fn only_the_address_that_was_given_may_send() {
    let world = World::new();
    let mut stream = world.client().await;
    let (one, other) = (program(), program());
    let [high, low] = one.local_addr().expect("bound").port().to_be_bytes();
    let (_, port) = asked(&mut stream, 3, [127, 0, 0, 1, high, low]).await;
    assert!(matches!(world.message(), Message::Associated(..)));
    other.send_to(&framed(0, b"strange"), (Ipv4Addr::LOCALHOST, port)).expect("loopback");
    one.send_to(&framed(0, b"right"), (Ipv4Addr::LOCALHOST, port)).expect("loopback");
    match world.message() {
        Message::AssociationDatagrams(_, sent, _) => assert_eq!(sent[0].1, Bytes::from_static(b"right")),
        _ => panic!("no datagram"),
    }
}

//= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_one_http_request_and_its_answer() {
    let world = World::new();
    let mut stream = world.client().await;
    assert_eq!(asked(&mut stream, 1, [10, 0, 0, 1, 1, 2]).await.0, 0);
    stream.write_all(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na").await.expect("it listens");
    stream.write_all(b"b").await.expect("it listens");
    let Message::Command(command, reply) = world.message() else { panic!("no command") };
    match *command {
        Command::HttpThroughExit { hops: HOPS, target, request } => {
            assert_eq!(target, there());
            assert!(request.ends_with(b"\r\n\r\nab"), "{request:?}");
        }
        other => panic!("{other:?}"),
    }
    let answer = b"HTTP/1.1 200 OK\r\n\r\nde";
    reply.send(Reply::Fetched(Ok(Bytes::from_static(answer)))).expect("it waits");
    let mut came = Vec::new();
    stream.read_to_end(&mut came).await.expect("an answer");
    assert_eq!(came, answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_or_endless_request_closes_the_connection() {
    let world = World::new();
    let mut stream = world.client().await;
    asked(&mut stream, 1, [10, 0, 0, 1, 1, 2]).await;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("it listens");
    let Message::Command(_, reply) = world.message() else { panic!("no command") };
    reply.send(Reply::Fetched(Err("no exit".to_owned()))).expect("it waits");
    assert_eq!(stream.read(&mut [0; 9]).await.expect("a close"), 0);
    let mut stream = world.client().await;
    asked(&mut stream, 1, [10, 0, 0, 1, 1, 2]).await;
    // The server may close while we write.
    let _ = stream.write_all(&vec![b'x'; HTTP_REQUEST_MAX + READ_LEN + 1]).await;
    assert!(stream.read(&mut [0; 9]).await.unwrap_or(0) == 0);
    assert!(world.messages.recv_timeout(Duration::from_millis(50)).is_err(), "nothing reaches the node");
}

//= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine
#[tokio::test(flavor = "multi_thread")]
async fn bind_passwords_and_strangers_are_refused() {
    let world = World::new();
    let mut stream = world.client().await;
    assert_eq!(asked(&mut stream, 2, [10, 0, 0, 1, 1, 2]).await.0, 7);
    assert_eq!(stream.read(&mut [0; 9]).await.expect("a close"), 0);
    let mut stream = TcpStream::connect(world.address).await.expect("a server");
    stream.write_all(&[5, 1, 2]).await.expect("it listens");
    let mut came = Vec::new();
    stream.read_to_end(&mut came).await.expect("an answer");
    assert_eq!(came, [5, 255]);
    let open = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    assert!(matches!(bind(open), Err(StartError::Listen { .. })), "only this machine");
    assert!(matches!(bind(world.address), Err(StartError::PortInUse { .. })));
    assert!(codec::request(&[5]) == Parsed::Partial);
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_bounded() {
    let world = World::new();
    let places = world.front.places.clone().try_acquire_many_owned(CLIENTS_MAX as u32).expect("all free");
    let mut stream = TcpStream::connect(world.address).await.expect("a server");
    // A server without places closes at once.
    assert!(stream.read(&mut [0; 2]).await.unwrap_or(0) == 0);
    drop(places);
    world.client().await;
}
