//! A code of a few bytes for every key, from which its scores can be estimated.

mod allocation;
mod calibration;
mod linear;
mod quantizer;
mod ranking;
mod words;

use hindsight_protocol::arena::HeadBlocks;

use crate::kernels::scalar::widen;
use crate::kernels::{CODE_GROUP, Kernels};
use quantizer::Quantizer;
pub use ranking::Ranking;

/// Keys that codes are learnt from, at most.
const SAMPLE: usize = 2048;
/// Groups of keys are added in pairs, as kernels scan two at a time.
const PADDED: usize = 2 * CODE_GROUP;

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
        let step = (view.tokens() - first).div_ceil(SAMPLE).max(1);
        let mut keys = Vec::with_capacity(SAMPLE * head_dim);
        for token in (first..view.tokens()).step_by(step) {
            keys.extend(view.key(token).iter().map(|&bits| widen(view.dtype(), bits)));
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

    /// Codes the keys in `view` that are not coded yet. `scratch` grows to at most a few numbers per key element.
    pub fn extend(&mut self, kernels: Kernels, view: HeadBlocks<'_>, scratch: &mut Vec<f32>) {
        let pairs = self.quantizer.subspaces() / 2;
        let mut code = [0; 2 * 64];
        let code = &mut code[..2 * pairs];
        let needed = view.head_dim() + self.quantizer.width();
        scratch.resize(needed.max(scratch.len()), 0.0);
        while self.tokens < view.tokens() {
            if self.tokens.is_multiple_of(PADDED) {
                self.codes.resize(self.codes.len() + PADDED * pairs, 0);
            }
            let key = view.key(self.tokens).iter().map(|&bits| widen(view.dtype(), bits));
            self.quantizer.encode(kernels, key, scratch, code);
            let group = self.tokens / CODE_GROUP * CODE_GROUP * pairs;
            let lane = self.tokens % CODE_GROUP;
            for (pair, words) in code.chunks_exact(2).enumerate() {
                self.codes[group + pair * CODE_GROUP + lane] = words[0] | words[1] << 4;
            }
            self.tokens += 1;
        }
    }
}
