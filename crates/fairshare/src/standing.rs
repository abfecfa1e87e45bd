//! A node that stands on its own in this process: runtime, node, API. `run` keeps it until it is told to stop, one-shot
//! commands for as long as they need it.

use crate::api::{Api, Client, EventLog, Server};
use crate::config::{Config, Layered};
use crate::face::Face;
use crate::failure::{Exit, Failure, Outcome};
use crate::folder::{Folder, Temporary, write_whole};
use crate::process::Interrupt;
use crate::shelf::Shelf;
use fairshare_crypto::PublicKey;
use fairshare_economy::EconomyConfig;
use fairshare_economy::payouts::PayoutsConfig;
use fairshare_host::{HostConfig, IdentityForm, NodeHandle, Passphrase, StartError};
use fairshare_ledger::{BlockType, LedgerConfig};
use fairshare_node::{Command, Event, NodeConfig};
use fairshare_overlay::{OverlayConfig, community::Community};
use fairshare_swarm::{SwarmConfig, SwarmEvent};
use fairshare_tunnel::TunnelConfig;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;

/// What is left running after the node's own orderly end is not waited for.
const RUNTIME_END: Duration = Duration::from_millis(200);

/// What a node is started with.
pub(crate) struct Setup {
    /// Its data folder; `None` = one that goes with the process.
    pub(crate) data: Option<PathBuf>,
    /// Its settings.
    pub(crate) layered: Layered,
    /// Overlay addresses to begin with.
    pub(crate) peers: Vec<SocketAddr>,
    /// What its identity file is encrypted with.
    pub(crate) passphrase: Option<Passphrase>,
}

/// A running node with its API.
pub(crate) struct Standing {
    runtime: Runtime,
    node: Arc<NodeHandle>,
    folder: Folder,
    /// Where the API listens.
    pub(crate) api: SocketAddr,
    /// The address of the page, with the secret.
    pub(crate) entry: String,
    token: String,
    broken: Arc<AtomicBool>,
    _temporary: Option<Temporary>,
}

/// The SOCKS5 servers for 1, 2 and 3 hops, at neighbouring ports of loopback.
fn socks_servers(first: u16) -> Vec<(SocketAddrV4, u8)> {
    let at = |hops: u8| Some((first.checked_add(u16::from(hops) - 1)?, hops));
    let servers = (1..=3).filter_map(at);
    servers.map(|(port, hops)| (SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), hops)).collect()
}

impl Standing {
    /// Starts node and API. On failure nothing that existed is changed.
    pub(crate) fn start(setup: Setup) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed("runtime", format!("cannot start threads: {error}")))?;
        let temporary = if setup.data.is_none() { Some(Temporary::new("node")?) } else { None };
        let path = setup.data.or_else(|| temporary.as_ref().map(|temporary| temporary.path().to_owned()));
        let folder = Folder::at(path.expect("one of the two is there"));
        let token = token()?;
        let config = &setup.layered.config;
        let server = runtime.block_on(Server::bind(config.api, &token))?;
        let (api, entry) = (server.address, server.entry());
        let host = HostConfig {
            data_dir: folder.path().to_owned(),
            listen: config.listen,
            node: node_config(config),
            socks: config.socks_port.map(socks_servers).unwrap_or_default(),
            fresh_ledger: false,
            passphrase: setup.passphrase,
        };
        let node =
            runtime.block_on(NodeHandle::start(host)).map(Arc::new).map_err(|error| start_failure(&error))?;
        let standing =
            Self { runtime, node, folder, api, entry, token, broken: Arc::default(), _temporary: temporary };
        match standing.open(server, &setup.layered, &setup.peers) {
            Ok(()) => Ok(standing),
            Err(failure) => {
                standing.stop();
                Err(failure)
            }
        }
    }

    /// What comes after the node itself: torrents of earlier runs, named peers, the API.
    fn open(&self, server: Server, layered: &Layered, peers: &[SocketAddr]) -> Outcome {
        self.folder.create()?;
        let shelf = Shelf::new(Some(self.folder.torrents()));
        let (torrents, broken) = shelf.load()?;
        broken.iter().for_each(|line| eprintln!("a torrent of an earlier run is left out: {line}"));
        let log = EventLog::new();
        let _inside = self.runtime.enter();
        let face = Face::new("", "", self.node.clone(), shelf, &log);
        let api = Arc::new(Api {
            title: "node".to_owned(),
            faces: vec![face.clone()],
            log,
            downloads: self.folder.downloads(),
            config: layered.to_json(),
        });
        self.runtime.spawn(keep_descriptions(face.clone()));
        self.runtime.block_on(async {
            let commands = torrents.into_iter().map(|(torrent, route)| Command::Add { torrent, route });
            for command in commands.chain(peers.iter().copied().map(Command::AddPeer)) {
                // A node that stopped already is noticed by whoever waits for it.
                let _ = face.ask(command).await;
            }
        });
        server.serve(api);
        write_whole(&self.folder.token(), self.token.as_bytes(), 0o600)?;
        self.folder.announce_api(self.api)
    }

    /// The API as a client sees it.
    pub(crate) fn client(&self) -> Client {
        Client::at(self.api, &self.token)
    }

    /// Where the node listens.
    pub(crate) fn listen(&self) -> SocketAddrV4 {
        self.node.address()
    }

    /// The node's identity.
    pub(crate) fn public_key(&self) -> PublicKey {
        self.node.public_key()
    }

    /// How its identity lies on the disk.
    pub(crate) fn identity_form(&self) -> IdentityForm {
        self.node.identity_form()
    }

    /// The file that holds the API's secret, as a program that works in another folder finds it.
    pub(crate) fn token_file(&self) -> PathBuf {
        let file = self.folder.token();
        std::path::absolute(&file).unwrap_or(file)
    }

    /// Tells `interrupt` when the node stops by itself: an invariant is broken then, and the program must end.
    pub(crate) fn watch(&self, interrupt: &Interrupt) {
        let (node, broken, interrupt) = (self.node.clone(), self.broken.clone(), interrupt.clone());
        self.runtime.spawn(async move {
            node.stopped().await;
            broken.store(true, Ordering::Release);
            interrupt.tell();
        });
    }

    /// Settles, saves and ends.
    pub(crate) fn stop(self) {
        self.folder.withdraw_api();
        self.runtime.block_on(self.node.shutdown());
        self.runtime.shutdown_timeout(RUNTIME_END);
    }

    /// Ends after a call of [`watch`](Self::watch): orderly, or with the failure that the node stopped by itself.
    pub(crate) fn end(self) -> Outcome {
        if self.broken.load(Ordering::Acquire) {
            self.folder.withdraw_api();
            return Err(Failure::failed("stopped", "the node stopped by itself: an invariant was broken")
                .hint("start it again: what was acknowledged is on disk"));
        }
        self.stop();
        Ok(())
    }
}

/// The description of a torrent that was added by link is kept as soon as it is there.
async fn keep_descriptions(face: Arc<Face>) {
    let Some(node) = face.node() else { return };
    let mut events = node.events();
    drop(node);
    while let Some(event) = events.next().await {
        if let Event::Swarm(SwarmEvent::MetadataReady(_, metainfo)) = event
            && let Err(failure) = face.shelf.describe(&metainfo)
        {
            eprintln!("the description of {} is not kept: {}", metainfo.name(), failure.what);
        }
    }
}

/// The node's part of the settings.
pub(crate) fn node_config(config: &Config) -> NodeConfig {
    let mut overlay = OverlayConfig::at(config.listen);
    overlay.communities = vec![Community::trustchain(), Community::ledger()];
    overlay.bootstrap.clone_from(&config.bootstrap);
    NodeConfig {
        ledger: LedgerConfig {
            countersign: config.countersign.iter().map(|kind| BlockType::from(kind.as_str())).collect(),
        },
        swarm: SwarmConfig {
            allow_upload: config.allow_upload,
            slots: config.slots,
            ..SwarmConfig::default()
        },
        economy: EconomyConfig {
            policy: config.policy,
            friends: config.friends.clone(),
            stranger_bytes: config.stranger_bytes,
            ..EconomyConfig::default()
        },
        tunnel: tunnel_config(config),
        payouts: PayoutsConfig::with_epoch(config.epoch_s),
        reputation: config.engine,
        utp_only: config.utp_only,
        ..NodeConfig::at(overlay)
    }
}

fn tunnel_config(config: &Config) -> TunnelConfig {
    TunnelConfig {
        // An exit without relaying would answer nobody.
        relay: config.relay || config.exit,
        exit_bt: config.exit,
        exit_http: config.exit,
        allow_same_subnet: config.allow_same_subnet,
        exit_loopback: config.exit_loopback,
        lookup: Duration::from_secs(config.lookup_s),
        // What is carried is reported often enough for an epoch to see it.
        metering: Duration::from_secs(config.epoch_s.div_ceil(4).min(60)),
        ..TunnelConfig::default()
    }
}

/// A fresh secret for the API.
pub(crate) fn token() -> Outcome<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::failed("entropy", format!("the system gives no random bytes: {error}")))?;
    Ok(hex::encode(bytes))
}

/// Why a node did not start, for people.
pub(crate) fn start_failure(error: &StartError) -> Failure {
    let (exit, code) = match error {
        StartError::PortInUse { .. } => (Exit::Failed, "port-in-use"),
        StartError::WrongKeyFile { .. } => (Exit::Failed, "wrong-key-file"),
        StartError::WrongPassphrase { .. } => (Exit::Failed, "wrong-passphrase"),
        StartError::PassphraseMissing { .. } => (Exit::Failed, "passphrase-missing"),
        StartError::Locked { .. } => (Exit::Failed, "locked"),
        StartError::Listen { .. } => (Exit::BadUse, "listen"),
        _ => (Exit::Failed, "start"),
    };
    Failure::new(exit, code, error.to_string()).hint(error.hint())
}
