//! The kernels as safe methods: lengths are checked here, then the chosen instruction set runs.

use hindsight_protocol::geometry::KvDtype;

use super::{CODE_GROUP, CODE_WORDS, GroupQuery, Isa, Kernels, LANES, Run, Scores, scalar};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Runs the kernel `$name` of the instruction set of `$self`.
macro_rules! dispatch {
    ($self:ident, $name:ident ( $($argument:expr),* )) => {
        match $self.isa {
            // SAFETY: a `Kernels` of this instruction set exists only where the processor has it.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::$name($($argument),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::$name($($argument),*) },
            _ => scalar::$name($($argument),*),
        }
    };
}

impl Kernels {
    /// Scores the keys `rows` (each `[head_dim]`) into the columns of `scores` from `column` on. Meanwhile as many of the
    /// keys `ahead` are fetched into the caches.
    ///
    /// # Panics
    /// If a row has another length than the query, or the columns do not exist.
    pub fn score_rows(
        self,
        dtype: KvDtype,
        query: &GroupQuery,
        rows: &[&[u16]],
        ahead: &[&[u16]],
        scores: &mut Scores,
        column: usize,
    ) {
        assert!(column + rows.len() <= scores.len() && query.group() == scores.group());
        assert!(rows.iter().all(|row| row.len() == query.head_dim()));
        assert!(query.head_dim().is_multiple_of(16));
        let stride = scores.stride();
        let out = &mut scores.values_mut()[column..];
        dispatch!(self, score_rows(dtype, query, rows, ahead, out, stride));
    }

    /// Whether there is a kernel for keys of `head_dim` elements that lie one after the other: [`Kernels::score_run`].
    #[must_use]
    pub fn has_runs_of(self, head_dim: usize) -> bool {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::has_runs_of(head_dim),
            _ => false,
        }
    }

    /// As [`Kernels::score_rows`], for keys that lie one after the other.
    ///
    /// # Panics
    /// If there is no kernel for them, they are not whole, or the columns do not exist.
    pub fn score_run(self, query: &GroupQuery, run: Run<'_>, scores: &mut Scores, column: usize) {
        let count = run.keys.len() / query.head_dim();
        assert!(self.has_runs_of(query.head_dim()) && run.keys.len() == count * query.head_dim());
        assert!(column + count <= scores.len() && query.group() == scores.group());
        #[cfg(target_arch = "x86_64")]
        {
            let stride = scores.stride();
            let out = &mut scores.values_mut()[column..];
            // SAFETY: there is a kernel, so the processor has its instruction set.
            unsafe { avx512::score_run(query, run, out, stride) };
        }
    }

    /// Replaces scores by `exp(score − max)`, where `max` is the largest of them, and returns `max` and their sum: the logarithm
    /// of the sum of the scores' exponentials is `max + ln sum`.
    ///
    /// No scores, or none but negative infinity, give negative infinity and what is no number or 0.
    pub fn exponentiate(self, scores: &mut [f32]) -> (f32, f32) {
        dispatch!(self, exponentiate(scores))
    }

    /// `ln Σ exp(score)` over all scores, which become what [`Kernels::exponentiate`] makes of them.
    pub fn log_sum_exp(self, scores: &mut [f32]) -> f32 {
        let (max, sum) = self.exponentiate(scores);
        max + sum.ln()
    }

    /// Adds `factor` times each number to `out`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_scaled(self, numbers: &[f32], factor: f32, out: &mut [f32]) {
        assert_eq!(numbers.len(), out.len());
        dispatch!(self, add_scaled(numbers, factor, out));
    }

    /// Ranks keys by their codes.
    ///
    /// `codes` holds groups of [`CODE_GROUP`] keys: for each pair of sub-spaces one byte a key, the even sub-space's
    /// code word in the low four bits. `tables` ([group, sub-spaces]) says how far each code word lies below the best
    /// one of its sub-space, and `best` (`[group]`) which rank a key has that is best in all of them. Heads are joined by
    /// `join`: the rank of two is the larger, plus `join[min(difference / 4, 15)]`. All sums saturate.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn scan_codes(
        self,
        codes: &[u8],
        tables: &[[u8; CODE_WORDS]],
        best: &[u8],
        join: &[u8; 16],
        ranks: &mut [u8],
    ) {
        let subspaces = tables.len() / best.len();
        assert!(tables.len() == subspaces * best.len() && subspaces.is_multiple_of(2));
        assert!(ranks.len().is_multiple_of(CODE_GROUP));
        assert_eq!(codes.len() * 2, ranks.len() * subspaces);
        dispatch!(self, scan_codes(codes, tables, best, join, ranks));
    }

    /// Number of ranks that are at least `cut`.
    #[must_use]
    pub fn count_at_least(self, ranks: &[u8], cut: u8) -> usize {
        dispatch!(self, count_at_least(ranks, cut))
    }

    /// Appends `first + i` for each rank `i` that is at least `cut`.
    pub fn collect_at_least(self, ranks: &[u8], cut: u8, first: u32, out: &mut Vec<u32>) {
        dispatch!(self, collect_at_least(ranks, cut, first, out));
    }

    /// Number of weights that are not below `floor`.
    #[must_use]
    pub fn count_not_below(self, weights: &[f32], floor: f32) -> usize {
        dispatch!(self, count_not_below(weights, floor))
    }

    /// Appends the weights that are not below `floor`.
    pub fn keep_not_below(self, weights: &[f32], floor: f32, out: &mut Vec<f32>) {
        dispatch!(self, keep_not_below(weights, floor, out));
    }

    /// Appends the tokens whose weights are not below `floor`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn pick_not_below(self, weights: &[f32], floor: f32, tokens: &[u32], out: &mut Vec<u32>) {
        assert_eq!(weights.len(), tokens.len());
        dispatch!(self, pick_not_below(weights, floor, tokens, out));
    }

    /// Adds `Σ factors[h][i] · matrix[i]` to each row `h` of `out`, where `factors` is [heads, rows], `matrix` ([rows, columns])
    /// holds bfloat16 words, and `out` is [heads, columns].
    ///
    /// # Panics
    /// If the lengths do not fit each other, or columns are not a multiple of 16.
    pub fn combine_rows(self, heads: usize, factors: &[f32], matrix: &[u16], out: &mut [f32]) {
        assert!(factors.len().is_multiple_of(heads) && out.len().is_multiple_of(heads));
        assert_eq!(matrix.len() * heads * heads, factors.len() * out.len());
        assert!((out.len() / heads).is_multiple_of(CODE_WORDS));
        dispatch!(self, combine_rows(heads, factors, matrix, out));
    }

    /// Writes to `products` ([sub-spaces, words]) the products of the directions in `mapped` with each code word of each
    /// sub-space. A sub-space has the directions up to its entry in `ends`, from that of the one before on; `words`
    /// ([directions, words]) holds bfloat16 words.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    pub fn word_products(
        self,
        mapped: &[f32],
        ends: &[usize],
        words: &[u16],
        products: &mut [[f32; CODE_WORDS]],
    ) {
        assert_eq!(products.len(), ends.len());
        dispatch!(self, word_products(mapped, ends, words, products));
    }

    /// The sum of the largest numbers of all rows.
    #[must_use]
    pub fn sum_of_largest(self, rows: &[[f32; CODE_WORDS]]) -> f32 {
        dispatch!(self, sum_of_largest(rows))
    }

    /// Writes to `tables` how many units each number lies below the largest of its row, rounded, at most 255; `per_unit` is the
    /// inverse of a unit.
    ///
    /// # Panics
    /// If there are not as many tables as rows.
    pub fn units_below_largest(
        self,
        rows: &[[f32; CODE_WORDS]],
        per_unit: f32,
        tables: &mut [[u8; CODE_WORDS]],
    ) {
        assert_eq!(rows.len(), tables.len());
        dispatch!(self, units_below_largest(rows, per_unit, tables));
    }

    /// Adds `scale · vector vectorᵀ` to the square `matrix`.
    ///
    /// # Panics
    /// If the matrix has another size.
    pub fn add_outer(self, vector: &[f32], scale: f32, matrix: &mut [f32]) {
        assert_eq!(matrix.len(), vector.len() * vector.len());
        dispatch!(self, add_outer(vector, scale, matrix));
    }

    /// Writes a key less the `mean` to `out`; infinite elements become large finite ones.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn centre(self, dtype: KvDtype, row: &[u16], mean: &[f32], out: &mut [f32]) {
        assert!(row.len() == out.len() && mean.len() == out.len());
        dispatch!(self, centre(dtype, row, mean, out));
    }

    /// Writes `scales[j] · Σ matrix[i][j] · points[i]` to `out[j]` for vectors of which each lane is one; `matrix` is
    /// [points, out].
    ///
    /// # Panics
    /// If the lengths do not fit each other, or `out` has not a multiple of 8 elements.
    pub fn project(
        self,
        points: &[[f32; LANES]],
        matrix: &[i8],
        scales: &[f32],
        out: &mut [[f32; LANES]],
    ) {
        assert_eq!(matrix.len(), points.len() * out.len());
        assert_eq!(scales.len(), out.len());
        assert!(out.len().is_multiple_of(8));
        dispatch!(self, project(points, matrix, scales, out));
    }

    /// The code word with the largest `offsets[word] + Σ words[i][word] · points[i]` for each lane, where `words`
    /// ([points, words]) holds bfloat16 words.
    ///
    /// # Panics
    /// If the lengths do not fit each other.
    #[must_use]
    pub fn largest_words(
        self,
        points: &[[f32; LANES]],
        words: &[u16],
        offsets: &[f32; CODE_WORDS],
    ) -> [u8; LANES] {
        assert_eq!(words.len(), points.len() * CODE_WORDS);
        dispatch!(self, largest_words(points, words, offsets))
    }

    /// Reads `words` as fast as memory gives them, and returns the sum (modulo 2^64) of what was read: as many whole
    /// 64-bit words as fill vectors of 64 bytes. Meanwhile as much of `ahead` is fetched into the caches.
    #[must_use]
    pub fn read(self, words: &[u16], ahead: &[u16]) -> u64 {
        dispatch!(self, read(words, ahead))
    }
}
