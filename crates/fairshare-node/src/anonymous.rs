//! Torrents that travel through circuits only. Each has an engine, a uTP port and a group of circuits of its own, so
//! that nothing of one torrent meets another's, nor the node's identity.
//= spec/swarm.md#13-anonymous-torrents

use crate::circuits::Owner;
use crate::contract::{Event, Output};
use crate::node::{Asking, Node};
use fairshare_ledger::ChainStore;
use fairshare_swarm::utp::{Utp, UtpConfig, UtpOutput};
use fairshare_swarm::{
    AddTorrent, Anonymity, Completion, InfoHash, Request, Source, Swarm, SwarmConfig, SwarmEvent, SwarmOutput,
};
use fairshare_tunnel::{Flags, GroupId, GroupSpec};
use fairshare_wire::{Address, Instant, Now};
use std::net::SocketAddr;

/// How a torrent's traffic goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// Straight, under the node's own address and identity.
    #[default]
    Clear,
    /// Through circuits of so many hops, to ordinary peers beyond an exit.
    Exit {
        /// Relays on the way, the exit included.
        hops: u8,
    },
    /// Through circuits from end to end: neither side learns the other's address.
    Hidden {
        /// Relays on this side, apart from the one where both sides meet.
        hops: u8,
    },
}

impl Route {
    /// Relays on this side; 0 = none.
    pub const fn hops(self) -> u8 {
        match self {
            Self::Clear => 0,
            Self::Exit { hops } | Self::Hidden { hops } => hops,
        }
    }
}

/// Circuits kept ready for one torrent: one to use and one to move to when a hop falls silent.
//= spec/tunnels.md#12-what-we-do-better
const CIRCUITS_PER_TORRENT: usize = 2;
/// Payload of one uTP packet, so that a cell of four layers stays below what every path carries whole.
//= spec/tunnels.md#2-cell
const CIRCUIT_PAYLOAD: usize = 1_280;

/// One anonymous torrent.
pub(crate) struct Anonymous {
    /// Its engine; it knows this torrent and no other.
    pub(crate) swarm: Swarm,
    /// All its streams.
    utp: Utp,
    /// Its circuits.
    group: GroupId,
    /// How it travels.
    pub(crate) route: Route,
}

impl Anonymous {
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        [self.swarm.next_timeout(), self.utp.next_timeout()].into_iter().flatten().min()
    }
}

impl<S: ChainStore> Node<S> {
    /// Takes up a torrent on the given way.
    pub(crate) fn add_torrent(
        &mut self,
        now: Now,
        torrent: AddTorrent,
        route: Route,
    ) -> Result<InfoHash, String> {
        let hash = match &torrent.source {
            Source::Metainfo(metainfo) => metainfo.info_hash(),
            Source::Magnet(magnet) => magnet.info_hash,
        };
        if self.anonymous.contains_key(&hash) {
            return Err(format!("torrent {hash} was added before, to travel through circuits"));
        }
        if route == Route::Clear {
            return self.swarm.add(now, torrent).map_err(|error| error.to_string());
        }
        if !(1..=3).contains(&route.hops()) {
            return Err("circuits have 1 to 3 hops".to_owned());
        }
        // Who takes the same torrent both ways shows what the circuits were to hide.
        if self.swarm.status(&hash).is_some() {
            return Err(format!("torrent {hash} is here already, in the clear; remove it first"));
        }
        self.add_anonymous(now, hash, torrent, route)
    }

    fn add_anonymous(
        &mut self,
        now: Now,
        hash: InfoHash,
        torrent: AddTorrent,
        route: Route,
    ) -> Result<InfoHash, String> {
        let seed = torrent.seed;
        let rng = self.rng.fork(&format!("anonymous {hash} {}", self.next_group));
        let mut swarm = Swarm::new(self.anonymous_config(route), rng.fork("swarm"), now);
        swarm.hold(now, true);
        swarm.add(now, torrent).map_err(|error| error.to_string())?;
        let group = self.new_group(Owner::Torrent(hash));
        let one = Anonymous {
            swarm,
            utp: Utp::new(UtpConfig::circuit(CIRCUIT_PAYLOAD), rng.fork("utp"), now),
            group,
            route,
        };
        self.anonymous.insert(hash, one);
        match route {
            Route::Hidden { hops } if seed => self.tunnel.seed_hidden(now, group, hash.0, hops),
            Route::Hidden { hops } => self.tunnel.join_hidden(now, group, hash.0, hops),
            Route::Exit { .. } | Route::Clear => {
                let spec = GroupSpec {
                    hops: route.hops(),
                    path: None,
                    need: Flags::EXIT_BT,
                    circuits: CIRCUITS_PER_TORRENT,
                };
                self.tunnel.open_group(now, group, spec);
            }
        }
        Ok(hash)
    }

    fn anonymous_config(&self, route: Route) -> SwarmConfig {
        let anonymity = match route {
            Route::Hidden { .. } => Anonymity::Hidden,
            Route::Exit { .. } | Route::Clear => Anonymity::Exit,
        };
        SwarmConfig {
            identity: None,
            anonymity,
            listen_port: 0,
            allow_upload: self.uploading,
            ..self.swarm_config.clone()
        }
    }

    /// Forgets an anonymous torrent and closes its circuits; `false` if it is none.
    pub(crate) fn remove_anonymous(&mut self, now: Now, hash: &InfoHash, delete_data: bool) -> bool {
        let Some(one) = self.anonymous.get_mut(hash) else { return false };
        // It is known: it was added with this engine.
        let _ = one.swarm.remove(now, hash, delete_data);
        let group = one.group;
        self.pump_anonymous(now);
        self.anonymous.remove(hash);
        self.close_group(now, group);
        true
    }

    /// Whether some anonymous engine had something to say.
    pub(crate) fn pump_anonymous(&mut self, now: Now) -> bool {
        let hashes: Vec<InfoHash> = self.anonymous.keys().copied().collect();
        let mut moved = false;
        for hash in hashes {
            moved |= self.pump_one(now, &hash);
        }
        moved
    }

    fn pump_one(&mut self, now: Now, hash: &InfoHash) -> bool {
        let mut moved = false;
        loop {
            let Some(one) = self.anonymous.get_mut(hash) else { return moved };
            if let Some(output) = one.swarm.poll() {
                self.on_anonymous_swarm(now, hash, output);
            } else if let Some(output) = one.utp.poll() {
                self.on_anonymous_utp(now, hash, output);
            } else {
                return moved;
            }
            moved = true;
        }
    }

    fn on_anonymous_swarm(&mut self, now: Now, hash: &InfoHash, output: SwarmOutput) {
        let Some(one) = self.anonymous.get_mut(hash) else { return };
        match output {
            SwarmOutput::Connect(id, to) => one.utp.connect(now, id, to),
            SwarmOutput::Write(id, bytes) => one.utp.write(now, id, bytes),
            SwarmOutput::Close(id) => one.utp.close(now, id),
            SwarmOutput::TrackerSend { to, bytes, .. } => self.tunnel.send(now, one.group, &to, &bytes),
            SwarmOutput::Request { ticket, request: Request::HttpGet { .. } } => {
                let why = "an anonymous torrent asks trackers over UDP only".to_owned();
                one.swarm.completed(now, ticket, Completion::Page(Err(why)));
            }
            SwarmOutput::Request { ticket, request } => {
                let ticket = self.asking.issue(Asking::Anonymous(*hash, ticket));
                self.push(Output::Request(ticket, request));
            }
            SwarmOutput::Event(event) => {
                if let SwarmEvent::Finished(_) = event {
                    self.serve_hidden(now, hash);
                }
                self.event(Event::Swarm(event));
            }
        }
    }

    /// Who has everything of a hidden torrent serves it like those it came from.
    fn serve_hidden(&mut self, now: Now, hash: &InfoHash) {
        if let Some(one) = self.anonymous.get(hash)
            && let Route::Hidden { hops } = one.route
        {
            self.tunnel.seed_hidden(now, one.group, hash.0, hops);
        }
    }

    fn on_anonymous_utp(&mut self, now: Now, hash: &InfoHash, output: UtpOutput) {
        let Some(one) = self.anonymous.get_mut(hash) else { return };
        match output {
            UtpOutput::Transmit(to, bytes) => self.tunnel.send(now, one.group, &Address::Ip(to), &bytes),
            UtpOutput::Connected(id) => one.swarm.stream_connected(now, id),
            UtpOutput::Accepted(id, from) => one.swarm.stream_incoming(now, id, from),
            UtpOutput::Data(id, bytes) => one.swarm.stream_data(now, id, bytes),
            UtpOutput::Drained(id, bytes) => one.swarm.stream_drained(now, id, bytes),
            UtpOutput::Closed(id) => one.swarm.stream_closed(now, id),
        }
    }

    /// A datagram came out of a circuit of this torrent.
    pub(crate) fn anonymous_datagram(&mut self, now: Now, hash: &InfoHash, origin: &Address, data: &[u8]) {
        let Some(one) = self.anonymous.get_mut(hash) else { return };
        match origin {
            Address::Ip(from) if Utp::is_utp(data) => one.utp.handle_datagram(now, *from, data),
            _ if one.swarm.tracker_datagram(now, origin, data) => {}
            _ => self.refused("datagram out of a circuit that nobody waits for"),
        }
    }

    /// Its first circuit stands: now it may look for peers.
    pub(crate) fn anonymous_ready(&mut self, now: Now, hash: &InfoHash) {
        if let Some(one) = self.anonymous.get_mut(hash) {
            one.swarm.hold(now, false);
        }
    }

    /// A peer of a hidden torrent is at the other end of a circuit.
    pub(crate) fn hidden_peer(&mut self, now: Now, hash: &InfoHash, address: SocketAddr) {
        if let Some(one) = self.anonymous.get_mut(hash) {
            // It is known: it was added with this engine.
            let _ = one.swarm.add_peers(now, hash, &[address]);
        }
    }

    pub(crate) fn anonymous_unreachable(&mut self, now: Now, hash: &InfoHash, address: SocketAddr) {
        if let Some(one) = self.anonymous.get_mut(hash) {
            one.utp.unreachable(now, address);
        }
    }

    /// An answer of the outside to an anonymous engine.
    pub(crate) fn anonymous_completed(
        &mut self,
        now: Now,
        hash: &InfoHash,
        ticket: u64,
        completion: Completion,
    ) {
        if let Some(one) = self.anonymous.get_mut(hash) {
            one.swarm.completed(now, ticket, completion);
        }
    }

    pub(crate) fn anonymous_timeout(&mut self, now: Now) {
        for one in self.anonymous.values_mut() {
            one.swarm.handle_timeout(now);
            one.utp.handle_timeout(now);
        }
    }
}
