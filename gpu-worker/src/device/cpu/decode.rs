//! Attention of one token over a list of blocks.

use super::CpuAttention;
use super::scratch::AlignedBuffer;
use super::shape::Block;
use super::simd::{DecodeTile, TILE_TOKENS};
use super::softmax::{NO_SCORE, finish};

/// The most blocks of a tile: a block may be given by one of its tokens.
const TILE_BLOCKS: usize = TILE_TOKENS;

/// Work space of [`CpuAttention::decode`], to be kept from call to call so that none of them allocates.
#[derive(Clone, Debug, Default)]
pub struct DecodeScratch {
    queries: AlignedBuffer,
    weights: AlignedBuffer,
    state: AlignedBuffer,
}

impl CpuAttention {
    /// Attends one token's queries of one KV head over `blocks`.
    ///
    /// `queries` is `[group, head_dim]`. `out`, `[group, head_dim]`, becomes the values weighted by the softmax of the
    /// scores, and `lse`, `[group]`, the natural logarithm of the sum of their exponentials, with which [`merge`] joins
    /// results over other keys. Without any token `out` is 0 and `lse` is `-inf`. The result depends on the order of the
    /// blocks in its last bits.
    ///
    /// # Panics
    /// If a slice has another length than this, or a block is not whole tokens.
    ///
    /// [`merge`]: super::merge
    pub fn decode<'b>(
        &self,
        queries: &[f32],
        blocks: impl IntoIterator<Item = Block<'b>>,
        out: &mut [f32],
        lse: &mut [f32],
        scratch: &mut DecodeScratch,
    ) {
        let shape = &self.shape;
        let (head_dim, group) = (shape.head_dim(), shape.group());
        assert_eq!(queries.len(), group * head_dim, "queries are [group, head_dim]");
        assert_eq!(out.len(), group * head_dim, "out is [group, head_dim]");
        assert_eq!(lse.len(), group, "lse is [group]");

        let scaled = scratch.queries.get(group * head_dim);
        for (scaled, query) in scaled.iter_mut().zip(queries) {
            *scaled = query * shape.scale_log2();
        }
        let weights = scratch.weights.get(group * TILE_TOKENS);
        let (largest, sums) = scratch.state.get(2 * group).split_at_mut(group);
        largest.fill(NO_SCORE);
        sums.fill(0.0);
        out.fill(0.0);

        let mut tiles = Tiles::new(head_dim, blocks.into_iter());
        // The first round has nothing to attend: it only asks for the first tile's memory.
        let (mut first, mut second) = (Tile::default(), Tile::default());
        let (mut tile, mut ahead) = (&mut first, &mut second);
        loop {
            tiles.fill(ahead);
            self.kernels.decode_tile(&mut DecodeTile {
                head_dim,
                dtype: shape.dtype(),
                queries: scaled,
                blocks: tile.blocks(),
                ahead: ahead.blocks(),
                weights,
                largest,
                sums,
                out,
            });
            if ahead.blocks().is_empty() {
                break;
            }
            std::mem::swap(&mut tile, &mut ahead);
        }

        let states = largest.iter().zip(sums.iter());
        for ((out, lse), (&largest, &sum)) in out.chunks_exact_mut(head_dim).zip(lse).zip(states) {
            *lse = finish(out, largest, sum);
        }
    }
}

/// Blocks that are attended together.
struct Tile<'b> {
    blocks: [Block<'b>; TILE_BLOCKS],
    len: usize,
}

impl Default for Tile<'_> {
    fn default() -> Self {
        Self { blocks: [Block { keys: &[], values: &[] }; TILE_BLOCKS], len: 0 }
    }
}

impl<'b> Tile<'b> {
    fn blocks(&self) -> &[Block<'b>] {
        &self.blocks[..self.len]
    }
}

/// Cuts a list of blocks into tiles of at most [`TILE_TOKENS`] tokens.
struct Tiles<'b, I> {
    head_dim: usize,
    blocks: I,
    /// A block that was taken and did not fit.
    left: Option<Block<'b>>,
}

impl<'b, I: Iterator<Item = Block<'b>>> Tiles<'b, I> {
    fn new(head_dim: usize, blocks: I) -> Self {
        Self { head_dim, blocks, left: None }
    }

    /// The next tile; empty after the last one.
    fn fill(&mut self, tile: &mut Tile<'b>) {
        tile.len = 0;
        let mut tokens = 0;
        while tile.len < TILE_BLOCKS {
            let Some(block) = self.left.take().or_else(|| self.blocks.next()) else {
                break;
            };
            let more = block.tokens(self.head_dim);
            if tokens + more > TILE_TOKENS {
                self.left = Some(block);
                break;
            }
            tile.blocks[tile.len] = block;
            tile.len += 1;
            tokens += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::geometry::KvDtype;
    use proptest::prelude::*;

    use super::super::merge;
    use super::super::reference::{
        self, Cache, Numbers, attend, distance, on_every_isa, tolerance,
    };
    use super::super::shape::AttentionShape;
    use super::*;

    fn decode<'b>(
        attention: &CpuAttention,
        queries: &[f32],
        blocks: impl IntoIterator<Item = Block<'b>>,
    ) -> (Vec<f32>, Vec<f32>) {
        let mut out = vec![f32::NAN; queries.len()];
        let mut lse = vec![f32::NAN; attention.shape().group()];
        attention.decode(queries, blocks, &mut out, &mut lse, &mut DecodeScratch::default());
        (out, lse)
    }

    fn assert_exact(
        attention: &CpuAttention,
        queries: &[f32],
        cache: &Cache,
        out: &[f32],
        lse: &[f32],
    ) {
        let shape = attention.shape();
        let head_dim = shape.head_dim();
        let tokens = cache.keys.len() / head_dim;
        let heads = queries.chunks(head_dim).zip(out.chunks(head_dim)).zip(lse);
        for ((query, out), lse) in heads {
            let (exact, exact_lse) = attend(shape, query, cache, tokens);
            let most = cache.most_score(shape, query);
            let error = distance(out, &exact);
            let case = format!("{} {shape:?} {tokens} tokens", attention.isa());
            assert!(
                error <= tolerance(most, cache.most_value(shape)),
                "{case}: {error:e} at {most}"
            );
            assert!(
                distance(&[*lse], &[exact_lse]) <= tolerance(most, 1.0),
                "{case}: {lse} {exact_lse}"
            );
        }
    }

    fn dtypes() -> impl Strategy<Value = KvDtype> {
        prop_oneof![Just(KvDtype::F16), Just(KvDtype::Bf16)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn agrees_with_double_precision(
            head_dim in prop::sample::select(vec![16, 48, 64, 80, 96, 128, 256]),
            group in 1..=16_usize,
            dtype in dtypes(),
            tokens in 1..=300_usize,
            block_tokens in prop::sample::select(vec![8, 16, 24, 32, 64]),
            scale in prop::sample::select(vec![1e-4_f32, 1.0, 30.0]),
            seed: u64,
        ) {
            let shape = AttentionShape::new(head_dim, group, dtype).unwrap();
            let cache = Cache::random(&shape, tokens, scale, seed);
            let queries = Numbers(!seed).normals(group * head_dim, 1.0);
            for attention in on_every_isa(shape) {
                let (out, lse) = decode(&attention, &queries, cache.blocks(block_tokens));
                assert_exact(&attention, &queries, &cache, &out, &lse);
            }
        }

        #[test]
        fn parts_merge_to_the_whole(
            group in 1..=5_usize,
            dtype in dtypes(),
            tokens in 1..=300_usize,
            split in 0..=20_usize,
            scale in prop::sample::select(vec![1e-4_f32, 1.0, 30.0]),
            seed: u64,
        ) {
            let shape = AttentionShape::new(64, group, dtype).unwrap();
            let cache = Cache::random(&shape, tokens, scale, seed);
            let queries = Numbers(!seed).normals(group * 64, 1.0);
            for attention in on_every_isa(shape) {
                let blocks = cache.blocks(16);
                let (mut out, mut lse) = decode(&attention, &queries, blocks.clone().take(split));
                let (other_out, other_lse) = decode(&attention, &queries, blocks.skip(split));
                merge(&mut out, &mut lse, &other_out, &other_lse);
                assert_exact(&attention, &queries, &cache, &out, &lse);
            }
        }
    }

    #[test]
    fn no_token_is_zero_with_no_weight() {
        let shape = AttentionShape::new(64, 3, KvDtype::F16).unwrap();
        for attention in on_every_isa(shape) {
            let empty = Block { keys: &[], values: &[] };
            for blocks in [vec![], vec![empty], vec![empty; 20]] {
                let (out, lse) = decode(&attention, &[1.0; 3 * 64], blocks);
                assert_eq!(out, [0.0; 3 * 64]);
                assert_eq!(lse, [f32::NEG_INFINITY; 3]);
            }
        }
    }

    #[test]
    fn a_key_infinitely_far_gets_no_weight() {
        let shape = AttentionShape::new(16, 1, KvDtype::F16).unwrap();
        let mut cache = Cache::random(&shape, 40, 1.0, 7);
        let infinite = half::f16::NEG_INFINITY.to_bits();
        let expected = attend(&shape, &[1.0; 16], &cache.first(39), 39);
        cache.keys[39 * 16] = infinite;
        for attention in on_every_isa(shape) {
            let (out, lse) = decode(&attention, &[1.0; 16], cache.blocks(16));
            assert!(distance(&out, &expected.0) < 1e-5);
            assert!(distance(&lse, &[expected.1]) < 1e-5);
            let last = Block { keys: &cache.keys[39 * 16..], values: &cache.values[39 * 16..] };
            let (out, lse) = decode(&attention, &[1.0; 16], [last]);
            assert_eq!((out, lse), (vec![0.0; 16], vec![f32::NEG_INFINITY]));
        }
    }

    #[test]
    fn subnormal_values_survive() {
        for dtype in [KvDtype::F16, KvDtype::Bf16] {
            let shape = AttentionShape::new(64, 1, dtype).unwrap();
            let (keys, values) = ([0; 4 * 64], [1; 4 * 64]);
            for attention in on_every_isa(shape) {
                let (out, _) =
                    decode(&attention, &[1.0; 64], [Block { keys: &keys, values: &values }]);
                let exact = reference::widen(dtype, 1);
                assert!(
                    out.iter().all(|&x| f64::from(x) == exact),
                    "{} {dtype:?}",
                    attention.isa()
                );
            }
        }
    }

    #[test]
    fn the_same_blocks_give_the_same_bits() {
        let shape = AttentionShape::new(128, 4, KvDtype::Bf16).unwrap();
        let cache = Cache::random(&shape, 777, 1.0, 3);
        let queries = Numbers(4).normals(4 * 128, 1.0);
        for attention in on_every_isa(shape) {
            let first = decode(&attention, &queries, cache.blocks(16));
            let mut scratch = DecodeScratch::default();
            let mut out = vec![f32::NAN; 4 * 128];
            let mut lse = vec![f32::NAN; 4];
            for _ in 0..2 {
                attention.decode(&queries, cache.blocks(16), &mut out, &mut lse, &mut scratch);
                assert_eq!((&out, &lse), (&first.0, &first.1));
            }
        }
    }
}
