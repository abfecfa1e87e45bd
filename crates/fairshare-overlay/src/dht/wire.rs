//! The messages of the DHT, all signed, none with a global time; and the forms of stored values.
//= spec/overlay.md#9-dht-25-dhtdiscoverycommunity

use crate::community::DHT;
use fairshare_crypto::{PublicKey, SIGNATURE_LEN, SecretKey, Signature};
use fairshare_wire::{Address, ReadError, Reader, Writer};
use std::net::{IpAddr, SocketAddr};

/// Values in one message.
pub const VALUES_MAX: usize = 8;
/// Nodes in one message.
pub const NODES_MAX: usize = 8;
/// The longest stored value, its type byte included.
pub const VALUE_LEN_MAX: usize = 170;

const UNSIGNED: u8 = 0;
const SIGNED: u8 = 1;

/// A node that somebody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contact {
    /// Where it answers.
    pub address: SocketAddr,
    /// Its key.
    pub key: PublicKey,
}

/// A message. Every one begins with an identifier that pairs the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of the table in the specification")]
pub enum DhtMessage {
    /// Is the node there?
    Ping,
    /// It is.
    Pong,
    /// Store values under a key.
    Store { token: [u8; 20], target: [u8; 20], values: Vec<Vec<u8>> },
    /// They are stored.
    Stored,
    /// What is stored under a key, or who is near it?
    Find { lan: SocketAddr, target: [u8; 20], offset: u32, force_nodes: bool },
    /// These values and nodes; the token is for a store.
    Found { token: [u8; 20], values: Vec<Vec<u8>>, nodes: Vec<Contact> },
    /// Remember where the sender is.
    StorePeer { token: [u8; 20], target: [u8; 20] },
    /// It is remembered.
    PeerStored,
    /// Introduce me to a node that you remember.
    ConnectPeer { lan: SocketAddr, target: [u8; 20] },
    /// These.
    PeerConnected { nodes: Vec<Contact> },
}

impl DhtMessage {
    const fn id(&self) -> u8 {
        match self {
            Self::Ping => 1,
            Self::Pong => 2,
            Self::Store { .. } => 3,
            Self::Stored => 4,
            Self::Find { .. } => 5,
            Self::Found { .. } => 6,
            Self::StorePeer { .. } => 7,
            Self::PeerStored => 8,
            Self::ConnectPeer { .. } => 9,
            Self::PeerConnected { .. } => 10,
        }
    }

    /// The whole datagram.
    pub fn sign(&self, key: &SecretKey, identifier: u32) -> Vec<u8> {
        let mut out = Writer::new();
        out.bytes(&[0, 2]).bytes(&DHT.0).u8(self.id()).var16(key.public().as_bytes()).u32(identifier);
        self.write(&mut out);
        let signature = key.sign(out.as_slice());
        out.bytes(&signature.0).finish()
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Ping | Self::Pong | Self::Stored | Self::PeerStored => {}
            Self::Store { token, target, values } => {
                out.bytes(token).bytes(target);
                write_values(out, values);
            }
            Self::Find { lan, target, offset, force_nodes } => {
                Address::write_ip(out, lan);
                out.bytes(target).u32(*offset).u8(u8::from(*force_nodes));
            }
            Self::Found { token, values, nodes } => {
                out.bytes(token);
                write_values(out, values);
                write_nodes(out, nodes);
            }
            Self::StorePeer { token, target } => {
                out.bytes(token).bytes(target);
            }
            Self::ConnectPeer { lan, target } => {
                Address::write_ip(out, lan);
                out.bytes(target);
            }
            Self::PeerConnected { nodes } => write_nodes(out, nodes),
        }
    }

    fn read(id: u8, input: &mut Reader<'_>) -> Result<Self, ReadError> {
        Ok(match id {
            1 => Self::Ping,
            2 => Self::Pong,
            3 => Self::Store { token: input.array()?, target: input.array()?, values: read_values(input)? },
            4 => Self::Stored,
            5 => Self::Find {
                lan: Address::read_ip(input)?,
                target: input.array()?,
                offset: input.u32()?,
                force_nodes: input.u8()? != 0,
            },
            6 => {
                Self::Found { token: input.array()?, values: read_values(input)?, nodes: read_nodes(input)? }
            }
            7 => Self::StorePeer { token: input.array()?, target: input.array()? },
            8 => Self::PeerStored,
            9 => Self::ConnectPeer { lan: Address::read_ip(input)?, target: input.array()? },
            10 => Self::PeerConnected { nodes: read_nodes(input)? },
            _ => return Err(ReadError::Value("message id")),
        })
    }
}

/// A datagram of the DHT taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhtPacket {
    /// Who signed it.
    pub sender: PublicKey,
    /// Pairs request and answer.
    pub identifier: u32,
    /// What it says.
    pub message: DhtMessage,
}

impl DhtPacket {
    /// Reads a datagram and checks its signature, last and only if all else is well formed.
    ///
    /// # Errors
    /// A field is cut off or malformed, or the signature is wrong.
    pub fn parse(datagram: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(datagram);
        if input.array()? != [0, 2] || input.array()? != DHT.0 {
            return Err(ReadError::Value("prefix"));
        }
        let id = input.u8()?;
        let sender = PublicKey::try_from(input.var16()?).map_err(|_| ReadError::Value("key"))?;
        let left = input.left();
        let body = left.checked_sub(SIGNATURE_LEN).ok_or(ReadError::Short { wanted: SIGNATURE_LEN, left })?;
        let mut fields = Reader::new(input.take(body)?);
        let identifier = fields.u32()?;
        let message = DhtMessage::read(id, &mut fields)?;
        let signature = Signature(input.array()?);
        let covered = datagram.get(..datagram.len() - SIGNATURE_LEN).unwrap_or(&[]);
        if !sender.verify(covered, &signature) {
            return Err(ReadError::Value("signature"));
        }
        Ok(Self { sender, identifier, message })
    }
}

fn write_values(out: &mut Writer, values: &[Vec<u8>]) {
    let values = &values[..values.len().min(VALUES_MAX)];
    out.u8(u8::try_from(values.len()).expect("bounded above"));
    for value in values {
        out.var16(value);
    }
}

fn read_values(input: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, ReadError> {
    let count = usize::from(input.u8()?);
    if count > VALUES_MAX {
        return Err(ReadError::Value("number of values"));
    }
    (0..count).map(|_| input.var16().map(<[u8]>::to_vec)).collect()
}

fn write_nodes(out: &mut Writer, nodes: &[Contact]) {
    let nodes = &nodes[..nodes.len().min(NODES_MAX)];
    out.u8(u8::try_from(nodes.len()).expect("bounded above"));
    for node in nodes {
        Address::write_ip(out, &node.address);
        out.var16(node.key.as_bytes());
    }
}

fn read_nodes(input: &mut Reader<'_>) -> Result<Vec<Contact>, ReadError> {
    let count = usize::from(input.u8()?);
    if count > 2 * NODES_MAX {
        return Err(ReadError::Value("number of nodes"));
    }
    (0..count)
        .map(|_| {
            let address = Address::read_ip(input)?;
            let key = PublicKey::try_from(input.var16()?).map_err(|_| ReadError::Value("key"))?;
            Ok(Contact { address, key })
        })
        .collect()
}

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DhtValue {
    /// Anybody's word.
    Unsigned(Vec<u8>),
    /// Somebody's word; of each signer the highest version counts.
    Signed {
        /// What it says.
        data: Vec<u8>,
        /// Seconds since 1970.
        version: u32,
        /// Who says it.
        signer: PublicKey,
    },
}

impl DhtValue {
    /// Reads a stored value and checks its signature, if it has one.
    ///
    /// # Errors
    /// It is malformed, or its signature is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(bytes);
        match input.u8()? {
            UNSIGNED => Ok(Self::Unsigned(input.rest().to_vec())),
            SIGNED => {
                let data = input.var16()?.to_vec();
                let version = input.u32()?;
                let signer = PublicKey::try_from(input.var16()?).map_err(|_| ReadError::Value("key"))?;
                let covered = bytes.get(..bytes.len() - input.left()).unwrap_or(&[]);
                let signature = Signature(input.array()?);
                input.end()?;
                if !signer.verify(covered, &signature) {
                    return Err(ReadError::Value("signature"));
                }
                Ok(Self::Signed { data, version, signer })
            }
            _ => Err(ReadError::Value("value type")),
        }
    }

    /// What it says.
    pub fn data(&self) -> &[u8] {
        match self {
            Self::Unsigned(data) | Self::Signed { data, .. } => data,
        }
    }

    /// The stored form of anybody's word.
    pub fn unsigned(data: &[u8]) -> Vec<u8> {
        [&[UNSIGNED], data].concat()
    }

    /// The stored form of our word.
    pub fn signed(key: &SecretKey, version: u32, data: &[u8]) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(SIGNED).var16(data).u32(version).var16(key.public().as_bytes());
        let signature = key.sign(out.as_slice());
        out.bytes(&signature.0).finish()
    }
}

/// A node's place: from its address, so that nobody chooses it freely, and its key.
//= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
pub fn node_id(ip: IpAddr, mid: &[u8; 20]) -> [u8; 20] {
    const MASK_V4: [u8; 4] = [0x03, 0x0f, 0x3f, 0xff];
    const MASK_V6: [u8; 8] = [0x01, 0x03, 0x07, 0x0f, 0x1f, 0x3f, 0x7f, 0xff];
    let masked: Vec<u8> = match ip {
        IpAddr::V4(ip) => ip.octets().iter().zip(MASK_V4).map(|(byte, mask)| byte & mask).collect(),
        IpAddr::V6(ip) => ip.octets().iter().zip(MASK_V6).map(|(byte, mask)| byte & mask).collect(),
    };
    let mut id = [0; 20];
    id[..3].copy_from_slice(&crc32(&masked).to_be_bytes()[..3]);
    id[3..].copy_from_slice(&mid[..17]);
    id
}

/// CRC-32 of IEEE 802.3, as zlib computes it. A dozen bytes now and then: no table is worth its room.
fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32, _: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !data.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;

    //= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
    #[test]
    fn packets_and_values_stand_only_with_their_signature() {
        let [key, other] = [1, 2].map(|seed| SecretKey::generate(&mut Rng::from_seed([seed; 32])));
        let packet = DhtMessage::Ping.sign(&key, 5);
        let wanted = DhtPacket { sender: key.public(), identifier: 5, message: DhtMessage::Ping };
        assert_eq!(DhtPacket::parse(&packet), Ok(wanted));
        let value = DhtValue::signed(&key, 3, b"here");
        assert!(DhtValue::parse(&value).is_ok());
        let forged = |signed: &[u8]| {
            let body = &signed[..signed.len() - SIGNATURE_LEN];
            [body, &other.sign(body).0].concat()
        };
        assert_eq!(DhtPacket::parse(&forged(&packet)), Err(ReadError::Value("signature")));
        assert_eq!(DhtValue::parse(&forged(&value)), Err(ReadError::Value("signature")));
    }

    #[test]
    fn the_checksum_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
