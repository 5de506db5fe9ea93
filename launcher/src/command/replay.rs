//! `hindsight replay`: run the index over recorded attention.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hindsight_cpu_indexer::parameters::{IndexParameters, ParameterError};
use hindsight_cpu_indexer::replay::{
    BlockCaches, Eviction, ReplayError, ReplayPolicy, ReplayReport, Trace, replay,
};

use super::index_arguments::IndexArguments;
use super::output::Output;
use super::run::arguments::Dtype;
use crate::error::{Error, Exit};
use crate::report::plot::replay::svg;
use crate::report::replay::{cache_table, table};

/// Run the index over recorded attention, and say how good and how dear its selections are
///
/// A trace is a safetensors file with queries, keys and values of real decode steps. The loop is closed: history sees only
/// what the policy itself selected. Several policies, traces and top-k give one table.
#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// Traces
    #[arg(required = true)]
    traces: Vec<PathBuf>,

    /// Policies to compare
    #[arg(long, value_enum, value_delimiter = ',', default_value = "lfps")]
    policy: Vec<Policy>,

    /// The index's parameters.
    #[command(flatten)]
    index: IndexArguments,

    /// Element type of keys and values
    #[arg(long, value_enum, default_value_t = Dtype::F16)]
    kv_dtype: Dtype,

    /// Tokens of a KV block: 8, 16, 32 or 64
    #[arg(long, default_value_t = 16)]
    block_tokens: u32,

    /// Replay with each of these top-k in turn
    #[arg(long, value_name = "K", value_delimiter = ',', conflicts_with = "top_k")]
    curve: Vec<usize>,

    /// Also say what would travel to a device whose cache holds as many blocks for each KV head
    #[arg(long, value_name = "N", value_delimiter = ',')]
    cache_blocks: Vec<usize>,

    /// Which block of the cache makes room
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "clock",
        requires = "cache_blocks"
    )]
    eviction: Vec<EvictionArgument>,

    /// Draw quality against cost, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print JSON: one object per trace, policy and top-k
    #[arg(long)]
    pub(super) json: bool,
}

/// How keys are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// The top-k of a scan over every key
    Exact,
    /// The top-k among those that past steps and a sketch predict
    Lfps,
    /// The blocks whose element-wise bounds promise the largest scores
    PageMinmax,
    /// The last tokens
    SlidingWindow,
}

impl From<Policy> for ReplayPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Exact => Self::Exact,
            Policy::Lfps => Self::Lfps,
            Policy::PageMinmax => Self::PageMinMax,
            Policy::SlidingWindow => Self::SlidingWindow,
        }
    }
}

/// Which block of a cache makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EvictionArgument {
    /// The next one without uses left when a hand goes round and takes one from each: what the indexer does
    Clock,
    /// The one not attended to for longest
    Lru,
    /// The one attended to at the fewest steps, where old steps count less
    Lfu,
    /// The one whose chosen keys had the smallest share of attention, where old steps count less
    Score,
    /// The one not attended to for longest from now on: knows the future, and nothing fetches less
    Optimal,
}

impl From<EvictionArgument> for Eviction {
    fn from(eviction: EvictionArgument) -> Self {
        match eviction {
            EvictionArgument::Clock => Self::Clock,
            EvictionArgument::Lru => Self::Lru,
            EvictionArgument::Lfu => Self::Lfu,
            EvictionArgument::Score => Self::Score,
            EvictionArgument::Optimal => Self::Optimal,
        }
    }
}

impl ReplayArguments {
    /// The block caches to simulate.
    fn caches(&self) -> BlockCaches {
        let evictions = self.eviction.iter().map(|&eviction| eviction.into());
        BlockCaches { blocks: self.cache_blocks.clone(), evictions: evictions.collect() }
    }

    /// The index's parameters, for each top-k.
    fn parameters(&self) -> Result<Vec<IndexParameters>, Error> {
        let parameters = self.index.parameters()?;
        if self.curve.is_empty() {
            return Ok(vec![parameters]);
        }
        let with = |&top_k: &usize| {
            let parameters = IndexParameters { top_k, ..parameters.clone() };
            parameters.validate().map_err(wrong_parameter)?;
            Ok(parameters)
        };
        self.curve.iter().map(with).collect()
    }
}

fn wrong_parameter(error: ParameterError) -> Error {
    Error::new(Exit::Usage, "index_parameters", error)
}

fn not_replayed(error: ReplayError) -> Error {
    match error {
        ReplayError::Parameter(error) => wrong_parameter(error),
        error => Error::new(Exit::Usage, "cache_blocks", error),
    }
}

/// Runs the command.
///
/// # Errors
/// A file is no trace, a parameter is out of range, a cache too small, or the plot cannot be written.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub fn run(arguments: &ReplayArguments) -> Result<(), Error> {
    let parameters = arguments.parameters()?;
    let caches = arguments.caches();
    let plot = arguments.plot.clone().map(|path| Output::new(path, true)).transpose()?;
    let mut reports: Vec<ReplayReport> = Vec::new();
    for path in &arguments.traces {
        let trace = Trace::read(path, arguments.block_tokens, arguments.kv_dtype.into())
            .map_err(|error| Error::new(Exit::Model, "trace", error))?;
        for &policy in &arguments.policy {
            for parameters in &parameters {
                let report = replay(&trace, policy.into(), parameters, &caches);
                reports.push(report.map_err(not_replayed)?);
            }
        }
    }
    if let Some(plot) = plot {
        let svg = svg(&reports).map_err(Error::internal)?;
        plot.write(|file| file.write_all(svg.as_bytes()))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&reports).map_err(Error::internal)?);
    } else {
        print!("{}", table(&reports));
        let caches = cache_table(&reports);
        if !caches.is_empty() {
            print!("\n{caches}");
        }
    }
    Ok(())
}
