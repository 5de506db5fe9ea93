//! What a replay found.

use hindsight_protocol::geometry::Geometry;
use serde::Serialize;

use super::eviction::{CacheCounts, Eviction};
use crate::parameters::IndexParameters;

/// Figures of one policy over one trace.
///
/// Unless stated otherwise a figure is over all steps, layers and KV heads. Mass is the softmax mass of selection, sink
/// and window over that of the exact top-k, sink and window, summed over the heads of the group. The output error is
/// the distance of the attention output from that of full attention, over the length of the latter, for each query head.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayReport {
    /// Name of the trace.
    pub trace: String,
    /// The policy.
    pub policy: &'static str,
    /// Tokens selected besides sink and window.
    pub top_k: usize,
    /// All parameters.
    pub parameters: IndexParameters,
    /// Decode steps.
    pub steps: usize,
    /// Mean number of keys scored exactly for one KV head, besides sink and window.
    pub candidates_mean: f64,
    /// Bytes read over those of an exact scan of the keys.
    pub bytes_share: f64,
    /// Mean microseconds to select for one KV head.
    pub select_us_mean: f64,
    /// The same for an exact scan in the same run.
    pub exact_us_mean: f64,
    /// `exact_us_mean / select_us_mean`.
    pub speedup: f64,
    /// Mean microseconds to learn from the prompt, for one KV head.
    pub seed_us_mean: f64,
    /// Share of the exact top-k that was selected.
    pub recall_mean: f64,
    /// Its 5th percentile.
    pub recall_p5: f64,
    /// Mass of the selected tokens.
    pub mass_mean: f64,
    /// Its 1st percentile.
    pub mass_p1: f64,
    /// Its minimum.
    pub mass_min: f64,
    /// Mass of what is attended once selected tokens are rounded up to blocks.
    pub block_mass_mean: f64,
    /// Its 1st percentile.
    pub block_mass_p1: f64,
    /// Its minimum.
    pub block_mass_min: f64,
    /// Mean number of blocks attended for one KV head.
    pub blocks_mean: f64,
    /// Mean output error of the selected tokens.
    pub output_error_mean: f64,
    /// Its 99th percentile.
    pub output_error_p99: f64,
    /// Its maximum.
    pub output_error_max: f64,
    /// Mean output error of the exact top-k: what no selection of as many tokens is expected to beat.
    pub exact_output_error_mean: f64,
    /// Share of selections for which the query had drifted.
    pub repair_rate: f64,
    /// Bytes held by the index over those of keys and values.
    pub state_share: f64,
    /// What block caches on the device would have had to fetch, for each that was asked for.
    pub caches: Vec<CacheReport>,
}

/// Figures of one block cache per layer and KV head, over the selections of one replay.
///
/// A cache holds nothing at the first step. A block that begins with a step's own token is filled where it is attended to, so it
/// never travels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CacheReport {
    /// Blocks that the cache of one KV head holds.
    pub cache_blocks: usize,
    /// Which block makes room.
    pub eviction: &'static str,
    /// Share of the selected blocks that did not have to travel.
    pub hit_rate: f64,
    /// Mean number of blocks that travel for one KV head at a step.
    pub misses_mean: f64,
    /// Of them, blocks that the cache had never held: no rule avoids them.
    pub first_misses_mean: f64,
    /// Mean number of blocks that make room for one KV head at a step.
    pub evictions_mean: f64,
    /// Bytes that travel for a token, in all recorded layers.
    pub shipped_bytes_per_token: f64,
    /// Bytes that would travel without a cache: every selected block at every step.
    pub selected_bytes_per_token: f64,
    /// Bytes that would travel with full attention: all keys and values at every step.
    pub full_bytes_per_token: f64,
}

impl CacheReport {
    /// The figures of `counts` over `steps` steps of all layers and heads of `geometry`.
    pub(super) fn new(
        cache_blocks: usize,
        eviction: Eviction,
        counts: &CacheCounts,
        geometry: &Geometry,
        steps: usize,
        full_bytes_per_token: f64,
    ) -> Self {
        let heads = f64::from(geometry.layers * geometry.kv_heads);
        let mean = |count: u64| count as f64 / (heads * steps as f64);
        let bytes = |count: u64| mean(count) * heads * geometry.block_bytes() as f64;
        Self {
            cache_blocks,
            eviction: eviction.name(),
            hit_rate: 1.0 - counts.misses as f64 / counts.attended.max(1) as f64,
            misses_mean: mean(counts.misses),
            first_misses_mean: mean(counts.first_misses),
            evictions_mean: mean(counts.evictions),
            shipped_bytes_per_token: bytes(counts.misses),
            selected_bytes_per_token: bytes(counts.attended),
            full_bytes_per_token,
        }
    }
}

/// Collected numbers, for their mean and percentiles.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers(Vec<f64>);

impl Numbers {
    pub(super) fn push(&mut self, number: f64) {
        self.0.push(number);
    }

    /// The mean; 0 of nothing.
    pub(super) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }

    /// The value below which `share` of the numbers lie, interpolated; 0 of nothing.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn percentile(&mut self, share: f64) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let Some(last) = self.0.len().checked_sub(1) else { return 0.0 };
        let at = share * last as f64;
        let (low, high) = (at.floor() as usize, at.ceil() as usize);
        self.0[low] + (self.0[high] - self.0[low]) * at.fract()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_interpolated() {
        let mut numbers = Numbers(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(numbers.percentile(0.0), 1.0);
        assert_eq!(numbers.percentile(0.5), 2.5);
        assert_eq!(numbers.percentile(1.0), 4.0);
        assert_eq!(numbers.mean(), 2.5);
        assert_eq!(Numbers::default().percentile(0.5), 0.0);
    }
}
