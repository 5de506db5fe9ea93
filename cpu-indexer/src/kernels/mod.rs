//! The inner loops, each for AVX-512, AVX2 and plain Rust, chosen once at run time.
//!
//! Every path computes what the scalar path computes. Scores differ from it by rounding only: the AVX-512 path scores
//! bfloat16 keys with the processor's bfloat16 dot product, which rounds the query to bfloat16 too.

use hindsight_protocol::geometry::KvDtype;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod calls;
#[cfg(target_arch = "x86_64")]
mod codes;
mod dense;
mod query;
pub(crate) mod scalar;
mod scores;
#[cfg(test)]
mod tests;

pub use query::GroupQuery;
pub(crate) use query::{dot, lane_sums};
pub use scores::Scores;

/// Keys whose codes lie together, so that one instruction looks up one sub-space of all of them.
pub const CODE_GROUP: usize = 64;
/// Code words of a sub-space: four bits of a code.
pub const CODE_WORDS: usize = 16;
/// Vectors that are mapped and coded at once: `[[f32; LANES]]` holds one element of each after the other.
pub const LANES: usize = 16;

/// An instruction set that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ and BF16.
    Avx512,
}

impl Isa {
    /// The instruction sets that this processor has, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                found.push(Self::Avx2);
            }
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bf16");
            if avx2 && avx512 {
                found.push(Self::Avx512);
            }
        }
        found
    }

    /// Name as in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

/// The kernels of one instruction set.
///
/// A value can only be had for an instruction set that the processor has, so that calling is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// The fastest kernels for this processor.
    #[must_use]
    pub fn detect() -> Self {
        Self { isa: Isa::available().pop().unwrap_or(Isa::Scalar) }
    }

    /// The kernels of `isa`, if this processor has it.
    #[must_use]
    pub fn of(isa: Isa) -> Option<Self> {
        Isa::available().contains(&isa).then_some(Self { isa })
    }

    /// The instruction set in use.
    #[must_use]
    pub const fn isa(self) -> Isa {
        self.isa
    }
}

/// Keys ([keys, head_dim]) that lie one after the other, and where those lie that come after them: as many, or fewer, are fetched
/// while these are scored.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Element type.
    pub dtype: KvDtype,
    /// The keys.
    pub keys: &'a [u16],
    /// Those that come next, for the first-level cache.
    pub next: &'a [u16],
    /// Those that come later, for the second-level cache.
    pub later: &'a [u16],
}

/// `ln 2` in two parts, of which the first has trailing zeros enough for exact products with small integers.
#[cfg(target_arch = "x86_64")]
const LN_2_HIGH: f32 = 355.0 / 512.0;
#[cfg(target_arch = "x86_64")]
const LN_2_LOW: f32 = -2.121_944_4e-4;
#[cfg(target_arch = "x86_64")]
/// The series of `exp`, good to single precision on ±`ln 2 / 2`, highest power first.
const EXP_POLYNOMIAL: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// Rows that are scored together, so that each part of a query is loaded once for all of them.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 4;

#[cfg(target_arch = "x86_64")]
/// The rows of `batch`, of which there is at least one; the last fills the gaps.
#[inline(always)]
fn four_of<'a>(batch: &[&'a [u16]]) -> [&'a [u16]; ROWS] {
    let last = batch.len() - 1;
    [batch[0], batch[last.min(1)], batch[last.min(2)], batch[last]]
}

/// Asks the processor to fetch `items` into its second-level cache, which has more requests in flight than the first;
/// elsewhere than on x86-64 nothing.
#[inline(always)]
pub(crate) fn fetch<T>(items: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of_val(items)).step_by(64) {
        fetch_far(items.as_ptr().wrapping_byte_add(offset));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = items;
}

/// Asks the processor to fetch the cache line at an address, whatever it is, into its second-level cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch_far<T>(line: *const T) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch has no effect on memory.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
}

/// Asks the processor to fetch the cache line at an address, whatever it is, into its first-level cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch_near<T>(line: *const T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch has no effect on memory.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
}
