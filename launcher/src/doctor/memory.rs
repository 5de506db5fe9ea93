//! How much memory there is, where, and in pages of which size.

use indicatif::HumanBytes;

use super::Check;
use crate::topology::memory::available;
use crate::topology::{Request, Root, Topology, huge_pages as pools};

const THP: &str = "sys/kernel/mm/transparent_hugepage";
/// Below this not even a small model with a short context fits.
const LITTLE: u64 = 1 << 30;

/// Whether there is room for a model and its cache.
pub(super) fn room(root: &Root, topology: &Topology) -> Check {
    const NAME: &str = "memory";
    let left = available(root);
    if left == u64::MAX {
        return Check::unknown(NAME, "the system does not say how much is left");
    }
    let limit = match topology.memory_limit {
        Some(limit) => format!(" (the control group allows {})", HumanBytes(limit.bytes)),
        None => String::new(),
    };
    let found = format!("{} can be taken{limit}", HumanBytes(left));
    if left >= LITTLE {
        return Check::good(NAME, found);
    }
    let mend = match topology.memory_limit {
        Some(limit) if limit.left_bytes == left => {
            "raise the limit (docker run --memory …; systemctl set-property UNIT MemoryMax=…)"
        }
        _ => "end what takes it: ps aux --sort=-rss | head",
    };
    let consequence =
        "only the smallest models with short contexts fit; the kernel kills what takes more";
    Check::slower(NAME, found, consequence, mend)
}

/// Whether the indexer has memory near it.
pub(super) fn nodes(topology: &Topology) -> Check {
    const NAME: &str = "numa";
    let Ok(choice) = topology.choose(&Request::default()) else {
        return Check::unknown(NAME, "no core is known to be usable");
    };
    let count = topology.nodes.len();
    let arena = &choice.arena_node;
    let found = match count {
        1 => "one node".to_owned(),
        _ => format!(
            "{count} nodes; the indexer on CPU {}, the arena on node {}",
            choice.indexer_core.value, arena.value
        ),
    };
    let home = topology.core_of(choice.indexer_core.value);
    if home.is_some_and(|(node, _)| node.id != arena.value) {
        let mend = format!(
            "give the indexer a core of node {} (hindsight run --indexer-core N), and the process the right to use it",
            arena.value
        );
        return Check::slower(NAME, found, "every scan of the indexer crosses nodes", mend);
    }
    Check::good(NAME, found)
}

/// Whether the kernel moves pages between nodes on its own.
pub(super) fn balancing(root: &Root, topology: &Topology) -> Check {
    const NAME: &str = "numa balancing";
    if topology.nodes.len() == 1 {
        return Check::good(NAME, "there is one node");
    }
    match root.text("proc/sys/kernel/numa_balancing").as_deref() {
        None => Check::unknown(NAME, "the system does not say"),
        Some("0") => Check::good(NAME, "off"),
        Some(_) => Check::slower(
            NAME,
            "on",
            "the kernel unmaps pages to see who uses them, and moves them: page faults within steps",
            "sudo sysctl kernel.numa_balancing=0",
        ),
    }
}

/// Huge pages that somebody has reserved.
pub(super) fn huge_pages(root: &Root) -> Check {
    const NAME: &str = "huge pages";
    let pools = pools(root, "sys/kernel/mm/hugepages");
    if pools.is_empty() {
        return Check::unknown(NAME, "the system does not say");
    }
    let pool = |pool: &crate::topology::HugePages| {
        format!("{} of {} free of {}", pool.free, pool.total, HumanBytes(pool.page_bytes))
    };
    // Not being reserved is no fault: without a wish for them nothing uses them.
    Check::good(NAME, pools.iter().map(pool).collect::<Vec<_>>().join(", "))
}

/// Whether large allocations may get huge pages without reserving them.
pub(super) fn transparent_huge_pages(root: &Root) -> Check {
    const NAME: &str = "transparent huge pages";
    let Some(enabled) = root.text(format!("{THP}/enabled")).as_deref().and_then(chosen) else {
        return Check::unknown(NAME, "the system does not say");
    };
    let shared = root.text(format!("{THP}/shmem_enabled")).as_deref().and_then(chosen);
    let shared = shared.unwrap_or_else(|| "unknown".to_owned());
    let found = format!("{enabled}, for shared memory {shared}");
    if enabled == "never" {
        return Check::slower(
            NAME,
            found,
            "weights and index lie in small pages: more of each step goes into address translation",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        );
    }
    Check::good(NAME, found)
}

/// Which of `always [madvise] never` is in brackets.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("madvise"), None);
    }
}
