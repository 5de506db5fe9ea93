//! GPUs, their driver and their links.

use super::Check;
use crate::topology::{Gpu, Root, Topology};

/// A check that there is one, of the driver, and of each link.
pub(super) fn all(root: &Root, topology: &Topology) -> Vec<Check> {
    if topology.gpus.is_empty() {
        return vec![Check::good("gpu", "none: the CPU is the device")];
    }
    let names: Vec<&str> = topology.gpus.iter().map(|gpu| gpu.address.as_str()).collect();
    let mut checks = vec![Check::good("gpu", names.join(", ")), driver(root)];
    checks.extend(topology.gpus.iter().map(link));
    checks
}

fn driver(root: &Root) -> Check {
    const NAME: &str = "gpu driver";
    let text = root.text("proc/driver/nvidia/version").unwrap_or_default();
    match text.lines().find_map(|line| line.strip_prefix("NVRM version:")) {
        Some(version) => {
            Check::good(NAME, version.split_whitespace().collect::<Vec<_>>().join(" "))
        }
        None => Check::slower(
            NAME,
            "not loaded",
            "the GPU cannot be used",
            "sudo modprobe nvidia (in a container: docker run --gpus all …)",
        ),
    }
}

/// Fewer lanes than there could be are a fault; a lower generation is not, for idle GPUs save power that way.
fn link(gpu: &Gpu) -> Check {
    const NAME: &str = "gpu link";
    let address = &gpu.address;
    let (Some(now), Some(max)) = (gpu.link, gpu.link_max) else {
        return Check::unknown(NAME, format!("{address}: the system does not say"));
    };
    let found = format!(
        "{address}: {} of {} lanes, generation {} at most",
        now.width, max.width, max.generation
    );
    if now.width >= max.width {
        return Check::good(NAME, found);
    }
    Check::slower(
        NAME,
        found,
        format!(
            "blocks travel at {}/{} of the speed that the GPU could have",
            now.width, max.width
        ),
        format!(
            "sudo lspci -vv -s {address} | grep -i lnk, then seat the card anew or move it to a wider slot"
        ),
    )
}
