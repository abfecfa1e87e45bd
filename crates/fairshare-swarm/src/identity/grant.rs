//! What a provider reserves for a taker before it serves it.
//= spec/swarm.md#84-settlement-and-evidence-on-the-connection

use super::message::MessageError;
use fairshare_crypto::PublicKey;
use fairshare_wire::{Reader, Writer};

/// Receipts in one grant.
pub const MAX_VIA: usize = 8;
/// The lowest price: an eighth.
pub const PRICE_MIN: u32 = 8_192;
/// The full price, at which a real byte is a charged byte.
pub const PRICE_MAX: u32 = 65_536;

/// Room for real bytes, and who stands for the charged bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantMessage {
    /// Number in this session, from 1.
    pub number: u32,
    /// Charged bytes per real byte, times 65,536.
    pub price: u32,
    /// Real bytes that may be sent under this grant.
    pub room: u64,
    /// Charged bytes on the taker's own account.
    pub own: u64,
    /// Charged bytes on the receipts of others.
    pub via: Vec<(PublicKey, u64)>,
}

impl GrantMessage {
    /// Whether the price is one there is and the charged bytes cover the room at this price.
    pub fn is_consistent(&self) -> bool {
        let charged =
            self.via.iter().fold(u128::from(self.own), |sum, (_, amount)| sum + u128::from(*amount));
        let needed = (u128::from(self.room) * u128::from(self.price)).div_ceil(u128::from(PRICE_MAX));
        (PRICE_MIN..=PRICE_MAX).contains(&self.price)
            && self.number > 0
            && self.via.len() <= MAX_VIA
            && charged >= needed
    }

    pub(super) fn read(input: &mut Reader<'_>) -> Result<Self, MessageError> {
        let (number, price, room, own) = (input.u32()?, input.u32()?, input.u64()?, input.u64()?);
        let count = usize::from(input.u8()?);
        if count > MAX_VIA {
            return Err(MessageError::Grant);
        }
        let mut via = Vec::with_capacity(count);
        for _ in 0..count {
            via.push((PublicKey::from_bytes(input.array()?), input.u64()?));
        }
        let grant = Self { number, price, room, own, via };
        if grant.is_consistent() { Ok(grant) } else { Err(MessageError::Grant) }
    }

    pub(super) fn write(&self, out: &mut Writer) {
        let count = u8::try_from(self.via.len()).expect("a grant of ours names at most MAX_VIA keys");
        out.u32(self.number).u32(self.price).u64(self.room).u64(self.own).u8(count);
        for (key, amount) in &self.via {
            out.bytes(key.as_bytes()).u64(*amount);
        }
    }
}

/// The end of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freed {
    /// The grant.
    pub number: u32,
    /// Real bytes that were sent under it.
    pub used: u64,
}
