//! The course of a run: machines start, things go wrong, things heal, everything is finished, settled and checked.

use super::{Checked, Moment, World};
use crate::scenario::{Adversary, Fault, millis};
use crate::trace::Note;
use crate::tracker::ANNOUNCE;
use fairshare_economy::EconomyConfig;
use fairshare_node::{Command, Input, Node, NodeConfig, Reply, Route};
use fairshare_overlay::{Community, OverlayConfig};
use fairshare_swarm::{AddTorrent, Source, SwarmConfig};
use fairshare_wire::Instant;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Things may go wrong.
    Faulty,
    /// Nothing goes wrong any more; transfers must finish.
    Healed { since: Instant },
    /// All files are there; payments must be answered.
    Settling { since: Instant, asked: u32 },
    /// Everything was checked.
    Over,
}

/// How often somebody looks how far things are.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// After healing everything must be finished within this time.
const FINISH_WITHIN: Duration = Duration::from_secs(1_800);
/// Then everything must be paid and answered within this time: longer than the slowest resend of a proposal takes to
/// be tried again.
const SETTLE_WITHIN: Duration = Duration::from_secs(1_200);
/// How often everybody is asked to pay what is owed, one look apart.
const SETTLE_ROUNDS: u32 = 6;
/// Real bytes for a charged one at the lowest price.
const CHARGED_TO_REAL_MAX: u64 = 8;
/// What is carried between two machines and not charged: handshakes and announcements, and the parts of pieces that a
/// broken stream leaves behind.
const OVERHEAD_MAX: u64 = 768 << 10;
/// What may be under way to one peer: 4 MiB not acknowledged and 16 MiB not verified.
const UNDER_WAY_MAX: u64 = 20 << 20;
/// When a forker does what it came for.
const FORK_AFTER: Duration = Duration::from_secs(12);

impl World {
    /// Puts everything that is decided beforehand into the schedule.
    pub(super) fn set_out(&mut self) {
        for index in 0..self.machines.len() {
            let file = &self.plan.files[self.machines[index].made];
            let (metainfo, data) = (file.metainfo.clone(), file.data.clone());
            self.machines[index].disk.place(metainfo, data);
            if self.machines[index].breaks(Adversary::Poisoner) {
                self.machines[index].disk.damage_reads();
            }
            let at = Instant::START + millis(&mut self.rng, 0..=2_000);
            self.schedule.put(at, Moment::Boot(index));
            if self.machines[index].breaks(Adversary::Forker) {
                self.schedule.put(Instant::START + FORK_AFTER, Moment::Fork { machine: index });
            }
        }
        for (at, fault) in self.plan.faults.clone() {
            self.schedule.put(at, Moment::Fault(fault));
        }
        self.schedule.put(self.plan.healed, Moment::Heal);
        self.schedule.put(Instant::START + LOOK_INTERVAL, Moment::Look);
    }

    /// Switches a machine on: a node over what its disk holds.
    pub(super) fn boot(&mut self, machine: usize) -> Checked {
        if self.machines[machine].node.is_some() {
            return Ok(());
        }
        let config = self.config_of(machine);
        let seed = self.rng.bytes();
        let host = &mut self.machines[machine];
        self.watch.survived(machine, &host.public(), &host.acknowledged, &host.durable)?;
        let now = host.boot_time(self.now);
        let node = Node::new(config, host.key.clone(), host.durable.clone(), seed, now)
            .map_err(|error| format!("node {machine} does not start: {error}"))?;
        host.boot(self.now, node);
        self.note(machine, Note::Text(format!("starts, incarnation {}", self.machines[machine].incarnation)));
        self.serve(machine)?;
        self.introduce(machine)?;
        self.take_up_torrents(machine)
    }

    fn config_of(&self, machine: usize) -> NodeConfig {
        let host = &self.machines[machine];
        let SocketAddr::V4(lan) = host.address else { unreachable!("the virtual network is IPv4") };
        let communities = vec![Community::trustchain(), Community::ledger()];
        let is_friend = |other: &&crate::machine::Machine| self.plan.friends && other.is_honest();
        let friends = self.machines.iter().filter(is_friend).map(|other| other.public());
        NodeConfig {
            swarm: SwarmConfig {
                listen_port: lan.port(),
                allow_upload: !host.breaks(Adversary::FreeRider),
                ..SwarmConfig::default()
            },
            economy: EconomyConfig {
                friends: friends.collect(),
                stranger_bytes: self.plan.stranger_bytes,
                ..EconomyConfig::default()
            },
            ..NodeConfig::at(OverlayConfig { communities, ..OverlayConfig::at(lan) })
        }
    }

    /// Tells a node the overlay addresses of the next two.
    fn introduce(&mut self, machine: usize) -> Checked {
        for step in 1..=2 {
            let other = (machine + step) % self.machines.len();
            let address = self.machines[other].address;
            self.ask(machine, Command::AddPeer(address))?;
        }
        Ok(())
    }

    fn take_up_torrents(&mut self, machine: usize) -> Checked {
        let host = &self.machines[machine];
        let made = (host.made, true);
        let files: Vec<(usize, bool)> =
            std::iter::once(made).chain(host.wants.iter().map(|file| (*file, false))).collect();
        for (file, seed) in files {
            let torrent = AddTorrent {
                source: self.source_of(file, seed || !self.machines[machine].by_magnet),
                root: PathBuf::from("virtual"),
                seed,
                peers: Vec::new(),
            };
            if let Some(Reply::Added(Err(reason))) =
                self.ask(machine, Command::Add { torrent, route: Route::Clear })?
            {
                return Err(format!("node {machine} does not take up file {file}: {reason}"));
            }
        }
        Ok(())
    }

    fn source_of(&self, file: usize, complete: bool) -> Source {
        let metainfo = self.plan.files[file].metainfo.clone();
        if complete {
            return Source::Metainfo(metainfo);
        }
        let link = format!("magnet:?xt=urn:btih:{}&tr={ANNOUNCE}", metainfo.info_hash());
        Source::Magnet(link.parse().expect("a link of our own"))
    }

    /// Asks a node something; its answer, if it comes at once.
    pub(super) fn ask(&mut self, machine: usize, command: Command) -> Result<Option<Reply>, String> {
        self.commands += 1;
        let id = self.commands;
        self.give(machine, Input::Command(id, command))?;
        Ok(self.replies.remove(&id))
    }

    /// Something goes wrong.
    pub(super) fn strike(&mut self, fault: Fault) -> Checked {
        match fault {
            Fault::Crash { machine, down } => self.crash(machine, down),
            Fault::CrashAtSigning { machine, down } => self.machines[machine].crash_at_signing = Some(down),
            Fault::StoreFails { machine, span, restart } => {
                self.note(machine, Note::Text("the store takes nothing any more".to_owned()));
                self.machines[machine].store_fails = true;
                let end = if restart {
                    Fault::Crash { machine, down: Duration::from_millis(500) }
                } else {
                    Fault::StoreWorks { machine }
                };
                self.schedule.put(self.now + span, Moment::Fault(end));
            }
            Fault::StoreWorks { machine } => {
                self.note(machine, Note::Text("the store works again".to_owned()));
                self.machines[machine].store_fails = false;
            }
            Fault::Cut { between, span } => {
                self.note(between.0, Note::Text(format!("is cut off from node {} for {span:?}", between.1)));
                self.network.cut(between, self.now + span);
                self.break_streams_between(between);
            }
        }
        Ok(())
    }

    /// The machine stops between two instructions: whatever is not on the disk is gone.
    fn crash(&mut self, machine: usize, down: Duration) {
        if self.machines[machine].node.is_none() {
            return;
        }
        self.note(machine, Note::Text(format!("crashes, down for {down:?}")));
        self.watch.crashes += 1;
        self.break_streams_of(machine);
        let host = &mut self.machines[machine];
        host.node = None;
        host.incarnation += 1;
        host.journal = crate::journal::Journal::default();
        host.disk.crash(&mut self.rng);
        self.schedule.put(self.now + down, Moment::Boot(machine));
    }

    pub(super) fn heal(&mut self) -> Checked {
        self.network.heal();
        for host in &mut self.machines {
            host.crash_at_signing = None;
        }
        self.phase = Phase::Healed { since: self.now };
        Ok(())
    }

    /// Looks how far things are, and goes on to the next phase if this one is done.
    pub(super) fn look(&mut self) -> Checked {
        self.check_exposure()?;
        match self.phase {
            Phase::Faulty | Phase::Over => {}
            Phase::Healed { since } => self.look_for_files(since)?,
            Phase::Settling { since, asked } => self.look_for_payments(since, asked)?,
        }
        self.schedule.put(self.now + LOOK_INTERVAL, Moment::Look);
        Ok(())
    }

    /// Nobody owes an honest provider more than its window and what may be under way.
    //= spec/swarm.md#83-counts-and-exposure
    fn check_exposure(&mut self) -> Checked {
        for giver in 0..self.machines.len() {
            if !self.machines[giver].is_honest() || self.machines[giver].node.is_none() {
                continue;
            }
            let Some(Reply::Accounts(accounts)) = self.ask(giver, Command::Accounts)? else { continue };
            for account in accounts {
                let unpaid = account.verified.saturating_sub(account.paid_from);
                self.watch.owed(unpaid);
                if unpaid > account.window + UNDER_WAY_MAX {
                    return Err(format!(
                        "somebody owes node {giver} {unpaid} bytes, its window is {}",
                        account.window
                    ));
                }
            }
        }
        Ok(())
    }

    fn look_for_files(&mut self, since: Instant) -> Checked {
        let missing = self.missing_files();
        if missing.is_empty() {
            self.phase = Phase::Settling { since: self.now, asked: 0 };
        } else if self.now.since(since) > FINISH_WITHIN {
            return Err(format!(
                "not finished after {FINISH_WITHIN:?} without faults: {}",
                missing.join(", ")
            ));
        }
        Ok(())
    }

    fn missing_files(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (index, host) in self.machines.iter().enumerate().filter(|(_, host)| host.is_honest()) {
            for file in &host.wants {
                if host.disk.finished(&self.plan.files[*file].metainfo.info_hash()).is_none() {
                    missing.push(format!("file {file} at node {index}"));
                }
            }
        }
        missing
    }

    fn look_for_payments(&mut self, since: Instant, asked: u32) -> Checked {
        if asked < SETTLE_ROUNDS {
            for machine in 0..self.machines.len() {
                self.come_to_rest(machine)?;
                self.ask(machine, Command::SettleAll)?;
            }
            self.phase = Phase::Settling { since, asked: asked + 1 };
            return Ok(());
        }
        let open = self.open_matters();
        if open.is_empty() {
            self.check_all()?;
            self.phase = Phase::Over;
        } else if self.now.since(since) > SETTLE_WITHIN {
            return Err(format!("not settled after {SETTLE_WITHIN:?}: {}", open.join(", ")));
        }
        Ok(())
    }

    /// Adversaries stop: they never finish, and would take while accounts are compared.
    fn come_to_rest(&mut self, machine: usize) -> Checked {
        if self.machines[machine].is_honest() {
            return Ok(());
        }
        for file in self.machines[machine].wants.clone() {
            let torrent = self.plan.files[file].metainfo.info_hash();
            self.ask(machine, Command::Pause(torrent))?;
        }
        Ok(())
    }

    /// Payments that are not answered, batches that are not written, forks that are not known everywhere.
    fn open_matters(&self) -> Vec<String> {
        let mut open = Vec::new();
        for (index, host) in self.machines.iter().enumerate().filter(|(_, host)| host.signs_honestly()) {
            if !host.journal.is_idle() {
                open.push(format!("node {index} is writing"));
            }
            let unanswered = self.watch.unanswered(&host.public(), &host.durable);
            open.extend(unanswered.iter().map(|sequence| format!("block {sequence} of node {index}")));
            for forker in self.forked() {
                if !self.watch.is_proved(&forker, &host.durable) {
                    open.push(format!("node {index} does not know the fork"));
                }
            }
        }
        open
    }

    /// Everything that must hold in the end.
    fn check_all(&mut self) -> Checked {
        for index in 0..self.machines.len() {
            if self.machines[index].signs_honestly() {
                self.check_machine(index)?;
            }
        }
        self.check_free_riders()?;
        let honest: Vec<_> = self
            .machines
            .iter()
            .filter(|host| host.signs_honestly())
            .map(|host| (host.public(), &host.durable))
            .collect();
        let crashes = self.machines.iter().map(|host| (host.public(), u64::from(host.incarnation))).collect();
        self.watch.check_payments(&honest, &crashes)
    }

    /// Who never gives takes from each other machine what a stranger may take, and not more.
    //= spec/economy.md#53-verdict-grant-settlement
    fn check_free_riders(&self) -> Checked {
        let allowed = self.plan.stranger_bytes * CHARGED_TO_REAL_MAX + OVERHEAD_MAX;
        for taker in
            (0..self.machines.len()).filter(|index| self.machines[*index].breaks(Adversary::FreeRider))
        {
            for giver in 0..self.machines.len() {
                let carried = self.watch.carried_from(giver, taker);
                if carried > allowed {
                    return Err(format!(
                        "node {taker}, a free-rider, took {carried} bytes from node {giver}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_machine(&mut self, index: usize) -> Checked {
        let host = &self.machines[index];
        self.watch.survived(index, &host.public(), &host.acknowledged, &host.durable)?;
        for file in host.wants.iter().filter(|_| host.is_honest()) {
            let wanted = &self.plan.files[*file];
            if host.disk.finished(&wanted.metainfo.info_hash()) != Some(wanted.data.as_slice()) {
                return Err(format!("file {file} at node {index} is not what its author made"));
            }
            self.watch.files += 1;
        }
        let Some(Reply::Accounts(accounts)) = self.ask(index, Command::Accounts)? else {
            return Err(format!("node {index} does not tell its accounts"));
        };
        let key = self.machines[index].public();
        self.watch.accounts(key, accounts);
        let host = &self.machines[index];
        if host.is_honest() && host.incarnation == 0 {
            let wanted = host.wants.iter().map(|file| self.plan.files[*file].metainfo.total_len());
            self.watch.check_taken(&key, wanted.sum(), self.scenario.faults)?;
        }
        Ok(())
    }
}
