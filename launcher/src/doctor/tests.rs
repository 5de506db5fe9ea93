//! Machines in good and in bad order.

use super::*;
use crate::topology::machine::Machine;

const GOOD: &[(&str, &str)] = &[
    (
        "proc/cpuinfo",
        "model name : Imagined\nflags : fpu avx2 fma f16c avx512f avx512bw avx512vl avx512dq avx512_bf16",
    ),
    (
        "proc/self/limits",
        "Max locked memory         8388608              8388608              bytes",
    ),
    ("proc/sys/kernel/numa_balancing", "0"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
    (
        "sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always within_size [advise] never deny force",
    ),
    ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8"),
    ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "5"),
    ("dev/shm/.keep", ""),
];

fn well(machine: &Machine) {
    for (path, text) in GOOD {
        machine.file(path, text);
    }
    for cpu in 0..32 {
        let path = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        machine.file(&path, "performance");
    }
}

fn findings(machine: &Machine) -> Findings {
    examine(&Root::copy(machine.path().to_owned()))
}

/// The checks that did not come out well, each with its name.
fn faults(machine: &Machine) -> Vec<(&'static str, State)> {
    let checks = findings(machine).checks.into_iter();
    checks.filter(|check| check.state != State::Good).map(|c| (c.name, c.state)).collect()
}

fn check(machine: &Machine, name: &str) -> Check {
    findings(machine).checks.into_iter().find(|check| check.name == name).unwrap()
}

#[test]
fn a_laptop_in_good_order_has_nothing_to_mend() {
    let machine = Machine::laptop();
    well(&machine);
    assert_eq!(faults(&machine), []);
    let findings = findings(&machine);
    assert_eq!((findings.worst, findings.exit()), (State::Good, Exit::Success));
    assert!(check(&machine, "cpu features").found.contains("AVX-512"));
    assert_eq!(check(&machine, "huge pages").found, "5 of 8 free of 2.00 MiB");
}

/// Each change makes one check come out as stated, and no other.
#[test]
fn each_fault_is_found_with_its_consequence_and_its_cure() {
    let faults_of: &[(&str, &str, &str, State)] = &[
        ("proc/cpuinfo", "flags : fpu sse2", "cpu features", State::Slower),
        ("proc/self/status", "Cpus_allowed_list:\t4-5", "cores", State::Slower),
        ("sys/fs/cgroup/cpu.max", "250000 100000", "cpu quota", State::Slower),
        (
            "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor",
            "powersave",
            "governor",
            State::Slower,
        ),
        ("proc/meminfo", "MemAvailable: 500000 kB", "memory", State::Slower),
        (
            "sys/kernel/mm/transparent_hugepage/enabled",
            "always madvise [never]",
            "transparent huge pages",
            State::Slower,
        ),
    ];
    for &(path, text, name, state) in faults_of {
        let machine = Machine::laptop();
        well(&machine);
        machine.file("proc/self/cgroup", "0::/");
        machine.file(path, text);
        assert_eq!(faults(&machine), [(name, state)], "{path}");
        let check = check(&machine, name);
        assert!(check.consequence.is_some() && check.mend.is_some(), "{check:?}");
        assert_eq!(findings(&machine).exit(), Exit::Slower);
    }
}

#[test]
fn without_shared_memory_runs_are_broken() {
    let machine = Machine::laptop();
    well(&machine);
    machine.remove("dev");
    assert_eq!(faults(&machine), [("/dev/shm", State::Broken)]);
    assert_eq!(findings(&machine).exit(), Exit::Broken);
}

#[test]
fn what_the_system_does_not_say_is_not_guessed() {
    let machine = Machine::laptop();
    well(&machine);
    for path in
        ["proc/self/limits", "sys/kernel/mm/transparent_hugepage", "sys/kernel/mm/hugepages"]
    {
        machine.remove(path);
    }
    let unknown = |name| (name, State::Unknown);
    let expected =
        [unknown("huge pages"), unknown("transparent huge pages"), unknown("locked memory")];
    assert_eq!(faults(&machine), expected);
    assert_eq!(findings(&machine).exit(), Exit::Success);
}

#[test]
fn a_gpu_wants_its_driver_its_lanes_and_memory_that_can_be_locked() {
    let machine = Machine::two_socket_xeon();
    well(&machine);
    let slower = |name| (name, State::Slower);
    assert_eq!(faults(&machine), [slower("locked memory"), slower("gpu driver")]);
    machine.file("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX  Kernel Module  580.1");
    machine.file("sys/bus/pci/devices/0000:3b:00.0/current_link_width", "8");
    machine.file("proc/sys/kernel/numa_balancing", "1");
    let expected = [slower("numa balancing"), slower("locked memory"), slower("gpu link")];
    assert_eq!(faults(&machine), expected);
    let link = check(&machine, "gpu link");
    assert!(link.found.contains("8 of 16 lanes"), "{link:?}");
}

#[test]
fn an_indexer_without_memory_of_its_own_node_is_told() {
    let machine = Machine::node_without_memory();
    well(&machine);
    assert_eq!(faults(&machine), []);
    machine.allow("4-7", "0");
    assert_eq!(faults(&machine), [("numa", State::Slower)]);
}

#[test]
fn an_empty_directory_is_no_machine() {
    let nothing = tempfile::tempdir().unwrap();
    let findings = examine(&Root::copy(nothing.path().to_owned()));
    assert_eq!(findings.exit(), Exit::Broken);
}
