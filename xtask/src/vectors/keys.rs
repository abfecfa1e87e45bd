//! keys.json and signatures.json.

use super::{Cases, bytes_of, each_case, expect_bytes};
use fairshare_crypto::{PublicKey, SecretKey, Signature};
use serde_json::Value;

/// Checks a file of this part.
pub(super) fn check(name: &str, file: &Value) -> Option<Cases> {
    match name {
        "keys.json" => Some(each_case(file, key)),
        "signatures.json" => Some(each_case(file, signature)),
        _ => None,
    }
}

//= spec/overlay.md#2-keys
fn key(case: &Value) -> Result<(), String> {
    let secret =
        SecretKey::try_from(bytes_of(case, "private_key")?.as_slice()).map_err(|error| error.to_string())?;
    expect_bytes("private key", &bytes_of(case, "private_key")?, &secret.to_bytes())?;
    expect_bytes("public key", &bytes_of(case, "public_key")?, secret.public().as_bytes())?;
    expect_bytes("mid", &bytes_of(case, "mid")?, &secret.public().mid().0)
}

//= spec/README.md#r11
fn signature(case: &Value) -> Result<(), String> {
    let message = bytes_of(case, "message")?;
    let given = bytes_of(case, "signature")?;
    let wanted = case.get("valid").and_then(Value::as_bool).ok_or("no field valid")?;
    if case.get("private_key").is_some() {
        let secret = SecretKey::try_from(bytes_of(case, "private_key")?.as_slice())
            .map_err(|error| error.to_string())?;
        expect_bytes("signature", &given, &secret.sign(&message).0)?;
    }
    let key = bytes_of(case, "public_key")?;
    // Strictness: small-order keys are always invalid, whatever the old program said.
    let wanted = wanted && !is_small_order(key.get(42..).unwrap_or_default());
    let valid = match (PublicKey::try_from(key.as_slice()), <[u8; 64]>::try_from(given.as_slice())) {
        (Ok(key), Ok(given)) => key.verify(&message, &Signature(given)),
        _ => false,
    };
    if valid == wanted { Ok(()) } else { Err(format!("wanted valid = {wanted}, came {valid}")) }
}

/// Whether `half` encodes one of the eight points of small order, in a canonical or another encoding.
fn is_small_order(half: &[u8]) -> bool {
    const POINTS: [&str; 7] = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    let mut unsigned = half.to_vec();
    if let Some(last) = unsigned.last_mut() {
        *last &= 0x7f;
    }
    POINTS.contains(&hex::encode(unsigned).as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn signed(message: &str) -> Value {
        let secret = SecretKey::generate(&mut fairshare_crypto::Rng::from_seed([1; 32]));
        json!({
            "public_key": secret.public().to_string(),
            "message": hex::encode(message),
            "signature": hex::encode(secret.sign(b"one").0),
            "valid": message == "one",
        })
    }

    #[test]
    fn a_wrong_verdict_is_noticed() {
        assert!(signature(&signed("one")).is_ok());
        assert!(signature(&signed("two")).is_ok());
        let mut wrong = signed("two");
        wrong["valid"] = json!(true);
        assert!(signature(&wrong).is_err());
    }

    #[test]
    fn a_case_of_an_unknown_form_fails() {
        assert!(signature(&json!({"surprise": 1})).is_err());
        assert!(key(&json!({})).is_err());
    }
}
