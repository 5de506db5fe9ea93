//! Cores, and the CPUs (hardware threads) that share one.

use serde::Serialize;

use super::cpu_list::CpuList;
use super::root::Root;

/// A core. Linux counts its hardware threads as CPUs of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Core {
    /// The socket that it is in; nothing where the system does not say.
    pub socket: Option<u32>,
    /// Its CPUs: one, or several SMT siblings.
    pub cpus: CpuList,
    /// Of these, those that this process may use.
    pub usable: CpuList,
    /// How fast it is, in units that compare with other cores of the machine; nothing where the system does not say.
    pub capacity: Option<u64>,
}

impl Core {
    /// The lowest of its CPUs: cores are ordered by it.
    #[must_use]
    pub fn first_cpu(&self) -> u32 {
        self.cpus.as_slice().first().copied().unwrap_or(u32::MAX)
    }
}

/// All cores of the CPUs `online`, in the order of their first CPUs.
pub(super) fn read(root: &Root, online: &CpuList, allowed: &CpuList) -> Vec<Core> {
    let mut cores: Vec<Core> = Vec::new();
    for &cpu in online.as_slice() {
        if cores.iter().any(|core| core.cpus.contains(cpu)) {
            continue;
        }
        let directory = format!("sys/devices/system/cpu/cpu{cpu}");
        let siblings = ["core_cpus_list", "thread_siblings_list"]
            .iter()
            .find_map(|name| root.value::<CpuList>(format!("{directory}/topology/{name}")))
            .map(|siblings| siblings.intersection(online))
            .filter(|siblings| siblings.contains(cpu));
        let cpus = siblings.unwrap_or_else(|| [cpu].into_iter().collect());
        cores.push(Core {
            socket: root.value(format!("{directory}/topology/physical_package_id")),
            usable: cpus.intersection(allowed),
            cpus,
            capacity: ["cpufreq/cpuinfo_max_freq", "cpu_capacity"]
                .iter()
                .find_map(|name| root.value(format!("{directory}/{name}"))),
        });
    }
    cores
}
