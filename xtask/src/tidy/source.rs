//! What the text of a file tells: calls an engine may not make, missing documentation, length, banned words.
//!
//! The reading is by line and indentation, which rustfmt guarantees, not by a parser.

use super::layers;

/// Lines of a file beyond which it must be divided (style of the house).
const FILE_LINES_MAX: usize = 1_000;
/// Lines of a function beyond which a comment must say why it reads better whole.
const FUNCTION_LINES_MAX: usize = 70;
/// The words of that comment.
const EXCUSE: &str = "reads better whole";

/// What reaches the world: files, sockets, clocks, threads, entropy.
const IMPURE_CALLS: [&str; 14] = [
    "tokio::",
    "std::fs",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "std::process",
    "Instant::now",
    "SystemTime",
    "thread::spawn",
    "thread::sleep",
    "thread_rng",
    "OsRng",
    "getrandom",
    "SystemRandom",
];

/// Names that say nothing about what a module holds.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "helpers", "manager", "common", "misc"];

/// Words that may not stand in the tree, written apart here so that this file does not hold them.
const BANNED: [&str; 8] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("#[", "ignore"),
];

/// Folders of one machine. A document that names one works on that machine only.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/tm", "p/")];

/// A text file of the tree, its path relative to the root.
pub(super) struct SourceFile {
    pub(super) path: String,
    pub(super) text: String,
}

impl SourceFile {
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The crate the file belongs to.
    fn package(&self) -> &str {
        let inner = self.path.strip_prefix("crates/").unwrap_or(&self.path);
        inner.split('/').next().unwrap_or_default()
    }

    /// Whether the whole file is test code.
    pub(super) fn is_test(&self) -> bool {
        ["/tests/", "/tests.rs", "/vectors/", "/benches/"].iter().any(|part| self.path.contains(part))
    }

    /// The text before the tests at the end of the file.
    pub(super) fn code(&self) -> &str {
        if self.is_test() { "" } else { self.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default() }
    }

    /// The tests at the end of the file, or all of a test file.
    pub(super) fn tests(&self) -> &str {
        &self.text[self.code().len()..]
    }
}

/// Calls of an engine that reach the world.
pub(super) fn impurities(file: &SourceFile) -> Vec<String> {
    if !layers::is_engine(file.package()) || !file.path.contains("/src/") {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(file.code().lines()) {
        let code = line.split("//").next().unwrap_or_default();
        for call in IMPURE_CALLS.iter().filter(|call| code.contains(**call)) {
            faults.push(format!("{}:{number}: {call} below the host", file.path));
        }
    }
    faults
}

/// A file that does not open with a paragraph about itself.
pub(super) fn undocumented(file: &SourceFile) -> Option<String> {
    let opens_well = file.text.trim_start().starts_with("//!");
    (!opens_well).then(|| format!("{}: does not open with a //! paragraph", file.path))
}

/// Files that are too long or have an empty name.
pub(super) fn shape_faults(file: &SourceFile) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = file.text.lines().count();
    if lines > FILE_LINES_MAX {
        faults.push(format!("{}: {lines} lines, more than {FILE_LINES_MAX}", file.path));
    }
    let parts = file.path.trim_end_matches(".rs").split('/');
    faults.extend(
        parts
            .filter(|part| EMPTY_NAMES.contains(part))
            .map(|part| format!("{}: {part} says nothing", file.path)),
    );
    faults
}

/// Banned words and machine paths in any text file.
pub(super) fn banned_words(file: &SourceFile) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(file.text.lines()) {
        for word in BANNED.iter().filter(|word| holds_word(line, word)) {
            faults.push(format!("{}:{number}: {word}", file.path));
        }
        for path in MACHINE_PATHS.iter().filter(|path| holds_path(line, path)) {
            faults.push(format!("{}:{number}: {path} is a path of one machine", file.path));
        }
    }
    faults
}

/// Whether `word` stands in `line` by itself, not inside a longer word.
fn holds_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let inside = |side: Option<char>| side.is_some_and(char::is_alphanumeric);
        !inside(before) && (word.ends_with('(') || !inside(after))
    })
}

/// Whether an absolute path that starts with `path` stands in `line`; a relative or home path is no machine path.
fn holds_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|side| side.is_alphanumeric() || "._-~}/$".contains(side))
    })
}

/// A function and its length.
pub(super) struct Function {
    path: String,
    line: usize,
    name: String,
    lines: usize,
    excused: bool,
}

impl Function {
    /// A function too long to be read, without a word why.
    pub(super) fn fault(&self) -> Option<String> {
        let Self { path, line, name, lines, excused } = self;
        (*lines > FUNCTION_LINES_MAX && !excused)
            .then(|| format!("{path}:{line}: fn {name} has {lines} lines; divide it or say why it {EXCUSE}"))
    }
}

/// All functions of a file, tests left out.
pub(super) fn functions(file: &SourceFile) -> Vec<Function> {
    let lines = file.code().lines().collect::<Vec<_>>();
    let mut functions = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let length =
            lines[start..].iter().position(|line| **line == closing || line.trim_end().ends_with("{}"));
        functions.push(Function {
            path: file.path.clone(),
            line: start + 1,
            name: name.to_owned(),
            lines: length.map_or(1, |length| length + 1),
            excused: comment_above(&lines[..start]).any(|line| line.contains(EXCUSE)),
        });
    }
    functions
}

/// The name in a line that opens a function with a body.
fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let only_modifiers = before.split_whitespace().all(|word| {
        word.starts_with("pub")
            || word.starts_with("in")
            || ["const", "async", "unsafe", "extern"].contains(&word)
    });
    if !only_modifiers || line.trim_end().ends_with(';') {
        return None;
    }
    after.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
}

fn comment_above<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    lines
        .iter()
        .rev()
        .map(|line| line.trim_start())
        .take_while(|line| line.starts_with("//") || line.starts_with('#'))
}

/// The shape of the whole tree in one line.
pub(super) fn length_summary(files: &[&SourceFile], functions: &[Function]) -> String {
    let mut file_lines = files.iter().map(|file| file.text.lines().count()).collect::<Vec<_>>();
    let mut function_lines = functions.iter().map(|function| function.lines).collect::<Vec<_>>();
    format!(
        "{} files, lines p50/p90/max {}; {} functions, lines p50/p90/max {}",
        files.len(),
        percentiles(&mut file_lines),
        functions.len(),
        percentiles(&mut function_lines),
    )
}

fn percentiles(values: &mut [usize]) -> String {
    values.sort_unstable();
    let at =
        |percent: usize| values.get(values.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0);
    format!("{}/{}/{}", at(50), at(90), at(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_planted_clock_in_an_engine_is_found_and_one_in_its_tests_or_in_the_host_is_not() {
        let call = "let now = std::time::Instant::now();\n";
        assert_eq!(impurities(&file("crates/fairshare-swarm/src/a.rs", call)).len(), 1);
        assert!(impurities(&file("crates/fairshare-swarm/src/a.rs", &format!("// {call}"))).is_empty());
        let tested = format!("#[cfg(test)]\nmod tests {{\n{call}}}\n");
        assert!(impurities(&file("crates/fairshare-swarm/src/a.rs", &tested)).is_empty());
        assert!(impurities(&file("crates/fairshare-host/src/a.rs", call)).is_empty());
    }

    #[test]
    fn a_file_without_its_paragraph_is_found() {
        assert!(undocumented(&file("a.rs", "use std::fmt;\n")).is_some());
        assert!(undocumented(&file("a.rs", "//! What it is.\n")).is_none());
    }

    #[test]
    fn a_long_file_and_an_empty_name_are_found() {
        assert_eq!(shape_faults(&file("src/a.rs", &"x\n".repeat(1_001))).len(), 1);
        assert_eq!(shape_faults(&file("src/utils.rs", "x\n")).len(), 1);
        assert!(shape_faults(&file("src/picker.rs", "x\n")).is_empty());
    }

    #[test]
    fn planted_banned_words_and_machine_paths_are_found() {
        for word in BANNED {
            assert_eq!(banned_words(&file("a.rs", &format!("    {word}"))).len(), 1, "{word}");
        }
        for path in MACHINE_PATHS {
            assert_eq!(banned_words(&file("a.md", &format!("see {path}x"))).len(), 1, "{path}");
            assert!(banned_words(&file("a.md", &format!("see some{path}x"))).is_empty(), "{path}");
        }
        assert!(banned_words(&file("a.rs", &format!("{}S", concat!("XX", "X")))).is_empty());
    }

    #[test]
    fn a_long_function_needs_a_reason() {
        let body = "    x();\n".repeat(80);
        let long = format!("//! A.\n\npub(crate) fn long() {{\n{body}}}\n");
        let found = functions(&file("a.rs", &long));
        assert_eq!((found.len(), found[0].lines), (1, 82));
        assert!(found[0].fault().is_some());
        let excused =
            long.replace("pub(crate) fn", "/// One match, which reads better whole.\npub(crate) fn");
        assert!(functions(&file("a.rs", &excused))[0].fault().is_none());
    }

    #[test]
    fn short_functions_and_declarations_are_measured_as_they_are() {
        let text =
            "fn one() {}\n    fn two() -> u8 {\n        2\n    }\n    fn three();\n    let fn_pointer = x;\n";
        let found = functions(&file("a.rs", text));
        assert_eq!(
            found.iter().map(|f| (f.name.as_str(), f.lines)).collect::<Vec<_>>(),
            [("one", 1), ("two", 3)]
        );
    }
}
