//! AVX2: the panel's 16 rows as two halves of 8 lanes, and products of bytes through 16-bit pairs.
//!
//! The floating-point operations are those of the AVX-512 kernels in the same order, so the results have the same
//! bits.

#![expect(clippy::needless_range_loop, reason = "adapters would not be inlined")]

use std::arch::x86_64::*;

use super::ahead::fetch_behind;
use super::{Isa, quantize};
use crate::matmul::activations::{Block32, Block256};
use crate::matmul::format::{Nested, Simple};
use crate::matmul::layout::{ROWS, SCALE_BYTES, UNIT};

/// A processor with AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(in crate::matmul) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }

    pub(super) fn quantize_32(self, x: &[[f32; 32]], blocks: &mut [Block32]) {
        // SAFETY: a value of `Avx2` proves the features.
        unsafe { quantize_32(x, blocks) }
    }

    pub(super) fn quantize_256(self, x: &[[f32; 256]], blocks: &mut [Block256]) {
        // SAFETY: a value of `Avx2` proves the features.
        unsafe { quantize_256(x, blocks) }
    }
}

impl Isa for Avx2 {
    const BATCH: usize = 4;

    #[inline]
    fn simple<F: Simple, const M: usize>(
        self,
        panel: &[u8],
        rows: [&[Block32]; M],
    ) -> [[f32; ROWS]; M] {
        // SAFETY: a value of `Avx2` proves the features.
        unsafe { simple::<F, M>(panel, rows) }
    }

    #[inline]
    fn nested<F: Nested, const M: usize>(
        self,
        panel: &[u8],
        rows: [&[Block256]; M],
    ) -> [[f32; ROWS]; M] {
        // SAFETY: a value of `Avx2` proves the features.
        unsafe { nested::<F, M>(panel, rows) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_32(x: &[[f32; 32]], blocks: &mut [Block32]) {
    quantize::blocks_32(x, blocks);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_256(x: &[[f32; 256]], blocks: &mut [Block256]) {
    quantize::blocks_256(x, blocks);
}

/// The 32 bytes at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..at + 32];
    // SAFETY: `bytes` has 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The 16 bytes at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_half(bytes: &[u8], at: usize) -> __m128i {
    let bytes = &bytes[at..at + 16];
    // SAFETY: `bytes` has 16 bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// The 16-bit floats of half the rows, from the run at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_scales(bytes: &[u8], at: usize, half: usize) -> __m256 {
    _mm256_cvtph_ps(load_half(bytes, at + 16 * half))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store<const M: usize>(sums: &[[__m256; 2]; M]) -> [[f32; ROWS]; M] {
    let mut out = [[0.0; ROWS]; M];
    for m in 0..M {
        let out = &mut out[m];
        // SAFETY: `out` has room for 16 floats.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), sums[m][0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), sums[m][1]);
        }
    }
    out
}

/// The 8 groups of half the rows of a unit of `BITS`-bit codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack<const BITS: usize>(unit: &[u8], half: usize) -> [__m256i; 8] {
    let mut groups = [_mm256_setzero_si256(); 8];
    if BITS == 8 {
        for g in 0..8 {
            groups[g] = load(unit, 64 * g + 32 * half);
        }
        return groups;
    }
    let low = _mm256_set1_epi8(0x0f);
    for g in 0..4 {
        let plane = load(unit, 64 * g + 32 * half);
        groups[g] = _mm256_and_si256(plane, low);
        groups[g + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(plane), low);
    }
    // Bits shifted into a neighbouring byte fall outside of `mask`.
    let (mask, shifted) = match BITS {
        5 => {
            let fifth = load(unit, 256 + 32 * half);
            let shifted = [
                _mm256_slli_epi16::<4>(fifth),
                _mm256_slli_epi16::<3>(fifth),
                _mm256_slli_epi16::<2>(fifth),
                _mm256_slli_epi16::<1>(fifth),
                fifth,
                _mm256_srli_epi16::<1>(fifth),
                _mm256_srli_epi16::<2>(fifth),
                _mm256_srli_epi16::<3>(fifth),
            ];
            (_mm256_set1_epi8(0x10), shifted)
        }
        6 => {
            let (p, q) = (load(unit, 256 + 32 * half), load(unit, 320 + 32 * half));
            let shifted = [
                _mm256_slli_epi16::<4>(p),
                _mm256_slli_epi16::<2>(p),
                p,
                _mm256_srli_epi16::<2>(p),
                _mm256_slli_epi16::<4>(q),
                _mm256_slli_epi16::<2>(q),
                q,
                _mm256_srli_epi16::<2>(q),
            ];
            (_mm256_set1_epi8(0x30), shifted)
        }
        _ => return groups,
    };
    for g in 0..8 {
        groups[g] = _mm256_or_si256(_mm256_and_si256(shifted[g], mask), groups[g]);
    }
    groups
}

/// `sums` plus the products of the groups `FROM..TO` of `BITS`-bit codes with words of 4 activations.
///
/// The 16-bit sums cannot overflow: `step` products of pairs, each at most 2·127·(2^BITS − 1), stay below 2^15.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<const BITS: usize, const FROM: usize, const TO: usize>(
    mut sums: __m256i,
    groups: &[__m256i; 8],
    words: &[i32; 8],
) -> __m256i {
    let step = match BITS {
        4 => 8,
        5 => 4,
        _ => 2,
    };
    let ones = _mm256_set1_epi16(1);
    let mut pairs = _mm256_setzero_si256();
    for g in FROM..TO {
        let x = _mm256_set1_epi32(words[g]);
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(groups[g], x));
        if (g + 1 - FROM).is_multiple_of(step) || g + 1 == TO {
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, ones));
            pairs = _mm256_setzero_si256();
        }
    }
    sums
}

/// The products of 8-bit codes less 128 with words of 4 activations.
///
/// A code less 128 is a signed weight; its sign moves to the activation, and the pairs are at most 2·128·127 < 2^15.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_bytes(groups: &[__m256i; 8], words: &[i32; 8]) -> __m256i {
    let mut sums = _mm256_setzero_si256();
    for g in 0..8 {
        let weights = _mm256_xor_si256(groups[g], _mm256_set1_epi8(i8::MIN));
        let x = _mm256_sign_epi8(_mm256_set1_epi32(words[g]), weights);
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), x);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn simple<F: Simple, const M: usize>(panel: &[u8], mut rows: [&[Block32]; M]) -> [[f32; ROWS]; M] {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    let bytes = F::CODES + if F::MINIMUM { 2 * SCALE_BYTES } else { SCALE_BYTES };
    let blocks = panel.len() / bytes;
    for row in &mut rows {
        *row = &row[..blocks];
    }
    for index in 0..blocks {
        let block = &panel[index * bytes..][..bytes];
        if M == 1 {
            fetch_behind(block);
        }
        for half in 0..2 {
            let groups = match F::BITS {
                4 => unpack::<4>(block, half),
                5 => unpack::<5>(block, half),
                _ => unpack::<8>(block, half),
            };
            let d = load_scales(block, F::CODES, half);
            for m in 0..M {
                let x = &rows[m][index];
                let start = match F::OFFSET {
                    Some(power) => _mm256_set1_epi32(x.minus_sum << power),
                    None => _mm256_setzero_si256(),
                };
                let dots = match F::BITS {
                    4 => dot::<4, 0, 8>(start, &groups, &x.words),
                    5 => dot::<5, 0, 8>(start, &groups, &x.words),
                    _ => dot_bytes(&groups, &x.words),
                };
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(x.scale));
                let sum = &mut sums[m][half];
                *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, *sum);
                if F::MINIMUM {
                    let minimum = load_scales(block, F::CODES + SCALE_BYTES, half);
                    *sum = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x.sum), *sum);
                }
            }
        }
    }
    store(&sums)
}

/// The 8-bit scales (or minima) of the parts `2·pair` and `2·pair + 1` of half the rows, side by side as 16-bit
/// numbers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_pair(bytes: &[u8], at: usize, pair: usize, half: usize) -> __m256i {
    _mm256_cvtepi8_epi16(load_half(bytes, at + 2 * ROWS * pair + 16 * half))
}

/// Scales (or minima) times the sums of activations, over all parts.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_sums<F: Nested>(block: &[u8], at: usize, x: &Block256, half: usize) -> __m256i {
    let mut sums = _mm256_setzero_si256();
    for pair in 0..128 / F::PART {
        let word = if F::PART == 16 { x.sums_of_16[pair] } else { x.sums_of_32[pair] };
        let factors = load_pair(block, at, pair, half);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(factors, _mm256_set1_epi32(word)));
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nested<F: Nested, const M: usize>(panel: &[u8], mut rows: [&[Block256]; M]) -> [[f32; ROWS]; M] {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    let bytes = F::SCALE + if F::MINIMUM { 2 * SCALE_BYTES } else { SCALE_BYTES };
    let blocks = panel.len() / bytes;
    for row in &mut rows {
        *row = &row[..blocks];
    }
    for index in 0..blocks {
        let block = &panel[index * bytes..][..bytes];
        if M == 1 {
            fetch_behind(block);
        }
        for half in 0..2 {
            let scaled = scaled_dots::<F, M>(block, &rows, index, half);
            let d = load_scales(block, F::SCALE, half);
            for m in 0..M {
                let x = &rows[m][index];
                let mut dots = scaled[m];
                if let Some(power) = F::OFFSET {
                    let offset = dot_sums::<F>(block, F::PART_SCALES, x, half);
                    let offset = _mm256_sll_epi32(offset, _mm_cvtsi32_si128(power.cast_signed()));
                    dots = _mm256_sub_epi32(dots, offset);
                }
                let scale = _mm256_mul_ps(d, _mm256_set1_ps(x.scale));
                let sum = &mut sums[m][half];
                *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scale, *sum);
                if F::MINIMUM {
                    let at = F::PART_SCALES + F::PART_SCALE_BYTES;
                    let shifts = dot_sums::<F>(block, at, x, half);
                    let dmin = load_scales(block, F::SCALE + SCALE_BYTES, half);
                    let scale = _mm256_mul_ps(dmin, _mm256_set1_ps(x.scale));
                    *sum = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(shifts), scale, *sum);
                }
            }
        }
    }
    store(&sums)
}

/// The sums over the parts of a block of scale times product of codes, for half the rows of the panel.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scaled_dots<F: Nested, const M: usize>(
    block: &[u8],
    rows: &[&[Block256]; M],
    index: usize,
    half: usize,
) -> [__m256i; M] {
    let mut scaled = [_mm256_setzero_si256(); M];
    for unit in 0..8 {
        let codes = &block[unit * F::UNIT..][..F::UNIT];
        let groups = match F::BITS {
            4 => unpack::<4>(codes, half),
            5 => unpack::<5>(codes, half),
            _ => unpack::<6>(codes, half),
        };
        let pair = load_pair(block, F::PART_SCALES, unit * UNIT / F::PART / 2, half);
        let even = _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(pair));
        let odd = _mm256_srai_epi32::<16>(pair);
        for m in 0..M {
            let words = &rows[m][index].words[unit];
            if F::PART == 16 {
                let first = _mm256_mullo_epi32(part_dot::<F, 0, 4>(&groups, words), even);
                let second = _mm256_mullo_epi32(part_dot::<F, 4, 8>(&groups, words), odd);
                scaled[m] = _mm256_add_epi32(scaled[m], _mm256_add_epi32(first, second));
            } else {
                let scale = if unit % 2 == 0 { even } else { odd };
                let dots = _mm256_mullo_epi32(part_dot::<F, 0, 8>(&groups, words), scale);
                scaled[m] = _mm256_add_epi32(scaled[m], dots);
            }
        }
    }
    scaled
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn part_dot<F: Nested, const FROM: usize, const TO: usize>(
    groups: &[__m256i; 8],
    words: &[i32; 8],
) -> __m256i {
    let zero = _mm256_setzero_si256();
    match F::BITS {
        4 => dot::<4, FROM, TO>(zero, groups, words),
        5 => dot::<5, FROM, TO>(zero, groups, words),
        _ => dot::<6, FROM, TO>(zero, groups, words),
    }
}
