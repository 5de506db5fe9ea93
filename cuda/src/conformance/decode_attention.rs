//! Decode attention over two halves of each head's list, and their merge.

use super::{
    Device, Outcome,
    bench::{Bench, Output},
    cache::{Cache, HIGH_SLOTS, Layout, generator, random},
    reference,
};
use crate::launch::{self, Argument, Element};

/// Tokens of the first head; that of the others follow from it.
const LENGTHS: [usize; 9] = [1, 7, 16, 33, 64, 100, 130, 259, 400];
const GROUPS: [u32; 7] = [1, 3, 4, 7, 8, 11, 16];

struct Case {
    layout: Layout,
    group: u32,
    lengths: [usize; 3],
    /// Of both halves.
    splits: [u32; 2],
    first_slot: u32,
    /// How many times as large as usual scores are: large ones differ by more than the exponents of floats.
    sharpness: f32,
    seed: u32,
}

pub(super) fn check<D: Device>(bench: &mut Bench<'_, D>) -> Outcome<(), D> {
    let mut seed = 0_u32;
    for element in [Element::F16, Element::Bf16] {
        for dim in launch::HEAD_DIMS {
            for group in GROUPS {
                for block_tokens in [8, 16, 32, 64] {
                    seed += 1;
                    let length = LENGTHS[seed as usize % LENGTHS.len()];
                    let case = Case {
                        layout: Layout { element, dim: dim as usize, block_tokens },
                        group,
                        lengths: [length, 0, 1 + length * 5 / 7],
                        splits: [1 + seed % 5, 1 + seed / 5 % 3],
                        first_slot: if seed.is_multiple_of(8) { HIGH_SLOTS } else { 0 },
                        sharpness: if seed.is_multiple_of(6) { 30.0 } else { 1.0 },
                        seed,
                    };
                    case.check(bench)?;
                }
            }
        }
    }
    Ok(())
}

impl Case {
    fn check<D: Device>(&self, bench: &mut Bench<'_, D>) -> Outcome<(), D> {
        let Layout { element, dim, block_tokens } = self.layout;
        bench.case(format!(
            "decode attention, {element}, heads of {dim}, group {}, blocks of {block_tokens}, tokens {:?}, splits {:?}, slots from {}, sharpness {}",
            self.group, self.lengths, self.splits, self.first_slot, self.sharpness
        ));
        let mut generator = generator(self.seed);
        let cache = Cache::new(self.layout, &self.lengths, &mut generator);
        let heads = self.lengths.len() * self.group as usize;
        let queries: Vec<f32> =
            (0..heads * dim).map(|_| random(&mut generator) * 6.0 * self.sharpness).collect();
        let scale = 1.0 / (dim as f32).sqrt();

        // Partial 0 belongs to somebody else.
        let partials = 1 + self.splits[0] + self.splits[1];
        let partial_out = bench.output(&vec![f32::NAN; partials as usize * heads * dim])?;
        let partial_lse = bench.output(&vec![f32::NAN; partials as usize * heads])?;
        let query_buffer = bench.input(&queries)?;
        let pool = bench.input(&cache.pool)?;
        let cuts: Vec<usize> = cache.heads.iter().map(|head| head.slots.len() / 3).collect();
        let halves = [
            cuts.iter().map(|&cut| 0..cut).collect::<Vec<_>>(),
            cache.heads.iter().zip(&cuts).map(|(head, &cut)| cut..head.slots.len()).collect(),
        ];
        let mut first_split = 1;
        for (ranges, splits) in halves.iter().zip(self.splits) {
            let (slots, counts) = cache.lists(ranges, self.first_slot);
            let last_tokens: Vec<u32> = self
                .lengths
                .iter()
                .zip(ranges)
                .map(|(&tokens, range)| {
                    (tokens.min(range.end * block_tokens) - (range.end.max(1) - 1) * block_tokens)
                        as u32
                })
                .collect();
            let buffers = (bench.input(&slots)?, bench.input(&counts)?, bench.input(&last_tokens)?);
            let launch = launch::decode_attention(
                element,
                dim as u32,
                self.lengths.len() as u32,
                self.group,
                block_tokens as u32,
                splits,
            )?;
            bench.launch(
                &launch,
                &[
                    Argument::Address(bench.address(&query_buffer)),
                    Argument::Address(self.layout.base(bench.address(&pool), self.first_slot)),
                    Argument::Address(bench.address(&buffers.0)),
                    Argument::Address(bench.address(&buffers.1)),
                    Argument::Address(bench.address(&buffers.2)),
                    Argument::U32(Cache::stride(ranges) as u32),
                    Argument::U32(self.group),
                    Argument::U32(block_tokens as u32),
                    Argument::U32(splits),
                    Argument::U32(first_split),
                    Argument::F32(scale),
                    Argument::Address(bench.output_address(&partial_out)),
                    Argument::Address(bench.output_address(&partial_lse)),
                ],
            )?;
            first_split += splits;
        }
        let out: Vec<f32> = bench.read(&partial_out)?;
        let lse: Vec<f32> = bench.read(&partial_lse)?;
        let foreign = out[..heads * dim]
            .iter()
            .chain(&lse[..heads])
            .map(|number| number.is_nan())
            .collect::<Vec<_>>();
        bench.same("partial 0 is untouched", &foreign, &vec![true; heads * (dim + 1)])?;

        let (out, lse) = merge(bench, &partial_out, &partial_lse, partials - 1, heads, dim)?;
        for (head, query) in queries.chunks_exact(dim).enumerate() {
            let cached = &cache.heads[head / self.group as usize];
            let rows: Vec<_> = (0..self.lengths[head / self.group as usize])
                .map(|token| cached.row(token))
                .collect();
            let (want, want_lse) = reference::attend(query, &rows, scale);
            bench.close("out", &out[head * dim..(head + 1) * dim], &want, self.sharpness)?;
            bench.close("lse", &lse[head..=head], &[want_lse], self.sharpness)?;
        }
        Ok(())
    }
}

/// Merges all partials but the first.
fn merge<D: Device>(
    bench: &mut Bench<'_, D>,
    partial_out: &Output<D::Buffer>,
    partial_lse: &Output<D::Buffer>,
    splits: u32,
    heads: usize,
    dim: usize,
) -> Outcome<(Vec<f32>, Vec<f32>), D> {
    let out = bench.output(&vec![f32::NAN; heads * dim])?;
    let lse = bench.output(&vec![f32::NAN; heads])?;
    let skipped = (heads * size_of::<f32>()) as u64;
    bench.launch(
        &launch::merge_partials(heads as u32)?,
        &[
            Argument::Address(bench.output_address(partial_out) + skipped * dim as u64),
            Argument::Address(bench.output_address(partial_lse) + skipped),
            Argument::U32(splits),
            Argument::U32(heads as u32),
            Argument::U32(dim as u32),
            Argument::Address(bench.output_address(&out)),
            Argument::Address(bench.output_address(&lse)),
        ],
    )?;
    Ok((bench.read(&out)?, bench.read(&lse)?))
}
