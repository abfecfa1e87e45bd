//! A connection on which both keys are proven: our counts and receipts go out in order, the peer's are judged.
//= spec/swarm.md#83-counts-and-exposure

use super::counts::{Count, Receipt, Totals};
use super::handshake::Transcript;
use crate::metainfo::InfoHash;
use fairshare_crypto::{PublicKey, SecretKey, Signature};
use thiserror::Error;

/// Bytes sent before a disagreement about them means anything.
const DISAGREEMENT_MIN: u64 = 64 << 20;
/// Tolerated disagreement: 1/50 of what was sent.
const DISAGREEMENT_PART: u64 = 50;

/// What is wrong with a count or receipt. Its numbers are not used.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CountFault {
    /// The seal or signature is not the peer's.
    #[error("the seal or signature is wrong")]
    Forged,
    /// The number is not higher than the last one.
    #[error("sequence number {got} after {last}")]
    Sequence {
        /// The number.
        got: u32,
        /// The highest before it.
        last: u32,
    },
    /// A number is lower than it was.
    #[error("a count went down")]
    Shrank,
    /// More was verified than accepted.
    #[error("{verified} bytes verified, only {accepted} accepted")]
    Order {
        /// Bytes said to be verified.
        verified: u64,
        /// Bytes said to be accepted.
        accepted: u64,
    },
    /// More was received than we sent.
    #[error("{acknowledged} bytes acknowledged, only {sent} sent")]
    Invented {
        /// Bytes said to be received.
        acknowledged: u64,
        /// Bytes we sent.
        sent: u64,
    },
    /// A receipt for another session, uploader or torrent.
    #[error("a receipt for another session, uploader or torrent")]
    OtherSession,
}

/// Both ends of a verified connection.
#[derive(Clone)]
pub struct Session {
    peer: PublicKey,
    transcript: Transcript,
    info_hash: InfoHash,
    our_mac_key: [u8; 32],
    peer_mac_key: [u8; 32],
    sequence: u32,
    peer_sequence: u32,
    reported: Totals,
}

impl Session {
    pub(super) const fn new(
        peer: PublicKey,
        transcript: Transcript,
        info_hash: InfoHash,
        our_mac_key: [u8; 32],
        peer_mac_key: [u8; 32],
    ) -> Self {
        let reported = Totals { verified: 0, accepted: 0, sent: 0 };
        Self {
            peer,
            transcript,
            info_hash,
            our_mac_key,
            peer_mac_key,
            sequence: 0,
            peer_sequence: 0,
            reported,
        }
    }

    /// Our next count.
    pub fn count(&mut self, totals: Totals) -> Count {
        let sequence = self.next_sequence();
        Count::seal(&self.our_mac_key, sequence, totals)
    }

    /// Our next receipt, for what we got from the peer. `key` is the one the session began with.
    pub fn receipt(&mut self, key: &SecretKey, verified: u64, unix_ms: u64) -> Receipt {
        let unsigned = Receipt {
            sequence: self.next_sequence(),
            info_hash: self.info_hash,
            uploader: self.peer,
            session: self.transcript,
            verified,
            unix_ms,
            signature: Signature([0; 64]),
        };
        unsigned.signed(key)
    }

    /// Judges a count of the peer, to whom we sent `sent` bytes, and keeps its numbers if it is good.
    pub fn accept_count(&mut self, count: &Count, sent: u64) -> Result<Totals, CountFault> {
        if !count.is_sealed_with(&self.peer_mac_key) {
            return Err(CountFault::Forged);
        }
        self.accept(count.sequence, count.totals, sent)
    }

    /// Judges a receipt of the peer for `us`, who sent `sent` bytes, and keeps its number if it is good.
    pub fn accept_receipt(
        &mut self,
        receipt: &Receipt,
        us: &PublicKey,
        sent: u64,
    ) -> Result<Totals, CountFault> {
        let is_ours = receipt.uploader == *us
            && receipt.session == self.transcript
            && receipt.info_hash == self.info_hash;
        if !is_ours {
            return Err(CountFault::OtherSession);
        }
        if receipt.sequence <= self.peer_sequence {
            // Before the signature, which is what costs time.
            return Err(CountFault::Sequence { got: receipt.sequence, last: self.peer_sequence });
        }
        if !receipt.is_signed_by(&self.peer) {
            return Err(CountFault::Forged);
        }
        // What is verified was accepted, though the count that says so may be still to come.
        let accepted = self.reported.accepted.max(receipt.verified);
        self.accept(receipt.sequence, Totals { verified: receipt.verified, accepted, ..self.reported }, sent)
    }

    /// The peer.
    pub const fn peer(&self) -> PublicKey {
        self.peer
    }

    /// The name of the session.
    pub const fn transcript(&self) -> Transcript {
        self.transcript
    }

    /// The newest good numbers of the peer: what it received from us and says it sent.
    pub const fn reported(&self) -> Totals {
        self.reported
    }

    fn accept(&mut self, sequence: u32, totals: Totals, sent: u64) -> Result<Totals, CountFault> {
        let last = self.peer_sequence;
        if sequence <= last {
            return Err(CountFault::Sequence { got: sequence, last });
        }
        let Totals { verified, accepted, sent: peer_sent } = totals;
        if verified < self.reported.verified
            || accepted < self.reported.accepted
            || peer_sent < self.reported.sent
        {
            return Err(CountFault::Shrank);
        }
        if verified > accepted {
            return Err(CountFault::Order { verified, accepted });
        }
        if accepted > sent {
            return Err(CountFault::Invented { acknowledged: accepted, sent });
        }
        (self.peer_sequence, self.reported) = (sequence, totals);
        Ok(totals)
    }

    const fn next_sequence(&mut self) -> u32 {
        // At one count a second this ends after 136 years; then the peer finds the repeated number.
        self.sequence = self.sequence.saturating_add(1);
        self.sequence
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session(with {:?})", self.peer)
    }
}

/// Whether both sides disagree too much about what was sent: `sent` by one, `accepted` or wasted at the other.
pub const fn counts_disagree(sent: u64, accepted: u64, waste: u64) -> bool {
    sent >= DISAGREEMENT_MIN && sent.abs_diff(accepted.saturating_add(waste)) > sent / DISAGREEMENT_PART
}
