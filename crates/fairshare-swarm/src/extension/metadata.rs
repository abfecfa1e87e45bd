//! Metadata from peers (BEP 9): the info dictionary in parts of 16 KiB.

use super::ExtensionError;
use crate::bencode::{Limits, Tree, Value};
use bytes::Bytes;

/// Bytes of every part of the metadata but the last.
pub const METADATA_PIECE_LEN: u32 = 16_384;
/// Bytes of the dictionary in front of the data.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const MAX_HEADER_LEN: usize = 1_024;

const REQUEST: i64 = 0;
const DATA: i64 = 1;
const REJECT: i64 = 2;

/// Number of parts of metadata of `size` bytes.
pub const fn metadata_piece_count(size: u32) -> u32 {
    size.div_ceil(METADATA_PIECE_LEN)
}

/// A message of `ut_metadata`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataMessage {
    /// Asks for a part.
    Request {
        /// Number of the part.
        piece: u32,
    },
    /// A part.
    Data {
        /// Number of the part.
        piece: u32,
        /// Bytes of the whole metadata; some clients leave it out.
        total_size: Option<u32>,
        /// The bytes.
        data: Bytes,
    },
    /// The part will not be sent.
    Reject {
        /// Number of the part.
        piece: u32,
    },
}

impl MetadataMessage {
    /// Reads a message; `None` for a type that we do not know, which is to be ignored.
    pub fn parse(payload: &Bytes) -> Result<Option<Self>, ExtensionError> {
        let (header, rest) = Value::parse_prefix(payload, Limits::NETWORK)?;
        if header.raw().len() > MAX_HEADER_LEN {
            return Err(ExtensionError::TooMuch("the header of a metadata message"));
        }
        let int = |key: &'static str| header.get(key).and_then(Value::int).ok_or(ExtensionError::Key(key));
        let unsigned = |key| u32::try_from(int(key)?).map_err(|_| ExtensionError::Key(key));
        let kind = int("msg_type")?;
        if !(REQUEST..=REJECT).contains(&kind) {
            return Ok(None);
        }
        let piece = unsigned("piece")?;
        Ok(Some(match kind {
            REQUEST => Self::Request { piece },
            REJECT => Self::Reject { piece },
            _ if rest.len() > METADATA_PIECE_LEN as usize => {
                return Err(ExtensionError::TooMuch("a part of the metadata"));
            }
            _ => Self::Data { piece, total_size: unsigned("total_size").ok(), data: payload.slice_ref(rest) },
        }))
    }

    /// The payload of the message.
    pub fn encode(&self) -> Vec<u8> {
        let header =
            |kind, piece: &u32| vec![("msg_type", Tree::Int(kind)), ("piece", Tree::Int(i64::from(*piece)))];
        match self {
            Self::Request { piece } => Tree::dict(header(REQUEST, piece)).encode(),
            Self::Reject { piece } => Tree::dict(header(REJECT, piece)).encode(),
            Self::Data { piece, total_size, data } => {
                let mut entries = header(DATA, piece);
                entries.extend(total_size.map(|size| ("total_size", Tree::Int(i64::from(size)))));
                let mut out = Tree::dict(entries).encode();
                out.extend_from_slice(data);
                out
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    #[test]
    fn messages_have_the_published_form() {
        let data =
            MetadataMessage::Data { piece: 0, total_size: Some(3_425), data: Bytes::from_static(b"xxxx") };
        let cases = [
            (MetadataMessage::Request { piece: 0 }, "d8:msg_typei0e5:piecei0ee"),
            (data, "d8:msg_typei1e5:piecei0e10:total_sizei3425eexxxx"),
            (MetadataMessage::Reject { piece: 0 }, "d8:msg_typei2e5:piecei0ee"),
        ];
        for (message, expected) in cases {
            assert_eq!(message.encode(), expected.as_bytes());
            assert_eq!(MetadataMessage::parse(&message.encode().into()), Ok(Some(message)));
        }
    }

    #[test]
    fn unknown_types_are_ignored_and_bad_ones_refused() {
        let parse = |text: &'static str| MetadataMessage::parse(&Bytes::from_static(text.as_bytes()));
        assert_eq!(parse("d8:msg_typei3ee"), Ok(None));
        assert_eq!(parse("d8:msg_typei0ee"), Err(ExtensionError::Key("piece")));
        assert_eq!(parse("d8:msg_typei0e5:piecei-1ee"), Err(ExtensionError::Key("piece")));
        assert_eq!(parse("le"), Err(ExtensionError::Key("msg_type")));
    }

    //= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
    #[test]
    fn a_part_or_header_that_is_too_long_is_refused() {
        let data = Bytes::from(vec![0; METADATA_PIECE_LEN as usize + 1]);
        let message = MetadataMessage::Data { piece: 0, total_size: None, data };
        let too_long = ExtensionError::TooMuch("a part of the metadata");
        assert_eq!(MetadataMessage::parse(&message.encode().into()), Err(too_long));
        let header = format!("d1:a{}:{}8:msg_typei0e5:piecei0ee", 1_000, "x".repeat(1_000));
        assert!(MetadataMessage::parse(&header.into()).is_err());
        assert_eq!(metadata_piece_count(METADATA_PIECE_LEN + 1), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60), cut in 0usize..60) {
            let _ = MetadataMessage::parse(&bytes.clone().into());
            let mut message = MetadataMessage::Data { piece: 7, total_size: Some(9), data: bytes.into() }.encode();
            message.truncate(cut);
            let _ = MetadataMessage::parse(&message.into());
        }
    }
}
