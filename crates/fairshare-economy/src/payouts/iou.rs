//! The IOU: what its issuer owes its holder since their relation began.
//= spec/payouts.md#33-iou

use fairshare_crypto::{KEY_LEN, PublicKey, SIGNATURE_LEN, SecretKey, Signature};
use fairshare_wire::{ReadError, Reader, Writer};

/// Bytes of an IOU.
pub const IOU_LEN: usize = 1 + 4 + 2 * KEY_LEN + 8 + 8 + 4 * 8 + SIGNATURE_LEN;
const VERSION: u8 = 1;
const DOMAIN: &[u8] = b"bandwidth-iou";

/// What is owed, by class; the sum is the amount of the IOU.
///
/// 0: what the holder measured for passing on or ending the issuer's traffic. 1: what goes on to the rendezvous of a
/// hidden swarm. 2: what goes on to a hidden seeder. 3: what the relays between rendezvous and seeder earn.
pub type Classes = [u64; 4];

/// A signed promise to pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iou {
    /// The epoch in which it was signed.
    pub epoch: u32,
    /// Who owes.
    pub issuer: PublicKey,
    /// Who is owed.
    pub holder: PublicKey,
    /// All that was ever owed.
    pub amount: u64,
    /// All that the issuer ever paid of it by blocks.
    pub settled: u64,
    /// The amount by class.
    pub classes: Classes,
    /// The issuer's, over everything before.
    pub signature: Signature,
}

/// Why an IOU is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IouFault {
    /// The classes do not add up to the amount.
    Sum,
    /// Not signed by its issuer.
    Signature,
}

impl Iou {
    /// A new IOU of `key`. `None` if the classes do not add up within 64 bits.
    pub fn sign(
        key: &SecretKey,
        holder: PublicKey,
        epoch: u32,
        settled: u64,
        classes: Classes,
    ) -> Option<Self> {
        let mut iou = Self {
            epoch,
            issuer: key.public(),
            holder,
            amount: sum(&classes)?,
            settled,
            classes,
            signature: Signature([0; SIGNATURE_LEN]),
        };
        iou.signature = key.sign(&iou.signed_bytes());
        Some(iou)
    }

    /// Whether it says what it says.
    pub fn check(&self) -> Result<(), IouFault> {
        if sum(&self.classes) != Some(self.amount) {
            return Err(IouFault::Sum);
        }
        let signed = self.issuer.verify(&self.signed_bytes(), &self.signature);
        if signed { Ok(()) } else { Err(IouFault::Signature) }
    }

    pub(super) fn read(input: &mut Reader<'_>) -> Result<Self, ReadError> {
        if input.u8()? != VERSION {
            return Err(ReadError::Value("version"));
        }
        Ok(Self {
            epoch: input.u32()?,
            issuer: PublicKey::from_bytes(input.array()?),
            holder: PublicKey::from_bytes(input.array()?),
            amount: input.u64()?,
            settled: input.u64()?,
            classes: [input.u64()?, input.u64()?, input.u64()?, input.u64()?],
            signature: Signature(input.array()?),
        })
    }

    pub(super) fn write(&self, out: &mut Writer) {
        self.write_unsigned(out);
        out.bytes(&self.signature.0);
    }

    fn write_unsigned(&self, out: &mut Writer) {
        out.u8(VERSION).u32(self.epoch);
        out.bytes(self.issuer.as_bytes()).bytes(self.holder.as_bytes());
        out.u64(self.amount).u64(self.settled);
        for class in self.classes {
            out.u64(class);
        }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(DOMAIN.len() + IOU_LEN);
        out.bytes(DOMAIN);
        self.write_unsigned(&mut out);
        out.finish()
    }
}

/// The sum of all classes, if it fits.
pub(super) fn sum(classes: &Classes) -> Option<u64> {
    classes.iter().try_fold(0u64, |sum, class| sum.checked_add(*class))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;

    fn key(seed: u8) -> SecretKey {
        SecretKey::generate(&mut Rng::from_seed([seed; 32]))
    }

    //= spec/payouts.md#33-iou
    #[test]
    fn an_iou_has_265_bytes_and_is_read_back() {
        let iou = Iou::sign(&key(1), key(2).public(), 7, 5, [1, 2, 3, 4]).expect("small");
        assert_eq!((iou.amount, iou.check()), (10, Ok(())));
        let mut out = Writer::new();
        iou.write(&mut out);
        let bytes = out.finish();
        assert_eq!((bytes.len(), IOU_LEN, bytes.first()), (265, 265, Some(&1)));
        assert_eq!(Iou::read(&mut Reader::new(&bytes)), Ok(iou));
        assert!(Iou::read(&mut Reader::new(&bytes[..264])).is_err());
    }

    //= spec/payouts.md#33-iou
    #[test]
    fn a_changed_iou_is_not_its_issuers() {
        let iou = Iou::sign(&key(1), key(2).public(), 7, 5, [1, 2, 3, 4]).expect("small");
        let more = Iou { amount: 11, classes: [2, 2, 3, 4], ..iou.clone() };
        assert_eq!(more.check(), Err(IouFault::Signature));
        let uneven = Iou { amount: 11, ..iou.clone() };
        assert_eq!(uneven.check(), Err(IouFault::Sum));
        let other = Iou { holder: key(3).public(), ..iou.clone() };
        assert_eq!(other.check(), Err(IouFault::Signature));
        let stolen = Iou { issuer: key(3).public(), ..iou };
        assert_eq!(stolen.check(), Err(IouFault::Signature));
        assert_eq!(Iou::sign(&key(1), key(2).public(), 0, 0, [u64::MAX, 1, 0, 0]), None);
    }
}
