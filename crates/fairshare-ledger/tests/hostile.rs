//! Messages from hell: nothing that anybody sends makes the engine panic, grow without bound, or sign twice.

use bytes::Bytes;
use fairshare_crypto::{Rng, SecretKey};
use fairshare_ledger::bandwidth::{Bandwidth, Settlement};
use fairshare_ledger::wire::{OwnMessage, TrustChainMessage};
use fairshare_ledger::{
    ANY, BlockHash, BlockId, BlockType, ChainStore, Draft, GENESIS_HASH, HalfBlock, Ledger, LedgerCommunity,
    LedgerConfig, LedgerEvent, LedgerOutput, MemoryStore,
};
use fairshare_wire::{Instant, Now};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const STEPS: usize = 60;

/// One ledger against a liar with three keys.
struct Attack {
    rng: Rng,
    keys: Vec<SecretKey>,
    ledger: Ledger<MemoryStore>,
    now: Now,
    signed: BTreeMap<BlockId, BlockHash>,
    /// The newest block of the last key, which keeps the rules.
    orderly: Option<Arc<HalfBlock>>,
}

impl Attack {
    fn new(seed: [u8; 32]) -> Self {
        let mut rng = Rng::from_seed(seed);
        let keys: Vec<_> = (0..4).map(|_| SecretKey::generate(&mut rng)).collect();
        let now = Now { mono: Instant::START, unix_ms: 1 };
        let config = LedgerConfig { countersign: vec!["test".into()] };
        let ledger = Ledger::new(config, keys[0].clone(), MemoryStore::new(), rng.fork("ledger"), now);
        Self { rng, keys, ledger: ledger.expect("memory"), now, signed: BTreeMap::new(), orderly: None }
    }

    fn small(&mut self) -> u32 {
        let edge = [0, 1, 2, 3, 4, u32::MAX - 1, u32::MAX];
        edge[self.rng.index(edge.len()).expect("not empty")]
    }

    /// A proper proposal to the ledger under attack: old ones stay tempting.
    fn orderly_block(&mut self) -> Arc<HalfBlock> {
        let head = self.orderly.as_ref();
        let draft = Draft {
            sequence: head.map_or(1, |head| head.sequence + 1),
            link_owner: self.keys[0].public(),
            link_sequence: 0,
            previous_hash: head.map_or(GENESIS_HASH, |head| head.hash()),
            kind: "test".into(),
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms: 1,
        };
        let block = Arc::new(HalfBlock::sign(&self.keys[3], draft));
        self.orderly = Some(Arc::clone(&block));
        block
    }

    /// A signed block of one of the liar's keys, most often full of odd values.
    fn block(&mut self) -> Arc<HalfBlock> {
        match (self.rng.below(6), &self.orderly) {
            (0, _) => return self.orderly_block(),
            (1, Some(again)) => return Arc::clone(again),
            _ => {}
        }
        let key = self.keys[1 + self.rng.index(2).expect("two keys")].clone();
        let link_owner = match self.rng.below(6) {
            0 => ANY,
            1 => fairshare_crypto::PublicKey::from_bytes([0; 74]),
            _ => self.keys[self.rng.index(4).expect("four keys")].public(),
        };
        let amounts = [0, 1, 5, u64::MAX >> 1];
        let mut amount = || amounts[self.rng.index(amounts.len()).expect("not empty")];
        let settlement = Some(Settlement { cum: amount(), ctx: [1; 8], charge: None, via: Vec::new() });
        let paid = Bandwidth {
            up: amount(),
            down: amount(),
            total_up: amount(),
            total_down: amount(),
            settlement,
            fault: None,
        };
        let (kind, transaction) = match self.rng.below(3) {
            0 => (BlockType::BANDWIDTH, paid.encode()),
            1 => ("test".into(), Bytes::from_static(b"a0d")),
            _ => ("test".into(), Bytes::from_static(b"a9l")),
        };
        let sequence = self.small();
        let draft = Draft {
            sequence,
            link_owner,
            link_sequence: self.small(),
            previous_hash: if sequence == 1 { GENESIS_HASH } else { BlockHash([7; 32]) },
            kind,
            transaction,
            timestamp_ms: amounts[self.rng.index(amounts.len()).expect("not empty")],
        };
        Arc::new(HalfBlock::sign(&key, draft))
    }

    fn message(&mut self) -> (LedgerCommunity, u8, Vec<u8>) {
        let owner = self.keys[self.rng.index(4).expect("four keys")].public();
        let (start, end, crawl_id, ttl) = (self.small(), self.small(), self.small(), self.small());
        let (first, second) = (self.block(), self.block());
        let signed_range = (start as i32, end as i32);
        let trustchain = match self.rng.below(12) {
            0..4 => TrustChainMessage::HalfBlock(first),
            4 => {
                let (start, end) = (i64::from(signed_range.0), i64::from(signed_range.1));
                TrustChainMessage::CrawlRequest { owner, start, end, crawl_id }
            }
            5 => TrustChainMessage::CrawlResponse { block: first, crawl_id, position: start, total: end },
            6 => TrustChainMessage::Pair(first, second),
            7 => TrustChainMessage::Broadcast { block: first, ttl },
            8 => TrustChainMessage::PairBroadcast { first, second, ttl },
            9 => TrustChainMessage::EmptyCrawlResponse { crawl_id },
            _ => return self.own_message(owner, (start, end), crawl_id),
        };
        (LedgerCommunity::TrustChain, trustchain.id().0, trustchain.to_bytes())
    }

    fn own_message(
        &mut self,
        owner: fairshare_crypto::PublicKey,
        (start, end): (u32, u32),
        crawl_id: u32,
    ) -> (LedgerCommunity, u8, Vec<u8>) {
        let blocks = vec![self.block(), self.block()];
        let own = match self.rng.below(5) {
            0 => OwnMessage::ProofsKnown { count: start, sample: vec![self.rng.bytes(); 3] },
            1 => OwnMessage::ProofsWanted(vec![self.rng.bytes(); 3]),
            2 => OwnMessage::CrawlRequest { owner, start, end, crawl_id },
            3 => OwnMessage::CrawlAnswer { crawl_id, part: 1, parts: start as u16, blocks },
            _ => OwnMessage::ForkProof(self.rng.bytes::<40>().to_vec()),
        };
        (LedgerCommunity::Own, own.id().0, own.to_bytes())
    }

    fn step(&mut self) {
        let (community, id, mut payload) = self.message();
        if self.rng.chance(1, 4)
            && let Some(at) = self.rng.index(payload.len())
        {
            payload[at] ^= 1 << self.rng.below(8);
        }
        let from = SocketAddr::from(([10, 0, 0, self.rng.below(200) as u8], 1));
        let sender = Some(self.keys[1].public());
        let _ = self.ledger.handle_message(self.now, community, from, sender, id, &payload);
        if self.rng.chance(1, 8) {
            let length = self.small() as i32;
            let key = self.keys[self.rng.index(4).expect("four keys")].public();
            self.ledger.peer_introduced(self.now, LedgerCommunity::TrustChain, key, from, Some(length));
        }
        self.drain();
        self.now = self.now.after(Duration::from_millis(self.rng.below(3000)));
        self.ledger.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.ledger.poll() {
            match output {
                LedgerOutput::Persist { ticket, batch } => {
                    self.ledger.store_mut().apply(&batch);
                    self.ledger.persisted(self.now, ticket);
                }
                LedgerOutput::Event(LedgerEvent::AgreementWanted(proposal)) => {
                    let _ = self.ledger.agree_bandwidth(self.now, &proposal, Vec::new());
                }
                LedgerOutput::Event(LedgerEvent::Signed(block)) => {
                    let before = self.signed.insert(block.place(), block.hash());
                    assert_eq!(before, None, "a number was used twice");
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn liars_never_break_the_ledger(seed in any::<[u8; 32]>()) {
        let mut attack = Attack::new(seed);
        for _ in 0..STEPS {
            attack.step();
        }
        let me = attack.keys[0].public();
        prop_assert!(!attack.ledger.is_forker(&me));
        let report = attack.ledger.verify_chain(&me).expect("memory");
        prop_assert!(report.is_sound(), "{:?}", report);
        prop_assert_eq!(report.blocks as usize, attack.signed.len());
        // Nobody gets two agreements to one proposal.
        let chain = attack.ledger.store().range(&me, 1, u32::MAX, usize::MAX).expect("memory");
        let mut answered: Vec<_> = chain.iter().map(|block| block.link()).collect();
        answered.sort();
        answered.dedup();
        prop_assert_eq!(answered.len(), chain.len());
    }
}
