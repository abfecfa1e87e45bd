//! Numbers and times as people read them. Bytes and tokens are exact integers until the last moment.

/// One token is 1 MiB.
//= spec/economy.md#2-unit-and-ledger-ours
pub(crate) const TOKEN: u64 = 1_048_576;

/// Tokens with two decimals and a sign, rounded towards zero: `+1.50`, `-0.25`, `0.00`.
pub(crate) fn tokens(bytes: i128) -> String {
    let hundredths = bytes.unsigned_abs() * 100 / u128::from(TOKEN);
    let sign = match bytes {
        _ if hundredths == 0 => "",
        0.. => "+",
        _ => "-",
    };
    format!("{sign}{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Bytes with a binary prefix: `512 B`, `1.5 MiB`.
pub(crate) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scale = 1u64;
    while unit + 1 < UNITS.len() && amount / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{amount} B");
    }
    let tenths = u128::from(amount) * 10 / u128::from(scale);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// The first eight digits of the part of a key that tells keys apart.
pub(crate) fn short_key(key: &fairshare_crypto::PublicKey) -> String {
    let bytes = key.as_bytes();
    hex::encode(&bytes[bytes.len() - 4..])
}

/// A moment in RFC 3339, UTC, with milliseconds.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar. Years are counted from
/// March, so that the leap day is the last of its year.
fn civil_date(days: u64) -> (u64, u64, u64) {
    // Days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_two_decimals_and_a_sign() {
        assert_eq!(tokens(0), "0.00");
        assert_eq!(tokens(i128::from(TOKEN) * 3 / 2), "+1.50");
        assert_eq!(tokens(-i128::from(TOKEN) / 4), "-0.25");
        assert_eq!(tokens(-10), "0.00");
    }

    #[test]
    fn bytes_have_a_binary_prefix() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
    }

    #[test]
    fn known_moments_have_their_known_dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_764_039_291_007), "2025-11-25T02:54:51.007Z");
        assert_eq!(rfc3339(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
    }
}
