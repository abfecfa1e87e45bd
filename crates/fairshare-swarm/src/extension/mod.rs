//! The extension protocol (BEP 10) and the standard extensions on it.
//!
//! Extension messages are numbered by their receiver: to send one, use the number in the peer's handshake; what
//! arrives carries one of [`OUR_IDS`].
//= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions

mod handshake;
mod metadata;
mod pex;

pub use handshake::{ExtendedHandshake, MAX_NAME_LEN, MAX_NAMES};
pub use metadata::{METADATA_PIECE_LEN, MetadataMessage, metadata_piece_count};
pub(crate) use pex::compact_addresses;
pub use pex::{MAX_PEX_ENTRIES, Pex, PexFlags, PexPeer};

use crate::bencode::BencodeError;
use bytes::Bytes;
use thiserror::Error;

/// The number of the extended handshake itself.
pub const HANDSHAKE_ID: u8 = 0;
/// Our number for peer exchange.
pub const UT_PEX_ID: u8 = 1;
/// Our number for withdrawn pieces.
pub const LT_DONTHAVE_ID: u8 = 2;
/// Our number for metadata.
pub const UT_METADATA_ID: u8 = 3;
/// Our number for "I only upload".
pub const UPLOAD_ONLY_ID: u8 = 4;
/// Our number for identities.
pub const FS_IDENTITY_ID: u8 = 9;

/// Name of peer exchange.
pub const UT_PEX: &str = "ut_pex";
/// Name of withdrawn pieces.
pub const LT_DONTHAVE: &str = "lt_donthave";
/// Name of metadata.
pub const UT_METADATA: &str = "ut_metadata";
/// Name of "I only upload".
pub const UPLOAD_ONLY: &str = "upload_only";
/// Name of identities.
pub const FS_IDENTITY: &str = "fs_identity";

/// What we can receive, by name and our number.
pub const OUR_IDS: [(&str, u8); 5] = [
    (UT_PEX, UT_PEX_ID),
    (LT_DONTHAVE, LT_DONTHAVE_ID),
    (UT_METADATA, UT_METADATA_ID),
    (UPLOAD_ONLY, UPLOAD_ONLY_ID),
    (FS_IDENTITY, FS_IDENTITY_ID),
];

/// Why the payload of an extension message is refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtensionError {
    /// Not bencoded.
    #[error(transparent)]
    Bencode(#[from] BencodeError),
    /// A key is missing or its value is of the wrong kind.
    #[error("no usable value under {0:?}")]
    Key(&'static str),
    /// More than what is allowed.
    #[error("too many or too long: {0}")]
    TooMuch(&'static str),
    /// The payload has the wrong length.
    #[error("a payload of {0} bytes")]
    Length(usize),
}

/// The payload of `lt_donthave`: the sender has `piece` no longer.
pub fn encode_dont_have(piece: u32) -> Bytes {
    Bytes::copy_from_slice(&piece.to_be_bytes())
}

/// Reads the payload of `lt_donthave`.
pub fn parse_dont_have(payload: &[u8]) -> Result<u32, ExtensionError> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| ExtensionError::Length(payload.len()))
}

/// The payload of `upload_only`.
pub fn encode_upload_only(only: bool) -> Bytes {
    Bytes::copy_from_slice(&[u8::from(only)])
}

/// Reads the payload of `upload_only`.
pub fn parse_upload_only(payload: &[u8]) -> Result<bool, ExtensionError> {
    match payload {
        [flag] => Ok(*flag != 0),
        _ => Err(ExtensionError::Length(payload.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    #[test]
    fn the_small_extensions_are_read_back_and_other_lengths_refused() {
        assert_eq!(parse_dont_have(&encode_dont_have(258)), Ok(258));
        assert_eq!(parse_dont_have(&[0; 5]), Err(ExtensionError::Length(5)));
        assert_eq!(parse_upload_only(&encode_upload_only(true)), Ok(true));
        assert_eq!(parse_upload_only(&encode_upload_only(false)), Ok(false));
        assert_eq!(parse_upload_only(&[]), Err(ExtensionError::Length(0)));
    }
}
