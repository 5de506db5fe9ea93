//! A step allocates nothing once its sequence has been seeded.

mod synthetic;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use hindsight_cpu_indexer::Index;
use hindsight_cpu_indexer::parameters::{IndexParameters, Policy, SketchUse, Timing};
use hindsight_cpu_indexer::residency::Residency;
use hindsight_cpu_indexer::selection::Selection;
use hindsight_protocol::geometry::KvDtype;
use synthetic::{SCALE, Text};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steps_allocate_nothing() {
    const PROMPT: usize = 3000;
    const STEPS: usize = 300;
    let text = Text::new(PROMPT + STEPS, KvDtype::F16, 8);
    let queries = text.queries(STEPS, 4);
    let seeds = text.queries(32, 3).concat();
    for (policy, sketch) in [
        (Policy::Exact, SketchUse::Never),
        (Policy::Lfps, SketchUse::Never),
        (Policy::Lfps, SketchUse::OnDrift),
        (Policy::Lfps, SketchUse::Always),
    ] {
        let parameters = IndexParameters {
            top_k: 100,
            dense_layers: 0,
            sketch,
            slash: 1.0,
            timing: Timing::Rehearsed,
            ..IndexParameters::default()
        };
        let geometry = *text.cache.geometry();
        let tokens = PROMPT + STEPS;
        let mut index = Index::new(geometry, SCALE, policy, parameters, tokens).unwrap();
        let view = text.cache.head(0, 0, PROMPT);
        index.append(0, 0, view, 0..PROMPT);
        index.seed(0, 0, view, &seeds);
        let mut out = Selection::with_capacity(100, tokens);
        let mut residency = Residency::new(106, tokens.div_ceil(16));
        let mut evictions = 0;
        let before = ALLOCATIONS.get();
        for (step, queries) in queries.iter().enumerate() {
            let tokens = PROMPT + step + 1;
            let view = text.cache.head(0, 0, tokens);
            // Every other step is rehearsed.
            let expected = text.cache.head(0, 0, tokens - 1);
            let rehearsed = step % 2 == 0 && index.rehearse(0, 0, expected, queries);
            let proposes = policy == Policy::Lfps && sketch == SketchUse::Always;
            assert_eq!(rehearsed, step % 2 == 0 && proposes);
            index.append(0, 0, view, tokens - 1..tokens);
            index.select(0, 0, view, queries, &mut out);
            index.learn(0);
            evictions += residency.place(&out.blocks, |_| {}).unwrap();
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "{policy} {sketch:?}");
        assert!(evictions > 0);
    }
}
