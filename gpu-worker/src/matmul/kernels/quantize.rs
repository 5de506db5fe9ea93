//! Quantizing activations. Plain Rust that vectorises: the instruction sets compile it again with their features.
//!
//! The loops are plain `for` over indices, so that nothing in them is left to be called without those features.

#![expect(clippy::needless_range_loop, reason = "adapters would not be inlined")]

use crate::matmul::activations::{Block32, Block256};

/// The largest magnitude. Not a number counts as larger than all, so that it shows in the scale.
#[inline(always)]
fn largest_magnitude(x: &[f32]) -> f32 {
    let mut largest = 0;
    for value in x {
        largest = largest.max(value.abs().to_bits());
    }
    f32::from_bits(largest)
}

/// Added to a whole number of at most 22 bits, leaves it in the low bits of the sum.
const WHOLE: f32 = 12_582_912.0;

/// The codes of 32 values, rounded half away from zero. Not a number has any code.
#[inline(always)]
fn codes(x: &[f32; 32], factor: f32) -> [i8; 32] {
    let mut codes = [0; 32];
    for i in 0..32 {
        // A saturating cast from f32 would not vectorise.
        let whole = (x[i] * factor).round().clamp(-127.0, 127.0);
        codes[i] = (whole + WHOLE).to_bits() as i8;
    }
    codes
}

#[inline(always)]
fn words(codes: &[i8; 32]) -> [i32; 8] {
    let mut words = [0; 8];
    for i in 0..8 {
        let byte = |b: usize| codes[4 * i + b].cast_unsigned();
        words[i] = i32::from_ne_bytes([byte(0), byte(1), byte(2), byte(3)]);
    }
    words
}

#[inline(always)]
fn sum(codes: &[i8]) -> i32 {
    let mut sum = 0;
    for &code in codes {
        sum += i32::from(code);
    }
    sum
}

/// The nearest value of f16, ties to even.
#[inline(always)]
fn round_to_f16(value: f32) -> f32 {
    let bits = value.to_bits();
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    // Ten fraction bits: add half of what is cut off, less 1 if the last bit kept is even, and cut.
    let normal = f32::from_bits(((bits & 0x7fff_ffff) + 0xfff + (bits >> 13 & 1)) & !0x1fff);
    // Multiples of 2^-24, which is half a unit of 0.75 in its last place.
    let subnormal = (magnitude + 0.75) - 0.75;
    let rounded = match magnitude {
        _ if magnitude < 6.103_515_6e-5 => subnormal,
        _ if magnitude < 65520.0 => normal,
        _ => magnitude + f32::INFINITY,
    };
    rounded.copysign(value)
}

/// Two sums of at most 32 codes in the halves of a word.
#[inline(always)]
fn pair(low: i32, high: i32) -> i32 {
    low & 0xffff | high << 16
}

/// Quantizes blocks of 32 as GGUF's Q8_0 and Q8_1.
#[inline(always)]
pub(super) fn blocks_32(x: &[[f32; 32]], blocks: &mut [Block32]) {
    for i in 0..x.len().min(blocks.len()) {
        let (x, block) = (&x[i], &mut blocks[i]);
        let scale = largest_magnitude(x) / 127.0;
        let factor = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let codes = codes(x, factor);
        let sum = sum(&codes);
        let scale = round_to_f16(scale);
        *block = Block32 {
            words: words(&codes),
            scale,
            minus_sum: -sum,
            // Candle holds the sum, the scale and their product each as f16.
            sum: round_to_f16(round_to_f16(sum as f32) * scale),
        };
    }
}

/// Quantizes blocks of 256 as GGUF's Q8_K: the value of the largest magnitude gets the code −127.
#[inline(always)]
pub(super) fn blocks_256(x: &[[f32; 256]], blocks: &mut [Block256]) {
    for i in 0..x.len().min(blocks.len()) {
        let (x, block) = (&x[i], &mut blocks[i]);
        let largest = largest_magnitude(x);
        if largest == 0.0 {
            *block = Block256::default();
            continue;
        }
        // The first of that magnitude, for its sign.
        let extreme = x.iter().copied().find(|value| value.abs() == largest).unwrap_or(largest);
        let factor = -127.0 / extreme;
        block.scale = 1.0 / factor;
        let x = x.as_chunks::<32>().0;
        for unit in 0..8 {
            let codes = codes(&x[unit], factor);
            block.words[unit] = words(&codes);
            let (first, second) = (sum(&codes[..16]), sum(&codes[16..]));
            block.sums_of_16[unit] = pair(first, second);
            block.sums_of_32[unit / 2] = if unit % 2 == 0 {
                pair(first + second, 0)
            } else {
                block.sums_of_32[unit / 2] | pair(0, first + second)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn rounding_to_f16_is_that_of_the_half_crate() {
        let near = |value: f32| (-2..=2).map(move |step| value.to_bits().wrapping_add_signed(step));
        let halves = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32());
        let ties = (0..0x7c00).map(|bits| {
            let low = f16::from_bits(bits).to_f32();
            let high = f16::from_bits(bits + 1).to_f32().min(65536.0);
            f32::midpoint(low, high)
        });
        let others = (0..4096_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        for bits in halves.chain(ties).chain(others).flat_map(near) {
            let value = f32::from_bits(bits);
            let (ours, expected) = (round_to_f16(value), f16::from_f32(value).to_f32());
            assert!(ours.to_bits() == expected.to_bits() || ours.is_nan() && expected.is_nan());
        }
    }
}
