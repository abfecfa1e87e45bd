//! What an exit sends out and lets in, and where to.
//= spec/tunnels.md#7-exit

use crate::wire::Flags;
use fairshare_wire::CommunityId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a datagram looks like. Weak on purpose: it is what living exits check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looks {
    /// Like uTP.
    pub utp: bool,
    /// Like the exchange with a UDP tracker.
    pub udp_tracker: bool,
    /// Like a message of the BitTorrent DHT.
    pub dht: bool,
    /// Like an overlay packet.
    pub ipv8: bool,
}

impl Looks {
    /// Looks at a datagram.
    pub fn of(data: &[u8]) -> Self {
        Self { utp: is_utp(data), udp_tracker: is_udp_tracker(data), dht: is_dht(data), ipv8: is_ipv8(data) }
    }

    /// Any of the three that BitTorrent uses.
    pub const fn bt(self) -> bool {
        self.utp || self.udp_tracker || self.dht
    }
}

fn is_utp(data: &[u8]) -> bool {
    matches!(data, [first, second, ..] if data.len() >= 20 && first >> 4 <= 4 && first & 15 == 1 && *second <= 3)
}

fn is_udp_tracker(data: &[u8]) -> bool {
    let action = |at: usize| data.get(at..at + 4).is_some_and(|bytes| matches!(bytes, [0, 0, 0, 0..=3]));
    data.len() >= 8 && action(0) || data.len() >= 12 && action(8)
}

fn is_dht(data: &[u8]) -> bool {
    matches!(data, [b'd', .., b'e'])
}

fn is_ipv8(data: &[u8]) -> bool {
    data.len() >= 23 && matches!(data, [0, 1 | 2, ..])
}

/// Whether an exit with these flags lets a datagram pass, either way. Overlay packets of our own community always may:
/// hidden services use them.
pub fn may_pass(data: &[u8], flags: Flags, community: &CommunityId) -> bool {
    let looks = Looks::of(data);
    let own = looks.ipv8
        && data.get(..22).is_some_and(|prefix| prefix[..2] == [0, 2] && prefix[2..] == community.0);
    looks.bt() && flags.has(Flags::EXIT_BT) || looks.ipv8 && flags.has(Flags::EXIT_IPV8) || own
}

/// Whether an exit sends anything to this address: only to the public network, and to no well-known service but the
/// web's. `loopback` is for tests on one machine.
pub fn may_reach(to: &SocketAddr, loopback: bool) -> bool {
    let port = to.port();
    if port == 0 || port < 1024 && port != 80 && port != 443 {
        return false;
    }
    is_public(to.ip()) || loopback && to.ip().is_loopback()
}

/// Whether the whole network can route to this address.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (18..20).contains(&b);
    let protocol = a == 192 && b == 0 && c == 0;
    let old_relay = a == 192 && b == 88 && c == 99;
    !(special || shared || benchmark || protocol || old_relay || a == 0 || a >= 240)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    // Only what is handed out as global unicast, without documentation and without forms that carry an IPv4 address:
    // those would reach what the IPv4 rule forbids.
    let [a, b, c, d, ..] = ip.segments();
    let global = a & 0xe000 == 0x2000;
    let documentation = a == 0x2001 && b == 0x0db8 || a == 0x3fff && b < 0x1000;
    let special = a == 0x2001 && b < 0x0200;
    let six_to_four = a == 0x2002;
    let embedded = a == 0x0064 && b == 0xff9b && c == 0 && d == 0;
    global && !documentation && !special && !six_to_four && !embedded
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/tunnels.md#7-exit
    #[test]
    fn only_the_public_network_is_reached() {
        for text in [
            "127.0.0.1:6881",
            "10.1.2.3:6881",
            "192.168.0.1:6881",
            "172.16.0.1:6881",
            "169.254.0.1:6881",
            "100.64.0.1:6881",
            "224.0.0.1:6881",
            "0.0.0.0:6881",
            "192.0.2.1:6881",
            "255.255.255.255:6881",
            "198.18.0.1:6881",
            "[::1]:6881",
            "[::ffff:8.8.8.8]:6881",
            "[fe80::1]:6881",
            "[fc00::1]:6881",
            "[ff02::1]:6881",
            "[2001:db8::1]:6881",
            "[::]:6881",
            "[2002:7f00:1::]:6881",
            "[64:ff9b::7f00:1]:6881",
            "8.8.8.8:53",
            "8.8.8.8:25",
            "8.8.8.8:0",
        ] {
            assert!(!may_reach(&text.parse().expect("an address"), false), "{text}");
        }
        for text in ["8.8.8.8:6881", "8.8.8.8:80", "1.1.1.1:443", "[2606:4700::1111]:6881"] {
            assert!(may_reach(&text.parse().expect("an address"), false), "{text}");
        }
        assert!(may_reach(&"127.0.0.1:6881".parse().expect("an address"), true));
        assert!(!may_reach(&"10.0.0.1:6881".parse().expect("an address"), true));
    }

    //= spec/tunnels.md#7-exit
    #[test]
    fn what_is_not_like_bittorrent_stays_inside() {
        let ours = CommunityId([5; 20]);
        let bt = Flags::EXIT_BT;
        assert!(may_pass(b"d1:ade", bt, &ours) && !may_pass(b"d1:ade", Flags::RELAY, &ours));
        assert!(!may_pass(b"GET / HTTP/1.1\r\n\r\n", bt | Flags::EXIT_IPV8, &ours));
        let packet = |id: u8| [[0, 2].as_slice(), &[id; 20], &[13]].concat();
        assert!(may_pass(&packet(5), Flags::NONE, &ours) && !may_pass(&packet(6), Flags::NONE, &ours));
        assert!(may_pass(&packet(6), Flags::EXIT_IPV8, &ours));
    }
}
