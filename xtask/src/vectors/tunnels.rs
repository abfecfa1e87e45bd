//! tunnels.json: key exchanges, layers, messages and names of circuits, as py-ipv8 3.2.1 writes them.

use super::{Cases, bytes_of, expect_bytes};
use fairshare_crypto::{COUNTER_LEN, CellKey, PublicKey, SecretKey};
use fairshare_tunnel::exit_policy::Looks;
use fairshare_tunnel::handshake::{HopKeys, Initiator, hop_keys, respond_with};
use fairshare_tunnel::hidden_names::{address_circuit, circuit_address, lookup_hash, pex_community};
use fairshare_tunnel::wire::{
    Body, CELL_HEADER_LEN, CandidateList, CellHeader, Destroy, DestroyReason, Exchange, IntroductionInfo,
    IntroductionSource, IntroductionValue, Message, RendezvousInfo, id, read_bare, read_seeder_keys,
    write_bare, write_seeder_keys,
};
use fairshare_tunnel::{CircuitId, Flags, relay_early};
use fairshare_wire::{Address, CommunityId};
use serde_json::Value;
use std::net::SocketAddr;

type Judge = fn(&File, &Value) -> Result<(), String>;

const SECTIONS: [(&str, Judge); 16] = [
    ("handshakes", handshake),
    ("payloads", payload),
    ("destroy_packets", destroy),
    ("peer_flags", flags),
    ("cells", cells),
    ("relay_steps", relay_step),
    ("relay_early", early),
    ("e2e_cells", end_to_end),
    ("rp_info", rendezvous),
    ("exit_policy", exit_policy),
    ("dht_intro_point", introduction),
    ("lookup_infohash", lookup),
    ("pex_community_id", exchange_community),
    ("pex_extra_bytes", exchange_extra),
    ("circuit_address", address),
    ("decrypt_cases", decrypt),
];

/// What is no section.
const ABOUT: [&str; 4] = ["made_with", "set", "prefix", "note"];

/// What all cases of a file share.
struct File {
    community: CommunityId,
}

/// Checks a file of this part.
pub(super) fn check(name: &str, file: &Value) -> Option<Cases> {
    if name != "tunnels.json" {
        return None;
    }
    let Some(sections) = file.as_object() else { return Some(vec![Err("not an object".to_owned())]) };
    let shared = match prefix(file) {
        Ok(community) => File { community },
        Err(reason) => return Some(vec![Err(reason)]),
    };
    let mut cases = Vec::new();
    for (section, value) in sections.iter().filter(|(section, _)| !ABOUT.contains(&section.as_str())) {
        let Some((_, judge)) = SECTIONS.iter().find(|(known, _)| known == section) else {
            cases.push(Err(format!("unknown section {section}")));
            continue;
        };
        // A section holds one case or a list of them; the ways of decrypting share one key.
        let inner = value.get("cases").and_then(Value::as_array).map(|list| (list, value));
        let list = match inner {
            Some((list, keys)) => list.iter().map(|case| merged(keys, case)).collect(),
            None => value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]),
        };
        cases.extend(list.iter().map(|case| judge(&shared, case).map_err(|why| format!("{section}: {why}"))));
    }
    let missing = SECTIONS.iter().filter(|(section, _)| !sections.contains_key(*section));
    cases.extend(missing.map(|(section, _)| Err(format!("no section {section}"))));
    Some(cases)
}

fn prefix(file: &Value) -> Result<CommunityId, String> {
    let bytes = bytes_of(file, "prefix")?;
    let id = bytes.get(2..).and_then(|id| id.try_into().ok()).ok_or("the prefix has another length")?;
    Ok(CommunityId(id))
}

fn merged(keys: &Value, case: &Value) -> Value {
    let mut merged = case.clone();
    for (field, value) in keys.as_object().into_iter().flatten().filter(|(field, _)| *field != "cases") {
        merged[field] = value.clone();
    }
    merged
}

// ---- fields ----

fn text<'a>(case: &'a Value, field: &str) -> Result<&'a str, String> {
    case.get(field).and_then(Value::as_str).ok_or_else(|| format!("no text field {field}"))
}

fn number<T: TryFrom<u64>>(case: &Value, field: &str) -> Result<T, String> {
    let number = case.get(field).and_then(Value::as_u64).ok_or_else(|| format!("no number {field}"))?;
    T::try_from(number).map_err(|_| format!("{field} is too large"))
}

fn flag(case: &Value, field: &str) -> Result<bool, String> {
    case.get(field).and_then(Value::as_bool).ok_or_else(|| format!("no true or false {field}"))
}

fn array<const N: usize>(case: &Value, field: &str) -> Result<[u8; N], String> {
    bytes_of(case, field)?.try_into().map_err(|_| format!("{field} has another length than {N}"))
}

fn key(case: &Value, field: &str) -> Result<PublicKey, String> {
    PublicKey::try_from(bytes_of(case, field)?.as_slice()).map_err(|error| format!("{field}: {error}"))
}

fn list<'a>(case: &'a Value, field: &str) -> Result<&'a Vec<Value>, String> {
    case.get(field).and_then(Value::as_array).ok_or_else(|| format!("no list {field}"))
}

fn keys(case: &Value, field: &str) -> Result<Vec<PublicKey>, String> {
    list(case, field)?
        .iter()
        .map(|text| text.as_str().unwrap_or_default().parse().map_err(|_| format!("{field} holds no key")))
        .collect()
}

fn socket(case: &Value, field: &str) -> Result<SocketAddr, String> {
    text(case, field)?.parse().map_err(|_| format!("{field} is no address"))
}

/// An address or a host name with its port.
fn any_address(case: &Value, field: &str) -> Result<Address, String> {
    let given = text(case, field)?;
    if let Ok(address) = given.parse() {
        return Ok(Address::Ip(address));
    }
    let (host, port) = given.rsplit_once(':').ok_or_else(|| format!("{field} has no port"))?;
    Ok(Address::Host(host.to_owned(), port.parse().map_err(|_| format!("{field} has no port"))?))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, wanted: T, came: T) -> Result<(), String> {
    if wanted == came { Ok(()) } else { Err(format!("{what}: wanted {wanted:?}, came {came:?}")) }
}

fn seal(key: &CellKey, n: u64, message: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; COUNTER_LEN];
    buf.extend_from_slice(message);
    key.seal(n, &mut buf, 0);
    buf
}

fn open(key: &CellKey, sealed: &[u8]) -> Result<(u64, Vec<u8>), String> {
    let mut buf = sealed.to_vec();
    key.open(&mut buf)
        .map(|opened| (opened.n, opened.plain.to_vec()))
        .ok_or_else(|| "does not open".to_owned())
}

fn counter(sealed: &[u8]) -> Result<u64, String> {
    let head = sealed.first_chunk::<COUNTER_LEN>().ok_or("too short for a counter")?;
    Ok(u64::from_be_bytes(*head))
}

fn cell(datagram: &[u8]) -> Result<(CellHeader, &[u8]), String> {
    CellHeader::parse(datagram).map_err(|error| error.to_string())
}

// ---- sections ----

//= spec/tunnels.md#3-key-exchange
fn handshake(_: &File, case: &Value) -> Result<(), String> {
    let initiator = Initiator::from_secret(array(case, "originator_ephemeral_secret")?);
    let x: [u8; 32] = array(case, "X")?;
    expect_bytes("X", &x, &initiator.point())?;
    let secret = SecretKey::try_from(bytes_of(case, "responder_static_key_bin")?.as_slice());
    let secret = secret.map_err(|error| error.to_string())?;
    let public = key(case, "responder_public_key_bin")?;
    same("public key", public, secret.public())?;
    expect_bytes("B", &bytes_of(case, "B")?, &public.encryption_half())?;
    let response = respond_with(&secret, array(case, "responder_ephemeral_secret")?, &x)
        .map_err(|error| error.to_string())?;
    expect_bytes("Y", &bytes_of(case, "Y")?, &response.point)?;
    expect_bytes("auth", &bytes_of(case, "auth")?, &response.auth)?;
    expect_bytes("shared secret", &bytes_of(case, "shared_secret")?, &response.shared)?;
    let shared = initiator.shared_secret(&public, &response.point, &response.auth);
    same("shared secret of the originator", Ok(response.shared), shared)?;
    let mut tampered = response.auth;
    tampered[0] ^= 1;
    if initiator.shared_secret(&public, &response.point, &tampered).is_ok() {
        return Err("a changed proof is taken".to_owned());
    }
    hop_keys_are(case, &response.shared)?;
    candidates(case, &response.shared)
}

fn hop_keys_are(case: &Value, shared: &[u8; 64]) -> Result<(), String> {
    keys_are(case, &hop_keys(shared))
}

/// The keys themselves are not shown by the crate: equal keys seal equally.
fn keys_are(case: &Value, keys: &HopKeys) -> Result<(), String> {
    let given = |name: &str| -> Result<CellKey, String> {
        Ok(CellKey::new(&array(case, &format!("key_{name}"))?, array(case, &format!("salt_{name}"))?))
    };
    expect_bytes("forward key", &seal(&given("forward")?, 7, b"probe"), &seal(&keys.forward, 7, b"probe"))?;
    expect_bytes("backward key", &seal(&given("backward")?, 7, b"probe"), &seal(&keys.backward, 7, b"probe"))
}

//= spec/tunnels.md#5-building-a-circuit
fn candidates(case: &Value, shared: &[u8; 64]) -> Result<(), String> {
    let bin = bytes_of(case, "candidates_bin")?;
    let told = keys(case, "candidates")?;
    let list = CandidateList::parse(&bin).map_err(|error| error.to_string())?;
    let doubled = list.exits.first();
    let flat: Vec<PublicKey> = list.relays.iter().chain(doubled).chain(&list.exits).copied().collect();
    same("candidates", told, flat)?;
    expect_bytes("candidates_bin", &bin, &list.to_bytes())?;
    let n = number(case, "candidates_explicit_nonce")?;
    expect_bytes(
        "candidates_enc",
        &bytes_of(case, "candidates_enc")?,
        &seal(&hop_keys(shared).forward, n, &bin),
    )
}

//= spec/tunnels.md#message-ids-py-ipv8-210--321
fn payload(file: &File, case: &Value) -> Result<(), String> {
    let kind: u8 = number(case, "msg_id")?;
    if kind == id::DESTROY {
        return destroy_payload(case);
    }
    let message = message(kind, case)?;
    let circuit = case.get("circuit_id").map(|_| number::<u32>(case, "circuit_id")).transpose()?;
    let bytes = message.to_bytes();
    let body = &bytes[1..];
    let head = circuit.map(u32::to_be_bytes);
    let packed = [head.as_ref().map_or(&[] as &[u8], |head| head), body].concat();
    expect_bytes("packed", &bytes_of(case, "packed")?, &packed)?;
    if case.get("cell_message").is_some() {
        let wanted = bytes_of(case, "cell_message")?;
        expect_bytes("cell_message", &wanted, &bytes)?;
        let parsed = Message::parse(&wanted).map_err(|error| error.to_string())?;
        same("parsed", Some(message.clone()), parsed)?;
    }
    let packet = [[0, 2].as_slice(), &file.community.0, &[kind], &packed].concat();
    for field in ["packet_form", "packet"].iter().filter(|field| case.get(**field).is_some()) {
        expect_bytes(field, &bytes_of(case, field)?, &packet)?;
    }
    bare(file, case, &message, circuit)?;
    if case.get("cell_on_the_wire").is_some() {
        let wire = bytes_of(case, "cell_on_the_wire")?;
        let (header, inside) = cell(&wire)?;
        expect_bytes("message of the cell", inside, &bytes)?;
        same("circuit", circuit, Some(header.circuit.0))?;
        if !header.plaintext {
            return Err("the cell is not in the clear".to_owned());
        }
        expect_bytes("cell", &wire, &[header.to_bytes().as_slice(), &bytes].concat())?;
    }
    Ok(())
}

/// Packets that travel outside cells, both ways.
fn bare(file: &File, case: &Value, message: &Message, circuit: Option<u32>) -> Result<(), String> {
    let service = [id::CREATE_E2E, id::CREATED_E2E, id::PEERS_REQUEST, id::PEERS_RESPONSE];
    if !service.contains(&message.id()) {
        return Ok(());
    }
    let wire = write_bare(file.community, message, circuit);
    let field = if case.get("packet").is_some() { "packet" } else { "packet_form" };
    expect_bytes(field, &bytes_of(case, field)?, &wire)?;
    let read = read_bare(&wire, &file.community).map_err(|error| error.to_string())?;
    same("read again", Some((message.clone(), circuit)), read)
}

fn destroy_payload(case: &Value) -> Result<(), String> {
    let (circuit, reason): (u32, u16) = (number(case, "circuit_id")?, number(&case["fields"], "reason")?);
    let packed = [circuit.to_be_bytes().as_slice(), &reason.to_be_bytes()].concat();
    expect_bytes("packed", &bytes_of(case, "packed")?, &packed)
}

fn exchange(case: &Value, rest: &str) -> Result<Exchange, String> {
    let fields = &case["fields"];
    Ok(Exchange {
        ident: number(case, "identifier")?,
        point: array(fields, "key")?,
        auth: array(fields, "auth")?,
        candidates: bytes_of(fields, rest)?.into(),
    })
}

fn message(kind: u8, case: &Value) -> Result<Message, String> {
    let fields = &case["fields"];
    let ident = || number(case, "identifier");
    Ok(match kind {
        id::DATA => Message::Data(Body {
            destination: any_address(fields, "dest")?,
            origin: any_address(fields, "org")?,
            data: bytes_of(fields, "data")?.into(),
        }),
        id::CREATE => Message::Create {
            ident: ident()?,
            key: key(fields, "node_public_key")?,
            point: array(fields, "key")?,
        },
        id::CREATED => Message::Created(exchange(case, "candidates_enc")?),
        id::EXTEND => Message::Extend {
            ident: ident()?,
            key: key(fields, "node_public_key")?,
            point: array(fields, "key")?,
            address: socket(fields, "node_addr")?,
        },
        id::EXTENDED => Message::Extended(exchange(case, "candidates_enc")?),
        id::PING => Message::Ping { ident: ident()? },
        id::PONG => Message::Pong { ident: ident()? },
        id::CREATE_E2E => Message::CreateE2e {
            ident: ident()?,
            info_hash: array(fields, "info_hash")?,
            seeder: key(fields, "node_public_key")?,
            point: array(fields, "key")?,
        },
        id::CREATED_E2E => Message::CreatedE2e(exchange(case, "rp_info_enc")?),
        kind => service_message(kind, case)?,
    })
}

fn service_message(kind: u8, case: &Value) -> Result<Message, String> {
    let fields = &case["fields"];
    let ident = || number(case, "identifier");
    Ok(match kind {
        id::ESTABLISH_INTRO => Message::EstablishIntro {
            ident: ident()?,
            info_hash: array(fields, "info_hash")?,
            seeder: key(fields, "public_key")?,
        },
        id::INTRO_ESTABLISHED => Message::IntroEstablished { ident: ident()? },
        id::ESTABLISH_RENDEZVOUS => {
            Message::EstablishRendezvous { ident: ident()?, cookie: array(fields, "cookie")? }
        }
        id::RENDEZVOUS_ESTABLISHED => {
            Message::RendezvousEstablished { ident: ident()?, address: socket(fields, "address")? }
        }
        id::LINK_E2E => Message::LinkE2e { ident: ident()?, cookie: array(fields, "cookie")? },
        id::LINKED_E2E => Message::LinkedE2e { ident: ident()? },
        id::PEERS_REQUEST => {
            Message::PeersRequest { ident: ident()?, info_hash: array(fields, "info_hash")? }
        }
        id::PEERS_RESPONSE => Message::PeersResponse {
            ident: ident()?,
            info_hash: array(fields, "info_hash")?,
            peers: list(fields, "peers")?.iter().map(peer).collect::<Result<_, _>>()?,
        },
        id::TEST_REQUEST => Message::TestRequest {
            ident: ident()?,
            response_size: number(fields, "response_size")?,
            data: bytes_of(fields, "data")?.into(),
        },
        id::TEST_RESPONSE => {
            Message::TestResponse { ident: ident()?, data: bytes_of(fields, "data")?.into() }
        }
        id::HTTP_REQUEST => Message::HttpRequest {
            ident: number(case, "identifier")?,
            target: any_address(fields, "target")?,
            request: bytes_of(fields, "request")?.into(),
        },
        id::HTTP_RESPONSE => Message::HttpResponse {
            ident: number(case, "identifier")?,
            part: number(fields, "part")?,
            total: number(fields, "total")?,
            response: bytes_of(fields, "response")?.into(),
        },
        other => return Err(format!("unknown message {other}")),
    })
}

fn peer(case: &Value) -> Result<IntroductionInfo, String> {
    Ok(IntroductionInfo {
        address: socket(case, "address")?,
        point: key(case, "key")?,
        seeder: key(case, "seeder_pk")?,
        source: IntroductionSource(number(case, "source")?),
    })
}

//= spec/tunnels.md#8-destroy
fn destroy(file: &File, case: &Value) -> Result<(), String> {
    let secret = SecretKey::try_from(bytes_of(case, "signer_key_bin")?.as_slice());
    let secret = secret.map_err(|error| error.to_string())?;
    same("signer", key(case, "signer_public_key_bin")?, secret.public())?;
    let (circuit, reason) = (CircuitId(number(case, "circuit_id")?), DestroyReason(number(case, "reason")?));
    let packet = Destroy::sign(&secret, file.community, circuit, reason);
    expect_bytes("packet", &bytes_of(case, "packet")?, &packet)?;
    let signed = packet.get(..packet.len().saturating_sub(64)).unwrap_or(&[]);
    expect_bytes("signed bytes", &bytes_of(case, "signed_bytes")?, signed)?;
    let parsed = Destroy::parse(&packet).map_err(|error| error.to_string())?;
    same("parsed", Destroy { signer: secret.public(), circuit, reason }, parsed)
}

//= spec/tunnels.md#1-identities-prefix-peer-flags
fn flags(_: &File, case: &Value) -> Result<(), String> {
    let set = list(case, "flags")?.iter().filter_map(Value::as_u64).fold(0, |all, flag| all | flag);
    let set = Flags(u16::try_from(set).map_err(|_| "a flag is too large")?);
    let extra = bytes_of(case, "extra_bytes")?;
    expect_bytes("extra bytes", &extra, &set.to_extra())?;
    same("flags", Some(set), Flags::from_extra(&extra))
}

fn secrets(case: &Value) -> Result<Vec<HopKeys>, String> {
    let secret = |text: &Value| -> Result<HopKeys, String> {
        let bytes = hex::decode(text.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
        Ok(hop_keys(&bytes.try_into().map_err(|_| "a shared secret has another length")?))
    };
    list(case, "hop_shared_secrets")?.iter().map(secret).collect()
}

//= spec/tunnels.md#4-encryption-of-a-layer
fn cells(file: &File, case: &Value) -> Result<(), String> {
    let hops = secrets(case)?;
    same("layers", number::<usize>(case, "layers")?, hops.len())?;
    let given = list(case, "hop_keys")?;
    same("key sets", given.len(), hops.len())?;
    given.iter().zip(&hops).try_for_each(|(given, hop)| keys_are(given, hop))?;
    match text(case, "direction")? {
        "forward" => forward(file, case, &hops),
        "backward" => backward(case, &hops),
        other => Err(format!("unknown direction {other}")),
    }
}

fn forward(file: &File, case: &Value, hops: &[HopKeys]) -> Result<(), String> {
    let message = bytes_of(case, "message")?;
    // In these cases every counter begins at its first value.
    let sealed = hops.iter().rev().fold(message.clone(), |inner, hop| seal(&hop.forward, 2, &inner));
    let circuit: u32 = number(case, "circuit_id_seen_by_originator")?;
    let early = number::<u32>(case, "relay_early_count_before")? < 8;
    let header = |circuit| CellHeader {
        community: file.community,
        circuit: CircuitId(circuit),
        plaintext: false,
        relay_early: early,
    };
    let wire = [header(circuit).to_bytes().as_slice(), &sealed].concat();
    expect_bytes("wire_from_originator", &bytes_of(case, "wire_from_originator")?, &wire)?;
    let mut inside = sealed;
    for (step, (hop, number)) in list(case, "steps")?.iter().zip(hops.iter().zip(0u32..)) {
        let received = [header(circuit.wrapping_add(number)).to_bytes().as_slice(), &inside].concat();
        expect_bytes("received", &bytes_of(step, "received")?, &received)?;
        let (n, plain) = open(&hop.forward, &inside)?;
        same("counter", self::number(step, "explicit_nonce")?, n)?;
        expect_bytes("plain", &bytes_of(step, "message_after_removing_layer")?, &plain)?;
        inside = plain;
    }
    expect_bytes("message", &message, &inside)
}

fn backward(case: &Value, hops: &[HopKeys]) -> Result<(), String> {
    let mut inside = bytes_of(case, "message")?;
    for step in list(case, "layers_in_order")? {
        let hop: usize = number(step, "layer_added_by_hop")?;
        let hop = hop.checked_sub(1).and_then(|at| hops.get(at)).ok_or("no such hop")?;
        inside = seal(&hop.backward, number(step, "explicit_nonce")?, &inside);
        expect_bytes("layer", &bytes_of(step, "message")?, &inside)?;
    }
    let wire = bytes_of(case, "wire_to_originator")?;
    let (header, sealed) = cell(&wire)?;
    same("circuit", number(case, "circuit_id")?, header.circuit.0)?;
    expect_bytes("sealed", sealed, &inside)?;
    expect_bytes("header", &wire[..CELL_HEADER_LEN], &header.to_bytes())?;
    let mut plain = sealed.to_vec();
    for hop in hops {
        plain = open(&hop.backward, &plain)?.1;
    }
    expect_bytes("message", &bytes_of(case, "message")?, &plain)
}

//= spec/tunnels.md#4-encryption-of-a-layer
fn relay_step(_: &File, case: &Value) -> Result<(), String> {
    let (came, goes) = (bytes_of(case, "in")?, bytes_of(case, "out")?);
    let ((header, sealed), (_, wanted)) = (cell(&came)?, cell(&goes)?);
    same("circuit", number(case, "in_circuit")?, header.circuit.0)?;
    let direction = text(case, "direction")?;
    let secret = |field: &str| -> Result<HopKeys, String> { Ok(hop_keys(&array(case, field)?)) };
    if case.get("key_forward").is_some() {
        keys_are(case, &secret("shared_secret")?)?;
    }
    let (message, early) = if direction.starts_with("forward") {
        (open(&secret("shared_secret")?.forward, sealed)?.1, header.relay_early)
    } else if direction.starts_with("backward") {
        (seal(&secret("shared_secret")?.backward, counter(wanted)?, sealed), header.relay_early)
    } else if direction.starts_with("rendezvous") {
        let plain = open(&secret("shared_secret_a")?.forward, sealed)?.1;
        (seal(&secret("shared_secret_b")?.backward, counter(wanted)?, &plain), false)
    } else {
        return Err(format!("unknown direction {direction}"));
    };
    let circuit = CircuitId(number(case, "out_circuit")?);
    let out = CellHeader { circuit, relay_early: early, ..header };
    expect_bytes("out", &goes, &[out.to_bytes().as_slice(), &message].concat())
}

//= spec/tunnels.md#relay_early
fn early(_: &File, case: &Value) -> Result<(), String> {
    let (passes, after) = relay_early(number(case, "count_before")?, flag(case, "relay_early_flag")?);
    same("forwarded", flag(case, "forwarded")?, passes)?;
    same("count", number(case, "count_after")?, after)
}

//= spec/tunnels.md#9-hidden-services
fn end_to_end(_: &File, case: &Value) -> Result<(), String> {
    let hop = hop_keys(&array(case, "hop_shared_secret")?);
    let both = hop_keys(&array(case, "hs_shared_secret")?);
    let wire = bytes_of(case, "wire")?;
    let (header, sealed) = cell(&wire)?;
    let inner = match text(case, "e2e_direction")? {
        "forward" => &both.forward,
        "backward" => &both.backward,
        other => return Err(format!("unknown direction {other}")),
    };
    let (outer_counter, middle) = open(&hop.forward, sealed)?;
    let (inner_counter, plain) = open(inner, &middle)?;
    expect_bytes("message", &bytes_of(case, "message")?, &plain)?;
    let again = seal(&hop.forward, outer_counter, &seal(inner, inner_counter, &plain));
    expect_bytes("wire", &wire, &[header.to_bytes().as_slice(), &again].concat())
}

//= spec/tunnels.md#9-hidden-services
fn rendezvous(_: &File, case: &Value) -> Result<(), String> {
    let info = RendezvousInfo {
        address: socket(case, "address")?,
        point: key(case, "key")?,
        cookie: array(case, "cookie")?,
    };
    let bin = bytes_of(case, "rp_info_bin")?;
    expect_bytes("rp_info_bin", &bin, &info.to_bytes())?;
    same("parsed", Ok(info), RendezvousInfo::parse(&bin))?;
    let sealed = bytes_of(case, "rp_info_enc")?;
    let keys = hop_keys(&array(case, "hs_shared_secret")?);
    let (n, plain) = open(&keys.forward, &sealed)?;
    expect_bytes("decrypted", &bin, &plain)?;
    expect_bytes("encrypted", &sealed, &seal(&keys.forward, n, &bin))
}

//= spec/tunnels.md#7-exit
fn exit_policy(_: &File, case: &Value) -> Result<(), String> {
    let looks = Looks::of(&bytes_of(case, "data")?);
    let wanted = Looks {
        utp: flag(case, "utp")?,
        udp_tracker: flag(case, "udp_tracker")?,
        dht: flag(case, "dht")?,
        ipv8: flag(case, "ipv8")?,
    };
    same("looks", wanted, looks)?;
    same("bt", flag(case, "bt")?, looks.bt())
}

//= spec/tunnels.md#9-hidden-services
fn introduction(_: &File, case: &Value) -> Result<(), String> {
    let value = IntroductionValue {
        address: socket(case, "address")?,
        last_seen: number(case, "last_seen")?,
        point: key(case, "intro_public_key")?,
        seeder: key(case, "seeder_public_key")?,
    };
    let bytes = bytes_of(case, "value")?;
    expect_bytes("value", &bytes, &value.to_bytes())?;
    same("parsed", Ok(value), IntroductionValue::parse(&bytes))
}

fn lookup(_: &File, case: &Value) -> Result<(), String> {
    let hash = lookup_hash(&array(case, "torrent_infohash")?);
    expect_bytes("lookup", &bytes_of(case, "lookup")?, &hash)
}

fn exchange_community(_: &File, case: &Value) -> Result<(), String> {
    let id = pex_community(&array(case, "lookup_infohash")?).ok_or("the hash has no successor")?;
    expect_bytes("community", &bytes_of(case, "community_id")?, &id.0)
}

fn exchange_extra(_: &File, case: &Value) -> Result<(), String> {
    let (keys, extra) = (keys(case, "seeder_keys")?, bytes_of(case, "extra_bytes")?);
    expect_bytes("extra bytes", &extra, &write_seeder_keys(&keys))?;
    same("keys", Ok(keys), read_seeder_keys(&extra))
}

fn address(_: &File, case: &Value) -> Result<(), String> {
    let circuit = CircuitId(number(case, "circuit_id")?);
    let address = socket(case, "address")?;
    same("address", address, circuit_address(circuit))?;
    same("circuit", Some(circuit), address_circuit(&address))
}

//= spec/tunnels.md#4-encryption-of-a-layer
fn decrypt(_: &File, case: &Value) -> Result<(), String> {
    let keys = hop_keys(&array(case, "shared_secret")?);
    keys_are(case, &keys)?;
    let key = match text(case, "direction")? {
        "forward" => &keys.forward,
        "backward" => &keys.backward,
        other => return Err(format!("unknown direction {other}")),
    };
    let opened = open(key, &bytes_of(case, "input")?).map(|(_, plain)| hex::encode(plain));
    match (text(case, "result")?.strip_prefix("ok:"), opened) {
        (Some(wanted), Ok(plain)) => same("plaintext", wanted, plain.as_str()),
        (None, Err(_)) => Ok(()),
        (Some(_), Err(error)) => Err(error),
        (None, Ok(_)) => Err("opens although it must not".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::default_folder;

    fn failures(file: &Value) -> usize {
        check("tunnels.json", file).expect("our file").iter().filter(|case| case.is_err()).count()
    }

    /// Changes the first number, truth value or text in hexadecimal that stands under `value`.
    fn spoil(value: &mut Value) -> bool {
        match value {
            Value::String(text) if text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                let other = if text.ends_with('0') { "1" } else { "0" };
                text.replace_range(text.len() - 1.., other);
                true
            }
            Value::Array(list) => list.iter_mut().any(spoil),
            Value::Object(fields) => fields.values_mut().any(spoil),
            Value::Bool(flag) => {
                *flag = !*flag;
                true
            }
            Value::Number(number) => {
                let other = number.as_u64().map_or(1, |number| number ^ 1);
                *value = other.into();
                true
            }
            _ => false,
        }
    }

    #[test]
    fn a_changed_value_fails_in_every_section_and_so_does_an_unknown_or_missing_section() {
        let text = std::fs::read(default_folder().join("tunnels.json")).expect("part of the work tree");
        let file: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(failures(&file), 0);
        for (section, _) in SECTIONS {
            let mut changed = file.clone();
            assert!(spoil(&mut changed[section]), "{section}");
            assert_ne!(failures(&changed), 0, "{section}");
            let mut missing = file.clone();
            missing.as_object_mut().expect("an object").remove(section);
            assert_eq!(failures(&missing), 1, "{section}");
        }
        let mut unknown = file;
        unknown["surprise"] = Value::Array(Vec::new());
        assert_eq!(failures(&unknown), 1);
    }
}
