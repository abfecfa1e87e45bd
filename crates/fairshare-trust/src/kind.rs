//! The engines by name, their settings, and how one is built.

use crate::balance::Balance;
use crate::engine::ReputationEngine;
use crate::exact::Exact;
use crate::flow::Flows;
use crate::monte_carlo::{Measure, MonteCarlo};
use crate::temporal::TemporalPpr;
use crate::walks::WALKS_MAX;
use crate::{Graph, NODES_MAX, NodeId};
use fairshare_crypto::Rng;
use std::fmt;
use std::str::FromStr;

/// The engines.
//= spec/trust.md#1-decision-in-short-d
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EngineKind {
    /// Hitting probability with connectivity discount, by stored walks. The default.
    #[default]
    Merit,
    /// Hitting probability, by stored walks.
    Hitting,
    /// Personalised PageRank, by stored walks.
    Ppr,
    /// PageRank over states in time, as the market of 2017 had it.
    TemporalPpr,
    /// Limited contribution accounting by maximum flows.
    NetFlow,
    /// Difference of maximum flows.
    BarterCast,
    /// PageRank with a set of trusted nodes.
    EigenTrust,
    /// What a node gave less what it took.
    Balance,
    /// `ppr` by linear algebra.
    PprExact,
    /// `hitting` by linear algebra.
    HittingExact,
    /// `merit` by linear algebra.
    MeritExact,
}

impl EngineKind {
    /// All engines.
    pub const ALL: [Self; 11] = [
        Self::Merit,
        Self::Hitting,
        Self::Ppr,
        Self::TemporalPpr,
        Self::NetFlow,
        Self::BarterCast,
        Self::EigenTrust,
        Self::Balance,
        Self::PprExact,
        Self::HittingExact,
        Self::MeritExact,
    ];

    /// The name in configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Merit => "merit",
            Self::Hitting => "hitting",
            Self::Ppr => "ppr",
            Self::TemporalPpr => "temporal-ppr",
            Self::NetFlow => "netflow",
            Self::BarterCast => "bartercast",
            Self::EigenTrust => "eigentrust",
            Self::Balance => "balance",
            Self::PprExact => "ppr-exact",
            Self::HittingExact => "hitting-exact",
            Self::MeritExact => "merit-exact",
        }
    }

    /// The engine that computes the same values without chance; the engine itself if it needs none.
    #[must_use]
    pub const fn exact(self) -> Self {
        match self {
            Self::Merit => Self::MeritExact,
            Self::Hitting => Self::HittingExact,
            Self::Ppr => Self::PprExact,
            other => other,
        }
    }

    /// Whether the engine is fed with both directions of each pair. The others get what is left of them.
    //= spec/trust.md#2-3-netting
    pub const fn reads_gross(self) -> bool {
        matches!(self, Self::NetFlow | Self::BarterCast | Self::Balance | Self::TemporalPpr)
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// No engine has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownEngine(String);

impl fmt::Display for UnknownEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = EngineKind::ALL.iter().map(|kind| kind.name()).collect();
        write!(f, "no reputation engine is called {:?}; there are {}", self.0, names.join(", "))
    }
}

impl std::error::Error for UnknownEngine {}

/// Settings of all engines; each reads its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Probability that a walk goes on at each step (alpha).
    pub continue_prob: f64,
    /// How much a node is discounted whose trust passes one other node (beta of `merit`).
    pub discount: f64,
    /// The bottleneck share from which the discount sets in (tau of `merit`).
    pub threshold: f64,
    /// Walks that are kept (R).
    pub walks: u32,
    /// What ego's own out-edges are divided by in `netflow` (A).
    pub netflow_divisor: u32,
    /// Bytes that make half of the highest score of `bartercast`.
    pub bartercast_unit: u64,
    /// Nodes that `eigentrust` trusts beforehand; empty = ego alone.
    pub pretrusted: Vec<NodeId>,
    /// Probability to return to a trusted node in `eigentrust` (a).
    pub return_prob: f64,
}

impl Default for Settings {
    //= spec/trust.md#1-decision-in-short-d
    fn default() -> Self {
        Self {
            continue_prob: 0.8,
            discount: 0.8,
            threshold: 0.5,
            walks: 10_000,
            netflow_divisor: 2,
            bartercast_unit: 1 << 20,
            pretrusted: Vec::new(),
            return_prob: 0.1,
        }
    }
}

/// Why an engine cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingsError {
    /// A setting has no sense; the text names it and its range.
    Range(&'static str),
    /// The graph has more nodes within reach of ego, or more edges, than this exact engine can compute with.
    TooLarge {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(what) => f.write_str(what),
            Self::TooLarge { found, limit } => {
                write!(f, "the graph is too large for this engine: {found}, at most {limit}")
            }
        }
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    //= spec/trust.md#13-traps
    fn check(&self, ego: NodeId) -> Result<(), SettingsError> {
        // Written so that what is no number fails too.
        let within = |value: f64, low: f64, high: f64| value >= low && value <= high;
        let rules = [
            (
                within(self.continue_prob, 0.01, 0.99),
                "the probability to continue lies between 0.01 and 0.99",
            ),
            (within(self.return_prob, 0.01, 0.99), "the probability to return lies between 0.01 and 0.99"),
            (within(self.discount, 0.0, 1.0), "the discount lies between 0 and 1"),
            (within(self.threshold, 0.0, 0.99), "the threshold of the discount lies between 0 and 0.99"),
            ((1..WALKS_MAX).contains(&self.walks), "between 1 and 67,108,863 walks are kept"),
            (self.netflow_divisor > 0, "the divisor of netflow is at least 1"),
            (self.bartercast_unit > 0, "the unit of bartercast is at least 1 byte"),
            ((ego as usize) < NODES_MAX, "the number of ego is too high"),
            (
                self.pretrusted.iter().all(|node| (*node as usize) < NODES_MAX),
                "a trusted node's number is too high",
            ),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(SettingsError::Range(what)))
    }
}

/// An engine of a kind over a graph as `ego` sees it. The graph is as the kind reads it
/// ([`EngineKind::reads_gross`]); equal seeds give equal scores.
pub fn build(
    kind: EngineKind,
    settings: Settings,
    graph: Graph,
    ego: NodeId,
    rng: Rng,
) -> Result<Box<dyn ReputationEngine>, SettingsError> {
    settings.check(ego)?;
    match kind {
        EngineKind::Merit => Ok(Box::new(MonteCarlo::new(Measure::Merit, settings, graph, ego, rng))),
        EngineKind::Hitting => Ok(Box::new(MonteCarlo::new(Measure::Hitting, settings, graph, ego, rng))),
        EngineKind::Ppr => Ok(Box::new(MonteCarlo::new(Measure::Ppr, settings, graph, ego, rng))),
        EngineKind::TemporalPpr => Ok(Box::new(TemporalPpr::new(ego, settings.continue_prob))),
        EngineKind::NetFlow | EngineKind::BarterCast => Ok(Box::new(Flows::new(kind, settings, graph, ego)?)),
        EngineKind::Balance => Ok(Box::new(Balance::new(graph, ego))),
        EngineKind::EigenTrust | EngineKind::PprExact | EngineKind::HittingExact | EngineKind::MeritExact => {
            Ok(Box::new(Exact::new(kind, settings, graph, ego)?))
        }
    }
}
