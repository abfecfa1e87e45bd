//! The piece picker: which blocks a peer is asked for next. Open pieces first, then random pieces until four are
//! complete, then the rarest; at the end the last blocks are asked for twice.
//!
//! The picker knows peers by their stream and sees neither messages nor clocks. Blocks stay here until their
//! piece is complete; then the torrent takes them out, has them hashed and tells the result.
//= spec/swarm.md#51-piece-picker

use crate::StreamId;
use crate::bitfield::Bitfield;
use crate::geometry::{BLOCK_LEN, BlockIndex, Geometry};
use crate::open_piece::{Arrival, Contributor, OpenPiece};
use crate::rarity::RarityOrder;
use bytes::Bytes;
use fairshare_crypto::Rng;
use fairshare_wire::Instant;
use indexmap::IndexMap;
use std::collections::{BTreeMap, BTreeSet};

/// While fewer pieces than this are complete, new pieces are chosen at random: rare ones come slowly, and a first
/// piece of any kind is something to trade.
const RANDOM_FIRST: u32 = 4;
/// A peer this many times slower than the others of a piece leaves that piece alone.
const SLOW_FACTOR: u64 = 4;
/// Open pieces with free blocks beyond 1.5 per unchoking peer.
const OPEN_SPARE: usize = 8;
/// Partial pieces that only one peer contributed to: a peer that scatters its blocks gets no new piece.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const MAX_SOLE_PARTIAL: u32 = 4;
/// Duplicate requests in flight in the endgame.
//= spec/swarm.md#53-endgame
const MAX_DUPLICATES: usize = 32;
/// A peer with this many own requests in flight is not given duplicates: it is busy with what only it was asked.
const ENDGAME_QUEUE: usize = 8;
/// Waste allowed in the endgame: the greater of this and 1/200 of the torrent.
const ENDGAME_WASTE: u64 = 2 << 20;

/// What the picker has to know about a peer at the moment of picking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile<'a> {
    /// Bytes per second that it sends.
    pub(crate) rate: u64,
    /// Requests that it has to answer already.
    pub(crate) outstanding: usize,
    /// Peers that unchoke us, this one included.
    pub(crate) unchoking: usize,
    /// When it chokes us: the only pieces that it may be asked for.
    pub(crate) only: Option<&'a [u32]>,
    /// Pieces it suggested.
    pub(crate) suggested: &'a [u32],
    /// Pieces it is not asked for now.
    pub(crate) avoided: &'a [u32],
}

/// The result of hashing a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The piece is held. Senders with their bytes, and those whose blocks of an earlier try differ.
    Verified {
        /// Verified bytes per sender.
        shares: Vec<(StreamId, u64)>,
        /// Senders of blocks that were wrong in the try before.
        guilty: Vec<StreamId>,
    },
    /// The hash was wrong and all blocks came from one peer.
    SoleSource(StreamId),
    /// The hash was wrong; the next try goes to one peer alone.
    Unclear,
    /// No such piece was being hashed.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PieceState {
    Free,
    Open,
    Storing,
    Held,
}

/// What one peer has.
#[derive(Debug)]
struct PeerPieces {
    /// `None`: everything. A seed costs nothing per piece.
    have: Option<Bitfield>,
    /// Pieces it has that are free.
    free: u32,
    /// Pieces it has that we lack.
    wanted: u32,
    /// Partial pieces that only it contributed to.
    sole: u32,
}

/// The blocks of a failed try: sender and hash of each.
type FailedTry = Vec<(StreamId, [u8; 32])>;

/// The picker of one torrent.
#[derive(Debug)]
pub(crate) struct Picker {
    geometry: Geometry,
    rng: Rng,
    state: Vec<PieceState>,
    held: Bitfield,
    order: RarityOrder,
    open: BTreeMap<u32, OpenPiece>,
    /// Open pieces with free blocks.
    partial: BTreeSet<u32>,
    storing: BTreeMap<u32, Vec<(StreamId, Bytes)>>,
    failed: BTreeMap<u32, FailedTry>,
    peers: IndexMap<StreamId, PeerPieces>,
    duplicates: usize,
    endgame_waste: u64,
    memory: u64,
    /// Requests in flight, duplicates counted.
    requested: usize,
}

/// Which open pieces a peer may add to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Those whose other peers are not much faster, while there are free pieces to begin.
    Suits,
    /// All of them: when no new piece can be begun, a slow block is better than none. Without this, pieces that fast
    /// peers left unfinished would wait for ever once all peers are slow.
    Any,
}

impl Picker {
    /// A picker that holds the pieces of `held` and wants all others.
    pub(crate) fn new(geometry: Geometry, mut rng: Rng) -> Self {
        let pieces = geometry.pieces();
        Self {
            order: RarityOrder::new(pieces, &mut rng),
            state: vec![PieceState::Free; pieces as usize],
            held: Bitfield::new(pieces),
            geometry,
            rng,
            open: BTreeMap::new(),
            partial: BTreeSet::new(),
            storing: BTreeMap::new(),
            failed: BTreeMap::new(),
            peers: IndexMap::new(),
            duplicates: 0,
            endgame_waste: 0,
            memory: 0,
            requested: 0,
        }
    }

    /// Marks the pieces of `held` as held: what the disk had when the torrent was opened.
    pub(crate) fn hold(&mut self, held: &Bitfield) {
        for piece in held.iter() {
            if self.state[piece as usize] == PieceState::Free {
                self.leave_free(piece);
                self.mark_held(piece);
            }
        }
    }

    /// A new peer that has nothing yet.
    pub(crate) fn add_peer(&mut self, peer: StreamId) {
        let have = Some(Bitfield::new(self.geometry.pieces()));
        self.peers.insert(peer, PeerPieces { have, free: 0, wanted: 0, sole: 0 });
    }

    /// The peer is gone. Its requests were released before.
    pub(crate) fn remove_peer(&mut self, peer: StreamId) {
        self.disown(peer);
        let Some(gone) = self.peers.shift_remove(&peer) else { return };
        let Some(have) = gone.have else { return };
        for piece in have.iter() {
            self.order.lost(piece, &mut self.rng);
        }
    }

    /// The peer has one more piece.
    pub(crate) fn peer_has(&mut self, peer: StreamId, piece: u32) {
        let state = self.state.get(piece as usize).copied();
        let (Some(state), Some(entry)) = (state, self.peers.get_mut(&peer)) else { return };
        let Some(have) = entry.have.as_mut().filter(|have| !have.get(piece)) else { return };
        have.set(piece);
        entry.free += u32::from(state == PieceState::Free);
        entry.wanted += u32::from(state != PieceState::Held);
        let complete = have.count() == self.geometry.pieces();
        self.order.gained(piece, &mut self.rng);
        if complete {
            self.peer_has_all(peer);
        }
    }

    /// The peer told what it has; `have` has one bit per piece.
    pub(crate) fn peer_bitfield(&mut self, peer: StreamId, have: &Bitfield) {
        if have.count() == self.geometry.pieces() {
            self.peer_has_all(peer);
            return;
        }
        for piece in have.iter() {
            self.peer_has(peer, piece);
        }
    }

    /// The peer is a seed.
    pub(crate) fn peer_has_all(&mut self, peer: StreamId) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        let Some(have) = entry.have.take() else { return };
        for piece in have.iter() {
            self.order.lost(piece, &mut self.rng);
        }
    }

    /// The peer has a piece no longer.
    pub(crate) fn peer_lost(&mut self, peer: StreamId, piece: u32) {
        if !self.peer_holds(peer, piece) {
            return;
        }
        let state = self.state[piece as usize];
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        if let Some(have) = &mut entry.have {
            have.unset(piece);
            entry.free -= u32::from(state == PieceState::Free);
            entry.wanted -= u32::from(state != PieceState::Held);
            self.order.lost(piece, &mut self.rng);
            return;
        }
        // A seed is one no more: from now on its pieces are counted one by one.
        let mut have = Bitfield::full(self.geometry.pieces());
        have.unset(piece);
        entry.have = Some(Bitfield::new(self.geometry.pieces()));
        (entry.free, entry.wanted) = (0, 0);
        self.peer_bitfield(peer, &have);
    }

    /// Up to `count` blocks to request from `peer` now, appended to `out`.
    pub(crate) fn pick(
        &mut self,
        now: Instant,
        peer: StreamId,
        profile: &Profile<'_>,
        count: usize,
        out: &mut Vec<BlockIndex>,
    ) {
        let target = out.len() + count;
        if let Some(allowed) = profile.only {
            self.pick_listed(now, peer, profile, allowed, target, out);
            return;
        }
        self.pick_open(now, peer, profile, Pace::Suits, target, out);
        if out.len() < target && self.may_open(peer, profile) {
            self.pick_listed(now, peer, profile, profile.suggested, target, out);
        }
        while out.len() < target && self.may_open(peer, profile) {
            let Some(piece) = self.choose_new(peer, profile) else { break };
            self.open_piece(peer, piece);
            self.take_from(now, peer, profile, piece, target, out);
        }
        if out.len() < target {
            self.pick_open(now, peer, profile, Pace::Any, target, out);
        }
        if out.len() < target && profile.outstanding < ENDGAME_QUEUE {
            self.pick_endgame(peer, profile, target, out);
        }
    }

    /// The peer is no longer asked for this block: rejected, timed out, choked or gone.
    pub(crate) fn release(&mut self, peer: StreamId, index: BlockIndex) {
        let Some(piece) = self.open.get_mut(&index.piece) else { return };
        let left = piece.release(peer, index.block);
        self.requested -= usize::from(left.is_some());
        match left {
            Some(0) => {
                self.partial.insert(index.piece);
                if piece.is_untouched() {
                    self.close_piece(index.piece);
                }
            }
            Some(_) => self.duplicates -= 1,
            None => {}
        }
    }

    /// The peer is too slow to keep pieces for itself: those it owns in exclusive mode begin anew elsewhere.
    pub(crate) fn disown(&mut self, peer: StreamId) {
        let owned = |(piece, open): (&u32, &OpenPiece)| (open.owner == Some(peer)).then_some(*piece);
        let pieces: Vec<u32> = self.open.iter().filter_map(owned).collect();
        for piece in pieces {
            self.close_piece(piece);
        }
    }

    /// A block arrived that `peer` was asked for, now or earlier.
    pub(crate) fn receive(&mut self, peer: StreamId, index: BlockIndex, data: Bytes) -> Arrival {
        let len = data.len() as u64;
        if self.state.get(index.piece as usize) == Some(&PieceState::Free) {
            // A late block of a piece whose other requests were all given up.
            self.open_piece(peer, index.piece);
        }
        let Some(piece) = self.open.get_mut(&index.piece) else { return Arrival::Duplicate };
        if piece.owner.is_some_and(|owner| owner != peer) {
            return Arrival::Duplicate;
        }
        let before = piece.contributor();
        let holders = piece.holders(index.block);
        self.requested -= holders;
        self.duplicates -= holders.saturating_sub(1);
        let arrival = piece.receive(peer, index.block, data);
        if arrival == Arrival::Duplicate {
            return arrival;
        }
        self.memory += len;
        if piece.free() == 0 {
            self.partial.remove(&index.piece);
        }
        let after = if piece.is_complete() { Contributor::Nobody } else { piece.contributor() };
        self.count_sole(before, after);
        arrival
    }

    /// Payload that was asked for twice in the endgame arrived twice.
    pub(crate) fn wasted(&mut self, bytes: u64) {
        self.endgame_waste = self.endgame_waste.saturating_add(bytes);
    }

    /// The blocks of `piece`, when all have arrived, to be hashed and stored.
    pub(crate) fn take_complete(&mut self, piece: u32) -> Option<Vec<Bytes>> {
        if !self.open.get(&piece)?.is_complete() {
            return None;
        }
        let blocks = self.open.remove(&piece)?.into_blocks();
        let data = blocks.iter().map(|(_, data)| data.clone()).collect();
        self.state[piece as usize] = PieceState::Storing;
        self.storing.insert(piece, blocks);
        Some(data)
    }

    /// The piece was hashed, and written if it was right.
    pub(crate) fn stored(&mut self, piece: u32, right: bool) -> Outcome {
        let Some(blocks) = self.storing.remove(&piece) else { return Outcome::Unknown };
        self.memory -= blocks.iter().map(|(_, data)| data.len() as u64).sum::<u64>();
        if right {
            self.mark_held(piece);
            let guilty =
                self.failed.remove(&piece).map_or_else(Vec::new, |failed| differing(&failed, &blocks));
            return Outcome::Verified { shares: shares(&blocks), guilty };
        }
        self.enter_free(piece);
        let first = blocks.first().map(|(from, _)| *from);
        if let Some(sole) = first.filter(|first| blocks.iter().all(|(from, _)| from == first)) {
            return Outcome::SoleSource(sole);
        }
        let digests = blocks.iter().map(|(from, data)| (*from, fairshare_crypto::sha256(data)));
        self.failed.insert(piece, digests.collect());
        Outcome::Unclear
    }

    /// The host could not store a piece: its blocks are wanted again.
    pub(crate) fn store_failed(&mut self, piece: u32) {
        let Some(blocks) = self.storing.remove(&piece) else { return };
        self.memory -= blocks.iter().map(|(_, data)| data.len() as u64).sum::<u64>();
        self.enter_free(piece);
    }

    /// The pieces held.
    pub(crate) const fn held(&self) -> &Bitfield {
        &self.held
    }

    /// Whether every piece is held.
    pub(crate) fn is_complete(&self) -> bool {
        self.held.count() == self.geometry.pieces()
    }

    /// Whether `piece` is held.
    pub(crate) fn holds(&self, piece: u32) -> bool {
        self.state.get(piece as usize) == Some(&PieceState::Held)
    }

    /// Number of pieces that the peer has and we lack.
    pub(crate) fn wanted(&self, peer: StreamId) -> u32 {
        self.peers.get(&peer).map_or(0, |entry| match entry.have {
            Some(_) => entry.wanted,
            None => self.geometry.pieces() - self.held.count(),
        })
    }

    /// Whether the peer has `piece`.
    pub(crate) fn peer_holds(&self, peer: StreamId, piece: u32) -> bool {
        let in_range = piece < self.geometry.pieces();
        in_range && self.peers.get(&peer).is_some_and(|entry| has(entry, piece))
    }

    /// Whether the peer has every piece.
    pub(crate) fn is_seed(&self, peer: StreamId) -> bool {
        self.peers.get(&peer).is_some_and(|entry| entry.have.is_none())
    }

    /// How many pieces the peer has.
    pub(crate) fn peer_count(&self, peer: StreamId) -> u32 {
        let count =
            |entry: &PeerPieces| entry.have.as_ref().map_or_else(|| self.geometry.pieces(), Bitfield::count);
        self.peers.get(&peer).map_or(0, count)
    }

    /// Bytes of blocks that are here or asked for, and whose pieces are not verified yet.
    pub(crate) const fn unverified_bytes(&self) -> u64 {
        self.memory + self.requested as u64 * BLOCK_LEN as u64
    }

    /// Whether all wanted blocks are received or requested.
    fn is_endgame(&self) -> bool {
        self.order.pieces().is_empty() && self.partial.is_empty()
    }

    fn pick_listed(
        &mut self,
        now: Instant,
        peer: StreamId,
        profile: &Profile<'_>,
        listed: &[u32],
        target: usize,
        out: &mut Vec<BlockIndex>,
    ) {
        for piece in listed {
            if out.len() >= target {
                return;
            }
            if !self.peer_holds(peer, *piece) || profile.avoided.contains(piece) {
                continue;
            }
            if self.state[*piece as usize] == PieceState::Free {
                self.open_piece(peer, *piece);
            }
            self.take_from(now, peer, profile, *piece, target, out);
        }
    }

    /// Free blocks of open pieces, the most complete piece first.
    fn pick_open(
        &mut self,
        now: Instant,
        peer: StreamId,
        profile: &Profile<'_>,
        pace: Pace,
        target: usize,
        out: &mut Vec<BlockIndex>,
    ) {
        let Some(entry) = self.peers.get(&peer) else { return };
        let has_choice = pace == Pace::Suits && self.free_pieces(entry) > 0;
        let mut candidates = Vec::new();
        for number in &self.partial {
            let Some(piece) = self.open.get(number) else { continue };
            let slow = has_choice && profile.rate.saturating_mul(SLOW_FACTOR) < piece.best_rate;
            let foreign = piece.owner.is_some_and(|owner| owner != peer);
            if has(entry, *number) && !slow && !foreign && !profile.avoided.contains(number) {
                candidates.push((std::cmp::Reverse(piece.progress()), *number));
            }
        }
        candidates.sort_unstable();
        for (_, piece) in candidates {
            if out.len() >= target {
                return;
            }
            self.take_from(now, peer, profile, piece, target, out);
        }
    }

    /// Takes free blocks of an open piece until `out` has `target` entries.
    fn take_from(
        &mut self,
        now: Instant,
        peer: StreamId,
        profile: &Profile<'_>,
        number: u32,
        target: usize,
        out: &mut Vec<BlockIndex>,
    ) {
        let Some(piece) = self.open.get_mut(&number) else { return };
        if piece.owner.is_some_and(|owner| owner != peer) {
            return;
        }
        let room = target.saturating_sub(out.len());
        let taken = piece.take_free(now, peer, room, |block| out.push(BlockIndex { piece: number, block }));
        self.requested += taken;
        if taken > 0 {
            piece.best_rate = piece.best_rate.max(profile.rate);
        }
        if piece.free() == 0 {
            self.partial.remove(&number);
        }
    }

    fn may_open(&self, peer: StreamId, profile: &Profile<'_>) -> bool {
        let limit = profile.unchoking.saturating_mul(3) / 2 + OPEN_SPARE;
        let scattered = self.peers.get(&peer).is_none_or(|entry| entry.sole >= MAX_SOLE_PARTIAL);
        !scattered && self.partial.len() < limit
    }

    /// A free piece that the peer has: random at first, then the rarest.
    fn choose_new(&mut self, peer: StreamId, profile: &Profile<'_>) -> Option<u32> {
        let entry = self.peers.get(&peer)?;
        if self.free_pieces(entry) == 0 {
            return None;
        }
        let pieces = self.order.pieces();
        let start = if self.held.count() < RANDOM_FIRST { self.rng.index(pieces.len())? } else { 0 };
        let (before, after) = pieces.split_at(start);
        let suits = |piece: &&u32| has(entry, **piece) && !profile.avoided.contains(piece);
        after.iter().chain(before).find(suits).copied()
    }

    fn pick_endgame(
        &mut self,
        peer: StreamId,
        profile: &Profile<'_>,
        target: usize,
        out: &mut Vec<BlockIndex>,
    ) {
        if !self.is_endgame() || self.endgame_room() == 0 {
            return;
        }
        let Some(entry) = self.peers.get(&peer) else { return };
        let mut candidates = Vec::new();
        for (number, piece) in &self.open {
            if piece.owner.is_none() && has(entry, *number) && !profile.avoided.contains(number) {
                let index = |(since, block)| (since, BlockIndex { piece: *number, block });
                candidates.extend(piece.shareable(peer).map(index));
            }
        }
        candidates.sort_unstable();
        let count = target.saturating_sub(out.len()).min(self.endgame_room());
        for (_, index) in candidates.into_iter().take(count) {
            if self.open.get_mut(&index.piece).is_some_and(|piece| piece.share(peer, index.block)) {
                self.duplicates += 1;
                self.requested += 1;
                out.push(index);
            }
        }
    }

    /// How many more duplicate requests may be made now.
    fn endgame_room(&self) -> usize {
        let allowed = ENDGAME_WASTE.max(self.geometry.total / 200);
        let in_flight = self.duplicates as u64 * u64::from(BLOCK_LEN);
        let left = allowed.saturating_sub(self.endgame_waste).saturating_sub(in_flight);
        let blocks = usize::try_from(left / u64::from(BLOCK_LEN)).unwrap_or(usize::MAX);
        MAX_DUPLICATES.saturating_sub(self.duplicates).min(blocks)
    }

    fn open_piece(&mut self, peer: StreamId, piece: u32) {
        self.leave_free(piece);
        self.state[piece as usize] = PieceState::Open;
        let owner = self.failed.contains_key(&piece).then_some(peer);
        self.open.insert(piece, OpenPiece::new(self.geometry.blocks(piece), owner));
        self.partial.insert(piece);
    }

    /// Drops what is here of an open piece and makes it free again.
    fn close_piece(&mut self, number: u32) {
        let Some(piece) = self.open.remove(&number) else { return };
        self.partial.remove(&number);
        self.memory -= piece.held_bytes();
        self.requested -= piece.requested();
        self.count_sole(piece.contributor(), Contributor::Nobody);
        self.enter_free(number);
    }

    fn enter_free(&mut self, piece: u32) {
        self.state[piece as usize] = PieceState::Free;
        self.order.insert(piece, &mut self.rng);
        for entry in self.peers.values_mut() {
            entry.free += u32::from(entry.have.is_some() && has(entry, piece));
        }
    }

    fn leave_free(&mut self, piece: u32) {
        self.order.remove(piece);
        for entry in self.peers.values_mut() {
            entry.free -= u32::from(entry.have.is_some() && has(entry, piece));
        }
    }

    fn mark_held(&mut self, piece: u32) {
        self.state[piece as usize] = PieceState::Held;
        self.held.set(piece);
        for entry in self.peers.values_mut() {
            entry.wanted -= u32::from(entry.have.is_some() && has(entry, piece));
        }
    }

    fn count_sole(&mut self, before: Contributor, after: Contributor) {
        if before == after {
            return;
        }
        if let Contributor::One(peer) = before
            && let Some(entry) = self.peers.get_mut(&peer)
        {
            entry.sole = entry.sole.saturating_sub(1);
        }
        if let Contributor::One(peer) = after
            && let Some(entry) = self.peers.get_mut(&peer)
        {
            entry.sole += 1;
        }
    }

    /// Free pieces that the peer has.
    fn free_pieces(&self, entry: &PeerPieces) -> u32 {
        if entry.have.is_some() { entry.free } else { self.order.pieces().len() as u32 }
    }
}

fn has(entry: &PeerPieces, piece: u32) -> bool {
    entry.have.as_ref().is_none_or(|have| have.get(piece))
}

/// Bytes per sender.
fn shares(blocks: &[(StreamId, Bytes)]) -> Vec<(StreamId, u64)> {
    let mut shares: Vec<(StreamId, u64)> = Vec::new();
    for (from, data) in blocks {
        match shares.iter_mut().find(|(id, _)| id == from) {
            Some((_, bytes)) => *bytes += data.len() as u64,
            None => shares.push((*from, data.len() as u64)),
        }
    }
    shares
}

/// Senders whose blocks of the failed try differ from the right ones.
//= spec/swarm.md#56-verification-and-blame
fn differing(failed: &FailedTry, right: &[(StreamId, Bytes)]) -> Vec<StreamId> {
    let mut guilty = Vec::new();
    for ((from, digest), (_, data)) in failed.iter().zip(right) {
        if *digest != fairshare_crypto::sha256(data) && !guilty.contains(from) {
            guilty.push(*from);
        }
    }
    guilty
}

#[cfg(test)]
mod tests;
