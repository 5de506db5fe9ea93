//! Who does the work of a multiplication.

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

/// Something that can run independent tasks, possibly on several threads.
pub trait Parallel: Sync {
    /// How many tasks can make progress at the same time; at least 1.
    fn threads(&self) -> usize;

    /// Calls `task` once with each of `0..tasks`, in any order and on any thread, and returns when all have returned.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

impl Parallel for rayon::ThreadPool {
    fn threads(&self) -> usize {
        self.current_num_threads()
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.install(|| (0..tasks).into_par_iter().with_max_len(1).for_each(task));
    }
}
