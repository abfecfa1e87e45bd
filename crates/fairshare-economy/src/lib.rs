//! The economy of one node: pair accounts, settlement of verified bytes, admission, grants.
//!
//! Floor 2, sans-IO. The engine is told what the swarm sent, verified and acknowledged, and which pairs of half
//! blocks the ledger completed; it says who may take how much at which price ([`Economy::verdict`],
//! [`EconomyOutput::Grant`], [`EconomyOutput::ServeLimit`]), when this node pays ([`EconomyOutput::Propose`]) and
//! what it signs for ([`Economy::judge`]). It knows neither sockets nor blocks' storage; the node translates.
//!
//! What must survive a crash is either on the chain (everything settled) or in records of the [`RECORD_KINDS`]
//! (grants, marks of sent bytes, verified bytes, price), which are written before what they allow is done.
//!
//! What travels through circuits has accounts and an engine of its own: [`payouts`].
//!
//! ```
//! use fairshare_crypto::{Rng, SecretKey};
//! use fairshare_economy::{Economy, EconomyConfig, SessionId, Verdict};
//! use fairshare_wire::Now;
//!
//! let mut rng = Rng::from_seed([1; 32]);
//! let (me, stranger) = (SecretKey::generate(&mut rng).public(), SecretKey::generate(&mut rng).public());
//! let mut economy = Economy::new(EconomyConfig::default(), me, vec![], vec![], rng, Now::default());
//! let session = SessionId(1);
//! economy.session_opened(Now::default(), session, stranger, "192.0.2.1".parse().expect("address"));
//! assert_eq!(economy.verdict(Now::default(), session, 0), Verdict::Pool);
//! ```

mod account;
mod engine;
mod judge;
mod output;
mod paying;
pub mod payouts;
mod pool;
mod price;
mod provider;
mod rate;
mod record;
mod schedule;
mod serving;
mod taker;
mod timer;
mod verdict;
mod window;

pub use account::{Account, AccountOverflow, MU, PairAccount};
pub use engine::{Economy, EconomyConfig, STRANGER_BYTES};
pub use judge::{DeclineReason, Judgement};
pub use output::{AccountView, EconomyEvent, EconomyOutput, SessionId};
pub use price::{PRICE_FULL, PRICE_IDLE, price_of};
pub use record::RECORD_KINDS;
pub use schedule::{Grant, charge_of, room_of};
pub use verdict::{Policy, Refusal, RefusalReason, Verdict};
