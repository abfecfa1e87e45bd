//! Payouts: what is owed for carrying the bytes of circuits, and how it is settled.
//!
//! Neighbours on links keep one account with each other. What was carried is metered at both ends, promised by IOUs
//! while the circuits live, netted, and paid once an epoch by a block of a power of two MiB, at a moment that has
//! nothing to do with any circuit. The engine is told what the tunnels carried ([`Payouts::carried`]) and what
//! neighbours say ([`Payouts::link_message`]); it says what to send, what to sign, what to write, and what a neighbour
//! that does not pay may still do ([`PayoutsOutput`]).
//!
//! Everything that counts is either a block of the own chain, from which payments are counted at each start, or in the
//! records of [`PAYOUT_RECORD_KINDS`], which are written before the message that depends on them leaves.

mod account;
mod config;
mod engine;
mod exposure;
mod iou;
mod linking;
mod message;
mod metering;
mod output;
mod record;
mod rows;
mod settling;
#[cfg(test)]
mod tests;

pub use config::PayoutsConfig;
pub use engine::Payouts;
pub use iou::{Classes, IOU_LEN, Iou, IouFault};
pub use message::{BODY_LEN, BODY_LEN_BLOCKS, Bind, SettleCode, SettleMessage};
pub use output::{
    Carried, CarriedEnd, LinkAllowance, PayoutJudgement, PayoutView, PayoutsEvent, PayoutsOutput,
};
pub use record::PAYOUT_RECORD_KINDS;
