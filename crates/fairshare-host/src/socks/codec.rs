//! The bytes of SOCKS5 (RFC 1928), as far as it is spoken here.
//= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine

use bytes::{BufMut, Bytes, BytesMut};
use fairshare_wire::{Address, Reader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

const VERSION: u8 = 5;
/// No authentication.
const METHOD_NONE: u8 = 0;
const NO_METHOD: u8 = 0xff;
const TYPE_V4: u8 = 1;
const TYPE_NAME: u8 = 3;
const TYPE_V6: u8 = 4;
/// The longest greeting (255 methods) and the longest request (a name of 255 bytes).
pub(super) const GREETING_MAX: usize = 257;
pub(super) const REQUEST_MAX: usize = 262;

/// What a client asks for after the greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// One HTTP exchange with this server.
    Connect(Address),
    /// Datagrams; they will come from this address, if it is one.
    Associate(Address),
}

/// Answers of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Success = 0,
    Failure = 1,
    CommandNotSupported = 7,
    AddressNotSupported = 8,
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed<T> {
    /// More must come.
    Partial,
    /// A whole message of so many bytes.
    Whole(T, usize),
    /// It is refused with this code, or, without one, with silence.
    Refused(Option<Code>),
}

/// Whether a greeting offers what is spoken here.
pub(super) fn greeting(bytes: &[u8]) -> Parsed<bool> {
    let mut input = Reader::new(bytes);
    match input.u8() {
        Ok(VERSION) => {}
        Ok(_) => return Parsed::Refused(None),
        Err(_) => return Parsed::Partial,
    }
    let Ok(count) = input.u8() else { return Parsed::Partial };
    let Ok(methods) = input.take(usize::from(count)) else { return Parsed::Partial };
    Parsed::Whole(methods.contains(&METHOD_NONE), 2 + methods.len())
}

/// The answer to a greeting.
pub(super) const fn method(offered: bool) -> [u8; 2] {
    [VERSION, if offered { METHOD_NONE } else { NO_METHOD }]
}

/// A request.
pub(super) fn request(bytes: &[u8]) -> Parsed<Request> {
    let mut input = Reader::new(bytes);
    let (Ok(version), Ok(command), Ok(_reserved), Ok(kind)) =
        (input.u8(), input.u8(), input.u8(), input.u8())
    else {
        return if bytes.first().is_none_or(|version| *version == VERSION) {
            Parsed::Partial
        } else {
            Parsed::Refused(None)
        };
    };
    if version != VERSION {
        return Parsed::Refused(None);
    }
    if !matches!(kind, TYPE_V4 | TYPE_NAME | TYPE_V6) {
        return Parsed::Refused(Some(Code::AddressNotSupported));
    }
    let before = input.left();
    let address = match address(kind, &mut input) {
        Some(address) => address,
        // A name that is no text will not become one.
        None if bytes.len() < REQUEST_MAX => return Parsed::Partial,
        None => return Parsed::Refused(Some(Code::AddressNotSupported)),
    };
    let len = 4 + before - input.left();
    match command {
        1 => Parsed::Whole(Request::Connect(address), len),
        3 => Parsed::Whole(Request::Associate(address), len),
        _ => Parsed::Refused(Some(Code::CommandNotSupported)),
    }
}

/// The answer to a request, with the address that is bound for it.
pub(super) fn reply(code: Code, bound: SocketAddr) -> Vec<u8> {
    let mut out = BytesMut::with_capacity(22);
    out.put_slice(&[VERSION, code as u8, 0]);
    write_ip(&mut out, &bound);
    out.to_vec()
}

/// Destination and content of a datagram; `None` for what is no datagram or a part of one.
pub(super) fn datagram(bytes: &Bytes) -> Option<(Address, Bytes)> {
    let mut input = Reader::new(bytes);
    let (reserved, part, kind) = (input.u16().ok()?, input.u8().ok()?, input.u8().ok()?);
    if reserved != 0 || part != 0 {
        return None;
    }
    let address = address(kind, &mut input)?;
    let data = bytes.len().checked_sub(input.left()).map(|start| bytes.slice(start..))?;
    Some((address, data))
}

/// A datagram from `origin`; `None` if its name is longer than the form allows.
pub(super) fn write_datagram(origin: &Address, data: &[u8]) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(22 + data.len());
    out.put_slice(&[0, 0, 0]);
    match origin {
        Address::Ip(address) => write_ip(&mut out, address),
        Address::Host(name, port) => {
            out.put_u8(TYPE_NAME);
            out.put_u8(u8::try_from(name.len()).ok()?);
            out.put_slice(name.as_bytes());
            out.put_u16(*port);
        }
    }
    out.put_slice(data);
    Some(out.freeze())
}

fn address(kind: u8, input: &mut Reader<'_>) -> Option<Address> {
    match kind {
        TYPE_V4 => {
            let ip = Ipv4Addr::from(input.array::<4>().ok()?);
            Some(Address::Ip((ip, input.u16().ok()?).into()))
        }
        TYPE_V6 => {
            let ip = Ipv6Addr::from(input.array::<16>().ok()?);
            Some(Address::Ip((ip, input.u16().ok()?).into()))
        }
        TYPE_NAME => {
            let len = input.u8().ok()?;
            let name = std::str::from_utf8(input.take(usize::from(len)).ok()?).ok()?.to_owned();
            Some(Address::Host(name, input.u16().ok()?))
        }
        _ => None,
    }
}

fn write_ip(out: &mut BytesMut, address: &SocketAddr) {
    match address {
        SocketAddr::V4(address) => {
            out.put_u8(TYPE_V4);
            out.put_slice(&address.ip().octets());
        }
        SocketAddr::V6(address) => {
            out.put_u8(TYPE_V6);
            out.put_slice(&address.ip().octets());
        }
    }
    out.put_u16(address.port());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> Address {
        Address::Ip(text.parse().expect("an address"))
    }

    //= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine
    #[test]
    fn only_no_authentication_is_spoken() {
        assert_eq!(greeting(&[5, 2, 2, 0]), Parsed::Whole(true, 4));
        assert_eq!(greeting(&[5, 1, 2]), Parsed::Whole(false, 3));
        assert_eq!(greeting(&[5, 2, 0]), Parsed::Partial);
        assert_eq!(greeting(&[4, 1, 0]), Parsed::Refused(None), "SOCKS4");
        assert_eq!((method(true), method(false)), ([5, 0], [5, 255]));
    }

    //= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine
    #[test]
    fn requests_of_all_address_types_are_read_and_bind_is_refused() {
        let v4 = [5, 3, 0, 1, 1, 2, 3, 4, 0, 80, 99];
        assert_eq!(request(&v4), Parsed::Whole(Request::Associate(ip("1.2.3.4:80")), 10));
        let name = *b"\x05\x01\0\x03\x03a.b\0\x50";
        assert_eq!(request(&name), Parsed::Whole(Request::Connect(Address::Host("a.b".to_owned(), 80)), 10));
        let mut v6 = vec![5, 1, 0, 4];
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend([0, 80]);
        assert_eq!(request(&v6), Parsed::Whole(Request::Connect(ip("[::1]:80")), 22));
        for cut in 0..10 {
            assert_eq!(request(&v4[..cut]), Parsed::Partial, "{cut}");
        }
        let mut bind = v4;
        bind[1] = 2;
        assert_eq!(request(&bind), Parsed::Refused(Some(Code::CommandNotSupported)));
        assert_eq!(request(&[5, 1, 0, 9]), Parsed::Refused(Some(Code::AddressNotSupported)));
        assert_eq!(request(&[4]), Parsed::Refused(None));
        assert_eq!(
            reply(Code::CommandNotSupported, ([127, 0, 0, 1], 258).into()),
            [5, 7, 0, 1, 127, 0, 0, 1, 1, 2]
        );
    }

    //= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine
    #[test]
    fn parts_of_datagrams_are_dropped() {
        let whole = Bytes::from_static(b"\0\0\0\x01\x01\x02\x03\x04\0\x50data");
        assert_eq!(datagram(&whole), Some((ip("1.2.3.4:80"), Bytes::from_static(b"data"))));
        let mut part = whole.to_vec();
        part[2] = 1;
        assert_eq!(datagram(&part.into()), None);
        assert_eq!(datagram(&whole.slice(..9)), None);
        let long = Address::Host("a".repeat(256), 1);
        assert_eq!(write_datagram(&long, b""), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(name in "[a-z.]{0,255}", v6: bool, bits: u128, port: u16, data: Vec<u8>) {
            let address = if v6 { Ipv6Addr::from(bits).into() } else { std::net::IpAddr::V4(Ipv4Addr::from(bits as u32)) };
            for origin in [Address::Ip(SocketAddr::new(address, port)), Address::Host(name.clone(), port)] {
                let bytes = write_datagram(&origin, &data).expect("short names");
                prop_assert_eq!(datagram(&bytes), Some((origin, Bytes::from(data.clone()))));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            greeting(&bytes);
            request(&bytes);
            datagram(&Bytes::from(bytes));
        }
    }
}
