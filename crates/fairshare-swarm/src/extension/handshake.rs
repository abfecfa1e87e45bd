//! The extended handshake: which extensions a client has under which numbers, and facts about it.

use super::ExtensionError;
use crate::bencode::{Limits, Tree, Value};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Extensions in one handshake.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
pub const MAX_NAMES: usize = 64;
/// Bytes of the name of an extension.
pub const MAX_NAME_LEN: usize = 64;
/// Bytes of a client's name that are kept: enough to show.
const MAX_VERSION_LEN: usize = 128;

/// What a handshake says. What it does not mention is `None` and leaves earlier news in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtendedHandshake {
    /// Number of each extension by name; 0 takes an extension back.
    pub ids: BTreeMap<String, u8>,
    /// Product name and version.
    pub version: Option<String>,
    /// How many requests the sender queues.
    pub request_queue: Option<u32>,
    /// The port the sender listens on.
    pub port: Option<u16>,
    /// The receiver's address as the sender sees it.
    pub your_ip: Option<IpAddr>,
    /// An IPv4 address of the sender.
    pub ipv4: Option<Ipv4Addr>,
    /// An IPv6 address of the sender.
    pub ipv6: Option<Ipv6Addr>,
    /// Bytes of the metadata, if the sender has it.
    pub metadata_size: Option<u32>,
    /// Whether the sender wants no pieces.
    pub upload_only: Option<bool>,
    /// The highest version of `fs_identity` that the sender speaks.
    pub identity_version: Option<u32>,
}

impl ExtendedHandshake {
    /// Reads a handshake.
    pub fn parse(payload: &[u8]) -> Result<Self, ExtensionError> {
        // Bytes behind the dictionary have no meaning.
        let (root, _) = Value::parse_prefix(payload, Limits::NETWORK)?;
        root.dict().ok_or(ExtensionError::Key("m"))?;
        let text = |key| root.get(key).and_then(Value::bytes).map(shown);
        let flag = |key| root.get(key).and_then(Value::int).map(|value| value != 0);
        Ok(Self {
            ids: ids(&root)?,
            version: text("v"),
            request_queue: number(&root, "reqq"),
            port: number(&root, "p").filter(|port| *port != 0),
            your_ip: root.get("yourip").and_then(Value::bytes).and_then(ip),
            ipv4: array(&root, "ipv4").map(Ipv4Addr::from_octets),
            ipv6: array(&root, "ipv6").map(Ipv6Addr::from_octets),
            metadata_size: number(&root, "metadata_size"),
            upload_only: flag("upload_only"),
            identity_version: number(&root, "fs_v"),
        })
    }

    /// The payload of the message.
    pub fn encode(&self) -> Vec<u8> {
        let id = |(name, id): (&String, &u8)| (name.clone().into_bytes(), Tree::Int(i64::from(*id)));
        let number = |value: u32| Tree::Int(i64::from(value));
        let octets = |octets: &[u8]| Tree::Bytes(Bytes::copy_from_slice(octets));
        let mut root = vec![("m", Tree::Dict(self.ids.iter().map(id).collect()))];
        root.extend(self.version.as_deref().map(|version| ("v", Tree::text(version))));
        root.extend(self.request_queue.map(|requests| ("reqq", number(requests))));
        root.extend(self.port.map(|port| ("p", number(port.into()))));
        root.extend(self.your_ip.map(|ip| match ip {
            IpAddr::V4(ip) => ("yourip", octets(&ip.octets())),
            IpAddr::V6(ip) => ("yourip", octets(&ip.octets())),
        }));
        root.extend(self.ipv4.map(|ip| ("ipv4", octets(&ip.octets()))));
        root.extend(self.ipv6.map(|ip| ("ipv6", octets(&ip.octets()))));
        root.extend(self.metadata_size.map(|size| ("metadata_size", number(size))));
        root.extend(self.upload_only.map(|only| ("upload_only", number(only.into()))));
        root.extend(self.identity_version.map(|version| ("fs_v", number(version))));
        Tree::dict(root).encode()
    }

    /// Takes the news of a later handshake of the same peer.
    pub fn update(&mut self, newer: Self) {
        for (name, id) in newer.ids {
            let is_new = !self.ids.contains_key(&name);
            if id == 0 {
                self.ids.remove(&name);
            } else if !is_new || self.ids.len() < MAX_NAMES {
                self.ids.insert(name, id);
            }
        }
        replace(&mut self.version, newer.version);
        replace(&mut self.request_queue, newer.request_queue);
        replace(&mut self.port, newer.port);
        replace(&mut self.your_ip, newer.your_ip);
        replace(&mut self.ipv4, newer.ipv4);
        replace(&mut self.ipv6, newer.ipv6);
        replace(&mut self.metadata_size, newer.metadata_size);
        replace(&mut self.upload_only, newer.upload_only);
        replace(&mut self.identity_version, newer.identity_version);
    }

    /// The peer's number of an extension, to put on messages for it.
    pub fn id_of(&self, name: &str) -> Option<u8> {
        self.ids.get(name).copied().filter(|id| *id != 0)
    }
}

fn replace<T>(old: &mut Option<T>, new: Option<T>) {
    if new.is_some() {
        *old = new;
    }
}

fn ids(root: &Value<'_>) -> Result<BTreeMap<String, u8>, ExtensionError> {
    let Some(names) = root.get("m").and_then(Value::dict) else { return Ok(BTreeMap::new()) };
    if names.len() > MAX_NAMES || names.iter().any(|(name, _)| name.len() > MAX_NAME_LEN) {
        return Err(ExtensionError::TooMuch("names of extensions"));
    }
    let mut ids = BTreeMap::new();
    for (name, id) in names {
        let id = id.int().and_then(|id| u8::try_from(id).ok());
        if let (Ok(name), Some(id)) = (std::str::from_utf8(name), id) {
            ids.entry(name.to_owned()).or_insert(id);
        }
    }
    Ok(ids)
}

fn number<T: TryFrom<i64>>(root: &Value<'_>, key: &str) -> Option<T> {
    root.get(key)?.int()?.try_into().ok()
}

fn array<const N: usize>(root: &Value<'_>, key: &str) -> Option<[u8; N]> {
    root.get(key)?.bytes()?.try_into().ok()
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    let v4 = octets.try_into().map(|octets: [u8; 4]| IpAddr::from(octets));
    v4.or_else(|_| octets.try_into().map(|octets: [u8; 16]| IpAddr::from(octets))).ok()
}

/// A client's name, fit to be shown.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.get(..MAX_VERSION_LEN).unwrap_or(bytes));
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> ExtendedHandshake {
        ExtendedHandshake {
            ids: BTreeMap::from([("ut_metadata".to_owned(), 3), ("fs_identity".to_owned(), 9)]),
            version: Some("fairshare 0.1".to_owned()),
            request_queue: Some(512),
            port: Some(6881),
            your_ip: Some(Ipv4Addr::new(1, 2, 3, 4).into()),
            ipv4: Some(Ipv4Addr::new(5, 6, 7, 8)),
            ipv6: Some(Ipv6Addr::LOCALHOST),
            metadata_size: Some(31_235),
            upload_only: Some(true),
            identity_version: Some(1),
        }
    }

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    #[test]
    fn a_handshake_is_read_back() {
        assert_eq!(ExtendedHandshake::parse(&full().encode()), Ok(full()));
        let v6 = ExtendedHandshake { your_ip: Some(Ipv6Addr::LOCALHOST.into()), ..full() };
        assert_eq!(ExtendedHandshake::parse(&v6.encode()), Ok(v6));
        assert_eq!(ExtendedHandshake::parse(b"de"), Ok(ExtendedHandshake::default()));
    }

    #[test]
    fn values_of_the_wrong_kind_or_size_count_as_absent() {
        let odd = b"d4:ipv43:abc1:mi1e13:metadata_sizei-1e1:pi70000e4:reqq1:x1:v2:\xffx6:yourip5:abcdee";
        let parsed = ExtendedHandshake::parse(odd).expect("a dictionary");
        let version = Some("\u{fffd}x".to_owned());
        assert_eq!(parsed, ExtendedHandshake { version, ..ExtendedHandshake::default() });
        assert!(ExtendedHandshake::parse(b"le").is_err());
        assert_eq!(ExtendedHandshake::parse(b"d1:pi0ee").expect("a dictionary").port, None);
    }

    #[test]
    fn a_later_handshake_updates_and_zero_takes_back() {
        let mut known = full();
        known.update(
            ExtendedHandshake::parse(b"d1:md11:fs_identityi0e6:ut_pexi7ee4:reqqi9ee").expect("well formed"),
        );
        assert_eq!(
            (known.id_of("fs_identity"), known.id_of("ut_pex"), known.id_of("ut_metadata")),
            (None, Some(7), Some(3))
        );
        assert_eq!((known.request_queue, known.port), (Some(9), Some(6881)));
    }

    //= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
    #[test]
    fn names_are_limited_in_number_and_length_also_over_several_handshakes() {
        let names = |from: usize, count: usize| {
            let ids = (from..from + count).map(|number| (format!("name{number}"), 1)).collect();
            ExtendedHandshake { ids, ..ExtendedHandshake::default() }
        };
        let too_much = Err(ExtensionError::TooMuch("names of extensions"));
        assert_eq!(ExtendedHandshake::parse(&names(0, MAX_NAMES + 1).encode()), too_much);
        let mut known = names(0, MAX_NAMES);
        known.update(names(MAX_NAMES, 10));
        assert_eq!(known.ids.len(), MAX_NAMES);
        let long = format!("d1:md{}:{}i1eee", MAX_NAME_LEN + 1, "x".repeat(MAX_NAME_LEN + 1));
        assert_eq!(ExtendedHandshake::parse(long.as_bytes()), too_much);
    }

    proptest! {
        #[test]
        fn cut_and_changed_handshakes_never_panic(at in 0usize..200, byte in any::<u8>()) {
            let mut bytes = full().encode();
            let at = at % bytes.len();
            prop_assert!(ExtendedHandshake::parse(&bytes[..at]).is_err());
            bytes[at] = byte;
            let _ = ExtendedHandshake::parse(&bytes);
        }
    }
}
