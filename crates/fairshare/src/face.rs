//! One running node as the API shows it: the handle, which may be gone for a while, and what its events told.

use crate::api::EventLog;
use crate::news;
use crate::shelf::Shelf;
use fairshare_crypto::PublicKey;
use fairshare_host::NodeHandle;
use fairshare_node::{Command, Event, Reply};
use fairshare_swarm::{InfoHash, Refusal, StreamId, SwarmEvent};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// Refusals that are remembered for the page.
const REFUSALS_MAX: usize = 200;

/// A refusal that this node met.
#[derive(Clone, Debug)]
pub(crate) struct Met {
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Who refused to serve this node.
    pub(crate) provider: PublicKey,
    /// Why.
    pub(crate) refusal: Refusal,
}

/// One node.
pub(crate) struct Face {
    /// Its name: in the demo a person's, else empty.
    pub(crate) name: String,
    /// What it does in the demo, else empty.
    pub(crate) role: &'static str,
    /// Its identity.
    pub(crate) public_key: PublicKey,
    /// Where it listens.
    pub(crate) listen: SocketAddrV4,
    /// Its torrents, as they were added.
    pub(crate) shelf: Shelf,
    node: RwLock<Option<Arc<NodeHandle>>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    sessions: BTreeMap<StreamId, (PublicKey, InfoHash)>,
    refusals: VecDeque<Met>,
    /// Providers that refuse now, by torrent.
    refusing: BTreeMap<(InfoHash, PublicKey), Refusal>,
}

/// The node is not running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Down;

impl Face {
    /// The face of a node that was just started. Must be called inside a tokio runtime: a task follows its events.
    pub(crate) fn new(
        name: &str,
        role: &'static str,
        node: Arc<NodeHandle>,
        shelf: Shelf,
        log: &EventLog,
    ) -> Arc<Self> {
        let face = Arc::new(Self {
            name: name.to_owned(),
            role,
            public_key: node.public_key(),
            listen: node.address(),
            shelf,
            node: RwLock::new(None),
            seen: Mutex::default(),
        });
        face.attach(node, log);
        face
    }

    /// Puts a node behind the face, the first one or one that was started again with the same identity.
    pub(crate) fn attach(self: &Arc<Self>, node: Arc<NodeHandle>, log: &EventLog) {
        assert_eq!(node.public_key(), self.public_key, "a face stands for one identity");
        let mut events = node.events();
        let (face, log) = (self.clone(), log.clone());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let Event::Swarm(event) = &event {
                    face.note(event);
                }
                if let Some((kind, data)) = news::of(&event) {
                    log.push(now_ms(), kind, &face.name, data);
                }
            }
        });
        *self.node.write().unwrap_or_else(PoisonError::into_inner) = Some(node);
    }

    /// Takes the node away, to stop or kill it.
    pub(crate) fn detach(&self) -> Option<Arc<NodeHandle>> {
        let node = self.node.write().unwrap_or_else(PoisonError::into_inner).take();
        let mut seen = self.lock();
        seen.sessions.clear();
        seen.refusing.clear();
        node
    }

    /// The node, while it runs.
    pub(crate) fn node(&self) -> Option<Arc<NodeHandle>> {
        self.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the node.
    pub(crate) async fn ask(&self, command: Command) -> Result<Reply, Down> {
        let node = self.node().ok_or(Down)?;
        node.command(command).await.map_err(|_| Down)
    }

    /// Forgets what is known of a torrent.
    pub(crate) fn forget(&self, torrent: &InfoHash) {
        let mut seen = self.lock();
        seen.refusing.retain(|(of, _), _| of != torrent);
    }

    /// The refusals that this node met, oldest first.
    pub(crate) fn refusals(&self) -> Vec<Met> {
        self.lock().refusals.iter().cloned().collect()
    }

    /// Who refuses now to serve this node a torrent.
    pub(crate) fn refusing(&self, torrent: &InfoHash) -> Vec<(PublicKey, Refusal)> {
        let seen = self.lock();
        let of = seen.refusing.iter().filter(|((of, _), _)| of == torrent);
        of.map(|((_, provider), refusal)| (*provider, *refusal)).collect()
    }

    /// Remembers what the event tells.
    fn note(&self, event: &SwarmEvent) {
        let mut seen = self.lock();
        match event {
            SwarmEvent::SessionOpened { id, key, torrent, .. } => {
                seen.sessions.insert(*id, (*key, *torrent));
            }
            SwarmEvent::SessionClosed { id, .. } => {
                seen.sessions.remove(id);
            }
            SwarmEvent::RefusedBy { id, refusal } => {
                let Some((provider, torrent)) = seen.sessions.get(id).copied() else { return };
                if seen.refusals.len() == REFUSALS_MAX {
                    seen.refusals.pop_front();
                }
                seen.refusals.push_back(Met { at_ms: now_ms(), provider, refusal: *refusal });
                seen.refusing.insert((torrent, provider), *refusal);
            }
            SwarmEvent::GrantReceived { id, .. } => {
                if let Some((provider, torrent)) = seen.sessions.get(id).copied() {
                    seen.refusing.remove(&(torrent, provider));
                }
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wall clock, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}
