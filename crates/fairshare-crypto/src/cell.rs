//! The encryption of one layer of a cell: ChaCha20-Poly1305 with an explicit counter in front.
//!
//! Counters belong to whoever holds the key; this module only turns them into nonces.
//= spec/tunnels.md#4-encryption-of-a-layer

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use std::fmt;

/// Bytes of the counter in front of a layer.
pub const COUNTER_LEN: usize = 8;
/// Bytes of the authenticator behind a layer.
pub const TAG_LEN: usize = 16;
/// What one layer adds to a message.
pub const LAYER_OVERHEAD: usize = COUNTER_LEN + TAG_LEN;

/// The key of one direction of one hop. It cannot be copied: two owners would count nonces apart.
pub struct CellKey {
    key: LessSafeKey,
    salt: [u8; 4],
}

/// A layer that was opened.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// The counter that the sender chose.
    pub n: u64,
    /// The authenticator, which names the layer for a replay filter.
    pub tag: [u8; TAG_LEN],
    /// What was inside.
    pub plain: &'a mut [u8],
}

impl CellKey {
    /// A key with the salt that its nonces begin with.
    pub fn new(key: &[u8; 32], salt: [u8; 4]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the length is right by type");
        Self { key: LessSafeKey::new(key), salt }
    }

    /// Encrypts in place: the message is all of `buf` behind `start + COUNTER_LEN`; the counter is written at `start`
    /// and the authenticator appended. A counter must never be used twice with one key.
    ///
    /// # Panics
    /// `buf` is shorter than `start + COUNTER_LEN`.
    pub fn seal(&self, n: u64, buf: &mut Vec<u8>, start: usize) {
        let counter = n.to_be_bytes();
        let (head, message) = buf.split_at_mut(start + COUNTER_LEN);
        head[start..].copy_from_slice(&counter);
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(counter), Aad::empty(), message)
            .expect("a datagram is far below what one nonce may encrypt");
        buf.extend_from_slice(tag.as_ref());
    }

    /// Decrypts in place; `None` if `buf` is too short or was changed.
    pub fn open<'a>(&self, buf: &'a mut [u8]) -> Option<Opened<'a>> {
        let (counter, sealed) = buf.split_first_chunk_mut::<COUNTER_LEN>()?;
        let counter = *counter;
        let tag = *sealed.last_chunk::<TAG_LEN>()?;
        let plain = self.key.open_in_place(self.nonce(counter), Aad::empty(), sealed).ok()?;
        Some(Opened { n: u64::from_be_bytes(counter), tag, plain })
    }

    fn nonce(&self, counter: [u8; COUNTER_LEN]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&counter);
        Nonce::assume_unique_for_key(nonce)
    }
}

impl fmt::Debug for CellKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CellKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_comes_off_as_it_was_put_on() {
        let key = CellKey::new(&[7; 32], [1, 2, 3, 4]);
        let mut buf = vec![0xaa; 5];
        buf.extend_from_slice(&[0; COUNTER_LEN]);
        buf.extend_from_slice(b"message");
        key.seal(9, &mut buf, 5);
        assert_eq!((buf.len(), &buf[..5]), (5 + 7 + LAYER_OVERHEAD, [0xaa; 5].as_slice()));
        let opened = key.open(&mut buf[5..]).expect("as it was sealed");
        assert_eq!((opened.n, &*opened.plain), (9, b"message".as_slice()));
    }

    #[test]
    fn a_changed_or_short_layer_does_not_open() {
        let key = CellKey::new(&[7; 32], [0; 4]);
        let mut sealed = vec![0; COUNTER_LEN];
        key.seal(1, &mut sealed, 0);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(&mut changed), None);
        }
        for len in 0..sealed.len() {
            assert_eq!(key.open(&mut sealed.clone()[..len]), None);
        }
        assert!(CellKey::new(&[7; 32], [1; 4]).open(&mut sealed.clone()).is_none());
        assert!(key.open(&mut sealed).is_some());
    }
}
