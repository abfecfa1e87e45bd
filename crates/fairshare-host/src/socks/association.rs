//! Associations as the node's thread holds them: the port by which a program gets its datagrams.
//= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine

use super::codec::write_datagram;
use crate::net::{BatchSender, Lane, Total};
use bytes::Bytes;
use fairshare_node::AssociationId;
use fairshare_wire::Address;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// The sending half of an association's socket.
pub(crate) struct AssociationPort {
    pub(super) sender: BatchSender,
    /// The one program that may use it: the address it gave, or the first sender.
    pub(super) client: Arc<OnceLock<SocketAddr>>,
    pub(super) total: Arc<Total>,
}

/// The associations that the node knows of.
#[derive(Default)]
pub(crate) struct Associations {
    ports: BTreeMap<AssociationId, AssociationPort>,
    /// Sent to since the last flush.
    unflushed: Vec<AssociationId>,
}

impl Associations {
    pub(crate) fn open(&mut self, id: AssociationId, port: AssociationPort) {
        self.ports.insert(id, port);
    }

    /// The program is gone; `false` if it was never there.
    pub(crate) fn close(&mut self, id: AssociationId) -> bool {
        self.ports.remove(&id).is_some()
    }

    /// The node takes datagrams off the queue; `false` if the association is gone and they are nothing to it.
    pub(crate) fn handled(&self, lane: &Lane, id: AssociationId, count: usize) -> bool {
        lane.handled(count);
        self.ports.contains_key(&id)
    }

    /// Hands a datagram to the program with the next flush. One that has not sent anything yet has no address.
    pub(crate) fn send(&mut self, id: AssociationId, origin: &Address, data: &[u8]) {
        let Some(port) = self.ports.get_mut(&id) else { return };
        let (Some(client), Some(bytes)) = (port.client.get(), write_datagram(origin, data)) else {
            return port.total.drop_some(1);
        };
        if port.sender.is_empty() {
            self.unflushed.push(id);
        }
        port.sender.send(*client, bytes);
    }

    pub(crate) fn flush(&mut self) {
        for id in self.unflushed.drain(..) {
            if let Some(port) = self.ports.get_mut(&id) {
                port.sender.flush();
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}

/// What a program sent: destinations with contents.
pub(crate) type Sent = Vec<(Address, Bytes)>;
