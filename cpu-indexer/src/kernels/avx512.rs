//! The kernels for AVX-512 (F, BW, VL, DQ, BF16).
//!
//! Loops are plain: a closure that an iterator's or array's own method calls would not be compiled for AVX-512 together
//! with that method, so that every vector would pass through memory.

#![expect(
    clippy::needless_range_loop,
    reason = "loops over registers read as what they compile to"
)]

use std::arch::x86_64::*;

use hindsight_protocol::geometry::KvDtype;

use super::codes::{self, Bytes};
use super::{CODE_WORDS, GroupQuery, ROWS, dense, four_of, prefetch, scalar};

/// Heads that are scored together: with [`ROWS`] rows they fill half of the registers with sums.
const HEADS: usize = 4;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn score_rows(
    dtype: KvDtype,
    query: &GroupQuery,
    rows: &[&[u16]],
    ahead: &[&[u16]],
    out: &mut [f32],
    stride: usize,
) {
    let mut ahead = ahead.chunks(ROWS);
    for (batch, column) in rows.chunks(ROWS).zip((0..).step_by(ROWS)) {
        let four = four_of(batch);
        // Once there is nothing to fetch, asking for what is being read anyway costs next to nothing.
        let mut next = four_of(ahead.next().unwrap_or(batch));
        for first in (0..query.group()).step_by(HEADS) {
            let heads = HEADS.min(query.group() - first);
            let sums = match (dtype, heads) {
                (KvDtype::F16, 1) => widened::<1>(query, first, four, next),
                (KvDtype::F16, 2) => widened::<2>(query, first, four, next),
                (KvDtype::F16, 3) => widened::<3>(query, first, four, next),
                (KvDtype::F16, _) => widened::<4>(query, first, four, next),
                (KvDtype::Bf16, 1) => paired::<1>(query, first, four, next),
                (KvDtype::Bf16, 2) => paired::<2>(query, first, four, next),
                (KvDtype::Bf16, 3) => paired::<3>(query, first, four, next),
                (KvDtype::Bf16, _) => paired::<4>(query, first, four, next),
            };
            next = four;
            for head in 0..heads {
                out[(first + head) * stride + column..][..batch.len()]
                    .copy_from_slice(&sums[head * ROWS..][..batch.len()]);
            }
        }
    }
}

/// Scores of [`ROWS`] half-precision keys for `H` heads, [H, ROWS], by widening each key to single precision.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn widened<const H: usize>(
    query: &GroupQuery,
    first: usize,
    rows: [&[u16]; ROWS],
    ahead: [&[u16]; ROWS],
) -> [f32; HEADS * ROWS] {
    let dim = query.head_dim();
    let values = &query.values()[first * dim..][..H * dim];
    let mut sums = [_mm512_setzero_ps(); HEADS * ROWS];
    for at in (0..dim).step_by(16) {
        let mut keys = [_mm512_setzero_ps(); ROWS];
        for row in 0..ROWS {
            if at % 32 == 0 {
                prefetch(&ahead[row][at..at + 16]);
            }
            // SAFETY: the dimension is a multiple of 16 and each row has that many elements, so 16 lie behind `at`.
            let halves = unsafe { _mm256_loadu_si256(rows[row].as_ptr().add(at).cast()) };
            keys[row] = _mm512_cvtph_ps(halves);
        }
        for head in 0..H {
            // SAFETY: as above, for the query's elements.
            let part = unsafe { _mm512_loadu_ps(values.as_ptr().add(head * dim + at)) };
            for row in 0..ROWS {
                let sum = &mut sums[head * ROWS + row];
                *sum = _mm512_fmadd_ps(part, keys[row], *sum);
            }
        }
    }
    reduce(sums)
}

/// Scores of [`ROWS`] bfloat16 keys for `H` heads, [H, ROWS], by the dot product of pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn paired<const H: usize>(
    query: &GroupQuery,
    first: usize,
    rows: [&[u16]; ROWS],
    ahead: [&[u16]; ROWS],
) -> [f32; HEADS * ROWS] {
    let dim = query.head_dim();
    let rounded = &query.rounded()[first * dim..][..H * dim];
    let mut sums = [_mm512_setzero_ps(); HEADS * ROWS];
    for at in (0..dim).step_by(32) {
        let mask: __mmask32 = if dim - at >= 32 { u32::MAX } else { 0xffff };
        let mut keys = [_mm512_setzero_si512(); ROWS];
        for row in 0..ROWS {
            prefetch(&ahead[row][at..at + 16]);
            // SAFETY: the mask leaves out what lies behind the row's end.
            keys[row] =
                unsafe { _mm512_maskz_loadu_epi16(mask, rows[row].as_ptr().add(at).cast()) };
        }
        for head in 0..H {
            // SAFETY: as above, for the query's elements.
            let part = unsafe {
                _mm512_maskz_loadu_epi16(mask, rounded.as_ptr().add(head * dim + at).cast())
            };
            for row in 0..ROWS {
                let sum = &mut sums[head * ROWS + row];
                *sum = _mm512_dpbf16_ps(*sum, as_bf16(part), as_bf16(keys[row]));
            }
        }
    }
    reduce(sums)
}

#[inline]
fn as_bf16(words: __m512i) -> __m512bh {
    // SAFETY: both types are 64 bytes without invalid values.
    unsafe { std::mem::transmute(words) }
}

/// The sums over the lanes of each of sixteen vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn reduce(sums: [__m512; 16]) -> [f32; 16] {
    // Four vectors become one, of whose 128-bit lanes each holds the four partial sums of one of them.
    let mut quarters = [_mm512_setzero_ps(); 4];
    for at in 0..4 {
        let first = halves(sums[4 * at], sums[4 * at + 1]);
        let second = halves(sums[4 * at + 2], sums[4 * at + 3]);
        let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(first, second);
        let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(first, second);
        quarters[at] = _mm512_add_ps(even, odd);
    }
    // Within each 128-bit lane `i`: the sums of vectors i, 4 + i, 8 + i, 12 + i.
    let mixed = pairs(pairs(quarters[0], quarters[1]), pairs(quarters[2], quarters[3]));
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let mut out = [0.0; 16];
    // SAFETY: `out` has room for 16 floats.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_permutexvar_ps(order, mixed)) };
    out
}

/// The sum of the lower and upper half of `a`, then that of `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn halves(a: __m512, b: __m512) -> __m512 {
    let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
    let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b);
    _mm512_add_ps(low, high)
}

/// In each 128-bit lane: the sums of the two pairs of `a`, then those of `b`.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(a: __m512, b: __m512) -> __m512 {
    let even = _mm512_shuffle_ps::<0b10_00_10_00>(a, b);
    let odd = _mm512_shuffle_ps::<0b11_01_11_01>(a, b);
    _mm512_add_ps(even, odd)
}

/// `exp(x)` for `x` ≤ 88; what lies below the smallest normal number is 0 or denormal.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    let x = _mm512_max_ps(x, _mm512_set1_ps(-110.0));
    let power =
        _mm512_roundscale_ps::<8>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(super::LN_2_HIGH), x);
    let rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(super::LN_2_LOW), rest);
    let mut polynomial = _mm512_set1_ps(super::EXP_POLYNOMIAL[0]);
    for &coefficient in &super::EXP_POLYNOMIAL[1..] {
        polynomial = _mm512_fmadd_ps(polynomial, rest, _mm512_set1_ps(coefficient));
    }
    _mm512_scalef_ps(polynomial, power)
}

#[inline]
fn lanes_mask(lanes: usize) -> __mmask16 {
    if lanes >= 16 { u16::MAX } else { (1 << lanes) - 1 }
}

#[target_feature(enable = "avx512f")]
pub(super) fn exponentiate(scores: &mut [f32]) -> (f32, f32) {
    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut largest = lowest;
    for part in scores.chunks(16) {
        // SAFETY: the mask leaves out what lies behind the slice's end.
        let part = unsafe { _mm512_mask_loadu_ps(lowest, lanes_mask(part.len()), part.as_ptr()) };
        largest = _mm512_max_ps(largest, part);
    }
    let max = _mm512_reduce_max_ps(largest);
    let mut sum = _mm512_setzero_ps();
    for part in scores.chunks_mut(16) {
        let mask = lanes_mask(part.len());
        // SAFETY: as above.
        unsafe {
            let scores = _mm512_mask_loadu_ps(lowest, mask, part.as_ptr());
            let shares = exp(_mm512_sub_ps(scores, _mm512_set1_ps(max)));
            _mm512_mask_storeu_ps(part.as_mut_ptr(), mask, shares);
            sum = _mm512_mask_add_ps(sum, mask, sum, shares);
        }
    }
    (max, _mm512_reduce_add_ps(sum))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_row(row: &[f32; CODE_WORDS]) -> __m512 {
    // SAFETY: a row has 16 elements.
    unsafe { _mm512_loadu_ps(row.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
pub(super) fn sum_of_largest(rows: &[[f32; CODE_WORDS]]) -> f32 {
    let mut sum = 0.0;
    for row in rows {
        sum += _mm512_reduce_max_ps(load_row(row));
    }
    sum
}

#[target_feature(enable = "avx512f")]
pub(super) fn units_below_largest(
    rows: &[[f32; CODE_WORDS]],
    per_unit: f32,
    tables: &mut [[u8; CODE_WORDS]],
) {
    let (per_unit, half) = (_mm512_set1_ps(per_unit), _mm512_set1_ps(0.5));
    for (row, table) in rows.iter().zip(tables) {
        let row = load_row(row);
        let below = _mm512_sub_ps(_mm512_set1_ps(_mm512_reduce_max_ps(row)), row);
        let units = _mm512_cvttps_epi32(_mm512_add_ps(_mm512_mul_ps(below, per_unit), half));
        // SAFETY: a table has 16 entries.
        unsafe { _mm_storeu_si128(table.as_mut_ptr().cast(), _mm512_cvtusepi32_epi8(units)) };
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
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
    const LANES: usize = 64;
    type Vector = __m512i;

    codes::operations! {
        fn splat(byte: u8) -> __m512i = _mm512_set1_epi8(byte.cast_signed());
        fn and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        fn look_up(table: __m512i, index: __m512i) -> __m512i = _mm512_shuffle_epi8(table, index);
        fn add(a: __m512i, b: __m512i) -> __m512i = _mm512_adds_epu8(a, b);
        fn subtract(a: __m512i, b: __m512i) -> __m512i = _mm512_subs_epu8(a, b);
        fn max(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epu8(a, b);
        fn min(a: __m512i, b: __m512i) -> __m512i = _mm512_min_epu8(a, b);
        fn repeat(table: &[u8; CODE_WORDS]) -> __m512i =
            _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
    }

    #[inline(always)]
    fn shift<const BITS: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: as for the operations above.
        unsafe { _mm512_srl_epi16(a, _mm_cvtsi32_si128(BITS.cast_signed())) }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const u8) -> __m512i {
        // SAFETY: the token proves the instruction set, the caller promises 64 readable bytes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8, a: __m512i) {
        // SAFETY: the token proves the instruction set, the caller promises 64 writable bytes.
        unsafe { _mm512_storeu_si512(to.cast(), a) }
    }
}

/// The bits of the 64 ranks in `part` that are at least `cut`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn at_least(part: &[u8; 64], cut: __m512i) -> u64 {
    // SAFETY: the part has 64 bytes.
    let ranks = unsafe { _mm512_loadu_si512(part.as_ptr().cast()) };
    _mm512_cmpge_epu8_mask(ranks, cut)
}

#[target_feature(enable = "avx512f,avx512bw,popcnt")]
pub(super) fn count_at_least(ranks: &[u8], cut: u8) -> usize {
    let (parts, tail) = ranks.as_chunks::<64>();
    let mut count = scalar::count_at_least(tail, cut);
    let cut = _mm512_set1_epi8(cut.cast_signed());
    let fours = parts.chunks_exact(4);
    for part in fours.remainder() {
        count += at_least(part, cut).count_ones() as usize;
    }
    let mut counts = [0; 4];
    for four in fours {
        for at in 0..4 {
            counts[at] += at_least(&four[at], cut).count_ones() as usize;
        }
    }
    count + counts[0] + counts[1] + counts[2] + counts[3]
}

#[target_feature(enable = "avx512f,avx512bw,popcnt")]
pub(super) fn collect_at_least(ranks: &[u8], cut: u8, first: u32, out: &mut Vec<u32>) {
    let (parts, tail) = ranks.as_chunks::<64>();
    let wide = _mm512_set1_epi8(cut.cast_signed());
    let ascending = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let mut at = first;
    for part in parts {
        let mut bits = at_least(part, wide);
        let mut quarter = at;
        while bits != 0 {
            let numbers = _mm512_add_epi32(ascending, _mm512_set1_epi32(quarter.cast_signed()));
            push_masked(bits as u16, numbers, out);
            bits >>= 16;
            quarter += 16;
        }
        at += 64;
    }
    scalar::collect_at_least(tail, cut, at, out);
}

/// The bits of the weights in `part` (at most 16) that are not below `floor`.
#[inline]
#[target_feature(enable = "avx512f")]
fn not_below(part: &[f32], floor: __m512) -> u16 {
    let mask = lanes_mask(part.len());
    // SAFETY: the mask leaves out what lies behind the slice's end.
    let weights = unsafe { _mm512_maskz_loadu_ps(mask, part.as_ptr()) };
    _mm512_mask_cmp_ps_mask::<_CMP_GE_OQ>(mask, weights, floor)
}

#[target_feature(enable = "avx512f,popcnt")]
pub(super) fn count_not_below(weights: &[f32], floor: f32) -> usize {
    let floor = _mm512_set1_ps(floor);
    let fours = weights.chunks_exact(64);
    let mut count = 0;
    for part in fours.remainder().chunks(16) {
        count += not_below(part, floor).count_ones() as usize;
    }
    let mut counts = [0; 4];
    for four in fours {
        for at in 0..4 {
            counts[at] += not_below(&four[16 * at..16 * (at + 1)], floor).count_ones() as usize;
        }
    }
    count + counts[0] + counts[1] + counts[2] + counts[3]
}

#[target_feature(enable = "avx512f,bmi1")]
pub(super) fn keep_not_below(weights: &[f32], floor: f32, out: &mut Vec<f32>) {
    let floor = _mm512_set1_ps(floor);
    for part in weights.chunks(16) {
        let mut bits = not_below(part, floor);
        while bits != 0 {
            out.push(part[bits.trailing_zeros() as usize]);
            bits &= bits - 1;
        }
    }
}

#[target_feature(enable = "avx512f,popcnt")]
pub(super) fn pick_not_below(weights: &[f32], floor: f32, tokens: &[u32], out: &mut Vec<u32>) {
    let floor = _mm512_set1_ps(floor);
    for (part, tokens) in weights.chunks(16).zip(tokens.chunks(16)) {
        let picked = not_below(part, floor);
        // SAFETY: the mask leaves out what lies behind the slice's end.
        let tokens =
            unsafe { _mm512_maskz_loadu_epi32(lanes_mask(tokens.len()), tokens.as_ptr().cast()) };
        push_masked(picked, tokens, out);
    }
}

/// Appends the numbers in the lanes that `picked` names.
#[inline]
#[target_feature(enable = "avx512f,popcnt")]
fn push_masked(picked: u16, numbers: __m512i, out: &mut Vec<u32>) {
    let count = picked.count_ones() as usize;
    let packed = _mm512_maskz_compress_epi32(picked, numbers);
    let room = out.spare_capacity_mut();
    if room.len() >= 16 {
        // SAFETY: there is room for 16 numbers, of which the first `count` are kept.
        unsafe {
            _mm512_storeu_si512(room.as_mut_ptr().cast(), packed);
            out.set_len(out.len() + count);
        }
    } else {
        let mut lanes = [0; 16];
        // SAFETY: `lanes` has room for 16 numbers.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), packed) };
        out.extend_from_slice(&lanes[..count]);
    }
}

dense::compile!(true, "avx512f,avx512bw,avx512vl,avx512dq,fma");

#[target_feature(enable = "avx512f")]
pub(super) fn read(words: &[u16], ahead: &[u16]) -> u64 {
    const VECTORS: usize = 4;
    const WORDS: usize = 32;
    let mut sums = [_mm512_setzero_si512(); VECTORS];
    let mut parts = words.chunks_exact(VECTORS * WORDS);
    let mut fetched = ahead.chunks(WORDS);
    for part in parts.by_ref() {
        for at in 0..VECTORS {
            prefetch(fetched.next().unwrap_or(&[]));
            // SAFETY: the part has `VECTORS` vectors.
            let vector = unsafe { _mm512_loadu_si512(part.as_ptr().add(WORDS * at).cast()) };
            sums[at] = _mm512_add_epi64(sums[at], vector);
        }
    }
    for part in parts.remainder().chunks_exact(WORDS) {
        // SAFETY: the part has one vector.
        let vector = unsafe { _mm512_loadu_si512(part.as_ptr().cast()) };
        sums[0] = _mm512_add_epi64(sums[0], vector);
    }
    let mut total = 0_u64;
    for sum in sums {
        total = total.wrapping_add(_mm512_reduce_add_epi64(sum).cast_unsigned());
    }
    total
}
