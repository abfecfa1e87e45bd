//! Reputation: a weighted graph of who received how much from whom goes in, scores come out.
//!
//! Floor 0: this crate knows neither keys nor blocks. Nodes are numbers; who they are is known by the crate that reads
//! the blocks. Scores are personal: they are those of one node, called *ego*, and are never told to others.
//!
//! All engines stand behind [`ReputationEngine`] and are chosen by name ([`EngineKind`]). The default, `merit`, keeps
//! random walks from ego and repairs those that a changed edge concerns, so that a new block costs microseconds. The
//! engines whose names end in `-exact` compute the same values by linear algebra; they are what tests compare with.
//!
//! ```
//! use fairshare_crypto::Rng;
//! use fairshare_trust::{EdgeChange, EngineKind, Graph, Settings, build};
//!
//! // Ego is node 0. It received from 1, who received from 2.
//! let graph = Graph::from_edges(&[(0, 1, 1 << 20), (1, 2, 1 << 20)]);
//! let settings = Settings::default();
//! let mut engine = build(EngineKind::Merit, settings, graph, 0, Rng::from_seed([1; 32])).expect("fine settings");
//! assert!(engine.score(1).value > engine.score(2).value);
//! engine.apply(&[EdgeChange { from: 0, to: 2, old: 0, new: 1 << 21 }]);
//! assert!(engine.score(2).direct);
//! ```

mod adjacency;
mod balance;
mod edge_list;
mod engine;
mod exact;
mod flow;
mod graph;
mod ingest;
mod kind;
mod linear;
mod monte_carlo;
mod temporal;
mod walks;

pub use edge_list::{EdgeListError, FILE_EDGES_MAX, read_edges};
pub use engine::{ApplyStats, EdgeRefusals, EngineStats, Explanation, Interaction, ReputationEngine, Score};
pub use flow::netflow_capacities;
pub use graph::{EdgeChange, Graph, NODES_MAX};
pub use ingest::{Decay, Half, Ingest, IngestError, Weights};
pub use kind::{EngineKind, Settings, SettingsError, UnknownEngine, build};
pub use walks::Bottleneck;

/// A node of the graph. Numbers are given by whoever knows the keys, 0, 1, 2 ... without large gaps.
pub type NodeId = u32;
