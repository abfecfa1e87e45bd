//! The tagged encoding of transactions: Python values as living peers write and read them.
//!
//! Reading is as lenient as the reference: a stricter reader would drop blocks that others keep, and so see other
//! chains. Writing is exact.
//= spec/trustchain.md#3-transaction-encoding

mod equality;
mod number;

pub use number::{Float, INTEGER_DIGITS_MAX, Integer};

use equality::EqualityKey;
use std::collections::BTreeSet;
use thiserror::Error;

/// How deep values may nest. The reference fails at about 1,000; nothing real goes beyond 10.
pub const DEPTH_MAX: usize = 100;

const VERSION: u8 = b'a';

/// A value of a transaction. Dictionaries keep the order of their keys.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number of any size.
    Int(Integer),
    /// A double.
    Float(Float),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Self>),
    /// A tuple.
    Tuple(Vec<Self>),
    /// A set, in the order in which its members came.
    Set(Vec<Self>),
    /// Pairs of key and value, in order.
    Dict(Vec<(Self, Self)>),
}

impl Value {
    /// The number, if it is one between 0 and 2^64 - 1.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(number) => number.to_i128().and_then(|number| u64::try_from(number).ok()),
            _ => None,
        }
    }

    /// The value of a dictionary's key, given as bytes: under the bytes key, else under the same text key.
    pub fn field(&self, name: &str) -> Option<&Self> {
        let Self::Dict(pairs) = self else { return None };
        let by = |wanted: fn(&Self) -> Option<&[u8]>| {
            let found = pairs.iter().find(|(key, _)| wanted(key) == Some(name.as_bytes()));
            found.map(|(_, value)| value)
        };
        by(Self::as_bytes).or_else(|| by(Self::as_text_bytes))
    }

    /// The bytes, if it is bytes.
    pub const fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes.as_slice()),
            _ => None,
        }
    }

    /// The members, if it is a list.
    pub const fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(values) => Some(values.as_slice()),
            _ => None,
        }
    }

    const fn as_text_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text.as_bytes()),
            _ => None,
        }
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Int(Integer::from(i128::from(number)))
    }
}

/// Why bytes are no transaction.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionError {
    /// The first byte is not `a`.
    #[error("encoding version is not a")]
    Version,
    /// The input ends where a value should be.
    #[error("input ends inside a value")]
    Short,
    /// No digits before a tag, or more than can be meant.
    #[error("count of a value is missing or too long")]
    Count,
    /// No value has this tag.
    #[error("tag {0} is not known")]
    Tag(u8),
    /// The body of an int or float is no number.
    #[error("number is malformed")]
    Number,
    /// The body of a text is not UTF-8.
    #[error("text is not UTF-8")]
    Text,
    /// A dictionary has a key twice.
    #[error("dictionary has a key twice")]
    DuplicateKey,
    /// A list, set or dictionary is a key or a member of a set.
    #[error("value cannot be a key or a member of a set")]
    Unhashable,
    /// Values nest deeper than [`DEPTH_MAX`].
    #[error("values nest too deep")]
    Depth,
}

/// Reads the transaction at the start of `stream`; also tells how many bytes it took. Bytes after it are allowed.
pub fn decode(stream: &[u8]) -> Result<(Value, usize), TransactionError> {
    let Some((&VERSION, _)) = stream.split_first() else { return Err(TransactionError::Version) };
    let mut decoder = Decoder { stream, at: 1 };
    let value = decoder.value(0)?;
    Ok((value, decoder.at))
}

/// Writes a transaction.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = vec![VERSION];
    write_value(&mut out, value);
    out
}

struct Decoder<'a> {
    stream: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, TransactionError> {
        if depth >= DEPTH_MAX {
            return Err(TransactionError::Depth);
        }
        let count = self.count()?;
        let tag = self.tag()?;
        match tag {
            b'i' | b'J' => Integer::parse(self.lenient(count)).map(Value::Int),
            b'f' => Float::parse(self.lenient(count)).map(Value::Float),
            b's' => {
                let text = std::str::from_utf8(self.exact(count)?).map_err(|_| TransactionError::Text)?;
                Ok(Value::Text(text.to_owned()))
            }
            b'b' => self.exact(count).map(|bytes| Value::Bytes(bytes.to_vec())),
            b'l' => self.values(count, depth).map(Value::List),
            b't' => self.values(count, depth).map(Value::Tuple),
            b'L' => self.set(count, depth),
            b'd' => self.dict(count, depth),
            b'n' | b'T' | b'F' if count != 0 => Err(TransactionError::Count),
            b'n' => Ok(Value::None),
            b'T' => Ok(Value::Bool(true)),
            b'F' => Ok(Value::Bool(false)),
            _ => Err(TransactionError::Tag(tag)),
        }
    }

    /// The digits in front of the tag. A count beyond every input saturates: what uses it sees that it is too long.
    fn count(&mut self) -> Result<usize, TransactionError> {
        let rest = self.rest();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == rest.len() {
            return Err(TransactionError::Short);
        }
        if digits == 0 || digits > INTEGER_DIGITS_MAX {
            return Err(TransactionError::Count);
        }
        let count = rest.iter().take(digits).fold(0usize, |count, digit| {
            count.saturating_mul(10).saturating_add(usize::from(digit.wrapping_sub(b'0')))
        });
        self.at += digits;
        Ok(count)
    }

    fn tag(&mut self) -> Result<u8, TransactionError> {
        let tag = *self.rest().first().ok_or(TransactionError::Short)?;
        self.at += 1;
        Ok(tag)
    }

    /// The next `count` bytes, or what is left: the body of a number may be cut off.
    fn lenient(&mut self, count: usize) -> &'a [u8] {
        let rest = self.rest();
        let body = rest.get(..count).unwrap_or(rest);
        self.at += body.len();
        body
    }

    /// The next `count` bytes.
    fn exact(&mut self, count: usize) -> Result<&'a [u8], TransactionError> {
        let body = self.rest().get(..count).ok_or(TransactionError::Short)?;
        self.at += body.len();
        Ok(body)
    }

    fn values(&mut self, count: usize, depth: usize) -> Result<Vec<Value>, TransactionError> {
        self.fits(count, 1)?;
        (0..count).map(|_| self.value(depth + 1)).collect()
    }

    fn set(&mut self, count: usize, depth: usize) -> Result<Value, TransactionError> {
        let mut seen = BTreeSet::new();
        let mut members = Vec::new();
        for member in self.values(count, depth)? {
            if is_new(&mut seen, &member)? {
                members.push(member);
            }
        }
        Ok(Value::Set(members))
    }

    fn dict(&mut self, count: usize, depth: usize) -> Result<Value, TransactionError> {
        self.fits(count, 2)?;
        let mut seen = BTreeSet::new();
        let mut pairs = Vec::new();
        for _ in 0..count {
            let key = self.value(depth + 1)?;
            let value = self.value(depth + 1)?;
            if !is_new(&mut seen, &key)? {
                return Err(TransactionError::DuplicateKey);
            }
            pairs.push((key, value));
        }
        Ok(Value::Dict(pairs))
    }

    /// Fails early if `count` times `each` values cannot be in what is left: each has two bytes at least.
    fn fits(&self, count: usize, each: usize) -> Result<(), TransactionError> {
        if count <= self.rest().len() / 2 / each { Ok(()) } else { Err(TransactionError::Short) }
    }

    fn rest(&self) -> &'a [u8] {
        self.stream.get(self.at..).unwrap_or_default()
    }
}

/// Whether `value` equals none of the values before it, as Python compares them.
fn is_new(seen: &mut BTreeSet<EqualityKey>, value: &Value) -> Result<bool, TransactionError> {
    Ok(EqualityKey::of(value)?.is_none_or(|key| seen.insert(key)))
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::None => write_head(out, 0, b'n'),
        Value::Bool(true) => write_head(out, 0, b'T'),
        Value::Bool(false) => write_head(out, 0, b'F'),
        Value::Int(number) => write_body(out, b'i', number.to_string().as_bytes()),
        Value::Float(number) => write_body(out, b'f', number.to_string().as_bytes()),
        Value::Text(text) => write_body(out, b's', text.as_bytes()),
        Value::Bytes(bytes) => write_body(out, b'b', bytes),
        Value::List(values) => write_values(out, b'l', values),
        Value::Tuple(values) => write_values(out, b't', values),
        Value::Set(values) => write_values(out, b'L', values),
        Value::Dict(pairs) => {
            write_head(out, pairs.len(), b'd');
            for (key, value) in pairs {
                write_value(out, key);
                write_value(out, value);
            }
        }
    }
}

fn write_values(out: &mut Vec<u8>, tag: u8, values: &[Value]) {
    write_head(out, values.len(), tag);
    for value in values {
        write_value(out, value);
    }
}

fn write_body(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    write_head(out, body.len(), tag);
    out.extend_from_slice(body);
}

fn write_head(out: &mut Vec<u8>, count: usize, tag: u8) {
    out.extend_from_slice(count.to_string().as_bytes());
    out.push(tag);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn int(text: &str) -> Value {
        Value::Int(Integer::parse(text.as_bytes()).expect("digits"))
    }

    //= spec/trustchain.md#3-transaction-encoding
    #[test]
    fn reads_what_the_reference_reads() {
        for (input, value) in [
            ("a2i+5", int("5")),
            ("a4i 5\r\x0b", int("5")),
            ("a5i0_0_7", int("7")),
            ("a3i-12", int("-12")),
            ("a2J10", int("10")),
            ("a9i12", int("12")),
            ("a007i1234567", int("1234567")),
            ("a9f4.2", Value::Float(Float(4.2))),
            ("a8f 1_0.e1 ", Value::Float(Float(100.0))),
            ("a2f.5", Value::Float(Float(0.5))),
            ("a8fInFinity", Value::Float(Float(f64::INFINITY))),
            ("a9finfinityxx", Value::Float(Float(f64::INFINITY))),
            ("a4f-NaN", Value::Float(Float(f64::NAN))),
            ("a5f1e999", Value::Float(Float(f64::INFINITY))),
            ("a0n", Value::None),
            ("a2L1i10T", Value::Set(vec![int("1")])),
            ("a2L1s11b1", Value::Set(vec![Value::Text("1".into()), Value::Bytes(b"1".to_vec())])),
            ("a2t0T0F", Value::Tuple(vec![Value::Bool(true), Value::Bool(false)])),
        ] {
            let decoded = decode(input.as_bytes());
            if input.ends_with("xx") {
                assert_eq!(decoded, Err(TransactionError::Number), "{input}");
            } else {
                assert_eq!(decoded.map(|(value, _)| value), Ok(value), "{input}");
            }
        }
    }

    //= spec/trustchain.md#3-transaction-encoding
    #[test]
    fn refuses_what_the_reference_refuses() {
        for input in [
            "",
            "a",
            "b0d",
            "ad",
            "a1x0",
            "a0i",
            "a1i_",
            "a2i1_",
            "a3i1__",
            "a2i--",
            "a3i+ 5",
            "a1f.",
            "a4f0x10",
            "a3f1_.",
            "a2fe5",
            "a9b1",
            "a9s1",
            "a1s\u{80}",
            "a1n",
            "a1T",
            "a1d0n",
            "a2d1i10n1i10n",
            "a2d0T0n3f1.00n",
            "a2d2f-00n0F0n",
            "a1L0l",
            "a1d0l0n",
            "a1d1t0d0n",
            "a9l",
            "a99999999999999999999999d",
            "a1l",
        ] {
            assert!(decode(input.as_bytes()).is_err(), "{input}");
        }
    }

    #[test]
    fn nan_keys_are_never_the_same_and_large_floats_equal_their_ints() {
        assert!(decode(b"a2d3fnan0n3fnan0n").is_ok());
        assert_eq!(decode(b"a2d4f1e220n23i100000000000000000000000n"), Err(TransactionError::DuplicateKey));
        assert_eq!(decode(b"a2L1t1i11t3f1.0"), Ok((Value::Set(vec![Value::Tuple(vec![int("1")])]), 15)));
    }

    #[test]
    fn numbers_beyond_any_machine_word_survive() {
        let digits = format!("-{}", "9".repeat(INTEGER_DIGITS_MAX));
        let value = int(&digits);
        assert_eq!(decode(&encode(&value)), Ok((value, 4307)));
        assert!(Integer::parse("1".repeat(INTEGER_DIGITS_MAX + 1).as_bytes()).is_err());
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| [b"a".to_vec(), b"1l".repeat(depth - 1), b"0n".to_vec()].concat();
        assert!(decode(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(decode(&nested(DEPTH_MAX + 1)), Err(TransactionError::Depth));
        assert!(decode(&nested(100_000)).is_err());
    }

    //= spec/trustchain.md#3-transaction-encoding
    #[test]
    fn floats_are_printed_like_in_python() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (4.2, "4.2"),
            (100.0, "100.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00012345, "0.00012345"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
            (f64::NEG_INFINITY, "-inf"),
            (-f64::NAN, "nan"),
        ] {
            assert_eq!(Float(number).to_string(), text);
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::Bool),
            any::<i128>().prop_map(|number| Value::Int(Integer::from(number))),
            "-[1-9][0-9]{38,60}".prop_map(|digits| int(&digits)),
            any::<f64>().prop_map(|number| Value::Float(Float(number))),
            ".{0,8}".prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..8).prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            let values = prop::collection::vec(inner.clone(), 0..5);
            let keys = prop::collection::btree_map(any::<u64>(), inner, 0..5);
            prop_oneof![
                values.clone().prop_map(Value::List),
                values.prop_map(Value::Tuple),
                prop::collection::btree_set(any::<u64>(), 0..5)
                    .prop_map(|members| Value::Set(members.into_iter().map(Value::from).collect())),
                keys.prop_map(|pairs| {
                    Value::Dict(pairs.into_iter().map(|(key, value)| (Value::from(key), value)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in value(), rest in prop::collection::vec(any::<u8>(), 0..4)) {
            let encoded = encode(&value);
            let len = encoded.len();
            prop_assert_eq!(decode(&[encoded, rest].concat()), Ok((value, len)));
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn random_tokens_never_panic(tokens in "a[0-3ifsbltLdnTFJ_e. +-]{0,80}") {
            if let Ok((value, _)) = decode(tokens.as_bytes()) {
                prop_assert_eq!(decode(&encode(&value)).map(|(value, _)| value), Ok(value));
            }
        }

        #[test]
        fn a_float_survives_its_text(bits in any::<u64>()) {
            let number = Float(f64::from_bits(bits));
            prop_assert_eq!(Float::parse(number.to_string().as_bytes()), Ok(number));
        }
    }
}
