//! Reading and writing of big-endian fields. Reading never panics and never allocates more than it was given.

use thiserror::Error;

/// Why a field could not be read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// The input ends inside the field.
    #[error("input ends early: {wanted} bytes wanted, {left} left")]
    Short {
        /// Bytes the field needs.
        wanted: usize,
        /// Bytes that were left.
        left: usize,
    },
    /// Bytes follow where the message should end.
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
    /// A field holds a value that its type does not allow.
    #[error("field {0} holds a value that is not allowed")]
    Value(&'static str),
}

/// A cursor over received bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    input: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A cursor at the start of `input`.
    pub const fn new(input: &'a [u8]) -> Self {
        Self { input }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], ReadError> {
        let short = ReadError::Short { wanted: len, left: self.input.len() };
        let (head, tail) = self.input.split_at_checked(len).ok_or(short)?;
        self.input = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, ReadError> {
        self.array().map(|[byte]| byte)
    }

    /// A big-endian `u16`.
    pub fn u16(&mut self) -> Result<u16, ReadError> {
        self.array().map(u16::from_be_bytes)
    }

    /// A big-endian `u32`.
    pub fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A big-endian `u64`.
    pub fn u64(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A big-endian `i32`.
    pub fn i32(&mut self) -> Result<i32, ReadError> {
        self.array().map(i32::from_be_bytes)
    }

    /// A big-endian `i64`.
    pub fn i64(&mut self) -> Result<i64, ReadError> {
        self.array().map(i64::from_be_bytes)
    }

    /// `u16` length, then that many bytes.
    pub fn var16(&mut self) -> Result<&'a [u8], ReadError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// `u32` length, then that many bytes.
    pub fn var32(&mut self) -> Result<&'a [u8], ReadError> {
        let len = self.u32()?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// All bytes that are left.
    pub const fn rest(&mut self) -> &'a [u8] {
        let rest = self.input;
        self.input = &[];
        rest
    }

    /// How many bytes are left.
    pub const fn left(&self) -> usize {
        self.input.len()
    }

    /// Fails unless everything was read.
    pub const fn end(self) -> Result<(), ReadError> {
        if self.input.is_empty() { Ok(()) } else { Err(ReadError::Trailing(self.input.len())) }
    }
}

/// Builds a message field by field.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty message.
    pub const fn new() -> Self {
        Self { out: Vec::new() }
    }

    /// An empty message with room for `len` bytes.
    pub fn with_capacity(len: usize) -> Self {
        Self { out: Vec::with_capacity(len) }
    }

    /// Goes on behind what `out` holds.
    pub const fn appending(out: Vec<u8>) -> Self {
        Self { out }
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// Appends a big-endian `u16`.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a big-endian `u32`.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a big-endian `u64`.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a big-endian `i32`.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a big-endian `i64`.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends a `u16` length and the bytes. The caller bounds them: 65,535 at most.
    pub fn var16(&mut self, bytes: &[u8]) -> &mut Self {
        let len = u16::try_from(bytes.len()).expect("the caller bounds a var16 field");
        self.u16(len).bytes(bytes)
    }

    /// Appends a `u32` length and the bytes.
    pub fn var32(&mut self, bytes: &[u8]) -> &mut Self {
        let len = u32::try_from(bytes.len()).expect("the caller bounds a var32 field");
        self.u32(len).bytes(bytes)
    }

    /// The bytes written so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }

    /// The finished message.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written() {
        let bytes = Writer::new().u8(1).u16(2).u32(3).u64(4).i32(-5).var16(b"ab").bytes(b"z").finish();
        let mut input = Reader::new(&bytes);
        assert_eq!(input.u8(), Ok(1));
        assert_eq!(input.u16(), Ok(2));
        assert_eq!(input.u32(), Ok(3));
        assert_eq!(input.u64(), Ok(4));
        assert_eq!(input.i32(), Ok(-5));
        assert_eq!(input.var16(), Ok(b"ab".as_slice()));
        assert_eq!(input.clone().end(), Err(ReadError::Trailing(1)));
        assert_eq!(input.rest(), b"z");
        assert_eq!(input.end(), Ok(()));
    }

    #[test]
    fn a_length_beyond_the_input_is_an_error() {
        assert_eq!(Reader::new(&[0xff; 6]).var32(), Err(ReadError::Short { wanted: 0xffff_ffff, left: 2 }));
    }
}
