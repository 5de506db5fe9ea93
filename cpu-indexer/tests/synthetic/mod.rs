//! A text made up for tests: keys in clusters, and queries that walk from one to another.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use hindsight_cpu_indexer::replay::KvCache;
use hindsight_protocol::geometry::{Geometry, KvDtype};

/// Numbers about normally distributed, from a fixed sequence.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }

    pub(crate) fn normal(&mut self) -> f32 {
        (0..4).map(|_| (self.next() as f32 / (1 << 24) as f32) - 0.5).sum::<f32>() * 1.7
    }

    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 40
    }
}

pub(crate) const DIM: usize = 32;
pub(crate) const GROUP: usize = 2;
pub(crate) const SCALE: f32 = 0.4;

/// One layer with one KV head of [`GROUP`] query heads.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) cache: KvCache,
    centres: Vec<[f32; DIM]>,
}

impl Text {
    pub(crate) fn new(tokens: usize, dtype: KvDtype, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let centres: Vec<[f32; DIM]> =
            (0..24).map(|_| std::array::from_fn(|_| random.normal())).collect();
        let geometry = Geometry {
            layers: 1,
            heads: GROUP as u32,
            kv_heads: 1,
            head_dim: DIM as u32,
            block_tokens: 16,
            dtype,
        };
        let cache = KvCache::fill(geometry, tokens, |_, _, _, key, value| {
            let centre = centres[random.below(centres.len())];
            for (x, centre) in key.iter_mut().zip(centre) {
                *x = centre + 0.6 * random.normal();
            }
            value.fill_with(|| random.normal());
        })
        .unwrap();
        Self { cache, centres }
    }

    /// Queries of `steps` successive tokens: each group looks for one cluster, and turns to another now and then.
    pub(crate) fn queries(&self, steps: usize, seed: u64) -> Vec<Vec<f32>> {
        let mut random = Random::new(seed);
        let mut towards = self.centres[0];
        (0..steps)
            .map(|_| {
                if random.below(8) == 0 {
                    towards = self.centres[random.below(self.centres.len())];
                }
                let mut element = |at: usize| towards[at % DIM] + 0.3 * random.normal();
                (0..GROUP * DIM).map(&mut element).collect()
            })
            .collect()
    }
}
