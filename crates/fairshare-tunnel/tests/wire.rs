//! The codecs as a whole: what is written is read back, and no bytes make them panic.
//= spec/tunnels.md#message-ids-py-ipv8-210--321

use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_tunnel::wire::{
    Body, CandidateList, CellHeader, Data, Destroy, Exchange, IntroductionInfo, IntroductionSource,
    IntroductionValue, Message, RendezvousInfo, id, read_bare, read_seeder_keys, write_bare,
    write_seeder_keys,
};
use fairshare_wire::{Address, CommunityId};
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};

const OURS: CommunityId = CommunityId([7; 20]);

fn keys() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(|seed| SecretKey::generate(&mut Rng::from_seed(seed)).public())
}

fn sockets() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn addresses() -> impl Strategy<Value = Address> {
    prop_oneof![
        sockets().prop_map(Address::Ip),
        (".{0,60}", any::<u16>()).prop_map(|(host, port)| Address::Host(host, port)),
    ]
}

fn payloads() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..1_400).prop_map(Bytes::from)
}

fn exchanges() -> impl Strategy<Value = Exchange> {
    (any::<u16>(), any::<[u8; 32]>(), any::<[u8; 32]>(), payloads())
        .prop_map(|(ident, point, auth, candidates)| Exchange { ident, point, auth, candidates })
}

fn introductions() -> impl Strategy<Value = IntroductionInfo> {
    (sockets(), keys(), keys(), any::<u8>()).prop_map(|(address, point, seeder, source)| IntroductionInfo {
        address,
        point,
        seeder,
        source: IntroductionSource(source),
    })
}

/// Messages of circuits themselves.
fn circuits() -> impl Strategy<Value = Message> {
    prop_oneof![
        (addresses(), addresses(), payloads()).prop_map(|(destination, origin, data)| Message::Data(Body {
            destination,
            origin,
            data
        })),
        (any::<u16>(), keys(), any::<[u8; 32]>()).prop_map(|(ident, key, point)| Message::Create {
            ident,
            key,
            point
        }),
        exchanges().prop_map(Message::Created),
        (any::<u16>(), keys(), any::<[u8; 32]>(), sockets())
            .prop_map(|(ident, key, point, address)| Message::Extend { ident, key, point, address }),
        exchanges().prop_map(Message::Extended),
        any::<u16>().prop_map(|ident| Message::Ping { ident }),
        any::<u16>().prop_map(|ident| Message::Pong { ident }),
        (id::SETTLEMENT, payloads()).prop_map(|(id, body)| Message::Settlement { id, body }),
    ]
}

/// Messages of hidden services.
fn hidden() -> impl Strategy<Value = Message> {
    let hash = any::<[u8; 20]>();
    prop_oneof![
        (any::<u16>(), hash, keys()).prop_map(|(ident, info_hash, seeder)| Message::EstablishIntro {
            ident,
            info_hash,
            seeder
        }),
        any::<u16>().prop_map(|ident| Message::IntroEstablished { ident }),
        (any::<u16>(), hash).prop_map(|(ident, cookie)| Message::EstablishRendezvous { ident, cookie }),
        (any::<u16>(), sockets())
            .prop_map(|(ident, address)| Message::RendezvousEstablished { ident, address }),
        (any::<u16>(), hash).prop_map(|(ident, cookie)| Message::LinkE2e { ident, cookie }),
        any::<u16>().prop_map(|ident| Message::LinkedE2e { ident }),
        (any::<u16>(), hash).prop_map(|(ident, info_hash)| Message::PeersRequest { ident, info_hash }),
        (any::<u16>(), hash, proptest::collection::vec(introductions(), 0..8))
            .prop_map(|(ident, info_hash, peers)| Message::PeersResponse { ident, info_hash, peers }),
        (any::<u16>(), hash, keys(), any::<[u8; 32]>()).prop_map(|(ident, info_hash, seeder, point)| {
            Message::CreateE2e { ident, info_hash, seeder, point }
        }),
        exchanges().prop_map(Message::CreatedE2e),
    ]
}

/// Speed tests and web requests.
fn services() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u16>(), any::<u16>(), payloads())
            .prop_map(|(ident, response_size, data)| { Message::TestRequest { ident, response_size, data } }),
        (any::<u16>(), payloads()).prop_map(|(ident, data)| Message::TestResponse { ident, data }),
        (any::<u32>(), addresses(), payloads()).prop_map(|(ident, target, request)| Message::HttpRequest {
            ident,
            target,
            request
        }),
        (any::<u32>(), any::<u16>(), any::<u16>(), payloads()).prop_map(|(ident, part, total, response)| {
            Message::HttpResponse { ident, part, total, response }
        }),
    ]
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![circuits(), hidden(), services()]
}

/// Every reader over the same bytes; what they say of them does not matter here.
fn read_all(bytes: &[u8]) {
    let _ = CellHeader::parse(bytes);
    let _ = Message::parse(bytes);
    let _ = Data::parse(bytes);
    let _ = Destroy::parse(bytes);
    let _ = Destroy::peek(bytes);
    let _ = read_bare(bytes, &OURS);
    let _ = CandidateList::parse(bytes);
    let _ = IntroductionValue::parse(bytes);
    let _ = RendezvousInfo::parse(bytes);
    let _ = read_seeder_keys(bytes);
}

/// Whether what is read from `bytes` is the same after it was written again.
fn reads_as_it_writes(bytes: &[u8]) -> bool {
    match Message::parse(bytes) {
        Ok(Some(message)) => Message::parse(&message.to_bytes()) == Ok(Some(message)),
        Ok(None) | Err(_) => true,
    }
}

proptest! {
    #[test]
    fn a_message_is_read_as_it_was_written(message in messages()) {
        let bytes = message.to_bytes();
        prop_assert_eq!(bytes.first(), Some(&message.id()));
        prop_assert_eq!(Message::parse(&bytes), Ok(Some(message)));
    }

    #[test]
    fn data_is_the_same_on_the_fast_path(to in addresses(), from in addresses(), data in payloads()) {
        let mut fast = vec![9];
        Data::write(&mut fast, &to, &from, &data);
        let slow = Message::Data(Body { destination: to.clone(), origin: from.clone(), data: data.clone() });
        prop_assert_eq!(fast[1..].to_vec(), slow.to_bytes());
        prop_assert_eq!(Data::parse(&fast[2..]), Ok(Data { destination: to, origin: from, data: &data }));
    }

    #[test]
    fn a_bare_packet_is_read_as_it_was_written(message in hidden(), number in any::<u32>()) {
        let circuit = match message {
            Message::PeersRequest { .. } | Message::PeersResponse { .. } => Some(number),
            Message::CreateE2e { .. } | Message::CreatedE2e(_) => None,
            _ => return Ok(()),
        };
        let packet = write_bare(OURS, &message, circuit);
        prop_assert!(read_bare(&packet, &CommunityId([8; 20])).is_err());
        prop_assert_eq!(read_bare(&packet, &OURS), Ok(Some((message, circuit))));
    }

    #[test]
    fn bytes_behind_a_fixed_body_are_ignored(ident in any::<u16>(), more in payloads()) {
        let bytes = [&Message::Ping { ident }.to_bytes()[..], &more[..]].concat();
        prop_assert_eq!(Message::parse(&bytes), Ok(Some(Message::Ping { ident })));
    }

    #[test]
    fn candidates_keep_their_halves(keys in proptest::collection::vec(keys(), 0..9), split in 0..9usize) {
        let split = split.min(keys.len());
        let list = CandidateList { relays: keys[..split].to_vec(), exits: keys[split..].to_vec() };
        prop_assert_eq!(CandidateList::parse(&list.to_bytes()), Ok(list));
    }

    #[test]
    fn values_of_hidden_services_are_read_as_they_were_written(
        info in introductions(),
        last_seen in any::<u32>(),
        cookie in any::<[u8; 20]>(),
        seeders in proptest::collection::vec(keys(), 0..=10),
    ) {
        let (address, point, seeder) = (info.address, info.point, info.seeder);
        let value = IntroductionValue { address, last_seen, point, seeder };
        prop_assert_eq!(IntroductionValue::parse(&value.to_bytes()), Ok(value));
        let meeting = RendezvousInfo { address, point, cookie };
        prop_assert_eq!(RendezvousInfo::parse(&meeting.to_bytes()), Ok(meeting));
        prop_assert_eq!(read_seeder_keys(&write_seeder_keys(&seeders)), Ok(seeders));
    }

    #[test]
    fn noise_is_read_or_refused(id in 0..48u8, noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        let message = [&[id], &noise[..]].concat();
        read_all(&noise);
        read_all(&message);
        read_all(&[&[0, 2], &OURS.0[..], &message[..]].concat());
        prop_assert!(reads_as_it_writes(&message));
    }

    #[test]
    fn a_cut_or_changed_message_is_read_or_refused(
        message in messages(),
        at in any::<proptest::sample::Index>(),
        bit in 0..8u8,
    ) {
        let bytes = message.to_bytes();
        let mut changed = bytes.clone();
        changed[at.index(bytes.len())] ^= 1 << bit;
        for received in [&bytes[..at.index(bytes.len())], &changed] {
            read_all(received);
            read_all(received.get(1..).unwrap_or(&[]));
            prop_assert!(reads_as_it_writes(received));
        }
    }
}
