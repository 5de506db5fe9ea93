//! Scoring keys where they lie in the arena.

use hindsight_protocol::arena::HeadBlocks;

use crate::kernels::{GroupQuery, Kernels, Scores, fetch};

/// Keys that are handed to the kernels at once.
const BATCH: usize = 16;
/// Keys of a text that lie between those that are scored and those that are fetched meanwhile.
const DISTANCE: usize = 32;

/// Keys here and there that are fetched before the first of them is scored: finding the page of one takes as long as
/// scoring dozens.
const SCATTERED: usize = 128;

/// Keys of some tokens, where they lie.
type Rows<'a> = [&'a [u16]; BATCH];

/// Scores every key of `view`; column `i` of `scores` is token `i`.
pub(crate) fn score_all(
    kernels: Kernels,
    view: HeadBlocks<'_>,
    query: &GroupQuery,
    scores: &mut Scores,
) {
    scores.resize(view.tokens());
    let (mut rows, mut ahead): (Rows<'_>, Rows<'_>) = ([&[]; BATCH], [&[]; BATCH]);
    for column in (0..view.tokens()).step_by(BATCH) {
        let count = run(view, column, &mut rows);
        let fetched = run(view, column + DISTANCE, &mut ahead);
        let (rows, ahead) = (&rows[..count], &ahead[..fetched]);
        kernels.score_rows(view.dtype(), query, rows, ahead, scores, column);
    }
}

/// Finds the keys of the tokens from `first` on, at most a batch, and returns their number.
fn run<'a>(view: HeadBlocks<'a>, first: usize, rows: &mut Rows<'a>) -> usize {
    let mut count = 0;
    while count < BATCH && first + count < view.tokens() {
        let token = first + count;
        let skipped = token % view.block_tokens() * view.head_dim();
        let keys = view.keys(token / view.block_tokens());
        for (row, key) in
            rows[count..].iter_mut().zip(keys[skipped..].chunks_exact(view.head_dim()))
        {
            *row = key;
            count += 1;
        }
    }
    count
}

/// Scores the keys of `tokens`; column `first + i` of `scores`, which has to be there, is `tokens[i]`.
pub(crate) fn score_tokens(
    kernels: Kernels,
    view: HeadBlocks<'_>,
    query: &GroupQuery,
    tokens: &[u32],
    scores: &mut Scores,
    first: usize,
) {
    let mut found = tokens.iter().map(|&token| {
        let key = view.key(token as usize);
        fetch(key);
        key
    });
    let mut keys: [&[u16]; SCATTERED] = [&[]; SCATTERED];
    keys.iter_mut().zip(&mut found).for_each(|(slot, key)| *slot = key);
    for column in (0..tokens.len()).step_by(BATCH) {
        let count = BATCH.min(tokens.len() - column);
        let batch = &mut keys[column % SCATTERED..][..BATCH];
        kernels.score_rows(view.dtype(), query, &batch[..count], &[], scores, first + column);
        batch.iter_mut().zip(&mut found).for_each(|(slot, key)| *slot = key);
    }
}

/// Asks for the keys of `tokens`, which will be scored soon.
pub(crate) fn fetch_tokens(view: HeadBlocks<'_>, tokens: &[u32]) {
    tokens.iter().for_each(|&token| fetch(view.key(token as usize)));
}
