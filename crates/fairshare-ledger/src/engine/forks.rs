//! Fork proofs: found, checked, kept, spread, used.

use super::Ledger;
use super::sources::{Share, cost_of};
use super::timers::Timer;
use crate::block::HalfBlock;
use crate::fork::{ForkError, ForkKind, ForkProof, PROOFS_MAX};
use crate::output::{LedgerEvent, MessageError, Recipient, Source};
use crate::store::ChainStore;
use crate::wire::{OwnMessage, PROOF_IDS_MAX};
use fairshare_crypto::{PublicKey, Rng};
use fairshare_wire::{Instant, Now};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Peers that get a new proof at once.
//= spec/trustchain.md#13-our-ledger-community
const PUSH_TO: usize = 5;
/// Wait between two announcements while blocks come in.
const PULL_WAIT: Duration = Duration::from_millis(500);
/// Wait between two announcements else.
const PULL_WAIT_IDLE: Duration = Duration::from_secs(10);

/// All proofs, by short id and by accused.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    by_id: BTreeMap<[u8; 8], ForkProof>,
    by_accused: BTreeMap<(PublicKey, ForkKind), [u8; 8]>,
    /// Short ids, oldest first.
    order: VecDeque<[u8; 8]>,
    /// Blocks or proofs came since the last announcement.
    traffic: bool,
    announced: Instant,
}

impl Proofs {
    pub(super) fn load(stored: Vec<ForkProof>) -> Self {
        let mut proofs = Self::default();
        for proof in stored {
            proofs.insert(proof);
        }
        proofs
    }

    /// Keeps the proof; false if the key is convicted of the same already.
    fn insert(&mut self, proof: ForkProof) -> bool {
        let name = (*proof.accused(), proof.kind());
        let id = proof.short_id();
        if self.by_accused.contains_key(&name) || self.by_id.contains_key(&id) {
            return false;
        }
        self.by_accused.insert(name, id);
        self.by_id.insert(id, proof);
        self.order.push_back(id);
        if self.order.len() > PROOFS_MAX
            && let Some(oldest) = self.order.pop_front().and_then(|id| self.by_id.remove(&id))
        {
            self.by_accused.remove(&(*oldest.accused(), oldest.kind()));
        }
        true
    }

    /// At most 32 different short ids, by chance.
    fn sample(&self, rng: &mut Rng) -> Vec<[u8; 8]> {
        let mut picked = Vec::new();
        let wanted = PROOF_IDS_MAX.min(self.order.len());
        // One random place in each of as many equal stretches: no id twice, each as likely.
        for stretch in 0..wanted {
            let from = stretch * self.order.len() / wanted;
            let to = (stretch + 1) * self.order.len() / wanted;
            let place = from + rng.index(to - from).unwrap_or(0);
            picked.extend(self.order.get(place));
        }
        picked
    }
}

impl<S: ChainStore> Ledger<S> {
    /// Whether a proof against the key is known.
    pub fn is_forker(&self, key: &PublicKey) -> bool {
        [ForkKind::DoubleSign, ForkKind::DoubleCountersign]
            .iter()
            .any(|kind| self.proofs.by_accused.contains_key(&(*key, *kind)))
    }

    /// All proofs, oldest first.
    pub fn proofs(&self) -> Vec<ForkProof> {
        self.proofs.order.iter().filter_map(|id| self.proofs.by_id.get(id)).cloned().collect()
    }

    /// Two blocks contradict each other: makes the proof, unless the key is convicted of that already.
    //= spec/trustchain.md#7-fraud
    pub(super) fn convict(&mut self, now: Now, kind: ForkKind, known: Arc<HalfBlock>, new: &Arc<HalfBlock>) {
        if self.proofs.by_accused.contains_key(&(new.owner, kind)) {
            return;
        }
        if let Ok(proof) = ForkProof::new(kind, known, Arc::clone(new)) {
            self.group(now.mono).conflicts.push(Arc::clone(new));
            self.keep_proof(now, proof);
        }
    }

    /// A proof came from a peer: checked like from any stranger.
    pub(super) fn receive_proof(
        &mut self,
        now: Now,
        from: SocketAddr,
        payload: &[u8],
    ) -> Result<(), MessageError> {
        let source = Source::Address(from);
        if ForkProof::short_id_of(payload).is_some_and(|id| self.proofs.by_id.contains_key(&id)) {
            return Ok(());
        }
        if !self.sources.take(now.mono, source, Share::Proofs, cost_of(payload.len())) {
            return Err(MessageError::Rate);
        }
        match ForkProof::parse(payload) {
            Ok(proof) => {
                self.keep_proof(now, proof);
                Ok(())
            }
            // A kind of the future is no lie.
            Err(error @ ForkError::Kind(_)) => Err(MessageError::FalseProof(error)),
            Err(error) => {
                self.sources.silence(now.mono, source);
                Err(MessageError::FalseProof(error))
            }
        }
    }

    /// A peer told what it holds: asks for what we lack.
    pub(super) fn proofs_known(&mut self, from: SocketAddr, sample: &[[u8; 8]]) {
        let lacking = sample.iter().filter(|id| !self.proofs.by_id.contains_key(*id));
        let wanted: Vec<_> = lacking.copied().collect();
        if !wanted.is_empty() {
            self.send_own(Recipient::Address(from), &OwnMessage::ProofsWanted(wanted));
        }
    }

    /// A peer asks for proofs.
    pub(super) fn proofs_wanted(
        &mut self,
        now: Now,
        from: SocketAddr,
        wanted: &[[u8; 8]],
    ) -> Result<(), MessageError> {
        if !self.sources.take(now.mono, Source::Address(from), Share::Answers, wanted.len() as u64) {
            return Err(MessageError::Rate);
        }
        for id in wanted {
            if let Some(proof) = self.proofs.by_id.get(id) {
                let message = OwnMessage::ForkProof(proof.to_bytes());
                self.send_own(Recipient::Address(from), &message);
            }
        }
        Ok(())
    }

    /// Tells a random peer which proofs are known here.
    pub(super) fn announce_proofs(&mut self, now: Now) {
        self.proofs.announced = now.mono;
        self.proofs.traffic = false;
        self.schedule_pull(now.mono);
        let sample = self.proofs.sample(&mut self.rng);
        if !sample.is_empty() {
            let count = u32::try_from(self.proofs.order.len()).unwrap_or(u32::MAX);
            self.send_own(Recipient::Random(1), &OwnMessage::ProofsKnown { count, sample });
        }
    }

    pub(super) fn schedule_pull(&mut self, now: Instant) {
        self.timers.set(Timer::Pull, now + PULL_WAIT_IDLE);
    }

    /// Something came in: proofs are worth more now.
    pub(super) fn note_traffic(&mut self) {
        if !self.proofs.traffic && !self.proofs.order.is_empty() {
            self.proofs.traffic = true;
            self.timers.set_earlier(Timer::Pull, self.proofs.announced + PULL_WAIT);
        }
    }

    fn keep_proof(&mut self, now: Now, proof: ForkProof) {
        if !self.proofs.insert(proof.clone()) {
            return;
        }
        self.group(now.mono).proofs.push(proof.clone());
        self.send_own(Recipient::Random(PUSH_TO), &OwnMessage::ForkProof(proof.to_bytes()));
        self.note_traffic();
        self.emit(LedgerEvent::ForkProved(proof));
    }
}
