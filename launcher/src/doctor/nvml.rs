//! What the driver's management library counts of a GPU's link.

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::Check;

const NAME: &str = "gpu link counters";

/// A check of each GPU. The library comes with the driver; where it is not there, there is nothing to say.
pub(super) fn all() -> Vec<Check> {
    let Ok(nvml) = Nvml::init() else { return Vec::new() };
    let count = nvml.device_count().unwrap_or(0);
    let check = |number| match link(&nvml, number) {
        Ok(found) => Check::good(NAME, found),
        Err(error) => Check::unknown(NAME, format!("GPU {number}: {error}")),
    };
    (0..count).map(check).collect()
}

/// Idle GPUs lower the generation to save power; repeats that grow in number during a run point to a bad seat or riser.
fn link(nvml: &Nvml, number: u32) -> Result<String, NvmlError> {
    let device = nvml.device_by_index(number)?;
    let generation = device.current_pcie_link_gen()?;
    let most = device.max_pcie_link_gen()?;
    let width = device.current_pcie_link_width()?;
    let repeats = device.pcie_replay_counter()?;
    let name = device.name()?;
    Ok(format!(
        "{name}: generation {generation} of {most}, {width} lanes, {repeats} transfers repeated so far"
    ))
}
