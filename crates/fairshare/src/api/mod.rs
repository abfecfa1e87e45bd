//! The HTTP API: the only door to a running node, for the page, the command line and programs alike.

mod client;
mod door;
mod events;
mod problem;

pub(crate) use client::Client;
pub(crate) use door::Door;
pub(crate) use events::EventLog;
