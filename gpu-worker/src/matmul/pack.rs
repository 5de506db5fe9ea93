//! From GGUF blocks to panels.

use super::format::{Format, Nested, Q4_1, Q4K, Q5_1, Q5K, Q6K, Q8_0, Simple};
use super::layout::{
    SCALE_BYTES, UNIT, part_index, put_bytes, put_fifth_bits, put_nibbles, put_upper_pairs,
};

/// Fills `panel` from the blocks of up to 16 rows of `row_bytes` each.
///
/// Rows that the matrix does not have keep the zeros of `panel`: their scales, and so their products, are zero.
pub(super) fn pack_panel(format: Format, rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    let size = format.source_bytes();
    for (index, target) in panel.chunks_exact_mut(format.panel_block_bytes()).enumerate() {
        for (row, source) in rows.chunks_exact(row_bytes).enumerate() {
            let block = &source[index * size..][..size];
            match format {
                Format::Q4_0 => nibbles(block, 0, target, row),
                Format::Q4_1 => {
                    nibbles(block, 2, target, row);
                    half_float(&block[2..], target, Q4_1::CODES + SCALE_BYTES, row);
                }
                Format::Q5_0 => fives(block, 0, target, row),
                Format::Q5_1 => {
                    fives(block, 2, target, row);
                    half_float(&block[2..], target, Q5_1::CODES + SCALE_BYTES, row);
                }
                Format::Q8_0 => bytes(block, target, row),
                Format::Q4K => k_with_minima::<Q4K>(block, target, row),
                Format::Q5K => k_with_minima::<Q5K>(block, target, row),
                Format::Q6K => q6_k(block, target, row),
            }
        }
    }
}

/// Copies the two bytes of a 16-bit float to a row's place in the run that begins at `at`.
fn half_float(source: &[u8], target: &mut [u8], at: usize, row: usize) {
    target[at + 2 * row..][..2].copy_from_slice(&source[..2]);
}

/// The `N` bytes of `block` from `at` on.
fn array<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a block is as long as its format says")
}

/// `d`, `extra` bytes, 16 bytes of nibbles.
fn nibbles(block: &[u8], extra: usize, target: &mut [u8], row: usize) {
    put_nibbles(target, row, array(block, 2 + extra));
    half_float(block, target, Q4_1::CODES, row);
}

/// `d`, `extra` bytes, 4 bytes of fifth bits, 16 bytes of nibbles.
fn fives(block: &[u8], extra: usize, target: &mut [u8], row: usize) {
    put_fifth_bits(target, row, u32::from_le_bytes(*array(block, 2 + extra)));
    put_nibbles(target, row, array(block, 6 + extra));
    half_float(block, target, Q5_1::CODES, row);
}

/// `d`, 32 signed bytes; flipping the top bit adds 128.
fn bytes(block: &[u8], target: &mut [u8], row: usize) {
    put_bytes(target, row, &array::<32>(block, 2).map(|code| code ^ 0x80));
    half_float(block, target, Q8_0::CODES, row);
}

/// The 6-bit scale and minimum of a part, from the 12 bytes that hold 8 of each.
fn scale_and_minimum(part: usize, packed: &[u8; 12]) -> (u8, u8) {
    if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        let both = packed[part + 4];
        (both & 15 | packed[part - 4] >> 6 << 4, both >> 4 | packed[part] >> 6 << 4)
    }
}

/// `d`, `dmin`, 12 bytes of scales and minima, for 5-bit codes 32 bytes of fifth bits, 128 bytes of nibbles.
fn k_with_minima<F: Nested>(block: &[u8], target: &mut [u8], row: usize) {
    let scales: &[u8; 12] = array(block, 4);
    let (fifth, low) = if F::BITS == 5 { (Some(array::<32>(block, 16)), 48) } else { (None, 16) };
    for part in 0..8 {
        let unit = &mut target[part * F::UNIT..][..F::UNIT];
        let source: &[u8; UNIT] = array(block, low + part / 2 * UNIT);
        let nibble = |j: usize| source[j] >> (4 * (part % 2)) & 15;
        put_nibbles(unit, row, &std::array::from_fn(|j| nibble(j) | nibble(j + 16) << 4));
        if let Some(fifth) = fifth {
            let bit = |j: usize| u32::from(fifth[j] >> part & 1) << j;
            put_fifth_bits(unit, row, (0..UNIT).fold(0, |bits, j| bits | bit(j)));
        }
        let (scale, minimum) = scale_and_minimum(part, scales);
        let at = F::PART_SCALES + part_index(part, row);
        target[at] = scale;
        target[at + F::PART_SCALE_BYTES] = minimum;
    }
    half_float(block, target, F::SCALE, row);
    half_float(&block[2..], target, F::SCALE + SCALE_BYTES, row);
}

/// 128 bytes of nibbles, 64 bytes of upper pairs, 16 signed scales, `d`.
fn q6_k(block: &[u8], target: &mut [u8], row: usize) {
    for unit in 0..8 {
        let (half, quarter) = (unit / 4, unit % 4);
        let low: &[u8; UNIT] = array(block, 64 * half + 32 * (quarter % 2));
        let high: &[u8; UNIT] = array(block, 128 + 32 * half);
        let nibble = |j: usize| low[j] >> (4 * (quarter / 2)) & 15;
        let target = &mut target[unit * Q6K::UNIT..][..Q6K::UNIT];
        put_nibbles(target, row, &std::array::from_fn(|j| nibble(j) | nibble(j + 16) << 4));
        put_upper_pairs(target, row, &high.map(|byte| byte >> (2 * quarter) & 3));
    }
    for part in 0..16 {
        target[Q6K::PART_SCALES + part_index(part, row)] = block[192 + part];
    }
    half_float(&block[208..], target, Q6K::SCALE, row);
}
