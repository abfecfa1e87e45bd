//! What goes into the ledger engine and what comes out of it.

use crate::block::{BlockHash, BlockType, HalfBlock};
use crate::fork::ForkProof;
use crate::store::{Batch, StoreError};
use fairshare_crypto::PublicKey;
use std::net::SocketAddr;
use std::sync::Arc;
use thiserror::Error;

/// Settings of the ledger.
#[derive(Clone, Debug, Default)]
pub struct LedgerConfig {
    /// Foreign block types that are countersigned blindly. For experiments; empty in the product.
    pub countersign: Vec<BlockType>,
}

/// Which community a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LedgerCommunity {
    /// The TrustChain community that living peers speak: messages 1 to 7, only 2 signed.
    TrustChain,
    /// Our ledger community: messages 1 to 5; 2, 3 and 4 signed.
    Own,
}

/// Who handed us a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The source address of a datagram.
    Address(SocketAddr),
    /// The proven key at the other end of an identity session.
    Connection(PublicKey),
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// A known address.
    Address(SocketAddr),
    /// The overlay address of a key, if the overlay knows one; else the message is dropped.
    Key(PublicKey),
    /// A random sample of at most that many verified peers of the community.
    Random(usize),
}

/// Why a proposal got no agreement.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeclineReason {
    /// Nobody here signs this type.
    ForeignType,
    /// The proposal breaks the rules of its type although the chain accepts it.
    Form(String),
    /// A proven forker gets no signature.
    Forker,
    /// The policy said no, with its own words.
    Policy(String),
}

/// What the engine wants done or has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerOutput {
    /// Write the batch, then call `persisted` or `persist_failed` with the ticket. Batches are written in the order
    /// of their tickets; after one that failed, later ones fail too until it comes again and is written.
    Persist {
        /// Names the batch; rising.
        ticket: u64,
        /// What to write, all of it or nothing.
        batch: Batch,
    },
    /// Send a message over the overlay.
    Send {
        /// Where it belongs.
        community: LedgerCommunity,
        /// Whom it is for.
        to: Recipient,
        /// Message id inside the community.
        id: u8,
        /// Whether the frame carries key and signature.
        signed: bool,
        /// The message's fields.
        payload: Vec<u8>,
    },
    /// Something happened.
    Event(LedgerEvent),
}

/// What happened in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LedgerEvent {
    /// An own block is on disk and may leave: over an open session to its counterparty too.
    Signed(Arc<HalfBlock>),
    /// An own block that left before should go to its counterparty again, over an open session too.
    Resent(Arc<HalfBlock>),
    /// A valid bandwidth proposal to us waits for a decision: agree or decline.
    AgreementWanted(Arc<HalfBlock>),
    /// Both halves are stored durably, and at least one is ours.
    Paired {
        /// The first half.
        proposal: Arc<HalfBlock>,
        /// The second half.
        agreement: Arc<HalfBlock>,
    },
    /// Both halves of a bandwidth settlement are stored durably, whoever they are of. Told once for each pair whose
    /// second half was stored since the start; for the others see [`crate::bandwidth_pairs`].
    Linked {
        /// The first half.
        proposal: Arc<HalfBlock>,
        /// The second half.
        agreement: Arc<HalfBlock>,
    },
    /// A received block was accepted; it reaches the disk with the next batch.
    Stored(Arc<HalfBlock>),
    /// Something received was refused.
    Rejected {
        /// Who sent it.
        from: Source,
        /// Why; a fixed text, for counting.
        reason: &'static str,
        /// The block, if it was one.
        block: Option<Arc<HalfBlock>>,
    },
    /// A proposal to us got no agreement. It may come again and be judged again.
    Declined {
        /// The proposal.
        proposal: Arc<HalfBlock>,
        /// Why.
        reason: DeclineReason,
    },
    /// A key is convicted by a proof that anyone can check.
    ForkProved(ForkProof),
    /// Nobody answered an own proposal for an hour. It stands and is resent rarely from now on.
    ProposalExpired(Arc<HalfBlock>),
    /// Blocks of our own key exist that this store never had. Nothing is signed before they are here.
    OwnChainBehind {
        /// The highest own number that was seen.
        seen: u32,
        /// The highest own number that is here without a gap before it.
        held: u32,
    },
    /// A batch could not be written. Nothing is signed until it is.
    PersistFailed {
        /// Which batch.
        ticket: u64,
        /// What the host said.
        reason: String,
    },
}

/// Why no block was signed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProposeError {
    /// The counterparty is our own key or no key.
    #[error("the counterparty is not another key")]
    Counterparty,
    /// A proven forker gets no signature, and ours is worth nothing if it is us.
    #[error("key {0} signed twice what it may sign once")]
    Forker(PublicKey),
    /// The proposal is not for us to agree to.
    #[error("block {0} is no proposal to this key")]
    NotForUs(BlockHash),
    /// We have never seen or no longer hold the proposal.
    #[error("proposal {0} is not in the store")]
    Unknown(BlockHash),
    /// The transaction is longer than our blocks may be, or cannot be decoded.
    #[error("transaction is not encoded within the bounds of our blocks")]
    Transaction,
    /// Totals would leave the range of the field.
    #[error("totals of the chain would overflow")]
    Overflow,
    /// Peers know own blocks that this store does not have.
    #[error("own chain is behind: number {seen} exists, this store holds up to {held}")]
    Behind {
        /// The highest own number that was seen.
        seen: u32,
        /// The highest own number held without a gap.
        held: u32,
    },
    /// The store failed to write; signing waits for it.
    #[error("the store does not accept writes")]
    Stalled,
    /// The new block would break a rule.
    #[error("new block would be invalid: {0}")]
    Invalid(String),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a message of the overlay was dropped.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// No message has this id in the community.
    #[error("message {0} is not known")]
    Unknown(u8),
    /// The fields are cut off, left over or out of range.
    #[error(transparent)]
    Form(#[from] crate::block::BlockError),
    /// A message that must be signed came without a sender.
    #[error("message {0} must be signed")]
    Unsigned(u8),
    /// The sender brought a false proof lately.
    #[error("sender is silenced for a false proof")]
    Silenced,
    /// The sender asks or tells more than its share.
    #[error("sender exceeds its rate")]
    Rate,
    /// A proof that proves nothing.
    #[error("fork proof is false: {0}")]
    FalseProof(crate::fork::ForkError),
}
