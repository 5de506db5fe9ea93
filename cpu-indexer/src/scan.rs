//! Scoring keys where they lie in the arena.

use hindsight_protocol::arena::HeadBlocks;

use crate::kernels::{GroupQuery, Kernels, Run, Scores, fetch};

/// Keys that are handed to the kernels at once, while as many are fetched; how far ahead they are fetched in any case.
const BATCH: usize = 64;

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
    if kernels.has_runs_of(view.head_dim()) {
        score_blocks(kernels, view, query, scores);
        return;
    }
    let mut token = 0;
    score_batches(kernels, view, query, scores, 0, |rows| {
        let count = run(view, token, rows);
        token += count;
        count
    });
}

/// Scores every key of `view` block by block.
fn score_blocks(kernels: Kernels, view: HeadBlocks<'_>, query: &GroupQuery, scores: &mut Scores) {
    let dtype = view.dtype();
    let keys = |block| if block < view.blocks() { view.keys(block) } else { &[] };
    let far = (BATCH / view.block_tokens()).max(1);
    for block in 0..view.blocks() {
        let (next, later) = (keys(block + 1), keys(block + far));
        let run = Run { dtype, keys: keys(block), next, later };
        kernels.score_run(query, run, scores, block * view.block_tokens());
    }
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
    let mut batches = tokens.chunks(BATCH);
    score_batches(kernels, view, query, scores, first, |rows| {
        find(view, batches.next().unwrap_or_default(), rows)
    });
}

/// Scores keys of `view` batch by batch, into the columns from `column` on: those that `next` finds, and says how many they are.
fn score_batches<'a>(
    kernels: Kernels,
    view: HeadBlocks<'a>,
    query: &GroupQuery,
    scores: &mut Scores,
    mut column: usize,
    mut next: impl FnMut(&mut Rows<'a>) -> usize,
) {
    let mut batches: [Rows<'_>; 2] = [[&[]; BATCH]; 2];
    let [rows, ahead] = &mut batches;
    let (mut rows, mut ahead) = (rows, ahead);
    let mut count = next(rows);
    rows[..count].iter().for_each(|key| fetch(key));
    while count > 0 {
        let fetched = next(ahead);
        kernels.score_rows(view.dtype(), query, &rows[..count], &ahead[..fetched], scores, column);
        column += count;
        std::mem::swap(&mut rows, &mut ahead);
        count = fetched;
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

/// Finds the keys of `tokens`, at most a batch, and returns their number.
fn find<'a>(view: HeadBlocks<'a>, tokens: &[u32], rows: &mut Rows<'a>) -> usize {
    for (row, &token) in rows.iter_mut().zip(tokens) {
        *row = view.key(token as usize);
    }
    tokens.len()
}

/// Asks for the keys of `tokens`, which will be scored soon.
pub(crate) fn fetch_tokens(view: HeadBlocks<'_>, tokens: &[u32]) {
    tokens.iter().for_each(|&token| fetch(view.key(token as usize)));
}
