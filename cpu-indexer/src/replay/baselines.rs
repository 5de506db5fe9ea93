//! Simple policies to compare with.

use hindsight_protocol::arena::HeadBlocks;
use hindsight_protocol::geometry::KvDtype;

use crate::kernels::scalar::widen;
use crate::selection::{Effort, Selection, Zones, number};

/// Attends to sink, window, and the `top_k` tokens before the window.
pub(super) fn sliding_window(zones: Zones, top_k: usize, block_tokens: usize, out: &mut Selection) {
    let middle = zones.middle();
    out.tokens.clear();
    let start = middle.end.saturating_sub(top_k).max(middle.start);
    out.tokens.extend(number(start)..number(middle.end));
    out.effort = Effort::default();
    out.round_to_blocks(zones, block_tokens);
}

/// The smallest and largest value of each element over the keys of a block, for every block of one head.
#[derive(Debug, Clone, Default)]
pub(super) struct PageDigests {
    smallest: Vec<f32>,
    largest: Vec<f32>,
    tokens: usize,
}

impl PageDigests {
    /// Bytes held if elements are stored as those of keys.
    pub(super) const fn bytes(&self) -> usize {
        (self.smallest.len() + self.largest.len()) * KvDtype::BYTES
    }

    /// Takes in the keys that are new in `view`.
    pub(super) fn extend(&mut self, view: HeadBlocks<'_>) {
        let dim = view.head_dim();
        self.smallest.resize(view.blocks() * dim, f32::INFINITY);
        self.largest.resize(view.blocks() * dim, f32::NEG_INFINITY);
        for token in self.tokens..view.tokens() {
            let at = token / view.block_tokens() * dim;
            let bounds = self.smallest[at..].iter_mut().zip(&mut self.largest[at..]);
            for ((smallest, largest), &bits) in bounds.zip(view.key(token)) {
                let element = widen(view.dtype(), bits);
                *smallest = smallest.min(element);
                *largest = largest.max(element);
            }
        }
        self.tokens = view.tokens();
    }

    /// Selects the tokens of the `pages` blocks of the middle for which the bound on the score, summed over the
    /// `queries` ([group, head_dim]), is largest.
    pub(super) fn select(
        &self,
        view: HeadBlocks<'_>,
        queries: &[f32],
        zones: Zones,
        pages: usize,
        out: &mut Selection,
    ) {
        let dim = view.head_dim();
        let middle = zones.middle();
        let blocks = middle.start / view.block_tokens()..middle.end.div_ceil(view.block_tokens());
        let bound = |block: usize| {
            let smallest = &self.smallest[block * dim..][..dim];
            let largest = &self.largest[block * dim..][..dim];
            let of_head = |query: &[f32]| {
                let elements = query.iter().zip(smallest).zip(largest);
                elements.map(|((q, s), l)| (q * s).max(q * l)).sum::<f32>()
            };
            queries.chunks_exact(dim).map(of_head).sum::<f32>()
        };
        let mut bounds: Vec<(f32, usize)> = blocks.clone().map(|b| (bound(b), b)).collect();
        bounds.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut chosen: Vec<usize> = bounds.iter().take(pages).map(|(_, block)| *block).collect();
        chosen.sort_unstable();
        out.tokens.clear();
        for block in chosen {
            let start = (block * view.block_tokens()).max(middle.start);
            let end = ((block + 1) * view.block_tokens()).min(middle.end);
            out.tokens.extend(number(start)..number(end));
        }
        out.effort =
            Effort { sketch_bytes: 2 * blocks.len() * dim * KvDtype::BYTES, ..Effort::default() };
        out.round_to_blocks(zones, view.block_tokens());
    }
}
