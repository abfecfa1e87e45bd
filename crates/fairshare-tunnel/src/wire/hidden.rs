//! Values that hidden services store and tell: where a seeder is introduced, and where both sides meet.
//= spec/tunnels.md#9-hidden-services

use fairshare_crypto::{KEY_LEN, PublicKey};
use fairshare_wire::{Address, ReadError, Reader, Writer};
use std::net::SocketAddr;

/// Introductions in one answer: far above the seven that are sent.
pub const INTRODUCTIONS_MAX: usize = 64;
/// Seeder keys in the extra bytes of the exchange overlay.
const SEEDER_KEYS_MAX: usize = 10;

/// Bytes of the type tag in front of a key.
const TAG_LEN: usize = 10;
const PUBLIC_TAG: &[u8; TAG_LEN] = b"LibNaCLPK:";

/// How an introduction point became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IntroductionSource(pub u8);

impl IntroductionSource {
    /// From the DHT.
    pub const DHT: Self = Self(1);
    /// From the exchange overlay.
    pub const PEX: Self = Self(2);
}

/// An introduction point as peers tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntroductionInfo {
    /// Where the introduction point answers.
    pub address: SocketAddr,
    /// Its tunnel key.
    pub point: PublicKey,
    /// The seeder's key for this swarm.
    pub seeder: PublicKey,
    /// How it became known.
    pub source: IntroductionSource,
}

impl IntroductionInfo {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(bytes);
        Ok(Self {
            address: Address::read_ip(&mut input)?,
            point: read_key(&mut input)?,
            seeder: read_key(&mut input)?,
            source: IntroductionSource(input.u8()?),
        })
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut out = Writer::new();
        Address::write_ip(&mut out, &self.address);
        out.var16(self.point.as_bytes()).var16(self.seeder.as_bytes()).u8(self.source.0).finish()
    }
}

/// The same as it is stored in the DHT, where keys have no type tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntroductionValue {
    /// Where the introduction point answers.
    pub address: SocketAddr,
    /// When it was stored, in seconds since 1970.
    pub last_seen: u32,
    /// Its tunnel key.
    pub point: PublicKey,
    /// The seeder's key for this swarm.
    pub seeder: PublicKey,
}

impl IntroductionValue {
    /// Reads a stored value.
    ///
    /// # Errors
    /// It is cut off or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(bytes);
        let value = Self {
            address: Address::read_ip(&mut input)?,
            last_seen: input.u32()?,
            point: read_bare_key(&mut input)?,
            seeder: read_bare_key(&mut input)?,
        };
        input.end()?;
        Ok(value)
    }

    /// The bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        Address::write_ip(&mut out, &self.address);
        out.u32(self.last_seen).var16(bare(&self.point)).var16(bare(&self.seeder)).finish()
    }
}

/// Where a seeder waits, told to the downloader under the end-to-end key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RendezvousInfo {
    /// Where the rendezvous point answers.
    pub address: SocketAddr,
    /// Its tunnel key.
    pub point: PublicKey,
    /// What links both circuits there.
    pub cookie: [u8; 20],
}

impl RendezvousInfo {
    /// Reads the decrypted bytes.
    ///
    /// # Errors
    /// They are cut off or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut outer = Reader::new(bytes);
        let mut input = Reader::new(outer.var16()?);
        Ok(Self {
            address: Address::read_ip(&mut input)?,
            point: read_key(&mut input)?,
            cookie: input.array()?,
        })
    }

    /// The bytes to encrypt.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::new();
        Address::write_ip(&mut out, &self.address);
        let inner = out.var16(self.point.as_bytes()).bytes(&self.cookie).finish();
        Writer::new().var16(&inner).finish()
    }
}

/// Reads the extra bytes of the exchange overlay: keys of seeders that the sender introduces.
///
/// # Errors
/// They are cut off or malformed, or there are too many.
pub fn read_seeder_keys(extra: &[u8]) -> Result<Vec<PublicKey>, ReadError> {
    let mut input = Reader::new(extra);
    let count = usize::from(input.u8()?);
    if count > SEEDER_KEYS_MAX {
        return Err(ReadError::Value("number of seeder keys"));
    }
    (0..count).map(|_| read_key(&mut input)).collect()
}

/// The extra bytes for the first ten of these keys.
pub fn write_seeder_keys(keys: &[PublicKey]) -> Vec<u8> {
    let keys = &keys[..keys.len().min(SEEDER_KEYS_MAX)];
    let mut out = Writer::new();
    out.u8(u8::try_from(keys.len()).expect("ten at most"));
    for key in keys {
        out.var16(key.as_bytes());
    }
    out.finish()
}

pub(super) fn read_key(input: &mut Reader<'_>) -> Result<PublicKey, ReadError> {
    PublicKey::try_from(input.var16()?).map_err(|_| ReadError::Value("key"))
}

fn read_bare_key(input: &mut Reader<'_>) -> Result<PublicKey, ReadError> {
    let halves = input.var16()?;
    let mut bytes = [0; KEY_LEN];
    bytes[..TAG_LEN].copy_from_slice(PUBLIC_TAG);
    if halves.len() != KEY_LEN - TAG_LEN {
        return Err(ReadError::Value("key"));
    }
    bytes[TAG_LEN..].copy_from_slice(halves);
    Ok(PublicKey::from_bytes(bytes))
}

fn bare(key: &PublicKey) -> &[u8] {
    &key.as_bytes()[TAG_LEN..]
}
