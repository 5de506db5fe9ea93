//! Who runs where, and why.

use clap::ValueEnum;
use hindsight_protocol::scheduling::Priority;
use serde::Serialize;

use super::{Core, CpuList, Node, Topology};
use crate::error::{Error, Exit};

/// How indexer and worker share the nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// The worker on every node, nearest to the arena first
    #[default]
    Auto,
    /// The worker on the indexer's node, and on no other
    SameNode,
    /// The worker on every node but the indexer's
    SeparateNode,
}

/// What the user asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Request {
    /// `--threads`: CPUs to use in all, the indexer's among them.
    pub threads: Option<usize>,
    /// `--indexer-core`.
    pub indexer_core: Option<u32>,
    /// `--indexer-node`.
    pub indexer_node: Option<u32>,
    /// `--worker-cpus`.
    pub worker_cpus: Option<CpuList>,
    /// `--arena-node`.
    pub arena_node: Option<u32>,
    /// `--placement`.
    pub placement: Placement,
    /// `--indexer-priority`.
    pub indexer_priority: Priority,
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
    /// The node that the arena's memory comes from.
    pub arena_node: Chosen<u32>,
    /// Threads of prefill, during which the indexer's core may be shared: it has little to do.
    pub prefill_threads: usize,
    /// The CPUs that prefill keeps to; nothing where it may use all.
    pub prefill_cpus: Option<CpuList>,
    /// Whether decode uses the indexer's CPU, too, while the indexer sleeps.
    pub lends_core: bool,
    /// How much the indexer comes before others on its CPU.
    pub indexer_priority: Priority,
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
    /// A core or node that was asked for is not this process's to use, or there are fewer CPUs than threads.
    pub fn choose(&self, request: &Request) -> Result<Choice, Error> {
        let none = CpuList::default();
        let taken = request.worker_cpus.as_ref().unwrap_or(&none);
        let (node, indexer_core) = match (request.indexer_core, request.indexer_node) {
            (Some(core), node) => self.named_core(core, node)?,
            (None, Some(node)) => self.core_of_named_node(node, taken)?,
            (None, None) => self.default_core(taken)?,
        };
        let arena_node = match request.arena_node {
            Some(named) => self.named_arena_node(named)?,
            None => self.default_arena_node(node),
        };
        let worker = match &request.worker_cpus {
            Some(cpus) => self.named_worker(cpus)?,
            None => self.default_worker(request, node, indexer_core.value, arena_node.value)?,
        };
        let Worker { cpus: worker_cpus, prefill_threads, prefill_cpus, lends_core } = worker;
        Ok(Choice {
            indexer_core,
            worker_cpus,
            arena_node,
            prefill_threads,
            prefill_cpus,
            lends_core,
            indexer_priority: request.indexer_priority,
        })
    }

    fn refused(&self, kind: &'static str, message: String) -> Error {
        let hint = format!("this process may use the CPUs {}", self.allowed_cpus);
        Error::new(Exit::Placement, kind, message).with_hint(hint)
    }

    fn named_core(&self, cpu: u32, wanted: Option<u32>) -> Result<(&Node, Chosen<u32>), Error> {
        let place = self.allowed_cpus.contains(cpu).then(|| self.core_of(cpu)).flatten();
        let Some((node, _)) = place else {
            let message = format!("--indexer-core {cpu}: no such core for this process");
            return Err(self.refused("no_such_core", message));
        };
        if let Some(wanted) = wanted.filter(|&wanted| wanted != node.id) {
            let message = format!(
                "--indexer-core {cpu} is on node {}, not on --indexer-node {wanted}",
                node.id
            );
            return Err(Error::new(Exit::Placement, "core_on_other_node", message)
                .with_hint("name one of the two"));
        }
        Ok((node, Chosen { value: cpu, reason: "--indexer-core".to_owned() }))
    }

    fn core_of_named_node(&self, id: u32, taken: &CpuList) -> Result<(&Node, Chosen<u32>), Error> {
        let node = self.node(id).filter(|node| node.usable_cores().next().is_some());
        let node = node.ok_or_else(|| {
            let message = format!("--indexer-node {id}: no such node with cores for this process");
            self.refused("no_such_node", message)
        })?;
        self.last_core(node, &format!("--indexer-node {id}"), taken)
    }

    /// A core of the node of the GPU, or else of the last of the nodes with the most memory.
    fn default_core(&self, taken: &CpuList) -> Result<(&Node, Chosen<u32>), Error> {
        let (node, why) = self.default_node()?;
        self.last_core(node, &why, taken)
    }

    /// The last fast core of a node, if possible one of which the worker has taken nothing.
    fn last_core<'t>(
        &self,
        node: &'t Node,
        why: &str,
        taken: &CpuList,
    ) -> Result<(&'t Node, Chosen<u32>), Error> {
        let free = |core: &&Core| core.cpus.intersection(taken).is_empty();
        let mut cores: Vec<&Core> = node.usable_cores().filter(free).collect();
        if cores.is_empty() {
            cores = node.usable_cores().collect();
        }
        let fastest = cores.iter().filter_map(|core| core.capacity).max().unwrap_or(0);
        let fast = |core: &Core| {
            let share = |capacity: u64| capacity.saturating_mul(100) / FAST_PERCENT;
            core.capacity.is_none_or(|capacity| share(capacity) >= fastest)
        };
        let core = cores.iter().rev().find(|core| fast(core)).ok_or_else(|| self.no_cores())?;
        let kind = if cores.iter().all(|core| fast(core)) { "core" } else { "fast core" };
        let (cpu, idle) = core.usable.as_slice().split_first().ok_or_else(|| self.no_cores())?;
        let idle: CpuList = idle.iter().copied().filter(|&cpu| !taken.contains(cpu)).collect();
        let mut reason = format!("the last {kind} of {why}");
        if !idle.is_empty() {
            reason.push_str(&format!("; its SMT sibling {idle} stays idle"));
        }
        Ok((node, Chosen { value: *cpu, reason }))
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

    fn named_arena_node(&self, id: u32) -> Result<Chosen<u32>, Error> {
        if self.node(id).is_some_and(Node::holds_memory) {
            return Ok(Chosen { value: id, reason: "--arena-node".to_owned() });
        }
        let nodes = self.nodes.iter().filter(|node| node.holds_memory()).map(|node| node.id);
        let message = format!("--arena-node {id}: no such node with memory for this process");
        let hint = format!("nodes with memory: {}", nodes.collect::<CpuList>());
        Err(Error::new(Exit::Placement, "no_such_arena_node", message).with_hint(hint))
    }

    /// The node itself, or where it has no memory the nearest that has.
    fn default_arena_node(&self, indexer: &Node) -> Chosen<u32> {
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

    fn named_worker(&self, cpus: &CpuList) -> Result<Worker, Error> {
        if cpus.is_empty() || cpus.intersection(&self.allowed_cpus) != *cpus {
            let message = format!("--worker-cpus {cpus}: not all of them are this process's");
            return Err(self.refused("no_such_worker_cpus", message));
        }
        Ok(Worker {
            prefill_threads: cpus.len(),
            prefill_cpus: Some(cpus.clone()),
            lends_core: false,
            cpus: Chosen { value: cpus.clone(), reason: "--worker-cpus".to_owned() },
        })
    }

    fn default_worker(
        &self,
        request: &Request,
        home: &Node,
        indexer: u32,
        arena: u32,
    ) -> Result<Worker, Error> {
        let mine = |node: &&Node| match request.placement {
            Placement::Auto => true,
            Placement::SameNode => node.id == home.id,
            Placement::SeparateNode => node.id != home.id,
        };
        let nodes: Vec<&Node> = self.nodes.iter().filter(mine).collect();
        let apart = request.placement == Placement::SeparateNode;
        let mut order = self.worker_order(&nodes, indexer, arena);
        if apart && order.is_empty() {
            let message = format!(
                "--placement separate-node: no node but the indexer's, {}, has cores for this process",
                home.id
            );
            return Err(self.refused("no_separate_node", message));
        }
        let most = order.len() + 1;
        let cores = order.iter().filter(|place| !place.shared && place.thread == 0).count();
        // One CPU of each other core; the only core's sibling, if it has one.
        let default = cores.max(order.len().min(1));
        let threads = request.threads.unwrap_or(default + 1);
        if threads == 0 || threads > most {
            let message = format!("--threads {threads}: there are {most} CPUs");
            return Err(self.refused("no_such_threads", message));
        }
        order.truncate(threads - 1);
        let own = order.len();
        let mut cpus: Vec<u32> = order.into_iter().map(|place| place.cpu).collect();
        let lends_core = own > 0 && !apart;
        if cpus.is_empty() {
            cpus.push(indexer);
        }
        let reason = match (request.threads, request.placement) {
            _ if own == 0 => "no other CPU is left: it shares the indexer's".to_owned(),
            (Some(threads), _) => format!("--threads {threads}, the indexer's among them"),
            _ if cores == 0 => "the SMT sibling of the only core".to_owned(),
            (None, Placement::Auto) => "one CPU of each other core".to_owned(),
            (None, Placement::SameNode) => {
                "one CPU of each other core of the indexer's node".to_owned()
            }
            (None, Placement::SeparateNode) => "one CPU of each core of the other nodes".to_owned(),
        };
        let all = || nodes.iter().flat_map(|node| node.usable_cores());
        let all = || all().flat_map(|core| core.usable.as_slice()).copied().collect();
        Ok(Worker {
            prefill_threads: if apart { cpus.len() } else { threads },
            lends_core,
            prefill_cpus: (request.placement != Placement::Auto).then(all),
            cpus: Chosen { value: cpus.into_iter().collect(), reason },
        })
    }

    /// CPUs of the worker in the order in which they are taken: one of each core but the indexer's, those near the arena
    /// first; then their SMT siblings; at last those of the indexer's own core.
    fn worker_order(&self, nodes: &[&Node], indexer: u32, arena: u32) -> Vec<WorkerCpu> {
        let mut order: Vec<WorkerCpu> = Vec::new();
        for node in nodes {
            let distance = self.node(arena).map_or(0, |arena| self.distance(node, arena));
            for core in node.usable_cores() {
                let shared = core.cpus.contains(indexer);
                let cpus = core.usable.as_slice().iter().enumerate();
                order.extend(cpus.map(|(thread, &cpu)| WorkerCpu {
                    shared,
                    thread,
                    distance,
                    cpu,
                }));
            }
        }
        order.retain(|place| place.cpu != indexer);
        order.sort_unstable();
        order
    }
}

/// Where the worker runs.
struct Worker {
    cpus: Chosen<CpuList>,
    prefill_threads: usize,
    prefill_cpus: Option<CpuList>,
    lends_core: bool,
}

/// A CPU that the worker may take; the least is taken first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct WorkerCpu {
    /// Whether it belongs to the indexer's core.
    shared: bool,
    /// Its number within its core.
    thread: usize,
    /// How far it is from the arena.
    distance: u32,
    cpu: u32,
}
