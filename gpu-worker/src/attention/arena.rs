//! Attention over the arena: keys and values go in, the blocks that the policy names are attended in place.

use std::ops::Range;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use hindsight_protocol::arena::{Arena, ArenaError, HeadBlocks, KvWriter, TableError};
use hindsight_protocol::geometry::KvDtype;
use hindsight_protocol::profile::{Activity, Detail, Recorder};
use hindsight_protocol::records::{AttentionPolicy, Request, SelectedBlock};
use hindsight_protocol::telemetry::WorkerCounters;

use super::{Attention, AttentionResult, with_slice};
use crate::device::cpu::{
    AttentionShape, Block, CpuAttention, DecodeScratch, Parts, Prefill, PrefillScratch, ShapeError,
};
use crate::link::{IndexerLink, LinkError, Place};
use crate::threads::{Pools, Serial, for_each_chunk};

/// The sequence that the worker uses: it serves one text at a time.
const SEQUENCE: u32 = 0;

/// What stops attention over the arena.
#[derive(Debug, thiserror::Error)]
pub enum ArenaAttentionError {
    /// The indexer refused or failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The block tables make no sense.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The arena cannot be mapped.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The kernels do not serve this shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// What a forward pass is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Reading a prompt of so many tokens.
    Prefill { prompt_tokens: usize },
    /// Decoding.
    Decode,
}

/// What a text attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Which keys.
    pub policy: AttentionPolicy,
    /// Keys that each KV head selects, besides sink and window.
    pub top_k: u32,
    /// Layers, from the first, that attend to every key whatever the policy.
    pub dense_layers: usize,
    /// How many of the last prompt queries the indexer is shown.
    pub prompt_queries: usize,
}

/// Attention of one sequence whose keys and values live in the arena.
#[derive(Debug)]
pub struct ArenaAttention<'a> {
    arena: &'a Arena,
    writer: KvWriter,
    link: IndexerLink<'a>,
    kernels: CpuAttention,
    counters: &'a WorkerCounters,
    slabs: Vec<u32>,
    plan: Plan,
    phase: Phase,
    pools: &'a Pools,
    pub(crate) recorder: Recorder,
    prefill_scratch: PrefillScratch,
    parts: Parts,
    /// One for each KV head.
    heads: Vec<HeadSpace>,
}

/// Work space of attention to the selected blocks of one KV head.
#[derive(Debug, Default)]
struct HeadSpace {
    scratch: DecodeScratch,
    parts: Parts,
    /// [group, head_dim].
    out: Vec<f32>,
    log_sum_exp: Vec<f32>,
    /// The blocks that the indexer selected.
    blocks: Vec<SelectedBlock>,
}

impl<'a> ArenaAttention<'a> {
    /// Prepares attention over `arena`, on the threads of `pools`; what it does when goes to `recorder`.
    ///
    /// # Errors
    /// [`ArenaAttentionError`] if the arena cannot be mapped or the kernels do not serve its shape.
    pub fn new(
        arena: &'a Arena,
        counters: &'a WorkerCounters,
        pools: &'a Pools,
        recorder: Recorder,
    ) -> Result<Self, ArenaAttentionError> {
        let geometry = arena.geometry();
        let group = geometry.group();
        let head_dim = geometry.head_dim as usize;
        let shape = AttentionShape::new(head_dim, group, geometry.dtype)?;
        let space = || HeadSpace {
            out: vec![0.0; group * head_dim],
            log_sum_exp: vec![0.0; group],
            ..HeadSpace::default()
        };
        Ok(Self {
            arena,
            writer: arena.writer()?,
            link: IndexerLink::new(arena),
            kernels: CpuAttention::new(shape),
            counters,
            slabs: Vec::new(),
            plan: Plan {
                policy: AttentionPolicy::Full,
                top_k: 0,
                dense_layers: 0,
                prompt_queries: 0,
            },
            phase: Phase::Decode,
            pools,
            recorder,
            prefill_scratch: PrefillScratch::default(),
            parts: Parts::default(),
            heads: (0..geometry.kv_heads).map(|_| space()).collect(),
        })
    }

    /// Bytes of one token's keys and values in all layers.
    #[must_use]
    pub fn token_bytes(&self) -> usize {
        self.arena.geometry().token_bytes()
    }

    /// Starts a text with room for `tokens` tokens, `prompt_tokens` of which are its prompt. Its first `kept` tokens are
    /// those of the text before: their keys and values are there. The others must be given again.
    ///
    /// # Errors
    /// [`ArenaAttentionError::Link`] if the arena has no room.
    pub fn open(
        &mut self,
        plan: Plan,
        kept: usize,
        prompt_tokens: usize,
        tokens: usize,
    ) -> Result<(), ArenaAttentionError> {
        let Plan { policy, top_k, .. } = plan;
        let sequence = SEQUENCE;
        if kept > 0 {
            let tokens = kept as u64;
            self.arena.tables().publish(sequence, tokens)?;
            self.link.ask(&Request::Rewind { sequence, policy, top_k, tokens })?;
        } else {
            if !self.slabs.is_empty() {
                self.slabs.clear();
                self.link.ask(&Request::Close { sequence })?;
            }
            self.link.ask(&Request::Open { sequence, policy, top_k })?;
        }
        self.link.ask(&Request::Reserve { sequence: SEQUENCE, tokens: tokens as u64 })?;
        self.arena.tables().read_slabs(SEQUENCE, &mut self.slabs)?;
        self.plan = plan;
        self.phase = Phase::Prefill { prompt_tokens };
        Ok(())
    }

    /// States that `tokens` tokens of the text are complete in every layer, and that decoding goes on from here.
    ///
    /// # Errors
    /// [`ArenaAttentionError::Table`].
    pub fn publish(&mut self, tokens: usize) -> Result<(), ArenaAttentionError> {
        if let Phase::Prefill { prompt_tokens } = self.phase
            && tokens >= prompt_tokens
        {
            self.phase = Phase::Decode;
        }
        Ok(self.arena.tables().publish(SEQUENCE, tokens as u64)?)
    }

    /// Repeats the keys and values of the first `tokens` tokens until there are `stretched_to`, as if so many had been read.
    /// Repeated keys keep the positions that they had.
    ///
    /// # Errors
    /// [`ArenaAttentionError`].
    pub fn stretch(
        &mut self,
        tokens: usize,
        stretched_to: usize,
    ) -> Result<(), ArenaAttentionError> {
        let geometry = *self.arena.geometry();
        for layer in 0..geometry.layers as usize {
            for head in 0..geometry.kv_heads as usize {
                for position in tokens..stretched_to {
                    self.writer.repeat(&self.slabs, layer, head, position % tokens, position);
                }
            }
        }
        self.publish(stretched_to)?;
        for layer in 0..geometry.layers as usize {
            if !self.selects(layer) {
                continue;
            }
            self.link.tell(&Request::Appended {
                sequence: SEQUENCE,
                layer: index(layer),
                position: tokens as u64,
                tokens: (stretched_to - tokens) as u64,
            })?;
        }
        // Requests are dealt with in their order: when this one is answered, the index knows all keys.
        let held = stretched_to as u64;
        Ok(self.link.ask(&Request::Reserve { sequence: SEQUENCE, tokens: held })?)
    }

    /// Whether the indexer selects the blocks of `layer`.
    fn selects(&self, layer: usize) -> bool {
        self.plan.policy != AttentionPolicy::Full && layer >= self.plan.dense_layers
    }

    fn store(&mut self, layer: usize, start: usize, k: &[f32], v: &[f32]) {
        let geometry = *self.arena.geometry();
        let head_dim = geometry.head_dim as usize;
        let kv_heads = geometry.kv_heads as usize;
        let rows = k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim));
        let mut overflows = 0;
        for (row, (key, value)) in rows.enumerate() {
            let (position, head) = (start + row / kv_heads, row % kv_heads);
            let fits = self.writer.write(&self.slabs, layer, head, position, key, value);
            overflows += u64::from(!fits);
        }
        let bytes = (k.len() + v.len()) * KvDtype::BYTES;
        self.counters.appended_bytes.add(bytes as u64);
        if overflows > 0 {
            if self.counters.overflows.get() == 0 {
                tracing::warn!(
                    layer,
                    dtype = %geometry.dtype,
                    "keys or values exceed the KV cache's element type; run with --kv-dtype bf16"
                );
            }
            self.counters.overflows.add(overflows);
        }
    }

    fn prefill(&mut self, layer: usize, start: usize, tokens: usize, q: &[f32]) -> Vec<f32> {
        let geometry = self.arena.geometry();
        let width = q.len() / tokens;
        let chunk = Prefill {
            start,
            tokens,
            kv_heads: geometry.kv_heads as usize,
            queries: q,
            query_stride: width,
        };
        let mut out = vec![0.0; q.len()];
        let blocks = |head| {
            blocks_of(self.arena.head(&self.slabs, layer, head, start + tokens), 0..start + tokens)
        };
        self.kernels.prefill(
            &chunk,
            blocks,
            &mut out,
            width,
            &mut self.prefill_scratch,
            self.pools.prefill_pool(),
        );
        out
    }

    /// Tells the indexer about prompt tokens: their keys, and the last of their queries.
    fn teach(
        &mut self,
        layer: usize,
        start: usize,
        tokens: usize,
        prompt_tokens: usize,
        q: &[f32],
    ) -> Result<(), LinkError> {
        let sequence = SEQUENCE;
        let layer = index(layer);
        let position = start as u64;
        self.link.tell(&Request::Appended { sequence, layer, position, tokens: tokens as u64 })?;
        let width = q.len() / tokens;
        let first_seed = prompt_tokens.saturating_sub(self.plan.prompt_queries);
        for position in first_seed.max(start)..start + tokens {
            let row = position - start;
            self.link.tell(&Request::Seed {
                sequence,
                layer,
                remaining: index(prompt_tokens - 1 - position),
                position: position as u64,
                query: &q[row * width..][..width],
            })?;
        }
        Ok(())
    }

    /// Attends one token's queries.
    fn decode(&mut self, layer: usize, position: usize, q: &[f32]) -> Result<Vec<f32>, LinkError> {
        let began = Instant::now();
        let mut out = vec![0.0; q.len()];
        let waited = if self.selects(layer) {
            self.attend_selected(layer, position, q, &mut out)?
        } else {
            self.attend_all(layer, position, q, &mut out);
            Duration::ZERO
        };
        self.counters.waiting_ns.add(nanoseconds(waited));
        self.counters.attention_ns.add(nanoseconds(began.elapsed().saturating_sub(waited)));
        Ok(out)
    }

    /// Attends one token's queries to every key.
    fn attend_all(&mut self, layer: usize, position: usize, q: &[f32], out: &mut [f32]) {
        let Self { arena, slabs, kernels, parts, pools, recorder, .. } = self;
        let since = recorder.now();
        let blocks = |head, tokens| blocks_of(arena.head(slabs, layer, head, position + 1), tokens);
        parts.attend(kernels, q, position + 1, blocks, out, pools.team());
        recorder.record(Activity::Attend, since, detail(layer, position));
    }

    /// Attends one token's queries to the blocks that the indexer selects, and returns how long it was waited for. It
    /// answers KV head by KV head: a worker with one core of its own attends to one while the indexer is at the next.
    fn attend_selected(
        &mut self,
        layer: usize,
        position: usize,
        q: &[f32],
        out: &mut [f32],
    ) -> Result<Duration, LinkError> {
        let mut waited = Duration::ZERO;
        let Self { arena, slabs, link, kernels, heads, pools, recorder, .. } = self;
        let layer_detail = detail(layer, position);
        let per_head = q.len() / heads.len();
        let place = |head| Place {
            sequence: SEQUENCE,
            layer: index(layer),
            kv_head: index(head),
            position: position as u64,
        };
        let attend = |head: usize, space: &mut HeadSpace| {
            let view = arena.head(slabs, layer, head, position + 1);
            let HeadSpace { scratch, parts, out, log_sum_exp, blocks } = space;
            let query = &q[head * per_head..][..per_head];
            if blocks.len() == view.blocks() {
                // Every key: to the bit what full attention computes.
                let blocks = |_, tokens| blocks_of(view, tokens);
                parts.attend(kernels, query, view.tokens(), blocks, out, &Serial);
            } else {
                let blocks = blocks.iter().map(|selected| block(view, selected.block as usize));
                kernels.decode(query, blocks, out, log_sum_exp, scratch);
            }
        };
        let Place { sequence, layer, position, .. } = place(0);
        let since = recorder.now();
        link.tell(&Request::Select { sequence, layer, position, query: q })?;
        let bytes = size_of_val(q) as u64;
        recorder.record(Activity::Query, since, Detail { bytes, ..layer_detail });
        let shared = pools.own_threads() > 1;
        for (head, space) in heads.iter_mut().enumerate() {
            let (began, since) = (Instant::now(), recorder.now());
            link.selection(place(head), &mut space.blocks)?;
            waited += began.elapsed();
            let of_head = Detail { kv_head: Some(index(head)), ..layer_detail };
            recorder.record(Activity::Wait, since, of_head);
            if !shared {
                let since = recorder.now();
                attend(head, space);
                recorder.record(Activity::Attend, since, of_head);
            }
        }
        if shared {
            let since = recorder.now();
            for_each_chunk(heads, 1, pools.team(), |head, space| attend(head, &mut space[0]));
            recorder.record(Activity::Attend, since, layer_detail);
        }
        for (out, space) in out.chunks_exact_mut(per_head).zip(heads) {
            out.copy_from_slice(&space.out);
        }
        Ok(waited)
    }
}

impl Attention for ArenaAttention<'_> {
    fn forward(
        &mut self,
        layer: usize,
        start: usize,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
    ) -> AttentionResult {
        let (tokens, heads, head_dim) = q.dims3()?;
        let since = self.recorder.now();
        with_slice(k, |k| with_slice(v, |v| self.store(layer, start, k, v)))??;
        let phase = self.phase;
        if phase == Phase::Decode {
            let bytes = (2 * k.elem_count() * KvDtype::BYTES) as u64;
            let appended = Detail { bytes, ..detail(layer, start) };
            self.recorder.record(Activity::Append, since, appended);
        }
        let out = with_slice(q, |q| match phase {
            Phase::Prefill { prompt_tokens } => {
                let out = self.prefill(layer, start, tokens, q);
                if self.selects(layer) {
                    self.teach(layer, start, tokens, prompt_tokens, q)?;
                }
                Ok(out)
            }
            Phase::Decode => self.decode(layer, start, q),
        })?
        .map_err(ArenaAttentionError::from)?;
        Ok(Tensor::from_vec(out, (tokens, heads * head_dim), &Device::Cpu)?)
    }
}

/// One layer at the step of one token.
fn detail(layer: usize, position: usize) -> Detail {
    Detail { position: position as u64, layer: Some(index(layer)), ..Detail::default() }
}

fn block(view: HeadBlocks<'_>, number: usize) -> Block<'_> {
    Block { keys: view.keys(number), values: view.values(number) }
}

/// The blocks that hold a range of tokens, which begins with a block.
fn blocks_of(view: HeadBlocks<'_>, tokens: Range<usize>) -> impl Iterator<Item = Block<'_>> {
    let size = view.block_tokens();
    (tokens.start / size..tokens.end.div_ceil(size)).map(move |number| block(view, number))
}

/// A layer or token count as it travels; arenas hold fewer than 2³² of either.
fn index(number: usize) -> u32 {
    u32::try_from(number).expect("arenas hold fewer than 2^32 tokens and layers")
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
