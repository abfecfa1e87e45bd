//! Many datagrams in one system call, both ways: what arrived together is received together, and runs of one size to
//! one target leave as one (segmentation offload, as far as kernel and card have it).

use bytes::Bytes;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use std::io::{ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// No buffer of joined datagrams is longer.
const JOINED_MAX: usize = 65_535;
/// Buffers for one call: 1 MiB in all, each of it up to 64 datagrams of one sender.
const BUFFERS: usize = 16;
/// Joined on the way out: below the 65,507 bytes that one call may carry.
const RUN_BYTES_MAX: usize = 65_000;
/// Longer datagrams leave one by one: a card splits no segments above the usual path, and a fragmented datagram is no
/// segment at all.
const SEGMENT_MAX: usize = 1_472;
/// Datagrams gathered before they leave by themselves: a few full runs to each of several targets.
const GATHERED_MAX: usize = 512;

/// Room for received datagrams that several sockets may share.
#[derive(Debug)]
pub(crate) struct Total {
    waiting: AtomicUsize,
    max: usize,
    /// Dropped on the way in or out.
    dropped: AtomicU64,
}

impl Total {
    /// Room for `max` datagrams.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { waiting: AtomicUsize::new(0), max, dropped: AtomicU64::new(0) })
    }

    /// Datagrams that were dropped, in and out.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Counts what was dropped.
    pub(crate) fn drop_some(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The share of one socket in a [`Total`]: what it received and the node did not handle yet.
#[derive(Debug)]
pub(crate) struct Lane {
    waiting: AtomicUsize,
    max: usize,
    total: Arc<Total>,
}

impl Lane {
    /// A lane that keeps at most `max` datagrams waiting, and fewer if the total is full.
    pub(crate) fn new(max: usize, total: &Arc<Total>) -> Arc<Self> {
        Arc::new(Self { waiting: AtomicUsize::new(0), max, total: total.clone() })
    }

    /// Takes as many of `batch` as there is room for; the rest is dropped, as a full kernel buffer would.
    pub(crate) fn admit<T>(&self, mut batch: Vec<T>) -> Vec<T> {
        let own = self.max.saturating_sub(self.waiting.load(Ordering::Relaxed));
        let all = self.total.max.saturating_sub(self.total.waiting.load(Ordering::Relaxed));
        let room = own.min(all);
        self.total.drop_some(batch.len().saturating_sub(room));
        batch.truncate(room);
        self.waiting.fetch_add(batch.len(), Ordering::Relaxed);
        self.total.waiting.fetch_add(batch.len(), Ordering::Relaxed);
        batch
    }

    /// The node took `count` datagrams off the queue.
    pub(crate) fn handled(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        self.total.waiting.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What the kernel was asked to do for a socket: once, for both its halves.
pub(crate) fn prepare(socket: &UdpSocket) -> std::io::Result<Arc<UdpSocketState>> {
    let state = UdpSocketState::new(socket.into())?;
    // The state forbids fragments, as its protocol wants it. Blocks and introductions may be longer than the path.
    if socket.local_addr()?.is_ipv4() {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::WANT)?;
    }
    Ok(Arc::new(state))
}

/// Buffers of the receiving side; sockets that are never read at the same time share them.
pub(crate) struct ReceiveBuffers {
    memory: Vec<u8>,
    meta: [RecvMeta; BUFFERS],
}

impl ReceiveBuffers {
    pub(crate) fn new() -> Self {
        Self { memory: vec![0; BUFFERS * JOINED_MAX], meta: [RecvMeta::default(); BUFFERS] }
    }

    /// One system call: appends what was there to `out`. Datagrams that arrived joined share one allocation.
    ///
    /// # Errors
    /// Nothing was there, or what an earlier send brought back.
    pub(crate) fn receive<S: AsFd>(
        &mut self,
        state: &UdpSocketState,
        socket: &S,
        out: &mut Vec<(SocketAddr, Bytes)>,
    ) -> std::io::Result<()> {
        let mut chunks = self.memory.chunks_exact_mut(JOINED_MAX);
        let mut buffers: [IoSliceMut<'_>; BUFFERS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        let count = state.recv(socket.into(), &mut buffers, &mut self.meta)?;
        for (buffer, meta) in buffers.iter().zip(&self.meta).take(count) {
            split(buffer.get(..meta.len).unwrap_or_default(), meta, out);
        }
        Ok(())
    }
}

fn split(joined: &[u8], meta: &RecvMeta, out: &mut Vec<(SocketAddr, Bytes)>) {
    let mut rest = Bytes::copy_from_slice(joined);
    let stride = meta.stride.max(1);
    while rest.len() > stride {
        out.push((meta.addr, rest.split_to(stride)));
    }
    out.push((meta.addr, rest));
}

/// The sending side of a socket. What is sent between two flushes leaves together, in order for each target.
pub(crate) struct BatchSender {
    socket: UdpSocket,
    state: Arc<UdpSocketState>,
    total: Arc<Total>,
    gathered: Vec<(SocketAddr, Bytes)>,
    /// One run, end to end.
    run: Vec<u8>,
}

impl BatchSender {
    pub(crate) const fn new(socket: UdpSocket, state: Arc<UdpSocketState>, total: Arc<Total>) -> Self {
        Self { socket, state, total, gathered: Vec::new(), run: Vec::new() }
    }

    /// Sends a datagram with the next flush.
    pub(crate) fn send(&mut self, to: SocketAddr, bytes: Bytes) {
        self.gathered.push((to, bytes));
        if self.gathered.len() >= GATHERED_MAX {
            self.flush();
        }
    }

    /// Whether nothing waits for a flush.
    pub(crate) const fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Sends what was gathered, or drops it: loss is normal here, waiting would stop the node.
    pub(crate) fn flush(&mut self) {
        let mut gathered = std::mem::take(&mut self.gathered);
        // Stable, so each target gets its datagrams in order.
        gathered.sort_by_key(|(to, _)| *to);
        let mut rest = gathered.as_slice();
        while !rest.is_empty() {
            let (run, later) = rest.split_at(first_run(rest, self.state.max_gso_segments()));
            self.send_run(run);
            rest = later;
        }
        gathered.clear();
        self.gathered = gathered;
    }

    fn send_run(&mut self, run: &[(SocketAddr, Bytes)]) {
        let Some((to, first)) = run.first() else { return };
        if run.len() == 1 {
            return self.send_one(*to, first);
        }
        self.run.clear();
        run.iter().for_each(|(_, bytes)| self.run.extend_from_slice(bytes));
        match self.transmit(*to, &self.run, Some(first.len())) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.total.drop_some(run.len()),
            // No offload on this way. The state remembers that the kernel refused it.
            Err(_) => run.iter().for_each(|(to, bytes)| self.send_one(*to, bytes)),
        }
    }

    fn send_one(&self, to: SocketAddr, bytes: &[u8]) {
        if self.transmit(to, bytes, None).is_err() {
            self.total.drop_some(1);
        }
    }

    fn transmit(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
    ) -> std::io::Result<()> {
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        self.state.try_send((&self.socket).into(), &transmit)
    }
}

/// How many of `rest` leave in one call: to one target, of one size, the last may be shorter.
fn first_run(rest: &[(SocketAddr, Bytes)], segments_max: usize) -> usize {
    let Some((target, first)) = rest.first() else { return 0 };
    if first.is_empty() || first.len() > SEGMENT_MAX {
        return 1;
    }
    let fit = segments_max.min(RUN_BYTES_MAX / first.len()).max(1);
    let like_first = |(to, bytes): &&(SocketAddr, Bytes)| to == target && bytes.len() == first.len();
    let equal = rest.iter().take(fit).take_while(like_first).count();
    let shorter = rest.get(equal).is_some_and(|(to, bytes)| {
        equal < fit && to == target && !bytes.is_empty() && bytes.len() < first.len()
    });
    equal + usize::from(shorter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn queue(entries: &[(u16, usize)]) -> Vec<(SocketAddr, Bytes)> {
        entries.iter().map(|(port, len)| (to(*port), Bytes::from(vec![0; *len]))).collect()
    }

    #[test]
    fn a_run_has_one_target_and_one_size_and_the_last_may_be_shorter() {
        assert_eq!(first_run(&queue(&[(1, 9), (1, 9), (1, 5), (1, 9)]), 64), 3);
        assert_eq!(first_run(&queue(&[(1, 9), (1, 9), (2, 9)]), 64), 2);
        assert_eq!(first_run(&queue(&[(1, 9), (1, 10)]), 64), 1);
        assert_eq!(first_run(&queue(&[(1, 9), (1, 0)]), 64), 1, "an empty segment is none");
        assert_eq!(first_run(&queue(&[(1, 0), (1, 0)]), 64), 1);
        assert_eq!(first_run(&queue(&[(1, 9); 5]), 3), 3);
        assert_eq!(first_run(&queue(&[(1, 9); 5]), 1), 1, "without offload each leaves alone");
        assert_eq!(first_run(&queue(&[(1, 1_473); 5]), 64), 1);
        assert_eq!(first_run(&queue(&[(1, 1_400); 60]), 64), RUN_BYTES_MAX / 1_400);
        assert_eq!(first_run(&[], 64), 0);
    }

    #[test]
    fn datagrams_beyond_the_limit_are_dropped_and_counted() {
        let total = Total::new(10);
        let (one, other) = (Lane::new(7, &total), Lane::new(7, &total));
        assert_eq!(one.admit(vec![0; 9]).len(), 7, "its own limit");
        assert_eq!(other.admit(vec![0; 9]).len(), 3, "the limit of all");
        assert_eq!(total.dropped(), 2 + 6);
        one.handled(7);
        assert_eq!(other.admit(vec![0; 9]).len(), 4);
    }

    /// A socket of loopback with both halves.
    fn end() -> (UdpSocket, Arc<UdpSocketState>, BatchSender) {
        let socket = UdpSocket::bind(to(0)).expect("loopback");
        let state = prepare(&socket).expect("a socket");
        let sender =
            BatchSender::new(socket.try_clone().expect("a socket"), state.clone(), Total::new(usize::MAX));
        (socket, state, sender)
    }

    fn receive(
        end: &(UdpSocket, Arc<UdpSocketState>, BatchSender),
        count: usize,
    ) -> Vec<(SocketAddr, Bytes)> {
        let (mut buffers, mut out, begun) = (ReceiveBuffers::new(), Vec::new(), Instant::now());
        while out.len() < count && begun.elapsed() < Duration::from_secs(10) {
            // Nothing there yet.
            let _ = buffers.receive(&end.1, &end.0, &mut out);
        }
        out
    }

    #[test]
    fn what_is_gathered_arrives_whole_and_in_order_at_each_target() {
        let (mut from, targets) = (end(), [end(), end()]);
        let mut sent: BTreeMap<SocketAddr, Vec<Bytes>> = BTreeMap::new();
        for number in 0..150_usize {
            let len = if number % 7 == 0 { number } else { 900 };
            let target = targets[number % 2].0.local_addr().expect("bound");
            let bytes = Bytes::from(vec![number as u8; len]);
            sent.entry(target).or_default().push(bytes.clone());
            from.2.send(target, bytes);
        }
        from.2.flush();
        assert!(from.2.is_empty());
        for target in &targets {
            let expected = &sent[&target.0.local_addr().expect("bound")];
            let came = receive(target, expected.len());
            assert_eq!(came.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(), *expected);
            assert!(came.iter().all(|(by, _)| *by == from.0.local_addr().expect("bound")));
        }
    }

    #[test]
    fn a_datagram_longer_than_any_path_still_leaves() {
        let (mut from, target) = (end(), end());
        let long = Bytes::from(vec![7; 40_000]);
        from.2.send(target.0.local_addr().expect("bound"), long.clone());
        from.2.flush();
        assert_eq!(receive(&target, 1).first().map(|(_, bytes)| bytes.clone()), Some(long));
    }

    #[test]
    fn what_cannot_leave_is_counted() {
        let mut from = end();
        // The kernel refuses the second for its size.
        from.2.send(to(9), Bytes::from_static(b"x"));
        from.2.send(to(9), Bytes::from(vec![0; 70_000]));
        from.2.flush();
        assert_eq!(from.2.total.dropped(), 1);
    }

    /// Nanoseconds that this thread was on a core.
    fn cpu_ns() -> u64 {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
        stat.split(' ').next().and_then(|word| word.parse().ok()).expect("a number")
    }

    /// Sends back what comes, until a datagram is empty; datagrams and CPU time.
    fn reflect(mut end: (UdpSocket, Arc<UdpSocketState>, BatchSender), batched: bool) -> (u64, u64) {
        let (mut buffers, mut batch, mut count, begun) = (ReceiveBuffers::new(), Vec::new(), 0, cpu_ns());
        let mut buffer = vec![0; JOINED_MAX];
        loop {
            if batched {
                // Nothing there yet.
                let _ = buffers.receive(&end.1, &end.0, &mut batch);
            } else if let Ok((len, from)) = end.0.recv_from(&mut buffer) {
                batch.push((from, Bytes::copy_from_slice(&buffer[..len])));
            }
            if batch.is_empty() {
                // Waiting is no cost of a datagram.
                std::thread::sleep(Duration::from_micros(50));
            }
            for (from, bytes) in batch.drain(..) {
                if bytes.is_empty() {
                    return (count, cpu_ns() - begun);
                }
                count += 1;
                if batched {
                    end.2.send(from, bytes);
                } else {
                    let _ = end.0.send_to(&bytes, from);
                }
            }
            end.2.flush();
        }
    }

    /// A measurement, taken when it is asked for:
    /// `FAIRSHARE_DATAGRAM_COST=1 cargo test --release -p fairshare-host --lib -- --nocapture what_a_relayed`
    #[test]
    fn what_a_relayed_datagram_costs_one_by_one_and_in_batches() {
        const WINDOW: u64 = 128;
        if std::env::var_os("FAIRSHARE_DATAGRAM_COST").is_none() {
            return;
        }
        let cell = Bytes::from(vec![7; 1_400]);
        for batched in [false, true] {
            let (mut near, far) = (end(), end());
            if !batched {
                // As a socket is without the state: nothing arrives joined.
                let plain = UdpSocket::bind(to(0)).expect("loopback");
                plain.set_nonblocking(true).expect("a socket");
                let at = plain.local_addr().expect("bound");
                let far = (plain, far.1, far.2);
                drive(&mut near, at, far, &cell, WINDOW, batched);
            } else {
                let at = far.0.local_addr().expect("bound");
                drive(&mut near, at, far, &cell, WINDOW, batched);
            }
        }
    }

    fn drive(
        near: &mut (UdpSocket, Arc<UdpSocketState>, BatchSender),
        at: SocketAddr,
        far: (UdpSocket, Arc<UdpSocketState>, BatchSender),
        cell: &Bytes,
        window: u64,
        batched: bool,
    ) {
        let thread = std::thread::spawn(move || reflect(far, batched));
        let (mut buffers, begun) = (ReceiveBuffers::new(), Instant::now());
        let (mut under_way, mut heard) = (0, Instant::now());
        while begun.elapsed() < Duration::from_secs(3) {
            let mut came = Vec::new();
            if buffers.receive(&near.1, &near.0, &mut came).is_ok() {
                heard = Instant::now();
            } else if heard.elapsed() > Duration::from_millis(20) {
                under_way = 0;
            }
            under_way -= under_way.min(came.len() as u64);
            while under_way < window {
                near.2.send(at, cell.clone());
                under_way += 1;
            }
            near.2.flush();
        }
        near.2.send(at, Bytes::new());
        near.2.flush();
        let (count, cpu) = thread.join().expect("no panic");
        let seconds = begun.elapsed().as_secs_f64();
        let rate = count as f64 / seconds;
        println!(
            "batched {batched}: {rate:.0} datagrams/s, {:.0} MB/s, {:.2} us CPU for one in and out",
            rate * 1_400.0 / 1e6,
            cpu as f64 / count as f64 / 1e3
        );
    }
}
