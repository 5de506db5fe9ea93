//! LFPS: learning from past selections which keys a query needs, so that not all have to be read.

mod bitmap;
mod decayed;
mod deviations;
mod history;
mod proposal;
mod reach;
mod usual;

use hindsight_protocol::arena::HeadBlocks;
use hindsight_protocol::geometry::KvDtype;

use crate::exact::ExactScan;
use crate::kernels::{GroupQuery, Kernels, Scores, fetch};
use crate::parameters::{IndexParameters, SketchUse, times};
use crate::scan::{fetch_tokens, score_tokens};
use crate::selection::{Effort, Selection, Zones, number};
use crate::sketch::{EncodeScratch, Ranking, Sketch};
use crate::topk;
use bitmap::Bitmap;
use deviations::Deviations;
use history::History;
pub(crate) use proposal::Proposal;
use reach::{fill, first_rank_from};
use usual::Usual;

/// Tokens of the last selection that are scored first, to learn how the heads of a group share their attention.
const ANCHORS: usize = 32;
/// How far below the last step's weakest candidate estimates are told apart, as a difference of logarithms.
const FLOOR_MARGIN: f32 = 3.0;
/// By how much a head's normaliser may rise or fall, as a difference of logarithms, when candidates are scored, before they
/// are proposed anew.
const MISJUDGED: f32 = 2.0;
/// By how much further candidates reach below the last one wanted when they are proposed by queries that are only expected.
const EXPECTED_REACH: f32 = 1.25;
/// Mean cosine of a group's expected and true queries below which what the expected ones proposed is not used.
const LEAST_ALIKE: f32 = 0.85;
/// Queries that a sketch is calibrated from when no prompt seeded it.
const QUERIES_TO_CALIBRATE: usize = 32;

/// What is known of one KV head of one sequence.
#[derive(Debug, Clone)]
pub(crate) struct LfpsHead {
    /// Tokens of the middle that it chooses.
    top_k: usize,
    sketch: Option<Sketch>,
    history: History,
    deviations: Deviations,
    /// The candidates of the last step with the largest weights, ascending.
    strongest: Vec<u32>,
    /// By how much each head's normaliser lay above that of the tokens scored first, at the last step.
    gaps: Vec<f32>,
    /// Logarithm of the weight of the weakest candidate of the last scan.
    cut: f32,
    /// Logarithm of the `top_k`-th estimated weight of the last scan.
    kth: f32,
    /// How far codes were expected to miss scores.
    errors: Usual,
    last_query: Vec<f32>,
    /// Queries since the start, until they suffice to calibrate the sketch.
    queries: Vec<f32>,
}

impl LfpsHead {
    /// A head that chooses `top_k` tokens for a group of queries of `head_dim` elements.
    pub(crate) fn new(
        parameters: &IndexParameters,
        top_k: usize,
        group: usize,
        head_dim: usize,
    ) -> Self {
        let scans = parameters.sketch != SketchUse::Never;
        let most = if scans { most_candidates(parameters, top_k) } else { 0 };
        Self {
            top_k,
            sketch: None,
            history: History::new(parameters, top_k),
            deviations: Deviations::new(most),
            strongest: Vec::with_capacity(ANCHORS),
            gaps: vec![0.0; group],
            cut: parameters.weight_floor,
            kth: parameters.weight_floor,
            errors: Usual::default(),
            last_query: Vec::with_capacity(group * head_dim),
            queries: Vec::new(),
        }
    }

    /// Asks for what proposing reads besides keys and most codes.
    pub(crate) fn fetch(&self) {
        if let Some(sketch) = &self.sketch {
            sketch.fetch();
        }
        self.deviations.fetch();
        fetch(&self.strongest);
        fetch(&self.gaps);
    }

    /// Bytes held besides fixed scratch memory.
    pub(crate) fn bytes(&self) -> usize {
        self.sketch.as_ref().map_or(0, Sketch::bytes)
            + self.history.bytes()
            + self.deviations.bytes()
            + size_of::<f32>() * (self.gaps.len() + self.last_query.len() + self.queries.len())
            + size_of::<u32>() * self.strongest.len()
    }
}

/// Candidates that one scan of a sketch may give to a head that chooses `top_k` tokens.
fn most_candidates(parameters: &IndexParameters, top_k: usize) -> usize {
    times(parameters.proposals, top_k) + ANCHORS
}

/// Candidates that history may give to it.
fn most_from_history(parameters: &IndexParameters, top_k: usize) -> usize {
    let remembered = parameters.vertical + parameters.slash + 1.0;
    times(remembered, top_k) * (2 * parameters.expansion + 2)
}

/// LFPS selection for all heads of one shape, with the memory it works in.
#[derive(Debug, Clone)]
pub(crate) struct Lfps {
    kernels: Kernels,
    parameters: IndexParameters,
    max_tokens: usize,
    /// Candidates that there may be.
    most: usize,
    anchors: Vec<u32>,
    /// Logarithm of the sum of the exponentials of each head's scores, as far as known.
    normalisers: Vec<f32>,
    ranking: Ranking,
    set: Bitmap,
    scores: Scores,
    weights: Vec<f32>,
    selected_weights: Vec<f32>,
    narrowed: Vec<f32>,
    coding: EncodeScratch,
}

impl Lfps {
    pub(crate) fn new(
        kernels: Kernels,
        parameters: IndexParameters,
        group: usize,
        max_tokens: usize,
    ) -> Self {
        let widest = parameters.widest(max_tokens);
        let most = most_candidates(&parameters, widest)
            .max(most_from_history(&parameters, widest))
            .min(max_tokens);
        let anchors = parameters.sink + parameters.window + ANCHORS;
        Self {
            kernels,
            max_tokens,
            anchors: Vec::with_capacity(anchors),
            normalisers: Vec::with_capacity(group),
            ranking: Ranking::new(max_tokens),
            set: Bitmap::new(max_tokens),
            most,
            scores: Scores::with_capacity(group, anchors),
            weights: Vec::with_capacity(most),
            selected_weights: Vec::with_capacity(widest.min(max_tokens)),
            narrowed: Vec::with_capacity(most),
            coding: EncodeScratch::default(),
            parameters,
        }
    }

    /// Whether expected queries of `head` can propose anything.
    pub(crate) fn proposes(&self, head: &LfpsHead) -> bool {
        self.parameters.sketch == SketchUse::Always && head.sketch.is_some()
    }

    /// Room for what a group of queries like `query` proposes.
    pub(crate) fn proposal(&self, query: &GroupQuery) -> Proposal {
        let always = self.parameters.sink + self.parameters.window;
        let widest = self.parameters.widest(self.max_tokens);
        Proposal::with_capacity(query, self.most, always, widest)
    }

    /// Codes keys that are new in `view`.
    pub(crate) fn append(&mut self, head: &mut LfpsHead, view: HeadBlocks<'_>) {
        let needed = self.zones(view.tokens()).window;
        if let Some(sketch) = &mut head.sketch {
            sketch.extend(self.kernels, view, needed, &mut self.coding);
        }
    }

    /// Learns from the queries ([n, group, head_dim], unscaled) of the last `n` tokens in `view`.
    pub(crate) fn seed(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        queries: &[f32],
        query: &mut GroupQuery,
        scale: f32,
        exact: &mut ExactScan,
    ) {
        let length = query.group() * query.head_dim();
        let count = queries.len() / length;
        let zones = self.zones(view.tokens());
        if zones.middle().len() <= head.top_k {
            return;
        }
        if self.parameters.sketch != SketchUse::Never {
            self.calibrate(head, view, queries);
        }
        let used = count.min(self.parameters.seed_queries);
        let (mut selection, mut proposal) = (Selection::default(), self.proposal(query));
        for (index, queries) in queries.chunks_exact(length).enumerate().skip(count - used) {
            let before = view.tokens() + index - count;
            if self.zones(before + 1).middle().len() <= head.top_k {
                continue;
            }
            let view = view.truncated(before);
            query.load(queries, scale);
            if self.parameters.sketch == SketchUse::Always {
                self.select(head, view, query, &mut proposal, exact, &mut selection);
                self.learn(head, &mut proposal);
            } else {
                self.select_exactly(head, view, query, exact, &mut selection);
            }
        }
    }

    fn zones(&self, tokens: usize) -> Zones {
        Zones::new(tokens, self.parameters.sink, self.parameters.window)
    }

    fn calibrate(&mut self, head: &mut LfpsHead, view: HeadBlocks<'_>, queries: &[f32]) {
        let bytes = self.parameters.code_bytes_of(view.head_dim());
        let first = self.parameters.sink.min(view.tokens() - 1);
        let mut sketch =
            Sketch::calibrate(self.kernels, view, first, queries, bytes, self.max_tokens);
        let needed = self.zones(view.tokens()).window;
        sketch.extend(self.kernels, view, needed, &mut self.coding);
        self.ranking.prepare(&sketch, self.scores.group());
        head.sketch = Some(sketch);
        head.queries = Vec::new();
    }

    /// Selects, for the queries of the token after those in `view`, from candidates: those that expected queries have left in
    /// `proposal`, unless the true ones prove too unlike. The middle must be larger than the head's `top_k`. What the selection
    /// tells about the head may be left in `proposal`, for [`Lfps::learn`].
    pub(crate) fn select(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        proposal: &mut Proposal,
        exact: &mut ExactScan,
        out: &mut Selection,
    ) {
        let scan = match self.parameters.sketch {
            SketchUse::Never => false,
            SketchUse::OnDrift => self.has_drifted(head, query),
            SketchUse::Always => true,
        };
        if self.parameters.sketch != SketchUse::Never && head.sketch.is_none() {
            head.queries.extend_from_slice(query.values());
            self.select_exactly(head, view, query, exact, out);
            if head.queries.len() >= QUERIES_TO_CALIBRATE * query.values().len() {
                let queries = std::mem::take(&mut head.queries);
                self.calibrate(head, view, &queries);
            }
        } else if scan {
            if std::mem::take(&mut proposal.expected_at) != view.tokens() + 1 {
                self.propose(head, view, query, 1.0, proposal);
            } else if proposal.likeness(query) < LEAST_ALIKE {
                let wasted = proposal.effort;
                self.propose(head, view, query, 1.0, proposal);
                proposal.effort.add(&wasted);
                proposal.misled = true;
            }
            self.select_proposed(head, view, query, proposal, exact, out);
            out.effort.repaired |= self.parameters.sketch == SketchUse::OnDrift;
        } else {
            self.select_by_history(head, view, query, proposal, out);
        }
    }

    /// Proposes candidates to the token after those in `view`. They reach `reach` times as far below the last one wanted as
    /// estimates err.
    fn propose(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        reach: f32,
        proposal: &mut Proposal,
    ) {
        let zones = self.zones(view.tokens() + 1);
        if let Some(sketch) = &mut head.sketch {
            sketch.extend(self.kernels, view, zones.window, &mut self.coding);
        }
        self.weigh_anchors(head, view, query);
        let floor = (head.cut - FLOOR_MARGIN).max(self.parameters.weight_floor);
        proposal.begin(query, floor, reach * self.parameters.confidence);
        head.deviations.retain(zones.middle());
        proposal.effort.history_bytes = head.deviations.bytes();
        self.rank_and_collect(head, query, zones, proposal);
        proposal.surprising =
            head.errors.surpassed_by(self.ranking.largest_error, self.parameters.surprise);
    }

    /// As [`Lfps::propose`], for expected queries: the candidates' keys will be asked for later, and are fetched meanwhile.
    pub(crate) fn rehearse(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        proposal: &mut Proposal,
    ) {
        self.propose(head, view, query, EXPECTED_REACH, proposal);
        proposal.expected_at = view.tokens() + 1;
        // They are read once more when the true queries come.
        proposal.effort.key_bytes = self.anchors.len() * view.head_dim() * KvDtype::BYTES;
        fetch_tokens(view, &proposal.candidates);
    }

    /// Takes what a selection by codes has shown into what is known of the head.
    pub(crate) fn learn(&mut self, head: &mut LfpsHead, proposal: &mut Proposal) {
        if std::mem::take(&mut proposal.weighed) {
            self.note_strongest(head, &proposal.candidates, &proposal.weights);
            head.deviations.observe(proposal);
        }
    }

    /// Whether the query has turned away from the one before.
    fn has_drifted(&self, head: &mut LfpsHead, query: &GroupQuery) -> bool {
        let drifted = !head.last_query.is_empty()
            && query.likeness(&head.last_query) < self.parameters.drift_threshold;
        head.last_query.clear();
        head.last_query.extend_from_slice(query.values());
        drifted
    }

    /// Estimates each head's normaliser from sink, window and the strongest tokens of the last step, which hold about the
    /// same share of it as they did then, for the token after those in `view`.
    fn weigh_anchors(&mut self, head: &LfpsHead, view: HeadBlocks<'_>, query: &GroupQuery) {
        self.list_always(view);
        let Self { kernels, anchors, scores, normalisers, .. } = self;
        anchors.extend_from_slice(&head.strongest);
        scores.resize(anchors.len());
        score_tokens(*kernels, view, query, anchors, scores, 0);
        normalisers.clear();
        for (row, gap) in head.gaps.iter().enumerate() {
            normalisers.push(kernels.log_sum_exp(scores.head_mut(row)) + gap);
        }
    }

    /// Ranks all keys by their codes, and makes those of the largest ranks candidates.
    fn rank_and_collect(
        &mut self,
        head: &mut LfpsHead,
        query: &GroupQuery,
        zones: Zones,
        proposal: &mut Proposal,
    ) {
        let Self { kernels, parameters, ranking, .. } = self;
        let sketch = head.sketch.as_ref().expect("codes have been learnt");
        let (middle, top_k) = (zones.middle(), head.top_k);
        proposal.effort.sketch_bytes += sketch.scan_bytes();
        ranking.rank(*kernels, sketch, query, &self.normalisers, proposal.floor);
        head.deviations.apply(ranking, parameters.persistence);
        let ranks = &ranking.ranks[middle.clone()];
        let expected = ranking.rank_of(head.kth);
        let reach = |count: usize| {
            first_rank_from(expected, |cut| kernels.count_at_least(ranks, cut) <= count)
        };
        let most = times(parameters.proposals, top_k);
        let lowest = ranking.lowest_rank(query.group(), parameters.weight_floor);
        let margin = ranking.ranks_in(proposal.confidence * ranking.error);
        let kth = reach(top_k);
        head.kth = ranking.log_weight_of(kth);
        let wanted = kth.saturating_sub(margin).max(lowest);
        let cut = if kernels.count_at_least(ranks, wanted) <= most { wanted } else { reach(most) };
        head.cut = ranking.log_weight_of(cut);
        // Their scores are known, and whatever rank they have says nothing about the others'.
        for &token in &head.strongest {
            ranking.ranks[token as usize] = u8::MAX;
        }
        let ranks = &ranking.ranks[middle.clone()];
        proposal.candidates.clear();
        kernels.collect_at_least(ranks, cut, number(middle.start), &mut proposal.candidates);
        proposal.candidates.truncate(most + ANCHORS);
        proposal.likeliest.clear();
        if proposal.candidates.len() < top_k {
            fill(*kernels, ranks, cut, middle.start, top_k, &mut proposal.likeliest);
        }
        proposal.find(&head.strongest);
        head.deviations.undo(ranking);
        proposal.note_ranks(ranking);
    }

    /// Selects the best of a proposal's candidates.
    fn select_proposed(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        proposal: &mut Proposal,
        exact: &mut ExactScan,
        out: &mut Selection,
    ) {
        let zones = self.zones(view.tokens() + 1);
        out.tokens.clear();
        out.effort = Effort::default();
        if proposal.surprising {
            exact.select(view, query, zones, head.top_k, out);
            out.effort.repaired = true;
            proposal.replace(&out.tokens);
            proposal.find(&head.strongest);
            self.weigh(head, view, query, proposal);
        } else {
            if self.weigh(head, view, query, proposal) > MISJUDGED {
                // Some head turned to tokens that nobody expected, or back to what was: its weights were overrated or underrated
                // against the others'.
                out.effort.repaired = true;
                out.effort.key_bytes = proposal.candidates.len() * view.head_dim() * KvDtype::BYTES;
                self.rank_and_collect(head, query, zones, proposal);
                self.weigh(head, view, query, proposal);
            }
            out.tokens.extend_from_slice(&proposal.likeliest);
        }
        out.effort.add(&proposal.effort);
        out.effort.repaired |= proposal.misled;
        out.effort.misled = proposal.misled;
        self.choose(head.top_k, proposal, out);
        proposal.weighed = true;
        self.finish(view, zones, proposal.candidates.len(), out);
    }

    fn select_by_history(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        proposal: &mut Proposal,
        out: &mut Selection,
    ) {
        let zones = self.zones(view.tokens() + 1);
        out.tokens.clear();
        out.effort = Effort { history_bytes: head.history.bytes(), ..Effort::default() };
        let candidates = &mut proposal.candidates;
        candidates.clear();
        head.history.propose(&self.parameters, zones, &mut self.set, candidates);
        if self.parameters.sketch == SketchUse::OnDrift {
            // For the next scan.
            proposal.find(&head.strongest);
        }
        self.weigh(head, view, query, proposal);
        self.choose(head.top_k, proposal, out);
        self.remember(head, &proposal.candidates, &proposal.weights, zones, out);
        self.finish(view, zones, proposal.candidates.len(), out);
    }

    /// What is the same for every selection from candidates.
    fn finish(&self, view: HeadBlocks<'_>, zones: Zones, candidates: usize, out: &mut Selection) {
        out.round_to_blocks(zones, view.block_tokens());
        let always = zones.tokens - zones.middle().len();
        out.effort.candidates = candidates;
        out.effort.key_bytes += (always + candidates) * view.head_dim() * KvDtype::BYTES;
    }

    /// Makes the anchors those of sink and window that the token after those in `view` sees, but for itself.
    fn list_always(&mut self, view: HeadBlocks<'_>) {
        let zones = self.zones(view.tokens() + 1);
        self.anchors.clear();
        self.anchors.extend(number(0)..number(zones.sink));
        self.anchors.extend(number(zones.window)..number(view.tokens()));
    }

    /// Weighs a proposal's candidates for the token after those in `view`: by their shares of what attention it pays to the tokens
    /// before it, for its own key may not be there yet. Learns the normalisers, and how much of them sink, window and the
    /// strongest tokens of the last step missed; returns by how much that has changed for a head at most.
    fn weigh(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        proposal: &mut Proposal,
    ) -> f32 {
        self.list_always(view);
        let Self { kernels, anchors, normalisers, .. } = self;
        let Proposal { candidates, strongest, weights, scores, .. } = proposal;
        let always = anchors.len();
        scores.resize(always + candidates.len());
        score_tokens(*kernels, view, query, anchors, scores, 0);
        score_tokens(*kernels, view, query, candidates, scores, always);
        weights.clear();
        weights.resize(candidates.len(), 0.0);
        normalisers.clear();
        let mut largest_change = 0.0_f32;
        for (row, gap) in head.gaps.iter_mut().enumerate() {
            let shares = scores.head_mut(row);
            let (max, sum) = kernels.exponentiate(shares);
            let (of_always, of_candidates) = shares.split_at(always);
            kernels.add_scaled(of_candidates, sum.recip(), weights);
            normalisers.push(max + sum.ln());
            let anchored = of_always.iter().sum::<f32>()
                + strongest.iter().map(|&at| of_candidates[at]).sum::<f32>();
            let found = (sum / anchored.max(f32::MIN_POSITIVE)).ln();
            largest_change = largest_change.max((found - *gap).abs());
            *gap = found;
        }
        largest_change
    }

    /// Selects the `top_k` best of the candidates, which have been weighed, unless the selection has been filled already.
    fn choose(&mut self, top_k: usize, proposal: &Proposal, out: &mut Selection) {
        if out.tokens.is_empty() {
            let narrowed = &mut self.narrowed;
            let Proposal { candidates, weights, .. } = proposal;
            topk::select(self.kernels, candidates, weights, top_k, narrowed, &mut out.tokens);
        }
    }

    /// Takes a selection from history, or from all keys, into what is known of the head.
    fn remember(
        &mut self,
        head: &mut LfpsHead,
        candidates: &[u32],
        weights: &[f32],
        zones: Zones,
        out: &Selection,
    ) {
        self.note_strongest(head, candidates, weights);
        if self.parameters.sketch != SketchUse::Always {
            let Self { kernels, parameters, selected_weights, narrowed, .. } = self;
            selected_weights.clear();
            topk::weights_of(&out.tokens, candidates, weights, selected_weights);
            head.history.observe(
                *kernels,
                parameters.decay,
                zones.tokens,
                &out.tokens,
                selected_weights,
                narrowed,
            );
        }
    }

    fn note_strongest(&mut self, head: &mut LfpsHead, candidates: &[u32], weights: &[f32]) {
        let (narrowed, strongest) = (&mut self.narrowed, &mut head.strongest);
        strongest.clear();
        topk::select(self.kernels, candidates, weights, ANCHORS, narrowed, strongest);
    }

    fn select_exactly(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        exact: &mut ExactScan,
        out: &mut Selection,
    ) {
        let zones = self.zones(view.tokens() + 1);
        exact.select(view, query, zones, head.top_k, out);
        out.effort.repaired = true;
        let of_all = exact.weights();
        let mut weights = std::mem::take(&mut self.weights);
        weights.clear();
        weights.extend(out.tokens.iter().map(|&token| of_all[token as usize]));
        self.remember(head, &out.tokens, &weights, zones, out);
        self.weights = weights;
    }
}
