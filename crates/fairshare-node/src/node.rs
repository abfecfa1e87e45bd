//! The node: routing of inputs to engines, and of one engine's events to another's verbs.

use crate::anonymous::Anonymous;
use crate::circuits::{Kept, Owner, RELAY_COMMUNITIES, Realm};
use crate::contract::{AssociationId, Event, Input, Output, Reply, Traffic};
use crate::standing::Standing;
use crate::tickets::Tickets;
use crate::translate;
use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_economy::payouts::{PAYOUT_RECORD_KINDS, PayoutJudgement, Payouts, PayoutsConfig};
use fairshare_economy::{Economy, EconomyConfig, EconomyOutput, Judgement, RECORD_KINDS, SessionId, Verdict};
use fairshare_ledger::{
    Batch, BlockHash, BlockType, ChainStore, DeclineReason, HalfBlock, Ledger, LedgerConfig, LedgerEvent,
    LedgerOutput, Recipient, RecordKind, Source, StoreError,
};
use fairshare_overlay::dht::{Dht, DhtOutput};
use fairshare_overlay::{Community, Overlay, OverlayConfig, OverlayEvent, OverlayOutput, community};
use fairshare_swarm::utp::{Utp, UtpConfig, UtpOutput};
use fairshare_swarm::{Completion, InfoHash, Request, StreamId, Swarm, SwarmConfig, SwarmEvent, SwarmOutput};
use fairshare_trust::EngineKind;
use fairshare_tunnel::{GroupId, Tunnel, TunnelConfig};
use fairshare_wire::{Address, Frame, Instant, Now};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// Everything that shapes a node's behaviour.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Addresses, bootstrap and peer limits of the overlay.
    pub overlay: OverlayConfig,
    /// What the ledger countersigns without asking.
    pub ledger: LedgerConfig,
    /// Connections, slots and limits of the swarm. The identity is set by the node.
    pub swarm: SwarmConfig,
    /// Admission and settlement.
    pub economy: EconomyConfig,
    /// Circuits, relaying and exiting.
    pub tunnel: TunnelConfig,
    /// Payments to relays.
    pub payouts: PayoutsConfig,
    /// How reputation is computed.
    pub reputation: EngineKind,
    /// Whether streams are opened over uTP instead of TCP.
    pub utp_only: bool,
}

impl NodeConfig {
    /// The defaults of all parts, with this overlay.
    pub fn at(overlay: OverlayConfig) -> Self {
        Self {
            overlay,
            ledger: LedgerConfig::default(),
            swarm: SwarmConfig::default(),
            economy: EconomyConfig::default(),
            tunnel: TunnelConfig::default(),
            payouts: PayoutsConfig::default(),
            reputation: EngineKind::default(),
            utp_only: false,
        }
    }
}

/// Streams that others open over uTP have numbers from here on, far above those that the host gives.
const UTP_STREAMS: u64 = (1 << 62) + 1;

/// A whole Fairshare node without input and output.
pub struct Node<S> {
    pub(crate) key: PublicKey,
    pub(crate) overlay: Overlay,
    pub(crate) ledger: Ledger<S>,
    pub(crate) swarm: Swarm,
    pub(crate) economy: Economy,
    /// Verified sessions: the identity at the other end of each connection.
    sessions: BTreeMap<StreamId, PublicKey>,
    persists: Tickets<Persisting>,
    /// Commands that wait for their proposal to be on disk.
    proposing: Vec<(u64, BlockHash)>,
    pub(crate) traffic: Traffic,
    /// What the ledger refused, by reason.
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    pub(crate) uploading: bool,
    /// What the disk said about a batch that it did not take; gone when it takes one again.
    pub(crate) stalled: Option<String>,
    /// Overlay peers that were told of: each introduction finds them again.
    found: BTreeSet<PublicKey>,
    /// The overlay of those who build circuits, under an identity of its own.
    pub(crate) relays: Overlay,
    pub(crate) dht: Dht,
    pub(crate) tunnel: Tunnel,
    pub(crate) payouts: Payouts,
    pub(crate) groups: BTreeMap<GroupId, Owner>,
    pub(crate) next_group: u64,
    pub(crate) associations: BTreeMap<AssociationId, GroupId>,
    pub(crate) anonymous: BTreeMap<InfoHash, Anonymous>,
    pub(crate) swarm_config: SwarmConfig,
    /// Streams in the clear over uTP.
    utp: Utp,
    utp_streams: BTreeSet<StreamId>,
    utp_only: bool,
    pub(crate) standing: Standing,
    /// Whose question to the outside each request is.
    pub(crate) asking: Tickets<Asking>,
    pub(crate) rng: Rng,
    out: VecDeque<Output>,
}

/// Which engine a batch belongs to, and its own ticket there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Persisting {
    Ledger(u64),
    Economy(u64),
    Payouts(u64),
    /// What circuits keep: written again when it changes, so nobody waits for it.
    Tunnel,
}

/// Which engine a request comes from, and its own ticket there.
#[derive(Clone, Debug)]
pub(crate) enum Asking {
    Swarm(u64),
    Anonymous(InfoHash, u64),
    Tunnel(u64),
    /// The name of a UDP tracker, and what is to be sent there.
    Tracker(Bytes),
}

impl<S: ChainStore> Node<S> {
    /// A node over what its store holds: the accounts are rebuilt from the pairs of its own chain, grants and
    /// counters from the records, unanswered proposals are taken up again.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn new(
        config: NodeConfig,
        key: SecretKey,
        store: S,
        seed: [u8; 32],
        now: Now,
    ) -> Result<Self, StoreError> {
        let rng = Rng::from_seed(seed);
        let me = key.public();
        let pairs = own_pairs(&store, &me)?;
        let economy = restore_economy(&config, me, &store, pairs.clone(), &rng, now)?;
        let standing = Standing::new(config.reputation, me, &store, rng.fork("reputation"), now)?;
        let kept = Kept::read(&store, &rng)?;
        let payouts = Payouts::new(
            config.payouts,
            key.clone(),
            kept.key.clone(),
            records_of(&store, PAYOUT_RECORD_KINDS)?,
            pairs,
            rng.fork("payouts"),
            now,
        );
        let uploading = config.swarm.allow_upload;
        let swarm = SwarmConfig { identity: Some(key.clone()), ..config.swarm.clone() };
        let tunnel =
            TunnelConfig { communities: vec![community::TUNNEL, community::TUNNEL_STOCK], ..config.tunnel };
        let mut node = Self {
            key: me,
            relays: relay_overlay(&config.overlay, &kept.key, &rng, now),
            dht: Dht::new(kept.key.clone(), config.overlay.lan, rng.fork("dht"), now),
            tunnel: Tunnel::new(tunnel, kept.key.clone(), kept.guards.as_deref(), rng.fork("circuits"), now),
            payouts,
            groups: BTreeMap::new(),
            next_group: 0,
            associations: BTreeMap::new(),
            anonymous: BTreeMap::new(),
            swarm_config: config.swarm,
            utp: Utp::new(
                UtpConfig { first_stream: UTP_STREAMS, ..UtpConfig::default() },
                rng.fork("utp"),
                now,
            ),
            utp_streams: BTreeSet::new(),
            utp_only: config.utp_only,
            standing,
            asking: Tickets::default(),
            overlay: Overlay::new(config.overlay, key.clone(), rng.fork("overlay"), now),
            ledger: Ledger::new(config.ledger, key, store, rng.fork("ledger"), now)?,
            swarm: Swarm::new(swarm, rng.fork("swarm"), now),
            economy,
            sessions: BTreeMap::new(),
            persists: Tickets::default(),
            proposing: Vec::new(),
            traffic: Traffic::default(),
            refusals: BTreeMap::new(),
            uploading,
            stalled: None,
            found: BTreeSet::new(),
            rng,
            out: VecDeque::new(),
        };
        if kept.is_new {
            node.keep_tunnel(kept.record());
        }
        node.announce_flags();
        node.announce_chain_length();
        node.settle_events(now);
        Ok(node)
    }

    /// Takes one input. Drain [`poll`](Self::poll) afterwards.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        match input {
            Input::Datagram(from, bytes) => {
                self.traffic.datagram_in += bytes.len() as u64;
                self.datagram(now, from, bytes);
            }
            Input::Accepted(id, from) => self.swarm.stream_incoming(now, id, from),
            Input::Connected(id) => self.swarm.stream_connected(now, id),
            Input::Data(id, bytes) => {
                self.traffic.stream_in += bytes.len() as u64;
                self.swarm.stream_data(now, id, bytes);
            }
            Input::Drained(id, bytes) => self.swarm.stream_drained(now, id, bytes),
            Input::Closed(id) => self.swarm.stream_closed(now, id),
            Input::Persisted(ticket) => self.persisted(now, ticket),
            Input::PersistFailed(ticket, reason) => self.persist_failed(now, ticket, reason),
            Input::Completed(ticket, completion) => self.completed(now, ticket, completion),
            Input::ExitDatagram(exit, from, bytes) => self.tunnel.exit_datagram(now, exit, from, bytes),
            Input::Associated(id, hops) => self.associated(now, id, hops),
            Input::AssociationDatagram(id, to, bytes) => self.association_datagram(now, id, &to, bytes),
            Input::Dissociated(id) => self.dissociated(now, id),
            Input::Command(id, command) => self.command(now, id, command),
            Input::Timeout => self.handle_timeout(now),
        }
        self.settle_events(now);
    }

    /// The next thing to be done outside.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When to come back with [`Input::Timeout`] at the latest.
    pub fn next_timeout(&self) -> Option<Instant> {
        [
            self.overlay.next_timeout(),
            self.ledger.next_timeout(),
            self.swarm.next_timeout(),
            self.economy.next_timeout(),
            self.relays.next_timeout(),
            self.dht.next_timeout(),
            self.tunnel.next_timeout(),
            self.payouts.next_timeout(),
            self.utp.next_timeout(),
            self.standing.next_timeout(),
            self.next_page_deadline(),
        ]
        .into_iter()
        .chain(self.anonymous.values().map(Anonymous::next_timeout))
        .flatten()
        .min()
    }

    /// Whether something is still to be written, or an own proposal waits for the agreement of somebody connected:
    /// what a node that is about to end waits for.
    pub fn has_unfinished_business(&self) -> bool {
        let answerable = |block: &Arc<HalfBlock>| self.session_with(&block.link_owner).is_some();
        !self.persists.is_empty() || self.ledger.is_writing() || self.ledger.outstanding().any(answerable)
    }

    /// The store, for a driver that applies batches to it by itself.
    pub fn store_mut(&mut self) -> &mut S {
        self.ledger.store_mut()
    }

    /// The node's identity.
    pub const fn public_key(&self) -> PublicKey {
        self.key
    }

    fn handle_timeout(&mut self, now: Now) {
        self.overlay.handle_timeout(now);
        self.ledger.handle_timeout(now);
        self.swarm.handle_timeout(now);
        self.economy.handle_timeout(now);
        self.relays.handle_timeout(now);
        self.dht.handle_timeout(now);
        self.tunnel.handle_timeout(now);
        self.payouts.handle_timeout(now);
        self.utp.handle_timeout(now);
        self.anonymous_timeout(now);
        self.give_up_pages(now);
        if self.standing.handle_timeout(now) {
            self.rank_sessions(now);
            self.weigh_relays();
        }
    }

    /// One port for everything: by its first bytes a datagram belongs to an overlay, to the circuits, to a stream or to
    /// a tracker's answer.
    fn datagram(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) {
        let realm = match Frame::parse(bytes) {
            Ok(frame) => Realm::of(&frame),
            Err(_) if Utp::is_utp(bytes) => return self.utp.handle_datagram(now, from, bytes),
            Err(_) if self.swarm.tracker_datagram(now, &Address::Ip(from), bytes) => return,
            Err(_) => Realm::Overlay,
        };
        match realm {
            Realm::Overlay => self.overlay.handle_datagram(now, from, bytes),
            Realm::Relays => self.relays.handle_datagram(now, from, bytes),
            Realm::Tunnel => self.tunnel.handle_datagram(now, from, bytes),
            Realm::Dht => self.dht.handle_datagram(now, from, bytes),
        }
    }

    /// An answer of the outside, for the engine that asked.
    fn completed(&mut self, now: Now, ticket: u64, completion: Completion) {
        match (self.asking.take(ticket), completion) {
            (Some(Asking::Swarm(ticket)), completion) => self.swarm.completed(now, ticket, completion),
            (Some(Asking::Anonymous(hash, ticket)), completion) => {
                self.anonymous_completed(now, &hash, ticket, completion);
            }
            (Some(Asking::Tunnel(ticket)), Completion::Resolved(found)) => {
                self.tunnel.resolved(now, ticket, found);
            }
            (Some(Asking::Tunnel(ticket)), Completion::Fetched(page)) => {
                self.tunnel.http_fetched(now, ticket, page);
            }
            (Some(Asking::Tracker(bytes)), Completion::Resolved(Ok(found))) => {
                if let Some(to) = found.first() {
                    self.transmit(*to, bytes);
                }
            }
            // An answer of the wrong kind is a bug of the host; nothing sensible can be done with it here.
            _ => {}
        }
    }

    pub(crate) fn transmit(&mut self, to: SocketAddr, bytes: Bytes) {
        self.traffic.datagram_out += bytes.len() as u64;
        self.out.push_back(Output::Transmit(to, bytes));
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.out.push_back(output);
    }

    /// The choker learns how those that are connected stand.
    fn rank_sessions(&mut self, now: Now) {
        for (id, key) in &self.sessions {
            self.swarm.set_rank(now, *id, self.standing.rank(key));
        }
    }

    fn persisted(&mut self, now: Now, ticket: u64) {
        self.stalled = None;
        match self.persists.take(ticket) {
            Some(Persisting::Ledger(ticket)) => self.ledger.persisted(now, ticket),
            Some(Persisting::Economy(ticket)) => self.economy.persisted(now, ticket),
            Some(Persisting::Payouts(ticket)) => self.payouts.persisted(now, ticket),
            Some(Persisting::Tunnel) | None => {}
        }
    }

    fn persist_failed(&mut self, now: Now, ticket: u64, reason: String) {
        self.stalled = Some(reason.clone());
        match self.persists.take(ticket) {
            Some(Persisting::Ledger(ticket)) => {
                self.ledger.persist_failed(now, ticket, reason.clone());
                self.proposals_wait(&reason);
            }
            Some(Persisting::Economy(ticket)) => self.economy.persist_failed(now, ticket),
            Some(Persisting::Payouts(ticket)) => self.payouts.persist_failed(now, ticket),
            Some(Persisting::Tunnel) | None => {}
        }
        self.event(Event::StoreFailed(reason));
    }

    /// Whoever waits for a signed proposal is told that the disk did not take it. The ledger goes on trying: the
    /// block may leave later, and a second one would be another proposal.
    fn proposals_wait(&mut self, reason: &str) {
        for (id, _) in std::mem::take(&mut self.proposing) {
            let why = format!("{reason}; the block is signed and leaves once the disk takes it, not before");
            self.reply(id, Reply::Proposed(Err(why)));
        }
    }

    /// Lets the engines answer each other until none has anything left to say.
    fn settle_events(&mut self, now: Now) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.overlay.poll() {
                quiet = false;
                self.on_overlay(now, output);
            }
            while let Some(output) = self.ledger.poll() {
                quiet = false;
                self.on_ledger(now, output);
            }
            while let Some(output) = self.swarm.poll() {
                quiet = false;
                self.on_swarm(now, output);
            }
            while let Some(output) = self.economy.poll() {
                quiet = false;
                self.on_economy(now, output);
            }
            while let Some(output) = self.relays.poll() {
                quiet = false;
                self.on_relays(now, output);
            }
            while let Some(output) = self.dht.poll() {
                quiet = false;
                self.on_dht(now, output);
            }
            while let Some(output) = self.tunnel.poll() {
                quiet = false;
                self.on_tunnel(now, output);
            }
            while let Some(output) = self.payouts.poll() {
                quiet = false;
                self.on_payouts(now, output);
            }
            while let Some(output) = self.utp.poll() {
                quiet = false;
                self.on_utp(now, output);
            }
            quiet &= !self.pump_anonymous(now);
            if quiet {
                return;
            }
        }
    }

    fn on_overlay(&mut self, now: Now, output: OverlayOutput) {
        let event = match output {
            OverlayOutput::Transmit { to, bytes } => return self.transmit(to, bytes),
            OverlayOutput::Event(event) => event,
        };
        match event {
            OverlayEvent::PeerFound { community, key, address, extra } => {
                // Who answers here may be a relay too.
                self.relays.suggest(address);
                if let Some(known) = translate::ledger_community(community) {
                    let length = translate::chain_length(&extra);
                    self.ledger.peer_introduced(now, known, key, address, length);
                }
                if self.found.insert(key) {
                    self.event(Event::PeerFound(key, address));
                }
            }
            OverlayEvent::PeerLost { key } => {
                self.found.remove(&key);
                self.event(Event::PeerLost(key));
            }
            OverlayEvent::Message { community, from, sender, id, payload } => {
                let Some(known) = translate::ledger_community(community) else { return };
                if let Err(error) = self.ledger.handle_message(now, known, from, sender, id, &payload) {
                    self.refused(translate::message_refusal(&error));
                }
            }
            _ => {}
        }
    }

    fn on_ledger(&mut self, now: Now, output: LedgerOutput) {
        match output {
            LedgerOutput::Persist { ticket, batch } => self.persist(Persisting::Ledger(ticket), batch),
            LedgerOutput::Send { community, to, id, signed, payload } => {
                let community = translate::overlay_community(community);
                let targets = match to {
                    Recipient::Address(address) => vec![address],
                    Recipient::Key(key) => self.overlay.address_of(&key).into_iter().collect(),
                    Recipient::Random(count) => {
                        self.overlay.random_peers(community, count).into_iter().map(|(_, at)| at).collect()
                    }
                };
                for target in targets {
                    self.overlay.send(now, community, target, id, signed, &payload);
                }
            }
            LedgerOutput::Event(event) => self.on_ledger_event(now, event),
        }
    }

    fn on_ledger_event(&mut self, now: Now, event: LedgerEvent) {
        match &event {
            LedgerEvent::Signed(block) => self.signed(now, block),
            LedgerEvent::Resent(block) => {
                self.payouts.signed(now, block);
                self.send_over_session(now, block);
            }
            LedgerEvent::Rejected { reason, .. } => self.refused(reason),
            LedgerEvent::AgreementWanted(proposal) => self.judge(now, proposal),
            LedgerEvent::Paired { proposal, agreement } => {
                self.economy.paired(now, proposal, agreement);
                self.payouts.paired(now, proposal, agreement);
            }
            LedgerEvent::Linked { proposal, agreement } => self.standing.linked(now, proposal, agreement),
            LedgerEvent::ForkProved(proof) => {
                self.economy.fork_proved(now, proof.accused());
                self.standing.fork_proved(now, proof.accused());
                self.payouts.fork_proved(now, proof.accused());
            }
            _ => {}
        }
        self.event(Event::Ledger(event));
    }

    /// An own block is on disk: it goes to its counterparty over an open connection too, and to whoever asked.
    fn signed(&mut self, now: Now, block: &Arc<HalfBlock>) {
        self.standing.own(now, block);
        self.payouts.signed(now, block);
        self.announce_chain_length();
        self.send_over_session(now, block);
        let hash = block.hash();
        let (done, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.proposing).into_iter().partition(|(_, wanted)| *wanted == hash);
        self.proposing = waiting;
        for (id, _) in done {
            self.reply(id, Reply::Proposed(Ok(block.clone())));
        }
    }

    fn send_over_session(&mut self, now: Now, block: &HalfBlock) {
        if let Some(session) = self.session_with(&block.link_owner) {
            self.swarm.send_block(now, session, Bytes::from(block.to_bytes()));
        }
    }

    /// The economy decides about payments; nothing else is countersigned unless the configuration lists it.
    fn judge(&mut self, now: Now, proposal: &Arc<HalfBlock>) {
        if proposal.kind != BlockType::BANDWIDTH {
            return self.ledger.decline(now, &proposal.hash(), DeclineReason::ForeignType);
        }
        if Payouts::concerns(proposal) {
            return self.judge_payout(now, proposal);
        }
        let declined = match self.economy.judge(now, proposal) {
            Judgement::Sign { records } => match self.ledger.agree_bandwidth(now, proposal, records) {
                Ok(_) => return,
                Err(error) => error.to_string(),
            },
            Judgement::Decline(reason) => reason.to_string(),
        };
        self.ledger.decline(now, &proposal.hash(), DeclineReason::Policy(declined));
    }

    /// A payment for circuits is judged by those who metered them.
    fn judge_payout(&mut self, now: Now, proposal: &Arc<HalfBlock>) {
        let declined = match self.payouts.judge(now, proposal) {
            PayoutJudgement::Sign { records } => match self.ledger.agree_bandwidth(now, proposal, records) {
                Ok(_) => return,
                Err(error) => error.to_string(),
            },
            PayoutJudgement::Decline(reason) => reason.to_owned(),
        };
        self.ledger.decline(now, &proposal.hash(), DeclineReason::Policy(declined));
    }

    fn on_swarm(&mut self, now: Now, output: SwarmOutput) {
        match output {
            SwarmOutput::Connect(id, to) if self.utp_only => {
                self.utp_streams.insert(id);
                self.utp.connect(now, id, to);
            }
            SwarmOutput::Connect(id, to) => self.out.push_back(Output::Connect(id, to)),
            SwarmOutput::Write(id, bytes) if self.utp_streams.contains(&id) => {
                self.traffic.stream_out += bytes.len() as u64;
                self.utp.write(now, id, bytes);
            }
            SwarmOutput::Write(id, bytes) => {
                self.traffic.stream_out += bytes.len() as u64;
                self.out.push_back(Output::Write(id, bytes));
            }
            SwarmOutput::Close(id) if self.utp_streams.contains(&id) => self.utp.close(now, id),
            SwarmOutput::Close(id) => self.out.push_back(Output::Close(id)),
            SwarmOutput::Request { ticket, request } => {
                let ticket = self.asking.issue(Asking::Swarm(ticket));
                self.out.push_back(Output::Request(ticket, request));
            }
            SwarmOutput::TrackerSend { to: Address::Ip(to), bytes, .. } => self.transmit(to, bytes),
            SwarmOutput::TrackerSend { to: Address::Host(host, port), bytes, .. } => {
                let ticket = self.asking.issue(Asking::Tracker(bytes));
                self.out.push_back(Output::Request(ticket, Request::Resolve { host, port }));
            }
            SwarmOutput::Event(event) => self.on_swarm_event(now, event),
        }
    }

    /// Streams in the clear over the node's own port.
    fn on_utp(&mut self, now: Now, output: UtpOutput) {
        match output {
            UtpOutput::Transmit(to, bytes) => self.transmit(to, bytes),
            UtpOutput::Connected(id) => self.swarm.stream_connected(now, id),
            UtpOutput::Accepted(id, from) => {
                self.utp_streams.insert(id);
                self.swarm.stream_incoming(now, id, from);
            }
            UtpOutput::Data(id, bytes) => {
                self.traffic.stream_in += bytes.len() as u64;
                self.swarm.stream_data(now, id, bytes);
            }
            UtpOutput::Drained(id, bytes) => self.swarm.stream_drained(now, id, bytes),
            UtpOutput::Closed(id) => {
                self.utp_streams.remove(&id);
                self.swarm.stream_closed(now, id);
            }
        }
    }

    fn on_dht(&mut self, now: Now, output: DhtOutput) {
        match output {
            DhtOutput::Transmit { to, bytes } => self.transmit(to, bytes),
            DhtOutput::Found { ticket, values } => self.tunnel.dht_found(now, ticket, &values),
        }
    }

    fn on_swarm_event(&mut self, now: Now, event: SwarmEvent) {
        match &event {
            SwarmEvent::SessionOpened { id, key, address, incoming, .. } => {
                self.session_opened(now, *id, *key, *address, *incoming);
            }
            SwarmEvent::SessionClosed { id, .. } => {
                self.sessions.remove(id);
                self.economy.session_closed(now, session(*id));
            }
            SwarmEvent::VerdictWanted { id, rate } => self.give_verdict(now, *id, *rate),
            SwarmEvent::GrantWanted { id, rate } => self.economy.grant_wanted(now, session(*id), *rate),
            SwarmEvent::Choked { id } => self.economy.choked(now, session(*id)),
            SwarmEvent::Sent { id, total } => return self.economy.sent(now, session(*id), *total),
            SwarmEvent::Acknowledged { id, accepted, verified } => {
                return self.economy.acknowledged(now, session(*id), *accepted, *verified);
            }
            SwarmEvent::Verified { id, total } => return self.economy.verified(now, session(*id), *total),
            SwarmEvent::GrantReceived { id, grant } => {
                self.economy.grant_received(now, session(*id), translate::grant_from_wire(grant));
            }
            SwarmEvent::GrantFreed { id, number, used } => {
                self.economy.grant_freed(now, session(*id), *number, *used);
            }
            SwarmEvent::RefusedBy { id, refusal } => {
                self.economy.refused_by(now, session(*id), translate::refusal_from_wire(refusal));
            }
            // Nothing more will be taken for this torrent: what is owed would wait for the connection to end.
            SwarmEvent::Finished(_) => self.economy.settle_all(now),
            SwarmEvent::BlockReceived { id, bytes } => return self.block_received(now, *id, bytes),
            _ => {}
        }
        self.event(Event::Swarm(event));
    }

    fn session_opened(
        &mut self,
        now: Now,
        id: StreamId,
        key: PublicKey,
        address: SocketAddr,
        incoming: bool,
    ) {
        self.sessions.insert(id, key);
        self.swarm.set_rank(now, id, self.standing.rank(&key));
        self.economy.session_opened(now, session(id), key, address.ip());
        if self.ledger.is_forker(&key) {
            // Proved before this session, or before this run.
            self.economy.fork_proved(now, &key);
        }
        if !incoming {
            // Who shares files with us also meets us in the overlay: one port serves both.
            self.overlay.add_address(now, address);
        }
        let owed: Vec<_> =
            self.ledger.outstanding().filter(|block| block.link_owner == key).cloned().collect();
        for block in owed {
            self.swarm.send_block(now, id, Bytes::from(block.to_bytes()));
        }
    }

    fn give_verdict(&mut self, now: Now, id: StreamId, rate: u64) {
        let verdict = self.economy.verdict(now, session(id), rate);
        if let Verdict::Refuse(refusal) = &verdict {
            self.swarm.refuse(now, id, translate::refusal_to_wire(refusal));
        }
        self.swarm.verdict(now, id, translate::verdict(&verdict));
    }

    fn block_received(&mut self, now: Now, id: StreamId, bytes: &Bytes) {
        let Some(key) = self.sessions.get(&id).copied() else { return };
        match HalfBlock::parse(bytes) {
            Ok(block) => self.ledger.receive(now, Source::Connection(key), block),
            Err(_) => self.refused("unreadable half block"),
        }
    }

    fn on_economy(&mut self, now: Now, output: EconomyOutput) {
        match output {
            // A batch of the ledger that failed comes again as it was: a newer record that is written before it would
            // be replaced by an older one.
            EconomyOutput::Persist { ticket, .. } if self.ledger.is_stalled() => {
                self.economy.persist_failed(now, ticket);
            }
            EconomyOutput::Persist { ticket, records } => {
                let batch = Batch { records, urgent: true, ..Batch::default() };
                self.persist(Persisting::Economy(ticket), batch);
            }
            EconomyOutput::Propose { to, down, settlement, records } => {
                match self.ledger.propose_bandwidth(now, to, down, settlement, records) {
                    Ok(block) => self.economy.proposed(now, &block),
                    Err(error) => self.economy.propose_failed(now, &to, &error.to_string()),
                }
            }
            EconomyOutput::Grant { session, grant } => {
                self.swarm.grant(now, stream(session), translate::grant_to_wire(&grant));
            }
            EconomyOutput::Freed { session, number, used } => {
                self.swarm.freed(now, stream(session), number, used);
            }
            EconomyOutput::ServeLimit { session, total } => {
                self.swarm.serve_limit(now, stream(session), total);
            }
            EconomyOutput::Refuse { session, refusal } => {
                self.swarm.refuse(now, stream(session), translate::refusal_to_wire(&refusal));
            }
            EconomyOutput::Rejudge { session } => self.swarm.rejudge(now, stream(session)),
            EconomyOutput::Event(event) => self.event(Event::Economy(event)),
        }
    }

    /// The number of own blocks travels with every introduction, so that peers know what to crawl.
    fn announce_chain_length(&mut self) {
        let length = i32::try_from(self.ledger.own_length()).unwrap_or(i32::MAX);
        self.overlay.set_extra(community::TRUSTCHAIN, length.to_be_bytes().to_vec());
    }

    fn session_with(&self, key: &PublicKey) -> Option<StreamId> {
        self.sessions.iter().find(|(_, other)| *other == key).map(|(id, _)| *id)
    }

    pub(crate) fn persist(&mut self, origin: Persisting, batch: Batch) {
        let ticket = self.persists.issue(origin);
        self.out.push_back(Output::Persist(ticket, batch));
    }

    pub(crate) fn wait_for_signature(&mut self, command: u64, block: &HalfBlock) {
        self.proposing.push((command, block.hash()));
    }

    pub(crate) fn reply(&mut self, id: u64, reply: Reply) {
        self.out.push_back(Output::Reply(id, reply));
    }

    pub(crate) fn refused(&mut self, reason: &'static str) {
        *self.refusals.entry(reason).or_default() += 1;
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }
}

/// The overlay of those who build circuits: the same address, another identity, no discovery of its own.
fn relay_overlay(config: &OverlayConfig, key: &SecretKey, rng: &Rng, now: Now) -> Overlay {
    let config = OverlayConfig {
        communities: RELAY_COMMUNITIES.map(Community::introductions).to_vec(),
        discovery: false,
        ..config.clone()
    };
    Overlay::new(config, key.clone(), rng.fork("relays"), now)
}

/// Rebuilds the accounts as a fold over the pairs of the own chain, and what no block shows from the records.
fn restore_economy<S: ChainStore>(
    config: &NodeConfig,
    me: PublicKey,
    store: &S,
    pairs: Vec<Pair>,
    rng: &Rng,
    now: Now,
) -> Result<Economy, StoreError> {
    let records = records_of(store, RECORD_KINDS)?;
    Ok(Economy::new(config.economy.clone(), me, records, pairs, rng.fork("economy"), now))
}

/// An entry of a journal: whose, its name, its value.
type Journaled = (RecordKind, Vec<u8>, Vec<u8>);

/// The journal entries of these kinds.
fn records_of<S: ChainStore>(
    store: &S,
    kinds: impl IntoIterator<Item = RecordKind>,
) -> Result<Vec<Journaled>, StoreError> {
    let mut records = Vec::new();
    for kind in kinds {
        records.extend(store.records(kind)?.into_iter().map(|(key, value)| (kind, key, value)));
    }
    Ok(records)
}

type Pair = (Arc<HalfBlock>, Option<Arc<HalfBlock>>);

/// Every proposal that the own chain makes or answers, with its agreement if there is one.
fn own_pairs<S: ChainStore>(store: &S, me: &PublicKey) -> Result<Vec<Pair>, StoreError> {
    const PAGE: u32 = 1_000;
    let mut pairs = Vec::new();
    let length = store.newest(me)?.map_or(0, |block| block.sequence);
    let mut from = 1;
    while from <= length {
        for block in store.range(me, from, from.saturating_add(PAGE - 1), PAGE as usize)? {
            if block.is_proposal() {
                // Anybody may have linked to this number before it was used; only the one who was asked agrees.
                let agreements = store.links_to(me, block.sequence)?;
                let agreement = agreements.into_iter().find(|other| other.owner == block.link_owner);
                pairs.push((block, agreement));
            } else if let Some(proposal) = store.get(&block.link_owner, block.link_sequence)? {
                pairs.push((proposal, Some(block)));
            }
        }
        from = from.saturating_add(PAGE);
    }
    Ok(pairs)
}

const fn session(id: StreamId) -> SessionId {
    SessionId(id.0)
}

const fn stream(id: SessionId) -> StreamId {
    StreamId(id.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_economy::RefusalReason;
    use fairshare_ledger::{Draft, ForkKind, ForkProof, GENESIS_HASH, MemoryStore};
    use std::net::SocketAddrV4;

    fn key(seed: u8) -> SecretKey {
        SecretKey::generate(&mut Rng::from_seed([seed; 32]))
    }

    fn node(store: MemoryStore) -> Node<MemoryStore> {
        let config = NodeConfig::at(OverlayConfig::at(SocketAddrV4::new([127, 0, 0, 1].into(), 1)));
        Node::new(config, key(1), store, [0; 32], Now::default()).expect("memory is readable")
    }

    fn block(owner: &SecretKey, sequence: u32, link: (PublicKey, u32), timestamp_ms: u64) -> Arc<HalfBlock> {
        let draft = Draft {
            sequence,
            link_owner: link.0,
            link_sequence: link.1,
            previous_hash: GENESIS_HASH,
            kind: BlockType::from("test"),
            transaction: Bytes::from_static(b"a0d"),
            timestamp_ms,
        };
        Arc::new(HalfBlock::sign(owner, draft))
    }

    //= spec/economy.md#53-verdict-grant-settlement
    #[test]
    fn a_forker_is_refused_after_a_restart_too() {
        let (forker, other) = (key(2), key(3).public());
        let halves = [1, 2].map(|time| block(&forker, 1, (other, 0), time));
        let [one, two] = halves;
        let proof = ForkProof::new(ForkKind::DoubleSign, one, two).expect("two blocks at one place");
        let mut store = MemoryStore::new();
        store.apply(&Batch { proofs: vec![proof], ..Batch::default() });
        let mut node = node(store);
        let (id, address) = (StreamId(1), SocketAddr::from(([127, 0, 0, 2], 9)));
        for (key, refused) in [(other, false), (forker.public(), true)] {
            node.session_opened(Now::default(), id, key, address, true);
            let verdict = node.economy.verdict(Now::default(), session(id), 0);
            let fraud = matches!(verdict, Verdict::Refuse(refusal) if refusal.reason == RefusalReason::Fraud);
            assert_eq!(fraud, refused);
        }
    }

    #[test]
    fn only_the_one_who_was_asked_agrees() {
        let (me, payee, stranger) = (key(1), key(2), key(3));
        let proposal = block(&me, 1, (payee.public(), 0), 1);
        let forged = block(&stranger, 1, (me.public(), 1), 1);
        let agreement = block(&payee, 1, (me.public(), 1), 1);
        let mut store = MemoryStore::new();
        store.apply(&Batch { blocks: vec![forged, proposal.clone()], ..Batch::default() });
        let pairs = own_pairs(&store, &me.public());
        assert_eq!(pairs, Ok(vec![(proposal.clone(), None)]));
        store.apply(&Batch { blocks: vec![agreement.clone()], ..Batch::default() });
        assert_eq!(own_pairs(&store, &me.public()), Ok(vec![(proposal, Some(agreement))]));
    }
}
