//! Quantizing activations. Plain Rust that vectorises: the instruction sets compile it again with their features.

use half::f16;

use crate::matmul::activations::{Block32, Block256};

/// The largest magnitude. Not a number counts as larger than all, so that it shows in the scale.
#[inline(always)]
fn largest_magnitude(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |largest, value| largest.max(value.abs().to_bits())))
}

/// The codes of 32 values, rounded half away from zero.
#[inline(always)]
fn codes(x: &[f32; 32], factor: f32) -> [i8; 32] {
    x.map(|value| (value * factor).round() as i8)
}

#[inline(always)]
fn words(codes: &[i8; 32]) -> [i32; 8] {
    std::array::from_fn(|word| {
        i32::from_ne_bytes(std::array::from_fn(|byte| codes[4 * word + byte].cast_unsigned()))
    })
}

#[inline(always)]
fn sum(codes: &[i8]) -> i32 {
    codes.iter().map(|&code| i32::from(code)).sum()
}

/// Two sums of at most 32 codes in the halves of a word.
#[inline(always)]
fn pair(low: i32, high: i32) -> i32 {
    low & 0xffff | high << 16
}

/// Quantizes blocks of 32 as GGUF's Q8_0 and Q8_1.
#[inline(always)]
pub(super) fn blocks_32(x: &[[f32; 32]], blocks: &mut [Block32]) {
    for (x, block) in x.iter().zip(blocks) {
        let scale = largest_magnitude(x) / 127.0;
        let factor = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let codes = codes(x, factor);
        let sum = sum(&codes);
        let scale = f16::from_f32(scale);
        *block = Block32 {
            words: words(&codes),
            scale: scale.to_f32(),
            minus_sum: -sum,
            // Exact: whole numbers up to 2,048 are f16 values, and larger ones round as candle's do.
            sum: (f16::from_f32(sum as f32) * scale).to_f32(),
        };
    }
}

/// Quantizes blocks of 256 as GGUF's Q8_K: the value of the largest magnitude gets the code −127.
#[inline(always)]
pub(super) fn blocks_256(x: &[[f32; 256]], blocks: &mut [Block256]) {
    for (x, block) in x.iter().zip(blocks) {
        let largest = largest_magnitude(x);
        if largest == 0.0 {
            *block = Block256::default();
            continue;
        }
        // The first of that magnitude, for its sign.
        let extreme = x.iter().copied().find(|value| value.abs() == largest).unwrap_or(largest);
        let factor = -127.0 / extreme;
        block.scale = 1.0 / factor;
        let mut sums_of_16 = [0; 16];
        for ((x, words_out), sums) in x
            .as_chunks::<32>()
            .0
            .iter()
            .zip(&mut block.words)
            .zip(sums_of_16.as_chunks_mut::<2>().0)
        {
            let codes = codes(x, factor);
            *words_out = words(&codes);
            *sums = [sum(&codes[..16]), sum(&codes[16..])];
        }
        block.sums_of_16 = std::array::from_fn(|i| pair(sums_of_16[2 * i], sums_of_16[2 * i + 1]));
        let sums_of_32: [i32; 8] =
            std::array::from_fn(|i| sums_of_16[2 * i] + sums_of_16[2 * i + 1]);
        block.sums_of_32 = std::array::from_fn(|i| pair(sums_of_32[2 * i], sums_of_32[2 * i + 1]));
    }
}
