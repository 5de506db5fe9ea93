//! Causal attention of a chunk to parts of the keys, compared after every part.

use super::{
    Device, Outcome,
    bench::Bench,
    cache::{Cache, HIGH_SLOTS, Layout, generator, random},
    reference,
};
use crate::launch::{self, Argument, Element};

const KV_HEADS: usize = 2;
const GROUPS: [u32; 6] = [1, 3, 4, 7, 8, 16];

struct Case {
    layout: Layout,
    group: u32,
    tokens: usize,
    query_start: usize,
    /// First position and number of keys.
    parts: Vec<(usize, usize)>,
    first_slot: u32,
    seed: u32,
}

pub(super) fn check<D: Device>(bench: &mut Bench<'_, D>) -> Outcome<(), D> {
    let mut seed = 0_u32;
    for element in [Element::F16, Element::Bf16] {
        for dim in launch::HEAD_DIMS {
            for group in GROUPS {
                let block_tokens = [8, 16, 32, 64][seed as usize % 4];
                // Tokens, first query's position and parts.
                let shapes = [
                    (1, 0, vec![(0, 1)]),
                    // A prompt at once, and in three parts, of which its first tokens see one.
                    (45, 0, vec![(0, 45)]),
                    (
                        2 * block_tokens + 5,
                        0,
                        vec![
                            (0, block_tokens),
                            (block_tokens, block_tokens),
                            (2 * block_tokens, 5),
                        ],
                    ),
                    // A chunk further on: long before, then itself.
                    (19, 1100, vec![(1000, 100), (1100, 19)]),
                    // A part that half of the tokens see, and one that none sees.
                    (8, 1000, vec![(1004, 8), (1012, 70), (900, 9)]),
                    // No key at first.
                    (3, 10, vec![(13, 4), (20, 5), (0, 13)]),
                    (150, 7, vec![(0, 157)]),
                ];
                for (tokens, query_start, parts) in
                    shapes.into_iter().skip(seed as usize % 2).step_by(2)
                {
                    let first_slot = if seed.is_multiple_of(5) { HIGH_SLOTS } else { 0 };
                    let layout = Layout { element, dim: dim as usize, block_tokens };
                    Case { layout, group, tokens, query_start, parts, first_slot, seed }
                        .check(bench)?;
                }
                seed += 1;
            }
        }
    }
    Ok(())
}

impl Case {
    fn check<D: Device>(&self, bench: &mut Bench<'_, D>) -> Outcome<(), D> {
        let Layout { element, dim, block_tokens } = self.layout;
        bench.case(format!(
            "prefill attention, {element}, heads of {dim}, group {}, blocks of {block_tokens}, {} tokens from {}, keys {:?}, slots from {}",
            self.group, self.tokens, self.query_start, self.parts, self.first_slot
        ));
        let mut generator = generator(self.seed);
        let rows = self.tokens * KV_HEADS * self.group as usize;
        let queries: Vec<f32> = (0..rows * dim).map(|_| random(&mut generator) * 6.0).collect();
        let scale = 1.0 / (dim as f32).sqrt();
        let query_buffer = bench.input(&queries)?;
        let (out, lse) =
            (bench.output(&vec![f32::NAN; rows * dim])?, bench.output(&vec![f32::NAN; rows])?);
        let launch = launch::prefill_attention(
            element,
            dim as u32,
            self.tokens as u32,
            KV_HEADS as u32,
            self.group,
            block_tokens as u32,
        )?;
        let mut caches = Vec::new();
        for &(key_start, keys) in &self.parts {
            let cache = Cache::new(self.layout, &[keys; KV_HEADS], &mut generator);
            let ranges = [0..keys.div_ceil(block_tokens), 0..keys.div_ceil(block_tokens)];
            let (slots, _) = cache.lists(&ranges, self.first_slot);
            let (pool, slots) = (bench.input(&cache.pool)?, bench.input(&slots)?);
            bench.launch(
                &launch,
                &[
                    Argument::Address(bench.address(&query_buffer)),
                    Argument::U32(self.tokens as u32),
                    Argument::U32(KV_HEADS as u32),
                    Argument::U32(self.group),
                    Argument::Address(self.layout.base(bench.address(&pool), self.first_slot)),
                    Argument::Address(bench.address(&slots)),
                    Argument::U32(Cache::stride(&ranges) as u32),
                    Argument::U32(block_tokens as u32),
                    Argument::U32(keys as u32),
                    Argument::U32(key_start as u32),
                    Argument::U32(self.query_start as u32),
                    Argument::F32(scale),
                    Argument::Address(bench.output_address(&out)),
                    Argument::Address(bench.output_address(&lse)),
                    Argument::U32(u32::from(!caches.is_empty())),
                ],
            )?;
            caches.push((key_start, cache));
            let (out, lse) = (bench.read(&out)?, bench.read(&lse)?);
            self.compare(bench, &queries, scale, &caches, &out, &lse)?;
        }
        Ok(())
    }

    /// Compares with attention to all keys of `parts` (first position and keys) that each token sees.
    fn compare<D: Device>(
        &self,
        bench: &Bench<'_, D>,
        queries: &[f32],
        scale: f32,
        parts: &[(usize, Cache)],
        out: &[f32],
        lse: &[f32],
    ) -> Outcome<(), D> {
        let (dim, heads) = (self.layout.dim, KV_HEADS * self.group as usize);
        for (row, query) in queries.chunks_exact(dim).enumerate() {
            let (position, kv_head) =
                (self.query_start + row / heads, row % heads / self.group as usize);
            let mut seen = Vec::new();
            for (start, cache) in parts {
                let head = &cache.heads[kv_head];
                seen.extend(
                    (0..head.tokens())
                        .filter(|key| start + key <= position)
                        .map(|key| head.row(key)),
                );
            }
            let (want, want_lse) = reference::attend(query, &seen, scale);
            bench.close("out", &out[row * dim..(row + 1) * dim], &want, 1.0)?;
            bench.close("lse", &lse[row..=row], &[want_lse], 1.0)?;
        }
        Ok(())
    }
}
