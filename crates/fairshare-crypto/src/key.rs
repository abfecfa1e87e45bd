//! IPv8 key pairs: an X25519 half for encryption and an Ed25519 half for signatures, 74 bytes each way.

use crate::hash::sha1;
use crate::random::Rng;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use std::fmt;
use thiserror::Error;
use x25519_dalek::{PublicKey as Point, StaticSecret};

/// Bytes of a serialized public or private key.
pub const KEY_LEN: usize = 74;
/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

const PREFIX_LEN: usize = 10;
const PUBLIC_PREFIX: &[u8; PREFIX_LEN] = b"LibNaCLPK:";
const SECRET_PREFIX: &[u8; PREFIX_LEN] = b"LibNaCLSK:";

/// Why bytes are no key.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// Neither the right length nor the right prefix.
    #[error("a key has 74 bytes and starts with LibNaCLPK: (public) or LibNaCLSK: (private)")]
    Form,
}

/// A serialized public key, compared over all 74 bytes: keys that differ in the X25519 half only are different
/// identities although they verify the same signatures. Any 74 bytes can be held; [`PublicKey::is_valid`] tells
/// whether they have the form of a key.
//= spec/overlay.md#2-keys
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// The 74 bytes as a key, whatever they are.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The 74 bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Whether the bytes carry the prefix of a public key. A key whose Ed25519 half is no curve point is valid in
    /// this sense, like in living peers; only its signatures never verify.
    pub fn is_valid(&self) -> bool {
        &self.0[..PREFIX_LEN] == PUBLIC_PREFIX
    }

    /// SHA-1 of the whole key.
    pub fn mid(&self) -> Mid {
        Mid(sha1(&self.0))
    }

    /// The X25519 half, for agreements.
    pub fn encryption_half(&self) -> [u8; 32] {
        let mut half = [0; 32];
        half.copy_from_slice(&self.0[PREFIX_LEN..PREFIX_LEN + 32]);
        half
    }

    /// Whether `signature` is this key's over `message`, by the strict rule: canonical S, canonical encodings, no
    /// point of small order.
    //= spec/README.md#r11
    pub fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        if !self.is_valid() {
            return false;
        }
        let mut half = [0; 32];
        half.copy_from_slice(&self.0[PREFIX_LEN + 32..]);
        let Ok(key) = VerifyingKey::from_bytes(&half) else {
            return false;
        };
        // Decoding accepts a few encodings with y >= p: encode again and compare.
        let canonical = curve_bytes(&key) == half;
        canonical && key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
    }
}

/// The canonical encoding of a verifying key's point.
fn curve_bytes(key: &VerifyingKey) -> [u8; 32] {
    key.to_edwards().compress().to_bytes()
}

impl TryFrom<&[u8]> for PublicKey {
    type Error = KeyError;

    fn try_from(bytes: &[u8]) -> Result<Self, KeyError> {
        let key = Self(bytes.try_into().map_err(|_| KeyError::Form)?);
        if key.is_valid() { Ok(key) } else { Err(KeyError::Form) }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", hex::encode(&self.0[KEY_LEN - 4..]))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::str::FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::try_from(hex::decode(text).map_err(|_| KeyError::Form)?.as_slice())
    }
}

/// SHA-1 of a public key: the short name of an identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mid(pub [u8; 20]);

impl fmt::Debug for Mid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mid({})", hex::encode(self.0))
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; SIGNATURE_LEN]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(&self.0[..4]))
    }
}

/// A private key with its public key. Never shown by `Debug`.
#[derive(Clone)]
pub struct SecretKey {
    bytes: [u8; KEY_LEN],
    signing: SigningKey,
    public: PublicKey,
}

impl SecretKey {
    /// A new key pair.
    pub fn generate(rng: &mut Rng) -> Self {
        Self::from_halves(rng.bytes(), rng.bytes())
    }

    fn from_halves(encryption: [u8; 32], seed: [u8; 32]) -> Self {
        let mut bytes = [0; KEY_LEN];
        bytes[..PREFIX_LEN].copy_from_slice(SECRET_PREFIX);
        bytes[PREFIX_LEN..PREFIX_LEN + 32].copy_from_slice(&encryption);
        bytes[PREFIX_LEN + 32..].copy_from_slice(&seed);

        let signing = SigningKey::from_bytes(&seed);
        let mut public = [0; KEY_LEN];
        public[..PREFIX_LEN].copy_from_slice(PUBLIC_PREFIX);
        public[PREFIX_LEN..PREFIX_LEN + 32]
            .copy_from_slice(Point::from(&StaticSecret::from(encryption)).as_bytes());
        public[PREFIX_LEN + 32..].copy_from_slice(signing.verifying_key().as_bytes());
        Self { bytes, signing, public: PublicKey(public) }
    }

    /// The serialized private key, 74 bytes.
    pub const fn to_bytes(&self) -> [u8; KEY_LEN] {
        self.bytes
    }

    /// The public key.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// The shared secret of the X25519 half with a point, or `None` for a point of small order.
    pub fn agree(&self, point: &[u8; 32]) -> Option<[u8; 32]> {
        let mut half = [0; 32];
        half.copy_from_slice(&self.bytes[PREFIX_LEN..PREFIX_LEN + 32]);
        let shared = StaticSecret::from(half).diffie_hellman(&Point::from(*point));
        shared.was_contributory().then(|| shared.to_bytes())
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.signing.sign(message).to_bytes())
    }
}

impl TryFrom<&[u8]> for SecretKey {
    type Error = KeyError;

    fn try_from(bytes: &[u8]) -> Result<Self, KeyError> {
        let halves = bytes.strip_prefix(SECRET_PREFIX).ok_or(KeyError::Form)?;
        let halves: &[u8; 64] = halves.try_into().map_err(|_| KeyError::Form)?;
        let (mut encryption, mut seed) = ([0; 32], [0; 32]);
        encryption.copy_from_slice(&halves[..32]);
        seed.copy_from_slice(&halves[32..]);
        Ok(Self::from_halves(encryption, seed))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {:?})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_bytes() {
        let key = SecretKey::generate(&mut Rng::from_seed([5; 32]));
        let again = SecretKey::try_from(key.to_bytes().as_slice()).expect("own bytes");
        assert_eq!(again.public(), key.public());
        assert!(again.public().is_valid());
        assert_eq!(key.public().to_string().parse::<PublicKey>(), Ok(key.public()));
    }

    #[test]
    fn a_changed_message_or_signature_does_not_verify() {
        let key = SecretKey::generate(&mut Rng::from_seed([6; 32]));
        let mut signature = key.sign(b"one");
        assert!(key.public().verify(b"one", &signature));
        assert!(!key.public().verify(b"two", &signature));
        signature.0[3] ^= 1;
        assert!(!key.public().verify(b"one", &signature));
    }

    #[test]
    fn bytes_of_another_form_are_no_key() {
        assert_eq!(PublicKey::try_from([0u8; 74].as_slice()), Err(KeyError::Form));
        assert!(SecretKey::try_from([0u8; 10].as_slice()).is_err());
    }
}
