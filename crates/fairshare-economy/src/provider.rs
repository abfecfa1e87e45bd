//! One direction of a pair, seen by who gives: what was sent, acknowledged, paid, granted and may be sent next.
//!
//! All positions lie on the line of the [`Schedule`]. `used` is the provider's upper bound of what the taker can
//! have taken: nothing before it may be granted again, and a grant is never shortened below it.

use crate::pool::Prefix;
use crate::rate::RateMeter;
use crate::record::GivenRecord;
use crate::schedule::{Entry, Grant, Schedule};
use crate::verdict::ROOM_MIN;
use crate::window::{CLOSE_UNVERIFIED, FLUSH_MIN, LOST_MAX, Losses, SETTLEMENT_MIN, tolerance, window};
use fairshare_ledger::BlockHash;
use fairshare_wire::{Instant, Now};

/// Bytes that may be sent beyond the last journaled mark.
//= spec/economy.md#53-verdict-grant-settlement
pub(crate) const MARK_STEP: u64 = 4 << 20;
/// A mark is written ahead of what was sent by the bytes of an eighth of a second, so that a fast transfer does not
/// wait for the disk; never further ahead than this.
const MARK_AHEAD_MAX: u64 = 28 << 20;
const MARK_AHEAD_SHARE: u64 = 8;
/// Sessions that end badly until the window is set back.
const BAD_CLOSES_MAX: u8 = 2;

/// A write of the pair's record that is under way, and what will be durable after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Journaling {
    number: u32,
    mark: u64,
    open: bool,
}

/// The provider's side of a direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Provider {
    pub(crate) schedule: Schedule,
    /// The newest grant's number.
    pub(crate) number: u32,
    /// All the peer ever paid: `cum` of its newest pair.
    pub(crate) paid: u64,
    /// How often it paid.
    pub(crate) settled: u64,
    /// `cum` and hash of a settlement whose agreement is being stored.
    pub(crate) signing: Option<(u64, BlockHash)>,
    pub(crate) sent: u64,
    /// Acknowledged as verified, in ended and open sessions.
    pub(crate) verified: u64,
    /// Sent in open sessions and not acknowledged as verified.
    pub(crate) outstanding: u64,
    /// May have been taken before a crash of ours; no count tells.
    pub(crate) doubtful: u64,
    /// Lost with ended sessions or a crash, as far as is known; some of it may have been verified after the last
    /// count, so the peer may be this much further than `used`.
    unresolved: u64,
    /// The part of it from before the running pair session.
    unresolved_before: u64,
    pub(crate) losses: Losses,
    pub(crate) rate: RateMeter,
    /// Since when the window of unpaid bytes is full.
    pub(crate) full_since: Option<Instant>,
    /// Whether the peer was told that it is.
    pub(crate) dunned: bool,
    /// The bucket that the newest pool grant was drawn from.
    pub(crate) bucket: Option<Prefix>,
    /// What of the record is on disk.
    pub(crate) durable_number: u32,
    pub(crate) durable_mark: u64,
    /// The record on disk says that sessions are open, so that a crash is seen as one.
    durable_open: bool,
    pub(crate) journaling: Option<Journaling>,
    /// The record changed since the write under way.
    pub(crate) journal_again: bool,
    /// `sent` from which on the next mark is due.
    mark_due: u64,
    /// `verified` when the first session after a pause opened: what is older and stays unpaid was lost.
    verified_before: u64,
    payments_since: u32,
    window_base: u64,
    bad_closes: u8,
}

impl Provider {
    /// Takes up the record of a former run: what was granted counts as used up to the last mark and a step.
    //= spec/economy.md#53-verdict-grant-settlement
    pub(crate) fn restore(&mut self, record: GivenRecord) {
        self.schedule = record.schedule;
        // After an orderly end every sent byte is in the record. Else as much more was sent as the mark and the
        // grants allowed; lost bytes may have been granted again.
        let by_mark = record.mark.saturating_add(MARK_STEP).saturating_sub(record.sent);
        let by_grants = self.schedule.end().saturating_sub(record.verified);
        let more = if record.open { by_mark.min(by_grants) } else { 0 };
        let reach = record.used.saturating_add(more);
        self.schedule.cut(reach.saturating_add(record.unresolved));
        self.schedule.advance(self.paid);
        self.number = record.number;
        self.durable_number = record.number;
        self.verified = record.verified.max(self.paid);
        self.unresolved = record.unresolved;
        self.doubtful = if record.open { reach.saturating_sub(self.verified) } else { record.doubtful };
        self.sent = record.sent.saturating_add(more);
        self.losses = record.losses;
        self.window_base = record.window_base;
        self.bad_closes = record.bad_closes;
        self.durable_mark = record.mark;
    }

    /// The record to be written now, and what it promises.
    pub(crate) fn record(&self, now: Now, open: bool) -> (GivenRecord, Journaling) {
        let promised = self.journaling.map_or(0, |journaling| journaling.mark).max(self.durable_mark);
        let mark = self.sent.saturating_add(self.ahead(now.mono)).max(promised);
        let record = GivenRecord {
            open,
            sent: self.sent,
            verified: self.verified,
            unresolved: self.unresolved,
            doubtful: self.doubtful,
            used: self.used(),
            mark,
            window_base: self.window_base,
            bad_closes: self.bad_closes,
            number: self.number,
            losses: self.losses.clone(),
            schedule: self.schedule.clone(),
        };
        (record, Journaling { number: self.number, mark, open })
    }

    /// A write of the record begins.
    pub(crate) fn journal(&mut self, now: Now, open: bool) -> GivenRecord {
        let (record, journaling) = self.record(now, open);
        let step = journaling.mark.saturating_sub(self.sent).saturating_add(MARK_STEP);
        self.mark_due = self.sent.saturating_add(step / 4);
        self.journaling = Some(journaling);
        self.journal_again = false;
        // From now on the disk may say that no session is open.
        self.durable_open &= open;
        record
    }

    /// The write is done.
    pub(crate) fn journaled(&mut self) {
        if let Some(journaling) = self.journaling.take() {
            self.durable_number = self.durable_number.max(journaling.number);
            self.durable_mark = self.durable_mark.max(journaling.mark);
            self.durable_open = journaling.open;
        }
    }

    /// Whether a further mark should be written now.
    pub(crate) fn is_mark_due(&self) -> bool {
        match self.journaling {
            None => !self.durable_open || self.sent >= self.mark_due,
            // The end of the last session is being written, and the next has begun.
            Some(journaling) => !journaling.open && !self.journal_again,
        }
    }

    fn ahead(&self, now: Instant) -> u64 {
        (self.rate.sum(now, 2) / 2 / MARK_AHEAD_SHARE).min(MARK_AHEAD_MAX)
    }

    /// How far the peer can have come.
    pub(crate) fn used(&self) -> u64 {
        let taken = self.verified.saturating_add(self.outstanding).saturating_add(self.doubtful);
        taken.max(self.paid)
    }

    /// Releases what was granted and not sent; never what the peer may have taken, whatever it acknowledged.
    pub(crate) fn release(&mut self) -> Vec<(Entry, u64)> {
        self.schedule.cut(self.used().saturating_add(self.unresolved))
    }

    /// How much more may be sent by the durable grants.
    pub(crate) fn granted(&self) -> u64 {
        self.schedule.end_of_number(self.durable_number).saturating_sub(self.used())
    }

    /// How much more may be sent by the durable mark.
    pub(crate) fn marked(&self) -> u64 {
        let mark = self.durable_mark.saturating_add(MARK_STEP);
        if self.durable_open { mark.saturating_sub(self.sent) } else { 0 }
    }

    /// How much more may be sent.
    pub(crate) fn allowance(&self) -> u64 {
        self.granted().min(self.marked())
    }

    /// Whether nothing but the next mark lets the sending go on.
    pub(crate) fn waits_for_mark(&self) -> bool {
        self.journaling.is_none() && self.marked() < self.granted() && self.sent > self.durable_mark
    }

    /// Granted real bytes that were not sent yet.
    pub(crate) fn room_left(&self) -> u64 {
        self.schedule.end().saturating_sub(self.used())
    }

    /// Whether less than a quarter of the last grant is left.
    pub(crate) fn is_room_low(&self) -> bool {
        self.room_left() <= self.schedule.last().map_or(0, |last| last.grant.room / 4)
    }

    /// The reservation on the peer's claim. While sessions are open it covers all grants; else what was taken or
    /// may have been, until it is paid.
    pub(crate) fn hold(&self, open: bool) -> u64 {
        let to = if open { self.schedule.end() } else { self.verified.saturating_add(self.doubtful) };
        self.schedule.charge(self.paid, to.max(self.paid))
    }

    /// The part of the hold that can still be sent; a rest smaller than a block cannot.
    pub(crate) fn hold_unsent(&self) -> u64 {
        if self.room_left() < ROOM_MIN {
            return 0;
        }
        self.schedule.charge(self.used(), self.schedule.end().max(self.used()))
    }

    /// Reserves a grant; it counts as soon as it is durable.
    pub(crate) fn grant(&mut self, price: u32, room: u64, own: u64, pool: bool) -> Option<Grant> {
        let number = self.number.checked_add(1)?;
        let grant = Grant { number, price, room, own };
        self.schedule.push(Entry { grant, freed: false, pool });
        self.number = number;
        Some(grant)
    }

    /// Acknowledged and not paid.
    pub(crate) fn unpaid(&self) -> u64 {
        self.verified.saturating_sub(self.paid)
    }

    /// What the peer may leave unpaid. Disagreement does not shrink a friend's window.
    pub(crate) fn window(&self, now: Now, friend: bool) -> u64 {
        let settled = self.settled.saturating_sub(self.window_base);
        let lost = if friend { 0 } else { self.losses.sum(now.unix_ms) };
        window(settled, self.rate.sum(now.mono, 20), lost, self.sent)
    }

    /// Whether so much was sent to it and never acknowledged that it gets nothing.
    pub(crate) fn is_disputed(&self, now: Now) -> bool {
        self.losses.sum(now.unix_ms) > LOST_MAX || self.window(now, false) == 0
    }

    /// What is paid before `proposal`, if another settlement that is being signed counts already.
    pub(crate) fn signed_before(&self, proposal: BlockHash) -> u64 {
        let other = self.signing.filter(|(_, hash)| *hash != proposal);
        self.paid.max(other.map_or(0, |(cum, _)| cum))
    }

    /// The first session after a pause opens.
    pub(crate) fn begin(&mut self) {
        self.verified_before = self.verified;
        self.unresolved_before = self.unresolved.saturating_add(self.doubtful);
        self.payments_since = 0;
    }

    /// Whether bytes from before the pause are still open and a reckoning is due.
    pub(crate) fn is_reckoning_due(&self) -> bool {
        self.doubtful > 0 || self.verified_before.saturating_sub(self.paid) > FLUSH_MIN
    }

    /// The peer had time to settle what it owes from before the pause. What may have been taken before our crash
    /// and was not paid was not taken; what it acknowledged and lost in a crash of its own will never be paid.
    /// Of the latter no more than a carry-over is forgiven, to those who have paid before; and it counts as lost.
    /// A friend is forgiven all of it, as soon as it is back: it dies as often as it likes.
    //= spec/economy.md#3-from-bytes-to-a-transaction
    pub(crate) fn reckon(&mut self, now: Now, friend: bool) {
        self.undoubt();
        let owed = self.verified_before.saturating_sub(self.paid);
        if owed <= FLUSH_MIN || (self.settled == 0 && !friend) {
            return;
        }
        let forgiven = if friend { owed } else { owed.min(SETTLEMENT_MIN) };
        self.verified = self.verified.saturating_sub(forgiven);
        self.verified_before = self.paid;
        self.lose(forgiven);
        self.losses.add(now.unix_ms, forgiven);
    }

    /// A session ended: what it left unverified is lost. `last` = no other session is open.
    pub(crate) fn end_session(&mut self, now: Now, unverified: u64, last: bool) {
        self.outstanding = self.outstanding.saturating_sub(unverified);
        self.lose(unverified);
        self.losses.add(now.unix_ms, unverified);
        if unverified > CLOSE_UNVERIFIED {
            self.bad_closes += 1;
            if self.bad_closes >= BAD_CLOSES_MAX {
                (self.bad_closes, self.window_base) = (0, self.settled);
            }
        }
        if last {
            self.durable_open = false;
            self.rate = RateMeter::default();
            self.full_since = None;
            self.dunned = false;
            self.correct();
            if self.payments_since > 1 {
                // The first may have been signed before the pause; the second was not, and payers settle all they
                // owe: nothing from before the pause waits to be paid any more.
                self.unresolved = self.unresolved.saturating_sub(self.unresolved_before);
                self.unresolved_before = 0;
            }
        }
    }

    /// A settlement is complete. `open` = sessions are open, whose counts may lag behind it.
    pub(crate) fn pay(&mut self, cum: u64, open: bool) {
        self.paid = self.paid.max(cum);
        self.settled += 1;
        self.payments_since += 1;
        self.signing = self.signing.filter(|(cum, _)| *cum > self.paid);
        self.schedule.advance(self.paid);
        if self.payments_since > 1 {
            self.undoubt();
        }
        if !open {
            self.correct();
        }
    }

    /// What may have been taken before our crash does not count as used any more.
    fn undoubt(&mut self) {
        let doubtful = std::mem::take(&mut self.doubtful);
        self.lose(doubtful);
    }

    fn lose(&mut self, bytes: u64) {
        self.unresolved = self.unresolved.saturating_add(bytes).min(LOST_MAX);
    }

    /// How much further than `used`, and than all grants, the peer may be.
    pub(crate) fn slack(&self) -> u64 {
        tolerance(self.sent).saturating_add(self.unresolved)
    }

    /// What was paid was verified, whether it was acknowledged or not.
    fn correct(&mut self) {
        let found = self.paid.saturating_sub(self.verified);
        self.verified += found;
        self.doubtful = self.doubtful.saturating_sub(found);
        self.unresolved = self.unresolved.saturating_sub(found);
        // The oldest are paid first.
        self.unresolved_before = self.unresolved_before.saturating_sub(found).min(self.unresolved);
        self.losses.found(found);
    }
}
