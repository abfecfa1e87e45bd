//! Identities on a connection: the proof of both keys, then counts, receipts, grants, refusals and half blocks.
//= spec/swarm.md#8-identity-extension-fs_identity

use crate::addresses::prefix;
use crate::connection::{Connection, Greeting};
use crate::context::Context;
use crate::dealing::{Dealing, IDENTITY_TIMEOUT, Identity};
use crate::event::{CloseReason, StreamId, SwarmEvent};
use crate::extension::FS_IDENTITY;
use crate::giving::reject;
use crate::identity::{
    Channel, CountFault, Freed, GrantMessage, Handshake, HandshakeError, HelloSecrets, MAX_BLOCK_LEN,
    Message, MessageError, Progress, Refusal, Session, Totals,
};
use crate::torrent::Torrent;
use bytes::Bytes;
use fairshare_wire::{Instant, Now};

impl Torrent {
    /// Whether a fresh connection may come to a proof of identities.
    pub(crate) fn identity_at_start(&self, cx: &Context, now: Instant, greeting: &Greeting) -> Identity {
        let possible = cx.own_key.is_some()
            && !self.private
            && greeting.reserved.extension_protocol()
            && !self.failed_proofs.contains(now, &(greeting.address.ip(), greeting.peer_id));
        if possible { Identity::Waiting { until: now + IDENTITY_TIMEOUT } } else { Identity::Legacy }
    }

    /// Both extended handshakes are there: the side that opened the connection begins.
    //= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r
    pub(crate) fn begin_identity(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let own_peer_id = self.peer_id;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Identity::Waiting { until } = connection.identity else { return };
        if !connection.offers_identity() {
            return self.is_legacy(cx, now, id);
        }
        let Some(key) = cx.config.identity.clone() else { return };
        if !cx.may_prove(now.mono, prefix(connection.address.ip())) {
            return self.is_legacy(cx, now, id);
        }
        let (initiator, responder) = if connection.incoming {
            (connection.peer_id, own_peer_id)
        } else {
            (own_peer_id, connection.peer_id)
        };
        let channel = Channel { info_hash: self.info_hash, initiator, responder, binding: [0; 32] };
        let secrets = HelloSecrets::generate(&mut self.rng);
        let handshake = if connection.incoming {
            Handshake::respond(channel, &key, secrets)
        } else {
            let (handshake, hello) = Handshake::initiate(channel, &key, secrets);
            connection.send_extended(cx, FS_IDENTITY, hello.encode());
            handshake
        };
        connection.identity = Identity::Proving { handshake: Box::new(handshake), until };
    }

    /// A message of the identity extension.
    pub(crate) fn on_identity(&mut self, cx: &mut Context, now: Now, id: StreamId, payload: &Bytes) {
        let message = match Message::parse(payload) {
            Ok(Some(message)) => message,
            Ok(None) => return,
            // A newer version than ours is no breach: without a common one the peer is a legacy peer.
            Err(MessageError::Version(_)) => return self.proof_failed(cx, now, id),
            Err(_) => return self.close(cx, now, id, CloseReason::Protocol("malformed identity message")),
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match (&mut connection.identity, &message) {
            (Identity::Proving { .. }, _) => self.prove(cx, now, id, &message),
            (Identity::Open(_), Message::Hello(_) | Message::Answer(..) | Message::Proof(_)) => {
                self.close(cx, now, id, CloseReason::Protocol("a second proof of identity"));
            }
            (Identity::Open(_), _) => self.dealt(cx, now, id, message, payload),
            // We never offered it, or it failed before: the peer is a legacy peer, whatever it says.
            (Identity::Legacy | Identity::Waiting { .. }, _) => {}
        }
    }

    fn prove(&mut self, cx: &mut Context, now: Now, id: StreamId, message: &Message) {
        let (Some(key), Some(connection)) = (&cx.config.identity, self.connections.get_mut(&id)) else {
            return;
        };
        let Identity::Proving { handshake, .. } = &mut connection.identity else { return };
        match handshake.receive(key, message) {
            Ok(Progress::Reply(reply)) => {
                connection.send_extended(cx, FS_IDENTITY, reply.encode());
            }
            Ok(Progress::Verified(reply, session)) => {
                if let Some(reply) = reply {
                    connection.send_extended(cx, FS_IDENTITY, reply.encode());
                }
                self.verified(cx, now, id, *session);
            }
            Err(HandshakeError::OwnKey) => self.close(cx, now, id, CloseReason::OwnIdentity),
            Err(error) if error.closes() => {
                self.close(cx, now, id, CloseReason::Protocol("identity messages out of turn"));
            }
            Err(_) => self.proof_failed(cx, now, id),
        }
    }

    /// No proof: the peer is a legacy peer, also when it comes again within an hour.
    fn proof_failed(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        if let Some(connection) = self.connections.get(&id) {
            self.failed_proofs.insert(now.mono, (connection.address.ip(), connection.peer_id));
        }
        self.is_legacy(cx, now, id);
    }

    fn is_legacy(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.identity = Identity::Legacy;
        }
        self.consider(cx, now, id);
    }

    fn verified(&mut self, cx: &mut Context, now: Now, id: StreamId, session: Session) {
        let key = session.peer();
        if self.is_banned_key(now.mono, &key) {
            return self.close(cx, now, id, CloseReason::Banned);
        }
        if !self.keeps_over_same_key(cx, now, id, &key) {
            return;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.identity = Identity::Open(Box::new(Dealing::new(session, now.mono)));
        let (address, incoming) = (connection.address, connection.incoming);
        cx.event(SwarmEvent::SessionOpened { id, key, address, incoming, torrent: self.info_hash });
        self.consider(cx, now, id);
    }

    /// A message of an open session.
    fn dealt(&mut self, cx: &mut Context, now: Now, id: StreamId, message: Message, payload: &Bytes) {
        match message {
            Message::Count(count) => {
                self.counted(cx, now, id, |session, sent| session.accept_count(&count, sent));
            }
            Message::Receipt(receipt) => {
                let Some(us) = cx.own_key else { return };
                if self.counted(cx, now, id, |session, sent| session.accept_receipt(&receipt, &us, sent)) {
                    cx.event(SwarmEvent::ReceiptReceived { id, receipt: payload.clone() });
                }
            }
            Message::ReceiptRequest => self.receipt_requested(cx, now, id),
            Message::Refused(refusal) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.refused_by = Some(refusal.reason);
                }
                cx.event(SwarmEvent::RefusedBy { id, refusal });
            }
            Message::Block(bytes) => cx.event(SwarmEvent::BlockReceived { id, bytes }),
            Message::Grant(grant) => cx.event(SwarmEvent::GrantReceived { id, grant }),
            Message::Freed(freed) => {
                cx.event(SwarmEvent::GrantFreed { id, number: freed.number, used: freed.used });
            }
            // The peer is about to close; its last counts came before this.
            Message::Bye | Message::Hello(_) | Message::Answer(..) | Message::Proof(_) => {}
        }
    }

    /// The peer acknowledged what it took. Tells whether its numbers were good.
    //= spec/swarm.md#83-counts-and-exposure
    fn counted(
        &mut self,
        cx: &mut Context,
        now: Now,
        id: StreamId,
        accept: impl FnOnce(&mut Session, u64) -> Result<Totals, CountFault>,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        let sent = connection.upload.sent;
        let Some(dealing) = connection.dealing_mut().filter(|dealing| !dealing.given.is_disputed()) else {
            return false;
        };
        match accept(&mut dealing.session, sent) {
            Ok(Totals { accepted, verified, .. }) => {
                dealing.given.acknowledge(now.mono, accepted);
                cx.event(SwarmEvent::Acknowledged { id, accepted, verified });
                self.pump(cx, now, id);
                true
            }
            Err(fault) => {
                let disputed = dealing.given.fault();
                cx.event(SwarmEvent::CountFault { id, fault, choked: disputed });
                if disputed {
                    self.choke(cx, id);
                    self.want_evaluation(cx, now.mono);
                } else {
                    connection.send_extended(cx, FS_IDENTITY, Message::ReceiptRequest.encode());
                }
                false
            }
        }
    }

    fn receipt_requested(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let (Some(key), Some(connection)) = (&cx.config.identity, self.connections.get_mut(&id)) else {
            return;
        };
        let receipt = connection.dealing_mut().and_then(|dealing| dealing.receipt_requested(now, key));
        if let Some(receipt) = receipt {
            connection.send_extended(cx, FS_IDENTITY, Message::Receipt(receipt).encode());
        }
    }

    /// Sends the counts and receipts that are due.
    pub(crate) fn tell_counts(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            tell(cx, now, connection, false);
        }
    }

    /// Nothing more will be taken: what is still uncounted is told now, since the peers may leave at any moment.
    pub(crate) fn tell_final_counts(&mut self, cx: &mut Context, now: Now) {
        self.connections.values_mut().for_each(|connection| tell(cx, now, connection, true));
    }

    /// The timers of the proof and of the counts.
    pub(crate) fn tick_session(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let overdue =
            self.connections.get(&id).is_some_and(|connection| connection.identity.is_overdue(now.mono));
        if overdue {
            self.proof_failed(cx, now, id);
        }
        self.tell_counts(cx, now, id);
    }

    /// The last counts, before a connection is closed.
    pub(crate) fn say_goodbye(&mut self, cx: &mut Context, now: Now, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.dealing().is_some() {
            tell(cx, now, connection, true);
            connection.send_extended(cx, FS_IDENTITY, Message::Bye.encode());
        }
    }

    /// The session ended with its connection.
    pub(crate) fn close_session(&self, cx: &mut Context, connection: &Connection) {
        cx.changed.remove(&(self.info_hash, connection.id));
        let Some(dealing) = connection.dealing() else { return };
        let (id, sent) = (connection.id, connection.upload.sent);
        report(cx, id, dealing, sent);
        let recv_verified = dealing.taken.verified;
        cx.event(SwarmEvent::SessionClosed { id, key: dealing.session.peer(), recv_verified, sent });
    }

    /// Tells the economy what changed since it was last told.
    pub(crate) fn report_totals(&mut self, cx: &mut Context, id: StreamId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let sent = connection.upload.sent;
        let Some(dealing) = connection.dealing_mut() else { return };
        report(cx, id, dealing, sent);
        (dealing.given.sent_told, dealing.taken.verified_told) = (sent, dealing.taken.verified);
    }

    // ---- verbs of the economy ----

    /// The economy reserved room for the peer: it is told, then served.
    //= spec/swarm.md#84-settlement-and-evidence-on-the-connection
    pub(crate) fn grant(&mut self, cx: &mut Context, now: Now, id: StreamId, grant: GrantMessage) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let sent = connection.upload.sent;
        let Some(dealing) = connection.dealing_mut() else { return };
        dealing.given.grant(grant.number, grant.room, sent);
        connection.send_extended(cx, FS_IDENTITY, Message::Grant(grant).encode());
        self.unchoke_if_ready(cx, now, id);
        self.pump(cx, now, id);
    }

    /// The economy released the rest of a grant.
    pub(crate) fn freed(&mut self, cx: &mut Context, id: StreamId, number: u32, used: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(dealing) = connection.dealing_mut() else { return };
        dealing.given.freed(number, used);
        connection.send_extended(cx, FS_IDENTITY, Message::Freed(Freed { number, used }).encode());
    }

    /// The economy lets so many bytes be sent in this session, all in all.
    pub(crate) fn serve_limit(&mut self, cx: &mut Context, now: Now, id: StreamId, total: u64) {
        if let Some(dealing) = self.connections.get_mut(&id).and_then(Connection::dealing_mut) {
            dealing.given.set_limit(total);
        }
        self.unchoke_if_ready(cx, now, id);
        self.pump(cx, now, id);
    }

    /// The economy refuses the peer: choke, rejects, and once the reason.
    //= spec/swarm.md#63-verdict-of-the-economy
    pub(crate) fn refuse(&mut self, cx: &mut Context, now: Now, id: StreamId, refusal: Refusal) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let told = connection.refused_at.is_some();
        connection.refused_at = Some(now.mono);
        let held_slot = connection.serving;
        self.choke(cx, id);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.upload.drop_requests().into_iter().for_each(|request| reject(connection, cx, request));
        if !told {
            connection.send_extended(cx, FS_IDENTITY, Message::Refused(refusal).encode());
        }
        if held_slot {
            self.want_evaluation(cx, now.mono);
        }
    }

    /// Sends a half block over the session.
    pub(crate) fn send_block(&mut self, cx: &mut Context, id: StreamId, block: Bytes) {
        let Some(connection) =
            self.connections.get_mut(&id).filter(|connection| connection.dealing().is_some())
        else {
            return;
        };
        // A longer one cannot exist in this network: a half block is a datagram elsewhere.
        if block.len() <= MAX_BLOCK_LEN {
            connection.send_extended(cx, FS_IDENTITY, Message::Block(block).encode());
        }
    }
}

fn tell(cx: &mut Context, now: Now, connection: &mut Connection, closing: bool) {
    let sent = connection.upload.sent;
    let (Some(key), Some(dealing)) = (&cx.config.identity, connection.dealing_mut()) else { return };
    let count = dealing.count_due(now.mono, sent, closing);
    let receipt = dealing.receipt_due(now, key, closing);
    if let Some(count) = count {
        connection.send_extended(cx, FS_IDENTITY, Message::Count(count).encode());
    }
    if let Some(receipt) = receipt {
        connection.send_extended(cx, FS_IDENTITY, Message::Receipt(receipt).encode());
    }
}

fn report(cx: &mut Context, id: StreamId, dealing: &Dealing, sent: u64) {
    if sent > dealing.given.sent_told {
        cx.event(SwarmEvent::Sent { id, total: sent });
    }
    let total = dealing.taken.verified;
    if total > dealing.taken.verified_told {
        cx.event(SwarmEvent::Verified { id, total });
    }
}
