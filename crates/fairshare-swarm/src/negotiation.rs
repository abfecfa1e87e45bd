//! What two peers tell each other about themselves: the first messages after the handshake, the extended
//! handshake, metadata, peer exchange.

use crate::addresses::{AddressSource, is_local};
use crate::connection::{Connection, EarlyPieces};
use crate::context::Context;
use crate::event::{CloseReason, StreamId};
use crate::extension::{
    ExtendedHandshake, FS_IDENTITY, METADATA_PIECE_LEN, MetadataMessage, OUR_IDS, Pex, PexFlags, UPLOAD_ONLY,
    UT_METADATA, UT_PEX, encode_upload_only, parse_dont_have, parse_upload_only,
};
use crate::identity::VERSION;
use crate::metainfo::Metainfo;
use crate::peer_wire::Message;
use crate::picker::Picker;
use crate::torrent::{Phase, Torrent};
use crate::upload::REQQ;
use bytes::Bytes;
use fairshare_wire::{Instant, Now};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Metadata sent to one peer: so many times its size, then rejects.
//= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
const METADATA_SERVED: u64 = 3;
/// How we call ourselves.
const CLIENT: &str = concat!("fairshare ", env!("CARGO_PKG_VERSION"));

impl Torrent {
    /// Sends the first messages: which pieces we have, and our extensions.
    //= spec/swarm.md#2-handshake-bep-3
    pub(crate) fn introduce(&mut self, cx: &mut Context, id: StreamId) {
        let extended = self.extended_handshake(cx, id);
        let pieces = self.pieces_message(id);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(pieces) = pieces {
            connection.send(cx, &pieces);
        }
        if connection.reserved.extension_protocol() {
            connection.send(cx, &Message::Extended { id: 0, payload: extended.encode().into() });
        }
    }

    fn pieces_message(&self, id: StreamId) -> Option<Message> {
        let fast = self.connections.get(&id)?.fast;
        let held = self.picker.as_ref().map(Picker::held);
        match held {
            Some(held) if held.all() && fast => Some(Message::HaveAll),
            Some(held) if !held.none() => Some(Message::Bitfield(held.to_bytes().into())),
            _ => fast.then_some(Message::HaveNone),
        }
    }

    fn extended_handshake(&self, cx: &Context, id: StreamId) -> ExtendedHandshake {
        let with_identity = cx.own_key.is_some() && !self.private;
        let offered = |(name, _): &(&str, u8)| match *name {
            FS_IDENTITY => with_identity,
            UT_PEX => self.exchanges(cx),
            _ => true,
        };
        let ids =
            OUR_IDS.iter().filter(|id| offered(id)).map(|(name, id)| ((*name).to_owned(), *id)).collect();
        let served = self.metainfo.as_ref().filter(|_| !self.private);
        ExtendedHandshake {
            ids,
            version: cx.is_clear().then(|| CLIENT.to_owned()),
            request_queue: Some(REQQ as u32),
            port: Some(cx.config.listen_port).filter(|port| *port != 0 && cx.is_clear()),
            your_ip: self
                .connections
                .get(&id)
                .filter(|_| cx.is_clear())
                .map(|connection| connection.address.ip()),
            metadata_size: served.and_then(|metainfo| u32::try_from(metainfo.info().len()).ok()),
            upload_only: self.picker.as_ref().filter(|picker| picker.is_complete()).map(|_| true),
            identity_version: with_identity.then_some(u32::from(VERSION)),
            ..ExtendedHandshake::default()
        }
    }

    pub(crate) fn on_extended_handshake(
        &mut self,
        cx: &mut Context,
        now: Now,
        id: StreamId,
        payload: &Bytes,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !connection.may_extend(now.mono) {
            return self.close(cx, now, id, CloseReason::Protocol("too many extended handshakes"));
        }
        let Ok(news) = ExtendedHandshake::parse(payload) else {
            return self.close(cx, now, id, CloseReason::Protocol("malformed extended handshake"));
        };
        let is_first = connection.remote.is_none();
        connection.remote.get_or_insert_default().update(news);
        self.apply_extended(cx, now.mono, id);
        self.ask_metadata(cx, now.mono);
        if is_first {
            self.begin_identity(cx, now, id);
        }
    }

    /// Puts what the peer said about itself to use.
    fn apply_extended(&mut self, cx: &Context, now: Instant, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(remote) = &connection.remote else { return };
        if let Some(reqq) = remote.request_queue {
            connection.download.set_reqq(reqq as usize);
        }
        if let Some(size) = remote.metadata_size.filter(|_| remote.id_of(UT_METADATA).is_some()) {
            self.fetch.offer(id, size);
        }
        if let Some(port) = remote.port.filter(|_| connection.incoming && cx.is_clear()) {
            let address = SocketAddr::new(connection.address.ip(), port);
            if self.candidates.add(now, address, AddressSource::Incoming, true) {
                self.candidates.connected(&address);
                connection.dial_address = Some(address);
            }
        }
    }

    // ---- metadata ----

    pub(crate) fn on_metadata(&mut self, cx: &mut Context, now: Now, id: StreamId, payload: &Bytes) {
        match MetadataMessage::parse(payload) {
            Ok(Some(MetadataMessage::Request { piece })) => self.serve_metadata(cx, id, piece),
            Ok(Some(MetadataMessage::Data { piece, data, .. })) => {
                if let Some(whole) = self.fetch.data(id, piece, data) {
                    self.metadata_complete(cx, now, &whole);
                }
                self.ask_metadata(cx, now.mono);
            }
            Ok(Some(MetadataMessage::Reject { piece })) => {
                self.fetch.rejected(now.mono, id, piece);
                self.ask_metadata(cx, now.mono);
            }
            Ok(None) => {}
            Err(_) => self.close(cx, now, id, CloseReason::Protocol("malformed metadata message")),
        }
    }

    //= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
    fn serve_metadata(&mut self, cx: &mut Context, id: StreamId, piece: u32) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let info = self.metainfo.as_ref().filter(|_| !self.private).map(|metainfo| metainfo.info());
        let part = info.and_then(|info| {
            let start = usize::try_from(u64::from(piece) * u64::from(METADATA_PIECE_LEN)).ok()?;
            let end = start.checked_add(METADATA_PIECE_LEN as usize)?.min(info.len());
            (start < end && connection.metadata_sent < METADATA_SERVED * info.len() as u64)
                .then(|| (info.slice(start..end), info.len()))
        });
        let message = match part {
            Some((data, total)) => {
                connection.metadata_sent += data.len() as u64;
                MetadataMessage::Data { piece, total_size: u32::try_from(total).ok(), data }
            }
            None => MetadataMessage::Reject { piece },
        };
        connection.send_extended(cx, UT_METADATA, message.encode().into());
    }

    /// Makes the requests for metadata that are possible now.
    pub(crate) fn ask_metadata(&mut self, cx: &mut Context, now: Instant) {
        if self.phase != Phase::Metadata {
            return;
        }
        for (id, piece) in self.fetch.requests(now) {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.send_extended(cx, UT_METADATA, MetadataMessage::Request { piece }.encode().into());
            }
        }
    }

    pub(crate) fn tick_metadata(&mut self, cx: &mut Context, now: Now) {
        self.ask_metadata(cx, now.mono);
    }

    fn metadata_complete(&mut self, cx: &mut Context, now: Now, whole: &Bytes) {
        match Metainfo::from_info(whole, self.info_hash, self.magnet_trackers.clone()) {
            Ok(metainfo) => self.described(cx, now, Arc::new(metainfo)),
            Err(_) => {
                if let Some(liar) = self.fetch.wrong() {
                    self.ban(cx, now, liar);
                }
            }
        }
    }

    /// The description is known: peers that were met before are taken into the picker.
    pub(crate) fn admit_early_peers(&mut self, cx: &mut Context, now: Now) {
        let Some(geometry) = self.geometry else { return };
        let ids: Vec<StreamId> = self.connections.keys().copied().collect();
        for id in ids {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.decoder.expect_pieces(geometry.pieces());
            let Some(have) = connection.take_early(geometry.pieces()) else {
                self.close(cx, now, id, CloseReason::Protocol("pieces that the torrent has not"));
                continue;
            };
            if let Some(picker) = &mut self.picker {
                picker.add_peer(id);
                picker.peer_bitfield(id, &have);
            }
        }
    }

    // ---- which pieces the peer has ----

    pub(crate) fn on_have(&mut self, cx: &mut Context, now: Now, id: StreamId, piece: u32) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.pieces_told = true;
        let Some(picker) = &mut self.picker else { return connection.early_have(piece) };
        if self.geometry.is_some_and(|geometry| piece >= geometry.pieces()) {
            return self.close(cx, now, id, CloseReason::Protocol("a piece that the torrent has not"));
        }
        picker.peer_has(id, piece);
        self.update_interest(cx, now.mono, id);
    }

    pub(crate) fn on_bitfield(&mut self, cx: &mut Context, now: Now, id: StreamId, bits: Bytes) {
        let have = self.geometry.map(|geometry| crate::Bitfield::from_bytes(geometry.pieces(), &bits));
        let Some(connection) = self.first_pieces(cx, now, id) else { return };
        match (have, &mut self.picker) {
            (Some(Ok(have)), Some(picker)) => picker.peer_bitfield(id, &have),
            (Some(Err(_)), _) => return self.close(cx, now, id, CloseReason::Protocol("malformed bitfield")),
            _ => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.early = EarlyPieces::Bits(bits);
                }
            }
        }
        self.update_interest(cx, now.mono, id);
    }

    pub(crate) fn on_have_all(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        if !self.speaks_fast(cx, now, id) || self.first_pieces(cx, now, id).is_none() {
            return;
        }
        match (&mut self.picker, self.connections.get_mut(&id)) {
            (Some(picker), _) => picker.peer_has_all(id),
            (None, Some(connection)) => connection.early = EarlyPieces::All,
            (None, None) => {}
        }
        self.update_interest(cx, now.mono, id);
    }

    pub(crate) fn on_have_none(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        if self.speaks_fast(cx, now, id) {
            self.first_pieces(cx, now, id);
        }
    }

    pub(crate) fn on_dont_have(&mut self, cx: &mut Context, now: Now, id: StreamId, payload: &Bytes) {
        let Ok(piece) = parse_dont_have(payload) else {
            return self.close(cx, now, id, CloseReason::Protocol("malformed withdrawal of a piece"));
        };
        if let Some(picker) = &mut self.picker {
            picker.peer_lost(id, piece);
        }
        self.update_interest(cx, now.mono, id);
    }

    pub(crate) fn on_upload_only(&mut self, cx: &mut Context, now: Now, id: StreamId, payload: &Bytes) {
        let Ok(only) = parse_upload_only(payload) else {
            return self.close(cx, now, id, CloseReason::Protocol("malformed upload_only"));
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.remote.get_or_insert_default().upload_only = Some(only);
        }
    }

    /// Tells every peer that we want nothing any more.
    pub(crate) fn announce_upload_only(&mut self, cx: &mut Context) {
        for connection in self.connections.values_mut() {
            connection.send_extended(cx, UPLOAD_ONLY, encode_upload_only(true));
        }
    }

    /// A message that may only come first: closes the connection if it does not.
    fn first_pieces(&mut self, cx: &mut Context, now: Now, id: StreamId) -> Option<StreamId> {
        let connection = self.connections.get_mut(&id)?;
        if connection.pieces_told {
            self.close(cx, now, id, CloseReason::Protocol("pieces told twice"));
            return None;
        }
        connection.pieces_told = true;
        Some(id)
    }

    /// Whether the peer has the fast extension; a message of it from another peer closes the connection.
    pub(crate) fn speaks_fast(&mut self, cx: &mut Context, now: Now, id: StreamId) -> bool {
        let fast = self.connections.get(&id).is_some_and(|connection| connection.fast);
        if !fast {
            self.close(cx, now, id, CloseReason::Protocol("fast extension without its bit"));
        }
        fast
    }

    // ---- peer exchange ----

    /// Whether peers tell each other of peers: not in private torrents, and not where peers have no addresses.
    //= spec/swarm.md#13-anonymous-torrents
    fn exchanges(&self, cx: &Context) -> bool {
        !self.private && !cx.is_hidden()
    }

    pub(crate) fn on_exchange(&mut self, cx: &Context, now: Now, id: StreamId, payload: &Bytes) {
        let exchanges = self.exchanges(cx);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // A message that cannot be read is ignored like one that comes too often: it is only a hint.
        let Ok(message) = Pex::parse(payload) else { return };
        if !exchanges {
            return;
        }
        let taken = connection.exchange.hear(now.mono, &message);
        let local_source = is_local(connection.address.ip());
        let addresses: Vec<SocketAddr> = message.added.iter().take(taken).map(|peer| peer.address).collect();
        self.add_addresses(now.mono, &addresses, AddressSource::Exchange, local_source);
    }

    pub(crate) fn tick_exchange(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let knows = connection.remote.as_ref().is_some_and(|remote| remote.id_of(UT_PEX).is_some());
        if !self.exchanges(cx) || !knows || !connection.exchange.is_due(now.mono) {
            return;
        }
        let current: BTreeMap<SocketAddr, PexFlags> = self
            .connections
            .values()
            .filter(|peer| peer.id != id)
            .filter_map(|peer| self.exchanged(peer))
            .collect();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if let Some(change) = connection.exchange.change(now.mono, &current) {
            connection.send_extended(cx, UT_PEX, change.encode().into());
        }
    }

    fn exchanged(&self, peer: &Connection) -> Option<(SocketAddr, PexFlags)> {
        let address = peer.dial_address?;
        let seed = self.picker.as_ref().is_some_and(|picker| picker.is_seed(peer.id));
        let mut flags = if peer.incoming { 0 } else { PexFlags::REACHABLE.0 };
        if seed {
            flags |= PexFlags::UPLOAD_ONLY.0;
        }
        Some((address, PexFlags(flags)))
    }
}
