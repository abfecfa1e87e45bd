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
