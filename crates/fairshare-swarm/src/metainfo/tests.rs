//! Torrent files good and bad, and torrents that we make ourselves.

use super::*;
use crate::bencode::BencodeError;
use fairshare_crypto::sha1;
use proptest::prelude::*;

const PIECE: i64 = 16_384;

/// An info dictionary of one file of `length` bytes, with some entries replaced or added.
fn info(length: i64, other: Vec<(&'static str, Tree)>) -> Vec<u8> {
    let pieces = usize::try_from((length + PIECE - 1) / PIECE).unwrap_or_default();
    let usual = vec![
        ("length", Tree::Int(length)),
        ("name", Tree::text("film.mkv")),
        ("piece length", Tree::Int(PIECE)),
        ("pieces", Tree::Bytes(vec![7; 20 * pieces].into())),
    ];
    Tree::dict(usual.into_iter().chain(other)).encode()
}

fn torrent(info: Vec<u8>, other: Vec<(&'static str, Tree)>) -> Vec<u8> {
    Tree::dict(other.into_iter().chain([("info", Tree::Raw(info.into()))])).encode()
}

fn parse(info: Vec<u8>) -> Result<Metainfo, MetainfoError> {
    Metainfo::from_torrent(&torrent(info, vec![]))
}

fn file(length: i64, path: &[&str], attributes: &str) -> Tree {
    Tree::dict([
        ("attr", Tree::text(attributes)),
        ("length", Tree::Int(length)),
        ("path", Tree::List(path.iter().map(|part| Tree::text(part)).collect())),
    ])
}

/// An info dictionary of several files.
fn folder(files: Vec<Tree>, pieces: usize) -> Vec<u8> {
    Tree::dict([
        ("files", Tree::List(files)),
        ("name", Tree::text("folder")),
        ("piece length", Tree::Int(PIECE)),
        ("pieces", Tree::Bytes(vec![7; 20 * pieces].into())),
    ])
    .encode()
}

fn list(items: &[&str]) -> Tree {
    Tree::List(items.iter().map(|item| Tree::text(item)).collect())
}

//= spec/swarm.md#1-identifiers
#[test]
fn the_info_hash_is_that_of_the_exact_bytes_however_odd() {
    // Keys out of order and a number with leading zeros: never produced, and hashed as they are.
    let odd = b"d4:name1:x12:piece lengthi016384e6:lengthi5e6:pieces20:aaaaaaaaaaaaaaaaaaaae".to_vec();
    let metainfo = parse(odd.clone()).expect("tolerated");
    assert_eq!(metainfo.info_hash(), InfoHash(sha1(&odd)));
    assert_eq!(metainfo.info(), &odd);
    assert_eq!((metainfo.piece_count(), metainfo.piece_size(0), metainfo.piece_size(1)), (1, 5, 0));
    assert_eq!((metainfo.piece_hash(0), metainfo.piece_hash(1)), (Some([b'a'; 20]), None));
    assert_eq!(metainfo.info_hash().to_string().parse(), Ok(metainfo.info_hash()));
}

#[test]
fn a_single_file_lies_directly_and_several_lie_in_a_folder() {
    let single = parse(info(PIECE + 1, vec![])).expect("good");
    assert!(!single.is_multi_file());
    let whole = FileEntry { path: vec!["film.mkv".to_owned()], length: 16_385, offset: 0, padding: false };
    assert_eq!(single.files(), [whole]);
    assert_eq!((single.piece_count(), single.piece_size(1)), (2, 1));

    let files = vec![
        file(10, &["sub", "a"], ""),
        file(16_374, &[".pad", "16374"], "p"),
        file(0, &["link"], "l"),
        file(0, &["empty"], ""),
        file(20, &["sub", "b"], "x"),
    ];
    let several = parse(folder(files, 2)).expect("good");
    assert!(several.is_multi_file());
    let entry = |path: &[&str], length, offset, padding| FileEntry {
        path: path.iter().map(|part| (*part).to_owned()).collect(),
        length,
        offset,
        padding,
    };
    assert_eq!(
        several.files(),
        [
            entry(&["sub", "a"], 10, 0, false),
            entry(&[], 16_374, 10, true),
            entry(&["empty"], 0, 16_384, false),
            entry(&["sub", "b"], 20, 16_384, false),
        ]
    );
    assert_eq!((several.name(), several.total_len()), ("folder", 16_404));
}

//= spec/swarm.md#32-path-safety
#[test]
fn names_that_lead_elsewhere_are_refused_or_made_safe() {
    assert!(matches!(parse(folder(vec![file(5, &["..", "x"], "")], 1)), Err(MetainfoError::Path(_))));
    assert!(matches!(parse(folder(vec![file(5, &[], "")], 1)), Err(MetainfoError::Key("path"))));
    assert!(matches!(parse(info(5, vec![("name", Tree::text(".."))])), Err(MetainfoError::Path(_))));
    let safe = parse(info(5, vec![("name", Tree::text("/etc/passwd"))])).expect("made safe");
    assert_eq!(
        (safe.name(), safe.files()[0].path.as_slice()),
        ("_etc_passwd", ["_etc_passwd".to_owned()].as_slice())
    );
    let utf8 =
        parse(info(5, vec![("name", Tree::Bytes(vec![0xff].into())), ("name.utf-8", Tree::text("\u{fc}"))]));
    assert_eq!(utf8.expect("good").name(), "\u{fc}");
}

//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
#[test]
fn sizes_that_do_not_fit_are_refused() {
    let length = |length| parse(info(5, vec![("piece length", Tree::Int(length))]));
    assert_eq!(length(16_383).expect_err("too short"), MetainfoError::PieceLength(16_383));
    assert_eq!(length((256 << 20) + 1).expect_err("too long"), MetainfoError::PieceLength((256 << 20) + 1));
    assert!(length(256 << 20).is_ok() && length(16_385).is_ok());
    let hashes = |bytes: usize| parse(info(PIECE, vec![("pieces", Tree::Bytes(vec![1; bytes].into()))]));
    for bytes in [0, 19, 21, 40] {
        assert_eq!(hashes(bytes), Err(MetainfoError::PieceHashes { hashes: bytes, pieces: 1 }));
    }
    assert_eq!(parse(info(0, vec![])), Err(MetainfoError::Empty));
    assert_eq!(parse(info(-1, vec![])), Err(MetainfoError::Key("length")));
    let beyond = parse(info(5, vec![("length", Tree::Int(i64::MAX))]));
    assert!(matches!(beyond, Err(MetainfoError::TooLarge { what: "the number of pieces", .. })));
    let overflow =
        folder(vec![file(i64::MAX, &["a"], ""), file(i64::MAX, &["b"], ""), file(9, &["c"], "")], 1);
    assert_eq!(parse(overflow), Err(MetainfoError::Key("length")));
    let whole = vec![0; (64 << 20) + 1];
    assert!(matches!(Metainfo::from_torrent(&whole), Err(MetainfoError::TooLarge { .. })));
}

#[test]
fn a_hybrid_torrent_is_used_by_its_first_half_and_version_2_alone_is_named() {
    let hybrid = info(5, vec![("meta version", Tree::Int(2)), ("file tree", Tree::dict([]))]);
    let layers = ("piece layers", Tree::Dict([(vec![1; 32], Tree::text("layer"))].into()));
    let hybrid = torrent(hybrid, vec![layers]);
    assert_eq!(Metainfo::from_torrent(&hybrid).expect("the first half is enough").to_torrent(), hybrid);
    let only_v2 = Tree::dict([("meta version", Tree::Int(2)), ("piece length", Tree::Int(PIECE))]).encode();
    assert_eq!(parse(only_v2), Err(MetainfoError::OnlyV2));
    assert_eq!(parse(b"de".to_vec()), Err(MetainfoError::Key("pieces")));
    assert_eq!(Metainfo::from_torrent(b"de"), Err(MetainfoError::Key("info")));
    assert_eq!(
        Metainfo::from_torrent(b"x"),
        Err(MetainfoError::Bencode(BencodeError::Unexpected { left: 1 }))
    );
}

#[test]
fn trackers_and_web_seeds_are_read_and_nonsense_among_them_is_dropped() {
    let read = |other| Metainfo::from_torrent(&torrent(info(5, vec![]), other)).expect("good");
    let tiers = Tree::List(vec![
        list(&["http://a", "udp://b"]),
        list(&["nonsense", "http://\u{fc}"]),
        list(&[" http://c "]),
    ]);
    let several = read(vec![
        ("announce", Tree::text("http://z")),
        ("announce-list", tiers),
        ("url-list", list(&["http://w"])),
    ]);
    assert_eq!(
        several.trackers(),
        [vec!["http://a".to_owned(), "udp://b".to_owned()], vec!["http://c".to_owned()]]
    );
    assert_eq!(several.web_seeds(), ["http://w"]);
    let one = read(vec![
        ("announce", Tree::text("http://z")),
        ("announce-list", Tree::List(vec![])),
        ("url-list", Tree::text("http://w")),
    ]);
    assert_eq!(
        (one.trackers(), one.web_seeds()),
        ([vec!["http://z".to_owned()]].as_slice(), ["http://w".to_owned()].as_slice())
    );
    let many = Tree::List(vec![Tree::List(vec![Tree::text("http://a"); 300]); 3]);
    assert_eq!(read(vec![("announce-list", many)]).trackers().iter().map(Vec::len).sum::<usize>(), 200);
    assert!(!read(vec![]).is_private());
    assert!(parse(info(5, vec![("private", Tree::Int(1))])).expect("good").is_private());
}

#[test]
fn metadata_is_taken_only_for_the_torrent_that_was_asked_for() {
    let bytes = info(5, vec![]);
    let wanted = InfoHash(sha1(&bytes));
    let trackers = vec![vec!["http://a".to_owned()]];
    let metainfo = Metainfo::from_info(&bytes, wanted, trackers.clone()).expect("good");
    assert_eq!((metainfo.info_hash(), metainfo.trackers()), (wanted, trackers.as_slice()));
    let other = InfoHash([1; 20]);
    let wrong = MetainfoError::OtherTorrent { wanted: other, got: wanted };
    assert_eq!(Metainfo::from_info(&bytes, other, vec![]), Err(wrong));
    let longer = [bytes, b" ".to_vec()].concat();
    assert_eq!(
        Metainfo::from_info(&longer, InfoHash(sha1(&longer)), vec![]),
        Err(BencodeError::Trailing.into())
    );
}

//= spec/swarm.md#12-bittorrent-v2-and-hybrid-bep-52
#[test]
fn the_chosen_piece_length_gives_one_to_two_thousand_pieces_within_its_bounds() {
    assert_eq!((piece_len_for(1), piece_len_for(128_000_000)), (64 << 10, 64 << 10));
    assert_eq!((piece_len_for(100 << 30), piece_len_for(u64::MAX)), (16 << 20, 16 << 20));
    for total in (27..35).flat_map(|power| [1_u64 << power, (1 << power) + 1, 3 << (power - 1)]) {
        let pieces = total.div_ceil(u64::from(piece_len_for(total)));
        assert!((1_000..=2_049).contains(&pieces), "{total} bytes in {pieces} pieces");
    }
}

fn source(path: &[&str], length: u64) -> SourceFile {
    SourceFile { path: path.iter().map(|part| (*part).to_owned()).collect(), length }
}

#[test]
fn a_torrent_that_we_make_is_read_back_whole() {
    let files = vec![source(&["a"], 70_000), source(&["sub", "b"], 0), source(&["sub", "c"], 1)];
    let mut builder = TorrentBuilder::folder("folder", files)
        .expect("good names")
        .private(true)
        .comment("words")
        .created("fairshare", 5)
        .trackers(vec![vec!["http://a".to_owned(), "http://b".to_owned()], vec!["http://c".to_owned()]]);
    assert_eq!(
        (builder.piece_count(), builder.total_len(), builder.chosen_piece_len()),
        (2, 70_001, 64 << 10)
    );
    builder.push_hash([1; 20]);
    assert_eq!(builder.clone().finish(), Err(BuildError::Hashes { wanted: 2, got: 1 }));
    builder.push_hash([2; 20]);
    let odd = builder.clone().trackers(vec![vec!["http://a b".to_owned()]]);
    assert_eq!(odd.finish(), Err(BuildError::Tracker("http://a b".to_owned())));
    let made = builder.finish().expect("complete");
    assert_eq!(Metainfo::from_torrent(&made.to_torrent()), Ok(made.clone()));
    assert!(made.is_private() && made.is_multi_file());
    assert_eq!((made.comment(), made.piece_hash(1)), (Some("words"), Some([2; 20])));

    let mut single = TorrentBuilder::file("film.mkv", 5).expect("good name").piece_len(16_384);
    single.push_hash([3; 20]);
    let single = single.finish().expect("complete");
    assert_eq!(single.to_torrent(), torrent(single.info().to_vec(), vec![]));
    assert_eq!(Metainfo::from_torrent(&single.to_torrent()), Ok(single.clone()));
    let with = |urls: &[&str]| {
        let tier = urls.iter().map(|url| (*url).to_owned()).collect();
        Metainfo { trackers: vec![tier], ..single.clone() }.to_torrent()
    };
    assert_eq!(
        with(&["http://a"]),
        torrent(single.info().to_vec(), vec![("announce", Tree::text("http://a"))])
    );
    let two = Metainfo::from_torrent(&with(&["http://a", "http://b"])).expect("own writing");
    assert_eq!(two.trackers(), [["http://a", "http://b"]]);
}

#[test]
fn no_torrent_is_made_under_names_that_would_be_changed() {
    for name in ["a:b", "CON", "x.", ""] {
        assert!(TorrentBuilder::file(name, 5).is_err(), "{name:?}");
    }
    let twice = vec![source(&["a"], 1), source(&["A"], 1)];
    assert_eq!(TorrentBuilder::folder("f", twice).expect_err("alike"), BuildError::Name("A".to_owned()));
    assert!(matches!(TorrentBuilder::file("x", 0), Err(BuildError::Invalid(MetainfoError::Empty))));
    assert!(TorrentBuilder::file("x", u64::MAX).is_err());
    assert_eq!(TorrentBuilder::file("x", 5).expect("good").piece_len(0).piece_count(), 0);
    assert!(TorrentBuilder::file("x", 5).expect("good").piece_len(0).finish().is_err());
}

fn sample() -> Vec<u8> {
    let files = vec![file(10, &["sub", "a"], ""), file(16_374, &["pad"], "p"), file(20, &["b"], "")];
    torrent(
        folder(files, 2),
        vec![("announce", Tree::text("http://a")), ("announce-list", Tree::List(vec![list(&["http://a"])]))],
    )
}

#[test]
fn no_start_of_a_torrent_is_a_torrent() {
    let bytes = sample();
    assert!(Metainfo::from_torrent(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(Metainfo::from_torrent(&bytes[..len]).is_err(), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn changed_torrents_are_read_or_refused(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = sample();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(metainfo) = Metainfo::from_torrent(&bytes) {
            prop_assert_eq!(metainfo.files().iter().map(|file| file.length).sum::<u64>(), metainfo.total_len());
            let sizes = (0..metainfo.piece_count()).map(|piece| u64::from(metainfo.piece_size(piece)));
            prop_assert_eq!(sizes.sum::<u64>(), metainfo.total_len());
            prop_assert!(metainfo.piece_hash(metainfo.piece_count() - 1).is_some());
            let again = Metainfo::from_torrent(&metainfo.to_torrent()).expect("own writing");
            prop_assert_eq!(again.info_hash(), metainfo.info_hash());
        }
    }
}
