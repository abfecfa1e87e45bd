//! The engine's public face: everything that arrives is sorted here.

use crate::candidates::Candidates;
use crate::circuit::{Circuit, Purpose};
use crate::config::TunnelConfig;
use crate::group::Group;
use crate::guards::Guards;
use crate::hidden::Services;
use crate::http::Fetch;
use crate::joined::{Joined, PassError, Relay};
use crate::layer::OpenError;
use crate::link::Links;
use crate::network::neighbourhood;
use crate::output::CircuitEnd;
use crate::output::{Allowance, CircuitStatus, ExitId, GroupId, JoinedStatus, TunnelEvent, TunnelOutput};
use crate::speed::SpeedTest;
use crate::wire::{
    CELL_HEADER_LEN, CELL_LEN_MAX, CellHeader, CircuitId, Data, Destroy, DestroyReason, Flags, Message, id,
};
use bytes::Bytes;
use fairshare_crypto::{PublicKey, Rng, SecretKey};
use fairshare_wire::{CommunityId, Frame, Instant, Limit, Now, Rate, SourceLimit};
use indexmap::IndexMap;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// CREATEs of one address, and of one /24.
//= spec/tunnels.md#without-breaking-the-wire-required-of-our-node
const CREATE_RATE: Rate = Rate { per_second: 20, burst: 50 };
const NEIGHBOURHOOD_RATE: Rate = Rate { per_second: 80, burst: 200 };
/// CREATEs of all: each costs four multiplications on the curve, some 150 us, and a quarter of a core may go there.
const ALL_CREATES: Rate = Rate { per_second: 1_600, burst: 1_600 };
/// EXTENDs of all: each sends a datagram to an address that the asker names.
const ALL_EXTENDS: Rate = Rate { per_second: 500, burst: 1_000 };
/// Signatures of DESTROY that are checked: a tenth of a core.
const DESTROY_RATE: Rate = Rate { per_second: 2_000, burst: 2_000 };
/// Of a slowed neighbour's cells one of so many passes.
//= spec/payouts.md#36-exposure-what-a-node-risks-when-it-is-never-paid
const SLOWED: u32 = 20;

/// A host name that is being looked up.
pub(crate) struct Resolving {
    pub(crate) circuit: CircuitId,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) what: ResolvingFor,
}

/// What for.
pub(crate) enum ResolvingFor {
    /// Datagrams.
    Data,
    /// An HTTP exchange.
    Http { ident: u32, request: Bytes },
}

/// All limits on what others make us do.
pub(crate) struct Limits {
    creates: SourceLimit,
    neighbourhoods: SourceLimit,
    all_creates: Limit,
    destroys: Limit,
    pub(crate) extends: Limit,
}

/// The engine. See the crate's documentation.
pub struct Tunnel {
    pub(crate) config: TunnelConfig,
    pub(crate) key: SecretKey,
    pub(crate) me: PublicKey,
    pub(crate) rng: Rng,
    /// Our own addresses: no hop stands near them.
    pub(crate) own_addresses: Vec<SocketAddr>,
    pub(crate) candidates: Candidates,
    pub(crate) guards: Guards,
    pub(crate) saved_guards: Vec<u8>,
    /// Our circuits.
    pub(crate) own: BTreeMap<CircuitId, Circuit>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    /// Circuits of others, by their number on each link.
    pub(crate) joined: IndexMap<CircuitId, Joined>,
    pub(crate) relays: IndexMap<u64, Relay>,
    pub(crate) next_relay: u64,
    pub(crate) exits: BTreeMap<ExitId, CircuitId>,
    pub(crate) next_exit: u64,
    pub(crate) resolving: BTreeMap<u64, Resolving>,
    pub(crate) fetches: Fetch,
    pub(crate) tests: BTreeMap<u64, SpeedTest>,
    pub(crate) links: Links,
    pub(crate) services: Services,
    pub(crate) allowances: BTreeMap<PublicKey, Allowance>,
    /// Credit that neighbours used, in 1/1000 of their limits.
    pub(crate) credits: BTreeMap<PublicKey, u32>,
    slowed: u32,
    pub(crate) limits: Limits,
    next_ticket: u64,
    pub(crate) next_tick: Option<Instant>,
    pub(crate) next_report: Instant,
    pub(crate) out: VecDeque<TunnelOutput>,
    refusals: BTreeMap<&'static str, u64>,
}

impl Tunnel {
    /// An engine that knows nobody yet. `saved` is the last [`TunnelOutput::Save`] of an earlier run; one that cannot be
    /// read is as good as none.
    pub fn new(config: TunnelConfig, key: SecretKey, saved: Option<&[u8]>, rng: Rng, now: Now) -> Self {
        let guards = saved.and_then(|bytes| Guards::parse(bytes).ok()).unwrap_or_default();
        Self {
            me: key.public(),
            key,
            rng: rng.fork("tunnel"),
            own_addresses: Vec::new(),
            candidates: Candidates::default(),
            saved_guards: guards.to_bytes(),
            guards,
            own: BTreeMap::new(),
            groups: BTreeMap::new(),
            joined: IndexMap::new(),
            relays: IndexMap::new(),
            next_relay: 0,
            exits: BTreeMap::new(),
            next_exit: 0,
            resolving: BTreeMap::new(),
            fetches: Fetch::default(),
            tests: BTreeMap::new(),
            links: Links::default(),
            services: Services::default(),
            allowances: BTreeMap::new(),
            credits: BTreeMap::new(),
            slowed: 0,
            limits: Limits {
                creates: SourceLimit::new(CREATE_RATE),
                neighbourhoods: SourceLimit::new(NEIGHBOURHOOD_RATE),
                all_creates: Limit::new(ALL_CREATES),
                destroys: Limit::new(DESTROY_RATE),
                extends: Limit::new(ALL_EXTENDS),
            },
            next_ticket: 0,
            next_tick: None,
            next_report: now.mono + config.metering,
            out: VecDeque::new(),
            refusals: BTreeMap::new(),
            config,
        }
    }

    // ---- who is there ----

    /// An introduction told of a node; told again with each one.
    pub fn candidate_found(
        &mut self,
        now: Now,
        community: CommunityId,
        key: PublicKey,
        address: SocketAddr,
        flags: Flags,
    ) {
        if key == self.me || !self.config.communities.contains(&community) {
            return;
        }
        let crowded = !self.candidates.found(community, key, address, flags, self.config.allow_same_subnet);
        if crowded {
            return self.refuse("too many candidates of one network");
        }
        self.guards.seen(&key, now.unix_ms);
        self.arm(now.mono);
    }

    /// A node is gone from the overlay.
    pub fn candidate_lost(&mut self, _now: Now, key: &PublicKey) {
        self.candidates.lost(key);
    }

    /// The share of reputation of a node, in 1/1000.
    //= spec/trust.md#84-circuits
    pub fn set_standing(&mut self, key: &PublicKey, per_mille: u32) {
        self.candidates.set_standing(key, per_mille);
    }

    /// Our own addresses, in our network and as others see them.
    pub fn set_addresses(&mut self, addresses: Vec<SocketAddr>) {
        self.own_addresses = addresses;
    }

    /// Relays and exits, or not any more. What stands already goes on.
    pub fn set_relay(&mut self, relay: bool, exit: bool) {
        self.config.relay = relay;
        self.config.exit_bt = exit;
    }

    /// What our introductions are to tell.
    pub fn flags(&self) -> Flags {
        self.config.flags()
    }

    // ---- what arrives ----

    /// Takes a datagram of a tunnel community.
    pub fn handle_datagram(&mut self, now: Now, from: SocketAddr, datagram: &[u8]) {
        let Ok(frame) = Frame::parse(datagram) else { return self.refuse("not a packet") };
        if !self.config.communities.contains(&frame.community) {
            return self.refuse("packet of another community");
        }
        match frame.message_id {
            0 => self.cell(now, from, datagram),
            id::DESTROY => self.destroyed(now, from, datagram),
            id::CREATE_E2E | id::CREATED_E2E | id::PEERS_REQUEST | id::PEERS_RESPONSE => {
                self.bare_packet(now, from, frame.community, datagram);
            }
            _ => self.refuse("unknown tunnel message"),
        }
    }

    fn cell(&mut self, now: Now, from: SocketAddr, datagram: &[u8]) {
        let Ok((header, message)) = CellHeader::parse(datagram) else { return self.refuse("malformed cell") };
        if header.plaintext {
            return self.plain_cell(now, from, &header, message);
        }
        if let Some(circuit) = self.own.get(&header.circuit) {
            if circuit.first().address != from || circuit.community != header.community {
                return self.refuse("cell from elsewhere than its link");
            }
            return self.own_cell(now, header.circuit, message);
        }
        self.others_cell(now, from, &header, message);
    }

    /// Only the two halves of the first exchange may come without a layer.
    fn plain_cell(&mut self, now: Now, from: SocketAddr, header: &CellHeader, message: &[u8]) {
        match Message::parse(message) {
            Ok(Some(Message::Create { ident, key, point })) => {
                self.create(now, from, header, ident, key, point);
            }
            Ok(Some(Message::Created(exchange))) if self.own.contains_key(&header.circuit) => {
                let bytes = CELL_HEADER_LEN + message.len();
                self.own_created(now, Some((header, from, bytes)), header.circuit, &exchange);
            }
            Ok(Some(Message::Created(exchange))) => {
                self.others_created(now, from, header, CELL_HEADER_LEN + message.len(), &exchange);
            }
            Ok(_) => self.refuse("plaintext cell that must be encrypted"),
            Err(_) => self.refuse("malformed cell"),
        }
    }

    /// A cell of a circuit that somebody else built.
    fn others_cell(&mut self, now: Now, from: SocketAddr, header: &CellHeader, message: &[u8]) {
        match self.joined.get(&header.circuit) {
            Some(Joined::Relay { relay, ahead }) => {
                let (relay, ahead) = (*relay, *ahead);
                self.pass(now, from, header, relay, ahead, message);
            }
            Some(Joined::End(end)) => {
                if end.link.address != from || end.link.community != header.community {
                    return self.refuse("cell from elsewhere than its link");
                }
                self.end_cell(now, header, message);
            }
            Some(Joined::Extending(_)) | None => self.refuse("cell of an unknown circuit"),
        }
    }

    fn pass(
        &mut self,
        now: Now,
        from: SocketAddr,
        header: &CellHeader,
        relay: u64,
        from_ahead: bool,
        message: &[u8],
    ) {
        let Some(one) = self.relays.get_mut(&relay) else { return };
        let link = if from_ahead { one.ahead } else { one.back };
        if link.address != from || link.community != header.community {
            return self.refuse("cell from elsewhere than its link");
        }
        if !self.allowances.is_empty() {
            let back = one.back.key;
            if self.is_slowed(&back) {
                return self.refuse("cell of a neighbour that does not pay");
            }
        }
        let Some(one) = self.relays.get_mut(&relay) else { return };
        match one.pass(now.mono, from_ahead, header.relay_early, message) {
            Ok((to, cell)) => self.transmit(to, cell),
            Err(PassError::Open(error)) => self.refuse(open_refusal(error)),
            Err(PassError::Early) => self.refuse("too many early cells"),
        }
    }

    /// Whether this cell of the neighbour is to be dropped: all but one of twenty of a slowed one.
    pub(crate) fn is_slowed(&mut self, neighbour: &PublicKey) -> bool {
        if !matches!(self.allowances.get(neighbour), Some(Allowance::Slow | Allowance::Cut)) {
            return false;
        }
        self.slowed = (self.slowed + 1) % SLOWED;
        self.slowed != 0
    }

    fn own_cell(&mut self, now: Now, circuit: CircuitId, message: &[u8]) {
        let Some(one) = self.own.get_mut(&circuit) else { return };
        match one.open(message) {
            Ok(plain) => {
                one.count_down(now.mono, CELL_HEADER_LEN + message.len());
                one.pings.missed = 0;
                self.own_message(now, circuit, plain);
            }
            Err(error) => self.refuse(open_refusal(error)),
        }
    }

    fn own_message(&mut self, now: Now, circuit: CircuitId, plain: Bytes) {
        if plain.first() == Some(&id::DATA) {
            let Ok(data) = Data::parse(&plain[1..]) else { return self.refuse("malformed data") };
            let payload = plain.slice(plain.len() - data.data.len()..);
            let origin = data.origin.clone();
            return self.own_data(now, circuit, origin, payload);
        }
        match Message::parse(&plain) {
            Ok(Some(Message::Extended(exchange))) => self.own_created(now, None, circuit, &exchange),
            Ok(Some(message)) => self.own_answer(now, circuit, message),
            Ok(None) => {}
            Err(_) => self.refuse("malformed message"),
        }
    }

    fn destroyed(&mut self, now: Now, from: SocketAddr, datagram: &[u8]) {
        let body = datagram.get(23..).unwrap_or(&[]);
        let Ok((signer, circuit)) = Destroy::peek(body) else { return self.refuse("malformed destroy") };
        if self.neighbour_on(circuit, from) != Some(signer) {
            return self.refuse("destroy of somebody who is no neighbour");
        }
        if !self.limits.destroys.take(now.mono) {
            return self.refuse("too many destroys");
        }
        match Destroy::parse(datagram) {
            Ok(destroy) => self.end_on_destroy(now, destroy),
            Err(_) => self.refuse("destroy with a wrong signature"),
        }
    }

    /// Who may end this circuit from this address.
    fn neighbour_on(&self, circuit: CircuitId, from: SocketAddr) -> Option<PublicKey> {
        if let Some(own) = self.own.get(&circuit) {
            return (own.first().address == from).then(|| own.first().key);
        }
        let link = match self.joined.get(&circuit)? {
            Joined::End(end) => end.link,
            Joined::Relay { relay, ahead } => {
                let relay = self.relays.get(relay)?;
                if *ahead { relay.ahead } else { relay.back }
            }
            Joined::Extending(_) => return None,
        };
        (link.address == from).then_some(link.key)
    }

    fn end_on_destroy(&mut self, now: Now, destroy: Destroy) {
        if self.own.contains_key(&destroy.circuit) {
            return self.close_own(now, destroy.circuit, "ended by its first hop", None);
        }
        self.drop_joined(destroy.circuit, destroy.reason);
    }

    /// Whether the budgets let one more CREATE of this address be answered.
    pub(crate) fn may_answer_create(&mut self, now: Instant, from: SocketAddr) -> bool {
        self.limits.creates.take(now, from.ip())
            && self.limits.neighbourhoods.take(now, neighbourhood(from.ip()))
            && self.limits.all_creates.take(now)
    }

    // ---- time and outputs ----

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.next_tick.is_some_and(|at| at <= now.mono) {
            self.next_tick = None;
            self.tick(now);
            self.arm(now.mono);
        }
    }

    /// When to come back.
    pub const fn next_timeout(&self) -> Option<Instant> {
        self.next_tick
    }

    /// The next output, until there is none.
    pub fn poll(&mut self) -> Option<TunnelOutput> {
        self.out.pop_front()
    }

    // ---- queries ----

    /// Our own circuits.
    pub fn circuits(&self, now: Now) -> Vec<CircuitStatus> {
        let stock = |community: &CommunityId| self.config.communities.first() != Some(community);
        self.own.values().map(|one| one.status(now.mono, stock(&one.community))).collect()
    }

    /// Circuits of others that pass here or end here.
    pub fn joined(&self, now: Now) -> Vec<JoinedStatus> {
        let ends = self.joined.values().filter_map(|one| match one {
            Joined::End(end) => Some(JoinedStatus {
                from: (end.link.key, end.link.address),
                to: None,
                end: end.end(),
                age: now.mono.since(end.since),
                bytes: end.total,
            }),
            _ => None,
        });
        let relays = self.relays.values().map(|relay| JoinedStatus {
            from: (relay.back.key, relay.back.address),
            to: Some((relay.ahead.key, relay.ahead.address)),
            end: if relay.is_rendezvous() { CircuitEnd::Rendezvous } else { CircuitEnd::Elsewhere },
            age: now.mono.since(relay.since),
            bytes: relay.total,
        });
        ends.chain(relays).collect()
    }

    /// Nodes that may become hops: key, address and what they offer in the best community that they are in.
    pub fn candidates(&self) -> Vec<(PublicKey, SocketAddr, Flags)> {
        let mut seen = BTreeMap::new();
        for community in &self.config.communities {
            for (key, one) in self.candidates.offering(*community, Flags::NONE) {
                let flags = one.offers.get(community).copied().unwrap_or_default();
                seen.entry(*key).or_insert((one.address, flags));
            }
        }
        seen.into_iter().map(|(key, (address, flags))| (key, address, flags)).collect()
    }

    /// How often something was refused, by reason.
    pub const fn refusals(&self) -> &BTreeMap<&'static str, u64> {
        &self.refusals
    }

    /// The tunnel identity.
    pub const fn public_key(&self) -> PublicKey {
        self.me
    }

    // ---- for all parts ----

    /// Sends a datagram, unless living peers could not receive it whole.
    //= spec/tunnels.md#2-cell
    pub(crate) fn transmit(&mut self, to: SocketAddr, bytes: Bytes) {
        if bytes.len() > CELL_LEN_MAX {
            return self.refuse("cell that is too long");
        }
        self.out.push_back(TunnelOutput::Transmit { to, bytes });
    }

    pub(crate) fn event(&mut self, event: TunnelEvent) {
        self.out.push_back(TunnelOutput::Event(event));
    }

    pub(crate) fn refuse(&mut self, reason: &'static str) {
        *self.refusals.entry(reason).or_default() += 1;
    }

    pub(crate) fn new_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// A circuit number that means nothing here yet.
    pub(crate) fn new_circuit_id(&mut self) -> CircuitId {
        loop {
            let id = CircuitId((self.rng.next_u64() >> 32) as u32);
            // An address with port 1024 stands for it, so it is none that means something by itself.
            let special = id.0 == 0 || id.0 == u32::MAX;
            if !special && !self.own.contains_key(&id) && !self.joined.contains_key(&id) {
                return id;
            }
        }
    }

    /// Ends a circuit towards its first hop.
    pub(crate) fn send_destroy(
        &mut self,
        community: CommunityId,
        circuit: CircuitId,
        to: SocketAddr,
        reason: DestroyReason,
    ) {
        let packet = Destroy::sign(&self.key, community, circuit, reason);
        self.transmit(to, packet.into());
    }

    /// Sends a message over an own circuit.
    pub(crate) fn own_send(&mut self, circuit: CircuitId, message: &Message) {
        let Some(one) = self.own.get_mut(&circuit) else { return };
        let bytes = message.to_bytes();
        let extend = matches!(message, Message::Extend { .. });
        let cell = one.seal(extend, bytes.len(), |out| out.extend_from_slice(&bytes));
        let to = one.first().address;
        self.transmit(to, cell);
    }

    /// Sends a message back over a circuit that ends here.
    pub(crate) fn end_send(&mut self, circuit: CircuitId, message: &Message) {
        let Some(Joined::End(end)) = self.joined.get_mut(&circuit) else { return };
        let bytes = message.to_bytes();
        let cell = end.seal(bytes.len(), |out| out.extend_from_slice(&bytes));
        let to = end.link.address;
        self.transmit(to, cell);
    }

    /// Purpose of an own circuit.
    pub(crate) fn purpose(&self, circuit: CircuitId) -> Option<Purpose> {
        self.own.get(&circuit).map(|one| one.purpose)
    }
}

/// Why a layer did not come off, as it is counted.
pub(crate) const fn open_refusal(error: OpenError) -> &'static str {
    match error {
        OpenError::Undecryptable => "cell that does not decrypt",
        OpenError::Replayed => "replayed cell",
        OpenError::Exhausted => "counter used too often",
    }
}
