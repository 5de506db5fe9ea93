//! Machines that are not here, read from copies of what they say of themselves.

use hindsight_protocol::scheduling::Priority;

use super::*;
use crate::error::Exit;
use machine::Machine;

fn read(machine: &Machine) -> Topology {
    Topology::read(&Root::copy(machine.path().to_owned()))
}

const ANYWHERE: Request = Request {
    threads: None,
    indexer_core: None,
    indexer_node: None,
    worker_cpus: None,
    arena_node: None,
    placement: Placement::Auto,
    indexer_priority: Priority::Normal,
};

fn choice(machine: &Machine, request: Request) -> Choice {
    read(machine).choose(&request).unwrap()
}

/// Indexer's core, worker's CPUs, arena's node.
fn placed(machine: &Machine, request: Request) -> (u32, String, u32) {
    let choice = choice(machine, request);
    (choice.indexer_core.value, choice.worker_cpus.value.to_string(), choice.arena_node.value)
}

#[test]
fn a_laptop_has_one_node_and_its_last_core_indexes_without_its_sibling() {
    let machine = Machine::laptop();
    let topology = read(&machine);
    assert_eq!(topology.processor.as_deref(), Some("Imagined Processor"));
    assert_eq!((topology.nodes.len(), topology.nodes[0].cores.len()), (1, 8));
    assert_eq!(topology.nodes[0].cores[7].cpus.to_string(), "14-15");
    let l3: Vec<_> = topology.caches.iter().filter(|cache| cache.level == 3).collect();
    assert_eq!((l3.len(), l3[0].bytes, l3[0].cpus.to_string()), (1, 16 << 20, "0-15".to_owned()));
    assert_eq!(topology.caches.iter().filter(|cache| cache.level == 1).count(), 8);
    assert_eq!(placed(&machine, ANYWHERE), (14, "0,2,4,6,8,10,12".to_owned(), 0));
    assert_eq!(choice(&machine, ANYWHERE).prefill_threads, 8);
}

#[test]
fn of_fast_and_slow_cores_the_indexer_has_a_fast_one() {
    let machine = Machine::laptop();
    for cpu in 0..16 {
        let frequency = if cpu < 8 { 5_000_000 - cpu * 10_000 } else { 3_800_000 };
        let path = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq");
        machine.file(&path, &frequency.to_string());
    }
    let choice = choice(&machine, ANYWHERE);
    assert_eq!(choice.indexer_core.value, 6);
    assert!(choice.indexer_core.reason.contains("last fast core"), "{choice:?}");
}

#[test]
fn on_a_two_socket_xeon_the_indexer_goes_where_the_gpu_is() {
    let machine = Machine::two_socket_xeon();
    let topology = read(&machine);
    let gpu = &topology.gpus[0];
    assert_eq!((gpu.node, gpu.name.as_deref()), (Some(0), Some("NVIDIA A30")));
    let generations = (gpu.link.unwrap().generation, gpu.link_max.unwrap().generation);
    assert_eq!(generations, (3, 4));
    assert_eq!(topology.nodes[1].cores[0].cpus.to_string(), "1,17");
    let (core, workers, arena) = placed(&machine, ANYWHERE);
    assert_eq!((core, workers.as_str(), arena), (14, "0-13,15", 0));
    let reason = choice(&machine, ANYWHERE).indexer_core.reason;
    assert!(reason.contains("GPU 0000:3b:00.0") && reason.contains("sibling 30"), "{reason}");
}

#[test]
fn without_a_gpu_the_last_of_equal_nodes_is_taken_and_few_threads_stay_near() {
    let machine = Machine::epyc_four_nodes_a_socket();
    let topology = read(&machine);
    assert_eq!(topology.nodes.len(), 8);
    assert_eq!(topology.nodes[5].cores[0].socket, Some(1));
    assert_eq!(topology.nodes[5].distances, [32, 32, 32, 32, 12, 10, 12, 12]);
    assert_eq!(topology.caches.iter().filter(|cache| cache.level == 3).count(), 16);
    assert_eq!(placed(&machine, ANYWHERE), (63, "0-62".to_owned(), 7));
    let eight = Request { threads: Some(8), ..ANYWHERE };
    assert_eq!(placed(&machine, eight), (63, "56-62".to_owned(), 7));
    let seventy = Request { threads: Some(70), ..ANYWHERE };
    assert_eq!(placed(&machine, seventy), (63, "0-62,120-125".to_owned(), 7));
}

#[test]
fn a_node_without_memory_keeps_no_arena() {
    let machine = Machine::node_without_memory();
    assert_eq!(placed(&machine, ANYWHERE), (3, "0-2,4-7".to_owned(), 0));
    let named = Request { indexer_core: Some(6), ..ANYWHERE };
    assert_eq!(placed(&machine, named.clone()), (6, "0-5,7".to_owned(), 0));
    let reason = choice(&machine, named).arena_node.reason;
    assert!(reason.contains("node 1 has no memory"), "{reason}");
}

#[test]
fn a_container_uses_what_it_may_and_nothing_else() {
    let machine = Machine::container();
    let topology = read(&machine);
    assert_eq!(topology.allowed_cpus.to_string(), "3,5,19");
    assert_eq!((topology.nodes[0].memory_allowed, topology.nodes[1].memory_allowed), (false, true));
    let limit = topology.memory_limit.unwrap();
    assert_eq!((limit.bytes, limit.left_bytes), (8 << 30, 6 << 30));
    // Cores 3/19 and 5/21 of the second node; of the second, the sibling is not this container's.
    assert_eq!(placed(&machine, ANYWHERE), (5, "3".to_owned(), 1));
    assert_eq!(placed(&machine, Request { threads: Some(3), ..ANYWHERE }).1, "3,19");
}

#[test]
fn where_the_system_tells_of_no_nodes_there_is_one() {
    let machine = Machine::laptop();
    machine.remove("sys");
    machine.allow("4-5", "0");
    let topology = read(&machine);
    assert_eq!((topology.nodes.len(), topology.nodes[0].cores.len()), (1, 2));
    assert_eq!(topology.nodes[0].memory_bytes, 32 << 30);
    assert_eq!(placed(&machine, ANYWHERE), (5, "4".to_owned(), 0));
}

#[test]
fn cores_that_no_node_claims_are_not_lost() {
    let machine = Machine::laptop();
    machine.file("sys/devices/system/node/node0/cpulist", "");
    assert_eq!(placed(&machine, ANYWHERE).0, 14);
}

#[test]
fn the_only_core_is_shared_with_the_worker() {
    let machine = Machine::laptop();
    machine.allow("6", "0");
    assert_eq!(placed(&machine, ANYWHERE), (6, "6".to_owned(), 0));
    machine.allow("6-7", "0");
    assert_eq!(placed(&machine, ANYWHERE), (6, "7".to_owned(), 0));
    let one = Request { threads: Some(1), ..ANYWHERE };
    assert_eq!(placed(&machine, one), (6, "6".to_owned(), 0));
}

#[test]
fn the_indexers_core_is_lent_to_a_worker_that_has_one_of_its_own_and_chose_none() {
    let machine = Machine::two_socket_xeon();
    let lent = |request| choice(&machine, request).lent_core();
    assert_eq!(lent(ANYWHERE), Some(14));
    assert_eq!(lent(Request { placement: Placement::SameNode, ..ANYWHERE }), Some(14));
    assert_eq!(lent(Request { placement: Placement::SeparateNode, ..ANYWHERE }), None);
    assert_eq!(lent(Request { threads: Some(1), ..ANYWHERE }), None);
    assert_eq!(lent(Request { worker_cpus: Some("0-3".parse().unwrap()), ..ANYWHERE }), None);
}

#[test]
fn cores_and_threads_that_do_not_exist_are_refused_with_those_that_do() {
    let topology = read(&Machine::container());
    for request in [
        Request { indexer_core: Some(7), ..ANYWHERE },
        Request { threads: Some(0), ..ANYWHERE },
        Request { threads: Some(4), ..ANYWHERE },
    ] {
        let error = topology.choose(&request).unwrap_err();
        assert_eq!(error.exit, Exit::Placement);
        assert!(error.hint.unwrap().contains("3,5,19"));
    }
    let nothing = tempfile::tempdir().unwrap();
    let nowhere = Topology::read(&Root::copy(nothing.path().to_owned()));
    assert_eq!(nowhere.choose(&ANYWHERE).unwrap_err().kind, "no_cores");
}

#[test]
fn a_node_that_is_named_has_the_indexer_and_its_arena() {
    let machine = Machine::two_socket_xeon();
    let named = Request { indexer_node: Some(1), ..ANYWHERE };
    assert_eq!(placed(&machine, named), (15, "0-14".to_owned(), 1));
    let apart = Request { indexer_node: Some(1), arena_node: Some(0), ..ANYWHERE };
    assert_eq!(placed(&machine, apart), (15, "0-14".to_owned(), 0));
}

#[test]
fn indexer_and_worker_share_a_node_or_have_one_each() {
    let machine = Machine::two_socket_xeon();
    let same = Request { placement: Placement::SameNode, ..ANYWHERE };
    assert_eq!(placed(&machine, same), (14, "0,2,4,6,8,10,12".to_owned(), 0));
    let separate = Request { placement: Placement::SeparateNode, ..ANYWHERE };
    let choice = choice(&machine, separate);
    assert_eq!(choice.indexer_core.value, 14);
    assert_eq!(choice.worker_cpus.value.to_string(), "1,3,5,7,9,11,13,15");
    assert_eq!(choice.prefill_threads, 8);
    assert_eq!(choice.prefill_cpus.unwrap().len(), 16);
}

#[test]
fn cpus_that_the_worker_has_by_name_are_not_the_indexers() {
    let machine = Machine::laptop();
    let named = |cpus: &str| Request { worker_cpus: Some(cpus.parse().unwrap()), ..ANYWHERE };
    assert_eq!(placed(&machine, named("10-15")), (8, "10-15".to_owned(), 0));
    assert_eq!(choice(&machine, named("10-15")).prefill_threads, 6);
    assert_eq!(placed(&machine, named("0-15")).0, 14);
}

#[test]
fn what_was_asked_for_by_name_and_is_not_there_is_refused() {
    let refused = |machine: &Machine, request: Request| {
        let error = read(machine).choose(&request).unwrap_err();
        assert_eq!(error.exit, Exit::Placement);
        assert!(error.hint.is_some(), "{error}");
        error.kind.into_owned()
    };
    let laptop = Machine::laptop();
    let separate = Request { placement: Placement::SeparateNode, ..ANYWHERE };
    assert_eq!(refused(&laptop, separate), "no_separate_node");
    let node = Request { indexer_node: Some(1), ..ANYWHERE };
    assert_eq!(refused(&laptop, node), "no_such_node");
    let worker = Request { worker_cpus: Some("15-16".parse().unwrap()), ..ANYWHERE };
    assert_eq!(refused(&laptop, worker), "no_such_worker_cpus");
    let both = Request { indexer_core: Some(14), indexer_node: Some(1), ..ANYWHERE };
    assert_eq!(refused(&Machine::two_socket_xeon(), both), "core_on_other_node");
    let bare = Request { arena_node: Some(1), ..ANYWHERE };
    assert_eq!(refused(&Machine::node_without_memory(), bare), "no_such_arena_node");
    let foreign = Request { arena_node: Some(0), ..ANYWHERE };
    assert_eq!(refused(&Machine::container(), foreign), "no_such_arena_node");
}
