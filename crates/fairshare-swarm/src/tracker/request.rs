//! The query of an announcement (BEP 3, 7, 23).

use crate::magnet::percent_encode;
use crate::metainfo::InfoHash;
use crate::peer_wire::PeerId;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a tracker is told now and not at the next interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnounceEvent {
    /// The first announcement.
    Started,
    /// The last piece was verified.
    Completed,
    /// No further announcement follows.
    Stopped,
}

impl AnnounceEvent {
    const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
        }
    }
}

/// What a tracker is told.
#[derive(Clone, Copy, Debug)]
pub struct AnnounceRequest<'a> {
    /// The torrent.
    pub info_hash: InfoHash,
    /// We.
    pub peer_id: PeerId,
    /// The port we listen on.
    pub port: u16,
    /// Payload bytes sent.
    pub uploaded: u64,
    /// Payload bytes received.
    pub downloaded: u64,
    /// Bytes that are missing.
    pub left: u64,
    /// How many peers we would like.
    pub num_want: u32,
    /// Recognises us when our address changed: stable for a torrent and network.
    pub key: u32,
    /// Why now.
    pub event: Option<AnnounceEvent>,
    /// What the tracker wanted to be told again.
    pub tracker_id: Option<&'a [u8]>,
    /// Our IPv4 address, if it is known.
    pub ipv4: Option<Ipv4Addr>,
    /// Our IPv6 address, if it is known.
    pub ipv6: Option<Ipv6Addr>,
    /// Whether encrypted connections are understood.
    pub supports_encryption: bool,
}

impl AnnounceRequest<'_> {
    /// The address to fetch for the tracker at `announce`.
    pub fn url(&self, announce: &str) -> String {
        let (announce, _) = announce.split_once('#').unwrap_or((announce, ""));
        let mut url = announce.to_owned();
        url.push(if announce.contains('?') { '&' } else { '?' });
        let mut add = |text: std::fmt::Arguments<'_>| url.write_fmt(text).expect("a string takes everything");
        add(format_args!("info_hash={}", percent_encode(&self.info_hash.0)));
        add(format_args!("&peer_id={}&port={}", percent_encode(&self.peer_id.0), self.port));
        add(format_args!("&uploaded={}&downloaded={}&left={}", self.uploaded, self.downloaded, self.left));
        add(format_args!("&compact=1&numwant={}&key={:08x}", self.num_want, self.key));
        if self.supports_encryption {
            add(format_args!("&supportcrypto=1"));
        }
        if let Some(event) = self.event {
            add(format_args!("&event={}", event.name()));
        }
        if let Some(id) = self.tracker_id {
            add(format_args!("&trackerid={}", percent_encode(id)));
        }
        if let Some(ip) = self.ipv4 {
            add(format_args!("&ipv4={ip}"));
        }
        if let Some(ip) = self.ipv6 {
            add(format_args!("&ipv6={}", percent_encode(ip.to_string().as_bytes())));
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> AnnounceRequest<'static> {
        let mut hash = [0xab; 20];
        hash[..6].copy_from_slice(b"aZ0-.~");
        AnnounceRequest {
            info_hash: InfoHash(hash),
            peer_id: PeerId(*b"-FS0100-            "),
            port: 6_881,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            num_want: 100,
            key: 0xbeef,
            event: None,
            tracker_id: None,
            ipv4: None,
            ipv6: None,
            supports_encryption: false,
        }
    }

    //= spec/swarm.md#10-discovery
    #[test]
    fn the_query_holds_every_field_and_encodes_all_but_plain_characters() {
        let hash = format!("aZ0-.~{}", "%AB".repeat(14));
        let id = format!("-FS0100-{}", "%20".repeat(12));
        let base = format!(
            "info_hash={hash}&peer_id={id}&port=6881&uploaded=1&downloaded=2&left=3&compact=1&numwant=100&key=0000beef"
        );
        assert_eq!(request().url("http://t/announce"), format!("http://t/announce?{base}"));
        assert_eq!(request().url("http://t/a?pass=1#x"), format!("http://t/a?pass=1&{base}"));
        let full = AnnounceRequest {
            event: Some(AnnounceEvent::Completed),
            tracker_id: Some(b"a b"),
            ipv4: Some(Ipv4Addr::LOCALHOST),
            ipv6: Some(Ipv6Addr::LOCALHOST),
            supports_encryption: true,
            ..request()
        };
        let tail = "&supportcrypto=1&event=completed&trackerid=a%20b&ipv4=127.0.0.1&ipv6=%3A%3A1";
        assert_eq!(full.url("http://t/a"), format!("http://t/a?{base}{tail}"));
    }
}
