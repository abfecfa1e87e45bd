//! A program in front of a node, two relays behind it, an exit, and what the program wants to reach: all over real
//! sockets of loopback.
//= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine

#[expect(dead_code, reason = "these nodes are started with more than the usual")]
mod world;

use fairshare_host::{HostConfig, NodeHandle};
use fairshare_node::{Command, Reply};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

/// Loopback answers in milliseconds; a machine that is overloaded takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const HOPS: u8 = 3;

/// Three relays of which the last is an exit, and the node of the program.
struct World {
    _dir: tempfile::TempDir,
    relays: Vec<NodeHandle>,
    user: NodeHandle,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut relays = Vec::new();
        for host in 1..=HOPS {
            let mut config = config(dir.path(), host);
            config.node.tunnel.relay = true;
            config.node.tunnel.exit_bt = host == HOPS;
            config.node.tunnel.exit_http = host == HOPS;
            config.node.tunnel.exit_loopback = true;
            relays.push(start(config, &relays).await);
        }
        let mut config = config(dir.path(), 9);
        config.socks = vec![(world::ANYWHERE, HOPS)];
        let user = start(config, &relays).await;
        let world = Self { _dir: dir, relays, user };
        world.wait_for_candidates().await;
        world
    }

    async fn wait_for_candidates(&self) {
        let begun = Instant::now();
        loop {
            let Ok(Reply::Relaying(known)) = self.user.command(Command::Relaying).await else {
                panic!("no reply")
            };
            if known.candidates.len() == self.relays.len() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{:?}", known.candidates);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A client that was greeted.
    async fn client(&self) -> TcpStream {
        let (server, hops) = self.user.socks()[0];
        assert_eq!(hops, HOPS);
        let mut stream = TcpStream::connect(server).await.expect("the server listens");
        stream.write_all(&[5, 1, 0]).await.expect("it listens");
        stream.read_exact(&mut [0; 2]).await.expect("an answer");
        stream
    }

    async fn end(self) {
        for node in self.relays.into_iter().chain([self.user]) {
            node.kill().await;
        }
    }
}

fn config(dir: &Path, host: u8) -> HostConfig {
    let listen = SocketAddrV4::new(Ipv4Addr::new(127, host, 0, 1), 0);
    world::config(&dir.join(host.to_string()), listen, &[])
}

async fn start(config: HostConfig, known: &[NodeHandle]) -> NodeHandle {
    let node = NodeHandle::start(config).await.expect("a free port");
    for other in known {
        node.command(Command::AddPeer(other.address().into())).await.expect("running");
    }
    node
}

fn request(command: u8, to: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(to) = to else { panic!("IPv4") };
    [&[5, command, 0, 1], to.ip().octets().as_slice(), &to.port().to_be_bytes()].concat()
}

/// The port that a successful answer names.
async fn bound(stream: &mut TcpStream) -> u16 {
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await.expect("an answer");
    assert_eq!(reply[1], 0);
    u16::from_be_bytes([reply[8], reply[9]])
}

/// Sends until the same comes back: the first ones are lost while there is no circuit.
async fn echoed(program: &UdpSocket, data: &[u8]) -> Vec<u8> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        program.send(data).await.expect("loopback");
        let mut bytes = vec![0; 2_048];
        if let Ok(Ok(len)) = timeout(Duration::from_millis(200), program.recv(&mut bytes)).await {
            bytes.truncate(len);
            return bytes;
        }
    }
    panic!("no answer over a circuit");
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_a_program_leave_at_the_exit_and_come_back() {
    let world = World::new().await;
    let mut stream = world.client().await;
    stream.write_all(&request(3, ([0, 0, 0, 0], 0).into())).await.expect("it listens");
    let port = bound(&mut stream).await;
    let echo = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    let target = echo.local_addr().expect("bound");
    let seen = tokio::spawn(async move {
        let mut bytes = [0; 2_048];
        loop {
            let (len, from) = echo.recv_from(&mut bytes).await.expect("loopback");
            assert_eq!(from.ip(), Ipv4Addr::new(127, HOPS, 0, 1), "only the exit is seen");
            echo.send_to(&bytes[..len], from).await.expect("loopback");
        }
    });
    let program = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    program.connect(("127.0.0.1", port)).await.expect("loopback");
    // Like uTP, which the exit lets through, and as long as a cell may be.
    let data = [[1, 0].as_slice(), &[7; 1_200]].concat();
    let framed = [&[0, 0], &request(0, target)[2..], &data].concat();
    assert_eq!(echoed(&program, &framed).await, framed);
    assert!(!seen.is_finished(), "somebody else than the exit came");
    drop(stream);
    let begun = Instant::now();
    while circuits(&world.user).await > 0 {
        assert!(begun.elapsed() < PATIENCE, "the circuits of an association end with it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.end().await;
}

async fn circuits(node: &NodeHandle) -> usize {
    match node.command(Command::Circuits).await {
        Ok(Reply::Circuits(circuits)) => {
            // Those for payment have one hop.
            circuits.iter().filter(|one| one.path.len() > 1).count()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_request_of_a_program_is_answered_by_the_exit() {
    let world = World::new().await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let target = server.local_addr().expect("bound");
    let body = format!("d8:intervali900e5:peers{}:{}e", 3_000, "p".repeat(3_000));
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let sent = answer.clone();
    tokio::spawn(async move {
        let (mut stream, from) = server.accept().await.expect("a client");
        assert_eq!(from.ip(), Ipv4Addr::new(127, HOPS, 0, 1), "only the exit is seen");
        let mut asked = [0; 1_024];
        let len = stream.read(&mut asked).await.expect("a request");
        assert!(asked[..len].starts_with(b"GET /announce HTTP/1.1\r\n"));
        stream.write_all(sent.as_bytes()).await.expect("a client");
    });
    let mut stream = world.client().await;
    stream.write_all(&request(1, target)).await.expect("it listens");
    bound(&mut stream).await;
    stream.write_all(b"GET /announce HTTP/1.1\r\nHost: tracker\r\n\r\n").await.expect("it listens");
    let mut came = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut came)).await.expect("in time").expect("an answer");
    assert_eq!(came, answer.as_bytes());
    world.end().await;
}
