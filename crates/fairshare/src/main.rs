//! The fairshare binary.

mod api;
mod cli;
mod config;
mod create;
mod demo;
mod failure;
mod folder;
mod forms;
mod print;
mod show;
mod transaction;

fn main() {}
