//! Attention of one token, in parts that threads share.

use std::ops::Range;

use super::decode::DecodeScratch;
use super::shape::{Block, MAX_BLOCK_TOKENS};
use super::{CpuAttention, merge};
use crate::threads::{Parallel, for_each_chunk};

/// Tokens of a part: enough that merging costs nothing, few enough that threads end at about the same time. What a
/// text is cut into does not depend on the threads, and so neither does the result.
const PART_TOKENS: usize = 1024;
const _: () = assert!(PART_TOKENS.is_multiple_of(MAX_BLOCK_TOKENS));

/// Work space, to be kept from call to call.
#[derive(Debug, Default)]
pub struct Parts {
    parts: Vec<Part>,
}

#[derive(Debug, Default)]
struct Part {
    scratch: DecodeScratch,
    out: Vec<f32>,
    log_sum_exp: Vec<f32>,
}

impl Parts {
    /// Attends one token's queries ([KV heads, group, head_dim]) over the first `tokens` tokens. `blocks` gives those of a
    /// KV head that hold a range of tokens, which begins at a multiple of the largest block. `out` becomes what
    /// [`CpuAttention::decode`] says for each KV head.
    ///
    /// # Panics
    /// As [`CpuAttention::decode`].
    pub fn attend_all<'b, B: IntoIterator<Item = Block<'b>>>(
        &mut self,
        kernels: &CpuAttention,
        queries: &[f32],
        tokens: usize,
        blocks: impl Fn(usize, Range<usize>) -> B + Sync,
        out: &mut [f32],
        threads: &dyn Parallel,
    ) {
        let blocks = |head, part| {
            let start = part * PART_TOKENS;
            blocks(head, start..tokens.min(start + PART_TOKENS))
        };
        self.attend(kernels, queries, tokens.div_ceil(PART_TOKENS), blocks, out, threads);
    }

    /// As [`Self::attend_all`], over the blocks that `blocks` gives for a KV head and each of its `parts` parts.
    ///
    /// # Panics
    /// As [`CpuAttention::decode`].
    pub fn attend<'b, B: IntoIterator<Item = Block<'b>>>(
        &mut self,
        kernels: &CpuAttention,
        queries: &[f32],
        parts: usize,
        blocks: impl Fn(usize, usize) -> B + Sync,
        out: &mut [f32],
        threads: &dyn Parallel,
    ) {
        let group = kernels.shape().group();
        let width = group * kernels.shape().head_dim();
        let parts_of_head = parts.max(1);
        let count = queries.len() / width * parts_of_head;
        if self.parts.len() < count {
            self.parts.resize_with(count, Part::default);
        }
        let parts = &mut self.parts[..count];
        for_each_chunk(parts, 1, threads, |number, part| {
            let Part { scratch, out, log_sum_exp } = &mut part[0];
            let (head, part) = (number / parts_of_head, number % parts_of_head);
            out.resize(width, 0.0);
            log_sum_exp.resize(group, 0.0);
            let queries = &queries[head * width..][..width];
            kernels.decode(queries, blocks(head, part), out, log_sum_exp, scratch);
        });
        for (out, parts) in out.chunks_exact_mut(width).zip(parts.chunks_exact_mut(parts_of_head)) {
            let (whole, others) = parts.split_first_mut().expect("a head has a part");
            for other in others {
                merge(&mut whole.out, &mut whole.log_sum_exp, &other.out, &other.log_sum_exp);
            }
            out.copy_from_slice(&whole.out);
        }
    }
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::geometry::KvDtype;

    use super::super::reference::{Cache, Numbers, distance};
    use super::super::shape::AttentionShape;
    use super::*;
    use crate::threads::{Helper, Serial, Team};

    #[test]
    fn parts_make_up_the_whole_on_any_threads() {
        let shape = AttentionShape::new(64, 3, KvDtype::F16).unwrap();
        let kernels = CpuAttention::new(shape);
        let helper = |_| Helper::new(|| Ok::<(), std::io::Error>(()));
        let team = Team::new((0..2).map(helper).collect()).unwrap();
        let mut parts = Parts::default();
        for tokens in [1, 16, 1023, 1024, 1025, 3000] {
            let caches = [1, 2].map(|seed| Cache::random(&shape, tokens, 1.0, seed));
            let queries = Numbers(5).normals(2 * 3 * 64, 1.0);
            let blocks = |head: usize, range: Range<usize>| {
                let Cache { keys, values, .. } = &caches[head];
                let range = range.start * 64..range.end * 64;
                let values = values[range.clone()].chunks(16 * 64);
                let pairs = keys[range].chunks(16 * 64).zip(values);
                pairs.map(|(keys, values)| Block { keys, values })
            };
            let mut attend = |threads: &dyn Parallel| {
                let mut out = vec![f32::NAN; 2 * 3 * 64];
                parts.attend_all(&kernels, &queries, tokens, blocks, &mut out, threads);
                out
            };
            let alone = attend(&Serial);
            assert_eq!(alone, attend(&team));
            for (head, (queries, out)) in queries.chunks(192).zip(alone.chunks(192)).enumerate() {
                let mut whole = vec![0.0; 192];
                let scratch = &mut DecodeScratch::default();
                kernels.decode(
                    queries,
                    blocks(head, 0..tokens),
                    &mut whole,
                    &mut [0.0; 3],
                    scratch,
                );
                assert!(distance(out, &whole.iter().map(|&x| x.into()).collect::<Vec<_>>()) < 1e-5);
            }
        }
    }
}
