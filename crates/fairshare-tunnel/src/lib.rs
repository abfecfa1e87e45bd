//! Circuits: originators, relays, exits and hidden services of the anonymous overlay.
//!
//! Floor 2. Codecs and decisions only: no sockets, no clock, no knowledge of torrents or payments. The wire is that of
//! py-ipv8 3.2.1, so living peers are neighbours; what we do better is done without leaving it.
//!
//! [`Tunnel`] is the engine. Tell it of candidates, open groups of circuits, feed it the datagrams of the tunnel
//! communities, then drain [`Tunnel::poll`] and come back at [`Tunnel::next_timeout`]. It never sees the sockets of an
//! exit: it says what to send from them and is told what arrived.

pub mod exit_policy;
pub mod handshake;
pub mod hidden_names;
pub mod layer;
pub mod replay;
pub mod wire;

mod candidates;
mod circuit;
mod config;
mod engine;
mod exit;
mod group;
mod guards;
mod hidden;
mod hop;
mod http;
mod joined;
mod link;
mod network;
mod originator;
mod output;
mod path;
mod room;
mod speed;
mod upkeep;

pub use config::TunnelConfig;
pub use engine::Tunnel;
pub use joined::relay_early;
pub use output::{
    Allowance, Carried, CircuitEnd, CircuitState, CircuitStatus, CircuitUse, ExitId, GroupId, GroupSpec,
    JoinedStatus, TunnelEvent, TunnelOutput,
};
pub use wire::{CircuitId, Flags};
