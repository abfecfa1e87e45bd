//! `fairshare create`: a version 1 torrent of a file or folder. Pieces are hashed on all cores.

use crate::cli;
use crate::failure::{Failure, Outcome};
use crate::folder::write_whole;
use crate::{print, show};
use fairshare_crypto::sha1;
use fairshare_swarm::Metainfo;
use fairshare_swarm::metainfo::{BuildError, SourceFile, TorrentBuilder};
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Smallest and largest piece: the bounds that every client knows.
//= spec/swarm.md#12-bittorrent-v2-and-hybrid-bep-52
const PIECE_MIN: u64 = 16 << 10;
const PIECE_MAX: u64 = 16 << 20;
/// As many files as a torrent may have.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const FILES_MAX: usize = 1_000_000;

/// Runs the command.
pub(crate) fn run(args: &cli::Create) -> Outcome {
    let name = name_of(&args.path)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.torrent")));
    if out.exists() {
        return Err(Failure::failed("exists", format!("{} exists already", out.display()))
            .hint("move it away, or name another file with --out"));
    }
    let made = torrent_of(&args.path, args.piece_size, &args.tracker)?;
    write_whole(&out, &made.to_torrent(), 0o644)?;
    let (hash, total) = (made.info_hash().to_string(), made.total_len());
    let json = json!({
        "file": out, "name": name, "infohash": hash, "pieces": made.piece_count(),
        "piece_bytes": made.piece_len().to_string(), "total_bytes": total.to_string(),
        "magnet": format!("magnet:?xt=urn:btih:{hash}"),
    });
    print::one(args.json, &json, || {
        format!("{}: {} in {} pieces, {hash}", out.display(), show::bytes(total), made.piece_count())
    });
    Ok(())
}

/// Makes the torrent of a file or folder. Each tracker is a tier of its own.
pub(crate) fn torrent_of(path: &Path, piece: Option<u64>, trackers: &[String]) -> Outcome<Metainfo> {
    let name = name_of(path)?;
    let content = Content::find(path)?;
    let mut builder = content.builder(&name).map_err(|error| unfit(path, &error))?;
    if let Some(piece) = piece {
        let fits = piece.is_power_of_two() && (PIECE_MIN..=PIECE_MAX).contains(&piece);
        let piece = u32::try_from(piece).ok().filter(|_| fits).ok_or_else(|| {
            Failure::bad_use("piece-size", "a piece has a power of two from 16 KiB to 16 MiB")
        })?;
        builder = builder.piece_len(piece);
    }
    let hashes = content.hash(u64::from(builder.chosen_piece_len()))?;
    hashes.into_iter().for_each(|hash| builder.push_hash(hash));
    let tiers = trackers.iter().map(|tracker| vec![tracker.clone()]).collect();
    builder.trackers(tiers).finish().map_err(|error| unfit(path, &error))
}

fn unfit(path: &Path, error: &BuildError) -> Failure {
    Failure::failed("content", format!("{} makes no torrent: {error}", path.display()))
}

fn name_of(path: &Path) -> Outcome<String> {
    let full = path.canonicalize().map_err(|error| Failure::io(path, &error))?;
    let name = full.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    name.ok_or_else(|| Failure::bad_use("name", format!("{} has no name in UTF-8", path.display())))
}

/// The files in the order of the torrent.
struct Content {
    files: Vec<(Vec<String>, PathBuf, u64)>,
    folder: bool,
    total: u64,
}

impl Content {
    fn find(path: &Path) -> Outcome<Self> {
        let meta = std::fs::metadata(path).map_err(|error| Failure::io(path, &error))?;
        let mut files = Vec::new();
        if meta.is_dir() {
            walk(path, &mut Vec::new(), &mut files)?;
            files.sort();
        } else {
            files.push((Vec::new(), path.to_owned(), meta.len()));
        }
        let total = files.iter().map(|(_, _, len)| len).sum();
        Ok(Self { files, folder: meta.is_dir(), total })
    }

    fn builder(&self, name: &str) -> Result<TorrentBuilder, BuildError> {
        if !self.folder {
            return TorrentBuilder::file(name, self.total);
        }
        let file = |(path, _, length): &(Vec<String>, PathBuf, u64)| SourceFile {
            path: path.clone(),
            length: *length,
        };
        TorrentBuilder::folder(name, self.files.iter().map(file).collect())
    }

    /// SHA-1 of every piece: each thread takes the next piece that nobody took.
    fn hash(&self, piece: u64) -> Outcome<Vec<[u8; 20]>> {
        let opened: Vec<File> = self
            .files
            .iter()
            .map(|(_, path, _)| File::open(path).map_err(|error| Failure::io(path, &error)))
            .collect::<Outcome<_>>()?;
        let count = usize::try_from(self.total.div_ceil(piece)).expect("pieces of 16 KiB or more fit memory");
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let parts: Vec<Outcome<_>> = std::thread::scope(|scope| {
            let start = |_| scope.spawn(|| self.hash_some(&opened, piece, &next));
            let running: Vec<_> = (0..threads.min(count)).map(start).collect();
            running.into_iter().map(|thread| thread.join().expect("hashing does not panic")).collect()
        });
        let mut hashes = vec![[0; 20]; count];
        for part in parts {
            part?.into_iter().for_each(|(index, hash): (usize, _)| hashes[index] = hash);
        }
        Ok(hashes)
    }

    fn hash_some(&self, files: &[File], piece: u64, next: &AtomicUsize) -> Outcome<Vec<(usize, [u8; 20])>> {
        let mut buffer = Vec::new();
        let mut hashes = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let start = index as u64 * piece;
            if start >= self.total {
                return Ok(hashes);
            }
            let len = piece.min(self.total - start);
            buffer.resize(usize::try_from(len).expect("a piece fits memory"), 0);
            if let Err(failure) = self.read(files, start, &mut buffer) {
                // The others stop as well: what they make would be thrown away.
                next.store(
                    usize::try_from(self.total.div_ceil(piece)).unwrap_or(usize::MAX >> 1),
                    Ordering::Relaxed,
                );
                return Err(failure);
            }
            hashes.push((index, sha1(&buffer)));
        }
    }

    /// Fills `buffer` with the torrent's bytes from `start`, over the borders of files.
    fn read(&self, files: &[File], start: u64, mut buffer: &mut [u8]) -> Outcome {
        let mut skip = start;
        for ((_, path, len), file) in self.files.iter().zip(files) {
            if skip >= *len {
                skip -= len;
                continue;
            }
            let here = usize::try_from(len - skip).unwrap_or(usize::MAX).min(buffer.len());
            let (part, rest) = std::mem::take(&mut buffer).split_at_mut(here);
            file.read_exact_at(part, skip).map_err(|error| Failure::io(path, &error))?;
            if rest.is_empty() {
                return Ok(());
            }
            buffer = rest;
            skip = 0;
        }
        Ok(())
    }
}

/// Regular files below a folder. Links are not followed: they could lead anywhere.
fn walk(folder: &Path, parts: &mut Vec<String>, files: &mut Vec<(Vec<String>, PathBuf, u64)>) -> Outcome {
    for entry in std::fs::read_dir(folder).map_err(|error| Failure::io(folder, &error))? {
        let entry = entry.map_err(|error| Failure::io(folder, &error))?;
        let path = entry.path();
        let meta = entry.metadata().map_err(|error| Failure::io(&path, &error))?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|_| Failure::bad_use("name", format!("{}: the name is not UTF-8", path.display())))?;
        parts.push(name);
        if meta.is_dir() {
            walk(&path, parts, files)?;
        } else if meta.is_file() {
            files.push((parts.clone(), path, meta.len()));
        }
        parts.pop();
        if files.len() > FILES_MAX {
            return Err(Failure::bad_use("files", "a torrent holds at most 1,000,000 files"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_a_torrent_with_the_hashes_of_its_pieces() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("data.bin");
        let bytes: Vec<u8> = (0..40_000u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).expect("written");
        let made = torrent_of(&path, Some(16_384), &["http://t/a".to_owned()]).expect("made");
        let mut info = b"d6:lengthi40000e4:name8:data.bin12:piece lengthi16384e6:pieces60:".to_vec();
        bytes.chunks(16_384).for_each(|piece| info.extend(sha1(piece)));
        info.push(b'e');
        assert_eq!(made.info().as_ref(), info);
        assert_eq!(made.trackers(), [["http://t/a".to_owned()]]);
        assert_eq!(
            Metainfo::from_torrent(&made.to_torrent()).expect("own bytes").info_hash(),
            made.info_hash()
        );
    }

    #[test]
    fn pieces_run_over_the_borders_of_files_and_links_are_not_followed() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let root = dir.path().join("album");
        std::fs::create_dir_all(root.join("b")).expect("folder");
        std::fs::write(root.join("z"), vec![3; 5_000]).expect("written");
        std::fs::write(root.join("a"), vec![1; 10_000]).expect("written");
        std::fs::write(root.join("b/c"), vec![2; 10_000]).expect("written");
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).expect("linked");
        let made = torrent_of(&root, Some(16_384), &[]).expect("made");
        let all: Vec<u8> = [vec![1; 10_000], vec![2; 10_000], vec![3; 5_000]].concat();
        assert_eq!(
            made.files().iter().map(|file| file.path.join("/")).collect::<Vec<_>>(),
            ["a", "b/c", "z"]
        );
        let wanted: Vec<_> = all.chunks(16_384).map(sha1).collect();
        let hashes: Vec<_> = (0..made.piece_count()).filter_map(|piece| made.piece_hash(piece)).collect();
        assert_eq!(hashes, wanted);
    }

    #[test]
    fn odd_piece_sizes_and_empty_content_are_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("data");
        std::fs::write(&path, b"").expect("written");
        assert_eq!(torrent_of(&path, None, &[]).expect_err("empty").code, "content");
        std::fs::write(&path, b"x").expect("written");
        assert_eq!(torrent_of(&path, Some(20_000), &[]).expect_err("odd").code, "piece-size");
        assert_eq!(torrent_of(&dir.path().join("no"), None, &[]).expect_err("absent").code, "io");
    }
}
