//! The messages inside cells, and the few that travel bare.
//= spec/tunnels.md#message-ids-py-ipv8-210--321

use super::hidden::{INTRODUCTIONS_MAX, IntroductionInfo, read_key};
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_wire::{Address, CommunityId, ReadError, Reader, Writer};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// The numbers of the messages.
#[allow(missing_docs, reason = "each is the number of the message of that name")]
pub mod id {
    pub const DATA: u8 = 1;
    pub const CREATE: u8 = 2;
    pub const CREATED: u8 = 3;
    pub const EXTEND: u8 = 4;
    pub const EXTENDED: u8 = 5;
    pub const PING: u8 = 6;
    pub const PONG: u8 = 7;
    pub const DESTROY: u8 = 8;
    pub const ESTABLISH_INTRO: u8 = 9;
    pub const INTRO_ESTABLISHED: u8 = 10;
    pub const ESTABLISH_RENDEZVOUS: u8 = 11;
    pub const RENDEZVOUS_ESTABLISHED: u8 = 12;
    pub const CREATE_E2E: u8 = 13;
    pub const CREATED_E2E: u8 = 14;
    pub const LINK_E2E: u8 = 15;
    pub const LINKED_E2E: u8 = 16;
    pub const PEERS_REQUEST: u8 = 17;
    pub const PEERS_RESPONSE: u8 = 18;
    pub const TEST_REQUEST: u8 = 19;
    pub const TEST_RESPONSE: u8 = 20;
    pub const HTTP_REQUEST: u8 = 28;
    pub const HTTP_RESPONSE: u8 = 29;
    /// First and last of the settlement messages, payouts.md 3.1.
    pub const SETTLEMENT: std::ops::RangeInclusive<u8> = 40..=46;
}

/// Bytes of the longest host name that we send: what the name service has.
const HOST_LEN_MAX: usize = 255;

/// Whether an address fits into a message of ours.
pub(crate) const fn fits(address: &Address) -> bool {
    match address {
        Address::Ip(_) => true,
        Address::Host(host, _) => host.len() <= HOST_LEN_MAX,
    }
}

/// What pairs an answer with its request.
pub type Ident = u16;

/// "No address": the other end of a circuit, or "you know it".
pub const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// A message without its circuit's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Payload to or from beyond the exit.
    Data(Body),
    /// The first half of a key exchange.
    Create {
        /// Pairs the answer.
        ident: Ident,
        /// The link neighbour's key.
        key: PublicKey,
        /// The ephemeral point X.
        point: [u8; 32],
    },
    /// Its second half.
    Created(Exchange),
    /// Make this hop extend the circuit.
    Extend {
        /// Pairs the answer.
        ident: Ident,
        /// The next hop's key.
        key: PublicKey,
        /// The ephemeral point X.
        point: [u8; 32],
        /// Where the next hop answers; [`NOWHERE`] = "you know it".
        address: SocketAddr,
    },
    /// The next hop's half of the exchange.
    Extended(Exchange),
    /// Is the far end there?
    Ping {
        /// Pairs the answer.
        ident: Ident,
    },
    /// It is.
    Pong {
        /// Pairs the answer.
        ident: Ident,
    },
    /// Become the introduction point of a seeder.
    EstablishIntro {
        /// Pairs the answer.
        ident: Ident,
        /// The swarm's lookup hash.
        info_hash: [u8; 20],
        /// The seeder's key for this swarm.
        seeder: PublicKey,
    },
    /// It is one.
    IntroEstablished {
        /// Pairs the answer.
        ident: Ident,
    },
    /// Become a rendezvous point.
    EstablishRendezvous {
        /// Pairs the answer.
        ident: Ident,
        /// What the other circuit will show.
        cookie: [u8; 20],
    },
    /// It is one.
    RendezvousEstablished {
        /// Pairs the answer.
        ident: Ident,
        /// Where the rendezvous point answers.
        address: SocketAddr,
    },
    /// Join this circuit with the one that holds the cookie.
    LinkE2e {
        /// Pairs the answer.
        ident: Ident,
        /// The cookie.
        cookie: [u8; 20],
    },
    /// They are joined.
    LinkedE2e {
        /// Pairs the answer.
        ident: Ident,
    },
    /// Who introduces seeders of this swarm?
    PeersRequest {
        /// Pairs the answer.
        ident: Ident,
        /// The swarm's lookup hash.
        info_hash: [u8; 20],
    },
    /// These.
    PeersResponse {
        /// Pairs the answer.
        ident: Ident,
        /// The swarm's lookup hash.
        info_hash: [u8; 20],
        /// Introduction points.
        peers: Vec<IntroductionInfo>,
    },
    /// Send so many bytes back.
    TestRequest {
        /// Pairs the answer.
        ident: Ident,
        /// Bytes wanted.
        response_size: u16,
        /// Bytes sent.
        data: Bytes,
    },
    /// The bytes.
    TestResponse {
        /// Pairs the answer.
        ident: Ident,
        /// Bytes sent.
        data: Bytes,
    },
    /// Carry out an HTTP exchange.
    HttpRequest {
        /// Pairs the answer.
        ident: u32,
        /// The web server.
        target: Address,
        /// The whole request.
        request: Bytes,
    },
    /// A part of its answer.
    HttpResponse {
        /// Pairs the answer.
        ident: u32,
        /// Which part, from 0.
        part: u16,
        /// How many there are.
        total: u16,
        /// The part's bytes.
        response: Bytes,
    },
    /// A message between neighbours about payment; unknown to living peers, who ignore it.
    Settlement {
        /// 40 to 46.
        id: u8,
        /// Its fields.
        body: Bytes,
    },
    /// The downloader's half of an end-to-end exchange. Bare, also inside DATA.
    CreateE2e {
        /// Pairs the answer.
        ident: Ident,
        /// The swarm's lookup hash.
        info_hash: [u8; 20],
        /// The seeder's key for this swarm.
        seeder: PublicKey,
        /// The ephemeral point X.
        point: [u8; 32],
    },
    /// The seeder's half. Bare, inside DATA. `candidates` is the encrypted rendezvous information.
    CreatedE2e(Exchange),
}

/// Payload with both its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Where it is to go.
    pub destination: Address,
    /// Where it came from.
    pub origin: Address,
    /// The payload.
    pub data: Bytes,
}

/// The answer to a key exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Pairs it with the request.
    pub ident: Ident,
    /// The ephemeral point Y.
    pub point: [u8; 32],
    /// Proof that the responder has its static key.
    pub auth: [u8; 32],
    /// What follows under the new key: candidates, or the rendezvous information.
    pub candidates: Bytes,
}

/// DATA without a copy of its payload: the form of the fast path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// Where it is to go.
    pub destination: Address,
    /// Where it came from.
    pub origin: Address,
    /// The payload.
    pub data: &'a [u8],
}

impl<'a> Data<'a> {
    /// Reads the body of a DATA message, behind its id.
    ///
    /// # Errors
    /// An address is cut off or malformed.
    pub fn parse(body: &'a [u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(body);
        let (destination, origin) = (Address::read(&mut input)?, Address::read(&mut input)?);
        Ok(Self { destination, origin, data: input.rest() })
    }

    /// Appends id and body to `out`; no allocation if it has the room.
    pub fn write(out: &mut Vec<u8>, destination: &Address, origin: &Address, data: &[u8]) {
        let mut message = Writer::appending(std::mem::take(out));
        message.u8(id::DATA);
        destination.write(&mut message);
        origin.write(&mut message);
        *out = message.bytes(data).finish();
    }
}

impl Message {
    /// Reads a message: its id and what follows. `None` = an id that nobody of ours uses, to be ignored like living
    /// peers do. Bytes behind a fixed body are ignored.
    ///
    /// # Errors
    /// A field is cut off or malformed.
    pub fn parse(message: &[u8]) -> Result<Option<Self>, ReadError> {
        let mut input = Reader::new(message);
        let id = input.u8()?;
        Self::parse_body(id, &mut input)
    }

    fn parse_body(id: u8, input: &mut Reader<'_>) -> Result<Option<Self>, ReadError> {
        Ok(Some(match id {
            id::DATA => {
                let (destination, origin) = (Address::read(input)?, Address::read(input)?);
                Self::Data(Body { destination, origin, data: rest(input) })
            }
            id::CREATE => {
                Self::Create { ident: input.u16()?, key: read_key(input)?, point: read_point(input)? }
            }
            id::CREATED => Self::Created(read_exchange(input)?),
            id::EXTEND => Self::Extend {
                ident: input.u16()?,
                key: read_key(input)?,
                point: read_point(input)?,
                address: Address::read_ip(input)?,
            },
            id::EXTENDED => Self::Extended(read_exchange(input)?),
            id::PING => Self::Ping { ident: input.u16()? },
            id::PONG => Self::Pong { ident: input.u16()? },
            id::CREATE_E2E => Self::CreateE2e {
                ident: input.u16()?,
                info_hash: input.array()?,
                seeder: read_key(input)?,
                point: read_point(input)?,
            },
            id::CREATED_E2E => Self::CreatedE2e(read_exchange(input)?),
            id if id::SETTLEMENT.contains(&id) => Self::Settlement { id, body: rest(input) },
            id => return Self::parse_service(id, input),
        }))
    }

    /// Hidden services, speed tests, HTTP.
    fn parse_service(id: u8, input: &mut Reader<'_>) -> Result<Option<Self>, ReadError> {
        Ok(Some(match id {
            id::ESTABLISH_INTRO => Self::EstablishIntro {
                ident: input.u16()?,
                info_hash: input.array()?,
                seeder: read_key(input)?,
            },
            id::INTRO_ESTABLISHED => Self::IntroEstablished { ident: input.u16()? },
            id::ESTABLISH_RENDEZVOUS => {
                Self::EstablishRendezvous { ident: input.u16()?, cookie: input.array()? }
            }
            id::RENDEZVOUS_ESTABLISHED => {
                Self::RendezvousEstablished { ident: input.u16()?, address: Address::read_ip(input)? }
            }
            id::LINK_E2E => Self::LinkE2e { ident: input.u16()?, cookie: input.array()? },
            id::LINKED_E2E => Self::LinkedE2e { ident: input.u16()? },
            id::PEERS_REQUEST => Self::PeersRequest { ident: input.u16()?, info_hash: input.array()? },
            id::PEERS_RESPONSE => Self::PeersResponse {
                ident: input.u16()?,
                info_hash: input.array()?,
                peers: read_introductions(input)?,
            },
            id::TEST_REQUEST => {
                Self::TestRequest { ident: input.u16()?, response_size: input.u16()?, data: rest(input) }
            }
            id::TEST_RESPONSE => Self::TestResponse { ident: input.u16()?, data: rest(input) },
            id::HTTP_REQUEST => Self::HttpRequest {
                ident: input.u32()?,
                target: Address::read(input)?,
                request: Bytes::copy_from_slice(input.var16()?),
            },
            id::HTTP_RESPONSE => Self::HttpResponse {
                ident: input.u32()?,
                part: input.u16()?,
                total: input.u16()?,
                response: Bytes::copy_from_slice(input.var16()?),
            },
            _ => return Ok(None),
        }))
    }

    /// The message's id.
    pub const fn id(&self) -> u8 {
        match self {
            Self::Data(_) => id::DATA,
            Self::Create { .. } => id::CREATE,
            Self::Created(_) => id::CREATED,
            Self::Extend { .. } => id::EXTEND,
            Self::Extended(_) => id::EXTENDED,
            Self::Ping { .. } => id::PING,
            Self::Pong { .. } => id::PONG,
            Self::EstablishIntro { .. } => id::ESTABLISH_INTRO,
            Self::IntroEstablished { .. } => id::INTRO_ESTABLISHED,
            Self::EstablishRendezvous { .. } => id::ESTABLISH_RENDEZVOUS,
            Self::RendezvousEstablished { .. } => id::RENDEZVOUS_ESTABLISHED,
            Self::LinkE2e { .. } => id::LINK_E2E,
            Self::LinkedE2e { .. } => id::LINKED_E2E,
            Self::PeersRequest { .. } => id::PEERS_REQUEST,
            Self::PeersResponse { .. } => id::PEERS_RESPONSE,
            Self::TestRequest { .. } => id::TEST_REQUEST,
            Self::TestResponse { .. } => id::TEST_RESPONSE,
            Self::HttpRequest { .. } => id::HTTP_REQUEST,
            Self::HttpResponse { .. } => id::HTTP_RESPONSE,
            Self::Settlement { id, .. } => *id,
            Self::CreateE2e { .. } => id::CREATE_E2E,
            Self::CreatedE2e(_) => id::CREATED_E2E,
        }
    }

    /// Id and body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(128);
        out.u8(self.id());
        self.write_body(&mut out);
        out.finish()
    }

    fn write_body(&self, out: &mut Writer) {
        match self {
            Self::Data(body) => {
                body.destination.write(out);
                body.origin.write(out);
                out.bytes(&body.data);
            }
            Self::Create { ident, key, point } => {
                out.u16(*ident).var16(key.as_bytes()).var16(point);
            }
            Self::Created(exchange) | Self::Extended(exchange) | Self::CreatedE2e(exchange) => {
                out.u16(exchange.ident)
                    .var16(&exchange.point)
                    .bytes(&exchange.auth)
                    .bytes(&exchange.candidates);
            }
            Self::Extend { ident, key, point, address } => {
                out.u16(*ident).var16(key.as_bytes()).var16(point);
                Address::write_ip(out, address);
            }
            Self::Ping { ident }
            | Self::Pong { ident }
            | Self::IntroEstablished { ident }
            | Self::LinkedE2e { ident } => {
                out.u16(*ident);
            }
            Self::EstablishIntro { ident, info_hash, seeder } => {
                out.u16(*ident).bytes(info_hash).var16(seeder.as_bytes());
            }
            Self::EstablishRendezvous { ident, cookie } | Self::LinkE2e { ident, cookie } => {
                out.u16(*ident).bytes(cookie);
            }
            Self::RendezvousEstablished { ident, address } => {
                Address::write_ip(out.u16(*ident), address);
            }
            Self::CreateE2e { ident, info_hash, seeder, point } => {
                out.u16(*ident).bytes(info_hash).var16(seeder.as_bytes()).var16(point);
            }
            Self::Settlement { body, .. } => {
                out.bytes(body);
            }
            _ => self.write_service(out),
        }
    }

    fn write_service(&self, out: &mut Writer) {
        match self {
            Self::PeersRequest { ident, info_hash } => {
                out.u16(*ident).bytes(info_hash);
            }
            Self::PeersResponse { ident, info_hash, peers } => {
                let peers = &peers[..peers.len().min(INTRODUCTIONS_MAX)];
                out.u16(*ident).bytes(info_hash).u8(u8::try_from(peers.len()).expect("bounded above"));
                for peer in peers {
                    out.var16(&peer.to_bytes());
                }
            }
            Self::TestRequest { ident, response_size, data } => {
                out.u16(*ident).u16(*response_size).bytes(data);
            }
            Self::TestResponse { ident, data } => {
                out.u16(*ident).bytes(data);
            }
            Self::HttpRequest { ident, target, request } => {
                out.u32(*ident);
                target.write(out);
                out.var16(request);
            }
            Self::HttpResponse { ident, part, total, response } => {
                out.u32(*ident).u16(*part).u16(*total).var16(response);
            }
            _ => unreachable!("the other messages are written above"),
        }
    }
}

/// Candidates that a hop tells with its half of an exchange.
//= spec/tunnels.md#5-building-a-circuit
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CandidateList {
    /// Nodes that only relay.
    pub relays: Vec<PublicKey>,
    /// Nodes that are exits too.
    pub exits: Vec<PublicKey>,
}

impl CandidateList {
    /// Reads the list: a key that stands twice in a row is the first exit.
    ///
    /// # Errors
    /// It is cut off or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(bytes);
        let count = input.u8()?;
        let keys: Vec<PublicKey> = (0..count).map(|_| read_key(&mut input)).collect::<Result<_, _>>()?;
        let split = keys.windows(2).position(|pair| pair[0] == pair[1]);
        Ok(match split {
            Some(at) => Self { relays: keys[..at].to_vec(), exits: keys[at + 1..].to_vec() },
            None => Self { relays: keys, exits: Vec::new() },
        })
    }

    /// The list's bytes; the first exit is written twice.
    pub fn to_bytes(&self) -> Vec<u8> {
        let keys: Vec<_> = self
            .relays
            .iter()
            .chain(self.exits.first())
            .chain(&self.exits)
            .take(usize::from(u8::MAX))
            .collect();
        let mut out = Writer::new();
        out.u8(u8::try_from(keys.len()).expect("bounded above"));
        for key in keys {
            out.var16(key.as_bytes());
        }
        out.finish()
    }
}

/// Reads a bare packet of the hidden services: its message, and the circuit number that PEERS_REQUEST and
/// PEERS_RESPONSE carry in this form.
///
/// # Errors
/// It is no packet of `community`, or a field is cut off or malformed.
pub fn read_bare(
    datagram: &[u8],
    community: &CommunityId,
) -> Result<Option<(Message, Option<u32>)>, ReadError> {
    let mut input = Reader::new(datagram);
    if input.array()? != [0, 2] || input.array()? != community.0 {
        return Err(ReadError::Value("prefix"));
    }
    let id = input.u8()?;
    let circuit = match id {
        id::PEERS_REQUEST | id::PEERS_RESPONSE => Some(input.u32()?),
        id::CREATE_E2E | id::CREATED_E2E => None,
        _ => return Ok(None),
    };
    Ok(Message::parse_body(id, &mut input)?.map(|message| (message, circuit)))
}

/// A bare packet.
pub fn write_bare(community: CommunityId, message: &Message, circuit: Option<u32>) -> Vec<u8> {
    let mut out = Writer::with_capacity(256);
    out.bytes(&[0, 2]).bytes(&community.0).u8(message.id());
    if let Some(circuit) = circuit {
        out.u32(circuit);
    }
    message.write_body(&mut out);
    out.finish()
}

fn read_point(input: &mut Reader<'_>) -> Result<[u8; 32], ReadError> {
    input.var16()?.try_into().map_err(|_| ReadError::Value("point"))
}

fn read_exchange(input: &mut Reader<'_>) -> Result<Exchange, ReadError> {
    Ok(Exchange {
        ident: input.u16()?,
        point: read_point(input)?,
        auth: input.array()?,
        candidates: rest(input),
    })
}

fn read_introductions(input: &mut Reader<'_>) -> Result<Vec<IntroductionInfo>, ReadError> {
    let count = usize::from(input.u8()?);
    if count > INTRODUCTIONS_MAX {
        return Err(ReadError::Value("number of introductions"));
    }
    (0..count).map(|_| IntroductionInfo::read(input.var16()?)).collect()
}

fn rest(input: &mut Reader<'_>) -> Bytes {
    Bytes::copy_from_slice(input.rest())
}
