//! The messages of `fs_identity`: a type byte and fixed binary fields.

use super::VERSION;
use super::counts::{Count, Receipt};
use super::grant::{Freed, GrantMessage};
use super::handshake::Hello;
use super::refusal::Refusal;
use bytes::Bytes;
use fairshare_crypto::Signature;
use fairshare_wire::{ReadError, Reader, Writer};
use thiserror::Error;

/// Bytes of a half block that fit into one message.
pub const MAX_BLOCK_LEN: usize = u16::MAX as usize;

const HELLO: u8 = 1;
const ANSWER: u8 = 2;
const PROOF: u8 = 3;
pub(super) const COUNT: u8 = 4;
pub(super) const RECEIPT: u8 = 5;
const RECEIPT_REQUEST: u8 = 6;
const REFUSED: u8 = 7;
const BYE: u8 = 8;
const BLOCK: u8 = 9;
const GRANT: u8 = 12;
const FREED: u8 = 13;

/// Why bytes are no message of the extension.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MessageError {
    /// A field is cut off or holds what it may not.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A version that we do not speak.
    #[error("version {0} of the identity handshake")]
    Version(u8),
    /// A grant that contradicts itself.
    #[error("a grant whose room, price and charged bytes do not fit each other")]
    Grant,
}

/// A message of the extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The initiator's key and fresh values (H1).
    Hello(Hello),
    /// The responder's, with its signature (H2).
    Answer(Hello, Signature),
    /// The initiator's signature (H3).
    Proof(Signature),
    /// What the sender received and sent, sealed for this session.
    Count(Count),
    /// What the sender received, signed for everybody.
    Receipt(Receipt),
    /// Asks for a receipt.
    ReceiptRequest,
    /// The sender does not serve the receiver.
    Refused(Refusal),
    /// The sender is about to close.
    Bye,
    /// A half block.
    Block(Bytes),
    /// What the sender reserved for the receiver.
    Grant(GrantMessage),
    /// The unused rest of a grant is released.
    Freed(Freed),
}

impl Message {
    /// Reads a message; `None` for a type that we do not know, which is to be ignored.
    pub fn parse(payload: &Bytes) -> Result<Option<Self>, MessageError> {
        let mut input = Reader::new(payload);
        let message = match input.u8()? {
            HELLO => Self::Hello(hello(&mut input)?),
            ANSWER => Self::Answer(hello(&mut input)?, Signature(input.array()?)),
            PROOF => Self::Proof(Signature(input.array()?)),
            COUNT => Self::Count(Count::read(&mut input)?),
            RECEIPT => Self::Receipt(Receipt::read(&mut input)?),
            RECEIPT_REQUEST => Self::ReceiptRequest,
            REFUSED => Self::Refused(Refusal::read(&mut input)?),
            BYE => Self::Bye,
            BLOCK => Self::Block(payload.slice_ref(input.var16()?)),
            GRANT => Self::Grant(GrantMessage::read(&mut input)?),
            FREED => Self::Freed(Freed { number: input.u32()?, used: input.u64()? }),
            _ => return Ok(None),
        };
        input.end()?;
        Ok(Some(message))
    }

    /// The payload of the extended message. A half block has at most [`MAX_BLOCK_LEN`] bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new();
        match self {
            Self::Hello(hello) => hello.write(out.u8(HELLO)),
            Self::Answer(hello, signature) => {
                hello.write(out.u8(ANSWER));
                out.bytes(&signature.0);
            }
            Self::Proof(signature) => {
                out.u8(PROOF).bytes(&signature.0);
            }
            Self::Count(count) => count.write(out.u8(COUNT)),
            Self::Receipt(receipt) => receipt.write(out.u8(RECEIPT)),
            Self::ReceiptRequest => {
                out.u8(RECEIPT_REQUEST);
            }
            Self::Refused(refusal) => refusal.write(out.u8(REFUSED)),
            Self::Bye => {
                out.u8(BYE);
            }
            Self::Block(block) => {
                out.u8(BLOCK).var16(block);
            }
            Self::Grant(grant) => grant.write(out.u8(GRANT)),
            Self::Freed(freed) => {
                out.u8(FREED).u32(freed.number).u64(freed.used);
            }
        }
        out.finish().into()
    }
}

fn hello(input: &mut Reader<'_>) -> Result<Hello, MessageError> {
    match input.u8()? {
        VERSION => Ok(Hello::read(input)?),
        other => Err(MessageError::Version(other)),
    }
}
