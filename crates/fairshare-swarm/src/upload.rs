//! The giving side of one connection: the peer's requests in order, runs of them being read from disk, and what
//! was sent. It decides neither who is served nor how much may be sent; the torrent brings both in.
//= spec/swarm.md#65-serving

use crate::peer_wire::BlockRequest;
use crate::rate::Rate;
use bytes::Bytes;
use fairshare_wire::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Requests queued per peer, as advertised (`reqq`); more are rejected.
//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
pub(crate) const REQQ: usize = 512;
/// Requests received and not answered at which the connection is closed. Rejected requests do not wait, so only a
/// peer without the fast extension, whose excess is dropped in silence, comes near it.
const MAX_EXCESS: u32 = 2_048;
/// Longest request that is accepted.
pub(crate) const MAX_REQUEST_LEN: u32 = 131_072;
/// Bytes read from disk at once.
const RUN_LEN: u32 = 256 << 10;
/// Bytes being read or written and not yet taken by the transport: what goes out in a quarter of a second, within
/// bounds. A fast line is kept busy between two calls of the host, and on a slow one a cancel, a choke or a small
/// message does not wait behind seconds of payload.
const CREDIT_MIN: u64 = 128 << 10;
const CREDIT_MAX: u64 = 1 << 20;
const CREDIT_PER_SECOND: u64 = 4;
/// Requests for pieces that we have not, before the connection is closed.
//= spec/swarm.md#3-message-framing-and-core-messages
const MAX_ABSENT: u32 = 50;

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reception {
    /// It waits for its turn.
    Queued,
    /// There is no room for it.
    Excess,
    /// The peer does not keep to any limit.
    Abuse,
}

/// Requests that follow each other in a piece, to be read with one request to the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunSpec {
    /// The piece.
    pub(crate) piece: u32,
    /// Where the run begins.
    pub(crate) begin: u32,
    /// Its bytes.
    pub(crate) len: u32,
}

#[derive(Debug)]
struct Run {
    ticket: Option<u64>,
    spec: RunSpec,
    requests: Vec<BlockRequest>,
    data: Option<Bytes>,
}

/// The giving side of a connection.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Whether the peer wants something of us.
    pub(crate) interested: bool,
    /// Whether we choke the peer.
    pub(crate) choked: bool,
    /// Since when the peer is unchoked.
    pub(crate) unchoked_at: Option<Instant>,
    /// Payload handed to the transport.
    pub(crate) sent: u64,
    /// The same at the last unchoke.
    pub(crate) sent_at_unchoke: u64,
    /// Rate of the payload.
    pub(crate) rate: Rate,
    queue: VecDeque<BlockRequest>,
    runs: VecDeque<Run>,
    reading: u64,
    absent: u32,
    excess: u32,
    busy: BusyTime,
}

impl Upload {
    /// A choked peer without requests.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            interested: false,
            choked: true,
            unchoked_at: None,
            sent: 0,
            sent_at_unchoke: 0,
            rate: Rate::new(now),
            queue: VecDeque::new(),
            runs: VecDeque::new(),
            reading: 0,
            absent: 0,
            excess: 0,
            busy: BusyTime::new(now),
        }
    }

    /// Takes a request that may be served.
    pub(crate) fn enqueue(&mut self, request: BlockRequest) -> Reception {
        if self.queue.len() < REQQ {
            self.queue.push_back(request);
            return Reception::Queued;
        }
        self.excess += 1;
        if self.excess > MAX_EXCESS { Reception::Abuse } else { Reception::Excess }
    }

    /// A request for something we have not. Tells whether it was one too many.
    pub(crate) const fn asked_for_absent(&mut self) -> bool {
        self.absent += 1;
        self.absent > MAX_ABSENT
    }

    /// The peer takes a request back. Tells whether it was still waiting.
    pub(crate) fn cancel(&mut self, request: &BlockRequest) -> bool {
        let at = self.queue.iter().position(|queued| queued == request);
        at.and_then(|at| self.queue.remove(at)).is_some()
    }

    /// The next run to read, if the transport has credit and `allowance` more bytes may be sent. The caller reads
    /// it and tells the ticket by [`started`](Self::started).
    pub(crate) fn next_run(&mut self, now: Instant, backlog: usize, allowance: u64) -> Option<RunSpec> {
        let credit = (self.rate.over(now, 2) / CREDIT_PER_SECOND).clamp(CREDIT_MIN, CREDIT_MAX);
        let under_way = self.reading.saturating_add(backlog as u64);
        if self.choked || under_way >= credit {
            return None;
        }
        let left = allowance.saturating_sub(self.reading);
        let first = *self.queue.front().filter(|first| u64::from(first.len) <= left)?;
        let mut run = Run {
            ticket: None,
            spec: RunSpec { piece: first.piece, begin: first.begin, len: 0 },
            requests: Vec::new(),
            data: None,
        };
        while let Some(next) = self.queue.front() {
            let len = run.spec.len + next.len;
            let follows = next.piece == first.piece && next.begin == first.begin + run.spec.len;
            if !follows || len > RUN_LEN.max(first.len) || u64::from(len) > left {
                break;
            }
            run.spec.len = len;
            run.requests.extend(self.queue.pop_front());
        }
        self.reading += u64::from(run.spec.len);
        let spec = run.spec.clone();
        self.runs.push_back(run);
        Some(spec)
    }

    /// The newest run is read under this ticket.
    pub(crate) fn started(&mut self, ticket: u64) {
        if let Some(run) = self.runs.back_mut() {
            run.ticket = Some(ticket);
        }
    }

    /// The disk answered. A run that was dropped meanwhile is not missed.
    pub(crate) fn read(&mut self, ticket: u64, data: Bytes) {
        let run = self.runs.iter_mut().find(|run| run.ticket == Some(ticket));
        if let Some(run) = run.filter(|run| data.len() == run.spec.len as usize) {
            run.data = Some(data);
        }
    }

    /// The next run whose data is here, as blocks to send, in the order in which they were requested. It waits
    /// while it would bring what was sent beyond `limit`, which may have been lowered since the run was read.
    pub(crate) fn take_ready(&mut self, now: Instant, limit: u64) -> Option<Vec<(BlockRequest, Bytes)>> {
        let front = self.runs.front()?;
        if self.sent.saturating_add(u64::from(front.spec.len)) > limit {
            return None;
        }
        let data = self.runs.front_mut()?.data.take()?;
        let run = self.runs.pop_front()?;
        let len = u64::from(run.spec.len);
        self.reading -= len;
        self.sent += len;
        self.rate.add(now, len);
        let block = |request: BlockRequest| {
            let start = (request.begin - run.spec.begin) as usize;
            (request, data.slice(start..start + request.len as usize))
        };
        Some(run.requests.into_iter().map(block).collect())
    }

    /// Whether any request is not answered.
    pub(crate) fn pending_any(&self) -> bool {
        !self.queue.is_empty() || !self.runs.is_empty()
    }

    /// Starts serving.
    pub(crate) const fn unchoke(&mut self, now: Instant) {
        self.choked = false;
        self.unchoked_at = Some(now);
        self.sent_at_unchoke = self.sent;
    }

    /// Stops serving: the requests that will not be answered any more.
    pub(crate) fn choke(&mut self) -> Vec<BlockRequest> {
        self.choked = true;
        self.unchoked_at = None;
        self.drop_requests()
    }

    /// Forgets all requests and gives them back.
    pub(crate) fn drop_requests(&mut self) -> Vec<BlockRequest> {
        self.reading = 0;
        self.excess = 0;
        let reading = self.runs.drain(..).flat_map(|run| run.requests);
        let dropped: Vec<BlockRequest> = reading.chain(self.queue.drain(..)).collect();
        dropped
    }

    /// Number of requests that are not answered.
    pub(crate) fn pending(&self) -> usize {
        self.queue.len() + self.runs.iter().map(|run| run.requests.len()).sum::<usize>()
    }

    /// Notes whether there is anything to send, for the share of busy time.
    pub(crate) fn note_busy(&mut self, now: Instant, backlog: usize) {
        let busy = backlog > 0 || self.pending_any();
        self.busy.set(now, busy);
    }

    /// Whether there was something to send for more than half of the time since this was last asked.
    pub(crate) fn was_busy(&mut self, now: Instant) -> bool {
        self.busy.end_round(now)
    }
}

/// How long there was something to send.
#[derive(Clone, Copy, Debug)]
struct BusyTime {
    round_start: Instant,
    busy_since: Option<Instant>,
    busy: Duration,
}

impl BusyTime {
    const fn new(now: Instant) -> Self {
        Self { round_start: now, busy_since: None, busy: Duration::ZERO }
    }

    fn set(&mut self, now: Instant, busy: bool) {
        match (self.busy_since, busy) {
            (None, true) => self.busy_since = Some(now),
            (Some(since), false) => {
                self.busy += now.since(since);
                self.busy_since = None;
            }
            _ => {}
        }
    }

    fn end_round(&mut self, now: Instant) -> bool {
        let was_busy = self.busy_since.is_some();
        self.set(now, false);
        let majority = self.busy * 2 > now.since(self.round_start);
        *self = Self { busy_since: was_busy.then_some(now), ..Self::new(now) };
        majority
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u32 = 16_384;

    fn request(piece: u32, block: u32) -> BlockRequest {
        BlockRequest { piece, begin: block * BLOCK, len: BLOCK }
    }

    fn unchoked() -> Upload {
        let mut upload = Upload::new(Instant::START);
        upload.unchoke(Instant::START);
        upload
    }

    //= spec/swarm.md#65-serving
    #[test]
    fn contiguous_requests_are_read_together_and_sent_in_order() {
        let mut upload = unchoked();
        upload.rate.add(Instant::START, 100 << 20);
        for block in 0..20 {
            assert_eq!(upload.enqueue(request(3, block)), Reception::Queued);
        }
        upload.enqueue(request(4, 0));
        let first = upload.next_run(Instant::START, 0, u64::MAX).expect("a run");
        assert_eq!(first, RunSpec { piece: 3, begin: 0, len: 256 << 10 });
        upload.started(1);
        let second = upload.next_run(Instant::START, 0, u64::MAX).expect("a run");
        assert_eq!(second, RunSpec { piece: 3, begin: 256 << 10, len: 4 * BLOCK });
        upload.started(2);
        upload.read(2, Bytes::from(vec![2; 4 * BLOCK as usize]));
        assert_eq!(upload.take_ready(Instant::START, u64::MAX), None, "the first run comes first");
        upload.read(1, Bytes::from(vec![1; 256 << 10]));
        let sent = upload.take_ready(Instant::START, u64::MAX).expect("read");
        assert_eq!(sent.len(), 16);
        assert_eq!((sent[0].0, sent[0].1[0]), (request(3, 0), 1));
        assert_eq!(upload.take_ready(Instant::START, u64::MAX).expect("read").len(), 4);
        assert_eq!(upload.sent, 20 * u64::from(BLOCK));
    }

    //= spec/swarm.md#83-counts-and-exposure
    #[test]
    fn nothing_is_read_beyond_the_allowance() {
        let mut upload = unchoked();
        for block in 0..8 {
            upload.enqueue(request(0, block));
        }
        let run = upload.next_run(Instant::START, 0, 3 * u64::from(BLOCK) + 1).expect("room for three");
        assert_eq!(run.len, 3 * BLOCK);
        assert_eq!(upload.next_run(Instant::START, 0, 3 * u64::from(BLOCK) + 1), None);
        assert_eq!(upload.next_run(Instant::START, 0, 4 * u64::from(BLOCK)).map(|run| run.len), Some(BLOCK));
    }

    //= spec/swarm.md#84-settlement-and-evidence-on-the-connection
    #[test]
    fn a_limit_that_was_lowered_holds_for_what_is_already_read() {
        let mut upload = unchoked();
        upload.enqueue(request(0, 0));
        upload.next_run(Instant::START, 0, u64::from(BLOCK));
        upload.started(1);
        upload.read(1, Bytes::from(vec![1; BLOCK as usize]));
        assert_eq!(upload.take_ready(Instant::START, u64::from(BLOCK) - 1), None);
        assert!(upload.take_ready(Instant::START, u64::from(BLOCK)).is_some());
    }

    #[test]
    fn a_slow_transport_stops_the_reading() {
        let mut upload = unchoked();
        for piece in 0..100 {
            upload.enqueue(request(piece, 0));
        }
        assert_eq!(upload.next_run(Instant::START, CREDIT_MIN as usize, u64::MAX), None);
        let mut runs = 0;
        while upload.next_run(Instant::START, 0, u64::MAX).is_some() {
            runs += 1;
        }
        assert_eq!(runs, CREDIT_MIN / u64::from(BLOCK));
    }

    #[test]
    fn choking_gives_every_unanswered_request_back() {
        let mut upload = unchoked();
        for block in 0..20 {
            upload.enqueue(request(3, block));
        }
        upload.next_run(Instant::START, 0, u64::MAX);
        upload.started(1);
        assert_eq!(upload.choke().len(), 20);
        upload.read(1, Bytes::from(vec![1; 256 << 10]));
        assert_eq!(upload.take_ready(Instant::START, u64::MAX), None);
        assert_eq!((upload.sent, upload.pending()), (0, 0));
    }

    //= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
    #[test]
    fn the_queue_of_a_peer_is_bounded() {
        let mut upload = unchoked();
        for number in 0..REQQ as u32 {
            assert_eq!(upload.enqueue(request(number, 0)), Reception::Queued);
        }
        for number in 0..MAX_EXCESS {
            assert_eq!(upload.enqueue(request(number, 1)), Reception::Excess);
        }
        assert_eq!(upload.enqueue(request(0, 1)), Reception::Abuse);
    }
}
