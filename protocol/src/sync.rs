//! Atomics and futexes, so that loom can run the very code that runs in shared memory.

#[cfg(not(loom))]
mod system {
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    use std::time::Duration;

    use rustix::thread::futex;

    pub(crate) use std::hint::spin_loop as spin_hint;

    /// Sleeps while `word` holds `expected`, at most for `longest`. May return early.
    ///
    /// The futex is a shared one: a private futex never wakes another process.
    pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, longest: Duration) {
        let timeout = rustix::fs::Timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        };
        // Every error (changed word, signal, time-out) means the same to the caller: look again.
        let _ = futex::wait(word, futex::Flags::empty(), expected, Some(&timeout));
    }

    /// Wakes whoever sleeps on `word`.
    pub(crate) fn futex_wake(word: &AtomicU32) {
        // Waking cannot fail for a valid address, and there is nobody to tell.
        let _ = futex::wake(word, futex::Flags::empty(), 1);
    }
}

#[cfg(loom)]
mod model {
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};

    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    pub(crate) use loom::thread::yield_now as spin_hint;

    loom::lazy_static! {
        /// Stands for the kernel's wait queue; all words share one.
        static ref QUEUE: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, _longest: Duration) {
        let guard = QUEUE.0.lock().unwrap();
        if word.load(Ordering::Relaxed) == expected {
            drop(QUEUE.1.wait(guard).unwrap());
        }
    }

    pub(crate) fn futex_wake(_word: &AtomicU32) {
        drop(QUEUE.0.lock().unwrap());
        QUEUE.1.notify_all();
    }
}

#[cfg(loom)]
pub(crate) use model::*;
#[cfg(not(loom))]
pub(crate) use system::*;
