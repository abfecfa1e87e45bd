//! How many checks passed, failed and were skipped, read from the output of the programs that ran them.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::ops::AddAssign;
use std::process::{Command, Stdio};

/// The line a test prints, past the capture of the test harness, when it cannot run here.
const SKIPPED: &str = "SKIPPED ";

/// Counts of checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Tests that skipped themselves since the last closing line.
    unsettled: u64,
}

impl Counts {
    /// One check that passed or failed.
    pub(crate) fn one(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed), ..Self::default() }
    }

    /// One check that could not run here.
    pub(crate) fn one_skipped() -> Self {
        Self { skipped: 1, ..Self::default() }
    }

    /// Whether a run with these counts may end with success.
    pub(crate) fn is_good(&self, require_all: bool) -> bool {
        self.failed == 0 && self.passed > 0 && (self.skipped == 0 || !require_all)
    }

    /// Runs `command`, shows its output as it comes and adds up the closing lines of the test harness. A command
    /// that fails without naming a failed test, as when it does not compile, counts as one failure.
    pub(crate) fn of_tests(command: &mut Command) -> Self {
        let mut counts = Self::default();
        let ended_well = stream(command, |line| counts.read_line(line));
        if !ended_well && counts.failed == 0 {
            counts.failed = 1;
        }
        counts
    }

    /// Takes in one line. A test that skips itself says so before the closing line, which calls it passed.
    fn read_line(&mut self, line: &str) {
        if line.starts_with(SKIPPED) || line.contains(" ... SKIPPED ") {
            self.skipped += 1;
            self.unsettled += 1;
        }
        let Some((_, results)) = line.split_once("test result: ") else {
            return;
        };
        for part in results.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => {
                    let own_skips = number.min(std::mem::take(&mut self.unsettled));
                    self.passed += number - own_skips;
                }
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 { write!(f, ", {} skipped", self.skipped) } else { Ok(()) }
    }
}

/// Runs `command`, prints each line of its standard output as it comes and hands it on. Whether it ended well.
pub(crate) fn stream(command: &mut Command, mut line_read: impl FnMut(&str)) -> bool {
    let mut child = match command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("cannot start {}: {error}", command.get_program().to_string_lossy());
            return false;
        }
    };
    if let Some(output) = child.stdout.take() {
        // Bytes, not text: the output of a test may hold anything.
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            line_read(&line);
        }
    }
    child.wait().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Counts {
        let mut counts = Counts::default();
        lines.iter().for_each(|line| counts.read_line(line));
        counts
    }

    #[test]
    fn closing_lines_of_the_harness_add_up() {
        let counts = read(&[
            "running 12 tests",
            "test result: ok. 11 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ]);
        assert_eq!((counts.passed, counts.failed, counts.skipped), (13, 1, 1));
    }

    #[test]
    fn a_test_that_skips_itself_is_seen_also_behind_the_name_of_another() {
        let counts =
            read(&["SKIPPED interop: no peers", "test a ... SKIPPED interop: no peers", "a SKIPPED b"]);
        assert_eq!(counts.skipped, 2);
    }

    #[test]
    fn a_skip_or_an_empty_run_is_good_only_where_allowed() {
        let skipped = Counts { passed: 3, skipped: 1, ..Counts::default() };
        assert!(skipped.is_good(false));
        assert!(!skipped.is_good(true));
        assert!(!Counts::default().is_good(false));
        assert_eq!(skipped.to_string(), "3 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_command_that_fails_before_any_test_counts_as_a_failure() {
        assert_eq!(Counts::of_tests(&mut Command::new("false")).failed, 1);
        assert_eq!(Counts::of_tests(&mut Command::new("no-such-program-here")).failed, 1);
    }
}
