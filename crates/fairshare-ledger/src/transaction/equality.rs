//! When Python calls two keys of a dictionary, or two members of a set, the same.

use super::{Float, Integer, TransactionError, Value};

/// Equal exactly for values that Python's dictionaries take for one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EqualityKey {
    None,
    /// Every whole number, whether int, bool or float, in decimal.
    Whole(Integer),
    /// Any other float, by its bits.
    Part(u64),
    /// Positive or negative infinity.
    Infinite(bool),
    Text(String),
    Bytes(Vec<u8>),
    Tuple(Vec<Self>),
}

impl EqualityKey {
    /// The key of a value; `None` for what differs even from itself.
    pub(super) fn of(value: &Value) -> Result<Option<Self>, TransactionError> {
        Ok(Some(match value {
            Value::None => Self::None,
            Value::Bool(bit) => Self::Whole(Integer::from(i128::from(*bit))),
            Value::Int(number) => Self::Whole(number.clone()),
            Value::Float(Float(number)) => return Ok(Self::of_float(*number)),
            Value::Text(text) => Self::Text(text.clone()),
            Value::Bytes(bytes) => Self::Bytes(bytes.clone()),
            Value::Tuple(values) => {
                // All members are looked at first: one that cannot be a key spoils the tuple in any case.
                let members: Vec<_> = values.iter().map(Self::of).collect::<Result<_, _>>()?;
                return Ok(members.into_iter().collect::<Option<_>>().map(Self::Tuple));
            }
            Value::List(_) | Value::Set(_) | Value::Dict(_) => return Err(TransactionError::Unhashable),
        }))
    }

    fn of_float(number: f64) -> Option<Self> {
        if number.is_nan() {
            return None;
        }
        if number.is_infinite() {
            return Some(Self::Infinite(number > 0.0));
        }
        if number.fract() != 0.0 {
            return Some(Self::Part(number.to_bits()));
        }
        // Printing without decimals is exact for whole doubles, however large.
        let whole = Integer::parse(format!("{number:.0}").as_bytes());
        Some(Self::Whole(whole.expect("a whole double prints as digits, at most 309 of them")))
    }
}
