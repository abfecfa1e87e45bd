//! A disk in memory: pieces by torrent. It hashes what it stores, like the host does.

use super::TestTorrent;
use bytes::{Bytes, BytesMut};
use fairshare_crypto::Sha1Stream;
use fairshare_swarm::{Bitfield, Completion, DiskError, InfoHash, Metainfo, Request};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
pub(crate) struct Disk {
    torrents: BTreeMap<InfoHash, Files>,
    /// Whether the next store fails for lack of space.
    pub(crate) full: bool,
    /// What was last saved as held, and whether as finished.
    pub(crate) saved: BTreeMap<InfoHash, (Bitfield, bool)>,
    /// Pieces stored, over all torrents.
    pub(crate) stored: u32,
}

#[derive(Default)]
struct Files {
    metainfo: Option<Arc<Metainfo>>,
    pieces: BTreeMap<u32, Bytes>,
}

impl Disk {
    /// Puts the whole content of a torrent on the disk.
    pub(crate) fn fill(&mut self, torrent: &TestTorrent) {
        let count = torrent.metainfo.piece_count();
        self.fill_pieces(torrent, 0..count);
    }

    pub(crate) fn fill_pieces(&mut self, torrent: &TestTorrent, pieces: impl Iterator<Item = u32>) {
        let piece_len = torrent.metainfo.piece_len() as usize;
        let files = self.torrents.entry(torrent.info_hash()).or_default();
        for piece in pieces {
            let start = piece as usize * piece_len;
            let end = (start + piece_len).min(torrent.content.len());
            files.pieces.insert(piece, torrent.content.slice(start..end));
        }
    }

    /// Everything held, in order: the file.
    pub(crate) fn content(&self, torrent: &TestTorrent) -> Bytes {
        let files = self.torrents.get(&torrent.info_hash());
        let mut out = BytesMut::new();
        files
            .into_iter()
            .flat_map(|files| files.pieces.values())
            .for_each(|piece| out.extend_from_slice(piece));
        out.freeze()
    }

    pub(crate) fn answer(&mut self, request: Request) -> Completion {
        match request {
            Request::Open { metainfo, .. } => Completion::Opened(Ok(self.open(metainfo))),
            Request::Store { torrent, piece, blocks } => {
                Completion::Stored(self.store(torrent, piece, blocks))
            }
            Request::Read { torrent, piece, begin, len } => {
                let data = self.torrents.get(&torrent).and_then(|files| files.pieces.get(&piece));
                let range = begin as usize..(begin + len) as usize;
                Completion::Data(
                    data.map(|data| data.slice(range))
                        .ok_or_else(|| DiskError::Missing("film.mkv".to_owned())),
                )
            }
            Request::Save { torrent, have, finished } => {
                self.saved.insert(torrent, (have, finished));
                Completion::Saved(Ok(()))
            }
            Request::Close { torrent, delete } => {
                if delete {
                    self.torrents.remove(&torrent);
                }
                Completion::Saved(Ok(()))
            }
            other => unreachable!("the world answers pages, and nothing else is asked for: {other:?}"),
        }
    }

    fn open(&mut self, metainfo: Arc<Metainfo>) -> Bitfield {
        let files = self.torrents.entry(metainfo.info_hash()).or_default();
        let mut held = Bitfield::new(metainfo.piece_count());
        files.pieces.keys().for_each(|piece| {
            held.set(*piece);
        });
        files.metainfo = Some(metainfo);
        held
    }

    fn store(&mut self, torrent: InfoHash, piece: u32, blocks: Vec<Bytes>) -> Result<bool, DiskError> {
        if std::mem::take(&mut self.full) {
            return Err(DiskError::Full("film.mkv".to_owned()));
        }
        let files = self.torrents.get_mut(&torrent).expect("opened before");
        let metainfo = files.metainfo.as_ref().expect("opened before");
        let mut hash = Sha1Stream::default();
        blocks.iter().for_each(|block| hash.update(block));
        if Some(hash.finish()) != metainfo.piece_hash(piece) {
            return Ok(false);
        }
        assert!(!files.pieces.contains_key(&piece), "piece {piece} is stored twice");
        files.pieces.insert(piece, blocks.concat().into());
        self.stored += 1;
        Ok(true)
    }
}
