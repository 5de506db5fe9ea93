//! Caches over recorded selections.

use super::attended::{Attended, Step};
use super::ranked::RankedCache;
use super::{BlockCaches, Eviction};
use crate::residency::{CacheTooSmall, Residency};

/// What a cache saw, over all steps and heads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::replay) struct CacheCounts {
    /// Blocks attended to.
    pub(in crate::replay) attended: u64,
    /// Of them, blocks that had to travel.
    pub(in crate::replay) misses: u64,
    /// Of these, blocks that the cache had never held.
    pub(in crate::replay) first_misses: u64,
    /// Blocks that made room.
    pub(in crate::replay) evictions: u64,
}

/// Runs the selections of every head through each of the caches.
///
/// # Errors
/// If a cache cannot hold one of the selections.
pub(in crate::replay) fn simulate(
    heads: &[Attended],
    caches: &BlockCaches,
) -> Result<Vec<(usize, Eviction, CacheCounts)>, CacheTooSmall> {
    let blocks = heads.iter().map(Attended::most_blocks).max().unwrap_or(0);
    let mut found = Vec::new();
    for &slots in &caches.blocks {
        if slots < blocks {
            return Err(CacheTooSmall { slots, blocks });
        }
        for &eviction in &caches.evictions {
            let mut counts = CacheCounts::default();
            heads.iter().try_for_each(|head| counts.add(head, eviction, slots))?;
            found.push((slots, eviction, counts));
        }
    }
    Ok(found)
}

impl CacheCounts {
    /// Adds what a cache of its own sees of one head.
    fn add(
        &mut self,
        head: &Attended,
        eviction: Eviction,
        slots: usize,
    ) -> Result<(), CacheTooSmall> {
        let blocks = head.text_blocks();
        let mut known = vec![false; blocks];
        if eviction == Eviction::Clock {
            let mut cache = Residency::new(slots, blocks);
            for step in &head.steps {
                self.evictions += cache.place(&step.blocks, |placed| {
                    if placed.miss {
                        self.miss(step, placed.block, &mut known);
                    }
                })? as u64;
                self.attended += step.blocks.len() as u64;
            }
        } else {
            let mut cache = RankedCache::new(eviction, slots, blocks, head);
            for (number, step) in head.steps.iter().enumerate() {
                let missing = |block| self.miss(step, block, &mut known);
                self.evictions += cache.place(number, step, missing) as u64;
                self.attended += step.blocks.len() as u64;
            }
        }
        Ok(())
    }

    /// Counts a block that was not there, if it must travel.
    fn miss(&mut self, step: &Step, block: u32, known: &mut [bool]) {
        let first = !std::mem::replace(&mut known[block as usize], true);
        if step.travels(block) {
            self.misses += 1;
            self.first_misses += u64::from(first);
        }
    }
}
