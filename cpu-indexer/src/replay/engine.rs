//! The loop over a trace's steps.

use std::time::Instant;

use hindsight_protocol::arena::HeadBlocks;
use hindsight_protocol::geometry::KvDtype;
use serde::{Deserialize, Serialize};

use super::baselines::{PageDigests, sliding_window};
use super::eviction::{Attended, BlockCaches, simulate};
use super::judge::Judge;
use super::report::{CacheReport, Numbers, ReplayReport};
use super::trace::Trace;
use crate::clock::microseconds;
use crate::index::Index;
use crate::parameters::{IndexParameters, ParameterError, Policy};
use crate::residency::CacheTooSmall;
use crate::selection::{Selection, Zones};

/// What can be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayPolicy {
    /// The top-k of a scan over every key.
    Exact,
    /// LFPS.
    Lfps,
    /// The blocks whose element-wise bounds promise the largest scores, as many as hold four times the top-k.
    #[serde(rename = "page-minmax")]
    PageMinMax,
    /// The last tokens.
    SlidingWindow,
}

impl ReplayPolicy {
    /// Name as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Lfps => "lfps",
            Self::PageMinMax => "page-minmax",
            Self::SlidingWindow => "sliding-window",
        }
    }
}

/// Tokens that [`ReplayPolicy::PageMinMax`] may attend to, over the top-k.
const PAGE_TOKENS_PER_TOP_K: usize = 4;

/// The state of the policy under replay.
enum Selector {
    Index(Box<Index>),
    Pages(Vec<PageDigests>),
    Window,
}

/// What cannot be replayed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A parameter is out of range.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// A block cache cannot hold one of the selections.
    #[error(transparent)]
    Cache(#[from] CacheTooSmall),
}

/// Runs `policy` over every step of `trace`, and its selections through each of `caches`. No layer is treated as dense,
/// whatever the parameters say.
///
/// # Errors
/// If a parameter is out of range, or a cache too small.
pub fn replay(
    trace: &Trace,
    policy: ReplayPolicy,
    parameters: &IndexParameters,
    caches: &BlockCaches,
) -> Result<ReplayReport, ReplayError> {
    let parameters = IndexParameters { dense_layers: 0, ..parameters.clone() };
    let geometry = *trace.cache().geometry();
    let index = |policy| {
        let (scale, tokens) = (trace.softmax_scale(), trace.cache().tokens());
        Index::new(geometry, scale, policy, parameters.clone(), tokens)
    };
    let heads = geometry.layers as usize * geometry.kv_heads as usize;
    let mut run = Run {
        trace,
        selector: match policy {
            ReplayPolicy::Exact => Selector::Index(Box::new(index(Policy::Exact)?)),
            ReplayPolicy::Lfps => Selector::Index(Box::new(index(Policy::Lfps)?)),
            ReplayPolicy::PageMinMax => Selector::Pages(vec![PageDigests::default(); heads]),
            ReplayPolicy::SlidingWindow => Selector::Window,
        },
        exact: index(Policy::Exact)?,
        judge: Judge::new(trace),
        figures: Figures::default(),
        attended: vec![Attended::default(); heads],
    };
    run.seed();
    for step in 0..trace.steps() {
        run.step(step, &parameters);
    }
    let caches = run.caches(caches)?;
    Ok(ReplayReport { caches, ..run.report(policy, parameters) })
}

/// Everything that is measured.
#[derive(Default)]
struct Figures {
    candidates: Numbers,
    bytes: Numbers,
    select_us: Numbers,
    exact_us: Numbers,
    seed_us: Numbers,
    recall: Numbers,
    mass: Numbers,
    block_mass: Numbers,
    blocks: Numbers,
    output_error: Numbers,
    exact_output_error: Numbers,
    repaired: Numbers,
}

struct Run<'a> {
    trace: &'a Trace,
    selector: Selector,
    exact: Index,
    judge: Judge,
    figures: Figures,
    /// Per layer and KV head.
    attended: Vec<Attended>,
}

impl<'a> Run<'a> {
    fn heads(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let geometry = self.trace.cache().geometry();
        let (layers, kv_heads) = (geometry.layers as usize, geometry.kv_heads as usize);
        (0..layers).flat_map(move |layer| (0..kv_heads).map(move |head| (layer, head)))
    }

    fn view(&self, layer: usize, head: usize, tokens: usize) -> HeadBlocks<'a> {
        self.trace.cache().head(layer, head, tokens)
    }

    fn seed(&mut self) {
        for (layer, head) in self.heads() {
            let tokens = self.trace.prompt_tokens();
            let view = self.view(layer, head, tokens);
            let queries = self.trace.last_prompt_queries(layer, head);
            let start = Instant::now();
            if let Selector::Index(index) = &mut self.selector {
                index.append(layer, head, view, 0..tokens);
                index.seed(layer, head, view, &queries);
            }
            self.figures.seed_us.push(microseconds(start));
        }
    }

    fn step(&mut self, step: usize, parameters: &IndexParameters) {
        let tokens = self.trace.prompt_tokens() + step + 1;
        let zones = Zones::new(tokens, parameters.sink, parameters.window);
        let heads: Vec<(usize, usize)> = self.heads().collect();
        let mut selections = vec![Selection::with_capacity(parameters.top_k, tokens); heads.len()];
        for (at, (&(layer, head), out)) in heads.iter().zip(&mut selections).enumerate() {
            let view = self.view(layer, head, tokens);
            let queries = self.trace.queries(step, layer, head);
            let start = Instant::now();
            match &mut self.selector {
                Selector::Index(index) => {
                    index.append(layer, head, view, tokens - 1..tokens);
                    index.select(layer, head, view, queries, out);
                    index.prepare(layer, head, view, queries);
                }
                Selector::Pages(digests) => {
                    let pages = PAGE_TOKENS_PER_TOP_K * parameters.top_k / view.block_tokens();
                    digests[at].extend(view);
                    digests[at].select(view, queries, zones, pages.max(1), out);
                }
                Selector::Window => {
                    sliding_window(zones, parameters.top_k, view.block_tokens(), out);
                }
            }
            self.figures.select_us.push(microseconds(start));
        }
        let mut exact = Selection::with_capacity(parameters.top_k, tokens);
        let heads = heads.iter().zip(&mut self.attended);
        for ((&(layer, head), attended), selection) in heads.zip(&selections) {
            let view = self.trace.cache().head(layer, head, tokens);
            let queries = self.trace.queries(step, layer, head);
            let start = Instant::now();
            self.exact.select(layer, head, view, queries, &mut exact);
            self.figures.exact_us.push(microseconds(start));
            self.judge.load(view, queries, self.trace.softmax_scale());
            self.figures.compare(&mut self.judge, view, zones, selection, &exact);
            let chosen = selection.tokens.iter().map(|&token| (token, self.judge.weight(token)));
            attended.push(tokens, view.block_tokens(), &selection.blocks, chosen);
        }
    }

    /// What the caches would have had to fetch.
    fn caches(&self, caches: &BlockCaches) -> Result<Vec<CacheReport>, CacheTooSmall> {
        let (cache, steps) = (self.trace.cache(), self.trace.steps());
        // At step t the context is one token longer than at the one before it.
        let mean_tokens = self.trace.prompt_tokens() as f64 + (steps as f64 + 1.0) / 2.0;
        let full_bytes = mean_tokens * cache.geometry().token_bytes() as f64;
        let found = simulate(&self.attended, caches)?.into_iter();
        let report = |(blocks, eviction, counts)| {
            CacheReport::new(blocks, eviction, &counts, cache.geometry(), steps, full_bytes)
        };
        Ok(found.map(report).collect())
    }

    fn report(mut self, policy: ReplayPolicy, parameters: IndexParameters) -> ReplayReport {
        let state_bytes = match &self.selector {
            Selector::Index(index) => index.state_bytes(),
            Selector::Pages(digests) => digests.iter().map(PageDigests::bytes).sum(),
            Selector::Window => 0,
        };
        let figures = &mut self.figures;
        ReplayReport {
            trace: self.trace.name().to_owned(),
            policy: policy.name(),
            top_k: parameters.top_k,
            parameters,
            steps: self.trace.steps(),
            candidates_mean: figures.candidates.mean(),
            bytes_share: figures.bytes.mean(),
            select_us_mean: figures.select_us.mean(),
            exact_us_mean: figures.exact_us.mean(),
            speedup: figures.exact_us.mean() / figures.select_us.mean(),
            seed_us_mean: figures.seed_us.mean(),
            recall_mean: figures.recall.mean(),
            recall_p5: figures.recall.percentile(0.05),
            mass_mean: figures.mass.mean(),
            mass_p1: figures.mass.percentile(0.01),
            mass_min: figures.mass.percentile(0.0),
            block_mass_mean: figures.block_mass.mean(),
            block_mass_p1: figures.block_mass.percentile(0.01),
            block_mass_min: figures.block_mass.percentile(0.0),
            blocks_mean: figures.blocks.mean(),
            output_error_mean: figures.output_error.mean(),
            output_error_p99: figures.output_error.percentile(0.99),
            output_error_max: figures.output_error.percentile(1.0),
            exact_output_error_mean: figures.exact_output_error.mean(),
            repair_rate: figures.repaired.mean(),
            state_share: state_bytes as f64 / self.trace.cache().bytes() as f64,
            caches: Vec::new(),
        }
    }
}

impl Figures {
    fn compare(
        &mut self,
        judge: &mut Judge,
        view: HeadBlocks<'_>,
        zones: Zones,
        selection: &Selection,
        exact: &Selection,
    ) {
        let exact_bytes = view.tokens() * view.head_dim() * KvDtype::BYTES;
        self.candidates.push(selection.effort.candidates as f64);
        self.bytes.push(selection.effort.bytes() as f64 / exact_bytes as f64);
        self.repaired.push(f64::from(u8::from(selection.effort.repaired)));
        self.blocks.push(selection.blocks.len() as f64);

        let always = || (0..zones.sink).chain(zones.window..zones.tokens);
        let with = |tokens: &[u32]| {
            let mut mask = vec![false; zones.tokens];
            always().chain(tokens.iter().map(|&t| t as usize)).for_each(|token| mask[token] = true);
            mask
        };
        let blocks: Vec<u32> = selection
            .blocks
            .iter()
            .flat_map(|&block| {
                let start = block as usize * view.block_tokens();
                (start..(start + view.block_tokens()).min(zones.tokens)).map(|t| t as u32)
            })
            .collect();
        let (chosen, best) = (with(&selection.tokens), with(&exact.tokens));
        let best_mass = judge.mass(&best);
        self.mass.push(judge.mass(&chosen) / best_mass);
        self.block_mass.push(judge.mass(&with(&blocks)) / best_mass);
        let found = exact.tokens.iter().filter(|&&token| chosen[token as usize]).count();
        self.recall.push(found as f64 / exact.tokens.len().max(1) as f64);
        judge.output_errors(view, &chosen, &mut self.output_error);
        judge.output_errors(view, &best, &mut self.exact_output_error);
    }
}
