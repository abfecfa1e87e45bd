//! The fairshare binary.

mod cli;
mod config;
mod create;
mod failure;
mod folder;
mod print;
mod show;

fn main() {}
