//! Small dense products, written once and compiled for each instruction set.

use super::CODE_WORDS;

/// Columns that are summed in registers at once.
const COLUMNS: usize = 64;

/// A bfloat16 word as `f32`.
#[inline(always)]
fn widen(word: u16) -> f32 {
    f32::from_bits(u32::from(word) << 16)
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, sum: f32) -> f32 {
    if FUSED { a.mul_add(b, sum) } else { a * b + sum }
}

/// Adds `Σ factors[i] · matrix[i]` to `out`; rows have as many columns as `out`, a multiple of 16.
#[inline(always)]
pub(super) fn combine_rows<const FUSED: bool>(factors: &[f32], matrix: &[u16], out: &mut [f32]) {
    let width = out.len();
    let mut wide = out.chunks_exact_mut(COLUMNS);
    let mut at = 0;
    for out in wide.by_ref() {
        combine_columns::<FUSED, COLUMNS>(factors, &matrix[at..], width, out);
        at += COLUMNS;
    }
    for out in wide.into_remainder().chunks_exact_mut(CODE_WORDS) {
        combine_columns::<FUSED, CODE_WORDS>(factors, &matrix[at..], width, out);
        at += CODE_WORDS;
    }
}

#[inline(always)]
fn combine_columns<const FUSED: bool, const N: usize>(
    factors: &[f32],
    matrix: &[u16],
    width: usize,
    out: &mut [f32],
) {
    let mut sums = [0.0; N];
    sums.copy_from_slice(out);
    for (&factor, row) in factors.iter().zip(matrix.chunks(width)) {
        for (sum, &word) in sums.iter_mut().zip(&row[..N]) {
            *sum = multiply_add::<FUSED>(factor, widen(word), *sum);
        }
    }
    out.copy_from_slice(&sums);
}

/// Adds `scale · vector vectorᵀ` to the square `matrix`.
#[inline(always)]
pub(super) fn add_outer<const FUSED: bool>(vector: &[f32], scale: f32, matrix: &mut [f32]) {
    for (row, &x) in matrix.chunks_exact_mut(vector.len()).zip(vector) {
        let factor = scale * x;
        for (sum, &y) in row.iter_mut().zip(vector) {
            *sum = multiply_add::<FUSED>(factor, y, *sum);
        }
    }
}
