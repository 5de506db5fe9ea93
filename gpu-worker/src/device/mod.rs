//! Where attention is computed: on the CPU in place, or on a GPU that holds a part of the KV cache.
//!
//! A device is given queries, keys and values layer by layer. It stores what is new in the arena, where the indexer finds
//! it, and attends: to the whole text, or to the blocks that were selected.

mod backend;
pub mod conformance;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod probe;
pub mod transfer;

use std::fmt;
use std::ops::Range;

use candle_core::{Storage, Tensor};
use hindsight_protocol::arena::ArenaError;
use hindsight_protocol::device::Device;
use hindsight_protocol::profile::{Detail, Recorder};
use hindsight_protocol::records::SelectedBlock;

pub use backend::Backend;
pub use probe::{DeviceDescription, DeviceUnavailable, probe};

use crate::link::LinkError;

/// What stops a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no such device.
    #[error("this build has no {0}: build it with --features cuda")]
    Absent(Device),
    /// The device computes in host memory.
    #[error("the device has no link to host memory")]
    NoLink,
    /// The kernels do not serve this shape.
    #[error(transparent)]
    Shape(#[from] cpu::ShapeError),
    /// The arena cannot be mapped.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// No selection came.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The GPU refused.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] cuda::CudaError),
    /// A tensor is not what it must be.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl DeviceError {
    /// The kind of error, in snake_case.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Absent(_) => "device_unavailable",
            Self::NoLink => "no_link",
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda::CudaError::Memory { .. }) => "gpu_memory",
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda::CudaError::Shape(_)) => "device_shape",
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => "gpu_failed",
            Self::Shape(_) => "device_shape",
            Self::Arena(_) | Self::Link(_) | Self::Tensor(_) => "internal",
        }
    }

    /// The way out; may be empty.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda::CudaError::Memory { .. }) => {
                "use --gpu-kv-bytes for a smaller block cache, --dense-layers for fewer dense layers, a shorter \
                 --context, or --device cpu"
            }
            Self::Absent(_) => "use --device cpu",
            _ => "",
        }
    }
}

/// What a run asks of a device with memory of its own.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// Layers, from the first, that lie on the device with the whole context.
    pub dense_layers: usize,
    /// Blocks that the block cache holds for each KV head of the other layers.
    pub cache_blocks: u32,
    /// Bytes of the model's weights.
    pub weights: usize,
}

/// Consecutive tokens of a text in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The layer.
    pub layer: usize,
    /// Position of the first token.
    pub start: usize,
    /// How many.
    pub tokens: usize,
}

impl Chunk {
    /// Where it stands, as profiles have it.
    pub(crate) fn detail(self) -> Detail {
        let layer = u32::try_from(self.layer).ok();
        Detail { position: self.start as u64, layer, ..Detail::default() }
    }
}

/// What the KV heads of one layer attend to at one step. Heads are answered in their order.
pub trait Selections {
    /// Waits for the blocks of KV head `head`, and fills `blocks` with them: ascending, the last the newest token's own.
    ///
    /// # Errors
    /// [`LinkError`].
    fn next(&mut self, head: usize, blocks: &mut Vec<SelectedBlock>) -> Result<(), LinkError>;

    /// Records what the device does when.
    fn recorder(&mut self) -> &mut Recorder;
}

/// Attention over one text, whose keys and values the arena holds.
///
/// Tensors are f32 and contiguous, on the device of the model: queries `[tokens, heads, head_dim]`, keys and values
/// `[tokens, kv_heads, head_dim]`, results `[tokens, heads * head_dim]`. The chunks of a layer come in order and without gaps.
pub trait AttentionDevice: fmt::Debug + Send {
    /// Begins a text that lies in `slabs` of the arena. Its first `kept` tokens are those of the text before.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn open(&mut self, slabs: &[u32], kept: usize) -> Result<(), DeviceError>;

    /// Lets go of the text: its memory is about to be given back.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn close(&mut self) -> Result<(), DeviceError>;

    /// Stores keys and values of new tokens.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn append(&mut self, chunk: Chunk, keys: &Tensor, values: &Tensor) -> Result<(), DeviceError>;

    /// Returns when the arena holds everything that has been appended.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn settle(&mut self) -> Result<(), DeviceError>;

    /// Whether a token's queries are read as soon as they are there. Elsewhere they are read once its key and value have been
    /// appended, so that what reading them waits for is in the arena, too: each wait for a stream costs the time that the device
    /// has nothing to do.
    fn reads_queries_early(&self) -> bool {
        false
    }

    /// Keys and values that exceeded the element type's range since this was asked last, as far as known.
    fn take_overflows(&mut self) -> u64;

    /// The queries of some rows of a chunk into host memory, `[rows, heads, head_dim]`. What has been appended before
    /// is in the arena when this returns.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn read_queries(
        &mut self,
        queries: &Tensor,
        rows: Range<usize>,
        into: &mut Vec<f32>,
    ) -> Result<(), DeviceError>;

    /// Attends a chunk's queries causally to the whole text up to them.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn prefill(&mut self, chunk: Chunk, queries: &Tensor) -> Result<Tensor, DeviceError>;

    /// Attends the queries of one token, the chunk's, to the whole text.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn attend_all(&mut self, chunk: Chunk, queries: &Tensor) -> Result<Tensor, DeviceError>;

    /// Attends the queries of one token, the chunk's, to selected blocks.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn attend_selected(
        &mut self,
        chunk: Chunk,
        queries: &Tensor,
        selections: &mut dyn Selections,
    ) -> Result<Tensor, DeviceError>;

    /// Repeats the keys and values of the first `tokens` tokens of the text, in all layers, until there are `stretched_to`.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn stretch(&mut self, tokens: usize, stretched_to: usize) -> Result<(), DeviceError>;

    /// Waits for what is queued and tells `recorder` when each of it was done, if that is not recorded anyway. A device that
    /// works beside the host takes times from the first call with a recorder that records; with another, nothing happens.
    ///
    /// # Errors
    /// [`DeviceError`].
    fn record_timeline(&mut self, _recorder: &mut Recorder) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// Lends the elements of a tensor in host memory.
pub(crate) fn with_slice<R>(
    tensor: &Tensor,
    take: impl FnOnce(&[f32]) -> R,
) -> candle_core::Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets())
    else {
        candle_core::bail!("expected a contiguous tensor in host memory");
    };
    Ok(take(&storage.as_slice::<f32>()?[start..end]))
}
