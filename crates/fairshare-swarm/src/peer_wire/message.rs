//! The messages after the handshake.
//= spec/swarm.md#3-message-framing-and-core-messages

use bytes::Bytes;

/// Length prefix, id, piece and offset in front of the data of a piece message.
pub const PIECE_HEADER_LEN: usize = 13;

pub(super) const CHOKE: u8 = 0;
pub(super) const UNCHOKE: u8 = 1;
pub(super) const INTERESTED: u8 = 2;
pub(super) const NOT_INTERESTED: u8 = 3;
pub(super) const HAVE: u8 = 4;
pub(super) const BITFIELD: u8 = 5;
pub(super) const REQUEST: u8 = 6;
pub(super) const PIECE: u8 = 7;
pub(super) const CANCEL: u8 = 8;
pub(super) const PORT: u8 = 9;
pub(super) const SUGGEST_PIECE: u8 = 13;
pub(super) const HAVE_ALL: u8 = 14;
pub(super) const HAVE_NONE: u8 = 15;
pub(super) const REJECT_REQUEST: u8 = 16;
pub(super) const ALLOWED_FAST: u8 = 17;
pub(super) const EXTENDED: u8 = 20;
pub(super) const HASHES: u8 = 22;

/// A part of a piece, as requests, cancels and rejects name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRequest {
    /// Index of the piece.
    pub piece: u32,
    /// First byte inside the piece.
    pub begin: u32,
    /// Number of bytes.
    pub len: u32,
}

/// A message of the peer wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Nothing, to keep the connection open.
    KeepAlive,
    /// The sender answers no requests.
    Choke,
    /// The sender answers requests.
    Unchoke,
    /// The sender wants pieces the receiver has.
    Interested,
    /// The sender wants nothing.
    NotInterested,
    /// The sender has one more piece.
    Have(u32),
    /// The pieces the sender has, not judged yet.
    Bitfield(Bytes),
    /// Asks for a part of a piece.
    Request(BlockRequest),
    /// A part of a piece.
    Piece {
        /// Index of the piece.
        piece: u32,
        /// First byte inside the piece.
        begin: u32,
        /// The bytes.
        data: Bytes,
    },
    /// Takes a request back.
    Cancel(BlockRequest),
    /// The port of the sender's DHT node.
    Port(u16),
    /// The sender would like to send this piece.
    SuggestPiece(u32),
    /// The sender has every piece.
    HaveAll,
    /// The sender has no piece.
    HaveNone,
    /// A request will not be answered.
    RejectRequest(BlockRequest),
    /// This piece may be requested while choked.
    AllowedFast(u32),
    /// A message of the extension protocol.
    Extended {
        /// The receiver's number of the extension; 0 is the extended handshake.
        id: u8,
        /// The extension's own bytes.
        payload: Bytes,
    },
}

impl Message {
    /// Appends the whole message. For a piece, [`piece_header`] and the data apart save the copy.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::KeepAlive => out.extend_from_slice(&[0; 4]),
            Self::Choke => frame(out, CHOKE, &[]),
            Self::Unchoke => frame(out, UNCHOKE, &[]),
            Self::Interested => frame(out, INTERESTED, &[]),
            Self::NotInterested => frame(out, NOT_INTERESTED, &[]),
            Self::Have(piece) => frame(out, HAVE, &[&piece.to_be_bytes()]),
            Self::Bitfield(bits) => frame(out, BITFIELD, &[bits]),
            Self::Request(request) => frame(out, REQUEST, &[&request.to_bytes()]),
            Self::Piece { piece, begin, data } => {
                frame(out, PIECE, &[&piece.to_be_bytes(), &begin.to_be_bytes(), data]);
            }
            Self::Cancel(request) => frame(out, CANCEL, &[&request.to_bytes()]),
            Self::Port(port) => frame(out, PORT, &[&port.to_be_bytes()]),
            Self::SuggestPiece(piece) => frame(out, SUGGEST_PIECE, &[&piece.to_be_bytes()]),
            Self::HaveAll => frame(out, HAVE_ALL, &[]),
            Self::HaveNone => frame(out, HAVE_NONE, &[]),
            Self::RejectRequest(request) => frame(out, REJECT_REQUEST, &[&request.to_bytes()]),
            Self::AllowedFast(piece) => frame(out, ALLOWED_FAST, &[&piece.to_be_bytes()]),
            Self::Extended { id, payload } => frame(out, EXTENDED, &[&[*id], payload]),
        }
    }

    /// The whole message.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::new();
        self.encode(&mut out);
        out.into()
    }
}

impl BlockRequest {
    fn to_bytes(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..4].copy_from_slice(&self.piece.to_be_bytes());
        out[4..8].copy_from_slice(&self.begin.to_be_bytes());
        out[8..].copy_from_slice(&self.len.to_be_bytes());
        out
    }
}

/// What precedes the `len` bytes of data of a piece message.
pub fn piece_header(piece: u32, begin: u32, len: u32) -> [u8; PIECE_HEADER_LEN] {
    let mut out = [0; PIECE_HEADER_LEN];
    out[..4].copy_from_slice(&len.saturating_add(9).to_be_bytes());
    out[4] = PIECE;
    out[5..9].copy_from_slice(&piece.to_be_bytes());
    out[9..].copy_from_slice(&begin.to_be_bytes());
    out
}

fn frame(out: &mut Vec<u8>, id: u8, parts: &[&[u8]]) {
    let len = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let len = u32::try_from(len).expect("no message of ours comes near 4 GiB");
    out.reserve(4 + len as usize);
    out.extend_from_slice(&len.to_be_bytes());
    out.push(id);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/swarm.md#3-message-framing-and-core-messages
    #[test]
    fn messages_have_the_published_bytes() {
        let request = BlockRequest { piece: 1, begin: 0x4000, len: 0x4000 };
        let cases: [(Message, &str); 8] = [
            (Message::KeepAlive, "00000000"),
            (Message::Choke, "0000000100"),
            (Message::Have(258), "000000050400000102"),
            (Message::Bitfield(Bytes::from_static(&[0x80])), "000000020580"),
            (Message::Request(request), "0000000d06000000010000400000004000"),
            (Message::RejectRequest(request), "0000000d10000000010000400000004000"),
            (Message::Port(6881), "00000003091ae1"),
            (Message::Extended { id: 3, payload: Bytes::from_static(b"de") }, "0000000414036465"),
        ];
        for (message, expected) in cases {
            assert_eq!(hex::encode(message.to_bytes()), expected);
        }
    }

    #[test]
    fn a_piece_in_two_parts_equals_the_whole_message() {
        let whole = Message::Piece { piece: 1, begin: 2, data: Bytes::from_static(b"abc") }.to_bytes();
        assert_eq!([piece_header(1, 2, 3).as_slice(), b"abc"].concat(), whole);
    }
}
