//! Taking pieces from peers: requests out, blocks in, complete pieces to the disk, and what follows from right and
//! wrong ones.
//= spec/swarm.md#5-downloading

use crate::context::{Context, MAX_UNVERIFIED_BYTES, Purpose};
use crate::download::{Asked, Download};
use crate::event::{CloseReason, StreamId, SwarmEvent};
use crate::geometry::{BLOCK_LEN, BlockIndex};
use crate::open_piece::Arrival;
use crate::peer_wire::{BlockRequest, Message};
use crate::picker::{Outcome, Picker, Profile};
use crate::request::{DiskError, Request};
use crate::torrent::{Phase, Torrent};
use bytes::Bytes;
use fairshare_wire::{Instant, Now};
use std::time::Duration;

/// "Not interested" is told only when it has been true for this long.
//= spec/swarm.md#51-piece-picker
const BORED: Duration = Duration::from_secs(5);
/// Blocks that nobody asked for, before the connection is closed: some clients send a few after a choke.
const MAX_UNASKED: u32 = 100;

impl Torrent {
    /// A block arrived.
    pub(crate) fn on_piece(
        &mut self,
        cx: &mut Context,
        now: Now,
        id: StreamId,
        piece: u32,
        begin: u32,
        data: Bytes,
    ) {
        let (Some(geometry), Some(connection)) = (self.geometry, self.connections.get_mut(&id)) else {
            return;
        };
        let Ok(len) = u32::try_from(data.len()) else { return };
        let Some(index) = geometry.block_at(piece, begin, len) else {
            return self.close(cx, now, id, CloseReason::Protocol("a block that nobody could ask for"));
        };
        let asked = connection.download.arrived(now.mono, index, u64::from(len));
        let too_many = connection.download.unasked > MAX_UNASKED;
        let arrival = match (&mut self.picker, asked) {
            (Some(picker), Asked::Open | Asked::Late) => picker.receive(id, index, data),
            _ => Arrival::Duplicate,
        };
        match arrival {
            Arrival::Duplicate => {
                connection.wasted += u64::from(len);
                if let Some(picker) = self.picker.as_mut().filter(|_| asked != Asked::Never) {
                    picker.wasted(u64::from(len));
                }
                if too_many {
                    self.close(cx, now, id, CloseReason::Protocol("blocks that nobody asked for"));
                }
            }
            Arrival::Needed(others) => {
                if let Some(dealing) = connection.dealing_mut() {
                    dealing.taken.accepted += u64::from(len);
                }
                others.iter().for_each(|other| self.cancel(cx, other, index));
                self.store_if_complete(cx, piece);
                self.tell_counts(cx, now, id);
            }
        }
    }

    /// Another peer was faster: the request is taken back.
    //= spec/swarm.md#53-endgame
    fn cancel(&mut self, cx: &mut Context, id: StreamId, index: BlockIndex) {
        let (Some(geometry), Some(connection)) = (self.geometry, self.connections.get_mut(&id)) else {
            return;
        };
        if connection.download.cancelled(index) {
            let len = geometry.block_len(index);
            connection
                .send(cx, &Message::Cancel(BlockRequest { piece: index.piece, begin: index.begin(), len }));
        }
    }

    fn store_if_complete(&mut self, cx: &mut Context, piece: u32) {
        let Some(blocks) = self.picker.as_mut().and_then(|picker| picker.take_complete(piece)) else {
            return;
        };
        let request = Request::Store { torrent: self.info_hash, piece, blocks };
        cx.request(self.info_hash, Purpose::Store { piece }, request);
    }

    /// The disk hashed a piece, and wrote it if it was right.
    //= spec/swarm.md#56-verification-and-blame
    pub(crate) fn on_stored(
        &mut self,
        cx: &mut Context,
        now: Now,
        piece: u32,
        result: Result<bool, DiskError>,
    ) {
        let Some(picker) = &mut self.picker else { return };
        let right = match result {
            Ok(right) => right,
            Err(error) => {
                picker.store_failed(piece);
                return self.fail(cx, now, error.to_string());
            }
        };
        match picker.stored(piece, right) {
            Outcome::Verified { shares, guilty } => {
                self.piece_verified(cx, now, piece, &shares);
                guilty.into_iter().for_each(|id| self.ban(cx, now, id));
            }
            Outcome::SoleSource(id) => {
                cx.event(SwarmEvent::PieceFailed { torrent: self.info_hash, piece });
                self.ban(cx, now, id);
            }
            Outcome::Unclear => cx.event(SwarmEvent::PieceFailed { torrent: self.info_hash, piece }),
            Outcome::Unknown => {}
        }
        self.account(cx);
        self.refill_all(cx, now);
    }

    fn piece_verified(&mut self, cx: &mut Context, now: Now, piece: u32, shares: &[(StreamId, u64)]) {
        cx.event(SwarmEvent::PieceVerified { torrent: self.info_hash, piece });
        self.saving.changed();
        self.save_if_stopped(cx);
        for (id, bytes) in shares {
            let Some(dealing) = self.connections.get_mut(id).and_then(|peer| peer.dealing_mut()) else {
                continue;
            };
            dealing.taken.verified += bytes;
            cx.changed.insert((self.info_hash, *id));
            self.tell_counts(cx, now, *id);
        }
        let have = Message::Have(piece);
        let ids: Vec<StreamId> = self.connections.keys().copied().collect();
        for id in ids {
            // Also to those who have the piece: they learn from it when we are complete.
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.send(cx, &have);
            }
            self.update_interest(cx, now.mono, id);
        }
        if self.picker.as_ref().is_some_and(Picker::is_complete) {
            self.complete(cx, now);
        }
    }

    /// Requests blocks from every peer that may give some.
    pub(crate) fn refill_all(&mut self, cx: &mut Context, now: Now) {
        let ready = |peer: &crate::connection::Connection| peer.download.interested && !peer.download.choked;
        let ids: Vec<StreamId> =
            self.connections.values().filter(|peer| ready(peer)).map(|peer| peer.id).collect();
        ids.into_iter().for_each(|id| self.refill(cx, now, id));
    }

    /// Requests blocks from a peer, as many as its queue should hold.
    //= spec/swarm.md#52-request-pipeline
    pub(crate) fn refill(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let (Some(geometry), Phase::Active) = (self.geometry, &self.phase) else { return };
        let Some(connection) = self.connections.get(&id) else { return };
        let download = &connection.download;
        if !download.interested || (download.choked && download.allowed_fast.is_empty()) {
            return;
        }
        let count = download.wanted(now.mono).min(room(cx));
        if count == 0 {
            return;
        }
        let unchoking = self.connections.values().filter(|peer| !peer.download.choked).count();
        let (Some(picker), Some(connection)) = (&mut self.picker, self.connections.get_mut(&id)) else {
            return;
        };
        let download = &connection.download;
        let Some(avoided) = download.avoided() else { return };
        let profile = Profile {
            rate: download.rate.current(now.mono),
            outstanding: download.outstanding(),
            unchoking,
            only: download.choked.then_some(download.allowed_fast.as_slice()),
            suggested: &download.suggested,
            avoided: &avoided,
        };
        let mut blocks = Vec::with_capacity(count);
        picker.pick(now.mono, id, &profile, count, &mut blocks);
        connection.download.requested(now.mono, &blocks);
        for index in blocks {
            let len = geometry.block_len(index);
            connection
                .send(cx, &Message::Request(BlockRequest { piece: index.piece, begin: index.begin(), len }));
        }
        self.account(cx);
    }

    pub(crate) fn on_choke(&mut self, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.download.choked = true;
        // With the fast extension each request is rejected by itself; without it the choke says it for all.
        if !connection.fast {
            let given_up = connection.download.give_up();
            self.release(id, &given_up);
        }
        if let Some(picker) = &mut self.picker {
            picker.disown(id);
        }
    }

    pub(crate) fn on_unchoke(&mut self, id: StreamId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.download.choked = false;
            connection.refused_by = None;
        }
    }

    pub(crate) fn on_reject(&mut self, cx: &mut Context, now: Now, id: StreamId, request: BlockRequest) {
        if !self.speaks_fast(cx, now, id) {
            return;
        }
        let (Some(geometry), Some(connection)) = (self.geometry, self.connections.get_mut(&id)) else {
            return;
        };
        let index = geometry.block_at(request.piece, request.begin, request.len);
        if let Some(index) = index.filter(|index| connection.download.rejected(now.mono, *index)) {
            self.release(id, &[index]);
        }
    }

    /// Hands the taking side of a connection to `change`, if there is one.
    pub(crate) fn with_download(&mut self, id: StreamId, change: impl FnOnce(&mut Download)) {
        if let Some(connection) = self.connections.get_mut(&id) {
            change(&mut connection.download);
        }
    }

    /// Tells the peer whether we want something of it, when that changed.
    //= spec/swarm.md#51-piece-picker
    pub(crate) fn update_interest(&mut self, cx: &mut Context, now: Instant, id: StreamId) {
        let active = self.phase == Phase::Active;
        let wanted = active && self.picker.as_ref().is_some_and(|picker| picker.wanted(id) > 0);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match (connection.download.interested, wanted) {
            (false, true) => {
                connection.download.interested = true;
                connection.download.bored_since = None;
                connection.send(cx, &Message::Interested);
            }
            (true, true) => connection.download.bored_since = None,
            (true, false) => {
                connection.download.bored_since.get_or_insert(now);
            }
            (false, false) => {}
        }
    }

    /// The timers of the taking side.
    pub(crate) fn tick_download(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let crowded = self.connections.len() * 4 > cx.config.max_connections_per_torrent * 3;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.download.tick(now.mono);
        if connection.download.bored_since.is_some_and(|since| now.mono.since(since) >= BORED) {
            connection.download.bored_since = None;
            connection.download.interested = false;
            connection.send(cx, &Message::NotInterested);
        }
        if connection.download.times_out(now.mono) {
            let given_up = connection.download.give_up();
            self.take_back(cx, id, &given_up);
            self.release(id, &given_up);
            if let Some(picker) = &mut self.picker {
                picker.disown(id);
            }
            self.refill_all(cx, now);
        }
        let stalled =
            self.connections.get(&id).is_some_and(|connection| connection.download.is_stalled(now.mono));
        if stalled && crowded {
            return self.close(cx, now, id, CloseReason::Stalled);
        }
        self.refill(cx, now, id);
    }

    /// Requests that waited too long are asked of others now: a peer that is slow, or has no room for us yet, must
    /// not send them as well when its turn comes.
    fn take_back(&mut self, cx: &mut Context, id: StreamId, blocks: &[BlockIndex]) {
        let (Some(geometry), Some(connection)) = (self.geometry, self.connections.get_mut(&id)) else {
            return;
        };
        for index in blocks {
            let (piece, begin, len) = (index.piece, index.begin(), geometry.block_len(*index));
            connection.send(cx, &Message::Cancel(BlockRequest { piece, begin, len }));
        }
    }

    fn release(&mut self, id: StreamId, blocks: &[BlockIndex]) {
        if let Some(picker) = &mut self.picker {
            blocks.iter().for_each(|index| picker.release(id, *index));
        }
    }
}

/// How many more blocks may be asked for before too many are unverified.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
fn room(cx: &Context) -> usize {
    let left = MAX_UNVERIFIED_BYTES.saturating_sub(cx.unverified_bytes) / u64::from(BLOCK_LEN);
    usize::try_from(left).unwrap_or(usize::MAX)
}
