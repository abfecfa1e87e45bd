//! Why a provider does not serve a peer, with the numbers that would change it.
//= spec/swarm.md#84-settlement-and-evidence-on-the-connection

use fairshare_wire::{ReadError, Reader, Writer};
use std::fmt;

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalReason {
    /// The peer's account is used up.
    Balance,
    /// The peer did not pay for what it got.
    Unpaid,
    /// The counts of both sides disagree.
    Dispute,
    /// The peer signed two blocks under one number, or cheated otherwise.
    Fraud,
    /// What strangers get is used up.
    StrangerLimit,
    /// The torrent is private.
    Private,
    /// No capacity is left.
    Busy,
    /// A reason that we do not know.
    Other(u8),
}

impl RefusalReason {
    /// The reason with this code.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Balance,
            2 => Self::Unpaid,
            3 => Self::Dispute,
            4 => Self::Fraud,
            5 => Self::StrangerLimit,
            6 => Self::Private,
            7 => Self::Busy,
            other => Self::Other(other),
        }
    }

    /// Its code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Balance => 1,
            Self::Unpaid => 2,
            Self::Dispute => 3,
            Self::Fraud => 4,
            Self::StrangerLimit => 5,
            Self::Private => 6,
            Self::Busy => 7,
            Self::Other(code) => code,
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balance => f.write_str("balance"),
            Self::Unpaid => f.write_str("unpaid"),
            Self::Dispute => f.write_str("dispute"),
            Self::Fraud => f.write_str("fraud"),
            Self::StrangerLimit => f.write_str("stranger limit"),
            Self::Private => f.write_str("private"),
            Self::Busy => f.write_str("busy"),
            Self::Other(code) => write!(f, "reason {code}"),
        }
    }
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// Charged bytes that are missing.
    pub missing: i64,
    /// When to ask again, in seconds.
    pub retry_s: u32,
    /// What the provider's judgement rests on.
    pub details: Option<RefusalDetails>,
}

/// What a refusal rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalDetails {
    /// Number of the peer's newest block that the provider knows; 0 = none.
    pub seen_number: u32,
    /// Hash of that block.
    pub seen_hash: [u8; 32],
    /// The peer's flow as the provider sees it.
    pub flow: i64,
    /// Charged bytes to show, buy or earn.
    pub need: u64,
}

impl Refusal {
    pub(super) fn read(input: &mut Reader<'_>) -> Result<Self, ReadError> {
        let reason = RefusalReason::from_code(input.u8()?);
        let (missing, retry_s) = (input.i64()?, input.u32()?);
        let details = if input.left() == 0 { None } else { Some(RefusalDetails::read(input)?) };
        Ok(Self { reason, missing, retry_s, details })
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.u8(self.reason.code()).i64(self.missing).u32(self.retry_s);
        if let Some(details) = &self.details {
            out.u32(details.seen_number).bytes(&details.seen_hash).i64(details.flow).u64(details.need);
        }
    }
}

impl RefusalDetails {
    fn read(input: &mut Reader<'_>) -> Result<Self, ReadError> {
        Ok(Self {
            seen_number: input.u32()?,
            seen_hash: input.array()?,
            flow: input.i64()?,
            need: input.u64()?,
        })
    }
}
