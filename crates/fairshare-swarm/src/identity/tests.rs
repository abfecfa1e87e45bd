//! The handshake between two ends, what an attacker can do to it, and counts and receipts after it.

use super::*;
use crate::metainfo::InfoHash;
use crate::peer_wire::PeerId;
use bytes::Bytes;
use fairshare_crypto::{EphemeralSecret, PublicKey, Rng, SecretKey, Signature};
use proptest::prelude::*;

fn key(seed: u8) -> SecretKey {
    SecretKey::generate(&mut Rng::from_seed([seed; 32]))
}

fn secrets(seed: u8) -> HelloSecrets {
    HelloSecrets::generate(&mut Rng::from_seed([seed; 32]))
}

fn channel() -> Channel {
    Channel {
        info_hash: InfoHash([1; 20]),
        initiator: PeerId([2; 20]),
        responder: PeerId([3; 20]),
        binding: [0; 32],
    }
}

fn reply(progress: Result<Progress, HandshakeError>) -> Message {
    match progress {
        Ok(Progress::Reply(message)) => message,
        other => panic!("a reply was due, not {other:?}"),
    }
}

fn verified(progress: Result<Progress, HandshakeError>) -> (Option<Message>, Session) {
    match progress {
        Ok(Progress::Verified(message, session)) => (message, *session),
        other => panic!("a session was due, not {other:?}"),
    }
}

fn error(progress: Result<Progress, HandshakeError>) -> HandshakeError {
    progress.expect_err("this must fail")
}

/// Initiator 10 and responder 20 after a handshake, with the messages they sent.
struct Pair {
    initiator: Session,
    responder: Session,
    messages: [Message; 3],
}

fn pair(channel: Channel, seed: u8) -> Pair {
    let (mut left, hello) = Handshake::initiate(channel, &key(10), secrets(seed));
    let mut right = Handshake::respond(channel, &key(20), secrets(seed.wrapping_add(1)));
    let answer = reply(right.receive(&key(20), &hello));
    let (proof, initiator) = verified(left.receive(&key(10), &answer));
    let proof = proof.expect("the initiator proves itself");
    let (nothing, responder) = verified(right.receive(&key(20), &proof));
    assert!(nothing.is_none() && left.is_over() && right.is_over());
    Pair { initiator, responder, messages: [hello, answer, proof] }
}

//= spec/swarm.md#8-identity-extension-fs_identity
//= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r
#[test]
fn both_ends_learn_each_others_key_and_share_a_session() {
    let pair = pair(channel(), 1);
    assert_eq!(pair.initiator.peer(), key(20).public());
    assert_eq!(pair.responder.peer(), key(10).public());
    assert_eq!(pair.initiator.transcript(), pair.responder.transcript());
    let lens = pair.messages.map(|message| message.encode().len());
    assert_eq!(lens, [140, 204, 65]);
}

// Property (a): a recording says nothing on another connection.
#[test]
fn a_replayed_handshake_fails() {
    let [hello, answer, proof] = pair(channel(), 1).messages;
    // Against a responder with fresh values, on the very same channel.
    let mut right = Handshake::respond(channel(), &key(20), secrets(7));
    reply(right.receive(&key(20), &hello));
    assert_eq!(error(right.receive(&key(20), &proof)), HandshakeError::Signature);
    // Against an initiator with fresh values.
    let (mut left, _) = Handshake::initiate(channel(), &key(10), secrets(8));
    assert_eq!(error(left.receive(&key(10), &answer)), HandshakeError::Signature);
    // With equal values, but other peer ids: the connection itself is signed.
    let other = Channel { responder: PeerId([9; 20]), ..channel() };
    let (mut left, _) = Handshake::initiate(other, &key(10), secrets(1));
    assert_eq!(error(left.receive(&key(10), &answer)), HandshakeError::Signature);
}

// Property (b): our own messages sent back to us prove nothing.
#[test]
fn reflected_messages_fail() {
    let (mut left, hello) = Handshake::initiate(channel(), &key(10), secrets(1));
    let Message::Hello(ours) = hello else { panic!("the first message is a hello") };
    let reflected = Message::Answer(ours, Signature([0; 64]));
    assert_eq!(error(left.receive(&key(10), &reflected)), HandshakeError::OwnKey);

    // A thief of our answer gives it back as the answer to our own hello.
    let mut right = Handshake::respond(channel(), &key(10), secrets(2));
    let theirs = Message::Hello(Hello { key: key(30).public(), ..ours });
    let answer = reply(right.receive(&key(10), &theirs));
    let (mut left, _) = Handshake::initiate(channel(), &key(10), secrets(1));
    assert_eq!(error(left.receive(&key(10), &answer)), HandshakeError::OwnKey);

    // The responder's signature under the initiator's role.
    let mut right = Handshake::respond(channel(), &key(20), secrets(2));
    let answer = reply(right.receive(&key(20), &theirs));
    let Message::Answer(_, signature) = answer else { panic!("the second message is an answer") };
    assert_eq!(error(right.receive(&key(20), &Message::Proof(signature))), HandshakeError::Signature);
    assert!(HandshakeError::OwnKey.closes() && !HandshakeError::Signature.closes());
}

// Property (c): the torrent is signed.
#[test]
fn another_torrent_or_encryption_fails() {
    let others = [
        Channel { info_hash: InfoHash([7; 20]), ..channel() },
        Channel { binding: [7; 32], ..channel() },
        Channel { initiator: PeerId([7; 20]), ..channel() },
    ];
    for other in others {
        let (mut left, hello) = Handshake::initiate(channel(), &key(10), secrets(1));
        let mut right = Handshake::respond(other, &key(20), secrets(2));
        let answer = reply(right.receive(&key(20), &hello));
        assert_eq!(error(left.receive(&key(10), &answer)), HandshakeError::Signature);
    }
}

// Property (d): who relays all three messages has no key to seal or sign with.
#[test]
fn a_relay_of_the_handshake_can_make_no_count_and_no_receipt() {
    let mut pair = pair(channel(), 1);
    let totals = Totals { verified: 1, accepted: 1, sent: 0 };
    let forged = Count::seal(&[0; 32], 1, totals);
    assert_eq!(pair.responder.accept_count(&forged, 100), Err(CountFault::Forged));
    // The count of one direction does not pass in the other.
    let count = pair.responder.count(totals);
    assert_eq!(pair.responder.accept_count(&count, 100), Err(CountFault::Forged));
    // A changed number breaks the seal, a changed receipt the signature.
    let mut count = pair.initiator.count(totals);
    count.totals.accepted = 2;
    assert_eq!(pair.responder.accept_count(&count, 100), Err(CountFault::Forged));
    let mut receipt = pair.initiator.receipt(&key(10), 1, 5);
    receipt.verified = 2;
    assert_eq!(pair.responder.accept_receipt(&receipt, &key(20).public(), 100), Err(CountFault::Forged));
    assert_eq!(pair.responder.reported(), Totals::default());
}

#[test]
fn every_message_out_of_turn_ends_the_run() {
    let messages = pair(channel(), 1).messages;
    let repeated = [&messages[0], &messages[0]];
    let mut right = Handshake::respond(channel(), &key(20), secrets(2));
    reply(right.receive(&key(20), repeated[0]));
    assert_eq!(error(right.receive(&key(20), repeated[1])), HandshakeError::OutOfTurn);
    assert_eq!(error(right.receive(&key(20), &messages[2])), HandshakeError::OutOfTurn);
    for early in &messages[1..] {
        let mut right = Handshake::respond(channel(), &key(20), secrets(2));
        assert_eq!(error(right.receive(&key(20), early)), HandshakeError::OutOfTurn);
    }
    for wrong in [&messages[0], &messages[2]] {
        let (mut left, _) = Handshake::initiate(channel(), &key(10), secrets(1));
        assert_eq!(error(left.receive(&key(10), wrong)), HandshakeError::OutOfTurn);
    }
}

#[test]
fn bad_keys_are_refused_before_anything_is_revealed() {
    let respond = |hello: Hello| {
        Handshake::respond(channel(), &key(20), secrets(2)).receive(&key(20), &Message::Hello(hello))
    };
    let good = Hello { nonce: [1; 32], ephemeral: secrets(1).ephemeral.public(), key: key(10).public() };
    assert!(respond(good).is_ok());
    assert_eq!(error(respond(Hello { key: key(20).public(), ..good })), HandshakeError::OwnKey);
    let no_key = PublicKey::from_bytes([0; 74]);
    assert_eq!(error(respond(Hello { key: no_key, ..good })), HandshakeError::KeyForm);
    assert_eq!(error(respond(Hello { ephemeral: [0; 32], ..good })), HandshakeError::Agreement);
}

//= spec/swarm.md#83-counts-and-exposure
#[test]
fn counts_and_receipts_share_one_ascending_number_and_only_grow() {
    let Pair { mut initiator, mut responder, .. } = pair(channel(), 1);
    let us = key(20).public();
    let totals = |verified, accepted| Totals { verified, accepted, sent: 5 };
    let first = initiator.count(totals(10, 20));
    let receipt = initiator.receipt(&key(10), 30, 1_000);
    let third = initiator.count(totals(30, 40));
    assert_eq!((first.sequence, receipt.sequence, third.sequence), (1, 2, 3));

    assert_eq!(responder.accept_count(&first, 100), Ok(totals(10, 20)));
    assert_eq!(responder.accept_count(&first, 100), Err(CountFault::Sequence { got: 1, last: 1 }));
    assert_eq!(responder.accept_receipt(&receipt, &us, 100), Ok(totals(30, 30)));
    assert_eq!(responder.accept_receipt(&receipt, &us, 100), Err(CountFault::Sequence { got: 2, last: 2 }));
    assert_eq!(responder.accept_count(&third, 100), Ok(totals(30, 40)));
    for (wrong, fault) in [
        (totals(29, 40), CountFault::Shrank),
        (totals(30, 39), CountFault::Shrank),
        (Totals { sent: 4, ..totals(30, 40) }, CountFault::Shrank),
        (totals(41, 40), CountFault::Order { verified: 41, accepted: 40 }),
        (totals(30, 101), CountFault::Invented { acknowledged: 101, sent: 100 }),
    ] {
        let count = initiator.count(wrong);
        assert_eq!(responder.accept_count(&count, 100), Err(fault));
    }
    assert_eq!(responder.reported(), totals(30, 40));
}

//= spec/swarm.md#83-counts-and-exposure
#[test]
fn a_receipt_counts_only_for_its_uploader_session_and_torrent() {
    let Pair { mut initiator, mut responder, .. } = pair(channel(), 1);
    let us = key(20).public();
    let good = initiator.receipt(&key(10), 7, 1_000);
    let others = [
        Receipt { uploader: key(30).public(), ..good }.signed(&key(10)),
        Receipt { session: Transcript([0; 32]), ..good }.signed(&key(10)),
        Receipt { info_hash: InfoHash([9; 20]), ..good }.signed(&key(10)),
    ];
    for other in others {
        assert!(other.is_signed_by(&key(10).public()));
        assert_eq!(responder.accept_receipt(&other, &us, 100), Err(CountFault::OtherSession));
    }
    let invented = Receipt { verified: 101, ..good }.signed(&key(10));
    let fault = CountFault::Invented { acknowledged: 101, sent: 100 };
    assert_eq!(responder.accept_receipt(&invented, &us, 100), Err(fault));
    assert!(responder.accept_receipt(&good, &us, 100).is_ok());
}

//= spec/swarm.md#83-counts-and-exposure
#[test]
fn a_disagreement_needs_two_percent_of_at_least_64_mib() {
    const MIB: u64 = 1 << 20;
    assert!(!counts_disagree(63 * MIB, 0, 0));
    assert!(counts_disagree(100 * MIB, 97 * MIB, 0));
    assert!(!counts_disagree(100 * MIB, 98 * MIB, 0));
    assert!(!counts_disagree(100 * MIB, 90 * MIB, 9 * MIB));
    assert!(counts_disagree(100 * MIB, u64::MAX, u64::MAX));
}

//= spec/swarm.md#84-settlement-and-evidence-on-the-connection
#[test]
fn a_refusal_has_13_or_65_bytes_of_body() {
    let details = RefusalDetails { seen_number: 0, seen_hash: [0; 32], flow: -5, need: 6 };
    let refusal =
        Refusal { reason: RefusalReason::StrangerLimit, missing: 6, retry_s: 60, details: Some(details) };
    let long = Message::Refused(refusal).encode();
    assert_eq!(long.len(), 66);
    assert_eq!(Message::parse(&long), Ok(Some(Message::Refused(refusal))));
    let short = Refusal { details: None, ..refusal };
    assert_eq!(Message::parse(&long.slice(..14)), Ok(Some(Message::Refused(short))));
    for len in (1..14).chain(15..66) {
        assert!(Message::parse(&long.slice(..len)).is_err(), "{len} bytes");
    }
    for code in 0..=255 {
        let mut changed = long.to_vec();
        changed[1] = code;
        let parsed = Message::parse(&changed.clone().into()).expect("well formed").expect("known");
        assert_eq!(parsed.encode(), changed);
    }
}

//= spec/swarm.md#84-settlement-and-evidence-on-the-connection
#[test]
fn a_grant_must_cover_its_room_at_its_price() {
    let grant = |price, room, own| GrantMessage { number: 1, price, room, own, via: Vec::new() };
    for good in
        [grant(65_536, 10, 10), grant(8_192, 16, 2), grant(8_192, 17, 3), grant(65_536, u64::MAX, u64::MAX)]
    {
        assert_eq!(Message::parse(&Message::Grant(good.clone()).encode()), Ok(Some(Message::Grant(good))));
    }
    let unnumbered = GrantMessage { number: 0, ..grant(65_536, 1, 1) };
    for bad in
        [grant(65_537, 0, 0), grant(8_191, 0, 0), grant(65_536, 11, 10), grant(8_192, 17, 2), unnumbered]
    {
        assert_eq!(Message::parse(&Message::Grant(bad).encode()), Err(MessageError::Grant));
    }
    let via = vec![(key(1).public(), u64::MAX); MAX_VIA];
    let shared = GrantMessage { via, ..grant(65_536, u64::MAX, 0) };
    assert_eq!(
        Message::parse(&Message::Grant(shared.clone()).encode()),
        Ok(Some(Message::Grant(shared.clone())))
    );
    let mut nine = Message::Grant(shared).encode().to_vec();
    nine[25] = 9;
    assert_eq!(Message::parse(&nine.into()), Err(MessageError::Grant));
}

#[test]
fn unknown_types_are_ignored_and_other_versions_named() {
    for unknown in [0, 10, 11, 14, 255] {
        assert_eq!(Message::parse(&Bytes::from(vec![unknown, 1, 2])), Ok(None));
    }
    let mut hello =
        Message::Hello(Hello { nonce: [0; 32], ephemeral: [0; 32], key: key(1).public() }).encode().to_vec();
    hello[1] = 2;
    assert_eq!(Message::parse(&hello.into()), Err(MessageError::Version(2)));
    assert!(Message::parse(&Bytes::new()).is_err());
}

/// One message of every type.
fn samples() -> Vec<Message> {
    let Pair { mut initiator, messages, .. } = pair(channel(), 1);
    let mut samples = messages.to_vec();
    samples.extend([
        Message::Count(initiator.count(Totals { verified: 1, accepted: 2, sent: 3 })),
        Message::Receipt(initiator.receipt(&key(10), 1, 2)),
        Message::ReceiptRequest,
        Message::Bye,
        Message::Block(Bytes::from_static(b"half block")),
        Message::Grant(GrantMessage {
            number: 1,
            price: 65_536,
            room: 1,
            own: 1,
            via: vec![(key(1).public(), 1)],
        }),
        Message::Freed(Freed { number: 1, used: 2 }),
    ]);
    samples
}

#[test]
fn every_message_is_read_back_and_no_cut_or_longer_one() {
    for message in samples() {
        let bytes = message.encode();
        assert_eq!(Message::parse(&bytes), Ok(Some(message.clone())));
        for len in 0..bytes.len() {
            assert!(Message::parse(&bytes.slice(..len)).is_err(), "{len} bytes of {message:?}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Message::parse(&longer.into()).is_err(), "one byte more than {message:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = Bytes::from(bytes);
        if let Ok(Some(message)) = Message::parse(&bytes) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn changed_messages_are_read_or_refused(sample in 0usize..10, at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let samples = samples();
        let mut bytes = samples[sample].encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(Some(message)) = Message::parse(&bytes.clone().into()) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn every_changed_bit_of_a_handshake_makes_it_fail(
        which in 0usize..3,
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let change = |number: usize, message: Message| {
            let mut bytes = message.encode().to_vec();
            if number == which {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Message::parse(&bytes.into()).ok().flatten()
        };
        let (mut left, hello) = Handshake::initiate(channel(), &key(10), secrets(1));
        let mut right = Handshake::respond(channel(), &key(20), secrets(2));
        let run = || -> Option<(Box<Session>, Box<Session>)> {
            let Ok(Progress::Reply(answer)) = right.receive(&key(20), &change(0, hello)?) else { return None };
            let Ok(Progress::Verified(proof, initiator)) = left.receive(&key(10), &change(1, answer)?) else {
                return None;
            };
            let Ok(Progress::Verified(_, responder)) = right.receive(&key(20), &change(2, proof?)?) else {
                return None;
            };
            Some((initiator, responder))
        };
        prop_assert!(run().is_none());
    }
}

/// The published values of the specification's vectors.
//= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r
#[test]
fn two_ends_with_the_secrets_of_the_vectors_say_the_bytes_of_the_vectors() {
    let text = include_str!("../../../../tests/vectors/swarm.json");
    let field = |name: &str| {
        let section = text.split("\"fs_identity\"").nth(1).expect("the section is there");
        let rest = section.split(&format!("\"{name}\": \"")).nth(1).expect("the field is there");
        hex::decode(rest.split('"').next().expect("the value ends")).expect("hexadecimal")
    };
    let array = |name: &str| -> [u8; 32] { field(name).try_into().expect("32 bytes") };
    let secret = |encryption: std::ops::Range<u8>, seed: &str| {
        let halves: Vec<u8> = encryption.chain(field(seed)).collect();
        SecretKey::try_from([b"LibNaCLSK:".as_slice(), &halves].concat().as_slice()).expect("74 bytes")
    };
    // The vectors give the signing seeds; the encryption halves are the bytes that count up to them.
    let (left_key, right_key) = (secret(0..32, "ed25519_seed_I"), secret(64..96, "ed25519_seed_R"));
    let channel = Channel {
        info_hash: InfoHash(field("info_hash")[..].try_into().expect("20 bytes")),
        initiator: PeerId(field("peer_id_I")[..].try_into().expect("20 bytes")),
        responder: PeerId(field("peer_id_R")[..].try_into().expect("20 bytes")),
        binding: array("cb"),
    };
    let secrets = |nonce, ephemeral| HelloSecrets {
        nonce: array(nonce),
        ephemeral: EphemeralSecret::from_bytes(array(ephemeral)),
    };
    let (mut left, hello) = Handshake::initiate(channel, &left_key, secrets("nI", "eI_private"));
    assert_eq!(hello.encode(), field("H1"));
    let mut right = Handshake::respond(channel, &right_key, secrets("nR", "eR_private"));
    let answer = reply(right.receive(&right_key, &hello));
    assert_eq!(answer.encode(), field("H2"));
    let (proof, initiator) = verified(left.receive(&left_key, &answer));
    let proof = proof.expect("a proof");
    assert_eq!(proof.encode(), field("H3"));
    let (_, responder) = verified(right.receive(&right_key, &proof));
    assert_eq!((initiator.transcript().0, responder.transcript().0), (array("T"), array("T")));
    let totals = Totals { verified: 1 << 20, accepted: (1 << 20) + (1 << 16), sent: 0 };
    assert_eq!(Message::Count(Count::seal(&array("K_I"), 7, totals)).encode(), field("count_from_I"));
}
