//! Content of downloads: a small pool of threads that hashes, writes, reads and syncs, so that no network thread
//! ever waits for a disk.
//!
//! Whatever opens, saves or closes a torrent runs in the order it was asked for; reads and writes of pieces run
//! beside each other. A long hash check has a thread of its own and delays nobody.

mod check;
mod folder;
mod layout;
mod open_files;
mod resume;
#[cfg(test)]
mod tests;
mod torrent;

use crate::Answer;
use bytes::Bytes;
use fairshare_swarm::{Completion, DiskError, InfoHash, Metainfo, Request};
use open_files::OpenFiles;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use torrent::Torrent;

/// Threads of the pool: at least one is free when another waits for a sync; more than four never paid off on the
/// disks that a home node has.
const THREADS_MIN: usize = 2;
const THREADS_MAX: usize = 4;
/// Neighbouring reads are done as one, up to this length.
const JOINED_READ_MAX: u32 = 1 << 20;

/// The pool.
pub(crate) struct DiskPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl DiskPool {
    /// Starts the threads. Resume files live in `resume_dir`, which exists.
    pub(crate) fn start(resume_dir: PathBuf, answer: Answer) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(THREADS_MIN, usize::from);
        let count = cores.clamp(THREADS_MIN, THREADS_MAX);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            idle: Condvar::new(),
            torrents: Mutex::default(),
            cache: Arc::default(),
            openings: AtomicU64::new(0),
            checking: Mutex::new(()),
            stop: AtomicBool::new(false),
            threads: count,
            resume_dir,
            answer,
        });
        let mut pool = Self { shared, threads: Vec::new() };
        for number in 0..count {
            let shared = pool.shared.clone();
            let thread =
                std::thread::Builder::new().name(format!("disk-{number}")).spawn(move || shared.work())?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Hands in requests that came together; the answers go to whoever was named at the start.
    pub(crate) fn submit(&self, requests: Vec<(u64, Request)>) {
        let mut queue = self.shared.queue();
        queue.unfinished += requests.len();
        let count = requests.len();
        requests.into_iter().for_each(|(ticket, request)| queue.add(ticket, request));
        drop(queue);
        if count == 1 { self.shared.arrived.notify_one() } else { self.shared.arrived.notify_all() }
    }

    /// Waits until everything that was handed in is done, but not longer than until `deadline`.
    pub(crate) fn settle(&self, deadline: Instant) {
        let queue = self.shared.queue();
        let left = deadline.saturating_duration_since(Instant::now());
        // Whether it was enough does not matter: what was not saved is hashed at the next start.
        drop(self.shared.idle.wait_timeout_while(queue, left, |queue| queue.unfinished > 0));
    }
}

impl Drop for DiskPool {
    /// Ends the threads after what each is doing now; the rest of the queue is dropped.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Under the lock, so that no thread is between its look at the flag and its sleep.
        drop(self.shared.queue());
        self.shared.arrived.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Told when the last unfinished request is done.
    idle: Condvar,
    torrents: Mutex<BTreeMap<InfoHash, Arc<Torrent>>>,
    cache: Arc<OpenFiles>,
    openings: AtomicU64,
    /// One hash check at a time: two would only make the disk seek.
    checking: Mutex<()>,
    stop: AtomicBool,
    threads: usize,
    resume_dir: PathBuf,
    answer: Answer,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<(u64, Request)>,
    /// Torrents with an opening, saving or closing under way or ready.
    ordered: BTreeSet<InfoHash>,
    /// What waits behind that, by torrent.
    behind: BTreeMap<InfoHash, VecDeque<(u64, Request)>>,
    unfinished: usize,
}

impl Queue {
    fn add(&mut self, ticket: u64, request: Request) {
        if let Some(torrent) = ordered_by(&request)
            && !self.ordered.insert(torrent)
        {
            self.behind.entry(torrent).or_default().push_back((ticket, request));
        } else {
            self.ready.push_back((ticket, request));
        }
    }

    /// An opening, saving or closing of `torrent` is done: the next may run.
    fn release(&mut self, torrent: InfoHash) {
        let next = self.behind.get_mut(&torrent).and_then(VecDeque::pop_front);
        match next {
            Some(next) => self.ready.push_back(next),
            None => {
                self.behind.remove(&torrent);
                self.ordered.remove(&torrent);
            }
        }
    }

    /// The next request; neighbouring reads of a piece come together.
    fn pop(&mut self) -> Option<Work> {
        match self.ready.pop_front()? {
            (ticket, Request::Read { torrent, piece, begin, len }) => {
                let mut read = JoinedRead { torrent, piece, begin, parts: vec![(ticket, len)], len };
                while let Some((ticket, Request::Read { torrent, piece, begin, len })) = self.ready.front() {
                    if !read.join(*ticket, *torrent, *piece, *begin, *len) {
                        break;
                    }
                    self.ready.pop_front();
                }
                Some(Work::Read(read))
            }
            (ticket, request) => Some(Work::Other(ticket, request)),
        }
    }
}

/// The torrent whose order a request must keep.
fn ordered_by(request: &Request) -> Option<InfoHash> {
    match request {
        Request::Open { metainfo, .. } => Some(metainfo.info_hash()),
        Request::Save { torrent, .. } | Request::Close { torrent, .. } => Some(*torrent),
        Request::Store { .. }
        | Request::Read { .. }
        | Request::HttpGet { .. }
        | Request::Resolve { .. }
        | Request::HttpFetch { .. } => None,
    }
}

enum Work {
    Read(JoinedRead),
    Other(u64, Request),
}

/// Reads of neighbouring blocks.
struct JoinedRead {
    torrent: InfoHash,
    piece: u32,
    begin: u32,
    /// Ticket and length of each.
    parts: Vec<(u64, u32)>,
    len: u32,
}

impl JoinedRead {
    fn join(&mut self, ticket: u64, torrent: InfoHash, piece: u32, begin: u32, len: u32) -> bool {
        let joined = self.len.checked_add(len).filter(|joined| *joined <= JOINED_READ_MAX);
        let neighbours =
            torrent == self.torrent && piece == self.piece && self.begin.checked_add(self.len) == Some(begin);
        match joined {
            Some(joined) if neighbours => {
                self.parts.push((ticket, len));
                self.len = joined;
                true
            }
            _ => false,
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(self: &Arc<Self>) {
        while let Some(work) = self.next() {
            match work {
                Work::Read(read) => self.read(&read),
                Work::Other(ticket, Request::Open { metainfo, root, create }) => {
                    self.open_aside(ticket, metainfo, root, create);
                }
                Work::Other(ticket, request) => {
                    let ordered = ordered_by(&request);
                    let completion = self.serve(request);
                    self.done(vec![(ticket, completion)], ordered);
                }
            }
        }
    }

    fn next(&self) -> Option<Work> {
        let queue = self.queue();
        let idle = |queue: &mut Queue| queue.ready.is_empty() && !self.stop.load(Ordering::Acquire);
        let mut queue = self.arrived.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
        if self.stop.load(Ordering::Acquire) { None } else { queue.pop() }
    }

    fn done(&self, completions: Vec<(u64, Completion)>, ordered: Option<InfoHash>) {
        let count = completions.len();
        (self.answer)(completions);
        let mut queue = self.queue();
        queue.unfinished = queue.unfinished.saturating_sub(count);
        if let Some(torrent) = ordered {
            queue.release(torrent);
            self.arrived.notify_one();
        }
        if queue.unfinished == 0 {
            self.idle.notify_all();
        }
    }

    fn serve(&self, request: Request) -> Completion {
        match request {
            Request::Store { torrent, piece, blocks } => {
                Completion::Stored(self.torrent(torrent).and_then(|torrent| torrent.store(piece, &blocks)))
            }
            Request::Save { torrent, have, finished } => {
                Completion::Saved(self.torrent(torrent).and_then(|torrent| torrent.save(have, finished)))
            }
            Request::Close { torrent, delete } => Completion::Saved(self.close(torrent, delete)),
            Request::Read { torrent, piece, begin, len } => {
                Completion::Data(self.torrent(torrent).and_then(|torrent| torrent.read(piece, begin, len)))
            }
            Request::Open { metainfo, root, create } => {
                Completion::Opened(self.open(metainfo, &root, create))
            }
            Request::HttpGet { .. } => Completion::Page(Err("the disk fetches no pages".to_owned())),
            Request::Resolve { .. } => Completion::Resolved(Err("the disk knows no names".to_owned())),
            Request::HttpFetch { .. } => Completion::Fetched(Err("the disk fetches no pages".to_owned())),
        }
    }

    fn read(&self, read: &JoinedRead) {
        let bytes =
            self.torrent(read.torrent).and_then(|torrent| torrent.read(read.piece, read.begin, read.len));
        let mut at = 0;
        let answer = |(ticket, len): &(u64, u32)| {
            let end = at + *len as usize;
            let part = bytes.as_ref().map(|bytes: &Bytes| bytes.slice(at..end)).map_err(Clone::clone);
            at = end;
            (*ticket, Completion::Data(part))
        };
        let completions = read.parts.iter().map(answer).collect();
        self.done(completions, None);
    }

    /// Opens on a thread of its own, because it may mean to hash everything.
    fn open_aside(self: &Arc<Self>, ticket: u64, metainfo: Arc<Metainfo>, root: PathBuf, create: bool) {
        let ordered = Some(metainfo.info_hash());
        let shared = self.clone();
        let spawned = std::thread::Builder::new().name("disk-open".to_owned()).spawn(move || {
            let opened = shared.open(metainfo, &root, create);
            shared.done(vec![(ticket, Completion::Opened(opened))], ordered);
        });
        if let Err(error) = spawned {
            let reason = format!("cannot start a thread: {error}");
            let failed = DiskError::Other { path: String::new(), reason };
            self.done(vec![(ticket, Completion::Opened(Err(failed)))], ordered);
        }
    }

    fn open(
        &self,
        metainfo: Arc<Metainfo>,
        root: &Path,
        create: bool,
    ) -> Result<fairshare_swarm::Bitfield, DiskError> {
        let number = self.openings.fetch_add(1, Ordering::Relaxed);
        let (torrent, found) =
            Torrent::open(metainfo, root, create, &self.resume_dir, number, self.cache.clone())?;
        let (held, hashed) = {
            let _one_at_a_time = self.checking.lock().unwrap_or_else(PoisonError::into_inner);
            check::held_pieces(&torrent, &found, &self.resume_dir, self.threads, &self.stop)?
        };
        if self.stop.load(Ordering::Acquire) {
            // The check was cut short: what it did not get to is not known to be missing.
            let reason = "the program is ending".to_owned();
            return Err(DiskError::Other { path: torrent.metainfo.name().to_owned(), reason });
        }
        if create {
            torrent.unname_files(&held)?;
        } else if hashed {
            // Nobody writes to these files, so nobody will ask for a record of them; the next start needs one all
            // the same. Without it that start is slower, no more.
            let _ = torrent.save(held.clone(), false);
        }
        let earlier = self.torrents().insert(torrent.info_hash(), Arc::new(torrent));
        if let Some(earlier) = earlier {
            earlier.forget();
        }
        Ok(held)
    }

    fn close(&self, torrent: InfoHash, delete: bool) -> Result<(), DiskError> {
        let Some(torrent) = self.torrents().remove(&torrent) else { return Ok(()) };
        torrent.forget();
        if delete { torrent.delete() } else { Ok(()) }
    }

    fn torrent(&self, torrent: InfoHash) -> Result<Arc<Torrent>, DiskError> {
        self.torrents().get(&torrent).cloned().ok_or_else(|| DiskError::Other {
            path: torrent.to_string(),
            reason: "this torrent is not open".to_owned(),
        })
    }

    fn torrents(&self) -> MutexGuard<'_, BTreeMap<InfoHash, Arc<Torrent>>> {
        self.torrents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
