//! The messages of both communities of the ledger.
//!
//! Blocks sign themselves, so most messages are unsigned and their sender is only an address.

use crate::block::{BlockError, HalfBlock};
use fairshare_crypto::{KEY_LEN, PublicKey};
use fairshare_wire::{ReadError, Reader, Writer};
use std::sync::Arc;

/// The most short ids in a message about proofs.
pub const PROOF_IDS_MAX: usize = 32;

/// Payload of the crawl request with 64-bit numbers that Kotlin peers send.
const WIDE_CRAWL_LEN: usize = KEY_LEN + 8 + 8 + 4;

/// A message of the TrustChain community. Only the crawl request is signed.
//= spec/trustchain.md#5-messages
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustChainMessage {
    /// One half block for its receiver.
    HalfBlock(Arc<HalfBlock>),
    /// Asks for a part of a chain; numbers below 0 count from its end.
    CrawlRequest {
        /// Whose chain.
        owner: PublicKey,
        /// First number.
        start: i64,
        /// Last number.
        end: i64,
        /// Names the answer.
        crawl_id: u32,
    },
    /// One block of an answer.
    CrawlResponse {
        /// The block.
        block: Arc<HalfBlock>,
        /// Which crawl it answers.
        crawl_id: u32,
        /// From 1.
        position: u32,
        /// How many blocks the answer has.
        total: u32,
    },
    /// Both halves of an interaction.
    Pair(Arc<HalfBlock>, Arc<HalfBlock>),
    /// A half block for everybody.
    Broadcast {
        /// The block.
        block: Arc<HalfBlock>,
        /// How many hops it may still go, this one included.
        ttl: u32,
    },
    /// Both halves for everybody.
    PairBroadcast {
        /// The half that came first.
        first: Arc<HalfBlock>,
        /// The other half.
        second: Arc<HalfBlock>,
        /// How many hops it may still go, this one included.
        ttl: u32,
    },
    /// Nothing of the asked range is known.
    EmptyCrawlResponse {
        /// Which crawl it answers.
        crawl_id: u32,
    },
}

impl TrustChainMessage {
    /// Reads the payload of message `id`; `None` for an unknown id.
    pub fn parse(id: u8, payload: &[u8]) -> Option<Result<Self, BlockError>> {
        let mut input = Reader::new(payload);
        let message = match id {
            1 => read_block(&mut input).map(Self::HalfBlock),
            2 => read_crawl_request(&mut input).map_err(BlockError::Read),
            3 => read_crawl_response(&mut input),
            4 => read_pair(&mut input).map(|(first, second)| Self::Pair(first, second)),
            5 => read_block(&mut input).and_then(|block| Ok(Self::Broadcast { block, ttl: input.u32()? })),
            6 => read_pair(&mut input)
                .and_then(|(first, second)| Ok(Self::PairBroadcast { first, second, ttl: input.u32()? })),
            7 => input.u32().map(|crawl_id| Self::EmptyCrawlResponse { crawl_id }).map_err(BlockError::Read),
            _ => return None,
        };
        Some(message.and_then(|message| {
            input.end()?;
            Ok(message)
        }))
    }

    /// Message id and whether it is signed.
    pub const fn id(&self) -> (u8, bool) {
        match self {
            Self::HalfBlock(_) => (1, false),
            Self::CrawlRequest { .. } => (2, true),
            Self::CrawlResponse { .. } => (3, false),
            Self::Pair(..) => (4, false),
            Self::Broadcast { .. } => (5, false),
            Self::PairBroadcast { .. } => (6, false),
            Self::EmptyCrawlResponse { .. } => (7, false),
        }
    }

    /// The payload.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::HalfBlock(block) => out.bytes(block.packed()),
            Self::CrawlRequest { owner, start, end, crawl_id } => {
                out.bytes(owner.as_bytes()).i32(narrow(*start)).i32(narrow(*end)).u32(*crawl_id)
            }
            Self::CrawlResponse { block, crawl_id, position, total } => {
                out.bytes(block.packed()).u32(*crawl_id).u32(*position).u32(*total)
            }
            Self::Pair(first, second) => out.bytes(first.packed()).bytes(second.packed()),
            Self::Broadcast { block, ttl } => out.bytes(block.packed()).u32(*ttl),
            Self::PairBroadcast { first, second, ttl } => {
                out.bytes(first.packed()).bytes(second.packed()).u32(*ttl)
            }
            Self::EmptyCrawlResponse { crawl_id } => out.u32(*crawl_id),
        };
        out.finish()
    }
}

/// A message of our own ledger community. 2, 3 and 4 are signed.
//= spec/trustchain.md#13-our-ledger-community
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnMessage {
    /// A fork proof, not taken apart yet.
    ForkProof(Vec<u8>),
    /// Which proofs the sender holds.
    ProofsKnown {
        /// How many in all.
        count: u32,
        /// A random sample of their short ids.
        sample: Vec<[u8; 8]>,
    },
    /// Which of them the receiver wants.
    ProofsWanted(Vec<[u8; 8]>),
    /// Asks for a part of a chain with every known counterpart.
    CrawlRequest {
        /// Whose chain.
        owner: PublicKey,
        /// First number.
        start: u32,
        /// Last number.
        end: u32,
        /// Names the answer.
        crawl_id: u32,
    },
    /// One part of the answer.
    CrawlAnswer {
        /// Which crawl it answers.
        crawl_id: u32,
        /// From 1.
        part: u16,
        /// How many parts the answer has.
        parts: u16,
        /// Blocks in the order of the chain, each counterpart after its block.
        blocks: Vec<Arc<HalfBlock>>,
    },
}

impl OwnMessage {
    /// Reads the payload of message `id`; `None` for an unknown id.
    pub fn parse(id: u8, payload: &[u8]) -> Option<Result<Self, BlockError>> {
        let mut input = Reader::new(payload);
        let message = match id {
            1 => Ok(Self::ForkProof(input.rest().to_vec())),
            2 => read_known(&mut input).map_err(BlockError::Read),
            3 => read_ids(&mut input).map(Self::ProofsWanted).map_err(BlockError::Read),
            4 => read_complete_crawl(&mut input).map_err(BlockError::Read),
            5 => read_answer(&mut input),
            _ => return None,
        };
        Some(message.and_then(|message| {
            input.end()?;
            Ok(message)
        }))
    }

    /// Message id and whether it is signed.
    pub const fn id(&self) -> (u8, bool) {
        match self {
            Self::ForkProof(_) => (1, false),
            Self::ProofsKnown { .. } => (2, true),
            Self::ProofsWanted(_) => (3, true),
            Self::CrawlRequest { .. } => (4, true),
            Self::CrawlAnswer { .. } => (5, false),
        }
    }

    /// The payload.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        match self {
            Self::ForkProof(proof) => {
                out.bytes(proof);
            }
            Self::ProofsKnown { count, sample } => {
                out.u32(*count);
                write_ids(&mut out, sample);
            }
            Self::ProofsWanted(ids) => write_ids(&mut out, ids),
            Self::CrawlRequest { owner, start, end, crawl_id } => {
                out.bytes(owner.as_bytes()).u32(*start).u32(*end).u32(*crawl_id);
            }
            Self::CrawlAnswer { crawl_id, part, parts, blocks } => {
                let count = u8::try_from(blocks.len()).expect("a part is cut far below 256 blocks");
                out.u32(*crawl_id).u16(*part).u16(*parts).u8(count);
                for block in blocks {
                    out.var16(block.packed());
                }
            }
        }
        out.finish()
    }
}

fn read_block(input: &mut Reader<'_>) -> Result<Arc<HalfBlock>, BlockError> {
    HalfBlock::read(input).map(Arc::new)
}

fn read_pair(input: &mut Reader<'_>) -> Result<(Arc<HalfBlock>, Arc<HalfBlock>), BlockError> {
    Ok((read_block(input)?, read_block(input)?))
}

fn read_crawl_request(input: &mut Reader<'_>) -> Result<TrustChainMessage, ReadError> {
    let wide = input.left() == WIDE_CRAWL_LEN;
    let owner = PublicKey::from_bytes(input.array()?);
    let mut number = || if wide { input.i64() } else { input.i32().map(i64::from) };
    let (start, end) = (number()?, number()?);
    Ok(TrustChainMessage::CrawlRequest { owner, start, end, crawl_id: input.u32()? })
}

fn read_crawl_response(input: &mut Reader<'_>) -> Result<TrustChainMessage, BlockError> {
    Ok(TrustChainMessage::CrawlResponse {
        block: read_block(input)?,
        crawl_id: input.u32()?,
        position: input.u32()?,
        total: input.u32()?,
    })
}

fn read_known(input: &mut Reader<'_>) -> Result<OwnMessage, ReadError> {
    Ok(OwnMessage::ProofsKnown { count: input.u32()?, sample: read_ids(input)? })
}

fn read_ids(input: &mut Reader<'_>) -> Result<Vec<[u8; 8]>, ReadError> {
    let count = usize::from(input.u8()?);
    if count > PROOF_IDS_MAX {
        return Err(ReadError::Value("number of short ids"));
    }
    (0..count).map(|_| input.array()).collect()
}

fn write_ids(out: &mut Writer, ids: &[[u8; 8]]) {
    out.u8(u8::try_from(ids.len()).expect("at most 32 ids"));
    for id in ids {
        out.bytes(id);
    }
}

fn read_complete_crawl(input: &mut Reader<'_>) -> Result<OwnMessage, ReadError> {
    Ok(OwnMessage::CrawlRequest {
        owner: PublicKey::from_bytes(input.array()?),
        start: input.u32()?,
        end: input.u32()?,
        crawl_id: input.u32()?,
    })
}

fn read_answer(input: &mut Reader<'_>) -> Result<OwnMessage, BlockError> {
    let (crawl_id, part, parts) = (input.u32()?, input.u16()?, input.u16()?);
    let count = input.u8()?;
    let blocks =
        (0..count).map(|_| HalfBlock::parse(input.var16()?).map(Arc::new)).collect::<Result<_, _>>()?;
    Ok(OwnMessage::CrawlAnswer { crawl_id, part, parts, blocks })
}

fn narrow(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{ANY, BlockType, Draft, GENESIS_HASH};
    use fairshare_crypto::{Rng, SecretKey};
    use proptest::prelude::*;

    fn block(number: u32) -> Arc<HalfBlock> {
        let key = SecretKey::generate(&mut Rng::from_seed([1; 32]));
        let draft = Draft {
            sequence: number,
            link_owner: ANY,
            link_sequence: 0,
            previous_hash: GENESIS_HASH,
            kind: BlockType::BANDWIDTH,
            transaction: b"a0d".to_vec().into(),
            timestamp_ms: 1,
        };
        Arc::new(HalfBlock::sign(&key, draft))
    }

    //= spec/trustchain.md#5-messages
    #[test]
    fn every_message_of_living_peers_is_read_back() {
        let owner = block(1).owner;
        for message in [
            TrustChainMessage::HalfBlock(block(1)),
            TrustChainMessage::CrawlRequest { owner, start: -5, end: 7, crawl_id: 3 },
            TrustChainMessage::CrawlResponse { block: block(1), crawl_id: 2, position: 3, total: 4 },
            TrustChainMessage::Pair(block(1), block(2)),
            TrustChainMessage::Broadcast { block: block(1), ttl: 2 },
            TrustChainMessage::PairBroadcast { first: block(1), second: block(2), ttl: 9 },
            TrustChainMessage::EmptyCrawlResponse { crawl_id: 8 },
        ] {
            let (id, signed) = message.id();
            assert_eq!(signed, id == 2);
            let bytes = message.to_bytes();
            assert_eq!(
                TrustChainMessage::parse(id, &[bytes.as_slice(), &[0]].concat()).map(|m| m.is_ok()),
                Some(false)
            );
            assert_eq!(TrustChainMessage::parse(id, &bytes), Some(Ok(message)));
        }
        assert_eq!(TrustChainMessage::parse(8, &[]), None);
    }

    //= spec/trustchain.md#11-other-implementations
    #[test]
    fn the_wide_crawl_request_of_kotlin_peers_is_read_too() {
        let owner = block(1).owner;
        let mut wide = Writer::new();
        let wide = wide.bytes(owner.as_bytes()).i64(-1).i64(1 << 40).u32(6).finish();
        let message = TrustChainMessage::CrawlRequest { owner, start: -1, end: 1 << 40, crawl_id: 6 };
        assert_eq!(TrustChainMessage::parse(2, &wide), Some(Ok(message)));
    }

    //= spec/trustchain.md#13-our-ledger-community
    #[test]
    fn every_message_of_our_own_is_read_back() {
        let owner = block(1).owner;
        for message in [
            OwnMessage::ForkProof(vec![1, 2, 3]),
            OwnMessage::ProofsKnown { count: 9, sample: vec![[1; 8]; PROOF_IDS_MAX] },
            OwnMessage::ProofsWanted(vec![[2; 8]]),
            OwnMessage::CrawlRequest { owner, start: 1, end: u32::MAX, crawl_id: 4 },
            OwnMessage::CrawlAnswer { crawl_id: 4, part: 1, parts: 2, blocks: vec![block(1), block(2)] },
        ] {
            let (id, signed) = message.id();
            assert_eq!(signed, matches!(id, 2..=4));
            assert_eq!(OwnMessage::parse(id, &message.to_bytes()), Some(Ok(message)));
        }
        let too_many = [vec![33], vec![0; 33 * 8]].concat();
        assert!(OwnMessage::parse(3, &too_many).is_some_and(|message| message.is_err()));
    }

    proptest! {
        #[test]
        fn random_payloads_never_panic(id in 0..10u8, payload in prop::collection::vec(any::<u8>(), 0..700)) {
            let _ = TrustChainMessage::parse(id, &payload);
            let _ = OwnMessage::parse(id, &payload);
            let _ = crate::fork::ForkProof::parse(&payload);
        }
    }
}
