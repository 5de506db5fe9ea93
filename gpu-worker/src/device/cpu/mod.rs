//! Attention on the CPU, over KV blocks wherever they lie.
//!
//! [`CpuAttention`] is chosen once per run: it holds the shape of one KV head and the fastest kernels that this CPU has.
//! It attends in place: a block's 16-bit keys and values are read straight from the memory that holds them, once for all
//! query heads of the group, and widened in registers.
//!
//! * [`CpuAttention::decode`] attends one token's queries over any list of blocks.
//! * [`Parts`] does so over every key, on several threads.
//! * [`CpuAttention::prefill`] attends a chunk of queries causally over all blocks so far, on as many threads as given.
//! * [`merge`] joins two results over disjoint sets of keys, by their log-sum-exp.
//!
//! All arithmetic is in `f32`; 16-bit numbers are only ever a storage format here. A result depends on the order of the
//! blocks and on the instruction set, never on the number of threads or on how a prompt was cut into chunks.

mod decode;
mod device;
mod parts;
mod prefill;
mod scratch;
mod shape;
mod simd;
mod softmax;

#[cfg(test)]
mod reference;

pub use decode::DecodeScratch;
pub use device::CpuDevice;
pub use parts::Parts;
pub use prefill::{Prefill, PrefillScratch};
pub use shape::{AttentionShape, Block, MAX_BLOCK_TOKENS, ShapeError};
pub use simd::Isa;
pub use softmax::merge;

use simd::Kernels;

/// Attention of one model's KV heads on the CPU: the shape of a head and the kernels chosen for this machine.
#[derive(Clone, Copy, Debug)]
pub struct CpuAttention {
    shape: AttentionShape,
    kernels: &'static Kernels,
}

impl CpuAttention {
    /// Attention with the fastest kernels that this CPU has.
    #[must_use]
    pub fn new(shape: AttentionShape) -> Self {
        Self { shape, kernels: Kernels::best() }
    }

    /// Attention with the kernels of one instruction set, or `None` if this CPU lacks it.
    #[must_use]
    pub fn with_isa(shape: AttentionShape, isa: Isa) -> Option<Self> {
        Kernels::of(isa).map(|kernels| Self { shape, kernels })
    }

    /// The shape of one KV head.
    #[must_use]
    pub fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// The instruction set of the kernels in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }
}
