//! Whether weights and KV cache fit into the machine's memory.

use indicatif::HumanBytes;

use crate::error::{Error, Exit};

/// What the processes need besides weights and KV cache: activations, the index's scratch, the programs themselves.
const OVERHEAD_BYTES: u64 = 300 << 20;
/// Index state per byte of KV cache, as a divisor: the index keeps at most a twentieth.
const INDEX_SHARE: u64 = 20;

/// What a run will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes of the model file, all of which is held in memory.
    pub model_bytes: u64,
    /// Bytes of keys and values of one token.
    pub token_bytes: u64,
    /// Tokens that the KV cache holds.
    pub tokens: u64,
}

impl MemoryPlan {
    /// Bytes of the KV cache.
    #[must_use]
    pub const fn kv_bytes(&self) -> u64 {
        self.token_bytes.saturating_mul(self.tokens)
    }

    /// Checks the plan against `available` bytes of memory.
    ///
    /// # Errors
    /// The arithmetic, if it does not fit, and how many tokens would.
    pub fn check(&self, available: u64) -> Result<(), Error> {
        let kv = self.kv_bytes();
        let index = kv / INDEX_SHARE;
        let fixed = self.model_bytes.saturating_add(OVERHEAD_BYTES);
        let needed = fixed.saturating_add(kv).saturating_add(index);
        if needed <= available {
            return Ok(());
        }
        let message = format!(
            "this run needs {}: KV cache {} ({} tokens x {}), index {}, model {}, work space {}; but {} are available",
            HumanBytes(needed),
            HumanBytes(kv),
            self.tokens,
            HumanBytes(self.token_bytes),
            HumanBytes(index),
            HumanBytes(self.model_bytes),
            HumanBytes(OVERHEAD_BYTES),
            HumanBytes(available),
        );
        let per_token = self.token_bytes + self.token_bytes / INDEX_SHARE;
        let fits = available.saturating_sub(fixed) / per_token.max(1);
        let error = Error::new(Exit::DoesNotFit, "memory", message);
        Err(if fits == 0 {
            error.with_hint("choose a smaller model, or free memory")
        } else {
            error.with_hint(format!("about {fits} tokens would fit: --context {fits}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_arithmetic_and_what_would() {
        let plan = MemoryPlan { model_bytes: 98 << 20, token_bytes: 23_040, tokens: 10_000_000 };
        let error = plan.check(24 << 30).unwrap_err();
        assert_eq!(error.exit, Exit::DoesNotFit);
        for part in ["10000000 tokens x 22.50 KiB", "24.00 GiB are available"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
        let hint = error.hint.unwrap();
        let fits: u64 = hint.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(MemoryPlan { tokens: fits, ..plan }.check(24 << 30).is_ok());
        assert!(MemoryPlan { tokens: fits + 100, ..plan }.check(24 << 30).is_err());
    }

    #[test]
    fn sizes_beyond_64_bits_are_refused_not_wrapped() {
        let plan = MemoryPlan { model_bytes: 1, token_bytes: 1 << 40, tokens: u64::MAX };
        assert!(plan.check(u64::MAX - 1).is_err());
    }
}
