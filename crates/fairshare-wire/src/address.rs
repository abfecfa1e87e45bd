//! Addresses as IPv8 writes them.
//= spec/overlay.md#4-addresses

use crate::cursor::{ReadError, Reader, Writer};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// "Not known" in an `ip4` field.
pub const UNKNOWN_V4: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

const TYPE_V4: u8 = 1;
const TYPE_HOST: u8 = 2;
const TYPE_V6: u8 = 3;

/// An address of the typed form: IPv4, IPv6 or a host name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IPv4 or IPv6 with port. An IPv4-mapped IPv6 address stays IPv6.
    Ip(SocketAddr),
    /// A host name in UTF-8 with port.
    Host(String, u16),
}

impl Address {
    /// Reads the `ip` form: IPv4 or IPv6 only.
    pub fn read_ip(input: &mut Reader<'_>) -> Result<SocketAddr, ReadError> {
        match input.u8()? {
            TYPE_V4 => read_ip4(input).map(SocketAddr::V4),
            TYPE_V6 => {
                let ip = Ipv6Addr::from(input.array::<16>()?);
                Ok(SocketAddr::V6(SocketAddrV6::new(ip, input.u16()?, 0, 0)))
            }
            _ => Err(ReadError::Value("address type")),
        }
    }

    /// Reads the `addr` form, host names included.
    pub fn read(input: &mut Reader<'_>) -> Result<Self, ReadError> {
        let mut ahead = input.clone();
        if ahead.u8()? != TYPE_HOST {
            return Self::read_ip(input).map(Self::Ip);
        }
        let host = String::from_utf8(ahead.var16()?.to_vec()).map_err(|_| ReadError::Value("host name"))?;
        let port = ahead.u16()?;
        *input = ahead;
        Ok(Self::Host(host, port))
    }

    /// Writes the `ip` form.
    pub fn write_ip(out: &mut Writer, address: &SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => out.u8(TYPE_V4).bytes(&ip.octets()),
            IpAddr::V6(ip) => out.u8(TYPE_V6).bytes(&ip.octets()),
        };
        out.u16(address.port());
    }

    /// Writes the `addr` form.
    pub fn write(&self, out: &mut Writer) {
        match self {
            Self::Ip(address) => Self::write_ip(out, address),
            Self::Host(host, port) => {
                out.u8(TYPE_HOST).var16(host.as_bytes()).u16(*port);
            }
        }
    }
}

/// Reads the six bytes of an `ip4` field.
pub fn read_ip4(input: &mut Reader<'_>) -> Result<SocketAddrV4, ReadError> {
    let ip = Ipv4Addr::from(input.array::<4>()?);
    Ok(SocketAddrV4::new(ip, input.u16()?))
}

/// Writes the six bytes of an `ip4` field.
pub fn write_ip4(out: &mut Writer, address: SocketAddrV4) {
    out.bytes(&address.ip().octets()).u16(address.port());
}
