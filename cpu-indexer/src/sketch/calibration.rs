//! Learning codes from a prompt: which directions of the keys matter to its queries.
//!
//! A score errs by `q · (k − k')` where `k'` is what the code says of `k`. Over queries with second moments `C`, the mean
//! squared error is `(k − k')ᵀ C (k − k')`. So keys are mapped by `Lᵀ` with `C = L Lᵀ`, where plain distance is that
//! error, turned to their principal axes there, and coded; queries are mapped by `L⁻¹`, which keeps all products.

use half::bf16;

use super::allocation::allocate;
use super::key_map::KeyMap;
use super::linear::{cholesky, eigen, solve_transposed};
use super::quantizer::Quantizer;
use super::words::Samples;
use crate::kernels::{CODE_WORDS, Kernels, LANES};

/// How much of the queries' moments is replaced by their diagonal. Sampled moments say too little about directions that
/// few prompt queries had; rotary embeddings turn later queries into just those.
const DIAGONAL_SHARE: f64 = 0.4;
/// How much is replaced by the same moment in every direction.
const ISOTROPIC_SHARE: f64 = 0.15;

/// Learns a quantizer with `subspaces` words a key from sampled `keys` ([n, head_dim], `n` a multiple
/// of [`LANES`]) and `queries` ([m, head_dim]).
pub(super) fn calibrate(
    kernels: Kernels,
    keys: &[f32],
    queries: &[f32],
    head_dim: usize,
    subspaces: usize,
) -> Quantizer {
    let n = head_dim;
    let count = (keys.len() / n).max(1) as f32;
    let mut mean = vec![0.0; n];
    for key in keys.chunks_exact(n) {
        mean.iter_mut().zip(key).for_each(|(mean, x)| *mean += x / count);
    }
    let centred: Vec<f32> =
        keys.chunks_exact(n).flat_map(|key| key.iter().zip(&mean).map(|(x, m)| x - m)).collect();

    let lower = cholesky(&query_moments(kernels, queries, n), n);
    let points = in_lanes(&centred, n);
    let metric = KeyMap::new(n, n, |row, column| lower[row * n + column]);
    let mapped = metric.apply(kernels, &points);
    let weights: Vec<[f32; LANES]> = mapped.chunks_exact(metric.width()).map(norms).collect();

    let mut moments = vec![0.0; n * n];
    for (key, weight) in centred.chunks_exact(n).zip(weights.as_flattened()) {
        kernels.add_outer(key, *weight, &mut moments);
    }
    let moments: Vec<f64> = moments.iter().map(|&m| f64::from(m) / f64::from(count)).collect();
    let (variances, axes) = eigen(&sandwich(&lower, &moments, n), n);
    let ends = allocate(&variances, subspaces);
    let rank = ends.last().copied().unwrap_or(0);

    let key_map =
        KeyMap::new(n, rank, |row, axis| dot(&lower[row * n..][..n], &axes[axis * n..][..n]));
    let mut query_axes = axes[..rank * n].to_vec();
    query_axes.chunks_exact_mut(n).for_each(|axis| solve_transposed(&lower, n, axis));
    let query_map = query_map(n, rank, |row, axis| query_axes[axis * n + row]);

    let mapped = key_map.apply(kernels, &points);
    let mut code_words = Vec::with_capacity(rank * CODE_WORDS);
    let mut errors = Vec::with_capacity(rank);
    let mut start = 0;
    for &end in &ends {
        let samples = Samples::new(&mapped, key_map.width(), start..end, &weights);
        let words = samples.train(kernels);
        errors.extend(samples.squared_errors(kernels, &words));
        code_words.extend(words.matrix);
        start = end;
    }
    Quantizer::new(mean, key_map, query_map, ends, code_words, errors)
}

/// Second moments of the queries, softened by their diagonal and their mean.
fn query_moments(kernels: Kernels, queries: &[f32], n: usize) -> Vec<f64> {
    let mut sampled = vec![0.0; n * n];
    for query in queries.chunks_exact(n) {
        kernels.add_outer(query, 1.0, &mut sampled);
    }
    let trace: f64 = (0..n).map(|i| f64::from(sampled[i * n + i])).sum();
    let isotropic = if trace > 0.0 { trace / n as f64 } else { 1.0 };
    let kept = 1.0 - DIAGONAL_SHARE - ISOTROPIC_SHARE;
    let mut moments: Vec<f64> = sampled.iter().map(|&m| kept * f64::from(m) / isotropic).collect();
    for i in 0..n {
        let own = f64::from(sampled[i * n + i]) / isotropic;
        moments[i * n + i] += DIAGONAL_SHARE * own + ISOTROPIC_SHARE;
    }
    moments
}

/// `Lᵀ M L`.
fn sandwich(lower: &[f64], moments: &[f64], n: usize) -> Vec<f64> {
    // Row i of `right` is row i of M L; M is symmetric.
    let combine = |factors: &mut dyn Iterator<Item = f64>| {
        let mut out = vec![0.0; n];
        for (factor, row) in factors.zip(lower.chunks_exact(n)) {
            out.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x);
        }
        out
    };
    let right: Vec<f64> =
        moments.chunks_exact(n).flat_map(|row| combine(&mut row.iter().copied())).collect();
    let mut out = vec![0.0; n * n];
    for (factors, row) in lower.chunks_exact(n).zip(right.chunks_exact(n)) {
        for (factor, out) in factors.iter().zip(out.chunks_exact_mut(n)) {
            if *factor != 0.0 {
                out.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x);
            }
        }
    }
    out
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The lengths of some vectors.
fn norms(points: &[[f32; LANES]]) -> [f32; LANES] {
    let mut squares = [0.0; LANES];
    for elements in points {
        squares.iter_mut().zip(elements).for_each(|(sum, x)| *sum += x * x);
    }
    squares.map(f32::sqrt)
}

/// Vectors of `n` elements, as many at once as there are lanes: [vectors / lanes, n][lane].
fn in_lanes(vectors: &[f32], n: usize) -> Vec<[f32; LANES]> {
    let batches = vectors.chunks_exact(n * LANES);
    batches
        .flat_map(|batch| (0..n).map(|at| std::array::from_fn(|lane| batch[lane * n + at])))
        .collect()
}

/// A linear map of queries as bfloat16 words: [inputs, width], the width rounded up to whole vectors.
#[expect(clippy::cast_possible_truncation)]
fn query_map(inputs: usize, outputs: usize, entry: impl Fn(usize, usize) -> f64) -> Vec<u16> {
    let width = outputs.next_multiple_of(CODE_WORDS);
    let mut matrix = vec![0; inputs * width];
    for (row, words) in matrix.chunks_exact_mut(width).enumerate() {
        for (column, word) in words[..outputs].iter_mut().enumerate() {
            *word = bf16::from_f32(entry(row, column) as f32).to_bits();
        }
    }
    matrix
}
