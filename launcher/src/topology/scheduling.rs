//! How the kernel schedules a thread, as it states it.

use std::fmt;

use serde::Serialize;

use super::root::Root;

/// Places of a thread's scheduling among what follows its name in `stat`.
const NICE: usize = 16;
const PRIORITY: usize = 37;
const POLICY: usize = 38;

/// How a thread is scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Scheduling {
    /// The kernel's policy.
    pub policy: Policy,
    /// Niceness; it counts among threads of one session alone where the kernel groups sessions (`sched_autogroup_enabled`).
    pub nice: i32,
    /// Real-time priority, 1 to 99; 0 under other policies.
    pub real_time_priority: u32,
}

/// A policy of the kernel's scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// That of most threads: they share a core.
    Other,
    /// Real time: it runs until it sleeps.
    Fifo,
    /// Real time, in turns among equals.
    RoundRobin,
    /// As `Other`, in long turns.
    Batch,
    /// It runs while nobody else wants the core.
    Idle,
    /// Real time, by deadlines.
    Deadline,
}

impl Scheduling {
    /// How the thread whose folder in `/proc` is `thread` is scheduled; nothing where the system does not say.
    pub(super) fn read(root: &Root, thread: &str) -> Option<Self> {
        let status = root.text(format!("{thread}/stat"))?;
        // The name stands in brackets and may hold anything.
        let (_, fields) = status.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |place: usize| fields.get(place).copied();
        let policy = match field(POLICY)? {
            "0" => Policy::Other,
            "1" => Policy::Fifo,
            "2" => Policy::RoundRobin,
            "3" => Policy::Batch,
            "5" => Policy::Idle,
            "6" => Policy::Deadline,
            _ => return None,
        };
        Some(Self {
            policy,
            nice: field(NICE)?.parse().ok()?,
            real_time_priority: field(PRIORITY)?.parse().ok()?,
        })
    }

    /// Whether it runs ahead of every ordinary thread.
    #[must_use]
    pub const fn is_real_time(&self) -> bool {
        matches!(self.policy, Policy::Fifo | Policy::RoundRobin | Policy::Deadline)
    }
}

impl fmt::Display for Scheduling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.policy {
            Policy::Other => "ordinary",
            Policy::Fifo | Policy::RoundRobin | Policy::Deadline => "real-time",
            Policy::Batch => "batch",
            Policy::Idle => "idle",
        };
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::testing::root;

    #[test]
    fn a_threads_scheduling_is_what_stat_says() {
        let line = |nice: i32, priority: u32, policy: u32| {
            let before = "1 (a) b) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16".to_owned();
            let between = vec!["0"; PRIORITY - NICE - 1].join(" ");
            format!("{before} {nice} {between} {priority} {policy} 0 0\n")
        };
        let (_directory, copy) = root(&[
            ("proc/7/stat", &line(0, 1, 2)),
            ("proc/8/stat", &line(-5, 0, 0)),
            ("proc/9/stat", "9 (short) S 1\n"),
        ]);
        let read = |pid: u32| Scheduling::read(&copy, &format!("proc/{pid}"));
        let real_time = read(7).unwrap();
        assert_eq!((real_time.policy, real_time.real_time_priority), (Policy::RoundRobin, 1));
        assert!(real_time.is_real_time());
        let ordinary = read(8).unwrap();
        assert_eq!((ordinary.policy, ordinary.nice), (Policy::Other, -5));
        assert_eq!((read(9), read(10)), (None, None));
    }
}
