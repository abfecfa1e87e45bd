//! How a torrent is cut into pieces and blocks.

/// Bytes of a block, the unit of requests; the last block of the torrent may be shorter.
pub const BLOCK_LEN: u32 = 16_384;

/// A block, named by its piece and its number inside the piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockIndex {
    /// Index of the piece.
    pub(crate) piece: u32,
    /// Number of the block inside the piece.
    pub(crate) block: u32,
}

impl BlockIndex {
    /// Where the block begins inside its piece.
    pub(crate) const fn begin(self) -> u32 {
        self.block.saturating_mul(BLOCK_LEN)
    }
}

/// The sizes of a torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of every piece but the last.
    pub(crate) piece_len: u32,
    /// Bytes of all pieces.
    pub(crate) total: u64,
}

impl Geometry {
    /// Number of pieces.
    pub(crate) fn pieces(&self) -> u32 {
        let pieces = self.total.div_ceil(u64::from(self.piece_len));
        u32::try_from(pieces).expect("the metainfo bounds the number of pieces")
    }

    /// Bytes of `piece`.
    pub(crate) fn piece_len(&self, piece: u32) -> u32 {
        let start = u64::from(piece) * u64::from(self.piece_len);
        let left = self.total.saturating_sub(start);
        u32::try_from(left).map_or(self.piece_len, |left| left.min(self.piece_len))
    }

    /// Number of blocks of `piece`.
    pub(crate) fn blocks(&self, piece: u32) -> u32 {
        self.piece_len(piece).div_ceil(BLOCK_LEN)
    }

    /// Bytes of a block.
    pub(crate) fn block_len(&self, index: BlockIndex) -> u32 {
        self.piece_len(index.piece).saturating_sub(index.begin()).min(BLOCK_LEN)
    }

    /// The block that begins at `begin` of `piece` and has `len` bytes, if there is exactly such a block.
    pub(crate) fn block_at(&self, piece: u32, begin: u32, len: u32) -> Option<BlockIndex> {
        let index = BlockIndex { piece, block: begin / BLOCK_LEN };
        let exact = piece < self.pieces()
            && begin.is_multiple_of(BLOCK_LEN)
            && begin < self.piece_len(piece)
            && len == self.block_len(index);
        exact.then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_and_block_are_short() {
        let geometry = Geometry { piece_len: 32_768, total: 32_768 + 16_384 + 5 };
        assert_eq!(geometry.pieces(), 2);
        assert_eq!(
            (geometry.piece_len(0), geometry.piece_len(1), geometry.piece_len(2)),
            (32_768, 16_389, 0)
        );
        assert_eq!((geometry.blocks(0), geometry.blocks(1)), (2, 2));
        assert_eq!(geometry.block_len(BlockIndex { piece: 1, block: 1 }), 5);
        assert_eq!(geometry.block_at(1, 16_384, 5), Some(BlockIndex { piece: 1, block: 1 }));
        assert_eq!(geometry.block_at(1, 16_384, 6), None);
        assert_eq!(geometry.block_at(0, 1, 16_384), None);
        assert_eq!(geometry.block_at(2, 0, 0), None);
        assert_eq!(geometry.block_at(u32::MAX, u32::MAX, u32::MAX), None);
    }
}
