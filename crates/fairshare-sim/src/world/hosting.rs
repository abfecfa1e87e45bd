//! What a host does for its node: datagrams, streams, the store, disks and pages.

use super::{Checked, Moment, World};
use crate::scenario::{Adversary, Bug, Fault, millis};
use crate::trace::Note;
use fairshare_ledger::{Batch, BlockHash};
use fairshare_node::{Event, Input, Output};
use fairshare_swarm::{Completion, Request};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a batch that is not urgent waits for company, as in the product's store.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between the disk having a batch and the node hearing of it.
const REPORT_MICROS: u64 = 2_000;
/// A crash during signing falls before, into or shortly after the writing.
const CRASH_WITHIN_MICROS: u64 = 30_000;
/// One in so many operations of a disk is slow while things go wrong.
const SLOW_OPERATIONS: u64 = 15;
/// One in so many pages does not come while things go wrong.
const MISSING_PAGES: u64 = 5;

impl World {
    /// Does one thing that a node wants done.
    pub(super) fn carry_out(&mut self, machine: usize, output: Output) -> Checked {
        match output {
            Output::Transmit(to, bytes) => {
                let host = &self.machines[machine];
                self.watch.datagram_leaves(&host.public(), &host.durable, &bytes)?;
                self.transmit(machine, to, bytes);
            }
            Output::Connect(stream, to) => {
                self.note(machine, Note::Text(format!("opens stream {} to {to}", stream.0)));
                self.connect(machine, stream, to);
            }
            Output::Write(stream, bytes) => {
                self.note(
                    machine,
                    Note::Bytes { what: "writes to stream", stream: stream.0, len: bytes.len() },
                );
                self.write(machine, stream, bytes);
            }
            Output::Close(stream) => {
                self.note(machine, Note::Text(format!("closes stream {}", stream.0)));
                self.close(machine, stream);
            }
            Output::Persist(ticket, batch) => self.persist(machine, ticket, batch),
            Output::Request(ticket, request) => self.request(machine, ticket, request),
            Output::Reply(id, reply) => {
                self.replies.insert(id, reply);
            }
            // No machine here is an exit or has a program in front of it.
            Output::ExitOpen(_)
            | Output::ExitSend(..)
            | Output::ExitClose(_)
            | Output::AssociationData(..) => {}
            Output::Event(event) => {
                let host = &self.machines[machine];
                self.watch.event(&host.public(), &host.durable, &event)?;
                if !matches!(event, Event::PeerFound(..)) {
                    self.note(machine, Note::Text(format!("{event:?}")));
                }
            }
        }
        Ok(())
    }

    pub(super) fn transmit(&mut self, machine: usize, to: SocketAddr, bytes: bytes::Bytes) {
        let Some(target) = self.machines.iter().position(|other| other.address == to) else { return };
        let from = self.machines[machine].address;
        for (at, bytes) in self.network.deliveries(self.now, (machine, target), &bytes) {
            self.schedule.put(at, Moment::Datagram { from, machine: target, bytes });
        }
    }

    /// A batch waits for the disk: an urgent one not at all.
    fn persist(&mut self, machine: usize, ticket: u64, batch: Batch) {
        let incarnation = self.machines[machine].incarnation;
        let text = format!("persist {ticket}: {} blocks, urgent {}", batch.blocks.len(), batch.urgent);
        self.note(machine, Note::Text(text));
        let own = self.own_blocks(machine, &batch);
        if self.machines[machine].breaks(Adversary::Defaulter) && !own.is_empty() {
            return;
        }
        let at = if batch.urgent { self.now } else { self.now + PATIENCE };
        if !own.is_empty()
            && let Some(down) = self.machines[machine].crash_at_signing.take()
        {
            let at = self.soon(CRASH_WITHIN_MICROS);
            self.schedule.put(at, Moment::Fault(Fault::Crash { machine, down }));
        }
        if self.has_bug(Bug::SendBeforePersist) {
            if let Some(node) = &mut self.machines[machine].node {
                node.store_mut().apply(&batch);
            }
            let moment = Moment::Persisted { machine, incarnation, tickets: vec![ticket], own };
            self.schedule.put(self.now, moment);
        }
        self.machines[machine].journal.put(ticket, batch);
        self.schedule.put(at, Moment::Flush { machine, incarnation });
    }

    pub(super) fn flush(&mut self, machine: usize, incarnation: u32) -> Checked {
        let host = &mut self.machines[machine];
        if host.incarnation == incarnation && host.journal.begin() {
            let at = self.now + self.disk_time(1..=12, 60..=900);
            self.schedule.put(at, Moment::Committed { machine, incarnation });
        }
        Ok(())
    }

    /// The group is on the disk: from here on a crash does not lose it.
    pub(super) fn committed(&mut self, machine: usize, incarnation: u32) -> Checked {
        if self.machines[machine].incarnation != incarnation {
            return Ok(());
        }
        let group = self.machines[machine].journal.commit();
        if self.machines[machine].store_fails {
            return self.refuse_group(machine, group);
        }
        let mut own = Vec::new();
        for (_, batch) in &group {
            own.extend(self.own_blocks(machine, batch));
            self.watch.batch(batch)?;
            let host = &mut self.machines[machine];
            host.durable.apply(batch);
            if let Some(node) = &mut host.node {
                node.store_mut().apply(batch);
            }
        }
        if !self.has_bug(Bug::SendBeforePersist) {
            let tickets = group.iter().map(|(ticket, _)| *ticket).collect();
            let at = self.soon(REPORT_MICROS);
            self.schedule.put(at, Moment::Persisted { machine, incarnation, tickets, own });
        }
        // What came in the meantime is written next.
        let urgent = self.machines[machine].journal.is_urgent();
        let at = if urgent { self.now } else { self.now + PATIENCE };
        self.schedule.put(at, Moment::Flush { machine, incarnation });
        Ok(())
    }

    pub(super) fn persisted(
        &mut self,
        machine: usize,
        incarnation: u32,
        tickets: Vec<u64>,
        own: Vec<(u32, BlockHash)>,
    ) -> Checked {
        if self.machines[machine].incarnation != incarnation {
            return Ok(());
        }
        self.machines[machine].acknowledged.extend(own);
        for ticket in tickets {
            self.give(machine, Input::Persisted(ticket))?;
        }
        Ok(())
    }

    /// Nothing of the group is written, nor of what was made before the node heard of all of it.
    fn refuse_group(&mut self, machine: usize, mut group: Vec<(u64, Batch)>) -> Checked {
        while !group.is_empty() {
            group.extend(self.machines[machine].journal.give_up());
            for (ticket, _) in std::mem::take(&mut group) {
                self.note(machine, Note::Text(format!("persist {ticket} fails")));
                self.give(machine, Input::PersistFailed(ticket, "no space left".to_owned()))?;
            }
            group = self.machines[machine].journal.give_up();
        }
        Ok(())
    }

    fn own_blocks(&self, machine: usize, batch: &Batch) -> Vec<(u32, BlockHash)> {
        let key = self.machines[machine].public();
        let own = batch.blocks.iter().filter(|block| block.owner == key);
        own.map(|block| (block.sequence, block.hash())).collect()
    }

    fn request(&mut self, machine: usize, ticket: u64, request: Request) {
        let span = match request {
            Request::HttpGet { .. } => millis(&mut self.rng, 20..=300),
            _ => self.disk_time(1..=10, 50..=1_500),
        };
        let incarnation = self.machines[machine].incarnation;
        let moment = Moment::Done { machine, incarnation, ticket, request: Box::new(request) };
        self.schedule.put(self.now + span, moment);
    }

    pub(super) fn done(
        &mut self,
        machine: usize,
        incarnation: u32,
        ticket: u64,
        request: &Request,
    ) -> Checked {
        if self.machines[machine].incarnation != incarnation {
            return Ok(());
        }
        let completion = match request {
            Request::HttpGet { url } => Completion::Page(self.page(machine, url)),
            other => match self.machines[machine].disk.carry_out(other) {
                Some(completion) => completion,
                None => return Err(format!("the world does not know the request {other:?}")),
            },
        };
        if let Completion::Stored(Ok(false)) = &completion {
            self.note(machine, Note::Text(format!("request {ticket}: the piece is wrong")));
        }
        self.give(machine, Input::Completed(ticket, completion))
    }

    fn page(&mut self, machine: usize, url: &str) -> Result<bytes::Bytes, String> {
        if self.in_faulty_time() && self.rng.chance(1, MISSING_PAGES) {
            return Err("timed out".to_owned());
        }
        self.tracker.answer(self.machines[machine].address, url)
    }

    fn disk_time(
        &mut self,
        normal: std::ops::RangeInclusive<u64>,
        slow: std::ops::RangeInclusive<u64>,
    ) -> Duration {
        let is_slow = self.in_faulty_time() && self.rng.chance(1, SLOW_OPERATIONS);
        millis(&mut self.rng, if is_slow { slow } else { normal })
    }
}
