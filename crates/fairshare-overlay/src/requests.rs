//! Questions that wait for an answer, by their random identifier.

use fairshare_crypto::{PublicKey, Rng};
use fairshare_wire::{CommunityId, Instant};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Questions open at once. The walks of all communities need some dozens; a flood of new addresses to be proved takes
/// the rest, and then waits.
const OPEN_MAX: usize = 512;
/// How long an introduction or similarity is waited for.
//= spec/overlay.md#7-peer-list-walking-timing
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a pong is waited for.
const PONG_TIMEOUT: Duration = Duration::from_secs(5);

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Introduction,
    Similarity,
    Ping(PublicKey),
}

/// An open question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    pub(crate) community: CommunityId,
    pub(crate) address: SocketAddr,
    pub(crate) question: Question,
    pub(crate) asked: Instant,
}

impl Open {
    const fn timeout(&self) -> Duration {
        match self.question {
            Question::Introduction | Question::Similarity => ANSWER_TIMEOUT,
            Question::Ping(_) => PONG_TIMEOUT,
        }
    }
}

/// All open questions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    open: BTreeMap<u16, Open>,
}

impl Requests {
    /// Opens a question under an identifier that nobody can guess; `None` when too many are open.
    //= spec/overlay.md#13-where-we-must-be-better-than-the-reference
    pub(crate) fn ask(&mut self, rng: &mut Rng, open: Open) -> Option<u16> {
        if self.open.len() >= OPEN_MAX {
            return None;
        }
        // At most 512 of 65,536 are taken, so this ends.
        let mut identifier = rng.next_u16();
        while self.open.contains_key(&identifier) {
            identifier = rng.next_u16();
        }
        self.open.insert(identifier, open);
        Some(identifier)
    }

    /// The question that an answer belongs to: same identifier, community and address. It is closed by that.
    pub(crate) fn answer(
        &mut self,
        identifier: u16,
        community: CommunityId,
        from: SocketAddr,
        fits: impl Fn(&Question) -> bool,
    ) -> Option<Open> {
        let open = self.open.get(&identifier)?;
        let matches = open.community == community && open.address == from && fits(&open.question);
        if matches { self.open.remove(&identifier) } else { None }
    }

    /// Forgets the questions that nobody answered in time.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.open.retain(|_, open| now.since(open.asked) < open.timeout());
    }

    /// Introductions of a community asked since `since` and not answered.
    pub(crate) fn introductions_since(&self, community: CommunityId, since: Instant) -> usize {
        let counts = |open: &&Open| {
            open.community == community && open.question == Question::Introduction && open.asked > since
        };
        self.open.values().filter(counts).count()
    }

    /// Whether an introduction was asked of `address` since `since` and is not answered.
    pub(crate) fn asked(&self, community: CommunityId, address: SocketAddr, since: Instant) -> bool {
        self.open.values().any(|open| {
            open.community == community
                && open.address == address
                && open.question == Question::Introduction
                && open.asked > since
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMUNITY: CommunityId = CommunityId([1; 20]);

    fn open(address: &str) -> Open {
        let address = address.parse().expect("literal");
        Open { community: COMMUNITY, address, question: Question::Introduction, asked: Instant::START }
    }

    #[test]
    fn an_answer_counts_once_and_only_from_the_address_that_was_asked() {
        let (mut requests, mut rng) = (Requests::default(), Rng::from_seed([1; 32]));
        let identifier = requests.ask(&mut rng, open("1.2.3.4:5")).expect("room");
        let mut answer = |from: &str| {
            let from = from.parse().expect("literal");
            requests.answer(identifier, COMMUNITY, from, |_| true).is_some()
        };
        assert!(!answer("1.2.3.4:6"));
        assert!(answer("1.2.3.4:5"));
        assert!(!answer("1.2.3.4:5"));
    }

    #[test]
    fn open_questions_are_bounded_and_run_out() {
        let (mut requests, mut rng) = (Requests::default(), Rng::from_seed([1; 32]));
        let asked = (0..2_000).filter_map(|_| requests.ask(&mut rng, open("1.2.3.4:5"))).count();
        assert_eq!(asked, OPEN_MAX);
        requests.expire(Instant::START + ANSWER_TIMEOUT);
        assert!(requests.ask(&mut rng, open("1.2.3.4:5")).is_some());
    }
}
