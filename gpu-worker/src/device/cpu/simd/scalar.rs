//! Plain Rust, for any CPU: four lanes, which the compiler maps to the base instruction set.

use hindsight_protocol::geometry::KvDtype;

use super::causal_tile::{self, CausalTile};
use super::decode_tile::{self, DecodeTile};
use super::vector::Simd;
use super::widen;

/// Vectors of a full panel of [`CausalTile`].
pub(super) const PANEL_VECTORS: usize = 2;

/// No instruction set is asked for.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

/// [`decode_tile::run`], compiled for any CPU.
pub(super) fn decode_tile(tile: &mut DecodeTile<'_>) {
    decode_tile::run::<_, 2, 2>(Scalar, tile);
}

/// [`causal_tile::run`], compiled for any CPU.
pub(super) fn causal_tile(tile: &mut CausalTile<'_>) {
    causal_tile::run::<_, PANEL_VECTORS, 4>(Scalar, tile);
}

/// [`widen::run`], compiled for any CPU.
pub(super) fn widen(dtype: KvDtype, from: &[u16], to: &mut [f32]) {
    widen::run(Scalar, dtype, from, to);
}

/// Computes each lane by an expression of the lane's number.
macro_rules! lanes {
    ($lane:ident => $value:expr) => {{
        let mut result = [0.0; 4];
        for ($lane, result) in result.iter_mut().enumerate() {
            *result = $value;
        }
        result
    }};
}

impl Simd for Scalar {
    const LANES: usize = 4;
    type F32 = [f32; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }

    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanes!(lane => a[lane] + b[lane])
    }

    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanes!(lane => a[lane] - b[lane])
    }

    #[inline(always)]
    fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanes!(lane => a[lane] * b[lane])
    }

    #[inline(always)]
    fn fma(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        // Two roundings: `f32::mul_add` is a slow library call where the CPU has no such instruction.
        lanes!(lane => a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanes!(lane => if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn round(self, a: [f32; 4]) -> [f32; 4] {
        // Adding and taking away 1.5 · 2^23 rounds what is smaller than 2^22 to nearest; larger scores are masked later.
        const SHIFT: f32 = 12_582_912.0;
        lanes!(lane => (a[lane] + SHIFT) - SHIFT)
    }

    #[inline(always)]
    fn scale_by_power_of_two(self, a: [f32; 4], whole: [f32; 4], x: [f32; 4]) -> [f32; 4] {
        lanes!(lane => if x[lane] < -125.0 {
            0.0
        } else {
            // The cast saturates, and takes NaN, which `a` then holds too, to 0.
            let exponent = (whole[lane] as i32) << 23;
            f32::from_bits(a[lane].to_bits().wrapping_add_signed(exponent))
        })
    }

    #[inline(always)]
    fn mask_later(self, score: [f32; 4], position: [f32; 4], key: [f32; 4]) -> [f32; 4] {
        lanes!(lane => if position[lane] >= key[lane] { score[lane] } else { f32::NEG_INFINITY })
    }

    #[inline(always)]
    fn sum(self, a: [f32; 4]) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }

    #[inline(always)]
    fn max_lane(self, a: [f32; 4]) -> f32 {
        a[0].max(a[1]).max(a[2].max(a[3]))
    }

    #[inline(always)]
    fn sum4(self, vectors: [[f32; 4]; 4]) -> [f32; 4] {
        lanes!(lane => self.sum(vectors[lane]))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> [f32; 4] {
        // SAFETY: the caller promises four readable floats, and an array is as aligned as its elements.
        unsafe { from.cast::<[f32; 4]>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: [f32; 4]) {
        // SAFETY: the caller promises four writable floats, and an array is as aligned as its elements.
        unsafe { to.cast::<[f32; 4]>().write(a) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> [f32; 4] {
        // SAFETY: the caller promises four readable elements, and an array is as aligned as its elements.
        let halves = unsafe { from.cast::<[u16; 4]>().read() };
        lanes!(lane => widen_f16(halves[lane]))
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> [f32; 4] {
        // SAFETY: the caller promises four readable elements, and an array is as aligned as its elements.
        let halves = unsafe { from.cast::<[u16; 4]>().read() };
        lanes!(lane => f32::from_bits(u32::from(halves[lane]) << 16))
    }

    #[inline(always)]
    fn prefetch(self, _line: *const u16) {}
}

/// Half precision to single, exactly, without a branch.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    /// `2^112`: what the exponents' biases differ by.
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = u32::from(bits & 0x7fff);
    let sign = u32::from(bits & 0x8000) << 16;
    let rebiased = (f32::from_bits(magnitude << 13) * REBIAS).to_bits();
    // Infinity and NaN came out as large numbers: give them their exponent back.
    let special = if magnitude >= 0x7c00 { 0xff << 23 } else { 0 };
    f32::from_bits(rebiased | special | sign)
}

#[cfg(test)]
mod tests {
    use super::super::exp2::tests::assert_exp2_is_accurate;
    use super::*;

    #[test]
    fn powers_of_two_are_accurate() {
        assert_exp2_is_accurate(Scalar, 2.0);
    }

    #[test]
    fn widens_every_half_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (widen_f16(bits), half::f16::from_bits(bits).to_f32());
            assert!(
                ours == theirs && ours.is_sign_negative() == theirs.is_sign_negative()
                    || ours.is_nan() && theirs.is_nan(),
                "{bits:#06x}"
            );
        }
    }
}
