//! One peer of one torrent: facts from the handshakes, and the state of each concern that the modules beside this
//! one define. What happens between connections is the torrent's work.

use crate::Verdict;
use crate::bitfield::Bitfield;
use crate::context::Context;
use crate::dealing::{Dealing, Identity};
use crate::download::Download;
use crate::event::StreamId;
use crate::exchange::Exchange;
use crate::extension::{ExtendedHandshake, FS_IDENTITY};
use crate::identity::RefusalReason;
use crate::metainfo::InfoHash;
use crate::outbox::Outbox;
use crate::peer_wire::{Decoder, Message, PeerId, Reserved};
use crate::upload::Upload;
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_wire::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// Extended handshakes: at most one per this time, and so many per connection.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const EXTENDED_GAP: Duration = Duration::from_secs(10);
const MAX_EXTENDED: u8 = 10;
/// Pieces announced one by one before the number of pieces is known.
const MAX_EARLY_HAVES: usize = 4_096;

/// How a peer introduced itself.
#[derive(Debug)]
pub(crate) struct Greeting {
    /// The connection.
    pub(crate) id: StreamId,
    /// The peer's address.
    pub(crate) address: SocketAddr,
    /// Whether the peer opened the connection.
    pub(crate) incoming: bool,
    /// What the peer's handshake offers.
    pub(crate) reserved: Reserved,
    /// The peer's name for this torrent and run.
    pub(crate) peer_id: PeerId,
    /// The reading side, behind the handshake.
    pub(crate) decoder: Decoder,
    /// The writing side, handshake included.
    pub(crate) outbox: Outbox,
}

/// What a peer said about its pieces before we knew how many there are.
#[derive(Clone, Debug, Default)]
pub(crate) enum EarlyPieces {
    /// Nothing.
    #[default]
    Nothing,
    /// Everything.
    All,
    /// A bitfield that cannot be read yet.
    Bits(Bytes),
}

/// A peer of a torrent.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: StreamId,
    pub(crate) torrent: InfoHash,
    pub(crate) address: SocketAddr,
    pub(crate) incoming: bool,
    /// Where the peer can be dialled: its address, or for an incoming connection the port it told.
    pub(crate) dial_address: Option<SocketAddr>,
    pub(crate) peer_id: PeerId,
    pub(crate) reserved: Reserved,
    /// Whether both ends have the fast extension: ours always does.
    pub(crate) fast: bool,
    pub(crate) decoder: Decoder,
    pub(crate) outbox: Outbox,
    pub(crate) opened_at: Instant,
    pub(crate) heard_at: Instant,
    /// Whether a message came before which a bitfield may not come any more.
    pub(crate) pieces_told: bool,
    pub(crate) early: EarlyPieces,
    pub(crate) early_haves: Vec<u32>,
    /// What the peer's extended handshakes said, once one came.
    pub(crate) remote: Option<ExtendedHandshake>,
    extended_count: u8,
    extended_at: Instant,
    pub(crate) download: Download,
    pub(crate) upload: Upload,
    pub(crate) identity: Identity,
    pub(crate) exchange: Exchange,
    /// When the peer last became interested and was considered for a slot outside of the rounds.
    pub(crate) looked_at: Option<Instant>,
    /// The economy's newest answer about this peer.
    pub(crate) verdict: Option<Verdict>,
    /// Its place among all that the reputation knows, in 1/1000.
    pub(crate) rank: u32,
    /// Whether the choker chose this peer; it is unchoked when a grant is there.
    pub(crate) serving: bool,
    /// When the peer was refused; it is judged again after a while.
    pub(crate) refused_at: Option<Instant>,
    /// Why the peer refuses us.
    pub(crate) refused_by: Option<RefusalReason>,
    /// Metadata bytes that we sent.
    pub(crate) metadata_sent: u64,
    /// Payload that was of no use.
    pub(crate) wasted: u64,
    /// Since when both ends have everything.
    pub(crate) redundant_since: Option<Instant>,
    /// Since when neither end wants anything of the other.
    pub(crate) idle_since: Option<Instant>,
}

/// What a peer is to the choker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Not known yet: it may still prove an identity.
    Undecided,
    /// It proved an identity.
    Identity,
    /// Any other client.
    Legacy,
}

impl Connection {
    /// A connection after the BitTorrent handshake.
    pub(crate) fn new(torrent: InfoHash, greeting: Greeting, identity: Identity, now: Instant) -> Self {
        let Greeting { id, address, incoming, reserved, peer_id, decoder, outbox } = greeting;
        Self {
            id,
            torrent,
            address,
            incoming,
            dial_address: (!incoming).then_some(address),
            peer_id,
            reserved,
            fast: reserved.fast(),
            decoder,
            outbox,
            opened_at: now,
            heard_at: now,
            pieces_told: false,
            early: EarlyPieces::default(),
            early_haves: Vec::new(),
            remote: None,
            extended_count: 0,
            extended_at: now,
            download: Download::new(now),
            upload: Upload::new(now),
            identity,
            exchange: Exchange::new(now),
            looked_at: None,
            verdict: None,
            rank: 0,
            serving: false,
            refused_at: None,
            refused_by: None,
            metadata_sent: 0,
            wasted: 0,
            redundant_since: None,
            idle_since: None,
        }
    }

    /// Adds a message to the next write.
    pub(crate) fn send(&mut self, cx: &mut Context, message: &Message) {
        self.outbox.push(message);
        cx.unflushed.insert((self.torrent, self.id));
    }

    /// Adds a message of an extension, if the peer knows the extension.
    pub(crate) fn send_extended(&mut self, cx: &mut Context, name: &str, payload: Bytes) -> bool {
        let Some(id) = self.remote.as_ref().and_then(|remote| remote.id_of(name)) else { return false };
        self.send(cx, &Message::Extended { id, payload });
        true
    }

    /// Whether one more extended handshake is within the limits; counts it.
    pub(crate) fn may_extend(&mut self, now: Instant) -> bool {
        let too_soon = self.extended_count > 0 && now.since(self.extended_at) < EXTENDED_GAP;
        self.extended_count = self.extended_count.saturating_add(1);
        self.extended_at = now;
        !too_soon && self.extended_count <= MAX_EXTENDED
    }

    /// Notes a piece announced before the number of pieces is known.
    pub(crate) fn early_have(&mut self, piece: u32) {
        if self.early_haves.len() < MAX_EARLY_HAVES {
            self.early_haves.push(piece);
        }
    }

    /// What the peer is to the choker.
    pub(crate) fn class(&self) -> Class {
        self.identity.class()
    }

    /// The identity session, once both ends proved theirs.
    pub(crate) fn dealing(&self) -> Option<&Dealing> {
        if let Identity::Open(dealing) = &self.identity { Some(dealing) } else { None }
    }

    /// The same, to change it.
    pub(crate) fn dealing_mut(&mut self) -> Option<&mut Dealing> {
        if let Identity::Open(dealing) = &mut self.identity { Some(dealing) } else { None }
    }

    /// The peer's identity, once proved.
    pub(crate) fn key(&self) -> Option<PublicKey> {
        self.dealing().map(|dealing| dealing.session.peer())
    }

    /// Whether the peer announced the identity extension.
    pub(crate) fn offers_identity(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| {
            remote.id_of(FS_IDENTITY).is_some() && remote.identity_version.is_some_and(|version| version >= 1)
        })
    }

    /// Whether the peer says that it wants no pieces.
    pub(crate) fn is_upload_only(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.upload_only == Some(true))
    }

    /// Tells the pieces that were announced early, now that their number is known; `None` if they make no sense.
    pub(crate) fn take_early(&mut self, pieces: u32) -> Option<Bitfield> {
        let mut have = match std::mem::take(&mut self.early) {
            EarlyPieces::Nothing => Bitfield::new(pieces),
            EarlyPieces::All => Bitfield::full(pieces),
            EarlyPieces::Bits(bits) => Bitfield::from_bytes(pieces, &bits).ok()?,
        };
        for piece in std::mem::take(&mut self.early_haves) {
            if piece >= pieces {
                return None;
            }
            have.set(piece);
        }
        Some(have)
    }
}
