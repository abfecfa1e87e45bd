//! The virtual world: complete nodes on a virtual network with loss, delay, reordering and damage, on virtual disks
//! with slow and torn writes, in machines that crash and start again; all of it from one seed.
//!
//! What runs in here is the product: the same [`fairshare_node::Node`] that the host drives with sockets. A run is
//! defined by commit, scenario and seed, and gives a digest over everything that all nodes put out; two runs with
//! different digests are a defect. The promises that are checked: no block number is used twice, no acknowledged block
//! is lost, every payment exists once with one answer, all balances add up to nothing, every file arrives as it was
//! made, every fork is proved everywhere, and no honest node is ever convicted.
//!
//! Layer: floor 4, beside the host.
//!
//! ```no_run
//! let report = fairshare_sim::run(7, fairshare_sim::Scenario::default()).expect("all promises are kept");
//! println!("{report}");
//! ```

mod check;
mod digest;
mod disk;
mod journal;
mod machine;
mod scenario;
mod schedule;
mod trace;
mod tracker;
mod world;

pub use scenario::{Adversaries, Adversary, Bug, Scenario};

use std::fmt;
use thiserror::Error;

/// Runs a world to its end.
///
/// # Errors
/// A promise was broken.
pub fn run(seed: u64, scenario: Scenario) -> Result<Report, Failure> {
    world::World::new(seed, scenario).run()
}

/// What came of a run that kept all promises.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The seed of the run.
    pub seed: u64,
    /// The first 64 bits of the hash over everything that all nodes put out.
    pub digest: u64,
    /// How long the run took in its own world.
    pub virtual_seconds: u64,
    /// Machines, adversaries included.
    pub machines: usize,
    /// Crashes of machines.
    pub crashes: u32,
    /// Files that arrived at honest machines.
    pub files: u32,
    /// Payments between honest machines.
    pub payments: u32,
    /// Bytes that were paid for by them.
    pub paid_bytes: u64,
    /// Bytes that all streams carried.
    pub carried_bytes: u64,
    /// Forks that were made and proved.
    pub forks: usize,
    /// The most that one machine owed another when somebody looked.
    pub owed_bytes_max: u64,
    /// Pieces that arrived damaged and were dropped.
    pub failed_pieces: u32,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: digest {:016x}, {} virtual s, {} machines, {} crashes, {} files, {} payments of {} bytes, \
             {} bytes carried, {} owed at most, {} damaged pieces, {} forks proved",
            self.seed,
            self.digest,
            self.virtual_seconds,
            self.machines,
            self.crashes,
            self.files,
            self.payments,
            self.paid_bytes,
            self.carried_bytes,
            self.owed_bytes_max,
            self.failed_pieces,
            self.forks
        )
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, Error)]
#[error("seed {seed}: {message}")]
pub struct Failure {
    /// The seed to run again.
    pub seed: u64,
    /// Which promise.
    pub message: String,
    /// The last things that happened, oldest first.
    pub events: Vec<String>,
}
