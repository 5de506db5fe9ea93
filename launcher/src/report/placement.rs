//! Where a run was placed: what was asked for, what was chosen, what it got, and what that costs.

use std::fmt;

use hindsight_protocol::scheduling::Priority;
use indicatif::HumanBytes;
use serde::Serialize;

use crate::plan::PageWish;
use crate::topology::{Choice, CpuList, Observed, Policy, Request, Topology};

/// Where a run was placed.
#[derive(Debug, Clone, Serialize)]
pub struct PlacementReport {
    asked: Asked,
    chosen: Choice,
    got: Observed,
    cost: Cost,
    warnings: Vec<String>,
}

/// The user's flags.
#[derive(Debug, Clone, Serialize)]
struct Asked {
    #[serde(flatten)]
    cores: Request,
    hugepages: PageWish,
}

/// What a placement costs.
#[derive(Debug, Clone, Serialize)]
struct Cost {
    /// CPUs that this process might use and leaves idle while it decodes.
    idle_cpus: CpuList,
    /// Bytes of the arena that are not on its node.
    remote_arena_bytes: u64,
    /// The CPU on which ordinary threads wait while the indexer is awake, if it runs before them.
    real_time_cpu: Option<u32>,
}

impl PlacementReport {
    /// Compares what was chosen with what the kernel says that it is. `refused` is why the arena's node could not be had,
    /// if it could not.
    #[must_use]
    pub fn new(
        (cores, hugepages): (Request, PageWish),
        chosen: Choice,
        topology: &Topology,
        got: Observed,
        refused: Option<String>,
    ) -> Self {
        let node = chosen.arena_node.value;
        let by_node = got.arena.arena_bytes_by_node.iter();
        let remote = by_node.filter(|&(&other, _)| other != node).map(|(_, &bytes)| bytes).sum();
        let busy = |cpu: u32| got.indexer_cpus.contains(cpu) || got.worker_cpus.contains(cpu);
        let idle = topology.allowed_cpus.as_slice().iter().copied().filter(|&cpu| !busy(cpu));
        let real_time = got.indexer_scheduling.is_some_and(|got| got.is_real_time());
        let cost = Cost {
            idle_cpus: idle.collect(),
            remote_arena_bytes: remote,
            real_time_cpu: real_time.then_some(chosen.indexer_core.value),
        };
        let mut warnings: Vec<String> = refused.into_iter().collect();
        if got.indexer_cpus.as_slice() != [chosen.indexer_core.value] {
            warnings.push(format!(
                "the indexer is to run on CPU {}, but may run on {}",
                chosen.indexer_core.value, got.indexer_cpus
            ));
        }
        let own = chosen.worker_cpus.value.as_slice().iter().copied();
        let decode: CpuList = own.chain(chosen.lent_core()).collect();
        if got.worker_cpus != decode {
            warnings.push(format!(
                "the worker is to decode on the CPUs {decode}, but may run on {}",
                got.worker_cpus
            ));
        }
        if remote > 0 {
            let remote = HumanBytes(remote);
            warnings.push(format!("{remote} of the arena are not on node {node}"));
        }
        if let Some(found) = got.indexer_scheduling
            && (chosen.indexer_priority == Priority::High) != found.is_real_time()
        {
            let wanted = match chosen.indexer_priority {
                Priority::Normal => "an ordinary",
                Priority::High => "a real-time",
            };
            warnings.push(format!("the indexer is to be {wanted} thread, but is {found}"));
        }
        if let Some(found) = got.borrower_scheduling
            && found.policy != Policy::Idle
        {
            warnings.push(format!(
                "the worker's thread on CPU {} is to give way to the indexer, but is scheduled as {found}",
                chosen.indexer_core.value
            ));
        }
        let huge = got.arena.arena_huge_bytes;
        if matches!(hugepages, PageWish::Huge2M | PageWish::Huge1G) && huge == 0 {
            warnings.push(
                "no part of the arena is in huge pages: the kernel had none to give".to_owned(),
            );
        }
        Self { asked: Asked { cores, hugepages }, chosen, got, cost, warnings }
    }
}

/// A line for people, and one for each warning.
impl fmt::Display for PlacementReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Observed { indexer_cpus, worker_cpus, arena, .. } = &self.got;
        write!(f, "placement indexer on CPU {indexer_cpus}")?;
        if self.cost.real_time_cpu.is_some() {
            f.write_str(" (before ordinary threads)")?;
        }
        write!(f, ", worker on {worker_cpus}")?;
        if let Some(lent) = self.chosen.lent_core() {
            write!(f, " ({lent} while the indexer sleeps)")?;
        }
        write!(f, ", arena on node {}", self.chosen.arena_node.value)?;
        if arena.arena_huge_bytes > 0 {
            let (huge, all) = (HumanBytes(arena.arena_huge_bytes), HumanBytes(arena.arena_bytes));
            write!(f, ", {huge} of the {all} touched in huge pages")?;
        }
        writeln!(f)?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning   {warning}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::machine::Machine;
    use crate::topology::{Root, Scheduling};

    fn report(got: &str, nodes: &[(u32, u64)], pages: PageWish) -> PlacementReport {
        report_of(Priority::Normal, [None; 2], got, nodes, pages)
    }

    fn report_of(
        indexer_priority: Priority,
        [indexer_scheduling, borrower_scheduling]: [Option<Scheduling>; 2],
        got: &str,
        nodes: &[(u32, u64)],
        pages: PageWish,
    ) -> PlacementReport {
        let machine = Machine::two_socket_xeon();
        let topology = Topology::read(&Root::copy(machine.path().to_owned()));
        let request = Request { indexer_priority, ..Request::default() };
        let chosen = topology.choose(&request).unwrap();
        let mut observed = Observed {
            indexer_cpus: got.parse().unwrap(),
            worker_cpus: "0-15".parse().unwrap(),
            indexer_scheduling,
            borrower_scheduling,
            arena: Default::default(),
        };
        observed.arena.arena_bytes_by_node = nodes.iter().copied().collect();
        PlacementReport::new((request, pages), chosen, &topology, observed, None)
    }

    #[test]
    fn what_was_chosen_and_got_costs_idle_siblings_and_warns_of_nothing() {
        let report = report("14", &[(0, 4096)], PageWish::Auto);
        assert_eq!(report.cost.idle_cpus.to_string(), "16-31");
        assert_eq!((report.cost.remote_arena_bytes, report.warnings.len()), (0, 0));
        let text = report.to_string();
        assert_eq!(
            text,
            "placement indexer on CPU 14, worker on 0-15 (14 while the indexer sleeps), arena on node 0\n"
        );
    }

    #[test]
    fn what_was_not_got_is_a_warning_each() {
        let report = report("14,30", &[(0, 4096), (1, 8192)], PageWish::Huge2M);
        assert_eq!(report.cost.remote_arena_bytes, 8192);
        let text = report.to_string();
        for part in ["may run on 14,30", "8.00 KiB of the arena are not on node 0", "huge pages"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(report.warnings.len(), 3);
    }
    fn scheduled(policy: Policy) -> Option<Scheduling> {
        Some(Scheduling { policy, nice: 0, real_time_priority: 0 })
    }

    #[test]
    fn what_the_kernel_made_of_a_priority_is_compared_with_what_was_asked() {
        let report = |priority, indexer, borrower| {
            let scheduling = [scheduled(indexer), scheduled(borrower)];
            report_of(priority, scheduling, "14", &[(0, 4096)], PageWish::Auto)
        };
        let got = report(Priority::High, Policy::RoundRobin, Policy::Idle);
        assert_eq!((got.cost.real_time_cpu, got.warnings.len()), (Some(14), 0));
        assert!(got.to_string().contains("CPU 14 (before ordinary threads)"), "{got}");
        let not_got = report(Priority::High, Policy::Other, Policy::Other).to_string();
        assert!(not_got.contains("to be a real-time thread, but is ordinary"), "{not_got}");
        assert!(not_got.contains("to give way to the indexer"), "{not_got}");
        let ordinary = report(Priority::Normal, Policy::Other, Policy::Idle);
        assert_eq!((ordinary.cost.real_time_cpu, ordinary.warnings.len()), (None, 0));
    }
}
