//! What a query shall attend to.

use std::ops::Range;

use hindsight_protocol::records::token_mask;

/// Where the middle of a context lies: the tokens between sink and window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zones {
    /// Tokens of the context.
    pub tokens: usize,
    /// End of the sink, start of the middle.
    pub sink: usize,
    /// Start of the window, end of the middle.
    pub window: usize,
}

impl Zones {
    /// The zones of `tokens` tokens of which at most the first `sink` and the last `window` are always attended.
    #[must_use]
    pub const fn new(tokens: usize, sink: usize, window: usize) -> Self {
        let sink = if sink < tokens { sink } else { tokens };
        let start = tokens.saturating_sub(window);
        Self { tokens, sink, window: if start > sink { start } else { sink } }
    }

    /// The middle.
    #[must_use]
    pub const fn middle(&self) -> Range<usize> {
        self.sink..self.window
    }
}

/// What was read to make a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effort {
    /// Tokens of the middle whose keys were scored exactly.
    pub candidates: usize,
    /// Bytes of keys read.
    pub key_bytes: usize,
    /// Bytes of codes read, with the tables that they are looked up in.
    pub sketch_bytes: usize,
    /// Bytes of history read.
    pub history_bytes: usize,
    /// Whether the query had drifted, so that more was read than otherwise.
    pub repaired: bool,
    /// Whether expected queries proposed candidates that were of no use, for the true ones were too unlike them.
    pub misled: bool,
}

impl Effort {
    /// Everything read, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.key_bytes + self.sketch_bytes + self.history_bytes
    }

    /// Adds what else was read.
    pub(crate) const fn add(&mut self, other: &Self) {
        self.key_bytes += other.key_bytes;
        self.sketch_bytes += other.sketch_bytes;
        self.history_bytes += other.history_bytes;
    }
}

/// What the queries of one KV head shall attend to at one step.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Chosen tokens of the middle, ascending.
    pub tokens: Vec<u32>,
    /// Blocks that hold sink, window and chosen tokens, ascending.
    pub blocks: Vec<u32>,
    /// What choosing took.
    pub effort: Effort,
}

impl Selection {
    /// Room for selections of `top_k` tokens besides sink and window, in contexts of up to `max_tokens`.
    #[must_use]
    pub fn with_capacity(top_k: usize, max_tokens: usize) -> Self {
        Self {
            tokens: Vec::with_capacity(top_k.min(max_tokens)),
            blocks: Vec::with_capacity(max_tokens.div_ceil(8) + top_k.min(max_tokens)),
            effort: Effort::default(),
        }
    }

    /// Chooses the whole middle.
    pub(crate) fn choose_all(&mut self, zones: Zones, block_tokens: usize) {
        self.tokens.clear();
        self.tokens.extend(zones.middle().map(number));
        self.round_to_blocks(zones, block_tokens);
    }

    /// Derives the blocks from zones and tokens.
    pub(crate) fn round_to_blocks(&mut self, zones: Zones, block_tokens: usize) {
        self.blocks.clear();
        let blocks = |tokens: Range<usize>| {
            let end = if tokens.is_empty() { 0 } else { tokens.end.div_ceil(block_tokens) };
            number(tokens.start / block_tokens)..number(end)
        };
        self.blocks.extend(blocks(0..zones.sink));
        let shift = block_tokens.trailing_zeros();
        let begun = self.blocks.last().map_or(0, |last| (last + 1) << shift);
        let tokens = &self.tokens[self.tokens.partition_point(|&token| token < begun)..];
        let mut found = self.blocks.len();
        self.blocks.resize(found + tokens.len(), 0);
        for (at, token) in tokens.iter().enumerate() {
            // Which token is the last of its block cannot be foreseen, so nothing branches on it.
            let block = token >> shift;
            self.blocks[found] = block;
            found += usize::from(tokens.get(at + 1).is_none_or(|next| next >> shift != block));
        }
        self.blocks.truncate(found);
        let window = blocks(zones.window..zones.tokens);
        let next = self.blocks.last().map_or(0, |last| last + 1);
        self.blocks.extend(window.start.max(next)..window.end);
    }
}

/// Masks of the tokens to be attended to in each block of a selection, in the order of its blocks.
pub(crate) struct Masks<'a> {
    zones: Zones,
    block_tokens: usize,
    /// Tokens that are attended to together.
    grain: usize,
    /// Chosen tokens of blocks to come.
    tokens: &'a [u32],
}

impl<'a> Masks<'a> {
    /// The masks of a selection that was made for `zones`: of `grain` tokens that lie together all, if one is attended to.
    ///
    /// # Panics
    /// If `grain` is not a power of two.
    pub(crate) fn new(
        selection: &'a Selection,
        zones: Zones,
        block_tokens: usize,
        grain: usize,
    ) -> Self {
        assert!(grain.is_power_of_two());
        Self { zones, block_tokens, grain: grain.min(block_tokens), tokens: &selection.tokens }
    }

    /// Those of sink and window, and of the chosen tokens, in `block`, which follows the one asked for before.
    pub(crate) fn of(&mut self, block: u32) -> u64 {
        let start = block as usize * self.block_tokens;
        let end = start + self.block_tokens;
        let within = |position: usize| position.clamp(start, end) - start;
        let Zones { tokens, sink, window } = self.zones;
        if self.grain == self.block_tokens {
            return token_mask(0, within(tokens));
        }
        let sink = within(sink).next_multiple_of(self.grain);
        // Nothing of the window lies in a block that ends where it begins.
        let window = within(window);
        let window = if window < self.block_tokens { window & !(self.grain - 1) } else { window };
        let always = token_mask(0, sink) | token_mask(window, self.block_tokens);
        let inside = self.tokens.iter().take_while(|&&token| (token as usize) < end).count();
        let (chosen, rest) = self.tokens.split_at(inside);
        self.tokens = rest;
        let grains = chosen.iter().fold(0, |mask, &token| {
            let first = (token as usize - start) & !(self.grain - 1);
            mask | token_mask(first, first + self.grain)
        });
        // A grain may reach beyond the text.
        (always | grains) & token_mask(0, within(tokens))
    }
}

/// A token or block number as it is stored.
///
/// # Panics
/// If it does not fit 32 bits, which no arena's capacity allows.
pub(crate) fn number(position: usize) -> u32 {
    u32::try_from(position).expect("arenas hold fewer than 2^32 tokens of a sequence")
}

/// How good a selection was, found by an exact scan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Audit {
    /// Share of the exact top-k that was selected.
    pub recall: f32,
    /// Softmax mass of selection, sink and window over that of the exact top-k, sink and window, summed over the group.
    pub mass: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_of_a_short_text_have_no_middle() {
        assert_eq!(Zones::new(2, 4, 64), Zones { tokens: 2, sink: 2, window: 2 });
        assert_eq!(Zones::new(66, 4, 64).middle(), 4..4);
        assert_eq!(Zones::new(70, 4, 64).middle(), 4..6);
    }

    #[test]
    fn blocks_hold_sink_window_and_tokens_once_each() {
        let mut selection =
            Selection { tokens: vec![17, 18, 40, 98], blocks: vec![9], ..Default::default() };
        selection.round_to_blocks(Zones { tokens: 130, sink: 4, window: 100 }, 16);
        assert_eq!(selection.blocks, [0, 1, 2, 6, 7, 8]);
    }

    #[test]
    fn masks_hold_sink_window_and_tokens() {
        let mut selection = Selection { tokens: vec![17, 18, 40, 98], ..Default::default() };
        let zones = Zones { tokens: 130, sink: 4, window: 100 };
        selection.round_to_blocks(zones, 16);
        let masks = |grain| -> Vec<u64> {
            let mut masks = Masks::new(&selection, zones, 16, grain);
            selection.blocks.iter().map(|&block| masks.of(block)).collect()
        };
        assert_eq!(masks(1), [0xf, 0b110, 1 << 8, 0xfff4, 0xffff, 0b11]);
        assert_eq!(masks(4), [0xf, 0xf, 0xf << 8, 0xffff, 0xffff, 0b11]);
        assert_eq!(masks(64), [0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0b11]);
    }

    #[test]
    fn everything_is_every_block() {
        let mut selection = Selection::default();
        selection.choose_all(Zones::new(1000, 0, 1), 16);
        assert_eq!(selection.tokens.len(), 999);
        assert_eq!(selection.blocks, (0..63).collect::<Vec<_>>());
    }
}
