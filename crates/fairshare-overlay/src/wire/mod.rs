//! The messages of the overlay itself: introductions and punctures of every community, and those of discovery.

mod discovery;
mod introduction;

pub use discovery::{SimilarityRequest, SimilarityResponse};
pub(crate) use discovery::{decode_identifier, encode_identifier};
pub use introduction::{IntroductionRequest, IntroductionResponse, Puncture, PunctureRequest, Style};
pub(crate) use introduction::{UNKNOWN, known, known_v4, same_host};

/// Message ids every community has.
//= spec/overlay.md#5-messages-of-every-community
pub mod id {
    /// New-style puncture.
    pub const NEW_PUNCTURE: u8 = 231;
    /// New-style puncture request.
    pub const NEW_PUNCTURE_REQUEST: u8 = 232;
    /// New-style introduction response.
    pub const NEW_INTRODUCTION_RESPONSE: u8 = 233;
    /// New-style introduction request.
    pub const NEW_INTRODUCTION_REQUEST: u8 = 234;
    /// Introduction response.
    pub const INTRODUCTION_RESPONSE: u8 = 245;
    /// Introduction request.
    pub const INTRODUCTION_REQUEST: u8 = 246;
    /// Puncture.
    pub const PUNCTURE: u8 = 249;
    /// Puncture request.
    pub const PUNCTURE_REQUEST: u8 = 250;

    /// Whether a message is an introduction or a puncture: those of every community.
    pub const fn is_walking(id: u8) -> bool {
        id >= NEW_PUNCTURE
    }

    /// Similarity request of discovery.
    pub const SIMILARITY_REQUEST: u8 = 1;
    /// Similarity response of discovery.
    pub const SIMILARITY_RESPONSE: u8 = 2;
    /// Ping of discovery.
    pub const PING: u8 = 3;
    /// Pong of discovery.
    pub const PONG: u8 = 4;
}
