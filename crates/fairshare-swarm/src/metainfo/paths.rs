//! Names of files that are safe to create on every system, whatever the torrent says.
//= spec/swarm.md#32-path-safety

use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Bytes of a path component, as received.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
const MAX_COMPONENT_LEN: usize = 255;
/// Folders inside each other.
const MAX_DEPTH: usize = 64;
/// Bytes of a component that is created: room for the suffixes that a download or a collision adds.
const MAX_SAFE_LEN: usize = 240;
/// Longest part behind the last dot that counts as an extension when a name is cut.
const MAX_EXTENSION_LEN: usize = 16;
/// The ending of files that are still incomplete, which no file of a torrent may claim.
const INCOMPLETE: &str = ".!fs";
const FORBIDDEN: &str = "/\\:*?\"<>|";
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"];
const NUMBERED_DEVICES: [&str; 2] = ["COM", "LPT"];

/// Why no file can be created under a name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathError {
    /// Nothing, or a name that means a folder.
    #[error("the torrent names a file or folder {0:?}")]
    Reserved(String),
    /// Too long.
    #[error("a path component of {0} bytes, at most {MAX_COMPONENT_LEN} are accepted")]
    Long(usize),
    /// Too deep.
    #[error("a path of {0} components, at most {MAX_DEPTH} are accepted")]
    Deep(usize),
}

/// Turns the paths of one torrent into safe ones, no two of them alike.
#[derive(Debug, Default)]
pub(super) struct SafePaths {
    /// Safe paths of files, in lower case.
    files: BTreeSet<String>,
    /// Safe paths of folders, in lower case.
    folders: BTreeSet<String>,
    /// What a wanted folder (lower case, below its safe parent) was called in the end.
    renamed: BTreeMap<String, String>,
    /// The number of the next rename of each name that was wanted more than once.
    next_numbers: BTreeMap<String, u32>,
}

impl SafePaths {
    /// The safe path of one more file.
    pub(super) fn add(&mut self, components: &[&[u8]]) -> Result<Vec<String>, PathError> {
        if components.len() > MAX_DEPTH {
            return Err(PathError::Deep(components.len()));
        }
        let (name, folders) = components.split_last().ok_or_else(|| PathError::Reserved(String::new()))?;
        let mut path = Vec::with_capacity(components.len());
        let mut key = String::new();
        for folder in folders {
            let safe = self.folder(&key, &safe_component(folder)?);
            key = join(&key, &safe);
            path.push(safe);
        }
        path.push(self.file(&key, safe_component(name)?));
        Ok(path)
    }

    /// The name of a folder: its own, unless a file has it.
    fn folder(&mut self, parent: &str, name: &str) -> String {
        let wanted = join(parent, name);
        if let Some(chosen) = self.renamed.get(&wanted) {
            return chosen.clone();
        }
        let mut chosen = name.to_owned();
        while self.files.contains(&join(parent, &chosen)) {
            chosen = self.next_name(&wanted, name);
        }
        self.folders.insert(join(parent, &chosen));
        self.renamed.insert(wanted, chosen.clone());
        chosen
    }

    /// The name of a file: its own, unless another file or a folder has it.
    fn file(&mut self, parent: &str, name: String) -> String {
        let wanted = join(parent, &name);
        let mut chosen = name.clone();
        while self.is_taken(&join(parent, &chosen)) {
            chosen = self.next_name(&wanted, &name);
        }
        self.files.insert(join(parent, &chosen));
        chosen
    }

    fn is_taken(&self, key: &str) -> bool {
        self.files.contains(key) || self.folders.contains(key)
    }

    /// The next name to try for `wanted`. Counting on from the last try keeps a million equal names linear.
    fn next_name(&mut self, wanted: &str, name: &str) -> String {
        let number = self.next_numbers.entry(wanted.to_owned()).or_insert(FIRST_RENAME);
        let text = format!(" ({number})");
        *number += 1;
        let (stem, extension) = split_extension(name);
        let stem = cut(stem, MAX_SAFE_LEN.saturating_sub(extension.len() + text.len()));
        format!("{stem}{text}{extension}")
    }
}

/// The number in the name of the second file of a name.
const FIRST_RENAME: u32 = 2;

/// One component, made safe.
pub(super) fn safe_component(component: &[u8]) -> Result<String, PathError> {
    if component.len() > MAX_COMPONENT_LEN {
        return Err(PathError::Long(component.len()));
    }
    if matches!(component, b"" | b"." | b"..") {
        return Err(PathError::Reserved(String::from_utf8_lossy(component).into_owned()));
    }
    let mut name = replace_bad(component);
    trim(&mut name);
    if name.is_empty() || is_device(&name) {
        name.insert(0, '_');
    }
    if name.to_lowercase().ends_with(INCOMPLETE) {
        name.push('_');
    }
    let (stem, extension) = split_extension(&name);
    let stem = cut(stem, MAX_SAFE_LEN - extension.len());
    let mut name = format!("{stem}{extension}");
    trim(&mut name);
    Ok(name)
}

/// Strips dots and spaces off the end, where some systems ignore them.
fn trim(name: &mut String) {
    name.truncate(name.trim_end_matches(['.', ' ']).len());
}

/// The text with `_` for every byte that is not UTF-8 and every character that some system forbids.
fn replace_bad(component: &[u8]) -> String {
    let mut name = String::with_capacity(component.len());
    for chunk in component.utf8_chunks() {
        let is_bad = |c: char| c.is_control() || FORBIDDEN.contains(c);
        name.extend(chunk.valid().chars().map(|c| if is_bad(c) { '_' } else { c }));
        name.extend(chunk.invalid().iter().map(|_| '_'));
    }
    name
}

/// Whether some system opens a device under this name, with or without an extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let is_numbered = |prefix: &&str| {
        let number = stem.strip_prefix(*prefix);
        number.is_some_and(|number| {
            matches!(number.as_bytes(), [b'0'..=b'9']) || matches!(number, "¹" | "²" | "³")
        })
    };
    DEVICES.contains(&stem.as_str()) || NUMBERED_DEVICES.iter().any(is_numbered)
}

/// The name without and its extension with the dot; a long or leading "extension" belongs to the name.
fn split_extension(name: &str) -> (&str, &str) {
    let at = name.rfind('.').filter(|at| *at > 0 && name.len() - at <= MAX_EXTENSION_LEN);
    name.split_at(at.unwrap_or(name.len()))
}

/// The longest start of `text` with at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    text.split_at(text.floor_char_boundary(max.min(text.len()))).0
}

fn join(parent: &str, name: &str) -> String {
    format!("{parent}/{}", name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, PathBuf};

    fn safe(name: &str) -> String {
        safe_component(name.as_bytes()).expect("can be made safe")
    }

    fn added(paths: &[&[&str]]) -> Vec<String> {
        let mut safe = SafePaths::default();
        let add = |path: &&[&str]| {
            let components: Vec<&[u8]> = path.iter().map(|component| component.as_bytes()).collect();
            safe.add(&components).expect("can be made safe").join("/")
        };
        paths.iter().map(add).collect()
    }

    //= spec/swarm.md#32-path-safety
    #[test]
    fn dangerous_names_are_refused_or_replaced() {
        for name in ["", ".", ".."] {
            assert_eq!(safe_component(name.as_bytes()), Err(PathError::Reserved(name.to_owned())));
        }
        assert_eq!(safe("a/b\\c:d*e?f\"g<h>i|j\0k\u{85}"), "a_b_c_d_e_f_g_h_i_j_k_");
        assert_eq!(safe("../x"), ".._x");
        assert_eq!(safe("name. . "), "name");
        assert_eq!(safe("..."), "_");
        assert_eq!(safe_component(b"a\xff\xfe").as_deref(), Ok("a__"));
        for device in ["CON", "nul.txt", "Com1", "lpt9.tar.gz", "COM\u{b9}", "aux .c"] {
            assert_eq!(safe(device), format!("_{device}"));
        }
        for harmless in ["CONSOLE", "COM", "COM10", "film.mkv", ".hidden", "\u{fc}ber"] {
            assert_eq!(safe(harmless), harmless);
        }
        assert_eq!(safe("film.mkv.!FS"), "film.mkv.!FS_");
    }

    //= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
    #[test]
    fn long_names_keep_their_extension_and_too_long_ones_are_refused() {
        let long = format!("{}.mkv", "\u{fc}".repeat(125));
        let short = safe(&long);
        assert!(short.len() <= MAX_SAFE_LEN && short.ends_with("\u{fc}.mkv"), "{short}");
        assert_eq!(safe_component(&[b'a'; 256]), Err(PathError::Long(256)));
        let deep = vec![b"a".as_slice(); MAX_DEPTH + 1];
        assert_eq!(SafePaths::default().add(&deep), Err(PathError::Deep(MAX_DEPTH + 1)));
        assert!(SafePaths::default().add(&deep[1..]).is_ok());
    }

    //= spec/swarm.md#32-path-safety
    #[test]
    fn equal_names_are_told_apart() {
        let paths: [&[&str]; 5] = [&["a.txt"], &["A.txt"], &["a (2).txt"], &["a.txt"], &["b"]];
        assert_eq!(added(&paths), ["a.txt", "A (2).txt", "a (2) (2).txt", "a (3).txt", "b"]);
    }

    #[test]
    fn a_folder_and_a_file_of_one_name_are_told_apart() {
        let paths: [&[&str]; 5] = [&["x"], &["X", "one"], &["x", "two"], &["y", "one"], &["Y"]];
        assert_eq!(added(&paths), ["x", "X (2)/one", "X (2)/two", "y/one", "Y (2)"]);
    }

    #[test]
    fn a_hundred_thousand_equal_names_take_no_time_to_speak_of() {
        let mut paths = SafePaths::default();
        let last = (0..100_000).map(|_| paths.add(&[b"same"]).expect("safe")).last();
        assert_eq!(last, Some(vec!["same (100000)".to_owned()]));
    }

    fn component() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..12),
            proptest::collection::vec(proptest::sample::select(b"./\\aA:. ".to_vec()), 0..4),
            "[ab](\\([23]\\))?".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_root_and_no_two_are_alike(
            wanted in proptest::collection::vec(proptest::collection::vec(component(), 1..4), 0..20)
        ) {
            let mut paths = SafePaths::default();
            let mut files = BTreeSet::new();
            let mut folders = BTreeSet::new();
            for path in wanted {
                let components: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
                let Ok(path) = paths.add(&components) else { continue };
                let path: PathBuf = path.iter().collect();
                let normal = path.components().all(|part| matches!(part, Component::Normal(_)));
                prop_assert!(normal && path.components().count() == components.len());
                let lower = PathBuf::from(path.to_str().expect("UTF-8").to_lowercase());
                folders.extend(lower.ancestors().skip(1).map(PathBuf::from));
                prop_assert!(files.insert(lower));
            }
            prop_assert!(files.is_disjoint(&folders));
        }
    }
}
