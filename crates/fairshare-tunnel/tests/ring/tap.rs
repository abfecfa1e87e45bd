//! What an observer of every link sees: all datagrams, and the counter of the outermost layer of every cell.
//!
//! On the link before hop k the outermost layer of a cell is hop k's, both ways; so over all links every layer's counter
//! shows once on the wire, and no key is needed to tell whether one came twice. The candidates in CREATED are sealed
//! with the key of the other direction, and are booked there.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

const HEADER: usize = 29;
/// Where the sealed candidates of a CREATED begin: id, ident, point with its length, authenticator.
const CANDIDATES: usize = HEADER + 1 + 2 + 2 + 32 + 32;

/// A circuit on a link, and one of its two keys.
type Key = (SocketAddr, SocketAddr, u32, bool);

#[derive(Default)]
pub(crate) struct Tap {
    /// Keep whole datagrams.
    pub(crate) recording: bool,
    pub(crate) datagrams: Vec<(SocketAddr, SocketAddr, Bytes)>,
    /// Who began a circuit on a link.
    began: BTreeMap<(SocketAddr, SocketAddr, u32), SocketAddr>,
    counters: BTreeMap<Key, BTreeSet<u64>>,
    /// Counters that came twice under one key.
    pub(crate) repeated: Vec<(Key, u64)>,
    /// Layers seen.
    pub(crate) layers: u64,
}

impl Tap {
    pub(crate) fn saw(&mut self, from: SocketAddr, to: SocketAddr, bytes: &Bytes) {
        if self.recording {
            self.datagrams.push((from, to, bytes.clone()));
        }
        if bytes.get(22) != Some(&0) {
            return;
        }
        let circuit = u32::from_be_bytes(bytes[23..27].try_into().expect("4 bytes"));
        let link = (from.min(to), from.max(to), circuit);
        match (bytes[27], bytes[HEADER]) {
            (1, 2) => {
                self.began.insert(link, from);
            }
            (1, _) => self.layer(link, true, &bytes[CANDIDATES..]),
            _ => {
                let forward = self.began.get(&link) == Some(&from);
                self.layer(link, forward, &bytes[HEADER..]);
            }
        }
    }

    fn layer(&mut self, (a, b, circuit): (SocketAddr, SocketAddr, u32), forward: bool, layer: &[u8]) {
        let key = (a, b, circuit, forward);
        let counter = u64::from_be_bytes(layer[..8].try_into().expect("a layer begins with its counter"));
        self.layers += 1;
        if !self.counters.entry(key).or_default().insert(counter) {
            self.repeated.push((key, counter));
        }
    }
}
