//! Full attention over this process's own memory, which keeps what passes through.

use std::ops::Range;

use candle_core::{Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt;
use hindsight_protocol::geometry::KvDtype;

use super::Recording;
use super::cache::Cache;
use crate::attention::{Attention, AttentionResult};
use crate::device::cpu::{
    AttentionShape, Block, CpuAttention, MAX_BLOCK_TOKENS, Parts, Prefill, PrefillScratch,
    ShapeError,
};
use crate::device::with_slice;
use crate::model::ModelConfig;
use crate::threads::Pools;

/// A query, key or value that a 16-bit float cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("a query, key or value is out of the range of 16-bit floats, in which traces are written")]
struct OutOfRange;

/// Attention to every key, recording some layers.
pub(super) struct RecordingAttention<'a> {
    kernels: CpuAttention,
    pools: &'a Pools,
    kv_heads: usize,
    /// Place of each of the model's layers in `keys` and `values`: the recorded ones come first, so that a recording is a
    /// prefix.
    slots: Vec<usize>,
    recorded: usize,
    keys: Cache,
    values: Cache,
    /// Position of the first token whose queries are recorded.
    first_query: usize,
    /// `[tokens from first_query on, recorded, heads, head_dim]`
    queries: Vec<f16>,
    prefill_scratch: PrefillScratch,
    /// One for each KV head, and its sums of exponentials, `[group]`.
    parts: Parts,
}

impl<'a> RecordingAttention<'a> {
    /// Room for `capacity` tokens of a model. Of `layers`, ascending, everything is recorded, their queries from the
    /// position `first_query` on.
    pub(super) fn new(
        model: &ModelConfig,
        pools: &'a Pools,
        layers: &[usize],
        capacity: usize,
        first_query: usize,
    ) -> Result<Self, ShapeError> {
        let ModelConfig { heads, kv_heads, head_dim, .. } = *model;
        let group = heads / kv_heads;
        let shape = AttentionShape::new(head_dim, group, KvDtype::F16)?;
        let mut slots = vec![0; model.layers];
        let others = (0..model.layers).filter(|layer| !layers.contains(layer));
        for (slot, layer) in layers.iter().copied().chain(others).enumerate() {
            slots[layer] = slot;
        }
        let cache = || Cache::new(model.layers, kv_heads, capacity, head_dim);
        let recorded = layers.len();
        Ok(Self {
            kernels: CpuAttention::new(shape),
            pools,
            kv_heads,
            slots,
            recorded,
            keys: cache(),
            values: cache(),
            first_query,
            queries: vec![f16::ZERO; (capacity - first_query) * recorded * heads * head_dim],
            prefill_scratch: PrefillScratch::default(),
            parts: Parts::default(),
        })
    }

    /// What was recorded of a prompt of `prompt_tokens` tokens and the `steps` steps after it.
    pub(super) fn finish(self, prompt_tokens: usize, steps: usize) -> Recording {
        let shape = self.kernels.shape();
        let width = self.recorded * self.kv_heads * shape.group() * shape.head_dim();
        let mut prompt_queries = self.queries;
        let mut queries = prompt_queries.split_off((prompt_tokens - self.first_query) * width);
        queries.truncate(steps * width);
        Recording {
            steps,
            softmax_scale: shape.scale(),
            prompt_queries,
            queries,
            keys: self.keys.into_prefix(self.recorded, prompt_tokens + steps),
            values: self.values.into_prefix(self.recorded, prompt_tokens + steps),
        }
    }

    /// Records a chunk's queries, `[tokens, heads, head_dim]`, as far as they are wanted. Returns whether all were in range.
    fn note(&mut self, slot: usize, start: usize, tokens: usize, q: &[f32]) -> bool {
        if slot >= self.recorded {
            return true;
        }
        let width = q.len() / tokens;
        (self.first_query.max(start)..start + tokens).all(|position| {
            let at = ((position - self.first_query) * self.recorded + slot) * width;
            let row = &q[(position - start) * width..][..width];
            round(row, &mut self.queries[at..at + width])
        })
    }

    /// Attends a chunk's queries, `[tokens, heads, head_dim]`, over all keys up to each one's own.
    fn attend(&mut self, slot: usize, start: usize, tokens: usize, q: &[f32]) -> Vec<f32> {
        let Self { kernels, pools, kv_heads, keys, values, .. } = self;
        let (kv_heads, head_dim) = (*kv_heads, kernels.shape().head_dim());
        let blocks = |head, tokens: Range<usize>| {
            let (elements, block) = (tokens.start * head_dim.., MAX_BLOCK_TOKENS * head_dim);
            let keys = keys.head(slot, head, tokens.end)[elements.clone()].chunks(block);
            let values = values.head(slot, head, tokens.end)[elements].chunks(block);
            keys.zip(values).map(|(keys, values)| Block { keys, values })
        };
        let seen = 0..start + tokens;
        let mut out = vec![0.0; q.len()];
        if tokens > 1 {
            let width = q.len() / tokens;
            let chunk = Prefill { start, tokens, kv_heads, queries: q, query_stride: width };
            let scratch = &mut self.prefill_scratch;
            let blocks = |head| blocks(head, seen.clone());
            kernels.prefill(&chunk, blocks, &mut out, width, scratch, pools.prefill_pool());
            return out;
        }
        self.parts.attend_all(kernels, q, seen.end, blocks, &mut out, pools.team());
        out
    }
}

impl Attention for RecordingAttention<'_> {
    fn forward(
        &mut self,
        layer: usize,
        start: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> AttentionResult {
        let (tokens, heads, head_dim) = q.dims3()?;
        let slot = self.slots[layer];
        let in_range = with_slice(k, |k| self.keys.store(slot, start, k))?
            && with_slice(v, |v| self.values.store(slot, start, v))?
            && with_slice(q, |q| self.note(slot, start, tokens, q))?;
        if !in_range {
            return Err(OutOfRange.into());
        }
        let out = with_slice(q, |q| self.attend(slot, start, tokens, q))?;
        Ok(Tensor::from_vec(out, (tokens, heads * head_dim), &Device::Cpu)?)
    }
}

/// Rounds to 16 bits; returns whether all were in range.
pub(super) fn round(from: &[f32], to: &mut [f16]) -> bool {
    to.convert_from_f32_slice(from);
    to.iter().all(|element| element.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, RopeConfig, RopeScaling, RopeStyle};
    use crate::threads::Threads;

    fn model() -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Llama,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
            embedding: 32,
            feed_forward: 64,
            vocabulary: 8,
            rms_epsilon: 1e-5,
            rope: RopeConfig {
                style: RopeStyle::Interleaved,
                theta: 1e4,
                dimension: 16,
                scaling: RopeScaling::None,
            },
            trained_context: 64,
            tied_embeddings: true,
        }
    }

    #[test]
    fn what_16_bits_cannot_hold_stops_the_recording() {
        let core = u32::try_from(rustix::thread::sched_getcpu()).unwrap();
        let threads = Threads { prefill: 1, decode_cores: vec![core], lent_core: None };
        let pools = Pools::new(&threads, None).unwrap();
        let mut attention = RecordingAttention::new(&model(), &pools, &[1], 4, 0).unwrap();
        let rows = |value: f32, heads| Tensor::full(value, (1, heads, 16), &Device::Cpu).unwrap();
        let (q, k, v) = (rows(1.0, 2), rows(2.0, 1), rows(3.0, 1));
        let huge = rows(1e5, 1);
        assert!(attention.forward(0, 0, &q, &k, &v).is_ok());
        for [k, v] in [[&huge, &v], [&k, &huge]] {
            let error = attention.forward(0, 1, &q, k, v).unwrap_err();
            assert!(error.to_string().contains("16-bit"), "{error}");
        }
    }
}
