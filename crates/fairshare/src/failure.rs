//! How the binary fails: what happened, why, what to do, and one of four exit codes.

use std::borrow::Cow;
use std::fmt;

/// Exit codes of every command.
//= spec/interfaces.md#41-contract-for-scripts-stable-from-the-first-release-tests-rely-on-it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something went wrong while doing what was asked.
    Failed = 1,
    /// What was asked makes no sense: unknown option, unreadable input, wrong configuration.
    BadUse = 2,
    /// A policy said no.
    Refused = 3,
}

/// One failure as a person reads it.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// The exit code of the process.
    pub(crate) exit: Exit,
    /// A stable word for programs.
    pub(crate) code: Cow<'static, str>,
    /// What happened, and why.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

/// Shorthand of every command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, code: impl Into<Cow<'static, str>>, what: impl Into<String>) -> Self {
        Self { exit, code: code.into(), what: what.into(), hint: None }
    }

    /// Something went wrong while doing what was asked.
    pub(crate) fn failed(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Exit::Failed, code, what)
    }

    /// The request itself is wrong.
    pub(crate) fn bad_use(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Exit::BadUse, code, what)
    }

    /// A policy said no.
    pub(crate) fn refused(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Exit::Refused, code, what)
    }

    /// An operating system error about one path, in the system's words.
    pub(crate) fn io(path: &std::path::Path, error: &std::io::Error) -> Self {
        let failure = Self::failed("io", format!("{}: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => failure.hint("check the owner and mode of this path"),
            std::io::ErrorKind::StorageFull => {
                failure.hint("free some space on that disk, then run the same command again")
            }
            std::io::ErrorKind::NotFound => failure.hint("check the path"),
            _ => failure,
        }
    }

    /// Adds what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  try: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_happened_and_what_to_do() {
        let failure = Failure::bad_use("torrent", "x.torrent is no torrent").hint("download it again");
        assert_eq!(failure.to_string(), "error: x.torrent is no torrent\n  try: download it again");
        assert_eq!((failure.exit as i32, Exit::Failed as i32, Exit::Refused as i32), (2, 1, 3));
    }
}
