//! Rotary position embedding: cosines and sines for the positions that are asked for.

use candle_core::{Device, Tensor};

use super::{ModelError, RopeConfig, RopeScaling};

/// The rotary frequencies of a model.
///
/// Tables are made for one chunk of positions at a time, from angles computed in f64: they cost little beside a layer,
/// and at a position of a million an f32 product is wrong by a twentieth of a radian.
#[derive(Debug)]
pub(super) struct Rope {
    /// Radians per position.
    frequencies: Vec<f64>,
    device: Device,
}

/// Cosines and sines of one chunk, each `[tokens, dimension / 2]`, f32.
#[derive(Debug)]
pub(super) struct RopeTable {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Rope {
    /// `factors` are those of `rope_freqs.weight`, one for each frequency, where the configuration calls for them.
    pub(super) fn new(
        config: &RopeConfig,
        factors: Option<&[f32]>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let stretch = match config.scaling {
            RopeScaling::Linear(factor) => factor,
            RopeScaling::None | RopeScaling::PerFrequency => 1.0,
        };
        let mut frequencies: Vec<f64> = (0..config.dimension)
            .step_by(2)
            .map(|i| config.theta.powf(-(i as f64) / config.dimension as f64) / stretch)
            .collect();
        if let Some(factors) = factors {
            if let Some(bad) = factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0))
            {
                let reason = format!("the factor {bad} is not positive");
                return Err(ModelError::TensorType { name: "rope_freqs.weight".into(), reason });
            }
            for (frequency, factor) in frequencies.iter_mut().zip(factors) {
                *frequency /= f64::from(*factor);
            }
        }
        Ok(Self { frequencies, device: device.clone() })
    }

    /// The table of the positions `start..start + tokens`.
    pub(super) fn table(&self, start: usize, tokens: usize) -> candle_core::Result<RopeTable> {
        let len = tokens * self.frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(len), Vec::with_capacity(len));
        for position in start..start + tokens {
            for frequency in &self.frequencies {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        let shape = (tokens, self.frequencies.len());
        Ok(RopeTable {
            cos: Tensor::from_vec(cos, shape, &self.device)?,
            sin: Tensor::from_vec(sin, shape, &self.device)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RopeStyle;

    fn config(scaling: RopeScaling) -> RopeConfig {
        RopeConfig { style: RopeStyle::Halves, theta: 10_000.0, dimension: 8, scaling }
    }

    fn cosines(rope: &Rope, position: usize) -> Vec<f32> {
        rope.table(position, 1).unwrap().cos.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_chunk_holds_the_rows_of_its_positions() {
        let rope = Rope::new(&config(RopeScaling::None), None, &Device::Cpu).unwrap();
        let chunk = rope.table(1_000_000, 3).unwrap().cos.to_vec2::<f32>().unwrap();
        for (row, position) in chunk.iter().zip(1_000_000..) {
            assert_eq!(row, &cosines(&rope, position));
        }
        let expected: Vec<f32> = (0..4).map(|i| (1e6 * 10f64.powi(-i)).cos() as f32).collect();
        assert_eq!(chunk[0], expected);
    }

    #[test]
    fn linear_scaling_divides_positions() {
        let plain = Rope::new(&config(RopeScaling::None), None, &Device::Cpu).unwrap();
        let scaled = Rope::new(&config(RopeScaling::Linear(4.0)), None, &Device::Cpu).unwrap();
        assert_eq!(cosines(&scaled, 400), cosines(&plain, 100));
    }

    #[test]
    fn factors_divide_frequencies() {
        let factors = [1.0, 2.0, 4.0, 8.0];
        let rope =
            Rope::new(&config(RopeScaling::PerFrequency), Some(&factors), &Device::Cpu).unwrap();
        let expected: Vec<f32> = factors
            .iter()
            .zip(0..)
            .map(|(f, i)| (50.0 * 10f64.powi(-i) / f64::from(*f)).cos() as f32)
            .collect();
        assert_eq!(cosines(&rope, 50), expected);
    }

    #[test]
    fn a_factor_that_is_not_positive_is_an_error() {
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = Rope::new(
                &config(RopeScaling::PerFrequency),
                Some(&[1.0, bad, 1.0, 1.0]),
                &Device::Cpu,
            );
            assert!(error.unwrap_err().to_string().contains("rope_freqs.weight"));
        }
    }
}
