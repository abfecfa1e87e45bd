//! What two or more protocols share on the wire: a bounded cursor and writer, IPv8 addresses, the IPv8 packet
//! frame, the time that every engine is told, and rates at which strangers are heard.
//!
//! Floor 0: the messages of one protocol live in the crate of its engine, not here.
//!
//! ```
//! use fairshare_wire::{Reader, Writer};
//!
//! let mut out = Writer::new();
//! out.u16(7).bytes(b"abc");
//! let bytes = out.finish();
//! let mut input = Reader::new(&bytes);
//! assert_eq!(input.u16(), Ok(7));
//! assert_eq!(input.rest(), b"abc");
//! ```

mod address;
mod cursor;
mod frame;
mod rate;
mod time;

pub use address::{Address, UNKNOWN_V4, read_ip4, write_ip4};
pub use cursor::{ReadError, Reader, Writer};
pub use frame::{
    CommunityId, Frame, FrameError, PREFIX_LEN, Packet, SIGNED_OVERHEAD, UNSIGNED_OVERHEAD, sign_packet,
    unsigned_packet,
};
pub use rate::{Limit, Rate, SourceLimit};
pub use time::{Instant, Now};
