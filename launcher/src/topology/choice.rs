//! Who runs where, and why.

use serde::Serialize;

use super::{Core, CpuList, Node, Topology};
use crate::error::{Error, Exit};

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// `--threads`: CPUs to use in all, the indexer's among them.
    pub threads: Option<usize>,
    /// `--indexer-core`.
    pub indexer_core: Option<u32>,
}

/// A choice and its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chosen<T> {
    /// What was chosen.
    pub value: T,
    /// Why.
    pub reason: String,
}

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The CPU of the indexer.
    pub indexer_core: Chosen<u32>,
    /// The CPUs of the worker's decode threads.
    pub worker_cpus: Chosen<CpuList>,
    /// The node that the arena's memory comes from: that of the core which touches it first.
    pub arena_node: Chosen<u32>,
    /// Threads of prefill, during which the indexer's core is shared: it has little to do.
    pub prefill_threads: usize,
    /// Whether decode uses the indexer's CPU, too, while the indexer sleeps.
    pub lends_core: bool,
}

impl Choice {
    /// The indexer's CPU, if decode may borrow it.
    #[must_use]
    pub fn lent_core(&self) -> Option<u32> {
        self.lends_core.then_some(self.indexer_core.value)
    }
}

/// Cores within this share of the fastest count as fast: turbo clocks differ a little from core to core.
const FAST_PERCENT: u64 = 90;
/// Nodes with this share of the largest memory count as equal: the kernel keeps some of the first node's for itself.
const EQUAL_PERCENT: u64 = 90;

impl Topology {
    /// Gives the indexer a core of its own and the worker the others.
    ///
    /// # Errors
    /// A core that was asked for is not this process's to use, or there are fewer CPUs than threads.
    pub fn choose(&self, request: Request) -> Result<Choice, Error> {
        let (node, indexer_core) = match request.indexer_core {
            Some(core) => self.named_core(core)?,
            None => self.default_core()?,
        };
        let arena_node = self.arena_node(node);
        let all = self.allowed_cpus.len();
        let cores = self.nodes.iter().flat_map(Node::usable_cores).count();
        let threads = request.threads.unwrap_or(cores);
        if threads == 0 || threads > all {
            let message = format!("--threads {threads}: there are {all} CPUs");
            return Err(self.refused("no_such_threads", message));
        }
        let mut worker = self.worker_order(indexer_core.value, arena_node.value);
        worker.truncate(threads - 1);
        let lends_core = !worker.is_empty();
        if !lends_core {
            worker.push(indexer_core.value);
        }
        let reason = worker_reason(&request, worker.len(), cores, indexer_core.value == worker[0]);
        let worker_cpus = Chosen { value: worker.into_iter().collect(), reason };
        Ok(Choice { indexer_core, worker_cpus, arena_node, prefill_threads: threads, lends_core })
    }

    fn refused(&self, kind: &'static str, message: String) -> Error {
        let hint = format!("this process may use the CPUs {}", self.allowed_cpus);
        Error::new(Exit::Placement, kind, message).with_hint(hint)
    }

    fn named_core(&self, cpu: u32) -> Result<(&Node, Chosen<u32>), Error> {
        let place = self.allowed_cpus.contains(cpu).then(|| self.core_of(cpu)).flatten();
        let Some((node, _)) = place else {
            let message = format!("--indexer-core {cpu}: no such core for this process");
            return Err(self.refused("no_such_core", message));
        };
        Ok((node, Chosen { value: cpu, reason: "--indexer-core".to_owned() }))
    }

    /// The last fast core of the node of the GPU, or else of the last of the nodes with the most memory.
    fn default_core(&self) -> Result<(&Node, Chosen<u32>), Error> {
        let (node, why) = self.default_node()?;
        let cores: Vec<&Core> = node.usable_cores().collect();
        let fastest = cores.iter().filter_map(|core| core.capacity).max().unwrap_or(0);
        let fast = |core: &&&Core| {
            core.capacity
                .is_none_or(|own| own.saturating_mul(100) >= fastest.saturating_mul(FAST_PERCENT))
        };
        let last = cores.iter().rev().find(fast).or(cores.last());
        let core = last.ok_or_else(|| self.no_cores())?;
        let cpu = core.usable.as_slice()[0];
        let kind = if cores.iter().all(|core| fast(&core)) { "core" } else { "fast core" };
        let idle = core.usable.as_slice()[1..].iter().copied().collect::<CpuList>();
        let idle = if idle.is_empty() {
            String::new()
        } else {
            format!("; its SMT sibling {idle} stays idle")
        };
        Ok((node, Chosen { value: cpu, reason: format!("the last {kind} of {why}{idle}") }))
    }

    fn no_cores(&self) -> Error {
        self.refused("no_cores", "no core is known to be usable".to_owned())
    }

    fn default_node(&self) -> Result<(&Node, String), Error> {
        let usable = |node: &&Node| node.usable_cores().next().is_some();
        let nodes: Vec<&Node> = self.nodes.iter().filter(usable).collect();
        for gpu in &self.gpus {
            if let Some(node) = nodes.iter().find(|node| gpu.node == Some(node.id)) {
                return Ok((node, format!("node {}, which is GPU {}'s", node.id, gpu.address)));
            }
        }
        if let [only] = nodes[..] {
            return Ok((only, "the only node with usable cores".to_owned()));
        }
        let memory = |node: &Node| if node.memory_allowed { node.memory_bytes } else { 0 };
        let most = nodes.iter().map(|node| memory(node)).max().unwrap_or(0);
        let equal =
            |node: &&&Node| memory(node).saturating_mul(100) >= most.saturating_mul(EQUAL_PERCENT);
        let node = nodes.iter().rev().find(equal).ok_or_else(|| self.no_cores())?;
        Ok((node, format!("node {}, the last of those with the most memory", node.id)))
    }

    /// The node itself, or where it has no memory the nearest that has.
    fn arena_node(&self, indexer: &Node) -> Chosen<u32> {
        if indexer.holds_memory() {
            return Chosen { value: indexer.id, reason: "the indexer's own node".to_owned() };
        }
        let with_memory = self.nodes.iter().filter(|node| node.holds_memory());
        match with_memory.min_by_key(|node| (self.distance(indexer, node), node.id)) {
            Some(node) => {
                let lacks =
                    if indexer.memory_bytes == 0 { "has no memory" } else { "may not be used" };
                let reason = format!("the nearest with memory: node {} {lacks}", indexer.id);
                Chosen { value: node.id, reason }
            }
            None => {
                Chosen { value: indexer.id, reason: "no node is known to have memory".to_owned() }
            }
        }
    }

    /// CPUs of the worker in the order in which they are taken: one of each other core, those near the arena first;
    /// then their SMT siblings; at last those of the indexer's own core.
    fn worker_order(&self, indexer: u32, arena: u32) -> Vec<u32> {
        let mut order: Vec<((bool, usize, u32), u32)> = Vec::new();
        for node in &self.nodes {
            let distance = self.node(arena).map_or(0, |arena| self.distance(node, arena));
            for core in node.usable_cores() {
                let shared = core.cpus.contains(indexer);
                let cpus = core.usable.as_slice().iter().enumerate();
                order.extend(cpus.map(|(thread, &cpu)| ((shared, thread, distance), cpu)));
            }
        }
        order.sort_unstable();
        order.into_iter().map(|(_, cpu)| cpu).filter(|&cpu| cpu != indexer).collect()
    }
}

fn worker_reason(request: &Request, count: usize, cores: usize, shares: bool) -> String {
    if shares {
        return "no other CPU is left: it shares the indexer's".to_owned();
    }
    match request.threads {
        Some(threads) => format!("--threads {threads}, the indexer's among them"),
        None if cores == 1 => "the SMT sibling of the only core".to_owned(),
        None if count + 1 == cores => "one CPU of each other core".to_owned(),
        None => "the other CPUs".to_owned(),
    }
}
