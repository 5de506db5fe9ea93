//! `hindsight bench index`: steps of the index against exact scans, from short contexts to long ones.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use hindsight_cpu_indexer::bench::{
    BenchEvent, BenchPlan, BenchShape, IndexBenchRow, MemoryReader, Workload, measure,
};
use hindsight_cpu_indexer::kernels::Kernels;
use hindsight_cpu_indexer::parameters::IndexParameters;
use hindsight_cpu_indexer::placement::pin;
use hindsight_cpu_indexer::replay::Trace;
use hindsight_protocol::geometry::KvDtype;
use indicatif::HumanBytes;
use serde::Serialize;

use super::default_trace::default_trace;
use super::export::Export;
use crate::command::index_arguments::IndexArguments;
use crate::command::output::Output;
use crate::command::run::arguments::Dtype;
use crate::error::{Error, Exit};
use crate::report::bench::{index_table, likeness};
use crate::report::plot::index::svg;
use crate::report::progress::RunProgress;
use crate::topology::{Request, Root, Topology, memory};

/// Steps that are not counted, before those that are.
const WARM_UP: usize = 4;

/// Time whole steps of the index against exact scans, on one core
///
/// For each KV head a step takes in the new key, finds candidates, scores them, selects the top-k and learns from it. Times
/// are medians for one KV head. An exact scan, LFPS and LFPS without its sketch take their steps in turn; before each turn
/// a large buffer is read, which empties the caches as a model's other layers would, and tells the core's memory bandwidth.
///
/// Keys and queries come from a trace, so that keys lie together and queries follow each other as a model's do: a context
/// begins and ends as the recorded text does, and copies of it with 2 % of noise fill what is missing in between. Queries are
/// those of its decode steps, in order; the last prompt queries seed the index. Keys of twice the size wanted are cut to the
/// rotary pairs that contribute most to scores, keys of half the size are put side by side, two heads at a time. Without
/// --trace, 4096 tokens and 64 steps of smollm2-135m over Alice in Wonderland are recorded the first time, and kept in
/// Hindsight's cache directory.
#[derive(Debug, Args)]
#[command(mut_arg("top_k", |argument| argument.default_value("2048")))]
pub(super) struct IndexBenchArguments {
    /// Recorded attention, as `hindsight trace record` writes it [default: one of smollm2-135m, recorded when first needed]
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Tokens of context, one or several
    #[arg(
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "4096,8192,16384,32768,65536,131072,262144,524288"
    )]
    context: Vec<usize>,

    /// KV heads
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    kv_heads: u32,

    /// Query heads for each KV head
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    group: u32,

    /// Elements of a key
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..=1024))]
    head_dim: u32,

    /// Decode steps that count; four more warm up
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,

    /// How often all steps are taken
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,

    /// The core to run on [default: the indexer's, as `hindsight topology` shows it]
    #[arg(long)]
    core: Option<u32>,

    /// Element type of keys and values
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    kv_dtype: Dtype,

    /// Tokens of a KV block: 8, 16, 32 or 64
    #[arg(long, default_value_t = 16)]
    block_tokens: u32,

    /// The index's parameters.
    #[command(flatten)]
    index: IndexArguments,

    /// Write keys, queries, selections and times as NumPy files, for other programs to be measured over the same
    #[arg(long, value_name = "DIRECTORY")]
    export: Option<PathBuf>,

    /// Draw the time of a step against the context, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'r> {
    memory_bandwidth_gb_per_s: f64,
    memory_bandwidth_median_gb_per_s: f64,
    kernels: &'static str,
    core: u32,
    trace: &'r str,
    kv_dtype: KvDtype,
    steps: u16,
    repeats: u16,
    parameters: &'r IndexParameters,
    rows: &'r [IndexBenchRow],
}

/// Runs the command.
///
/// # Errors
/// The trace cannot be read or does not fit the shape, there is no memory, or the core cannot be had.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub(super) fn run(arguments: &IndexBenchArguments) -> Result<(), Error> {
    let parameters = arguments.index.parameters()?;
    if arguments.export.is_some() && arguments.context.len() != 1 {
        return Err(Error::new(Exit::Usage, "export", "--export wants a single --context"));
    }
    let shapes: Vec<BenchShape> =
        arguments.context.iter().map(|&context| arguments.shape(context)).collect();
    for shape in &shapes {
        check(shape)?;
    }
    let plot = arguments.plot.clone().map(|path| Output::new(path, true)).transpose()?;
    // Before the core is taken: recording wants them all.
    let trace = arguments.trace.clone().map_or_else(default_trace, Ok)?;
    let request = Request { indexer_core: arguments.core, ..Request::default() };
    let core = Topology::read(&Root::machine()).choose(&request)?.indexer_core.value;
    pin(core).map_err(|error| Error::new(Exit::Placement, "no_such_core", error))?;
    let trace = Trace::read(&trace, 16, KvDtype::F16)
        .map_err(|error| Error::new(Exit::Model, "trace", error))?;
    let mut bench = Bench {
        trace: &trace,
        parameters: &parameters,
        plan: BenchPlan { warm_up: WARM_UP, repeats: arguments.repeats.into() },
        steps: WARM_UP + usize::from(arguments.steps),
        reader: MemoryReader::new(),
        export: arguments.export.as_deref().map(Export::new).transpose().map_err(export_failed)?,
        progress: RunProgress::new(false),
    };
    let mut rows: Vec<IndexBenchRow> =
        shapes.into_iter().map(|shape| bench.row(shape)).collect::<Result<_, _>>()?;
    bench.progress.finish();
    let reader = bench.reader;
    rows.iter_mut().for_each(|row| row.relate_to(reader.best() / 1e9));
    let report = Report {
        memory_bandwidth_gb_per_s: reader.best() / 1e9,
        memory_bandwidth_median_gb_per_s: reader.median() / 1e9,
        kernels: Kernels::detect().isa().name(),
        core,
        trace: trace.name(),
        kv_dtype: arguments.kv_dtype.into(),
        steps: arguments.steps,
        repeats: arguments.repeats,
        parameters: &parameters,
        rows: &rows,
    };
    if let Some(plot) = plot {
        let svg = svg(&rows).map_err(Error::internal)?;
        plot.write(|file| file.write_all(svg.as_bytes()))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report).map_err(Error::internal)?);
    } else {
        print!("{}{}", index_table(&rows), likeness(trace.name(), &rows));
        println!(
            "core {core}, {} kernels, memory bandwidth {:.1} GB/s (median {:.1})",
            report.kernels,
            report.memory_bandwidth_gb_per_s,
            report.memory_bandwidth_median_gb_per_s
        );
    }
    Ok(())
}

/// What measurements at all contexts share.
struct Bench<'b> {
    trace: &'b Trace,
    parameters: &'b IndexParameters,
    plan: BenchPlan,
    steps: usize,
    reader: MemoryReader,
    export: Option<Export>,
    progress: RunProgress,
}

impl Bench<'_> {
    fn row(&mut self, shape: BenchShape) -> Result<IndexBenchRow, Error> {
        let Self { trace, parameters, plan, steps, reader, export, progress } = self;
        let context = shape.context;
        progress.begin(format!("{context} tokens: making keys"));
        let workload = Workload::new(trace, shape, *steps)
            .map_err(|error| Error::new(Exit::Model, "trace", error))?;
        let row = measure(&workload, parameters, *plan, reader, &mut |event| {
            match event {
                BenchEvent::Seeding => {
                    progress.begin(format!("{context} tokens: learning from the prompt"));
                }
                BenchEvent::Repeat(repeat) => {
                    let repeats = plan.repeats;
                    progress.begin(format!(
                        "{context} tokens: taking steps, {} of {repeats}",
                        repeat + 1
                    ));
                }
                BenchEvent::Step { .. } => {}
            }
            if let Some(export) = export {
                export.hear(event);
            }
        })
        .map_err(|error| Error::new(Exit::Usage, "index_parameters", error))?;
        if let Some(export) = export {
            progress.begin("writing keys and queries");
            export
                .write(&workload, plan.warm_up, &row, parameters, reader.best() / 1e9)
                .map_err(export_failed)?;
        }
        Ok(row)
    }
}

fn export_failed(error: std::io::Error) -> Error {
    Error::new(Exit::Usage, "export", format!("cannot write to --export: {error}"))
}

impl IndexBenchArguments {
    fn shape(&self, context: usize) -> BenchShape {
        BenchShape {
            context,
            kv_heads: self.kv_heads,
            group: self.group,
            head_dim: self.head_dim,
            block_tokens: self.block_tokens,
            dtype: self.kv_dtype.into(),
        }
    }
}

/// Refuses shapes that no model has, and those that do not fit into memory.
fn check(shape: &BenchShape) -> Result<(), Error> {
    shape.geometry().validate().map_err(|error| Error::new(Exit::Usage, "shape", error))?;
    let needed = shape.memory_bytes().saturating_add(MemoryReader::BYTES as u64);
    let available = memory::available(&Root::machine());
    if needed <= available {
        return Ok(());
    }
    let message = format!(
        "a context of {} tokens needs {}, but {} are available",
        shape.context,
        HumanBytes(needed),
        HumanBytes(available)
    );
    Err(Error::new(Exit::DoesNotFit, "memory", message)
        .with_hint("choose a shorter --context, or fewer --kv-heads"))
}
