//! The answer to an announcement.

use crate::bencode::{BencodeError, Limits, Value};
use crate::extension::{ExtensionError, compact_addresses};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use thiserror::Error;

/// Peers of one answer that are kept: as many as a torrent remembers.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
pub const MAX_TRACKER_PEERS: usize = 2_000;
/// Bytes of a tracker's text that are kept: enough to show.
const MAX_TEXT_LEN: usize = 512;
/// Bytes of a tracker id that are sent back.
const MAX_TRACKER_ID_LEN: usize = 256;

/// When to ask a tracker again that refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// After this time.
    After(Duration),
    /// Not at all.
    Never,
}

/// Why an answer is of no use.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnnounceError {
    /// Not bencoded.
    #[error("the tracker's answer is malformed: {0}")]
    Bencode(#[from] BencodeError),
    /// Something else than a dictionary with peers.
    #[error("the tracker's answer holds no readable list of peers")]
    Form,
    /// The tracker refused.
    #[error("the tracker says: {reason}")]
    Refused {
        /// Its words.
        reason: String,
        /// When to ask again, if it said so.
        retry: Option<Retry>,
    },
}

/// A good answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnnounceReply {
    /// Peers of the torrent.
    pub peers: Vec<SocketAddr>,
    /// When the tracker wants to hear again.
    pub interval: Option<Duration>,
    /// Before when it must not be asked again.
    pub min_interval: Option<Duration>,
    /// Our address as the tracker sees it.
    pub external_ip: Option<IpAddr>,
    /// A warning to show.
    pub warning: Option<String>,
    /// To be told again with the next announcement.
    pub tracker_id: Option<Vec<u8>>,
    /// Complete peers.
    pub seeders: Option<u64>,
    /// Incomplete peers.
    pub leechers: Option<u64>,
}

impl AnnounceReply {
    /// Reads the page that a tracker answered with.
    pub fn parse(page: &[u8]) -> Result<Self, AnnounceError> {
        let (root, _) = Value::parse_prefix(page, Limits::NETWORK)?;
        root.dict().ok_or(AnnounceError::Form)?;
        if let Some(reason) = text(&root, "failure reason") {
            return Err(AnnounceError::Refused { reason, retry: retry(&root) });
        }
        let number = |key| root.get(key).and_then(Value::int).and_then(|value| u64::try_from(value).ok());
        let seconds = |key| number(key).map(Duration::from_secs);
        let tracker_id = root.get("tracker id").and_then(Value::bytes);
        Ok(Self {
            peers: peers(&root)?,
            interval: seconds("interval"),
            min_interval: seconds("min interval"),
            external_ip: root.get("external ip").and_then(Value::bytes).and_then(ip),
            warning: text(&root, "warning message"),
            tracker_id: tracker_id.filter(|id| id.len() <= MAX_TRACKER_ID_LEN).map(<[u8]>::to_vec),
            seeders: number("complete"),
            leechers: number("incomplete"),
        })
    }
}

fn peers(root: &Value<'_>) -> Result<Vec<SocketAddr>, AnnounceError> {
    let compact = |list: &[u8], entry_len: usize| {
        let kept = list.get(..MAX_TRACKER_PEERS * entry_len).unwrap_or(list);
        compact_addresses(kept, entry_len).map_err(|_: ExtensionError| AnnounceError::Form)
    };
    let mut peers = match root.get("peers") {
        None => Vec::new(),
        Some(value) => match (value.bytes(), value.list()) {
            (Some(bytes), _) => compact(bytes, 6)?,
            (_, Some(list)) => list.iter().filter_map(listed_peer).take(MAX_TRACKER_PEERS).collect(),
            _ => return Err(AnnounceError::Form),
        },
    };
    peers.extend(compact(root.get("peers6").and_then(Value::bytes).unwrap_or_default(), 18)?);
    peers.truncate(MAX_TRACKER_PEERS);
    Ok(peers)
}

/// A peer of the long form. Host names are not resolved: a tracker could make us ask for any.
fn listed_peer(entry: &Value<'_>) -> Option<SocketAddr> {
    let ip: IpAddr = entry.get("ip")?.text()?.parse().ok()?;
    let port = entry.get("port")?.int()?.try_into().ok()?;
    Some(SocketAddr::new(ip, port))
}

fn retry(root: &Value<'_>) -> Option<Retry> {
    let value = root.get("retry in")?;
    if value.text() == Some("never") {
        return Some(Retry::Never);
    }
    // Some trackers send the number as text.
    let minutes = value.int().or_else(|| value.text()?.parse().ok())?;
    Some(Retry::After(Duration::from_secs(u64::try_from(minutes).ok()?.saturating_mul(60))))
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    let v4 = octets.try_into().map(|octets: [u8; 4]| IpAddr::from(octets));
    v4.or_else(|_| octets.try_into().map(|octets: [u8; 16]| IpAddr::from(octets))).ok()
}

fn text(root: &Value<'_>, key: &str) -> Option<String> {
    let bytes = root.get(key)?.bytes()?;
    let text = String::from_utf8_lossy(bytes.get(..MAX_TEXT_LEN).unwrap_or(bytes));
    Some(text.chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(page: &[u8]) -> Result<AnnounceReply, AnnounceError> {
        AnnounceReply::parse(page)
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn a_compact_answer_is_read() {
        let page = b"d8:completei3e11:external ip4:\x01\x02\x03\x0410:incompletei4e8:intervali1800e12:min intervali60e5:peers12:\x7f\0\0\x01\x1a\xe1\x7f\0\0\x02\0\x056:peers618:\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x0710:tracker id1:x15:warning message2:hie";
        let expected = AnnounceReply {
            peers: ["127.0.0.1:6881", "127.0.0.2:5", "[::1]:7"]
                .map(|peer| peer.parse().expect("address"))
                .to_vec(),
            interval: Some(Duration::from_secs(1_800)),
            min_interval: Some(Duration::from_secs(60)),
            external_ip: Some(IpAddr::from([1, 2, 3, 4])),
            warning: Some("hi".to_owned()),
            tracker_id: Some(b"x".to_vec()),
            seeders: Some(3),
            leechers: Some(4),
        };
        assert_eq!(parse(page), Ok(expected));
    }

    #[test]
    fn a_long_answer_is_read_without_host_names() {
        let page = b"d5:peersld2:ip9:127.0.0.17:peer id1:x4:porti5eed2:ip4:host4:porti5eed2:ip3:::14:porti70000eed2:ip3:::14:porti9eeee";
        let peers: Vec<SocketAddr> =
            ["127.0.0.1:5", "[::1]:9"].map(|peer| peer.parse().expect("address")).to_vec();
        assert_eq!(parse(page).expect("well formed").peers, peers);
    }

    #[test]
    fn a_refusal_tells_when_to_come_back() {
        let refused = |page: &[u8]| match parse(page) {
            Err(AnnounceError::Refused { reason, retry }) => (reason, retry),
            other => panic!("a refusal was due, not {other:?}"),
        };
        let minutes = |minutes: u64| Some(Retry::After(Duration::from_secs(60 * minutes)));
        assert_eq!(refused(b"d14:failure reason2:noe"), ("no".to_owned(), None));
        assert_eq!(refused(b"d14:failure reason2:no8:retry ini5ee").1, minutes(5));
        assert_eq!(refused(b"d14:failure reason2:no8:retry in2:10e").1, minutes(10));
        assert_eq!(refused(b"d14:failure reason2:no8:retry in5:nevere").1, Some(Retry::Never));
        assert_eq!(refused(b"d14:failure reason2:no8:retry ini-5ee").1, None);
    }

    #[test]
    fn malformed_and_oversized_answers_are_bounded() {
        assert_eq!(parse(b"d5:peers5:12345e"), Err(AnnounceError::Form));
        assert_eq!(parse(b"d5:peersi1ee"), Err(AnnounceError::Form));
        assert_eq!(parse(b"le"), Err(AnnounceError::Form));
        assert!(matches!(parse(b"<html>"), Err(AnnounceError::Bencode(_))));
        let many = [b"d5:peers60000:".to_vec(), vec![1; 60_000], b"e".to_vec()].concat();
        assert_eq!(parse(&many).expect("well formed").peers.len(), MAX_TRACKER_PEERS);
        let both = [&many[..many.len() - 1], b"6:peers6180:", &[1; 180], b"e"].concat();
        assert_eq!(parse(&both).expect("well formed").peers.len(), MAX_TRACKER_PEERS);
        assert_eq!(parse(b"de"), Ok(AnnounceReply::default()));
        assert_eq!(parse(b"d8:intervali-1ee"), Ok(AnnounceReply::default()));
    }

    proptest! {
        #[test]
        fn cut_and_changed_answers_never_panic(cut in 0usize..80, at in 0usize..80, byte in any::<u8>()) {
            let mut page = b"d8:intervali1800e5:peers6:\x7f\0\0\x01\x1a\xe16:peers60:15:warning message2:hie".to_vec();
            let (cut, at) = (cut % page.len(), at % page.len());
            prop_assert!(parse(&page[..cut]).is_err());
            page[at] = byte;
            let _ = parse(&page);
        }
    }
}
