//! A SOCKS5 client of the kind that BitTorrent engines are: one association, datagrams both ways.

use super::tunnel::Echo;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Pause after which a datagram that did not come back is sent again: a circuit drops what comes before it is ready.
const RESEND: Duration = Duration::from_millis(500);
/// After this a datagram counts as lost: a circuit is built and used within it also on a busy machine.
const LOST: Duration = Duration::from_secs(45);
/// The header of a datagram from or to an IPv4 address.
const HEADER: usize = 10;

/// An association with a SOCKS5 server. It ends when dropped.
pub(crate) struct Association {
    _control: TcpStream,
    socket: UdpSocket,
    relay: SocketAddr,
}

impl Association {
    /// Associates with the server at this port of loopback.
    pub(crate) fn open(port: u16) -> Self {
        let mut control = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server listens");
        control.set_read_timeout(Some(LOST)).expect("not zero");
        control.write_all(&[5, 1, 0]).expect("the server reads");
        assert_eq!(read::<2>(&mut control), [5, 0], "no authentication");
        // For any address and port of ours.
        control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).expect("the server reads");
        let answer = read::<10>(&mut control);
        assert_eq!(answer[..4], [5, 0, 0, 1], "{answer:?}");
        let relay = address(&answer[3..]);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        socket.set_read_timeout(Some(RESEND)).expect("not zero");
        Self { _control: control, socket, relay }
    }

    pub(crate) fn send(&self, to: SocketAddr, data: &[u8]) {
        let IpAddr::V4(ip) = to.ip() else { panic!("tests use IPv4") };
        let mut datagram = vec![0, 0, 0, 1];
        datagram.extend(ip.octets());
        datagram.extend(to.port().to_be_bytes());
        datagram.extend(data);
        self.socket.send_to(&datagram, self.relay).expect("loopback takes it");
    }

    /// The next datagram and who sent it, unless none comes for a while.
    pub(crate) fn receive(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut buffer = [0; 65536];
        let length = self.socket.recv(&mut buffer).ok()?;
        assert_eq!(buffer[..4], [0, 0, 0, 1]);
        Some((address(&buffer[3..]), buffer[HEADER..length].to_vec()))
    }

    /// Every uTP-like datagram of these sizes comes back unchanged.
    pub(crate) fn echo(&self, echo: &Echo, sizes: &[usize]) {
        for (&size, number) in sizes.iter().zip(0_u64..) {
            let data = utp_like(size, number);
            let start = Instant::now();
            self.send(echo.address, &data);
            while self.receive().is_none_or(|(from, back)| from != echo.address || back != data) {
                assert!(start.elapsed() < LOST, "{size} bytes did not come back");
                self.send(echo.address, &data);
            }
        }
    }
}

/// A datagram that the exit policy takes for uTP.
pub(crate) fn utp_like(size: usize, number: u64) -> Vec<u8> {
    let mut data = vec![1, 0];
    data.extend(number.to_be_bytes());
    data.resize(size, 0xa5);
    data
}

fn read<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).expect("the server answers");
    bytes
}

/// An IPv4 address as SOCKS5 writes it, after its type byte.
fn address(bytes: &[u8]) -> SocketAddr {
    assert_eq!(bytes[0], 1, "an IPv4 address");
    let ip = Ipv4Addr::new(bytes[1], bytes[2], bytes[3], bytes[4]);
    SocketAddr::from((ip, u16::from_be_bytes([bytes[5], bytes[6]])))
}
