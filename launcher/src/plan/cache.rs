//! How many blocks the device's cache holds.

use indicatif::HumanBytes;

use crate::error::{Error, Exit};

/// What the user asked for, and what it is held against. Each KV head of each layer that selects keys has a cache of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheRequest {
    /// `--gpu-kv-bytes`, for all caches together.
    pub asked: Option<u64>,
    /// The most blocks that a KV head attends to at one step.
    pub selected: u64,
    /// Blocks that the context has.
    pub context: u64,
    /// KV heads of all layers that select keys.
    pub heads: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

impl CacheRequest {
    /// Blocks of each cache: as many as the user's bytes hold, or else twice what a step may attend to, so that few of them
    /// come and go from step to step, but never more than half of the context unless a single step needs it.
    ///
    /// # Errors
    /// The arithmetic, if a step may attend to more than the user's bytes hold.
    pub fn decide(self) -> Result<u64, Error> {
        let Self { asked, selected, context, heads, block_bytes } = self;
        let Some(asked) = asked.filter(|_| heads > 0) else {
            return Ok((2 * selected).min(context / 2).max(selected));
        };
        let fit = asked / (heads * block_bytes);
        if fit >= selected {
            return Ok(fit.min(context.max(selected)));
        }
        let message = format!(
            "--gpu-kv-bytes {} hold {fit} blocks for each of {heads} KV heads, but a step may attend to {selected}: \
             {heads} x {selected} x {} are {}",
            HumanBytes(asked),
            HumanBytes(block_bytes),
            HumanBytes(heads * selected * block_bytes),
        );
        Err(Error::new(Exit::DoesNotFit, "gpu_kv_bytes", message).with_hint(format!(
            "ask for --gpu-kv-bytes {} or more, or for fewer keys with --top-k",
            whole_mib(heads * selected * block_bytes)
        )))
    }
}

fn whole_mib(bytes: u64) -> String {
    format!("{}MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: CacheRequest =
        CacheRequest { asked: None, selected: 200, context: 1000, heads: 84, block_bytes: 4096 };

    fn blocks(asked: u64) -> Result<u64, Error> {
        CacheRequest { asked: Some(asked), ..REQUEST }.decide()
    }

    #[test]
    fn without_a_wish_a_cache_holds_two_steps_or_half_of_the_context() {
        assert_eq!(REQUEST.decide(), Ok(400));
        assert_eq!(CacheRequest { context: 600, ..REQUEST }.decide(), Ok(300));
        assert_eq!(CacheRequest { context: 210, ..REQUEST }.decide(), Ok(200));
    }

    #[test]
    fn bytes_are_shared_out_among_the_heads_as_far_as_the_context_goes() {
        assert_eq!(blocks(84 * 4096 * 300 + 4095), Ok(300));
        assert_eq!(blocks(u64::MAX), Ok(1000));
    }

    #[test]
    fn less_than_a_step_needs_is_refused_with_the_arithmetic_and_what_would_do() {
        let error = blocks(64 << 20).unwrap_err();
        assert_eq!((error.exit, error.kind.as_ref()), (Exit::DoesNotFit, "gpu_kv_bytes"));
        for part in ["64.00 MiB hold 195 blocks", "84 x 200 x 4.00 KiB are 65.62 MiB"] {
            assert!(error.message.contains(part), "{error}");
        }
        assert!(error.hint.unwrap().contains("--gpu-kv-bytes 66MiB"));
        assert!(blocks(66 << 20).is_ok());
    }

    #[test]
    fn where_every_layer_is_dense_there_is_no_cache_to_size() {
        assert_eq!(CacheRequest { asked: Some(1), heads: 0, ..REQUEST }.decide(), Ok(400));
    }
}
