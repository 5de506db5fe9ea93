//! What can go wrong with an emulated kernel.

/// Why a launch failed.
#[derive(Debug, thiserror::Error)]
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
    /// There is no memory for a buffer.
    #[error("no memory for a buffer of {0} bytes")]
    OutOfMemory(usize),
    /// A library of emulated kernels cannot be loaded.
    #[error("cannot load emulated kernels: {0}")]
    Library(#[from] libloading::Error),
}
