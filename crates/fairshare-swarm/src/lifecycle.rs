//! The life of a torrent: described, opened, complete, saved, stopped and taken up again.

use crate::bitfield::Bitfield;
use crate::context::{Context, Purpose};
use crate::event::{CloseReason, StreamId, SwarmEvent};
use crate::geometry::Geometry;
use crate::metainfo::Metainfo;
use crate::picker::Picker;
use crate::request::{DiskError, Request};
use crate::torrent::{Phase, Torrent};
use fairshare_wire::{Instant, Now};
use std::sync::Arc;
use std::time::Duration;

/// The resume data is written this often, if anything changed.
//= spec/swarm.md#9-storage
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// What of the torrent's progress is on disk.
#[derive(Debug)]
pub(crate) struct Saving {
    changed: bool,
    under_way: bool,
    saved_at: Instant,
    /// Whether completion is to be saved and told.
    pub(crate) finish: bool,
}

impl Saving {
    /// Nothing to save.
    pub(crate) const fn new(now: Instant) -> Self {
        Self { changed: false, under_way: false, saved_at: now, finish: false }
    }

    /// A piece was added.
    pub(crate) const fn changed(&mut self) {
        self.changed = true;
    }
}

impl Torrent {
    /// The description is known: the files are to be opened.
    pub(crate) fn describe(&mut self, cx: &mut Context, metainfo: Arc<Metainfo>) {
        let geometry = Geometry { piece_len: metainfo.piece_len(), total: metainfo.total_len() };
        self.geometry = Some(geometry);
        self.picker = Some(Picker::new(geometry, self.rng.fork("picker")));
        metainfo.name().clone_into(&mut self.name);
        self.private = metainfo.is_private();
        self.metainfo = Some(metainfo);
        self.open(cx);
    }

    /// The description came from peers.
    pub(crate) fn described(&mut self, cx: &mut Context, now: Now, metainfo: Arc<Metainfo>) {
        if self.phase != Phase::Metadata {
            return;
        }
        cx.event(SwarmEvent::MetadataReady(self.info_hash, metainfo.clone()));
        self.describe(cx, metainfo);
        if self.private {
            // Peers that came by other ways than the trackers must not stay.
            return self.close_all(cx, now, CloseReason::Stopped);
        }
        self.admit_early_peers(cx, now);
    }

    fn open(&mut self, cx: &mut Context) {
        let Some(metainfo) = self.metainfo.clone() else { return };
        self.phase = Phase::Checking;
        let request = Request::Open { metainfo, root: self.root.clone(), create: !self.seed };
        cx.request(self.info_hash, Purpose::Open, request);
    }

    /// The files are open.
    pub(crate) fn on_opened(&mut self, cx: &mut Context, now: Now, result: Result<Bitfield, DiskError>) {
        let held = match result {
            Ok(held) => held,
            Err(error) => return self.fail(cx, now, error.to_string()),
        };
        let (Some(picker), Phase::Checking) = (&mut self.picker, &self.phase) else { return };
        picker.hold(&held);
        let (held, pieces) = (picker.held().count(), held.len());
        let complete = picker.is_complete();
        cx.event(SwarmEvent::Checked { torrent: self.info_hash, held, pieces });
        if self.seed && !complete {
            let missing = pieces - held;
            return self.fail(
                cx,
                now,
                format!("{missing} of {pieces} pieces of the files to seed are wrong or missing"),
            );
        }
        self.phase = Phase::Active;
        self.announce_held(cx, now);
        if complete {
            self.complete(cx, now);
        }
        self.tick_announces(cx, now);
    }

    /// Peers that came while the files were being opened learn what we have, and what we want.
    fn announce_held(&mut self, cx: &mut Context, now: Now) {
        let held = self.picker.as_ref().map(|picker| picker.held().clone());
        let ids: Vec<StreamId> = self.connections.keys().copied().collect();
        for id in ids {
            if let (Some(connection), Some(held)) = (self.connections.get_mut(&id), &held) {
                // The bitfield may come only once, and was sent at the start: now each piece is told by itself.
                held.iter().for_each(|piece| connection.send(cx, &crate::peer_wire::Message::Have(piece)));
            }
            self.update_interest(cx, now.mono, id);
            self.consider(cx, now, id);
            self.refill(cx, now, id);
        }
    }

    /// Every piece is held.
    pub(crate) fn complete(&mut self, cx: &mut Context, now: Now) {
        self.tell_final_counts(cx, now);
        self.announce_upload_only(cx);
        if self.seed {
            return cx.event(SwarmEvent::Finished(self.info_hash));
        }
        self.announcer.completed(now.mono);
        self.tick_announces(cx, now);
        self.saving.finish = true;
        self.save(cx);
    }

    fn save(&mut self, cx: &mut Context) {
        let Some(picker) = self.picker.as_ref().filter(|_| !self.saving.under_way) else { return };
        let (have, finished) = (picker.held().clone(), self.saving.finish);
        (self.saving.changed, self.saving.under_way) = (false, true);
        let request = Request::Save { torrent: self.info_hash, have, finished };
        cx.request(self.info_hash, Purpose::Save { finished }, request);
    }

    /// The progress is on disk.
    pub(crate) fn on_saved(
        &mut self,
        cx: &mut Context,
        now: Now,
        finished: bool,
        result: Result<(), DiskError>,
    ) {
        self.saving.under_way = false;
        self.saving.saved_at = now.mono;
        if let Err(error) = result {
            self.saving.changed = true;
            return self.fail(cx, now, error.to_string());
        }
        if finished {
            self.saving.finish = false;
            cx.event(SwarmEvent::Finished(self.info_hash));
        } else if self.saving.finish {
            self.save(cx);
        }
        self.save_if_stopped(cx);
    }

    /// Pieces that were still being stored when the torrent was stopped are recorded too: no tick comes any more.
    pub(crate) fn save_if_stopped(&mut self, cx: &mut Context) {
        if self.phase == Phase::Paused && self.saving.changed {
            self.save(cx);
        }
    }

    pub(crate) fn tick_saving(&mut self, cx: &mut Context, now: Now) {
        if self.saving.changed && now.mono.since(self.saving.saved_at) >= SAVE_INTERVAL {
            self.save(cx);
        }
    }

    /// Stops with an error; what is held stays held.
    pub(crate) fn fail(&mut self, cx: &mut Context, now: Now, reason: String) {
        if matches!(self.phase, Phase::Failed(_)) {
            return;
        }
        self.stop(cx, now);
        self.phase = Phase::Failed(reason.clone());
        cx.event(SwarmEvent::Failed { torrent: self.info_hash, reason });
    }

    /// Stops on command.
    pub(crate) fn pause(&mut self, cx: &mut Context, now: Now) {
        if self.phase == Phase::Paused {
            return;
        }
        self.stop(cx, now);
        self.phase = Phase::Paused;
    }

    /// Starts again after a pause or an error.
    pub(crate) fn resume(&mut self, cx: &mut Context, now: Now) {
        if !matches!(self.phase, Phase::Paused | Phase::Failed(_)) {
            return;
        }
        self.announcer.restart(now.mono);
        match self.metainfo.clone() {
            // What the disk holds may have changed meanwhile: the picker begins anew.
            Some(metainfo) => self.describe(cx, metainfo),
            None => self.phase = Phase::Metadata,
        }
    }

    /// Ends all traffic and saves what was reached.
    pub(crate) fn stop(&mut self, cx: &mut Context, now: Now) {
        self.close_all(cx, now, CloseReason::Stopped);
        self.announce_stopped(cx, now);
        if self.saving.changed {
            self.save(cx);
        }
    }
}
