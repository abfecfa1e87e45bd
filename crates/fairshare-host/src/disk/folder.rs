//! A folder that nothing leads out of: every step below it is opened by name from the folder before, and a symbolic
//! link is never followed. A torrent's files may lie beside files of others, who must not be able to redirect us.
//= spec/swarm.md#32-path-safety

use fairshare_swarm::DiskError;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// It exists and is read.
    Read,
    /// It exists and is read and written.
    Write,
    /// It is made, and must not exist.
    Create,
}

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder. The path to it is the user's own choice, links included.
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| disk_error(&path.display().to_string(), errno))?;
        Ok(Self { fd, path: path.to_path_buf() })
    }

    /// Opens the file at `path` below this folder; `Ok(None)` if there is none. `Create` makes missing folders too.
    pub(super) fn file(&self, path: &[String], access: Access) -> Result<Option<File>, DiskError> {
        let Some((name, parents)) = path.split_last() else { return Ok(None) };
        let Some(parent) = self.descend(parents, access == Access::Create)? else { return Ok(None) };
        // Without waiting: opening a pipe somebody put there must not hang.
        let base = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let flags = base
            | match access {
                Access::Read => OFlags::RDONLY,
                Access::Write => OFlags::RDWR,
                Access::Create => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            };
        let file = match rustix::fs::openat(&parent, name.as_str(), flags, Mode::from_raw_mode(FILE_MODE)) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.error(path, errno)),
        };
        if file.metadata().is_ok_and(|meta| meta.is_file()) {
            Ok(Some(file))
        } else {
            Err(DiskError::Other { path: self.display(path), reason: "it is no ordinary file".to_owned() })
        }
    }

    /// Gives a file another name in the same folder; never replaces anything.
    pub(super) fn rename(&self, path: &[String], from: &str, to: &str) -> Result<(), DiskError> {
        let Some(parent) = self.parent(path)? else { return Err(self.error(path, Errno::NOENT)) };
        match rustix::fs::renameat_with(&parent, from, &parent, to, RenameFlags::NOREPLACE) {
            // Some file systems do not know how to rename without replacing: look first there.
            Err(Errno::INVAL | Errno::NOSYS) => self.rename_if_free(&parent, path, from, to),
            result => result.map_err(|errno| self.error(path, errno)),
        }
    }

    fn rename_if_free(
        &self,
        parent: &OwnedFd,
        path: &[String],
        from: &str,
        to: &str,
    ) -> Result<(), DiskError> {
        match rustix::fs::statat(parent, to, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                rustix::fs::renameat(parent, from, parent, to).map_err(|errno| self.error(path, errno))
            }
            Ok(_) => Err(self.error(path, Errno::EXIST)),
            Err(errno) => Err(self.error(path, errno)),
        }
    }

    /// Makes names below the folder of `path` last through a power loss.
    pub(super) fn sync(&self, parents: &[String]) -> Result<(), DiskError> {
        let Some(folder) = self.descend(parents, false)? else { return Ok(()) };
        rustix::fs::fsync(&folder).map_err(|errno| self.error(parents, errno))
    }

    /// Deletes a file; one that is not there is fine.
    pub(super) fn remove(&self, path: &[String], name: &str) -> Result<(), DiskError> {
        let Some(parent) = self.parent(path)? else { return Ok(()) };
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error(path, errno)),
        }
    }

    /// Deletes a folder if it is empty.
    pub(super) fn remove_if_empty(&self, path: &[String]) {
        if let (Some(name), Ok(Some(parent))) = (path.last(), self.parent(path)) {
            // Whatever keeps it from going, it holds something of somebody else, or is gone already.
            let _ = rustix::fs::unlinkat(&parent, name.as_str(), AtFlags::REMOVEDIR);
        }
    }

    fn parent(&self, path: &[String]) -> Result<Option<OwnedFd>, DiskError> {
        let parents = path.split_last().map_or(&[][..], |(_, parents)| parents);
        self.descend(parents, false)
    }

    /// Opens the folder at `path`, one step after the other; `None` if it does not exist.
    fn descend(&self, path: &[String], create: bool) -> Result<Option<OwnedFd>, DiskError> {
        let failed = |errno| self.error(path, errno);
        let mut folder = self.fd.try_clone().map_err(|error| DiskError::Other {
            path: self.path.display().to_string(),
            reason: error.to_string(),
        })?;
        for part in path {
            if create {
                match rustix::fs::mkdirat(&folder, part.as_str(), Mode::from_raw_mode(FOLDER_MODE)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(failed(errno)),
                }
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            folder = match rustix::fs::openat(&folder, part.as_str(), flags, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(failed(errno)),
            };
        }
        Ok(Some(folder))
    }

    fn display(&self, path: &[String]) -> String {
        self.path.join(path.join("/")).display().to_string()
    }

    fn error(&self, path: &[String], errno: Errno) -> DiskError {
        disk_error(&self.display(path), errno)
    }
}

fn disk_error(path: &str, errno: Errno) -> DiskError {
    let reason = match errno {
        Errno::NOSPC | Errno::DQUOT => return DiskError::Full(path.to_owned()),
        Errno::LOOP | Errno::NOTDIR => {
            "a symbolic link, or something else that is no folder, lies in the way".to_owned()
        }
        errno => std::io::Error::from(errno).to_string(),
    };
    DiskError::Other { path: path.to_owned(), reason }
}

/// The same for errors of the standard library.
pub(super) fn io_error(path: &str, error: &std::io::Error) -> DiskError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(errno) => disk_error(path, errno),
        None => DiskError::Other { path: path.to_owned(), reason: error.to_string() },
    }
}
