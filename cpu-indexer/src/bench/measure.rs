//! Timing the steps.

use std::time::Instant;

use super::bandwidth::MemoryReader;
use super::numbers::{mean, median, smallest_of_each};
use super::report::IndexBenchRow;
use super::scans::{ScanTimes, Scans};
use super::workload::Workload;
use crate::clock::microseconds;
use crate::index::Index;
use crate::parameters::{IndexParameters, ParameterError, Policy, SketchUse};
use crate::selection::Selection;

/// How often steps are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BenchPlan {
    /// Steps that are not counted, before those that are.
    pub warm_up: usize,
    /// How often all steps are taken, from the same start.
    pub repeats: usize,
}

/// What happens in the course of a measurement.
#[derive(Debug, Clone, Copy)]
pub enum BenchEvent<'a> {
    /// Indexes learn from the prompt.
    Seeding,
    /// Steps begin to be taken, for the given time (from 0).
    Repeat(usize),
    /// A step that counts has been taken for one KV head.
    Step {
        /// Who took it: `exact`, `lfps` or `history`.
        contender: &'static str,
        /// The time it took.
        microseconds: f64,
        /// What was selected.
        selection: &'a Selection,
    },
}

/// Who is timed. Each takes all its heads' steps in one go, in an order that changes from step to step.
const CONTENDERS: [&str; 3] = ["exact", "lfps", "history"];
const EXACT: usize = 0;
const LFPS: usize = 1;
const HISTORY: usize = 2;

/// Where events go.
type Listener<'l> = &'l mut dyn FnMut(BenchEvent<'_>);

/// Times steps of an exact scan, of LFPS with `parameters`, and of LFPS without codes. No layer is treated as dense,
/// whatever the parameters say.
///
/// Before each contender's turn `reader` empties the caches, as the other layers of a model would. `listener` hears of the
/// steps of each contender in the order of steps, then KV heads.
///
/// # Errors
/// If a parameter is out of range.
pub fn measure(
    workload: &Workload,
    parameters: &IndexParameters,
    plan: BenchPlan,
    reader: &mut MemoryReader,
    listener: Listener<'_>,
) -> Result<IndexBenchRow, ParameterError> {
    listener(BenchEvent::Seeding);
    let parameters = IndexParameters { dense_layers: 0, ..parameters.clone() };
    let history = IndexParameters { sketch: SketchUse::Never, ..parameters.clone() };
    let (geometry, scale) = (workload.shape().geometry(), workload.softmax_scale());
    let index = |policy, parameters| {
        Index::new(geometry, scale, policy, parameters, workload.shape().context)
    };
    let mut seeded = [
        index(Policy::Exact, parameters.clone())?,
        index(Policy::Lfps, parameters.clone())?,
        index(Policy::Lfps, history)?,
    ];
    let mut figures = Figures::default();
    for (contender, index) in seeded.iter_mut().enumerate() {
        for head in 0..geometry.kv_heads as usize {
            let (view, queries) = (workload.prompt(head), workload.prompt_queries(head));
            let start = Instant::now();
            index.append(0, head, view, 0..view.tokens());
            index.seed(0, head, view, queries);
            if contender == LFPS {
                figures.seed_ms.push(microseconds(start) / 1e3);
            }
        }
    }
    for repeat in 0..plan.repeats {
        listener(BenchEvent::Repeat(repeat));
        let mut run = Run::new(workload, seeded.clone(), parameters.top_k);
        for step in 0..workload.steps() {
            run.step(step, reader);
            if step >= plan.warm_up {
                run.judge(step, &mut figures, listener);
            }
            run.remember();
        }
        figures.state_bytes = run.indexes[LFPS].state_bytes();
    }
    let scans = Scans::new(workload).time(&parameters, reader);
    Ok(figures.row(workload, parameters.top_k, plan, scans, reader.best()))
}

/// Everything that is collected.
#[derive(Debug, Default)]
struct Figures {
    times: [Vec<f64>; CONTENDERS.len()],
    bytes: [Vec<f64>; CONTENDERS.len()],
    candidates: [Vec<f64>; CONTENDERS.len()],
    recall: [Vec<f64>; CONTENDERS.len()],
    mass: [Vec<f64>; CONTENDERS.len()],
    repaired: Vec<f64>,
    overlap: Vec<f64>,
    seed_ms: Vec<f64>,
    state_bytes: usize,
}

/// One repeat.
struct Run<'w> {
    workload: &'w Workload,
    indexes: [Index; CONTENDERS.len()],
    /// [contender, KV head]
    selections: [Vec<Selection>; CONTENDERS.len()],
    /// The times they took, in microseconds.
    times: [Vec<f64>; CONTENDERS.len()],
    /// The exact selections of the step before, `[KV head]`.
    last: Vec<Vec<u32>>,
}

impl<'w> Run<'w> {
    fn new(workload: &'w Workload, indexes: [Index; CONTENDERS.len()], top_k: usize) -> Self {
        let heads = workload.shape().kv_heads as usize;
        let room = Selection::with_capacity(top_k, workload.shape().context);
        Self {
            workload,
            indexes,
            selections: std::array::from_fn(|_| vec![room.clone(); heads]),
            times: std::array::from_fn(|_| vec![0.0; heads]),
            last: vec![Vec::new(); heads],
        }
    }

    fn step(&mut self, step: usize, reader: &mut MemoryReader) {
        for turn in 0..CONTENDERS.len() {
            let contender = (step + turn) % CONTENDERS.len();
            reader.read();
            let index = &mut self.indexes[contender];
            let results = self.selections[contender].iter_mut().zip(&mut self.times[contender]);
            for (head, (selection, time)) in results.enumerate() {
                let view = self.workload.view(step, head);
                let queries = self.workload.queries(step, head);
                let start = Instant::now();
                index.append(0, head, view, view.tokens() - 1..view.tokens());
                index.select(0, head, view, queries, selection);
                index.prepare(0, head, view, queries);
                *time = microseconds(start);
            }
        }
    }

    /// Collects what the last step gave.
    fn judge(&mut self, step: usize, out: &mut Figures, listener: Listener<'_>) {
        for (contender, name) in CONTENDERS.into_iter().enumerate() {
            out.times[contender].extend_from_slice(&self.times[contender]);
            let results = self.selections[contender].iter().zip(&self.times[contender]);
            for (head, (selection, &microseconds)) in results.enumerate() {
                listener(BenchEvent::Step { contender: name, microseconds, selection });
                out.bytes[contender].push(selection.effort.bytes() as f64);
                out.candidates[contender].push(selection.effort.candidates as f64);
                if contender != EXACT {
                    let view = self.workload.view(step, head);
                    let queries = self.workload.queries(step, head);
                    let audit = self.indexes[EXACT].audit(0, view, queries, selection);
                    out.recall[contender].push(audit.recall.into());
                    out.mass[contender].push(audit.mass.into());
                }
            }
        }
        let repaired = self.selections[LFPS].iter().map(|selection| selection.effort.repaired);
        out.repaired.extend(repaired.map(|repaired| f64::from(u8::from(repaired))));
        for (last, exact) in self.last.iter().zip(&self.selections[EXACT]) {
            if !last.is_empty() {
                let common = last.iter().filter(|token| exact.tokens.binary_search(token).is_ok());
                out.overlap.push(common.count() as f64 / last.len() as f64);
            }
        }
    }

    /// Keeps the exact selections, to compare the next ones with.
    fn remember(&mut self) {
        for (last, exact) in self.last.iter_mut().zip(&self.selections[EXACT]) {
            last.clone_from(&exact.tokens);
        }
    }
}

impl Figures {
    fn row(
        mut self,
        workload: &Workload,
        top_k: usize,
        plan: BenchPlan,
        scans: ScanTimes,
        bandwidth: f64,
    ) -> IndexBenchRow {
        let shape = workload.shape();
        let of_repeat = (workload.steps() - plan.warm_up) * shape.kv_heads as usize;
        let [exact_us_best, lfps_us_best, history_us_best] = std::array::from_fn(|contender| {
            median(&mut smallest_of_each(&self.times[contender], of_repeat))
        });
        let [exact_us, lfps_us, history_us] =
            std::array::from_fn(|contender| median(&mut self.times[contender]));
        let key_bytes = shape.head_dim as usize * hindsight_protocol::geometry::KvDtype::BYTES;
        let exact_bytes = (shape.context * key_bytes) as f64;
        let (lfps_bytes, history_bytes) = (mean(&self.bytes[LFPS]), mean(&self.bytes[HISTORY]));
        let share = |bytes: f64, us: f64| bytes / us * 1e6 / bandwidth;
        IndexBenchRow {
            context: shape.context,
            kv_heads: shape.kv_heads,
            group: shape.group,
            head_dim: shape.head_dim,
            top_k,
            exact_us,
            lfps_us,
            history_us,
            speedup: exact_us / lfps_us,
            history_speedup: exact_us / history_us,
            exact_us_best,
            lfps_us_best,
            history_us_best,
            exact_scan_us: scans.exact,
            key_read_us: scans.keys,
            sketch_scan_us: scans.sketch,
            memory_bandwidth_gb_per_s: bandwidth / 1e9,
            exact_bandwidth_share: share(exact_bytes, exact_us),
            exact_scan_bandwidth_share: share(exact_bytes, scans.exact),
            key_read_bandwidth_share: share(exact_bytes, scans.keys),
            sketch_scan_bandwidth_share: share(scans.sketch_bytes as f64, scans.sketch),
            lfps_bandwidth_share: share(lfps_bytes, lfps_us),
            history_bandwidth_share: share(history_bytes, history_us),
            lfps_bytes,
            history_bytes,
            exact_bytes,
            lfps_candidates: mean(&self.candidates[LFPS]),
            history_candidates: mean(&self.candidates[HISTORY]),
            repair_rate: mean(&self.repaired),
            lfps_recall: mean(&self.recall[LFPS]),
            lfps_mass: mean(&self.mass[LFPS]),
            history_recall: mean(&self.recall[HISTORY]),
            history_mass: mean(&self.mass[HISTORY]),
            index_state_share: self.state_bytes as f64 / workload.kv_bytes() as f64,
            seed_ms: median(&mut self.seed_ms),
            query_cosine_mean: workload.query_cosine_mean(),
            topk_overlap_mean: mean(&self.overlap),
        }
    }
}
