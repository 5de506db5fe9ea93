//! Reads a GPU's own counters of its link while a run goes on, on a thread of the launcher's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hindsight_protocol::profile::now;
use nvml_wrapper::enum_wrappers::device::PcieUtilCounter;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::counters::{CounterSample, Counters};

/// Between two looks; each look takes the library 40 ms.
const PAUSE: Duration = Duration::from_millis(60);

/// A thread that reads the counters.
#[derive(Debug)]
pub(super) struct Reader {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Counters>,
}

impl Reader {
    /// Begins to read the counters of the GPU `number` that calls itself `name`.
    pub(super) fn start(number: u32, name: String) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            read(number, &name, &flag)
                .unwrap_or_else(|error| Counters::absent(format!("NVML: {error}")))
        });
        Self { ended, thread }
    }

    /// Ends reading; what has been read.
    pub(super) fn finish(self) -> Counters {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Counters::absent("reading NVML's counters failed"))
    }
}

fn read(number: u32, name: &str, ended: &AtomicBool) -> Result<Counters, NvmlError> {
    let nvml = Nvml::init()?;
    let Some(device) = find(&nvml, number, name)? else {
        let why = format!("NVML does not tell which of its GPUs is cuda:{number} ({name})");
        return Ok(Counters::absent(why));
    };
    let mut samples = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let gb_per_s = |kilobytes: u32| f64::from(kilobytes) / 1e6;
        // What the GPU receives comes from the host.
        let to_device = gb_per_s(device.pcie_throughput(PcieUtilCounter::Receive)?);
        let at_ns = now();
        let to_host = gb_per_s(device.pcie_throughput(PcieUtilCounter::Send)?);
        samples.push(CounterSample {
            at_ns,
            to_device_gb_per_s: to_device,
            to_host_gb_per_s: to_host,
        });
        std::thread::sleep(PAUSE);
    }
    Ok(Counters { samples, absent: None })
}

/// The GPU as the library numbers it: the only one of its name, or, where nothing hides or sorts GPUs, the one of the same number.
fn find<'n>(nvml: &'n Nvml, number: u32, name: &str) -> Result<Option<Device<'n>>, NvmlError> {
    let mut alike = Vec::new();
    for index in 0..nvml.device_count()? {
        let device = nvml.device_by_index(index)?;
        if device.name()? == name {
            alike.push((index, device));
        }
    }
    let all = u32::try_from(alike.len()).ok() == Some(nvml.device_count()?);
    let plain = all && std::env::var_os("CUDA_VISIBLE_DEVICES").is_none();
    let at = match alike.len() {
        1 => Some(0),
        _ if plain => alike.iter().position(|(index, _)| *index == number),
        _ => None,
    };
    Ok(at.map(|at| alike.swap_remove(at).1))
}
