//! Weights back to floats, one row at a time.

use super::format::{Format, Nested, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Simple, Weights};
use super::layout::{SCALE_BYTES, UNIT, code, part_index, scale};

/// Sets `out` to the weights of a row of a panel, by the same operations in the same order as candle.
pub(super) fn dequantize(format: Format, panel: &[u8], row: usize, out: &mut [f32]) {
    match format {
        Format::Q4_0 => simple::<Q4_0>(panel, row, out),
        Format::Q4_1 => simple::<Q4_1>(panel, row, out),
        Format::Q5_0 => simple::<Q5_0>(panel, row, out),
        Format::Q5_1 => simple::<Q5_1>(panel, row, out),
        Format::Q8_0 => simple::<Q8_0>(panel, row, out),
        Format::Q4K => nested::<Q4K>(panel, row, out),
        Format::Q5K => nested::<Q5K>(panel, row, out),
        Format::Q6K => nested::<Q6K>(panel, row, out),
    }
}

/// The signed weight of a code.
fn signed(code: u8, offset: Option<u32>) -> f32 {
    f32::from(i16::from(code) - offset.map_or(0, |power| 1 << power))
}

fn simple<F: Simple + Weights>(panel: &[u8], row: usize, out: &mut [f32]) {
    for (block, out) in panel.chunks_exact(F::BYTES).zip(out.as_chunks_mut::<UNIT>().0) {
        let d = scale(&block[F::CODES..], row);
        for (column, value) in out.iter_mut().enumerate() {
            *value = signed(code(F::BITS, block, row, column), F::OFFSET) * d;
        }
        if F::MINIMUM {
            let minimum = scale(&block[F::CODES + SCALE_BYTES..], row);
            out.iter_mut().for_each(|value| *value += minimum);
        }
    }
}

fn nested<F: Nested + Weights>(panel: &[u8], row: usize, out: &mut [f32]) {
    for (block, out) in panel.chunks_exact(F::BYTES).zip(out.as_chunks_mut::<256>().0) {
        let d = scale(&block[F::SCALE..], row);
        for (part, out) in out.chunks_exact_mut(F::PART).enumerate() {
            let at = F::PART_SCALES + part_index(part, row);
            let d = d * f32::from(block[at].cast_signed());
            for (j, value) in out.iter_mut().enumerate() {
                let column = part * F::PART + j;
                let unit = &block[column / UNIT * F::UNIT..];
                *value = d * signed(code(F::BITS, unit, row, column % UNIT), F::OFFSET);
            }
            if F::MINIMUM {
                let minimum = scale(&block[F::SCALE + SCALE_BYTES..], row)
                    * f32::from(block[at + F::PART_SCALE_BYTES]);
                out.iter_mut().for_each(|value| *value -= minimum);
            }
        }
    }
}
