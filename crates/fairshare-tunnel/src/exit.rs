//! Where traffic leaves the circuits: what an exit sends, lets in, resolves and refuses.
//= spec/tunnels.md#7-exit

use crate::engine::{Resolving, ResolvingFor, Tunnel};
use crate::exit_policy::{may_pass, may_reach};
use crate::joined::{Joined, Role};
use crate::output::{ExitId, TunnelOutput};
use crate::wire::{CircuitId, Data, NOWHERE};
use bytes::Bytes;
use fairshare_wire::{Address, Instant, Limit, Now, Rate};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// Datagrams that wait for the name of their destination.
const HELD_MAX: usize = 10;
/// Names of one circuit that are remembered.
const NAMES_MAX: usize = 32;
/// What one circuit may send, in KiB (a smaller datagram counts as one): above what a circuit carries, so that only abuse
/// meets it.
const CIRCUIT_RATE: Rate = Rate { per_second: 64 << 10, burst: 64 << 10 };
/// What one circuit may send to one destination.
const DESTINATION_RATE: Rate = Rate { per_second: 32 << 10, burst: 32 << 10 };
/// New destinations of one circuit.
const NEW_DESTINATIONS: Rate = Rate { per_second: 20, burst: 200 };
/// Destinations of one circuit whose rates are remembered.
const DESTINATIONS_MAX: usize = 1_024;

/// The exit's side of one circuit.
pub(crate) struct Exit {
    pub(crate) sockets: Option<ExitId>,
    held: VecDeque<(Address, Bytes)>,
    names: BTreeMap<(String, u16), Option<SocketAddr>>,
    rate: Limit,
    new_destinations: Limit,
    destinations: BTreeMap<SocketAddr, Limit>,
    /// HTTP exchanges under way.
    pub(crate) http: usize,
}

impl Default for Exit {
    fn default() -> Self {
        Self {
            sockets: None,
            held: VecDeque::new(),
            names: BTreeMap::new(),
            rate: Limit::new(CIRCUIT_RATE),
            new_destinations: Limit::new(NEW_DESTINATIONS),
            destinations: BTreeMap::new(),
            http: 0,
        }
    }
}

impl Exit {
    fn allows(&mut self, now: Instant, to: SocketAddr, bytes: usize) -> bool {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        if !self.rate.take_many(now, kib) {
            return false;
        }
        if !self.destinations.contains_key(&to) {
            if self.destinations.len() >= DESTINATIONS_MAX {
                self.destinations.clear();
            }
            if !self.new_destinations.take(now) {
                return false;
            }
            self.destinations.insert(to, Limit::new(DESTINATION_RATE));
        }
        self.destinations.get_mut(&to).is_some_and(|limit| limit.take_many(now, kib))
    }
}

impl Tunnel {
    /// DATA at the end of a circuit of somebody else.
    pub(crate) fn exit_data(&mut self, now: Now, circuit: CircuitId, data: &Data<'_>, payload: Bytes) {
        match &data.destination {
            Address::Ip(to) if *to == NOWHERE => self.refuse("data for nowhere"),
            Address::Ip(to) => self.exit_send(now, circuit, *to, payload),
            Address::Host(host, port) => self.exit_named(now, circuit, host, *port, payload),
        }
    }

    fn exit_named(&mut self, now: Now, circuit: CircuitId, host: &str, port: u16, payload: Bytes) {
        let Some(Joined::End(end)) = self.joined.get_mut(&circuit) else { return };
        let name = (host.to_owned(), port);
        match end.exit.names.get(&name) {
            Some(Some(to)) => {
                let to = *to;
                return self.exit_send(now, circuit, to, payload);
            }
            Some(None) => {}
            None if end.exit.names.len() >= NAMES_MAX => return self.refuse("too many names in one circuit"),
            None => {
                end.exit.names.insert(name, None);
                self.resolve(circuit, host, port, ResolvingFor::Data);
            }
        }
        let Some(Joined::End(end)) = self.joined.get_mut(&circuit) else { return };
        if end.exit.held.len() >= HELD_MAX {
            return self.refuse("too many datagrams wait for a name");
        }
        end.exit.held.push_back((Address::Host(host.to_owned(), port), payload));
    }

    pub(crate) fn resolve(&mut self, circuit: CircuitId, host: &str, port: u16, what: ResolvingFor) {
        let ticket = self.new_ticket();
        let resolving = Resolving { circuit, host: host.to_owned(), port, what };
        self.resolving.insert(ticket, resolving);
        self.out.push_back(TunnelOutput::Resolve { ticket, host: host.to_owned(), port });
    }

    /// The answer to a question for a host's addresses.
    pub fn resolved(&mut self, now: Now, ticket: u64, result: Result<Vec<SocketAddr>, String>) {
        let Some(Resolving { circuit, host, port, what }) = self.resolving.remove(&ticket) else { return };
        // IPv4 is preferred; the port is the asker's, whatever the resolver says.
        let found = result.unwrap_or_default();
        let best = found.iter().find(|one| one.is_ipv4()).or_else(|| found.first()).copied();
        let best = best.map(|address| SocketAddr::new(address.ip(), port));
        match what {
            ResolvingFor::Http { ident, request } => self.http_resolved(circuit, ident, best, request),
            ResolvingFor::Data => {
                let Some(Joined::End(end)) = self.joined.get_mut(&circuit) else { return };
                let name = (host.clone(), port);
                if let Some(to) = best {
                    end.exit.names.insert(name, Some(to));
                } else {
                    end.exit.names.remove(&name);
                }
                let wanted = Address::Host(host, port);
                let (ours, others) =
                    std::mem::take(&mut end.exit.held).into_iter().partition(|(to, _)| *to == wanted);
                end.exit.held = others;
                let ours: VecDeque<(Address, Bytes)> = ours;
                let Some(to) = best else { return self.refuse("a name that does not resolve") };
                for (_, payload) in ours {
                    self.exit_send(now, circuit, to, payload);
                }
            }
        }
    }

    fn exit_send(&mut self, now: Now, circuit: CircuitId, to: SocketAddr, payload: Bytes) {
        let (flags, loopback) = (self.config.flags(), self.config.exit_loopback);
        let services = self.service_community(&payload);
        let Some(Joined::End(end)) = self.joined.get_mut(&circuit) else { return };
        let community = services.unwrap_or(end.link.community);
        if !may_pass(&payload, flags, &community) {
            return self.refuse("datagram that may not leave");
        }
        if !may_reach(&to, loopback) {
            return self.refuse("destination that may not be reached");
        }
        if !end.exit.allows(now.mono, to, payload.len()) {
            return self.refuse("exit traffic above its rate");
        }
        if end.role == Role::New {
            end.role = Role::Exiting;
        }
        end.active = now.mono;
        let exit = match end.exit.sockets {
            Some(exit) => exit,
            None => {
                self.next_exit += 1;
                let exit = ExitId(self.next_exit);
                end.exit.sockets = Some(exit);
                self.exits.insert(exit, circuit);
                self.out.push_back(TunnelOutput::ExitOpen(exit));
                exit
            }
        };
        self.out.push_back(TunnelOutput::ExitSend { exit, to, bytes: payload });
    }

    /// A datagram arrived at the sockets of an exit.
    pub fn exit_datagram(&mut self, _now: Now, exit: ExitId, from: SocketAddr, data: &[u8]) {
        let flags = self.config.flags();
        let Some(circuit) = self.exits.get(&exit).copied() else { return };
        let services = self.service_community(data);
        let Some(Joined::End(end)) = self.joined.get_mut(&circuit) else { return };
        if !may_pass(data, flags, &services.unwrap_or(end.link.community)) {
            return self.refuse("datagram that may not come in");
        }
        let (nowhere, origin) = (Address::Ip(NOWHERE), Address::Ip(from));
        let cell = end.seal(data.len() + 64, |out| Data::write(out, &nowhere, &origin, data));
        let to = end.link.address;
        self.transmit(to, cell);
    }
}
