//! Attention to keys and values that pass through the GPU: the text before a chunk, part by part, then the chunk's own.

use std::sync::Arc;

use candle_core::Tensor;
use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use hindsight_protocol::geometry::Geometry;
use hindsight_protocol::profile::{Activity, Detail};
use hindsight_protocol::telemetry::WorkerCounters;

use super::error::{CudaError, mark, reach, wait_for};
use super::host::Run;
use super::kernels::{KeyLists, Span, Targets};
use super::memory::{DeviceBuffer, PinnedBuffer, copy_to_device};
use super::pools::{FRESH_TOKENS, PART_TOKENS, Pool};
use super::{CudaDevice, number};
use crate::device::{Chunk, DeviceError};

/// Partial results of one token's attention to one part.
pub(super) const PART_SPLITS: usize = 4;

/// Room for two parts of the text so far, and for the keys and values of a chunk.
#[derive(Debug)]
pub(super) struct Passing {
    parts: [Part; 2],
    fresh: Pool,
    /// Blocks of each KV head in a part, and in `fresh`.
    part_blocks: usize,
    fresh_blocks: usize,
    /// 0, 1, 2, …: a pool's slots as a list.
    identity: DeviceBuffer<u32>,
}

#[derive(Debug)]
struct Part {
    pool: Pool,
    /// When the kernels have done with it.
    free: Option<CudaEvent>,
}

impl Passing {
    pub(super) fn new(
        context: &Arc<CudaContext>,
        compute: &CudaStream,
        geometry: &Geometry,
        counters: &WorkerCounters,
    ) -> Result<Self, CudaError> {
        let kv_heads = geometry.kv_heads as usize;
        let [part_blocks, fresh_blocks] =
            [PART_TOKENS, FRESH_TOKENS].map(|tokens| geometry.blocks(tokens));
        let part = || -> Result<_, CudaError> {
            Ok(Part { pool: Pool::new(context, geometry, kv_heads * part_blocks)?, free: None })
        };
        Ok(Self {
            parts: [part()?, part()?],
            fresh: Pool::new(context, geometry, kv_heads * fresh_blocks)?,
            part_blocks,
            fresh_blocks,
            identity: identity(
                context,
                compute,
                kv_heads * part_blocks.max(fresh_blocks),
                counters,
            )?,
        })
    }
}

/// The numbers from 0 on.
pub(super) fn identity(
    context: &Arc<CudaContext>,
    stream: &CudaStream,
    len: usize,
    counters: &WorkerCounters,
) -> Result<DeviceBuffer<u32>, CudaError> {
    let (mut pinned, buffer) = (PinnedBuffer::new(context, len)?, DeviceBuffer::new(context, len)?);
    (0..).zip(pinned.as_mut_slice()).for_each(|(number, slot)| *slot = number);
    // SAFETY: both buffers are `len` long, and the copy has ended before the source goes.
    unsafe { copy_to_device(stream, pinned.as_slice(), buffer.at(0))? };
    counters.list_bytes.add(size_of_val(pinned.as_slice()) as u64);
    reach(&mark(stream)?)?;
    Ok(buffer)
}

impl CudaDevice<'_> {
    /// Attends a chunk's queries causally to the text so far.
    pub(super) fn attend_chunk(
        &mut self,
        chunk: Chunk,
        queries: &Tensor,
    ) -> Result<Tensor, DeviceError> {
        let Chunk { layer, start, tokens } = chunk;
        let queries = self.uploads[0].elements(&self.compute, queries)?;
        let width = self.sizes.width;
        let output = self.download.output(&self.compute, tokens * width)?;
        let results = [output.address(), self.log_sum_exp.at(0)];
        let span = Span {
            tokens: number(tokens),
            query_start: number(start),
            key_start: 0,
            key_tokens: number(start + tokens),
            accumulate: false,
        };
        if layer < self.dense_layers {
            let keys = self.resident_keys(layer);
            self.prefill_span(chunk, queries.address, keys, span, results)?;
        } else {
            let block_tokens = self.sizes.block_tokens;
            let before = start / block_tokens * block_tokens;
            let mut done = 0;
            while done < before {
                let part_tokens = PART_TOKENS.min(before - done);
                let (part, keys) = self.bring_part(chunk, done, part_tokens)?;
                let part_span = Span {
                    key_start: number(done),
                    key_tokens: number(part_tokens),
                    accumulate: done > 0,
                    ..span
                };
                self.prefill_span(chunk, queries.address, keys, part_span, results)?;
                self.passing.parts[part].free = Some(mark(&self.compute)?);
                done += part_tokens;
            }
            let keys = self.lay_fresh(chunk, before)?;
            let own = Span {
                key_start: number(before),
                key_tokens: number(start + tokens - before),
                accumulate: before > 0,
                ..span
            };
            self.prefill_span(chunk, queries.address, keys, own, results)?;
        }
        self.download.tensor(&self.compute, output, (tokens, width))
    }

    /// Attends one token's queries to the whole text of a layer that does not lie on the GPU.
    pub(super) fn attend_passing(
        &mut self,
        chunk: Chunk,
        queries: &Tensor,
    ) -> Result<Tensor, DeviceError> {
        let queries = self.uploads[0].elements(&self.compute, queries)?.address;
        let (end, block_tokens) = (chunk.start + 1, self.sizes.block_tokens);
        let mut first_split = 0;
        let mut done = 0;
        while done < end {
            let part_tokens = PART_TOKENS.min(end - done);
            let blocks = part_tokens.div_ceil(block_tokens);
            let lengths = self.send_lengths(blocks, part_tokens - (blocks - 1) * block_tokens)?;
            let (part, keys) = self.bring_part(chunk, done, part_tokens)?;
            let parts = [first_split, number(self.sizes.splits_of(blocks).min(PART_SPLITS))];
            let activity = Activity::GpuAttendAll;
            self.attend_listed(chunk, activity, queries, keys, lengths, parts)?;
            self.passing.parts[part].free = Some(mark(&self.compute)?);
            self.lists.end(&self.compute)?;
            first_split += parts[1];
            done += part_tokens;
        }
        self.merge_partials(first_split)
    }

    /// Queues one launch of prefill attention for `chunk`.
    fn prefill_span(
        &mut self,
        chunk: Chunk,
        queries: CUdeviceptr,
        keys: KeyLists,
        span: Span,
        results: [CUdeviceptr; 2],
    ) -> Result<(), CudaError> {
        let began = self.timeline.point(&self.compute)?;
        self.kernels.prefill(&self.compute, queries, keys, span, results)?;
        self.timeline.span(&self.compute, began, Activity::GpuPrefill, chunk.detail())
    }

    /// Brings `tokens` tokens of the chunk's layer, the first at `start`, into the part whose turn it is; returns its number, and the
    /// lists of its blocks.
    fn bring_part(
        &mut self,
        chunk: Chunk,
        start: usize,
        tokens: usize,
    ) -> Result<(usize, KeyLists), CudaError> {
        let turn = start / PART_TOKENS % 2;
        if let Some(free) = self.passing.parts[turn].free.take() {
            wait_for(&self.copy, &free)?;
        }
        if let Some(appended) = &self.appended {
            wait_for(&self.copy, appended)?;
        }
        let block_tokens = self.sizes.block_tokens;
        let blocks = start / block_tokens..(start + tokens).div_ceil(block_tokens);
        let Passing { parts, part_blocks, identity, .. } = &self.passing;
        let pool = &parts[turn].pool;
        let keys =
            KeyLists { pool: pool.slot(0), slots: identity.at(0), stride: number(*part_blocks) };
        let runs: Vec<_> = (0..self.sizes.kv_heads)
            .flat_map(|kv_head| {
                let first = kv_head * part_blocks;
                let runs = self.host.runs(chunk.layer, kv_head, blocks.clone());
                let start = blocks.start;
                runs.map(move |run| (run, pool.slot(first + run.block - start)))
            })
            .collect();
        self.bring_runs(chunk, &runs)?;
        Ok((turn, keys))
    }

    /// Queues the copy of runs of blocks, for kernels that are queued from now on.
    fn bring_runs(&mut self, chunk: Chunk, runs: &[(Run, CUdeviceptr)]) -> Result<(), CudaError> {
        let blocks: usize = runs.iter().map(|(run, _)| run.blocks).sum();
        let bytes = (blocks * self.geometry.block_bytes()) as u64;
        let began = self.timeline.point(&self.copy)?;
        self.host.copy_runs(&self.copy, runs)?;
        let detail = Detail { bytes, ..chunk.detail() };
        self.timeline.span(&self.copy, began, Activity::GpuCopy, detail)?;
        self.counters.passing_bytes.add(bytes);
        wait_for(&self.compute, &mark(&self.copy)?)
    }

    /// Lays the keys and values of a chunk out in blocks, with the tokens from `before` on that share its first block.
    fn lay_fresh(&mut self, chunk: Chunk, before: usize) -> Result<KeyLists, CudaError> {
        let Chunk { layer, start, tokens } = chunk;
        let kv_heads = self.sizes.kv_heads;
        let stride = self.passing.fresh_blocks;
        let block_tokens = self.sizes.block_tokens;
        if before < start {
            // The kernels may still be at the layer before.
            wait_for(&self.copy, &mark(&self.compute)?)?;
            let block = before / block_tokens;
            let runs: Vec<_> = (0..kv_heads)
                .flat_map(|kv_head| {
                    let target = self.passing.fresh.slot(kv_head * stride);
                    self.host.runs(layer, kv_head, block..block + 1).map(move |run| (run, target))
                })
                .collect();
            self.bring_runs(chunk, &runs)?;
        }
        let blocks = (start + tokens - before).div_ceil(block_tokens);
        self.lists.begin()?;
        let slots = (0..kv_heads)
            .flat_map(|kv_head| (0..blocks).map(move |block| kv_head * stride + block));
        let slots = self.lists.add(slots.map(number));
        self.lists.send(&self.compute)?;
        let pool = self.passing.fresh.slot(0);
        self.store(chunk, start - before, Targets { pool, slots, ..Targets::default() }, 0)?;
        self.lists.end(&self.compute)?;
        let slots = self.passing.identity.at(0);
        Ok(KeyLists { pool, slots, stride: number(stride) })
    }
}
