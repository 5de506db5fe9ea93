//! The exact top-k: every key is scored.

use hindsight_protocol::arena::HeadBlocks;
use hindsight_protocol::geometry::KvDtype;

use crate::kernels::{GroupQuery, Kernels, Scores};
use crate::scan::score_all;
use crate::selection::{Audit, Effort, Selection, Zones, number};
use crate::topk;

/// Exact selection, with the memory it works in.
#[derive(Debug, Clone)]
pub(crate) struct ExactScan {
    kernels: Kernels,
    scores: Scores,
    weights: Vec<f32>,
    tokens: Vec<u32>,
    best: Vec<u32>,
    narrowed: Vec<f32>,
}

impl ExactScan {
    /// Room for contexts of up to `max_tokens`.
    pub(crate) fn new(kernels: Kernels, group: usize, max_tokens: usize) -> Self {
        Self {
            kernels,
            scores: Scores::with_capacity(group, max_tokens),
            weights: Vec::with_capacity(max_tokens),
            tokens: (0..number(max_tokens)).collect(),
            best: Vec::new(),
            narrowed: Vec::with_capacity(max_tokens),
        }
    }

    /// Scores all keys; afterwards `weights` holds every token's share of attention, summed over the group.
    fn weigh(&mut self, view: HeadBlocks<'_>, query: &GroupQuery) {
        score_all(self.kernels, view, query, &mut self.scores);
        self.weights.clear();
        self.weights.resize(self.scores.len(), 0.0);
        for head in 0..query.group() {
            let shares = self.scores.head_mut(head);
            let (_, sum) = self.kernels.exponentiate(shares);
            self.kernels.add_scaled(shares, sum.recip(), &mut self.weights);
        }
        let numbered = self.tokens.len();
        self.tokens.extend(number(numbered)..number(self.weights.len().max(numbered)));
    }

    /// Selects the `top_k` tokens of the middle with the largest share of attention.
    pub(crate) fn select(
        &mut self,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        zones: Zones,
        top_k: usize,
        out: &mut Selection,
    ) {
        self.weigh(view, query);
        out.tokens.clear();
        let middle = zones.middle();
        topk::select(
            self.kernels,
            &self.tokens[middle.clone()],
            &self.weights[middle.clone()],
            top_k,
            &mut self.narrowed,
            &mut out.tokens,
        );
        out.round_to_blocks(zones, view.block_tokens());
        out.effort = Effort {
            candidates: middle.len(),
            key_bytes: view.tokens() * view.head_dim() * KvDtype::BYTES,
            ..Effort::default()
        };
    }

    /// Compares `selection` with the exact one.
    #[expect(clippy::cast_precision_loss)]
    pub(crate) fn audit(
        &mut self,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        zones: Zones,
        top_k: usize,
        selection: &Selection,
    ) -> Audit {
        self.weigh(view, query);
        let (middle, weights) = (zones.middle(), &self.weights);
        self.best.clear();
        let tokens = &self.tokens[middle.clone()];
        let middle_weights = &weights[middle];
        topk::select(
            self.kernels,
            tokens,
            middle_weights,
            top_k,
            &mut self.narrowed,
            &mut self.best,
        );
        let always: f32 =
            weights[..zones.sink].iter().chain(&weights[zones.window..zones.tokens]).sum();
        let mass = |tokens: &[u32]| tokens.iter().map(|&t| weights[t as usize]).sum::<f32>();
        let common = common(&self.best, &selection.tokens);
        Audit {
            recall: if self.best.is_empty() { 1.0 } else { common as f32 / self.best.len() as f32 },
            mass: (always + mass(&selection.tokens)) / (always + mass(&self.best)),
        }
    }

    /// Every token's share of attention at the last scan, summed over the group.
    pub(crate) fn weights(&self) -> &[f32] {
        &self.weights
    }
}

/// Number of tokens that two ascending lists share.
fn common(a: &[u32], b: &[u32]) -> usize {
    let mut rest = b;
    a.iter()
        .filter(|token| {
            let skipped = rest.partition_point(|other| other < token);
            rest = &rest[skipped..];
            rest.first() == Some(token)
        })
        .count()
}
