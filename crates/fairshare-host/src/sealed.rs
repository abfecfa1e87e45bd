//! A private key under a passphrase: a standard age file, so that the age tool opens it too.
//!
//! Inside are two lines, `fairshare-identity-1` and the key in hex: the form a backup of an identity has.
//= spec/wallets.md#4-key-store

use age::scrypt;
use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor};
use fairshare_crypto::{KEY_LEN, SecretKey};
use std::fmt;
use std::io::{Read, Write};
use zeroize::Zeroizing;

/// More than an identity under a passphrase has (some 400 bytes), so that no stray file is read whole.
pub(crate) const SEALED_MAX: usize = 4_096;
/// A file may ask for 2^22 rounds (4 GiB of memory) and no more; a new file gets what takes this machine about a second.
//= spec/wallets.md#4-key-store
const WORK_MAX: u8 = 22;
const AGE_MAGIC: &[u8] = b"age-encryption.org/";
const FIRST_LINE: &str = "fairshare-identity-1";

/// A passphrase, at least one character long. It is wiped from memory when dropped and never shown.
#[derive(Clone)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// The text as a passphrase; `None` if it is empty. The caller wipes the text.
    pub fn new(text: &str) -> Option<Self> {
        // A fresh string has no spare room, so that it is taken over without a second copy.
        (!text.is_empty()).then(|| Self(SecretString::from(text.to_owned())))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Why a file under a passphrase gives no key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// The passphrase is another one.
    Passphrase,
    /// The file is damaged, or not of this kind.
    Form(&'static str),
}

/// Whether these are the first bytes of an age file.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(AGE_MAGIC)
}

/// The age file of a key.
pub(crate) fn seal(key: &SecretKey, passphrase: &Passphrase) -> std::io::Result<Vec<u8>> {
    let recipient = recipient(passphrase);
    let encryptor = Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
        .expect("one passphrase is a valid set of recipients");
    let mut digits = Zeroizing::new([0; 2 * KEY_LEN]);
    hex::encode_to_slice(*Zeroizing::new(key.to_bytes()), &mut *digits).expect("two digits a byte");
    let mut writer = encryptor.wrap_output(Vec::new())?;
    writer.write_all(FIRST_LINE.as_bytes())?;
    writer.write_all(b"\n")?;
    writer.write_all(&*digits)?;
    writer.write_all(b"\n")?;
    writer.finish()
}

/// The key in an age file.
pub(crate) fn open(bytes: &[u8], passphrase: &Passphrase) -> Result<SecretKey, OpenError> {
    const DAMAGED: OpenError = OpenError::Form("it is a damaged age file");
    let decryptor = Decryptor::new_buffered(bytes).map_err(|_| DAMAGED)?;
    if !decryptor.is_scrypt() {
        return Err(OpenError::Form("it is an age file for a key, not under a passphrase"));
    }
    let mut identity = scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(WORK_MAX);
    let opened = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity));
    let reader = opened.map_err(|error| match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => OpenError::Passphrase,
        DecryptError::ExcessiveWork { .. } => OpenError::Form("it asks for more work than 2^22"),
        _ => DAMAGED,
    })?;
    // Room for all there can be: a buffer that grows leaves a copy of the key behind.
    let mut content = Zeroizing::new(Vec::with_capacity(2 * SEALED_MAX));
    reader.take(SEALED_MAX as u64).read_to_end(&mut content).map_err(|_| DAMAGED)?;
    parse(&content).ok_or(OpenError::Form("it is an age file with something else than an identity inside"))
}

fn parse(content: &[u8]) -> Option<SecretKey> {
    let mut lines = std::str::from_utf8(content).ok()?.lines();
    let (first, digits) = (lines.next()?, lines.next()?);
    if first != FIRST_LINE || lines.next().is_some() {
        return None;
    }
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    hex::decode_to_slice(digits, &mut *bytes).ok()?;
    SecretKey::try_from(bytes.as_slice()).ok()
}

#[cfg(not(test))]
fn recipient(passphrase: &Passphrase) -> scrypt::Recipient {
    scrypt::Recipient::new(passphrase.0.clone())
}

/// The tests of this crate seal often and guard nothing.
#[cfg(test)]
fn recipient(passphrase: &Passphrase) -> scrypt::Recipient {
    let mut recipient = scrypt::Recipient::new(passphrase.0.clone());
    recipient.set_work_factor(4);
    recipient
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;

    fn key() -> SecretKey {
        SecretKey::generate(&mut Rng::from_seed([7; 32]))
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).expect("not empty")
    }

    fn refusal(bytes: &[u8], text: &str) -> OpenError {
        match open(bytes, &passphrase(text)) {
            Ok(_) => panic!("it must not open"),
            Err(error) => error,
        }
    }

    /// An age file under a passphrase with this content.
    fn age_file(content: &[u8]) -> Vec<u8> {
        let recipient = recipient(&passphrase("right"));
        let encryptor = Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient));
        let mut writer = encryptor.expect("one recipient").wrap_output(Vec::new()).expect("memory");
        writer.write_all(content).expect("memory");
        writer.finish().expect("memory")
    }

    //= spec/wallets.md#4-key-store
    #[test]
    fn what_was_sealed_opens_with_its_passphrase_only() {
        let sealed = seal(&key(), &passphrase("right")).expect("memory");
        assert!(is_sealed(&sealed) && sealed.len() < SEALED_MAX);
        assert!(!sealed.windows(8).any(|part| key().to_bytes().windows(8).any(|secret| secret == part)));
        assert_eq!(open(&sealed, &passphrase("right")).expect("own file").to_bytes(), key().to_bytes());
        assert_eq!(refusal(&sealed, "wrong"), OpenError::Passphrase);
        assert_eq!(refusal(&sealed, "right\n"), OpenError::Passphrase);
    }

    #[test]
    fn no_changed_or_shortened_file_opens() {
        let sealed = seal(&key(), &passphrase("right")).expect("memory");
        for at in 0..sealed.len() {
            refusal(&sealed[..at], "right");
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            refusal(&changed, "right");
        }
    }

    //= spec/wallets.md#4-key-store
    #[test]
    fn a_file_that_asks_for_more_than_the_bound_is_refused_without_work() {
        let sealed = seal(&key(), &passphrase("right")).expect("memory");
        let end = sealed.windows(3).position(|part| part == b" 4\n").expect("the work factor");
        let greedy = [&sealed[..end], b" 23", &sealed[end + 2..]].concat();
        assert_eq!(refusal(&greedy, "right"), OpenError::Form("it asks for more work than 2^22"));
    }

    #[test]
    fn other_content_is_no_identity() {
        let digits = hex::encode(key().to_bytes());
        let right = format!("{FIRST_LINE}\n{digits}");
        assert!(
            open(&age_file(right.as_bytes()), &passphrase("right")).is_ok(),
            "the last line needs no end"
        );
        for wrong in [
            String::new(),
            digits.clone(),
            format!("fairshare-seed-1\n{digits}\n"),
            format!("{right}\n\n"),
            format!("{right}00\n"),
        ] {
            assert!(matches!(refusal(&age_file(wrong.as_bytes()), "right"), OpenError::Form(_)), "{wrong}");
        }
    }

    #[test]
    fn a_passphrase_is_never_empty_and_never_shown() {
        assert!(Passphrase::new("").is_none());
        assert_eq!(format!("{:?}", Some(passphrase("right"))), "Some(<secret>)");
    }
}
