//! From keys to codes, and from queries to the tables in which codes are looked up.

use hindsight_protocol::geometry::KvDtype;

use super::key_map::KeyMap;
use crate::kernels::{CODE_WORDS, GroupQuery, Kernels, LANES, dot, fetch, lane_sums};

/// The memory that coding works in.
#[derive(Debug, Clone, Default)]
pub struct EncodeScratch {
    centred: Vec<f32>,
    points: Vec<[f32; LANES]>,
    mapped: Vec<[f32; LANES]>,
}

/// A calibrated product quantizer of one head: keys are centred, mapped to directions that matter to queries, and coded
/// in four bits for each sub-space of those directions.
#[derive(Debug, Clone)]
pub(super) struct Quantizer {
    /// Mean key: `[head_dim]`.
    mean: Vec<f32>,
    /// Directions of keys.
    key_map: KeyMap,
    /// Directions of queries as bfloat16: [head_dim, width].
    query_map: Vec<u16>,
    /// Ends of the sub-spaces among the directions.
    ends: Vec<usize>,
    /// Code words as bfloat16: [directions, words].
    words: Vec<u16>,
    /// Mean squared error of keys' codes in each direction.
    errors: Vec<f32>,
    /// Minus half the squared length of each code word: [sub-spaces, words].
    half_norms: Vec<[f32; CODE_WORDS]>,
}

impl Quantizer {
    pub(super) fn new(
        mean: Vec<f32>,
        key_map: KeyMap,
        query_map: Vec<u16>,
        ends: Vec<usize>,
        words: Vec<u16>,
        errors: Vec<f32>,
    ) -> Self {
        let widen = |word: u16| f32::from_bits(u32::from(word) << 16);
        let mut half_norms = vec![[0.0; CODE_WORDS]; ends.len()];
        let mut start = 0;
        for (norms, &end) in half_norms.iter_mut().zip(&ends) {
            for direction in words[start * CODE_WORDS..end * CODE_WORDS].chunks_exact(CODE_WORDS) {
                for (norm, &word) in norms.iter_mut().zip(direction) {
                    *norm -= 0.5 * widen(word) * widen(word);
                }
            }
            start = end;
        }
        Self { mean, key_map, query_map, ends, words, errors, half_norms }
    }

    /// Sub-spaces: code words of a key.
    pub(super) const fn subspaces(&self) -> usize {
        self.ends.len()
    }

    /// Directions, rounded up to whole vectors.
    pub(super) const fn width(&self) -> usize {
        self.key_map.width()
    }

    /// Bytes read to make tables for a query.
    pub(super) const fn table_bytes(&self) -> usize {
        2 * (self.query_map.len() + self.words.len()) + 4 * (self.mean.len() + self.errors.len())
    }

    /// Asks for what a query's tables are made from.
    pub(super) fn fetch(&self) {
        fetch(&self.query_map);
        fetch(&self.words);
        fetch(&self.ends);
        fetch(&self.errors);
        fetch(&self.mean);
    }

    /// Bytes held.
    pub(super) const fn bytes(&self) -> usize {
        self.table_bytes() + self.key_map.bytes() + 4 * CODE_WORDS * self.half_norms.len()
    }

    /// What all scores of `query` have in common: its product with the mean key.
    pub(super) fn common(&self, query: &[f32]) -> f32 {
        dot(query, &self.mean)
    }

    /// Writes the code words of some keys (each `[head_dim]`, at most [`LANES`]) to `codes` ([sub-spaces][key]).
    pub(super) fn encode<'k>(
        &self,
        kernels: Kernels,
        dtype: KvDtype,
        keys: impl Iterator<Item = &'k [u16]>,
        scratch: &mut EncodeScratch,
        codes: &mut [[u8; LANES]],
    ) {
        let EncodeScratch { centred, points, mapped } = scratch;
        centred.resize(self.mean.len(), 0.0);
        points.resize(self.mean.len(), [0.0; LANES]);
        mapped.resize(self.width(), [0.0; LANES]);
        for (lane, key) in keys.enumerate().take(LANES) {
            kernels.centre(dtype, key, &self.mean, centred);
            for (point, &x) in points.iter_mut().zip(&*centred) {
                point[lane] = x;
            }
        }
        self.key_map.map(kernels, points, mapped);
        let mut start = 0;
        for ((codes, &end), norms) in codes.iter_mut().zip(&self.ends).zip(&self.half_norms) {
            let words = &self.words[start * CODE_WORDS..end * CODE_WORDS];
            *codes = kernels.largest_words(&mapped[start..end], words, norms);
            start = end;
        }
    }

    /// Takes `query` to the directions of code words: writes [group, width] to `mapped`.
    pub(super) fn map_queries(&self, kernels: Kernels, query: &GroupQuery, mapped: &mut [f32]) {
        mapped.fill(0.0);
        kernels.combine_rows(query.group(), query.values(), &self.query_map, mapped);
    }

    /// Writes to `products` ([sub-spaces]) what each code word adds to the score of a `mapped` query (`[width]`), and returns the
    /// variance with which the sums are expected to miss scores.
    pub(super) fn products(
        &self,
        kernels: Kernels,
        mapped: &[f32],
        products: &mut [[f32; CODE_WORDS]],
    ) -> f32 {
        kernels.word_products(mapped, &self.ends, &self.words, products);
        let squares: [f32; LANES] = lane_sums(mapped, &self.errors, |q, error| q * q * error);
        squares.iter().sum()
    }
}
