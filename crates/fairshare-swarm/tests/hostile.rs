//! Peers that are old, odd or hostile: by hand, byte for byte.

mod world;

use bytes::Bytes;
use fairshare_crypto::Rng as Randomness;
use fairshare_swarm::extension::{ExtendedHandshake, FS_IDENTITY_ID, MetadataMessage, UT_METADATA_ID};
use fairshare_swarm::identity::{
    Channel, Count, Handshake as Proof, HelloSecrets, Message as Identity, Progress, Totals,
};
use fairshare_swarm::peer_wire::{BlockRequest, Decoder, Handshake, Incoming, Message, PeerId, Reserved};
use fairshare_swarm::{InfoHash, StreamId, SwarmEvent};
use proptest::prelude::*;
use std::time::Duration;
use world::{Economy, TestTorrent, World};

const THEIRS: PeerId = PeerId(*b"-XX0000-abcdefghijkl");

/// A stream to a node that seeds `torrent`, driven by hand.
struct RawPeer {
    node: usize,
    id: StreamId,
    decoder: Decoder,
    read: usize,
}

impl RawPeer {
    fn connect(world: &mut World, node: usize, torrent: InfoHash, reserved: Reserved) -> Self {
        let id = world.raw_stream(node);
        let handshake = Handshake { reserved, info_hash: torrent, peer_id: THEIRS };
        world.raw_send(node, id, handshake.to_bytes().to_vec());
        Self { node, id, decoder: Decoder::new(), read: 0 }
    }

    fn send(&self, world: &mut World, message: &Message) {
        world.raw_send(self.node, self.id, message.to_bytes());
    }

    /// What the node wrote since the last call.
    fn receive(&mut self, world: &mut World) -> Vec<Incoming> {
        world.run(Duration::from_millis(50));
        let raw = world.nodes[self.node].raw.get(&self.id);
        let mut new = raw.map_or_else(Bytes::new, |raw| Bytes::copy_from_slice(&raw[self.read..]));
        self.read += new.len();
        let mut out = Vec::new();
        while let Some(incoming) = self.decoder.decode(&mut new).expect("the node speaks well") {
            out.push(incoming);
        }
        out
    }

    fn messages(&mut self, world: &mut World) -> Vec<Message> {
        let message = |incoming| if let Incoming::Message(message) = incoming { Some(message) } else { None };
        self.receive(world).into_iter().filter_map(message).collect()
    }

    fn is_closed(&self, world: &World) -> bool {
        world.nodes[self.node].closed.contains(&self.id)
    }
}

fn seeding() -> (World, usize, TestTorrent) {
    let torrent = TestTorrent::new(256 << 10, 64 << 10);
    let mut world = World::new();
    let seed = world.node();
    world.seed(seed, &torrent);
    world.run(Duration::from_secs(1));
    (world, seed, torrent)
}

const fn request(piece: u32, begin: u32, len: u32) -> Message {
    Message::Request(BlockRequest { piece, begin, len })
}

//= spec/swarm.md#2-handshake-bep-3
#[test]
fn a_client_without_any_extension_is_served() {
    let (mut world, seed, torrent) = seeding();
    let mut peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::default());
    let first = peer.receive(&mut world);
    assert!(matches!(first[0], Incoming::Opening { .. }) && matches!(first[1], Incoming::PeerId(_)));
    assert_eq!(first[2..], [Incoming::Message(Message::Bitfield(Bytes::from_static(&[0xf0])))]);
    peer.send(&mut world, &Message::Interested);
    assert_eq!(peer.messages(&mut world), [Message::Unchoke], "at once, not at the next round");
    peer.send(&mut world, &request(1, 16_384, 16_384));
    let start = (64 << 10) + 16_384;
    let data = torrent.content.slice(start..start + 16_384);
    assert_eq!(peer.messages(&mut world), [Message::Piece { piece: 1, begin: 16_384, data }]);
}

//= spec/swarm.md#2-handshake-bep-3
#[test]
fn the_acceptor_answers_after_the_first_48_bytes() {
    let (mut world, seed, torrent) = seeding();
    let id = world.raw_stream(seed);
    let handshake =
        Handshake { reserved: Reserved::OURS, info_hash: torrent.info_hash(), peer_id: THEIRS }.to_bytes();
    world.raw_send(seed, id, handshake[..48].to_vec());
    assert_eq!(world.nodes[seed].raw[&id].len(), 68);
    world.raw_send(seed, id, handshake[48..].to_vec());
    assert!(world.nodes[seed].raw[&id].len() > 68);
}

//= spec/swarm.md#2-handshake-bep-3
#[test]
fn an_unknown_torrent_or_no_handshake_in_time_closes_without_an_answer() {
    let (mut world, seed, _) = seeding();
    let stranger = RawPeer::connect(&mut world, seed, InfoHash([9; 20]), Reserved::OURS);
    assert!(stranger.is_closed(&world));
    assert_eq!(world.nodes[seed].raw.get(&stranger.id), None);
    let silent = world.raw_stream(seed);
    world.run(Duration::from_secs(12));
    assert!(world.nodes[seed].closed.contains(&silent));
}

//= spec/swarm.md#3-message-framing-and-core-messages
#[test]
fn with_the_fast_extension_every_refused_request_is_rejected() {
    let (mut world, seed, torrent) = seeding();
    let mut fast = Reserved::OURS;
    fast.0[5] = 0;
    let mut peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), fast);
    assert_eq!(peer.messages(&mut world), [Message::HaveAll]);
    let refused = [
        (0, 0, 16_384),          // choked
        (9, 0, 16_384),          // no such piece
        (3, 65_000, 16_384),     // beyond its piece
        (0, 0, 131_073),         // too long
        (0, u32::MAX, u32::MAX), // overflow
    ];
    for (piece, begin, len) in refused {
        peer.send(&mut world, &request(piece, begin, len));
        let rejected = Message::RejectRequest(BlockRequest { piece, begin, len });
        assert_eq!(peer.messages(&mut world), [rejected]);
    }
    peer.send(&mut world, &Message::Interested);
    peer.messages(&mut world);
    // A choke gives back what was not sent.
    for block in 0..4 {
        peer.send(&mut world, &request(0, block * 16_384, 16_384));
    }
    world.act(seed, |swarm, now| swarm.set_upload(now, false));
    let answer = peer.messages(&mut world);
    assert_eq!(answer[0], Message::Choke);
    assert_eq!(answer.iter().filter(|message| matches!(message, Message::RejectRequest(_))).count(), 4);
}

//= spec/swarm.md#3-message-framing-and-core-messages
#[test]
fn breaches_of_the_protocol_close_the_connection() {
    let (mut world, seed, torrent) = seeding();
    let haves = (0..2).map(|_| Message::HaveNone).collect::<Vec<_>>();
    let cases: Vec<Vec<Message>> = vec![
        haves,
        vec![Message::HaveNone, Message::Have(4)],
        vec![Message::Bitfield(Bytes::from_static(&[0xf1]))],
        vec![request(0, 0, 0)],
        (0..200).map(|_| request(77, 0, 16_384)).collect(),
        vec![Message::Piece { piece: 0, begin: 1, data: Bytes::from_static(&[0; 16]) }],
        (0..=100)
            .map(|_| Message::Piece { piece: 0, begin: 0, data: Bytes::from_static(&[0; 16_384]) })
            .collect(),
        vec![Message::Extended { id: 0, payload: Bytes::from_static(b"xx") }],
        (0..2).map(|_| Message::Extended { id: 0, payload: Bytes::from_static(b"de") }).collect(),
        vec![Message::Extended { id: UT_METADATA_ID, payload: Bytes::from_static(b"i1e") }],
        vec![Message::Extended { id: FS_IDENTITY_ID, payload: Bytes::from_static(&[4, 0]) }],
    ];
    for case in cases {
        let peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::OURS);
        assert!(!peer.is_closed(&world));
        case.iter().for_each(|message| peer.send(&mut world, message));
        assert!(peer.is_closed(&world), "{:?}", case[0]);
    }
}

//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
#[test]
fn a_flood_of_requests_that_reads_no_answer_is_cut_off_before_it_fills_memory() {
    let (mut world, seed, torrent) = seeding();
    let peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::OURS);
    let flood = request(0, 0, 16_384).to_bytes().repeat(10_000);
    let rounds = (0..100).take_while(|_| {
        world.raw_send(peer.node, peer.id, flood.clone());
        !peer.is_closed(&world)
    });
    assert!(rounds.count() < 30, "some 170 kB of rejects a round, 4.25 MiB allowed in all");
}

//= spec/swarm.md#3-message-framing-and-core-messages
#[test]
fn a_silent_peer_is_dropped_and_a_quiet_connection_kept_alive() {
    let (mut world, seed, torrent) = seeding();
    let mut peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::default());
    peer.messages(&mut world);
    world.run(Duration::from_secs(102));
    assert_eq!(peer.messages(&mut world), [Message::KeepAlive]);
    assert!(!peer.is_closed(&world));
    world.run(Duration::from_secs(60));
    assert!(peer.is_closed(&world));
}

//= spec/swarm.md#4-extension-protocol-bep-10-and-standard-extensions
#[test]
fn metadata_is_served_three_times_and_then_rejected() {
    let (mut world, seed, torrent) = seeding();
    let mut peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::OURS);
    let ids = [("ut_metadata".to_owned(), 7)].into();
    let hello = ExtendedHandshake { ids, ..ExtendedHandshake::default() }.encode();
    peer.send(&mut world, &Message::Extended { id: 0, payload: hello.into() });
    peer.messages(&mut world);
    let ask = |piece| {
        let payload = MetadataMessage::Request { piece }.encode().into();
        Message::Extended { id: UT_METADATA_ID, payload }
    };
    let reply = |payload: &Bytes| MetadataMessage::parse(payload).expect("well formed").expect("known");
    for round in 0..5 {
        peer.send(&mut world, &ask(0));
        let answers = peer.messages(&mut world);
        let [Message::Extended { id: 7, payload }] = answers.as_slice() else { panic!("{answers:?}") };
        match reply(payload) {
            MetadataMessage::Data { data, .. } if round < 3 => assert_eq!(data, torrent.metainfo.info()),
            MetadataMessage::Reject { piece: 0 } if round >= 3 => {}
            other => panic!("round {round}: {other:?}"),
        }
    }
    peer.send(&mut world, &ask(u32::MAX));
    assert_eq!(peer.messages(&mut world).len(), 1, "a piece that there is not is rejected too");
}

/// A raw peer that proves an identity as the side that opened the connection.
fn prove(
    world: &mut World,
    peer: &mut RawPeer,
    key: &fairshare_crypto::SecretKey,
) -> fairshare_swarm::identity::Session {
    let ids = [("fs_identity".to_owned(), 9)].into();
    let hello = ExtendedHandshake { ids, identity_version: Some(1), ..ExtendedHandshake::default() };
    peer.send(world, &Message::Extended { id: 0, payload: hello.encode().into() });
    let received = peer.receive(world);
    let responder = received.iter().find_map(|incoming| match incoming {
        Incoming::PeerId(id) => Some(*id),
        _ => None,
    });
    let info_hash = received.iter().find_map(|incoming| match incoming {
        Incoming::Opening { info_hash, .. } => Some(*info_hash),
        _ => None,
    });
    let channel = Channel {
        info_hash: info_hash.expect("answered"),
        initiator: THEIRS,
        responder: responder.expect("answered"),
        binding: [0; 32],
    };
    let secrets = HelloSecrets::generate(&mut Randomness::from_seed([8; 32]));
    let (mut proof, hello) = Proof::initiate(channel, key, secrets);
    peer.send(world, &Message::Extended { id: FS_IDENTITY_ID, payload: hello.encode() });
    let answer = peer.messages(world).into_iter().find_map(|message| match message {
        Message::Extended { id: 9, payload } => Identity::parse(&payload).expect("well formed"),
        _ => None,
    });
    match proof.receive(key, &answer.expect("H2")).expect("a good answer") {
        Progress::Verified(Some(reply), session) => {
            peer.send(world, &Message::Extended { id: FS_IDENTITY_ID, payload: reply.encode() });
            *session
        }
        other => panic!("{other:?}"),
    }
}

//= spec/swarm.md#83-counts-and-exposure
#[test]
fn a_peer_that_acknowledges_nothing_gets_four_mebibytes_at_the_most() {
    let torrent = TestTorrent::new(8 << 20, 256 << 10);
    let mut world = World::new();
    let seed = world.node();
    world.seed(seed, &torrent);
    world.run(Duration::from_secs(1));
    let mut peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::OURS);
    let key = fairshare_crypto::SecretKey::generate(&mut Randomness::from_seed([9; 32]));
    let mut session = prove(&mut world, &mut peer, &key);
    peer.send(&mut world, &Message::Interested);
    let answer = peer.messages(&mut world);
    assert!(answer.contains(&Message::Unchoke), "{answer:?}");
    for number in 0..512 {
        peer.send(&mut world, &request(number / 16, number % 16 * 16_384, 16_384));
    }
    world.run(Duration::from_secs(5));
    let sent = |world: &World| world.nodes[seed].swarm.connections()[0].uploaded;
    assert_eq!(sent(&world), 4 << 20);

    let totals = Totals { verified: 0, accepted: 4 << 20, sent: 0 };
    let count = Identity::Count(session.count(totals));
    peer.send(&mut world, &Message::Extended { id: FS_IDENTITY_ID, payload: count.encode() });
    world.run(Duration::from_secs(5));
    assert!(sent(&world) > 4 << 20);
}

//= spec/swarm.md#83-counts-and-exposure
#[test]
fn the_first_false_count_asks_for_a_receipt_and_the_second_chokes() {
    let (mut world, seed, torrent) = seeding();
    let mut peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::OURS);
    let key = fairshare_crypto::SecretKey::generate(&mut Randomness::from_seed([9; 32]));
    let mut session = prove(&mut world, &mut peer, &key);
    peer.send(&mut world, &Message::Interested);
    peer.messages(&mut world);
    let mut lie = |world: &mut World, peer: &RawPeer| {
        let count: Count = session.count(Totals { verified: 1, accepted: 1, sent: 0 });
        peer.send(world, &Message::Extended { id: FS_IDENTITY_ID, payload: Identity::Count(count).encode() });
    };
    lie(&mut world, &peer);
    let ask = Message::Extended { id: 9, payload: Identity::ReceiptRequest.encode() };
    assert_eq!(peer.messages(&mut world), [ask]);
    lie(&mut world, &peer);
    assert_eq!(peer.messages(&mut world), [Message::Choke]);
    assert_eq!(world.count(seed, |event| matches!(event, SwarmEvent::CountFault { .. })), 2);
    world.run(Duration::from_secs(90));
    peer.send(&mut world, &Message::KeepAlive);
    assert_eq!(peer.messages(&mut world), [], "never served again on this connection");
}

//= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r
#[test]
fn a_peer_that_offers_an_identity_and_never_proves_it_waits_fifteen_seconds() {
    let (mut world, seed, torrent) = seeding();
    let mut peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::OURS);
    let ids = [("fs_identity".to_owned(), 9)].into();
    let hello = ExtendedHandshake { ids, identity_version: Some(1), ..ExtendedHandshake::default() };
    peer.send(&mut world, &Message::Extended { id: 0, payload: hello.encode().into() });
    peer.send(&mut world, &Message::Interested);
    world.run(Duration::from_secs(14));
    assert!(!peer.messages(&mut world).contains(&Message::Unchoke));
    world.run(Duration::from_secs(2));
    assert!(peer.messages(&mut world).contains(&Message::Unchoke), "then it is a legacy peer");
    let again = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::OURS);
    drop(again);
}

#[test]
fn a_peer_that_changes_its_mind_all_the_time_costs_the_economy_little() {
    let (mut world, seed, torrent) = seeding();
    let mut peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::OURS);
    let key = fairshare_crypto::SecretKey::generate(&mut Randomness::from_seed([9; 32]));
    prove(&mut world, &mut peer, &key);
    for _ in 0..1000 {
        peer.send(&mut world, &Message::Interested);
        peer.send(&mut world, &Message::NotInterested);
    }
    let asked = |event: &SwarmEvent| {
        matches!(event, SwarmEvent::VerdictWanted { .. } | SwarmEvent::GrantWanted { .. })
    };
    assert!(world.count(seed, asked) <= 4, "{}", world.count(seed, asked));
    peer.messages(&mut world);
    peer.send(&mut world, &Message::Interested);
    world.run(Duration::from_secs(2));
    assert!(peer.messages(&mut world).contains(&Message::Unchoke), "still served a second later");
}

//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
#[test]
fn connections_of_one_address_and_waiting_handshakes_are_limited() {
    let (mut world, seed, _) = seeding();
    let address = "8.8.8.8:1".parse().expect("address");
    let ids: Vec<StreamId> = (0..40).map(|number| StreamId(1001 + 2 * number)).collect();
    for id in &ids {
        world.act(seed, |swarm, now| swarm.stream_incoming(now, *id, address));
    }
    let open = ids.iter().filter(|id| !world.nodes[seed].closed.contains(id)).count();
    assert_eq!(open, 4, "of one /24 four may wait for their handshake, the newest");
    assert!(!world.nodes[seed].closed.contains(ids.last().expect("ids")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    //= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
    #[test]
    fn random_bytes_after_the_handshake_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        ids in prop::collection::vec((0_u8..24, prop::collection::vec(any::<u8>(), 0..40)), 0..30),
    ) {
        let (mut world, seed, torrent) = seeding();
        let peer = RawPeer::connect(&mut world, seed, torrent.info_hash(), Reserved::OURS);
        for (id, payload) in ids {
            let mut message = (payload.len() as u32 + 1).to_be_bytes().to_vec();
            message.push(id);
            message.extend_from_slice(&payload);
            world.raw_send(seed, peer.id, message);
        }
        world.raw_send(seed, peer.id, bytes);
        world.run(Duration::from_secs(40));
    }

    #[test]
    fn random_verbs_of_the_economy_never_panic(
        verbs in prop::collection::vec((0_u8..8, any::<u64>()), 0..60),
    ) {
        let torrent = TestTorrent::new(1 << 20, 64 << 10);
        let mut world = World::new();
        let (seed, leecher) = (world.node(), world.node());
        world.nodes[seed].economy = Economy::Choke;
        world.seed(seed, &torrent);
        world.leech(leecher, &torrent, &[seed]);
        world.run(Duration::from_secs(1));
        let id = world.nodes[seed].swarm.connections()[0].id;
        for (verb, number) in verbs {
            world.economy_verb(seed, id, verb, number);
            world.run(Duration::from_millis(number % 2000));
        }
    }
}
