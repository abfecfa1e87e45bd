//! What the engine says and is told: names, outputs, events and views.

use crate::account::PairAccount;
use crate::schedule::Grant;
use crate::verdict::Refusal;
use fairshare_crypto::PublicKey;
use fairshare_ledger::Record;
use fairshare_ledger::bandwidth::Settlement;

/// One verified connection with a peer; the swarm's stream id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What the engine wants done or has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EconomyOutput {
    /// Write these records durably and soon, then call `persisted` with the ticket.
    Persist {
        /// Names the write; rising.
        ticket: u64,
        /// What to write.
        records: Vec<Record>,
    },
    /// Sign a settlement, this node paying. Answered by `propose_failed` if that cannot be done.
    Propose {
        /// Who is paid.
        to: PublicKey,
        /// Real bytes.
        down: u64,
        /// The keys of the direct account.
        settlement: Settlement,
        /// To be written in one transaction with the block.
        records: Vec<Record>,
    },
    /// Tell the peer of a grant, before the first byte under it. A grant that it may know already is told again on
    /// each new connection; the number makes that harmless.
    Grant {
        /// Where.
        session: SessionId,
        /// The grant.
        grant: Grant,
    },
    /// Tell the peer that the rest of a grant is released.
    Freed {
        /// Where.
        session: SessionId,
        /// Which grant.
        number: u32,
        /// Its room from now on, in real bytes.
        used: u64,
    },
    /// Payload bytes that the session may have sent in all from now on. It may fall: then nothing more is sent.
    ServeLimit {
        /// Where.
        session: SessionId,
        /// Payload bytes since the session began.
        total: u64,
    },
    /// Tell the peer that it is refused, and why.
    Refuse {
        /// Where.
        session: SessionId,
        /// Why, with the numbers.
        refusal: Refusal,
    },
    /// The verdict on this session may have changed: ask again.
    Rejudge {
        /// Which.
        session: SessionId,
    },
    /// Something happened.
    Event(EconomyEvent),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EconomyEvent {
    /// A peer settled bytes it took from us; both halves are stored.
    Received {
        /// Who paid.
        peer: PublicKey,
        /// Real bytes.
        down: u64,
        /// Charged bytes.
        charge: u64,
        /// All it ever paid.
        cum: u64,
    },
    /// A peer signed for bytes that we took from it; both halves are stored.
    Paid {
        /// Who was paid.
        peer: PublicKey,
        /// Real bytes.
        down: u64,
        /// Charged bytes.
        charge: u64,
        /// All we ever paid.
        cum: u64,
    },
    /// We signed for bytes that we took; the peer's half is still to come.
    Settling {
        /// Who is to be paid.
        peer: PublicKey,
        /// The number of our half block.
        sequence: u32,
        /// Real bytes.
        down: u64,
        /// All we ever signed for, this included.
        cum: u64,
    },
    /// A settlement could not be signed. It is tried again.
    NotSettled {
        /// Who is to be paid.
        peer: PublicKey,
        /// The ledger's words.
        reason: String,
    },
    /// A grant was reserved and stored.
    Granted {
        /// For whom.
        peer: PublicKey,
        /// The grant.
        grant: Grant,
        /// Whether it comes out of the stranger pool.
        pool: bool,
    },
    /// A peer's window of unpaid bytes is full; nothing is sent until it pays.
    WindowFull {
        /// Who.
        peer: PublicKey,
        /// Bytes it has acknowledged and not paid.
        unpaid: u64,
        /// The window.
        window: u64,
    },
    /// It paid, or part of it.
    WindowOpen {
        /// Who.
        peer: PublicKey,
    },
    /// A pair moved nothing, because an account would overflow or its transaction cannot be read.
    PairIgnored {
        /// With whom.
        peer: PublicKey,
    },
    /// The price of new grants changed.
    Price {
        /// Charged bytes per 65,536 real ones.
        price: u32,
    },
}

/// What one peer and we are to each other, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// The peer.
    pub peer: PublicKey,
    /// The records of both directions, holds included.
    pub account: PairAccount,
    /// L(peer, me): what the peer may claim from us, in charged bytes.
    pub claim_of_peer: i128,
    /// L(me, peer): what we may claim from it, as far as we know.
    pub claim_on_peer: i128,
    /// Verified bytes we took from it.
    pub recv: u64,
    /// Bytes we sent to it.
    pub sent: u64,
    /// Of those, what it acknowledged as verified.
    pub verified: u64,
    /// What we signed to have taken.
    pub paid_to: u64,
    /// Of those, what it signed too.
    pub confirmed_to: u64,
    /// What it paid us; both halves are stored.
    pub paid_from: u64,
    /// What it may leave unpaid.
    pub window: u64,
    /// Bytes of the last 30 days that it never acknowledged.
    pub lost: u64,
    /// Open connections.
    pub sessions: usize,
    /// Whether the user marked it as a friend.
    pub friend: bool,
}
