//! Ranking every key for a group of queries by its code.

use super::Sketch;
use crate::kernels::{CODE_WORDS, GroupQuery, Kernels};

/// The rank of every key, and what ranks mean: a key of rank `r` is estimated to hold `exp(floor + r · unit)` of the
/// attention, summed over the heads of the group; one of rank 0 at most about `exp(floor)`.
#[derive(Debug, Clone, Default)]
pub struct Ranking {
    /// Rank of each key, rounded up to whole groups of keys.
    pub ranks: Vec<u8>,
    /// Logarithm of the share of attention at rank 0.
    pub floor: f32,
    /// Difference of logarithms from one rank to the next.
    pub unit: f32,
    /// Expected deviation of a key's score from the one that its code says, over the heads of the group.
    pub error: f32,
    /// The same for the head for which it is largest.
    pub largest_error: f32,
    products: Vec<[f32; CODE_WORDS]>,
    tables: Vec<[u8; CODE_WORDS]>,
    /// Logarithm of the weight that the best conceivable key of each head has above the floor.
    peaks: Vec<f32>,
    best: Vec<u8>,
    /// The queries, in the directions of code words: [group, width].
    mapped: Vec<f32>,
}

impl Ranking {
    /// Room for contexts of up to `max_tokens`.
    #[must_use]
    pub fn new(max_tokens: usize) -> Self {
        Self { ranks: Vec::with_capacity(max_tokens + super::PADDED), ..Self::default() }
    }

    /// Takes memory for ranking the keys of `sketch` for groups of `group` queries.
    pub fn prepare(&mut self, sketch: &Sketch, group: usize) {
        let subspaces = sketch.quantizer.subspaces();
        self.products.resize(group * subspaces, [0.0; CODE_WORDS]);
        self.tables.resize(group * subspaces, [0; CODE_WORDS]);
        self.best.resize(group, 0);
        self.peaks.resize(group, 0.0);
        self.mapped.resize(group * sketch.quantizer.width(), 0.0);
    }

    /// Ranks the keys of `sketch` for `query`, given the logarithm of the sum of the exponentials of each head's scores
    /// (`normalisers`, `[group]`).
    pub fn rank(
        &mut self,
        kernels: Kernels,
        sketch: &Sketch,
        query: &GroupQuery,
        normalisers: &[f32],
        floor: f32,
    ) {
        self.prepare(sketch, query.group());
        let quantizer = &sketch.quantizer;
        let subspaces = quantizer.subspaces();
        quantizer.map_queries(kernels, query, &mut self.mapped);
        // The span is the distance from the floor to the best conceivable key of any head.
        let mut span = 1.0_f32;
        let (mut variance, mut largest_variance) = (0.0, 0.0_f32);
        let mapped = self.mapped.chunks_exact(quantizer.width());
        for (head, (products, mapped)) in
            self.products.chunks_exact_mut(subspaces).zip(mapped).enumerate()
        {
            let of_head = quantizer.products(kernels, mapped, products);
            variance += of_head;
            largest_variance = largest_variance.max(of_head);
            self.peaks[head] = kernels.sum_of_largest(products)
                + quantizer.common(query.head(head))
                - normalisers[head]
                - floor;
            span = span.max(self.peaks[head]);
        }
        self.error = (variance / query.group() as f32).sqrt();
        self.largest_error = largest_variance.sqrt();
        self.floor = floor;
        self.unit = span / 255.0;
        kernels.units_below_largest(&self.products, self.unit.recip(), &mut self.tables);
        for (best, peak) in self.best.iter_mut().zip(&self.peaks) {
            *best = to_rank(peak / self.unit);
        }
        let join = std::array::from_fn(|step| {
            let difference = (4 * step) as f32 + 1.5;
            to_rank((-difference * self.unit).exp().ln_1p() / self.unit)
        });
        self.ranks.resize(sketch.padded_tokens(), 0);
        kernels.scan_codes(&sketch.codes, &self.tables, &self.best, &join, &mut self.ranks);
    }

    /// The lowest rank of which can be told that it stands for more than `log_weight`, for a group of `group` heads:
    /// keys that are below the floor for every head share a rank, too.
    #[must_use]
    pub fn lowest_rank(&self, group: usize, log_weight: f32) -> u8 {
        let nothing = (group as f32).ln() / self.unit;
        to_rank(nothing.max((log_weight - self.floor) / self.unit)).saturating_add(1)
    }

    /// The rank that stands for the logarithm of a share of attention.
    #[must_use]
    pub fn rank_of(&self, log_weight: f32) -> u8 {
        to_rank((log_weight - self.floor) / self.unit)
    }

    /// The number of ranks that make a difference of logarithms.
    #[must_use]
    pub fn ranks_in(&self, difference: f32) -> u8 {
        to_rank(difference / self.unit)
    }

    /// The logarithm of the share of attention that a rank stands for.
    #[must_use]
    pub fn log_weight_of(&self, rank: u8) -> f32 {
        self.floor + f32::from(rank) * self.unit
    }
}

/// The nearest rank; casting saturates, and makes 0 of what is no number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn to_rank(number: f32) -> u8 {
    (number + 0.5) as u8
}
