//! Which compilation of the kernels runs: chosen once, from what the CPU has.

use hindsight_protocol::geometry::KvDtype;

use super::causal_tile::CausalTile;
use super::decode_tile::DecodeTile;
use super::scalar;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// An instruction set that the attention kernels are compiled for, from the fastest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// x86-64 with AVX-512 F and DQ.
    Avx512,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// Any CPU.
    Scalar,
}

impl Isa {
    /// All of them, from the fastest on.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Scalar];
}

impl std::fmt::Display for Isa {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Scalar => "scalar",
        })
    }
}

/// The kernels of one instruction set.
///
/// A table is only ever handed out after its instruction set was found on this CPU: that is what makes its methods safe.
#[derive(Debug)]
pub(in super::super) struct Kernels {
    isa: Isa,
    lanes: usize,
    panel_vectors: usize,
    decode_tile: unsafe fn(&mut DecodeTile<'_>),
    causal_tile: unsafe fn(&mut CausalTile<'_>),
    widen: unsafe fn(KvDtype, &[u16], &mut [f32]),
}

#[cfg(target_arch = "x86_64")]
static AVX512: Kernels = Kernels {
    isa: Isa::Avx512,
    lanes: 16,
    panel_vectors: avx512::PANEL_VECTORS,
    decode_tile: avx512::decode_tile,
    causal_tile: avx512::causal_tile,
    widen: avx512::widen,
};

#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = Kernels {
    isa: Isa::Avx2,
    lanes: 8,
    panel_vectors: avx2::PANEL_VECTORS,
    decode_tile: avx2::decode_tile,
    causal_tile: avx2::causal_tile,
    widen: avx2::widen,
};

static SCALAR: Kernels = Kernels {
    isa: Isa::Scalar,
    lanes: 4,
    panel_vectors: scalar::PANEL_VECTORS,
    decode_tile: scalar::decode_tile,
    causal_tile: scalar::causal_tile,
    widen: scalar::widen,
};

impl Kernels {
    /// The kernels for `isa`, if this CPU has it.
    pub(in super::super) fn of(isa: Isa) -> Option<&'static Self> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::is_available().then_some(&AVX512),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::is_available().then_some(&AVX2),
            Isa::Scalar => Some(&SCALAR),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => None,
        }
    }

    /// The fastest kernels that this CPU has.
    pub(in super::super) fn best() -> &'static Self {
        Isa::ALL.into_iter().find_map(Self::of).unwrap_or(&SCALAR)
    }

    /// The instruction set.
    pub(in super::super) fn isa(&self) -> Isa {
        self.isa
    }

    /// Floats in a vector.
    pub(in super::super) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Rows of a full panel of [`CausalTile`].
    pub(in super::super) fn panel_rows(&self) -> usize {
        self.panel_vectors * self.lanes
    }

    /// Adds a tile of keys and values to the online softmax of one token's queries.
    pub(in super::super) fn decode_tile(&self, tile: &mut DecodeTile<'_>) {
        // SAFETY: `of` found the instruction set before it handed out this table; nothing else is asked of a caller.
        unsafe { (self.decode_tile)(tile) }
    }

    /// Adds a tile of keys and values to the online softmax of many queries under the causal mask.
    pub(in super::super) fn causal_tile(&self, tile: &mut CausalTile<'_>) {
        // SAFETY: as for `decode_tile`.
        unsafe { (self.causal_tile)(tile) }
    }

    /// Writes 16-bit floats of `dtype` to `to` as `f32`.
    pub(in super::super) fn widen(&self, dtype: KvDtype, from: &[u16], to: &mut [f32]) {
        // SAFETY: as for `decode_tile`.
        unsafe { (self.widen)(dtype, from, to) }
    }
}
