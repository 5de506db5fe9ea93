//! Emulated kernels: those linked into this program, or others from a shared library.

use std::{
    ffi::{CStr, CString, OsStr, c_char, c_int, c_void},
    sync::{Mutex, PoisonError},
};

use hindsight_cuda::launch::Argument;

use crate::EmulatorError;

/// What the registry says of a kernel (`registry.hpp`).
#[repr(C)]
struct Kernel {
    name: *const c_char,
    argument_count: usize,
    argument_sizes: *const usize,
    launch: *const c_void,
}

type Find = unsafe extern "C" fn(*const c_char) -> *const Kernel;
type Launch = unsafe extern "C" fn(
    *const Kernel,
    *const u32,
    *const u32,
    usize,
    *mut *mut c_void,
    c_int,
) -> c_int;
type LastError = unsafe extern "C" fn() -> *const c_char;

// The C interface (`capi.cpp`).
unsafe extern "C" {
    fn hindsight_emulator_find(name: *const c_char) -> *const Kernel;
    fn hindsight_emulator_launch(
        kernel: *const Kernel,
        grid: *const u32,
        block: *const u32,
        shared_bytes: usize,
        arguments: *mut *mut c_void,
        order: c_int,
    ) -> c_int;
    fn hindsight_emulator_last_error() -> *const c_char;
}

/// The kernels of one source tree.
#[derive(Debug)]
pub struct Library {
    find: Find,
    launch: Launch,
    last_error: LastError,
    /// Where the functions are from, if not from this program.
    _loaded: Option<libloading::Library>,
}

/// Two launches at a time would share one machine.
static MACHINE: Mutex<()> = Mutex::new(());

impl Library {
    /// The kernels that were compiled with this crate.
    pub fn linked() -> Self {
        Self {
            find: hindsight_emulator_find,
            launch: hindsight_emulator_launch,
            last_error: hindsight_emulator_last_error,
            _loaded: None,
        }
    }

    /// The kernels of a shared library: an emulator that was built otherwise, or from other sources.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded or is no emulator.
    ///
    /// # Safety
    ///
    /// The library must be built from the emulator's sources.
    pub unsafe fn open(path: &OsStr) -> Result<Self, EmulatorError> {
        // SAFETY: the caller's promise: the library and its functions are the emulator's.
        unsafe {
            let library = libloading::Library::new(path)?;
            Ok(Self {
                find: *library.get::<Find>(b"hindsight_emulator_find\0")?,
                launch: *library.get::<Launch>(b"hindsight_emulator_launch\0")?,
                last_error: *library.get::<LastError>(b"hindsight_emulator_last_error\0")?,
                _loaded: Some(library),
            })
        }
    }

    /// See [`launch`](crate::launch()).
    ///
    /// # Errors
    ///
    /// See [`EmulatorError`].
    ///
    /// # Safety
    ///
    /// Pointers among `arguments` must be valid for what the kernel reads and writes through them with this grid.
    pub unsafe fn launch(
        &self,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: usize,
        arguments: &[Argument],
        order: i32,
    ) -> Result<(), EmulatorError> {
        let unknown = || EmulatorError::UnknownKernel(name.to_owned());
        let c_name = CString::new(name).map_err(|_| unknown())?;
        // SAFETY: the name ends with a zero byte; what is found is a constant of the library.
        let kernel = unsafe { (self.find)(c_name.as_ptr()).as_ref() }.ok_or_else(unknown)?;
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
        // A narrow value's bytes come first: CUDA's hosts are little-endian.
        let mut values: Vec<[u8; 8]> =
            arguments.iter().map(|argument| argument.bits().to_le_bytes()).collect();
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect();

        let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the arguments are of the kernel's sizes; the caller answers for what they point to; nobody else uses the
        // machine.
        let failed = unsafe {
            (self.launch)(
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
        // SAFETY: a string of the library, which holds until the next launch.
        let message = unsafe { CStr::from_ptr((self.last_error)()) };
        let message = message.to_string_lossy().into_owned();
        Err(EmulatorError::Synchronisation { kernel: name.to_owned(), message })
    }
}
