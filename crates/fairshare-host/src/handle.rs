//! A running node, as the rest of the program sees it.

use crate::Answer;
use crate::clock::Clock;
use crate::disk::DiskPool;
use crate::driver::{Commands, Driver, Links};
use crate::error::StartError;
use crate::exit::{Exits, Fetcher, Resolver};
use crate::http::HttpPool;
use crate::identity::{Identity, IdentityForm, entropy};
use crate::inbox::{Inbox, Message};
use crate::lock::DataLock;
use crate::net::{
    BatchSender, Lane, ReceiveBuffers, Receiver, Sockets, Total, accept_streams, own_ip, prepare,
    receive_datagrams,
};
use crate::sealed::Passphrase;
use crate::socks::{self, Associations, Front};
use crate::store::{Report, SqliteStore, ledger_path, open_store};
use fairshare_crypto::PublicKey;
use fairshare_node::{Command, Event, Node, NodeConfig, Reply};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{Semaphore, broadcast, oneshot, watch};
use tokio::task::JoinHandle as Task;

/// Datagrams that may wait for the node; later ones are dropped, as a full kernel buffer would.
const WAITING_MAX: usize = 4_096;
/// Folder of the resume files inside the data folder.
const RESUME_DIR: &str = "resume";
/// Events that a slow listener may lie behind; then it loses the oldest.
const EVENTS_MAX: usize = 4_096;
/// Commands and queries under way; more wait for their turn.
const COMMANDS_MAX: usize = 1_024;
/// An orderly end takes no longer, whatever the peers do.
const SHUTDOWN_MAX: Duration = Duration::from_secs(9);
/// Of that, so much for payments to be countersigned.
const SETTLE_MAX: Duration = Duration::from_secs(4);
/// And so much for trackers to hear of the end.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// A saving under way, the one that waited for it, and one to see that nothing is left.
const SAVE_ROUNDS: usize = 3;
const SETTLE_POLL: Duration = Duration::from_millis(50);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Identity, ledger and resume files; made if missing.
    pub data_dir: PathBuf,
    /// Where to listen, UDP and TCP; port 0 picks one.
    pub listen: SocketAddrV4,
    /// Behaviour. Own addresses and ports in it are filled in at the start.
    pub node: NodeConfig,
    /// SOCKS5 servers on loopback, each with the number of hops of its circuits; port 0 picks one.
    pub socks: Vec<(SocketAddrV4, u8)>,
    /// Whether an identity whose ledger is missing may start a new one. A key that has signed before forks its
    /// chain this way, so only a person may decide it.
    pub fresh_ledger: bool,
    /// What the identity file is, or will be, encrypted with. Without one a new file is plain.
    pub passphrase: Option<Passphrase>,
}

/// The node has stopped, by itself or because it was told to.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the node has stopped")]
pub struct Stopped;

/// A running node. Dropping it without [`shutdown`](Self::shutdown) ends the node like a crash.
pub struct NodeHandle {
    inbox: Arc<Inbox>,
    disk: Arc<DiskPool>,
    http: Arc<HttpPool>,
    /// Weak: listeners must hear the end when the node's own sender goes.
    events: broadcast::WeakSender<Event>,
    permits: Semaphore,
    killed: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
    running: Mutex<Option<Running>>,
    counts: Arc<Total>,
    exit_counts: Arc<Total>,
    address: SocketAddrV4,
    socks: Vec<(SocketAddrV4, u8)>,
    public_key: PublicKey,
    identity_form: IdentityForm,
    data_dir: PathBuf,
}

/// What has to end before ports and files are free again.
struct Running {
    thread: JoinHandle<()>,
    tasks: Vec<Task<()>>,
}

impl NodeHandle {
    /// Starts a node. Must be called inside a tokio runtime, whose tasks then carry its sockets.
    ///
    /// # Errors
    /// See [`StartError`]; nothing that existed is changed.
    pub async fn start(config: HostConfig) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Handle::current();
        let starting = tokio::task::spawn_blocking(move || start(config, &runtime));
        starting.await.map_err(|error| StartError::Thread(std::io::Error::other(error)))?
    }

    /// Asks the node for something and waits for the reply.
    ///
    /// # Errors
    /// The node has stopped.
    pub async fn command(&self, command: Command) -> Result<Reply, Stopped> {
        let _permit = self.permits.acquire().await.map_err(|_| Stopped)?;
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Message::Command(Box::new(command), reply));
        answer.await.map_err(|_| Stopped)
    }

    /// Looks at the node between two of its steps.
    ///
    /// # Errors
    /// The node has stopped.
    pub async fn query<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Node<SqliteStore>) -> R + Send + 'static,
    ) -> Result<R, Stopped> {
        let _permit = self.permits.acquire().await.map_err(|_| Stopped)?;
        let (found, answer) = oneshot::channel();
        let query = move |node: &Node<SqliteStore>| drop(found.send(look(node)));
        self.inbox.push(Message::Query(Box::new(query)));
        answer.await.map_err(|_| Stopped)
    }

    /// Events from now on.
    pub fn events(&self) -> Events {
        Events { receiver: self.events.upgrade().map(|events| events.subscribe()), dropped: 0 }
    }

    /// Where the node listens, UDP and TCP.
    pub const fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Where the SOCKS5 servers listen, with the number of hops of each.
    pub fn socks(&self) -> &[(SocketAddrV4, u8)] {
        &self.socks
    }

    /// The node's identity.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// How the identity lies on the disk.
    pub const fn identity_form(&self) -> IdentityForm {
        self.identity_form
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Datagrams that were dropped because the node or the kernel was too slow, or could not be sent.
    pub fn datagrams_dropped(&self) -> u64 {
        self.counts.dropped()
    }

    /// The same at the sockets of exits.
    pub fn exit_datagrams_dropped(&self) -> u64 {
        self.exit_counts.dropped()
    }

    /// Waits until the node has stopped. Without a call of [`shutdown`](Self::shutdown) or [`kill`](Self::kill) that
    /// means an invariant was broken, and the program must end: money first.
    pub async fn stopped(&self) {
        // A closed channel means the same as the flag.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Pays what is owed, leaves all circuits, saves everything, ends. Takes at most ten seconds.
    pub async fn shutdown(&self) {
        let deadline = Instant::now() + SHUTDOWN_MAX;
        self.settle(Instant::now() + SETTLE_MAX).await;
        self.pause_all().await;
        // A node that is gone already has no circuits either.
        let _ = self.command(Command::LeaveCircuits).await;
        self.save_all(deadline).await;
        self.end().await;
    }

    /// Ends at once, as if the power had failed: nothing is paid, flushed or saved. For crash tests and demos.
    pub async fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.end().await;
    }

    async fn settle(&self, deadline: Instant) {
        if self.command(Command::SettleAll).await.is_err() {
            return;
        }
        while Instant::now() < deadline && self.query(Node::has_unfinished_business).await == Ok(true) {
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }

    async fn pause_all(&self) {
        let Ok(Reply::Torrents(torrents)) = self.command(Command::Torrents).await else { return };
        for (torrent, _) in torrents {
            if self.command(Command::Pause(torrent.info_hash)).await.is_err() {
                return;
            }
        }
    }

    /// Waits for disk and trackers. More than once, because the end of one saving may be what the next waited for.
    async fn save_all(&self, deadline: Instant) {
        let farewell = deadline.min(Instant::now() + FAREWELL_MAX);
        for _ in 0..SAVE_ROUNDS {
            let (disk, http) = (self.disk.clone(), self.http.clone());
            let waiting = tokio::task::spawn_blocking(move || {
                disk.settle(deadline);
                http.settle(farewell);
            });
            // A panic there leaves nothing to wait for.
            let _ = waiting.await;
            // The answers are handled, and the sleep that follows hands on what they led to.
            if self.query(|_| ()).await.is_err() {
                return;
            }
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }

    /// Stops the thread and the tasks, and waits until ports and files are free.
    async fn end(&self) {
        self.inbox.push(Message::Stop);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Running { thread, tasks }) = running else { return };
        tasks.iter().for_each(Task::abort);
        // Results do not matter: an aborted task and a panicked thread are both over.
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        for task in tasks {
            let _ = task.await;
        }
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.killed.store(true, Ordering::Release);
        self.inbox.push(Message::Stop);
        if let Some(running) = self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            running.tasks.iter().for_each(Task::abort);
        }
    }
}

/// Events of a node. A listener that falls behind loses the oldest, and knows how many.
#[derive(Debug)]
pub struct Events {
    /// `None` when the node had stopped already.
    receiver: Option<broadcast::Receiver<Event>>,
    dropped: u64,
}

impl Events {
    /// The next event; `None` when the node has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        let receiver = self.receiver.as_mut()?;
        loop {
            match receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(count)) => self.dropped += count,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// How many events this listener lost.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// In an order in which a failure leaves everything that existed as it was. The order is the point:
/// it reads better whole.
fn start(mut config: HostConfig, runtime: &tokio::runtime::Handle) -> Result<NodeHandle, StartError> {
    let dir = config.data_dir.clone();
    let resume_dir = dir.join(RESUME_DIR);
    make_dir(&dir)?;
    let lock = DataLock::take(&dir)?;
    let sockets = Sockets::bind(config.listen)?;
    let servers = bind_servers(&config.socks)?;
    let identity = Identity::load_or_draft(&dir, config.passphrase.take())?;
    let ledger = ledger_path(&dir);
    if identity.is_old() && !config.fresh_ledger && !ledger.exists() {
        return Err(StartError::LedgerMissing { path: ledger });
    }
    make_dir(&resume_dir)?;
    let inbox = Arc::new(Inbox::default());
    let (store, writer) = open_store(&ledger, &identity.key().public(), reports_to(&inbox))
        .map_err(|error| StartError::Store { path: ledger, reason: error.to_string() })?;
    let (key, identity_form) = identity.keep()?;
    fill_in_addresses(&mut config.node, sockets.address);
    let (public_key, clock) = (key.public(), Clock::start());
    let node = Node::new(config.node, key, store, entropy()?, clock.now())
        .map_err(|error| StartError::Store { path: ledger_path(&dir), reason: error.to_string() })?;
    let answer = answers_to(&inbox);
    let disk = Arc::new(DiskPool::start(resume_dir, answer.clone()).map_err(StartError::Thread)?);
    let http = Arc::new(HttpPool::start(&answer).map_err(StartError::Thread)?);
    let resolver = Resolver::start(&answer).map_err(StartError::Thread)?;
    let address = sockets.address;
    let fetcher = Fetcher::new(*address.ip(), &answer, runtime.clone());
    let exits = Exits::new(*address.ip(), inbox.clone(), runtime.clone());
    let (counts, exit_counts) = (Total::new(WAITING_MAX), exits.total().clone());
    let lane = Lane::new(WAITING_MAX, &counts);
    let (datagrams, mut tasks) = start_tasks(sockets, &inbox, (&lane, &counts), runtime)?;
    let socks = start_servers(servers, &inbox, runtime, &mut tasks)?;
    let events = broadcast::Sender::new(EVENTS_MAX);
    let weak_events = events.downgrade();
    let killed = Arc::new(AtomicBool::new(false));
    let driver = Driver {
        node,
        links: Links::new(address, inbox.clone(), runtime.clone()),
        writer,
        disk: disk.clone(),
        http: http.clone(),
        resolver,
        fetcher,
        datagrams,
        lane,
        exits,
        associations: Associations::default(),
        events,
        inbox: inbox.clone(),
        clock,
        killed: killed.clone(),
        commands: Commands::default(),
        requests: Vec::new(),
        _lock: lock,
    };
    let (thread, ended) = spawn(driver, inbox.clone())?;
    let running = Mutex::new(Some(Running { thread, tasks }));
    let permits = Semaphore::new(COMMANDS_MAX);
    Ok(NodeHandle {
        inbox,
        disk,
        http,
        events: weak_events,
        permits,
        killed,
        ended,
        running,
        counts,
        exit_counts,
        address,
        socks,
        public_key,
        identity_form,
        data_dir: dir,
    })
}

fn make_dir(dir: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| StartError::DataDir { path: dir.to_path_buf(), source })
}

fn fill_in_addresses(config: &mut NodeConfig, address: SocketAddrV4) {
    let ip = if address.ip().is_unspecified() { own_ip() } else { *address.ip() };
    config.overlay.lan = SocketAddrV4::new(ip, address.port());
    config.swarm.listen_port = address.port();
}

fn reports_to(inbox: &Arc<Inbox>) -> impl FnMut(Report) + Send + 'static {
    let inbox = inbox.clone();
    move |report| {
        inbox.push(match report {
            Report::Persisted(tickets) => Message::Persisted(tickets),
            Report::Failed { ticket, reason } => Message::PersistFailed(ticket, reason),
        });
    }
}

fn answers_to(inbox: &Arc<Inbox>) -> Answer {
    let inbox = inbox.clone();
    Arc::new(move |completions| inbox.push(Message::Completed(completions)))
}

fn start_tasks(
    sockets: Sockets,
    inbox: &Arc<Inbox>,
    (lane, counts): (&Arc<Lane>, &Arc<Total>),
    runtime: &tokio::runtime::Handle,
) -> Result<(BatchSender, Vec<Task<()>>), StartError> {
    let listen = |source| StartError::Listen { address: sockets.address.into(), source };
    let _inside = runtime.enter();
    let state = prepare(&sockets.datagrams).map_err(listen)?;
    let sending = sockets.datagrams.try_clone().map_err(listen)?;
    let sender = BatchSender::new(sending, state.clone(), counts.clone());
    let socket = tokio::net::UdpSocket::from_std(sockets.datagrams).map_err(listen)?;
    let receiver = Receiver { socket, state, buffers: Arc::new(Mutex::new(ReceiveBuffers::new())) };
    let accepting = tokio::net::TcpListener::from_std(sockets.streams).map_err(listen)?;
    let tasks = vec![
        runtime.spawn(receive_datagrams(receiver, inbox.clone(), lane.clone())),
        runtime.spawn(accept_streams(accepting, inbox.clone())),
    ];
    Ok((sender, tasks))
}

/// A SOCKS5 server before it serves, its address and its number of hops.
type BoundServer = (std::net::TcpListener, SocketAddrV4, u8);

fn bind_servers(wanted: &[(SocketAddrV4, u8)]) -> Result<Vec<BoundServer>, StartError> {
    let bound = wanted.iter().map(|(address, hops)| {
        let (listener, address) = socks::bind(*address)?;
        Ok((listener, address, *hops))
    });
    bound.collect()
}

fn start_servers(
    servers: Vec<BoundServer>,
    inbox: &Arc<Inbox>,
    runtime: &tokio::runtime::Handle,
    tasks: &mut Vec<Task<()>>,
) -> Result<Vec<(SocketAddrV4, u8)>, StartError> {
    let (front, _inside) = (Front::new(inbox.clone()), runtime.enter());
    let mut addresses = Vec::new();
    for (listener, address, hops) in servers {
        let listen = |source| StartError::Listen { address: address.into(), source };
        let listener = tokio::net::TcpListener::from_std(listener).map_err(listen)?;
        tasks.push(runtime.spawn(socks::serve(listener, hops, front.clone())));
        addresses.push((address, hops));
    }
    Ok(addresses)
}

/// Tells everybody that the node's thread is over, however it ended.
struct EndMark {
    inbox: Arc<Inbox>,
    ended: watch::Sender<bool>,
}

impl Drop for EndMark {
    fn drop(&mut self) {
        self.inbox.close();
        self.ended.send_replace(true);
    }
}

fn spawn(driver: Driver, inbox: Arc<Inbox>) -> Result<(JoinHandle<()>, watch::Receiver<bool>), StartError> {
    let (sender, ended) = watch::channel(false);
    let thread = std::thread::Builder::new().name("node".to_owned()).spawn(move || {
        // Dropped after the driver, also in a panic: then everything the driver held is free.
        let _mark = EndMark { inbox, ended: sender };
        driver.run();
    });
    thread.map(|thread| (thread, ended)).map_err(StartError::Thread)
}
