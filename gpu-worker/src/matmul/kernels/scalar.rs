//! Kernels in plain Rust, for every processor; the vector kernels are tested against them.

use super::Isa;
use crate::matmul::activations::{Block32, Block256};
use crate::matmul::format::{Nested, Simple};
use crate::matmul::layout::{ROWS, SCALE_BYTES, UNIT, codes, part_index, scale};

/// Any processor.
#[derive(Debug, Clone, Copy)]
pub(in crate::matmul) struct Scalar;

/// Adds to each row's sum the products of its codes, in groups of 4, with the activations.
fn dot(sums: &mut [i32; ROWS], codes: &[u8], words: &[i32]) {
    for (codes, word) in codes.chunks_exact(4 * ROWS).zip(words) {
        let x = word.to_ne_bytes().map(|byte| i32::from(byte.cast_signed()));
        for (sum, codes) in sums.iter_mut().zip(codes.as_chunks::<4>().0) {
            for (&code, x) in codes.iter().zip(x) {
                *sum += i32::from(code) * x;
            }
        }
    }
}

/// The sum of part `part` from words of two.
fn part_sum(sums: &[i32], part: usize) -> i32 {
    let word = sums[part / 2];
    if part.is_multiple_of(2) { word << 16 >> 16 } else { word >> 16 }
}

fn scales(run: &[u8]) -> [f32; ROWS] {
    std::array::from_fn(|row| scale(run, row))
}

impl Isa for Scalar {
    const BATCH: usize = 4;

    fn simple<F: Simple, const M: usize>(
        self,
        panel: &[u8],
        rows: [&[Block32]; M],
    ) -> [[f32; ROWS]; M] {
        let mut sums = [[0.0; ROWS]; M];
        let bytes = F::CODES + if F::MINIMUM { 2 * SCALE_BYTES } else { SCALE_BYTES };
        for (index, block) in panel.chunks_exact(bytes).enumerate() {
            let codes = codes(F::BITS, block);
            let d = scales(&block[F::CODES..]);
            let minima =
                if F::MINIMUM { scales(&block[F::CODES + SCALE_BYTES..]) } else { [0.0; ROWS] };
            for (sums, x) in sums.iter_mut().zip(rows) {
                let x = &x[index];
                let mut dots = [F::OFFSET.map_or(0, |power| x.minus_sum << power); ROWS];
                dot(&mut dots, &codes, &x.words);
                for row in 0..ROWS {
                    sums[row] += dots[row] as f32 * (d[row] * x.scale);
                    if F::MINIMUM {
                        sums[row] += minima[row] * x.sum;
                    }
                }
            }
        }
        sums
    }

    fn nested<F: Nested, const M: usize>(
        self,
        panel: &[u8],
        rows: [&[Block256]; M],
    ) -> [[f32; ROWS]; M] {
        let mut sums = [[0.0; ROWS]; M];
        let bytes = F::SCALE + if F::MINIMUM { 2 * SCALE_BYTES } else { SCALE_BYTES };
        for (index, block) in panel.chunks_exact(bytes).enumerate() {
            let d = scales(&block[F::SCALE..]);
            let mut scaled = [[0; ROWS]; M];
            let mut shifts = [[0; ROWS]; M];
            for part in 0..256 / F::PART {
                let unit = &block[part * F::PART / UNIT * F::UNIT..][..F::UNIT];
                let codes = codes(F::BITS, unit);
                let first = part * F::PART % UNIT;
                let byte = |row| block[F::PART_SCALES + part_index(part, row)];
                let minimum =
                    |row| block[F::PART_SCALES + F::PART_SCALE_BYTES + part_index(part, row)];
                for (m, x) in rows.iter().enumerate() {
                    let x = &x[index];
                    let words = &x.words[part * F::PART / UNIT][first / 4..][..F::PART / 4];
                    let mut dots = [0; ROWS];
                    dot(&mut dots, &codes[first * ROWS..], words);
                    let sum = match F::PART {
                        16 => part_sum(&x.sums_of_16, part),
                        _ => part_sum(&x.sums_of_32, part),
                    };
                    for row in 0..ROWS {
                        let factor = i32::from(byte(row).cast_signed());
                        scaled[m][row] += factor * dots[row];
                        if let Some(power) = F::OFFSET {
                            scaled[m][row] -= factor * (sum << power);
                        }
                        if F::MINIMUM {
                            shifts[m][row] += i32::from(minimum(row)) * sum;
                        }
                    }
                }
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                let x = &rows[m][index];
                for row in 0..ROWS {
                    sums[row] += scaled[m][row] as f32 * (d[row] * x.scale);
                    if F::MINIMUM {
                        let dmin = scale(&block[F::SCALE + SCALE_BYTES..], row);
                        sums[row] -= shifts[m][row] as f32 * (dmin * x.scale);
                    }
                }
            }
        }
        sums
    }
}
