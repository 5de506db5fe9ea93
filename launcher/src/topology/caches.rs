//! Caches, and who shares them.

use serde::Serialize;

use super::cpu_list::CpuList;
use super::root::Root;

/// A cache for data, or for data and instructions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// 1 is the nearest to the core.
    pub level: u32,
    /// Its size.
    pub bytes: u64,
    /// The CPUs that share it.
    pub cpus: CpuList,
}

/// Every cache of the CPUs `online`, once, by level and first CPU.
pub(super) fn read(root: &Root, online: &CpuList) -> Vec<Cache> {
    let mut caches: Vec<Cache> = Vec::new();
    for &cpu in online.as_slice() {
        let directory = format!("sys/devices/system/cpu/cpu{cpu}/cache");
        for index in root.numbered(&directory, "index") {
            let directory = format!("{directory}/index{index}");
            let Some(level) = root.value(format!("{directory}/level")) else { continue };
            let known = |cache: &Cache| cache.level == level && cache.cpus.contains(cpu);
            if root.text(format!("{directory}/type")).as_deref() == Some("Instruction")
                || caches.iter().any(known)
            {
                continue;
            }
            let Some(bytes) = root.text(format!("{directory}/size")).and_then(|s| size(&s)) else {
                continue;
            };
            let shared = root.value::<CpuList>(format!("{directory}/shared_cpu_list"));
            let cpus = shared.unwrap_or_else(|| [cpu].into_iter().collect());
            caches.push(Cache { level, bytes, cpus });
        }
    }
    caches.sort_by_key(|cache| (cache.level, cache.cpus.as_slice().first().copied()));
    caches
}

/// `512K` or `32M`, in bytes.
fn size(text: &str) -> Option<u64> {
    let shift = match text.bytes().last()? {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        _ => 0,
    };
    let number: u64 = text.trim_end_matches(['K', 'M', 'G']).parse().ok()?;
    number.checked_shl(shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512K"), Some(512 << 10));
        assert_eq!(size("32M"), Some(32 << 20));
        assert_eq!(size("many"), None);
    }
}
