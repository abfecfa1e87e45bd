//! Overlays among themselves: they find each other, survive loss, and are not moved by replays and strangers.

mod ring;

use bytes::Bytes;
use fairshare_crypto::{Rng, SecretKey};
use fairshare_overlay::community::{DISCOVERY, TRUSTCHAIN};
use fairshare_overlay::wire::{IntroductionRequest, PunctureRequest, SimilarityRequest, Style, id};
use fairshare_overlay::{Community, OverlayConfig, OverlayEvent};
use fairshare_wire::{CommunityId, Frame, sign_packet, unsigned_packet};
use ring::{Ring, address};
use std::net::SocketAddr;
use std::time::Duration;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn everybody_knows_everybody(ring: &Ring) -> bool {
    let count = ring.nodes.len();
    (0..count).all(|node| (0..count).all(|other| node == other || ring.knows(node, other, TRUSTCHAIN)))
}

/// Ten nodes, each of which is told the address of the next one only.
fn ring_of_ten() -> Ring {
    let mut ring = Ring::new(10);
    for node in 0..10 {
        ring.tell(usize::from(node), address((node + 1) % 10));
    }
    ring
}

//= spec/overlay.md#51-behaviour
#[test]
fn ten_nodes_that_know_one_address_each_find_all() {
    let mut ring = ring_of_ten();
    ring.run(seconds(30));
    assert!(everybody_knows_everybody(&ring));
}

#[test]
fn they_find_all_although_every_fifth_datagram_is_lost() {
    let mut ring = ring_of_ten();
    ring.loss = 5;
    ring.run(seconds(60));
    assert!(everybody_knows_everybody(&ring));
}

#[test]
fn the_same_seed_sends_the_same_bytes() {
    let sent = || {
        let mut ring = ring_of_ten();
        ring.loss = 5;
        ring.run(seconds(10));
        ring.sent
    };
    assert_eq!(sent(), sent());
}

//= spec/trustchain.md#5-messages
#[test]
fn the_extra_bytes_of_a_community_arrive_with_its_peers() {
    let mut ring = Ring::new(2);
    ring.nodes[1].set_extra(TRUSTCHAIN, vec![0, 0, 0, 7]);
    ring.tell(0, address(1));
    ring.run(seconds(2));
    let told = |event: &OverlayEvent| {
        matches!(event, OverlayEvent::PeerFound { community, extra, .. }
            if *community == TRUSTCHAIN && extra.as_ref() == [0, 0, 0, 7])
    };
    assert!(ring.events[0].iter().any(told));
}

//= spec/overlay.md#52-choosing-the-style-25
#[test]
fn an_unknown_address_is_asked_in_the_old_style_and_a_peer_that_reads_the_new_one_in_that() {
    let mut ring = Ring::new(2);
    ring.tell(0, address(1));
    ring.run(seconds(10));
    let ids: Vec<u8> = ring
        .sent
        .iter()
        .filter(|(from, _, _)| *from == address(0))
        .filter_map(|(_, _, bytes)| Frame::parse(bytes).ok())
        .filter(|frame| frame.community == TRUSTCHAIN)
        .map(|frame| frame.message_id)
        .collect();
    assert_eq!(ids.first(), Some(&id::INTRODUCTION_REQUEST));
    assert!(ids.contains(&id::NEW_INTRODUCTION_REQUEST), "{ids:?}");
    // Node 1 knows that node 0 reads the new style from the answers to its own requests, and asks so too.
    assert!(ids.contains(&id::NEW_INTRODUCTION_RESPONSE), "{ids:?}");
    assert!(ring.nodes[0].refusals().is_empty() && ring.nodes[1].refusals().is_empty());
}

//= spec/overlay.md#8-packet-size
#[test]
fn a_message_that_no_datagram_can_carry_is_not_sent() {
    let mut ring = Ring::new(1);
    let now = ring.now;
    ring.nodes[0].send(now, TRUSTCHAIN, address(1), 1, false, &[0; 65_507 - 31]);
    ring.nodes[0].send(now, TRUSTCHAIN, address(1), 1, false, &[0; 65_507 - 30]);
    ring.drain(0);
    assert_eq!(ring.sent.iter().map(|(_, _, bytes)| bytes.len()).collect::<Vec<_>>(), [65_507]);
    assert_eq!(ring.nodes[0].refusals().get("message too large for a datagram"), Some(&1));
}

#[test]
fn messages_of_a_community_are_carried_with_and_without_a_signature() {
    let mut ring = Ring::new(2);
    let now = ring.now;
    ring.nodes[0].send(now, TRUSTCHAIN, address(1), 1, false, b"block");
    ring.nodes[0].send(now, TRUSTCHAIN, address(1), 2, true, b"crawl");
    ring.drain(0);
    ring.run(seconds(1));
    let message = |id, sender, payload: &'static [u8]| OverlayEvent::Message {
        community: TRUSTCHAIN,
        from: address(0),
        sender,
        id,
        payload: Bytes::from_static(payload),
    };
    assert!(ring.events[1].contains(&message(1, None, b"block")));
    assert!(ring.events[1].contains(&message(2, Some(ring.keys[0]), b"crawl")));
}

#[test]
fn a_message_with_the_wrong_form_or_of_no_community_is_refused_and_counted() {
    let mut ring = Ring::new(1);
    let key = SecretKey::generate(&mut Rng::from_seed([77; 32]));
    let strange = CommunityId([3; 20]);
    ring.inject(address(5), address(0), unsigned_packet(TRUSTCHAIN, 2, 1, b"x").into());
    ring.inject(address(5), address(0), unsigned_packet(TRUSTCHAIN, 99, 1, b"x").into());
    ring.inject(address(5), address(0), sign_packet(&key, strange, 246, 1, b"x").into());
    ring.inject(address(5), address(0), unsigned_packet(TRUSTCHAIN, 240, 1, b"x").into());
    ring.inject(address(5), address(0), Bytes::from_static(b"BitTorrent"));
    ring.run(seconds(1));
    let reasons: Vec<&str> = ring.nodes[0].refusals().keys().copied().collect();
    for reason in [
        "not a Curve25519 key",
        "unknown message id",
        "unknown community",
        "deprecated message id",
        "not an IPv8 packet",
    ] {
        assert!(reasons.contains(&reason), "{reason} in {reasons:?}");
    }
}

//= spec/overlay.md#13-where-we-must-be-better-than-the-reference
#[test]
fn a_replayed_request_does_not_move_a_peer() {
    let mut ring = Ring::new(2);
    ring.tell(0, address(1));
    ring.run(seconds(5));
    let recorded: Vec<Bytes> = ring
        .sent
        .iter()
        .filter(|(from, _, bytes)| *from == address(1) && is(bytes, id::INTRODUCTION_REQUEST))
        .map(|(_, _, bytes)| bytes.clone())
        .collect();
    assert!(!recorded.is_empty());
    for bytes in recorded {
        ring.inject(address(99), address(0), bytes);
    }
    // Looked at before the peer itself can say anything.
    ring.run(Duration::from_millis(21));
    assert_eq!(ring.nodes[0].address_of(&ring.keys[1]), Some(address(1)));
    ring.run(seconds(5));
    assert_eq!(ring.nodes[0].address_of(&ring.keys[1]), Some(address(1)));
}

fn is(bytes: &[u8], id: u8) -> bool {
    Frame::parse(bytes).is_ok_and(|frame| frame.message_id == id)
}

//= spec/overlay.md#13-where-we-must-be-better-than-the-reference
#[test]
fn a_peer_that_moved_is_followed_once_it_answered_from_its_new_address() {
    let mut ring = Ring::new(2);
    ring.tell(0, address(1));
    ring.run(seconds(5));
    ring.silence(1);
    let key = SecretKey::generate(&mut Rng::from_seed([1; 32]));
    let SocketAddr::V4(moved) = address(50) else { unreachable!("the test world is IPv4") };
    let config = OverlayConfig { communities: vec![Community::trustchain()], ..OverlayConfig::at(moved) };
    let again = ring.join(key, config);
    ring.tell(again, address(0));
    ring.run(seconds(5));
    assert_eq!(ring.nodes[0].address_of(&ring.keys[1]), Some(address(50)));
}

//= spec/overlay.md#13-where-we-must-be-better-than-the-reference
#[test]
fn an_answer_nobody_asked_for_introduces_nobody() {
    let mut ring = Ring::new(2);
    ring.tell(0, address(1));
    ring.run(seconds(5));
    let responses: Vec<Bytes> = ring
        .sent
        .iter()
        .filter(|(from, _, bytes)| *from == address(1) && is(bytes, id::INTRODUCTION_RESPONSE))
        .map(|(_, _, bytes)| bytes.clone())
        .collect();
    let mut other = Ring::new(3);
    for bytes in responses {
        other.inject(address(1), address(2), bytes);
    }
    other.silence(1);
    other.run(seconds(10));
    assert!(other.nodes[2].peers().is_empty());
    assert!(other.nodes[2].refusals().contains_key("answer to nothing we asked"));
}

//= spec/overlay.md#51-behaviour
#[test]
fn a_request_signed_with_our_own_key_is_dropped() {
    let mut ring = Ring::new(2);
    ring.tell(1, address(0));
    ring.run(seconds(3));
    let own: Vec<Bytes> = ring
        .sent
        .iter()
        .filter(|(from, _, bytes)| *from == address(1) && is(bytes, id::INTRODUCTION_REQUEST))
        .map(|(_, _, bytes)| bytes.clone())
        .collect();
    for bytes in own {
        ring.inject(address(9), address(1), bytes);
    }
    ring.run(seconds(1));
    assert!(ring.nodes[1].refusals().contains_key("signed with our own key"));
    assert!(ring.nodes[1].peers().iter().all(|peer| peer.key == ring.keys[0]));
}

//= spec/overlay.md#13-where-we-must-be-better-than-the-reference
#[test]
fn punctures_are_sent_for_peers_only_and_not_many() {
    let mut ring = Ring::new(6);
    for peer in 1..6 {
        ring.tell(0, address(peer));
    }
    ring.run(seconds(2));
    let request = PunctureRequest { walker_lan: address(70), walker_wan: address(71), identifier: 5 };
    let packet: Bytes =
        unsigned_packet(TRUSTCHAIN, id::PUNCTURE_REQUEST, 1, &request.encode(Style::Old)).into();
    let punctures = |ring: &Ring| {
        let towards = |to: &SocketAddr, bytes: &Bytes| *to == address(71) && is(bytes, id::PUNCTURE);
        ring.sent.iter().filter(|(from, to, bytes)| *from == address(0) && towards(to, bytes)).count()
    };
    ring.inject(address(60), address(0), packet.clone());
    ring.run(seconds(1));
    assert_eq!(punctures(&ring), 0);
    for _ in 0..200 {
        ring.inject(address(1), address(0), packet.clone());
    }
    ring.run(Duration::from_millis(21));
    let of_one_source = punctures(&ring);
    assert!((1..=8).contains(&of_one_source), "{of_one_source}");
    for _ in 0..200 {
        for peer in 2..6 {
            ring.inject(address(peer), address(0), packet.clone());
        }
    }
    ring.run(Duration::from_millis(21));
    let of_all = punctures(&ring);
    assert!((of_one_source + 1..=11).contains(&of_all), "{of_all}");
}

//= spec/overlay.md#7-peer-list-walking-timing
#[test]
fn a_silent_peer_is_pinged_and_then_dropped_and_a_living_one_stays() {
    let mut ring = Ring::new(3);
    ring.tell(0, address(1));
    ring.tell(0, address(2));
    ring.run(seconds(60));
    assert!(ring.nodes[0].peers().iter().all(|peer| peer.rtt == Some(Duration::from_millis(40))));
    ring.silence(1);
    ring.run(seconds(120));
    assert!(ring.events[0].contains(&OverlayEvent::PeerLost { key: ring.keys[1] }));
    assert!(ring.knows(0, 2, TRUSTCHAIN) && !ring.knows(0, 1, TRUSTCHAIN));
}

//= spec/overlay.md#6-discoverycommunity
#[test]
fn a_peer_known_from_discovery_tells_its_other_communities() {
    let mut ring = Ring::new(1);
    let key = SecretKey::generate(&mut Rng::from_seed([79; 32]));
    let introduction = IntroductionRequest {
        destination: address(0),
        source_lan: address(40),
        source_wan: address(40),
        identifier: 1,
        supports_new_style: false,
        wanted: None,
        extra: Vec::new(),
    };
    let packet = sign_packet(&key, DISCOVERY, id::INTRODUCTION_REQUEST, 1, &introduction.encode(Style::Old));
    ring.inject(address(40), address(0), packet.into());
    ring.run(seconds(2));
    let communities = |ring: &Ring| ring.nodes[0].peers().first().map(|peer| peer.communities.clone());
    assert_eq!(communities(&ring), Some(vec![DISCOVERY]));
    let asked = |(_, to, bytes): &(SocketAddr, SocketAddr, Bytes)| {
        *to == address(40) && is(bytes, id::SIMILARITY_REQUEST)
    };
    assert!(ring.sent.iter().any(asked), "it asks the peer for its communities");

    let SocketAddr::V4(v4) = address(40) else { unreachable!("the test world is IPv4") };
    let request = SimilarityRequest {
        identifier: 2,
        lan: v4,
        wan: v4,
        communities: vec![CommunityId([3; 20]), TRUSTCHAIN],
    };
    let packet = sign_packet(&key, DISCOVERY, id::SIMILARITY_REQUEST, 2, &request.encode());
    // From elsewhere it may be a replay and tells nothing.
    ring.inject(address(41), address(0), packet.clone().into());
    ring.run(seconds(1));
    assert_eq!(communities(&ring), Some(vec![DISCOVERY]));
    ring.inject(address(40), address(0), packet.into());
    ring.run(seconds(1));
    assert_eq!(communities(&ring), Some(vec![TRUSTCHAIN, DISCOVERY]));
}

//= spec/overlay.md#7-peer-list-walking-timing
#[test]
fn a_bootstrap_server_introduces_and_never_becomes_a_peer() {
    let mut ring = Ring::with(4, |index, mut config| {
        if index != 0 {
            config.bootstrap = vec![address(0)];
        }
        config
    });
    ring.run(seconds(60));
    for node in 1..4 {
        assert!(!ring.knows(node, 0, TRUSTCHAIN));
        for other in 1..4 {
            assert!(node == other || ring.knows(node, other, TRUSTCHAIN), "{node} does not know {other}");
        }
    }
}

//= spec/overlay.md#51-behaviour
#[test]
fn beyond_the_peer_limit_requests_are_dropped() {
    let mut ring = Ring::with(9, |index, mut config| {
        if index == 0 {
            config.max_peers = 3;
            config.target_peers = 3;
        }
        config
    });
    for node in 1..9 {
        ring.tell(node, address(0));
    }
    ring.run(seconds(20));
    let members = ring.nodes[0].peers().iter().filter(|peer| peer.communities.contains(&TRUSTCHAIN)).count();
    assert_eq!(members, 4);
    assert!(ring.nodes[0].refusals().contains_key("peer limit reached"));
}

//= spec/overlay.md#13-where-we-must-be-better-than-the-reference
#[test]
fn one_source_cannot_use_up_the_signature_checks_of_all() {
    let mut ring = Ring::new(2);
    let key = SecretKey::generate(&mut Rng::from_seed([78; 32]));
    for time in 0..2_000 {
        ring.inject(address(30), address(0), sign_packet(&key, TRUSTCHAIN, 2, time, b"x").into());
    }
    ring.tell(1, address(0));
    ring.run(seconds(1));
    assert!(ring.nodes[0].refusals().contains_key("no budget to check the signature"));
    assert!(ring.knows(0, 1, TRUSTCHAIN));
}
