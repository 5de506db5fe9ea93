//! A code of a few bytes for every key, from which its scores can be estimated.

mod allocation;
mod calibration;
mod key_map;
mod linear;
mod quantizer;
mod ranking;
mod words;

use hindsight_protocol::arena::HeadBlocks;

use crate::kernels::scalar::widen;
use crate::kernels::{CODE_GROUP, Kernels, LANES, fetch};
pub use quantizer::EncodeScratch;
use quantizer::Quantizer;
pub use ranking::Ranking;

/// Keys that codes are learnt from, at most.
const SAMPLE: usize = 2048;
/// Code words of a key, at most: two for each byte of the longest code.
const MOST_WORDS: usize = 2 * 64;
/// Groups of keys are added in pairs, as kernels scan two at a time.
const PADDED: usize = 2 * CODE_GROUP;

/// Bytes of codes that are fetched before a scan; further on it fetches them itself.
const FETCHED_CODES: usize = 4 << 10;

/// Codes of all keys of one head, and what is needed to make and read them.
///
/// Codes of a group of 64 keys lie together, [pair of sub-spaces, key], the even sub-space in the low four bits.
#[derive(Debug, Clone)]
pub struct Sketch {
    quantizer: Quantizer,
    codes: Vec<u8>,
    tokens: usize,
}

impl Sketch {
    /// Learns codes of `code_bytes` bytes from the keys in `view`, beginning with token `first`, and from `queries`
    /// ([n, head_dim], as they are multiplied with keys). No key is coded yet; there will be room for `max_tokens`.
    #[must_use]
    pub fn calibrate(
        kernels: Kernels,
        view: HeadBlocks<'_>,
        first: usize,
        queries: &[f32],
        code_bytes: usize,
        max_tokens: usize,
    ) -> Self {
        let head_dim = view.head_dim();
        let subspaces = (2 * code_bytes).min(head_dim);
        let span = view.tokens() - first;
        let step = span.div_ceil(SAMPLE).max(1);
        // Whole vectors of keys: those of a short text are taken more than once.
        let count = span.div_ceil(step).next_multiple_of(LANES);
        let mut keys = Vec::with_capacity(count * head_dim);
        for sampled in 0..count {
            let key = view.key(first + sampled * step % span);
            keys.extend(key.iter().map(|&bits| widen(view.dtype(), bits)));
        }
        let quantizer = calibration::calibrate(kernels, &keys, queries, head_dim, subspaces);
        let capacity = max_tokens.next_multiple_of(PADDED) * subspaces / 2;
        Self { quantizer, codes: Vec::with_capacity(capacity), tokens: 0 }
    }

    /// Tokens whose keys are coded.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens that a scan ranks: those coded, rounded up to whole groups.
    #[must_use]
    pub const fn padded_tokens(&self) -> usize {
        self.tokens.next_multiple_of(PADDED)
    }

    /// Bytes of the codes that a scan reads.
    #[must_use]
    pub const fn scan_bytes(&self) -> usize {
        self.codes.len() + self.quantizer.table_bytes()
    }

    /// Bytes held.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.codes.len() + self.quantizer.bytes()
    }

    /// Asks for what the next scan begins with.
    pub fn fetch(&self) {
        self.quantizer.fetch();
        fetch(&self.codes[..self.codes.len().min(FETCHED_CODES)]);
    }

    /// Codes keys in `view` that are not coded yet: at least those of the tokens before `needed`, and others as soon as
    /// there are enough of them to be coded at once.
    pub fn extend(
        &mut self,
        kernels: Kernels,
        view: HeadBlocks<'_>,
        needed: usize,
        scratch: &mut EncodeScratch,
    ) {
        let pairs = self.quantizer.subspaces() / 2;
        let mut codes = [[0; LANES]; MOST_WORDS];
        let codes = &mut codes[..2 * pairs];
        while self.tokens < needed || self.tokens + LANES <= view.tokens() {
            let new = self.tokens..(self.tokens + LANES).min(view.tokens());
            let keys = new.clone().map(|token| view.key(token));
            self.quantizer.encode(kernels, view.dtype(), keys, scratch, codes);
            self.tokens = new.end;
            self.codes.resize(self.padded_tokens() * pairs, 0);
            for (lane, token) in new.enumerate() {
                let group = token / CODE_GROUP * CODE_GROUP * pairs;
                for (pair, words) in codes.chunks_exact(2).enumerate() {
                    let byte = &mut self.codes[group + pair * CODE_GROUP + token % CODE_GROUP];
                    *byte = words[0][lane] | words[1][lane] << 4;
                }
            }
        }
    }
}
