//! Reputation: a weighted graph in, scores out.
