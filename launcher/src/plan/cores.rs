//! Which cores the processes use.

use crate::error::{Error, Exit};

/// What the user asked for, and what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreRequest {
    /// `--threads`: cores to use in all, the indexer's among them.
    pub threads: Option<usize>,
    /// `--indexer-core`.
    pub indexer_core: Option<u32>,
    /// Cores that this process may use.
    pub allowed: Vec<u32>,
    /// Whether the indexer takes part in decode steps.
    pub indexer_selects: bool,
}

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorePlan {
    /// The indexer's core.
    pub indexer: u32,
    /// Threads of prefill, during which the indexer's core is shared: it has little to do.
    pub prefill_threads: u32,
    /// Threads of decode.
    pub decode_threads: u32,
    /// Cores of decode.
    pub decode_cores: Vec<u32>,
}

impl CoreRequest {
    /// Gives the indexer a core of its own, the last one unless the user names another, and the worker the rest.
    ///
    /// # Errors
    /// The core that was asked for is not there, or no thread is left.
    pub fn decide(self) -> Result<CorePlan, Error> {
        let Self { threads, indexer_core, allowed, indexer_selects } = self;
        let placement = |kind: &'static str, message: String| {
            Error::new(Exit::Placement, kind, message)
                .with_hint(format!("this process may use the cores {allowed:?}"))
        };
        let Some(&last) = allowed.last() else {
            return Err(placement("no_cores", "no core is known to be usable".to_owned()));
        };
        let indexer = indexer_core.unwrap_or(last);
        if !allowed.contains(&indexer) {
            let message = format!("--indexer-core {indexer}: no such core for this process");
            return Err(placement("no_such_core", message));
        }
        let threads = threads.unwrap_or(allowed.len());
        if threads == 0 || threads > allowed.len() {
            let message = format!("--threads {threads}: there are {} cores", allowed.len());
            return Err(placement("no_such_threads", message));
        }
        let others = allowed.iter().copied().filter(|&core| core != indexer);
        let mut worker: Vec<u32> = others.take(threads - 1).collect();
        if worker.is_empty() || !indexer_selects {
            worker.push(indexer);
        }
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(CorePlan {
            indexer,
            prefill_threads: count(threads),
            decode_threads: count(worker.len()),
            decode_cores: worker,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CoreRequest {
        CoreRequest {
            threads: None,
            indexer_core: None,
            allowed: vec![0, 1, 2, 3],
            indexer_selects: true,
        }
    }

    #[test]
    fn the_indexer_has_the_last_core_to_itself() {
        let plan = request().decide().unwrap();
        assert_eq!((plan.indexer, plan.decode_cores), (3, vec![0, 1, 2]));
        assert_eq!((plan.prefill_threads, plan.decode_threads), (4, 3));
    }

    #[test]
    fn full_attention_decodes_on_every_core() {
        let plan = CoreRequest { indexer_selects: false, ..request() }.decide().unwrap();
        assert_eq!(plan.decode_cores, [0, 1, 2, 3]);
    }

    #[test]
    fn threads_count_the_indexers_core() {
        let two = CoreRequest { threads: Some(2), indexer_core: Some(0), ..request() };
        assert_eq!(two.decide().unwrap().decode_cores, [1]);
        let one = CoreRequest { threads: Some(1), ..request() }.decide().unwrap();
        assert_eq!((one.indexer, one.decode_cores), (3, vec![3]));
    }

    #[test]
    fn cores_and_threads_that_do_not_exist_are_refused_with_those_that_do() {
        let core = CoreRequest { indexer_core: Some(9), ..request() }.decide().unwrap_err();
        assert_eq!((core.exit, core.kind.as_ref()), (Exit::Placement, "no_such_core"));
        assert!(core.hint.unwrap().contains("[0, 1, 2, 3]"));
        for threads in [0, 5] {
            let error = CoreRequest { threads: Some(threads), ..request() }.decide().unwrap_err();
            assert_eq!(error.kind, "no_such_threads");
        }
    }
}
