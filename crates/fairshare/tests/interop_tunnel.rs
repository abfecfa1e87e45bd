//! Against living py-ipv8 3.2.1 nodes, over its own UDP endpoint and over that of ipv8-rust-tunnels: circuits of 1 to 3 hops.

mod support;

use std::path::Path;
use support::living_peers;
use support::tunnel::{Echo, SIZES, TunnelPeer, introduce_all};

/// Flags of a relay and of an exit.
const RELAY: &str = "relay,speed_test";
const EXIT: &str = "relay,exit_bt,speed_test";
/// Both kinds of endpoint.
const ENDPOINTS: [&str; 2] = ["python", "rust"];

/// Two relays and an exit. Each is in a /16 of its own, so that the rule against neighbours on one path stays on.
fn hops(peers: &Path, endpoints: [&str; 3]) -> [TunnelPeer; 3] {
    let kinds = [(endpoints[0], RELAY), (endpoints[1], RELAY), (endpoints[2], EXIT)];
    let mut number = 0;
    kinds.map(|(endpoint, flags)| {
        number += 1;
        TunnelPeer::start(peers, &format!("127.{number}.0.1"), endpoint, flags)
    })
}

/// The measure of the other tests: what they ask of circuits with our nodes works among the living peers alone.
#[test]
fn living_peers_among_themselves_do_what_is_asked_of_us() {
    let Some(peers) = living_peers("interop_tunnel") else { return };
    for endpoint in ENDPOINTS {
        let mut originator = TunnelPeer::start(&peers, "127.9.0.1", endpoint, "");
        let mut hops = hops(&peers, ["python", "rust", endpoint]);
        introduce_all(&mut originator, &mut hops);
        let echo = Echo::start();
        for count in 1..=3 {
            let path = hops[3 - count..].iter().map(|hop| hop.key.clone()).collect::<Vec<_>>();
            let circuit = originator.build(&path);
            originator.echo(circuit, &echo, &SIZES);
            originator.speed_test(circuit);
            originator.destroy(circuit);
            hops.iter_mut().for_each(TunnelPeer::wait_until_it_carries_nothing);
        }
    }
}
