//! Keys, signatures, key agreement, hashes and seeded random numbers of Fairshare.
//!
//! Floor 0: this crate knows no protocol. Signatures are checked strictly and one by one everywhere (ruling R11):
//! one rule for the whole network, so that two honest nodes never disagree about a block.
//!
//! ```
//! use fairshare_crypto::{Rng, SecretKey};
//!
//! let mut rng = Rng::from_seed([7; 32]);
//! let key = SecretKey::generate(&mut rng);
//! let signature = key.sign(b"a receipt");
//! assert!(key.public().verify(b"a receipt", &signature));
//! ```

mod agreement;
mod cell;
mod hash;
mod key;
mod random;

pub use agreement::{EphemeralSecret, box_key, hkdf_expand_sha256, hkdf_sha256_64};
pub use cell::{COUNTER_LEN, CellKey, LAYER_OVERHEAD, Opened, TAG_LEN};
pub use hash::{Sha1Stream, Sha256Stream, ct_eq, hmac_sha256, hmac_sha512, sha1, sha256};
pub use key::{KEY_LEN, KeyError, Mid, PublicKey, SIGNATURE_LEN, SecretKey, Signature};
pub use random::Rng;
