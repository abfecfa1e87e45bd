//! What this node keeps for others, for an hour.
//= spec/overlay.md#9-dht-25-dhtdiscoverycommunity

use super::wire::{DhtValue, VALUES_MAX};
use fairshare_crypto::{PublicKey, sha1};
use fairshare_wire::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// Keys that are kept, and values of one key.
const KEYS_MAX: usize = 10_000;
const VALUES_PER_KEY: usize = 64;
/// A value is kept for so long by the nodes nearest to its key, and half as long for each nearer one beyond the eighth.
const LIFETIME: Duration = Duration::from_secs(3_600);

/// Looking for what is over costs a walk over everything that is kept.
const SWEEP: Duration = Duration::from_secs(60);

/// Who a value belongs to: of each owner there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    /// Nobody: the value stands for itself.
    Nobody([u8; 20]),
    Signer(PublicKey),
}

#[derive(Clone, Debug)]
struct Kept {
    value: Vec<u8>,
    version: u32,
    until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Storage {
    keys: BTreeMap<[u8; 20], BTreeMap<Owner, Kept>>,
    swept: Option<Instant>,
}

impl Storage {
    /// Keeps a value whose form was checked. `nearer`: nodes that are nearer to the key than we.
    pub(super) fn put(&mut self, now: Instant, key: [u8; 20], value: Vec<u8>, nearer: usize) {
        let (owner, version) = match DhtValue::parse(&value) {
            Ok(DhtValue::Signed { signer, version, .. }) => (Owner::Signer(signer), version),
            Ok(DhtValue::Unsigned(_)) => (Owner::Nobody(sha1(&value)), 0),
            Err(_) => return,
        };
        if !self.keys.contains_key(&key) && !self.has_room(now) {
            return;
        }
        let halvings = u32::try_from(nearer.saturating_sub(7)).unwrap_or(u32::MAX);
        let lifetime = LIFETIME.checked_div(1_u32.checked_shl(halvings).unwrap_or(0)).unwrap_or_default();
        let values = self.keys.entry(key).or_default();
        let known = values.get(&owner);
        if known.is_some_and(|known| known.version > version)
            || known.is_none() && values.len() >= VALUES_PER_KEY
        {
            return;
        }
        values.insert(owner, Kept { value, version, until: now + lifetime });
    }

    /// Whether another key may be kept; what is over makes room, looked for at most once a minute.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.keys.len() >= KEYS_MAX && self.swept.is_none_or(|swept| now.since(swept) >= SWEEP) {
            self.swept = Some(now);
            self.expire(now);
        }
        self.keys.len() < KEYS_MAX
    }

    /// At most eight values of a key, from `offset` on; what belongs to the key's own owner comes last.
    pub(super) fn get(&self, now: Instant, key: &[u8; 20], offset: usize) -> Vec<Vec<u8>> {
        let Some(values) = self.keys.get(key) else { return Vec::new() };
        let own = |owner: &Owner| matches!(owner, Owner::Signer(signer) if signer.mid().0 == *key);
        let fresh = || values.iter().filter(|(_, kept)| kept.until > now);
        let last = fresh().filter(|(owner, _)| own(owner));
        let ordered = fresh().filter(|(owner, _)| !own(owner)).chain(last);
        ordered.skip(offset).take(VALUES_MAX).map(|(_, kept)| kept.value.clone()).collect()
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.keys.retain(|_, values| {
            values.retain(|_, kept| kept.until > now);
            !values.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::{Rng, SecretKey};

    const KEY: [u8; 20] = [4; 20];

    //= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
    #[test]
    fn of_each_signer_the_highest_version_counts() {
        let key = SecretKey::generate(&mut Rng::from_seed([1; 32]));
        let mut storage = Storage::default();
        for (version, data) in [(5, b"new"), (3, b"old")] {
            storage.put(Instant::START, KEY, DhtValue::signed(&key, version, data), 0);
        }
        assert_eq!(storage.get(Instant::START, &KEY, 0), [DhtValue::signed(&key, 5, b"new")]);
    }

    //= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
    #[test]
    fn values_live_an_hour_and_shorter_farther_away() {
        let mut storage = Storage::default();
        storage.put(Instant::START, KEY, DhtValue::unsigned(b"near"), 0);
        storage.put(Instant::START, KEY, DhtValue::unsigned(b"far"), 9);
        let left = |storage: &Storage, seconds| {
            storage.get(Instant::START + Duration::from_secs(seconds), &KEY, 0).len()
        };
        assert_eq!((left(&storage, 800), left(&storage, 1_000), left(&storage, 3_700)), (2, 1, 0));
        storage.expire(Instant::START + Duration::from_secs(4_000));
        assert!(storage.keys.is_empty());
    }

    #[test]
    fn a_full_storage_takes_new_keys_when_the_old_are_over() {
        let mut storage = Storage::default();
        let key = |number: usize| {
            let mut key = [0; 20];
            key[..8].copy_from_slice(&number.to_be_bytes());
            key
        };
        for number in 0..KEYS_MAX + 5 {
            storage.put(Instant::START, key(number), DhtValue::unsigned(b"x"), 0);
        }
        assert_eq!(storage.keys.len(), KEYS_MAX);
        let later = Instant::START + 2 * LIFETIME;
        storage.put(later, KEY, DhtValue::unsigned(b"x"), 0);
        assert_eq!((storage.keys.len(), storage.get(later, &KEY, 0).len()), (1, 1));
    }

    #[test]
    fn one_key_does_not_hold_more_than_its_share() {
        let mut storage = Storage::default();
        for number in 0..1_000_u32 {
            storage.put(Instant::START, KEY, DhtValue::unsigned(&number.to_be_bytes()), 0);
        }
        assert_eq!(storage.keys[&KEY].len(), VALUES_PER_KEY);
    }
}
