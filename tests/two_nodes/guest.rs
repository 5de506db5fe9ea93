//! An emulated machine, and what its scenario printed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{book, model};

/// A NUMA node.
pub(crate) struct Node {
    /// Its CPUs, as a range.
    pub(crate) cpus: &'static str,
    /// Its memory; none is 0.
    pub(crate) bytes: u64,
}

/// What a scenario printed, section by section, in order.
pub(crate) struct Guest {
    sections: Vec<(String, String)>,
}

/// A run of Hindsight in the guest.
pub(crate) struct Run {
    name: String,
    exit: i32,
    /// What it printed with `--json`; null if it was refused.
    pub(crate) report: Value,
    errors: String,
    /// What the kernel said of its processes, time after time.
    seen: Vec<String>,
    /// What the nodes said of their memory before it began, and while it lasted.
    memory: Vec<String>,
}

/// A thread, as seen once.
#[derive(Debug)]
pub(crate) struct Thread {
    /// CPUs that it may run on.
    pub(crate) allowed: Vec<u32>,
    /// The CPU on which it ran last.
    pub(crate) last: u32,
}

/// A mapping of the arena, as seen once.
pub(crate) struct Mapping {
    /// The kernel's memory policy.
    pub(crate) policy: String,
    /// Bytes touched, by node.
    pub(crate) bytes_by_node: BTreeMap<u32, u64>,
    /// The whole line of `numa_maps`.
    pub(crate) line: String,
}

impl Guest {
    /// Boots a machine of these nodes, lets it run `scenario`.sh and waits for its end. `distances` are those between
    /// different nodes that are not 20.
    pub(crate) fn boot(scenario: &str, nodes: &[Node], distances: &[(usize, usize, u32)]) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/two_nodes");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("two_nodes").join(scenario);
        let prompt = folder.with_extension("prompt");
        std::fs::create_dir_all(prompt.parent().unwrap()).unwrap();
        std::fs::write(&prompt, book(500)).unwrap();
        let mut command = Command::new(here.join("boot"));
        command.arg(here.join(scenario).with_extension("sh")).arg(&folder).args([
            Path::new(env!("CARGO_BIN_EXE_hindsight")),
            model(),
            &prompt,
        ]);
        let bytes: u64 = nodes.iter().map(|node| node.bytes).sum();
        let cpus: usize = nodes.iter().map(|node| range(node.cpus).count()).sum();
        command.args(["-m", &format!("{}M", bytes >> 20), "-smp", &cpus.to_string()]);
        for (id, Node { cpus, bytes }) in nodes.iter().enumerate() {
            let mut node = format!("node,nodeid={id},cpus={cpus}");
            if *bytes > 0 {
                let object = format!("memory-backend-ram,id=memory{id},size={}M", bytes >> 20);
                command.args(["-object", &object]);
                node += &format!(",memdev=memory{id}");
            }
            command.args(["-numa", &node]);
        }
        for (from, to, distance) in distances {
            command.args(["-numa", &format!("dist,src={from},dst={to},val={distance}")]);
        }
        let status = command.status().unwrap();
        assert!(status.success(), "boot ended with {status}; it said why above");
        let printed = std::fs::read(folder.join("printed")).unwrap();
        let printed = String::from_utf8_lossy(&printed).replace('\r', "");
        let sections: Vec<(String, String)> = printed
            .split("@@ ")
            .skip(1)
            .filter_map(|section| section.split_once('\n'))
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect();
        let guest = Self { sections };
        assert!(guest.section("end after seconds").trim().parse::<f64>().is_ok());
        guest
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.sections.iter().filter(move |(other, _)| other == name).map(|(_, text)| text.as_str())
    }

    /// The text of a section.
    pub(crate) fn section(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_else(|| panic!("the guest printed no section {name}"))
    }

    /// A run of that name.
    pub(crate) fn run(&self, name: &str) -> Run {
        let part = |part: &str| self.section(&format!("{name}/{part}"));
        let all = |part: &str| self.all(&format!("{name}/{part}")).map(str::to_owned).collect();
        let mut memory = vec![part("memory before").to_owned()];
        memory.extend(self.all(&format!("{name}/memory")).map(str::to_owned));
        Run {
            name: name.to_owned(),
            exit: part("exit").trim().parse().unwrap(),
            report: serde_json::from_str(part("report")).unwrap_or_default(),
            errors: part("errors").to_owned(),
            seen: all("seen"),
            memory,
        }
    }
}

impl Run {
    /// How many warnings its report has; it must have one.
    pub(crate) fn warnings(&self) -> usize {
        assert_eq!(self.exit, 0, "{}: {}", self.name, self.errors);
        self.report["placement"]["warnings"].as_array().unwrap().len()
    }

    /// Why it was refused, with this exit code.
    pub(crate) fn refusal(&self, exit: i32) -> String {
        assert_eq!(self.exit, exit, "{}: {}", self.name, self.errors);
        let errors: Value = serde_json::from_str(self.errors.lines().last().unwrap()).unwrap();
        errors["error"]["kind"].as_str().unwrap().to_owned()
    }

    fn lines(&self, kind: &str) -> impl Iterator<Item = &str> {
        let lines = self.seen.iter().flat_map(|seen| seen.lines());
        lines.filter_map(move |line| line.strip_prefix(kind)?.strip_prefix(' '))
    }

    /// The threads of a process, each time that they were seen after the worker had touched keys and values: by then all
    /// threads are where they are to be.
    pub(crate) fn threads(&self, role: &str) -> impl Iterator<Item = Thread> {
        let thread = format!("thread {role} ");
        let settled = self.seen.iter().filter(|seen| {
            let mappings = seen.lines().filter(|line| line.starts_with("arena gpu-worker "));
            // The first that it touches is that of the rings.
            mappings.filter(|line| line.contains("kernelpagesize_kB")).count() > 1
        });
        settled.flat_map(|seen| seen.lines()).filter_map(move |line| {
            // The name, which may hold spaces, comes before the last two.
            let mut words = line.strip_prefix(&thread)?.rsplit(' ');
            let last = words.next().unwrap().parse().unwrap();
            let allowed = words.next().unwrap().split(',').flat_map(range).collect();
            Some(Thread { allowed, last })
        })
    }

    /// The mappings of the arena in worker and indexer, each time that they were seen.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = Mapping> {
        let lines = self.lines("arena").filter(|line| !line.starts_with("launcher"));
        lines.map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let pairs = || words.iter().filter_map(|word| word.split_once('='));
            let page = pairs().find(|(key, _)| *key == "kernelpagesize_kB");
            let page: u64 = page.map_or(0, |(_, kib)| kib.parse().unwrap());
            let node = |(key, pages): (&str, &str)| {
                let pages: u64 = pages.parse().ok()?;
                Some((key.strip_prefix('N')?.parse().ok()?, (pages * page) << 10))
            };
            Mapping {
                policy: words[2].to_owned(),
                bytes_by_node: pairs().filter_map(node).collect(),
                line: line.to_owned(),
            }
        })
    }

    /// By how many bytes a field of a node's memory, such as `Shmem`, grew at most.
    pub(crate) fn growth(&self, node: u32, field: &str) -> u64 {
        let start = format!("Node {node} {field}:");
        let bytes = |memory: &String| -> u64 {
            let line = memory.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
            line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
        };
        let most = self.memory.iter().map(bytes).max().unwrap();
        most - bytes(&self.memory[0])
    }
}

fn range(range: &str) -> std::ops::RangeInclusive<u32> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    first.parse().unwrap()..=last.parse().unwrap()
}
