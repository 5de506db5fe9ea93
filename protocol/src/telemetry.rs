//! The telemetry page: counters that any tool may read while a run goes on.
//!
//! The page is the one thing of a run that has a name, so that tools can attach to it. Each counter has one writer, so
//! adding to it is a plain load and store.

use std::sync::atomic::{AtomicU64, Ordering};

use shared_memory::{Shmem, ShmemConf, ShmemError};

const MAGIC: u64 = u64::from_le_bytes(*b"HSTELEM\0");
const VERSION: u64 = 4;
/// What names of pages begin with; the number of the process that made it follows.
const PREFIX: &str = "hindsight-";

/// A number that only grows, in the unit that its field states.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Called by the one writer of this counter.
    pub fn add(&self, amount: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(amount), Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A sum of real numbers.
#[derive(Debug)]
#[repr(transparent)]
pub struct Sum(AtomicU64);

impl Sum {
    /// Adds `amount`. Called by the one writer of this sum.
    pub fn add(&self, amount: f64) {
        self.0.store((self.get() + amount).to_bits(), Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// What the indexer counts.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct IndexerCounters {
    /// Selections made: one per step, layer and KV head.
    pub selections: Counter,
    /// Tokens whose keys were scored, over all selections.
    pub candidates: Counter,
    /// Bytes of keys read.
    pub key_bytes: Counter,
    /// Bytes of sketches, codes and history read.
    pub sketch_bytes: Counter,
    /// Blocks that the worker's cache held already.
    pub hit_blocks: Counter,
    /// Blocks that had to travel to the worker.
    pub miss_blocks: Counter,
    /// Blocks of the worker's cache that made room for others.
    pub evictions: Counter,
    /// Bytes that travelled to the worker, or would have with a device of its own.
    pub shipped_bytes: Counter,
    /// Selections that the drift signal had repaired by a wider search.
    pub repairs: Counter,
    /// Selections from candidates that an expected query had proposed before the true one came.
    pub rehearsed: Counter,
    /// Selections for which an expected query had proposed in vain, for the true one was too far from it.
    pub misled: Counter,
    /// Prompt queries learned from.
    pub seeds: Counter,
    /// Nanoseconds spent on selections.
    pub select_ns: Counter,
    /// Selections checked against an exact scan.
    pub audits: Counter,
    /// Over the audits, the share of the exact top-k that was selected.
    pub audit_recall: Sum,
    /// Over the audits, the softmax mass of what was selected over that of the exact top-k.
    pub audit_mass: Sum,
    /// Bytes of keys that audits read.
    pub audit_key_bytes: Counter,
}

/// What the worker counts.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct WorkerCounters {
    /// Prompt tokens read.
    pub prefill_tokens: Counter,
    /// Tokens decoded.
    pub decode_tokens: Counter,
    /// Bytes of new keys and values stored in the arena.
    pub appended_bytes: Counter,
    /// Nanoseconds spent on attention in decode steps.
    pub attention_ns: Counter,
    /// Nanoseconds spent waiting for selections.
    pub waiting_ns: Counter,
    /// Nanoseconds spent choosing tokens.
    pub sampling_ns: Counter,
    /// Decode steps that attended to every key, though keys are selected in longer contexts.
    pub dense_steps: Counter,
    /// Nanoseconds of decode steps in all.
    pub decode_ns: Counter,
    /// Times that a helping thread lost its core in the midst of a task, and decode went on with fewer threads for a while.
    pub helper_stalls: Counter,
    /// Keys or values that exceeded the element type's range and were stored as infinite.
    pub overflows: Counter,
    /// Bytes of selected blocks that travelled to the GPU.
    pub miss_bytes: Counter,
    /// Bytes of keys and values that passed through the GPU, for attention to the whole text.
    pub passing_bytes: Counter,
    /// Bytes of lists of blocks that travelled to the GPU.
    pub list_bytes: Counter,
    /// Bytes of new keys, values and queries that travelled from the GPU.
    pub to_host_bytes: Counter,
    /// Bytes of tensors that travelled to the GPU, where the model computes beside it.
    pub tensors_in_bytes: Counter,
    /// Bytes of tensors that travelled from the GPU, where the model computes beside it.
    pub tensors_out_bytes: Counter,
    /// Bytes that the worker copied to page-locked memory first, as the KV cache could not be page-locked.
    pub staged_bytes: Counter,
    /// Blocks that the indexer took to be in the block cache and were not; they travelled.
    pub cache_mismatches: Counter,
}

/// The page.
#[derive(Debug)]
#[repr(C)]
pub struct Telemetry {
    magic: AtomicU64,
    version: AtomicU64,
    /// Written by the indexer.
    pub indexer: IndexerCounters,
    /// Written by the worker.
    pub worker: WorkerCounters,
}

/// A telemetry page that cannot be made or joined.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The system refused.
    #[error("cannot {action} the telemetry page {name}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Name of the page.
        name: String,
        /// Why not.
        source: ShmemError,
    },
    /// The page is not one of this version.
    #[error("{0} is not a telemetry page of this version of Hindsight")]
    Foreign(String),
}

/// A mapped telemetry page. Its creator removes the name when it drops it.
pub struct TelemetryPage {
    memory: Shmem,
}

// SAFETY: the mapping is plain memory that any thread may read and write atomically.
unsafe impl Send for TelemetryPage {}
// SAFETY: as above; only shared references to atomics are handed out.
unsafe impl Sync for TelemetryPage {}

impl std::fmt::Debug for TelemetryPage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("TelemetryPage").field(&self.name()).finish()
    }
}

impl TelemetryPage {
    /// Creates the page called `name`, all counters zero.
    ///
    /// # Errors
    /// [`TelemetryError::System`], for instance if the name is taken.
    pub fn create(name: &str) -> Result<Self, TelemetryError> {
        let memory = ShmemConf::new()
            .size(size_of::<Telemetry>())
            .os_id(name)
            .create()
            .map_err(|source| system("create", name, source))?;
        let page = Self { memory };
        page.version.store(VERSION, Ordering::Relaxed);
        page.magic.store(MAGIC, Ordering::Release);
        Ok(page)
    }

    /// Joins the page called `name`.
    ///
    /// # Errors
    /// [`TelemetryError::System`] if there is none, [`TelemetryError::Foreign`] if it is something else.
    pub fn open(name: &str) -> Result<Self, TelemetryError> {
        let memory =
            ShmemConf::new().os_id(name).open().map_err(|source| system("join", name, source))?;
        if memory.len() < size_of::<Telemetry>() {
            return Err(TelemetryError::Foreign(name.to_owned()));
        }
        let page = Self { memory };
        let known = page.magic.load(Ordering::Acquire) == MAGIC
            && page.version.load(Ordering::Relaxed) == VERSION;
        if known { Ok(page) } else { Err(TelemetryError::Foreign(name.to_owned())) }
    }

    /// Name of the page that the process `pid` makes for its run.
    #[must_use]
    pub fn name_of(pid: u32) -> String {
        format!("/{PREFIX}{pid}")
    }

    /// The processes that have a page, in no order; none where named memory cannot be listed.
    #[must_use]
    pub fn pids() -> Vec<u32> {
        let Ok(names) = std::fs::read_dir("/dev/shm") else { return Vec::new() };
        names
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok())
            .collect()
    }

    /// Removes the names of pages whose runs ended without being able to: every process of them was killed at once.
    ///
    /// Where named memory cannot be listed, nothing is removed.
    pub fn sweep() {
        for pid in Self::pids() {
            if !std::fs::exists(format!("/proc/{pid}")).unwrap_or(true) {
                Self::remove(&Self::name_of(pid));
            }
        }
    }

    /// Removes the name of a page whose creator can no longer do it; a page that is gone already is fine.
    pub fn remove(name: &str) {
        // The only other outcome is that the name never existed or went away, which is what is wanted.
        let _ = rustix::shm::unlink(name);
    }

    /// Name of the page.
    #[must_use]
    pub fn name(&self) -> &str {
        self.memory.get_os_id()
    }
}

impl std::ops::Deref for TelemetryPage {
    type Target = Telemetry;

    fn deref(&self) -> &Telemetry {
        // SAFETY: the mapping is page aligned, at least as long as the page, lives as long as `self`, and consists of
        // atomics, for which every bit pattern is valid.
        unsafe { &*self.memory.as_ptr().cast::<Telemetry>() }
    }
}

fn system(action: &'static str, name: &str, source: ShmemError) -> TelemetryError {
    TelemetryError::System { action, name: name.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique(tag: &str) -> String {
        format!("/hindsight-test-{tag}-{}", std::process::id())
    }

    #[test]
    fn a_reader_sees_what_the_writers_counted() {
        let page = TelemetryPage::create(&unique("counts")).unwrap();
        let reader = TelemetryPage::open(page.name()).unwrap();
        page.indexer.hit_blocks.add(3);
        page.indexer.hit_blocks.add(4);
        page.indexer.audit_mass.add(0.5);
        page.indexer.audit_mass.add(0.25);
        assert_eq!(reader.indexer.hit_blocks.get(), 7);
        assert!((reader.indexer.audit_mass.get() - 0.75).abs() < 1e-12);
    }

    #[test]
    fn the_name_goes_with_its_creator() {
        let name = unique("gone");
        drop(TelemetryPage::create(&name).unwrap());
        assert!(matches!(TelemetryPage::open(&name), Err(TelemetryError::System { .. })));
    }

    #[test]
    fn pages_of_dead_processes_are_swept_and_others_are_kept() {
        // No process has a number this large.
        let dead = TelemetryPage::name_of(u32::MAX - std::process::id());
        std::mem::forget(TelemetryPage::create(&dead).unwrap());
        let alive = TelemetryPage::create(&TelemetryPage::name_of(std::process::id())).unwrap();
        TelemetryPage::sweep();
        assert!(matches!(TelemetryPage::open(&dead), Err(TelemetryError::System { .. })));
        TelemetryPage::open(alive.name()).unwrap();
    }

    #[test]
    fn something_else_by_that_name_is_refused() {
        let name = unique("foreign");
        let foreign = ShmemConf::new().size(4096).os_id(&name).create().unwrap();
        assert!(matches!(TelemetryPage::open(&name), Err(TelemetryError::Foreign(_))));
        drop(foreign);
    }
}
