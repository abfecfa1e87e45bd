//! The pool from outside: requests in, answers out, files looked at with the standard library.

#[path = "../../tests/small_disk/mod.rs"]
mod small_disk;

use super::*;
use fairshare_crypto::{Rng, sha1};
use fairshare_swarm::Bitfield;
use fairshare_swarm::bencode::Tree;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PIECE_LEN: usize = 16_384;
const BLOCK_LEN: usize = 5_000;
const SMALL_DISK_TEST: &str = "disk::tests::a_full_disk_is_an_error_in_words_and_costs_nothing_that_was_held";

/// A torrent of four files, one of them empty, one of them padding, and its content.
struct Sample {
    metainfo: Arc<Metainfo>,
    /// Content of `a` (three pieces and a bit), `sub/b` and `sub/deep/c`.
    files: Vec<(&'static str, Vec<u8>)>,
    content: Vec<u8>,
}

fn sample() -> Sample {
    let mut rng = Rng::from_seed([5; 32]);
    let mut random = |len: usize| {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        bytes
    };
    let files = vec![
        ("a", random(3 * PIECE_LEN + 100)),
        ("sub/b", random(700)),
        ("sub/empty", Vec::new()),
        ("sub/deep/c", random(2 * PIECE_LEN + 1)),
    ];
    let padding = PIECE_LEN - 800;
    let content = [&files[0].1[..], &files[1].1, &files[2].1, &vec![0; padding], &files[3].1].concat();
    let mut entries: Vec<Tree> = files.iter().map(|(path, bytes)| entry(path, bytes.len(), "")).collect();
    entries.insert(3, entry(".pad/1", padding, "p"));
    let hashes: Vec<u8> = content.chunks(PIECE_LEN).flat_map(sha1).collect();
    let info = Tree::dict([
        ("files", Tree::List(entries)),
        ("name", Tree::text("sample")),
        ("piece length", Tree::Int(PIECE_LEN as i64)),
        ("pieces", Tree::Bytes(hashes.into())),
    ]);
    let torrent = Tree::dict([("info", info)]).encode();
    Sample { metainfo: Arc::new(Metainfo::from_torrent(&torrent).expect("well formed")), files, content }
}

fn entry(path: &str, len: usize, attributes: &str) -> Tree {
    let path = Tree::List(path.split('/').map(Tree::text).collect());
    let mut fields = vec![("length", Tree::Int(len as i64)), ("path", path)];
    if !attributes.is_empty() {
        fields.push(("attr", Tree::text(attributes)));
    }
    Tree::dict(fields)
}

impl Sample {
    fn hash(&self) -> InfoHash {
        self.metainfo.info_hash()
    }

    /// The blocks of a piece, of a length that fits neither pieces nor files.
    fn blocks(&self, piece: usize) -> Vec<Bytes> {
        let piece = self.content.chunks(PIECE_LEN).nth(piece).expect("a piece of the sample");
        piece.chunks(BLOCK_LEN).map(Bytes::copy_from_slice).collect()
    }

    /// Puts the files below `root`, as a seeder has them.
    fn put(&self, root: &Path) {
        for (path, bytes) in &self.files {
            let path = root.join("sample").join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("writable");
            std::fs::write(path, bytes).expect("writable");
        }
    }
}

/// A pool and the way its answers come back.
struct Disk {
    pool: DiskPool,
    answers: Receiver<(u64, Completion)>,
}

impl Disk {
    fn start(resume_dir: &Path) -> Self {
        let (sender, answers) = channel();
        let answer: Answer = Arc::new(move |completions: Vec<(u64, Completion)>| {
            // The test may be over already.
            completions.into_iter().for_each(|completion| drop(sender.send(completion)));
        });
        Self { pool: DiskPool::start(resume_dir.to_path_buf(), answer).expect("threads"), answers }
    }

    fn ask(&self, request: Request) -> Completion {
        self.pool.submit(vec![(1, request)]);
        self.answers.recv_timeout(Duration::from_secs(20)).expect("every request is answered").1
    }

    fn open(&self, sample: &Sample, root: &Path, create: bool) -> Result<Bitfield, DiskError> {
        let metainfo = sample.metainfo.clone();
        match self.ask(Request::Open { metainfo, root: root.to_path_buf(), create }) {
            Completion::Opened(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn store(&self, sample: &Sample, piece: usize) -> Result<bool, DiskError> {
        let request =
            Request::Store { torrent: sample.hash(), piece: piece as u32, blocks: sample.blocks(piece) };
        match self.ask(request) {
            Completion::Stored(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn save(&self, sample: &Sample, have: &Bitfield, finished: bool) -> Result<(), DiskError> {
        match self.ask(Request::Save { torrent: sample.hash(), have: have.clone(), finished }) {
            Completion::Saved(result) => result,
            other => panic!("{other:?}"),
        }
    }
}

fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (root, resume) = (dir.path().join("downloads"), dir.path().join("resume"));
    std::fs::create_dir_all(&root).expect("writable");
    std::fs::create_dir_all(&resume).expect("writable");
    (dir, root, resume)
}

fn pieces(of: &[u32]) -> Bitfield {
    let mut field = Bitfield::new(7);
    for piece in of {
        field.set(*piece);
    }
    field
}

//= spec/swarm.md#9-storage
#[test]
fn a_download_of_several_files_is_written_named_and_read_back() {
    let (_dir, root, resume) = folders();
    let (sample, disk) = (sample(), Disk::start(&resume));
    assert_eq!(disk.open(&sample, &root, true), Ok(pieces(&[])));
    assert_eq!(sample.metainfo.piece_count(), 7, "the helper above counts on it");
    for piece in [6, 0, 3, 4, 1, 2, 5] {
        assert_eq!(disk.store(&sample, piece), Ok(true));
    }
    assert!(root.join("sample/a.!fs").exists() && !root.join("sample/a").exists());
    disk.save(&sample, &Bitfield::full(7), true).expect("finished");
    for (path, bytes) in &sample.files {
        assert_eq!(&std::fs::read(root.join("sample").join(path)).expect("named"), bytes, "{path}");
        assert!(!root.join("sample").join(format!("{path}.!fs")).exists());
    }
    assert!(!root.join("sample/.pad").exists(), "padding is never made");
    let read = Request::Read { torrent: sample.hash(), piece: 3, begin: 50, len: 10_000 };
    let expected = &sample.content[3 * PIECE_LEN + 50..][..10_000];
    assert!(
        matches!(disk.ask(read), Completion::Data(Ok(bytes)) if bytes == expected),
        "through the new names"
    );
    let again = Disk::start(&resume);
    assert_eq!(again.open(&sample, &root, true), Ok(Bitfield::full(7)));
    assert_eq!(again.open(&sample, &root, false), Ok(Bitfield::full(7)));
}

#[test]
fn a_piece_with_a_wrong_hash_is_dropped_and_never_written() {
    let (_dir, root, resume) = folders();
    let (sample, disk) = (sample(), Disk::start(&resume));
    disk.open(&sample, &root, true).expect("an empty folder");
    let mut blocks = sample.blocks(0);
    blocks[1] = Bytes::from(vec![1; BLOCK_LEN]);
    let request = Request::Store { torrent: sample.hash(), piece: 0, blocks };
    assert!(matches!(disk.ask(request), Completion::Stored(Ok(false))));
    let short = Request::Store { torrent: sample.hash(), piece: 0, blocks: Vec::new() };
    assert!(matches!(disk.ask(short), Completion::Stored(Ok(false))));
    let beyond = Request::Store { torrent: sample.hash(), piece: 7, blocks: sample.blocks(0) };
    assert!(matches!(disk.ask(beyond), Completion::Stored(Ok(false))));
    assert!(std::fs::read(root.join("sample/a.!fs")).expect("made").iter().all(|byte| *byte == 0));
}

#[test]
fn neighbouring_reads_come_back_each_with_its_own_bytes() {
    let (_dir, root, resume) = folders();
    let (sample, disk) = (sample(), Disk::start(&resume));
    sample.put(&root);
    assert_eq!(disk.open(&sample, &root, false), Ok(Bitfield::full(7)));
    let read = |piece, begin, len| Request::Read { torrent: sample.hash(), piece, begin, len };
    let wanted = [
        (0, 0, 4096),
        (0, 4096, 4096),
        (0, 8192, 8192),
        (1, 0, 100),
        (3, 0, 9000),
        (3, 9000, 7384),
        (5, 0, 10),
        (5, 100, 10),
        (5, 100, 10),
        (6, 0, 1),
    ];
    let requests =
        wanted.iter().zip(0..).map(|((piece, begin, len), ticket)| (ticket, read(*piece, *begin, *len)));
    disk.pool.submit(requests.collect());
    for _ in wanted {
        let (ticket, completion) = disk.answers.recv_timeout(Duration::from_secs(20)).expect("an answer");
        let (piece, begin, len) = wanted[ticket as usize];
        let expected = &sample.content[piece as usize * PIECE_LEN + begin as usize..][..len as usize];
        assert!(matches!(completion, Completion::Data(Ok(bytes)) if bytes == expected), "{ticket}");
    }
    let beyond = disk.ask(read(6, 0, 2));
    assert!(matches!(beyond, Completion::Data(Err(DiskError::Other { .. }))), "{beyond:?}");
}

//= spec/swarm.md#9-storage
#[test]
fn damage_is_found_when_a_download_is_opened_again() {
    let (_dir, root, resume) = folders();
    let sample = sample();
    sample.put(&root);
    // Without resume data everything is hashed.
    let path = root.join("sample/sub/b");
    let mut bytes = std::fs::read(&path).expect("put there");
    bytes[5] ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    assert_eq!(Disk::start(&resume).open(&sample, &root, false), Ok(pieces(&[0, 1, 2, 4, 5, 6])));
    // For a download, a file that is not whole gets its unfinished name back, and can be finished again.
    let disk = Disk::start(&resume);
    assert_eq!(disk.open(&sample, &root, true), Ok(pieces(&[0, 1, 2, 4, 5, 6])));
    assert!(root.join("sample/sub/b.!fs").exists() && root.join("sample/sub/deep/c").exists());
    assert_eq!(disk.store(&sample, 3), Ok(true));
    disk.save(&sample, &Bitfield::full(7), true).expect("finished");
    assert_eq!(std::fs::read(path).expect("named"), sample.files[1].1);
}

//= spec/swarm.md#9-storage
#[test]
fn a_file_that_changed_is_hashed_again_and_no_other() {
    let (_dir, root, resume) = folders();
    let sample = sample();
    let disk = Disk::start(&resume);
    disk.open(&sample, &root, true).expect("an empty folder");
    for piece in [1, 2, 4, 5] {
        assert_eq!(disk.store(&sample, piece), Ok(true));
    }
    // Piece 2 is on disk but not in the record, as after a crash between writing and saving.
    disk.save(&sample, &pieces(&[1, 4, 5]), false).expect("room");
    drop(disk);
    assert_eq!(Disk::start(&resume).open(&sample, &root, true), Ok(pieces(&[1, 4, 5])), "believed unseen");
    let a = root.join("sample/a.!fs");
    let file = std::fs::OpenOptions::new().write(true).open(&a).expect("there");
    std::os::unix::fs::FileExt::write_all_at(&file, &[9; 10], PIECE_LEN as u64 + 7).expect("writable");
    drop(file);
    // Damage in `c` that leaves no trace in its times: believed, because only `a` is looked at.
    let c = root.join("sample/sub/deep/c.!fs");
    let modified = std::fs::metadata(&c).expect("there").modified().expect("known");
    let file = std::fs::OpenOptions::new().write(true).open(&c).expect("there");
    std::os::unix::fs::FileExt::write_all_at(&file, &[9; 10], 3).expect("writable");
    file.set_modified(modified).expect("ours");
    drop(file);
    assert_eq!(Disk::start(&resume).open(&sample, &root, true), Ok(pieces(&[2, 4, 5])));
}

#[test]
fn a_file_that_was_cut_or_deleted_costs_its_own_pieces_only() {
    let (_dir, root, resume) = folders();
    let sample = sample();
    let disk = Disk::start(&resume);
    disk.open(&sample, &root, true).expect("an empty folder");
    for piece in 0..7 {
        assert_eq!(disk.store(&sample, piece), Ok(true));
    }
    disk.save(&sample, &Bitfield::full(7), false).expect("room");
    drop(disk);
    let c = root.join("sample/sub/deep/c.!fs");
    std::fs::OpenOptions::new().write(true).open(&c).expect("there").set_len(PIECE_LEN as u64).expect("ours");
    std::fs::remove_file(root.join("sample/sub/b.!fs")).expect("ours");
    assert_eq!(Disk::start(&resume).open(&sample, &root, true), Ok(pieces(&[0, 1, 2, 4])));
}

#[test]
fn a_seed_needs_its_files_whole_and_never_writes() {
    let (_dir, root, resume) = folders();
    let (sample, disk) = (sample(), Disk::start(&resume));
    assert_eq!(disk.open(&sample, &root, false), Err(DiskError::Missing("sample/a".to_owned())));
    sample.put(&root);
    let b = root.join("sample/sub/b");
    std::fs::write(&b, [0; 699]).expect("writable");
    assert_eq!(disk.open(&sample, &root, false), Err(DiskError::Missing("sample/sub/b".to_owned())));
    assert_eq!(disk.open(&sample, &root, true), Err(DiskError::Missing("sample/sub/b".to_owned())));
    assert_eq!(std::fs::read(&b).expect("untouched").len(), 699, "a file of the user is not overwritten");
    sample.put(&root);
    assert_eq!(disk.open(&sample, &root, false), Ok(Bitfield::full(7)));
    assert!(resume.join(format!("{}.resume", sample.hash())).exists(), "the next start need not hash again");
    assert!(matches!(disk.store(&sample, 0), Err(DiskError::Other { .. })));
}

//= spec/swarm.md#32-path-safety
#[test]
fn no_symbolic_link_inside_a_download_is_followed() {
    let (dir, root, resume) = folders();
    let (sample, disk) = (sample(), Disk::start(&resume));
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).expect("writable");
    // A folder that is a link.
    std::os::unix::fs::symlink(&outside, root.join("sample")).expect("writable");
    assert!(matches!(disk.open(&sample, &root, true), Err(DiskError::Other { .. })));
    std::fs::remove_file(root.join("sample")).expect("ours");
    // A file that is a link, one that leads nowhere yet included.
    std::fs::create_dir(root.join("sample")).expect("writable");
    for name in ["a", "a.!fs"] {
        let link = root.join("sample").join(name);
        std::os::unix::fs::symlink(outside.join("target"), &link).expect("writable");
        assert!(matches!(disk.open(&sample, &root, true), Err(DiskError::Other { .. })), "{name}");
        std::fs::remove_file(link).expect("ours");
    }
    // A pipe would block whoever opens it.
    rustix::fs::mknodat(rustix::fs::CWD, root.join("sample/a"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("writable");
    assert!(matches!(disk.open(&sample, &root, true), Err(DiskError::Other { .. })));
    assert_eq!(std::fs::read_dir(outside).expect("there").count(), 0, "nothing was made outside");
}

#[test]
fn deleting_takes_the_torrent_and_nothing_else() {
    let (_dir, root, resume) = folders();
    let (sample, disk) = (sample(), Disk::start(&resume));
    disk.open(&sample, &root, true).expect("an empty folder");
    disk.store(&sample, 0).expect("room");
    disk.save(&sample, &pieces(&[0]), false).expect("room");
    std::fs::write(root.join("sample/sub/mine"), b"keep").expect("writable");
    let close = Request::Close { torrent: sample.hash(), delete: true };
    assert!(matches!(disk.ask(close), Completion::Saved(Ok(()))));
    let left: Vec<_> =
        std::fs::read_dir(root.join("sample")).expect("kept").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["sub"]);
    assert!(!root.join("sample/sub/deep").exists());
    assert_eq!(std::fs::read(root.join("sample/sub/mine")).expect("kept"), b"keep");
    assert_eq!(std::fs::read_dir(&resume).expect("there").count(), 0);
    assert!(matches!(disk.store(&sample, 0), Err(DiskError::Other { .. })), "closed");
}

#[test]
fn openings_savings_and_closings_keep_their_order() {
    let (_dir, root, resume) = folders();
    let (sample, disk) = (sample(), Disk::start(&resume));
    let open = || Request::Open { metainfo: sample.metainfo.clone(), root: root.clone(), create: true };
    let save = |of: &[u32]| Request::Save { torrent: sample.hash(), have: pieces(of), finished: false };
    let close = |delete| Request::Close { torrent: sample.hash(), delete };
    for _ in 0..20 {
        let requests =
            vec![open(), save(&[0]), save(&[1]), close(false), open(), save(&[2]), close(true), open()];
        disk.pool.submit(requests.into_iter().zip(0..).map(|(request, ticket)| (ticket, request)).collect());
        let opened: Vec<_> = (0..8)
            .filter_map(|expected| {
                let (ticket, completion) =
                    disk.answers.recv_timeout(Duration::from_secs(20)).expect("an answer");
                assert_eq!(ticket, expected);
                match completion {
                    Completion::Opened(held) => Some(held.expect("room")),
                    Completion::Saved(result) => {
                        result.expect("room");
                        None
                    }
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        assert_eq!(
            opened,
            [pieces(&[]), pieces(&[1]), pieces(&[])],
            "the last record before each opening counts"
        );
        disk.ask(close(true));
    }
}

#[test]
fn a_full_disk_is_an_error_in_words_and_costs_nothing_that_was_held() {
    // 60 KiB hold the resume file and three pieces, not seven.
    if let Some(dir) = small_disk::enter(SMALL_DISK_TEST, "60k") {
        on_a_small_disk(&dir);
    }
}

fn on_a_small_disk(dir: &Path) {
    let (root, resume) = (dir.join("downloads"), dir.join("resume"));
    std::fs::create_dir_all(&resume).expect("room");
    let (sample, disk) = (sample(), Disk::start(&resume));
    assert_eq!(disk.open(&sample, &root, true), Ok(pieces(&[])));
    let mut held = pieces(&[]);
    let full = (0..7).find_map(|piece| match disk.store(&sample, piece) {
        Ok(true) => {
            held.set(piece as u32);
            disk.save(&sample, &held, false).err()
        }
        Ok(false) => panic!("the content is right"),
        Err(error) => Some(error),
    });
    assert!(matches!(full, Some(DiskError::Full(_))), "{full:?}");
    assert!(full.is_some_and(|error| error.to_string().starts_with("no space left")));
    drop(disk);
    // Nothing that was whole is lost; the piece that was cut short by the full disk is not taken for whole.
    let again = Disk::start(&resume).open(&sample, &root, true).expect("opens without room");
    assert_eq!(again, held);
    assert!(again.count() >= 1);
}
