//! Hostile bytes: no datagram makes an overlay panic, and none that is not signed moves anything.

mod ring;

use fairshare_overlay::community::{DISCOVERY, TRUSTCHAIN};
use fairshare_wire::unsigned_packet;
use proptest::prelude::*;
use ring::{Ring, address};
use std::sync::LazyLock;
use std::time::Duration;

/// What two living nodes sent each other.
static REAL: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut ring = Ring::new(3);
    ring.tell(0, address(1));
    ring.tell(1, address(2));
    ring.run(Duration::from_secs(30));
    ring.sent.iter().map(|(_, _, bytes)| bytes.to_vec()).collect()
});

fn feed(bytes: &[u8]) -> Ring {
    let mut ring = Ring::new(2);
    ring.inject(address(9), address(0), bytes.to_vec().into());
    ring.run(Duration::from_secs(1));
    ring
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_are_refused(bytes: Vec<u8>) {
        let ring = feed(&bytes);
        prop_assert!(ring.nodes[0].peers().is_empty());
        prop_assert_eq!(ring.nodes[0].refusals().values().sum::<u64>(), 1);
    }

    #[test]
    fn random_bodies_never_panic(discovery: bool, id: u8, body: Vec<u8>) {
        let community = if discovery { DISCOVERY } else { TRUSTCHAIN };
        let ring = feed(&unsigned_packet(community, id, 1, &body));
        prop_assert!(ring.nodes[0].peers().is_empty());
    }

    #[test]
    fn a_changed_packet_makes_no_peer(which: prop::sample::Index, at: prop::sample::Index, mask in 1u8..) {
        let mut bytes = REAL[which.index(REAL.len())].clone();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        prop_assert!(feed(&bytes).nodes[0].peers().is_empty());
    }

    #[test]
    fn a_cut_packet_makes_no_peer(which: prop::sample::Index, len: prop::sample::Index) {
        let bytes = &REAL[which.index(REAL.len())];
        prop_assert!(feed(&bytes[..len.index(bytes.len())]).nodes[0].peers().is_empty());
    }
}
