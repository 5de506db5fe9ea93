//! Sets of tokens without duplicates, in order.

use std::ops::Range;

use crate::selection::number;

/// One bit a token.
#[derive(Debug, Clone, Default)]
pub(super) struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// Room for `tokens` tokens.
    pub(super) fn new(tokens: usize) -> Self {
        Self { words: Vec::with_capacity(tokens.div_ceil(64)) }
    }

    /// Empties the set, and makes it hold tokens below `tokens`.
    pub(super) fn reset(&mut self, tokens: usize) {
        self.words.clear();
        self.words.resize(tokens.div_ceil(64), 0);
    }

    /// Adds all tokens of `range`, which must be below what the set may hold.
    pub(super) fn insert(&mut self, range: Range<usize>) {
        let mut start = range.start;
        while start < range.end {
            let word_end = (start / 64 + 1) * 64;
            let end = range.end.min(word_end);
            let ones = u64::MAX >> (64 - (end - start));
            self.words[start / 64] |= ones << (start % 64);
            start = end;
        }
    }

    /// Appends the tokens of the set to `out`, ascending.
    pub(super) fn collect_into(&self, out: &mut Vec<u32>) {
        for (word, first) in self.words.iter().zip((0..).step_by(64)) {
            let mut bits = *word;
            while bits != 0 {
                out.push(number(first + bits.trailing_zeros() as usize));
                bits &= bits - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_across_words() {
        let mut set = Bitmap::new(200);
        set.reset(200);
        for range in [60..70, 65..66, 127..129, 199..200, 5..5] {
            set.insert(range);
        }
        let mut found = Vec::new();
        set.collect_into(&mut found);
        let expected: Vec<u32> = (60..70).chain(127..129).chain(199..200).collect();
        assert_eq!(found, expected);
        set.reset(64);
        found.clear();
        set.collect_into(&mut found);
        assert!(found.is_empty());
    }
}
