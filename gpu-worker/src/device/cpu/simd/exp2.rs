//! The exponential of the softmax.

use super::vector::Simd;

/// Minimax polynomial of `2^r` on `[-1/2, 1/2]`, relative error 2e-9; lowest degree first.
const EXP2: [f32; 7] = [
    1.0,
    std::f32::consts::LN_2,
    0.240_226_46,
    0.055_503_286,
    0.009_618_489,
    0.001_339_993_1,
    0.000_153_458_12,
];

/// `2^x` for `x <= 0`, within 1 ulp (2 without fused multiply-add) of the exact value, and exactly 1 at 0.
///
/// Results under `2^-125` are 0, which includes `x = -inf`; NaN stays NaN.
#[inline(always)]
pub(super) fn exp2<S: Simd>(s: S, x: S::F32) -> S::F32 {
    let whole = s.round(x);
    let rest = s.sub(x, whole);
    let mut power = s.splat(EXP2[6]);
    for &coefficient in EXP2[..6].iter().rev() {
        power = s.fma(power, rest, s.splat(coefficient));
    }
    s.scale_by_power_of_two(power, whole, x)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `2^x` of each number, in vectors of `s`.
    fn exp2_of<S: Simd>(s: S, numbers: &[f32]) -> Vec<f32> {
        let mut powers = vec![0.0; numbers.len().next_multiple_of(S::LANES)];
        powers[..numbers.len()].copy_from_slice(numbers);
        for chunk in powers.chunks_exact_mut(S::LANES) {
            // SAFETY: a chunk holds `LANES` floats.
            unsafe { s.store(chunk.as_mut_ptr(), exp2(s, s.load(chunk.as_ptr()))) };
        }
        powers.truncate(numbers.len());
        powers
    }

    /// Checks that [`exp2`] is at most `ulps` off with the vectors of one instruction set.
    pub(in super::super) fn assert_exp2_is_accurate<S: Simd>(s: S, ulps: f64) {
        let numbers: Vec<f32> = (0..=250_000).map(|step| step as f32 / -2000.0).collect();
        for (x, power) in numbers.iter().zip(exp2_of(s, &numbers)) {
            let exact = f64::from(*x).exp2();
            let ulp =
                f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            assert!(
                (f64::from(power) - exact).abs() <= ulps * ulp,
                "2^{x} is {exact:e}, not {power:e}"
            );
        }
        let special = [0.0, -0.0, -125.1, -1e6, f32::MIN, f32::NEG_INFINITY];
        assert_eq!(exp2_of(s, &special), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(exp2_of(s, &[f32::NAN])[0].is_nan());
    }
}
