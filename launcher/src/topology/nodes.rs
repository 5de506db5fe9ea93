//! NUMA nodes: cores and memory that are near each other.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cores::Core;
use super::cpu_list::CpuList;
use super::root::Root;

const NODES: &str = "sys/devices/system/node";

/// A NUMA node. It may lack cores, or memory, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its cores, in the order of their CPUs.
    pub cores: Vec<Core>,
    /// Its memory.
    pub memory_bytes: u64,
    /// Of that, what nothing uses; the system can take back more from its page cache.
    pub free_bytes: u64,
    /// What it can still give: what nothing uses, and page cache that can be dropped, less what the kernel keeps for itself.
    pub available_bytes: u64,
    /// Whether this process may use its memory.
    pub memory_allowed: bool,
    /// Its huge pages.
    pub huge_pages: Vec<HugePages>,
    /// How far its memory is from the cores of each node, in the order of the nodes; 10 is its own.
    pub distances: Vec<u32>,
}

/// Huge pages of one size that somebody has reserved on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// Size of a page.
    pub page_bytes: u64,
    /// Pages reserved.
    pub total: u64,
    /// Of these, pages that nobody uses.
    pub free: u64,
}

impl Node {
    /// Whether this process can keep an arena here.
    #[must_use]
    pub const fn holds_memory(&self) -> bool {
        self.memory_allowed && self.memory_bytes > 0
    }

    /// Cores of which this process may use a CPU.
    pub fn usable_cores(&self) -> impl DoubleEndedIterator<Item = &Core> {
        self.cores.iter().filter(|core| !core.usable.is_empty())
    }
}

/// All nodes; a single one that has everything where the system tells of none.
pub(super) fn read(root: &Root, cores: Vec<Core>) -> Vec<Node> {
    let ids = root.numbered(NODES, "node");
    let allowed = root.allowed_nodes();
    if ids.is_empty() {
        let (memory_bytes, free_bytes) = memory(root, "proc/meminfo", "");
        return vec![Node {
            id: 0,
            cores,
            memory_bytes,
            free_bytes,
            available_bytes: super::memory::available(root).min(memory_bytes),
            memory_allowed: true,
            huge_pages: huge_pages(root, "sys/kernel/mm/hugepages"),
            distances: vec![10],
        }];
    }
    let cpus = |id| root.value::<CpuList>(format!("{NODES}/node{id}/cpulist")).unwrap_or_default();
    let cpus: Vec<CpuList> = ids.iter().map(|id| cpus(*id)).collect();
    // A core that no node claims, as containers that hide half of the system may have, is given to the first.
    let home = |core: &Core| {
        let claims = |cpus: &CpuList| cpus.contains(core.first_cpu());
        cpus.iter().position(claims).unwrap_or(0)
    };
    let kept = kept_by_kernel(&root.text("proc/zoneinfo").unwrap_or_default());
    let node = |(index, &id): (usize, &u32)| {
        let directory = format!("{NODES}/node{id}");
        let prefix = format!("Node {id} ");
        let meminfo = format!("{directory}/meminfo");
        let (memory_bytes, free_bytes) = memory(root, &meminfo, &prefix);
        let droppable = ["Active(file)", "Inactive(file)", "SReclaimable"]
            .map(|key| bytes(root, &meminfo, &format!("{prefix}{key}")).unwrap_or(0));
        let usable = free_bytes.saturating_add(droppable.iter().sum());
        let distances = root.text(format!("{directory}/distance")).unwrap_or_default();
        Node {
            id,
            cores: cores.iter().filter(|core| home(core) == index).cloned().collect(),
            memory_bytes,
            free_bytes,
            available_bytes: usable.saturating_sub(kept.get(&id).copied().unwrap_or(0)),
            memory_allowed: allowed.as_ref().is_none_or(|allowed| allowed.contains(id)),
            huge_pages: huge_pages(root, &format!("{directory}/hugepages")),
            distances: distances.split_whitespace().filter_map(|d| d.parse().ok()).collect(),
        }
    };
    ids.iter().enumerate().map(node).collect()
}

/// All and free memory in bytes, from a file whose lines begin with `prefix`.
fn memory(root: &Root, path: &str, prefix: &str) -> (u64, u64) {
    let of = |key: &str| bytes(root, path, &format!("{prefix}{key}")).unwrap_or(0);
    (of("MemTotal"), of("MemFree"))
}

/// A field of so many kB, in bytes.
fn bytes(root: &Root, path: &str, key: &str) -> Option<u64> {
    let kib: u64 = root.field(path, key)?.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Bytes by node that the kernel does not give away: the high watermarks of its zones, from the text of `/proc/zoneinfo`.
fn kept_by_kernel(zones: &str) -> BTreeMap<u32, u64> {
    let mut kept = BTreeMap::new();
    let mut node = None;
    for line in zones.lines() {
        if let Some(heading) = line.strip_prefix("Node ") {
            node = heading.split(',').next().and_then(|id| id.parse().ok());
        }
        let pages = line.trim().strip_prefix("high ").and_then(|pages| pages.trim().parse().ok());
        if let (Some(node), Some(pages)) = (node, pages) {
            let bytes: u64 = kept.get(&node).copied().unwrap_or(0);
            let more = u64::saturating_mul(pages, rustix::param::page_size() as u64);
            kept.insert(node, bytes.saturating_add(more));
        }
    }
    kept
}

/// Huge pages by size, from a directory with one directory for each.
#[must_use]
pub fn huge_pages(root: &Root, directory: &str) -> Vec<HugePages> {
    let mut pools: Vec<HugePages> = root
        .names(directory)
        .iter()
        .filter_map(|name| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let number = |file: &str| root.value(format!("{directory}/{name}/{file}"));
            Some(HugePages {
                page_bytes: kib.checked_mul(1024)?,
                total: number("nr_hugepages")?,
                free: number("free_hugepages")?,
            })
        })
        .collect();
    pools.sort_by_key(|pool| pool.page_bytes);
    pools
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::testing::root;

    #[test]
    fn what_a_node_can_still_give_counts_droppable_cache_and_the_kernels_share() {
        let meminfo = "\
Node 1 MemTotal:        1030356 kB
Node 1 MemFree:           33440 kB
Node 1 Active(anon):     959244 kB
Node 1 Active(file):        100 kB
Node 1 Inactive(file):     4000 kB
Node 1 Shmem:            959316 kB
Node 1 SReclaimable:        900 kB
";
        let zones = "\
Node 0, zone    DMA32
  pages free     1000
        high     77
Node 1, zone    DMA32
  per-node stats
      nr_inactive_anon 11
  pages free     8360
        boost    0
        min      112
        low      140
        high     168
        spanned  262144
              count: 61
              high:  14
Node 1, zone   Normal
        high     32
";
        let (_directory, copy) = root(&[
            ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: 8 kB\n"),
            ("sys/devices/system/node/node1/meminfo", meminfo),
            ("proc/zoneinfo", zones),
        ]);
        let nodes = read(&copy, Vec::new());
        let kept = 200 * rustix::param::page_size() as u64;
        assert_eq!(nodes[1].free_bytes, 33_440 << 10);
        assert_eq!(nodes[1].available_bytes, (38_440 << 10) - kept);
        assert_eq!(nodes[0].available_bytes, 0);
    }
}
