//! Settlement messages: the bodies of cells 40 to 46, padded so that only their kind can be told from their length.
//= spec/payouts.md#31-parties-and-accounts

use super::iou::Iou;
use bytes::Bytes;
use fairshare_crypto::{PublicKey, SecretKey, Signature};
use fairshare_ledger::{BLOCK_LEN_MAX, HalfBlock};
use fairshare_wire::{ReadError, Reader, Writer};

/// Length of a body without a block.
pub const BODY_LEN: usize = 512;
/// Length of a body with blocks.
pub const BODY_LEN_BLOCKS: usize = 1024;
/// Half blocks in one message.
const BLOCKS_MAX: usize = 2;
const DOMAIN: &[u8] = b"settle-bind";

/// The answer to SETTLE_PROPOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleCode {
    /// The payment is awaited, or here is the agreement.
    Accepted,
    /// It is not what is owed, or not the epoch or index.
    Amount,
    /// The payer's chain is not in order.
    Chain,
    /// Later.
    Busy,
}

/// A message between two neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleMessage {
    /// 40.
    Iou(Iou),
    /// 41: what the holder has.
    IouAck {
        /// The holder's epoch.
        epoch: u32,
        /// The highest amount it holds.
        seen: u64,
        /// What it measured of class 0. May fall.
        measured: u64,
    },
    /// 42: the holder wants an IOU.
    IouRequest {
        /// Its epoch.
        epoch: u32,
    },
    /// 43: the debtor wants to pay; with the block, it pays.
    Propose {
        /// The epoch that is paid.
        epoch: u32,
        /// 0 or 1.
        index: u8,
        /// All that the debtor owes by its IOUs.
        debt: u64,
        /// All that the creditor owes by its.
        credit: u64,
        /// The payment is 2^k MiB.
        k: u8,
        /// The debtor's half block, or none.
        blocks: Vec<HalfBlock>,
    },
    /// 44.
    Accept {
        /// Of the proposal.
        epoch: u32,
        /// Of the proposal.
        index: u8,
        /// Whether.
        code: SettleCode,
        /// The agreement, or none.
        blocks: Vec<HalfBlock>,
    },
    /// 45: on what terms the sender serves.
    Policy {
        /// What those who never pay may have in an epoch.
        free: u64,
        /// Charged bytes per byte, by class of service.
        rates: [u8; 4],
        /// What the receiver may leave unpaid.
        limit: u64,
    },
    /// 46: under which key the sender is paid.
    Bind(Bind),
}

/// The proof that a tunnel key and a TrustChain key belong together, for one neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The sender's TrustChain key.
    pub key: PublicKey,
    /// The epoch in which it was signed.
    pub epoch: u32,
    /// By the TrustChain key.
    pub signature: Signature,
    /// By the tunnel key.
    pub tunnel_signature: Signature,
}

impl Bind {
    /// Binds both own keys for the neighbour `other`.
    pub fn sign(key: &SecretKey, tunnel: &SecretKey, other: &PublicKey, epoch: u32) -> Self {
        let signature = key.sign(&chain_part(&tunnel.public(), other, epoch));
        let tunnel_signature = tunnel.sign(&tunnel_part(&key.public(), other, epoch));
        Self { key: key.public(), epoch, signature, tunnel_signature }
    }

    /// Whether the owner of the tunnel key `sender` and the owner of [`Self::key`] both signed this for `me`.
    pub fn verify(&self, sender: &PublicKey, me: &PublicKey) -> bool {
        self.key.verify(&chain_part(sender, me, self.epoch), &self.signature)
            && sender.verify(&tunnel_part(&self.key, me, self.epoch), &self.tunnel_signature)
    }
}

fn chain_part(sender: &PublicKey, receiver: &PublicKey, epoch: u32) -> Vec<u8> {
    [DOMAIN, sender.as_bytes().as_slice(), receiver.as_bytes().as_slice(), &epoch.to_be_bytes()].concat()
}

fn tunnel_part(key: &PublicKey, receiver: &PublicKey, epoch: u32) -> Vec<u8> {
    [DOMAIN, b"-tunnel", key.as_bytes().as_slice(), receiver.as_bytes().as_slice(), &epoch.to_be_bytes()]
        .concat()
}

impl SettleMessage {
    /// The id of its cell.
    pub const fn id(&self) -> u8 {
        match self {
            Self::Iou(_) => 40,
            Self::IouAck { .. } => 41,
            Self::IouRequest { .. } => 42,
            Self::Propose { .. } => 43,
            Self::Accept { .. } => 44,
            Self::Policy { .. } => 45,
            Self::Bind(_) => 46,
        }
    }

    /// The padded body.
    pub fn write(&self) -> Bytes {
        let mut out = Writer::with_capacity(BODY_LEN_BLOCKS);
        let mut with_block = false;
        match self {
            Self::Iou(iou) => iou.write(&mut out),
            Self::IouAck { epoch, seen, measured } => {
                out.u32(*epoch).u64(*seen).u64(*measured);
            }
            Self::IouRequest { epoch } => {
                out.u32(*epoch);
            }
            Self::Propose { epoch, index, debt, credit, k, blocks } => {
                out.u32(*epoch).u8(*index).u64(*debt).u64(*credit).u8(*k);
                with_block = write_blocks(&mut out, blocks);
            }
            Self::Accept { epoch, index, code, blocks } => {
                out.u32(*epoch).u8(*index).u8(code.to_byte());
                with_block = write_blocks(&mut out, blocks);
            }
            Self::Policy { free, rates, limit } => {
                out.u64(*free).bytes(rates).u64(*limit);
            }
            Self::Bind(Bind { key, epoch, signature, tunnel_signature }) => {
                out.bytes(key.as_bytes()).u32(*epoch).bytes(&signature.0).bytes(&tunnel_signature.0);
            }
        }
        let mut body = out.finish();
        let len = if with_block { BODY_LEN_BLOCKS } else { BODY_LEN };
        body.resize(len.max(body.len()), 0);
        body.into()
    }

    /// Reads the body of a cell. What follows the fields must be zeros.
    pub fn read(id: u8, body: &[u8]) -> Result<Self, ReadError> {
        if body.len() > 2 * BODY_LEN_BLOCKS {
            return Err(ReadError::Value("length"));
        }
        let mut input = Reader::new(body);
        let message = Self::read_fields(id, &mut input)?;
        if input.rest().iter().any(|byte| *byte != 0) {
            return Err(ReadError::Value("padding"));
        }
        Ok(message)
    }

    fn read_fields(id: u8, input: &mut Reader<'_>) -> Result<Self, ReadError> {
        Ok(match id {
            40 => Self::Iou(Iou::read(input)?),
            41 => Self::IouAck { epoch: input.u32()?, seen: input.u64()?, measured: input.u64()? },
            42 => Self::IouRequest { epoch: input.u32()? },
            43 => Self::Propose {
                epoch: input.u32()?,
                index: input.u8()?,
                debt: input.u64()?,
                credit: input.u64()?,
                k: input.u8()?,
                blocks: read_blocks(input)?,
            },
            44 => Self::Accept {
                epoch: input.u32()?,
                index: input.u8()?,
                code: SettleCode::from_byte(input.u8()?)?,
                blocks: read_blocks(input)?,
            },
            45 => Self::Policy { free: input.u64()?, rates: input.array()?, limit: input.u64()? },
            46 => Self::Bind(Bind {
                key: PublicKey::from_bytes(input.array()?),
                epoch: input.u32()?,
                signature: Signature(input.array()?),
                tunnel_signature: Signature(input.array()?),
            }),
            _ => return Err(ReadError::Value("message id")),
        })
    }
}

impl SettleCode {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::Amount => 1,
            Self::Chain => 2,
            Self::Busy => 3,
        }
    }

    const fn from_byte(byte: u8) -> Result<Self, ReadError> {
        match byte {
            0 => Ok(Self::Accepted),
            1 => Ok(Self::Amount),
            2 => Ok(Self::Chain),
            3 => Ok(Self::Busy),
            _ => Err(ReadError::Value("code")),
        }
    }
}

/// Writes a list of half blocks; whether there is one.
fn write_blocks(out: &mut Writer, blocks: &[HalfBlock]) -> bool {
    let blocks = blocks.get(..BLOCKS_MAX).unwrap_or(blocks);
    out.u8(u8::try_from(blocks.len()).expect("at most two"));
    for block in blocks {
        out.var16(&block.to_bytes());
    }
    !blocks.is_empty()
}

fn read_blocks(input: &mut Reader<'_>) -> Result<Vec<HalfBlock>, ReadError> {
    let count = usize::from(input.u8()?);
    if count > BLOCKS_MAX {
        return Err(ReadError::Value("blocks"));
    }
    let mut blocks = Vec::with_capacity(count);
    for _ in 0..count {
        let bytes = input.var16()?;
        if bytes.len() > BLOCK_LEN_MAX {
            return Err(ReadError::Value("block"));
        }
        blocks.push(HalfBlock::parse(bytes).map_err(|_| ReadError::Value("block"))?);
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;
    use fairshare_ledger::bandwidth::Bandwidth;
    use fairshare_ledger::{BlockType, Draft, GENESIS_HASH};
    use proptest::prelude::*;

    fn key(seed: u8) -> SecretKey {
        SecretKey::generate(&mut Rng::from_seed([seed; 32]))
    }

    fn block() -> HalfBlock {
        let paid =
            Bandwidth { down: 1 << 40, total_down: 1 << 50, total_up: 1 << 60, ..Bandwidth::default() };
        let draft = Draft {
            sequence: 9,
            link_owner: key(2).public(),
            link_sequence: 0,
            previous_hash: GENESIS_HASH,
            kind: BlockType::BANDWIDTH,
            transaction: paid.encode(),
            timestamp_ms: 21_600_000,
        };
        HalfBlock::sign(&key(1), draft)
    }

    fn all() -> Vec<SettleMessage> {
        let iou = Iou::sign(&key(1), key(2).public(), 7, 5, [1, 2, 3, 4]).expect("small");
        let propose =
            |blocks| SettleMessage::Propose { epoch: 7, index: 1, debt: 9, credit: 8, k: 20, blocks };
        let accept = |code, blocks| SettleMessage::Accept { epoch: 7, index: 1, code, blocks };
        vec![
            SettleMessage::Iou(iou),
            SettleMessage::IouAck { epoch: 7, seen: 10, measured: 11 },
            SettleMessage::IouRequest { epoch: 7 },
            propose(vec![]),
            propose(vec![block()]),
            accept(SettleCode::Accepted, vec![block()]),
            accept(SettleCode::Amount, vec![]),
            accept(SettleCode::Chain, vec![]),
            accept(SettleCode::Busy, vec![]),
            SettleMessage::Policy { free: 1 << 30, rates: [5, 11, 0, 1], limit: 32 << 20 },
            SettleMessage::Bind(Bind::sign(&key(1), &key(3), &key(4).public(), 7)),
        ]
    }

    //= spec/payouts.md#31-parties-and-accounts
    #[test]
    fn every_message_is_read_back_and_only_blocks_make_it_longer() {
        for message in all() {
            let body = message.write();
            let with_block = matches!(&message, SettleMessage::Propose { blocks, .. }
                | SettleMessage::Accept { blocks, .. } if !blocks.is_empty());
            assert_eq!(body.len(), if with_block { BODY_LEN_BLOCKS } else { BODY_LEN }, "{message:?}");
            assert_eq!(SettleMessage::read(message.id(), &body), Ok(message));
        }
    }

    //= spec/payouts.md#31-parties-and-accounts
    #[test]
    fn the_fields_stand_where_the_table_says() {
        let ack = SettleMessage::IouAck { epoch: 7, seen: 10, measured: 11 }.write();
        assert_eq!(ack[..20], [0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 11]);
        let propose =
            SettleMessage::Propose { epoch: 1, index: 1, debt: 2, credit: 3, k: 4, blocks: vec![] }.write();
        assert_eq!(propose[..23], [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 4, 0]);
        let policy = SettleMessage::Policy { free: 1, rates: [5, 11, 0, 1], limit: 2 }.write();
        assert_eq!(policy[..20], [0, 0, 0, 0, 0, 0, 0, 1, 5, 11, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    }

    //= spec/payouts.md#31-parties-and-accounts
    #[test]
    fn a_binding_holds_for_one_neighbour_and_both_keys_only() {
        let (chain, tunnel, other) = (key(1), key(2), key(3).public());
        let bind = Bind::sign(&chain, &tunnel, &other, 5);
        assert!(bind.verify(&tunnel.public(), &other));
        assert!(!bind.verify(&tunnel.public(), &key(4).public()), "shown to somebody else");
        assert!(!bind.verify(&key(4).public(), &other), "under another tunnel key");
        let thief = Bind::sign(&key(5), &key(6), &other, 5);
        assert!(!thief.verify(&tunnel.public(), &other), "a link that only claims the tunnel key");
        let half = Bind { tunnel_signature: bind.tunnel_signature, ..thief };
        assert!(!half.verify(&tunnel.public(), &other));
        let claim = chain_part(&tunnel.public(), &other, 5);
        let claimed = Bind { signature: key(5).sign(&claim), ..Bind::sign(&key(5), &key(6), &other, 5) };
        assert!(!claimed.verify(&tunnel.public(), &other), "a tunnel key that others use");
        assert!(!Bind { epoch: 6, ..bind }.verify(&tunnel.public(), &other));
    }

    #[test]
    fn padding_is_zeros_and_ids_are_known() {
        let mut body = SettleMessage::IouRequest { epoch: 7 }.write().to_vec();
        assert!(SettleMessage::read(39, &body).is_err() && SettleMessage::read(47, &body).is_err());
        body[400] = 1;
        assert!(SettleMessage::read(42, &body).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_panic(id in 38u8..50, body in prop::collection::vec(any::<u8>(), 0..1100)) {
            let _ = SettleMessage::read(id, &body);
        }

        #[test]
        fn cut_and_changed_messages_make_no_panic(which in 0usize..11, cut in 0usize..1024, at in 0usize..1024) {
            let message = all().swap_remove(which);
            let mut body = message.write().to_vec();
            let _ = SettleMessage::read(message.id(), &body[..cut.min(body.len())]);
            let at = at % body.len();
            body[at] ^= 0xff;
            if let Ok(SettleMessage::Iou(iou)) = SettleMessage::read(message.id(), &body) {
                prop_assert!(iou.check().is_err());
            }
        }
    }
}
