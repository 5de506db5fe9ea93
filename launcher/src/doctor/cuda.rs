//! What the CUDA driver of this machine says of its GPUs, and whether this build can use them.

use hindsight_gpu_worker::device::probe::{built_for, gpus, missing_libraries};
use hindsight_gpu_worker::device::{DeviceDescription, DeviceUnavailable};
use indicatif::HumanBytes;

use super::Check;

const IDLE: &str = "the GPU is not used";

/// A check of build and driver, and of each GPU that the driver sees. `expected` is how many GPUs the system lists.
pub(super) fn all(expected: usize) -> Vec<Check> {
    const NAME: &str = "cuda";
    let seen = match gpus() {
        Ok(seen) => seen,
        Err(why) if expected == 0 => {
            return vec![Check::good(NAME, format!("{why}: the CPU is the device"))];
        }
        Err(why) => return vec![Check::slower(NAME, why.to_string(), IDLE, why.hint())],
    };
    let built = built_for().map_or_else(String::new, |version| format!(" for {version}"));
    let mut checks = vec![Check::good(NAME, format!("in this build{built}; the driver works"))];
    let multiplies = seen.iter().flatten().any(|device| !device.is_mock());
    checks.extend(seen.into_iter().map(gpu));
    if multiplies {
        checks.push(libraries());
    }
    checks
}

fn gpu(found: Result<DeviceDescription, DeviceUnavailable>) -> Check {
    const NAME: &str = "cuda device";
    match found {
        Err(why) => Check::slower(NAME, why.to_string(), IDLE, why.hint()),
        Ok(DeviceDescription { device, name, gpu }) => Check::good(
            NAME,
            gpu.map_or_else(
                || format!("{device}: {name}"),
                |gpu| {
                    format!(
                        "{device}: {name}, {}, compute capability {}; its driver knows CUDA {}",
                        HumanBytes(gpu.memory_bytes),
                        gpu.compute_capability,
                        gpu.driver_cuda
                    )
                },
            ),
        ),
    }
}

/// Whether candle finds what it multiplies with.
fn libraries() -> Check {
    const NAME: &str = "cuda libraries";
    let missing = missing_libraries();
    if missing.is_empty() {
        return Check::good(NAME, "cuBLAS and cuRAND are there");
    }
    Check::broken(
        NAME,
        missing.join("; "),
        "runs on the GPU fail: the model's products need them",
        "install CUDA 13's libraries, or: eval \"$(cuda/toolkit/setup --libraries)\"",
    )
}
