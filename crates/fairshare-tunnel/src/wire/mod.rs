//! What circuits look like on the wire, byte for byte as py-ipv8 3.2.1 writes it.
//!
//! A datagram is a [cell](CellHeader) (message id 0), a signed [`Destroy`], or a bare packet of the hidden services. What
//! a cell carries under its layers is a [`Message`]; the circuit's number is in the cell and not repeated inside.

mod cell;
mod destroy;
mod flags;
mod hidden;
mod message;

pub use cell::{CELL_HEADER_LEN, CELL_LEN_MAX, CellError, CellHeader, CircuitId};
pub use destroy::{Destroy, DestroyReason};
pub use flags::Flags;
pub use hidden::{
    INTRODUCTIONS_MAX, IntroductionInfo, IntroductionSource, IntroductionValue, RendezvousInfo,
    read_seeder_keys, write_seeder_keys,
};
pub(crate) use message::fits;
pub use message::{Body, CandidateList, Data, Exchange, Ident, Message, NOWHERE, id, read_bare, write_bare};
