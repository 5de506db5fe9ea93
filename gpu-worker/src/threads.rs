//! The worker's threads, and the cores that they keep off.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How many threads, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threads {
    /// Threads of prefill. They may use every core: the indexer has little to do meanwhile.
    pub prefill: u32,
    /// Threads of decode.
    pub decode: u32,
    /// Cores of decode: all but the indexer's.
    pub decode_cores: Vec<u32>,
}

/// Threads that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ThreadsError {
    /// The system refused a thread.
    #[error("cannot start the worker's threads: {0}")]
    Start(#[from] ThreadPoolBuildError),
    /// The system refused the cores.
    #[error("cannot keep the worker to the cores {cores:?}: {source}")]
    Cores {
        /// The cores.
        cores: Vec<u32>,
        /// The system's error.
        source: rustix::io::Errno,
    },
}

/// One pool for each phase; none where the calling thread works alone.
#[derive(Debug)]
pub struct Pools {
    prefill: Option<ThreadPool>,
    decode: Option<ThreadPool>,
}

impl Pools {
    /// Starts the pools, and keeps the calling thread and the decode pool to the decode cores.
    ///
    /// # Errors
    /// [`ThreadsError`].
    pub fn new(threads: &Threads) -> Result<Self, ThreadsError> {
        let prefill = pool("prefill", threads.prefill)?;
        keep_to(&threads.decode_cores)?;
        let decode = pool("decode", threads.decode)?;
        Ok(Self { prefill, decode })
    }

    /// The threads of prefill, if there are several.
    #[must_use]
    pub const fn prefill_pool(&self) -> Option<&ThreadPool> {
        self.prefill.as_ref()
    }

    /// The threads of decode, if there are several.
    #[must_use]
    pub const fn decode_pool(&self) -> Option<&ThreadPool> {
        self.decode.as_ref()
    }

    /// Does `work` on the threads of prefill.
    pub fn prefill<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        run(self.prefill_pool(), work)
    }

    /// Does `work` on the threads of decode.
    pub fn decode<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        run(self.decode_pool(), work)
    }
}

fn run<R: Send>(pool: Option<&ThreadPool>, work: impl FnOnce() -> R + Send) -> R {
    match pool {
        Some(pool) => pool.install(work),
        None => work(),
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

/// Keeps the calling thread, and those it starts from now on, to `cores`.
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
    use super::*;

    fn cores() -> Vec<u32> {
        let set = sched_getaffinity(None::<Pid>).unwrap();
        (0..1024).filter(|&core| set.is_set(core as usize)).collect()
    }

    #[test]
    fn decode_threads_keep_to_their_cores_and_prefill_threads_do_not() {
        std::thread::spawn(|| {
            let all = cores();
            let decode_cores = vec![all[0]];
            let threads = Threads { prefill: 2, decode: 2, decode_cores: decode_cores.clone() };
            let pools = Pools::new(&threads).unwrap();
            assert_eq!(cores(), decode_cores);
            assert_eq!(pools.decode(cores), decode_cores);
            assert_eq!(pools.prefill(cores), all);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_single_thread_needs_no_pool() {
        assert!(pool("decode", 1).unwrap().is_none());
    }

    #[test]
    fn cores_that_do_not_exist_are_an_error_that_names_them() {
        std::thread::spawn(|| {
            let error = keep_to(&[1000]).unwrap_err().to_string();
            assert!(error.contains("[1000]"), "{error}");
        })
        .join()
        .unwrap();
    }
}
