//! The virtual tracker: answers announcements with the addresses of the others, in compact form.
//= spec/swarm.md#101-http-tracker-bep-372324-31

use bytes::Bytes;
use fairshare_swarm::InfoHash;
use fairshare_swarm::bencode::Tree;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

/// The address that torrents of the simulator name.
pub(crate) const ANNOUNCE: &str = "http://tracker.sim/announce";
const INTERVAL_S: i64 = 60;

/// Who announced what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracker {
    swarms: BTreeMap<InfoHash, BTreeSet<SocketAddrV4>>,
}

impl Tracker {
    /// The answer to a request from `from`.
    pub(crate) fn answer(&mut self, from: SocketAddr, url: &str) -> Result<Bytes, String> {
        let query = url.strip_prefix(ANNOUNCE).and_then(|rest| rest.strip_prefix('?'));
        let query = query.ok_or_else(|| format!("no such page: {url}"))?;
        let field = |name: &str| {
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)
        };
        let hash = field("info_hash").and_then(|(_, text)| unescape(text));
        let hash: [u8; 20] =
            hash.and_then(|bytes| bytes.try_into().ok()).ok_or("an announcement without a hash")?;
        let port = field("port").and_then(|(_, text)| text.parse().ok()).ok_or("without a port")?;
        let IpAddr::V4(ip) = from.ip() else { return Err("the virtual network is IPv4".to_owned()) };
        let own = SocketAddrV4::new(ip, port);
        let swarm = self.swarms.entry(InfoHash(hash)).or_default();
        if field("event").is_some_and(|(_, event)| event == "stopped") {
            swarm.remove(&own);
        } else {
            swarm.insert(own);
        }
        let others = swarm.iter().filter(|other| **other != own);
        let peers: Vec<u8> = others
            .flat_map(|other| [&other.ip().octets()[..], &other.port().to_be_bytes()].concat())
            .collect();
        let answer = [("interval", Tree::Int(INTERVAL_S)), ("peers", Tree::Bytes(peers.into()))];
        Ok(Tree::dict(answer).encode().into())
    }
}

/// Takes percent signs out.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_hears_of_the_first() {
        let mut tracker = Tracker::default();
        let announce = |tracker: &mut Tracker, ip: [u8; 4]| {
            let url = format!("{ANNOUNCE}?info_hash={}&port=8090&event=started", "%41b".repeat(10));
            tracker.answer(SocketAddr::from((ip, 55)), &url).expect("an announcement")
        };
        assert_eq!(announce(&mut tracker, [1, 2, 3, 4]).as_ref(), b"d8:intervali60e5:peers0:e");
        let answer = announce(&mut tracker, [1, 2, 3, 5]);
        assert!(answer.ends_with(b"5:peers6:\x01\x02\x03\x04\x1f\x9ae"), "{answer:?}");
    }
}
