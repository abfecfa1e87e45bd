//! Virtual TCP: ordered bytes with latency and rate, cut into pieces anywhere, broken when a machine crashes.

use super::{Checked, Moment, World};
use crate::trace::Note;
use bytes::Bytes;
use fairshare_node::Input;
use fairshare_swarm::StreamId;
use fairshare_wire::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// A stream between two machines, as the world numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(usize);

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Opener,
    Acceptor,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Opener => Self::Acceptor,
            Self::Acceptor => Self::Opener,
        }
    }
}

/// Something that happens to a stream at one of its ends.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// The opening arrives at the other machine.
    Knock,
    /// The opener hears that it is open.
    Opened,
    /// Bytes arrive.
    Arrived(Bytes),
    /// Bytes left.
    Drained(usize),
    /// The end is told that it is over.
    Ended,
}

/// A stream.
#[derive(Clone, Debug)]
pub(super) struct Link {
    opener: End,
    acceptor: End,
    /// What is under way is lost.
    broken: bool,
}

#[derive(Clone, Debug)]
struct End {
    machine: usize,
    incarnation: u32,
    stream: StreamId,
    /// The node knows the stream and did not hear of its end.
    open: bool,
    /// When the last byte written at the other end arrives here.
    arrival: Instant,
}

/// One in so many openings fails while the network is bad.
const FAILED_OPENINGS: u64 = 20;
/// How long an opening into nothing takes to fail.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);
/// One in so many writes arrives in two parts.
const SPLIT_WRITES: u64 = 8;

impl World {
    /// A node opens a stream.
    pub(super) fn connect(&mut self, machine: usize, stream: StreamId, to: SocketAddr) {
        let id = LinkId(self.links.len());
        let target = self.machines.iter().position(|other| other.address == to);
        let end = |machine: usize, incarnation, stream, open| End {
            machine,
            incarnation,
            stream,
            open,
            arrival: Instant::START,
        };
        let opener = end(machine, self.machines[machine].incarnation, stream, true);
        // The other end gets its name when the opening arrives there.
        let acceptor = end(target.unwrap_or(machine), 0, StreamId(0), false);
        self.links.push(Link { opener, acceptor, broken: false });
        self.machines[machine].streams.insert(stream, id);
        let unlucky = self.in_faulty_time() && self.rng.chance(1, FAILED_OPENINGS);
        match target {
            Some(target) if !unlucky && !self.network.is_cut(self.now, (machine, target)) => {
                let at = self.now + self.network.latency((machine, target));
                self.schedule.put(at, Moment::Stream(id, Side::Acceptor, Happening::Knock));
            }
            _ => self.later(id, Side::Opener, OPENING_TIMEOUT, Happening::Ended),
        }
    }

    /// A node writes to a stream.
    pub(super) fn write(&mut self, machine: usize, stream: StreamId, bytes: Bytes) {
        let Some((id, side)) = self.end_of(machine, stream) else { return };
        let left = self.machines[machine].send(self.now, bytes.len());
        self.schedule.put(left, Moment::Stream(id, side, Happening::Drained(bytes.len())));
        let other = self.end(id, side.other()).machine;
        let latency = self.network.latency((machine, other));
        let arrival = self.end(id, side.other()).arrival.max(left + latency);
        self.end_mut(id, side.other()).arrival = arrival;
        let cut = if self.rng.chance(1, SPLIT_WRITES) { self.rng.index(bytes.len()) } else { None };
        let parts = cut.map_or_else(|| vec![bytes.clone()], |at| vec![bytes.slice(..at), bytes.slice(at..)]);
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            self.schedule.put(arrival, Moment::Stream(id, side.other(), Happening::Arrived(part)));
        }
    }

    /// A node closes a stream: what it wrote still arrives, it hears nothing more.
    pub(super) fn close(&mut self, machine: usize, stream: StreamId) {
        let Some((id, side)) = self.end_of(machine, stream) else { return };
        self.forget_end(id, side);
        let other = self.end(id, side.other());
        let at = other.arrival.max(self.now + self.network.latency((machine, other.machine)));
        self.schedule.put(at, Moment::Stream(id, side.other(), Happening::Ended));
    }

    /// A machine stops: the other ends of its streams hear of it.
    pub(super) fn break_streams_of(&mut self, machine: usize) {
        let ids: Vec<LinkId> = std::mem::take(&mut self.machines[machine].streams).into_values().collect();
        for id in ids {
            let side =
                if self.end(id, Side::Opener).machine == machine { Side::Opener } else { Side::Acceptor };
            self.end_mut(id, side).open = false;
            // Sometimes the last bytes still arrive, sometimes they do not.
            let lost = self.rng.chance(1, 2);
            self.links[id.0].broken |= lost;
            let other = self.end(id, side.other());
            let soon = self.now + self.network.latency((machine, other.machine));
            let at = if lost { soon } else { other.arrival.max(soon) };
            self.schedule.put(at, Moment::Stream(id, side.other(), Happening::Ended));
        }
    }

    /// Two machines are cut off from each other: their streams die.
    pub(super) fn break_streams_between(&mut self, (a, b): (usize, usize)) {
        let ids: Vec<LinkId> = self.machines[a].streams.values().copied().collect();
        for id in ids {
            let ends = [self.end(id, Side::Opener).machine, self.end(id, Side::Acceptor).machine];
            if ends.contains(&b) {
                self.links[id.0].broken = true;
                for side in [Side::Opener, Side::Acceptor] {
                    let span = Duration::from_millis(self.rng.below(8_000));
                    self.later(id, side, span, Happening::Ended);
                }
            }
        }
    }

    /// Something happens to a stream.
    pub(super) fn happens(&mut self, id: LinkId, side: Side, what: Happening) -> Checked {
        if matches!(what, Happening::Knock) {
            return self.knock(id);
        }
        let end = self.end(id, side);
        let (machine, stream) = (end.machine, end.stream);
        let is_current = end.open && end.incarnation == self.machines[machine].incarnation;
        let is_lost = self.links[id.0].broken && matches!(what, Happening::Arrived(_) | Happening::Opened);
        if !is_current || is_lost {
            return Ok(());
        }
        match what {
            Happening::Arrived(bytes) => {
                let from = self.end(id, side.other()).machine;
                self.watch.carried(from, machine, bytes.len());
                self.give(machine, Input::Data(stream, bytes))
            }
            Happening::Drained(len) => self.give(machine, Input::Drained(stream, len)),
            Happening::Opened => self.give(machine, Input::Connected(stream)),
            Happening::Ended => {
                self.forget_end(id, side);
                self.note(machine, Note::Text(format!("stream {} ended", stream.0)));
                self.give(machine, Input::Closed(stream))
            }
            Happening::Knock => Ok(()),
        }
    }

    /// An opening arrives: accepted if somebody runs there, else refused.
    fn knock(&mut self, id: LinkId) -> Checked {
        let (opener, machine) = (self.end(id, Side::Opener).machine, self.end(id, Side::Acceptor).machine);
        let latency = self.network.latency((opener, machine));
        if self.machines[machine].node.is_none() {
            self.later(id, Side::Opener, latency, Happening::Ended);
            return Ok(());
        }
        let target = &mut self.machines[machine];
        let stream = target.accept();
        target.streams.insert(stream, id);
        let incarnation = target.incarnation;
        let from = self.machines[opener].address;
        let end = self.end_mut(id, Side::Acceptor);
        (end.stream, end.incarnation, end.open) = (stream, incarnation, true);
        self.later(id, Side::Opener, latency, Happening::Opened);
        if !self.end(id, Side::Opener).open {
            self.later(id, Side::Acceptor, latency, Happening::Ended);
        }
        // Each stream comes from a port of its own.
        let port = 10_000 + u16::try_from(id.0 % 50_000).expect("below 50,000");
        self.give(machine, Input::Accepted(stream, SocketAddr::new(from.ip(), port)))
    }

    fn later(&mut self, id: LinkId, side: Side, span: Duration, what: Happening) {
        let at = self.end(id, side).arrival.max(self.now + span);
        self.end_mut(id, side).arrival = at;
        self.schedule.put(at, Moment::Stream(id, side, what));
    }

    fn forget_end(&mut self, id: LinkId, side: Side) {
        let end = self.end_mut(id, side);
        end.open = false;
        let (machine, stream) = (end.machine, end.stream);
        self.machines[machine].streams.remove(&stream);
    }

    /// The stream that a running node knows by this id.
    fn end_of(&self, machine: usize, stream: StreamId) -> Option<(LinkId, Side)> {
        let id = *self.machines[machine].streams.get(&stream)?;
        let opener = self.end(id, Side::Opener);
        let is_opener = opener.machine == machine && opener.stream == stream;
        Some((id, if is_opener { Side::Opener } else { Side::Acceptor }))
    }

    fn end(&self, id: LinkId, side: Side) -> &End {
        let link = &self.links[id.0];
        match side {
            Side::Opener => &link.opener,
            Side::Acceptor => &link.acceptor,
        }
    }

    fn end_mut(&mut self, id: LinkId, side: Side) -> &mut End {
        let link = &mut self.links[id.0];
        match side {
            Side::Opener => &mut link.opener,
            Side::Acceptor => &mut link.acceptor,
        }
    }
}
