//! A CUDA driver for machines without a GPU.
//!
//! The crate builds a shared library, `libcuda.so.1`, that implements the part of the driver's interface which Hindsight
//! uses. Device memory is host memory, kernels run in the emulator, and streams are queues that run only when somebody
//! waits, in an order that brings a forgotten wait to light. On request it models the link between host and device, so
//! that bytes and overlap can be studied: times that come from it are modelled, never measured.
//!
//! A process uses it if [`directory`] comes first in its `LD_LIBRARY_PATH` when it starts:
//!
//! ```no_run
//! use hindsight_cuda_mock_driver::{Mock, Order};
//!
//! let mock = Mock { order: Order::AwaitedFirst, ..Mock::default() };
//! std::process::Command::new("hindsight").envs(mock.environment()).status()?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The directory that holds `libcuda.so.1`.
pub fn directory() -> &'static Path {
    Path::new(env!("MOCK_DRIVER_DIRECTORY"))
}

/// How a process's mock driver shall behave. The default is the kindest: operations run in the order in which they were
/// queued, 4 GiB of device memory, host memory can be registered, and nothing is modelled.
#[derive(Clone, Debug, Default)]
pub struct Mock {
    /// In which order operations of different streams run.
    pub order: Order,
    /// The link and device whose times are modelled. Without one, events tell when the host got round to operations.
    pub link: Option<Link>,
    /// Bytes of device memory; 4 GiB if not given.
    pub device_bytes: Option<u64>,
    /// What becomes of registering host memory.
    pub registration: Registration,
    /// Compute prefill attention by plain vector loops instead of in the emulator, which takes a twentieth of the time.
    pub native_prefill: bool,
    /// Waits of one stream for another, by their numbers in the order of their creation, that are left out: what becomes of
    /// the program if it forgets them. Stream 0 is the default stream.
    pub forget_waits: Option<(u32, u32)>,
    /// A file for one JSON line per operation.
    pub trace: Option<PathBuf>,
}

/// In which order operations of different streams run, once somebody waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were queued.
    #[default]
    Queued,
    /// Drawn at random, the same for the same seed.
    Shuffled(u32),
    /// Only what is awaited and what that needs: whoever forgets to wait for data reads memory before they have come.
    AwaitedFirst,
    /// What is awaited comes after everything else: whoever forgets to wait before reusing memory overwrites what is still
    /// needed.
    AwaitedLast,
}

/// A link between host and device, and a device that is sold with such a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    /// PCIe 3.0 x16: 12.1 GB/s.
    Gen3x16,
    /// PCIe 4.0 x16: 25 GB/s.
    Gen4x16,
    /// PCIe 5.0 x16: 55 GB/s.
    Gen5x16,
    /// Any other, before the device of [`Link::Gen4x16`].
    Custom {
        /// Effective bandwidth of each direction, in 10^9 bytes per second.
        gb_per_s: f64,
        /// What each copy occupies its engine for besides, in microseconds.
        latency_us: f64,
    },
}

/// What becomes of registering host memory (`cuMemHostRegister_v2`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    /// It is registered.
    #[default]
    Allowed,
    /// A call for more bytes than this fails with `CUDA_ERROR_OUT_OF_MEMORY`.
    Limited(u64),
    /// Every call fails with `CUDA_ERROR_OUT_OF_MEMORY`, as where memory may not be locked.
    Refused,
}

impl Mock {
    /// The environment of a process that shall use the mock driver: variable and value. `LD_LIBRARY_PATH` is the driver's
    /// directory followed by this process's own.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, OsString)> {
        let mut variables = vec![("LD_LIBRARY_PATH", library_path())];
        let mut set = |name, value: String| variables.push((name, value.into()));
        match self.order {
            Order::Queued => (),
            Order::Shuffled(seed) => set("MOCK_SEED", seed.to_string()),
            Order::AwaitedFirst => set("MOCK_ADVERSARIAL", "1".into()),
            Order::AwaitedLast => set("MOCK_ADVERSARIAL", "2".into()),
        }
        match self.registration {
            Registration::Allowed => (),
            Registration::Limited(bytes) => set("MOCK_REGISTER_LIMIT", bytes.to_string()),
            Registration::Refused => set("MOCK_NO_REGISTER", "1".into()),
        }
        if let Some(link) = self.link {
            set("MOCK_LINK", link.to_string());
        }
        if let Some(bytes) = self.device_bytes {
            set("MOCK_DEVICE_BYTES", bytes.to_string());
        }
        if self.native_prefill {
            set("MOCK_NATIVE", "prefill".into());
        }
        if let Some((waiting, awaited)) = self.forget_waits {
            set("MOCK_FORGET_WAITS", format!("{waiting},{awaited}"));
        }
        if let Some(trace) = &self.trace {
            variables.push(("MOCK_TRACE", trace.into()));
        }
        variables.into_iter()
    }
}

/// As `MOCK_LINK` has it.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gen3x16 => f.write_str("gen3x16"),
            Self::Gen4x16 => f.write_str("gen4x16"),
            Self::Gen5x16 => f.write_str("gen5x16"),
            Self::Custom { gb_per_s, latency_us } => write!(f, "{gb_per_s},{latency_us}"),
        }
    }
}

fn library_path() -> OsString {
    let mut path = directory().as_os_str().to_owned();
    if let Some(rest) = env::var_os("LD_LIBRARY_PATH").filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    path
}
