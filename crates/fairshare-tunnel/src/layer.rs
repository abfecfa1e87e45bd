//! The layers of one hop as each end holds them: keys, and the counters that must never repeat.
//= spec/tunnels.md#4-encryption-of-a-layer

use crate::handshake::HopKeys;
use crate::replay::{ReplayWindow, Seen};
use fairshare_crypto::{CellKey, Opened, Rng};

/// Counters begin at random between these, far above those of living peers, which begin at 2 with the same keys.
const COUNTER_MIN: u64 = 1 << 32;
const COUNTER_SPAN: u64 = (1 << 62) - COUNTER_MIN;
/// Counters of the candidates that a responder encrypts in the originator's direction lie above this.
const CANDIDATES_MIN: u64 = 1 << 63;

/// A key with the counter of whoever seals with it.
#[derive(Debug)]
pub struct Sealer {
    key: CellKey,
    next: u64,
}

impl Sealer {
    /// Begins at a random counter.
    pub fn new(key: CellKey, rng: &mut Rng) -> Self {
        Self { key, next: COUNTER_MIN + rng.below(COUNTER_SPAN) }
    }

    /// Begins at a given counter: for vectors.
    pub const fn starting_at(key: CellKey, next: u64) -> Self {
        Self { key, next }
    }

    /// Seals in place, see [`CellKey::seal`].
    pub fn seal(&mut self, buf: &mut Vec<u8>, start: usize) {
        self.key.seal(self.next, buf, start);
        // From below 2^62 on: the sun burns out before this overflows.
        self.next += 1;
    }

    /// The counter of the next seal.
    pub const fn next(&self) -> u64 {
        self.next
    }
}

/// A key with the memory of whoever opens with it.
#[derive(Debug)]
pub struct Opener {
    key: CellKey,
    window: ReplayWindow,
}

/// Why a layer did not come off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// It was changed, or is of another key.
    Undecryptable,
    /// It came before.
    Replayed,
    /// Its counter came too often.
    Exhausted,
}

impl Opener {
    /// Nothing seen yet.
    pub fn new(key: CellKey) -> Self {
        Self { key, window: ReplayWindow::default() }
    }

    /// Opens in place; each layer once.
    ///
    /// # Errors
    /// It does not open, or came before.
    pub fn open<'a>(&mut self, buf: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let Opened { n, tag, plain } = self.key.open(buf).ok_or(OpenError::Undecryptable)?;
        match self.window.check(n, &tag) {
            Seen::New => Ok(plain),
            Seen::Replayed => Err(OpenError::Replayed),
            Seen::Exhausted => Err(OpenError::Exhausted),
        }
    }
}

/// The originator's end of a hop: seals forward, opens backward.
#[derive(Debug)]
pub struct OriginatorLayer {
    forward: Sealer,
    backward: Opener,
}

impl OriginatorLayer {
    /// With counters of its own, which are kept however many hops are added.
    pub fn new(keys: HopKeys, rng: &mut Rng) -> Self {
        Self { forward: Sealer::new(keys.forward, rng), backward: Opener::new(keys.backward) }
    }

    /// Puts this hop's layer on.
    pub fn seal(&mut self, buf: &mut Vec<u8>, start: usize) {
        self.forward.seal(buf, start);
    }

    /// Takes this hop's layer off.
    ///
    /// # Errors
    /// It does not open, or came before.
    pub fn open<'a>(&mut self, buf: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        self.backward.open(buf)
    }

    /// Reads the candidates that came with the hop's half of the exchange.
    pub fn open_candidates<'a>(&self, buf: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.forward.key.open(buf).map(|opened| opened.plain)
    }
}

/// A hop's own end: opens forward, seals backward.
#[derive(Debug)]
pub struct HopLayer {
    forward: Opener,
    backward: Sealer,
}

impl HopLayer {
    /// With a counter of its own.
    pub fn new(keys: HopKeys, rng: &mut Rng) -> Self {
        Self { forward: Opener::new(keys.forward), backward: Sealer::new(keys.backward, rng) }
    }

    /// Takes the layer off that the originator put on.
    ///
    /// # Errors
    /// It does not open, or came before.
    pub fn open<'a>(&mut self, buf: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        self.forward.open(buf)
    }

    /// Puts our layer on, towards the originator.
    pub fn seal(&mut self, buf: &mut Vec<u8>, start: usize) {
        self.backward.seal(buf, start);
    }

    /// Seals the candidates, in the originator's direction as living peers do, with a counter that no originator uses.
    pub fn seal_candidates(&self, rng: &mut Rng, candidates: &[u8]) -> Vec<u8> {
        let mut buf = vec![0; fairshare_crypto::COUNTER_LEN];
        buf.extend_from_slice(candidates);
        self.forward.key.seal(CANDIDATES_MIN | rng.next_u64(), &mut buf, 0);
        buf
    }
}

/// The innermost layer of a hidden service, between both ends.
#[derive(Debug)]
pub struct EndToEnd {
    send: Sealer,
    receive: Opener,
}

impl EndToEnd {
    /// The seeder's end: it seals forward.
    pub fn seeder(keys: HopKeys, rng: &mut Rng) -> Self {
        Self { send: Sealer::new(keys.forward, rng), receive: Opener::new(keys.backward) }
    }

    /// The downloader's end: it seals backward.
    pub fn downloader(keys: HopKeys, rng: &mut Rng) -> Self {
        Self { send: Sealer::new(keys.backward, rng), receive: Opener::new(keys.forward) }
    }

    /// Puts the layer on.
    pub fn seal(&mut self, buf: &mut Vec<u8>, start: usize) {
        self.send.seal(buf, start);
    }

    /// Takes it off.
    ///
    /// # Errors
    /// It does not open, or came before.
    pub fn open<'a>(&mut self, buf: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        self.receive.open(buf)
    }

    /// Seals the rendezvous information, in the seeder's direction, before the layer carries anything.
    pub fn seal_once(&mut self, message: &[u8]) -> Vec<u8> {
        let mut buf = vec![0; fairshare_crypto::COUNTER_LEN];
        buf.extend_from_slice(message);
        self.send.seal(&mut buf, 0);
        buf
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::hop_keys;
    use fairshare_crypto::COUNTER_LEN;

    fn ends() -> (OriginatorLayer, HopLayer) {
        let mut rng = Rng::from_seed([1; 32]);
        (OriginatorLayer::new(hop_keys(&[7; 64]), &mut rng), HopLayer::new(hop_keys(&[7; 64]), &mut rng))
    }

    fn message(text: &[u8]) -> Vec<u8> {
        [[0; COUNTER_LEN].as_slice(), text].concat()
    }

    #[test]
    fn each_end_opens_what_the_other_sealed_once() {
        let (mut originator, mut hop) = ends();
        let mut cell = message(b"out");
        originator.seal(&mut cell, 0);
        let mut again = cell.clone();
        assert_eq!(hop.open(&mut cell), Ok(b"out".to_vec().as_mut_slice()));
        assert_eq!(hop.open(&mut again), Err(OpenError::Replayed));
        let mut cell = message(b"back");
        hop.seal(&mut cell, 0);
        assert_eq!(originator.open(&mut cell), Ok(b"back".to_vec().as_mut_slice()));
    }

    //= spec/tunnels.md#4-encryption-of-a-layer
    #[test]
    fn candidates_and_cells_never_share_a_counter() {
        let (mut originator, hop) = ends();
        let mut rng = Rng::from_seed([2; 32]);
        let mut sealed = hop.seal_candidates(&mut rng, b"list");
        let counter = u64::from_be_bytes(sealed[..8].try_into().expect("8 bytes"));
        assert!(counter >= CANDIDATES_MIN && originator.forward.next() < 1 << 62);
        assert_eq!(originator.open_candidates(&mut sealed), Some(b"list".to_vec().as_mut_slice()));
        let first = originator.forward.next();
        originator.seal(&mut message(b""), 0);
        assert_eq!(originator.forward.next(), first + 1);
    }
}
