//! Runs CUDA kernels on the host, from the very source that is compiled for GPUs.
//!
//! Each CUDA thread is a fiber; the threads of a block run one at a time, in an order that the caller chooses, and give
//! way only where the kernel synchronises. Shared memory is poisoned when a block starts. A barrier that not all threads
//! reach, and a warp operation whose lanes never arrive, end the launch with an error. What this cannot show: tensor
//! cores, asynchronous copies, the memory model between threads that run at the same time, and speed.

mod ffi;

use std::{
    ffi::{CStr, CString, c_void},
    sync::{Mutex, PoisonError},
};

/// A kernel's argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// A pointer, as an address of this process; 0 is null.
    Address(u64),
    /// An `unsigned`.
    U32(u32),
    /// A `float`.
    F32(f32),
}

impl Argument {
    /// A pointer to what a slice holds, for the kernel to read.
    pub fn input<T>(data: &[T]) -> Self {
        Self::Address(data.as_ptr() as u64)
    }

    /// A pointer to what a slice holds, for the kernel to write.
    pub fn output<T>(data: &mut [T]) -> Self {
        Self::Address(data.as_mut_ptr() as u64)
    }

    fn bytes(self) -> usize {
        match self {
            Self::Address(_) => 8,
            Self::U32(_) | Self::F32(_) => 4,
        }
    }

    fn bits(self) -> u64 {
        match self {
            Self::Address(address) => address,
            Self::U32(value) => value.into(),
            Self::F32(value) => value.to_bits().into(),
        }
    }
}

/// Why a launch failed.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum EmulatorError {
    /// The name is none of the emulated kernels'.
    #[error("no kernel is called {0:?}: the emulator knows the kernels of cuda/kernels")]
    UnknownKernel(String),
    /// The arguments are not those of the kernel.
    #[error("{kernel} takes arguments of {wanted:?} bytes, not of {given:?}")]
    Arguments {
        /// The kernel's name.
        kernel: String,
        /// The sizes that it takes.
        wanted: Vec<usize>,
        /// The sizes that it was given.
        given: Vec<usize>,
    },
    /// Threads waited for each other in vain.
    #[error("{kernel}: {message}")]
    Synchronisation {
        /// The kernel's name.
        kernel: String,
        /// Which threads wait, where and for what.
        message: String,
    },
}

/// Two launches at a time would share one machine.
static MACHINE: Mutex<()> = Mutex::new(());

/// Runs the kernel `name` over `grid` blocks of `block` threads with `shared_bytes` of dynamic shared memory.
///
/// `order` chooses who runs first among threads that could run: 0 the lowest, 1 the highest, any other number is the
/// seed of a random order.
///
/// # Errors
///
/// See [`EmulatorError`]. Memory that the kernel writes may have been written in part.
///
/// # Safety
///
/// Pointers among `arguments` must be valid for what the kernel reads and writes through them with this grid.
pub unsafe fn launch(
    name: &str,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: usize,
    arguments: &[Argument],
    order: i32,
) -> Result<(), EmulatorError> {
    let unknown = || EmulatorError::UnknownKernel(name.to_owned());
    let c_name = CString::new(name).map_err(|_| unknown())?;
    // SAFETY: the name ends with a zero byte.
    let kernel = unsafe { ffi::hindsight_emulator_find(c_name.as_ptr()) };
    // SAFETY: what is found is a constant of the emulator.
    let kernel = unsafe { kernel.as_ref() }.ok_or_else(unknown)?;
    // SAFETY: the sizes are as many as the arguments.
    let wanted =
        unsafe { std::slice::from_raw_parts(kernel.argument_sizes, kernel.argument_count) };
    let given: Vec<usize> = arguments.iter().map(|argument| argument.bytes()).collect();
    if given != wanted {
        return Err(EmulatorError::Arguments {
            kernel: name.to_owned(),
            wanted: wanted.to_vec(),
            given,
        });
    }
    let mut values: Vec<u64> = arguments.iter().map(|argument| argument.bits()).collect();
    let mut pointers: Vec<*mut c_void> =
        values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();

    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the arguments are of the kernel's sizes (little-endian: a narrow value's bytes come first); the caller
    // answers for what they point to; nobody else uses the machine.
    let failed = unsafe {
        ffi::hindsight_emulator_launch(
            kernel,
            grid.as_ptr(),
            block.as_ptr(),
            shared_bytes,
            pointers.as_mut_ptr(),
            order,
        )
    };
    if failed == 0 {
        return Ok(());
    }
    // SAFETY: a string of the emulator that is valid until the next launch.
    let message = unsafe { CStr::from_ptr(ffi::hindsight_emulator_last_error()) };
    Err(EmulatorError::Synchronisation {
        kernel: name.to_owned(),
        message: message.to_string_lossy().into_owned(),
    })
}
