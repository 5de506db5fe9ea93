//! Timing the parts of a step that read memory in order.

use std::hint::black_box;
use std::time::Instant;

use super::bandwidth::MemoryReader;
use super::numbers::median;
use super::workload::Workload;
use crate::clock::microseconds;
use crate::kernels::{GroupQuery, Kernels, Scores};
use crate::parameters::IndexParameters;
use crate::scan::score_all;
use crate::sketch::{EncodeScratch, Ranking, Sketch};

/// How often each scan is timed, for each head.
const TIMES: usize = 5;

/// Medians over heads and repetitions, in microseconds for one KV head.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ScanTimes {
    /// Scoring every key.
    pub(super) exact: f64,
    /// Reading every key where it lies in the arena, fetched ahead or not, and doing nothing with it.
    pub(super) keys: f64,
    /// Looking up a query's tables, and ranking every key by its code.
    pub(super) sketch: f64,
    /// Bytes that the sketch's scan reads.
    pub(super) sketch_bytes: usize,
}

/// The scans of the last step.
pub(super) struct Scans<'w> {
    workload: &'w Workload,
    kernels: Kernels,
    query: GroupQuery,
    scores: Scores,
}

impl<'w> Scans<'w> {
    pub(super) fn new(workload: &'w Workload) -> Self {
        let shape = workload.shape();
        let (group, dim) = (shape.group as usize, shape.head_dim as usize);
        Self {
            workload,
            kernels: Kernels::detect(),
            query: GroupQuery::new(group, dim),
            scores: Scores::with_capacity(group, shape.context),
        }
    }

    /// Times the scans; `reader` empties the caches before each. Only the first head's keys are coded: codes of other heads
    /// are read as fast.
    pub(super) fn time(
        &mut self,
        parameters: &IndexParameters,
        reader: &mut MemoryReader,
    ) -> ScanTimes {
        let heads = 0..self.workload.shape().kv_heads as usize;
        let (mut exact, mut codes) = (Vec::new(), Vec::new());
        let (mut fetched, mut plain) = (Vec::new(), Vec::new());
        for head in heads.cycle().take(TIMES * self.workload.shape().kv_heads as usize) {
            reader.read();
            exact.push(self.score(head));
            reader.read();
            fetched.push(self.read(head, 4));
            reader.read();
            plain.push(self.read(head, usize::MAX));
        }
        self.score(0);
        let normalisers: Vec<f32> = (0..self.query.group())
            .map(|row| self.kernels.log_sum_exp(self.scores.head_mut(row)))
            .collect();
        let (sketch, mut ranking) = self.sketch(parameters);
        for _ in 0..=TIMES {
            reader.read();
            let start = Instant::now();
            let floor = parameters.weight_floor;
            ranking.rank(self.kernels, &sketch, &self.query, &normalisers, floor);
            codes.push(microseconds(start));
        }
        ScanTimes {
            exact: median(&mut exact),
            keys: median(&mut fetched).min(median(&mut plain)),
            // The first one takes memory.
            sketch: median(&mut codes[1..]),
            sketch_bytes: sketch.scan_bytes(),
        }
    }

    /// Scores all keys of the last step.
    fn score(&mut self, head: usize) -> f64 {
        let Self { workload, kernels, query, scores } = self;
        let step = workload.steps() - 1;
        query.load(workload.queries(step, head), workload.softmax_scale());
        let start = Instant::now();
        score_all(*kernels, workload.view(step, head), query, scores);
        microseconds(start)
    }

    /// Reads all keys of the last step, and fetches those that lie `ahead` blocks further on meanwhile.
    fn read(&self, head: usize, ahead: usize) -> f64 {
        let view = self.workload.view(self.workload.steps() - 1, head);
        let start = Instant::now();
        let sum = (0..view.blocks()).fold(0_u64, |sum, block| {
            let ahead = block.saturating_add(ahead);
            let fetched = if ahead < view.blocks() { view.keys(ahead) } else { &[] };
            sum.wrapping_add(self.kernels.read(view.keys(block), fetched))
        });
        black_box(sum);
        microseconds(start)
    }

    /// Codes of the first head's keys, learnt from the last prompt queries.
    fn sketch(&self, parameters: &IndexParameters) -> (Sketch, Ranking) {
        let view = self.workload.view(self.workload.steps() - 1, 0);
        let bytes = parameters.code_bytes_of(view.head_dim());
        let tokens = view.tokens();
        let queries = self.workload.prompt_queries(0);
        let first = parameters.sink.min(tokens - 1);
        let mut sketch = Sketch::calibrate(self.kernels, view, first, queries, bytes, tokens);
        sketch.extend(self.kernels, view, tokens, &mut EncodeScratch::default());
        (sketch, Ranking::new(tokens))
    }
}
