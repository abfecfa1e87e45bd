//! Giving pieces to peers: requests in, reads from the disk, payload out within the bounds.
//= spec/swarm.md#65-serving

use crate::connection::{Class, Connection};
use crate::context::{Context, Purpose};
use crate::event::{CloseReason, StreamId, SwarmEvent};
use crate::peer_wire::{BlockRequest, Message};
use crate::request::{DiskError, Request};
use crate::torrent::{Phase, Torrent};
use crate::upload::{MAX_REQUEST_LEN, Reception};
use bytes::Bytes;
use fairshare_wire::Now;

impl Torrent {
    pub(crate) fn on_request(&mut self, cx: &mut Context, now: Now, id: StreamId, request: BlockRequest) {
        let held = self.picker.as_ref().is_some_and(|picker| picker.holds(request.piece));
        let fits = self.fits(&request);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if request.len == 0 || (request.len > MAX_REQUEST_LEN && !connection.fast) {
            return self.close(cx, now, id, CloseReason::Protocol("a request of impossible length"));
        }
        if !held || !fits || request.len > MAX_REQUEST_LEN {
            let abuse = connection.upload.asked_for_absent();
            reject(connection, cx, request);
            if abuse {
                self.close(cx, now, id, CloseReason::Protocol("too many requests for what we have not"));
            }
            return;
        }
        if connection.upload.choked {
            return reject(connection, cx, request);
        }
        match connection.upload.enqueue(request) {
            // After a minute without requests the economy has taken the rest of the grants back.
            Reception::Queued => self.ask_for_room(cx, now, id),
            Reception::Excess => reject(connection, cx, request),
            Reception::Abuse => self.close(cx, now, id, CloseReason::Protocol("too many requests at once")),
        }
    }

    /// Whether the request lies inside its piece.
    fn fits(&self, request: &BlockRequest) -> bool {
        let piece_len = self.geometry.map_or(0, |geometry| geometry.piece_len(request.piece));
        request.begin.checked_add(request.len).is_some_and(|end| end <= piece_len)
    }

    pub(crate) fn on_cancel(&mut self, cx: &mut Context, id: StreamId, request: BlockRequest) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // What is already being read is answered with the block.
        if connection.upload.cancel(&request) {
            reject(connection, cx, request);
        }
    }

    /// Sends what was read, and reads ahead, as far as the transport's credit and the economy's bounds allow.
    pub(crate) fn pump(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        self.send_ready(cx, now, id);
        let piece_len = self.geometry.map_or(0, |geometry| u64::from(geometry.piece_len));
        let Some(connection) = self.connections.get_mut(&id) else { return };
        while !connection.upload.choked {
            let allowance = allowance(connection, now, piece_len);
            let Some(run) = connection.upload.next_run(now.mono, connection.outbox.backlog(), allowance)
            else {
                break;
            };
            let torrent = self.info_hash;
            let request = Request::Read { torrent, piece: run.piece, begin: run.begin, len: run.len };
            let ticket = cx.request(torrent, Purpose::Read { id }, request);
            connection.upload.started(ticket);
        }
        connection.upload.note_busy(now.mono, connection.outbox.backlog());
        if connection.upload.pending_any() {
            self.ask_for_room(cx, now, id);
        }
    }

    fn send_ready(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let limit = connection.dealing().map_or(u64::MAX, |dealing| dealing.given.limit());
        let before = connection.upload.sent;
        while let Some(blocks) = connection.upload.take_ready(now.mono, limit) {
            for (request, data) in blocks {
                connection.outbox.payload(now.mono, request.piece, request.begin, data, &mut cx.out);
            }
        }
        if connection.upload.sent > before && connection.dealing().is_some() {
            cx.changed.insert((self.info_hash, id));
        }
    }

    /// The disk answered a read.
    pub(crate) fn on_read(
        &mut self,
        cx: &mut Context,
        now: Now,
        id: StreamId,
        ticket: u64,
        result: Result<Bytes, DiskError>,
    ) {
        let data = match result {
            Ok(data) => data,
            Err(error) => return self.fail(cx, now, error.to_string()),
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.upload.read(ticket, data);
        }
        self.pump(cx, now, id);
    }

    /// The transport took written bytes.
    pub(crate) fn drained(&mut self, cx: &mut Context, now: Now, id: StreamId, bytes: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.outbox.drained(now.mono, bytes);
        }
        self.pump(cx, now, id);
    }

    /// Begins to serve a peer that the choker chose: at once, or when the economy has granted room.
    //= spec/swarm.md#63-verdict-of-the-economy
    pub(crate) fn serve(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.serving = true;
        self.demand_room(cx, now, id);
        self.unchoke_if_ready(cx, now, id);
    }

    /// Tells a peer that the choker chose that it is served from now on, if there is room for it.
    pub(crate) fn unchoke_if_ready(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let sent = connection.upload.sent;
        let ready = connection.dealing().is_none_or(|dealing| dealing.given.has_room(sent));
        if connection.serving && ready && connection.upload.choked {
            connection.upload.unchoke(now.mono);
            connection.refused_at = None;
            connection.send(cx, &Message::Unchoke);
        }
    }

    /// Stops serving a peer: its requests are given back.
    //= spec/swarm.md#3-message-framing-and-core-messages
    pub(crate) fn choke(&mut self, cx: &mut Context, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let was_served = std::mem::take(&mut connection.serving);
        if !connection.upload.choked {
            let dropped = connection.upload.choke();
            connection.send(cx, &Message::Choke);
            dropped.into_iter().for_each(|request| reject(connection, cx, request));
        }
        if was_served && connection.class() == Class::Identity {
            if let Some(dealing) = connection.dealing_mut() {
                dealing.given.asked = false;
            }
            cx.event(SwarmEvent::Choked { id });
        }
    }

    /// Asks the economy for more room when it runs low, once until it answers.
    //= spec/economy.md#53-verdict-grant-settlement
    pub(crate) fn ask_for_room(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.serving) else {
            return;
        };
        let (sent, rate) = (connection.upload.sent, connection.upload.rate.current(now.mono));
        let Some(dealing) = connection.dealing_mut() else { return };
        if dealing.given.is_low(sent) && !dealing.given.asked {
            dealing.given.asked = true;
            cx.event(SwarmEvent::GrantWanted { id, rate });
        }
    }

    /// The same, although it was asked before: it had nothing to give then, and may have now.
    pub(crate) fn renew_room(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        if let Some(dealing) = self.connections.get_mut(&id).and_then(Connection::dealing_mut) {
            dealing.given.asked = false;
        }
        self.ask_for_room(cx, now, id);
    }

    /// Asks the economy for room however much there is: it may not know that the peer is served.
    pub(crate) fn demand_room(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let rate = connection.upload.rate.current(now.mono);
        if let Some(dealing) = connection.dealing_mut() {
            dealing.given.asked = true;
            cx.event(SwarmEvent::GrantWanted { id, rate });
        }
    }

    /// Whether anybody may be served at all.
    pub(crate) fn may_serve(&self, cx: &Context) -> bool {
        cx.config.allow_upload && self.phase == Phase::Active
    }
}

/// How much more may be sent to the peer.
fn allowance(connection: &mut Connection, now: Now, piece_len: u64) -> u64 {
    let sent = connection.upload.sent;
    let Some(dealing) = connection.dealing_mut() else { return u64::MAX };
    dealing.given.allowance(now.mono, sent, dealing.session.reported(), piece_len)
}

/// Answers a request that will not be served; without the fast extension silence says it.
pub(crate) fn reject(connection: &mut Connection, cx: &mut Context, request: BlockRequest) {
    if connection.fast {
        connection.send(cx, &Message::RejectRequest(request));
    }
}
