//! What goes on between two proven identities on one connection: counts of what we took, bounds on what we give.
//! Amounts and prices are the economy's; here is only what the connection itself must keep to.
//= spec/swarm.md#83-counts-and-exposure

use crate::Verdict;
use crate::connection::Class;
use crate::geometry::BLOCK_LEN;
use crate::identity::{Count, Handshake, Receipt, Session, Totals};
use crate::rate::Rate;
use fairshare_crypto::SecretKey;
use fairshare_wire::{Instant, Now};
use std::collections::BTreeMap;
use std::time::Duration;

/// A count goes out when this much more was accepted or verified: an eighth of the smallest window, so that it is
/// right for every window.
const COUNT_STEP: u64 = 512 << 10;
/// And at latest after this, if anything changed.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// A receipt goes out when this much more was verified,
const RECEIPT_STEP: u64 = 16 << 20;
/// and at latest after this, if anything changed.
const RECEIPT_INTERVAL: Duration = Duration::from_secs(30);
/// Receipts on request: at most one per this time.
const RECEIPT_GAP: Duration = Duration::from_secs(5);
/// Bounds of what may be in flight: sent and not acknowledged.
const EXPOSURE_MIN: u64 = 4 << 20;
const EXPOSURE_MAX: u64 = 64 << 20;
/// What the peer has not acknowledged for so long, nothing more being sent, was of no use to it: it got the block from
/// somebody else first. Without this a session would freeze for ever when that adds up to the bound. What is written
/// off here was sent under a grant all the same, and the economy counts it as lost when the session ends.
const WRITE_OFF: Duration = Duration::from_secs(10);
/// Bound of what may be accepted and not verified, or four pieces if that is more.
const UNVERIFIED_MIN: u64 = 16 << 20;
/// Grants whose rooms are remembered, to know what a freed one takes back.
const MAX_GRANTS: usize = 64;
/// Identity handshakes must be over within this time.
//= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r
pub(crate) const IDENTITY_TIMEOUT: Duration = Duration::from_secs(15);

/// How far the proof of identities has come on a connection.
pub(crate) enum Identity {
    /// It will not happen: the peer is a legacy peer.
    Legacy,
    /// It may still begin.
    Waiting {
        /// Until then.
        until: Instant,
    },
    /// It is under way.
    Proving {
        /// The run.
        handshake: Box<Handshake>,
        /// It fails then.
        until: Instant,
    },
    /// Both sides are proven.
    Open(Box<Dealing>),
}

impl Identity {
    /// What the peer is to the choker.
    pub(crate) const fn class(&self) -> Class {
        match self {
            Self::Legacy => Class::Legacy,
            Self::Waiting { .. } | Self::Proving { .. } => Class::Undecided,
            Self::Open(_) => Class::Identity,
        }
    }

    /// Whether the time for a proof is over without one.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        matches!(self, Self::Waiting { until } | Self::Proving { until, .. } if *until <= now)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Legacy => f.write_str("Legacy"),
            Self::Waiting { until } => write!(f, "Waiting({until:?})"),
            Self::Proving { until, .. } => write!(f, "Proving({until:?})"),
            Self::Open(dealing) => write!(f, "{dealing:?}"),
        }
    }
}

/// Counts and bounds of one session, both directions.
#[derive(Debug)]
pub(crate) struct Dealing {
    /// The protocol half: seals and judges counts.
    pub(crate) session: Session,
    /// What we took.
    pub(crate) taken: Taken,
    /// What we may give.
    pub(crate) given: Given,
}

impl Dealing {
    /// A session that just opened.
    pub(crate) const fn new(session: Session, now: Instant) -> Self {
        Self { session, taken: Taken::new(now), given: Given::new(now) }
    }

    /// The count to send now, if one is due.
    pub(crate) fn count_due(&mut self, now: Instant, sent: u64, closing: bool) -> Option<Count> {
        if !self.taken.count_is_due(now, closing) {
            return None;
        }
        let totals = self.taken.count_sent(now, sent);
        Some(self.session.count(totals))
    }

    /// The receipt to send now, if one is due.
    pub(crate) fn receipt_due(&mut self, now: Now, key: &SecretKey, closing: bool) -> Option<Receipt> {
        if !self.taken.receipt_is_due(now.mono, closing) {
            return None;
        }
        self.taken.receipt_sent(now.mono);
        Some(self.session.receipt(key, self.taken.verified, now.unix_ms))
    }

    /// The receipt that the peer asked for, if it does not ask too often.
    pub(crate) fn receipt_requested(&mut self, now: Now, key: &SecretKey) -> Option<Receipt> {
        if now.mono.since(self.taken.receipt_at) < RECEIPT_GAP {
            return None;
        }
        self.taken.receipt_sent(now.mono);
        Some(self.session.receipt(key, self.taken.verified, now.unix_ms))
    }
}

/// The taker's counts.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Payload that we had asked for and needed.
    pub(crate) accepted: u64,
    /// The part of it whose pieces were right.
    pub(crate) verified: u64,
    /// `verified` as last told to the economy.
    pub(crate) verified_told: u64,
    counted: Totals,
    counted_at: Instant,
    receipted: u64,
    receipt_at: Instant,
}

impl Taken {
    const fn new(now: Instant) -> Self {
        Self {
            accepted: 0,
            verified: 0,
            verified_told: 0,
            counted: Totals { verified: 0, accepted: 0, sent: 0 },
            counted_at: now,
            receipted: 0,
            receipt_at: now,
        }
    }

    fn count_is_due(&self, now: Instant, closing: bool) -> bool {
        let grown = (self.accepted - self.counted.accepted).max(self.verified - self.counted.verified);
        let late = closing || now.since(self.counted_at) >= COUNT_INTERVAL;
        grown >= COUNT_STEP || (grown > 0 && late)
    }

    fn count_sent(&mut self, now: Instant, sent: u64) -> Totals {
        self.counted = Totals { verified: self.verified, accepted: self.accepted, sent };
        self.counted_at = now;
        self.counted
    }

    fn receipt_is_due(&self, now: Instant, closing: bool) -> bool {
        let grown = self.verified - self.receipted;
        let late = closing || now.since(self.receipt_at) >= RECEIPT_INTERVAL;
        grown >= RECEIPT_STEP || (grown > 0 && late)
    }

    const fn receipt_sent(&mut self, now: Instant) {
        (self.receipted, self.receipt_at) = (self.verified, now);
    }
}

/// The provider's bounds.
#[derive(Debug)]
pub(crate) struct Given {
    /// `sent` as last told to the economy.
    pub(crate) sent_told: u64,
    /// Whether the economy was asked for more room and has not answered.
    pub(crate) asked: bool,
    /// Payload that the economy lets us send in this session. It has the last word: grants may be shared with
    /// other sessions of the same peer.
    limit: u64,
    /// Whether any grant was told in this session.
    granted: bool,
    /// Payload at which the grants told in this session end, if no other session uses them.
    end: u64,
    last_room: u64,
    rooms: BTreeMap<u32, u64>,
    faults: u32,
    /// What the peer acknowledges. Its rate, not that of what is sent, lets more be in flight: else a peer that
    /// reads fast and acknowledges nothing would be trusted with sixteen times as much.
    acknowledged: Rate,
    acknowledged_total: u64,
    /// What will never be acknowledged.
    written_off: u64,
    /// Since when nothing changed: what was sent and acknowledged then.
    still: (Instant, u64, u64),
    /// Whether a bound was reached and is not yet undercut by a quarter.
    held_back: bool,
}

impl Given {
    const fn new(now: Instant) -> Self {
        Self {
            sent_told: 0,
            asked: false,
            limit: 0,
            granted: false,
            end: 0,
            last_room: 0,
            rooms: BTreeMap::new(),
            faults: 0,
            acknowledged: Rate::new(now),
            acknowledged_total: 0,
            written_off: 0,
            still: (now, 0, 0),
            held_back: false,
        }
    }

    /// The economy granted `room` more bytes.
    pub(crate) fn grant(&mut self, number: u32, room: u64, sent: u64) {
        self.end = self.end.max(sent).saturating_add(room);
        self.last_room = room;
        (self.granted, self.asked) = (true, false);
        if self.rooms.len() >= MAX_GRANTS {
            self.rooms.pop_first();
        }
        self.rooms.insert(number, room);
    }

    /// The economy took the rest of a grant back.
    pub(crate) fn freed(&mut self, number: u32, used: u64) {
        let rest = self.rooms.remove(&number).unwrap_or(0).saturating_sub(used);
        self.end = self.end.saturating_sub(rest);
    }

    /// The economy lets so many bytes be sent, all in all.
    pub(crate) const fn set_limit(&mut self, total: u64) {
        if total > self.limit {
            self.asked = false;
        }
        self.limit = total;
    }

    /// Payload that may be sent in this session, all in all.
    //= spec/swarm.md#84-settlement-and-evidence-on-the-connection
    pub(crate) const fn limit(&self) -> u64 {
        if self.granted { self.limit } else { 0 }
    }

    /// Whether the peer can be served now: it knows of a grant, and there is room.
    pub(crate) const fn has_room(&self, sent: u64) -> bool {
        self.limit() > sent
    }

    /// Whether less than a quarter of the last grant is left, or not even a block may be sent.
    //= spec/economy.md#53-verdict-grant-settlement
    pub(crate) const fn is_low(&self, sent: u64) -> bool {
        self.end.saturating_sub(sent) <= self.last_room / 4
            || self.limit().saturating_sub(sent) < BLOCK_LEN as u64
    }

    /// A count of the peer was wrong: the first time it is asked for a receipt, later it is choked.
    pub(crate) const fn fault(&mut self) -> bool {
        self.faults = self.faults.saturating_add(1);
        self.is_disputed()
    }

    /// Whether the peer's counts were wrong more than once.
    pub(crate) const fn is_disputed(&self) -> bool {
        self.faults > 1
    }

    /// The peer acknowledged to have accepted so many bytes, all in all.
    pub(crate) fn acknowledge(&mut self, now: Instant, accepted: u64) {
        self.acknowledged.add(now, accepted.saturating_sub(self.acknowledged_total));
        self.acknowledged_total = accepted;
    }

    /// How much more than `sent` may be sent now, by the economy's limit and by what the peer has acknowledged.
    pub(crate) fn allowance(&mut self, now: Instant, sent: u64, reported: Totals, piece_len: u64) -> u64 {
        let rate = self.acknowledged.current(now);
        let in_flight = EXPOSURE_MIN.max(rate.min(EXPOSURE_MAX));
        let unproven = UNVERIFIED_MIN.max(piece_len.saturating_mul(4));
        if (self.still.1, self.still.2) != (sent, reported.accepted) {
            self.still = (now, sent, reported.accepted);
        } else if now.since(self.still.0) >= WRITE_OFF {
            self.written_off = sent.saturating_sub(reported.accepted);
        }
        let exposure = sent.saturating_sub(reported.accepted).saturating_sub(self.written_off);
        let unverified = reported.accepted.saturating_sub(reported.verified);
        if self.held_back {
            self.held_back = exposure >= in_flight / 4 * 3 || unverified >= unproven / 4 * 3;
        } else {
            self.held_back = exposure >= in_flight || unverified >= unproven;
        }
        if self.held_back {
            return 0;
        }
        self.limit().saturating_sub(sent).min(in_flight - exposure)
    }
}

/// Whether a verdict lets the peer be served.
pub(crate) const fn serves(verdict: Option<Verdict>) -> bool {
    matches!(verdict, Some(Verdict::Serve { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64) -> Instant {
        Instant::START + Duration::from_secs(seconds)
    }

    fn reported(accepted: u64, verified: u64) -> Totals {
        Totals { verified, accepted, sent: 0 }
    }

    //= spec/swarm.md#83-counts-and-exposure
    #[test]
    fn counts_are_due_by_growth_by_time_and_at_the_close() {
        let mut taken = Taken::new(at(0));
        assert!(!taken.count_is_due(at(60), true), "nothing changed");
        taken.accepted = COUNT_STEP - 1;
        assert!(!taken.count_is_due(at(4), false));
        assert!(taken.count_is_due(at(5), false) && taken.count_is_due(at(1), true));
        taken.accepted = COUNT_STEP;
        assert!(taken.count_is_due(at(0), false));
        taken.count_sent(at(1), 0);
        taken.verified = COUNT_STEP;
        assert!(taken.count_is_due(at(1), false), "verified bytes alone are news too");
    }

    //= spec/swarm.md#83-counts-and-exposure
    #[test]
    fn receipts_are_due_every_sixteen_mebibytes_or_thirty_seconds() {
        let mut taken = Taken::new(at(0));
        taken.verified = 1;
        assert!(!taken.receipt_is_due(at(29), false));
        assert!(taken.receipt_is_due(at(30), false) && taken.receipt_is_due(at(1), true));
        taken.receipt_sent(at(30));
        taken.verified = 16 * MIB + 1;
        assert!(taken.receipt_is_due(at(30), false));
    }

    //= spec/swarm.md#83-counts-and-exposure
    #[test]
    fn what_is_in_flight_is_bounded_until_it_is_acknowledged() {
        let mut given = Given::new(at(0));
        given.grant(1, 100 * MIB, 0);
        given.set_limit(100 * MIB);
        assert_eq!(given.allowance(at(0), 0, reported(0, 0), MIB), 4 * MIB);
        assert_eq!(given.allowance(at(0), 4 * MIB, reported(0, 0), MIB), 0);
        assert_eq!(
            given.allowance(at(0), 4 * MIB, reported(MIB, MIB), MIB),
            0,
            "three quarters are not undercut"
        );
        assert_eq!(given.allowance(at(0), 4 * MIB, reported(MIB + 1, MIB), MIB), MIB + 1);
        given.acknowledge(at(0), 4 * MIB);
        assert_eq!(
            given.allowance(at(1), 4 * MIB, reported(4 * MIB, 4 * MIB), MIB),
            4 * MIB,
            "a second of the rate"
        );
        given.acknowledge(at(1), 1 << 40);
        given.grant(2, 1 << 50, 0);
        given.set_limit(1 << 50);
        assert_eq!(given.allowance(at(1), MIB, reported(0, 0), MIB), 63 * MIB, "but 64 MiB at the most");
    }

    //= spec/swarm.md#83-counts-and-exposure
    #[test]
    fn what_was_of_no_use_to_the_peer_does_not_freeze_the_session() {
        let mut given = Given::new(at(0));
        given.grant(1, 100 * MIB, 0);
        given.set_limit(100 * MIB);
        let wasted = reported(6 * MIB, 6 * MIB);
        assert_eq!(given.allowance(at(1), 10 * MIB, wasted, MIB), 0, "4 MiB are not acknowledged");
        assert_eq!(given.allowance(at(10), 10 * MIB, wasted, MIB), 0);
        assert_eq!(given.allowance(at(11), 10 * MIB, wasted, MIB), 4 * MIB, "nor will they be");
        assert_eq!(given.allowance(at(12), 14 * MIB, wasted, MIB), 0, "the bound holds for what comes after");
        assert_eq!(given.allowance(at(13), 14 * MIB, reported(10 * MIB, 10 * MIB), MIB), 4 * MIB);
    }

    //= spec/swarm.md#83-counts-and-exposure
    #[test]
    fn what_is_unverified_is_bounded() {
        let mut given = Given::new(at(0));
        given.grant(1, 1000 * MIB, 0);
        given.set_limit(1000 * MIB);
        assert_eq!(given.allowance(at(0), 16 * MIB, reported(16 * MIB, 0), MIB), 0);
        assert_eq!(given.allowance(at(0), 16 * MIB, reported(16 * MIB, 4 * MIB), MIB), 0);
        assert!(given.allowance(at(0), 16 * MIB, reported(16 * MIB, 4 * MIB + 1), MIB) > 0);
        let mut given = Given { held_back: false, ..given };
        assert!(given.allowance(at(0), 16 * MIB, reported(16 * MIB, 0), 8 * MIB) > 0, "four pieces of 8 MiB");
    }

    //= spec/swarm.md#84-settlement-and-evidence-on-the-connection
    #[test]
    fn nothing_is_sent_without_a_grant_or_beyond_the_limit() {
        let mut given = Given::new(at(0));
        given.set_limit(3 * MIB);
        assert_eq!(given.allowance(at(0), 0, reported(0, 0), MIB), 0, "no grant was told");
        given.set_limit(0);
        given.grant(1, 2 * MIB, 0);
        assert_eq!(given.allowance(at(0), 0, reported(0, 0), MIB), 0, "the economy has not raised the limit");
        given.set_limit(2 * MIB);
        assert_eq!(given.allowance(at(0), 0, reported(0, 0), MIB), 2 * MIB);
        given.set_limit(MIB);
        assert!(!given.has_room(MIB) && given.has_room(MIB - 1), "a limit can be lowered too");
    }

    //= spec/economy.md#53-verdict-grant-settlement
    #[test]
    fn room_is_low_when_a_quarter_of_the_last_grant_is_left_or_no_block_may_be_sent() {
        let mut given = Given::new(at(0));
        given.grant(1, 2 * MIB, 0);
        given.set_limit(2 * MIB);
        assert!(!given.is_low(MIB) && given.is_low(2 * MIB - MIB / 2));
        given.set_limit(MIB);
        assert!(given.is_low(MIB));
        given.set_limit(2 * MIB);
        given.freed(1, MIB);
        assert!(given.is_low(MIB), "the rest was taken back");
    }
}
