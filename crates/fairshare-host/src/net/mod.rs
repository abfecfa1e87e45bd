//! Sockets: UDP and TCP on one port number.

mod batch;
mod datagram;
mod stream;

pub(crate) use batch::{BatchSender, Lane, ReceiveBuffers, Total, prepare};
pub(crate) use datagram::{Receiver, SharedBuffers, receive_datagrams};
pub(crate) use stream::{Connection, accept_streams, dial};

use crate::error::StartError;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

/// Asked of the kernel for datagrams in both directions; it gives what its own limits allow. Enough for the
/// bursts of a crawl answered by several peers at once.
const DATAGRAM_BUFFER: usize = 4 << 20;
/// Streams that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Tries to find a port number that is free for both protocols, when any will do.
const PORT_TRIES: usize = 16;

/// The two sockets of a node.
pub(crate) struct Sockets {
    pub(crate) datagrams: UdpSocket,
    pub(crate) streams: std::net::TcpListener,
    /// Where both listen.
    pub(crate) address: SocketAddrV4,
}

impl Sockets {
    /// Binds both protocols. Port 0 picks a number that is free for both.
    pub(crate) fn bind(wanted: SocketAddrV4) -> Result<Self, StartError> {
        let tries = if wanted.port() == 0 { PORT_TRIES } else { 1 };
        let mut result = Self::bind_once(wanted);
        for _ in 1..tries {
            if !matches!(result, Err(StartError::PortInUse { .. })) {
                break;
            }
            result = Self::bind_once(wanted);
        }
        result
    }

    fn bind_once(wanted: SocketAddrV4) -> Result<Self, StartError> {
        let refused = |source: std::io::Error| match source.kind() {
            ErrorKind::AddrInUse => StartError::PortInUse { address: wanted.into() },
            _ => StartError::Listen { address: wanted.into(), source },
        };
        let streams = listen(wanted).map_err(refused)?;
        let port = match streams.local_addr().map_err(refused)? {
            SocketAddr::V4(address) => address.port(),
            SocketAddr::V6(address) => address.port(),
        };
        let address = SocketAddrV4::new(*wanted.ip(), port);
        let datagrams = datagram_socket(address).map_err(refused)?;
        Ok(Self { datagrams, streams, address })
    }
}

/// A listener that never waits.
pub(crate) fn listen(address: SocketAddrV4) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // Lets a restarted node listen while connections of its predecessor linger; two listeners stay impossible.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::V4(address).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn datagram_socket(address: SocketAddrV4) -> std::io::Result<UdpSocket> {
    bind_datagrams(address.into(), DATAGRAM_BUFFER)
}

/// A socket for datagrams that never waits. IPv6 is IPv6 alone: the other family has a socket of its own.
pub(crate) fn bind_datagrams(address: SocketAddr, buffer: usize) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Smaller buffers only mean more loss under load, which every protocol above expects.
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The address by which this machine reaches others: what a node that listens everywhere calls its own.
pub(crate) fn own_ip() -> Ipv4Addr {
    let route = || -> std::io::Result<SocketAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // Connecting a datagram socket sends nothing; it only asks the kernel for the route. The address is one
        // that is set aside for documentation.
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    match route() {
        Ok(SocketAddr::V4(address)) if !address.ip().is_unspecified() => *address.ip(),
        _ => Ipv4Addr::LOCALHOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_get_one_port_and_a_taken_port_is_named() {
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let sockets = Sockets::bind(any).expect("loopback");
        assert_eq!(sockets.datagrams.local_addr().expect("bound"), sockets.address.into());
        assert_eq!(sockets.streams.local_addr().expect("bound"), sockets.address.into());
        match Sockets::bind(sockets.address) {
            Err(StartError::PortInUse { address }) => assert_eq!(address, sockets.address.into()),
            other => panic!("bound twice: {:?}", other.map(|sockets| sockets.address)),
        }
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let foreign = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 0);
        assert!(matches!(Sockets::bind(foreign), Err(StartError::Listen { .. })));
    }
}
