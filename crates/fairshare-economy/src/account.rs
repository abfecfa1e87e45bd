//! Pair accounts: what a holder may claim from a debtor, field by field. The settled fields are sums over signed
//! pairs only, so each end can rebuild them; the holds belong to grants that are still open.
//= spec/economy.md#51-pair-accounts

use thiserror::Error;

/// What a real byte earns its giver, in charged bytes.
//= spec/economy.md#5-who-may-take-the-admission-policy-receipts
pub const MU: u64 = 3;

/// A sum that would not fit: the event behind it is refused as a whole.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the pair account would overflow")]
pub struct AccountOverflow;

/// The record of one ordered pair (holder, debtor).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Real bytes the holder gave the debtor.
    pub given: u64,
    /// Receipts on the debtor that the debtor assigned to the holder.
    pub bought: u64,
    /// Charged bytes the holder took from the debtor.
    pub charged: u64,
    /// Part of `charged` that was paid with third parties' receipts.
    pub by_via: u64,
    /// Receipts on the debtor that the holder used at other providers.
    pub spent: u64,
    /// The holder's claim used up because the debtor honoured a receipt on the holder.
    pub passed: u64,
    /// The alumni part of the same.
    pub alumni_used: u64,
    /// Reserved by open grants of the debtor to the holder, own part.
    pub h_own: u64,
    /// Reserved receipts on the debtor, for use at other providers.
    pub h_spent: u64,
    /// Reserved claim of the holder for a receipt on it that the debtor is about to honour.
    pub h_passed: u64,
    /// The alumni part of the same.
    pub h_alumni: u64,
    /// Receipts on the debtor stuck in bytes that the holder took elsewhere and has not paid.
    pub frozen: u64,
}

impl Account {
    /// L(holder, debtor): what the debtor still owes the holder, in charged bytes; negative when the holder owes.
    pub fn claim(&self) -> i128 {
        let plus = i128::from(MU) * i128::from(self.given) + i128::from(self.bought);
        let charged = i128::from(self.charged) - i128::from(self.by_via);
        let used = i128::from(self.spent) + i128::from(self.passed);
        let held = [self.h_own, self.h_spent, self.h_passed, self.frozen];
        plus - charged - used - held.into_iter().map(i128::from).sum::<i128>()
    }
}

/// Both records between this node and one other key, from this node's side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairAccount {
    /// This node as holder: (me, peer).
    pub mine: Account,
    /// This node as debtor: (peer, me). Its claim decides what the peer may take here.
    pub theirs: Account,
}

impl PairAccount {
    /// A pair of the direct account in which this node was paid: it gave `down` bytes for `charge`.
    //= spec/blocks.md#3-rules-per-type
    pub fn settle_given(&self, down: u64, charge: u64, via: u64) -> Result<Self, AccountOverflow> {
        let mut next = *self;
        settle(&mut next.mine, &mut next.theirs, down, charge, via)?;
        Ok(next)
    }

    /// A pair of the direct account in which this node paid: it took `down` bytes for `charge`.
    pub fn settle_taken(&self, down: u64, charge: u64, via: u64) -> Result<Self, AccountOverflow> {
        let mut next = *self;
        settle(&mut next.theirs, &mut next.mine, down, charge, via)?;
        Ok(next)
    }
}

/// `provider` gave `down` bytes to `payer`, who was charged `charge`, `via` of it with others' receipts.
fn settle(
    provider: &mut Account,
    payer: &mut Account,
    down: u64,
    charge: u64,
    via: u64,
) -> Result<(), AccountOverflow> {
    add(&mut provider.given, down)?;
    add(&mut payer.charged, charge)?;
    add(&mut payer.by_via, via)
}

/// Adds to a field, or leaves it and says that it cannot.
pub(crate) fn add(field: &mut u64, amount: u64) -> Result<(), AccountOverflow> {
    *field = field.checked_add(amount).ok_or(AccountOverflow)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn mib(claim: i128) -> i128 {
        claim / i128::from(MIB)
    }

    //= spec/economy.md#54-worked-example-mib-mu--3---stays
    #[test]
    fn the_worked_example_moves_the_fields_it_names() {
        let (mut jk, mut ki, mut ji) =
            (PairAccount::default(), PairAccount::default(), PairAccount::default());
        // Step 1, at j: k takes 16 from j at full price. Step 2, at k: i takes 16 from k at half price.
        jk = jk.settle_given(16 * MIB, 16 * MIB, 0).expect("small");
        assert_eq!((mib(jk.mine.claim()), mib(jk.theirs.claim())), (48, -16));
        ki = ki.settle_given(16 * MIB, 8 * MIB, 0).expect("small");
        assert_eq!((mib(ki.mine.claim()), mib(ki.theirs.claim())), (48, -8));
        // Step 3: j takes 80 from i at an eighth, paid with receipts on k.
        jk.mine.h_spent = 12 * MIB;
        ki.mine.h_passed = 12 * MIB;
        assert_eq!((mib(jk.mine.claim()), mib(ki.mine.claim())), (36, 36));
        (jk.mine.h_spent, ki.mine.h_passed) = (0, 0);
        (jk.mine.spent, ki.mine.passed) = (10 * MIB, 10 * MIB);
        ji = ji.settle_taken(80 * MIB, 10 * MIB, 10 * MIB).expect("small");
        assert_eq!((mib(jk.mine.claim()), mib(ki.mine.claim())), (38, 38));
        assert_eq!((mib(ji.mine.claim()), mib(ji.theirs.claim())), (0, 240));
        // Step 4: k buys 20 from i. Step 5: k takes 42 from j, paid with receipts on i.
        ki.mine.bought = 20 * MIB;
        assert_eq!(mib(ki.mine.claim()), 58);
        jk = jk.settle_given(42 * MIB, 42 * MIB, 42 * MIB).expect("small");
        (ki.mine.spent, ji.theirs.passed) = (42 * MIB, 42 * MIB);
        assert_eq!((mib(jk.mine.claim()), mib(jk.theirs.claim())), (164, -16));
        assert_eq!((mib(ki.mine.claim()), mib(ki.theirs.claim()), mib(ji.theirs.claim())), (16, -8, 198));
    }

    //= spec/economy.md#5-who-may-take-the-admission-policy-receipts
    #[test]
    fn a_real_byte_earns_three_and_costs_its_price() {
        let pair = PairAccount::default().settle_given(8 * MIB, MIB, 0).expect("small");
        assert_eq!((mib(pair.mine.claim()), mib(pair.theirs.claim())), (24, -1));
        let pair = pair.settle_taken(MIB, MIB, 0).expect("small");
        assert_eq!((mib(pair.mine.claim()), mib(pair.theirs.claim())), (23, 2));
    }

    //= spec/economy.md#51-pair-accounts
    #[test]
    fn every_field_but_the_alumni_moves_the_claim() {
        let one = Account {
            given: 1,
            bought: 1 << 4,
            charged: 1 << 20,
            by_via: 1 << 16,
            spent: 1 << 8,
            passed: 1 << 9,
            alumni_used: 1 << 40,
            h_own: 1 << 10,
            h_spent: 1 << 11,
            h_passed: 1 << 12,
            h_alumni: 1 << 41,
            frozen: 1 << 13,
        };
        let used = (1 << 8) + (1 << 9) + (1 << 10) + (1 << 11) + (1 << 12) + (1 << 13);
        assert_eq!(one.claim(), 3 + 16 - ((1 << 20) - (1 << 16)) - used);
    }

    #[test]
    fn an_event_that_would_overflow_changes_nothing() {
        let full =
            PairAccount { mine: Account { given: u64::MAX, ..Account::default() }, ..Default::default() };
        assert_eq!(full.settle_given(1, 1, 0), Err(AccountOverflow));
        let full = PairAccount { theirs: Account { charged: u64::MAX, ..Account::default() }, ..full };
        assert_eq!(full.claims_stay_in_range(), (3 * i128::from(u64::MAX), -i128::from(u64::MAX)));
    }

    impl PairAccount {
        fn claims_stay_in_range(&self) -> (i128, i128) {
            (self.mine.claim(), self.theirs.claim())
        }
    }
}
