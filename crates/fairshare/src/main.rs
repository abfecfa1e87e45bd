//! The fairshare binary.

fn main() {}
