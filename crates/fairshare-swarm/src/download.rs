//! The taking side of one connection: which requests are open, how deep the queue should be, and when a peer is
//! too slow. The torrent moves blocks between this and the picker.
//= spec/swarm.md#52-request-pipeline

use crate::geometry::{BLOCK_LEN, BlockIndex};
use crate::rate::{Interval, Rate};
use fairshare_wire::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Queue depth at the start, and the least later.
const QUEUE_MIN: usize = 8;
/// Queue depth at the most.
const QUEUE_MAX: usize = 2_000;
/// What a peer that does not say takes: the figure that living clients assume.
const DEFAULT_REQQ: usize = 250;
/// Horizon of the queue in milliseconds, and the shorter one for near peers.
const HORIZON_MS: u64 = 3_000;
const HORIZON_NEAR_MS: u64 = 1_500;
const NEAR: Duration = Duration::from_millis(10);
/// Shortest time after which a silent peer counts as snubbed.
const TIMEOUT_MIN: Duration = Duration::from_secs(10);
/// Without payload for so long although requested, the peer may lose its connection.
pub(crate) const STALL: Duration = Duration::from_secs(60);
/// Requests remembered after they were given up, whose blocks may still come: as many as can be open.
const MAX_LATE: usize = QUEUE_MAX;
/// After so many rejects in one piece by a peer that unchokes us, the piece is not asked of it for a while.
//= spec/swarm.md#3-message-framing-and-core-messages
const MAX_REJECTS: u8 = 3;
const AVOID: Duration = Duration::from_secs(60);
/// Pieces avoided at once; a peer that rejects more is not asked at all until the first of them is forgotten.
const MAX_AVOIDED: usize = 64;
/// Suggestions remembered.
const MAX_SUGGESTED: usize = 16;
/// Allowed-fast pieces remembered: the set has ten, some clients send a few more.
const MAX_ALLOWED_FAST: usize = 32;

/// How a block came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It was requested.
    Open,
    /// It was requested, then given up or cancelled.
    Late,
    /// It never was.
    Never,
}

/// The taking side of a connection.
#[derive(Debug)]
pub(crate) struct Download {
    /// Whether the peer chokes us.
    pub(crate) choked: bool,
    /// Whether we told the peer that we are interested.
    pub(crate) interested: bool,
    /// Since when nothing of the peer's is wanted, while it still thinks so.
    pub(crate) bored_since: Option<Instant>,
    /// Payload received.
    pub(crate) rate: Rate,
    /// Whether the peer answers too slowly.
    pub(crate) snubbed: bool,
    /// Pieces that may be requested while choked.
    pub(crate) allowed_fast: Vec<u32>,
    /// Pieces the peer suggested.
    pub(crate) suggested: Vec<u32>,
    /// Blocks that came without having been requested.
    pub(crate) unasked: u32,
    requests: VecDeque<(BlockIndex, Instant)>,
    late: VecDeque<BlockIndex>,
    rejected: BTreeMap<u32, (u8, Instant)>,
    interval: Interval,
    window: usize,
    slow_start: bool,
    second: Instant,
    second_bytes: u64,
    previous_bytes: u64,
    /// When a block last arrived, or the first request of an empty queue was made.
    progress_at: Instant,
    round_trip: Option<Duration>,
    reqq: usize,
}

impl Download {
    /// Choked, not interested, nothing requested.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            choked: true,
            interested: false,
            bored_since: None,
            rate: Rate::new(now),
            snubbed: false,
            allowed_fast: Vec::new(),
            suggested: Vec::new(),
            unasked: 0,
            requests: VecDeque::new(),
            late: VecDeque::new(),
            rejected: BTreeMap::new(),
            interval: Interval::default(),
            window: QUEUE_MIN,
            slow_start: true,
            second: now,
            second_bytes: 0,
            previous_bytes: 0,
            progress_at: now,
            round_trip: None,
            reqq: DEFAULT_REQQ,
        }
    }

    /// The peer told how many requests it queues.
    pub(crate) fn set_reqq(&mut self, reqq: usize) {
        self.reqq = reqq.clamp(1, QUEUE_MAX);
    }

    /// How many blocks should be requested now: 0 while the queue is full enough. Requests are made in batches, so
    /// that a fast stream does not cost a write per block.
    pub(crate) fn wanted(&self, now: Instant) -> usize {
        let target = self.target(now);
        let missing = target.saturating_sub(self.requests.len());
        let batch = (target / 16).max(1);
        if missing >= batch || self.requests.is_empty() { missing } else { 0 }
    }

    /// The queue depth to keep.
    //= spec/swarm.md#52-request-pipeline
    fn target(&self, now: Instant) -> usize {
        if self.snubbed {
            return 1;
        }
        let most = self.reqq.min(QUEUE_MAX);
        if self.slow_start {
            return self.window.min(most);
        }
        let near = self.round_trip.is_some_and(|round_trip| round_trip < NEAR);
        let horizon = if near { HORIZON_NEAR_MS } else { HORIZON_MS };
        let blocks = self.rate.current(now).saturating_mul(horizon).div_ceil(1000 * u64::from(BLOCK_LEN));
        let blocks = usize::try_from(blocks).unwrap_or(QUEUE_MAX);
        // A peer that queues fewer than the minimum is not asked for more than it takes.
        blocks.saturating_add(4).clamp(QUEUE_MIN.min(most), most)
    }

    /// Blocks were requested.
    pub(crate) fn requested(&mut self, now: Instant, blocks: &[BlockIndex]) {
        if self.requests.is_empty() {
            self.progress_at = now;
            self.interval.pause();
        }
        self.requests.extend(blocks.iter().map(|block| (*block, now)));
    }

    /// A block arrived: whether and how it was asked for. The request is used up.
    pub(crate) fn arrived(&mut self, now: Instant, index: BlockIndex, len: u64) -> Asked {
        self.rate.add(now, len);
        if let Some(at) = self.requests.iter().position(|(open, _)| *open == index) {
            let since = self.requests.remove(at).map_or(now, |(_, since)| since);
            self.measure(now, since, len);
            return Asked::Open;
        }
        if let Some(at) = self.late.iter().position(|late| *late == index) {
            self.late.remove(at);
            self.progress_at = now;
            self.snubbed = false;
            return Asked::Late;
        }
        self.unasked = self.unasked.saturating_add(1);
        Asked::Never
    }

    /// The peer will not send this block. Tells whether it was asked for.
    pub(crate) fn rejected(&mut self, now: Instant, index: BlockIndex) -> bool {
        let Some(at) = self.requests.iter().position(|(open, _)| *open == index) else {
            self.late.retain(|late| *late != index);
            return false;
        };
        self.requests.remove(at);
        if !self.choked && (self.rejected.len() < MAX_AVOIDED || self.rejected.contains_key(&index.piece)) {
            let entry = self.rejected.entry(index.piece).or_insert((0, now));
            *entry = (entry.0.saturating_add(1), now);
        }
        true
    }

    /// Another peer sent this block first. Tells whether it was asked for here.
    pub(crate) fn cancelled(&mut self, index: BlockIndex) -> bool {
        let Some(at) = self.requests.iter().position(|(open, _)| *open == index) else { return false };
        self.requests.remove(at);
        self.remember_late(index);
        true
    }

    /// Gives up all open requests; their blocks are still taken if they come.
    pub(crate) fn give_up(&mut self) -> Vec<BlockIndex> {
        let given_up: Vec<BlockIndex> = self.requests.drain(..).map(|(index, _)| index).collect();
        given_up.iter().for_each(|index| self.remember_late(*index));
        given_up
    }

    /// Whether requests have been waiting for too long; the peer is snubbed from now on if so.
    pub(crate) fn times_out(&mut self, now: Instant) -> bool {
        let patience = TIMEOUT_MIN.max(self.interval.mean() * 4);
        let late = !self.requests.is_empty() && now.since(self.progress_at) >= patience;
        self.snubbed |= late;
        late
    }

    /// Whether the peer, asked and unchoking, has sent nothing for a minute.
    pub(crate) fn is_stalled(&self, now: Instant) -> bool {
        self.snubbed && !self.choked && now.since(self.progress_at) >= STALL
    }

    /// Once a second or less often: ends the slow start when the rate no longer grows, forgets old rejects.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.rejected.retain(|_, (_, at)| now.since(*at) < AVOID);
        if now.since(self.second) < Duration::from_secs(1) {
            return;
        }
        let grew = u128::from(self.second_bytes) * 10 > u128::from(self.previous_bytes) * 11;
        if self.slow_start && self.previous_bytes > 0 && !grew {
            self.slow_start = false;
        }
        (self.second, self.previous_bytes, self.second_bytes) = (now, self.second_bytes, 0);
    }

    /// Pieces that the peer is not asked for now, or `None` if it is not asked for anything.
    pub(crate) fn avoided(&self) -> Option<Vec<u32>> {
        if self.rejected.len() >= MAX_AVOIDED {
            return None;
        }
        let tired = self.rejected.iter().filter(|(_, (count, _))| *count >= MAX_REJECTS);
        Some(tired.map(|(piece, _)| *piece).collect())
    }

    /// The peer suggested a piece.
    pub(crate) fn suggest(&mut self, piece: u32) {
        if !self.suggested.contains(&piece) {
            if self.suggested.len() >= MAX_SUGGESTED {
                self.suggested.remove(0);
            }
            self.suggested.push(piece);
        }
    }

    /// The peer allows a piece to be requested while choked.
    pub(crate) fn allow_fast(&mut self, piece: u32) {
        if self.allowed_fast.len() < MAX_ALLOWED_FAST && !self.allowed_fast.contains(&piece) {
            self.allowed_fast.push(piece);
        }
    }

    /// Number of open requests.
    pub(crate) fn outstanding(&self) -> usize {
        self.requests.len()
    }

    fn measure(&mut self, now: Instant, since: Instant, len: u64) {
        self.progress_at = now;
        self.snubbed = false;
        self.interval.mark(now);
        self.second_bytes = self.second_bytes.saturating_add(len);
        let waited = now.since(since);
        self.round_trip = Some(self.round_trip.map_or(waited, |least| least.min(waited)));
        if self.slow_start {
            self.window = (self.window + 1).min(QUEUE_MAX);
        }
    }

    fn remember_late(&mut self, index: BlockIndex) {
        if self.late.len() >= MAX_LATE {
            self.late.pop_front();
        }
        self.late.push_back(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn block(number: u32) -> BlockIndex {
        BlockIndex { piece: number / 16, block: number % 16 }
    }

    //= spec/swarm.md#52-request-pipeline
    #[test]
    fn the_slow_start_reaches_the_limit_of_the_peer_quickly() {
        let mut download = Download::new(at(0));
        download.set_reqq(512);
        let (mut next, mut first) = (0, 0);
        for round in 0..10 {
            let count = download.wanted(at(round)) as u32;
            let blocks: Vec<_> = (next..next + count).map(block).collect();
            next += count;
            download.requested(at(round), &blocks);
            while first < next {
                assert_eq!(download.arrived(at(round + 1), block(first), 16_384), Asked::Open);
                first += 1;
            }
        }
        assert_eq!(download.wanted(at(20)), 512);
    }

    //= spec/swarm.md#52-request-pipeline
    #[test]
    fn after_the_slow_start_the_queue_covers_three_seconds() {
        let mut download = Download::new(at(0));
        download.set_reqq(2000);
        // One block each 100 ms with a round trip of 50 ms: 160 KiB/s.
        for step in 0..100 {
            download.requested(at(step * 100), &[block(step as u32)]);
            download.arrived(at(step * 100 + 50), block(step as u32), 16_384);
            download.tick(at(step * 100 + 50));
        }
        let target = download.wanted(at(10_000));
        assert!((30..=40).contains(&target), "{target}");
    }

    //= spec/swarm.md#52-request-pipeline
    #[test]
    fn a_silent_peer_is_snubbed_and_its_late_block_still_taken() {
        let mut download = Download::new(at(0));
        download.requested(at(0), &[block(0), block(1)]);
        assert!(!download.times_out(at(9_999)));
        assert!(download.times_out(at(10_000)));
        assert_eq!(download.give_up(), [block(0), block(1)]);
        assert_eq!(download.wanted(at(10_000)), 1);
        assert_eq!(download.arrived(at(11_000), block(1), 16_384), Asked::Late);
        assert!(!download.snubbed);
        assert_eq!(download.arrived(at(11_000), block(1), 16_384), Asked::Never);
    }

    //= spec/swarm.md#3-message-framing-and-core-messages
    #[test]
    fn three_rejects_make_a_piece_avoided_for_a_minute() {
        let mut download = Download::new(at(0));
        download.choked = false;
        for _ in 0..3 {
            assert_eq!(download.avoided(), Some(Vec::new()));
            download.requested(at(0), &[block(0)]);
            assert!(download.rejected(at(0), block(0)));
        }
        assert_eq!(download.avoided(), Some(vec![0]));
        download.tick(at(60_000));
        assert_eq!(download.avoided(), Some(Vec::new()));
        assert!(!download.rejected(at(0), block(0)), "nothing was open");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut download = Download::new(at(0));
        for number in 0..10_000 {
            download.requested(at(0), &[block(number)]);
            download.cancelled(block(number));
            download.suggest(number);
            download.allow_fast(number);
        }
        assert_eq!((download.late.len(), download.suggested.len()), (MAX_LATE, MAX_SUGGESTED));
        assert_eq!(download.allowed_fast.len(), MAX_ALLOWED_FAST);
    }
}
