//! Trackers over HTTP and UDP: the request, the answer, and which tracker is asked when.
//!
//! [`Announcer`] decides, [`AnnounceRequest`] makes the address to fetch, [`AnnounceReply`] reads the page.
//= spec/swarm.md#10-discovery

mod announcer;
mod reply;
mod request;
mod udp;

pub(crate) use announcer::is_http;
pub use announcer::{Announcer, Due, TrackerId};
pub use reply::{AnnounceError, AnnounceReply, MAX_TRACKER_PEERS, Retry};
pub use request::{AnnounceEvent, AnnounceRequest};
pub(crate) use udp::{UdpFailure, UdpStep, UdpTrackers, UdpUrl};
