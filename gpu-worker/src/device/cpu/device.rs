//! Attention in place: the arena's blocks are read where they lie.

use std::ops::Range;

use candle_core::{Device, Tensor};
use hindsight_protocol::arena::{Arena, HeadBlocks, KvWriter};
use hindsight_protocol::profile::{Activity, Detail};
use hindsight_protocol::records::{SelectedBlock, token_mask};

use super::{AttentionShape, Block, CpuAttention, DecodeScratch, Parts, Prefill, PrefillScratch};
use crate::device::{AttentionDevice, Chunk, DeviceError, Selections, with_slice};
use crate::threads::{Pools, Serial, for_each_chunk};

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

impl<'a> CpuDevice<'a> {
    /// Prepares attention over `arena` on the threads of `pools`.
    ///
    /// # Errors
    /// [`DeviceError`] if the arena cannot be mapped or the kernels do not serve its shape.
    pub fn new(arena: &'a Arena, pools: &'a Pools) -> Result<Self, DeviceError> {
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
            kernels: CpuAttention::new(shape),
            pools,
            slabs: Vec::new(),
            overflows: 0,
            prefill_scratch: PrefillScratch::default(),
            parts: Parts::default(),
            heads: (0..geometry.kv_heads).map(|_| space()).collect(),
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
        let Self { arena, slabs, kernels, heads, pools, .. } = self;
        let per_head = queries.len() / heads.len();
        let attend = |head: usize, space: &mut HeadSpace| {
            let view = arena.head(slabs, layer, head, start + 1);
            let HeadSpace { scratch, parts, out, log_sum_exp, blocks } = space;
            let query = &queries[head * per_head..][..per_head];
            let attended: u32 = blocks.iter().map(|selected| selected.tokens.count_ones()).sum();
            if attended as usize == view.tokens() {
                // Every key: to the bit what full attention computes.
                let blocks = |_, tokens| blocks_of(view, tokens);
                parts.attend(kernels, query, view.tokens(), blocks, out, &Serial);
            } else {
                let blocks = blocks.iter().flat_map(|&selected| runs(view, selected));
                kernels.decode(query, blocks, out, log_sum_exp, scratch);
            }
        };
        let shared = pools.own_threads() > 1;
        for (kv_head, (head, space)) in (0..).zip(heads.iter_mut().enumerate()) {
            selections.next(head, &mut space.blocks)?;
            if !shared {
                // The indexer is at the next head meanwhile.
                let since = selections.recorder().now();
                attend(head, space);
                let of_head = Detail { kv_head: Some(kv_head), ..chunk.detail() };
                selections.recorder().record(Activity::Attend, since, of_head);
            }
        }
        if shared {
            let since = selections.recorder().now();
            for_each_chunk(heads, 1, pools.team(), |head, space| attend(head, &mut space[0]));
            selections.recorder().record(Activity::Attend, since, chunk.detail());
        }
        for (out, space) in out.chunks_exact_mut(per_head).zip(heads) {
            out.copy_from_slice(&space.out);
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
            parts.attend(kernels, queries, end, blocks, &mut out, pools.team());
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
