//! Key agreement of one connection: X25519 and the derivation of session keys.

use crate::random::Rng;
use hkdf::Hkdf;
use sha2::Sha256;
use x25519_dalek::{PublicKey as Point, StaticSecret};

/// A fresh X25519 secret for one connection.
#[derive(Clone)]
pub struct EphemeralSecret(StaticSecret);

impl EphemeralSecret {
    /// A new secret.
    pub fn generate(rng: &mut Rng) -> Self {
        Self::from_bytes(rng.bytes())
    }

    /// The secret with these bytes, clamped in the multiplication.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// Our half of the exchange.
    pub fn public(&self) -> [u8; 32] {
        Point::from(&self.0).to_bytes()
    }

    /// The shared secret, or `None` when the peer's point is of small order and the result would be all zero.
    pub fn agree(&self, peer: &[u8; 32]) -> Option<[u8; 32]> {
        let shared = self.0.diffie_hellman(&Point::from(*peer));
        shared.was_contributory().then(|| shared.to_bytes())
    }
}

/// HKDF-SHA256 to 64 bytes.
pub fn hkdf_sha256_64(salt: &[u8], input: &[u8], info: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    Hkdf::<Sha256>::new(Some(salt), input)
        .expand(info, &mut out)
        .expect("64 bytes are within what HKDF can give");
    out
}

/// HKDF-SHA256's second half alone: `prk` is a key already.
///
/// # Panics
/// `prk` is shorter than 32 bytes, or `out` longer than 8,160: lengths that the caller fixes.
pub fn hkdf_expand_sha256(prk: &[u8], info: &[u8], out: &mut [u8]) {
    let hkdf = Hkdf::<Sha256>::from_prk(prk).expect("the caller's key is long enough");
    hkdf.expand(info, out).expect("the caller wants little");
}

/// The key that libsodium's boxes use for an X25519 result: HSalsa20 of it over 16 zero bytes.
//= spec/tunnels.md#3-key-exchange
pub fn box_key(shared: &[u8; 32]) -> [u8; 32] {
    salsa20::hsalsa::<salsa20::cipher::consts::U10>(shared.into(), &[0; 16].into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree() {
        let mut rng = Rng::from_seed([4; 32]);
        let (a, b) = (EphemeralSecret::generate(&mut rng), EphemeralSecret::generate(&mut rng));
        assert_eq!(a.agree(&b.public()), b.agree(&a.public()));
        assert!(a.agree(&b.public()).is_some());
    }

    #[test]
    fn refuses_a_point_of_small_order() {
        let a = EphemeralSecret::from_bytes([9; 32]);
        assert_eq!(a.agree(&[0; 32]), None);
    }
}
