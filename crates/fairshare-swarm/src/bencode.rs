//! Bencode: a borrowing parser with hard limits, and a writer that can only write the canonical form.
//!
//! Every parsed value knows the exact bytes it was read from, because an info-hash is the hash of those bytes and of
//! no others.

use bytes::Bytes;
use std::collections::BTreeMap;
use thiserror::Error;

/// How much one message or file may make us build.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    depth: u32,
    items: u32,
    values: u32,
    /// Accept leading zeros, "-0" and numbers beyond 64 bits (which count as the nearest that fits).
    odd_integers: bool,
}

impl Limits {
    /// For what peers and trackers send.
    pub const NETWORK: Self = Self { depth: 32, items: 4_096, values: 20_000, odd_integers: false };
    /// For torrent files and the metadata in them.
    pub const FILE: Self = Self { depth: 64, items: 200_000, values: 2_000_000, odd_integers: true };
}

/// Why bytes are no bencoded value.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BencodeError {
    /// The input ends inside a value.
    #[error("bencoding ends inside a value")]
    Short,
    /// A byte that starts or ends nothing.
    #[error("unexpected byte in bencoding, {left} bytes before the end")]
    Unexpected {
        /// Bytes left from there.
        left: usize,
    },
    /// An integer in a form that is not allowed, or one that does not fit.
    #[error("malformed or too large integer in bencoding")]
    Integer,
    /// Lists and dictionaries inside each other too deeply.
    #[error("bencoding is nested too deeply")]
    Depth,
    /// Too many entries in one list or dictionary, or too many values in all.
    #[error("bencoding holds too many values")]
    Count,
    /// Bytes follow the value.
    #[error("bytes follow the end of the bencoding")]
    Trailing,
}

/// A parsed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    raw: &'a [u8],
    kind: Kind<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    List(Vec<Value<'a>>),
    Dict(Vec<(&'a [u8], Value<'a>)>),
}

impl<'a> Value<'a> {
    /// Parses `input`, which must be one value and nothing else.
    pub fn parse(input: &'a [u8], limits: Limits) -> Result<Self, BencodeError> {
        match Self::parse_prefix(input, limits)? {
            (value, []) => Ok(value),
            _ => Err(BencodeError::Trailing),
        }
    }

    /// Parses the value at the start of `input` and returns it with what follows.
    pub fn parse_prefix(input: &'a [u8], limits: Limits) -> Result<(Self, &'a [u8]), BencodeError> {
        let mut parser = Parser { input, limits, values: 0 };
        let value = parser.value(0)?;
        Ok((value, parser.input))
    }

    /// The bytes it was read from.
    pub const fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The number, if it is one.
    pub const fn int(&self) -> Option<i64> {
        if let Kind::Int(value) = self.kind { Some(value) } else { None }
    }

    /// The string, if it is one.
    pub const fn bytes(&self) -> Option<&'a [u8]> {
        if let Kind::Bytes(bytes) = self.kind { Some(bytes) } else { None }
    }

    /// The string, if it is one and UTF-8.
    pub fn text(&self) -> Option<&'a str> {
        self.bytes().and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The entries, if it is a list.
    pub fn list(&self) -> Option<&[Self]> {
        if let Kind::List(items) = &self.kind { Some(items) } else { None }
    }

    /// The entries in the order of the input, if it is a dictionary.
    pub fn dict(&self) -> Option<&[(&'a [u8], Self)]> {
        if let Kind::Dict(entries) = &self.kind { Some(entries) } else { None }
    }

    /// The first value under `key`, if it is a dictionary that has one.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let found = self.dict()?.iter().find(|(name, _)| *name == key.as_bytes());
        found.map(|(_, value)| value)
    }
}

struct Parser<'a> {
    input: &'a [u8],
    limits: Limits,
    values: u32,
}

impl<'a> Parser<'a> {
    fn value(&mut self, depth: u32) -> Result<Value<'a>, BencodeError> {
        self.values += 1;
        if self.values > self.limits.values {
            return Err(BencodeError::Count);
        }
        let start = self.input;
        let kind = match self.peek()? {
            b'i' => Kind::Int(self.integer()?),
            b'l' => Kind::List(self.list(depth)?),
            b'd' => Kind::Dict(self.dict(depth)?),
            _ => Kind::Bytes(self.string()?),
        };
        let (raw, _) = start.split_at(start.len() - self.input.len());
        Ok(Value { raw, kind })
    }

    fn list(&mut self, depth: u32) -> Result<Vec<Value<'a>>, BencodeError> {
        let mut items = Vec::new();
        self.enter(depth)?;
        while !self.leave()? {
            self.check_room(items.len())?;
            items.push(self.value(depth + 1)?);
        }
        Ok(items)
    }

    fn dict(&mut self, depth: u32) -> Result<Vec<(&'a [u8], Value<'a>)>, BencodeError> {
        let mut entries = Vec::new();
        self.enter(depth)?;
        while !self.leave()? {
            self.check_room(entries.len())?;
            let key = self.string()?;
            entries.push((key, self.value(depth + 1)?));
        }
        Ok(entries)
    }

    /// Steps over the `l` or `d` that opens a container.
    fn enter(&mut self, depth: u32) -> Result<(), BencodeError> {
        if depth >= self.limits.depth {
            return Err(BencodeError::Depth);
        }
        self.take(1).map(|_| ())
    }

    /// Steps over the `e` that closes a container, if it is there.
    fn leave(&mut self) -> Result<bool, BencodeError> {
        let closes = self.peek()? == b'e';
        if closes {
            self.take(1)?;
        }
        Ok(closes)
    }

    fn check_room(&self, items: usize) -> Result<(), BencodeError> {
        if items >= self.limits.items as usize { Err(BencodeError::Count) } else { Ok(()) }
    }

    fn integer(&mut self) -> Result<i64, BencodeError> {
        self.take(1)?;
        let digits = self.until(b'e', MAX_INTEGER_LEN)?;
        integer(digits, self.limits.odd_integers)
    }

    fn string(&mut self) -> Result<&'a [u8], BencodeError> {
        if !self.peek()?.is_ascii_digit() {
            return Err(BencodeError::Unexpected { left: self.input.len() });
        }
        let digits = self.until(b':', MAX_LENGTH_LEN)?;
        let len = integer(digits, self.limits.odd_integers)?;
        self.take(usize::try_from(len).map_err(|_| BencodeError::Integer)?)
    }

    /// The bytes before `end`, stepping over it; at most `max` of them.
    fn until(&mut self, end: u8, max: usize) -> Result<&'a [u8], BencodeError> {
        let window = self.input.get(..=max).unwrap_or(self.input);
        let Some(at) = window.iter().position(|byte| *byte == end) else {
            let cut = window.len() <= max;
            return Err(if cut { BencodeError::Short } else { BencodeError::Integer });
        };
        let found = self.take(at)?;
        self.take(1)?;
        Ok(found)
    }

    fn peek(&self) -> Result<u8, BencodeError> {
        self.input.first().copied().ok_or(BencodeError::Short)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], BencodeError> {
        let (head, tail) = self.input.split_at_checked(len).ok_or(BencodeError::Short)?;
        self.input = tail;
        Ok(head)
    }
}

/// Digits of an integer that are looked at: far more than 64 bits need, few enough to skip at once.
const MAX_INTEGER_LEN: usize = 64;
/// Digits of the length of a string: no length that we accept has more.
const MAX_LENGTH_LEN: usize = 19;

fn integer(text: &[u8], odd: bool) -> Result<i64, BencodeError> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let is_canonical = matches!((negative, digits), (false, [b'0']) | (_, [b'1'..=b'9', ..]));
    if !is_number || !(is_canonical || odd) {
        return Err(BencodeError::Integer);
    }
    let step = |value: i64, digit: &u8| {
        let digit = i64::from(digit - b'0');
        let signed = if negative { -digit } else { digit };
        value.checked_mul(10)?.checked_add(signed)
    };
    match digits.iter().try_fold(0, step) {
        Some(value) => Ok(value),
        None if odd => Ok(if negative { i64::MIN } else { i64::MAX }),
        None => Err(BencodeError::Integer),
    }
}

/// A value to write. Keys of a dictionary come out sorted, whatever the order they were put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// A number.
    Int(i64),
    /// A string.
    Bytes(Bytes),
    /// A list.
    List(Vec<Self>),
    /// A dictionary.
    Dict(BTreeMap<Vec<u8>, Self>),
    /// A value that is bencoded already and is written as it is.
    Raw(Bytes),
}

impl Tree {
    /// A string.
    pub fn text(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// A dictionary.
    pub fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Dict(entries.into_iter().map(|(key, value)| (key.as_bytes().to_vec(), value)).collect())
    }

    /// The encoded value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Int(value) => out.extend_from_slice(format!("i{value}e").as_bytes()),
            Self::Bytes(bytes) => write_string(out, bytes),
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::List(items) => {
                out.push(b'l');
                items.iter().for_each(|item| item.write(out));
                out.push(b'e');
            }
            Self::Dict(entries) => {
                out.push(b'd');
                for (key, value) in entries {
                    write_string(out, key);
                    value.write(out);
                }
                out.push(b'e');
            }
        }
    }
}

fn write_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STRICT: Limits = Limits::NETWORK;

    #[test]
    fn a_dictionary_is_read_with_its_spans() {
        let value = Value::parse(b"d1:ai-3e4:infod1:xl1:yee1:ai5ee", STRICT).expect("well formed");
        assert_eq!(value.get("a").and_then(Value::int), Some(-3), "the first of two equal keys counts");
        let info = value.get("info").expect("info");
        assert_eq!(info.raw(), b"d1:xl1:yee");
        assert_eq!(info.get("x").and_then(Value::list).map(<[_]>::len), Some(1));
        assert_eq!(value.get("b"), None);
    }

    //= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
    #[test]
    fn odd_integers_are_refused_on_the_wire_and_tolerated_in_files() {
        for text in ["i00e", "i-0e", "i012e", "i9223372036854775808e", "01:a"] {
            assert_eq!(Value::parse(text.as_bytes(), STRICT), Err(BencodeError::Integer), "{text}");
            assert!(Value::parse(text.as_bytes(), Limits::FILE).is_ok(), "{text}");
        }
        let huge = Value::parse(b"i-99999999999999999999e", Limits::FILE).expect("tolerated");
        assert_eq!(huge.int(), Some(i64::MIN));
        for text in ["ie", "i-e", "i+1e", "i 1e", "i1.0e"] {
            assert_eq!(Value::parse(text.as_bytes(), Limits::FILE), Err(BencodeError::Integer), "{text}");
        }
        assert_eq!(Value::parse(b"i-9223372036854775808e", STRICT).expect("fits").int(), Some(i64::MIN));
    }

    #[test]
    fn depth_entries_and_values_are_limited() {
        let deep = |depth: usize| [vec![b'l'; depth], vec![b'e'; depth]].concat();
        assert!(Value::parse(&deep(32), STRICT).is_ok());
        assert_eq!(Value::parse(&deep(33), STRICT), Err(BencodeError::Depth));
        assert_eq!(Value::parse(&deep(65), Limits::FILE), Err(BencodeError::Depth));
        let wide = |len: usize| [b"l".to_vec(), b"0:".repeat(len), b"e".to_vec()].concat();
        assert!(Value::parse(&wide(4_096), STRICT).is_ok());
        assert_eq!(Value::parse(&wide(4_097), STRICT), Err(BencodeError::Count));
        let many = [b"l".to_vec(), wide(4_000).repeat(5), b"e".to_vec()].concat();
        assert_eq!(Value::parse(&many, STRICT), Err(BencodeError::Count));
    }

    #[test]
    fn keys_must_be_strings_and_nothing_may_follow() {
        assert!(Value::parse(b"di1e1:ae", STRICT).is_err());
        assert_eq!(Value::parse(b"i1ei2e", STRICT), Err(BencodeError::Trailing));
        assert_eq!(Value::parse(b"99999999999999999999:", STRICT), Err(BencodeError::Integer));
        assert_eq!(Value::parse(b"18446744073709551615:", Limits::FILE), Err(BencodeError::Integer));
        assert_eq!(Value::parse(b"5:abc", STRICT), Err(BencodeError::Short));
        assert_eq!(Value::parse(b"x", STRICT), Err(BencodeError::Unexpected { left: 1 }));
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Tree::Int),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Tree::Bytes(bytes.into())),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Tree::List),
                proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 0..5), inner, 0..5)
                    .prop_map(Tree::Dict),
            ]
        })
    }

    fn matches(value: &Value<'_>, tree: &Tree) -> bool {
        match tree {
            Tree::Int(number) => value.int() == Some(*number),
            Tree::Bytes(bytes) => value.bytes() == Some(bytes),
            Tree::List(items) => {
                let list = value.list().unwrap_or_default();
                list.len() == items.len() && list.iter().zip(items).all(|(value, tree)| matches(value, tree))
            }
            Tree::Dict(entries) => {
                let dict = value.dict().unwrap_or_default();
                let mut pairs = dict.iter().zip(entries);
                dict.len() == entries.len()
                    && pairs.all(|((key, value), (name, tree))| key == name && matches(value, tree))
            }
            Tree::Raw(_) => false,
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_prefix_of_it_is(tree in tree()) {
            let bytes = tree.encode();
            let value = Value::parse(&bytes, STRICT).expect("own encoding");
            prop_assert!(matches(&value, &tree));
            prop_assert_eq!(value.raw(), bytes.as_slice());
            for len in 0..bytes.len() {
                prop_assert!(Value::parse(&bytes[..len], STRICT).is_err());
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(proptest::sample::select(b"idle0123456789:-ex\xff".to_vec()), 0..64)
        ) {
            let _ = Value::parse(&bytes, STRICT);
            let _ = Value::parse(&bytes, Limits::FILE);
        }
    }
}
