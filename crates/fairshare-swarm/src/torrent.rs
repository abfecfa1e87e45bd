//! One torrent: its description, picker, choker, trackers, and its connections. This file has the frame: what it
//! is made of, the dispatch of messages, closing, and the second tick. The modules beside it carry out one concern
//! each, as further `impl` blocks.

use crate::addresses::{AddressSource, ban_name};
use crate::announcing::AskedTracker;
use crate::candidates::Candidates;
use crate::choker::Choker;
use crate::config::{AddTorrent, Source};
use crate::connection::{Connection, Greeting};
use crate::context::Context;
use crate::event::{CloseReason, ConnectionStatus, StreamId, SwarmEvent, TorrentState, TorrentStatus};
use crate::extension::{
    FS_IDENTITY_ID, HANDSHAKE_ID, LT_DONTHAVE_ID, UPLOAD_ONLY_ID, UT_METADATA_ID, UT_PEX_ID,
};
use crate::geometry::Geometry;
use crate::lifecycle::Saving;
use crate::metadata::MetadataFetch;
use crate::metainfo::{InfoHash, Metainfo};
use crate::peer_wire::{Incoming, Message, PeerId};
use crate::picker::Picker;
use crate::rounds::Rounds;
use crate::timed_set::TimedSet;
use crate::tracker::{Announcer, TrackerId};
use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng};
use fairshare_wire::{Instant, Now};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A keep-alive goes out after this silence of ours.
//= spec/swarm.md#3-message-framing-and-core-messages
const KEEP_ALIVE: Duration = Duration::from_secs(100);
/// A peer silent for this long is dropped.
const SILENCE: Duration = Duration::from_secs(150);
/// A peer that sent wrong data is banned for this long.
//= spec/swarm.md#56-verification-and-blame
const BAN: Duration = Duration::from_secs(24 * 3600);
/// Two ends that both only upload part after this.
//= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
const REDUNDANT: Duration = Duration::from_secs(10);
/// In a full torrent a peer idle for this long may be replaced, at most one per interval.
//= spec/swarm.md#55-peer-selection-for-connecting
const IDLE: Duration = Duration::from_secs(300);
const REPLACE_INTERVAL: Duration = Duration::from_secs(60);
/// A peer whose proof of identity failed is not asked for one again so soon.
//= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r
const FAILED_PROOF: Duration = Duration::from_secs(3600);
/// Bans and failed proofs remembered per torrent.
const MAX_REMEMBERED: usize = 1_000;

/// What the torrent is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Without description.
    Metadata,
    /// The files are being opened.
    Checking,
    /// Exchanging pieces.
    Active,
    /// Stopped on command.
    Paused,
    /// Stopped by an error.
    Failed(String),
}

/// A torrent.
#[derive(Debug)]
pub(crate) struct Torrent {
    pub(crate) info_hash: InfoHash,
    pub(crate) peer_id: PeerId,
    pub(crate) root: PathBuf,
    /// Whether the files are only served.
    pub(crate) seed: bool,
    pub(crate) name: String,
    pub(crate) metainfo: Option<Arc<Metainfo>>,
    /// Whether only its own trackers may tell peers, and no identity is shown.
    pub(crate) private: bool,
    pub(crate) phase: Phase,
    pub(crate) geometry: Option<Geometry>,
    pub(crate) picker: Option<Picker>,
    pub(crate) fetch: MetadataFetch,
    pub(crate) connections: BTreeMap<StreamId, Connection>,
    pub(crate) candidates: Candidates,
    pub(crate) announcer: Announcer,
    /// Names us at trackers when our address changes.
    pub(crate) tracker_key: u32,
    /// The trackers that were asked.
    pub(crate) trackers_asked: BTreeMap<TrackerId, AskedTracker>,
    pub(crate) choker: Choker,
    pub(crate) rounds: Rounds,
    pub(crate) saving: Saving,
    pub(crate) rng: Rng,
    /// Trackers named by the magnet, for the description that is fetched.
    pub(crate) magnet_trackers: Vec<Vec<String>>,
    banned_addresses: TimedSet<SocketAddr>,
    banned_keys: TimedSet<PublicKey>,
    /// Peers whose proof of identity failed: legacy peers when they come again.
    pub(crate) failed_proofs: TimedSet<(IpAddr, PeerId)>,
    /// When an idle peer was last replaced.
    replaced_at: Instant,
    /// Totals of connections that are gone.
    pub(crate) past: Totals,
    /// Unverified bytes as last added to the engine's sum.
    accounted: u64,
}

/// The choker of a torrent.
fn choker(cx: &Context, rng: Rng) -> Choker {
    let choker = Choker::new(cx.config.slots, cx.config.legacy_share, rng);
    if cx.is_clear() { choker } else { choker.over_circuits() }
}

/// Payload counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) downloaded: u64,
    pub(crate) uploaded: u64,
    pub(crate) wasted: u64,
}

impl Torrent {
    /// A torrent that was just added; `start` sets it going.
    pub(crate) fn new(cx: &mut Context, now: Now, info_hash: InfoHash, add: AddTorrent) -> Self {
        let rng = cx.rng.fork(&format!("torrent {info_hash}"));
        let (name, trackers, metainfo) = match add.source {
            Source::Metainfo(metainfo) => {
                (metainfo.name().to_owned(), metainfo.trackers().to_vec(), Some(metainfo))
            }
            Source::Magnet(magnet) => {
                let name = magnet.name.clone().unwrap_or_else(|| info_hash.to_string());
                (name, magnet.trackers.iter().map(|url| vec![url.clone()]).collect(), None)
            }
        };
        let private = metainfo.as_ref().is_some_and(|metainfo| metainfo.is_private());
        let announce_rng = rng.fork("announce");
        let mut torrent = Self {
            info_hash,
            peer_id: if cx.is_clear() {
                PeerId::generate(&mut cx.rng)
            } else {
                PeerId::anonymous(&mut cx.rng)
            },
            root: add.root,
            seed: add.seed,
            name,
            private,
            phase: Phase::Metadata,
            geometry: None,
            picker: None,
            fetch: MetadataFetch::default(),
            connections: BTreeMap::new(),
            candidates: Candidates::default(),
            announcer: Announcer::new(
                &cx.usable_trackers(&trackers),
                cx.config.announce_to_all && !private,
                announce_rng,
            ),
            tracker_key: rng.fork("tracker key").next_u64() as u32,
            trackers_asked: BTreeMap::new(),
            choker: choker(cx, rng.fork("choker")),
            rounds: Rounds::new(now.mono),
            saving: Saving::new(now.mono),
            rng,
            magnet_trackers: trackers,
            metainfo: None,
            banned_addresses: TimedSet::new(BAN, MAX_REMEMBERED),
            banned_keys: TimedSet::new(BAN, MAX_REMEMBERED),
            failed_proofs: TimedSet::new(FAILED_PROOF, MAX_REMEMBERED),
            replaced_at: now.mono,
            past: Totals::default(),
            accounted: 0,
        };
        torrent.add_addresses(now.mono, &add.peers, cx.given_source(), true);
        if let Some(metainfo) = metainfo {
            torrent.describe(cx, metainfo);
        }
        torrent
    }

    /// Takes addresses in.
    pub(crate) fn add_addresses(
        &mut self,
        now: Instant,
        addresses: &[SocketAddr],
        source: AddressSource,
        local_source: bool,
    ) {
        for address in addresses {
            if !self.is_banned_address(now, *address) {
                self.candidates.add(now, *address, source, local_source);
            }
        }
    }

    /// A peer completed the handshake.
    pub(crate) fn greeted(&mut self, cx: &mut Context, now: Now, greeting: Greeting) {
        let (id, address) = (greeting.id, greeting.address);
        if greeting.peer_id == self.peer_id {
            self.candidates.is_self(now.mono, &address);
            return cx.close(id);
        }
        if !self.wants_connections(cx) || self.is_banned_address(now.mono, address) {
            self.candidates.failed(now.mono, &address);
            return cx.close(id);
        }
        if !self.keeps_over_same_peer(cx, now, &greeting) {
            self.candidates.is_duplicate(now.mono, &address);
            return cx.close(id);
        }
        let identity = self.identity_at_start(cx, now.mono, &greeting);
        self.candidates.connected(&address);
        let mut connection = Connection::new(self.info_hash, greeting, identity, now.mono);
        if let Some(geometry) = self.geometry {
            connection.decoder.expect_pieces(geometry.pieces());
        }
        self.connections.insert(id, connection);
        if let Some(picker) = &mut self.picker {
            picker.add_peer(id);
        }
        cx.event(SwarmEvent::Connected { id, torrent: self.info_hash, address });
        self.introduce(cx, id);
    }

    /// Bytes arrived from a peer.
    pub(crate) fn data(&mut self, cx: &mut Context, now: Now, id: StreamId, mut input: Bytes) {
        while let Some(connection) = self.connections.get_mut(&id) {
            connection.heard_at = now.mono;
            match connection.decoder.decode(&mut input) {
                Ok(Some(Incoming::Message(message))) => self.message(cx, now, id, message),
                Ok(Some(_)) => self.close(cx, now, id, CloseReason::Protocol("a second handshake")),
                Ok(None) => break,
                Err(_) => self.close(cx, now, id, CloseReason::Protocol("malformed message")),
            }
        }
        // A flood of requests that must each be answered would grow our memory until the next tick.
        if self.connections.get(&id).is_some_and(|connection| connection.outbox.is_stuck(now.mono)) {
            return self.close(cx, now, id, CloseReason::NotDraining);
        }
        self.refill(cx, now, id);
        self.pump(cx, now, id);
        self.account(cx);
    }

    fn message(&mut self, cx: &mut Context, now: Now, id: StreamId, message: Message) {
        match message {
            Message::Piece { piece, begin, data } => self.on_piece(cx, now, id, piece, begin, data),
            Message::Request(request) => self.on_request(cx, now, id, request),
            Message::Have(piece) => self.on_have(cx, now, id, piece),
            Message::Choke => self.on_choke(id),
            Message::Unchoke => self.on_unchoke(id),
            Message::Interested => self.on_interested(cx, now, id),
            Message::NotInterested => self.on_not_interested(cx, now, id),
            Message::Bitfield(bits) => self.on_bitfield(cx, now, id, bits),
            Message::HaveAll => self.on_have_all(cx, now, id),
            Message::HaveNone => self.on_have_none(cx, now, id),
            Message::Cancel(request) => self.on_cancel(cx, id, request),
            Message::RejectRequest(request) => self.on_reject(cx, now, id, request),
            Message::SuggestPiece(piece) => self.with_download(id, |download| download.suggest(piece)),
            Message::AllowedFast(piece) => self.with_download(id, |download| download.allow_fast(piece)),
            Message::Extended { id: extension, payload } => self.extended(cx, now, id, extension, &payload),
            // The port of a DHT node: there is no DHT in this engine yet, the message costs nothing.
            Message::Port(_) | Message::KeepAlive => {}
        }
    }

    fn extended(&mut self, cx: &mut Context, now: Now, id: StreamId, extension: u8, payload: &Bytes) {
        match extension {
            HANDSHAKE_ID => self.on_extended_handshake(cx, now, id, payload),
            UT_PEX_ID => self.on_exchange(cx, now, id, payload),
            LT_DONTHAVE_ID => self.on_dont_have(cx, now, id, payload),
            UT_METADATA_ID => self.on_metadata(cx, now, id, payload),
            UPLOAD_ONLY_ID => self.on_upload_only(cx, now, id, payload),
            FS_IDENTITY_ID => self.on_identity(cx, now, id, payload),
            _ => {}
        }
    }

    /// Ends a connection from our side.
    pub(crate) fn close(&mut self, cx: &mut Context, now: Now, id: StreamId, reason: CloseReason) {
        self.say_goodbye(cx, now, id);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.outbox.flush(now.mono, &mut cx.out);
            cx.close(id);
        }
        self.gone(cx, now, id, reason);
    }

    /// The connection is no more: everything that was bound to it becomes free.
    pub(crate) fn gone(&mut self, cx: &mut Context, now: Now, id: StreamId, reason: CloseReason) {
        let Some(mut connection) = self.connections.remove(&id) else { return };
        let seeds = |picker: &Picker| picker.is_seed(id) || connection.is_upload_only();
        let useless = self.picker.as_ref().is_some_and(|picker| picker.is_complete() && seeds(picker));
        if let Some(picker) = &mut self.picker {
            for index in connection.download.give_up() {
                picker.release(id, index);
            }
            picker.remove_peer(id);
        }
        self.fetch.remove_peer(id);
        self.past.downloaded += connection.download.rate.total();
        self.past.uploaded += connection.upload.sent;
        self.past.wasted += connection.wasted;
        self.free_candidate(now.mono, &connection, reason, useless);
        self.close_session(cx, &connection);
        cx.unflushed.remove(&(self.info_hash, id));
        cx.event(SwarmEvent::Disconnected { id, torrent: self.info_hash, reason });
        self.slot_may_be_free(cx, now, id);
        self.account(cx);
    }

    /// The address of a lost connection may be dialled again, at a time that depends on how it was lost.
    fn free_candidate(&mut self, now: Instant, connection: &Connection, reason: CloseReason, useless: bool) {
        let Some(address) = connection.dial_address else { return };
        match reason {
            CloseReason::OwnIdentity => self.candidates.is_self(now, &address),
            CloseReason::Duplicate => self.candidates.is_duplicate(now, &address),
            _ if useless => self.candidates.is_useless(now, &address),
            _ => self.candidates.lost(now, &address, now.since(connection.opened_at)),
        }
        if self.connections.values().any(|other| other.dial_address == Some(address)) {
            self.candidates.connected(&address);
        }
    }

    /// Ends all connections.
    pub(crate) fn close_all(&mut self, cx: &mut Context, now: Now, reason: CloseReason) {
        let ids: Vec<StreamId> = self.connections.keys().copied().collect();
        for id in ids {
            self.close(cx, now, id, reason);
        }
    }

    /// Bans a peer by address and identity, and parts from it.
    //= spec/swarm.md#56-verification-and-blame
    pub(crate) fn ban(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (address, key) = (connection.address.ip(), connection.key());
        let name = |peer: &Connection| ban_name(peer.dial_address.unwrap_or(peer.address));
        let banned = name(connection);
        self.banned_addresses.insert(now.mono, banned);
        if let Some(key) = key {
            self.banned_keys.insert(now.mono, key);
        }
        cx.event(SwarmEvent::PeerBanned { torrent: self.info_hash, address, key });
        let same = |other: &Connection| name(other) == banned || (key.is_some() && other.key() == key);
        let ids: Vec<StreamId> =
            self.connections.values().filter(|other| same(other)).map(|other| other.id).collect();
        for id in ids {
            self.close(cx, now, id, CloseReason::Banned);
        }
    }

    /// Whether the address is banned from this torrent.
    pub(crate) fn is_banned_address(&self, now: Instant, address: SocketAddr) -> bool {
        self.banned_addresses.contains(now, &ban_name(address))
    }

    /// Whether the identity is banned from this torrent.
    pub(crate) fn is_banned_key(&self, now: Instant, key: &PublicKey) -> bool {
        self.banned_keys.contains(now, key)
    }

    /// The work of every second.
    pub(crate) fn tick(&mut self, cx: &mut Context, now: Now) {
        if matches!(self.phase, Phase::Paused | Phase::Failed(_)) {
            return;
        }
        let ids: Vec<StreamId> = self.connections.keys().copied().collect();
        for id in ids {
            self.tick_connection(cx, now, id);
        }
        self.replace_idle(cx, now);
        self.tick_metadata(cx, now);
        self.tick_rounds(cx, now);
        self.tick_saving(cx, now);
        self.tick_announces(cx, now);
        self.account(cx);
    }

    fn tick_connection(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if now.mono.since(connection.heard_at) >= SILENCE {
            return self.close(cx, now, id, CloseReason::Silent);
        }
        if connection.outbox.is_stuck(now.mono) {
            return self.close(cx, now, id, CloseReason::NotDraining);
        }
        if now.mono.since(connection.outbox.written_at) >= KEEP_ALIVE {
            connection.send(cx, &Message::KeepAlive);
        }
        if self.is_redundant(now.mono, id) {
            return self.close(cx, now, id, CloseReason::Redundant);
        }
        self.tick_download(cx, now, id);
        self.tick_session(cx, now, id);
        self.tick_exchange(cx, now, id);
    }

    /// Whether both ends have everything, and had time to say so.
    fn is_redundant(&mut self, now: Instant, id: StreamId) -> bool {
        let complete = self.picker.as_ref().is_some_and(Picker::is_complete);
        let peer_is_seed = self.picker.as_ref().is_some_and(|picker| picker.is_seed(id));
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        if !complete || !(peer_is_seed || connection.is_upload_only()) {
            connection.redundant_since = None;
            return false;
        }
        let since = *connection.redundant_since.get_or_insert(now);
        now.since(since) >= REDUNDANT
    }

    /// In a full torrent, parts from the peer that was idle the longest, once a minute, to meet another.
    //= spec/swarm.md#55-peer-selection-for-connecting
    fn replace_idle(&mut self, cx: &mut Context, now: Now) {
        for connection in self.connections.values_mut() {
            if connection.download.interested || connection.upload.interested {
                connection.idle_since = None;
            } else {
                connection.idle_since.get_or_insert(now.mono);
            }
        }
        let full = self.connections.len() >= cx.config.max_connections_per_torrent;
        if !full || now.mono.since(self.replaced_at) < REPLACE_INTERVAL {
            return;
        }
        let idle = self.connections.values().filter_map(|peer| Some((peer.idle_since?, peer.id)));
        if let Some((since, id)) = idle.min()
            && now.mono.since(since) >= IDLE
        {
            self.replaced_at = now.mono;
            self.close(cx, now, id, CloseReason::Idle);
        }
    }

    /// Brings the engine's sum of unverified bytes up to date.
    pub(crate) fn account(&mut self, cx: &mut Context) {
        let current = self.picker.as_ref().map_or(0, Picker::unverified_bytes);
        cx.unverified_bytes = cx.unverified_bytes - self.accounted + current;
        self.accounted = current;
    }

    /// Whether connections are wanted at all.
    pub(crate) fn wants_connections(&self, cx: &Context) -> bool {
        let running = !matches!(self.phase, Phase::Paused | Phase::Failed(_));
        running && self.connections.len() < cx.config.max_connections_per_torrent
    }

    /// The torrent is removed: it no longer counts among the unverified bytes.
    pub(crate) fn forget(&mut self, cx: &mut Context) {
        self.picker = None;
        self.account(cx);
    }

    /// Payload of all connections, past and present.
    pub(crate) fn totals(&self) -> Totals {
        let sum = |of: fn(&Connection) -> u64| self.connections.values().map(of).sum::<u64>();
        Totals {
            downloaded: self.past.downloaded + sum(|peer| peer.download.rate.total()),
            uploaded: self.past.uploaded + sum(|peer| peer.upload.sent),
            wasted: self.past.wasted + sum(|peer| peer.wasted),
        }
    }

    /// The torrent as people see it.
    pub(crate) fn status(&self, now: Instant) -> TorrentStatus {
        let picker = self.picker.as_ref();
        let held = picker.map_or_else(|| crate::Bitfield::new(0), |picker| picker.held().clone());
        let piece_size =
            |piece| self.metainfo.as_ref().map_or(0, |metainfo| u64::from(metainfo.piece_size(piece)));
        let Totals { downloaded, uploaded, wasted } = self.totals();
        let rate =
            |of: fn(&Connection, Instant) -> u64| self.connections.values().map(|peer| of(peer, now)).sum();
        TorrentStatus {
            info_hash: self.info_hash,
            name: self.name.clone(),
            state: self.state(),
            total_bytes: self.geometry.map_or(0, |geometry| geometry.total),
            held_bytes: held.iter().map(piece_size).sum(),
            held,
            finished: picker.is_some_and(Picker::is_complete) && !self.saving.finish,
            downloaded,
            uploaded,
            wasted,
            download_rate: rate(|peer, now| peer.download.rate.over(now, 2)),
            upload_rate: rate(|peer, now| peer.upload.rate.over(now, 2)),
            peers: self.connections.len(),
            seeds: self
                .connections
                .keys()
                .filter(|id| picker.is_some_and(|picker| picker.is_seed(**id)))
                .count(),
            candidates: self.candidates.len(),
            slots: self.choker.slots(),
        }
    }

    fn state(&self) -> TorrentState {
        match &self.phase {
            Phase::Metadata => TorrentState::Metadata,
            Phase::Checking => TorrentState::Checking,
            Phase::Active if self.picker.as_ref().is_some_and(Picker::is_complete) => TorrentState::Seeding,
            Phase::Active => TorrentState::Downloading,
            Phase::Paused => TorrentState::Paused,
            Phase::Failed(reason) => TorrentState::Failed(reason.clone()),
        }
    }

    /// The connections as people see them.
    pub(crate) fn connection_status(&self, now: Instant) -> impl Iterator<Item = ConnectionStatus> + '_ {
        self.connections.values().map(move |peer| ConnectionStatus {
            id: peer.id,
            torrent: self.info_hash,
            address: peer.address,
            incoming: peer.incoming,
            client: peer.remote.as_ref().and_then(|remote| remote.version.clone()).unwrap_or_default(),
            key: peer.key(),
            pieces: self.picker.as_ref().map_or(0, |picker| picker.peer_count(peer.id)),
            am_interested: peer.download.interested,
            peer_interested: peer.upload.interested,
            am_unchoking: !peer.upload.choked,
            peer_unchoking: !peer.download.choked,
            downloaded: peer.download.rate.total(),
            uploaded: peer.upload.sent,
            download_rate: peer.download.rate.over(now, 2),
            upload_rate: peer.upload.rate.over(now, 2),
            requests_out: peer.download.outstanding(),
            requests_in: peer.upload.pending(),
            refused: peer.refused_at.is_some(),
            refused_by: peer.refused_by,
        })
    }
}
