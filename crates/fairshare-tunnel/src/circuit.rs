//! An own circuit: its hops, its layers, and how it does.
//= spec/tunnels.md#14-state-machines

use crate::handshake::Initiator;
use crate::layer::{EndToEnd, OpenError, OriginatorLayer};
use crate::output::{CircuitState, CircuitStatus, CircuitUse, GroupId};
use crate::path::Hop;
use crate::wire::{CELL_HEADER_LEN, CellHeader, CircuitId, Ident};
use bytes::Bytes;
use fairshare_crypto::{COUNTER_LEN, LAYER_OVERHEAD, PublicKey};
use fairshare_wire::{CommunityId, Instant};

/// Cells of a circuit that may carry an EXTEND, as others count them.
//= spec/tunnels.md#relay_early
const EARLY_CELLS: u8 = 8;

/// Unanswered pings in a row after which a circuit carries only what has nowhere else to go.
const SUSPECT: u8 = 2;

/// What a circuit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Datagrams of a group.
    Data(GroupId),
    /// Payment with this neighbour.
    Settlement(PublicKey),
    /// A hidden seeder is introduced at its end.
    Introduction(GroupId),
    /// A hidden seeder waits at its end, or is joined there.
    Seeding(GroupId),
    /// It leads to a hidden seeder.
    Taking(GroupId),
}

impl Purpose {
    /// The group it belongs to.
    pub(crate) const fn group(self) -> Option<GroupId> {
        match self {
            Self::Data(group) | Self::Introduction(group) | Self::Seeding(group) | Self::Taking(group) => {
                Some(group)
            }
            Self::Settlement(_) => None,
        }
    }

    /// From end to end.
    pub(crate) const fn is_hidden(self) -> bool {
        matches!(self, Self::Seeding(_) | Self::Taking(_))
    }
}

/// A key exchange under way with the next hop.
pub(crate) struct Pending {
    pub(crate) ident: Ident,
    pub(crate) initiator: Initiator,
    pub(crate) sent: Instant,
}

/// How the far end answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pings {
    /// The last one, while it is unanswered.
    pub(crate) open: Option<(Ident, Instant)>,
    /// When the last one was sent.
    pub(crate) sent: Option<Instant>,
    /// Unanswered in a row.
    pub(crate) missed: u8,
}

/// An own circuit.
pub(crate) struct Circuit {
    pub(crate) id: CircuitId,
    pub(crate) community: CommunityId,
    pub(crate) purpose: Purpose,
    /// All hops that are wanted.
    pub(crate) goal: Vec<Hop>,
    /// The last hop cannot be another.
    pub(crate) last_is_fixed: bool,
    /// No hop can be another: the user named all.
    pub(crate) is_forced: bool,
    /// One for each hop that is joined.
    layers: Vec<OriginatorLayer>,
    /// The innermost layer, once both ends know its key.
    pub(crate) end_to_end: Option<EndToEnd>,
    /// The other end was heard through it.
    pub(crate) is_linked: bool,
    pub(crate) pending: Option<Pending>,
    /// Hops that were tried in the present place, in vain.
    pub(crate) tried: Vec<PublicKey>,
    pub(crate) began: Instant,
    pub(crate) ready: Option<Instant>,
    early_sent: u8,
    /// When the last cell came that opened.
    pub(crate) heard: Instant,
    /// When the last datagram of its user went.
    pub(crate) used: Instant,
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Bytes of cells since the last report.
    pub(crate) metered: u64,
    pub(crate) pings: Pings,
    /// It takes no new destinations any more.
    pub(crate) draining: bool,
}

impl Circuit {
    pub(crate) fn new(
        id: CircuitId,
        community: CommunityId,
        purpose: Purpose,
        goal: Vec<Hop>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            community,
            purpose,
            goal,
            last_is_fixed: false,
            is_forced: false,
            layers: Vec::new(),
            end_to_end: None,
            is_linked: false,
            pending: None,
            tried: Vec::new(),
            began: now,
            ready: None,
            early_sent: 0,
            heard: now,
            used: now,
            up: 0,
            down: 0,
            metered: 0,
            pings: Pings::default(),
            draining: false,
        }
    }

    /// Hops that are joined.
    pub(crate) fn joined(&self) -> usize {
        self.layers.len()
    }

    /// The hop that is being added.
    pub(crate) fn next_hop(&self) -> Option<Hop> {
        self.goal.get(self.layers.len()).copied()
    }

    /// Whom every cell goes to and comes from.
    pub(crate) fn first(&self) -> Hop {
        *self.goal.first().expect("a circuit has a first hop")
    }

    /// The far end.
    pub(crate) fn last(&self) -> Hop {
        *self.goal.last().expect("a circuit has a last hop")
    }

    /// Another hop is joined.
    pub(crate) fn join(&mut self, layer: OriginatorLayer) {
        self.layers.push(layer);
        self.pending = None;
        self.tried.clear();
    }

    /// Whether it carries datagrams.
    pub(crate) const fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Whether its far end left two pings unanswered.
    //= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
    pub(crate) const fn is_suspect(&self) -> bool {
        self.pings.missed >= SUSPECT
    }

    /// Whether new destinations may use it.
    pub(crate) const fn takes_new(&self) -> bool {
        self.ready.is_some() && !self.draining && !self.is_suspect()
    }

    /// A cell with everything that `write` appends, under all layers.
    pub(crate) fn seal(&mut self, extend: bool, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let inner = usize::from(self.end_to_end.is_some());
        let layers = self.layers.len() + inner;
        let head = CELL_HEADER_LEN + COUNTER_LEN * layers;
        let mut cell = Vec::with_capacity(CELL_HEADER_LEN + LAYER_OVERHEAD * layers + len);
        let early = extend || self.early_sent < EARLY_CELLS;
        self.early_sent = self.early_sent.saturating_add(1);
        cell.extend_from_slice(&self.header(false, early).to_bytes());
        cell.resize(head, 0);
        write(&mut cell);
        let mut start = head;
        if let Some(layer) = &mut self.end_to_end {
            start -= COUNTER_LEN;
            layer.seal(&mut cell, start);
        }
        for layer in self.layers.iter_mut().rev() {
            start -= COUNTER_LEN;
            layer.seal(&mut cell, start);
        }
        self.up += cell.len() as u64;
        self.metered += cell.len() as u64;
        cell.into()
    }

    /// A cell in the clear: the first exchange.
    pub(crate) fn plain(&mut self, message: &[u8]) -> Bytes {
        self.early_sent = self.early_sent.saturating_add(1);
        let cell = [self.header(true, true).to_bytes().as_slice(), message].concat();
        self.up += cell.len() as u64;
        self.metered += cell.len() as u64;
        cell.into()
    }

    const fn header(&self, plaintext: bool, relay_early: bool) -> CellHeader {
        CellHeader { community: self.community, circuit: self.id, plaintext, relay_early }
    }

    /// Takes all layers off a cell's message.
    ///
    /// # Errors
    /// One does not open, or came before.
    pub(crate) fn open(&mut self, message: &[u8]) -> Result<Bytes, OpenError> {
        let mut buf = message.to_vec();
        let mut plain = buf.as_mut_slice();
        let mut start = 0;
        for layer in &mut self.layers {
            plain = layer.open(plain)?;
            start += COUNTER_LEN;
        }
        if let Some(layer) = &mut self.end_to_end {
            plain = layer.open(plain)?;
            start += COUNTER_LEN;
            self.is_linked = true;
        }
        let len = plain.len();
        Ok(Bytes::from(buf).slice(start..start + len))
    }

    /// Counts a cell that came.
    pub(crate) fn count_down(&mut self, now: Instant, bytes: usize) {
        self.down += bytes as u64;
        self.metered += bytes as u64;
        self.heard = now;
    }

    /// As people see it.
    pub(crate) fn status(&self, now: Instant, stock: bool) -> CircuitStatus {
        let state = match self.ready {
            None => CircuitState::Extending,
            Some(_) if self.is_suspect() => CircuitState::Suspect,
            Some(_) if self.is_linked => CircuitState::Linked,
            Some(_) => CircuitState::Ready,
        };
        let purpose = match self.purpose {
            Purpose::Data(group) => CircuitUse::Data(group),
            Purpose::Settlement(_) => CircuitUse::Settlement,
            Purpose::Introduction(group) => CircuitUse::Introduction(group),
            Purpose::Seeding(group) => CircuitUse::Seeding(group),
            Purpose::Taking(group) => CircuitUse::Taking(group),
        };
        let joined = self.joined();
        let path =
            self.goal.iter().enumerate().map(|(at, hop)| (hop.key, hop.address, at < joined)).collect();
        CircuitStatus {
            circuit: self.id,
            purpose,
            state,
            path,
            age: now.since(self.began),
            up: self.up,
            down: self.down,
            stock,
        }
    }
}
