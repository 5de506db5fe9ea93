//! Whether weights and KV cache fit into the machine's memory.

use std::path::Path;

use indicatif::HumanBytes;

use crate::error::{Error, Exit};

/// What the processes need besides weights and KV cache: activations, the index's scratch, the programs themselves.
const OVERHEAD_BYTES: u64 = 300 << 20;
/// Index state per byte of KV cache, as a divisor: the index keeps at most a twentieth.
const INDEX_SHARE: u64 = 20;

/// What a run will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes of the model file, all of which is held in memory.
    pub model_bytes: u64,
    /// Bytes of keys and values of one token.
    pub token_bytes: u64,
    /// Tokens that the KV cache holds.
    pub tokens: u64,
}

impl MemoryPlan {
    /// Bytes of the KV cache.
    #[must_use]
    pub const fn kv_bytes(&self) -> u64 {
        self.token_bytes.saturating_mul(self.tokens)
    }

    /// Checks the plan against `available` bytes of memory.
    ///
    /// # Errors
    /// The arithmetic, if it does not fit, and how many tokens would.
    pub fn check(&self, available: u64) -> Result<(), Error> {
        let kv = self.kv_bytes();
        let index = kv / INDEX_SHARE;
        let fixed = self.model_bytes.saturating_add(OVERHEAD_BYTES);
        let needed = fixed.saturating_add(kv).saturating_add(index);
        if needed <= available {
            return Ok(());
        }
        let message = format!(
            "this run needs {}: KV cache {} ({} tokens x {}), index {}, model {}, work space {}; but {} are available",
            HumanBytes(needed),
            HumanBytes(kv),
            self.tokens,
            HumanBytes(self.token_bytes),
            HumanBytes(index),
            HumanBytes(self.model_bytes),
            HumanBytes(OVERHEAD_BYTES),
            HumanBytes(available),
        );
        let per_token = self.token_bytes + self.token_bytes / INDEX_SHARE;
        let fits = available.saturating_sub(fixed) / per_token.max(1);
        let error = Error::new(Exit::DoesNotFit, "memory", message);
        Err(if fits == 0 {
            error.with_hint("choose a smaller model, or free memory")
        } else {
            error.with_hint(format!("about {fits} tokens would fit: --context {fits}"))
        })
    }
}

/// Bytes of memory that this process can still take: what the system has, or what its control group leaves it.
#[must_use]
pub fn available_memory() -> u64 {
    let system = meminfo(&read("/proc/meminfo")).unwrap_or(u64::MAX);
    system.min(cgroup_headroom(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup")))
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `MemAvailable`, in bytes.
fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// What the tightest control group above this process leaves it; unlimited where none limits memory.
fn cgroup_headroom(root: &Path, membership: &str) -> u64 {
    let number = |path: &Path| read(path).trim().parse::<u64>().ok();
    let Some(own) = membership.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return u64::MAX;
    };
    root.join(own)
        .ancestors()
        .take_while(|group| group.starts_with(root))
        .filter_map(|group| {
            let limit = number(&group.join("memory.max"))?;
            Some(limit.saturating_sub(number(&group.join("memory.current"))?))
        })
        .min()
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_arithmetic_and_what_would() {
        let plan = MemoryPlan { model_bytes: 98 << 20, token_bytes: 23_040, tokens: 10_000_000 };
        let error = plan.check(24 << 30).unwrap_err();
        assert_eq!(error.exit, Exit::DoesNotFit);
        for part in ["10000000 tokens x 22.50 KiB", "24.00 GiB are available"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
        let hint = error.hint.unwrap();
        let fits: u64 = hint.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(MemoryPlan { tokens: fits, ..plan }.check(24 << 30).is_ok());
        assert!(MemoryPlan { tokens: fits + 100, ..plan }.check(24 << 30).is_err());
    }

    #[test]
    fn sizes_beyond_64_bits_are_refused_not_wrapped() {
        let plan = MemoryPlan { model_bytes: 1, token_bytes: 1 << 40, tokens: u64::MAX };
        assert!(plan.check(u64::MAX - 1).is_err());
    }

    #[test]
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:  100 kB\nMemAvailable:      64 kB\n";
        assert_eq!(meminfo(text), Some(65_536));
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("outer/inner");
        std::fs::create_dir_all(&inner).unwrap();
        let write = |path: &Path, name, text| std::fs::write(path.join(name), text).unwrap();
        write(&inner, "memory.max", "max\n");
        write(&inner, "memory.current", "10\n");
        write(inner.parent().unwrap(), "memory.max", "1000\n");
        write(inner.parent().unwrap(), "memory.current", "400\n");
        assert_eq!(cgroup_headroom(root.path(), "0::/outer/inner\n"), 600);
        assert_eq!(cgroup_headroom(root.path(), "0::/\n"), u64::MAX);
    }
}
