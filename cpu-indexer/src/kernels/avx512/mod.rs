//! The kernels for AVX-512 (F, BW, VL, DQ, BF16).
//!
//! Loops are plain: a closure that an iterator's or array's own method calls would not be compiled for AVX-512 together
//! with that method, so that every vector would pass through memory.

#![expect(
    clippy::needless_range_loop,
    reason = "loops over registers read as what they compile to"
)]

mod run;

use std::arch::x86_64::*;

use half::bf16;
use hindsight_protocol::geometry::KvDtype;

use super::codes::{self, Bytes};
use super::{CODE_WORDS, GroupQuery, ROWS, dense, fetch, fetch_far, fetch_near, four_of, scalar};
pub(super) use run::{has_runs_of, score_run};

/// Heads that are scored together: with [`ROWS`] rows they fill half of the registers with sums.
const HEADS: usize = 4;
/// Elements of a cache line.
const LINE: usize = 32;
/// Batches of rows between the one that is scored and the one that is brought to the first-level cache meanwhile. That
/// also repeats requests that were dropped when they were made first, as processors do when they have too many.
const NEAR: usize = 4;

/// Sums of products for each of some heads with each of [`ROWS`] keys.
type Sums = [__m512; HEADS * ROWS];

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(super) fn score_rows(
    dtype: KvDtype,
    query: &GroupQuery,
    rows: &[&[u16]],
    ahead: &[&[u16]],
    out: &mut [f32],
    stride: usize,
) {
    let mut ahead = ahead;
    for first in (0..query.group()).step_by(HEADS) {
        let out = &mut out[first * stride..];
        match (dtype, query.group() - first) {
            (KvDtype::F16, 1) => score::<true, 1>(query, first, rows, ahead, out, stride),
            (KvDtype::F16, 2) => score::<true, 2>(query, first, rows, ahead, out, stride),
            (KvDtype::F16, 3) => score::<true, 3>(query, first, rows, ahead, out, stride),
            (KvDtype::F16, _) => score::<true, 4>(query, first, rows, ahead, out, stride),
            (KvDtype::Bf16, 1) => score::<false, 1>(query, first, rows, ahead, out, stride),
            (KvDtype::Bf16, 2) => score::<false, 2>(query, first, rows, ahead, out, stride),
            (KvDtype::Bf16, 3) => score::<false, 3>(query, first, rows, ahead, out, stride),
            (KvDtype::Bf16, _) => score::<false, 4>(query, first, rows, ahead, out, stride),
        }
        ahead = &[];
    }
}

/// Scores half-precision keys if `F16`, else bfloat16 keys, for `H` heads from `first` on, into rows of `out` that are `stride`
/// apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn score<const F16: bool, const H: usize>(
    query: &GroupQuery,
    first: usize,
    rows: &[&[u16]],
    ahead: &[&[u16]],
    out: &mut [f32],
    stride: usize,
) {
    let (batches, rest) = rows.as_chunks::<ROWS>();
    let (ahead, _) = ahead.as_chunks::<ROWS>();
    assert!(out.len() >= (H - 1) * stride + rows.len());
    for (number, batch) in batches.iter().enumerate() {
        // Once there is nothing to fetch, asking for what is being read anyway costs next to nothing.
        let near = batches.get(number + NEAR).unwrap_or(batch);
        let sums = sums::<F16, H>(query, first, batch, near, ahead.get(number).unwrap_or(batch));
        // SAFETY: each of the `H` rows has a column for each of `rows`, as was checked.
        unsafe { store::<H>(sums, out.as_mut_ptr().add(number * ROWS), stride) };
    }
    if !rest.is_empty() {
        let batch = four_of(rest);
        let mut scores = [[0.0; ROWS]; H];
        let sums = sums::<F16, H>(query, first, &batch, &batch, &batch);
        // SAFETY: there are `H` rows of `ROWS` columns.
        unsafe { store::<H>(sums, scores.as_mut_ptr().cast(), ROWS) };
        for head in 0..H {
            out[head * stride + rows.len() - rest.len()..][..rest.len()]
                .copy_from_slice(&scores[head][..rest.len()]);
        }
    }
}

/// The products of [`ROWS`] keys with the queries of `H` heads from `first` on, each summed over the lanes of a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn sums<const F16: bool, const H: usize>(
    query: &GroupQuery,
    first: usize,
    rows: &[&[u16]; ROWS],
    near: &[&[u16]; ROWS],
    ahead: &[&[u16]; ROWS],
) -> Sums {
    let dim = query.head_dim();
    let elements = first * dim..(first + H) * dim;
    let (values, rounded) =
        (query.values()[elements.clone()].as_ptr(), query.rounded()[elements].as_ptr());
    let (rows, near, ahead) = (pointers(rows), pointers(near), pointers(ahead));
    let mut sums = [_mm512_setzero_ps(); HEADS * ROWS];
    let whole = dim - dim % LINE;
    for at in (0..whole).step_by(LINE) {
        for row in 0..ROWS {
            fetch_near(near[row].wrapping_add(at));
            fetch_far(ahead[row].wrapping_add(at));
        }
        // SAFETY: queries have `dim` elements, rows too, as `Kernels::score_rows` has checked: at least `LINE` from `at` on.
        unsafe {
            if F16 {
                add_widened::<H>(&mut sums, rows, values, dim, at);
                add_widened::<H>(&mut sums, rows, values, dim, at + LINE / 2);
            } else {
                add_pairs::<H>(&mut sums, rows, rounded, dim, at, u32::MAX);
            }
        }
    }
    if whole < dim {
        // SAFETY: as above; the dimension is a multiple of 16, so there are 16 elements from `whole` on.
        unsafe {
            if F16 {
                add_widened::<H>(&mut sums, rows, values, dim, whole);
            } else {
                add_pairs::<H>(&mut sums, rows, rounded, dim, whole, 0xffff);
            }
        }
    }
    sums
}

/// Where rows begin.
#[inline(always)]
fn pointers(rows: &[&[u16]; ROWS]) -> [*const u16; ROWS] {
    let mut pointers = [std::ptr::null(); ROWS];
    for row in 0..ROWS {
        pointers[row] = rows[row].as_ptr();
    }
    pointers
}

/// Adds the products of 16 elements of `rows` and of `H` queries of `dim` elements from `at` on.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_widened<const H: usize>(
    sums: &mut Sums,
    rows: [*const u16; ROWS],
    queries: *const f32,
    dim: usize,
    at: usize,
) {
    let mut keys = [_mm512_setzero_ps(); ROWS];
    for row in 0..ROWS {
        // SAFETY: as the caller promises.
        keys[row] = unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(rows[row].add(at).cast())) };
    }
    for head in 0..H {
        // SAFETY: as the caller promises.
        let part = unsafe { _mm512_loadu_ps(queries.add(head * dim + at)) };
        for row in 0..ROWS {
            let sum = &mut sums[head * ROWS + row];
            *sum = _mm512_fmadd_ps(part, keys[row], *sum);
        }
    }
}

/// Adds the products of those of the [`LINE`] elements of `rows` and of `H` queries of `dim` elements from `at` on that are in
/// `mask`.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add_pairs<const H: usize>(
    sums: &mut Sums,
    rows: [*const u16; ROWS],
    queries: *const bf16,
    dim: usize,
    at: usize,
    mask: __mmask32,
) {
    let mut keys = [_mm512_setzero_si512(); ROWS];
    for row in 0..ROWS {
        // SAFETY: as the caller promises.
        keys[row] = unsafe { _mm512_maskz_loadu_epi16(mask, rows[row].add(at).cast()) };
    }
    for head in 0..H {
        // SAFETY: as the caller promises.
        let part = unsafe { _mm512_maskz_loadu_epi16(mask, queries.add(head * dim + at).cast()) };
        for row in 0..ROWS {
            let sum = &mut sums[head * ROWS + row];
            *sum = _mm512_dpbf16_ps(*sum, as_bf16(part), as_bf16(keys[row]));
        }
    }
}

#[inline]
fn as_bf16(words: __m512i) -> __m512bh {
    // SAFETY: both types are 64 bytes without invalid values.
    unsafe { std::mem::transmute(words) }
}

/// Adds the lanes of each sum, and writes those of `H` heads to rows that are `stride` apart.
///
/// # Safety
/// [`ROWS`] floats must be writable in each row.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn store<const H: usize>(sums: Sums, out: *mut f32, stride: usize) {
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
    let of_heads = _mm512_permutexvar_ps(order, mixed);
    // SAFETY: as the caller promises.
    unsafe {
        _mm_storeu_ps(out, _mm512_castps512_ps128(of_heads));
        if H > 1 {
            _mm_storeu_ps(out.add(stride), _mm512_extractf32x4_ps::<1>(of_heads));
        }
        if H > 2 {
            _mm_storeu_ps(out.add(2 * stride), _mm512_extractf32x4_ps::<2>(of_heads));
        }
        if H > 3 {
            _mm_storeu_ps(out.add(3 * stride), _mm512_extractf32x4_ps::<3>(of_heads));
        }
    }
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
            fetch(fetched.next().unwrap_or(&[]));
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
