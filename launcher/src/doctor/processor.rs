//! Instructions, cores, and how much of their time there is.

use super::Check;
use crate::topology::{CpuList, Node, Root, Topology, cgroup};

/// Which kernels the processor can run.
pub(super) fn features(root: &Root) -> Check {
    const NAME: &str = "cpu features";
    let Some(flags) = root.field("proc/cpuinfo", "flags") else {
        return match root.field("proc/cpuinfo", "Features") {
            Some(_) => plain("no x86 processor"),
            None => Check::unknown(NAME, "the system does not list them"),
        };
    };
    let has =
        |names: &[&str]| names.iter().all(|name| flags.split_whitespace().any(|f| f == *name));
    if !has(&["avx2", "fma", "f16c"]) {
        return plain("no AVX2, FMA and F16C");
    }
    if has(&["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"]) {
        return Check::good(NAME, "AVX-512 with BF16: the fastest kernels run");
    }
    Check::good(NAME, "AVX2: the second-fastest kernels run, AVX-512 with BF16 is not there")
}

fn plain(found: &str) -> Check {
    Check::slower(
        "cpu features",
        found,
        "kernels in plain Rust run, many times slower",
        "use a processor with AVX2 (in a virtual machine: pass the host's features on, as with `-cpu host`)",
    )
}

/// Whether indexer and worker have a core each.
pub(super) fn cores(topology: &Topology) -> Check {
    const NAME: &str = "cores";
    let cores = topology.nodes.iter().flat_map(Node::usable_cores).count();
    let cpus = topology.allowed_cpus.len();
    let found = format!("{cores} usable, with {cpus} CPUs ({})", topology.allowed_cpus);
    match cores {
        0 => Check::broken(
            NAME,
            "none is known to be usable",
            "nothing can be placed",
            "mount /proc and /sys",
        ),
        1 => Check::slower(
            NAME,
            found,
            "indexer and worker take turns on one core: each step waits for both",
            "give this process a second core (taskset -c 0,1 hindsight …; docker run --cpuset-cpus 0,1 …)",
        ),
        _ => Check::good(NAME, found),
    }
}

/// Whether a control group stops the processes for a part of each period.
pub(super) fn quota(root: &Root, topology: &Topology) -> Check {
    const NAME: &str = "cpu quota";
    let cpus = topology.allowed_cpus.len();
    match cgroup::cpu_quota(root) {
        #[expect(clippy::cast_precision_loss, reason = "machines have fewer than 2^52 CPUs")]
        Some(quota) if quota < cpus as f64 => Check::slower(
            NAME,
            format!("time of {quota:.1} CPUs, on {cpus}"),
            "the kernel stops all threads for the rest of each period once it is used up, the waiting ones that spin, too",
            "grant whole CPUs instead of time (docker run --cpuset-cpus …), or use fewer: hindsight run --threads N",
        ),
        Some(quota) => Check::good(NAME, format!("time of {quota:.1} CPUs, on {cpus}")),
        None => Check::good(NAME, "none"),
    }
}

/// Whether clocks follow the load.
pub(super) fn governor(root: &Root, topology: &Topology) -> Check {
    const NAME: &str = "governor";
    let governor =
        |cpu: u32| root.text(format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"));
    let cpus = topology.allowed_cpus.as_slice();
    let stated: Vec<(u32, String)> =
        cpus.iter().filter_map(|&cpu| Some((cpu, governor(cpu)?))).collect();
    let Some((_, first)) = stated.iter().find(|(_, name)| name != "performance") else {
        return if stated.is_empty() {
            Check::unknown(NAME, "the system shows no clock control, as in virtual machines")
        } else {
            Check::good(NAME, "performance")
        };
    };
    let slow: CpuList =
        stated.iter().filter(|(_, name)| name != "performance").map(|(cpu, _)| *cpu).collect();
    Check::slower(
        NAME,
        format!("{first} on the CPUs {slow}"),
        "clocks follow the load with a delay: steps are slower after each pause, and times vary",
        "sudo cpupower frequency-set -g performance",
    )
}
