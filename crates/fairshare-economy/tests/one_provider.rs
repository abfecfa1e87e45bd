//! One provider and many keys that only take: the stranger pool, failed writes, losses, what is forgotten.

use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_economy::{
    Economy, EconomyConfig, EconomyEvent, EconomyOutput, RECORD_KINDS, RefusalReason, SessionId, Verdict,
};
use fairshare_ledger::{Record, RecordKind};
use fairshare_wire::Now;
use std::collections::BTreeMap;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// A node whose writes succeed at once, or are kept back.
struct Provider {
    economy: Economy,
    config: EconomyConfig,
    me: PublicKey,
    now: Now,
    rng: Rng,
    records: BTreeMap<(RecordKind, Vec<u8>), Vec<u8>>,
    limits: BTreeMap<SessionId, u64>,
    sent: BTreeMap<SessionId, u64>,
    asked_again: Vec<SessionId>,
    events: Vec<EconomyEvent>,
    /// Tickets that wait, when the disk does not answer.
    waiting: Vec<(u64, Vec<Record>)>,
    disk_answers: bool,
    next_session: u64,
}

impl Provider {
    fn new(config: EconomyConfig) -> Self {
        let mut rng = Rng::from_seed([3; 32]);
        let me = SecretKey::generate(&mut rng).public();
        let now = Now { unix_ms: 1_700_000_000_000, ..Now::default() };
        let economy = Economy::new(config.clone(), me, vec![], vec![], rng.fork("economy"), now);
        Self {
            economy,
            config,
            me,
            now,
            rng,
            records: BTreeMap::new(),
            limits: BTreeMap::new(),
            sent: BTreeMap::new(),
            asked_again: vec![],
            events: vec![],
            waiting: vec![],
            disk_answers: true,
            next_session: 1,
        }
    }

    fn stranger(&mut self) -> PublicKey {
        SecretKey::generate(&mut self.rng).public()
    }

    fn open(&mut self, key: PublicKey, address: &str) -> SessionId {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        self.economy.session_opened(self.now, id, key, address.parse().expect("address"));
        self.drain();
        id
    }

    fn close(&mut self, id: SessionId) {
        self.economy.session_closed(self.now, id);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.economy.poll() {
            match output {
                EconomyOutput::Persist { ticket, records } => self.waiting.push((ticket, records)),
                EconomyOutput::ServeLimit { session, total } => {
                    self.limits.insert(session, total);
                }
                EconomyOutput::Rejudge { session } => self.asked_again.push(session),
                EconomyOutput::Event(event) => self.events.push(event),
                _ => {}
            }
            if self.disk_answers {
                self.write();
            }
        }
    }

    fn write(&mut self) {
        for (ticket, records) in std::mem::take(&mut self.waiting) {
            for record in records {
                self.records.insert((record.kind, record.key), record.value.expect("never deleted"));
            }
            self.economy.persisted(self.now, ticket);
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now.after(span);
        while let Some(at) = self.economy.next_timeout().filter(|at| *at <= end.mono) {
            self.now = self.now.after(at.since(self.now.mono));
            self.economy.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn restart(&mut self) {
        assert_eq!(RECORD_KINDS.len(), 1, "one kind holds everything");
        let records = self.records.iter().map(|((kind, key), value)| (*kind, key.clone(), value.clone()));
        let rng = self.rng.fork("again");
        self.economy = Economy::new(self.config.clone(), self.me, records.collect(), vec![], rng, self.now);
    }

    /// Sends all that may be sent in up to `seconds` seconds; every byte is verified at once when `acknowledge`.
    fn serve(&mut self, id: SessionId, seconds: u64, acknowledge: bool) -> (u64, Verdict) {
        let before = self.sent.get(&id).copied().unwrap_or(0);
        let mut verdict = Verdict::Choke;
        for _ in 0..seconds * 10 {
            verdict = self.economy.verdict(self.now, id, 0);
            if matches!(verdict, Verdict::Choke | Verdict::Refuse(_)) {
                self.drain();
                break;
            }
            self.economy.grant_wanted(self.now, id, 0);
            self.drain();
            let (limit, sent) = (self.limits.get(&id).copied(), self.sent.entry(id).or_insert(0));
            *sent = (*sent).max(limit.unwrap_or(0));
            let sent = *sent;
            self.economy.sent(self.now, id, sent);
            if acknowledge {
                self.economy.acknowledged(self.now, id, sent, sent);
            }
            self.drain();
            self.pass(Duration::from_millis(100));
        }
        (self.sent.get(&id).copied().unwrap_or(0) - before, verdict)
    }
}

fn reason(verdict: Verdict) -> Option<RefusalReason> {
    if let Verdict::Refuse(refusal) = verdict { Some(refusal.reason) } else { None }
}

//= spec/economy.md#53-verdict-grant-settlement
#[test]
fn fresh_keys_of_one_network_share_one_bucket() {
    let mut provider = Provider::new(EconomyConfig::default());
    let mut taken = 0;
    let mut last = Verdict::Pool;
    for host in 1..20 {
        let key = provider.stranger();
        let id = provider.open(key, &format!("8.8.8.{host}"));
        // It acknowledges nothing, so that no window stops it; what was sent is gone all the same.
        let (sent, verdict) = provider.serve(id, 60, false);
        provider.close(id);
        taken += sent;
        last = verdict;
    }
    assert_eq!(reason(last), Some(RefusalReason::Stranger));
    assert!((127 * MIB..=129 * MIB).contains(&taken), "16 charged MiB at an eighth: {taken}");
    let key = provider.stranger();
    let elsewhere = provider.open(key, "9.9.9.9");
    assert_eq!(provider.economy.verdict(provider.now, elsewhere, 0), Verdict::Pool);
    // After a restart the bucket is as empty as it was when the last period of the price ended.
    provider.pass(Duration::from_secs(600));
    provider.restart();
    let key = provider.stranger();
    let again = provider.open(key, "8.8.8.77");
    let (sent, _) = provider.serve(again, 60, false);
    assert!(sent < 8 * MIB, "{sent}: ten minutes of a day's refill");
}

#[test]
fn what_a_stranger_did_not_take_flows_back_into_the_bucket() {
    let mut provider = Provider::new(EconomyConfig::default());
    for host in 1..60 {
        let key = provider.stranger();
        let id = provider.open(key, &format!("8.8.8.{host}"));
        assert_eq!(provider.economy.verdict(provider.now, id, 0), Verdict::Pool, "host {host}");
        provider.economy.grant_wanted(provider.now, id, 0);
        provider.drain();
        provider.close(id);
    }
}

/// Takes `bytes` in one connection after the other, acknowledges nothing and comes back; answers the last verdict
/// and what was lost.
fn take_and_run(provider: &mut Provider, key: PublicKey, bytes: u64) -> (Verdict, u64) {
    let mut verdict = Verdict::Pool;
    for _ in 0..20 {
        let id = provider.open(key, "127.0.0.9");
        while reason(verdict).is_none() && provider.sent.get(&id).is_none_or(|sent| *sent < bytes) {
            verdict = provider.serve(id, 1, false).1;
        }
        provider.close(id);
        provider.pass(Duration::from_secs(3600));
    }
    (verdict, provider.economy.account(provider.now, &key).expect("known").lost)
}

//= spec/economy.md#53-verdict-grant-settlement
#[test]
fn who_never_acknowledges_is_refused_for_a_month() {
    let mut provider = Provider::new(EconomyConfig::default());
    let key = provider.stranger();
    let (verdict, lost) = take_and_run(&mut provider, key, 8 * MIB);
    assert_eq!(reason(verdict), Some(RefusalReason::Dispute));
    assert!((20 * MIB..48 * MIB).contains(&lost), "{lost}");
    provider.pass(Duration::from_secs(31 * 86_400));
    let id = provider.open(key, "127.0.0.9");
    assert_eq!(provider.economy.verdict(provider.now, id, 0), Verdict::Pool);
}

#[test]
fn a_friend_that_loses_bytes_stays_a_friend() {
    let mut provider = Provider::new(EconomyConfig::default());
    let key = provider.stranger();
    provider.config.friends.insert(key);
    provider.restart();
    let (verdict, lost) = take_and_run(&mut provider, key, 8 * MIB);
    assert_eq!(verdict, Verdict::Serve { priority: 1000 });
    assert!(lost > 100 * MIB);
}

#[test]
fn a_write_that_fails_is_tried_again_and_nothing_is_sent_before() {
    let mut provider = Provider::new(EconomyConfig::default());
    provider.disk_answers = false;
    let key = provider.stranger();
    let id = provider.open(key, "127.0.0.9");
    assert_eq!(provider.serve(id, 1, true).0, 0);
    let (ticket, _) = provider.waiting.pop().expect("the grant");
    provider.economy.persist_failed(provider.now, ticket);
    provider.drain();
    assert_eq!(provider.serve(id, 1, true).0, 0);
    provider.pass(Duration::from_secs(5));
    assert_eq!(provider.waiting.len(), 1, "the grant again");
    provider.disk_answers = true;
    provider.write();
    provider.drain();
    assert!(provider.serve(id, 1, true).0 > 0);
}

#[test]
fn keys_that_neither_gave_nor_took_leave_no_trace() {
    let mut provider = Provider::new(EconomyConfig::default());
    for _ in 0..10 {
        let key = provider.stranger();
        let id = provider.open(key, "127.0.0.9");
        provider.economy.verdict(provider.now, id, 0);
        provider.close(id);
    }
    assert_eq!(provider.economy.accounts(provider.now), vec![]);
}

//= spec/economy.md#53-verdict-grant-settlement
#[test]
fn the_fast_path_says_nothing_when_nothing_changes() {
    let mut provider = Provider::new(EconomyConfig::default());
    let key = provider.stranger();
    provider.config.friends.insert(key);
    provider.restart();
    let id = provider.open(key, "127.0.0.9");
    provider.economy.grant_wanted(provider.now, id, 0);
    provider.drain();
    let mut outputs = 0;
    let limit = provider.limits[&id];
    for total in (0..limit / 4).step_by(16 << 10) {
        provider.economy.sent(provider.now, id, total);
        provider.economy.acknowledged(provider.now, id, total, total / 2);
        outputs += std::iter::from_fn(|| provider.economy.poll()).count();
    }
    assert!(outputs <= 1, "{outputs}");
}
