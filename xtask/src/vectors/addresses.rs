//! addresses.json: the typed form of addresses, both ways.

use super::{Cases, bytes_of, each_case, expect_bytes};
use fairshare_wire::{Address, Reader, Writer};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// Checks the file of this part.
pub(super) fn check(name: &str, file: &Value) -> Option<Cases> {
    (name == "addresses.json").then(|| each_case(file, address))
}

//= spec/overlay.md#4-addresses
fn address(case: &Value) -> Result<(), String> {
    let encoded = bytes_of(case, "encoded")?;
    let names_too = match case.get("format").and_then(Value::as_str) {
        Some("ip_address") => false,
        Some("address") => true,
        other => return Err(format!("unknown format {other:?}")),
    };
    let decoded = decode(&encoded, names_too);
    if case.get("accepted").and_then(Value::as_bool) == Some(false) {
        return decoded.map_or(Ok(()), |address| Err(format!("must be refused, came {address:?}")));
    }
    let wanted = wanted(case)?;
    if decoded.as_ref() != Some(&wanted) {
        return Err(format!("wanted {wanted:?}, came {decoded:?}"));
    }
    let mut out = Writer::new();
    wanted.write(&mut out);
    expect_bytes("encoded", &encoded, out.as_slice())
}

/// The address if it fills all the bytes.
fn decode(bytes: &[u8], names_too: bool) -> Option<Address> {
    let mut input = Reader::new(bytes);
    let address =
        if names_too { Address::read(&mut input) } else { Address::read_ip(&mut input).map(Address::Ip) };
    address.ok().filter(|_| input.left() == 0)
}

fn wanted(case: &Value) -> Result<Address, String> {
    let host = case.get("host").and_then(Value::as_str).ok_or("no host")?;
    let port = case
        .get("port")
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok())
        .ok_or("no port")?;
    Ok(host
        .parse::<IpAddr>()
        .map_or_else(|_| Address::Host(host.to_owned(), port), |ip| Address::Ip(SocketAddr::new(ip, port))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_wrong_port_and_a_wrongly_accepted_address_are_noticed() {
        let case = |port: u16| json!({"format": "address", "host": "1.2.3.4", "port": port, "encoded": "01010203040050"});
        assert!(address(&case(80)).is_ok());
        assert!(address(&case(81)).is_err());
        let mut refused = case(80);
        refused["accepted"] = json!(false);
        assert!(address(&refused).is_err());
    }
}
