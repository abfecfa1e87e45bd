//! The seeded generator. Every engine owns one, forked by name from the node's seed; only the host asks the
//! operating system for entropy.

use crate::hash::sha256;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};

/// A deterministic, cryptographically strong generator.
#[derive(Clone, Debug)]
pub struct Rng {
    seed: [u8; 32],
    stream: ChaCha12Rng,
}

impl Rng {
    /// A generator whose output depends on nothing but `seed`.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed, stream: ChaCha12Rng::from_seed(seed) }
    }

    /// An independent generator for the part called `name`. It depends on the seed and the name alone, not on
    /// what was drawn before.
    pub fn fork(&self, name: &str) -> Self {
        let mut input = self.seed.to_vec();
        input.extend_from_slice(name.as_bytes());
        Self::from_seed(sha256(&input))
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// Fills `out` with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        self.stream.fill_bytes(out);
    }

    /// A random `u64`.
    pub fn next_u64(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// A random `u16`.
    pub fn next_u16(&mut self) -> u16 {
        (self.next_u64() >> 48) as u16
    }

    /// Uniform in `0..bound`; `bound` must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing lies below 0");
        // Lemire's multiplication, rejecting the few values that would bias the result.
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(bound);
            if wide as u64 >= threshold {
                return (wide >> 64) as u64;
            }
        }
    }

    /// Uniform index into something of `len` entries; `None` if there are none.
    pub fn index(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.below(len as u64) as usize)
    }

    /// True with probability `numerator / denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_depend_on_seed_and_name_only() {
        let mut a = Rng::from_seed([1; 32]);
        let before = a.fork("choker").next_u64();
        a.next_u64();
        assert_eq!(a.fork("choker").next_u64(), before);
        assert_ne!(a.fork("picker").next_u64(), before);
    }

    #[test]
    fn below_stays_below() {
        let mut rng = Rng::from_seed([2; 32]);
        for bound in [1, 2, 3, 10, u64::MAX] {
            assert!((0..100).all(|_| rng.below(bound) < bound));
        }
    }

    #[test]
    fn shuffle_keeps_all_items() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::from_seed([3; 32]).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
