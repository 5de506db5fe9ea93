//! The instruction sets, and the loops over panels that they share.

#[cfg(target_arch = "x86_64")]
mod ahead;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod product;
mod quantize;
mod scalar;

pub(super) use product::{Product, multiply};

use super::activations::{Block32, Block256};
use super::format::{Nested, Simple};
use super::layout::ROWS;

/// An instruction set whose kernels multiply one panel with a few activation rows. A value of an implementing type
/// proves that the processor has the instructions.
pub(super) trait Isa: Copy + Send + Sync {
    /// The most rows that a kernel takes at once; a power of 2.
    const BATCH: usize;

    /// A panel in blocks of 32 with `M` rows of as many blocks.
    fn simple<F: Simple, const M: usize>(
        self,
        panel: &[u8],
        rows: [&[Block32]; M],
    ) -> [[f32; ROWS]; M];

    /// A panel in blocks of 256 with `M` rows of as many blocks.
    fn nested<F: Nested, const M: usize>(
        self,
        panel: &[u8],
        rows: [&[Block256]; M],
    ) -> [[f32; ROWS]; M];
}

/// The instruction set in use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path {
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    Scalar(scalar::Scalar),
}

impl Path {
    /// All that this processor has, the fastest first.
    pub(super) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let vector =
            [avx512::Avx512::detect().map(Self::Avx512), avx2::Avx2::detect().map(Self::Avx2)];
        #[cfg(not(target_arch = "x86_64"))]
        let vector: [Option<Self>; 0] = [];
        vector.into_iter().flatten().chain([Self::Scalar(scalar::Scalar)])
    }

    /// The fastest that this processor has.
    pub(super) fn best() -> Self {
        Self::available().next().expect("the scalar path is always there")
    }

    pub(super) fn quantize_32(self, x: &[[f32; 32]], blocks: &mut [Block32]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(isa) => isa.quantize_32(x, blocks),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(isa) => isa.quantize_32(x, blocks),
            Self::Scalar(_) => quantize::blocks_32(x, blocks),
        }
    }

    pub(super) fn quantize_256(self, x: &[[f32; 256]], blocks: &mut [Block256]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(isa) => isa.quantize_256(x, blocks),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(isa) => isa.quantize_256(x, blocks),
            Self::Scalar(_) => quantize::blocks_256(x, blocks),
        }
    }
}
