//! One writer per data folder, and so per key: two processes that sign with one key would fork its chain.
//!
//! The lock belongs to the open file, not to the process: it ends with the last handle, also after a kill, and
//! holds between two nodes of one process too.

use crate::error::StartError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

const LOCK_FILE: &str = "lock";
/// More than any process number has digits.
const PID_LEN_MAX: u64 = 20;

/// The lock, held as long as this lives.
#[derive(Debug)]
pub(crate) struct DataLock {
    _file: File,
}

impl DataLock {
    /// Takes the lock of a data folder.
    //= spec/trustchain.md#12-where-we-must-be-better-than-the-reference-each-seen-in-code-or-reproduced
    pub(crate) fn take(dir: &Path) -> Result<Self, StartError> {
        let path = dir.join(LOCK_FILE);
        let refused = |source| StartError::DataDir { path: path.clone(), source };
        // Not truncated: before the lock is held, the number inside belongs to somebody else.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(refused)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StartError::Locked { path: dir.to_path_buf(), pid: holder(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(refused(source)),
        }
        write_pid(&mut file).map_err(refused)?;
        Ok(Self { _file: file })
    }
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

/// The process that holds the lock, as far as the file tells.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_LEN_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    //= spec/trustchain.md#12-where-we-must-be-better-than-the-reference-each-seen-in-code-or-reproduced
    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let first = DataLock::take(dir.path()).expect("nobody else holds it");
        match DataLock::take(dir.path()) {
            Err(StartError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("the lock was given twice: {other:?}"),
        }
        drop(first);
        DataLock::take(dir.path()).expect("free again");
    }
}
