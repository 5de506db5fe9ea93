//! Rehearsed selections: an expected query selects before the true one is known.

use hindsight_protocol::arena::HeadBlocks;

use super::{Lfps, LfpsHead, drift};
use crate::exact::ExactScan;
use crate::kernels::GroupQuery;
use crate::parameters::SketchUse;
use crate::selection::{Selection, Zones};

/// Mean cosine of the expected and the true queries of a group below which the rehearsal counts for nothing.
const LEAST_ALIKE: f32 = 0.85;

/// What an expected query has selected.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rehearsal {
    query: Vec<f32>,
    selection: Selection,
}

impl Rehearsal {
    /// Room for selections of `top_k` tokens in contexts of up to `max_tokens`.
    pub(crate) fn with_capacity(elements: usize, top_k: usize, max_tokens: usize) -> Self {
        Self {
            query: Vec::with_capacity(elements),
            selection: Selection::with_capacity(top_k, max_tokens),
        }
    }

    /// Whether `query` is much like the expected one.
    pub(crate) fn is_for(&self, query: &GroupQuery) -> bool {
        drift(&self.query, query) >= LEAST_ALIKE
    }

    /// Gives the selection to the query of the token after those that the rehearsal saw.
    pub(crate) fn give(&self, zones: Zones, block_tokens: usize, out: &mut Selection) {
        out.tokens.clone_from(&self.selection.tokens);
        out.effort = self.selection.effort;
        out.round_to_blocks(zones, block_tokens);
    }
}

impl Lfps {
    /// Selects for the query that the token after those in `view` is expected to have. Returns false if a rehearsal is of no
    /// use: codes have yet to be learned.
    pub(crate) fn rehearse(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        zones: Zones,
        exact: &mut ExactScan,
        rehearsal: &mut Rehearsal,
    ) -> bool {
        if self.parameters.sketch != SketchUse::Never && head.sketch.is_none() {
            return false;
        }
        rehearsal.query.clear();
        rehearsal.query.extend_from_slice(query.values());
        self.select(head, view, query, zones, exact, &mut rehearsal.selection);
        true
    }
}
