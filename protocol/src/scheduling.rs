//! How the system shares a core between the indexer and the worker's thread that borrows it.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// How long the indexer's turns on its core are to be, in nanoseconds: the shortest that the system takes.
const SHORT_TURN: u64 = 100_000;

/// How much the indexer's thread comes before others on its core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// As any thread: who else wants the core has a share of it.
    #[default]
    Normal,
    /// Before every ordinary thread.
    High,
}

/// Lets the calling thread run before every ordinary thread of its core, whatever session it belongs to: under the real-time
/// policy, at its lowest priority. Threads that it starts later are ordinary ones. Niceness would not do: where the kernel groups
/// sessions, it counts within one alone.
///
/// # Errors
/// The system's error; `EPERM` without the right to real-time priorities.
pub fn run_first() -> Result<(), Errno> {
    let parameters = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters live as long as the call; 0 is the calling thread.
    let status = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if status == 0 { Ok(()) } else { Err(last_error()) }
}

/// Lets the calling thread run only while nobody else wants its core, and give way at once to whoever wakes up there.
///
/// # Errors
/// The system's error.
pub fn run_when_idle() -> Result<(), Errno> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live as long as the call; 0 is the calling thread, which may always lower itself.
    let status = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    if status == 0 { Ok(()) } else { Err(last_error()) }
}

/// Asks for short turns for the calling thread: when it wakes up it need not wait until another thread's long turn is over.
///
/// # Errors
/// The system's error; before Linux 6.12 it takes no notice.
pub fn take_short_turns() -> Result<(), Errno> {
    /// `struct sched_attr` of the kernel.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let mut attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: 0,
        flags: 0,
        nice: 0,
        priority: 0,
        runtime: 0,
        deadline: 0,
        period: 0,
    };
    let size = attributes.size;
    // SAFETY: the structure is as large as its size says, and lives as long as the call.
    let status = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if status != 0 {
        return Err(last_error());
    }
    attributes.size = size;
    attributes.runtime = SHORT_TURN;
    // SAFETY: as above; 0 is the calling thread, whose policy and niceness stay as they are.
    let status = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if status == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> i32 {
        // SAFETY: it takes and returns numbers.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_can_lower_itself() {
        std::thread::spawn(|| {
            run_when_idle().unwrap();
            assert_eq!(policy(), libc::SCHED_IDLE);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_runs_first_or_is_refused_and_its_children_are_ordinary() {
        std::thread::spawn(|| match run_first() {
            Ok(()) => {
                assert_eq!(policy() & !libc::SCHED_RESET_ON_FORK, libc::SCHED_RR);
                assert_eq!(std::thread::spawn(policy).join().unwrap(), libc::SCHED_OTHER);
            }
            Err(error) => {
                assert_eq!(error, Errno::PERM);
                assert_eq!(policy(), libc::SCHED_OTHER);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn short_turns_leave_the_policy_as_it_is() {
        std::thread::spawn(|| {
            let before = policy();
            take_short_turns().unwrap();
            assert_eq!(policy(), before);
        })
        .join()
        .unwrap();
    }
}
