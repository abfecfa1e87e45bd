//! The files of one torrent: found or made at open, read and written by piece, named at the end.

use super::folder::{Access, Folder, io_error};
use super::layout::{FileEntry, Layout, Span};
use super::open_files::OpenFiles;
use super::resume::{Resume, Stamp};
use bytes::{Bytes, BytesMut};
use fairshare_crypto::Sha1Stream;
use fairshare_swarm::{Bitfield, DiskError, InfoHash, Metainfo};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file that is not complete carries this behind its name.
//= spec/swarm.md#9-storage
const UNFINISHED: &str = ".!fs";
/// The kernel takes no more pieces in one vectored write.
const SLICES_MAX: usize = 1024;

/// Where a file stands.
#[derive(Debug, Default)]
struct FileState {
    /// It has its final name.
    complete: AtomicBool,
    /// It was written since the last sync.
    dirty: AtomicBool,
}

/// An open torrent.
pub(super) struct Torrent {
    pub(super) metainfo: Arc<Metainfo>,
    pub(super) layout: Layout,
    folder: Folder,
    /// Whether files may be made and written.
    writable: bool,
    states: Vec<FileState>,
    /// Tells this opening from earlier ones of the same torrent in the cache of open files.
    number: u64,
    cache: Arc<OpenFiles>,
    resume_dir: PathBuf,
}

/// How a file was found at open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It was there.
    There,
    /// It was made just now, so nothing of it is held.
    New,
}

impl Torrent {
    /// Finds the files, or makes them where that is allowed. Tells how each was found.
    pub(super) fn open(
        metainfo: Arc<Metainfo>,
        root: &Path,
        create: bool,
        resume_dir: &Path,
        number: u64,
        cache: Arc<OpenFiles>,
    ) -> Result<(Self, Vec<Found>), DiskError> {
        let layout = Layout::of(&metainfo)?;
        if create {
            std::fs::create_dir_all(root).map_err(|error| io_error(&root.display().to_string(), &error))?;
        }
        let folder = Folder::open(root)?;
        let states = layout.files.iter().map(|_| FileState::default()).collect();
        let resume_dir = resume_dir.to_path_buf();
        let torrent = Self { metainfo, layout, folder, writable: create, states, number, cache, resume_dir };
        let found =
            (0..torrent.layout.files.len()).map(|file| torrent.find(file)).collect::<Result<_, _>>()?;
        Ok((torrent, found))
    }

    fn find(&self, index: usize) -> Result<Found, DiskError> {
        let entry = &self.layout.files[index];
        if entry.padding {
            return Ok(Found::There);
        }
        if let Some(file) = self.folder.file(&entry.path, Access::Read)? {
            self.states[index].complete.store(true, Ordering::Release);
            return match file.metadata() {
                Ok(meta) if meta.len() == entry.len => Ok(Found::There),
                // What lies there under the final name is the user's: it is not ours to overwrite.
                _ => Err(DiskError::Missing(entry.display())),
            };
        }
        if !self.writable {
            return Err(DiskError::Missing(entry.display()));
        }
        let path = unfinished(&entry.path);
        let (file, found) = match self.folder.file(&path, Access::Write)? {
            Some(file) => (file, Found::There),
            None => match self.folder.file(&path, Access::Create)? {
                Some(file) => (file, Found::New),
                None => return Err(DiskError::Missing(entry.display())),
            },
        };
        // Sparse: the disk gives space when pieces come. A file that was cut is made whole again, its tail missing.
        if !file.metadata().is_ok_and(|meta| meta.len() == entry.len) {
            file.set_len(entry.len).map_err(|error| io_error(&entry.display(), &error))?;
        }
        Ok(found)
    }

    /// The torrent's hash.
    pub(super) fn info_hash(&self) -> InfoHash {
        self.metainfo.info_hash()
    }

    /// Whether files may be written.
    pub(super) const fn writable(&self) -> bool {
        self.writable
    }

    /// A file, opened or taken from the cache.
    pub(super) fn file(&self, index: usize) -> Result<Arc<File>, DiskError> {
        let entry = &self.layout.files[index];
        self.cache.get((self.number, index), || {
            let access = if self.writable { Access::Write } else { Access::Read };
            let complete = self.states[index].complete.load(Ordering::Acquire);
            let named = |complete| if complete { entry.path.clone() } else { unfinished(&entry.path) };
            // Between the look and the opening it may have got its final name: then it is found under the other.
            for complete in [complete, !complete] {
                if let Some(file) = self.folder.file(&named(complete), access)? {
                    return Ok(file);
                }
            }
            Err(DiskError::Missing(entry.display()))
        })
    }

    /// Hashes a whole piece and writes it if it is right.
    //= spec/swarm.md#9-storage
    pub(super) fn store(&self, piece: u32, blocks: &[Bytes]) -> Result<bool, DiskError> {
        if !self.writable {
            return Err(DiskError::Other {
                path: self.metainfo.name().to_owned(),
                reason: "this download is only served, never written".to_owned(),
            });
        }
        let mut hash = Sha1Stream::default();
        blocks.iter().for_each(|block| hash.update(block));
        if self.metainfo.piece_hash(piece) != Some(hash.finish()) {
            return Ok(false);
        }
        let mut rest = Blocks { blocks, at: 0 };
        for span in self.layout.piece(piece) {
            let slices = rest.take(span.len);
            if !self.layout.files[span.file].padding {
                self.write(span, slices)?;
            }
        }
        Ok(true)
    }

    /// One run, as few calls as the kernel allows.
    fn write(&self, span: Span, mut slices: Vec<IoSlice<'_>>) -> Result<(), DiskError> {
        let file = self.file(span.file)?;
        let failed = |error: std::io::Error| io_error(&self.layout.files[span.file].display(), &error);
        // Set before the first byte: a sync that runs meanwhile must not clear it too early.
        self.states[span.file].dirty.store(true, Ordering::Release);
        let mut at = span.at;
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            let part = slices.get(..SLICES_MAX).unwrap_or(slices);
            let written = match rustix::io::pwritev(&*file, part, at) {
                Ok(0) => return Err(failed(std::io::ErrorKind::WriteZero.into())),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(failed(errno.into())),
            };
            at += written as u64;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    /// Bytes of a piece.
    pub(super) fn read(&self, piece: u32, begin: u32, len: u32) -> Result<Bytes, DiskError> {
        let mut bytes = BytesMut::zeroed(len as usize);
        let mut at = 0;
        for span in self.layout.part(piece, u64::from(begin), u64::from(len)) {
            let end = at + usize::try_from(span.len).expect("a span is part of the buffer just made");
            let part = bytes.get_mut(at..end).expect("spans together are no longer than what was asked for");
            self.read_span(span, part)?;
            at = end;
        }
        if at < len as usize {
            return Err(DiskError::Other {
                path: self.metainfo.name().to_owned(),
                reason: format!("there are no {len} bytes from {begin} on in piece {piece}"),
            });
        }
        Ok(bytes.freeze())
    }

    /// Fills `part`, which is zero, with a run of a file.
    pub(super) fn read_span(&self, span: Span, part: &mut [u8]) -> Result<(), DiskError> {
        let entry = &self.layout.files[span.file];
        if entry.padding {
            part.fill(0);
            return Ok(());
        }
        let file = self.file(span.file)?;
        file.read_exact_at(part, span.at).map_err(|error| io_error(&entry.display(), &error))
    }

    /// Syncs what was written, gives finished files their names, then records `have`: the record never claims more
    /// than the disk has.
    //= spec/swarm.md#9-storage
    pub(super) fn save(&self, have: Bitfield, finished: bool) -> Result<(), DiskError> {
        self.sync_data()?;
        if self.writable {
            if finished {
                self.name_files()?;
            }
            self.parents().iter().try_for_each(|parents| self.folder.sync(parents))?;
        }
        Resume { torrent: self.info_hash(), have, files: self.stamps()? }.save(&self.resume_dir)
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        for (index, state) in self.states.iter().enumerate() {
            if state.dirty.swap(false, Ordering::AcqRel) {
                let synced = self.file(index).and_then(|file| {
                    file.sync_data().map_err(|error| io_error(&self.layout.files[index].display(), &error))
                });
                if let Err(error) = synced {
                    state.dirty.store(true, Ordering::Release);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn name_files(&self) -> Result<(), DiskError> {
        for (entry, state) in self.layout.files.iter().zip(&self.states) {
            if !entry.padding && !state.complete.load(Ordering::Acquire) {
                let name = name_of(entry);
                self.folder.rename(&entry.path, &format!("{name}{UNFINISHED}"), name)?;
                state.complete.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Files that have their final name although a piece of them is missing get the other name back.
    pub(super) fn unname_files(&self, have: &Bitfield) -> Result<(), DiskError> {
        for (entry, state) in self.layout.files.iter().zip(&self.states) {
            let whole = self.layout.pieces_of(entry).all(|piece| have.get(piece));
            if !entry.padding && !whole && state.complete.load(Ordering::Acquire) {
                let name = name_of(entry);
                self.folder.rename(&entry.path, name, &format!("{name}{UNFINISHED}"))?;
                state.complete.store(false, Ordering::Release);
            }
        }
        Ok(())
    }

    /// How all files look now.
    pub(super) fn stamps(&self) -> Result<Vec<Stamp>, DiskError> {
        let stamp = |(index, entry): (usize, &FileEntry)| {
            if entry.padding {
                return Ok(Stamp::default());
            }
            let meta = self.file(index)?.metadata();
            meta.map(|meta| Stamp::of(&meta)).map_err(|error| io_error(&entry.display(), &error))
        };
        self.layout.files.iter().enumerate().map(stamp).collect()
    }

    /// Deletes every file of the torrent, the folders that are empty then, and the resume file.
    pub(super) fn delete(&self) -> Result<(), DiskError> {
        for entry in self.layout.files.iter().filter(|entry| !entry.padding) {
            let name = name_of(entry);
            self.folder.remove(&entry.path, name)?;
            self.folder.remove(&entry.path, &format!("{name}{UNFINISHED}"))?;
        }
        // Deepest first, or a folder would not be empty yet.
        for parents in self.parents().iter().rev() {
            self.folder.remove_if_empty(parents);
        }
        Resume::delete(&self.resume_dir, self.info_hash())
    }

    /// Every folder that the torrent uses below its root, each behind the folder it lies in; the root first.
    fn parents(&self) -> BTreeSet<&[String]> {
        let files = self.layout.files.iter().filter(|entry| !entry.padding);
        files.flat_map(|entry| (0..entry.path.len()).filter_map(|depth| entry.path.get(..depth))).collect()
    }

    /// Closes the files in the cache.
    pub(super) fn forget(&self) {
        self.cache.forget(self.number);
    }
}

/// Blocks as one run of bytes.
struct Blocks<'a> {
    blocks: &'a [Bytes],
    /// Bytes of the first block that were taken.
    at: usize,
}

impl<'a> Blocks<'a> {
    /// The next `len` bytes, without copying.
    fn take(&mut self, len: u64) -> Vec<IoSlice<'a>> {
        let mut left = usize::try_from(len).expect("a piece fits into memory: it came from there");
        let mut slices = Vec::new();
        while let (true, Some((first, rest))) = (left > 0, self.blocks.split_first()) {
            let end = first.len().min(self.at.saturating_add(left));
            let part = first.get(self.at..end).unwrap_or_default();
            if !part.is_empty() {
                slices.push(IoSlice::new(part));
            }
            left -= part.len();
            self.at = end;
            if self.at == first.len() {
                (self.blocks, self.at) = (rest, 0);
            }
        }
        slices
    }
}

fn name_of(entry: &FileEntry) -> &str {
    entry.path.last().map_or("", String::as_str)
}

fn unfinished(path: &[String]) -> Vec<String> {
    let mut path = path.to_vec();
    if let Some(name) = path.last_mut() {
        name.push_str(UNFINISHED);
    }
    path
}
