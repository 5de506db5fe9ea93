//! NUMA nodes: cores and memory that are near each other.

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
    let node = |(index, &id): (usize, &u32)| {
        let directory = format!("{NODES}/node{id}");
        let prefix = format!("Node {id} ");
        let (memory_bytes, free_bytes) = memory(root, &format!("{directory}/meminfo"), &prefix);
        let distances = root.text(format!("{directory}/distance")).unwrap_or_default();
        Node {
            id,
            cores: cores.iter().filter(|core| home(core) == index).cloned().collect(),
            memory_bytes,
            free_bytes,
            memory_allowed: allowed.as_ref().is_none_or(|allowed| allowed.contains(id)),
            huge_pages: huge_pages(root, &format!("{directory}/hugepages")),
            distances: distances.split_whitespace().filter_map(|d| d.parse().ok()).collect(),
        }
    };
    ids.iter().enumerate().map(node).collect()
}

/// All and free memory in bytes, from a file whose lines begin with `prefix`.
fn memory(root: &Root, path: &str, prefix: &str) -> (u64, u64) {
    let bytes = |key: &str| {
        let field = root.field(path, &format!("{prefix}{key}"))?;
        let kib: u64 = field.strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    (bytes("MemTotal").unwrap_or(0), bytes("MemFree").unwrap_or(0))
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
