//! Nodes with one rule broken. The free-rider is a node that does not upload; the defaulter's store swallows its own
//! blocks, so that none leaves; the poisoner's disk damages what is read; the forker's owner signs with the node's key
//! beside the node.

use super::{Checked, Moment, World};
use crate::scenario::Adversary;
use crate::trace::Note;
use bytes::Bytes;
use fairshare_crypto::PublicKey;
use fairshare_ledger::{BlockType, ChainStore, Draft, HalfBlock, transaction};
use fairshare_node::Command;
use fairshare_overlay::community::TRUSTCHAIN;
use fairshare_wire::unsigned_packet;
use std::net::SocketAddr;
use std::time::Duration;

/// Message id of a half block.
//= spec/trustchain.md#5-messages
const HALF_BLOCK: u8 = 1;
/// Honest machines that are shown both blocks.
const VICTIMS: usize = 2;
/// How long the forker waits for its first block to be on disk.
const RETRY: Duration = Duration::from_secs(3);
/// The fork is sent again until somebody proved it: datagrams get lost.
const AGAIN: Duration = Duration::from_secs(10);

impl World {
    /// The forker signs another block with the number of its newest one, and shows both to two honest machines.
    pub(super) fn fork(&mut self, machine: usize) -> Checked {
        let key = self.machines[machine].public();
        let newest = self.machines[machine].durable.newest(&key).map_err(|error| error.to_string())?;
        let Some(block) = newest else {
            self.ask(machine, self.small_proposal())?;
            self.schedule.put(self.now + RETRY, Moment::Fork { machine });
            return Ok(());
        };
        let (original, twin) = match self.watch.fork_of(&key) {
            Some(pair) => pair,
            None => {
                let twin = self.twin_of(machine, &block);
                self.watch.forked(key, &block, &twin);
                self.note(machine, Note::Text(format!("forks at number {}", block.sequence)));
                (block.to_bytes(), twin.to_bytes())
            }
        };
        let honest = self.machines.iter().filter(|host| host.is_honest());
        let victims: Vec<SocketAddr> = honest.take(VICTIMS).map(|host| host.address).collect();
        for to in victims {
            for bytes in [&original, &twin] {
                let packet = unsigned_packet(TRUSTCHAIN, HALF_BLOCK, 1, bytes);
                self.transmit(machine, to, packet.into());
            }
        }
        let known = self.machines.iter().any(|host| self.watch.is_proved(&key, &host.durable));
        if !known {
            self.schedule.put(self.now + AGAIN, Moment::Fork { machine });
        }
        Ok(())
    }

    /// Keys that signed twice.
    pub(super) fn forked(&self) -> Vec<PublicKey> {
        let forkers = self.machines.iter().filter(|host| host.breaks(Adversary::Forker));
        forkers.map(|host| host.public()).filter(|key| self.watch.fork_of(key).is_some()).collect()
    }

    fn small_proposal(&self) -> Command {
        let to = self.machines.iter().find(|host| host.is_honest()).expect("somebody is honest");
        let transaction = transaction::encode(&transaction::Value::Dict(Vec::new()));
        Command::Propose {
            to: to.public(),
            kind: BlockType::new(b"note"),
            transaction: Bytes::from(transaction),
        }
    }

    fn twin_of(&self, machine: usize, block: &HalfBlock) -> HalfBlock {
        let draft = Draft {
            sequence: block.sequence,
            link_owner: block.link_owner,
            link_sequence: block.link_sequence,
            previous_hash: block.previous_hash,
            kind: block.kind.clone(),
            transaction: block.transaction.clone(),
            timestamp_ms: block.timestamp_ms + 1,
        };
        HalfBlock::sign(&self.machines[machine].key, draft)
    }
}
