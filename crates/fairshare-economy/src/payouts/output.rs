//! What the payouts want done, what they tell, and how they are shown.

use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_ledger::{HalfBlock, Record};

/// Where a carried circuit ends, as this node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CarriedEnd {
    /// Not here: its bytes are passed on.
    #[default]
    Elsewhere,
    /// Here, and its traffic leaves.
    Exit,
    /// Here, where it is joined with the circuit of a hidden seeder. `to` is then the neighbour on the seeder's side.
    Rendezvous,
    /// Here, for anything else.
    Other,
}

/// Bytes carried between two neighbours in one metering period.
//= spec/payouts.md#32-price
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The neighbour towards the originator, by tunnel key; `None` = this node is the originator. At a rendezvous: the
    /// neighbour on the downloader's side.
    pub from: Option<PublicKey>,
    /// The neighbour away from the originator; `None` = the circuit ends here. At a rendezvous: the neighbour on the
    /// seeder's side.
    pub to: Option<PublicKey>,
    /// `from` is the originator itself.
    pub from_originator: bool,
    /// Where the circuit ends.
    pub end: CarriedEnd,
    /// Our own circuit to a hidden seeder from which we download. False for the circuits of a seeder.
    pub hidden: bool,
    /// Hops of our own circuit.
    pub hops: u8,
    /// UDP payload of cells on the link with `from`, both directions.
    pub from_bytes: u64,
    /// The same on the link with `to`.
    pub to_bytes: u64,
}

/// What a neighbour may do, by what it owes.
//= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkAllowance {
    /// Everything.
    #[default]
    Open,
    /// Go on with the circuits it has.
    NoNewCircuits,
    /// Use a twentieth of them.
    Slow,
    /// Nothing: its circuits are ended.
    Cut,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayoutsOutput {
    /// Send a settlement message to a neighbour, over whichever settlement link with it is open; open one if none is.
    LinkSend {
        /// The neighbour's tunnel key.
        neighbour: PublicKey,
        /// 40 to 46.
        id: u8,
        /// The padded body.
        body: Bytes,
    },
    /// Sign a payment of the tunnel account. Answered by [`super::Payouts::proposed`] or
    /// [`super::Payouts::propose_failed`].
    Propose {
        /// Who is paid, by TrustChain key.
        to: PublicKey,
        /// Bytes, a power of two in MiB.
        down: u64,
        /// The end of the epoch that is paid.
        timestamp_ms: u64,
        /// To be written in one transaction with the block.
        records: Vec<Record>,
    },
    /// A half block came over a link: hand it to the ledger as one that this key sent.
    Block {
        /// Whose payment or agreement it is.
        from: PublicKey,
        /// The half block.
        block: Box<HalfBlock>,
    },
    /// Write these records durably and soon, then call `persisted` with the ticket.
    Persist {
        /// Names the write; rising.
        ticket: u64,
        /// What to write.
        records: Vec<Record>,
    },
    /// What a neighbour may do changed.
    Allowance {
        /// The neighbour's tunnel key.
        neighbour: PublicKey,
        /// What it may do from now on.
        allowance: LinkAllowance,
    },
    /// Something happened.
    Event(PayoutsEvent),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PayoutsEvent {
    /// A neighbour proved which TrustChain key it is paid under.
    Bound {
        /// Its tunnel key.
        neighbour: PublicKey,
        /// Its TrustChain key.
        peer: PublicKey,
    },
    /// We signed a payment; the other half is to come.
    Paying {
        /// Who is paid.
        peer: PublicKey,
        /// Bytes.
        amount: u64,
        /// The epoch that is paid.
        epoch: u32,
    },
    /// A payment of ours is complete.
    Paid {
        /// Who was paid.
        peer: PublicKey,
        /// Bytes.
        amount: u64,
    },
    /// A payment to us is complete.
    Received {
        /// Who paid.
        peer: PublicKey,
        /// Bytes.
        amount: u64,
    },
    /// A payment did not come about; it is tried again.
    NotPaid {
        /// Who should be paid.
        peer: PublicKey,
        /// Why.
        reason: String,
    },
    /// A neighbour's IOUs stay behind what was measured.
    Disagreement {
        /// Who.
        peer: PublicKey,
        /// Measured here.
        measured: u64,
        /// What its IOU says.
        acknowledged: u64,
    },
    /// A neighbour has not paid what it signed for.
    Overdue {
        /// Who.
        peer: PublicKey,
        /// Bytes.
        amount: u64,
    },
    /// A relation is idle and less than the smallest payment is left of it.
    Forgiven {
        /// Who.
        peer: PublicKey,
        /// What stays unpaid, positive if we owe it.
        amount: i64,
    },
    /// A message or block was refused.
    Refused(&'static str),
}

/// Whether a payment to us is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayoutJudgement {
    /// Sign it, with these records in the same transaction.
    Sign {
        /// What changes with it.
        records: Vec<Record>,
    },
    /// Do not sign it.
    Decline(&'static str),
}

/// One tunnel account, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayoutView {
    /// The tunnel key, if the neighbour was met since the start or is bound.
    pub neighbour: Option<PublicKey>,
    /// The TrustChain key; `None` = it has not shown one.
    pub peer: Option<PublicKey>,
    /// What we measured of what we owe it at most, ever.
    pub measured_out: u64,
    /// What it may claim from us by measure, ever.
    pub measured_in: u64,
    /// What our newest IOU says.
    pub iou_out: u64,
    /// What its newest IOU says.
    pub iou_in: u64,
    /// What we paid by blocks, ever.
    pub paid_out: u64,
    /// What it paid by blocks, ever.
    pub paid_in: u64,
    /// What is left after netting, positive if we owe it.
    pub net: i64,
    /// What it may leave unpaid.
    pub limit: u64,
    /// What it leaves unpaid and uncovered.
    pub unpaid: u64,
    /// Since which epoch we deal with each other.
    pub since_epoch: u32,
    /// When we shall look whether something is to be paid, milliseconds since 1970.
    pub next_payment_ms: Option<u64>,
    /// What it may do.
    pub allowance: LinkAllowance,
}
