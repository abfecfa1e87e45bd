//! The 68 bytes that open a connection.
//= spec/swarm.md#2-handshake-bep-3

use crate::metainfo::InfoHash;
use fairshare_crypto::Rng;
use std::fmt;

/// Bytes of a handshake.
pub const HANDSHAKE_LEN: usize = 68;
/// Bytes of a handshake after which the info-hash is known and it can be answered.
pub const OPENING_LEN: usize = 48;

pub(super) const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// The name of a client in one torrent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

impl PeerId {
    /// A fresh one of ours: client and version, then 12 random bytes.
    //= spec/swarm.md#1-identifiers
    pub fn generate(rng: &mut Rng) -> Self {
        let mut id = *b"-FS0100-            ";
        rng.fill(&mut id[8..]);
        Self(id)
    }

    /// A fresh one that says nothing about the client.
    //= spec/swarm.md#1-identifiers
    pub fn anonymous(rng: &mut Rng) -> Self {
        Self(rng.bytes())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.0.escape_ascii())
    }
}

/// The eight reserved bytes: what else a client can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved(pub [u8; 8]);

impl Reserved {
    /// What we always announce: the extension protocol and the fast extension.
    pub const OURS: Self = Self([0, 0, 0, 0, 0, 0x10, 0, 0x04]);

    /// Whether the client speaks the extension protocol (BEP 10).
    pub const fn extension_protocol(self) -> bool {
        self.0[5] & 0x10 != 0
    }

    /// Whether the client speaks the fast extension (BEP 6).
    pub const fn fast(self) -> bool {
        self.0[7] & 0x04 != 0
    }

    /// Whether the client has a DHT node (BEP 5).
    pub const fn dht(self) -> bool {
        self.0[7] & 0x01 != 0
    }
}

/// A whole handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// What else the client can do.
    pub reserved: Reserved,
    /// The torrent.
    pub info_hash: InfoHash,
    /// The client.
    pub peer_id: PeerId,
}

impl Handshake {
    /// The bytes on the wire.
    pub fn to_bytes(&self) -> [u8; HANDSHAKE_LEN] {
        let mut out = [0; HANDSHAKE_LEN];
        out[..20].copy_from_slice(PROTOCOL);
        out[20..28].copy_from_slice(&self.reserved.0);
        out[28..OPENING_LEN].copy_from_slice(&self.info_hash.0);
        out[OPENING_LEN..].copy_from_slice(&self.peer_id.0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/swarm.md#2-handshake-bep-3
    //= spec/swarm.md#1-identifiers
    #[test]
    fn the_handshake_has_68_bytes_in_the_order_of_the_protocol() {
        let peer_id = PeerId::generate(&mut Rng::from_seed([1; 32]));
        assert!(peer_id.0.starts_with(b"-FS0100-"));
        let bytes = Handshake { reserved: Reserved::OURS, info_hash: InfoHash([7; 20]), peer_id }.to_bytes();
        assert_eq!(&bytes[..20], b"\x13BitTorrent protocol");
        assert_eq!(&bytes[20..28], [0, 0, 0, 0, 0, 0x10, 0, 4]);
        assert_eq!(&bytes[28..48], [7; 20]);
        assert_eq!(bytes[48..], peer_id.0);
    }

    #[test]
    fn the_reserved_bits_are_where_the_protocol_puts_them() {
        assert!(Reserved::OURS.extension_protocol() && Reserved::OURS.fast() && !Reserved::OURS.dht());
        assert!(Reserved([0, 0, 0, 0, 0, 0, 0, 1]).dht());
        let none = Reserved::default();
        assert!(!none.extension_protocol() && !none.fast() && !none.dht());
    }
}
