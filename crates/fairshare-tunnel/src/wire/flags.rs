//! What a node is willing to do for circuits, as its introductions tell.
//= spec/tunnels.md#1-identities-prefix-peer-flags

use std::ops::BitOr;

/// A set of flags: the whole of `extra_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(pub u16);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// Answers EXTEND.
    pub const RELAY: Self = Self(1);
    /// Sends out what looks like BitTorrent.
    pub const EXIT_BT: Self = Self(2);
    /// Sends out overlay packets.
    pub const EXIT_IPV8: Self = Self(4);
    /// Answers speed tests.
    pub const SPEED_TEST: Self = Self(8);
    /// Speaks the second form of the protocol.
    pub const VERSION_2: Self = Self(256);
    /// Is to be an exit only if there is no other.
    pub const EXIT_BACKUP: Self = Self(16_384);
    /// Carries out HTTP requests.
    pub const EXIT_HTTP: Self = Self(32_768);

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags in the extra bytes of an introduction. Absent bytes are no flags; other lengths are none of ours.
    pub fn from_extra(extra: &[u8]) -> Option<Self> {
        match extra {
            [] => Some(Self::NONE),
            [high, low] => Some(Self(u16::from_be_bytes([*high, *low]))),
            _ => None,
        }
    }

    /// The extra bytes of an introduction.
    pub const fn to_extra(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
