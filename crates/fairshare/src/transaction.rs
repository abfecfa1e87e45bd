//! Transactions as JSON on the command line. Keys keep the order in which they were typed, because the encoding of a
//! block keeps it too and two orders are two different blocks.

use crate::failure::{Failure, Outcome};
use fairshare_ledger::transaction::{Float, Integer, Value, encode};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Transactions of ours are not longer.
//= spec/blocks.md#1-common-rules
const ENCODED_MAX: usize = 4096;
/// Whole numbers outside do not fit the 64 bits of the JSON reader, which rounds them: from -2^63 to 2^64, without.
const EXACT: (f64, f64) = (-9_223_372_036_854_775_808.0, 18_446_744_073_709_551_616.0);

/// The encoded form of a JSON object.
pub(crate) fn encode_json(text: &str) -> Outcome<Vec<u8>> {
    let wrong = |why: String| {
        Failure::bad_use("transaction", format!("the transaction is not usable: {why}"))
            .hint("give one JSON object, for example --transaction '{\"amount\": 5}'")
    };
    let Typed(value) = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    if !matches!(value, Value::Dict(_)) {
        return Err(wrong("it is no JSON object".to_owned()));
    }
    let bytes = encode(&value);
    if bytes.len() > ENCODED_MAX {
        return Err(wrong(format!("it has {} bytes, at most {ENCODED_MAX} fit", bytes.len())));
    }
    Ok(bytes)
}

struct Typed(Value);

impl<'de> Deserialize<'de> for Typed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Json).map(Self)
    }
}

/// Turns JSON values into transaction values: text stays text, whole numbers become ints, others floats.
struct Json;

impl<'de> Visitor<'de> for Json {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(Integer::from(i128::from(number))))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::from(number))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        if number <= EXACT.0 || number >= EXACT.1 {
            // The reader gives a longer whole number as a float: what is signed would not be what was typed.
            return Err(E::custom("a number beyond 64 bits cannot be told exactly; give it as text"));
        }
        Ok(Value::Float(Float(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Typed(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut dict: Vec<(Value, Value)> = Vec::new();
        while let Some((key, Typed(value))) = entries.next_entry::<String, Typed>()? {
            let key = Value::Text(key);
            if dict.iter().any(|(known, _)| *known == key) {
                return Err(serde::de::Error::custom("a key stands there twice"));
            }
            dict.push((key, value));
        }
        Ok(Value::Dict(dict))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order() {
        let bytes = encode_json(r#"{"b": 5, "a": [true, null, "é", -12, 4.2]}"#).expect("encodes");
        assert_eq!(bytes, "a2d1sb1i51sa5l0T0n2sé3i-123f4.2".as_bytes());
    }

    #[test]
    fn what_no_block_can_hold_is_bad_use() {
        let (above, below) = ("{\"a\":18446744073709551616}", "{\"a\":-9223372036854775809}");
        for text in ["5", "[1]", "{", "{\"a\":1,\"a\":2}", "", above, below] {
            assert_eq!(encode_json(text).expect_err(text).code, "transaction");
        }
        let long = format!("{{\"a\": \"{}\"}}", "x".repeat(5_000));
        assert!(encode_json(&long).is_err());
    }
}
