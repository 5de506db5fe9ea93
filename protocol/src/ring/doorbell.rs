//! Waking a peer that may be asleep, without a system call while it is awake.

use std::time::Duration;

use crate::sync::{AtomicU32, Ordering, fence, futex_wait, futex_wake, spin_hint};

/// How long a waiter spins before it sleeps, and sleeps before it looks up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Looks at the condition before going to sleep.
    pub spins: u32,
    /// The longest sleep at a stretch; the waiter gives up afterwards.
    pub sleep: Duration,
}

/// The waiter looks for its condition, or has not slept yet.
const AWAKE: u32 = 0;
/// The waiter sleeps, or is about to.
const ASLEEP: u32 = 1;
/// The bell has been rung for a waiter that sleeps; whoever watches wakes it.
const CALLED: u32 = 2;

/// A word in shared memory that says whether its waiter sleeps.
///
/// The waiter announces its sleep, looks once more, then sleeps. The ringer changes the condition, then looks for the
/// announcement. The two sequentially consistent fences make sure that at least one of them sees the other.
///
/// A thread that borrows the waiter's core while it sleeps [watches](Self::watch) the bell: then ringing it is no system call, and the
/// waiter has its core back when the watching thread next looks, not in the midst of what this does.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Doorbell {
    state: AtomicU32,
    watched: AtomicU32,
}

impl Doorbell {
    /// A bell whose waiter is awake.
    #[expect(clippy::new_without_default, reason = "most bells are born as zeros of shared memory")]
    #[must_use]
    pub fn new() -> Self {
        Self { state: AtomicU32::new(AWAKE), watched: AtomicU32::new(0) }
    }

    /// Waits until `ready` says so or the waiter's patience ends; returns whether `ready` held.
    pub fn wait(&self, patience: Patience, mut ready: impl FnMut() -> bool) -> bool {
        for _ in 0..patience.spins {
            if ready() {
                return true;
            }
            spin_hint();
        }
        self.state.store(ASLEEP, Ordering::Relaxed);
        // SYNC POINT with the fence in `ring`: either that side sees the announcement, or `ready` sees its change.
        fence(Ordering::SeqCst);
        if !ready() {
            futex_wait(&self.state, ASLEEP, patience.sleep);
        }
        self.state.store(AWAKE, Ordering::Relaxed);
        ready()
    }

    /// Has the waiter woken if it sleeps. The condition it waits for must have been changed before.
    pub fn ring(&self) {
        // SYNC POINT with the fence in `wait`.
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::Relaxed) == ASLEEP && self.turns(ASLEEP, CALLED) {
            // SYNC POINT with the fence at the end of a watch: either that side sees the call, or this one its end.
            fence(Ordering::SeqCst);
            if self.watched.load(Ordering::Relaxed) == 0 {
                self.wake();
            }
        }
    }

    /// Wakes a waiter for whom the bell has been rung, if whoever watches has not done so yet.
    pub fn wake(&self) {
        if self.state.load(Ordering::Relaxed) == CALLED && self.turns(CALLED, AWAKE) {
            futex_wake(&self.state);
        }
    }

    /// Begins to watch: until the watch ends, the caller is to [look](Watch::look) again and again.
    ///
    /// One thread may watch at a time.
    pub fn watch(&self) -> Watch<'_> {
        self.watched.store(1, Ordering::Relaxed);
        Watch { bell: self }
    }

    fn turns(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Looks after a bell's waiter while it sleeps.
#[derive(Debug)]
pub struct Watch<'a> {
    bell: &'a Doorbell,
}

impl Watch<'_> {
    /// Wakes the waiter if the bell has been rung for it.
    pub fn look(&self) {
        self.bell.wake();
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.bell.watched.store(0, Ordering::Relaxed);
        // SYNC POINT with the second fence in `ring`.
        fence(Ordering::SeqCst);
        self.bell.wake();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_sleeping_waiter_is_woken() {
        let bell = Doorbell::new();
        let flag = AtomicBool::new(false);
        let patience = Patience { spins: 0, sleep: Duration::from_secs(60) };
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| bell.wait(patience, || flag.load(Ordering::Acquire)));
            std::thread::sleep(Duration::from_millis(20));
            flag.store(true, Ordering::Release);
            bell.ring();
            assert!(waiter.join().unwrap());
        });
    }

    #[test]
    fn a_waiter_that_is_watched_is_woken_when_the_watch_looks_or_ends() {
        let bell = Doorbell::new();
        let patience = Patience { spins: 0, sleep: Duration::from_secs(60) };
        for ends in [false, true] {
            let flag = AtomicBool::new(false);
            let watch = bell.watch();
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| bell.wait(patience, || flag.load(Ordering::Acquire)));
                std::thread::sleep(Duration::from_millis(20));
                flag.store(true, Ordering::Release);
                bell.ring();
                std::thread::sleep(Duration::from_millis(20));
                assert!(!waiter.is_finished());
                if ends {
                    drop(watch)
                } else {
                    watch.look()
                }
                assert!(waiter.join().unwrap());
            });
        }
    }

    #[test]
    fn patience_ends() {
        let patience = Patience { spins: 10, sleep: Duration::from_millis(1) };
        assert!(!Doorbell::new().wait(patience, || false));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::time::Duration;

    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// In the model a sleep has no end, so a lost wake-up is a deadlock, which loom reports.
    #[test]
    fn no_wake_up_is_lost() {
        loom::model(|| {
            let bell = Arc::new(Doorbell::new());
            let flag = Arc::new(AtomicBool::new(false));
            let waiter = {
                let (bell, flag) = (Arc::clone(&bell), Arc::clone(&flag));
                loom::thread::spawn(move || {
                    let patience = Patience { spins: 1, sleep: Duration::MAX };
                    while !bell.wait(patience, || flag.load(Ordering::Acquire)) {}
                })
            };
            flag.store(true, Ordering::Release);
            bell.ring();
            waiter.join().unwrap();
        });
    }

    /// Nor is one lost while a third thread watches, and stops watching.
    #[test]
    fn no_wake_up_is_lost_between_ringer_and_watch() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let bell = Arc::new(Doorbell::new());
            let flag = Arc::new(AtomicBool::new(false));
            let waiter = {
                let (bell, flag) = (Arc::clone(&bell), Arc::clone(&flag));
                loom::thread::spawn(move || {
                    let patience = Patience { spins: 0, sleep: Duration::MAX };
                    while !bell.wait(patience, || flag.load(Ordering::Acquire)) {}
                })
            };
            let watcher = {
                let bell = Arc::clone(&bell);
                loom::thread::spawn(move || bell.watch().look())
            };
            flag.store(true, Ordering::Release);
            bell.ring();
            watcher.join().unwrap();
            waiter.join().unwrap();
        });
    }
}
