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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer_wire::Handshake;
    use proptest::prelude::*;

    fn opened() -> Decoder {
        let mut decoder = Decoder::new();
        let mut input = Bytes::copy_from_slice(&handshake().to_bytes());
        assert!(matches!(decoder.decode(&mut input), Ok(Some(Incoming::Opening { .. }))));
        assert!(matches!(decoder.decode(&mut input), Ok(Some(Incoming::PeerId(_)))));
        assert!(input.is_empty());
        decoder
    }

    fn handshake() -> Handshake {
        Handshake { reserved: Reserved::OURS, info_hash: InfoHash([7; 20]), peer_id: PeerId([8; 20]) }
    }

    fn all(decoder: &mut Decoder, mut input: Bytes) -> Result<Vec<Incoming>, WireError> {
        let mut items = Vec::new();
        while let Some(item) = decoder.decode(&mut input)? {
            items.push(item);
        }
        assert!(input.is_empty(), "no item is left behind");
        Ok(items)
    }

    fn header(len: usize, id: u8) -> Bytes {
        let len = u32::try_from(len + 1).expect("small");
        [&len.to_be_bytes()[..], &[id]].concat().into()
    }

    //= spec/swarm.md#2-handshake-bep-3
    #[test]
    fn a_handshake_can_be_answered_after_48_bytes_and_garbage_is_noticed_at_its_first_byte() {
        let bytes = Bytes::copy_from_slice(&handshake().to_bytes());
        let mut decoder = Decoder::new();
        assert_eq!(all(&mut decoder, bytes.slice(..47)), Ok(vec![]));
        let opening = Incoming::Opening { reserved: Reserved::OURS, info_hash: InfoHash([7; 20]) };
        assert_eq!(all(&mut decoder, bytes.slice(47..48)), Ok(vec![opening]));
        assert_eq!(all(&mut decoder, bytes.slice(48..)), Ok(vec![Incoming::PeerId(PeerId([8; 20]))]));
        for len in 0..20 {
            let mut wrong = bytes[..=len].to_vec();
            wrong[len] ^= 1;
            assert_eq!(all(&mut Decoder::new(), wrong.into()), Err(WireError::Protocol));
        }
    }

    //= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
    #[test]
    fn every_kind_of_message_has_its_length_and_a_wrong_one_is_noticed_at_the_header() {
        let refused = |len, id| {
            let mut decoder = opened();
            decoder.expect_pieces(9);
            all(&mut decoder, header(len, id)) == Err(WireError::Length { id, len })
        };
        let exact =
            [(CHOKE, 0), (UNCHOKE, 0), (INTERESTED, 0), (NOT_INTERESTED, 0), (HAVE, 4), (BITFIELD, 2)]
                .into_iter()
                .chain([
                    (REQUEST, 12),
                    (CANCEL, 12),
                    (PORT, 2),
                    (SUGGEST_PIECE, 4),
                    (HAVE_ALL, 0),
                    (HAVE_NONE, 0),
                ])
                .chain([(REJECT_REQUEST, 12), (ALLOWED_FAST, 4)]);
        for (id, len) in exact {
            assert!(!refused(len, id) && refused(len + 1, id), "message {id}");
            assert!(len == 0 || refused(len - 1, id), "message {id}");
        }
        for (id, max) in
            [(PIECE, MAX_PIECE_DATA + 8), (EXTENDED, MAX_EXTENDED), (HASHES, MAX_HASHES), (99, MAX_OTHER)]
        {
            assert!(!refused(max, id) && refused(max + 1, id), "message {id}");
            assert!(refused(u32::MAX as usize - 1, id), "message {id}");
        }
        assert!(refused(7, PIECE) && refused(0, EXTENDED));
        let mut decoder = opened();
        assert_eq!(all(&mut decoder, header(MAX_BITFIELD, BITFIELD)), Ok(vec![]));
        let too_long = Err(WireError::Length { id: BITFIELD, len: MAX_BITFIELD + 1 });
        assert_eq!(all(&mut opened(), header(MAX_BITFIELD + 1, BITFIELD)), too_long);
    }

    //= spec/swarm.md#3-message-framing-and-core-messages
    #[test]
    fn unknown_messages_are_skipped_a_hundred_times() {
        let mut decoder = opened();
        let unknown = Bytes::from(header(0, 99).repeat(MAX_UNKNOWN as usize));
        assert_eq!(all(&mut decoder, unknown), Ok(vec![]));
        assert_eq!(all(&mut decoder, Message::Choke.to_bytes()), Ok(vec![Incoming::Message(Message::Choke)]));
        assert_eq!(all(&mut decoder, header(0, 99)), Err(WireError::Unknown));
    }

    #[test]
    fn data_inside_one_chunk_is_not_copied() {
        let chunk = Message::Piece { piece: 1, begin: 2, data: Bytes::from(vec![9; 16_384]) }.to_bytes();
        let items = all(&mut opened(), chunk.clone()).expect("well formed");
        let [Incoming::Message(Message::Piece { data, .. })] = items.as_slice() else { panic!("one piece") };
        assert_eq!(data.as_ptr(), chunk[13..].as_ptr());
    }

    #[test]
    fn an_announced_length_takes_no_memory_before_the_bytes_arrive() {
        let mut decoder = opened();
        assert_eq!(all(&mut decoder, header(MAX_PIECE_DATA + 8, PIECE)), Ok(vec![]));
        assert!(decoder.partial.capacity() <= ASSEMBLY_START);
        for _ in 0..4 {
            assert_eq!(all(&mut decoder, Bytes::from(vec![0; 16_384])), Ok(vec![]));
            assert!(decoder.partial.capacity() <= 3 * decoder.partial.len());
        }
    }

    fn message() -> impl Strategy<Value = Message> {
        let request =
            any::<(u32, u32, u32)>().prop_map(|(piece, begin, len)| BlockRequest { piece, begin, len });
        let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from);
        prop_oneof![
            proptest::sample::select(vec![
                Message::KeepAlive,
                Message::Choke,
                Message::Unchoke,
                Message::Interested,
                Message::NotInterested,
                Message::HaveAll,
                Message::HaveNone,
            ]),
            any::<u32>().prop_map(Message::Have),
            any::<u32>().prop_map(Message::SuggestPiece),
            any::<u32>().prop_map(Message::AllowedFast),
            any::<u16>().prop_map(Message::Port),
            bytes(50).prop_map(Message::Bitfield),
            request.clone().prop_map(Message::Request),
            request.clone().prop_map(Message::Cancel),
            request.prop_map(Message::RejectRequest),
            (any::<u8>(), bytes(50)).prop_map(|(id, payload)| Message::Extended { id, payload }),
            (any::<u32>(), any::<u32>(), bytes(40_000)).prop_map(|(piece, begin, data)| Message::Piece {
                piece,
                begin,
                data
            }),
        ]
    }

    proptest! {
        #[test]
        fn messages_are_read_back_from_any_chunks(
            messages in proptest::collection::vec(message(), 0..12),
            cuts in proptest::collection::vec(1usize..5_000, 1..10),
        ) {
            let mut stream = handshake().to_bytes().to_vec();
            messages.iter().for_each(|message| message.encode(&mut stream));
            let mut stream = Bytes::from(stream);
            let mut decoder = Decoder::new();
            let mut items = Vec::new();
            for cut in cuts.iter().cycle() {
                if stream.is_empty() {
                    break;
                }
                let chunk = stream.split_to((*cut).min(stream.len()));
                items.extend(all(&mut decoder, chunk).expect("well formed"));
            }
            let got: Vec<Message> = items
                .into_iter()
                .filter_map(|item| if let Incoming::Message(message) = item { Some(message) } else { None })
                .collect();
            prop_assert_eq!(got, messages);
        }

        #[test]
        fn any_bytes_are_read_or_refused_alike_in_any_chunks(
            bytes in proptest::collection::vec(prop_oneof![4 => Just(0), 2 => 0u8..24, 1 => any::<u8>()], 0..200),
            cut in 1usize..20,
        ) {
            let whole = all(&mut opened(), bytes.clone().into());
            let mut decoder = opened();
            let mut items = Ok(Vec::new());
            for chunk in bytes.chunks(cut) {
                items = items.and_then(|mut items: Vec<Incoming>| {
                    items.extend(all(&mut decoder, Bytes::copy_from_slice(chunk))?);
                    Ok(items)
                });
            }
            prop_assert_eq!(whole, items);
        }
    }
}
