//! Which tracker is told when (BEP 12, 31): tiers, intervals, and patience with those that fail.

use super::reply::{AnnounceError, AnnounceReply, Retry};
use super::request::AnnounceEvent;
use super::udp::UdpUrl;
use fairshare_crypto::Rng;
use fairshare_wire::Instant;
use std::time::Duration;

/// Bounds of the time between two announcements, whatever the tracker says.
const MIN_INTERVAL: Duration = Duration::from_secs(60);
const MAX_INTERVAL: Duration = Duration::from_secs(2 * 3600);
/// The longest wait that a tracker can demand.
const MAX_DEMANDED: Duration = Duration::from_secs(24 * 3600);
/// When the tracker says nothing.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1_800);
/// The first wait after a failure; it doubles with each further one.
const FIRST_BACK_OFF: Duration = Duration::from_secs(30);
const MAX_BACK_OFF: Duration = Duration::from_secs(3600);
/// Announcements under way for one torrent, so that a torrent with hundreds of trackers does not hold up the rest.
const MAX_IN_FLIGHT: usize = 8;
/// Doublings after which the longest wait is certainly reached.
const MAX_DOUBLINGS: u32 = 7;

/// A tracker of one torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrackerId(usize);

/// An announcement to make now. Its outcome must be told with [`Announcer::answered`] or [`Announcer::failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Names the tracker in the outcome.
    pub tracker: TrackerId,
    /// Its address.
    pub url: String,
    /// Why now.
    pub event: Option<AnnounceEvent>,
    /// What it wanted to be told again.
    pub tracker_id: Option<Vec<u8>>,
}

/// The trackers of a torrent.
#[derive(Clone, Debug)]
pub struct Announcer {
    trackers: Vec<Tracker>,
    /// Who is asked after whom: tier by tier, and inside a tier the one that answered last first.
    order: Vec<TrackerId>,
    /// Whether all are told, or only the first that answers.
    to_all: bool,
    /// Who of `order` is told next, when only one is.
    turn: usize,
    completed: bool,
}

#[derive(Clone, Debug)]
struct Tracker {
    url: String,
    tier: usize,
    /// When it is told next; `None` = it does not want to be asked again.
    due: Option<Instant>,
    in_flight: bool,
    failures: u32,
    /// Whether it heard that we started.
    started: bool,
    /// Whether it is still to hear that we completed.
    owes_completed: bool,
    asked: Option<AnnounceEvent>,
    tracker_id: Option<Vec<u8>>,
}

impl Announcer {
    /// The HTTP and UDP trackers among `tiers`, shuffled inside each tier. All of them are due at once if `to_all`, else
    /// the first, and the next when one fails.
    pub fn new(tiers: &[Vec<String>], to_all: bool, mut rng: Rng) -> Self {
        let mut trackers: Vec<Tracker> = Vec::new();
        for (tier, urls) in tiers.iter().enumerate() {
            let mut urls: Vec<&String> =
                urls.iter().filter(|url| is_http(url) || UdpUrl::parse(url).is_some()).collect();
            rng.shuffle(&mut urls);
            for url in urls {
                if trackers.iter().all(|tracker| tracker.url != *url) {
                    trackers.push(Tracker::new(url, tier));
                }
            }
        }
        let order = (0..trackers.len()).map(TrackerId).collect();
        Self { trackers, order, to_all, turn: 0, completed: false }
    }

    /// The next announcement that is due, until there is none.
    pub fn poll(&mut self, now: Instant) -> Option<Due> {
        if self.is_busy() {
            return None;
        }
        let id = self.candidates().find(|id| self.tracker(*id).is_due(now))?;
        Some(self.begin(id, None))
    }

    /// When [`Announcer::poll`] will have something.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.is_busy() {
            return None;
        }
        let waiting = self.candidates().map(|id| self.tracker(id)).filter(|tracker| !tracker.in_flight);
        waiting.filter_map(|tracker| tracker.due).min()
    }

    /// The last piece was verified while we ran: whoever heard that we started hears of it at once.
    pub fn completed(&mut self, now: Instant) {
        if self.completed {
            return;
        }
        self.completed = true;
        for tracker in self.trackers.iter_mut().filter(|tracker| tracker.started) {
            tracker.owes_completed = true;
            tracker.due = tracker.due.map(|_| now);
        }
    }

    /// The farewells: to every tracker that heard that we started. Their outcome is not waited for; after
    /// [`Announcer::restart`] everything begins anew.
    pub fn stop(&mut self) -> Vec<Due> {
        let started = self.order.iter().copied().filter(|id| self.tracker(*id).started).collect::<Vec<_>>();
        let farewells = started.into_iter().map(|id| self.begin(id, Some(AnnounceEvent::Stopped))).collect();
        for tracker in &mut self.trackers {
            (tracker.started, tracker.in_flight, tracker.due) = (false, false, None);
        }
        farewells
    }

    /// All trackers are due again, as at the start.
    pub fn restart(&mut self, now: Instant) {
        self.turn = 0;
        for tracker in &mut self.trackers {
            *tracker = Tracker { due: Some(now), ..Tracker::new(&tracker.url, tracker.tier) };
        }
    }

    /// A tracker answered.
    pub fn answered(&mut self, now: Instant, id: TrackerId, reply: &AnnounceReply) {
        let Some(tracker) = self.in_flight(id) else { return };
        tracker.succeeded(now, reply);
        let tier = tracker.tier;
        self.move_to_front(id, tier);
    }

    /// A tracker did not answer, or refused.
    //= spec/swarm.md#10-discovery
    pub fn failed(&mut self, now: Instant, id: TrackerId, error: Option<&AnnounceError>) {
        let Some(tracker) = self.in_flight(id) else { return };
        let retry = match error {
            Some(AnnounceError::Refused { retry, .. }) => *retry,
            _ => None,
        };
        tracker.failed(now, retry);
        if self.order.get(self.turn) == Some(&id) {
            let following = (1..=self.order.len()).map(|step| (self.turn + step) % self.order.len());
            let askable = |turn: &usize| self.tracker(self.order[*turn]).due.is_some();
            self.turn = following.into_iter().find(askable).unwrap_or(self.turn);
        }
    }

    /// Addresses of all trackers in the order they are asked, and how often each failed since it last answered.
    pub fn trackers(&self) -> impl Iterator<Item = (&str, u32)> {
        self.order.iter().map(|id| self.tracker(*id)).map(|tracker| (tracker.url.as_str(), tracker.failures))
    }

    /// Who may be asked: all, or the one whose turn it is.
    fn candidates(&self) -> impl Iterator<Item = TrackerId> {
        let (skip, take) = if self.to_all { (0, usize::MAX) } else { (self.turn, 1) };
        self.order.iter().copied().skip(skip).take(take)
    }

    /// Whether so many answers are waited for that nobody else is asked.
    fn is_busy(&self) -> bool {
        self.trackers.iter().filter(|tracker| tracker.in_flight).count() >= MAX_IN_FLIGHT
    }

    /// The tracker, if its answer is waited for.
    fn in_flight(&mut self, id: TrackerId) -> Option<&mut Tracker> {
        self.trackers.get_mut(id.0).filter(|tracker| tracker.in_flight)
    }

    fn begin(&mut self, id: TrackerId, farewell: Option<AnnounceEvent>) -> Due {
        let tracker = &mut self.trackers[id.0];
        let event = farewell.or_else(|| tracker.event());
        (tracker.in_flight, tracker.asked) = (farewell.is_none(), event);
        Due { tracker: id, url: tracker.url.clone(), event, tracker_id: tracker.tracker_id.clone() }
    }

    /// Who answers moves to the front of its tier and keeps the turn.
    fn move_to_front(&mut self, id: TrackerId, tier: usize) {
        let first = self.order.iter().position(|other| self.tracker(*other).tier == tier);
        let place = self.order.iter().position(|other| *other == id);
        if let (Some(first), Some(place)) = (first, place) {
            self.order[first..=place].rotate_right(1);
            self.turn = first;
        }
    }

    fn tracker(&self, id: TrackerId) -> &Tracker {
        &self.trackers[id.0]
    }
}

impl Tracker {
    fn new(url: &str, tier: usize) -> Self {
        Self {
            url: url.to_owned(),
            tier,
            due: Some(Instant::START),
            in_flight: false,
            failures: 0,
            started: false,
            owes_completed: false,
            asked: None,
            tracker_id: None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.in_flight && self.due.is_some_and(|due| due <= now)
    }

    fn event(&self) -> Option<AnnounceEvent> {
        if !self.started {
            return Some(AnnounceEvent::Started);
        }
        self.owes_completed.then_some(AnnounceEvent::Completed)
    }

    fn succeeded(&mut self, now: Instant, reply: &AnnounceReply) {
        self.in_flight = false;
        match self.asked {
            Some(AnnounceEvent::Started) => self.started = true,
            Some(AnnounceEvent::Completed) => self.owes_completed = false,
            Some(AnnounceEvent::Stopped) | None => {}
        }
        self.failures = 0;
        if reply.tracker_id.is_some() {
            self.tracker_id.clone_from(&reply.tracker_id);
        }
        let interval = reply.interval.unwrap_or(DEFAULT_INTERVAL).clamp(MIN_INTERVAL, MAX_INTERVAL);
        let min_interval = reply.min_interval.unwrap_or_default().min(MAX_DEMANDED);
        // Completion that happened while this answer was under way is told at once.
        self.due = Some(if self.owes_completed { now } else { now + interval.max(min_interval) });
    }

    fn failed(&mut self, now: Instant, retry: Option<Retry>) {
        self.in_flight = false;
        let back_off = (FIRST_BACK_OFF * (1 << self.failures.min(MAX_DOUBLINGS))).min(MAX_BACK_OFF);
        self.failures = self.failures.saturating_add(1);
        self.due = match retry {
            Some(Retry::Never) => None,
            Some(Retry::After(wait)) => Some(now + wait.clamp(MIN_INTERVAL, MAX_DEMANDED)),
            None => Some(now + back_off),
        };
    }
}

pub(crate) fn is_http(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announcer(tiers: &[&[&str]], to_all: bool) -> Announcer {
        let tiers: Vec<Vec<String>> =
            tiers.iter().map(|tier| tier.iter().map(|name| format!("http://{name}/")).collect()).collect();
        Announcer::new(&tiers, to_all, Rng::from_seed([1; 32]))
    }

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    fn polled(announcer: &mut Announcer, now: Instant) -> Vec<Due> {
        std::iter::from_fn(|| announcer.poll(now)).collect()
    }

    fn only(announcer: &mut Announcer, now: Instant) -> Due {
        let due = polled(announcer, now);
        assert_eq!(due.len(), 1, "{due:?}");
        due.into_iter().next().expect("one")
    }

    fn order(announcer: &Announcer) -> Vec<String> {
        announcer.trackers().map(|(url, _)| url.trim_matches('/').replace("http://", "")).collect()
    }

    fn reply(interval: u64, min_interval: u64) -> AnnounceReply {
        AnnounceReply {
            interval: Some(Duration::from_secs(interval)),
            min_interval: Some(Duration::from_secs(min_interval)),
            ..AnnounceReply::default()
        }
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn all_trackers_are_told_at_once_and_then_at_their_own_interval() {
        let mut announcer = announcer(&[&["a"], &["b"]], true);
        let due = polled(&mut announcer, at(0));
        assert!(due.len() == 2 && due.iter().all(|due| due.event == Some(AnnounceEvent::Started)));
        announcer.answered(at(1), due[0].tracker, &reply(100, 0));
        announcer.answered(at(1), due[1].tracker, &reply(1, 0));
        assert_eq!(announcer.next_timeout(), Some(at(61)), "no interval is shorter than a minute");
        assert_eq!(only(&mut announcer, at(61)).event, None);
        assert_eq!(announcer.next_timeout(), Some(at(101)));
    }

    #[test]
    fn no_tracker_is_asked_before_its_minimum_and_none_waits_longer_than_two_hours_unasked() {
        let mut announcer = announcer(&[&["a"]], true);
        let first = only(&mut announcer, at(0));
        announcer.answered(at(0), first.tracker, &reply(100, 9_000));
        assert_eq!(announcer.next_timeout(), Some(at(9_000)));
        let second = only(&mut announcer, at(9_000));
        announcer.answered(at(9_000), second.tracker, &reply(u64::MAX, 0));
        assert_eq!(announcer.next_timeout(), Some(at(9_000 + 7_200)));
        let third = only(&mut announcer, at(20_000));
        announcer.answered(at(20_000), third.tracker, &reply(u64::MAX, u64::MAX));
        assert_eq!(announcer.next_timeout(), Some(at(20_000 + 86_400)));
    }

    #[test]
    fn failures_are_waited_out_longer_and_longer_up_to_an_hour() {
        let mut announcer = announcer(&[&["a"]], true);
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..10 {
            let due = only(&mut announcer, now);
            assert_eq!(due.event, Some(AnnounceEvent::Started));
            announcer.failed(now, due.tracker, None);
            let next = announcer.next_timeout().expect("it is tried again");
            waits.push(next.since(now).as_secs());
            now = next;
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
        let due = only(&mut announcer, now);
        announcer.answered(now, due.tracker, &reply(60, 0));
        let due = only(&mut announcer, now + Duration::from_secs(60));
        announcer.failed(now, due.tracker, None);
        assert_eq!(announcer.next_timeout(), Some(now + FIRST_BACK_OFF));
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn tiers_are_gone_through_until_one_answers_and_that_one_moves_to_the_front() {
        let mut announcer = announcer(&[&["a", "b", "c"], &["d", "e"]], false);
        let before = order(&announcer);
        for _ in 0..4 {
            let due = only(&mut announcer, at(0));
            announcer.failed(at(0), due.tracker, None);
        }
        let last = only(&mut announcer, at(0));
        announcer.answered(at(0), last.tracker, &reply(100, 0));
        let expected = [&before[..3], &[before[4].clone(), before[3].clone()]].concat();
        assert_eq!(order(&announcer), expected);
        assert_eq!(polled(&mut announcer, at(99)), [], "the others are left in peace");
        assert_eq!(only(&mut announcer, at(100)).tracker, last.tracker);
    }

    #[test]
    fn a_tracker_that_says_never_is_not_asked_again() {
        let refused = |retry| AnnounceError::Refused { reason: String::new(), retry: Some(retry) };
        let mut single = announcer(&[&["a"], &["b"]], false);
        let first = only(&mut single, at(0));
        single.failed(at(0), first.tracker, Some(&refused(Retry::Never)));
        for round in 0..3 {
            let second = only(&mut single, at(round * 10_000));
            assert_ne!(second.tracker, first.tracker);
            single.failed(at(round * 10_000), second.tracker, None);
        }
        let mut all = announcer(&[&["a"]], true);
        let due = only(&mut all, at(0));
        all.failed(at(0), due.tracker, Some(&refused(Retry::After(Duration::from_secs(600)))));
        assert_eq!(all.next_timeout(), Some(at(600)));
        let due = only(&mut all, at(600));
        all.failed(at(600), due.tracker, Some(&refused(Retry::Never)));
        assert_eq!(all.next_timeout(), None);
    }

    #[test]
    fn completion_is_told_once_to_those_who_heard_of_the_start() {
        let mut announcer = announcer(&[&["a"], &["b"]], true);
        let due = polled(&mut announcer, at(0));
        announcer.answered(at(0), due[0].tracker, &reply(1_000, 0));
        announcer.completed(at(10));
        let told = only(&mut announcer, at(10));
        assert_eq!((told.tracker, told.event), (due[0].tracker, Some(AnnounceEvent::Completed)));
        announcer.answered(at(10), told.tracker, &reply(1_000, 0));
        announcer.completed(at(11));
        assert_eq!(polled(&mut announcer, at(11)), []);
        announcer.answered(at(12), due[1].tracker, &reply(60, 0));
        assert_eq!(only(&mut announcer, at(72)).event, None, "it heard of us when we were complete");
    }

    #[test]
    fn a_completion_while_an_answer_is_under_way_is_told_after_it() {
        let mut announcer = announcer(&[&["a"]], true);
        let due = only(&mut announcer, at(0));
        announcer.answered(at(0), due.tracker, &reply(60, 0));
        let due = only(&mut announcer, at(60));
        announcer.completed(at(61));
        assert_eq!(polled(&mut announcer, at(61)), []);
        announcer.answered(at(62), due.tracker, &reply(60, 0));
        assert_eq!(only(&mut announcer, at(62)).event, Some(AnnounceEvent::Completed));
    }

    #[test]
    fn farewells_go_to_those_who_heard_of_the_start_and_a_restart_begins_anew() {
        let mut announcer = announcer(&[&["a"], &["b"]], true);
        let due = polled(&mut announcer, at(0));
        let with_id = AnnounceReply { tracker_id: Some(b"id".to_vec()), ..reply(60, 0) };
        announcer.answered(at(0), due[0].tracker, &with_id);
        let farewells = announcer.stop();
        assert_eq!(farewells.len(), 1);
        assert_eq!(
            (farewells[0].tracker, farewells[0].event),
            (due[0].tracker, Some(AnnounceEvent::Stopped))
        );
        assert_eq!(farewells[0].tracker_id.as_deref(), Some(b"id".as_slice()));
        announcer.answered(at(1), due[1].tracker, &reply(60, 0));
        announcer.failed(at(1), farewells[0].tracker, None);
        assert_eq!((announcer.next_timeout(), announcer.stop()), (None, vec![]));
        announcer.restart(at(5));
        assert!(polled(&mut announcer, at(5)).iter().all(|due| due.event == Some(AnnounceEvent::Started)));
    }

    #[test]
    fn only_trackers_that_we_can_ask_count_each_once_and_few_are_asked_at_a_time() {
        let tiers = vec![
            ["http://a", "udp://b", "udp://b:80", "wss://c", "HTTPS://d", "nonsense"]
                .map(str::to_owned)
                .to_vec(),
            vec!["http://a".to_owned()],
        ];
        assert_eq!(Announcer::new(&tiers, true, Rng::from_seed([1; 32])).trackers().count(), 3);
        let many: Vec<String> = (0..20).map(|number| format!("http://{number}/")).collect();
        let mut announcer = Announcer::new(&[many], true, Rng::from_seed([1; 32]));
        let due = polled(&mut announcer, at(0));
        assert_eq!((due.len(), announcer.next_timeout()), (MAX_IN_FLIGHT, None));
        announcer.failed(at(0), due[0].tracker, None);
        assert_eq!(polled(&mut announcer, at(0)).len(), 1);
        assert!(Announcer::new(&[], false, Rng::from_seed([1; 32])).poll(at(0)).is_none());
    }
}
