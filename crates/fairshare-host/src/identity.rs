//! The identity file: the private key, readable by its owner only, written once and whole. Without a passphrase it is
//! the 74 bytes of the key, with one a standard age file. A plain file becomes an age file at the first start with a
//! passphrase; an age file never becomes plain.
//= spec/README.md#who-decides-what-where-two-documents-touch

use crate::error::StartError;
use crate::sealed::{OpenError, Passphrase, SEALED_MAX, is_sealed, open, seal};
use fairshare_crypto::{KEY_LEN, Rng, SecretKey};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const IDENTITY_FILE: &str = "identity";
const DRAFT_FILE: &str = "identity.new";
/// What will replace a plain file. Not the draft's name: a draft is taken for a key that never signed.
const SEALED_FILE: &str = "identity.sealed";
const OWNER_ONLY: u32 = 0o600;

/// How the identity of a running node lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityForm {
    /// The bare key. Whoever reads the file has it.
    Plain,
    /// An age file with a passphrase.
    Sealed,
    /// An age file since this start; it was plain before. Older copies of it are plain still.
    SealedNow,
}

/// Where the identity of a data folder lies.
pub fn identity_path(dir: &Path) -> PathBuf {
    dir.join(IDENTITY_FILE)
}

/// Reads the identity of a data folder; `None` if it has none yet. The passphrase is not needed for a plain file.
///
/// # Errors
/// The file cannot be read, holds no key, or does not open with this passphrase.
pub fn load_identity(dir: &Path, passphrase: Option<&Passphrase>) -> Result<Option<SecretKey>, StartError> {
    Ok(load(&identity_path(dir), passphrase)?.map(|(key, _)| key))
}

/// The key of a starting node. A new one lies in a draft file until its ledger exists: so an identity file without a
/// ledger always means that a ledger was lost, never that the first start was cut short.
pub(crate) struct Identity {
    key: SecretKey,
    form: IdentityForm,
    dir: PathBuf,
    old: bool,
    passphrase: Option<Passphrase>,
}

impl Identity {
    /// The identity of a data folder, or a draft of one. The caller holds the folder's lock.
    pub(crate) fn load_or_draft(dir: &Path, passphrase: Option<Passphrase>) -> Result<Self, StartError> {
        let dir = dir.to_path_buf();
        if let Some((key, form)) = load(&identity_path(&dir), passphrase.as_ref())? {
            return Ok(Self { key, form, dir, old: true, passphrase });
        }
        let path = dir.join(DRAFT_FILE);
        // Nothing was ever signed with a draft; but its ledger may be made already, so it is taken up again.
        match load(&path, passphrase.as_ref()) {
            Ok(Some((key, form))) => return Ok(Self { key, form, dir, old: false, passphrase }),
            Err(error @ (StartError::WrongPassphrase { .. } | StartError::PassphraseMissing { .. })) => {
                return Err(error);
            }
            Ok(None) | Err(_) => {}
        }
        let key = SecretKey::generate(&mut Rng::from_seed(entropy()?));
        let form = if passphrase.is_some() { IdentityForm::Sealed } else { IdentityForm::Plain };
        write_new(&path, &key, passphrase.as_ref()).map_err(|source| StartError::DataDir { path, source })?;
        Ok(Self { key, form, dir, old: false, passphrase })
    }

    pub(crate) const fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Whether the key may have signed before.
    pub(crate) const fn is_old(&self) -> bool {
        self.old
    }

    /// Makes a draft the identity of the folder, and a plain file one under the passphrase if there is one.
    pub(crate) fn keep(self) -> Result<(SecretKey, IdentityForm), StartError> {
        if !self.old {
            self.take_place(&self.dir.join(DRAFT_FILE))?;
        }
        if let (IdentityForm::Plain, Some(passphrase)) = (self.form, &self.passphrase) {
            self.replace_plain(passphrase)?;
            return Ok((self.key, IdentityForm::SealedNow));
        }
        Ok((self.key, self.form))
    }

    /// The plain file goes only when its successor was read back from the disk and holds the same key.
    fn replace_plain(&self, passphrase: &Passphrase) -> Result<(), StartError> {
        let path = self.dir.join(SEALED_FILE);
        let refused = |source| StartError::DataDir { path: path.clone(), source };
        write_new(&path, &self.key, Some(passphrase)).map_err(refused)?;
        let same = load(&path, Some(passphrase))?.is_some_and(|(key, _)| key.public() == self.key.public());
        if !same {
            return Err(refused(std::io::Error::other("what was written is not what is read back")));
        }
        self.take_place(&path)
    }

    /// Gives a file that is synced the identity's name.
    fn take_place(&self, from: &Path) -> Result<(), StartError> {
        let path = identity_path(&self.dir);
        let named = std::fs::rename(from, &path);
        named
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .map_err(|source| StartError::DataDir { path, source })
    }
}

fn load(
    path: &Path,
    passphrase: Option<&Passphrase>,
) -> Result<Option<(SecretKey, IdentityForm)>, StartError> {
    let wrong = |reason: String| StartError::WrongKeyFile { path: path.to_path_buf(), reason };
    let refused = |source| StartError::DataDir { path: path.to_path_buf(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(refused(source)),
    };
    // Room for all that is read: a buffer that grows leaves a copy of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * SEALED_MAX));
    file.take(SEALED_MAX as u64).read_to_end(&mut bytes).map_err(refused)?;
    if is_sealed(&bytes) {
        let path = path.to_path_buf();
        let Some(passphrase) = passphrase else { return Err(StartError::PassphraseMissing { path }) };
        return match open(&bytes, passphrase) {
            Ok(key) => Ok(Some((key, IdentityForm::Sealed))),
            Err(OpenError::Passphrase) => Err(StartError::WrongPassphrase { path }),
            Err(OpenError::Form(reason)) => Err(wrong(reason.to_owned())),
        };
    }
    if bytes.len() != KEY_LEN {
        let found = if bytes.len() > KEY_LEN { "more".to_owned() } else { bytes.len().to_string() };
        return Err(wrong(format!("it has {found} bytes, a key has {KEY_LEN}")));
    }
    let key = SecretKey::try_from(bytes.as_slice());
    key.map(|key| Some((key, IdentityForm::Plain)))
        .map_err(|_| wrong("it does not start like a private key".to_owned()))
}

/// Writes a key to a file that is the identity only when it is renamed.
fn write_new(path: &Path, key: &SecretKey, passphrase: Option<&Passphrase>) -> std::io::Result<()> {
    let bytes = Zeroizing::new(match passphrase {
        Some(passphrase) => seal(key, passphrase)?,
        None => Zeroizing::new(key.to_bytes()).to_vec(),
    });
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(OWNER_ONLY).open(path)?;
    // The mode above is for a new file only; one that is left over may have another.
    file.set_permissions(std::fs::Permissions::from_mode(OWNER_ONLY))?;
    file.write_all(&bytes)?;
    file.sync_all()
}

/// 32 random bytes of the operating system.
pub(crate) fn entropy() -> Result<[u8; 32], StartError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| StartError::Entropy(error.to_string()))?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Option<Passphrase> {
        Some(Passphrase::new(text).expect("not empty"))
    }

    fn mode(dir: &Path) -> u32 {
        std::fs::metadata(identity_path(dir)).expect("just written").permissions().mode() & 0o777
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("readable"));
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Makes the identity of a folder.
    fn made(dir: &Path, passphrase: Option<Passphrase>) -> (SecretKey, IdentityForm) {
        Identity::load_or_draft(dir, passphrase).expect("a folder").keep().expect("a writable folder")
    }

    fn refusal(dir: &Path, passphrase: Option<Passphrase>) -> StartError {
        match Identity::load_or_draft(dir, passphrase) {
            Ok(_) => panic!("it must not open"),
            Err(error) => error,
        }
    }

    #[test]
    fn an_identity_is_made_once_and_read_back() {
        for (given, form) in [(None, IdentityForm::Plain), (passphrase("right"), IdentityForm::Sealed)] {
            let dir = tempfile::tempdir().expect("temporary folder");
            let load = || load_identity(dir.path(), given.as_ref());
            assert!(load().expect("an empty folder").is_none());
            let draft = Identity::load_or_draft(dir.path(), given.clone()).expect("a writable folder");
            assert!(!draft.is_old());
            assert!(load().expect("a draft is no identity").is_none());
            let again =
                Identity::load_or_draft(dir.path(), given.clone()).expect("a start that was cut short");
            assert_eq!(again.key().public(), draft.key().public());
            let (key, made_as) = again.keep().expect("a writable folder");
            assert_eq!(made_as, form);
            let kept = Identity::load_or_draft(dir.path(), given.clone()).expect("own file");
            assert!(kept.is_old());
            assert_eq!((kept.key().public(), kept.form), (key.public(), form));
            assert_eq!(load().expect("own file").expect("made above").public(), key.public());
            assert_eq!(mode(dir.path()), OWNER_ONLY);
            assert_eq!(names(dir.path()), [IDENTITY_FILE], "no temporary file is left");
        }
    }

    //= spec/README.md#who-decides-what-where-two-documents-touch
    #[test]
    fn under_a_passphrase_the_key_is_in_no_file_not_even_in_the_draft() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let draft = Identity::load_or_draft(dir.path(), passphrase("right")).expect("a writable folder");
        assert!(is_sealed(&std::fs::read(dir.path().join(DRAFT_FILE)).expect("the draft")));
        draft.keep().expect("a writable folder");
        assert!(is_sealed(&std::fs::read(identity_path(dir.path())).expect("the identity")));
    }

    #[test]
    fn an_identity_under_a_passphrase_opens_with_it_only_and_a_refusal_changes_nothing() {
        let dir = tempfile::tempdir().expect("temporary folder");
        made(dir.path(), passphrase("right"));
        let before = std::fs::read(identity_path(dir.path())).expect("made above");
        assert!(matches!(refusal(dir.path(), passphrase("wrong")), StartError::WrongPassphrase { .. }));
        assert!(matches!(refusal(dir.path(), None), StartError::PassphraseMissing { .. }));
        assert_eq!(std::fs::read(identity_path(dir.path())).expect("still there"), before);
        assert_eq!(names(dir.path()), [IDENTITY_FILE]);
    }

    #[test]
    fn a_draft_under_another_passphrase_is_kept() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let draft = Identity::load_or_draft(dir.path(), passphrase("right")).expect("a writable folder");
        assert!(matches!(refusal(dir.path(), passphrase("wrong")), StartError::WrongPassphrase { .. }));
        assert!(matches!(refusal(dir.path(), None), StartError::PassphraseMissing { .. }));
        assert_eq!(made(dir.path(), passphrase("right")).0.public(), draft.key().public());
    }

    #[test]
    fn a_plain_identity_is_sealed_at_the_first_start_with_a_passphrase() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (key, form) = made(dir.path(), None);
        assert_eq!(form, IdentityForm::Plain);
        let opened = Identity::load_or_draft(dir.path(), passphrase("right")).expect("a plain file");
        let plain = std::fs::read(identity_path(dir.path())).expect("made above");
        assert_eq!(plain, key.to_bytes(), "a start that fails before the key is kept changes nothing");
        let (kept, form) = opened.keep().expect("a writable folder");
        assert_eq!((kept.public(), form), (key.public(), IdentityForm::SealedNow));
        assert_eq!((mode(dir.path()), names(dir.path())), (OWNER_ONLY, vec![IDENTITY_FILE.to_owned()]));
        let (again, form) = made(dir.path(), passphrase("right"));
        assert_eq!((again.public(), form), (key.public(), IdentityForm::Sealed));
        assert!(matches!(refusal(dir.path(), None), StartError::PassphraseMissing { .. }));
    }

    #[test]
    fn a_plain_draft_is_sealed_too() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let draft = Identity::load_or_draft(dir.path(), None).expect("a writable folder");
        let (key, form) = made(dir.path(), passphrase("right"));
        assert_eq!((key.public(), form), (draft.key().public(), IdentityForm::SealedNow));
        assert_eq!(names(dir.path()), [IDENTITY_FILE]);
    }

    #[test]
    fn a_plain_identity_stays_whole_when_it_cannot_be_sealed() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (key, _) = made(dir.path(), None);
        std::fs::create_dir(dir.path().join(SEALED_FILE)).expect("in the way");
        let opened = Identity::load_or_draft(dir.path(), passphrase("right")).expect("a plain file");
        assert!(matches!(opened.keep(), Err(StartError::DataDir { .. })));
        assert_eq!(std::fs::read(identity_path(dir.path())).expect("still there"), key.to_bytes());
    }

    #[test]
    fn a_file_of_another_form_is_refused_and_kept() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = identity_path(dir.path());
        let mut public = b"LibNaCLPK:".to_vec();
        public.resize(KEY_LEN, 7);
        let damaged = b"age-encryption.org/v1\n-> scrypt".to_vec();
        for wrong in [
            Vec::new(),
            b"LibNaCLSK:short".to_vec(),
            vec![7; KEY_LEN],
            vec![7; KEY_LEN + 1],
            vec![7; 2 * SEALED_MAX],
            public,
            damaged,
        ] {
            std::fs::write(&path, &wrong).expect("writable");
            let loaded = load_identity(dir.path(), passphrase("right").as_ref());
            assert!(matches!(loaded, Err(StartError::WrongKeyFile { .. })), "{wrong:?}");
            assert_eq!(std::fs::read(&path).expect("still there"), wrong);
        }
    }
}
