//! The index of one sequence: for every layer and KV head, what its queries shall attend to.

use std::ops::Range;

use hindsight_protocol::arena::HeadBlocks;
use hindsight_protocol::geometry::Geometry;

use crate::exact::ExactScan;
use crate::kernels::{GroupQuery, Kernels};
use crate::lfps::{Lfps, LfpsHead, Proposal};
use crate::parameters::{IndexParameters, ParameterError, Policy, Timing};
use crate::selection::{Audit, Selection, Zones};

/// The index of one sequence.
///
/// Calls must come in the order of the text: keys are appended before queries select among them. Nothing is allocated
/// in a step once the longest context has been seen, or announced as `max_tokens`.
#[derive(Debug, Clone)]
pub struct Index {
    policy: Policy,
    parameters: IndexParameters,
    geometry: Geometry,
    max_tokens: usize,
    scale: f32,
    query: GroupQuery,
    exact: ExactScan,
    lfps: Lfps,
    heads: Vec<LfpsHead>,
    /// What is attended to at the next step, per layer and KV head; for [`Timing::Ahead`].
    prepared: Vec<Prepared>,
    /// What is being chosen from, or was last, per KV head.
    at_hand: Vec<AtHand>,
}

/// A selection made by the queries of one step for the next.
#[derive(Debug, Clone, Default)]
struct Prepared {
    /// Tokens that the step saw.
    tokens: usize,
    selection: Selection,
}

/// What was proposed to one KV head of a layer.
#[derive(Debug, Clone)]
struct AtHand {
    layer: usize,
    proposal: Proposal,
}

impl Index {
    /// An index for a sequence of at most `max_tokens` tokens. Scores are products of queries and keys times
    /// `softmax_scale`.
    ///
    /// # Errors
    /// If a parameter is out of range.
    pub fn new(
        geometry: Geometry,
        softmax_scale: f32,
        policy: Policy,
        parameters: IndexParameters,
        max_tokens: usize,
    ) -> Result<Self, ParameterError> {
        Self::with_kernels(
            Kernels::detect(),
            geometry,
            softmax_scale,
            policy,
            parameters,
            max_tokens,
        )
    }

    /// As [`Index::new`], with given kernels.
    ///
    /// # Errors
    /// If a parameter is out of range.
    pub fn with_kernels(
        kernels: Kernels,
        geometry: Geometry,
        softmax_scale: f32,
        policy: Policy,
        parameters: IndexParameters,
        max_tokens: usize,
    ) -> Result<Self, ParameterError> {
        parameters.validate()?;
        let group = geometry.group();
        let heads = match policy {
            Policy::Exact => 0,
            Policy::Lfps => geometry.layers as usize * geometry.kv_heads as usize,
        };
        let prepared = match parameters.timing {
            Timing::Now | Timing::Rehearsed => 0,
            Timing::Ahead => geometry.layers as usize * geometry.kv_heads as usize,
        };
        let query = GroupQuery::new(group, geometry.head_dim as usize);
        let lfps = Lfps::new(kernels, parameters.clone(), group, max_tokens);
        let head_dim = geometry.head_dim as usize;
        let of_layer = |at: usize| {
            let top_k = parameters.top_k_of(at / geometry.kv_heads as usize);
            LfpsHead::new(&parameters, top_k, group, head_dim)
        };
        let at_hand = |_| AtHand { layer: 0, proposal: lfps.proposal(&query) };
        Ok(Self {
            prepared: vec![Prepared::default(); prepared],
            at_hand: (0..geometry.kv_heads).map(at_hand).collect(),
            policy,
            geometry,
            scale: softmax_scale,
            query,
            exact: ExactScan::new(kernels, group, max_tokens),
            lfps,
            heads: (0..heads).map(of_layer).collect(),
            max_tokens,
            parameters,
        })
    }

    /// What was set.
    #[must_use]
    pub const fn parameters(&self) -> &IndexParameters {
        &self.parameters
    }

    /// How keys are chosen.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Bytes that the index holds for its heads: codes, tables and history.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        let prepared = |prepared: &Prepared| {
            let Selection { tokens, blocks, .. } = &prepared.selection;
            size_of::<u32>() * (tokens.len() + blocks.len())
        };
        self.heads.iter().map(LfpsHead::bytes).sum::<usize>()
            + self.prepared.iter().map(prepared).sum::<usize>()
    }

    /// Whether the queries of `layer` attend to every token, however long the text becomes.
    #[must_use]
    pub const fn is_dense(&self, layer: usize) -> bool {
        self.parameters.is_dense(layer, self.max_tokens)
    }

    /// Sink, middle and window of a context of `tokens` tokens.
    #[must_use]
    pub const fn zones(&self, tokens: usize) -> Zones {
        Zones::new(tokens, self.parameters.sink, self.parameters.window)
    }

    /// Takes note of the keys of the tokens in `new`, which have been published in `view` and follow those that were
    /// appended before.
    ///
    /// # Panics
    /// If `layer` or `kv_head` does not exist.
    pub fn append(
        &mut self,
        layer: usize,
        kv_head: usize,
        view: HeadBlocks<'_>,
        new: Range<usize>,
    ) {
        let at = self.head(layer, kv_head);
        if self.policy == Policy::Lfps && !self.is_dense(layer) {
            self.lfps.append(&mut self.heads[at], view.truncated(new.end));
        }
    }

    /// Learns from the last queries of a prompt ([n, group, head_dim], unscaled): those of the last `n` tokens in
    /// `view`. Called once, when the whole prompt has been appended.
    ///
    /// # Panics
    /// If `layer` or `kv_head` does not exist, or there are not between 1 and `view.tokens()` whole groups of queries.
    pub fn seed(&mut self, layer: usize, kv_head: usize, view: HeadBlocks<'_>, queries: &[f32]) {
        let at = self.head(layer, kv_head);
        let length = self.query.group() * self.query.head_dim();
        assert!(!queries.is_empty() && queries.len().is_multiple_of(length));
        assert!(queries.len() / length <= view.tokens());
        if self.policy == Policy::Lfps && !self.is_dense(layer) {
            let Self { lfps, heads, query, exact, scale, .. } = self;
            lfps.seed(&mut heads[at], view, queries, query, *scale, exact);
        }
    }

    /// Chooses what the queries ([group, head_dim], unscaled) of the last token in `view` shall attend to. With
    /// [`Timing::Ahead`] that is what [`Index::prepare`] has chosen at the step before, if there was one. Only the exact policy
    /// reads the token's own key: for LFPS it need not be there yet.
    ///
    /// # Panics
    /// If `layer` or `kv_head` does not exist, or `queries` has another size.
    pub fn select(
        &mut self,
        layer: usize,
        kv_head: usize,
        view: HeadBlocks<'_>,
        queries: &[f32],
        out: &mut Selection,
    ) {
        let at = self.head(layer, kv_head);
        let prepared = self.prepared.get(at).filter(|it| it.tokens + 1 == view.tokens());
        if let Some(Prepared { selection, .. }) = prepared {
            let zones = self.zones(view.tokens());
            out.tokens.clone_from(&selection.tokens);
            out.effort = selection.effort;
            out.round_to_blocks(zones, view.block_tokens());
        } else {
            self.select_now(layer, kv_head, view, queries, out);
        }
    }

    /// Chooses by the queries of this step what the next one shall attend to, if that is asked for. Called when the step
    /// has been answered.
    ///
    /// # Panics
    /// As [`Index::select`].
    pub fn prepare(&mut self, layer: usize, kv_head: usize, view: HeadBlocks<'_>, queries: &[f32]) {
        let at = self.head(layer, kv_head);
        let Some(prepared) = self.prepared.get_mut(at) else { return };
        let mut selection = std::mem::take(&mut prepared.selection);
        self.select_now(layer, kv_head, view, queries, &mut selection);
        self.prepared[at] = Prepared { tokens: view.tokens(), selection };
    }

    /// Proposes candidates to the token after those in `view`, by the queries ([group, head_dim], unscaled) that it is expected
    /// to have: when its own are there, [`Index::select`] chooses among them, unless the queries prove too unlike. Its own key is
    /// not needed. Says whether anything was proposed: there may be nothing to choose, or nothing learned yet.
    ///
    /// # Panics
    /// As [`Index::select`].
    pub fn rehearse(
        &mut self,
        layer: usize,
        kv_head: usize,
        view: HeadBlocks<'_>,
        queries: &[f32],
    ) -> bool {
        let at = self.head(layer, kv_head);
        self.learn(kv_head);
        let useful = self.parameters.timing == Timing::Rehearsed
            && self.policy == Policy::Lfps
            && self.chooses(layer, self.zones(view.tokens() + 1))
            && self.lfps.proposes(&self.heads[at]);
        if useful {
            let at_hand = &mut self.at_hand[kv_head];
            at_hand.layer = layer;
            self.query.load(queries, self.scale);
            if let Some(next) = self.heads.get(at + 1) {
                next.fetch();
            }
            self.lfps.rehearse(&mut self.heads[at], view, &self.query, &mut at_hand.proposal);
        }
        useful
    }

    /// Learns what the last selection of `kv_head`, in whatever layer, has shown. Whoever selects next does so first; but a
    /// selection that is waited for can be passed on before.
    ///
    /// # Panics
    /// If `kv_head` does not exist.
    pub fn learn(&mut self, kv_head: usize) {
        let AtHand { layer, proposal } = &mut self.at_hand[kv_head];
        let at = *layer * self.geometry.kv_heads as usize + kv_head;
        if let Some(head) = self.heads.get_mut(at) {
            self.lfps.learn(head, proposal);
        }
    }

    fn select_now(
        &mut self,
        layer: usize,
        kv_head: usize,
        view: HeadBlocks<'_>,
        queries: &[f32],
        out: &mut Selection,
    ) {
        let at = self.head(layer, kv_head);
        let zones = self.zones(view.tokens());
        if !self.chooses(layer, zones) {
            out.effort = crate::selection::Effort::default();
            out.choose_all(zones, view.block_tokens());
            return;
        }
        self.learn(kv_head);
        let Self { lfps, heads, query, exact, scale, parameters, at_hand, .. } = self;
        query.load(queries, *scale);
        if self.policy == Policy::Exact {
            exact.select(view, query, zones, parameters.top_k_of(layer), out);
            return;
        }
        let AtHand { layer: of_layer, proposal } = &mut at_hand[kv_head];
        if std::mem::replace(of_layer, layer) != layer {
            proposal.expected_at = 0;
        }
        let before = view.truncated(view.tokens() - 1);
        lfps.select(&mut heads[at], before, query, proposal, exact, out);
    }

    /// Whether there is anything to choose in `layer`, of a context in these zones.
    fn chooses(&self, layer: usize, zones: Zones) -> bool {
        !self.parameters.is_dense(layer, zones.tokens)
            && zones.middle().len() > self.parameters.top_k_of(layer)
    }

    /// Compares `selection`, made for these queries of `layer`, with what an exact scan selects.
    ///
    /// # Panics
    /// If `queries` has another size than [group, head_dim].
    pub fn audit(
        &mut self,
        layer: usize,
        view: HeadBlocks<'_>,
        queries: &[f32],
        selection: &Selection,
    ) -> Audit {
        let zones = self.zones(view.tokens());
        self.query.load(queries, self.scale);
        let top_k = self.parameters.top_k_of(layer);
        self.exact.audit(view, &self.query, zones, top_k, selection)
    }

    fn head(&self, layer: usize, kv_head: usize) -> usize {
        let Geometry { layers, kv_heads, .. } = self.geometry;
        assert!(layer < layers as usize && kv_head < kv_heads as usize);
        layer * kv_heads as usize + kv_head
    }
}
