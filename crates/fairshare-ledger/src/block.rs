//! The half block: its bytes, its hash, its signature.
//!
//! A block keeps the bytes it came in: hash and signature are over them, and a value encoded again may differ.

use bytes::Bytes;
use fairshare_crypto::{KEY_LEN, PublicKey, SIGNATURE_LEN, SecretKey, Signature, sha256};
use fairshare_wire::{ReadError, Reader, Writer};
use std::fmt;
use std::hash::{Hash, Hasher};
use thiserror::Error;

/// The counterparty of a source block: anyone may agree to it. Not a valid key.
//= spec/trustchain.md#1-model
pub const ANY: PublicKey = PublicKey::from_bytes([b'0'; KEY_LEN]);
/// The previous hash of block 1.
pub const GENESIS_HASH: BlockHash = BlockHash([b'0'; 32]);
/// The latest timestamp that living peers can store: they keep it as a signed number. A block with a later one can
/// be read, but no ledger takes it.
pub const TIMESTAMP_MS_MAX: u64 = i64::MAX as u64;
/// The longest half block we read: what fits the payload of one UDP datagram.
pub const BLOCK_LEN_MAX: usize = 65_507;

const SIGNATURE_AT: usize = 188;
const EMPTY_SIGNATURE: [u8; SIGNATURE_LEN] = [b'0'; SIGNATURE_LEN];
/// Layout without type and transaction.
const FIXED_LEN: usize = 268;

/// SHA-256 of a half block with its signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub [u8; 32]);

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockHash({})", hex::encode(&self.0[..4]))
    }
}

impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The type of a block: bytes, normally ASCII.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockType(Bytes);

impl BlockType {
    /// `tribler_bandwidth`, the type that settles bytes.
    pub const BANDWIDTH: Self = Self(Bytes::from_static(b"tribler_bandwidth"));

    /// The type with these bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    /// The bytes of the type.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockType({self})")
    }
}

impl From<&str> for BlockType {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

/// Why bytes are no half block.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockError {
    /// A field is cut off, or bytes follow.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The block is longer than any datagram.
    #[error("a half block of {0} bytes is longer than a datagram")]
    TooLong(usize),
}

/// Owner and number: the place of a block. Two blocks at one place are fraud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    /// Whose chain.
    pub owner: PublicKey,
    /// Which number.
    pub sequence: u32,
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.owner, self.sequence)
    }
}

/// What the owner decides about a new block before it is signed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Number on the owner's chain.
    pub sequence: u32,
    /// The counterparty, or [`ANY`].
    pub link_owner: PublicKey,
    /// 0 in a proposal, the proposal's number in an agreement.
    pub link_sequence: u32,
    /// Hash of the owner's block before, or [`GENESIS_HASH`].
    pub previous_hash: BlockHash,
    /// Block type.
    pub kind: BlockType,
    /// Encoded transaction.
    pub transaction: Bytes,
    /// Milliseconds since 1970.
    pub timestamp_ms: u64,
}

/// One half of an interaction, signed by its owner. Made by [`HalfBlock::parse`] and [`HalfBlock::sign`] only;
/// bytes and hash are computed once.
#[derive(Clone)]
pub struct HalfBlock {
    /// Whose chain it is on.
    pub owner: PublicKey,
    /// Its number there, from 1.
    pub sequence: u32,
    /// The counterparty, or [`ANY`].
    pub link_owner: PublicKey,
    /// 0 in a proposal, the proposal's number in an agreement.
    pub link_sequence: u32,
    /// Hash of the owner's block before.
    pub previous_hash: BlockHash,
    /// The owner's signature.
    pub signature: Signature,
    /// Block type.
    pub kind: BlockType,
    /// Encoded transaction, exactly as received.
    pub transaction: Bytes,
    /// Milliseconds since 1970, as the owner claims.
    pub timestamp_ms: u64,
    packed: Bytes,
    hash: BlockHash,
}

impl HalfBlock {
    /// Reads exactly one half block. Says nothing about its signature or transaction.
    //= spec/trustchain.md#2-half-block-layout
    pub fn parse(bytes: &[u8]) -> Result<Self, BlockError> {
        let mut input = Reader::new(bytes);
        let block = Self::read(&mut input)?;
        input.end()?;
        Ok(block)
    }

    /// Reads the half block at the cursor and leaves the cursor behind it.
    pub fn read(input: &mut Reader<'_>) -> Result<Self, BlockError> {
        let mut ahead = input.clone();
        ahead.take(FIXED_LEN - 16)?;
        ahead.var32()?;
        ahead.var32()?;
        ahead.u64()?;
        let len = input.left() - ahead.left();
        if len > BLOCK_LEN_MAX {
            return Err(BlockError::TooLong(len));
        }
        Self::from_packed(Bytes::copy_from_slice(input.take(len)?))
    }

    /// Signs a new block of `key`'s chain.
    //= spec/trustchain.md#4-creating-blocks
    pub fn sign(key: &SecretKey, draft: Draft) -> Self {
        let mut packed = Writer::with_capacity(FIXED_LEN + draft.kind.0.len() + draft.transaction.len());
        packed.bytes(key.public().as_bytes()).u32(draft.sequence);
        packed.bytes(draft.link_owner.as_bytes()).u32(draft.link_sequence);
        packed.bytes(&draft.previous_hash.0).bytes(&EMPTY_SIGNATURE);
        packed.var32(&draft.kind.0).var32(&draft.transaction).u64(draft.timestamp_ms);
        let mut packed = packed.finish();
        let signature = key.sign(&packed);
        packed[SIGNATURE_AT..SIGNATURE_AT + SIGNATURE_LEN].copy_from_slice(&signature.0);
        Self::from_packed(packed.into()).expect("the layout was just written, and drafts keep its bounds")
    }

    fn from_packed(packed: Bytes) -> Result<Self, BlockError> {
        let mut input = Reader::new(&packed);
        let owner = PublicKey::from_bytes(input.array()?);
        let sequence = input.u32()?;
        let link_owner = PublicKey::from_bytes(input.array()?);
        let link_sequence = input.u32()?;
        let previous_hash = BlockHash(input.array()?);
        let signature = Signature(input.array()?);
        let kind = BlockType(packed.slice_ref(input.var32()?));
        let transaction = packed.slice_ref(input.var32()?);
        let timestamp_ms = input.u64()?;
        let hash = BlockHash(sha256(&packed));
        Ok(Self {
            owner,
            sequence,
            link_owner,
            link_sequence,
            previous_hash,
            signature,
            kind,
            transaction,
            timestamp_ms,
            packed,
            hash,
        })
    }

    /// The block as it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.packed.to_vec()
    }

    /// The block as it travels, shared.
    pub const fn packed(&self) -> &Bytes {
        &self.packed
    }

    /// What the signature covers: the layout with the signature field filled with ASCII zeros.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = self.packed.to_vec();
        bytes[SIGNATURE_AT..SIGNATURE_AT + SIGNATURE_LEN].copy_from_slice(&EMPTY_SIGNATURE);
        bytes
    }

    /// SHA-256 of the layout with the signature.
    pub const fn hash(&self) -> BlockHash {
        self.hash
    }

    /// Whether the owner's signature is right, by the strict rule.
    pub fn verify(&self) -> bool {
        self.owner.verify(&self.signed_bytes(), &self.signature)
    }

    /// Whether it opens an interaction.
    pub const fn is_proposal(&self) -> bool {
        self.link_sequence == 0
    }

    /// Whether anyone may agree to it.
    pub fn is_source(&self) -> bool {
        self.link_owner == ANY
    }

    /// Whether it is the first of its chain and says so.
    pub fn is_genesis(&self) -> bool {
        self.sequence == 1 && self.previous_hash == GENESIS_HASH
    }

    /// Owner and number.
    pub const fn place(&self) -> BlockId {
        BlockId { owner: self.owner, sequence: self.sequence }
    }

    /// Owner and number of the block it links to; the number is 0 in a proposal.
    pub const fn link(&self) -> BlockId {
        BlockId { owner: self.link_owner, sequence: self.link_sequence }
    }

    /// Block id as text: hexadecimal key, dot, number.
    pub fn id(&self) -> String {
        self.place().to_string()
    }

    /// The number that names a crawl for this block.
    pub fn crawl_number(&self) -> u32 {
        decimal_tail(&self.hash.0)
    }
}

/// `bytes` as a big-endian number, modulo 100,000,000.
fn decimal_tail(bytes: &[u8]) -> u32 {
    let tail = bytes.iter().fold(0u64, |rest, byte| (rest * 256 + u64::from(*byte)) % 100_000_000);
    u32::try_from(tail).expect("a remainder below 100,000,000")
}

/// Equality of blocks is equality of the whole packed bytes.
impl PartialEq for HalfBlock {
    fn eq(&self, other: &Self) -> bool {
        self.packed == other.packed
    }
}

impl Eq for HalfBlock {}

impl Hash for HalfBlock {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl fmt::Debug for HalfBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "HalfBlock({:?}.{} -> {:?}.{} {} {:?})",
            self.owner, self.sequence, self.link_owner, self.link_sequence, self.kind, self.hash
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;
    use proptest::prelude::*;

    fn draft() -> impl Strategy<Value = Draft> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
        (any::<[u32; 2]>(), any::<[u8; 32]>(), bytes(40), bytes(300), any::<u64>()).prop_map(
            |([sequence, link_sequence], previous, kind, transaction, timestamp_ms)| Draft {
                sequence,
                link_owner: ANY,
                link_sequence,
                previous_hash: BlockHash(previous),
                kind: BlockType::new(&kind),
                transaction: transaction.into(),
                timestamp_ms,
            },
        )
    }

    proptest! {
        //= spec/trustchain.md#2-half-block-layout
        #[test]
        fn a_signed_block_survives_its_bytes(draft in draft(), seed in any::<[u8; 32]>()) {
            let key = SecretKey::generate(&mut Rng::from_seed(seed));
            let block = HalfBlock::sign(&key, draft.clone());
            prop_assert_eq!(HalfBlock::parse(&block.to_bytes()), Ok(block.clone()));
            prop_assert!(block.verify());
            prop_assert_eq!(block.packed().len(), 268 + draft.kind.as_bytes().len() + draft.transaction.len());
            prop_assert_eq!((block.sequence, block.link_sequence), (draft.sequence, draft.link_sequence));
            prop_assert_eq!((block.transaction, block.kind), (draft.transaction, draft.kind));
            prop_assert_eq!((block.owner, block.timestamp_ms), (key.public(), draft.timestamp_ms));
        }

        #[test]
        fn every_change_breaks_the_signature_or_the_form(draft in draft(), at in any::<prop::sample::Index>()) {
            let key = SecretKey::generate(&mut Rng::from_seed([1; 32]));
            let mut bytes = HalfBlock::sign(&key, draft).to_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 4;
            // The X25519 half of the owner's key decides whose chain it is; it is part of what is signed.
            prop_assert!(HalfBlock::parse(&bytes).map_or(true, |block| !block.verify()));
        }

        #[test]
        fn random_bytes_never_panic(head in prop::collection::vec(any::<u8>(), 200..300), tail in any::<[u8; 8]>()) {
            let _ = HalfBlock::parse(&head);
            let _ = HalfBlock::parse(&[vec![0; 255], tail.to_vec()].concat());
        }
    }

    //= spec/trustchain.md#1-model
    #[test]
    fn the_marks_of_the_reference_are_ascii_zeros_and_no_keys() {
        assert_eq!(ANY.to_string(), "30".repeat(74));
        assert_eq!(GENESIS_HASH.to_string(), "30".repeat(32));
        assert!(!ANY.is_valid());
    }

    #[test]
    fn a_cut_or_longer_block_is_refused() {
        let key = SecretKey::generate(&mut Rng::from_seed([1; 32]));
        let draft = Draft {
            sequence: 1,
            link_owner: ANY,
            link_sequence: 0,
            previous_hash: GENESIS_HASH,
            kind: BlockType::BANDWIDTH,
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms: 1,
        };
        let bytes = HalfBlock::sign(&key, draft).to_bytes();
        for len in 0..bytes.len() {
            assert!(HalfBlock::parse(&bytes[..len]).is_err());
        }
        assert!(HalfBlock::parse(&[bytes, vec![0]].concat()).is_err());
    }
}
