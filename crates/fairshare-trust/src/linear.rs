//! Walks as linear algebra: the part of a graph that can be reached, as a sparse matrix of step probabilities, and the
//! expected visits that it gives.

use crate::{Graph, NodeId};
use std::collections::BTreeSet;

/// What is left unsolved, as a sum of probabilities of steps still to take.
const REST: f64 = 1e-14;
/// Right-hand sides solved together: each edge is then read once for all of them.
const TOGETHER: usize = 8;

/// Step probabilities between the nodes within reach of some roots, renumbered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps {
    /// The nodes, by their new numbers.
    pub(crate) nodes: Vec<NodeId>,
    /// Where the edges of each node begin; one entry more than nodes.
    starts: Vec<usize>,
    targets: Vec<u32>,
    chances: Vec<f64>,
}

impl Steps {
    /// The part of `graph` within reach of `roots`, which come first and in order. Nothing leads out of `ends`.
    /// `None` if more than `limit` nodes are within reach.
    pub(crate) fn within_reach(
        graph: &Graph,
        roots: &[NodeId],
        ends: &BTreeSet<NodeId>,
        limit: usize,
    ) -> Option<Self> {
        const UNKNOWN: u32 = u32::MAX;
        let highest = roots.iter().map(|root| *root as usize + 1).max().unwrap_or(0);
        let mut numbers = vec![UNKNOWN; graph.node_count().max(highest)];
        let mut steps = Self { starts: vec![0], ..Self::default() };
        let number = |nodes: &mut Vec<NodeId>, numbers: &mut Vec<u32>, node: NodeId| {
            let number = &mut numbers[node as usize];
            if *number == UNKNOWN {
                *number = nodes.len() as u32;
                nodes.push(node);
            }
            *number
        };
        for root in roots {
            number(&mut steps.nodes, &mut numbers, *root);
        }
        let mut done = 0;
        while let Some(node) = steps.nodes.get(done).copied() {
            if steps.nodes.len() > limit {
                return None;
            }
            let total = graph.total(node) as f64;
            for (to, weight) in graph.edges(node).filter(|_| !ends.contains(&node)) {
                steps.targets.push(number(&mut steps.nodes, &mut numbers, to));
                steps.chances.push(weight as f64 / total);
            }
            steps.starts.push(steps.targets.len());
            done += 1;
        }
        Some(steps)
    }

    /// How many nodes are within reach.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Steps out of a node: target and probability.
    pub(crate) fn of(&self, node: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let range = self.starts[node]..self.starts[node + 1];
        self.targets[range.clone()]
            .iter()
            .zip(&self.chances[range])
            .map(|(to, chance)| (*to as usize, *chance))
    }

    /// Expected visits to each node of a walk that begins at a node chosen by `start` and goes on with probability
    /// `alpha`.
    //= spec/trust.md#3-notation
    pub(crate) fn visits(&self, start: &[f64], alpha: f64) -> Vec<f64> {
        let (mut sum, mut here) = (start.to_vec(), start.to_vec());
        let mut rest: f64 = here.iter().sum();
        while rest > REST {
            let mut next = vec![0.0; self.len()];
            for (node, share) in here.iter().enumerate().filter(|(_, share)| **share > 0.0) {
                for (to, chance) in self.of(node) {
                    next[to] += alpha * share * chance;
                }
            }
            here = next;
            sum.iter_mut().zip(&here).for_each(|(sum, more)| *sum += more);
            rest = here.iter().sum();
        }
        sum
    }

    /// Expected visits to each of `nodes` of a walk that begins there.
    pub(crate) fn returns(&self, nodes: &[usize], alpha: f64) -> Vec<f64> {
        nodes.chunks(TOGETHER).flat_map(|nodes| self.returns_together(nodes, alpha)).collect()
    }

    fn returns_together(&self, nodes: &[usize], alpha: f64) -> Vec<f64> {
        let mut here = vec![[0.0; TOGETHER]; self.len()];
        let mut next = here.clone();
        let mut sums = vec![0.0; nodes.len()];
        for (lane, node) in nodes.iter().enumerate() {
            here[*node][lane] = 1.0;
        }
        let mut rest = 1.0;
        while rest > REST {
            for (lane, node) in nodes.iter().enumerate() {
                sums[lane] += here[*node][lane];
            }
            next.iter_mut().for_each(|lanes| *lanes = [0.0; TOGETHER]);
            for (node, shares) in here.iter().enumerate().filter(|(_, shares)| **shares != [0.0; TOGETHER]) {
                for (to, chance) in self.of(node) {
                    for (sum, share) in next[to].iter_mut().zip(shares) {
                        *sum += alpha * chance * share;
                    }
                }
            }
            std::mem::swap(&mut here, &mut next);
            rest =
                (0..nodes.len()).map(|lane| here.iter().map(|lanes| lanes[lane]).sum()).fold(0.0, f64::max);
        }
        sums
    }

    /// (I - alpha P)^-1, row by row, where the column of `barred` in P is taken as empty: expected visits from each
    /// node to each.
    pub(crate) fn all_visits(&self, alpha: f64, barred: Option<usize>) -> Dense {
        let mut matrix = Dense { size: self.len(), cells: vec![0.0; self.len() * self.len()] };
        for node in 0..self.len() {
            matrix.row_mut(node)[node] = 1.0;
            for (to, chance) in self.of(node).filter(|(to, _)| Some(*to) != barred) {
                matrix.row_mut(node)[to] -= alpha * chance;
            }
        }
        matrix.invert();
        matrix
    }
}

/// A square matrix.
pub(crate) struct Dense {
    size: usize,
    cells: Vec<f64>,
}

impl Dense {
    /// One value.
    pub(crate) fn at(&self, row: usize, column: usize) -> f64 {
        self.cells[row * self.size + column]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.cells[row * self.size..(row + 1) * self.size]
    }

    /// Gauss and Jordan in place. The rows are strictly dominated by their diagonals, so no pivot is searched.
    fn invert(&mut self) {
        let size = self.size;
        let mut pivot_row = vec![0.0; size];
        for pivot in 0..size {
            let scale = 1.0 / self.at(pivot, pivot);
            let row = self.row_mut(pivot);
            row[pivot] = 1.0;
            row.iter_mut().for_each(|cell| *cell *= scale);
            pivot_row.copy_from_slice(row);
            for other in (0..size).filter(|other| *other != pivot) {
                let row = self.row_mut(other);
                let factor = std::mem::take(&mut row[pivot]);
                if factor != 0.0 {
                    row.iter_mut().zip(&pivot_row).for_each(|(cell, above)| *cell -= factor * above);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sparse_and_the_dense_way_agree() {
        let graph = Graph::from_edges(&[(0, 1, 3), (1, 0, 1), (1, 2, 2), (2, 1, 5), (0, 2, 1), (2, 3, 4)]);
        let steps = Steps::within_reach(&graph, &[0], &BTreeSet::new(), 10).expect("small");
        let all = steps.all_visits(0.9, None);
        let visits = steps.visits(&[1.0, 0.0, 0.0, 0.0], 0.9);
        let returns = steps.returns(&[0, 1, 2, 3], 0.9);
        for node in 0..4 {
            assert!((all.at(0, node) - visits[node]).abs() < 1e-12);
            assert!((all.at(node, node) - returns[node]).abs() < 1e-12);
        }
        assert!(Steps::within_reach(&graph, &[0], &BTreeSet::new(), 3).is_none());
        assert_eq!(Steps::within_reach(&graph, &[3], &BTreeSet::new(), 3).expect("alone").len(), 1);
    }
}
