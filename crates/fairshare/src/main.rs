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
mod process;
mod show;
mod transaction;
mod wanted;

fn main() {}
