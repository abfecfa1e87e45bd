//! One numbering for what several engines ask of the outside, and the way back to the engine that asked.

use std::collections::BTreeMap;

/// Numbers for requests, and what each stands for until it is answered.
#[derive(Debug)]
pub(crate) struct Tickets<T> {
    next: u64,
    open: BTreeMap<u64, T>,
}

impl<T> Default for Tickets<T> {
    fn default() -> Self {
        Self { next: 0, open: BTreeMap::new() }
    }
}

impl<T> Tickets<T> {
    /// A new number for `what`.
    pub(crate) fn issue(&mut self, what: T) -> u64 {
        self.next += 1;
        self.open.insert(self.next, what);
        self.next
    }

    /// What the number stood for; it is used up.
    pub(crate) fn take(&mut self, ticket: u64) -> Option<T> {
        self.open.remove(&ticket)
    }

    /// Whether nothing is waited for.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}
