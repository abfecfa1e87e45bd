//! Magnet links: the hash of a torrent and hints where to find its metadata.
//= spec/swarm.md#10-discovery

use crate::metainfo::{InfoHash, is_address};
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::str::FromStr;
use thiserror::Error;

/// Bytes of a link: what people can paste, with many trackers.
const MAX_LINK_LEN: usize = 64 << 10;
/// Trackers or peers that are kept, each.
const MAX_HINTS: usize = 200;

const SCHEME: &str = "magnet:?";
const V1: &str = "urn:btih:";
const V2: &str = "urn:btmh:";

/// Why text is no magnet link that we can use.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MagnetError {
    /// It does not start like a magnet link, or is far too long.
    #[error("not a magnet link")]
    Scheme,
    /// A percent sign without two hexadecimal digits, or bytes that are no text.
    #[error("malformed percent-encoding in a magnet link")]
    Encoding,
    /// The hash is malformed.
    #[error("the hash of a magnet link has 40 hexadecimal or 32 base32 digits")]
    Hash,
    /// No hash of a torrent.
    #[error("the magnet link names no torrent (xt=urn:btih: is missing)")]
    NoHash,
    /// Only the hash of version 2.
    #[error("a magnet link of BitTorrent version 2 only: not supported, version 1 and hybrid links are")]
    OnlyV2,
}

/// A magnet link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Magnet {
    /// The torrent.
    pub info_hash: InfoHash,
    /// What to call it until its metadata is known.
    pub name: Option<String>,
    /// Addresses of trackers, each its own tier.
    pub trackers: Vec<String>,
    /// Peers that have the torrent.
    pub peers: Vec<SocketAddr>,
    /// Bytes of the torrent.
    pub length: Option<u64>,
    /// Which files are wanted, as written in the link.
    pub select_only: Option<String>,
}

impl Magnet {
    /// A link with nothing but the hash.
    pub const fn new(info_hash: InfoHash) -> Self {
        Self {
            info_hash,
            name: None,
            trackers: Vec::new(),
            peers: Vec::new(),
            length: None,
            select_only: None,
        }
    }

    fn take(&mut self, key: &str, value: String) {
        match key {
            "dn" => self.name = self.name.take().or(Some(value)),
            "tr" if self.trackers.len() < MAX_HINTS && is_address(&value) => self.trackers.push(value),
            // A host name here would make us ask the name servers about a stranger's link.
            "x.pe" if self.peers.len() < MAX_HINTS => self.peers.extend(value.parse::<SocketAddr>().ok()),
            "xl" => self.length = self.length.or_else(|| value.parse().ok()),
            "so" => self.select_only = self.select_only.take().or(Some(value)),
            _ => {}
        }
    }
}

impl FromStr for Magnet {
    type Err = MagnetError;

    fn from_str(link: &str) -> Result<Self, MagnetError> {
        let (scheme, query) = link.trim().split_at_checked(SCHEME.len()).ok_or(MagnetError::Scheme)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) || link.len() > MAX_LINK_LEN {
            return Err(MagnetError::Scheme);
        }
        let mut hash = None;
        let mut has_v2 = false;
        let mut magnet = Self::new(InfoHash([0; 20]));
        for (key, value) in query.split('&').filter_map(|part| part.split_once('=')) {
            let value = percent_decode(value)?;
            match plain_key(key).as_str() {
                "xt" => {
                    has_v2 |= starts_with(&value, V2);
                    if starts_with(&value, V1) && hash.is_none() {
                        hash = Some(parse_hash(&value[V1.len()..])?);
                    }
                }
                key => magnet.take(key, value),
            }
        }
        magnet.info_hash = hash.ok_or(if has_v2 { MagnetError::OnlyV2 } else { MagnetError::NoHash })?;
        Ok(magnet)
    }
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}xt={V1}{}", self.info_hash)?;
        let name = self.name.iter().map(|name| ("dn", name.clone()));
        let length = self.length.iter().map(|length| ("xl", length.to_string()));
        let trackers = self.trackers.iter().map(|tracker| ("tr", tracker.clone()));
        let peers = self.peers.iter().map(|peer| ("x.pe", peer.to_string()));
        let files = self.select_only.iter().map(|files| ("so", files.clone()));
        for (key, value) in name.chain(length).chain(trackers).chain(peers).chain(files) {
            write!(f, "&{key}={}", percent_encode(value.as_bytes()))?;
        }
        Ok(())
    }
}

/// The key in lower case and without the number that some links put behind it (`xt.1`, `tr.2`).
fn plain_key(key: &str) -> String {
    let key = key.to_ascii_lowercase();
    match key.rsplit_once('.') {
        Some((plain, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            plain.to_owned()
        }
        _ => key,
    }
}

fn starts_with(value: &str, prefix: &str) -> bool {
    value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn parse_hash(text: &str) -> Result<InfoHash, MagnetError> {
    match text.len() {
        40 => text.parse().map_err(|_| MagnetError::Hash),
        32 => base32(text).map(InfoHash).ok_or(MagnetError::Hash),
        _ => Err(MagnetError::Hash),
    }
}

/// 32 digits of base32 (RFC 4648, either case) are 160 bits.
fn base32(text: &str) -> Option<[u8; 20]> {
    let mut out = Vec::with_capacity(20);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for digit in text.bytes() {
        let value = match digit {
            b'a'..=b'z' => digit - b'a',
            b'A'..=b'Z' => digit - b'A',
            b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        bits = (bits << 5) | u32::from(value);
        count += 5;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out.try_into().ok()
}

fn percent_decode(text: &str) -> Result<String, MagnetError> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'%' => {
                let (digits, tail) = tail.split_at_checked(2).ok_or(MagnetError::Encoding)?;
                let mut byte = [0];
                hex::decode_to_slice(digits, &mut byte).map_err(|_| MagnetError::Encoding)?;
                out.extend_from_slice(&byte);
                rest = tail;
            }
            b'+' => out.push(b' '),
            other => out.push(*other),
        }
    }
    String::from_utf8(out).map_err(|_| MagnetError::Encoding)
}

/// Percent-encoding of everything but the unreserved characters.
pub(crate) fn percent_encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes everything");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "aabbccddeeff00112233445566778899aabbccdd";

    fn parse(link: &str) -> Result<Magnet, MagnetError> {
        link.parse()
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn a_link_is_read_with_all_its_hints() {
        let link = format!(
            "MAGNET:?xt.1=urn:btih:{}&dn=a%20b+c&tr=http%3A%2F%2Ft%2Fa&tr.2=udp://u:1&tr=http://a%20b&tr=x&x.pe=1.2.3.4:5&x.pe=[::1]:6&x.pe=host:7&xl=10&so=0,2-4&as=x",
            HEX.to_uppercase()
        );
        let magnet = parse(&link).expect("well formed");
        assert_eq!(magnet.info_hash.to_string(), HEX);
        assert_eq!(magnet.name.as_deref(), Some("a b c"));
        assert_eq!(magnet.trackers, ["http://t/a", "udp://u:1"]);
        let peers: Vec<SocketAddr> =
            ["1.2.3.4:5", "[::1]:6"].map(|peer| peer.parse().expect("address")).to_vec();
        assert_eq!(magnet.peers, peers);
        assert_eq!((magnet.length, magnet.select_only.as_deref()), (Some(10), Some("0,2-4")));
    }

    #[test]
    fn base32_names_the_same_torrent() {
        let magnet = parse("magnet:?xt=urn:btih:VK54ZXPO74ABCIRTIRKWM54ITGVLXTG5").expect("well formed");
        assert_eq!(magnet.info_hash.to_string(), HEX);
        let lower = parse("magnet:?xt=urn:btih:vk54zxpo74abcirtirkwm54itgvlxtg5").expect("well formed");
        assert_eq!(lower, magnet);
    }

    #[test]
    fn a_hybrid_link_is_used_by_its_first_hash_and_version_2_alone_is_named() {
        let v2 = format!("xt=urn:btmh:1220{}", "ab".repeat(32));
        assert_eq!(parse(&format!("magnet:?{v2}")), Err(MagnetError::OnlyV2));
        assert!(parse(&format!("magnet:?{v2}&xt=urn:btih:{HEX}")).is_ok());
    }

    #[test]
    fn other_text_is_refused() {
        assert_eq!(parse("http://x"), Err(MagnetError::Scheme));
        assert_eq!(parse("m\u{fc}"), Err(MagnetError::Scheme));
        assert_eq!(parse("magnet:?dn=x"), Err(MagnetError::NoHash));
        assert_eq!(parse("magnet:?xt=urn:btih:abc"), Err(MagnetError::Hash));
        assert_eq!(parse(&format!("magnet:?xt=urn:btih:{}", "1".repeat(32))), Err(MagnetError::Hash));
        assert_eq!(parse(&format!("magnet:?xt=urn:btih:{}", "\u{fc}".repeat(20))), Err(MagnetError::Hash));
        for bad in ["%", "%1", "%zz", "%ff", "%+1"] {
            assert_eq!(
                parse(&format!("magnet:?xt=urn:btih:{HEX}&dn={bad}")),
                Err(MagnetError::Encoding),
                "{bad}"
            );
        }
        assert_eq!(
            parse(&format!("magnet:?xt=urn:btih:{HEX}&dn={}", "x".repeat(MAX_LINK_LEN))),
            Err(MagnetError::Scheme)
        );
    }

    proptest! {
        #[test]
        fn a_link_is_read_back(
            hash in any::<[u8; 20]>(),
            name in proptest::option::of(".{0,20}"),
            tracker in proptest::option::of("(http|udp)://[!-~]{0,20}"),
            peer in any::<([u8; 4], u16)>(),
            length in proptest::option::of(any::<u64>()),
        ) {
            let magnet = Magnet {
                info_hash: InfoHash(hash),
                name,
                trackers: tracker.into_iter().collect(),
                peers: vec![SocketAddr::from(peer)],
                length,
                select_only: Some("1-2".to_owned()),
            };
            prop_assert_eq!(parse(&magnet.to_string()), Ok(magnet));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(magnet:\\?)?(xt=urn:bt[im]h:|dn|tr|&|=|%|.){0,30}") {
            let _ = parse(&text);
        }
    }
}
