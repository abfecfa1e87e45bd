//! The key exchange with one hop.
//!
//! The authenticator covers only the ephemeral half, so a man in the middle can make it pass; he cannot know the other
//! half of the secret. A hop is therefore confirmed by the first layer of it that opens.
//= spec/tunnels.md#3-key-exchange

use fairshare_crypto::{
    CellKey, EphemeralSecret, PublicKey, Rng, SecretKey, box_key, ct_eq, hkdf_expand_sha256, hmac_sha512,
};
use thiserror::Error;

/// Why an exchange failed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// A point of small order, which would make the secret guessable.
    #[error("the other side's point is of small order")]
    Point,
    /// The authenticator is wrong.
    #[error("the hop did not prove its key")]
    Auth,
}

/// What both ends share after an exchange: the keys of both directions of one hop.
#[derive(Debug)]
pub struct HopKeys {
    /// Away from the originator.
    pub forward: CellKey,
    /// Towards the originator.
    pub backward: CellKey,
}

/// The ephemeral half of whoever begins the exchange.
pub struct Initiator {
    secret: EphemeralSecret,
}

impl Initiator {
    /// A fresh half.
    pub fn new(rng: &mut Rng) -> Self {
        Self { secret: EphemeralSecret::generate(rng) }
    }

    /// A half with a given secret: for vectors.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        Self { secret: EphemeralSecret::from_bytes(secret) }
    }

    /// The point X to send.
    pub fn point(&self) -> [u8; 32] {
        self.secret.public()
    }

    /// The shared secret of the exchange with the hop of this key.
    ///
    /// # Errors
    /// The hop's point is of small order, or it did not prove its key.
    pub fn shared_secret(
        &self,
        hop: &PublicKey,
        point: &[u8; 32],
        auth: &[u8; 32],
    ) -> Result<[u8; 64], HandshakeError> {
        let ephemeral = self.secret.agree(point).ok_or(HandshakeError::Point)?;
        let static_ = self.secret.agree(&hop.encryption_half()).ok_or(HandshakeError::Point)?;
        let shared = join(&ephemeral, &static_);
        if ct_eq(&authenticator(&shared, point), auth) { Ok(shared) } else { Err(HandshakeError::Auth) }
    }

    /// The keys shared with the hop.
    ///
    /// # Errors
    /// As [`shared_secret`](Self::shared_secret).
    pub fn finish(
        &self,
        hop: &PublicKey,
        point: &[u8; 32],
        auth: &[u8; 32],
    ) -> Result<HopKeys, HandshakeError> {
        self.shared_secret(hop, point, auth).map(|shared| hop_keys(&shared))
    }
}

/// The responder's half.
pub struct Response {
    /// The point Y to send.
    pub point: [u8; 32],
    /// The proof that the static key is known.
    pub auth: [u8; 32],
    /// The shared secret.
    pub shared: [u8; 64],
}

/// Answers an exchange with our static key.
///
/// # Errors
/// The other side's point is of small order.
pub fn respond(key: &SecretKey, rng: &mut Rng, point: &[u8; 32]) -> Result<Response, HandshakeError> {
    respond_with(key, rng.bytes(), point)
}

/// The same with a given ephemeral secret: for vectors.
///
/// # Errors
/// As [`respond`].
pub fn respond_with(key: &SecretKey, secret: [u8; 32], point: &[u8; 32]) -> Result<Response, HandshakeError> {
    let secret = EphemeralSecret::from_bytes(secret);
    let ephemeral = secret.agree(point).ok_or(HandshakeError::Point)?;
    let static_ = key.agree(point).ok_or(HandshakeError::Point)?;
    let (shared, own) = (join(&ephemeral, &static_), secret.public());
    Ok(Response { point: own, auth: authenticator(&shared, &own), shared })
}

/// The keys of both directions from a shared secret.
pub fn hop_keys(shared: &[u8; 64]) -> HopKeys {
    let mut out = [0; 72];
    hkdf_expand_sha256(shared, b"key_generation", &mut out);
    let part = |from: usize| -> [u8; 32] { out[from..from + 32].try_into().expect("32 bytes") };
    let salt = |from: usize| -> [u8; 4] { out[from..from + 4].try_into().expect("4 bytes") };
    HopKeys { forward: CellKey::new(&part(32), salt(68)), backward: CellKey::new(&part(0), salt(64)) }
}

fn join(ephemeral: &[u8; 32], static_: &[u8; 32]) -> [u8; 64] {
    let mut shared = [0; 64];
    shared[..32].copy_from_slice(&box_key(ephemeral));
    shared[32..].copy_from_slice(&box_key(static_));
    shared
}

fn authenticator(shared: &[u8; 64], point: &[u8; 32]) -> [u8; 32] {
    let mut auth = [0; 32];
    auth.copy_from_slice(&hmac_sha512(&shared[..32], point)[..32]);
    auth
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::generate(&mut Rng::from_seed([seed; 32]))
    }

    //= spec/tunnels.md#3-key-exchange
    #[test]
    fn both_ends_have_the_same_keys() {
        let mut rng = Rng::from_seed([9; 32]);
        let (hop, initiator) = (key(1), Initiator::new(&mut rng));
        let response = respond(&hop, &mut rng, &initiator.point()).expect("a good point");
        let shared = initiator.shared_secret(&hop.public(), &response.point, &response.auth);
        assert_eq!(shared, Ok(response.shared));
    }

    //= spec/tunnels.md#3-key-exchange
    #[test]
    fn a_wrong_proof_or_a_weak_point_is_refused() {
        let mut rng = Rng::from_seed([9; 32]);
        let (hop, initiator) = (key(1), Initiator::new(&mut rng));
        let mut response = respond(&hop, &mut rng, &initiator.point()).expect("a good point");
        response.auth[31] ^= 1;
        let refused = initiator.finish(&hop.public(), &response.point, &response.auth);
        assert_eq!(refused.err(), Some(HandshakeError::Auth));
        let weak = initiator.finish(&hop.public(), &[0; 32], &response.auth);
        assert_eq!(weak.err(), Some(HandshakeError::Point));
        assert_eq!(respond(&hop, &mut rng, &[0; 32]).err(), Some(HandshakeError::Point));
    }
}
