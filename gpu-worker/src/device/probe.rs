//! Whether a device can be used, found out before anything is loaded.

use std::fmt;

use hindsight_protocol::device::Device;
use serde::Serialize;

#[cfg(feature = "cuda")]
mod driver;

/// The driver that CUDA programs find on their own, by the name they look for.
pub const DRIVER_LIBRARY: &str = "libcuda.so.1";

/// What the device of the mock driver calls itself (docs/cuda/mock-driver.md). Nothing but our kernels runs on it.
pub const MOCK_DEVICE: &str = "Hindsight mock device";

/// The release of CUDA that kernels are compiled with; older drivers do not load them.
const TOOLKIT: Version = Version { major: 13, minor: 0 };

/// The least compute capability that Hindsight's kernels are compiled for.
const LEAST_CAPABILITY: Version = Version { major: 8, minor: 0 };

/// What candle's kernels were compiled for, such as `80`.
const CANDLE_ARCHITECTURE: Option<&str> = option_env!("CUDA_COMPUTE_CAP");

/// A device that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceDescription {
    /// Which one.
    pub device: Device,
    /// What it calls itself.
    pub name: String,
    /// What else is known of a GPU.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuDescription>,
}

impl DeviceDescription {
    /// Whether it is the mock driver's.
    #[must_use]
    pub fn is_mock(&self) -> bool {
        self.name == MOCK_DEVICE
    }
}

/// What is known of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GpuDescription {
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Which instructions it has.
    pub compute_capability: Version,
    /// The latest release of CUDA that its driver knows.
    pub driver_cuda: Version,
}

/// A version of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceUnavailable {
    /// The program has no code for it.
    #[error("this build of hindsight has no CUDA")]
    NotBuilt,
    /// The driver's library is not there.
    #[error("the NVIDIA driver is not there: {0}")]
    NoDriver(String),
    /// The driver is there but does not work.
    #[error("the NVIDIA driver fails: {0}")]
    DriverFails(String),
    /// The driver does not know the release of CUDA that kernels are compiled with.
    #[error("the NVIDIA driver knows CUDA up to {0}, this build needs {TOOLKIT}")]
    DriverTooOld(Version),
    /// The driver sees fewer GPUs.
    #[error("there is no {device}: the driver sees {}", count(*.gpus))]
    NoSuchDevice {
        /// The device that was asked for.
        device: Device,
        /// GPUs that the driver sees.
        gpus: u32,
    },
    /// The GPU is older than the kernels allow.
    #[error("{name} has compute capability {capability}, at least {LEAST_CAPABILITY} is needed")]
    TooOld {
        /// The GPU.
        name: String,
        /// Its compute capability.
        capability: Version,
    },
    /// The program holds kernels for another kind of GPU.
    #[error("{name} has compute capability {capability}, this build has kernels for {built}")]
    OtherKernels {
        /// The GPU.
        name: String,
        /// Its compute capability.
        capability: Version,
        /// The compute capability that the program was built for.
        built: Version,
    },
}

fn count(gpus: u32) -> String {
    match gpus {
        0 => "no GPU".to_owned(),
        1 => "one GPU, cuda:0".to_owned(),
        _ => format!("the GPUs cuda:0 to cuda:{}", gpus - 1),
    }
}

impl DeviceUnavailable {
    /// What kind of error, in snake_case, for scripts.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotBuilt => "no_cuda",
            Self::NoDriver(_) => "no_driver",
            Self::DriverFails(_) => "driver_fails",
            Self::DriverTooOld(_) => "driver_too_old",
            Self::NoSuchDevice { .. } => "no_such_device",
            Self::TooOld { .. } => "gpu_too_old",
            Self::OtherKernels { .. } => "other_kernels",
        }
    }

    /// The way out.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NotBuilt => {
                "build it with CUDA: eval \"$(cuda/toolkit/setup)\" && cargo build --release --features cuda".to_owned()
            }
            Self::NoDriver(_) => {
                "install NVIDIA's driver, 580 or later (in a container: docker run --gpus all …)".to_owned()
            }
            Self::DriverFails(_) => "see what `nvidia-smi` says; after an update of the driver, restart".to_owned(),
            Self::DriverTooOld(_) => "install NVIDIA's driver 580 or later".to_owned(),
            Self::NoSuchDevice { gpus: 0, .. } => {
                "see which GPUs `nvidia-smi` lists, and what CUDA_VISIBLE_DEVICES hides".to_owned()
            }
            Self::NoSuchDevice { .. } => "choose one of those".to_owned(),
            Self::TooOld { .. } => "use --device cpu".to_owned(),
            Self::OtherKernels { capability: Version { major, minor }, .. } => {
                format!("build it for this GPU: CUDA_COMPUTE_CAP={major}{minor} cargo build --release --features cuda")
            }
        }
    }
}

/// The compute capability that candle's kernels were compiled for; nothing in a build without CUDA.
#[must_use]
pub fn built_for() -> Option<Version> {
    let number: u32 = CANDLE_ARCHITECTURE.filter(|_| cfg!(feature = "cuda"))?.parse().ok()?;
    Some(Version { major: number / 10, minor: number % 10 })
}

/// Finds out whether a device can be used, without taking any of its memory.
///
/// # Errors
/// Why it cannot be used.
pub fn probe(device: Device) -> Result<DeviceDescription, DeviceUnavailable> {
    match device {
        Device::Cpu => Ok(DeviceDescription { device, name: "CPU".to_owned(), gpu: None }),
        Device::Cuda(number) => gpu(number),
    }
}

/// All GPUs that the driver sees, each described or with why it cannot be used.
///
/// # Errors
/// Why none can be seen.
pub fn gpus() -> Result<Vec<Result<DeviceDescription, DeviceUnavailable>>, DeviceUnavailable> {
    #[cfg(feature = "cuda")]
    return Ok((0..driver::Driver::load()?.gpus()?).map(gpu).collect());
    #[cfg(not(feature = "cuda"))]
    Err(DeviceUnavailable::NotBuilt)
}

/// What the model's products need besides the driver, and the system cannot open, with why.
#[must_use]
pub fn missing_libraries() -> Vec<String> {
    #[cfg(feature = "cuda")]
    return ["libcublas.so.13", "libcurand.so.10"]
        .into_iter()
        .filter_map(driver::missing)
        .collect();
    #[cfg(not(feature = "cuda"))]
    Vec::new()
}

#[cfg(not(feature = "cuda"))]
fn gpu(_number: u32) -> Result<DeviceDescription, DeviceUnavailable> {
    Err(DeviceUnavailable::NotBuilt)
}

#[cfg(feature = "cuda")]
fn gpu(number: u32) -> Result<DeviceDescription, DeviceUnavailable> {
    let driver = driver::Driver::load()?;
    let gpus = driver.gpus()?;
    let device = Device::Cuda(number);
    if number >= gpus {
        return Err(DeviceUnavailable::NoSuchDevice { device, gpus });
    }
    let (name, gpu) = driver.describe(number)?;
    fits(&name, gpu.compute_capability, built_for())?;
    Ok(DeviceDescription { device, name, gpu: Some(gpu) })
}

/// Whether a GPU can run the program's kernels. Ours are compiled for any GPU from 8.0 on. Of candle's, some
/// hold code for one architecture alone: up to 8.9 that runs on later ones of the same major number, from 9.0 on nowhere else.
///
/// # Errors
/// It cannot: it is too old, or needs another build.
pub fn fits(
    name: &str,
    capability: Version,
    built: Option<Version>,
) -> Result<(), DeviceUnavailable> {
    let name = || name.to_owned();
    if capability < LEAST_CAPABILITY {
        return Err(DeviceUnavailable::TooOld { name: name(), capability });
    }
    match built {
        Some(built)
            if built.major != capability.major
                || built.minor > capability.minor
                || (built.major >= 9 && built != capability) =>
        {
            Err(DeviceUnavailable::OtherKernels { name: name(), capability, built })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }

    #[test]
    fn the_processor_can_always_be_used() {
        let description = probe(Device::Cpu).unwrap();
        assert_eq!((description.device, description.gpu), (Device::Cpu, None));
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_build_without_cuda_says_so_and_how_to_build_it() {
        let error = probe(Device::Cuda(0)).unwrap_err();
        assert_eq!(error, DeviceUnavailable::NotBuilt);
        assert!(error.hint().contains("--features cuda"));
    }

    #[test]
    fn kernels_for_8_0_run_on_8_x_and_those_for_9_0_nowhere_else() {
        let runs = |built, on| fits("GPU", on, Some(built)).is_ok();
        assert!(runs(version(8, 0), version(8, 0)) && runs(version(8, 0), version(8, 9)));
        assert!(!runs(version(8, 6), version(8, 0)) && !runs(version(8, 0), version(9, 0)));
        assert!(runs(version(9, 0), version(9, 0)) && !runs(version(9, 0), version(8, 9)));
        assert!(!runs(version(12, 0), version(12, 1)));
        assert_eq!(fits("GPU", version(7, 5), None).unwrap_err().kind(), "gpu_too_old");
    }

    #[test]
    fn a_gpu_of_another_kind_is_told_with_what_to_build() {
        let error = fits("H100", version(9, 0), Some(version(8, 0))).unwrap_err();
        assert!(error.to_string().contains("9.0, this build has kernels for 8.0"), "{error}");
        assert!(error.hint().contains("CUDA_COMPUTE_CAP=90"));
    }
}
