//! The passphrase of the identity, from a file descriptor: an argument or a variable can be read by other programs.
//= spec/interfaces.md#41-contract-for-scripts-stable-from-the-first-release-tests-rely-on-it

use crate::failure::{Failure, Outcome};
use fairshare_host::Passphrase;
use std::fs::File;
use std::io::Read;
use zeroize::Zeroizing;

/// Longer than any passphrase, so that a wrong descriptor is noticed and not read for ever.
const PASSPHRASE_MAX: usize = 1_024;

/// Reads the passphrase from a descriptor this program was started with: all up to the first line end.
pub(crate) fn read(descriptor: u32) -> Outcome<Passphrase> {
    // The system's name of an open descriptor; to take it by number alone would need unsafe code.
    let file = File::open(format!("/dev/fd/{descriptor}"));
    let line = file.and_then(first_line).map_err(|error| {
        bad(format!("the passphrase cannot be read from descriptor {descriptor}: {error}"))
    })?;
    let text = std::str::from_utf8(&line).map_err(|_| bad("the passphrase is no UTF-8 text"))?;
    if text.len() > PASSPHRASE_MAX {
        return Err(bad(format!("the passphrase is longer than {PASSPHRASE_MAX} bytes")));
    }
    Passphrase::new(text).ok_or_else(|| bad("the passphrase is empty"))
}

fn bad(what: impl Into<String>) -> Failure {
    Failure::bad_use("passphrase", what).hint("for example: fairshare run --passphrase-fd 3 3<FILE")
}

/// The bytes before the first line end, or so many that they are too many.
fn first_line(mut source: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(vec![0; PASSPHRASE_MAX + 1]);
    let mut filled = 0;
    while let Some(rest) = line.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let read = match source.read(rest) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = rest.iter().take(read).position(|&byte| byte == b'\n');
        filled += end.unwrap_or(read);
        if end.is_some() {
            break;
        }
    }
    line.truncate(filled);
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that gives one byte a time, as a pipe may.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(&mut buffer[..1])
        }
    }

    #[test]
    fn a_passphrase_ends_at_the_first_line_end_or_with_the_input() {
        for (input, line) in [
            ("right", "right"),
            ("right\nmore\n", "right"),
            ("\nmore", ""),
            ("", ""),
            (" a b \r\n", " a b \r"),
        ] {
            assert_eq!(*first_line(input.as_bytes()).expect("memory"), line.as_bytes(), "{input:?}");
            assert_eq!(*first_line(Slow(input.as_bytes())).expect("memory"), line.as_bytes(), "{input:?}");
        }
    }

    #[test]
    fn reading_stops_where_a_passphrase_is_too_long() {
        assert_eq!(first_line(std::io::repeat(b'x')).expect("endless").len(), PASSPHRASE_MAX + 1);
    }
}
