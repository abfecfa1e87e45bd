//! A bounded set of open files: opening one for each block would cost a walk through its folders, keeping all of a
//! large torrent open would use up the process's descriptors.

use fairshare_swarm::DiskError;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A quarter of the descriptors that a process usually gets; sockets need the rest.
const OPEN_MAX: usize = 256;

/// A file: number of the torrent's opening, index of the file.
pub(super) type FileKey = (u64, usize);

/// The open files of all torrents.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<FileKey, (Arc<File>, u64)>,
    /// Counts uses, to find the file that was not used for longest.
    clock: u64,
}

impl OpenFiles {
    /// The file, opened by `open` if it is not open yet.
    pub(super) fn get(
        &self,
        key: FileKey,
        open: impl FnOnce() -> Result<File, DiskError>,
    ) -> Result<Arc<File>, DiskError> {
        if let Some(file) = self.lock().used(key) {
            return Ok(file);
        }
        // Without the lock: a slow disk must not stop everybody else.
        let file = Arc::new(open()?);
        let mut state = self.lock();
        if let Some(earlier) = state.used(key) {
            return Ok(earlier);
        }
        if state.files.len() >= OPEN_MAX {
            let oldest = state.files.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            oldest.and_then(|key| state.files.remove(&key));
        }
        state.clock += 1;
        let now = state.clock;
        state.files.insert(key, (file.clone(), now));
        Ok(file)
    }

    /// Closes the files of one opening, as soon as nobody works with them.
    pub(super) fn forget(&self, torrent: u64) {
        self.lock().files.retain(|(of, _), _| *of != torrent);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn used(&mut self, key: FileKey) -> Option<Arc<File>> {
        self.clock += 1;
        let (file, used) = self.files.get_mut(&key)?;
        *used = self.clock;
        Some(file.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_was_not_used_for_longest_is_closed() {
        let open = || Ok(tempfile::tempfile().expect("temporary file"));
        let closed = || panic!("it is open already");
        let files = OpenFiles::default();
        for index in 0..OPEN_MAX {
            files.get((1, index), open).expect("opens");
        }
        files.get((1, 0), closed).expect("open");
        files.get((2, 0), open).expect("opens");
        assert_eq!(files.lock().files.len(), OPEN_MAX);
        files.get((1, 0), closed).expect("used a moment ago");
        assert!(!files.lock().files.contains_key(&(1, 1)));
        files.forget(1);
        assert_eq!(files.lock().files.len(), 1);
    }
}
