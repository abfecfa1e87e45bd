//! Counts, sealed for the other end of a session, and receipts, signed for everybody.
//= spec/swarm.md#83-counts-and-exposure

use super::CONTEXT;
use super::handshake::Transcript;
use super::message::{COUNT, RECEIPT};
use crate::metainfo::InfoHash;
use fairshare_crypto::{PublicKey, SecretKey, Signature, ct_eq, hmac_sha256};
use fairshare_wire::{ReadError, Reader, Writer};

/// Bytes of the seal of a count.
pub const COUNT_MAC_LEN: usize = 16;

/// Payload bytes of one side of a session. All of them only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Received in pieces that passed the hash.
    pub verified: u64,
    /// Received on request, before the hash.
    pub accepted: u64,
    /// Sent.
    pub sent: u64,
}

/// The payload bytes of its sender, sealed with its session key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Number among the counts and receipts of this sender, from 1.
    pub sequence: u32,
    /// The bytes.
    pub totals: Totals,
    /// The seal.
    pub mac: [u8; COUNT_MAC_LEN],
}

impl Count {
    /// A count sealed with the sender's session key.
    pub fn seal(key: &[u8; 32], sequence: u32, totals: Totals) -> Self {
        Self { sequence, totals, mac: mac(key, sequence, totals) }
    }

    /// Whether the seal is that of `key`.
    pub fn is_sealed_with(&self, key: &[u8; 32]) -> bool {
        ct_eq(&self.mac, &mac(key, self.sequence, self.totals))
    }

    pub(super) fn read(input: &mut Reader<'_>) -> Result<Self, ReadError> {
        let sequence = input.u32()?;
        let totals = Totals { verified: input.u64()?, accepted: input.u64()?, sent: input.u64()? };
        Ok(Self { sequence, totals, mac: input.array()? })
    }

    pub(super) fn write(&self, out: &mut Writer) {
        write_totals(out, self.sequence, self.totals);
        out.bytes(&self.mac);
    }
}

fn mac(key: &[u8; 32], sequence: u32, totals: Totals) -> [u8; COUNT_MAC_LEN] {
    let mut text = Writer::new();
    write_totals(text.u8(COUNT), sequence, totals);
    let whole = hmac_sha256(key, text.as_slice());
    let mut mac = [0; COUNT_MAC_LEN];
    mac.copy_from_slice(&whole[..COUNT_MAC_LEN]);
    mac
}

fn write_totals(out: &mut Writer, sequence: u32, totals: Totals) {
    out.u32(sequence).u64(totals.verified).u64(totals.accepted).u64(totals.sent);
}

/// What its signer received from an uploader in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Number among the counts and receipts of this sender, from 1.
    pub sequence: u32,
    /// The hash of the BitTorrent handshake.
    pub info_hash: InfoHash,
    /// The uploader.
    pub uploader: PublicKey,
    /// The session.
    pub session: Transcript,
    /// Payload bytes received in pieces that passed the hash.
    pub verified: u64,
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The downloader's signature.
    pub signature: Signature,
}

impl Receipt {
    /// Signs the receipt; the signature it has is replaced.
    #[must_use]
    pub fn signed(mut self, key: &SecretKey) -> Self {
        self.signature = key.sign(&self.signed_text());
        self
    }

    /// Whether `key` signed it.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verify(&self.signed_text(), &self.signature)
    }

    pub(super) fn read(input: &mut Reader<'_>) -> Result<Self, ReadError> {
        Ok(Self {
            sequence: input.u32()?,
            info_hash: InfoHash(input.array()?),
            uploader: PublicKey::from_bytes(input.array()?),
            session: Transcript(input.array()?),
            verified: input.u64()?,
            unix_ms: input.u64()?,
            signature: Signature(input.array()?),
        })
    }

    pub(super) fn write(&self, out: &mut Writer) {
        self.write_fields(out);
        out.bytes(&self.signature.0);
    }

    fn write_fields(&self, out: &mut Writer) {
        out.u32(self.sequence).bytes(&self.info_hash.0).bytes(self.uploader.as_bytes());
        out.bytes(&self.session.0).u64(self.verified).u64(self.unix_ms);
    }

    fn signed_text(&self) -> Vec<u8> {
        let mut text = Writer::new();
        self.write_fields(text.bytes(CONTEXT).u8(RECEIPT));
        text.finish()
    }
}
