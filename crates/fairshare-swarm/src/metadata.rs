//! Fetching the description of a magnet's torrent from peers, piece by piece.
//!
//! Peers may lie about its size or send rubbish, and only the whole can be verified. So the size that most peers
//! claim is tried first; when the whole turns out wrong, it is fetched again from a single peer, another each
//! time.
//= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions

use crate::event::StreamId;
use crate::extension::{METADATA_PIECE_LEN, metadata_piece_count};
use crate::metainfo::MAX_METADATA_LEN;
use bytes::Bytes;
use fairshare_wire::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Peers asked at once, and requests open with each.
const PARALLEL_PEERS: usize = 3;
const PIPELINE: usize = 2;
/// A request without answer is made elsewhere after this.
const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that rejected or did not answer is left alone for this long.
const PAUSE: Duration = Duration::from_secs(30);

/// A fetch under way.
#[derive(Debug, Default)]
pub(crate) struct MetadataFetch {
    /// The size that each peer claims.
    offers: BTreeMap<StreamId, u32>,
    /// Peers that are left alone for a while.
    paused: BTreeMap<StreamId, Instant>,
    /// The size that is being fetched; 0 = none chosen.
    size: u32,
    pieces: Vec<Option<(StreamId, Bytes)>>,
    open: BTreeMap<(StreamId, u32), Instant>,
    /// After a failure: the only peer that is asked.
    sole: Option<StreamId>,
    /// Whether an attempt has failed: from then on one peer at a time.
    failed: bool,
    /// Peers whose whole was wrong.
    liars: BTreeSet<StreamId>,
}

impl MetadataFetch {
    /// A peer says how long the metadata is.
    pub(crate) fn offer(&mut self, peer: StreamId, size: u32) {
        if size > 0 && size <= MAX_METADATA_LEN {
            self.offers.insert(peer, size);
        }
    }

    /// The peer is gone.
    pub(crate) fn remove_peer(&mut self, peer: StreamId) {
        self.offers.remove(&peer);
        self.paused.remove(&peer);
        self.liars.remove(&peer);
        self.open.retain(|(id, _), _| *id != peer);
        if self.sole == Some(peer) {
            self.restart();
        }
    }

    /// The requests to make now: peer and piece.
    pub(crate) fn requests(&mut self, now: Instant) -> Vec<(StreamId, u32)> {
        self.expire(now);
        if self.size == 0 {
            self.choose();
        }
        let mut requests = Vec::new();
        for peer in self.sources() {
            let mut open = self.open.keys().filter(|(id, _)| *id == peer).count();
            while open < PIPELINE {
                let Some(piece) = self.next_piece() else { return requests };
                self.open.insert((peer, piece), now);
                requests.push((peer, piece));
                open += 1;
            }
        }
        requests
    }

    /// A piece arrived. Returns the whole when it was the last one.
    pub(crate) fn data(&mut self, peer: StreamId, piece: u32, data: Bytes) -> Option<Bytes> {
        self.open.remove(&(peer, piece))?;
        if data.len() != self.piece_len(piece) as usize {
            self.liars.insert(peer);
            return None;
        }
        let slot = self.pieces.get_mut(piece as usize)?;
        slot.get_or_insert((peer, data));
        let parts: Option<Vec<&Bytes>> =
            self.pieces.iter().map(|part| part.as_ref().map(|(_, data)| data)).collect();
        parts.map(|parts| parts.into_iter().flatten().copied().collect::<Vec<u8>>().into())
    }

    /// The peer will not send a piece.
    pub(crate) fn rejected(&mut self, now: Instant, peer: StreamId, piece: u32) {
        if self.open.remove(&(peer, piece)).is_some() {
            self.pause(now, peer);
        }
    }

    /// The whole was wrong. Returns the peer to blame, if only one sent it.
    pub(crate) fn wrong(&mut self) -> Option<StreamId> {
        let senders: BTreeSet<StreamId> = self.pieces.iter().flatten().map(|(from, _)| *from).collect();
        let sole = senders.first().copied().filter(|_| senders.len() == 1);
        self.liars.extend(sole);
        self.failed = true;
        self.restart();
        sole
    }

    fn restart(&mut self) {
        self.size = 0;
        self.sole = None;
        self.pieces.clear();
        self.open.clear();
    }

    fn pause(&mut self, now: Instant, peer: StreamId) {
        self.paused.insert(peer, now + PAUSE);
        self.open.retain(|(id, _), _| *id != peer);
        if self.sole == Some(peer) {
            self.restart();
        }
    }

    fn expire(&mut self, now: Instant) {
        self.paused.retain(|_, until| *until > now);
        let expired =
            |(key, since): (&(StreamId, u32), &Instant)| (now.since(*since) >= PATIENCE).then_some(key.0);
        let silent: Vec<StreamId> = self.open.iter().filter_map(expired).collect();
        for peer in silent {
            self.pause(now, peer);
        }
    }

    /// Chooses the size to fetch: the one that most peers claim, or after a failure that of one peer.
    fn choose(&mut self) {
        let usable = self.offers.iter().filter(|(peer, _)| self.is_usable(peer));
        if self.failed {
            let Some((peer, size)) = usable.min_by_key(|(peer, _)| **peer) else { return };
            (self.sole, self.size) = (Some(*peer), *size);
        } else {
            let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
            usable.for_each(|(_, size)| *votes.entry(*size).or_default() += 1);
            let Some((size, _)) = votes.into_iter().max_by_key(|(_, votes)| *votes) else { return };
            self.size = size;
        }
        self.pieces = vec![None; metadata_piece_count(self.size) as usize];
    }

    /// The peers to ask: those with requests open first, then others, up to the limit.
    fn sources(&self) -> Vec<StreamId> {
        if let Some(sole) = self.sole {
            return vec![sole];
        }
        let offering = self.offers.iter().filter(|(peer, size)| **size == self.size && self.is_usable(peer));
        let mut peers: Vec<StreamId> = offering.map(|(peer, _)| *peer).collect();
        peers.sort_by_key(|peer| !self.open.keys().any(|(id, _)| id == peer));
        peers.truncate(PARALLEL_PEERS);
        peers
    }

    fn is_usable(&self, peer: &StreamId) -> bool {
        !self.paused.contains_key(peer) && !self.liars.contains(peer)
    }

    fn next_piece(&self) -> Option<u32> {
        let wanted = |(number, piece): (usize, &Option<_>)| {
            let number = number as u32;
            let open = self.open.keys().any(|(_, open)| *open == number);
            (piece.is_none() && !open).then_some(number)
        };
        self.pieces.iter().enumerate().find_map(wanted)
    }

    fn piece_len(&self, piece: u32) -> u32 {
        self.size.saturating_sub(piece.saturating_mul(METADATA_PIECE_LEN)).min(METADATA_PIECE_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(size: u32) -> Vec<u8> {
        (0..size).map(|byte| (byte % 251) as u8).collect()
    }

    fn part(whole: &[u8], piece: u32) -> Bytes {
        let start = (piece * METADATA_PIECE_LEN) as usize;
        Bytes::copy_from_slice(&whole[start..(start + METADATA_PIECE_LEN as usize).min(whole.len())])
    }

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    #[test]
    fn three_peers_are_asked_for_different_pieces_two_at_a_time() {
        let mut fetch = MetadataFetch::default();
        let bytes = whole(200_000);
        for peer in 1..=5 {
            fetch.offer(StreamId(peer), 200_000);
        }
        let mut requests = fetch.requests(Instant::START);
        assert_eq!(requests.len(), 6);
        let mut got = None;
        while let Some((peer, piece)) = requests.pop() {
            got = fetch.data(peer, piece, part(&bytes, piece));
            requests.extend(fetch.requests(Instant::START));
        }
        assert_eq!(got.as_deref(), Some(bytes.as_slice()));
    }

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    #[test]
    fn after_a_wrong_whole_one_peer_at_a_time_is_asked() {
        let mut fetch = MetadataFetch::default();
        for peer in 1..=3 {
            fetch.offer(StreamId(peer), 40_000);
        }
        let bytes = whole(40_000);
        for (peer, piece) in fetch.requests(Instant::START) {
            fetch.data(peer, piece, part(&bytes, piece));
        }
        assert_eq!(fetch.wrong(), None, "several sent it");
        for expected in 1..=3 {
            let mut requests = fetch.requests(Instant::START);
            assert!(requests.iter().all(|(peer, _)| *peer == StreamId(expected)), "{requests:?}");
            let mut got = None;
            while let Some((peer, piece)) = requests.pop() {
                got = fetch.data(peer, piece, part(&bytes, piece));
                requests.extend(fetch.requests(Instant::START));
            }
            assert!(got.is_some());
            assert_eq!(fetch.wrong(), Some(StreamId(expected)));
        }
        assert_eq!(fetch.requests(Instant::START), []);
    }

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    #[test]
    fn the_size_of_the_majority_is_fetched() {
        let mut fetch = MetadataFetch::default();
        fetch.offer(StreamId(1), 99);
        fetch.offer(StreamId(2), 50_000);
        fetch.offer(StreamId(3), 50_000);
        fetch.offer(StreamId(4), u32::MAX);
        let requests = fetch.requests(Instant::START);
        assert!(requests.iter().all(|(peer, _)| [StreamId(2), StreamId(3)].contains(peer)), "{requests:?}");
    }

    #[test]
    fn a_silent_or_unwilling_peer_is_replaced() {
        let mut fetch = MetadataFetch::default();
        fetch.offer(StreamId(1), 100);
        assert_eq!(fetch.requests(Instant::START), [(StreamId(1), 0)]);
        fetch.offer(StreamId(2), 100);
        assert_eq!(fetch.requests(Instant::START), []);
        let later = Instant::START + PATIENCE;
        assert_eq!(fetch.requests(later), [(StreamId(2), 0)]);
        fetch.rejected(later, StreamId(2), 0);
        assert_eq!(fetch.requests(later), []);
        assert_eq!(fetch.requests(later + PAUSE), [(StreamId(1), 0)]);
        assert_eq!(fetch.data(StreamId(1), 0, Bytes::from_static(&[1])), None, "a piece of the wrong length");
    }
}
