//! The mirror of the worker's block cache: which blocks the device holds, and in which slot.
//!
//! The worker's cache has a fixed number of slots per (layer, KV head). The indexer decides what lies in them, so that
//! its answer can already say which blocks must travel and where to. The least recently attended block makes room.

/// No block, no slot.
const NONE: u32 = u32::MAX;

/// What a block's turn in the cache came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The slot that holds the block from now on.
    pub slot: u32,
    /// Whether it was not there before.
    pub miss: bool,
}

/// The slots of one (layer, KV head), in the order of their last use.
#[derive(Debug)]
pub struct Residency {
    /// Slot of each block of the text, or [`NONE`].
    slot_of: Vec<u32>,
    slots: Vec<Slot>,
    /// Least and most recently used slots that hold a block.
    oldest: u32,
    newest: u32,
    /// Slots from here on have never been used.
    unused: u32,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    block: u32,
    older: u32,
    newer: u32,
}

impl Residency {
    /// A cache of `slots` slots that holds nothing.
    ///
    /// # Panics
    /// If there is no slot.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        assert!(slots > 0, "a block cache has at least one slot");
        let empty = Slot { block: NONE, older: NONE, newer: NONE };
        Self {
            slot_of: Vec::new(),
            slots: vec![empty; slots as usize],
            oldest: NONE,
            newest: NONE,
            unused: 0,
        }
    }

    /// Makes `block` the most recently used one, putting it into a slot if it has none.
    ///
    /// A selection of no more blocks than there are slots never evicts a block of its own: each of them is newer than
    /// any other.
    pub fn place(&mut self, block: u32) -> Placed {
        let index = block as usize;
        if index >= self.slot_of.len() {
            self.slot_of.resize((index + 1).next_power_of_two(), NONE);
        }
        let held = self.slot_of[index];
        if held != NONE {
            self.unlink(held);
            self.link_newest(held);
            return Placed { slot: held, miss: false };
        }
        let slot = self.take_slot();
        self.slots[slot as usize].block = block;
        self.slot_of[index] = slot;
        self.link_newest(slot);
        Placed { slot, miss: true }
    }

    /// Bytes of this mirror.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(self.slots.as_slice()) + size_of_val(self.slot_of.as_slice())
    }

    fn take_slot(&mut self) -> u32 {
        if (self.unused as usize) < self.slots.len() {
            self.unused += 1;
            return self.unused - 1;
        }
        let slot = self.oldest;
        self.unlink(slot);
        self.slot_of[self.slots[slot as usize].block as usize] = NONE;
        slot
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { older, newer, .. } = self.slots[slot as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
    }

    fn link_newest(&mut self, slot: u32) {
        let older = self.newest;
        let entry = &mut self.slots[slot as usize];
        entry.older = older;
        entry.newer = NONE;
        match older {
            NONE => self.oldest = slot,
            older => self.slots[older as usize].newer = slot,
        }
        self.newest = slot;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_least_recently_attended_block_makes_room() {
        let mut cache = Residency::new(2);
        assert_eq!(cache.place(7), Placed { slot: 0, miss: true });
        assert_eq!(cache.place(9), Placed { slot: 1, miss: true });
        assert_eq!(cache.place(7), Placed { slot: 0, miss: false });
        assert_eq!(cache.place(3), Placed { slot: 1, miss: true });
        assert_eq!(cache.place(9), Placed { slot: 0, miss: true });
    }

    proptest! {
        /// Against a plain list in the order of use.
        #[test]
        fn it_is_a_least_recently_used_cache(
            slots in 1..8_u32,
            blocks in prop::collection::vec(0..20_u32, 0..200),
        ) {
            let mut cache = Residency::new(slots);
            let mut model: Vec<(u32, u32)> = Vec::new();
            for block in blocks {
                let placed = cache.place(block);
                let known = model.iter().position(|&(held, _)| held == block);
                prop_assert_eq!(placed.miss, known.is_none());
                match known {
                    Some(index) => {
                        let entry = model.remove(index);
                        prop_assert_eq!(placed.slot, entry.1);
                        model.push(entry);
                    }
                    None => {
                        if model.len() == slots as usize {
                            prop_assert_eq!(placed.slot, model.remove(0).1);
                        } else {
                            prop_assert!(model.iter().all(|&(_, slot)| slot != placed.slot));
                        }
                        model.push((block, placed.slot));
                    }
                }
            }
        }
    }
}
