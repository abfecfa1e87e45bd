//! dht_ipv8_3.2.json: packets of the overlay's DHT, stored values, and the places of nodes.

use super::{Cases, bytes_of, expect_bytes};
use fairshare_crypto::{PublicKey, SecretKey};
use fairshare_overlay::dht::{Contact, DhtMessage, DhtPacket, DhtValue, node_id};
use fairshare_tunnel::wire::IntroductionValue;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Checks the file of this part.
pub(super) fn check(name: &str, file: &Value) -> Option<Cases> {
    (name == "dht_ipv8_3.2.json").then(|| super::each_case(file, |one| case(&file["keys"], one)))
}

/// A case is known by its fields.
fn case(keys: &Value, case: &Value) -> Result<(), String> {
    if case.get("packet").is_some() {
        packet(keys, case)
    } else if case.get("node_id").is_some() {
        place(case)
    } else if case.get("intro_key").is_some() {
        introduction(case)
    } else {
        value(keys, case)
    }
}

//= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
fn packet(keys: &Value, case: &Value) -> Result<(), String> {
    let fields = &case["fields"];
    let key = signer(keys, case)?;
    let (message, identifier) = (message(case, fields)?, number(fields, "identifier")?);
    let wire = bytes_of(case, "packet")?;
    expect_bytes("packet", &wire, &message.sign(&key, identifier))?;
    let wanted = DhtPacket { sender: key.public(), identifier, message };
    let came = DhtPacket::parse(&wire).map_err(|error| error.to_string())?;
    if came != wanted {
        return Err(format!("wanted {wanted:?}, came {came:?}"));
    }
    refuses_changes(&wire)
}

/// A bit that changes, or a byte too few or too many, makes the packet invalid.
fn refuses_changes(wire: &[u8]) -> Result<(), String> {
    for at in 0..wire.len() {
        let mut changed = wire.to_vec();
        changed[at] ^= 1;
        if DhtPacket::parse(&changed).is_ok() {
            return Err(format!("taken although byte {at} is changed"));
        }
    }
    let longer = [wire, &[0]].concat();
    let shorter = &wire[..wire.len().saturating_sub(1)];
    if DhtPacket::parse(&longer).is_ok() || DhtPacket::parse(shorter).is_ok() {
        return Err("taken although its length is wrong".into());
    }
    Ok(())
}

fn message(case: &Value, fields: &Value) -> Result<DhtMessage, String> {
    Ok(match case["message_id"].as_u64() {
        Some(1) => DhtMessage::Ping,
        Some(2) => DhtMessage::Pong,
        Some(3) => DhtMessage::Store {
            token: array(fields, "token")?,
            target: array(fields, "target")?,
            values: values(fields)?,
        },
        Some(4) => DhtMessage::Stored,
        Some(5) => DhtMessage::Find {
            lan: parsed(fields, "lan")?,
            target: array(fields, "target")?,
            offset: number(fields, "offset")?,
            force_nodes: fields["force_nodes"].as_bool().ok_or("no field force_nodes")?,
        },
        Some(6) => DhtMessage::Found {
            token: array(fields, "token")?,
            values: values(fields)?,
            nodes: nodes(fields)?,
        },
        Some(7) => DhtMessage::StorePeer { token: array(fields, "token")?, target: array(fields, "target")? },
        Some(8) => DhtMessage::PeerStored,
        Some(9) => DhtMessage::ConnectPeer { lan: parsed(fields, "lan")?, target: array(fields, "target")? },
        Some(10) => DhtMessage::PeerConnected { nodes: nodes(fields)? },
        other => return Err(format!("unknown message {other:?}")),
    })
}

//= spec/overlay.md#9-dht-25-dhtdiscoverycommunity
fn value(keys: &Value, case: &Value) -> Result<(), String> {
    let (wire, data) = (bytes_of(case, "value")?, bytes_of(case, "data")?);
    let (encoded, wanted) = if case["signed"] == true {
        let (key, version) = (signer(keys, case)?, number(case, "version")?);
        let encoded = DhtValue::signed(&key, version, &data);
        (encoded, DhtValue::Signed { data, version, signer: key.public() })
    } else {
        (DhtValue::unsigned(&data), DhtValue::Unsigned(data))
    };
    expect_bytes("value", &wire, &encoded)?;
    match DhtValue::parse(&wire) {
        Ok(came) if came == wanted => Ok(()),
        came => Err(format!("wanted {wanted:?}, came {came:?}")),
    }
}

//= spec/tunnels.md#9-hidden-services
fn introduction(case: &Value) -> Result<(), String> {
    let wire = bytes_of(case, "value")?;
    let value = IntroductionValue {
        address: parsed(case, "address")?,
        last_seen: number(case, "last_seen")?,
        point: public(&bytes_of(case, "intro_key")?)?,
        seeder: public(&bytes_of(case, "seeder_key")?)?,
    };
    expect_bytes("value", &wire, &DhtValue::unsigned(&value.to_bytes()))?;
    let came = DhtValue::parse(&wire).map_err(|error| error.to_string())?;
    match IntroductionValue::parse(came.data()) {
        Ok(came) if came == value => Ok(()),
        came => Err(format!("wanted {value:?}, came {came:?}")),
    }
}

fn place(case: &Value) -> Result<(), String> {
    let ip: IpAddr = parsed(case, "ip")?;
    expect_bytes("node id", &bytes_of(case, "node_id")?, &node_id(ip, &array(case, "mid")?))
}

// ---- fields ----

fn signer(keys: &Value, case: &Value) -> Result<SecretKey, String> {
    let name = case["signer"].as_str().ok_or("no signer")?;
    let key = bytes_of(&keys[name], "private_key")?;
    SecretKey::try_from(key.as_slice()).map_err(|error| error.to_string())
}

fn public(bytes: &[u8]) -> Result<PublicKey, String> {
    PublicKey::try_from(bytes).map_err(|error| error.to_string())
}

fn array(fields: &Value, field: &str) -> Result<[u8; 20], String> {
    bytes_of(fields, field)?.try_into().map_err(|_| format!("{field} has not 20 bytes"))
}

fn number(fields: &Value, field: &str) -> Result<u32, String> {
    let number = fields[field].as_u64().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| format!("no number {field}"))
}

fn parsed<T: FromStr>(fields: &Value, field: &str) -> Result<T, String> {
    let text = fields[field].as_str().ok_or_else(|| format!("no text field {field}"))?;
    text.parse().map_err(|_| format!("{field} is not readable: {text}"))
}

fn values(fields: &Value) -> Result<Vec<Vec<u8>>, String> {
    let read = |value: &Value| hex::decode(value.as_str().unwrap_or("?")).map_err(|error| error.to_string());
    fields["values"].as_array().ok_or("no values")?.iter().map(read).collect()
}

fn nodes(fields: &Value) -> Result<Vec<Contact>, String> {
    let read = |node: &Value| {
        let address =
            node[0].as_str().and_then(|text| text.parse::<SocketAddr>().ok()).ok_or("no address")?;
        let key = hex::decode(node[1].as_str().unwrap_or("?")).map_err(|error| error.to_string())?;
        Ok(Contact { address, key: public(&key)? })
    };
    fields["nodes"].as_array().ok_or("no nodes")?.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_case_of_each_kind_is_noticed() {
        let path = crate::vectors::default_folder().join("dht_ipv8_3.2.json");
        let text = std::fs::read(path).expect("the file is part of the work tree");
        let file: Value = serde_json::from_slice(&text).expect("it is JSON");
        let changes = [
            ("/cases/4/fields/offset", Value::from(1)),
            ("/cases/12/data", Value::from("00")),
            ("/cases/13/version", Value::from(1)),
            ("/cases/14/last_seen", Value::from(1)),
            ("/cases/15/ip", Value::from("1.2.3.5")),
        ];
        for (at, change) in changes {
            let mut file = file.clone();
            *file.pointer_mut(at).expect("a field") = change;
            let cases = check("dht_ipv8_3.2.json", &file).expect("ours");
            assert_eq!(cases.iter().filter(|one| one.is_err()).count(), 1, "{at}");
        }
    }
}
