//! `tidy`: the rules of the house that no compiler checks. Layers and purity, documentation and length of files,
//! length of functions, words that may not stand in the tree, anchors into the specifications.

mod anchors;
mod layers;
mod source;

use crate::arguments::Arguments;
use crate::counts::Counts;
use crate::workspace;
use source::SourceFile;
use std::process::Command;

/// The task.
pub(crate) fn run(mut arguments: Arguments) -> Result<bool, String> {
    let report = arguments.switch("--report");
    arguments.finish()?;
    let counts = check(report)?;
    println!("{counts}");
    Ok(counts.is_good(false))
}

/// Runs all checks and prints the faults; with `report` also what is worth a look without being a fault.
pub(crate) fn check(report: bool) -> Result<Counts, String> {
    let files = tracked_files()?;
    let rust = files.iter().filter(|file| file.is_rust()).collect::<Vec<_>>();
    let functions = rust.iter().flat_map(|file| source::functions(file)).collect::<Vec<_>>();
    let spec = files.iter().filter(|file| file.path.starts_with("docs/spec/")).collect::<Vec<_>>();

    let mut counts = Counts::default();
    counts += judged("layers", layers::edge_faults(&layers::edges()?));
    counts += judged("dependencies of the engines", layers::impure_dependencies()?);
    counts +=
        judged("sources of the engines", rust.iter().flat_map(|file| source::impurities(file)).collect());
    counts +=
        judged("module documentation", rust.iter().filter_map(|file| source::undocumented(file)).collect());
    counts +=
        judged("file names and lengths", rust.iter().flat_map(|file| source::shape_faults(file)).collect());
    counts += judged("function lengths", functions.iter().filter_map(source::Function::fault).collect());
    counts += judged("banned words", files.iter().flat_map(source::banned_words).collect());
    counts += judged("spec anchors", anchors::dangling(&rust, &spec));

    println!("{}", source::length_summary(&rust, &functions));
    let untested = anchors::untested(&rust);
    println!("spec anchors without a test: {}", untested.len());
    if report {
        untested.iter().for_each(|anchor| println!("  {anchor}"));
    }
    Ok(counts)
}

fn judged(check: &str, faults: Vec<String>) -> Counts {
    println!(
        "{check}: {}",
        if faults.is_empty() { "ok".to_owned() } else { format!("{} faults", faults.len()) }
    );
    faults.iter().for_each(|fault| println!("  {fault}"));
    Counts::one(faults.is_empty())
}

/// All text files that are or would be committed.
fn tracked_files() -> Result<Vec<SourceFile>, String> {
    let mut git = Command::new("git");
    git.current_dir(workspace::root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.output().map_err(|error| format!("cannot ask git for the files: {error}"))?;
    if !output.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let mut files = Vec::new();
    for path in String::from_utf8_lossy(&output.stdout).split('\0').filter(|path| !path.is_empty()) {
        // Binary files and files deleted in the work tree have no text to judge.
        if let Ok(text) = std::fs::read_to_string(workspace::root().join(path)) {
            files.push(SourceFile { path: path.to_owned(), text });
        }
    }
    Ok(files)
}
