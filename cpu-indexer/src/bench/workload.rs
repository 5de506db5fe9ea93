//! Keys and queries of a given shape, made from recorded ones.

use hindsight_protocol::arena::HeadBlocks;

use super::likeness::Likeness;
use super::shape::BenchShape;
use crate::kernels::scalar::widen;
use crate::replay::{CacheError, KvCache, Trace};

/// Tokens at the start of a recorded text that are not repeated: attention sinks occur but once.
const OPENING: usize = 64;
/// By how much an element of a repeated key differs, at most, relative to the recorded one.
const NOISE: f32 = 0.02;

/// A shape that a trace cannot give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// Keys of another size cannot be made.
    #[error(
        "keys of {recorded} elements, as in {trace}, cannot be made into keys of {wanted}: one must be a multiple of the other"
    )]
    HeadDim {
        /// Name of the trace.
        trace: String,
        /// Elements of a recorded key.
        recorded: usize,
        /// Elements of a key that were asked for.
        wanted: usize,
    },
    /// Not enough decode steps were recorded.
    #[error("{trace} has {recorded} decode steps, {wanted} are needed")]
    Steps {
        /// Name of the trace.
        trace: String,
        /// Decode steps recorded.
        recorded: usize,
        /// Decode steps that were asked for.
        wanted: usize,
    },
    /// The recorded text, or the context, is too short.
    #[error("{what} of {tokens} tokens is too short: at least {least} are needed")]
    Short {
        /// What is short.
        what: String,
        /// Its length.
        tokens: usize,
        /// The shortest that will do.
        least: usize,
    },
    /// The keys and values cannot be held.
    #[error("cannot hold the keys and values of {tokens} tokens: {source}")]
    Cache {
        /// Tokens of context.
        tokens: usize,
        /// Why.
        source: CacheError,
    },
}

/// One layer's keys, the queries of some decode steps, and those of the prompt before them.
///
/// A context begins as the recorded text does and ends as it ends; what is missing in between is filled with copies of the
/// text, of which only the last is exact. Keys keep the rotation of their recorded positions, so that a copy is attended to
/// as the original is. Values are zero: an index does not read them.
#[derive(Debug)]
pub struct Workload {
    shape: BenchShape,
    cache: KvCache,
    softmax_scale: f32,
    steps: usize,
    /// Of each KV head: [prompt queries, group, head_dim].
    seeds: Vec<Vec<f32>>,
    /// Of each KV head: [steps, group, head_dim].
    queries: Vec<Vec<f32>>,
}

impl Workload {
    /// Makes keys and queries of `steps` decode steps from `trace`. Different heads are different recorded heads while there
    /// are any; then the same ones as many steps later, where the recording has so many.
    ///
    /// # Errors
    /// If the trace is too short or has heads of another kind, or there is no memory.
    pub fn new(trace: &Trace, shape: BenchShape, steps: usize) -> Result<Self, WorkloadError> {
        let sources = sources(trace, shape, steps)?;
        let group = shape.group as usize;
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let prompt = shape.context - steps;
        let cache = KvCache::fill(shape.geometry(), shape.context, |_, head, at, key, value| {
            let source = &sources[head];
            let (token, copied) = source.token(at, prompt);
            source.key(trace, token, key);
            if copied {
                key.iter_mut().for_each(|element| *element *= 1.0 + NOISE * noise.next());
            }
            value.fill(0.0);
        })
        .map_err(|source| WorkloadError::Cache { tokens: shape.context, source })?;
        let seeds = sources.iter().map(|source| source.prompt_queries(trace, group)).collect();
        let steps_of = |source: &Source| {
            (0..steps).flat_map(|step| source.queries(trace, step, group)).collect()
        };
        Ok(Self {
            shape,
            cache,
            softmax_scale: sources[0].likeness.softmax_scale(trace),
            steps,
            seeds,
            queries: sources.iter().map(steps_of).collect(),
        })
    }

    /// The shape that was asked for.
    #[must_use]
    pub const fn shape(&self) -> BenchShape {
        self.shape
    }

    /// What products of queries and keys are multiplied with.
    #[must_use]
    pub const fn softmax_scale(&self) -> f32 {
        self.softmax_scale
    }

    /// Decode steps.
    #[must_use]
    pub const fn steps(&self) -> usize {
        self.steps
    }

    /// Tokens before the first decode step.
    #[must_use]
    pub const fn prompt_tokens(&self) -> usize {
        self.shape.context - self.steps
    }

    /// Keys of the prompt.
    #[must_use]
    pub fn prompt(&self, kv_head: usize) -> HeadBlocks<'_> {
        self.cache.head(0, kv_head, self.prompt_tokens())
    }

    /// Keys that step `step` sees: those of the prompt, of the steps before, and its own.
    #[must_use]
    pub fn view(&self, step: usize, kv_head: usize) -> HeadBlocks<'_> {
        self.cache.head(0, kv_head, self.prompt_tokens() + step + 1)
    }

    /// The elements of one key.
    pub fn key(&self, kv_head: usize, token: usize) -> impl Iterator<Item = f32> {
        let view = self.cache.head(0, kv_head, self.shape.context);
        view.key(token).iter().map(move |&bits| widen(view.dtype(), bits))
    }

    /// Queries of the last prompt tokens: [n, group, head_dim].
    #[must_use]
    pub fn prompt_queries(&self, kv_head: usize) -> &[f32] {
        &self.seeds[kv_head]
    }

    /// Queries of a decode step: [group, head_dim].
    #[must_use]
    pub fn queries(&self, step: usize, kv_head: usize) -> &[f32] {
        let length = self.shape.group as usize * self.shape.head_dim as usize;
        &self.queries[kv_head][step * length..][..length]
    }

    /// Bytes of keys and values.
    #[must_use]
    pub const fn kv_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Mean cosine of a query with that of the step before, over steps and heads.
    #[must_use]
    pub fn query_cosine_mean(&self) -> f64 {
        let dim = self.shape.head_dim as usize;
        let length = self.shape.group as usize * dim;
        let pairs = self.queries.iter().flat_map(|of_head| {
            let later = of_head.get(length..).unwrap_or_default();
            of_head.chunks_exact(dim).zip(later.chunks_exact(dim))
        });
        let cosines: Vec<f64> = pairs.map(|(a, b)| cosine(a, b)).collect();
        cosines.iter().sum::<f64>() / cosines.len().max(1) as f64
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// Where the keys and queries of one KV head come from.
#[derive(Debug)]
struct Source {
    likeness: Likeness,
    /// Tokens of the recorded text before the first decode step that is taken.
    end: usize,
    /// The first decode step that is taken.
    first_step: usize,
}

/// One source for each KV head.
fn sources(trace: &Trace, shape: BenchShape, steps: usize) -> Result<Vec<Source>, WorkloadError> {
    let wanted = shape.head_dim as usize;
    if trace.steps() < steps {
        let trace_name = trace.name().to_owned();
        return Err(WorkloadError::Steps {
            trace: trace_name,
            recorded: trace.steps(),
            wanted: steps,
        });
    }
    let least = 2 * OPENING;
    let long_enough = |what: &str, tokens: usize, least: usize| {
        let short = || WorkloadError::Short { what: what.to_owned(), tokens, least };
        if tokens < least { Err(short()) } else { Ok(()) }
    };
    long_enough("a recorded prompt", trace.prompt_tokens(), least)?;
    long_enough("a context", shape.context, least + steps)?;
    let variety = Likeness::variety(trace, wanted);
    (0..shape.kv_heads as usize)
        .map(|head| {
            let first_step = head / variety * steps % (trace.steps() - steps + 1);
            let likeness = Likeness::new(trace, wanted, head).ok_or_else(|| {
                let recorded = trace.cache().geometry().head_dim as usize;
                WorkloadError::HeadDim { trace: trace.name().to_owned(), recorded, wanted }
            })?;
            Ok(Source { likeness, end: trace.prompt_tokens() + first_step, first_step })
        })
        .collect()
}

impl Source {
    /// The recorded token that stands for token `at` of a context with `prompt` tokens before the first decode step, and
    /// whether it is a further copy.
    const fn token(&self, at: usize, prompt: usize) -> (usize, bool) {
        if at < OPENING {
            (at, false)
        } else if at >= prompt {
            (self.end + at - prompt, false)
        } else {
            let before = prompt - 1 - at;
            let repeated = self.end - OPENING;
            (self.end - 1 - before % repeated, before >= repeated)
        }
    }

    fn key(&self, trace: &Trace, token: usize, out: &mut [f32]) {
        let Likeness { parts, elements } = &self.likeness;
        let length = elements.len();
        for (&(layer, head), out) in parts.iter().zip(out.chunks_exact_mut(length)) {
            let view = trace.cache().head(layer, head, trace.cache().tokens());
            let key = view.key(token);
            for (out, &element) in out.iter_mut().zip(elements) {
                *out = widen(view.dtype(), key[element]);
            }
        }
    }

    /// Queries of the prompt tokens before the first step that is taken, as many as were recorded: [n, group, head_dim].
    fn prompt_queries(&self, trace: &Trace, group: usize) -> Vec<f32> {
        let geometry = trace.cache().geometry();
        let length = geometry.group() * geometry.head_dim as usize;
        let (layer, head) = self.likeness.parts[0];
        let recorded = trace.last_prompt_queries(layer, head).len() / length;
        let of_parts: Vec<Vec<f32>> = (self.likeness.parts.iter())
            .map(|&(layer, head)| trace.last_prompt_queries(layer, head))
            .collect();
        (self.first_step..self.first_step + recorded)
            .flat_map(|row| {
                self.grouped(group, geometry.group(), |part, query| {
                    let dim = geometry.head_dim as usize;
                    match row.checked_sub(recorded) {
                        None => &of_parts[part][row * length + query * dim..][..dim],
                        Some(step) => self.recorded(trace, step, part, query),
                    }
                })
            })
            .collect()
    }

    /// Queries of a decode step: [group, head_dim].
    fn queries(&self, trace: &Trace, step: usize, group: usize) -> Vec<f32> {
        let recorded = trace.cache().geometry().group();
        let step = self.first_step + step;
        self.grouped(group, recorded, |part, query| self.recorded(trace, step, part, query))
    }

    fn recorded<'t>(&self, trace: &'t Trace, step: usize, part: usize, query: usize) -> &'t [f32] {
        let (layer, head) = self.likeness.parts[part];
        let dim = trace.cache().geometry().head_dim as usize;
        &trace.queries(step, layer, head)[query * dim..][..dim]
    }

    /// A group of `group` queries; `query` gives that of a part and a query head, of which `recorded` share a KV head.
    /// Where heads lie side by side, a group larger than the recorded one pairs them anew.
    fn grouped<'q>(
        &self,
        group: usize,
        recorded: usize,
        query: impl Fn(usize, usize) -> &'q [f32],
    ) -> Vec<f32> {
        let mut queries =
            Vec::with_capacity(group * self.likeness.elements.len() * self.likeness.parts.len());
        for head in 0..group {
            for part in 0..self.likeness.parts.len() {
                let row = query(part, (head + part * (head / recorded)) % recorded);
                queries.extend(self.likeness.elements.iter().map(|&element| row[element]));
            }
        }
        queries
    }
}

/// Numbers that look random, the same at every run.
struct Noise(u64);

impl Noise {
    /// A number from -1 to 1.
    #[expect(clippy::cast_precision_loss)]
    fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
