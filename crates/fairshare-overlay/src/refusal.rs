//! Why a datagram was refused. Each reason is counted; nothing is dropped silently.

use fairshare_wire::{FrameError, ReadError};

/// A reason to refuse a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    SourceRate,
    SourceAddress,
    NotIpv8,
    UnknownCommunity,
    DeprecatedId,
    UnknownId,
    Malformed,
    KeyForm,
    OwnKey,
    PeerLimit,
    SignatureBudget,
    Signature,
    Unrequested,
    PunctureStranger,
    PunctureRate,
    PunctureTarget,
    MessageTooLarge,
}

impl Refusal {
    /// The reason as it is counted and shown.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::SourceRate => "too many datagrams from one source",
            Self::SourceAddress => "the source address cannot be answered",
            Self::NotIpv8 => "not an IPv8 packet",
            Self::UnknownCommunity => "unknown community",
            Self::DeprecatedId => "deprecated message id",
            Self::UnknownId => "unknown message id",
            Self::Malformed => "malformed message",
            Self::KeyForm => "not a Curve25519 key",
            Self::OwnKey => "signed with our own key",
            Self::PeerLimit => "peer limit reached",
            Self::SignatureBudget => "no budget to check the signature",
            Self::Signature => "the signature does not verify",
            Self::Unrequested => "answer to nothing we asked",
            Self::PunctureStranger => "puncture request of a stranger",
            Self::PunctureRate => "too many puncture requests",
            Self::PunctureTarget => "puncture towards an impossible address",
            Self::MessageTooLarge => "message too large for a datagram",
        }
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Prefix => Self::NotIpv8,
            FrameError::Key => Self::KeyForm,
            FrameError::Signature => Self::Signature,
            _ => Self::Malformed,
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(_: ReadError) -> Self {
        Self::Malformed
    }
}
