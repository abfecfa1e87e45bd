//! The only clock of the program: both hands of [`Now`] from one place, so that all parts of a node agree.

use fairshare_wire::{Instant, Now};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A monotonic clock that starts with the node, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: std::time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }

    pub(crate) fn now(self) -> Now {
        // A wall clock before 1970 reads as 1970: nothing in the program compares wall times for order.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now {
            mono: Instant::START + self.start.elapsed(),
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// How long it is until `deadline`; zero if it has passed.
    pub(crate) fn until(self, deadline: Instant) -> Duration {
        deadline.since(self.now().mono)
    }
}
