//! The emulator's C interface (`capi.cpp`).

use std::ffi::{c_char, c_int, c_void};

/// What the registry says of a kernel.
#[repr(C)]
pub(crate) struct Kernel {
    name: *const c_char,
    pub(crate) argument_count: usize,
    pub(crate) argument_sizes: *const usize,
    launch: *const c_void,
}

unsafe extern "C" {
    pub(crate) fn hindsight_emulator_find(name: *const c_char) -> *const Kernel;
    pub(crate) fn hindsight_emulator_launch(
        kernel: *const Kernel,
        grid: *const u32,
        block: *const u32,
        shared_bytes: usize,
        arguments: *mut *mut c_void,
        order: c_int,
    ) -> c_int;
    pub(crate) fn hindsight_emulator_last_error() -> *const c_char;
}
