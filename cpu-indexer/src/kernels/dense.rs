//! Small dense products, written once and compiled for each instruction set.

use super::{CODE_WORDS, LANES};

/// Columns that are summed in registers at once.
const COLUMNS: usize = 32;
/// Rows of factors that share a matrix while it is in registers.
const FACTORS: usize = 4;

/// A bfloat16 word as `f32`.
#[inline(always)]
fn widen(word: u16) -> f32 {
    f32::from_bits(u32::from(word) << 16)
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, sum: f32) -> f32 {
    if FUSED { a.mul_add(b, sum) } else { a * b + sum }
}

/// Adds `Σ factors[h][i] · matrix[i]` to each row `h` of `out`, of which there are `heads`; rows of the matrix have as many columns,
/// a multiple of 16.
#[inline(always)]
pub(super) fn combine_rows<const FUSED: bool>(
    heads: usize,
    factors: &[f32],
    matrix: &[u16],
    out: &mut [f32],
) {
    let (rows, width) = (factors.len() / heads, out.len() / heads);
    let factors = factors.chunks(FACTORS * rows);
    for (factors, out) in factors.zip(out.chunks_mut(FACTORS * width)) {
        match out.len() / width {
            1 => combine_few::<FUSED, 1>(factors, matrix, out),
            2 => combine_few::<FUSED, 2>(factors, matrix, out),
            3 => combine_few::<FUSED, 3>(factors, matrix, out),
            _ => combine_few::<FUSED, FACTORS>(factors, matrix, out),
        }
    }
}

#[inline(always)]
fn combine_few<const FUSED: bool, const H: usize>(
    factors: &[f32],
    matrix: &[u16],
    out: &mut [f32],
) {
    let width = out.len() / H;
    let mut at = 0;
    while at + COLUMNS <= width {
        combine_columns::<FUSED, H, COLUMNS>(factors, &matrix[at..], at, out);
        at += COLUMNS;
    }
    while at < width {
        combine_columns::<FUSED, H, CODE_WORDS>(factors, &matrix[at..], at, out);
        at += CODE_WORDS;
    }
}

/// As [`combine_rows`], for `N` columns from `at` on, with which `matrix` begins.
#[inline(always)]
fn combine_columns<const FUSED: bool, const H: usize, const N: usize>(
    factors: &[f32],
    matrix: &[u16],
    at: usize,
    out: &mut [f32],
) {
    let (rows, width) = (factors.len() / H, out.len() / H);
    let mut sums = [[0.0; N]; H];
    for (sums, out) in sums.iter_mut().zip(out.chunks(width)) {
        sums.copy_from_slice(&out[at..at + N]);
    }
    for (row, words) in matrix.chunks(width).take(rows).enumerate() {
        let mut wide = [0.0; N];
        for (wide, &word) in wide.iter_mut().zip(&words[..N]) {
            *wide = widen(word);
        }
        for (sums, factors) in sums.iter_mut().zip(factors.chunks_exact(rows)) {
            let factor = factors[row];
            for (sum, &wide) in sums.iter_mut().zip(&wide) {
                *sum = multiply_add::<FUSED>(factor, wide, *sum);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_mut(width)) {
        out[at..at + N].copy_from_slice(sums);
    }
}

/// Writes to `products` what each code word of each sub-space, the directions up to its end among `ends`, makes of `mapped`.
#[inline(always)]
pub(super) fn word_products<const FUSED: bool>(
    mapped: &[f32],
    ends: &[usize],
    words: &[u16],
    products: &mut [[f32; CODE_WORDS]],
) {
    let mut start = 0;
    for (products, &end) in products.iter_mut().zip(ends) {
        let mut sums = [0.0; CODE_WORDS];
        let words = words[start * CODE_WORDS..end * CODE_WORDS].chunks_exact(CODE_WORDS);
        for (&factor, words) in mapped[start..end].iter().zip(words) {
            for (sum, &word) in sums.iter_mut().zip(words) {
                *sum = multiply_add::<FUSED>(factor, widen(word), *sum);
            }
        }
        *products = sums;
        start = end;
    }
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

/// Adds `factor` times each number to `out`.
#[inline(always)]
pub(super) fn add_scaled<const FUSED: bool>(numbers: &[f32], factor: f32, out: &mut [f32]) {
    for (out, &number) in out.iter_mut().zip(numbers) {
        *out = multiply_add::<FUSED>(factor, number, *out);
    }
}

/// A half-precision word as `f32`; infinities and what is no number become large finite numbers.
#[inline(always)]
fn widen_f16(word: u16) -> f32 {
    let magnitude = f32::from_bits((u32::from(word) & 0x7fff) << 13);
    // Exponents of the two types start from −15 and −127.
    let value = magnitude * f32::from_bits((127 + 127 - 15) << 23);
    f32::from_bits(value.to_bits() | (u32::from(word) & 0x8000) << 16)
}

/// Writes `row − mean` to `out`.
#[inline(always)]
pub(super) fn centre<const F16: bool>(row: &[u16], mean: &[f32], out: &mut [f32]) {
    for ((out, &word), mean) in out.iter_mut().zip(row).zip(mean) {
        *out = if F16 { widen_f16(word) } else { widen(word) } - mean;
    }
}

/// Writes `scales[j] · Σ matrix[i][j] · points[i]` to `out[j]`.
#[inline(always)]
pub(super) fn project<const FUSED: bool>(
    points: &[[f32; LANES]],
    matrix: &[i8],
    scales: &[f32],
    out: &mut [[f32; LANES]],
) {
    const COLUMNS: usize = 4;
    let width = out.len();
    let columns = out.chunks_exact_mut(COLUMNS).zip(scales.chunks_exact(COLUMNS));
    for (at, (out, scales)) in columns.enumerate() {
        let mut sums = [[0.0; LANES]; COLUMNS];
        let matrix = &matrix[at * COLUMNS..];
        combine_lanes::<FUSED, COLUMNS, _>(points, matrix, f32::from, width, &mut sums);
        for ((out, sums), scale) in out.iter_mut().zip(&sums).zip(scales) {
            *out = sums.map(|sum| sum * scale);
        }
    }
}

/// Adds `Σ matrix[i][j] · points[i]` to `sums[j]`; rows of the matrix are `width` entries apart, which `widen` makes numbers.
#[inline(always)]
fn combine_lanes<const FUSED: bool, const N: usize, T: Copy>(
    points: &[[f32; LANES]],
    matrix: &[T],
    widen: impl Fn(T) -> f32,
    width: usize,
    sums: &mut [[f32; LANES]; N],
) {
    for (point, row) in points.iter().zip(matrix.chunks(width)) {
        for (sums, &word) in sums.iter_mut().zip(&row[..N]) {
            let factor = widen(word);
            for (sum, &x) in sums.iter_mut().zip(point) {
                *sum = multiply_add::<FUSED>(x, factor, *sum);
            }
        }
    }
}

/// The code word with the largest `offsets[word] + Σ words[i][word] · points[i]`, for each lane; the first of equal ones.
#[inline(always)]
pub(super) fn largest_words<const FUSED: bool>(
    points: &[[f32; LANES]],
    words: &[u16],
    offsets: &[f32; CODE_WORDS],
) -> [u8; LANES] {
    const AT_ONCE: usize = 4;
    let mut best = [f32::NEG_INFINITY; LANES];
    let mut positions = [0_u32; LANES];
    for first in (0..CODE_WORDS).step_by(AT_ONCE) {
        let mut sums: [[f32; LANES]; AT_ONCE] =
            std::array::from_fn(|word| [offsets[first + word]; LANES]);
        combine_lanes::<FUSED, AT_ONCE, _>(points, &words[first..], widen, CODE_WORDS, &mut sums);
        for (word, sums) in (0..).zip(&sums) {
            let word = first as u32 + word;
            for ((best, position), &sum) in best.iter_mut().zip(&mut positions).zip(sums) {
                *position = if sum > *best { word } else { *position };
                *best = if sum > *best { sum } else { *best };
            }
        }
    }
    positions.map(|position| position as u8)
}

/// Compiles the products as kernels of one instruction set: `$fused` says whether it multiplies and adds at once, `$features`
/// what it takes.
macro_rules! compile {
    ($fused:literal $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        pub(super) fn combine_rows(heads: usize, factors: &[f32], matrix: &[u16], out: &mut [f32]) {
            dense::combine_rows::<$fused>(heads, factors, matrix, out);
        }

        $(#[target_feature(enable = $features)])?
        pub(super) fn word_products(
            mapped: &[f32],
            ends: &[usize],
            words: &[u16],
            products: &mut [[f32; CODE_WORDS]],
        ) {
            dense::word_products::<$fused>(mapped, ends, words, products);
        }

        $(#[target_feature(enable = $features)])?
        pub(super) fn add_outer(vector: &[f32], scale: f32, matrix: &mut [f32]) {
            dense::add_outer::<$fused>(vector, scale, matrix);
        }

        $(#[target_feature(enable = $features)])?
        pub(super) fn add_scaled(numbers: &[f32], factor: f32, out: &mut [f32]) {
            dense::add_scaled::<$fused>(numbers, factor, out);
        }

        $(#[target_feature(enable = $features)])?
        pub(super) fn centre(dtype: KvDtype, row: &[u16], mean: &[f32], out: &mut [f32]) {
            match dtype {
                KvDtype::F16 => dense::centre::<true>(row, mean, out),
                KvDtype::Bf16 => dense::centre::<false>(row, mean, out),
            }
        }

        $(#[target_feature(enable = $features)])?
        pub(super) fn project(
            points: &[[f32; super::LANES]],
            matrix: &[i8],
            scales: &[f32],
            out: &mut [[f32; super::LANES]],
        ) {
            dense::project::<$fused>(points, matrix, scales, out);
        }

        $(#[target_feature(enable = $features)])?
        pub(super) fn largest_words(
            points: &[[f32; super::LANES]],
            words: &[u16],
            offsets: &[f32; CODE_WORDS],
        ) -> [u8; super::LANES] {
            dense::largest_words::<$fused>(points, words, offsets)
        }
    };
}
pub(super) use compile;
