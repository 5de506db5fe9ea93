//! Causal attention of a chunk of a prompt.

use std::sync::{Mutex, PoisonError};

use rayon::ThreadPool;

use super::CpuAttention;
use super::scratch::AlignedBuffer;
use super::shape::Block;
use super::simd::{CausalTile, KEY_TILE};
use super::softmax::{NO_SCORE, finish};

/// Query rows that are attended together when there is work enough: widened keys and values are then used often.
const MOST_ROWS: usize = 192;

/// Query rows under which a piece of work is not cut further.
const FEWEST_ROWS: usize = 48;

/// Pieces of work that each thread should have, so that all end at about the same time.
const PIECES_PER_THREAD: usize = 4;

/// Positions that `f32` counts exactly.
const MAX_POSITIONS: usize = 1 << f32::MANTISSA_DIGITS;

/// The queries of a chunk of a prompt, and where they stand in it.
#[derive(Clone, Copy, Debug)]
pub struct Prefill<'a> {
    /// Position of the chunk's first token.
    pub start: usize,
    /// Tokens of the chunk.
    pub tokens: usize,
    /// KV heads; query heads `h * group..(h + 1) * group` share KV head `h`.
    pub kv_heads: usize,
    /// Rows of one token each, which begin with the queries `[kv_heads * group, head_dim]`.
    pub queries: &'a [f32],
    /// Elements from one row of `queries` to the next.
    pub query_stride: usize,
}

/// Work space of [`CpuAttention::prefill`], to be kept from call to call.
#[derive(Clone, Debug, Default)]
pub struct PrefillScratch {
    workers: Vec<WorkerScratch>,
}

/// Work space of one thread.
#[derive(Clone, Debug, Default)]
struct WorkerScratch {
    keys: AlignedBuffer,
    values: AlignedBuffer,
    queries: AlignedBuffer,
    weights: AlignedBuffer,
    state: AlignedBuffer,
    out: AlignedBuffer,
}

/// Some tokens' queries of one KV head, and where their results go.
struct Piece<'o> {
    kv_head: usize,
    first_token: usize,
    /// One row `[group, head_dim]` for each token.
    out: Vec<&'o mut [f32]>,
}

impl CpuAttention {
    /// Attends each query of the chunk over all keys up to its own position.
    ///
    /// `blocks(h)` lists the blocks of KV head `h` from position 0 on, without a gap, at least up to the chunk's last
    /// token, whose keys and values must be there already. `out` has a row for each token, `out_stride` elements apart,
    /// which begins with the results `[kv_heads * group, head_dim]`; what is between rows is left alone.
    ///
    /// Runs on the threads of `pool`, or on the caller's thread if there is none. The result does not depend on the
    /// threads, nor on how the prompt was cut into chunks.
    ///
    /// # Panics
    /// If a slice is too short for this, a stride is shorter than a row, `blocks` ends too early, or the last position is
    /// beyond 2^24.
    pub fn prefill<'b, I>(
        &self,
        chunk: &Prefill<'_>,
        blocks: impl Fn(usize) -> I + Sync,
        out: &mut [f32],
        out_stride: usize,
        scratch: &mut PrefillScratch,
        pool: Option<&ThreadPool>,
    ) where
        I: Iterator<Item = Block<'b>>,
    {
        let width = chunk.kv_heads * self.shape.group() * self.shape.head_dim();
        if chunk.tokens == 0 || width == 0 {
            return;
        }
        let spans = |len: usize, stride: usize| {
            stride >= width && len >= (chunk.tokens - 1) * stride + width
        };
        assert!(
            spans(chunk.queries.len(), chunk.query_stride),
            "queries are [tokens, heads, head_dim]"
        );
        assert!(spans(out.len(), out_stride), "out is [tokens, heads, head_dim]");
        assert!(chunk.start + chunk.tokens <= MAX_POSITIONS, "positions are below 2^24");

        let threads = pool.map_or(1, ThreadPool::current_num_threads);
        let pieces = Mutex::new(self.cut(chunk, out, out_stride, threads));
        // The last tokens see the most keys: their pieces, at the end of the list, are taken first.
        let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let work = |scratch: &mut WorkerScratch| {
            while let Some(piece) = next() {
                let blocks = blocks(piece.kv_head);
                self.attend_piece(chunk, piece, blocks, scratch);
            }
        };
        if scratch.workers.len() < threads {
            scratch.workers.resize_with(threads, WorkerScratch::default);
        }
        let workers = &mut scratch.workers[..threads];
        match pool {
            Some(pool) => pool.scope(|scope| {
                for worker in workers {
                    scope.spawn(|_| work(worker));
                }
            }),
            None => workers.iter_mut().for_each(work),
        }
    }

    /// Cuts the chunk into pieces, in the order of their tokens.
    fn cut<'o>(
        &self,
        chunk: &Prefill<'_>,
        out: &'o mut [f32],
        out_stride: usize,
        threads: usize,
    ) -> Vec<Piece<'o>> {
        let group = self.shape.group();
        let per_head = |rows: usize| chunk.tokens.div_ceil((rows / group).max(1));
        let mut rows = MOST_ROWS;
        while rows > FEWEST_ROWS && per_head(rows) * chunk.kv_heads < threads * PIECES_PER_THREAD {
            rows /= 2;
        }
        let tokens = (rows / group).max(1);
        let mut pieces: Vec<_> = (0..chunk.tokens)
            .step_by(tokens)
            .flat_map(|first_token| (0..chunk.kv_heads).map(move |kv_head| (first_token, kv_head)))
            .map(|(first_token, kv_head)| Piece {
                kv_head,
                first_token,
                out: Vec::with_capacity(tokens),
            })
            .collect();
        let head_width = group * self.shape.head_dim();
        for (token, row) in out.chunks_mut(out_stride).take(chunk.tokens).enumerate() {
            let heads = row.chunks_exact_mut(head_width).take(chunk.kv_heads);
            for (kv_head, heads) in heads.enumerate() {
                pieces[token / tokens * chunk.kv_heads + kv_head].out.push(heads);
            }
        }
        pieces
    }

    /// Attends one piece over the blocks of its KV head.
    fn attend_piece<'b>(
        &self,
        chunk: &Prefill<'_>,
        piece: Piece<'_>,
        blocks: impl Iterator<Item = Block<'b>>,
        scratch: &mut WorkerScratch,
    ) {
        let (head_dim, group) = (self.shape.head_dim(), self.shape.group());
        let dtype = self.shape.dtype();
        let panels = Panels {
            used: piece.out.len() * group,
            rows: (piece.out.len() * group).next_multiple_of(self.kernels.lanes()),
            full: self.kernels.panel_rows(),
            head_dim,
        };
        let queries = scratch.queries.get(panels.rows * head_dim);
        let weights = scratch.weights.get(KEY_TILE * panels.full);
        let out = scratch.out.get(panels.rows * head_dim);
        let state = scratch.state.get(3 * panels.rows);
        let (positions, state) = state.split_at_mut(panels.rows);
        let (largest, sums) = state.split_at_mut(panels.rows);
        let keys = scratch.keys.get(KEY_TILE * head_dim);
        let values = scratch.values.get(KEY_TILE * head_dim);

        out.fill(0.0);
        largest.fill(NO_SCORE);
        sums.fill(0.0);
        queries.fill(0.0);
        let first_position = chunk.start + piece.first_token;
        for (row, position) in positions.iter_mut().enumerate() {
            *position = (first_position + row.min(panels.used - 1) / group) as f32;
        }
        for row in 0..panels.used {
            let token = piece.first_token + row / group;
            let head = piece.kv_head * group + row % group;
            let query = &chunk.queries[token * chunk.query_stride + head * head_dim..][..head_dim];
            for (at, element) in panels.elements(row).zip(query) {
                queries[at] = element * self.shape.scale_log2();
            }
        }

        let visible = first_position + piece.out.len();
        let mut stream = TokenStream::new(head_dim, blocks);
        for first_key in (0..visible).step_by(KEY_TILE) {
            let count = KEY_TILE.min(visible - first_key) * head_dim;
            keys[count..].fill(0.0);
            let mut at = 0;
            while at < count {
                let part = stream.take(count - at);
                let range = at..at + part.keys.len();
                self.kernels.widen(dtype, part.keys, &mut keys[range.clone()]);
                self.kernels.widen(dtype, part.values, &mut values[range.clone()]);
                at = range.end;
            }
            self.kernels.causal_tile(&mut CausalTile {
                head_dim,
                first_key,
                keys,
                values,
                positions,
                queries,
                weights,
                largest,
                sums,
                out,
            });
        }

        let mut rows = 0..panels.used;
        for heads in piece.out {
            for (target, row) in heads.chunks_exact_mut(head_dim).zip(&mut rows) {
                for (target, at) in target.iter_mut().zip(panels.elements(row)) {
                    *target = out[at];
                }
                finish(target, largest[row], sums[row]);
            }
        }
    }
}

/// How a piece's rows lie in transposed panels, as [`CausalTile`] wants them.
struct Panels {
    /// Rows that are queries; the rest fills up the last vector.
    used: usize,
    /// Rows in whole vectors.
    rows: usize,
    /// Rows of a full panel.
    full: usize,
    head_dim: usize,
}

impl Panels {
    /// Where the elements of `row` lie.
    fn elements(&self, row: usize) -> impl Iterator<Item = usize> {
        let first = row / self.full * self.full;
        let width = self.full.min(self.rows - first);
        (first * self.head_dim + row - first..).step_by(width).take(self.head_dim)
    }
}

/// The tokens of a list of blocks, as a stream that is cut anywhere.
struct TokenStream<'b, I> {
    head_dim: usize,
    blocks: I,
    /// What is left of the block last taken.
    rest: Block<'b>,
}

impl<'b, I: Iterator<Item = Block<'b>>> TokenStream<'b, I> {
    fn new(head_dim: usize, blocks: I) -> Self {
        let rest = Block { keys: &[], values: &[] };
        Self { head_dim, blocks, rest }
    }

    /// The next tokens of one block, of at most `elements` elements.
    fn take(&mut self, elements: usize) -> Block<'b> {
        while self.rest.keys.is_empty() {
            let block = self.blocks.next();
            self.rest = block.expect("the blocks reach up to the last query's position");
            self.rest.tokens(self.head_dim);
        }
        let count = elements.min(self.rest.keys.len());
        let (keys, later_keys) = self.rest.keys.split_at(count);
        let (values, later_values) = self.rest.values.split_at(count);
        self.rest = Block { keys: later_keys, values: later_values };
        Block { keys, values }
    }
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::geometry::KvDtype;
    use proptest::prelude::*;

    use super::super::reference::{Cache, Numbers, attend, distance, on_every_isa, tolerance};
    use super::super::shape::AttentionShape;
    use super::*;

    /// A whole prompt: caches of its KV heads, and queries `[tokens, heads, head_dim]` without a gap.
    struct Prompt {
        shape: AttentionShape,
        tokens: usize,
        caches: Vec<Cache>,
        queries: Vec<f32>,
    }

    impl Prompt {
        fn random(
            shape: AttentionShape,
            kv_heads: usize,
            tokens: usize,
            scale: f32,
            seed: u64,
        ) -> Self {
            let caches =
                (0..kv_heads as u64).map(|h| Cache::random(&shape, tokens, scale, seed ^ h));
            let width = kv_heads * shape.group() * shape.head_dim();
            Self {
                shape,
                tokens,
                caches: caches.collect(),
                queries: Numbers(!seed).normals(tokens * width, 1.0),
            }
        }

        fn width(&self) -> usize {
            self.queries.len() / self.tokens
        }

        /// Attention of the whole prompt in chunks of at most `chunk_tokens`.
        fn prefill(
            &self,
            attention: &CpuAttention,
            chunk_tokens: usize,
            block_tokens: usize,
            pool: Option<&ThreadPool>,
        ) -> Vec<f32> {
            let width = self.width();
            let mut scratch = PrefillScratch::default();
            let mut out = vec![f32::NAN; self.queries.len()];
            for start in (0..self.tokens).step_by(chunk_tokens) {
                let chunk = Prefill {
                    start,
                    tokens: chunk_tokens.min(self.tokens - start),
                    kv_heads: self.caches.len(),
                    queries: &self.queries[start * width..],
                    query_stride: width,
                };
                let blocks = |head: usize| self.caches[head].blocks(block_tokens);
                attention.prefill(
                    &chunk,
                    blocks,
                    &mut out[start * width..],
                    width,
                    &mut scratch,
                    pool,
                );
            }
            out
        }

        fn assert_exact(&self, attention: &CpuAttention, out: &[f32]) {
            let (head_dim, group) = (self.shape.head_dim(), self.shape.group());
            let rows = self.queries.chunks(head_dim).zip(out.chunks(head_dim));
            assert!(out.iter().all(|x| x.is_finite()));
            // Every eleventh row: each head, and tokens all along.
            for (row, (query, out)) in rows.enumerate().step_by(11) {
                let heads = self.width() / head_dim;
                let (token, cache) = (row / heads, &self.caches[row % heads / group]);
                let (exact, _) = attend(&self.shape, query, cache, token + 1);
                let most =
                    tolerance(cache.most_score(&self.shape, query), cache.most_value(&self.shape));
                let error = distance(out, &exact);
                assert!(
                    error <= most,
                    "{} {:?} token {token}: {error:e}",
                    attention.isa(),
                    self.shape
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn agrees_with_double_precision(
            head_dim in prop::sample::select(vec![16, 64, 80, 96, 128]),
            group in 1..=16_usize,
            dtype in prop_oneof![Just(KvDtype::F16), Just(KvDtype::Bf16)],
            tokens in 1..=150_usize,
            chunk_tokens in 1..=150_usize,
            block_tokens in prop::sample::select(vec![8, 16, 24, 64]),
            scale in prop::sample::select(vec![1e-4_f32, 1.0, 30.0]),
            seed: u64,
        ) {
            let shape = AttentionShape::new(head_dim, group, dtype).unwrap();
            let prompt = Prompt::random(shape, 1, tokens, scale, seed);
            for attention in on_every_isa(shape) {
                let out = prompt.prefill(&attention, chunk_tokens, block_tokens, None);
                prompt.assert_exact(&attention, &out);
            }
        }
    }

    #[test]
    fn threads_and_chunks_change_nothing() {
        let shape = AttentionShape::new(64, 3, KvDtype::F16).unwrap();
        let prompt = Prompt::random(shape, 2, 333, 2.0, 11);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        for attention in on_every_isa(shape) {
            let whole = prompt.prefill(&attention, 333, 16, None);
            prompt.assert_exact(&attention, &whole);
            for (chunk_tokens, block_tokens) in [(333, 16), (100, 8), (17, 64), (1, 16)] {
                let out = prompt.prefill(&attention, chunk_tokens, block_tokens, Some(&pool));
                assert!(out == whole, "{} in chunks of {chunk_tokens}", attention.isa());
            }
        }
    }

    #[test]
    fn rows_keep_to_their_strides() {
        let shape = AttentionShape::new(16, 2, KvDtype::F16).unwrap();
        let prompt = Prompt::random(shape, 2, 30, 1.0, 5);
        let (width, query_stride, out_stride) = (64, 80, 70);
        let mut queries = vec![f32::NAN; 30 * query_stride];
        for (row, query) in queries.chunks_mut(query_stride).zip(prompt.queries.chunks(width)) {
            row[..width].copy_from_slice(query);
        }
        for attention in on_every_isa(shape) {
            let expected = prompt.prefill(&attention, 30, 16, None);
            let mut out = vec![7.0; 29 * out_stride + width];
            let chunk =
                Prefill { start: 0, tokens: 30, kv_heads: 2, queries: &queries, query_stride };
            let blocks = |head: usize| prompt.caches[head].blocks(16);
            let mut scratch = PrefillScratch::default();
            attention.prefill(&chunk, blocks, &mut out, out_stride, &mut scratch, None);
            for (row, expected) in out.chunks(out_stride).zip(expected.chunks(width)) {
                assert_eq!(&row[..width], expected);
                assert!(row[width..].iter().all(|&x| x == 7.0));
            }
        }
    }
}
