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

/// A word in shared memory that says whether its waiter sleeps.
///
/// The waiter announces its sleep, looks once more, then sleeps. The ringer changes the condition, then looks for the
/// announcement. The two sequentially consistent fences make sure that at least one of them sees the other.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Doorbell {
    asleep: AtomicU32,
}

impl Doorbell {
    /// A bell whose waiter is awake.
    #[expect(clippy::new_without_default, reason = "most bells are born as zeros of shared memory")]
    #[must_use]
    pub fn new() -> Self {
        Self { asleep: AtomicU32::new(0) }
    }

    /// Waits until `ready` says so or the waiter's patience ends; returns whether `ready` held.
    pub fn wait(&self, patience: Patience, mut ready: impl FnMut() -> bool) -> bool {
        for _ in 0..patience.spins {
            if ready() {
                return true;
            }
            spin_hint();
        }
        self.asleep.store(1, Ordering::Relaxed);
        // SYNC POINT with the fence in `ring`: either that side sees `asleep`, or `ready` sees its change.
        fence(Ordering::SeqCst);
        if !ready() {
            futex_wait(&self.asleep, 1, patience.sleep);
        }
        self.asleep.store(0, Ordering::Relaxed);
        ready()
    }

    /// Wakes the waiter if it sleeps. The condition it waits for must have been changed before.
    pub fn ring(&self) {
        // SYNC POINT with the fence in `wait`.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) == 1 {
            self.asleep.store(0, Ordering::Relaxed);
            futex_wake(&self.asleep);
        }
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
}
