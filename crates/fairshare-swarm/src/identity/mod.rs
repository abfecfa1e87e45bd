//! `fs_identity`: binds a connection to an economy key on both sides, and carries counts, receipts, refusals,
//! grants and half blocks between them.
//!
//! [`Handshake`] runs the three messages that prove both keys and ends in a [`Session`], which seals our counts and
//! receipts and judges the peer's.
//= spec/swarm.md#8-identity-extension-fs_identity

mod counts;
mod grant;
mod handshake;
mod message;
mod refusal;
mod session;

pub use counts::{COUNT_MAC_LEN, Count, Receipt, Totals};
pub use grant::{Freed, GrantMessage, MAX_VIA, PRICE_MAX, PRICE_MIN};
pub use handshake::{Channel, Handshake, HandshakeError, Hello, HelloSecrets, MacKeys, Progress, Transcript};
pub use message::{MAX_BLOCK_LEN, Message, MessageError};
pub use refusal::{Refusal, RefusalDetails, RefusalReason};
pub use session::{CountFault, Session, counts_disagree};

/// The version of the extension, in the extended handshake (`fs_v`) and in the first two messages.
pub const VERSION: u8 = 1;

/// What every signed or derived text of the extension starts with.
const CONTEXT: &[u8; 14] = b"fs_identity/v1";

#[cfg(test)]
mod tests;
