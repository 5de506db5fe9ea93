//! The linear map from a key to the directions that its code describes.

use crate::kernels::{CODE_WORDS, Kernels, LANES};

/// A linear map in bytes: every direction has a scale of its own.
///
/// A code word of sixteen stands for a direction's value far more coarsely than a byte does for an entry.
#[derive(Debug, Clone)]
pub(super) struct KeyMap {
    /// [inputs, width], the width rounded up to whole vectors.
    entries: Vec<i8>,
    /// What an entry of one stands for: `[width]`.
    scales: Vec<f32>,
}

impl KeyMap {
    /// The map of `inputs` elements to `outputs` directions whose entries `entry(input, output)` tells.
    #[expect(clippy::cast_possible_truncation)]
    pub(super) fn new(inputs: usize, outputs: usize, entry: impl Fn(usize, usize) -> f64) -> Self {
        let width = outputs.next_multiple_of(CODE_WORDS);
        let mut map = Self { entries: vec![0; inputs * width], scales: vec![0.0; width] };
        for output in 0..outputs {
            let largest = (0..inputs).map(|input| entry(input, output).abs()).fold(0.0, f64::max);
            let scale = (largest / f64::from(i8::MAX)).max(f64::from(f32::MIN_POSITIVE));
            map.scales[output] = scale as f32;
            for input in 0..inputs {
                let steps = (entry(input, output) / scale).round();
                map.entries[input * width + output] = steps as i8;
            }
        }
        map
    }

    /// Directions, rounded up to whole vectors.
    pub(super) const fn width(&self) -> usize {
        self.scales.len()
    }

    /// Bytes held.
    pub(super) const fn bytes(&self) -> usize {
        self.entries.len() + 4 * self.scales.len()
    }

    /// Maps vectors in lanes: [inputs][lane] to [width][lane].
    pub(super) fn map(&self, kernels: Kernels, points: &[[f32; LANES]], out: &mut [[f32; LANES]]) {
        kernels.project(points, &self.entries, &self.scales, out);
    }

    /// Maps batches of vectors in lanes: [batches, inputs][lane] to [batches, width][lane].
    pub(super) fn apply(&self, kernels: Kernels, points: &[[f32; LANES]]) -> Vec<[f32; LANES]> {
        let inputs = self.entries.len() / self.width();
        let mut out = vec![[0.0; LANES]; points.len() / inputs * self.width()];
        let batches = points.chunks_exact(inputs).zip(out.chunks_exact_mut(self.width()));
        for (points, out) in batches {
            self.map(kernels, points, out);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_to_a_part_in_256_of_the_largest_of_their_direction() {
        let entry = |input: usize, output: usize| {
            let wave = ((input * 7 + output * 3) % 11) as f64 - 5.0;
            wave * 10_f64.powi(output as i32 - 8)
        };
        let map = KeyMap::new(24, 20, entry);
        assert_eq!(map.width(), 32);
        for input in 0..24 {
            let mut points = vec![[0.0; LANES]; 24];
            points[input] = [1.0; LANES];
            let mapped = map.apply(Kernels::detect(), &points);
            for (output, lanes) in mapped.iter().enumerate() {
                let expected = if output < 20 { entry(input, output) } else { 0.0 };
                let largest = 5.0 * 10_f64.powi(output as i32 - 8);
                for &found in lanes {
                    assert!((f64::from(found) - expected).abs() <= largest / 253.0);
                }
            }
        }
    }
}
