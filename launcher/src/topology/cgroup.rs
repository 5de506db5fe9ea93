//! Control groups: which of them limit this process.

use std::path::{Component, Path, PathBuf};

use super::root::Root;

const MOUNT: &str = "sys/fs/cgroup";

/// Versions of control groups; both may be there at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// A tree for each controller.
    First,
    /// One tree for all.
    Second,
}

/// Directories (relative to the root) of the control groups in which `controller` may limit this process: its own, then
/// those that it lies in. A container may not see its own group at its path: then those above count, of which the
/// topmost is its own.
pub(crate) fn groups(root: &Root, controller: &str) -> Vec<(Version, PathBuf)> {
    let membership = root.text("proc/self/cgroup").unwrap_or_default();
    let mut groups = Vec::new();
    for line in membership.lines() {
        // hierarchy:controllers:/path; the second version's is `0::/path`.
        let mut parts = line.splitn(3, ':');
        let (Some(hierarchy), Some(controllers), Some(path)) =
            (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (version, mount) = if hierarchy == "0" && controllers.is_empty() {
            (Version::Second, PathBuf::from(MOUNT))
        } else if controllers.split(',').any(|name| name == controller) {
            (Version::First, Path::new(MOUNT).join(controller))
        } else {
            continue;
        };
        let relative = Path::new(path.trim_start_matches('/'));
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        let own = if inside { mount.join(relative) } else { mount.clone() };
        let above = own.ancestors().take_while(|path| path.starts_with(&mount));
        groups.extend(above.map(|path| (version, path.to_owned())));
    }
    groups
}

/// How many CPUs' worth of time the tightest group grants; nothing where none limits it.
pub(crate) fn cpu_quota(root: &Root) -> Option<f64> {
    let quota = |(version, group): (Version, PathBuf)| {
        let (quota, period) = match version {
            Version::Second => {
                let text = root.text(group.join("cpu.max"))?;
                let (quota, period) = text.split_once(' ')?;
                (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?)
            }
            Version::First => (
                root.value::<f64>(group.join("cpu.cfs_quota_us"))?,
                root.value::<f64>(group.join("cpu.cfs_period_us"))?,
            ),
        };
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    };
    groups(root, "cpu").into_iter().filter_map(quota).min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::testing::root;

    #[test]
    fn the_tightest_quota_counts_in_both_versions() {
        let (_directory, copy) = root(&[
            ("proc/self/cgroup", "2:cpu,cpuacct:/outer/inner\n0::/own\n"),
            ("sys/fs/cgroup/cpu/outer/cpu.cfs_quota_us", "350000"),
            ("sys/fs/cgroup/cpu/outer/cpu.cfs_period_us", "100000"),
            ("sys/fs/cgroup/cpu/outer/inner/cpu.cfs_quota_us", "-1"),
            ("sys/fs/cgroup/cpu/outer/inner/cpu.cfs_period_us", "100000"),
            ("sys/fs/cgroup/own/cpu.max", "max 100000"),
        ]);
        assert_eq!(cpu_quota(&copy), Some(3.5));
        let (_directory, copy) = root(&[
            ("proc/self/cgroup", "0::/../pod\n"),
            ("sys/fs/cgroup/cpu.max", "150000 100000"),
        ]);
        assert_eq!(cpu_quota(&copy), Some(1.5));
    }
}
