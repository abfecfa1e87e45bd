//! The real files of the demo: random bytes from the seed, or the user's own files filled up with random bytes to
//! the sizes of the plan, so that the story stays under the policy whatever is shared.

use crate::create;
use crate::demo::scenario::{Actor, Role};
use crate::failure::{Failure, Outcome};
use fairshare_crypto::{Rng, Sha1Stream};
use fairshare_swarm::Metainfo;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Pieces of 256 KiB: small enough for several providers to share a file, large enough to hash in one go.
const PIECE: u64 = 256 << 10;
const BUFFER: usize = 1 << 20;

/// What one node shares.
#[derive(Debug)]
pub(crate) struct Share {
    /// The torrent of it.
    pub(crate) torrent: Metainfo,
    /// Files inside, relative to the folder that holds the share, with the SHA-1 of each.
    pub(crate) files: Vec<(PathBuf, [u8; 20])>,
}

/// Makes the share of every actor below its own folder, `DIR/NAME/share`.
pub(crate) fn make(dir: &Path, actors: &[Actor], rng: &Rng, users: Option<&Path>) -> Outcome<Vec<Share>> {
    let mut parcels = match users {
        Some(folder) => parcels(folder, actors)?,
        None => vec![Vec::new(); actors.len()],
    };
    let made: Vec<Outcome<Share>> = std::thread::scope(|scope| {
        let start = |(actor, parcel): (&Actor, Vec<(PathBuf, u64)>)| {
            let (root, rng) = (dir.join(actor.name).join("share"), rng.fork(actor.name));
            let (name, size) = (actor.name, actor.file_bytes);
            scope.spawn(move || share(&root, name, size, rng, &parcel))
        };
        let running: Vec<_> = actors.iter().zip(parcels.drain(..)).map(start).collect();
        running.into_iter().map(|thread| thread.join().expect("writing files does not panic")).collect()
    });
    made.into_iter().collect()
}

fn share(root: &Path, name: &str, size: u64, mut rng: Rng, parcel: &[(PathBuf, u64)]) -> Outcome<Share> {
    let mut files = Vec::new();
    let path = if parcel.is_empty() {
        let relative = PathBuf::from(format!("{name}.bin"));
        files.push((relative.clone(), fill(&root.join(&relative), size, &mut rng)?));
        root.join(relative)
    } else {
        let folder = PathBuf::from(format!("{name}-files"));
        let mut used = 0;
        for (source, bytes) in parcel {
            let relative = folder.join(source.file_name().expect("listed from a folder"));
            files.push((relative.clone(), copy(source, &root.join(&relative))?));
            used += bytes;
        }
        if used < size {
            let relative = folder.join("random.filling");
            files.push((relative.clone(), fill(&root.join(&relative), size - used, &mut rng)?));
        }
        root.join(folder)
    };
    Ok(Share { torrent: create::torrent_of(&path, Some(PIECE), &[])?, files })
}

/// Deals the user's files to the honest nodes, each into the first share that has room. What fits nowhere stays out.
fn parcels(folder: &Path, actors: &[Actor]) -> Outcome<Vec<Vec<(PathBuf, u64)>>> {
    let entries = std::fs::read_dir(folder).map_err(|error| Failure::io(folder, &error))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Failure::io(folder, &error))?;
        let meta = entry.metadata().map_err(|error| Failure::io(&entry.path(), &error))?;
        if meta.is_file() && entry.file_name() != "random.filling" && entry.file_name().to_str().is_some() {
            files.push((entry.path(), meta.len()));
        }
    }
    files.sort();
    let mut parcels = vec![Vec::new(); actors.len()];
    let mut room: Vec<u64> =
        actors.iter().map(|actor| if actor.role == Role::Honest { actor.file_bytes } else { 0 }).collect();
    for (turn, (path, bytes)) in files.into_iter().enumerate() {
        let order = (0..actors.len()).map(|step| (turn + step) % actors.len());
        if let Some(index) = order.into_iter().find(|index| bytes > 0 && room[*index] >= bytes) {
            room[index] -= bytes;
            parcels[index].push((path, bytes));
        }
    }
    if parcels.iter().all(Vec::is_empty) {
        return Err(Failure::bad_use(
            "files",
            format!("{} holds no file that the demo can share", folder.display()),
        )
        .hint("name a folder with files of at most 48 MiB each"));
    }
    Ok(parcels)
}

fn fill(path: &Path, size: u64, rng: &mut Rng) -> Outcome<[u8; 20]> {
    let mut left = size;
    write(path, |buffer| {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        rng.fill(&mut buffer[..len]);
        left -= len as u64;
        Ok(len)
    })
}

fn copy(from: &Path, to: &Path) -> Outcome<[u8; 20]> {
    let mut source = File::open(from).map_err(|error| Failure::io(from, &error))?;
    write(to, |buffer| source.read(buffer))
}

/// Writes what `next` gives until it gives nothing, and hashes it on the way.
fn write(path: &Path, mut next: impl FnMut(&mut [u8]) -> std::io::Result<usize>) -> Outcome<[u8; 20]> {
    let mut hash = Sha1Stream::default();
    let mut run = || {
        std::fs::create_dir_all(path.parent().expect("a file has a folder"))?;
        let mut file = File::create(path)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let len = next(&mut buffer)?;
            if len == 0 {
                return Ok(());
            }
            hash.update(&buffer[..len]);
            file.write_all(&buffer[..len])?;
        }
    };
    run().map_err(|error| Failure::io(path, &error))?;
    Ok(hash.finish())
}

/// SHA-1 of a file, to compare what arrived with what was shared.
pub(crate) fn hash_of(path: &Path) -> std::io::Result<[u8; 20]> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER];
    let mut hash = Sha1Stream::default();
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finish()),
            len => hash.update(&buffer[..len]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::scenario;

    fn small() -> Vec<Actor> {
        let shrink = |actor: Actor| Actor { file_bytes: actor.file_bytes >> 8, ..actor };
        scenario::actors().into_iter().map(shrink).collect()
    }

    #[test]
    fn one_seed_gives_the_same_files_and_another_seed_others() {
        let hashes = |seed| {
            let dir = tempfile::tempdir().expect("temporary folder");
            let shares = make(dir.path(), &small(), &Rng::from_seed([seed; 32]), None).expect("made");
            let path = dir.path().join("anna/share").join(&shares[0].files[0].0);
            assert_eq!(hash_of(&path).expect("read"), shares[0].files[0].1);
            shares.iter().map(|share| share.torrent.info_hash()).collect::<Vec<_>>()
        };
        assert_eq!(hashes(1), hashes(1));
        assert_ne!(hashes(1), hashes(2));
    }

    #[test]
    fn the_users_files_are_shared_and_filled_up() {
        let users = tempfile::tempdir().expect("temporary folder");
        std::fs::write(users.path().join("a.txt"), b"hello").expect("written");
        std::fs::write(users.path().join("huge"), vec![0; 1 << 20]).expect("written");
        let dir = tempfile::tempdir().expect("temporary folder");
        let actors = small();
        let shares = make(dir.path(), &actors, &Rng::from_seed([1; 32]), Some(users.path())).expect("made");
        assert_eq!(shares[0].files.len(), 2);
        assert_eq!(shares[0].torrent.total_len(), actors[0].file_bytes);
        assert_eq!(std::fs::read(dir.path().join("anna/share/anna-files/a.txt")).expect("there"), b"hello");
        assert!(shares.iter().all(|share| share.files.iter().all(|(path, _)| !path.ends_with("huge"))));
        let empty = tempfile::tempdir().expect("temporary folder");
        assert!(make(dir.path(), &actors, &Rng::from_seed([1; 32]), Some(empty.path())).is_err());
    }
}
