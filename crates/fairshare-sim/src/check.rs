//! The promises: watched while the world runs, and checked when it is quiet.

use crate::Report;
use fairshare_crypto::PublicKey;
use fairshare_economy::{Account, AccountView};
use fairshare_ledger::bandwidth::Bandwidth;
use fairshare_ledger::{
    Batch, BlockHash, BlockType, ChainStore, GENESIS_HASH, HalfBlock, LedgerEvent, MemoryStore,
};
use fairshare_node::Event;
use fairshare_overlay::community::TRUSTCHAIN;
use fairshare_swarm::SwarmEvent;
use fairshare_wire::{Frame, Instant, Reader};
use std::collections::BTreeMap;
use std::sync::Arc;

type Checked = Result<(), String>;
type Chain = Vec<Arc<HalfBlock>>;

/// What was seen, as far as promises are about it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// All machines: their number and whether they sign honestly.
    people: BTreeMap<PublicKey, (usize, bool)>,
    watch_order: bool,
    /// Each block of an honest key that reached any disk.
    signed: BTreeMap<(PublicKey, u32), BlockHash>,
    forks: BTreeMap<PublicKey, (Vec<u8>, Vec<u8>)>,
    /// Bytes that streams carried from one machine to another.
    carried: BTreeMap<(usize, usize), u64>,
    accounts: BTreeMap<PublicKey, Vec<AccountView>>,
    pub(crate) crashes: u32,
    pub(crate) files: u32,
    payments: u32,
    paid: u64,
    owed_max: u64,
    failed_pieces: u32,
}

/// The smallest payment when everything is settled.
const SETTLED_MIN: u64 = 64 << 10;
/// What a crash makes a payer forget at most: it writes down what it took at each MiB and several times a second.
const FORGOTTEN_MAX: u64 = 1 << 20;
/// Chains in the tests are shorter.
const CHAIN_MAX: usize = 100_000;

impl Watch {
    pub(crate) fn new(people: impl Iterator<Item = (PublicKey, bool)>, watch_order: bool) -> Self {
        let people = people.enumerate().map(|(index, (key, honest))| (key, (index, honest))).collect();
        Self { people, watch_order, ..Self::default() }
    }

    /// Something was written: no honest key has two blocks with one number, and none is convicted.
    pub(crate) fn batch(&mut self, batch: &Batch) -> Checked {
        for block in batch.blocks.iter().chain(&batch.conflicts) {
            if !self.is_honest(&block.owner) {
                continue;
            }
            let first = *self.signed.entry((block.owner, block.sequence)).or_insert_with(|| block.hash());
            if first != block.hash() {
                let name = self.name(&block.owner);
                return Err(format!(
                    "{name} used number {} twice: {first} and {}",
                    block.sequence,
                    block.hash()
                ));
            }
        }
        match batch.proofs.iter().find(|proof| self.is_honest(proof.accused())) {
            Some(proof) => Err(format!("{} was convicted although honest", self.name(proof.accused()))),
            None => Ok(()),
        }
    }

    /// A datagram leaves: an own block in it is on the sender's disk.
    pub(crate) fn datagram_leaves(&self, sender: &PublicKey, durable: &MemoryStore, bytes: &[u8]) -> Checked {
        let frame = Frame::parse(bytes).ok().filter(|frame| frame.community == TRUSTCHAIN);
        let Some(frame) = frame.filter(|frame| matches!(frame.message_id, 1 | 3..=6)) else { return Ok(()) };
        let Ok(packet) = frame.unsigned() else { return Ok(()) };
        let mut input = Reader::new(packet.payload);
        while let Ok(block) = HalfBlock::read(&mut input) {
            self.leaves(sender, durable, &block)?;
        }
        Ok(())
    }

    /// An event is told: a block that is said to be signed is on the disk.
    pub(crate) fn event(&mut self, sender: &PublicKey, durable: &MemoryStore, event: &Event) -> Checked {
        match event {
            Event::Ledger(LedgerEvent::Signed(block)) => self.leaves(sender, durable, block),
            Event::Swarm(SwarmEvent::PieceFailed { .. }) => {
                self.failed_pieces += 1;
                Ok(())
            }
            Event::Ledger(LedgerEvent::ForkProved(proof)) if self.is_honest(proof.accused()) => {
                Err(format!("{} holds {} for a forker", self.name(sender), self.name(proof.accused())))
            }
            _ => Ok(()),
        }
    }

    fn leaves(&self, sender: &PublicKey, durable: &MemoryStore, block: &HalfBlock) -> Checked {
        if !self.watch_order || block.owner != *sender {
            return Ok(());
        }
        let stored = durable.get(sender, block.sequence).map_err(|error| error.to_string())?;
        if stored.is_some_and(|stored| stored.hash() == block.hash()) {
            return Ok(());
        }
        Err(format!("{} let block {} leave before it was on disk", self.name(sender), block.sequence))
    }

    /// A machine starts again: every block it was told to be on disk is there.
    pub(crate) fn survived(
        &self,
        machine: usize,
        key: &PublicKey,
        acknowledged: &BTreeMap<u32, BlockHash>,
        durable: &MemoryStore,
    ) -> Checked {
        for (sequence, hash) in acknowledged {
            let stored = durable.get(key, *sequence).map_err(|error| error.to_string())?;
            if stored.is_none_or(|stored| stored.hash() != *hash) {
                return Err(format!("acknowledged block {sequence} of node {machine} is lost"));
            }
        }
        Ok(())
    }

    /// Bytes went from one machine to another over a stream.
    pub(crate) fn carried(&mut self, from: usize, to: usize, bytes: usize) {
        *self.carried.entry((from, to)).or_default() += bytes as u64;
    }

    /// Bytes that streams carried from one machine to another.
    pub(crate) fn carried_from(&self, from: usize, to: usize) -> u64 {
        self.carried.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Somebody owed a provider so much.
    pub(crate) fn owed(&mut self, bytes: u64) {
        self.owed_max = self.owed_max.max(bytes);
    }

    /// A forker signed twice.
    pub(crate) fn forked(&mut self, key: PublicKey, first: &HalfBlock, second: &HalfBlock) {
        self.forks.insert(key, (first.to_bytes(), second.to_bytes()));
    }

    /// The two blocks of a fork.
    pub(crate) fn fork_of(&self, key: &PublicKey) -> Option<(Vec<u8>, Vec<u8>)> {
        self.forks.get(key).cloned()
    }

    /// Whether a machine has a proof against a key on its disk.
    pub(crate) fn is_proved(&self, key: &PublicKey, durable: &MemoryStore) -> bool {
        durable.proofs().is_ok_and(|proofs| proofs.iter().any(|proof| proof.accused() == key))
    }

    /// The payments of a chain to honest machines that have no answer on its own disk.
    pub(crate) fn unanswered(&self, key: &PublicKey, durable: &MemoryStore) -> Vec<u32> {
        let waits = |block: &&Arc<HalfBlock>| {
            block.is_proposal()
                && self.is_honest(&block.link_owner)
                && durable.links_to(key, block.sequence).is_ok_and(|links| links.is_empty())
        };
        let chain = chain_of(key, durable).unwrap_or_default();
        chain.iter().filter(waits).map(|block| block.sequence).collect()
    }

    /// What a machine says about its accounts.
    pub(crate) fn accounts(&mut self, key: PublicKey, accounts: Vec<AccountView>) {
        self.accounts.insert(key, accounts);
    }

    /// Every payment between honest machines exists once, with one answer; what was paid was carried; both ends have
    /// the same accounts; and all balances together are nothing.
    pub(crate) fn check_payments(
        &mut self,
        honest: &[(PublicKey, &MemoryStore)],
        crashes: &BTreeMap<PublicKey, u64>,
    ) -> Checked {
        let mut balance = 0i128;
        for (key, durable) in honest {
            let chain = chain_of(key, durable)?;
            self.check_chain(key, &chain)?;
            for block in chain.iter().filter(|block| block.kind == BlockType::BANDWIDTH) {
                let amounts = bandwidth_of(block)?;
                if self.is_honest(&block.link_owner) {
                    balance += i128::from(amounts.up) - i128::from(amounts.down);
                }
            }
            for (provider, stored) in honest.iter().filter(|(provider, _)| provider != key) {
                self.check_pair(&chain, (key, provider), stored)?;
                let forgotten = crashes.get(key).copied().unwrap_or_default() * FORGOTTEN_MAX;
                self.check_acknowledged(key, provider, forgotten)?;
            }
        }
        if balance != 0 {
            return Err(format!("the balances of all honest nodes add up to {balance}"));
        }
        Ok(())
    }

    /// A chain has no gap, hangs together, is signed, and its totals are the sums of its blocks.
    fn check_chain(&self, key: &PublicKey, chain: &Chain) -> Checked {
        let fault = |block: &HalfBlock, what: &str| {
            Err(format!("block {} of {}: {what}", block.sequence, self.name(key)))
        };
        let (mut previous, mut up, mut down) = (GENESIS_HASH, 0, 0);
        for (block, number) in chain.iter().zip(1u32..) {
            if block.sequence != number || block.previous_hash != previous {
                return fault(block, "does not follow the one before");
            }
            if !block.verify() {
                return fault(block, "is not signed by its owner");
            }
            if block.kind == BlockType::BANDWIDTH {
                let amounts = bandwidth_of(block)?;
                (up, down) = (up + amounts.up, down + amounts.down);
                if (amounts.total_up, amounts.total_down) != (up, down) {
                    return fault(block, "does not continue the totals");
                }
            }
            previous = block.hash();
        }
        Ok(())
    }

    /// All payments of one machine to another.
    fn check_pair(
        &mut self,
        chain: &Chain,
        (payer, provider): (&PublicKey, &PublicKey),
        provider_store: &MemoryStore,
    ) -> Checked {
        let pair = format!("{} to {}", self.name(payer), self.name(provider));
        let mut paid = 0;
        let payments = chain.iter().filter(|block| {
            block.is_proposal() && block.link_owner == *provider && block.kind == BlockType::BANDWIDTH
        });
        for block in payments {
            let amounts = bandwidth_of(block)?;
            let Some(settlement) = &amounts.settlement else {
                return Err(format!("payment {} from {pair} is no settlement", block.sequence));
            };
            if amounts.down == 0 || settlement.cum != paid + amounts.down {
                return Err(format!(
                    "payment {} from {pair} does not continue what was paid",
                    block.sequence
                ));
            }
            paid = settlement.cum;
            check_answer(block, &amounts, provider_store).map_err(|what| format!("{pair}: {what}"))?;
            self.payments += 1;
        }
        self.paid += paid;
        let carried = self.carried_between(provider, payer);
        if paid > carried {
            return Err(format!("{pair}: {paid} bytes were paid and only {carried} were carried"));
        }
        self.check_accounts(payer, provider, paid)
    }

    fn carried_between(&self, from: &PublicKey, to: &PublicKey) -> u64 {
        let index = |key| self.people.get(key).map(|(index, _)| *index);
        index(from).zip(index(to)).map_or(0, |(from, to)| self.carried_from(from, to))
    }

    /// Both ends agree with the blocks and with each other, and nothing worth a payment is unpaid.
    //= spec/economy.md#3-from-bytes-to-a-transaction
    fn check_accounts(&self, payer: &PublicKey, provider: &PublicKey, paid: u64) -> Checked {
        let of = |owner: &PublicKey, peer: &PublicKey| {
            self.accounts.get(owner)?.iter().find(|account| account.peer == *peer)
        };
        let (taking, giving) = (of(payer, provider), of(provider, payer));
        let paid_to = taking.map_or(0, |account| account.paid_to);
        let paid_from = giving.map_or(0, |account| account.paid_from);
        let pair = format!("{} to {}", self.name(payer), self.name(provider));
        if paid_to != paid || paid_from != paid {
            return Err(format!(
                "{pair}: blocks say {paid} paid, the payer {paid_to}, the provider {paid_from}"
            ));
        }
        let (Some(taking), Some(giving)) = (taking, giving) else { return Ok(()) };
        if taking.recv >= paid + SETTLED_MIN {
            return Err(format!("{pair}: {} bytes were taken and only {paid} paid", taking.recv));
        }
        let ends = [
            (settled(&taking.account.mine), settled(&giving.account.theirs)),
            (settled(&taking.account.theirs), settled(&giving.account.mine)),
        ];
        match ends.iter().find(|(one, other)| one != other) {
            Some((one, other)) => Err(format!("{pair}: the accounts differ: {one:?} and {other:?}")),
            None => Ok(()),
        }
    }

    /// What a payer acknowledged is paid, up to what its crashes made it forget.
    fn check_acknowledged(&self, payer: &PublicKey, provider: &PublicKey, forgotten: u64) -> Checked {
        let accounts = self.accounts.get(provider).into_iter().flatten();
        match accounts.into_iter().find(|account| account.peer == *payer) {
            Some(account) if account.verified >= account.paid_from + SETTLED_MIN + forgotten => Err(format!(
                "{} to {}: {} bytes were acknowledged and only {} paid",
                self.name(payer),
                self.name(provider),
                account.verified,
                account.paid_from
            )),
            _ => Ok(()),
        }
    }

    /// Who took files of `bytes` and never crashed has counted just these bytes as taken; at most so many, where
    /// streams break between a piece and its check.
    pub(crate) fn check_taken(&self, key: &PublicKey, bytes: u64, streams_break: bool) -> Checked {
        let taken: u64 = self.accounts.get(key).into_iter().flatten().map(|account| account.recv).sum();
        if taken == bytes || (streams_break && taken < bytes) {
            return Ok(());
        }
        Err(format!("{} counts {taken} bytes as taken, its files have {bytes}", self.name(key)))
    }

    /// The sums of a run that kept its promises.
    pub(crate) fn report(&self, seed: u64, end: Instant, digest: u64) -> Report {
        Report {
            seed,
            digest,
            virtual_seconds: end.as_micros() / 1_000_000,
            machines: self.people.len(),
            crashes: self.crashes,
            files: self.files,
            payments: self.payments,
            paid_bytes: self.paid,
            carried_bytes: self.carried.values().sum(),
            forks: self.forks.len(),
            owed_bytes_max: self.owed_max,
            failed_pieces: self.failed_pieces,
        }
    }

    fn is_honest(&self, key: &PublicKey) -> bool {
        self.people.get(key).is_some_and(|(_, honest)| *honest)
    }

    fn name(&self, key: &PublicKey) -> String {
        match self.people.get(key) {
            Some((index, _)) => format!("node {index}"),
            None => format!("{key:?}"),
        }
    }
}

/// The fields that only signed pairs move: equal at both ends.
//= spec/economy.md#51-pair-accounts
const fn settled(account: &Account) -> [u64; 6] {
    [account.given, account.bought, account.charged, account.by_via, account.spent, account.passed]
}

/// A payment has exactly one answer, with the same amounts the other way round.
fn check_answer(block: &HalfBlock, amounts: &Bandwidth, provider_store: &MemoryStore) -> Checked {
    let links = provider_store.links_to(&block.owner, block.sequence).map_err(|error| error.to_string())?;
    let [answer] = links.as_slice() else {
        return Err(format!("payment {} has {} answers", block.sequence, links.len()));
    };
    let answered = bandwidth_of(answer)?;
    if answered.up != amounts.down || answered.down != amounts.up || answered.settlement != amounts.settlement
    {
        return Err(format!("the answer to payment {} says something else", block.sequence));
    }
    Ok(())
}

fn chain_of(key: &PublicKey, durable: &MemoryStore) -> Result<Chain, String> {
    durable.range(key, 1, u32::MAX, CHAIN_MAX).map_err(|error| error.to_string())
}

fn bandwidth_of(block: &HalfBlock) -> Result<Bandwidth, String> {
    Bandwidth::of(block).map_err(|error| format!("block {} of {:?}: {error}", block.sequence, block.owner))
}
