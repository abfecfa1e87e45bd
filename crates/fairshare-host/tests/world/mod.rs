//! Nodes on loopback, in folders that go with the test.

use fairshare_crypto::PublicKey;
use fairshare_economy::EconomyConfig;
use fairshare_host::{HostConfig, NodeHandle, StartError};
use fairshare_node::NodeConfig;
use fairshare_overlay::{Community, OverlayConfig};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

/// Any port of loopback.
pub(crate) const ANYWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

/// A node in `dir`, listening at `listen`, that always serves `friends`.
pub(crate) fn config(dir: &Path, listen: SocketAddrV4, friends: &[PublicKey]) -> HostConfig {
    let mut overlay = OverlayConfig::at(listen);
    overlay.communities = vec![Community::trustchain(), Community::ledger()];
    let node = NodeConfig {
        economy: EconomyConfig { friends: friends.iter().copied().collect(), ..EconomyConfig::default() },
        ..NodeConfig::at(overlay)
    };
    HostConfig {
        data_dir: dir.to_path_buf(),
        listen,
        node,
        socks: Vec::new(),
        fresh_ledger: false,
        passphrase: None,
    }
}

/// Starts a node with nothing special.
pub(crate) async fn start(dir: &Path, listen: SocketAddrV4) -> Result<NodeHandle, StartError> {
    NodeHandle::start(config(dir, listen, &[])).await
}
