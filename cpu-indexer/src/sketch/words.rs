//! Code words of one sub-space: Lloyd's algorithm from a spread-out start.

use std::ops::Range;

use half::bf16;

use crate::kernels::{CODE_WORDS, Kernels, LANES};

const ITERATIONS: usize = 6;

/// Code words of one sub-space: its centres, laid out for finding the nearest.
pub(super) struct Words {
    /// As bfloat16 words: [width, CODE_WORDS].
    pub(super) matrix: Vec<u16>,
    /// Minus half the squared length of each centre.
    half_norms: [f32; CODE_WORDS],
}

impl Words {
    /// Takes [`CODE_WORDS`] centres of `width` elements, one after the other.
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

    /// The nearest word of each lane: the one with the largest product less half its squared length.
    fn nearest(&self, kernels: Kernels, points: &[[f32; LANES]]) -> [u8; LANES] {
        kernels.largest_words(points, &self.matrix, &self.half_norms)
    }

    fn element(&self, direction: usize, word: u8) -> f32 {
        bf16::from_bits(self.matrix[direction * CODE_WORDS + usize::from(word)]).to_f32()
    }
}

/// What code words are learnt from: some elements of weighted vectors.
pub(super) struct Samples<'a> {
    /// [batches, stride][lane]
    points: &'a [[f32; LANES]],
    stride: usize,
    elements: Range<usize>,
    weights: &'a [[f32; LANES]],
}

impl<'a> Samples<'a> {
    /// The given elements of vectors in lanes ([batches, stride][lane]), with their weights ([batches][lane]).
    pub(super) const fn new(
        points: &'a [[f32; LANES]],
        stride: usize,
        elements: Range<usize>,
        weights: &'a [[f32; LANES]],
    ) -> Self {
        Self { points, stride, elements, weights }
    }

    fn width(&self) -> usize {
        self.elements.len()
    }

    fn batches(&self) -> impl Iterator<Item = &'a [[f32; LANES]]> {
        let elements = self.elements.clone();
        self.points.chunks_exact(self.stride).map(move |batch| &batch[elements.clone()])
    }

    /// Learns the words.
    pub(super) fn train(&self, kernels: Kernels) -> Words {
        let width = self.width();
        let mut centres = self.spread_out();
        let mut sums = vec![0.0; centres.len()];
        for _ in 0..ITERATIONS {
            sums.fill(0.0);
            let mut totals = [0.0; CODE_WORDS];
            let words = Words::new(&centres, width);
            for (points, weights) in self.batches().zip(self.weights) {
                let nearest = words.nearest(kernels, points);
                for (lane, (&word, weight)) in nearest.iter().zip(weights).enumerate() {
                    totals[usize::from(word)] += weight;
                    let sums = &mut sums[usize::from(word) * width..][..width];
                    for (sum, point) in sums.iter_mut().zip(points) {
                        *sum += weight * point[lane];
                    }
                }
            }
            for (word, total) in totals.iter().enumerate().filter(|(_, total)| **total > 0.0) {
                let range = word * width..(word + 1) * width;
                for (centre, sum) in centres[range.clone()].iter_mut().zip(&sums[range]) {
                    *centre = sum / total;
                }
            }
        }
        Words::new(&centres, width)
    }

    /// Mean squared error of each element, if each sample is replaced by the nearest of `words`.
    pub(super) fn squared_errors(&self, kernels: Kernels, words: &Words) -> Vec<f32> {
        let mut errors = vec![0.0; self.width()];
        let count = (self.weights.len() * LANES) as f32;
        for points in self.batches() {
            let nearest = words.nearest(kernels, points);
            for (direction, (error, point)) in errors.iter_mut().zip(points).enumerate() {
                for (x, &word) in point.iter().zip(&nearest) {
                    let missed = x - words.element(direction, word);
                    *error += missed * missed / count;
                }
            }
        }
        errors
    }

    /// Starting centres as k-means++ draws them: each a sample, drawn in proportion to its weight times its squared
    /// distance from the centres drawn before. Draws come from a fixed sequence, so that training can be repeated.
    fn spread_out(&self) -> Vec<f32> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let mut distances = vec![[f32::INFINITY; LANES]; self.weights.len()];
        let mut masses = self.weights.to_vec();
        let mut centres = Vec::with_capacity(CODE_WORDS * self.width());
        for _ in 0..CODE_WORDS {
            let at = drawn(&masses, draw());
            let batch = &self.points[at / LANES * self.stride..][self.elements.clone()];
            let centre: Vec<f32> = batch.iter().map(|point| point[at % LANES]).collect();
            let states = distances.iter_mut().zip(&mut masses).zip(self.weights);
            for (points, ((distances, masses), weights)) in self.batches().zip(states) {
                let mut new = [0.0; LANES];
                for (point, centre) in points.iter().zip(&centre) {
                    for (sum, x) in new.iter_mut().zip(point) {
                        *sum += (x - centre) * (x - centre);
                    }
                }
                for lane in 0..LANES {
                    distances[lane] = distances[lane].min(new[lane]);
                    masses[lane] = distances[lane] * weights[lane];
                }
            }
            centres.extend(centre);
        }
        centres
    }
}

/// The sample at which the running sum of the masses reaches `share` of the total; the last if none has any.
fn drawn(masses: &[[f32; LANES]], share: f32) -> usize {
    let mut lanes = [0.0; LANES];
    for masses in masses {
        lanes.iter_mut().zip(masses).for_each(|(sum, mass)| *sum += mass);
    }
    let mut left = share * lanes.iter().sum::<f32>();
    for (batch, masses) in masses.iter().enumerate() {
        let sum: f32 = masses.iter().sum();
        if left < sum {
            let reaches = |mass: &f32| {
                left -= mass;
                left < 0.0
            };
            return batch * LANES + masses.iter().position(reaches).unwrap_or(LANES - 1);
        }
        left -= sum;
    }
    masses.len() * LANES - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_lanes<const WIDTH: usize>(samples: &[[f32; WIDTH]]) -> Vec<[f32; LANES]> {
        let batches = samples.as_chunks::<LANES>().0;
        batches
            .iter()
            .flat_map(|batch| (0..WIDTH).map(|at| batch.map(|sample| sample[at])))
            .collect()
    }

    #[test]
    fn separate_clusters_get_a_word_each() {
        let centre = |word: usize| [(word % 4) as f32 * 10.0, (word / 4) as f32 * 10.0];
        let samples: Vec<[f32; 2]> = (0..320)
            .map(|i| {
                let [x, y] = centre(i % CODE_WORDS);
                [x + (i % 3) as f32 * 0.1, y - (i % 5) as f32 * 0.1]
            })
            .collect();
        let points = in_lanes(&samples);
        let samples = Samples::new(&points, 2, 0..2, &[[1.0; LANES]; 20]);
        let words = samples.train(Kernels::detect());
        let errors = samples.squared_errors(Kernels::detect(), &words);
        assert!(errors.iter().all(|&error| error < 0.1), "{errors:?}");
        for word in 0..CODE_WORDS {
            let [x, y] = centre(word);
            let close = |word| {
                (words.element(0, word) - x).abs() < 1.0 && (words.element(1, word) - y).abs() < 1.0
            };
            assert!((0..16).any(close));
        }
    }

    #[test]
    fn equal_samples_give_words_all_the_same() {
        let points = [[2.5; LANES]; 2];
        let words = Samples::new(&points, 1, 0..1, &[[1.0; LANES]; 2]).train(Kernels::detect());
        assert!((0..16).all(|word| words.element(0, word) == 2.5));
    }

    #[test]
    fn only_the_elements_at_hand_are_looked_at() {
        let samples: Vec<[f32; 3]> =
            (0..64).map(|i| [f32::NAN, (i % 16) as f32, f32::NAN]).collect();
        let points = in_lanes(&samples);
        let samples = Samples::new(&points, 3, 1..2, &[[1.0; LANES]; 4]);
        let words = samples.train(Kernels::detect());
        assert!(samples.squared_errors(Kernels::detect(), &words)[0] < 0.5);
    }
}
