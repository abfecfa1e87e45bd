//! Where the bytes of a torrent lie: pieces laid over files, padding left out.

use fairshare_swarm::{DiskError, Metainfo};

/// One file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileEntry {
    /// Folders and name below the root of the download.
    pub(super) path: Vec<String>,
    /// First byte inside the torrent.
    pub(super) start: u64,
    /// Bytes.
    pub(super) len: u64,
    /// Padding exists in the torrent only: it reads as zeros and is never written.
    pub(super) padding: bool,
}

impl FileEntry {
    /// The path for messages.
    pub(super) fn display(&self) -> String {
        self.path.join("/")
    }
}

/// A run of bytes inside one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Index of the file.
    pub(super) file: usize,
    /// First byte inside the file.
    pub(super) at: u64,
    /// Bytes.
    pub(super) len: u64,
}

/// Pieces and files of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) files: Vec<FileEntry>,
    piece_len: u64,
    total: u64,
}

impl Layout {
    /// The layout that the metainfo describes. Its paths are checked once more here: this is the last place before
    /// the disk.
    pub(super) fn of(metainfo: &Metainfo) -> Result<Self, DiskError> {
        let entry = |file: &fairshare_swarm::FileEntry| {
            let path = if file.padding { Vec::new() } else { disk_path(metainfo, &file.path) };
            if !file.padding && (file.path.is_empty() || !path.iter().all(|part| is_safe(part))) {
                return Err(DiskError::Other {
                    path: path.join("/"),
                    reason: "this path leads out of the download".to_owned(),
                });
            }
            Ok(FileEntry { path, start: file.offset, len: file.length, padding: file.padding })
        };
        let files = metainfo.files().iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Self { files, piece_len: u64::from(metainfo.piece_len()), total: metainfo.total_len() })
    }

    /// Number of pieces.
    pub(super) fn pieces(&self) -> u32 {
        u32::try_from(self.total.div_ceil(self.piece_len)).unwrap_or(u32::MAX)
    }

    /// Bytes of a piece; 0 for a piece that does not exist.
    pub(super) fn len_of(&self, piece: u32) -> u64 {
        let start = u64::from(piece).saturating_mul(self.piece_len);
        self.total.saturating_sub(start).min(self.piece_len)
    }

    /// The runs that hold a whole piece.
    pub(super) fn piece(&self, piece: u32) -> impl Iterator<Item = Span> + '_ {
        self.part(piece, 0, self.len_of(piece))
    }

    /// The runs that hold `len` bytes of a piece from `begin` on, cut at the end of the torrent.
    pub(super) fn part(&self, piece: u32, begin: u64, len: u64) -> impl Iterator<Item = Span> + '_ {
        let start = u64::from(piece).saturating_mul(self.piece_len).saturating_add(begin);
        let end = start.saturating_add(len).min(self.total);
        // Files before `first` end at or before `start`; empty files hold no byte of anything.
        let first = self.files.partition_point(|file| file.start + file.len <= start);
        self.files.iter().enumerate().skip(first).take_while(move |(_, file)| file.start < end).filter_map(
            move |(index, file)| {
                let from = start.max(file.start);
                let to = end.min(file.start + file.len);
                (from < to).then(|| Span { file: index, at: from - file.start, len: to - from })
            },
        )
    }

    /// The pieces that have a byte in a file.
    pub(super) fn pieces_of(&self, file: &FileEntry) -> std::ops::Range<u32> {
        if file.len == 0 {
            return 0..0;
        }
        let number = |at: u64| u32::try_from(at / self.piece_len).unwrap_or(u32::MAX);
        number(file.start)..number(file.start + file.len - 1).saturating_add(1)
    }
}

/// A single file lies directly below the root, several lie in a folder with the torrent's name.
fn disk_path(metainfo: &Metainfo, path: &[String]) -> Vec<String> {
    let folder = metainfo.is_multi_file().then(|| metainfo.name().to_owned());
    folder.into_iter().chain(path.iter().cloned()).collect()
}

/// Whether a part of a path names something directly inside its folder.
//= spec/swarm.md#32-path-safety
fn is_safe(part: &str) -> bool {
    !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(piece_len: u64, lens: &[u64]) -> Layout {
        let mut start = 0;
        let mut files = Vec::new();
        for (index, len) in lens.iter().enumerate() {
            files.push(FileEntry { path: vec![index.to_string()], start, len: *len, padding: false });
            start += len;
        }
        Layout { files, piece_len, total: start }
    }

    proptest! {
        #[test]
        fn pieces_cover_every_byte_once_and_in_order(
            piece_len in 1u64..50,
            lens in prop::collection::vec(0u64..120, 1..8),
        ) {
            let layout = layout(piece_len, &lens);
            let spans: Vec<Span> = (0..layout.pieces()).flat_map(|piece| layout.piece(piece)).collect();
            let bytes: Vec<(usize, u64)> =
                spans.iter().flat_map(|span| (span.at..span.at + span.len).map(|at| (span.file, at))).collect();
            let expected: Vec<(usize, u64)> =
                lens.iter().enumerate().flat_map(|(file, len)| (0..*len).map(move |at| (file, at))).collect();
            prop_assert_eq!(bytes, expected);
            for (index, file) in layout.files.iter().enumerate() {
                for piece in 0..layout.pieces() {
                    let touches = layout.piece(piece).any(|span| span.file == index);
                    prop_assert_eq!(touches, layout.pieces_of(file).contains(&piece));
                }
            }
        }
    }

    #[test]
    fn a_piece_that_does_not_exist_has_no_bytes() {
        let layout = layout(10, &[25]);
        assert_eq!(layout.pieces(), 3);
        assert_eq!((layout.len_of(2), layout.len_of(3), layout.len_of(u32::MAX)), (5, 0, 0));
        assert_eq!(layout.part(u32::MAX, u64::MAX, u64::MAX).count(), 0);
        assert_eq!(layout.part(2, 3, 100).collect::<Vec<_>>(), [Span { file: 0, at: 23, len: 2 }]);
    }

    //= spec/swarm.md#32-path-safety
    #[test]
    fn parts_that_lead_elsewhere_are_not_safe() {
        for part in ["", ".", "..", "a/b", "/etc", "a\0"] {
            assert!(!is_safe(part), "{part:?}");
        }
        assert!(is_safe("..."));
    }
}
