//! One engine that holds them all. [`Node`] owns the overlay, the ledger, the swarm, the economy and the circuits, hands each
//! input to the engine it belongs to, and translates the events of one into verbs of another.
//!
//! There is no input or output in this crate: the host drives a node with sockets and disks, the simulator drives
//! thousands of the same nodes with virtual ones. What the simulator runs is the product.
//!
//! Layer: floor 3, above all engines, below host and simulator.

mod anonymous;
mod circuits;
mod command;
mod contract;
mod node;
mod standing;
mod tickets;
mod translate;

pub use anonymous::Route;
pub use contract::{
    AssociationId, Command, Event, Input, NodeStatus, Output, Reason, Relaying, Reply, Reputation, Speed,
    Traffic,
};
pub use fairshare_tunnel::ExitId;
pub use node::{Node, NodeConfig};
