//! Scores of keys that lie one after the other.
//!
//! One key is read after the other, from its first line to its last, by few instructions: the processor then foresees how it goes
//! on, and has many keys under way, which is what it takes to read at the speed of memory. Where keys are [listed](super::score_rows)
//! and have been fetched before, four at a time take fewer cycles.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use hindsight_protocol::geometry::KvDtype;

use super::super::{GroupQuery, Run, fetch_far, fetch_near};
use super::{HEADS, LINE, as_bf16};

/// Keys whose scores are kept as they come, one key after the other, before they go to the rows of their heads.
const BATCH: usize = 64;

/// Whether [`score_run`] has been written for keys of `dim` elements.
pub(in super::super) const fn has_runs_of(dim: usize) -> bool {
    matches!(dim, 64 | 128)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub(in super::super) fn score_run(
    query: &GroupQuery,
    run: Run<'_>,
    out: &mut [f32],
    stride: usize,
) {
    for first in (0..query.group()).step_by(HEADS) {
        let out = &mut out[first * stride..];
        match query.group() - first {
            1 => score::<1>(query, first, run, out, stride),
            2 => score::<2>(query, first, run, out, stride),
            3 => score::<3>(query, first, run, out, stride),
            _ => score::<4>(query, first, run, out, stride),
        }
    }
}

/// Scores keys for `H` heads from `first` on, into rows of `out` that are `stride` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn score<const H: usize>(
    query: &GroupQuery,
    first: usize,
    run: Run<'_>,
    out: &mut [f32],
    stride: usize,
) {
    match (run.dtype, query.head_dim()) {
        (KvDtype::F16, 64) => score_parts::<true, H, 4>(query, first, run, out, stride),
        (KvDtype::F16, 128) => score_parts::<true, H, 8>(query, first, run, out, stride),
        (KvDtype::Bf16, 64) => score_parts::<false, H, 2>(query, first, run, out, stride),
        (KvDtype::Bf16, 128) => score_parts::<false, H, 4>(query, first, run, out, stride),
        (_, dim) => unreachable!("runs of keys of {dim} elements"),
    }
}

/// [`score`] of half-precision keys if `F16`, else of bfloat16 keys, each of `PARTS` vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn score_parts<const F16: bool, const H: usize, const PARTS: usize>(
    query: &GroupQuery,
    first: usize,
    run: Run<'_>,
    out: &mut [f32],
    stride: usize,
) {
    let width = if F16 { LINE / 2 } else { LINE };
    let dim = PARTS * width;
    let all = run.keys.len() / dim;
    assert!(query.head_dim() == dim && out.len() >= (H - 1) * stride + all);
    let mut queries = [[_mm512_setzero_si512(); PARTS]; H];
    for head in 0..H {
        for part in 0..PARTS {
            let from = (first + head) * dim + part * width;
            queries[head][part] = if F16 {
                load_all(query.values()[from..].first_chunk::<16>())
            } else {
                load_all(query.rounded()[from..].first_chunk::<32>())
            };
        }
    }
    let mut scores = [const { MaybeUninit::uninit() }; BATCH];
    for start in (0..all).step_by(BATCH) {
        let count = (all - start).min(BATCH);
        for at in 0..count {
            let mut sums = [_mm512_setzero_ps(); HEADS];
            for part in 0..PARTS {
                let offset = (start + at) * dim + part * width;
                if !F16 || part % 2 == 0 {
                    fetch_near(run.next.as_ptr().wrapping_add(offset));
                    fetch_far(run.later.as_ptr().wrapping_add(offset));
                }
                // SAFETY: there are `all` keys of `dim` elements.
                let key = unsafe { load_key::<F16>(run.keys.as_ptr().add(offset)) };
                for head in 0..H {
                    sums[head] = add_products::<F16>(sums[head], queries[head][part], key);
                }
            }
            scores[at].write(lane_sums(sums));
        }
        // SAFETY: the scores of `count` keys have been written, and each of the `H` rows has a column for each key.
        unsafe { store::<H>(&scores[..count], out.as_mut_ptr().add(start), stride) };
    }
}

/// A vector of 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_all<T, const N: usize>(numbers: Option<&[T; N]>) -> __m512i {
    const { assert!(size_of::<[T; N]>() == 64) };
    let numbers = numbers.expect("a query has whole vectors");
    // SAFETY: there are 64 bytes.
    unsafe { _mm512_loadu_si512(std::ptr::from_ref(numbers).cast()) }
}

/// A vector of a key: 16 half-precision numbers, widened, if `F16`, else 32 bfloat16 numbers.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_key<const F16: bool>(key: *const u16) -> __m512i {
    // SAFETY: as the caller promises.
    unsafe {
        if F16 {
            _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256(key.cast())))
        } else {
            _mm512_loadu_si512(key.cast())
        }
    }
}

/// Adds the products of a query's and a key's vector to the lanes of `sum`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_products<const F16: bool>(sum: __m512, query: __m512i, key: __m512i) -> __m512 {
    if F16 {
        _mm512_fmadd_ps(_mm512_castsi512_ps(query), _mm512_castsi512_ps(key), sum)
    } else {
        _mm512_dpbf16_ps(sum, as_bf16(query), as_bf16(key))
    }
}

/// The sums over the lanes of each of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn lane_sums(vectors: [__m512; HEADS]) -> __m128 {
    let [a, b, c, d] = vectors;
    let first = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let second = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (first, second) = (_mm512_castps_pd(first), _mm512_castps_pd(second));
    let low = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
    let high = _mm512_castpd_ps(_mm512_unpackhi_pd(first, second));
    // Within each 128-bit lane: a part of the sum of each vector.
    let parts = _mm512_add_ps(low, high);
    let halves = _mm256_add_ps(_mm512_castps512_ps256(parts), _mm512_extractf32x8_ps::<1>(parts));
    _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves))
}

/// Writes the scores of keys for `H` heads to rows that are `stride` apart.
///
/// # Safety
/// The scores must have been written; each row must have a column for each key.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const H: usize>(scores: &[MaybeUninit<__m128>], out: *mut f32, stride: usize) {
    let (fours, rest) = scores.as_chunks::<4>();
    for at in 0..fours.len() {
        // SAFETY: as the caller promises.
        unsafe {
            let [a, b, c, d] = fours[at];
            let (a, b, c, d) = (a.assume_init(), b.assume_init(), c.assume_init(), d.assume_init());
            let (low, next_low) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
            let (high, next_high) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
            let heads = [
                _mm_movelh_ps(low, next_low),
                _mm_movehl_ps(next_low, low),
                _mm_movelh_ps(high, next_high),
                _mm_movehl_ps(next_high, high),
            ];
            for head in 0..H {
                _mm_storeu_ps(out.add(head * stride + 4 * at), heads[head]);
            }
        }
    }
    for at in 0..rest.len() {
        let mut heads = [0.0; HEADS];
        // SAFETY: as the caller promises; there is room for four numbers.
        unsafe {
            _mm_storeu_ps(heads.as_mut_ptr(), rest[at].assume_init());
            for head in 0..H {
                *out.add(head * stride + 4 * fours.len() + at) = heads[head];
            }
        }
    }
}
