//! Scoring keys where they lie in the arena.

use hindsight_protocol::arena::HeadBlocks;

use crate::kernels::{GroupQuery, Kernels, Scores, prefetch};

/// Keys that are handed to the kernels at once, and are fetched ahead.
const BATCH: usize = 16;
/// The most tokens that a block may have.
const MOST_BLOCK_TOKENS: usize = 64;

/// Scores every key of `view`; column `i` of `scores` is token `i`.
pub(crate) fn score_all(
    kernels: Kernels,
    view: HeadBlocks<'_>,
    query: &GroupQuery,
    scores: &mut Scores,
) {
    scores.resize(view.tokens());
    let mut rows: [&[u16]; MOST_BLOCK_TOKENS] = [&[]; MOST_BLOCK_TOKENS];
    for block in 0..view.blocks() {
        if block + 2 < view.blocks() {
            prefetch(view.keys(block + 2));
        }
        let keys = view.keys(block).chunks_exact(view.head_dim());
        let count = keys.len();
        rows.iter_mut().zip(keys).for_each(|(row, key)| *row = key);
        let column = block * view.block_tokens();
        kernels.score_rows(view.dtype(), query, &rows[..count], scores, column);
    }
}

/// Scores the keys of `tokens`; column `i` of `scores` is `tokens[i]`.
pub(crate) fn score_tokens(
    kernels: Kernels,
    view: HeadBlocks<'_>,
    query: &GroupQuery,
    tokens: &[u32],
    scores: &mut Scores,
) {
    scores.resize(tokens.len());
    let (mut rows, mut ahead) = ([[].as_slice(); BATCH], [[].as_slice(); BATCH]);
    let mut batches = tokens.chunks(BATCH);
    let mut count = fetch(view, batches.next(), &mut ahead);
    let mut column = 0;
    while count > 0 {
        std::mem::swap(&mut rows, &mut ahead);
        let next = fetch(view, batches.next(), &mut ahead);
        kernels.score_rows(view.dtype(), query, &rows[..count], scores, column);
        column += count;
        count = next;
    }
}

/// Asks for the keys of a batch of tokens, and returns their number.
fn fetch<'a>(view: HeadBlocks<'a>, tokens: Option<&[u32]>, rows: &mut [&'a [u16]; BATCH]) -> usize {
    let tokens = tokens.unwrap_or(&[]);
    for (row, &token) in rows.iter_mut().zip(tokens) {
        *row = view.key(token as usize);
        prefetch(row);
    }
    tokens.len()
}

/// Writes to `weights` the softmax weight of each column, summed over the group, given the logarithm of each head's
/// normaliser.
pub(crate) fn sum_weights(
    kernels: Kernels,
    scores: &Scores,
    normalisers: &[f32],
    weights: &mut Vec<f32>,
) {
    weights.clear();
    weights.resize(scores.len(), 0.0);
    for (head, &normaliser) in normalisers.iter().enumerate() {
        kernels.add_exp(scores.head(head), normaliser, weights);
    }
}
