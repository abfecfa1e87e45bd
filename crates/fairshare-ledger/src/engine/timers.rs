//! The deadlines of the engine: one for each timer, found in order of time.

use fairshare_wire::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// What can be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Write the group of foreign blocks.
    Flush,
    /// Ask again for a batch that failed.
    Retry,
    /// Tell a random peer which fork proofs we hold.
    Pull,
    /// Send an unanswered own proposal again.
    Resend(u32),
    /// Stop waiting for a crawl.
    Crawl(u32),
}

/// At most one deadline for each timer.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
    at: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Sets the deadline of `timer`, in place of one it had.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.clear(timer);
        self.at.insert(timer, at);
        self.due.insert((at, timer));
    }

    /// Sets the deadline of `timer` unless it has an earlier one.
    pub(super) fn set_earlier(&mut self, timer: Timer, at: Instant) {
        if self.at.get(&timer).is_none_or(|set| at < *set) {
            self.set(timer, at);
        }
    }

    /// Forgets the deadline of `timer`.
    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.due.remove(&(at, timer));
        }
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that is due.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Timer> {
        let (_, timer) = *self.due.first().filter(|(at, _)| *at <= now)?;
        self.clear(timer);
        Some(timer)
    }
}
