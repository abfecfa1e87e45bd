//! The picker against a model that remembers every request, and single rules by hand.

use super::*;
use fairshare_crypto::Rng;
use proptest::prelude::*;
use std::time::Duration;

const PIECE_LEN: u32 = 3 * BLOCK_LEN;
const PIECES: u32 = 12;
/// The last piece has two blocks, the last of them one byte.
const TOTAL: u64 = (PIECES as u64 - 1) * PIECE_LEN as u64 + BLOCK_LEN as u64 + 1;
const GEOMETRY: Geometry = Geometry { piece_len: PIECE_LEN, total: TOTAL };
const PEERS: u64 = 5;

fn rng() -> Rng {
    Rng::from_seed([3; 32])
}

fn profile(outstanding: usize) -> Profile<'static> {
    Profile { rate: 1000, outstanding, unchoking: 2, only: None, suggested: &[], avoided: &[] }
}

fn block(index: BlockIndex) -> Bytes {
    Bytes::from(vec![0; GEOMETRY.block_len(index) as usize])
}

#[derive(Clone, Debug)]
enum Step {
    Has { peer: u64, piece: u32 },
    HasAll { peer: u64 },
    Lost { peer: u64, piece: u32 },
    Pick { peer: u64, count: usize },
    Arrive { peer: u64, which: usize },
    Reject { peer: u64, which: usize },
    TimeOut { peer: u64 },
    Reconnect { peer: u64 },
    Stored { which: usize, right: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..PEERS;
    let which = 0..100_usize;
    prop_oneof![
        3 => (peer.clone(), 0..PIECES).prop_map(|(peer, piece)| Step::Has { peer, piece }),
        1 => peer.clone().prop_map(|peer| Step::HasAll { peer }),
        1 => (peer.clone(), 0..PIECES).prop_map(|(peer, piece)| Step::Lost { peer, piece }),
        5 => (peer.clone(), 1..12_usize).prop_map(|(peer, count)| Step::Pick { peer, count }),
        9 => (peer.clone(), which.clone()).prop_map(|(peer, which)| Step::Arrive { peer, which }),
        1 => (peer.clone(), which.clone()).prop_map(|(peer, which)| Step::Reject { peer, which }),
        1 => peer.clone().prop_map(|peer| Step::TimeOut { peer }),
        1 => peer.prop_map(|peer| Step::Reconnect { peer }),
        4 => (which, prop::bool::weighted(0.8)).prop_map(|(which, right)| Step::Stored { which, right }),
    ]
}

/// What a picker should know, kept in the plainest way.
struct Model {
    picker: Picker,
    has: BTreeMap<u64, BTreeSet<u32>>,
    asked: BTreeMap<u64, Vec<BlockIndex>>,
    received: BTreeSet<BlockIndex>,
    storing: Vec<u32>,
    held: BTreeSet<u32>,
}

impl Model {
    fn new() -> Self {
        let mut picker = Picker::new(GEOMETRY, rng());
        (0..PEERS).for_each(|peer| picker.add_peer(StreamId(peer)));
        Self {
            picker,
            has: (0..PEERS).map(|peer| (peer, BTreeSet::new())).collect(),
            asked: (0..PEERS).map(|peer| (peer, Vec::new())).collect(),
            received: BTreeSet::new(),
            storing: Vec::new(),
            held: BTreeSet::new(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Has { peer, piece } => {
                self.picker.peer_has(StreamId(peer), piece);
                self.of(peer).insert(piece);
            }
            Step::HasAll { peer } => {
                self.picker.peer_has_all(StreamId(peer));
                self.of(peer).extend(0..PIECES);
            }
            Step::Lost { peer, piece } => {
                self.picker.peer_lost(StreamId(peer), piece);
                self.of(peer).remove(&piece);
            }
            Step::Pick { peer, count } => self.pick(peer, count),
            Step::Arrive { peer, which } => {
                if let Some(index) = self.take_asked(peer, which) {
                    self.arrive(peer, index);
                }
            }
            Step::Reject { peer, which } => {
                if let Some(index) = self.take_asked(peer, which) {
                    self.picker.release(StreamId(peer), index);
                }
            }
            Step::TimeOut { peer } => self.give_up(peer),
            Step::Reconnect { peer } => {
                self.give_up(peer);
                self.picker.remove_peer(StreamId(peer));
                self.picker.add_peer(StreamId(peer));
                self.of(peer).clear();
            }
            Step::Stored { which, right } => {
                if !self.storing.is_empty() {
                    let piece = self.storing.remove(which % self.storing.len());
                    self.stored(piece, right);
                }
            }
        }
        self.check();
    }

    fn of(&mut self, peer: u64) -> &mut BTreeSet<u32> {
        self.has.get_mut(&peer).expect("a peer of the model")
    }

    fn take_asked(&mut self, peer: u64, which: usize) -> Option<BlockIndex> {
        let asked = self.asked.get_mut(&peer).expect("a peer of the model");
        (!asked.is_empty()).then(|| asked.remove(which % asked.len()))
    }

    fn give_up(&mut self, peer: u64) {
        for index in std::mem::take(self.asked.get_mut(&peer).expect("a peer of the model")) {
            self.picker.release(StreamId(peer), index);
        }
        self.picker.disown(StreamId(peer));
        self.forget_closed();
    }

    /// Pieces in exclusive mode lose their blocks with their owner.
    fn forget_closed(&mut self) {
        let (open, storing) = (&self.picker.open, &self.storing);
        self.received.retain(|index| open.contains_key(&index.piece) || storing.contains(&index.piece));
    }

    fn wanted_blocks(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        let busy = |piece: &u32| self.held.contains(piece) || self.storing.contains(piece);
        let pieces = (0..PIECES).filter(move |piece| !busy(piece));
        pieces.flat_map(|piece| (0..GEOMETRY.blocks(piece)).map(move |block| BlockIndex { piece, block }))
    }

    fn is_asked(&self, index: BlockIndex) -> usize {
        self.asked.values().filter(|asked| asked.contains(&index)).count()
    }

    fn pick(&mut self, peer: u64, count: usize) {
        let before: Vec<(BlockIndex, usize)> =
            self.wanted_blocks().map(|index| (index, self.is_asked(index))).collect();
        let mut picked = Vec::new();
        let outstanding = self.asked[&peer].len();
        self.picker.pick(Instant::START, StreamId(peer), &profile(outstanding), count, &mut picked);
        assert!(picked.len() <= count);
        for index in picked {
            let (_, askers) = before.iter().find(|(wanted, _)| *wanted == index).expect("only wanted blocks");
            assert!(self.has[&peer].contains(&index.piece), "the peer has the piece");
            assert!(!self.received.contains(&index), "not what is here");
            assert!(!self.asked[&peer].contains(&index), "never the same peer twice");
            let free = |index: BlockIndex| !self.received.contains(&index) && self.is_asked(index) == 0;
            assert!(
                *askers == 0 || (!self.wanted_blocks().any(free) && *askers < 3),
                "twice only in the endgame"
            );
            self.asked.get_mut(&peer).expect("a peer of the model").push(index);
        }
        let duplicates: usize =
            self.wanted_blocks().map(|index| self.is_asked(index).saturating_sub(1)).sum();
        assert!(duplicates <= MAX_DUPLICATES);
    }

    fn arrive(&mut self, peer: u64, index: BlockIndex) {
        let Arrival::Needed(others) = self.picker.receive(StreamId(peer), index, block(index)) else {
            return;
        };
        assert!(self.received.insert(index), "needed once");
        for other in others.iter() {
            let asked = self.asked.get_mut(&other.0).expect("a peer of the model");
            let at = asked.iter().position(|asked| *asked == index).expect("the other was asked");
            asked.remove(at);
        }
        if let Some(blocks) = self.picker.take_complete(index.piece) {
            assert_eq!(blocks.len() as u32, GEOMETRY.blocks(index.piece));
            self.storing.push(index.piece);
        }
    }

    fn stored(&mut self, piece: u32, right: bool) {
        let outcome = self.picker.stored(piece, right);
        self.received.retain(|index| index.piece != piece);
        match outcome {
            Outcome::Verified { shares, guilty } => {
                assert!(right && guilty.is_empty(), "equal blocks accuse nobody");
                assert_eq!(
                    shares.iter().map(|(_, bytes)| bytes).sum::<u64>(),
                    u64::from(GEOMETRY.piece_len(piece))
                );
                self.held.insert(piece);
            }
            Outcome::SoleSource(_) | Outcome::Unclear => assert!(!right),
            Outcome::Unknown => panic!("piece {piece} was being stored"),
        }
    }

    fn check(&self) {
        for (peer, has) in &self.has {
            let wanted = has.iter().filter(|piece| !self.held.contains(piece)).count();
            assert_eq!(self.picker.wanted(StreamId(*peer)) as usize, wanted, "interest in peer {peer}");
            assert_eq!(self.picker.peer_count(StreamId(*peer)) as usize, has.len());
        }
        let held: u64 = self.received.iter().map(|index| u64::from(GEOMETRY.block_len(*index))).sum();
        let asked: usize = self.asked.values().map(Vec::len).sum();
        let most = held + asked as u64 * u64::from(BLOCK_LEN);
        assert!(self.picker.unverified_bytes() <= most, "{} > {most}", self.picker.unverified_bytes());
        assert!(self.picker.unverified_bytes() >= held);
    }

    /// A fresh seed can always finish what is left.
    fn finish(&mut self) {
        (0..PEERS).for_each(|peer| self.take(Step::Reconnect { peer }));
        self.take(Step::HasAll { peer: 0 });
        for _ in 0..10 * PIECES {
            self.take(Step::Pick { peer: 0, count: 6 });
            (0..6).for_each(|_| self.take(Step::Arrive { peer: 0, which: 0 }));
            (0..6).for_each(|_| self.take(Step::Stored { which: 0, right: true }));
        }
        assert!(self.picker.is_complete(), "{:?}", self.picker.held());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    //= spec/swarm.md#51-piece-picker
    #[test]
    fn no_block_is_asked_for_twice_outside_the_endgame(steps in prop::collection::vec(step(), 0..250)) {
        let mut model = Model::new();
        steps.into_iter().for_each(|step| model.take(step));
        model.finish();
    }
}

fn with_seeds(seeds: u64) -> Picker {
    let mut picker = Picker::new(GEOMETRY, rng());
    for peer in 0..seeds {
        picker.add_peer(StreamId(peer));
        picker.peer_has_all(StreamId(peer));
    }
    picker
}

fn pick(picker: &mut Picker, peer: u64, count: usize) -> Vec<BlockIndex> {
    let mut out = Vec::new();
    picker.pick(Instant::START, StreamId(peer), &profile(0), count, &mut out);
    out
}

/// Downloads `piece` from the given senders in turn.
fn download(picker: &mut Picker, piece: u32, senders: &[u64], data: u8) {
    for block in 0..GEOMETRY.blocks(piece) {
        let index = BlockIndex { piece, block };
        let sender = senders[block as usize % senders.len()];
        let len = GEOMETRY.block_len(index) as usize;
        picker.receive(StreamId(sender), index, Bytes::from(vec![data; len]));
    }
    assert!(picker.take_complete(piece).is_some());
}

//= spec/swarm.md#51-piece-picker
#[test]
fn the_rarest_piece_is_opened_first_once_four_are_complete() {
    let mut picker = with_seeds(1);
    let mut held = Bitfield::new(PIECES);
    (0..4).for_each(|piece| {
        held.set(piece);
    });
    picker.hold(&held);
    for peer in 1..4 {
        picker.add_peer(StreamId(peer));
        (0..PIECES).filter(|piece| *piece != 7).for_each(|piece| picker.peer_has(StreamId(peer), piece));
    }
    assert!(pick(&mut picker, 0, 3).iter().all(|index| index.piece == 7));
}

//= spec/swarm.md#51-piece-picker
#[test]
fn the_first_pieces_are_chosen_at_random() {
    let firsts: BTreeSet<u32> = (0..40)
        .map(|seed| {
            let mut picker = Picker::new(GEOMETRY, Rng::from_seed([seed; 32]));
            picker.add_peer(StreamId(0));
            // Piece 0 is rarer than all others, and still is not always the first.
            picker.peer_has_all(StreamId(0));
            picker.add_peer(StreamId(1));
            (1..PIECES).for_each(|piece| picker.peer_has(StreamId(1), piece));
            pick(&mut picker, 0, 1)[0].piece
        })
        .collect();
    assert!(firsts.len() > 4, "{firsts:?}");
}

//= spec/swarm.md#51-piece-picker
#[test]
fn open_pieces_are_completed_before_new_ones_and_slow_peers_open_their_own() {
    let mut picker = with_seeds(2);
    let first = pick(&mut picker, 0, 1)[0].piece;
    assert!(pick(&mut picker, 1, 2).iter().all(|index| index.piece == first));
    let second = pick(&mut picker, 0, 1)[0].piece;
    let slow = Profile { rate: 249, ..profile(0) };
    let mut out = Vec::new();
    picker.pick(Instant::START, StreamId(1), &slow, 1, &mut out);
    assert_ne!(out[0].piece, second, "four times slower than the piece's other peer");
}

//= spec/swarm.md#51-piece-picker
#[test]
fn when_no_new_piece_may_be_opened_slow_peers_finish_what_fast_ones_left() {
    let mut picker = with_seeds(1);
    let fast = pick(&mut picker, 0, 15);
    let pieces: BTreeSet<u32> = fast.iter().map(|index| index.piece).collect();
    for piece in pieces.iter().take(MAX_SOLE_PARTIAL as usize) {
        let index = BlockIndex { piece: *piece, block: 0 };
        picker.receive(StreamId(0), index, block(index));
    }
    // The peer stops, its requests time out, and it is slow from now on.
    fast.iter().for_each(|index| picker.release(StreamId(0), *index));
    let slow = Profile { rate: 0, ..profile(0) };
    let mut out = Vec::new();
    picker.pick(Instant::START, StreamId(0), &slow, 1, &mut out);
    assert_eq!(out.len(), 1, "the blocks that were given up wait for nobody else");
}

#[test]
fn a_choking_peer_is_asked_for_its_allowed_pieces_only() {
    let mut picker = with_seeds(1);
    let choked = Profile { only: Some(&[5, 99]), ..profile(0) };
    let mut out = Vec::new();
    picker.pick(Instant::START, StreamId(0), &choked, 10, &mut out);
    assert_eq!(out.len(), 3);
    assert!(out.iter().all(|index| index.piece == 5));
}

//= spec/swarm.md#31-hard-limits-against-hostile-peers-all-configurable-these-are-defaults
#[test]
fn a_peer_that_scatters_its_blocks_gets_no_new_piece() {
    let mut picker = with_seeds(1);
    let blocks = pick(&mut picker, 0, 15);
    assert_eq!(blocks.len(), 15);
    let pieces: BTreeSet<u32> = blocks.iter().map(|index| index.piece).collect();
    for piece in pieces.iter().take(MAX_SOLE_PARTIAL as usize) {
        let index = BlockIndex { piece: *piece, block: 0 };
        picker.receive(StreamId(0), index, block(index));
    }
    assert_eq!(pick(&mut picker, 0, 10), []);
    let piece = *pieces.first().expect("five pieces");
    for number in 1..3 {
        let index = BlockIndex { piece, block: number };
        picker.receive(StreamId(0), index, block(index));
    }
    picker.take_complete(piece).expect("complete");
    assert!(!pick(&mut picker, 0, 10).is_empty());
}

//= spec/swarm.md#53-endgame
#[test]
fn in_the_endgame_the_oldest_requests_are_doubled_and_the_others_cancelled() {
    let mut picker = with_seeds(3);
    let mut out = Vec::new();
    let blocks = (0..PIECES).map(|piece| GEOMETRY.blocks(piece) as usize).sum::<usize>();
    for second in 0..blocks as u64 {
        let now = Instant::START + Duration::from_secs(second);
        picker.pick(now, StreamId(0), &profile(0), 1, &mut out);
    }
    assert_eq!(out.len(), blocks);
    let doubled = pick(&mut picker, 1, 3);
    assert_eq!(doubled, out[..3]);
    assert_eq!(pick(&mut picker, 2, 1), out[..1]);
    let Arrival::Needed(others) = picker.receive(StreamId(1), out[0], block(out[0])) else {
        panic!("needed")
    };
    assert_eq!(others.iter().collect::<Vec<_>>(), [StreamId(0), StreamId(2)]);
    assert_eq!(pick(&mut picker, 1, 100).len() + 2, MAX_DUPLICATES);
    picker.wasted(ENDGAME_WASTE);
    assert_eq!(pick(&mut picker, 2, 100), [], "the waste has its bound");
}

//= spec/swarm.md#56-verification-and-blame
#[test]
fn a_wrong_piece_of_one_sender_accuses_it() {
    let mut picker = with_seeds(2);
    picker.open_piece(StreamId(0), 3);
    download(&mut picker, 3, &[0], 1);
    assert_eq!(picker.stored(3, false), Outcome::SoleSource(StreamId(0)));
}

//= spec/swarm.md#56-verification-and-blame
#[test]
fn a_wrong_piece_of_several_senders_is_fetched_from_one_and_tells_who_lied() {
    let mut picker = with_seeds(3);
    picker.open_piece(StreamId(0), 3);
    for (number, data) in [(0, 1), (1, 9), (2, 1)] {
        let index = BlockIndex { piece: 3, block: number };
        let bytes = Bytes::from(vec![data; BLOCK_LEN as usize]);
        picker.receive(StreamId(u64::from(number)), index, bytes);
    }
    picker.take_complete(3).expect("complete");
    assert_eq!(picker.stored(3, false), Outcome::Unclear);

    // From now on the piece belongs to one peer at a time.
    picker.open_piece(StreamId(2), 3);
    let mut out = Vec::new();
    picker.take_from(Instant::START, StreamId(0), &profile(0), 3, 10, &mut out);
    assert_eq!(out, []);
    assert_eq!(
        picker.receive(StreamId(0), BlockIndex { piece: 3, block: 0 }, Bytes::new()),
        Arrival::Duplicate
    );
    download(&mut picker, 3, &[2], 1);
    let Outcome::Verified { guilty, .. } = picker.stored(3, true) else { panic!("right") };
    assert_eq!(guilty, [StreamId(1)]);
}

#[test]
fn a_piece_that_could_not_be_stored_is_wanted_again() {
    let mut picker = with_seeds(1);
    picker.open_piece(StreamId(0), 3);
    download(&mut picker, 3, &[0], 1);
    picker.store_failed(3);
    assert_eq!((picker.unverified_bytes(), picker.holds(3)), (0, false));
    assert_eq!(pick(&mut picker, 0, 100).len(), 3 * 11 + 2);
}
