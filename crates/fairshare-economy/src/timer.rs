//! The engine's deadlines.

use crate::output::SessionId;
use fairshare_crypto::PublicKey;
use fairshare_wire::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// What is to be looked at when its time comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A period of the price ends.
    Price,
    /// Strangers wait for their share of the line.
    Pool,
    /// Verified bytes are to be recorded.
    Record,
    /// A served session may have no requests any more.
    Idle(SessionId),
    /// A write failed and is to be tried again.
    Journal(PublicKey),
    /// The window has been full for so long that the peer is told.
    Unpaid(PublicKey),
    /// A settlement may be due by age, or because the rate fell.
    Settle(PublicKey),
    /// The peer had time to settle what it owes from before.
    Reckoning(PublicKey),
}

/// All deadlines; each timer has one at most.
#[derive(Clone, Debug)]
pub(crate) struct Timers<T = Timer> {
    due: BTreeMap<T, Instant>,
    order: BTreeSet<(Instant, T)>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), order: BTreeSet::new() }
    }
}

impl<T: Copy + Ord> Timers<T> {
    /// Sets or moves a deadline.
    pub(crate) fn set(&mut self, timer: T, at: Instant) {
        if let Some(old) = self.due.insert(timer, at) {
            self.order.remove(&(old, timer));
        }
        self.order.insert((at, timer));
    }

    /// Sets a deadline unless there is one.
    pub(crate) fn set_if_none(&mut self, timer: T, at: Instant) {
        if !self.due.contains_key(&timer) {
            self.set(timer, at);
        }
    }

    /// Sets a deadline unless there is an earlier one.
    pub(crate) fn set_earlier(&mut self, timer: T, at: Instant) {
        if self.due.get(&timer).is_none_or(|due| *due > at) {
            self.set(timer, at);
        }
    }

    pub(crate) fn cancel(&mut self, timer: T) {
        if let Some(old) = self.due.remove(&timer) {
            self.order.remove(&(old, timer));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<T> {
        let (at, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.cancel(timer);
        Some(timer)
    }
}
