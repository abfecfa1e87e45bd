//! Who may take: the verdict `receipts`, a total and deterministic function of what this node knows itself.
//= spec/economy.md#53-verdict-grant-settlement

use crate::schedule::room_of;
use fairshare_ledger::BlockHash;

/// The admission policy. Unknown names are refused where the configuration is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// A byte given is a receipt; the default.
    #[default]
    Receipts,
    /// Everybody is served at full price: the control of the experiments.
    None,
}

/// What the choker may do with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Serve it, in this order among the served.
    Serve {
        /// 0 to 1000.
        priority: u32,
    },
    /// Serve it out of the stranger pool.
    Pool,
    /// It must settle first.
    Choke,
    /// Refuse it and say why.
    Refuse(Refusal),
}

/// Why a peer is refused: the codes of REFUSED.
//= spec/swarm.md#84-settlement-and-evidence-on-the-connection
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RefusalReason {
    /// It owes more than it is trusted with.
    Balance = 1,
    /// The window of unpaid bytes is full: pay me.
    Unpaid = 2,
    /// Too many bytes sent to it were never acknowledged.
    Dispute = 3,
    /// A proof of fraud stands against it.
    Fraud = 4,
    /// The stranger pool has nothing for its address.
    Stranger = 5,
    /// The torrent is private.
    Private = 6,
    /// Too busy now.
    Busy = 7,
}

impl RefusalReason {
    /// The reason with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Balance,
            2 => Self::Unpaid,
            3 => Self::Dispute,
            4 => Self::Fraud,
            5 => Self::Stranger,
            6 => Self::Private,
            7 => Self::Busy,
            _ => return None,
        })
    }

    /// Its code.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// A refusal with its numbers.
//= spec/economy.md#57-refusal-the-way-back-over-spending
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// Seconds after which asking again makes sense.
    pub retry_s: u32,
    /// F: the peer's claim here, in charged bytes.
    pub flow: i64,
    /// Charged bytes of receipts to show or buy; a third of it in real bytes to give to this provider.
    pub need: u64,
    /// The newest half block of the peer that is known here.
    pub seen: Option<(u32, BlockHash)>,
}

/// The smallest room worth granting: one block of a piece.
pub(crate) const ROOM_MIN: u64 = 16 << 10;
/// A claim of this size has half the highest priority: concave, so that hoarders gain little.
const PRIORITY_HALF: i128 = 256 << 20;
const PRIORITY_MAX: u32 = 1000;
const RETRY_S: u32 = 60;

/// What a verdict is made of, all of it this node's own knowledge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) policy: Policy,
    /// A proof of fraud is known.
    pub(crate) forker: bool,
    /// Too many unacknowledged bytes.
    pub(crate) disputed: bool,
    /// The unpaid window is full.
    pub(crate) unpaid: bool,
    pub(crate) friend: bool,
    /// F: the claim on this node, with open reservations that were not sent yet still in it.
    pub(crate) claim: i128,
    /// Charged bytes per 65,536 real ones.
    pub(crate) price: u32,
    /// S: how far below zero a stranger may go.
    pub(crate) stranger_bytes: u64,
    /// What the pool has for the peer's address.
    pub(crate) bucket: u64,
}

/// The verdict: first match.
pub(crate) fn decide(facts: &Facts) -> Verdict {
    if facts.forker {
        return facts.refuse(RefusalReason::Fraud);
    }
    if facts.disputed && !facts.friend {
        return facts.refuse(RefusalReason::Dispute);
    }
    if facts.unpaid {
        return Verdict::Choke;
    }
    if facts.friend || facts.policy == Policy::None {
        return Verdict::Serve { priority: PRIORITY_MAX };
    }
    if facts.has_room(facts.claim) {
        return Verdict::Serve { priority: priority(facts.claim) };
    }
    let credit = facts.claim + i128::from(facts.stranger_bytes);
    if !facts.has_room(credit) {
        return facts.refuse(RefusalReason::Balance);
    }
    if !facts.has_room(credit.min(i128::from(facts.bucket))) {
        return facts.refuse(RefusalReason::Stranger);
    }
    Verdict::Pool
}

impl Facts {
    /// Whether `charged` bytes are positive and pay for a block at least.
    fn has_room(&self, charged: i128) -> bool {
        charged > 0 && room_of(u64::try_from(charged).unwrap_or(u64::MAX), self.price) >= ROOM_MIN
    }

    fn refuse(&self, reason: RefusalReason) -> Verdict {
        Verdict::Refuse(refusal(reason, self.claim))
    }
}

/// A refusal of a peer whose claim is `claim`.
pub(crate) fn refusal(reason: RefusalReason, claim: i128) -> Refusal {
    let need = 1 + (-claim).max(0);
    Refusal {
        reason,
        retry_s: RETRY_S,
        flow: i64::try_from(claim).unwrap_or(if claim < 0 { i64::MIN } else { i64::MAX }),
        need: u64::try_from(need).unwrap_or(u64::MAX),
        seen: None,
    }
}

fn priority(claim: i128) -> u32 {
    // More than this makes no difference, and cannot overflow.
    let claim = claim.clamp(0, i128::from(u64::MAX));
    let thousandths = i128::from(PRIORITY_MAX) * claim / (claim + PRIORITY_HALF);
    u32::try_from(thousandths).unwrap_or(PRIORITY_MAX).min(PRIORITY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: i128 = 1 << 20;

    fn facts(claim: i128) -> Facts {
        Facts {
            policy: Policy::Receipts,
            forker: false,
            disputed: false,
            unpaid: false,
            friend: false,
            claim,
            price: 65_536,
            stranger_bytes: 16 << 20,
            bucket: 16 << 20,
        }
    }

    fn reason(verdict: Verdict) -> Option<RefusalReason> {
        if let Verdict::Refuse(refusal) = verdict { Some(refusal.reason) } else { None }
    }

    //= spec/economy.md#53-verdict-grant-settlement
    #[test]
    fn the_rules_match_in_their_order() {
        let all = Facts { forker: true, disputed: true, unpaid: true, ..facts(MIB) };
        assert_eq!(reason(decide(&all)), Some(RefusalReason::Fraud));
        assert_eq!(reason(decide(&Facts { forker: false, ..all })), Some(RefusalReason::Dispute));
        assert_eq!(decide(&Facts { forker: false, disputed: false, ..all }), Verdict::Choke);
        assert_eq!(decide(&facts(256 * MIB)), Verdict::Serve { priority: 500 });
        assert_eq!(decide(&facts(0)), Verdict::Pool);
        assert_eq!(decide(&facts(-15 * MIB)), Verdict::Pool);
        assert_eq!(reason(decide(&facts(-16 * MIB))), Some(RefusalReason::Balance));
        assert_eq!(reason(decide(&Facts { bucket: 0, ..facts(0) })), Some(RefusalReason::Stranger));
        assert_eq!(decide(&Facts { friend: true, ..facts(-99 * MIB) }), Verdict::Serve { priority: 1000 });
        let nobody_asks = Facts { policy: Policy::None, ..facts(-99 * MIB) };
        assert_eq!(decide(&nobody_asks), Verdict::Serve { priority: 1000 });
    }

    //= spec/economy.md#57-refusal-the-way-back-over-spending
    #[test]
    fn a_refusal_says_what_is_needed() {
        let Verdict::Refuse(refusal) = decide(&facts(-41 * MIB)) else { panic!("refused") };
        assert_eq!((refusal.flow, refusal.need), (-41 << 20, (41 << 20) + 1));
        assert_eq!(refusal.reason.code(), 1);
        assert_eq!(decide(&facts(-41 * MIB + 3 * (MIB * 41 / 3 + MIB))), Verdict::Serve { priority: 11 });
    }

    fn rank(verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Serve { priority } => 10 + priority,
            Verdict::Pool => 2,
            Verdict::Choke => 1,
            Verdict::Refuse(_) => 0,
        }
    }

    fn any_facts() -> impl Strategy<Value = Facts> {
        let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        let edge = prop_oneof![Just(i128::MIN / 4), Just(i128::MAX / 4), -(1i128 << 40)..(1i128 << 40)];
        (flags, edge, 8192u32..=65_536, any::<u64>(), any::<u64>()).prop_map(
            |((forker, disputed, unpaid, friend, none), claim, price, stranger_bytes, bucket)| Facts {
                policy: if none { Policy::None } else { Policy::Receipts },
                forker,
                disputed,
                unpaid,
                friend,
                claim,
                price,
                stranger_bytes,
                bucket,
            },
        )
    }

    proptest! {
        //= spec/economy.md#10-tests
        #[test]
        fn the_verdict_is_total_and_giving_more_never_lowers_it(facts in any_facts(), more in 0u64..1 << 50) {
            let before = decide(&facts);
            prop_assert_eq!(before, decide(&facts));
            let after = decide(&Facts { claim: facts.claim + 3 * i128::from(more), ..facts });
            prop_assert!(rank(after) >= rank(before), "{:?} became {:?}", before, after);
        }
    }
}
