//! From the bytes of a connection to messages, whatever the chunks they arrive in.
//!
//! A message that lies inside one chunk is sliced out of it. One that crosses chunks is put together once, in a
//! buffer that grows with what has really arrived, so that announcing a long message costs us nothing.

use super::handshake::{OPENING_LEN, PROTOCOL, PeerId, Reserved};
use super::message::{
    ALLOWED_FAST, BITFIELD, BlockRequest, CANCEL, CHOKE, EXTENDED, HASHES, HAVE, HAVE_ALL, HAVE_NONE,
    INTERESTED, Message, NOT_INTERESTED, PIECE, PORT, REJECT_REQUEST, REQUEST, SUGGEST_PIECE, UNCHOKE,
};
use crate::metainfo::{InfoHash, MAX_PIECES};
use bytes::{Buf, Bytes, BytesMut};
use fairshare_wire::{ReadError, Reader};
use thiserror::Error;

/// Data of the longest piece message that is accepted.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
pub(super) const MAX_PIECE_DATA: usize = 131_072;
/// Extension number and payload of an extended message.
const MAX_EXTENDED: usize = 65_536;
/// The longest answer of a v2 peer with hashes.
const MAX_HASHES: usize = 48 + 32 * (512 + 32);
/// Any other message.
const MAX_OTHER: usize = 1_024;
/// A bitfield while the number of pieces is unknown (the metadata is still to come).
const MAX_BITFIELD: usize = MAX_PIECES.div_ceil(8) as usize;
/// Messages with ids that we do not know, for all the life of a connection.
const MAX_UNKNOWN: u32 = 100;
/// Room made at once for a message that crosses chunks: a whole message with one block.
const ASSEMBLY_START: usize = 16_384 + 13;

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// The first bytes are not those of a BitTorrent handshake.
    #[error("not a BitTorrent handshake")]
    Protocol,
    /// A message of this kind may not have this length.
    #[error("message {id} with {len} bytes")]
    Length {
        /// The message id.
        id: u8,
        /// Bytes behind the id.
        len: usize,
    },
    /// Too many messages that we do not know.
    #[error("more than {MAX_UNKNOWN} messages of unknown kinds")]
    Unknown,
}

/// What a connection delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The first 48 bytes: enough to look up the torrent and to answer.
    Opening {
        /// What else the client can do.
        reserved: Reserved,
        /// The torrent.
        info_hash: InfoHash,
    },
    /// The last 20 bytes of the handshake.
    PeerId(PeerId),
    /// Every later message.
    Message(Message),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    PeerId,
    Messages,
}

/// Reads one direction of one connection.
#[derive(Debug)]
pub struct Decoder {
    stage: Stage,
    /// The front part of an item that did not fit into one chunk.
    partial: BytesMut,
    bitfield_len: Option<usize>,
    unknown: u32,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a connection.
    pub fn new() -> Self {
        Self { stage: Stage::Opening, partial: BytesMut::new(), bitfield_len: None, unknown: 0 }
    }

    /// Tells the number of pieces, so that a bitfield of another length ends the connection at its header.
    pub const fn expect_pieces(&mut self, pieces: u32) {
        self.bitfield_len = Some(pieces.div_ceil(8) as usize);
    }

    /// Takes the next item off `input`; `None` when `input` is used up and more must come. After an error the
    /// connection must be closed.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Incoming>, WireError> {
        loop {
            let Some(item) = self.item(input)? else { return Ok(None) };
            if let Some(incoming) = self.interpret(item)? {
                return Ok(Some(incoming));
            }
        }
    }

    /// The bytes of the next item, if all of them are here.
    fn item(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, WireError> {
        if self.partial.is_empty() {
            let needed = self.needed(input)?;
            if input.len() >= needed {
                return Ok(Some(input.split_to(needed)));
            }
        }
        loop {
            let needed = self.needed(&self.partial)?;
            if self.partial.len() >= needed {
                return Ok(Some(self.partial.split().freeze()));
            }
            if input.is_empty() {
                return Ok(None);
            }
            self.move_up_to(needed, input);
        }
    }

    /// Moves bytes from `input` behind the partial item, until that has `needed` bytes or `input` ends.
    fn move_up_to(&mut self, needed: usize, input: &mut Bytes) {
        let count = (needed - self.partial.len()).min(input.len());
        let grown = (2 * (self.partial.len() + count)).max(ASSEMBLY_START).min(needed);
        self.partial.reserve(grown.saturating_sub(self.partial.len()));
        self.partial.extend_from_slice(&input.split_to(count));
    }

    /// How many bytes the item that starts with `front` has, as far as `front` tells: never less than it holds
    /// of the next decision.
    fn needed(&self, front: &[u8]) -> Result<usize, WireError> {
        match self.stage {
            Stage::Opening => check_protocol(front).map(|()| OPENING_LEN),
            Stage::PeerId => Ok(20),
            Stage::Messages => self.message_len(front),
        }
    }

    fn message_len(&self, front: &[u8]) -> Result<usize, WireError> {
        let mut header = Reader::new(front);
        let Ok(len) = header.u32() else { return Ok(4) };
        if len == 0 {
            return Ok(4);
        }
        let Ok(id) = header.u8() else { return Ok(5) };
        let payload = len as usize - 1;
        if self.allows(id, payload) { Ok(5 + payload) } else { Err(WireError::Length { id, len: payload }) }
    }

    fn allows(&self, id: u8, len: usize) -> bool {
        match id {
            CHOKE | UNCHOKE | INTERESTED | NOT_INTERESTED | HAVE_ALL | HAVE_NONE => len == 0,
            HAVE | SUGGEST_PIECE | ALLOWED_FAST => len == 4,
            REQUEST | CANCEL | REJECT_REQUEST => len == 12,
            PORT => len == 2,
            PIECE => (8..=MAX_PIECE_DATA + 8).contains(&len),
            BITFIELD => self.bitfield_len.map_or(len <= MAX_BITFIELD, |expected| len == expected),
            EXTENDED => (1..=MAX_EXTENDED).contains(&len),
            HASHES => len <= MAX_HASHES,
            _ => len <= MAX_OTHER,
        }
    }

    fn interpret(&mut self, mut item: Bytes) -> Result<Option<Incoming>, WireError> {
        match self.stage {
            Stage::Opening => {
                self.stage = Stage::PeerId;
                let opening = opening(&item).map_err(|_| WireError::Protocol)?;
                Ok(Some(opening))
            }
            Stage::PeerId => {
                self.stage = Stage::Messages;
                let id = Reader::new(&item).array().map_err(|_| WireError::Protocol)?;
                Ok(Some(Incoming::PeerId(PeerId(id))))
            }
            Stage::Messages if item.len() == 4 => Ok(Some(Incoming::Message(Message::KeepAlive))),
            Stage::Messages => {
                item.advance(4);
                let id = item.get_u8();
                let len = item.len();
                let message = message(id, item).map_err(|_| WireError::Length { id, len })?;
                if message.is_none() {
                    self.count_unknown()?;
                }
                Ok(message.map(Incoming::Message))
            }
        }
    }

    const fn count_unknown(&mut self) -> Result<(), WireError> {
        self.unknown += 1;
        if self.unknown > MAX_UNKNOWN { Err(WireError::Unknown) } else { Ok(()) }
    }
}

/// Whether `front` can be the start of a handshake.
fn check_protocol(front: &[u8]) -> Result<(), WireError> {
    let same = front.iter().zip(PROTOCOL).all(|(got, expected)| got == expected);
    if same { Ok(()) } else { Err(WireError::Protocol) }
}

fn opening(item: &[u8]) -> Result<Incoming, ReadError> {
    let mut input = Reader::new(item);
    input.take(PROTOCOL.len())?;
    Ok(Incoming::Opening { reserved: Reserved(input.array()?), info_hash: InfoHash(input.array()?) })
}

/// The message with this id and payload; `None` for an id that we do not know.
fn message(id: u8, mut payload: Bytes) -> Result<Option<Message>, ReadError> {
    let mut input = Reader::new(&payload);
    Ok(Some(match id {
        CHOKE => Message::Choke,
        UNCHOKE => Message::Unchoke,
        INTERESTED => Message::Interested,
        NOT_INTERESTED => Message::NotInterested,
        HAVE => Message::Have(input.u32()?),
        BITFIELD => Message::Bitfield(payload),
        REQUEST => Message::Request(block_request(&mut input)?),
        PIECE => {
            let (piece, begin) = (input.u32()?, input.u32()?);
            Message::Piece { piece, begin, data: payload.split_off(8) }
        }
        CANCEL => Message::Cancel(block_request(&mut input)?),
        PORT => Message::Port(input.u16()?),
        SUGGEST_PIECE => Message::SuggestPiece(input.u32()?),
        HAVE_ALL => Message::HaveAll,
        HAVE_NONE => Message::HaveNone,
        REJECT_REQUEST => Message::RejectRequest(block_request(&mut input)?),
        ALLOWED_FAST => Message::AllowedFast(input.u32()?),
        EXTENDED => {
            let id = input.u8()?;
            Message::Extended { id, payload: payload.split_off(1) }
        }
        _ => return Ok(None),
    }))
}

fn block_request(input: &mut Reader<'_>) -> Result<BlockRequest, ReadError> {
    Ok(BlockRequest { piece: input.u32()?, begin: input.u32()?, len: input.u32()? })
}
