//! What people and programs in front of the node can ask of it.

use crate::anonymous::Route;
use crate::circuits::Owner;
use crate::contract::{Command, NodeStatus, Relaying, Reply};
use crate::node::Node;
use fairshare_crypto::PublicKey;
use fairshare_ledger::bandwidth::Bandwidth;
use fairshare_ledger::{BlockType, ChainStore, HalfBlock, StoreError};
use fairshare_swarm::{ConnectionStatus, InfoHash, Swarm, TorrentStatus};
use fairshare_tunnel::GroupId;
use fairshare_wire::Now;
use std::sync::Arc;

/// Blocks in one reply at the most: a page of the explorer, and less than 1 MiB of ordinary blocks.
const BLOCKS_PER_REPLY: usize = 1_000;

impl<S: ChainStore> Node<S> {
    /// What changes something. One line for each command: it reads better whole.
    pub(crate) fn command(&mut self, now: Now, id: u64, command: Command) {
        let reply = match command {
            Command::Add { torrent, route } => Reply::Added(self.add_torrent(now, torrent, route)),
            Command::Pause(torrent) => {
                self.economy.settle_all(now);
                done(self.swarm_of(&torrent).pause(now, &torrent))
            }
            Command::Resume(torrent) => done(self.swarm_of(&torrent).resume(now, &torrent)),
            Command::Remove { torrent, delete_data } => {
                self.economy.settle_all(now);
                if self.remove_anonymous(now, &torrent, delete_data) {
                    Reply::Done(Ok(()))
                } else {
                    done(self.swarm.remove(now, &torrent, delete_data))
                }
            }
            Command::AddTorrentPeers(torrent, peers) => {
                done(self.swarm_of(&torrent).add_peers(now, &torrent, &peers))
            }
            Command::AddPeer(address) => {
                self.overlay.add_address(now, address);
                self.relays.add_address(now, address);
                Reply::Done(Ok(()))
            }
            Command::SetUpload(allowed) => {
                self.uploading = allowed;
                self.swarm.set_upload(now, allowed);
                for one in self.anonymous.values_mut() {
                    one.swarm.set_upload(now, allowed);
                }
                Reply::Done(Ok(()))
            }
            Command::SetRelay { relay, exit } => {
                self.tunnel.set_relay(relay, exit);
                self.announce_flags();
                Reply::Done(Ok(()))
            }
            Command::OpenCircuits(spec) => {
                let group = self.new_group(Owner::Command);
                self.tunnel.open_group(now, group, spec);
                Reply::Group(group)
            }
            Command::CloseCircuits(group) => Reply::Done(self.close_commanded(now, group)),
            Command::CloseCircuit(circuit) => {
                let known = self.tunnel.close_circuit(now, circuit);
                Reply::Done(if known { Ok(()) } else { Err("no such circuit".to_owned()) })
            }
            // Answered when the test is over.
            Command::TestCircuits(group, bytes) => return self.tunnel.speed_test(now, id, group, bytes),
            Command::HttpThroughExit { hops, target, request } => {
                return self.fetch_page(now, id, hops, target, request);
            }
            Command::SettleAll => {
                self.economy.settle_all(now);
                Reply::Done(Ok(()))
            }
            Command::LeaveCircuits => {
                self.tunnel.shut_down(now);
                Reply::Done(Ok(()))
            }
            Command::Propose { to, kind, transaction } => {
                match self.ledger.propose(now, to, kind, transaction, Vec::new()) {
                    // Answered when the block is on disk.
                    Ok(block) => return self.wait_for_signature(id, &block),
                    Err(error) => Reply::Proposed(Err(error.to_string())),
                }
            }
            query => self.query(now, query),
        };
        self.reply(id, reply);
    }

    fn query(&self, now: Now, query: Command) -> Reply {
        match query {
            Command::Torrents => Reply::Torrents(self.torrents()),
            Command::Connections => Reply::Connections(self.connections()),
            Command::Circuits => Reply::Circuits(self.tunnel.circuits(now)),
            Command::Relaying => Reply::Relaying(Box::new(Relaying {
                tunnel_key: self.tunnel.public_key(),
                flags: self.tunnel.flags(),
                candidates: self.tunnel.candidates(),
                joined: self.tunnel.joined(now),
            })),
            Command::Payouts => Reply::Payouts(self.payouts.views(now)),
            Command::Reputations(count) => Reply::Reputations(self.standing.top(count)),
            Command::Explain(key) => Reply::Reason(Box::new(self.standing.reason(&key))),
            Command::Accounts => Reply::Accounts(self.economy.accounts(now)),
            Command::Peers => Reply::Peers(self.overlay.peers()),
            Command::Chain { owner, from, to } => {
                blocks(self.ledger.store().range(&owner, from, to, BLOCKS_PER_REPLY))
            }
            Command::RecentBlocks(count) => blocks(self.ledger.store().recent(count.min(BLOCKS_PER_REPLY))),
            Command::Linked { owner, sequence } => blocks(self.linked(&owner, sequence)),
            Command::VerifyChain(owner) => {
                Reply::Verified(self.ledger.verify_chain(&owner).map_err(|error| error.to_string()))
            }
            Command::Proofs => Reply::Proofs(self.ledger.proofs()),
            _ => Reply::Status(Box::new(self.status())),
        }
    }

    /// The engine that has a torrent; the one in the clear for those that nobody has.
    fn swarm_of(&mut self, torrent: &InfoHash) -> &mut Swarm {
        match self.anonymous.get_mut(torrent) {
            Some(one) => &mut one.swarm,
            None => &mut self.swarm,
        }
    }

    fn close_commanded(&mut self, now: Now, group: GroupId) -> Result<(), String> {
        if self.groups.get(&group) != Some(&Owner::Command) {
            return Err("no circuits were opened under this number".to_owned());
        }
        self.close_group(now, group);
        Ok(())
    }

    fn torrents(&self) -> Vec<(TorrentStatus, Route)> {
        let clear = self.swarm.torrents().into_iter().map(|one| (one, Route::Clear));
        let hidden = self
            .anonymous
            .values()
            .flat_map(|one| one.swarm.torrents().into_iter().map(move |status| (status, one.route)));
        clear.chain(hidden).collect()
    }

    fn connections(&self) -> Vec<ConnectionStatus> {
        let anonymous = self.anonymous.values().flat_map(|one| one.swarm.connections());
        self.swarm.connections().into_iter().chain(anonymous).collect()
    }

    fn linked(&self, owner: &PublicKey, sequence: u32) -> Result<Vec<Arc<HalfBlock>>, StoreError> {
        let store = self.ledger.store();
        let Some(block) = store.get(owner, sequence)? else { return Ok(Vec::new()) };
        if !block.is_proposal() || block.is_source() {
            return Ok(store.linked(&block)?.into_iter().collect());
        }
        // Anybody may link to it; only the one who was asked answers it.
        let answers = store.links_to(owner, sequence)?;
        Ok(answers.into_iter().filter(|answer| answer.owner == block.link_owner).take(1).collect())
    }

    /// Bytes given and taken by the newest own bandwidth block.
    fn bandwidth_totals(&self) -> (u64, u64) {
        let newest = self.ledger.store().newest_of_kind(&self.key, &BlockType::BANDWIDTH, None);
        let transaction = newest.ok().flatten().and_then(|block| Bandwidth::of(&block).ok());
        transaction.map_or((0, 0), |bandwidth| (bandwidth.total_up, bandwidth.total_down))
    }

    fn status(&self) -> NodeStatus {
        let (total_up, total_down) = self.bandwidth_totals();
        let mut refusals = self.overlay.refusals().clone();
        let others =
            self.relays.refusals().iter().chain(self.tunnel.refusals()).chain(self.payouts.refusals());
        for (reason, count) in others.chain(&self.refusals) {
            *refusals.entry(reason).or_default() += count;
        }
        NodeStatus {
            public_key: self.key,
            tunnel_key: self.tunnel.public_key(),
            chain_length: self.ledger.own_length(),
            total_up,
            total_down,
            stored_blocks: self.ledger.store().block_count().unwrap_or_default(),
            peers: self.overlay.peers().len(),
            connections: self.connections().len(),
            uploading: self.uploading,
            stalled: self.stalled.clone(),
            price: self.economy.price(),
            refusals,
            traffic: self.traffic,
        }
    }
}

fn done<E: std::fmt::Display>(result: Result<(), E>) -> Reply {
    Reply::Done(result.map_err(|error| error.to_string()))
}

fn blocks(found: Result<Vec<Arc<HalfBlock>>, StoreError>) -> Reply {
    Reply::Blocks(found.map_err(|error| error.to_string()))
}
