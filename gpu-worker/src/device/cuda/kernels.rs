//! The kernels, ready to be launched for one model's shape. What each computes is said beside its source.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, LaunchArgs, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use hindsight_cuda::launch::{self, Element, Launch};
use hindsight_protocol::geometry::{Geometry, KvDtype};

use super::error::{CudaError, tried};

/// Kernels for the heads and blocks of one model.
#[derive(Debug)]
pub(super) struct Kernels {
    shape: Shape,
    decode: CudaFunction,
    merge: CudaFunction,
    gather: CudaFunction,
    append: CudaFunction,
    prefill: CudaFunction,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    element: Element,
    head_dim: u32,
    kv_heads: u32,
    group: u32,
    block_tokens: u32,
    scale: f32,
}

/// The keys and values that a launch attends to: lists of slots of a pool, one for each KV head.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyLists {
    /// Address of the pool's first slot.
    pub(super) pool: CUdeviceptr,
    /// Slots, `[kv_heads, stride]`.
    pub(super) slots: CUdeviceptr,
    /// From one KV head's list to the next one's.
    pub(super) stride: u32,
}

/// Partial results of decode attention, one for each split.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partials {
    /// `[splits, heads, head_dim]`.
    pub(super) out: CUdeviceptr,
    /// `[splits, heads]`.
    pub(super) log_sum_exp: CUdeviceptr,
}

/// Where a launch of append stores: blocks in host memory, slots of a pool, or both. `[kv_heads, blocks]` each, 0 for none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Targets {
    /// Addresses of blocks.
    pub(super) host_blocks: CUdeviceptr,
    /// Address of the pool.
    pub(super) pool: CUdeviceptr,
    /// Slots.
    pub(super) slots: CUdeviceptr,
}

/// Rows of new tokens and the blocks that they lie in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) tokens: u32,
    /// Row of the first token in the first block.
    pub(super) first_row: u32,
}

/// Queries of consecutive tokens, and consecutive keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) tokens: u32,
    pub(super) query_start: u32,
    pub(super) key_start: u32,
    pub(super) key_tokens: u32,
    /// Whether the results join those that are there.
    pub(super) accumulate: bool,
}

impl Kernels {
    /// Loads the kernels for `geometry`.
    pub(super) fn load(context: &Arc<CudaContext>, geometry: &Geometry) -> Result<Self, CudaError> {
        let shape = Shape::of(geometry);
        let module = load_module(context)?;
        let function =
            |launch: Launch| module.load_function(&launch.name).map_err(tried("find a kernel"));
        Ok(Self {
            decode: function(shape.decode(1)?)?,
            merge: function(launch::merge_partials(shape.heads())?)?,
            gather: function(launch::gather_blocks(1, shape.block_bytes())?)?,
            append: function(shape.append(1)?)?,
            prefill: function(shape.prefill(1)?)?,
            shape,
        })
    }

    /// Attends one token's queries, `[heads, head_dim]`, into the partial results from `first_split` on. `blocks` and
    /// `last_tokens`, `[kv_heads]`, say how long each list is and how many tokens its last block holds.
    pub(super) fn decode(
        &self,
        stream: &CudaStream,
        queries: CUdeviceptr,
        keys: KeyLists,
        [blocks, last_tokens]: [CUdeviceptr; 2],
        [first_split, splits]: [u32; 2],
        partials: Partials,
    ) -> Result<(), CudaError> {
        let Shape { group, block_tokens, scale, .. } = self.shape;
        let mut arguments = stream.launch_builder(&self.decode);
        arguments.arg(&queries).arg(&keys.pool).arg(&keys.slots).arg(&blocks).arg(&last_tokens);
        arguments.arg(&keys.stride).arg(&group).arg(&block_tokens).arg(&splits).arg(&first_split);
        arguments.arg(&scale).arg(&partials.out).arg(&partials.log_sum_exp);
        start(arguments, &self.shape.decode(splits)?)
    }

    /// Joins `splits` partial results into `out`, `[heads, head_dim]`, and `log_sum_exp`, `[heads]`.
    pub(super) fn merge(
        &self,
        stream: &CudaStream,
        partials: Partials,
        splits: u32,
        out: CUdeviceptr,
        log_sum_exp: CUdeviceptr,
    ) -> Result<(), CudaError> {
        let (heads, head_dim) = (self.shape.heads(), self.shape.head_dim);
        let mut arguments = stream.launch_builder(&self.merge);
        arguments.arg(&partials.out).arg(&partials.log_sum_exp).arg(&splits).arg(&heads);
        arguments.arg(&head_dim).arg(&out).arg(&log_sum_exp);
        start(arguments, &launch::merge_partials(heads)?)
    }

    /// Copies `blocks` blocks from their addresses `sources` to `slots` of a pool.
    pub(super) fn gather(
        &self,
        stream: &CudaStream,
        sources: CUdeviceptr,
        slots: CUdeviceptr,
        pool: CUdeviceptr,
        blocks: u32,
    ) -> Result<(), CudaError> {
        let block_bytes = self.shape.block_bytes();
        let mut arguments = stream.launch_builder(&self.gather);
        arguments.arg(&sources).arg(&slots).arg(&pool).arg(&blocks).arg(&block_bytes);
        start(arguments, &launch::gather_blocks(blocks, block_bytes)?)
    }

    /// Stores keys and values, `[tokens, kv_heads, head_dim]` each; adds to the number at `overflows` those out of range.
    pub(super) fn append(
        &self,
        stream: &CudaStream,
        [keys, values]: [CUdeviceptr; 2],
        Rows { tokens, first_row }: Rows,
        targets: Targets,
        overflows: CUdeviceptr,
    ) -> Result<(), CudaError> {
        let Shape { kv_heads, head_dim, block_tokens, .. } = self.shape;
        let blocks = (first_row + tokens).div_ceil(block_tokens);
        let mut arguments = stream.launch_builder(&self.append);
        arguments.arg(&keys).arg(&values).arg(&tokens).arg(&kv_heads).arg(&head_dim);
        arguments.arg(&block_tokens).arg(&first_row).arg(&blocks).arg(&targets.host_blocks);
        arguments.arg(&targets.pool).arg(&targets.slots).arg(&overflows);
        start(arguments, &self.shape.append(tokens)?)
    }

    /// Attends the queries of consecutive tokens, `[tokens, heads, head_dim]`, causally to consecutive keys, into `out`, of
    /// the same shape, and `log_sum_exp`, `[tokens, heads]`.
    pub(super) fn prefill(
        &self,
        stream: &CudaStream,
        queries: CUdeviceptr,
        keys: KeyLists,
        span: Span,
        [out, log_sum_exp]: [CUdeviceptr; 2],
    ) -> Result<(), CudaError> {
        let Shape { kv_heads, group, block_tokens, scale, .. } = self.shape;
        let accumulate = u32::from(span.accumulate);
        let mut arguments = stream.launch_builder(&self.prefill);
        arguments.arg(&queries).arg(&span.tokens).arg(&kv_heads).arg(&group).arg(&keys.pool);
        arguments.arg(&keys.slots).arg(&keys.stride).arg(&block_tokens).arg(&span.key_tokens);
        arguments.arg(&span.key_start).arg(&span.query_start).arg(&scale).arg(&out);
        arguments.arg(&log_sum_exp).arg(&accumulate);
        start(arguments, &self.shape.prefill(span.tokens)?)
    }
}

impl Shape {
    fn of(geometry: &Geometry) -> Self {
        let &Geometry { heads, kv_heads, head_dim, block_tokens, dtype, .. } = geometry;
        let element = match dtype {
            KvDtype::F16 => Element::F16,
            KvDtype::Bf16 => Element::Bf16,
        };
        #[expect(clippy::cast_precision_loss, reason = "head sizes are small numbers")]
        let scale = 1.0 / (head_dim as f32).sqrt();
        Self { element, head_dim, kv_heads, group: heads / kv_heads, block_tokens, scale }
    }

    const fn heads(&self) -> u32 {
        self.kv_heads * self.group
    }

    #[expect(clippy::cast_possible_truncation, reason = "an element has two bytes")]
    const fn block_bytes(&self) -> u32 {
        2 * self.block_tokens * self.head_dim * KvDtype::BYTES as u32
    }

    fn decode(&self, splits: u32) -> Result<Launch, launch::UnsupportedShape> {
        let &Self { element, head_dim, kv_heads, group, block_tokens, .. } = self;
        launch::decode_attention(element, head_dim, kv_heads, group, block_tokens, splits)
    }

    fn append(&self, tokens: u32) -> Result<Launch, launch::UnsupportedShape> {
        launch::append(self.element, tokens, self.kv_heads, self.head_dim, self.block_tokens)
    }

    fn prefill(&self, tokens: u32) -> Result<Launch, launch::UnsupportedShape> {
        let &Self { element, head_dim, kv_heads, group, block_tokens, .. } = self;
        launch::prefill_attention(element, head_dim, tokens, kv_heads, group, block_tokens)
    }
}

/// Loads all kernels.
pub(super) fn load_module(context: &Arc<CudaContext>) -> Result<Arc<CudaModule>, CudaError> {
    let image = Ptx::from_binary(hindsight_cuda::FATBIN.to_vec());
    context.load_module(image).map_err(tried("load the kernels"))
}

pub(super) fn start(mut arguments: LaunchArgs<'_>, launch: &Launch) -> Result<(), CudaError> {
    let config = LaunchConfig {
        grid_dim: launch.grid.into(),
        block_dim: launch.block.into(),
        shared_mem_bytes: launch.shared_bytes,
    };
    // SAFETY: the methods above give each kernel the arguments that its source lists, and the launch that belongs to it. The
    // addresses are those of buffers that the device sized for its shape and keeps until the work is done.
    let started = unsafe { arguments.launch(config) };
    started.map(drop).map_err(tried("start a kernel"))
}
