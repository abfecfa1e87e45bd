//! One uTP connection: how it opens and ends, and the two halves together.
//= spec/swarm.md#11-transports

use super::UtpConfig;
use super::packet::{Header, Kind, Packet, encode};
use super::receiving::{Receiving, Taken};
use super::sending::{Outgoing, Sending};
use bytes::Bytes;
use fairshare_wire::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// A connection that says nothing for this long says that it is alive: routers forget mappings after 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(29);
/// Timeouts in a row, and the silence besides, after which the other end is gone.
const MAX_EXPIRIES: u32 = 6;
const GONE_AFTER: Duration = Duration::from_secs(25);
/// What was written before the close has this long to arrive.
const CLOSING: Duration = Duration::from_secs(120);
/// An ended connection still answers for this long: the other end may not have heard that we heard its end.
const LINGER: Duration = Duration::from_secs(4);
/// An accepted connection must say something within this time.
const ACCEPTING: Duration = Duration::from_secs(10);

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// We sent the opening packet.
    Connecting { until: Instant },
    /// We answered an opening packet; nobody was told yet, for its sender's address may be forged.
    Accepting { syn: u16, until: Instant },
    /// Both ends know of each other.
    Open,
    /// Our owner has closed it; what was written is still under way.
    Closing { until: Instant },
    /// It has ended, and only answers.
    Lingering { until: Instant },
    /// It is no more.
    Gone,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) remote: SocketAddr,
    /// The number that packets to us carry.
    pub(super) receive_id: u16,
    send_id: u16,
    pub(super) stage: Stage,
    pub(super) sending: Sending,
    pub(super) receiving: Receiving,
    /// How long the last packet of the other end was under way, by both clocks.
    their_delay: u32,
    heard_at: Instant,
    sent_at: Instant,
    /// The timer under which the engine has filed it.
    pub(super) timer: Option<Instant>,
    /// Whether its owner has closed it.
    closed: bool,
    /// Whether its end was told.
    pub(super) ended: bool,
}

impl Connection {
    /// A connection that we open: the first packet is in the answer.
    pub(super) fn open(
        config: &UtpConfig,
        now: Instant,
        remote: SocketAddr,
        receive_id: u16,
        seq: u16,
    ) -> (Self, Bytes) {
        let mut connection = Self {
            remote,
            receive_id,
            send_id: receive_id.wrapping_add(1),
            stage: Stage::Connecting { until: now + config.connect_timeout },
            sending: Sending::new(config.congestion, config.max_payload, seq),
            receiving: Receiving::new(1),
            their_delay: 0,
            heard_at: now,
            sent_at: now,
            timer: None,
            closed: false,
            ended: false,
        };
        let syn = connection.sending.send_syn(now);
        let bytes = connection.datagram(now, syn);
        (connection, bytes)
    }

    /// A connection that the other end opens.
    pub(super) fn accept(
        config: &UtpConfig,
        now: Instant,
        remote: SocketAddr,
        syn: &Header,
        seq: u16,
    ) -> Self {
        let mut connection = Self {
            remote,
            receive_id: syn.connection.wrapping_add(1),
            send_id: syn.connection,
            stage: Stage::Accepting { syn: syn.seq, until: now + ACCEPTING },
            sending: Sending::new(config.congestion, config.max_payload, seq),
            receiving: Receiving::new(syn.seq.wrapping_add(1)),
            their_delay: 0,
            heard_at: now,
            sent_at: now,
            timer: None,
            closed: false,
            ended: false,
        };
        connection.heard(now, syn);
        connection.receiving.acknowledge_now();
        connection
    }

    /// Whether a reset may carry this connection's numbers.
    pub(super) const fn is_named(&self, name: u16) -> bool {
        name == self.receive_id || name == self.send_id
    }

    fn heard(&mut self, now: Instant, header: &Header) {
        self.heard_at = now;
        self.their_delay = (now.as_micros() as u32).wrapping_sub(header.sent_at);
    }

    // ---- packets in ----

    /// A packet with this connection's number came; the error says why it was not taken.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        packet: &Packet<'_>,
        may_keep: bool,
    ) -> Result<(), &'static str> {
        let header = &packet.header;
        match self.stage {
            _ if header.kind == Kind::Reset => return self.reset(header),
            Stage::Gone => return Ok(()),
            _ if header.kind == Kind::Syn => return self.opened_again(now, header),
            Stage::Lingering { .. } => {
                if header.kind != Kind::State {
                    self.receiving.acknowledge_now();
                }
                return Ok(());
            }
            Stage::Connecting { .. } => return self.answered(now, packet),
            Stage::Accepting { .. } | Stage::Open | Stage::Closing { .. } => {}
        }
        if !self.sending.is_plausible(header.ack) {
            return Err("acknowledgement of what was not sent");
        }
        if matches!(header.kind, Kind::Data | Kind::Fin) {
            let fin = header.kind == Kind::Fin;
            match self.receiving.receive(now, header.seq, packet.payload, fin, may_keep) {
                // Its acknowledgement may be the news.
                Taken::New | Taken::Again => {}
                Taken::Beyond => return Err("packet beyond the window"),
            }
        }
        self.heard(now, header);
        self.sending.acknowledged(now, header, packet.mask);
        if matches!(self.stage, Stage::Accepting { .. }) {
            self.stage = Stage::Open;
        }
        Ok(())
    }

    /// The other end does not know the connection, or wants no more of it.
    fn reset(&mut self, header: &Header) -> Result<(), &'static str> {
        if !self.sending.is_recent(header.ack) {
            return Err("reset that names no packet under way");
        }
        self.stage = Stage::Gone;
        Ok(())
    }

    /// Our answer to the opening packet was lost, or the packet was doubled.
    fn opened_again(&mut self, now: Instant, header: &Header) -> Result<(), &'static str> {
        match self.stage {
            Stage::Accepting { syn, .. } if syn == header.seq => {
                self.heard(now, header);
                self.receiving.acknowledge_now();
                Ok(())
            }
            _ => Err("opening packet for an open connection"),
        }
    }

    /// The answer to our opening packet: its number is the one of the first packet that will follow.
    fn answered(&mut self, now: Instant, packet: &Packet<'_>) -> Result<(), &'static str> {
        let header = &packet.header;
        if header.kind != Kind::State || header.ack != self.sending.next_seq().wrapping_sub(1) {
            return Err("packet before the connection is open");
        }
        self.receiving = Receiving::new(header.seq);
        self.heard(now, header);
        self.sending.acknowledged(now, header, &[]);
        self.stage = Stage::Open;
        Ok(())
    }

    // ---- packets out ----

    /// Everything that may go out now. Nothing is sent before the other end has answered.
    pub(super) fn flush(&mut self, now: Instant, mut send: impl FnMut(Bytes)) {
        if matches!(self.stage, Stage::Connecting { .. }) {
            // Only the opening packet, if it was lost.
            return self.sending.next_lost(now).into_iter().for_each(|syn| send(self.datagram(now, syn)));
        }
        if matches!(self.stage, Stage::Gone) {
            return;
        }
        if self.must_send_state(now) {
            send(self.state(now));
        }
        if !matches!(self.stage, Stage::Open | Stage::Closing { .. }) {
            return;
        }
        while let Some(packet) = self.sending.next_packet(now) {
            send(self.datagram(now, packet));
        }
        if self.receiving.must_acknowledge(now) {
            send(self.state(now));
        }
    }

    /// Whether an acknowledgement goes out by itself although data may follow: what arrived out of order is told in
    /// it alone, and the answer to the opening packet is one.
    fn must_send_state(&self, now: Instant) -> bool {
        let alone = matches!(self.stage, Stage::Accepting { .. } | Stage::Lingering { .. });
        self.receiving.must_acknowledge(now) && (alone || self.receiving.waiting_bytes() > 0)
    }

    /// The datagram of a packet.
    pub(super) fn datagram(&mut self, now: Instant, packet: Outgoing) -> Bytes {
        self.receiving.acknowledged(false);
        let header = self.header(now, packet.kind, packet.seq);
        encode(&header, &[], &packet.payload)
    }

    /// The datagram of an acknowledgement.
    pub(super) fn state(&mut self, now: Instant) -> Bytes {
        let mask = self.receiving.mask();
        self.receiving.acknowledged(true);
        let header = self.header(now, Kind::State, self.sending.next_seq());
        encode(&header, &mask, &[])
    }

    /// The datagram that ends the connection at once.
    pub(super) fn reset_datagram(&mut self, now: Instant) -> Bytes {
        let header = self.header(now, Kind::Reset, self.sending.next_seq());
        encode(&header, &[], &[])
    }

    fn header(&mut self, now: Instant, kind: Kind, seq: u16) -> Header {
        self.sent_at = now;
        let opening = kind == Kind::Syn;
        Header {
            kind,
            connection: if opening { self.receive_id } else { self.send_id },
            sent_at: now.as_micros() as u32,
            delay: self.their_delay,
            window: u32::try_from(self.receiving.window()).unwrap_or(u32::MAX),
            seq,
            ack: if opening { 0 } else { self.receiving.ack() },
        }
    }

    // ---- the end ----

    /// How little is lost if it is forgotten now, the least first: only connections that are ending may be.
    pub(super) const fn dispensable(&self) -> Option<(u8, Instant)> {
        match self.stage {
            Stage::Lingering { until } => Some((0, until)),
            Stage::Closing { until } => Some((1, until)),
            _ => None,
        }
    }

    /// Whether the owner still reads.
    pub(super) const fn wants_data(&self) -> bool {
        matches!(self.stage, Stage::Open) || matches!(self.stage, Stage::Gone) && !self.closed && !self.ended
    }

    /// The owner writes nothing more and reads nothing more.
    pub(super) fn close(&mut self, now: Instant) {
        self.closed = true;
        match self.stage {
            Stage::Open => {
                self.sending.finish();
                self.receiving.discard();
                self.stage = Stage::Closing { until: now + CLOSING };
            }
            Stage::Connecting { .. } | Stage::Accepting { .. } => self.stage = Stage::Gone,
            Stage::Closing { .. } | Stage::Lingering { .. } | Stage::Gone => {}
        }
    }

    /// Whether it has just ended in order, by either end; it lingers then.
    pub(super) fn settle(&mut self, now: Instant) -> bool {
        let ended = match self.stage {
            Stage::Open => self.receiving.is_ended(),
            Stage::Closing { .. } => self.sending.is_finished(),
            _ => false,
        };
        if ended {
            self.ended = true;
            self.stage = Stage::Lingering { until: now + LINGER };
        }
        ended
    }

    // ---- time ----

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let acknowledge = self.receiving.acknowledge_at();
        match self.stage {
            Stage::Gone => None,
            Stage::Lingering { until } => Some(until),
            Stage::Accepting { until, .. } => Some(until),
            Stage::Open => {
                let sending = self.sending.next_timeout();
                sending.into_iter().chain(acknowledge).chain([self.sent_at + KEEP_ALIVE]).min()
            }
            Stage::Connecting { until } | Stage::Closing { until } => {
                self.sending.next_timeout().into_iter().chain(acknowledge).chain([until]).min()
            }
        }
    }

    /// Time has come. A packet to send besides what [`flush`](Self::flush) finds.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Bytes> {
        match self.stage {
            Stage::Connecting { until } | Stage::Closing { until } | Stage::Accepting { until, .. }
                if until <= now =>
            {
                self.stage = Stage::Gone;
                return None;
            }
            Stage::Lingering { until } if until <= now => {
                self.stage = Stage::Gone;
                return None;
            }
            Stage::Lingering { .. } | Stage::Accepting { .. } | Stage::Gone => return None,
            Stage::Connecting { .. } | Stage::Closing { .. } | Stage::Open => {}
        }
        let probe = self.sending.handle_timeout(now).map(|packet| self.datagram(now, packet));
        if self.sending.expiries > MAX_EXPIRIES && now.since(self.heard_at) >= GONE_AFTER {
            self.stage = Stage::Gone;
            return Some(self.reset_datagram(now));
        }
        if probe.is_none() && self.stage == Stage::Open && now.since(self.sent_at) >= KEEP_ALIVE {
            return Some(self.state(now));
        }
        probe
    }
}
