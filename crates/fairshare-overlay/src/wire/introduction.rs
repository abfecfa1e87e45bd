//! Introduction requests and responses, puncture requests and punctures, each in the old style of 2.3 (IPv4 only) and
//! the new style of 2.5 and later (typed addresses). One type per message; the style says how it is written.
//= spec/overlay.md#5-messages-of-every-community

use super::id;
use fairshare_wire::{Address, ReadError, Reader, UNKNOWN_V4, Writer, read_ip4, write_ip4};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

/// How a message is written. A question is always answered in its own style.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Style {
    /// IPv4 addresses of six bytes; ids 245, 246, 249, 250.
    Old,
    /// Typed addresses; ids 231 to 234.
    New,
}

impl Style {
    /// The id of an introduction request.
    pub const fn request_id(self) -> u8 {
        match self {
            Self::Old => id::INTRODUCTION_REQUEST,
            Self::New => id::NEW_INTRODUCTION_REQUEST,
        }
    }

    /// The id of an introduction response.
    pub const fn response_id(self) -> u8 {
        match self {
            Self::Old => id::INTRODUCTION_RESPONSE,
            Self::New => id::NEW_INTRODUCTION_RESPONSE,
        }
    }

    /// The id of a puncture request.
    pub const fn puncture_request_id(self) -> u8 {
        match self {
            Self::Old => id::PUNCTURE_REQUEST,
            Self::New => id::NEW_PUNCTURE_REQUEST,
        }
    }

    /// The id of a puncture.
    pub const fn puncture_id(self) -> u8 {
        match self {
            Self::Old => id::PUNCTURE,
            Self::New => id::NEW_PUNCTURE,
        }
    }

    /// The shortest payload of an introduction request.
    pub const fn request_len_min(self) -> usize {
        match self {
            Self::Old => 3 * ADDRESS_LEN_OLD + 3,
            Self::New => 3 * ADDRESS_LEN_NEW_MIN + 3,
        }
    }

    /// The shortest payload of an introduction response.
    pub const fn response_len_min(self) -> usize {
        match self {
            Self::Old => 5 * ADDRESS_LEN_OLD + 3,
            Self::New => 5 * ADDRESS_LEN_NEW_MIN + 3,
        }
    }

    fn read(self, input: &mut Reader<'_>) -> Result<SocketAddr, ReadError> {
        match self {
            Self::Old => read_ip4(input).map(SocketAddr::V4),
            Self::New => Address::read_ip(input),
        }
    }

    /// In the old style an IPv6 address is written as unknown: there is no other way to say it.
    fn write(self, out: &mut Writer, address: &SocketAddr) {
        match (self, address) {
            (Self::New, _) => Address::write_ip(out, address),
            (Self::Old, SocketAddr::V4(address)) => write_ip4(out, *address),
            (Self::Old, SocketAddr::V6(_)) => write_ip4(out, UNKNOWN_V4),
        }
    }
}

const ADDRESS_LEN_OLD: usize = 6;
const ADDRESS_LEN_NEW_MIN: usize = 7;

// Bits of the flag byte; what is not listed is sent as 0 and ignored on receipt.
const REQUEST_NEW_STYLE: u8 = 0x20;
const REQUEST_ADVICE: u8 = 0x01;
const RESPONSE_NEW_STYLE: u8 = 0x10;
const RESPONSE_INTRODUCED_NEW_STYLE: u8 = 0x08;
const RESPONSE_PEER_LIMIT: u8 = 0x04;
const NEW_RESPONSE_INTRODUCED_NEW_STYLE: u8 = 0x80;

/// The letter in front of the old Dispersy form of a request.
const DISPERSY_LETTER: u8 = b'Y';
const MID_LEN: usize = 20;
const DISPERSY_LEN_MIN: usize = 1 + MID_LEN + 3 * ADDRESS_LEN_OLD + 3;

/// "Who are you, and whom do you know?"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntroductionRequest {
    /// Where the sender sent it to.
    pub destination: SocketAddr,
    /// What the sender thinks its address in its own network is.
    pub source_lan: SocketAddr,
    /// What the sender thinks its address outside is.
    pub source_wan: SocketAddr,
    /// Echoed by the response.
    pub identifier: u16,
    /// The sender says that it reads the new style.
    pub supports_new_style: bool,
    /// The peer asked for by its mid: only in the old Dispersy form.
    pub wanted: Option<[u8; MID_LEN]>,
    /// Bytes of the community's own.
    pub extra: Vec<u8>,
}

impl IntroductionRequest {
    /// Writes the payload.
    pub fn encode(&self, style: Style) -> Vec<u8> {
        let mut out = Writer::new();
        if let Some(mid) = self.wanted {
            out.u8(DISPERSY_LETTER).bytes(&mid);
        }
        for address in [&self.destination, &self.source_lan, &self.source_wan] {
            style.write(&mut out, address);
        }
        let new_style = if self.supports_new_style { REQUEST_NEW_STYLE } else { 0 };
        match style {
            // Everybody asks for an introduction, nobody looks at the bit.
            Style::Old => out.u8(new_style | REQUEST_ADVICE).u16(self.identifier),
            Style::New => out.u16(self.identifier).u8(0),
        };
        out.bytes(&self.extra).finish()
    }

    /// Reads a payload of the normal form.
    pub fn decode(style: Style, payload: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(payload);
        let destination = style.read(&mut input)?;
        let source_lan = style.read(&mut input)?;
        let source_wan = style.read(&mut input)?;
        let (flags, identifier) = read_tail(style, &mut input)?;
        let supports_new_style = style == Style::New || flags & REQUEST_NEW_STYLE != 0;
        let extra = input.rest().to_vec();
        Ok(Self { destination, source_lan, source_wan, identifier, supports_new_style, wanted: None, extra })
    }

    /// Reads a payload of discovery, where the old Dispersy form may come: extra is empty there, so that length and
    /// first byte tell the forms apart.
    //= spec/overlay.md#6-discoverycommunity
    pub fn decode_discovery(style: Style, payload: &[u8]) -> Result<Self, ReadError> {
        let dispersy = style == Style::Old
            && payload.len() >= DISPERSY_LEN_MIN
            && payload.first() == Some(&DISPERSY_LETTER);
        if !dispersy {
            return Self::decode(style, payload);
        }
        let mut input = Reader::new(payload);
        input.u8()?;
        let wanted = input.array()?;
        Ok(Self { wanted: Some(wanted), ..Self::decode(style, input.rest())? })
    }
}

/// "This is me, and here is somebody."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntroductionResponse {
    /// Where the request came from: how its sender learns its address outside.
    pub destination: SocketAddr,
    /// What the sender thinks its address in its own network is.
    pub source_lan: SocketAddr,
    /// What the sender thinks its address outside is.
    pub source_wan: SocketAddr,
    /// The introduced peer in its own network; unknown: 0.0.0.0:0.
    pub introduced_lan: SocketAddr,
    /// The introduced peer from outside; nobody introduced: 0.0.0.0:0.
    pub introduced_wan: SocketAddr,
    /// That of the request.
    pub identifier: u16,
    /// The sender says that it reads the new style.
    pub supports_new_style: bool,
    /// The introduced peer reads the new style.
    pub introduced_supports_new_style: bool,
    /// The sender has as many peers as it wants.
    pub peer_limit: bool,
    /// Bytes of the community's own.
    pub extra: Vec<u8>,
}

impl IntroductionResponse {
    /// Writes the payload.
    pub fn encode(&self, style: Style) -> Vec<u8> {
        let mut out = Writer::new();
        for address in self.addresses() {
            style.write(&mut out, address);
        }
        match style {
            Style::Old => {
                let flags = bit(self.supports_new_style, RESPONSE_NEW_STYLE)
                    | bit(self.introduced_supports_new_style, RESPONSE_INTRODUCED_NEW_STYLE)
                    | bit(self.peer_limit, RESPONSE_PEER_LIMIT);
                out.u8(flags).u16(self.identifier)
            }
            Style::New => {
                let flags = bit(self.introduced_supports_new_style, NEW_RESPONSE_INTRODUCED_NEW_STYLE);
                out.u16(self.identifier).u8(flags)
            }
        };
        out.bytes(&self.extra).finish()
    }

    /// Reads a payload.
    pub fn decode(style: Style, payload: &[u8]) -> Result<Self, ReadError> {
        let mut input = Reader::new(payload);
        let destination = style.read(&mut input)?;
        let source_lan = style.read(&mut input)?;
        let source_wan = style.read(&mut input)?;
        let introduced_lan = style.read(&mut input)?;
        let introduced_wan = style.read(&mut input)?;
        let (flags, identifier) = read_tail(style, &mut input)?;
        let introduced_bit = match style {
            Style::Old => RESPONSE_INTRODUCED_NEW_STYLE,
            Style::New => NEW_RESPONSE_INTRODUCED_NEW_STYLE,
        };
        Ok(Self {
            destination,
            source_lan,
            source_wan,
            introduced_lan,
            introduced_wan,
            identifier,
            supports_new_style: style == Style::New || flags & RESPONSE_NEW_STYLE != 0,
            introduced_supports_new_style: flags & introduced_bit != 0,
            peer_limit: style == Style::Old && flags & RESPONSE_PEER_LIMIT != 0,
            extra: input.rest().to_vec(),
        })
    }

    const fn addresses(&self) -> [&SocketAddr; 5] {
        [&self.destination, &self.source_lan, &self.source_wan, &self.introduced_lan, &self.introduced_wan]
    }
}

/// "Somebody wants to reach you: open your NAT towards it."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PunctureRequest {
    /// The walker in its own network.
    pub walker_lan: SocketAddr,
    /// The walker from outside.
    pub walker_wan: SocketAddr,
    /// That of the introduction request.
    pub identifier: u16,
}

impl PunctureRequest {
    /// Writes the payload.
    pub fn encode(&self, style: Style) -> Vec<u8> {
        encode_pair(style, &self.walker_lan, &self.walker_wan, self.identifier)
    }

    /// Reads a payload.
    pub fn decode(style: Style, payload: &[u8]) -> Result<Self, ReadError> {
        let (walker_lan, walker_wan, identifier) = decode_pair(style, payload)?;
        Ok(Self { walker_lan, walker_wan, identifier })
    }
}

/// The packet that opens a NAT; it has no other effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Puncture {
    /// The sender in its own network.
    pub source_lan: SocketAddr,
    /// By a quirk of the field the walker's address outside, as the puncture request gave it.
    pub source_wan: SocketAddr,
    /// That of the puncture request.
    pub identifier: u16,
}

impl Puncture {
    /// Writes the payload.
    pub fn encode(&self, style: Style) -> Vec<u8> {
        encode_pair(style, &self.source_lan, &self.source_wan, self.identifier)
    }

    /// Reads a payload.
    pub fn decode(style: Style, payload: &[u8]) -> Result<Self, ReadError> {
        let (source_lan, source_wan, identifier) = decode_pair(style, payload)?;
        Ok(Self { source_lan, source_wan, identifier })
    }
}

/// Flags come before the identifier in the old style and after it in the new one.
fn read_tail(style: Style, input: &mut Reader<'_>) -> Result<(u8, u16), ReadError> {
    match style {
        Style::Old => Ok((input.u8()?, input.u16()?)),
        Style::New => {
            let identifier = input.u16()?;
            Ok((input.u8()?, identifier))
        }
    }
}

fn encode_pair(style: Style, lan: &SocketAddr, wan: &SocketAddr, identifier: u16) -> Vec<u8> {
    let mut out = Writer::new();
    style.write(&mut out, lan);
    style.write(&mut out, wan);
    out.u16(identifier).finish()
}

fn decode_pair(style: Style, payload: &[u8]) -> Result<(SocketAddr, SocketAddr, u16), ReadError> {
    let mut input = Reader::new(payload);
    let parts = (style.read(&mut input)?, style.read(&mut input)?, input.u16()?);
    input.end()?;
    Ok(parts)
}

const fn bit(set: bool, value: u8) -> u8 {
    if set { value } else { 0 }
}

/// "Nobody" or "not known" in an address field.
pub(crate) const UNKNOWN: SocketAddr = SocketAddr::V4(UNKNOWN_V4);

/// Whether an address field says anything.
pub(crate) fn known(address: &SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified()
}

/// The IPv4 form of an address field, if it is one and says anything.
pub(crate) fn known_v4(address: &SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(v4) if known(address) => Some(*v4),
        _ => None,
    }
}

/// Whether two address fields name the same host.
pub(crate) fn same_host(a: &SocketAddr, b: IpAddr) -> bool {
    a.ip() == b
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(wanted: Option<[u8; 20]>, extra: &[u8]) -> IntroductionRequest {
        IntroductionRequest {
            destination: "1.2.3.4:5".parse().expect("literal"),
            source_lan: "10.0.0.1:8090".parse().expect("literal"),
            source_wan: UNKNOWN,
            identifier: 0xabcd,
            supports_new_style: false,
            wanted,
            extra: extra.to_vec(),
        }
    }

    //= spec/overlay.md#5-messages-of-every-community
    #[test]
    fn flags_stand_before_the_identifier_in_the_old_style_and_after_it_in_the_new_one() {
        let old = request(None, b"x").encode(Style::Old);
        assert_eq!(old[18..], [REQUEST_ADVICE, 0xab, 0xcd, b'x']);
        let new = request(None, b"x").encode(Style::New);
        assert_eq!(new[21..], [0xab, 0xcd, 0, b'x']);
    }

    //= spec/overlay.md#6-discoverycommunity
    #[test]
    fn the_dispersy_form_is_told_by_length_and_letter() {
        let form = request(Some([7; 20]), b"");
        let bytes = form.encode(Style::Old);
        assert_eq!(IntroductionRequest::decode_discovery(Style::Old, &bytes), Ok(form));
        let normal =
            IntroductionRequest { destination: SocketAddr::from(([b'Y', 1, 2, 3], 4)), ..request(None, b"") };
        let bytes = normal.encode(Style::Old);
        assert_eq!(IntroductionRequest::decode_discovery(Style::Old, &bytes), Ok(normal));
    }

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from)
    }

    fn any_style() -> impl Strategy<Value = Style> {
        prop_oneof![Just(Style::Old), Just(Style::New)]
    }

    proptest! {
        #[test]
        fn a_response_is_read_back(
            style in any_style(),
            addresses in prop::array::uniform5(any_address()),
            identifier: u16,
            introduced_supports_new_style: bool,
            limit: bool,
            extra: Vec<u8>,
        ) {
            let [destination, source_lan, source_wan, introduced_lan, introduced_wan] = addresses;
            let response = IntroductionResponse {
                destination, source_lan, source_wan, introduced_lan, introduced_wan, identifier,
                supports_new_style: true,
                introduced_supports_new_style,
                peer_limit: limit && style == Style::Old,
                extra,
            };
            prop_assert_eq!(IntroductionResponse::decode(style, &response.encode(style)), Ok(response));
        }

        #[test]
        fn a_puncture_is_read_back_and_nothing_longer(
            style in any_style(), lan in any_address(), wan in any_address(), identifier: u16,
        ) {
            let request = PunctureRequest { walker_lan: lan, walker_wan: wan, identifier };
            let mut bytes = request.encode(style);
            prop_assert_eq!(PunctureRequest::decode(style, &bytes), Ok(request));
            bytes.push(0);
            prop_assert!(PunctureRequest::decode(style, &bytes).is_err());
        }

        #[test]
        fn random_bytes_never_panic(style in any_style(), bytes: Vec<u8>) {
            let _ = IntroductionRequest::decode_discovery(style, &bytes);
            let _ = IntroductionResponse::decode(style, &bytes);
            let _ = Puncture::decode(style, &bytes);
        }
    }
}
