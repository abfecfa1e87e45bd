//! Which addresses belong together: two hops of a circuit should not, and one source has many.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The /24 of an IPv4 address, the /48 of an IPv6 address.
pub(crate) fn neighbourhood(ip: IpAddr) -> IpAddr {
    masked(ip, 24, 48)
}

/// The /16 of an IPv4 address, the /32 of an IPv6 address.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    masked(ip, 16, 32)
}

fn masked(ip: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << (32 - v4))).into(),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => masked(ip.into(), v4, v6),
            None => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << (128 - v6))).into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_prefixes_also_of_mapped_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(network(ip("10.1.2.3")), ip("10.1.0.0"));
        assert_eq!(network(ip("::ffff:10.1.2.3")), ip("10.1.0.0"));
        assert_eq!(network(ip("2001:db8:1::1")), ip("2001:db8::"));
        assert_eq!(neighbourhood(ip("10.1.2.3")), ip("10.1.2.0"));
    }
}
