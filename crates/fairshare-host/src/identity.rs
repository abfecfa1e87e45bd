//! The identity file: the 74 bytes of the private key, readable by its owner only, written once and whole.
//= spec/README.md#who-decides-what-where-two-documents-touch

use crate::error::StartError;
use fairshare_crypto::{KEY_LEN, Rng, SecretKey};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const IDENTITY_FILE: &str = "identity";
const DRAFT_FILE: &str = "identity.new";
const OWNER_ONLY: u32 = 0o600;

/// Where the identity of a data folder lies.
pub fn identity_path(dir: &Path) -> PathBuf {
    dir.join(IDENTITY_FILE)
}

/// Reads the identity of a data folder; `None` if it has none yet.
///
/// # Errors
/// The file cannot be read, or holds no key.
pub fn load_identity(dir: &Path) -> Result<Option<SecretKey>, StartError> {
    load(&identity_path(dir))
}

/// The key of a starting node. A new one lies in a draft file until its ledger exists: so an identity file without a
/// ledger always means that a ledger was lost, never that the first start was cut short.
pub(crate) struct Identity {
    key: SecretKey,
    dir: PathBuf,
    old: bool,
}

impl Identity {
    /// The identity of a data folder, or a draft of one. The caller holds the folder's lock.
    pub(crate) fn load_or_draft(dir: &Path) -> Result<Self, StartError> {
        let dir = dir.to_path_buf();
        if let Some(key) = load_identity(&dir)? {
            return Ok(Self { key, dir, old: true });
        }
        // Nothing was ever signed with a draft; but its ledger may be made already, so it is taken up again.
        if let Ok(Some(key)) = load(&dir.join(DRAFT_FILE)) {
            return Ok(Self { key, dir, old: false });
        }
        let key = SecretKey::generate(&mut Rng::from_seed(entropy()?));
        let path = dir.join(DRAFT_FILE);
        write_draft(&path, &key).map_err(|source| StartError::DataDir { path, source })?;
        Ok(Self { key, dir, old: false })
    }

    pub(crate) const fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Whether the key may have signed before.
    pub(crate) const fn is_old(&self) -> bool {
        self.old
    }

    /// Makes a draft the identity of the folder.
    pub(crate) fn keep(self) -> Result<SecretKey, StartError> {
        if !self.old {
            let path = identity_path(&self.dir);
            let named = std::fs::rename(self.dir.join(DRAFT_FILE), &path);
            named
                .and_then(|()| File::open(&self.dir)?.sync_all())
                .map_err(|source| StartError::DataDir { path, source })?;
        }
        Ok(self.key)
    }
}

fn load(path: &Path) -> Result<Option<SecretKey>, StartError> {
    let wrong = |reason: String| StartError::WrongKeyFile { path: path.to_path_buf(), reason };
    let refused = |source| StartError::DataDir { path: path.to_path_buf(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(refused(source)),
    };
    let mut bytes = Vec::with_capacity(KEY_LEN + 1);
    // One byte more than a key has: enough to see that a file is too long, however long it is.
    file.take(KEY_LEN as u64 + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() != KEY_LEN {
        let found = if bytes.len() > KEY_LEN { "more".to_owned() } else { bytes.len().to_string() };
        return Err(wrong(format!("it has {found} bytes, a key has {KEY_LEN}")));
    }
    let key = SecretKey::try_from(bytes.as_slice());
    key.map(Some).map_err(|_| wrong("it does not start like a private key".to_owned()))
}

fn write_draft(path: &Path, key: &SecretKey) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(OWNER_ONLY).open(path)?;
    file.write_all(&key.to_bytes())?;
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
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().expect("temporary folder");
        assert!(load_identity(dir.path()).expect("an empty folder").is_none());
        let draft = Identity::load_or_draft(dir.path()).expect("a writable folder");
        assert!(!draft.is_old());
        assert!(load_identity(dir.path()).expect("a draft is no identity").is_none());
        let again = Identity::load_or_draft(dir.path()).expect("the draft of a start that was cut short");
        assert_eq!(again.key().public(), draft.key().public());
        let key = again.keep().expect("a writable folder");
        let kept = Identity::load_or_draft(dir.path()).expect("own file");
        assert!(kept.is_old());
        assert_eq!(kept.key().public(), key.public());
        let mode = std::fs::metadata(identity_path(dir.path())).expect("just written").permissions().mode();
        assert_eq!(mode & 0o777, OWNER_ONLY);
        assert_eq!(std::fs::read_dir(dir.path()).expect("folder").count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_file_of_another_form_is_refused_and_kept() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = identity_path(dir.path());
        let mut public = b"LibNaCLPK:".to_vec();
        public.resize(KEY_LEN, 7);
        for wrong in [Vec::new(), b"LibNaCLSK:short".to_vec(), vec![7; KEY_LEN], vec![7; KEY_LEN + 1], public]
        {
            std::fs::write(&path, &wrong).expect("writable");
            assert!(matches!(load_identity(dir.path()), Err(StartError::WrongKeyFile { .. })), "{wrong:?}");
            assert_eq!(std::fs::read(&path).expect("still there"), wrong);
        }
    }
}
