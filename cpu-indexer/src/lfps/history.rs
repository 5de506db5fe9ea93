//! Candidates from what past steps have attended to.

use super::bitmap::Bitmap;
use super::decayed::DecayedSet;
use crate::kernels::Kernels;
use crate::parameters::{IndexParameters, times};
use crate::selection::{Zones, number};

/// What one head remembers of past selections.
#[derive(Debug, Clone)]
pub(super) struct History {
    /// Tokens that the head chooses.
    top_k: usize,
    /// The last selection.
    last: Vec<u32>,
    /// Positions attended again and again.
    vertical: DecayedSet,
    /// Distances from the query attended again and again.
    slash: DecayedSet,
}

impl History {
    /// Of a head that chooses `top_k` tokens.
    pub(super) fn new(parameters: &IndexParameters, top_k: usize) -> Self {
        Self {
            top_k,
            last: Vec::with_capacity(top_k),
            vertical: DecayedSet::new(times(parameters.vertical, top_k), top_k),
            slash: DecayedSet::new(times(parameters.slash, top_k), top_k),
        }
    }

    /// Bytes read and written at a step.
    pub(super) const fn bytes(&self) -> usize {
        self.last.len() * size_of::<u32>() + self.vertical.bytes() + self.slash.bytes()
    }

    /// Appends to `candidates`, ascending, the tokens of the middle that history proposes: remembered positions and
    /// distances, and the last selection both where it was and moved along by one, each widened by the expansion. If
    /// they are fewer than `top_k`, the latest tokens of the middle are added.
    pub(super) fn propose(
        &self,
        parameters: &IndexParameters,
        zones: Zones,
        set: &mut Bitmap,
        candidates: &mut Vec<u32>,
    ) {
        let middle = zones.middle();
        let wide = parameters.expansion;
        set.reset(middle.end);
        let mut insert = |first: usize, last: usize| {
            let start = first.saturating_sub(wide).max(middle.start);
            set.insert(start..(last + wide + 1).min(middle.end).max(start));
        };
        for &token in self.vertical.numbers() {
            insert(token as usize, token as usize);
        }
        for &token in &self.last {
            insert(token as usize, token as usize + 1);
        }
        for &distance in self.slash.numbers() {
            if let Some(token) = (zones.tokens - 1).checked_sub(distance as usize) {
                insert(token, token);
            }
        }
        set.collect_into(candidates);
        if candidates.len() < self.top_k {
            let start = middle.end.saturating_sub(self.top_k).max(middle.start);
            set.insert(start..middle.end);
            candidates.clear();
            set.collect_into(candidates);
        }
    }

    /// Takes in the `selected` tokens (ascending) of the step with `tokens` tokens, and their `weights`.
    pub(super) fn observe(
        &mut self,
        kernels: Kernels,
        decay: f32,
        tokens: usize,
        selected: &[u32],
        weights: &[f32],
        narrowed: &mut Vec<f32>,
    ) {
        let count = selected.len();
        let positions = |at: usize| (selected[at], weights[at]);
        self.vertical.observe(kernels, decay, count, positions, narrowed);
        let position = number(tokens - 1);
        let distances = |at: usize| {
            let at = count - 1 - at;
            (position - selected[at], weights[at])
        };
        self.slash.observe(kernels, decay, count, distances, narrowed);
        self.last.clear();
        self.last.extend_from_slice(selected);
    }
}
