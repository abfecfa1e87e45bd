//! The provider's side: sessions, verdicts, grants before bytes, marks before more bytes, windows, releases.

use crate::engine::{Economy, Peer, Session};
use crate::output::{EconomyEvent, EconomyOutput, SessionId};
use crate::pool::Prefix;
use crate::schedule::{charge_of, room_of};
use crate::timer::Timer;
use crate::verdict::{Facts, Policy, ROOM_MIN, Refusal, RefusalReason, Verdict, decide, refusal};
use crate::window::{FLUSH_MIN, WINDOW_FIRST};
use fairshare_crypto::PublicKey;
use fairshare_wire::Now;
use std::net::IpAddr;
use std::time::Duration;

/// C: the most real bytes of one grant.
const ROOM_MAX: u64 = 1 << 30;
/// The usual grant when the rate is low, and the most that comes out of the pool at once, in charged bytes.
const GRANT_MIN: u64 = 4 << 20;
/// A grant should last this long at the current rate.
const GRANT_SECS: u64 = 60;
/// Without a request for this long, the unused part of a grant is released.
//= spec/economy.md#53-verdict-grant-settlement
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a window may be full before the peer is told to pay, and then again.
//= spec/swarm.md#63-verdict-of-the-economy
const DUN_AFTER: Duration = Duration::from_secs(10);
const DUN_AGAIN: Duration = Duration::from_secs(60);
/// How long a returning peer has to settle what it owes from before.
const RECKONING: Duration = Duration::from_secs(60);
/// With less than this left a session asks for more.
const LOW: u64 = 256 << 10;
/// A session that sent nothing for this long lends its share to the peer's other sessions.
const LENDS_AFTER: Duration = Duration::from_secs(1);
/// What it keeps, to begin again with.
const LENDER_KEEPS: u64 = 64 << 10;
/// How often strangers get their shares of the line, and the largest share at once.
const POOL_TICK: Duration = Duration::from_millis(50);
const POOL_SHARE_MAX: u64 = 256 << 10;

impl Economy {
    /// A connection with `key` was verified.
    pub fn session_opened(&mut self, now: Now, id: SessionId, key: PublicKey, address: IpAddr) {
        let (ctx, friend) = (self.rng.bytes(), self.is_friend(&key));
        let peer = self.peers.entry(key).or_default();
        if peer.sessions.is_empty() {
            peer.take.ctx = ctx;
            peer.give.begin();
            if friend {
                peer.give.reckon(now, true);
            } else if peer.give.is_reckoning_due() {
                self.timers.set_if_none(Timer::Reckoning(key), now.mono + RECKONING);
            }
        }
        peer.sessions.insert(id);
        peer.refresh_hold();
        let session = Session {
            key,
            address,
            sent: 0,
            verified: 0,
            taken: 0,
            limit: 0,
            told: 0,
            served: false,
            active: now.mono,
            rate: 0,
        };
        self.sessions.insert(id, session);
        self.flush(now, &key);
    }

    /// The connection is gone; its last counts were handed over before.
    pub fn session_closed(&mut self, now: Now, id: SessionId) {
        self.rest(now, id, false);
        let Some(session) = self.sessions.remove(&id) else { return };
        let key = session.key;
        self.timers.cancel(Timer::Idle(id));
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.sessions.remove(&id);
        let last = peer.sessions.is_empty();
        peer.give.end_session(now, session.sent.saturating_sub(session.verified), last);
        peer.exhausted = false;
        peer.refresh_hold();
        if last {
            self.timers.cancel(Timer::Unpaid(key));
        }
        if last && peer.is_blank() {
            self.peers.remove(&key);
            return;
        }
        if peer.give.sent > 0 {
            self.journal(now, &key);
        }
        self.supply(now, &key);
        self.flush(now, &key);
        self.record_taken();
    }

    /// Whether the peer behind a session may take.
    pub fn verdict(&mut self, now: Now, id: SessionId, rate: u64) -> Verdict {
        let Some(session) = self.sessions.get_mut(&id) else { return Verdict::Choke };
        session.rate = rate;
        let (key, served) = (session.key, session.served);
        self.check_window(now, &key);
        let verdict = self.judge_session(now, id, served);
        if matches!(verdict, Verdict::Choke | Verdict::Refuse(_)) {
            self.rest(now, id, false);
        }
        verdict
    }

    fn judge_session(&self, now: Now, id: SessionId, served: bool) -> Verdict {
        let Some(session) = self.sessions.get(&id) else { return Verdict::Choke };
        let Some(peer) = self.peers.get(&session.key) else { return Verdict::Choke };
        let facts = self.facts(now, session, peer);
        // A window that is full for a moment, while the payment is on its way, only stops the sending.
        let unpaid = peer.give.full_since.is_some() && (!served || peer.give.dunned);
        match decide(&Facts { unpaid, ..facts }) {
            Verdict::Refuse(refusal) => Verdict::Refuse(Refusal { seen: peer.seen, ..refusal }),
            verdict => verdict,
        }
    }

    fn facts(&self, now: Now, session: &Session, peer: &Peer) -> Facts {
        // What was granted and not sent can be taken still.
        let unsent = peer.give.hold_unsent();
        let pool = peer.give.schedule.last().is_some_and(|last| last.pool);
        let bucket = self.buckets.left(Prefix::of(session.address), now.unix_ms);
        Facts {
            policy: self.config.policy,
            forker: peer.forker,
            disputed: peer.give.is_disputed(now),
            unpaid: false,
            friend: self.is_friend(&session.key),
            claim: peer.account.theirs.claim() + i128::from(unsent),
            price: self.price(),
            stranger_bytes: self.config.stranger_bytes,
            bucket: bucket.saturating_add(if pool { unsent } else { 0 }),
        }
    }

    /// The choker wants to serve this session, or its grants run low.
    pub fn grant_wanted(&mut self, now: Now, id: SessionId, rate: u64) {
        match self.verdict(now, id, rate) {
            Verdict::Serve { .. } | Verdict::Pool => {}
            Verdict::Choke | Verdict::Refuse(_) => {
                self.output(EconomyOutput::Rejudge { session: id });
                return;
            }
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.served = true;
        session.active = now.mono;
        let key = session.key;
        self.timers.set_if_none(Timer::Idle(id), now.mono + IDLE_MAX);
        self.supply(now, &key);
    }

    /// The choker stopped serving this session.
    //= spec/economy.md#53-verdict-grant-settlement
    pub fn choked(&mut self, now: Now, id: SessionId) {
        self.rest(now, id, false);
    }

    /// A session handed `total` payload bytes to the transport since it began.
    pub fn sent(&mut self, now: Now, id: SessionId, total: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let bytes = total.saturating_sub(session.sent);
        session.sent = session.sent.max(total);
        session.active = now.mono;
        let (key, low) = (session.key, session.left() < LOW);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.give.sent = peer.give.sent.saturating_add(bytes);
        peer.give.outstanding = peer.give.outstanding.saturating_add(bytes);
        peer.give.rate.add(now.mono, bytes);
        let pool = peer.give.schedule.last().is_some_and(|last| last.pool);
        let wanting = low || peer.give.is_mark_due() || (peer.give.is_room_low() && !peer.exhausted);
        self.meter.sent(now.mono, bytes, pool);
        if wanting {
            self.supply(now, &key);
        }
    }

    /// The peer acknowledged, in a session's counts, what it accepted and what of that it verified.
    pub fn acknowledged(&mut self, now: Now, id: SessionId, accepted: u64, verified: u64) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let verified = verified.min(accepted).min(session.sent);
        let bytes = verified.saturating_sub(session.verified);
        if bytes == 0 {
            return;
        }
        session.verified = verified;
        let key = session.key;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.give.verified = peer.give.verified.saturating_add(bytes);
        peer.give.outstanding = peer.give.outstanding.saturating_sub(bytes);
        self.check_window(now, &key);
    }

    /// A fork of `key` is proved: it is refused for ever. A key without an account is not remembered, as anybody can
    /// make up forkers; it is to be told again when it opens a session.
    //= spec/economy.md#53-verdict-grant-settlement
    pub fn fork_proved(&mut self, now: Now, key: &PublicKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        peer.forker = true;
        let claim = peer.account.theirs.claim();
        for id in peer.sessions.clone() {
            self.rest(now, id, false);
            let refusal = refusal(RefusalReason::Fraud, claim);
            self.output(EconomyOutput::Refuse { session: id, refusal });
            self.output(EconomyOutput::Rejudge { session: id });
        }
    }

    /// Sees to it that the served sessions of a peer can go on: the next grant, the next mark, the next bytes.
    pub(crate) fn supply(&mut self, now: Now, key: &PublicKey) {
        let Some(peer) = self.peers.get(key) else { return };
        if peer.give.full_since.is_some() || !self.is_served(peer) {
            return;
        }
        let pending = peer.give.durable_number < peer.give.number;
        if peer.give.is_room_low() && !pending && !self.grant(now, key) {
            self.report_exhaustion(key);
        }
        self.tell(key);
        self.allow(now, key);
        self.mark(now, key);
    }

    /// Reserves the next grant, if the peer may have one, and has it written.
    //= spec/economy.md#53-verdict-grant-settlement
    fn grant(&mut self, now: Now, key: &PublicKey) -> bool {
        let price = self.price();
        let Some((charged, prefix)) = self.grantable(now, key, price) else { return false };
        let room = room_of(charged, price).min(ROOM_MAX);
        let Some(peer) = self.peers.get_mut(key) else { return false };
        if room < ROOM_MIN || peer.give.schedule.is_full() {
            return false;
        }
        let own = charge_of(room, price);
        if peer.give.grant(price, room, own, prefix.is_some()).is_none() {
            return false;
        }
        peer.exhausted = false;
        peer.refresh_hold();
        if let Some(prefix) = prefix {
            peer.give.bucket = Some(prefix);
            self.buckets.take(prefix, now.unix_ms, own);
            self.pool_peers.insert(*key);
        } else {
            self.pool_peers.remove(key);
        }
        self.journal(now, key);
        true
    }

    /// How much may be granted now, in charged bytes, and the bucket it is drawn from if it is a stranger's.
    fn grantable(&self, now: Now, key: &PublicKey, price: u32) -> Option<(u64, Option<Prefix>)> {
        let peer = self.peers.get(key)?;
        let served = peer.sessions.iter().filter_map(|id| self.sessions.get(id)).filter(|s| s.served);
        let session = served.max_by_key(|session| session.active)?;
        let rate = session.rate.max(peer.give.rate.sum(now.mono, 10) / 10);
        let usual = charge_of(rate.saturating_mul(GRANT_SECS), price).max(GRANT_MIN);
        if self.is_friend(key) || self.config.policy == Policy::None {
            return Some((usual, None));
        }
        let claim = peer.account.theirs.claim();
        let positive = u64::try_from(claim.max(0)).unwrap_or(u64::MAX);
        if room_of(positive, price) >= ROOM_MIN {
            return Some((positive.min(usual), None));
        }
        let prefix = Prefix::of(session.address);
        let credit = (claim + i128::from(self.config.stranger_bytes)).max(0);
        let credit = u64::try_from(credit).unwrap_or(u64::MAX);
        let charged = credit.min(self.buckets.left(prefix, now.unix_ms)).min(GRANT_MIN);
        Some((charged, Some(prefix)))
    }

    /// No further grant can be made and the last is as good as used up: the choker is to ask again.
    fn report_exhaustion(&mut self, key: &PublicKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        if peer.exhausted || peer.give.room_left() >= ROOM_MIN {
            return;
        }
        peer.exhausted = true;
        for session in peer.sessions.clone() {
            self.output(EconomyOutput::Rejudge { session });
        }
    }

    /// Tells each served session the grants that it was not told, and of each whether a part was released.
    fn tell(&mut self, key: &PublicKey) {
        let Some(peer) = self.peers.get(key) else { return };
        let durable = peer.give.durable_number;
        let mut told = Vec::new();
        for &id in &peer.sessions {
            let Some(session) = self.sessions.get_mut(&id).filter(|session| session.served) else { continue };
            let new = peer.give.schedule.entries().filter(|entry| {
                let number = entry.grant.number;
                number > session.told && number <= durable
            });
            for entry in new {
                told.push(EconomyOutput::Grant { session: id, grant: entry.grant });
                if entry.freed {
                    let (number, used) = (entry.grant.number, entry.grant.room);
                    told.push(EconomyOutput::Freed { session: id, number, used });
                }
            }
            session.told = session.told.max(durable);
        }
        for output in told {
            self.output(output);
        }
    }

    /// Allows the served sessions of a peer to send what is granted and marked, each its fair share.
    fn allow(&mut self, now: Now, key: &PublicKey) {
        let Some(peer) = self.peers.get(key) else { return };
        let reach = peer.give.allowance();
        let served = self.served(peer);
        self.recall(now, peer.give.room_left() <= reach, &served);
        if self.pool_peers.contains(key) {
            return self.share_pool(now);
        }
        let pledged: u64 = served.iter().filter_map(|id| self.sessions.get(id)).map(Session::left).sum();
        let mut free = reach.saturating_sub(pledged);
        let fair = reach / (served.len() as u64).max(1);
        for id in served {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let more = fair.saturating_sub(session.left()).min(free);
            if more >= ROOM_MIN || (more > 0 && session.left() == 0) {
                free -= more;
                session.limit = session.sent.max(session.limit).saturating_add(more);
                let total = session.limit;
                self.output(EconomyOutput::ServeLimit { session: id, total });
            }
        }
    }

    /// If a session has run dry, those of the same peer that send nothing lend it what they do not need; all of it
    /// when no more will come (`final_bytes`).
    fn recall(&mut self, now: Now, final_bytes: bool, served: &[SessionId]) {
        let dry = |id: &SessionId| self.sessions.get(id).is_some_and(|session| session.left() < LENDER_KEEPS);
        if served.len() < 2 || !served.iter().any(dry) {
            return;
        }
        let keeps = if final_bytes { 0 } else { LENDER_KEEPS };
        for id in served {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            if now.mono.since(session.active) >= LENDS_AFTER && session.left() > keeps {
                session.limit = session.sent.saturating_add(keeps);
                let total = session.limit;
                self.output(EconomyOutput::ServeLimit { session: *id, total });
            }
        }
    }

    /// Writes the next mark of sent bytes when a part of the step is used, or when nothing else lets a session
    /// that ran dry go on.
    fn mark(&mut self, now: Now, key: &PublicKey) {
        let Some(peer) = self.peers.get(key) else { return };
        let give = &peer.give;
        let dry = || self.served(peer).iter().any(|id| self.sessions.get(id).is_some_and(|s| s.left() < LOW));
        if give.is_mark_due() || (give.waits_for_mark() && dry()) {
            self.journal(now, key);
        }
    }

    /// Divides what the line has for strangers now among those who wait for it, each in its turn.
    pub(crate) fn share_pool(&mut self, now: Now) {
        self.let_out_of_the_pool(now);
        let standing = self.meter.standing_recently(now.mono);
        let mut available = self.pool_rate.available(now.mono, self.meter.capacity(), standing);
        let mut waiting: Vec<(PublicKey, SessionId, u64)> =
            self.pool_peers.iter().filter_map(|key| self.pool_want(key)).collect();
        if let Some(turn) = self.pool_turn {
            let next = waiting.iter().position(|(key, ..)| *key > turn).unwrap_or(0);
            waiting.rotate_left(next);
        }
        let share = (available / (waiting.len() as u64).max(1)).clamp(ROOM_MIN, POOL_SHARE_MAX);
        let mut left_over = false;
        for (key, id, want) in waiting {
            let more = want.min(share).min(available);
            if more < ROOM_MIN.min(want) {
                left_over = true;
                break;
            }
            left_over |= more < want;
            available -= more;
            self.pool_rate.take(more);
            self.pool_turn = Some(key);
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            session.limit = session.sent.max(session.limit).saturating_add(more);
            let total = session.limit;
            self.output(EconomyOutput::ServeLimit { session: id, total });
        }
        if left_over {
            self.timers.set_if_none(Timer::Pool, now.mono + POOL_TICK);
        }
    }

    /// Who has given enough to be served by its own claim is a stranger no more: what is left of its first grant does
    /// not wait for the strangers' share of the line.
    fn let_out_of_the_pool(&mut self, now: Now) {
        let price = self.price();
        let has_standing = |key: &&PublicKey| {
            let claim = self.peers.get(key).map_or(0, |peer| peer.account.theirs.claim());
            room_of(u64::try_from(claim.max(0)).unwrap_or(u64::MAX), price) >= ROOM_MIN
        };
        let leaving: Vec<PublicKey> = self.pool_peers.iter().filter(has_standing).copied().collect();
        for key in leaving {
            self.pool_peers.remove(&key);
            self.allow(now, &key);
        }
    }

    /// The session of a pool peer that has least left, and what could be allowed to it.
    fn pool_want(&self, key: &PublicKey) -> Option<(PublicKey, SessionId, u64)> {
        let peer = self.peers.get(key)?;
        if peer.give.full_since.is_some() {
            return None;
        }
        let served = self.served(peer);
        let pledged: u64 = served.iter().filter_map(|id| self.sessions.get(id)).map(Session::left).sum();
        let free = peer.give.allowance().saturating_sub(pledged);
        let id = served.into_iter().min_by_key(|id| self.sessions.get(id).map_or(u64::MAX, Session::left))?;
        let low = self.sessions.get(&id).is_some_and(|session| session.left() < LOW);
        (low && free > 0).then_some((*key, id, free))
    }

    fn served(&self, peer: &Peer) -> Vec<SessionId> {
        let is_served = |id: &&SessionId| self.sessions.get(id).is_some_and(|session| session.served);
        peer.sessions.iter().filter(is_served).copied().collect()
    }

    fn is_served(&self, peer: &Peer) -> bool {
        peer.sessions.iter().any(|id| self.sessions.get(id).is_some_and(|session| session.served))
    }

    /// The session is served no longer, or for now (`keep`) sends nothing. With the last served session of a peer
    /// the unused part of its grants is released.
    fn rest(&mut self, now: Now, id: SessionId, keep: bool) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let key = session.key;
        let unused = session.left();
        session.limit = session.sent;
        let was_served = session.served;
        session.served = was_served && keep;
        if unused > 0 {
            let total = session.sent;
            self.output(EconomyOutput::ServeLimit { session: id, total });
            if self.pool_peers.contains(&key) {
                self.pool_rate.give_back(unused);
            }
        }
        let released = was_served && self.peers.get(&key).is_some_and(|peer| !self.is_served(peer));
        if released {
            self.release(now, &key);
        }
    }

    /// Releases what was granted and not sent.
    //= spec/economy.md#53-verdict-grant-settlement
    fn release(&mut self, now: Now, key: &PublicKey) {
        self.pool_peers.remove(key);
        let Some(peer) = self.peers.get_mut(key) else { return };
        let cut = peer.give.release();
        if cut.is_empty() {
            return;
        }
        peer.refresh_hold();
        let (sessions, bucket) = (peer.sessions.clone(), peer.give.bucket);
        for (entry, charged) in cut {
            if let (true, Some(prefix)) = (entry.pool, bucket) {
                self.buckets.give_back(prefix, now.unix_ms, charged);
            }
            let (number, used) = (entry.grant.number, entry.grant.room);
            for &id in &sessions {
                if self.sessions.get(&id).is_some_and(|session| session.told >= number) {
                    self.output(EconomyOutput::Freed { session: id, number, used });
                }
            }
        }
        self.journal(now, key);
    }

    /// A session was served and may have had no requests for a minute.
    pub(crate) fn check_idle(&mut self, now: Now, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        if !session.served {
            return;
        }
        let idle_at = session.active + IDLE_MAX;
        if now.mono < idle_at {
            self.timers.set(Timer::Idle(id), idle_at);
            return;
        }
        self.rest(now, id, false);
    }

    /// Stops the sending to a peer whose window of unpaid bytes is full, and lets it go on when a quarter is free.
    //= spec/swarm.md#83-counts-and-exposure
    pub(crate) fn check_window(&mut self, now: Now, key: &PublicKey) {
        let friend = self.is_friend(key);
        let Some(peer) = self.peers.get_mut(key) else { return };
        let (unpaid, window) = (peer.give.unpaid(), peer.give.window(now, friend));
        let was_full = peer.give.full_since.is_some();
        if !was_full && unpaid > 0 && unpaid >= window {
            peer.give.full_since = Some(now.mono);
            for id in peer.sessions.clone() {
                self.rest(now, id, true);
            }
            self.timers.set(Timer::Unpaid(*key), now.mono + DUN_AFTER);
            self.event(EconomyEvent::WindowFull { peer: *key, unpaid, window });
        } else if was_full && unpaid < window / 4 * 3 {
            peer.give.full_since = None;
            peer.give.dunned = false;
            let sessions = peer.sessions.clone();
            self.timers.cancel(Timer::Unpaid(*key));
            self.event(EconomyEvent::WindowOpen { peer: *key });
            for session in sessions {
                self.output(EconomyOutput::Rejudge { session });
            }
            self.supply(now, key);
        }
    }

    /// The window stayed full: the peer is told to pay, and choked.
    pub(crate) fn dun(&mut self, now: Now, key: &PublicKey) {
        self.check_window(now, key);
        let Some(peer) = self.peers.get_mut(key) else { return };
        if peer.give.full_since.is_none() || peer.sessions.is_empty() {
            return;
        }
        peer.give.dunned = true;
        let refusal =
            Refusal { seen: peer.seen, ..refusal(RefusalReason::Unpaid, peer.account.theirs.claim()) };
        for session in peer.sessions.clone() {
            self.output(EconomyOutput::Refuse { session, refusal });
            self.output(EconomyOutput::Rejudge { session });
        }
        self.timers.set(Timer::Unpaid(*key), now.mono + DUN_AGAIN);
    }

    /// A returned peer had its time to settle old bytes.
    pub(crate) fn reckon(&mut self, now: Now, key: &PublicKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        peer.give.reckon(now, false);
        peer.refresh_hold();
        self.journal(now, key);
        self.check_window(now, key);
        self.supply(now, key);
    }
}

const _: () = assert!(FLUSH_MIN < WINDOW_FIRST, "a window holds a settlement");
