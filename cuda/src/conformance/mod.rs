//! What the kernels must compute: one suite for every device that runs them, be it emulated or real.
//!
//! Each check runs one kernel over many shapes and compares with a scalar reference in f64. Memory that a kernel has no
//! business in holds NaNs, addresses that point nowhere, or guards that must not change.

mod append;
mod bench;
mod cache;
mod decode_attention;
#[cfg(feature = "driver")]
mod driver;
mod gather_blocks;
mod merge_partials;
mod prefill_attention;
mod reference;

use std::{error::Error, fmt};

use bench::Bench;
#[cfg(feature = "driver")]
pub use driver::DriverDevice;

use crate::launch::{Argument, Launch, UnsupportedShape};

/// A device that runs the kernels.
pub trait Device {
    /// What can go wrong with it.
    type Error: Error;
    /// Memory of the device, aligned to 16 bytes; freed when dropped.
    type Buffer;

    /// Copies `bytes` to new memory of just their size.
    ///
    /// # Errors
    ///
    /// If there is no memory.
    fn upload(&mut self, bytes: &[u8]) -> Result<Self::Buffer, Self::Error>;

    /// Where kernels find a buffer.
    fn address(&self, buffer: &Self::Buffer) -> u64;

    /// Copies what a buffer holds.
    ///
    /// # Errors
    ///
    /// If the device failed, also in a launch before.
    fn download(&mut self, buffer: &Self::Buffer) -> Result<Vec<u8>, Self::Error>;

    /// Runs a kernel.
    ///
    /// # Errors
    ///
    /// If it cannot be launched or fails.
    ///
    /// # Safety
    ///
    /// The arguments' addresses must be valid for what the kernel does with them.
    unsafe fn launch(&mut self, launch: &Launch, arguments: &[Argument])
    -> Result<(), Self::Error>;

    /// Guards on each side of what a kernel writes, in bytes: a multiple of 16; 0 for a device that itself detects
    /// accesses beyond a buffer.
    fn guard_bytes(&self) -> usize {
        64
    }
}

/// Why a kernel does not conform.
#[derive(Debug, thiserror::Error)]
pub enum Failure<E: Error> {
    /// The device failed.
    #[error("{case}: {error}")]
    Device {
        /// The case that was under way.
        case: String,
        /// What the device says.
        error: E,
    },
    /// A value is wrong.
    #[error("{case}: {what}[{index}] is {got}, not {want}")]
    Wrong {
        /// The shape and inputs.
        case: String,
        /// The output.
        what: &'static str,
        /// The first element that is wrong.
        index: usize,
        /// What the kernel computed.
        got: String,
        /// What the reference computed.
        want: String,
    },
    /// Memory beside an output was written.
    #[error("{case}: memory {side} an output was written")]
    Guard {
        /// The shape and inputs.
        case: String,
        /// Before or behind.
        side: &'static str,
    },
    /// The launch shapes do not serve a case.
    #[error(transparent)]
    Shape(#[from] UnsupportedShape),
}

/// What a step of a check comes to on a device `D`.
type Outcome<T, D> = Result<T, Failure<<D as Device>::Error>>;

/// The checks, one for each kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// `append_*`
    Append,
    /// `gather_blocks`
    GatherBlocks,
    /// `merge_partials`
    MergePartials,
    /// `decode_attention_*`
    DecodeAttention,
    /// `prefill_attention_*`
    PrefillAttention,
}

impl Check {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Append,
        Self::GatherBlocks,
        Self::MergePartials,
        Self::DecodeAttention,
        Self::PrefillAttention,
    ];

    /// Runs all cases on `device`: how many there were.
    ///
    /// # Errors
    ///
    /// The first case that fails.
    pub fn run<D: Device>(self, device: &mut D) -> Result<u32, Failure<D::Error>> {
        let mut bench = Bench::new(device);
        match self {
            Self::Append => append::check(&mut bench)?,
            Self::GatherBlocks => gather_blocks::check(&mut bench)?,
            Self::MergePartials => merge_partials::check(&mut bench)?,
            Self::DecodeAttention => decode_attention::check(&mut bench)?,
            Self::PrefillAttention => prefill_attention::check(&mut bench)?,
        }
        Ok(bench.cases())
    }
}

impl fmt::Display for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Append => "append",
            Self::GatherBlocks => "gather_blocks",
            Self::MergePartials => "merge_partials",
            Self::DecodeAttention => "decode_attention",
            Self::PrefillAttention => "prefill_attention",
        })
    }
}
