//! Which id a node of the mainline DHT may have at an address (BEP 42).
//= spec/swarm.md#10-discovery

use fairshare_crypto::Rng;
use std::net::IpAddr;

const MASK_V4: [u8; 4] = [0x03, 0x0f, 0x3f, 0xff];
const MASK_V6: [u8; 8] = [0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff];
/// CRC-32C (Castagnoli), bits reversed.
const CRC32C: u32 = 0x82f6_3b78;

/// An id for a node at `ip`, random where the rule allows it.
pub fn generate_node_id(ip: IpAddr, rng: &mut Rng) -> [u8; 20] {
    let mut id: [u8; 20] = rng.bytes();
    let crc = prefix(ip, id[19]);
    id[0] = (crc >> 24) as u8;
    id[1] = (crc >> 16) as u8;
    id[2] = ((crc >> 8) as u8 & 0xf8) | (id[2] & 0x07);
    id
}

/// Whether a node at `ip` may have this id: the first 21 bits follow from the address and the last byte.
pub fn is_node_id_of(id: &[u8; 20], ip: IpAddr) -> bool {
    let start = u32::from_be_bytes([id[0], id[1], id[2], 0]);
    (start ^ prefix(ip, id[19])) >> 11 == 0
}

/// The hash whose first 21 bits open the id.
fn prefix(ip: IpAddr, random: u8) -> u32 {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mask: &[u8] = if ip.is_ipv4() { &MASK_V4 } else { &MASK_V6 };
    let mut masked: Vec<u8> = octets.iter().zip(mask).map(|(octet, mask)| octet & mask).collect();
    if let Some(first) = masked.first_mut() {
        *first |= (random & 7) << 5;
    }
    crc32c(&masked)
}

fn crc32c(data: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ CRC32C } else { crc >> 1 };
    !data.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn published_ids_follow_the_rule() {
        let published = [
            ([124, 31, 75, 21], "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401"),
            ([21, 75, 31, 124], "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256"),
            ([65, 23, 51, 170], "a5d43220bc8f112a3d426c84764f8c2a1150e616"),
        ];
        for (ip, id) in published {
            let mut bytes = [0; 20];
            hex::decode_to_slice(id, &mut bytes).expect("hexadecimal");
            assert!(is_node_id_of(&bytes, ip.into()), "{id}");
            bytes[2] ^= 0x08;
            assert!(!is_node_id_of(&bytes, ip.into()), "{id} with its 21st bit changed");
        }
    }

    #[test]
    fn generated_ids_follow_the_rule_and_differ() {
        let mut rng = Rng::from_seed([1; 32]);
        for ip in [IpAddr::from([1, 2, 3, 4]), Ipv6Addr::LOCALHOST.into()] {
            let ids = [generate_node_id(ip, &mut rng), generate_node_id(ip, &mut rng)];
            assert!(ids.iter().all(|id| is_node_id_of(id, ip)));
            assert_ne!(ids[0], ids[1]);
        }
    }
}
