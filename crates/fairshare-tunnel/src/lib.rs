//! Circuits: originators, relays, exits and hidden services of the anonymous overlay.
//!
//! Floor 2. Codecs and decisions only: no sockets, no clock, no knowledge of torrents or payments. The wire is that of
//! py-ipv8 3.2.1, so living peers are neighbours; what we do better is done without leaving it.

pub mod exit_policy;
pub mod handshake;
pub mod hidden_names;
pub mod layer;
pub mod replay;
pub mod wire;

pub use wire::{CircuitId, Flags};
