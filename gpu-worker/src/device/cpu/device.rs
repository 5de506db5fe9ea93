//! Attention in place: the arena's blocks are read where they lie.

use std::ops::Range;

use candle_core::{Device, Tensor};
use hindsight_protocol::arena::{Arena, HeadBlocks, KvWriter};
use hindsight_protocol::profile::{Activity, Detail};
use hindsight_protocol::records::{SelectedBlock, token_mask};

use super::{
    AttentionShape, Block, CpuAttention, MAX_BLOCK_TOKENS, Parts, Prefill, PrefillScratch,
};
use crate::device::{AttentionDevice, Chunk, DeviceError, Selections, with_slice};
use crate::threads::Pools;

/// Tokens of the selected blocks that a thread attends to at a time: some twenty microseconds' work. What a selection is cut into does
/// not depend on the threads, and so neither does the result.
const PART_TOKENS: usize = 1024;
const _: () = assert!(PART_TOKENS.is_multiple_of(MAX_BLOCK_TOKENS));

/// The CPU.
#[derive(Debug)]
pub struct CpuDevice<'a> {
    arena: &'a Arena,
    writer: KvWriter,
    kernels: CpuAttention,
    pools: &'a Pools,
    slabs: Vec<u32>,
    overflows: u64,
    prefill_scratch: PrefillScratch,
    parts: Parts,
    /// What the indexer selected for the KV head at hand.
    selected: Vec<SelectedBlock>,
}

impl<'a> CpuDevice<'a> {
    /// Prepares attention over `arena` on the threads of `pools`.
    ///
    /// # Errors
    /// [`DeviceError`] if the arena cannot be mapped or the kernels do not serve its shape.
    pub fn new(arena: &'a Arena, pools: &'a Pools) -> Result<Self, DeviceError> {
        let geometry = arena.geometry();
        let head_dim = geometry.head_dim as usize;
        let shape = AttentionShape::new(head_dim, geometry.group(), geometry.dtype)?;
        Ok(Self {
            arena,
            writer: arena.writer()?,
            kernels: CpuAttention::new(shape),
            pools,
            slabs: Vec::new(),
            overflows: 0,
            prefill_scratch: PrefillScratch::default(),
            parts: Parts::default(),
            selected: Vec::new(),
        })
    }

    fn attend_each(
        &mut self,
        chunk: Chunk,
        queries: &[f32],
        selections: &mut dyn Selections,
        out: &mut [f32],
    ) -> Result<(), DeviceError> {
        let Chunk { layer, start, .. } = chunk;
        let Self { arena, slabs, kernels, parts, pools, selected, .. } = self;
        let per_head = queries.len() / arena.geometry().kv_heads as usize;
        let heads = queries.chunks_exact(per_head).zip(out.chunks_exact_mut(per_head));
        for (kv_head, (query, out)) in (0_u32..).zip(heads) {
            let head = kv_head as usize;
            selections.next(head, selected)?;
            // The indexer is at the next head meanwhile.
            let since = selections.recorder().now();
            let view = arena.head(slabs, layer, head, start + 1);
            let attended: u32 = selected.iter().map(|block| block.tokens.count_ones()).sum();
            if attended as usize == view.tokens() {
                // Every key: to the bit what full attention computes.
                let blocks = |_, tokens| blocks_of(view, tokens);
                parts.attend_all(kernels, query, view.tokens(), blocks, out, pools.team());
            } else {
                let part_blocks = PART_TOKENS / view.block_tokens();
                let count = selected.len().div_ceil(part_blocks);
                let blocks = |_, part| {
                    let of_part = selected[part * part_blocks..].iter().take(part_blocks);
                    of_part.flat_map(|&block| runs(view, block))
                };
                parts.attend(kernels, query, count, blocks, out, pools.team());
            }
            let of_head = Detail { kv_head: Some(kv_head), ..chunk.detail() };
            selections.recorder().record(Activity::Attend, since, of_head);
        }
        Ok(())
    }
}

impl AttentionDevice for CpuDevice<'_> {
    fn open(&mut self, slabs: &[u32], _kept: usize) -> Result<(), DeviceError> {
        self.slabs.clear();
        self.slabs.extend_from_slice(slabs);
        Ok(())
    }

    fn close(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn append(&mut self, chunk: Chunk, keys: &Tensor, values: &Tensor) -> Result<(), DeviceError> {
        let Self { writer, slabs, overflows, .. } = self;
        let mut store = |keys: &[f32], values: &[f32]| {
            writer.write_chunk(slabs, chunk.layer, chunk.start, keys, values)
        };
        *overflows += with_slice(keys, |keys| with_slice(values, |values| store(keys, values)))??;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reads_queries_early(&self) -> bool {
        true
    }

    fn take_overflows(&mut self) -> u64 {
        std::mem::take(&mut self.overflows)
    }

    fn read_queries(
        &mut self,
        queries: &Tensor,
        rows: Range<usize>,
        into: &mut Vec<f32>,
    ) -> Result<(), DeviceError> {
        let (_, heads, head_dim) = queries.dims3()?;
        let width = heads * head_dim;
        into.clear();
        let rows = rows.start * width..rows.end * width;
        Ok(with_slice(queries, |queries| into.extend_from_slice(&queries[rows]))?)
    }

    fn prefill(&mut self, chunk: Chunk, queries: &Tensor) -> Result<Tensor, DeviceError> {
        let Self { arena, slabs, kernels, pools, prefill_scratch, .. } = self;
        let Chunk { layer, start, tokens } = chunk;
        let (_, heads, head_dim) = queries.dims3()?;
        let width = heads * head_dim;
        let mut out = vec![0.0; tokens * width];
        with_slice(queries, |queries| {
            let kv_heads = arena.geometry().kv_heads as usize;
            let rows = Prefill { start, tokens, kv_heads, queries, query_stride: width };
            let end = start + tokens;
            let blocks = |head| blocks_of(arena.head(slabs, layer, head, end), 0..end);
            let pool = pools.prefill_pool();
            kernels.prefill(&rows, blocks, &mut out, width, prefill_scratch, pool);
        })?;
        Ok(Tensor::from_vec(out, (tokens, width), &Device::Cpu)?)
    }

    fn attend_all(&mut self, chunk: Chunk, queries: &Tensor) -> Result<Tensor, DeviceError> {
        let Self { arena, slabs, kernels, parts, pools, .. } = self;
        let end = chunk.start + 1;
        let mut out = vec![0.0; queries.elem_count()];
        let blocks = |head, tokens| blocks_of(arena.head(slabs, chunk.layer, head, end), tokens);
        with_slice(queries, |queries| {
            parts.attend_all(kernels, queries, end, blocks, &mut out, pools.team());
        })?;
        Ok(Tensor::from_vec(out, (1, queries.elem_count()), &Device::Cpu)?)
    }

    fn attend_selected(
        &mut self,
        chunk: Chunk,
        queries: &Tensor,
        selections: &mut dyn Selections,
    ) -> Result<Tensor, DeviceError> {
        let mut out = vec![0.0; queries.elem_count()];
        with_slice(queries, |queries| self.attend_each(chunk, queries, selections, &mut out))??;
        Ok(Tensor::from_vec(out, (1, queries.elem_count()), &Device::Cpu)?)
    }

    fn stretch(&mut self, tokens: usize, stretched_to: usize) -> Result<(), DeviceError> {
        self.writer.stretch(&self.slabs, tokens, stretched_to);
        Ok(())
    }
}

fn block(view: HeadBlocks<'_>, number: usize) -> Block<'_> {
    Block { keys: view.keys(number), values: view.values(number) }
}

/// The tokens of a block that are attended to, those that follow each other together.
fn runs(view: HeadBlocks<'_>, selected: SelectedBlock) -> impl Iterator<Item = Block<'_>> {
    let Block { keys, values } = block(view, selected.block as usize);
    let head_dim = view.head_dim();
    let mut tokens = selected.tokens;
    std::iter::from_fn(move || {
        let start = tokens.trailing_zeros() as usize;
        let end = start + tokens.checked_shr(tokens.trailing_zeros())?.trailing_ones() as usize;
        tokens &= !token_mask(start, end);
        let elements = start * head_dim..end * head_dim;
        Some(Block { keys: &keys[elements.clone()], values: &values[elements] })
    })
}

/// The blocks that hold a range of tokens, which begins with a block.
fn blocks_of(view: HeadBlocks<'_>, tokens: Range<usize>) -> impl Iterator<Item = Block<'_>> {
    let size = view.block_tokens();
    (tokens.start / size..tokens.end.div_ceil(size)).map(move |number| block(view, number))
}
