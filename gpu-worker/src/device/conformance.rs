//! Whether a device computes what it must: random texts of several shapes, against attention in double precision.
//!
//! Every device runs the same cases, the CPU too. They cover what a run does to a device: prompts in chunks of odd lengths,
//! dense layers, selections with a block cache that evicts, attention to the whole text, texts that are taken back, and what
//! is in the arena afterwards.

pub(super) mod reference;
mod text;

use candle_core::Tensor;
use hindsight_protocol::arena::{Arena, ArenaConfig, ArenaError, TableError};
use hindsight_protocol::geometry::{Geometry, KvDtype};
use hindsight_protocol::telemetry::WorkerCounters;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};
use serde::Serialize;

use super::{Backend, DeviceError};
use crate::threads::{Pools, Threads, ThreadsError};
use text::Text;

/// A model's shape and a block size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Case {
    /// KV heads.
    pub kv_heads: u32,
    /// Query heads that share a KV head.
    pub group: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Tokens of a block.
    pub block_tokens: u32,
    /// How keys and values are stored.
    pub dtype: KvDtype,
}

impl std::fmt::Display for Case {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kv_heads, group, head_dim, block_tokens, dtype } = self;
        write!(
            formatter,
            "{kv_heads} KV heads of {head_dim}, {group} queries each, {dtype} blocks of {block_tokens}"
        )
    }
}

/// The shapes that are checked: those of common models, and some that are not.
pub const CASES: [Case; 6] = [
    case(3, 3, 64, 16, KvDtype::F16),
    case(2, 7, 64, 16, KvDtype::Bf16),
    case(2, 4, 128, 16, KvDtype::F16),
    case(1, 8, 128, 32, KvDtype::Bf16),
    case(1, 4, 256, 16, KvDtype::Bf16),
    case(2, 1, 64, 8, KvDtype::F16),
];

const fn case(kv_heads: u32, group: u32, head_dim: u32, block_tokens: u32, dtype: KvDtype) -> Case {
    Case { kv_heads, group, head_dim, block_tokens, dtype }
}

/// How a case went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Outcome {
    /// The case.
    pub case: Case,
    /// Results compared.
    pub results: usize,
    /// The largest error of an element, as a share of the largest value.
    pub worst_error: f64,
    /// Elements of keys and values in the arena that are not what the given ones round to.
    pub wrong_stored: usize,
    /// Whether keys and values beyond the element type's range were counted, each once.
    pub overflows_counted: bool,
    /// Bytes that travelled to the GPU for selections.
    pub miss_bytes: u64,
}

impl Outcome {
    /// The largest error that single precision explains.
    pub const TOLERANCE: f64 = 2e-5;

    /// Whether the device computed what it must.
    #[must_use]
    pub fn passed(&self) -> bool {
        // Not-a-number compares as false.
        self.results > 0
            && self.worst_error <= Self::TOLERANCE
            && self.wrong_stored == 0
            && self.overflows_counted
    }
}

/// How a kernel fared alone, over many shapes, against a scalar reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelOutcome {
    /// The kernel.
    pub kernel: String,
    /// Cases that passed; 0 if one failed.
    pub cases: u32,
    /// The first case that failed, and how.
    pub error: Option<String>,
}

/// What stops the checks.
#[derive(Debug, thiserror::Error)]
pub enum ConformanceError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// There is no memory for keys and values.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The block tables refuse.
    #[error(transparent)]
    Table(#[from] TableError),
    /// There are no threads.
    #[error(transparent)]
    Threads(#[from] ThreadsError),
    /// The model's device refuses a tensor.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Tokens of the text.
const CAPACITY: usize = 5000;
/// Layers: one dense, one that selects.
const LAYERS: u32 = 2;
/// Blocks of the cache for each KV head: fewer than the text has.
const CACHE_BLOCKS: u32 = 24;
/// Blocks of a selection, at most.
const SELECTED: u32 = 16;

/// Runs a case on a device.
///
/// # Errors
/// [`ConformanceError`] if the device cannot run it. What it computes is in the outcome, right or wrong.
pub fn run(backend: &Backend, case: Case) -> Result<Outcome, ConformanceError> {
    let geometry = Geometry {
        layers: LAYERS,
        heads: case.kv_heads * case.group,
        kv_heads: case.kv_heads,
        head_dim: case.head_dim,
        block_tokens: case.block_tokens,
        dtype: case.dtype,
    };
    let capacity_tokens = CAPACITY as u64;
    let arena =
        Arena::create(ArenaConfig { geometry, capacity_tokens, max_selected_blocks: SELECTED })?;
    let counters = WorkerCounters::default();
    // A thread of its own: threads are kept to cores.
    std::thread::scope(|scope| {
        let checks = scope.spawn(|| check(backend, &arena, &counters, case));
        checks.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn check(
    backend: &Backend,
    arena: &Arena,
    counters: &WorkerCounters,
    case: Case,
) -> Result<Outcome, ConformanceError> {
    let threads = Threads { prefill: 1, decode_cores: vec![any_core()], lent_core: None };
    let pools = Pools::new(&threads, None)?;
    let mut text = Text::new(backend, arena, counters, &pools)?;
    // A prompt of several chunks, more than the parts in which it passes through a GPU.
    for tokens in [37, 512, 300, 512, 512, 211, 512, 1] {
        text.read(tokens)?;
    }
    for step in 0..40 {
        text.step(step % 5 == 4)?;
    }
    // Taken back into the midst of a block, and another end.
    text.rewind(2001)?;
    text.read(130)?;
    for step in 0..20 {
        text.step(step % 7 == 6)?;
    }
    text.finish(case, counters)
}

/// A core that this thread may run on.
fn any_core() -> u32 {
    let allowed = sched_getaffinity(None::<Pid>).unwrap_or_default();
    (0..)
        .zip(0..CpuSet::MAX_CPU)
        .find(|&(_, core)| allowed.is_set(core))
        .map_or(0, |(core, _)| core)
}

/// A tensor on the model's device.
fn tensor(backend: &Backend, shape: [usize; 3], elements: &[f32]) -> candle_core::Result<Tensor> {
    Tensor::from_slice(elements, (shape[0], shape[1], shape[2]), backend.model())
}

#[cfg(test)]
mod tests {
    use hindsight_protocol::device::Device;

    use super::*;

    #[test]
    fn the_cpu_computes_what_it_must() {
        let backend = Backend::open(Device::Cpu).unwrap();
        for case in CASES {
            let outcome = run(&backend, case).unwrap();
            assert!(outcome.passed(), "{case}: {outcome:?}");
        }
    }
}
