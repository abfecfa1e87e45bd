//! The digest of a run: everything that every node put out, in order. Two runs of one seed with different digests are
//! a defect of the product, not of the simulator.

use fairshare_crypto::Sha256Stream;
use fairshare_ledger::Batch;
use fairshare_node::Output;
use fairshare_wire::Instant;

/// Takes outputs in, gives 64 bits.
#[derive(Clone, Default)]
pub(crate) struct Digest {
    stream: Sha256Stream,
}

impl Digest {
    /// Takes one output of one machine.
    pub(crate) fn output(&mut self, at: Instant, machine: usize, output: &Output) {
        self.number(at.as_micros());
        self.number(machine as u64);
        match output {
            Output::Transmit(to, bytes) => self.part(1, to.to_string().as_bytes(), bytes),
            Output::Connect(id, to) => self.part(2, &id.0.to_be_bytes(), to.to_string().as_bytes()),
            Output::Write(id, bytes) => self.part(3, &id.0.to_be_bytes(), bytes),
            Output::Close(id) => self.part(4, &id.0.to_be_bytes(), &[]),
            Output::Persist(ticket, batch) => self.batch(*ticket, batch),
            Output::Request(ticket, request) => {
                let name = format!("{:?}", std::mem::discriminant(request));
                self.part(6, &ticket.to_be_bytes(), name.as_bytes());
            }
            Output::Reply(id, _) => self.part(7, &id.to_be_bytes(), &[]),
            Output::ExitOpen(exit) => self.part(9, &exit.0.to_be_bytes(), &[]),
            Output::ExitSend(exit, to, bytes) => {
                self.part(10, &exit.0.to_be_bytes(), to.to_string().as_bytes());
                self.part(10, bytes, &[]);
            }
            Output::ExitClose(exit) => self.part(11, &exit.0.to_be_bytes(), &[]),
            Output::AssociationData(id, origin, bytes) => {
                self.part(12, &id.0.to_be_bytes(), format!("{origin:?}").as_bytes());
                self.part(12, bytes, &[]);
            }
            Output::Event(event) => self.part(8, format!("{event:?}").as_bytes(), &[]),
        }
    }

    /// The first 64 bits of the hash over everything.
    pub(crate) fn finish(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.stream.finish();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn batch(&mut self, ticket: u64, batch: &Batch) {
        self.part(5, &ticket.to_be_bytes(), &[u8::from(batch.urgent)]);
        for block in batch.blocks.iter().chain(&batch.conflicts) {
            self.stream.update(&block.hash().0);
        }
        for record in &batch.records {
            self.part(9, &record.key, record.value.as_deref().unwrap_or_default());
        }
    }

    fn part(&mut self, kind: u8, head: &[u8], body: &[u8]) {
        self.stream.update(&[kind]);
        self.number(head.len() as u64);
        self.stream.update(head);
        self.number(body.len() as u64);
        self.stream.update(body);
    }

    fn number(&mut self, number: u64) {
        self.stream.update(&number.to_be_bytes());
    }
}
