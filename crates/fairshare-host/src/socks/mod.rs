//! SOCKS5 in front of the circuits: programs of this machine have their datagrams carried over circuits, and single
//! HTTP requests answered by an exit. One server for each number of hops.
//= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine

mod association;
mod codec;
mod server;

pub(crate) use association::{AssociationPort, Associations, Sent};
pub(crate) use server::{Front, bind, serve};
