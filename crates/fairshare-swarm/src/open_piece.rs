//! A piece that is being downloaded: which of its blocks are free, requested or received, and from whom.

use crate::StreamId;
use bytes::Bytes;
use fairshare_wire::Instant;

/// A block is requested from at most this many peers at once, in the endgame.
//= spec/swarm.md#53-endgame
pub(crate) const MAX_HOLDERS: usize = 3;

/// The peers that a block is requested from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    ids: [Option<StreamId>; MAX_HOLDERS],
}

impl Holders {
    /// The peers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.ids.iter().flatten().copied()
    }

    /// How many peers there are.
    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }

    fn contains(&self, peer: StreamId) -> bool {
        self.iter().any(|id| id == peer)
    }

    fn add(&mut self, peer: StreamId) -> bool {
        let room = self.ids.iter_mut().find(|id| id.is_none());
        room.map(|slot| *slot = Some(peer)).is_some()
    }

    fn remove(&mut self, peer: StreamId) -> bool {
        let slot = self.ids.iter_mut().find(|id| **id == Some(peer));
        slot.map(|slot| *slot = None).is_some()
    }
}

#[derive(Clone, Debug)]
enum BlockState {
    Free,
    Requested { holders: Holders, since: Instant },
    Received { from: StreamId, data: Bytes },
}

/// Who sent the blocks that are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contributor {
    /// No block has arrived.
    Nobody,
    /// All of them came from one peer.
    One(StreamId),
    /// They came from several.
    Several,
}

/// What became of a block that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It was here already.
    Duplicate,
    /// It was needed; these other peers were asked for it too.
    Needed(Holders),
}

/// A piece with at least one block requested or received.
#[derive(Clone, Debug)]
pub(crate) struct OpenPiece {
    blocks: Vec<BlockState>,
    free: u32,
    /// No block before this one is free: large pieces are not searched from their start each time.
    first_free: usize,
    received: u32,
    contributor: Contributor,
    /// The best rate of the peers that were asked for blocks, bytes/s.
    pub(crate) best_rate: u64,
    /// The only peer that may be asked, while the piece is in exclusive mode.
    pub(crate) owner: Option<StreamId>,
}

impl OpenPiece {
    /// A piece of `blocks` free blocks.
    pub(crate) fn new(blocks: u32, owner: Option<StreamId>) -> Self {
        Self {
            blocks: vec![BlockState::Free; blocks as usize],
            free: blocks,
            first_free: 0,
            received: 0,
            contributor: Contributor::Nobody,
            best_rate: 0,
            owner,
        }
    }

    /// Number of blocks that nobody was asked for.
    pub(crate) const fn free(&self) -> u32 {
        self.free
    }

    /// Number of blocks that are not free.
    pub(crate) fn progress(&self) -> u32 {
        self.blocks.len() as u32 - self.free
    }

    /// Whether every block has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        self.received as usize == self.blocks.len()
    }

    /// Whether no block is requested or received.
    pub(crate) fn is_untouched(&self) -> bool {
        self.free as usize == self.blocks.len()
    }

    /// Who sent what is here.
    pub(crate) const fn contributor(&self) -> Contributor {
        self.contributor
    }

    /// Marks up to `count` free blocks as requested from `peer` and calls `taken` with the number of each.
    pub(crate) fn take_free(
        &mut self,
        now: Instant,
        peer: StreamId,
        count: usize,
        mut taken: impl FnMut(u32),
    ) -> usize {
        let mut left = count.min(self.free as usize);
        let wanted = left;
        for (number, block) in self.blocks.iter_mut().enumerate().skip(self.first_free) {
            if left == 0 {
                break;
            }
            self.first_free = number + 1;
            if matches!(block, BlockState::Free) {
                let mut holders = Holders::default();
                holders.add(peer);
                *block = BlockState::Requested { holders, since: now };
                self.free -= 1;
                left -= 1;
                taken(number as u32);
            }
        }
        wanted - left
    }

    /// Requested blocks that `peer` could be asked for as well, with the time of their first request.
    pub(crate) fn shareable(&self, peer: StreamId) -> impl Iterator<Item = (Instant, u32)> + '_ {
        self.blocks.iter().enumerate().filter_map(move |(number, block)| match block {
            BlockState::Requested { holders, since }
                if holders.len() < MAX_HOLDERS && !holders.contains(peer) =>
            {
                Some((*since, number as u32))
            }
            _ => None,
        })
    }

    /// Asks one more peer for a requested block.
    pub(crate) fn share(&mut self, peer: StreamId, block: u32) -> bool {
        match self.blocks.get_mut(block as usize) {
            Some(BlockState::Requested { holders, .. }) if !holders.contains(peer) => holders.add(peer),
            _ => false,
        }
    }

    /// `peer` is no longer asked for `block`. Tells how many peers still are, if it was.
    pub(crate) fn release(&mut self, peer: StreamId, block: u32) -> Option<usize> {
        let state = self.blocks.get_mut(block as usize)?;
        let BlockState::Requested { holders, .. } = state else { return None };
        if !holders.remove(peer) {
            return None;
        }
        let left = holders.len();
        if left == 0 {
            *state = BlockState::Free;
            self.free += 1;
            self.first_free = self.first_free.min(block as usize);
        }
        Some(left)
    }

    /// A block arrived from a peer that was asked for it, now or earlier.
    pub(crate) fn receive(&mut self, from: StreamId, block: u32, data: Bytes) -> Arrival {
        let Some(state) = self.blocks.get_mut(block as usize) else { return Arrival::Duplicate };
        let mut others = match state {
            BlockState::Received { .. } => return Arrival::Duplicate,
            BlockState::Requested { holders, .. } => *holders,
            BlockState::Free => {
                self.free -= 1;
                Holders::default()
            }
        };
        others.remove(from);
        *state = BlockState::Received { from, data };
        self.received += 1;
        self.contributor = match self.contributor {
            Contributor::Nobody => Contributor::One(from),
            Contributor::One(first) if first == from => Contributor::One(first),
            _ => Contributor::Several,
        };
        Arrival::Needed(others)
    }

    /// How many peers are asked for `block`.
    pub(crate) fn holders(&self, block: u32) -> usize {
        match self.blocks.get(block as usize) {
            Some(BlockState::Requested { holders, .. }) => holders.len(),
            _ => 0,
        }
    }

    /// Requests in flight, duplicates counted.
    pub(crate) fn requested(&self) -> usize {
        (0..self.blocks.len() as u32).map(|block| self.holders(block)).sum()
    }

    /// Bytes held in received blocks.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.blocks
            .iter()
            .map(|block| if let BlockState::Received { data, .. } = block { data.len() as u64 } else { 0 })
            .sum()
    }

    /// Takes the blocks of a complete piece apart.
    pub(crate) fn into_blocks(self) -> Vec<(StreamId, Bytes)> {
        let received = |block| match block {
            BlockState::Received { from, data } => Some((from, data)),
            _ => None,
        };
        self.blocks.into_iter().filter_map(received).collect()
    }
}
