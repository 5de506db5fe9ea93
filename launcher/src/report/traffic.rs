//! What travelled between host and GPU in a run.

use std::fmt;

use hindsight_protocol::telemetry::WorkerCounters;
use indicatif::HumanBytes;
use serde::Serialize;

/// Bytes over the link by reason, in the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GpuTraffic {
    /// Selected blocks that the block cache lacked.
    pub miss_bytes: u64,
    /// Keys and values that passed through, for attention to the whole text: in prefill, and with full attention.
    pub passing_bytes: u64,
    /// Lists of blocks.
    pub list_bytes: u64,
    /// New keys, values and queries, from the GPU.
    pub to_host_bytes: u64,
    /// Tensors to the GPU, where the model computes beside it, as on the mock driver.
    pub tensors_in_bytes: u64,
    /// Tensors from the GPU, where the model computes beside it.
    pub tensors_out_bytes: u64,
    /// Bytes that the worker copied to page-locked memory first, as the KV cache could not be page-locked.
    pub staged_bytes: u64,
    /// Blocks that the indexer took to be in the block cache and were not.
    pub cache_mismatches: u64,
}

impl GpuTraffic {
    /// As the worker has counted.
    #[must_use]
    pub fn of(worker: &WorkerCounters) -> Self {
        Self {
            miss_bytes: worker.miss_bytes.get(),
            passing_bytes: worker.passing_bytes.get(),
            list_bytes: worker.list_bytes.get(),
            to_host_bytes: worker.to_host_bytes.get(),
            tensors_in_bytes: worker.tensors_in_bytes.get(),
            tensors_out_bytes: worker.tensors_out_bytes.get(),
            staged_bytes: worker.staged_bytes.get(),
            cache_mismatches: worker.cache_mismatches.get(),
        }
    }

    /// What of the run was worse than it should be, a line each.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let staged = (self.staged_bytes > 0).then(|| {
            format!(
                "the KV cache could not be page-locked, the worker copied {}: raise the limit on locked memory (ulimit -l)",
                HumanBytes(self.staged_bytes)
            )
        });
        let mismatches = (self.cache_mismatches > 0).then(|| {
            format!(
                "{} blocks were taken to be on the GPU and were not; they travelled: please report this",
                self.cache_mismatches
            )
        });
        staged.into_iter().chain(mismatches)
    }
}

/// One line for people.
impl fmt::Display for GpuTraffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "in all {} of selected blocks, {} passing through and {} of lists to the GPU, {} from it",
            HumanBytes(self.miss_bytes),
            HumanBytes(self.passing_bytes),
            HumanBytes(self.list_bytes),
            HumanBytes(self.to_host_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_copies_and_mismatches_are_warned_of_and_nothing_else() {
        let counters = WorkerCounters::default();
        counters.miss_bytes.add(4096);
        assert_eq!(GpuTraffic::of(&counters).warnings().count(), 0);
        counters.staged_bytes.add(8192);
        counters.cache_mismatches.add(2);
        let warnings: Vec<_> = GpuTraffic::of(&counters).warnings().collect();
        assert!(warnings[0].contains("8.00 KiB") && warnings[0].contains("ulimit -l"));
        assert!(warnings[1].starts_with("2 blocks"));
    }
}
