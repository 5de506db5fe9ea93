//! Code words of one sub-space: Lloyd's algorithm from a spread-out start.

use half::bf16;

use super::quantizer::position_of_largest;
use crate::kernels::{CODE_WORDS, Kernels};

const ITERATIONS: usize = 6;

/// Code words for `samples` ([n, width]) with the given weights: [`CODE_WORDS`] centres, one after the other.
pub(super) fn train(kernels: Kernels, samples: &[f32], weights: &[f32], width: usize) -> Vec<f32> {
    let mut centres = spread_out(samples, weights, width);
    let mut sums = vec![0.0; centres.len()];
    for _ in 0..ITERATIONS {
        sums.fill(0.0);
        let mut totals = [0.0; CODE_WORDS];
        let lookup = Lookup::new(&centres, width);
        for (sample, weight) in samples.chunks_exact(width).zip(weights) {
            let word = lookup.nearest(kernels, sample);
            totals[word] += weight;
            for (sum, x) in sums[word * width..][..width].iter_mut().zip(sample) {
                *sum += weight * x;
            }
        }
        for (word, total) in totals.iter().enumerate().filter(|(_, total)| **total > 0.0) {
            let range = word * width..(word + 1) * width;
            for (centre, sum) in centres[range.clone()].iter_mut().zip(&sums[range]) {
                *centre = sum / total;
            }
        }
    }
    centres
}

/// Mean squared error of each of the `width` elements, if each sample is replaced by the nearest of the `centres`.
pub(super) fn squared_errors(
    kernels: Kernels,
    samples: &[f32],
    centres: &[f32],
    width: usize,
) -> Vec<f32> {
    let mut errors = vec![0.0; width];
    let count = samples.len() / width;
    let lookup = Lookup::new(centres, width);
    for sample in samples.chunks_exact(width) {
        let word = lookup.nearest(kernels, sample);
        let centre = &centres[word * width..][..width];
        for ((error, x), c) in errors.iter_mut().zip(sample).zip(centre) {
            *error += (x - c) * (x - c) / count as f32;
        }
    }
    errors
}

fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Centres, laid out for finding the nearest of them: the one with the largest product less half its squared length.
struct Lookup {
    /// As bfloat16 words: [width, CODE_WORDS].
    matrix: Vec<u16>,
    /// Minus half the squared length of each centre.
    half_norms: [f32; CODE_WORDS],
}

impl Lookup {
    fn new(centres: &[f32], width: usize) -> Self {
        let mut matrix = vec![0; centres.len()];
        let mut half_norms = [0.0; CODE_WORDS];
        for (word, centre) in centres.chunks_exact(width).enumerate() {
            for (direction, &x) in centre.iter().enumerate() {
                let rounded = bf16::from_f32(x);
                matrix[direction * CODE_WORDS + word] = rounded.to_bits();
                half_norms[word] -= 0.5 * rounded.to_f32() * rounded.to_f32();
            }
        }
        Self { matrix, half_norms }
    }

    fn nearest(&self, kernels: Kernels, sample: &[f32]) -> usize {
        let mut closeness = self.half_norms;
        kernels.combine_rows(sample, &self.matrix, &mut closeness);
        usize::from(position_of_largest(&closeness))
    }
}

/// Starting centres as k-means++ draws them: each a sample, drawn in proportion to its weight times its squared distance
/// from the centres drawn before. Draws come from a fixed sequence, so that training can be repeated.
fn spread_out(samples: &[f32], weights: &[f32], width: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    let mut distances = vec![1.0; weights.len()];
    let mut centres = Vec::with_capacity(CODE_WORDS * width);
    for _ in 0..CODE_WORDS {
        let masses = || distances.iter().zip(weights).map(|(d, w)| f64::from(d * w));
        let mut left = draw() * masses().sum::<f64>();
        let drawn = masses().position(|mass| {
            left -= mass;
            left < 0.0
        });
        let at = drawn.unwrap_or(weights.len() - 1) * width;
        let centre = &samples[at..at + width];
        for (distance, sample) in distances.iter_mut().zip(samples.chunks_exact(width)) {
            let new = squared_distance(sample, centre);
            *distance = if centres.is_empty() { new } else { new.min(*distance) };
        }
        centres.extend_from_slice(centre);
    }
    centres
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separate_clusters_get_a_word_each() {
        let centre = |word: usize| [(word % 4) as f32 * 10.0, (word / 4) as f32 * 10.0];
        let samples: Vec<f32> = (0..320)
            .flat_map(|i| {
                let [x, y] = centre(i % CODE_WORDS);
                [x + (i % 3) as f32 * 0.1, y - (i % 5) as f32 * 0.1]
            })
            .collect();
        let words = train(Kernels::detect(), &samples, &[1.0; 320], 2);
        assert!(
            squared_errors(Kernels::detect(), &samples, &words, 2).iter().all(|&error| error < 0.1)
        );
        for word in 0..CODE_WORDS {
            let [x, y] = centre(word);
            assert!(words.chunks(2).any(|w| (w[0] - x).abs() < 1.0 && (w[1] - y).abs() < 1.0));
        }
    }

    #[test]
    fn equal_samples_give_words_all_the_same() {
        let words = train(Kernels::detect(), &[2.5; 30], &[1.0; 30], 1);
        assert!(words.iter().all(|&word| word == 2.5));
    }
}
