//! Where the weights of a panel lie.
//!
//! A panel is 16 rows of the matrix, block after block along the columns, so that one 32-bit lane of a vector is one
//! row and no sum crosses lanes. Columns come in units of 32, a unit in 8 groups of 4; *lane byte* `4·row + column % 4`
//! of a 64-byte plane belongs to one row and one column of a group. The codes of a unit, by their bits:
//!
//! | bits | planes | content |
//! |---|---|---|
//! | 4, 5, 6 | 4 of nibbles | plane `g`: group `g` in the low nibble, group `g + 4` in the high one |
//! | 5 | 1 of fifth bits | bit `g`: group `g` |
//! | 6 | 2 of upper pairs | plane `g / 4`, bits `2·(g % 4)` and up: group `g` |
//! | 8 | 8 | plane `g`: group `g` |
//!
//! A block of 32 columns is a unit, then 16 scales, then (if the format has them) 16 minima, as little-endian f16. A
//! block of 256 columns is 8 units, then one byte per part and row for the scales of its parts (those of two
//! neighbouring parts side by side: `(part / 2)·32 + 2·row + part % 2`), the same for their minima, then 16 scales and
//! 16 scales of the minima as f16.

use half::f16;

/// Rows of a panel.
pub(super) const ROWS: usize = 16;
/// Columns of a unit.
pub(super) const UNIT: usize = 32;
/// Bytes that one bit of the codes of a unit takes.
pub(super) const CODE_BYTES_PER_BIT: usize = ROWS * UNIT / 8;
/// Bytes of one 16-bit float per row.
pub(super) const SCALE_BYTES: usize = 2 * ROWS;

const PLANE: usize = 4 * ROWS;
const NIBBLES: usize = 4 * PLANE;

/// The code at (`row`, `column`) of a unit of `bits`-bit codes.
pub(super) fn code(bits: usize, unit: &[u8], row: usize, column: usize) -> u8 {
    let group = column / 4;
    let lane = 4 * row + column % 4;
    if bits == 8 {
        return unit[group * PLANE + lane];
    }
    let nibble = unit[(group % 4) * PLANE + lane] >> (4 * (group / 4)) & 0x0f;
    let upper = match bits {
        5 => unit[NIBBLES + lane] >> group & 1,
        6 => unit[NIBBLES + group / 4 * PLANE + lane] >> (2 * (group % 4)) & 3,
        _ => 0,
    };
    nibble | upper << 4
}

/// All codes of a unit, in the order (group, row, column of the group).
pub(super) fn codes(bits: usize, unit: &[u8]) -> [u8; ROWS * UNIT] {
    let mut codes = [0; ROWS * UNIT];
    for (group, plane) in codes.chunks_exact_mut(PLANE).enumerate() {
        if bits == 8 {
            plane.copy_from_slice(&unit[group * PLANE..][..PLANE]);
            continue;
        }
        let nibbles = &unit[(group % 4) * PLANE..][..PLANE];
        for (code, byte) in plane.iter_mut().zip(nibbles) {
            *code = byte >> (4 * (group / 4)) & 0x0f;
        }
        if bits == 5 {
            for (code, byte) in plane.iter_mut().zip(&unit[NIBBLES..]) {
                *code |= (byte >> group & 1) << 4;
            }
        } else if bits == 6 {
            let pairs = &unit[NIBBLES + group / 4 * PLANE..];
            for (code, byte) in plane.iter_mut().zip(pairs) {
                *code |= (byte >> (2 * (group % 4)) & 3) << 4;
            }
        }
    }
    codes
}

/// Writes the 32 8-bit codes of a row.
pub(super) fn put_bytes(unit: &mut [u8], row: usize, codes: &[u8; UNIT]) {
    for (group, code) in codes.as_chunks::<4>().0.iter().enumerate() {
        unit[group * PLANE + 4 * row..][..4].copy_from_slice(code);
    }
}

/// Writes the low 4 bits of a row's 32 codes: byte `j` holds columns `j` and, above it, `j + 16`.
pub(super) fn put_nibbles(unit: &mut [u8], row: usize, nibbles: &[u8; 16]) {
    for (plane, bytes) in nibbles.as_chunks::<4>().0.iter().enumerate() {
        unit[plane * PLANE + 4 * row..][..4].copy_from_slice(bytes);
    }
}

/// Writes the fifth bits of a row's 32 codes: bit `j` of `bits` belongs to column `j`.
pub(super) fn put_fifth_bits(unit: &mut [u8], row: usize, bits: u32) {
    for column in 0..4 {
        // Every fourth bit, pushed together into one byte.
        let spread = bits >> column & 0x1111_1111;
        let pairs = (spread | spread >> 3) & 0x0303_0303;
        let nibbles = (pairs | pairs >> 6) & 0x000f_000f;
        let [byte, ..] = (nibbles | nibbles >> 12).to_le_bytes();
        unit[NIBBLES + 4 * row + column] = byte;
    }
}

/// Writes the upper two bits of a row's 32 6-bit codes, one column per byte of `upper`.
pub(super) fn put_upper_pairs(unit: &mut [u8], row: usize, upper: &[u8; UNIT]) {
    for (half, columns) in upper.as_chunks::<16>().0.iter().enumerate() {
        for column in 0..4 {
            let byte =
                (0..4).fold(0, |byte, group| byte | columns[4 * group + column] << (2 * group));
            unit[NIBBLES + half * PLANE + 4 * row + column] = byte;
        }
    }
}

/// Where the scale (or minimum) of a part stands for a row, from the start of the parts' scales (or minima).
pub(super) fn part_index(part: usize, row: usize) -> usize {
    part / 2 * (2 * ROWS) + 2 * row + part % 2
}

/// The 16-bit float of a row in a run of 16.
pub(super) fn scale(scales: &[u8], row: usize) -> f32 {
    f16::from_le_bytes([scales[2 * row], scales[2 * row + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_back_at_every_place() {
        for bits in [4, 5, 6, 8] {
            let mut unit = vec![0; bits * CODE_BYTES_PER_BIT];
            let expected = |row: usize, column: usize| -> u8 {
                let mixed = ((row * UNIT + column) * 2_654_435_761) >> 7;
                (mixed % (1 << bits)) as u8
            };
            for row in 0..ROWS {
                let codes: [u8; UNIT] = std::array::from_fn(|column| expected(row, column));
                if bits == 8 {
                    put_bytes(&mut unit, row, &codes);
                    continue;
                }
                let nibble = |j: usize| codes[j] & 0x0f;
                put_nibbles(
                    &mut unit,
                    row,
                    &std::array::from_fn(|j| nibble(j) | nibble(j + 16) << 4),
                );
                let upper = codes.map(|code| code >> 4);
                if bits == 5 {
                    let word = (0..UNIT).fold(0, |word, j| word | u32::from(upper[j]) << j);
                    put_fifth_bits(&mut unit, row, word);
                } else if bits == 6 {
                    put_upper_pairs(&mut unit, row, &upper);
                }
            }
            let all = codes(bits, &unit);
            for row in 0..ROWS {
                for column in 0..UNIT {
                    assert_eq!(code(bits, &unit, row, column), expected(row, column));
                    let at = column / 4 * PLANE + 4 * row + column % 4;
                    assert_eq!(all[at], expected(row, column));
                }
            }
        }
    }
}
