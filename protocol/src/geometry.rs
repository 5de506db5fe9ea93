//! The shape of a KV cache: what both peers must agree on before either touches it.

use serde::{Deserialize, Serialize};

/// How a key or value element is stored. Both are 16 bits wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvDtype {
    /// IEEE 754 binary16: 11 significant bits, magnitudes up to 65,504.
    F16,
    /// bfloat16: 8 significant bits, the range of `f32`.
    Bf16,
}

impl KvDtype {
    /// Bytes of one element.
    pub const BYTES: usize = 2;

    /// The number that stands for this type in shared memory.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Bf16 => 2,
        }
    }

    /// The type that `code` stands for, if any.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::F16),
            2 => Some(Self::Bf16),
            _ => None,
        }
    }
}

impl std::fmt::Display for KvDtype {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// Shape of the KV cache of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Geometry {
    /// Transformer layers.
    pub layers: u32,
    /// Query heads of a layer.
    pub heads: u32,
    /// KV heads of a layer; `heads` is a multiple of it.
    pub kv_heads: u32,
    /// Elements of one key, value or query of one head.
    pub head_dim: u32,
    /// Tokens of a block.
    pub block_tokens: u32,
    /// Element type of keys and values.
    pub dtype: KvDtype,
}

/// A geometry that Hindsight cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// A field lies outside its range.
    #[error("{field} is {value}, but must be {requirement}")]
    OutOfRange {
        /// Name of the field.
        field: &'static str,
        /// What it holds.
        value: u32,
        /// What it may hold.
        requirement: &'static str,
    },
    /// The query heads cannot be shared evenly among the KV heads.
    #[error("{heads} query heads cannot be shared evenly by {kv_heads} KV heads")]
    UnevenGroups {
        /// Query heads.
        heads: u32,
        /// KV heads.
        kv_heads: u32,
    },
}

impl Geometry {
    /// Checks every field, so that later arithmetic on sizes cannot overflow.
    ///
    /// # Errors
    /// Names the first field that is out of range.
    pub fn validate(&self) -> Result<(), GeometryError> {
        let range = |field, value: u32, ok: bool, requirement| {
            if ok { Ok(()) } else { Err(GeometryError::OutOfRange { field, value, requirement }) }
        };
        range("layers", self.layers, (1..=1024).contains(&self.layers), "1 to 1024")?;
        range("heads", self.heads, (1..=1024).contains(&self.heads), "1 to 1024")?;
        range("kv_heads", self.kv_heads, (1..=1024).contains(&self.kv_heads), "1 to 1024")?;
        range(
            "head_dim",
            self.head_dim,
            (16..=512).contains(&self.head_dim) && self.head_dim.is_multiple_of(16),
            "a multiple of 16 from 16 to 512",
        )?;
        range(
            "block_tokens",
            self.block_tokens,
            (8..=64).contains(&self.block_tokens) && self.block_tokens.is_power_of_two(),
            "8, 16, 32 or 64",
        )?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(GeometryError::UnevenGroups { heads: self.heads, kv_heads: self.kv_heads });
        }
        Ok(())
    }

    /// Query heads that share one KV head.
    #[must_use]
    pub const fn group(&self) -> usize {
        (self.heads / self.kv_heads) as usize
    }

    /// Bytes of one block: K and V of `block_tokens` tokens of one head.
    #[must_use]
    pub const fn block_bytes(&self) -> usize {
        2 * self.block_tokens as usize * self.head_dim as usize * KvDtype::BYTES
    }

    /// Bytes of keys and values that one token takes over all layers and heads.
    #[must_use]
    pub const fn token_bytes(&self) -> usize {
        2 * self.layers as usize * self.kv_heads as usize * self.head_dim as usize * KvDtype::BYTES
    }

    /// Blocks that hold `tokens` tokens of one head.
    #[must_use]
    pub const fn blocks(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama_8b() -> Geometry {
        Geometry {
            layers: 32,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            block_tokens: 16,
            dtype: KvDtype::Bf16,
        }
    }

    #[test]
    fn llama_8b_has_eight_kib_blocks_and_128_kib_tokens() {
        assert_eq!(llama_8b().validate(), Ok(()));
        assert_eq!(llama_8b().block_bytes(), 8 << 10);
        assert_eq!(llama_8b().token_bytes(), 128 << 10);
        assert_eq!(llama_8b().group(), 4);
        assert_eq!(llama_8b().blocks(17), 2);
    }

    #[test]
    fn an_uneven_group_and_an_odd_block_are_refused() {
        let uneven = Geometry { heads: 9, kv_heads: 2, ..llama_8b() };
        assert!(matches!(uneven.validate(), Err(GeometryError::UnevenGroups { .. })));
        let odd = Geometry { block_tokens: 12, ..llama_8b() };
        assert!(matches!(
            odd.validate(),
            Err(GeometryError::OutOfRange { field: "block_tokens", .. })
        ));
    }
}
