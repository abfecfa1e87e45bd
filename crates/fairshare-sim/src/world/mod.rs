//! The world: machines, network and time, and the loop that moves it on.

mod adversary;
mod hosting;
mod network;
mod phases;
mod streams;

pub(crate) use streams::LinkId;

use crate::check::Watch;
use crate::digest::Digest;
use crate::machine::Machine;
use crate::scenario::{Bug, Fault, Plan, Scenario, wide};
use crate::schedule::Schedule;
use crate::trace::{Note, Trace};
use crate::tracker::Tracker;
use crate::{Failure, Report};
use bytes::Bytes;
use fairshare_crypto::Rng;
use fairshare_node::{Input, Node, Reply};
use fairshare_swarm::Request;
use fairshare_wire::Instant;
use network::Network;
use phases::Phase;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use streams::{Happening, Link, Side};

/// Nothing, or the promise that was broken.
pub(crate) type Checked = Result<(), String>;

/// Something that will happen.
#[derive(Debug)]
enum Moment {
    /// A node wanted to be woken.
    Wake { machine: usize, incarnation: u32 },
    /// A datagram arrives.
    Datagram { from: SocketAddr, machine: usize, bytes: Bytes },
    /// A stream moves on.
    Stream(LinkId, Side, Happening),
    /// The store of a machine begins to write what waits.
    Flush { machine: usize, incarnation: u32 },
    /// The group that is being written is on the disk.
    Committed { machine: usize, incarnation: u32 },
    /// The node hears that batches are on the disk.
    Persisted {
        machine: usize,
        incarnation: u32,
        tickets: Vec<u64>,
        own: Vec<(u32, fairshare_ledger::BlockHash)>,
    },
    /// A disk or the tracker has done what was asked.
    Done { machine: usize, incarnation: u32, ticket: u64, request: Box<Request> },
    /// Something goes wrong.
    Fault(Fault),
    /// A machine is switched on.
    Boot(usize),
    /// A forker does what it came for.
    Fork { machine: usize },
    /// From now on nothing goes wrong.
    Heal,
    /// Somebody looks how far things are.
    Look,
}

/// Wakings at one moment after which a node counts as stuck.
const WAKES_AT_ONCE_MAX: u32 = 1_000;

/// The whole world.
pub(crate) struct World {
    scenario: Scenario,
    plan: Plan,
    seed: u64,
    now: Instant,
    rng: Rng,
    schedule: Schedule<Moment>,
    machines: Vec<Machine>,
    links: Vec<Link>,
    network: Network,
    tracker: Tracker,
    watch: Watch,
    digest: Digest,
    trace: Trace,
    phase: Phase,
    commands: u64,
    replies: BTreeMap<u64, Reply>,
    /// How often which machine was woken at this very moment.
    spins: (Instant, u32),
}

impl World {
    pub(crate) fn new(seed: u64, scenario: Scenario) -> Self {
        let plan = Plan::draw(seed, &scenario);
        let rng = Rng::from_seed(wide(seed));
        let machines: Vec<Machine> = plan.machines.iter().map(Machine::new).collect();
        let network = Network::new(rng.fork("network"), machines.len(), scenario.faults);
        let honest = machines.iter().map(|machine| (machine.public(), machine.signs_honestly()));
        let mut world = Self {
            watch: Watch::new(honest, scenario.watch_order),
            rng: rng.fork("world"),
            schedule: Schedule::new(),
            links: Vec::new(),
            tracker: Tracker::default(),
            digest: Digest::default(),
            trace: Trace::new(scenario.events_kept),
            phase: Phase::Faulty,
            commands: 0,
            replies: BTreeMap::new(),
            spins: (Instant::START, 0),
            now: Instant::START,
            scenario,
            plan,
            seed,
            machines,
            network,
        };
        world.set_out();
        world
    }

    /// Runs until everything is done and checked, or a promise is broken.
    pub(crate) fn run(mut self) -> Result<Report, Failure> {
        match self.pass() {
            Ok(()) => Ok(self.watch.report(self.seed, self.now, self.digest.finish())),
            Err(message) => Err(Failure { seed: self.seed, message, events: self.trace.lines() }),
        }
    }

    fn pass(&mut self) -> Checked {
        while self.phase != Phase::Over {
            let Some((at, moment)) = self.schedule.next() else {
                return Err("nothing will ever happen again".to_owned());
            };
            self.now = self.now.max(at);
            self.come_to_pass(moment)?;
        }
        Ok(())
    }

    fn come_to_pass(&mut self, moment: Moment) -> Checked {
        match moment {
            Moment::Wake { machine, incarnation } => self.wake(machine, incarnation),
            Moment::Datagram { from, machine, bytes } => self.give(machine, Input::Datagram(from, &bytes)),
            Moment::Stream(id, side, what) => self.happens(id, side, what),
            Moment::Flush { machine, incarnation } => self.flush(machine, incarnation),
            Moment::Committed { machine, incarnation } => self.committed(machine, incarnation),
            Moment::Persisted { machine, incarnation, tickets, own } => {
                self.persisted(machine, incarnation, tickets, own)
            }
            Moment::Done { machine, incarnation, ticket, request } => {
                self.done(machine, incarnation, ticket, &request)
            }
            Moment::Fault(fault) => self.strike(fault),
            Moment::Boot(machine) => self.boot(machine),
            Moment::Fork { machine } => self.fork(machine),
            Moment::Heal => self.heal(),
            Moment::Look => self.look(),
        }
    }

    /// Gives a node something and does what it wants done.
    fn give(&mut self, machine: usize, input: Input<'_>) -> Checked {
        let host = &mut self.machines[machine];
        let now = host.now(self.now);
        let Some(node) = &mut host.node else { return Ok(()) };
        node.handle(now, input);
        self.serve(machine)
    }

    /// Does what a node wants done.
    fn serve(&mut self, machine: usize) -> Checked {
        while let Some(output) = self.machines[machine].node.as_mut().and_then(Node::poll) {
            self.digest.output(self.now, machine, &output);
            self.carry_out(machine, output)?;
        }
        self.set_alarm(machine);
        Ok(())
    }

    /// Puts the next waking of a node into the schedule, if none as early is there.
    fn set_alarm(&mut self, machine: usize) {
        let host = &mut self.machines[machine];
        let Some(due) = host.node.as_ref().and_then(Node::next_timeout) else { return };
        let at = host.world_time(due).max(self.now);
        if host.wake.is_none_or(|wake| at < wake) {
            host.wake = Some(at);
            self.schedule.put(at, Moment::Wake { machine, incarnation: host.incarnation });
        }
    }

    fn wake(&mut self, machine: usize, incarnation: u32) -> Checked {
        let host = &mut self.machines[machine];
        if host.incarnation != incarnation || host.wake != Some(self.now) {
            return Ok(());
        }
        host.wake = None;
        self.spins = if self.spins.0 == self.now { (self.now, self.spins.1 + 1) } else { (self.now, 0) };
        if self.spins.1 > WAKES_AT_ONCE_MAX {
            return Err(format!("node {machine} wants to be woken again and again at one moment"));
        }
        self.give(machine, Input::Timeout)
    }

    fn in_faulty_time(&self) -> bool {
        self.phase == Phase::Faulty && self.scenario.faults
    }

    fn has_bug(&self, bug: Bug) -> bool {
        self.scenario.bug == Some(bug)
    }

    fn note(&mut self, machine: usize, note: Note) {
        self.trace.note(self.now, machine, note);
    }

    fn soon(&mut self, micros_max: u64) -> Instant {
        self.now + Duration::from_micros(1 + self.rng.below(micros_max))
    }
}
