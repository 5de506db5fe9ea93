//! AVX-512: sixteen lanes.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use hindsight_protocol::geometry::KvDtype;

use super::causal_tile::{self, CausalTile};
use super::decode_tile::{self, DecodeTile};
use super::vector::{self, Simd};
use super::widen;

/// Vectors of a full panel of [`CausalTile`].
pub(super) const PANEL_VECTORS: usize = 3;

/// Proof that the CPU has AVX-512 F and DQ.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Whether the CPU has what the kernels here ask for.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq")
}

/// [`decode_tile::run`], compiled for AVX-512.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn decode_tile(tile: &mut DecodeTile<'_>) {
    decode_tile::run::<_, 4, 4>(Avx512(()), tile);
}

/// [`causal_tile::run`], compiled for AVX-512.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn causal_tile(tile: &mut CausalTile<'_>) {
    causal_tile::run::<_, PANEL_VECTORS, 8>(Avx512(()), tile);
}

/// [`widen::run`], compiled for AVX-512.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn widen(dtype: KvDtype, from: &[u16], to: &mut [f32]) {
    widen::run(Avx512(()), dtype, from, to);
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    type F32 = __m512;

    vector::operations! {
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn round(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT }>(a);
        fn scale_by_power_of_two(a: __m512, whole: __m512, x: __m512) -> __m512 = {
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(-125.0));
            _mm512_maskz_scalef_ps(kept, a, whole)
        };
        fn mask_later(score: __m512, position: __m512, key: __m512) -> __m512 = {
            let seen = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(position, key);
            _mm512_mask_blend_ps(seen, _mm512_set1_ps(f32::NEG_INFINITY), score)
        };
        fn sum(a: __m512) -> f32 = _mm512_reduce_add_ps(a);
        fn max_lane(a: __m512) -> f32 = _mm512_reduce_max_ps(a);
        fn sum4(vectors: [__m512; 4]) -> [f32; 4] = {
            // Transposes as it adds: after two steps each quarter holds a partial sum of every vector.
            let [a, b, c, d] = vectors;
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let abcd = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xee>(ab, cd));
            let half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps::<1>(abcd));
            let sums = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            std::mem::transmute::<__m128, [f32; 4]>(sums)
        };
        fn prefetch(line: *const u16) -> () = _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: the token proves the instruction set, the caller promises 16 readable floats.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: __m512) {
        // SAFETY: the token proves the instruction set, the caller promises 16 writable floats.
        unsafe { _mm512_storeu_ps(to, a) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m512 {
        // SAFETY: the token proves the instruction set, the caller promises 16 readable elements (32 bytes).
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m512 {
        // SAFETY: the token proves the instruction set, the caller promises 16 readable elements (32 bytes).
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exp2::tests::assert_exp2_is_accurate;

    #[test]
    fn powers_of_two_are_accurate() {
        if super::is_available() {
            assert_exp2_is_accurate(super::Avx512(()), 1.0);
        }
    }
}
