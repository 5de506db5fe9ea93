//! Shared and locked memory.

use rustix::fs::{Access, access};

use super::Check;
use crate::topology::{Root, Topology};

/// Whether runs can make their telemetry page.
pub(super) fn shared_memory(root: &Root) -> Check {
    const NAME: &str = "/dev/shm";
    let path = root.path("dev/shm");
    let broken = |found| {
        Check::broken(
            NAME,
            found,
            "runs cannot make their telemetry page and end at once",
            "sudo mkdir -p /dev/shm && sudo mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
        )
    };
    if !path.is_dir() {
        return broken("not there");
    }
    if access(&path, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return broken("cannot be written to");
    }
    Check::good(NAME, "can be written to; the KV cache does not need it, whatever its size")
}

/// Whether the arena could be registered with a GPU.
pub(super) fn locked_memory(root: &Root, topology: &Topology) -> Check {
    const NAME: &str = "locked memory";
    let limits = root.text("proc/self/limits").unwrap_or_default();
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory")?.split_whitespace().next());
    let Some(soft) = soft else {
        return Check::unknown(NAME, "the system does not say how much may be locked");
    };
    let found = match soft.parse() {
        Ok(bytes) => format!("{} may be locked", indicatif::HumanBytes(bytes)),
        Err(_) => "as much as wanted may be locked".to_owned(),
    };
    if topology.gpus.is_empty() {
        return Check::good(NAME, format!("{found}; without a GPU nothing is"));
    }
    if soft == "unlimited" {
        return Check::good(NAME, found);
    }
    Check::slower(
        NAME,
        found,
        "a larger KV cache may not be registered with a GPU: each block is then copied once more on its way",
        "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity; docker run --ulimit memlock=-1)",
    )
}
