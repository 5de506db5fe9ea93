//! The kernels for AVX2, FMA and F16C. Loops are plain for the reason given in [`super::avx512`].

#![expect(
    clippy::needless_range_loop,
    reason = "loops over registers read as what they compile to"
)]

use std::arch::x86_64::*;

use hindsight_protocol::geometry::KvDtype;

use super::codes::{self, Bytes};
use super::{CODE_WORDS, GroupQuery, ROWS, dense, fetch, four_of, scalar};

/// Heads that are scored together at most: with [`ROWS`] rows their sums fill three quarters of the registers.
const HEADS: usize = 3;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn score_rows(
    dtype: KvDtype,
    query: &GroupQuery,
    rows: &[&[u16]],
    ahead: &[&[u16]],
    out: &mut [f32],
    stride: usize,
) {
    match dtype {
        KvDtype::F16 => score_format::<true>(query, rows, ahead, out, stride),
        KvDtype::Bf16 => score_format::<false>(query, rows, ahead, out, stride),
    }
}

/// Scores of half-precision keys if `F16`, else of bfloat16 keys.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn score_format<const F16: bool>(
    query: &GroupQuery,
    rows: &[&[u16]],
    ahead: &[&[u16]],
    out: &mut [f32],
    stride: usize,
) {
    let group = query.group();
    let together = group.div_ceil(group.div_ceil(HEADS));
    let mut ahead = ahead.chunks(ROWS);
    for (batch, column) in rows.chunks(ROWS).zip((0..).step_by(ROWS)) {
        for row in ahead.next().unwrap_or_default() {
            fetch(row);
        }
        let four = four_of(batch);
        for first in (0..group).step_by(together) {
            let heads = together.min(group - first);
            let sums = match heads {
                1 => score_tile::<F16, 1>(query, first, four),
                2 => score_tile::<F16, 2>(query, first, four),
                _ => score_tile::<F16, 3>(query, first, four),
            };
            for head in 0..heads {
                let out = &mut out[(first + head) * stride + column..];
                match out.first_chunk_mut() {
                    Some(out) if batch.len() == ROWS => *out = sums[head],
                    _ => out[..batch.len()].copy_from_slice(&sums[head][..batch.len()]),
                }
            }
        }
    }
}

/// Scores of [`ROWS`] keys for `H` heads from `first` on: [H, ROWS], in the first rows of a larger matrix.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn score_tile<const F16: bool, const H: usize>(
    query: &GroupQuery,
    first: usize,
    rows: [&[u16]; ROWS],
) -> [[f32; ROWS]; HEADS] {
    let dim = query.head_dim();
    let values = &query.values()[first * dim..][..H * dim];
    let mut sums = [[_mm256_setzero_ps(); ROWS]; H];
    for at in (0..dim).step_by(8) {
        let mut queries = [_mm256_setzero_ps(); H];
        for head in 0..H {
            // SAFETY: each head has `dim` elements, a multiple of 16, so 8 lie behind `at`.
            queries[head] = unsafe { _mm256_loadu_ps(values.as_ptr().add(head * dim + at)) };
        }
        for row in 0..ROWS {
            // SAFETY: as above, for the row's elements.
            let words = unsafe { _mm_loadu_si128(rows[row].as_ptr().add(at).cast()) };
            let keys = if F16 {
                _mm256_cvtph_ps(words)
            } else {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(words)))
            };
            for head in 0..H {
                sums[head][row] = _mm256_fmadd_ps(queries[head], keys, sums[head][row]);
            }
        }
    }
    let mut out = [[0.0; ROWS]; HEADS];
    for head in 0..H {
        // SAFETY: `out[head]` has room for four floats.
        unsafe { _mm_storeu_ps(out[head].as_mut_ptr(), lanes_sums(sums[head])) };
    }
    out
}

/// The sums over the lanes of each of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes_sums(vectors: [__m256; 4]) -> __m128 {
    let [a, b, c, d] = vectors;
    let halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves))
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes_sum(vector: __m256) -> f32 {
    let half = _mm_add_ps(_mm256_castps256_ps128(vector), _mm256_extractf128_ps::<1>(vector));
    let pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
}

/// `exp(x)` for `x` ≤ 88; 0 below the smallest normal number.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn exp(x: __m256) -> __m256 {
    let lowest = _mm256_set1_ps(-87.0);
    let tiny = _mm256_cmp_ps::<_CMP_LT_OQ>(x, lowest);
    let x = _mm256_max_ps(x, lowest);
    let power = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
        _mm256_mul_ps(x, _mm256_set1_ps(std::f32::consts::LOG2_E)),
    );
    let rest = _mm256_fnmadd_ps(power, _mm256_set1_ps(super::LN_2_HIGH), x);
    let rest = _mm256_fnmadd_ps(power, _mm256_set1_ps(super::LN_2_LOW), rest);
    let mut polynomial = _mm256_set1_ps(super::EXP_POLYNOMIAL[0]);
    for &coefficient in &super::EXP_POLYNOMIAL[1..] {
        polynomial = _mm256_fmadd_ps(polynomial, rest, _mm256_set1_ps(coefficient));
    }
    let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127));
    let scale = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
    _mm256_andnot_ps(tiny, _mm256_mul_ps(polynomial, scale))
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn exponentiate(scores: &mut [f32]) -> (f32, f32) {
    let (parts, rest) = scores.as_chunks_mut::<8>();
    let mut largest = _mm256_set1_ps(f32::NEG_INFINITY);
    for part in &*parts {
        // SAFETY: the part has 8 elements.
        largest = _mm256_max_ps(unsafe { _mm256_loadu_ps(part.as_ptr()) }, largest);
    }
    let mut lanes = [0.0; 8];
    // SAFETY: `lanes` has room for 8 floats.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), largest) };
    let max = lanes.iter().chain(&*rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = _mm256_setzero_ps();
    for part in parts {
        // SAFETY: the part has 8 elements.
        unsafe {
            let scores = _mm256_loadu_ps(part.as_ptr());
            let shares = exp(_mm256_sub_ps(scores, _mm256_set1_ps(max)));
            _mm256_storeu_ps(part.as_mut_ptr(), shares);
            sum = _mm256_add_ps(sum, shares);
        }
    }
    (max, lanes_sum(sum) + scalar::exponentiate_from(rest, max))
}

/// A row, and its largest number in all lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn load_row(row: &[f32; CODE_WORDS]) -> ([__m256; 2], __m256) {
    // SAFETY: a row has 16 elements.
    let halves = unsafe { [_mm256_loadu_ps(row.as_ptr()), _mm256_loadu_ps(row.as_ptr().add(8))] };
    let most = _mm256_max_ps(halves[0], halves[1]);
    let most = _mm256_max_ps(most, _mm256_permute2f128_ps::<1>(most, most));
    let most = _mm256_max_ps(most, _mm256_permute_ps::<0b01_00_11_10>(most));
    (halves, _mm256_max_ps(most, _mm256_permute_ps::<0b10_11_00_01>(most)))
}

#[target_feature(enable = "avx2")]
pub(super) fn sum_of_largest(rows: &[[f32; CODE_WORDS]]) -> f32 {
    let mut sum = 0.0;
    for row in rows {
        sum += _mm256_cvtss_f32(load_row(row).1);
    }
    sum
}

#[target_feature(enable = "avx2")]
pub(super) fn units_below_largest(
    rows: &[[f32; CODE_WORDS]],
    per_unit: f32,
    tables: &mut [[u8; CODE_WORDS]],
) {
    let (per_unit, half) = (_mm256_set1_ps(per_unit), _mm256_set1_ps(0.5));
    for (row, table) in rows.iter().zip(tables) {
        let (halves, most) = load_row(row);
        let mut units = [_mm256_setzero_si256(); 2];
        for at in 0..2 {
            let below = _mm256_mul_ps(_mm256_sub_ps(most, halves[at]), per_unit);
            let rounded = _mm256_min_ps(_mm256_add_ps(below, half), _mm256_set1_ps(255.0));
            units[at] = _mm256_cvttps_epi32(rounded);
        }
        // In each half of the register the words of both halves of the row: the middle two change places.
        let words = _mm256_packus_epi32(units[0], units[1]);
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        // SAFETY: a table has 16 entries.
        unsafe { _mm_storeu_si128(table.as_mut_ptr().cast(), _mm_packus_epi16(low, high)) };
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn scan_codes(
    codes: &[u8],
    tables: &[[u8; CODE_WORDS]],
    best: &[u8],
    join: &[u8; 16],
    ranks: &mut [u8],
) {
    codes::scan(Vectors(()), codes, tables, best, join, ranks);
}

/// Proof that the processor has what [`scan_codes`] is compiled for.
#[derive(Clone, Copy)]
struct Vectors(());

impl Bytes for Vectors {
    const LANES: usize = 32;
    type Vector = __m256i;

    codes::operations! {
        fn splat(byte: u8) -> __m256i = _mm256_set1_epi8(byte.cast_signed());
        fn and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        fn look_up(table: __m256i, index: __m256i) -> __m256i = _mm256_shuffle_epi8(table, index);
        fn add(a: __m256i, b: __m256i) -> __m256i = _mm256_adds_epu8(a, b);
        fn subtract(a: __m256i, b: __m256i) -> __m256i = _mm256_subs_epu8(a, b);
        fn max(a: __m256i, b: __m256i) -> __m256i = _mm256_max_epu8(a, b);
        fn min(a: __m256i, b: __m256i) -> __m256i = _mm256_min_epu8(a, b);
        fn repeat(table: &[u8; CODE_WORDS]) -> __m256i =
            _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
    }

    #[inline(always)]
    fn shift<const BITS: u32>(self, a: __m256i) -> __m256i {
        // SAFETY: as for the operations above.
        unsafe { _mm256_srl_epi16(a, _mm_cvtsi32_si128(BITS.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const u8) -> __m256i {
        // SAFETY: the token proves the instruction set, the caller promises 32 readable bytes.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8, a: __m256i) {
        // SAFETY: the token proves the instruction set, the caller promises 32 writable bytes.
        unsafe { _mm256_storeu_si256(to.cast(), a) }
    }
}

/// The bits of the 32 ranks in `part` that are at least `cut`.
#[inline]
#[target_feature(enable = "avx2")]
fn at_least(part: &[u8; 32], cut: __m256i) -> u32 {
    // SAFETY: the part has 32 bytes.
    let ranks = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
    let reached = _mm256_cmpeq_epi8(_mm256_max_epu8(ranks, cut), ranks);
    _mm256_movemask_epi8(reached).cast_unsigned()
}

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn count_at_least(ranks: &[u8], cut: u8) -> usize {
    let (parts, tail) = ranks.as_chunks::<32>();
    let wide = _mm256_set1_epi8(cut.cast_signed());
    let mut count = scalar::count_at_least(tail, cut);
    for part in parts {
        count += at_least(part, wide).count_ones() as usize;
    }
    count
}

#[target_feature(enable = "avx2,bmi1")]
pub(super) fn collect_at_least(ranks: &[u8], cut: u8, first: u32, out: &mut Vec<u32>) {
    let (parts, tail) = ranks.as_chunks::<32>();
    let wide = _mm256_set1_epi8(cut.cast_signed());
    let mut at = first;
    for part in parts {
        let mut bits = at_least(part, wide);
        while bits != 0 {
            out.push(at + bits.trailing_zeros());
            bits &= bits - 1;
        }
        at += 32;
    }
    scalar::collect_at_least(tail, cut, at, out);
}

/// The bits of the eight weights in `part` that are not below `floor`.
#[inline]
#[target_feature(enable = "avx2")]
fn not_below(part: &[f32; 8], floor: __m256) -> u32 {
    // SAFETY: the part has 8 elements.
    let weights = unsafe { _mm256_loadu_ps(part.as_ptr()) };
    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(weights, floor)).cast_unsigned()
}

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn count_not_below(weights: &[f32], floor: f32) -> usize {
    let (parts, tail) = weights.as_chunks::<8>();
    let wide = _mm256_set1_ps(floor);
    let mut count = scalar::count_not_below(tail, floor);
    for part in parts {
        count += not_below(part, wide).count_ones() as usize;
    }
    count
}

#[target_feature(enable = "avx2,bmi1")]
pub(super) fn keep_not_below(weights: &[f32], floor: f32, out: &mut Vec<f32>) {
    let (parts, tail) = weights.as_chunks::<8>();
    let wide = _mm256_set1_ps(floor);
    for part in parts {
        let mut bits = not_below(part, wide);
        while bits != 0 {
            out.push(part[bits.trailing_zeros() as usize]);
            bits &= bits - 1;
        }
    }
    scalar::keep_not_below(tail, floor, out);
}

#[target_feature(enable = "avx2,bmi1")]
pub(super) fn pick_not_below(weights: &[f32], floor: f32, tokens: &[u32], out: &mut Vec<u32>) {
    let (parts, tail) = weights.as_chunks::<8>();
    let wide = _mm256_set1_ps(floor);
    for (part, tokens) in parts.iter().zip(tokens.chunks_exact(8)) {
        let mut bits = not_below(part, wide);
        while bits != 0 {
            out.push(tokens[bits.trailing_zeros() as usize]);
            bits &= bits - 1;
        }
    }
    scalar::pick_not_below(tail, floor, &tokens[8 * parts.len()..], out);
}

dense::compile!(true, "avx2,fma");

#[target_feature(enable = "avx2")]
pub(super) fn read(words: &[u16], ahead: &[u16]) -> u64 {
    let mut sums = [_mm256_setzero_si256(); 2];
    let mut fetched = ahead.chunks(32);
    for part in words.chunks_exact(32) {
        fetch(fetched.next().unwrap_or(&[]));
        for half in 0..2 {
            // SAFETY: the part has two vectors of 16 words.
            let vector = unsafe { _mm256_loadu_si256(part.as_ptr().add(16 * half).cast()) };
            sums[half] = _mm256_add_epi64(sums[half], vector);
        }
    }
    let mut lanes = [0_u64; 4];
    let sum = _mm256_add_epi64(sums[0], sums[1]);
    // SAFETY: `lanes` has 32 bytes.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum) };
    lanes.iter().fold(0, |total, lane| total.wrapping_add(*lane))
}
