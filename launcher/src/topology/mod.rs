//! What this machine is made of, what of it this process may use, and what Hindsight makes of that.
//!
//! Everything is read from `/sys` and `/proc`. What the system does not say is left out, never guessed: containers hide
//! much of both.

mod caches;
pub(crate) mod cgroup;
mod choice;
mod cores;
mod cpu_list;
mod gpus;
#[cfg(test)]
#[path = "../../../tests/support/machine.rs"]
#[allow(unreachable_pub, reason = "whole-system tests use the same machines")]
pub(crate) mod machine;
pub mod memory;
mod nodes;
mod observed;
mod root;
mod scheduling;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use caches::Cache;
pub use choice::{Choice, Chosen, Placement, Request};
pub use cores::Core;
pub use cpu_list::{CpuList, CpuListError};
pub use gpus::{Gpu, Link};
pub use memory::MemoryLimit;
pub use nodes::{HugePages, Node, huge_pages};
pub use observed::{ArenaObserved, Observed};
pub use root::Root;
pub use scheduling::{Policy, Scheduling};

/// A machine as one of its processes sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Topology {
    /// What the processor calls itself.
    pub processor: Option<String>,
    /// CPUs that this process may use.
    pub allowed_cpus: CpuList,
    /// NUMA nodes with their cores and memory; at least one.
    pub nodes: Vec<Node>,
    /// Caches for data.
    pub caches: Vec<Cache>,
    /// NVIDIA GPUs.
    pub gpus: Vec<Gpu>,
    /// What the control group allows, if it limits memory.
    pub memory_limit: Option<MemoryLimit>,
}

impl Topology {
    /// Reads a machine.
    #[must_use]
    pub fn read(root: &Root) -> Self {
        let allowed_cpus = root.allowed_cpus();
        let online: CpuList = root.value("sys/devices/system/cpu/online").unwrap_or_default();
        // Containers may show CPUs that they number anew, beside an affinity with the numbers of the machine.
        let known: CpuList = [&online, &allowed_cpus]
            .into_iter()
            .flat_map(|list| list.as_slice().iter().copied())
            .collect();
        let cores = cores::read(root, &known, &allowed_cpus);
        Self {
            processor: root.field("proc/cpuinfo", "model name"),
            nodes: nodes::read(root, cores),
            caches: caches::read(root, &known),
            gpus: gpus::read(root),
            memory_limit: memory::limit(root),
            allowed_cpus,
        }
    }

    /// The node with a number.
    #[must_use]
    pub fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The node and core that a CPU belongs to.
    #[must_use]
    pub fn core_of(&self, cpu: u32) -> Option<(&Node, &Core)> {
        self.nodes.iter().find_map(|node| {
            let core = node.cores.iter().find(|core| core.cpus.contains(cpu))?;
            Some((node, core))
        })
    }

    /// How far `memory`'s memory is from `node`'s cores; their own is nearest.
    fn distance(&self, node: &Node, memory: &Node) -> u32 {
        let index = self.nodes.iter().position(|other| other.id == memory.id);
        let stated = index.and_then(|index| node.distances.get(index).copied());
        stated.unwrap_or(if node.id == memory.id { 10 } else { 20 })
    }
}
