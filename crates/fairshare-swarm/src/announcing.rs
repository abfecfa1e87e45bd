//! Telling trackers about a torrent, and taking the peers they tell.
//= spec/swarm.md#10-discovery

use crate::addresses::{AddressSource, is_local};
use crate::candidates::Budget;
use crate::context::{Context, Purpose};
use crate::event::{SwarmEvent, SwarmOutput};
use crate::picker::Picker;
use crate::request::Request;
use crate::torrent::{Phase, Torrent};
use crate::tracker::{
    AnnounceError, AnnounceEvent, AnnounceReply, AnnounceRequest, Due, TrackerId, UdpFailure, UdpStep, UdpUrl,
};
use bytes::Bytes;
use fairshare_wire::Now;
use std::net::IpAddr;

/// Peers asked for in an announcement.
const WANTED: u32 = 100;
/// Bytes said to be missing while the size is not known: anything but 0, which would mean a seed.
const LEFT_UNKNOWN: u64 = 1;
/// The port told where nobody can call us: the one that says the least.
//= spec/swarm.md#13-anonymous-torrents
const ANYBODYS_PORT: u16 = 6_881;

/// A tracker that was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct AskedTracker {
    url: String,
    budget: Budget,
}

impl Torrent {
    /// Makes the announcements that are due.
    pub(crate) fn tick_announces(&mut self, cx: &mut Context, now: Now) {
        if cx.held || !matches!(self.phase, Phase::Metadata | Phase::Active) {
            return;
        }
        while let Some(due) = self.announcer.poll(now.mono) {
            self.announce(cx, now, &due);
        }
    }

    /// Says farewell to the trackers; nobody waits for their answers.
    pub(crate) fn announce_stopped(&mut self, cx: &mut Context, now: Now) {
        for due in self.announcer.stop() {
            self.announce(cx, now, &due);
        }
    }

    fn announce(&mut self, cx: &mut Context, now: Now, due: &Due) {
        let totals = self.totals();
        let complete = self.picker.as_ref().is_some_and(Picker::is_complete);
        let stopping = due.event == Some(AnnounceEvent::Stopped);
        let request = AnnounceRequest {
            info_hash: self.info_hash,
            peer_id: self.peer_id,
            port: if cx.is_clear() { cx.config.listen_port } else { ANYBODYS_PORT },
            uploaded: totals.uploaded,
            downloaded: totals.downloaded,
            left: self.left(),
            num_want: if complete || stopping { 0 } else { WANTED },
            key: self.tracker_key,
            event: due.event,
            tracker_id: due.tracker_id.as_deref(),
            ipv4: None,
            ipv6: None,
            supports_encryption: false,
        };
        self.trackers_asked.entry(due.tracker).or_default().url.clone_from(&due.url);
        if let Some(url) = UdpUrl::parse(&due.url) {
            let step = cx.udp.announce(now.mono, due.tracker, &url, &request);
            return self.on_udp_step(cx, now, step);
        }
        let url = request.url(&due.url);
        cx.request(self.info_hash, Purpose::Announce { tracker: due.tracker }, Request::HttpGet { url });
    }

    /// A tracker's page came, or why there is none.
    pub(crate) fn on_page(
        &mut self,
        cx: &mut Context,
        now: Now,
        tracker: TrackerId,
        page: Result<Bytes, String>,
    ) {
        match page {
            Ok(page) => self.on_tracker_reply(cx, now, tracker, AnnounceReply::parse(&page)),
            Err(reason) => {
                self.announcer.failed(now.mono, tracker, None);
                self.tracker_told(cx, tracker, Err(reason));
            }
        }
    }

    /// An announcement over UDP goes on, or came to its end.
    pub(crate) fn on_udp_step(&mut self, cx: &mut Context, now: Now, step: UdpStep) {
        let (tracker, reason) = match step {
            UdpStep::Send { torrent, to, bytes } => {
                return cx.out.push_back(SwarmOutput::TrackerSend { torrent, to, bytes });
            }
            UdpStep::Done { tracker, result: Ok(reply), .. } => {
                return self.on_tracker_reply(cx, now, tracker, Ok(reply));
            }
            UdpStep::Done { tracker, result: Err(UdpFailure::Refused(error)), .. } => {
                return self.on_tracker_reply(cx, now, tracker, Err(error));
            }
            UdpStep::Done { tracker, result: Err(UdpFailure::Silent), .. } => {
                (tracker, "the tracker does not answer")
            }
            UdpStep::Done { tracker, result: Err(UdpFailure::Busy), .. } => {
                (tracker, "too many announcements under way")
            }
        };
        self.announcer.failed(now.mono, tracker, None);
        self.tracker_told(cx, tracker, Err(reason.to_owned()));
    }

    fn on_tracker_reply(
        &mut self,
        cx: &mut Context,
        now: Now,
        tracker: TrackerId,
        reply: Result<AnnounceReply, AnnounceError>,
    ) {
        match reply {
            Ok(reply) => {
                self.announcer.answered(now.mono, tracker, &reply);
                let local_source = self.tracker_is_local(tracker);
                let asked = self.trackers_asked.entry(tracker).or_default();
                let taken = asked.budget.take(now.mono, reply.peers.len());
                let peers = reply.peers.get(..taken).unwrap_or_default();
                self.add_addresses(now.mono, peers, AddressSource::Tracker, local_source);
                self.tracker_told(cx, tracker, Ok(reply.peers.len()));
            }
            Err(error) => {
                self.announcer.failed(now.mono, tracker, Some(&error));
                self.tracker_told(cx, tracker, Err(error.to_string()));
            }
        }
        self.tick_announces(cx, now);
    }

    fn tracker_told(&self, cx: &mut Context, tracker: TrackerId, result: Result<usize, String>) {
        let url = self.trackers_asked.get(&tracker).map(|asked| asked.url.clone()).unwrap_or_default();
        cx.event(SwarmEvent::TrackerAnswered { torrent: self.info_hash, url, result });
    }

    /// Whether the tracker stands on a local network, so that local addresses of it are believed.
    //= spec/swarm.md#109-addresses-from-outside-are-untrusted
    fn tracker_is_local(&self, tracker: TrackerId) -> bool {
        let url = self.trackers_asked.get(&tracker).map_or("", |asked| asked.url.as_str());
        let authority =
            url.split_once("://").map_or("", |(_, rest)| rest).split(['/', '?']).next().unwrap_or("");
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or(""),
            None => host.split(':').next().unwrap_or(""),
        };
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(is_local)
    }

    fn left(&self) -> u64 {
        let (Some(metainfo), Some(picker)) = (&self.metainfo, &self.picker) else { return LEFT_UNKNOWN };
        let held: u64 = picker.held().iter().map(|piece| u64::from(metainfo.piece_size(piece))).sum();
        metainfo.total_len() - held
    }
}
