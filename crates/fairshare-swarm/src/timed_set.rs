//! Things remembered for a while, and only so many of them: bans, failed proofs.

use fairshare_wire::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// A bounded set whose members leave by themselves.
#[derive(Clone, Debug)]
pub(crate) struct TimedSet<K> {
    until: BTreeMap<K, Instant>,
    span: Duration,
    max: usize,
}

impl<K: Ord> TimedSet<K> {
    /// An empty set; each member stays for `span`, and there are at most `max`.
    pub(crate) const fn new(span: Duration, max: usize) -> Self {
        Self { until: BTreeMap::new(), span, max }
    }

    /// Takes a member in, or renews it. A full set takes no new one: whoever can fill it shall not make us forget.
    pub(crate) fn insert(&mut self, now: Instant, member: K) {
        if self.until.len() >= self.max {
            self.until.retain(|_, until| *until > now);
        }
        if self.until.len() < self.max {
            self.until.insert(member, now + self.span);
        }
    }

    /// Whether the member is still remembered.
    pub(crate) fn contains(&self, now: Instant, member: &K) -> bool {
        self.until.get(member).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_leave_in_time_and_never_exceed_the_bound() {
        let mut set = TimedSet::new(Duration::from_secs(10), 2);
        set.insert(Instant::START, 1);
        set.insert(Instant::START, 2);
        set.insert(Instant::START, 3);
        assert!(set.contains(Instant::START, &1) && set.contains(Instant::START, &2));
        assert!(!set.contains(Instant::START, &3));
        let later = Instant::START + Duration::from_secs(10);
        assert!(!set.contains(later, &1));
        set.insert(later, 3);
        assert!(set.contains(later, &3));
    }
}
