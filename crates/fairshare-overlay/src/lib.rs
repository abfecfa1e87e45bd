//! The IPv8 overlay: finds peers, keeps a bounded list of them, introduces them to each other, and carries the
//! messages of other protocols ("communities") between them over UDP.
//!
//! Floor 2, sans-IO: [`Overlay`] takes datagrams, times and verbs, and gives datagrams and events. It speaks with
//! py-ipv8 from 2.3 on, in the old and the new style, but trusts less: identifiers are random and checked, a known key
//! moves to another address only after it answered there, everything a stranger can grow is bounded, and signatures are
//! checked last and within a budget. It does not know what the messages of a community mean.
//!
//! ```
//! use fairshare_crypto::{Rng, SecretKey};
//! use fairshare_overlay::{Community, Overlay, OverlayConfig, OverlayOutput};
//! use fairshare_wire::Now;
//!
//! let mut rng = Rng::from_seed([7; 32]);
//! let key = SecretKey::generate(&mut rng);
//! let lan = "127.0.0.1:8090".parse().expect("an address");
//! let config = OverlayConfig { communities: vec![Community::trustchain()], ..OverlayConfig::at(lan) };
//! let now = Now::default();
//! let mut overlay = Overlay::new(config, key, rng, now);
//! overlay.add_address(now, "127.0.0.2:8090".parse().expect("an address"));
//! let Some(OverlayOutput::Transmit { to, .. }) = overlay.poll() else { panic!("it walks to the address") };
//! assert_eq!(to, "127.0.0.2:8090".parse().expect("an address"));
//! ```

pub mod community;
pub mod dht;
pub mod wire;

mod discovery;
mod introduction;
mod overlay;
mod peers;
mod refusal;
mod requests;
mod walk;
mod wan;

pub use community::Community;
pub use overlay::{Overlay, OverlayConfig, OverlayEvent, OverlayOutput};
pub use peers::PeerInfo;
