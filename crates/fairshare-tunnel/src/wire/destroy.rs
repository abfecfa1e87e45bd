//! DESTROY: the end of a circuit on one link, signed by the neighbour.
//= spec/tunnels.md#8-destroy

use super::cell::CircuitId;
use super::message::id;
use fairshare_crypto::{PublicKey, SIGNATURE_LEN, SecretKey, Signature};
use fairshare_wire::{CommunityId, ReadError, Reader, Writer};

/// Why a circuit is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DestroyReason(pub u16);

impl DestroyReason {
    /// The circuit is not known.
    pub const UNKNOWN: Self = Self(1);
    /// The node ends.
    pub const SHUTDOWN: Self = Self(2);
    /// It is not needed any more.
    pub const UNNEEDED: Self = Self(4);
    /// It was pushed out, or its neighbour does not pay.
    pub const PUSHED_OUT: Self = Self(65_535);
}

/// A parsed DESTROY whose signature is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destroy {
    /// Who signed: it must be the neighbour on that link.
    pub signer: PublicKey,
    /// The circuit on that link.
    pub circuit: CircuitId,
    /// Why.
    pub reason: DestroyReason,
}

impl Destroy {
    /// The circuit that a DESTROY names, before anything is checked: cheap, so that one for an unknown circuit costs no
    /// signature check.
    ///
    /// # Errors
    /// A field is cut off.
    pub fn peek(body: &[u8]) -> Result<(PublicKey, CircuitId), ReadError> {
        let mut input = Reader::new(body);
        let signer = PublicKey::try_from(input.var16()?).map_err(|_| ReadError::Value("key"))?;
        Ok((signer, CircuitId(input.u32()?)))
    }

    /// Reads the whole datagram, message id 8, and checks the signature.
    ///
    /// # Errors
    /// A field is cut off or malformed, or the signature is wrong.
    pub fn parse(datagram: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(datagram);
        input.take(23)?;
        let signer = PublicKey::try_from(input.var16()?).map_err(|_| ReadError::Value("key"))?;
        let (circuit, reason) = (CircuitId(input.u32()?), DestroyReason(input.u16()?));
        let signature = Signature(input.array()?);
        input.end()?;
        let covered = datagram.len() - SIGNATURE_LEN;
        let covered = datagram.get(..covered).unwrap_or(&[]);
        if !signer.verify(covered, &signature) {
            return Err(ReadError::Value("signature"));
        }
        Ok(Self { signer, circuit, reason })
    }

    /// The whole datagram.
    pub fn sign(
        key: &SecretKey,
        community: CommunityId,
        circuit: CircuitId,
        reason: DestroyReason,
    ) -> Vec<u8> {
        let mut out = Writer::new();
        out.bytes(&[0, 2]).bytes(&community.0).u8(id::DESTROY).var16(key.public().as_bytes());
        out.u32(circuit.0).u16(reason.0);
        let signature = key.sign(out.as_slice());
        out.bytes(&signature.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;

    //= spec/tunnels.md#8-destroy
    #[test]
    fn a_destroy_is_read_as_signed_and_no_changed_byte_passes() {
        let key = SecretKey::generate(&mut Rng::from_seed([1; 32]));
        let datagram = Destroy::sign(&key, CommunityId([3; 20]), CircuitId(7), DestroyReason::UNNEEDED);
        let parsed = Destroy::parse(&datagram).expect("as signed");
        assert_eq!(parsed, Destroy { signer: key.public(), circuit: CircuitId(7), reason: DestroyReason(4) });
        assert_eq!(Destroy::peek(&datagram[23..]), Ok((key.public(), CircuitId(7))));
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            assert!(Destroy::parse(&changed).is_err(), "byte {at}");
        }
    }
}
