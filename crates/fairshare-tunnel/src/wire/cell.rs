//! The header of a cell: everything a relay may look at, and nothing that is authenticated.
//= spec/tunnels.md#2-cell

use fairshare_wire::{CommunityId, ReadError, Reader};
use std::fmt;
use thiserror::Error;

/// Bytes in front of a cell's message.
pub const CELL_HEADER_LEN: usize = 29;
/// The receive buffer of living peers: nothing longer is ever sent.
pub const CELL_LEN_MAX: usize = 2048;

/// The message id of a cell in the packet frame.
const CELL: u8 = 0;
const PREFIX: [u8; 2] = [0, 2];

/// The number of a circuit on one link, chosen by the sender of CREATE.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CircuitId(pub u32);

impl fmt::Debug for CircuitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CircuitId({})", self.0)
    }
}

/// Why a datagram is no cell.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CellError {
    /// It ends inside the header, or nothing follows it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Another kind of packet.
    #[error("not a cell")]
    Kind,
}

/// A cell taken apart as far as everybody can read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellHeader {
    /// The community whose circuit it is.
    pub community: CommunityId,
    /// The circuit on this link.
    pub circuit: CircuitId,
    /// The message is not encrypted: only CREATE and CREATED may be so.
    pub plaintext: bool,
    /// It may carry an EXTEND.
    pub relay_early: bool,
}

impl CellHeader {
    /// Reads the header; the rest is the message, under its layers unless `plaintext`.
    ///
    /// # Errors
    /// The datagram is no cell, or carries no message.
    pub fn parse(datagram: &[u8]) -> Result<(Self, &[u8]), CellError> {
        let mut input = Reader::new(datagram);
        if input.array()? != PREFIX {
            return Err(CellError::Kind);
        }
        let community = CommunityId(input.array()?);
        if input.u8()? != CELL {
            return Err(CellError::Kind);
        }
        let circuit = CircuitId(input.u32()?);
        // Living peers read any value but 0 as true.
        let (plaintext, relay_early) = (input.u8()? != 0, input.u8()? != 0);
        let message = input.rest();
        if message.is_empty() {
            return Err(ReadError::Short { wanted: 1, left: 0 }.into());
        }
        Ok((Self { community, circuit, plaintext, relay_early }, message))
    }

    /// The header's bytes.
    pub fn to_bytes(&self) -> [u8; CELL_HEADER_LEN] {
        let mut bytes = [0; CELL_HEADER_LEN];
        bytes[..2].copy_from_slice(&PREFIX);
        bytes[2..22].copy_from_slice(&self.community.0);
        bytes[22] = CELL;
        bytes[23..27].copy_from_slice(&self.circuit.0.to_be_bytes());
        bytes[27] = u8::from(self.plaintext);
        bytes[28] = u8::from(self.relay_early);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/tunnels.md#2-cell
    #[test]
    fn a_header_is_read_as_it_was_written_and_any_set_flag_is_true() {
        let header = CellHeader {
            community: CommunityId([7; 20]),
            circuit: CircuitId(0x0102_0304),
            plaintext: true,
            relay_early: false,
        };
        let mut datagram = header.to_bytes().to_vec();
        assert!(CellHeader::parse(&datagram).is_err());
        datagram.push(9);
        assert_eq!(CellHeader::parse(&datagram), Ok((header, [9].as_slice())));
        datagram[28] = 200;
        assert!(CellHeader::parse(&datagram).expect("a cell").0.relay_early);
        datagram[22] = 8;
        assert_eq!(CellHeader::parse(&datagram), Err(CellError::Kind));
    }
}
