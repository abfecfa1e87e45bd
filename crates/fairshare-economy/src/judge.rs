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
        let [.., a, b, c, d] = settlement.ctx;
        let known = u32::from_be_bytes([a, b, c, d]);
        let fit = peer.give.schedule.fit(from, to, charge, known, slack);
        let fit = fit.filter(|_| charge <= down).ok_or(DeclineReason::Charge { charge, due })?;
        peer.account.settle_given(down, charge, 0).map_err(|_| DeclineReason::Overflow)?;

        peer.give.signing = Some((to, proposal.hash()));
        if !peer.give.schedule.extend(fit, to) {
            // Everything that this changes follows from the pair.
            return Ok(Vec::new());
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Entry, Grant};
    use crate::{EconomyConfig, EconomyEvent, EconomyOutput};
    use fairshare_crypto::{PublicKey, Rng, SecretKey};
    use fairshare_ledger::{Draft, GENESIS_HASH};

    const MIB: u64 = 1 << 20;

    struct Bench {
        economy: Economy,
        payer: SecretKey,
        me: SecretKey,
    }

    impl Bench {
        /// A node that granted 8 MiB at an eighth and 8 MiB at the full price, and sent 10 MiB.
        fn new() -> Self {
            let mut rng = Rng::from_seed([1; 32]);
            let (me, payer) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
            let mut economy =
                Economy::new(EconomyConfig::default(), me.public(), vec![], vec![], rng, Now::default());
            let peer = economy.peers.entry(payer.public()).or_default();
            peer.give.sent = 10 * MIB;
            for (number, price) in [(1, 8192), (2, 65_536)] {
                let grant = Grant { number, price, room: 8 * MIB, own: 8 * MIB };
                peer.give.schedule.push(Entry { grant, freed: false, pool: false });
            }
            Self { economy, payer, me }
        }

        fn proposal(&self, bandwidth: Bandwidth, to: PublicKey) -> HalfBlock {
            sign(&self.payer, 1, to, 0, bandwidth)
        }

        fn judge(&mut self, down: u64, cum: u64, charge: Option<u64>) -> Judgement {
            let proposal = self.proposal(payment(down, cum, charge), self.me.public());
            self.economy.judge(Now::default(), &proposal)
        }

        fn reason(&mut self, down: u64, cum: u64, charge: Option<u64>) -> Option<DeclineReason> {
            declined(self.judge(down, cum, charge))
        }
    }

    fn sign(
        key: &SecretKey,
        sequence: u32,
        to: PublicKey,
        link_sequence: u32,
        bandwidth: Bandwidth,
    ) -> HalfBlock {
        let draft = Draft {
            sequence,
            link_owner: to,
            link_sequence,
            previous_hash: GENESIS_HASH,
            kind: BlockType::BANDWIDTH,
            transaction: bandwidth.encode(),
            timestamp_ms: 0,
        };
        HalfBlock::sign(key, draft)
    }

    fn payment(down: u64, cum: u64, charge: Option<u64>) -> Bandwidth {
        let settlement = Some(Settlement { cum, ctx: [1; 8], charge, via: vec![] });
        Bandwidth { up: 0, down, total_up: 0, total_down: cum, settlement, fault: None }
    }

    fn declined(judgement: Judgement) -> Option<DeclineReason> {
        if let Judgement::Decline(reason) = judgement { Some(reason) } else { None }
    }

    //= spec/economy.md#3-from-bytes-to-a-transaction
    #[test]
    fn each_condition_has_its_reason() {
        let mut bench = Bench::new();
        let due = MIB + MIB / 8;
        assert_eq!(
            bench.reason(9 * MIB, 8 * MIB, None),
            Some(DeclineReason::Gap { known: 0, down: 9 * MIB, cum: 8 * MIB })
        );
        assert_eq!(bench.reason(1000, 1000, None), Some(DeclineReason::TooSmall { down: 1000 }));
        let unpaid = 10 * MIB;
        assert_eq!(
            bench.reason(11 * MIB, 11 * MIB, None),
            Some(DeclineReason::NotSent { down: 11 * MIB, unpaid })
        );
        assert_eq!(bench.reason(10 * MIB + 256 * 1024, 10 * MIB + 256 * 1024, None), None, "the tolerance");
        let mut bench = Bench::new();
        let wrong = DeclineReason::Charge { charge: due, due: 2 * MIB };
        assert_eq!(bench.reason(9 * MIB, 9 * MIB, Some(due)), Some(wrong));
        assert_eq!(bench.reason(9 * MIB, 9 * MIB, Some(2 * MIB)), None);
    }

    #[test]
    fn forms_that_pay_nothing_are_declined() {
        let mut bench = Bench::new();
        let (me, good) = (bench.me.public(), payment(MIB, MIB, None));
        let third = SecretKey::generate(&mut Rng::from_seed([8; 32])).public();
        let via = Settlement { via: vec![(third, 1)], ..good.settlement.clone().expect("direct") };
        for (bandwidth, to, reason) in [
            (good.clone(), bench.payer.public(), DeclineReason::NotOurs),
            (Bandwidth { up: 1, ..good.clone() }, me, DeclineReason::Form),
            (Bandwidth { down: 0, up: 0, ..good.clone() }, me, DeclineReason::Form),
            (Bandwidth { settlement: None, ..good.clone() }, me, DeclineReason::NotDirect),
            (
                Bandwidth { settlement: Some(Settlement { charge: Some(1), ..via }), ..good.clone() },
                me,
                DeclineReason::Via,
            ),
        ] {
            let proposal = bench.proposal(bandwidth, to);
            assert_eq!(declined(bench.economy.judge(Now::default(), &proposal)), Some(reason));
        }
        bench.economy.fork_proved(Now::default(), &bench.payer.public());
        assert_eq!(bench.reason(MIB, MIB, None), Some(DeclineReason::Forker));
        let stranger = SecretKey::generate(&mut Rng::from_seed([9; 32]));
        let proposal = sign(&stranger, 1, me, 0, good);
        let nothing = DeclineReason::NotSent { down: MIB, unpaid: 0 };
        assert_eq!(declined(bench.economy.judge(Now::default(), &proposal)), Some(nothing));
    }

    #[test]
    fn a_settlement_is_signed_once_and_again_only_if_it_is_the_same() {
        let mut bench = Bench::new();
        assert_eq!(bench.reason(MIB, MIB, Some(MIB / 8)), None);
        assert_eq!(bench.reason(MIB, MIB, Some(MIB / 8)), None, "the ledger could not sign and asks again");
        let other = bench.proposal(payment(MIB, MIB, None), bench.me.public());
        let duplicate = DeclineReason::Duplicate { known: MIB, cum: MIB };
        assert_eq!(declined(bench.economy.judge(Now::default(), &other)), Some(duplicate));
    }

    //= spec/blocks.md#3-rules-per-type
    #[test]
    fn a_pair_counts_once() {
        let mut bench = Bench::new();
        let me = bench.me.public();
        let proposal = bench.proposal(payment(MIB, MIB, Some(MIB / 8)), me);
        let again = sign(&bench.payer, 2, me, 0, payment(MIB, MIB, Some(MIB / 8)));
        for proposal in [&proposal, &proposal, &again] {
            let answer = Bandwidth { up: MIB, down: 0, ..payment(MIB, MIB, Some(MIB / 8)) };
            let agreement = sign(&bench.me, 1, bench.payer.public(), proposal.sequence, answer);
            bench.economy.paired(Now::default(), proposal, &agreement);
        }
        let peer = &bench.economy.peers[&bench.payer.public()];
        assert_eq!((peer.account.mine.given, peer.account.theirs.charged), (MIB, MIB / 8));
        assert_eq!((peer.give.paid, peer.give.settled), (MIB, 1));
        let is_received =
            |output| matches!(output, EconomyOutput::Event(EconomyEvent::Received { cum: MIB, .. }));
        assert_eq!(std::iter::from_fn(|| bench.economy.poll()).filter(|o| is_received(o.clone())).count(), 1);
    }

    //= spec/economy.md#51-pair-accounts
    //= spec/blocks.md#4-what-feeds-what
    #[test]
    fn a_payment_of_the_tunnel_account_makes_a_receipt_and_nothing_else() {
        let mut bench = Bench::new();
        let (me, payer) = (bench.me.public(), bench.payer.public());
        let tunnel =
            |up, down| Bandwidth { up, down, total_up: up, total_down: down, ..Bandwidth::default() };
        let to_us = bench.proposal(tunnel(0, 4 * MIB), me);
        let ours = sign(&bench.me, 1, payer, to_us.sequence, tunnel(4 * MIB, 0));
        let by_us = sign(&bench.me, 2, payer, 0, tunnel(0, MIB));
        let theirs = sign(&bench.payer, 2, me, by_us.sequence, tunnel(MIB, 0));
        let before = bench.economy.account(Now::default(), &payer).expect("known");
        assert_eq!(declined(bench.economy.judge(Now::default(), &to_us)), Some(DeclineReason::NotDirect));
        for _ in 0..2 {
            bench.economy.paired(Now::default(), &to_us, &ours);
            bench.economy.paired(Now::default(), &by_us, &theirs);
        }
        let after = bench.economy.account(Now::default(), &payer).expect("known");
        assert_eq!((after.account.mine.bought, after.account.theirs.bought), (4 * MIB, MIB));
        let mut expected = before.clone();
        expected.account = after.account;
        (expected.claim_on_peer, expected.claim_of_peer) = (4 * i128::from(MIB), after.claim_of_peer);
        assert_eq!(after, expected, "the direct account is as it was");
        assert_eq!((after.account.mine.given, after.account.theirs.charged), (0, 0));
        let moved = before.claim_of_peer - after.claim_of_peer;
        assert_eq!(moved, -i128::from(MIB), "the peer may take as much more");
        // At a start the accounts are the same.
        let pairs = [(to_us, Some(ours)), (by_us, Some(theirs))];
        let pairs = pairs.map(|(one, two)| (std::sync::Arc::new(one), two.map(std::sync::Arc::new)));
        let rng = Rng::from_seed([2; 32]);
        let again = Economy::new(EconomyConfig::default(), me, vec![], pairs, rng, Now::default());
        let restored = again.account(Now::default(), &payer).expect("known").account;
        assert_eq!((restored.mine, restored.theirs.bought), (after.account.mine, MIB));
    }

    //= spec/economy.md#52-price-and-charge
    #[test]
    fn bytes_taken_before_the_next_grant_arrived_keep_the_last_price() {
        let mut bench = Bench::new();
        let to = 8 * MIB + 100_000;
        let charge = MIB + 12_500;
        assert_eq!(bench.reason(to, to, Some(charge)), None);
        let schedule = &bench.economy.peers[&bench.payer.public()].give.schedule;
        assert_eq!(schedule.charge(to, to + 10), 10, "from there on the next grant");
        assert_eq!(schedule.end(), to + 8 * MIB, "whose room is whole");
    }
}
