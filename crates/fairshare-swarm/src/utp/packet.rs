//! The packets of BEP 29: a header of 20 bytes, extensions, payload.
//= spec/swarm.md#11-transports

use bytes::Bytes;
use fairshare_wire::{ReadError, Reader, Writer};

/// Bytes of a header without extensions.
pub(crate) const HEADER_LEN: usize = 20;
/// Bytes of the mask of a selective acknowledgement that are read and written: one bit for each packet that may wait
/// out of order.
pub(crate) const MAX_MASK_LEN: usize = 252;
const VERSION: u8 = 1;
const SELECTIVE_ACK: u8 = 1;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Carries payload.
    Data,
    /// The last packet of its direction.
    Fin,
    /// Carries nothing but the acknowledgement.
    State,
    /// Ends the connection at once.
    Reset,
    /// Opens a connection.
    Syn,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Fin => 1,
            Self::State => 2,
            Self::Reset => 3,
            Self::Syn => 4,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Data),
            1 => Some(Self::Fin),
            2 => Some(Self::State),
            3 => Some(Self::Reset),
            4 => Some(Self::Syn),
            _ => None,
        }
    }
}

/// The fields that every packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) connection: u16,
    /// The sender's clock, in microseconds.
    pub(crate) sent_at: u32,
    /// How long the last packet of the other end was under way, by both clocks.
    pub(crate) delay: u32,
    /// Bytes that the sender may still receive.
    pub(crate) window: u32,
    pub(crate) seq: u16,
    /// All packets up to this one have arrived.
    pub(crate) ack: u16,
}

/// A packet as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) header: Header,
    /// Mask of later packets that have arrived; bit 0 stands for `ack + 2`.
    pub(crate) mask: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a datagram.
    pub(crate) fn parse(datagram: &'a [u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(datagram);
        let first = input.u8()?;
        let kind = Kind::of(first >> 4)
            .filter(|_| first & 15 == VERSION)
            .ok_or(ReadError::Value("type and version"))?;
        let mut extension = input.u8()?;
        let header = Header {
            kind,
            connection: input.u16()?,
            sent_at: input.u32()?,
            delay: input.u32()?,
            window: input.u32()?,
            seq: input.u16()?,
            ack: input.u16()?,
        };
        let mut mask: &[u8] = &[];
        // Each round takes two bytes of the datagram, so that the chain ends.
        while extension != 0 {
            let next = input.u8()?;
            let len = input.u8()?;
            let body = input.take(usize::from(len))?;
            if extension == SELECTIVE_ACK && body.len() % 4 == 0 {
                mask = body;
            }
            extension = next;
        }
        Ok(Self { header, mask, payload: input.rest() })
    }

    /// Whether a datagram looks like one of ours: enough to tell it from the other protocols of a port.
    pub(crate) fn is_utp(datagram: &[u8]) -> bool {
        let [first, extension, ..] = datagram else { return false };
        datagram.len() >= HEADER_LEN && first & 15 == VERSION && first >> 4 <= 4 && *extension <= 3
    }
}

/// The datagram of a packet. The mask is empty or a multiple of four bytes, at most [`MAX_MASK_LEN`].
pub(crate) fn encode(header: &Header, mask: &[u8], payload: &[u8]) -> Bytes {
    let mut out = Writer::with_capacity(HEADER_LEN + 2 + mask.len() + payload.len());
    out.u8(header.kind.code() << 4 | VERSION).u8(if mask.is_empty() { 0 } else { SELECTIVE_ACK });
    out.u16(header.connection).u32(header.sent_at).u32(header.delay).u32(header.window);
    out.u16(header.seq).u16(header.ack);
    if !mask.is_empty() {
        out.u8(0).u8(u8::try_from(mask.len()).expect("a mask has at most 252 bytes")).bytes(mask);
    }
    out.bytes(payload);
    out.finish().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { kind: Kind::State, connection: 0x1234, sent_at: 1, delay: 2, window: 3, seq: 4, ack: 5 }
    }

    //= spec/swarm.md#11-transports
    #[test]
    fn packets_have_the_bytes_of_the_specification() {
        let expected = "210112340000000100000002000000030004000500040100000061";
        assert_eq!(hex::encode(encode(&header(), &[1, 0, 0, 0], b"a")), expected);
        let bytes = hex::decode(expected).expect("hex");
        assert!(Packet::is_utp(&bytes));
        let packet = Packet::parse(&bytes).expect("well formed");
        assert_eq!(packet, Packet { header: header(), mask: &[1, 0, 0, 0], payload: b"a" });
    }

    #[test]
    fn unknown_extensions_are_skipped() {
        let mut bytes = encode(&header(), &[], b"").to_vec();
        bytes[1] = 3;
        bytes.extend_from_slice(&[1, 4, 0, 0, 0, 9, 0, 4, 7, 0, 0, 0, b'z']);
        let packet = Packet::parse(&bytes).expect("well formed");
        assert_eq!((packet.mask, packet.payload), ([7, 0, 0, 0].as_slice(), b"z".as_slice()));
    }

    #[test]
    fn cut_packets_and_other_protocols_are_refused() {
        let bytes = encode(&header(), &[1, 0, 0, 0], b"");
        for len in 0..bytes.len() {
            assert!(Packet::parse(&bytes[..len]).is_err(), "{len}");
        }
        assert!(!Packet::is_utp(b"d1:ad2:id20:aaaaaaaaaaaaaaaaaaaa"));
        assert!(Packet::parse(&[0x51; 20]).is_err() && !Packet::is_utp(&[0x51; 20]));
    }
}
