//! Names of hidden services: what a torrent is called there, and how a circuit looks like an address.
//= spec/tunnels.md#9-hidden-services

use crate::wire::CircuitId;
use fairshare_crypto::sha1;
use fairshare_wire::CommunityId;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// The port of every address that stands for a circuit.
pub const CIRCUIT_PORT: u16 = 1024;

/// The hash under which a torrent's hidden seeders are found.
pub fn lookup_hash(info_hash: &[u8; 20]) -> [u8; 20] {
    let mut text = b"tribler anonymous download".to_vec();
    for byte in info_hash {
        for nibble in [byte >> 4, byte & 15] {
            text.push(b"0123456789abcdef"[usize::from(nibble)]);
        }
    }
    sha1(&text)
}

/// The community in which introduction points of a swarm tell each other of seeders: the hash plus one. `None` for
/// the one hash that has no successor.
pub fn pex_community(lookup_hash: &[u8; 20]) -> Option<CommunityId> {
    let mut id = *lookup_hash;
    for byte in id.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return Some(CommunityId(id));
        }
    }
    None
}

/// The address that stands for the peer at the other end of a circuit.
pub fn circuit_address(circuit: CircuitId) -> SocketAddr {
    SocketAddrV4::new(Ipv4Addr::from(circuit.0), CIRCUIT_PORT).into()
}

/// The circuit that such an address stands for.
pub fn address_circuit(address: &SocketAddr) -> Option<CircuitId> {
    match address {
        SocketAddr::V4(v4) if v4.port() == CIRCUIT_PORT => Some(CircuitId(u32::from(*v4.ip()))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/tunnels.md#9-hidden-services
    #[test]
    fn the_last_hash_has_no_exchange_community() {
        assert_eq!(pex_community(&[0xff; 20]), None);
        let mut hash = [0; 20];
        hash[19] = 0xff;
        let mut next = [0; 20];
        next[18] = 1;
        assert_eq!(pex_community(&hash), Some(CommunityId(next)));
    }

    //= spec/tunnels.md#9-hidden-services
    #[test]
    fn an_address_stands_for_one_circuit() {
        let address = circuit_address(CircuitId(0x0a0b_0c0d));
        assert_eq!(address.to_string(), "10.11.12.13:1024");
        assert_eq!(address_circuit(&address), Some(CircuitId(0x0a0b_0c0d)));
        assert_eq!(address_circuit(&"10.11.12.13:1025".parse().expect("an address")), None);
    }
}
