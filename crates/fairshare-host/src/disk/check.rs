//! Which pieces of a torrent are on disk: what the resume file vouches for, and the hash of everything else.

use super::layout::Span;
use super::resume::{Resume, Stamp};
use super::torrent::{Found, Torrent};
use fairshare_crypto::Sha1Stream;
use fairshare_swarm::{Bitfield, DiskError};
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Read at once while hashing: large enough for the disk, small enough for the cache of the processor.
const READ_LEN: usize = 1 << 20;

/// The pieces held, and whether some of them had to be hashed. `stop` ends the work early; the result is then
/// incomplete, never wrong.
//= spec/swarm.md#9-storage
pub(super) fn held_pieces(
    torrent: &Torrent,
    found: &[Found],
    resume_dir: &Path,
    threads: usize,
    stop: &AtomicBool,
) -> Result<(Bitfield, bool), DiskError> {
    let layout = &torrent.layout;
    let pieces = layout.pieces();
    let resume = Resume::load(resume_dir, torrent.info_hash(), pieces, layout.files.len());
    let unchanged = unchanged_files(resume.as_ref(), &torrent.stamps()?);
    let mut held = Bitfield::new(pieces);
    let mut unsure = Vec::new();
    for piece in 0..pieces {
        let files: Vec<usize> = layout.piece(piece).map(|span| span.file).collect();
        match &resume {
            Some(resume) if files.iter().all(|file| unchanged[*file]) => {
                if resume.have.get(piece) {
                    held.set(piece);
                }
            }
            _ if files.iter().any(|file| found[*file] == Found::New) => {}
            _ => unsure.push(piece),
        }
    }
    for piece in hash_pieces(torrent, &unsure, threads, stop) {
        held.set(piece);
    }
    Ok((held, !unsure.is_empty()))
}

fn unchanged_files(resume: Option<&Resume>, now: &[Stamp]) -> Vec<bool> {
    match resume {
        Some(resume) => resume.files.iter().zip(now).map(|(then, now)| then == now).collect(),
        None => vec![false; now.len()],
    }
}

/// Hashes pieces on several threads and returns the right ones.
fn hash_pieces(torrent: &Torrent, pieces: &[u32], threads: usize, stop: &AtomicBool) -> Vec<u32> {
    let next = AtomicUsize::new(0);
    let right = Mutex::new(Vec::new());
    let work = || {
        let mut buffer = vec![0; READ_LEN];
        while let (false, Some(piece)) =
            (stop.load(Ordering::Relaxed), pieces.get(next.fetch_add(1, Ordering::Relaxed)))
        {
            if is_right(torrent, *piece, &mut buffer) {
                right.lock().unwrap_or_else(PoisonError::into_inner).push(*piece);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(pieces.len()) {
            scope.spawn(work);
        }
        work();
    });
    right.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the piece on disk has its hash. One that cannot be read is not there.
fn is_right(torrent: &Torrent, piece: u32, buffer: &mut [u8]) -> bool {
    let spans: Vec<Span> = torrent.layout.piece(piece).collect();
    // A hole in a download means "nothing came yet"; a file to be seeded may well have been stored with holes.
    if torrent.writable() && spans.iter().any(|span| is_hole(torrent, *span)) {
        return false;
    }
    let mut hash = Sha1Stream::default();
    for span in spans {
        let mut at = 0;
        while at < span.len {
            let len = (span.len - at).min(buffer.len() as u64);
            let part = &mut buffer[..len as usize];
            if torrent.read_span(Span { at: span.at + at, len, ..span }, part).is_err() {
                return false;
            }
            hash.update(part);
            at += len;
        }
    }
    torrent.metainfo.piece_hash(piece) == Some(hash.finish())
}

/// Whether nothing was ever written to a run of a file.
fn is_hole(torrent: &Torrent, span: Span) -> bool {
    if torrent.layout.files[span.file].padding {
        return false;
    }
    let Ok(file) = torrent.file(span.file) else { return true };
    match rustix::fs::seek(&*file, rustix::fs::SeekFrom::Data(span.at)) {
        Ok(data) => data >= span.at.saturating_add(span.len),
        // No data up to the end of the file.
        Err(rustix::io::Errno::NXIO) => true,
        // A file system that does not know holes has none.
        Err(_) => false,
    }
}
