//! Which cells of a key set were seen: an exact repeat is dropped, whoever sends it.
//!
//! Living originators restart their counters with each hop they add, so an equal counter with another authenticator is
//! no proof of anything; it is let pass a few times and counted.
//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node

use fairshare_crypto::TAG_LEN;
use std::collections::{HashMap, VecDeque};

/// Cells remembered: more than a path can reorder.
const WINDOW: usize = 4_096;
/// Repeated counters with new content that one circuit may show.
const REPEATS_MAX: usize = 64;

/// What the filter says of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is new.
    New,
    /// It was here before.
    Replayed,
    /// Its counter was used too often with other content.
    Exhausted,
}

/// The window over one direction of one key set.
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    /// Counter and the first half of the authenticator. Looked up only, never walked through.
    seen: HashMap<u64, u64>,
    order: VecDeque<u64>,
    /// Counters that came again, each with what it came with: a handful, of old originators.
    again: Vec<(u64, u64)>,
}

impl ReplayWindow {
    /// Judges a cell that decrypted, and remembers it.
    pub fn check(&mut self, n: u64, tag: &[u8; TAG_LEN]) -> Seen {
        let mut half = [0; 8];
        half.copy_from_slice(&tag[..8]);
        let mark = u64::from_be_bytes(half);
        if self.again.contains(&(n, mark)) {
            return Seen::Replayed;
        }
        match self.seen.get(&n) {
            None => {
                self.remember(n, mark);
                Seen::New
            }
            Some(before) if *before == mark => Seen::Replayed,
            Some(_) if self.again.len() >= REPEATS_MAX => Seen::Exhausted,
            Some(_) => {
                self.again.push((n, mark));
                Seen::New
            }
        }
    }

    /// Room is made first: at the bound both collections would double for one more.
    fn remember(&mut self, n: u64, mark: u64) {
        if self.order.len() >= WINDOW
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.order.push_back(n);
        self.seen.insert(n, mark);
    }

    /// Counters that came again with other content.
    pub const fn repeats(&self) -> usize {
        self.again.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
    #[test]
    fn an_exact_repeat_is_seen_within_the_window_in_any_order() {
        let mut window = ReplayWindow::default();
        for n in [5, 3, 4, 1 << 62, 2] {
            assert_eq!(window.check(n, &[1; 16]), Seen::New);
        }
        for n in [2, 5, 1 << 62] {
            assert_eq!(window.check(n, &[1; 16]), Seen::Replayed);
        }
    }

    //= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
    #[test]
    fn a_counter_with_new_content_passes_a_few_times() {
        let mut window = ReplayWindow::default();
        for content in 0..=REPEATS_MAX as u128 {
            assert_eq!(window.check(2, &content.to_le_bytes()), Seen::New);
        }
        assert_eq!(window.check(2, &[0xff; 16]), Seen::Exhausted);
        assert_eq!(window.repeats(), REPEATS_MAX);
        for content in 0..=REPEATS_MAX as u128 {
            assert_eq!(window.check(2, &content.to_le_bytes()), Seen::Replayed);
        }
    }

    #[test]
    fn the_window_is_bounded() {
        let mut window = ReplayWindow::default();
        for n in 0..3 * WINDOW as u64 {
            assert_eq!(window.check(n, &[0; 16]), Seen::New);
        }
        assert_eq!((window.seen.len(), window.order.len()), (WINDOW, WINDOW));
    }
}
