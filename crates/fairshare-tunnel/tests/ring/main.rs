//! Engines among themselves: circuits of one to three hops over a network that loses, repeats, forges and floods.

mod building;
mod cost;
mod ending;
mod hidden;
mod hostile;
mod nonces;
mod paying;
mod puppet;
mod services;
mod tap;
mod world;
