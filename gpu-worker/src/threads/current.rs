//! The threads that the calling thread may share its work with.

use std::cell::RefCell;
use std::sync::Arc;

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::{Parallel, Team};

thread_local! {
    static TEAM: RefCell<Option<Arc<Team>>> = const { RefCell::new(None) };
}

/// The team that the calling thread works with, or the rayon pool that it belongs to, or the calling thread alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Current;

impl Current {
    /// Does `work` with `team` as the current one.
    pub(super) fn with_team<R>(team: &Arc<Team>, work: impl FnOnce() -> R) -> R {
        /// Puts back what was there before, even if the work panics.
        struct Restore(Option<Arc<Team>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                TEAM.set(self.0.take());
            }
        }
        let _restore = Restore(TEAM.replace(Some(Arc::clone(team))));
        work()
    }
}

impl Parallel for Current {
    fn threads(&self) -> usize {
        TEAM.with_borrow(|team| match team {
            Some(team) => team.threads(),
            None => rayon::current_thread_index().map_or(1, |_| rayon::current_num_threads()),
        })
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        TEAM.with_borrow(|team| match team {
            Some(team) => team.run(tasks, task),
            None if rayon::current_thread_index().is_none() => (0..tasks).for_each(task),
            None => (0..tasks).into_par_iter().with_max_len(1).for_each(task),
        });
    }
}
