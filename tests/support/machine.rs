//! Copies of `sys` and `proc` of machines that are not here.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// A machine made of equal nodes.
#[derive(Clone, Copy)]
pub struct Shape {
    pub sockets: u32,
    pub nodes_per_socket: u32,
    pub cores_per_node: u32,
    pub threads_per_core: u32,
    /// Number of the CPU that is thread `.1` of core `.0`, counted over all nodes.
    pub number: fn(u32, u32) -> u32,
    pub gib_per_node: u64,
    pub cores_per_l3: u32,
    pub l3: &'static str,
}

/// A directory that looks like a machine.
pub struct Machine {
    directory: TempDir,
}

impl Machine {
    /// An 8-core laptop, SMT siblings side by side.
    pub fn laptop() -> Self {
        Self::new(Shape {
            sockets: 1,
            nodes_per_socket: 1,
            cores_per_node: 8,
            threads_per_core: 2,
            number: |core, thread| 2 * core + thread,
            gib_per_node: 32,
            cores_per_l3: 8,
            l3: "16384K",
        })
    }

    /// Two sockets of 8 cores, CPUs dealt out to the sockets in turn, and a GPU on the first socket's node.
    pub fn two_socket_xeon() -> Self {
        let machine = Self::new(Shape {
            sockets: 2,
            nodes_per_socket: 1,
            cores_per_node: 8,
            threads_per_core: 2,
            number: |core, thread| core % 8 * 2 + core / 8 + 16 * thread,
            gib_per_node: 96,
            cores_per_l3: 8,
            l3: "33792K",
        });
        machine.gpu("0000:3b:00.0", "0", ["8.0 GT/s PCIe", "16"], ["16.0 GT/s PCIe", "16"]);
        machine.file(
            "proc/driver/nvidia/gpus/0000:3b:00.0/information",
            "Model: \t\t NVIDIA A30\nIRQ:   \t\t 91\n",
        );
        machine
    }

    /// Two sockets of four nodes of 8 cores, an L3 for every 4 of them.
    pub fn epyc_four_nodes_a_socket() -> Self {
        Self::new(Shape {
            sockets: 2,
            nodes_per_socket: 4,
            cores_per_node: 8,
            threads_per_core: 2,
            number: |core, thread| core + 64 * thread,
            gib_per_node: 64,
            cores_per_l3: 4,
            l3: "16384K",
        })
    }

    /// Two nodes, all memory on the first: the second's channels are empty, and the kernel allows no memory of it to anybody.
    pub fn node_without_memory() -> Self {
        let machine = Self::new(Shape {
            sockets: 1,
            nodes_per_socket: 2,
            cores_per_node: 4,
            threads_per_core: 1,
            number: |core, _| core,
            gib_per_node: 16,
            cores_per_l3: 4,
            l3: "8192K",
        });
        machine.memory(1, 0);
        machine.allow("0-7", "0");
        machine
    }

    /// What a container on the two-socket Xeon sees that may use three CPUs of the second node, its memory, and 8 GiB.
    pub fn container() -> Self {
        let machine = Self::two_socket_xeon();
        machine.allow("3,5,19", "1");
        machine.file("proc/self/cgroup", "0::/\n");
        machine.file("sys/fs/cgroup/memory.max", &(8_u64 << 30).to_string());
        machine.file("sys/fs/cgroup/memory.current", &(3_u64 << 30).to_string());
        machine.file("sys/fs/cgroup/memory.stat", &format!("inactive_file {}\n", 1_u64 << 30));
        machine
    }

    /// A machine of equal nodes, all of it usable.
    pub fn new(shape: Shape) -> Self {
        let machine = Self { directory: TempDir::new().unwrap() };
        let nodes = shape.sockets * shape.nodes_per_socket;
        for node in 0..nodes {
            machine.node(&shape, node, nodes);
        }
        let cores = nodes * shape.cores_per_node;
        let all = format!("0-{}", cores * shape.threads_per_core - 1);
        machine.file("sys/devices/system/cpu/online", &all);
        machine.allow(&all, &format!("0-{}", nodes - 1));
        machine.file("proc/cpuinfo", "processor\t: 0\nmodel name\t: Imagined Processor\n");
        let kib = (u64::from(nodes) * shape.gib_per_node) << 20;
        machine.file("proc/meminfo", &format!("MemTotal: {kib} kB\nMemAvailable: {kib} kB\n"));
        machine
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file, with a line end as the kernel does.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    /// Removes a file or a directory.
    pub fn remove(&self, path: &str) {
        let path = self.directory.path().join(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    /// Says which CPUs and which nodes' memory the process may use.
    pub fn allow(&self, cpus: &str, nodes: &str) {
        let status =
            format!("Name:\thindsight\nCpus_allowed_list:\t{cpus}\nMems_allowed_list:\t{nodes}");
        self.file("proc/self/status", &status);
    }

    /// Puts a GPU in; `now` and `max` are speed and width of its link.
    pub fn gpu(&self, address: &str, node: &str, now: [&str; 2], max: [&str; 2]) {
        let directory = format!("sys/bus/pci/devices/{address}");
        for (file, text) in [
            ("vendor", "0x10de"),
            ("class", "0x030200"),
            ("numa_node", node),
            ("current_link_speed", now[0]),
            ("current_link_width", now[1]),
            ("max_link_speed", max[0]),
            ("max_link_width", max[1]),
        ] {
            self.file(&format!("{directory}/{file}"), text);
        }
    }

    fn memory(&self, node: u32, kib: u64) {
        let free = kib / 2;
        let text = format!("Node {node} MemTotal:  {kib} kB\nNode {node} MemFree:  {free} kB");
        self.file(&format!("sys/devices/system/node/node{node}/meminfo"), &text);
    }

    fn node(&self, shape: &Shape, node: u32, nodes: u32) {
        let cores = node * shape.cores_per_node..(node + 1) * shape.cores_per_node;
        let cpus = |cores: std::ops::Range<u32>| -> String {
            let threads =
                cores.flat_map(|core| (0..shape.threads_per_core).map(move |t| (core, t)));
            let numbers = threads.map(|(core, thread)| (shape.number)(core, thread).to_string());
            numbers.collect::<Vec<_>>().join(",")
        };
        let directory = format!("sys/devices/system/node/node{node}");
        self.file(&format!("{directory}/cpulist"), &cpus(cores.clone()));
        let socket = |node: u32| node / shape.nodes_per_socket;
        let distance = |other: u32| match other {
            other if other == node => "10",
            other if socket(other) == socket(node) => "12",
            _ => "32",
        };
        let distances: Vec<&str> = (0..nodes).map(distance).collect();
        self.file(&format!("{directory}/distance"), &distances.join(" "));
        // The kernel keeps some of the first node's memory for itself.
        self.memory(node, (shape.gib_per_node << 20) - if node == 0 { 1 << 18 } else { 0 });
        for core in cores {
            let siblings = cpus(core..core + 1);
            let first = core / shape.cores_per_l3 * shape.cores_per_l3;
            let sharing = cpus(first..first + shape.cores_per_l3);
            for thread in 0..shape.threads_per_core {
                let cpu = format!("sys/devices/system/cpu/cpu{}", (shape.number)(core, thread));
                self.file(&format!("{cpu}/topology/core_cpus_list"), &siblings);
                self.file(
                    &format!("{cpu}/topology/physical_package_id"),
                    &socket(node).to_string(),
                );
                for (index, level, kind, size, shared) in [
                    (0, "1", "Data", "32K", &siblings),
                    (1, "1", "Instruction", "32K", &siblings),
                    (2, "2", "Unified", "1024K", &siblings),
                    (3, "3", "Unified", shape.l3, &sharing),
                ] {
                    let cache = format!("{cpu}/cache/index{index}");
                    self.file(&format!("{cache}/level"), level);
                    self.file(&format!("{cache}/type"), kind);
                    self.file(&format!("{cache}/size"), size);
                    self.file(&format!("{cache}/shared_cpu_list"), shared);
                }
            }
        }
    }
}
