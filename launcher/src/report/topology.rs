//! A machine drawn for people.

use std::fmt::{self, Write};

use indicatif::HumanBytes;

use crate::topology::{Cache, Choice, Core, Gpu, Link, Node, Topology};

/// Columns that cells of cores may fill.
const WIDTH: usize = 64;

/// A machine, with the choice marked in it if there is one.
#[derive(Debug)]
pub struct Drawing<'t> {
    /// The machine.
    pub topology: &'t Topology,
    /// Who runs where.
    pub choice: Option<&'t Choice>,
}

impl fmt::Display for Drawing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Topology { processor, nodes, gpus, memory_limit, allowed_cpus, .. } = self.topology;
        let cores: Vec<&Core> = nodes.iter().flat_map(|node| &node.cores).collect();
        let cpus: usize = cores.iter().map(|core| core.cpus.len()).sum();
        let processor = processor.as_deref().unwrap_or("unknown processor");
        writeln!(
            f,
            "{processor}: {}, {}, {} of {cpus} CPUs usable",
            counted(nodes.len(), "node"),
            counted(cores.len(), "core"),
            allowed_cpus.len(),
        )?;
        if !self.topology.caches.is_empty() {
            writeln!(f, "caches {}", caches(&self.topology.caches))?;
        }
        if let Some(limit) = memory_limit {
            writeln!(
                f,
                "control group: {} of memory, {} left",
                HumanBytes(limit.bytes),
                HumanBytes(limit.left_bytes)
            )?;
        }
        for node in nodes {
            writeln!(f)?;
            self.node(f, node)?;
        }
        let homeless =
            gpus.iter().filter(|gpu| gpu.node.is_none_or(|id| self.topology.node(id).is_none()));
        for gpu in homeless {
            writeln!(f, "\n═ {}, near to no known node", gpu_text(gpu))?;
        }
        match self.choice {
            Some(choice) => write_choice(f, choice),
            None => Ok(()),
        }
    }
}

impl Drawing<'_> {
    fn node(&self, f: &mut fmt::Formatter<'_>, node: &Node) -> fmt::Result {
        write!(f, "╭─ node {}", node.id)?;
        if let Some(socket) = node.cores.first().and_then(|core| core.socket) {
            write!(f, ", socket {socket}")?;
        }
        match node.memory_bytes {
            0 => write!(f, ", no memory")?,
            bytes => write!(f, ", {} ({} free)", HumanBytes(bytes), HumanBytes(node.free_bytes))?,
        }
        if !node.memory_allowed {
            write!(f, ", not this process's")?;
        }
        for pool in node.huge_pages.iter().filter(|pool| pool.total > 0) {
            let size = HumanBytes(pool.page_bytes);
            write!(f, ", {} of {} pages of {size} free", pool.free, pool.total)?;
        }
        if self.choice.is_some_and(|choice| choice.arena_node.value == node.id) {
            write!(f, ", arena")?;
        }
        writeln!(f)?;
        let cells: Vec<String> = node.cores.iter().map(|core| self.cell(core)).collect();
        let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0) + 2;
        let same =
            |a: &(&Core, &String), b: &(&Core, &String)| self.shared(a.0) == self.shared(b.0);
        let pairs: Vec<(&Core, &String)> = node.cores.iter().zip(&cells).collect();
        for group in pairs.chunk_by(same) {
            let mut label = self.shared(group[0].0).map(cache).unwrap_or_default();
            for row in group.chunks((WIDTH / width).max(1)) {
                write!(f, "│ {label:<12}")?;
                for (_, cell) in row {
                    write!(f, "{cell:<width$}")?;
                }
                writeln!(f)?;
                label.clear();
            }
        }
        if node.cores.is_empty() {
            writeln!(f, "│ no cores")?;
        }
        for gpu in self.topology.gpus.iter().filter(|gpu| gpu.node == Some(node.id)) {
            writeln!(f, "╞═ {}", gpu_text(gpu))?;
        }
        writeln!(f, "╰─")
    }

    /// The largest cache that a core shares.
    fn shared(&self, core: &Core) -> Option<&Cache> {
        self.topology.caches.iter().rev().find(|cache| cache.cpus.contains(core.first_cpu()))
    }

    /// A core's CPUs, each with its mark.
    fn cell(&self, core: &Core) -> String {
        let mut cell = String::new();
        for (index, &cpu) in core.cpus.as_slice().iter().enumerate() {
            let slash = if index > 0 { "/" } else { "" };
            let usable = core.usable.contains(cpu);
            let mark = match self.choice {
                _ if !usable => 'x',
                Some(choice) if choice.indexer_core.value == cpu => 'I',
                Some(choice) if choice.worker_cpus.value.contains(cpu) => 'w',
                _ => '·',
            };
            // Writing to a string cannot fail.
            let _ = write!(cell, "{slash}{cpu}{mark}");
        }
        cell
    }
}

fn write_choice(f: &mut fmt::Formatter<'_>, choice: &Choice) -> fmt::Result {
    let Choice { indexer_core, worker_cpus, arena_node, .. } = choice;
    writeln!(f, "\nI indexer   w worker   · left idle   x not this process's\n")?;
    let width = worker_cpus.value.to_string().len().max(6);
    writeln!(f, "indexer  CPU  {:<width$}  {}", indexer_core.value, indexer_core.reason)?;
    writeln!(f, "worker   CPUs {:<width$}  {}", worker_cpus.value.to_string(), worker_cpus.reason)?;
    writeln!(f, "arena    node {:<width$}  {}", arena_node.value, arena_node.reason)
}

fn gpu_text(gpu: &Gpu) -> String {
    let name = gpu.name.as_deref().unwrap_or("NVIDIA GPU without its driver");
    let mut text = format!("GPU {} {name}", gpu.address);
    // Writing to a string cannot fail.
    let _ = match (gpu.link, gpu.link_max) {
        (Some(now), Some(max)) => write!(text, ", {} now, {} at most", link(now), link(max)),
        (Some(now), None) => write!(text, ", {} now", link(now)),
        (None, Some(max)) => write!(text, ", {} at most", link(max)),
        (None, None) => write!(text, ", link unknown"),
    };
    text
}

fn link(link: Link) -> String {
    format!("PCIe {}.0 x{} ({:.1} GB/s)", link.generation, link.width, link.gb_per_s)
}

fn cache(cache: &Cache) -> String {
    format!("L{} {}", cache.level, size(cache.bytes))
}

/// Caches come in whole KiB and MiB.
fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 18) {
        let quarters = bytes >> 18;
        let fraction = ["", ".25", ".5", ".75"][usize::from(quarters.to_le_bytes()[0] & 3)];
        format!("{}{fraction} MiB", bytes >> 20)
    } else {
        format!("{} KiB", bytes >> 10)
    }
}

/// How many caches of each level and size.
fn caches(caches: &[Cache]) -> String {
    let mut kinds: Vec<(u32, u64, usize)> = Vec::new();
    for &Cache { level, bytes, .. } in caches {
        match kinds.iter_mut().find(|kind| (kind.0, kind.1) == (level, bytes)) {
            Some(kind) => kind.2 += 1,
            None => kinds.push((level, bytes, 1)),
        }
    }
    let kind =
        |&(level, bytes, count): &(u32, u64, usize)| format!("L{level} {count} x {}", size(bytes));
    kinds.iter().map(kind).collect::<Vec<_>>().join(", ")
}

fn counted(count: usize, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_sizes_are_whole() {
        assert_eq!(size(48 << 10), "48 KiB");
        assert_eq!(size(5 << 18), "1.25 MiB");
        assert_eq!(size(32 << 20), "32 MiB");
    }
}
