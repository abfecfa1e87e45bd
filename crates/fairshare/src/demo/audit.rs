//! The books at the end: what the chains say, read block by block from every node's own store. An account that the
//! nodes keep in memory is not asked; only signatures count.

use fairshare_crypto::PublicKey;
use fairshare_ledger::bandwidth::Bandwidth;
use fairshare_ledger::{BlockType, HalfBlock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The chain of one node as its own store has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    /// All own blocks, ascending.
    pub(crate) own: Vec<Arc<HalfBlock>>,
    /// The other halves of them that the store holds, by own number.
    pub(crate) linked: BTreeMap<u32, Arc<HalfBlock>>,
}

/// One payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payment {
    /// Who paid.
    pub(crate) payer: PublicKey,
    /// Who was paid.
    pub(crate) provider: PublicKey,
    /// Real bytes.
    pub(crate) down: u64,
    /// All that the payer ever paid this provider, in its own words.
    pub(crate) cum: u64,
    /// Whether the provider signed too: only then it counts.
    pub(crate) both: bool,
}

/// What the chains of all nodes say together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Payments in the order of the payers' chains.
    pub(crate) payments: Vec<Payment>,
    /// Sum over all nodes of given less taken, from both halves of every pair.
    pub(crate) balance_sum: i128,
    /// What is wrong.
    pub(crate) faults: Vec<String>,
}

/// Reads the books of all nodes.
pub(crate) fn audit(books: &[(PublicKey, Books)]) -> Report {
    let mut report = Report::default();
    for (key, book) in books {
        check_chain(key, book, &mut report.faults);
        check_answers(key, book, &mut report.faults);
        for block in &book.own {
            read_block(block, book, &mut report);
        }
    }
    check_payments(&mut report);
    report
}

/// Numbers run without gap, hashes link, signatures hold.
fn check_chain(key: &PublicKey, book: &Books, faults: &mut Vec<String>) {
    let name = crate::show::short_key(key);
    for (block, wanted) in book.own.iter().zip(1u32..) {
        if block.owner != *key || block.sequence != wanted {
            faults.push(format!("{name}: number {wanted} is missing or stands twice"));
            return;
        }
        if !block.verify() {
            faults.push(format!("{name}: the signature of number {wanted} is wrong"));
        }
    }
    for pair in book.own.windows(2) {
        if pair[1].previous_hash != pair[0].hash() {
            faults.push(format!("{name}: number {} does not follow the block before it", pair[1].sequence));
        }
    }
}

fn read_block(block: &HalfBlock, book: &Books, report: &mut Report) {
    if block.kind != BlockType::BANDWIDTH {
        return;
    }
    let Ok(own) = Bandwidth::of(block) else {
        return report.faults.push(format!("block {} has no readable transaction", block.id()));
    };
    let other = book.linked.get(&block.sequence);
    if other.is_some_and(|other| !other.verify()) {
        return report.faults.push(format!("the answer to block {} has a wrong signature", block.id()));
    }
    if other.is_some() {
        report.balance_sum += i128::from(own.up) - i128::from(own.down);
    }
    if let (true, Some(settlement)) = (block.is_proposal(), &own.settlement) {
        report.payments.push(Payment {
            payer: block.owner,
            provider: block.link_owner,
            down: own.down,
            cum: settlement.cum,
            both: other.is_some(),
        });
    }
}

/// A proposal is answered once at the most.
fn check_answers(key: &PublicKey, book: &Books, faults: &mut Vec<String>) {
    let mut answered = BTreeSet::new();
    for block in book.own.iter().filter(|block| !block.is_proposal()) {
        if !answered.insert(block.link()) {
            faults.push(format!("{}: answered {} twice", crate::show::short_key(key), block.link()));
        }
    }
}

/// Nothing is paid twice: per payer and provider, `cum` grows by exactly what each block pays.
//= spec/economy.md#3-from-bytes-to-a-transaction
fn check_payments(report: &mut Report) {
    let mut paid: BTreeMap<(PublicKey, PublicKey), u64> = BTreeMap::new();
    for payment in &report.payments {
        let sum = paid.entry((payment.payer, payment.provider)).or_default();
        *sum += payment.down;
        if *sum != payment.cum {
            let (payer, provider) =
                (crate::show::short_key(&payment.payer), crate::show::short_key(&payment.provider));
            report
                .faults
                .push(format!("{payer} says {} paid to {provider}, the blocks add up to {sum}", payment.cum));
        }
    }
}

impl Report {
    /// Payments with both signatures.
    pub(crate) fn paid(&self) -> impl Iterator<Item = &Payment> {
        self.payments.iter().filter(|payment| payment.both)
    }

    /// Payments that nobody answered, by payer and provider.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = (PublicKey, PublicKey)> {
        self.payments.iter().filter(|payment| !payment.both).map(|payment| (payment.payer, payment.provider))
    }

    /// Real bytes of all payments.
    pub(crate) fn paid_bytes(&self) -> u64 {
        self.paid().map(|payment| payment.down).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::{Rng, SecretKey};
    use fairshare_ledger::bandwidth::Settlement;
    use fairshare_ledger::{Draft, GENESIS_HASH};

    struct World {
        keys: [SecretKey; 2],
        books: [Books; 2],
    }

    impl World {
        fn new() -> Self {
            let mut rng = Rng::from_seed([3; 32]);
            let keys = [SecretKey::generate(&mut rng), SecretKey::generate(&mut rng)];
            Self { keys, books: [Books::default(), Books::default()] }
        }

        fn sign(&self, who: usize, link_sequence: u32, transaction: &Bandwidth) -> Arc<HalfBlock> {
            let own = &self.books[who].own;
            Arc::new(HalfBlock::sign(
                &self.keys[who],
                Draft {
                    sequence: own.last().map_or(1, |block| block.sequence + 1),
                    link_owner: self.keys[1 - who].public(),
                    link_sequence,
                    previous_hash: own.last().map_or(GENESIS_HASH, |block| block.hash()),
                    kind: BlockType::BANDWIDTH,
                    transaction: transaction.encode(),
                    timestamp_ms: 1,
                },
            ))
        }

        /// The first pays the second; the second answers if it is told to.
        fn pay(&mut self, down: u64, cum: u64, answer: bool) {
            let settlement = Some(Settlement { cum, charge: Some(down / 8), ..Settlement::default() });
            let proposal =
                self.sign(0, 0, &Bandwidth { down, settlement: settlement.clone(), ..Bandwidth::default() });
            self.books[0].own.push(proposal.clone());
            if answer {
                let mirrored = Bandwidth { up: down, settlement, ..Bandwidth::default() };
                let agreement = self.sign(1, proposal.sequence, &mirrored);
                self.books[0].linked.insert(proposal.sequence, agreement.clone());
                self.books[1].linked.insert(agreement.sequence, proposal);
                self.books[1].own.push(agreement);
            }
        }

        fn report(&self) -> Report {
            let [one, other] = &self.books;
            audit(&[(self.keys[0].public(), one.clone()), (self.keys[1].public(), other.clone())])
        }
    }

    #[test]
    fn sound_books_add_up_to_zero() {
        let mut world = World::new();
        world.pay(800, 800, true);
        world.pay(80, 880, true);
        let report = world.report();
        assert_eq!((report.faults.len(), report.balance_sum, report.paid_bytes()), (0, 0, 880));
    }

    #[test]
    fn an_unanswered_payment_moves_nothing_but_stays_visible() {
        let mut world = World::new();
        world.pay(800, 800, false);
        let report = world.report();
        assert_eq!((report.balance_sum, report.paid_bytes(), report.unanswered().count()), (0, 0, 1));
        assert!(report.faults.is_empty());
    }

    #[test]
    fn a_payment_made_twice_is_found() {
        let mut world = World::new();
        world.pay(800, 800, true);
        world.pay(800, 800, true);
        assert!(world.report().faults[0].contains("add up to 1600"));
    }

    #[test]
    fn a_gap_a_broken_link_and_a_second_answer_are_found() {
        let mut world = World::new();
        world.pay(1, 1, true);
        world.pay(1, 2, true);
        world.pay(1, 3, true);
        let mut gap = World { keys: world.keys.clone(), books: world.books.clone() };
        gap.books[0].own.remove(1);
        assert!(gap.report().faults[0].contains("number 2 is missing"));
        let mut twice = World { keys: world.keys.clone(), books: world.books.clone() };
        let again = twice.sign(1, 1, &Bandwidth { up: 1, ..Bandwidth::default() });
        twice.books[1].own.push(again);
        assert!(twice.report().faults.iter().any(|fault| fault.contains("twice")));
    }
}
