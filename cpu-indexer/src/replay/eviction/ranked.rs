//! A cache that gives up the blocks that are worth least.

use super::Eviction;
use super::attended::{Attended, Step};

/// Factor by which a step at which a block was attended to counts less at each later one, for [`Eviction::Lfu`].
const FREQUENCY_DECAY: f64 = 0.98;
/// The same for shares of attention, for [`Eviction::Score`].
const SCORE_DECAY: f64 = 0.95;

/// A cache that holds no more than a number of blocks, and knows for each block of the text what it is worth.
#[derive(Debug)]
pub(super) struct RankedCache {
    eviction: Eviction,
    slots: usize,
    held: Vec<bool>,
    worth: Vec<f64>,
    /// For each block, the steps that attend to it; for [`Eviction::Optimal`].
    uses: Vec<Vec<usize>>,
}

impl RankedCache {
    /// An empty cache for a text of `blocks` blocks. The rule that knows the future learns it from `attended`.
    pub(super) fn new(
        eviction: Eviction,
        slots: usize,
        blocks: usize,
        attended: &Attended,
    ) -> Self {
        let mut uses = vec![Vec::new(); blocks];
        if eviction == Eviction::Optimal {
            for (number, step) in attended.steps.iter().enumerate() {
                step.blocks.iter().for_each(|&block| uses[block as usize].push(number));
            }
        }
        Self { eviction, slots, held: vec![false; blocks], worth: vec![0.0; blocks], uses }
    }

    /// Takes in a selection, tells `missing` of each block that was not there, and returns how many had to make room. Of
    /// blocks that are worth the same the oldest goes.
    pub(super) fn place(
        &mut self,
        number: usize,
        step: &Step,
        mut missing: impl FnMut(u32),
    ) -> usize {
        self.appraise(number, step);
        for &block in step.blocks.iter().filter(|&&block| !self.held[block as usize]) {
            missing(block);
        }
        // Blocks of the selection are given up last, by being none of the others.
        step.blocks.iter().for_each(|&block| self.held[block as usize] = false);
        let mut others: Vec<usize> =
            (0..self.held.len()).filter(|&block| self.held[block]).collect();
        others.sort_by(|&a, &b| self.worth[a].total_cmp(&self.worth[b]));
        let surplus = (others.len() + step.blocks.len()).saturating_sub(self.slots);
        others[..surplus].iter().for_each(|&block| self.held[block] = false);
        step.blocks.iter().for_each(|&block| self.held[block as usize] = true);
        surplus
    }

    /// Learns from a selection what blocks are worth.
    fn appraise(&mut self, number: usize, step: &Step) {
        let blocks = step.blocks.iter().map(|&block| block as usize);
        match self.eviction {
            Eviction::Clock => {}
            Eviction::Lru => blocks.for_each(|block| self.worth[block] = number as f64),
            Eviction::Lfu => {
                self.worth.iter_mut().for_each(|worth| *worth *= FREQUENCY_DECAY);
                blocks.for_each(|block| self.worth[block] += 1.0);
            }
            Eviction::Score => {
                self.worth.iter_mut().for_each(|worth| *worth *= SCORE_DECAY);
                let seen = blocks.zip(&step.weights);
                seen.for_each(|(block, &weight)| self.worth[block] += f64::from(weight));
            }
            Eviction::Optimal => blocks.for_each(|block| {
                let next = self.uses[block].partition_point(|&step| step <= number);
                let next = self.uses[block].get(next).map_or(f64::INFINITY, |&step| step as f64);
                self.worth[block] = -next;
            }),
        }
    }
}
