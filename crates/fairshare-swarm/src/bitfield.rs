//! Which pieces somebody has, as the peer wire writes it: one bit per piece, the first piece in the highest bit.

use thiserror::Error;

const WORD_BITS: u32 = u64::BITS;

/// Why received bytes are no bitfield of a torrent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BitfieldError {
    /// Not exactly one bit per piece, filled up to whole bytes.
    #[error("a bitfield of {bits} pieces has {} bytes, not {got}", bits.div_ceil(8))]
    Length {
        /// Pieces of the torrent.
        bits: u32,
        /// Bytes that came.
        got: usize,
    },
    /// A bit behind the last piece is set.
    #[error("a spare bit behind the last piece is set")]
    SpareBits,
}

/// A set of pieces. Asking about a piece that does not exist says no; setting one has no effect.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    /// Piece `i` is bit `63 - i % 64` of word `i / 64`; bits behind the last piece are zero.
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl Bitfield {
    /// `len` pieces, none of them in the set.
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(WORD_BITS) as usize], len, count: 0 }
    }

    /// `len` pieces, all of them in the set.
    pub fn full(len: u32) -> Self {
        let mut words = vec![u64::MAX; len.div_ceil(WORD_BITS) as usize];
        let used = len % WORD_BITS;
        if used > 0
            && let Some(last) = words.last_mut()
        {
            *last <<= WORD_BITS - used;
        }
        Self { words, len, count: len }
    }

    /// Reads the payload of a bitfield message of a torrent of `len` pieces.
    //= spec/swarm.md#2-handshake-bep-3
    pub fn from_bytes(len: u32, bytes: &[u8]) -> Result<Self, BitfieldError> {
        if bytes.len() != len.div_ceil(8) as usize {
            return Err(BitfieldError::Length { bits: len, got: bytes.len() });
        }
        let words: Vec<u64> = bytes.chunks(8).map(word_of).collect();
        let field = Self { count: words.iter().map(|word| word.count_ones()).sum(), words, len };
        let used = len % WORD_BITS;
        let spare = if used == 0 { 0 } else { u64::MAX >> used };
        match field.words.last() {
            Some(last) if last & spare != 0 => Err(BitfieldError::SpareBits),
            _ => Ok(field),
        }
    }

    /// The payload of a bitfield message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.truncate(self.len.div_ceil(8) as usize);
        bytes
    }

    /// Puts a piece into the set; tells whether it was not there before.
    pub fn set(&mut self, piece: u32) -> bool {
        let changes = piece < self.len && !self.get(piece);
        if changes {
            self.words[(piece / WORD_BITS) as usize] |= mask(piece);
            self.count += 1;
        }
        changes
    }

    /// Takes a piece out of the set; tells whether it was there before.
    pub fn unset(&mut self, piece: u32) -> bool {
        let changes = self.get(piece);
        if changes {
            self.words[(piece / WORD_BITS) as usize] &= !mask(piece);
            self.count -= 1;
        }
        changes
    }

    /// Whether a piece is in the set.
    pub fn get(&self, piece: u32) -> bool {
        self.words.get((piece / WORD_BITS) as usize).is_some_and(|word| word & mask(piece) != 0)
    }

    /// Pieces of the torrent.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether the torrent has no pieces at all.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Pieces in the set.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether every piece is in the set.
    pub const fn all(&self) -> bool {
        self.count == self.len
    }

    /// Whether no piece is in the set.
    pub const fn none(&self) -> bool {
        self.count == 0
    }

    /// The pieces in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words
            .iter()
            .zip(0..)
            .flat_map(|(word, number)| Ones(*word).map(move |bit| number * WORD_BITS + bit))
    }

    /// The pieces in this set that are not in `other`, ascending.
    pub fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let theirs = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter().zip(theirs).zip(0..).flat_map(|((ours, theirs), number)| {
            Ones(ours & !theirs).map(move |bit| number * WORD_BITS + bit)
        })
    }
}

impl std::fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitfield({} of {})", self.count, self.len)
    }
}

/// The set bits of a word, from the highest.
struct Ones(u64);

impl Iterator for Ones {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let bit = self.0.leading_zeros();
        self.0 &= !mask(bit);
        (bit < WORD_BITS).then_some(bit)
    }
}

const fn mask(piece: u32) -> u64 {
    (1 << (WORD_BITS - 1)) >> (piece % WORD_BITS)
}

fn word_of(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_piece_is_the_highest_bit() {
        let mut field = Bitfield::new(10);
        assert!(field.set(0) && field.set(9) && !field.set(9) && !field.set(10));
        assert_eq!(field.to_bytes(), [0x80, 0x40]);
        assert!(field.unset(0) && !field.unset(0) && !field.unset(10));
        assert_eq!((field.count(), field.none(), field.all()), (1, false, false));
        assert!(!field.get(u32::MAX));
    }

    //= spec/swarm.md#2-handshake-bep-3
    #[test]
    fn spare_bits_and_wrong_lengths_are_refused() {
        assert_eq!(Bitfield::from_bytes(9, &[0xff, 0xc0]), Err(BitfieldError::SpareBits));
        assert_eq!(Bitfield::from_bytes(9, &[0xff]), Err(BitfieldError::Length { bits: 9, got: 1 }));
        assert_eq!(Bitfield::from_bytes(9, &[0xff, 0x80, 0]), Err(BitfieldError::Length { bits: 9, got: 3 }));
        assert_eq!(Bitfield::from_bytes(9, &[0xff, 0x80]), Ok(Bitfield::full(9)));
    }

    proptest! {
        #[test]
        fn a_bitfield_is_the_set_it_was_filled_with(
            len in 0u32..300,
            pieces in proptest::collection::btree_set(0u32..300, 0..100),
            others in proptest::collection::btree_set(0u32..300, 0..100),
        ) {
            let filled = |pieces: &std::collections::BTreeSet<u32>| {
                let mut field = Bitfield::new(len);
                pieces.iter().for_each(|piece| { field.set(*piece); });
                field
            };
            let (field, other) = (filled(&pieces), filled(&others));
            let expected: Vec<u32> = pieces.iter().copied().filter(|piece| *piece < len).collect();
            prop_assert_eq!(field.iter().collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(field.count() as usize, expected.len());
            prop_assert_eq!(Bitfield::from_bytes(len, &field.to_bytes()), Ok(field.clone()));
            let rest: Vec<u32> = expected.into_iter().filter(|piece| !others.contains(piece)).collect();
            prop_assert_eq!(field.difference(&other).collect::<Vec<_>>(), rest);
            prop_assert!(Bitfield::full(len).all());
            prop_assert_eq!(Bitfield::full(len).iter().count(), len as usize);
        }

        #[test]
        fn any_bytes_are_read_or_refused(len in 0u32..200, bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            if let Ok(field) = Bitfield::from_bytes(len, &bytes) {
                prop_assert_eq!(field.to_bytes(), bytes);
                prop_assert!(field.count() <= len);
            }
        }
    }
}
