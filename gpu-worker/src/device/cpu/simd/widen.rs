//! Rows of 16-bit floats to `f32`.

use hindsight_protocol::geometry::KvDtype;

use super::vector::{Bf16, F16, KvFormat, Simd};

/// Writes `from`, raw floats of `dtype`, to `to`.
///
/// # Panics
/// If the lengths differ or are not a multiple of 16.
#[inline(always)]
pub(super) fn run<S: Simd>(s: S, dtype: KvDtype, from: &[u16], to: &mut [f32]) {
    match dtype {
        KvDtype::F16 => run_format::<S, F16>(s, from, to),
        KvDtype::Bf16 => run_format::<S, Bf16>(s, from, to),
    }
}

#[inline(always)]
fn run_format<S: Simd, F: KvFormat>(s: S, from: &[u16], to: &mut [f32]) {
    assert!(from.len() == to.len() && from.len().is_multiple_of(16));
    for offset in (0..to.len()).step_by(S::LANES) {
        // SAFETY: `from` and `to` hold `LANES` elements more than `offset`, as their lengths agree and are a multiple of it.
        unsafe { s.store(to.as_mut_ptr().add(offset), F::load(s, from.as_ptr().add(offset))) };
    }
}
