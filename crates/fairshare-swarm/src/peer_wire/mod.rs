//! The BitTorrent peer wire: handshake, message framing and the messages of BEP 3, 5, 6 and 10.
//!
//! [`Decoder`] turns the bytes of a connection into [`Incoming`] items and enforces the length limits of every
//! message; payload that arrives in one chunk is never copied. [`Message::encode`] and [`piece_header`] write.

mod decoder;
mod handshake;
mod message;

pub use decoder::{Decoder, Incoming, WireError};
pub use handshake::{HANDSHAKE_LEN, Handshake, OPENING_LEN, PeerId, Reserved};
pub use message::{BlockRequest, Message, PIECE_HEADER_LEN, piece_header};
