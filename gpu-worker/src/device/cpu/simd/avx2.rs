//! AVX2 with FMA and F16C: eight lanes.

#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::*;

use hindsight_protocol::geometry::KvDtype;

use super::causal_tile::{self, CausalTile};
use super::decode_tile::{self, DecodeTile};
use super::vector::{self, Simd};
use super::widen;

/// Vectors of a full panel of [`CausalTile`].
pub(super) const PANEL_VECTORS: usize = 2;

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Whether the CPU has what the kernels here ask for.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// [`decode_tile::run`], compiled for AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode_tile(tile: &mut DecodeTile<'_>) {
    decode_tile::run::<_, 2, 4>(Avx2(()), tile);
}

/// [`causal_tile::run`], compiled for AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn causal_tile(tile: &mut CausalTile<'_>) {
    causal_tile::run::<_, PANEL_VECTORS, 4>(Avx2(()), tile);
}

/// [`widen::run`], compiled for AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widen(dtype: KvDtype, from: &[u16], to: &mut [f32]) {
    widen::run(Avx2(()), dtype, from, to);
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    type F32 = __m256;

    vector::operations! {
        fn splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        fn sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fn max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        fn round(a: __m256) -> __m256 =
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        fn scale_by_power_of_two(a: __m256, whole: __m256, x: __m256) -> __m256 = {
            let exponent = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(whole));
            let scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent));
            _mm256_and_ps(scaled, _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(-125.0)))
        };
        fn mask_later(score: __m256, position: __m256, key: __m256) -> __m256 = {
            let seen = _mm256_cmp_ps::<_CMP_GE_OQ>(position, key);
            _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), score, seen)
        };
        fn sum(a: __m256) -> f32 = {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        };
        fn max_lane(a: __m256) -> f32 = {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        };
        fn sum4(vectors: [__m256; 4]) -> [f32; 4] = {
            let [a, b, c, d] = vectors;
            let abcd = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let sums = _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps::<1>(abcd));
            std::mem::transmute::<__m128, [f32; 4]>(sums)
        };
        fn prefetch(line: *const u16) -> () = _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: the token proves the instruction set, the caller promises 8 readable floats.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: __m256) {
        // SAFETY: the token proves the instruction set, the caller promises 8 writable floats.
        unsafe { _mm256_storeu_ps(to, a) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const u16) -> __m256 {
        // SAFETY: the token proves the instruction set, the caller promises 8 readable elements (16 bytes).
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u16) -> __m256 {
        // SAFETY: the token proves the instruction set, the caller promises 8 readable elements (16 bytes).
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::exp2::tests::assert_exp2_is_accurate;

    #[test]
    fn powers_of_two_are_accurate() {
        if super::is_available() {
            assert_exp2_is_accurate(super::Avx2(()), 1.0);
        }
    }
}
