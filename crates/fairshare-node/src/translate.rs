//! The words that two engines have for one thing. Engines of one floor do not know each other; they meet here.

use fairshare_economy::payouts::{Carried as PaidCarried, CarriedEnd, LinkAllowance};
use fairshare_economy::{Grant, Refusal, RefusalReason, Verdict};
use fairshare_ledger::{BlockHash, LedgerCommunity, MessageError};
use fairshare_overlay::community;
use fairshare_swarm::{
    GrantMessage, Refusal as WireRefusal, RefusalDetails, RefusalReason as WireReason,
    Verdict as SwarmVerdict,
};
use fairshare_tunnel::{Allowance, Carried, CircuitEnd};
use fairshare_wire::CommunityId;

/// The ledger's name for an overlay community that carries its messages.
pub(crate) fn ledger_community(id: CommunityId) -> Option<LedgerCommunity> {
    match id {
        community::TRUSTCHAIN => Some(LedgerCommunity::TrustChain),
        community::LEDGER => Some(LedgerCommunity::Own),
        _ => None,
    }
}

/// The overlay community that carries the ledger's messages.
pub(crate) const fn overlay_community(known: LedgerCommunity) -> CommunityId {
    match known {
        LedgerCommunity::TrustChain => community::TRUSTCHAIN,
        LedgerCommunity::Own => community::LEDGER,
    }
}

/// The chain length in the extra bytes of an introduction, if they hold one.
//= spec/trustchain.md#5-messages
pub(crate) fn chain_length(extra: &[u8]) -> Option<i32> {
    extra.try_into().ok().map(i32::from_be_bytes)
}

/// A ledger message that was dropped, as it is counted and shown.
pub(crate) const fn message_refusal(error: &MessageError) -> &'static str {
    match error {
        MessageError::Unknown(_) => "unknown ledger message",
        MessageError::Unsigned(_) => "unsigned ledger message that must be signed",
        MessageError::Silenced => "ledger message of a silenced sender",
        MessageError::Rate => "too many ledger messages of one sender",
        MessageError::FalseProof(_) => "false fork proof",
        _ => "malformed ledger message",
    }
}

/// The choker's form of a verdict.
pub(crate) const fn verdict(verdict: &Verdict) -> SwarmVerdict {
    match verdict {
        Verdict::Serve { priority } => SwarmVerdict::Serve { priority: *priority, pool: false },
        Verdict::Pool => SwarmVerdict::Serve { priority: 0, pool: true },
        Verdict::Choke => SwarmVerdict::Choke,
        Verdict::Refuse(_) => SwarmVerdict::Refuse,
    }
}

/// A grant of ours as it is told; no receipts of third parties are honoured yet.
pub(crate) const fn grant_to_wire(grant: &Grant) -> GrantMessage {
    let Grant { number, price, room, own } = *grant;
    GrantMessage { number, price, room, own, via: Vec::new() }
}

/// A grant of a provider as we account for it.
pub(crate) const fn grant_from_wire(message: &GrantMessage) -> Grant {
    Grant { number: message.number, price: message.price, room: message.room, own: message.own }
}

/// A refusal of ours as it is told.
pub(crate) fn refusal_to_wire(refusal: &Refusal) -> WireRefusal {
    let (seen_number, seen_hash) = refusal.seen.map_or((0, [0; 32]), |(number, hash)| (number, hash.0));
    WireRefusal {
        reason: WireReason::from_code(refusal.reason.code()),
        missing: i64::try_from(refusal.need).unwrap_or(i64::MAX),
        retry_s: refusal.retry_s,
        details: Some(RefusalDetails { seen_number, seen_hash, flow: refusal.flow, need: refusal.need }),
    }
}

/// A provider's refusal as we account for it; a reason that we do not know counts as busy.
pub(crate) fn refusal_from_wire(message: &WireRefusal) -> Refusal {
    let details = message.details;
    Refusal {
        reason: RefusalReason::from_code(message.reason.code()).unwrap_or(RefusalReason::Busy),
        retry_s: message.retry_s,
        flow: details.map_or(0, |details| details.flow),
        need: details.map_or_else(|| u64::try_from(message.missing).unwrap_or(0), |details| details.need),
        seen: details
            .filter(|details| details.seen_number > 0)
            .map(|details| (details.seen_number, BlockHash(details.seen_hash))),
    }
}

/// What the circuits carried, in the words of those who charge for it.
pub(crate) const fn carried(carried: &Carried) -> PaidCarried {
    let end = match carried.end {
        CircuitEnd::Elsewhere => CarriedEnd::Elsewhere,
        CircuitEnd::Exit => CarriedEnd::Exit,
        CircuitEnd::Rendezvous => CarriedEnd::Rendezvous,
        CircuitEnd::Other => CarriedEnd::Other,
    };
    PaidCarried {
        from: carried.from,
        to: carried.to,
        from_originator: carried.from_originator,
        end,
        hidden: carried.hidden,
        hops: carried.hops,
        from_bytes: carried.from_bytes,
        to_bytes: carried.to_bytes,
    }
}

/// What a neighbour may do, in the words of the circuits.
pub(crate) const fn allowance(allowance: LinkAllowance) -> Allowance {
    match allowance {
        LinkAllowance::Open => Allowance::Open,
        LinkAllowance::NoNewCircuits => Allowance::NoNewCircuits,
        LinkAllowance::Slow => Allowance::Slow,
        LinkAllowance::Cut => Allowance::Cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/trustchain.md#5-messages
    #[test]
    fn the_chain_length_is_four_bytes_or_not_told() {
        assert_eq!(chain_length(&[0, 0, 1, 2]), Some(258));
        assert_eq!(chain_length(&[]), None);
        assert_eq!(chain_length(&[0; 5]), None);
    }

    //= spec/swarm.md#84-settlement-and-evidence-on-the-connection
    #[test]
    fn a_refusal_means_the_same_at_the_other_end() {
        let seen = Some((7, BlockHash([3; 32])));
        for (code, seen) in (1..=7).zip([None, seen].into_iter().cycle()) {
            let reason = RefusalReason::from_code(code).expect("a reason of ours");
            let refusal = Refusal { reason, retry_s: 60, flow: -41, need: 42, seen };
            assert_eq!(refusal_from_wire(&refusal_to_wire(&refusal)), refusal);
        }
    }

    #[test]
    fn a_refusal_without_its_tail_still_says_what_is_missing() {
        let short = WireRefusal { reason: WireReason::Other(99), missing: 5, retry_s: 1, details: None };
        let read = refusal_from_wire(&short);
        assert_eq!((read.reason, read.need, read.flow, read.seen), (RefusalReason::Busy, 5, 0, None));
    }

    #[test]
    fn a_grant_means_the_same_at_the_other_end() {
        let grant = Grant { number: 3, price: 8192, room: 1 << 20, own: 1 << 17 };
        let message = grant_to_wire(&grant);
        assert!(message.is_consistent());
        assert_eq!(grant_from_wire(&message), grant);
    }

    #[test]
    fn both_communities_of_the_ledger_are_found_again() {
        for known in [LedgerCommunity::TrustChain, LedgerCommunity::Own] {
            assert_eq!(ledger_community(overlay_community(known)), Some(known));
        }
        assert_eq!(ledger_community(community::DISCOVERY), None);
    }
}
