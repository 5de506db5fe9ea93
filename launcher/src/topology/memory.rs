//! Memory that this process can still take: the machine's, or what its control group leaves it.

use std::path::Path;

use serde::Serialize;

use super::cgroup::{Version, groups};
use super::root::Root;

/// What a control group allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryLimit {
    /// The limit.
    pub bytes: u64,
    /// What is left of it, page cache that can be dropped counted as free.
    pub left_bytes: u64,
}

/// The limit that leaves this process least, of those of all control groups that it is in; nothing where none is set.
#[must_use]
pub fn limit(root: &Root) -> Option<MemoryLimit> {
    let limits = groups(root, "memory").into_iter();
    limits
        .filter_map(|(version, group)| of_group(root, version, &group))
        .min_by_key(|limit| limit.left_bytes)
}

/// Bytes that this process can still take.
#[must_use]
pub fn available(root: &Root) -> u64 {
    let kib = root.field("proc/meminfo", "MemAvailable");
    let system = kib.and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok());
    let system = system.map_or(u64::MAX, |kib| kib.saturating_mul(1024));
    limit(root).map_or(system, |limit| system.min(limit.left_bytes))
}

/// What the first version writes where there is no limit: the largest number of whole pages.
const UNLIMITED: u64 = 1 << 60;

fn of_group(root: &Root, version: Version, group: &Path) -> Option<MemoryLimit> {
    let (limit, used, droppable) = match version {
        Version::First => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        Version::Second => ("memory.max", "memory.current", "inactive_file"),
    };
    let bytes: u64 = root.value(group.join(limit)).filter(|&bytes| bytes < UNLIMITED)?;
    let used: u64 = root.value(group.join(used))?;
    let statistics = root.text(group.join("memory.stat")).unwrap_or_default();
    let droppable: u64 = statistics
        .lines()
        .find_map(|line| line.strip_prefix(droppable)?.trim().parse().ok())
        .unwrap_or(0);
    let left_bytes = bytes.saturating_sub(used.saturating_sub(droppable));
    Some(MemoryLimit { bytes, left_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::testing::root;

    #[test]
    fn without_control_groups_what_the_system_has_is_available() {
        let (_directory, root) =
            root(&[("proc/meminfo", "MemTotal:  100 kB\nMemAvailable:      64 kB\n")]);
        assert_eq!((limit(&root), available(&root)), (None, 65_536));
    }

    #[test]
    fn the_tightest_control_group_counts_and_droppable_cache_is_free() {
        let (_directory, root) = root(&[
            ("proc/meminfo", "MemAvailable: 64 kB\n"),
            ("proc/self/cgroup", "0::/outer/inner\n"),
            ("sys/fs/cgroup/outer/inner/memory.max", "max\n"),
            ("sys/fs/cgroup/outer/inner/memory.current", "10\n"),
            ("sys/fs/cgroup/outer/memory.max", "1000\n"),
            ("sys/fs/cgroup/outer/memory.current", "400\n"),
            ("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 150\n"),
        ]);
        assert_eq!(limit(&root), Some(MemoryLimit { bytes: 1000, left_bytes: 750 }));
        assert_eq!(available(&root), 750);
    }

    #[test]
    fn control_groups_of_the_first_version_count_too() {
        let own = "sys/fs/cgroup/memory/own";
        let (_directory, root) = root(&[
            ("proc/self/cgroup", "4:cpu,memory:/own\n0::/\n"),
            (&format!("{own}/memory.limit_in_bytes"), "5000"),
            (&format!("{own}/memory.usage_in_bytes"), "6000"),
            (&format!("{own}/memory.stat"), "inactive_file 1\ntotal_inactive_file 2000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "7000"),
        ]);
        assert_eq!(limit(&root), Some(MemoryLimit { bytes: 5000, left_bytes: 1000 }));
    }

    #[test]
    fn a_container_that_does_not_see_its_own_group_goes_by_the_topmost() {
        let (_directory, root) = root(&[
            ("proc/self/cgroup", "0::/../../kubepods/pod7\n"),
            ("sys/fs/cgroup/memory.max", "900"),
            ("sys/fs/cgroup/memory.current", "100"),
        ]);
        assert_eq!(limit(&root), Some(MemoryLimit { bytes: 900, left_bytes: 800 }));
    }
}
