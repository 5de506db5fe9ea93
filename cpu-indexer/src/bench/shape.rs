//! The shape that is measured.

use hindsight_protocol::geometry::{Geometry, KvDtype};

/// One layer of a model, and a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchShape {
    /// Tokens of context at the last step.
    pub context: usize,
    /// KV heads.
    pub kv_heads: u32,
    /// Query heads for each KV head.
    pub group: u32,
    /// Elements of a key.
    pub head_dim: u32,
    /// Tokens of a block.
    pub block_tokens: u32,
    /// Element type of keys and values.
    pub dtype: KvDtype,
}

impl BenchShape {
    /// The same as a geometry of one layer.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        Geometry {
            layers: 1,
            heads: self.kv_heads.saturating_mul(self.group),
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            block_tokens: self.block_tokens,
            dtype: self.dtype,
        }
    }

    /// Bytes of memory that measuring takes: keys and values, and what three indexes hold besides.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        let kv = (self.geometry().token_bytes() as u64).saturating_mul(self.context as u64);
        let scratch = (self.context as u64).saturating_mul(self.group as u64 * 96);
        kv.saturating_add(kv / 4).saturating_add(scratch)
    }
}
