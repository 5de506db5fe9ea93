//! Who computes: the rayon pool that the caller is in.

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use crate::matmul::Parallel;

/// The rayon pool that the calling thread belongs to; outside any pool, the calling thread alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct CurrentPool;

impl Parallel for CurrentPool {
    fn threads(&self) -> usize {
        rayon::current_thread_index().map_or(1, |_| rayon::current_num_threads())
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.threads() == 1 {
            (0..tasks).for_each(task);
        } else {
            (0..tasks).into_par_iter().with_max_len(1).for_each(task);
        }
    }
}
