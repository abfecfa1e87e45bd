//! The HTTP API: the only door to a running node, for the page, the command line and programs alike.

mod chain;
mod circuits;
mod client;
mod door;
mod downloads;
mod events;
mod metrics;
mod node;
mod overview;
mod page;
mod problem;
mod server;
mod tokens;
mod trust;

pub(crate) use client::Client;
pub(crate) use events::EventLog;
pub(crate) use server::{Api, Server};
