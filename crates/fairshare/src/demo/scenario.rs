//! Who takes part in the demo, what each gives and what each wants. Nothing here but the plan; the sizes are chosen
//! so that honest nodes finish under the default policy and the free-rider cannot without giving.
//!
//! Six honest nodes stand in a ring and want the files of both neighbours and of the node opposite, so wishes are
//! mutual: whoever takes from a node has something that this node wants. Every honest node also wants the small
//! files of the free-rider and of the forker, who therefore can give when they choose to.
//!
//! The paper sum, in real MiB: a stranger gets 2 charged MiB from each provider, at the idle price of 1/8 that is 16.
//! The free-rider meets seven providers and wants 144: 7 x 16 = 112 is not enough. An honest pair moves at least the
//! first 2 MiB each way out of the pool; then L = 3 x 2 - 2/8 is above zero on both sides, and 5.75 charged MiB are
//! room for 46 real ones before anything more is given back.
//!
//! Beside them stand eight others: four relays and an exit, each in a network of its own; a plain seeder; a hidden
//! seeder, whom nobody can address; and one who takes from both without showing who he is.

use crate::show::TOKEN as MIB;
use fairshare_node::Route;
use std::net::Ipv4Addr;

/// Nodes of the story.
pub(crate) const NODES: usize = 16;
/// What a stranger may take from each provider here, in charged bytes; the default is eight times that.
pub(crate) const STRANGER_BYTES: u64 = 2 * MIB;
/// The same in real bytes, at the idle price of 1/8.
pub(crate) const STRANGER_REAL_BYTES: u64 = 8 * STRANGER_BYTES;
const HONEST_FILE: u64 = 48 * MIB;
const SMALL_FILE: u64 = 16 * MIB;
const TINY_FILE: u64 = MIB;

/// What a node does in the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Gives and takes.
    Honest,
    /// Takes; gives only after it was refused.
    FreeRider,
    /// Signs two blocks with one number.
    Forker,
    /// Passes circuits of others on.
    Relay,
    /// Lets them leave, too.
    Exit,
    /// Serves whoever comes.
    Seeder,
    /// Serves without an address.
    HiddenSeeder,
    /// Takes without an address.
    Anonymous,
}

impl Role {
    /// The word for the terminal and the page.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::FreeRider => "free-rider",
            Self::Forker => "forker",
            Self::Relay => "relay",
            Self::Exit => "exit",
            Self::Seeder => "seeder",
            Self::HiddenSeeder => "hidden seeder",
            Self::Anonymous => "anonymous",
        }
    }

    /// Whether it trades in the open: who takes is known by key and pays by the count.
    pub(crate) const fn is_open(self) -> bool {
        matches!(self, Self::Honest | Self::FreeRider | Self::Forker)
    }

    /// Whether circuits pass it.
    pub(crate) const fn relays(self) -> bool {
        matches!(self, Self::Relay | Self::Exit)
    }
}

/// One node of the plan.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    /// Its name in the story.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) role: Role,
    /// Its own address: loopback addresses are judged one by one, like different networks.
    pub(crate) address: Ipv4Addr,
    /// Bytes of its own file.
    pub(crate) file_bytes: u64,
    /// Whose files it wants from the start.
    pub(crate) wants: Vec<usize>,
    /// Whose file it wants later in the story.
    pub(crate) wants_later: Vec<usize>,
    /// Whose files it takes through circuits, and how.
    pub(crate) wants_unseen: Vec<(usize, Route)>,
}

/// Indices of the two who do not play by the rules, and of the one that is killed.
pub(crate) const FREE_RIDER: usize = 6;
pub(crate) const FORKER: usize = 7;
pub(crate) const KILLED: usize = 3;
/// Who serves and who takes through circuits.
pub(crate) const SEEDER: usize = 13;
pub(crate) const HIDDEN_SEEDER: usize = 14;
pub(crate) const ANONYMOUS: usize = 15;
/// The ways that the anonymous one takes.
pub(crate) const OVER_TWO_HOPS: Route = Route::Exit { hops: 2 };
pub(crate) const END_TO_END: Route = Route::Hidden { hops: 1 };
/// Nodes that trade in the open.
const OPEN: usize = 8;

const NAMES: [&str; NODES] = [
    "anna", "boris", "chen", "dina", "emil", "fatma", "rick", "zoe", "rosa", "rolf", "ruth", "remo", "ella",
    "sven", "hana", "otto",
];
const HONEST: usize = 6;

/// The plan.
pub(crate) fn actors() -> Vec<Actor> {
    (0..NODES).map(actor).collect()
}

fn actor(index: usize) -> Actor {
    if index >= OPEN {
        return unseen(index);
    }
    let (role, file_bytes, wants, wants_later) = match index {
        FREE_RIDER => (Role::FreeRider, SMALL_FILE, vec![0, 2, 4], vec![]),
        FORKER => (Role::Forker, SMALL_FILE, vec![1, 3], vec![5]),
        honest => {
            let ring = [1, HONEST - 1, HONEST / 2].map(|step| (honest + step) % HONEST);
            (Role::Honest, HONEST_FILE, [ring.as_slice(), &[FREE_RIDER, FORKER]].concat(), vec![])
        }
    };
    let last = 11 + u8::try_from(index).expect("a handful of nodes");
    Actor {
        name: NAMES[index],
        role,
        address: Ipv4Addr::new(127, 0, 0, last),
        file_bytes,
        wants,
        wants_later,
        wants_unseen: Vec::new(),
    }
}

/// Those around the circuits. Each lives in a network of its own: no two hops of a circuit may share one.
fn unseen(index: usize) -> Actor {
    let role = match index {
        SEEDER => Role::Seeder,
        HIDDEN_SEEDER => Role::HiddenSeeder,
        ANONYMOUS => Role::Anonymous,
        12 => Role::Exit,
        _ => Role::Relay,
    };
    let wants_unseen = match role {
        Role::Anonymous => vec![(SEEDER, OVER_TWO_HOPS), (HIDDEN_SEEDER, END_TO_END)],
        _ => Vec::new(),
    };
    let network = 20 + u8::try_from(index).expect("a handful of nodes");
    Actor {
        name: NAMES[index],
        role,
        address: Ipv4Addr::new(127, network, 0, 1),
        file_bytes: if role.relays() { TINY_FILE } else { SMALL_FILE },
        wants: Vec::new(),
        wants_later: Vec::new(),
        wants_unseen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every node wants at least.
    const WANTED_MIN: u64 = 128 * MIB;

    fn wanted(actor: &Actor, all: &[Actor]) -> u64 {
        actor.wants.iter().chain(&actor.wants_later).map(|index| all[*index].file_bytes).sum()
    }

    #[test]
    fn everybody_wants_enough_and_honest_wishes_are_mutual() {
        let all = actors();
        for (index, actor) in all.iter().enumerate().filter(|(_, actor)| actor.role.is_open()) {
            assert!(wanted(actor, &all) >= WANTED_MIN, "{} wants too little", actor.name);
            assert!(!actor.wants.contains(&index));
            for other in actor.wants.iter().filter(|other| all[**other].role == Role::Honest) {
                assert!(
                    all[*other].wants.contains(&index),
                    "{} gives nothing that {} wants",
                    actor.name,
                    other
                );
            }
        }
        let honest = all.iter().filter(|actor| actor.role == Role::Honest);
        assert!(honest.clone().count() == HONEST && honest.clone().all(|actor| actor.wants.len() >= 4));
    }

    #[test]
    fn the_free_rider_cannot_finish_on_allowances_alone() {
        let all = actors();
        let allowances = STRANGER_REAL_BYTES * (OPEN as u64 - 1);
        assert!(allowances < wanted(&all[FREE_RIDER], &all));
    }

    #[test]
    fn no_two_nodes_around_the_circuits_share_a_network() {
        let networks: std::collections::BTreeSet<_> = actors()
            .iter()
            .filter(|actor| !actor.role.is_open())
            .map(|actor| actor.address.octets()[1])
            .collect();
        assert_eq!(networks.len(), NODES - OPEN);
    }

    #[test]
    fn the_forker_still_wants_something_when_it_is_proved() {
        assert_eq!(actors()[FORKER].wants_later, [5]);
    }
}
