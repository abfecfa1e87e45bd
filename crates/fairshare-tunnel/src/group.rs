//! Groups: circuits that only one torrent or one program uses, so that what one does tells nothing about another.
//= spec/tunnels.md#10-socks5-towards-the-bittorrent-engine

use crate::circuit::Purpose;
use crate::engine::Tunnel;
use crate::hidden::HiddenGroup;
use crate::hidden_names::address_circuit;
use crate::originator::NOT_NEEDED;
use crate::output::{GroupId, GroupSpec, TunnelEvent};
use crate::path::Wish;
use crate::wire::{CircuitId, Data, DestroyReason, NOWHERE, fits};
use fairshare_crypto::PublicKey;
use fairshare_wire::{Address, Instant, Now};
use std::collections::BTreeMap;
use std::time::Duration;

/// Groups at once.
pub(crate) const GROUPS_MAX: usize = 256;
/// Destinations of a group that keep their circuit.
const DESTINATIONS_MAX: usize = 4_096;
/// A destination that was not used for so long may get another circuit, when there are too many.
const DESTINATION_AGE: Duration = Duration::from_secs(120);
/// A second circuit is begun when the first is not there after this: a lost datagram costs no whole timeout.
const IMPATIENCE: Duration = Duration::from_secs(3);
/// Circuits of one group that are being built at once.
const BUILDING_MAX: usize = 3;
/// After a path could not be found, the next try waits for this.
const PATIENCE: Duration = Duration::from_millis(500);

/// A circuit that ended sooner than this did not live; so many in a row are borne, then the wait doubles with each, at
/// most so often.
const SHORT_LIFE: Duration = Duration::from_secs(5);
const SHORT_LIVED_BORNE: u32 = 4;
const PATIENCE_DOUBLED_MAX: u32 = 5;

/// A group.
pub(crate) struct Group {
    pub(crate) spec: GroupSpec,
    /// Which circuit each uses, and when it was used last.
    destinations: BTreeMap<Address, (CircuitId, Instant)>,
    told_ready: bool,
    retry_at: Instant,
    /// Circuits in a row that ended as soon as they began.
    short_lived: u32,
    pub(crate) hidden: Option<HiddenGroup>,
}

impl Group {
    pub(crate) fn new(spec: GroupSpec, now: Instant) -> Self {
        Self {
            spec,
            destinations: BTreeMap::new(),
            told_ready: false,
            retry_at: now,
            short_lived: 0,
            hidden: None,
        }
    }

    /// Makes room for a destination: those that were not used for long go, or else the one that was used least lately.
    fn forget_destinations(&mut self, now: Instant) {
        self.destinations.retain(|_, (_, used)| now.since(*used) < DESTINATION_AGE);
        if self.destinations.len() >= DESTINATIONS_MAX {
            let oldest =
                self.destinations.iter().min_by_key(|(_, (_, used))| *used).map(|(to, _)| to.clone());
            oldest.and_then(|to| self.destinations.remove(&to));
        }
    }
}

impl Tunnel {
    /// Begins a group: its circuits are built and kept.
    pub fn open_group(&mut self, now: Now, id: GroupId, spec: GroupSpec) {
        if self.groups.len() >= GROUPS_MAX {
            return self.refuse("too many groups");
        }
        if self.groups.get(&id).is_some_and(|group| group.hidden.is_some()) {
            return self.refuse("group of a hidden swarm");
        }
        self.groups.insert(id, Group::new(spec, now.mono));
        self.keep_group(now, id);
        self.arm(now.mono);
    }

    /// Ends a group and all its circuits.
    pub fn close_group(&mut self, now: Now, id: GroupId) {
        self.forget_service(now, id);
        self.groups.remove(&id);
        let circuits: Vec<_> =
            self.own.values().filter(|one| one.purpose.group() == Some(id)).map(|one| one.id).collect();
        for circuit in circuits {
            self.close_own(now, circuit, NOT_NEEDED, Some(DestroyReason::UNNEEDED));
        }
        self.fetches.forget_group(id);
        self.arm(now.mono);
    }

    /// Ends one of our circuits. Its group builds another one.
    pub fn close_circuit(&mut self, now: Now, circuit: CircuitId) -> bool {
        let known = self.own.contains_key(&circuit);
        self.close_own(now, circuit, "closed on command", Some(DestroyReason::UNNEEDED));
        known
    }

    /// Sends a datagram through one of the group's circuits. Without one it is lost, like any datagram may be.
    pub fn send(&mut self, now: Now, id: GroupId, to: &Address, data: &[u8]) {
        let Some(group) = self.groups.get(&id) else { return self.refuse("datagram of an unknown group") };
        if !fits(to) {
            return self.refuse("host name that is too long");
        }
        let hidden = group.hidden.is_some();
        let circuit = match to {
            Address::Ip(address) if hidden => {
                address_circuit(address).filter(|circuit| self.is_linked(*circuit, id))
            }
            Address::Host(..) if hidden => None,
            _ => self.circuit_for(now.mono, id, to),
        };
        let Some(circuit) = circuit else { return self.refuse("datagram without a circuit") };
        self.send_data(now, circuit, to, data);
    }

    /// Sends DATA over an own circuit. End to end nobody needs an address.
    pub(crate) fn send_data(&mut self, now: Now, circuit: CircuitId, to: &Address, data: &[u8]) {
        let Some(one) = self.own.get_mut(&circuit) else { return };
        let nowhere = Address::Ip(NOWHERE);
        let to = if one.end_to_end.is_some() { &nowhere } else { to };
        let cell = one.seal(false, data.len() + 64, |out| Data::write(out, to, &nowhere, data));
        one.used = now.mono;
        let first = one.first().address;
        self.transmit(first, cell);
    }

    /// The same over a circuit whose own end is meant by the address: an introduction point.
    pub(crate) fn send_plain_data(&mut self, circuit: CircuitId, to: &Address, data: &[u8]) {
        let Some(one) = self.own.get_mut(&circuit) else { return };
        let nowhere = Address::Ip(NOWHERE);
        let cell = one.seal(false, data.len() + 64, |out| Data::write(out, to, &nowhere, data));
        let first = one.first().address;
        self.transmit(first, cell);
    }

    fn is_linked(&self, circuit: CircuitId, group: GroupId) -> bool {
        self.own
            .get(&circuit)
            .is_some_and(|one| one.is_linked && one.is_ready() && one.purpose.group() == Some(group))
    }

    /// A destination keeps its circuit; a new one gets any that takes new ones.
    fn circuit_for(&mut self, now: Instant, id: GroupId, to: &Address) -> Option<CircuitId> {
        if let Some((circuit, used)) = self.groups.get_mut(&id)?.destinations.get_mut(to)
            && self.own.get(circuit).is_some_and(|one| one.is_ready() && !one.is_suspect())
        {
            *used = now;
            return Some(*circuit);
        }
        let circuit = self.any_circuit(id)?;
        // One that is suspect carries it only until there is a better one.
        if self.own.get(&circuit)?.is_suspect() {
            return Some(circuit);
        }
        let group = self.groups.get_mut(&id)?;
        if group.destinations.len() >= DESTINATIONS_MAX {
            group.forget_destinations(now);
        }
        group.destinations.insert(to.clone(), (circuit, now));
        Some(circuit)
    }

    /// The circuit carries the group's destinations no more: whoever is connected with them is told.
    pub(crate) fn unsettle(&mut self, id: GroupId, circuit: CircuitId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let of_circuit = group.destinations.iter().filter(|(_, (used, _))| *used == circuit);
        let destinations: Vec<Address> = of_circuit.map(|(to, _)| to.clone()).collect();
        group.destinations.retain(|_, (used, _)| *used != circuit);
        if !destinations.is_empty() {
            self.event(TunnelEvent::Moved { group: id, destinations });
        }
    }

    /// A data circuit of the group that takes new destinations; if none does, one that merely stands.
    pub(crate) fn any_circuit(&mut self, id: GroupId) -> Option<CircuitId> {
        let of_group = |one: &&crate::circuit::Circuit| one.purpose == Purpose::Data(id) && one.is_ready();
        let mut fit: Vec<CircuitId> =
            self.own.values().filter(of_group).filter(|one| one.takes_new()).map(|one| one.id).collect();
        if fit.is_empty() {
            fit = self.own.values().filter(of_group).map(|one| one.id).collect();
        }
        let at = self.rng.index(fit.len())?;
        fit.get(at).copied()
    }

    pub(crate) fn data_circuit_stands(&mut self, now: Now, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if !std::mem::replace(&mut group.told_ready, true) {
            self.event(TunnelEvent::GroupReady(id));
        }
        self.look_up_service(now, id);
    }

    /// One of the group's circuits ended, which began then.
    pub(crate) fn data_circuit_gone(
        &mut self,
        now: Instant,
        id: GroupId,
        circuit: CircuitId,
        began: Instant,
    ) {
        self.unsettle(id, circuit);
        let left = self.own.values().any(|one| one.purpose == Purpose::Data(id) && one.is_ready());
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.told_ready &= left;
        // Whoever ends our circuits at once is not asked again at once.
        group.short_lived = if now.since(began) < SHORT_LIFE { group.short_lived + 1 } else { 0 };
        if let Some(times) = group.short_lived.checked_sub(SHORT_LIVED_BORNE) {
            group.retry_at = now + PATIENCE * 2_u32.pow(times.min(PATIENCE_DOUBLED_MAX));
        }
    }

    /// Builds what the group is short of.
    pub(crate) fn keep_group(&mut self, now: Now, id: GroupId) {
        let Some(group) = self.groups.get(&id) else { return };
        if group.retry_at > now.mono {
            return;
        }
        let (spec, mut ready, mut building, mut impatient) = (group.spec.clone(), 0, 0, true);
        for one in self.own.values().filter(|one| one.purpose == Purpose::Data(id)) {
            if one.is_ready() {
                ready += usize::from(one.takes_new());
            } else {
                building += 1;
                impatient &= now.mono.since(one.began) >= IMPATIENCE;
            }
        }
        let short = spec.circuits.saturating_sub(ready + building);
        let extra =
            usize::from(short == 0 && ready == 0 && building > 0 && building < BUILDING_MAX && impatient);
        for _ in 0..short + extra {
            let wish = Wish { shun: self.hops_of(id), ..Wish::of(&spec) };
            if self.build(now, Purpose::Data(id), &wish).is_none() {
                if let Some(group) = self.groups.get_mut(&id) {
                    group.retry_at = now.mono + PATIENCE;
                }
                return;
            }
        }
    }

    /// The hops of the group's circuits, so that another circuit does not fall with them.
    fn hops_of(&self, id: GroupId) -> Vec<PublicKey> {
        let circuits = self.own.values().filter(|one| one.purpose == Purpose::Data(id));
        circuits.flat_map(|one| one.goal.iter().map(|hop| hop.key)).collect()
    }
}
