//! Proofs that a key signed twice what it may sign once. A proof needs no trust in whoever brings it.

use crate::block::{BlockError, HalfBlock};
use fairshare_crypto::{PublicKey, sha256};
use fairshare_wire::{ReadError, Reader, Writer};
use std::sync::Arc;
use thiserror::Error;

/// How many proofs a node keeps: spec/trustchain.md section 13.
pub const PROOFS_MAX: usize = 100_000;

/// What was done twice.
//= spec/trustchain.md#13-our-ledger-community
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ForkKind {
    /// Two different blocks at one place of a chain.
    DoubleSign = 1,
    /// Two different agreements of one key to one proposal, at different numbers.
    DoubleCountersign = 2,
}

impl ForkKind {
    /// The kind with this number on the wire and in the store.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::DoubleSign),
            2 => Some(Self::DoubleCountersign),
            _ => None,
        }
    }

    /// The number on the wire and in the store.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// Why two blocks prove nothing.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForkError {
    /// A kind that this version cannot judge.
    #[error("fork proofs of kind {0} are not judged here")]
    Kind(u8),
    /// The message is cut off or has bytes left.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A block in it cannot be read.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The blocks do not contradict each other.
    #[error("the two blocks do not contradict each other")]
    NoContradiction,
    /// The blocks stand in the wrong order.
    #[error("the two blocks do not stand in ascending order of their hashes")]
    Order,
    /// A signature is wrong.
    #[error("a block of the proof has no valid signature")]
    Signature,
}

/// Two signed blocks of one key that contradict each other, in ascending order of their hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkProof {
    kind: ForkKind,
    first: Arc<HalfBlock>,
    second: Arc<HalfBlock>,
}

impl ForkProof {
    /// The proof that the two blocks make, in either order; checks everything, the signatures last.
    pub fn new(kind: ForkKind, one: Arc<HalfBlock>, other: Arc<HalfBlock>) -> Result<Self, ForkError> {
        let (first, second) = if one.hash() <= other.hash() { (one, other) } else { (other, one) };
        let proof = Self { kind, first, second };
        if !proof.contradicts() {
            return Err(ForkError::NoContradiction);
        }
        if !proof.first.verify() || !proof.second.verify() {
            return Err(ForkError::Signature);
        }
        Ok(proof)
    }

    /// Reads the payload of a fork proof message and checks all of it.
    pub fn parse(payload: &[u8]) -> Result<Self, ForkError> {
        let mut input = Reader::new(payload);
        let code = input.u8()?;
        let kind = ForkKind::from_code(code).ok_or(ForkError::Kind(code))?;
        let first = Arc::new(HalfBlock::parse(input.var16()?)?);
        let second = Arc::new(HalfBlock::parse(input.var16()?)?);
        input.end()?;
        if first.hash() > second.hash() {
            return Err(ForkError::Order);
        }
        Self::new(kind, first, second)
    }

    /// The payload of a fork proof message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(self.kind.code()).var16(self.first.packed()).var16(self.second.packed());
        out.finish()
    }

    /// What was done twice.
    pub const fn kind(&self) -> ForkKind {
        self.kind
    }

    /// The block with the lower hash.
    pub const fn first(&self) -> &Arc<HalfBlock> {
        &self.first
    }

    /// The block with the higher hash.
    pub const fn second(&self) -> &Arc<HalfBlock> {
        &self.second
    }

    /// Who is convicted.
    pub fn accused(&self) -> &PublicKey {
        &self.first.owner
    }

    /// The first 8 bytes of the hash over kind and both blocks: the name of the proof among peers.
    pub fn short_id(&self) -> [u8; 8] {
        short_id(self.kind.code(), &self.first.packed()[..], &self.second.packed()[..])
    }

    /// The short id that the proof in this payload would have; checks nothing else.
    pub fn short_id_of(payload: &[u8]) -> Option<[u8; 8]> {
        let mut input = Reader::new(payload);
        let code = input.u8().ok()?;
        let (first, second) = (input.var16().ok()?, input.var16().ok()?);
        input.end().ok()?;
        Some(short_id(code, first, second))
    }

    fn contradicts(&self) -> bool {
        let (a, b) = (&self.first, &self.second);
        if a.owner != b.owner || a.hash() == b.hash() {
            return false;
        }
        match self.kind {
            ForkKind::DoubleSign => a.sequence == b.sequence,
            ForkKind::DoubleCountersign => {
                a.sequence != b.sequence && a.link() == b.link() && !a.is_proposal() && !a.is_source()
            }
        }
    }
}

fn short_id(code: u8, first: &[u8], second: &[u8]) -> [u8; 8] {
    let mut id = [0; 8];
    id.copy_from_slice(&sha256(&[&[code], first, second].concat())[..8]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockType, Draft, GENESIS_HASH};
    use fairshare_crypto::{Rng, SecretKey};

    fn block(seed: u8, sequence: u32, link_sequence: u32, amount: u8) -> Arc<HalfBlock> {
        let key = SecretKey::generate(&mut Rng::from_seed([seed; 32]));
        let draft = Draft {
            sequence,
            link_owner: SecretKey::generate(&mut Rng::from_seed([99; 32])).public(),
            link_sequence,
            previous_hash: GENESIS_HASH,
            kind: BlockType::from("test"),
            transaction: vec![b'a', b'1', b'i', b'0' + amount].into(),
            timestamp_ms: 1,
        };
        Arc::new(HalfBlock::sign(&key, draft))
    }

    //= spec/trustchain.md#13-our-ledger-community
    #[test]
    fn a_proof_survives_its_bytes_and_has_one_form_only() {
        let proof =
            ForkProof::new(ForkKind::DoubleSign, block(1, 3, 0, 1), block(1, 3, 0, 2)).expect("a proof");
        let swapped = ForkProof::new(ForkKind::DoubleSign, block(1, 3, 0, 2), block(1, 3, 0, 1));
        assert_eq!(swapped, Ok(proof.clone()));
        let bytes = proof.to_bytes();
        assert_eq!(ForkProof::parse(&bytes), Ok(proof.clone()));
        assert_eq!(ForkProof::short_id_of(&bytes), Some(proof.short_id()));

        let mut out = Writer::new();
        out.u8(1).var16(proof.second().packed()).var16(proof.first().packed());
        assert_eq!(ForkProof::parse(&out.finish()), Err(ForkError::Order));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(ForkProof::parse(&changed).is_err(), "byte {at}");
        }
    }

    //= spec/trustchain.md#13-our-ledger-community
    #[test]
    fn only_contradictions_of_one_key_are_proofs() {
        use ForkKind::{DoubleCountersign, DoubleSign};
        let no = Err(ForkError::NoContradiction);
        for (kind, one, other, fine) in [
            (DoubleSign, block(1, 3, 0, 1), block(1, 3, 0, 2), true),
            (DoubleSign, block(1, 3, 0, 1), block(1, 3, 0, 1), false),
            (DoubleSign, block(1, 3, 0, 1), block(2, 3, 0, 1), false),
            (DoubleSign, block(1, 3, 0, 1), block(1, 4, 0, 1), false),
            (DoubleCountersign, block(1, 3, 7, 1), block(1, 4, 7, 1), true),
            (DoubleCountersign, block(1, 3, 7, 1), block(1, 3, 7, 2), false),
            (DoubleCountersign, block(1, 3, 7, 1), block(1, 4, 8, 1), false),
            (DoubleCountersign, block(1, 3, 0, 1), block(1, 4, 0, 1), false),
            (DoubleCountersign, block(1, 3, 7, 1), block(2, 4, 7, 1), false),
        ] {
            let proof = ForkProof::new(kind, one, other);
            assert_eq!(proof.is_ok(), fine);
            assert!(fine || proof == no);
        }
        assert_eq!(ForkProof::parse(&[3, 0, 0, 0, 0]), Err(ForkError::Kind(3)));
    }
}
