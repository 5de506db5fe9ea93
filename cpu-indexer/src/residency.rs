//! The mirror of the worker's block cache: which blocks the device holds, and in which slot.
//!
//! The worker's cache has a fixed number of slots per (layer, KV head). The indexer decides what lies in them, so that
//! its answer can already say which blocks must travel and where to.
//!
//! Room is made by a clock with use counts (GCLOCK): a hand goes round the slots, takes one use from each block that it
//! passes, and stops at one that has none left. So a block stays the longer the more often it has been attended to, and
//! what is no longer asked for goes in the end. `docs/cuda/eviction.md` compares it with other rules.

/// No block.
const NONE: u32 = u32::MAX;

/// Uses that a block can have collected: so many rounds of the hand it stays without another.
const MOST_USES: u8 = 7;

/// A block cache that cannot hold what a step attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a block cache of {slots} blocks for each layer and KV head cannot hold the {blocks} blocks that a step may attend \
     to: make it larger, or select fewer keys"
)]
pub struct CacheTooSmall {
    /// Slots of the cache.
    pub slots: usize,
    /// Blocks of a step.
    pub blocks: usize,
}

/// What a block's turn in the cache came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The block.
    pub block: u32,
    /// The slot that holds it from now on.
    pub slot: u32,
    /// Whether it was not there before.
    pub miss: bool,
}

/// The slots of one (layer, KV head).
#[derive(Debug)]
pub struct Residency {
    /// Slot of each block of the text, or [`NONE`].
    slot_of: Vec<u32>,
    slots: Vec<Slot>,
    /// The slot that the hand passes next.
    hand: usize,
    /// Number of the selection at hand.
    selection: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The block that lies here, or [`NONE`].
    block: u32,
    uses: u8,
    /// The last selection that the block was part of.
    selection: u64,
}

impl Residency {
    /// A cache of `slots` slots, for a text of up to `blocks` blocks, that holds nothing.
    #[must_use]
    pub fn new(slots: usize, blocks: usize) -> Self {
        let empty = Slot { block: NONE, uses: 0, selection: 0 };
        Self { slot_of: vec![NONE; blocks], slots: vec![empty; slots], hand: 0, selection: 0 }
    }

    /// Gives each block of a `selection` a slot, tells `placed` of each in turn, and returns how many other blocks have lost
    /// theirs.
    ///
    /// No block of the selection makes room for another. Sink and window are part of every selection, so they stay for as
    /// long as they are sink and window.
    ///
    /// # Errors
    /// If the selection has more blocks than the cache has slots; then nothing has changed.
    ///
    /// # Panics
    /// If a block lies beyond the text.
    pub fn place(
        &mut self,
        selection: &[u32],
        mut placed: impl FnMut(Placed),
    ) -> Result<usize, CacheTooSmall> {
        let (slots, blocks) = (self.slots.len(), selection.len());
        if blocks > slots {
            return Err(CacheTooSmall { slots, blocks });
        }
        self.selection += 1;
        for &block in selection {
            let held = self.slot_of[block as usize];
            if held != NONE {
                let slot = &mut self.slots[held as usize];
                slot.uses = (slot.uses + 1).min(MOST_USES);
                slot.selection = self.selection;
            }
        }
        let mut evictions = 0;
        for &block in selection {
            let held = self.slot_of[block as usize];
            let miss = held == NONE;
            let slot = if miss {
                evictions += usize::from(self.make_room());
                self.fill(block)
            } else {
                held
            };
            placed(Placed { block, slot, miss });
        }
        Ok(evictions)
    }

    /// Turns the hand to a slot that may be filled, and says whether a block had to leave it. There is one: fewer blocks than
    /// there are slots have been placed for the selection at hand.
    fn make_room(&mut self) -> bool {
        loop {
            let slot = &mut self.slots[self.hand];
            if slot.block == NONE {
                return false;
            }
            if slot.selection != self.selection {
                if slot.uses == 0 {
                    self.slot_of[slot.block as usize] = NONE;
                    return true;
                }
                slot.uses -= 1;
            }
            self.turn();
        }
    }

    /// Puts a block into the slot at the hand.
    #[expect(clippy::cast_possible_truncation, reason = "slots are numbered with 31 bits")]
    fn fill(&mut self, block: u32) -> u32 {
        let slot = self.hand as u32;
        self.slots[self.hand] = Slot { block, uses: 0, selection: self.selection };
        self.slot_of[block as usize] = slot;
        self.turn();
        slot
    }

    const fn turn(&mut self) {
        self.hand += 1;
        if self.hand == self.slots.len() {
            self.hand = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// What became of each block of a selection, and how many others had to go.
    fn place(cache: &mut Residency, selection: &[u32]) -> (Vec<Placed>, usize) {
        let mut placed = Vec::new();
        let evictions = cache.place(selection, |block| placed.push(block)).unwrap();
        (placed, evictions)
    }

    /// The blocks of a selection that were missing.
    fn missing(cache: &mut Residency, selection: &[u32]) -> Vec<u32> {
        let (placed, _) = place(cache, selection);
        placed.into_iter().filter(|placed| placed.miss).map(|placed| placed.block).collect()
    }

    #[test]
    fn what_is_used_more_often_stays_longer() {
        let mut cache = Residency::new(3, 10);
        for _ in 0..3 {
            missing(&mut cache, &[1]);
        }
        assert_eq!(missing(&mut cache, &[2, 3]), [2, 3]);
        // One after the other goes through a single slot, for as many rounds as block 1 has been used again.
        assert_eq!(missing(&mut cache, &[4]), [4]);
        assert_eq!(missing(&mut cache, &[5]), [5]);
        assert!(missing(&mut cache, &[1, 5]).is_empty());
    }

    #[test]
    fn what_is_no_longer_used_goes_in_the_end() {
        let mut cache = Residency::new(2, 200);
        (0..100).for_each(|_| assert!(missing(&mut cache, &[0]).len() <= 1));
        for block in 1..=u32::from(MOST_USES) + 2 {
            assert_eq!(missing(&mut cache, &[block]), [block]);
        }
        assert_eq!(missing(&mut cache, &[0]), [0]);
    }

    #[test]
    fn a_selection_that_does_not_fit_changes_nothing() {
        let mut cache = Residency::new(2, 10);
        missing(&mut cache, &[3, 4]);
        let error = cache.place(&[3, 5, 6], |_| unreachable!()).unwrap_err();
        assert_eq!(error, CacheTooSmall { slots: 2, blocks: 3 });
        assert!(missing(&mut cache, &[3, 4]).is_empty());
    }

    /// A queue of blocks with their uses, in the order in which the hand will pass them.
    #[derive(Default)]
    struct Queue(VecDeque<(u32, u8)>);

    impl Queue {
        /// The blocks that a selection misses, and those that make room.
        fn place(&mut self, slots: usize, selection: &[u32]) -> (Vec<u32>, Vec<u32>) {
            let mut evicted = Vec::new();
            let held: Vec<u32> = self.0.iter().map(|(block, _)| *block).collect();
            for (block, uses) in &mut self.0 {
                *uses = MOST_USES.min(*uses + u8::from(selection.contains(block)));
            }
            let missing: Vec<u32> =
                selection.iter().copied().filter(|block| !held.contains(block)).collect();
            for &block in &missing {
                while self.0.len() == slots {
                    let (passed, uses) = self.0.pop_front().unwrap();
                    if selection.contains(&passed) {
                        self.0.push_back((passed, uses));
                    } else if uses > 0 {
                        self.0.push_back((passed, uses - 1));
                    } else {
                        evicted.push(passed);
                    }
                }
                self.0.push_back((block, 0));
            }
            (missing, evicted)
        }
    }

    /// Selections of at most `most` blocks out of 24, of which some are wanted again and again.
    fn selections(most: usize) -> impl Strategy<Value = Vec<Vec<u32>>> {
        let block = prop_oneof![0..6_u32, 0..24_u32];
        prop::collection::vec(prop::collection::btree_set(block, 0..=most), 0..60)
            .prop_map(|sets| sets.into_iter().map(|blocks| blocks.into_iter().collect()).collect())
    }

    proptest! {
        #[test]
        fn it_is_a_queue_whose_blocks_queue_anew_while_they_have_uses(
            (slots, selections) in (1..12_usize).prop_flat_map(|slots| (Just(slots), selections(slots))),
        ) {
            let mut cache = Residency::new(slots, 24);
            let mut queue = Queue::default();
            // What lies in each slot, as the worker knows it.
            let mut worker = vec![NONE; slots];
            for selection in selections {
                let before = worker.clone();
                let (placed, evictions) = place(&mut cache, &selection);
                let order: Vec<u32> = placed.iter().map(|placed| placed.block).collect();
                prop_assert_eq!(&order, &selection);
                for Placed { block, slot, miss } in placed {
                    prop_assert_eq!(worker[slot as usize] != block, miss);
                    worker[slot as usize] = block;
                }
                // Nothing of the selection was written over.
                prop_assert!(selection.iter().all(|block| worker.contains(block)));
                let (missing, evicted) = queue.place(slots, &selection);
                let gone = before.iter().filter(|block| **block != NONE && !worker.contains(block));
                let mut gone: Vec<u32> = gone.copied().collect();
                let mut expected = evicted;
                gone.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(evictions, expected.len());
                prop_assert_eq!(gone, expected);
                let new = worker.iter().filter(|block| **block != NONE && !before.contains(block));
                prop_assert_eq!(new.count(), missing.len());
            }
        }

        /// As sink and window do.
        #[test]
        fn what_lies_in_every_selection_is_missing_once(
            others in selections(6),
        ) {
            let mut cache = Residency::new(8, 26);
            for (number, mut selection) in others.into_iter().enumerate() {
                selection.extend([24, 25]);
                let missing = missing(&mut cache, &selection);
                prop_assert_eq!(missing.contains(&24) || missing.contains(&25), number == 0);
            }
        }
    }
}
