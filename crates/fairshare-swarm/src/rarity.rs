//! The order in which free pieces are worth opening: rarest first, ties in random order. One vector, cut into
//! buckets of equal availability; a change of availability by one is a swap across one bucket border.
//!
//! Availability here counts peers that have *some* pieces. Seeds have all of them and would shift every piece by
//! the same amount, so they are left out.
//= spec/swarm.md#51-piece-picker

use fairshare_crypto::Rng;

/// Marks a piece that is not in the order.
const ABSENT: u32 = u32::MAX;

/// Free pieces by availability.
#[derive(Debug)]
pub(crate) struct RarityOrder {
    /// Free pieces, bucket after bucket.
    order: Vec<u32>,
    /// Where each piece stands in `order`, or [`ABSENT`].
    place: Vec<u32>,
    /// Peers known to have each piece, seeds not counted; also kept while a piece is not in the order.
    availability: Vec<u16>,
    /// `ends[a]` is the end of the bucket of availability `a` in `order`.
    ends: Vec<u32>,
}

impl RarityOrder {
    /// All `pieces` pieces, which nobody has yet, in random order.
    pub(crate) fn new(pieces: u32, rng: &mut Rng) -> Self {
        let mut order: Vec<u32> = (0..pieces).collect();
        rng.shuffle(&mut order);
        let mut place = vec![0; order.len()];
        for (at, piece) in order.iter().enumerate() {
            place[*piece as usize] = at as u32;
        }
        Self { ends: vec![pieces], availability: vec![0; order.len()], order, place }
    }

    /// The free pieces, rarest first.
    pub(crate) fn pieces(&self) -> &[u32] {
        &self.order
    }

    /// One more peer has `piece`.
    pub(crate) fn gained(&mut self, piece: u32, rng: &mut Rng) {
        let was = self.availability[piece as usize];
        if was == u16::MAX {
            return;
        }
        self.availability[piece as usize] = was + 1;
        if self.place[piece as usize] != ABSENT {
            self.raise(piece, was);
            self.mix(piece, was + 1, rng);
        }
    }

    /// One peer less has `piece`.
    pub(crate) fn lost(&mut self, piece: u32, rng: &mut Rng) {
        let Some(now) = self.availability[piece as usize].checked_sub(1) else { return };
        self.availability[piece as usize] = now;
        if self.place[piece as usize] != ABSENT {
            self.lower(piece, now + 1);
            self.mix(piece, now, rng);
        }
    }

    /// Takes `piece` out of the order, because it was opened or is held.
    pub(crate) fn remove(&mut self, piece: u32) {
        if self.place[piece as usize] == ABSENT {
            return;
        }
        let from = usize::from(self.availability[piece as usize]);
        for bucket in from..self.ends.len() {
            self.raise(piece, bucket as u16);
        }
        // Raised beyond the last bucket, the piece stands behind all others.
        let last = self.order.pop();
        debug_assert_eq!(last, Some(piece), "a piece raised beyond every bucket is the last one");
        self.ends.pop();
        self.place[piece as usize] = ABSENT;
    }

    /// Puts `piece` back, because its download was given up.
    pub(crate) fn insert(&mut self, piece: u32, rng: &mut Rng) {
        if self.place[piece as usize] != ABSENT {
            return;
        }
        let wanted = self.availability[piece as usize];
        self.grow(wanted);
        self.place[piece as usize] = self.order.len() as u32;
        self.order.push(piece);
        let top = (self.ends.len() - 1) as u16;
        self.ends[usize::from(top)] += 1;
        for bucket in (wanted + 1..=top).rev() {
            self.lower(piece, bucket);
        }
        self.mix(piece, wanted, rng);
    }

    /// Moves `piece` from `bucket` to the one above: to the front of it.
    fn raise(&mut self, piece: u32, bucket: u16) {
        self.grow(bucket + 1);
        let last = self.ends[usize::from(bucket)] - 1;
        self.swap(self.place[piece as usize], last);
        self.ends[usize::from(bucket)] = last;
    }

    /// Moves `piece` from `bucket` to the one below: to the end of it.
    fn lower(&mut self, piece: u32, bucket: u16) {
        let below = usize::from(bucket) - 1;
        let first = self.ends[below];
        self.swap(self.place[piece as usize], first);
        self.ends[below] = first + 1;
    }

    /// Gives `piece` a random place inside its bucket.
    fn mix(&mut self, piece: u32, bucket: u16, rng: &mut Rng) {
        let start = usize::from(bucket).checked_sub(1).map_or(0, |below| self.ends[below]);
        let end = self.ends[usize::from(bucket)];
        let target = start + rng.below(u64::from(end - start)) as u32;
        self.swap(self.place[piece as usize], target);
    }

    fn swap(&mut self, a: u32, b: u32) {
        self.order.swap(a as usize, b as usize);
        self.place[self.order[a as usize] as usize] = a;
        self.place[self.order[b as usize] as usize] = b;
    }

    /// Makes sure that `bucket` exists.
    fn grow(&mut self, bucket: u16) {
        let end = self.order.len() as u32;
        while self.ends.len() <= usize::from(bucket) {
            self.ends.push(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairshare_crypto::Rng;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Change {
        Gained(u32),
        Lost(u32),
        Remove(u32),
        Insert(u32),
    }

    fn change(pieces: u32) -> impl Strategy<Value = Change> {
        prop_oneof![
            (0..pieces).prop_map(Change::Gained),
            (0..pieces).prop_map(Change::Gained),
            (0..pieces).prop_map(Change::Lost),
            (0..pieces).prop_map(Change::Remove),
            (0..pieces).prop_map(Change::Insert),
        ]
    }

    proptest! {
        //= spec/swarm.md#51-piece-picker
        #[test]
        fn the_order_is_always_sorted_by_availability(changes in prop::collection::vec(change(20), 0..200)) {
            let mut rng = Rng::from_seed([1; 32]);
            let mut order = RarityOrder::new(20, &mut rng);
            let (mut count, mut present) = (vec![0_u16; 20], vec![true; 20]);
            for change in changes {
                match change {
                    Change::Gained(piece) => {
                        order.gained(piece, &mut rng);
                        count[piece as usize] += 1;
                    }
                    Change::Lost(piece) => {
                        order.lost(piece, &mut rng);
                        count[piece as usize] = count[piece as usize].saturating_sub(1);
                    }
                    Change::Remove(piece) => {
                        order.remove(piece);
                        present[piece as usize] = false;
                    }
                    Change::Insert(piece) => {
                        order.insert(piece, &mut rng);
                        present[piece as usize] = true;
                    }
                }
                let keys: Vec<u16> = order.pieces().iter().map(|piece| count[*piece as usize]).collect();
                prop_assert!(keys.is_sorted(), "{keys:?}");
                let mut pieces = order.pieces().to_vec();
                pieces.sort_unstable();
                let expected: Vec<u32> = (0..20).filter(|piece| present[*piece as usize]).collect();
                prop_assert_eq!(pieces, expected);
            }
        }
    }

    #[test]
    fn ties_are_broken_at_random() {
        let mut firsts: Vec<u32> = (0..50_u8)
            .map(|seed| RarityOrder::new(10, &mut Rng::from_seed([seed; 32])).pieces()[0])
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert!(firsts.len() > 5, "{firsts:?}");
    }
}
