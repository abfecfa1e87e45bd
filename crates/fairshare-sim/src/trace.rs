//! The last things that happened, for the report of a failure. Written as text only when somebody reads it.

use fairshare_wire::Instant;
use std::collections::VecDeque;
use std::fmt;

/// One happening.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// So many bytes went this way.
    Bytes { what: &'static str, stream: u64, len: usize },
    /// Something with words of its own.
    Text(String),
}

/// The newest happenings.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    notes: VecDeque<(Instant, usize, Note)>,
    kept: usize,
}

impl Trace {
    /// Keeps the newest `kept`.
    pub(crate) const fn new(kept: usize) -> Self {
        Self { notes: VecDeque::new(), kept }
    }

    pub(crate) fn note(&mut self, at: Instant, machine: usize, note: Note) {
        if self.notes.len() >= self.kept {
            self.notes.pop_front();
        }
        self.notes.push_back((at, machine, note));
    }

    /// The happenings as lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |(at, machine, note): &(Instant, usize, Note)| {
            let micros = at.as_micros();
            format!("{:>6}.{:06} node {machine}: {note}", micros / 1_000_000, micros % 1_000_000)
        };
        self.notes.iter().map(line).collect()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes { what, stream, len } => write!(f, "{what} {stream}: {len} bytes"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_are_kept() {
        let mut trace = Trace::new(3);
        for number in 0..8 {
            trace.note(Instant::from_micros(1_500_000), 3, Note::Text(number.to_string()));
        }
        let lines = trace.lines();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0], "     1.500000 node 3: 5");
    }
}
