//! Where processes and their arena really are, as the kernel states it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cpu_list::CpuList;
use super::root::Root;
use super::scheduling::Scheduling;

/// How the arena is named in a process's maps.
const ARENA: &str = "/memfd:hindsight-arena";

/// What the kernel states of two running children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observed {
    /// CPUs that the indexer may run on.
    pub indexer_cpus: CpuList,
    /// CPUs that the worker's decode threads may run on, a lent one among them.
    pub worker_cpus: CpuList,
    /// How the indexer is scheduled.
    pub indexer_scheduling: Option<Scheduling>,
    /// How the thread of the worker is scheduled that borrows the indexer's CPU, if there is one.
    pub borrower_scheduling: Option<Scheduling>,
    /// The arena.
    #[serde(flatten)]
    pub arena: ArenaObserved,
}

/// An arena as one of its mappings shows it: that which has touched most of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArenaObserved {
    /// The kernel's memory policy, such as `bind:1`.
    pub arena_policy: Option<String>,
    /// Bytes by node; empty where the kernel does not say.
    pub arena_bytes_by_node: BTreeMap<u32, u64>,
    /// Bytes touched.
    pub arena_bytes: u64,
    /// Of these, bytes that are mapped in huge pages.
    pub arena_huge_bytes: u64,
}

impl Observed {
    /// Looks at the indexer and the worker with these process ids.
    #[must_use]
    pub fn read(root: &Root, indexer: u32, worker: u32) -> Self {
        let cpus = |path: String| -> CpuList {
            let list = root.field(format!("{path}/status"), "Cpus_allowed_list");
            list.and_then(|list| list.parse().ok()).unwrap_or_default()
        };
        // Decode's threads are the first one and those that are named after it.
        let tasks = root.numbered(format!("proc/{worker}/task"), "").into_iter();
        let decodes = |&task: &u32| {
            let name = root.text(format!("proc/{worker}/task/{task}/comm")).unwrap_or_default();
            task == worker || name.starts_with("decode-")
        };
        let of_task = |task: u32| format!("proc/{worker}/task/{task}");
        let decode: Vec<(u32, CpuList)> =
            tasks.filter(decodes).map(|task| (task, cpus(of_task(task)))).collect();
        let worker_cpus = decode.iter().flat_map(|(_, cpus)| cpus.as_slice().to_vec()).collect();
        let indexer_cpus = cpus(format!("proc/{indexer}"));
        let borrower = decode.iter().find(|(_, cpus)| *cpus == indexer_cpus);
        let arenas = [indexer, worker].map(|pid| ArenaObserved::read(root, pid));
        let arena = arenas.into_iter().max_by_key(|arena| arena.arena_bytes).unwrap_or_default();
        Self {
            indexer_scheduling: Scheduling::read(root, &format!("proc/{indexer}")),
            borrower_scheduling: borrower
                .and_then(|&(task, _)| Scheduling::read(root, &of_task(task))),
            indexer_cpus,
            worker_cpus,
            arena,
        }
    }
}

impl ArenaObserved {
    /// The arena as a process sees it: nothing if it has none, or may not be looked at.
    fn read(root: &Root, pid: u32) -> Self {
        let maps = root.text(format!("proc/{pid}/smaps")).unwrap_or_default();
        let largest = mappings(&maps).max_by_key(|mapping| mapping.bytes);
        let Some(Mapping { start, bytes, huge_bytes }) = largest else {
            return Self::default();
        };
        let nodes = root.text(format!("proc/{pid}/numa_maps")).unwrap_or_default();
        let line = nodes.lines().find(|line| line.split_whitespace().next() == Some(start));
        let mut words = line.unwrap_or_default().split_whitespace().skip(1);
        let arena_policy = words.next().map(str::to_owned);
        let words: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
        let page = words.iter().find(|(key, _)| *key == "kernelpagesize_kB");
        let page: u64 = page.and_then(|(_, kib)| kib.parse().ok()).unwrap_or(4);
        let node = |&(key, pages): &(&str, &str)| {
            let pages: u64 = pages.parse().ok()?;
            Some((key.strip_prefix('N')?.parse().ok()?, pages.saturating_mul(page << 10)))
        };
        Self {
            arena_policy,
            arena_bytes_by_node: words.iter().filter_map(node).collect(),
            arena_bytes: bytes,
            arena_huge_bytes: huge_bytes,
        }
    }
}

/// A mapping of the arena.
struct Mapping<'m> {
    /// Its address, in hexadecimal.
    start: &'m str,
    bytes: u64,
    huge_bytes: u64,
}

/// All mappings of the arena in the text of `smaps`.
fn mappings(maps: &str) -> impl Iterator<Item = Mapping<'_>> {
    let mut lines = maps.lines().peekable();
    std::iter::from_fn(move || {
        let header = lines.find(|line| line.contains(ARENA))?;
        let mut mapping = Mapping {
            start: header.split('-').next().unwrap_or_default(),
            bytes: 0,
            huge_bytes: 0,
        };
        // Fields begin with a capital letter, the next mapping with its address.
        while let Some(line) =
            lines.next_if(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        {
            let Some((key, value)) = line.split_once(':') else { continue };
            let kib =
                value.trim().strip_suffix("kB").and_then(|kib| kib.trim().parse::<u64>().ok());
            let bytes = kib.unwrap_or(0).saturating_mul(1024);
            match key {
                "Rss" => mapping.bytes += bytes,
                "ShmemPmdMapped" => mapping.huge_bytes += bytes,
                // Reserved huge pages do not count as resident.
                "Shared_Hugetlb" | "Private_Hugetlb" => {
                    mapping.bytes += bytes;
                    mapping.huge_bytes += bytes;
                }
                _ => {}
            }
        }
        Some(mapping)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::testing::root;

    const SMAPS: &str = "\
5581d000-5582a000 r-xp 00000000 fe:00 77 /usr/bin/hindsight
Size:                 52 kB
Rss:                  48 kB
7f1000000000-7f1000200000 rw-s 00000000 00:01 1029 /memfd:hindsight-arena (deleted)
Size:               2048 kB
Rss:                 132 kB
ShmemPmdMapped:        0 kB
THPeligible:           0
VmFlags: rd wr sh
7f1000200000-7f100a200000 r--s 00200000 00:01 1029 /memfd:hindsight-arena (deleted)
Size:             163840 kB
Rss:               12288 kB
ShmemPmdMapped:     8192 kB
VmFlags: rd sh
7ffc0000-7ffc1000 rw-p 00000000 00:00 0 [stack]
Rss:                  16 kB
";

    #[test]
    fn the_mapping_that_shows_most_of_the_arena_counts() {
        let (_directory, copy) = root(&[
            ("proc/7/status", "Cpus_allowed:\t8\nCpus_allowed_list:\t3\n"),
            ("proc/8/task/8/status", "Cpus_allowed_list:\t0\n"),
            ("proc/8/task/8/comm", "hindsight\n"),
            ("proc/8/task/9/status", "Cpus_allowed_list:\t0-7\n"),
            ("proc/8/task/9/comm", "prefill-0\n"),
            ("proc/8/task/10/status", "Cpus_allowed_list:\t2\n"),
            ("proc/8/task/10/comm", "decode-1\n"),
            ("proc/7/smaps", SMAPS),
            (
                "proc/7/numa_maps",
                "7f1000000000 bind:1 file=/memfd:hindsight-arena\\040(deleted) N0=33 kernelpagesize_kB=4\n\
                 7f1000200000 bind:1 file=/memfd:hindsight-arena\\040(deleted) dirty=3072 N0=1024 N1=2048 kernelpagesize_kB=4\n",
            ),
        ]);
        let observed = Observed::read(&copy, 7, 8);
        assert_eq!(observed.indexer_cpus.as_slice(), [3]);
        assert_eq!(observed.worker_cpus.to_string(), "0,2");
        let ArenaObserved { arena_policy, arena_bytes_by_node, arena_bytes, arena_huge_bytes } =
            observed.arena;
        assert_eq!(arena_policy.as_deref(), Some("bind:1"));
        assert_eq!(arena_bytes_by_node, BTreeMap::from([(0, 4 << 20), (1, 8 << 20)]));
        assert_eq!((arena_bytes, arena_huge_bytes), (12 << 20, 8 << 20));
    }

    #[test]
    fn reserved_huge_pages_count_as_touched() {
        let smaps = "7f1000200000-7f100a200000 r--s 00200000 00:01 1029 /memfd:hindsight-arena (deleted)\n\
                     Rss:                   0 kB\nShared_Hugetlb:    20480 kB\nPrivate_Hugetlb:       0 kB\n";
        let (_directory, copy) = root(&[("proc/7/smaps", smaps)]);
        let arena = Observed::read(&copy, 7, 8).arena;
        assert_eq!((arena.arena_bytes, arena.arena_huge_bytes), (20 << 20, 20 << 20));
    }

    #[test]
    fn processes_that_have_ended_show_nothing() {
        let (_directory, copy) = root(&[]);
        let observed = Observed::read(&copy, 7, 8);
        assert!(observed.indexer_cpus.is_empty());
        assert_eq!(observed.arena, ArenaObserved::default());
    }
}
