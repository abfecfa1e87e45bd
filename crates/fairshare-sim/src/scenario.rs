//! What a world is made of. A scenario gives bounds; the seed draws the rest.

use crate::tracker::ANNOUNCE;
use fairshare_crypto::{Rng, SecretKey, sha1};
use fairshare_economy::STRANGER_BYTES;
use fairshare_swarm::Metainfo;
use fairshare_swarm::metainfo::TorrentBuilder;
use fairshare_wire::Instant;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// A planted defect: shows that the checks find what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The world says `Persisted` at once and writes later, so that blocks leave before they are on disk.
    SendBeforePersist,
}

/// A node with one rule broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Adversary {
    /// Takes and never gives.
    FreeRider,
    /// Signs two blocks with one number.
    Forker,
    /// Takes and never pays: none of its own blocks ever leaves.
    Defaulter,
    /// Serves damaged pieces.
    Poisoner,
}

/// Which adversaries a world has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adversaries {
    /// None.
    None,
    /// The seed decides.
    Drawn,
    /// Just these.
    These(Vec<Adversary>),
}

/// The bounds of a world.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Machines of honest people.
    pub honest: RangeInclusive<u64>,
    /// Bytes of each file.
    pub file_bytes: RangeInclusive<u64>,
    /// Machines of others.
    pub adversaries: Adversaries,
    /// Whether the network loses, disks are slow, and machines crash.
    pub faults: bool,
    /// A planted defect.
    pub bug: Option<Bug>,
    /// Whether each sent block is looked up on the sender's disk. Without it a defect must show by its consequences.
    pub watch_order: bool,
    /// How many of the last happenings a failure shows.
    pub events_kept: usize,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            honest: 3..=5,
            file_bytes: 1 << 20..=5 << 20,
            adversaries: Adversaries::Drawn,
            faults: true,
            bug: None,
            watch_order: true,
            events_kept: 200,
        }
    }
}

/// Who owns a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Somebody who follows the rules.
    Honest,
    /// Somebody who breaks one.
    Breaks(Adversary),
}

/// A machine before it runs.
#[derive(Clone, Debug)]
pub(crate) struct MachinePlan {
    pub(crate) role: Role,
    pub(crate) key: SecretKey,
    pub(crate) address: SocketAddr,
    /// Bytes per second that leave it.
    pub(crate) uplink: u64,
    /// How far its wall clock is ahead of the world's, in ms.
    pub(crate) clock_ahead_ms: u64,
    /// The file it made.
    pub(crate) made: usize,
    /// The files it wants.
    pub(crate) wants: Vec<usize>,
    /// Whether it knows them from magnets only.
    pub(crate) by_magnet: bool,
}

/// A file that somebody made.
#[derive(Clone, Debug)]
pub(crate) struct FilePlan {
    pub(crate) metainfo: Arc<Metainfo>,
    pub(crate) data: Vec<u8>,
}

/// A fault that happens at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A machine stops between two instructions, and starts again later.
    Crash { machine: usize, down: Duration },
    /// The same, while its next own block is on the way to the disk.
    CrashAtSigning { machine: usize, down: Duration },
    /// The store of a machine takes nothing any more; later somebody makes room, or restarts the machine.
    StoreFails { machine: usize, span: Duration, restart: bool },
    /// The store of a machine works again.
    StoreWorks { machine: usize },
    /// Two machines do not reach each other for a while.
    Cut { between: (usize, usize), span: Duration },
}

/// Everything that is decided before the first moment.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) machines: Vec<MachinePlan>,
    pub(crate) files: Vec<FilePlan>,
    pub(crate) faults: Vec<(Instant, Fault)>,
    /// From now on nothing goes wrong any more.
    pub(crate) healed: Instant,
    /// Whether honest machines are friends of each other, or strangers.
    pub(crate) friends: bool,
    /// What a stranger may take, in charged bytes.
    pub(crate) stranger_bytes: u64,
}

/// Each file comes in at least this many pieces.
const PIECE_LENS: [u32; 3] = [32 << 10, 64 << 10, 256 << 10];
/// Slow enough that transfers last into the time of faults.
const UPLINKS: RangeInclusive<u64> = 300_000..=1_500_000;
/// Less than what a free-rider wants, also at the lowest price.
const STRANGER_BYTES_SHORT: u64 = 64 << 10;
const FAULTY_SPAN_S: RangeInclusive<u64> = 20..=60;
const CLOCK_AHEAD_MS_MAX: u64 = 5_000;

impl Plan {
    pub(crate) fn draw(seed: u64, scenario: &Scenario) -> Self {
        let mut rng = Rng::from_seed(wide(seed)).fork("plan");
        let honest = between(&mut rng, &scenario.honest) as usize;
        let mut roles = vec![Role::Honest; honest];
        roles.extend(draw_adversaries(&mut rng, &scenario.adversaries).into_iter().map(Role::Breaks));
        let files: Vec<FilePlan> =
            (0..roles.len()).map(|index| draw_file(&mut rng, index, &scenario.file_bytes)).collect();
        let machines: Vec<MachinePlan> = roles
            .iter()
            .enumerate()
            .map(|(index, role)| draw_machine(&mut rng, index, *role, honest))
            .collect();
        let span = between(&mut rng, &FAULTY_SPAN_S);
        let healed = Instant::START + Duration::from_secs(if scenario.faults { span } else { 0 });
        let faults = if scenario.faults { draw_faults(&mut rng, honest, span) } else { Vec::new() };
        // Where somebody takes and never gives, strangers are kept short, and the others do not count as such.
        let is_short = roles.contains(&Role::Breaks(Adversary::FreeRider));
        Self {
            machines,
            files,
            faults,
            healed,
            friends: is_short || rng.chance(1, 2),
            stranger_bytes: if is_short { STRANGER_BYTES_SHORT } else { STRANGER_BYTES },
        }
    }
}

/// The generator of everything in a run.
pub(crate) fn wide(seed: u64) -> [u8; 32] {
    let mut out = [0; 32];
    out[..8].copy_from_slice(&seed.to_be_bytes());
    out
}

/// Uniform in a range.
pub(crate) fn between(rng: &mut Rng, range: &RangeInclusive<u64>) -> u64 {
    range.start() + rng.below(range.end() - range.start() + 1)
}

/// Uniform in a range of milliseconds.
pub(crate) fn millis(rng: &mut Rng, range: RangeInclusive<u64>) -> Duration {
    Duration::from_millis(between(rng, &range))
}

fn draw_adversaries(rng: &mut Rng, adversaries: &Adversaries) -> Vec<Adversary> {
    match adversaries {
        Adversaries::None => Vec::new(),
        Adversaries::These(these) => these.clone(),
        Adversaries::Drawn => {
            let all = [Adversary::FreeRider, Adversary::Forker, Adversary::Defaulter, Adversary::Poisoner];
            all.into_iter().filter(|_| rng.chance(1, 4)).collect()
        }
    }
}

fn draw_file(rng: &mut Rng, index: usize, sizes: &RangeInclusive<u64>) -> FilePlan {
    let len = between(rng, sizes);
    let piece_len = PIECE_LENS[rng.index(PIECE_LENS.len()).expect("not empty")];
    let mut data = vec![0; usize::try_from(len).expect("virtual files are small")];
    rng.fill(&mut data);
    let mut torrent = TorrentBuilder::file(&format!("file {index}"), len)
        .expect("a good name")
        .piece_len(piece_len)
        .trackers(vec![vec![ANNOUNCE.to_owned()]]);
    data.chunks(piece_len as usize).for_each(|piece| torrent.push_hash(sha1(piece)));
    FilePlan { metainfo: Arc::new(torrent.finish().expect("all pieces are hashed")), data }
}

fn draw_machine(rng: &mut Rng, index: usize, role: Role, honest: usize) -> MachinePlan {
    // Everybody wants two files of honest others, so that trade flows both ways.
    let mut wants: Vec<usize> = (0..honest).filter(|file| *file != index).collect();
    rng.shuffle(&mut wants);
    wants.truncate(2);
    let number = u8::try_from(index + 1).expect("few machines");
    MachinePlan {
        role,
        key: SecretKey::generate(rng),
        // Every machine in a network of its own, none of them private.
        address: SocketAddr::from(([20 + number, number, 0, number], 8090)),
        uplink: between(rng, &UPLINKS),
        clock_ahead_ms: rng.below(CLOCK_AHEAD_MS_MAX),
        made: index,
        wants,
        by_magnet: rng.chance(1, 4),
    }
}

fn draw_faults(rng: &mut Rng, honest: usize, span_s: u64) -> Vec<(Instant, Fault)> {
    let count = between(rng, &(2..=6));
    (0..count)
        .map(|_| {
            let at = Instant::START + millis(rng, 1_000..=span_s * 1_000);
            let machine = rng.index(honest).expect("somebody is honest");
            let fault = match rng.below(6) {
                0 => {
                    let other = (machine + 1 + rng.index(honest - 1).unwrap_or_default()) % honest;
                    Fault::Cut { between: (machine, other), span: millis(rng, 2_000..=15_000) }
                }
                1 => Fault::StoreFails { machine, span: millis(rng, 500..=5_000), restart: rng.chance(1, 2) },
                2 | 3 => Fault::CrashAtSigning { machine, down: millis(rng, 50..=8_000) },
                _ => Fault::Crash { machine, down: millis(rng, 50..=8_000) },
            };
            (at, fault)
        })
        .collect()
}
