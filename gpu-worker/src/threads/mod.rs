//! The worker's threads, and the cores that they run on.

mod current;
mod disjoint;
mod parallel;
mod team;

use std::sync::Arc;

use hindsight_protocol::scheduling;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub(crate) use current::Current;
pub(crate) use disjoint::{Disjoint, for_each_chunk};
pub use parallel::{Parallel, Serial};
pub use team::{Helper, Lender, Team};

/// How many threads, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threads {
    /// Threads of prefill. They may use every core: the indexer has little to do meanwhile.
    pub prefill: u32,
    /// Cores of decode, one thread on each.
    pub decode_cores: Vec<u32>,
    /// The indexer's core, if decode may use it while the indexer sleeps.
    pub lent_core: Option<u32>,
}

/// Threads that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ThreadsError {
    /// The system refused a pool.
    #[error("cannot start the worker's threads: {0}")]
    Pool(#[from] ThreadPoolBuildError),
    /// The system refused a thread.
    #[error("cannot start the worker's threads: {0}")]
    Start(#[from] std::io::Error),
    /// The system refused the cores.
    #[error("cannot keep the worker to the cores {cores:?}: {source}")]
    Cores {
        /// The cores.
        cores: Vec<u32>,
        /// The system's error.
        source: rustix::io::Errno,
    },
}

/// The threads of each phase.
#[derive(Debug)]
pub struct Pools {
    prefill: Option<ThreadPool>,
    decode: Arc<Team>,
}

impl Pools {
    /// Starts the threads, and keeps the calling one, which decodes, to the first of the decode cores. `lender` is whose core the
    /// lent one is.
    ///
    /// # Errors
    /// [`ThreadsError`].
    pub fn new(threads: &Threads, lender: Option<Arc<dyn Lender>>) -> Result<Self, ThreadsError> {
        let prefill = pool("prefill", threads.prefill)?;
        let own = threads.decode_cores.iter().skip(1).map(|&core| (core, false));
        let lent = threads.lent_core.iter().map(|&core| (core, true));
        let helpers = own.chain(lent).map(|(core, lent)| {
            let start = move || -> Result<(), ThreadsError> {
                keep_to(&[core])?;
                if lent && let Err(error) = scheduling::run_when_idle() {
                    tracing::warn!(core, %error, "the indexer shares its core as an equal");
                }
                Ok(())
            };
            Helper { start, lender: lender.clone().filter(|_| lent) }
        });
        let decode = Arc::new(Team::new(helpers.collect())?);
        keep_to(&threads.decode_cores[..threads.decode_cores.len().min(1)])?;
        Ok(Self { prefill, decode })
    }

    /// The threads of prefill, if there are several.
    #[must_use]
    pub const fn prefill_pool(&self) -> Option<&ThreadPool> {
        self.prefill.as_ref()
    }

    /// The threads of decode: the calling one and its helpers.
    #[must_use]
    pub fn team(&self) -> &Team {
        &self.decode
    }

    /// Does `work` on the threads of prefill.
    pub fn prefill<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.prefill {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Does `work` on the calling thread, whose products helpers share.
    pub fn decode<R>(&self, work: impl FnOnce() -> R) -> R {
        Current::with_team(&self.decode, work)
    }
}

/// A pool whose threads inherit the calling thread's cores.
fn pool(name: &'static str, threads: u32) -> Result<Option<ThreadPool>, ThreadPoolBuildError> {
    if threads < 2 {
        return Ok(None);
    }
    ThreadPoolBuilder::new()
        .num_threads(threads as usize)
        .thread_name(move |thread| format!("{name}-{thread}"))
        .build()
        .map(Some)
}

/// Keeps the calling thread to `cores`.
fn keep_to(cores: &[u32]) -> Result<(), ThreadsError> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core as usize));
    sched_setaffinity(None::<Pid>, &set)
        .map_err(|source| ThreadsError::Cores { cores: cores.to_vec(), source })?;
    let kept = sched_getaffinity(None::<Pid>).is_ok_and(|now| now == set);
    if kept {
        Ok(())
    } else {
        Err(ThreadsError::Cores { cores: cores.to_vec(), source: rustix::io::Errno::INVAL })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Barrier, Mutex};

    use super::*;

    fn cores() -> Vec<u32> {
        let set = sched_getaffinity(None::<Pid>).unwrap();
        (0..1024).filter(|&core| set.is_set(core as usize)).collect()
    }

    #[test]
    fn decode_threads_keep_to_their_cores_and_prefill_threads_do_not() {
        std::thread::spawn(|| {
            let all = cores();
            let (decode_cores, lent_core) = (vec![all[0]], all.last().copied());
            let threads = Threads { prefill: 2, decode_cores: decode_cores.clone(), lent_core };
            let pools = Pools::new(&threads, None).unwrap();
            assert_eq!(cores(), decode_cores);
            assert_eq!(pools.prefill(cores), all);
            // Two tasks that wait for each other are done by two threads.
            let (meet, seen) = (Barrier::new(2), Mutex::new(BTreeSet::new()));
            pools.decode(|| {
                assert_eq!(Current.threads(), 2);
                Current.run(2, &|_| {
                    meet.wait();
                    seen.lock().unwrap().insert(cores());
                });
            });
            let expected = [vec![all[0]], vec![*all.last().unwrap()]].into();
            assert_eq!(seen.into_inner().unwrap(), expected);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_single_thread_needs_no_pool() {
        assert!(pool("prefill", 1).unwrap().is_none());
        assert_eq!(Current.threads(), 1);
    }

    #[test]
    fn cores_that_do_not_exist_are_an_error_that_names_them() {
        let threads = Threads { prefill: 1, decode_cores: vec![0, 1000], lent_core: None };
        let error = Pools::new(&threads, None).unwrap_err().to_string();
        assert!(error.contains("[1000]"), "{error}");
    }
}
