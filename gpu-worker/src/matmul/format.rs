//! The weight formats: what a panel kernel must know of each at compile time.

use candle_core::quantized::GgmlDType;

use super::activations::{Block32, Block256};
use super::kernels::Isa;
use super::layout::{CODE_BYTES_PER_BIT, ROWS, SCALE_BYTES};

/// A weight format that can be multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Format {
    pub(super) fn from_dtype(dtype: GgmlDType) -> Option<Self> {
        Some(match dtype {
            GgmlDType::Q4_0 => Self::Q4_0,
            GgmlDType::Q4_1 => Self::Q4_1,
            GgmlDType::Q5_0 => Self::Q5_0,
            GgmlDType::Q5_1 => Self::Q5_1,
            GgmlDType::Q8_0 => Self::Q8_0,
            GgmlDType::Q4K => Self::Q4K,
            GgmlDType::Q5K => Self::Q5K,
            GgmlDType::Q6K => Self::Q6K,
            _ => return None,
        })
    }

    /// Columns of one block.
    pub(super) fn block_columns(self) -> usize {
        match self.activation() {
            ActivationKind::Blocks32 => 32,
            ActivationKind::Blocks256 => 256,
        }
    }

    /// Bytes of one block of one row in a GGUF file.
    pub(super) fn source_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of one block of all the rows of a panel.
    pub(super) fn panel_block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => Q4_0::BYTES,
            Self::Q4_1 => Q4_1::BYTES,
            Self::Q5_0 => Q5_0::BYTES,
            Self::Q5_1 => Q5_1::BYTES,
            Self::Q8_0 => Q8_0::BYTES,
            Self::Q4K => Q4K::BYTES,
            Self::Q5K => Q5K::BYTES,
            Self::Q6K => Q6K::BYTES,
        }
    }

    /// The activation blocks that its kernels read.
    pub(super) fn activation(self) -> ActivationKind {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => {
                ActivationKind::Blocks32
            }
            Self::Q4K | Self::Q5K | Self::Q6K => ActivationKind::Blocks256,
        }
    }
}

/// How activations are quantized for a weight format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ActivationKind {
    /// [`Block32`].
    Blocks32,
    /// [`Block256`].
    Blocks256,
}

/// A format whose kernel is chosen at compile time.
pub(super) trait Weights {
    /// The activation block that meets one weight block.
    type Activation: Copy + Send + Sync;
    /// Bytes of one block of all the rows of a panel.
    const BYTES: usize;

    /// The products of one panel with `M` activation rows, each of as many blocks as the panel.
    fn panel<I: Isa, const M: usize>(
        isa: I,
        panel: &[u8],
        rows: [&[Self::Activation]; M],
    ) -> [[f32; ROWS]; M];
}

/// Formats with blocks of 32 columns: a scale and, for some, a minimum per block.
pub(super) trait Simple {
    /// Bits of a weight code.
    const BITS: usize;
    /// The codes are the signed weights plus 2 to this power.
    const OFFSET: Option<u32>;
    /// Whether a block has a minimum that is added to each weight.
    const MINIMUM: bool;
    /// Bytes of the codes of one panel block; the scales follow, then the minima.
    const CODES: usize = Self::BITS * CODE_BYTES_PER_BIT;
}

/// Formats with blocks of 256 columns in parts, each part with a small integer scale and, for some, a minimum.
pub(super) trait Nested {
    /// Bits of a weight code.
    const BITS: usize;
    /// The codes are the signed weights plus 2 to this power.
    const OFFSET: Option<u32>;
    /// Whether a part has a minimum that is subtracted from each weight.
    const MINIMUM: bool;
    /// Columns of a part: 16 or 32.
    const PART: usize;
    /// Bytes of the codes of 32 columns.
    const UNIT: usize = Self::BITS * CODE_BYTES_PER_BIT;
    /// Where the scales of the parts begin; their minima follow.
    const PART_SCALES: usize = 8 * Self::UNIT;
    /// Bytes of the scales of the parts, and of their minima if they have any.
    const PART_SCALE_BYTES: usize = 256 / Self::PART * ROWS;
    /// Where the scale of the block begins; the scale of the minima follows.
    const SCALE: usize = Self::PART_SCALES
        + if Self::MINIMUM { 2 * Self::PART_SCALE_BYTES } else { Self::PART_SCALE_BYTES };
}

macro_rules! simple {
    ($name:ident, bits $bits:literal, offset $offset:expr, minimum $minimum:literal) => {
        pub(super) struct $name;

        impl Simple for $name {
            const BITS: usize = $bits;
            const OFFSET: Option<u32> = $offset;
            const MINIMUM: bool = $minimum;
        }

        impl Weights for $name {
            type Activation = Block32;
            const BYTES: usize = Self::CODES + if $minimum { 2 * SCALE_BYTES } else { SCALE_BYTES };

            fn panel<I: Isa, const M: usize>(
                isa: I,
                panel: &[u8],
                rows: [&[Block32]; M],
            ) -> [[f32; ROWS]; M] {
                isa.simple::<Self, M>(panel, rows)
            }
        }
    };
}

macro_rules! nested {
    ($name:ident, bits $bits:literal, offset $offset:expr, minimum $minimum:literal, part $part:literal) => {
        pub(super) struct $name;

        impl Nested for $name {
            const BITS: usize = $bits;
            const OFFSET: Option<u32> = $offset;
            const MINIMUM: bool = $minimum;
            const PART: usize = $part;
        }

        impl Weights for $name {
            type Activation = Block256;
            const BYTES: usize = Self::SCALE + if $minimum { 2 * SCALE_BYTES } else { SCALE_BYTES };

            fn panel<I: Isa, const M: usize>(
                isa: I,
                panel: &[u8],
                rows: [&[Block256]; M],
            ) -> [[f32; ROWS]; M] {
                isa.nested::<Self, M>(panel, rows)
            }
        }
    };
}

simple!(Q4_0, bits 4, offset Some(3), minimum false);
simple!(Q4_1, bits 4, offset None, minimum true);
simple!(Q5_0, bits 5, offset Some(4), minimum false);
simple!(Q5_1, bits 5, offset None, minimum true);
simple!(Q8_0, bits 8, offset Some(7), minimum false);
nested!(Q4K, bits 4, offset None, minimum true, part 32);
nested!(Q5K, bits 5, offset None, minimum true, part 32);
nested!(Q6K, bits 6, offset Some(5), minimum false, part 16);
