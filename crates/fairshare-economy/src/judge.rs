//! Whether the provider countersigns a settlement.
//= spec/economy.md#3-from-bytes-to-a-transaction

use crate::engine::Economy;
use crate::record::RecordKey;
use crate::window::{FLUSH_MIN, tolerance};
use fairshare_ledger::bandwidth::{Bandwidth, Settlement};
use fairshare_ledger::{BlockType, HalfBlock, Record};
use fairshare_wire::Now;
use thiserror::Error;

/// What to do with a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Sign it, with these records in the same transaction.
    Sign {
        /// The journal as it is with this settlement.
        records: Vec<Record>,
    },
    /// Do not sign it.
    Decline(DeclineReason),
}

/// Why a settlement is not countersigned.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeclineReason {
    /// Not a bandwidth proposal to us.
    #[error("not a settlement with this node")]
    NotOurs,
    /// It does not say that the payer took bytes and gave none.
    #[error("not the form of a payment")]
    Form,
    /// A proof of fraud stands against the payer.
    #[error("the payer has forked its chain")]
    Forker,
    /// The keys of the direct account are missing or malformed.
    #[error("not a payment of the direct account")]
    NotDirect,
    /// It is paid with receipts on third parties, which are not honoured yet.
    #[error("receipts on others are not honoured yet")]
    Via,
    /// It was paid already.
    #[error("{known} bytes are paid already, this payment ends at {cum}")]
    Duplicate {
        /// What is known to be paid.
        known: u64,
        /// What the payment says.
        cum: u64,
    },
    /// Earlier payments are missing.
    #[error("{known} bytes are paid, this payment of {down} ends at {cum}")]
    Gap {
        /// What is known to be paid.
        known: u64,
        /// Bytes of this payment.
        down: u64,
        /// What the payment says.
        cum: u64,
    },
    /// Too little for a block.
    #[error("{down} bytes are too few for a payment")]
    TooSmall {
        /// Bytes of this payment.
        down: u64,
    },
    /// More than we sent.
    #[error("{down} bytes are more than the {unpaid} that were sent and not paid")]
    NotSent {
        /// Bytes of this payment.
        down: u64,
        /// Bytes sent and not paid.
        unpaid: u64,
    },
    /// Not what the grants say.
    #[error("a charge of {charge} where the grants say {due}")]
    Charge {
        /// The charge of the payment.
        charge: u64,
        /// The charge by our grants.
        due: u64,
    },
    /// An account would overflow.
    #[error("the account would overflow")]
    Overflow,
}

impl Economy {
    /// Judges a proposal that pays us.
    pub fn judge(&mut self, now: Now, proposal: &HalfBlock) -> Judgement {
        match self.try_judge(now, proposal) {
            Ok(records) => Judgement::Sign { records },
            Err(reason) => Judgement::Decline(reason),
        }
    }

    fn try_judge(&mut self, now: Now, proposal: &HalfBlock) -> Result<Vec<Record>, DeclineReason> {
        let to_us = proposal.link_owner == self.me && proposal.owner != self.me;
        if !to_us || proposal.kind != BlockType::BANDWIDTH || !proposal.is_proposal() {
            return Err(DeclineReason::NotOurs);
        }
        let bandwidth = Bandwidth::decode(&proposal.transaction).map_err(|_| DeclineReason::Form)?;
        if bandwidth.up != 0 || bandwidth.down == 0 {
            return Err(DeclineReason::Form);
        }
        let peer = self.peers.get_mut(&proposal.owner);
        if peer.as_ref().is_some_and(|peer| peer.forker) {
            return Err(DeclineReason::Forker);
        }
        let settlement = bandwidth.settlement.ok_or(DeclineReason::NotDirect)?;
        let down = bandwidth.down;
        // Nothing was ever sent to a key without an account.
        let peer = peer.ok_or(DeclineReason::NotSent { down, unpaid: 0 })?;
        let (from, to) = (peer.give.signed_before(proposal.hash()), settlement.cum);
        check_amounts(from, peer.give.sent, down, &settlement)?;

        let charge = settlement.charge.unwrap_or(down);
        let due = peer.give.schedule.charge(from, to);
        let slack = peer.give.slack();
        let fit = peer.give.schedule.fit(from, to, charge, slack);
        let fit = fit.filter(|_| charge <= down).ok_or(DeclineReason::Charge { charge, due })?;
        peer.account.settle_given(down, charge, 0).map_err(|_| DeclineReason::Overflow)?;

        peer.give.schedule.extend(fit, to);
        peer.give.signing = Some((to, proposal.hash()));
        let (record, _) = peer.give.record(now, !peer.sessions.is_empty());
        Ok(vec![RecordKey::Given(proposal.owner).record(record.encode())])
    }
}

/// Everything but the charge: the amounts of a settlement against what is `known` to be paid and what was `sent`.
fn check_amounts(known: u64, sent: u64, down: u64, settlement: &Settlement) -> Result<(), DeclineReason> {
    let cum = settlement.cum;
    if !settlement.via.is_empty() {
        return Err(DeclineReason::Via);
    }
    if cum <= known {
        return Err(DeclineReason::Duplicate { known, cum });
    }
    if known.checked_add(down) != Some(cum) {
        return Err(DeclineReason::Gap { known, down, cum });
    }
    if down < FLUSH_MIN {
        return Err(DeclineReason::TooSmall { down });
    }
    let unpaid = sent.saturating_sub(known);
    if down > unpaid.saturating_add(tolerance(sent)) {
        return Err(DeclineReason::NotSent { down, unpaid });
    }
    Ok(())
}
