//! AVX-512 with VNNI: one 512-bit vector is a group of 4 columns of all 16 rows, `vpdpbusd` multiplies it with 4
//! activations, and lane `r` is row `r` from beginning to end.
//!
//! The loops are plain `for` over indices: adapters that take closures are compiled without the features of this
//! module, so its vector code would not be inlined into them.

#![expect(clippy::needless_range_loop, reason = "adapters would not be inlined")]

use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::ahead::fetch_behind;
use super::{Isa, quantize};
use crate::matmul::activations::{Block32, Block256};
use crate::matmul::format::{Nested, Simple};
use crate::matmul::layout::{ROWS, SCALE_BYTES, UNIT};

/// A processor with AVX-512 F, BW, VL and VNNI, and F16C.
#[derive(Debug, Clone, Copy)]
pub(in crate::matmul) struct Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }

    pub(super) fn quantize_32(self, x: &[[f32; 32]], blocks: &mut [Block32]) {
        // SAFETY: a value of `Avx512` proves the features.
        unsafe { quantize_32(x, blocks) }
    }

    pub(super) fn quantize_256(self, x: &[[f32; 256]], blocks: &mut [Block256]) {
        // SAFETY: a value of `Avx512` proves the features.
        unsafe { quantize_256(x, blocks) }
    }
}

impl Isa for Avx512 {
    const BATCH: usize = 8;

    #[inline]
    fn simple<F: Simple, const M: usize>(
        self,
        panel: &[u8],
        rows: [&[Block32]; M],
    ) -> [[f32; ROWS]; M] {
        // SAFETY: a value of `Avx512` proves the features.
        unsafe { simple::<F, M>(panel, rows) }
    }

    #[inline]
    fn nested<F: Nested, const M: usize>(
        self,
        panel: &[u8],
        rows: [&[Block256]; M],
    ) -> [[f32; ROWS]; M] {
        // SAFETY: a value of `Avx512` proves the features.
        unsafe { nested::<F, M>(panel, rows) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn quantize_32(x: &[[f32; 32]], blocks: &mut [Block32]) {
    quantize::blocks_32(x, blocks);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn quantize_256(x: &[[f32; 256]], blocks: &mut [Block256]) {
    quantize::blocks_256(x, blocks);
}

/// The 64 bytes at `at`, loaded after those that were asked for before.
///
/// Left to itself the compiler loads a block from its end, and unrolls units in that order too; the processor then sees
/// no stream to run ahead of, and a product with one row falls to less than half of the memory bandwidth.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn load(bytes: &[u8], at: usize) -> __m512i {
    let bytes = &bytes[at..at + 64];
    // SAFETY: `bytes` has 64 bytes.
    let loaded = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
    compiler_fence(Ordering::SeqCst);
    loaded
}

/// The 32 bytes at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn load_half(bytes: &[u8], at: usize) -> __m256i {
    let bytes = &bytes[at..at + 32];
    // SAFETY: `bytes` has 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The 16-bit floats of 16 rows at `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn load_scales(bytes: &[u8], at: usize) -> __m512 {
    _mm512_cvtph_ps(load_half(bytes, at))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn store<const M: usize>(sums: &[__m512; M]) -> [[f32; ROWS]; M] {
    let mut out = [[0.0; ROWS]; M];
    for m in 0..M {
        // SAFETY: `out[m]` has room for 16 floats.
        unsafe { _mm512_storeu_ps(out[m].as_mut_ptr(), sums[m]) };
    }
    out
}

/// The 8 groups of a unit of `BITS`-bit codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn unpack<const BITS: usize>(unit: &[u8]) -> [__m512i; 8] {
    let mut groups = [_mm512_setzero_si512(); 8];
    if BITS == 8 {
        for g in 0..8 {
            groups[g] = load(unit, 64 * g);
        }
        return groups;
    }
    let low = _mm512_set1_epi8(0x0f);
    for g in 0..4 {
        let plane = load(unit, 64 * g);
        groups[g] = _mm512_and_si512(plane, low);
        groups[g + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(plane), low);
    }
    // Bits shifted into a neighbouring byte fall outside of `mask`.
    let (mask, shifted) = match BITS {
        5 => {
            let fifth = load(unit, 256);
            let shifted = [
                _mm512_slli_epi16::<4>(fifth),
                _mm512_slli_epi16::<3>(fifth),
                _mm512_slli_epi16::<2>(fifth),
                _mm512_slli_epi16::<1>(fifth),
                fifth,
                _mm512_srli_epi16::<1>(fifth),
                _mm512_srli_epi16::<2>(fifth),
                _mm512_srli_epi16::<3>(fifth),
            ];
            (_mm512_set1_epi8(0x10), shifted)
        }
        6 => {
            let (p, q) = (load(unit, 256), load(unit, 320));
            let shifted = [
                _mm512_slli_epi16::<4>(p),
                _mm512_slli_epi16::<2>(p),
                p,
                _mm512_srli_epi16::<2>(p),
                _mm512_slli_epi16::<4>(q),
                _mm512_slli_epi16::<2>(q),
                q,
                _mm512_srli_epi16::<2>(q),
            ];
            (_mm512_set1_epi8(0x30), shifted)
        }
        _ => return groups,
    };
    for g in 0..8 {
        // shifted & mask | code
        groups[g] = _mm512_ternarylogic_epi32::<0xea>(shifted[g], mask, groups[g]);
    }
    groups
}

/// `sums` plus the products of the groups `FROM..TO` with words of 4 activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn dot<const FROM: usize, const TO: usize>(
    mut sums: __m512i,
    groups: &[__m512i; 8],
    words: &[i32; 8],
) -> __m512i {
    for g in FROM..TO {
        sums = _mm512_dpbusd_epi32(sums, groups[g], _mm512_set1_epi32(words[g]));
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn simple<F: Simple, const M: usize>(panel: &[u8], mut rows: [&[Block32]; M]) -> [[f32; ROWS]; M] {
    let mut sums = [_mm512_setzero_ps(); M];
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
        let groups = match F::BITS {
            4 => unpack::<4>(block),
            5 => unpack::<5>(block),
            _ => unpack::<8>(block),
        };
        let d = load_scales(block, F::CODES);
        for m in 0..M {
            let x = &rows[m][index];
            let start = match F::OFFSET {
                Some(power) => _mm512_set1_epi32(x.minus_sum << power),
                None => _mm512_setzero_si512(),
            };
            let dots = dot::<0, 8>(start, &groups, &x.words);
            let scale = _mm512_mul_ps(d, _mm512_set1_ps(x.scale));
            sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, sums[m]);
            if F::MINIMUM {
                let minimum = load_scales(block, F::CODES + SCALE_BYTES);
                sums[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x.sum), sums[m]);
            }
        }
    }
    store(&sums)
}

/// The 8-bit scales (or minima) of the parts `2·pair` and `2·pair + 1` of 16 rows, side by side as 16-bit numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn load_pair(bytes: &[u8], at: usize, pair: usize) -> __m512i {
    _mm512_cvtepi8_epi16(load_half(bytes, at + 2 * ROWS * pair))
}

/// Scales (or minima) times the sums of activations, over all parts.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn dot_sums<F: Nested>(block: &[u8], at: usize, x: &Block256) -> __m512i {
    let mut sums = _mm512_setzero_si512();
    for pair in 0..128 / F::PART {
        let word = if F::PART == 16 { x.sums_of_16[pair] } else { x.sums_of_32[pair] };
        sums = _mm512_dpwssd_epi32(sums, load_pair(block, at, pair), _mm512_set1_epi32(word));
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
fn nested<F: Nested, const M: usize>(panel: &[u8], mut rows: [&[Block256]; M]) -> [[f32; ROWS]; M] {
    let zero = _mm512_setzero_si512();
    let mut sums = [_mm512_setzero_ps(); M];
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
        let mut scaled = [zero; M];
        for unit in 0..8 {
            let codes = &block[unit * F::UNIT..][..F::UNIT];
            let groups = match F::BITS {
                4 => unpack::<4>(codes),
                5 => unpack::<5>(codes),
                _ => unpack::<6>(codes),
            };
            let pair = load_pair(block, F::PART_SCALES, unit * UNIT / F::PART / 2);
            let even = _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(pair));
            let odd = _mm512_srai_epi32::<16>(pair);
            for m in 0..M {
                let words = &rows[m][index].words[unit];
                if F::PART == 16 {
                    let first = _mm512_mullo_epi32(dot::<0, 4>(zero, &groups, words), even);
                    let second = _mm512_mullo_epi32(dot::<4, 8>(zero, &groups, words), odd);
                    scaled[m] = _mm512_add_epi32(scaled[m], _mm512_add_epi32(first, second));
                } else {
                    let scale = if unit % 2 == 0 { even } else { odd };
                    let dots = _mm512_mullo_epi32(dot::<0, 8>(zero, &groups, words), scale);
                    scaled[m] = _mm512_add_epi32(scaled[m], dots);
                }
            }
        }
        let d = load_scales(block, F::SCALE);
        for m in 0..M {
            let x = &rows[m][index];
            let mut dots = scaled[m];
            if let Some(power) = F::OFFSET {
                let offset = dot_sums::<F>(block, F::PART_SCALES, x);
                let offset = _mm512_sll_epi32(offset, _mm_cvtsi32_si128(power.cast_signed()));
                dots = _mm512_sub_epi32(dots, offset);
            }
            let scale = _mm512_mul_ps(d, _mm512_set1_ps(x.scale));
            sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, sums[m]);
            if F::MINIMUM {
                let shifts = dot_sums::<F>(block, F::PART_SCALES + F::PART_SCALE_BYTES, x);
                let dmin = load_scales(block, F::SCALE + SCALE_BYTES);
                let scale = _mm512_mul_ps(dmin, _mm512_set1_ps(x.scale));
                sums[m] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(shifts), scale, sums[m]);
            }
        }
    }
    store(&sums)
}
