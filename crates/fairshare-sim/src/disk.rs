//! Virtual disks: the files of one machine's torrents in memory, with what a crash may do to what was not synced.

use bytes::Bytes;
use fairshare_crypto::{Rng, Sha1Stream, sha1};
use fairshare_swarm::{Bitfield, Completion, DiskError, InfoHash, Metainfo, Request};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The files of one machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    contents: BTreeMap<InfoHash, Content>,
    /// What is read is not what was written.
    damages_reads: bool,
}

/// One torrent on disk.
#[derive(Clone, Debug)]
struct Content {
    metainfo: Arc<Metainfo>,
    data: Vec<u8>,
    /// The resume file.
    saved: Option<Bitfield>,
    /// Pieces written since the last sync: after a crash they may be anything.
    unsynced: BTreeSet<u32>,
    finished: bool,
}

impl Disk {
    /// Puts a complete file there, as its author has it.
    pub(crate) fn place(&mut self, metainfo: Arc<Metainfo>, data: Vec<u8>) {
        let content = Content {
            data,
            saved: None,
            unsynced: BTreeSet::new(),
            finished: true,
            metainfo: metainfo.clone(),
        };
        self.contents.insert(metainfo.info_hash(), content);
    }

    /// From now on what is read is not what was written.
    pub(crate) const fn damage_reads(&mut self) {
        self.damages_reads = true;
    }

    /// The file of a torrent, once it was completed and synced.
    pub(crate) fn finished(&self, torrent: &InfoHash) -> Option<&[u8]> {
        self.contents.get(torrent).filter(|content| content.finished).map(|content| content.data.as_slice())
    }

    /// Does what was asked; pages are no business of a disk.
    pub(crate) fn carry_out(&mut self, request: &Request) -> Option<Completion> {
        Some(match request {
            Request::Open { metainfo, create, .. } => Completion::Opened(self.open(metainfo, *create)),
            Request::Store { torrent, piece, blocks } => {
                Completion::Stored(self.content(torrent).map(|content| content.store(*piece, blocks)))
            }
            Request::Read { torrent, piece, begin, len } => {
                let damages = self.damages_reads;
                let data = self.content(torrent).and_then(|content| content.read(*piece, *begin, *len));
                Completion::Data(if damages { data.map(|bytes| damaged(&bytes)) } else { data })
            }
            Request::Save { torrent, have, finished } => {
                Completion::Saved(self.content(torrent).map(|content| content.save(have, *finished)))
            }
            Request::Close { torrent, delete } => {
                if *delete {
                    self.contents.remove(torrent);
                }
                Completion::Saved(Ok(()))
            }
            _ => return None,
        })
    }

    /// The power fails: what was not synced is half there, or not at all.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        for content in self.contents.values_mut() {
            for piece in std::mem::take(&mut content.unsynced) {
                let range = content.range(piece);
                let Some(bytes) = content.data.get_mut(range) else { continue };
                let kept = rng.index(bytes.len() + 1).unwrap_or_default();
                bytes[kept..].fill(0);
            }
        }
    }

    fn open(&mut self, metainfo: &Arc<Metainfo>, create: bool) -> Result<Bitfield, DiskError> {
        let content = match self.contents.entry(metainfo.info_hash()) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(_) if !create => return Err(DiskError::Missing(metainfo.name().to_owned())),
            Entry::Vacant(free) => free.insert(Content::empty(metainfo)),
        };
        Ok(content.saved.clone().unwrap_or_else(|| content.hash_all()))
    }

    fn content(&mut self, torrent: &InfoHash) -> Result<&mut Content, DiskError> {
        let missing = || DiskError::Missing(torrent.to_string());
        self.contents.get_mut(torrent).ok_or_else(missing)
    }
}

fn damaged(bytes: &Bytes) -> Bytes {
    let mut damaged = bytes.to_vec();
    if let Some(first) = damaged.first_mut() {
        *first ^= 1;
    }
    damaged.into()
}

impl Content {
    fn empty(metainfo: &Arc<Metainfo>) -> Self {
        let len = usize::try_from(metainfo.total_len()).expect("virtual files are small");
        Self {
            metainfo: metainfo.clone(),
            data: vec![0; len],
            saved: None,
            unsynced: BTreeSet::new(),
            finished: false,
        }
    }

    fn store(&mut self, piece: u32, blocks: &[Bytes]) -> bool {
        let mut hash = Sha1Stream::default();
        blocks.iter().for_each(|block| hash.update(block));
        if Some(hash.finish()) != self.metainfo.piece_hash(piece) {
            return false;
        }
        let range = self.range(piece);
        let target = self.data.get_mut(range).expect("a piece with a hash lies inside the file");
        target.copy_from_slice(&blocks.concat());
        self.unsynced.insert(piece);
        true
    }

    fn read(&self, piece: u32, begin: u32, len: u32) -> Result<Bytes, DiskError> {
        let start = self.range(piece).start + begin as usize;
        let bytes = self.data.get(start..start + len as usize).map(Bytes::copy_from_slice);
        bytes.ok_or_else(|| DiskError::Other {
            path: self.metainfo.name().to_owned(),
            reason: "read behind the end of the file".to_owned(),
        })
    }

    fn save(&mut self, have: &Bitfield, finished: bool) {
        // Syncing writes everything out, also what this resume file does not vouch for.
        self.unsynced.clear();
        self.saved = Some(have.clone());
        self.finished |= finished;
    }

    fn hash_all(&self) -> Bitfield {
        let mut have = Bitfield::new(self.metainfo.piece_count());
        for piece in 0..self.metainfo.piece_count() {
            let bytes = self.data.get(self.range(piece)).map(sha1);
            if bytes.is_some() && bytes == self.metainfo.piece_hash(piece) {
                have.set(piece);
            }
        }
        have
    }

    fn range(&self, piece: u32) -> std::ops::Range<usize> {
        let start = piece as usize * self.metainfo.piece_len() as usize;
        start..start + self.metainfo.piece_size(piece) as usize
    }
}
