//! swarm.json: DHT node ids, the allowed-fast set and the identity extension.

use super::{Cases, bytes_of, expect_bytes};
use fairshare_crypto::{EphemeralSecret, PublicKey, SecretKey, Signature};
use fairshare_swarm::InfoHash;
use fairshare_swarm::allowed_fast::allowed_fast;
use fairshare_swarm::identity::{
    Channel, Count, Hello, HelloSecrets, MacKeys, Message, Receipt, Totals, Transcript,
};
use fairshare_swarm::node_id::is_node_id_of;
use fairshare_swarm::peer_wire::PeerId;
use serde_json::Value;
use std::net::IpAddr;

const SECTIONS: [&str; 3] = ["dht_node_id", "allowed_fast", "fs_identity"];

/// Checks a file of this part.
pub(super) fn check(name: &str, file: &Value) -> Option<Cases> {
    if name != "swarm.json" {
        return None;
    }
    let Some(sections) = file.as_object() else { return Some(vec![Err("not an object".to_owned())]) };
    let mut cases = Vec::new();
    for (section, value) in sections.iter().filter(|(section, _)| *section != "note") {
        // A section holds one case or a list of them.
        for case in value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice) {
            cases.push(judge(section, case).map_err(|reason| format!("{section}: {reason}")));
        }
    }
    let missing = SECTIONS.iter().filter(|section| !sections.contains_key(**section));
    cases.extend(missing.map(|section| Err(format!("no section {section}"))));
    Some(cases)
}

fn judge(section: &str, case: &Value) -> Result<(), String> {
    match section {
        "dht_node_id" => node_id(case),
        "allowed_fast" => fast_set(case),
        "fs_identity" => identity(case),
        _ => Err("unknown section".to_owned()),
    }
}

//= spec/swarm.md#10-discovery
fn node_id(case: &Value) -> Result<(), String> {
    let ip: IpAddr = text(case, "ip")?.parse().map_err(|_| "ip is no address")?;
    let random = number(case, "R")?.try_into().map_err(|_| "R is no byte")?;
    let mut id = [0; 20];
    let first: [u8; 3] = array(case, "first21bits")?;
    id[..3].copy_from_slice(&first);
    id[19] = random;
    if is_node_id_of(&id, ip) { Ok(()) } else { Err(format!("{ip} with {random} gives other first bits")) }
}

//= spec/swarm.md#3-message-framing-and-core-messages
fn fast_set(case: &Value) -> Result<(), String> {
    let ip = text(case, "ip")?.parse().map_err(|_| "ip is no IPv4 address")?;
    let pieces = u32::try_from(number(case, "pieces")?).map_err(|_| "too many pieces")?;
    let wanted = case.get("k9").and_then(Value::as_array).ok_or("no list k9")?;
    let wanted: Vec<u64> = wanted.iter().filter_map(Value::as_u64).collect();
    let set = allowed_fast(ip, InfoHash(array(case, "info_hash")?), pieces, 9);
    let same = set.iter().map(|piece| u64::from(*piece)).eq(wanted.iter().copied());
    if same { Ok(()) } else { Err(format!("wanted {wanted:?}, came {set:?}")) }
}

/// One side of the handshake.
struct Side {
    key: SecretKey,
    secrets: HelloSecrets,
    hello: Hello,
}

impl Side {
    fn read(case: &Value, role: &str) -> Result<Self, String> {
        let key = PublicKey::from_bytes(array(case, &format!("k{role}"))?);
        let seed: [u8; 32] = array(case, &format!("ed25519_seed_{role}"))?;
        let ephemeral = EphemeralSecret::from_bytes(array(case, &format!("e{role}_private"))?);
        let hello = Hello { nonce: array(case, &format!("n{role}"))?, ephemeral: ephemeral.public(), key };
        let secrets = HelloSecrets { nonce: hello.nonce, ephemeral };
        Ok(Self { key: signer(&seed)?, secrets, hello })
    }

    /// Signs, and makes sure that the public key of the vector agrees.
    fn sign(&self, message: &[u8]) -> Result<Signature, String> {
        let signature = self.key.sign(message);
        let agrees = self.hello.key.verify(message, &signature);
        if agrees { Ok(signature) } else { Err("seed and public key do not belong together".to_owned()) }
    }
}

/// A key that signs with `seed`. Its encryption half, which the vectors do not give, takes no part in a handshake.
fn signer(seed: &[u8; 32]) -> Result<SecretKey, String> {
    let bytes = [b"LibNaCLSK:".as_slice(), &[1; 32], seed].concat();
    SecretKey::try_from(bytes.as_slice()).map_err(|error| error.to_string())
}

//= spec/swarm.md#82-handshake-3-messages-initiator-i--side-that-opened-the-connection-responder-r
fn identity(case: &Value) -> Result<(), String> {
    let (initiator, responder) = (Side::read(case, "I")?, Side::read(case, "R")?);
    expect_bytes("eI", &bytes_of(case, "eI")?, &initiator.hello.ephemeral)?;
    expect_bytes("eR", &bytes_of(case, "eR")?, &responder.hello.ephemeral)?;
    let channel = Channel {
        info_hash: InfoHash(array(case, "info_hash")?),
        initiator: PeerId(array(case, "peer_id_I")?),
        responder: PeerId(array(case, "peer_id_R")?),
        binding: array(case, "cb")?,
    };
    let transcript = Transcript::of(&channel, &initiator.hello, &responder.hello);
    expect_bytes("T", &bytes_of(case, "T")?, &transcript.0)?;
    let answer = Message::Answer(responder.hello, responder.sign(&transcript.answer_text())?);
    expect_message(case, "H1", &Message::Hello(initiator.hello))?;
    expect_message(case, "H2", &answer)?;
    expect_message(case, "H3", &Message::Proof(initiator.sign(&transcript.proof_text())?))?;

    let agreed = initiator.secrets.ephemeral.agree(&responder.hello.ephemeral).ok_or("no key agreement")?;
    expect_bytes("ss", &bytes_of(case, "ss")?, &agreed)?;
    let keys = MacKeys::derive(&transcript, &agreed);
    expect_bytes("K_I", &bytes_of(case, "K_I")?, &keys.initiator)?;
    expect_bytes("K_R", &bytes_of(case, "K_R")?, &keys.responder)?;
    counts(case, &keys)?;
    receipt(case, &channel, transcript, &initiator, &responder)
}

//= spec/swarm.md#83-counts-and-exposure
fn counts(case: &Value, keys: &MacKeys) -> Result<(), String> {
    // What it sent is in the bytes only.
    let Ok(Some(Message::Count(given))) = Message::parse(&bytes_of(case, "count_from_I")?.into()) else {
        return Err("count_from_I is no count".to_owned());
    };
    let totals = Totals { verified: 1 << 20, accepted: (1 << 20) + (1 << 16), sent: given.totals.sent };
    expect_message(case, "count_from_I", &Message::Count(Count::seal(&keys.initiator, 7, totals)))
}

//= spec/swarm.md#83-counts-and-exposure
fn receipt(
    case: &Value,
    channel: &Channel,
    session: Transcript,
    initiator: &Side,
    responder: &Side,
) -> Result<(), String> {
    // The amount and its time are in the bytes only.
    let bytes = bytes_of(case, "receipt_from_I")?;
    let Ok(Some(Message::Receipt(given))) = Message::parse(&bytes.into()) else {
        return Err("receipt_from_I is no receipt".to_owned());
    };
    let receipt = Receipt {
        sequence: 8,
        info_hash: channel.info_hash,
        uploader: responder.hello.key,
        session,
        verified: given.verified,
        unix_ms: given.unix_ms,
        signature: given.signature,
    };
    expect_message(case, "receipt_from_I", &Message::Receipt(receipt.signed(&initiator.key)))?;
    let verifies = given.is_signed_by(&initiator.hello.key);
    if verifies { Ok(()) } else { Err("the receipt does not verify".to_owned()) }
}

fn expect_message(case: &Value, field: &str, message: &Message) -> Result<(), String> {
    let wanted = bytes_of(case, field)?;
    expect_bytes(field, &wanted, &message.encode())?;
    match Message::parse(&wanted.into()) {
        Ok(Some(parsed)) if parsed == *message => Ok(()),
        other => Err(format!("{field} is read as {other:?}")),
    }
}

fn text<'a>(case: &'a Value, field: &str) -> Result<&'a str, String> {
    case.get(field).and_then(Value::as_str).ok_or_else(|| format!("no text field {field}"))
}

fn number(case: &Value, field: &str) -> Result<u64, String> {
    case.get(field).and_then(Value::as_u64).ok_or_else(|| format!("no number {field}"))
}

fn array<const N: usize>(case: &Value, field: &str) -> Result<[u8; N], String> {
    bytes_of(case, field)?.try_into().map_err(|_| format!("{field} has not {N} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_changed_value_fails_and_so_does_an_unknown_or_missing_section() {
        let path = super::super::default_folder().join("swarm.json");
        let bytes = std::fs::read(path).expect("the vectors are part of the work tree");
        let file: Value = serde_json::from_slice(&bytes).expect("JSON");
        let failures = |file: &Value| {
            check("swarm.json", file).expect("our file").iter().filter(|case| case.is_err()).count()
        };
        assert_eq!(failures(&file), 0);
        let changes = [
            ("/dht_node_id/0/R", json!(2)),
            ("/dht_node_id/1/first21bits", json!("5a3cf0")),
            ("/allowed_fast/k9/8", json!(509)),
            ("/fs_identity/T", json!("00")),
            ("/fs_identity/nR", json!("11".repeat(32))),
            ("/fs_identity/K_R", json!("11".repeat(32))),
            ("/fs_identity/H3", json!("03")),
        ];
        for (place, value) in changes {
            let mut changed = file.clone();
            *changed.pointer_mut(place).expect("the field is there") = value;
            assert_eq!(failures(&changed), 1, "{place}");
        }
        let mut changed = file;
        changed["surprise"] = json!({});
        assert_eq!(failures(&changed), 1);
        assert_eq!(failures(&json!({})), SECTIONS.len());
        assert!(check("other.json", &json!({})).is_none());
    }
}
