//! Peer exchange (BEP 11): which peers the sender met and lost.

use super::ExtensionError;
use crate::bencode::{Limits, Tree, Value};
use fairshare_wire::{Reader, Writer, read_ip4, write_ip4};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

/// Entries of one message that are accepted, of all lists together.
pub const MAX_PEX_ENTRIES: usize = 200;
const V4_LEN: usize = 6;
const V6_LEN: usize = 18;

/// What the sender knows about a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PexFlags(pub u8);

impl PexFlags {
    /// The peer only uploads.
    pub const UPLOAD_ONLY: Self = Self(0x02);
    /// The sender connected to the peer, so it can be reached.
    pub const REACHABLE: Self = Self(0x10);

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A peer that the sender met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PexPeer {
    /// Its address.
    pub address: SocketAddr,
    /// What the sender knows about it.
    pub flags: PexFlags,
}

/// A message of `ut_pex`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pex {
    /// Peers that the sender met.
    pub added: Vec<PexPeer>,
    /// Peers that the sender lost.
    pub dropped: Vec<SocketAddr>,
}

impl Pex {
    /// Reads a message.
    pub fn parse(payload: &[u8]) -> Result<Self, ExtensionError> {
        let root = Value::parse(payload, Limits::NETWORK)?;
        let bytes = |key| root.get(key).and_then(Value::bytes).unwrap_or_default();
        let lists = [bytes("added"), bytes("dropped")].map(|list| list.len() / V4_LEN);
        let lists6 = [bytes("added6"), bytes("dropped6")].map(|list| list.len() / V6_LEN);
        if lists.iter().chain(&lists6).sum::<usize>() > MAX_PEX_ENTRIES {
            return Err(ExtensionError::TooMuch("peers in one exchange"));
        }
        let mut pex = Self::default();
        pex.added.extend(with_flags(compact_addresses(bytes("added"), V4_LEN)?, bytes("added.f")));
        pex.added.extend(with_flags(compact_addresses(bytes("added6"), V6_LEN)?, bytes("added6.f")));
        pex.dropped.extend(compact_addresses(bytes("dropped"), V4_LEN)?);
        pex.dropped.extend(compact_addresses(bytes("dropped6"), V6_LEN)?);
        Ok(pex)
    }

    /// The payload of the message.
    pub fn encode(&self) -> Vec<u8> {
        let (v4, v6): (Vec<&PexPeer>, Vec<&PexPeer>) =
            self.added.iter().partition(|peer| peer.address.is_ipv4());
        let (lost4, lost6): (Vec<&SocketAddr>, Vec<&SocketAddr>) =
            self.dropped.iter().partition(|address| address.is_ipv4());
        let flags = |peers: &[&PexPeer]| peers.iter().map(|peer| peer.flags.0).collect::<Vec<u8>>();
        let compact = |peers: &[&PexPeer]| compact(peers.iter().map(|peer| &peer.address));
        Tree::dict(
            [
                ("added", compact(&v4)),
                ("added.f", flags(&v4)),
                ("added6", compact(&v6)),
                ("added6.f", flags(&v6)),
                ("dropped", self::compact(lost4.into_iter())),
                ("dropped6", self::compact(lost6.into_iter())),
            ]
            .map(|(key, bytes)| (key, Tree::Bytes(bytes.into()))),
        )
        .encode()
    }
}

/// Addresses of 6 or 18 bytes each, as trackers and peers write them.
pub(crate) fn compact_addresses(list: &[u8], entry_len: usize) -> Result<Vec<SocketAddr>, ExtensionError> {
    if !list.len().is_multiple_of(entry_len) {
        return Err(ExtensionError::Length(list.len()));
    }
    let address = |entry| address(entry).ok_or(ExtensionError::Length(list.len()));
    list.chunks(entry_len).map(address).collect()
}

fn address(entry: &[u8]) -> Option<SocketAddr> {
    let mut input = Reader::new(entry);
    if entry.len() == V4_LEN {
        return read_ip4(&mut input).ok().map(SocketAddr::V4);
    }
    let ip = Ipv6Addr::from(input.array::<16>().ok()?);
    Some(SocketAddr::V6(SocketAddrV6::new(ip, input.u16().ok()?, 0, 0)))
}

fn with_flags(addresses: Vec<SocketAddr>, flags: &[u8]) -> impl Iterator<Item = PexPeer> {
    let flags = flags.iter().copied().chain(std::iter::repeat(0));
    addresses.into_iter().zip(flags).map(|(address, flags)| PexPeer { address, flags: PexFlags(flags) })
}

fn compact<'a>(addresses: impl Iterator<Item = &'a SocketAddr>) -> Vec<u8> {
    let mut out = Writer::new();
    for address in addresses {
        match address {
            SocketAddr::V4(address) => write_ip4(&mut out, *address),
            SocketAddr::V6(address) => {
                out.bytes(&address.ip().octets()).u16(address.port());
            }
        }
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))),
            any::<([u8; 16], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port))),
        ]
    }

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    #[test]
    fn a_message_has_the_published_form() {
        let peer = PexPeer { address: SocketAddr::from(([1, 2, 3, 4], 0x1ae1)), flags: PexFlags(0x12) };
        let pex = Pex { added: vec![peer], dropped: Vec::new() };
        let expected = b"d5:added6:\x01\x02\x03\x04\x1a\xe17:added.f1:\x126:added60:8:added6.f0:7:dropped0:8:dropped60:e";
        assert_eq!(pex.encode(), expected);
        assert!(peer.flags.contains(PexFlags::REACHABLE) && peer.flags.contains(PexFlags::UPLOAD_ONLY));
    }

    #[test]
    fn missing_flags_are_zero_and_cut_lists_are_refused() {
        let pex = Pex::parse(b"d5:added6:\x01\x02\x03\x04\x1a\xe1e").expect("well formed");
        assert_eq!(pex.added.len(), 1);
        assert_eq!(pex.added[0].flags, PexFlags(0));
        assert_eq!(Pex::parse(b"d5:added5:\x01\x02\x03\x04\x1ae"), Err(ExtensionError::Length(5)));
    }

    #[test]
    fn more_than_two_hundred_entries_are_refused() {
        let address = SocketAddr::from(([1, 2, 3, 4], 5));
        let peer = PexPeer { address, flags: PexFlags(0) };
        let pex = |added, dropped| Pex { added: vec![peer; added], dropped: vec![address; dropped] };
        assert!(Pex::parse(&pex(100, 100).encode()).is_ok());
        let too_much = Err(ExtensionError::TooMuch("peers in one exchange"));
        assert_eq!(Pex::parse(&pex(101, 100).encode()), too_much);
    }

    proptest! {
        #[test]
        fn a_message_is_read_back_by_family(
            added in proptest::collection::vec((any_address(), any::<u8>()), 0..20),
            dropped in proptest::collection::vec(any_address(), 0..20),
        ) {
            let peer = |(address, flags)| PexPeer { address, flags: PexFlags(flags) };
            let mut pex = Pex { added: added.into_iter().map(peer).collect(), dropped };
            let parsed = Pex::parse(&pex.encode()).expect("own encoding");
            pex.added.sort_by_key(|peer| peer.address.is_ipv6());
            pex.dropped.sort_by_key(SocketAddr::is_ipv6);
            prop_assert_eq!(parsed, pex);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Pex::parse(&bytes);
        }
    }
}
