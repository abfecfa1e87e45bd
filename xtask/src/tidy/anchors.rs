//! Anchors into the specifications: `//= spec/FILE.md#heading` above a rule, and the same anchor at its test.

use super::source::SourceFile;
use std::collections::BTreeSet;

const MARK: &str = "//= spec/";

/// Anchors that point to no file or heading of `docs/spec`.
pub(super) fn dangling(rust: &[&SourceFile], spec: &[&SourceFile]) -> Vec<String> {
    let targets = spec.iter().flat_map(|file| targets(file)).collect::<BTreeSet<_>>();
    let mut faults = Vec::new();
    for file in rust {
        for anchor in anchors(&file.text).filter(|anchor| !targets.contains(&plain(anchor))) {
            faults.push(format!("{}: no heading {anchor} in docs/spec", file.path));
        }
    }
    faults
}

/// Anchors that stand in code and at no test.
pub(super) fn untested(rust: &[&SourceFile]) -> Vec<String> {
    let tested = rust.iter().flat_map(|file| anchors(file.tests())).map(plain).collect::<BTreeSet<_>>();
    let coded = rust.iter().flat_map(|file| anchors(file.code())).collect::<BTreeSet<_>>();
    coded.into_iter().filter(|anchor| !tested.contains(&plain(anchor))).map(str::to_owned).collect()
}

/// An anchor without its hyphens: renderers of Markdown write `5.1` as `51` or as `5-1`.
fn plain(anchor: &str) -> String {
    anchor.replace('-', "")
}

fn anchors(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix(MARK))
}

/// What can be pointed to in a document: its headings and its numbered paragraphs with a bold title.
fn targets(file: &SourceFile) -> Vec<String> {
    let name = file.path.trim_start_matches("docs/spec/");
    let mut targets = vec![plain(name)];
    for line in file.text.lines() {
        if line.starts_with('#') {
            targets.push(plain(&format!("{name}#{}", slug(line.trim_start_matches('#').trim()))));
        } else if let Some((number, bold)) = line.split_once(" **") {
            // `R11 **Signatures:**` is cited by its number, `10.1 **HTTP tracker**` by number and name.
            let title = bold.split("**").next().unwrap_or_default();
            targets
                .extend([number, &format!("{number} {title}")].map(|text| format!("{name}#{}", slug(text))));
        }
    }
    targets
}

/// The anchor of a heading, but for its hyphens.
fn slug(heading: &str) -> String {
    heading.chars().filter(|c| c.is_alphanumeric() || *c == '_').map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn headings_and_rulings_can_be_pointed_to_and_a_planted_wrong_anchor_is_found() {
        let spec = [
            file(
                "docs/spec/swarm.md",
                "# Swarm\n## 8.3 Exposure, and `counts`\n10.1 **HTTP tracker (BEP 3)**: query\n",
            ),
            file("docs/spec/README.md", "R11 **Signatures:** strict\n"),
        ];
        let spec = spec.iter().collect::<Vec<_>>();
        let good = file("a.rs", "    //= spec/swarm.md#8-3-exposure-and-counts\n//= spec/README.md#r11\n");
        assert!(dangling(&[&good], &spec).is_empty());
        assert!(dangling(&[&file("a.rs", "//= spec/swarm.md#101-http-tracker-bep-3\n")], &spec).is_empty());
        let wrong = file("a.rs", "//= spec/swarm.md#84-nothing\n");
        assert_eq!(dangling(&[&wrong], &spec).len(), 1);
    }

    #[test]
    fn an_anchor_without_a_test_is_listed() {
        let code = "//= spec/a.md#one\nfn a() {}\n//= spec/a.md#two\nfn b() {}\n";
        let tested = format!("{code}#[cfg(test)]\nmod tests {{\n    //= spec/a.md#one\n}}\n");
        assert_eq!(untested(&[&file("src/a.rs", &tested)]), ["a.md#two"]);
    }
}
