//! One look-up: nearer and nearer nodes are asked until none is left that could know more.
//= spec/overlay.md#9-dht-25-dhtdiscoverycommunity

use super::distance_of;
use super::wire::{Contact, VALUES_MAX};
use fairshare_wire::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Nodes asked at once, and in all.
const ALPHA: usize = 4;
const ASKED_MAX: usize = 24;
/// A node must answer within this time.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nodes that are remembered while looking.
const REMEMBERED_MAX: usize = 64;
/// Only nodes nearer than the fourth best that answered are worth asking.
const BEST: usize = 4;
/// Values of one look-up.
const VALUES_TOTAL_MAX: usize = 8 * VALUES_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Known,
    Asked(Instant),
    Answered([u8; 20]),
    Silent,
}

#[derive(Clone, Debug)]
pub(super) struct Lookup {
    target: [u8; 20],
    /// By distance.
    nodes: BTreeMap<[u8; 20], (Contact, State)>,
    asked: usize,
    values: BTreeSet<Vec<u8>>,
    storing: bool,
}

impl Lookup {
    pub(super) fn new(target: [u8; 20], start: Vec<Contact>, storing: bool) -> Self {
        let mut lookup = Self { target, nodes: BTreeMap::new(), asked: 0, values: BTreeSet::new(), storing };
        lookup.add_nodes(start);
        lookup
    }

    pub(super) const fn target(&self) -> [u8; 20] {
        self.target
    }

    /// Who looks for a place to store wants nodes whatever is stored.
    pub(super) const fn wants_nodes(&self) -> bool {
        self.storing
    }

    pub(super) fn add_nodes(&mut self, contacts: impl IntoIterator<Item = Contact>) {
        for contact in contacts {
            let entry = self.nodes.entry(distance_of(&contact, &self.target));
            entry.or_insert((contact, State::Known));
        }
        // The farthest go: a liar who tells many must at least make them near.
        while self.nodes.len() > REMEMBERED_MAX {
            let farthest = self.nodes.iter().rfind(|(_, (_, state))| *state == State::Known);
            let Some(distance) = farthest.map(|(distance, _)| *distance) else { break };
            self.nodes.remove(&distance);
        }
    }

    pub(super) fn add_values(&mut self, values: Vec<Vec<u8>>) {
        let room = VALUES_TOTAL_MAX.saturating_sub(self.values.len());
        self.values.extend(values.into_iter().take(room));
    }

    pub(super) const fn values(&self) -> &BTreeSet<Vec<u8>> {
        &self.values
    }

    fn under_way(&self) -> usize {
        self.nodes.values().filter(|(_, state)| matches!(state, State::Asked(_))).count()
    }

    /// The nearest node that was not asked and could know more, if another may be asked now.
    fn candidate(&self) -> Option<[u8; 20]> {
        let answered = self.nodes.iter().filter(|(_, (_, state))| matches!(state, State::Answered(_)));
        let limit = answered.map(|(distance, _)| *distance).nth(BEST - 1);
        // For a store all of the eight nearest must be asked for their token.
        let worth = |distance: &[u8; 20]| self.storing || limit.is_none_or(|limit| *distance < limit);
        let known = self.nodes.iter().find(|(_, (_, state))| *state == State::Known);
        known.map(|(distance, _)| *distance).filter(worth)
    }

    /// Whom to ask now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Contact> {
        if self.under_way() >= ALPHA || self.asked >= ASKED_MAX {
            return None;
        }
        let distance = self.candidate()?;
        let (contact, state) = self.nodes.get_mut(&distance)?;
        *state = State::Asked(now);
        self.asked += 1;
        Some(*contact)
    }

    /// A node answered; `false` if it was not asked at this address.
    pub(super) fn answer(&mut self, contact: Contact, token: [u8; 20]) -> bool {
        let asked = |(known, state): &(Contact, State)| *known == contact && matches!(state, State::Asked(_));
        let Some(entry) = self.nodes.values_mut().find(|entry| asked(entry)) else { return false };
        entry.1 = State::Answered(token);
        true
    }

    pub(super) fn give_up_late(&mut self, now: Instant) {
        for (_, state) in self.nodes.values_mut() {
            if matches!(state, State::Asked(since) if now.since(*since) >= PATIENCE) {
                *state = State::Silent;
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.under_way() == 0 && (self.asked >= ASKED_MAX || self.candidate().is_none())
    }

    /// The nearest nodes that answered, each with the token for a store.
    pub(super) fn answered(&self, count: usize) -> Vec<(Contact, [u8; 20])> {
        let with_token = |(contact, state): &(Contact, State)| match state {
            State::Answered(token) => Some((*contact, *token)),
            _ => None,
        };
        self.nodes.values().filter_map(with_token).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::{Rng, SecretKey};

    const TARGET: [u8; 20] = [7; 20];
    const NOW: Instant = Instant::START;

    fn contacts(count: u8) -> Vec<Contact> {
        let contact = |number| {
            let key = SecretKey::generate(&mut Rng::from_seed([number; 32])).public();
            Contact { address: ([10, number, 0, 1], 7_000).into(), key }
        };
        let mut all: Vec<Contact> = (0..count).map(contact).collect();
        all.sort_by_key(|contact| distance_of(contact, &TARGET));
        all
    }

    //= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
    #[test]
    fn four_are_asked_at_once_and_twenty_four_in_all() {
        let mut lookup = Lookup::new(TARGET, contacts(60), true);
        let mut asked = 0;
        loop {
            let now: Vec<Contact> = std::iter::from_fn(|| lookup.next(NOW)).collect();
            assert!(now.len() <= ALPHA);
            if now.is_empty() {
                break;
            }
            asked += now.len();
            assert!(!lookup.is_over());
            for contact in now {
                assert!(lookup.answer(contact, [0; 20]));
            }
        }
        assert_eq!((asked, lookup.is_over()), (ASKED_MAX, true));
    }

    //= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
    #[test]
    fn only_nodes_nearer_than_the_fourth_best_are_followed_unless_for_a_store() {
        for storing in [false, true] {
            let all = contacts(10);
            let mut lookup = Lookup::new(TARGET, all[1..5].to_vec(), storing);
            for contact in std::iter::from_fn(|| lookup.next(NOW)).collect::<Vec<_>>() {
                assert!(lookup.answer(contact, [0; 20]));
            }
            lookup.add_nodes(all[5..].to_vec());
            assert_eq!(lookup.next(NOW).is_some(), storing, "farther ones");
            lookup.add_nodes([all[0]]);
            assert_eq!(lookup.next(NOW), Some(all[0]));
        }
    }

    #[test]
    fn who_is_silent_is_given_up_and_of_many_the_nearest_are_remembered() {
        let all = contacts(100);
        let (near, far) = all.split_at(10);
        let mut lookup = Lookup::new(TARGET, far.to_vec(), false);
        lookup.add_nodes(near.to_vec());
        assert_eq!(lookup.nodes.len(), REMEMBERED_MAX);
        let asked: Vec<Contact> = std::iter::from_fn(|| lookup.next(NOW)).collect();
        assert_eq!(asked, near[..ALPHA]);
        lookup.give_up_late(NOW + PATIENCE);
        assert!(!lookup.answer(asked[0], [0; 20]), "too late");
        assert_eq!(lookup.next(NOW + PATIENCE), Some(near[ALPHA]));
    }
}
