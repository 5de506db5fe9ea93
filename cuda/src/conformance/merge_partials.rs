//! Merging random partial results, some of which are empty.

use super::{
    Device, Outcome,
    bench::Bench,
    cache::{generator, random},
};
use crate::launch::{self, Argument};

const HEADS: usize = 5;

pub(super) fn check<D: Device>(bench: &mut Bench<'_, D>) -> Outcome<(), D> {
    for dim in launch::HEAD_DIMS {
        for splits in [1, 2, 9, 33] {
            check_case(bench, dim as usize, splits)?;
        }
    }
    Ok(())
}

fn check_case<D: Device>(bench: &mut Bench<'_, D>, dim: usize, splits: usize) -> Outcome<(), D> {
    bench.case(format!("merge of {splits} partials of {HEADS} heads of {dim}"));
    let mut generator = generator(splits as u32);
    // The last head has no keys at all, and every third partial of the others is empty.
    let empty = |split: usize, head: usize| head == HEADS - 1 || (split + head) % 3 == 2;
    let mut outs = vec![0.0; splits * HEADS * dim];
    let mut lses = vec![f32::NEG_INFINITY; splits * HEADS];
    for (row, lse) in lses.iter_mut().enumerate() {
        if !empty(row / HEADS, row % HEADS) {
            *lse = random(&mut generator) * 30.0;
            outs[row * dim..(row + 1) * dim].fill_with(|| random(&mut generator));
        }
    }
    let inputs = (bench.input(&outs)?, bench.input(&lses)?);
    let out = bench.output(&[f32::NAN].repeat(HEADS * dim))?;
    let lse = bench.output(&[f32::NAN; HEADS])?;
    bench.launch(
        &launch::merge_partials(HEADS as u32)?,
        &[
            Argument::Address(bench.address(&inputs.0)),
            Argument::Address(bench.address(&inputs.1)),
            Argument::U32(splits as u32),
            Argument::U32(HEADS as u32),
            Argument::U32(dim as u32),
            Argument::Address(bench.output_address(&out)),
            Argument::Address(bench.output_address(&lse)),
        ],
    )?;
    let (out, lse): (Vec<f32>, Vec<f32>) = (bench.read(&out)?, bench.read(&lse)?);
    for head in 0..HEADS {
        let of_head = |split: usize| split * HEADS + head;
        let weights: Vec<f64> =
            (0..splits).map(|split| f64::from(lses[of_head(split)]).exp()).collect();
        let total: f64 = weights.iter().sum();
        let column = |d: usize| {
            (0..splits)
                .map(|split| weights[split] * f64::from(outs[of_head(split) * dim + d]))
                .sum::<f64>()
        };
        let want: Vec<f64> =
            (0..dim).map(|d| if total > 0.0 { column(d) / total } else { 0.0 }).collect();
        bench.close("out", &out[head * dim..(head + 1) * dim], &want, 1.0)?;
        bench.close("lse", &lse[head..=head], &[total.ln()], 1.0)?;
    }
    Ok(())
}
