//! Graphs in files: text, one edge a line, or the binary form of the vectors.

use crate::{NODES_MAX, NodeId};
use std::fmt;

/// Edges of a file: a graph of twice the size that a node keeps.
pub const FILE_EDGES_MAX: usize = 20_000_000;
/// Bytes of one edge in the binary form.
const BINARY_EDGE: usize = 12;
/// Bytes before the first edge in the binary form.
const BINARY_HEADER: usize = 8;

/// Why a file is no graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeListError {
    /// The line, or in the binary form the edge, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for EdgeListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.reason),
            line => write!(f, "line {line}: {}", self.reason),
        }
    }
}

impl std::error::Error for EdgeListError {}

/// Reads the edges `(from, to, weight)` of a file. Text has `u v weight` in each line, in decimal; `#` begins a comment;
/// empty lines are nothing. A file whose length is what the binary form demands is read as such, each edge with weight 1.
//= spec/interfaces.md#4-command-line-clap-json-everywhere-api-url-profile-name-quiet-on-success-exit-codes-0-1-2-3
pub fn read_edges(file: &[u8]) -> Result<Vec<(NodeId, NodeId, u64)>, EdgeListError> {
    if let Some((nodes, edges)) = binary_edges(file) {
        return read_binary(nodes, edges);
    }
    let text = std::str::from_utf8(file).map_err(|error| {
        let line = 1 + file.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count();
        EdgeListError { line, reason: "neither text nor the binary form of a graph".to_owned() }
    })?;
    let mut edges = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let content = text.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let edge = read_line(content).map_err(|reason| EdgeListError { line, reason })?;
        if edges.len() >= FILE_EDGES_MAX {
            return Err(EdgeListError { line, reason: format!("more than {FILE_EDGES_MAX} edges") });
        }
        edges.push(edge);
    }
    Ok(edges)
}

fn read_line(line: &str) -> Result<(NodeId, NodeId, u64), String> {
    let mut fields = line.split_ascii_whitespace();
    let (Some(from), Some(to), Some(weight), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("an edge is three numbers: from, to, weight".to_owned());
    };
    let weight =
        weight.parse().map_err(|_| format!("the weight {} is no number of 64 bits", shown(weight)))?;
    Ok((read_node(from)?, read_node(to)?, weight))
}

fn read_node(text: &str) -> Result<NodeId, String> {
    let node: NodeId =
        text.parse().map_err(|_| format!("the node {} is no number of 32 bits", shown(text)))?;
    if (node as usize) < NODES_MAX {
        Ok(node)
    } else {
        Err(format!("the node {node} is not below {NODES_MAX}"))
    }
}

/// A field in a message, of bearable length.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(32).collect::<String>())
}

/// Number of nodes, and the edges, if the file is of the binary form.
fn binary_edges(file: &[u8]) -> Option<(u32, &[u8])> {
    let (nodes, rest) = file.split_first_chunk::<4>()?;
    let (edges, rest) = rest.split_first_chunk::<4>()?;
    let len = (u32::from_le_bytes(*edges) as usize).checked_mul(BINARY_EDGE)?.checked_add(BINARY_HEADER)?;
    (file.len() == len).then_some((u32::from_le_bytes(*nodes), rest))
}

//= spec/trust.md#12-test-procedure
fn read_binary(nodes: u32, edges: &[u8]) -> Result<Vec<(NodeId, NodeId, u64)>, EdgeListError> {
    if nodes as usize > NODES_MAX || edges.len() / BINARY_EDGE > FILE_EDGES_MAX {
        return Err(EdgeListError {
            line: 0,
            reason: "more nodes or edges than a graph may have".to_owned(),
        });
    }
    let (records, _) = edges.as_chunks::<BINARY_EDGE>();
    let read = |(line, record): (usize, &[u8; BINARY_EDGE])| {
        let (words, _) = record.as_chunks::<4>();
        let [from, to, _] = [0, 1, 2].map(|at| words.get(at).map_or(0, |word| u32::from_le_bytes(*word)));
        if from.max(to) < nodes {
            Ok((from, to, 1))
        } else {
            Err(EdgeListError { line, reason: format!("edge {line} names node {} of {nodes}", from.max(to)) })
        }
    };
    (1..).zip(records).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_with_comments_is_read() {
        let text = b"# who received from whom\n\n0 1 5 # bytes\r\n  1\t2 18446744073709551615\n";
        assert_eq!(read_edges(text), Ok(vec![(0, 1, 5), (1, 2, u64::MAX)]));
        assert_eq!(read_edges(b""), Ok(Vec::new()));
    }

    //= spec/trust.md#12-test-procedure
    #[test]
    fn errors_name_the_line_and_what_is_wrong_with_it() {
        let cases: [(&[u8], usize, &str); 8] = [
            (b"0 1 5\n0 1\n", 2, "three numbers"),
            (b"0 1 5 6", 1, "three numbers"),
            (b"\n\n0 x 5", 3, "node \"x\""),
            (b"0 -1 5", 1, "node \"-1\""),
            (b"4294967296 1 5", 1, "32 bits"),
            (b"4294967295 1 5", 1, "not below"),
            (b"0 1 18446744073709551616", 1, "64 bits"),
            (b"0 1 5\n\xff\xff", 2, "neither"),
        ];
        for (file, line, reason) in cases {
            let error = read_edges(file).expect_err("wrong");
            assert!(error.line == line && error.reason.contains(reason), "{error}");
        }
    }

    //= spec/trust.md#12-test-procedure
    #[test]
    fn the_binary_form_is_known_by_its_length() {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(read_edges(&words(&[3, 2, 0, 1, 9, 1, 2, 10])), Ok(vec![(0, 1, 1), (1, 2, 1)]));
        let wrong = read_edges(&words(&[2, 2, 0, 1, 9, 1, 2, 10])).expect_err("node 2 of 2");
        assert!(wrong.line == 2 && wrong.reason.contains("node 2 of 2"));
        assert!(read_edges(&words(&[2, 3, 0, 1, 9, 1, 0, 200])).is_err());
    }
}
