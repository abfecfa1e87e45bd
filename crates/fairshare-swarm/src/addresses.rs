//! Judging addresses: which may be dialled, and which count as one place when connections are limited.
//= spec/swarm.md#109-addresses-from-outside-are-untrusted

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Who told us an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressSource {
    /// The user, the command line, or a magnet's `x.pe`: believed.
    User,
    /// The host: it stands for a circuit with a hidden peer, and its bits mean nothing.
    Circuit,
    /// A tracker at this address, where known.
    Tracker,
    /// A peer by peer exchange.
    Exchange,
    /// It connected to us.
    Incoming,
}

/// Whether an address may be dialled. `local_source`: whoever told it stands on a local network itself.
pub(crate) fn may_dial(address: &SocketAddr, source: AddressSource, local_source: bool) -> bool {
    if source == AddressSource::Circuit {
        return true;
    }
    let ip = unmapped(address.ip());
    if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() || is_broadcast(ip) {
        return false;
    }
    if source == AddressSource::User {
        return true;
    }
    let low_port = address.port() < 1024 && address.port() != 80 && address.port() != 443;
    if source == AddressSource::Exchange && low_port {
        return false;
    }
    local_source || !is_local(ip)
}

/// Loopback, private, link-local and carrier-grade NAT addresses.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    match unmapped(ip) {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// The network that an address is counted under: /24 of IPv4, /48 of IPv6; local addresses one by one.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
pub(crate) fn prefix(ip: IpAddr) -> IpAddr {
    let ip = unmapped(ip);
    if is_local(ip) {
        return ip;
    }
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    }
}

/// What is banned when a peer at `address` is: the whole address, but on this machine, where every peer has the
/// same one, the port too.
pub(crate) fn ban_name(address: SocketAddr) -> SocketAddr {
    let ip = unmapped(address.ip());
    SocketAddr::new(ip, if ip.is_loopback() { address.port() } else { 0 })
}

/// The IPv4 address inside an IPv4-mapped IPv6 address.
pub(crate) fn unmapped(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dial(address: &str, source: AddressSource, local: bool) -> bool {
        may_dial(&address.parse().expect("address"), source, local)
    }

    //= spec/swarm.md#109-addresses-from-outside-are-untrusted
    #[test]
    fn addresses_that_make_no_sense_are_never_dialled() {
        for address in
            ["1.2.3.4:0", "0.0.0.0:5", "224.0.0.1:6881", "255.255.255.255:6881", "[::]:6881", "[ff02::1]:1"]
        {
            assert!(!dial(address, AddressSource::User, true), "{address}");
        }
    }

    //= spec/swarm.md#109-addresses-from-outside-are-untrusted
    #[test]
    fn local_addresses_are_believed_only_from_local_sources() {
        for address in [
            "127.0.0.1:6881",
            "10.0.0.1:6881",
            "100.64.0.1:6881",
            "[::ffff:192.168.1.1]:6881",
            "[fe80::1]:9000",
        ] {
            assert!(!dial(address, AddressSource::Exchange, false), "{address}");
            assert!(dial(address, AddressSource::Exchange, true), "{address}");
            assert!(dial(address, AddressSource::User, false), "{address}");
        }
        assert!(dial("8.8.8.8:6881", AddressSource::Exchange, false));
    }

    //= spec/swarm.md#109-addresses-from-outside-are-untrusted
    #[test]
    fn low_ports_are_refused_from_peer_exchange() {
        assert!(!dial("8.8.8.8:25", AddressSource::Exchange, false));
        assert!(dial("8.8.8.8:443", AddressSource::Exchange, false));
        assert!(dial("8.8.8.8:25", AddressSource::Tracker, false));
    }

    //= spec/swarm.md#13-anonymous-torrents
    #[test]
    fn circuits_may_have_any_bits() {
        for address in ["0.0.0.1:1024", "127.0.0.1:1024", "224.0.0.1:1024", "255.255.255.255:1024"] {
            assert!(dial(address, AddressSource::Circuit, false), "{address}");
        }
    }

    #[test]
    fn a_ban_holds_for_every_port_but_on_this_machine() {
        let name = |text: &str| ban_name(text.parse().expect("address"));
        assert_eq!(name("8.8.8.8:1"), name("[::ffff:8.8.8.8]:2"));
        assert_ne!(name("127.0.0.1:1"), name("127.0.0.1:2"));
    }

    #[test]
    fn local_addresses_are_counted_one_by_one() {
        let of = |text: &str| prefix(text.parse().expect("ip"));
        assert_eq!(of("8.8.8.8"), of("8.8.8.200"));
        assert_ne!(of("127.0.0.1"), of("127.0.0.2"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:ffff::9"));
    }
}
