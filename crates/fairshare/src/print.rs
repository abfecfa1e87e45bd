//! What commands print: one JSON value, or text for people.

use serde_json::Value as Json;
use std::io::{IsTerminal as _, Write as _};

/// Prints the value as JSON, or the text.
pub(crate) fn one(as_json: bool, json: &Json, text: impl FnOnce() -> String) {
    line(&if as_json { json.to_string() } else { text() });
}

/// Prints one line to stdout and flushes it, so that a reader at the other end of a pipe sees it at once. A reader
/// that went away is no error of ours.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush());
}

/// A line that replaces itself, on stderr and only if that is a terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal() }
    }

    /// Shows the newest state.
    pub(crate) fn show(&self, text: &str) {
        if self.shown {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        self.show("");
    }
}
