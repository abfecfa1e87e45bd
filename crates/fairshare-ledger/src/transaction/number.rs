//! Whole numbers of any size and doubles, read and printed as Python does.

use super::TransactionError;
use std::fmt;

/// The most digits Python reads into a number.
pub const INTEGER_DIGITS_MAX: usize = 4300;

/// A whole number of any size. Kept as a machine number where it fits, so equal numbers are equal values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Integer(Repr);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Repr {
    Small(i128),
    /// Decimal digits without leading zeros, with "-" if negative; always outside the range of `Small`.
    Big(String),
}

impl Integer {
    /// Reads what Python's `int()` takes: blanks around, a sign, leading zeros, single underscores inside.
    pub fn parse(body: &[u8]) -> Result<Self, TransactionError> {
        let body = trim_blanks(body);
        let (negative, digits) = match body.split_first() {
            Some((b'-', digits)) => (true, digits),
            Some((b'+', digits)) => (false, digits),
            _ => (false, body),
        };
        let digits = join_digits(digits).ok_or(TransactionError::Number)?;
        if digits.is_empty() || digits.len() > INTEGER_DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
            return Err(TransactionError::Number);
        }
        let digits = std::str::from_utf8(&digits).map_err(|_| TransactionError::Number)?;
        let digits = digits.trim_start_matches('0');
        let text = format!("{}{digits:0>1}", if negative { "-" } else { "" });
        Ok(text.parse().map_or(Self(Repr::Big(text)), |small| Self(Repr::Small(small))))
    }

    /// The number, if it fits.
    pub const fn to_i128(&self) -> Option<i128> {
        match &self.0 {
            Repr::Small(small) => Some(*small),
            Repr::Big(_) => None,
        }
    }
}

impl From<i128> for Integer {
    fn from(number: i128) -> Self {
        Self(Repr::Small(number))
    }
}

impl fmt::Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Small(small) => write!(f, "{small}"),
            Repr::Big(text) => f.write_str(text),
        }
    }
}

/// A double. Compared by its bits, so that a decoded NaN equals itself.
#[derive(Clone, Copy, Debug)]
pub struct Float(pub f64);

impl Float {
    /// Reads what Python's `float()` takes from ASCII: blanks around, single underscores between digits, `inf`,
    /// `infinity` and `nan` in any case; no hexadecimal form.
    pub fn parse(body: &[u8]) -> Result<Self, TransactionError> {
        let joined = join_digits(trim_blanks(body)).ok_or(TransactionError::Number)?;
        let text = std::str::from_utf8(&joined).map_err(|_| TransactionError::Number)?;
        text.parse().map(Self).map_err(|_| TransactionError::Number)
    }
}

impl PartialEq for Float {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits() || (self.0.is_nan() && other.0.is_nan())
    }
}

/// Python's `repr`: the shortest digits that read back as the same double.
impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nan() {
            return f.write_str("nan");
        }
        if self.0.is_infinite() {
            return f.write_str(if self.0 > 0.0 { "inf" } else { "-inf" });
        }
        let shortest = format!("{:e}", self.0.abs());
        let (mantissa, exponent) = shortest.split_once('e').expect("the exponent form has an exponent");
        let exponent: i32 = exponent.parse().expect("the exponent of a double is a small number");
        let digits = mantissa.replace('.', "");
        let sign = if self.0.is_sign_negative() { "-" } else { "" };
        write!(f, "{sign}{}", lay_out(&digits, exponent))
    }
}

/// Decimal text of 0.d1d2d3... * 10^(exponent + 1), with an exponent outside of 1e-4 .. 1e16.
fn lay_out(digits: &str, exponent: i32) -> String {
    let (first, rest) = digits.split_at(1);
    if !(-4..16).contains(&exponent) {
        let point = if rest.is_empty() { "" } else { "." };
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{first}{point}{rest}e{sign}{:02}", exponent.unsigned_abs());
    }
    let before = exponent.unsigned_abs() as usize;
    if exponent < 0 {
        return format!("0.{}{digits}", "0".repeat(before - 1));
    }
    let whole = before + 1;
    match digits.split_at_checked(whole) {
        Some((whole, "")) => format!("{whole}.0"),
        Some((whole, part)) => format!("{whole}.{part}"),
        None => format!("{digits:0<whole$}.0"),
    }
}

/// Without the blanks that Python strips around a number.
fn trim_blanks(body: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\x0b' | b'\x0c' | b'\r');
    let from = body.iter().position(|byte| !blank(byte)).unwrap_or(body.len());
    let to = body.iter().rposition(|byte| !blank(byte)).map_or(from, |last| last + 1);
    body.get(from..to).unwrap_or_default()
}

/// The bytes without underscores; `None` if one does not stand alone between two digits.
fn join_digits(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len());
    let mut before = None;
    let mut bytes = body.iter().peekable();
    while let Some(byte) = bytes.next() {
        if *byte == b'_' {
            let after_digit = before.is_some_and(u8::is_ascii_digit);
            let before_digit = bytes.peek().is_some_and(|next| next.is_ascii_digit());
            if !after_digit || !before_digit {
                return None;
            }
        } else {
            out.push(*byte);
        }
        before = Some(byte);
    }
    Some(out)
}
