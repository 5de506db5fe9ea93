//! LFPS: learning from past selections which keys a query needs, so that not all have to be read.

mod bitmap;
mod decayed;
mod deviations;
mod history;

use hindsight_protocol::arena::HeadBlocks;
use hindsight_protocol::geometry::KvDtype;

use crate::exact::ExactScan;
use crate::kernels::{GroupQuery, Kernels, Scores};
use crate::parameters::{IndexParameters, SketchUse};
use crate::scan::{score_tokens, sum_weights};
use crate::selection::{Effort, Selection, Zones, number};
use crate::sketch::{Ranking, Sketch};
use crate::topk;
use bitmap::Bitmap;
use deviations::Deviations;
use history::History;

/// Tokens of the last selection that are scored first, to learn how the heads of a group share their attention.
const ANCHORS: usize = 32;
/// How far below the last step's weakest candidate estimates are told apart, as a difference of logarithms.
const FLOOR_MARGIN: f32 = 3.0;
/// Queries that a sketch is calibrated from when no prompt seeded it.
const QUERIES_TO_CALIBRATE: usize = 32;

/// What is known of one KV head of one sequence.
#[derive(Debug, Clone)]
pub(crate) struct LfpsHead {
    sketch: Option<Sketch>,
    history: History,
    deviations: Deviations,
    /// The candidates of the last step with the largest weights, ascending.
    strongest: Vec<u32>,
    /// Logarithm of the weight of the weakest candidate of the last scan.
    cut: f32,
    last_query: Vec<f32>,
    /// Queries since the start, until they suffice to calibrate the sketch.
    queries: Vec<f32>,
}

impl LfpsHead {
    pub(crate) fn new(parameters: &IndexParameters) -> Self {
        let scans = parameters.sketch != SketchUse::Never;
        let most = if scans { most_candidates(parameters) } else { 0 };
        Self {
            sketch: None,
            history: History::new(parameters),
            deviations: Deviations::new(most),
            strongest: Vec::with_capacity(ANCHORS),
            cut: parameters.weight_floor,
            last_query: Vec::new(),
            queries: Vec::new(),
        }
    }

    /// Bytes held besides fixed scratch memory.
    pub(crate) fn bytes(&self) -> usize {
        self.sketch.as_ref().map_or(0, Sketch::bytes)
            + self.history.bytes()
            + self.deviations.bytes()
            + size_of::<f32>() * (self.last_query.len() + self.queries.len())
            + size_of::<u32>() * self.strongest.len()
    }
}

/// Candidates that one scan of a sketch may give.
fn most_candidates(parameters: &IndexParameters) -> usize {
    parameters.times_top_k(parameters.proposals) + ANCHORS
}

/// LFPS selection for all heads of one shape, with the memory it works in.
#[derive(Debug, Clone)]
pub(crate) struct Lfps {
    kernels: Kernels,
    parameters: IndexParameters,
    max_tokens: usize,
    anchors: Vec<u32>,
    anchor_scores: Scores,
    normalisers: Vec<f32>,
    ranking: Ranking,
    set: Bitmap,
    candidates: Vec<u32>,
    scores: Scores,
    weights: Vec<f32>,
    narrowed: Vec<f32>,
    numbers: Vec<f32>,
}

impl Lfps {
    pub(crate) fn new(
        kernels: Kernels,
        parameters: IndexParameters,
        group: usize,
        max_tokens: usize,
    ) -> Self {
        let set = Bitmap::new(max_tokens);
        Self {
            kernels,
            parameters,
            max_tokens,
            anchors: Vec::new(),
            anchor_scores: Scores::new(group),
            normalisers: Vec::new(),
            ranking: Ranking::new(max_tokens),
            set,
            candidates: Vec::new(),
            scores: Scores::new(group),
            weights: Vec::new(),
            narrowed: Vec::new(),
            numbers: Vec::new(),
        }
    }

    /// Codes keys that are new in `view`.
    pub(crate) fn append(&mut self, head: &mut LfpsHead, view: HeadBlocks<'_>) {
        if let Some(sketch) = &mut head.sketch {
            sketch.extend(self.kernels, view, &mut self.numbers);
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
        if zones.middle().len() <= self.parameters.top_k {
            return;
        }
        if self.parameters.sketch != SketchUse::Never {
            self.calibrate(head, view, queries);
        }
        let used = count.min(self.parameters.seed_queries);
        let mut selection = Selection::default();
        for (index, queries) in queries.chunks_exact(length).enumerate().skip(count - used) {
            let view = view.truncated(view.tokens() + index + 1 - count);
            let zones = self.zones(view.tokens());
            if zones.middle().len() <= self.parameters.top_k {
                continue;
            }
            query.load(queries, scale);
            if self.parameters.sketch == SketchUse::Always {
                self.select(head, view, query, zones, exact, &mut selection);
            } else {
                self.select_exactly(head, view, query, zones, exact, &mut selection);
            }
        }
    }

    fn zones(&self, tokens: usize) -> Zones {
        Zones::new(tokens, self.parameters.sink, self.parameters.window)
    }

    fn calibrate(&mut self, head: &mut LfpsHead, view: HeadBlocks<'_>, queries: &[f32]) {
        let bytes = match self.parameters.code_bytes {
            0 => default_code_bytes(view.head_dim()),
            bytes => bytes,
        };
        let first = self.parameters.sink.min(view.tokens() - 1);
        let mut sketch =
            Sketch::calibrate(self.kernels, view, first, queries, bytes, self.max_tokens);
        sketch.extend(self.kernels, view, &mut self.numbers);
        head.sketch = Some(sketch);
        head.queries = Vec::new();
    }

    /// Selects from candidates; the middle must be larger than `top_k`.
    pub(crate) fn select(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        zones: Zones,
        exact: &mut ExactScan,
        out: &mut Selection,
    ) {
        let drifted = drift(&head.last_query, query) < self.parameters.drift_threshold;
        head.last_query.clear();
        head.last_query.extend_from_slice(query.values());
        let scan = match self.parameters.sketch {
            SketchUse::Never => false,
            SketchUse::OnDrift => drifted,
            SketchUse::Always => true,
        };
        if self.parameters.sketch != SketchUse::Never && head.sketch.is_none() {
            head.queries.extend_from_slice(query.values());
            self.select_exactly(head, view, query, zones, exact, out);
            if head.queries.len() >= QUERIES_TO_CALIBRATE * query.values().len() {
                let queries = std::mem::take(&mut head.queries);
                self.calibrate(head, view, &queries);
            }
            return;
        }
        self.weigh_anchors(head, view, query, zones);
        out.tokens.clear();
        out.effort = Effort::default();
        match head.sketch.take() {
            Some(sketch) if scan => {
                self.select_by_codes(head, &sketch, view, query, zones, out);
                out.effort.sketch_bytes = sketch.scan_bytes();
                out.effort.repaired = self.parameters.sketch == SketchUse::OnDrift;
                head.sketch = Some(sketch);
            }
            sketch => {
                head.sketch = sketch;
                self.select_by_history(head, view, query, zones, out);
            }
        }
        self.remember(head, zones, out);
        out.round_to_blocks(zones, view.block_tokens());
        let always = zones.tokens - zones.middle().len();
        out.effort.candidates = self.candidates.len();
        out.effort.key_bytes = (always + self.candidates.len()) * view.head_dim() * KvDtype::BYTES;
    }

    /// Learns each head's normaliser from sink, window and the strongest tokens of the last step.
    fn weigh_anchors(
        &mut self,
        head: &LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        zones: Zones,
    ) {
        self.anchors.clear();
        self.anchors.extend(number(0)..number(zones.sink));
        self.anchors.extend_from_slice(&head.strongest);
        self.anchors.extend(number(zones.window)..number(zones.tokens));
        score_tokens(self.kernels, view, query, &self.anchors, &mut self.anchor_scores);
        self.normalisers.clear();
        let scores = &self.anchor_scores;
        let sums = (0..query.group()).map(|head| self.kernels.log_sum_exp(scores.head(head)));
        self.normalisers.extend(sums);
    }

    fn select_by_codes(
        &mut self,
        head: &mut LfpsHead,
        sketch: &Sketch,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        zones: Zones,
        out: &mut Selection,
    ) {
        let Self { kernels, parameters, ranking, candidates, .. } = self;
        let (kernels, middle) = (*kernels, zones.middle());
        let floor = (head.cut - FLOOR_MARGIN).max(parameters.weight_floor);
        ranking.rank(kernels, sketch, query, &self.normalisers, floor);
        head.deviations.retain(middle.clone());
        out.effort.history_bytes = head.deviations.bytes();
        head.deviations.apply(ranking, parameters.persistence);
        for &token in &head.strongest {
            ranking.ranks[token as usize] = u8::MAX;
        }
        let ranks = &ranking.ranks[middle.clone()];
        let most = parameters.times_top_k(parameters.proposals);
        let lowest = ranking.lowest_rank(query.group(), parameters.weight_floor);
        let cut = first_rank(lowest..u8::MAX, |cut| kernels.count_at_least(ranks, cut) <= most);
        candidates.clear();
        kernels.collect_at_least(ranks, cut, number(middle.start), candidates);
        candidates.truncate(most + ANCHORS);
        if candidates.len() < parameters.top_k {
            fill(kernels, ranks, cut, middle.start, parameters.top_k, &mut out.tokens);
        }
        head.deviations.undo(ranking);
        head.cut = ranking.log_weight_of(cut);
        self.choose(view, query, out);
        head.deviations.observe(&self.candidates, &self.weights, &self.ranking);
    }

    fn select_by_history(
        &mut self,
        head: &LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        zones: Zones,
        out: &mut Selection,
    ) {
        out.effort.history_bytes = head.history.bytes();
        self.candidates.clear();
        head.history.propose(&self.parameters, zones, &mut self.set, &mut self.candidates);
        self.choose(view, query, out);
    }

    /// Scores the candidates, and adds the best of them to the selection unless it has been filled already.
    fn choose(&mut self, view: HeadBlocks<'_>, query: &GroupQuery, out: &mut Selection) {
        score_tokens(self.kernels, view, query, &self.candidates, &mut self.scores);
        sum_weights(self.kernels, &self.scores, &self.normalisers, &mut self.weights);
        if out.tokens.is_empty() {
            topk::select(
                self.kernels,
                &self.candidates,
                &self.weights,
                self.parameters.top_k,
                &mut self.narrowed,
                &mut out.tokens,
            );
        }
    }

    /// Takes the step's selection into what is known of the head.
    fn remember(&mut self, head: &mut LfpsHead, zones: Zones, out: &Selection) {
        head.strongest.clear();
        topk::select(
            self.kernels,
            &self.candidates,
            &self.weights,
            ANCHORS,
            &mut self.narrowed,
            &mut head.strongest,
        );
        if self.parameters.sketch != SketchUse::Always {
            let (candidates, weights) = (&self.candidates, &self.weights);
            let weight_of =
                |token: u32| candidates.binary_search(&token).map_or(0.0, |at| weights[at]);
            head.history.observe(self.parameters.decay, zones.tokens, &out.tokens, weight_of);
        }
    }

    fn select_exactly(
        &mut self,
        head: &mut LfpsHead,
        view: HeadBlocks<'_>,
        query: &GroupQuery,
        zones: Zones,
        exact: &mut ExactScan,
        out: &mut Selection,
    ) {
        let top_k = self.parameters.top_k;
        exact.select(view, query, zones, top_k, out);
        out.effort.repaired = true;
        let weights = exact.weights();
        self.candidates.clear();
        self.candidates.extend_from_slice(&out.tokens);
        self.weights.clear();
        self.weights.extend(out.tokens.iter().map(|&token| weights[token as usize]));
        self.remember(head, zones, out);
    }
}

/// Mean cosine of the queries of a group with those of the step before; 1 at the first step.
fn drift(last: &[f32], query: &GroupQuery) -> f32 {
    if last.is_empty() {
        return 1.0;
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let cosines = last.chunks_exact(query.head_dim()).enumerate().map(|(head, last)| {
        let now = query.head(head);
        dot(last, now) / (dot(last, last) * dot(now, now)).sqrt().max(f32::MIN_POSITIVE)
    });
    cosines.sum::<f32>() / query.group() as f32
}

/// The smallest rank in `ranks` for which `holds`, which must hold for all above it; the end if there is none.
fn first_rank(ranks: std::ops::Range<u8>, holds: impl Fn(u8) -> bool) -> u8 {
    let (mut low, mut high) = (ranks.start, ranks.end.max(ranks.start));
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Selects the `top_k` tokens with the largest ranks, of which fewer reach `cut`; among equals the latest.
fn fill(kernels: Kernels, ranks: &[u8], cut: u8, first: usize, top_k: usize, out: &mut Vec<u32>) {
    let too_few = |cut: u8| kernels.count_at_least(ranks, cut) < top_k;
    let weakest = first_rank(0..cut, too_few).saturating_sub(1);
    kernels.collect_at_least(ranks, weakest, number(first), out);
    let mut surplus = out.len().saturating_sub(top_k);
    out.retain(|&token| {
        let spare = surplus > 0 && ranks[token as usize - first] == weakest;
        surplus -= usize::from(spare);
        !spare
    });
}

/// Bytes of a key's code that have proved enough.
const fn default_code_bytes(head_dim: usize) -> usize {
    if head_dim <= 64 { 6 } else { head_dim / 16 }
}
