//! The stage: sixteen real nodes in this process, each with its own key, store, files and ports.

use crate::api::EventLog;
use crate::config::Config;
use crate::demo::audit::Books;
use crate::demo::content::Share;
use crate::demo::scenario::{Actor, END_TO_END, Role, STRANGER_BYTES};
use crate::face::{Down, Face};
use crate::failure::{Failure, Outcome};
use crate::folder::write_whole;
use crate::shelf::{Entry, Shelf};
use crate::standing::{node_config, start_failure};
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_economy::AccountView;
use fairshare_economy::payouts::PayoutView;
use fairshare_host::{HostConfig, NodeHandle, identity_path};
use fairshare_ledger::{ForkProof, HalfBlock};
use fairshare_node::{Command, NodeStatus, Reason, Reply, Route};
use fairshare_swarm::{AddTorrent, ConnectionStatus, InfoHash, Source, TorrentStatus};
use fairshare_tunnel::CircuitStatus;
use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A killed node is back within this time.
const BACK_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);
/// Hidden peers are looked for so often here, and relays paid for epochs of this length: a story has no six hours.
const LOOKUP_S: u64 = 2;
pub(crate) const EPOCH_S: u64 = 6;
/// Blocks of one look at a chain.
const PAGE: u32 = 1_000;

/// Bytes that a node moved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    /// Everything it sent, payload included.
    pub(crate) sent: u64,
    /// File contents among it.
    pub(crate) payload: u64,
}

/// One node of the story.
pub(crate) struct Player {
    /// Its part.
    pub(crate) actor: Actor,
    /// Its node.
    pub(crate) face: Arc<Face>,
    /// Its torrent.
    pub(crate) share: Share,
    key: SecretKey,
    dir: PathBuf,
    /// What it moved in lives that ended, and in this one when it was last looked at.
    moved: Mutex<(Moved, Moved)>,
}

/// All of them.
pub(crate) struct Stage {
    /// By their index in the plan.
    pub(crate) players: Vec<Player>,
    /// Where their events go.
    pub(crate) log: EventLog,
}

impl Stage {
    /// Starts all nodes and introduces each to two others; the overlay does the rest.
    pub(crate) async fn start(
        dir: &Path,
        actors: Vec<Actor>,
        shares: Vec<Share>,
        rng: &Rng,
        log: EventLog,
    ) -> Outcome<Self> {
        let mut players: Vec<Player> = Vec::new();
        for (actor, share) in actors.into_iter().zip(shares) {
            let key = SecretKey::generate(&mut rng.fork(&format!("key of {}", actor.name)));
            let dir = dir.join(actor.name);
            let data = dir.join("data");
            std::fs::create_dir_all(&data).map_err(|error| Failure::io(&data, &error))?;
            write_whole(&identity_path(&data), &key.to_bytes(), 0o600)?;
            let listen = SocketAddrV4::new(actor.address, 0);
            let node = start_node(&data, listen, actor.role, true).await?;
            let face = Face::new(actor.name, actor.role.word(), node, Shelf::new(None), &log);
            players.push(Player { actor, face, share, key, dir, moved: Mutex::default() });
        }
        let stage = Self { players, log };
        for index in 0..stage.players.len() {
            for known in [index + 1, index + 2].map(|known| known % stage.players.len()) {
                stage.players[index].tell(Command::AddPeer(stage.address(known))).await?;
            }
        }
        Ok(stage)
    }

    /// Where a node listens.
    pub(crate) fn address(&self, index: usize) -> SocketAddr {
        self.players[index].face.listen.into()
    }

    /// A node serves its own file and wants those of the plan.
    pub(crate) async fn open_torrents(&self, index: usize) -> Outcome {
        let player = &self.players[index];
        let (root, torrent) = (player.dir.join("share"), &player.share.torrent);
        let route = if player.actor.role == Role::HiddenSeeder { END_TO_END } else { Route::Clear };
        player.add(torrent, root, true, Vec::new(), route).await?;
        for wanted in player.actor.wants.clone() {
            self.want(index, wanted).await?;
        }
        Ok(())
    }

    /// A node wants the file of another. It is told who else has or wants it.
    pub(crate) async fn want(&self, index: usize, whose: usize) -> Outcome {
        let interested = |(other, player): (usize, &Player)| {
            other != index && (other == whose || player.actor.wants.contains(&whose))
        };
        let others = self.players.iter().enumerate().filter(|(other, player)| interested((*other, *player)));
        let peers = others.map(|(other, _)| self.address(other)).collect();
        let player = &self.players[index];
        player.add(&self.players[whose].share.torrent, player.downloads(), false, peers, Route::Clear).await
    }

    /// A node takes the file of another through circuits. Beyond an exit it must be told where; end to end nobody can.
    pub(crate) async fn want_unseen(&self, index: usize, whose: usize, route: Route) -> Outcome {
        let peers = if matches!(route, Route::Exit { .. }) { vec![self.address(whose)] } else { Vec::new() };
        let player = &self.players[index];
        player.add(&self.players[whose].share.torrent, player.downloads(), false, peers, route).await
    }

    /// The name of a tunnel key.
    pub(crate) async fn tunnel_name(&self, key: &PublicKey) -> Outcome<&'static str> {
        for player in &self.players {
            if player.status().await?.tunnel_key == *key {
                return Ok(player.actor.name);
            }
        }
        Ok("somebody")
    }

    /// The name of a key.
    pub(crate) fn name(&self, key: &PublicKey) -> &'static str {
        self.players
            .iter()
            .find(|player| player.key.public() == *key)
            .map_or("somebody", |player| player.actor.name)
    }

    /// The players with this role.
    pub(crate) fn with(&self, role: Role) -> impl Iterator<Item = &Player> {
        self.players.iter().filter(move |player| player.actor.role == role)
    }

    /// What all nodes moved.
    pub(crate) async fn moved(&self) -> Moved {
        let mut sum = Moved::default();
        for player in &self.players {
            let one = player.moved().await;
            sum = Moved { sent: sum.sent + one.sent, payload: sum.payload + one.payload };
        }
        sum
    }

    /// Ends all nodes in an orderly way.
    pub(crate) async fn stop(&self) {
        let nodes: Vec<_> = self.players.iter().filter_map(|player| player.face.detach()).collect();
        let ends: Vec<_> =
            nodes.into_iter().map(|node| tokio::spawn(async move { node.shutdown().await })).collect();
        for end in ends {
            // A node that panics while it ends is over as well.
            let _ = end.await;
        }
    }
}

impl Player {
    /// Its identity.
    pub(crate) const fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// Its secret: the story needs the forker's to commit the forker's crime.
    pub(crate) const fn secret_key(&self) -> &SecretKey {
        &self.key
    }

    /// Where its downloads go.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.dir.join("downloads")
    }

    async fn add(
        &self,
        torrent: &fairshare_swarm::Metainfo,
        root: PathBuf,
        seed: bool,
        peers: Vec<SocketAddr>,
        route: Route,
    ) -> Outcome {
        let hash = torrent.info_hash();
        let entry = Entry { magnet: None, root: root.clone(), seed, peers: Vec::new(), route };
        self.face.shelf.put(hash, entry, None)?;
        let source = Source::Metainfo(Arc::new(torrent.clone()));
        let torrent = AddTorrent { source, root, seed, peers };
        match self.ask(Command::Add { torrent, route }).await? {
            Reply::Added(Ok(_)) => Ok(()),
            Reply::Added(Err(why)) => Err(Failure::failed("demo", format!("{}: {why}", self.actor.name))),
            _ => Err(unexpected()),
        }
    }

    /// Asks the node. One that was killed is waited for: it comes back in a moment.
    pub(crate) async fn ask(&self, command: Command) -> Outcome<Reply> {
        let gone = || Failure::failed("demo", format!("the node of {} is not running", self.actor.name));
        let back = async {
            loop {
                match self.face.node() {
                    Some(node) => return node,
                    None => tokio::time::sleep(LOOK).await,
                }
            }
        };
        let node = tokio::time::timeout(BACK_MAX, back).await.map_err(|_| gone())?;
        node.command(command).await.map_err(|_| gone())
    }

    /// Tells the node something.
    pub(crate) async fn tell(&self, command: Command) -> Outcome {
        match self.ask(command).await? {
            Reply::Done(Ok(())) => Ok(()),
            Reply::Done(Err(why)) => Err(Failure::failed("demo", format!("{}: {why}", self.actor.name))),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn status(&self) -> Outcome<NodeStatus> {
        match self.ask(Command::Status).await? {
            Reply::Status(status) => Ok(*status),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn torrents(&self) -> Outcome<Vec<TorrentStatus>> {
        match self.ask(Command::Torrents).await? {
            Reply::Torrents(torrents) => Ok(torrents.into_iter().map(|(torrent, _)| torrent).collect()),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn accounts(&self) -> Outcome<BTreeMap<PublicKey, AccountView>> {
        match self.ask(Command::Accounts).await? {
            Reply::Accounts(accounts) => Ok(accounts.into_iter().map(|view| (view.peer, view)).collect()),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn connections(&self) -> Outcome<Vec<ConnectionStatus>> {
        match self.ask(Command::Connections).await? {
            Reply::Connections(connections) => Ok(connections),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn circuits(&self) -> Outcome<Vec<CircuitStatus>> {
        match self.ask(Command::Circuits).await? {
            Reply::Circuits(circuits) => Ok(circuits),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn payouts(&self) -> Outcome<Vec<PayoutView>> {
        match self.ask(Command::Payouts).await? {
            Reply::Payouts(views) => Ok(views),
            _ => Err(unexpected()),
        }
    }

    /// Why the key that stands best with this node does so, once anybody is known.
    pub(crate) async fn best_standing(&self) -> Outcome<Option<Reason>> {
        let Reply::Reputations(best) = self.ask(Command::Reputations(1)).await? else {
            return Err(unexpected());
        };
        let Some(best) = best.first() else { return Ok(None) };
        match self.ask(Command::Explain(best.key)).await? {
            Reply::Reason(reason) => Ok(Some(*reason)),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn proofs(&self) -> Outcome<Vec<ForkProof>> {
        match self.ask(Command::Proofs).await? {
            Reply::Proofs(proofs) => Ok(proofs),
            _ => Err(unexpected()),
        }
    }

    /// Verified bytes of what it downloads.
    pub(crate) async fn held(&self) -> Outcome<u64> {
        let own = self.share.torrent.info_hash();
        Ok(self.torrents().await?.iter().filter(|one| one.info_hash != own).map(|one| one.held_bytes).sum())
    }

    /// Whether every piece of these torrents is verified and written. A player that was killed and is not back has
    /// nothing for the moment.
    pub(crate) async fn has(&self, wanted: &[InfoHash]) -> Outcome<bool> {
        let held = match self.face.ask(Command::Torrents).await {
            Ok(Reply::Torrents(torrents)) => torrents,
            Ok(_) => return Err(unexpected()),
            Err(Down) => return Ok(false),
        };
        Ok(wanted.iter().all(|hash| held.iter().any(|(one, _)| one.info_hash == *hash && one.finished)))
    }

    /// Own blocks from `from` on.
    pub(crate) async fn chain(&self, from: u32) -> Outcome<Vec<Arc<HalfBlock>>> {
        let (mut blocks, mut from) = (Vec::new(), from);
        loop {
            let command =
                Command::Chain { owner: self.public_key(), from, to: from.saturating_add(PAGE - 1) };
            let page = self.blocks(command).await?;
            let Some(last) = page.last().map(|block| block.sequence) else { return Ok(blocks) };
            blocks.extend(page);
            from = last + 1;
        }
    }

    /// The other half of an own block, if the store holds it.
    pub(crate) async fn linked(&self, sequence: u32) -> Outcome<Option<Arc<HalfBlock>>> {
        let command = Command::Linked { owner: self.public_key(), sequence };
        Ok(self.blocks(command).await?.into_iter().next())
    }

    async fn blocks(&self, command: Command) -> Outcome<Vec<Arc<HalfBlock>>> {
        match self.ask(command).await? {
            Reply::Blocks(Ok(blocks)) => Ok(blocks),
            Reply::Blocks(Err(why)) => Err(Failure::failed("demo", why)),
            _ => Err(unexpected()),
        }
    }

    /// The whole own chain with the other halves.
    pub(crate) async fn books(&self) -> Outcome<Books> {
        let mut books = Books { own: self.chain(1).await?, ..Books::default() };
        for block in &books.own {
            if let Some(other) = self.linked(block.sequence).await? {
                books.linked.insert(block.sequence, other);
            }
        }
        Ok(books)
    }

    /// Bytes moved so far, in all lives.
    pub(crate) async fn moved(&self) -> Moved {
        let now = match (self.status().await, self.torrents().await) {
            (Ok(status), Ok(torrents)) => Some(Moved {
                sent: status.traffic.stream_out + status.traffic.datagram_out,
                payload: torrents.iter().map(|torrent| torrent.uploaded).sum(),
            }),
            // Between two lives the last look counts.
            _ => None,
        };
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = now {
            moved.1 = now;
        }
        Moved { sent: moved.0.sent + moved.1.sent, payload: moved.0.payload + moved.1.payload }
    }

    /// Kills the node, as if the power had failed.
    pub(crate) async fn kill(&self) {
        if let Some(node) = self.face.detach() {
            node.kill().await;
        }
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, last) = *moved;
        moved.0 = Moved { sent: before.sent + last.sent, payload: before.payload + last.payload };
        moved.1 = Moved::default();
    }

    /// Starts the node again with the same key, folder and ports.
    pub(crate) async fn start_again(&self, log: &EventLog) -> Outcome {
        let node = start_node(&self.dir.join("data"), self.face.listen, self.actor.role, false).await?;
        self.face.attach(node, log);
        Ok(())
    }
}

async fn start_node(data: &Path, listen: SocketAddrV4, role: Role, first: bool) -> Outcome<Arc<NodeHandle>> {
    let config = Config {
        listen,
        bootstrap: Vec::new(),
        stranger_bytes: STRANGER_BYTES,
        // The free-rider gives only after it was refused.
        allow_upload: role != Role::FreeRider || !first,
        relay: role.relays(),
        exit: role == Role::Exit,
        exit_loopback: true,
        lookup_s: LOOKUP_S,
        epoch_s: EPOCH_S,
        ..Config::default()
    };
    let host = HostConfig {
        data_dir: data.to_owned(),
        listen,
        node: node_config(&config),
        socks: Vec::new(),
        fresh_ledger: first,
        passphrase: None,
    };
    NodeHandle::start(host).await.map(Arc::new).map_err(|error| start_failure(&error))
}

fn unexpected() -> Failure {
    Failure::failed("demo", "a node gave another reply than it must")
}
