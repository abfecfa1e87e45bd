//! Circuits of others, as one of their hops holds them: ended here, or passed on.
//= spec/tunnels.md#14-state-machines

use crate::exit::Exit;
use crate::layer::{HopLayer, OpenError};
use crate::output::CircuitEnd;
use crate::path::Hop;
use crate::wire::{CELL_HEADER_LEN, CellHeader, CircuitId, Ident};
use bytes::Bytes;
use fairshare_crypto::{COUNTER_LEN, PublicKey, TAG_LEN};
use fairshare_wire::{CommunityId, Instant};
use std::net::SocketAddr;

/// A flagged cell is dropped once so many cells passed its direction.
//= spec/tunnels.md#relay_early
const EARLY_MAX: u32 = 8;

/// Whether a cell passes that may carry an EXTEND, and the count after it.
pub const fn relay_early(count: u32, flag: bool) -> (bool, u32) {
    if flag && count >= EARLY_MAX { (false, count) } else { (true, count.saturating_add(1)) }
}

/// One side of a circuit here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) community: CommunityId,
    pub(crate) circuit: CircuitId,
    pub(crate) address: SocketAddr,
    pub(crate) key: PublicKey,
}

impl Link {
    const fn header(&self, relay_early: bool) -> CellHeader {
        CellHeader { community: self.community, circuit: self.circuit, plaintext: false, relay_early }
    }
}

/// What a circuit that ends here does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Nothing yet: it may be extended.
    New,
    /// Its traffic leaves here.
    Exiting,
    /// Takers of a hidden swarm ask for its seeder here.
    Introduction { info_hash: [u8; 20], seeder: PublicKey },
    /// It waits for the circuit that shows this cookie.
    Rendezvous { cookie: [u8; 20] },
}

/// A circuit that ends here.
pub(crate) struct End {
    pub(crate) link: Link,
    pub(crate) layer: HopLayer,
    /// The CREATE came from the originator itself.
    pub(crate) from_originator: bool,
    pub(crate) since: Instant,
    pub(crate) active: Instant,
    pub(crate) total: u64,
    /// Bytes of cells since the last report.
    pub(crate) metered: u64,
    pub(crate) role: Role,
    /// Begun while the neighbour owed too much: until that has changed it is good for messages about payment and no more.
    pub(crate) payments_only: bool,
    pub(crate) extending: Option<Extending>,
    pub(crate) exit: Exit,
}

/// An extension under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extending {
    /// The number of the circuit on the new link.
    pub(crate) circuit: CircuitId,
    /// Ident of the EXTEND.
    pub(crate) asked: Ident,
    /// Ident of our CREATE.
    pub(crate) sent_ident: Ident,
    pub(crate) hop: Hop,
    pub(crate) sent: Instant,
    /// Bytes of our CREATE.
    pub(crate) metered: u64,
}

impl End {
    /// A cell towards the originator with everything that `write` appends.
    pub(crate) fn seal(&mut self, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut cell = Vec::with_capacity(CELL_HEADER_LEN + COUNTER_LEN + len + TAG_LEN);
        cell.extend_from_slice(&self.link.header(false).to_bytes());
        cell.resize(CELL_HEADER_LEN + COUNTER_LEN, 0);
        write(&mut cell);
        self.layer.seal(&mut cell, CELL_HEADER_LEN);
        self.count(cell.len());
        cell.into()
    }

    /// Takes our layer off a cell's message.
    ///
    /// # Errors
    /// It does not open, or came before.
    pub(crate) fn open(&mut self, message: &[u8]) -> Result<Bytes, OpenError> {
        let mut buf = message.to_vec();
        let len = self.layer.open(&mut buf)?.len();
        Ok(Bytes::from(buf).slice(COUNTER_LEN..COUNTER_LEN + len))
    }

    pub(crate) fn count(&mut self, bytes: usize) {
        self.total += bytes as u64;
        self.metered += bytes as u64;
    }

    /// What it is, for payment and for people.
    pub(crate) const fn end(&self) -> CircuitEnd {
        match self.role {
            Role::Exiting => CircuitEnd::Exit,
            Role::Rendezvous { .. } => CircuitEnd::Rendezvous,
            Role::New | Role::Introduction { .. } => CircuitEnd::Other,
        }
    }
}

/// The layers of a circuit that is passed on.
pub(crate) enum Layers {
    /// One originator, at the back.
    Passing(Box<HopLayer>),
    /// Two originators: both circuits end here and are joined.
    Joined { back: Box<HopLayer>, ahead: Box<HopLayer> },
}

/// Two links with one circuit between them.
pub(crate) struct Relay {
    /// Towards the originator.
    pub(crate) back: Link,
    /// Away from it.
    pub(crate) ahead: Link,
    pub(crate) layers: Layers,
    pub(crate) from_originator: bool,
    /// Of a joined circuit: the neighbour ahead is an originator itself.
    pub(crate) ahead_is_originator: bool,
    early_ahead: u32,
    early_back: u32,
    pub(crate) since: Instant,
    pub(crate) active: Instant,
    pub(crate) total: u64,
    /// Bytes of cells on either link since the last report.
    pub(crate) metered_back: u64,
    pub(crate) metered_ahead: u64,
}

/// Why a cell is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassError {
    /// Its layer does not come off.
    Open(OpenError),
    /// It could carry an EXTEND too far.
    Early,
}

impl Relay {
    /// A circuit that ended here and goes on now.
    pub(crate) fn extending(end: End, ahead: Link, metered_ahead: u64, now: Instant) -> Self {
        let mut relay = Self::new(end.link, ahead, Layers::Passing(Box::new(end.layer)), now);
        relay.from_originator = end.from_originator;
        (relay.since, relay.total, relay.metered_back) = (end.since, end.total, end.metered);
        relay.metered_ahead = metered_ahead;
        relay
    }

    /// Two circuits that ended here and are joined now. `back` is the one that asked for it.
    pub(crate) fn joining(back: End, ahead: End, now: Instant) -> Self {
        let layers = Layers::Joined { back: Box::new(back.layer), ahead: Box::new(ahead.layer) };
        let mut relay = Self::new(back.link, ahead.link, layers, now);
        relay.from_originator = back.from_originator;
        relay.ahead_is_originator = ahead.from_originator;
        (relay.metered_back, relay.metered_ahead) = (back.metered, ahead.metered);
        relay
    }

    const fn new(back: Link, ahead: Link, layers: Layers, now: Instant) -> Self {
        Self {
            back,
            ahead,
            layers,
            from_originator: false,
            ahead_is_originator: false,
            early_ahead: 1,
            early_back: 1,
            since: now,
            active: now,
            total: 0,
            metered_back: 0,
            metered_ahead: 0,
        }
    }

    /// Whether two originators are joined here.
    pub(crate) const fn is_rendezvous(&self) -> bool {
        matches!(self.layers, Layers::Joined { .. })
    }

    /// Passes a cell on: what to send, and to whom. `from_ahead`: it came from the far side.
    ///
    /// # Errors
    /// It is not passed on.
    //= spec/tunnels.md#4-encryption-of-a-layer
    pub(crate) fn pass(
        &mut self,
        now: Instant,
        from_ahead: bool,
        early: bool,
        message: &[u8],
    ) -> Result<(SocketAddr, Bytes), PassError> {
        let count = if from_ahead { self.early_back } else { self.early_ahead };
        let (passes, after) = relay_early(count, early);
        if !passes {
            return Err(PassError::Early);
        }
        let to = if from_ahead { self.back } else { self.ahead };
        let cell = match (&mut self.layers, from_ahead) {
            (Layers::Passing(layer), false) => unwrapped(layer, &to.header(early), message),
            (Layers::Passing(layer), true) => Ok(wrapped(layer, &to.header(early), message)),
            (Layers::Joined { back, ahead }, false) => rewrapped(back, ahead, &to.header(false), message),
            (Layers::Joined { back, ahead }, true) => rewrapped(ahead, back, &to.header(false), message),
        };
        let cell = cell.map_err(PassError::Open)?;
        // Only what opens counts: forged and repeated cells must not use up the early ones.
        *(if from_ahead { &mut self.early_back } else { &mut self.early_ahead }) = after;
        let (came, goes) = ((CELL_HEADER_LEN + message.len()) as u64, cell.len() as u64);
        let (back, ahead) = if from_ahead { (goes, came) } else { (came, goes) };
        self.metered_back += back;
        self.metered_ahead += ahead;
        self.total += back;
        self.active = now;
        Ok((to.address, cell.into()))
    }
}

/// Away from the originator: our layer comes off. The counter in front of it makes room for the header.
fn unwrapped(layer: &mut HopLayer, header: &CellHeader, message: &[u8]) -> Result<Vec<u8>, OpenError> {
    const ROOM: usize = CELL_HEADER_LEN - COUNTER_LEN;
    let mut cell = Vec::with_capacity(ROOM + message.len());
    cell.resize(ROOM, 0);
    cell.extend_from_slice(message);
    let len = layer.open(&mut cell[ROOM..])?.len();
    cell.truncate(CELL_HEADER_LEN + len);
    cell[..CELL_HEADER_LEN].copy_from_slice(&header.to_bytes());
    Ok(cell)
}

/// Towards the originator: our layer goes on.
fn wrapped(layer: &mut HopLayer, header: &CellHeader, message: &[u8]) -> Vec<u8> {
    let mut cell = Vec::with_capacity(CELL_HEADER_LEN + COUNTER_LEN + message.len() + TAG_LEN);
    cell.extend_from_slice(&header.to_bytes());
    cell.resize(CELL_HEADER_LEN + COUNTER_LEN, 0);
    cell.extend_from_slice(message);
    layer.seal(&mut cell, CELL_HEADER_LEN);
    cell
}

/// Between two originators: the layer of one side comes off, that of the other goes on.
fn rewrapped(
    from: &mut HopLayer,
    to: &mut HopLayer,
    header: &CellHeader,
    message: &[u8],
) -> Result<Vec<u8>, OpenError> {
    let mut cell = Vec::with_capacity(CELL_HEADER_LEN + message.len());
    cell.extend_from_slice(&header.to_bytes());
    cell.extend_from_slice(message);
    let len = from.open(&mut cell[CELL_HEADER_LEN..])?.len();
    cell.truncate(CELL_HEADER_LEN + COUNTER_LEN + len);
    to.seal(&mut cell, CELL_HEADER_LEN);
    Ok(cell)
}

/// What a circuit number means here.
pub(crate) enum Joined {
    /// The circuit ends here.
    End(Box<End>),
    /// It is one link of a passed circuit: which, and whether it is the far side.
    Relay { relay: u64, ahead: bool },
    /// It is being added to the circuit that ends here under this number.
    Extending(CircuitId),
}
